"""The graph and the backward pass: accumulation, freeing, order, depth, memory, threads."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import Tensor, enable_grad, grad, gradients, no_grad
from tinygrad_cnn.core import apply, custom_op
from tinygrad_cnn.core.op import make_op


def leaf(values):
    return Tensor(np.array(values, float), requires_grad=True)


def test_a_tensor_used_twice_collects_both_cotangents():
    x = leaf([3.0])
    (x * x + x).sum().backward()
    assert x.grad.data == [7.0]


def test_a_diamond_passes_each_node_once():
    a = leaf([2.0])
    b = a * a
    (b * b + b).sum().backward()                 # d(a⁴ + a²) = 4a³ + 2a
    assert a.grad.data == [36.0]


def test_a_long_ladder_takes_linear_time():
    x = leaf([1.0])
    y = x
    for _ in range(60):                          # 2⁶⁰ paths, 60 nodes
        y = y + y
    y.sum().backward()
    assert x.grad.data == [2.0**60]


def test_gradients_add_up_until_they_are_cleared():
    x = leaf([3.0])
    for _ in range(2):
        (x * 2.0).sum().backward()
    assert x.grad.data == [4.0]
    x.grad = None
    (x * 2.0).sum().backward()
    assert x.grad.data == [2.0]


def test_no_two_gradients_share_memory():
    a, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    seed = np.array([1.0, 1.0])
    (a + b).backward(seed)
    assert not np.shares_memory(a.grad.data, b.grad.data)
    assert not np.shares_memory(a.grad.data, seed)


def test_a_second_backward_says_how_to_keep_the_graph():
    x = leaf([1.0])
    y = (x * x).sum()
    y.backward()
    with pytest.raises(tc.GraphFreedError, match="retain_graph=True"):
        y.backward()
    assert x.grad.data == [2.0]


def test_retain_graph_allows_a_second_backward():
    x = leaf([1.0])
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.data == [4.0]


def test_create_graph_gives_every_order():
    x = leaf(2.0)
    y = x ** 4.0
    for expected in (32.0, 48.0, 48.0, 24.0):    # 4x³, 12x², 24x, 24
        y, = grad(y, x, create_graph=True)
        assert y.item() == pytest.approx(expected)


def test_backward_with_create_graph_can_be_differentiated():
    x = leaf([3.0])
    (x * x * x).sum().backward(create_graph=True)
    first, x.grad = x.grad, None
    first.sum().backward()
    assert x.grad.data == [18.0]
    x.grad = None


def test_grad_touches_no_grad_and_gives_none_where_no_path_leads():
    x, z = leaf([1.0]), leaf([1.0])
    found = grad((x * 2.0).sum(), [x, z])
    assert found[0].data == [2.0]
    assert found[1] is None
    assert x.grad is None


def test_grad_of_an_intermediate_tensor():
    x = leaf([3.0])
    h = x * x
    y = (h * h).sum()
    by_h, by_x = grad(y, [h, x])
    assert (by_h.data, by_x.data) == ([18.0], [108.0])


def test_grad_visits_only_the_way_to_its_inputs():
    visited = []

    def rule(ct, out, x):
        visited.append("off the way")
        return ct

    @custom_op(shape=lambda x: x, vjp={"x": rule}, samples=lambda rng: iter(()))
    def elsewhere(x):
        return x + 0.0

    x, z = leaf([1.0]), leaf([1.0])
    grad((x * 2.0 + elsewhere(z)).sum(), x)
    assert visited == []


def test_gradients_gives_the_leaves():
    a, b = leaf([2.0]), leaf([5.0])
    found = gradients((a * b).sum())
    assert found == {a: found[a], b: found[b]}
    assert (found[a].item(), found[b].item()) == (5.0, 2.0)


@pytest.mark.parametrize("make, error, words", [
    (lambda x: (x * 2).backward(), tc.GradientError, "reduce it with"),
    (lambda x: x.detach().sum().backward(), tc.GradientError, "nothing was recorded"),
    (lambda x: (x * 2).backward(np.ones(3)), tc.ShapeError, r"gradient has shape \(3,\)"),
    (lambda x: (x * 2).backward(Tensor(np.ones(2, np.float32))), tc.DTypeError, "cast it"),
    (lambda x: grad(x.sum(), x.detach()), tc.GradientError, "input 0"),
    (lambda x: x.__setitem__(0, 1.0), tc.GradientError, "where"),
    (lambda x: x.item(), tc.ShapeError, "2 values"),
    (lambda x: bool(x), tc.ShapeError, "neither true nor false"),
])
def test_misuse_is_named_with_its_cure(make, error, words):
    with pytest.raises(error, match=words):
        make(leaf([1.0, 2.0]))


def test_a_rule_of_the_wrong_shape_is_refused():
    @custom_op(shape=lambda x: x, vjp={"x": lambda ct, out, x: ct.sum()},
               samples=lambda rng: iter(()))
    def badly_shaped(x):
        return x + 0.0

    with pytest.raises(tc.GradientError, match=r"badly_shaped: vjp for 'x' has shape \(\)"):
        badly_shaped(leaf([1.0, 2.0])).sum().backward()


@pytest.mark.parametrize(("create_graph", "words"), [
    (False, "returned memoryview, expected an array"), (True, "returned ndarray, expected a Tens")])
def test_a_rule_that_gives_the_data_is_refused(create_graph, words):
    op = make_op(name="gives_data", shape=lambda x: x, vjp={"x": lambda ct, out, x: ct.data},
               kernels={"array": lambda x: x + 0.0}, samples=lambda rng: iter(()))
    with pytest.raises(tc.GradientError, match=words):
        apply(op, leaf([1.0])).sum().backward(create_graph=create_graph)


def cube_with_residual(given, **declared):
    """x³, whose kernel hands something to the rule besides."""
    return make_op(name="cube_for_a_test", shape=lambda x: x,
                   kernels={"array": lambda x: (x * x * x, {"more": given(x)})},
                   vjp={"x": lambda ct, out, x, *, more: ct * 3.0 * x * x}, residuals=("more",),
                   samples=lambda rng: iter(()), **declared)


@pytest.mark.parametrize(("given", "kind"), [
    (lambda x: x * x, "float64"), (lambda x: float(x[0]), "float"), (lambda x: (x, x), "tuple")])
def test_a_residual_that_may_depend_on_the_inputs_is_no_constant_in_a_recorded_pass(given, kind):
    x = leaf(np.array([2.0]))
    y = apply(cube_with_residual(given), x)
    assert grad(y, x, retain_graph=True)[0].data.tolist() == [12.0]
    with pytest.raises(tc.GradientError, match=rf"cube_for_a_test: .*'more' \({kind}\).*compute "
                                               "it in the rule.*constant_residuals=True"):
        grad(y, x, create_graph=True)


@pytest.mark.parametrize(("given", "declared"), [
    (lambda x: x > 0, {}), (lambda x: np.argsort(x), {}), (lambda x: 3, {}), (lambda x: None, {}),
    (lambda x: np.sign(x), {"constant_residuals": True})])
def test_a_residual_that_is_constant_between_jumps_is_one_in_a_recorded_pass(given, declared):
    x = leaf(np.array([2.0]))
    first, = grad(apply(cube_with_residual(given, **declared), x), x, create_graph=True)
    assert grad(first, x)[0].data.tolist() == [12.0]


def test_an_error_in_a_rule_names_the_op():
    @custom_op(shape=lambda x: x, vjp={"x": lambda ct, out, x: 1 / 0},
               samples=lambda rng: iter(()))
    def falls_over(x):
        return x + 0.0

    with pytest.raises(ZeroDivisionError) as caught:
        falls_over(leaf([1.0])).sum().backward()
    assert "in the backward rule of falls_over for 'x'" in caught.value.__notes__


def test_no_grad_and_enable_grad_nest_and_decorate():
    x = leaf([1.0])
    with no_grad():
        assert not (x * 2).requires_grad
        with enable_grad():
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad

    @no_grad()
    def quiet():
        return x * 2

    assert not quiet().requires_grad


@pytest.mark.parametrize("block, inside", [(no_grad, False), (enable_grad, True)])
def test_a_decorated_generator_records_by_its_own_rule_and_leaves_its_caller_alone(block, inside):
    x, seen = leaf([1.0]), []

    def recording():
        return (x * 2).requires_grad

    @block()
    def values():
        try:
            seen.append((yield recording()))
            try:
                yield recording()
            except KeyError:
                with (no_grad if inside else enable_grad)():
                    yield recording()
                    yield recording()           # the block holds on after the wait
            yield from (recording() for _ in range(2))
        finally:
            seen.append(recording())
        return "end"

    for outside in (True, False):
        with (enable_grad if outside else no_grad)():
            steps = values()
            found = [next(steps), steps.send("sent"), steps.throw(KeyError()), next(steps)]
            assert tc.is_grad_enabled() == outside
            assert found == [inside, inside, not inside, not inside]
            assert [*steps] == [inside, inside]
            steps = values()
            next(steps)
            steps.close()
            assert tc.is_grad_enabled() == outside
    assert seen == ["sent", inside, inside] * 2


def test_a_decorated_generator_gives_its_result_and_its_errors():
    @no_grad()
    def values():
        yield 1
        return "end"

    def outer():
        result = yield from values()
        yield result

    assert [*outer()] == [1, "end"]

    @no_grad()
    def fails():
        yield 1
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        [*fails()]
    assert tc.is_grad_enabled()


def test_a_decorated_coroutine_does_not_record_and_lets_others_record_while_it_waits():
    x, others = leaf([1.0]), []

    @no_grad()
    async def predict(wait):
        first = (x * 2).requires_grad
        await wait()
        return [first, (x * 2).requires_grad]

    async def main():
        async def sleep():
            await asyncio.sleep(0)
            others.append(tc.is_grad_enabled())

        async def train():
            others.append((x * 2).requires_grad)

        found = await asyncio.gather(predict(sleep), train(), predict(sleep))
        assert (x * 2).requires_grad
        return found[0] + found[2]

    assert asyncio.run(main()) == [False] * 4
    assert others == [True, False, False]       # what it awaits is part of its body

    class Wait:
        def __await__(self):
            yield "waiting"

    async def wait():
        await Wait()

    by_hand = predict(wait)
    assert by_hand.send(None) == "waiting"
    assert tc.is_grad_enabled()
    with pytest.raises(StopIteration) as end:
        by_hand.send(None)
    assert end.value.value == [False, False]


def test_an_asynchronous_generator_cannot_be_decorated():
    with pytest.raises(TypeError, match=r"no_grad: .*values is an asynchronous gen.*`with no"):
        @no_grad()
        async def values():
            yield 1


def test_no_grad_is_undone_by_an_exception():
    with pytest.raises(ValueError, match="stop"), no_grad():
        raise ValueError("stop")
    assert tc.is_grad_enabled()


def test_no_grad_holds_for_one_thread_only():
    x = leaf([1.0])
    seen = []
    with no_grad():
        thread = threading.Thread(target=lambda: seen.append((x * 2).requires_grad))
        thread.start()
        thread.join()
    assert seen == [True]


def test_threads_compute_the_same_gradients_side_by_side():
    def work(results, i):
        x = Tensor(np.full(50, float(i)), requires_grad=True)
        for _ in range(30):
            x.grad = None
            (x * x * x).sum().backward()
        results[i] = x.grad.data.copy()

    results = {}
    threads = [threading.Thread(target=work, args=(results, i)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((results[i] == 3.0 * i * i).all() for i in range(8))


# ---- memory

@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_graphs_are_freed_by_counting(no_collector):
    x = leaf(np.ones(3))
    y = (tc.relu(x) * x).sum()
    watch = [weakref.ref(y.node), weakref.ref(y)]
    del y
    assert [w() for w in watch] == [None, None]


def test_backward_frees_what_it_has_passed(no_collector):
    x = leaf(np.ones(3))
    h = x * x
    y = (h * h).sum()
    watch = weakref.ref(h)
    del h
    assert watch() is not None
    y.backward()
    assert watch() is None


def test_a_whole_training_step_leaves_no_garbage(no_collector):
    x = Tensor(np.ones((2, 6, 6, 3)))
    w, b = tc.Parameter(np.ones((3, 3, 3, 4))), tc.Parameter(np.zeros(4))
    for step in range(3):
        if step == 1:
            gc.collect()                # what importing and compiling kernels has left
        y = tc.max_pool2d(tc.relu(tc.conv2d(x, w, b, padding=1)), kernel_size=2)
        loss = tc.cross_entropy(tc.flatten(y, 1), np.array([0, 1]))
        loss.backward()
        w.grad = b.grad = None
    del y, loss
    assert gc.collect() == 0


def test_grad_of_grad_makes_no_cycle(no_collector):
    gc.collect()
    x = leaf([2.0])
    first, = grad((x * x * x).sum(), x, create_graph=True)
    second, = grad(first.sum(), x)
    del first, second
    assert gc.collect() == 0


@pytest.mark.parametrize("length", [200_000])
def test_deep_chains_need_no_recursion(length, no_collector):
    x = leaf(1.0)
    t = x
    for _ in range(length):
        t = t + x
    t.backward(retain_graph=True)
    assert x.grad.item() == length + 1
    watch = weakref.ref(t.node)
    del t
    assert watch() is None


def test_a_wide_fan_in_is_summed_once_each():
    x = leaf(1.0)
    parts = [x * float(i) for i in range(500)]
    tc.stack(parts).sum().backward()
    assert x.grad.item() == sum(range(500))


def test_values_that_no_rule_reads_are_not_kept(no_collector):
    x = leaf(np.ones(10_000))
    h = x * 2.0                                  # add reads neither operand
    y = h + 1.0
    watch = weakref.ref(h)
    array = weakref.ref(h.data)
    del h
    assert watch() is None
    assert array() is None
    y.sum().backward()
    assert (x.grad.data == 2.0).all()
