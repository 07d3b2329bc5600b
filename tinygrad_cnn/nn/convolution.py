"""Convolution layers: filters that are learned."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from tinygrad_cnn import ops
from tinygrad_cnn.core import Tensor, as_flag
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.nn import init
from tinygrad_cnn.nn.settings import as_tensor, count, images, optional_count, show
from tinygrad_cnn.nn.weighted import Weighted
from tinygrad_cnn.shapes import Pair, Shape, pair, sides

__all__ = ["Conv2D", "ConvTranspose2D"]


def _plain(value: Pair) -> int | Pair:
    """One number where both are the same, as a person would write it."""
    return value[0] if value[0] == value[1] else value


class _Filters(Weighted):
    """What both convolutions share: settings, checks and first values."""

    awaits: ClassVar[str | None] = "in_channels"

    def __init__(self, in_channels: int | None, out_channels: int, kernel_size: int | Pair = 3, *,
                 stride: int | Pair = 1, padding: Any = 0, dilation: int | Pair = 1,
                 groups: int = 1, bias: bool = True, rng: np.random.Generator | None = None,
                 dtype: Any = np.float32) -> None:
        super().__init__()
        who = type(self).__name__
        self.in_channels = optional_count(who, "in_channels", in_channels)
        self.out_channels = count(who, "out_channels", out_channels)
        self.kernel_size = pair(kernel_size, op=who, setting="kernel_size", least=1)
        self.stride = pair(stride, op=who, setting="stride", least=1)
        self.dilation = pair(dilation, op=who, setting="dilation", least=1)
        sides(padding, op=who, image=(1, 1))            # refuses what is no padding
        self.padding = padding
        self.groups = count(who, "groups", groups)
        self.has_bias = as_flag(bias, who, "bias")
        if self.out_channels % self.groups:
            raise SettingError(f"{who}: out_channels {self.out_channels} cannot be shared out "
                               f"among {self.groups} groups")
        self.begin(dtype, rng)

    def _grouped(self, size: int) -> int:
        if size % self.groups:
            raise SettingError(f"{type(self).__name__}: in_channels {size} cannot be shared out "
                               f"among {self.groups} groups")
        return size // self.groups

    def _inputs_of_an_output(self, size: int) -> float:
        """How many products one pixel of the output adds up."""
        return math.prod(self.kernel_size) * self._grouped(size)

    def initial(self, shapes: dict[str, Shape], rng: np.random.Generator
                ) -> dict[str, np.ndarray[Any, Any]]:
        """He's normal filters and a bias of zeros."""
        assert self.in_channels is not None
        std = math.sqrt(2 / self._inputs_of_an_output(self.in_channels))
        values = {"weight": init.normal(shapes["weight"], std=std, rng=rng, dtype=self.dtype)}
        if self.has_bias:
            values["bias"] = init.zeros(shapes["bias"], dtype=self.dtype)
        return values

    def _prepared(self, x: Any) -> Tensor:
        who = type(self).__name__
        checked = images(who, as_tensor(who, x, self.dtype), self.in_channels)
        self.ready(checked.shape[3])
        return checked

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


class Conv2D(_Filters):
    """Slide learned filters over images and sum the products: `tinygrad_cnn.conv2d` as a layer.

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
        Whether each filter has a number of its own to add.
    rng : numpy.random.Generator, optional
        Where the filters are drawn from; the default generator (`manual_seed`) if not given.
    dtype : dtype, default float32
        Of the parameters.

    Attributes
    ----------
    weight : Parameter, shape (KH, KW, C / groups, O)
        Normal at first, with variance 2 / (KH · KW · C / groups): `init.he_normal`.
    bias : Parameter or None, shape (O,)
        Zeros at first.

    Raises
    ------
    SettingError
        If a setting is out of its range, or groups do not divide the channels.
    ShapeError
        When called, if the input is not N H W C with the C of the layer, or too small.
    DTypeError
        When called, if the floats of the input are not of the parameters' dtype.

    References
    ----------
    LeCun et al., *Gradient-based learning applied to document recognition*, 1998; first values
    from He et al., arXiv:1502.01852.

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

    def shapes_at(self, size: int) -> dict[str, Shape]:
        """The filters, and the bias if there is one."""
        shapes: dict[str, Shape] = {
            "weight": (*self.kernel_size, self._grouped(size), self.out_channels)}
        return shapes | ({"bias": (self.out_channels,)} if self.has_bias else {})

    def size_of(self, weight: Shape) -> int | None:
        """C, from KH KW C/groups O."""
        return weight[2] * self.groups if len(weight) == 4 else None

    def forward(self, x: Any) -> Tensor:
        """N H W C -> N OH OW O."""
        x = self._prepared(x)
        return ops.conv2d(x, self.weight, self.bias, **self._settings())


class ConvTranspose2D(_Filters):
    """Spread each pixel over a window, by learned filters: upsampling, the adjoint of `Conv2D`.

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

    Raises
    ------
    SettingError, ShapeError, DTypeError
        As `Conv2D`.

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
        self.output_padding = pair(output_padding, op="ConvTranspose2D", setting="output_padding",
                                   least=0)
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding,
                         dilation=dilation, groups=groups, bias=bias, rng=rng, dtype=dtype)

    def shapes_at(self, size: int) -> dict[str, Shape]:
        """The filters, and the bias if there is one."""
        self._grouped(size)
        shapes: dict[str, Shape] = {
            "weight": (*self.kernel_size, size, self.out_channels // self.groups)}
        return shapes | ({"bias": (self.out_channels,)} if self.has_bias else {})

    def size_of(self, weight: Shape) -> int | None:
        """C, from KH KW C O/groups."""
        return weight[2] if len(weight) == 4 else None

    def _inputs_of_an_output(self, size: int) -> float:
        return super()._inputs_of_an_output(size) / math.prod(self.stride)

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"output_padding": self.output_padding}

    def forward(self, x: Any) -> Tensor:
        """N H W C -> N OH OW O."""
        x = self._prepared(x)
        return ops.conv_transpose2d(x, self.weight, self.bias,
                                    **self._settings())
