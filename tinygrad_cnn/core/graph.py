"""The computation graph: nodes, and what holds while ops are applied.

A `Node` is one application of an op.  It points at its inputs, never at its output, so a graph has
no reference cycle and is freed by counting.  Nodes carry serial numbers: creation order is a
topological order.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ContextDecorator, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import lru_cache, wraps
from itertools import repeat
from threading import get_ident
from types import CodeType, coroutine
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast, overload

import numpy as np

from tinygrad_cnn.core.op import Op
from tinygrad_cnn.errors import GradientError, GraphFreedError
from tinygrad_cnn.shapes import Shape
from tinygrad_cnn.types import Array, DType, Function, Settings

if TYPE_CHECKING:
    from tinygrad_cnn.core import Tensor

__all__ = ["Node", "Observer", "changed", "enable_grad", "handed", "is_grad_enabled", "key_of",
           "leading_to", "locked", "no_grad", "observing", "refuse_changed", "remember",
           "remembering", "state_after", "warn_of_old_graphs"]

F = TypeVar("F", bound=Function)
Key: TypeAlias = "Node | Tensor"                # what a cotangent is filed under

SHARED, EXPOSED, READ_ONLY = 0, 1, 2
"""What the array of a tensor may be used for, `Tensor._access`.

SHARED: kept by any number of nodes and tensors, so nobody writes to it.  EXPOSED: the user was
given the array and may write to it, so nobody else keeps it.  READ_ONLY: handed to a backward rule.
"""


# ---- what holds while ops are applied, one value per thread and task -----------------------------

class Observer:
    """Who is told of every op applied and of every cotangent found; a subclass says what it does.

    Observers may be nested: each is told.
    """

    def forward(self, node: Node, inputs: tuple[Tensor | None, ...], out: Array,
                seconds: float) -> None:
        """An op was applied to ``inputs``, which still hold values that the node does not keep."""

    def before_backward(self, node: Node, cotangent: Array) -> None:
        """The rules of a node are about to be called."""

    def backward(self, node: Node, cotangent: Array, sent: Sequence[tuple[Tensor, Array]],
                 seconds: float) -> None:
        """The rules of a node were called; ``sent`` holds inputs, each with what it was sent."""


class _Several(Observer):
    """Observers whose blocks are nested, the outer ones first."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def forward(self, *told: Any) -> None:
        for observer in self.observers:
            observer.forward(*told)

    def before_backward(self, *told: Any) -> None:
        for observer in self.observers:
            observer.before_backward(*told)

    def backward(self, *told: Any) -> None:
        for observer in self.observers:
            observer.backward(*told)


@dataclass(slots=True)
class State:
    """Whether ops are recorded, the path of the running modules, and who is watching.

    ``plain``: a first-order backward pass runs, so op functions take and give plain arrays.
    ``calls``: what the running modules have noted of the calls that ended.
    """

    recording: bool = True
    plain: bool = False
    scope: tuple[str, ...] = ()
    observer: Observer | None = None
    calls: Any = None
    outer: State | None = field(default=None, repr=False, compare=False)    # outside the block
    over: bool = field(default=False, repr=False, compare=False)            # it ended out of turn


_state: ContextVar[State] = ContextVar("tinygrad_cnn", default=State())  # noqa: B039 - see changed


@contextmanager
def changed(**fields: object) -> Iterator[State]:
    """A block in which fields of the state have other values.

    The state is changed inside ``try``, in a generator: whatever interrupts a ``with`` statement,
    the rest of the generator runs when it is let go.  A block that a generator of the user's holds
    may end in another thread, or before blocks that began later; its own state is then changed
    back.
    """
    before = after = _state.get()
    state = State(before.recording, before.plain, before.scope, before.observer, before.calls,
                  before)
    for name, value in fields.items():
        setattr(state, name, value)
    try:
        _state.set(state)
        yield state
    finally:
        try:
            after = state_after(state, before, *fields)
        finally:
            _state.set(after)


