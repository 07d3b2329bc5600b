"""Weights as an ``.npz`` file: named arrays and nothing else, so that loading one runs no code.

A file is written beside its target and renamed, so that a crash leaves the old file whole.  It is
checked before memory is asked for: what an array claims to hold must be in the file.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from tinygrad_cnn.errors import CheckpointError
from tinygrad_cnn.nn import Module

__all__ = ["load_weights", "save_weights", "write_atomically"]

_LIMIT = 1 << 34                # 16 GiB of one array: more is a damaged header


@contextlib.contextmanager
def write_atomically(path: str | Path) -> Any:
    """A binary file that replaces ``path`` when the block ends well, and vanishes otherwise."""
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror or error}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def save_weights(state: Module | Mapping[str, Any], path: str | Path) -> Path:
    """Write the weights of a model, or named arrays, to an ``.npz`` file.

    Parameters
    ----------
    state : Module, or mapping of str to ndarray
        A model, or what its ``state_dict()`` gives.
    path : path
        The file; replaced as a whole if it exists.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    CheckpointError
        If an array is not of numbers or booleans, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from tinygrad_cnn.io import load_weights, save_weights
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_weights({"w": np.ones(2)}, folder + "/model.npz")
    ...     load_weights(path)
    {'w': array([1., 1.])}
    """
    if isinstance(state, Module):
        state = state.state_dict()
    if not isinstance(state, Mapping):
        raise CheckpointError(f"save_weights: state is a {type(state).__name__}, expected a model "
                              "or its state_dict(), in front of the path")
    arrays = {}
    for name, value in state.items():
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise CheckpointError(f"save_weights: {name} has dtype {array.dtype}; only numbers and "
                                  "booleans are saved")
        arrays[name] = array
    with write_atomically(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                npy.write_array(entry, array, allow_pickle=False)
    return Path(path)


def load_weights(path: str | Path) -> dict[str, NDArray[Any]]:
    """Read the named arrays of an ``.npz`` file.

    Parameters
    ----------
    path : path
        A file that `save_weights` or ``numpy.savez`` wrote.

    Returns
    -------
    dict of str to ndarray
        What ``Module.load_state_dict()`` takes.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or holds anything but arrays of numbers.
    """
    source = Path(path)
    try:
        with zipfile.ZipFile(source) as archive:
            return {entry.filename.removesuffix(".npy"): _read(archive, entry, source)
                    for entry in archive.infolist()}
    except FileNotFoundError:
        raise CheckpointError(f"{source} does not exist") from None
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError,
            RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{source} is not a file of weights: {error}") from None


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, source: Path) -> NDArray[Any]:
    if not entry.filename.endswith(".npy"):
        raise CheckpointError(f"{source} holds {entry.filename!r}, which is not an array")
    with archive.open(entry) as file:
        version = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
        if dtype.kind not in "fiub" or dtype.hasobject:
            raise CheckpointError(f"{source}: {entry.filename} has dtype {dtype}, not numbers")
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize if shape else dtype.itemsize
        left = entry.file_size - file.tell()
        if size != left or not 0 <= size <= _LIMIT:
            raise CheckpointError(f"{source}: {entry.filename} claims {size} bytes of shape "
                                  f"{shape}, the file holds {left}")
        data = file.read(size)
    if len(data) != size:
        raise CheckpointError(f"{source}: {entry.filename} ends after {len(data)} of {size} bytes")
    array = np.frombuffer(data, dtype).reshape(shape[::-1] if fortran else shape)
    return (array.T if fortran else array).copy()
