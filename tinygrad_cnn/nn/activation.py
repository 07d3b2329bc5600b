"""Activations as layers; each is the op of the same name, whose docstring it has, and its settings.

A layer is a line; settings stand in PyTorch's order.
"""

from __future__ import annotations

import numpy as np

from tinygrad_cnn import checks, ops
from tinygrad_cnn.core import Tensor, TensorLike
from tinygrad_cnn.nn.lazy import LazyModule
from tinygrad_cnn.nn.module import OpLayer
from tinygrad_cnn.settings import setting
from tinygrad_cnn.shapes import Shape
from tinygrad_cnn.types import Array

__all__ = ["CELU", "ELU", "GELU", "GLU", "SELU", "Hardsigmoid", "Hardswish", "Hardtanh",
           "LeakyReLU", "LogSigmoid", "LogSoftmax", "Mish", "PReLU", "ReLU", "ReLU6", "SiLU",
           "Sigmoid", "Softmax", "Softmin", "Softplus", "Softsign", "Tanh"]


class _Activation(OpLayer):
    def forward(self, x: TensorLike) -> Tensor:
        return type(self).op(x, **self._settings())


class ReLU(_Activation): op = ops.relu
class SiLU(_Activation): op = ops.silu
class Sigmoid(_Activation): op = ops.sigmoid
class Tanh(_Activation): op = ops.tanh
class ReLU6(_Activation): op = ops.relu6
class SELU(_Activation): op = ops.selu
class Mish(_Activation): op = ops.mish
class Hardswish(_Activation): op = ops.hard_swish
class Hardsigmoid(_Activation): op = ops.hard_sigmoid
class Softsign(_Activation): op = ops.softsign
class LogSigmoid(_Activation): op = ops.log_sigmoid


class LeakyReLU(_Activation):
    op = ops.leaky_relu
    negative_slope: float = setting(checks.number, default=0.01)


class ELU(_Activation):
    op = ops.elu
    alpha: float = setting(checks.number, default=1.0)


class CELU(_Activation):
    op = ops.celu
    alpha: float = setting(checks.number, default=1.0)


class Hardtanh(_Activation):
    op = ops.hard_tanh
    min_val: float = setting(checks.number, default=-1.0)
    max_val: float = setting(checks.number, default=1.0)


class GELU(_Activation):
    op = ops.gelu
    approximate: str = setting(checks.choice, default="none", options=("none", "tanh"))


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


class Softmin(_Activation):
    op = ops.softmin
    axis: int = setting(checks.integer, default=-1)


class GLU(_Activation):
    op = ops.glu
    axis: int = setting(checks.integer, default=-1)


class PReLU(LazyModule[int]):
    """x above zero, w · x elsewhere, with a slope w that is learned: `tinygrad_cnn.prelu`.

    ``num_parameters`` is 1 or the number of channels, ``init`` the first value of the slopes.

    >>> PReLU()(Tensor([-2.0, 2.0])).data
    array([-0.5,  2. ], dtype=float32)
    """

    num_parameters: int = setting(checks.integer, default=1, minimum=1)
    init: float = setting(checks.number, default=0.25)

    def parameter_shapes(self, size: int) -> dict[str, Shape]:
        return {"weight": (size,)}

    def initial_values(self, shapes: dict[str, Shape], rng: np.random.Generator
                       ) -> dict[str, Array]:
        return {"weight": np.full(shapes["weight"], self.init, self.dtype)}

    def forward(self, x: TensorLike) -> Tensor:
        return ops.prelu(self._input(x), self.weight)
