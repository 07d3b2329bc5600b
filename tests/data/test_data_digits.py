"""The embedded digits: complete, unchanged, split in order."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from tinygrad_cnn.data import digits
from tinygrad_cnn.data.digits import load_digits
from tinygrad_cnn.errors import DataError

FOLDER = Path(digits.__file__).parent
CARD = (FOLDER / "DIGITS.md").read_text(encoding="utf-8")


def test_digits_are_1797_images_of_8_by_8_from_0_to_16():
    train, test = load_digits()
    images = np.concatenate([train.images, test.images])
    assert images.shape == (1797, 8, 8, 1)
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 16)
    assert train.peak == test.peak == 16


def test_digits_split_in_order_with_these_class_counts():
    train, test = load_digits()
    assert (len(train), len(test)) == (1400, 397)
    assert list(train.counts().values()) == [139, 143, 137, 144, 140, 141, 142, 140, 135, 139]
    assert list(test.counts().values()) == [39, 39, 40, 39, 41, 41, 39, 39, 39, 41]
    assert train.split == "first 1,400 of 1,797"
    assert test.split == "last 397 of 1,797"
    assert train.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_digits_equal_scikit_learns_copy():
    bundled = pytest.importorskip("sklearn.datasets").load_digits()
    train, test = load_digits()
    assert np.array_equal(np.concatenate([train.images, test.images])[..., 0], bundled.images)
    assert np.array_equal(np.concatenate([train.labels, test.labels]), bundled.target)


def test_digits_file_has_the_checksum_of_the_data_card():
    found = hashlib.sha256((FOLDER / "digits.npz").read_bytes()).hexdigest()
    assert re.findall(r"SHA-256 `([0-9a-f]{64})`", CARD) == [found]


def test_data_card_names_the_counts_that_the_file_has():
    rows = {row[0]: [int(n.replace(",", "")) for n in row[1:]]
            for row in (re.split(r"\s*\|\s*", line.strip("| \n"))
                        for line in CARD.splitlines() if line.startswith(("| train", "| test")))}
    for name, part in zip(("train", "test"), load_digits(), strict=True):
        assert rows[name] == [*part.counts().values(), len(part)]


@pytest.mark.parametrize("damage", [
    lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),          # one bit
    lambda raw: raw[:-1],                                 # cut off
    lambda raw: raw + b"\0",                              # appended
])
def test_damaged_digits_are_refused(damage, tmp_path, monkeypatch):
    path = tmp_path / "digits.npz"
    path.write_bytes(damage((FOLDER / "digits.npz").read_bytes()))
    monkeypatch.setattr(digits, "_FILE", path)
    with pytest.raises(DataError, match=r"digits\.npz"):
        load_digits()


def test_digits_cannot_be_written_to():
    train, _ = load_digits()
    with pytest.raises(ValueError, match="read-only"):
        train.images[0, 0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        train.labels[0] = 1
