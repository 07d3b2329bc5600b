"""From a name or a path to a data set.

A name always means the published pixels, which are checked by their checksums; a path is read as it
is.  Nothing is ever downloaded.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

from tinygrad_cnn.data.dataset import Splits
from tinygrad_cnn.data.digits import load_digits
from tinygrad_cnn.data.formats import (
    ARCHIVES,
    BINARY_FILES,
    IDX_FILES,
    PYTHON_FILES,
    idx_file,
    is_image_folder,
    load_cifar10,
    load_idx,
    load_image_folder,
)
from tinygrad_cnn.data.safe_io import PUBLISHED, reads_files
from tinygrad_cnn.errors import DataError, SettingError

__all__ = ["NAMES", "find", "load"]

NAMES = ("digits", "mnist", "fashion-mnist", "cifar10")

_VARIABLE = "TINYGRAD_CNN_DATA"
_SYSTEM = Path("/usr/share/datasets")                  # where Debian's dataset-* packages put files
_ALIASES = {"fashionmnist": "fashion-mnist", "cifar-10": "cifar10", "fashion": "fashion-mnist"}
_FOLDERS = {
    "mnist": ("mnist", "MNIST/raw", "MNIST"),
    "fashion-mnist": ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw", "FashionMNIST"),
    "cifar10": ("cifar10", "cifar-10", "cifar-10-batches-bin", "cifar-10-batches-py"),
}
_WAYS = {
    "mnist": "fetch the four files train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, "
             "t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz "
             "(https://storage.googleapis.com/cvdf-datasets/mnist/) "
             "into ~/.cache/tinygrad_cnn/mnist",
    "fashion-mnist": "on Debian or Ubuntu: apt install dataset-fashion-mnist\n"
                     "  elsewhere: fetch the four .gz files from data/fashion of "
                     "https://github.com/zalandoresearch/fashion-mnist "
                     "into ~/.cache/tinygrad_cnn/fashion-mnist",
    "cifar10": "fetch cifar-10-binary.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html) into "
               "~/.cache/tinygrad_cnn; it is read as it is, without being unpacked",
}


@reads_files
def find(name: str, *, root: str | Path | None = None) -> Path:
    """Look for a published data set on this machine; never downloads.

    Parameters
    ----------
    name : {"mnist", "fashion-mnist", "cifar10"}
        The set.
    root : str or Path, optional
        The only place to look in: a folder of the set's files, one that holds such a folder, or an
        archive.  Without it the places are the folder that the environment variable
        ``TINYGRAD_CNN_DATA`` names, ``~/.cache/tinygrad_cnn``, and ``/usr/share/datasets``, where
        Debian's package ``dataset-fashion-mnist`` puts its files; the first that has the set wins.

    Returns
    -------
    Path
        The folder with the files, or the archive.
    """
    name = _known(name)
    if name == "digits":
        raise SettingError("find: digits are part of the package; load('digits') reads them")
    places = [Path(root).expanduser()] if root is not None else list(_places())
    for place in places:
        for candidate in (*(place / sub for sub in _FOLDERS[name]), place):
            if (found := _holds(name, candidate)) is not None:
                return found
    searched = "".join(f"\n  {place}{'' if place.exists() else ' (does not exist)'}"
                       for place in places)
    raise DataError(f"{name}: not found; searched{searched}\nWays to get it:\n  {_WAYS[name]}\n"
                    f"  or say where it is: root=…, or the environment variable {_VARIABLE}")


@reads_files
def load(name_or_path: str | Path, *, root: str | Path | None = None,
         size: tuple[int, int] | None = None, mode: str = "RGB") -> Splits:
    """Read a data set: ``train, test = load("digits")``.

    Parameters
    ----------
    name_or_path : str or Path
        ``"digits"`` (embedded), ``"mnist"``, ``"fashion-mnist"``, ``"cifar10"``; or the path of a
        folder with IDX files, CIFAR-10 batches (binary or Python version) or one subfolder of
        pictures for each class; or the path of a CIFAR-10 archive.  What a folder holds is seen
        from its files.
    root : str or Path, optional
        With a name: where to look, see `find`.
    size, mode : optional
        For a folder of pictures: see `load_image_folder`.

    Returns
    -------
    Splits
        The named tuple ``(train, test)`` of two `Dataset`.

    Examples
    --------
    >>> train, test = load("digits")
    >>> len(train), len(test), train.image_shape
    (1400, 397, (8, 8, 1))
    """
    name = _canonical(name_or_path) if isinstance(name_or_path, str) else ""
    if name in NAMES:
        if size is not None or mode != "RGB":
            raise SettingError(f"load: size and mode are for folders of pictures, not for {name!r}")
        if name == "digits":
            return load_digits()
        where = find(name, root=root)
        if name == "cifar10":
            return load_cifar10(where, digests=PUBLISHED[name])
        return load_idx(where, name=name, digests=PUBLISHED[name])
    path = Path(name_or_path).expanduser()
    if not path.exists():
        _known(str(name_or_path), also_path=True)
    if root is not None:
        raise SettingError(f"load: root goes with a name, not with the path {path}")
    return _load_path(path, size, mode)


def _load_path(path: Path, size: tuple[int, int] | None, mode: str) -> Splits:
    """Read whatever the path holds."""
    kind = _detect(path)
    if kind == "pictures":
        return load_image_folder(path, size=size, mode=mode)
    if size is not None or mode != "RGB":
        raise SettingError(f"load: size and mode are for folders of pictures; {path} holds {kind}")
    return load_idx(path) if kind == "IDX files" else load_cifar10(path)


def _detect(path: Path) -> str:
    if path.is_file():
        if path.name.endswith((".tar.gz", ".tgz")):
            return "a CIFAR-10 archive"
        raise DataError(f"{path}: is a file; give the folder of a data set, or a CIFAR-10 archive "
                        "(.tar.gz).  Arrays of your own go to DataLoader(images, labels)")
    if any(idx_file(path, stem) for stem in IDX_FILES):
        return "IDX files"
    if any((path / name).is_file() for name in (*BINARY_FILES, *PYTHON_FILES)):
        return "CIFAR-10 batches"
    if is_image_folder(path):
        return "pictures"
    raise DataError(f"{path}: holds no data set: neither IDX files ({IDX_FILES[0]}, …) nor "
                    f"CIFAR-10 batches ({BINARY_FILES[0]} or {PYTHON_FILES[0]}, …) nor a subfolder "
                    "of pictures for each class")


def _holds(name: str, path: Path) -> Path | None:
    """``path``, or an archive in it, if the whole set is there."""
    if name != "cifar10":
        return path if all(idx_file(path, stem) for stem in IDX_FILES) else None
    if path.is_file():
        return path if path.name in ARCHIVES else None
    for names in (BINARY_FILES, PYTHON_FILES):
        if all((path / file).is_file() for file in names):
            return path
    return next((path / file for file in ARCHIVES if (path / file).is_file()), None)


def _places() -> Iterator[Path]:
    if os.environ.get(_VARIABLE):
        yield Path(os.environ[_VARIABLE]).expanduser()
    # A user without a home has no cache.
    home = os.path.expanduser("~")
    if home != "~":
        yield Path(home, ".cache", "tinygrad_cnn")
    yield _SYSTEM


def _canonical(name: str) -> str:
    plain = name.strip().lower().replace("_", "-").replace(" ", "-")
    return _ALIASES.get(plain, plain)


def _known(name: str, *, also_path: bool = False) -> str:
    plain = _canonical(name)
    if plain in NAMES:
        return plain
    close = difflib.get_close_matches(plain, NAMES, n=1)
    raise SettingError(f"load: {name!r} is neither a data set ({', '.join(NAMES)}) nor an existing "
                       "path" + (f"; did you mean {close[0]!r}?" if close else "") if also_path else
                       f"find: there is no data set {name!r}; choose from {', '.join(NAMES)}"
                       + (f"; did you mean {close[0]!r}?" if close else ""))
