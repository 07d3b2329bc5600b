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

from tinygrad_cnn.errors import GradientError, KernelFailed
from tinygrad_cnn.graph import Array, Node, State, changed, handed, locked, refuse_changed
from tinygrad_cnn.op import FUNCTIONS, Op

if TYPE_CHECKING:
    from tinygrad_cnn.tensor import Tensor

__all__ = ["backward_pass", "key_of"]

_LARGE = 1 << 17        # entries, from which a sum is worth a kernel's threads


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
    with changed(recording=create_graph, plain=not create_graph) as state:
        while heap:
            node = heappop(heap)[1]
            ct = found.pop(node)
            if node.inputs is None:
                raise node.freed_error()
            if wanted is not None and node in wanted:
                done[node] = ct
            for x, part in _sent(node, ct, wrap, useful, state):
                below = x.node
                key: Any = x if below is None else below
                if key in found:
                    found[key] = _sum(found[key], part)
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


def _sent(node: Node, ct: Any, wrap: Callable[..., Tensor], useful: set[Any] | None, state: State
          ) -> list[tuple[Tensor, Any]]:
    """The inputs that require a gradient, each with what its rule gives."""
    observer = state.observer
    if observer is None:
        return _called(node, ct, wrap, useful, state.plain)
    observer.before_backward(node, ct if state.plain else ct._data)
    began = time.perf_counter()
    sent = _called(node, ct, wrap, useful, state.plain)
    seconds = time.perf_counter() - began
    observer.backward(node, ct if state.plain else ct._data,
                      sent if state.plain else [(x, part._data) for x, part in sent], seconds)
    return sent


def _called(node: Node, ct: Any, wrap: Callable[..., Tensor], useful: set[Any] | None, plain: bool
            ) -> list[tuple[Tensor, Any]]:
    op, values, inputs = node.op, node.values, node.inputs or ()
    out: Any = node.out
    if not plain:
        refuse_changed(node)
        out = wrap(np.broadcast_to(np.nan, ct.shape) if out is None else out, True, node)
        with handed(ct, out, *inputs):
            return _parts(node, ct, out, inputs, useful, plain)
    if op.foreign:
        return _parts(node, locked(ct), locked(out), tuple(map(locked, values)), useful, plain)
    return _parts(node, ct, out, values, useful, plain)


def _parts(node: Node, ct: Any, out: Any, args: Sequence[Any], useful: set[Any] | None, plain: bool
           ) -> list[tuple[Tensor, Any]]:
    op, settings, residuals, rules = node.op, node.settings, node.residuals, node.op.rules
    sent: list[tuple[Tensor, Any]] = []
    called: Any = None
    made: Any = None
    for i, x in enumerate(node.inputs or ()):
        if x is None or not x.requires_grad or (useful is not None and key_of(x) not in useful):
            continue
        rule = partial(rules[0], index=i) if op.variadic else rules[i]
        try:
            if rule is not called or op.together[i] is None:       # else made for all together
                called, made = rule, rule(ct, out, *args, **settings, **residuals)
            k = op.together[i]
            sent.append((x, _fitted(made if k is None else made[k], node.values[i], op, i, plain)))
        except KernelFailed:                            # it is not asked again
            return _parts(node, ct, out, args, useful, plain)
        except Exception as error:
            error.add_note(f"in the backward rule of {op.name} for {op.input_name(i)!r}")
            raise
    return sent


def _fitted(part: Any, value: Array, op: Op, i: int, plain: bool) -> Any:
    """A cotangent summed to the shape of its input, or refused."""
    if plain and hasattr(part, "node"):
        part = part._data
    expected = "an array" if plain else "a Tensor"
    if not (isinstance(part, (np.ndarray, np.generic)) if plain else hasattr(part, "node")):
        raise GradientError(f"{op.name}: vjp for {op.input_name(i)!r} returned "
                            f"{type(part).__name__}, expected {expected}")
    if part.shape != value.shape:
        if not op.broadcasts:
            raise GradientError(f"{op.name}: vjp for {op.input_name(i)!r} has shape {part.shape}, "
                                f"the input has shape {value.shape}")
        part = FUNCTIONS["sum_to"](part, shape=value.shape)
    if part.dtype != value.dtype:
        raise GradientError(f"{op.name}: vjp for {op.input_name(i)!r} has dtype {part.dtype}, the "
                            f"input has {value.dtype}; keep the dtype of ct")
    return np.asarray(part) if plain else part


def _sum(a: Any, b: Any) -> Any:
    return np.asarray(a + b) if isinstance(a, np.ndarray) and a.size < _LARGE else (
        FUNCTIONS["add"](a, b))
