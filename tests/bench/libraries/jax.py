"""JAX on the CPU: N H W C, one compiled step that gives back the new weights."""

from __future__ import annotations

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from bench.libraries.base import Functional


class Jax(Functional):
    """JAX through ``jit``; compiled at the first call."""

    def versions(self):
        return {"jax": jax.__version__}

    def load(self, problem):
        layers, rate = problem.net.layers, problem.net.rate

        def loss(weights, x, labels):
            scores = jax.nn.log_softmax(self.forward(layers, x, iter(weights)))
            return -jnp.mean(jnp.take_along_axis(scores, labels[:, None], 1))

        def step(weights, x, labels):
            value, gradients = jax.value_and_grad(loss)(weights, x, labels)
            return value, [w - rate * g for w, g in zip(weights, gradients, strict=True)]

        self.compiled_step = jax.jit(step, donate_argnums=0)
        self.logits = jax.jit(lambda weights, x: self.forward(layers, x, iter(weights)))
        self.weights = [jnp.asarray(weight.array) for weight in problem.weights]
        self.images = jnp.asarray(problem.images)
        self.labels = jnp.asarray(problem.labels.astype(np.int32))

    def step(self):
        value, self.weights = self.compiled_step(self.weights, self.images, self.labels)
        jax.block_until_ready(self.weights)
        return float(value)

    def infer(self):
        return np.asarray(self.logits(self.weights, self.images))

    def conv(self, x, w, b, layer):
        y = lax.conv_general_dilated(x, w, (layer.stride,) * 2, [(layer.padding,) * 2] * 2,
                                     dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y if b is None else y + b

    def relu(self, x):
        return jax.nn.relu(x)

    def pool(self, x):
        return lax.reduce_window(x, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    def norm(self, x, w, b):
        mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if self.training else (0.0, 1.0)
        return (x - mean) * (w * lax.rsqrt(var + 1e-5)) + b

    def mean(self, x):
        return x.mean((1, 2))

    def linear(self, x, w, b):
        return x.reshape(len(x), -1) @ w + b


def open_library(variant, threads):
    jax.config.update("jax_platforms", "cpu")
    return Jax()
