"""Mathematical functions, entry by entry: NumPy's names, rules in closed form.

Steps (``floor``, ``sign`` ...) have the derivative 0 everywhere but at their jumps, and get it
there too, as in PyTorch.
"""

from __future__ import annotations

import builtins
import functools
import math
from typing import cast

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.core import Tensor, TensorLike, as_array
from tinygrad_cnn.errors import DTypeError
from tinygrad_cnn.kernels import elementwise as kernels
from tinygrad_cnn.ops.activation import sigmoid
from tinygrad_cnn.ops.declare import composed, elementwise
from tinygrad_cnn.ops.elementwise import exp, keep, sqrt, where
from tinygrad_cnn.types import Value

__all__ = ["arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "cbrt", "ceil",
           "cos", "cosh", "erf", "exp2", "floor", "hypot", "log10", "log1p", "log2", "logaddexp",
           "reciprocal", "remainder", "rint", "round", "sign", "sin", "sinh", "square", "tan",
           "trunc"]

_LN2 = math.log(2)
of_x = functools.partial(elementwise, saved=("x",), domain=(-2.0, 2.0))
of_out = functools.partial(elementwise, saved=("out",), domain=(-1.2, 1.2))


# ---- trigonometric and hyperbolic functions

def _cos(x: Value) -> Value:
    return cos(x)


def _cosh(x: Value) -> Value:
    return cosh(x)


def _hypot(x: Value) -> Value:
    return hypot(x, 1.0)


@of_x(np.sin, lambda ct, out, x: ct * _cos(x))
def sin(x: TensorLike) -> Tensor:
    """The sine of an angle in radians; its derivative is the cosine.

    >>> sin(Tensor([0.0])).data
    array([0.], dtype=float32)
    """


@of_x(np.cos, lambda ct, out, x: ct * -sin(x))
def cos(x: TensorLike) -> Tensor:
    """The cosine of an angle in radians; its derivative is −sin x.

    >>> cos(Tensor([0.0])).data
    array([1.], dtype=float32)
    """


@of_out(np.tan, lambda ct, out, x: ct * (1.0 + out * out))
def tan(x: TensorLike) -> Tensor:
    """The tangent of an angle in radians; its derivative is 1 + tan² x.

    >>> tan(Tensor([0.0])).data
    array([0.], dtype=float32)
    """


@of_x(np.arcsin, lambda ct, out, x: ct / sqrt((1.0 - x) * (1.0 + x)), domain=(-0.9, 0.9))
def arcsin(x: TensorLike) -> Tensor:
    """The angle whose sine is x; derivative 1 / √(1 − x²).  Beyond ±1 it is NaN, with a warning.

    >>> arcsin(Tensor([0.0])).data
    array([0.], dtype=float32)
    """


@of_x(np.arccos, lambda ct, out, x: -ct / sqrt((1.0 - x) * (1.0 + x)), domain=(-0.9, 0.9))
def arccos(x: TensorLike) -> Tensor:
    """The angle whose cosine is x; derivative −1 / √(1 − x²).  Beyond ±1 it is NaN, with a warning.

    >>> arccos(Tensor([1.0])).data
    array([0.], dtype=float32)
    """


@of_x(np.arctan, lambda ct, out, x: ct / (1.0 + x * x))
def arctan(x: TensorLike) -> Tensor:
    """The angle whose tangent is x; its derivative is 1 / (1 + x²).

    >>> arctan(Tensor([0.0])).data
    array([0.], dtype=float32)
    """


@of_x(np.sinh, lambda ct, out, x: ct * _cosh(x))
def sinh(x: TensorLike) -> Tensor:
    """The hyperbolic sine; its derivative is cosh x.

    >>> sinh(Tensor([0.0])).data
    array([0.], dtype=float32)
    """


@of_x(np.cosh, lambda ct, out, x: ct * sinh(x))
def cosh(x: TensorLike) -> Tensor:
    """The hyperbolic cosine; its derivative is sinh x.

    >>> cosh(Tensor([0.0])).data
    array([1.], dtype=float32)
    """


@of_x(np.arcsinh, lambda ct, out, x: ct / _hypot(x))
def arcsinh(x: TensorLike) -> Tensor:
    """The inverse of sinh; its derivative is 1 / √(x² + 1).

    >>> arcsinh(Tensor([0.0])).data
    array([0.], dtype=float32)
    """


