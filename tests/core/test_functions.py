"""Public functions are what they look like: their name, module, signature, op and pickle."""

from __future__ import annotations

import inspect
import pickle

import pytest

import tinygrad_cnn as tc
from tinygrad_cnn.core.op import FUNCTIONS
from tinygrad_cnn.testing.check import _declared

PUBLIC = sorted(name for name in tc.__all__ if FUNCTIONS.get(name) is getattr(tc, name))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_function_can_be_found_under_its_own_name(name):
    function = getattr(tc, name)
    assert function.__name__ == function.__qualname__ == name
    assert function.__module__.startswith("tinygrad_cnn.ops.")
    assert pickle.loads(pickle.dumps(function)) is function
    assert function.__doc__
    kinds = {p.kind for p in inspect.signature(function).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds


def test_the_package_names_every_function_of_ops():
    assert set(tc.ops.__all__) <= set(tc.__all__)


@pytest.mark.parametrize("name", [n for n in PUBLIC if n in tc.OPS])
def test_a_function_has_its_op_and_stands_for_it(name):
    function = getattr(tc, name)
    op = function.op
    assert op is tc.OPS[name] is tc.OPS[function] is _declared(function, "a test")
    names = list(inspect.signature(function).parameters)
    assert names[:len(op.inputs)] == list(op.inputs) or name in ("where", "cross_entropy",
                                                                     "einsum")


def test_a_function_of_ones_own_is_found_where_it_was_declared():
    @tc.custom_op(shape=lambda x: x, vjp={"x": lambda ct, out, x: ct}, samples=lambda rng: iter([]))
    def mine_for_a_test(x):
        """Mine."""
        return x.copy()

    assert mine_for_a_test.__module__ == __name__
    assert mine_for_a_test.__qualname__.endswith("<locals>.mine_for_a_test")
    assert str(inspect.signature(mine_for_a_test)) == "(x)"
    assert mine_for_a_test.op.name == "mine_for_a_test"


def test_what_has_no_op_is_no_key():
    with pytest.raises(KeyError):
        tc.OPS[len]
    with pytest.raises(KeyError):
        tc.OPS["conv3d"]
