"""Frozen dataclasses to JSON and back, with every field checked on the way in.

JSON has no NaN and no infinity; those floats travel as strings: ``"nan"``, ``"inf"``, ``"-inf"``.
What is read may come from anywhere, so types are checked and nothing is ever evaluated.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from typing import Any, TypeVar

from tinygrad_cnn.errors import VizError

__all__ = ["dumps", "from_plain", "loads", "to_plain"]

T = TypeVar("T")

_LARGEST = 64 * 2**20                       # characters of JSON that are read at most


def to_plain(value: Any) -> Any:
    """A dataclass as dicts, lists and scalars; fields that hold their default are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)
                if f.default is dataclasses.MISSING or getattr(value, f.name) != f.default}
    if isinstance(value, (tuple, list)):
        return [to_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: to_plain(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode()    # a lone surrogate is no text
    return value


def dumps(value: Any) -> str:
    """Compact JSON text of a dataclass, the same on every machine."""
    return json.dumps(to_plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def loads(cls: type[T], text: str) -> T:
    """Read what `dumps` wrote.

    Raises
    ------
    VizError
        If the text is too long, is not JSON, or does not have the fields of ``cls``.
    """
    if len(text) > _LARGEST:
        raise VizError(f"load: {len(text)} characters of graph, at most {_LARGEST} are read")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VizError(f"load: this is not a graph saved by tinygrad_cnn: {error}") from None
    return from_plain(cls, data)


def from_plain(cls: type[T], data: Any) -> T:
    """Build a dataclass from plain data, checking each field against its annotation."""
    hints = typing.get_type_hints(cls)
    return typing.cast(T, _read(cls, data, hints, cls.__name__))


def _read(kind: Any, data: Any, hints: dict[str, Any] | None, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(data, dict):
            raise _refusal(where, kind, data)
        hints = hints or typing.get_type_hints(kind)
        unknown = data.keys() - hints.keys()
        if unknown:
            raise VizError(f"load: {where} has no field {sorted(map(str, unknown))[0]!r}")
        values = {k: _read(hints[k], v, None, f"{where}.{k}") for k, v in data.items()}
        try:
            return typing.cast(Any, kind)(**values)
        except TypeError as error:
            raise VizError(f"load: {where} lacks a field: {error}") from None
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if data is None and type(None) in arguments:
            return None
        return _read(next(a for a in arguments if a is not type(None)), data, None, where)
    if origin is tuple and isinstance(data, list):
        if arguments[-1] is Ellipsis:
            return tuple(_read(arguments[0], v, None, where) for v in data)
        if len(data) == len(arguments):
            return tuple(_read(a, v, None, where)
                         for a, v in zip(arguments, data, strict=True))
    if origin is dict and isinstance(data, dict):
        return {str(k): _read(arguments[1], v, None, where) for k, v in data.items()}
    if kind is float and (data in ("nan", "inf", "-inf") or type(data) in (int, float)):
        return float(data)
    if kind in (str, int, bool) and type(data) is kind:
        return data
    raise _refusal(where, kind, data)


def _refusal(where: str, kind: Any, data: Any) -> VizError:
    return VizError(f"load: {where} should be {getattr(kind, '__name__', kind)}, "
                    f"the file has {type(data).__name__}")
