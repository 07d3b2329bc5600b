"""Named arrays in the layout of safetensors, with a SHA-256 over every bit; nothing in it is run.

::

    8 bytes     length of the header, little endian
    header      JSON: {"__metadata__": {"sha256": ..., "sha256:NAME": ..., ...},
                       NAME: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}
    the rest    the arrays, one after the other, little endian, in C order

``sha256:NAME`` is that of the bytes of an array; ``sha256`` that of length and header, with its own
64 digits set to 0.  The header fixes where each array lies, and the arrays fill the file to its
end, so every bit is covered, and hashed once.  That finds damage, not forgery.

References
----------
The layout: https://huggingface.co/docs/safetensors/en/index#format
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cnn.errors import CheckpointError
from tinygrad_cnn.files import check_text, describe, open_file, parse_json, shown, write_atomically
from tinygrad_cnn.nn import Module
from tinygrad_cnn.types import Array, DType

__all__ = ["load_weights", "read_arrays", "room", "save_weights", "write_arrays"]

_DTYPES = {"BOOL": "|b1", "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2", "U32": "<u4",
           "I32": "<i4", "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_START = b'{"__metadata__":{"sha256":"'         # then 64 digits: how a file of ours begins
_DIGITS = slice(len(_START), len(_START) + 64)
_ROOM = 12 << 20                                # bytes for values of a header, and of a checkpoint
_CHUNK = 1 << 18                                # bytes that are hashed while they are in the cache


def save_weights(state: Module | Mapping[str, ArrayLike], path: str | os.PathLike[str]) -> Path:
    """Write the weights of a model, or named arrays, in the layout of safetensors.

    Parameters
    ----------
    state : Module, or mapping of str to ndarray
        A model, or what its ``state_dict()`` gives.
    path : path
        The file, by custom ``.safetensors``; replaced as a whole if it exists.

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
    ...     path = save_weights({"w": np.ones(2)}, folder + "/model.safetensors")
    ...     load_weights(path)
    {'w': array([1., 1.])}
    """
    if isinstance(state, Module):
        state = state.state_dict()
    if not isinstance(state, Mapping):
        raise CheckpointError(f"save_weights: state is a {type(state).__name__}, expected a model "
                              "or its state_dict(), in front of the path")
    return write_arrays(path, state, {})


def load_weights(path: str | os.PathLike[str], *, foreign: bool = False) -> dict[str, Array]:
    """Read named arrays from a file in the layout of safetensors.

    Parameters
    ----------
    path : path
        A file that `save_weights` or `save_checkpoint` wrote.
    foreign : bool, default False
        Read a file of another program too, which has no SHA-256, so that damage goes unnoticed.

    Returns
    -------
    dict of str to ndarray
        What ``Module.load_state_dict()`` takes.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or holds anything but arrays of numbers.
    """
    return read_arrays(path, foreign=foreign)[0]


def write_arrays(path: str | os.PathLike[str], state: Mapping[str, ArrayLike],
                 metadata: Mapping[str, str]) -> Path:
    """Write arrays, and texts about them, as one file."""
    texts, entries, place = {"sha256": "0" * 64, **metadata}, {}, 0
    parts: list[memoryview] = []
    for name, value in state.items():
        if not _is_name(name):
            raise CheckpointError(f"{shown(path)}: {name!r:.60} is no name for an array")
        if isinstance(value, np.ma.MaskedArray):
            raise CheckpointError(f"{shown(path)}: {name} is a masked array, whose mask would be "
                                  "lost; save its data and its mask")
        try:
            array = np.asarray(value, order="C")
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{shown(path)}: {name} is no array: {error}") from None
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        if array.dtype.str not in _CODES:
            raise CheckpointError(f"{shown(path)}: {name} has dtype {array.dtype}; only numbers "
                                  "and booleans are saved")
        parts.append(_bytes(array))
        texts[f"sha256:{name}"] = hashlib.sha256(parts[-1]).hexdigest()
        entries[name] = {"dtype": _CODES[array.dtype.str], "shape": array.shape,
                         "data_offsets": [place, place + array.nbytes]}
        place += array.nbytes
    header = json.dumps({"__metadata__": texts, **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)                 # so that arrays are aligned
    try:
        check_text(header, room(8 + len(header) + place))
    except ValueError as error:
        raise CheckpointError(f"{shown(path)} would not be read again: {len(entries):,} arrays "
                              f"are too many for their size; save fewer, larger ones ({error})"
                              ) from None
    length = len(header).to_bytes(8, "little")
    digest = hashlib.sha256(length + header).hexdigest().encode()
    with write_atomically(path) as file:
        file.write(length + header[:_DIGITS.start] + digest + header[_DIGITS.stop:])
        file.writelines(parts)
    return Path(path)


def read_arrays(path: str | os.PathLike[str], *, foreign: bool = False
                ) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays of a file, in their order, and the texts about them, all of them verified."""
    with open_file(path, CheckpointError) as file:
        try:
            return _read(file, os.fstat(file.fileno()).st_size, foreign)
        except ValueError as error:
            raise CheckpointError(f"{shown(path)} {error}") from None


