"""What a type checker knows: no public signature says Any, and calls have the right type."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tinygrad_cnn as tc
from tinygrad_cnn.core.op import FUNCTIONS

ROOT = Path(__file__).parents[2]
PUBLIC = sorted(name for name in tc.__all__ if FUNCTIONS.get(name) is getattr(tc, name))
CALLS = """
import numpy as np
import tinygrad_cnn as tc

x = tc.Tensor(np.ones((1, 4, 4, 2)), requires_grad=True)
reveal_type(tc.exp(x))                                          # Tensor
reveal_type(tc.add(x, 2.0))                                     # Tensor
reveal_type(tc.maximum([[1.0, 2.0]], np.ones(2)))               # Tensor
reveal_type(tc.leaky_relu(x, negative_slope=0.2))               # Tensor
reveal_type(tc.conv2d(x, np.ones((3, 3, 2, 4)), stride=(2, 1), padding="same"))     # Tensor
reveal_type(tc.max_pool2d(x, kernel_size=2, padding=((1, 0), (0, 1))))              # Tensor
reveal_type(tc.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))        # Tensor
reveal_type(tc.sum(x, axis=(1, 2), keepdims=True))              # Tensor
reveal_type(tc.cross_entropy(tc.reshape(x, (2, -1)), [0, 1], weight=np.ones(16)))   # Tensor
reveal_type(tc.getitem(x, (slice(None), ..., [0, 1])))          # Tensor
reveal_type(tc.concatenate([x, np.ones((1, 4, 4, 1))], axis=-1))                    # Tensor
reveal_type(x * 2.0 + 1.0)                                      # Tensor
reveal_type(x.sum())                                            # Tensor
reveal_type(tc.OPS["exp"])                                      # Op
tc.exp(x, 2)                                                    # Too many arguments
tc.relu(x, slope=0.1)                                           # Unexpected keyword
tc.elu(x, alpha="1")                                            # incompatible type
tc.conv2d(x)                                                    # Missing positional
tc.conv2d(x, x, padding=0.5)                                    # incompatible type
tc.no_such_function(x)                                          # has no attribute
"""


@pytest.mark.parametrize("name", PUBLIC)
def test_no_public_signature_says_any(name):
    signature = inspect.signature(getattr(tc, name))
    for parameter in signature.parameters.values():
        assert not re.search(r"\b(Any|_empty)\b", str(parameter.annotation)), parameter
    assert re.search(r"\bTensor\b", signature.return_annotation)
    assert "Any" not in signature.return_annotation


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
             if not re.search(rf"{words}( |\"|$)", said.get(line, ""))]
    assert not wrong, "\n".join(wrong) + done.stderr
    assert set(said) == {line for line, _ in wanted}
