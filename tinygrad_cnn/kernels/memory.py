"""Memory for large results, used again as soon as its last array is gone.

A step of training makes the same large arrays as the step before.  The system hands out fresh
memory page by page and fills it with zeros first, which costs as much as the arithmetic of an
elementwise op; memory that has been used before costs nothing.  So the memory of a large result
goes back to a shelf when the array and all of its views are gone, and the next result of about
that size takes it from there.

The shelf and the arrays in use together never hold more than the arrays in use have held at one
time; what has lain there longest goes first.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar, ParamSpec, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["aligned", "allocate", "empty", "held_memory", "release_memory"]

Array = NDArray[Any]
P = ParamSpec("P")
T = TypeVar("T")

_FROM = 1 << 18         # bytes: smaller arrays come from memory that the system keeps mapped
_ALIGN = 64             # bytes: a cache line, and the widest vector register
_LARGE = 1 << 30        # bytes of a result, from which free memory is looked up
_Memory = NDArray[np.uint8]


def aligned(size: int, dtype: DTypeLike) -> Array:
    """Fresh memory that begins with a cache line."""
    kind = np.dtype(dtype)
    raw = np.empty(size * kind.itemsize + _ALIGN, np.uint8)
    start = -raw.__array_interface__["data"][0] % _ALIGN    # as raw.ctypes.data, and quicker
    return raw[start:start + size * kind.itemsize].view(kind)


class _Lease:
    """Owns the memory of one result; arrays and their views keep it alive."""

    __slots__ = ("__array_interface__", "__weakref__", "_memory")
    exclusive: ClassVar[bool] = True        # no other array than the one made from it looks here

    def __init__(self, memory: _Memory, shape: tuple[int, ...], kind: np.dtype[Any]) -> None:
        self._memory = memory
        self.__array_interface__ = {"data": (memory.ctypes.data, False), "shape": shape,
                                    "typestr": kind.str, "version": 3}


class _End(weakref.ref[_Lease]):
    """Notes in a deque that a lease has ended, and has its memory.

    A lease can end in any thread and at any line: so this takes no lock, and is compiled code
    throughout, into which no signal handler can raise.
    """

    __slots__ = ("memory",)
    memory: _Memory


class _Shelf:
    """Memory that no result uses, by size, the size that came back last at the end."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.free: dict[int, list[_Memory]] = {}
        self.used = self.idle = self.most = 0           # bytes; the largest ``used`` so far
        self.lent: set[_End] = set()
        self.ended: deque[_End] = deque()

    def lend(self, size: int, shape: tuple[int, ...], kind: np.dtype[Any]) -> _Lease:
        memory = self._take(size)
        if memory is None:
            memory = self._fresh(size)
        lease = _Lease(memory, shape, kind)
        end = _End(lease, self.ended.append)
        end.memory = memory
        self.lent.add(end)                              # a reference that is gone notes nothing
        return lease

    def _take(self, size: int) -> _Memory | None:
        with self.lock:
            self.collect()
            waiting = self.free.get(size)
            memory = waiting.pop() if waiting else None
            if memory is not None:
                self.idle -= size
            self.used += size
            self.most = max(self.most, self.used)
            self._trim()
        return memory

    def _fresh(self, size: int) -> _Memory:
        """Memory from the system; if it has none, all that waits here is given back first."""
        try:
            return aligned(size, np.uint8)
        except MemoryError:
            self.release()
        return aligned(size, np.uint8)

    def collect(self) -> None:
        """Take back the memory of ended leases."""
        while self.ended:
            end = self.ended.popleft()
            self.lent.discard(end)
            size = len(end.memory)
            waiting = self.free.pop(size, [])
            waiting.append(end.memory)
            self.free[size] = waiting
            self.used -= size
            self.idle += size

    def _trim(self) -> None:
        while self.used + self.idle > self.most:
            size, waiting = next(iter(self.free.items()))
            if waiting:
                waiting.pop()
                self.idle -= size
            if not waiting:
                del self.free[size]

    def release(self) -> int:
        with self.lock:
            self.collect()
            given, self.idle, self.most = self.idle, 0, self.used
            self.free.clear()
        return given


_SHELF = _Shelf()


def _whole(step: Callable[P, T]) -> Callable[P, T]:
    """Begin with an empty pool after a step that an error or an interrupt has left half done."""
    @wraps(step)
    def guarded(*args: P.args, **settings: P.kwargs) -> T:
        global _SHELF
        try:
            return step(*args, **settings)
        except BaseException:
            _SHELF = _Shelf()               # leases of the old one give their memory to the system
            raise
    return guarded


@_whole
def _lend(size: int, shape: tuple[int, ...], kind: np.dtype[Any]) -> _Lease:
    return _SHELF.lend(size, shape, kind)


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """An uninitialized array, on memory that was used before where there is some."""
    kind = np.dtype(dtype)
    need = math.prod(shape) * kind.itemsize
    if need < _FROM or kind.hasobject:
        return np.empty(shape, kind)
    step = 1 << (need.bit_length() - 4)                 # sizes are at most an eighth apart
    return np.asarray(_lend(-(-need // step) * step, shape, kind))


@_whole
def held_memory() -> int:
    """Bytes that wait to be used again.

    Examples
    --------
    >>> held_memory() >= 0
    True
    """
    with _SHELF.lock:
        _SHELF.collect()
        return _SHELF.idle


@_whole
def release_memory() -> int:
    """Give the memory that waits to be used again back to the system.

    Returns
    -------
    int
        Bytes given back.

    Examples
    --------
    >>> given = release_memory()
    >>> release_memory()
    0
    """
    return _SHELF.release()


def allocate(op: str, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Memory for a result, or an error that says how much it would take.

    Linux promises more memory than there is and ends the process when it is used, so a large result
    is compared with what is free first.
    """
    kind = np.dtype(dtype)
    need = math.prod(shape) * kind.itemsize
    if need > _LARGE and need > (free := _free_memory() + held_memory()):
        raise MemoryError(f"{op}: a result of shape {shape} in {kind} needs {need / 2**30:.1f} "
                          f"GiB, and {free / 2**30:.1f} GiB are free; use a smaller batch")
    return empty(shape, kind)


def _free_memory() -> float:
    """Bytes that can be had without swapping, as far as the system says; else no limit."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return float(line.split()[1]) * 1024
    except OSError:
        pass
    return math.inf


def _forget() -> None:
    """A forked child finds the lock in an unknown state."""
    _SHELF.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
