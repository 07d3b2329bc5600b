"""Spreads, norms, products and running sums, made of reductions."""

from __future__ import annotations

import math
from typing import cast

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.core import Tensor, TensorLike, apply, as_array
from tinygrad_cnn.core.op import Op, OpTest, Sample, dyadic, register
from tinygrad_cnn.errors import DTypeError, SettingError
from tinygrad_cnn.kernels import reduce as kernels
from tinygrad_cnn.ops.declare import composed
from tinygrad_cnn.ops.elementwise import abs, sqrt, where
from tinygrad_cnn.ops.reduction import max, min, sum
from tinygrad_cnn.ops.reduction import var as biased_var
from tinygrad_cnn.ops.shape import concatenate, reshape
from tinygrad_cnn.shapes import Axis, reduced
from tinygrad_cnn.types import Array, Value

__all__ = ["cumprod", "cumsum", "norm", "prod", "std", "var"]


@composed
def var(x: TensorLike, axis: Axis = None, keepdims: bool = False, *,
        correction: float = 0) -> Tensor:
    """The variance Σ (x − mean)² / (n − correction) over the axes.

    As in NumPy the default is the biased one; PyTorch's default is ``correction=1``.

    Parameters
    ----------
    x, axis, keepdims
        As in `sum`.
    correction : float, default 0
        Less than the number n of entries.

    Raises
    ------
    ShapeError
        If an axis does not exist or is empty.
    SettingError
        If the correction is not less than n.

    Examples
    --------
    >>> var(Tensor([1.0, 3.0])).item(), var(Tensor([1.0, 3.0]), correction=1).item()
    (1.0, 2.0)
    """
    y = biased_var(x, axis, keepdims)
    lost = checks.number("var", "correction", correction)
    if not lost:
        return y
    shape = as_array(x).shape
    count = kernels.count(shape, checks.axes_tuple("var", axis, shape))
    if count <= lost:
        raise SettingError(f"var: correction is {lost}, which must be below the number of "
                           f"entries, {count}")
    return y * (count / (count - lost))


@composed
def std(x: TensorLike, axis: Axis = None, keepdims: bool = False, *,
        correction: float = 0) -> Tensor:
    """The standard deviation √var over the axes; of equal entries the gradient is 0.

    As in NumPy the default is the biased one; PyTorch's default is ``correction=1``.

    >>> std(Tensor([1.0, 3.0])).item()
    1.0
    """
    x = cast(Tensor, x)
    checks.floats("std", "x", x.dtype)
    axes = checks.axes_tuple("std", axis, x.shape)
    keepdims = checks.flag("std", "keepdims", keepdims)
    unit, outside = _unit(np.abs(as_array(x)), axes, keepdims)
    return _root(var(x / unit, axis, keepdims, correction=correction)) * outside


def _unit(sizes: Array, axes: tuple[int, ...], keepdims: bool, least: bool = False,
          ) -> tuple[Array, Array]:
    """The power of 2 below the largest entry, so that no square overflows; it is a constant."""
    unit = np.asarray(sizes.min(axis=axes, keepdims=True, initial=math.inf) if least else
                      sizes.max(axis=axes, keepdims=True, initial=0))
    unit = np.ldexp(np.ones_like(unit), np.frexp(np.where(np.isfinite(unit), unit, 1))[1] - 1)
    return unit, unit if keepdims else unit.reshape(reduced(sizes.shape, axes, False))


def _root(y: Tensor) -> Tensor:
    """√y, with the gradient 0 where y is 0."""
    flat = as_array(y) == 0
    return where(flat, 0.0, sqrt(where(flat, 1.0, y)))


