"""The arrays of a single-op case, the same in every process."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.bench.cases import Case
from tinygrad_cnn.op import OPS

__all__ = ["operands"]

Array = NDArray[Any]


def operands(case: Case) -> tuple[list[Any], Array]:
    """Inputs in float32 from a fixed seed, and a cotangent of the result.

    The second input of ``cross_entropy`` holds classes.

    Examples
    --------
    >>> from tinygrad_cnn.bench.cases import layer_case
    >>> inputs, ct = operands(layer_case("relu", (2, 3)))
    >>> inputs[0].shape, ct.shape
    ((2, 3), (2, 3))
    """
    rng = np.random.default_rng(0)
    inputs: list[Any] = [None if shape is None else rng.standard_normal(shape).astype(np.float32)
                         for shape in case.shapes]
    if case.name == "cross_entropy":
        rows, classes = inputs[0].shape
        inputs[1] = rng.integers(0, classes, rows)
    return inputs, rng.standard_normal(_result_shape(case)).astype(np.float32)


def _result_shape(case: Case) -> tuple[int, ...]:
    first = case.shapes[0]
    assert first is not None
    if case.name in OPS and case.kind == "kernel":
        return OPS[case.name].shape(*case.shapes, **case.settings)
    if case.name in ("max_pool2d", "avg_pool2d"):
        size = case.settings["kernel_size"]
        return first[0], first[1] // size, first[2] // size, first[3]
    if case.name == "linear":
        assert case.shapes[1] is not None
        return first[0], case.shapes[1][1]
    if case.name == "global_avg_pool2d":
        return first[0], first[3]
    return () if case.name in ("cross_entropy", "sum") else first
