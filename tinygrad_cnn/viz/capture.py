"""Capture a run as plain data: one `Entry` for each tensor, in the order of execution.

A `Watch` observes the engine.  It keeps numbers, never arrays or nodes, so a step can be drawn
after its graph is freed; of a leaf it keeps a weak reference, to read its weights.
"""

from __future__ import annotations

import base64
import copy
import inspect
import itertools
import math
import struct
import weakref
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import CodeType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cnn.contexts import block
from tinygrad_cnn.core import Detached, Parameter, Tensor, TensorLike, gradients, source_of
from tinygrad_cnn.core.graph import Node, Observer, is_grad_enabled, observing
from tinygrad_cnn.core.op import FUNCTIONS, OPS
from tinygrad_cnn.errors import GradientError, VizError
from tinygrad_cnn.types import Array, DType, Settings
from tinygrad_cnn.viz.labels import called_name, operand_name, setting_labels, source_line

if TYPE_CHECKING:
    from tinygrad_cnn.nn import Module

__all__ = ["Entry", "Memory", "Recording", "Statistics", "Watch", "describe", "describe_module",
           "dotted", "entry_names", "is_placeholder", "memory", "statistics", "watch"]

_MOST_OPS = 200_000                         # of which a long watch keeps the latest
_MAPPED = ("conv", "pool", "activation", "norm")        # families whose results may be images
_LEAST_ROWS = 64                            # fewer say nothing about a channel
_FEW = 8                                    # values of a small tensor, which are shown
_SMALL = 32                                 # values that plain Python adds up faster than NumPy
_BINS = 12                                  # of a histogram
_THUMB, _MAPS = 48, 4                       # pixels of an image at most, and maps side by side


# ---- the recorded graph --------------------------------------------------------------------------

@dataclass(frozen=True)
class Statistics:
    """Root mean square and extremes of an array, and how many entries are NaN or infinite."""

    rms: float
    low: float = 0.0
    high: float = 0.0
    bad: int = 0
    few: tuple[float, ...] = ()             # the entries themselves, of at most eight
    bins: tuple[int, ...] = ()              # how many lie in each of 12 equal parts of the range

    @property
    def signed(self) -> float:
        """The one value of a scalar, with its sign; else the root mean square."""
        return self.few[0] if len(self.few) == 1 else self.rms


@dataclass(frozen=True)
class Entry:
    """One tensor of the run, and the op that made it."""

    role: str                               # input, parameter, constant, label, op or loss
    shape: tuple[int, ...]
    dtype: str
    op: str = ""                            # empty for a leaf
    name: str = ""                          # empty for an op
    scope: tuple[str, ...] = ()             # the modules that were running, below the outermost
    family: str = ""
    inputs: tuple[int, ...] = ()            # the entries that were read,
    arguments: tuple[str, ...] = ()         # and their names in the signature of the op
    settings: tuple[str, ...] = ()          # ("5×5", "stride 1", "1→8 channels")
    needs_gradient: bool = False
    flops: int = 0                          # floating-point operations of the forward pass
    kept: int = 0                           # bytes that live on for the backward pass
    seconds: float | None = None            # of the forward pass, if it was observed
    note: str = ""
    value: Statistics | None = None
    gradient: Statistics | None = None      # of the cotangent of this tensor, if it was recorded
    sent: tuple[float | None, ...] = ()     # gradient sent to each input: RMS, or value of a scalar
    step: int = -1                          # position in the backward pass, or -1
    source: str = ""                        # "net.py:14"
    dead: int = 0                           # channels that are zero over batch and space,
    channels: int = 0                       # of how many
    confidence: float | None = None         # of a loss: mean of the largest probability
    classes: int = 0
    symbolic: tuple[str, ...] = ()          # the shape for any batch size N, where it is known
    calls: tuple[int, ...] = ()             # which call of each module of the scope, if not 1
    picture: str = ""                       # of images or feature maps: a PNG, as a data URI

    @classmethod
    def of(cls, facts: Settings) -> Entry:
        """An entry of these fields, at a third of the cost that the frozen class asks."""
        made = cls.__new__(cls)
        vars(made).update(facts)
        return made

    @property
    def weight(self) -> float | None:
        """Root mean square of a parameter."""
        return self.value.rms if self.role == "parameter" and self.value is not None else None

    @property
    def size(self) -> int:
        """Number of elements of the tensor."""
        return math.prod(self.shape)

    @property
    def path(self) -> str:
        """Name of the tensor with the modules that hold it: ``conv1.weight``."""
        return dotted((*self.scope, self.name or self.op))


