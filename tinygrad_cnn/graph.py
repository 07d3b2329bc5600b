"""The computation graph and the backward pass.

A `Node` is one application of an op.  It points at its inputs, never at its output, so a graph has
no reference cycle and is freed by counting.  Nodes carry serial numbers: creation order is a
topological order, and the backward pass visits the reached nodes by falling serial, from a heap,
without recursion.

Cotangents are keyed by node, or by tensor for a leaf.  A first-order pass moves plain arrays; with
``create_graph`` it moves tensors, and what the rules do is recorded like any other computation.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ContextDecorator, contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy import ndarray
from numpy.typing import NDArray

from tinygrad_cnn.errors import GradientError, GraphFreedError
from tinygrad_cnn.op import FUNCTIONS, OPS, Op
from tinygrad_cnn.shapes import Shape

if TYPE_CHECKING:
    from tinygrad_cnn.tensor import Tensor

__all__ = ["Node", "Observer", "cotangents", "enable_grad", "is_grad_enabled", "no_grad",
           "observing", "scope"]

_LARGE = 1 << 17        # entries, from which a sum is worth a kernel's threads

Array = NDArray[Any]

SHARED, EXPOSED, READ_ONLY = 0, 1, 2
"""What the array of a tensor may be used for, `Tensor._access`.

SHARED: kept by any number of nodes and tensors, so nobody writes to it.  EXPOSED: the user was
given the array and may write to it, so nobody else keeps it.  READ_ONLY: handed to a backward rule.
"""


# ---- what holds while ops are applied, one value per thread and task -----------------------------

class Observer(Protocol):
    """Who is told of every node made and every cotangent found, with the seconds it took.

    ``sent`` holds what the rules of a node gave: its inputs, each with a share of their cotangent.
    """

    def forward(self, node: Node, out: Array, seconds: float) -> None:
        """An op was applied."""
        ...

    def backward(self, node: Node, cotangent: Array, sent: Sequence[tuple[Tensor, Array]],
                 seconds: float) -> None:
        """The rules of a node were called with its cotangent."""
        ...


@dataclass(frozen=True, slots=True)
class State:
    """Whether ops are recorded, the path of the running modules, and who is watching."""

    recording: bool = True
    scope: tuple[str, ...] = ()
    observer: Observer | None = None


_state: ContextVar[State] = ContextVar("tinygrad_cnn", default=State())  # noqa: B039 - it is frozen


class _Recording(ContextDecorator):
    """A context manager and decorator that switches recording; re-entrant, one flag per thread."""

    def __init__(self, on: bool) -> None:
        self._on = on
        self._tokens: ContextVar[tuple[Token[State], ...]] = ContextVar("tokens", default=())

    def __enter__(self) -> None:
        token = _state.set(replace(_state.get(), recording=self._on))
        self._tokens.set((*self._tokens.get(), token))

    def __exit__(self, *_: object) -> None:
        *rest, token = self._tokens.get()
        self._tokens.set(tuple(rest))
        _state.reset(token)


_RECORD, _DO_NOT_RECORD = _Recording(True), _Recording(False)


def no_grad() -> _Recording:
    """Do not record ops inside the block, or inside the decorated function.

    The flag is per thread and per asynchronous task: a thread that is started inside the block
    records.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> with no_grad():
    ...     (x * 2).requires_grad
    False
    >>> @no_grad()
    ... def predict(x):
    ...     return x * 2
    >>> predict(x).requires_grad
    False
    """
    return _DO_NOT_RECORD


def enable_grad() -> _Recording:
    """Record ops inside the block, even within `no_grad`.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> with no_grad(), enable_grad():
    ...     (x * 2).requires_grad
    True
    """
    return _RECORD


def is_grad_enabled() -> bool:
    """Whether ops are recorded here and now.

    >>> is_grad_enabled()
    True
    """
    return _state.get().recording


@contextmanager
def scope(name: str) -> Iterator[tuple[str, ...]]:
    """Add ``name`` to the path that nodes made inside the block carry; gives the path.

    Modules call this.
    """
    state = _state.get()
    path = (*state.scope, name)
    token = _state.set(State(state.recording, path, state.observer))
    try:
        yield path
    finally:
        _state.reset(token)


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Tell ``observer`` of every op applied and every cotangent found inside the block."""
    token = _state.set(replace(_state.get(), observer=observer))
    try:
        yield
    finally:
        _state.reset(token)


