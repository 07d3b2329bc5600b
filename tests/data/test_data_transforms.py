"""Transforms: by hand, against plain loops, and repeatable."""

from __future__ import annotations

import numpy as np
import pytest

from tinygrad_cnn.data import (
    Compose,
    Cutout,
    Normalize,
    RandomCrop,
    RandomFlip,
    RandomShift,
    ToFloat,
    channel_statistics,
)
from tinygrad_cnn.errors import DataError, SettingError


def batch(n=6, h=5, w=7, c=2, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(1, 200, (n, h, w, c)).astype(dtype)


@pytest.mark.parametrize("pixels", [0, 1, 2])
def test_random_shift_moves_each_image_by_what_is_drawn(pixels):
    images = batch(n=40)
    out = RandomShift(pixels, fill=3)(images, np.random.default_rng(5))
    moves = np.random.default_rng(5).integers(0, 2 * pixels + 1, (2, 40)) - pixels
    for n in range(40):
        expected = np.full_like(images[n], 3)
        for y in range(5):
            for x in range(7):
                source = y + moves[0, n], x + moves[1, n]
                if 0 <= source[0] < 5 and 0 <= source[1] < 7:
                    expected[y, x] = images[n][source]
        assert np.array_equal(out[n], expected)


def test_random_shift_draws_all_nine_moves_of_one_pixel_about_equally():
    images = np.zeros((9000, 3, 3, 1), np.uint8)
    images[:, 1, 1] = 1
    out = RandomShift(1)(images, np.random.default_rng(0))
    assert (out.sum((1, 2, 3)) == 1).all()
    counts = out.sum(0)[..., 0]
    # binomial with p = 1/9: standard deviation 30
    assert (np.abs(counts.astype(int) - 1000) < 150).all()


@pytest.mark.parametrize("padding, size", [(0, None), (2, None), (1, (3, 8)), (0, 4), (3, (1, 1))])
def test_random_crop_cuts_a_window_out_of_the_padded_image(padding, size):
    images = batch(n=30)
    oh, ow = (5, 7) if size is None else (size, size) if isinstance(size, int) else size
    out = RandomCrop(padding, size=size, fill=1)(images, np.random.default_rng(8))
    rng = np.random.default_rng(8)
    tops = rng.integers(0, 5 + 2 * padding - oh + 1, 30)
    lefts = rng.integers(0, 7 + 2 * padding - ow + 1, 30)
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)),
                    constant_values=1)
    assert out.shape == (30, oh, ow, 2)
    for n, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        assert np.array_equal(out[n], padded[n, top:top + oh, left:left + ow])


@pytest.mark.parametrize("axis, mirrored", [("horizontal", np.s_[:, :, ::-1]),
                                            ("vertical", np.s_[:, ::-1])])
def test_random_flip_mirrors_whole_images(axis, mirrored):
    images = batch(n=200)
    never, always, some = (RandomFlip(p, axis)(images, np.random.default_rng(1))
                           for p in (0.0, 1.0, 0.5))
    assert np.array_equal(never, images)
    assert np.array_equal(always, images[mirrored])
    flipped = (some == images[mirrored]).all((1, 2, 3))
    kept = (some == images).all((1, 2, 3))
    assert (flipped ^ kept).all()
    assert 60 < flipped.sum() < 140


def test_cutout_blanks_one_square_whose_center_is_a_pixel():
    images = batch(n=50)
    for size in (1, 2, 3, 20):
        out = Cutout(size, fill=0)(images, np.random.default_rng(4))
        rng = np.random.default_rng(4)
        rows, columns = rng.integers(0, 5, 50), rng.integers(0, 7, 50)
        for n in range(50):
            expected = images[n].copy()
            top, left = rows[n] - size // 2, columns[n] - size // 2
            expected[max(top, 0):max(top + size, 0), max(left, 0):max(left + size, 0)] = 0
            assert np.array_equal(out[n], expected)


def test_to_float_scales_bytes_to_float32():
    out = ToFloat(1 / 16)(np.array([0, 4, 16], np.uint8).reshape(1, 3, 1, 1))
    assert out.dtype == np.float32
    assert out.ravel().tolist() == [0, 0.25, 1]
    with pytest.raises(SettingError, match=r"images are float32, not uint8.*leave ToFloat out"):
        ToFloat()(out)