@composed
def norm(x: TensorLike, ord: float = 2, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """(Σ |x|^ord)^(1/ord) over the axes, without overflow; the gradient at 0 is 0.

    Parameters
    ----------
    x, axis, keepdims
        As in `sum`; two axes give the Frobenius norm of matrices.
    ord : float, default 2
        ``inf`` is the largest entry, ``-inf`` the least, 0 the number of entries that are not 0.

    Raises
    ------
    SettingError
        If ord is no number.

    Examples
    --------
    >>> norm(Tensor([3.0, 4.0])).item(), norm(Tensor([3.0, -4.0]), 1).item()
    (5.0, 7.0)
    """
    x = cast(Tensor, x)
    checks.floats("norm", "x", x.dtype)
    ord = checks.number("norm", "ord", ord, finite=False)
    if math.isinf(ord):
        return (max if ord > 0 else min)(abs(x), axis, keepdims)
    if ord in (0, 1) or not x.ndim:
        return sum(abs(x) if ord else where(as_array(x) == 0, x * 0, x * 0 + 1), axis, keepdims)
    # In units of the entry that counts most, so that nothing overflows; the unit is a constant.
    axes = checks.axes_tuple("norm", axis, x.shape)
    keepdims = checks.flag("norm", "keepdims", keepdims)
    unit, outside = _unit(np.abs(as_array(x)), axes, keepdims, least=ord < 0)
    x = x / unit
    if ord == 2:
        return _root(sum(x * x, axis, keepdims)) * outside
    total = sum(abs(x) ** ord, axis, keepdims)
    flat = as_array(total) == 0
    return where(flat, 0.0, where(flat, 1.0, total) ** (1 / ord)) * outside


# ---- products and running sums

def _cumsum_array(x: Array, *, axis: int, reverse: bool) -> Array:
    if not reverse:
        return np.cumsum(x, axis, dtype=x.dtype)
    return np.flip(np.cumsum(np.flip(x, axis), axis, dtype=x.dtype), axis)


def _cumsum_vjp(ct: Value, out: Value, x: Value, *, axis: int, reverse: bool) -> Value:
    return apply(CUMSUM, ct, axis=axis, reverse=not reverse)


CUMSUM = register(Op(
    name="cumsum", shape=lambda x, *, axis, reverse: x, kernels={"array": _cumsum_array},
    vjp={"x": _cumsum_vjp},
    test=OpTest(
        samples=lambda rng: iter([
            Sample("rows", (dyadic(rng, 2, 4),), {"axis": 1, "reverse": False}),
            Sample("reverse", (dyadic(rng, 3, 2),), {"axis": 0, "reverse": True})]),
        exact_in=("x",)),
    saved=(), family="reduction"))


def _wide(x: Tensor, owner: str) -> Tensor:
    if x.dtype.kind == "b" or (x.dtype.kind in "iu" and x.dtype.itemsize < 8):
        raise DTypeError(f"{owner}: x is {x.dtype}, which cannot hold large results; cast it: "
                         f"x.astype(np.float32), or use plain values: np.{owner}(x.numpy())")
    return x


def _line(owner: str, x: Tensor, axis: int | None) -> tuple[Tensor, int]:
    """The tensor and an axis; without one, the tensor as one line."""
    x = _wide(x, owner)
    if axis is None:
        return reshape(x, -1), 0
    return x, checks.axis_index(owner, axis, x.shape)


@composed
def cumsum(x: TensorLike, axis: int | None = None) -> Tensor:
    """The sums of the first 1, 2, 3 ... entries along an axis; without one, of all as one line.

    >>> cumsum(Tensor([1.0, 2.0, 3.0])).data
    array([1., 3., 6.], dtype=float32)
    """
    x, axis = _line("cumsum", cast(Tensor, x), axis)
    return apply(CUMSUM, x, axis=axis, reverse=False)


def _part(x: Tensor, axis: int, first: int | None, last: int | None, step: int | None = None,
          ) -> Tensor:
    return x[(*(slice(None),) * axis, slice(first, last, step))]


@composed
def prod(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The product of the entries over the axes.

    It is formed by halves, as products of two, so that the gradient is right at zeros too: the
    product of the *other* entries, with no division.

    >>> prod(Tensor([2.0, 3.0, 4.0])).item()
    24.0
    """
    x = cast(Tensor, x)
    x = _wide(x, "prod")
    shape = x.shape
    axes = checks.axes_tuple("prod", axis, shape)
    for i in axes:
        if not shape[i]:
            ones = np.ones((*x.shape[:i], 1, *x.shape[i + 1:]), x.dtype)
            x = x.sum(axis=i, keepdims=True) + ones                 # the product of nothing is 1
        while (size := x.shape[i]) > 1:
            y = _part(x, i, 0, size - size % 2, 2) * _part(x, i, 1, None, 2)
            x = concatenate([y, _part(x, i, size - 1, None)], i) if size % 2 else y
    return reshape(x, reduced(shape, axes, checks.flag("prod", "keepdims", keepdims)))


@composed
def cumprod(x: TensorLike, axis: int | None = None) -> Tensor:
    """The products of the first 1, 2, 3 ... entries along an axis; right at zeros too, as `prod`.

    >>> cumprod(Tensor([1.0, 2.0, 3.0])).data
    array([1., 2., 6.], dtype=float32)
    """
    x, axis = _line("cumprod", cast(Tensor, x), axis)
    distance = 1
    while distance < x.shape[axis]:
        ahead = _part(x, axis, distance, None) * _part(x, axis, 0, -distance)
        x = concatenate([_part(x, axis, 0, distance), ahead], axis)
        distance *= 2
    return x
