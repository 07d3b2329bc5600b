"""The fully connected layer, and layers that only change the shape or nothing."""

from __future__ import annotations

import math
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cnn import checks, ops
from tinygrad_cnn.core import Tensor, TensorLike
from tinygrad_cnn.errors import SettingError, ShapeError
from tinygrad_cnn.nn import init
from tinygrad_cnn.nn.lazy import LazyModule, generator
from tinygrad_cnn.nn.module import Layer, Module
from tinygrad_cnn.settings import setting
from tinygrad_cnn.shapes import Shape
from tinygrad_cnn.types import Array, Function

T = TypeVar("T")

__all__ = ["Embedding", "Flatten", "Identity", "Lambda", "Linear", "Unflatten"]


class Linear(LazyModule[int]):
    """y = x w + b.

    Parameters
    ----------
    in_features : int or None
        I, the size of the last axis of the input; None takes it from the first call.
    out_features : int
        O, the size of the last axis of the output.
    bias : bool, default True
        Whether to add b.
    rng : numpy.random.Generator, optional
        Where the weights are drawn from; the default generator (`manual_seed`) if not given.
    dtype : dtype, default float32
        Of the parameters.

    Attributes
    ----------
    weight : Parameter, shape (I, O)
        Uniform on ±1/√I at first, so that the first scores of a last layer are small.
    bias : Parameter or None, shape (O,)
        Zeros at first.

    Raises
    ------
    SettingError
        If a setting is out of its range.
    ShapeError
        When called, if the input does not fit.
    DTypeError
        When called, if the floats of the input are not of the parameters' dtype.

    Examples
    --------
    >>> Linear(400, 10)(np.zeros((2, 400), np.float32)).shape
    (2, 10)
    >>> Linear(400, 10)(np.zeros((2, 490), np.float32))
    Traceback (most recent call last):
        ...
    tinygrad_cnn.ShapeError: Linear: x has 490 features but the layer takes 400
      x (N I) = (2, 490)
      cure: Linear(in_features=490, out_features=10), or Linear(None, 10), which takes the size from
      the first call
      in the layer Linear: Linear(400, 10)
    """

    pytorch_axes: ClassVar[Shape | None] = (1, 0)                   # O I -> I O
    in_features: int | None = setting(checks.integer, optional=True, minimum=1)
    out_features: int = setting(checks.integer, minimum=1)
    has_bias: bool = setting(checks.flag, default=True, alias="bias")
    rng: np.random.Generator | None = setting(generator, default=None, kw_only=True, shown="never")

    def parameter_shapes(self, size: int) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {"weight": (size, self.out_features)}
        return shapes | ({"bias": (self.out_features,)} if self.has_bias else {})

    def initial_values(self, shapes: dict[str, Shape], rng: np.random.Generator
                       ) -> dict[str, Array]:
        bound = 1 / math.sqrt(shapes["weight"][0])
        weight = init.uniform(shapes["weight"], low=-bound, high=bound, rng=rng, dtype=self.dtype)
        return super().initial_values(shapes, rng) | {"weight": weight}

    def forward(self, x: TensorLike) -> Tensor:
        """(N, ..., I) -> (N, ..., O)."""
        x = self._input(x)
        shape = x._data.shape
        if not shape:
            raise ShapeError("Linear: x needs at least one axis (N I), got shape ()")
        if self.in_features is None:
            self.materialize(shape[-1])
        if shape[-1] != self.in_features:
            raise self._mismatch(shape)
        return ops.linear(x, self.weight, self.bias)

    def _mismatch(self, shape: Shape) -> ShapeError:
        cure = (f"Linear(in_features={shape[-1]}, out_features={self.out_features}), or "
                f"Linear(None, {self.out_features}), which takes the size from the first call")
        if len(shape) > 2 and math.prod(shape[1:]) == self.in_features:
            cure = "nn.Flatten() before this layer makes one row of each image"
        return ShapeError(f"Linear: x has {shape[-1]} features but the layer takes "
                          f"{self.in_features}\n  x ({'N ' + '... ' * (len(shape) > 2)}I) = {shape}"
                          f"\n  cure: {cure}")


class Embedding(LazyModule[int]):
    """A learned row for each index: `tinygrad_cnn.embedding`.

    The rows are standard normal at first; ``rng`` and ``dtype`` as in `Linear`.

    >>> Embedding(10, 3)([[1, 2, 4], [4, 3, 2]]).shape
    (2, 3, 3)
    """

    num_embeddings: int = setting(checks.integer, minimum=1)
    embedding_dim: int = setting(checks.integer, minimum=1)
    rng: np.random.Generator | None = setting(generator, default=None, kw_only=True, shown="never")

    def parameter_shapes(self, size: int) -> dict[str, Shape]:
        return {"weight": (size, self.embedding_dim)}

    def initial_values(self, shapes: dict[str, Shape], rng: np.random.Generator
                       ) -> dict[str, Array]:
        return {"weight": init.normal(shapes["weight"], rng=rng, dtype=self.dtype)}

    def forward(self, indices: ArrayLike) -> Tensor:
        """Integers (...) -> (..., embedding_dim)."""
        return ops.embedding(indices, self.weight)


class Flatten(Layer):
    """One row of each image: (N, H, W, C) -> (N, H·W·C), in reading order.

    ``start_dim`` and ``end_dim`` are the first and the last of the axes that become one.

    >>> Flatten()(np.zeros((2, 4, 4, 3))).shape
    (2, 48)
    >>> Flatten(1, 2)(np.zeros((2, 4, 4, 3))).shape
    (2, 16, 3)
    """

    start_dim: int = setting(checks.integer, default=1)
    end_dim: int = setting(checks.integer, default=-1)

    def forward(self, x: TensorLike) -> Tensor:
        """(N, ...) -> (N, rest)."""
        return ops.flatten(x, start_dim=self.start_dim, end_dim=self.end_dim)


class Unflatten(Layer):
    """Split an axis into several, of which one may be −1: the reverse of `Flatten`.

    >>> Unflatten(1, (4, 4, -1))(np.zeros((2, 48))).shape
    (2, 4, 4, 3)
    """

    dim: int = setting(checks.integer)
    unflattened_size: Shape = setting(checks.sizes, minimum=-1)

    def forward(self, x: TensorLike) -> Tensor:
        """(..., n, ...) -> (..., sizes, ...)."""
        made = x if isinstance(x, Tensor) else Tensor(x)
        i = checks.axis_index("Unflatten", self.dim, made.shape)
        return ops.reshape(made, (*made.shape[:i], *self.unflattened_size, *made.shape[i + 1:]))


class Identity(Module):
    """Give back the input.

    >>> Identity()(Tensor([1.0])).item()
    1.0
    """

    def forward(self, x: T) -> T:
        """X itself."""
        return x


def _function(owner: str, name: str, value: Function) -> Function:
    if not callable(value):
        raise SettingError(f"{owner}: {name} must be callable, got {value!r}")
    return value


class Lambda(Layer):
    """A function of tensors as a layer, for a place in `Sequential`.

    >>> Lambda(lambda x: x * 2)(Tensor([1.0])).item()
    2.0
    """

    function: Function = setting(_function)

    def forward(self, *inputs: object) -> Tensor:
        """What the function gives."""
        return vars(self)["function"](*inputs)

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))
