"""Normalization and dropout layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, cast

import numpy as np

from tinygrad_cnn import checks, ops
from tinygrad_cnn.core import Tensor, TensorLike
from tinygrad_cnn.errors import ShapeError
from tinygrad_cnn.nn import init
from tinygrad_cnn.nn.lazy import LazyModule, Size, generator
from tinygrad_cnn.nn.module import Layer, OpLayer
from tinygrad_cnn.ops.normalize import batch_norm_with_statistics
from tinygrad_cnn.settings import setting
from tinygrad_cnn.shapes import Shape
from tinygrad_cnn.types import Array

__all__ = ["BatchNorm1D", "BatchNorm2D", "DropPath", "Dropout", "Dropout1D", "Dropout2D",
           "GroupNorm", "InstanceNorm2D", "LayerNorm", "LocalResponseNorm", "RMSNorm"]


class _Norm(LazyModule[Size]):
    """Scale and shift, in a shape that the input tells."""

    def parameter_shapes(self, size: Size) -> dict[str, Shape]:
        shape = size if isinstance(size, tuple) else (size,)
        return {"weight": shape, "bias": shape}

    def initial_values(self, shapes: dict[str, Shape], rng: np.random.Generator
                       ) -> dict[str, Array]:
        return {name: (init.ones if name in ("weight", "running_var") else init.zeros)(
                    shape, dtype=self.dtype) for name, shape in shapes.items()}

    def _scale_and_shift(self, shape: Shape) -> tuple[TensorLike, TensorLike]:
        """Those that are no parameters are 1 and 0."""
        return (np.ones(shape, self.dtype) if self.weight is None else self.weight,
                np.zeros(shape, self.dtype) if self.bias is None else self.bias)


    def _of_channels(self, x: Tensor) -> Tensor:
        """The input, if its last axis has as many entries as the layer takes."""
        self.materialize(x.shape[-1])                   # type: ignore[arg-type]
        size = vars(self)[self.lazy_setting]
        if x.shape[-1] != size:
            raise ShapeError(f"{type(self).__name__}: the last axis of x has {x.shape[-1]} entries "
                             f"but the layer takes {size}\n  x = {x.shape}")
        return x


class _BatchNorm(_Norm[int]):
    """Both batch normalizations: statistics, and the choice between them."""

    minima: ClassVar[Mapping[str, float]] = {"running_var": 0, "num_batches_tracked": 0}
    num_features: int | None = setting(checks.integer, default=None, shown="value", minimum=1)
    eps: float = setting(checks.number, default=1e-5, above=0)
    momentum: float | None = setting(checks.number, default=0.1, optional=True, minimum=0,
                                     maximum=1)
    affine: bool = setting(checks.flag, default=True)
    track_running_stats: bool = setting(checks.flag, default=True)

    def _setup(self) -> None:
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, None)
        self.register_buffer("num_batches_tracked",
                             np.zeros((), np.int64) if self.track_running_stats else None)
        super()._setup()

    def reset_parameters(self, rng: np.random.Generator | None = None) -> None:
        super().reset_parameters(rng)
        if self.track_running_stats:
            self.num_batches_tracked[...] = 0

    def parameter_shapes(self, size: int) -> dict[str, Shape]:
        own = super().parameter_shapes(size) if self.affine else {}
        return own | dict.fromkeys(("running_mean", "running_var") * self.track_running_stats,
                                   (size,))

    def infer_size(self, shapes: Mapping[str, Shape]) -> int | None:
        shape = shapes.get("running_mean", shapes.get("weight", ()))
        return shape[0] if len(shape) == 1 else None

    def _checked(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: TensorLike) -> Tensor:
        """By the batch's statistics, which update the running ones; in evaluation by those."""
        x = self._of_channels(self._checked(self._input(x)))
        w, b = self._scale_and_shift(x.shape[-1:])
        if not self.training and self.track_running_stats:
            return ops.batch_norm(x, w, b, mean=self.running_mean, var=self.running_var,
                                  eps=self.eps)
        y, mean, var, n = self._of_batch(x, w, b)
        if self.track_running_stats:
            self._update_statistics(mean, var, n)
        return y

    def _of_batch(self, x: Tensor, w: TensorLike, b: TensorLike
                  ) -> tuple[Tensor, Array, Array, int]:
        """The result, the statistics and of how many values for each channel they are."""
        return (*batch_norm_with_statistics(x, w, b, eps=self.eps), x.size // x.shape[-1])

    def _update_statistics(self, mean: Array, var: Array, n: int) -> None:
        self.num_batches_tracked += 1
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, new in ((self.running_mean, mean), (self.running_var, var * (n / (n - 1)))):
            running *= 1 - share
            running += share * new


class BatchNorm2D(_BatchNorm):
    """Standardize each channel of images over the batch, then scale and shift it.

    In training, y = (x − mean) / √(var + eps) · w + b with the mean and the biased variance of the
    batch over N, H and W; in evaluation (`Module.eval`) with running averages of both:
    running ← (1 − momentum) · running + momentum · batch, where the variance is the unbiased one.

    Ioffe & Szegedy, *Batch normalization*, arXiv:1502.03167.

    Parameters
    ----------
    num_features : int or None, default None
        C of the images N H W C; None takes it from the first call.
    eps : float, default 1e-5
        Keeps the root away from 0.
    momentum : float or None, default 0.1
        Weight of the **new** value, from 0 to 1; None averages all batches evenly.
    affine : bool, default True
        Whether to learn scale w and shift b.
    track_running_stats : bool, default True
        If False there are no running averages, and evaluation takes the batch's statistics too.
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
        return self._images(x, self.num_features, one=False)


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


class _LastAxes(_Norm[Shape]):
    """A norm of each row over its last axes."""

    normalized_shape: int | Shape | None = setting(checks.sizes, default=None, shown="value",
                                                   minimum=1)

    def _size_of(self, weight: Shape) -> Shape:
        return weight

    def _normalized(self, rows: Tensor, size: Shape) -> Tensor:
        raise NotImplementedError

    def forward(self, x: TensorLike) -> Tensor:
        """(..., normalized shape) -> the same."""
        x = self._input(x)
        self.materialize(x.shape[-1:])
        size = cast(Shape, self.normalized_shape)
        if not size or x.shape[-len(size):] != size:
            raise ShapeError(f"{type(self).__name__}: the last axes of x are "
                             f"{x.shape[-len(size or (1,)):]} but the layer takes {size}\n"
                             f"  x = {x.shape}")
        return self._normalized(x, size)


class LayerNorm(_LastAxes):
    """Standardize each row over its last axes, then scale and shift each entry.

    Ba, Kiros & Hinton, *Layer normalization*, arXiv:1607.06450.

    Parameters
    ----------
    normalized_shape : int, tuple of int or None, default None
        The size of the last axis, or of the last axes; None takes that of the last axis from the
        first call.
    eps : float, default 1e-5
        Keeps the root away from 0.
    elementwise_affine : bool, default True
        Whether to learn scale and shift.
    bias : bool, default True
        Whether to learn the shift, if the scale is.
    dtype : dtype, default float32

    Attributes
    ----------
    weight, bias : Parameter or None, of the normalized shape
        Scale (1 at first) and shift (0 at first).

    Examples
    --------
    >>> LayerNorm(2)(np.array([[1.0, 3.0]], np.float32)).data.round(3)
    array([[-1.,  1.]], dtype=float32)
    >>> LayerNorm((8, 8, 3))(np.zeros((2, 8, 8, 3), np.float32)).shape
    (2, 8, 8, 3)
    """

    eps: float = setting(checks.number, default=1e-5, above=0)
    elementwise_affine: bool = setting(checks.flag, default=True)
    has_bias: bool = setting(checks.flag, default=True, alias="bias")

    def parameter_shapes(self, size: Shape) -> dict[str, Shape]:
        names = ("weight", "bias")[:self.elementwise_affine * (1 + self.has_bias)]
        return dict.fromkeys(names, size)

    def _normalized(self, rows: Tensor, size: Shape) -> Tensor:
        w, b = self._scale_and_shift(size)
        return ops.layer_norm(rows, w, b, eps=self.eps)


class RMSNorm(_LastAxes):
    """`LayerNorm` without mean and shift: divide by √(mean of x² + eps), then scale.

    Without ``eps`` it is the smallest step of the dtype.
    Zhang & Sennrich, *Root mean square layer normalization*, arXiv:1910.07467.

    >>> RMSNorm(2)(np.array([[3.0, 4.0]], np.float32)).data.round(3)
    array([[0.849, 1.131]], dtype=float32)
    """

    eps: float | None = setting(checks.number, default=None, above=0)
    elementwise_affine: bool = setting(checks.flag, default=True)

    def parameter_shapes(self, size: Shape) -> dict[str, Shape]:
        return {"weight": size} if self.elementwise_affine else {}

    def _normalized(self, rows: Tensor, size: Shape) -> Tensor:
        w = np.ones(size, rows.dtype) if self.weight is None else self.weight
        return ops.rms_norm(rows, w, eps=self.eps)


class _Affine:
    affine: bool


class _EachImage(_Affine, _Norm[int]):
    """A norm of each image on its own, with scale and shift for each channel if it is affine."""

    def parameter_shapes(self, size: int) -> dict[str, Shape]:
        return super().parameter_shapes(size) if self.affine else {}


class GroupNorm(_EachImage):
    """Standardize each image over the pixels and channels of a group: `tinygrad_cnn.group_norm`.

    ``num_channels`` may be None, to be taken from the first call.
    Wu & He, *Group normalization*, arXiv:1803.08494.

    >>> GroupNorm(2, 4)(np.zeros((1, 8, 8, 4), np.float32)).shape
    (1, 8, 8, 4)
    """

    num_groups: int = setting(checks.integer, minimum=1)
    num_channels: int | None = setting(checks.integer, optional=True, minimum=1)
    eps: float = setting(checks.number, default=1e-5, above=0)
    affine: bool = setting(checks.flag, default=True)

    @property
    def lazy_setting(self) -> str:
        return "num_channels"

    def forward(self, x: TensorLike) -> Tensor:
        """(N, ..., C) -> the same."""
        return ops.group_norm(self._of_channels(self._input(x)), self.num_groups, self.weight,
                              self.bias, eps=self.eps)


class InstanceNorm2D(_EachImage):
    """Standardize each channel of each image on its own: `tinygrad_cnn.instance_norm`.

    Ulyanov, Vedaldi & Lempitsky, *Instance normalization*, arXiv:1607.08022.

    >>> InstanceNorm2D(4)(np.zeros((1, 8, 8, 4), np.float32)).shape
    (1, 8, 8, 4)
    """

    num_features: int | None = setting(checks.integer, default=None, shown="value", minimum=1)
    eps: float = setting(checks.number, default=1e-5, above=0)
    affine: bool = setting(checks.flag, default=False, kw_only=True)

    def forward(self, x: TensorLike) -> Tensor:
        """N H W C -> the same."""
        images = self._of_channels(self._images(self._input(x), one=False))
        return ops.instance_norm(images, self.weight, self.bias, eps=self.eps)


class LocalResponseNorm(OpLayer):
    op = ops.local_response_norm
    size: int = setting(checks.integer, minimum=1)
    alpha: float = setting(checks.number, default=1e-4)
    beta: float = setting(checks.number, default=0.75)
    k: float = setting(checks.number, default=1.0)

    def forward(self, x: TensorLike) -> Tensor:
        return ops.local_response_norm(x, **self._settings())


class Dropout(Layer):
    """In training, set a share ``p`` of the entries to 0 and divide the others by 1 − p.

    In evaluation the input passes unchanged.

    Srivastava et al., *Dropout*, JMLR 15 (2014), 1929-1958.

    Masks are drawn from ``rng``, or from the default generator (`manual_seed`).

    >>> layer = Dropout(0.5, rng=np.random.default_rng(0))
    >>> layer([1.0, 1.0, 1.0, 1.0]).data
    array([2., 2., 2., 0.], dtype=float32)
    >>> layer.eval()([1.0, 1.0, 1.0, 1.0]).data
    array([1., 1., 1., 1.], dtype=float32)
    """

    p: float = setting(checks.number, default=0.5, shown="value", minimum=0, below=1)
    rng: np.random.Generator | None = setting(generator, default=None, kw_only=True, shown="never")

    def _drops(self, shape: Shape) -> Shape | None:
        """The shape of the mask, if it is not that of the input."""
        return None

    def forward(self, x: TensorLike) -> Tensor:
        """Entry by entry, channel by channel or row by row."""
        made = x if isinstance(x, Tensor) else Tensor(x)
        return ops.dropout(made, p=self.p, training=self.training, rng=self.rng,
                           noise_shape=self._drops(made.shape))


class Dropout2D(Dropout):
    """`Dropout` of whole channels of images N H W C.

    Tompson et al., *Efficient object localization using convolutional networks*, arXiv:1411.4280.

    >>> layer = Dropout2D(rng=np.random.default_rng(3))
    >>> layer(np.ones((1, 2, 2, 2), np.float32)).data[0].tolist()
    [[[2.0, 0.0], [2.0, 0.0]], [[2.0, 0.0], [2.0, 0.0]]]
    """

    def _drops(self, shape: Shape) -> Shape:
        if len(shape) < 3:
            raise ShapeError(f"{type(self).__name__}: x must hold images (N H W C) or sequences "
                             f"(N L C), got {len(shape)} axes: {shape}")
        return shape[:1] + (1,) * (len(shape) - 2) + shape[-1:]


class Dropout1D(Dropout2D):
    """`Dropout` of whole channels of sequences N L C.

    >>> Dropout1D(rng=np.random.default_rng(3))(np.ones((1, 2, 2), np.float32)).data[0].tolist()
    [[2.0, 0.0], [2.0, 0.0]]
    """


class DropPath(Dropout):
    """`Dropout` of whole rows of the batch, for the residual branch of a block.

    Huang et al., *Deep networks with stochastic depth*, arXiv:1603.09382.

    >>> DropPath(0.5, rng=np.random.default_rng(3))(np.ones((2, 2), np.float32)).data.tolist()
    [[2.0, 2.0], [0.0, 0.0]]
    """

    def _drops(self, shape: Shape) -> Shape:
        return shape[:1] + (1,) * (len(shape) - 1)
