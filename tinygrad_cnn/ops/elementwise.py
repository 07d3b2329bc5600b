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

from tinygrad_cnn.core import Tensor, apply, as_array, as_setting, as_tensor, binary, unary
from tinygrad_cnn.core.op import Op, Sample, dyadic, public, register
from tinygrad_cnn.errors import DTypeError, SettingError
from tinygrad_cnn.kernels import elementwise as kernels
from tinygrad_cnn.ops.samples import broadcasting, matrices, smooth_matrices
from tinygrad_cnn.shapes import Shape, broadcast

__all__ = ["abs", "add", "clip", "div", "exp", "expm1", "log", "maximum", "minimum", "mul", "neg",
           "power", "sqrt", "sub", "where"]


def _same(x: Shape) -> Shape:
    return x


def keep(condition: np.ndarray, ct: Any) -> Any:
    """``ct`` where the condition holds and 0 elsewhere, even where it is infinite or NaN.

    A rule that selects does so with this, and not by a product: 0 · ∞ is NaN.
    """
    return kernels.keep(ct, condition) if isinstance(ct, np.ndarray) else where(condition, ct, 0.0)


# ---- arithmetic

ADD = register(Op(
    name="add", shape=lambda a, b: broadcast("add", a=a, b=b), kernels={"array": kernels.add},
    vjp={"a": lambda ct, out, a, b: ct, "b": lambda ct, out, a, b: ct},
    samples=broadcasting(), affine_in=("a", "b"), broadcasts=True, reads=()))

SUB = register(Op(
    name="sub", shape=lambda a, b: broadcast("sub", a=a, b=b), kernels={"array": kernels.sub},
    vjp={"a": lambda ct, out, a, b: ct, "b": lambda ct, out, a, b: -ct},
    samples=broadcasting(), affine_in=("a", "b"), broadcasts=True, reads=()))

MUL = register(Op(
    name="mul", shape=lambda a, b: broadcast("mul", a=a, b=b), kernels={"array": kernels.mul},
    vjp={"a": lambda ct, out, a, b: ct * b, "b": lambda ct, out, a, b: ct * a},
    samples=broadcasting(), affine_in=("a", "b"), broadcasts=True, reads=("a", "b"), couples=()))

DIV = register(Op(
    name="div", shape=lambda a, b: broadcast("div", a=a, b=b), kernels={"array": kernels.div},
    vjp={"a": lambda ct, out, a, b: ct / b, "b": lambda ct, out, a, b: ct * -(a / b / b)},
    samples=broadcasting(b=(0.5, 2.0)), broadcasts=True, reads=("a", "b"), couples=()))

NEG = register(Op(
    name="neg", shape=_same, kernels={"array": np.negative},
    vjp={"x": lambda ct, out, x: -ct},
    samples=matrices, affine_in=("x",), reads=()))

_add, _sub, _mul = binary(ADD, np.add), binary(SUB, np.subtract), binary(MUL, np.multiply)
_div, _neg = binary(DIV, np.true_divide), unary(NEG, np.negative)

# Operators find these by name, without a call in between.
add = public(np.add)(_add)
sub = public(np.subtract)(_sub)
mul = public(np.multiply)(_mul)
div = public(np.true_divide)(_div)
neg = public(np.negative)(_neg)

_ARITHMETIC = """{line}

    The operands broadcast as in NumPy, and each gradient is summed back to its operand's shape.
    ``a {sign} b`` on tensors is this function.

    Parameters
    ----------
    a, b : Tensor, array_like or number
        What is no tensor takes the dtype of the tensor.

    Returns
    -------
    Tensor
        Of the broadcast shape.

    Raises
    ------
    ShapeError
        If the shapes do not broadcast.
    DTypeError
        If one is float32 and the other float64.

    Examples
    --------
    >>> {name}(Tensor([6.0, 8.0]), Tensor([2.0])).data
    {result}
    """
for _function, _line, _sign, _result in (
        (add, "Add: a + b.", "+", "array([ 8., 10.], dtype=float32)"),
        (sub, "Subtract: a − b.", "-", "array([4., 6.], dtype=float32)"),
        (mul, "Multiply: a · b.", "*", "array([12., 16.], dtype=float32)"),
        (div, "Divide: a / b.", "/", "array([3., 4.], dtype=float32)")):
    _function.__doc__ = _ARITHMETIC.format(line=_line, sign=_sign, result=_result,
                                           name=_function.__name__)
neg.__doc__ = """Negate: −x.

    Examples
    --------
    >>> neg(Tensor([1.0, -2.0])).data
    array([-1.,  2.], dtype=float32)
    """


# ---- powers, exponentials, roots

