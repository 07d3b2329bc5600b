"""Convolution layers: filters that are learned."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from tinygrad_cnn import checks, ops
from tinygrad_cnn.core import Tensor
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.nn import init
from tinygrad_cnn.nn.lazy import LazyModule
from tinygrad_cnn.nn.module import show
from tinygrad_cnn.shapes import Pair, Shape

__all__ = ["Conv2D", "ConvTranspose2D"]


def _plain(value: Pair) -> int | Pair:
    """One number where both are the same, as a person would write it."""
    return value[0] if value[0] == value[1] else value


class _Convolution(LazyModule):
    """What both convolutions share: settings, checks and first values."""

    lazy_setting: ClassVar[str] = "in_channels"
    in_channels: int | None

    def __init__(self, in_channels: int | None, out_channels: int, kernel_size: int | Pair = 3, *,
                 stride: int | Pair = 1, padding: Any = 0, dilation: int | Pair = 1,
                 groups: int = 1, bias: bool = True, rng: np.random.Generator | None = None,
                 dtype: Any = np.float32) -> None:
        super().__init__()
        owner = type(self).__name__
        self.out_channels = checks.integer(owner, "out_channels", out_channels, minimum=1)
        self.kernel_size = checks.pair(owner, "kernel_size", kernel_size, minimum=1)
        self.stride = checks.pair(owner, "stride", stride, minimum=1)
        self.dilation = checks.pair(owner, "dilation", dilation, minimum=1)
        checks.padding(owner, padding)                    # "same" depends on the image
        self.padding = padding
        self.groups = checks.integer(owner, "groups", groups, minimum=1)
        self.has_bias = checks.flag(owner, "bias", bias)
        if self.out_channels % self.groups:
            raise SettingError(f"{owner}: out_channels={self.out_channels} is not divisible by "
                               f"groups={self.groups}")
        self.lazy_parameters(in_channels, dtype=dtype, rng=rng)

    def _grouped(self, size: int) -> int:
        if size % self.groups:
            raise SettingError(f"{type(self).__name__}: in_channels={size} is not divisible by "
                               f"groups={self.groups}")
        return size // self.groups

    def _fan_in(self, size: int) -> float:
        """How many products one pixel of the output adds up."""
        return math.prod(self.kernel_size) * self._grouped(size)

    def _filter_channels(self, size: int) -> tuple[int, int]:
        """The last two axes of the filters."""
        raise NotImplementedError

    def parameter_shapes(self, size: int) -> dict[str, Shape]:
        """The filters, and O if there is a bias."""
        shapes: dict[str, Shape] = {"weight": (*self.kernel_size, *self._filter_channels(size))}
        return shapes | ({"bias": (self.out_channels,)} if self.has_bias else {})

    def initial_values(self, shapes: dict[str, Shape], rng: np.random.Generator
                       ) -> dict[str, np.ndarray[Any, Any]]:
        """He's normal filters and a bias of zeros."""
        assert self.in_channels is not None
        std = math.sqrt(2 / self._fan_in(self.in_channels))
        weight = init.normal(shapes["weight"], std=std, rng=rng, dtype=self.dtype)
        return super().initial_values(shapes, rng) | {"weight": weight}

    def _prepared(self, x: Any) -> Tensor:
        x = self._images(self._input(x), self.in_channels)
        if self.in_channels is None:
            self.materialize(x.shape[3])
        return x

    def _settings(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation,
                "groups": self.groups}

    def extra_repr(self) -> str:
        """Sizes, and what is not the default."""
        changed = {name: (value if name in ("padding", "groups") else _plain(value),
                          0 if "padding" in name else 1)
                   for name, value in self._settings().items()}
        return show(self.in_channels, self.out_channels,
                    kernel_size=(_plain(self.kernel_size), None), **changed,
                    bias=(self.has_bias, True), dtype=(str(self.dtype), "float32"))