# ---- nodes ---------------------------------------------------------------------------------------

_serial = itertools.count()


class Node:
    """One application of an op.

    Attributes
    ----------
    op : Op
        What was applied.
    inputs : tuple of Tensor or None
        What it was applied to; None for an optional input left out.  The attribute itself is None
        once a backward pass has freed the node.
    values : tuple of ndarray or None
        The values of the inputs at that time.  Nobody writes to these arrays.
    settings, residuals : dict
        The settings of the call, and the by-products of the kernel.
    out : ndarray or None
        The values of the result, kept only if a rule reads them.
    serial : int
        Creation order.
    scope : tuple of str
        The path of the modules that were running, such as ``("LeNet", "conv1")``.
    origin : (code, int) or None
        Code object and instruction of the line that applied the op; never the frame, which would
        keep the user's arrays.
    """

    __slots__ = ("__weakref__", "inputs", "op", "origin", "out", "residuals", "scope", "serial",
                 "settings", "values")

    def __init__(self, op: Op, inputs: tuple[Tensor | None, ...], values: tuple[Array | None, ...],
                 settings: dict[str, Any], residuals: dict[str, Any], out: Array | None,
                 scope: tuple[str, ...], origin: tuple[Any, int] | None) -> None:
        self.op = op
        self.inputs: tuple[Tensor | None, ...] | None = inputs
        self.values: tuple[Array | None, ...] = values
        self.settings = settings
        self.residuals = residuals
        self.out = out
        self.scope = scope
        self.origin = origin
        self.serial = next(_serial)

    @property
    def freed(self) -> bool:
        """Whether a backward pass has freed this node."""
        return self.inputs is None

    @property
    def shape(self) -> Shape:
        """The shape of the result."""
        if self.inputs is None:
            raise self._freed_error()
        return self.op.shape(*(None if x is None else x.shape for x in self.inputs),
                             **self.settings)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the result: the one of its first input."""
        if self.inputs is None:
            raise self._freed_error()
        return next(x.dtype for x in self.inputs if x is not None)

    def free(self) -> None:
        """Let go of everything that only a backward pass needs."""
        self.inputs = None
        self.values = ()
        self.residuals = _NOTHING
        self.out = None

    def _freed_error(self) -> GraphFreedError:
        return GraphFreedError(
            f"backward: the graph was freed by an earlier backward pass (at the op "
            f"{self.op.name}); pass retain_graph=True to the first one, or compute the "
            "output again")

    def __repr__(self) -> str:
        return f"<node {self.serial}: {self.op.name}{' (freed)' if self.freed else ''}>"


@lru_cache(maxsize=1024)
def blank(shape: Shape, dtype: np.dtype[Any]) -> Array:
    """What stands in for values that no rule reads: NaN everywhere, in four or eight bytes.

    Should a rule read what its op does not declare in ``reads``, every gradient turns NaN.
    """
    return np.broadcast_to(np.array(np.nan, dtype), shape)


# ---- the backward pass ---------------------------------------------------------------------------

def key_of(x: Tensor) -> Any:
    """What the cotangent of ``x`` is filed under: its node, or itself if it is a leaf."""
    return x if x.node is None else x.node


def _leading_to(out: Node, targets: set[Any]) -> set[Any]:
    """The keys on a path from ``out`` to a target; nodes are visited in creation order."""
    reached, stack = {out}, [out]
    while stack:
        node = stack.pop()
        if node.inputs is None:
            raise node._freed_error()
        for x in node.inputs:
            if x is not None and x.node is not None and x.node not in reached:
                reached.add(x.node)
                stack.append(x.node)
    useful = set(targets)
    for node in sorted(reached, key=lambda n: n.serial):
        if any(x is not None and x.requires_grad and key_of(x) in useful
               for x in node.inputs or ()):
            useful.add(node)
    return useful


def cotangents(out: Tensor, ct: Any, *, wrap: Callable[..., Tensor], create_graph: bool = False,
               retain_graph: bool = False, targets: Sequence[Tensor] | None = None
               ) -> dict[Any, Any]:
    """The cotangent of every leaf below ``out``, or of the targets, filed under `key_of`.

    Parameters
    ----------
    out : Tensor
        The output.
    ct : Tensor or ndarray
        Its cotangent; a tensor with ``create_graph``, else an array.
    wrap : callable
        ``(array, requires_grad, node)`` -> Tensor.
    create_graph : bool
        Record what the rules do; cotangents are then tensors with a graph of their own.
    retain_graph : bool
        Keep the nodes that were passed; otherwise each is freed as soon as it is done with.
    targets : sequence of Tensor, optional
        Visit only the nodes on a path to one of these.

    Raises
    ------
    GraphFreedError
        If an earlier pass has freed a node that this one needs.
    GradientError
        If a rule returns something that cannot be the cotangent of its input.
    """
    wanted = None if targets is None else {key_of(t) for t in targets}
    if out.node is None or (wanted and key_of(out) in wanted and len(wanted) == 1):
        return {key_of(out): ct}
    useful = None if wanted is None else _leading_to(out.node, wanted)
    state = _state.get()
    token = _state.set(State(create_graph, state.scope, state.observer))
    try:
        step = _TensorStep(wrap) if create_graph else _ArrayStep(wrap)
        return _walk(out.node, ct, step, useful, wanted, retain_graph or create_graph,
                     state.observer)
    finally:
        _state.reset(token)


def _walk(last: Node, seed: Any, step: _Step, useful: set[Any] | None, wanted: set[Any] | None,
          retain: bool, observer: Observer | None) -> dict[Any, Any]:
    found: dict[Any, Any] = {last: seed}
    done: dict[Any, Any] = {}
    summed: set[Any] = set()                # keys whose array is a sum made here, free to add into
    heap: list[tuple[int, Node]] = [(-last.serial, last)]

    def send(x: Tensor, part: Any) -> None:
        """Add a part to the cotangent of an input, and queue the node that made it."""
        below = x.node
        key: Any = x if below is None else below
        if key in found:
            found[key] = step.add(found[key], part, key in summed)
            summed.add(key)
        else:
            found[key] = part
            if below is not None:
                heappush(heap, (-below.serial, below))

    short = step.plain and observer is None and useful is None
    while heap:
        node = heappop(heap)[1]
        ct = found.pop(node)
        inputs = node.inputs
        if inputs is None:
            raise node._freed_error()
        if wanted is not None and node in wanted:
            done[node] = ct
        if short and node.op.array_pair:
            _send_pair(node.op, inputs, node.values, ct, node.out, send)
        else:
            began = time.perf_counter() if observer is not None else 0.0
            parts = step.parts(node, inputs, ct, useful)
            if observer is not None:
                seconds = time.perf_counter() - began
                sent = [(x, step.array(part)) for x, part in parts]
                observer.backward(node, step.array(ct), sent, seconds)
            for x, part in parts:
                send(x, part)
        if not retain:
            node.inputs = node.out = None               # as free() does, without a call
            node.residuals = _NOTHING
            node.values = ()
    done.update(found)
    return done


def _send_pair(op: Op, inputs: tuple[Any, ...], values: tuple[Any, ...], ct: Array, out: Any,
               send: Callable[[Tensor, Array], None]) -> None:
    """The rules of an op of two inputs that take arrays: most nodes of a graph pass through here.

    What the loop over inputs in ``parts`` does is written out, which halves the time of a node.
    """
    a, b = inputs
    x, y = values
    rule_a, rule_b = op.array_pair
    i = 0
    try:
        if a.requires_grad:
            part = rule_a(ct, out, x, y)
            if type(part) is not ndarray or part.shape != x.shape or part.dtype is not x.dtype:
                part = _fitted(part, x, op, 0)
            send(a, part)
        i = 1
        if b.requires_grad:
            part = rule_b(ct, out, x, y)
            if type(part) is not ndarray or part.shape != y.shape or part.dtype is not y.dtype:
                part = _fitted(part, y, op, 1)
            send(b, part)
    except Exception as error:
        error.add_note(_place(op, i))
        raise


_NOTHING: dict[str, Any] = {}


class _Step(Protocol):
    """How one node's cotangent becomes those of its inputs: over arrays, or over tensors."""

    plain: bool

    def parts(self, node: Node, inputs: tuple[Tensor | None, ...], ct: Any,
              useful: set[Any] | None) -> list[tuple[Tensor, Any]]: ...
    def add(self, a: Any, b: Any, may_write: bool) -> Any: ...
    def array(self, ct: Any) -> Array: ...


