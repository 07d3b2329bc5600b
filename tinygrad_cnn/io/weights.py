"""Weights as an ``.npz`` file: named arrays and nothing else, so that loading one runs no code.

A file is checked before memory is asked for: every byte of it must belong to one of the arrays that
its directory lists, what an array claims to hold must be in the file, and a compressed file may
hardly grow.  Damaged values do not pass the checksums.
"""

from __future__ import annotations

import math
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike

from tinygrad_cnn.errors import CheckpointError
from tinygrad_cnn.files import check_expansion, open_file, write_atomically
from tinygrad_cnn.nn import Module
from tinygrad_cnn.types import Array

__all__ = ["load_weights", "save_weights"]

_END, _END_64 = 22, 56 + 20         # bytes of the record that ends an archive, and of its long form


def save_weights(state: Module | Mapping[str, ArrayLike], path: str | os.PathLike[str]) -> Path:
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
        If an array is not of numbers or booleans, a name is none, or the file cannot be written.

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
        if not isinstance(name, str) or "\0" in name or len(name) > 10_000:
            raise CheckpointError(f"save_weights: {name!r:.60} is no name for an array")
        arrays[name] = array
    with write_atomically(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                npy.write_array(entry, array, allow_pickle=False)
    return Path(path)


def load_weights(path: str | os.PathLike[str]) -> dict[str, Array]:
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
    with open_file(source, CheckpointError) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                entries = _entries(archive, file, source)
                return {entry.filename.removesuffix(".npy"): _read(archive, entry, source)
                        for entry in entries}
        except CheckpointError:
            raise
        # A file that is not what it should be can raise anything in the readers of zip and npy.
        except Exception as error:
            raise CheckpointError(f"{source} is not a file of weights: {error}") from None


def _entries(archive: zipfile.ZipFile, file: BinaryIO, source: Path) -> list[zipfile.ZipInfo]:
    """The entries of the archive, which fill it from the first byte to the last."""
    entries = archive.infolist()
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - _END - _END_64))
    tail = file.read()
    *_, count, length, start, comment = struct.unpack("<4s4H2LH", tail[-_END:])
    end = _END
    if count == 0xFFFF or 0xFFFFFFFF in (length, start):
        count, length, start = struct.unpack("<32x3Q", tail[-_END - _END_64:-_END - 20])
        end += _END_64
    if comment or start + length + end != size:
        raise CheckpointError(f"{source} has bytes before, between or after its arrays")
    names = [entry.filename for entry in entries]
    if len(names) != count or len(set(names)) != count:
        raise CheckpointError(f"{source} is damaged: it lists {count} arrays, of which "
                              f"{len(set(names))} are there")
    place = 0
    slack: tuple[int, ...] = (0,)
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset - place not in slack or entry.comment:
            raise CheckpointError(f"{source} has bytes before, between or after its arrays")
        file.seek(entry.header_offset)
        name, extra = struct.unpack("<26x2H", file.read(30))
        place = entry.header_offset + 30 + name + extra + entry.compress_size
        # Sizes may be repeated behind the contents, as by one who writes to a pipe.
        slack = (12, 16, 20, 24) if entry.flag_bits & 8 else (0,)
    if start - place not in slack:
        raise CheckpointError(f"{source} has bytes before, between or after its arrays")
    check_expansion(sum(entry.file_size for entry in entries), size, path=source,
                    error=CheckpointError)
    return entries


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, source: Path) -> Array:
    if not entry.filename.endswith(".npy"):
        raise CheckpointError(f"{source} holds {entry.filename!r}, which is not an array")
    with archive.open(entry) as file:
        version = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
        if dtype.kind not in "fiub" or dtype.hasobject:
            raise CheckpointError(f"{source}: {entry.filename} has dtype {dtype}, not numbers")
        size = math.prod(shape) * dtype.itemsize
        left = entry.file_size - file.tell()
        if size != left or any(type(n) is not int or n < 0 for n in shape):
            raise CheckpointError(f"{source}: {entry.filename} claims {size} bytes of shape "
                                  f"{shape}, the file holds {left}")
        array = np.empty(shape[::-1] if fortran else shape, dtype)
        done, view = 0, array.reshape(-1).view(np.uint8).data
        while done < size and (got := file.readinto(view[done:])):  # type: ignore[attr-defined]
            done += got
        if done < size or file.read(1):                 # reading on compares the checksum
            raise CheckpointError(f"{source}: {entry.filename} ends after {done} of {size} bytes")
    return np.ascontiguousarray(array.T) if fortran else array
