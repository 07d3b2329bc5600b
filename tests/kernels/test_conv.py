"""Every fast convolution against the loops of the reference, over generated shapes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.kernels.conftest import CASES, PLAIN, SAME, arrays, calls, scattered, within_the_bound
from tinygrad_cnn.kernels import conv, reference
from tinygrad_cnn.kernels import winograd as filtering
from tinygrad_cnn.kernels.parallel import get_num_threads, set_num_threads

blas, winograd = conv.BACKENDS["blas"], conv.BACKENDS["winograd"]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_blas_agrees_with_the_loops(case, dtype):
    x, w, b, y = arrays(np.random.default_rng(1), case, dtype)
    wanted = dict(calls(reference, x, w, b, y, case[2]))
    for name, result in calls(blas, x, w, b, y, case[2]):
        assert result.dtype == dtype and result.flags.c_contiguous, name
        np.testing.assert_allclose(result, wanted[name], rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_blas_keeps_the_digits_of_float32(case):
    x, w, b, y = arrays(np.random.default_rng(2), case, np.float32)
    exact = dict(calls(reference, *(a.astype(np.float64) for a in (x, w, b, y)), case[2]))
    sizes = dict(calls(reference, *(np.abs(a).astype(np.float64) for a in (x, w, b, y)), case[2]))
    for name, result in calls(blas, x, w, b, y, case[2]):
        assert result.dtype == np.float32 and result.flags.c_contiguous, name
        assert within_the_bound(result, name, exact[name], sizes[name], x, w, y), name


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_winograd_agrees_with_the_loops_or_declines(case):
    x, w, b, y = arrays(np.random.default_rng(3), case, np.float32)
    exact = dict(calls(reference, *(a.astype(np.float64) for a in (x, w, b, y)), case[2]))
    for name, result in calls(winograd, x, w, b, y, case[2]):
        if result is NotImplemented:
            continue
        assert result.dtype == np.float32 and result.flags.c_contiguous, name
        largest = np.abs(exact[name]).max(initial=0)
        np.testing.assert_allclose(result, exact[name], rtol=0, atol=2e-5 * largest, err_msg=name)


def test_winograd_takes_3x3_filters_at_stride_1_and_leaves_the_rest():
    rng = np.random.default_rng(4)
    taken = {}
    for name, case in CASES.items():
        x, w, b, _ = arrays(rng, case, np.float32)
        taken[name] = winograd.conv2d(x, w, b, **case[2]) is not NotImplemented
    for name in ("odd sides", "many channels", "few channels", "long filter", "empty batch"):
        assert taken[name], name
    for name in ("1x1 filter", "stride 2, padded", "dilated", "groups", "filter of one row"):
        assert not taken[name], name


def test_winograd_leaves_float64_to_the_direct_kernels():
    x, w, b, y = arrays(np.random.default_rng(5), CASES["odd sides"], np.float64)
    for name, result in calls(winograd, x, w, b, y, SAME):
        assert result is NotImplemented, name


# Images that end inside a strip or a tile, for filters of every height that is served.
@pytest.mark.parametrize("rows, columns", [
    (1, 1), (2, 7), (4, 4), (5, 9), (8, 3), (11, 13), (17, 6)])
@pytest.mark.parametrize("kernel_size", [(2, 2), (3, 3), (3, 1), (5, 5), (4, 2), (7, 3)])
def test_winograd_at_every_remainder(rows, columns, kernel_size):
    rng = np.random.default_rng(rows * 100 + columns)
    (kh, kw), c, o = kernel_size, 3, 4
    settings = PLAIN | {"padding": ((kh - 1, kh // 2), (kw // 2, kw - 1))}
    case = ((2, rows, columns, c), (kh, kw, c, o), settings)
    x, w, b, y = arrays(rng, case, np.float32)
    exact = dict(calls(blas, *(a.astype(np.float64) for a in (x, w, b, y)), settings))
    for name, result in calls(winograd, x, w, b, y, settings):
        if result is not NotImplemented:
            largest = np.abs(exact[name]).max()
            np.testing.assert_allclose(result, exact[name], rtol=0, atol=2e-5 * largest)


@pytest.mark.parametrize("size", [(2, 2), (3, 5), (4, 4), (7, 6), (9, 8), (12, 16)])
@pytest.mark.parametrize("kernel_size", [(3, 3), (2, 4), (5, 5)])
def test_tiles_in_both_directions_at_every_remainder(size, kernel_size, monkeypatch):
    rng = np.random.default_rng(6)
    (kh, kw), (c, o) = kernel_size, (5, 6)
    settings = PLAIN | {"padding": ((kh - 1, 1), (1, kw - 1))}
    x, w, b, y = arrays(rng, ((3, *size, c), (kh, kw, c, o), settings), np.float32)
    exact = dict(calls(blas, *(a.astype(np.float64) for a in (x, w, b, y)), settings))
    monkeypatch.setattr(filtering, "_cut", filtering._Tiles)
    result = winograd.conv2d(x, w, b, **settings)
    largest = np.abs(exact["conv2d"]).max()
    np.testing.assert_allclose(result, exact["conv2d"], rtol=0, atol=2e-5 * largest)
    result = winograd.conv2d_weight(x, y, kernel_size=kernel_size, **settings)
    largest = np.abs(exact["conv2d_weight"]).max()
    np.testing.assert_allclose(result, exact["conv2d_weight"], rtol=0, atol=2e-5 * largest)


# The shapes whose speed is measured, and a larger one: the deepest sums and the largest strips.
@pytest.mark.parametrize("n, size, c, k, o", [
    (2, 28, 1, 5, 8), (4, 14, 8, 5, 16), (2, 32, 3, 3, 32), (2, 32, 32, 3, 32), (2, 16, 64, 3, 64),
    (1, 32, 128, 3, 128), (1, 16, 256, 3, 256),
])
def test_float32_stays_within_5e_5_of_the_largest_result(n, size, c, k, o):
    settings = PLAIN | {"padding": ((k // 2, k // 2), (k // 2, k // 2))}
    case = ((n, size, size, c), (k, k, c, o), settings)
    x, w, b, y = arrays(np.random.default_rng(7), case, np.float32)
    x = np.maximum(x, 0)                                    # as after a relu: a mean above zero
    exact = dict(calls(blas, *(a.astype(np.float64) for a in (x, w, b, y)), settings))
    for kernels in (blas, winograd):
        for name, result in calls(kernels, x, w, b, y, settings):
            error = np.abs(result - exact[name]).max() / np.abs(exact[name]).max()
            assert error < 5e-5, f"{name}: {error:.1e}"


@pytest.mark.parametrize("kernels", [blas, winograd], ids=["blas", "winograd"])
@pytest.mark.parametrize("name", ["odd sides", "1x1 filter", "few channels", "groups", "depthwise",
                                  "stride 2, padded", "many channels"])
def test_memory_order_does_not_matter_and_inputs_stay_unwritten(kernels, name):
    x, w, b, y = arrays(np.random.default_rng(8), CASES[name], np.float32)
    wanted = dict(calls(kernels, x, w, b, y, CASES[name][2]))
    views = [scattered(a) for a in (x, w, y)]
    for view in (*views, b):
        view.flags.writeable = False
    for face, result in calls(kernels, views[0], views[1], b, views[2], CASES[name][2]):
        if result is not NotImplemented:
            # Sums may be taken in another order.
            np.testing.assert_allclose(result, wanted[face], rtol=1e-5, atol=1e-5, err_msg=face)
            assert result.flags.c_contiguous


@pytest.mark.parametrize("kernels", [blas, winograd], ids=["blas", "winograd"])
@pytest.mark.parametrize("threads", sorted({1, get_num_threads()}))
def test_results_repeat_bit_by_bit(kernels, threads):
    settings = SAME
    x, w, b, y = arrays(np.random.default_rng(9), ((13, 12, 12, 9), (3, 3, 9, 17), settings),
                         np.float32)
    with set_num_threads(threads):
        first, *others = [list(calls(kernels, x, w, b, y, settings)) for _ in range(4)]
    for other, (a, b_) in itertools.product(others, [(0, 0), (1, 1), (2, 2), (3, 3)]):
        np.testing.assert_array_equal(first[a][1], other[b_][1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_reaches_every_result_that_sees_it(value):
    x = np.ones((2, 8, 8, 3), np.float32)
    w = np.random.default_rng(10).standard_normal((3, 3, 3, 4)).astype(np.float32)
    x[0, 4, 4, 1] = value
    for kernels in (blas, winograd):
        with np.errstate(invalid="ignore"):
            y = kernels.conv2d(x, w, **SAME)
        assert not np.isfinite(y[0, 3:6, 3:6]).any()
        assert np.isfinite(y[1]).all(), "another image of the batch was touched"
    assert np.isfinite(blas.conv2d(x, w, **SAME)[0, :3]).all()


def test_a_large_batch_does_not_take_memory_for_all_its_patches():
    import tracemalloc
    x = np.zeros((64, 32, 32, 8), np.float32)
    w = np.zeros((5, 5, 8, 8), np.float32)
    settings = PLAIN | {"padding": ((2, 2), (2, 2))}
    for kernels in (blas, winograd):
        kernels.conv2d(x, w, **settings)                    # work space is kept from here on
        tracemalloc.start()
        kernels.conv2d(x, w, **settings)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2 * x.nbytes, f"{peak} bytes at the peak"
