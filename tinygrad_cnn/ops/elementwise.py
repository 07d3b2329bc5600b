"""Elementwise ops: arithmetic with broadcasting, powers and roots, choices between two values.

The engine sums a cotangent back over the axes that broadcasting stretched.  Kinks follow
docs/conventions.md: ties share evenly, ``clip`` passes on its closed interval.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinygrad_cnn.core import Tensor, TensorLike, apply, as_array, as_setting, as_tensor
from tinygrad_cnn.core.op import Op, OpTest, Sample, dyadic, register, register_function
from tinygrad_cnn.errors import DTypeError, SettingError
from tinygrad_cnn.kernels import elementwise as kernels
from tinygrad_cnn.ops.declare import broadcasting, elementwise
from tinygrad_cnn.shapes import Shape, broadcast
from tinygrad_cnn.types import Array, DType, Value

__all__ = ["abs", "add", "clip", "div", "exp", "expm1", "log", "maximum", "minimum", "mul", "neg",
           "power", "sqrt", "sub", "where"]


def keep(condition: np.ndarray, ct: Value) -> Value:
    """``ct`` where the condition holds and 0 elsewhere, even where it is infinite or NaN.

    A rule that selects does so with this, and not by a product: 0 · ∞ is NaN.
    """
    return kernels.keep(ct, condition) if isinstance(ct, np.ndarray) else where(condition, ct, 0.0)


# ---- arithmetic

@elementwise(kernels.add, lambda ct, out, a, b: ct, lambda ct, out, a, b: ct, ufunc=np.add,
             saved=(), couples=None, exact_in=("a", "b"))
def add(a: TensorLike, b: TensorLike) -> Tensor:
    """Add: a + b, of which each gradient is summed back to the shape of its operand.

    The operands of this and of every function of two inputs broadcast as in NumPy; an array or a
    number takes the dtype of the tensor.  Shapes that do not broadcast are a `ShapeError`, float32
    with float64 is a `DTypeError`.

    >>> add(Tensor([6.0, 8.0]), Tensor([2.0])).data
    array([ 8., 10.], dtype=float32)
    """


@elementwise(kernels.sub, lambda ct, out, a, b: ct, lambda ct, out, a, b: -ct, ufunc=np.subtract,
             saved=(), couples=None, exact_in=("a", "b"))
def sub(a: TensorLike, b: TensorLike) -> Tensor:
    """Subtract: a − b.

    >>> sub(Tensor([6.0, 8.0]), Tensor([2.0])).data
    array([4., 6.], dtype=float32)
    """


@elementwise(kernels.mul, lambda ct, out, a, b: ct * b, lambda ct, out, a, b: ct * a,
             ufunc=np.multiply, saved=("a", "b"), exact_in=("a", "b"))
def mul(a: TensorLike, b: TensorLike) -> Tensor:
    """Multiply: a · b.

    >>> mul(Tensor([6.0, 8.0]), Tensor([2.0])).data
    array([12., 16.], dtype=float32)
    """


@elementwise(kernels.div, lambda ct, out, a, b: ct / b, lambda ct, out, a, b: ct * -(a / b / b),
             ufunc=np.true_divide, saved=("a", "b"), domain=(None, (0.5, 2.0)))
def div(a: TensorLike, b: TensorLike) -> Tensor:
    """Divide: a / b.

    >>> div(Tensor([6.0, 8.0]), Tensor([2.0])).data
    array([3., 4.], dtype=float32)
    """


@elementwise(np.negative, lambda ct, out, x: -ct, saved=(), couples=None, exact_in=("x",))
def neg(x: TensorLike) -> Tensor:
    """Negate: −x.

    >>> neg(Tensor([1.0, -2.0])).data
    array([-1.,  2.], dtype=float32)
    """


# ---- powers, exponentials, roots

def _power_vjp_a(ct: Value, out: Value, a: Value, b: Value) -> Value:
    # 0 · 0 ** −1: the power of 0 is the constant 1.
    constant = (as_array(a) == 0) & (as_array(b) == 0)
    base = where(constant, 1.0, a) if constant.any() else a
    return ct * b * power(base, b - 1.0)


def _power_vjp_b(ct: Value, out: Value, a: Value, b: Value) -> Value:
    nothing = as_array(a) == 0                    # 0 ** b is flat for b > 0, and infinite for b < 0
    return ct * where(nothing, 0.0, out) * log(where(nothing, 1.0, a))


@elementwise(kernels.power, _power_vjp_a, _power_vjp_b, ufunc=np.power,
             domain=((0.5, 2.0), (-2.0, 2.0)))
def power(a: TensorLike, b: TensorLike) -> Tensor:
    """Raise to a power: ∂(a ** b)/∂a = b · a^(b−1), ∂/∂b = a^b · log a.

    >>> power(Tensor([2.0, 3.0]), 2).data
    array([4., 9.], dtype=float32)
    """


@elementwise(np.exp, lambda ct, out, x: ct * out, saved=("out",), domain=(-2.0, 2.0))
def exp(x: TensorLike) -> Tensor:
    """The exponential, entry by entry; its own derivative.

    >>> exp(Tensor([0.0])).data
    array([1.], dtype=float32)
    """


@elementwise(np.expm1, lambda ct, out, x: ct * (out + 1.0), saved=("out",), domain=(-2.0, 2.0))
def expm1(x: TensorLike) -> Tensor:
    """exp(x) − 1, entry by entry, with all digits where x is small; its derivative is exp(x).

    >>> expm1(Tensor([1e-10])).data
    array([1.e-10], dtype=float32)
    """


@elementwise(np.log, lambda ct, out, x: ct / x, saved=("x",), domain=(0.25, 3.0))
def log(x: TensorLike) -> Tensor:
    """The natural logarithm, entry by entry; its derivative is 1/x.

    As in NumPy, 0 gives −inf and less gives NaN, with a warning.

    >>> log(Tensor([1.0])).data
    array([0.], dtype=float32)
    """


@elementwise(np.sqrt, lambda ct, out, x: ct * 0.5 / out, saved=("out",), domain=(0.25, 3.0))
def sqrt(x: TensorLike) -> Tensor:
    """The square root, entry by entry; its derivative is 1 / (2 √x).

    At 0 the derivative is infinite, and a cotangent of 0 stays 0.

    >>> sqrt(Tensor([9.0])).data
    array([3.], dtype=float32)
    """


def _abs(x: Array) -> Array:
    """The absolute value; of complex numbers, in a gradient test, its continuation."""
    return np.abs(x) if x.dtype.kind != "c" else np.where(x.real < 0, -x, x)


@elementwise(_abs, lambda ct, out, x: ct * np.sign(as_array(x)), saved=("x",), ufunc=np.abs,
             piecewise_linear=True, subgradient="middle")
def abs(x: TensorLike) -> Tensor:
    """The absolute value, entry by entry; its derivative is the sign, and 0 at 0.

    >>> abs(Tensor([-3.0, 2.0])).data
    array([3., 2.], dtype=float32)
    """


# ---- choices

def _larger(ct: Value, a: Value, b: Value) -> Value:
    """``ct`` where a > b, half of it at a tie, 0 elsewhere."""
    first, second = as_array(a), as_array(b)
    kept = keep(first >= second, ct)
    ties = np.asarray(first == second)
    return kept * np.where(ties, 0.5, 1.0).astype(ct.dtype) if ties.any() else kept


@elementwise(np.maximum, lambda ct, out, a, b: _larger(ct, a, b),
             lambda ct, out, a, b: _larger(ct, b, a), saved=("a", "b"), couples=None,
             piecewise_linear=True, subgradient="even")
def maximum(a: TensorLike, b: TensorLike) -> Tensor:
    """The larger of two values, entry by entry; a tie shares the gradient evenly.

    >>> maximum(Tensor([1.0, 5.0]), 3.0).data
    array([3., 5.], dtype=float32)
    """


@elementwise(np.minimum, lambda ct, out, a, b: _larger(ct, b, a),
             lambda ct, out, a, b: _larger(ct, a, b), saved=("a", "b"), couples=None,
             piecewise_linear=True, subgradient="even")
def minimum(a: TensorLike, b: TensorLike) -> Tensor:
    """The smaller of two values, entry by entry; a tie shares the gradient evenly.

    >>> minimum(Tensor([1.0, 5.0]), 3.0).data
    array([1., 3.], dtype=float32)
    """


def _clip_samples(rng: np.random.Generator) -> Iterator[Sample]:
    yield Sample("both bounds", (dyadic(rng, 3, 4),), {"min": -1.0, "max": 1.0})
    yield Sample("no lower bound", (dyadic(rng, 2, 3),), {"min": -math.inf, "max": 0.5})
    yield Sample("no upper bound", (dyadic(rng, 2, 3),), {"min": 0.25, "max": math.inf})


def _clip_vjp(ct: Value, out: Value, x: Value, *, min: float, max: float) -> Value:
    plain = as_array(x)
    return keep((plain >= min) & (plain <= max), ct)


CLIP = register(Op(
    name="clip", shape=lambda x, *, min, max: x, kernels={"array": kernels.clip},
    vjp={"x": _clip_vjp},
    test=OpTest(samples=_clip_samples, piecewise_linear=True, subgradient="larger"), saved=("x",)))


@register_function()
def clip(x: TensorLike, min: float | None = None, max: float | None = None) -> Tensor:
    """The nearest number in [min, max]; the gradient passes on the closed interval.

    Parameters
    ----------
    x : Tensor
    min, max : float, optional
        Bounds; None for none.

    Raises
    ------
    SettingError
        If ``min`` is above ``max``, or a bound is not a number.
    DTypeError
        If the entries are booleans; or integers, and a bound has a fraction or leaves none of them.

    Examples
    --------
    >>> clip(Tensor([-2.0, 0.5, 2.0]), -1, 1).data
    array([-1. ,  0.5,  1. ], dtype=float32)
    """
    x = as_tensor(x, "clip")
    if x.dtype.kind == "b":
        raise DTypeError("clip: x is bool, which has no range; cast it: x.astype(np.int64)")
    whole = x.dtype.kind in "iu"
    try:
        bottom = -math.inf if min is None else _bound("min", min, whole)
        top = math.inf if max is None else _bound("max", max, whole)
    except (TypeError, ValueError):
        raise SettingError(f"clip: min and max must be numbers, got {min!r} and {max!r}; for "
                           "arrays use maximum() and minimum()") from None
    if not bottom <= top:
        raise SettingError(f"clip: min is {bottom} and max {top}; min must not be above max")
    least, most = _range(x.dtype)
    if bottom > most or top < least:
        raise DTypeError(f"clip: no {x.dtype} is from {bottom} to {top}; cast x first: "
                         "x.astype(np.int64), or to a float dtype")
    return apply(CLIP, x, min=builtins.max(bottom, least), max=builtins.min(top, most))


def _range(dtype: DType) -> tuple[float, float]:
    """The least and the largest number of a dtype."""
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    return -math.inf, math.inf


def _bound(name: str, value: Any, whole: bool) -> float:
    """A bound as a number of Python; among integers an integer stays one, unrounded."""
    if isinstance(value, Tensor):
        value = as_setting(value, "clip", name)
    if whole and isinstance(value, (int, np.integer)):
        return int(value)
    try:
        return float(value)
    except OverflowError:                       # an integer beyond the floats
        return math.inf if value > 0 else -math.inf


def _where_shape(a: Shape, b: Shape, *, condition: np.ndarray) -> Shape:
    return broadcast("where", condition=condition.shape, a=a, b=b)


def _where_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for sample in broadcasting()(rng):
        shapes = [a.shape for a in sample.args if a is not None]
        out = np.broadcast_shapes(*shapes)
        yield Sample(sample.id, sample.args, {"condition": rng.integers(0, 2, out) > 0})


WHERE = register(Op(
    name="where", shape=_where_shape, kernels={"array": kernels.where},
    vjp={"a": lambda ct, out, a, b, *, condition: keep(condition, ct),
         "b": lambda ct, out, a, b, *, condition: keep(~condition, ct)},
    test=OpTest(samples=_where_samples, exact_in=("a", "b")), saved=(), broadcasts=True))


@register_function()
def where(condition: TensorLike, a: TensorLike, b: TensorLike) -> Tensor:
    """``a`` where the condition holds, ``b`` elsewhere.

    Parameters
    ----------
    condition : array_like of bool
        Not differentiable.
    a, b : Tensor, array_like or number
        They broadcast, together with the condition.

    Raises
    ------
    SettingError
        If the condition is not boolean.
    ShapeError, DTypeError
        As `add`.

    Examples
    --------
    >>> x = Tensor([-1.0, 2.0])
    >>> where(x > 0, x, 0.0).data
    array([0., 2.], dtype=float32)
    """
    mask = as_setting(condition, "where", "condition")
    if mask.dtype != builtins.bool:
        raise SettingError(f"where: condition must be boolean, got {mask.dtype}; compare first, "
                           "as in where(x > 0, a, b)")
    return apply(WHERE, a, b, condition=mask)
