"""Blocked standardising, products and row sums against the formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest

from tinygrad_cnn.kernels import norm, reduce
from tinygrad_cnn.kernels.parallel import get_num_threads, parallel_ufunc, set_num_threads

# Pixels that divide by many powers of two, by none, and more channels than a line has numbers.
SHAPES = [(8, 16, 16, 16), (5, 33, 31, 7), (4, 5, 5, 3000), (20000, 3)]


def _formulas(x, g, w, b, eps):
    axis = tuple(range(x.ndim - 1))
    centre = x.mean(axis, keepdims=True)
    scale = 1 / np.sqrt(((x - centre) ** 2).mean(axis, keepdims=True) + eps)
    x_hat = (x - centre) * scale
    along = (g * x_hat).mean(axis, keepdims=True)
    return {"batch_norm": x_hat * w + b, "standardize": x_hat,
            "standardize_input": scale * (g - g.mean(axis, keepdims=True) - x_hat * along)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 2e-5), (np.float64, 1e-12)])
def test_standardizing_channels_follows_the_formulas(shape, dtype, tolerance):
    rng = np.random.default_rng(1)
    x, g = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    x += rng.standard_normal(shape[-1]).astype(dtype)
    w, b = (rng.standard_normal(shape[-1]).astype(dtype) for _ in range(2))
    axis = tuple(range(len(shape) - 1))
    assert norm._served(x, axis)
    wanted = _formulas(*(a.astype(np.float64) for a in (x, g, w, b)), 1e-3)
    y, residuals = norm.batch_norm(x, w, b, eps=1e-3)
    found = {"batch_norm": y,
             "standardize": norm.standardize(x, axis=axis, eps=1e-3)[0],
             "standardize_input": norm.standardize_input(g, x, axis=axis, eps=1e-3,
                                                              **residuals)}
    for name, result in found.items():
        assert result.dtype == dtype, name
        np.testing.assert_allclose(result, wanted[name], rtol=tolerance, atol=tolerance,
                                   err_msg=name)


def test_a_large_mean_costs_the_variance_no_digits():
    x = (1000 + np.random.default_rng(2).standard_normal((64, 16, 16, 4))).astype(np.float32)
    _, variance = norm._moments(x)
    exact = x.astype(np.float64).var((0, 1, 2))
    np.testing.assert_allclose(variance.ravel(), exact, rtol=1e-5)


@pytest.mark.parametrize("shapes", [((200, 300), (300, 70)), ((3, 40000), (40000, 50)),
                                    ((2, 5, 6), (6, 4)), ((0, 3), (3, 2)), ((4,), (4,))])
def test_matmul_is_that_of_numpy(shapes):
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal(shape) for shape in shapes)
    np.testing.assert_allclose(reduce.matmul(a, b), a @ b, rtol=1e-11, atol=1e-11)
    if a.ndim == b.ndim == 2:
        np.testing.assert_allclose(reduce.matmul(b.T, a.T), (a @ b).T, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(1, 5), (3, 1), (70001, 9), (4, 100000)])
def test_add_rows_adds_every_row(shape):
    x = np.random.default_rng(4).standard_normal(shape)
    np.testing.assert_allclose(reduce.add_rows(x), x.sum(0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [5, 300001])
@pytest.mark.parametrize("threads", sorted({1, get_num_threads()}))
def test_parallel_ufunc_applies_a_function_to_every_entry(size, threads):
    a, b = np.arange(float(size)), np.full(size, 0.5)
    with set_num_threads(threads):
        np.testing.assert_array_equal(parallel_ufunc(np.multiply, np.empty(size), a, b), a / 2)
        np.testing.assert_array_equal(parallel_ufunc(np.maximum, np.empty(size), a, np.float64(3)),
                                      np.maximum(a, 3))
        reversed_ = parallel_ufunc(np.add, np.empty(size), a[::-1], b)
    np.testing.assert_array_equal(reversed_, a[::-1] + 0.5)