class _ArrayStep:
    """First order: cotangents are arrays, and tensors are made only for rules that need them."""

    plain = True

    def __init__(self, wrap: Callable[..., Tensor]) -> None:
        self.wrap = wrap

    def parts(self, node: Node, inputs: tuple[Tensor | None, ...], ct: Array,
              useful: set[Any] | None) -> list[tuple[Tensor, Array]]:
        op, values = node.op, node.values
        together = op.joint is not None and useful is None and sum(
            x is not None and x.requires_grad for x in inputs) > 1
        out: Any = node.out
        args: Any = values
        given: Any = ct
        if op.foreign and (op.array_rules or together):
            out, given = _locked(out), _locked(ct)
            args = tuple(map(_locked, values))
        elif not (op.array_rules or together):
            out = self._handed(blank(ct.shape, ct.dtype) if out is None else out)
            given = self._handed(ct)
            args = [None if value is None else self._handed(value) for value in values]
        if together:
            wanted = tuple(x is not None and x.requires_grad for x in inputs)
            assert op.joint is not None
            parts = _call(partial(op.joint, wanted), op, wanted.index(True), given, out, args, node)
            return [(x, _fitted(parts[i], values[i], op, i))
                    for i, x in enumerate(inputs) if x is not None and wanted[i]]
        result = []
        for i, x in enumerate(inputs):
            if x is None or not x.requires_grad:
                continue
            if useful is not None and key_of(x) not in useful:
                continue
            part = _call(op.rule(i), op, i, given, out, args, node)
            if not op.array_rules:
                if not hasattr(part, "node"):
                    raise GradientError(f"{op.name}: vjp for {op.input_name(i)!r} returned "
                                        f"{type(part).__name__}, expected a Tensor")
                part = part._data
            result.append((x, _fitted(part, values[i], op, i)))
        return result

    def _handed(self, array: Array) -> Tensor:
        """A tensor for a rule, which must not change it."""
        tensor = self.wrap(array, False, None)
        tensor._access = READ_ONLY
        return tensor

    def add(self, a: Array, b: Array, may_write: bool) -> Array:
        if a.size >= _LARGE:
            total: Array = OPS["add"].run(a, b)[0]          # on all threads
            return total
        if may_write:
            return np.add(a, b, out=a)
        return np.asarray(a + b)

    def array(self, ct: Array) -> Array:
        return ct


