"""A training run as one file: the states of its parts, as named arrays and one JSON text.

The arrays are in the layout of `save_weights`, under names such as ``model/0.weight``; the other
values are the text ``checkpoint`` of the file's metadata.  No name in a file is a path or is looked
up, so that loading one runs no code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_cnn.errors import CheckpointError, TinygradCnnError
from tinygrad_cnn.files import check_text, parse_json, shown
from tinygrad_cnn.io.weights import read_arrays, room, write_arrays
from tinygrad_cnn.types import Array, Settings

__all__ = ["load_checkpoint", "save_checkpoint"]

_KEY = "checkpoint"
_DEEPEST = 50
# Integers in the state of a generator that its C code takes for places in a short array, unchecked.
_MOST = {"pos": 624, "buffer_pos": 4, "has_uint32": 1, "uinteger": (1 << 32) - 1}


def save_checkpoint(path: str | os.PathLike[str], **parts: object) -> Path:
    """Write everything that a training run needs to go on as if it had not stopped.

    Parameters
    ----------
    path : path
        The file, by custom ``.safetensors``; replaced as a whole if it exists.
    **parts
        ``model=``, ``optimizer=``, ``schedule=``, ``loader=``, ``rng=``, ``history=``, ``extra=``
        or any other names: whatever has a ``state_dict``, generators of NumPy (the default one is
        `default_generator` ()), plain values (numbers, strings, arrays), and lists and dictionaries
        of all these.

    Raises
    ------
    CheckpointError
        If a part is none of these, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from tinygrad_cnn import default_generator
    >>> from tinygrad_cnn.io import load_checkpoint, save_checkpoint
    >>> model = nn.Linear(2, 1)
    >>> optimizer = optim.Adam(model.parameters())
    >>> parts = {"model": model, "optimizer": optimizer, "rng": default_generator()}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_checkpoint(folder + "/run.safetensors", **parts, epoch=3)
    ...     rest = load_checkpoint(path, **parts)
    >>> rest
    {'epoch': 3}
    """
    arrays: dict[str, Array] = {}
    tree = {name: _packed(part, name, arrays) for name, part in parts.items()}
    text = json.dumps(tree, separators=(",", ":"), allow_nan=False)
    try:
        check_text(text.encode(), _room_beside(arrays))
    except ValueError as error:
        raise CheckpointError(f"save_checkpoint: the plain values are too many: {error}; save long "
                              "lists of numbers as arrays") from None
    return write_arrays(path, arrays, {_KEY: text})


def load_checkpoint(path: str | os.PathLike[str], **parts: object) -> Settings:
    """Put the states of a file into the parts that are given, and return the rest.

    Parameters
    ----------
    path : path
        A file of `save_checkpoint`.
    **parts
        The model, the optimizer and so on, by the names under which they were saved; each is
        changed in place, and none if one does not fit.

    Returns
    -------
    dict
        What was saved and is not among ``parts``: plain values, and states.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or of another kind, or parts were not saved or do not fit;
        all that differs is listed.
    """
    arrays, texts = read_arrays(path)
    if _KEY not in texts:
        raise CheckpointError(f"{shown(path)} holds weights alone; use load_weights(path), and "
                              "model.load_state_dict")
    try:
        tree = parse_json(texts[_KEY].encode(), _room_beside(arrays))
        found = _unpacked({"dict": tree}, list(arrays.values()))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{shown(path)} is a damaged checkpoint: {error}") from None
    if absent := sorted(parts.keys() - found.keys()):
        raise CheckpointError(f"load_checkpoint: {shown(path)} holds {', '.join(found)}, but not "
                              f"{', '.join(absent)}")
    before = {name: _state(part) for name, part in parts.items()}
    differences = []
    try:
        for name, part in parts.items():
            differences += [f"{name}: {text}" for text in _put(part, found[name])]
        if differences:
            raise CheckpointError(f"load_checkpoint: {shown(path)} does not fit, nothing was "
                                  "changed\n  " + "\n  ".join(differences))
    except BaseException:
        for name, part in parts.items():
            for _ in _put(part, before[name]):
                pass
        raise
    return {name: value for name, value in found.items() if name not in parts}


def _room_beside(arrays: Mapping[str, Array]) -> int:
    return room(sum(array.nbytes for array in arrays.values()))


def _state(part: object) -> Any:
    """The plain values of a part: those of `state_dict`, and of everything in lists and dicts."""
    if isinstance(part, np.random.Generator):
        return part.bit_generator.state
    if hasattr(part, "state_dict"):
        return part.state_dict()
    if isinstance(part, Mapping):
        return {name: _state(value) for name, value in part.items()}
    return [_state(value) for value in part] if isinstance(part, list) else part


def _put(part: object, state: Any) -> Iterator[str]:
    """Load into a part what `_state` gave; yields what does not fit, and goes on."""
    try:
        if isinstance(part, np.random.Generator):
            _check_like(state, part.bit_generator.state)
            part.bit_generator.state = state
        elif hasattr(part, "load_state_dict"):
            part.load_state_dict(state)
        elif isinstance(part, (Mapping, list)):
            own = dict(enumerate(part)) if isinstance(part, list) else part
            given = dict(enumerate(state)) if isinstance(state, list) else state
            if not isinstance(given, dict) or own.keys() != given.keys():
                names = list(given) if isinstance(given, (dict, list)) else given
                yield f"the file has {names!r:.200}, here is {list(own)!r:.200}"
                return
            for name, value in own.items():
                yield from (f"{name}: {text}" for text in _put(value, given[name]))
        else:
            yield f"a {type(part).__name__} cannot be loaded into; leave it out, and it is returned"
    # What a part makes of a state that is not its own, a part of the user's too, can be anything.
    except (TinygradCnnError, ValueError, TypeError, LookupError, AttributeError,
            ArithmeticError) as error:
        yield str(error) or type(error).__name__


def _check_like(state: Any, own: Any) -> None:
    """Refuse the state of another generator, and one that no generator ever has."""
    if isinstance(own, dict):
        if not isinstance(state, dict) or state.keys() != own.keys():
            raise ValueError(f"the state is of another kind of generator: {state!r:.80}")
        for name, value in own.items():
            _check_like(state[name], value)
            if name in _MOST and not 0 <= state[name] <= _MOST[name]:
                raise ValueError(f"{name} is {state[name]}, not 0 to {_MOST[name]}")
    elif type(state) is not type(own) or (isinstance(own, str) and state != own) or (
            isinstance(own, np.ndarray) and (state.shape, state.dtype) != (own.shape, own.dtype)):
        raise ValueError(f"the state holds {state!r:.80}, where {own!r:.80} was expected")


def _packed(value: object, place: str, arrays: dict[str, Array], depth: int = 0
            ) -> object:
    """The value for JSON; each array is put aside, and its number stands for it."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str) or (
            isinstance(value, int) and abs(value) < 10 ** 4000):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else {"float": repr(value)}
    if isinstance(value, np.ndarray):
        while place in arrays:                          # a "/" in a name
            place += "'"
        arrays[place] = value
        return {"array": len(arrays) - 1}
    if depth < _DEEPEST:
        if isinstance(value, np.random.Generator) or hasattr(value, "state_dict"):
            return _packed(_state(value), place, arrays, depth + 1)
        if isinstance(value, Mapping):
            if odd := [k for k in value if not isinstance(k, str)]:
                raise CheckpointError(f"save_checkpoint: {place} has the key {odd[0]!r}; keys must "
                                      "be strings")
            return {"dict": {k: _packed(v, f"{place}/{k}", arrays, depth + 1)
                             for k, v in value.items()}}
        if isinstance(value, (list, tuple)):
            return {type(value).__name__: [_packed(v, f"{place}/{i}", arrays, depth + 1)
                                           for i, v in enumerate(value)]}
    raise CheckpointError(f"save_checkpoint: {place:.200} is a {type(value).__name__}"
                          f"{', nested too deeply' * (depth == _DEEPEST)}; what is saved has a "
                          "state_dict, or is a number, a string, an array, or a list or dict of "
                          "these")


def _unpacked(value: object, arrays: Sequence[Array], depth: int = 0) -> Any:
    if not isinstance(value, dict):
        if isinstance(value, list):
            raise ValueError("a list has no kind")
        return value
    (kind, inner), = value.items()
    if kind == "array" and type(inner) is int and inner >= 0:
        return arrays[inner]
    if kind == "float" and inner in ("inf", "-inf", "nan"):
        return float(inner)
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if kind == "dict":
        return {k: _unpacked(v, arrays, depth + 1) for k, v in inner.items()}
    if kind not in ("list", "tuple") or not isinstance(inner, list):
        raise ValueError(f"{kind!r:.60} is no kind of value")
    return {"list": list, "tuple": tuple}[kind](_unpacked(v, arrays, depth + 1) for v in inner)
