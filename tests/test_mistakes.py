"""One mistake, one traceback: no error is shown twice, or as "during handling of" another."""

from __future__ import annotations

import inspect
import re
from functools import partial

import numpy as np
import pytest

import tinygrad_cnn as tc
from ops.test_lost_gradients import CASES
from tinygrad_cnn import Tensor, data, nn, optim, train, transforms
from tinygrad_cnn.ops.methods import METHODS

WRONG = {
    "None": None, "a string": "text", "an object": object(), "a dict": {"a": 1}, "a type": int,
    "a function": print, "strings": np.array(["a", "b"]), "objects": np.array([None, 1]),
    "complex": np.array([1j, 2.0]), "half": np.ones((2, 3), np.float16),
    "ragged": [[1.0], [1.0, 2.0]], "other shape": np.ones((5, 7, 2), np.float32), "no axes": 3,
    "double": np.ones((2, 3)), "integers": np.ones((2, 3), np.int64), "minus": -1,
    "a fraction": 0.5, "huge": 1 << 100,
    "tensors": [Tensor([1.0]), Tensor([2.0])], "tensor of integers": Tensor(np.ones((2, 3), int)),
    "tensor": Tensor(np.ones((5, 7, 2), np.float32), requires_grad=True), "an array": np.ones(2),
    "not a number": float("nan"), "a tuple": (1, 2, 3), "a set": {1, 2},
    "a generator": (i for i in [1]),
}
PRIVATE = re.compile(r"<locals>|(?<![\w.])_[a-z]\w*\(\)|\b_[A-Z]\w*\.__init__")


def assert_one_traceback(error):
    while error is not None:
        shown = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        assert shown is None, f"{error!r} is shown after {shown!r}"
        error = shown


def tried(call):
    """Call it; an error must be one, and name nothing private."""
    refusal = None
    try:
        with np.errstate(all="ignore"):
            call()
    except Exception as error:
        refusal = error
    if refusal is not None:
        assert_one_traceback(refusal)
        assert not PRIVATE.search(str(refusal)), f"{refusal!r} holds a private name"
    return refusal


@pytest.mark.parametrize("name, inputs, settings", CASES)
def test_a_wrong_argument_of_a_function_gives_one_traceback(name, inputs, settings):
    function, refused = getattr(tc, name), 0
    for key in (*inputs, *settings):
        for wrong in WRONG.values():
            given = {k: Tensor(v) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v
                     for k, v in inputs.items()}
            own = dict(settings)
            (given if key in given else own)[key] = wrong
            call = partial(function, *given.values(), **own)
            refused += tried(call) is not None
    refused += tried(lambda: function(*inputs.values(), **settings, surprise=1)) is not None
    refused += tried(function) is not None
    assert refused > 5


PUBLIC = [(f"{module.__name__}.{name}", getattr(module, name))
          for module in (tc, nn, nn.init, optim, optim.lr_scheduler, data, train, transforms)
          for name in module.__all__ if callable(getattr(module, name))
          and not (isinstance(getattr(module, name), type)
                   and issubclass(getattr(module, name), Exception))]


@pytest.mark.parametrize("name, function", PUBLIC, ids=lambda x: x if isinstance(x, str) else "")
def test_wrong_arguments_of_anything_public_give_one_traceback(name, function):
    needed = [p for p in inspect.signature(function).parameters.values()
              if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for wrong in WRONG.values():
        tried(lambda wrong=wrong: function(*[wrong] * len(needed)))
    tried(lambda: function(*[1] * 12))
    tried(lambda: function(surprise=1))


X = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
OPERATORS = ["x + w", "w + x", "x - w", "x * w", "w / x", "x ** w", "w ** x", "x @ w", "w @ x",
             "x == w", "x < w", "x[w]", "x.__setitem__(w, 1)", "w in x", "setattr(x, 'grad', w)",
             "setattr(x, 'data', w)", "x.backward(w)", "setattr(x, 'requires_grad', w)",
             "np.add(x, w)", "np.concatenate([x, w])", "format(x, w)", "len(x.sum())",
             "iter(x.sum())", "tc.Tensor(w)", "tc.Parameter(w)", "x.sum().foo", "float(x)"]


@pytest.mark.parametrize("expression", [*(f"x.{m}(w)" for m in sorted(METHODS)), *OPERATORS])
def test_a_wrong_operand_gives_one_traceback(expression):
    for wrong in WRONG.values():
        x = X.detach().requires_grad_()
        tried(lambda x=x, w=wrong: eval(expression, {"x": x, "w": w, "tc": tc, "np": np}))
