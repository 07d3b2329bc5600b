"""Activations as layers; each is the op of the same name, applied to every entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from tinygrad_cnn import checks, ops
from tinygrad_cnn.core import Tensor, TensorLike
from tinygrad_cnn.nn.module import Layer
from tinygrad_cnn.settings import setting

__all__ = ["ELU", "GELU", "LeakyReLU", "LogSoftmax", "ReLU", "SiLU", "Sigmoid", "Softmax",
           "Softplus", "Tanh"]


class _Activation(Layer):
    """An op of one input, called with the settings of the layer."""

    op: ClassVar[Callable[..., Tensor]]

    def forward(self, x: TensorLike) -> Tensor:
        """The op of ``x``, in the shape of ``x``."""
        return type(self).op(x, **self._settings())


class ReLU(_Activation):
    """max(x, 0).

    >>> ReLU()([-1.0, 2.0]).data
    array([0., 2.], dtype=float32)
    """

    op = ops.relu


class LeakyReLU(_Activation):
    """x above zero, negative_slope · x elsewhere.

    >>> LeakyReLU(0.5)([-1.0, 2.0]).data
    array([-0.5,  2. ], dtype=float32)
    """

    op = ops.leaky_relu
    negative_slope: float = setting(checks.number, default=0.01)


class ELU(_Activation):
    """x above zero, alpha · (exp(x) − 1) elsewhere, which is −alpha far below zero.

    >>> ELU()([-1000.0, 2.0]).data
    array([-1.,  2.], dtype=float32)
    """

    op = ops.elu
    alpha: float = setting(checks.number, default=1.0)


class GELU(_Activation):
    """x · Φ(x), or its tanh form; see `tinygrad_cnn.gelu`.

    >>> GELU()([0.0, 10.0]).data
    array([ 0., 10.], dtype=float32)
    """

    op = ops.gelu
    approximate: str = setting(checks.choice, default="none", options=("none", "tanh"))


class SiLU(_Activation):
    """x · sigmoid(x).

    >>> SiLU()([0.0, 100.0]).data
    array([  0., 100.], dtype=float32)
    """

    op = ops.silu


class Softplus(_Activation):
    """log(1 + exp(beta · x)) / beta, a smooth `ReLU`.

    PyTorch's ``threshold`` is not needed: no size overflows.

    >>> Softplus()([-1000.0, 1000.0]).data
    array([   0., 1000.], dtype=float32)
    """

    beta: float = setting(checks.number, default=1.0, above=0)

    def forward(self, x: TensorLike) -> Tensor:
        """Entry by entry."""
        if self.beta == 1.0:
            return ops.softplus(x)
        return ops.div(ops.softplus(ops.mul(x, self.beta)), self.beta)


class Tanh(_Activation):
    """The hyperbolic tangent.

    >>> Tanh()([0.0, 100.0]).data
    array([0., 1.], dtype=float32)
    """

    op = ops.tanh


class Sigmoid(_Activation):
    """1 / (1 + exp(−x)).

    >>> Sigmoid()([-1000.0, 0.0]).data
    array([0. , 0.5], dtype=float32)
    """

    op = ops.sigmoid


class Softmax(_Activation):
    """exp(x) / Σ exp(x) along an axis: positive, with sum 1.

    Not before `CrossEntropyLoss`, which takes the scores themselves.

    >>> Softmax()([[0.0, 0.0]]).data
    array([[0.5, 0.5]], dtype=float32)
    """

    op = ops.softmax
    axis: int = setting(checks.integer, default=-1)


class LogSoftmax(Softmax):
    """x − log Σ exp(x) along an axis: the logarithm of `Softmax`, for `NLLLoss`.

    >>> LogSoftmax()([[0.0, 1000.0]]).data
    array([[-1000.,     0.]], dtype=float32)
    """

    op = ops.log_softmax
