"""The backward pass, on a page.

Nodes carry serial numbers, and a node is younger than all that it was computed from.  So the pass
takes the youngest node that has a cotangent, calls its rules, and adds what they give to the
cotangents of its inputs, until only leaves are left.  Nothing is sorted first, nothing recurses.

A first-order pass hands plain arrays to the rules, and op functions take and give arrays inside it
(`State.plain`).  With ``create_graph`` the rules get tensors, so that what they do is recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from tinygrad_cnn.core.cotangent import added, fitted, masked
from tinygrad_cnn.core.graph import Array, Node, Observer, changed, handed, locked, refuse_changed
from tinygrad_cnn.errors import KernelFailed

if TYPE_CHECKING:
    from tinygrad_cnn.core import Tensor

__all__ = ["backward_pass", "key_of"]

_RULES = (", which is given arrays, or tensors under create_graph: write it with operators and the "
          "functions of this package, which take both")


def key_of(x: Tensor) -> Any:
    """What the cotangent of ``x`` is filed under: its node, or itself if it is a leaf."""
    return x if x.node is None else x.node


def backward_pass(out: Tensor, ct: Any, *, wrap: Callable[..., Tensor], create_graph: bool = False,
                  retain_graph: bool = False, targets: Sequence[Tensor] | None = None
                  ) -> dict[Any, Any]:
    """The cotangent of every leaf below ``out``, or of the targets, filed under `key_of`.

    ``ct``, the cotangent of ``out``, is an array, or a tensor with ``create_graph``; the result
    likewise.  ``wrap(array, requires_grad, node)`` makes a tensor.  Nodes are freed when they are
    passed, unless the graph is retained or the pass recorded.
    """
    wanted = None if targets is None else {key_of(t) for t in targets}
    if out.node is None or wanted == {out.node}:
        return {key_of(out): ct}
    useful = None if wanted is None else _leading_to(out.node, wanted)
    done: dict[Any, Any] = {}
    found: dict[Any, Any] = {out.node: ct}
    heap = [(-out.node.serial, out.node)]
    # Derivatives may be infinite where nothing is asked of them, so NumPy's warnings are off.
    with (changed(recording=create_graph, plain=not create_graph) as state,
          np.errstate(all="ignore")):
        observer = state.observer
        while heap:
            node = heappop(heap)[1]
            ct = found.pop(node)
            inputs = node.inputs
            if inputs is None:
                raise node.freed_error()
            if wanted is not None and node in wanted:
                done[node] = ct
            if useful is not None:
                inputs = tuple([x if x is not None and key_of(x) in useful else None
                                for x in inputs])
            if observer is None:
                sent = _sent(node, inputs, ct, wrap if create_graph else None)
            else:
                sent = _observed(observer, node, inputs, ct, wrap if create_graph else None)
            for x, part in sent:
                below = x.node
                key: Any = x if below is None else below
                if key in found:
                    found[key] = added(found[key], part)
                else:
                    found[key] = part
                    if below is not None:
                        heappush(heap, (-below.serial, below))
            if not (retain_graph or create_graph):
                node.free()
    return done | found


def _leading_to(out: Node, targets: set[Any]) -> set[Any]:
    """The keys on a path from ``out`` to a target."""
    reached, stack = {out}, [out]
    while stack:
        node = stack.pop()
        if node.inputs is None:
            raise node.freed_error()
        below = {x.node for x in node.inputs if x is not None and x.node is not None} - reached
        reached |= below
        stack.extend(below)
    useful = set(targets)
    for node in sorted(reached, key=lambda n: n.serial):            # in creation order
        if any(x is not None and x.requires_grad and key_of(x) in useful
               for x in node.inputs or ()):
            useful.add(node)
    return useful


def _sent(node: Node, inputs: tuple[Tensor | None, ...], ct: Any,
          wrap: Callable[..., Tensor] | None) -> list[tuple[Tensor, Any]]:
    """The inputs that require a gradient, each with what its rule gives; over tensors with wrap."""
    op, values, named = node.op, node.values, node.settings
    args: Any = values
    out: Any = node.out
    rules, together, foreign, multiplies = op.backward
    if node.residuals:
        named = {**named, **node.residuals}
    if wrap is not None:
        refuse_changed(node)
        args, out = node.inputs, wrap(
            np.broadcast_to(np.nan, ct.shape) if out is None else out, True, node)
    elif foreign:
        args, ct, out = tuple(map(locked, args)), locked(ct), locked(out)
    sent: list[tuple[Tensor, Any]] = []
    made: Any = None
    for i, x in enumerate(inputs):
        if x is None or not x._requires_grad:
            continue
        rule = rules[i] if rules else partial(op.vjp[op.inputs[0]], index=i)        # variadic
        try:
            if wrap is not None:
                with handed(ct, out, *args):
                    made = rule(ct, out, *args, **named)
            elif made is None or not together:          # else made with that of another input
                made = rule(ct, out, *args, **named) if named else rule(ct, out, *args)
        except KernelFailed:                            # it is not asked again
            return _sent(node, inputs, ct, wrap)
        except Exception as error:
            error.add_note(f"in the backward rule of {op.name} for {op.input_name(i)!r}"
                           + _RULES * (foreign and isinstance(error, (AttributeError, TypeError))))
            raise
        part = made[together[i]] if together else made
        if multiplies:
            part = masked(part, node, ct)
        value = values[i]
        if (wrap is not None or type(part) is not ndarray or part.shape != value.shape
                or part.dtype is not value.dtype):
            part = fitted(part, value, op, i, wrap is None)
        sent.append((x, part))
    return sent


def _observed(observer: Observer, node: Node, inputs: tuple[Tensor | None, ...], ct: Any,
              wrap: Callable[..., Tensor] | None) -> list[tuple[Tensor, Any]]:
    """The same, and an observer is told."""
    def array(t: Any) -> Array:
        return t if wrap is None else t._data

    observer.before_backward(node, array(ct))
    began = time.perf_counter()
    sent = _sent(node, inputs, ct, wrap)
    seconds = time.perf_counter() - began
    observer.backward(node, array(ct), [(x, array(part)) for x, part in sent], seconds)
    return sent
