"""Settings, checked and brought into one form; every error reads ``owner: name must be ..., got``.

Public functions and layers call these once.  Shape rules and kernels know only the result:
``stride`` (down, across), ``padding`` ((top, bottom), (left, right)), axes counted from the front.
"""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Mapping, Sequence

import numpy as np

from tinygrad_cnn.errors import DTypeError, SettingError, ShapeError
from tinygrad_cnn.names import no_argument
from tinygrad_cnn.shapes import Pair, Shape, Sides, same_padding
from tinygrad_cnn.types import DType

__all__ = ["arguments", "axes_tuple", "axis_index", "choice", "flag", "floats", "integer", "number",
           "pad_width", "padding", "pair", "sizes", "text_of"]


def _refusal(owner: str, name: str, what: str, value: object) -> SettingError:
    return SettingError(f"{owner}: {name} must be {what}, got {value!r}")


def integer(owner: str, name: str, value: object, *, minimum: int | None = None,
            maximum: int | None = None) -> int:
    """An int within the bounds; booleans and fractions are refused.

    >>> integer("Linear", "in_features", np.int64(3), minimum=1)
    3
    """
    try:
        found = (None if isinstance(value, bool)
                 else operator.index(value))                # type: ignore[arg-type]
    except TypeError:
        found = None
    if (found is None or (minimum is not None and found < minimum)
            or (maximum is not None and found > maximum)):
        bounds = (f" from {minimum} to {maximum}" if None not in (minimum, maximum) else
                  f" of at least {minimum}" if minimum is not None else
                  f" of at most {maximum}" if maximum is not None else "")
        raise _refusal(owner, name, f"an integer{bounds}", value)
    return found


def number(owner: str, name: str, value: object, *, minimum: float | None = None,
           maximum: float | None = None, above: float | None = None, below: float | None = None,
           finite: bool = True) -> float:
    """A float within the bounds (``above`` and ``below`` exclude theirs); no boolean, no NaN.

    >>> number("Dropout", "p", 0.5, minimum=0, below=1)
    0.5
    """
    if (isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
            and (math.isfinite(value) or not finite)
            and (minimum is None or value >= minimum) and (maximum is None or value <= maximum)
            and (above is None or value > above) and (below is None or value < below)):
        return float(value)
    high = f"to {maximum:g}" if maximum is not None else f"up to, not including, {below}"
    if minimum is not None and (maximum, below) != (None, None):
        raise _refusal(owner, name, f"a number from {minimum:g} {high}", value)
    bounds = " and".join(f" {words} {bound:g}" for words, bound in (
        ("of at least", minimum), ("above", above), ("of at most", maximum), ("below", below))
        if bound is not None)
    raise _refusal(owner, name, f"a {'finite ' * finite}number{bounds}", value)


def floats(owner: str, name: str, dtype: DType) -> None:
    """Refuse integers and booleans, where the result is a fraction or may be below 0."""
    if dtype.kind not in "fc":
        raise DTypeError(f"{owner}: {name} is {dtype}, and {owner} needs floats; cast it: "
                         f"{name}.astype(np.float32)")