def test_normalize_centers_each_channel():
    x = np.array([[[[1.0, 10.0]], [[3.0, 40.0]]]], np.float32)
    out = Normalize(mean=(1, 20), std=(2, 10))(x)
    assert out.dtype == np.float32
    assert out.ravel().tolist() == [0, -1, 1, 2]
    assert Normalize(1, 2)(x).ravel().tolist() == [0, 4.5, 1, 19.5]
    with pytest.raises(SettingError, match="put ToFloat before it"):
        Normalize(0, 1)(batch())
    with pytest.raises(SettingError, match="mean has 3 numbers for images of 2 channels"):
        Normalize((1, 2, 3), 1)(x)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_channel_statistics_are_mean_and_biased_deviation(dtype):
    images = batch(n=2500, h=3, w=2, c=3, dtype=dtype)               # more than two blocks
    mean, std = channel_statistics(images, scale=1 / 255)
    exact = images.astype(np.float64) / 255
    assert np.allclose(mean, exact.mean((0, 1, 2)), rtol=1e-12)
    assert np.allclose(std, exact.std((0, 1, 2)), rtol=1e-12)
    normal = Normalize(mean, std)(exact)
    assert np.allclose(normal.mean((0, 1, 2)), 0, atol=1e-12)
    assert np.allclose(normal.std((0, 1, 2)), 1)


def test_channel_statistics_hold_far_from_zero():
    x = 1e8 + np.array([0.0, 1.0, 2.0, 3.0]).reshape(4, 1, 1, 1)
    assert channel_statistics(x)[1][0] == pytest.approx(np.sqrt(1.25), rel=1e-12)
    with pytest.raises(SettingError, match="no images"):
        channel_statistics(x[:0])
    with pytest.raises(DataError, match="4 axes"):
        channel_statistics(x[0])


def test_compose_applies_its_steps_in_order_with_one_generator():
    images = batch()
    both = Compose([RandomShift(1), RandomFlip()])(images, np.random.default_rng(6))
    rng = np.random.default_rng(6)
    assert np.array_equal(both, RandomFlip()(RandomShift(1)(images, rng), rng))
    assert Compose([])(images) is images
    with pytest.raises(SettingError, match=r"got 3; write Compose\(\[a"):
        Compose([RandomFlip(), 3])
    with pytest.raises(SettingError, match=r"got RandomFlip.*write Compose\(\[a"):
        Compose(RandomFlip())


@pytest.mark.parametrize("make, words", [
    (lambda: RandomFlip(1.5), "p must be a number from 0 to 1"),
    (lambda: RandomFlip(float("nan")), "p must be a number from 0 to 1"),
    (lambda: RandomFlip(axis="both"), "horizontal, vertical"),
    (lambda: RandomCrop(-1), "padding must be an integer of at least 0"),
    (lambda: RandomCrop(1.5), "padding must be an integer"),
    (lambda: RandomCrop(0, size=0), "size must be at least 1"),
    (lambda: RandomCrop(0, size=(3, 8))(batch(), np.random.default_rng(0)), "does not fit in an"),
    (lambda: RandomShift(-1), "pixels must be an integer of at least 0"),
    (lambda: RandomShift(True), "pixels must be an integer"),
    (lambda: RandomShift(1, fill=0.5)(batch(), np.random.default_rng(0)), "fill 0.5 does not fit"),
    (lambda: RandomShift(1, fill=-1)(batch(), np.random.default_rng(0)), "fill -1 does not fit"),
    (lambda: Cutout(2, fill=256)(batch(), np.random.default_rng(0)), "fill 256 does not fit"),
    (lambda: Cutout(2, fill=np.nan)(batch(), np.random.default_rng(0)), "fill nan does not fit"),
    (lambda: Cutout(0), "size must be an integer of at least 1"),
    (lambda: ToFloat(0), "other than 0"),
    (lambda: ToFloat(np.inf), "finite number"),
    (lambda: Normalize(0, 0), "std must be above 0.*give it 1"),
    (lambda: Normalize(0, (1, -1)), "std must be above 0"),
    (lambda: Normalize(np.nan, 1), "must be a finite number"),
    (lambda: Normalize([[1]], 1), "one for each channel"),
])
def test_settings_that_cannot_be_are_refused(make, words):
    with pytest.raises(SettingError, match=words):
        make()
