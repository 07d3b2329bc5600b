"""`Weighted`: layers with parameters, which may learn their input size from the first call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tinygrad_cnn.core import Parameter
from tinygrad_cnn.nn.module import Module
from tinygrad_cnn.nn.state import float_dtype, refuse_waiting
from tinygrad_cnn.ops import default_generator
from tinygrad_cnn.shapes import Shape

__all__ = ["Weighted"]


class Weighted(Module):
    """A layer whose parameters have shapes that depend on the size of its input.

    A subclass names that setting in ``awaits``, gives `shapes_at` and `initial`, and calls `begin`
    at the end of its ``__init__``.

    Attributes
    ----------
    dtype : dtype
        Of the parameters.
    """

    awaits: ClassVar[str | None] = "in_features"
    weight: Parameter
    bias: Parameter | None
    dtype: np.dtype[Any]

    def begin(self, dtype: Any, rng: np.random.Generator | None) -> None:
        """Make the parameters if the input size is known, or keep the generator until it is."""
        self.dtype = float_dtype(type(self).__name__, dtype)
        self._rng = default_generator(rng)
        assert self.awaits is not None
        size = vars(self)[self.awaits]
        if size is not None:
            self.build(size)

    def build(self, size: int) -> None:
        """Make the parameters for this input size."""
        assert self.awaits is not None
        shapes = self.shapes_at(size)                   # refuses what does not fit
        vars(self)[self.awaits] = size
        for name, array in self.initial(shapes, self._rng).items():
            setattr(self, name, Parameter(array))
        for name in ("weight", "bias"):
            vars(self).setdefault(name, None)
        del self._rng

    def ready(self, size: int) -> None:
        """Make the parameters now if they wait for the input size."""
        assert self.awaits is not None
        if vars(self)[self.awaits] is None:
            self.build(size)

    def initial(self, shapes: dict[str, Shape], rng: np.random.Generator
                ) -> dict[str, np.ndarray[Any, Any]]:
        """The first values of each parameter."""
        raise NotImplementedError

    def size_from(self, shapes: Mapping[str, Shape]) -> int | None:
        """The input size that a weight of this shape implies, if the rest of the shape fits."""
        shape = shapes.get("weight")
        size = None if shape is None else self.size_of(shape)
        return size if size and self.shapes_at(size).get("weight") == shape else None

    def size_of(self, weight: Shape) -> int | None:
        """The input size in the shape of the weight: its first axis, unless overridden."""
        return weight[0] if weight else None

    def __getattr__(self, name: str) -> Any:
        if name in ("weight", "bias") and self.awaits in vars(self):
            refuse_waiting("", self)
        return super().__getattr__(name)
