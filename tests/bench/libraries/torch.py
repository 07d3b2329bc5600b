"""PyTorch on the CPU, as its users write it: images N C H W, channels_last, or compiled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from bench.libraries.base import Layered, chain, channels_first, weight_channels_first


class Torch(Layered):
    """``variant`` is "channels_last", "compile" or neither."""

    nn, relu, cross_entropy = nn, staticmethod(F.relu), staticmethod(F.cross_entropy)

    def __init__(self, variant):
        self.variant = variant

    def versions(self):
        return {"torch": torch.__version__}

    def global_pool(self):
        return nn.AdaptiveAvgPool2d(1)

    def load(self, problem):
        model = self.build(problem.net.layers, problem.net.image)
        with torch.no_grad():
            for parameter, weight in zip(model.parameters(), problem.weights, strict=True):
                array = torch.from_numpy(weight_channels_first(weight))
                parameter.copy_(array.T if weight.kind == "matrix" else array)
        order = {"memory_format": torch.channels_last} if self.variant == "channels_last" else {}
        self.model = model.to(**order)
        self.images = torch.from_numpy(channels_first(problem.images)).to(**order)
        self.labels = torch.from_numpy(problem.labels)
        self.logits = torch.compile(self.model) if self.variant == "compile" else self.model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=problem.net.rate)

    def infer(self):
        with torch.inference_mode():
            return self.logits(self.images).numpy()

    def chain(self, length):
        h, b, a = (torch.full((8,), v, requires_grad=v == 1) for v in (1.0, 0.999, 0.001))
        chain(h, b, a, length).sum().backward()
        return float(h.grad[0])


def open_library(variant, threads):
    torch.set_num_threads(threads)
    return Torch(variant)
