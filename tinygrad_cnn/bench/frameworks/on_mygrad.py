"""The nets in MyGrad: N C H W, with its own convolution, pooling and batch normalisation."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.bench.cases import Case
from tinygrad_cnn.bench.frameworks.base import Framework, Timers, planes, rows_of_planes
from tinygrad_cnn.bench.nets import Conv, Problem

__all__ = ["MyGrad", "open"]

Array = NDArray[Any]


class MyGrad(Framework):
    """MyGrad, without its guard of memory, which costs time."""

    def __init__(self) -> None:
        import mygrad  # type: ignore[import-not-found,unused-ignore]
        import mygrad.nnet  # type: ignore[import-not-found,unused-ignore]
        mygrad.turn_memory_guarding_off()
        self.mg, self.nnet = mygrad, mygrad.nnet

    def versions(self) -> dict[str, str]:
        """mygrad."""
        return {"mygrad": str(self.mg.__version__)}

    def load(self, given: Problem) -> None:
        """Tensors for what is trained, plain arrays for running statistics."""
        self.problem = given
        arrays = [rows_of_planes(w) for w in given.weights]
        self.weights: list[Any] = [self.mg.tensor(a) if w.trained else a
                        for w, a in zip(given.weights, arrays, strict=True)]
        self.trained = [t for t, w in zip(self.weights, given.weights, strict=True) if w.trained]
        self.feed(given.images, given.labels)

    def feed(self, images: Array, labels: Array) -> None:
        """Plain arrays."""
        self.x, self.labels = planes(images), labels

    def step(self) -> float:
        """One step of plain SGD."""
        logits = self.forward(self.problem.net.layers, self.x, iter(self.weights), training=True)
        loss = self.nnet.losses.softmax_crossentropy(logits, self.labels)
        loss.backward()
        for w in self.trained:
            w.data -= np.float32(self.problem.net.rate) * w.grad
            w.null_grad()
        return float(loss.data)

    def infer(self) -> Array:
        """Under no_autodiff."""
        with self.mg.no_autodiff:
            logits = self.forward(self.problem.net.layers, self.x, iter(self.weights),
                                  training=False)
        return np.asarray(logits)

    def conv(self, x: Any, w: Any, b: Any, layer: Conv) -> Any:
        """MyGrad refuses strides that leave a border, so what no window reaches is cut off."""
        p, stride, size = layer.padding, layer.stride, layer.size
        if stride > 1:
            x = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p))) if isinstance(x, np.ndarray) \
                else self._padded(x, p)
            reach = [(side - size) // stride * stride + size for side in x.shape[2:]]
            x, p = x[:, :, :reach[0], :reach[1]], 0
        y = self.nnet.layers.conv_nd(x, w, stride=stride, padding=p)
        return y if b is None else y + b.reshape(1, -1, 1, 1)

    def _padded(self, x: Any, p: int) -> Any:
        if not p:
            return x
        n, c, h, w = x.shape
        rows = np.zeros((n, c, p, w), np.float32)
        x = self.mg.concatenate([rows, x, rows], axis=2)
        columns = np.zeros((n, c, h + 2 * p, p), np.float32)
        return self.mg.concatenate([columns, x, columns], axis=3)

    def relu(self, x: Any) -> Any:
        """max(x, 0)."""
        return self.nnet.activations.relu(x)

    def pool(self, x: Any, size: int) -> Any:
        """Windows that do not overlap."""
        return self.nnet.layers.max_pool(x, (size, size), size)

    def norm(self, x: Any, w: Any, b: Any, mean: Any, var: Any, training: bool) -> Any:
        """Without running averages."""
        if training:
            return self.nnet.layers.batchnorm(x, gamma=w, beta=b, eps=1e-5)
        shape = (1, -1, 1, 1)
        scale = w.reshape(shape) / np.sqrt(var + np.float32(1e-5)).reshape(shape)
        return (x - mean.reshape(shape)) * scale + b.reshape(shape)

    def global_pool(self, x: Any) -> Any:
        """N C."""
        return x.mean((2, 3))

    def linear(self, x: Any, w: Any, b: Any) -> Any:
        """N K."""
        return self.mg.matmul(x.reshape(x.shape[0], -1), w) + b

    def timers(self, case: Case) -> Timers:
        """Nets and chains."""
        if case.kind == "chain":
            return {"chain": partial(self._chain, case.settings["length"],
                                     case.settings["width"])}
        return super().timers(case)

    def _chain(self, length: int, width: int) -> float:
        a = self.mg.tensor(np.full(width, 0.001, np.float32), constant=True)
        b = self.mg.tensor(np.full(width, 0.999, np.float32), constant=True)
        h = start = self.mg.tensor(np.ones(width, np.float32))
        for _ in range(length):
            h = h * b + a
        h.sum().backward()
        return float(start.grad[0])


def open(variant: str, threads: int) -> MyGrad:
    """Import MyGrad."""
    return MyGrad()
