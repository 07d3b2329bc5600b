"""Fast pooling against the loops of the reference, over generated shapes."""

from __future__ import annotations

import numpy as np
import pytest

from tinygrad_cnn import shapes
from tinygrad_cnn.kernels import pool, reference

NONE = ((0, 0), (0, 0))

# (images N H W C, kernel_size, stride, padding)
CASES = {
    "2x2, side by side": ((3, 8, 6, 5), (2, 2), (2, 2), NONE),
    "a border is left": ((2, 7, 9, 3), (2, 2), (2, 2), NONE),
    "overlapping": ((2, 7, 8, 4), (3, 3), (2, 2), NONE),
    "overlapping and padded": ((2, 7, 8, 4), (3, 3), (2, 2), ((1, 1), (1, 1))),
    "uneven padding": ((2, 5, 6, 3), (3, 2), (1, 2), ((2, 0), (0, 1))),
    "gaps between windows": ((2, 9, 9, 2), (2, 3), (4, 5), NONE),
    "one pixel": ((1, 1, 1, 1), (1, 1), (1, 1), NONE),
    "whole image": ((2, 4, 5, 3), (4, 5), (4, 5), NONE),
    "more than 256 places": ((1, 18, 19, 2), (17, 17), (1, 1), NONE),
    "empty batch": ((0, 6, 6, 3), (2, 2), (2, 2), NONE),
}
DTYPES = [np.float32, np.float64]


def _settings(case):
    return {"kernel_size": case[1], "stride": case[2], "padding": case[3]}


