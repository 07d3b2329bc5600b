"""A joint rule makes all cotangents at once, where that is cheaper, and changes no gradient."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import GradientError, Sample, Tensor
from tinygrad_cnn.graph import Observer, observing
from tinygrad_cnn.kernels import normalize
from tinygrad_cnn.op import OPS, Op, register
from tinygrad_cnn.tensor import apply, binary

SCALE = {"scale": 3.0}


def samples(rng):
    yield Sample("rows", (rng.normal(size=3), rng.normal(size=3)), SCALE)


def same(a, b, *, scale):
    if a != b:
        raise tc.ShapeError(f"joint_for_a_test: a is {a} but b is {b}")
    return a


class Calls:
    """An op of two inputs, scale · a · b, that notes who works out its cotangents."""

    def __init__(self, joint=None):
        self.joint, self.rules = [], []

        def rule_a(ct, out, a, b, *, scale):
            self.rules.append("a")
            return ct * b * scale

        def rule_b(ct, out, a, b, *, scale):
            self.rules.append("b")
            return ct * a * scale

        def both(wanted, ct, out, a, b, *, scale):
            self.joint.append(wanted)
            assert all(type(x) is np.ndarray for x in (ct, a, b))
            return ct * b * scale, ct * a * scale

        self.op = Op(name="joint_for_a_test", shape=same,
                     kernels={"array": lambda a, b, *, scale: scale * a * b},
                     vjp={"a": rule_a, "b": rule_b}, samples=samples, joint=joint or both)

    def __call__(self, a, b):
        return apply(self.op, a, b, **SCALE)


def leaf(values, requires_grad=True):
    return Tensor(np.array(values, np.float32), requires_grad=requires_grad)


def test_a_pass_that_wants_both_calls_the_joint_rule_once():
    f, a, b = Calls(), leaf([1.0, 2.0]), leaf([5.0, 7.0])
    f(a, b).sum().backward()
    assert (f.joint, f.rules) == ([(True, True)], [])
    assert a.grad.data.tolist() == [15, 21] and b.grad.data.tolist() == [3, 6]


@pytest.mark.parametrize("wanted", ["a", "b"])
def test_a_pass_that_wants_one_calls_its_rule(wanted):
    f, a, b = Calls(), leaf([1.0, 2.0], wanted == "a"), leaf([5.0, 7.0], wanted == "b")
    f(a, b).sum().backward()
    assert (f.joint, f.rules) == ([], [wanted])
    assert (a if wanted == "a" else b).grad.data.tolist() == ([15, 21] if wanted == "a" else [3, 6])


def test_a_graph_of_the_gradients_is_made_by_the_rules():
    f, a, b = Calls(), leaf([1.0, 2.0]), leaf([5.0, 7.0])
    first, = tc.grad(f(a, b).sum(), a, create_graph=True)
    assert not f.joint
    second, = tc.grad((first * first).sum(), b)             # d/db of (3 b)² is 18 b
    assert second.data.tolist() == [90, 126]
    assert not f.joint


def test_a_pass_to_chosen_targets_calls_only_their_rules():
    f, a, b = Calls(), leaf([1.0, 2.0]), leaf([5.0, 7.0])
    found, = tc.grad(f(a, b).sum(), b)
    assert found.data.tolist() == [3, 6]
    assert (f.joint, f.rules) == ([], ["b"])


def test_an_observer_sees_the_cotangents_of_a_joint_rule():
    class Watcher(Observer):
        sent = None

        def backward(self, node, cotangent, sent, seconds):
            if node.op.joint is not None:
                self.sent = [part.tolist() for _, part in sent]

    f, a, b, watcher = Calls(), leaf([1.0, 2.0]), leaf([5.0, 7.0]), Watcher()
    with observing(watcher):
        f(a, b).sum().backward()
    assert watcher.sent == [[15, 21], [3, 6]]
    assert len(f.joint) == 1


def test_what_is_not_wanted_may_be_none():
    seen = []

    def joint(wanted, ct, out, x, w, b):
        seen.append(wanted)
        return (ct * w, None, ct) if not wanted[1] else (ct * w, ct * x, ct)

    op = Op(name="three_for_a_test", shape=lambda x, w, b: x,
            kernels={"array": lambda x, w, b: x * w + b},
            vjp={"x": lambda ct, out, x, w, b: ct * w, "w": lambda ct, out, x, w, b: ct * x,
                 "b": lambda ct, out, x, w, b: ct}, samples=samples, joint=joint)
    x, w, b = leaf([2.0]), leaf([3.0], requires_grad=False), leaf([4.0])
    apply(op, x, w, b).sum().backward()
    assert seen == [(True, False, True)]
    assert (x.grad.item(), w.grad, b.grad.item()) == (3.0, None, 1.0)


def test_two_inputs_that_are_one_tensor_get_the_sum():
    f, a = Calls(), leaf([2.0, 5.0])
    f(a, a).sum().backward()
    assert a.grad.data.tolist() == [12, 30]                 # of 3 a²: 6 a
    assert len(f.joint) == 1


def test_a_joint_rule_goes_before_the_short_way_of_two_inputs():
    calls = []

    def joint(wanted, ct, out, a, b):
        calls.append(wanted)
        return ct * b, ct * a

    op = Op(name="short_for_a_test", shape=lambda a, b: a, kernels={"array": np.multiply},
            vjp={"a": lambda ct, out, a, b: ct * b, "b": lambda ct, out, a, b: ct * a},
            samples=samples, array_rules=True, joint=joint)
    a, b = leaf([2.0]), leaf([3.0])
    binary(op, np.multiply)(a, b).sum().backward()
    assert calls == [(True, True)]
    assert (a.grad.item(), b.grad.item()) == (3.0, 2.0)


@pytest.mark.parametrize("joint", [
    lambda ct, out, a, b, *, scale: (ct, ct),
    lambda wanted, ct, out, a, *, scale: (ct, ct),
    lambda wanted, ct, out, a, b: (ct, ct),
    lambda wanted, ct, out, a, b, *, size: (ct, ct),
], ids=["without wanted", "without b", "without scale", "with another setting"])
def test_a_joint_rule_of_another_signature_is_refused(joint):
    with pytest.raises(tc.DeclarationError, match=r"joint_for_a_test: joint is declared .*, "
                                                  r"expected \(wanted, ct, out, a, b, \*, scale\)"):
        Calls(joint)


def test_a_joint_rule_of_any_number_of_inputs_is_told_no_index():
    def joint(wanted, ct, out, *xs):
        return tuple(ct for _ in xs)

    op = Op(name="total_for_a_test", shape=lambda *xs: xs[0],
            kernels={"array": lambda *xs: sum(xs)},
            vjp={"xs": lambda ct, out, *xs, index: ct}, samples=samples, joint=joint)
    leaves = [leaf([float(i)]) for i in range(3)]
    apply(op, *leaves).sum().backward()
    assert [x.grad.item() for x in leaves] == [1.0] * 3


def test_an_error_inside_a_joint_rule_names_the_op():
    def fails(wanted, ct, out, a, b, *, scale):
        raise ZeroDivisionError("by the joint rule")

    with pytest.raises(ZeroDivisionError) as caught:
        Calls(fails)(leaf([1.0]), leaf([2.0])).sum().backward()
    assert caught.value.__notes__ == ["in the backward rule of joint_for_a_test for 'a'"]


@pytest.mark.parametrize("change, words", [
    (lambda a, b: (a, b[:1]), r"vjp for 'b' has shape \(1,\), the input has shape \(2,\)"),
    (lambda a, b: (a.astype(np.float64), b), "vjp for 'a' has dtype float64, the input has float"),
], ids=["shape", "dtype"])
def test_a_joint_rule_that_returns_no_cotangent_is_refused(change, words):
    f = Calls(lambda wanted, ct, out, a, b, *, scale: change(ct * b * 3, ct * a * 3))
    with pytest.raises(GradientError, match=words):
        f(leaf([1.0, 2.0]), leaf([5.0, 7.0])).sum().backward()


# The joint rules of the package against its rules, on images that the blocked kernels serve and on
# ones that they leave.
@pytest.mark.parametrize("compiled", [False, None], ids=["NumPy", "as installed"])
@pytest.mark.parametrize("shape", [(3, 5, 4, 3), (8, 16, 16, 16)])
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 2e-5), (np.float64, 1e-11)])
def test_the_joint_rule_of_batch_norm_gives_what_its_rules_give(shape, dtype, tolerance, compiled):
    rng = np.random.default_rng(0)
    values = [rng.normal(size=size).astype(dtype) for size in (shape, shape[-1], shape[-1])]
    ct = rng.normal(size=shape).astype(dtype)
    assert normalize.served(values[0], (0, 1, 2)) == (len(values[0]) == 8)
    assert OPS["batch_norm"].joint is not None
    with tc.set_compiled(tc.get_compiled() if compiled is None else compiled):
        x, w, b = (Tensor(v, requires_grad=True) for v in values)
        tc.batch_norm(x, w, b).backward(Tensor(ct))         # wants all three: the joint rule
        for name, t in (("x", x), ("w", w), ("b", b)):
            single = [Tensor(v, requires_grad=t is u) for v, u in zip(values, (x, w, b),
                                                                      strict=True)]
            tc.batch_norm(*single).backward(Tensor(ct))     # wants one: its rule
            found = next(s.grad for s in single if s.requires_grad)
            np.testing.assert_allclose(t.grad.data, found.data, rtol=tolerance, err_msg=name,
                                       atol=tolerance * np.abs(found.data).max())


def test_a_registered_op_with_a_joint_rule_is_held_to_it_by_the_tester():
    from tinygrad_cnn.testing import check_op

    def wrong(wanted, ct, out, a, b, *, scale):
        return ct * b * scale, ct * a * (scale + 1)

    check_op(register(Calls().op))
    del OPS["joint_for_a_test"]
    with pytest.raises(tc.GradientMismatch):
        check_op(register(Calls(wrong).op))
