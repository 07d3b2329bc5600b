"""The formats of published and own data sets: IDX files, CIFAR-10, folders of pictures.

An **IDX** file (MNIST, Fashion-MNIST and their relatives), plain or gzip, is two zero bytes, a type
code, the number of axes, one big-endian 32-bit size an axis, and the values.  Only type 0x08
(unsigned byte) is read: every set of this family uses it, and 0x09 (signed byte) is one flipped bit
away.

**CIFAR-10** has 32 × 32 color images in ten classes.  Its binary version is a row of records: one
byte of label, then 1,024 bytes each of red, green and blue.  The Python version pickles the same
bytes; `safe_io.read_batch` reads them without running anything.  Both may lie in a folder or in the
archive as it was fetched.

A **folder of pictures** has one subfolder a class, read with Pillow (extra ``train``)::

    flowers/            or   flowers/
      daisy/*.png              train/daisy/*.png  train/rose/*.png
      rose/*.png               test/daisy/*.png   test/rose/*.png

References
----------
LeCun, Cortes & Burges, *The MNIST database of handwritten digits*, section "File formats".

Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, technical report, University of
Toronto, 2009.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn import checks
from tinygrad_cnn.data.dataset import Dataset, Splits
from tinygrad_cnn.data.safe_io import (
    CLASSES,
    PUBLISHED,
    check_digest,
    open_gzip,
    read_batch,
    reads_files,
    tar_members,
)
from tinygrad_cnn.errors import DataError, missing_extra
from tinygrad_cnn.files import GZIP_MAGIC, check_expansion, describe, open_file, read_whole
from tinygrad_cnn.types import Array

__all__ = ["ARCHIVES", "BINARY_FILES", "IDX_FILES", "PYTHON_FILES", "SUFFIXES", "idx_file",
           "is_image_folder", "load_cifar10", "load_idx", "load_image_folder",
           "read_cifar_binary", "read_cifar_python", "read_idx"]


# ---- IDX -----------------------------------------------------------------------------------------

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
    with open_file(path, DataError) as file:
        head = file.read(512)
        file.seek(0)
        size = os.fstat(file.fileno()).st_size
        if head.startswith(GZIP_MAGIC):
            raw, shape = _read_gzip(file, path, ndim, size)
        else:
            raw, shape = _read_plain(file, path, ndim, size, head)
    check_digest(raw.data, digest, path=path, name="the set asked for")
    return raw[4 + 4 * len(shape):].reshape(shape)


def _read_plain(file: BufferedReader, path: Path, ndim: int | None, size: int,
                head: bytes) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    shape = _shape(head, path, ndim)
    total = 4 + 4 * len(shape) + math.prod(shape)
    if size != total:
        raise DataError(f"{path}: is {'cut off' if size < total else 'too long'}: the header "
                        f"announces {shape}, which is {total:,} bytes, but the file has {size:,}")
    raw = np.empty(total, np.uint8)
    got = file.readinto(raw.data)
    if got != total or file.read(1):
        raise DataError(f"{path}: changed while it was read")
    return raw, shape


def _read_gzip(file: BufferedReader, path: Path, ndim: int | None,
               size: int) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    with open_gzip(file, path) as stream:
        head = stream.read(4)
        if len(head) == 4:
            head += stream.read(4 * head[3])
        shape = _shape(head, path, ndim)
        total = len(head) + math.prod(shape)
        check_expansion(total, size, path=path, error=DataError)
        raw = np.empty(total, np.uint8)
        raw[:len(head)] = np.frombuffer(head, np.uint8)
        done = len(head)
        while done < total and (got := stream.readinto(raw.data[done:])):
            done += got
        if done < total:
            raise DataError(f"{path}: is cut off: the header announces {shape}, which is "
                            f"{total:,} bytes, but {done:,} were found")
        if stream.read(1):
            raise DataError(f"{path}: holds more than its header announces")
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
        words = {1: "1 (labels)", 3: "3 (gray images)"}.get(ndim or 0, "1 to 4")
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


@reads_files
def load_idx(folder: str | Path, *, name: str | None = None,
             digests: Mapping[str, str] | None = None) -> Splits:
    """Read the four IDX files of a folder: training and test, images and labels.

    Parameters
    ----------
    folder : str or Path
        Holds ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte``
        and ``t10k-labels-idx1-ubyte``, each plain or ``.gz``.
    name : str, optional
        What the set is called.  Without it, MNIST and Fashion-MNIST are recognized by their labels;
        any other set is called ``"idx"`` and its classes "0", "1", ….
    digests : mapping of file name to "sha256:…", optional
        Checksums that the unpacked files must have.

    Returns
    -------
    Splits
        ``train`` and ``test``, images N H W 1 of uint8.
    """
    folder = Path(folder)
    paths = {stem: idx_file(folder, stem) for stem in IDX_FILES}
    missing = [stem for stem, path in paths.items() if path is None]
    if missing:
        raise DataError(f"{folder}: lacks {', '.join(missing)} (plain or .gz)")
    wanted = digests or {}
    arrays: dict[str, Array] = {
        stem: read_idx(path, ndim=3 if "images" in stem else 1, digest=wanted.get(stem))
        for stem, path in paths.items() if path is not None}
    train_x, train_y, test_x, test_y = (arrays[stem] for stem in IDX_FILES)
    if train_x.shape[1:] != test_x.shape[1:]:
        raise DataError(f"{folder}: training images are {train_x.shape[1:]} but test images "
                        f"{test_x.shape[1:]}")
    name = name or _recognize(arrays)
    classes = CLASSES.get(name) or tuple(map(str, range(int(max(train_y.max(), test_y.max())) + 1)))
    return Splits(*(
        Dataset(name, x[..., np.newaxis], y, classes, split=f"{name} {part} ({len(x):,} images)",
                source=str(folder))
        for part, x, y in (("training set", train_x, train_y), ("test set", test_x, test_y))))


def _recognize(arrays: Mapping[str, Array]) -> str:
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


# ---- CIFAR-10 ------------------------------------------------------------------------------------

PYTHON_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
BINARY_FILES = tuple(f"{name}.bin" for name in PYTHON_FILES)
ARCHIVES = {"cifar-10-binary.tar.gz": BINARY_FILES, "cifar-10-python.tar.gz": PYTHON_FILES}

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_RECORD = 1 + _PIXELS
_MAX_FILE = 128 << 20         # four times a batch of either version

_Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]


def read_cifar_binary(raw: bytes, *, path: str) -> _Batch:
    """Images (N, 32, 32, 3) and labels (N,) from one file of the binary version.

    ``raw`` holds whole records of 3,073 bytes; ``path`` is its name in messages.

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
    """Images (N, 32, 32, 3) and labels (N,) from one file of the Python version.

    ``raw`` is a pickled dict that holds ``data``, N × 3,072 unsigned bytes, and ``labels``, N
    numbers; nothing in it is executed.  ``path`` is its name in messages.
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


@reads_files
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
    whole: list[tuple[str, Array, Array]] = [
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
            yield name, read_whole(folder / name, DataError, limit=_MAX_FILE)


def _archive_files(path: Path) -> Iterator[tuple[str, bytes]]:
    return tar_members(path, {*BINARY_FILES, *PYTHON_FILES}, limit=_MAX_FILE)


# ---- folders of pictures -------------------------------------------------------------------------

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pbm",
                      ".tif", ".tiff"})
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
_MODES = {"L": 1, "RGB": 3, "RGBA": 4}
_MAX_PIXELS = 64_000_000
_TEST_PARTS = ("test", "val", "valid", "validation")


def is_image_folder(path: Path) -> bool:
    """Whether ``path`` has a subfolder with pictures, one or two levels down."""
    return any(_pictures(sub) or any(_pictures(below) for below in _subfolders(sub))
               for sub in _subfolders(path))


@reads_files
def load_image_folder(root: str | Path, *, size: tuple[int, int] | None = None,
                      mode: str = "RGB") -> Splits:
    """Read pictures whose folder names their class.

    With the subfolders ``train`` and ``test`` (or ``val``, ``valid``, ``validation``) these are the
    two parts.  Without them the last fifth of each class, in the order of the file names, is the
    test set: neighbors in that order are often frames of one film or pictures of one person, and a
    shuffled split would put them on both sides.

    Parameters
    ----------
    root : str or Path
        The folder.  Classes are sorted by name; names that begin with a dot are passed over, and so
        are files without a picture's suffix.
    size : (int, int), pixels, optional
        (H, W) to which each picture is resized (bilinear); without it all must have one size.
    mode : {"RGB", "L", "RGBA"}, default "RGB"
        Color, gray or color with transparency: 3, 1 or 4 channels.

    Returns
    -------
    Splits
        ``train`` and ``test``, images N H W C of uint8.
    """
    root = Path(root)
    checks.choice("load_image_folder", "mode", mode, tuple(_MODES))
    if size is not None:
        size = checks.pair("load_image_folder", "size", size, minimum=1)
    if not root.is_dir():
        raise DataError(f"{root}: is not a folder")
    train, test, words = _split(root)
    classes = tuple(train)
    if tuple(test) != classes:
        odd = sorted(set(train) ^ set(test))
        raise DataError(f"{root}: training and test part must have the same classes; only one has "
                        f"{', '.join(odd)}")
    reader = _Reader(size, mode)
    return Splits(*(_part(root, part, classes, text, reader)
                    for part, text in zip((train, test), words, strict=True)))


def _split(root: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]], tuple[str, str]]:
    """Files by class for training and for test, and what to call the two parts."""
    parts = {sub.name: sub for sub in _subfolders(root)}
    test = next((name for name in _TEST_PARTS if name in parts), None)
    if "train" in parts and test is not None:
        return (_classes(parts["train"]), _classes(parts[test]),
                (f"folder {root.name}/train", f"folder {root.name}/{test}"))
    whole = _classes(root)
    single = [name for name, files in whole.items() if len(files) < 2]
    if single:
        raise DataError(f"{root}: class {single[0]!r} has one picture, which cannot be split into "
                        "training and test; add pictures, or make the subfolders train and test")
    held_out = {name: max(1, len(files) // 5) for name, files in whole.items()}
    return ({name: files[:-held_out[name]] for name, files in whole.items()},
            {name: files[-held_out[name]:] for name, files in whole.items()},
            (f"first four fifths of each class of {root.name}, by file name",
             f"last fifth of each class of {root.name}, by file name"))


def _subfolders(path: Path) -> list[Path]:
    return sorted(sub for sub in path.iterdir() if sub.is_dir() and not sub.name.startswith("."))


def _pictures(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES
                  and not file.name.startswith(".") and file.is_file())


def _classes(path: Path) -> dict[str, list[Path]]:
    found = {sub.name: _pictures(sub) for sub in _subfolders(path)}
    if not found:
        raise DataError(f"{path}: has no subfolders; each class needs one, named after it")
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise DataError(f"{path / empty[0]}: holds no pictures ({', '.join(sorted(SUFFIXES))})")
    return found


def _part(root: Path, files: dict[str, list[Path]], classes: Sequence[str], words: str,
          reader: _Reader) -> Dataset:
    paths = [path for name in classes for path in files[name]]
    labels = np.repeat(np.arange(len(classes)), [len(files[name]) for name in classes])
    images: NDArray[np.uint8] | None = None
    for i, path in enumerate(paths):
        image = reader.read(path)                                            # H W C
        if images is None:
            images = np.empty((len(paths), *image.shape), np.uint8)
        images[i] = image
    assert images is not None, "a class without pictures was refused above"
    return Dataset(root.name, images, labels, tuple(classes), split=words, source=str(root))


class _Reader:
    """Pictures as arrays H W C of one size; the first picture sets it if nothing else does."""

    def __init__(self, size: tuple[int, int] | None, mode: str) -> None:
        try:
            from PIL import Image, ImageOps
        except ImportError:
            raise missing_extra("pillow", extra="train", purpose="image folders") from None
        self._image: Any = Image
        self._upright: Any = ImageOps.exif_transpose
        self._size = size
        self._mode = mode
        self._first: tuple[Path, tuple[int, int]] | None = None

    def read(self, path: Path) -> NDArray[np.uint8]:
        with open_file(path, DataError) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")           # Pillow's remarks on metadata and large files
            head = file.read(512)
            file.seek(0)
            try:
                picture = self._open(file, path)
            except DataError:
                raise
            # Pillow's decoders raise many kinds of error on a damaged file
            except Exception as error:
                why = str(error).partition(" <")[0]   # without the object that was read from
                raise DataError(f"{path}: is not a picture that can be read, but {describe(head)}: "
                                f"{why}") from None
        pixels = np.asarray(picture, np.uint8)                               # H W, or H W C
        height_width = (pixels.shape[0], pixels.shape[1])
        if self._first is None:
            self._first = path, height_width
        first_path, first_size = self._first
        if height_width != first_size:
            raise DataError(f"{path}: is {height_width} pixels (H, W), but {first_path} is "
                            f"{first_size}; give size=(H, W) to resize all")
        return pixels.reshape(*height_width, _MODES[self._mode])

    def _open(self, file: BufferedReader, path: Path) -> Any:
        with self._image.open(file, formats=_FORMATS) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise DataError(f"{path}: has {picture.width} × {picture.height} pixels, more "
                                f"than {_MAX_PIXELS:,}")
            check_expansion(picture.width * picture.height * len(picture.getbands()),
                            os.fstat(file.fileno()).st_size, path=path, error=DataError)
            if picture.mode.startswith(("I", "F")):
                raise DataError(f"{path}: has pixels of mode {picture.mode}, more than 8 bits "
                                "each; convert it first")
            upright = self._upright(picture).convert(self._mode)
        if self._size is not None:
            height, width = self._size
            upright = upright.resize((width, height), self._image.Resampling.BILINEAR)
        return upright
