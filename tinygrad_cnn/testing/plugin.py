"""The part of the pytest plugin that knows the package: one test for each op, case and property.

It is loaded by ``pytest_entry`` when ``--gradtest`` or the fixture ``gradtest`` is used.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tinygrad_cnn.core import Tensor
from tinygrad_cnn.core.op import OPS, Op, Sample
from tinygrad_cnn.errors import GradientMismatch
from tinygrad_cnn.kernels.parallel import set_num_threads
from tinygrad_cnn.testing.cases import OpCase
from tinygrad_cnn.testing.check import (
    check_gradients,
    check_op,
    check_vjp_pair,
    drawn,
    run_error_input,
    start,
)
from tinygrad_cnn.testing.contract import properties_of, run_property
from tinygrad_cnn.testing.linearization import CheckFailed, Stats
from tinygrad_cnn.testing.report import Report, mismatch

__all__ = ["GradTest"]


class GradTest:
    """What the fixture ``gradtest`` gives to hand-written tests.

    Examples
    --------
    ::

        def test_my_layer(gradtest):
            gradtest(my_layer, np.ones((2, 3)), order=2)
            gradtest.op(my_op)
            gradtest.pair(forward, backward, np.ones((2, 3)))
    """

    def __call__(self, fn: Callable[..., Tensor], *inputs: Any, **settings: Any) -> Report:
        """`check_gradients`."""
        return check_gradients(fn, *inputs, **settings)

    def op(self, op: Op | str | Callable[..., Tensor], **settings: Any) -> Report:
        """`check_op`."""
        return check_op(op, **settings)

    def pair(self, forward: Callable[..., Any], vjp: Callable[..., Any], *arrays: Any,
             **settings: Any) -> Report:
        """`check_vjp_pair`."""
        return check_vjp_pair(forward, vjp, *arrays, **settings)


# ---- collection

class GradCollector(pytest.Collector):
    """Stands for all gradient tests in the tree of pytest."""

    total = Stats()

    def collect(self) -> Iterable[pytest.Item]:
        """One item for each op, case and property."""
        seed = self.config.getoption("gradtest_seed")
        for op in _selected(self.config):
            yield from self._items(op, seed)

    def _items(self, op: Op, seed: int) -> Iterator[pytest.Item]:
        try:
            samples = drawn(op, seed)
        except CheckFailed:
            yield _item(self, op, "", "has samples", lambda stats: drawn(op, seed))
            return
        for sample in samples:
            shared = _Shared(op, sample, seed)
            for name in properties_of(op, sample):
                yield _item(self, op, sample.id, name, partial(shared.check, name))
        for call in op.test.error_inputs:
            yield _item(self, op, call.id, "refused", partial(run_error_input, op, call))


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


class GradItem(pytest.Item):
    """One property of one op on one case."""

    def __init__(self, *, check: Callable[[Stats], Any], **rest: Any) -> None:
        super().__init__(**rest)
        self.check = check

    def runtest(self) -> None:
        """Check the property."""
        try:
            with set_num_threads(1):
                self.check(GradCollector.total)
        except CheckFailed as failed:
            raise mismatch(failed.finding) from failed.finding.error

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """The report itself, without a traceback through the checker."""
        if isinstance(excinfo.value, GradientMismatch):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """What pytest shows in its headings."""
        return self.config.rootpath, None, self.name


def _item(parent: GradCollector, op: Op, case: str, prop: str,
          check: Callable[[Stats], Any]) -> GradItem:
    name = f"{op.name}[{case}]: {prop}" if case else f"{op.name}: {prop}"
    item: GradItem = GradItem.from_parent(parent, name=name, check=check)
    return item


def _selected(config: Any) -> list[Op]:
    """The ops to test, after importing the modules that declare more."""
    for module in (*config.getini("gradtest_modules"), *config.getoption("gradtest_import")):
        _import(module, config)
    wanted = config.getoption("gradtest_op")
    if unknown := [name for name in wanted if name not in OPS]:
        raise pytest.UsageError(f"--gradtest-op: no op is called {', '.join(unknown)}; choose from "
                                f"{', '.join(sorted(OPS))}")
    return [op for name, op in OPS.items() if not wanted or name in wanted]


def _import(module: str, config: Any) -> None:
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


# ---- hooks

def pytest_ignore_collect(collection_path: Path, config: Any) -> bool | None:
    """With ``--gradtest-only`` no file is collected."""
    return True if config.getoption("gradtest_only") else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: Any,
                                  items: list[pytest.Item]) -> None:
    """Add the gradient tests, before -k and -m choose among all."""
    GradCollector.total = Stats()
    collector = GradCollector.from_parent(session, name="gradtest", nodeid="gradtest")
    items.extend(collector.collect())


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how much was compared."""
    total = GradCollector.total.comparisons
    terminalreporter.write_line(f"gradtest: {total} comparisons")
