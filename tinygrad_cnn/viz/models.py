"""From a model and one batch to a recording: a copy of the model runs, the model stays as it is."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cnn.errors import VizError
from tinygrad_cnn.op import FUNCTIONS
from tinygrad_cnn.tensor import Tensor, gradients
from tinygrad_cnn.viz.live import Watch
from tinygrad_cnn.viz.recording import Recording, dotted

if TYPE_CHECKING:
    from tinygrad_cnn.nn import Module

__all__ = ["describe_module"]


def describe_module(model: Module, x: Any, labels: Any = None, *,
                    title: str = "") -> Recording:
    """Run a copy of a model on one batch, and describe what it did.

    The model itself stays as it is: weights, ``grad``, running averages and random state.

    Parameters
    ----------
    model : Module
        What to draw.
    x : Tensor, array_like, or a tuple of them
        One batch, as ``forward`` takes it.
    labels : array_like, optional
        Classes, shape (N,); with them the cross entropy is computed and gradients show.
    title : str
        Instead of the class of the model.

    Raises
    ------
    VizError
        If ``x`` is missing, or the model does not return one tensor.
    """
    if x is None:
        raise VizError(f"graph: {type(model).__name__} has not been called, so its shapes are not "
                       "known; give one batch: model.graph(x)")
    twin = copy.deepcopy(model)
    given = x if isinstance(x, tuple) else (x,)
    arguments = [*_argument_names(model), *(f"x{k}" for k in range(len(given)))]
    batch = tuple(_as_input(v, name) for v, name in zip(given, arguments, strict=False))
    with Watch() as seen:
        output = twin(*batch)
        if not isinstance(output, Tensor):
            raise VizError(f"graph: {type(model).__name__} returned {type(output).__name__}, not a "
                           "Tensor; draw one of its outputs with tensor.graph()")
        if labels is not None:
            output = FUNCTIONS["cross_entropy"](output, labels)
            gradients(output)
    if not seen.recorder.knows(output):
        return _without_gradients(seen, model, title)
    node = output.node
    assert node is not None, "what the recorder knows, an op made"
    names = {id(p): name for name, p in twin.named_parameters()}
    first = seen.recorder.recording(node.serial, names=names)
    reached = {e.path for e in first.entries if e.role == "parameter"}
    missing = [name for name, _ in twin.named_parameters() if name not in reached]
    return seen.recorder.recording(
        node.serial, title=title or type(model).__name__.lstrip("_"), names=names,
        unreached=missing if labels is not None else (), notes=_notes(twin))


def _without_gradients(seen: Watch, model: Module, title: str) -> Recording:
    """A model whose parameters are all frozen records no graph, but the watch saw its ops."""
    if not seen.recorder.ops:
        raise VizError(f"graph: {type(model).__name__} applied no op; there is nothing to draw")
    return seen.recorder.recording(next(reversed(seen.recorder.ops)), title=title)


def _as_input(value: Any, name: str) -> Tensor:
    """A handle of its own with the name of the argument, so that the picture can call it that."""
    if isinstance(value, Tensor):
        return Tensor(value._data, requires_grad=value.requires_grad, name=value.name or name)
    array = np.asarray(value)
    return Tensor(array if array.dtype.kind == "f" and array.dtype.itemsize >= 4
                  else array.astype(np.float32), name=name)


def _argument_names(model: Module) -> Sequence[str]:
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def _notes(model: Module) -> dict[str, str]:
    """What each module says of itself, by its path as the picture writes it."""
    notes = {}
    for name, module in model.named_modules():
        if name:
            words = module.extra_repr()
            kind = type(module).__name__.lstrip("_")
            notes[dotted(tuple(name.split(".")))] = f"{kind}({words})" if words else kind
    return notes
