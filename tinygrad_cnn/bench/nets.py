"""The nets of the benchmark as plain data, their first weights, and a batch: NumPy alone.

A net is a tuple of layers; every framework walks the same tuple with the same weights.  Images are
N H W C and filters KH KW C O here; who wants another order converts when loading.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.errors import SettingError

__all__ = ["NETS", "Conv", "GlobalPool", "Layer", "Linear", "Net", "Norm", "Pool", "Problem",
           "Relu", "Residual", "Weight", "flops", "lookup", "problem", "weights"]

Array = NDArray[Any]
Image = tuple[int, int, int]            # H W C


@dataclass(frozen=True)
class Conv:
    """Square filters with half their size of padding, so that stride 1 keeps the image's size."""

    size: int
    channels: int
    stride: int = 1
    bias: bool = True

    @property
    def padding(self) -> int:
        """Zeros on each side, pixels."""
        return self.size // 2


@dataclass(frozen=True)
class Relu:
    """max(x, 0)."""


@dataclass(frozen=True)
class Pool:
    """Largest value of each window of 2 × 2."""

    size: int = 2


@dataclass(frozen=True)
class Norm:
    """Batch normalisation over N H W."""


@dataclass(frozen=True)
class GlobalPool:
    """Mean over H W."""


@dataclass(frozen=True)
class Linear:
    """Flatten, and a matrix with a bias."""

    classes: int


@dataclass(frozen=True)
class Residual:
    """relu(main(x) + shortcut(x)); an empty shortcut is x itself."""

    main: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] = ()


Layer = Conv | Relu | Pool | Norm | GlobalPool | Linear | Residual


@dataclass(frozen=True)
class Net:
    """A net and the batch that it is timed with.

    Attributes
    ----------
    name : str
        What tables call it.
    image : (int, int, int)
        H W C.
    batch : int
        N.
    layers : tuple of Layer
        First to last.
    rate : float
        Step size of plain SGD: small enough that three steps agree in every framework.
    """

    name: str
    image: Image
    batch: int
    layers: tuple[Layer, ...]
    rate: float = 0.01


def _block(channels: int, stride: int, project: bool) -> Residual:
    main = (Conv(3, channels, stride, bias=False), Norm(), Relu(),
            Conv(3, channels, bias=False), Norm())
    return Residual(main, (Conv(1, channels, stride, bias=False), Norm()) if project else ())


def _resnet20() -> tuple[Layer, ...]:
    blocks = [_block(channels, 2 if stage and not i else 1, project=bool(stage and not i))
              for stage, channels in enumerate((16, 32, 64)) for i in range(3)]
    return (Conv(3, 16, bias=False), Norm(), Relu(), *blocks, GlobalPool(), Linear(10))


NETS: dict[str, Net] = {net.name: net for net in (
    Net("lenet", (28, 28, 1), 64, (Conv(5, 8), Relu(), Pool(), Conv(5, 16), Relu(), Pool(),
                                   Linear(10))),
    Net("vgg", (32, 32, 3), 64, (Conv(3, 32), Relu(), Conv(3, 32), Relu(), Pool(),
                                 Conv(3, 64), Relu(), Conv(3, 64), Relu(), Pool(), Linear(10)),
        rate=0.002),
    Net("wide", (32, 32, 64), 32, (Conv(3, 128), Relu(), Conv(3, 128), Relu(), Pool(),
                                   Linear(10)), rate=0.0005),
    Net("resnet20", (32, 32, 3), 64, _resnet20()),
)}
"""Name -> net.  ResNet-20 is the one for CIFAR-10 of He et al., arXiv:1512.03385, with projections
(their option B) where the image shrinks."""


def lookup(name: str, *, batch: int | None = None) -> Net:
    """The net of that name, with another batch size if one is given.

    Raises
    ------
    SettingError
        If there is no such net, or the batch is below 1.

    Examples
    --------
    >>> lookup("lenet", batch=8).batch
    8
    """
    if name not in NETS:
        raise SettingError(f"bench: there is no net {name!r}; choose from {', '.join(NETS)}")
    if batch is not None and batch < 1:
        raise SettingError(f"bench: batch must be at least 1, got {batch}")
    return NETS[name] if batch is None else replace(NETS[name], batch=batch)


