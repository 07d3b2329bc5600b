"""What the gradient checkers find, what they let pass, and what they refuse to judge."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import numpy as np
import pytest

import tinygrad_cnn as tc
from mutation.mutant import replaced
from tinygrad_cnn import OPS, GradientError, GradientMismatch, Parameter, Sample, Tensor
from tinygrad_cnn.core.op import FUNCTIONS, make_op
from tinygrad_cnn.nn import BatchNorm1D, Module, Sequential
from tinygrad_cnn.testing import check, check_gradients, check_op, check_sample, check_vjp_pair
from tinygrad_cnn.testing.numeric import (
    complex_step,
    exact_differences,
    is_dyadic,
    measure,
    slopes,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3))


# ---- derivatives from values

def line(function, steps=(2.0 ** -6, 2.0 ** -13, 2.0 ** -20, 2.0 ** -27, 0.25)):
    return slopes(lambda t, _: np.atleast_1d(function(t)), steps, np.full(1, 1e-16))


def test_differences_find_a_slope_and_know_their_error():
    found = line(lambda t: np.exp(1 + t))
    assert abs(found.value[0] - math.e) <= found.error[0] <= 1e-9


@pytest.mark.parametrize("distance", 10.0 ** -np.arange(1, 8))
def test_differences_are_not_fooled_by_a_kink_within_reach(distance):
    found = line(lambda t: np.maximum(t + distance, 0.0) * 3)
    assert abs(found.value[0] - 3) <= found.error[0] <= 1e-6
    assert found.left[0] == found.right[0]


@pytest.mark.parametrize("part", np.linspace(0.26, 0.99, 30))
def test_no_place_of_a_kink_between_the_steps_looks_smooth(part):
    found = slopes(lambda t, _: np.atleast_1d(np.maximum(t - part, 0.0)), [1.0], np.full(1, 1e-16))
    assert found.error[0] >= abs(found.value[0])


def test_at_a_kink_differences_give_the_slopes_to_the_two_sides():
    found = line(lambda t: np.array([np.maximum(t, 2 * t), np.exp(t)]))
    np.testing.assert_allclose([found.left, found.right], [[1, 1], [2, 1]], atol=1e-6)


def test_where_nothing_settles_the_error_says_so():
    found = line(lambda t: np.sqrt(np.abs(t)))
    assert not found.error[0] < 1


def test_complex_steps_are_exact_and_refused_where_the_imaginary_part_is_dropped():
    found = complex_step(lambda a: np.sin(a[0]), [np.array([0.5])], 0)
    assert found.matrix[0, 0] == pytest.approx(math.cos(0.5), rel=1e-15)
    assert complex_step(lambda a: np.abs(a[0]), [np.array([0.5])], 0) is None
    buffer = np.zeros(1)

    def through_a_real_buffer(a):
        buffer[...] = a[0] * 2
        return buffer

    assert complex_step(through_a_real_buffer, [np.array([0.5])], 0) is None


def test_exact_differences_see_both_sides_of_a_kink_and_refuse_inexact_data():
    found = exact_differences(lambda a: np.maximum(a[0], 0), [np.array([0.0, 1.0])], 0,
                              step=1 / 32, both_sides=True)
    np.testing.assert_array_equal(found.matrix, np.eye(2))
    np.testing.assert_array_equal(found.left, [[0, 0], [0, 1]])
    assert exact_differences(lambda a: a[0], [np.array([0.1])], 0, step=1.0,
                             both_sides=False) is None
    assert not is_dyadic(np.array([0.1]))


def test_a_function_that_is_not_affine_is_not_measured_as_if_it_were():
    assert measure(lambda a: a[0] ** 2, [np.array([0.5, 1.5])], 0, affine=True).method \
        == "complex step"


# ---- ops

# Each fourth op: tests/ops/test_generated.py holds all of them, and python tests/mutation.
@pytest.mark.parametrize("op", list(OPS.values())[::4], ids=list(OPS)[::4])
def test_a_rule_of_the_registry_is_right(op):
    report = check_op(op, order=1, seed=1)
    assert report.comparisons > 0
    assert report.worst < 1
    assert set(report.methods.values()) <= {"exact", "complex step", "differences",
                                         "complex step, differences"}


def test_affine_inputs_are_compared_exactly():
    assert check_op(OPS["conv2d"]).methods == {"x": "exact", "w": "exact", "b": "exact"}


def square_op(vjp, **changes):
    declaration = {"name": "square", "shape": lambda x: x, "kernels": {"array": lambda x: x * x},
                   "vjp": {"x": vjp}, "samples": lambda rng: [Sample("row", (rng.normal(size=4),))]}
    return make_op(**{**declaration, **changes})


def test_a_right_rule_passes_and_a_wrong_one_is_named():
    assert check_op(square_op(lambda ct, out, x: ct * 2.0 * x)).verdict == "right"
    with pytest.raises(GradientMismatch, match=r"square\[row\] x, gradient: constant ratio"):
        check_op(square_op(lambda ct, out, x: ct * x))


@pytest.mark.parametrize("samples, words", [
    (lambda rng: [], "no samples"),
    (lambda rng: [Sample("empty", (np.zeros((0, 3)),))], "nothing was compared"),
    (lambda rng: [Sample("nan", (np.array([np.nan]),))], "NaN or infinity"),
    (lambda rng: 1 / 0, "cannot be drawn"),
])
def test_an_op_without_usable_samples_fails(samples, words):
    with pytest.raises(GradientMismatch, match=words):
        check_op(square_op(lambda ct, out, x: ct * 2.0 * x, samples=samples))


def test_an_op_declared_affine_that_is_not_fails():
    with pytest.raises(GradientMismatch, match="exact_in names 'x'"):
        check_op(square_op(lambda ct, out, x: ct * 2.0 * x, exact_in=("x",)))


def test_a_random_op_fails():
    rng = np.random.default_rng(0)
    op = square_op(lambda ct, out, x: ct * 2.0 * x,
                   kernels={"array": lambda x: x * x + rng.normal()})
    with pytest.raises(GradientMismatch, match="random or keeps state"):
        check_op(op)


def test_a_rule_with_the_wrong_tie_fails_only_where_a_tie_rule_is_declared():
    inclusive = {"x": lambda ct, out, x: ct * (np.asarray(x) >= 0)}
    relu = dataclasses.replace(OPS["relu"], vjp=inclusive, saved=None)
    with pytest.raises(GradientMismatch, match="only at ties and kinks"):
        check_op(relu)
    check_op(replaced(relu, subgradient=None))


def test_a_value_beyond_the_slopes_at_a_kink_fails_without_a_declaration_too():
    def beyond_both(ct, out, x):
        x = np.asarray(x)
        return ct * ((x > 0) + 2.0 * (x == 0)).astype(ct.dtype)

    beyond = {"x": beyond_both}
    with pytest.raises(GradientMismatch, match="beyond the slopes to the two sides of a kink at"):
        check_op(replaced(OPS["relu"], vjp=beyond, saved=None, subgradient=None))


def test_a_refusal_must_use_the_words_it_promises():
    op = replaced(OPS["matmul"], error_inputs=(
        dataclasses.replace(OPS["matmul"].test.error_inputs[0], message="something else"),))
    with pytest.raises(GradientMismatch, match="expected the words 'something else'"):
        check_op(op)


def test_a_single_sample_and_property_can_be_checked():
    sample = Sample("one", (np.array([1.0]),))
    assert check_sample(OPS["exp"], sample, "gradient").comparisons > 0
    with pytest.raises(GradientMismatch):
        check_sample(square_op(lambda ct, out, x: ct), sample, "gradient")


@pytest.mark.parametrize("name", OPS)
def test_an_op_is_tested_by_its_name_and_by_the_function_that_users_know(name):
    function = FUNCTIONS.get(name)
    assert check._declared(name, "check_op") is OPS[name]
    if function is not None:
        assert check._declared(function, "check_op") is OPS[name]


def test_the_public_functions_of_ops_are_taken():
    public = {name for name in OPS if callable(getattr(tc, name, None))}
    assert {"conv2d", "relu", "add", "batch_norm", "concatenate"} <= public
    for name in public:
        assert check._declared(getattr(tc, name), "check_op") is OPS[name]


@pytest.mark.parametrize("call, error, words", [
    (lambda: check_op(np.sin), TypeError, "is not an op"),
    (lambda: check_op(len), TypeError, "is not an op"),
    (lambda: check_op("sine"), tc.SettingError, "no op is called 'sine'; choose from add"),
    (lambda: check_op("relu", order=3), tc.SettingError, "order must be 1 or 2, got 3"),
    (lambda: check_sample("sine", Sample("one", (X,))), tc.SettingError, "no op is called"),
    (lambda: check_sample("exp", Sample("one", (X,)), "value"), tc.SettingError,
     "no property is called 'value'; choose from writes nothing"),
    (lambda: check_gradients(X), TypeError, "is not a function"),
    (lambda: check_vjp_pair(X, X), TypeError, "is not a function"),
    (lambda: check_vjp_pair(dense, X), TypeError, "is not a function"),
])
def test_a_wrong_call_is_no_wrong_gradient(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert not isinstance(caught.value, AssertionError)


# ---- functions of tensors

def test_a_model_is_tested_with_all_parameters_that_it_closes_over():
    w = Parameter(RNG.normal(size=(3, 4)).astype(np.float32), name="weights")
    b = Parameter(np.zeros(4, np.float32), name="bias")
    report = check_gradients(lambda x: tc.cross_entropy(x @ w + b, np.array([0, 3])), X, order=2)
    assert set(report.methods) == {"x0", "weights", "bias", "ct"}
    assert w.dtype == np.float32


NORM = BatchNorm1D(3, dtype=np.float64)


class Holder:
    def __init__(self, norm):
        self.norm = norm

    def __call__(self, x):
        return self.norm(x)

    def method(self, x):
        return self.norm(x) * x


def _ways_to_reach(norm):
    model = Sequential(norm)
    several = {"first": [norm]}
    return {"module": norm, "method": norm.forward, "part": model, "closure": lambda x: norm(x) * x,
            "global": lambda x: NORM(x) * x, "container": lambda x: several["first"][0](x) * x,
            "inner": lambda x: (lambda y: norm(y))(x), "holder": Holder(norm),
            "method of a holder": Holder(norm).method, "partial": partial(lambda m, x: m(x), norm)}


@pytest.mark.parametrize("way", _ways_to_reach(NORM))
def test_buffers_of_modules_are_put_back(way):
    before = {name: array.copy() for name, array in NORM.named_buffers()}
    report = check_gradients(_ways_to_reach(NORM)[way], RNG.normal(size=(4, 3)), order=2)
    assert report.verdict == "right"
    assert set(before) == {"running_mean", "running_var", "num_batches_tracked"}
    for name, array in NORM.named_buffers():
        np.testing.assert_array_equal(array, before[name])


def test_a_buffer_that_is_replaced_is_put_back_too():
    class Counts(Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", np.zeros(1))

        def forward(self, x):
            self.calls = self.calls + 1
            return x * self.calls[0]

    model = Counts()
    kept = model.calls
    assert check_gradients(model, X).verdict == "right"
    assert model.calls is kept
    assert kept[0] == 0


def test_every_input_is_tested_not_only_the_first():
    with pytest.raises(GradientMismatch, match="x1, gradient: constant ratio: every entry is 0"):
        check_gradients(lambda x, y: (x * y * y.detach()).sum(), X, X)


def test_large_inputs_are_tested_along_directions():
    x = RNG.normal(size=(4, 12, 12, 8))
    assert check_gradients(lambda x: x.tanh(), x).methods \
        == {"x0": "complex step along a direction"}

    def one_entry_wrong(x):
        mask = np.zeros(x.shape)
        mask[2, 5, 7, 3] = 1e-6
        return x.tanh() + (x * mask).detach()

    with pytest.raises(GradientMismatch, match="random direction"):
        check_gradients(one_entry_wrong, x)


def test_at_a_kink_the_verdict_is_not_measured():
    report = check_gradients(tc.relu, np.array([0.0, 1.0, -1.0]))
    assert report.verdict == "not measured"
    assert report.notes == ("not differentiable here: x0 at (0,)",)
    with pytest.raises(GradientMismatch):
        check_gradients(lambda x: tc.relu(x) + (x - x.detach()) * 5.0, np.array([0.0, 1.0]))


def test_dropout_from_the_default_generator_is_replayed():
    tc.manual_seed(3)
    assert check_gradients(lambda x: tc.dropout(x, p=0.5) * x, X).verdict == "right"


def test_the_second_derivative_is_tested_when_asked():
    def cut(x):
        return x * x * x + (x - x.detach()) * 0.0

    assert check_gradients(cut, X, order=3).verdict == "right"


def writes(x):
    x.data[...] = 0
    return x * 1.0


@pytest.mark.parametrize("fn, x, words", [
    (lambda x: x * RNG.normal(), X, "random or keeps state"),
    (writes, X, "writes to its input x0"),
    (lambda x: x.data, X, "returned ndarray, expected a Tensor"),
    (lambda x: (x, x.data), X, "returned tuple, expected a Tensor"),
    (lambda x: None, X, "returned NoneType"),
    (lambda x: x.astype(np.int64), X, "int64, which is not differentiable"),
    (lambda x: x.log(), -np.ones(3), "gives nan at"),
    (lambda x: x[:0], X, "without entries"),
    (lambda x: Tensor(x.data), X, "depends on no input"),
    (lambda x: x, np.arange(3), "no input holds floats"),
    (lambda x: x, np.array([np.nan]), "holds NaN"),
    (lambda x: x, np.zeros((0, 2)), "without entries"),
    (lambda x: x, "text", "is str"),
])
def test_what_cannot_be_judged_is_refused(fn, x, words):
    with pytest.raises(GradientError, match=words):
        check_gradients(fn, x)


def test_order_below_one_is_refused():
    with pytest.raises(tc.SettingError, match="at least 1"):
        check_gradients(tc.relu, X, order=0)


# ---- plain NumPy functions

def dense(x, w):
    return x @ w


def test_a_right_pair_passes_and_each_wrong_gradient_is_found():
    w = RNG.normal(size=(3, 2))
    assert check_vjp_pair(dense, lambda ct, x, w: (ct @ w.T, x.T @ ct), X, w).verdict == "right"
    with pytest.raises(GradientMismatch, match="array 1"):
        check_vjp_pair(dense, lambda ct, x, w: (ct @ w.T, x.T @ ct / len(x)), X, w)


def test_integer_arrays_of_a_pair_need_no_gradient():
    labels = np.array([0, 2])

    def pick(x, labels):
        return x[np.arange(len(x)), labels]

    def pick_backward(ct, x, labels):
        dx = np.zeros_like(x)
        dx[np.arange(len(x)), labels] = ct
        return dx, None

    assert check_vjp_pair(pick, pick_backward, X, labels).verdict == "right"


@pytest.mark.parametrize("forward, vjp, words", [
    (dense, lambda ct, x, w: ct @ w.T, "1 cotangents for 2 arrays"),
    (lambda x, w: "text", lambda ct, x, w: (ct, ct), "returned str, expected an array"),
    (lambda x, w: (x @ w > 0), lambda ct, x, w: (ct @ w.T, x.T @ ct), "bool"),
])
def test_pairs_that_cannot_be_judged_are_refused(forward, vjp, words):
    with pytest.raises(GradientError, match=words):
        check_vjp_pair(forward, vjp, X, RNG.normal(size=(3, 2)))


def test_a_pair_that_writes_into_its_cotangent_is_found():
    def backward(ct, x):
        ct *= 2 * x
        return ct.copy()

    with pytest.raises(GradientMismatch, match="written to"):
        check_vjp_pair(lambda x: x * x, backward, X)


def test_a_report_shows_itself_in_words_and_in_a_notebook():
    report = check_op("relu")
    assert repr(report) == str(report)
    assert report._repr_html_().startswith("<pre ")
    assert ">relu: right, " in report._repr_html_()
