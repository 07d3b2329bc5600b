"""What a module's state dict holds, and the checks before one is written back.

Everything is compared first and every difference reported at once; arrays are written only when all
of them fit, so a model is never left half loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from tinygrad_cnn.core import TensorLike, as_array, as_dtype, writable
from tinygrad_cnn.errors import CheckpointError, DTypeError
from tinygrad_cnn.shapes import Shape
from tinygrad_cnn.types import Array, DType

if TYPE_CHECKING:
    from tinygrad_cnn.nn.module import Module

Slots = dict[str, tuple[Shape | None, DType]]       # path -> shape, if it is known, and dtype

__all__ = ["LoadReport", "float_dtype", "load", "slots"]



class LoadReport(NamedTuple):
    """Paths that a state dict lacked, and paths in it that the model lacks."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def float_dtype(owner: str, dtype: DTypeLike) -> DType:
    """``dtype`` if parameters can have it."""
    chosen = as_dtype(dtype, owner)
    if chosen not in (np.float32, np.float64):
        raise DTypeError(f"{owner}: parameters are float32 or float64, got {dtype!r}")
    return chosen


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _own_slots(module: Module) -> dict[str, Array]:
    """The arrays of one module that belong in a state dict."""
    own = {k: parameter._data for k, parameter in module._own_parameters()}
    kept = {k: array for k, array in module._own_buffers()
            if module._buffer_names[k]}
    return own | kept


def slots(module: Module) -> dict[str, Array]:
    """Path -> the array itself, for every parameter and persistent buffer."""
    found: dict[str, Array] = {}
    for path, part in module.walk():
        part.require_initialized(path)
        found |= {_join(path, name): array for name, array in _own_slots(part).items()}
    return found


def load(module: Module, entries: Mapping[str, TensorLike], *, strict: bool) -> LoadReport:
    """Check ``entries`` against the module, and write them if they fit."""
    owner = f"{type(module).__name__}.load_state_dict"
    if not isinstance(entries, Mapping):
        raise CheckpointError(f"{owner}: the state must be a mapping of paths to arrays, "
                              f"got {type(entries).__name__}")
    given = {str(name): _array(owner, str(name), value) for name, value in entries.items()}
    needed, lazy = _needed(module, {name: array.shape for name, array in given.items()})
    missing = tuple(name for name in needed if name not in given)
    unexpected = tuple(name for name in given if name not in needed)
    both = [name for name in needed if name in given]
    complaints = [
        f"of another shape: {name} is {given[name].shape}, the model needs {_text(needed[name][0])}"
        for name in both if given[name].shape != needed[name][0]]
    complaints += [
        f"of another dtype: {name} is {given[name].dtype}, the model has {needed[name][1]}; cast "
        "the array, or the model with model.astype(...)"
        for name in both if not _fits(given[name].dtype, needed[name][1])]
    complaints += _disagreeing(module, given)
    complaints += [
        f"out of range: {full} must be at least {least}, its least entry is {given[full].min()}; "
        "correct the array before loading it"
        for path, part in module.walk() for name, least in part.minima.items()
        if (full := _join(path, name)) in given and not (given[full] >= least).all()]
    absent = [f"missing: {name} {_text(needed[name][0])}" for name in missing]
    surplus = [f"unexpected: {name} {given[name].shape}" for name in unexpected]
    # The size of a lazy layer must be known, strict or not.
    unknown = [line for name, line in zip(missing, absent, strict=True) if needed[name][0] is None]
    if lines := (absent + surplus if strict else unknown) + complaints:
        raise CheckpointError(f"{owner}: the arrays do not fit the model, nothing was written"
                              + "".join(f"\n  {line}" for line in lines)
                              + ("" if both else _other_prefix(missing, unexpected))
                              + _other_layout(module, given, needed))
    for layer, size in lazy:
        layer.materialize(size)
    for path, part in module.walk():
        for name, parameter in part._own_parameters():
            if (full := _join(path, name)) in given:
                writable(parameter)[...] = given[full]
        for name, array in part._own_buffers():
            if part._buffer_names[name] and (full := _join(path, name)) in given:
                array[...] = given[full]
    return LoadReport(missing, unexpected)


