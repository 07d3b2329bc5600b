"""Every compiled kernel against the loops of the reference, and against NumPy's kernels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.kernels.conftest import (
    CASES,
    PLAIN,
    SAME,
    arrays,
    calls,
    scattered,
    within_the_bound,
)
from tinygrad_cnn.kernels import conv, elementwise, norm, pool, reduce, reference
from tinygrad_cnn.kernels.compiled import load, set_compiled
from tinygrad_cnn.kernels.compiled import module as passes_module
from tinygrad_cnn.kernels.parallel import get_num_threads, set_num_threads

pytest.importorskip("numba", reason="the extra fast is not installed: there is nothing to compile")
blas, compiled = conv.BACKENDS["blas"], conv.BACKENDS["compiled"]
jit = load("conv")                          # where a test looks at the parts of a range

# Each shape of tile is compiled, for half a second to two: the cases share what they can.
WIDTHS = {f"{width} across": ((2, 6, width, 3), (3, 3, 3, 10), SAME)
          for width in (1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 28)}
CHANNELS = {f"{o} channels from {c}": ((2, 6, 6, c), (3, 3, c, o), SAME)
            for c, o in [(1, 1), (3, 5), (5, 8), (8, 10), (10, 17), (17, 33), (33, 48), (48, 3)]}
EDGES = CHANNELS | WIDTHS | {
    f"{rows} down": ((2, rows, 6, 3), (3, 3, 3, 10), SAME) for rows in (1, 2, 3, 13)
} | {
    "fewer rows than threads": ((1, 1, 6, 5), (1, 3, 5, 10), PLAIN),
    "5x5 filters": ((2, 9, 6, 5), (5, 5, 5, 10), PLAIN | {"padding": ((2, 2), (2, 2))}),
    "more padding than filter, strided": (
        (2, 5, 4, 5), (2, 3, 5, 10), PLAIN | {"padding": ((3, 4), (5, 3)), "stride": (2, 3)}),
    "stride beyond the filter": ((2, 9, 9, 5), (2, 2, 5, 10), PLAIN | {"stride": (4, 3)}),
    "dilated down": ((2, 9, 6, 5), (3, 1, 5, 10), PLAIN | {"dilation": (3, 1)}),
    "one row of taps, dilated in name": ((2, 5, 6, 5), (3, 1, 5, 10), PLAIN | {"dilation": (1, 4)}),
}
ALL = CASES | EDGES
SERVED = {name: case for name, case in ALL.items()
          if case[0][0] and case[2]["groups"] == 1
          and (case[2]["dilation"][1] == 1 or case[1][1] == 1)}

# Every width comes in one dtype or the other, and half of the channels in float32 alone: both are
# made of the same tiles.
DOUBLES, FLOATS = ({name: case for name, case in SERVED.items() if name not in left}
                   for left in (list(WIDTHS)[1::2] + list(CHANNELS)[::2], list(WIDTHS)[::2]))


def _wanted(x, w, b, y, settings, how=lambda a: a.astype(np.float64)):
    return dict(calls(reference, *(how(a) for a in (x, w, b, y)), settings))


def _strips(case):
    """Whether float32 may go through Winograd's filtering."""
    return case[2]["stride"] == case[2]["dilation"] == (1, 1) and 2 <= case[1][0] <= 5


def _agree(name, result, exact, sizes, x, w, y, strips):
    if strips and np.abs(result - exact).max() <= 2e-5 * np.abs(exact).max():
        return True
    return within_the_bound(result, name, exact, sizes, x, w, y)


