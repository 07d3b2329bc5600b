"""The cases of a parametrized test run as one test, so that a case costs what it executes.

pytest takes two milliseconds for a test, whatever that does, and most cases of a walk take less.
So a parametrized test is collected once, unless each case needs a fixture of its own.  All of its
cases run, each with the global state of a fresh test; those that fail are reported together, with
their ids.
``pytest --separate`` makes a test of each case, as do ``-k`` and a node id that names one.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn.core import graph, op
from tinygrad_cnn.ops import random

CASES = pytest.StashKey[int]()          # how many are collected
OUR_FIXTURES = {"global_state_is_left_alone", "request"}


def _global_state() -> dict[str, object]:
    return {
        "recording, scope, observer": graph._state.get(),
        "forced kernels": op._forced.get(),
        "threads": tc.get_num_threads(),
        "numpy error handling": np.geterr(),
        "print options": {k: v for k, v in np.get_printoptions().items() if k != "formatter"},
        "warning filters": len(warnings.filters),
    }


@contextlib.contextmanager
def global_state_left_alone() -> Iterator[None]:
    """Fail a case that leaves global state changed; give each the same random numbers."""
    with contextlib.suppress(tc.SettingError):
        random.manual_seed(0)
    ops, functions = dict(tc.OPS), dict(op.FUNCTIONS)
    before = _global_state()
    try:
        yield
    finally:
        after = _global_state()
        changed = [name for name, value in before.items() if after[name] != value]
        removed = set(ops) - set(tc.OPS)
        # Ops that a test declares are taken out again, so that tests do not see each other's.
        for registry, kept in ((tc.OPS, ops), (op.FUNCTIONS, functions)):
            for name in set(registry) - set(kept):
                del registry[name]
    assert not changed, f"the test left changed: {', '.join(changed)}"
    assert not removed, f"the test unregistered {removed}"


class Case:
    """One row of one ``parametrize``, or of several on top of each other."""

    def __init__(self, arguments: dict[str, Any], name: Callable[[], str], reason: str) -> None:
        self.arguments, self.name, self.reason = arguments, name, reason

    @classmethod
    def joined(cls, chosen: tuple[Case, ...]) -> Case:
        """One case of a row of each table."""
        return cls({key: value for row in chosen for key, value in row.arguments.items()},
                   lambda: "-".join(row.name() for row in chosen),
                   next((row.reason for row in chosen if row.reason), ""))


def _name(ids: Any, i: int, values: tuple[Any, ...]) -> str:
    if ids is None:
        return "-".join(f"{value!r:.40}" for value in values)
    return "-".join(str(ids(value)) for value in values) if callable(ids) else str(list(ids)[i])


def rows(mark: pytest.Mark) -> list[Case] | None:
    """The cases of one ``parametrize``; None where it asks for more than values."""
    names, values = mark.args[:2]
    if set(mark.kwargs) - {"ids"} or len(mark.args) > 2:
        return None
    names = [n.strip() for n in names.split(",") if n.strip()] if isinstance(names, str) else names
    found = []
    for i, row in enumerate(values):
        param = isinstance(row, type(pytest.param()))
        marks = row.marks if param else ()
        if any(mark.name != "skipif" for mark in marks):
            return None
        reason = next((mark.kwargs["reason"] for mark in marks if mark.args[0]), "")
        given = row.values if param else (row,) if len(names) == 1 else row
        name = functools.partial(_name, mark.kwargs.get("ids"), i, given)
        found.append(Case(dict(zip(names, given, strict=True)),
                          (lambda row=row: row.id) if param and row.id else name, reason))
    return found


def together(test: Callable, first_only: bool, shared: Callable[[str], bool]) -> Callable | None:
    """One test of all the cases, or None where each case needs a fixture of its own."""
    # A generator can be read once, so its list is kept for pytest.
    marks = [pytest.mark.parametrize(mark.args[0], list(mark.args[1]), **mark.kwargs).mark
             if mark.name == "parametrize" else mark for mark in getattr(test, "pytestmark", [])]
    test.pytestmark = marks
    tables = [rows(mark) for mark in marks if mark.name == "parametrize"]
    if not tables or None in tables or getattr(test, "is_hypothesis_test", False) or any(
            mark.name not in ("parametrize", "filterwarnings", "skipif") for mark in marks):
        return None
    cases = [Case.joined(chosen) for chosen in itertools.product(*tables)]
    takes = inspect.signature(test).parameters
    fixtures = [name for name in takes if cases and name not in cases[0].arguments]
    patched = "monkeypatch" in fixtures
    if not cases or not all(name == "monkeypatch" or shared(name) for name in fixtures):
        return None

    @functools.wraps(test)
    def walk(**fixtures: Any) -> None:
        failed: list[Exception] = []
        skipped = []
        for case in cases:
            try:
                if case.reason:
                    pytest.skip(case.reason)
                with global_state_left_alone(), pytest.MonkeyPatch.context() as patch:
                    if patched:
                        fixtures["monkeypatch"] = patch
                    test(**case.arguments, **fixtures)
            except pytest.skip.Exception as reason:
                skipped.append(str(reason))
            except (Exception, pytest.fail.Exception) as error:
                if not isinstance(error, Exception):
                    error = AssertionError(str(error))
                error.add_note(f"in the case [{case.name()}]")
                failed.append(error)
                if first_only:
                    break
        if len(failed) == 1:
            raise failed[0]
        if failed:
            raise ExceptionGroup(f"{len(failed)} of {len(cases)} cases failed", failed)
        if skipped:
            pytest.skip(f"{len(skipped)} of {len(cases)} cases: {skipped[0]}")

    walk.__signature__ = inspect.Signature([takes[n] for n in fixtures if n != "monkeypatch"])
    walk.pytestmark = [mark for mark in marks if mark.name != "parametrize"]
    walk.cases = len(cases)
    return walk


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector, name, obj):
    options = collector.config.option
    if (options.separate or options.keyword or any("[" in str(word) for word in options.file_or_dir)
            or not inspect.isfunction(obj) or not collector.funcnamefilter(name)):
        return None
    manager = collector.session._fixturemanager

    def scope(name: str) -> str:
        return manager.getfixturedefs(name, collector)[-1].scope

    walk = together(obj, options.maxfail == 1, lambda name: scope(name) in ("module", "session"))
    if walk is None:
        return None
    item = pytest.Function.from_parent(collector, name=name, callobj=walk)
    own = [n for n in item.fixturenames if n not in OUR_FIXTURES and scope(n) == "function"]
    return None if own else [item]


def pytest_collection_finish(session):
    session.config.stash[CASES] = sum(getattr(getattr(item, "obj", None), "cases", 1)
                                      for item in session.items)
    gc.freeze()                 # what is collected lives on: no need to look at it again


def pytest_terminal_summary(terminalreporter, config):
    if config.stash.get(CASES, 0):
        terminalreporter.write_line(f"{config.stash[CASES]:,} cases")
