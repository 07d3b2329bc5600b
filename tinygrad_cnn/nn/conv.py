"""Convolution layers: filters that are learned."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from tinygrad_cnn import checks, ops
from tinygrad_cnn.core import Tensor, TensorLike
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.nn import init
from tinygrad_cnn.nn.containers import Sequential
from tinygrad_cnn.nn.lazy import LazyModule, generator
from tinygrad_cnn.nn.pool import OverOneRow, row_padding, window_padding
from tinygrad_cnn.settings import setting
from tinygrad_cnn.shapes import PaddingLike, Pair, PairLike, Shape
from tinygrad_cnn.types import Array, Settings

__all__ = ["Conv1D", "Conv2D", "ConvTranspose1D", "ConvTranspose2D", "SeparableConv2D"]


class _Declared:
    """What each convolution declares at its own place in the order."""

    dilation: PairLike
    groups: int
    has_bias: bool


class _Convolution(_Declared, LazyModule[int]):
    """What all convolutions share: settings, checks and first values."""

    in_channels: int | None = setting(checks.integer, optional=True, minimum=1)
    out_channels: int = setting(checks.integer, minimum=1)
    kernel_size: PairLike = setting(checks.pair, default=3, shown="always", minimum=1)
    stride: PairLike = setting(checks.pair, default=1, minimum=1)
    padding: PaddingLike = setting(window_padding, default=0)
    rng: np.random.Generator | None = setting(generator, default=None, kw_only=True, shown="never")

    def _setup(self) -> None:
        if self.out_channels % self.groups:
            raise SettingError(f"{type(self).__name__}: out_channels={self.out_channels} is not "
                               f"divisible by groups={self.groups}")
        super()._setup()

    def _grouped(self, size: int) -> int:
        if size % self.groups:
            raise SettingError(f"{type(self).__name__}: in_channels={size} is not divisible by "
                               f"groups={self.groups}")
        return size // self.groups

    def _window(self) -> Shape:
        return self.kernel_size if isinstance(self.kernel_size, tuple) else (self.kernel_size,)

    def _fan_in(self, size: int) -> float:
        """How many products one pixel of the output adds up."""
        return math.prod(self._window()) * self._grouped(size)

    def _filter_channels(self, size: int) -> Pair:
        """The last two axes of the filters."""
        return self._grouped(size), self.out_channels

    def parameter_shapes(self, size: int) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {"weight": (*self._window(), *self._filter_channels(size))}
        return shapes | ({"bias": (self.out_channels,)} if self.has_bias else {})

    def initial_values(self, shapes: dict[str, Shape], rng: np.random.Generator
                       ) -> dict[str, Array]:
        assert self.in_channels is not None
        std = math.sqrt(2 / self._fan_in(self.in_channels))
        weight = init.normal(shapes["weight"], std=std, rng=rng, dtype=self.dtype)
        return super().initial_values(shapes, rng) | {"weight": weight}

    def _size_of(self, weight: Shape) -> int | None:
        return weight[-2] * self.groups if len(weight) == len(self._window()) + 2 else None

    def _settings(self) -> Settings:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation,
                "groups": self.groups}

    def forward(self, x: TensorLike) -> Tensor:
        """N H W C -> N OH OW O."""
        x = self._images(self._input(x), self.in_channels)
        if self.in_channels is None:
            self.materialize(x.shape[-1])
        w: Tensor = self.weight
        if w._data.ndim == 3:                           # of sequences: filters of one row
            w = ops.expand_dims(w, 0)
        x, settings = self._padded(x, w.shape[:2])
        return type(self).op(x, w, self.bias, **settings)

    def _padded(self, x: Tensor, kernel_size: Shape) -> tuple[Tensor, Settings]:
        """The images, and the settings of the op."""
        return x, self._settings()


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
    padding_mode : {"zeros", "reflect", "replicate", "circular"}, default "zeros"
        What stands in the padding, as `Pad2D` has it.
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

    op = ops.conv2d
    pytorch_axes: ClassVar[Shape | None] = (2, 3, 1, 0)             # O C KH KW -> KH KW C O
    dilation: PairLike = setting(checks.pair, default=1, minimum=1)
    groups: int = setting(checks.integer, default=1, minimum=1)
    has_bias: bool = setting(checks.flag, default=True, alias="bias")
    padding_mode: str = setting(checks.choice, default="zeros",
                                options=("zeros", "reflect", "replicate", "circular"))

    def _padded(self, x: Tensor, kernel_size: Shape) -> tuple[Tensor, Settings]:
        settings = self._settings()
        if self.padding_mode == "zeros":
            return x, settings
        down, across = kernel_size
        steps, apart = (checks.pair("Conv2D", name, settings[name]) for name in ("stride",
                                                                                 "dilation"))
        sides = checks.padding("Conv2D", settings["padding"], image=x.shape[-3:-1],
                               kernel=(down, across), stride=steps, dilation=apart)
        mode = {"replicate": "edge", "circular": "wrap"}.get(self.padding_mode, self.padding_mode)
        return (ops.pad(x, (*((0, 0),) * (x.ndim - 3), *sides, (0, 0)), mode=mode),
                settings | {"padding": 0})


class ConvTranspose2D(_Convolution):
    """`tinygrad_cnn.conv_transpose2d` with learned filters: upsampling, the adjoint of `Conv2D`.

    Dumoulin & Visin, *A guide to convolution arithmetic for deep learning*, arXiv:1603.07285.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, rng, dtype
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

    Examples
    --------
    >>> ConvTranspose2D(8, 3, 2, stride=2)(np.zeros((2, 16, 16, 8), np.float32)).shape
    (2, 32, 32, 3)
    """

    op = ops.conv_transpose2d
    pytorch_axes: ClassVar[Shape | None] = (2, 3, 0, 1)             # C O KH KW -> KH KW C O
    output_padding: PairLike = setting(checks.pair, default=0, minimum=0)
    groups: int = setting(checks.integer, default=1, minimum=1)
    has_bias: bool = setting(checks.flag, default=True, alias="bias")
    dilation: PairLike = setting(checks.pair, default=1, minimum=1)

    def _filter_channels(self, size: int) -> Pair:
        self._grouped(size)                             # refuses groups that do not divide C
        return size, self.out_channels // self.groups

    def _size_of(self, weight: Shape) -> int | None:
        size = super()._size_of(weight)
        return size and size // self.groups

    def _settings(self) -> Settings:
        return super()._settings() | {"output_padding": self.output_padding}

    def _fan_in(self, size: int) -> float:
        stride = (self.stride,) if isinstance(self.stride, int) else self.stride
        return super()._fan_in(size) / math.prod(stride)


class Conv1D(OverOneRow, Conv2D):
    """`Conv2D` for sequences: N L C -> N OL O.  Padding is an integer or (left, right).

    The weight has the shape (K, C / groups, O).

    >>> Conv1D(3, 8, 5, padding="same")(np.zeros((2, 20, 3), np.float32)).shape
    (2, 20, 8)
    """

    pytorch_axes: ClassVar[Shape | None] = (2, 1, 0)                # O C K -> K C O
    kernel_size: int = setting(checks.integer, default=3, shown="always", minimum=1)
    stride: int = setting(checks.integer, default=1, minimum=1)
    padding: int | Pair | str = setting(row_padding, default=0)
    dilation: int = setting(checks.integer, default=1, minimum=1)


class ConvTranspose1D(OverOneRow, ConvTranspose2D):
    """`ConvTranspose2D` for sequences: N L C -> N OL O; the weight is (K, C, O / groups).

    >>> ConvTranspose1D(8, 3, 2, stride=2)(np.zeros((2, 20, 8), np.float32)).shape
    (2, 40, 3)
    """

    pytorch_axes: ClassVar[Shape | None] = (2, 0, 1)                # C O K -> K C O
    kernel_size: int = setting(checks.integer, default=3, shown="always", minimum=1)
    stride: int = setting(checks.integer, default=1, minimum=1)
    padding: int | Pair | str = setting(row_padding, default=0)
    output_padding: int = setting(checks.integer, default=0, minimum=0)
    dilation: int = setting(checks.integer, default=1, minimum=1)


class SeparableConv2D(Sequential):
    """A filter of its own for each channel, then a 1 × 1 convolution that mixes them.

    Parameters are those of `Conv2D`; its parts are ``depthwise`` and ``pointwise``.

    Howard et al., *MobileNets*, arXiv:1704.04861.

    >>> model = SeparableConv2D(16, 32, 3, padding=1)
    >>> sum(p.size for p in model.parameters())         # 3 · 3 · 16 + 16 · 32 + 32; Conv2D: 4,640
    688
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: PairLike = 3,
                 stride: PairLike = 1, padding: PaddingLike = 0, dilation: PairLike = 1,
                 bias: bool = True, *, rng: np.random.Generator | None = None,
                 dtype: DTypeLike = np.float32) -> None:
        super().__init__({
            "depthwise": Conv2D(in_channels, in_channels, kernel_size, stride, padding, dilation,
                                in_channels, False, rng=rng, dtype=dtype),
            "pointwise": Conv2D(in_channels, out_channels, 1, bias=bias, rng=rng, dtype=dtype)})
