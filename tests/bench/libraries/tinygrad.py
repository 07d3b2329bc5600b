"""tinygrad: N C H W, one captured step on its CPU device."""

from __future__ import annotations

import os
from importlib.metadata import version

os.environ.setdefault("DEV", "CPU")

import numpy as np
import tinygrad
from tinygrad import Tensor, TinyJit

from bench.libraries.base import Functional, channels_first, weight_channels_first


class Tinygrad(Functional):
    """tinygrad through ``TinyJit``, which captures at the second call."""

    def versions(self):
        return {"tinygrad": version("tinygrad"), "tinygrad device": str(tinygrad.Device.DEFAULT)}

    def load(self, problem):
        self.layers, self.rate = problem.net.layers, problem.net.rate
        self.weights = [Tensor(weight_channels_first(w)).realize() for w in problem.weights]
        self.images = Tensor(channels_first(problem.images)).realize()
        self.labels = Tensor(problem.labels.astype(np.int32)).realize()
        self.captured_step, self.captured_logits = TinyJit(self.update), TinyJit(self.logits)

    def update(self, x, labels):
        loss = self.forward(self.layers, x, iter(self.weights)).sparse_categorical_crossentropy(
            labels)
        for w, gradient in zip(self.weights, loss.gradient(*self.weights), strict=True):
            w.assign(w - self.rate * gradient)
        return loss.realize(*self.weights)

    def logits(self, x):
        return self.forward(self.layers, x, iter(self.weights)).realize()

    def step(self):
        return float(self.captured_step(self.images, self.labels).item())

    def infer(self):
        return self.captured_logits(self.images).numpy()

    def conv(self, x, w, b, layer):
        return x.conv2d(w, b, stride=layer.stride, padding=layer.padding)

    def relu(self, x):
        return x.relu()

    def pool(self, x):
        return x.max_pool2d((2, 2))

    def norm(self, x, w, b):
        mean, var = Tensor.zeros(x.shape[1]), Tensor.ones(x.shape[1])
        if self.training:
            mean = x.mean((0, 2, 3))
            var = (x - mean.reshape(1, -1, 1, 1)).square().mean((0, 2, 3))
        return x.batchnorm(w, b, mean, (var + 1e-5).rsqrt())

    def mean(self, x):
        return x.mean((2, 3))

    def linear(self, x, w, b):
        return x.flatten(1).linear(w, b)


def open_library(variant, threads):
    return Tinygrad()
