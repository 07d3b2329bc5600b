"""The embedded set: 1,797 handwritten digits of 8 × 8 pixels, values 0 to 16.

Source, citation, license and class counts are in ``DIGITS.md`` beside this file.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np

from tinygrad_cnn.data.dataset import Dataset, Splits
from tinygrad_cnn.data.safe_io import CLASSES
from tinygrad_cnn.errors import DataError
from tinygrad_cnn.files import read_whole

__all__ = ["load_digits"]

_FILE = Path(__file__).with_name("digits.npz")
_BYTES = 45_395
_SHA256 = "516461765719e9f81b246f52d21473a2e9006efb68053ba7c60c53a89fe9dcb6"
_TRAIN = 1_400


def load_digits() -> Splits:
    """Read the embedded digits.

    The split keeps the order of the file: the first 1,400 images train, the last 397 test.  Images
    that are neighbors in the file seem to come from one writer, so a shuffled split puts every
    writer on both sides and flatters the result: always name the split beside an accuracy.

    Returns
    -------
    Splits
        ``train`` (1,400) and ``test`` (397): images N 8 8 1 of uint8 from 0 to 16 (``peak`` is 16),
        ten classes "0" to "9".

    Examples
    --------
    >>> train, test = load_digits()
    >>> train
    Dataset('digits', 1,400 images of 8 × 8 × 1 uint8, 10 classes, split: first 1,400 of 1,797)
    >>> test.images.shape, int(test.images.max())
    ((397, 8, 8, 1), 16)
    """
    raw = read_whole(_FILE, DataError, limit=_BYTES)
    if hashlib.sha256(raw).hexdigest() != _SHA256:
        raise DataError(f"{_FILE}: is damaged: its SHA-256 differs from the one released; install "
                        "tinygrad-cnn again")
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    parts = ((slice(None, _TRAIN), "first 1,400 of 1,797"),
             (slice(_TRAIN, None), "last 397 of 1,797"))
    return Splits(*(Dataset("digits", images[part], labels[part], CLASSES["digits"], split=words,
                            peak=16.0, source=_FILE.name) for part, words in parts))
