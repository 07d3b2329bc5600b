"""A folder of pictures: one subfolder a class, read with Pillow (extra ``train``).

::

    flowers/            or   flowers/
      daisy/*.png              train/daisy/*.png  train/rose/*.png
      rose/*.png               test/daisy/*.png   test/rose/*.png
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.data.dataset import Dataset, Splits
from tinygrad_cnn.errors import DataError, SettingError, missing_extra

__all__ = ["SUFFIXES", "is_image_folder", "load_image_folder"]

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


def load_image_folder(root: str | Path, *, size: tuple[int, int] | None = None,
                      mode: str = "RGB") -> Splits:
    """Read pictures whose folder names their class.

    With the subfolders ``train`` and ``test`` (or ``val``, ``valid``, ``validation``) these are the
    two parts.  Without them the last fifth of each class, in the order of the file names, is the
    test set: neighbours in that order are often frames of one film or pictures of one person, and a
    shuffled split would put them on both sides.

    Parameters
    ----------
    root : str or Path
        The folder.  Classes are sorted by name; names that begin with a dot are passed over, and so
        are files without a picture's suffix.
    size : (int, int), pixels, optional
        (H, W) to which each picture is resized (bilinear); without it all must have one size.
    mode : {"RGB", "L", "RGBA"}, default "RGB"
        Colour, grey or colour with transparency: 3, 1 or 4 channels.

    Returns
    -------
    Splits
        ``train`` and ``test``, images N H W C of uint8.

    Raises
    ------
    MissingExtraError
        If Pillow is not installed.
    SettingError
        If ``size`` is not two numbers from 1, or ``mode`` is unknown.
    DataError
        If there is no class, a class is empty or lacks in one part, a class of one picture would
        have to be split, a picture is damaged or above 64 million pixels, or sizes differ.
    """
    root = Path(root)
    if mode not in _MODES:
        raise SettingError(f"load_image_folder: mode must be one of {', '.join(_MODES)}, "
                           f"got {mode!r}")
    if size is not None and not (len(size) == 2 and all(
            isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 1 for n in size)):
        raise SettingError(f"load_image_folder: size must be (H, W), both at least 1, got {size!r}")
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
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")       # Pillow's remarks on metadata and large files
                picture = self._open(path)
        except DataError:
            raise
        # Pillow's decoders raise many kinds of error on a damaged file
        except Exception as error:
            raise DataError(f"{path}: is not a picture that can be read: {error}") from error
        pixels = np.asarray(picture, np.uint8)                               # H W, or H W C
        height_width = (pixels.shape[0], pixels.shape[1])
        if self._first is None:
            self._first = path, height_width
        first_path, first_size = self._first
        if height_width != first_size:
            raise DataError(f"{path}: is {height_width} pixels (H, W), but {first_path} is "
                            f"{first_size}; give size=(H, W) to resize all")
        return pixels.reshape(*height_width, _MODES[self._mode])

    def _open(self, path: Path) -> Any:
        with self._image.open(path, formats=_FORMATS) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise DataError(f"{path}: has {picture.width} × {picture.height} pixels, more "
                                f"than {_MAX_PIXELS:,}")
            if picture.mode.startswith(("I", "F")):
                raise DataError(f"{path}: has pixels of mode {picture.mode}, more than 8 bits "
                                "each; convert it first")
            upright = self._upright(picture).convert(self._mode)
        if self._size is not None:
            height, width = self._size
            upright = upright.resize((width, height), self._image.Resampling.BILINEAR)
        return upright
