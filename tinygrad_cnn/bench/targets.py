"""The figures to reach, held against what was measured; pure NumPy and compiled apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tinygrad_cnn.bench.frameworks import CONTENDERS, FAST, OURS, of_library

__all__ = ["OWN", "Target", "best", "ratio", "targets"]

Report = Mapping[str, Any]
OWN = {OURS: "", FAST: ", with the extra fast"}
"""Our own contenders, and what a target says of them: pure NumPy goes without saying."""

_STEP = {"lenet": 0.9, "vgg": 0.8, "wide": 0.6, "resnet20": 0.9}    # × PyTorch's best


class Target(NamedTuple):
    """A figure to reach, and the one measured."""

    what: str
    bound: float
    measured: float
    unit: str = "×"
    least: bool = False                 # whether the bound is a lower one

    @property
    def reached(self) -> bool:
        """Whether the measured figure is on the right side."""
        return self.measured >= self.bound if self.least else self.measured <= self.bound


def best(row: Mapping[str, Any], library: str) -> float | None:
    """The quickest variant of a library; None if it was not timed."""
    times = [v["min"] for name, v in row.items() if of_library(name, library)]
    return min(times, default=None)


def _libraries(row: Mapping[str, Any]) -> list[str]:
    """The libraries of others."""
    return list(dict.fromkeys(CONTENDERS[name].library for name in row if name not in OWN))


def ratio(row: Mapping[str, Any], own: str) -> float | None:
    """Our time, pure or compiled, over that of PyTorch's best; None if either is missing.

    Examples
    --------
    >>> ratio({OURS: {"min": 1.0}, "torch": {"min": 4.0}, "torch.compile": {"min": 2.0}}, OURS)
    0.5
    """
    torch = best(row, "torch")
    return row[own]["min"] / torch if torch and own in row else None


def _net_targets(report: Report) -> Iterable[Target]:
    for net, row in report.get("nets", {}).items():
        if "step" not in row:
            continue
        for timer, bound in (("step", _STEP.get(net, 0.9)), ("inference", 0.9)):
            for own, which in OWN.items():
                measured = ratio(row[timer], own)
                if measured is not None:
                    yield Target(f"{net}: {timer}, of PyTorch's best{which}", bound, measured)
        for library in _libraries(row["step"]):
            other = best(row["step"], library)
            for own, which in OWN.items():
                if library != "torch" and other and own in row["step"]:
                    yield Target(f"{net}: step, faster than {library}{which}", 3.0,
                                 other / row["step"][own]["min"], least=True)


def targets(report: Report) -> list[Target]:
    """Every target that the report has a measurement for.

    Examples
    --------
    >>> found = targets({"growth": {"ratio": {"tinygrad_cnn": 9.0}}})
    >>> found[0].bound, found[0].reached
    (8.5, False)
    """
    found = list(_net_targets(report))
    if "engine" in report:
        found += _engine_targets(report["engine"])
    for own, which in OWN.items():
        found += _own_targets(report, own, which)
    if OURS in report.get("imports", {}):
        found.append(Target("import", 0.25, report["imports"][OURS]["min"], "s"))
    return found


def _engine_targets(engine: Mapping[str, Any]) -> Iterable[Target]:
    per_op = engine["per_op_us"]
    for own, which in OWN.items():
        if own in per_op:
            yield Target(f"engine: time of an op, forward and backward{which}", 8.0, per_op[own],
                         "µs")
            if "torch" in per_op:
                yield Target(f"engine: time of an op, of PyTorch's{which}", 0.6,
                             per_op[own] / per_op["torch"])
    *_, shorter, longer = ((int(n), t) for n, t in engine["long_chain_s"].items())
    yield Target(f"engine: {longer[0]:,} nodes against {shorter[0]:,}, per node", 1.5,
                 longer[1] / shorter[1] * shorter[0] / longer[0])


def _own_targets(report: Report, own: str, which: str) -> Iterable[Target]:
    """What is measured once for each of our own ways of running."""
    loops, op = (report.get("notebook", {}).get(key) for key in ("loops", "op"))
    if loops and own in op:
        yield Target(f"the notebook's loops, slower than the op{which}", 2000, loops / op[own],
                     least=True)
    growth = report.get("growth", {}).get("ratio", {})
    if own in growth:
        yield Target(f"lenet: step with 8 × the batch{which}", 8.5, growth[own])
    memory = {n: b["step"] for n, b in report.get("memory", {}).get("bytes", {}).items()}
    torch = [b for n, b in memory.items() if of_library(n, "torch")]
    if own in memory and torch:
        yield Target(f"vgg: memory of a step, of PyTorch's least{which}", 1.0,
                     memory[own] / min(torch))
    for dtype, bound in (("float32", 5e-5), ("float64", 1e-12)):
        errors = [row[dtype] for row in report.get("errors", ())
                  if dtype in row and row["compiled"] == (own == FAST)]
        if errors:
            yield Target(f"largest error of a kernel, {dtype}{which}", bound, max(errors),
                         "of the largest output")