@dataclass(frozen=True)
class Recording:
    """One run: its entries, where its output is, and what is known of it as a whole."""

    title: str
    entries: tuple[Entry, ...]
    output: int
    backward: bool = False                  # whether gradients were recorded
    unreached: tuple[str, ...] = ()         # parameters of the model that the output does not read
    notes: dict[str, str] = field(default_factory=dict)     # module path -> its class and settings

    @property
    def batch(self) -> int | None:
        """Size of the first axis of the first input, if that is no scalar or vector."""
        return next((e.shape[0] for e in self.entries
                     if e.role == "input" and len(e.shape) > 1), None)


@dataclass(frozen=True)
class Memory:
    """Bytes that a graph keeps for its backward pass; what ``loss.graph().memory()`` returns.

    The values of parameters and of the images are not counted: they are there anyway.
    """

    nodes: dict[str, int]                   # the largest first
    modules: dict[str, int]                 # with all that is inside

    @property
    def total(self) -> int:
        """Of all nodes."""
        return sum(self.nodes.values())

    def __str__(self) -> str:
        rows = [f"{size:>13,}  {kind} {name}" for kind, sizes in
                (("node", self.nodes), ("module", self.modules)) for name, size in sizes.items()]
        return "\n".join([f"{self.total:>13,}  bytes kept for the backward pass", *rows])


def memory(recording: Recording) -> Memory:
    """What each node of a recording keeps, and each module."""
    modules: Counter[str] = Counter()
    for e in recording.entries:
        modules.update({dotted(e.scope[:k + 1]): e.kept for k in range(len(e.scope))})
    nodes = Counter({name: e.kept for name, e in
                     zip(entry_names(recording), recording.entries, strict=True) if e.kept})
    return Memory(dict(nodes.most_common()), {k: n for k, n in modules.most_common() if n})


def entry_names(recording: Recording) -> list[str]:
    """A name for each entry, its path; the second of a name is ``relu#2``."""
    taken: Counter[str] = Counter()
    names = []
    for path in (e.path for e in recording.entries):
        taken[path] += 1
        names.append(path if taken[path] == 1 else f"{path}#{taken[path]}")
    return names


