"""Hooks of tensors see each gradient pass once, whole, and may replace it."""

import copy
import gc
import weakref

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import Tensor


def leaf(*values):
    return Tensor(np.array(values), requires_grad=True)


@pytest.mark.parametrize("size", [2, 5000])              # large values are not kept where unread
@pytest.mark.parametrize("after", [False, True], ids=["before use", "after use"])
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_hook_sees_the_whole_gradient_once_and_replaces_it(size, after, create_graph):
    x = Tensor(np.full(size, 3.0), requires_grad=True)
    y, seen = x * x, []

    def hook(gradient):
        seen.append(gradient.numpy().copy())
        return 10 * gradient
    if not after:
        handle = y.register_hook(hook)
    loss = (y + y * 2).sum() + tc.reshape(y, (-1, 1)).sum()
    if after:
        handle = y.register_hook(hook)
    loss.backward(create_graph=create_graph, retain_graph=True)
    assert len(seen) == 1
    assert (seen[0] == 4).all()
    assert (x.grad.numpy() == 4 * 10 * 6).all()
    assert x.grad.requires_grad == create_graph
    handle.remove()
    x.grad = None
    loss.backward()
    assert len(seen) == 1
    assert (x.grad.numpy() == 4 * 6).all()


def test_several_hooks_run_in_order_and_none_changes_nothing():
    x = leaf(1.0, 2.0)
    y, order = x * 1, []
    y.register_hook(lambda g: order.append(1))
    y.register_hook(lambda g: g + 1)
    y.register_hook(lambda g: order.append(float(g.sum())))
    y.sum().backward()
    assert order == [1, 4.0]
    assert x.grad.numpy().tolist() == [2, 2]


def test_a_hook_of_a_leaf_sees_the_sum_of_a_pass_and_stays():
    x, seen = leaf(1.0, 2.0), []
    with x.register_hook(lambda g: seen.append(g.numpy().tolist()) or g * 0.5):
        for _ in range(2):
            (x * x + x).sum().backward()
    assert seen == [[3, 5], [3, 5]]
    assert x.grad.numpy().tolist() == [3, 5]
    assert x.is_leaf
    (x * x).sum().backward()
    assert len(seen) == 2
    assert copy.deepcopy(x).grad.numpy().tolist() == x.grad.numpy().tolist()


def test_retained_gradients_add_up_and_make_no_cycle():
    x = leaf(1.0, 2.0)
    y = x * x
    y.retain_grad()
    loss = (y * 3).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    assert y.grad.numpy().tolist() == [6, 6]
    gone = weakref.ref(y)
    gc.disable()
    try:
        del y, loss
        assert gone() is None
    finally:
        gc.enable()
    x.retain_grad()                                     # a leaf has it anyway
    assert x.is_leaf


def test_second_order_passes_a_hook():
    x = leaf(2.0)
    y = x ** 3.0
    y.register_hook(lambda g: 2 * g)
    slope, = tc.grad((y * y).sum(), [x], create_graph=True)
    curve, = tc.grad(slope.sum(), [x])
    assert (slope.item(), curve.item()) == (2 * 6 * 2.0 ** 5, 4 * 18 * 2.0 ** 4 + 2 * 12 * 2.0 ** 4)


def test_a_graph_with_hooks_is_drawn():
    x = leaf(1.0, 2.0)
    y = tc.exp(x)
    y.register_hook(lambda g: None)
    titles = [card.title for card in y.sum().graph(gradients=False).diagram.cards]
    assert titles.count("exp") == titles.count("hooks") == 1


@pytest.mark.parametrize("hook, error, words", [
    (lambda g: 1.0, tc.GradientError, "the hook gave a float for a gradient of float64"),
    (lambda g: g.sum(), tc.GradientError, r"gave a tensor of float64 \(\) for"),
    (lambda g: g.data.fill(0), ValueError, "read-only"),
    (3, TypeError, "a hook is a function"),
])
@pytest.mark.parametrize("of_leaf", [False, True])
def test_a_wrong_hook_is_refused(hook, error, words, of_leaf):
    x = leaf(1.0, 2.0)
    y = x if of_leaf else x * x

    def backward_with_hook():
        y.register_hook(hook)
        (y * 2).sum().backward()
    with pytest.raises(error, match=words):
        backward_with_hook()


def test_a_hook_needs_a_gradient_to_pass():
    with pytest.raises(tc.GradientError, match="requires no gradient"):
        Tensor([1.0]).register_hook(print)
    y = leaf(1.0) * 2
    y.sum().backward()
    with pytest.raises(tc.GraphFreedError):
        y.register_hook(print)


def test_asking_a_result_for_its_gradient_says_how_to_get_one():
    x = leaf(2.0)
    y = x * x
    with pytest.warns(UserWarning, match=r"made by the op mul, .*retain_grad.*tc\.grad\(loss"):
        assert y.grad is None
    y.retain_grad()
    assert y.grad is None                               # and without a warning
    y.sum().backward()
    assert y.grad.data == 1
