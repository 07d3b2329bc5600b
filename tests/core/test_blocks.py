"""What is a context manager may decorate a function, and never misses the body of a generator."""

from __future__ import annotations

import inspect

import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn, viz

BLOCKS = {
    "no_grad": tc.no_grad, "enable_grad": tc.enable_grad, "detect_anomaly": tc.detect_anomaly,
    "check_mutation": tc.check_mutation, "use_kernels": lambda: tc.use_kernels("reference"),
    "autotune": tc.autotune, "watch": viz.watch, "evaluating": lambda: nn.evaluating(nn.ReLU()),
}


def generator():
    yield 1


async def coroutine():
    return 1


async def asynchronous_generator():
    yield 1


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("function", [generator, coroutine, asynchronous_generator],
                         ids=lambda f: f.__name__)
def test_a_decorated_generator_is_run_inside_or_refused(name, function):
    block = BLOCKS[name]()
    if name in ("no_grad", "enable_grad") and function is not asynchronous_generator:
        made = block(function)
        assert inspect.isgeneratorfunction(made) == inspect.isgeneratorfunction(function)
    else:
        with pytest.raises(TypeError, match=rf"{name}: {function.__name__} is an? .*`with {name}"):
            block(function)


@pytest.mark.parametrize("name", sorted(BLOCKS.keys() - {"autotune", "watch"}))
def test_a_decorated_function_runs_inside(name):
    @BLOCKS[name]()
    def double(x):
        return x * 2

    assert double(tc.Tensor([1.0])).data.tolist() == [2]
    assert double(tc.Tensor([3.0])).data.tolist() == [6]


def test_every_context_manager_of_the_package_is_walked():
    found = {name for name in tc.__all__ if callable(getattr(tc, name)) and hasattr(
        getattr(tc, name), "__wrapped__") and inspect.isgeneratorfunction(
            getattr(tc, name).__wrapped__)}
    assert found
    assert found <= set(BLOCKS)
