"""Normalization and dropout layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tinygrad_cnn import checks, ops
from tinygrad_cnn.core import Tensor
from tinygrad_cnn.errors import ShapeError
from tinygrad_cnn.nn import init
from tinygrad_cnn.nn.lazy import LazyModule
from tinygrad_cnn.nn.module import Module, show
from tinygrad_cnn.ops.normalize import batch_norm_with_statistics
from tinygrad_cnn.shapes import Shape

__all__ = ["BatchNorm1D", "BatchNorm2D", "Dropout", "LayerNorm"]


class _Norm(LazyModule):
    """Scale and shift for each entry of the last axis."""

    def parameter_shapes(self, size: int) -> dict[str, Shape]:
        """Scale and shift."""
        return {"weight": (size,), "bias": (size,)}

    def initial_values(self, shapes: dict[str, Shape], rng: np.random.Generator
                       ) -> dict[str, np.ndarray[Any, Any]]:
        """Ones for scale and variance, zeros for shift and mean."""
        return {name: (init.ones if name in ("weight", "running_var") else init.zeros)(
                    shape, dtype=self.dtype) for name, shape in shapes.items()}

    def _check_size(self, x: Tensor) -> None:
        size = vars(self)[self.lazy_setting]
        if x.shape[-1] != size:
            raise ShapeError(f"{type(self).__name__}: the last axis of x has {x.shape[-1]} entries "
                             f"but the layer takes {size}\n  x = {x.shape}")


class _BatchNorm(_Norm):
    """Both batch normalizations: statistics, and the choice between them."""

    lazy_setting: ClassVar[str] = "num_features"
    minima: ClassVar[Mapping[str, float]] = {"running_var": 0, "num_batches_tracked": 0}
    num_features: int | None
    running_mean: np.ndarray[Any, Any]
    running_var: np.ndarray[Any, Any]
    num_batches_tracked: np.ndarray[Any, Any]

    def __init__(self, num_features: int | None = None, *, momentum: float | None = 0.1,
                 eps: float = 1e-5, affine: bool = True, dtype: Any = np.float32) -> None:
        super().__init__()
        owner = type(self).__name__
        self.momentum = None if momentum is None else checks.number(owner, "momentum", momentum,
                                                                    minimum=0, maximum=1)
        self.eps = checks.number(owner, "eps", eps, above=0)
        self.affine = checks.flag(owner, "affine", affine)
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, None)
        self.register_buffer("num_batches_tracked", np.zeros((), np.int64))
        self.lazy_parameters(num_features, dtype=dtype, rng=None)

    def reset_parameters(self, rng: np.random.Generator | None = None) -> None:
        """Scale 1, shift 0, and running statistics of no batch."""
        super().reset_parameters(rng)
        self.num_batches_tracked[...] = 0

    def parameter_shapes(self, size: int) -> dict[str, Shape]:
        """Scale and shift, unless the layer has none, and running statistics."""
        own = super().parameter_shapes(size) if self.affine else {}
        return own | {"running_mean": (size,), "running_var": (size,)}

    def infer_size(self, shapes: Mapping[str, Shape]) -> int | None:
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
        """By the batch's statistics, which update the running ones; in evaluation by those."""
        x = self._checked(self._input(x))
        self.materialize(x.shape[-1])
        self._check_size(x)
        w, b = self._scale_and_shift()
        if not self.training:
            return ops.batch_norm(x, w, b, mean=self.running_mean, var=self.running_var,
                                  eps=self.eps)
        y, mean, var = batch_norm_with_statistics(x, w, b, eps=self.eps)
        self._update_statistics(mean, var, x.size // x.shape[-1])
        return y

    def _update_statistics(self, mean: np.ndarray[Any, Any], var: np.ndarray[Any, Any],
                           n: int) -> None:
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

    Attributes
    ----------
    weight, bias : Parameter, shape (C,)
        Scale (1 at first) and shift (0 at first).
    running_mean, running_var : ndarray, shape (C,)
        Buffers; 0 and 1 at first.
    num_batches_tracked : ndarray of int64, shape ()
        Buffer: how many batches there were.

    Raises
    ------
    SettingError, ShapeError, DTypeError
        As `Linear`; in training also if there is one value for each channel.

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
        return self._images(x, self.num_features)


class BatchNorm1D(_BatchNorm):
    """`BatchNorm2D` for rows (N, C) or sequences (N, L, C): over all axes but the last.

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
    normalized_shape : int or None, default None
        C, the size of the last axis; None takes it from the first call.
    eps : float, default 1e-5
        Keeps the root away from 0.
    dtype : dtype, default float32

    Attributes
    ----------
    weight, bias : Parameter, shape (C,)
        Scale (1 at first) and shift (0 at first).

    Raises
    ------
    SettingError, ShapeError, DTypeError
        As `Linear`.

    References
    ----------
    Ba, Kiros & Hinton, *Layer normalization*, arXiv:1607.06450.

    Examples
    --------
    >>> LayerNorm(2)(np.array([[1.0, 3.0]], np.float32)).data.round(3)
    array([[-1.,  1.]], dtype=float32)
    """

    lazy_setting: ClassVar[str] = "normalized_shape"
    normalized_shape: int | None

    def __init__(self, normalized_shape: int | None = None, *, eps: float = 1e-5,
                 dtype: Any = np.float32) -> None:
        super().__init__()
        self.eps = checks.number("LayerNorm", "eps", eps, above=0)
        self.lazy_parameters(normalized_shape, dtype=dtype, rng=None)

    def forward(self, x: Any) -> Tensor:
        """(..., C) -> (..., C)."""
        x = self._input(x)
        if not x.ndim:
            raise ShapeError("LayerNorm: x needs at least one axis, got shape ()")
        self.materialize(x.shape[-1])
        self._check_size(x)
        assert self.weight is not None and self.bias is not None
        return ops.layer_norm(x, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        """Size, and what is not the default."""
        return show(self.normalized_shape, eps=(self.eps, 1e-5), dtype=(str(self.dtype), "float32"))


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
        If ``p`` is out of its range or ``rng`` is not a generator.

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
        self.p = checks.number("Dropout", "p", p, minimum=0, below=1)
        self.rng = None if rng is None else ops.default_generator(rng)

    def forward(self, x: Any) -> Tensor:
        """Entry by entry."""
        return ops.dropout(x, p=self.p, training=self.training, rng=self.rng)

    def extra_repr(self) -> str:
        """The probability."""
        return show(self.p)
