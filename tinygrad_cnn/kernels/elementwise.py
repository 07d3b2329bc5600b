"""Whole-array kernels of elementwise ops that are more than one ufunc.

Array in, array out, pure; the dtype of the input is kept, float32 as well as complex where the
formula has a meaning there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from tinygrad_cnn.kernels import compiled
from tinygrad_cnn.kernels.memory import empty, long_lines
from tinygrad_cnn.kernels.parallel import parallel, parallel_ufunc
from tinygrad_cnn.types import Array, Function

__all__ = ["LARGE", "add", "clip", "div", "elu", "erf", "gelu", "gelu_slope", "gelu_tanh",
           "gelu_tanh_slope", "keep", "leaky_relu", "mish", "mish_slope", "mul",
           "power", "relu", "relu_input", "select", "sigmoid", "sigmoid_slope", "silu",
           "silu_slope", "reciprocal", "softplus", "softsign", "sub", "where"]


LARGE = 1 << 17         # entries, from which threads and used memory pay
_LONG = 2048            # numbers in a line, from which NumPy is at full speed
_LEAST = 1 << 14        # numbers of a part of a compiled loop
_FEW = 1 << 13          # numbers, below which what surrounds a ufunc costs as much as it does
_BITS = {np.dtype(np.float32): np.int32, np.dtype(np.float64): np.int64}


def _large(function: Function, a: Array, b: Array) -> Array:
    """A ufunc of two arrays: on all threads and into used memory where that pays."""
    if a.size < LARGE or a.dtype != b.dtype or not a.flags.c_contiguous:
        return np.asarray(function(a, b))
    if a.shape == b.shape:
        return parallel_ufunc(function, empty(a.shape, a.dtype), a, b)
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
    if a.dtype.kind in "iu" and (b < 0).any():
        return np.asarray(np.power(a, b, dtype=np.float64))         # no integer: the caller says so
    return np.asarray(np.power(a, b))


def select(x: Array, condition: Array, out: Array) -> None:
    """Write ``x`` where the condition holds and 0 elsewhere, even where it is infinite or NaN.

    The bits of a number times 1 or 0: as quick as a product of numbers, and ten times as quick as
    ``np.where``; but 0 · ∞ is no number, and 0 times its bits is 0.
    """
    bits = _BITS.get(x.dtype)
    if bits is None:                                        # complex, or short integers
        out[...] = np.where(condition, x, x.dtype.type(0))
    else:
        np.multiply(x.view(bits), condition, out=out.view(bits))


def keep(x: Array, condition: Array) -> Array:
    """``x`` where the condition, which broadcasts to its shape, holds; 0 elsewhere."""
    bits = _BITS.get(x.dtype)
    if x.size < _FEW and bits is not None:
        return np.asarray(x.view(bits) * condition).view(x.dtype)
    return parallel_ufunc(_select, empty(x.shape, x.dtype), x, condition)


def _select(x: Array, condition: Array, out: Array) -> None:
    select(x, condition, out)


def where(a: Array, b: Array, *, condition: Array) -> Array:
    """``a`` where the condition holds, ``b`` elsewhere."""
    bits = _BITS.get(a.dtype)
    if bits is None or a.dtype != b.dtype:
        return np.asarray(np.where(condition, a, b))
    if b.ndim == 0 and not b and a.shape == condition.shape:
        return keep(a, condition)
    # b, and on it the difference in bits, if the condition holds: five times as quick as np.where.
    shape = np.broadcast_shapes(condition.shape, a.shape, b.shape)
    return parallel_ufunc(_choose, empty(shape, a.dtype), a, b, condition)


def _choose(a: Array, b: Array, condition: Array, out: Array) -> None:
    bits = _BITS[out.dtype]
    first, second, result = a.view(bits), b.view(bits), out.view(bits)
    np.bitwise_xor(first, second, out=result)
    np.multiply(result, condition, out=result)
    np.bitwise_xor(result, second, out=result)


def clip(x: Array, *, min: float, max: float) -> Array:
    """The nearest number in [min, max]."""
    return np.asarray(np.minimum(np.maximum(x, x.dtype.type(min)), x.dtype.type(max)))


def relu(x: Array) -> Array:
    """max(x, 0)."""
    out = empty(x.shape, x.dtype)
    passes = compiled.module("passes", x.dtype)
    if passes is None or x.size < _FEW or not x.flags.c_contiguous:
        return parallel_ufunc(np.maximum, out, x, x.dtype.type(0))
    passes.rectify(x.size, x.reshape(-1), out.reshape(-1), least=_LEAST)
    return out


def relu_input(ct: Array, out: Array) -> Array:
    """ct where the result of relu is above zero."""
    if ct.size < _FEW:
        return keep(ct, out > 0)
    x = empty(ct.shape, ct.dtype)
    passes = compiled.module("passes", ct.dtype)
    if passes is None or not (
            ct.flags.c_contiguous and out.flags.c_contiguous and ct.dtype == out.dtype):
        return parallel_ufunc(lambda part, y, out: select(part, y > 0, out), x, ct, out)
    passes.mask(x.size, *(a.reshape(-1) for a in (ct, out, x)), least=_LEAST)
    return x


def leaky_relu(x: Array, *, negative_slope: float) -> Array:
    """x above zero, negative_slope · x elsewhere."""
    if not negative_slope:
        return relu(x)                                      # 0 · ∞ is no number
    return np.asarray(np.where(x > 0, x, x.dtype.type(negative_slope) * x))


def elu(x: Array, *, alpha: float) -> Array:
    """x above zero, alpha · (exp(x) − 1) elsewhere."""
    y = np.expm1(np.minimum(x, 0))
    y *= x.dtype.type(alpha)
    y += np.maximum(x, 0)
    return np.asarray(y)


# ---- the logistic family, through exp(−|x|), which keeps the digits of a tail

_FLAT = 40.0                        # from here on gelu(x) is x, or 0, in both forms
_NOTHING = 1e3                      # exp(−x) is 0 from here on, in float64 too
_TAIL = {4: 87.0, 8: 600.0}         # by item size: from here on exp(−x) comes near to subnormals
_K, _K_REST = 1.5957691216057308, -9.96930880911092e-17                 # 2 √(2/π)
_KA, _KA_REST = 0.07135481627260025, -6.175149918155315e-19             # 0.044715 · 2 √(2/π)
_BLOCK = 1 << 14                    # numbers of which a few arrays stay in the cache


def _in_blocks(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The same function of many steps, on large arrays block by block and on all threads."""
    @functools.wraps(function)
    def blockwise(x: Array) -> Array:
        if x.dtype.kind not in "fc":
            raise TypeError(f"{function.__name__} of integers is no integer")
        if x.size <= 2 * _BLOCK or not x.flags.c_contiguous:
            return function(x)
        out = empty(x.shape, x.dtype)
        given, made = x.reshape(-1), out.reshape(-1)

        def work(low: int, high: int) -> None:
            for first in range(low, high, _BLOCK):
                part = slice(first, min(first + _BLOCK, high))
                made[part] = function(given[part])

        parallel(x.size, work, least=LARGE // 2, products=False)
        return out
    return blockwise


def _decay(x: Array) -> Array:
    """exp(−|x|)."""
    if x.dtype.kind == "c":
        return np.asarray(np.exp(np.where(x.real > 0, -x, x)))
    away = np.asarray(np.abs(x))
    np.negative(away, out=away)
    return np.exp(away, out=away)


@_in_blocks
def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(−x))."""
    e = _decay(x)
    # 1 or e, whichever keeps its digits.
    y = np.asarray(np.where(x.real > 0, 1, e) if x.dtype.kind == "c" else np.maximum(e, x > 0))
    e += 1
    y /= e
    return y


@_in_blocks
def sigmoid_slope(x: Array) -> Array:
    """exp(−|x|) / (1 + exp(−|x|))², the derivative of sigmoid."""
    y = _decay(x)
    e = y + x.dtype.type(1)
    e *= e
    y /= e
    return y


@_in_blocks
def softplus(x: Array) -> Array:
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(−|x|))."""
    y = _decay(x)
    np.log1p(y, out=y)
    y += np.where(x.real > 0, x, 0) if x.dtype.kind == "c" else np.maximum(x, 0)
    return y


