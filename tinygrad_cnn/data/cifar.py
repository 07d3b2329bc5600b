"""CIFAR-10: 32 × 32 colour images in ten classes, in both formats of its authors.

The binary version is a row of records: one byte of label, then 1,024 bytes each of red, green and
blue.  The Python version pickles the same bytes; `opcodes` reads them without running anything.
Both may lie in a folder or in the archive as it was fetched.

References
----------
Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, technical report, University of
Toronto, 2009.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.data.archive import tar_members
from tinygrad_cnn.data.dataset import Dataset, Splits
from tinygrad_cnn.data.files import check_digest, describe, read_whole
from tinygrad_cnn.data.opcodes import read_batch
from tinygrad_cnn.data.published import CLASSES
from tinygrad_cnn.errors import DataError

__all__ = ["ARCHIVES", "BINARY_FILES", "PYTHON_FILES", "load_cifar10", "read_cifar_binary",
           "read_cifar_python"]

PYTHON_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
BINARY_FILES = tuple(f"{name}.bin" for name in PYTHON_FILES)
ARCHIVES = {"cifar-10-binary.tar.gz": BINARY_FILES, "cifar-10-python.tar.gz": PYTHON_FILES}

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_RECORD = 1 + _PIXELS
_MAX_FILE = 128 << 20         # four times a batch of either version

_Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]


def read_cifar_binary(raw: bytes, *, path: str) -> _Batch:
    """Images and labels from one file of the binary version.

    Parameters
    ----------
    raw : bytes
        Whole records of 3,073 bytes.
    path : str
        What to call the file in messages.

    Returns
    -------
    images : array of uint8, shape (N, 32, 32, 3)
    labels : array of int64, shape (N,)

    Raises
    ------
    DataError
        If the file is empty or no whole number of records, or a label is above 9.

    Examples
    --------
    >>> images, labels = read_cifar_binary(bytes([6]) + bytes(range(256)) * 12, path="example")
    >>> images.shape, labels
    ((1, 32, 32, 3), array([6]))
    >>> images[0, 0, :3]
    array([[0, 0, 0],
           [1, 1, 1],
           [2, 2, 2]], dtype=uint8)
    """
    if not raw or len(raw) % _RECORD:
        raise DataError(f"{path}: has {len(raw):,} bytes, which is no whole number of records of "
                        f"{_RECORD:,}; it is cut off, or {describe(raw[:512])}")
    records = np.frombuffer(raw, np.uint8).reshape(-1, _RECORD)
    return _pixels(records[:, 1:]), _labels(records[:, 0], path)


def read_cifar_python(raw: bytes, *, path: str) -> _Batch:
    """Images and labels from one file of the Python version; nothing in it is executed.

    Parameters
    ----------
    raw : bytes
        A pickled dict that holds ``data``, N × 3,072 unsigned bytes, and ``labels``, N numbers.
    path : str
        What to call the file in messages.

    Returns
    -------
    images : array of uint8, shape (N, 32, 32, 3)
    labels : array of int64, shape (N,)

    Raises
    ------
    DataError
        If the stream is not such a dict (see `opcodes.read_batch`), or a label is not 0 to 9.
    """
    batch = read_batch(raw, path=path)
    data, labels = batch.get("data"), batch.get("labels")
    if "fine_labels" in batch:
        raise DataError(f"{path}: is a file of CIFAR-100; only CIFAR-10 is read")
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != _PIXELS:
        shape = data.shape if isinstance(data, np.ndarray) else "no array"
        raise DataError(f"{path}: data must be an array N × {_PIXELS:,}, found {shape}")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{path}: labels must be a list of integers")
    if len(labels) != len(data):
        raise DataError(f"{path}: {len(data):,} images but {len(labels):,} labels")
    wrong = next((i for i, label in enumerate(labels) if not 0 <= label <= 9), None)
    if wrong is not None:
        raise DataError(f"{path}: label {labels[wrong]} of image {wrong} is not 0 to 9")
    return _pixels(data), np.array(labels, np.int64)


def _pixels(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """N (C H W) -> N H W C, copied."""
    return np.ascontiguousarray(planes.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))


def _labels(labels: NDArray[np.uint8], path: str) -> NDArray[np.int64]:
    if labels.max() > 9:
        first = int(np.argmax(labels > 9))
        raise DataError(f"{path}: label {labels[first]} of record {first} is not 0 to 9; the file "
                        "is damaged, or its records are of another size")
    return labels.astype(np.int64)


def load_cifar10(path: str | Path, *, digests: Mapping[str, str] | None = None) -> Splits:
    """Read CIFAR-10 from a folder or from the archive as its authors publish it.

    Parameters
    ----------
    path : str or Path
        A folder with ``data_batch_1.bin`` … ``data_batch_5.bin`` and ``test_batch.bin``, or the
        same six without ``.bin`` (Python version); or an archive of either, ``.tar.gz``, which is
        read without being extracted.
    digests : mapping of file name to checksum, optional
        What the six files must hash to.

    Returns
    -------
    Splits
        ``train`` and ``test``, images N 32 32 3 of uint8.

    Raises
    ------
    DataError
        If one of the six files is missing, or bad in a way that `read_cifar_binary` or
        `read_cifar_python` names, or misses its checksum.
    """
    path = Path(path)
    found: dict[str, _Batch] = {}
    for name, raw in _archive_files(path) if path.is_file() else _folder_files(path):
        check_digest(raw, (digests or {}).get(name), path=f"{path}: {name}", name="CIFAR-10")
        read = read_cifar_binary if name.endswith(".bin") else read_cifar_python
        short = name.removesuffix(".bin")
        if short in found:
            raise DataError(f"{path}: holds {short} in both versions; keep one")
        found[short] = read(raw, path=f"{path}: {name}")
    missing = [name for name in PYTHON_FILES if name not in found]
    if missing:
        raise DataError(f"{path}: lacks {', '.join(missing)} of CIFAR-10 (each with .bin in the "
                        "binary version, without in the Python version)")
    *train, test = (found[name] for name in PYTHON_FILES)
    whole: list[tuple[str, NDArray[Any], NDArray[Any]]] = [
        ("training set", np.concatenate([x for x, _ in train]),
         np.concatenate([y for _, y in train])),
        ("test set", *test)]
    return Splits(*(Dataset("cifar10", x, y, CLASSES["cifar10"], source=str(path),
                            split=f"cifar10 {part} ({len(x):,} images)") for part, x, y in whole))


def _folder_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The binary version if it is there, else the Python version; one file in memory at a time."""
    binary = any((folder / name).is_file() for name in BINARY_FILES)
    for name in BINARY_FILES if binary else PYTHON_FILES:
        if (folder / name).is_file():
            yield name, read_whole(folder / name, limit=_MAX_FILE)


def _archive_files(path: Path) -> Iterator[tuple[str, bytes]]:
    return tar_members(path, {*BINARY_FILES, *PYTHON_FILES}, limit=_MAX_FILE)
