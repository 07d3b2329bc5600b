"""Twenty-eight networks and programs to draw, three of them unhealthy, each built small.

``ZOO`` maps a name to a function that returns the loss, its graph alive.
"""

from __future__ import annotations

import numpy as np

import tinygrad_cnn as tc
from tinygrad_cnn import models, nn


def rng(seed=0):
    return np.random.default_rng(seed)


def images(n=4, side=8, c=1, seed=1):
    return rng(seed).normal(size=(n, side, side, c)).astype(np.float32)


def classes(n=4, k=10):
    return np.arange(n) % k


def rows(n=16, k=6, seed=2):
    return rng(seed).normal(size=(n, k)).astype(np.float32)


def conv(a, b, size=3, **settings):
    return nn.Conv2D(a, b, size, padding=size // 2, rng=rng(a * b), **settings)


def dense(a, b, **settings):
    return nn.Linear(a, b, rng=rng(a + b), **settings)


def classified(model, x, k=10):
    return tc.cross_entropy(model(x), classes(len(x), k))


def mlp():
    return classified(nn.Sequential(dense(6, 12), nn.ReLU(), dense(12, 10)), rows())


def built(name, side, c):
    return classified(models.build(name, (side, side, c), 10, rng=rng()), images(2, side, c))


class Residual(nn.Module):
    """A skip that starts at the input itself."""

    def __init__(self):
        self.first, self.second = conv(3, 3), conv(3, 3)

    def forward(self, x):
        return x + self.second(x + self.first(x))


class Dense(nn.Module):
    """Each layer reads all before it."""

    def __init__(self, depth=4):
        self.layers = nn.ModuleList([conv(3 + 4 * k, 4) for k in range(depth)])

    def forward(self, x):
        for layer in self.layers:
            x = tc.concatenate([x, tc.relu(layer(x))], axis=-1)
        return tc.global_avg_pool2d(x)


class UNet(nn.Module):
    """Down twice and up twice, with skips across."""

    def __init__(self):
        self.down1, self.down2, self.middle = conv(1, 4), conv(4, 8), conv(8, 8)
        self.up2 = nn.ConvTranspose2D(8, 4, 2, stride=2, rng=rng())
        self.up1 = nn.ConvTranspose2D(8, 4, 2, stride=2, rng=rng())
        self.head = conv(8, 1, 1)

    def forward(self, x):
        a = tc.relu(self.down1(x))
        b = tc.relu(self.down2(tc.max_pool2d(a, kernel_size=2)))
        h = tc.relu(self.middle(tc.max_pool2d(b, kernel_size=2)))
        h = self.up1(tc.concatenate([self.up2(h), b[..., :4]], axis=-1))
        return self.head(tc.concatenate([h, a], axis=-1))


class Attention(nn.Module):
    """One head over T tokens."""

    def __init__(self, d=8):
        self.q, self.k, self.v, self.out = (dense(d, d, bias=False) for _ in range(4))
        self.norm = nn.LayerNorm(d)

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        weights = tc.softmax(q @ k.transpose(0, 2, 1) / np.sqrt(8.0).item())
        return self.norm(x + self.out(weights @ v))


class GPT(nn.Module):
    """Blocks of attention and two layers."""

    def __init__(self, depth=3):
        self.blocks = nn.Sequential(*(nn.Sequential(Attention(), dense(8, 8), nn.GELU())
                                      for _ in range(depth)))
        self.head = dense(8, 10)

    def forward(self, x):
        return self.head(self.blocks(x).mean(axis=1))


class RNN(nn.Module):
    """The rows of an image, one after another, through one cell."""

    def __init__(self, scale=1.0):
        self.cell_x, self.cell_h, self.head = dense(8, 16), dense(16, 16), dense(16, 10)
        for layer in (self.cell_x, self.cell_h):
            layer.weight.data *= scale

    def forward(self, x):
        h = tc.Tensor(np.zeros((len(x), 16), np.float32))
        for t in range(x.shape[1]):
            h = tc.tanh(self.cell_x(x[:, t]) + self.cell_h(h))
        return self.head(h)


class Siamese(nn.Module):
    """One tower, called twice."""

    def __init__(self):
        self.tower = nn.Sequential(conv(1, 4), nn.ReLU(), nn.Flatten(), dense(256, 5))

    def forward(self, a, b):
        return self.tower(a) - self.tower(b)


class Heads(nn.Module):
    """Classes and a box from one trunk."""

    def __init__(self):
        self.trunk, self.classes, self.box = conv(1, 4), dense(4, 10), dense(4, 4)

    def forward(self, x):
        h = tc.global_avg_pool2d(tc.relu(self.trunk(x)))
        return self.classes(h), self.box(h)


def two_heads():
    scores, box = Heads()(images())
    return tc.cross_entropy(scores, classes()) + tc.mse_loss(box, rows(4, 4))


class Inception(nn.Module):
    """Branches of several sizes."""

    def __init__(self):
        self.one, self.three, self.five = conv(1, 2, 1), conv(1, 2), conv(1, 2, 5)

    def forward(self, x):
        branches = [self.one(x), self.three(x), self.five(x)]
        return tc.global_avg_pool2d(tc.concatenate(branches, axis=-1))


def gan():
    g = nn.Sequential(dense(4, 16), nn.ReLU(), dense(16, 6))
    d = nn.Sequential(dense(6, 16), nn.LeakyReLU(), dense(16, 1))
    ones, zeros = np.ones((16, 1), np.float32), np.zeros((16, 1), np.float32)
    return (tc.binary_cross_entropy_with_logits(d(rows()), ones)
            + tc.binary_cross_entropy_with_logits(d(g(rows(16, 4, 5))), zeros))


def regression():
    w, b = tc.Parameter(rows(6, 1, 3), name="w"), tc.Parameter(np.zeros(1, np.float32), name="b")
    return ((tc.Tensor(rows()) @ w + b - rows(16, 1, 4)) ** 2).mean()


def expression():
    a, b, c = (tc.Tensor(v, requires_grad=True, name=n)
               for v, n in ((2.0, "a"), (-3.0, "b"), (10.0, "c")))
    return a * b + c


def neuron():
    """The sample of micrograd."""
    x1, x2, w1, w2, bias = (tc.Tensor(v, requires_grad=True) for v in (2.0, 0.0, -3.0, 1.0, 6.88))
    return tc.tanh(x1 * w1 + x2 * w2 + bias)


def tied():
    w = tc.Parameter(rows(6, 3, 3), name="w")
    x = tc.Tensor(rows(), name="x")
    return tc.mse_loss(tc.tanh(x @ w) @ w.T, x)


def fine_tuned():
    model = models.build("lenet", (16, 16, 1), 10, rng=rng())
    for name, p in model.named_parameters():
        p.requires_grad = name.startswith("fc2")
    return classified(model, images(4, 16))


def dropped():
    return classified(nn.Sequential(dense(6, 32), nn.ReLU(), nn.Dropout(0.5, rng=rng()),
                                    dense(32, 10)), rows())


def grouped():
    return classified(nn.Sequential(conv(4, 4, groups=4), nn.ReLU6() if hasattr(nn, "ReLU6")
                                    else nn.ReLU(), conv(4, 8, 1), nn.GlobalAvgPool2D(),
                                    dense(8, 10)), images(c=4))


def penalty():
    """A loss that holds a gradient: second order."""
    w = tc.Parameter(rows(6, 1, 3), name="w")
    x = tc.Tensor(rows(), requires_grad=True, name="x")
    score = tc.tanh(x @ w).sum()
    slope, = tc.grad(score, x, create_graph=True)
    return score + (slope * slope).sum()


def unrolled():
    """Nine steps of gradient descent on a parabola, by hand."""
    w, rate = tc.Parameter(rows(4, 4), name="w"), tc.Parameter(0.1, name="rate")
    for _ in range(9):
        w = w - rate * (w * 2.0)
    return (w * w).sum()


def chain():
    x = tc.Parameter(rows(4, 4), name="x")
    for _ in range(60):
        x = tc.tanh(x * 1.01)
    return x.sum()


def random_dag():
    draw = rng(7)
    made = [tc.Parameter(rows(3, 3, k), name=f"p{k}") for k in range(4)]
    for _ in range(40):
        a, b = draw.integers(0, len(made), 2)
        made.append(tc.tanh(made[a] + made[b]) if draw.random() < 0.7 else made[a] * made[b])
    return sum(made[1:], made[0]).sum()


def logarithm_of_zero():
    with np.errstate(all="ignore"):
        return (tc.Parameter([1.0, 0.0], name="p").log() * 2.0).sum()


def dead_relu():
    model = nn.Sequential(dense(6, 12), nn.ReLU(), dense(12, 10))
    model[0].bias.data[...] = -99.0
    return classified(model, rows())


def vanishing():
    layers = [layer for _ in range(8) for layer in (dense(6, 6), nn.Sigmoid())]
    return classified(nn.Sequential(*layers, dense(6, 10)), rows())


ZOO = {
    "mlp": mlp, "lenet": lambda: built("lenet", 16, 1), "vgg": lambda: built("vgg", 16, 3),
    "resnet20": lambda: built("resnet20", 16, 3),
    "residual": lambda: Residual()(images(c=3)).mean(),
    "densenet": lambda: Dense()(images(c=3)).mean(), "unet": lambda: tc.mse_loss(
        UNet()(images()), images(seed=3)), "attention": lambda: Attention()(
        rng(3).normal(size=(2, 5, 8)).astype(np.float32)).mean(axis=0)[0, 0],
    "gpt": lambda: classified(GPT(), rng(3).normal(size=(4, 5, 8)).astype(np.float32)),
    "rnn": lambda: classified(RNN(), rng(4).normal(size=(4, 28, 8)).astype(np.float32)),
    "siamese": lambda: (Siamese()(images(), images(seed=9)) ** 2).mean(), "two heads": two_heads,
    "inception": lambda: classified(Inception(), images(), 6), "gan": gan,
    "regression": regression, "expression": expression,
    "neuron": neuron, "tied weights": tied, "fine-tuned": fine_tuned, "dropout": dropped,
    "grouped": grouped, "gradient penalty": penalty, "unrolled": unrolled, "chain": chain,
    "random dag": random_dag,
    "log of zero": logarithm_of_zero, "dead relu": dead_relu, "vanishing": vanishing}
SICK = {"log of zero": "non-finite", "dead relu": "no gradient", "vanishing": "vanishing"}
