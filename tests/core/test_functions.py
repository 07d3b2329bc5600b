"""Public functions are what they look like: their name, module, signature, op and pickle."""

from __future__ import annotations

import inspect
import pickle

import pytest

import tinygrad_cnn as tc
from tinygrad_cnn.core.op import FUNCTIONS

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


@pytest.mark.parametrize("name", [n for n in PUBLIC if n in tc.OPS])
def test_a_function_has_its_op(name):
    op = getattr(tc, name).op
    assert op is tc.OPS[name]
    names = list(inspect.signature(getattr(tc, name)).parameters)
    assert names[:len(op.inputs)] == list(op.inputs) or name in ("where", "cross_entropy")


def test_a_function_of_ones_own_is_found_where_it_was_declared():
    @tc.custom_op(shape=lambda x: x, vjp={"x": lambda ct, out, x: ct}, samples=lambda rng: iter([]))
    def mine_for_a_test(x):
        """Mine."""
        return x.copy()

    assert mine_for_a_test.__module__ == __name__
    assert mine_for_a_test.__qualname__.endswith("<locals>.mine_for_a_test")
    assert str(inspect.signature(mine_for_a_test)) == "(x)"
    assert mine_for_a_test.op.name == "mine_for_a_test"
