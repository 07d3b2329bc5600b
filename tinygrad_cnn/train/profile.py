"""Where the time of a training step goes: each op, forward and backward."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.core import Tensor, TensorLike
from tinygrad_cnn.core.graph import Node, Observer, observing
from tinygrad_cnn.nn import Module
from tinygrad_cnn.nn.module import training
from tinygrad_cnn.ops import cross_entropy
from tinygrad_cnn.optim import SGD, Optimizer
from tinygrad_cnn.shapes import Shape
from tinygrad_cnn.train.tables import Rows, Table

__all__ = ["OpRow", "Profile", "profile"]


@dataclass
class OpRow:
    """One op in one phase with one shape of result, summed over its calls."""

    phase: str
    op: str
    shape: Shape
    calls: int = 0
    seconds: float = 0.0
    flops: int = 0
    bytes: int = 0


@dataclass(frozen=True, repr=False)
class Profile(Table):
    """One step, its rows in falling order of time; ``str`` gives the table.

    Attributes
    ----------
    seconds : float
        Of the whole step.
    rows : tuple of OpRow
        Their seconds add up to those of the step: the row "between ops" has what no op took, the
        row "optimizer" the update.
    """

    _texts: ClassVar[int] = 3

    seconds: float
    rows: tuple[OpRow, ...]

    def _cells(self) -> tuple[str, tuple[str, ...], Rows, str]:
        return (f"{1e3 * self.seconds:.2f} ms a step",
                ("phase", "op", "result", "calls", "ms", "share", "GFLOP/s", "GB/s"),
                [(row.phase, row.op, "×".join(map(str, row.shape)), str(row.calls),
                  f"{1e3 * row.seconds:.3f}", f"{row.seconds / self.seconds:.1%}",
                  *(f"{count / row.seconds / 1e9:.1f}" if count and row.seconds else "-"
                    for count in (row.flops, row.bytes))) for row in self.rows], "")


class _Watch(Observer):
    """Adds up what the graph tells."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, Shape], OpRow] = {}

    def _add(self, phase: str, op: str, shape: Shape, seconds: float, flops: int,
             size: int) -> None:
        row = self.rows.setdefault((phase, op, shape), OpRow(phase, op, shape))
        row.calls += 1
        row.seconds += seconds
        row.flops += flops
        row.bytes += size

    def forward(self, node: Node, inputs: tuple[Tensor | None, ...], out: np.ndarray,
                seconds: float) -> None:
        """An op was applied; its bytes are those of its inputs and its result, each once."""
        assert node.inputs is not None
        shapes = [None if x is None else x.shape for x in node.inputs]
        size = out.nbytes + sum(x._data.nbytes for x in node.inputs if x is not None)
        self._add("forward", node.op.name, out.shape, seconds,
                  node.op.count_flops(*shapes, out=out.shape, **node.settings), size)

    def backward(self, node: Node, cotangent: np.ndarray,
                 sent: Sequence[tuple[Tensor, np.ndarray]], seconds: float) -> None:
        """The rules of a node were called."""
        size = cotangent.nbytes + sum(part.nbytes for _, part in sent)
        self._add("backward", node.op.name, cotangent.shape, seconds, 0, size)


def profile(model: Module, images: TensorLike, labels: TensorLike, *,
            loss: Callable[..., Tensor] = cross_entropy,
            optimizer: Optimizer | None = None, steps: int = 10) -> Profile:
    """Take some training steps, and tell where the time of the quickest goes.

    Parameters
    ----------
    model : Module
        It is trained: give a copy if its weights matter.
    images, labels : array_like
        One batch: (N, H, W, C), and what the loss takes.
    loss : callable, default cross_entropy
        ``(scores, labels)`` -> a tensor of one element.
    optimizer : Optimizer, optional
        Plain SGD with a rate of 1e-4 if not given.
    steps : int, default 10
        How many, after one that is not counted.

    Examples
    --------
    >>> from tinygrad_cnn.models import lenet
    >>> images, labels = np.zeros((2, 28, 28, 1), np.float32), np.array([3, 7])
    >>> found = profile(lenet(), images, labels, steps=1)
    >>> sorted({row.phase for row in found.rows})
    ['backward', 'engine', 'forward', 'update']
    >>> sum(row.calls for row in found.rows if (row.phase, row.op) == ("backward", "conv2d"))
    2
    """
    steps = checks.integer("profile", "steps", steps, minimum=1)
    images = images if isinstance(images, Tensor) else Tensor(images)

    def forward() -> Tensor:
        return loss(model(images), labels)

    with training(model):
        forward()                               # layers that wait for their sizes get them
        chosen = SGD(model.parameters(), 1e-4) if optimizer is None else optimizer
        found = [_step(forward, chosen) for _ in range(1 + steps)]
    return min(found[1:], key=lambda step: step.seconds)


def _step(forward: Callable[[], Tensor], optimizer: Optimizer) -> Profile:
    watch = _Watch()
    began = time.perf_counter()
    with observing(watch):
        forward().backward()
    middle = time.perf_counter()
    optimizer.step()
    optimizer.zero_grad()
    end = time.perf_counter()
    rows = [*watch.rows.values(), OpRow("update", "optimizer", (), 1, end - middle)]
    rest = end - began - sum(row.seconds for row in rows)
    rows.append(OpRow("engine", "between ops", (), 1, max(0.0, rest)))
    return Profile(end - began, tuple(sorted(rows, key=lambda row: -row.seconds)))
