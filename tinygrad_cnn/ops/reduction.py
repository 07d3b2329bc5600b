"""Reductions.  sum_to and broadcast_to are each other's transpose; the others build on them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.core import Tensor, TensorLike, apply, as_array, as_tensor
from tinygrad_cnn.core.op import (
    FUNCTIONS,
    ErrorInput,
    Op,
    OpTest,
    Sample,
    dyadic,
    register,
    register_function,
)
from tinygrad_cnn.errors import DTypeError, ShapeError
from tinygrad_cnn.kernels import norm
from tinygrad_cnn.kernels import reduce as kernels
from tinygrad_cnn.ops.elementwise import where
from tinygrad_cnn.ops.shape import reshape, transpose
from tinygrad_cnn.shapes import Axis, Shape, reduced

__all__ = ["broadcast_to", "logsumexp", "max", "mean", "min", "sum", "sum_to", "var"]

Axes = tuple[int, ...]


# ---- sum_to and broadcast_to

def _sum_to_shape(x: Shape, *, shape: Shape) -> Shape:
    if not _stretches(shape, x):
        raise ShapeError(f"sum_to: {x} is not what broadcasting makes of {shape}")
    return shape


def _broadcast_to_shape(x: Shape, *, shape: Shape) -> Shape:
    if not _stretches(x, shape):
        raise ShapeError(f"broadcast_to: {x} cannot be stretched to {shape}; "
                         "only axes of 1 are stretched")
    return shape


def _stretches(small: Shape, large: Shape) -> bool:
    lead = len(large) - len(small)
    return lead >= 0 and all(n in (1, m) for n, m in zip(small, large[lead:], strict=True))


def _sum_to_vjp(ct: Tensor, out: Tensor, x: Tensor, *, shape: Shape) -> Tensor:
    return broadcast_to(ct, shape=x.shape)


def _broadcast_to_vjp(ct: Tensor, out: Tensor, x: Tensor, *, shape: Shape) -> Tensor:
    return sum_to(ct, shape=x.shape)


SUM_TO = register(Op(
    name="sum_to", shape=_sum_to_shape, kernels={"array": kernels.sum_to}, vjp={"x": _sum_to_vjp},
    test=OpTest(
        samples=lambda rng: iter([Sample("to a row", (dyadic(rng, 2, 2, 3),), {"shape": (1, 3)}),
                              Sample("to one", (dyadic(rng, 2, 3),), {"shape": ()}),
                              Sample("to channels", (dyadic(rng, 2, 3, 4),), {"shape": (4,)})]),
        exact_in=("x",),
        error_inputs=(
            ErrorInput("no broadcast", ((2, 3),), {"shape": (2,)},
                       "not what broadcasting makes"),)),
    saved=(), family="reduction", flops=lambda x, *, out_shape, shape: math.prod(x)))

BROADCAST_TO = register(Op(
    name="broadcast_to", shape=_broadcast_to_shape,
    kernels={"array": lambda x, *, shape: np.broadcast_to(x, shape)}, vjp={"x": _broadcast_to_vjp},
    test=OpTest(
        samples=lambda rng: iter([Sample("from a row", (dyadic(rng, 1, 3),), {"shape": (2, 2, 3)}),
                              Sample("from one", (dyadic(rng),), {"shape": (2, 2)})]),
        exact_in=("x",),
        error_inputs=(
            ErrorInput("cannot stretch", ((2, 3),), {"shape": (4, 3)}, "cannot be stretched"),)),
    saved=(), family="shape", flops=lambda x, *, out_shape, shape: 0))

def _sizes(op: str, shape: Any) -> Shape:
    several = shape if isinstance(shape, (tuple, list)) else (shape,)
    return tuple(checks.integer(op, "shape", n, minimum=0) for n in several)


@register_function()
def sum_to(x: TensorLike, shape: int | Sequence[int]) -> Tensor:
    """Add up what broadcasting has copied: the adjoint of `broadcast_to`.

    Parameters
    ----------
    x : Tensor
    shape : int or sequence of int
        A shape that broadcasts to the one of ``x``.

    Raises
    ------
    ShapeError
        If it does not.

    Examples
    --------
    >>> sum_to(Tensor(np.ones((2, 3))), (1, 3)).data
    array([[2., 2., 2.]])
    """
    return apply(SUM_TO, x, shape=_sizes("sum_to", shape))


@register_function()
def broadcast_to(x: TensorLike, shape: int | Sequence[int]) -> Tensor:
    """Stretch axes of one entry, and put axes in front: the adjoint of `sum_to`.

    Parameters
    ----------
    x : Tensor
    shape : int or sequence of int

    Raises
    ------
    ShapeError
        If an axis that is not 1 would have to be stretched.

    Examples
    --------
    >>> broadcast_to(Tensor([1.0, 2.0]), (2, 2)).data
    array([[1., 2.],
           [1., 2.]], dtype=float32)
    """
    return apply(BROADCAST_TO, x, shape=_sizes("broadcast_to", shape))


# ---- reductions over axes

def _reduced_shape(op: str) -> Any:
    def shape(x: Shape, *, axis: Axes, keepdims: bool) -> Shape:
        return reduced(x, axis, keepdims)

    def full(x: Shape, *, axis: Axes, keepdims: bool) -> Shape:
        if any(x[i] == 0 for i in axis):
            raise ShapeError(f"{op}: axis {axis} of {x} is empty, and the {op} of nothing is not "
                             "defined")
        return shape(x, axis=axis, keepdims=keepdims)
    return shape if op == "sum" else full


def _kept(x: Tensor, axis: Axes) -> Shape:
    return reduced(x.shape, axis, True)


def _spread_back(ct: Tensor, x: Tensor, axis: Axes) -> Tensor:
    """``ct`` with the reduced axes put back and stretched to the shape of ``x``."""
    return broadcast_to(reshape(ct, _kept(x, axis)), shape=x.shape)


def _axis_samples(rng: np.random.Generator, draw: Any) -> Iterator[Sample]:
    for name, shape, axis, keepdims in (
            ("all", (2, 3), (0, 1), False), ("first", (4, 2, 3), (0,), False),
            ("middle, kept", (2, 4, 3), (1,), True), ("two of three", (2, 4, 2), (0, 1), False),
            ("last", (3, 8), (1,), False)):
        yield Sample(name, (draw(rng, shape),), {"axis": axis, "keepdims": keepdims})


def _dyadic_samples(rng: np.random.Generator) -> Iterator[Sample]:
    yield from _axis_samples(rng, lambda r, shape: dyadic(r, *shape))


def _smooth_samples(rng: np.random.Generator) -> Iterator[Sample]:
    yield from _axis_samples(rng, lambda r, shape: r.normal(size=shape))


def _distinct_samples(rng: np.random.Generator) -> Iterator[Sample]:
    yield from _axis_samples(
        rng, lambda r, shape: r.permutation(math.prod(shape)).reshape(shape) / 2 - 4.0)


def _flops(x: Shape, *, out_shape: Shape, axis: Axes, keepdims: bool) -> int:
    return math.prod(x)


SUM = register(Op(
    name="sum", shape=_reduced_shape("sum"), kernels={"array": kernels.sum},
    vjp={"x": lambda ct, out, x, *, axis, keepdims: _spread_back(ct, x, axis)},
    test=OpTest(samples=_dyadic_samples, exact_in=("x",)), saved=(), family="reduction",
    flops=_flops))


def _mean_vjp(ct: Tensor, out: Tensor, x: Tensor, *, axis: Axes, keepdims: bool) -> Tensor:
    return _spread_back(ct / kernels.count(x.shape, axis), x, axis)


MEAN = register(Op(
    name="mean", shape=_reduced_shape("mean"), kernels={"array": kernels.mean},
    vjp={"x": _mean_vjp},
    test=OpTest(
        samples=_dyadic_samples,
        error_inputs=(
            ErrorInput("nothing", ((0, 3),), {"axis": (0,), "keepdims": False}, "is empty"),)),
    saved=(), family="reduction", flops=_flops))


def centered(x: Tensor, axis: Axes) -> Tensor:
    """x − mean(x): the mean of a large number is rounded, so what that leaves is taken off too."""
    d = x - mean(x, axis=axis, keepdims=True)
    return d - mean(d, axis=axis, keepdims=True)


def _var_vjp(ct: Tensor, out: Tensor, x: Tensor, *, axis: Axes, keepdims: bool) -> Tensor:
    scale = 2.0 / kernels.count(x.shape, axis)
    return reshape(ct * scale, _kept(x, axis)) * centered(x, axis)


VAR = register(Op(
    name="var", shape=_reduced_shape("var"), kernels={"array": norm.var}, vjp={"x": _var_vjp},
    test=OpTest(samples=_smooth_samples), saved=("x",), couples=lambda x, *, axis, keepdims: axis,
    family="reduction", flops=lambda x, *, out_shape, axis, keepdims: 4 * math.prod(x)))


def _extreme_vjp(ct: Tensor, out: Tensor, x: Tensor, *, axis: Axes, keepdims: bool,
                 shares: np.ndarray) -> Tensor:
    return where(shares > 0, reshape(ct, _kept(x, axis)), 0.0) * shares


MAX = register(Op(
    name="max", shape=_reduced_shape("max"), kernels={"array": kernels.max},
    vjp={"x": _extreme_vjp},
    test=OpTest(samples=_distinct_samples, piecewise_linear=True, subgradient="even"), saved=(),
    residuals=("shares",), family="reduction", flops=_flops))

MIN = register(Op(
    name="min", shape=_reduced_shape("min"), kernels={"array": kernels.min},
    vjp={"x": _extreme_vjp},
    test=OpTest(samples=_distinct_samples, piecewise_linear=True, subgradient="even"), saved=(),
    residuals=("shares",), family="reduction", flops=_flops))


def _logsumexp_vjp(ct: Tensor, out: Tensor, x: Tensor, *, axis: Axes, keepdims: bool) -> Tensor:
    # Softmax, and 0 for a whole row of −inf, where that is 0 / 0.
    others = tuple(i for i in range(x.ndim) if i not in axis)
    order = (*others, *axis)
    ahead = tuple(x.shape[i] for i in others)
    rows = reshape(transpose(x, order), (*ahead, kernels.count(x.shape, axis)))
    shares = FUNCTIONS["softmax"](rows)
    nothing = np.isneginf(as_array(x).max(axis=axis)).reshape(*ahead, 1)
    if nothing.any():
        shares = where(nothing, 0.0, shares)
    spread = shares * reshape(ct, (*ahead, 1))
    back = tuple(order.index(i) for i in range(x.ndim))
    return transpose(reshape(spread, (*ahead, *(x.shape[i] for i in axis))), back)


LOGSUMEXP = register(Op(
    name="logsumexp", shape=_reduced_shape("logsumexp"), kernels={"array": kernels.logsumexp},
    vjp={"x": _logsumexp_vjp}, test=OpTest(samples=_smooth_samples), saved=("x",),
    couples=lambda x, *, axis, keepdims: axis, family="reduction",
    flops=lambda x, *, out_shape, axis, keepdims: 3 * math.prod(x)))


def _reduce(op: Op, x: Any, axis: Any, keepdims: bool) -> Tensor:
    x = as_tensor(x, op.name)
    return apply(op, x, axis=checks.axes_tuple(op.name, axis, x.shape),
                 keepdims=checks.flag(op.name, "keepdims", keepdims))


@register_function()
def sum(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Σ x over the axes.

    Parameters
    ----------
    x : Tensor
    axis : int or tuple of int, optional
        All axes if not given.
    keepdims : bool, default False
        Keep the reduced axes, with one entry.

    Raises
    ------
    ShapeError
        If an axis does not exist.
    SettingError
        If an axis is named twice.
    DTypeError
        If the entries are booleans or short integers, whose sums overflow.

    Examples
    --------
    >>> sum(Tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0).data
    array([4., 6.], dtype=float32)
    """
    x = as_tensor(x, "sum")
    if x.dtype.kind == "b" or (x.dtype.kind in "iu" and x.dtype.itemsize < 8):
        raise DTypeError(f"sum: x is {x.dtype}, which cannot hold large sums; cast it: "
                         "x.astype(np.float32), or add plain values: x.numpy().sum()")
    return _reduce(SUM, x, axis, keepdims)