@_in_blocks
def silu(x: Array) -> Array:
    """x · sigmoid(x)."""
    if x.dtype.kind == "c":
        return np.asarray(x * sigmoid(x))
    y = sigmoid(x)
    y *= np.maximum(x, -_NOTHING)
    far = x < -_TAIL[x.itemsize]
    if far.any():
        tail = np.maximum(x[far], -_NOTHING).astype(np.float64)     # ∞ · 0 is no number
        y[far] = _times_decay(tail, -tail)
    return y


@_in_blocks
def silu_slope(x: Array) -> Array:
    """σ(x) + x σ(x) σ(−x) with σ = sigmoid, the derivative of silu."""
    if x.dtype.kind == "c":
        return np.asarray(sigmoid(x) * (1 + x * sigmoid(-x)))
    y = sigmoid_slope(x)
    y *= np.clip(x, -_NOTHING, _NOTHING)
    y += sigmoid(x)
    far = x < -_TAIL[x.itemsize]
    if far.any():
        tail = np.maximum(x[far], -_NOTHING).astype(np.float64)
        y[far] = _times_decay(1 + tail, -tail)
    return y


@_in_blocks
def gelu_tanh(x: Array) -> Array:
    """x · sigmoid(v), v = 2 √(2/π) (x + 0.044715 x³); the same as x/2 · (1 + tanh(v / 2)).

    exp(−|v|) has as many digits less than v as v has in front of the point, so v is worked out in
    two parts, of which the second is what float32 or float64 leaves out.
    """
    if x.dtype.kind == "c":
        return np.asarray(x * sigmoid(x * (_K + _KA * (x * x))))
    v, rest, e = _gelu_decay(x)
    y = np.asarray(np.maximum(e, x > 0))
    e += 1
    y /= e
    y *= np.maximum(x, -_FLAT)
    return _gelu_tail(y, x, v, rest, lambda z: z)


