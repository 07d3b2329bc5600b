"""What a type checker knows: no public signature says Any, and calls have the right type."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tinygrad_cnn as tc
from tinygrad_cnn.core.op import FUNCTIONS

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tinygrad_cnn").rglob("*.py"))
MODULES = ("", ".nn", ".nn.init", ".optim", ".optim.lr_scheduler", ".data", ".data.transforms",
           ".train", ".io", ".viz", ".testing", ".stepwise", ".models", ".debug", ".transforms",
           ".parallel", ".cli", ".errors")
# What Python asks of every attribute; an attribute may be anything.
ATTRIBUTES = {"__getattr__", "__setattr__", "__getattribute__"}
CALLS = """
import numpy as np
import tinygrad_cnn as tc
from tinygrad_cnn import data, nn, optim, train

x = tc.Tensor(np.ones((1, 4, 4, 2)), requires_grad=True)
w = tc.Parameter(np.ones((3, 3, 2, 4)))
reveal_type(tc.exp(x))                                          # Tensor
reveal_type(tc.add(x, 2.0))                                     # Tensor
reveal_type(tc.maximum([[1.0, 2.0]], np.ones(2)))               # Tensor
reveal_type(tc.leaky_relu(x, negative_slope=0.2))               # Tensor
reveal_type(tc.conv2d(x, w, stride=(2, 1), padding="same"))     # Tensor
reveal_type(tc.max_pool2d(x, kernel_size=2, padding=((1, 0), (0, 1))))              # Tensor
reveal_type(tc.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))        # Tensor
reveal_type(tc.sum(x, axis=(1, 2), keepdims=True))              # Tensor
reveal_type(tc.cross_entropy(tc.reshape(x, (2, -1)), [0, 1], weight=np.ones(16)))   # Tensor
reveal_type(tc.getitem(x, (slice(None), ..., [0, 1])))          # Tensor
reveal_type(tc.concatenate([x, np.ones((1, 4, 4, 1))], axis=-1))                    # Tensor
reveal_type(x * 2.0 + 1.0)                                      # Tensor
reveal_type(x.sum())                                            # Tensor
reveal_type(x % 2)                                              # Tensor
reveal_type(x > 0)                                              # numpy.ndarray
reveal_type(x == x)                                             # numpy.ndarray
reveal_type(x.sum().item())                                     # float
reveal_type(x.sum().backward())                                 # None
reveal_type(tc.grad(x.sum(), [x]))                              # tuple
reveal_type(tc.OPS["exp"])                                      # Op
model = nn.Sequential(nn.Conv2D(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(None, 10))
optimizer = optim.SGD(model.parameters(), lr=0.1)
trainer = train.Trainer(model, optimizer, metrics=["accuracy"])
loader = data.DataLoader(np.ones((4, 4, 4, 2), np.float32), np.zeros(4, int), batch_size=2)
reveal_type(model(x))                                           # Tensor
reveal_type(model[0])                                           # Module
reveal_type(model[1:])                                          # Sequential
reveal_type([part for part in model])                           # list[tinygrad_cnn.nn.module.Module
reveal_type(nn.MaxPool2D(2)(x))                                 # Tensor
reveal_type(nn.Conv2D(2, 4, 3).kernel_size)                     # typing.Sequence[int]
reveal_type(optimizer.step())                                   # None
reveal_type(optimizer.zero_grad())                              # None
reveal_type(trainer.fit(loader, epochs=1))                      # History
reveal_type(trainer.fit([(x.data, np.array([1]))], epochs=1))   # History
reveal_type(model.graph(x))                                     # Figure
reveal_type(x.graph(title="x"))                                 # Figure
reveal_type([images for images, labels in loader])              # list[numpy.ndarray
@tc.no_grad()
def predict(images: np.ndarray) -> tc.Tensor:
    return model(images)
@tc.no_grad
def classes(images: np.ndarray) -> list[int]:
    return []
with tc.no_grad():
    w -= 0.1 * w
@tc.custom_op(shape=lambda x: x, vjp={"x": lambda ct, out, x: ct}, samples=lambda rng: [])
def same_for_a_checker(x: np.ndarray) -> np.ndarray:
    return x
reveal_type(w)                                                  # Parameter
reveal_type(same_for_a_checker(w))                              # Tensor
reveal_type(same_for_a_checker.op)                              # Op
reveal_type(predict(x.data))                                    # Tensor
reveal_type(classes(x.data))                                    # list[int]
tc.exp(x, 2)                                                    # Too many arguments
tc.relu(x, slope=0.1)                                           # Unexpected keyword
tc.elu(x, alpha="1")                                            # incompatible type
tc.conv2d(x)                                                    # Missing positional
tc.conv2d(x, x, padding=0.5)                                    # incompatible type
tc.mse_loss(x, object())                                        # incompatible type
tc.flip(object())                                               # incompatible type
tc.no_such_function(x)                                          # has no attribute
nn.Conv2D("2", 4, 3)                                            # incompatible type
optim.SGD(model.parameters(), lr="0.1")                         # incompatible type
model.graph(x, colour="red")                                    # Unexpected keyword
trainer.fit(5, epochs=1)                                        # incompatible type
classes()                                                       # Missing positional
"""


def signatures():
    """(place, annotations) of each public function, and of each method of a public class."""
    for module in MODULES:
        for name in importlib.import_module(f"tinygrad_cnn{module}").__all__:
            thing = getattr(importlib.import_module(f"tinygrad_cnn{module}"), name)
            members = [(name, thing)]
            if inspect.isclass(thing):
                members = [(f"{name}.{n}", m) for base in thing.__mro__
                           if base.__module__.startswith("tinygrad_cnn")
                           for n, m in vars(base).items()
                           if not n.startswith("_") or (n[:2] == "__" and n not in ATTRIBUTES)]
            for place, member in members:
                member = member.fget if isinstance(member, property) else \
                    getattr(member, "__func__", member)
                if inspect.isfunction(member) and member.__module__.startswith("tinygrad_cnn"):
                    yield f"tinygrad_cnn{module}.{place}", inspect.signature(member)


def test_no_public_signature_says_any():
    wrong, seen = [], 0
    for place, signature in signatures():
        seen += 1
        told = [str(p.annotation) for p in signature.parameters.values()]
        if re.search(r"\bAny\b", " ".join([*told, str(signature.return_annotation)])):
            wrong.append(f"{place}{signature}")
    assert not wrong, "\n".join(sorted(set(wrong)))
    assert seen > 1500
    for name, function in vars(tc).items():
        if FUNCTIONS.get(name) is function:
            signature = inspect.signature(function)
            assert "Tensor" in signature.return_annotation, name
            assert all(p.annotation is not p.empty for p in signature.parameters.values()), name


def test_any_is_rare_and_has_no_other_name():
    count = 0
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        count += len(re.findall(r"\bAny\b", text))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                value = node.value.value if isinstance(node.value, ast.Constant) \
                    else ast.unparse(node.value)
                assert value not in ("Any", "typing.Any"), f"{path}:{node.lineno}: an alias of Any"
    assert count <= 300, f"Any stands {count} times"


def test_a_type_checker_infers_the_type_of_a_call(tmp_path):
    pytest.importorskip("mypy")
    page = tmp_path / "calls.py"
    page.write_text(CALLS, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(page)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    told = re.findall(r"calls\.py:(\d+): (?:note|error): (.*)", done.stdout)
    wanted = [(str(i), line.partition("#")[2].strip()) for i, line in
              enumerate(CALLS.splitlines(), start=1) if "#" in line]
    said = dict(reversed(told))                     # what is said first of a line
    wrong = [f"{line}: {said.get(line)!r}, not {words!r}" for line, words in wanted
             if words not in said.get(line, "")]
    assert not wrong, "\n".join(wrong) + done.stderr
    assert set(said) == {line for line, _ in wanted}
