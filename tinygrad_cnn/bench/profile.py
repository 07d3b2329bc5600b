"""Where the time of one step goes: each op, forward and inside the backward rules."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.bench.frameworks.own import Own
from tinygrad_cnn.bench.nets import Net, problem
from tinygrad_cnn.graph import Node, observing
from tinygrad_cnn.kernels.compiled import set_compiled
from tinygrad_cnn.tensor import Tensor

__all__ = ["Profile", "Row", "gemm_peak", "profile"]

Array = NDArray[Any]


@dataclass
class Row:
    """One op in one phase with one shape of result, summed over its calls."""

    phase: str
    op: str
    shape: tuple[int, ...]
    calls: int = 0
    seconds: float = 0.0
    flops: int = 0
    bytes: int = 0

    def add(self, seconds: float, flops: int, size: int) -> None:
        """One more call."""
        self.calls += 1
        self.seconds += seconds
        self.flops += flops
        self.bytes += size


class Profile:
    """An observer of the graph that adds up times, operations and bytes.

    Inside a backward pass the rules apply ops themselves: these have rows of their own, and the
    row of a rule holds what is left.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, tuple[int, ...]], Row] = {}
        self.phase = "forward"
        self._nested = 0.0

    def _row(self, op: str, shape: tuple[int, ...]) -> Row:
        return self.rows.setdefault((self.phase, op, shape), Row(self.phase, op, shape))

    def forward(self, node: Node, out: Array, seconds: float) -> None:
        """An op was applied; its bytes are those of its inputs and its result, each once."""
        assert node.inputs is not None
        shapes = [None if x is None else x.shape for x in node.inputs]
        size = out.nbytes + sum(x._data.nbytes for x in node.inputs if x is not None)
        self._row(node.op.name, out.shape).add(
            seconds, node.op.count_flops(*shapes, out=out.shape, **node.settings), size)
        if self.phase == "backward":
            self._nested += seconds

    def backward(self, node: Node, cotangent: Array, sent: Sequence[tuple[Tensor, Array]],
                 seconds: float) -> None:
        """The rules of a node were called."""
        size = cotangent.nbytes + sum(part.nbytes for _, part in sent)
        self._row(f"rules of {node.op.name}", cotangent.shape).add(
            max(0.0, seconds - self._nested), 0, size)
        self._nested = 0.0


def profile(net: Net, *, steps: int = 10, compiled: bool | None = None) -> dict[str, Any]:
    """The rows of the quickest of some steps, in falling order of time.

    Parameters
    ----------
    net : Net
        What to step.
    steps : int, default 10
        Steps of which the quickest is told, after one that is not counted.
    compiled : bool, optional
        With compiled kernels, or in pure NumPy; what `tinygrad_cnn.get_compiled` says if not given.

    Returns
    -------
    dict
        ``net``, ``batch``, ``compiled``, ``step_s``, and ``rows``: phase, op, shape, calls,
        seconds, flops, bytes, share.  What is not inside an op, the rows "between
        ops" and "update" tell.

    Raises
    ------
    MissingExtraError
        If compiled kernels are asked for and not installed.

    Examples
    --------
    >>> from tinygrad_cnn.bench.nets import lookup
    >>> found = profile(lookup("lenet", batch=2), steps=1)
    >>> sorted({row["phase"] for row in found["rows"]})
    ['backward', 'engine', 'forward', 'update']
    """
    own = Own(compiled)
    own.load(problem(net))
    with set_compiled(own.compiled):
        own.step()
        total, rows = min((_watched(own) for _ in range(steps)), key=lambda found: found[0])
    known = sum(row.seconds for row in rows)
    rows.append(Row("engine", "between ops", (), 1, max(0.0, total - known)))
    return {"net": net.name, "batch": net.batch, "compiled": own.compiled, "step_s": total,
            "rows": [{**asdict(row), "shape": list(row.shape), "share": row.seconds / total}
                     for row in sorted(rows, key=lambda row: -row.seconds)]}


def _watched(own: Own) -> tuple[float, list[Row]]:
    """Seconds of one step, and its rows."""
    observer = Profile()
    began = time.perf_counter()
    with observing(observer):
        loss = own.loss()
        observer.phase = "backward"
        loss.backward()
    middle = time.perf_counter()
    own.update()
    end = time.perf_counter()
    return end - began, [*observer.rows.values(), Row("update", "sgd", (), 1, end - middle)]


def gemm_peak() -> float:
    """FLOP/s of NumPy's float32 product of two square matrices, here and now."""
    a = np.ones((1024, 1024), np.float32)
    best = np.inf
    for _ in range(5):
        began = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - began)
    return 2 * 1024**3 / best
