"""Checks that layers make of their settings and inputs, worded for people who wrote the layer."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinygrad_cnn.core import Tensor
from tinygrad_cnn.errors import DTypeError, SettingError, ShapeError
from tinygrad_cnn.shapes import integer

__all__ = ["as_tensor", "count", "images", "number", "optional_count", "refuse_unknown", "show"]


def refuse_unknown(made: type, given: tuple[Any, ...], settings: Mapping[str, Any]) -> None:
    """Refuse arguments that ``__init__`` of a class does not take, in the name of that class.

    Python itself would name the base class that defines ``__init__``, and where none does, as in a
    module that has a ``forward`` alone, it would ignore them.
    """
    own = made.__init__                                     # type: ignore[misc]
    try:
        each = [] if own is object.__init__ else list(
            inspect.signature(own, follow_wrapped=False).parameters.values())[1:]
        inspect.Signature(each).bind(*given, **settings)
        return
    except ValueError:                                      # it is written in C
        return
    except TypeError:
        pass
    who, kinds = made.__name__, {p.kind for p in each}
    free = {p.name: p for p in each if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    placed = [name for name, p in free.items() if p.kind != p.KEYWORD_ONLY]
    takes = f"{who} takes {', '.join(free) or 'none'}"
    for name in settings:
        if name not in free and inspect.Parameter.VAR_KEYWORD not in kinds:
            near = difflib.get_close_matches(name, free, n=1)
            raise TypeError(f"{who}: there is no setting {name!r}; "
                            + (f"did you mean {near[0]!r}?  " if near else "") + takes)
    if len(given) > len(placed) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        few = f" ({', '.join(placed)})" if placed else ""
        rest = ", ".join(f"{name}=" for name in free if name not in placed)
        raise TypeError(f"{who}: takes {len(placed)} arguments by position{few}, got {len(given)}"
                        + (f"; give the others by name: {rest}" if rest else ""))
    twice = [name for name in placed[:len(given)] if name in settings]
    absent = [name for name, p in free.items()
              if p.default is p.empty and name not in settings and name not in placed[:len(given)]]
    raise TypeError(f"{who}: {twice[0]} is given by position and by name" if twice else
                    f"{who}: {', '.join(absent)} must be given; {takes}")


def count(who: str, setting: str, value: Any) -> int:
    """An integer of at least 1."""
    return integer(who, setting, value, least=1)


def optional_count(who: str, setting: str, value: Any) -> int | None:
    """An integer of at least 1, or None to learn it from the first call."""
    return None if value is None else count(who, setting, value)


def number(who: str, setting: str, value: Any, *, low: float = -math.inf, high: float = math.inf,
           open_low: bool = False, open_high: bool = False, finite: bool = True) -> float:
    """A number, finite unless told otherwise, between two bounds, which may be excluded."""
    good = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if good and (math.isfinite(value) or not finite) and low <= value <= high \
            and not (open_low and value == low) and not (open_high and value == high):
        return float(value)
    any_number = "a finite number" if finite else "a number"
    bounds = {(False, False): any_number, (True, False): f"a number of at least {low:g}",
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
