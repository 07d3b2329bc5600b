"""A function of tensors as a subject: called at other values, with all that it closes over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_cnn.core import Tensor, _wrap, gradients
from tinygrad_cnn.core import grad as grad_of
from tinygrad_cnn.core.graph import Node
from tinygrad_cnn.core.op import Array
from tinygrad_cnn.errors import DTypeError, GradientError
from tinygrad_cnn.ops import default_generator

__all__ = ["Function", "gradient_of", "in_float64"]


class Function:
    """A function of tensors, and the leaves that are moved to test it."""

    def __init__(self, name: str, fn: Callable[..., Any], leaves: Sequence[Any],
                 closed_over: Sequence[Tensor]) -> None:
        self.name = name
        self.fn = fn
        self.leaves = leaves                    # arrays, one for each argument
        self.closed_over = tuple(closed_over)

    @property
    def names(self) -> tuple[str, ...]:
        """What reports call the leaves."""
        own = tuple(f"x{i}" for i in range(len(self.leaves)))
        return own + tuple(t.name or f"parameter {i}" for i, t in enumerate(self.closed_over))


    @property
    def arrays(self) -> list[Array]:
        """Where the function is tested: its arguments, then what it closes over."""
        return [*self.leaves, *(t._data for t in self.closed_over)]

    @contextmanager
    def called(self, arrays: Sequence[Array]) -> Iterator[tuple[Any, list[Tensor]]]:
        """The output at these values, and the tensors that hold them; leaves are put back."""
        own, others = arrays[:len(self.leaves)], arrays[len(self.leaves):]
        tensors = [_wrap(a, a.dtype.kind in "fc", None) for a in own]
        before = [t._data for t in self.closed_over]
        generator = default_generator().bit_generator
        state = generator.state
        try:
            for t, a in zip(self.closed_over, others, strict=True):
                t._data = a
            with np.errstate(all="ignore"):
                y = self.fn(*tensors)
            for name, t, a in zip(self.names, (*tensors, *self.closed_over), arrays, strict=True):
                if t._data is not a and not np.array_equal(t._data, a, equal_nan=True):
                    raise GradientError(f"{self.name} writes to its input {name}; copy it first")
            yield y, [*tensors, *self.closed_over]
        finally:
            generator.state = state             # the next call draws the same random numbers
            for t, a in zip(self.closed_over, before, strict=True):
                t._data = a

    def forward(self, arrays: Sequence[Array]) -> Array:
        """The values of the function."""
        with self.called(arrays) as (y, _):
            if not isinstance(y, Tensor):
                raise GradientError(f"check_gradients: {self.name} returned {type(y).__name__}, "
                                    "expected one Tensor; combine several outputs with "
                                    "concatenate(), or test them one at a time")
            return y._data

    def pull(self, arrays: Sequence[Array], ct: Array) -> list[Array | None]:
        """The gradients of all leaves."""
        with self.called(arrays) as (y, tensors):
            if not y.requires_grad:
                raise GradientError(f"check_gradients: the output of {self.name} depends on no "
                                    "input that requires a gradient; was it computed from .data, "
                                    ".numpy() or .detach(), or under no_grad()?")
            found = gradients(y, _wrap(np.asarray(ct, y.dtype), False, None))
            return [found[t]._data if t in found else None for t in tensors]


@contextmanager
def in_float64(fn: Callable[..., Any], inputs: Sequence[Any],
                parameters: Sequence[Tensor]) -> Iterator[Function]:
    """The function, with all that it differentiates in float64 while the block runs."""
    leaves = []
    for i, x in enumerate(inputs):
        a = np.array(x._data if isinstance(x, Tensor) else x)
        if a.dtype.kind not in "fiub":
            raise GradientError(f"check_gradients: input {i} is {type(x).__name__}, expected a "
                                "tensor, an array or a number; close over anything else")
        leaves.append(a)
    name = getattr(fn, "__name__", type(fn).__name__)
    found = _closed_over(Function(name, fn, leaves, ()))
    several = list({id(t): t for t in (*parameters, *found)}.values())
    before = [t._data for t in several]
    try:
        for t in several:
            t._data = t._data.astype(np.float64)
        yield Function(name, fn, [a.astype(np.float64) if a.dtype.kind == "f" else a
                                   for a in leaves], several)
    except DTypeError as error:
        raise GradientError(f"check_gradients: {name} mixes in tensors of float32, and is tested "
                            "in float64; pass them as inputs, or in parameters= "
                            f"({error})") from error
    finally:
        for t, a in zip(several, before, strict=True):
            t._data = a


def _closed_over(function: Function) -> list[Tensor]:
    """The leaves that the function reaches and was not given."""
    # Parameters may be float32 or float64, whatever the inputs are: the first company that fits.
    for dtype in (None, np.float32, np.float64):
        given = [a.astype(dtype) if dtype is not None and a.dtype.kind == "f" else a.copy()
                 for a in function.leaves]
        try:
            with function.called(given) as (y, tensors):
                own = set(map(id, tensors))
                return [] if not isinstance(y, Tensor) else \
                    [t for t in _leaves_below(y) if id(t) not in own]
        except DTypeError:
            if dtype is np.float64:
                raise
    return []


def _leaves_below(y: Tensor) -> list[Tensor]:
    """The leaves that require a gradient below an output, in the order in which they are met."""
    if y.node is None:
        return [y] if y.requires_grad else []
    seen: set[Node] = {y.node}
    stack, leaves = [y.node], {}
    while stack:
        for x in stack.pop().inputs or ():
            if x is not None and x.node is None and x.requires_grad:
                leaves[id(x)] = x
            elif x is not None and x.node is not None and x.node not in seen:
                seen.add(x.node)
                stack.append(x.node)
    return list(leaves.values())


def gradient_of(function: Function, seed: int) -> Function:
    """The function Σ u · (gradient of ⟨ct, fn⟩), whose gradient is a second derivative."""
    rng = np.random.default_rng([seed, 7])
    with function.called(function.arrays) as (y, tensors):
        ct = rng.normal(size=y.shape)
        weights = [rng.normal(size=t.shape) for t in tensors]

    def inner(*own: Tensor) -> Tensor:
        y = function.fn(*own)
        leaves = [t for t in (*own, *function.closed_over) if t.dtype.kind in "fc"]
        parts = grad_of(y, leaves, _wrap(ct.astype(y.dtype), False, None), create_graph=True)
        total: Any = None
        for t, part in zip(leaves, parts, strict=True):
            if part is not None:
                position = next(i for i, other in enumerate((*own, *function.closed_over))
                                if other is t)
                term = (part * _wrap(weights[position].astype(part.dtype), False, None)).sum()
                total = term if total is None else total + term
        if total is None or not total.requires_grad:
            # A gradient that is constant: keep the connection to the inputs, with weight 0.
            nothing = sum((0.0 * t).sum() for t in leaves)
            total = nothing if total is None else total + nothing
        return total

    return Function(function.name, inner, function.leaves, function.closed_over)
