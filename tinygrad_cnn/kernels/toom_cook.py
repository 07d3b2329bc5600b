"""The matrices of Winograd's minimal filtering, for any number of results and taps.

Toom and Cook's construction: a strip of results and a filter are polynomials, multiplied by way of
their values at a few points.  Small fractions, their opposites and reciprocals as points keep the
numbers in the matrices small, and with them the rounding errors.

References
----------
Winograd, *Arithmetic Complexity of Computations*, SIAM 1980; Barabasz et al., *Error Analysis and
Improving the Accuracy of Winograd Convolution for Deep Neural Networks*, arXiv:1803.10986.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import numpy as np

from tinygrad_cnn.kernels.blocks import Array

__all__ = ["MOST", "gather", "matrices", "repeat"]

_POINTS = tuple(map(Fraction, ("0", "1", "-1", "2", "-1/2", "1/2", "-2", "1/4", "-4")))
MOST = len(_POINTS) + 1         # products of a strip; the last point is infinity


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of Π (t − root), lowest first."""
    terms = [Fraction(1)]
    for root in roots:
        terms = [(terms[i - 1] if i else Fraction(0)) - root * (terms[i] if i < len(terms) else 0)
                 for i in range(len(terms) + 1)]
    return terms


@cache
def matrices(m: int, taps: int) -> tuple[Array, Array, Array]:
    """Bᵀ (n × n), G (n × taps) and Aᵀ (m × n) of F(m, taps), by Toom and Cook.

    A filter and a strip are polynomials; they are multiplied by way of their values at n − 1 points
    and at infinity.
    """
    n = m + taps - 1
    points = _POINTS[:n - 1]
    others = [[q for q in points if q != p] for p in points]
    pixels = [[*_polynomial(rest), Fraction(0)] for rest in others] + [_polynomial(points)]
    weights = [[p**j / math.prod((p - q for q in rest), start=Fraction(1)) for j in range(taps)]
               for p, rest in zip(points, others, strict=True)]
    weights.append([Fraction(0)] * (taps - 1) + [Fraction(1)])
    results = [[p**i for p in points] + [Fraction(int(i == m - 1))] for i in range(m)]
    to_products, to_filter, to_results = (np.array(rows, np.float64)
                                          for rows in (pixels, weights, results))
    # Powers of two even out the rows without rounding anything.
    row = 2.0 ** np.round(np.log2(np.abs(to_products).sum(1) / 2))
    column = 2.0 ** np.round(np.log2(np.abs(to_results).max(0)))
    return ((to_products / row[:, None]).astype(np.float32),
            (to_filter * (row * column)[:, None]).astype(np.float32),
            (to_results / column).astype(np.float32))


def repeat(filters: Array, kw: int, c: int, g: int) -> Array:
    """Filters n KW·C·O for each of g places side by side: n (KW + g − 1)·C g·O.

    One window then makes the results of g places, in rows that are g times as long.
    """
    single = filters.reshape(len(filters), kw, c, -1)
    o = single.shape[3]
    several = np.zeros((len(single), kw + g - 1, c, g, o), np.float32)
    for place in range(g):
        several[:, place:place + kw, :, place] = single
    return several.reshape(len(single), -1, g * o)


def gather(filters: Array, kw: int, c: int, g: int) -> Array:
    """The adjoint of `repeat`: n (KW + g − 1)·C·g·O -> n KW·C·O."""
    several = filters.reshape(len(filters), kw + g - 1, c, g, -1)
    single = several[:, :kw, :, 0].copy()
    for place in range(1, g):
        single += several[:, place:place + kw, :, place]
    return single.reshape(len(single), -1)
