"""Activations as layers; each is the op of the same name, whose docstring it has, and its settings.

A layer is a line; settings stand in PyTorch's order.
"""

from __future__ import annotations

from tinygrad_cnn import checks, ops
from tinygrad_cnn.core import Tensor, TensorLike
from tinygrad_cnn.nn.module import OpLayer
from tinygrad_cnn.settings import setting

__all__ = ["ELU", "GELU", "LeakyReLU", "LogSoftmax", "ReLU", "SiLU", "Sigmoid", "Softmax",
           "Softplus", "Tanh"]


class _Activation(OpLayer):
    def forward(self, x: TensorLike) -> Tensor:
        return type(self).op(x, **self._settings())


class ReLU(_Activation): op = ops.relu
class SiLU(_Activation): op = ops.silu
class Sigmoid(_Activation): op = ops.sigmoid
class Tanh(_Activation): op = ops.tanh


class LeakyReLU(_Activation):
    op = ops.leaky_relu
    negative_slope: float = setting(checks.number, default=0.01)


class ELU(_Activation):
    op = ops.elu
    alpha: float = setting(checks.number, default=1.0)


class GELU(_Activation):
    op = ops.gelu
    approximate: str = setting(checks.choice, default="tanh", options=("tanh",))

    def forward(self, x: TensorLike) -> Tensor:
        return ops.gelu(x)


class Softplus(_Activation):
    """log(1 + exp(beta · x)) / beta, a smooth `ReLU`.

    PyTorch's ``threshold`` is not needed: no size overflows.

    >>> Softplus()([-1000.0, 1000.0]).data
    array([   0., 1000.], dtype=float32)
    """

    beta: float = setting(checks.number, default=1.0, above=0)

    def forward(self, x: TensorLike) -> Tensor:
        if self.beta == 1.0:
            return ops.softplus(x)
        return ops.div(ops.softplus(ops.mul(x, self.beta)), self.beta)


class Softmax(_Activation):
    """exp(x) / Σ exp(x) along an axis: positive, with sum 1.

    Not before `CrossEntropyLoss`, which takes the scores themselves.

    >>> Softmax()([[0.0, 0.0]]).data
    array([[0.5, 0.5]], dtype=float32)
    """

    op = ops.softmax
    axis: int = setting(checks.integer, default=-1)


class LogSoftmax(_Activation):
    op = ops.log_softmax
    axis: int = setting(checks.integer, default=-1)
