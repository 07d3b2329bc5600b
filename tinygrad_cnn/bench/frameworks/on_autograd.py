"""The nets in HIPS autograd: N H W C, convolution as a product of gathered patches.

The library's own convolution (``autograd.scipy.signal``) is several times slower than this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.bench.cases import Case
from tinygrad_cnn.bench.frameworks.base import Framework, Timers
from tinygrad_cnn.bench.nets import Conv, Problem

__all__ = ["Autograd", "open"]

Array = NDArray[Any]


class Autograd(Framework):
    """HIPS autograd."""

    def __init__(self) -> None:
        import autograd  # type: ignore[import-not-found,unused-ignore]
        import autograd.numpy  # type: ignore[import-not-found,unused-ignore]
        self.autograd, self.np = autograd, autograd.numpy

    def versions(self) -> dict[str, str]:
        """Autograd says its version through its package."""
        from importlib.metadata import version
        return {"autograd": version("autograd")}

    def load(self, given: Problem) -> None:
        """Plain arrays; the gradient is a function of the list of those that are trained."""
        self.problem = given
        self.weights = [w.array.copy() for w in given.weights]
        self.places = [i for i, w in enumerate(given.weights) if w.trained]
        self._value_and_grad = self.autograd.value_and_grad(self._loss)
        self.feed(given.images, given.labels)

    def feed(self, images: Array, labels: Array) -> None:
        """Labels become rows of 0 and 1."""
        self.x, self.labels = images, np.eye(10, dtype=np.float32)[labels]

    def _loss(self, trained: list[Any]) -> Any:
        weights = list(self.weights)
        for i, w in zip(self.places, trained, strict=True):
            weights[i] = w
        scores = self.forward(self.problem.net.layers, self.x, iter(weights), training=True)
        scores = scores - self.np.max(scores, axis=1, keepdims=True)
        scores = scores - self.np.log(self.np.sum(self.np.exp(scores), axis=1, keepdims=True))
        return -self.np.sum(scores * self.labels) / np.float32(len(self.x))

    def step(self) -> float:
        """One step of plain SGD."""
        value, gradients = self._value_and_grad([self.weights[i] for i in self.places])
        for i, gradient in zip(self.places, gradients, strict=True):
            self.weights[i] = self.weights[i] - np.float32(self.problem.net.rate) * gradient
        return float(value)

    def infer(self) -> Array:
        """Plain NumPy, since nothing is traced."""
        logits: Array = self.forward(self.problem.net.layers, self.x, iter(self.weights),
                                     training=False)
        return logits

    def conv(self, x: Any, w: Any, b: Any, layer: Conv) -> Any:
        """Shifted images side by side, and one product."""
        p, stride, size = layer.padding, layer.stride, layer.size
        n, height, width, _ = x.shape
        oh, ow = -(-height // stride), -(-width // stride)
        if p:
            x = self.np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)), "constant")
        shifted = [x[:, u:u + (oh - 1) * stride + 1:stride, v:v + (ow - 1) * stride + 1:stride]
                   for u in range(size) for v in range(size)]
        patches = self.np.concatenate(shifted, axis=3)          # N OH OW KH·KW·C
        rows = self.np.dot(patches.reshape(n * oh * ow, -1), w.reshape(-1, w.shape[3]))
        y = rows.reshape(n, oh, ow, w.shape[3])
        return y if b is None else y + b

    def relu(self, x: Any) -> Any:
        """max(x, 0)."""
        return self.np.maximum(x, np.float32(0))

    def pool(self, x: Any, size: int) -> Any:
        """The axis of each window reduced."""
        n, h, w, c = x.shape
        windows = self.np.reshape(x, (n, h // size, size, w // size, size, c))
        return self.np.max(windows, axis=(2, 4))

    def norm(self, x: Any, w: Any, b: Any, mean: Any, var: Any, training: bool) -> Any:
        """Without running averages."""
        if training:
            mean = self.np.mean(x, axis=(0, 1, 2))
            var = self.np.mean((x - mean) ** 2, axis=(0, 1, 2))
        return (x - mean) / self.np.sqrt(var + np.float32(1e-5)) * w + b

    def global_pool(self, x: Any) -> Any:
        """N C."""
        return self.np.mean(x, axis=(1, 2))

    def linear(self, x: Any, w: Any, b: Any) -> Any:
        """N K."""
        return self.np.dot(self.np.reshape(x, (x.shape[0], -1)), w) + b

    def timers(self, case: Case) -> Timers:
        """Nets and chains."""
        return {"chain": self._chain(case)} if case.kind == "chain" else super().timers(case)

    def _chain(self, case: Case) -> Callable[[], float]:
        length, width = case.settings["length"], case.settings["width"]
        a, b = np.full(width, 0.001, np.float32), np.full(width, 0.999, np.float32)

        def last(h: Any) -> Any:
            for _ in range(length):
                h = h * b + a
            return self.np.sum(h)

        gradient = self.autograd.grad(last)
        return lambda: float(gradient(np.ones(width, np.float32))[0])


def open(variant: str, threads: int) -> Autograd:
    """Import autograd."""
    return Autograd()
