"""Activations: elementwise functions of one input.

At a kink: relu'(0) = 0, leaky_relu'(0) = negative_slope (docs/conventions.md).  Rules of smooth
ones are written so that far from 0 the derivative has all its digits, too: 1 − tanh² would have
none left.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import cast

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.core import Tensor, TensorLike, as_array
from tinygrad_cnn.core.op import FUNCTIONS, Sample
from tinygrad_cnn.errors import SettingError, ShapeError
from tinygrad_cnn.kernels import elementwise as kernels
from tinygrad_cnn.ops.declare import composed, elementwise
from tinygrad_cnn.ops.elementwise import (
    abs,
    clip,
    exp,
    expm1,
    keep,
    maximum,
    mul,
    neg,
    sub,
    where,
)
from tinygrad_cnn.types import Value

__all__ = ["celu", "elu", "gelu", "glu", "hard_sigmoid", "hard_swish", "hard_tanh", "leaky_relu",
           "log_sigmoid", "mish", "prelu", "relu", "relu6", "selu", "sigmoid", "silu", "softmin",
           "softplus", "softsign", "tanh"]

activation = functools.partial(elementwise, family="activation")


def _relu_vjp(ct: Value, out: Value, x: Value) -> Value:
    # The first order runs on arrays, and this rule once for each layer: it has a kernel.
    if isinstance(ct, np.ndarray) and isinstance(out, np.ndarray):
        return kernels.relu_input(ct, out)
    return keep(out > 0, ct)


@activation(kernels.relu, _relu_vjp, saved=("out",), couples=None, piecewise_linear=True,
            subgradient="left")
def relu(x: TensorLike) -> Tensor:
    """Rectify: max(x, 0), entry by entry; the derivative at 0 is 0.

    Nair & Hinton, *Rectified linear units improve restricted Boltzmann machines*, ICML 2010.

    >>> relu(Tensor([-1.0, 2.0])).data
    array([0., 2.], dtype=float32)
    """


# ---- derivatives that are ops of their own: one quick pass in the first order, all digits

def _sigmoid_second(x: Value) -> Value:
    return sigmoid_slope(x) * tanh(-0.5 * x)


@activation(kernels.sigmoid_slope, lambda ct, out, x: ct * _sigmoid_second(x), saved=("x",),
            domain=(-12.0, 12.0))
def sigmoid_slope(x: TensorLike) -> Tensor:
    """The derivative of `sigmoid`."""


def _silu_second(x: Value) -> Value:
    # 2 σ′ + x σ″; where x is cut off, σ′ is 0.
    x = clip(x, -1e3, 1e3)
    return sigmoid_slope(x) * (2.0 + x * tanh(-0.5 * x))


@activation(kernels.silu_slope, lambda ct, out, x: ct * _silu_second(x), saved=("x",),
            domain=(-12.0, 12.0))
def silu_slope(x: TensorLike) -> Tensor:
    """The derivative of `silu`."""


def _gelu_tanh_second(x: Value) -> Value:
    # Of x σ(v): 2 σ′ v′ + x (σ″ v′² + σ′ v″), v = c (x + a x³); where x is cut off, σ′ is 0.
    c, a = 2 * math.sqrt(2 / math.pi), 0.044715
    x = clip(x, -40.0, 40.0)
    square = x * x
    v, dv = c * x * (1.0 + a * square), c * (1.0 + 3 * a * square)
    return sigmoid_slope(v) * (2.0 * dv + x * (dv * dv * tanh(-0.5 * v) + (6 * a * c) * x))


@activation(kernels.gelu_tanh_slope, lambda ct, out, x: ct * _gelu_tanh_second(x), saved=("x",),
            domain=(-12.0, 12.0))
def gelu_tanh_slope(x: TensorLike) -> Tensor:
    """The derivative of `gelu_tanh`."""


def _gelu_second(x: Value) -> Value:
    x = clip(x, -40.0, 40.0)                    # beyond, exp(−x²/2) is 0
    return exp(x * x * -0.5) * ((2.0 - x * x) * (1 / math.sqrt(2 * math.pi)))


@activation(kernels.gelu_slope, lambda ct, out, x: ct * _gelu_second(x), saved=("x",),
            domain=(-12.0, 12.0))
def gelu_slope(x: TensorLike) -> Tensor:
    """The derivative of `gelu`."""


# ---- smooth activations

@activation(np.tanh, lambda ct, out, x: ct * (4.0 * sigmoid_slope(2.0 * x)), saved=("x",),
            domain=(-6.0, 6.0))
def tanh(x: TensorLike) -> Tensor:
    """The hyperbolic tangent, entry by entry; its derivative is 1 − tanh².

    >>> tanh(Tensor([0.0])).data
    array([0.], dtype=float32)
    """


@activation(kernels.sigmoid, lambda ct, out, x: ct * sigmoid_slope(x), saved=("x",),
            domain=(-12.0, 12.0))
def sigmoid(x: TensorLike) -> Tensor:
    """The logistic function 1 / (1 + exp(−x)), entry by entry; derivative σ (1 − σ).

    >>> sigmoid(Tensor([0.0, 1000.0])).data             # nothing overflows
    array([0.5, 1. ], dtype=float32)
    """


@activation(kernels.softplus, lambda ct, out, x: ct * sigmoid(x), saved=("x",),
            domain=(-12.0, 12.0))
def softplus(x: TensorLike) -> Tensor:
    """log(1 + exp(x)), a smooth relu, entry by entry; its derivative is sigmoid(x).

    >>> softplus(Tensor([-1000.0, 1000.0])).data        # nothing overflows
    array([   0., 1000.], dtype=float32)
    """


@activation(kernels.silu, lambda ct, out, x: ct * silu_slope(x), saved=("x",),
            domain=(-12.0, 12.0))
def silu(x: TensorLike) -> Tensor:
    """x · sigmoid(x), also called swish, entry by entry.

    Elfwing, Uchibe & Doya, *Sigmoid-weighted linear units*, arXiv:1702.03118.

    >>> silu(Tensor([0.0, 100.0])).data
    array([  0., 100.], dtype=float32)
    """


@activation(kernels.gelu_tanh, lambda ct, out, x: ct * gelu_tanh_slope(x), saved=("x",),
            domain=(-5.0, 5.0))
def gelu_tanh(x: TensorLike) -> Tensor:
    """The tanh form of `gelu`: x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))), within 5e-4 of it."""


@activation(kernels.gelu, lambda ct, out, x: ct * gelu_slope(x), saved=("x",), domain=(-5.0, 5.0),
            name="gelu")
def gelu_erf(x: TensorLike) -> Tensor:
    """The exact form of `gelu`."""


@composed
def gelu(x: TensorLike, *, approximate: str = "none") -> Tensor:
    """The Gaussian error linear unit x · Φ(x), entry by entry; its derivative is Φ(x) + x φ(x).

    Φ and φ are the distribution function and the density of the standard normal distribution.
    ``approximate="tanh"`` is x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))), within 5e-4 of that and
    three times as quick.  Hendrycks & Gimpel, *Gaussian error linear units*, arXiv:1606.08415.

    >>> gelu(Tensor([0.0, 10.0])).data
    array([ 0., 10.], dtype=float32)
    """
    checks.choice("gelu", "approximate", approximate, ("none", "tanh"))
    return gelu_tanh(x) if approximate == "tanh" else gelu_erf(x)


def _leaky_relu_vjp(ct: Value, out: Value, x: Value, *, negative_slope: float) -> Value:
    above = as_array(x) > 0
    if not negative_slope:
        return keep(above, ct)
    return ct * np.where(above, 1.0, negative_slope).astype(ct.dtype)


@activation(kernels.leaky_relu, _leaky_relu_vjp, saved=("x",), couples=None, piecewise_linear=True,
            subgradient="left",
            settings=({"negative_slope": 0.25}, {"negative_slope": 1.5}, {"negative_slope": -0.5}))
def leaky_relu(x: TensorLike, negative_slope: float = 0.01) -> Tensor:
    """x above zero, negative_slope · x elsewhere, entry by entry; at 0 that is the derivative.

    A slope that is no finite number is a `SettingError`.  Maas, Hannun & Ng, *Rectifier
    nonlinearities improve neural network acoustic models*, 2013.

    >>> leaky_relu(Tensor([-1.0, 2.0]), negative_slope=0.5).data
    array([-0.5,  2. ], dtype=float32)
    """


def _elu_vjp(ct: Value, out: Value, x: Value, *, alpha: float) -> Value:
    below = ~(as_array(x) > 0)
    above = keep(~below, ct)
    if not alpha:
        return above
    # exp of the negative part alone, so that nothing overflows where x > 0.
    return above + keep(below, ct) * (alpha * np.exp(keep(below, x)))


def _elu_samples(rng: np.random.Generator) -> Iterator[Sample]:
    yield Sample("alpha", (rng.uniform(-2, 2, (3, 4)),), {"alpha": 0.75})
    yield Sample("alpha above one", (rng.uniform(-6, 6, (2, 3)),), {"alpha": 1.5})
    yield Sample("no overflow above", (np.array([-3.0, 0.5, 800.0]),), {"alpha": 0.75})


@activation(kernels.elu, _elu_vjp, saved=("x",), subgradient="left", samples=_elu_samples)
def elu(x: TensorLike, alpha: float = 1.0) -> Tensor:
    """x above zero, alpha · (exp(x) − 1) elsewhere, entry by entry; the derivative at 0 is alpha.

    An alpha that is no finite number is a `SettingError`.  Clevert, Unterthiner & Hochreiter,
    *Exponential linear units*, arXiv:1511.07289.

    >>> elu(Tensor([-1000.0, 2.0])).data
    array([-1.,  2.], dtype=float32)
    """


# ---- activations composed of the above

@composed
def relu6(x: TensorLike) -> Tensor:
    """min(max(x, 0), 6), entry by entry.  Howard et al., *MobileNets*, arXiv:1704.04861.

    >>> relu6(Tensor([-1.0, 2.0, 8.0])).data
    array([0., 2., 6.], dtype=float32)
    """
    return clip(x, 0.0, 6.0)


@composed
def selu(x: TensorLike) -> Tensor:
    """1.0507 · elu(x, alpha=1.6733), which keeps mean 0 and variance 1 from layer to layer.

    Klambauer et al., *Self-normalizing neural networks*, arXiv:1706.02515.

    >>> selu(Tensor([0.0, 1.0])).data
    array([0.    , 1.0507], dtype=float32)
    """
    return mul(elu(x, alpha=1.6732632423543772848170429916717), 1.0507009873554804934193349852946)


@composed
def celu(x: TensorLike, *, alpha: float = 1.0) -> Tensor:
    """x above zero, alpha · (exp(x / alpha) − 1) elsewhere: elu whose slope at 0 is 1.

    Barron, *Continuously differentiable exponential linear units*, arXiv:1704.07483.

    >>> celu(Tensor([-1000.0, 2.0]), alpha=0.5).data
    array([-0.5,  2. ], dtype=float32)
    """
    alpha = checks.number("celu", "alpha", alpha)
    if not alpha:
        raise SettingError("celu: alpha must not be 0, got 0")
    return mul(elu(mul(x, 1 / alpha), alpha=1.0), alpha) if alpha > 0 else where(
        as_array(x) > 0, x, mul(expm1(mul(x, 1 / alpha)), alpha))


def _mish_second(x: Value) -> Value:
    # t = tanh(softplus(x)): t′ (2 + x (1 − σ − 2 σ t)), t′ = (1 − t²) σ.
    x = clip(x, -1e3, 1e3)
    t, s = tanh(softplus(x)), sigmoid(x)
    return (1.0 - t * t) * s * (2.0 + x * (1.0 - s - 2.0 * s * t))


@activation(kernels.mish_slope, lambda ct, out, x: ct * _mish_second(x), saved=("x",),
            domain=(-5.0, 5.0))
def mish_slope(x: TensorLike) -> Tensor:
    """The derivative of `mish`."""


@activation(kernels.mish, lambda ct, out, x: ct * mish_slope(x), saved=("x",), domain=(-5.0, 5.0))
def mish(x: TensorLike) -> Tensor:
    """x · tanh(softplus(x)), entry by entry.  Misra, *Mish*, arXiv:1908.08681.

    >>> mish(Tensor([0.0, 100.0])).data
    array([  0., 100.], dtype=float32)
    """


@composed
def hard_sigmoid(x: TensorLike) -> Tensor:
    """min(max(x + 3, 0), 6) / 6, entry by entry: sigmoid in three straight lines.

    >>> hard_sigmoid(Tensor([-4.0, 0.0, 4.0])).data
    array([0. , 0.5, 1. ], dtype=float32)
    """
    return mul(clip(sub(x, -3.0), 0.0, 6.0), 1 / 6)


@composed
def hard_swish(x: TensorLike) -> Tensor:
    """x · hard_sigmoid(x), entry by entry.  Howard et al., *MobileNetV3*, arXiv:1905.02244.

    >>> hard_swish(Tensor([-4.0, 0.0, 4.0])).data
    array([-0.,  0.,  4.], dtype=float32)
    """
    return mul(maximum(x, -3.0), hard_sigmoid(x))               # 0 · ∞ is no number


@composed
def hard_tanh(x: TensorLike, *, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """The nearest number in [min_val, max_val], entry by entry.

    >>> hard_tanh(Tensor([-4.0, 0.5])).data
    array([-1. ,  0.5], dtype=float32)
    """
    return clip(x, checks.number("hard_tanh", "min_val", min_val),
                checks.number("hard_tanh", "max_val", max_val))


@activation(kernels.softsign, lambda ct, out, x: ct / (1.0 + abs(x)) ** 2, saved=("x",),
            domain=(0.25, 3.0))
def softsign(x: TensorLike) -> Tensor:
    """x / (1 + |x|), entry by entry; its derivative is 1 / (1 + |x|)².

    >>> softsign(Tensor([-1.0, 3.0])).data
    array([-0.5 ,  0.75], dtype=float32)
    """


@composed
def log_sigmoid(x: TensorLike) -> Tensor:
    """log(sigmoid(x)) = −softplus(−x), entry by entry.

    >>> log_sigmoid(Tensor([-1000.0, 1000.0])).data
    array([-1000.,    -0.], dtype=float32)
    """
    return neg(softplus(neg(x)))


@composed
def glu(x: TensorLike, axis: int = -1) -> Tensor:
    """The gated linear unit a · sigmoid(b), where a and b are the halves of x along an axis.

    Dauphin et al., *Language modeling with gated convolutional networks*, arXiv:1612.08083.

    >>> glu(Tensor([3.0, 0.0])).data
    array([1.5], dtype=float32)
    """
    x = cast(Tensor, x)
    axis = checks.axis_index("glu", axis, x.shape)
    size = x.shape[axis]
    if size % 2:
        raise ShapeError(f"glu: axis {axis} of {x.shape} has {size} entries, which must be even")
    ahead = (slice(None),) * axis
    return mul(x[(*ahead, slice(0, size // 2))], sigmoid(x[(*ahead, slice(size // 2, size))]))


@composed
def prelu(x: TensorLike, w: TensorLike) -> Tensor:
    """x above zero, w · x elsewhere; w is a number or has one slope for each channel (last axis).

    He et al., *Delving deep into rectifiers*, arXiv:1502.01852.

    >>> prelu(Tensor([-2.0, 2.0]), Tensor(0.25)).data
    array([-0.5,  2. ], dtype=float32)
    """
    return where(as_array(x) > 0, x, mul(x, w))


@composed
def softmin(x: TensorLike, axis: int = -1) -> Tensor:
    """softmax(−x): the smallest score has the largest share.

    >>> softmin(Tensor([0.0, 1000.0])).data
    array([1., 0.], dtype=float32)
    """
    return FUNCTIONS["softmax"](neg(x), axis=axis)
