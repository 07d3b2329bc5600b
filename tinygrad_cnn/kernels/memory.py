"""Memory for large results, used again as soon as its last array is gone; blocks and work space.

A step of training makes the same large arrays as the step before.  The system hands out fresh
memory page by page and fills it with zeros first, which costs as much as the arithmetic of an
elementwise op; memory that has been used before costs nothing.  So the memory of a large result
goes back to a pool when the array and all of its views are gone, and the next result of about
that size takes it from there.

The pool and the arrays in use together never hold more than the arrays in use have held at one
time; what has lain there longest goes first.

A kernel cuts its work into blocks that fit the second-level cache of a core, and keeps what it
makes on the way in a workspace whose buffers stay warm from block to block and call to call.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ClassVar, ParamSpec, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tinygrad_cnn.types import Array, DType

__all__ = ["Array", "Block", "aligned", "allocate", "blocks", "workspace", "empty", "held_memory",
           "long_lines", "move", "multiply", "place", "release_memory", "view"]

Block = tuple[slice, int, int]          # images, first row, row after the last
P = ParamSpec("P")
T = TypeVar("T")

_FROM = 1 << 18         # bytes: smaller arrays come from memory that the system keeps mapped
_ALIGN = 64             # bytes: a cache line, and the widest vector register
_LARGE = 1 << 30        # bytes of a result, from which free memory is looked up
_BUFFER = 1 << 22                       # bytes: from here on NumPy asks for large memory pages
_ALONE = 1 << 14        # entries of work that end sooner than another thread would wake
_SMALL = 1_000_000      # OpenBLAS multiplies matrices up to M·N·K of this without packing them
_Memory = NDArray[np.uint8]


def aligned(size: int, dtype: DTypeLike) -> Array:
    """Fresh memory that begins with a cache line."""
    kind = np.dtype(dtype)
    raw = np.empty(size * kind.itemsize + _ALIGN, np.uint8)
    start = -raw.__array_interface__["data"][0] % _ALIGN    # as raw.ctypes.data, and quicker
    return raw[start:start + size * kind.itemsize].view(kind)


class _MemoryBlock:
    """Owns the memory of one result; arrays and their views keep it alive."""

    __slots__ = ("__array_interface__", "__weakref__", "_memory")
    exclusive: ClassVar[bool] = True        # no other array than the one made from it looks here

    def __init__(self, memory: _Memory, shape: tuple[int, ...], kind: DType) -> None:
        self._memory = memory
        self.__array_interface__ = {"data": (memory.ctypes.data, False), "shape": shape,
                                    "typestr": kind.str, "version": 3}


class _Finalizer(weakref.ref[_MemoryBlock]):
    """Notes in a deque that a block has ended, and has its memory.

    A block can end in any thread and at any line: so this takes no lock, and is compiled code
    throughout, into which no signal handler can raise.
    """

    __slots__ = ("memory",)
    memory: _Memory


class _Pool:
    """Memory that no result uses, by size, the size that came back last at the end."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.free: dict[int, list[_Memory]] = {}
        self.used = self.idle = self.most = 0           # bytes; the largest ``used`` so far
        self.in_use: set[_Finalizer] = set()
        self.ended: deque[_Finalizer] = deque()

    def allocate(self, size: int, shape: tuple[int, ...], kind: DType) -> _MemoryBlock:
        memory = self._take(size)
        if memory is None:
            memory = self._fresh(size)
        block = _MemoryBlock(memory, shape, kind)
        end = _Finalizer(block, self.ended.append)
        end.memory = memory
        self.in_use.add(end)                              # a reference that is gone notes nothing
        return block

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
        """Take back the memory of ended blocks."""
        while self.ended:
            end = self.ended.popleft()
            self.in_use.discard(end)
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


_POOL = _Pool()


def _whole(step: Callable[P, T]) -> Callable[P, T]:
    """Begin with an empty pool after a step that an error or an interrupt has left half done."""
    @wraps(step)
    def guarded(*args: P.args, **settings: P.kwargs) -> T:
        global _POOL
        try:
            return step(*args, **settings)
        except BaseException:
            _POOL = _Pool()               # blocks of the old one give their memory to the system
            raise
    return guarded


