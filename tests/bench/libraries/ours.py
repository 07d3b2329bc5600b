"""This package, as its users write it: layers, or plain functions."""

from __future__ import annotations

import numpy as np

import tinygrad_cnn as tc
from bench.libraries.base import Functional, Layered, chain
from tinygrad_cnn import nn, optim


class Layers(Layered):
    """nn.Sequential and its layers."""

    nn, global_pool = nn, nn.GlobalAvgPool2D
    relu, cross_entropy = staticmethod(tc.relu), staticmethod(tc.cross_entropy)

    def versions(self):
        return {"tinygrad_cnn": tc.__version__, "numpy": np.__version__}

    def load(self, problem):
        self.logits = self.model = self.build(problem.net.layers, problem.net.image)
        names = [name for name, _ in self.model.named_parameters()]
        first = dict(zip(names, (weight.array for weight in problem.weights), strict=True))
        self.model.load_state_dict({**self.model.state_dict(), **first})
        self.optimizer = optim.SGD(self.model.parameters(), lr=problem.net.rate)
        self.images, self.labels = tc.Tensor(problem.images), problem.labels

    def infer(self):
        with tc.no_grad():
            return self.logits(self.images).numpy()

    def chain(self, length):
        h, b, a = (tc.Tensor(np.full(8, v, np.float32), requires_grad=v == 1)
                   for v in (1, 0.999, 0.001))
        chain(h, b, a, length).sum().backward()
        return float(h.grad.numpy()[0])


class Functions(Functional, Layers):
    """tc.relu(tc.conv2d(x, w, b)) and the like."""

    def load(self, problem):
        self.layers = problem.net.layers
        self.weights = [tc.Parameter(weight.array) for weight in problem.weights]
        self.optimizer = optim.SGD(self.weights, lr=problem.net.rate)
        self.images, self.labels = tc.Tensor(problem.images), problem.labels

    def logits(self, x):
        return self.forward(self.layers, x, iter(self.weights))

    def conv(self, x, w, b, layer):
        return tc.conv2d(x, w, b, stride=layer.stride, padding=layer.padding)

    def norm(self, x, w, b):
        if self.training:
            return tc.batch_norm(x, w, b)
        mean, var = (np.full(x.shape[-1], v, np.float32) for v in (0, 1))
        return tc.batch_norm(x, w, b, mean=mean, var=var)

    def pool(self, x):
        return tc.max_pool2d(x, kernel_size=2)

    def mean(self, x):
        return tc.global_avg_pool2d(x)

    def linear(self, x, w, b):
        return tc.linear(tc.flatten(x, 1), w, b)


def open_library(variant, threads):
    tc.set_num_threads(threads)
    try:
        tc.set_compiled("fast" in variant)
    except tc.MissingExtraError as error:
        raise ImportError(str(error)) from None
    return Functions() if variant == "functions" else Layers()
