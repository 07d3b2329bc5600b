"""``python tests/mutation/flips.py``: do the tests notice a flipped operator anywhere in a folder?

One operator of the package is replaced (``<`` by ``<=``, ``+`` by ``-``, ``and`` by ``or`` ...) in
a copy of the checkout, and those tests run that execute its line; a flip that no test notices
survives.  Which tests execute a line is measured first, once, with the package ``coverage``.  Flips
are drawn at random, the same number from each folder; the same seed draws the same flips.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("nn", "optim", "data", "train", "io", "viz", "testing")
# Tests of a folder that others execute too: all that are worth asking.
SUITES = ("nn", "optim", "data", "train", "io", "viz", "testing", "cli")
SECONDS = 240                           # a flip that makes a loop endless is noticed by this
AT_MOST = 400                           # tests asked for one flip, the closest first

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

    @property
    def folder(self) -> str:
        return self.path.split("/")[1]

    def __str__(self) -> str:
        return f"{self.path}:{self.line}  {self.before} -> {self.after}"


class _Operators(ast.NodeTransformer):
    """Counts the operators of a file, and replaces one of them."""

    def __init__(self, replace: int | None = None) -> None:
        self.found: list[tuple[int, type, int]] = []
        self.replace = replace

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
        if isinstance(node, ast.Compare):
            node.ops = [self._swap(op, node.lineno) for op in node.ops]
        elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign):
            text = any(isinstance(part, ast.Constant) and isinstance(part.value, str)
                       for part in ast.walk(node)) and isinstance(node, ast.BinOp)
            if not text:
                node.op = self._swap(node.op, node.lineno)
        return super().generic_visit(node)

    def _swap(self, op: ast.AST, line: int) -> ast.AST:
        if type(op) not in FLIPS:
            return op
        place = len(self.found)
        self.found.append((place, type(op), line))
        return FLIPS[type(op)]() if place == self.replace else op


def candidates(folder: str) -> list[Flip]:
    """Every operator of a folder of the package."""
    found = []
    for path in sorted((ROOT / "tinygrad_cnn" / folder).rglob("*.py")):
        operators = _Operators()
        operators.visit(ast.parse(path.read_text(encoding="utf-8")))
        found += [Flip(str(path.relative_to(ROOT)), place, line, SIGNS[op], SIGNS[FLIPS[op]])
                  for place, op, line in operators.found]
    return found


def flipped(flip: Flip) -> str:
    """The text of the file with that operator replaced."""
    operators = _Operators(flip.place)
    lines = (ROOT / flip.path).read_text(encoding="utf-8").splitlines(keepends=True)
    tree = ast.parse("".join(lines))
    for top in tree.body:                           # one statement is written anew, the rest stays
        before = len(operators.found)
        changed = operators.visit(top)
        if before <= flip.place < len(operators.found):
            first = min([top.lineno, *(d.lineno for d in getattr(top, "decorator_list", []))])
            lines[first - 1:top.end_lineno] = [ast.unparse(ast.fix_missing_locations(changed)),
                                               "\n"]
            return "".join(lines)
    raise AssertionError(flip)


MEASURE = """
import sys, coverage, pytest
covered = coverage.Coverage(data_file=sys.argv[1], source=["tinygrad_cnn"], config_file=False)
class Contexts:
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item, nextitem):
        covered.switch_context(item.nodeid)
        result = yield
        covered.switch_context("")
        return result
covered.start()
code = pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[2:]], plugins=[Contexts()])
covered.stop()
covered.save()
raise SystemExit(code)
"""


def tests_by_line(folders: tuple[str, ...], data: Path) -> dict[str, dict[int, list[str]]]:
    """File -> line -> the tests that execute it, those of the file's own folder first."""
    from coverage import CoverageData
    if not data.exists():
        suites = [f"tests/{name}" for name in dict.fromkeys((*folders, "cli"))]
        subprocess.run([sys.executable, "-c", MEASURE, str(data), *suites, "tests/test_docs.py"],
                       cwd=ROOT, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    measured = CoverageData(str(data))
    measured.read()
    found = {}
    for file in measured.measured_files():
        path = Path(file).relative_to(ROOT).as_posix()
        own = f"tests/{path.split('/')[1]}/"
        lines = measured.contexts_by_lineno(file)
        found[path] = {line: sorted((t for t in tests if t), key=lambda t: not t.startswith(own))
                       for line, tests in lines.items()}
    return found


def survives(flip: Flip, tests: list[str], copy: Path) -> bool:
    """Whether the tests pass with the operator replaced."""
    target = copy / flip.path
    original = target.read_text(encoding="utf-8")
    target.write_text(flipped(flip), encoding="utf-8")
    try:
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
            cwd=copy, capture_output=True, timeout=SECONDS,
            env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"})
    except subprocess.TimeoutExpired:
        return False
    finally:
        target.write_text(original, encoding="utf-8")
    return run.returncode == 0


def main() -> int:
    """Draw flips, run the tests of each, print the survivors and the share that was noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=200, help="how many, over all folders")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", choices=FOLDERS, action="append")
    parser.add_argument("--measured", type=Path, help="where the lines of each test are kept")
    chosen = parser.parse_args()
    folders = tuple(chosen.folder or FOLDERS)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__",
                                                                  ".*_cache"))
        lines = tests_by_line(folders, chosen.measured or Path(temporary) / "lines")
        rng, drawn = random.Random(chosen.seed), []
        for i, folder in enumerate(folders):
            share = chosen.flips * (i + 1) // len(folders) - chosen.flips * i // len(folders)
            # Lines that no test executes are drawn too: such a flip survives.
            everything = candidates(folder)
            drawn += rng.sample(everything, min(share, len(everything)))
        counts: Counter[str] = Counter()
        survivors = defaultdict(list)
        for flip in drawn:
            known = lines.get(flip.path, {})
            tests = known.get(flip.line, [])[:AT_MOST] or (
                [f"tests/{flip.folder}"] if flip.line in known else [])
            counts[flip.folder] += 1
            if not tests or survives(flip, tests, copy):
                survivors[flip.folder].append(flip)
                print(f"survived: {flip}" + ("" if tests else "  (no test executes it)"),
                      flush=True)
        for folder in folders:
            total = counts[folder]
            print(f"{folder:<8} {total - len(survivors[folder]):>3} of {total}")
        killed = len(drawn) - sum(map(len, survivors.values()))
        print(f"{len(drawn)} flips, seed {chosen.seed}: {killed / len(drawn):.1%} noticed")
    return 0 if killed >= 0.95 * len(drawn) else 1


if __name__ == "__main__":
    raise SystemExit(main())
