"""What a rule gave, made a cotangent: a zero stays zero, shape and dtype are those of the input."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from tinygrad_cnn.core.graph import Array, Node
from tinygrad_cnn.core.op import FUNCTIONS, Op
from tinygrad_cnn.errors import GradientError

__all__ = ["added", "fitted", "masked"]

_LARGE = 1 << 17        # entries, from which a sum is worth a kernel's threads


def fitted(part: Any, value: Array, op: Op, i: int, plain: bool) -> Any:
    """A cotangent summed to the shape of its input, or refused."""
    if plain and hasattr(part, "node"):
        part = part._data
    expected = "an array" if plain else "a Tensor"
    if not (isinstance(part, (ndarray, np.generic)) if plain else hasattr(part, "node")):
        raise GradientError(f"{op.name}: vjp for {op.input_name(i)!r} returned "
                            f"{type(part).__name__}, expected {expected}")
    if part.shape != value.shape:
        if not op.broadcasts:
            raise GradientError(f"{op.name}: vjp for {op.input_name(i)!r} has shape {part.shape}, "
                                f"the input has shape {value.shape}")
        part = FUNCTIONS["sum_to"](part, shape=value.shape)
    if part.dtype != value.dtype:
        raise GradientError(f"{op.name}: vjp for {op.input_name(i)!r} has dtype {part.dtype}, the "
                            f"input has {value.dtype}; keep the dtype of ct")
    return np.asarray(part) if plain else part


def added(a: Any, b: Any) -> Any:
    """The sum of two cotangents of one input."""
    if type(a) is ndarray and a.size < _LARGE:
        return np.asarray(a + b)
    return FUNCTIONS["add"](a, b)                       # recorded, or on all threads


def masked(part: Any, node: Node, ct: Any) -> Any:
    """What a rule gave, and 0 where every cotangent that an entry depends on is 0.

    A rule multiplies with derivatives, and 0 · ∞ or 0 · NaN is NaN.  Where there is no NaN, nothing
    needs to be done: so it is looked for first, at a fraction of the cost of the rule.
    """
    array: Any = getattr(part, "_data", part)
    given = getattr(ct, "_data", ct)
    if not hasattr(array, "dtype"):
        return part                                         # which will be refused
    op = node.op
    if not op.spoils and not _has_nan(array):
        return part
    whole = node.values[0].shape
    axes = op.coupled(*[None if v is None else v.shape for v in node.values], **node.settings)
    first = tuple([slice(1) if k in axes else slice(None) for k in range(array.ndim)])
    if op.spoils and not _has_nan(array if array.shape != whole else array[first]):
        return part
    zero = given == 0
    if axes and zero.ndim:
        kept = tuple([1 if k in axes else n for k, n in enumerate(whole)])
        zero = zero.all(axis=axes, keepdims=True) if zero.shape == whole else zero.reshape(kept)
    # An input that is stretched over the others depends on every cotangent that it reaches.
    lead = max(0, zero.ndim - array.ndim)
    over = (*range(lead), *(k for k in range(lead, zero.ndim)
                            if array.shape[k - zero.ndim] == 1 < zero.shape[k]))
    zero = zero.all(axis=over, keepdims=True)
    untouched = np.broadcast_to(zero.reshape(zero.shape[lead:]), array.shape)
    return FUNCTIONS["where"](untouched, 0.0, part)


def _has_nan(array: Any) -> bool:
    """Whether an entry is NaN: the sum of all squares is then, and BLAS is quick to find it."""
    total = array.item() if array.size == 1 else np.vdot(array, array)
    return bool(total != total)
