"""First values: spread as their formulas say, by seed, in either dtype."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn.nn import init

FILTERS = (3, 3, 20, 40)                                # fan_in 180, fan_out 360; 7,200 entries
WEIGHTS = (150, 60)                                     # fan_in 150, fan_out 60; 9,000 entries
FANS = {FILTERS: (180, 360), WEIGHTS: (150, 60)}


@pytest.mark.parametrize("shape", FANS)
def test_fans_count_inputs_and_outputs(shape):
    assert init.fans(shape) == FANS[shape]


@pytest.mark.parametrize("shape", FANS)
@pytest.mark.parametrize("name, variance", [
    ("he", lambda fan_in, fan_out: 2 / fan_in),
    ("glorot", lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
    ("lecun", lambda fan_in, fan_out: 1 / fan_in)])
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_the_variance_is_the_one_of_the_formula(name, kind, variance, shape):
    w = getattr(init, f"{name}_{kind}")(shape, rng=np.random.default_rng(3), dtype=np.float64)
    expected = math.sqrt(variance(*FANS[shape]))
    assert w.shape == shape
    # The standard deviation of n draws is known to 1 / √(2n) < 0.85 %, the mean to 1 / √n < 1.2 %.
    assert w.std() == pytest.approx(expected, rel=0.03)
    assert abs(w.mean()) < 0.05 * expected
    bound = abs(w).max() / expected
    assert bound <= math.sqrt(3) if kind == "uniform" else bound > 3


def test_a_relu_network_keeps_its_signal_with_he():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 200))
    for _ in range(20):
        x = np.maximum(x @ init.he_normal((200, 200), rng=rng, dtype=np.float64), 0)
    assert 0.3 < np.sqrt((x * x).mean()) < 3            # a factor of 2 less: 20 halvings, 1e-3


@pytest.mark.parametrize("shape", [(2, 2, 3, 5), (6, 3), (3, 6)])
def test_orthogonal_rows_or_columns_have_length_gain(shape):
    w = init.orthogonal(shape, gain=2.0, rng=np.random.default_rng(0), dtype=np.float64)
    matrix = w.reshape(-1, shape[-1])
    short = matrix.T @ matrix if len(matrix) >= shape[-1] else matrix @ matrix.T
    np.testing.assert_allclose(short, 4 * np.eye(len(short)), atol=1e-12)


def test_a_square_orthogonal_matrix_is_the_q_of_what_was_drawn():
    q, r = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    found = init.orthogonal((3, 3), rng=np.random.default_rng(0), dtype=np.float64)
    np.testing.assert_array_equal(found, q * np.sign(np.diagonal(r)))


def test_orthogonal_prefers_no_direction():
    # Without moving the signs of R into Q, the first entry would keep one sign.
    rng = np.random.default_rng(0)
    signs = [np.sign(init.orthogonal((3, 3), rng=rng)[0, 0]) for _ in range(200)]
    assert abs(np.mean(signs)) < 0.25                   # 3.5 standard errors


def test_normal_uniform_zeros_and_ones():
    rng = np.random.default_rng(0)
    w = init.normal((10_000,), mean=5.0, std=2.0, rng=rng)
    assert (w.mean(), w.std()) == (pytest.approx(5, abs=0.08), pytest.approx(2, rel=0.03))
    u = init.uniform((10_000,), low=2.0, high=3.0, rng=rng)
    assert 2 <= u.min() < 2.01
    assert 2.99 < u.max() <= 3
    assert not init.zeros((2, 3)).any()
    assert (init.ones((2, 3)) == 1).all()


@pytest.mark.parametrize("name", [n for n in init.__all__ if n != "fans"])
def test_every_function_has_one_signature_and_follows_the_seed(name):
    draw = getattr(init, name)
    a = draw((4, 6), rng=np.random.default_rng(1))
    assert a.dtype == np.float32
    wide = draw((4, 6), rng=np.random.default_rng(1), dtype=np.float64)
    assert wide.dtype == np.float64
    assert np.array_equal(a, wide.astype(np.float32))
    tc.manual_seed(1)
    b = draw((4, 6))
    tc.manual_seed(1)
    assert np.array_equal(b, draw((4, 6)))


@pytest.mark.parametrize("call, message", [
    (lambda: init.he_normal((3,)), "he_normal: a fan needs a shape of two or more axes"),
    (lambda: init.glorot_uniform((0, 3)), "none empty"),
    (lambda: init.orthogonal((3,)), "orthogonal: a fan needs"),
    (lambda: init.zeros("3"), "zeros: shape must be integers of at least 0, got '3'"),
    (lambda: init.ones((2, -1)), r"shape must be integers of at least 0, got \(2, -1\)"),
    (lambda: init.normal((2,), std=-1), "std must be a finite number of at least 0, got -1"),
    (lambda: init.uniform((2,), low=2, high=1), "high must be a finite number of at least 2"),
    (lambda: init.orthogonal((2, 2), gain=math.nan), "gain must be a finite number"),
    (lambda: init.normal((2,), rng=0), "rng must be a numpy.random.Generator"),
])
def test_what_has_no_meaning_is_refused(call, message):
    with pytest.raises((tc.ShapeError, tc.SettingError), match=message):
        call()
