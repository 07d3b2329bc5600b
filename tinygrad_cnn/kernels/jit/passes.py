"""Single passes over memory: standardizing, pooling, and masks, with nothing written in between.

NumPy makes one pass for each step of a formula, through the second-level cache at best; here a
number is loaded once and stored once.  Arrays of lines are two-dimensional: whole pixels side by
side, a few hundred numbers long, so that inner loops fill vectors at any number of channels.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tinygrad_cnn.kernels.jit.workers import shared

# mypy: disable-error-code="no-untyped-def"

__all__ = ["add_lines", "affine", "keep_maxima", "mask", "moments",
           "pool", "rectify", "standardize_input", "totals"]


@shared
def add_lines(part, low, high, lines, totals):
    """Add the lines from ``low`` to ``high`` up, 64 at a time in their own precision."""
    some, total = np.empty(lines.shape[1], lines.dtype), totals[part]
    for first in range(low, high, 64):
        some[:] = 0
        for i in range(first, min(first + 64, high)):
            for k in range(lines.shape[1]):
                some[k] += lines[i, k]
        for k in range(lines.shape[1]):
            total[k] += some[k]


@shared
def moments(part, low, high, lines, means, all_squares):
    """Mean and sum of squared deviations of each column, over the lines from ``low`` to ``high``.

    Blocks of 32 lines are read once; each has a mean of its own, and those of all blocks are put
    together as Chan, Golub & LeVeque do (*Updating formulae*, 1979): a large mean costs no digits.
    The first line of a block is taken off before anything is added up, and that of all from the
    means, so that a constant column is exact.
    """
    width, mean, squares = lines.shape[1], means[part], all_squares[part]
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
            whole = np.float64(plain[k])
            apart = np.float64(lines[first, k]) - lines[low, k] + whole / count - mean[k]
            mean[k] += apart * share
            squares[k] += max(np.float64(spread[k]) - whole * whole / count, 0.0) \
                + apart * apart * share * before
    for k in range(width):
        mean[k] += lines[low, k]


@shared
def affine(part, low, high, lines, center, factor, offset, out):
    """(x − center) · factor + offset."""
    for i in range(low, high):
        for k in range(lines.shape[1]):
            out[i, k] = (lines[i, k] - center[k]) * factor[k] + offset[k]


@shared
def totals(part, low, high, given, lines, center, sums):
    """Add Σ g and Σ g · (x − center) to the two lines of sums of the part."""
    width, plain, along = lines.shape[1], sums[part, 0], sums[part, 1]
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


@shared
def standardize_input(part, low, high, given, lines, center, along, mean, factor, weight, out):
    """((x − center) · along + g − mean) · factor · weight."""
    for i in range(low, high):
        for k in range(lines.shape[1]):
            moved = (lines[i, k] - center[k]) * along[k] + given[i, k] - mean[k]
            out[i, k] = moved * factor[k] * weight[k]


@shared
def rectify(part, low, high, x, out):
    """max(x, 0); what is NaN stays so."""
    zero, seen, made = x.dtype.type(0), x[low:high], out[low:high]     # indices from 0 fill vectors
    for k in range(len(made)):
        made[k] = zero if seen[k] <= 0 else seen[k]


@shared
def mask(part, low, high, ct, y, out):
    """ct where y is above zero, else 0, also where ct is infinite or NaN."""
    zero, given, seen, made = ct.dtype.type(0), ct[low:high], y[low:high], out[low:high]
    for k in range(len(made)):
        made[k] = given[k] if seen[k] > 0 else zero


@cache
def pool(kh: int, kw: int) -> Any:
    """A maker: maxima of windows of this size."""
    @shared
    def run(part, low, high, x, y, argmax_indices, down, across, finite):
        # Windows lie inside the image; ``finite`` says of each image whether no pixel is NaN and
        # no maximum infinite: padding is −∞ here, and never wins.  The first of a tie stays.
        oh, ow, c = y.shape[1:]
        for n in range(low, high):
            not_finite = 0
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
            finite[n] = not_finite == 0
    return run


@cache
def keep_maxima(kh: int, kw: int) -> Any:
    """A maker: each value where its maximum was, zero elsewhere, for windows side by side."""
    @shared
    def run(part, low, high, y, argmax_indices, x):
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
