"""The nets as plain data, their first weights, and a batch: NumPy alone.

A net is a tuple of layers; every library builds the same tuple and starts from the same weights.
Images are N H W C and filters KH KW C O here; adapters convert when they load.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

RELU = "relu"                           # max(x, 0)
POOL = "pool"                           # maximum of windows of 2 × 2
NORM = "norm"                           # batch normalization over N H W
GLOBAL_POOL = "global pool"             # mean over H W


@dataclass(frozen=True)
class Conv:
    """Square filters with padding size // 2: stride 1 keeps the image's size."""

    size: int
    channels: int
    stride: int = 1
    bias: bool = True

    @property
    def padding(self):
        return self.size // 2


@dataclass(frozen=True)
class Linear:
    """Flatten, then a matrix and a bias."""

    classes: int


@dataclass(frozen=True)
class Residual:
    """relu(main(x) + shortcut(x)); an empty shortcut is x itself."""

    main: tuple
    shortcut: tuple = ()


@dataclass(frozen=True)
class Net:
    """Layers, the batch they are timed with, and an SGD rate at which three steps agree."""

    name: str
    image: tuple[int, int, int]         # H W C
    batch: int                          # N
    layers: tuple
    rate: float = 0.01


def _block(channels, stride, project):
    main = (Conv(3, channels, stride, bias=False), NORM, RELU,
            Conv(3, channels, bias=False), NORM)
    return Residual(main, (Conv(1, channels, stride, bias=False), NORM) if project else ())


def _resnet20():
    blocks = [_block(channels, 2 if stage and not i else 1, project=bool(stage and not i))
              for stage, channels in enumerate((16, 32, 64)) for i in range(3)]
    return (Conv(3, 16, bias=False), NORM, RELU, *blocks, GLOBAL_POOL, Linear(10))


NETS = {net.name: net for net in (
    Net("lenet", (28, 28, 1), 64, (Conv(5, 8), RELU, POOL, Conv(5, 16), RELU, POOL,
                                   Linear(10))),
    Net("vgg", (32, 32, 3), 64, (Conv(3, 32), RELU, Conv(3, 32), RELU, POOL,
                                 Conv(3, 64), RELU, Conv(3, 64), RELU, POOL, Linear(10)),
        rate=0.002),
    Net("wide", (32, 32, 64), 32, (Conv(3, 128), RELU, Conv(3, 128), RELU, POOL,
                                   Linear(10)), rate=0.0005),
    Net("resnet20", (32, 32, 3), 64, _resnet20(),       # of He et al., arXiv:1512.03385, option B
        rate=0.002),
)}


def after(layer, image):
    """H W C behind a layer that gets H W C."""
    h, w, c = image
    if isinstance(layer, Conv):
        return -(-h // layer.stride), -(-w // layer.stride), layer.channels
    if layer == POOL:
        return h // 2, w // 2, c
    if layer == GLOBAL_POOL:
        return 1, 1, c
    if isinstance(layer, Linear):
        return 1, 1, layer.classes
    for inner in layer.main if isinstance(layer, Residual) else ():
        image = after(inner, image)
    return image


def walk(layers, image):
    """Every layer with the image that it gets, in the order of the parameters."""
    for layer in layers:
        if isinstance(layer, Residual):
            yield from walk(layer.main, image)
            yield from walk(layer.shortcut, image)
        else:
            yield layer, image
        image = after(layer, image)


class Weight(NamedTuple):
    """A parameter: filters (KH KW C O), matrix (H·W·C of ``image``, K), or a vector."""

    kind: str
    array: np.ndarray
    image: tuple[int, int, int]


class Problem(NamedTuple):
    """A net with its first weights and one batch."""

    net: Net
    weights: list[Weight]
    images: np.ndarray                  # N H W C, float32
    labels: np.ndarray                  # N, int64


def problem(net, batch=None, seed=0):
    """The same weights, images and labels in every process."""
    rng = np.random.default_rng(seed)

    def he(*shape):
        return (math.sqrt(2 / math.prod(shape[:-1])) * rng.standard_normal(shape)).astype("f4")

    weights = []
    for layer, image in walk(net.layers, net.image):
        if isinstance(layer, Conv):
            weights.append(Weight("filters", he(layer.size, layer.size, image[2], layer.channels),
                                  image))
            if layer.bias:
                weights.append(Weight("vector", np.zeros(layer.channels, "f4"), image))
        elif layer == NORM:
            weights += [Weight("vector", np.full(image[2], v, "f4"), image) for v in (1, 0)]
        elif isinstance(layer, Linear):
            weights += [Weight("matrix", he(math.prod(image), layer.classes), image),
                        Weight("vector", np.zeros(layer.classes, "f4"), image)]
    n = batch or net.batch
    images = rng.standard_normal((n, *net.image)).astype("f4")
    return Problem(net, weights, images, rng.integers(0, 10, n))


def flops(net):
    """Floating-point operations of a step: products and sums of the convolutions and the matrix,
    forward and in both gradients; the images need no gradient."""
    total = 0
    for i, (layer, (h, w, c)) in enumerate(walk(net.layers, net.image)):
        passes = 3 if i else 2
        if isinstance(layer, Conv):
            oh, ow, o = after(layer, (h, w, c))
            total += passes * 2 * oh * ow * o * layer.size ** 2 * c
        elif isinstance(layer, Linear):
            total += passes * 2 * h * w * c * layer.classes
    return total * net.batch