def dotted(path: tuple[str, ...]) -> str:
    """
    >>> dotted(("stage2", "0", "conv1"))
    'stage2[0].conv1'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if part.isdigit() and text else f".{part}" if text else part
    return text


# ---- figures of arrays ---------------------------------------------------------------------------

def is_placeholder(array: Array) -> bool:
    """Whether an array has a shape only, in place of values that the graph did not keep."""
    return array.ndim > 0 and array.size > 1 and not any(array.strides)


def statistics(array: Array, *, histogram: bool = False) -> Statistics:
    """Root mean square, extremes, and how many entries are NaN or infinite.

    >>> statistics(np.array([3.0, -4.0, np.inf]))
    Statistics(rms=inf, low=-4.0, high=3.0, bad=1, few=(3.0, -4.0, inf), bins=())
    """
    size = array.size
    few: tuple[float, ...] = ()
    if 0 < size <= _SMALL and array.dtype.kind in "fiub":
        values = array.ravel().tolist()     # a few numbers are added faster one by one
        few = tuple(map(float, values)) if size <= _FEW else ()
        length = math.hypot(*values)
        if length < math.inf and not histogram:
            return Statistics(length / math.sqrt(size), float(min(values)), float(max(values)), 0,
                              few)
    found = _statistics(array) if size else Statistics(0.0)
    if histogram and size:
        counts, _ = np.histogram(array[np.isfinite(array)].astype(float), _BINS,
                                 (found.low, found.high))
        found = replace(found, bins=tuple(counts.tolist()))
    return replace(found, few=few) if few else found


def _statistics(array: Array) -> Statistics:
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


def thumbnail(images: Array) -> str:
    """The first of images N H W C in gray or color, or its first maps in gray, as a data URI.

    Each is stretched to its own range; every other pixel and so on is left out of a large one.
    """
    if images.ndim != 4 or not images.size or min(images.shape[1:3]) < 2:
        return ""
    step = -(-max(images.shape[1:3]) // _THUMB)
    image = np.nan_to_num(images[0, ::step, ::step].astype(float), posinf=0.0, neginf=0.0)
    low, high = image.min(), image.max()
    pixels = ((image - low) / ((high - low) or 1.0) * 254).astype(np.uint8)             # h w C
    if pixels.shape[2] != 3:
        shown = np.pad(pixels[..., :_MAPS], ((0, 0), (0, 1), (0, 0)), constant_values=255)
        pixels = np.moveaxis(shown, 2, 1).reshape(len(pixels), -1)[:, :-1, None]        # h C·w 1
    h, w, colors = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    between = ((b"tRNS", struct.pack(">H", 255)),) if colors == 1 else ()       # the gaps
    parts = ((b"IHDR", struct.pack(">IIBBBBB", w, h, 8, colors - 1, 0, 0, 0)), *between,
             (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts)
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _value_facts(node: Node, out: Array, logits: Array | None, value: Statistics) -> Settings:
    """What the values of a result say: statistics, zeros, dead channels, confidence."""
    facts: Settings = {"value": value}
    low, high = facts["value"].low, facts["value"].high
    if node.op.family == "activation" and out.ndim > 1 and out.size and low == 0:
        # Nothing is below zero, so a channel is dead if its sum is zero; products add fast.
        zeros = 1 - np.count_nonzero(out > 0) / out.size
        facts["note"] = f"{zeros * 100:.0f}% zeros" if high > 0 else ""
        rows = out.reshape(-1, out.shape[-1])
        if len(rows) >= _LEAST_ROWS:
            sums = np.ones(len(rows), rows.dtype) @ rows
            facts["channels"], facts["dead"] = len(sums), int(np.count_nonzero(sums == 0))
    if node.op.name == "softmax" and out.size:
        facts["confidence"] = float(out.max(axis=-1).mean())
    if node.op.name == "cross_entropy" and logits is not None and logits.ndim == 2 \
            and logits.size and not is_placeholder(logits):
        with np.errstate(all="ignore"):
            z = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
            facts["confidence"] = float((1 / np.exp(z).sum(axis=1)).mean())
        facts["classes"] = logits.shape[1]
    return facts


@lru_cache(maxsize=32)
def _dtype_name(dtype: DType) -> str:
    """NumPy works these names out anew each time, which shows in a graph of 10,000 ops."""
    return str(dtype)


# ---- the observer --------------------------------------------------------------------------------

@dataclass
class _Noted:
    """One op or leaf: the fields of its entry that are known, and what is still summed up."""

    facts: Settings
    inputs: tuple[int, ...] = ()
    origin: tuple[CodeType, int] | None = None
    source: weakref.ref[object] | None = None  # of a leaf: what it is, or stands for
    kept: int = 0
    charged: bool = False                   # whether the result is among the bytes kept
    sent: dict[int, float] = field(default_factory=dict)
    step: int = -1


class Watch(Observer):
    """What `watch` has noted: every op applied and every cotangent found inside its block.

    Keys are serial numbers for what an op made, and negative numbers for leaves.
    """

    def __init__(self, *, values: bool = False, thumbnails: bool = False) -> None:
        self.values, self.thumbnails = values, thumbnails
        self.ops: dict[int, _Noted] = {}
        self.leaves: dict[int, _Noted] = {}
        self.gradients: dict[int, Statistics] = {}
        self._leaf_keys: dict[tuple[int, bool], tuple[weakref.ref[object], int]] = {}
        self._untracked: dict[int, tuple[weakref.ref[Array], int]] = {}
        self._named: dict[tuple[str, tuple[CodeType, int] | None], weakref.ref[Any]] = {}
        self._readers: Counter[int] = Counter()
        self._owner: dict[int, int] = {}    # which op allocated the memory of a view
        self._sums: dict[int, Array] = {}
        self._fresh = itertools.count(-1, -1)
        self._last_serial = -1
        self._step = 0

    def describe(self, output: Tensor, *, title: str = "") -> Recording:
        """The recording of one output; a VizError if it was not computed inside the block."""
        if output.node is None or output.node.serial not in self.ops:
            raise VizError("graph: this tensor was not computed inside the watch; compute it in "
                           "the with block")
        return self.recording(output.node.serial, title=title)

    # ---- called by the engine
    def forward(self, node: Node, inputs: tuple[Tensor | None, ...], out: Array,
                seconds: float) -> None:
        """Note an op that was applied; those inside a backward rule are not part of the network."""
        if is_grad_enabled():
            self.note(node, inputs, out, seconds)

    def backward(self, node: Node, cotangent: Array, sent: Sequence[tuple[Tensor, Array]],
                 seconds: float) -> None:
        """Note the gradient of an op, and what its rules sent on."""
        if node.serial >= self._last_serial:        # serials fall within a pass
            self._sums.clear()
            self._step = 0
        self._last_serial = node.serial
        noted = self.ops.get(node.serial)
        if noted is None:
            return
        self.gradients[node.serial] = self.measured(cotangent)
        noted.step, self._step = self._step, self._step + 1
        inputs = [x for x in node.inputs or () if x is not None]
        at = -1
        for tensor, part in sent:
            at += 1
            while inputs[at] is not tensor:
                at += 1
            key = noted.inputs[at]
            if tensor.node is not None and self._readers[key] == 1:
                continue                    # the whole gradient of that op, noted when it is passed
            if tensor.node is None:
                whole = self._sums[key] + part if key in self._sums else part
                if self._readers[key] > 1:
                    self._sums[key] = whole
                self.gradients[key] = self.measured(whole)
            noted.sent[at] = statistics(part).signed

    def measured(self, array: Array) -> Statistics:
        """What is noted of an array."""
        return statistics(array, histogram=self.values)

    # ---- one op
    def note(self, node: Node, inputs: tuple[Tensor | None, ...], out: Array | None,
             seconds: float | None) -> None:
        """Note an op; ``out`` is None where its values are gone."""
        shapes = [None if x is None else x.shape for x in inputs]
        given = [(x, node.op.input_name(i)) for i, x in enumerate(inputs) if x is not None]
        keys = tuple(self._key(x, node, i) for i, x in enumerate(inputs) if x is not None)
        shape = tuple(node.shape if out is None else out.shape)
        tracked = any(x.requires_grad for x, _ in given)
        noted = self.ops[node.serial] = _Noted({
            "role": "op", "shape": shape,
            "dtype": _dtype_name(node.dtype if out is None else out.dtype), "op": node.op.name,
            "scope": node.scope, "family": node.op.family,
            "arguments": tuple(argument for _, argument in given),
            "settings": setting_labels(node.op.name, node.settings, shapes),
            "needs_gradient": tracked, "seconds": seconds,
            "flops": node.op.count_flops(*shapes, out=shape, **node.settings)}, keys, node.origin)
        self._readers.update(keys)
        self._note_labels(node, noted)
        self._note_memory(node, keys, [x._data for x, _ in given], out)
        if out is not None:
            noted.facts.update(_value_facts(node, out, given[0][0]._data if given else None,
                                            self.measured(out)))
            if self.thumbnails and node.op.family in _MAPPED:
                noted.facts["picture"] = thumbnail(out)
            if not tracked:
                self._untracked[id(out)] = weakref.ref(out), node.serial
        if len(self.ops) > _MOST_OPS:
            self._trim()

    def _trim(self) -> None:
        """Forget the oldest tenth of a long watch, and what only it referred to."""
        for serial in list(self.ops)[:_MOST_OPS // 10]:
            for table in (self.ops, self.gradients, self._readers, self._owner):
                table.pop(serial, None)
        read = {key for noted in self.ops.values() for key in noted.inputs}
        self.leaves = {key: leaf for key, leaf in self.leaves.items() if key in read}
        self._leaf_keys = {k: v for k, v in self._leaf_keys.items() if v[1] in self.leaves}
        self._untracked = {k: v for k, v in self._untracked.items() if v[0]() is not None}

    def _key(self, x: Tensor, reader: Node, place: int) -> int:
        if x.node is not None and x.node.serial in self.ops:
            return x.node.serial
        made = self._untracked.get(id(x._data))
        if made is not None and made[0]() is x._data:
            return made[1]
        source = source_of(x)               # held with the key, so its id is not used again
        known = self._leaf_keys.setdefault((id(source), x.requires_grad),
                                           (source, next(self._fresh)))
        if known[1] not in self.leaves:
            self.leaves[known[1]] = self._leaf(x, source, reader, place)
        return known[1]

    def _leaf(self, x: Tensor, source: weakref.ref[object], reader: Node, place: int) -> _Noted:
        """What a leaf is, by what the user made: no argument of an op gives it a role or a name."""
        thing, data = source(), _values_of(x)
        facts: Settings = {
            "role": "input", "dtype": _dtype_name(x.dtype), "needs_gradient": x.requires_grad,
            "shape": thing.shape if isinstance(thing, (Tensor, np.ndarray)) else x.shape,
            "note": "" if x.requires_grad else "no gradient",
            "name": x.name or self._name(x, source, reader, place),
            "value": None if is_placeholder(data) else self.measured(data)}
        if isinstance(x, Parameter) or isinstance(thing, Parameter):
            facts["role"], facts["note"] = "parameter", "" if x.requires_grad else "frozen"
        elif isinstance(source, Detached):
            facts["note"], facts["name"] = "detached", facts["name"] or "detached"
        elif not x.requires_grad and x.size == 1:
            value = "" if facts["value"] is None else f"{data.reshape(()).item():g}"
            facts["role"], facts["note"] = "constant", value if facts["name"] else ""
            facts["name"] = facts["name"] or value
        if self.thumbnails and facts["role"] == "input" and not is_placeholder(data):
            facts["picture"] = thumbnail(data)
        return _Noted({**facts, "family": facts["role"]}, source=source)

    def _name(self, x: Tensor, source: weakref.ref[Any], reader: Node, place: int) -> str:
        """What the user's line calls a leaf; nothing, if that is the name of another one.

        A function of several ops makes tensors of its own, in the place of one that it was given.
        """
        name, function = operand_name(reader.origin, place), called_name(reader.origin)[0]
        if x.size == 1 and not x.requires_grad and function in FUNCTIONS and function not in OPS:
            return ""
        known = self._named.setdefault((name, reader.origin), source)
        return name if known is source and name != "ct" else ""

    def _note_labels(self, node: Node, noted: _Noted) -> None:
        """Targets of a loss are a setting, yet a reader of the picture looks for them."""
        target = node.settings.get("target")
        if node.op.family != "loss" or not isinstance(target, np.ndarray):
            return
        key = next(self._fresh)
        name = operand_name(node.origin, 1) or "y"
        self.leaves[key] = _Noted({"role": "label", "family": "label", "name": name,
                                   "shape": target.shape, "dtype": str(target.dtype),
                                   "note": "labels · no gradient"})
        noted.inputs = (*noted.inputs, key)
        noted.facts["arguments"] += ("target",)

    def _note_memory(self, node: Node, keys: Sequence[int], arrays: Sequence[Array],
                     out: Array | None) -> None:
        """Charge each array that the graph keeps to the op that allocated it, once."""
        held = (*node.residuals.values(), *node.settings.values())
        self.ops[node.serial].kept = sum(a.nbytes for a in held if isinstance(a, np.ndarray)
                                         and not is_placeholder(a))
        view = out is not None and out.base is not None and node.op.family == "shape" and keys
        self._owner[node.serial] = self._owner.get(keys[0], keys[0]) if view else node.serial
        if node.out is not None and not view:
            self._charge(node.serial, node.out)
        for key, array in zip(keys, arrays, strict=True):
            if key >= 0 and not is_placeholder(array):
                self._charge(self._owner.get(key, key), array)

    def _charge(self, key: int, array: Array) -> None:
        noted = self.ops.get(key)
        if noted is not None and not noted.charged:
            noted.kept += array.nbytes
            noted.charged = True

    # ---- the recording
    def recording(self, output: int, *others: int, title: str = "",
                  names: Mapping[int, str] | None = None,
                  notes: Mapping[str, str] | None = None) -> Recording:
        """What led to the ops of these serials; ``names`` are paths of parameters by ``id``."""
        order = self._order(output, *others)
        index = {key: i for i, key in enumerate(order)}
        calls = _calls(self.ops[k].facts["scope"] for k in order if k >= 0)
        kind = _root(self.ops[k].facts["scope"] for k in order if k >= 0)
        root = "" if any(found[0] > 1 for found in calls.values() if found) else kind
        readers: dict[int, _Noted] = {}
        for k in order:
            for source in self.ops[k].inputs if k >= 0 else ():
                readers.setdefault(source, self.ops[k])
        unnamed = [k for k in order if k < 0 and not self.leaves[k].facts["name"]]
        alone = {k for k in order if k < 0 and self.leaves[k].facts["role"] == "input"}
        given = {k: "x" if alone == {k} else self.leaves[k].facts["role"] for k in unnamed}
        inside = self._functions(k for k in order if k >= 0)
        entries = tuple(self._op_entry(k, index, root, inside.get(k, ()), calls, k == output)
                        if k >= 0 else
                        self._leaf_entry(k, given.get(k, ""), names or {}, readers[k], root)
                        for k in order)
        return Recording(title or kind.lstrip("_") or "graph", entries, index[output],
                         any(e.gradient is not None for e in entries), notes=dict(notes or {}))

    def _functions(self, keys: Iterable[int]) -> dict[int, tuple[str, ...]]:
        """The public function that applied an op with others: ``("mse_loss()",)`` of its three."""
        found: dict[int, tuple[str, ...]] = {}
        run: list[int] = []
        before: tuple[str, Any, int] = "", (), 0
        for k in keys:
            origin, scope = self.ops[k].origin, self.ops[k].facts["scope"]
            name, line = called_name(origin)
            known = name in FUNCTIONS and (line or name not in OPS) and name not in scope[-1:]
            helper = name[:1] == "_" and not line       # a function of the package for others
            if helper and (not run or before[1] == scope):
                known, (name, _, line) = True, before if run else ("", scope, 0)
            line = line or (before[2] if before[:2] == (name, scope) else 0)
            again = name == self.ops[k].facts["op"] and any(    # an op that a loop calls
                self.ops[j].facts["op"] == name for j in run[-3:])
            if run and (not known or again or before not in (
                    (name, scope, line), (name, scope, 0), ("", scope, 0))):
                run = []
            if known:
                run.append(k)
                before = name, scope, line
            if len(run) > 1 and name:
                new = run[-1:] if run[0] in found else run
                found.update(dict.fromkeys(new, (f"{name}()",)))
        return found

    def _order(self, *outputs: int) -> list[int]:
        """Keys behind some ops: ops by serial number, each leaf before its first reader."""
        reached, stack = set(outputs), list(outputs)
        while stack:
            for key in self.ops[stack.pop()].inputs:
                if key in self.ops and key not in reached:
                    reached.add(key)
                    stack.append(key)
        order: dict[int, None] = {}
        for serial in sorted(reached):
            order.update(dict.fromkeys(k for k in self.ops[serial].inputs if k < 0))
            order[serial] = None
        return list(order)

    def _op_entry(self, key: int, index: Mapping[int, int], root: str, inside: tuple[str, ...],
                  calls: Mapping[int, tuple[int, ...]], last: bool) -> Entry:
        noted = self.ops[key]
        facts = {**noted.facts, "kept": noted.kept, "step": noted.step,
                 "inputs": tuple([index[k] for k in noted.inputs]),
                 "gradient": self.gradients.get(key), "sent": self._sent(noted),
                 "source": source_line(*noted.origin) if noted.origin else ""}
        if facts["scope"] or inside:
            scope = _below(facts["scope"], root)
            numbers = calls[id(facts["scope"])][len(facts["scope"]) - len(scope):]
            facts["scope"] = (*scope, *inside)
            if any(n > 1 for n in numbers):
                facts["calls"] = numbers
        if last and facts["needs_gradient"] and math.prod(facts["shape"]) == 1:
            facts["role"] = facts["family"] = "loss"
            if (value := facts.get("value")) is not None:
                facts["note"] = f"loss {value.rms if value.bad else value.low:.4f}"
        return Entry.of(facts)

    def _sent(self, noted: _Noted) -> tuple[float | None, ...]:
        """What an op sent to each input; to one that nothing else reads, its whole gradient."""
        found = [noted.sent.get(k) for k in range(len(noted.inputs))]
        for k, j in enumerate(noted.inputs) if noted.step >= 0 else ():
            if found[k] is None and j >= 0 and self._readers[j] == 1 and j in self.gradients:
                found[k] = self.gradients[j].signed
        return tuple(found)

    def _leaf_entry(self, key: int, name: str, names: Mapping[int, str], reader: _Noted,
                    root: str) -> Entry:
        facts = dict(self.leaves[key].facts)
        source = self.leaves[key].source
        thing = source() if source is not None else None
        *above, own = names.get(id(thing), "").split(".")
        if own:
            facts["scope"], name = tuple(above), own
        else:
            if facts["role"] == "parameter":
                facts["scope"] = _below(reader.facts["scope"], root)
                facts["name"] = facts["name"].rpartition(".")[2]
            name = name or facts["name"]
        if facts["role"] == "parameter" and isinstance(thing, Tensor):
            facts["value"] = self.measured(thing._data)     # as they are now
        if facts.get("needs_gradient"):
            facts["gradient"] = self.gradients.get(key)
        return Entry.of({**facts, "name": name})


def _values_of(x: Tensor) -> Array:
    """The values of a leaf, from what it stands for where the graph kept a placeholder."""
    thing = source_of(x)() if is_placeholder(x._data) else None
    return thing._data if isinstance(thing, Tensor) else thing if isinstance(
        thing, np.ndarray) else x._data


def _root(scopes: Iterable[tuple[str, ...]]) -> str:
    """The outermost module: the one that most ops ran in, if it holds modules; else empty."""
    counts: Counter[str] = Counter()
    holds: set[str] = set()
    for scope in scopes:
        counts.update(scope[:1])
        if len(scope) > 1:
            holds.add(scope[0])
    return next((name for name, _ in counts.most_common() if name in holds), "")


def _calls(scopes: Iterable[tuple[str, ...]]) -> dict[int, tuple[int, ...]]:
    """By the ``id`` of each scope, which call of each of its modules this is."""
    made: Counter[tuple[str, ...]] = Counter()
    number: dict[int, int] = {}             # of a call, by the id of the name in the scope
    found: dict[int, tuple[int, ...]] = {}
    for scope in scopes:
        if id(scope) not in found:
            for k, name in enumerate(scope):
                if id(name) not in number:
                    made[scope[:k + 1]] += 1
                    number[id(name)] = made[scope[:k + 1]]
            found[id(scope)] = tuple(number[id(name)] for name in scope)
    return found


def _below(scope: tuple[str, ...], root: str) -> tuple[str, ...]:
    return scope[1:] if root and scope[:1] == (root,) else scope


# ---- a live graph --------------------------------------------------------------------------------

_watching: ContextVar[Watch | None] = ContextVar("watching", default=None)


@block
def watch(*, values: bool = False, thumbnails: bool = False) -> Iterator[Watch]:
    """Note RMS, extremes, NaN and time of every op and gradient inside a ``with`` block.

    ``values`` notes histograms too, and ``thumbnails`` small pictures of images (N, H, W, C) and
    feature maps, for the cards.  The graph of a step that was watched can be drawn after
    ``backward()`` has freed it: ``viz.graph(loss, watch=seen)``, or ``loss.graph()`` inside the
    block.

    Examples
    --------
    >>> w = Parameter([1.0, 2.0], name="w")
    >>> with watch() as seen:
    ...     loss = (w * w).sum()
    ...     loss.backward()
    >>> [e.op for e in seen.describe(loss).entries if e.op]
    ['mul', 'sum']
    """
    seen, outer = Watch(values=values, thumbnails=thumbnails), _watching.get()
    with observing(seen):
        try:
            _watching.set(seen)
            yield seen
        finally:
            _watching.set(outer)


def describe(output: Tensor, *, gradients: bool = True, title: str = "", watch: Watch | None = None,
             values: bool = False, thumbnails: bool = False) -> Recording:
    """What led to ``output``, as plain data; ``title`` replaces the name of the outermost module.

    Gradients come from the first of these that is there: a `watch` that saw the step (one around
    the call is found by itself); a private replay of the backward pass, if the graph is alive and
    the output is one number; the ``grad`` of the leaves.  ``values`` and ``thumbnails`` are those
    of `watch`; values that the graph did not keep are computed again for them.  No ``grad``, graph
    or random state of the caller changes.  A VizError says that no op is recorded, or that the
    graph was freed.
    """
    seen = watch or _watching.get()
    node = output.node
    if node is None:
        raise VizError("graph: no op is recorded behind this tensor; compute it outside no_grad() "
                       "from parameters that require a gradient")
    if seen is not None and node.serial in seen.ops:
        return seen.recording(node.serial, title=title)
    nodes = _nodes_behind(node)
    arrays = {node.serial: output._data}    # results that are still alive
    for n in nodes:
        if n.out is not None:
            arrays[n.serial] = n.out
        arrays.update((x.node.serial, x._data) for x in n.inputs or ()
                      if x is not None and x.node is not None and not is_placeholder(x._data))
    noted = Watch(values=values, thumbnails=thumbnails)
    if values or thumbnails:
        _compute_again(nodes, arrays)
    for n in nodes:
        noted.note(n, n.inputs or (), arrays.get(n.serial), None)
    if gradients and output.size == 1 and output.requires_grad:
        _replay(output, noted)
    else:                                   # what backward() left in the leaves
        for n in nodes:
            inputs = (x for x in n.inputs or () if x is not None)
            for key, x in zip(noted.ops[n.serial].inputs, inputs, strict=False):
                if key < 0 and x.grad is not None:
                    noted.gradients[key] = noted.measured(x.grad._data)
    return noted.recording(node.serial, title=title)


def _compute_again(nodes: Iterable[Node], arrays: dict[int, Array]) -> None:
    """Add the results that nobody kept, from the inputs that somebody did; nothing random."""
    for n in nodes:
        inputs = [None if x is None else _values_of(x) if x.node is None
                  else arrays.get(x.node.serial, x._data) for x in n.inputs or ()]
        if n.serial not in arrays and n.op.family != "random" \
                and not any(x is not None and is_placeholder(x) for x in inputs):
            with np.errstate(all="ignore"):
                arrays[n.serial] = n.op.run(*inputs, **n.settings)[0]


def _nodes_behind(last: Node) -> list[Node]:
    """The nodes that led to one, in creation order."""
    reached, stack = {last}, [last]
    while stack:
        node = stack.pop()
        if node.inputs is None:
            raise VizError("graph: backward() has freed this graph; draw it before backward(), "
                           "pass retain_graph=True, or wrap the step in viz.watch()")
        for x in node.inputs:
            if x is not None and x.node is not None and x.node not in reached:
                reached.add(x.node)
                stack.append(x.node)
    return sorted(reached, key=lambda n: n.serial)


def _replay(output: Tensor, observer: Watch) -> None:
    with observing(observer):
        try:
            gradients(output, retain_graph=True)
        except GradientError as error:
            error.add_note("while drawing; graph(gradients=False) draws without gradients")
            raise


# ---- a model and one batch -----------------------------------------------------------------------

def describe_module(model: Module, x: TensorLike | tuple[TensorLike, ...],
                    labels: ArrayLike | None = None, *, title: str = "", values: bool = False,
                    thumbnails: bool = False) -> Recording:
    """Run a copy of a model on one batch ``x``, as ``forward`` takes it, and describe what it did.

    With ``labels``, classes of shape (N,), the cross entropy is computed and gradients show.  The
    model itself stays as it is: weights, ``grad``, running averages and random state.  Of several
    outputs, all are drawn.  ``values`` and ``thumbnails`` are those of `watch`.  A VizError says
    that ``x`` is missing, or that there is no tensor among them.
    """
    kind = type(model).__name__
    if x is None or (isinstance(x, tuple) and not x):
        raise VizError(f"graph: {kind} has not been called, so its shapes are not known; "
                       "give one batch: model.graph(x)")
    twin = copy.deepcopy(model)
    given = x if isinstance(x, tuple) else (x,)
    arguments = [*_argument_names(model), *(f"x{k}" for k in range(len(given)))]
    batch = [_as_input(v, name) for v, name in zip(given, arguments, strict=False)]
    with watch(values=values, thumbnails=thumbnails) as seen:
        output: object = twin(*batch)
        several = output.values() if isinstance(output, dict) else output
        made = [output] if isinstance(output, Tensor) else [
            t for t in (several if isinstance(several, Iterable) else ()) if isinstance(t, Tensor)]
        if not made or (labels is not None and not isinstance(output, Tensor)):
            raise VizError(f"graph: {kind} returned {type(output).__name__}, "
                           + ("of which labels have no cross entropy; compute the loss and draw it "
                              "with loss.graph()" if made else "not a Tensor"))
        if labels is not None:
            made = [FUNCTIONS["cross_entropy"](output, labels)]
            gradients(made[0])
    parameters = dict(twin.named_parameters())
    names = {id(p): name for name, p in parameters.items()}
    title = title or kind.lstrip("_")
    if not seen.ops:
        raise VizError(f"graph: {kind} applied no op; there is nothing to draw")
    ends = {t.node.serial for t in made if t.node is not None} & seen.ops.keys()
    if not ends:                            # all parameters are frozen: no graph, but ops were seen
        ends = seen.ops.keys() - {k for noted in seen.ops.values() for k in noted.inputs}
    outputs = sorted(ends, reverse=True)
    found = seen.recording(*outputs, title=title, names=names, notes=_module_notes(twin))
    order = seen._order(*outputs)
    found = replace(found, entries=_for_any_batch(model, batch, seen, order, found))
    sources = (seen.leaves[k].source for k in order if k < 0)
    reached = {id(source()) for source in sources if source is not None}
    missing = tuple(dotted(tuple(name.split("."))) for name, p in parameters.items()
                    if p.requires_grad and id(p) not in reached)
    return replace(found, unreached=missing) if labels is not None else found


def _as_input(value: TensorLike, name: str) -> Tensor:
    """A tensor of its own with the name of the argument, which the picture shows."""
    if isinstance(value, Tensor):
        return Tensor(value._data, requires_grad=value.requires_grad, name=value.name or name)
    array = np.asarray(value)
    return Tensor(array if array.dtype.kind == "f" and array.dtype.itemsize >= 4
                  else array.astype(np.float32), name=name)


def _for_any_batch(model: Module, batch: list[Tensor], seen: Watch, order: list[int],
                   found: Recording) -> tuple[Entry, ...]:
    """The entries with their shapes for a batch of N: what changes in a run with another batch.

    Where the second run fails, or does something else, the shapes stay numbers.
    """
    n = batch[0].shape[0] if batch[0].ndim > 1 else 0
    if not n or any(x.shape[:1] != (n,) for x in batch):
        return found.entries
    other = 2 if n != 2 else 3
    rows = [Tensor(np.resize(x._data, (other, *x.shape[1:])), name=x.name) for x in batch]
    try:
        with np.errstate(all="ignore"), observing(again := Watch()):
            copy.deepcopy(model)(*rows)
    except Exception:                       # a user's code, which may hold to one batch
        return found.entries
    second: dict[int, tuple[int, ...]] = {}
    for (k, one), two in zip(seen.ops.items(), again.ops.values(), strict=False):
        if one.facts["op"] != two.facts["op"]:
            return found.entries
        second[k] = two.facts["shape"]
        second.update((a, again.leaves[b].facts["shape"])
                      for a, b in zip(one.inputs, two.inputs, strict=False) if b < 0)
    return tuple(replace(e, symbolic=tuple(
        _dimension(a, b, n, other) for a, b in zip(e.shape, second[k], strict=True)))
        if second.get(k, e.shape) != e.shape and len(second[k]) == len(e.shape) else e
        for k, e in zip(order, found.entries, strict=True))


def _dimension(one: int, two: int, n: int, other: int) -> str:
    """A size that is ``one`` for a batch of n and ``two`` for another, as a formula in N.

    >>> [_dimension(a, b, 8, 2) for a, b in ((8, 2), (80, 20), (5, 5), (9, 3))]
    ['N', '10N', '5', 'N+1']
    """
    slope = (one - two) // (n - other)
    rest = one - slope * n
    times = f"{slope if slope != 1 else ''}N" if slope else ""
    return f"{times}{rest:+}" if times and rest else times or str(one)


def _argument_names(model: Module) -> list[str]:
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def _module_notes(model: Module) -> dict[str, str]:
    """Class and settings of each module, by its path as the picture writes it."""
    notes = {}
    for name, module in model.named_modules():
        if name:
            settings, kind = module.extra_repr(), type(module).__name__.lstrip("_")
            notes[dotted(tuple(name.split(".")))] = f"{kind}({settings})" if settings else kind
    return notes
