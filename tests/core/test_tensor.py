"""Tensors: dtypes, conversion, operators, NumPy's functions."""

from __future__ import annotations

import re

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import Parameter, Tensor, tensor


@pytest.mark.parametrize("data, dtype", [
    ([1, 2], np.float32), (1.5, np.float32), ([[1.0]], np.float32),
    (np.array([1.0]), np.float64), (np.array([1.0], np.float32), np.float32),
    (np.array([1]), np.int64), (np.array([True]), np.bool_), ([True, False], np.bool_),
    (np.float64(2.0), np.float64),
])
def test_arrays_keep_their_dtype_and_numbers_become_float32(data, dtype):
    assert Tensor(data).dtype == dtype


@pytest.mark.parametrize("data, error, words", [
    (np.array([1]), tc.DTypeError, "int64 cannot require a gradient"),
    (np.array([True]), tc.DTypeError, "bool cannot require a gradient"),
    (np.array([1j]), tc.DTypeError, "complex128 is not supported"),
    (np.array([1], np.float16), tc.DTypeError, "float16 is not supported"),
    (np.array(["a"]), tc.DTypeError, "data must be numbers, got ndarray of <U1"),
    (np.array([None]), tc.DTypeError, "data must be numbers, got ndarray of object"),
    ([[1], [1, 2]], tc.ShapeError, "unequal lengths"),
    (Tensor([1.0]), tc.DTypeError, "a Tensor already"),
])
def test_what_cannot_be_differentiated_is_refused(data, error, words):
    with pytest.raises(error, match=words):
        Tensor(data, requires_grad=True)


def test_numbers_and_numpy_scalars_take_the_dtype_of_the_tensor():
    x = Tensor([1.0, 2.0])
    for y in (x * 2, 2 * x, x + np.float64(1), np.float64(1) + x, x / 3, 1 - x, x ** 2,
              np.float64(2) * x, np.array(3.0) * x):
        assert y.dtype == np.float32
        assert isinstance(y, Tensor)


def test_float32_meeting_float64_names_both_and_the_cast():
    a, b = Tensor(np.ones(2, np.float32)), Tensor(np.ones(2))
    with pytest.raises(tc.DTypeError, match=r"mul: a is float32 but b is float64; cast one: b\.as"):
        a * b
    with pytest.raises(tc.DTypeError, match="an array of float64 among tensors of float32"):
        a * np.ones(2)


def test_integers_take_the_dtype_of_the_floats_they_meet():
    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    y = x * np.array([1, 2])
    assert y.dtype == np.float32
    assert (Tensor(np.array([1, 2])) * x).dtype == np.float32
    assert (Tensor(np.array([1, 2])) + 1).dtype == np.int64


def test_an_op_that_would_leave_the_integers_is_refused():
    with pytest.raises(tc.DTypeError, match=r"exp: x is int64, and the result of exp is not; cast"):
        tc.exp(Tensor(np.array([1, 2])))


def test_operators_follow_numpy():
    a, b = np.array([3.0, -2.0]), np.array([2.0, 4.0])
    x, y = Tensor(a), Tensor(b)
    for ours, theirs in ((x + y, a + b), (x - y, a - b), (x * y, a * b), (x / y, a / b),
                         (y ** x, b ** a), (x @ y, a @ b), (-x, -a), (abs(x), abs(a)), (+x, a),
                         (2 - x, 2 - a), (2 / y, 2 / b), (2 ** y, 2 ** b), (x[0], a[0])):
        np.testing.assert_array_equal(ours.numpy(), theirs)
    for ours, theirs in ((x == y, a == b), (x != y, a != b), (x < y, a < b), (x <= y, a <= b),
                         (x > 0, a > 0), (x >= 3, a >= 3)):
        assert type(ours) is np.ndarray
        assert ours.dtype == bool
        np.testing.assert_array_equal(ours, theirs)


def test_an_array_on_the_left_gives_a_tensor():
    x = Tensor(np.ones((2, 2)), requires_grad=True)
    for y in (np.ones((2, 2)) * x, np.ones((2, 2)) @ x, np.ones((2, 2)) - x, np.exp(x), np.sum(x),
              np.maximum(x, 0.0), np.transpose(x), np.concatenate([x, x]), np.tanh(x)):
        assert isinstance(y, Tensor)
        assert y.requires_grad


@pytest.mark.parametrize("function", [np.i0, np.ediff1d])
def test_a_numpy_function_without_a_rule_takes_plain_values_only(function):
    x = Tensor(np.ones(2), requires_grad=True)
    with pytest.raises(TypeError, match=r"not differentiable here.*tensor\.numpy\(\)"):
        function(x)
    np.testing.assert_array_equal(function(x.detach()), function(np.ones(2)))


def test_plus_equals_makes_a_new_tensor():
    x = Tensor([1.0])
    y = x
    x += 1
    assert (x.item(), y.item()) == (2.0, 1.0)


def test_numpy_gives_a_read_only_view():
    x = Tensor(np.ones(2))
    view = x.numpy()
    x.data[1] = 7
    assert view.tolist() == [1, 1], "what was read does not change"
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 5
    assert not np.asarray(x).flags.writeable
    np.testing.assert_array_equal(np.asarray(x, np.float32), np.array([1, 7], np.float32))


