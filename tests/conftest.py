"""What holds for every test: single-threaded BLAS is not assumed, global state is put back."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cases import (  # noqa: F401  (hooks)
    global_state_left_alone,
    pytest_collection_finish,
    pytest_pycollect_makeitem,
    pytest_terminal_summary,
)

# ---- tests of optional packages: noted where they are skipped, and run where the packages are

# What a probe in the code disturbs: it is a call, after which an interrupt would come where Python
# itself lets none come, and code with probes has lost the places of its source.
NO_PROBES = ("tests/kernels/test_interrupts.py", "tests/testing/test_source_mutants.py",
             "tests/testing/test_plugin.py::test_the_kill_rate", "[docs/testing_gradients.md]",
             "tests/viz/test_viz_page.py::test_every_op_can_be_explained")


def pytest_addoption(parser):
    parser.addoption("--separate", action="store_true", help="make a test of each case")
    parser.addoption("--no-probes", action="store_true",
                     help="run only the tests that are skipped while coverage is measured")
    parser.addoption("--note-skipped", metavar="FILE", help="write which tests were skipped")
    parser.addoption("--skipped-before", metavar="FILE",
                     help="run only the tests of that list, and those of tests/kernels")


_skipped = set()


def pytest_collectreport(report):
    if report.skipped:                      # a file that begins with importorskip
        _skipped.add(report.nodeid)


def pytest_runtest_logreport(report):
    if report.skipped:
        _skipped.add(report.nodeid)


def pytest_sessionfinish(session):
    if file := session.config.getoption("--note-skipped"):
        Path(file).write_text("\n".join(sorted(_skipped)), encoding="utf-8")


def pytest_collection_modifyitems(config, items):
    if "COVERAGE_FILES" in os.environ and "slipcover" in sys.modules:
        for item in items:
            if any(words in item.nodeid for words in NO_PROBES):
                item.add_marker(pytest.mark.skip(reason="coverage is being measured"))
    if config.getoption("--no-probes"):
        items[:] = [item for item in items if any(words in item.nodeid for words in NO_PROBES)]
    if file := config.getoption("--skipped-before"):
        noted = set(Path(file).read_text(encoding="utf-8").splitlines())
        wanted, others = [], []
        for item in items:
            path = item.nodeid.partition("::")[0]
            again = path.startswith("tests/kernels/") or not noted.isdisjoint((path, item.nodeid))
            (wanted if again else others).append(item)
        config.hook.pytest_deselected(items=others)
        items[:] = wanted


@pytest.fixture(autouse=True)
def global_state_is_left_alone():
    """Fail a test that leaves global state changed; give each the same random numbers."""
    with global_state_left_alone():
        yield


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium; a test that asks for it is marked with `needs_browser`."""
    from browser import Browser
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()
