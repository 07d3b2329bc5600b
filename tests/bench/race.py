"""Libraries take turns, each in a process of its own, and only if all compute the same."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.libraries import CONTENDERS, LIBRARIES, OURS
from bench.nets import NETS

TESTS = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-3                        # of values, relative
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class BenchError(Exception):
    """A measurement could not be made."""


class AbsentError(BenchError):
    """A library is not installed, or has no such case."""


class DisagreementError(BenchError):
    """Libraries do not compute the same, so that their times say nothing."""


@dataclass(frozen=True)
class Plan:
    """What to measure, and how long."""

    nets: tuple[str, ...] = tuple(NETS)
    against: tuple[str, ...] = ("torch",)
    threads: int = 1
    rounds: int = 8
    seconds: float = 0.5
    batch: int | None = None
    compiled: bool = True               # our compiled kernels beside pure NumPy
    functions: bool = False             # our plain functions beside the layers
    pythons: Mapping[str, str] = field(default_factory=dict)
    checkouts: tuple[str, ...] = ()     # folders with other versions of this package

    def __post_init__(self):
        for what, given, known in (("net", self.nets, NETS), ("against", self.against, LIBRARIES),
                                   ("python", self.pythons, LIBRARIES)):
            for name in given:
                if name not in known:
                    raise ValueError(f"--{what} {name!r} is unknown; choose from "
                                     f"{', '.join(known)}")
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        for what, value, most in (("threads", self.threads, cpus), ("rounds", self.rounds, 10**6),
                                  ("batch", self.batch or 1, 10**6)):
            if not 1 <= value <= most:
                raise ValueError(f"--{what} must be from 1 to {most}, got {value}")
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"--seconds must be positive, got {self.seconds}")
        for folder in self.checkouts:
            if not (Path(folder) / OURS / "__init__.py").exists():
                raise ValueError(f"--checkout {folder!r} has no folder {OURS}")

    def contenders(self):
        """Ourselves first, then other checkouts, then every variant of the libraries."""
        left_out = {f"{OURS} fast": not self.compiled, f"{OURS} functions": not self.functions}
        own = [name for name, c in CONTENDERS.items() if c.library == OURS
               and not left_out.get(name)]
        others = [f"{name} @ {folder}" for folder in self.checkouts for name in own]
        return [*own, *others, *(name for library in self.against
                                 for name, c in CONTENDERS.items() if c.library == library)]


def ask(contender, case, plan, seconds, limit=600.0):
    """What one process answers; see `worker.answer`."""
    name, _, checkout = contender.partition(" @ ")
    library = CONTENDERS[name].library
    request = {"name": name, "case": case, "batch": plan.batch, "threads": plan.threads,
               "seconds": seconds}
    root = Path(checkout).resolve() if checkout else TESTS.parent
    environment = {**os.environ, **dict.fromkeys(THREADS, str(plan.threads)),
                   "PYTHONPATH": f"{TESTS}{os.pathsep}{root}"}
    python = plan.pythons.get(library, sys.executable)
    try:
        done = subprocess.run([python, "-P", "-m", "bench.worker", json.dumps(request)], check=True,
                              capture_output=True, text=True, env=environment, timeout=limit)
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or "").strip().splitlines()
        raise BenchError(f"{contender}, {case}: {said[-1] if said else error}") from None
    found = json.loads(done.stdout)
    if "absent" in found:
        why, cure = found["absent"], CONTENDERS[name].pip
        raise AbsentError(f"{why}; {cure}" if found["install"] and cure not in why else why)
    return found


def library_of(name):
    """The library of a contender; another checkout of ours counts as a library."""
    own, _, checkout = name.partition(" @ ")
    return f"checkout {checkout}" if checkout else CONTENDERS[own].library


def agree(values, what):
    """Refuse values that are not finite, or differ by more than a thousandth from the first's."""
    first, *_ = values
    for name, row in values.items():
        if len(row) != len(values[first]) or not all(
                math.isfinite(b) and math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-6)
                for a, b in zip(values[first], row, strict=True)):
            rows = "".join(f"\n  {n}: {', '.join(f'{v:.6g}' for v in values[n])}"
                           for n in (first, name))
            raise DisagreementError(f"{what} differ, so nothing is timed:{rows}")


def race(case, plan, skipped, ask=ask):
    """Time one case in turns.

    Returns ``{"seconds": {timer: {name: minimum}}, "bytes": {name: bytes of steps}, "versions"}``.
    Libraries that are absent or fail are left out, and ``skipped`` says why; ours must not fail.
    """
    checked = {}
    for name in plan.contenders():
        try:
            checked[name] = ask(name, case, plan, 0)
        except BenchError as error:
            if name == OURS or (not isinstance(error, AbsentError) and library_of(name) == OURS):
                raise
            skipped[f"{name}, {case}"] = str(error)
    for timer in checked[OURS]["values"]:
        agree({name: found["values"][timer] for name, found in checked.items()},
              f"{case}: {timer} values")
    best = {}
    for _ in range(plan.rounds):
        for name in checked:
            for timer, samples in ask(name, case, plan, plan.seconds)["seconds"].items():
                row = best.setdefault(timer, {})
                row[name] = min([row.get(name, math.inf), *samples])
    return {"seconds": best, "bytes": {n: found.get("step_bytes") for n, found in checked.items()},
            "versions": {k: v for found in checked.values() for k, v in found["versions"].items()}}