def state_after(state: State, before: State, *fields: str) -> State:
    """What holds after a block: what held before it, unless blocks end out of turn."""
    here = _state.get()
    if here is state:
        while before.over and before.outer is not None:
            before = before.outer
        return before
    for name in fields:
        setattr(state, name, getattr(before, name))
    state.over = True
    return here


class _Recording(ContextDecorator):
    """A context manager and decorator that switches recording; it may be entered repeatedly."""

    def __init__(self, on: bool) -> None:
        self._on = on
        self._blocks: dict[int, list[AbstractContextManager[State]]] = {}    # of each thread

    def _recreate_cm(self) -> _Recording:
        return _Recording(self._on)

    def __enter__(self) -> None:
        block = changed(recording=self._on, plain=False)
        self._blocks.setdefault(get_ident(), []).append(block)
        block.__enter__()

    def __exit__(self, *error: Any) -> None:
        held = self._blocks.get(get_ident()) or next(filter(None, self._blocks.values()))
        held.pop().__exit__(*error)

    def __call__(self, function: F) -> F:
        if inspect.isasyncgenfunction(function):
            name = "enable_grad" if self._on else "no_grad"
            raise TypeError(f"{name}: {function.__qualname__} is an asynchronous generator, whose "
                            f"body would run outside the block; write `with {name}():` inside it, "
                            "around what lies between two yields")
        if inspect.isgeneratorfunction(function):
            @wraps(function)
            def steps(*args: object, **settings: object) -> object:
                return (yield from _steps(self._on, function(*args, **settings)))
            return cast(F, steps)
        if inspect.iscoroutinefunction(function):
            @wraps(function)
            async def waits(*args: object, **settings: object) -> object:
                return await _awaited(self._on, function(*args, **settings))
            return cast(F, waits)
        return super().__call__(function)


def _steps(on: bool, body: Any) -> Generator[Any, Any, Any]:
    """Run a generator or coroutine in a state of its own; whoever it waits for keeps theirs."""
    own = replace(_state.get(), recording=on, plain=False)
    advance, given = body.send, None
    while True:
        before = _state.get()
        try:
            _state.set(own)
            asked = advance(given)
        except StopIteration as end:
            return end.value
        finally:
            own = _state.get()                      # the body may wait inside a block
            _state.set(before)
        try:
            advance, given = body.send, (yield asked)
        except BaseException as error:
            advance, given = body.throw, error


_awaited = coroutine(_steps)



@overload
def no_grad(function: None = None) -> _Recording: ...
@overload
def no_grad(function: F) -> F: ...
def no_grad(function: F | None = None) -> F | _Recording:
    """Do not record ops inside the block, or inside the decorated function.

    As a decorator it goes with brackets or without.

    The flag is per thread and per asynchronous task: a thread that is started inside the block
    records.  A decorated generator or ``async`` function does not record while its own body runs;
    whoever takes its values, or runs while it waits, is left as they are.

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
    return _recording("no_grad", False, function)


@overload
def enable_grad(function: None = None) -> _Recording: ...
@overload
def enable_grad(function: F) -> F: ...
def enable_grad(function: F | None = None) -> F | _Recording:
    """Record ops inside the block or the decorated function, even within `no_grad`.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> with no_grad(), enable_grad():
    ...     (x * 2).requires_grad
    True
    """
    return _recording("enable_grad", True, function)


def _recording(name: str, on: bool, function: F | None) -> F | _Recording:
    if function is None:
        return _Recording(on)
    if not callable(function):
        raise TypeError(f"{name}: it decorates a function, or begins a block: with {name}(): ...; "
                        f"got {function!r}")
    return _Recording(on)(function)


def is_grad_enabled() -> bool:
    """Whether ops are recorded here and now.

    >>> is_grad_enabled()
    True
    """
    return _state.get().recording


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Tell ``observer`` of every op applied and every cotangent found inside the block."""
    outer = _state.get().observer
    told = observer if outer is None else _Several(outer, observer)
    with changed(observer=told):
        yield


