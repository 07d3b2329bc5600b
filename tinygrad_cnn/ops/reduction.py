"""Reductions.  sum_to and broadcast_to are each other's transpose; the others build on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import update_wrapper
from typing import TypeVar, cast

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
    make_op,
    register,
    register_function,
)
from tinygrad_cnn.errors import DTypeError, ShapeError
from tinygrad_cnn.kernels import norm
from tinygrad_cnn.kernels import reduce as kernels
from tinygrad_cnn.ops.declare import each
from tinygrad_cnn.ops.elementwise import where
from tinygrad_cnn.ops.shape import RESHAPE, reshape, transpose
from tinygrad_cnn.shapes import Axis, Shape, reduced
from tinygrad_cnn.types import Array, Function, Value

__all__ = ["broadcast_to", "logsumexp", "max", "mean", "min", "sum", "sum_to"]

Axes = tuple[int, ...]
F = TypeVar("F", bound=Function)


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


SUM_TO: Op = register(Op(
    name="sum_to", shape=_sum_to_shape, kernels={"array": kernels.sum_to},
    vjp={"x": lambda ct, out, x, *, shape: apply(BROADCAST_TO, ct, shape=x.shape)},
    test=OpTest(
        samples=lambda rng: [Sample("to a row", (dyadic(rng, 2, 2, 3),), {"shape": (1, 3)}),
                             Sample("to one", (dyadic(rng, 2, 3),), {"shape": ()}),
                             Sample("to channels", (dyadic(rng, 2, 3, 4),), {"shape": (4,)})],
        exact_in=("x",),
        error_inputs=(
            ErrorInput("no broadcast", ((2, 3),), {"shape": (2,)},
                       "not what broadcasting makes"),)),
    saved=(), family="reduction", flops=lambda x, *, out_shape, shape: math.prod(x)))

BROADCAST_TO: Op = register(Op(
    name="broadcast_to", shape=_broadcast_to_shape,
    kernels={"array": lambda x, *, shape: np.broadcast_to(x, shape)},
    vjp={"x": lambda ct, out, x, *, shape: apply(SUM_TO, ct, shape=x.shape)},
    test=OpTest(
        samples=lambda rng: [Sample("from a row", (dyadic(rng, 1, 3),), {"shape": (2, 2, 3)}),
                             Sample("from one", (dyadic(rng),), {"shape": (2, 2)})],
        exact_in=("x",),
        error_inputs=(
            ErrorInput("cannot stretch", ((2, 3),), {"shape": (4, 3)}, "cannot be stretched"),)),
    saved=(), family="shape", flops=lambda x, *, out_shape, shape: 0))


def _sizes(op: str, shape: object) -> Shape:
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
    x = as_tensor(x, "sum_to")
    _refuse_short_integers(x, "sum_to")
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

_CASES = (("all", (2, 3), (0, 1), False), ("first", (4, 2, 3), (0,), False),
          ("middle, kept", (2, 4, 3), (1,), True), ("two of three", (2, 4, 2), (0, 1), False),
          ("last", (3, 8), (1,), False))


def _normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.normal(size=shape)


def _distinct(rng: np.random.Generator, *shape: int) -> Array:
    return rng.permutation(math.prod(shape)).reshape(shape) / 2 - 4.0


def reduction(kernel: Function, vjp: Function, draw: Callable[..., Array], *,
              of_nothing: bool = False, flops: int = 1,
              check: Callable[[Tensor], None] | None = None,
              **fields: object) -> Callable[[F], F]:
    """Declare a reduction over axes, and make its public function ``(x, axis, keepdims)``.

    As for `elementwise`, the body of the decorated function is its docstring.

    Parameters
    ----------
    kernel : callable
        ``(x, *, axis, keepdims)``, with a tuple of axes counted from the front.
    vjp : callable
        The rule of x.
    draw : callable
        ``(rng, *shape)`` -> entries of a sample.
    of_nothing : bool, default False
        Whether an empty axis may be reduced.
    flops : int, default 1
        Operations for each entry of x.
    check : callable, optional
        Refuses a tensor of integers that cannot hold the result.
    **fields
        Other fields of `Op` and `OpTest`.
    """
    def declare(declared: F) -> F:
        name, (default, _) = declared.__name__, declared.__defaults__ or (None, False)

        def shape(x: Shape, *, axis: Axes, keepdims: bool) -> Shape:
            if not of_nothing and 0 in [x[i] for i in axis]:
                raise ShapeError(f"{name}: axis {axis} of {x} is empty, and the {name} of nothing "
                                 "is not defined")
            return reduced(x, axis, keepdims)

        op = register(make_op(**{
            "name": name, "shape": shape, "kernels": {"array": kernel}, "vjp": {"x": vjp},
            "samples": each(lambda rng: _CASES, lambda rng, x, axis, keepdims: (
                (draw(rng, *x),), {"axis": axis, "keepdims": keepdims})),
            "error_inputs": () if of_nothing else (
                ErrorInput("nothing", ((0, 3),), {"axis": (0,), "keepdims": False}, "is empty"),),
            "family": "reduction",
            "flops": lambda x, *, out_shape, axis, keepdims: flops * math.prod(x), **fields}))

        def function(x: object, axis: object = default, keepdims: bool = False) -> Tensor:
            x = as_tensor(x, name)
            if check is not None:
                check(x)
            return apply(op, x, axis=checks.axes_tuple(name, axis, x.shape),
                         keepdims=checks.flag(name, "keepdims", keepdims))

        return cast(F, register_function()(update_wrapper(function, declared)))
    return declare


def _kept(x: Value, axis: Axes) -> Shape:
    return reduced(x.shape, axis, True)


def _broadcast_back(ct: Value, x: Value, axis: Axes) -> Value:
    """``ct`` with the reduced axes put back and stretched to the shape of ``x``."""
    return apply(BROADCAST_TO, apply(RESHAPE, ct, shape=_kept(x, axis)), shape=x.shape)


def _over_axis(x: Shape, *, axis: Axes, keepdims: bool) -> Axes:
    return axis


def _refuse_short_integers(x: Tensor, owner: str = "sum") -> None:
    if x.dtype.kind == "b" or (x.dtype.kind in "iu" and x.dtype.itemsize < 8):
        raise DTypeError(f"{owner}: x is {x.dtype}, which cannot hold large sums; cast it: "
                         "x.astype(np.float32), or add plain values: x.numpy().sum()")


@reduction(kernels.sum, lambda ct, out, x, *, axis, keepdims: _broadcast_back(ct, x, axis), dyadic,
           of_nothing=True, check=_refuse_short_integers, saved=(), exact_in=("x",))
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


def _mean_vjp(ct: Value, out: Value, x: Value, *, axis: Axes, keepdims: bool) -> Value:
    return _broadcast_back(ct / kernels.count(x.shape, axis), x, axis)


@reduction(kernels.mean, _mean_vjp, dyadic, saved=())
def mean(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Σ x / n over the axes; arguments as in `sum`, and an empty axis is a `ShapeError`.

    >>> mean(Tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0).data
    array([2., 3.], dtype=float32)
    """


