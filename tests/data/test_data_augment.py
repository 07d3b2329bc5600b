"""Augmentations against SciPy, PyTorch and plain loops, and the targets that follow them."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from tinygrad_cnn import data
from tinygrad_cnn.data import (
    ColorJitter,
    Compose,
    CutMix,
    Cutout,
    MixUp,
    Normalize,
    RandomAffine,
    RandomCrop,
    RandomErasing,
    RandomFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomShift,
    ToFloat,
    Transform,
)
from tinygrad_cnn.data.geometry import Geometric
from tinygrad_cnn.errors import SettingError

GEOMETRIC = [RandomFlip(), RandomFlip(axis="vertical"), RandomCrop(2, fill=3, mask_fill=3),
             RandomCrop(0, size=3), RandomShift(2, fill=3, mask_fill=3),
             RandomRotation(30, fill=3, mask_fill=3),
             RandomAffine(20, (0.2, 0.1), (0.7, 1.4), 15, fill=3, mask_fill=3),
             RandomResizedCrop(4), RandomResizedCrop((3, 9), scale=(0.3, 0.6))]
PIXELS = [Cutout(3), Cutout(2, fill=9), RandomErasing(p=1), ColorJitter(0.4, 0.3, 0.2, 0.1)]
PLAIN = [ToFloat(), Normalize(0.5, (1, 2, 3)), Compose([RandomShift(1), ToFloat(1 / 16)])]
MIXED = [MixUp(classes=4), CutMix(classes=4, alpha=0.5)]


def batch(n=6, h=5, w=7, c=3, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 200, (n, h, w, c)).astype(dtype)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_every_public_transform_is_in_a_table_here():
    tabled = {type(t) for t in (*GEOMETRIC, *PIXELS, *MIXED, *PLAIN)}
    public = {made for made in vars(data).values()
              if isinstance(made, type) and issubclass(made, Transform)}
    assert public - tabled == {Transform}


@pytest.mark.parametrize("transform", [*GEOMETRIC, *PIXELS, *PLAIN], ids=repr)
def test_transforms_repeat_leave_their_input_alone_and_take_any_memory_order(transform):
    images = batch(dtype=np.float64 if isinstance(transform, Normalize) else np.uint8)
    before = images.copy()
    images.flags.writeable = False
    first, again = (transform(images, rng(1)) for _ in range(2))
    assert np.array_equal(first, again)
    assert np.array_equal(images, before)
    assert not np.shares_memory(first, images)
    assert np.array_equal(first, transform(np.asfortranarray(images), rng(1)))
    assert eval(repr(transform), {**globals()}) == transform
    assert transform(images[:0], rng()).shape[0] == 0
    with pytest.raises(SettingError, match=r"axes N H W C, got \(5, 7, 3\)"):
        transform(images[0], rng())


@pytest.mark.parametrize("transform", [*GEOMETRIC, *PIXELS, *MIXED], ids=repr)
def test_random_transforms_draw_keep_the_dtype_and_ask_for_a_generator(transform):
    images, labels = batch(), np.arange(6) % 4
    assert not np.array_equal(transform(images, rng(1), labels)[0],
                              transform(images, rng(2), labels)[0])
    made = {dtype: transform(images.astype(dtype), rng(1), labels)[0]
            for dtype in (np.uint8, np.float32, np.float64)}
    for dtype, out in made.items():
        assert out.dtype == dtype
        if not isinstance(transform, ColorJitter):      # whose floats end at 1
            assert np.abs(out - made[np.float64]).max() <= 0.5 + 1e-4
    for wrong in (None, 0, np.random):
        with pytest.raises(SettingError, match=r"needs a generator.*default_rng\(seed\)"):
            transform(images, wrong, labels)


@pytest.mark.parametrize("transform", [*GEOMETRIC, *PIXELS], ids=repr)
def test_each_image_draws_its_own_numbers(transform):
    same = np.repeat(batch(n=1), 40, axis=0)
    assert len({image.tobytes() for image in transform(same, rng(3))}) > 1


def test_the_defaults_are_torchvisions():
    for made, words in (
            (RandomErasing(), "p=0.5, scale=(0.02, 0.33), ratio=(0.3, 3.3), fill=0.0"),
            (RandomResizedCrop(9), f"size=9, scale=(0.08, 1.0), ratio=(0.75, {4 / 3})"),
            (ColorJitter(), "brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, peak=None"),
            (RandomAffine(), "degrees=0.0, translate=(0.0, 0.0), scale=(1.0, 1.0), shear=0.0, "
                             "fill=0.0, mask_fill=0.0"),
            (RandomFlip(), "p=0.5, axis='horizontal'"), (MixUp(), "classes=None, alpha=1.0")):
        assert repr(made) == f"{type(made).__name__}({words})"


# ---- what follows --------------------------------------------------------------------------------

@pytest.mark.parametrize("transform", GEOMETRIC, ids=repr)
def test_masks_move_as_the_images_do(transform):
    images = batch(dtype=np.float32)
    targets = {"image": images, "mask": (images[..., 0], images[..., 1:2]), "label": np.arange(6)}
    out, moved = transform(images, rng(5), targets)
    assert np.array_equal(out, transform(images, rng(5)))
    assert np.array_equal(moved["image"], out)
    assert np.array_equal(moved["mask"][0], out[..., 0])
    assert np.array_equal(moved["mask"][1], out[..., 1:2])
    assert moved["label"] is targets["label"]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
@pytest.mark.parametrize("transform", GEOMETRIC, ids=repr)
def test_masks_of_classes_take_the_nearest_pixel(transform, dtype):
    images = batch()
    fill = {"fill": 0, "mask_fill": 0} if hasattr(transform, "fill") else {}
    transform = type(transform)(**{**vars(transform), **fill})
    mask = (np.arange(6 * 35).reshape(6, 5, 7) * 7 % 5).astype(dtype)
    out, moved = transform(images, rng(5), mask)
    assert moved.dtype == dtype
    assert moved.shape == out.shape[:3]
    assert set(np.unique(moved)) <= set(np.unique(mask))
    # A weight above 1/2 makes a pixel the nearest, and the nearest has at least 1/4.
    spot = np.zeros((6, 5, 7, 1))
    spot[:, 2, 3] = 1
    weight, where = transform(spot, rng(5), spot[..., 0].astype(dtype))
    assert where[weight[..., 0] > 0.5].all()
    assert (weight[..., 0][where == 1] > 0.2499).all()
    assert 0 < where.sum() < where.size / 2


@pytest.mark.parametrize("transform", [*GEOMETRIC, CutMix()], ids=repr)
def test_masks_of_another_size_are_refused(transform):
    for shape in ((6, 5, 8), (6, 7, 5, 1), (6, 5, 7, 1, 1)):
        with pytest.raises(SettingError, match=r"do not go with images of shape \(6, 5, 7, 3\)"):
            transform(batch(), rng(), np.zeros(shape))


@pytest.mark.parametrize("transform", PIXELS, ids=repr)
def test_changes_of_pixels_leave_targets_alone(transform):
    images, mask = batch(), batch()[..., 0]
    out, same = transform(images, rng(1), mask)
    assert same is mask
    assert np.array_equal(out, transform(images, rng(1)))


def test_compose_hands_the_targets_on():
    images = batch()
    both = Compose([RandomCrop(2), RandomFlip(), ToFloat(), lambda x, rng: x * 2])
    out, mask = both(images, rng(7), images[..., 0])
    assert np.allclose(out[..., 0], mask.astype(float) * 2 / 255)
    assert np.array_equal(out, both(images, rng(7)))


# ---- rotation, affine maps, resized crops --------------------------------------------------------

@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_affine_maps_are_those_of_scipy(dtype):
    ndimage = pytest.importorskip("scipy.ndimage")
    images = batch(n=8, h=9, w=6, dtype=dtype)
    transform = RandomAffine((-50, 70), (0.3, 0.2), (0.6, 1.5), (-20, 30), fill=11, mask_fill=2)
    mask = images[..., 0].astype(np.int64)
    out, moved = transform(images, rng(2), mask)
    again = rng(2)
    angles = np.deg2rad(again.uniform(-50, 70, 8))
    across, down = (np.rint(again.uniform(-s * n, s * n, 8)) for s, n in ((0.3, 6), (0.2, 9)))
    scales, shears = again.uniform(0.6, 1.5, 8), np.deg2rad(again.uniform(-20, 30, 8))
    for n in range(8):
        # Coordinates (down, across); clockwise in an image is from "across" to "down".
        c, s = np.cos(angles[n]), np.sin(angles[n])
        turn = np.array([[c, s], [-s, c]])
        slant = np.array([[1, 0], [-np.tan(shears[n]), 1]])
        inverse = np.linalg.inv(scales[n] * turn @ slant)
        center = np.array([4.0, 2.5])
        offset = center - inverse @ (center + np.array([down[n], across[n]]))
        for channel in range(3):
            expected = ndimage.affine_transform(images[n, :, :, channel].astype(float), inverse,
                                                offset, order=1, mode="grid-constant", cval=11)
            error = np.abs(out[n, :, :, channel] - expected).max()
            assert error < (1e-9 if dtype == np.float64 else 0.51)
        nearest = ndimage.affine_transform(mask[n], inverse, offset, order=0, cval=2,
                                           mode="grid-constant")
        assert np.array_equal(moved[n], nearest)


def test_a_rotation_turns_counterclockwise_and_quarters_are_exact():
    x = batch(h=5, w=5, dtype=np.float64)
    for quarter in range(-3, 4):
        degrees = 90 * quarter
        turned = np.rot90(x, quarter, axes=(1, 2))
        assert np.allclose(RandomRotation((degrees, degrees))(x, rng()), turned, atol=1e-9)
        assert np.allclose(RandomAffine((-degrees, -degrees))(x, rng()), turned, atol=1e-9)
        mask = RandomRotation((degrees, degrees))(x, rng(), x[..., 0].astype(int))[1]
        assert np.array_equal(mask, turned[..., 0].astype(int))


def test_a_resized_crop_is_pytorchs_resize_of_a_part():
    torch = pytest.importorskip("torch")
    images = batch(n=30, h=9, w=12, dtype=np.float64)
    out = RandomResizedCrop((4, 7), scale=(0.1, 0.7), ratio=(0.5, 2))(images, rng(6))
    again = rng(6)
    area = 108 * again.uniform(0.1, 0.7, (10, 30))
    aspect = np.exp(again.uniform(np.log(0.5), np.log(2), (10, 30)))
    heights, widths = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))
    chosen = [next(k for k in range(10) if 0 < heights[k, n] <= 9 and 0 < widths[k, n] <= 12)
              for n in range(30)]
    assert max(chosen) > 0                                  # a first draw did not fit
    height = np.array([heights[k, n] for n, k in enumerate(chosen)]).astype(int)
    width = np.array([widths[k, n] for n, k in enumerate(chosen)]).astype(int)
    top, left = again.integers(0, 9 - height + 1), again.integers(0, 12 - width + 1)
    for n in range(30):
        part = images[n, top[n]:top[n] + height[n], left[n]:left[n] + width[n]]
        expected = torch.nn.functional.interpolate(
            torch.tensor(part.copy()).permute(2, 0, 1)[None], (4, 7), mode="bilinear",
            align_corners=False)[0].permute(1, 2, 0)
        assert np.allclose(out[n], expected, atol=1e-9)


def test_where_no_part_fits_the_largest_of_an_allowed_shape_is_taken_from_the_middle():
    x = np.arange(24.0).reshape(1, 2, 12, 1)
    out = RandomResizedCrop((2, 4), scale=(1, 1), ratio=(0.5, 2))(x, rng())
    assert np.array_equal(out, x[:, :, 4:8])                # 2 × 4 of 2 × 12
    out = RandomResizedCrop((4, 2), scale=(1, 1), ratio=(0.5, 2))(x.reshape(1, 12, 2, 1), rng())
    assert np.array_equal(out, x.reshape(1, 12, 2, 1)[:, 4:8])
    # Even where no whole pixel has an allowed shape, one row or column is taken.
    for shape, ratio, size in (((9, 1), (4, 5), (1, 1)), ((1, 9), (0.1, 0.2), (1, 1))):
        x = np.arange(9.0).reshape(1, *shape, 1)
        assert RandomResizedCrop(size, (1, 1), ratio)(x, rng()).item() == 4.0


# ---- color ---------------------------------------------------------------------------------------

def jittered(rgb, name, factor):
    """One pixel or image by torchvision's formulas."""
    gray = rgb @ [0.2989, 0.587, 0.114]
    if name == "hue":
        turned = [colorsys.rgb_to_hsv(*pixel) for pixel in rgb.reshape(-1, 3)]
        return np.array([colorsys.hsv_to_rgb((h + factor) % 1, s, v) for h, s, v in turned]
                        ).reshape(rgb.shape)
    other = {"brightness": 0, "contrast": gray.mean(), "saturation": gray[..., None]}[name]
    return np.clip(factor * rgb + (1 - factor) * other, 0, 1)