def test_tensors_copy_what_they_are_made_of():
    data = np.ones(2)
    for t in (tensor(data), Parameter(data), Tensor(data)):
        assert not np.shares_memory(t.data, data)
    assert tensor([1, 2], dtype=np.float64).dtype == np.float64


def test_astype_casts_the_gradient_back():
    x = Tensor([1.0, 2.0], requires_grad=True)
    (x.astype(np.float64) * np.array([3.0, 4.0])).sum().backward()
    assert x.grad.dtype == np.float32
    np.testing.assert_array_equal(x.grad.data, [3, 4])
    assert not x.astype(np.int64).requires_grad


def test_a_repr_says_what_matters():
    assert repr(Tensor([1.0, 2.0])) == "Tensor([1., 2.], dtype=float32)"
    x = Tensor(np.zeros((5, 5)), requires_grad=True, name="image")
    assert "shape=(5, 5)" in repr(x)
    assert "name='image'" in repr(x)
    assert "op=mul" in repr(x * 2)


def test_iteration_ends_and_keeps_gradients():
    x = Tensor([1.0, 2.0], requires_grad=True)
    first, second = x
    (first * 3 + second).backward()
    np.testing.assert_array_equal(x.grad.data, [3, 1])
    assert len(x) == 2
    with pytest.raises(TypeError, match="no length"):
        len(Tensor(1.0))


def test_switching_requires_grad():
    x = Tensor([1.0]).requires_grad_()
    assert x.requires_grad
    with pytest.raises(tc.GradientError, match="only a leaf"):
        (x * 2).requires_grad_(False)
    with pytest.raises(tc.DTypeError, match="int64"):
        Tensor(np.array([1])).requires_grad_()


def test_a_float32_graph_holds_no_float64():
    rng = np.random.default_rng(0)
    x = Tensor(rng.normal(size=(2, 8, 8, 3)).astype(np.float32))
    w = Parameter(rng.normal(size=(3, 3, 3, 4)).astype(np.float32))
    g, s = Parameter(np.ones(4, np.float32)), Parameter(np.zeros(4, np.float32))
    v = Parameter(rng.normal(size=(64, 5)).astype(np.float32))
    h = tc.conv2d(x, w, padding="same")
    h = tc.gelu(tc.batch_norm(h, g, s)) + tc.leaky_relu(h) + tc.elu(h, alpha=0.5)
    h = tc.dropout(tc.avg_pool2d(h, kernel_size=2), p=0.25)
    loss = tc.cross_entropy(tc.flatten(h, 1) @ v, np.array([1, 2]), label_smoothing=0.1,
                            weight=[1, 2, 3, 4, 5]) + tc.mean(h ** 2) * 0.1
    stack, seen = [loss.node], set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        for t in node.inputs:
            if t is not None:
                assert t.dtype == np.float32, node
                if t.node is not None:
                    stack.append(t.node)
    loss.backward()
    assert all(p.grad.dtype == np.float32 for p in (w, g, s, v))


# ---- attributes that are set ---------------------------------------------------------------------

WRONG_ATTRIBUTES = {
    "grad of another kind": ("grad", np.ones(2, "f4"), "grad: a gradient is a Tensor or None"),
    "grad of another shape": ("grad", Tensor(np.ones((2, 2), "f4")), "but its gradient float32"),
    "grad of another dtype": ("grad", Tensor(np.ones(2)), "but its gradient float64"),
    "a flag that is none": ("requires_grad", "no", "requires_grad must be True or False"),
    "values that are a tensor": ("data", Tensor([1.0, 2.0]), "write x.data = y.data"),
}


@pytest.mark.parametrize("name, value, words", WRONG_ATTRIBUTES.values(), ids=WRONG_ATTRIBUTES)
def test_an_attribute_is_checked_where_it_is_set(name, value, words):
    x = tc.Parameter([1.0, 2.0])
    with pytest.raises(tc.TinygradCnnError, match=re.escape(words)):
        setattr(x, name, value)
    assert (x.grad, x.requires_grad, x.data.tolist()) == (None, True, [1.0, 2.0])


@pytest.mark.parametrize("switch", [
    lambda x: setattr(x, "requires_grad", True), lambda x: x.requires_grad_(),
    lambda x: Tensor(x.data, requires_grad=True)])
def test_no_way_makes_an_integer_require_a_gradient(switch):
    x = Tensor(np.array([1, 2]))
    with pytest.raises(tc.DTypeError, match="int64 cannot require a gradient"):
        switch(x)


def test_the_flag_of_a_result_cannot_be_switched():
    x = tc.Parameter([1.0, 2.0])
    y = x * 2.0
    with pytest.raises(tc.GradientError, match="only a leaf can be switched"):
        y.requires_grad = False
    x.requires_grad = False
    assert not (x * 2.0).requires_grad


def test_one_value_is_formatted_as_a_number():
    assert f"{Tensor([1.5]).sum():.2f}" == "1.50"
    assert f"{Tensor([1.5])}" == str(Tensor([1.5]))
    with pytest.raises(tc.ShapeError, match="not one"):
        f"{Tensor([1.0, 2.0]):.2f}"
