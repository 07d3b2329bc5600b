"""Convolutions in compiled code: direct, or Winograd's filtering down the rows.

`tile` does the arithmetic.  Shapes become numbers of entries, buffers are used again, and bands of
rows are handed to the threads; the loops at the end go through the images.

Winograd's filtering (see ``kernels.winograd``) is for float32, stride 1 and filters of 2 to 5 rows.
It mixes the rows of a strip; where one holds an infinity, a NaN, or a pixel far above the rest, the
direct kernel takes over.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cnn.kernels.jit import compiled, inline
from tinygrad_cnn.kernels.jit.tile import (
    clear,
    copy,
    lanes,
    tile,
    tile_rows,
    tile_vectors,
    wide_vectors,
)
from tinygrad_cnn.kernels.jit.workers import shared
from tinygrad_cnn.kernels.memory import aligned, workspace
from tinygrad_cnn.kernels.parallel import get_num_threads, parts
from tinygrad_cnn.kernels.winograd import (
    LARGEST,
    SPREAD,
    fewest_products,
    finite_filters,
    gather,
    matrices,
    regions,
    repeat,
)
from tinygrad_cnn.shapes import Pair
from tinygrad_cnn.types import Array

if TYPE_CHECKING:
    from tinygrad_cnn.kernels.conv import Problem

# mypy: disable-error-code="no-untyped-def"

__all__ = ["applies", "forward", "weight"]

_FRAME = 1 << 16            # entries of a frame: 256 KB of float32
_SPACE = 1 << 17            # entries of the transforms of strips: 512 KB
_SUMS = 24                  # vectors of sums that a tile keeps in registers
_FEW = 1 << 13              # entries of filters that stay in the first-level cache
_MOST = 8                   # products of a strip
_LARGEST_GROUP = 4          # channels: a shuffle for each costs more than full tiles do beyond
_STRIP = 4                  # rows of a strip: more cost digits and save little


def applies(problem: Problem) -> bool:
    """float32 and float64, windows of all channels whose pixels lie side by side, small groups."""
    kw = problem.filters[1]
    dense = problem.groups == 1 and (problem.dilation[1] == 1 or kw == 1)
    return ((dense or _shared(problem) > 0) and problem.dtypes[0] == problem.dtypes[1]
            and problem.dtypes[0] in (np.float32, np.float64)       # in the order of this machine
            and all(problem.images) and all(problem.filters) and all(problem.results))


def _shared(problem: Problem) -> int:
    """Channels of a group that is within a vector and has as many results; else 0."""
    size = problem.filters[2]
    fits = (problem.groups > 1 and size * problem.groups == problem.filters[3]
            and size <= _LARGEST_GROUP and lanes(problem.dtype.itemsize) % size == 0)
    return size if fits else 0


@cache
def _strip(rows: int, taps: int) -> int:
    """Rows of results that are made together."""
    return fewest_products(rows, taps, min(_MOST, min(_STRIP, rows) + taps - 1))


def _in_strips(problem: Problem) -> bool:
    """Whether Winograd's filtering serves, and saves anything."""
    return (problem.dtype == np.float32 and problem.plain and 2 <= problem.filters[0] <= 5
            and _strip(problem.results[1], problem.filters[0]) >= 2)


def forward(problem: Problem, x: Array, w: Array, b: Array | None, y: Array) -> None:
    """N H W C, KH KW C O, O -> N OH OW O, into ``y``, perhaps every so many pixels of an image."""
    x, w = np.ascontiguousarray(x), np.ascontiguousarray(w)
    if not (_in_strips(problem) and finite_filters(w)):
        _forward_direct(problem, x, w, b, y)
        return
    m, bad = _forward_strips(problem, x, w, b, y)
    for images, first, last in regions(bad.T, m, y.shape[1]) if bad.any() else ():
        part = replace(problem, origin=(problem.origin[0] - first, problem.origin[1]))
        _forward_direct(part, x[images], w, b, y[images, first:last])