@pytest.mark.parametrize("name, factor", [
    ("brightness", 0.3), ("brightness", 1.7), ("contrast", 0.2), ("contrast", 1.9),
    ("saturation", 0.0), ("saturation", 1.8), ("hue", 0.25), ("hue", -0.4), ("hue", 0.5)])
def test_each_color_change_is_torchvisions(name, factor):
    images = batch(h=3, w=4, dtype=np.float64) / 200
    images[0, 0, 0] = images[0, 0, 0, 0]                    # a gray pixel has no hue
    expected = np.stack([jittered(image, name, factor) for image in images])
    change = ColorJitter(**{name: (factor, factor)})
    assert np.allclose(change(images, rng()), expected, atol=1e-12)
    assert np.allclose(change(images.astype(np.float32), rng()), expected, atol=1e-6)
    # Bytes are those of a scale up to 255, rounded; other scales say their peak.
    small = ColorJitter(**{name: (factor, factor)}, peak=16)
    scaled = change(np.rint(images * 255).astype(np.uint8), rng())
    exact = change(np.rint(images * 255) / 255, rng()) * 255
    assert np.abs(scaled - exact).max() <= 0.5 + 1e-4
    assert np.allclose(small(images * 16, rng()), expected * 16, atol=1e-10)


def test_the_changes_come_in_a_random_order_with_factors_between_their_limits():
    jitter = ColorJitter(0.4, (0.5, 0.9), 2.0, 0.1)
    orders = set()
    for seed in range(40):
        steps = jitter.draw(rng(seed), (500, 1, 1, 3))
        orders.add(tuple(name for name, _ in steps))
        for name, factors in steps:
            low, high = {"brightness": (0.6, 1.4), "contrast": (0.5, 0.9), "saturation": (0, 3),
                         "hue": (-0.1, 0.1)}[name]
            assert factors.shape == (500, 1, 1, 1)
            assert low <= factors.min() < low + 0.1 * (high - low)
            assert high >= factors.max() > high - 0.1 * (high - low)
    assert len(orders) > 12
    images = batch(dtype=np.float64) / 200
    by_hand = images
    for name, factor in jitter.draw(rng(9), images.shape):
        by_hand = np.stack([jittered(image, name, f) for image, f in
                            zip(by_hand, factor.ravel(), strict=True)])
    assert np.allclose(jitter(images, rng(9)), by_hand, atol=1e-12)
    assert ColorJitter().draw(rng(), (1, 1, 1, 3)) == []