@_in_blocks
def gelu_tanh_slope(x: Array) -> Array:
    """σ(v) + x σ(v) σ(−v) v′, the derivative of gelu_tanh."""
    if x.dtype.kind == "c":
        v = x * (_K + _KA * (x * x))
        return np.asarray(sigmoid(v) * (1 + x * sigmoid(-v) * (_K + 3 * _KA * (x * x))))
    v, rest, e = _gelu_decay(x)
    near = np.clip(x, -_FLAT, _FLAT)
    y = near * near
    y *= 3 * _KA
    y += _K
    y *= near
    y *= e
    total = 1 + e
    y /= total
    y += np.maximum(e, x > 0)
    y /= total
    return _gelu_tail(y, x, v, rest, lambda z: 1 + z * (_K + 3 * _KA * z * z))


def _gelu_decay(x: Array) -> tuple[Array, Array, Array]:
    """|v| in two parts, and exp(−|v|)."""
    v, rest = _inner(np.minimum(np.abs(x), x.dtype.type(_FLAT)))
    e = np.asarray(np.exp(-v))
    e -= e * rest
    return v, rest, e


def _gelu_tail(y: Array, x: Array, v: Array, rest: Array,
               factor: Callable[[Array], Array]) -> Array:
    """``y``, and factor(x) · exp(−|v|) where x is so far below 0 that exp(−|v|) is subnormal."""
    far = (v > _TAIL[x.itemsize]) & (x < 0)
    if far.any():
        y = np.asarray(y)                               # NumPy turns 0-d results into scalars
        z = np.maximum(x[far], -_FLAT).astype(np.float64)
        y[far] = _times_decay(factor(z), v[far].astype(np.float64)) * (
            1 - rest[far].astype(np.float64))
    return y


