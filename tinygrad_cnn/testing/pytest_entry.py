"""What pytest loads at its start: three options, and nothing of the package.

The wheel installs this file as the top-level module ``pytest_tinygrad_cnn``, which the entry point
names; so that a run of pytest that asks for no gradient test imports neither the package nor NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_NAME = "tinygrad_cnn_gradtest"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--gradtest`` and the options that belong to it."""
    group = parser.getgroup("gradtest", "gradient tests of tinygrad_cnn")
    group.addoption("--gradtest", action="store_true",
                    help="also test the backward rules of every registered op: one test for each "
                         "op, case and property")
    group.addoption("--gradtest-only", action="store_true",
                    help="the same, and collect no other tests")
    group.addoption("--gradtest-op", action="append", default=[], metavar="NAME",
                    help="test this op only; may be given several times")
    group.addoption("--gradtest-import", action="append", default=[], metavar="MODULE",
                    help="import this module first, so that the ops it declares are tested too")
    group.addoption("--gradtest-seed", type=int, default=0, metavar="N",
                    help="seed of samples and cotangents (default: 0)")
    parser.addini("gradtest_modules", "modules that declare ops, imported for --gradtest",
                  type="args", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Offer the fixture; load the rest only if it is asked for."""
    import pytest

    class Fixtures:
        @pytest.fixture
        def gradtest(self) -> object:
            """Test gradients by hand: ``gradtest(fn, *inputs)``, ``.op``, ``.pair``."""
            from tinygrad_cnn.testing.plugin import GradTest
            return GradTest()

    config.pluginmanager.register(Fixtures(), f"{_NAME}_fixtures")
    if config.getoption("gradtest") or config.getoption("gradtest_only"):
        from tinygrad_cnn.testing import plugin
        config.pluginmanager.register(plugin, _NAME)
