"""What every reader returns: images, labels and the names of the classes, checked once.

Arrays only: a data set knows nothing of tensors, models or training.  Images are ``N H W C``,
labels ``N`` (int64).  Both are read-only views, so that no step of a training run can change the
data behind the back of another.

Other data are plain arrays, or tuples and dicts of arrays that have one sample at each index.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinygrad_cnn.errors import DataError
from tinygrad_cnn.types import Array

__all__ = ["Array", "Arrays", "Dataset", "Splits", "check_arrays", "check_images", "check_labels",
           "digest", "leaves", "map_arrays"]

Arrays = Array | tuple["Arrays", ...] | dict[str, "Arrays"]
Index = slice | Array


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images with their labels, read-only and checked.

    Parameters
    ----------
    name : str
        What the set is called, for example ``"digits"``.
    images : array, shape (N, H, W, C), uint8, float32 or float64
        The pixels as the file has them: nothing is scaled.
    labels : array of integers, shape (N,)
        The class of each image, 0 <= label < len(classes).  Kept as int64.
    classes : tuple of str
        The name of each class, in the order of the labels.
    split : str
        Which part of which whole this is, in words: to be printed beside every accuracy.
    peak : float, default 255.0
        The value of the brightest possible pixel; ``ToFloat(1 / peak)`` gives 0 to 1.
    source : str, default ""
        The file or folder that the arrays came from.

    Notes
    -----
    ``dataset[3]`` is one (image, label), as ``for`` gives them; ``dataset[:10]`` and an array of
    indices or of booleans are a part, a `Dataset` of its own.  The arrays are not copied unless the
    labels' dtype changes; whoever keeps the array that was given can still write to it.

    Examples
    --------
    >>> import numpy as np
    >>> pairs = Dataset("pairs", np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 1]),
    ...                 ("left", "right"), split="both images")
    >>> pairs
    Dataset('pairs', 2 images of 4 × 4 × 1 uint8, 2 classes, split: both images)
    >>> pairs.counts(), pairs[0][1], len(pairs[1:])
    ({'left': 1, 'right': 1}, 0, 1)
    """

    name: str
    images: Array
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    split: str
    peak: float = 255.0
    source: str = ""

    def __post_init__(self) -> None:
        classes = tuple(self.classes)
        if not classes:
            raise DataError(f"{self.name}: there are no classes")
        if not (math.isfinite(self.peak) and self.peak > 0):
            raise DataError(f"{self.name}: peak must be a number above 0, got {self.peak}")
        images = check_images(self.images, where=self.name)
        if len(images) == 0:
            raise DataError(f"{self.name}: there are no images ({self.split})")
        labels = check_labels(self.labels, len(images), classes=len(classes), where=self.name)
        if labels.ndim != 1:
            raise DataError(f"{self.name}: labels must be class numbers of shape ({len(images)},), "
                            f"got shape {labels.shape}; DataLoader(images, labels) takes others")
        for field, value in (("images", images), ("labels", labels)):
            view = value.view()
            view.flags.writeable = False
            object.__setattr__(self, field, view)
        object.__setattr__(self, "classes", classes)

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> tuple[Array, int]: ...

    @overload
    def __getitem__(self, index: Index) -> Dataset: ...

    def __getitem__(self, index: int | Index) -> tuple[Array, int] | Dataset:
        if isinstance(index, (int, np.integer)):
            return self.images[index], int(self.labels[index])
        return self.subset(index)

    def __iter__(self) -> Iterator[tuple[Array, int]]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        size = " × ".join(map(str, self.image_shape))
        return (f"Dataset({self.name!r}, {len(self):,} images of {size} {self.images.dtype}, "
                f"{len(self.classes)} classes, split: {self.split})")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image."""
        _, h, w, c = self.images.shape
        return h, w, c

    def counts(self) -> dict[str, int]:
        """How many images each class has, in the order of the labels."""
        found = np.bincount(self.labels, minlength=len(self.classes))
        return dict(zip(self.classes, found.tolist(), strict=True))

    def subset(self, index: Index, *, split: str | None = None) -> Dataset:
        """The images that ``index`` selects, as a set of their own.

        Parameters
        ----------
        index : slice, array of integers or array of bool
            As in ``images[index]``; nothing selected is a DataError.
        split : str, optional
            How to name the part; without it, the number taken is put before the present words.
        """
        images = self.images[index]
        words = split if split is not None else f"{len(images):,} of: {self.split}"
        return replace(self, images=images, labels=self.labels[index], split=words)

    def digest(self) -> str:
        """SHA-256 over shapes, dtypes, pixels and labels, in hexadecimal.

        Two runs with the same digest saw the same data, whatever files it came from.
        """
        return digest((self.images, self.labels))


def digest(arrays: object) -> str:
    """SHA-256 over shapes, dtypes and values of arrays, and of tuples, lists and dicts of them."""
    found = hashlib.sha256()

    def add(part: object) -> None:
        if isinstance(part, Mapping):
            for name, one in part.items():
                found.update(repr(name).encode())
                add(one)
        elif isinstance(part, (tuple, list)):
            for one in part:
                add(one)
        elif part is not None:
            array = np.asarray(part)
            found.update(f"{array.dtype.str}{array.shape}".encode())
            found.update(np.ascontiguousarray(array).data)
    add(arrays)
    return found.hexdigest()


class Splits(NamedTuple):
    """The two halves of a data set: ``train, test = load("digits")``."""

    train: Dataset
    test: Dataset


def check_images(images: ArrayLike, *, where: str) -> Array:
    """``images`` as an array N H W C of uint8, float32 or float64, or a DataError.

    An integer array of another dtype is refused rather than converted: its range is unknown.
    """
    array = np.asarray(images)
    if array.ndim != 4:
        cure = "; add the channel: images[..., np.newaxis]" if array.ndim == 3 else ""
        raise DataError(f"{where}: images must have 4 axes (N, H, W, C), got shape "
                        f"{array.shape}{cure}")
    if 0 in array.shape[1:]:
        raise DataError(f"{where}: images of shape {array.shape[1:]} have no pixels")
    if array.dtype not in (np.uint8, np.float32, np.float64):
        raise DataError(f"{where}: images must be uint8, float32 or float64, got {array.dtype}; "
                        "convert them: images.astype(np.float32)")
    _refuse_nan(array, f"{where}: image")
    return array


def _refuse_nan(array: Array, what: str) -> None:
    """Name the first entry along axis 0 that is not finite."""
    # min and max carry NaN and infinity through without making an array of booleans
    if (array.dtype.kind in "fc" and array.size
            and not (np.isfinite(array.min()) and np.isfinite(array.max()))):
        first = int(np.argmin(np.isfinite(array).reshape(len(array), -1).all(1)))
        raise DataError(f"{what} {first} holds NaN or infinity")


def check_labels(labels: ArrayLike, count: int, *, classes: int | None = None,
                 where: str) -> Array:
    """Class numbers (N,) as int64, or one-hot or soft labels (N, K > 1) as they are.

    Anything else is a DataError in the name of ``where``: another number than ``count``, what is no
    number, NaN, negative, a fraction, or not below ``classes``.
    """
    array = np.asarray(labels)
    if array.ndim not in (1, 2) or array.shape[1:] == (1,):
        cure = "; drop the last axis: labels[:, 0]" if array.shape[1:] == (1,) else ""
        raise DataError(f"{where}: labels must have shape (N,), or (N, K) when one-hot or soft, "
                        f"got {array.shape}{cure}")
    if len(array) != count:
        raise DataError(f"{where}: {count:,} images but {len(array):,} labels")
    if array.dtype.kind not in "iuf":
        raise DataError(f"{where}: labels must be numbers, got dtype {array.dtype}")
    if array.dtype.kind == "f":
        _refuse_bad_floats(array, where)
    if array.ndim == 2:
        if classes is not None and array.shape[1] != classes:
            raise DataError(f"{where}: labels have {array.shape[1]} columns for {classes} classes")
        return array
    bad = array < 0 if classes is None else (array < 0) | (array >= classes)
    if bad.any():
        first = int(np.argmax(bad))
        limit = "" if classes is None else f"; there are {classes} classes, 0 to {classes - 1}"
        raise DataError(f"{where}: label {array[first]} of image {first} names no class{limit}")
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{where}: label {array.max()} does not fit into 64 bits")
    return array.astype(np.int64)


def _refuse_bad_floats(array: Array, where: str) -> None:
    """Soft labels are finite floats; class numbers are not floats at all."""
    finite = np.isfinite(array)
    if not finite.all():
        first = int(np.argmin(finite.reshape(len(array), -1).all(1)))
        raise DataError(f"{where}: the label of image {first} is {array[first]}; "
                        "labels must be finite")
    if array.ndim == 1:
        raise DataError(f"{where}: labels must be integers, got {array.dtype}; "
                        "convert them: labels.astype(np.int64)")


# ---- arrays, tuples and dicts of arrays ----------------------------------------------------------

def map_arrays(function: Callable[[Array], Array], arrays: Arrays) -> Arrays:
    """The same structure with ``function`` of each array.

    >>> map_arrays(len, {"a": np.zeros(3), "b": (np.zeros(2), np.zeros(1))})
    {'a': 3, 'b': (2, 1)}
    """
    if isinstance(arrays, Mapping):
        return {key: map_arrays(function, one) for key, one in arrays.items()}
    if isinstance(arrays, tuple):
        return tuple(map_arrays(function, one) for one in arrays)
    return function(arrays)


def leaves(arrays: Arrays) -> list[Array]:
    """The arrays themselves, in order."""
    if isinstance(arrays, Mapping):
        arrays = tuple(arrays.values())
    return [found for one in arrays for found in leaves(one)] if isinstance(arrays, tuple) else \
        [arrays]


def check_arrays(arrays: ArrayLike | Arrays, *, where: str, what: str,
                 count: int | None = None) -> Arrays:
    """Arrays of numbers with one sample at each index, ``count`` of them, all finite."""
    def one(array: ArrayLike) -> Array:
        found = np.asarray(array)
        if found.dtype.kind not in "biufc":
            raise DataError(f"{where}: {what} must be numbers, got dtype {found.dtype}")
        if not found.ndim:
            raise DataError(f"{where}: {what} must have an axis of samples, got the number {found};"
                            " a tuple is taken for several arrays: give np.array(...)")
        sizes.append(len(found))
        if len(set(sizes)) > 1:
            raise DataError(f"{where}: {sizes[0]:,} samples but {sizes[-1]:,} in {what}")
        _refuse_nan(found, f"{where}: {what}: sample")
        return found
    sizes = [] if count is None else [count]
    checked = map_arrays(one, arrays)                                  # type: ignore[arg-type]
    if not sizes or not sizes[-1]:
        raise DataError(f"{where}: there are no samples in {what}")
    return checked
