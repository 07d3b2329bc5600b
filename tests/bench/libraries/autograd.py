"""HIPS autograd: N H W C, convolution as a product of gathered patches.

The library's own convolution (``autograd.scipy.signal``) is several times slower than this.
"""

from __future__ import annotations

from importlib.metadata import version

import autograd
import numpy as np
from autograd import numpy as anp

from bench.libraries.base import Functional, chain


class Autograd(Functional):
    """Plain arrays; the gradient is a function of the list of weights."""

    def versions(self):
        return {"autograd": version("autograd")}

    def load(self, problem):
        self.layers, self.rate = problem.net.layers, np.float32(problem.net.rate)
        self.weights = [weight.array for weight in problem.weights]
        self.images, self.labels = problem.images, np.eye(10, dtype=np.float32)[problem.labels]
        self.value_and_grad = autograd.value_and_grad(self.loss)

    def loss(self, weights):
        scores = self.forward(self.layers, self.images, iter(weights))
        scores = scores - anp.max(scores, axis=1, keepdims=True)
        scores = scores - anp.log(anp.sum(anp.exp(scores), axis=1, keepdims=True))
        return -anp.sum(scores * self.labels) / np.float32(len(self.images))

    def step(self):
        value, gradients = self.value_and_grad(self.weights)
        self.weights = [w - self.rate * g for w, g in zip(self.weights, gradients, strict=True)]
        return float(value)

    def infer(self):
        return self.forward(self.layers, self.images, iter(self.weights))

    def conv(self, x, w, b, layer):
        p, stride, size = layer.padding, layer.stride, layer.size
        n, height, width, _ = x.shape
        oh, ow = -(-height // stride), -(-width // stride)
        x = anp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)), "constant")
        shifted = [x[:, u:u + (oh - 1) * stride + 1:stride, v:v + (ow - 1) * stride + 1:stride]
                   for u in range(size) for v in range(size)]
        patches = anp.concatenate(shifted, axis=3)              # N OH OW KH·KW·C
        y = anp.dot(patches.reshape(n * oh * ow, -1), w.reshape(-1, w.shape[3]))
        y = y.reshape(n, oh, ow, w.shape[3])
        return y if b is None else y + b

    def relu(self, x):
        return anp.maximum(x, np.float32(0))

    def pool(self, x):
        n, h, w, c = x.shape
        return anp.max(anp.reshape(x, (n, h // 2, 2, w // 2, 2, c)), axis=(2, 4))

    def norm(self, x, w, b):
        mean, var = np.float32(0), np.float32(1)
        if self.training:
            mean = anp.mean(x, axis=(0, 1, 2))
            var = anp.mean((x - mean) ** 2, axis=(0, 1, 2))
        return (x - mean) / anp.sqrt(var + np.float32(1e-5)) * w + b

    def mean(self, x):
        return anp.mean(x, axis=(1, 2))

    def linear(self, x, w, b):
        return anp.dot(anp.reshape(x, (x.shape[0], -1)), w) + b

    def chain(self, length):
        b, a = (np.full(8, v, np.float32) for v in (0.999, 0.001))
        gradient = autograd.grad(lambda h: anp.sum(chain(h, b, a, length)))
        return float(gradient(np.ones(8, np.float32))[0])


def open_library(variant, threads):
    return Autograd()
