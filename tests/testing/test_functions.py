"""Functions of any scale, layout, dtype and framework: what is right, wrong, and not measured."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
import types
import warnings

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import GradientError, GradientMismatch, MissingExtraError, Sample, nn
from tinygrad_cnn.core.op import make_op
from tinygrad_cnn.testing import (
    check,
    check_gradients,
    check_jax,
    check_op,
    check_torch,
    check_vjp_pair,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4))


# ---- layouts and scales

@pytest.mark.parametrize("x", [
    X.T, np.asfortranarray(X), X[::-1], X[:, ::-2], np.broadcast_to(X[0], (3, 4)),
    X.reshape(1, 3, 4, 1).transpose(0, 2, 1, 3)], ids=lambda x: f"{x.shape} {x.strides}")
def test_inputs_may_lie_in_memory_as_they_like(x):
    assert check_gradients(lambda x: (x * x).sum(), x).verdict == "right"
    assert check_vjp_pair(lambda x: x ** 3, lambda ct, x: ct * 3 * x * x, x).verdict == "right"


@pytest.mark.parametrize("scale", 10.0 ** np.arange(-12, 31, 6))
@pytest.mark.parametrize("forward, vjp", [
    (lambda x: x * x, lambda ct, x: 2 * ct * x), (np.abs, lambda ct, x: ct * np.sign(x)),
    (lambda x: np.maximum(x, 0), lambda ct, x: ct * (x > 0)),
    (lambda x: np.log(x * x), lambda ct, x: 2 * ct / x)],
    ids=["square", "abs", "relu", "log"])
def test_functions_of_any_scale_are_measured(forward, vjp, scale):
    x = X[0] * scale
    assert check_vjp_pair(forward, vjp, x).verdict == "right"
    with pytest.raises(GradientMismatch):
        check_vjp_pair(forward, lambda ct, x: vjp(ct, x) * (1 + 1e-5), x)


# ---- ties, bounds, what is not measured

def clipped(x):
    return np.clip(x, -1, 1)


def test_one_bound_in_the_input_does_not_hide_the_other_entries():
    x = np.array([1.0, 0.5, 0.3, -0.2])
    right = check_vjp_pair(clipped, lambda ct, x: ct * (np.abs(x) <= 1), x)
    assert right.verdict == "not measured"
    assert right.unmeasured == {"array 0": ("not differentiable here: array 0 at (0,)",)}
    with pytest.raises(GradientMismatch):
        check_vjp_pair(clipped, lambda ct, x: ct * (np.abs(x) <= 1) * np.array([1, 3, 1, 1]), x)


@pytest.mark.parametrize("rule, right", [
    (lambda ct, x: ct * (x == x.max()) / 2, True), (lambda ct, x: ct * (x == x[0]) / 2, True),
    (lambda ct, x: ct * (np.arange(3) == 0), True), (lambda ct, x: ct * (x == x.max()), False),
    (lambda ct, x: 0 * x, False), (lambda ct, x: -5 * ct * (x == x.max()), False)])
def test_entries_that_tie_share_the_slope_that_they_have_together(rule, right):
    if right:
        assert check_vjp_pair(np.max, rule, np.array([3.0, 3, 1])).verdict == "not measured"
    else:
        with pytest.raises(GradientMismatch, match="ties"):
            check_vjp_pair(np.max, rule, np.array([3.0, 3, 1]))


def test_a_gradient_that_is_not_finite_is_named_with_its_place():
    report = check_gradients(lambda x: tc.sqrt(x).sum(), np.array([0.0, 1.0]))
    assert report.verdict == "not measured"
    assert "x0 at (0,)" in report.notes[0]
    with pytest.raises(GradientMismatch, match=r"the gradient is nan at \(0,\)"):
        check_gradients(lambda x: tc.sqrt((x * x).sum()), np.zeros(2))


def test_a_dropped_imaginary_part_is_seen_in_every_entry():
    def keeps_dtype(x):
        return np.asarray(np.abs(x).mean(), x.dtype)

    for seed in range(12):
        x = np.random.default_rng(seed).normal(size=20)
        assert check_vjp_pair(keeps_dtype, lambda ct, x: ct * np.sign(x) / x.size, x,
                              seed=seed).verdict == "right"


# ---- models

@pytest.mark.parametrize("model, shape", [
    (nn.Conv2D(3, 4, 3), (2, 5, 5, 3)), (nn.Linear(3, 2), (4, 3)), (nn.BatchNorm1D(3), (4, 3)),
    (nn.Sequential(nn.Linear(None, 2), nn.ReLU()), (4, 3)), (nn.LayerNorm(3), (4, 3))],
    ids=lambda m: type(m).__name__)
def test_models_are_tested_in_their_default_dtype_and_left_alone(model, shape):
    x = RNG.normal(size=shape)
    model(x.astype(np.float32))                     # a lazy layer has its parameters now
    before = {name: array.copy() for name, array in model.state_dict().items()}
    assert check_gradients(model, x).verdict == "right"
    for name, array in model.state_dict().items():
        assert array.dtype == before[name].dtype
        np.testing.assert_array_equal(array, before[name])
    model(x.astype(np.float32))


def test_constants_of_float32_that_a_function_closes_over_take_part():
    w = tc.Tensor(np.ones(4, np.float32))
    assert check_gradients(lambda x: (x * w).sum(), X).verdict == "right"
    assert w.dtype == np.float32


# ---- pairs that cache, several results

class Layer:
    def forward(self, x):
        self.x = x
        return x ** 3

    def backward(self, ct, x):
        return ct * 3 * self.x ** 2


def test_a_layer_may_keep_what_its_backward_pass_needs():
    layer = Layer()
    assert check_vjp_pair(layer.forward, layer.backward, X).verdict == "right"


def test_results_and_arguments_may_be_tuples_lists_and_dictionaries():
    assert check_gradients(lambda x: (x * x, {"sum": x.sum()}), X).verdict == "right"
    assert check_gradients(lambda p: p["a"] * p["b"], {"a": X, "b": X + 1}).verdict == "right"
    assert check_vjp_pair(lambda x: (x * x, {"sum": x.sum()}),
                          lambda ct, x: 2 * ct[0] * x + ct[1]["sum"], X).verdict == "right"
    assert check_vjp_pair(lambda xs: xs[0] * xs[1], lambda ct, xs: [ct * xs[1], ct * xs[0]],
                          [X, X + 1]).verdict == "right"
    with pytest.raises(GradientMismatch, match=r"array 0\[1\]"):
        check_vjp_pair(lambda xs: xs[0] * xs[1], lambda ct, xs: [ct * xs[1], ct], [X, X + 1])


@pytest.mark.parametrize("value, words", [
    (X + 1j, "is complex .*test its real and imaginary part"), ([[1.0], [1.0, 2.0]], "is list")])
def test_values_that_are_no_floats_are_refused_by_name(value, words):
    with pytest.raises(GradientError, match=words):
        check_vjp_pair(lambda x: x, lambda ct, x: ct, value)


# ---- second order

def test_the_second_order_is_tested_in_the_cotangent_too():
    @tc.custom_op(shape=lambda x: x, saved=("x",), vjp={"x": lambda ct, out, x: (
        tc.Tensor(ct.data) if isinstance(ct, tc.Tensor) else ct) * x * x * 3.0},
        samples=lambda rng: [Sample("row", (rng.normal(size=3),))])
    def detaches_the_cotangent(x):
        return x * x * x

    assert check_gradients(detaches_the_cotangent, X).verdict == "right"
    with pytest.raises(GradientMismatch, match="ct"):
        check_gradients(detaches_the_cotangent, X, order=2)


# ---- size

def squares(shape):
    return make_op(name="squares", shape=lambda x: x, kernels={"array": lambda x: x * x},
                   vjp={"x": lambda ct, out, x: ct * 2.0 * x},
                   samples=lambda rng: [Sample("large", (rng.normal(size=shape),))])


def test_a_large_sample_is_tested_along_directions_and_takes_little_memory():
    check_op(squares((3, 3)))
    tracemalloc.start()
    try:
        report = check_op(squares((90, 90)))
        assert report.verdict == "right"
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    wrong = make_op(name="squares", shape=lambda x: x, kernels={"array": lambda x: x * x},
                    vjp={"x": lambda ct, out, x: ct * 2.0 * x * (1 + 1e-5 * (
                        np.arange(x.size) == 4000).reshape(x.shape)).astype(x.dtype)},
                    samples=lambda rng: [Sample("large", (rng.normal(size=(90, 90)),))])
    with pytest.raises(GradientMismatch, match="along a random direction"):
        check_op(wrong, order=1, derived=0)


def test_derived_calls_can_be_switched_off():
    op = make_op(name="closes_over_a_shape", shape=lambda x: (), kernels={
        "array": lambda x: np.asarray((x * np.ones((2, 3), x.dtype)).sum())}, vjp={
            "x": lambda ct, out, x: ct * np.ones((2, 3), x.dtype)},
        samples=lambda rng: [Sample("fixed", (rng.normal(size=(2, 3)),))])
    assert check_op(op, order=1, derived=0).verdict == "right"
    with pytest.raises(tc.SettingError, match="derived must be at least 0"):
        check_op(op, derived=-1)


# ---- float32 and approximate code

def single(x):
    return np.tanh(x.astype(np.float32))


def single_vjp(ct, x):
    return ct * (1 - single(x) ** 2)


def test_code_in_float32_is_right_where_that_is_said():
    assert check_vjp_pair(single, single_vjp, X, dtype=np.float32).verdict == "right"
    with pytest.raises(GradientMismatch):
        check_vjp_pair(single, lambda ct, x: single_vjp(ct, x) * np.float32(1.1), X,
                       dtype=np.float32)
    report = check_vjp_pair(single, single_vjp, X)
    assert report.verdict == "not measured"
    assert "say dtype=np.float32" in report.notes[0]


def approximate(x):
    return 0.5 * (1.5 + x / 1.5)                    # one step of Newton towards √x


def root_vjp(ct, x):
    return ct / (2 * np.sqrt(x))


def test_an_approximation_is_right_to_what_was_asked():
    x = np.array([2.1, 2.3])
    with pytest.raises(GradientMismatch):
        check_vjp_pair(approximate, root_vjp, x)
    assert check_vjp_pair(approximate, root_vjp, x, rtol=0.1).verdict == "right to 0.1, as asked"
    with pytest.raises(GradientMismatch):
        check_vjp_pair(approximate, lambda ct, x: 1.3 * root_vjp(ct, x), x, rtol=0.1)


@pytest.mark.parametrize("settings, words", [
    ({"rtol": 0.0}, "rtol must be between 0 and 1"), ({"rtol": 2}, "rtol must be between 0 and 1"),
    ({"dtype": np.float16}, "dtype must be float64 or float32")])
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(tc.SettingError, match=words):
        check_vjp_pair(single, single_vjp, X, **settings)


# ---- programs that show a mistake

FACTOR = 3.0


def scaled(x):
    return x * FACTOR


def test_the_program_of_a_report_fails_as_pasted():
    convolve = pytest.importorskip("scipy.signal").convolve
    offset = np.array([1.0, 2.0, 0.5, 4.0])
    compiled = pytest.importorskip("numba").njit(lambda x: x * 3.0)
    for call in (lambda: check_vjp_pair(scaled, lambda ct, x: ct, X),
                 lambda: check_vjp_pair(lambda x: compiled(x) * FACTOR, lambda ct, x: ct, X),
                 lambda: check_vjp_pair(lambda x: convolve(x, [FACTOR]), lambda ct, x: (
                     lambda y: 2 * y)(ct), X.reshape(-1)),
                 lambda: check_gradients(lambda x: (scaled(x) * x.detach() * offset).sum(), X)):
        with pytest.raises(GradientMismatch) as caught:
            call()
        program = str(caught.value).partition("To see it alone:\n")[2]
        program = "\n".join(line[2:] for line in program.splitlines())
        assert "FACTOR = 3.0" in program
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                              check=False, cwd=check.__file__.partition("/tinygrad_cnn/")[0])
        assert done.returncode == 1
        assert "GradientMismatch" in done.stderr


# ---- other frameworks

@pytest.fixture
def warnings_of_others():
    """PyTorch adds to the filters of warnings on first use."""
    with warnings.catch_warnings():
        yield


def test_functions_of_pytorch_are_tested_and_their_mistakes_found(warnings_of_others):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x ** 3

        @staticmethod
        def backward(ctx, ct):
            x, = ctx.saved_tensors
            return 3 * ct * x * x

    class InPlace(Cube):
        @staticmethod
        def backward(ctx, ct):
            x, = ctx.saved_tensors
            return ct.mul_(3 * x * x).clone()

    assert check_torch(Cube.apply, torch.tensor(X)).verdict == "right"
    assert check_torch(lambda a, b: {"product": a @ b, "sum": a.sum()}, X, X.T).verdict == "right"
    with pytest.raises(GradientMismatch, match=r"InPlace.*written to"):
        check_torch(InPlace.apply, torch.tensor(X))
    with pytest.raises(GradientError, match="depends on no input"):
        check_torch(lambda x: x.detach() * 2, X)


def test_without_jax_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(MissingExtraError, match="pip install jax"):
        check_jax(lambda x: x * x, X)


def test_functions_of_jax_are_tested(warnings_of_others):
    jax = pytest.importorskip("jax", reason="JAX is not installed")

    @jax.custom_vjp
    def wrong(x):
        return x ** 3

    wrong.defvjp(lambda x: (x ** 3, x), lambda x, ct: (ct * x * x,))
    assert check_jax(lambda x: jax.numpy.tanh(x) @ x.T, X).verdict == "right"
    with pytest.raises(GradientMismatch, match="constant ratio"):
        check_jax(wrong, X)


def test_a_lambda_is_named_by_its_place():
    with pytest.raises(GradientMismatch, match=r"lambda at test_functions.py:\d+ array 0"):
        check_vjp_pair(lambda x: x * x, lambda ct, x: ct * x, X)
    holder = types.SimpleNamespace(report=check_vjp_pair(scaled, lambda ct, x: 3 * ct, X))
    assert str(holder.report).startswith("scaled: right, ")


def test_gradients_of_a_function_in_float64_are_not_asked_for_in_float32():
    constant = np.full(3, 0.3)                  # a float64 array, which no float32 tensor meets
    assert check_gradients(lambda x: (x * constant).sum(), np.ones(3)).verdict == "right"
