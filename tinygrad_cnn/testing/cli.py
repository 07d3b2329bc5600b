"""``tinygrad-cnn gradtest``: test ops from the command line, and score their samples."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tinygrad_cnn.core.op import OPS, Op, Sample
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.files import write_atomically
from tinygrad_cnn.kernels.parallel import set_num_threads
from tinygrad_cnn.testing.cases import OpCase, derived, samples_of
from tinygrad_cnn.testing.check import find
from tinygrad_cnn.testing.linearization import Stats
from tinygrad_cnn.testing.report import explain
from tinygrad_cnn.testing.source_mutants import SourceMutant, source_mutants
from tinygrad_cnn.types import Settings

__all__ = ["main", "parser"]


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    made = argparse.ArgumentParser(
        prog="tinygrad-cnn gradtest",
        description="Test the backward rules of ops: all registered ones, or those named.")
    made.add_argument("ops", nargs="*", metavar="OP", help="names of ops; all if none is given")
    made.add_argument("--seeds", type=int, default=1, metavar="N",
                      help="test with seeds 0 to N - 1 (default: 1)")
    made.add_argument("--json", metavar="FILE", help="write the table to a file too")
    made.add_argument("--kill-rate", action="store_true",
                      help="plant mistakes in the rules and tell which ones the samples miss")
    made.add_argument("--import", action="append", default=[], metavar="MODULE", dest="modules",
                      help="import this module first, which declares more ops")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if nothing was found wrong and no planted mistake was missed."""
    options = parser().parse_args(argv)
    before = set(OPS)
    for module in options.modules:
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        importlib.import_module(module)
    if unknown := [name for name in options.ops if name not in OPS]:
        print(f"gradtest: no op is called {', '.join(unknown)}; choose from "
              f"{', '.join(sorted(OPS))}", file=sys.stderr)
        return 2
    ops = [OPS[name] for name in options.ops or OPS]
    if options.kill_rate:
        # Modules that are imported bring the ops that are meant, unless some are named.
        own = [op for op in ops if options.ops or op.name not in before]
        return _kill_rate(own or ops, options.json)
    return _table(ops, range(options.seeds), options.json)


# ---- the table

def _table(ops: Sequence[Op], seeds: Sequence[int], file: str | None) -> int:
    rows, findings = [], []
    print(f"{'op':20} {'comparisons':>11} {'worst/bound':>11} {'seconds':>8}  derivatives")
    for op in ops:
        stats, began, found = Stats(), time.perf_counter(), None
        with set_num_threads(1):
            for seed in seeds:
                found = found or find(op, seed=seed, stats=stats)
        seconds = time.perf_counter() - began
        methods = ", ".join(dict.fromkeys(stats.methods.values())) or "-"
        verdict = "" if found is None else "  WRONG"
        print(f"{op.name:20} {stats.comparisons:11} {stats.worst:11.2g} {seconds:8.2f}  "
              f"{methods}{verdict}", flush=True)
        rows.append({"op": op.name, "comparisons": stats.comparisons, "worst": stats.worst,
                     "seconds": seconds, "methods": dict(stats.methods), "right": found is None})
        findings += [found] if found is not None else []
    total = sum(int(row["comparisons"]) for row in rows)      # type: ignore[call-overload]
    print(f"{len(rows)} ops, {total} comparisons, {len(findings)} wrong")
    for finding in findings:
        print(f"\n{explain(finding)}")
    _write(file, {"ops": rows, "findings": [
        {"op": f.subject, "case": f.case, "input": f.input, "property": f.prop, "detail": f.detail}
        for f in findings]})
    return 1 if findings else 0


def _write(file: str | None, content: Settings) -> None:
    if file is not None:
        with write_atomically(file, SettingError) as stream:
            stream.write(json.dumps(content, indent=1).encode() + b"\n")


# ---- planted mistakes

def _kill_rate(ops: Sequence[Op], file: str | None) -> int:
    """Slips made from the source of the rules, and those that the samples of the op miss."""
    found = {op.name: _slips(op) for op in ops}
    _write(file, found)
    return 1 if any(slips["missed"] for slips in found.values()) else 0


def _slips(op: Op) -> Settings:
    """Plant slips in one op, test with its own samples, and look for a case where they miss."""
    mutants = source_mutants(op)
    killed, missed, alike = 0, [], 0
    for mutant in mutants:
        with set_num_threads(1):
            if find(mutant.op, extra=0) is not None:
                killed += 1
                continue
            case = telling_case(op, mutant)
        if case is None:
            alike += 1
        else:
            missed.append((mutant, case))
    rate = 100 * killed / max(killed + len(missed), 1)
    print(f"{op.name}: {len(mutants)} slips, {rate:.4g} % killed by its samples"
          + (f", {alike} make no difference that was found" if alike else ""))
    if not mutants:
        print("  the source of its rules is not at hand")
    for mutant, case in missed:
        print(f"  missed: in the rule for {mutant.input}:  {mutant.says}\n"
              f"    add a sample such as {_as_sample(case)}")
    return {"slips": len(mutants), "killed": killed, "alike": alike,
            "missed": [{"input": m.input, "says": m.says, "sample": _as_sample(c)}
                       for m, c in missed]}


def telling_case(op: Op, mutant: SourceMutant, seeds: int = 8) -> Sample | None:
    """A derived call on which a slip gives another gradient than the rule, if one is found."""
    for seed in range(seeds):
        several = list(op.test.samples(np.random.default_rng(seed)))
        for case in (*samples_of(op, seed, extra=0),
                     *derived(op, several, np.random.default_rng([seed, 1]), 12)):
            right = OpCase(op, case, seed=seed)
            wrong = OpCase(mutant.op, case, seed=seed)
            ct = right.cotangent(1)
            try:
                pairs = zip(right.pull(right.arrays, ct), wrong.pull(wrong.arrays, ct), strict=True)
                if not all(a is not None and b is not None
                           and np.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in pairs):
                    return case
            except Exception:
                return case                        # the slip does not even run there
    return None


def _as_sample(case: Sample) -> str:
    """A sample in short: shapes and settings."""
    shapes = ", ".join("None" if a is None else f"rng.normal(size={np.shape(a)})"
                       for a in case.args)
    settings = ", ".join(f"{k!r}: {v!r}" for k, v in case.settings.items()
                         if not isinstance(v, np.ndarray))
    return f"Sample({case.id!r}, ({shapes},){', {' + settings + '}' if settings else ''})"


if __name__ == "__main__":
    raise SystemExit(main())
