"""The fully connected layer, and what comes before it: flatten."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from tinygrad_cnn import checks, ops
from tinygrad_cnn.core import Tensor
from tinygrad_cnn.errors import ShapeError
from tinygrad_cnn.nn import init
from tinygrad_cnn.nn.lazy import LazyModule
from tinygrad_cnn.nn.module import Module, show
from tinygrad_cnn.shapes import Shape

__all__ = ["Flatten", "Identity", "Linear"]


class Linear(LazyModule):
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

    lazy_setting: ClassVar[str] = "in_features"
    in_features: int | None
    pytorch_axes: ClassVar[tuple[int, ...] | None] = (1, 0)                 # O I -> I O

    def __init__(self, in_features: int | None, out_features: int, *, bias: bool = True,
                 rng: np.random.Generator | None = None, dtype: Any = np.float32) -> None:
        super().__init__()
        self.out_features = checks.integer("Linear", "out_features", out_features, minimum=1)
        self.has_bias = checks.flag("Linear", "bias", bias)
        self.lazy_parameters(in_features, dtype=dtype, rng=rng)

    def parameter_shapes(self, size: int) -> dict[str, Shape]:
        """I O, and O if there is a bias."""
        shapes: dict[str, Shape] = {"weight": (size, self.out_features)}
        return shapes | ({"bias": (self.out_features,)} if self.has_bias else {})

    def initial_values(self, shapes: dict[str, Shape], rng: np.random.Generator
                       ) -> dict[str, np.ndarray[Any, Any]]:
        """Small uniform weights, and a bias of zeros."""
        bound = 1 / math.sqrt(shapes["weight"][0])
        weight = init.uniform(shapes["weight"], low=-bound, high=bound, rng=rng, dtype=self.dtype)
        return super().initial_values(shapes, rng) | {"weight": weight}

    def forward(self, x: Any) -> Tensor:
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

    def extra_repr(self) -> str:
        """Sizes, and what is not the default."""
        return show(self.in_features, self.out_features, bias=(self.has_bias, True),
                    dtype=(str(self.dtype), "float32"))


class Flatten(Module):
    """One row of each image: (N, H, W, C) -> (N, H·W·C), in reading order.

    Parameters
    ----------
    start_dim, end_dim : int, default 1 and -1
        The first and the last of the axes that become one, which the input must have.

    Examples
    --------
    >>> Flatten()(np.zeros((2, 4, 4, 3))).shape
    (2, 48)
    >>> Flatten(1, 2)(np.zeros((2, 4, 4, 3))).shape
    (2, 16, 3)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = checks.integer("Flatten", "start_dim", start_dim)
        self.end_dim = checks.integer("Flatten", "end_dim", end_dim)

    def forward(self, x: Any) -> Tensor:
        """(N, ...) -> (N, rest)."""
        return ops.flatten(x, start_dim=self.start_dim, end_dim=self.end_dim)

    def extra_repr(self) -> str:
        """What is not the default."""
        return show(start_dim=(self.start_dim, 1), end_dim=(self.end_dim, -1))


class Identity(Module):
    """Give back the input.

    >>> Identity()(Tensor([1.0])).item()
    1.0
    """

    def forward(self, x: Any) -> Any:
        """X itself."""
        return x
