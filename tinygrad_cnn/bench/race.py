"""Taking turns: one case in every process, timed only if all of them compute the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tinygrad_cnn.bench.cases import Case
from tinygrad_cnn.bench.frameworks import OURS
from tinygrad_cnn.bench.measure import Others, summary
from tinygrad_cnn.bench.process import Absent, BenchError, Worker

__all__ = ["Disagreement", "Report", "agree", "race"]

TOLERANCE = 1e-3                        # of losses, relative
CALM = 0.05                             # share of the CPUs that others may take during a turn
Report = dict[str, Any]


class Disagreement(BenchError):  # noqa: N818 - it reads as a finding
    """Frameworks do not compute the same net, so that their times say nothing."""


def agree(results: Mapping[str, Sequence[float]], *, what: str) -> None:
    """Refuse results that differ by more than a thousandth from ours.

    Raises
    ------
    Disagreement
        With both rows of numbers, or if a number is not finite.

    Examples
    --------
    >>> agree({"tinygrad_cnn": [2.0, 1.0], "torch": [2.0, 1.1]}, what="losses of lenet")
    Traceback (most recent call last):
        ...
    tinygrad_cnn.bench.race.Disagreement: losses of lenet differ, so nothing is timed:
      tinygrad_cnn: 2, 1
      torch: 2, 1.1
    """
    ours = results[OURS]
    for name, row in results.items():
        if len(row) != len(ours) or not all(
                math.isfinite(b) and math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-6)
                for a, b in zip(ours, row, strict=False)):
            rows = "".join(f"\n  {n}: {', '.join(f'{v:.6g}' for v in values)}"
                           for n, values in ((OURS, ours), (name, row)))
            raise Disagreement(f"{what} differ, so nothing is timed:{rows}")


def race(running: Mapping[str, Worker], case: Case, *, rounds: int, seconds: float,
         checks: Mapping[str, int], most: int = 1000, patience: int = 0,
         skipped: dict[str, str] | None = None) -> Report:
    """Time one case in every worker that has it, in turns.

    Parameters
    ----------
    running : mapping of str to Worker
        Our own among them.
    case : Case
        What to time.
    rounds, seconds, most
        Turns, and how long each lasts: seconds, and calls.
    checks : mapping of str to int
        Timer -> how many of its results must agree before anything is timed.
    patience : int, default 0
        How often a disturbed turn is taken again.
    skipped : dict, optional
        Takes the reasons of those who are left out.

    Returns
    -------
    dict
        ``{"results": {timer: {name: values}}, "times": {timer: {name: summary}}, "others": share}``
        with the mean share of the CPUs that other processes took during the turns.

    Raises
    ------
    Disagreement
        If a result differs.
    """
    timers: dict[str, list[str]] = {}
    results: dict[str, dict[str, list[float]]] = {timer: {} for timer in checks}
    for name, worker in running.items():
        try:
            timers[name] = worker.load(case)
            for timer, count in checks.items():
                if timer in timers[name]:
                    results[timer][name] = worker.call(timer, count)
        except BenchError as error:
            timers.pop(name, None)
            if name == OURS:
                raise
            if skipped is not None and not isinstance(error, Absent):
                skipped[f"{name} · {case.name}"] = str(error)
    for timer, rows in results.items():
        agree({n: r for n, r in rows.items() if n in timers},
              what=f"{timer} results of {case.name}")
    samples: dict[str, dict[str, list[float]]] = {}
    others: list[float] = []
    for _ in range(rounds):
        for name, own_timers in timers.items():
            for timer in own_timers:
                turn, share = _turn(running[name], timer, seconds, most, patience)
                samples.setdefault(timer, {}).setdefault(name, []).extend(turn)
                others.append(share)
    return {"results": results, "others": sum(others) / max(1, len(others)),
            "times": {timer: {name: summary(values) for name, values in rows.items()}
                      for timer, rows in samples.items()}}


def _turn(worker: Worker, timer: str, seconds: float, most: int,
          patience: int) -> tuple[list[float], float]:
    """One turn, taken again while others disturb it, and the share of the CPUs that they took."""
    best: tuple[list[float], float] = [], math.inf
    for _ in range(1 + patience):
        others = Others(worker.pid)
        samples = worker.time(timer, seconds=seconds, most=most)
        share = others.share()
        if share < best[1]:
            best = samples, share
        if share <= CALM:
            break
    return best