@_whole
def _hand_out(size: int, shape: tuple[int, ...], kind: DType) -> _MemoryBlock:
    return _POOL.allocate(size, shape, kind)


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """An uninitialized array, on memory that was used before where there is some."""
    kind = np.dtype(dtype)
    need = math.prod(shape) * kind.itemsize
    if need < _FROM or kind.hasobject:
        return np.empty(shape, kind)
    step = 1 << (need.bit_length() - 4)                 # sizes are at most an eighth apart
    return np.asarray(_hand_out(-(-need // step) * step, shape, kind))


@_whole
def held_memory() -> int:
    """Bytes that wait to be used again.

    Examples
    --------
    >>> held_memory() >= 0
    True
    """
    with _POOL.lock:
        _POOL.collect()
        return _POOL.idle


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
    return _POOL.release()


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
    _POOL.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


# ---- work space, and blocks

class _Space(threading.local):
    """Buffers of this thread that are not in use."""

    def __init__(self) -> None:
        self.free: list[_Memory] = []


_SPACE = _Space()


class workspace:  # noqa: N801 - used as a function in a with statement
    """Uninitialized arrays of these shapes, side by side in one buffer that is used again.

    The buffer belongs to the thread while the ``with`` block runs; a call from inside the block
    gets another one, so kernels may call kernels.  After an error it is not given again: it goes
    when the last array in it does, whoever still looks there.
    """

    __slots__ = ("_arrays", "_memory")

    def __init__(self, dtype: DTypeLike, *several: Sequence[int]) -> None:
        kind = np.dtype(dtype)
        starts, need = [], 0
        for shape in several:
            starts.append(need)
            need += -(-math.prod(shape) * kind.itemsize // _ALIGN) * _ALIGN
        memory = _SPACE.free.pop() if _SPACE.free else None
        if memory is None or len(memory) < need:
            memory = aligned(max(need, _BUFFER), np.uint8)
        self._memory = memory
        self._arrays: list[Array] = []
        for shape, start in zip(several, starts, strict=True):
            self._arrays.append(np.ndarray(tuple(shape), kind, memory.data, start))

    def __enter__(self) -> list[Array]:
        return self._arrays

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            _SPACE.free.append(self._memory)


def view(x: Array, shape: tuple[int, ...], strides: tuple[int, ...], start: int = 0) -> Array:
    """Entries of a contiguous array in another arrangement, from byte ``start`` on.

    This is ``as_strided`` at a tenth of its cost, which counts where blocks take microseconds, and
    it refuses to leave the array.
    """
    return np.ndarray(shape, x.dtype, x.data, start, strides)


def move(out: Array, x: Array) -> None:
    """``out[...] = x`` for images of few channels: pixels move as wholes, not channel by channel.

    NumPy copies a run of numbers by a call per run; as one item of many bytes, a pixel costs less
    than half as much.
    """
    size = x.shape[-1] * x.itemsize
    if (x.dtype == out.dtype and 0 < size <= 256 and x.shape == out.shape
            and x.strides[-1] == x.itemsize and out.strides[-1] == out.itemsize):
        pixel = np.dtype((np.void, size))
        np.copyto(out.view(pixel), x.view(pixel))
    else:
        np.copyto(out, x)


def place(out: Array, x: Array, row: int, column: int, fill: float = 0) -> None:
    """Make ``out[n, i, j]`` the pixel ``x[n, row + i, column + j]``, ``fill`` outside of ``x``."""
    (_, rows, columns, _), (_, h, w, _) = out.shape, x.shape
    top, bottom = min(rows, max(0, -row)), min(rows, h - row)
    left, right = min(columns, max(0, -column)), min(columns, w - column)
    if top >= bottom or left >= right:
        out[...] = fill
        return
    out[:, :top] = fill
    out[:, bottom:] = fill
    out[:, top:bottom, :left] = fill
    out[:, top:bottom, right:] = fill
    move(out[:, top:bottom, left:right],
         x[:, row + top:row + bottom, column + left:column + right])


def long_lines(x: Array, most: int) -> Array:
    """A contiguous array as lines of at most ``most`` numbers, each of whole pixels."""
    channels = x.shape[-1]
    pixels, together = x.size // channels, 1
    while pixels % (2 * together) == 0 and 2 * together * channels <= most:
        together *= 2
    return x.reshape(-1, together * channels)


def blocks(n: int, rows: int, cost: int, budget: int, parts: int) -> list[Block]:
    """Cut ``n`` images of ``rows`` rows into blocks that cost about ``budget`` each.

    ``cost`` is that of one row.  Blocks hold several images or part of one; there are at least
    ``parts`` of them where that is possible, and a multiple of ``parts`` where they hold images.
    """
    if not n or not rows:
        return []
    if n * rows * cost < _ALONE:
        return [(slice(0, n), 0, rows)]
    affordable = max(1, budget // max(1, cost))             # rows
    if n >= parts and affordable >= rows:
        pieces = -(-n // (affordable // rows))
        pieces = min(n, -(-pieces // parts) * parts)
        cuts = [n * i // pieces for i in range(pieces + 1)]
        return [(slice(a, b), 0, rows) for a, b in zip(cuts, cuts[1:], strict=False)]
    pieces = max(-(-rows // affordable), min(rows, -(-parts // n)))
    cuts = [rows * i // pieces for i in range(pieces + 1)]
    return [(slice(i, i + 1), a, b) for i in range(n)
            for a, b in zip(cuts, cuts[1:], strict=False)]


def multiply(a: Array, b: Array, out: Array) -> None:
    """``out[i] = a[i] @ b[i]``, in pieces small enough for OpenBLAS to skip packing."""
    rows = _SMALL // max(1, b.shape[1] * b.shape[2])
    if rows < 32 or a.shape[1] <= rows:
        np.matmul(a, b, out=out)
        return
    rows -= rows % 16
    whole = a.shape[1] // rows * rows
    np.matmul(a[:, :whole].reshape(len(a), -1, rows, a.shape[2]), b[:, None],
              out=out[:, :whole].reshape(len(a), -1, rows, out.shape[2]))
    if whole < a.shape[1]:
        np.matmul(a[:, whole:], b, out=out[:, whole:])
