"""The part of the pytest plugin that knows the package: one test for each op, case and property.

It is loaded by ``pytest_entry`` when ``--gradtest`` or the fixture ``gradtest`` is used.  A test
belongs to the file that declares the op, so its node id runs: ``my_ops.py::op-case-gradient``.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tinygrad_cnn.core import Tensor
from tinygrad_cnn.core.op import OPS, Op, Sample
from tinygrad_cnn.errors import GradientMismatch
from tinygrad_cnn.kernels.parallel import set_num_threads
from tinygrad_cnn.testing.cases import OpCase
from tinygrad_cnn.testing.check import (
    check_gradients,
    check_jax,
    check_op,
    check_torch,
    check_vjp_pair,
    drawn,
    run_error_input,
    start,
)
from tinygrad_cnn.testing.contract import properties_of, run_property
from tinygrad_cnn.testing.linearization import CheckFailed, Stats
from tinygrad_cnn.testing.report import Report, mismatch

if TYPE_CHECKING:
    from _pytest._code.code import TerminalRepr

__all__ = ["GradTest"]

_PACKAGE = Path(__file__).parents[1]
_HUB = Path(__file__)               # stands for all gradient tests among the arguments of pytest
_FILES = "gradtest/files"           # in the cache: where ops were declared


class GradTest:
    """What the fixture ``gradtest`` gives to hand-written tests.

    Examples
    --------
    ::

        def test_my_layer(gradtest):
            gradtest(my_layer, np.ones((2, 3)), order=2)
            gradtest.op(my_op)
            gradtest.pair(forward, backward, np.ones((2, 3)))
            gradtest.torch(MyFunction.apply, torch.ones(2, 3))
    """

    op = staticmethod(check_op)
    pair = staticmethod(check_vjp_pair)
    torch = staticmethod(check_torch)
    jax = staticmethod(check_jax)

    def __call__(self, fn: Callable[..., Tensor], *inputs: object, **settings: Any) -> Report:
        """`check_gradients`."""
        __tracebackhide__ = True
        return check_gradients(fn, *inputs, **settings)


# ---- collection

class GradHub(pytest.Collector):
    """All gradient tests: a file for each that declares ops."""

    def collect(self) -> Iterable[pytest.Collector]:
        """The files of the ops that are asked for."""
        config, cache = self.config, getattr(self.config, "cache", None)
        if config.getoption("lf", False) and cache is not None:
            for file in cache.get(_FILES, []):
                _import_file(Path(file), config)
        files: dict[Path, list[Op]] = {}
        for op in _selected(config):
            files.setdefault(_file_of(op), []).append(op)
        if cache is not None:
            cache.set(_FILES, [str(f) for f in files if _PACKAGE not in f.parents])
        for path, ops in files.items():
            nodeid: Any = None if config.rootpath in path.parents else path.as_posix()
            yield GradFile.from_parent(self.session, path=path, ops=ops, nodeid=nodeid)


class GradFile(pytest.File):
    """The gradient tests of the ops that a file declares."""

    def __init__(self, *, ops: list[Op] | None = None, **rest: Any) -> None:
        super().__init__(**rest)
        self.ops = ops

    def collect(self) -> Iterable[pytest.Item]:
        """One item for each op, case and property."""
        if self.ops is None:
            _import_file(self.path, self.config)
            self.ops = [op for op in OPS.values() if _file_of(op) == self.path]
        seen: dict[str, int] = {}
        for op in self.ops:
            for name, check in _checks(op, self.config.getoption("gradtest_seed")):
                seen[name] = seen.get(name, 0) + 1
                unique = name if seen[name] == 1 else f"{name}_{seen[name]}"
                yield GradItem.from_parent(self, name=unique, check=check, op=op)


def _checks(op: Op, seed: int) -> Iterator[tuple[str, Callable[[Stats], object]]]:
    """The name of each test of an op, and the test."""
    try:
        samples = drawn(op, seed)
    except CheckFailed:
        yield _slug(op.name, "has samples"), lambda stats: drawn(op, seed)
        return
    for sample in samples:
        shared = _Shared(op, sample, seed)
        for name in properties_of(op, sample):
            yield _slug(op.name, sample.id, name), partial(shared.check, name)
    for call in op.test.error_inputs:
        yield _slug(op.name, call.id, "refused"), partial(run_error_input, op, call)


def _slug(*parts: str) -> str:
    """A name without characters that node ids, shells and reports read in their own way."""
    return "-".join(re.sub(r"\W+", "_", part).strip("_") for part in parts)


_OP = re.compile(r"([^\[]*::\w+)(?:-\w+)+")         # a node id, and the part that names the op


class _Shared:
    """A sample whose properties share one case, made when the first of them runs."""

    def __init__(self, op: Op, sample: Sample, seed: int) -> None:
        self.op, self.sample, self.seed = op, sample, seed
        self.case: OpCase | None = None

    def check(self, name: str, stats: Stats) -> None:
        """The test of one property."""
        if self.case is None:
            self.case = start(self.op, self.sample, self.seed, Stats())
        before = self.case.stats.comparisons
        run_property(name, self.case)
        stats.comparisons += self.case.stats.comparisons - before


_WRONG: dict[Op, str] = {}          # ops of this run that were found wrong, and by which test


class GradItem(pytest.Item):
    """One property of one op on one case; skipped where the op was found wrong before."""

    def __init__(self, *, check: Callable[[Stats], object], op: Op, **rest: Any) -> None:
        super().__init__(**rest)
        self.check = check
        self.op = op

    def runtest(self) -> None:
        """Check the property."""
        __tracebackhide__ = True
        if self.op in _WRONG:
            pytest.skip(f"{self.op.name} is wrong already: {_WRONG[self.op]}")
        stats = Stats()
        try:
            with set_num_threads(1):
                self.check(stats)
        except CheckFailed as failed:
            _WRONG[self.op] = self.nodeid
            raise mismatch(failed.finding) from failed.finding.error
        # Reports travel from the workers of xdist; objects do not.
        self.user_properties.append(("gradtest comparisons", stats.comparisons))

    def repr_failure(self, excinfo: Any, style: Any = None) -> str | TerminalRepr:
        """The report itself, without a traceback through the checker."""
        if isinstance(excinfo.value, GradientMismatch):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """What pytest shows in its headings."""
        return self.path, None, self.name


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    """Keep the tests of an op on one worker of xdist, which knows that the op is wrong already."""
    if config.getoption("dist") not in ("load", "worksteal", "loadgroup"):
        return None                     # these keep files together, or run all tests everywhere
    from xdist.scheduler import LoadGroupScheduling
    made = LoadGroupScheduling(config, log)
    usual = made._split_scope

    def scope(nodeid: str) -> str:
        found = _OP.fullmatch(nodeid)
        return found[1] if found else str(usual(nodeid))

    made._split_scope = scope
    return made


# ---- which ops

def _selected(config: pytest.Config) -> list[Op]:
    """The ops to test: those that are named, else the project's own, else all in the package's."""
    if wanted := config.getoption("gradtest_op"):
        return [OPS[name] for name in dict.fromkeys(wanted) if name in OPS]
    if _PACKAGE.parent == config.rootpath:
        return list(OPS.values())
    return [op for op in OPS.values() if _PACKAGE not in _file_of(op).parents]


def _file_of(op: Op) -> Path:
    """The file whose module declares an op."""
    for f in (*op.vjp.values(), *op.kernels.values()):
        code = getattr(f, "__code__", None)
        if code is not None and Path(code.co_filename).is_file():
            return Path(code.co_filename).resolve()
    return _HUB


def _import(module: str, config: pytest.Config) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        # `pytest` alone, unlike `python -m pytest`, does not look in the directory it runs in.
        sys.path.insert(0, str(config.invocation_params.dir))
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            raise pytest.UsageError(f"--gradtest-import: there is no module {module}") from None
        finally:
            sys.path.remove(str(config.invocation_params.dir))


def _import_file(path: Path, config: object) -> None:
    """Import a file, unless a module of it is there already."""
    if path.is_file() and not any(getattr(m, "__file__", None) == str(path)
                                  for m in list(sys.modules.values())):
        sys.path.insert(0, str(path.parent))
        try:
            importlib.import_module(path.stem)
        finally:
            sys.path.remove(str(path.parent))


# ---- hooks

def pytest_configure(config: pytest.Config) -> None:
    """Collect the gradient tests after everything else, unless single tests are named."""
    if config.getoption("gradtest_only"):
        config.args[:] = [arg for arg in config.args if "::" in str(arg)]
    if not any("::" in str(arg) for arg in config.args) and str(_HUB) not in config.args:
        config.args.append(str(_HUB))
    _WRONG.clear()
    _COUNTED.clear()


def pytest_collection(session: pytest.Session) -> None:
    """Import the modules that declare more ops."""
    config = session.config
    for module in (*config.getini("gradtest_modules"), *config.getoption("gradtest_import")):
        _import(module, config)


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """Refuse names of ops that nothing has declared by now."""
    if unknown := [name for name in config.getoption("gradtest_op") if name not in OPS]:
        raise pytest.UsageError(f"--gradtest-op: no op is called {', '.join(unknown)}; choose from "
                                f"{', '.join(sorted(OPS))}")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The gradient tests stand for one file; a file that is named with a test of it has its own."""
    if file_path == _HUB:
        hub: GradHub = GradHub.from_parent(parent, name="gradtest", nodeid="gradtest",
                                           path=file_path)
        return hub
    named = [Path(str(arg).partition("::")[0]) for arg in parent.config.args if "::" in str(arg)]
    here = parent.config.invocation_params.dir
    if any((here / path).resolve() == file_path for path in named):
        file: GradFile = GradFile.from_parent(parent, path=file_path)
        return file
    return None


_COUNTED: list[int] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the comparisons, whichever process made them."""
    if report.when == "call":
        _COUNTED.extend(int(str(n)) for key, n in report.user_properties
                        if key == "gradtest comparisons")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was compared."""
    terminalreporter.write_line(f"gradtest: {sum(_COUNTED)} comparisons")