def test_gray_images_have_no_saturation_and_no_hue():
    gray = batch(c=1, dtype=np.float64) / 200
    assert np.allclose(ColorJitter(saturation=1, hue=0.5)(gray, rng()), gray)
    assert not np.allclose(ColorJitter(contrast=0.9)(gray, rng()), gray)
    with pytest.raises(SettingError, match="1 or 3 channels, got 2"):
        ColorJitter(0.1)(batch(c=2), rng())


# ---- rectangles ----------------------------------------------------------------------------------

def test_erasing_fills_one_rectangle_of_the_drawn_area_in_the_drawn_share_of_images():
    images = np.full((2000, 20, 30, 2), 9, np.uint8)
    out = RandomErasing(p=0.3, scale=(0.1, 0.2), ratio=(0.5, 2), fill=5)(images, rng(1))
    hole = (out == 5).all(3)
    assert ((out == 5).any(3) == hole).all()
    erased = hole.any((1, 2))
    assert abs(erased.sum() - 600) < 100                    # binomial: standard deviation 20
    heights, widths = hole.any(2).sum(1)[erased], hole.any(1).sum(1)[erased]
    assert np.array_equal(hole.sum((1, 2))[erased], heights * widths)
    assert (heights * widths).min() > 0.1 * 600 * 0.85
    assert (heights * widths).max() < 0.2 * 600 * 1.15
    assert 0.45 < (heights / widths).min() < 0.6
    assert 1.7 < (heights / widths).max() < 2.2
    tops, lefts = hole.any(2).argmax(1)[erased], hole.any(1).argmax(1)[erased]
    assert (tops.min(), lefts.min()) == (0, 0)              # every place, first to last
    assert ((tops + heights).max(), (lefts + widths).max()) == (20, 30)
    thin = RandomErasing(p=1, scale=(0.002, 0.01), fill=5)(images, rng(2))[..., 0] == 5
    assert thin.any(2).sum(1).min() == thin.any(1).sum(1).min() == 1
    assert (RandomErasing(p=0)(images, rng()) == 9).all()


