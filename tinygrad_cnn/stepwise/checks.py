"""Questions that every step asks of its input, answered with the errors of the registered ops.

The shape rules are those of ``tinygrad_cnn.shapes``, so a mistake reads the same by hand and with
Tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn import shapes
from tinygrad_cnn.errors import DTypeError, SettingError, ShapeError
from tinygrad_cnn.shapes import Pair, Shape, Sides

__all__ = [
    "NO_PADDING", "Array", "check_filters", "check_same", "floats", "one_hot", "pool_settings",
    "setting",
]

Array = NDArray[Any]

NO_PADDING: Sides = ((0, 0), (0, 0))


def floats(array: Any, *, op: str, name: str, axes: str | None = None) -> Array:
    """``array`` with its float dtype, integers as float64; its axes counted against ``axes``."""
    values = np.asarray(array)
    if values.dtype.kind in "biu":
        values = values.astype(np.float64)
    if not np.issubdtype(values.dtype, np.inexact):
        raise DTypeError(f"{op}: {name} must hold numbers, got dtype {values.dtype}")
    if axes is not None:
        shapes.bind_axes(op, axes, {name: values.shape}, {})
    return values


def setting(op: str, hparameters: Mapping[str, Any], key: str) -> Any:
    """The value under ``key``, or an error that says which key is missing."""
    if key not in hparameters:
        raise SettingError(f"{op}: hparameters has no {key!r}, only "
                           f"{', '.join(map(repr, hparameters)) or 'nothing'}")
    return hparameters[key]


def check_filters(x: Shape, w: Shape, b: Shape) -> None:
    """Images N H W C, square filters f f C_in C_out, biases 1 1 1 C_out that fit together."""
    if len(b) != 4 or b[:3] != (1, 1, 1):
        raise ShapeError(f"conv2d: b must have shape (1, 1, 1, C_out), got {b}; "
                         "b.reshape(1, 1, 1, -1) makes it from a row")
    shapes.bind_axes("conv2d", "N H W C, KH KW C/groups O, O -> N OH OW O",
                     {"x": x, "w": w, "b": b[3:]}, {"groups": 1})
    if w[0] != w[1]:
        raise ShapeError(f"conv2d: the notebooks' filters are square, (f, f, C_in, C_out), got "
                         f"{w}; the registered op takes oblong ones")


def pool_settings(hparameters: Mapping[str, Any], mode: str) -> tuple[Pair, Pair]:
    """Window and stride as pairs, and a mode that exists."""
    if mode not in ("max", "average"):
        raise SettingError(f"pool: mode must be 'max' or 'average', got {mode!r}")
    op = "max_pool2d" if mode == "max" else "avg_pool2d"
    size = shapes.pair(setting(op, hparameters, "f"), op=op, setting="kernel_size", least=1)
    stride = shapes.pair(setting(op, hparameters, "stride"), op=op, setting="stride", least=1)
    return size, stride


def check_same(op: str, name: str, got: Shape, like: str, expected: Shape) -> None:
    """A gradient has the shape of its value."""
    if got != expected:
        raise ShapeError(f"{op}: {name} is {got} but {like} is {expected}")


def one_hot(y: Any, p: Array, *, op: str) -> Array:
    """Labels as rows of one 1 and zeros, from integers (N,) or from such rows (N, K)."""
    labels = np.asarray(y)
    rows, classes = p.shape
    if labels.shape == p.shape:
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()):
            raise SettingError(f"{op}: y of shape (N, K) must be one-hot, a single 1 in each row")
        return labels.astype(p.dtype)
    if labels.shape != (rows,):
        raise ShapeError(f"{op}: y must have shape (N,) = {(rows,)} or (N, K) = {p.shape}, "
                         f"got {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise DTypeError(f"{op}: labels of shape (N,) must be integers, got dtype {labels.dtype}")
    if rows and (labels.min() < 0 or labels.max() >= classes):
        raise SettingError(f"{op}: labels must lie in 0 … {classes - 1}, got {labels.min()} to "
                           f"{labels.max()}")
    rows_of_one = np.zeros(p.shape, dtype=p.dtype)
    for n in range(rows):
        rows_of_one[n, labels[n]] = 1
    return rows_of_one