@pytest.mark.parametrize("case", DOUBLES.values(), ids=DOUBLES)
def test_float64_agrees_with_the_loops(case):
    x, w, b, y = arrays(np.random.default_rng(1), case, np.float64)
    wanted = _wanted(x, w, b, y, case[2])
    for name, result in calls(compiled, x, w, b, y, case[2]):
        assert result.dtype == np.float64 and result.flags.c_contiguous, name
        np.testing.assert_allclose(result, wanted[name], rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("case", FLOATS.values(), ids=FLOATS)
def test_float32_keeps_its_digits_with_any_number_of_threads(case):
    x, w, b, y = arrays(np.random.default_rng(2), case, np.float32)
    exact = _wanted(x, w, b, y, case[2])
    sizes = _wanted(x, w, b, y, case[2], lambda a: np.abs(a).astype(np.float64))
    for threads in sorted({1, get_num_threads()}):
        with set_num_threads(threads):
            found = dict(calls(compiled, x, w, b, y, case[2]))
        for name, result in found.items():
            assert result.dtype == np.float32 and result.flags.c_contiguous, name
            assert _agree(name, result, exact[name], sizes[name], x, w, y, _strips(case)), name


# Images of several bands, and strips of several groups: too large for the loops of the reference.
@pytest.mark.parametrize("case", [((4, 65, 28, 3), (3, 3, 3, 10), SAME),
                                  ((1, 900, 28, 3), (3, 3, 3, 10), SAME | {"stride": (2, 1)})],
                         ids=["groups of strips", "bands"])
def test_large_images_meet_without_a_seam(case):
    x, w, b, y = arrays(np.random.default_rng(20), case, np.float32)
    exact = dict(calls(blas, *(a.astype(np.float64) for a in (x, w, b, y)), case[2]))
    for name, result in calls(compiled, x, w, b, y, case[2]):
        error = np.abs(result - exact[name]).max() / np.abs(exact[name]).max()
        assert error < 2e-5, f"{name}: {error:.1e}"


@pytest.mark.parametrize("name", [name for name in ALL if name not in SERVED])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_groups_dilation_across_and_empty_batches_are_declined(name, dtype):
    x, w, b, y = arrays(np.random.default_rng(3), ALL[name], dtype)
    for face, result in calls(compiled, x, w, b, y, ALL[name][2]):
        if (face == "conv2d_input" and name == "stride and dilation share a factor") or \
                name in ("depthwise", "depthwise, strided and dilated"):
            wanted = dict(calls(reference, x, w, b, y, ALL[name][2]))[face]     # windows are dense
            np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-4)
        else:
            assert result is NotImplemented, face


@pytest.mark.parametrize("dtypes", [("complex128", "complex128"), ("float32", "float64"),
                                    ("float16", "float16"), (">f4", ">f4"), ("int64", "int64")])
def test_other_and_mixed_dtypes_are_declined(dtypes):
    x, w, _, y = arrays(np.random.default_rng(4), CASES["odd sides"], np.float64)
    x, w, y = x.astype(dtypes[0]), w.astype(dtypes[1]), y.astype(dtypes[0])
    assert compiled.conv2d(x, w, **SAME) is NotImplemented
    assert compiled.conv2d_input(y, w, image_size=x.shape[1:3], **SAME) is NotImplemented
    y = y.astype(dtypes[1])
    assert compiled.conv2d_weight(x, y, kernel_size=(3, 3), **SAME) is NotImplemented


@pytest.mark.parametrize("name", ["odd sides"])
def test_memory_order_does_not_matter_and_inputs_stay_unwritten(name):
    x, w, b, y = arrays(np.random.default_rng(5), ALL[name], np.float32)
    wanted = dict(calls(compiled, x, w, b, y, ALL[name][2]))
    for layout in (scattered, np.asfortranarray, lambda a: a[...]):
        views = [layout(a) for a in (x, w, b, y)]
        before = [view.copy() for view in views]
        for view in views:
            view.flags.writeable = False
        for face, result in calls(compiled, *views, ALL[name][2]):
            np.testing.assert_array_equal(result, wanted[face], err_msg=face)
        for view, copy in zip(views, before, strict=True):
            np.testing.assert_array_equal(view, copy)


@pytest.mark.parametrize("name", ["odd sides", "stride 2, padded", "uneven padding"])
def test_a_cotangent_that_is_one_number_everywhere_is_taken(name):
    x, w, b, y = arrays(np.random.default_rng(6), ALL[name], np.float32)
    y = np.broadcast_to(np.float32(0.5), y.shape)           # as the cotangent of a sum comes
    wanted = _wanted(x, w, b, y, ALL[name][2])
    for face, result in calls(compiled, x, w, b, y, ALL[name][2]):
        largest = np.abs(wanted[face]).max()
        np.testing.assert_allclose(result, wanted[face], rtol=0, atol=2e-5 * largest)


@pytest.mark.parametrize("case", [
    ((13, 13, 6, 3), (3, 3, 3, 10), SAME),
    ((1, 5, 6, 3), (3, 3, 3, 10), SAME),                    # strips of the threads share rows
    ((3, 7, 6, 3), (3, 3, 3, 10), SAME),
    ((5, 13, 12, 3), (3, 3, 3, 10), SAME | {"stride": (2, 2)}),
], ids=["images", "half an image each", "an image and a half each", "strided"])
@pytest.mark.parametrize("threads", sorted({1, get_num_threads()}))
def test_results_repeat_bit_by_bit_whichever_thread_is_first(case, threads):
    x, w, b, y = arrays(np.random.default_rng(7), case, np.float32)

    with set_num_threads(threads):
        first, *others = [dict(calls(compiled, x, w, b, y, case[2])) for _ in range(20)]
    for other, name in itertools.product(others, first):
        np.testing.assert_array_equal(first[name], other[name], err_msg=name)


