"""``python tests/bench layers``: convolutions of known nets beside PyTorch's.

Each layer is timed forward and backward, at its own stride, dilation and groups.  Contenders take
turns of one call each, in one process, and the minimum counts.  On one thread it is the CPU time of
that thread, on which others have little influence; on several it is the time of the wall.
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import numpy as np

import tinygrad_cnn as tc


class Layer(NamedTuple):
    """A convolution of square filters: image H = W, channels, filters of a size, and settings."""

    net: str
    size: int
    channels: int
    filters: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    def __str__(self):
        parts = [f"{self.kernel}×{self.kernel}", f"{self.size}²", f"{self.channels}→{self.filters}"]
        parts += [f"{name} {value}" for name, value in zip(
            ("stride", "dilation", "groups"), self[5:], strict=True) if value > 1]
        return " ".join(parts)


LAYERS = (
    Layer("VGG-16", 224, 3, 64), Layer("VGG-16", 112, 64, 128), Layer("VGG-16", 56, 128, 256),
    Layer("VGG-16", 28, 256, 512), Layer("VGG-16", 14, 512, 512),
    Layer("ResNet-50", 224, 3, 64, 7, 2), Layer("ResNet-50", 56, 64, 256, 1),
    Layer("ResNet-50", 56, 256, 64, 1), Layer("ResNet-50", 56, 64, 64),
    Layer("ResNet-50", 56, 128, 128, 3, 2), Layer("ResNet-50", 56, 256, 512, 1, 2),
    Layer("ResNet-50", 14, 256, 256), Layer("ResNet-50", 7, 512, 512),
    Layer("MobileNetV2", 224, 3, 32, 3, 2), Layer("MobileNetV2", 112, 32, 32, 3, groups=32),
    Layer("MobileNetV2", 112, 96, 96, 3, 2, groups=96), Layer("MobileNetV2", 56, 24, 144, 1),
    Layer("MobileNetV2", 56, 128, 128, groups=128), Layer("MobileNetV2", 14, 384, 384, groups=384),
    Layer("MobileNetV2", 14, 384, 64, 1), Layer("MobileNetV2", 7, 960, 320, 1),
    Layer("DenseNet-121", 56, 128, 32), Layer("DenseNet-121", 28, 512, 128, 1),
    Layer("U-Net", 128, 32, 32), Layer("U-Net", 64, 128, 64),
    Layer("DeepLab", 28, 128, 128, dilation=2), Layer("DeepLab", 28, 256, 256, dilation=4),
    Layer("ResNeXt-50", 56, 128, 128, groups=32), Layer("ResNeXt-50", 28, 128, 128, groups=4),
    Layer("ResNeXt-50", 28, 256, 256, 3, 2, groups=32),
    Layer("LeNet", 28, 1, 8, 5), Layer("small", 32, 8, 16))


def ours(compiled, layer, x, w):
    """A function of one call, forward and backward, and its result and gradients."""
    padding = layer.dilation * (layer.kernel - 1) // 2
    images, filters = tc.Tensor(x, requires_grad=True), tc.Tensor(w, requires_grad=True)

    def run():
        with tc.set_compiled(compiled):
            images.grad = filters.grad = None
            y = tc.conv2d(images, filters, stride=layer.stride, padding=padding,
                          dilation=layer.dilation, groups=layer.groups)
            y.backward(np.ones(y.shape, np.float32))
        return y.numpy(), images.grad.numpy(), filters.grad.numpy()
    return run


def theirs(channels_last, layer, x, w):
    """The same of PyTorch."""
    import torch
    padding = layer.dilation * (layer.kernel - 1) // 2
    form = torch.channels_last if channels_last else torch.contiguous_format
    images, filters = (torch.tensor(a.transpose(axes).copy()).to(memory_format=form)
                       .requires_grad_() for a, axes in ((x, (0, 3, 1, 2)), (w, (3, 2, 0, 1))))

    def run():
        images.grad = filters.grad = None
        y = torch.nn.functional.conv2d(images, filters, None, layer.stride, padding,
                                       layer.dilation, layer.groups)
        y.backward(torch.ones_like(y))
        return (y.detach().permute(0, 2, 3, 1).numpy(), images.grad.permute(0, 2, 3, 1).numpy(),
                filters.grad.permute(2, 3, 1, 0).numpy())
    return run


def measured(layer, batch, threads, seconds, against=True):
    """Seconds of each contender; an error if they do not compute the same."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, layer.size, layer.size, layer.channels)).astype(np.float32)
    w = rng.normal(size=(layer.kernel, layer.kernel, layer.channels // layer.groups,
                         layer.filters)).astype(np.float32)
    runs = {"pure": ours(False, layer, x, w)}
    if tc.get_compiled():
        runs["fast"] = ours(True, layer, x, w)
    if against:
        runs |= {"torch": theirs(False, layer, x, w), "channels_last": theirs(True, layer, x, w)}
    first = {name: run() for name, run in runs.items()}
    for name, found in first.items():
        for a, b in zip(found, first["pure"], strict=True):
            if abs(a - b).max() > 1e-3 * abs(b).max():
                raise ValueError(f"{layer}: {name} does not compute what pure NumPy does")
    clock = time.thread_time if threads == 1 else time.perf_counter
    best = dict.fromkeys(runs, np.inf)
    end = time.perf_counter() + seconds
    turns = 0
    while turns < 3 or time.perf_counter() < end:
        turns += 1
        for name, run in runs.items():
            began = clock()
            run()
            best[name] = min(best[name], clock() - began)
    return best


def table(layers, batches, threads, seconds, tell=print):
    """A row for each layer and batch size."""
    columns = ["pure", "fast"] if tc.get_compiled() else ["pure"]
    tell(f"| net | layer | batch | torch, ms | {' | '.join(f'{c}, of it' for c in columns)} |")
    tell("|---|---|---:|---:|" + "---:|" * len(columns))
    for layer in layers:
        for batch in batches:
            best = measured(layer, batch, threads, seconds)
            torch = min(best["torch"], best["channels_last"])
            tell(f"| {layer.net} | {layer} | {batch} | {torch * 1e3:.2f} | "
                 + " | ".join(f"{best[c] / torch:.2f}" for c in columns) + " |")


def main(words):
    made = argparse.ArgumentParser(prog="python tests/bench layers", description=__doc__)
    made.add_argument("--threads", type=int, default=1, help="of each library; default 1")
    made.add_argument("--seconds", type=float, default=1.0, help="for each row; default 1")
    made.add_argument("--batch", type=int, action="append", help="default 1, 8 and 64")
    made.add_argument("--only", default="", metavar="WORD", help="layers whose row has this word")
    given = made.parse_args(words)
    import torch
    torch.set_num_threads(given.threads)
    with tc.set_num_threads(given.threads):
        table([x for x in LAYERS if given.only in f"{x.net} {x}"], given.batch or (1, 8, 64),
              given.threads, given.seconds, lambda line: print(line, flush=True))
    return 0