# ---- shapes, weights, work

def _after(layer: Layer, image: Image) -> Image:
    h, w, c = image
    match layer:
        case Conv(stride=stride, channels=channels):
            return -(-h // stride), -(-w // stride), channels     # odd filters, padding size // 2
        case Pool(size=size):
            return h // size, w // size, c
        case GlobalPool():
            return 1, 1, c
        case Linear(classes=classes):
            return 1, 1, classes
        case Residual(main=main):
            for inner in main:
                image = _after(inner, image)
            return image
        case _:
            return image


def _walk(layers: tuple[Layer, ...], image: Image) -> Iterator[tuple[Layer, Image]]:
    """Every layer with the image that it is given, in the order in which weights are asked for."""
    for layer in layers:
        if isinstance(layer, Residual):
            yield from _walk(layer.main, image)
            yield from _walk(layer.shortcut, image)
        else:
            yield layer, image
        image = _after(layer, image)


class Weight(NamedTuple):
    """One array of a net, and what it is.

    ``kind`` is filters (KH KW C O), bias (O), scale, shift, mean, var (C) or matrix, whose rows
    belong to the pixels of ``image`` (H W C) in reading order.
    """

    kind: str
    array: Array
    image: Image

    @property
    def trained(self) -> bool:
        """Whether a step updates it; the running statistics of a norm are not trained."""
        return self.kind not in ("mean", "var")


def weights(net: Net, seed: int = 0) -> list[Weight]:
    """The first weights of a net: float32, filters and matrices He-normal, biases zero.

    Examples
    --------
    >>> [(w.kind, w.array.shape) for w in weights(NETS["lenet"])][:3]
    [('filters', (5, 5, 1, 8)), ('bias', (8,)), ('filters', (5, 5, 8, 16))]
    """
    rng = np.random.default_rng(seed)

    def he(*shape: int) -> Array:
        scale = math.sqrt(2 / math.prod(shape[:-1]))
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    found = []
    for layer, image in _walk(net.layers, net.image):
        match layer:
            case Conv(size=size, channels=o, bias=bias):
                found.append(Weight("filters", he(size, size, image[2], o), image))
                if bias:
                    found.append(Weight("bias", np.zeros(o, np.float32), image))
            case Norm():
                for kind, value in (("scale", 1), ("shift", 0), ("mean", 0), ("var", 1)):
                    array = np.full(image[2], value, np.float32)
                    found.append(Weight(kind, array, image))
            case Linear(classes=classes):
                found.append(Weight("matrix", he(math.prod(image), classes), image))
                found.append(Weight("bias", np.zeros(classes, np.float32), image))
    return found


class Problem(NamedTuple):
    """A net with its first weights and one batch."""

    net: Net
    weights: list[Weight]
    images: Array                       # N H W C, float32
    labels: Array                       # N, int64


def problem(net: Net, seed: int = 0) -> Problem:
    """The same weights, images and labels in every process, from a seed."""
    rng = np.random.default_rng(seed + 1)
    images = rng.standard_normal((net.batch, *net.image)).astype(np.float32)
    return Problem(net, weights(net, seed), images, rng.integers(0, 10, net.batch))


def flops(net: Net) -> int:
    """Floating-point operations of one step: products and sums of the convolutions and the matrix,
    forward and in both gradients; the first layer has no gradient of its input.

    Examples
    --------
    >>> round(flops(NETS["vgg"]) / 1e9, 1)
    9.3
    """
    total = 0
    for i, (layer, (h, w, c)) in enumerate(_walk(net.layers, net.image)):
        passes = 3 if i else 2
        if isinstance(layer, Conv):
            oh, ow, o = _after(layer, (h, w, c))
            total += passes * 2 * oh * ow * o * layer.size ** 2 * c
        elif isinstance(layer, Linear):
            total += passes * 2 * h * w * c * layer.classes
    return total * net.batch