@pytest.mark.parametrize("parts", [3, 7, 50])
def test_more_parts_than_rows_change_nothing(parts, monkeypatch):
    case = ((1, 5, 6, 3), (3, 3, 3, 10), SAME)
    x, w, b, y = arrays(np.random.default_rng(8), case, np.float32)
    wanted = _wanted(x, w, b, y, SAME)

    for module in (jit, load("workers")):
        monkeypatch.setattr(module, "parts", lambda count, least=1: max(1, min(parts, count)))
    monkeypatch.setattr(jit, "get_num_threads", lambda: parts)
    for name, result in calls(compiled, x, w, b, y, SAME):
        largest = np.abs(wanted[name]).max()
        np.testing.assert_allclose(result, wanted[name], rtol=0, atol=2e-5 * largest)


def _kinds(a):
    """0 where finite, else which of NaN, ∞ and −∞ it is."""
    return np.select([np.isnan(a), np.isposinf(a), np.isneginf(a)], [1, 2, 3])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0, 0, 0), (0, 4, 4, 1), (1, 6, 5, 2), (1, 3, 0, 1)])
@pytest.mark.parametrize("settings", [SAME, SAME | {"stride": (2, 2)}], ids=["strips", "direct"])
def test_what_is_not_finite_goes_where_blas_sends_it(value, place, settings):
    case = ((2, 7, 6, 3), (3, 3, 3, 10), settings)
    x, w, b, y = arrays(np.random.default_rng(9), case, np.float32)
    x[place] = value
    y[tuple(min(i, n - 1) for i, n in zip(place, y.shape, strict=True))] = value
    with np.errstate(invalid="ignore"):
        found = dict(calls(compiled, x, w, b, y, settings))
        wanted = dict(calls(blas, x, w, b, y, settings))
    for name in ("conv2d", "without bias", "conv2d_input", "conv2d_weight"):
        assert not np.isfinite(wanted[name]).all()
        np.testing.assert_array_equal(_kinds(found[name]), _kinds(wanted[name]), err_msg=name)


def test_two_things_that_are_not_finite_meet_as_blas_lets_them_meet():
    case = ((2, 7, 6, 3), (3, 3, 3, 10), SAME)
    x, w, b, y = arrays(np.random.default_rng(10), case, np.float32)
    x[0, 2, 2, 0], x[0, 3, 3, 1], x[1, 0, 0, 2] = np.inf, -np.inf, np.nan
    with np.errstate(invalid="ignore"):
        for name, result in calls(compiled, x, w, b, y, SAME):
            wanted = dict(calls(blas, x, w, b, y, SAME))[name]
            np.testing.assert_array_equal(_kinds(result), _kinds(wanted), err_msg=name)


@pytest.mark.parametrize("scale", [1e-41, 1e-38, 1e-20])
def test_the_smallest_numbers_come_out_right(scale):
    x, w, b, y = arrays(np.random.default_rng(11), ((2, 6, 6, 3), (3, 3, 3, 10), SAME), np.float32)
    x, y, b = (a * np.float32(scale) for a in (x, y, b * np.float32(0)))
    w = np.sign(w)                                          # of taps of 1, so that sums stay exact
    wanted = _wanted(x, w, b, y, SAME)
    least = np.finfo(np.float32).smallest_subnormal
    for name, result in calls(compiled, x, w, b, y, SAME):
        if name != "conv2d_weight":                         # products of two of them are zero
            largest = np.abs(wanted[name]).max()
            atol = 2e-5 * largest + 200 * float(least)
            np.testing.assert_allclose(result, wanted[name], rtol=0, atol=atol, err_msg=name)


# ---- single passes ------------------------------------------------------------------------------

NORMS = [(8, 16, 16, 16), (5, 33, 31, 7), (4, 5, 5, 3000), (20000, 3), (2, 97, 89, 1)]


