"""Whole-array kernels of elementwise ops that are more than one ufunc.

Array in, array out, pure; the dtype of the input is kept, float32 as well as complex where the
formula has a meaning there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.kernels import compiled
from tinygrad_cnn.kernels.blocks import long_lines
from tinygrad_cnn.kernels.memory import empty
from tinygrad_cnn.kernels.threads import parallel, spread

__all__ = ["LARGE", "add", "clip", "div", "elu", "gelu", "leaky_relu", "mul", "power",
           "relu", "relu_input", "sigmoid", "silu", "softplus", "sub", "where"]

Array = NDArray[Any]

LARGE = 1 << 17         # entries, from which threads and used memory pay
_LONG = 2048            # numbers in a line, from which NumPy is at full speed
_LINE = 256             # numbers in a line of a compiled loop
_LEAST = 512            # lines, from which a second thread pays


def _large(function: Any, a: Array, b: Array) -> Array:
    """A ufunc of two arrays: on all threads and into used memory where that pays."""
    if a.size < LARGE or a.dtype != b.dtype or not a.flags.c_contiguous:
        return np.asarray(function(a, b))
    if a.shape == b.shape:
        return spread(function, empty(a.shape, a.dtype), a, b)
    if b.shape != a.shape[-1:]:
        return np.asarray(function(a, b))
    lines = long_lines(a, _LONG)                            # a number for each channel
    row = np.broadcast_to(b, (lines.shape[1] // b.size, b.size)).reshape(-1)
    out = empty(lines.shape, a.dtype)
    parallel(len(lines), lambda low, high: function(lines[low:high], row, out=out[low:high]),
             products=False)
    return out.reshape(a.shape)


def add(a: Array, b: Array) -> Array:
    """a + b."""
    return _large(np.add, a, b)


def sub(a: Array, b: Array) -> Array:
    """a − b."""
    return _large(np.subtract, a, b)


def mul(a: Array, b: Array) -> Array:
    """a · b."""
    return _large(np.multiply, a, b)


def div(a: Array, b: Array) -> Array:
    """a / b."""
    return _large(np.true_divide, a, b)


def power(a: Array, b: Array) -> Array:
    """a ** b; the usual exponents cost a product or a root instead of a logarithm."""
    if b.ndim == 0:
        if b == 2:
            return np.asarray(a * a)
        if b == 1:
            return np.asarray(a.copy())
        if b == 0.5:
            return np.asarray(np.sqrt(a))
        if b == -1:
            return np.asarray(1 / a)
        if b == 3:
            return np.asarray(a * a * a)
    return np.asarray(np.power(a, b))


def where(a: Array, b: Array, *, condition: Array) -> Array:
    """``a`` where the condition holds, ``b`` elsewhere."""
    return np.asarray(np.where(condition, a, b))


def clip(x: Array, *, low: float, high: float) -> Array:
    """The nearest number in [low, high]."""
    return np.asarray(np.minimum(np.maximum(x, x.dtype.type(low)), x.dtype.type(high)))


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return spread(np.maximum, empty(x.shape, x.dtype), x, x.dtype.type(0))


def relu_input(ct: Array, out: Array) -> Array:
    """ct where the result of relu is above zero."""
    x = empty(ct.shape, ct.dtype)
    passes = compiled.module("passes", ct.dtype)
    if passes is None or ct.size % _LINE or not (
            ct.flags.c_contiguous and out.flags.c_contiguous and ct.dtype == out.dtype):
        return spread(lambda part, y, out: np.multiply(part, y > 0, out=out), x, ct, out)
    lines = [a.reshape(-1, _LINE) for a in (ct, out, x)]
    parallel(len(lines[0]), lambda low, high: passes.mask(*lines, low, high), least=_LEAST,
             products=False)
    return x


def leaky_relu(x: Array, *, slope: float) -> Array:
    """x above zero, slope · x elsewhere."""
    return np.asarray(np.where(x > 0, x, x.dtype.type(slope) * x))


def elu(x: Array, *, alpha: float) -> Array:
    """x above zero, alpha · (exp(x) − 1) elsewhere."""
    below = np.expm1(np.minimum(x, 0)) * x.dtype.type(alpha)
    return np.asarray(np.where(x > 0, x, below))


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(−x)), through tanh, which does not overflow."""
    half = x.dtype.type(0.5)
    y = np.tanh(x * half)
    y *= half
    y += half
    return np.asarray(y)


def softplus(x: Array) -> Array:
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(−|x|)), which does not overflow."""
    above = np.where(x.real > 0, x, 0) if x.dtype.kind == "c" else np.maximum(x, 0)
    return np.asarray(above + np.log1p(np.exp(x - 2 * above)))     # x − 2 max(x, 0) = −|x|


def silu(x: Array) -> Array:
    """x · sigmoid(x)."""
    return np.asarray(x * sigmoid(x))


def gelu(x: Array) -> Array:
    """x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))."""
    number = x.dtype.type
    inner = x * x
    inner *= number(0.044715)
    inner += number(1)
    inner *= x
    inner *= number(math.sqrt(2 / math.pi))
    y = np.tanh(inner)
    y += number(1)
    y *= x
    y *= number(0.5)
    return np.asarray(y)
