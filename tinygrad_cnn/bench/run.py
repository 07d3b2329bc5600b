"""The plan, and the nets and the engine side by side: each framework in its own process."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tinygrad_cnn.bench.cases import MACHINE, chain_case, net_case, notebook_case
from tinygrad_cnn.bench.frameworks import FAST, OURS, contenders, of_library
from tinygrad_cnn.bench.frameworks.base import COPY, GEMM
from tinygrad_cnn.bench.nets import NETS, flops, lookup
from tinygrad_cnn.bench.process import BenchError, Worker, workers
from tinygrad_cnn.bench.race import Disagreement, Report, agree, race
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.kernels.compiled import set_compiled

__all__ = ["Plan", "Tell", "describe_machine", "measure"]

Tell = Callable[[str], None]


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
    eager : bool
        Without torch.compile, which takes a minute for each net before its first step.
    compiled : bool, optional
        Our compiled kernels beside pure NumPy, or not; where they are installed if not given.

    Raises
    ------
    SettingError
        If a name is unknown or a number is out of its range.
    MissingExtraError
        If compiled kernels are asked for and not installed.
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
    eager: bool = False
    compiled: bool | None = None

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
        if self.compiled:
            with set_compiled(True):        # refuses where the extra is absent
                pass

    def contenders(self, *libraries: str, eager: bool = False) -> tuple[str, ...]:
        """Ourselves in pure NumPy, then compiled unless unwanted, then all of these libraries."""
        return contenders(libraries, eager=eager or self.eager, compiled=self.compiled is not False)


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
    names = plan.contenders(*plan.against)
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
            report["notebook"] = _notebook(_own(running), plan, tell)
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
    numpy = {name: worker for name, worker in running.items() if name != FAST}
    found = race(numpy, MACHINE, rounds=min(plan.rounds, 4), seconds=min(plan.seconds, 0.5),
                 checks={}, patience=plan.patience)["times"]
    gemm = {name: round(2 * GEMM**3 / row["min"] / 1e9, 1) for name, row in found["sgemm"].items()}
    return {"sgemm_gflops": gemm[OURS],
            "sgemm_gflops_torch": max((v for n, v in gemm.items() if of_library(n, "torch")),
                                      default=None),
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
    """Time of one op of a chain, forward and backward, and how a long chain grows.

    Nothing in a chain is compiled, so that our long chains are walked once, in pure NumPy.
    """
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


def _notebook(own: Mapping[str, Worker], plan: Plan, tell: Tell) -> Report:
    """Time of the four loops, once, and of the op that replaces them, pure and compiled."""
    for worker in own.values():
        worker.load(notebook_case(plan.batch or 14))
    agree({**{name: worker.call("op") for name, worker in own.items()},
           "loops": own[OURS].call("loops")}, what="the notebook's gradients")
    loops = min(own[OURS].time("loops", seconds=plan.seconds, most=1))
    op = {name: min(worker.time("op", seconds=plan.seconds)) for name, worker in own.items()}
    tell(f"notebook: loops {loops:.3f} s, op "
         + ", ".join(f"{name} {seconds * 1e3:.3f} ms" for name, seconds in op.items()))
    return {"loops": loops, "op": op}


def _own(running: Mapping[str, Worker]) -> dict[str, Worker]:
    """Our own processes: pure NumPy, and compiled where it could be had."""
    return {name: worker for name, worker in running.items() if of_library(name, OURS)}


def _growth(running: Mapping[str, Worker], plan: Plan, tell: Tell) -> Report:
    """Time of a step with eight times the batch, over the time of one."""
    base = plan.batch or 64
    small, large = (
        race(_own(running), net_case("lenet", batch=batch), rounds=plan.rounds,
             seconds=plan.seconds, checks={}, patience=plan.patience)["times"]["step"]
        for batch in (base, 8 * base))
    ratios = {name: large[name]["min"] / row["min"] for name, row in small.items()
              if name in large}
    tell("growth: batch ×8 takes " + ", ".join(f"{n} ×{v:.2f}" for n, v in ratios.items()))
    return {"net": "lenet", "ratio": ratios, "step_s": {
        name: {str(base): small[name]["min"], str(8 * base): large[name]["min"]}
        for name in ratios}}


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