class _TensorStep:
    """Any order: cotangents are tensors, so what the rules do is recorded."""

    plain = False

    def __init__(self, wrap: Callable[..., Tensor]) -> None:
        self.wrap = wrap

    def parts(self, node: Node, inputs: tuple[Tensor | None, ...], ct: Tensor,
              useful: set[Any] | None) -> list[tuple[Tensor, Tensor]]:
        op = node.op
        out = self.wrap(blank(ct.shape, ct.dtype) if node.out is None else node.out, True, node)
        given = [t for t in (ct, out, *inputs) if t is not None]
        _refuse_written(node, inputs)
        result = []
        before = [t._access for t in given]
        for t in given:
            t._access = READ_ONLY
        try:
            for i, x in enumerate(inputs):
                if x is None or not x.requires_grad or (
                        useful is not None and key_of(x) not in useful):
                    continue
                part = _call(op.rule(i), op, i, ct, out, inputs, node)
                if not hasattr(part, "node"):
                    raise GradientError(f"{op.name}: vjp for {op.input_name(i)!r} returned "
                                        f"{type(part).__name__}, expected a Tensor")
                if part.shape != x.shape:
                    if not op.broadcasts:
                        raise _wrong_shape(op, i, part.shape, x.shape)
                    part = FUNCTIONS["sum_to"](part, shape=x.shape)
                if part.dtype != x.dtype:
                    raise GradientError(
                        f"{op.name}: vjp for {op.input_name(i)!r} has dtype {part.dtype}, the "
                        f"input has {x.dtype}; keep the dtype of ct")
                result.append((x, part))
        finally:
            for t, access in zip(given, before, strict=True):
                t._access = access
        return result

    def add(self, a: Tensor, b: Tensor, may_write: bool) -> Tensor:
        total: Tensor = FUNCTIONS["add"](a, b)
        return total

    def array(self, ct: Tensor) -> Array:
        return ct._data


