"""A name that does not exist answers with the one that does."""

from __future__ import annotations

import contextlib
import inspect
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


# ---- arguments by the names of PyTorch -----------------------------------------------------------

def arguments_in(function, name):
    """The arguments of a function of PyTorch, from its signature and its docstring."""
    doc = function.__doc__ or ""
    found = set(re.findall(r"^ {4,8}(\w+) \(", doc, re.MULTILINE))
    for line in re.findall(rf"^{name}\((.*?)\) *(?:->|$)", doc, re.MULTILINE):
        found |= set(re.findall(r"(\w+) *(?=[=,]|$)", re.sub(r"=[^,()]*(\([^)]*\))?", "", line)))
    with contextlib.suppress(TypeError, ValueError):
        found |= {p.name for p in inspect.signature(function).parameters.values()
                  if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    words = {"args", "bool", "comma", "float", "int", "integers", "ints", "kwargs", "of", "self"}
    return {n for n in found - words if n.islower() and not n.startswith("_")}


# Ours is another function than PyTorch's of its name.
OTHERS = {"scatter_add", "manual_seed", "max_pool2d", "Optimizer", "LRScheduler", "Module"}
SAME = {"arctan2": "atan2", "concatenate": "cat", "expand_dims": "unsqueeze", "power": "pow",
        "clip": "clamp", "repeat": "repeat_interleave", "hard_swish": "hardswish",
        "hard_sigmoid": "hardsigmoid", "hard_tanh": "hardtanh", "log_sigmoid": "logsigmoid",
        "upsample2d": "upsample", "rint": "round", "argsort": "argsort"}


def pytorchs_twins(torch):
    """(ours, what it is called, PyTorch's of that name) of functions and of methods."""
    for name in set(tc.ops.__all__) - OTHERS:
        for owner in (torch, torch.nn.functional, torch.special, torch.linalg):
            if callable(twin := getattr(owner, SAME.get(name, name), None)):
                yield getattr(tc, name), name, twin
    for name in Tensor.__annotations__:
        twin = getattr(torch.Tensor, name, None)
        if not name.startswith("_") and callable(twin) and callable(getattr(x, name, None)):
            yield getattr(x, name), name, getattr(torch, name, twin)
    for ours, theirs in ((tc.nn, torch.nn), (tc.optim, torch.optim),
                         (tc.optim.lr_scheduler, torch.optim.lr_scheduler)):
        spelled = {name.lower(): getattr(theirs, name) for name in dir(theirs)}
        for name in set(ours.__all__) - OTHERS:
            if inspect.isclass(twin := spelled.get(name.lower())):
                yield getattr(ours, name), getattr(ours, name).__name__, twin.__init__
    yield tc.data.DataLoader, "DataLoader", torch.utils.data.DataLoader.__init__


def test_an_argument_of_pytorch_works_or_is_told_by_its_name_here():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    asked, wrong = 0, []
    for ours, name, twin in pytorchs_twins(torch):
        parameters = inspect.signature(ours).parameters
        needed = [object() for p in parameters.values()
                  if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        known = {*parameters}
        known |= {"input"} if ours is not getattr(tc, name, None) else set()    # x.name(): it is x
        for argument in sorted(arguments_in(twin, SAME.get(name, name)) - known):
            try:
                ours(*needed, **{argument: object()})
            except Exception as error:              # what counts is whether the name is known
                said = str(error)
            asked += 1
            if re.search(rf"there is no argument '{argument}'; {name} takes|unexpected keyword|"
                         "did you mean", said):
                wrong.append(f"{name}({argument}=): {said}")
    print(f"\n{asked} arguments of PyTorch that have another name here")
    assert asked > 400
    assert not wrong, "\n".join(wrong)


def test_arguments_by_their_names_give_what_ours_give():
    a, b = x, Tensor(np.full((2, 3), 2.0, np.float32))
    for theirs, ours in (
            (tc.softmax(a, dim=1), tc.softmax(a, axis=1)), (tc.add(input=a, other=b), a + b),
            (a.sum(dim=1, keepdim=True), a.sum(1, True)), (a.norm(p=1), tc.norm(a, 1)),
            (a.std(dim=1, unbiased=True), tc.std(a, 1, correction=1)),
            (a.var(ddof=1), tc.var(a, correction=1)), (a.roll(shifts=1, dims=0), tc.roll(a, 1, 0)),
            (tc.zeros(size=(2, 3)), tc.zeros(2, 3)), (tc.relu(input=a), tc.relu(a)),
            (tc.linear(input=a, weight=tc.ones(3, 2), bias=tc.ones(2)),
             tc.linear(a, tc.ones(3, 2), tc.ones(2))), (a.view(size=(3, 2)), a.reshape(3, 2)),
            (tc.concatenate(tensors=[a, b], dim=1), tc.concatenate([a, b], 1)),
            (tc.cross_entropy(input=a, target=[0, 1]), tc.cross_entropy(a, [0, 1])),
            (tc.nn.Softmax(dim=0)(a), tc.softmax(a, 0))):
        assert np.array_equal(theirs.data, ours.data)
    assert a.argsort(descending=True).tolist() == [[0, 1, 2]] * 2
    with pytest.raises(TypeError, match="dim= and axis= are the same argument") as caught:
        tc.softmax(a, dim=1, axis=1)
    assert caught.value.__cause__ is caught.value.__context__ is None
