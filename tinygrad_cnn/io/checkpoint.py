"""A training run as one file: the states of its parts, as named arrays and one JSON text.

The file is one of `save_weights`, so that loading it runs no code either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_cnn.errors import CheckpointError
from tinygrad_cnn.io.weights import load_weights, save_weights
from tinygrad_cnn.types import Array, Settings

__all__ = ["load_checkpoint", "save_checkpoint"]

_TEXT = "checkpoint.json"


def save_checkpoint(path: str | Path, **parts: object) -> Path:
    """Write everything that a training run needs to go on as if it had not stopped.

    Parameters
    ----------
    path : path
        The file; replaced as a whole if it exists.
    **parts
        By any names: whatever has a ``state_dict`` (model, optimizer, schedule, loader), generators
        of NumPy, and plain values (numbers, strings, arrays, lists and dictionaries of these).

    Raises
    ------
    CheckpointError
        If a part is none of these, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from tinygrad_cnn.io import load_checkpoint, save_checkpoint
    >>> model = nn.Linear(2, 1)
    >>> optimizer = optim.Adam(model.parameters())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_checkpoint(folder + "/run.npz", model=model, optimizer=optimizer, epoch=3)
    ...     rest = load_checkpoint(path, model=model, optimizer=optimizer)
    >>> rest
    {'epoch': 3}
    """
    arrays: Settings = {}
    tree = {name: _packed(_state(part), name, arrays) for name, part in parts.items()}
    text = np.frombuffer(json.dumps(tree).encode(), np.uint8)
    return save_weights({_TEXT: text, **arrays}, path)


def load_checkpoint(path: str | Path, **parts: object) -> Settings:
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
        If the file is missing, damaged or of another kind, or a part was not saved or does not fit.
    """
    arrays = load_weights(path)
    if _TEXT not in arrays:
        raise CheckpointError(f"{path} holds weights alone; use load_weights(path), and "
                              "model.load_state_dict")
    try:
        tree = json.loads(arrays[_TEXT].tobytes())
        found = {name: _unpacked(value, arrays) for name, value in tree.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is a damaged checkpoint: {error}") from None
    if absent := sorted(parts.keys() - found.keys()):
        raise CheckpointError(f"load_checkpoint: {path} holds {', '.join(found)}, but not "
                              f"{', '.join(absent)}")
    before = {name: _state(part) for name, part in parts.items()}
    try:
        for name, part in parts.items():
            _put(part, found[name], name)
    except BaseException:
        for name, part in parts.items():
            _put(part, before[name], name)
        raise
    return {name: value for name, value in found.items() if name not in parts}


def _state(part: object) -> Any:
    if isinstance(part, np.random.Generator):
        return part.bit_generator.state
    return part.state_dict() if hasattr(part, "state_dict") else part


def _put(part: object, state: Any, name: str) -> None:
    if isinstance(part, np.random.Generator):
        try:
            part.bit_generator.state = state
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"load_checkpoint: {name}: {error}") from None
    elif hasattr(part, "load_state_dict"):
        part.load_state_dict(state)
    else:
        raise CheckpointError(f"load_checkpoint: {name} is a {type(part).__name__}, which cannot "
                              "be loaded into; leave it out, and it is returned")


def _packed(value: object, place: str, arrays: Settings) -> object:
    """The value for JSON, with each array put aside under its place."""
    if isinstance(value, np.ndarray):
        arrays[place] = value
        return {"array": place}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (int, float, str)):
        return value
    if isinstance(value, Mapping):
        if odd := [k for k in value if not isinstance(k, str)]:
            raise CheckpointError(f"save_checkpoint: {place} has the key {odd[0]!r}; keys must be "
                                  "strings")
        return {"dict": {k: _packed(v, f"{place}/{k}", arrays) for k, v in value.items()}}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_packed(v, f"{place}/{i}", arrays)
                                       for i, v in enumerate(value)]}
    raise CheckpointError(f"save_checkpoint: {place} is a {type(value).__name__}; what is saved "
                          "has a state_dict, or is a number, a string, an array, or a list or dict "
                          "of these")


def _unpacked(value: object, arrays: Mapping[str, Array]) -> object:
    if not isinstance(value, dict):
        return value
    (kind, inner), = value.items()
    if kind == "array":
        return arrays[inner]
    if kind == "dict":
        return {k: _unpacked(v, arrays) for k, v in inner.items()}
    return {"list": list, "tuple": tuple}[kind](_unpacked(v, arrays) for v in inner)
