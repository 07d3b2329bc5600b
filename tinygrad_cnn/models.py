"""Small convolutional networks, by name: what the command line trains, draws and measures.

Each is a plain module written with ``nn``; read one, copy it, change it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tinygrad_cnn import nn
from tinygrad_cnn.core import Tensor
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.ops import relu

__all__ = ["MODELS", "build", "digits_net", "lenet", "resnet20", "vgg"]

Generator = np.random.Generator | None


def digits_net(channels: int = 1, classes: int = 10, *, rng: Generator = None) -> nn.Sequential:
    """Two convolutions, batch norm, one late pool: for images as small as 8×8.

    Parameters
    ----------
    channels, classes : int
        C of the images, and how many classes there are.
    rng : numpy.random.Generator, optional
        Draws the initial weights and the dropout masks.

    Examples
    --------
    >>> from tinygrad_cnn.models import digits_net
    >>> digits_net()(Tensor(np.zeros((2, 8, 8, 1), np.float32))).shape
    (2, 10)
    """
    return nn.Sequential({
        "conv1": nn.Conv2D(channels, 16, 3, padding=1, bias=False, rng=rng),
        "norm1": nn.BatchNorm2D(16), "relu1": nn.ReLU(),
        "conv2": nn.Conv2D(16, 32, 3, padding=1, bias=False, rng=rng),
        "norm2": nn.BatchNorm2D(32), "relu2": nn.ReLU(),
        "pool": nn.MaxPool2D(2),
        "flatten": nn.Flatten(),
        "dropout": nn.Dropout(0.25, rng=rng),
        "fc": nn.Linear(None, classes, rng=rng)})


def lenet(channels: int = 1, classes: int = 10, *, rng: Generator = None) -> nn.Sequential:
    """Convolution and pooling twice, then two linear layers, after LeNet-5.

    Parameters are those of `digits_net`.

    References
    ----------
    LeCun, Bottou, Bengio & Haffner, *Gradient-based learning applied to document recognition*,
    Proceedings of the IEEE 86 (1998).

    Examples
    --------
    >>> from tinygrad_cnn.models import lenet
    >>> lenet()(Tensor(np.zeros((2, 28, 28, 1), np.float32))).shape
    (2, 10)
    """
    return nn.Sequential({
        "conv1": nn.Conv2D(channels, 16, 5, padding=2, rng=rng),
        "relu1": nn.ReLU(), "pool1": nn.MaxPool2D(2),
        "conv2": nn.Conv2D(16, 32, 5, padding=2, rng=rng),
        "relu2": nn.ReLU(), "pool2": nn.MaxPool2D(2),
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(None, 128, rng=rng), "relu3": nn.ReLU(),
        "fc2": nn.Linear(128, classes, rng=rng)})


def vgg(channels: int = 3, classes: int = 10, *, rng: Generator = None) -> nn.Sequential:
    """Pairs of 3×3 convolutions with a pool after each, and one linear layer.

    Parameters are those of `digits_net`.

    References
    ----------
    Simonyan & Zisserman, *Very deep convolutional networks*, arXiv:1409.1556.

    Examples
    --------
    >>> from tinygrad_cnn.models import vgg
    >>> vgg()(Tensor(np.zeros((2, 32, 32, 3), np.float32))).shape
    (2, 10)
    """
    layers: dict[str, nn.Module] = {}
    before = channels
    for stage, width in enumerate((32, 64), start=1):
        for i in (1, 2):
            layers[f"conv{stage}_{i}"] = nn.Conv2D(before, width, 3, padding=1, bias=False, rng=rng)
            layers[f"norm{stage}_{i}"] = nn.BatchNorm2D(width)
            layers[f"relu{stage}_{i}"] = nn.ReLU()
            before = width
        layers[f"pool{stage}"] = nn.MaxPool2D(2)
    return nn.Sequential(layers | {"flatten": nn.Flatten(),
                                   "fc": nn.Linear(None, classes, rng=rng)})


class _Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    def __init__(self, before: int, width: int, stride: int, rng: Generator) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(before, width, 3, stride=stride, padding=1, bias=False, rng=rng)
        self.norm1 = nn.BatchNorm2D(width)
        self.conv2 = nn.Conv2D(width, width, 3, padding=1, bias=False, rng=rng)
        self.norm2 = nn.BatchNorm2D(width)
        self.shortcut = nn.Identity() if stride == 1 and before == width else nn.Sequential(
            nn.Conv2D(before, width, 1, stride=stride, bias=False, rng=rng), nn.BatchNorm2D(width))

    def forward(self, x: Tensor) -> Tensor:
        h = relu(self.norm1(self.conv1(x)))
        return relu(self.norm2(self.conv2(h)) + self.shortcut(x))


class _ResNet(nn.Module):
    """The CIFAR ResNet: a convolution, three stages of blocks, the mean of each channel."""

    def __init__(self, depth: int, channels: int, classes: int, rng: Generator) -> None:
        super().__init__()
        self.conv = nn.Conv2D(channels, 16, 3, padding=1, bias=False, rng=rng)
        self.norm = nn.BatchNorm2D(16)
        stages, before = [], 16
        for width in (16, 32, 64):
            blocks = []
            for i in range((depth - 2) // 6):
                blocks.append(_Block(before, width, 2 if i == 0 and width > 16 else 1, rng))
                before = width
            stages.append(nn.Sequential(*blocks))
        self.stage1, self.stage2, self.stage3 = stages
        self.pool = nn.GlobalAvgPool2D()
        self.fc = nn.Linear(64, classes, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        h = relu(self.norm(self.conv(x)))
        h = self.stage3(self.stage2(self.stage1(h)))
        out: Tensor = self.fc(self.pool(h))
        return out


def resnet20(channels: int = 3, classes: int = 10, *, depth: int = 20,
             rng: Generator = None) -> nn.Module:
    """The residual network for CIFAR-10, of depth 6n + 2.

    Parameters
    ----------
    channels, classes : int
        C of the images, and how many classes there are.
    depth : int, default 20
        20, 32, 44, 56, ...
    rng : numpy.random.Generator, optional
        Draws the initial weights.

    Raises
    ------
    SettingError
        If the depth is not 6n + 2.

    References
    ----------
    He, Zhang, Ren & Sun, *Deep residual learning for image recognition*, arXiv:1512.03385.

    Examples
    --------
    >>> from tinygrad_cnn.models import resnet20
    >>> resnet20()(Tensor(np.zeros((2, 32, 32, 3), np.float32))).shape
    (2, 10)
    """
    if depth < 8 or (depth - 2) % 6:
        raise SettingError(f"resnet20: depth must be 6n + 2 and at least 8, got {depth}")
    return _ResNet(depth, channels, classes, rng)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "digits": digits_net, "lenet": lenet, "vgg": vgg, "resnet20": resnet20}
"""Name -> function that builds the model."""


def build(name: str, image_shape: tuple[int, int, int], classes: int, *,
          rng: Generator = None) -> nn.Module:
    """Build a model by name for images of a shape, with all its sizes known.

    Parameters
    ----------
    name : str
        One of `MODELS`.
    image_shape : (int, int, int)
        H, W, C.
    classes : int
        How many classes there are.
    rng : numpy.random.Generator, optional
        Draws the initial weights.

    Raises
    ------
    SettingError
        If no model has that name, or the images are too small for it.

    Examples
    --------
    >>> from tinygrad_cnn.models import build
    >>> sum(p.size for p in build("lenet", (28, 28, 1), 10).parameters())
    215370
    """
    if name not in MODELS:
        raise SettingError(f"model {name!r} is unknown; choose from {', '.join(MODELS)}")
    model = MODELS[name](image_shape[2], classes, rng=rng)
    with nn.evaluating(model):
        model(Tensor(np.zeros((1, *image_shape), np.float32)))      # sizes come from the first call
    assert all(math.prod(p.shape) for p in model.parameters())
    return model
