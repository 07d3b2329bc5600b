"""Time `check_gradients` and `check_torch` beside `torch.autograd.gradcheck`.

``python tests/bench/gradtest.py`` prints CPU times and their ratios for ten functions against
gradcheck's slow mode, for a network of 3072 inputs and its parameters against its fast mode, and
the time and memory of `check_op` on one sample of 90 × 90.  Checkers take turns in one process.
"""

from __future__ import annotations

import statistics
import sys
import time
import tracemalloc
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[i]) for i in (1, 2)]

import numpy as np

import tinygrad_cnn as tc
from tinygrad_cnn import nn
from tinygrad_cnn.testing import check_gradients, check_op, check_torch

__all__ = ["functions", "large_sample", "network", "seconds"]


def normal(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


def functions():
    """Name -> the function in this package, in PyTorch, and its inputs."""
    import torch
    f, labels = torch.nn.functional, np.arange(8) % 5

    def pixels(x):                                  # N H W C -> N C H W, and back
        return x.permute(0, 3, 1, 2)

    def centered(x):
        return x - x.mean(-1, keepdims=True)

    return {
        "tanh": (tc.tanh, torch.tanh, normal(100)),
        "sum tanh": (lambda x: tc.tanh(x).sum(), lambda x: x.tanh().sum(), normal(100)),
        "matmul": (tc.matmul, torch.matmul, normal(10, 10), normal(10, 10)),
        "conv2d": (tc.conv2d, lambda x, w: f.conv2d(pixels(x), w.permute(3, 2, 0, 1)),
                   normal(2, 6, 6, 2), normal(3, 3, 2, 3)),
        "two layers": (lambda x, w, v: tc.cross_entropy(tc.tanh(x @ w) @ v, labels),
                       lambda x, w, v: f.cross_entropy(torch.tanh(x @ w) @ v,
                                                       torch.tensor(labels)),
                       normal(8, 12), normal(12, 8), normal(8, 12)),
        "sum |x|^1.5": (lambda x: (abs(x) ** 1.5).sum(), lambda x: (x.abs() ** 1.5).sum(),
                        normal(80)),
        "softmax": (tc.softmax, lambda x: torch.softmax(x, -1), normal(8, 10)),
        "max_pool2d": (lambda x: tc.max_pool2d(x, kernel_size=2),
                       lambda x: f.max_pool2d(pixels(x), 2), normal(2, 8, 8, 2)),
        "layer norm": (lambda x: centered(x) / ((centered(x) ** 2).mean(-1, keepdims=True)
                                                + 1e-5) ** 0.5,
                       lambda x: f.layer_norm(x, (10,)), normal(10, 10)),
        "mean Huber": (lambda x: tc.where(abs(x) < 1, 0.5 * x * x, abs(x) - 0.5).mean(),
                       lambda x: f.huber_loss(x, torch.zeros_like(x)), normal(200)),
    }


def network(n=4, size=16):
    """A CNN's loss as a function of its images here, and of images and parameters in PyTorch."""
    import torch
    x, labels, rng = normal(n, size, size, 3), np.arange(n) % 5, np.random.default_rng(1)
    ours = nn.Sequential(
        nn.Conv2D(3, 8, 3, padding=1, rng=rng), nn.ReLU(), nn.MaxPool2D(2),
        nn.Conv2D(8, 8, 3, padding=1, rng=rng), nn.ReLU(), nn.Flatten(),
        nn.Linear(2 * size * size, 5, rng=rng)).astype(np.float64)
    t = torch.nn
    theirs = t.Sequential(
        t.Conv2d(3, 8, 3, padding=1), t.ReLU(), t.MaxPool2d(2), t.Conv2d(8, 8, 3, padding=1),
        t.ReLU(), t.Flatten(), t.Linear(2 * size * size, 5)).double()
    names = [name for name, _ in theirs.named_parameters()]

    def loss(images, *parameters):
        scores = torch.func.functional_call(theirs, dict(zip(names, parameters, strict=True)),
                                            (images,))
        return t.functional.cross_entropy(scores, torch.tensor(labels))

    return (lambda images: tc.cross_entropy(ours(images), labels), loss, x,
            x.transpose(0, 3, 1, 2).copy(), *(p.detach().numpy() for p in theirs.parameters()))


def seconds(calls, rounds):
    """The least CPU time of each call, in turns."""
    least = [np.inf] * len(calls)
    for _ in range(rounds + 1):                     # the first warms up
        for i, call in enumerate(calls):
            began = time.process_time()
            call()
            least[i] = min(least[i], time.process_time() - began)
    return least


def large_sample(size=90):
    """Seconds and megabytes that `check_op` takes on one square sample."""
    square = tc.custom_op(shape=lambda x: x, vjp={"x": lambda ct, out, x: 2 * ct * x},
                          samples=lambda rng: [tc.Sample("large", (rng.normal(size=(size, size)),))
                                               ])(lambda x: x * x)
    tracemalloc.start()
    began = time.process_time()
    check_op(square)
    taken, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    began = time.process_time()
    check_op(square)
    return min(taken, time.process_time() - began), peak / 1e6


def main(rounds=5):
    import torch
    gradcheck = torch.autograd.gradcheck

    def leaves(arrays):
        return [torch.tensor(a, requires_grad=True) for a in arrays]

    torch.set_num_threads(1)
    with tc.set_num_threads(1):
        ratios = []
        for name, (ours, theirs, *arrays) in functions().items():
            a, b, c = seconds([lambda: check_gradients(ours, *arrays),      # noqa: B023
                               lambda: check_torch(theirs, *arrays),        # noqa: B023
                               lambda: gradcheck(theirs, leaves(arrays))],  # noqa: B023
                              rounds)
            ratios.append((a / c, b / c))
            print(f"{name:12} check_gradients {1e3 * a:6.1f} ms, check_torch {1e3 * b:6.1f} ms, "
                  f"slow gradcheck {1e3 * c:6.1f} ms: {a / c:.2f}, {b / c:.2f}", flush=True)
        ours, theirs = (statistics.median(several) for several in zip(*ratios, strict=True))
        print(f"median of {len(ratios)}: {ours:.2f}, {theirs:.2f} of slow gradcheck")
        ours, theirs, x, *arrays = network()
        a, b, c = seconds([lambda: check_gradients(ours, x), lambda: check_torch(theirs, *arrays),
                           lambda: gradcheck(theirs, leaves(arrays), fast_mode=True)], rounds)
        print(f"network of {x.size} inputs, and its parameters: {a / c:.2f}, {b / c:.2f} of fast "
              f"gradcheck ({1e3 * a:.1f}, {1e3 * b:.1f}, {1e3 * c:.1f} ms)")
        taken, megabytes = large_sample()
        print(f"check_op on one sample of 90 × 90: {taken:.2f} s, {megabytes:.0f} MB")


if __name__ == "__main__":
    main()
