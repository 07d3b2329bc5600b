"""One rule may give the cotangents of several inputs together, where they share work."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import OPS, Sample, Tensor
from tinygrad_cnn.core import apply
from tinygrad_cnn.core.graph import Observer, observing
from tinygrad_cnn.core.op import make_op


def product(rule, **changes):
    return make_op(**{"name": "product_for_a_test", "shape": lambda a, b: a,
                 "kernels": {"array": np.multiply}, "vjp": {("a", "b"): rule},
                 "samples": lambda rng: iter([Sample("rows", (rng.normal(size=3),
                                                              rng.normal(size=3)))]), **changes})


def both(ct, out, a, b):
    return ct * b, ct * a


@pytest.fixture
def pair():
    return (Tensor([1.0, 2.0], requires_grad=True), Tensor([5.0, 7.0], requires_grad=True))


def test_it_is_called_once_for_all_inputs(pair):
    calls = []

    def rule(ct, out, a, b):
        calls.append(type(ct))
        return both(ct, out, a, b)

    a, b = pair
    apply(product(rule), a, b).sum().backward()
    assert calls == [np.ndarray]
    assert (a.grad.data.tolist(), b.grad.data.tolist()) == ([5, 7], [1, 2])


def test_only_what_requires_a_gradient_gets_one(pair):
    a, b = pair
    found = tc.grad(apply(product(both), a, b).sum(), b)
    assert found[0].data.tolist() == [1, 2]
    assert a.grad is None
    apply(product(both), a, Tensor([3.0, 4.0])).sum().backward()
    assert a.grad.data.tolist() == [3, 4]


def test_it_can_be_differentiated_again(pair):
    a, b = pair
    y = apply(product(both), a * a, b).sum()                    # a² b
    first, = tc.grad(y, a, create_graph=True)                   # 2 a b
    second = tc.grad(first.sum(), [a, b])
    assert [t.data.tolist() for t in second] == [[10, 14], [2, 4]]


def test_two_inputs_that_are_one_tensor_get_the_sum(pair):
    a, _ = pair
    apply(product(both), a, a).sum().backward()
    assert a.grad.data.tolist() == [2, 4]


def test_an_observer_sees_the_cotangents(pair):
    class Watcher(Observer):
        def backward(self, node, cotangent, sent, seconds):
            self.sent = [part.tolist() for _, part in sent]

    a, b = pair
    watcher = Watcher()
    with observing(watcher):
        apply(product(both), a, b).backward(gradient=[3.0, 3.0])
    assert watcher.sent == [[15, 21], [3, 6]]


@pytest.mark.parametrize(("rule", "words"), [
    (lambda ct, out, a, b: (ct * b, ct[:1]), r"vjp for 'b' has shape \(1,\)"),
    (lambda ct, out, a, b: (ct.astype(np.float64), ct), "vjp for 'a' has dtype float64"),
    (lambda ct, out, a, b: (ct, None), "vjp for 'b' returned NoneType"),
])
def test_what_is_no_cotangent_is_refused(pair, rule, words):
    with pytest.raises(tc.GradientError, match=words):
        apply(product(rule), *pair).sum().backward()


def test_an_error_inside_it_names_the_op(pair):
    with pytest.raises(ZeroDivisionError) as caught:
        apply(product(lambda ct, out, a, b: (1 / 0, ct)), *pair).sum().backward()
    assert caught.value.__notes__ == ["in the backward rule of product_for_a_test for 'a'"]


@pytest.mark.parametrize("vjp", [{("a",): both}, {("a", "b"): both, "b": both}, {("a", "c"): both},
                                 {("a", "b"): lambda ct, a, b: ()}])
def test_a_declaration_that_does_not_fit_is_refused(vjp):
    with pytest.raises(tc.DeclarationError, match="product_for_a_test"):
        product(None, vjp=vjp)


@pytest.mark.parametrize("shape", [(8, 4, 4, 3), (5, 3)])
@pytest.mark.parametrize("compiled", [False, None])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-5), (np.float64, 1e-11)])
def test_batch_norm_gives_over_arrays_what_it_gives_over_tensors(shape, compiled, dtype, tolerance):
    rng = np.random.default_rng(0)
    values = [rng.normal(size=size).astype(dtype) for size in (shape, shape[-1:], shape[-1:])]
    ct = Tensor(rng.normal(size=shape).astype(dtype))
    with tc.set_compiled(tc.get_compiled() if compiled is None else compiled):
        x, w, b = (Tensor(v, requires_grad=True) for v in values)
        y = tc.batch_norm(x, w, b)
        recorded = tc.grad(y, [x, w, b], gradient=ct, create_graph=True)
        plain = tc.grad(y, [x, w, b], gradient=ct)
    for one, other in zip(plain, recorded, strict=True):
        np.testing.assert_allclose(one.data, other.data, rtol=tolerance,
                                   atol=tolerance * np.abs(other.data).max())


def test_the_gradient_tester_holds_each_cotangent_to_it():
    from tinygrad_cnn.testing import check_op

    op = OPS["batch_norm"]
    rule, = op.vjp.values()
    check_op(op)
    for k, name in enumerate(op.inputs):
        @functools.wraps(rule)
        def wrong(*args, k=k, **settings):
            return tuple(t * 1.001 if i == k else t for i, t in enumerate(rule(*args, **settings)))

        with pytest.raises(tc.GradientMismatch, match=f"batch_norm.* {name}, gradient"):
            check_op(dataclasses.replace(op, vjp={op.inputs: wrong}))