@register_function()
def mean(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Σ x / n over the axes.

    Parameters
    ----------
    x, axis, keepdims
        As in `sum`.

    Raises
    ------
    ShapeError
        If an axis does not exist or is empty.

    Examples
    --------
    >>> mean(Tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0).data
    array([2., 3.], dtype=float32)
    """
    return _reduce(MEAN, x, axis, keepdims)


@register_function()
def var(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The biased variance Σ (x − mean)² / n over the axes.

    Parameters
    ----------
    x, axis, keepdims
        As in `sum`.

    Raises
    ------
    ShapeError
        If an axis does not exist or is empty.

    Examples
    --------
    >>> var(Tensor([1.0, 3.0])).item()
    1.0
    """
    return _reduce(VAR, x, axis, keepdims)


@register_function()
def max(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest entry over the axes; a tie shares the gradient evenly.

    Parameters
    ----------
    x, axis, keepdims
        As in `sum`.

    Raises
    ------
    ShapeError
        If an axis does not exist or is empty.

    Examples
    --------
    >>> max(Tensor([[1.0, 4.0], [3.0, 2.0]]), axis=1).data
    array([4., 3.], dtype=float32)
    """
    return _reduce(MAX, x, axis, keepdims)


@register_function()
def min(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The smallest entry over the axes; a tie shares the gradient evenly.

    Parameters
    ----------
    x, axis, keepdims
        As in `sum`.

    Raises
    ------
    ShapeError
        If an axis does not exist or is empty.

    Examples
    --------
    >>> min(Tensor([[1.0, 4.0], [3.0, 2.0]]), axis=1).data
    array([1., 2.], dtype=float32)
    """
    return _reduce(MIN, x, axis, keepdims)


@register_function()
def logsumexp(x: TensorLike, axis: Axis = -1, keepdims: bool = False) -> Tensor:
    """log Σ exp(x) over the axes, without overflow; its gradient is softmax(x).

    Parameters
    ----------
    x : Tensor
    axis : int or tuple of int, default -1
    keepdims : bool, default False

    Raises
    ------
    ShapeError
        If an axis does not exist or is empty.

    Examples
    --------
    >>> logsumexp(Tensor([1000.0, 1000.0])).item()  # doctest: +ELLIPSIS
    1000.69...
    """
    return _reduce(LOGSUMEXP, x, axis, keepdims)