def _formulas(x, g, w, b, eps):
    axis = tuple(range(x.ndim - 1))
    n = x.size // x.shape[-1]
    centre = x.mean(axis, keepdims=True)
    scale = 1 / np.sqrt(((x - centre) ** 2).mean(axis, keepdims=True) + eps)
    y = (x - centre) * scale
    of_x = scale * w * (g - g.sum(axis) / n - y * (g * y).sum(axis) / n)
    return {"batch_norm": y * w + b, "x": of_x, "w": (g * y).sum(axis), "b": g.sum(axis)}


def _norms(x, g, w, b, eps):
    y, statistics = norm.batch_norm(x, w, b, eps=eps)
    of_x, of_w, of_b = norm.batch_norm_cotangents(g, x, w, eps=eps, **statistics)
    return {"batch_norm": y, "x": of_x, "w": of_w, "b": of_b}


@pytest.mark.parametrize("shape", NORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mean, deviation", [(0.3, 1.0), (100.0, 0.01)])
def test_batch_norm_is_as_exact_compiled_as_in_numpy(shape, dtype, mean, deviation):
    rng = np.random.default_rng(12)
    x = (mean + deviation * rng.standard_normal(shape)).astype(dtype)
    g = rng.standard_normal(shape).astype(dtype)
    w, b = (rng.standard_normal(shape[-1]).astype(dtype) for _ in range(2))
    assert norm._served(x, tuple(range(len(shape) - 1)))
    exact = _formulas(*(a.astype(np.longdouble) for a in (x, g, w, b)), 1e-9)
    with set_compiled(False):
        plain = _norms(x, g, w, b, 1e-9)
    with set_compiled(True):
        found = _norms(x, g, w, b, 1e-9)
    for name, wanted in exact.items():
        assert found[name].dtype == dtype and found[name].shape == plain[name].shape
        largest = np.abs(wanted).max()
        errors = [float(np.abs(a[name] - wanted).max() / largest) for a in (found, plain)]
        # No worse than NumPy's, but for last digits; a mean is rounded to float64.
        rounded = 0 if dtype == np.float32 else mean / deviation
        assert errors[0] <= 2 * errors[1] + (8 + rounded) * np.finfo(dtype).eps, (name, errors)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_do_not_depend_on_where_threads_cut(dtype):
    x = (7 + np.random.default_rng(13).standard_normal((9, 21, 19, 5))).astype(dtype)
    exact = (x.astype(np.longdouble).mean((0, 1, 2)), x.astype(np.longdouble).var((0, 1, 2)))
    with set_compiled(True):
        for threads in sorted({1, get_num_threads()}):
            with set_num_threads(threads):
                for value, wanted in zip(norm._moments(x), exact, strict=True):
                    np.testing.assert_allclose(value.ravel(), wanted, rtol=32 * np.finfo(dtype).eps)


@pytest.mark.parametrize("shape", NORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scale_shift_compiled_is_that_of_numpy(shape, dtype):
    rng = np.random.default_rng(14)
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in (shape, shape[-1], shape[-1]))
    with set_compiled(True):
        found = norm.affine(x, w, b, center=None)
    # Product and sum may be rounded once, together.
    tolerance = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(found, x * w + b, rtol=tolerance, atol=tolerance * 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_channel_that_is_not_finite_leaves_the_others_alone(value):
    x = np.random.default_rng(15).standard_normal((8, 16, 16, 16)).astype(np.float32)
    x[3, 5, 6, 4] = value
    w = b = np.ones(16, np.float32)
    results = []
    for on in (False, True):
        with set_compiled(on), np.errstate(invalid="ignore"):
            results.append(norm.batch_norm(x, w, b, eps=1e-5)[0])
    np.testing.assert_array_equal(np.isfinite(results[0]), np.isfinite(results[1]))
    assert np.isfinite(results[1][..., :4]).all() and np.isnan(results[1][..., 4]).all()


# Images large enough for compiled loops, in every arrangement of windows.
NONE = ((0, 0), (0, 0))
POOLS = {
    "side by side": ((6, 20, 18, 17), (2, 2), (2, 2), NONE),
    "a border is left": ((6, 21, 19, 17), (2, 2), (2, 2), NONE),
    "overlapping": ((4, 23, 21, 16), (3, 3), (2, 2), NONE),
    "overlapping and padded": ((4, 23, 21, 16), (3, 3), (2, 2), ((1, 1), (1, 1))),
    "uneven": ((3, 25, 26, 9), (3, 2), (1, 2), ((2, 0), (0, 1))),
    "gaps between windows": ((9, 26, 26, 33), (2, 3), (4, 5), NONE),
    "one pixel each": ((2, 17, 16, 9), (1, 1), (1, 1), NONE),
}


def _images(kind, shape, dtype):
    rng = np.random.default_rng(16)
    x = rng.standard_normal(shape)
    if kind == "ties":
        x = np.round(x)
    if kind == "zeros of both signs":
        x = np.where(rng.random(shape) < 0.5, 0.0, -0.0)
    if kind == "special":
        for value, every in ((np.nan, 97), (-np.inf, 5), (np.inf, 89)):
            x.reshape(-1)[::every] = value
    if kind == "minus infinity":
        x[...] = -np.inf
    if kind == "huge":
        x *= np.finfo(dtype).max / 8                        # a sum of them is infinite
    return x.astype(dtype)


@pytest.mark.parametrize("case", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("kind", ["plain", "ties", "zeros of both signs", "special",
                                  "minus infinity", "huge"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_max_pool2d_compiled_is_that_of_numpy_to_the_last_bit(case, kind, dtype):
    shape, kernel_size, stride, padding = case
    settings = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    x = _images(kind, shape, dtype)
    found = []
    for on in (False, True):
        with set_compiled(on):
            y, residuals = pool.max_pool2d(x, **settings)
            ct = np.random.default_rng(17).standard_normal(y.shape).astype(dtype)
            spread = pool.scatter_max(ct, **residuals, image_size=shape[1:3], **settings)
            found.append((y, residuals["argmax_indices"], spread))
    for plain, ours in zip(*found, strict=True):
        assert ours.dtype == plain.dtype
        np.testing.assert_array_equal(ours, plain)
    assert found[1][0].size >= pool._FEW, "too small for compiled loops to be asked"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scatter_max_compiled_sends_nothing_to_losers(value):
    shape, kernel_size, stride, padding = POOLS["side by side"]
    settings = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    x = _images("plain", shape, np.float32)
    with set_compiled(True):
        y, residuals = pool.max_pool2d(x, **settings)
        ct = np.full_like(y, value)
        spread = pool.scatter_max(ct, **residuals, image_size=shape[1:3], **settings)
    won = x == y.repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(spread, np.where(won, np.float32(value), 0))


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "read-only"])
def test_max_pool2d_compiled_takes_images_in_any_order(layout):
    x = _images("plain", POOLS["overlapping"][0], np.float32)
    settings = {"kernel_size": (3, 3), "stride": (2, 2), "padding": NONE}
    wanted = pool.max_pool2d(x, **settings)
    given = x if layout == "contiguous" else np.asfortranarray(x) if layout == "transposed" \
        else x.view()
    given.flags.writeable = layout != "read-only"
    with set_compiled(True):
        y, residuals = pool.max_pool2d(given, **settings)
    np.testing.assert_array_equal(y, wanted[0])
    np.testing.assert_array_equal(residuals["argmax_indices"], wanted[1]["argmax_indices"])


@pytest.mark.parametrize("shape", [(4, 31, 33, 8), (1 << 18,), (511, 513), (64, 64)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_mask_of_relu_compiled_is_that_of_numpy(shape, dtype):
    rng = np.random.default_rng(17)
    ct, x = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    out = elementwise.relu(x)
    out.reshape(-1)[::13], out.reshape(-1)[5::101] = np.nan, np.inf
    ct.reshape(-1)[::17] = np.nan
    found = []
    for on in (False, True):
        with set_compiled(on), np.errstate(invalid="ignore"):
            found.append(elementwise.relu_input(ct, out))
    np.testing.assert_array_equal(*found)
    assert found[1].dtype == dtype


@pytest.mark.parametrize("shape", [(1, 5), (3, 1), (70001, 9), (4, 100000), (65, 16), (1000, 257)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_add_rows_compiled_adds_every_row_and_keeps_its_digits(shape, dtype):
    x = (1 + np.random.default_rng(18).standard_normal(shape)).astype(dtype)
    with set_compiled(True):
        found = reduce.add_rows(x)
    assert found.dtype == dtype and found.shape == shape[1:]
    exact = x.astype(np.longdouble).sum(0)
    bound = 64 * np.finfo(dtype).eps * np.abs(x.astype(np.float64)).sum(0)
    assert (np.abs(found - exact) <= bound).all()


@pytest.mark.parametrize("dtype", [np.float16, np.complex64, np.int64, np.longdouble])
def test_passes_decline_what_they_do_not_serve(dtype):
    assert passes_module("passes", np.dtype(dtype)) is None
    with set_compiled(False):
        assert passes_module("passes", np.dtype(np.float32)) is None