# ---- mixtures ------------------------------------------------------------------------------------

def test_mixup_blends_images_and_labels_with_the_one_before():
    images, labels = batch(dtype=np.float64), np.array([0, 1, 2, 3, 3, 0])
    out, soft = MixUp(classes=4, alpha=0.7)(images, rng(3), labels)
    share = rng(3).beta(0.7, 0.7)
    for n in range(6):
        assert np.allclose(out[n], share * images[n] + (1 - share) * images[n - 1])
        assert np.allclose(soft[n], share * np.eye(4)[labels[n]]
                           + (1 - share) * np.eye(4)[labels[n - 1]])
    assert soft.dtype == np.float32
    bytes_out, rows = MixUp(alpha=0.7)(batch(), rng(3), {"y": np.eye(4)[labels], "x": images})
    assert bytes_out.dtype == np.uint8
    assert np.abs(bytes_out - out).max() <= 0.5 + 1e-4
    assert np.allclose(rows["y"], soft)
    assert np.allclose(rows["x"], out)
    shares = [MixUp(alpha=0.2).draw(rng(seed), images.shape)[2] for seed in range(300)]
    assert np.mean([0.1 < s < 0.9 for s in shares]) < 0.5   # Beta(0.2, 0.2) keeps near 0 and 1


def test_cutmix_puts_in_one_rectangle_and_blends_labels_by_its_area():
    labels = np.array([0, 1, 2, 3, 3, 0])
    areas = set()
    for seed in range(60):
        images = np.arange(6).reshape(6, 1, 1, 1) + np.zeros((6, 8, 10, 2))
        out, (soft, mask) = CutMix(classes=4)(images, rng(seed), (labels, images[..., 0]))
        hole = out[1, :, :, 0] == 0
        assert np.array_equal(hole, np.outer(hole.any(1), hole.any(0)))
        share = 1 - hole.sum() / 80
        areas.add(hole.sum())
        for n in range(6):
            assert np.array_equal(out[n], np.where(hole[..., None], images[n - 1], images[n]))
            assert np.allclose(soft[n], share * np.eye(4)[labels[n]]
                               + (1 - share) * np.eye(4)[labels[n - 1]])
        assert np.array_equal(mask, out[..., 0])
        rows = CutMix()(images, rng(seed), np.eye(4)[labels])[1]
        assert np.allclose(rows, soft)                      # soft labels (N, K) are blended too
    assert len(areas) > 20
    half = CutMix.draw(CutMix(), rng(5), (1, 100, 100, 1))
    side = np.sqrt(1 - rng(5).beta(1, 1))
    assert half[0].stop - half[0].start <= 100 * side + 1