def centered(x: Value, axis: Axes) -> Value:
    """x − mean(x): the mean of a large number is rounded, so what that leaves is taken off too."""
    d = x - mean(x, axis=axis, keepdims=True)
    return d - mean(d, axis=axis, keepdims=True)


def _var_vjp(ct: Value, out: Value, x: Value, *, axis: Axes, keepdims: bool) -> Value:
    scale = 2.0 / kernels.count(x.shape, axis)
    return apply(RESHAPE, ct * scale, shape=_kept(x, axis)) * centered(x, axis)


@reduction(norm.var, _var_vjp, _normal, flops=4, saved=("x",), couples=_over_axis)
def var(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The biased variance Σ (x − mean)² / n over the axes; arguments as in `mean`.

    >>> var(Tensor([1.0, 3.0])).item()
    1.0
    """


def _extreme_vjp(ct: Value, out: Value, x: Value, *, axis: Axes, keepdims: bool,
                 shares: Array) -> Value:
    return where(shares > 0, apply(RESHAPE, ct, shape=_kept(x, axis)), 0.0) * shares


@reduction(kernels.max, _extreme_vjp, _distinct, saved=(), residuals=("shares",),
           constant_residuals=True, piecewise_linear=True, subgradient="even")
def max(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest entry over the axes; a tie shares the gradient evenly; arguments as in `mean`.

    >>> max(Tensor([[1.0, 4.0], [3.0, 2.0]]), axis=1).data
    array([4., 3.], dtype=float32)
    """


@reduction(kernels.min, _extreme_vjp, _distinct, saved=(), residuals=("shares",),
           constant_residuals=True, piecewise_linear=True, subgradient="even")
def min(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The smallest entry over the axes; a tie shares the gradient evenly; arguments as in `mean`.

    >>> min(Tensor([[1.0, 4.0], [3.0, 2.0]]), axis=1).data
    array([1., 2.], dtype=float32)
    """


def _logsumexp_vjp(ct: Value, out: Value, x: Value, *, axis: Axes, keepdims: bool) -> Value:
    # Softmax, and 0 for a whole row of −inf, where that is 0 / 0.
    others = tuple(i for i in range(x.ndim) if i not in axis)
    order = (*others, *axis)
    ahead = tuple(x.shape[i] for i in others)
    rows = reshape(transpose(x, order), (*ahead, kernels.count(x.shape, axis)))
    shares = FUNCTIONS["softmax"](rows)
    nothing = np.isneginf(as_array(x).max(axis=axis)).reshape(*ahead, 1)
    if nothing.any():
        shares = where(nothing, 0.0, shares)
    parts = shares * reshape(ct, (*ahead, 1))
    back = tuple(order.index(i) for i in range(x.ndim))
    return transpose(reshape(parts, (*ahead, *(x.shape[i] for i in axis))), back)


@reduction(kernels.logsumexp, _logsumexp_vjp, _normal, flops=3, saved=("x",), couples=_over_axis)
def logsumexp(x: TensorLike, axis: Axis = -1, keepdims: bool = False) -> Tensor:
    """log Σ exp(x) over the axes, without overflow; its gradient is softmax(x).

    Arguments as in `mean`.

    >>> logsumexp(Tensor([1000.0, 1000.0])).item()  # doctest: +ELLIPSIS
    1000.69...
    """
