"""``tinygrad-cnn bench``: what is measured, against whom, and where the tables go."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinygrad_cnn.bench import report
from tinygrad_cnn.bench.accuracy import measure_accuracy
from tinygrad_cnn.bench.frameworks import LIBRARIES, OURS
from tinygrad_cnn.bench.imports import import_cost
from tinygrad_cnn.bench.nets import NETS, lookup
from tinygrad_cnn.bench.ops import kernel_errors, measure_ops
from tinygrad_cnn.bench.profile import gemm_peak, profile
from tinygrad_cnn.bench.run import Plan, measure
from tinygrad_cnn.errors import SettingError, TinygradCnnError
from tinygrad_cnn.kernels.threads import get_num_threads

__all__ = ["main"]

_COMPILER = "numba", "llvmlite"         # what the extra ``fast`` brings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tinygrad-cnn bench",
        description="Time nets, the engine and single ops side by side with other frameworks: each "
                    "in a process of its own, in turns, and only if they compute the same.")
    parser.add_argument("what", nargs="?", default="all",
                        choices=("all", "nets", "ops", "accuracy"),
                        help="all: nets, engine, memory, import, errors of kernels; nets alone; "
                             "ops: single ops over many shapes; accuracy: time to 90 %% on "
                             "Fashion-MNIST")
    parser.add_argument("--net", action="append", metavar="NAME",
                        help=f"one of {', '.join(NETS)}; may be repeated; default all")
    parser.add_argument("--against", default="torch", metavar="LIBRARIES",
                        help=f"commas between them: {', '.join(LIBRARIES)}; '' for none")
    parser.add_argument("--python", action="append", default=[], metavar="LIBRARY=PATH",
                        help="the interpreter that has this library, if it lives elsewhere")
    parser.add_argument("--profile", action="store_true",
                        help="where the time of a step goes, op by op")
    parser.add_argument("--threads", type=int, default=get_num_threads(),
                        help="CPUs for each framework; default all that may be used")
    parser.add_argument("--batch", type=int, help="another batch size than the nets' own")
    parser.add_argument("--rounds", type=int, help="turns of each framework; default 8")
    parser.add_argument("--seconds", type=float, help="length of a turn; default 0.5")
    parser.add_argument("--patience", type=int, default=3,
                        help="how often a turn is taken again during which other processes ran; "
                             "default 3")
    parser.add_argument("--quick", action="store_true",
                        help="tiny batches, one short turn, without torch.compile")
    parser.add_argument("--eager", action="store_true",
                        help="without torch.compile, which takes minutes to compile the nets")
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=None,
                        help="our compiled kernels beside pure NumPy, or pure NumPy alone; "
                             "--profile takes either; default: where the extra fast is installed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all numbers")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the tables")
    parser.add_argument("--update", type=Path, metavar="FILE",
                        help="put the tables between the comments 'begin: WHAT' and 'end: WHAT' of "
                             "a Markdown page; WHAT is profile, or what is measured")
    return parser


def _plan(given: argparse.Namespace) -> Plan:
    pythons = {}
    for pair in given.python:
        library, separator, path = pair.partition("=")
        if not separator or library not in LIBRARIES:
            raise SettingError(f"bench: --python {pair!r} must be LIBRARY=PATH, with a library of "
                               f"{', '.join(LIBRARIES)}")
        pythons[library] = path
    quick = given.quick
    return Plan(
        nets=tuple(given.net or NETS), pythons=pythons, threads=given.threads,
        against=tuple(name for name in given.against.split(",") if name),
        rounds=given.rounds or (1 if quick else 8),
        seconds=given.seconds or (0.01 if quick else 0.5),
        batch=given.batch or (2 if quick else None), micro=given.what == "all",
        patience=0 if quick else given.patience,
        eager=quick or given.eager, compiled=given.compiled)


def _profile(plan: Plan, quick: bool) -> tuple[dict[str, Any], str]:
    peak = gemm_peak()
    found = [profile(lookup(name, batch=plan.batch), steps=1 if quick else 10,
                     compiled=plan.compiled)
             for name in plan.nets]
    return ({"peak_flops": peak, "profiles": found},
            "\n".join(report.profile_markdown(one, peak=peak) for one in found))


def _all(plan: Plan, quick: bool, tell: Callable[[str], None]) -> tuple[dict[str, Any], str]:
    found = measure(plan, tell)
    if plan.micro:
        found["imports"] = import_cost(
            (OURS, "numpy", *_COMPILER, *plan.against) if "numba" in found["versions"]
            else (OURS, "numpy", *plan.against), rounds=1 if quick else 5, pythons=plan.pythons)
        found["errors"] = kernel_errors(tiny=quick, compiled=plan.compiled)
    return found, report.markdown(found)


def _found(given: argparse.Namespace, tell: Callable[[str], None]) -> tuple[dict[str, Any], str]:
    """The numbers of what was asked for, and their tables."""
    plan = _plan(given)
    if given.profile:
        return _profile(plan, given.quick)
    if given.what == "ops":
        found = measure_ops(plan, tell, tiny=given.quick)
        return found, report.ops_markdown(found)
    if given.what == "accuracy":
        found = measure_accuracy(plan, tell, data="digits", most=1) if given.quick \
            else measure_accuracy(plan, tell)
        return found, report.accuracy_markdown(found)
    return _all(plan, given.quick, tell)


def main(argv: list[str]) -> int:
    """Run ``tinygrad-cnn bench`` with these arguments.

    Parameters
    ----------
    argv : list of str
        What follows ``bench`` on the command line.

    Returns
    -------
    int
        0; 1 if a net was refused because frameworks disagree; 2 for a wrong argument.
    """
    given = _parser().parse_args(argv)

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        found, text = _found(given, tell)
        print(text)
        if given.json is not None:
            given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
        if given.markdown is not None:
            given.markdown.write_text(text, encoding="utf-8")
        if given.update is not None:
            page = given.update.read_text(encoding="utf-8")
            given.update.write_text(report.renewed(
                page, text, part="profile" if given.profile else given.what), encoding="utf-8")
    except (TinygradCnnError, OSError) as error:
        tell(f"tinygrad-cnn bench: {error}")
        return 2
    refused = [net for net, row in found.get("nets", {}).items() if "refused" in row]
    return 1 if refused else 0
