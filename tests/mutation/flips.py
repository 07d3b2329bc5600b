"""``python tests/mutation/flips.py``: do the tests notice a flipped operator anywhere in a folder?

One operator of the package is replaced (``<`` by ``<=``, ``+`` by ``-``, ``and`` by ``or`` ...),
and those tests run that execute it; a flip that no test notices survives.  Flips are drawn at
random, the same number from each folder; the same seed draws the same flips.

In memory alone, a drawn operator ``a < b`` becomes ``a <= b if on(k) else a < b``.  So one run of
the tests tells which of them come by which operator, and for each flip a forked process turns it on
and runs those, the quickest first, until one fails.  A flip that is executed at import, and each
that survives, is tried once more in a process of its own, in which it is on from the start.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import copy
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("nn", "optim", "data", "train", "io", "viz", "testing")
# An endless loop is noticed by its CPU time, threads that wait by the clock.
CPU_SECONDS, SECONDS = 100, 900
FLIPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
}
SIGNS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
         ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in", ast.And: "and",
         ast.Or: "or", ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/",
         ast.FloorDiv: "//", ast.Pow: "**"}


@dataclass(frozen=True)
class Flip:
    """One operator: its file, its place among those of the file, its line, and what it becomes."""

    path: str
    place: int
    line: int
    before: str
    after: str
    code: str

    @property
    def folder(self) -> str:
        return self.path.split("/")[1]

    def __str__(self) -> str:
        return f"{self.path}:{self.line}  {self.before} -> {self.after}  in  {self.code}"


class _Operators(ast.NodeTransformer):
    """Counts the operators of a file, and puts a switch to some of them."""

    def __init__(self, switches: dict[int, int] | None = None) -> None:
        self.found: list[tuple[type, int, str]] = []
        self.switches = switches or {}      # place -> number of the flip

    def visit(self, node: ast.AST) -> ast.AST:
        # Annotations and messages are no behavior: what a raise says is tested by its words.
        if isinstance(node, ast.AnnAssign):
            node.value = self.visit(node.value) if node.value else None
            return node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [self.visit(child) for child in node.body]
            return node
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.If)
                                               and "TYPE_CHECKING" in ast.unparse(node.test)):
            return node
        places: list[tuple[int, int]] = []              # (place, index among the node's operators)
        if isinstance(node, ast.Compare):
            places = [(self._place(op, node), i) for i, op in enumerate(node.ops)]
        elif isinstance(node, ast.BoolOp | ast.AugAssign) or (
                isinstance(node, ast.BinOp) and not any(
                    isinstance(part, ast.Constant) and isinstance(part.value, str)
                    for part in ast.walk(node))):
            places = [(self._place(node.op, node), 0)]
        node = super().generic_visit(node)
        for place, i in places:
            if place in self.switches:
                node = _switched(node, i, self.switches[place])
        return node

    def _place(self, op: ast.AST, node: ast.AST) -> int:
        if type(op) not in FLIPS:
            return -1
        self.found.append((type(op), node.lineno, ast.unparse(node)))
        return len(self.found) - 1


def _switched(node: ast.AST, i: int, number: int) -> ast.AST:
    """The node, or the same with its operator ``i`` replaced when that flip is on."""
    other = copy.deepcopy(node)
    inner = other
    while isinstance(inner, ast.IfExp):                 # another operator of it has a switch
        inner = inner.orelse
    if isinstance(inner, ast.Compare):
        inner.ops[i] = FLIPS[type(inner.ops[i])]()
    else:
        inner.op = FLIPS[type(inner.op)]()
    test = ast.Call(ast.Name("__flip_is_on__", ast.Load()), [ast.Constant(number)], [])
    both = (ast.If(test, [inner], [node]) if isinstance(node, ast.stmt)
            else ast.IfExp(test, inner, node))
    return ast.fix_missing_locations(ast.copy_location(both, node))


def candidates(folder: str) -> list[Flip]:
    """Every operator of a folder of the package."""
    found = []
    for path in sorted((ROOT / "tinygrad_cnn" / folder).rglob("*.py")):
        operators = _Operators()
        operators.visit(ast.parse(path.read_text(encoding="utf-8")))
        found += [Flip(str(path.relative_to(ROOT)), place, line, SIGNS[op], SIGNS[FLIPS[op]], code)
                  for place, (op, line, code) in enumerate(operators.found)]
    return found


def drawn_flips(flips: int, seed: int, folders: tuple[str, ...]) -> list[Flip]:
    """The same number from each folder; operators that no test executes are drawn too."""
    drawn = []
    for i, folder in enumerate(folders):
        share = flips * (i + 1) // len(folders) - flips * i // len(folders)
        everything = candidates(folder)
        drawn += random.Random(f"{folder} {seed}").sample(everything, min(share, len(everything)))
    return drawn


class Switches:
    """Puts switches into the package as it is imported, and knows who came by them."""

    def __init__(self, flips: list[Flip], on: int = -1) -> None:
        self.on, self.test = on, ""
        self.reached: dict[int, set[str]] = defaultdict(set)
        self.places: dict[str, dict[int, int]] = defaultdict(dict)
        for number, flip in enumerate(flips):
            self.places[str(ROOT / flip.path)][flip.place] = number

    def is_on(self, number: int) -> bool:
        """Whether that operator is flipped; the test of the moment has come by."""
        self.reached[number].add(self.test)
        return number == self.on

    def install(self) -> None:
        """From now on, a module that is imported has its switches."""
        usual, places = SourceFileLoader.get_code, self.places

        def get_code(loader: SourceFileLoader, name: str) -> Any:
            path = loader.get_filename(name)
            if path not in places:
                return usual(loader, name)
            tree = ast.parse(Path(path).read_text(encoding="utf-8"))
            return compile(_Operators(places[path]).visit(tree), path, "exec", dont_inherit=True)

        SourceFileLoader.get_code = get_code
        builtins.__flip_is_on__ = self.is_on


class Trial:
    """A plugin of pytest: runs all tests once, then for each flip those that execute it."""

    def __init__(self, flips: list[Flip], switches: Switches) -> None:
        self.flips, self.switches = flips, switches
        self.survivors: dict[int, list[str]] = {}       # number of the flip -> its tests
        self.failed: set[str] = set()                   # tests that fail without any flip

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test that fails anyway notices nothing."""
        if report.failed:
            self.failed.add(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        seconds = {}
        for item, after in zip(session.items, [*session.items[1:], None], strict=True):
            self.switches.test, began = item.nodeid, time.process_time()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            seconds[item.nodeid] = time.process_time() - began
        items = {item.nodeid: item for item in session.items}
        reached = {number: sorted(tests - self.failed, key=lambda test: seconds.get(test, 0.0))
                   for number, tests in self.switches.reached.items()}
        for number in range(len(self.flips)):
            tests = reached.get(number, [])
            if not tests or "" in tests or not self._noticed(number, [items[t] for t in tests]):
                self.survivors[number] = [t for t in tests if t]
        return True

    def _noticed(self, number: int, items: list[pytest.Item]) -> bool:
        sys.stdout.flush()
        child = os.fork()
        if child:
            return os.waitpid(child, 0)[1] != 0
        _limit_cpu()
        signal.alarm(SECONDS)                           # ends the child
        self.switches.on = number
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        for item, after in zip(items, [*items[1:], None], strict=True):
            item._initrequest()
            reports = runtestprotocol(item, nextitem=after, log=False)
            if any(report.failed for report in reports):
                os._exit(1)
        os._exit(0)


def _limit_cpu() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))


