"""The short ways through the engine give what the long ones give, and say as much in errors."""

from __future__ import annotations

import dataclasses
import linecache

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import Sample, Tensor
from tinygrad_cnn.core import apply, binary
from tinygrad_cnn.core.graph import Observer, observing
from tinygrad_cnn.core.op import make_op


def leaf(values, dtype=np.float32):
    return Tensor(np.array(values, dtype), requires_grad=True)


def sample(rng):
    yield Sample("rows", (rng.normal(size=3), rng.normal(size=3)))


def pair_op(rule_a, rule_b=lambda ct, out, a, b: ct * a, **changes):
    return make_op(name="product_for_a_test", shape=lambda a, b: a,
                   kernels={"array": np.multiply}, vjp={"a": rule_a, "b": rule_b}, samples=sample,
                   **changes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_number_behind_an_operator_takes_the_dtype_of_the_tensor(dtype):
    x = leaf([1.0, 2.0], dtype)
    for y, expected in ((x * 3.0, [3, 6]), (x + 0.5, [1.5, 2.5]), (x - 1.0, [0, 1]),
                        (x / 4.0, [0.25, 0.5])):
        assert y.dtype == dtype
        assert y.data.tolist() == expected
    (x * 3.0).sum().backward()
    assert x.grad.data.tolist() == [3.0, 3.0]


def test_a_number_behind_an_integer_tensor_makes_float32():
    assert (Tensor(np.array([1, 2])) * 0.5).dtype == np.float32


def test_the_long_and_the_short_way_find_the_same_gradients():
    rng = np.random.default_rng(0)
    values = [rng.normal(size=shape).astype(np.float32) for shape in ((2, 3), (3,), (2, 1))]

    def gradients():
        a, b, c = (leaf(v) for v in values)
        ((a * b + c) / (b * b + 1.0) - a * c).sum().backward()
        return [t.grad.data for t in (a, b, c)]

    short = gradients()
    with observing(Observer()):               # an observer is told of every node: the long way
        long = gradients()
    for one, other in zip(short, long, strict=True):
        assert np.array_equal(one, other)


def line_of(tensor):
    code, instruction = tensor.node.origin
    line = next(line for start, end, line in code.co_lines() if start <= instruction < end)
    return linecache.getline(code.co_filename, line).strip()


def test_nodes_remember_the_line_of_the_user():
    x = leaf([1.0])
    a = x * x                               # an operator
    b = x * 2.0                             # a number becomes a tensor on the way
    c = tc.mul(x, x)                        # a function
    d = tc.exp(x)
    assert [line_of(t)[0] for t in (a, b, c, d)] == ["a", "b", "c", "d"]


def test_a_rule_that_fails_is_named_in_a_note():
    def fails(ct, out, a, b):
        raise ZeroDivisionError("by the rule")

    a, b = leaf([1.0]), leaf([2.0])
    y = binary(pair_op(lambda ct, out, a, b: ct * b, fails), np.multiply)(a, b)
    with pytest.raises(ZeroDivisionError) as caught:
        y.sum().backward()
    assert caught.value.__notes__ == ["in the backward rule of product_for_a_test for 'b'"]


@pytest.mark.parametrize("rule, words", [
    (lambda ct, out, a, b: (ct * b).astype(np.float64), "has dtype float64, the input has float32"),
    (lambda ct, out, a, b: (ct * b)[:1], r"has shape \(1,\), the input has shape \(2,\)"),
])
def test_a_rule_that_returns_no_cotangent_is_refused(rule, words):
    a, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    y = binary(pair_op(rule), np.multiply)(a, b)
    with pytest.raises(tc.GradientError, match=words):
        y.sum().backward()


def test_a_refused_shape_is_refused_every_time():
    x, w = Tensor(np.ones((1, 4, 4, 2))), Tensor(np.ones((3, 3, 3, 1)))
    for _ in range(2):
        with pytest.raises(tc.ShapeError, match="C is 2 in x but 3 in w"):
            tc.conv2d(x, w)


def test_remembered_shapes_depend_on_the_settings():
    x, w = Tensor(np.ones((1, 4, 4, 1))), Tensor(np.ones((3, 3, 1, 1)))
    assert [tc.conv2d(x, w, padding=p, stride=s).shape
            for p, s in ((0, 1), (1, 1), (1, 2), (0, 1))] == [
        (1, 2, 2, 1), (1, 4, 4, 1), (1, 2, 2, 1), (1, 2, 2, 1)]


def test_settings_that_cannot_be_remembered_are_judged_anew():
    x = leaf(np.arange(6.0).reshape(2, 3))
    assert x[np.array([True, False])].shape == (1, 3)
    assert x[np.array([True, True])].shape == (2, 3)
    assert x[:, 1:].shape == (2, 2)


def test_two_ops_of_one_name_are_not_confused():
    one = pair_op(lambda ct, out, a, b: ct * b)
    other = dataclasses.replace(one, shape=lambda a, b: (a[0], 1),
                                kernels={"array": lambda a, b: a[:, None]})
    a = Tensor(np.ones(3))
    assert apply(one, a, a).shape == (3,)
    assert apply(other, a, a).shape == (3, 1)