@pytest.mark.parametrize("call, words", [
    (lambda: MixUp(classes=2)(batch(), rng()), "changes the targets too"),
    (lambda: MixUp()(batch(), rng(), np.arange(6)), "give classes=K"),
    (lambda: MixUp(classes=5)(batch(), rng(), np.arange(6)), "from 0 to 4, got 0 to 5"),
    (lambda: MixUp(classes=5)(batch(), rng(), -np.arange(6)), "got -5 to 0"),
    (lambda: MixUp(classes=5)(batch(), rng(), batch()), "cannot be blended"),
    (lambda: CutMix(classes=5)(batch(), rng(), np.ones(6, bool)), "targets of bool"),
    (lambda: MixUp(classes=0), "classes must be an integer of at least 1"),
    (lambda: CutMix(alpha=0), "CutMix: alpha must be a finite number above 0"),
    (lambda: RandomErasing(p=2), "p must be a number from 0 to 1"),
    (lambda: RandomErasing(scale=(0.5, 0.2)), r"scale must be \(lowest, highest\)"),
    (lambda: RandomErasing(scale=(0.5, 1.2)), "scale must be a number from 0 to 1"),
    (lambda: RandomErasing(ratio=(0, 1)), "ratio must be a finite number"),
    (lambda: RandomErasing(p=1, fill=-1)(batch(), rng()), "fill -1 does not fit"),
    (lambda: ColorJitter(-0.1), "brightness must be a finite number of at least 0"),
    (lambda: ColorJitter(hue=0.6), "hue must be a number from -0.5 to 0.5"),
    (lambda: ColorJitter(contrast=(1, 2, 3)), "contrast must be a number or"),
    (lambda: ColorJitter(peak=0), "peak must be a finite number above 0"),
    (lambda: RandomRotation(-5), "degrees must be a finite number of at least 0"),
    (lambda: RandomRotation((5, 3)), r"degrees must be \(lowest, highest\)"),
    (lambda: RandomRotation(5, fill=0.5)(batch(), rng()), "fill 0.5 does not fit"),
    (lambda: RandomRotation(5, mask_fill=2)(batch(), rng(), batch()[..., 0] > 5), "fill 2 does"),
    (lambda: RandomAffine(translate=(2, 0)), "translate must be a number from 0 to 1"),
    (lambda: RandomAffine(scale=(0, 1)), "scale must be a finite number"),
    (lambda: RandomAffine(shear=90), "shear must be a number from -89 to 89"),
    (lambda: RandomResizedCrop(0), "size must be at least 1"),
    (lambda: RandomResizedCrop(3, scale=(0.5, 1.5)), "scale must be a number from"),
    (lambda: Transform()(batch(), rng()), "give change"),
    (lambda: Geometric()(batch(), rng()), "give move"),
])
def test_what_cannot_be_is_refused(call, words):
    error = NotImplementedError if words.startswith("give ") and "classes" not in words else \
        SettingError
    with pytest.raises(error, match=None if error is NotImplementedError else words):
        call()
