"""Takes notes of a run while it happens: of each op its facts, of each gradient its figures.

A `Recorder` is an observer of the engine.  It keeps numbers, never arrays or nodes, so a step can
be drawn after its graph is freed; of a leaf it keeps a weak reference, to ask for its weights.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.graph import Node, is_grad_enabled
from tinygrad_cnn.tensor import Parameter, Tensor
from tinygrad_cnn.viz.recording import Entry, Recording, Statistics
from tinygrad_cnn.viz.words import source_line, words

__all__ = ["Recorder", "is_stand_in", "statistics"]

Array = NDArray[Any]
_MOST_OPS = 200_000                         # of which a long watch keeps the latest
_LEAST_ROWS = 16                            # fewer say nothing about a channel
_NAMES = {"w": "weight", "b": "bias"}


def is_stand_in(array: Array) -> bool:
    """Whether an array only stands for values that the graph did not keep."""
    return array.size > 0 and array.ndim > 0 and not any(array.strides) and array.size > 1


def statistics(array: Array) -> Statistics:
    """Root mean square, extremes, and how many entries are NaN or infinite.

    >>> statistics(np.array([3.0, -4.0, np.inf]))
    Statistics(rms=inf, low=-4.0, high=3.0, bad=1)
    """
    if not array.size:
        return Statistics(0.0)
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind != "f":
        flat = flat.astype(np.float64)
    with np.errstate(all="ignore"):         # NaN and overflow are findings, not faults, here
        total = float(np.dot(flat, flat))
    if math.isfinite(total):
        return Statistics(math.sqrt(total / flat.size), float(flat.min()), float(flat.max()))
    finite = flat[np.isfinite(flat)].astype(np.float64)
    bad = flat.size - finite.size
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if not bad:                             # the squares overflowed, the values did not
        scale = max(abs(low), abs(high))
        return Statistics(scale * math.sqrt(float(np.mean((finite / scale) ** 2))), low, high)
    return Statistics(math.nan if np.isnan(flat).any() else math.inf, low, high, bad)


@dataclass
class _Op:
    """The facts of one node."""

    op: str
    family: str
    scope: tuple[str, ...]
    origin: tuple[Any, int] | None
    inputs: tuple[int, ...]
    arguments: tuple[str, ...]
    settings: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    tracked: bool
    flops: int
    kept: int
    seconds: float | None
    value: Statistics | None = None
    dead: int = 0
    channels: int = 0
    note: str = ""
    confidence: float | None = None
    classes: int = 0
    sent: dict[int, float] = field(default_factory=dict)
    step: int = -1
    charged: bool = False                   # whether the output is among the bytes kept


@dataclass
class _Leaf:
    """The facts of one leaf, or of an array that is a setting."""

    role: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    note: str = ""
    scope: tuple[str, ...] = ()
    tensor: weakref.ref[Tensor] | None = None
    needs_gradient: bool = False


class Recorder:
    """An observer that notes every op applied and every cotangent found.

    Keys are serial numbers for what an op made, and negative numbers for leaves.
    """

    def __init__(self) -> None:
        self.ops: dict[int, _Op] = {}
        self.leaves: dict[int, _Leaf] = {}
        self.gradients: dict[int, Statistics] = {}
        self._leaf_keys: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._untracked: dict[int, tuple[weakref.ref[Array], int]] = {}
        self._arrays: dict[int, tuple[weakref.ref[Array], int]] = {}    # of leaves
        self._named: dict[tuple[Any, ...], int] = {}
        self._readers: dict[int, int] = {}
        self._owner: dict[int, int] = {}    # who allocated the memory of a view
        self._sums: dict[int, Array] = {}
        self._fresh = itertools.count(-1, -1)
        self._last_serial = -1
        self._step = 0

    # ---- what the engine tells
    def forward(self, node: Node, out: Array, seconds: float) -> None:
        """Note an op that was applied; those inside a backward rule are not part of the network."""
        if is_grad_enabled():
            self.note(node, out, seconds)

    def backward(self, node: Node, cotangent: Array, sent: Sequence[tuple[Tensor, Array]],
                 seconds: float) -> None:
        """Note the gradient of an op, and what its rules sent on."""
        if node.serial >= self._last_serial:        # serials fall within a pass
            self._sums.clear()
            self._step = 0
        self._last_serial = node.serial
        facts = self.ops.get(node.serial)
        if facts is None:
            return
        self.gradients[node.serial] = statistics(cotangent)
        facts.step, self._step = self._step, self._step + 1
        inputs = node.inputs or ()
        position = -1
        for tensor, part in sent:
            position = next((k for k in range(position + 1, len(inputs)) if inputs[k] is tensor),
                            position)
            self._sent(facts, inputs, position, tensor, part)

    def _sent(self, facts: _Op, inputs: Sequence[Tensor | None], position: int, tensor: Tensor,
              part: Array) -> None:
        key = self._key(tensor)
        at = sum(x is not None for x in inputs[:position])
        if tensor.node is not None and self._readers.get(key, 0) == 1:
            return                          # the whole gradient of that op, noted when it is passed
        if tensor.node is None:
            if key in self._sums:
                self._sums[key] = self._sums[key] + part
            elif self._readers.get(key, 0) > 1:
                self._sums[key] = part
            self.gradients[key] = statistics(self._sums.get(key, part))
        facts.sent[at] = statistics(part).rms

    # ---- one op
    def note(self, node: Node, out: Array | None, seconds: float | None) -> None:
        """Note an op; ``out`` is None where its values are gone."""
        inputs = [x for x in node.inputs or () if x is not None]
        shapes = [None if x is None else x.shape for x in node.inputs or ()]
        keys = [self._key(x, self._argument(node, i)) for i, x in enumerate(node.inputs or ())
                if x is not None]
        names = [self._argument(node, i) for i, x in enumerate(node.inputs or ()) if x is not None]
        shape = node.shape if out is None else out.shape
        flops = node.op.count_flops(*shapes, out=shape, **node.settings)
        facts = self.ops[node.serial] = _Op(
            node.op.name, node.op.family, node.scope, node.origin, tuple(keys), tuple(names),
            words(node.op.name, node.settings, shapes), tuple(shape),
            _dtype_name(node.dtype if out is None else out.dtype),
            any(x.requires_grad for x in inputs),
            flops, _residual_bytes(node), seconds)
        for key in keys:
            self._readers[key] = self._readers.get(key, 0) + 1
        self._labels(node, facts)
        self._memory(node, keys, inputs, out)
        if out is not None:
            self._values(node, facts, out, inputs)
            if not facts.tracked:
                self._untracked[id(out)] = weakref.ref(out), node.serial
        if len(self.ops) > _MOST_OPS:
            self._trim()

    def _trim(self) -> None:
        """Forget the oldest tenth of a long watch, and what only it referred to."""
        for serial in list(self.ops)[:_MOST_OPS // 10]:
            for table in (self.ops, self.gradients, self._readers, self._owner):
                table.pop(serial, None)
        read = {key for facts in self.ops.values() for key in facts.inputs}
        self.leaves = {key: leaf for key, leaf in self.leaves.items() if key in read}
        self._leaf_keys = {k: v for k, v in self._leaf_keys.items() if v[1] in self.leaves}
        self._untracked = {k: v for k, v in self._untracked.items() if v[0]() is not None}
        self._arrays = {k: v for k, v in self._arrays.items() if v[1] in self.leaves}
        self._named = {k: v for k, v in self._named.items() if v in self.leaves}

    @staticmethod
    def _argument(node: Node, i: int) -> str:
        return node.op.input_name(i)

    def _key(self, x: Tensor, argument: str = "") -> int:
        if x.node is not None and x.node.serial in self.ops:
            return x.node.serial
        made = self._untracked.get(id(x._data))
        if made is not None and made[0]() is x._data:
            return made[1]
        thing: Any = x if x.node is None else x.node       # made before the watch began
        known = self._leaf_keys.get(id(thing))
        if known is not None and known[0]() is thing:
            return known[1]
        key = self._twin(x)
        if key is None:
            key = next(self._fresh)
            self.leaves[key] = _leaf(x, argument)
            if not x.requires_grad and x.node is None:
                self._named[x.name, x.shape, x._data.dtype] = key
                if not is_stand_in(x._data):
                    self._arrays[id(x._data)] = weakref.ref(x._data), key
        self._leaf_keys[id(thing)] = weakref.ref(thing), key
        return key

    def _twin(self, x: Tensor) -> int | None:
        """The leaf that another handle of ``x`` is known as.

        Every op wraps an array that it is given, and graphs keep stand-ins for values that no rule
        reads: the array, or else the name, tells whose they are.
        """
        if x.node is not None or x.requires_grad:
            return None
        by_array = self._arrays.get(id(x._data))
        if by_array is not None and by_array[0]() is x._data:
            return by_array[1]
        key = self._named.get((x.name, x.shape, x._data.dtype)) if x.name else None
        return key if key in self.leaves else None

    def _labels(self, node: Node, facts: _Op) -> None:
        """Targets of a loss are a setting, yet a reader of the picture looks for them."""
        target = node.settings.get("target")
        if node.op.family != "loss" or not isinstance(target, np.ndarray):
            return
        key = next(self._fresh)
        self.leaves[key] = _Leaf("label", "y", target.shape, str(target.dtype),
                                 "labels · no gradient")
        facts.inputs, facts.arguments = (*facts.inputs, key), (*facts.arguments, "target")

    def _memory(self, node: Node, keys: Sequence[int], inputs: Sequence[Tensor],
                out: Array | None) -> None:
        """Charge each array that the graph keeps to the op that allocated it, once."""
        view = out is not None and out.base is not None and node.op.family == "shape" and keys
        self._owner[node.serial] = self._owner.get(keys[0], keys[0]) if view else node.serial
        if node.out is not None and not view:
            self._charge(node.serial, node.out)
        for key, x in zip(keys, inputs, strict=True):
            if key >= 0 and not is_stand_in(x._data):
                self._charge(self._owner.get(key, key), x._data)

    def _charge(self, key: int, array: Array) -> None:
        facts = self.ops.get(key)
        if facts is not None and not facts.charged:
            facts.kept += array.nbytes
            facts.charged = True

    def _values(self, node: Node, facts: _Op, out: Array, inputs: Sequence[Tensor]) -> None:
        facts.value = statistics(out)
        if node.op.family == "activation" and out.ndim > 1 and out.size and facts.value.low == 0:
            # Nothing is below zero, so a channel is dead if its sum is zero; products add fast.
            share = 1 - np.count_nonzero(out > 0) / out.size
            facts.note = f"{share * 100:.0f}% zeros" if facts.value.high > 0 else ""
            rows = out.reshape(-1, out.shape[-1])
            if len(rows) >= _LEAST_ROWS:
                sums = np.ones(len(rows), rows.dtype) @ rows
                facts.channels, facts.dead = len(sums), int(np.count_nonzero(sums == 0))
        if node.op.name == "cross_entropy":
            facts.confidence, facts.classes = _confidence(inputs[0]._data)
        elif node.op.name == "softmax" and out.size:
            facts.confidence = float(out.max(axis=-1).mean())

    # ---- the recording
    def knows(self, output: Tensor) -> bool:
        """Whether the op that made ``output`` was noted."""
        return output.node is not None and output.node.serial in self.ops

    def recording(self, output: int, *, title: str = "", names: Mapping[int, str] | None = None,
                  unreached: Iterable[str] = (),
                  notes: Mapping[str, str] | None = None) -> Recording:
        """What led to the op of serial ``output``, as plain data.

        Parameters
        ----------
        output : int
            Serial number of the op that made the output.
        title : str
            Of the picture; the outermost module if empty.
        names : mapping of int to str, optional
            Path of a parameter in its model, by ``id`` of the tensor.
        unreached, notes
            See `Recording`.
        """
        reached = self._reached(output)
        root = _root(self.ops[s].scope for s in reached if s >= 0)
        order = self._order(reached)
        index = {key: i for i, key in enumerate(order)}
        unnamed = [k for k in order if k < 0 and self.leaves[k].role == "input"
                   and not self.leaves[k].name]
        given = _input_names(len(unnamed))
        naming = dict(zip(unnamed, given, strict=True))
        readers: dict[int, _Op] = {}
        for k in order:
            if k >= 0:
                for source in self.ops[k].inputs:
                    readers.setdefault(source, self.ops[k])
        entries = [self._op_entry(k, index, root, k == output) if k >= 0 else
                   self._leaf_entry(k, naming.get(k, ""), names or {}, readers[k], root)
                   for k in order]
        return Recording(title or root.lstrip("_") or "graph", tuple(entries), index[output],
                         any(e.gradient is not None for e in entries), tuple(unreached),
                         dict(notes or {}))

    def _reached(self, output: int) -> set[int]:
        reached, stack = {output}, [output]
        while stack:
            for key in self.ops[stack.pop()].inputs:
                if key not in reached and (key < 0 or key in self.ops):
                    reached.add(key)
                    if key >= 0:
                        stack.append(key)
        return reached

    def _order(self, reached: set[int]) -> list[int]:
        """Ops by serial number, each leaf before its first reader."""
        order: dict[int, None] = {}
        for serial in sorted(k for k in reached if k >= 0):
            order.update(dict.fromkeys(k for k in self.ops[serial].inputs if k < 0))
            order[serial] = None
        return list(order)

    def _op_entry(self, key: int, index: Mapping[int, int], root: str, last: bool) -> Entry:
        f = self.ops[key]
        sent = [self._sent_to(f, k, source) for k, source in enumerate(f.inputs)]
        loss = last and f.tracked and math.prod(f.shape) == 1
        value = f.value
        note = f.note if not loss or value is None else (
            f"loss {value.rms if value.bad else value.low:.4f}")
        return Entry("loss" if loss else "op", f.shape, f.dtype, op=f.op,
                     scope=_below(f.scope, root), family="loss" if loss else f.family,
                     inputs=tuple(index[k] for k in f.inputs),
                     arguments=f.arguments, settings=f.settings, needs_gradient=f.tracked,
                     flops=f.flops, kept=f.kept, seconds=f.seconds, note=note, value=f.value,
                     gradient=self.gradients.get(key), sent=tuple(sent), step=f.step,
                     source=source_line(f.origin), dead=f.dead, channels=f.channels,
                     confidence=f.confidence, classes=f.classes)

    def _sent_to(self, f: _Op, k: int, source: int) -> float | None:
        if k in f.sent:
            return f.sent[k]
        if source >= 0 and f.step >= 0 and self._readers.get(source, 0) == 1 \
                and source in self.gradients:
            return self.gradients[source].rms
        return None

    def _leaf_entry(self, key: int, name: str, names: Mapping[int, str], reader: _Op,
                    root: str) -> Entry:
        leaf = self.leaves[key]
        tensor = leaf.tensor() if leaf.tensor is not None else None
        argument = reader.arguments[reader.inputs.index(key)]
        scope = _below(reader.scope, root) if leaf.role == "parameter" else ()
        path = names.get(id(tensor), "") if tensor is not None else ""
        if path:
            *above, name = path.split(".")
            scope = tuple(above)
        elif not name:
            name = leaf.name.rpartition(".")[2] or _NAMES.get(argument, argument)
        weight = gradient = None
        if leaf.role == "parameter" and tensor is not None:
            weight = statistics(tensor._data).rms
        if leaf.needs_gradient:
            gradient = self.gradients.get(key)
        return Entry(leaf.role, leaf.shape, leaf.dtype, name=name, scope=scope, family=leaf.role,
                     needs_gradient=leaf.needs_gradient, note=leaf.note, weight=weight,
                     gradient=gradient)


@lru_cache(maxsize=32)
def _dtype_name(dtype: np.dtype[Any]) -> str:
    """NumPy works these names out anew each time, which shows in a graph of 10,000 ops."""
    return str(dtype)


def _leaf(x: Tensor, argument: str) -> _Leaf:
    trained = isinstance(x, Parameter) or (x.requires_grad and argument in _NAMES)
    if not x.requires_grad and x.size == 1:
        note = "" if is_stand_in(x._data) else f"{x._data.reshape(()).item():g}"
        return _Leaf("constant", x.name or "", x.shape, _dtype_name(x.dtype), note)
    role = "parameter" if trained else "input"
    note = "" if x.requires_grad else "needs no gradient"
    return _Leaf(role, x.name or "", x.shape, _dtype_name(x.dtype), note,
                 tensor=weakref.ref(x) if x.node is None else None, needs_gradient=x.requires_grad)


def _residual_bytes(node: Node) -> int:
    arrays = [v for v in (*node.residuals.values(), *node.settings.values())
              if isinstance(v, np.ndarray)]
    return sum(a.nbytes for a in arrays if not is_stand_in(a))


def _confidence(logits: Array) -> tuple[float | None, int]:
    """Mean of the largest probability, and the number of classes."""
    if logits.ndim != 2 or not logits.size or is_stand_in(logits):
        return None, 0
    with np.errstate(all="ignore"):
        z = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        return float((1 / np.exp(z).sum(axis=1)).mean()), logits.shape[1]


def _root(scopes: Iterable[tuple[str, ...]]) -> str:
    """The outermost module: the one that most ops ran in, if it holds modules; else empty."""
    counts: Counter[str] = Counter()
    holds: set[str] = set()
    for scope in scopes:
        counts.update(scope[:1])
        if len(scope) > 1:
            holds.add(scope[0])
    return next((name for name, _ in counts.most_common() if name in holds), "")


def _below(scope: tuple[str, ...], root: str) -> tuple[str, ...]:
    return scope[1:] if root and scope[:1] == (root,) else scope


def _input_names(n: int) -> list[str]:
    return ["x"] if n == 1 else [f"x{k + 1}" for k in range(n)]