# ---- what a function reads and changes besides its arguments: to run it a second time ------------

States = dict[int, tuple[object, Callable[[], Any], Callable[[Any], None], Any]]
_states: ContextVar[tuple[States, ...]] = ContextVar("states", default=())


def remember(thing: object, get: Callable[[], Any], put: Callable[[Any], None]) -> None:
    """Before ``thing`` is used: a checkpoint that is being taken keeps a copy of what it holds."""
    for states in _states.get():
        if id(thing) not in states:
            states[id(thing)] = thing, get, put, copy.deepcopy(get())


@contextmanager
def remembering() -> Iterator[States]:
    """A block in which `remember` fills a dictionary; those of outer blocks are filled as well."""
    states: States = {}
    before = _states.get()
    try:
        _states.set((*before, states))
        yield states
    finally:
        _states.set(before)


# ---- nodes ---------------------------------------------------------------------------------------

_order = itertools.count(0, -1)
NOTHING: Settings = {}


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
    order : int
        0, −1, −2, ... in the order of creation: the youngest node comes first.
    scope : tuple of str
        The path of the modules that were running, such as ``("LeNet", "conv1")``; ops of one call
        of a module hold the same string object for it.
    code, instruction : code, int
        Of the line that applied the op; never the frame, which would keep the user's arrays.
    """

    __slots__ = ("__weakref__", "code", "inputs", "instruction", "op", "order", "out", "residuals",
                 "scope", "settings", "values")

    op: Op
    inputs: tuple[Tensor | None, ...] | None
    values: tuple[Any, ...]
    settings: Settings
    residuals: Settings
    out: Array | None
    scope: tuple[str, ...]
    order: int
    code: CodeType | None
    instruction: int

    @property
    def freed(self) -> bool:
        """Whether a backward pass has freed this node."""
        return self.inputs is None

    @property
    def shape(self) -> Shape:
        """The shape of the result."""
        if self.inputs is None:
            raise self.freed_error()
        return self.op.shape(*(None if x is None else x.shape for x in self.inputs),
                             **self.settings)

    @property
    def dtype(self) -> DType:
        """The dtype of the result: the one of its first input."""
        if self.inputs is None:
            raise self.freed_error()
        return next(x.dtype for x in self.inputs if x is not None)

    @property
    def serial(self) -> int:
        """How many nodes were created before this one."""
        return -self.order

    @property
    def origin(self) -> tuple[CodeType, int] | None:
        """``code`` and ``instruction``."""
        return None if self.code is None else (self.code, self.instruction)

    @property
    def line(self) -> tuple[str, int] | None:
        """The file and the number of the user's line that applied the op."""
        if self.code is None:
            return None
        return next(((self.code.co_filename, line) for start, end, line in self.code.co_lines()
                     if start <= self.instruction < end and line is not None), None)

    def freed_error(self) -> GraphFreedError:
        """What is raised by a pass that needs a node which an earlier one has freed."""
        return GraphFreedError(
            f"backward: the graph was freed by an earlier backward pass (at the op "
            f"{self.op.name}); pass retain_graph=True to the first one, or compute the "
            "output again")

    def __repr__(self) -> str:
        return f"<node {self.serial}: {self.op.name}{' (freed)' if self.freed else ''}>"


def key_of(x: Tensor) -> Key:
    """What the cotangent of ``x`` is filed under: its node, or itself if it is a leaf."""
    return x if x.node is None else x.node


def leading_to(out: Node, targets: set[Key]) -> set[Key]:
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
    for node in sorted(reached, key=lambda n: n.serial):            # the oldest first
        if any(x is not None and x.requires_grad and key_of(x) in useful
               for x in node.inputs or ()):
            useful.add(node)
    return useful


_TERMS = 64                     # of a sum, from which the graphs behind it are looked at
_MUCH = 1 << 20                 # bytes