def alone(words: list[str], number: int, tests: list[str]) -> bool:
    """Whether the tests notice the flip in a process in which it is on from the start."""
    try:
        return subprocess.run(
            [sys.executable, __file__, *words, "--alone", str(number), *tests], cwd=ROOT,
            capture_output=True, timeout=SECONDS, preexec_fn=_limit_cpu,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ).returncode != 0
    except subprocess.TimeoutExpired:
        return True


def main() -> int:
    """Draw flips, run the tests of each, print the survivors and the share that was noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=200, help="how many, over all folders")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", choices=FOLDERS, action="append")
    parser.add_argument("--alone", type=int, default=-1, help="turn on this flip, run the tests")
    parser.add_argument("tests", nargs="*", help="default: of the folders, cli and docs")
    chosen = parser.parse_args()
    folders = tuple(chosen.folder or FOLDERS)
    flips = drawn_flips(chosen.flips, chosen.seed, folders)
    suites = dict.fromkeys((*folders, "cli", *["mutation"] * ("testing" in folders)))
    tests = chosen.tests or [*(f"tests/{name}" for name in suites), "tests/test_docs.py"]
    switches = Switches(flips, chosen.alone)
    switches.install()
    sys.dont_write_bytecode = True
    usual = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    if chosen.alone >= 0:
        return pytest.main(["-x", *usual, *tests])
    trial = Trial(flips, switches)
    if pytest.main([*usual, *tests], plugins=[trial]) not in (0, 1):
        return 2
    print(*(f"fails without a flip: {test}\n" for test in sorted(trial.failed)), sep="", end="")
    words = [f"--flips={chosen.flips}", f"--seed={chosen.seed}",
             *(f"--folder={name}" for name in chosen.folder or ())]
    counts, survivors = Counter(flip.folder for flip in flips), Counter()
    for number, reached in trial.survivors.items():
        flip = flips[number]
        if not alone(words, number, reached or [f"tests/{flip.folder}"]):
            survivors[flip.folder] += 1
            print(f"survived: {flip}" + ("" if reached else "  (no test executes it)"), flush=True)
    for folder in folders:
        print(f"{folder:<8} {counts[folder] - survivors[folder]:>3} of {counts[folder]}")
    killed = len(flips) - survivors.total()
    print(f"{len(flips)} flips, seed {chosen.seed}: {killed / len(flips):.1%} noticed")
    return 0 if killed >= 0.95 * len(flips) else 1


if __name__ == "__main__":
    raise SystemExit(main())
