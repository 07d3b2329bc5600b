"""Recordings made by hand, so that folding and drawing are tested without running a network.

The fixture ``nets`` holds the builder and the ready ones; ``lenet_model`` a real small network.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn
from tinygrad_cnn.viz.capture import Entry, Recording, Statistics

FAMILIES = {"conv2d": "conv", "linear": "linear", "relu": "activation", "max_pool2d": "pool",
            "global_avg_pool2d": "pool", "batch_norm": "norm", "add": "elementwise",
            "mul": "elementwise", "flatten": "shape", "cross_entropy": "loss"}


class Builder:
    """Appends entries; each method returns the index of what it made."""

    def __init__(self, title: str = "Net", batch: int = 8) -> None:
        self.title, self.batch, self.entries, self.scope = title, batch, [], ()
        self.gradient = 1e-3

    def leaf(self, role: str, name: str, shape, dtype: str = "float32", **facts) -> int:
        gradient = Statistics(self.gradient, -1.0, 1.0) if role == "parameter" else None
        self.entries.append(Entry(role, tuple(shape), dtype, name=name, scope=self.scope,
                                  gradient=gradient, needs_gradient=role == "parameter",
                                  **({"value": Statistics(0.05, -0.1, 0.1)}
                                     if role == "parameter" else {}), **facts))
        return len(self.entries) - 1

    def op(self, op: str, shape, *inputs: int, arguments=(), settings=(), role="op",
           **facts) -> int:
        needs = any(self.entries[i].needs_gradient for i in inputs)
        gradient = Statistics(1.0 if role == "loss" else self.gradient, -1.0, 1.0)
        self.entries.append(Entry(
            role, tuple(shape), "float32", op=op, scope=self.scope,
            family=FAMILIES.get(op, "shape"), inputs=inputs,
            arguments=tuple(arguments or "xwb"[:len(inputs)]),
            settings=tuple(settings), needs_gradient=needs, gradient=gradient if needs else None,
            sent=tuple(self.gradient if self.entries[i].needs_gradient else None for i in inputs),
            flops=math.prod(shape) * 50, kept=math.prod(shape) * 4, seconds=1e-4,
            source=f"net.py:{10 + len(self.entries)}", **facts))
        return len(self.entries) - 1

    def recording(self, **facts) -> Recording:
        last = len(self.entries) - 1
        entries = tuple(replace(e, step=last - i) if e.op else e
                        for i, e in enumerate(self.entries))
        return Recording(self.title, entries, last, backward=True, **facts)


def lenet() -> Recording:
    b = Builder("LeNet")
    x = b.leaf("input", "x", (8, 28, 28, 1))
    for k, (c, o, side, n) in enumerate(((1, 8, 28, 5), (8, 16, 12, 3)), start=1):
        b.scope = (f"conv{k}",)
        w, bias = b.leaf("parameter", "weight", (n, n, c, o)), b.leaf("parameter", "bias", (o,))
        b.gradient = 10.0 ** -k
        x = b.op("conv2d", (8, side, side, o), x, w, bias,
                 settings=(f"{n}×{n}", "stride 1", f"{c}→{o} channels"))
        b.scope = ()
        dead = {"dead": 2, "channels": 16} if k == 2 else {}
        x = b.op("relu", (8, side, side, o), x, note="54% zeros", **dead)
        x = b.op("max_pool2d", (8, side // 2, side // 2, o), x, settings=("2×2", "stride 2"))
    x = b.op("flatten", (8, 576), x)
    b.scope = ("fc",)
    w, bias = b.leaf("parameter", "weight", (576, 10)), b.leaf("parameter", "bias", (10,))
    x = b.op("linear", (8, 10), x, w, bias, settings=("576→10",))
    b.scope = ()
    y = b.leaf("label", "y", (8,), "int64", note="labels")
    b.op("cross_entropy", (), x, y, role="loss", arguments=("logits", "labels"),
         note="loss 2.5374", value=Statistics(2.5374, 2.5374, 2.5374), classes=10)
    return b.recording()


def _norm_conv(b: Builder, scope: tuple, names: tuple, x: int, shape, c: int) -> int:
    b.scope = (*scope, names[0])
    w = b.leaf("parameter", "weight", (3, 3, c, shape[-1]))
    x = b.op("conv2d", shape, x, w, settings=("3×3", f"{c}→{shape[-1]} channels"))
    b.scope = (*scope, names[1])
    g, beta = b.leaf("parameter", "weight", shape[-1:]), b.leaf("parameter", "bias", shape[-1:])
    return b.op("batch_norm", shape, x, g, beta)


def resnet(blocks: int = 9) -> Recording:
    """Three stages of equal blocks; the first block of a later stage has a shortcut of its own."""
    b = Builder("ResNet")
    x = b.leaf("input", "x", (8, 32, 32, 3))
    x = _norm_conv(b, (), ("conv", "norm"), x, (8, 32, 32, 16), 3)
    b.scope = ()
    x = b.op("relu", (8, 32, 32, 16), x)
    c = 16
    for stage in range(3):
        o, side = 16 * 2**stage, 32 // 2**stage
        for k in range(blocks):
            scope, shape = (f"stage{stage + 1}", str(k)), (8, side, side, o)
            h = _norm_conv(b, scope, ("conv1", "norm1"), x, shape, c)
            b.scope = scope
            h = b.op("relu", shape, h)
            h = _norm_conv(b, scope, ("conv2", "norm2"), h, shape, o)
            short = x if c == o else _norm_conv(b, scope, ("down", "down_norm"), x, shape, c)
            b.scope = scope
            h = b.op("add", shape, h, short, arguments=("a", "b"))
            x, c = b.op("relu", shape, h), o
    b.scope = ()
    x = b.op("global_avg_pool2d", (8, 64), x)
    b.scope = ("fc",)
    w, bias = b.leaf("parameter", "weight", (64, 10)), b.leaf("parameter", "bias", (10,))
    x = b.op("linear", (8, 10), x, w, bias)
    b.scope = ()
    y = b.leaf("label", "y", (8,), "int64")
    b.op("cross_entropy", (), x, y, role="loss", arguments=("logits", "labels"), classes=10)
    return b.recording()


def chain(length: int, ops=("relu",)) -> Recording:
    b = Builder("Chain")
    x = b.leaf("parameter", "x", (4, 3))
    for k in range(length):
        x = b.op(ops[k % len(ops)], (4, 3), x)
    return b.recording()


def wide(arms: int = 9) -> Recording:
    """Branches side by side: the built-in layout leaves many of them to an engine."""
    b = Builder()
    x = b.leaf("input", "x", (8, 4))
    made = [b.op("flatten", (8, 4), b.op("linear", (8, 4), x)) for _ in range(arms)]
    b.op("concatenate", (8, 4 * arms), *made, arguments=tuple(f"xs[{k}]" for k in range(arms)))
    return b.recording()


def skips(branches: bool = False) -> Recording:
    """Convolutions with additions that reach back, or over several rows."""
    b = Builder()
    made = [b.leaf("input", "x", (8, 4, 4, 2))]
    for k in range(7):
        w = b.leaf("parameter", "weight", (3, 3, 2, 2))
        source = made[0] if branches and k % 2 else made[-1]
        made.append(b.op("conv2d", (8, 4, 4, 2), source, w))
        if k > 2:
            made.append(b.op("add", (8, 4, 4, 2), made[-1], made[-3]))
    if branches:
        made.append(b.op("add", (8, 4, 4, 2), made[-1], made[2]))
    return b.recording()


class LeNet(nn.Module):
    """Two convolutions and a linear layer, for images 12 12 1."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.conv1 = nn.Conv2D(1, 4, 3, padding=1, rng=rng)
        self.conv2 = nn.Conv2D(4, 8, 3, rng=rng)
        self.fc = nn.Linear(32, 10, rng=rng)

    def forward(self, image):
        h = tc.max_pool2d(tc.relu(self.conv1(image)), kernel_size=2)    # N 6 6 4
        h = tc.max_pool2d(tc.relu(self.conv2(h)), kernel_size=2)        # N 2 2 8
        return self.fc(tc.flatten(h, 1))


@pytest.fixture
def nets():
    return SimpleNamespace(Builder=Builder, lenet=lenet, resnet=resnet, chain=chain, LeNet=LeNet,
                           wide=wide, skips=skips, branches=lambda: skips(branches=True))


@pytest.fixture
def golden():
    """Compare text with a file of the folder; TINYGRAD_CNN_UPDATE_GRAPHS=1 writes it."""
    def compare(name, text):
        path = Path(__file__).parent / "golden" / name
        if os.environ.get("TINYGRAD_CNN_UPDATE_GRAPHS"):
            path.write_text(text, encoding="utf-8")
        assert text.splitlines() == path.read_text(encoding="utf-8").splitlines()
    return compare


@pytest.fixture
def batch():
    rng = np.random.default_rng(1)
    return rng.normal(size=(6, 12, 12, 1)).astype(np.float32), np.array([0, 1, 2, 3, 4, 5])


@pytest.fixture
def calls():
    """Work counted in calls, of Python and C: the same on every machine, at every load."""
    def count(work, *arguments):
        found = 0

        def note(frame, event, argument):
            nonlocal found
            found += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(note)
        try:
            work(*arguments)
        finally:
            sys.setprofile(before)
        return found
    return count
