"""`LazyModule`: layers with parameters, which may learn their input size from the first call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from tinygrad_cnn.core import Parameter, Tensor, TensorLike, standing_for, writable
from tinygrad_cnn.errors import DTypeError, SettingError
from tinygrad_cnn.nn import init
from tinygrad_cnn.nn.module import Layer
from tinygrad_cnn.nn.state import float_dtype
from tinygrad_cnn.ops import default_generator
from tinygrad_cnn.settings import setting
from tinygrad_cnn.shapes import Shape
from tinygrad_cnn.types import Array

__all__ = ["LazyModule"]

Size = TypeVar("Size", int, Shape)              # channels or features, or the last axes


def generator(owner: str, name: str, value: np.random.Generator) -> np.random.Generator:
    """The check of a setting ``rng``."""
    return default_generator(value)


class _Held:
    """What a layer with parameters holds, besides its settings."""

    weight: Parameter
    bias: Parameter | None
    op: ClassVar[Callable[..., Tensor]]


class LazyModule(_Held, Layer, Generic[Size]):
    """A layer whose parameters have shapes that depend on the size of its input.

    That size is the first setting that a subclass declares.  A subclass gives `parameter_shapes`
    and `initial_values`, and calls `materialize` in its ``forward``.

    Attributes
    ----------
    dtype : dtype
        Of the parameters.
    """

    dtype: DTypeLike = setting(lambda owner, name, value: float_dtype(owner, value),
                               default=np.float32, kw_only=True)

    @property
    def lazy_setting(self) -> str:
        """The name of the setting that the first call may tell."""
        return next(iter(self.declared))

    def _setup(self) -> None:
        self._rng = default_generator(vars(self).pop("rng", None))
        size = vars(self)[self.lazy_setting]
        vars(self)[self.lazy_setting] = None
        if size is not None:
            self.materialize(size)

    def materialize(self, size: Size) -> None:
        """Make the parameters now, unless there are some."""
        if not self._is_lazy():
            return
        shapes = self.parameter_shapes(size)            # refuses what does not fit
        vars(self)[self.lazy_setting] = size
        for name, array in self.initial_values(shapes, self._rng).items():
            setattr(self, name, array if name in self._buffer_names else Parameter(array))
        for name in ("weight", "bias"):
            vars(self).setdefault(name, None)
        del self._rng

    def reset_parameters(self, rng: np.random.Generator | None = None) -> None:
        """Draw the parameters anew, in place, and set the buffers to their first values.

        Parameters
        ----------
        rng : numpy.random.Generator, optional
            The default generator if not given.

        Raises
        ------
        SettingError
            If the layer has no parameters yet, or ``rng`` is not a generator.
        """
        self.require_initialized()
        shapes = self.parameter_shapes(vars(self)[self.lazy_setting])
        for name, array in self.initial_values(shapes, default_generator(rng)).items():
            held = vars(self)[name]
            (writable(held) if isinstance(held, Parameter) else held)[...] = array

    def parameter_shapes(self, size: Size) -> dict[str, Shape]:
        """The shapes of parameters and of buffers that depend on this input size."""
        raise NotImplementedError

    def initial_values(self, shapes: dict[str, Shape], rng: np.random.Generator
                       ) -> dict[str, Array]:
        """The first values of each of them: here zeros, for the bias."""
        return {name: init.zeros(shape, dtype=self.dtype) for name, shape in shapes.items()}

    def infer_size(self, shapes: Mapping[str, Shape]) -> Size | None:
        """The input size that parameters of these shapes imply, if they fit."""
        shape = shapes.get("weight")
        size = None if shape is None else self._size_of(shape)
        return size if size and self.parameter_shapes(size).get("weight") == shape else None

    def _size_of(self, weight: Shape) -> Size | None:
        return weight[0] if weight else None            # type: ignore[return-value]

    def _is_lazy(self) -> bool:
        return vars(self).get(self.lazy_setting, ...) is None

    def require_initialized(self, path: str = "") -> None:
        """Raise if there are no parameters yet because the input size is not known."""
        if self._is_lazy():
            where = f"{path}: " if path else ""
            raise SettingError(f"{where}{self!r} takes its {self.lazy_setting} from its first "
                               "call, so it has no parameters yet; call the model once, as in "
                               "model(x), before asking for them")

    def _input(self, x: TensorLike) -> Tensor:
        """The input as a tensor; floats of another dtype than the layer's are refused."""
        made: Tensor = x if isinstance(x, Tensor) else standing_for(x, Tensor(x))
        dtype = made._data.dtype
        if dtype is not self.dtype and dtype.kind == "f" and dtype != self.dtype:
            raise DTypeError(f"{type(self).__name__}: x is {dtype} but the parameters are "
                             f"{self.dtype}\n  cure: x.astype(np.{self.dtype}), or "
                             f"model.astype(np.{dtype}) once")
        return made

    def __getattr__(self, name: str) -> Any:
        if name in ("weight", "bias") and self.lazy_setting in vars(self):
            self.require_initialized()
        return super().__getattr__(name)