def warn_of_old_graphs(a: Node | None, b: Node | None) -> None:
    """Warn of a sum of losses, as in ``total += loss``, that keeps every graph alive.

    Both are nodes of single numbers that are added.  The sum is looked at once, at its 64th term.
    """
    if a is None or b is None or abs(a.order - b.order) < 4:
        return                                  # a sum within one formula
    total, term = (a, b) if a.order > b.order else (b, a)
    node, terms = total, 1
    while terms <= _TERMS and node.inputs is not None and not any(x.ndim for x in node.values):
        below = [x.node for x in node.inputs if x is not None and x.node is not None]
        terms += len(below) == 2 and node.op is total.op
        if not below:
            break
        node = max(below, key=lambda n: n.order)
    if terms != _TERMS:
        return
    size, seen, stack = 0, {term}, [term]
    while stack:
        node = stack.pop()
        size += bytes_of(node)
        for x in node.inputs or ():
            if x is not None and x.node is not None and x.node not in seen:
                if x.node.order > total.order:
                    return                      # all terms are of one graph
                seen.add(x.node)
                stack.append(x.node)
    freed = any(n.freed for n in seen)
    if freed or size * _TERMS > _MUCH:
        keeps = "a node and a tensor, though backward() has freed them" if freed else \
            f"about {size / 1024:,.0f} KiB"
        warnings.warn(f"the graphs of {_TERMS} results are kept by their sum, each {keeps}; add up "
                      "numbers, total += loss.item(), or compute under no_grad(); for the gradient "
                      "of a sum, call loss.backward() each time", RuntimeWarning,
                      stacklevel=_frames_inside())


def bytes_of(node: Node) -> int:
    """Bytes that a node keeps, apart from the values of leaves."""
    held = [v for x, v in zip(node.inputs or (), node.values, strict=False)
            if x is not None and x.node is not None]
    held += [node.out, *node.settings.values(), *node.residuals.values()]
    return sum({id(a): a.nbytes for a in held
                if isinstance(a, np.ndarray) and (any(a.strides) or a.size == 1)}.values())


def _frames_inside() -> int:
    """The ``stacklevel`` of the user's line, for a warning of the caller."""
    package = __name__.partition(".")[0] + "."
    depth, frame = 1, sys._getframe().f_back
    while frame is not None and frame.f_globals.get("__name__", "").startswith(package):
        depth, frame = depth + 1, frame.f_back
    return depth


@lru_cache(maxsize=1024)
def placeholder(shape: Shape, dtype: DType) -> Array:
    """What stands in for values that no rule reads: NaN everywhere, in four or eight bytes.

    Should a rule read what its op does not declare in ``reads``, every gradient turns NaN.
    """
    return np.broadcast_to(np.array(np.nan, dtype), shape)


# ---- what a backward pass hands to rules ---------------------------------------------------------

_exhaust = deque[None](maxlen=0).extend


def handed(rule: Function, *tensors: Tensor | None, **named: object) -> object:
    """Call a rule; meanwhile ``data`` of the tensors that it is given is read-only."""
    given = [t for t in tensors if t is not None]
    given_back = map(setattr, given, repeat("_access"), [t._access for t in given])
    try:
        for t in given:
            t._access = READ_ONLY
        return rule(*tensors, **named)
    finally:
        _exhaust(given_back)                    # one call, which no interrupt divides


def locked(array: Array | None) -> Array | None:
    """A view that cannot be written to, for rules that are not the package's own."""
    if array is None:
        return None
    view = array.view()
    view.flags.writeable = False
    return view


def refuse_changed(node: Node, what: str = "the backward pass cannot be recorded; call "
                   "backward(create_graph=True) before optimizer.step()") -> None:
    """Refuse to read a leaf again, as a recorded pass does, if its values are others by now."""
    for i, (x, value) in enumerate(zip(node.inputs or (), node.values, strict=True)):
        if x is not None and x._data is not value and not np.array_equal(
                x._data, value, equal_nan=True):
            raise GradientError(
                f"{node.op.name}: {node.op.input_name(i)} was changed after the forward pass, so "
                f"{what}, or run the forward pass again")
