"""The nets and the engine side by side: every framework in its own process, taking turns."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinygrad_cnn.bench.cases import MACHINE, Case, chain_case, net_case, notebook_case
from tinygrad_cnn.bench.frameworks import OURS, contenders
from tinygrad_cnn.bench.frameworks.base import COPY, GEMM
from tinygrad_cnn.bench.measure import Others, summary
from tinygrad_cnn.bench.nets import NETS, flops, lookup
from tinygrad_cnn.bench.process import Absent, BenchError, Worker, workers
from tinygrad_cnn.errors import SettingError

__all__ = ["Disagreement", "Plan", "agree", "measure", "race"]

TOLERANCE = 1e-3                        # of losses, relative
CALM = 0.05                             # share of the CPUs that others may take during a turn
Tell = Callable[[str], None]
Report = dict[str, Any]


class Disagreement(BenchError):  # noqa: N818 - it reads as a finding
    """Frameworks do not compute the same net, so that their times say nothing."""


@dataclass(frozen=True)
class Plan:
    """What to measure, and how long.

    Attributes
    ----------
    nets : tuple of str
        Names of nets.
    against : tuple of str
        Libraries besides our own.
    threads : int
        CPUs that each process may use.
    rounds : int
        How often each framework has its turn.
    seconds : float
        How long a turn lasts; at least one call, after one that is not counted.
    patience : int
        How often a turn is taken again during which other processes took CPU time; the least
        disturbed is kept.
    batch : int, optional
        Another batch size than the nets' own.
    pythons : mapping of str to str
        Library -> the interpreter that has it; this one if it is not named.
    micro : bool
        Also the engine, memory, import and the notebook's loops.
    compiled : bool
        Also torch.compile, which takes a minute for each net before its first step.
    """

    nets: tuple[str, ...] = tuple(NETS)
    against: tuple[str, ...] = ("torch",)
    threads: int = 1
    rounds: int = 8
    seconds: float = 0.5
    patience: int = 3
    batch: int | None = None
    pythons: Mapping[str, str] = field(default_factory=dict)
    micro: bool = True
    compiled: bool = True

    def __post_init__(self) -> None:
        for name in self.nets:
            lookup(name, batch=self.batch)
        contenders(self.against)
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") \
            else os.cpu_count() or 1
        for setting, value, least, most in (("threads", self.threads, 1, cpus),
                                            ("rounds", self.rounds, 1, 10**6),
                                            ("patience", self.patience, 0, 10**6)):
            if not least <= value <= most:
                raise SettingError(f"bench: {setting} must be from {least} to {most}, got {value}")
        if not 0 < self.seconds < math.inf:
            raise SettingError(f"bench: seconds must be positive, got {self.seconds}")


# ---- taking turns --------------------------------------------------------------------------------

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
    tinygrad_cnn.bench.run.Disagreement: losses of lenet differ, so nothing is timed:
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


# ---- the sections of the report ------------------------------------------------------------------

def measure(plan: Plan, tell: Tell = lambda line: None) -> Report:
    """Everything that the plan asks for, as a dictionary ready for JSON.

    Parameters
    ----------
    plan : Plan
        What, against whom, how long.
    tell : callable
        Is told each finding as a line.

    Returns
    -------
    dict
        ``machine``, ``versions``, ``skipped``, ``nets``, and with ``micro`` also ``engine``,
        ``notebook``, ``growth``, ``memory``.

    Notes
    -----
    A net whose losses differ between frameworks has an entry ``refused`` instead of times.
    """
    skipped: dict[str, str] = {}
    report: Report = {"machine": describe_machine(plan.threads), "versions": {},
                      "skipped": skipped, "nets": {}}
    names = contenders(plan.against, compiled=plan.compiled)
    with workers(names, threads=plan.threads, pythons=plan.pythons, skipped=skipped) as running:
        for worker in running.values():
            report["versions"].update(worker.versions)
        for name, why in skipped.items():
            tell(f"skipped {name}: {why}")
        report["machine"] |= _peaks(running, plan)
        tell(f"machine: {report['machine']}")
        for net in plan.nets:
            report["nets"][net] = _net(running, net, plan, skipped, tell)
        if plan.micro:
            report["engine"] = _engine(running, plan, tell)
            report["notebook"] = _notebook(running, plan, tell)
            report["growth"] = _growth(running, plan, tell)
    if plan.micro:
        report["memory"] = _memory(names, plan, tell)
    return report


def describe_machine(threads: int) -> Report:
    """What the figures were measured on."""
    cpu = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            cpu = next((line.split(":", 1)[1].strip() for line in file
                        if line.startswith("model name")), cpu)
    return {"cpu": cpu, "cpus": os.cpu_count(), "threads": threads, "system": platform.platform(),
            "python": sys.version.split()[0],
            "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None}


def _peaks(running: Mapping[str, Worker], plan: Plan) -> Report:
    found = race(running, MACHINE, rounds=min(plan.rounds, 4), seconds=min(plan.seconds, 0.5),
                 checks={}, patience=plan.patience)["times"]
    gemm = {name: round(2 * GEMM**3 / row["min"] / 1e9, 1) for name, row in found["sgemm"].items()}
    return {"sgemm_gflops": gemm[OURS],
            "sgemm_gflops_torch": max((v for n, v in gemm.items() if n != OURS), default=None),
            # a copy reads and writes
            "copy_gb_per_s": round(2 * COPY / found["copy"][OURS]["min"] / 1e9, 1)}


def _net(running: Mapping[str, Worker], name: str, plan: Plan, skipped: dict[str, str],
         tell: Tell) -> Report:
    net = lookup(name, batch=plan.batch)
    row: Report = {"batch": net.batch, "gflop": flops(net) / 1e9}
    try:
        found = race(running, net_case(name, batch=plan.batch), rounds=plan.rounds,
                     seconds=plan.seconds, checks={"inference": 1, "step": 3},
                     patience=plan.patience, skipped=skipped)
    except Disagreement as error:
        tell(f"{name}: refused: {error}")
        return row | {"refused": str(error)}
    row |= {"losses": found["results"]["step"], "others": found["others"], **found["times"]}
    for timer in ("step", "inference"):
        tell(f"{name} {timer}: " + ", ".join(f"{n} {v['min'] * 1e3:.2f} ms"
                                             for n, v in row[timer].items()))
    return row


def _engine(running: Mapping[str, Worker], plan: Plan, tell: Tell) -> Report:
    """Time of one op of a chain, forward and backward, and how a long chain grows."""
    length = 1000
    found = race(running, chain_case(length), rounds=plan.rounds, seconds=plan.seconds,
                 checks={"chain": 1}, patience=plan.patience)["times"]["chain"]
    ops = 2 * length                        # each link is a product and a sum
    per_op = {name: row["min"] / ops * 1e6 for name, row in found.items()}
    tell("engine, µs per op: " + ", ".join(f"{n} {v:.2f}" for n, v in per_op.items()))
    ours = {OURS: running[OURS]}
    long = {}
    for links in (25_000, 50_000, 500_000) if plan.rounds > 2 else (500, 1000, 2000):
        times = race(ours, chain_case(links), rounds=1, seconds=plan.seconds, checks={}, most=3)
        long[str(2 * links)] = times["times"]["chain"][OURS]["min"]
    tell("long chains, s: " + ", ".join(f"{n} nodes {v:.3f}" for n, v in long.items()))
    return {"per_op_us": per_op, "long_chain_s": long}


def _notebook(running: Mapping[str, Worker], plan: Plan, tell: Tell) -> Report:
    worker = running[OURS]
    worker.load(notebook_case(plan.batch or 14))
    agree({OURS: worker.call("op"), "loops": worker.call("loops")}, what="the notebook's gradients")
    times = {"op": min(worker.time("op", seconds=plan.seconds)),
             "loops": min(worker.time("loops", seconds=plan.seconds, most=1))}
    tell(f"notebook: loops {times['loops']:.3f} s, op {times['op'] * 1e3:.3f} ms")
    return times


def _growth(running: Mapping[str, Worker], plan: Plan, tell: Tell) -> Report:
    """Time of a step with eight times the batch, over the time of one."""
    base = plan.batch or 64
    times = {}
    for batch in (base, 8 * base):
        found = race({OURS: running[OURS]}, net_case("lenet", batch=batch), rounds=plan.rounds,
                     seconds=plan.seconds, checks={}, patience=plan.patience)
        times[str(batch)] = found["times"]["step"][OURS]["min"]
    first, second = times.values()
    tell(f"growth: batch ×8 takes ×{second / first:.2f}")
    return {"net": "lenet", "step_s": times, "ratio": second / first}


def _memory(names: tuple[str, ...], plan: Plan, tell: Tell) -> Report:
    """Bytes that steps need beyond what is held before the first, each in a fresh process."""
    found = {}
    for name in names:
        with workers((name,), threads=plan.threads, pythons=plan.pythons, skipped={}) as running:
            if name not in running:
                continue
            try:
                running[name].load(net_case("vgg", batch=plan.batch))
                found[name] = running[name].memory("step")
            except BenchError as error:
                tell(f"memory of {name}: {error}")
                continue
        tell(f"memory of a vgg step: {name} {found[name]['step'] / 2**20:.0f} MiB, the whole "
             f"process {found[name]['process'] / 2**20:.0f} MiB")
    return {"net": "vgg", "bytes": found}
