"""The loops around a tile: images in frames, direct convolutions, and strips of Winograd's.

Everything is one-dimensional here: arrays are flat, and geometry comes as numbers of entries.  Each
function below makes a compiled one for a size of tile; what it makes works on a range of units (a
unit is a band of rows of one image), holds no lock, and writes to nothing but what it is given.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba

from tinygrad_cnn.kernels.jit.move import clear, copy
from tinygrad_cnn.kernels.jit.tile import tile

# mypy: disable-error-code="no-untyped-def"

__all__ = ["correlate", "correlate_strips", "weight", "weight_strips"]


def compiled(function: Any) -> Any:
    """Compile once, keep on disk, and let go of the interpreter lock."""
    return numba.njit(nogil=True, cache=True, error_model="numpy")(function)


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


@cache
def _finite(width: int) -> Any:
    """Whether the first entries are finite: 0 · x, added up, is 0 or NaN."""
    together = 4 * width

    @compiled
    def check(x, count, zeros, sums):
        tile(1, 4, width, False, sums, 0, 0, zeros, 0, 0, 0, 0, x, 0, 0, together, 1,
             count // together, zeros, 0, 0, width)
        total = x.dtype.type(0)
        for k in range(together):
            total += sums[k]
        for k in range(count - count % together, count):
            total += x[k] * x.dtype.type(0)
        return total == 0
    return check


@compiled
def _rectify(y, at, rows, row, length):
    """The positive part of ``rows`` rows of results; NaN stays."""
    for i in range(rows):
        part = y[at + i * row:at + i * row + length]
        for k in range(length):
            value = part[k]
            part[k] = y.dtype.type(0) if value < 0 else value


@cache
def correlate(rows: int, vectors: int, width: int, tail: bool) -> Any:
    """Windows times filters, at any stride."""
    together = vectors * width

    @compiled
    def run(x, w, bias, y, space, low, high, bands, band, image, out, filters, steps,
            origin, columns, places, rectify):
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
            if rectify:                                 # of whole images only: pixels lie together
                _rectify(y, places[0] + i * places[1] + first * places[2], last - first,
                         places[2], ow * o)
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


@cache
def combine(rows: int, vectors: int, width: int) -> Any:
    """A small matrix times rows of any length: the transforms of Winograd's filtering."""
    together = vectors * width

    @compiled
    def run(y, y_at, y_row, matrix, terms, x, x_at, x_row, length, count, start, start_at):
        # y[i, :] = start + Σ_k matrix[i, k] · x[k, :], over the first ``terms`` of ``count``.
        done = 0
        while done + together <= length:
            tile(rows, vectors, width, False, y, y_at + done, y_row, matrix, 0, count, 0, 1,
                 x, x_at + done, 0, x_row, 1, terms, start, start_at + done, 0, width)
            done += together
        while done < length:
            tile(rows, 1, width, True, y, y_at + done, y_row, matrix, 0, count, 0, 1,
                 x, x_at + done, 0, x_row, 1, terms, start, start_at + done, 0,
                 min(width, length - done))
            done += width
    return run


@cache
def correlate_strips(rows: int, vectors: int, width: int, tail: bool, m: int, n: int,
                     wide_n: int, wide_m: int) -> Any:
    """Winograd's filtering down the rows: strips of ``m`` rows of results, ``n`` products each.

    A unit is a strip.  Several are transformed together, so that the filters of one product are
    read once for all of them.
    """
    together = vectors * width
    from_pixels, to_results = combine(n, wide_n, width), combine(m, wide_m, width)
    check = _finite(width)

    @compiled
    def run(x, w, bias, zeros, y, space, pixels, products, to_products, from_products, low, high,
            group, image, out, filters, origin, columns, rectify):
        h, wide, c = image
        oh, ow, o = out
        length = filters[1]
        line, row, strips = columns * c, ow * o, -(-oh // m)
        finite = True
        for begin in range(low, high, group):
            end = min(high, begin + group)
            for unit in range(begin, end):
                i, strip = unit // strips, min(unit % strips * m, oh - m)
                frame(x, i * h * wide * c, h, wide, c, space, n, columns, strip - origin[0],
                      -origin[1])
                finite &= check(space, n * line, zeros, products)
                from_pixels(pixels, (unit - begin) * n * line, line, to_products, n, space, 0,
                            line, line, n, zeros, 0)
            for k in range(n):
                for channel in range(0, o, together):
                    valid = min(width, o - channel - together + width)
                    for s in range(end - begin):
                        for q in range(0, ow, rows):
                            q = min(q, ow - rows)
                            tile(rows, vectors, width, tail,
                                 products, (s * n + k) * row + q * o + channel, o,
                                 pixels, (s * n + k) * line + q * c, c, 0, 1,
                                 w, k * length * o + channel, 0, o, 1, length, zeros, 0, 0, valid)
            for unit in range(begin, end):
                # The last strip of an image overlaps the one before it, which another thread may
                # write: it writes the rows that are its own.
                i, strip = unit // strips, min(unit % strips * m, oh - m)
                skip, at = unit % strips * m - strip, (unit - begin) * n * row
                mine, place = (m - skip) * row, (i * oh + strip + skip) * row
                if skip:
                    to_results(products, at, row, from_products, n, products, at, row, row, n,
                               bias, 0)
                    copy(y, place, products, at + skip * row, mine)
                else:
                    to_results(y, place, row, from_products, n, products, at, row, row, n, bias, 0)
                if rectify:
                    _rectify(y, place, m - skip, row, row)
        return finite
    return run


@cache
def weight_strips(rows: int, vectors: int, width: int, tail: bool, m: int, n: int,
                  wide_n: int) -> Any:
    """The filter gradient, transformed: ``total`` n (KW·C, up to whole tiles) O is added to."""
    together = vectors * width
    transform = combine(n, wide_n, width)

    @compiled
    def run(x, g, total, zeros, space, pixels, results, to_products, to_results, low, high, group,
            image, out, filters, origin, columns):
        h, wide, c = image
        oh, ow, o = out
        length = filters[1]
        line, row, strips = columns * c, ow * o, -(-oh // m)
        lines = -(-length // rows) * rows
        for begin in range(low, high, group):
            end = min(high, begin + group)
            for unit in range(begin, end):
                i, strip, place = unit // strips, unit % strips * m, (unit - begin) * n
                frame(x, i * h * wide * c, h, wide, c, space, n, columns, strip - origin[0],
                      -origin[1])
                transform(pixels, place * line, line, to_products, n, space, 0, line, line, n,
                          zeros, 0)
                transform(results, place * row, row, to_results, min(m, oh - strip),
                          g, (i * oh + strip) * row, row, row, m, zeros, 0)
            for k in range(n):
                for channel in range(0, o, together):
                    valid = min(width, o - channel - together + width)
                    for j in range(0, length, rows):
                        at = (k * lines + j) * o + channel
                        tile(rows, vectors, width, tail, total, at, o,
                             pixels, k * line + j, 1, n * line, c,
                             results, k * row + channel, n * row, o, end - begin, ow,
                             total, at, o, valid)
    return run