def room(size: int) -> int:
    """How much memory the values of the header may take, in a file of ``size`` bytes."""
    return _ROOM + size


def _read(file: BufferedReader, size: int, foreign: bool
          ) -> tuple[dict[str, Array], dict[str, str]]:
    length = file.read(8)
    end = int.from_bytes(length, "little")
    if len(length) < 8 or end > size - 8:
        file.seek(0)
        head = file.read(512)
        cure = ("; of an .npz file take the arrays with dict(numpy.load(path))"
                if head.startswith(b"PK") else "")
        raise ValueError(f"is cut off, or no file of weights but {describe(head)}{cure}")
    header = file.read(end)
    own = header.startswith(_START)
    if own:
        found = hashlib.sha256(length + header[:_DIGITS.start] + b"0" * 64 + header[_DIGITS.stop:])
        if found.hexdigest().encode() != header[_DIGITS]:
            raise ValueError("is damaged: the SHA-256 of its header differs")
    elif not foreign:
        raise ValueError("has no SHA-256 that tells whether it is whole: it is damaged, or of "
                         "another program; load_weights(path, foreign=True) reads such a file")
    try:
        entries = parse_json(header, room(size))
    except ValueError as error:
        raise ValueError(f"has a header that is refused: {error}") from None
    if not isinstance(entries, dict):
        raise ValueError("has a header that is no JSON object")
    del header
    texts = entries.pop("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("has metadata that is not of texts")
    places = {name: _place(name, entry) for name, entry in entries.items()}
    entries.clear()
    arrays, done = {}, 0
    for name, (dtype, shape, start, stop) in sorted(places.items(), key=lambda item: item[1][2:]):
        if start != done or stop - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"is damaged or lies: {name!r:.60} claims the bytes {start} to {stop} "
                             f"and the shape {shape} of {dtype}, which do not fit, or not to the "
                             f"arrays before, which end at {done}")
        if 8 + end + stop > size:
            raise ValueError(f"is cut off: {name!r:.60} ends at byte {8 + end + stop} of {size}")
        arrays[name] = _array(file, name, dtype, shape, texts.get(f"sha256:{name}") if own else "")
        done = stop
    if 8 + end + done != size or file.read(1):
        raise ValueError(f"has bytes after its arrays, which end at {8 + end + done}")
    return arrays, texts


def _place(name: str, entry: object) -> tuple[DType, tuple[int, ...], int, int]:
    """What the header says of an array: dtype, shape, first byte, and the one after the last."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"describes {name!r:.60} by other than dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in _DTYPES:
        raise ValueError(f"holds {name!r:.60} with dtype {code!r:.20}, not numbers of "
                         f"{', '.join(_DTYPES)}")
    if not _sizes(shape) or len(shape) > 64 or math.prod(filter(None, shape)) >= 1 << 60:
        raise ValueError(f"holds {name!r:.60} with a shape that is none: {shape!r:.60}")
    if not _sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"holds {name!r:.60} at {offsets!r:.60}, which is no place")
    return np.dtype(_DTYPES[code]), tuple(shape), offsets[0], offsets[1]


def _array(file: BufferedReader, name: str, dtype: DType, shape: tuple[int, ...],
           digest: str | None) -> Array:
    array = np.empty(shape, dtype)
    view, found = _bytes(array), hashlib.sha256()
    for start in range(0, len(view), _CHUNK):
        part = view[start:start + _CHUNK]
        if file.readinto(part) != len(part):
            raise ValueError("changed while it was read")
        if digest != "":
            found.update(part)
    if digest != "" and found.hexdigest() != digest:
        raise ValueError(f"is damaged: the SHA-256 of {name!r:.60} differs")
    if dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise ValueError(f"holds {name!r:.60} with booleans that are neither 0 nor 1")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _is_name(name: object) -> bool:
    return (isinstance(name, str) and len(name) <= 10_000 and "\0" not in name
            and name != "__metadata__" and not any("\ud800" <= c <= "\udfff" for c in name))


def _sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
