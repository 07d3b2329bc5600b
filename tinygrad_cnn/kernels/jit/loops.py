"""The loops around a tile: images in frames, direct convolutions, and strips of Winograd's.

Everything is one-dimensional here: arrays are flat, and geometry comes as numbers of entries.  Each
function below makes a compiled one for a size of tile; what it makes works on a range of units (a
unit is a band of rows of one image), holds no lock, and writes to nothing but what it is given.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any

import numba
import numpy as np
from numba.core.caching import FunctionCache
from numba.extending import overload

from tinygrad_cnn.errors import KernelFailed
from tinygrad_cnn.kernels.compiled import give_up
from tinygrad_cnn.kernels.jit.move import clear, copy
from tinygrad_cnn.kernels.jit.tile import tile
from tinygrad_cnn.kernels.outliers import LARGEST, SPREAD
from tinygrad_cnn.kernels.threads import apart

# mypy: disable-error-code="no-untyped-def"

__all__ = ["correlate", "correlate_strips", "weight", "weight_strips"]


class _Cache(FunctionCache):  # type: ignore[misc]
    """Compiled code on disk, where a file that fails is a file that is not there."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """None if there is none that can be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:                       # damaged, or not for us to read
            with suppress(Exception):
                self.flush()                    # so that what is compiled now can be kept
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep it, if the disk lets us."""
        with suppress(Exception):
            super().save_overload(sig, data)


def compiled(function: Any = None, **options: Any) -> Any:
    """Compile once, keep on disk where there is a place, and let go of the interpreter lock."""
    if function is None:
        return partial(compiled, **options)
    run = numba.njit(nogil=True, error_model="numpy", **options)(function)
    try:
        run._cache = _Cache(function)
    except Exception:                           # RuntimeError: no locator available
        _tell()
    # Half compiled, a function would leave the compiler in an unknown state: see ``apart``.
    run._compile_for_args = partial(_compile, run._compile_for_args)
    return run


def _compile(compile_for: Callable[..., Any], *args: Any) -> Any:
    try:
        return apart(partial(compile_for, *args))
    except Exception as error:
        give_up(error)
        raise KernelFailed from error


@cache
def _tell() -> None:
    warnings.warn("compiled kernels are compiled anew in every process, because numba finds no "
                  "folder to keep them in; set NUMBA_CACHE_DIR to a folder that can be written to",
                  RuntimeWarning, stacklevel=2)


def _inside(choose: Any) -> Any:
    """Make a function of compiled code, of which the first arguments are constants.

    ``choose`` is called with the types of the arguments and returns what to compile.  A compiled
    function that a maker below held as its own would be found on disk by no other process: numba
    files a closure under what it holds, and tells two compiled functions apart by a random number.
    """
    def stub(*args: Any) -> Any:
        raise AssertionError(f"{choose.__name__} is only called from compiled code")

    overload(stub, prefer_literal=True, jit_options={"error_model": "numpy"})(choose)
    return stub


@compiled
def frame(x, at, h, w, c, out, rows, columns, top, left):
    """Copy the pixels from (top, left) on to ``rows`` by ``columns``, zero outside the image."""
    run = columns * c
    first, last = max(0, -left), min(columns, w - left)
    for i in range(rows):
        row, begin = top + i, i * run
        if row < 0 or row >= h or last <= first:
            clear(out, begin, run)
            continue
        clear(out, begin, first * c)
        copy(out, begin + first * c, x, at + (row * w + left + first) * c, (last - first) * c)
        clear(out, begin + last * c, run - last * c)


@compiled(fastmath={"reassoc", "contract"})
def square(x):
    """Σ x², in any order, so that it fills vectors."""
    total = x.dtype.type(0)
    for k in range(len(x)):
        total += x[k] * x[k]
    return total


@compiled
def carry(squares, rows, step):
    """Keep what the next strip, ``step`` rows further, shares with this one; how many rows."""
    for i in range(rows - step):
        squares[i] = squares[i + step]
    return rows - step


@compiled
def uneven(x, rows, row, width, window, squares, known):
    """Whether an entry of a strip is far above the rest, or not finite: see ``outliers``.

    ``squares`` has a place for each row, and holds those of the first ``known`` rows.
    """
    most, least, tame = np.float32(0), np.float32(np.inf), True
    for i in range(rows):
        if i >= known:
            squares[i] = square(x[i * row:(i + 1) * row])
        value = squares[i]
        tame &= value <= LARGEST
        most = max(most, value)
        least = min(least, value if value > 0 else np.float32(np.inf))
    if not tame:
        return True
    if most <= SPREAD / width * least or seen(squares, rows, most * row / SPREAD, window):
        return False                                # an entry is less than its row
    top = np.float32(0)
    for k in range(rows * row):
        top = max(top, abs(x[k]))
    return not seen(squares, rows, top * top * row / SPREAD, window)


@compiled
def seen(squares, rows, least, window):
    """Whether of what is not zero, a window sees so much at least, or the lower median is more."""
    zeros, below = 0, 0
    for i in range(rows):
        zeros += squares[i] == 0
        below += 0 < squares[i] < least
    return below <= min((rows - zeros - 1) // 2, window - 1)


@cache
def correlate(rows: int, vectors: int, width: int, tail: bool) -> Any:
    """Windows times filters, at any stride."""
    together = vectors * width

    @compiled
    def run(x, w, bias, y, space, low, high, bands, band, image, out, filters, steps,
            origin, columns, places):
        # image h w c, out oh ow o, filters kh (kw·c), steps (down, across, dilation), origin
        # (top, left), columns of the frame, places: of y's first entry, per image, row, pixel
        h, wide, c = image
        oh, ow, o = out
        kh, length = filters
        down, across, apart = steps
        for unit in range(low, high):
            i, first = unit // bands, unit % bands * band
            last = min(oh, first + band)
            frame(x, i * h * wide * c, h, wide, c, space, (last - first - 1) * down
                  + (kh - 1) * apart + 1, columns, first * down - origin[0], -origin[1])
            for channel in range(0, o, together):
                valid = min(width, o - channel - together + width)
                for row in range(first, last):
                    for q in range(0, ow, rows):
                        q = min(q, ow - rows)
                        tile(rows, vectors, width, tail, y, places[0] + i * places[1]
                             + row * places[2] + q * places[3] + channel, places[3],
                             space, ((row - first) * down * columns + q * across) * c,
                             across * c, apart * columns * c, 1,
                             w, channel, length * o, o, kh, length, bias, channel, 0, valid)
    return run


@cache
def weight(rows: int, vectors: int, width: int, tail: bool) -> Any:
    """Pixels against results: ``total`` KH (KW·C, up to whole tiles) O is added to."""
    together = vectors * width

    @compiled
    def run(x, g, total, space, low, high, bands, band, image, out, filters, steps,
            origin, columns):
        h, wide, c = image
        oh, ow, o = out
        kh, length = filters
        down, across, apart = steps
        lines = -(-length // rows) * rows
        for unit in range(low, high):
            i, first = unit // bands, unit % bands * band
            last = min(oh, first + band)
            frame(x, i * h * wide * c, h, wide, c, space, (last - first - 1) * down
                  + (kh - 1) * apart + 1, columns, first * down - origin[0], -origin[1])
            for u in range(kh):
                for j in range(0, length, rows):
                    for channel in range(0, o, together):
                        valid = min(width, o - channel - together + width)
                        at = (u * lines + j) * o + channel
                        tile(rows, vectors, width, tail, total, at, o,
                             space, u * apart * columns * c + j, 1, down * columns * c, across * c,
                             g, (i * oh + first) * ow * o + channel, ow * o, o,
                             last - first, ow, total, at, o, valid)
    return run


@_inside
def combine(rows, vectors, width, y, y_at, y_row, matrix, terms, x, x_at, x_row, length, count,
            start, start_at):
    """A small matrix times rows of any length: the transforms of Winograd's filtering.

    y[i, :] = start + Σ_k matrix[i, k] · x[k, :], over the first ``terms`` of ``count``.
    """
    high, wide, lanes = (constant.literal_value for constant in (rows, vectors, width))
    together = wide * lanes

    def run(rows, vectors, width, y, y_at, y_row, matrix, terms, x, x_at, x_row, length, count,
            start, start_at):
        done = 0
        while done + together <= length:
            tile(high, wide, lanes, False, y, y_at + done, y_row, matrix, 0, count, 0, 1,
                 x, x_at + done, 0, x_row, 1, terms, start, start_at + done, 0, lanes)
            done += together
        while done < length:
            tile(high, 1, lanes, True, y, y_at + done, y_row, matrix, 0, count, 0, 1,
                 x, x_at + done, 0, x_row, 1, terms, start, start_at + done, 0,
                 min(lanes, length - done))
            done += lanes
    return run


@cache
def correlate_strips(rows: int, vectors: int, width: int, tail: bool, m: int, n: int,
                     wide_n: int, wide_m: int) -> Any:
    """Winograd's filtering down the rows: strips of ``m`` rows of results, ``n`` products each.

    A unit is a strip.  Several are transformed together, so that the filters of one product are
    read once for all of them.  ``filters`` is (kh, entries of a window, entries from one window to
    the next); a window may be that of several pixels, whose results then count as channels.
    """
    together = vectors * width

    @compiled
    def run(x, w, bias, zeros, y, space, pixels, products, to_products, from_products, low, high,
            group, image, out, filters, origin, columns, bad):
        h, wide, c = image
        oh, ow, o = out
        kh, length, step = filters
        line, row, strips = columns * c, ow * o, -(-oh // m)
        squares, before = np.empty(n, np.float32), 0
        for begin in range(low, high, group):
            end = min(high, begin + group)
            for unit in range(begin, end):
                i, strip = unit // strips, min(unit % strips * m, oh - m)
                frame(x, i * h * wide * c, h, wide, c, space, n, columns, strip - origin[0],
                      -origin[1])
                known = carry(squares, n, strip - before) if unit > low and strip else 0
                bad[unit] = uneven(space, n, line, columns, kh, squares, known)
                before = strip
                combine(n, wide_n, width, pixels, (unit - begin) * n * line, line, to_products, n,
                        space, 0, line, line, n, zeros, 0)
            for k in range(n):
                for channel in range(0, o, together):
                    valid = min(width, o - channel - together + width)
                    for s in range(end - begin):
                        for q in range(0, ow, rows):
                            q = min(q, ow - rows)
                            tile(rows, vectors, width, tail,
                                 products, (s * n + k) * row + q * o + channel, o,
                                 pixels, (s * n + k) * line + q * step, step, 0, 1,
                                 w, k * length * o + channel, 0, o, 1, length, zeros, 0, 0, valid)
            for unit in range(begin, end):
                # The last strip of an image overlaps the one before it, which another thread may
                # write: it writes the rows that are its own.
                i, strip = unit // strips, min(unit % strips * m, oh - m)
                skip, at = unit % strips * m - strip, (unit - begin) * n * row
                mine, place = (m - skip) * row, (i * oh + strip + skip) * row
                made, to = (products, at) if skip else (y, place)
                combine(m, wide_m, width, made, to, row, from_products, n, products, at, row, row,
                        n, bias, 0)
                if skip:
                    copy(y, place, products, at + skip * row, mine)
    return run


@cache
def weight_strips(rows: int, vectors: int, width: int, tail: bool, m: int, n: int,
                  wide_n: int) -> Any:
    """The filter gradient, transformed: ``total`` n (KW·C, up to whole tiles) O is added to."""
    together = vectors * width

    @compiled
    def run(x, g, total, zeros, space, pixels, results, to_products, to_results, low, high, group,
            image, out, filters, origin, columns):
        h, wide, c = image
        oh, ow, o = out
        kh, length, step = filters
        line, row, strips = columns * c, ow * o, -(-oh // m)
        lines = -(-length // rows) * rows
        squares, of_results = np.empty(n, np.float32), np.empty(m, np.float32)
        for begin in range(low, high, group):
            end = min(high, begin + group)
            for unit in range(begin, end):
                i, strip, place = unit // strips, unit % strips * m, (unit - begin) * n
                rest, at = min(m, oh - strip), (i * oh + strip) * row
                frame(x, i * h * wide * c, h, wide, c, space, n, columns, strip - origin[0],
                      -origin[1])
                known = carry(squares, n, m) if unit > low and strip else 0
                if (uneven(space, n, line, columns, kh, squares, known)
                        or uneven(g[at:], rest, row, ow, m, of_results, 0)):
                    return False
                combine(n, wide_n, width, pixels, place * line, line, to_products, n, space, 0,
                        line, line, n, zeros, 0)
                combine(n, wide_n, width, results, place * row, row, to_results, rest, g, at, row,
                        row, m, zeros, 0)
            for k in range(n):
                for channel in range(0, o, together):
                    valid = min(width, o - channel - together + width)
                    for j in range(0, length, rows):
                        at = (k * lines + j) * o + channel
                        tile(rows, vectors, width, tail, total, at, o,
                             pixels, k * line + j, 1, n * line, step,
                             results, k * row + channel, n * row, o, end - begin, ow,
                             total, at, o, valid)
        return True
    return run
