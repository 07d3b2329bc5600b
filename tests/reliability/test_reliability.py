"""The figures of this folder, with few trials; the long forms are its scripts."""

from __future__ import annotations

import os
import random
import sys

import pytest

posix = pytest.mark.skipif(os.name != "posix" or sys.platform != "linux",
                           reason="forks, signals, limits and devices of Linux")
# Script -> trials that fit into a suite.
SHORT = {"kill_saving": 20, "kill_training": 1, "kill_ranks": 2, "flips": 300, "fuzz": 200,
         "disk": 5, "hostile_names": 1, "command_lines": 3}


@posix
@pytest.mark.parametrize("name", SHORT)
def test_what_is_promised_holds(name, capfd):
    if name == "kill_ranks":
        pytest.importorskip("mpi4py", reason="needs the extra mpi")
    script = pytest.importorskip(f"reliability.{name}")
    figures = list(script.measure(SHORT[name], random.Random(0)))
    capfd.readouterr()
    with capfd.disabled():
        for figure in figures:
            print(f"\n{name}: {figure}", end="")
    assert all(figure.trials and figure.good == figure.trials for figure in figures)