@of_x(np.arccosh, lambda ct, out, x: ct / (sqrt(x - 1.0) * sqrt(x + 1.0)), domain=(1.2, 3.0))
def arccosh(x: TensorLike) -> Tensor:
    """The inverse of cosh; its derivative is 1 / √(x² − 1).  Below 1 it is NaN, with a warning.

    >>> arccosh(Tensor([1.0])).data
    array([0.], dtype=float32)
    """


@of_x(np.arctanh, lambda ct, out, x: ct / ((1.0 - x) * (1.0 + x)), domain=(-0.9, 0.9))
def arctanh(x: TensorLike) -> Tensor:
    """The inverse of tanh; its derivative is 1 / (1 − x²).  Beyond ±1 it is NaN, with a warning.

    >>> arctanh(Tensor([0.0])).data
    array([0.], dtype=float32)
    """


# ---- exponentials and logarithms

@of_out(np.exp2, lambda ct, out, x: ct * out * _LN2, domain=(-2.0, 2.0))
def exp2(x: TensorLike) -> Tensor:
    """2 to the power of x; its derivative is log 2 · 2^x.

    >>> exp2(Tensor([3.0])).data
    array([8.], dtype=float32)
    """


@of_x(np.log1p, lambda ct, out, x: ct / (1.0 + x), domain=(-0.5, 2.0))
def log1p(x: TensorLike) -> Tensor:
    """log(1 + x), with all digits where x is small; its derivative is 1 / (1 + x).

    >>> log1p(Tensor([1e-10])).data
    array([1.e-10], dtype=float32)
    """


@of_x(np.log2, lambda ct, out, x: ct / (x * _LN2), domain=(0.25, 3.0))
def log2(x: TensorLike) -> Tensor:
    """The logarithm to base 2; its derivative is 1 / (x log 2).

    >>> log2(Tensor([8.0])).data
    array([3.], dtype=float32)
    """


@of_x(np.log10, lambda ct, out, x: ct / (x * math.log(10)), domain=(0.25, 3.0))
def log10(x: TensorLike) -> Tensor:
    """The logarithm to base 10; its derivative is 1 / (x log 10).

    >>> log10(Tensor([100.0])).data
    array([2.], dtype=float32)
    """


@elementwise(np.logaddexp, lambda ct, out, a, b: ct * sigmoid(a - b),
             lambda ct, out, a, b: ct * sigmoid(b - a), saved=("a", "b"),
             domain=((-2.0, 2.0), (-2.0, 2.0)))
def logaddexp(a: TensorLike, b: TensorLike) -> Tensor:
    """log(exp(a) + exp(b)), where nothing overflows; its slopes are the softmax of (a, b).

    >>> logaddexp(Tensor([1000.0]), Tensor([-1000.0])).data
    array([1000.], dtype=float32)
    """


@of_x(kernels.erf, lambda ct, out, x: ct * exp(-(x * x)) * (2 / math.sqrt(math.pi)))
def erf(x: TensorLike) -> Tensor:
    """The error function 2/√π ∫ exp(−t²) dt from 0 to x; its derivative is 2/√π exp(−x²).

    >>> erf(Tensor([0.0, 10.0])).data
    array([0., 1.], dtype=float32)
    """


# ---- powers

@of_x(np.square, lambda ct, out, x: ct * (x + x))
def square(x: TensorLike) -> Tensor:
    """x²; its derivative is 2 x.

    >>> square(Tensor([-3.0])).data
    array([9.], dtype=float32)
    """


@of_out(kernels.reciprocal, lambda ct, out, x: -ct * out * out, ufunc=np.reciprocal,
        domain=(0.5, 2.0))
def reciprocal(x: TensorLike) -> Tensor:
    """1 / x; its derivative is −1 / x².

    >>> reciprocal(Tensor([4.0])).data
    array([0.25], dtype=float32)
    """


@of_out(np.cbrt, lambda ct, out, x: ct / (3.0 * out * out), domain=(0.5, 2.0), singular=(0.0,))
def cbrt(x: TensorLike) -> Tensor:
    """The cube root; its derivative is 1 / (3 y²).

    >>> cbrt(Tensor([-8.0])).data
    array([-2.], dtype=float32)
    """


def _hypot_vjp(ct: Value, out: Value, leg: Value) -> Value:
    at_zero = as_array(out) == 0                # at (0, 0) any slope between −1 and 1 is right: 0
    return keep(~at_zero, ct) * (leg / where(at_zero, 1.0, out) if at_zero.any() else leg / out)


