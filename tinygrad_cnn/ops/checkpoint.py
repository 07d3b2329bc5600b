"""`checkpoint`: a part of a program whose values are not kept, but computed again when needed.

It is recorded as one node.  A backward pass that comes to it runs the function a second time, and
goes on with the nodes of that run in its place, so cotangents are added in the order in which they
would have been anyway: gradients are equal to the last bit.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_cnn.core import Tensor, _wrap, shared
from tinygrad_cnn.core.apply import _recorded
from tinygrad_cnn.core.graph import (
    Node,
    _order,
    _state,
    changed,
    key_of,
    refuse_changed,
    remembering,
)
from tinygrad_cnn.core.op import Op, OpTest
from tinygrad_cnn.errors import GradientError
from tinygrad_cnn.types import Array

__all__ = ["checkpoint"]

_CHECKPOINT = Op(
    name="checkpoint", shape=lambda *xs, made, again: made,
    kernels={"array": lambda *xs, made, again: NotImplemented},
    vjp={"xs": lambda ct, out, *xs, made, again, index: NotImplemented},
    test=OpTest(samples=lambda rng: []), saved=(), recomputed=True,
    flops=lambda *xs, out_shape, made, again: 0)


def checkpoint(function: Callable[..., Tensor], *args: object, **settings: object) -> Tensor:
    """Call ``function(*args, **settings)``, and keep nothing of it but its inputs and its result.

    The backward pass calls it again, and takes the values that it needs from that run: memory for
    time.  Generators that the first call drew from, and the mode and buffers of the modules that it
    ran, are for the second one as they were for the first, and afterwards as they are now: the
    gradients are equal to the last bit, and running statistics are updated once.

    Parameters
    ----------
    function : callable
        A module, or a function of tensors.
    *args, **settings
        What it is called with.

    Returns
    -------
    Tensor

    Raises
    ------
    GradientError
        If the function returns anything but one tensor; and in the backward pass, if a parameter
        was changed since, or the second call gives other values than the first.

    References
    ----------
    Chen et al., *Training Deep Nets with Sublinear Memory Cost*, arXiv:1604.06174.

    Examples
    --------
    >>> w = Parameter([2.0])
    >>> y = checkpoint(lambda x: (x * w).exp(), Tensor([0.5]))
    >>> y.sum().backward()
    >>> w.grad.data == y.data * np.float32(0.5)
    array([ True])
    """
    state = _state.get()
    if not state.recording:
        return function(*args, **settings)
    args = tuple([_own(x) for x in args])
    first = next(_order)                        # nodes of this call have smaller numbers
    with remembering() as states:
        y: Any = function(*args, **settings)
    if not isinstance(y, Tensor):
        raise GradientError(f"checkpoint: the function returned {type(y).__name__}, not one "
                            "tensor; take a checkpoint for each, or stack them")
    if y.node is None or y.node.order > first:
        return y                                # nothing was recorded
    made = _mark(y._data)

    def again(node: Node) -> Node:
        refuse_changed(node, "it cannot be computed again; call backward() before "
                       "optimizer.step()")
        now = [(put, get()) for _, get, put, _ in states.values()]
        try:
            for _, _, put, kept in states.values():
                put(copy.deepcopy(kept))
            with changed(recording=True, plain=False, observer=None, scope=node.scope, calls=None):
                y = function(*args, **settings)
        finally:
            for put, value in now:
                put(value)
        if y.node is None or y.node.order > first or _mark(y._data) != made:
            raise GradientError(
                "checkpoint: called again in the backward pass, the function gave other values; it "
                "may depend only on its arguments, on parameters, and on generators from "
                "default_generator(rng), with the number of threads and the kernels as they were")
        return y.node

    inputs = _read_by(y.node, first)
    out = _recorded(_CHECKPOINT, inputs, tuple([x._data for x in inputs]), y._data, state,
                    sys._getframe(1), {"made": y.shape, "again": again})
    if state.observer is not None:
        assert out.node is not None
        state.observer.forward(out.node, inputs, y._data, 0.0)
    return out


def _own(x: Any) -> Any:
    """An argument that stays as it is, whatever the user writes to it; leaves stay themselves."""
    if isinstance(x, np.ndarray):
        return x.copy()
    if isinstance(x, Tensor) and not (x.is_leaf and x.requires_grad):
        return _wrap(shared(x), x.requires_grad, x.node)
    return x


def _read_by(node: Node, first: int) -> tuple[Tensor, ...]:
    """What nodes that are younger than ``first`` read, and did not make, where gradients flow."""
    found: dict[Any, Tensor] = {}
    seen, stack = {node}, [node]
    while stack:
        for x in stack.pop().inputs or ():
            if x is None or not x.requires_grad:
                continue
            if x.node is None or x.node.order > first:
                found[key_of(x)] = x
            elif x.node not in seen:
                seen.add(x.node)
                stack.append(x.node)
    return tuple(found.values())


def _mark(y: Array) -> tuple[Any, ...]:
    """What two equal arrays have in common: shape, dtype, and the sum of all squares."""
    return y.shape, y.dtype, np.vdot(y, y).tobytes()