def _refuse_written(node: Node, inputs: tuple[Tensor | None, ...]) -> None:
    """Refuse to differentiate a pass through a leaf whose values are others by now."""
    for i, (x, value) in enumerate(zip(inputs, node.values, strict=True)):
        if x is not None and x._data is not value and not np.array_equal(
                x._data, value, equal_nan=True):        # type: ignore[arg-type]
            raise GradientError(
                f"{node.op.name}: {node.op.input_name(i)} was changed after the forward pass, so "
                "the backward pass cannot be recorded; call backward(create_graph=True) before "
                "optimizer.step(), or run the forward pass again")


def _locked(array: Array | None) -> Array | None:
    """A view that cannot be written to, for rules that are not the package's own."""
    if array is None:
        return None
    view = array.view()
    view.flags.writeable = False
    return view


def _call(rule: Callable[..., Any], op: Op, i: int, ct: Any, out: Any, inputs: Sequence[Any],
          node: Node) -> Any:
    settings: Mapping[str, Any] = node.settings
    try:
        if not settings and not node.residuals:
            return rule(ct, out, *inputs)
        return rule(ct, out, *inputs, **settings, **node.residuals)
    except Exception as error:
        error.add_note(_place(op, i))
        raise


def _place(op: Op, i: int) -> str:
    return f"in the backward rule of {op.name} for {op.input_name(i)!r}"


def _fitted(part: Any, data: Array, op: Op, i: int) -> Array:
    """A cotangent summed to the shape of its input, or refused."""
    part = np.asarray(part)                     # NumPy turns 0-d results into scalars
    if part.shape != data.shape:
        if not op.broadcasts:
            raise _wrong_shape(op, i, part.shape, data.shape)
        part = OPS["sum_to"].run(part, shape=data.shape)[0]
    if part.dtype != data.dtype:
        raise GradientError(f"{op.name}: vjp for {op.input_name(i)!r} has dtype {part.dtype}, "
                            f"the input has {data.dtype}; keep the dtype of ct")
    return part


def _wrong_shape(op: Op, i: int, found: Shape, expected: Shape) -> GradientError:
    return GradientError(f"{op.name}: vjp for {op.input_name(i)!r} has shape {found}, "
                         f"the input has shape {expected}")
