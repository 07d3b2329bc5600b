"""Single passes over memory: standardizing, pooling, and masks, with nothing written in between.

NumPy makes one pass for each step of a formula, through the second-level cache at best; here a
number is loaded once and stored once.  Arrays of lines are two-dimensional: whole pixels side by
side, a few hundred numbers long, so that inner loops fill vectors at any number of channels.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tinygrad_cnn.kernels.jit import compiled

# mypy: disable-error-code="no-untyped-def"

__all__ = ["add_lines", "add_tap_products", "add_taps", "affine", "keep_maxima", "mask", "moments",
           "pool", "standardize_input", "totals"]


@compiled
def add_lines(lines, low, high, total):
    """Add the lines from ``low`` to ``high`` to ``total``, 64 at a time in their own precision."""
    part = np.empty(lines.shape[1], lines.dtype)
    for first in range(low, high, 64):
        part[:] = 0
        for i in range(first, min(first + 64, high)):
            for k in range(lines.shape[1]):
                part[k] += lines[i, k]
        for k in range(lines.shape[1]):
            total[k] += part[k]


@compiled
def moments(lines, low, high, mean, squares):
    """Mean and sum of squared deviations of each column, over the lines from ``low`` to ``high``.

    Blocks of 32 lines are read once; each has a mean of its own, and those of all blocks are put
    together as Chan, Golub & LeVeque do (*Updating formulae*, 1979): a large mean costs no digits.
    The first line of a block is taken off before anything is added up, and that of all from the
    means, so that a constant column is exact.
    """
    width = lines.shape[1]
    plain, spread = np.empty(width, lines.dtype), np.empty(width, lines.dtype)
    for first in range(low, high, 32):
        last = min(first + 32, high)
        count, before = last - first, first - low
        plain[:] = 0
        spread[:] = 0
        for i in range(first + 1, last):
            for k in range(width):
                d = lines[i, k] - lines[first, k]
                plain[k] += d
                spread[k] += d * d
        share = count / (before + count)
        for k in range(width):
            part = np.float64(plain[k])
            apart = np.float64(lines[first, k]) - lines[low, k] + part / count - mean[k]
            mean[k] += apart * share
            squares[k] += max(np.float64(spread[k]) - part * part / count, 0.0) \
                + apart * apart * share * before
    for k in range(width):
        mean[k] += lines[low, k]


@compiled
def affine(lines, center, factor, offset, out, low, high):
    """(x − center) · factor + offset."""
    for i in range(low, high):
        for k in range(lines.shape[1]):
            out[i, k] = (lines[i, k] - center[k]) * factor[k] + offset[k]


@compiled
def totals(given, lines, center, low, high, plain, along):
    """Add Σ g to ``plain`` and Σ g · (x − center) to ``along``."""
    width = lines.shape[1]
    one, other = np.empty(width, lines.dtype), np.empty(width, lines.dtype)
    for first in range(low, high, 64):
        one[:] = 0
        other[:] = 0
        for i in range(first, min(first + 64, high)):
            for k in range(width):
                g = given[i, k]
                one[k] += g
                other[k] += g * (lines[i, k] - center[k])
        for k in range(width):
            plain[k] += one[k]
            along[k] += other[k]


@compiled
def standardize_input(given, lines, center, along, mean, factor, weight, out, low, high):
    """((x − center) · along + g − mean) · factor · weight."""
    for i in range(low, high):
        for k in range(lines.shape[1]):
            moved = (lines[i, k] - center[k]) * along[k] + given[i, k] - mean[k]
            out[i, k] = moved * factor[k] * weight[k]


@compiled
def add_taps(images, filters, bias, out, down, apart):
    """Depthwise windows, row by row: bias + Σ_{u, v} images[row + u, from v on] · filters[u, v].

    Rows are whole rows of pixels, with filters and bias repeated along them; ``apart`` is (rows,
    numbers in a row) from tap to tap.
    """
    width = out.shape[2]
    for n in range(len(out)):
        for i in range(out.shape[1]):
            target = out[n, i]
            for k in range(width):
                target[k] = bias[k]
            for u in range(filters.shape[0]):
                row = images[n, i * down + u * apart[0]]
                for v in range(filters.shape[1]):
                    part, weights = row[v * apart[1]:v * apart[1] + width], filters[u, v]
                    for k in range(width):
                        target[k] += part[k] * weights[k]


@compiled
def add_tap_products(images, given, total, down, apart):
    """The filter gradient of `add_taps`, still spread along a row: ``total`` is added to."""
    width = given.shape[2]
    for n in range(len(given)):
        for i in range(given.shape[1]):
            g = given[n, i]
            for u in range(total.shape[0]):
                row = images[n, i * down + u * apart[0]]
                for v in range(total.shape[1]):
                    part, sums = row[v * apart[1]:v * apart[1] + width], total[u, v]
                    for k in range(width):
                        sums[k] += part[k] * g[k]


@compiled
def mask(ct, y, out, low, high):
    """ct where y is above zero, else 0, also where ct is infinite or NaN."""
    zero = ct.dtype.type(0)
    for i in range(low, high):
        for k in range(ct.shape[1]):
            out[i, k] = ct[i, k] if y[i, k] > 0 else zero


@cache
def pool(kh: int, kw: int) -> Any:
    """A maker: maxima of windows of this size."""
    @compiled
    def run(x, y, argmax_indices, down, across, low, high):
        # Windows lie inside the image; False if a pixel is NaN or a maximum infinite: padding is
        # −∞ here, and never wins.  The first of a tie stays.
        oh, ow, c = y.shape[1:]
        not_finite = 0
        for n in range(low, high):
            for i in range(oh):
                for j in range(ow):
                    for k in range(c):
                        best, place = x[n, i * down, j * across, k], np.uint32(0)
                        for u in range(kh):
                            for v in range(kw):
                                value = x[n, i * down + u, j * across + v, k]
                                place = np.uint32(u * kw + v) if value > best else place
                                best = max(value, best)
                                not_finite += value != value
                        y[n, i, j, k] = best
                        argmax_indices[n, i, j, k] = place
                        not_finite += best - best != 0
        return not_finite == 0
    return run


@cache
def keep_maxima(kh: int, kw: int) -> Any:
    """A maker: each value where its maximum was, zero elsewhere, for windows side by side."""
    @compiled
    def run(y, argmax_indices, x, low, high):
        oh, ow, c = y.shape[1:]
        for n in range(low, high):
            for i in range(oh):
                for u in range(kh):
                    for j in range(ow):
                        for v in range(kw):
                            for k in range(c):
                                x[n, i * kh + u, j * kw + v, k] = (
                                    y[n, i, j, k] if argmax_indices[n, i, j, k] == u * kw + v
                                    else y.dtype.type(0))
    return run