def flag(owner: str, name: str, value: object) -> bool:
    """True or False; what merely counts as true is refused."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise _refusal(owner, name, "True or False", value)


def choice(owner: str, name: str, value: object, options: Sequence[str]) -> str:
    """One of some words.

    >>> choice("MaxPool2D", "ties", "first", ("first", "split", "all"))
    'first'
    """
    if isinstance(value, str) and value in options:
        return value
    raise _refusal(owner, name, f"one of {', '.join(options)}", value)


def sizes(owner: str, name: str, value: object, *, minimum: int = 0) -> Shape:
    """A shape: one integer, or several.

    >>> sizes("reshape", "shape", [2, np.int64(3)]), sizes("zeros", "shape", 4)
    ((2, 3), (4,))
    """
    several = value if isinstance(value, (tuple, list)) else (value,)
    try:
        return tuple(integer(owner, name, n, minimum=minimum) for n in several)
    except SettingError:
        raise _refusal(owner, name, f"integers of at least {minimum}", value) from None


# ---- images and axes -----------------------------------------------------------------------------

def pair(owner: str, name: str, value: object, *, minimum: int | None = None) -> Pair:
    """One integer for both image axes, or one for each: (down, across).

    >>> pair("conv2d", "stride", 2), pair("conv2d", "stride", (1, 3))
    ((2, 2), (1, 3))
    """
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    try:
        down, across = both
        if not type(down) is type(across) is int:
            down, across = integer(owner, name, down), integer(owner, name, across)
    except (SettingError, ValueError):
        raise _refusal(owner, name, "one integer or two (down, across)", value) from None
    if minimum is not None and min(down, across) < minimum:
        raise _refusal(owner, name, f"at least {minimum} along each axis", value)
    return down, across


def pad_width(owner: str, value: object, *, name: str = "pad_width", more: str = "") -> Sides:
    """Pixels around an image as ((top, bottom), (left, right)).

    >>> pad_width("pad", 1), pad_width("pad", (1, 2))
    (((1, 1), (1, 1)), ((1, 1), (2, 2)))
    """
    try:
        down, across = value if isinstance(value, (tuple, list)) else (integer(owner, name, value),
                                                                      ) * 2
        return pair(owner, name, down, minimum=0), pair(owner, name, across, minimum=0)
    except (SettingError, ValueError):
        what = (f"an integer, (down, across) or ((top, bottom), (left, right)){more}, with no "
                "number below 0")
        raise _refusal(owner, name, what, value) from None


def padding(owner: str, value: object, *, image: Sequence[int] = (1, 1), kernel: Pair = (1, 1),
            stride: Pair = (1, 1), dilation: Pair = (1, 1)) -> Sides:
    """The padding of a window, which may also be ``"same"`` or ``"valid"``, as `pad_width`.

    >>> padding("conv2d", ((0, 1), (2, 3))), padding("conv2d", "valid")
    (((0, 1), (2, 3)), ((0, 0), (0, 0)))
    """
    if isinstance(value, str) and value == "same":
        return same_padding(image, kernel, stride, dilation)
    if type(value) is int and value >= 0:                   # as in nearly every call
        return (value, value), (value, value)
    return pad_width(owner, 0 if isinstance(value, str) and value == "valid" else value,
                     name="padding", more=", 'same' or 'valid'")


def axis_index(owner: str, axis: object, shape: Shape, *, name: str = "axis") -> int:
    """An axis counted from the front; a negative one counts from the back, as in NumPy.

    >>> axis_index("sum", -1, (2, 3, 4))
    2
    """
    found = integer(owner, name, axis)
    if not -len(shape) <= found < len(shape):
        raise ShapeError(f"{owner}: axis {found} does not exist in an array of shape "
                         f"{tuple(shape)}")
    return found % len(shape)


def axes_tuple(owner: str, axis: object, shape: Shape) -> tuple[int, ...]:
    """``None``, one axis or several, as a sorted tuple counted from the front.

    >>> axes_tuple("sum", None, (2, 3)), axes_tuple("sum", (-1, 0), (2, 3, 4))
    ((0, 1), (0, 2))
    """
    if axis is None or (not shape and axis in (0, -1)):      # of a number, as NumPy and PyTorch
        return tuple(range(len(shape)))
    several = axis if isinstance(axis, (tuple, list)) else (axis,)
    found = tuple(sorted(axis_index(owner, a, shape) for a in several))
    if len(set(found)) != len(found):
        raise SettingError(f"{owner}: axis {axis!r} names an axis twice")
    return found


# ---- arguments of a class ------------------------------------------------------------------------

def arguments(made: type, given: tuple[object, ...], settings: Mapping[str, object]) -> None:
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
    owner, kinds = made.__name__, {p.kind for p in each}
    free = {p.name: p for p in each if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    placed = [name for name, p in free.items() if p.kind != p.KEYWORD_ONLY]
    takes = f"{owner} takes {', '.join(free) or 'none'}"
    for name in settings:
        if name not in free and inspect.Parameter.VAR_KEYWORD not in kinds:
            raise no_argument(owner, "setting", name, list(free))
    if len(given) > len(placed) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        few = f" ({', '.join(placed)})" if placed else ""
        rest = ", ".join(f"{name}=" for name in free if name not in placed)
        raise TypeError(f"{owner}: takes {len(placed)} arguments by position{few}, got {len(given)}"
                        + (f"; give the others by name: {rest}" if rest else ""))
    twice = [name for name in placed[:len(given)] if name in settings]
    absent = [name for name, p in free.items()
              if p.default is p.empty and name not in settings and name not in placed[:len(given)]]
    raise TypeError(f"{owner}: {twice[0]} is given by position and by name" if twice else
                    f"{owner}: {', '.join(absent)} must be given; {takes}")


def text_of(made: object) -> str:
    """``repr``, or the name of a function, without addresses, which differ between processes.

    >>> text_of(math.sqrt), text_of(object()), text_of(3)
    ('sqrt', '<object object>', '3')
    """
    return getattr(made, "__qualname__", "") or re.sub(r" at 0x[0-9a-fA-F]+", "", repr(made))
