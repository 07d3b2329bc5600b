"""Clipping: by the common norm, by value, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn.optim import clip_grad_norm_, clip_grad_value_


def with_gradients(*gradients, dtype=np.float32):
    found = []
    for i, g in enumerate(gradients):
        w = tc.Parameter(np.zeros(np.shape(g), dtype), name=f"w{i}")
        w.grad = tc.Tensor(np.asarray(g, dtype))
        found.append(w)
    return found


def test_the_norm_is_taken_over_all_gradients_together():
    a, b = with_gradients([2.0, 4.0], [[4.0]])
    assert clip_grad_norm_([a, b], 3.0) == 6.0                # √(4 + 16 + 16)
    assert a.grad.data.tolist() == [1.0, 2.0]
    assert b.grad.data.tolist() == [[2.0]]
    assert a.grad.dtype == np.float32


def test_a_norm_below_the_limit_changes_nothing():
    a, = with_gradients([3.0, 4.0])
    before = a.grad
    assert clip_grad_norm_(a, 5.0) == 5.0
    assert clip_grad_norm_([a], math.inf) == 5.0
    assert a.grad is before


def test_nobody_writes_into_a_gradient():
    a, = with_gradients([3.0, 4.0])
    array = a.grad.data
    clip_grad_norm_([a], 1.0)
    assert array.tolist() == [3.0, 4.0]
    b, = with_gradients([3.0, 4.0])
    array = b.grad.data
    clip_grad_value_([b], 1.0)
    assert array.tolist() == [3.0, 4.0]


def test_a_parameter_given_twice_counts_once_and_one_without_gradient_not_at_all():
    a, = with_gradients([3.0, 4.0])
    assert clip_grad_norm_([a, tc.Parameter([1.0]), a], 1.0) == 5.0
    assert a.grad.data == pytest.approx([0.6, 0.8])
    assert clip_grad_norm_([tc.Parameter([1.0])], 1.0) == 0.0


@pytest.mark.parametrize("dtype, size", [(np.float32, 1e30), (np.float32, 1e-30),
                                         (np.float64, 1e200), (np.float64, 1e-200)])
def test_the_norm_neither_overflows_nor_vanishes(dtype, size):
    a, b = with_gradients([2 * size, 4 * size], [4 * size], dtype=dtype)
    assert clip_grad_norm_([a, b], 6 * size / 2) == pytest.approx(6 * size)
    assert a.grad.data == pytest.approx(np.array([size, 2 * size]), rel=1e-6)


def test_clip_value_clips_every_entry():
    a, = with_gradients([[-3.0, 0.5, 3.0]])
    assert clip_grad_value_([a, tc.Parameter([1.0])], 1.0) is None
    assert a.grad.data.tolist() == [[-1.0, 0.5, 1.0]]
    assert a.grad.dtype == np.float32


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_is_refused_by_name_and_nothing_is_changed(bad):
    a, b = with_gradients([3.0, 400.0], [[1.0, 2.0], [3.0, bad]])
    before = a.grad
    with pytest.raises(tc.GradientError) as caught:
        clip_grad_norm_([a, b], 1.0)
    assert ("gradient of parameter 1 (w1) (2, 2) holds 1 entries that are NaN or infinite, the "
            "first at (1, 1)") in str(caught.value)
    assert a.grad is before
    assert not math.isfinite(clip_grad_norm_([a, b], 1.0, error_if_nonfinite=False))
    assert a.grad is before


@pytest.mark.parametrize("call, error, message", [
    (lambda: clip_grad_norm_([], 1.0), tc.SettingError, "no parameters were given"),
    (lambda: clip_grad_norm_([1.0], 1.0), tc.DTypeError, "parameter 0 must be a Tensor, got float"),
    (lambda: clip_grad_norm_(with_gradients([1.0]), 0), tc.SettingError, "max_norm must be a"),
    (lambda: clip_grad_norm_(with_gradients([1.0]), math.nan), tc.SettingError, "max_norm"),
    (lambda: clip_grad_value_(with_gradients([1.0]), -1), tc.SettingError, "max_value"),
    (lambda: clip_grad_value_([], 1), tc.SettingError, "clip_grad_value_: no parameters"),
])
def test_what_has_no_meaning_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
