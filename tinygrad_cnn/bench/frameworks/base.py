"""What every library is asked for; walking a net is written once, here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.bench.cases import Case
from tinygrad_cnn.bench.nets import (
    Conv,
    GlobalPool,
    Layer,
    Linear,
    Norm,
    Pool,
    Problem,
    Relu,
    Residual,
    Weight,
    lookup,
    problem,
    weights,
)
from tinygrad_cnn.data import Dataset, load

__all__ = ["COPY", "GEMM", "Framework", "Timers", "planes", "rows_of_planes"]

Array = NDArray[Any]
GEMM = 2048                             # rows and columns of the matrices of the peak
COPY = 1 << 27                          # bytes that are copied to measure the memory
Timers = dict[str, Callable[[], Any]]


class Framework(ABC):
    """One library, in one process.

    A subclass says how its library makes arrays, applies each layer, takes a step and infers; what
    a case does not fit raises NotImplementedError.
    """

    problem: Problem

    # ---- what a subclass must say

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Package -> version."""

    @abstractmethod
    def load(self, given: Problem) -> None:
        """Make the weights and the batch of a net."""

    @abstractmethod
    def feed(self, images: Array, labels: Array) -> None:
        """Replace the batch."""

    @abstractmethod
    def step(self) -> float:
        """Forward, backward, update; the loss before the update."""

    @abstractmethod
    def infer(self) -> Array:
        """The logits of the batch, N K, by a forward pass without gradients."""

    @abstractmethod
    def conv(self, x: Any, w: Any, b: Any, layer: Conv) -> Any:
        """Convolution and bias; b may be None."""

    @abstractmethod
    def relu(self, x: Any) -> Any:
        """max(x, 0)."""

    @abstractmethod
    def pool(self, x: Any, size: int) -> Any:
        """Largest value of windows that do not overlap."""

    @abstractmethod
    def norm(self, x: Any, w: Any, b: Any, mean: Any, var: Any, training: bool) -> Any:
        """Batch normalisation, with the batch's statistics in training."""

    @abstractmethod
    def global_pool(self, x: Any) -> Any:
        """Mean of each channel over the image."""

    @abstractmethod
    def linear(self, x: Any, w: Any, b: Any) -> Any:
        """Flatten, product, bias."""

    # ---- what is the same for all

    def forward(self, layers: tuple[Layer, ...], x: Any, arrays: Iterator[Any],
                training: bool) -> Any:
        """The logits; ``arrays`` are taken in the order of the layers."""
        for layer in layers:
            if isinstance(layer, Conv):
                w = next(arrays)
                x = self.conv(x, w, next(arrays) if layer.bias else None, layer)
            elif isinstance(layer, Relu):
                x = self.relu(x)
            elif isinstance(layer, Pool):
                x = self.pool(x, layer.size)
            elif isinstance(layer, Norm):
                w, b, mean, var = (next(arrays) for _ in range(4))
                x = self.norm(x, w, b, mean, var, training)
            elif isinstance(layer, GlobalPool):
                x = self.global_pool(x)
            elif isinstance(layer, Linear):
                x = self.linear(x, next(arrays), next(arrays))
            elif isinstance(layer, Residual):
                main = self.forward(layer.main, x, arrays, training)
                x = self.relu(main + self.forward(layer.shortcut, x, arrays, training))
        return x

    def timers(self, case: Case) -> Timers:
        """What of the case can be timed: name -> a call that does it once.

        Raises
        ------
        NotImplementedError
            If the library has no such thing here.
        """
        if case.kind == "net":
            self.load(problem(lookup(case.name, batch=case.settings["batch"])))
            return {"step": self.step, "inference": self.infer}
        if case.kind == "training":
            return self._training(case)
        raise NotImplementedError(f"{type(self).__name__} has no case of kind {case.kind}")

    def _training(self, case: Case) -> Timers:
        """One epoch of shuffled batches, and the accuracy on the test set."""
        settings = case.settings
        train, test = load(settings["data"])
        images, labels = _floats(train), train.labels.astype(np.int64)
        unseen, truth, batch = _floats(test), test.labels.astype(np.int64), settings["batch"]
        net = replace(lookup(case.name), rate=settings["rate"], image=train.image_shape)
        self.load(Problem(net, weights(net, settings["seed"]), images[:1], labels[:1]))
        orders = np.random.default_rng(settings["seed"])

        def epoch() -> float:
            order, losses = orders.permutation(len(images)), []
            for first in range(0, len(images) - batch + 1, batch):
                chosen = order[first:first + batch]
                self.feed(images[chosen], labels[chosen])
                losses.append(self.step())
            return float(np.mean(losses))

        def accuracy() -> float:
            right = 0
            for first in range(0, len(unseen), 500):
                self.feed(unseen[first:first + 500], truth[first:first + 500])
                right += int((self.infer().argmax(1) == truth[first:first + 500]).sum())
            return right / len(unseen)

        return {"epoch": epoch, "accuracy": accuracy}


def _floats(data: Dataset) -> Array:
    """Pixels as float32 around zero; the constants are those of Fashion-MNIST."""
    return (data.images.astype(np.float32) / np.float32(data.peak) - np.float32(0.286)) \
        / np.float32(0.353)


# ---- from N H W C to the order of libraries that put channels first ------------------------------

def planes(images: Array) -> Array:
    """N H W C -> N C H W."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def rows_of_planes(weight: Weight) -> Array:
    """A weight as libraries with channels first want it: filters O C KH KW, rows in order C H W.

    The matrix stays (inputs, classes).
    """
    if weight.kind == "filters":
        return np.ascontiguousarray(weight.array.transpose(3, 2, 0, 1))
    if weight.kind == "matrix":
        h, w, c = weight.image
        classes = weight.array.shape[1]
        by_channel = weight.array.reshape(h, w, c, classes).transpose(2, 0, 1, 3)
        return np.ascontiguousarray(by_channel.reshape(-1, classes))
    return weight.array.copy()
