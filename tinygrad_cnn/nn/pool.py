"""Pooling and padding layers: windows without weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

from numpy.typing import ArrayLike

from tinygrad_cnn import checks, ops
from tinygrad_cnn.core import Tensor, TensorLike
from tinygrad_cnn.errors import ShapeError
from tinygrad_cnn.nn.module import Module, OpLayer
from tinygrad_cnn.ops.shape import one_image
from tinygrad_cnn.settings import setting
from tinygrad_cnn.shapes import PaddingLike, Pair, PairLike, Sides
from tinygrad_cnn.types import Settings

__all__ = ["AdaptiveAvgPool2D", "AdaptiveMaxPool2D", "AvgPool1D", "AvgPool2D", "GlobalAvgPool2D",
           "GlobalMaxPool2D", "MaxPool1D", "MaxPool2D", "MaxUnpool2D", "Pad2D", "PixelShuffle",
           "PixelUnshuffle", "Upsample", "ZeroPad2D"]

T = TypeVar("T")

#: What the settings of a window are along the one row of a sequence.
_ALONG_H = {"kernel_size": 1, "stride": 1, "dilation": 1, "padding": 0, "output_padding": 0}


def window_padding(owner: str, name: str, value: T) -> T:
    """The padding of a window as it was given, for "same" depends on the image."""
    checks.padding(owner, value)
    return value


def row_padding(owner: str, name: str, value: T) -> T:
    """The padding of a window along one axis: an integer, (left, right), "same" or "valid"."""
    checks.padding(owner, value if isinstance(value, str) else (0, value))
    return value


def _as_given(owner: str, name: str, value: T) -> T:
    return value                            # the op checks it, beside the size of the images


class _Images(OpLayer):
    """An op of images, called with the settings of the layer."""

    def forward(self, x: TensorLike) -> Tensor:
        return type(self).op(self._images(x), **self._settings())


class OverOneRow(Module):
    """Put before a layer of images: it takes sequences N L C, as images of one row."""

    def _settings(self) -> Settings:
        return {name: (_ALONG_H[name], value)
                if name in _ALONG_H and not isinstance(value, str) else value
                for name, value in super()._settings().items()}      # type: ignore[misc]

    def forward(self, x: TensorLike) -> Tensor:
        """N L C -> N OL C."""
        made = x if isinstance(x, Tensor) else Tensor(x)
        if made.ndim != 3:
            raise ShapeError(f"{type(self).__name__}: x must hold sequences (N L C), got "
                             f"{made.ndim} axes: {made.shape}")
        y: Any = super().forward(ops.expand_dims(made, 1))
        if isinstance(y, Tensor):
            return ops.squeeze(y, 1)
        return ops.squeeze(y[0], 1), y[1][:, 0]         # type: ignore[return-value]


class MaxPool2D(_Images):
    """The largest pixel of each window, channel by channel: `tinygrad_cnn.max_pool2d`.

    Parameters
    ----------
    kernel_size : int or (int, int), pixels, default 2
        Size of the windows.
    stride : int or (int, int), pixels, optional
        Distance between window positions; ``kernel_size`` if not given.
    padding : int, (int, int), ((int, int), (int, int)), "same" or "valid", pixels, default 0
        Around the images; smaller than the window.  A padded pixel is never the largest.
    dilation : int or (int, int), pixels, default 1
        Distance between the pixels under one window.
    return_indices : bool, default False
        Give the place of each maximum too, for `MaxUnpool2D`.
    ceil_mode : bool, default False
        Count windows that stand over the edge.
    ties : {"first", "split", "all"}, default "first"
        Which of equal pixels gets the gradient.

    Examples
    --------
    >>> MaxPool2D(2)(np.zeros((2, 28, 28, 8))).shape
    (2, 14, 14, 8)
    """

    op = ops.max_pool2d
    kernel_size: PairLike = setting(checks.pair, default=2, shown="value", minimum=1)
    stride: PairLike | None = setting(checks.pair, default=None, like="kernel_size", minimum=1)
    padding: PaddingLike = setting(window_padding, default=0)
    dilation: PairLike = setting(checks.pair, default=1, minimum=1)
    return_indices: bool = setting(checks.flag, default=False)
    ceil_mode: bool = setting(checks.flag, default=False)
    ties: str = setting(checks.choice, default="first", kw_only=True,
                        options=("first", "split", "all"))


class AvgPool2D(_Images):
    """The mean of each window, channel by channel: `tinygrad_cnn.avg_pool2d`.

    Parameters
    ----------
    kernel_size, stride, padding, ceil_mode
        As in `MaxPool2D`; padding holds zeros.
    count_include_pad : bool, default True
        Divide by KH · KW everywhere; if False, by the pixels of the image under the window.
    divisor_override : int, optional
        Divide by this instead.

    Examples
    --------
    >>> AvgPool2D(2)(np.ones((1, 4, 4, 1))).data[0, :, :, 0]
    array([[1., 1.],
           [1., 1.]])
    """

    op = ops.avg_pool2d
    kernel_size: PairLike = setting(checks.pair, default=2, shown="value", minimum=1)
    stride: PairLike | None = setting(checks.pair, default=None, like="kernel_size", minimum=1)
    padding: PaddingLike = setting(window_padding, default=0)
    ceil_mode: bool = setting(checks.flag, default=False)
    count_include_pad: bool = setting(checks.flag, default=True)
    divisor_override: int | None = setting(checks.integer, default=None, minimum=1)


class MaxPool1D(OverOneRow, MaxPool2D):
    """`MaxPool2D` for sequences: N L C -> N OL C.  Padding is an integer or (left, right).

    >>> MaxPool1D(2)([[[1.0], [3.0], [2.0], [0.0]]]).data.ravel()
    array([3., 2.], dtype=float32)
    """

    kernel_size: int = setting(checks.integer, default=2, shown="value", minimum=1)
    stride: int | None = setting(checks.integer, default=None, like="kernel_size", minimum=1)
    padding: int | Pair | str = setting(row_padding, default=0)
    dilation: int = setting(checks.integer, default=1, minimum=1)


class AvgPool1D(OverOneRow, AvgPool2D):
    """`AvgPool2D` for sequences: N L C -> N OL C.  Padding is an integer or (left, right).

    >>> AvgPool1D(2)([[[1.0], [3.0], [2.0], [0.0]]]).data.ravel()
    array([2., 1.], dtype=float32)
    """

    kernel_size: int = setting(checks.integer, default=2, shown="value", minimum=1)
    stride: int | None = setting(checks.integer, default=None, like="kernel_size", minimum=1)
    padding: int | Pair | str = setting(row_padding, default=0)


class GlobalAvgPool2D(_Images):
    """The mean of each channel over the whole image: N H W C -> N C, or N 1 1 C.

    Lin, Chen & Yan, *Network in network*, arXiv:1312.4400.

    >>> GlobalAvgPool2D()(np.ones((2, 4, 4, 3))).shape
    (2, 3)
    >>> GlobalAvgPool2D(keepdims=True)(np.ones((2, 4, 4, 3))).shape
    (2, 1, 1, 3)
    """

    op = ops.global_avg_pool2d
    keepdims: bool = setting(checks.flag, default=False)


class GlobalMaxPool2D(_Images): op = ops.global_max_pool2d


class AdaptiveAvgPool2D(_Images):
    op = ops.adaptive_avg_pool2d
    output_size: int | Sequence[int | None] = setting(_as_given)


class AdaptiveMaxPool2D(_Images):
    op: ClassVar[Callable[..., Any]] = ops.adaptive_max_pool2d
    output_size: int | Sequence[int | None] = setting(_as_given)
    return_indices: bool = setting(checks.flag, default=False)


class MaxUnpool2D(OpLayer):
    op = ops.max_unpool2d
    kernel_size: PairLike = setting(checks.pair, minimum=1)
    stride: PairLike | None = setting(checks.pair, default=None, like="kernel_size", minimum=1)
    padding: PairLike = setting(checks.pair, default=0, minimum=0)

    def forward(self, x: TensorLike, indices: ArrayLike,
                output_size: Sequence[int] | None = None) -> Tensor:
        return ops.max_unpool2d(x, indices, output_size=output_size, **self._settings())


class Upsample(_Images):
    """Make images larger: `tinygrad_cnn.interpolate`.

    >>> Upsample(scale_factor=2)(np.zeros((1, 4, 4, 3))).shape
    (1, 8, 8, 3)
    """

    op = ops.interpolate
    size: PairLike | None = setting(checks.pair, default=None, minimum=1)
    scale_factor: float | Sequence[float] | None = setting(_as_given, default=None)
    mode: str = setting(checks.choice, default="nearest", options=("nearest", "bilinear"))
    align_corners: bool = setting(checks.flag, default=False)


class PixelShuffle(_Images):
    op = ops.pixel_shuffle
    upscale_factor: int = setting(checks.integer, minimum=1)


class PixelUnshuffle(_Images):
    op = ops.pixel_unshuffle
    downscale_factor: int = setting(checks.integer, minimum=1)


class Pad2D(_Images):
    """Put more pixels around images.

    Parameters
    ----------
    pad_width : int, (int, int) or ((int, int), (int, int)), pixels
        Everywhere; down, across; (top, bottom), (left, right).
    mode : {"constant", "reflect", "edge", "wrap"}, default "constant"
        A value; the mirror image without the border itself; the border; the other end.
    value : float, default 0.0
        Of mode "constant".

    Examples
    --------
    >>> Pad2D(2, mode="reflect")(np.zeros((1, 4, 4, 3))).shape
    (1, 8, 8, 3)
    """

    op = one_image(ops.pad)
    pad_width: int | Pair | Sides = setting(
        lambda owner, name, value: checks.pad_width(owner, value, name=name))
    mode: str = setting(checks.choice, default="constant",
                        options=("constant", "reflect", "edge", "wrap"))
    value: float = setting(checks.number, default=0.0, finite=False)


class ZeroPad2D(Pad2D):
    """Put zeros around images: `Pad2D` of mode "constant".

    >>> ZeroPad2D(((0, 1), (0, 1)))(np.zeros((1, 4, 4, 3))).shape
    (1, 5, 5, 3)
    """

    def __init__(self, pad_width: int | Pair | Sides) -> None:
        super().__init__(pad_width)
