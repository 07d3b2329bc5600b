"""A name that does not exist answers with the one that does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import Tensor, names, ops

ROOT = Path(__file__).parents[1]
x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)


def owner(where):
    if where == "Module":
        return tc.nn.Linear(2, 2)
    return x if where == "Tensor" else eval(f"tc.{where}".rstrip("."))


ALL = [(where, name, cure) for where, table in names.CURES.items()
       for name, cure in table.items()]
CURES = [(where, name, cure) for where, name, cure in ALL if not hasattr(owner(where), name)]


def test_no_name_in_the_table_exists():
    assert not [row for row in ALL if row not in CURES], "delete these rows of names.py"


@pytest.mark.parametrize("where, name, cure", CURES)
def test_each_cure_stands_for_a_name_that_is_missing_and_tells_one_that_exists(where, name, cure):
    with pytest.raises(AttributeError) as caught:
        getattr(owner(where), name)
    assert cure in str(caught.value)
    for path in re.findall(r"\b(?:tc|x|np)(?:\.\w+)+", cure):
        eval(path, {"tc": tc, "x": x, "np": np})
    for page in re.findall(r"docs/\w+\.md", cure):
        assert (ROOT / page).exists()


@pytest.mark.parametrize("path, words", [
    ("tc.Conv2d", "it is tc.nn.Conv2d"), ("tc.conv_2d", "it is tc.conv2d"),
    ("tc.Adam", "it is tc.optim.Adam"), ("tc.StepLR", "it is tc.optim.lr_scheduler.StepLR"),
    ("tc.nn.relu", "it is tc.relu"), ("tc.nn.Relu", "it is tc.nn.ReLU"),
    ("tc.nn.Conv2dd", "did you mean 'Conv2d'?"), ("tc.optim.AdaGrad", "it is tc.optim.Adagrad"),
    ("tc.data.Dataloader", "it is tc.data.DataLoader"), ("tc.viz.grahp", "did you mean 'graph'?"),
    ("tc.train.trainer_", "it is tc.train.Trainer"), ("x.conv2d", "it is a function: tc.conv2d"),
])
def test_a_name_is_found_in_another_place_or_spelling(path, words):
    with pytest.raises(AttributeError, match=re.escape(words)):
        eval(path)


def test_every_function_of_the_ops_is_public_in_the_package():
    assert set(ops.__all__) <= set(tc.__all__), "list them in tinygrad_cnn/__init__.py"


def test_names_that_protocols_ask_for_fail_quickly_and_without_advice():
    for thing in (x, tc, tc.nn):
        for name in ("__wrapped__", "_repr_latex_", "__array_interface__"):
            assert not hasattr(thing, name)
    with pytest.raises(AttributeError, match="no attribute '_relu'"):
        tc._relu


def test_the_parts_are_imported_when_they_are_first_used():
    code = ("import sys, tinygrad_cnn as tc\n"
            "def loaded(): return [n for n in ('nn', 'optim', 'data', 'train', 'viz', 'testing')\n"
            "                      if f'tinygrad_cnn.{n}' in sys.modules]\n"
            "print(loaded())\n"
            "tc.nn.Linear, tc.optim.SGD, tc.data.load, tc.train.Trainer, tc.viz.plots.filters\n"
            "print(loaded(), sorted({'nn', 'viz'} & set(dir(tc))), 'plots' in dir(tc.viz))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=ROOT)
    assert done.stdout == ("[]\n['nn', 'optim', 'data', 'train', 'viz'] ['nn', 'viz'] True\n")