def _power_vjp_a(ct: Any, out: Any, a: Any, b: Any) -> Any:
    # 0 · 0 ** −1: the power of 0 is the constant 1.
    constant = (as_array(a) == 0) & (as_array(b) == 0)
    base = where(constant, 1.0, a) if constant.any() else a
    return ct * b * power(base, b - 1.0)


def _power_vjp_b(ct: Any, out: Any, a: Any, b: Any) -> Any:
    nothing = as_array(a) == 0                    # 0 ** b is flat for b > 0, and infinite for b < 0
    return ct * where(nothing, 0.0, out) * log(where(nothing, 1.0, a))


POWER = register(Op(
    name="power", shape=lambda a, b: broadcast("power", a=a, b=b),
    kernels={"array": kernels.power}, vjp={"a": _power_vjp_a, "b": _power_vjp_b},
    samples=broadcasting(a=(0.5, 2.0), b=(-2.0, 2.0)), broadcasts=True, couples=()))


@public(np.power)
def power(a: Any, b: Any) -> Tensor:
    """Raise ``a`` to the power ``b``, entry by entry.

    ∂/∂a = b · a^(b−1), ∂/∂b = a^b · log a.  ``a ** b`` on tensors is this function.

    Parameters
    ----------
    a, b : Tensor, array_like or number
        Base and exponent; they broadcast.

    Raises
    ------
    ShapeError, DTypeError
        As `add`.

    Examples
    --------
    >>> power(Tensor([2.0, 3.0]), 2).data
    array([4., 9.], dtype=float32)
    """
    return apply(POWER, a, b)


EXP = register(Op(
    name="exp", shape=_same, kernels={"array": np.exp}, vjp={"x": lambda ct, out, x: ct * out},
    samples=smooth_matrices(), reads=("out",), couples=()))

EXPM1 = register(Op(
    name="expm1", shape=_same, kernels={"array": np.expm1},
    vjp={"x": lambda ct, out, x: ct * (out + 1.0)},
    samples=smooth_matrices(), reads=("out",), couples=()))

LOG = register(Op(
    name="log", shape=_same, kernels={"array": np.log}, vjp={"x": lambda ct, out, x: ct / x},
    samples=smooth_matrices(0.25, 3.0), reads=("x",), couples=()))

SQRT = register(Op(
    name="sqrt", shape=_same, kernels={"array": np.sqrt},
    vjp={"x": lambda ct, out, x: ct * 0.5 / out},
    samples=smooth_matrices(0.25, 3.0), reads=("out",), couples=()))


def _abs(x: Array) -> Array:
    """The absolute value; of complex numbers, in a gradient test, its continuation."""
    return np.abs(x) if x.dtype.kind != "c" else np.where(x.real < 0, -x, x)


ABS = register(Op(
    name="abs", shape=_same, kernels={"array": _abs},
    vjp={"x": lambda ct, out, x: ct * np.sign(as_array(x))},
    samples=matrices, piecewise_linear=True, ties="middle", reads=("x",), couples=()))

exp = public(np.exp)(unary(EXP, np.exp))
exp.__doc__ = """The exponential, entry by entry; its own derivative.

    Parameters
    ----------
    x : Tensor

    Examples
    --------
    >>> exp(Tensor([0.0])).data
    array([1.], dtype=float32)
    """

expm1 = public(np.expm1)(unary(EXPM1, np.expm1))
expm1.__doc__ = """exp(x) − 1, entry by entry, with all digits where x is small.

    Parameters
    ----------
    x : Tensor

    Examples
    --------
    >>> expm1(Tensor([1e-10])).data
    array([1.e-10], dtype=float32)
    """

log = public(np.log)(unary(LOG, np.log))
log.__doc__ = """The natural logarithm, entry by entry; its derivative is 1/x.

    Parameters
    ----------
    x : Tensor
        Above 0; as in NumPy, 0 gives −inf and less gives NaN, with a warning.

    Examples
    --------
    >>> log(Tensor([1.0])).data
    array([0.], dtype=float32)
    """

sqrt = public(np.sqrt)(unary(SQRT, np.sqrt))
sqrt.__doc__ = """The square root, entry by entry; its derivative is 1 / (2 √x).

    Parameters
    ----------
    x : Tensor
        At least 0; at 0 the derivative is infinite, and a cotangent of 0 stays 0.

    Examples
    --------
    >>> sqrt(Tensor([9.0])).data
    array([3.], dtype=float32)
    """

abs = public(np.abs)(unary(ABS, np.abs))
abs.__doc__ = """The absolute value, entry by entry; its derivative is the sign, and 0 at 0.

    Parameters
    ----------
    x : Tensor

    Examples
    --------
    >>> abs(Tensor([-3.0, 2.0])).data
    array([3., 2.], dtype=float32)
    """


