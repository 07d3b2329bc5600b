"""Work space and blocks: what the fast kernels share, so that they need not know each other.

A kernel cuts its work into blocks that fit the second-level cache of a core, and keeps what it
makes on the way in borrowed buffers that stay warm from block to block and call to call.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tinygrad_cnn.kernels.memory import aligned

__all__ = ["Array", "Block", "blocks", "borrowed", "long_lines", "move", "multiply", "place",
           "view"]

Array = NDArray[Any]
Block = tuple[slice, int, int]          # images, first row, row after the last

_ALIGN = 64                             # bytes: a cache line, and the widest vector register
_LEAST = 1 << 22                        # bytes: from here on NumPy asks for large memory pages
_ALONE = 1 << 14        # entries of work that end sooner than another thread would wake
_SMALL = 1_000_000      # OpenBLAS multiplies matrices up to M·N·K of this without packing them


class _Shelf(threading.local):
    """Buffers of this thread that nobody has borrowed."""

    def __init__(self) -> None:
        self.free: list[NDArray[np.uint8]] = []


_SHELF = _Shelf()


class borrowed:  # noqa: N801 - used as a function in a with statement
    """Uninitialized arrays of these shapes, side by side in one buffer that is used again.

    The buffer belongs to the thread while the ``with`` block runs; a call from inside the block
    gets another one, so kernels may call kernels.  After an error it is not lent again: it goes
    when the last array in it does, whoever still looks there.
    """

    __slots__ = ("_arrays", "_memory")

    def __init__(self, dtype: DTypeLike, *several: Sequence[int]) -> None:
        kind = np.dtype(dtype)
        starts, need = [], 0
        for shape in several:
            starts.append(need)
            need += -(-math.prod(shape) * kind.itemsize // _ALIGN) * _ALIGN
        memory = _SHELF.free.pop() if _SHELF.free else None
        if memory is None or len(memory) < need:
            memory = aligned(max(need, _LEAST), np.uint8)
        self._memory = memory
        self._arrays: list[Array] = []
        for shape, start in zip(several, starts, strict=True):
            self._arrays.append(np.ndarray(tuple(shape), kind, memory.data, start))

    def __enter__(self) -> list[Array]:
        return self._arrays

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            _SHELF.free.append(self._memory)


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