def _inner(z: Array) -> tuple[Array, Array]:
    """2 √(2/π) (z + 0.044715 z³) for z from 0 to 40, and what rounding it has left out."""
    wide = z.astype(np.float64)
    v = wide * wide
    v *= _KA
    v += _K
    v *= wide
    if z.dtype == np.float32:
        rounded = v.astype(np.float32)
        v -= rounded
        return rounded, v.astype(np.float32)
    rest = np.zeros_like(v)
    large = z > 1                               # before, there is nothing to gain
    if large.any():
        exact, more = _inner_twofold(z[large])
        rest[large] = exact - v[large] + more
    return v, rest


def _inner_twofold(z: Array) -> tuple[Array, Array]:
    """As above, each product and sum with its rounding error.

    T. J. Dekker, *A floating-point technique for extending the available precision*, 1971.
    """
    square, rest = _product(z, z)
    cubic, cubic_rest = _product(square, np.full_like(z, _KA))
    cubic_rest += _KA * rest + _KA_REST * square
    factor = _K + cubic
    taken = factor - cubic
    factor_rest = (_K - taken) + (cubic - (factor - taken)) + cubic_rest + _K_REST
    v, v_rest = _product(z, factor)
    return v, v_rest + z * factor_rest


def _times_decay(x: Array, t: Array) -> Array:
    """x · exp(−t) for t of 64 or more: in two steps, since exp(−t) may be subnormal."""
    return np.asarray(x * np.exp(40 - t) * math.exp(-40))


def _product(a: Array, b: Array) -> tuple[Array, Array]:
    """a · b and what rounding it has left out."""
    p = a * b
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    return p, ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2


def _halves(a: Array) -> tuple[Array, Array]:
    """a as the sum of two numbers of half as many digits."""
    scaled = a * 134217729.0                                # 2²⁷ + 1
    upper = scaled - (scaled - a)
    return upper, a - upper


def reciprocal(x: Array) -> Array:
    """1 / x, also of integers, which have none that is an integer."""
    return np.asarray(1 / x)


def softsign(x: Array) -> Array:
    """x / (1 + |x|), which is ±1 at ±∞."""
    y = 1 + np.abs(x)
    return np.asarray(np.where(np.isinf(y), np.sign(x), x / np.where(np.isinf(y), 1, y)))


def _mish_parts(x: Array) -> tuple[Array, Array, Array]:
    """x within ±1e3, tanh(softplus(x)) and its derivative, in float64, through exp(−|x|)."""
    if x.dtype.kind == "c":
        raise TypeError("mish has no complex form")
    near = np.clip(x, -_NOTHING, _NOTHING).astype(np.float64)
    above, e = near > 0, np.exp(-np.abs(near))
    below = np.where(above, (1 + e) ** 2 + e * e, (1 + e) ** 2 + 1)
    value = np.where(above, 1 + 2 * e, e * (e + 2)) / below
    return near, value, 4 * np.where(above, e * e, e) * (1 + e) / (below * below)


@_in_blocks
def mish(x: Array) -> Array:
    """x · tanh(softplus(x))."""
    _, value, _ = _mish_parts(x)
    return np.asarray(np.maximum(x, -_NOTHING) * value, x.dtype)


@_in_blocks
def mish_slope(x: Array) -> Array:
    """The derivative of mish."""
    near, value, slope = _mish_parts(x)
    return np.asarray(value + near * slope, x.dtype)


# ---- the Gaussian family, through erfcx(z) = exp(z²) erfc(z), which keeps the digits of a tail