@elementwise(np.hypot, lambda ct, out, a, b: _hypot_vjp(ct, out, a),
             lambda ct, out, a, b: _hypot_vjp(ct, out, b),
             domain=((0.5, 2.0), (-2.0, -0.5)), subgradient="middle")
def hypot(a: TensorLike, b: TensorLike) -> Tensor:
    """√(a² + b²), where nothing overflows; slopes a / y and b / y, and 0 at (0, 0).

    >>> hypot(Tensor([3.0]), Tensor([4.0])).data
    array([5.], dtype=float32)
    """


def _turn(ct: Value, a: Value, b: Value) -> Value:
    """ct · b / (a² + b²), where no square overflows; 0 at (0, 0)."""
    r = hypot(a, b)
    at_zero = as_array(r) == 0
    r = where(at_zero, 1.0, r) if at_zero.any() else r
    return keep(~at_zero, ct) * (b / r / r)


@elementwise(np.arctan2, lambda ct, out, a, b: _turn(ct, a, b),
             lambda ct, out, a, b: _turn(-ct, b, a), saved=("a", "b"),
             domain=((0.5, 2.0), (-2.0, -0.5)))
def arctan2(a: TensorLike, b: TensorLike) -> Tensor:
    """The angle of the point (b, a), from −π to π; ∂/∂a = b / (a² + b²), ∂/∂b = −a / (a² + b²).

    At (0, 0) both are 0.

    >>> arctan2(Tensor([0.0]), Tensor([1.0])).data
    array([0.], dtype=float32)
    """


# ---- steps

def _flat(ct: Value, out: Value, x: Value) -> Value:
    return keep(np.zeros(x.shape, bool), ct)


step = functools.partial(elementwise, saved=(), couples=None, piecewise_linear=True,
                         domain=(0.1, 0.4))


@step(np.sign, _flat)
def sign(x: TensorLike) -> Tensor:
    """−1, 0 or 1; its derivative is 0.

    >>> sign(Tensor([-3.0, 0.0, 2.0])).data
    array([-1.,  0.,  1.], dtype=float32)
    """


@step(np.floor, _flat)
def floor(x: TensorLike) -> Tensor:
    """The next integer below; its derivative is 0.

    >>> floor(Tensor([-1.5, 1.5])).data
    array([-2.,  1.], dtype=float32)
    """


@step(np.ceil, _flat)
def ceil(x: TensorLike) -> Tensor:
    """The next integer above; its derivative is 0.

    >>> ceil(Tensor([-1.5, 1.5])).data
    array([-1.,  2.], dtype=float32)
    """


@step(np.trunc, _flat)
def trunc(x: TensorLike) -> Tensor:
    """The next integer towards 0; its derivative is 0.

    >>> trunc(Tensor([-1.5, 1.5])).data
    array([-1.,  1.], dtype=float32)
    """


@step(np.rint, _flat)
def rint(x: TensorLike) -> Tensor:
    """The nearest integer, the even one of two; its derivative is 0.

    >>> rint(Tensor([0.5, 1.5])).data
    array([0., 2.], dtype=float32)
    """


@composed
def round(x: TensorLike, decimals: int = 0) -> Tensor:
    """The nearest number with so many decimals, the even one of two; its derivative is 0.

    >>> round(Tensor([2.345]), 2).data
    array([2.34], dtype=float32)
    """
    x = cast(Tensor, x)
    decimals = checks.integer("round", "decimals", decimals)
    if decimals and x.dtype.kind != "f":
        raise DTypeError(f"round: x is {x.dtype}, which decimals={decimals} cannot round; cast it: "
                         "x.astype(np.float32)")
    if not decimals and x.dtype.kind in "iu":
        return x
    decimals = builtins.max(-300, builtins.min(decimals, 300))
    unit = 10.0 ** builtins.abs(decimals)           # 0.1 is no binary number, 10 is
    if decimals > 0:
        return rint(x * unit) / unit
    return rint(x / unit) * unit if decimals else rint(x)


# ---- remainders

@elementwise(np.remainder, lambda ct, out, a, b: ct,
             lambda ct, out, a, b: ct * -rint((a - out) / b),
             domain=((0.6, 0.9), (0.35, 0.55)))
def remainder(a: TensorLike, b: TensorLike) -> Tensor:
    """a modulo b, with the sign of b: a − ⌊a / b⌋ b; between its jumps it is linear.

    >>> remainder(Tensor([5.5, -1.0]), 2.0).data
    array([1.5, 1. ], dtype=float32)
    """
