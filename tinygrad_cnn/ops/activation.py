"""Activations: elementwise functions of one input.

At a kink: relu'(0) = 0, leaky_relu'(0) = slope (docs/conventions.md).  Rules of smooth ones are
written so that far from 0 the derivative has all its digits, too: 1 − tanh² would have none left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.core import Tensor, apply, as_array, unary
from tinygrad_cnn.core.op import Op, OpTest, Sample, dyadic, register, register_function
from tinygrad_cnn.kernels import elementwise as kernels
from tinygrad_cnn.ops.elementwise import clip, keep
from tinygrad_cnn.ops.samples import matrices, smooth_matrices
from tinygrad_cnn.shapes import Shape

__all__ = ["elu", "gelu", "leaky_relu", "relu", "sigmoid", "silu", "softplus", "tanh"]


def _same(x: Shape) -> Shape:
    return x


def _relu_vjp(ct: Any, out: Any, x: Any) -> Any:
    # The first order runs on arrays, and this rule once for each layer: it has a kernel.
    return kernels.relu_input(ct, out) if isinstance(ct, np.ndarray) else keep(out > 0, ct)


RELU = register(Op(
    name="relu", shape=_same, kernels={"array": kernels.relu}, vjp={"x": _relu_vjp},
    test=OpTest(samples=matrices, piecewise_linear=True, subgradient="left"), saved=("out",),
    family="activation"))

relu = register_function()(unary(RELU, kernels.relu))
relu.__doc__ = """Rectify: max(x, 0), entry by entry; the derivative at 0 is 0.

    Parameters
    ----------
    x : Tensor

    Returns
    -------
    Tensor
        Of the same shape.

    References
    ----------
    Nair & Hinton, *Rectified linear units improve restricted Boltzmann machines*, ICML 2010.

    Examples
    --------
    >>> relu(Tensor([-1.0, 2.0])).data
    array([0., 2.], dtype=float32)
    """


# ---- derivatives that are ops of their own: one quick pass in the first order, all digits

def _slope_op(name: str, kernel: Callable[[np.ndarray], np.ndarray],
              second: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    """The derivative of an activation; ``second`` is its own."""
    op = register(Op(
        name=f"{name}_slope", shape=_same, kernels={"array": kernel},
        vjp={"x": lambda ct, out, x: ct * second(x)},
        test=OpTest(samples=smooth_matrices(wide=12.0)), saved=("x",), couples=(),
        family="activation"))
    return unary(op, kernel)


def _sigmoid_second(x: Tensor) -> Tensor:
    return _sigmoid_slope(x) * tanh(-0.5 * x)


def _silu_second(x: Tensor) -> Tensor:
    # 2 σ′ + x σ″; where x is cut off, σ′ is 0.
    x = clip(x, -1e3, 1e3)
    return _sigmoid_slope(x) * (2.0 + x * tanh(-0.5 * x))


def _gelu_second(x: Tensor) -> Tensor:
    # Of x σ(v): 2 σ′ v′ + x (σ″ v′² + σ′ v″), v = c (x + a x³); where x is cut off, σ′ is 0.
    c, a = 2 * math.sqrt(2 / math.pi), 0.044715
    x = clip(x, -40.0, 40.0)
    square = x * x
    v, dv = c * x * (1.0 + a * square), c * (1.0 + 3 * a * square)
    return _sigmoid_slope(v) * (2.0 * dv + x * (dv * dv * tanh(-0.5 * v) + (6 * a * c) * x))


_sigmoid_slope = _slope_op("sigmoid", kernels.sigmoid_slope, _sigmoid_second)
_silu_slope = _slope_op("silu", kernels.silu_slope, _silu_second)
_gelu_slope = _slope_op("gelu", kernels.gelu_slope, _gelu_second)


# ---- smooth activations

TANH = register(Op(
    name="tanh", shape=_same, kernels={"array": np.tanh},
    vjp={"x": lambda ct, out, x: ct * (4.0 * _sigmoid_slope(2.0 * x))},
    test=OpTest(samples=smooth_matrices(wide=6.0)), saved=("x",), couples=(), family="activation"))

tanh = register_function(np.tanh)(unary(TANH, np.tanh))
tanh.__doc__ = """The hyperbolic tangent, entry by entry; its derivative is 1 − tanh².

    Parameters
    ----------
    x : Tensor

    Examples
    --------
    >>> tanh(Tensor([0.0])).data
    array([0.], dtype=float32)
    """

SIGMOID = register(Op(
    name="sigmoid", shape=_same, kernels={"array": kernels.sigmoid},
    vjp={"x": lambda ct, out, x: ct * _sigmoid_slope(x)},
    test=OpTest(samples=smooth_matrices(wide=12.0)), saved=("x",), couples=(), family="activation"))

sigmoid = register_function()(unary(SIGMOID, kernels.sigmoid))
sigmoid.__doc__ = """The logistic function 1 / (1 + exp(−x)), entry by entry; derivative σ (1 − σ).

    Parameters
    ----------
    x : Tensor
        Any size: nothing overflows.

    Examples
    --------
    >>> sigmoid(Tensor([0.0, 1000.0])).data
    array([0.5, 1. ], dtype=float32)
    """

SOFTPLUS = register(Op(
    name="softplus", shape=_same, kernels={"array": kernels.softplus},
    vjp={"x": lambda ct, out, x: ct * sigmoid(x)}, test=OpTest(samples=smooth_matrices(wide=12.0)),
    saved=("x",), couples=(), family="activation"))

softplus = register_function()(unary(SOFTPLUS, kernels.softplus))
softplus.__doc__ = """log(1 + exp(x)), a smooth relu, entry by entry; its derivative is sigmoid(x).

    Parameters
    ----------
    x : Tensor
        Any size: nothing overflows.

    Examples
    --------
    >>> softplus(Tensor([-1000.0, 1000.0])).data
    array([   0., 1000.], dtype=float32)
    """


SILU = register(Op(
    name="silu", shape=_same, kernels={"array": kernels.silu},
    vjp={"x": lambda ct, out, x: ct * _silu_slope(x)},
    test=OpTest(samples=smooth_matrices(wide=12.0)), saved=("x",), couples=(), family="activation"))

silu = register_function()(unary(SILU, kernels.silu))
silu.__doc__ = """x · sigmoid(x), also called swish, entry by entry.

    Parameters
    ----------
    x : Tensor

    References
    ----------
    Elfwing, Uchibe & Doya, *Sigmoid-weighted linear units*, arXiv:1702.03118.

    Examples
    --------
    >>> silu(Tensor([0.0, 100.0])).data
    array([  0., 100.], dtype=float32)
    """


GELU = register(Op(
    name="gelu", shape=_same, kernels={"array": kernels.gelu},
    vjp={"x": lambda ct, out, x: ct * _gelu_slope(x)},
    test=OpTest(samples=smooth_matrices(wide=5.0)), saved=("x",), couples=(), family="activation"))

gelu = register_function()(unary(GELU, kernels.gelu))
gelu.__doc__ = """The Gaussian error linear unit, in its tanh form, entry by entry.

    y = x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))), within 5e-4 of x · Φ(x).

    Parameters
    ----------
    x : Tensor

    References
    ----------
    Hendrycks & Gimpel, *Gaussian error linear units*, arXiv:1606.08415.

    Examples
    --------
    >>> gelu(Tensor([0.0, 10.0])).data
    array([ 0., 10.], dtype=float32)
    """


def _leaky_relu_vjp(ct: Any, out: Any, x: Any, *, slope: float) -> Any:
    above = as_array(x) > 0
    return ct * np.where(above, 1.0, slope).astype(ct.dtype) if slope else keep(above, ct)


def _leaky_relu_samples(rng: np.random.Generator) -> Iterator[Sample]:
    yield Sample("slope a power of two", (dyadic(rng, 3, 4),), {"slope": 0.25})
    yield Sample("slope above one", (dyadic(rng, 2, 3),), {"slope": 1.5})
    yield Sample("slope below zero", (dyadic(rng, 2, 3),), {"slope": -0.5})


LEAKY_RELU = register(Op(
    name="leaky_relu", shape=lambda x, *, slope: x, kernels={"array": kernels.leaky_relu},
    vjp={"x": _leaky_relu_vjp},
    test=OpTest(samples=_leaky_relu_samples, piecewise_linear=True, subgradient="left"),
    saved=("x",), family="activation"))


@register_function()
def leaky_relu(x: Any, *, slope: float = 0.01) -> Tensor:
    """x above zero, slope · x elsewhere, entry by entry; the derivative at 0 is the slope.

    Parameters
    ----------
    x : Tensor
    slope : float, default 0.01
        The derivative below zero.

    Raises
    ------
    SettingError
        If the slope is not a finite number.

    References
    ----------
    Maas, Hannun & Ng, *Rectifier nonlinearities improve neural network acoustic models*, 2013.

    Examples
    --------
    >>> leaky_relu(Tensor([-1.0, 2.0]), slope=0.5).data
    array([-0.5,  2. ], dtype=float32)
    """
    return apply(LEAKY_RELU, x, slope=checks.number("leaky_relu", "slope", slope))


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


ELU = register(Op(
    name="elu", shape=lambda x, *, alpha: x, kernels={"array": kernels.elu}, vjp={"x": _elu_vjp},
    test=OpTest(samples=_elu_samples, subgradient="left"), saved=("x",), couples=(),
    family="activation"))


@register_function()
def elu(x: Any, *, alpha: float = 1.0) -> Tensor:
    """x above zero, alpha · (exp(x) − 1) elsewhere, entry by entry; the derivative at 0 is alpha.

    Parameters
    ----------
    x : Tensor
    alpha : float, default 1.0
        Minus the value far below zero.

    Raises
    ------
    SettingError
        If alpha is not a finite number.

    References
    ----------
    Clevert, Unterthiner & Hochreiter, *Exponential linear units*, arXiv:1511.07289.

    Examples
    --------
    >>> elu(Tensor([-1000.0, 2.0])).data
    array([-1.,  2.], dtype=float32)
    """
    return apply(ELU, x, alpha=checks.number("elu", "alpha", alpha))
