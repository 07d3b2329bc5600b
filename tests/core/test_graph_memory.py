"""What a graph keeps: named by node and module, given up by a checkpoint, and never float64."""

import sys
import threading

import numpy as np
import pytest

import tinygrad_cnn as tc
from bench.libraries.ours import Layers
from bench.nets import NETS
from tinygrad_cnn import nn, optim
from tinygrad_cnn.core import graph
from tinygrad_cnn.errors import GradientError

IMAGES = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
LABELS = np.arange(8) % 4


def parts():
    rng = np.random.default_rng(1)
    return (nn.Sequential(nn.Conv2D(3, 8, 3, padding=1, rng=rng), nn.BatchNorm2D(8), nn.ReLU(),
                          nn.Dropout(0.3)),
            nn.Sequential(nn.Conv2D(8, 8, 3, padding=1, rng=rng), nn.BatchNorm2D(8), nn.Tanh(),
                          nn.Dropout(0.3, rng=rng)),
            nn.Sequential(nn.MaxPool2D(2), nn.Flatten(), nn.Linear(128, 4, rng=rng)))


def plainly(function, *args):
    return function(*args)


def nested(function, *args):
    return tc.checkpoint(lambda *xs: tc.checkpoint(function, *xs) * 1.0, *args) * 1.0


def trained(call, passes=2):
    """Everything that a step leaves behind: loss, gradients, buffers, the next random number."""
    tc.manual_seed(3)
    first, second, last = parts()
    h = call(first, tc.Tensor(IMAGES))
    h = call(second, h) + call(second, h) + h           # used again, inside and outside
    loss = tc.cross_entropy(last(h), LABELS)
    for i in range(passes):
        loss.backward(retain_graph=i + 1 < passes)
    every = nn.Sequential(first, second, last)
    return [loss.item(), *(p.grad.data for p in every.parameters()), *every.buffers(),
            tc.default_generator().random(), second[3].rng.random()]


def test_a_checkpoint_changes_no_bit_of_what_a_step_leaves_behind():
    expected = trained(plainly)
    for call in (tc.checkpoint, nested):
        for ours, theirs in zip(trained(call), expected, strict=True):
            assert np.array_equal(ours, theirs)


def test_derivatives_of_every_order_and_of_asked_tensors_pass_a_checkpoint():
    found = []
    for call in (plainly, tc.checkpoint):
        w, x = tc.Parameter([2.0, 3.0]), tc.Tensor([0.5, 0.7], requires_grad=True)
        inner = x * w
        y = call(lambda v, w=w, inner=inner: (v * w).sin() * v + inner, inner)
        first = tc.grad(y.sum(), [w, x, inner, y], create_graph=True)
        second = tc.grad((first[0] * first[1]).sum(), [w, x])
        found.append([g.numpy() for g in (*first, *second)])
    assert all(map(np.array_equal, *found))


def test_a_checkpoint_keeps_its_inputs_and_passes_what_is_not_recorded():
    stack = nn.Sequential(*(nn.Tanh() for _ in range(9)))
    x = tc.Tensor(np.ones((64, 64), np.float32), requires_grad=True)
    kept = {call: call(stack, x * 2).sum().graph().memory() for call in (plainly, tc.checkpoint)}
    assert kept[plainly].total == 9 * x.nbytes
    assert kept[tc.checkpoint].total <= x.nbytes
    assert tc.checkpoint(lambda v: v, x) is x
    with tc.no_grad():
        assert not tc.checkpoint(stack, x).requires_grad
    images = np.ones((2, 3), np.float32)
    y = tc.checkpoint(lambda a: tc.Tensor(a) * x[:2, :3], images)
    images[:] = 9                                       # a buffer that the user fills anew
    y.sum().backward()
    assert x.grad.numpy().sum() == 6


def test_a_second_run_that_differs_is_refused():
    w, rng = tc.Parameter([1.0, 2.0]), np.random.default_rng(0)
    draws = tc.checkpoint(lambda x: x * rng.normal(), w)
    with pytest.raises(GradientError, match=r"default_generator\(rng\)"):
        draws.sum().backward()
    stale = tc.checkpoint(lambda x: x * w, w)
    w.data[0] = 5.0
    with pytest.raises(GradientError, match="changed after the forward pass, so it cannot be comp"):
        stale.sum().backward()
    with pytest.raises(GradientError, match="returned tuple, not one tensor"):
        tc.checkpoint(lambda x: (x, x), w)


