"""A pixel tells on the results that see it and on no other, whatever it holds."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_cnn as tc
from tests.kernels.conftest import PLAIN, SAME, arrays
from tinygrad_cnn.kernels import conv, direct
from tinygrad_cnn.kernels import winograd as filtering
from tinygrad_cnn.kernels.compiled import load

BOUND = 5e-5            # of the largest result that does not see the pixel: see docs/performance.md

# Images that end inside a strip or a tile, with few and many channels, for each height of filter.
SHAPES = {
    "strips": ((2, 19, 9, 3), (3, 3, 3, 4), SAME),
    "strips of one channel": ((3, 28, 28, 1), (5, 5, 1, 8), PLAIN | {"padding": ((2, 2), (2, 2))}),
    "strips of 5x5": ((4, 14, 14, 8), (5, 5, 8, 16), PLAIN | {"padding": ((2, 2), (2, 2))}),
    "strips of two rows": ((2, 20, 24, 3), (2, 4, 3, 5), PLAIN | {"padding": ((3, 1), (0, 2))}),
    "strips of seven rows": ((2, 18, 11, 2), (7, 2, 2, 3), PLAIN),
    "wide strips": ((2, 9, 150, 3), (3, 3, 3, 8), SAME),
    "tiles": ((2, 9, 9, 64), (3, 3, 64, 64), SAME),
    "tiles of six": ((2, 17, 17, 64), (3, 3, 64, 65), PLAIN),
    "tiles of 5x5": ((4, 12, 12, 64), (5, 5, 64, 64), PLAIN | {"padding": ((2, 2), (2, 2))}),
}
blas, winograd, compiled = (conv.BACKENDS[name] for name in ("blas", "winograd", "compiled"))
KERNELS = {"numpy": winograd} | ({"compiled": compiled} if tc.get_compiled() else {})
PIXELS = [np.nan, np.inf, -np.inf, 10.0, 30.0, 100.0, 300.0, 1e3, -1e4, 1e8, 1e19, 1e38]
PLACES = [(0.0, 0.0), (0.5, 0.5), (1.0, 0.3), (0.6, 1.0)]      # down and across, of the image


def faces(case):
    """Each face with the array of it that holds the pixel: name, call(kernels, array), array."""
    x, w, b, y = arrays(np.random.default_rng(1), case, np.float32)
    size, kernel_size, settings = x.shape[1:3], w.shape[:2], case[2]
    return {
        "conv2d": (lambda k, x: k.conv2d(x, w, b, **settings), x),
        "conv2d_input": (
            lambda k, y: k.conv2d_input(y, w, image_size=size, **settings), y),
        "conv2d_weight, of x": (
            lambda k, x: k.conv2d_weight(x, y, kernel_size=kernel_size, **settings), x),
        "conv2d_weight, of y": (
            lambda k, y: k.conv2d_weight(x, y, kernel_size=kernel_size, **settings), y)}


def run(call, kernels, array):
    """What the op gives: a kernel that declines leaves the call to the direct one."""
    found = call(kernels, array)
    return call(blas, array) if found is NotImplemented else found


def spoiled(array, value, places):
    """The array with the value at places of its first and last image."""
    bad = array.copy()
    _, h, w, c = array.shape
    for i, (down, across) in enumerate(places):
        bad[-(i % 2), round(down * (h - 1)), round(across * (w - 1)), i % c] = value
    return bad


@pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")
@pytest.mark.parametrize("face", list(faces(SHAPES["strips"])))
@pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES)
def test_a_pixel_tells_on_the_results_that_see_it_alone(case, face):
    call, array = faces(case)[face]
    clean = call(blas, array)
    for places in [[place] for place in PLACES] + [PLACES[1:3]]:
        seen = ~np.isfinite(call(blas, spoiled(array, np.nan, places)))
        for value in PIXELS:
            given = spoiled(array, value, places)
            direct = call(blas, given)
            finite = seen & np.isfinite(direct)
            for name, kernels in KERNELS.items():
                found, what = run(call, kernels, given), f"{name}, {value} at {places}"
                np.testing.assert_array_equal(np.isfinite(found), np.isfinite(direct), what)
                if not seen.all():
                    error = np.abs(found - clean)[~seen].max()
                    assert error <= BOUND * np.abs(clean[~seen]).max(), what
                if finite.any():
                    sizes = np.abs(direct[finite]).max()
                    assert (np.abs(found[finite] / sizes - direct[finite] / sizes) <= BOUND
                            ).all(), what


@pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")
@pytest.mark.parametrize("face", list(faces(SHAPES["strips"])))
@pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES)
def test_images_looked_at_in_blocks_or_in_one_go_are_judged_alike(case, face, monkeypatch):
    call, array = faces(case)[face]
    for value in (1.0, 1e4, np.nan):
        given = spoiled(array, value, PLACES[1:3])
        results = []
        for at_once in (0, array.size):
            monkeypatch.setattr(filtering, "_AT_ONCE", at_once)
            results.append(run(call, winograd, given))
        np.testing.assert_array_equal(*results)


REGIONS = {"a patch": np.s_[0, 3:6, 4:7], "a row": np.s_[0, 5], "a column": np.s_[0, :, 5],
           "a row of half the width": np.s_[0, 5, 4:], "an image": np.s_[0],
           "the upper half": np.s_[0, :8], "every second image": np.s_[::2]}


@pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, 1e4, 1e8, 1e19])
@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
@pytest.mark.parametrize("face", ["conv2d", "conv2d_input"])
@pytest.mark.parametrize("name", ["strips", "tiles of six"])
@pytest.mark.parametrize("kernels", KERNELS.values(), ids=KERNELS)
def test_so_do_many_pixels(kernels, name, face, region, value):
    call, array = faces(SHAPES[name])[face]
    clean, given, marked = call(blas, array), array.copy(), array.copy()
    given[region], marked[region] = value * np.abs(array[region]), np.nan
    found, seen = run(call, kernels, given), ~np.isfinite(call(blas, marked))
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(call(blas, given)))
    assert seen.any() and not seen.all()
    assert np.abs(found - clean)[~seen].max() <= BOUND * np.abs(clean[~seen]).max()


@pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e19, 1e38])
@pytest.mark.parametrize("name", ["strips", "tiles"])
@pytest.mark.parametrize("kernels", KERNELS.values(), ids=KERNELS)
def test_so_do_the_taps_of_a_filter(kernels, name, value):
    x, w, b, y = arrays(np.random.default_rng(2), SHAPES[name], np.float32)
    w[1, 0, 2, 1] = value
    for call, array in ((lambda k, x: k.conv2d(x, w, b, **SAME), x),
                        (lambda k, y: k.conv2d_input(y, w, image_size=x.shape[1:3], **SAME), y)):
        found, direct = run(call, kernels, array), call(blas, array)
        np.testing.assert_array_equal(np.isfinite(found), np.isfinite(direct))


@pytest.mark.parametrize("data", ["normal", "after a relu", "sparse", "dark borders",
                                  "images of all sizes", "zero", "constant", "small", "large"])
@pytest.mark.parametrize("name", ["strips", "wide strips", "tiles", "tiles of six"])
@pytest.mark.parametrize("kernels", KERNELS.values(), ids=KERNELS)
def test_ordinary_images_are_filtered_whole(kernels, name, data, monkeypatch):
    case = SHAPES[name]
    x, w, b, y = arrays(np.random.default_rng(3), case, np.float32)
    rng = np.random.default_rng(4)
    for a in (x, y):
        if data == "after a relu":
            np.maximum(a, 0, out=a)
        elif data == "sparse":                              # as a cotangent behind max pooling
            a *= rng.random(a.shape) < 0.1
        elif data == "dark borders":
            a[:, :3] = a[:, -2:] = a[:, :, :3] = a[:, :, -2:] = 0
        elif data == "images of all sizes":
            a *= 10.0 ** np.arange(0, -6 * len(a), -6, dtype=np.float32)[:, None, None, None]
        elif data == "zero":
            a[...] = 0
        elif data == "constant":
            a[...] = 0.1
        elif data in ("small", "large"):
            a *= {"small": 1e-12, "large": 1e12}[data]

    def never(*args):
        raise AssertionError("computed directly")

    monkeypatch.setattr(direct, "forward", never)
    if kernels is compiled:
        jit = load("conv")
        monkeypatch.setattr(jit, "_forward_direct", never)
        monkeypatch.setattr(jit, "_weight_direct", never)
    settings = case[2]
    assert kernels.conv2d(x, w, b, **settings) is not NotImplemented
    assert kernels.conv2d_input(y, w, image_size=x.shape[1:3], **settings) is not NotImplemented
    made = kernels.conv2d_weight(x, y, kernel_size=w.shape[:2], **settings)
    # Constants meet at borders only in some taps, and of zero images all taps are alike.
    assert made is not NotImplemented


@pytest.mark.parametrize("name", ["strips", "tiles of six"])
def test_only_strips_that_hold_the_pixel_are_made_directly(name, monkeypatch):
    case = SHAPES[name]
    x, w, b, _ = arrays(np.random.default_rng(5), case, np.float32)
    x[1, 8, 4, 2] = np.nan
    made = []
    forward = direct.forward

    def note(problem, x, w, b, y):
        made.append(y.shape[:2])
        forward(problem, x, w, b, y)

    monkeypatch.setattr(direct, "forward", note)
    winograd.conv2d(x, w, b, **case[2])
    strip = filtering.fewest_products(*((19, 3, 10) if name == "strips" else (15, 3, 8)))
    (images, rows), = made
    assert images == 1 and rows <= 2 * strip


@pytest.mark.parametrize("seed", range(5))
def test_regions_cover_what_is_marked_and_no_more(seed):
    rng = np.random.default_rng(seed)
    bad = rng.random((6, 9)) < [0.1, 0.5, 0.9, 0.0, 1.0][seed]
    step, rows = 4, 22
    covered = np.zeros((9, rows), int)
    for images, first, last in filtering.regions(bad, step, rows):
        covered[images, first:last] += 1
    np.testing.assert_array_equal(covered, bad.T.repeat(step, 1)[:, :rows])