class Conv2D(_Convolution):
    """`tinygrad_cnn.conv2d` with filters that are learned.

    Parameters
    ----------
    in_channels : int or None
        C of the images N H W C; None takes it from the first call.
    out_channels : int
        O, the number of filters.
    kernel_size : int or (int, int), pixels, default 3
        KH, KW: the size of the filters.
    stride : int or (int, int), pixels, default 1
        Distance between window positions, down and across.
    padding : int, (int, int), ((int, int), (int, int)), "same" or "valid", pixels, default 0
        Zeros around the images.
    dilation : int or (int, int), pixels, default 1
        Distance between the pixels under one window.
    groups : int, default 1
        Parts into which the channels are split; C for a depthwise convolution.
    bias : bool, default True
        Whether each filter adds a number of its own.
    rng, dtype
        As in `Linear`.

    Attributes
    ----------
    weight : Parameter, shape (KH, KW, C / groups, O)
        Normal at first, with variance 2 / (KH · KW · C / groups): `init.he_normal`.
    bias : Parameter or None, shape (O,)
        Zeros at first.

    Raises
    ------
    SettingError, ShapeError, DTypeError
        As `Linear`; also if groups do not divide the channels, or the filters do not fit.

    Examples
    --------
    >>> layer = Conv2D(3, 8, 5, padding="same")
    >>> layer(np.zeros((2, 32, 32, 3), np.float32)).shape
    (2, 32, 32, 8)
    >>> layer.weight.shape
    (5, 5, 3, 8)
    >>> layer(np.zeros((2, 3, 32, 32), np.float32))
    Traceback (most recent call last):
        ...
    tinygrad_cnn.ShapeError: Conv2D: x has 32 channels but the layer takes 3
      x (N H W C) = (2, 3, 32, 32)
      cure: these look like N C H W; images here are N H W C: x.transpose(0, 2, 3, 1)
      in the layer Conv2D: Conv2D(3, 8, kernel_size=5, padding='same')
    """

    pytorch_axes: ClassVar[tuple[int, ...] | None] = (2, 3, 1, 0)           # O C KH KW -> KH KW C O

    def _filter_channels(self, size: int) -> tuple[int, int]:
        return self._grouped(size), self.out_channels

    def _size_of(self, weight: Shape) -> int | None:
        return weight[2] * self.groups if len(weight) == 4 else None

    def forward(self, x: Any) -> Tensor:
        """N H W C -> N OH OW O."""
        x = self._prepared(x)                           # makes the weight
        return ops.conv2d(x, self.weight, self.bias, **self._settings())


class ConvTranspose2D(_Convolution):
    """`tinygrad_cnn.conv_transpose2d` with learned filters: upsampling, the adjoint of `Conv2D`.

    Parameters
    ----------
    in_channels : int or None
        C of the images N H W C; None takes it from the first call.
    out_channels : int
        O, the channels of the result.
    kernel_size, stride, padding, dilation, groups, bias, rng, dtype
        As in `Conv2D`; padding is cut off the result, and stride makes it larger.
    output_padding : int or (int, int), pixels, default 0
        Added to the size of the result at the bottom and right.

    Attributes
    ----------
    weight : Parameter, shape (KH, KW, C, O / groups)
        Normal at first, with variance 2 / n, where n = KH · KW · C / (groups · stride²) is the mean
        number of products that a pixel of the result adds up.
    bias : Parameter or None, shape (O,)
        Zeros at first.

    References
    ----------
    Dumoulin & Visin, *A guide to convolution arithmetic for deep learning*, arXiv:1603.07285.

    Examples
    --------
    >>> ConvTranspose2D(8, 3, 2, stride=2)(np.zeros((2, 16, 16, 8), np.float32)).shape
    (2, 32, 32, 3)
    """

    pytorch_axes: ClassVar[tuple[int, ...] | None] = (2, 3, 0, 1)           # C O KH KW -> KH KW C O

    def __init__(self, in_channels: int | None, out_channels: int, kernel_size: int | Pair = 3, *,
                 stride: int | Pair = 1, padding: Any = 0, output_padding: int | Pair = 0,
                 dilation: int | Pair = 1, groups: int = 1, bias: bool = True,
                 rng: np.random.Generator | None = None, dtype: Any = np.float32) -> None:
        self.output_padding = checks.pair("ConvTranspose2D", "output_padding", output_padding,
                                          minimum=0)
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding,
                         dilation=dilation, groups=groups, bias=bias, rng=rng, dtype=dtype)

    def _filter_channels(self, size: int) -> tuple[int, int]:
        self._grouped(size)                             # refuses groups that do not divide C
        return size, self.out_channels // self.groups

    def _size_of(self, weight: Shape) -> int | None:
        return weight[2] if len(weight) == 4 else None

    def _fan_in(self, size: int) -> float:
        return super()._fan_in(size) / math.prod(self.stride)

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"output_padding": self.output_padding}

    def forward(self, x: Any) -> Tensor:
        """N H W C -> N OH OW O."""
        x = self._prepared(x)                           # makes the weight
        return ops.conv_transpose2d(x, self.weight, self.bias, **self._settings())
