"""The methods of a tensor: functions that are called with the tensor in front.

`Tensor` says which names are methods.  A name means what NumPy and PyTorch mean by it.  What is
written here has other arguments as a method than as a function; every other method is the op or the
function of NumPy of its name.
Names that PyTorch has and that are not needed here answer with what is.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import FunctionType
from typing import Any, NoReturn

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.core import Tensor, TensorLike, as_array
from tinygrad_cnn.core.op import FUNCTIONS
from tinygrad_cnn.core.tensor import LATER
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.names import CURES, accepting, missing
from tinygrad_cnn.ops.elementwise import clip, where
from tinygrad_cnn.ops.hooks import register_hook, retain_grad
from tinygrad_cnn.ops.rearrange import order, repeat
from tinygrad_cnn.ops.reduction import broadcast_to
from tinygrad_cnn.ops.shape import expand_dims, reshape, transpose
from tinygrad_cnn.types import Function

__all__: list[str] = []

# PyTorch's name -> the function that does it.
_SAME = {"add": "add", "amax": "max", "amin": "min", "div": "div", "mul": "mul", "neg": "neg",
         "pow": "power", "sub": "sub", "repeat_interleave": "repeat"}


def _one(given: tuple[Any, ...]) -> Any:
    """``f(2, 3)`` and ``f((2, 3))`` alike."""
    return given[0] if len(given) == 1 else given


def _view(x: Tensor, *shape: int) -> Tensor:
    """The same values in another shape; see `tinygrad_cnn.reshape`."""
    return reshape(x, _one(shape))


def _transpose(x: Tensor, *axes: int) -> Tensor:
    """Axes in another order; see `tinygrad_cnn.transpose`."""
    if axes == (0, 1):
        raise SettingError("transpose: (0, 1) leaves two axes as they are in NumPy and swaps them "
                           "in PyTorch; write x.swapaxes(0, 1), or x.T")
    return transpose(x, _one(axes) if axes else None)


def _permute(x: Tensor, *axes: int) -> Tensor:
    """Axes in another order; see `tinygrad_cnn.transpose`."""
    return transpose(x, _one(axes))


def _expand(x: Tensor, *shape: int) -> Tensor:
    """Stretched to a shape, in which -1 keeps the size of an axis."""
    wanted = list(_one(shape)) if len(shape) == 1 and not isinstance(shape[0], int) else [*shape]
    for i in range(1, min(len(wanted), x.ndim) + 1):
        wanted[-i] = x.shape[-i] if wanted[-i] == -1 else wanted[-i]
    return broadcast_to(x, wanted)


def _repeat(x: Tensor, *repeats: int | Sequence[int], axis: int | None = None) -> Tensor:
    """Each entry several times; see `tinygrad_cnn.repeat`."""
    if len(repeats) != 1:
        raise SettingError(f"repeat: give an axis by name, as in x.repeat({repeats[0]}, axis=0), "
                           "to repeat entries as NumPy does; x.tile(reps) repeats the whole, as "
                           "PyTorch's repeat does" if repeats else "repeat: repeats must be given")
    return repeat(x, repeats[0], axis)


def _masked_fill(x: Tensor, mask: TensorLike, value: TensorLike) -> Tensor:
    """``value`` where the mask is true."""
    return where(mask, value, x)


def _unbind(x: Tensor, axis: int = 0) -> list[Tensor]:
    """The parts along an axis, without that axis."""
    return list(FUNCTIONS[np.moveaxis](x, axis, 0))


def _argsort(x: Tensor, axis: int | None = -1, descending: bool = False) -> np.ndarray:
    """The places of the entries in order, as a plain array; equal ones keep theirs."""
    if axis is None:
        x, axis = reshape(x, -1), 0
    return order(x, checks.axis_index("argsort", axis, x.shape), descending)


def _clip(x: Tensor, min: float | None = None, max: float | None = None) -> Tensor:
    """The nearest number in [min, max]; see `tinygrad_cnn.clip`."""
    return clip(x, min, max)


_OWN: dict[str, Function] = {
    "reshape": _view, "view": _view, "transpose": _transpose, "permute": _permute,
    "expand": _expand, "masked_fill": _masked_fill, "unbind": _unbind,
    "repeat": _repeat, "argsort": _argsort,
    "t": lambda x: transpose(x), "unsqueeze": lambda x, axis: expand_dims(x, axis),
    "expand_as": lambda x, other: broadcast_to(x, other.shape),
    "clone": lambda x: reshape(x, x.shape), "copy": lambda x: reshape(x, x.shape),
    "rsqrt": lambda x: x ** -0.5, "where": lambda x, condition, other: where(condition, x, other),
    "movedim": lambda x, source, destination: FUNCTIONS[np.moveaxis](
        x, source, destination),
    "clip": _clip, "clamp": _clip,
    "register_hook": register_hook, "retain_grad": retain_grad,
    "tolist": lambda x: as_array(x).tolist(), "dim": lambda x: x.ndim,
    "numel": lambda x: int(x.size),
    "eq": lambda x, other: x == other, "ne": lambda x, other: x != other,
    "lt": lambda x, other: x < other, "le": lambda x, other: x <= other,
    "gt": lambda x, other: x > other, "ge": lambda x, other: x >= other,
}


def _method(name: str) -> Function:
    """The function behind a method; it takes arguments by PyTorch's names as well."""
    called = _SAME.get(name, name)
    base: Any = _OWN.get(name)
    if base is None:
        return FUNCTIONS.get(called) or accepting(getattr(np, called))
    function = FunctionType(base.__code__, base.__globals__, name, base.__defaults__)
    function.__qualname__, function.__kwdefaults__ = name, base.__kwdefaults__
    function.__doc__ = base.__doc__ or f"See `tinygrad_cnn.{called}`."
    return accepting(function)


class _Missing:
    """A name that a tensor does not have; asking for it raises an error that tells the cure.

    ``__getattr__`` would do it too, and make every access to an attribute three times as slow.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, tensor: object, owner: type) -> NoReturn:
        raise missing("Tensor", self.name, (), tensor)


def _names(x: Tensor) -> list[str]:
    return [n for n in object.__dir__(x) if not isinstance(vars(Tensor).get(n), _Missing)]


METHODS = [name for name, value in vars(Tensor).items() if value is LATER]


def install() -> None:
    """Give `Tensor` its methods, and the answers for the names that it does not have."""
    for name in METHODS:
        setattr(Tensor, name, _method(name))
    for operator, name in (("add", "add"), ("sub", "sub"), ("mul", "mul"), ("truediv", "div"),
                           ("pow", "power"), ("matmul", "matmul")):
        setattr(Tensor, f"__{operator}__", FUNCTIONS[name])     # a Python call less than by name
    for name in (*CURES["Tensor"], *(f for f in FUNCTIONS if isinstance(f, str))):
        if not hasattr(Tensor, name):
            setattr(Tensor, name, _Missing(name))
    setattr(Tensor, "__dir__", _names)  # noqa: B010 - mypy takes it for a method of object
