"""The IDX files of MNIST, Fashion-MNIST and their relatives, plain or gzip.

An IDX file is two zero bytes, a type code, the number of axes, one big-endian 32-bit size an axis,
and the values.  Only type 0x08 (unsigned byte) is read: every set of this family uses it, and 0x09
(signed byte) is one flipped bit away.

References
----------
LeCun, Cortes & Burges, *The MNIST database of handwritten digits*, section "File formats".
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.data.dataset import Dataset, Splits
from tinygrad_cnn.data.files import (
    GZIP_MAGIC,
    GzipStream,
    check_digest,
    check_expansion,
    describe,
    open_file,
)
from tinygrad_cnn.data.published import CLASSES, PUBLISHED
from tinygrad_cnn.errors import DataError

__all__ = ["IDX_FILES", "idx_file", "load_idx", "read_idx"]

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
             "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

_UNSIGNED_BYTE = 0x08


def read_idx(path: str | Path, *, ndim: int | None = None,
             digest: str | None = None) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes; whether it is gzip is seen from its contents.

    Parameters
    ----------
    path : str or Path
        The file.
    ndim : int, optional
        How many axes it must have: 3 for images, 1 for labels.
    digest : str, optional
        ``"sha256:…"`` of the unpacked file, which must match.

    Returns
    -------
    array of uint8
        Of the shape that the header gives.

    Raises
    ------
    DataError
        If the file is missing, is not IDX, has another type or number of axes, is shorter or longer
        than its header says by a single byte, has anything after the gzip data, fails gzip's own
        checksum, unpacks to more than 100 times its size (above 4 MiB), or misses ``digest``.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "labels-idx1-ubyte")
    >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    >>> read_idx(path, ndim=1)
    array([7, 2, 1], dtype=uint8)
    >>> folder.cleanup()
    """
    path = Path(path)
    with open_file(path) as file:
        head = file.read(512)
        file.seek(0)
        size = os.fstat(file.fileno()).st_size
        if head.startswith(GZIP_MAGIC):
            raw, shape = _read_gzip(GzipStream(file, path), path, ndim, size)
        else:
            raw, shape = _read_plain(file, path, ndim, size, head)
    check_digest(raw.data, digest, path=path, name="the set asked for")
    return raw[4 + 4 * len(shape):].reshape(shape)


def _read_plain(file: BinaryIO, path: Path, ndim: int | None, size: int,
                head: bytes) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    shape = _shape(head, path, ndim)
    total = 4 + 4 * len(shape) + math.prod(shape)
    if size != total:
        raise DataError(f"{path}: is {'cut off' if size < total else 'too long'}: the header "
                        f"announces {shape}, which is {total:,} bytes, but the file has {size:,}")
    raw = np.empty(total, np.uint8)
    got = file.readinto(raw.data)                                    # type: ignore[attr-defined]
    if got != total or file.read(1):
        raise DataError(f"{path}: changed while it was read")
    return raw, shape


def _read_gzip(stream: GzipStream, path: Path, ndim: int | None,
               size: int) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    head = stream.read(4)
    if len(head) == 4:
        head += stream.read(4 * head[3])
    shape = _shape(head, path, ndim)
    total = len(head) + math.prod(shape)
    check_expansion(total, size, path=path)
    raw = np.empty(total, np.uint8)
    raw[:len(head)] = np.frombuffer(head, np.uint8)
    got = stream.read_into(raw.data[len(head):])
    if len(head) + got != total:
        raise DataError(f"{path}: is cut off: the header announces {shape}, which is "
                        f"{total:,} bytes, but {len(head) + got:,} were found")
    stream.finish()
    return raw, shape


def _shape(head: bytes, path: Path, ndim: int | None) -> tuple[int, ...]:
    """The sizes that an IDX header gives, or what is wrong with it."""
    if len(head) < 4 or head[:2] != b"\0\0":
        raise DataError(f"{path}: is not an IDX file but {describe(head)}; an IDX file of bytes "
                        "begins 00 00 08")
    kind, axes = head[2], head[3]
    if kind != _UNSIGNED_BYTE:
        raise DataError(f"{path}: holds IDX values of type 0x{kind:02x}; only 0x08, unsigned "
                        "bytes, is an image or a label")
    if axes not in (range(1, 5) if ndim is None else (ndim,)):
        words = {1: "1 (labels)", 3: "3 (grey images)"}.get(ndim or 0, "1 to 4")
        raise DataError(f"{path}: has {axes} axes, expected {words}")
    if len(head) < 4 + 4 * axes:
        raise DataError(f"{path}: is cut off inside its header")
    shape = tuple(int.from_bytes(head[4 + 4 * i:8 + 4 * i], "big") for i in range(axes))
    if 0 in shape:
        raise DataError(f"{path}: announces the shape {shape}, which holds nothing")
    return shape


def idx_file(folder: Path, stem: str) -> Path | None:
    """Where ``folder`` has the file, under one of the four names in use; None if nowhere."""
    for name in (stem, stem.replace("-idx", ".idx")):
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def load_idx(folder: str | Path, *, name: str | None = None,
             digests: Mapping[str, str] | None = None) -> Splits:
    """Read the four IDX files of a folder: training and test, images and labels.

    Parameters
    ----------
    folder : str or Path
        Holds ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte``
        and ``t10k-labels-idx1-ubyte``, each plain or ``.gz``.
    name : str, optional
        What the set is called.  Without it, MNIST and Fashion-MNIST are recognised by their labels;
        any other set is called ``"idx"`` and its classes "0", "1", ….
    digests : mapping of file name to "sha256:…", optional
        Checksums that the unpacked files must have.

    Returns
    -------
    Splits
        ``train`` and ``test``, images N H W 1 of uint8.

    Raises
    ------
    DataError
        If a file is missing or bad (see `read_idx`), or the numbers of images and labels, or the
        sizes of training and test images, differ.
    """
    folder = Path(folder)
    paths = {stem: idx_file(folder, stem) for stem in IDX_FILES}
    missing = [stem for stem, path in paths.items() if path is None]
    if missing:
        raise DataError(f"{folder}: lacks {', '.join(missing)} (plain or .gz)")
    wanted = digests or {}
    arrays: dict[str, NDArray[Any]] = {
        stem: read_idx(path, ndim=3 if "images" in stem else 1, digest=wanted.get(stem))
        for stem, path in paths.items() if path is not None}
    train_x, train_y, test_x, test_y = (arrays[stem] for stem in IDX_FILES)
    if train_x.shape[1:] != test_x.shape[1:]:
        raise DataError(f"{folder}: training images are {train_x.shape[1:]} but test images "
                        f"{test_x.shape[1:]}")
    name = name or _recognise(arrays)
    classes = CLASSES.get(name) or tuple(map(str, range(int(max(train_y.max(), test_y.max())) + 1)))
    return Splits(*(
        Dataset(name, x[..., np.newaxis], y, classes, split=f"{name} {part} ({len(x):,} images)",
                source=str(folder))
        for part, x, y in (("training set", train_x, train_y), ("test set", test_x, test_y))))


def _recognise(arrays: Mapping[str, NDArray[Any]]) -> str:
    """The published set whose labels these are, or "idx"."""
    labels = [stem for stem in IDX_FILES if "labels" in stem]
    for name in ("mnist", "fashion-mnist"):
        try:
            for stem in labels:
                header = bytes([0, 0, 8, 1]) + len(arrays[stem]).to_bytes(4, "big")
                check_digest(header + arrays[stem].tobytes(), PUBLISHED[name][stem],
                             path=stem, name=name)
        except DataError:
            continue
        return name
    return "idx"