# log(erfcx(z) / t) with t = 2 / (2 + z) is smooth in t: its Chebyshev series of degree 28 and 11,
# worked out with 60 digits, as polynomials in 2 t − 1; they are exact to 2 ulp of float64 and to
# 1e-8, which is all of float32.
_ERFCX = {8: (
    -0.6717940840566923, 0.6726432239776567, 0.04734330684190441, -0.0468956102311753,
    -0.00987268936638871, 0.008824938557060591, 0.001758933557767052, -0.00234581250048239,
    -0.0001462468629510846, 0.0006736787955767686, -9.373503458657679e-05, -0.00017430294718882093,
    7.140103183032207e-05, 3.174517972098971e-05, -3.0187946824822888e-05, 1.3772663673280304e-07,
    8.56277606541374e-06, -2.9479867043292697e-06, -1.2725754599507078e-06, 1.2500272088729108e-06,
    -1.6817871990021388e-07, -2.4958266160108534e-07, 1.5307783547043712e-07,
    1.4443826255000341e-09, -3.902730840585988e-08, 1.1172560777959965e-08, 4.0145835792903665e-09,
    -1.8902689533303106e-09, 6.622772591938553e-12), 4: (
    -0.6717940916807759, 0.672643154774543, 0.047343887612987114, -0.04689364055996262,
    -0.009880019324020219, 0.008808825369385997, 0.0017940662497394027, -0.0022887652385930124,
    -0.00022791096599906547, 0.0005737663720050536, 8.00073816169841e-06, -8.728381021688712e-05)}
# erf(x) / x − 1 for |x| < 0.84375 as a fraction in x², from FreeBSD's msun (s_erf.c).
_ERF_ABOVE = (1.28379167095512558561e-01, -3.25042107247001499370e-01, -2.84817495755985104766e-02,
              -5.77027029648944159157e-03, -2.37630166566501626084e-05)
_ERF_BELOW = (1.0, 3.97917223959155352819e-01, 6.50222499887672944485e-02,
              5.08130628187576562776e-03, 1.32494738004321644526e-04, -3.96022827877536812320e-06)


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    y = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        y *= x
        y += c
    return y


def _erfcx(z: Array, itemsize: int) -> Array:
    """exp(z²) erfc(z) for z of at least 0, in float64, with the digits of that item size."""
    t = 2 / (2 + z)
    y = _polynomial(_ERFCX[itemsize], 2 * t - 1)
    np.exp(y, out=y)
    y *= t
    return y


def _gauss(x: Array, itemsize: int) -> Array:
    """exp(−x²/2) in float64; the square of a float64 in two parts, that of a float32 is exact."""
    if itemsize == 4:
        return np.asarray(np.exp(-0.5 * x * x))
    upper = _halves(x)[0]
    return np.asarray(np.exp(-0.5 * upper * upper) * np.exp(-0.5 * (x - upper) * (x + upper)))


def _normal(x: Array) -> tuple[Array, Array, Array]:
    """x within ±40 in float64, exp(−x²/2), and Φ(x), of the standard normal distribution."""
    if x.dtype.kind == "c":
        raise TypeError("the Gaussian family has no complex form")
    near = np.clip(x, -_FLAT, _FLAT).astype(np.float64)
    decay = _gauss(near, x.itemsize)
    phi = _erfcx(np.abs(near) * math.sqrt(0.5), x.itemsize)
    phi *= decay
    phi *= 0.5
    return near, decay, np.where(near > 0, 1 - phi, phi)


@_in_blocks
def gelu(x: Array) -> Array:
    """x · Φ(x)."""
    near, _, phi = _normal(x)
    near = np.maximum(x, -_FLAT)                        # 0 · ∞ is no number
    return np.asarray(near * phi, x.dtype)


@_in_blocks
def gelu_slope(x: Array) -> Array:
    """Φ(x) + x φ(x), the derivative of gelu."""
    near, decay, phi = _normal(x)
    return np.asarray(phi + near * decay * (1 / math.sqrt(2 * math.pi)), x.dtype)


@_in_blocks
def erf(x: Array) -> Array:
    """2/√π ∫ exp(−t²) dt from 0 to x."""
    if x.dtype.kind == "c":
        raise TypeError("erf has no complex form")
    near = np.clip(x, -_FLAT, _FLAT).astype(np.float64)
    square = near * near
    small = np.minimum(square, 1.0)
    inside = near * (1 + _polynomial(_ERF_ABOVE, small) / _polynomial(_ERF_BELOW, small))
    outside = np.copysign(1 - np.exp(-square) * _erfcx(np.abs(near), 8), near)
    return np.asarray(np.where(square < 0.7, inside, outside), x.dtype)
