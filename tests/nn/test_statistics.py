"""Means and variances are computed, never recovered: every norm layer and op against float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import Tensor, nn
from tinygrad_cnn.nn.norm import _Norm

EPS32 = float(np.finfo(np.float32).eps)
CALLS = 300

# (mean, standard deviation) of a channel: constant, far from zero, close to it, and both
KINDS = [(0.0, 0.0), (0.1, 0.0), (1e4 + 0.1, 0.0), (0.0, 1.0), (1e4, 1.0), (-1e4, 1e-2),
         (3.0, 1e-4), (0.0, 1e-6), (1e4, 1e-6)]
LAYERS = list(dict.fromkeys(layer for layer in vars(nn).values()
                            if isinstance(layer, type) and issubclass(layer, _Norm)
                            and layer is not nn.RMSNorm))           # which takes no mean
RUNNING = [layer for layer in LAYERS if "running_var" in layer.minima]

# Some small enough for plain formulas, some large enough for blocks and compiled loops.
SHAPES = [(6, len(KINDS)), (4, 3, len(KINDS)), (3, 4, 5, len(KINDS)), (4000, len(KINDS)),
          (8, 19, 17, len(KINDS))]
COMPILED = [False, True] if tc.get_compiled() else [False]


def channels(shape, rng):
    """float32 numbers whose last axis goes through the kinds."""
    mean, deviation = np.array(KINDS).T
    return (mean + deviation * rng.standard_normal(shape)).astype(np.float32)


def rows(shape, rng):
    """The same with rows of one kind each, for layers that standardize along the last axis."""
    return np.ascontiguousarray(channels((*shape[:-1][::-1], shape[-1]), rng).T)


def made(layer, **settings):
    return layer(1, len(KINDS), **settings) if layer is nn.GroupNorm else layer(**settings)


def parts(layer, array):
    """The array and the axes over which the layer standardizes it."""
    if layer is nn.GroupNorm:
        return array.reshape(len(array), -1), 1
    return array, (-1 if layer is nn.LayerNorm else (1, 2) if layer is nn.InstanceNorm2D else
                   tuple(range(array.ndim - 1)))


def takes(layer, shape):
    try:
        made(layer)(np.ones(shape, np.float32))
    except tc.ShapeError:
        return False
    return True


CALLED = [(layer, shape) for layer, shape in itertools.product(LAYERS, SHAPES)
          if takes(layer, shape)]


def standardized(x, ct, axis, eps):
    """x̂ and its cotangent, by the formulas in float64."""
    x, ct = x.astype(np.float64), ct.astype(np.float64)
    r = 1 / np.sqrt(x.var(axis, keepdims=True) + eps)
    x_hat = (x - x.mean(axis, keepdims=True)) * r
    along = (ct * x_hat).mean(axis, keepdims=True)
    return x_hat, r * (ct - ct.mean(axis, keepdims=True) - x_hat * along)


def close(found, exact, *, ulps, axis):
    """Whether each entry is within some units of rounding of the largest of its channel or row."""
    largest = np.abs(exact).max(axis, keepdims=True)
    return (np.abs(found - exact) <= ulps * EPS32 * largest).all()


def test_every_kind_of_norm_is_tried():
    assert {layer for layer, _ in CALLED} == set(LAYERS)
    assert {nn.BatchNorm1D, nn.BatchNorm2D} <= set(RUNNING)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("eps", [1e-5, 3e-5, 1e-3, 1.0, 10.0])
@pytest.mark.parametrize("layer, shape", CALLED)
def test_results_and_gradients_keep_the_digits_of_float32(layer, shape, eps, compiled):
    rng = np.random.default_rng(1)
    data = rows(shape, rng) if layer is nn.LayerNorm else channels(shape, rng)
    x = Tensor(data, requires_grad=True)
    ct = rng.standard_normal(data.shape).astype(np.float32)
    with tc.set_compiled(compiled):
        y = made(layer, eps=eps)(x)
        y.backward(ct)
    (data, axis), (ct, _) = parts(layer, data), parts(layer, ct)
    exact, gradient = standardized(data, ct, axis, eps)
    assert close(y.data.reshape(data.shape), exact, ulps=8, axis=axis)
    assert close(x.grad.data.reshape(data.shape), gradient, ulps=32, axis=axis)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
@pytest.mark.parametrize("eps", [1e-5, 3e-5, 1e-3, 1.0, 10.0])
@pytest.mark.parametrize("layer, shape", [(a, b) for a, b in CALLED if a in RUNNING])
def test_running_statistics_are_those_of_float64(layer, shape, eps, momentum, compiled):
    rng = np.random.default_rng(2)
    norm = layer(eps=eps, momentum=momentum)
    mean, var, largest = 0.0, 1.0, 0.0
    batches = [channels(shape, rng) for _ in range(3)]
    axis = tuple(range(len(shape) - 1))
    moments = [(x.mean(axis), x.var(axis, ddof=1)) for x in (b.astype(np.float64) for b in batches)]
    calls = CALLS if np.prod(shape) < 1000 else 30
    with tc.set_compiled(compiled), tc.no_grad():
        for i in range(calls):
            norm(batches[i % 3])
            of_batch, spread = moments[i % 3]
            share = 1 / (i + 1) if momentum is None else momentum
            mean, var = mean + share * (of_batch - mean), var + share * (spread - var)
            largest = np.maximum(largest, np.abs(of_batch))
        # Each call rounds twice: the share of the old value, and the sum.
        assert (np.abs(norm.running_mean - mean) <= 2 * calls * EPS32 * largest).all()
        assert (np.abs(norm.running_var - var) <= 2 * calls * EPS32 * var).all()
        y = norm.eval()(batches[0]).data
    scale = 1 / np.sqrt(norm.running_var.astype(np.float64) + eps)
    exact = (batches[0] - norm.running_mean.astype(np.float64)) * scale
    assert close(y, exact, ulps=4, axis=axis)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
@pytest.mark.parametrize("layer", RUNNING)
def test_a_dead_channel_keeps_its_variance_at_zero_or_above(layer, momentum, compiled):
    shape = next(shape for known, shape in CALLED if known is layer)
    norm, x = layer(momentum=momentum), np.zeros(shape, np.float32)
    with tc.set_compiled(compiled):
        for _ in range(CALLS):
            norm(x)
        assert (norm.running_var >= 0).all()
        assert not norm.eval()(x).data.any()


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("shape", SHAPES)
def test_var_and_standardize_keep_the_digits_of_float32(shape, compiled):
    rng = np.random.default_rng(3)
    for make, axis in ((channels, tuple(range(len(shape) - 1))), (rows, len(shape) - 1)):
        data = make(shape, rng)
        ct = rng.standard_normal(data.shape).astype(np.float32)
        exact, gradient = standardized(data, ct, axis, 1e-5)
        with tc.set_compiled(compiled):
            x = Tensor(data, requires_grad=True)
            y = tc.standardize(x, axis)
            y.backward(ct)
            assert close(y.data, exact, ulps=8, axis=axis)
            assert close(x.grad.data, gradient, ulps=32, axis=axis)
            x = Tensor(data, requires_grad=True)
            variance = tc.var(x, axis=axis)
            variance.sum().backward()
        wide = data.astype(np.float64)
        np.testing.assert_allclose(variance.data, wide.var(axis), rtol=8 * EPS32)
        off = wide - wide.mean(axis, keepdims=True)
        assert close(x.grad.data * (data.size / variance.size / 2), off, ulps=8, axis=axis)


@pytest.mark.parametrize("value", [-1e-12, -1.0, np.nan])
@pytest.mark.parametrize("layer", RUNNING)
def test_a_variance_that_cannot_be_is_not_loaded(layer, value):
    model = nn.Sequential(layer(3))
    before = model.state_dict()
    damaged = before | {"0.running_var": np.array([1, value, 2], np.float32),
                        "0.weight": np.full(3, 7, np.float32)}
    for strict in (True, False):
        with pytest.raises(tc.CheckpointError, match=r"out of range: 0\.running_var must be at "
                                                     r"least 0, its least entry is (-|nan)"):
            model.load_state_dict(damaged, strict=strict)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("layer", RUNNING)
def test_a_negative_number_of_batches_is_not_loaded(layer):
    model = layer(3)
    damaged = model.state_dict() | {"num_batches_tracked": np.array(-1)}
    with pytest.raises(tc.CheckpointError, match="num_batches_tracked must be at least 0"):
        model.load_state_dict(damaged)
