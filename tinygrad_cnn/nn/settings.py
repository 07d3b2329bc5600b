"""Checks that layers make of their settings and inputs, worded for people who wrote the layer."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinygrad_cnn.errors import DTypeError, SettingError, ShapeError
from tinygrad_cnn.shapes import integer
from tinygrad_cnn.tensor import Tensor

__all__ = ["as_tensor", "count", "flag", "images", "number", "optional_count", "refuse_unknown",
           "show"]


def refuse_unknown(made: type, given: tuple[Any, ...], settings: Mapping[str, Any]) -> None:
    """Refuse arguments that ``__init__`` of a class does not take, in the name of that class.

    Python itself would name the base class that defines ``__init__``, and where none does, as in a
    module that has a ``forward`` alone, it would ignore them.
    """
    own: Any = vars(made).get("__init__") or made.__init__  # type: ignore[misc]
    named = {} if own is object.__init__ else dict(inspect.signature(own).parameters)
    for itself in tuple(named)[:1]:
        del named[itself]
    try:
        inspect.Signature(list(named.values())).bind(*given, **settings)
        return
    except TypeError:
        pass
    who = made.__name__
    free = [n for n, p in named.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    placed = [n for n in free if named[n].kind != inspect.Parameter.KEYWORD_ONLY]
    its = f"it takes {', '.join(free)}" if free else "it takes none"
    for name in settings:
        if name not in free and not any(p.kind == p.VAR_KEYWORD for p in named.values()):
            near = difflib.get_close_matches(name, free, n=1)
            raise TypeError(f"{who}: there is no setting {name!r}"
                            + (f"; did you mean {near[0]!r}?" if near else "") + f"; {its}")
    if len(given) > len(placed) and not any(p.kind == p.VAR_POSITIONAL for p in named.values()):
        rest = [f"{name}=" for name in free if name not in placed]
        raise TypeError(f"{who}: {len(given)} arguments are given by position, it takes "
                        f"{len(placed) or 'none'}"
                        + (f" ({', '.join(placed)})" if placed else "")
                        + (f"; give the others by name: {', '.join(rest)}" if rest else ""))
    for name in placed[:len(given)]:
        if name in settings:
            raise TypeError(f"{who}: {name} is given twice, by position and by name")
    absent = [n for n in free[len(given):] if n not in settings
              and named[n].default is inspect.Parameter.empty]
    raise TypeError(f"{who}: {', '.join(absent)} must be given; {its}")


def count(who: str, setting: str, value: Any) -> int:
    """An integer of at least 1."""
    return integer(who, setting, value, least=1)


def optional_count(who: str, setting: str, value: Any) -> int | None:
    """An integer of at least 1, or None to learn it from the first call."""
    return None if value is None else count(who, setting, value)


def flag(who: str, setting: str, value: Any) -> bool:
    """True or False; what merely counts as true is refused."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise SettingError(f"{who}: {setting} must be True or False, got {value!r}")


def number(who: str, setting: str, value: Any, *, low: float = -math.inf, high: float = math.inf,
           open_low: bool = False, open_high: bool = False, finite: bool = True) -> float:
    """A number, finite unless told otherwise, between two bounds, which may be excluded."""
    good = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if good and (math.isfinite(value) or not finite) and low <= value <= high \
            and not (open_low and value == low) and not (open_high and value == high):
        return float(value)
    bounds = {(False, False): "a finite number" if finite else "a number", (True, False): f"a number of at least {low:g}",
              (True, True): f"a number from {low:g} to {high:g}",
              (False, True): f"a number of at most {high:g}"}[low > -math.inf, high < math.inf]
    apart = [f"{bound:g}" for bound, out in ((low, open_low), (high, open_high)) if out]
    raise SettingError(f"{who}: {setting} must be {bounds}"
                       + (f", not {' or '.join(apart)}" if apart else "") + f", got {value!r}")


def show(*shown: Any, **settings: tuple[Any, Any]) -> str:
    """Settings as a call writes them; those given with (value, default) only where they differ.

    >>> show(3, 8, stride=(2, 1), padding=(0, 0))
    '3, 8, stride=2'
    """
    changed = [f"{name}={value!r}" for name, (value, default) in settings.items()
               if type(value) is not type(default) or value != default]
    return ", ".join([*(str(value) for value in shown), *changed])


def as_tensor(who: str, x: Any, dtype: np.dtype[Any]) -> Tensor:
    """The input as a tensor; floats of another dtype than the layer's are refused."""
    made: Tensor = x if isinstance(x, Tensor) else Tensor(x)
    if made.dtype.kind == "f" and made.dtype != dtype:
        raise DTypeError(f"{who}: x is {made.dtype} but the parameters are {dtype}\n"
                         f"  cure: x.astype(np.{dtype}), or model.astype(np.{made.dtype}) once")
    return made


def images(who: str, x: Tensor, channels: int | None = None) -> Tensor:
    """Refuse what is not a batch of images N H W C, with the likely cure."""
    if x.ndim != 4:
        cure = ""
        if x.ndim == 3 and channels in (None, x.shape[-1]):
            cure = "\n  cure: for a single image, x[None]"
        elif x.ndim in (2, 3) and channels == 1:
            cure = "\n  cure: for grey images without a channel axis, x[..., None]"
        raise ShapeError(f"{who}: x must hold images (N H W C), got {x.ndim} axes: {x.shape}{cure}")
    if channels is not None and x.shape[3] != channels:
        swapped = ("\n  cure: these look like N C H W; images here are N H W C: "
                   "x.transpose(0, 2, 3, 1)" if x.shape[1] == channels else "")
        raise ShapeError(f"{who}: x has {x.shape[3]} channels but the layer takes {channels}\n"
                         f"  x (N H W C) = {x.shape}{swapped}")
    return x
