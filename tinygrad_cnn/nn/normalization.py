"""Normalization and dropout layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tinygrad_cnn import ops
from tinygrad_cnn.core import Tensor, as_flag
from tinygrad_cnn.errors import ShapeError
from tinygrad_cnn.nn import init
from tinygrad_cnn.nn.module import Module
from tinygrad_cnn.nn.settings import as_tensor, images, number, optional_count, show
from tinygrad_cnn.nn.weighted import Weighted
from tinygrad_cnn.ops.normalize import batch_norm_with_statistics
from tinygrad_cnn.shapes import Shape

__all__ = ["BatchNorm1D", "BatchNorm2D", "Dropout", "LayerNorm"]


class _Norm(Weighted):
    """Scale and shift for each entry of the last axis."""

    awaits: ClassVar[str | None] = "num_features"
    num_features: int | None

    def shapes_at(self, size: int) -> dict[str, Shape]:
        """Scale and shift."""
        return {"weight": (size,), "bias": (size,)}

    def initial(self, shapes: dict[str, Shape], rng: np.random.Generator
                ) -> dict[str, np.ndarray[Any, Any]]:
        """Scale 1, shift 0."""
        return {name: (init.ones if name == "weight" else init.zeros)(shape, dtype=self.dtype)
                for name, shape in shapes.items()}

    def _refuse_size(self, x: Tensor) -> None:
        if x.shape[-1] != self.num_features:
            raise ShapeError(f"{type(self).__name__}: the last axis of x has {x.shape[-1]} entries "
                             f"but the layer takes {self.num_features}\n  x = {x.shape}")


class _BatchNorm(_Norm):
    """Both batch normalizations: statistics, and the choice between them."""

    minima: ClassVar[Mapping[str, float]] = {"running_var": 0, "num_batches_tracked": 0}
    running_mean: np.ndarray[Any, Any]
    running_var: np.ndarray[Any, Any]
    num_batches_tracked: np.ndarray[Any, Any]

    def __init__(self, num_features: int | None = None, *, momentum: float | None = 0.1,
                 eps: float = 1e-5, affine: bool = True, dtype: Any = np.float32) -> None:
        super().__init__()
        who = type(self).__name__
        self.num_features = optional_count(who, "num_features", num_features)
        self.momentum = None if momentum is None else number(who, "momentum", momentum, low=0.0,
                                                             high=1.0)
        self.eps = number(who, "eps", eps, low=0.0, open_low=True)
        self.affine = as_flag(affine, who, "affine")
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, None)
        self.register_buffer("num_batches_tracked", np.zeros((), np.int64))
        self.begin(dtype, None)

    def build(self, size: int) -> None:
        """Scale, shift and running statistics: mean 0, variance 1 until a batch comes."""
        super().build(size)
        self.running_mean = np.zeros(size, self.dtype)
        self.running_var = np.ones(size, self.dtype)

    def shapes_at(self, size: int) -> dict[str, Shape]:
        """Scale and shift, unless the layer has none, and running statistics."""
        own = super().shapes_at(size) if self.affine else {}
        return own | {"running_mean": (size,), "running_var": (size,)}

    def initial(self, shapes: dict[str, Shape], rng: np.random.Generator
                ) -> dict[str, np.ndarray[Any, Any]]:
        """Scale 1, shift 0."""
        own = {k: v for k, v in shapes.items() if k in ("weight", "bias")}
        return super().initial(own, rng)

    def size_from(self, shapes: Mapping[str, Shape]) -> int | None:
        """The channels, from the running statistics."""
        shape = shapes.get("running_mean", ())
        return shape[0] if len(shape) == 1 else None

    def _scale_and_shift(self) -> tuple[Any, Any]:
        if self.affine:
            return self.weight, self.bias
        return np.ones_like(self.running_mean), np.zeros_like(self.running_mean)

    def _checked(self, x: Any) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Any) -> Tensor:
        """Standardize each channel by the batch's statistics, or in evaluation by the running ones.

        In training the running statistics take in those of the batch.
        """
        x = self._checked(as_tensor(type(self).__name__, x, self.dtype))
        self.ready(x.shape[-1])
        self._refuse_size(x)
        w, b = self._scale_and_shift()
        if not self.training:
            return ops.batch_norm(x, w, b, mean=self.running_mean, var=self.running_var,
                                  eps=self.eps)
        y, mean, var = batch_norm_with_statistics(x, w, b, eps=self.eps)
        self._take_in(mean, var, x.size // x.shape[-1])
        return y

    def _take_in(self, mean: np.ndarray[Any, Any], var: np.ndarray[Any, Any], n: int) -> None:
        self.num_batches_tracked += 1
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, new in ((self.running_mean, mean), (self.running_var, var * (n / (n - 1)))):
            running *= 1 - share
            running += share * new

    def extra_repr(self) -> str:
        """Size, and what is not the default."""
        return show(self.num_features, momentum=(self.momentum, 0.1), eps=(self.eps, 1e-5),
                    affine=(self.affine, True), dtype=(str(self.dtype), "float32"))


class BatchNorm2D(_BatchNorm):
    """Standardize each channel of images over the batch, then scale and shift it.

    In training, y = (x − mean) / √(var + eps) · w + b with the mean and the biased variance of the
    batch over N, H and W; in evaluation (`Module.eval`) with running averages of both:
    running ← (1 − momentum) · running + momentum · batch, where the variance is the unbiased one.

    Parameters
    ----------
    num_features : int or None, default None
        C of the images N H W C; None takes it from the first call.
    momentum : float or None, default 0.1
        Weight of the **new** value, from 0 to 1; None averages all batches evenly.
    eps : float, default 1e-5
        Keeps the root away from 0.
    affine : bool, default True
        Whether to learn scale w and shift b.
    dtype : dtype, default float32
        Of parameters and running statistics.

    Attributes
    ----------
    weight, bias : Parameter, shape (C,)
        Scale (1 at first) and shift (0 at first).
    running_mean, running_var : ndarray, shape (C,)
        Buffers; 0 and 1 at first.
    num_batches_tracked : ndarray of int64, shape ()
        Buffer: how many batches the averages have taken in.

    Raises
    ------
    SettingError
        If a setting is out of its range.
    ShapeError
        When called, if the input is not N H W C with the C of the layer, or in training holds one
        value for each channel.
    DTypeError
        When called, if the floats of the input are not of the parameters' dtype.

    References
    ----------
    Ioffe & Szegedy, *Batch normalization*, arXiv:1502.03167.

    Examples
    --------
    >>> layer = BatchNorm2D(1)
    >>> y = layer(np.array([1.0, 3.0], np.float32).reshape(2, 1, 1, 1))
    >>> y.data.ravel().round(3)
    array([-1.,  1.], dtype=float32)
    >>> layer.running_mean, layer.running_var        # 0.1 · 2;  0.9 · 1 + 0.1 · 2
    (array([0.2], dtype=float32), array([1.1], dtype=float32))
    """

    def _checked(self, x: Tensor) -> Tensor:
        return images("BatchNorm2D", x, self.num_features)


class BatchNorm1D(_BatchNorm):
    """`BatchNorm2D` for rows (N, C) or sequences (N, L, C): over all axes but the last.

    Parameters
    ----------
    num_features, momentum, eps, affine, dtype
        As in `BatchNorm2D`.

    Raises
    ------
    SettingError, ShapeError, DTypeError
        As `BatchNorm2D`.

    Examples
    --------
    >>> BatchNorm1D(3)(np.eye(3, dtype=np.float32)).shape
    (3, 3)
    """

    def _checked(self, x: Tensor) -> Tensor:
        if x.ndim not in (2, 3):
            raise ShapeError(f"BatchNorm1D: x must be (N, C) or (N, L, C), got {x.shape}"
                             + ("\n  cure: BatchNorm2D for images" if x.ndim == 4 else ""))
        return x


class LayerNorm(_Norm):
    """Standardize each row over its last axis, then scale and shift each entry.

    Parameters
    ----------
    num_features : int or None, default None
        Size of the last axis; None takes it from the first call.
    eps : float, default 1e-5
        Keeps the root away from 0.
    dtype : dtype, default float32
        Of the parameters.

    Attributes
    ----------
    weight, bias : Parameter, shape (C,)
        Scale (1 at first) and shift (0 at first).

    Raises
    ------
    SettingError
        If a setting is out of its range.
    ShapeError
        When called, if the last axis of the input is not C.
    DTypeError
        When called, if the floats of the input are not of the parameters' dtype.

    References
    ----------
    Ba, Kiros & Hinton, *Layer normalization*, arXiv:1607.06450.

    Examples
    --------
    >>> LayerNorm(2)(np.array([[1.0, 3.0]], np.float32)).data.round(3)
    array([[-1.,  1.]], dtype=float32)
    """

    def __init__(self, num_features: int | None = None, *, eps: float = 1e-5,
                 dtype: Any = np.float32) -> None:
        super().__init__()
        self.num_features = optional_count("LayerNorm", "num_features", num_features)
        self.eps = number("LayerNorm", "eps", eps, low=0.0, open_low=True)
        self.begin(dtype, None)

    def forward(self, x: Any) -> Tensor:
        """(..., C) -> (..., C)."""
        x = as_tensor("LayerNorm", x, self.dtype)
        if not x.ndim:
            raise ShapeError("LayerNorm: x needs at least one axis, got shape ()")
        self.ready(x.shape[-1])
        self._refuse_size(x)
        return ops.layer_norm(x, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        """Size, and what is not the default."""
        return show(self.num_features, eps=(self.eps, 1e-5),
                    dtype=(str(self.dtype), "float32"))


class Dropout(Module):
    """In training, set a share ``p`` of the entries to 0 and divide the others by 1 − p.

    In evaluation the input passes unchanged.

    Parameters
    ----------
    p : float, default 0.5
        Probability to drop an entry, from 0 up to, not including, 1.
    rng : numpy.random.Generator, optional
        Where the masks are drawn from; the default generator (`manual_seed`) if not given.

    Raises
    ------
    SettingError
        If ``p`` is out of its range or ``rng`` is no generator.

    References
    ----------
    Srivastava et al., *Dropout*, JMLR 15 (2014), 1929-1958.

    Examples
    --------
    >>> layer = Dropout(0.5, rng=np.random.default_rng(0))
    >>> layer([1.0, 1.0, 1.0, 1.0]).data
    array([2., 2., 2., 0.], dtype=float32)
    >>> layer.eval()([1.0, 1.0, 1.0, 1.0]).data
    array([1., 1., 1., 1.], dtype=float32)
    """

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator | None = None) -> None:
        super().__init__()
        self.p = number("Dropout", "p", p, low=0.0, high=1.0, open_high=True)
        self.rng = None if rng is None else ops.default_generator(rng)

    def forward(self, x: Any) -> Tensor:
        """Entry by entry."""
        return ops.dropout(x, p=self.p, training=self.training, rng=self.rng)

    def extra_repr(self) -> str:
        """The probability."""
        return show(self.p)
