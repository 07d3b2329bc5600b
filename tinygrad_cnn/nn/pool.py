"""Pooling and padding layers: windows without weights."""

from __future__ import annotations

from typing import Any, ClassVar

from tinygrad_cnn import checks, ops
from tinygrad_cnn.core import Tensor
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.nn.module import Module, show
from tinygrad_cnn.shapes import Pair

__all__ = ["AvgPool2D", "GlobalAvgPool2D", "MaxPool2D", "Pad2D", "ZeroPad2D"]


class _Pool(Module):
    """What both poolings share: windows, their distance, and padding."""

    more: ClassVar[dict[str, Any]]                      # another setting, and its default

    def __init__(self, kernel_size: int | Pair = 2, stride: int | Pair | None = None, *,
                 padding: Any = 0) -> None:
        super().__init__()
        owner = type(self).__name__
        self.kernel_size = checks.pair(owner, "kernel_size", kernel_size, minimum=1)
        self.stride = (self.kernel_size if stride is None
                       else checks.pair(owner, "stride", stride, minimum=1))
        checks.padding(owner, padding)                    # "same" depends on the image
        self.padding = padding

    def extra_repr(self) -> str:
        """Size, and what is not the default."""
        size, stride = (v[0] if v[0] == v[1] else v for v in (self.kernel_size, self.stride))
        more = {name: (vars(self)[name], default) for name, default in self.more.items()}
        return show(size, stride=(stride, size), padding=(self.padding, 0), **more)


class MaxPool2D(_Pool):
    """The largest pixel of each window, channel by channel: `tinygrad_cnn.max_pool2d`.

    Parameters
    ----------
    kernel_size : int or (int, int), pixels, default 2
        Size of the windows.
    stride : int or (int, int), pixels, optional
        Distance between window positions; ``kernel_size`` if not given.
    padding : int, (int, int), ((int, int), (int, int)), "same" or "valid", pixels, default 0
        Around the images; smaller than the window.  A padded pixel is never the largest.
    ties : {"first", "split", "all"}, default "first"
        Which of equal pixels gets the gradient.

    Raises
    ------
    SettingError
        If a setting is out of its range.
    ShapeError
        When called, if the input is not N H W C, or a window does not fit.

    Examples
    --------
    >>> MaxPool2D(2)(np.zeros((2, 28, 28, 8))).shape
    (2, 14, 14, 8)
    """

    more: ClassVar[dict[str, Any]] = {"ties": "first"}

    def __init__(self, kernel_size: int | Pair = 2, stride: int | Pair | None = None, *,
                 padding: Any = 0, ties: str = "first") -> None:
        super().__init__(kernel_size, stride, padding=padding)
        self.ties = checks.choice("MaxPool2D", "ties", ties, ("first", "split", "all"))

    def forward(self, x: Any) -> Tensor:
        """N H W C -> N OH OW C."""
        return ops.max_pool2d(self._images(x), kernel_size=self.kernel_size, stride=self.stride,
                              padding=self.padding, ties=self.ties)


class AvgPool2D(_Pool):
    """The mean of each window, channel by channel: `tinygrad_cnn.avg_pool2d`.

    Parameters
    ----------
    kernel_size, stride, padding
        As in `MaxPool2D`; padding holds zeros.
    count_include_pad : bool, default True
        Divide by KH · KW everywhere; if False, by the pixels of the image under the window.

    Examples
    --------
    >>> AvgPool2D(2)(np.ones((1, 4, 4, 1))).data[0, :, :, 0]
    array([[1., 1.],
           [1., 1.]])
    """

    more: ClassVar[dict[str, Any]] = {"count_include_pad": True}

    def __init__(self, kernel_size: int | Pair = 2, stride: int | Pair | None = None, *,
                 padding: Any = 0, count_include_pad: bool = True) -> None:
        super().__init__(kernel_size, stride, padding=padding)
        self.count_include_pad = checks.flag("AvgPool2D", "count_include_pad", count_include_pad)

    def forward(self, x: Any) -> Tensor:
        """N H W C -> N OH OW C."""
        return ops.avg_pool2d(self._images(x), kernel_size=self.kernel_size, stride=self.stride,
                              padding=self.padding, count_include_pad=self.count_include_pad)


class GlobalAvgPool2D(Module):
    """The mean of each channel over the whole image.

    Parameters
    ----------
    keepdims : bool, default False
        Give (N, 1, 1, C) instead of (N, C).

    References
    ----------
    Lin, Chen & Yan, *Network in network*, arXiv:1312.4400.

    Examples
    --------
    >>> GlobalAvgPool2D()(np.ones((2, 4, 4, 3))).shape
    (2, 3)
    """

    def __init__(self, keepdims: bool = False) -> None:
        super().__init__()
        self.keepdims = checks.flag("GlobalAvgPool2D", "keepdims", keepdims)

    def forward(self, x: Any) -> Tensor:
        """N H W C -> N C."""
        return ops.global_avg_pool2d(self._images(x), keepdims=self.keepdims)

    def extra_repr(self) -> str:
        """What is not the default."""
        return show(keepdims=(self.keepdims, False))


class Pad2D(Module):
    """Put more pixels around images.

    Parameters
    ----------
    pad_width : int, (int, int) or ((int, int), (int, int)), pixels
        Everywhere; down, across; (top, bottom), (left, right).
    mode : {"constant", "reflect", "edge", "wrap"}, default "constant"
        A value; the mirror image without the border itself; the border; the other end.
    value : float, default 0.0
        Of mode "constant".

    Raises
    ------
    SettingError
        If a width is below 0, the mode is unknown, or the value is not a number.
    ShapeError
        When called, if the input is not N H W C.

    Examples
    --------
    >>> Pad2D(2, mode="reflect")(np.zeros((1, 4, 4, 3))).shape
    (1, 8, 8, 3)
    """

    def __init__(self, pad_width: Any, *, mode: str = "constant", value: float = 0.0) -> None:
        super().__init__()
        owner = type(self).__name__
        self.pad_width = checks.pad_width(owner, pad_width)
        modes = ("constant", "reflect", "edge", "wrap")
        if mode not in modes:
            raise SettingError(f"{owner}: mode {mode!r} has no adjoint; choose from "
                               f"{', '.join(modes)}")
        self.mode = mode
        self.value = checks.number(owner, "value", value, finite=False)

    def forward(self, x: Any) -> Tensor:
        """N H W C -> N (H + top + bottom) (W + left + right) C."""
        return ops.pad(self._images(x), self.pad_width, mode=self.mode, value=self.value)

    def extra_repr(self) -> str:
        """Widths, and what is not the default."""
        down, across = self.pad_width
        one = down[0] if down == across and down[0] == down[1] else self.pad_width
        return show(one, mode=(self.mode, "constant"), value=(self.value, 0.0))


class ZeroPad2D(Pad2D):
    """Put zeros around images: `Pad2D` of mode "constant".

    >>> ZeroPad2D(((0, 1), (0, 1)))(np.zeros((1, 4, 4, 3))).shape
    (1, 5, 5, 3)
    """

    def __init__(self, pad_width: Any) -> None:
        super().__init__(pad_width)
