"""What adapters share: the walk over the layers in plain functions, and channels first."""

from __future__ import annotations

import numpy as np

from bench import nets


class Functional:
    """Nets in plain functions; a subclass says how its library convolves, pools, and so on.

    Running averages are left out: without them the libraries do less than those with layers.
    """

    training = True

    def train(self):
        self.training = True

    def eval(self):
        self.training = False

    def forward(self, layers, x, weights):
        """Logits, N K; ``weights`` is an iterator in the order of the layers."""
        for layer in layers:
            if isinstance(layer, nets.Conv):
                x = self.conv(x, next(weights), next(weights) if layer.bias else None, layer)
            elif layer == nets.RELU:
                x = self.relu(x)
            elif layer == nets.POOL:
                x = self.pool(x)
            elif layer == nets.NORM:
                x = self.norm(x, next(weights), next(weights))
            elif layer == nets.GLOBAL_POOL:
                x = self.mean(x)
            elif isinstance(layer, nets.Linear):
                x = self.linear(x, next(weights), next(weights))
            else:
                main = self.forward(layer.main, x, weights)
                x = self.relu(main + self.forward(layer.shortcut, x, weights))
        return x


class Layered:
    """Nets in layers, as users of this package and of PyTorch write them.

    A subclass has the names ``nn``, ``relu``, ``cross_entropy`` and ``global_pool`` of its library.
    """

    def build(self, layers, image):
        """The modules of some layers, in a Sequential."""
        nn, made = self.nn, []
        for layer in layers:
            h, w, c = image
            if isinstance(layer, nets.Conv):
                made.append(nn.Conv2d(c, layer.channels, layer.size, stride=layer.stride,
                                      padding=layer.padding, bias=layer.bias))
            elif layer == nets.RELU:
                made.append(nn.ReLU())
            elif layer == nets.POOL:
                made.append(nn.MaxPool2d(2))
            elif layer == nets.NORM:
                made.append(nn.BatchNorm2d(c))
            elif layer == nets.GLOBAL_POOL:
                made.append(self.global_pool())
            elif isinstance(layer, nets.Linear):
                made += [nn.Flatten(), nn.Linear(h * w * c, layer.classes)]
            else:
                made.append(self.residual(self.build(layer.main, image),
                                          self.build(layer.shortcut, image)))
            image = nets.after(layer, image)
        return nn.Sequential(*made)

    def residual(self, main, shortcut):
        """A module of the library: relu(main(x) + shortcut(x))."""
        relu = self.relu

        class Residual(self.nn.Module):
            def __init__(self):
                super().__init__()
                self.main, self.shortcut = main, shortcut

            def forward(self, x):
                return relu(self.main(x) + self.shortcut(x))
        return Residual()

    def train(self):
        self.model.train()

    def eval(self):
        self.model.eval()

    def step(self):
        loss = self.cross_entropy(self.logits(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def chain(h, b, a, length):
    """``length`` times ``h * b + a``: two ops each."""
    for _ in range(length):
        h = h * b + a
    return h


def channels_first(images):
    """N H W C -> N C H W."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def weight_channels_first(weight):
    """Filters as O C KH KW, rows of a matrix in the order C H W; the matrix stays (inputs, K)."""
    if weight.kind == "filters":
        return np.ascontiguousarray(weight.array.transpose(3, 2, 0, 1))
    if weight.kind == "matrix":
        k = weight.array.shape[1]
        rows = weight.array.reshape(*weight.image, k).transpose(2, 0, 1, 3)     # C H W K
        return np.ascontiguousarray(rows.reshape(-1, k))
    return weight.array.copy()
