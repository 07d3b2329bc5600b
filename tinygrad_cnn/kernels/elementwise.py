"""Whole-array kernels of elementwise ops that are more than one ufunc.

Array in, array out, pure; the dtype of the input is kept, float32 as well as complex where the
formula has a meaning there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.kernels.threads import spread

__all__ = ["clip", "elu", "gelu", "leaky_relu", "power", "relu", "relu_input",
           "sigmoid", "silu", "softplus",
           "where"]

Array = NDArray[Any]


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
    return spread(np.maximum, np.empty(x.shape, x.dtype), x, x.dtype.type(0))


def relu_input(ct: Array, out: Array) -> Array:
    """ct where the result of relu is above zero."""
    return spread(lambda part, y, out: np.multiply(part, y > 0, out=out),
                  np.empty(ct.shape, ct.dtype), ct, out)


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
