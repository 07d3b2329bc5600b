"""Settings of an op in words: ``5×5 · stride 1 · pad 2 · 1→8 channels``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tinygrad_cnn.viz.text import clean, shape_text

__all__ = ["source_line", "words"]

Shapes = Sequence[tuple[int, ...] | None]
_LONGEST = 44


def words(op: str, settings: Mapping[str, Any], shapes: Shapes) -> tuple[str, ...]:
    """What an op was set to, the defaults that change nothing left out.

    Parameters
    ----------
    op : str
        Name of the op.
    settings : mapping
        Its settings in their normalised form; arrays are named with their shape only.
    shapes : sequence of shapes
        Of its inputs; None for one left out.

    Examples
    --------
    >>> sides = ((2, 2), (2, 2))
    >>> words("conv2d", {"stride": (1, 1), "padding": sides, "dilation": (1, 1), "groups": 1},
    ...       [(8, 28, 28, 1), (5, 5, 1, 8), (8,)])
    ('5×5', 'stride 1', 'pad 2', '1→8 channels')
    >>> words("clip", {"low": 0.0, "high": 6.0}, [(8, 10)])
    ('low 0', 'high 6')
    """
    special = _SPECIAL.get(op)
    if special is not None:
        try:
            return tuple(filter(None, special(settings, shapes)))
        except (KeyError, IndexError, TypeError, ValueError):
            pass                            # a user's op of that name with other settings
    return tuple(f"{name} {text}" for name, value in settings.items()
                 if (text := _value(value)) is not None)


def _value(value: Any) -> str | None:
    if value is None or value is False:
        return None
    if isinstance(value, np.ndarray):
        return shape_text(value.shape)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, np.dtype):
        return value.name
    if isinstance(value, slice):
        ends = ("" if v is None else str(v) for v in (value.start, value.stop))
        return ":".join(ends) + ("" if value.step in (None, 1) else f":{value.step}")
    if value is Ellipsis:
        return "…"
    if isinstance(value, (tuple, list)):
        return clean(", ".join(_value(v) or "none" for v in value), _LONGEST) or "none"
    return clean(value, _LONGEST)


def _pair(value: Any) -> str:
    down, across = value
    return f"{down}" if down == across else f"{down}×{across}"


def _pad(value: Any) -> str:
    (top, bottom), (left, right) = value
    if top == bottom == left == right:
        return f"pad {top}" if top else ""
    if (top, left) == (bottom, right):
        return f"pad {top}×{left}"
    return f"pad {top},{bottom},{left},{right}"


def _optional(name: str, value: Any, usual: Any) -> str:
    return "" if value == usual else f"{name} {_pair(value) if isinstance(value, tuple) else value}"


def _conv(s: Mapping[str, Any], shapes: Shapes) -> list[str]:
    w = shapes[1]
    assert w is not None, "filters are not optional"
    return [f"{w[0]}×{w[1]}", f"stride {_pair(s['stride'])}", _pad(s["padding"]),
            _optional("dilation", s.get("dilation", (1, 1)), (1, 1)),
            _optional("groups", s.get("groups", 1), 1),
            f"{w[2] * s.get('groups', 1)}→{w[3]} channels"]


def _pool(s: Mapping[str, Any], shapes: Shapes) -> list[str]:
    size = s["kernel_size"]
    return [f"{size[0]}×{size[1]}", f"stride {_pair(s['stride'])}", _pad(s["padding"])]


def _matrix(s: Mapping[str, Any], shapes: Shapes) -> list[str]:
    a, b = shapes[0], shapes[1]
    assert a is not None and b is not None, "a product has two factors"
    return [f"{a[-1]}→{b[-1]}"]


def _nothing(s: Mapping[str, Any], shapes: Shapes) -> list[str]:
    return []


_SPECIAL: dict[str, Callable[[Mapping[str, Any], Shapes], list[str]]] = {
    "conv2d": _conv, "conv_transpose2d": _conv, "max_pool2d": _pool, "max_pool2d_shared": _pool,
    "avg_pool2d": _pool, "linear": _matrix, "matmul": _matrix, "cross_entropy": _nothing,
    "reshape": _nothing, "batch_norm": _nothing}


def source_line(origin: tuple[Any, int] | None) -> str:
    """``lenet.py:14`` for a code object and an instruction in it; the file without its folders."""
    return "" if origin is None else _line(*origin)


@lru_cache(maxsize=4096)
def _line(code: Any, instruction: int) -> str:
    for start, end, line in code.co_lines():
        if start <= instruction < end and line is not None:
            name = str(code.co_filename).replace("\\", "/").rsplit("/", 1)[-1]
            return clean(f"{name}:{line}")
    return ""