def _forward_direct(problem: Problem, x: Array, w: Array, b: Array | None, y: Array) -> None:
    n, oh, ow, o = y.shape
    kh, kw, c, _ = w.shape
    stride, origin, dilation = problem.stride, problem.origin, problem.dilation
    vectors = tile_vectors(o, x.itemsize)
    width = lanes(x.itemsize)
    share = _shared(problem)
    run = _correlate_loops(tile_rows(ow, vectors * (2 if share else 1)), vectors, width,
                           o % width != 0, share)
    c = x.shape[3]
    columns = (ow - 1) * stride[1] + (kw - 1) * dilation[1] + 1
    bands, band = _bands(n, oh, columns * c * stride[0], _FRAME)
    bias = np.zeros(o, x.dtype) if b is None else np.ascontiguousarray(b, x.dtype)
    filters = _aligned(w)
    flat, begin = _flat(y)
    places = (begin, *(s // y.itemsize for s in y.strides[:3]))
    size = ((band - 1) * stride[0] + (kh - 1) * dilation[0] + 1) * columns * c

    with workspace(x.dtype, (parts(n * bands), size)) as (spaces,):
        run(n * bands, x.reshape(-1), filters, bias, flat, spaces, bands, band, x.shape[1:],
            y.shape[1:], (kh, kw) if share else (kh, kw * c), (*stride, *dilation), origin,
            columns, places)


def _aligned(w: Array) -> Array:
    """Flat, and each vector in one line of the cache."""
    out = aligned(w.size, w.dtype)
    out[...] = w.reshape(-1)
    return out


def _flat(y: Array) -> tuple[Array, int]:
    """All the memory under a view, flat, and the entry at which the view begins."""
    base = y
    while isinstance(base.base, np.ndarray) and not base.flags.c_contiguous:
        base = base.base
    start = y.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return base.reshape(-1), start // y.itemsize


def _bands(n: int, rows: int, cost: int, budget: int) -> Pair:
    """Bands of an image, and rows of a band: small enough, and enough for all threads."""
    affordable = max(1, budget // max(1, cost))
    needed = max(-(-rows // affordable), min(rows, -(-get_num_threads() // max(1, n))))
    band = -(-rows // needed)
    return -(-rows // band), band


def _group(each: int, shared: int) -> int:
    """How many strips to transform together: more where the filters, ``shared``, are larger."""
    budget = _SPACE if shared > _FEW else _SPACE // 4
    return max(1, budget // each)


def _together(ow: int, o: int) -> int:
    """How many pixels of a row to make with one window, so that their results fill a vector."""
    most = max(1, min(4, lanes(4) // o))
    while ow % most:
        most -= 1
    return most


def _forward_strips(problem: Problem, x: Array, w: Array, b: Array | None,
                    y: Array) -> tuple[int, Array]:
    """Rows of a strip, and which strips (N S) are uneven: their results are to be made directly."""
    n, oh, ow, o = y.shape
    kh, kw, c, _ = w.shape
    m = _strip(oh, kh)
    bad = np.zeros((n, -(-oh // m)), bool)
    products = m + kh - 1
    to_products, to_filter, to_results = matrices(m, kh)
    g = _together(ow, o)
    filters = _aligned(repeat(np.matmul(to_filter, w.reshape(kh, -1)), kw, c, g))
    vectors, width = tile_vectors(g * o, 4), lanes(4)
    run = _correlate_strips_loops(tile_rows(ow // g, vectors), vectors, width, g * o % width != 0,
                                 m, products, wide_vectors(products), wide_vectors(m))
    columns = ow + kw - 1
    line, row = columns * c, ow * o
    group = _group(products * (line + row), filters.size)
    bias = np.zeros(row, np.float32)
    if b is not None:
        bias.reshape(ow, o)[...] = b
    zeros = np.zeros(max(line, width * 4), np.float32)

    several = parts(bad.size)
    group = min(group, -(-bad.size // several))
    with workspace(np.float32, (several, products * line), (several, group * products * line),
                  (several, max(group * products * row, width * 4))) as (space, pixels, made):
        run(bad.size, x.reshape(-1), filters, bias, zeros, y.reshape(-1), space, pixels, made,
            to_products.reshape(-1), to_results.reshape(-1), group, x.shape[1:],
            (oh, ow // g, g * o), (kh, (kw + g - 1) * c, g * c), problem.origin, columns,
            bad.reshape(-1))
    return m, bad


def weight(problem: Problem, x: Array, y: Array) -> Array:
    """N H W C, N OH OW O -> KH KW C O."""
    x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
    made = _weight_strips(problem, x, y) if _in_strips(problem) else None
    return _weight_direct(problem, x, y) if made is None else made


def _weight_shared(problem: Problem, x: Array, y: Array) -> Array:
    """The filter gradient of small groups: each row of taps in registers, over the pixels."""
    n, oh, ow, o = y.shape
    kh, kw, size, _ = problem.filters
    stride, origin, dilation = problem.stride, problem.origin, problem.dilation
    vectors, width = tile_vectors(o, x.itemsize), lanes(x.itemsize)
    rows = max(r for r in range(1, kw + 1) if r * size * vectors <= _SUMS or r == 1)
    run = _weight_shared_loops(rows, vectors, width, o % width != 0, size)
    columns = (ow - 1) * stride[1] + (kw - 1) * dilation[1] + 1
    bands, band = _bands(n, oh, columns * o * stride[0], _FRAME)
    length = ((band - 1) * stride[0] + (kh - 1) * dilation[0] + 1) * columns * o

    several = parts(n * bands)
    totals = np.zeros((several, kh * kw * size * o), x.dtype)
    with workspace(x.dtype, (several, length)) as (spaces,):
        run(n * bands, x.reshape(-1), y.reshape(-1), totals, spaces, bands, band, x.shape[1:],
            y.shape[1:], (kh, kw), (*stride, *dilation), origin, columns)
    return totals.sum(0).reshape(problem.filters)


def _weight_direct(problem: Problem, x: Array, y: Array) -> Array:
    if _shared(problem):
        return _weight_shared(problem, x, y)
    n, oh, ow, o = y.shape
    kh, kw, c, _ = problem.filters
    stride, origin, dilation = problem.stride, problem.origin, problem.dilation
    vectors, width = tile_vectors(o, x.itemsize), lanes(x.itemsize)
    rows = tile_rows(kw * c, vectors)
    run = _weight_loops(rows, vectors, width, o % width != 0)
    columns = (ow - 1) * stride[1] + kw
    bands, band = _bands(n, oh, columns * c * stride[0], _FRAME)
    lines = -(-kw * c // rows) * rows
    size = ((band - 1) * stride[0] + (kh - 1) * dilation[0] + 1) * columns * c + rows

    several = parts(n * bands)
    totals = np.zeros((several, kh * lines * o), x.dtype)
    with workspace(x.dtype, (several, size)) as (spaces,):
        spaces[:, -rows:] = 0                           # a last tile reads on into these
        run(n * bands, x.reshape(-1), y.reshape(-1), totals, spaces, bands, band, x.shape[1:],
            y.shape[1:], (kh, kw * c), (*stride, dilation[0]), origin, columns)
    total = totals.sum(0)
    return np.ascontiguousarray(total.reshape(kh, lines, o)[:, :kw * c]).reshape(kh, kw, c, o)


def _weight_strips(problem: Problem, x: Array, y: Array) -> Array | None:
    """None if a strip of pixels or results is uneven."""
    n, oh, ow, o = y.shape
    kh, kw, c, _ = problem.filters
    m = _strip(oh, kh)
    products = m + kh - 1
    to_products, to_filter, to_results = matrices(m, kh)
    g = _together(ow, o)
    length = (kw + g - 1) * c
    vectors, width = tile_vectors(g * o, 4), lanes(4)
    rows = tile_rows(length, vectors)
    run = _weight_strips_loops(rows, vectors, width, g * o % width != 0, m, products,
                              wide_vectors(products))
    columns = ow + kw - 1
    line, row = columns * c, ow * o
    group = max(1, _SPACE // (products * (line + row)))
    lines = -(-length // rows) * rows
    zeros = np.zeros(max(line, row), np.float32)
    spread = np.ascontiguousarray(to_results.T).reshape(-1)

    units = n * -(-oh // m)
    several = parts(units)
    group = min(group, -(-units // several))
    totals = np.zeros((several, products * lines * g * o), np.float32)
    even = np.empty(several, np.bool_)
    with workspace(np.float32, (several, products * line),
                  (several, group * products * line + rows),
                  (several, group * products * row)) as (space, pixels, results):
        pixels[:, -rows:] = 0                           # a last tile reads on into these
        run(units, x.reshape(-1), y.reshape(-1), totals, zeros, space, pixels, results,
            to_products.reshape(-1), spread, even, group, x.shape[1:], (oh, ow // g, g * o),
            (kh, length, g * c), problem.origin, columns)
    if not even.all():
        return None
    total = totals.sum(0)
    total = gather(total.reshape(products, lines, g * o)[:, :length], kw, c, g)
    w: Array = np.matmul(to_filter.T, total)
    return w.reshape(kh, kw, c, o)


# ---- loops: everything is one-dimensional, arrays are flat, and geometry comes as numbers of
# ---- entries; each maker below makes a compiled function for a size of tile, which works on a
# ---- range of units, such as bands of rows of one image

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
    """Whether an entry of a strip is far above the rest, or not finite: see ``kernels.winograd``.

    ``squares`` has a place for each row, and holds those of the first ``known`` rows.
    """
    most, least, small_enough = np.float32(0), np.float32(np.inf), True
    for i in range(rows):
        if i >= known:
            squares[i] = square(x[i * row:(i + 1) * row])
        value = squares[i]
        small_enough &= value <= LARGEST
        most = max(most, value)
        least = min(least, value if value > 0 else np.float32(np.inf))
    if not small_enough:
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
def _correlate_loops(rows: int, vectors: int, width: int, tail: bool, share: int) -> Any:
    """Windows times filters, at any stride; ``share``: channels of a group, see `tile`."""
    together = vectors * width

    @shared
    def run(part, low, high, x, w, bias, y, spaces, bands, band, image, out, filters, steps,
            origin, columns, places):
        # image h w c, out oh ow o, filters kh (kw·c, or kw of groups), steps (down, across,
        # dilation), origin (top, left), columns of the frame, places: of y's first entry, per
        # image, row, pixel
        space = spaces[part]
        h, wide, c = image
        oh, ow, o = out
        kh, length = filters
        down, across, apart, beside = steps
        step, start, size = (beside * c, 1, share) if share else (1, 0, 1)
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
                        tile(rows, vectors, width, tail, share, y, places[0] + i * places[1]
                             + row * places[2] + q * places[3] + channel, places[3],
                             space, ((row - first) * down * columns + q * across) * c
                             + start * channel, across * c, apart * columns * c, step,
                             w, channel, length * size * o, o, kh, length, bias, channel, 0,
                             valid)
    return run


@cache
def _weight_loops(rows: int, vectors: int, width: int, tail: bool) -> Any:
    """Pixels against results: ``total`` KH (KW·C, up to whole tiles) O is added to."""
    together = vectors * width

    @shared
    def run(part, low, high, x, g, totals, spaces, bands, band, image, out, filters, steps,
            origin, columns):
        space, total = spaces[part], totals[part]
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
                        tile(rows, vectors, width, tail, 0, total, at, o,
                             space, u * apart * columns * c + j, 1, down * columns * c, across * c,
                             g, (i * oh + first) * ow * o + channel, ow * o, o,
                             last - first, ow, total, at, o, valid)
    return run


@cache
def _weight_shared_loops(rows: int, vectors: int, width: int, tail: bool, size: int) -> Any:
    """Pixels against results, lane by lane: ``total`` KH KW size O is added to."""
    together, share = vectors * width, -size

    @shared
    def run(part, low, high, x, g, totals, spaces, bands, band, image, out, filters, steps,
            origin, columns):
        space, total = spaces[part], totals[part]
        h, wide, c = image
        oh, ow, o = out
        kh, kw = filters
        down, across, apart, beside = steps
        for unit in range(low, high):
            i, first = unit // bands, unit % bands * band
            last = min(oh, first + band)
            frame(x, i * h * wide * c, h, wide, c, space, (last - first - 1) * down
                  + (kh - 1) * apart + 1, columns, first * down - origin[0], -origin[1])
            for channel in range(0, o, together):
                valid = min(width, o - channel - together + width)
                for u in range(kh):
                    v = 0
                    while v < kw:
                        at = (u * kw + v) * size * o + channel
                        pixel = (u * apart * columns + v * beside) * c + channel
                        begin = (i * oh + first) * ow * o + channel
                        if v + rows <= kw:
                            tile(rows, vectors, width, tail, share, total, at, o,
                                 space, pixel, beside * c, down * columns * c, across * c,
                                 g, begin, ow * o, o, last - first, ow, total, at, o, valid)
                            v += rows
                        else:
                            tile(1, vectors, width, tail, share, total, at, o,
                                 space, pixel, beside * c, down * columns * c, across * c,
                                 g, begin, ow * o, o, last - first, ow, total, at, o, valid)
                            v += 1
    return run


@inline
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
            tile(high, wide, lanes, False, 0, y, y_at + done, y_row, matrix, 0, count, 0, 1,
                 x, x_at + done, 0, x_row, 1, terms, start, start_at + done, 0, lanes)
            done += together
        while done < length:
            tile(high, 1, lanes, True, 0, y, y_at + done, y_row, matrix, 0, count, 0, 1,
                 x, x_at + done, 0, x_row, 1, terms, start, start_at + done, 0,
                 min(lanes, length - done))
            done += lanes
    return run


@cache
def _correlate_strips_loops(rows: int, vectors: int, width: int, tail: bool, m: int, n: int,
                     wide_n: int, wide_m: int) -> Any:
    """Winograd's filtering down the rows: strips of ``m`` rows of results, ``n`` products each.

    A unit is a strip.  Several are transformed together, so that the filters of one product are
    read once for all of them.  ``filters`` is (kh, entries of a window, entries from one window to
    the next); a window may be that of several pixels, whose results then count as channels.
    """
    together = vectors * width

    @shared
    def run(part, low, high, x, w, bias, zeros, y, space_of, pixels_of, products_of, to_products,
            from_products, group, image, out, filters, origin, columns, bad):
        space, pixels, products = space_of[part], pixels_of[part], products_of[part]
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
                            tile(rows, vectors, width, tail, 0,
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
def _weight_strips_loops(rows: int, vectors: int, width: int, tail: bool, m: int, n: int,
                  wide_n: int) -> Any:
    """The filter gradient, transformed: ``total`` n (KW·C, up to whole tiles) O is added to."""
    together = vectors * width

    @shared
    def run(part, low, high, x, g, totals, zeros, space_of, pixels_of, results_of, to_products,
            to_results, even, group, image, out, filters, origin, columns):
        space, pixels, results = space_of[part], pixels_of[part], results_of[part]
        total, even[part] = totals[part], False
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
                    return
                combine(n, wide_n, width, pixels, place * line, line, to_products, n, space, 0,
                        line, line, n, zeros, 0)
                combine(n, wide_n, width, results, place * row, row, to_results, rest, g, at, row,
                        row, m, zeros, 0)
            for k in range(n):
                for channel in range(0, o, together):
                    valid = min(width, o - channel - together + width)
                    for j in range(0, length, rows):
                        at = (k * lines + j) * o + channel
                        tile(rows, vectors, width, tail, 0, total, at, o,
                             pixels, k * line + j, 1, n * line, step,
                             results, k * row + channel, n * row, o, end - begin, ow,
                             total, at, o, valid)
        even[part] = True
    return run
