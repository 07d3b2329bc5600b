"""The fully connected layer, and what comes before it: flatten."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from tinygrad_cnn import ops
from tinygrad_cnn.core import Tensor, as_flag
from tinygrad_cnn.errors import ShapeError
from tinygrad_cnn.nn import init
from tinygrad_cnn.nn.module import Module
from tinygrad_cnn.nn.settings import as_tensor, count, optional_count, show
from tinygrad_cnn.nn.weighted import Weighted
from tinygrad_cnn.shapes import Shape, integer

__all__ = ["Flatten", "Identity", "Linear"]


class Linear(Weighted):
    """y = x w + b: every output is a weighted sum of all inputs.

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
        Even on ±1/√I at first.  A linear layer is mostly the last one: scores that start small
        start the cross-entropy at log K, where larger ones must first be unlearned.
    bias : Parameter or None, shape (O,)
        Zeros at first.

    Raises
    ------
    SettingError
        If a size is not an integer of at least 1.
    ShapeError
        When called, if the last axis of the input is not I.
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

    awaits: ClassVar[str | None] = "in_features"
    pytorch_axes: ClassVar[tuple[int, ...] | None] = (1, 0)                 # O I -> I O

    def __init__(self, in_features: int | None, out_features: int, *, bias: bool = True,
                 rng: np.random.Generator | None = None, dtype: Any = np.float32) -> None:
        super().__init__()
        self.in_features = optional_count("Linear", "in_features", in_features)
        self.out_features = count("Linear", "out_features", out_features)
        self.has_bias = as_flag(bias, "Linear", "bias")
        self.begin(dtype, rng)

    def shapes_at(self, size: int) -> dict[str, Shape]:
        """The weight, and the bias if there is one."""
        shapes: dict[str, Shape] = {"weight": (size, self.out_features)}
        return shapes | ({"bias": (self.out_features,)} if self.has_bias else {})

    def initial(self, shapes: dict[str, Shape], rng: np.random.Generator
                ) -> dict[str, np.ndarray[Any, Any]]:
        """Small even weights, and a bias of zeros."""
        bound = 1 / math.sqrt(shapes["weight"][0])
        values = {"weight": init.uniform(shapes["weight"], low=-bound, high=bound, rng=rng,
                                         dtype=self.dtype)}
        if self.has_bias:
            values["bias"] = init.zeros(shapes["bias"], dtype=self.dtype)
        return values

    def forward(self, x: Any) -> Tensor:
        """(N, ..., I) -> (N, ..., O)."""
        x = as_tensor("Linear", x, self.dtype)
        if x.ndim < 1:
            raise ShapeError("Linear: x needs at least one axis (N I), got shape ()")
        self.ready(x.shape[-1])
        if x.shape[-1] != self.in_features:
            raise self._mismatch(x.shape)
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
        The first and the last of the axes that become one.

    Raises
    ------
    SettingError
        If an axis is not an integer.
    ShapeError
        When called, if the input lacks such an axis, or the last comes before the first.

    Examples
    --------
    >>> Flatten()(np.zeros((2, 4, 4, 3))).shape
    (2, 48)
    >>> Flatten(1, 2)(np.zeros((2, 4, 4, 3))).shape
    (2, 16, 3)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = integer("Flatten", "start_dim", start_dim)
        self.end_dim = integer("Flatten", "end_dim", end_dim)

    def forward(self, x: Any) -> Tensor:
        """(N, ...) -> (N, rest)."""
        return ops.flatten(x, start_dim=self.start_dim, end_dim=self.end_dim)

    def extra_repr(self) -> str:
        """What is not the default."""
        return show(start_dim=(self.start_dim, 1), end_dim=(self.end_dim, -1))


class Identity(Module):
    """Give back the input; stands where a part may be left out.

    Examples
    --------
    >>> Identity()(Tensor([1.0])).item()
    1.0
    """

    def forward(self, x: Any) -> Any:
        """X itself."""
        return x
