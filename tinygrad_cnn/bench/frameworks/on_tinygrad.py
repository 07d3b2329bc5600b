"""The nets in tinygrad: N C H W, one captured step on its CPU device."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.bench.frameworks.base import Framework, planes, rows_of_planes
from tinygrad_cnn.bench.nets import Conv, Problem

__all__ = ["Tinygrad", "open"]

Array = NDArray[Any]


class Tinygrad(Framework):
    """tinygrad on the CPU, through ``TinyJit``."""

    def __init__(self) -> None:
        os.environ.setdefault("DEV", "CPU")
        import tinygrad  # type: ignore[import-not-found,unused-ignore]
        self.tinygrad, self.tensor = tinygrad, tinygrad.Tensor

    def versions(self) -> dict[str, str]:
        """Its package and its device."""
        from importlib.metadata import version
        return {"tinygrad": version("tinygrad"),
                "tinygrad device": str(self.tinygrad.Device.DEFAULT)}

    def load(self, given: Problem) -> None:
        """Captured at the second call."""
        self.problem = given
        self.weights = [self.tensor(rows_of_planes(w)).realize() for w in given.weights]
        self.trained = [t for t, w in zip(self.weights, given.weights, strict=True) if w.trained]
        self._captured_step = self.tinygrad.TinyJit(self._step)
        self._captured_logits = self.tinygrad.TinyJit(self._logits)
        self.feed(given.images, given.labels)

    def feed(self, images: Array, labels: Array) -> None:
        """Copied once, outside the step."""
        self.x = self.tensor(planes(images)).realize()
        self.labels = self.tensor(labels.astype(np.int32)).realize()

    def _step(self, x: Any, labels: Any) -> Any:
        logits = self.forward(self.problem.net.layers, x, iter(self.weights), training=True)
        loss = logits.sparse_categorical_crossentropy(labels)
        gradients = loss.gradient(*self.trained)
        for w, gradient in zip(self.trained, gradients, strict=True):
            w.assign(w - self.problem.net.rate * gradient)
        return loss.realize(*self.trained)

    def _logits(self, x: Any) -> Any:
        return self.forward(self.problem.net.layers, x, iter(self.weights), False).realize()

    def step(self) -> float:
        """Waits for the loss."""
        return float(self._captured_step(self.x, self.labels).item())

    def infer(self) -> Array:
        """Waits for the logits."""
        logits: Array = self._captured_logits(self.x).numpy()
        return logits

    def conv(self, x: Any, w: Any, b: Any, layer: Conv) -> Any:
        """N C H W."""
        return x.conv2d(w, b, stride=layer.stride, padding=layer.padding)

    def relu(self, x: Any) -> Any:
        """max(x, 0)."""
        return x.relu()

    def pool(self, x: Any, size: int) -> Any:
        """Windows that do not overlap."""
        return x.max_pool2d((size, size))

    def norm(self, x: Any, w: Any, b: Any, mean: Any, var: Any, training: bool) -> Any:
        """Without running averages."""
        if training:
            mean = x.mean((0, 2, 3))
            var = (x - mean.reshape(1, -1, 1, 1)).square().mean((0, 2, 3))
        return x.batchnorm(w, b, mean, (var + 1e-5).rsqrt())

    def global_pool(self, x: Any) -> Any:
        """N C."""
        return x.mean((2, 3))

    def linear(self, x: Any, w: Any, b: Any) -> Any:
        """N K."""
        return x.flatten(1).linear(w, b)


def open(variant: str, threads: int) -> Tinygrad:
    """Import tinygrad; its threads are those that the process may use."""
    return Tinygrad()
