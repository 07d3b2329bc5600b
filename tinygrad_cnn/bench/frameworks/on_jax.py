"""The nets in JAX: N H W C, one compiled step that gives back the new weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.bench.frameworks.base import Framework
from tinygrad_cnn.bench.nets import Conv, Problem

__all__ = ["Jax", "open"]

Array = NDArray[Any]


class Jax(Framework):
    """JAX on the CPU, through ``jit``."""

    def __init__(self) -> None:
        import jax  # type: ignore[import-not-found,unused-ignore]
        jax.config.update("jax_platforms", "cpu")
        self.jax, self.np, self.lax = jax, jax.numpy, jax.lax

    def versions(self) -> dict[str, str]:
        """jax."""
        return {"jax": str(self.jax.__version__)}

    def load(self, given: Problem) -> None:
        """Compiled at the first call."""
        self.problem = given
        places = [i for i, w in enumerate(given.weights) if w.trained]
        constants = [self.np.asarray(w.array) for w in given.weights]
        self.trained = [constants[i] for i in places]
        layers, rate = given.net.layers, given.net.rate

        def logits(trained: Any, x: Any, training: bool) -> Any:
            weights = list(constants)
            for i, w in zip(places, trained, strict=True):
                weights[i] = w
            return self.forward(layers, x, iter(weights), training)

        def loss(trained: Any, x: Any, labels: Any) -> Any:
            scores = self.jax.nn.log_softmax(logits(trained, x, True))
            return -self.np.mean(self.np.take_along_axis(scores, labels[:, None], 1))

        def step(trained: Any, x: Any, labels: Any) -> Any:
            value, gradients = self.jax.value_and_grad(loss)(trained, x, labels)
            return value, [w - rate * g for w, g in zip(trained, gradients, strict=True)]

        self._step = self.jax.jit(step, donate_argnums=0)
        self._logits = self.jax.jit(lambda trained, x: logits(trained, x, False))
        self.feed(given.images, given.labels)

    def feed(self, images: Array, labels: Array) -> None:
        """Copied once, outside the step."""
        self.x, self.labels = self.np.asarray(images), self.np.asarray(labels.astype(np.int32))

    def step(self) -> float:
        """Waits for the new weights."""
        value, self.trained = self._step(self.trained, self.x, self.labels)
        self.jax.block_until_ready(self.trained)
        return float(value)

    def infer(self) -> Array:
        """Waits for the logits."""
        return np.asarray(self._logits(self.trained, self.x))

    def conv(self, x: Any, w: Any, b: Any, layer: Conv) -> Any:
        """N H W C."""
        sides = [(layer.padding, layer.padding)] * 2
        y = self.lax.conv_general_dilated(x, w, (layer.stride, layer.stride), sides,
                                          dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y if b is None else y + b

    def relu(self, x: Any) -> Any:
        """max(x, 0)."""
        return self.jax.nn.relu(x)

    def pool(self, x: Any, size: int) -> Any:
        """Windows that do not overlap."""
        window = (1, size, size, 1)
        return self.lax.reduce_window(x, -np.inf, self.lax.max, window, window, "VALID")

    def norm(self, x: Any, w: Any, b: Any, mean: Any, var: Any, training: bool) -> Any:
        """Without running averages."""
        if training:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) * (w * self.lax.rsqrt(var + 1e-5)) + b

    def global_pool(self, x: Any) -> Any:
        """N C."""
        return x.mean((1, 2))

    def linear(self, x: Any, w: Any, b: Any) -> Any:
        """N K."""
        return x.reshape(len(x), -1) @ w + b


def open(variant: str, threads: int) -> Jax:
    """Import JAX; its threads are those that the process may use."""
    return Jax()