def _images(rng, shape, dtype, kind):
    x = rng.standard_normal(shape)
    if kind == "ties":
        x = np.round(x)                                 # many windows hold their maximum twice
    if kind == "negative":
        x = -1 - np.abs(x)                              # a zero of the padding would win
    if kind == "special":
        x.reshape(-1)[::7] = np.nan
        x.reshape(-1)[::5] = -np.inf
        x.reshape(-1)[::11] = np.inf
    if kind == "minus infinity":
        x[...] = -np.inf
    return x.astype(dtype)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("kind", ["plain", "ties", "negative", "special", "minus infinity"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_max_pool2d_agrees_with_the_loops_to_the_last_bit(case, kind, dtype):
    x = _images(np.random.default_rng(1), case[0], dtype, kind)
    y, residuals = pool.max_pool2d(x, **_settings(case))
    wanted, wanted_residuals = reference.max_pool2d(x, **_settings(case))
    np.testing.assert_array_equal(y, wanted)
    found, expected = residuals["argmax_indices"], wanted_residuals["argmax_indices"]
    np.testing.assert_array_equal(found, expected)
    assert y.dtype == dtype and found.dtype == expected.dtype


def test_the_first_pixel_of_a_tie_wins():
    x = np.array([[3.0, 5, 5], [5, 1, 2]]).reshape(1, 2, 3, 1)
    y, residuals = pool.max_pool2d(x, kernel_size=(2, 3), stride=(1, 1), padding=NONE)
    assert y.item() == 5 and residuals["argmax_indices"].item() == 1


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_maxima_are_gathered_and_scattered_as_by_the_loops(case, dtype):
    rng = np.random.default_rng(2)
    x = _images(rng, case[0], dtype, "plain")
    y, residuals = pool.max_pool2d(x, **_settings(case))
    taken = pool.gather_max(x, **residuals, **_settings(case))
    np.testing.assert_array_equal(taken, y)
    ct = rng.standard_normal(y.shape).astype(dtype)
    spread = pool.scatter_max(ct, **residuals, image_size=case[0][1:3], **_settings(case))
    wanted = reference.scatter_max(ct, **residuals, image_size=case[0][1:3], **_settings(case))
    np.testing.assert_allclose(spread, wanted, rtol=1e-6, atol=1e-6)
    assert spread.dtype == dtype and spread.flags.c_contiguous


def test_scatter_max_leaves_losers_at_zero_even_beside_infinity():
    x = np.array([1.0, 2, 3, 4]).reshape(1, 2, 2, 1)
    settings = {"kernel_size": (2, 2), "stride": (2, 2), "padding": NONE}
    _, residuals = pool.max_pool2d(x, **settings)
    spread = pool.scatter_max(np.full((1, 1, 1, 1), np.inf), **residuals, image_size=(2, 2),
                                    **settings)
    np.testing.assert_array_equal(spread.ravel(), [0, 0, 0, np.inf])


def test_scatter_max_works_for_complex_cotangents():
    x = np.arange(16.0).reshape(1, 4, 4, 1)
    settings = {"kernel_size": (2, 2), "stride": (2, 2), "padding": NONE}
    _, residuals = pool.max_pool2d(x, **settings)
    ct = np.array([1j, 2, 3 + 1j, 4]).reshape(1, 2, 2, 1)
    spread = pool.scatter_max(ct, **residuals, image_size=(4, 4), **settings)
    wanted = np.zeros((4, 4), complex)
    wanted[1::2, 1::2] = ct[0, :, :, 0]
    np.testing.assert_array_equal(spread[0, :, :, 0], wanted)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("dtype", [*DTYPES, np.complex128])
def test_avg_pool2d_agrees_with_the_loops(case, count_include_pad, dtype):
    rng = np.random.default_rng(3)
    x = _images(rng, case[0], dtype, "plain")
    settings = _settings(case) | {"count_include_pad": count_include_pad}
    y = pool.avg_pool2d(x, **settings)
    np.testing.assert_allclose(y, reference.avg_pool2d(x, **settings), rtol=1e-5, atol=1e-6)
    ct = rng.standard_normal(y.shape).astype(dtype)
    spread = pool.avg_pool2d_input(ct, image_size=case[0][1:3], **settings)
    wanted = reference.avg_pool2d_input(ct, image_size=case[0][1:3], **settings)
    np.testing.assert_allclose(spread, wanted, rtol=1e-5, atol=1e-6)
    assert y.dtype == spread.dtype == dtype
    assert y.flags.c_contiguous and spread.flags.c_contiguous


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_unfold_and_fold_agree_with_the_loops(case, dtype):
    rng = np.random.default_rng(4)
    x = _images(rng, case[0], dtype, "plain")
    view = pool.unfold(x, fill=-1.5, **_settings(case))
    np.testing.assert_array_equal(view, reference.unfold(x, fill=-1.5, **_settings(case)))
    ct = rng.standard_normal(view.shape).astype(dtype)
    settings = {"image_size": case[0][1:3], "stride": case[2], "padding": case[3]}
    folded = pool.fold(ct, **settings)
    np.testing.assert_allclose(folded, reference.fold(ct, **settings), rtol=1e-4, atol=1e-4)
    assert view.flags.c_contiguous and folded.dtype == dtype


@pytest.mark.parametrize("name", ["2x2, side by side", "overlapping and padded"])
def test_memory_order_does_not_matter_and_inputs_stay_unwritten(name):
    case = CASES[name]
    x = _images(np.random.default_rng(5), case[0], np.float32, "plain")
    reversed_ = np.asfortranarray(x)[:, ::-1].copy(order="F")[:, ::-1]
    reversed_.flags.writeable = False
    wanted, residuals = pool.max_pool2d(x, **_settings(case))
    y, same = pool.max_pool2d(reversed_, **_settings(case))
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(same["argmax_indices"], residuals["argmax_indices"])
    ct = np.asfortranarray(wanted)
    ct.flags.writeable = False
    np.testing.assert_array_equal(
        pool.scatter_max(ct, **residuals, image_size=case[0][1:3], **_settings(case)),
        pool.scatter_max(wanted, **residuals, image_size=case[0][1:3], **_settings(case)))


def test_blocks_of_a_large_batch_meet_without_a_seam():
    x = np.random.default_rng(6).standard_normal((67, 20, 20, 16)).astype(np.float32)
    settings = {"kernel_size": (2, 2), "stride": (2, 2), "padding": NONE}
    assert shapes.max_pool2d(x.shape, **settings) == (67, 10, 10, 16)
    y, residuals = pool.max_pool2d(x, **settings)
    wanted = x.reshape(67, 10, 2, 10, 2, 16).max((2, 4))
    np.testing.assert_array_equal(y, wanted)
    spread = pool.scatter_max(y, **residuals, image_size=(20, 20), **settings)
    np.testing.assert_array_equal(spread, np.where(x == wanted.repeat(2, 1).repeat(2, 2), x, 0))