# ---- choices

def _larger(ct: Any, a: Any, b: Any) -> Any:
    """``ct`` where a > b, half of it at a tie, 0 elsewhere."""
    first, second = as_array(a), as_array(b)
    kept = keep(first >= second, ct)
    ties = np.asarray(first == second)
    return kept * np.where(ties, 0.5, 1.0).astype(ct.dtype) if ties.any() else kept


MAXIMUM = register(Op(
    name="maximum", shape=lambda a, b: broadcast("maximum", a=a, b=b),
    kernels={"array": np.maximum},
    vjp={"a": lambda ct, out, a, b: _larger(ct, a, b),
         "b": lambda ct, out, a, b: _larger(ct, b, a)},
    samples=broadcasting(), piecewise_linear=True, ties="even", broadcasts=True, reads=("a", "b")))

MINIMUM = register(Op(
    name="minimum", shape=lambda a, b: broadcast("minimum", a=a, b=b),
    kernels={"array": np.minimum},
    vjp={"a": lambda ct, out, a, b: _larger(ct, b, a),
         "b": lambda ct, out, a, b: _larger(ct, a, b)},
    samples=broadcasting(), piecewise_linear=True, ties="even", broadcasts=True, reads=("a", "b")))

maximum = public(np.maximum)(binary(MAXIMUM, np.maximum))
maximum.__doc__ = """The larger of two values, entry by entry; a tie shares the gradient evenly.

    Parameters
    ----------
    a, b : Tensor, array_like or number
        They broadcast.

    Raises
    ------
    ShapeError, DTypeError
        As `add`.

    Examples
    --------
    >>> maximum(Tensor([1.0, 5.0]), 3.0).data
    array([3., 5.], dtype=float32)
    """

minimum = public(np.minimum)(binary(MINIMUM, np.minimum))
minimum.__doc__ = """The smaller of two values, entry by entry; a tie shares the gradient evenly.

    Parameters
    ----------
    a, b : Tensor, array_like or number
        They broadcast.

    Raises
    ------
    ShapeError, DTypeError
        As `add`.

    Examples
    --------
    >>> minimum(Tensor([1.0, 5.0]), 3.0).data
    array([1., 3.], dtype=float32)
    """


def _clip_samples(rng: np.random.Generator) -> Iterator[Sample]:
    yield Sample("both bounds", (dyadic(rng, 3, 4),), {"low": -1.0, "high": 1.0})
    yield Sample("no lower bound", (dyadic(rng, 2, 3),), {"low": -math.inf, "high": 0.5})
    yield Sample("no upper bound", (dyadic(rng, 2, 3),), {"low": 0.25, "high": math.inf})


def _clip_vjp(ct: Any, out: Any, x: Any, *, low: float, high: float) -> Any:
    plain = as_array(x)
    return keep((plain >= low) & (plain <= high), ct)


CLIP = register(Op(
    name="clip", shape=lambda x, *, low, high: x, kernels={"array": kernels.clip},
    vjp={"x": _clip_vjp}, samples=_clip_samples, piecewise_linear=True, ties="larger",
    reads=("x",)))


@public()
def clip(x: Any, low: float | None = None, high: float | None = None) -> Tensor:
    """The nearest number in [low, high]; the gradient passes on the closed interval.

    Parameters
    ----------
    x : Tensor
    low, high : float, optional
        Bounds; None for none.

    Raises
    ------
    SettingError
        If ``low`` is above ``high``, or a bound is not a number.
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
        bottom = -math.inf if low is None else _bound("low", low, whole)
        top = math.inf if high is None else _bound("high", high, whole)
    except (TypeError, ValueError):
        raise SettingError(f"clip: low and high must be numbers, got {low!r} and {high!r}; for "
                           "arrays use maximum() and minimum()") from None
    if not bottom <= top:
        raise SettingError(f"clip: low is {bottom} and high {top}; low must not be above high")
    least, most = _range(x.dtype)
    if bottom > most or top < least:
        raise DTypeError(f"clip: no {x.dtype} is from {bottom} to {top}; cast x first: "
                         "x.astype(np.int64), or to a float dtype")
    return apply(CLIP, x, low=builtins.max(bottom, least), high=builtins.min(top, most))


def _range(dtype: np.dtype[Any]) -> tuple[float, float]:
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
    samples=_where_samples, affine_in=("a", "b"), broadcasts=True, reads=()))


@public()
def where(condition: Any, a: Any, b: Any) -> Tensor:
    """``a`` where the condition holds, ``b`` elsewhere.

    Parameters
    ----------
    condition : array_like of bool
        Carries no gradient.
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
