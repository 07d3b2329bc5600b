"""A data set is checked once, when it is made."""

from __future__ import annotations

import numpy as np
import pytest

from tinygrad_cnn.data import Dataset, check_labels
from tinygrad_cnn.errors import DataError

IMAGES = np.zeros((3, 4, 5, 1), np.uint8)
LABELS = np.array([0, 1, 1])


def dataset(images=IMAGES, labels=LABELS, classes=("no", "yes"), **rest):
    return Dataset("toy", images, labels, classes, split="all three", **rest)


def test_dataset_knows_its_sizes_and_counts():
    toy = dataset()
    assert len(toy) == 3
    assert toy.image_shape == (4, 5, 1)
    assert toy.counts() == {"no": 1, "yes": 2}
    assert toy.labels.dtype == np.int64
    assert repr(toy) == "Dataset('toy', 3 images of 4 × 5 × 1 uint8, 2 classes, split: all three)"


@pytest.mark.parametrize("images, words", [
    (IMAGES[..., 0], r"4 axes \(N, H, W, C\), got shape \(3, 4, 5\); add the channel"),
    (IMAGES[0, :, :, 0], r"4 axes"),
    (IMAGES[:0], "there are no images"),
    (IMAGES[:, :, :0], "have no pixels"),
    (IMAGES.astype(np.int32), "uint8, float32 or float64, got int32"),
    (IMAGES.astype(bool), "got bool"),
    (IMAGES.astype(object), "got object"),
    (np.where(np.arange(3)[:, None, None, None] == 1, np.nan, np.ones((3, 4, 5, 1))),
     "image 1 holds NaN or infinity"),
    (np.full((3, 4, 5, 1), np.inf, np.float32), "image 0 holds NaN or infinity"),
])
def test_dataset_refuses_images(images, words):
    with pytest.raises(DataError, match=words):
        dataset(images=images)


@pytest.mark.parametrize("labels, words", [
    (LABELS[:2], "3 images but 2 labels"),
    (LABELS[:, None], r"got \(3, 1\); drop the last axis"),
    (np.array([0, 1, 2]), "label 2 of image 2 names no class; there are 2 classes, 0 to 1"),
    (np.array([0, -1, 1]), "label -1 of image 1 names no class"),
    (np.array([0.0, np.nan, 1.0]), "label of image 1 is nan; labels must be finite"),
    (np.array([0.0, 1.0, 1.0]), "must be integers, got float64; convert them"),
    (np.array([True, False, True]), "must be numbers, got dtype bool"),
    (np.array(["0", "1", "1"]), "must be numbers"),
    (np.array([0, 1, None]), "must be numbers, got dtype object"),
    (np.eye(3)[:, :2], "takes others"),
    (np.zeros((3, 2, 2), np.int64), r"must have shape \(N,\)"),
])
def test_dataset_refuses_labels(labels, words):
    with pytest.raises(DataError, match=words):
        dataset(labels=labels)


def test_dataset_refuses_no_classes_and_a_peak_of_zero():
    with pytest.raises(DataError, match="no classes"):
        dataset(classes=())
    for peak in (0, -1, np.nan, np.inf):
        with pytest.raises(DataError, match="peak must be a number above 0"):
            dataset(peak=peak)


@pytest.mark.parametrize("labels, words", [
    (np.eye(3), "3 columns for 2 classes"),
    (np.array([[0.5, 0.5], [np.inf, 0], [1, 0]]), "label of image 1"),
])
def test_soft_labels_are_checked_too(labels, words):
    with pytest.raises(DataError, match=words):
        check_labels(labels, 3, classes=2, where="toy")


def test_labels_of_any_integer_dtype_become_int64():
    for dtype in (np.uint8, np.int8, np.int32, np.uint64):
        assert check_labels(LABELS.astype(dtype), 3, where="toy").dtype == np.int64
    with pytest.raises(DataError, match="does not fit into 64 bits"):
        check_labels(np.array([2**63], np.uint64), 1, where="toy")


def test_subset_keeps_the_classes_and_says_what_it_is():
    toy = dataset()
    assert toy.subset(slice(1, None)).labels.tolist() == [1, 1]
    assert toy.subset(toy.labels == 0).split == "1 of: all three"
    assert toy.subset(np.array([2, 0]), split="two").labels.tolist() == [1, 0]
    with pytest.raises(DataError, match="no images"):
        toy.subset(slice(0, 0))


def test_digest_tells_pixels_labels_and_dtypes_apart():
    changed = IMAGES.copy()
    changed[2, 3, 4, 0] = 1
    sets = [dataset(), dataset(images=changed), dataset(labels=np.array([0, 1, 0])),
            dataset(images=IMAGES.astype(np.float32)), dataset(images=IMAGES.reshape(3, 5, 4, 1))]
    assert len({item.digest() for item in sets}) == len(sets)
    assert dataset().digest() == dataset(images=IMAGES.copy(order="F")).digest()


def test_arrays_given_stay_writeable_outside():
    images = IMAGES.copy()
    toy = dataset(images=images)
    assert images.flags.writeable
    assert not toy.images.flags.writeable