def _array(owner: str, name: str, value: object) -> Array:
    if isinstance(value, Mapping):
        raise CheckpointError(f"{owner}: {name} is a {type(value).__name__}, not an array; a file "
                              f"of several parts?  Load one of them: entries[{name!r}]")
    if type(value).__module__.partition(".")[0] == "torch":
        raise CheckpointError(f"{owner}: {name} is a tensor of PyTorch, whose weights have another "
                              f"layout; {_CONVERT}")
    try:
        return as_array(value)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{owner}: {name} is no array: {error}") from None


_CONVERT = ("convert every weight, square ones too: w.T for Linear, w.transpose(2, 3, 1, 0) for "
            "Conv2D, w.transpose(2, 3, 0, 1) for ConvTranspose2D; see \"Coming from PyTorch\" in "
            "docs/nn.md")


def _other_layout(module: Module, given: Mapping[str, Array], needed: Slots) -> str:
    """A cure if a weight fits only when its axes are in PyTorch's order."""
    found = []
    for path, part in module.walk():
        name, axes = _join(path, "weight"), type(part).pytorch_axes
        if axes is None or name not in given or given[name].ndim != len(axes):
            continue
        shape = given[name].shape
        turned = tuple(shape[i] for i in axes)
        fits = (part.infer_size({"weight": turned}) is not None if needed[name][0] is None
                else shape != needed[name][0] == turned)
        if fits:
            found.append(f"{name} {shape} as {turned}")
    return (f"\n  cure: these are PyTorch's layouts, which fit turned round: {', '.join(found)}; "
            f"{_CONVERT}" if found else "")


def _other_prefix(missing: tuple[str, ...], unexpected: tuple[str, ...]) -> str:
    """A cure if what is unexpected is what is missing, with something in front."""
    for short, long, cure in ((missing, unexpected, "take it off"),
                              (unexpected, missing, "put it in front of")):
        for end in short:
            prefix = long[0].removesuffix(end) if long else ""
            if prefix and {prefix + name for name in short} == set(long):
                return f"\n  cure: the prefix {prefix!r} is all that differs; {cure} each path"
    return ""


def _needed(module: Module, shapes: Mapping[str, Shape]
            ) -> tuple[Slots, list[tuple[Module, Shape]]]:
    """Path -> shape and dtype, and the sizes that lazy layers would take; None is unknown."""
    needed: Slots = {}
    lazy: list[tuple[Module, Shape]] = []
    for path, part in module.walk():
        own: Slots = {
            name: (array.shape, array.dtype) for name, array in _own_slots(part).items()}
        if part._is_lazy():
            prefix = _join(path, "")
            size = part.infer_size({name.removeprefix(prefix): shape
                                   for name, shape in shapes.items() if name.startswith(prefix)})
            dtype = vars(part)["dtype"]
            if size is None:
                own |= {"weight": (None, dtype)}
            else:
                own |= {name: (shape, dtype) for name, shape in part.parameter_shapes(size).items()}
                lazy.append((part, size))
        needed |= {_join(path, name): slot for name, slot in own.items()}
    return needed, list({id(part): (part, size) for part, size in lazy}.values())


def _fits(given: DType, needed: DType) -> bool:
    """Whether values go over without losing digits, float to float and integer to integer."""
    kinds = {"i": "i", "u": "i"}
    same_kind = kinds.get(given.kind, given.kind) == kinds.get(needed.kind, needed.kind)
    return same_kind and np.can_cast(given, needed, "safe")


def _disagreeing(module: Module, given: Mapping[str, Array]) -> list[str]:
    """Complaints about paths of one shared parameter whose arrays differ."""
    first: dict[int, str] = {}
    lines = []
    for path, part in module.walk():
        for name, parameter in part._own_parameters():
            full = _join(path, name)
            if full not in given:
                continue
            other = first.setdefault(id(parameter), full)
            if not np.array_equal(given[other], given[full], equal_nan=True):
                lines.append(f"at odds: {other} and {full} are one shared parameter, but their "
                             "arrays differ")
    return lines


def _text(shape: Shape | None) -> str:
    return "of a size that the state must tell" if shape is None else str(shape)