def test_memory_is_what_the_nodes_keep_by_node_and_module():
    model = nn.Sequential(*parts())
    loss = tc.cross_entropy(model(tc.Tensor(IMAGES)), LABELS)
    memory = loss.graph().memory()
    nodes, stack = {loss.node}, [loss.node]
    while stack:
        below = {x.node for x in stack.pop().inputs if x is not None and x.node} - nodes
        nodes |= below
        stack += below
    arrays = {id(a): a for node in nodes for x, a in zip(node.inputs, node.values, strict=True)
              if x is not None and x.node is not None and any(a.strides)}
    arrays |= {id(a): a for node in nodes for a in (node.out, *node.settings.values(),
                                                    *node.residuals.values())
               if isinstance(a, np.ndarray) and any(a.strides)}
    owned = {id(a if a.base is None or not isinstance(a.base, np.ndarray) else a.base): a.nbytes
             for a in arrays.values()}
    assert memory.total == sum(owned.values()) == sum(memory.nodes.values())
    assert memory.modules["0"] == sum(memory.modules[f"0[{i}]"] for i in (0, 1, 2, 3)
                                     if f"0[{i}]" in memory.modules)
    assert str(memory).splitlines()[1].endswith(next(iter(memory.nodes)))


@pytest.mark.parametrize("backward", [False, True])
def test_a_sum_of_losses_that_keeps_their_graphs_is_warned_of_once(backward):
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))
    x, labels = np.ones((256, 64), np.float32), np.arange(256) % 4

    def epoch(value):
        total = 0
        for _ in range(3 * graph._TERMS):
            loss = tc.cross_entropy(model(x), labels)
            if backward:
                loss.backward()
            total += value(loss)
        return total
    with pytest.warns(RuntimeWarning, match=r"total \+= loss.item\(\)") as caught:
        epoch(lambda loss: loss * 2)
    assert [w.filename for w in caught] == [__file__]
    epoch(lambda loss: loss.item())                     # warnings are errors here

    def of_one_graph():
        h, total = model(x), 0
        for row in h.reshape(-1)[:32].chunk(32) * 5:
            total += (row * row).mean().sqrt().abs().sum()
        return total
    of_one_graph().backward()


def float64_arrays(step, most):
    """(function, shape) of every float64 array of more than ``most`` entries that a step names."""
    found = set()

    def look(value, where):
        if isinstance(value, np.ndarray):
            if value.dtype == np.float64 and value.size > most:
                found.add((where, value.shape))
        elif isinstance(value, (tuple, list)):
            for part in value:
                look(part, where)

    def trace(frame, event, arg):
        name = frame.f_globals.get("__name__", "")
        if not name.startswith("tinygrad_cnn"):
            return None
        frame.f_trace_lines = False             # a look at the end of each call is enough
        for value in (*frame.f_locals.values(), arg if event == "return" else None):
            look(value, f"{name}.{frame.f_code.co_name}")
        return trace

    before = sys.gettrace()
    threading.settrace(trace)
    sys.settrace(trace)
    try:
        step()
    finally:
        sys.settrace(before)
        threading.settrace(before)
    return found


@pytest.mark.skipif(sys.gettrace() is not None, reason="the trace belongs to somebody else")
def test_no_array_of_a_float32_step_is_float64():
    """But sums over the pixels of a channel, of which some lines are added up side by side."""
    rng = np.random.default_rng(0)
    for net in NETS.values():
        model = Layers().build(net.layers, net.image)
        x = tc.Tensor(rng.normal(size=(8, *net.image)).astype(np.float32))
        model(x)
        for optimizer in (optim.SGD(model.parameters(), 1e-3, momentum=0.9, nesterov=True),
                          optim.AdamW(model.parameters(), 1e-3)):
            def step(model=model, x=x, optimizer=optimizer):
                loss = tc.cross_entropy(model(x), np.arange(8))
                optimizer.zero_grad()
                loss.backward()
                optim.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            step()
            assert not float64_arrays(step, 4096)
    x = tc.Tensor(rng.normal(size=(8, 4)).astype(np.float32), requires_grad=True)
    weight = np.linspace(1, 2, 4, dtype=np.float32)
    for labels in (LABELS, np.eye(4, dtype=np.float32)[LABELS], np.eye(4, dtype=int)[LABELS]):
        for settings in ({}, {"label_smoothing": 0.1}, {"weight": weight},
                         {"weight": weight, "label_smoothing": 0.1}):
            assert not float64_arrays(
                lambda a=labels, k=settings: tc.cross_entropy(x, a, **k).backward(), 1)
    images = tc.Tensor(IMAGES, requires_grad=True)
    for ties in ("first", "split", "all"):
        assert not float64_arrays(
            lambda t=ties: tc.max_pool2d(images, 3, 2, 1, ties=t).sum().backward(), 1)
