"""Activations: elementwise functions of one input.

At a kink: relu'(0) = 0, leaky_relu'(0) = negative_slope (docs/conventions.md).  Rules of smooth
ones are written so that far from 0 the derivative has all its digits, too: 1 − tanh² would have
none left.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinygrad_cnn.core import Tensor, TensorLike, as_array
from tinygrad_cnn.core.op import Sample
from tinygrad_cnn.kernels import elementwise as kernels
from tinygrad_cnn.ops.declare import elementwise
from tinygrad_cnn.ops.elementwise import clip, keep

__all__ = ["elu", "gelu", "leaky_relu", "relu", "sigmoid", "silu", "softplus", "tanh"]

activation = functools.partial(elementwise, family="activation")


def _relu_vjp(ct: Any, out: Any, x: Any) -> Any:
    # The first order runs on arrays, and this rule once for each layer: it has a kernel.
    return kernels.relu_input(ct, out) if isinstance(ct, np.ndarray) else keep(out > 0, ct)


@activation(kernels.relu, _relu_vjp, saved=("out",), couples=None, piecewise_linear=True,
            subgradient="left")
def relu(x: TensorLike) -> Tensor:
    """Rectify: max(x, 0), entry by entry; the derivative at 0 is 0.

    Nair & Hinton, *Rectified linear units improve restricted Boltzmann machines*, ICML 2010.

    >>> relu(Tensor([-1.0, 2.0])).data
    array([0., 2.], dtype=float32)
    """


# ---- derivatives that are ops of their own: one quick pass in the first order, all digits

def _sigmoid_second(x: Any) -> Any:
    return sigmoid_slope(x) * tanh(-0.5 * x)


@activation(kernels.sigmoid_slope, lambda ct, out, x: ct * _sigmoid_second(x), saved=("x",),
            domain=(-12.0, 12.0))
def sigmoid_slope(x: TensorLike) -> Tensor:
    """The derivative of `sigmoid`."""


def _silu_second(x: Any) -> Any:
    # 2 σ′ + x σ″; where x is cut off, σ′ is 0.
    x = clip(x, -1e3, 1e3)
    return sigmoid_slope(x) * (2.0 + x * tanh(-0.5 * x))


@activation(kernels.silu_slope, lambda ct, out, x: ct * _silu_second(x), saved=("x",),
            domain=(-12.0, 12.0))
def silu_slope(x: TensorLike) -> Tensor:
    """The derivative of `silu`."""


def _gelu_second(x: Any) -> Any:
    # Of x σ(v): 2 σ′ v′ + x (σ″ v′² + σ′ v″), v = c (x + a x³); where x is cut off, σ′ is 0.
    c, a = 2 * math.sqrt(2 / math.pi), 0.044715
    x = clip(x, -40.0, 40.0)
    square = x * x
    v, dv = c * x * (1.0 + a * square), c * (1.0 + 3 * a * square)
    return sigmoid_slope(v) * (2.0 * dv + x * (dv * dv * tanh(-0.5 * v) + (6 * a * c) * x))


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


@activation(kernels.gelu, lambda ct, out, x: ct * gelu_slope(x), saved=("x",), domain=(-5.0, 5.0))
def gelu(x: TensorLike) -> Tensor:
    """The Gaussian error linear unit, in its tanh form, entry by entry.

    y = x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))), within 5e-4 of x · Φ(x).

    Hendrycks & Gimpel, *Gaussian error linear units*, arXiv:1606.08415.

    >>> gelu(Tensor([0.0, 10.0])).data
    array([ 0., 10.], dtype=float32)
    """


def _leaky_relu_vjp(ct: Any, out: Any, x: Any, *, negative_slope: float) -> Any:
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


def _elu_vjp(ct: Any, out: Any, x: Any, *, alpha: float) -> Any:
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
