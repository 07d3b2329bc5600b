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
from heapq import heappop, heappush, heappushpop
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from tinygrad_cnn.core.cotangent import (
    LARGE,
    added,
    count_nonzero,
    fitted,
    masked,
    prepared,
    retried,
    values_of,
)
from tinygrad_cnn.core.graph import NOTHING, Key, Node, changed, key_of, leading_to
from tinygrad_cnn.types import Array, Value

if TYPE_CHECKING:
    from tinygrad_cnn.core import Tensor

__all__ = ["backward_pass"]


def backward_pass(out: Tensor, ct: Value, *, wrap: Callable[..., Tensor] | None = None,
                  retain_graph: bool = False, targets: Sequence[Tensor] | None = None
                  ) -> dict[Key, Value]:
    """The cotangent of every leaf below ``out``, or of the targets, filed under `key_of`.

    ``ct``, the cotangent of ``out``, and the result are arrays.  If the pass is recorded, they are
    tensors, which ``wrap(array, requires_grad, node)`` makes.  Otherwise nodes are freed when they
    are passed, unless the graph is retained.
    """
    wanted = {key_of(t) for t in targets or ()}
    if out.node is None or wanted == {out.node}:
        return {key_of(out): ct}
    useful = None if targets is None else leading_to(out.node, wanted)
    keeps = retain_graph or wrap is not None
    known = ndarray if wrap is None else None           # tensors are always looked at
    done: dict[Key, Value] = {}
    found: dict[Key, Value] = {out.node: ct}
    heap: list[tuple[int, Node]] = []
    entry: tuple[int, Node] | None = (out.node.order, out.node)       # often the only one
    # Derivatives may be infinite where nothing is asked of them, so NumPy's warnings are off.
    with (changed(recording=wrap is not None, plain=wrap is None) as state,
          np.errstate(all="ignore")):
        observer = state.observer
        while entry or heap:
            node = (heappushpop(heap, entry) if entry else heappop(heap))[1]
            entry = None
            ct = found.pop(node)
            inputs = node.inputs
            if inputs is None:
                raise node.freed_error()
            op, values, named = node.op, node.values, node.settings
            rules, direct, multiplies = op.backward
            args: tuple[object, ...] = (ct, node.out) + values  # noqa: RUF005 - in half of the time
            if wrap is not None or not direct:
                if op.recomputed:               # the nodes of another run take its place
                    if node in wanted:
                        done[node] = ct
                    below = named["again"](node)
                    if useful is not None:
                        useful |= leading_to(below, wanted)
                    found[below], entry = ct, (below.order, below)
                    if not keeps:
                        node.inputs, node.values, node.settings = None, (), NOTHING
                    continue
                rules, args, named = prepared(node, ct, rules, wrap)
            zeros = multiplies and ((size := ct.size) > 1024 or count_nonzero(ct) < size)
            if useful is not None:
                if node in wanted:
                    done[node] = ct
                inputs = tuple([None if x is None or key_of(x) not in useful else x
                                for x in inputs])
            if observer is not None:
                observer.before_backward(node, values_of(ct))
                sent: list[tuple[Tensor, Array]] = []
                began = time.perf_counter()
            for i, rule in rules:
                x = inputs[i]
                if x is None or not x._requires_grad:
                    continue
                try:
                    part = rule(*args, **named)
                except Exception as error:
                    part = retried(error, node, i, rule, args, named)
                value = values[i]
                if zeros:                               # they stay so, whatever a rule makes of one
                    part = masked(part, node, ct)
                if (type(part) is not known or part.shape != value.shape
                        or part.dtype is not value.dtype):
                    part = fitted(part, value, op, i, wrap is None)
                if observer is not None:
                    sent.append((x, values_of(part)))
                below = x.node
                key: Key = x if below is None else below
                before = found.get(key)
                if before is None:
                    found[key] = part
                    if below is not None:
                        if entry:
                            heappush(heap, entry)
                        entry = (below.order, below)
                elif before.ndim and before.size < LARGE:
                    found[key] = before + part
                else:
                    found[key] = added(before, part)
            if observer is not None:
                observer.backward(node, values_of(ct), sent,
                                  time.perf_counter() - began)
            if not keeps:
                node.inputs = node.out = None
                node.values, node.residuals = (), NOTHING
    return done | found
