"""Where Winograd's filtering would let a pixel tell on results that do not see it.

The transforms add and subtract the pixels of a strip or tile.  What a pixel adds to a result that
does not see it cancels, up to rounding: 1e-6 to 1e-5 of the pixel are left.  While pixels are of
one size that is lost in the rounding of the result; of a far larger one it is an error, and of an
infinity or NaN nothing cancels.  Sums of squares, taken on the way, find such strips.  The direct
kernel then makes their results; a filter gradient, which is a sum over all strips, it makes anew.

The bounds keep what is left within 5e-5 of the largest result that does not see the pixel, which is
what the filtering is held to elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tinygrad_cnn.kernels import blas
from tinygrad_cnn.kernels.blocks import Array, Block
from tinygrad_cnn.shapes import Pair, Sides

__all__ = ["LARGEST", "SPREAD", "correlate", "regions", "silent", "tame", "uneven_rows",
           "uneven_tiles"]

SPREAD = 2.0**10        # square of an entry over the mean square of its strip, at most
_SPREAD_TILE = 2.0**7   # the same for the pixels of a tile, which mixes in two directions
LARGEST = 1e34          # sum of squares whose products cannot overflow on the way


def silent() -> Any:
    """A block without warnings, of results that may be thrown away."""
    return np.errstate(over="ignore", invalid="ignore")


def _apart(squares: Array, most: float, axis: Any) -> Array:
    """Where, along the axes, the largest is far above the least, or not finite: seldom."""
    largest = squares.max(axis)
    return np.asarray(~(largest <= np.minimum(most * squares.min(axis), LARGEST)))


def _windows(squares: Array, size: Pair, step: Pair) -> Array:
    """What each strip or tile sees of R W N: places S T N, of as many places as ``size`` holds."""
    seen = sliding_window_view(squares, size, (0, 1))[::step[0], ::step[1]]
    return seen.transpose(3, 4, 0, 1, 2).reshape(size[0] * size[1], *seen.shape[:3])


def _least(squares: Array) -> Array:
    """The least along the first axis of what is not zero."""
    return np.asarray(np.where(squares > 0, squares, np.inf).min(0))


def _small(squares: Array, window: int) -> Array:
    """What a window of some places sees at least: along the first axis, of what is not zero.

    The lower median if that is less: dark rows beside an edge are no reason to go another way.
    """
    zeros = (squares == 0).sum(0)
    place = np.minimum(np.maximum(len(squares) - zeros - 1, 0) // 2, window - 1)
    place = np.minimum(zeros + place, len(squares) - 1)
    return np.take_along_axis(np.sort(squares, 0), place[None], 0)[0]


def uneven_rows(squares: Array, x: Array, top: int, width: int, step: int, length: int,
                window: int) -> Array:
    """Which strips hold an entry far above the rest, or one that is not finite: S N.

    ``squares`` R N are the sums over rows of ``width`` pixels, of which the images ``x`` begin with
    row ``top``; a strip has ``length`` rows, of which a result sees ``window`` at least, and begins
    ``step`` rows after the one before.
    """
    rows = slice(max(0, top), min(top + x.shape[1], len(squares)))
    bad = np.zeros(((len(squares) - length) // step + 1, len(x)), bool)
    with silent():
        some = np.flatnonzero(_apart(squares[rows], SPREAD / width, 0))
        if some.size:
            largest = np.zeros((len(squares), 1, some.size), x.dtype)
            seen = x[some, rows.start - top:rows.stop - top]
            largest[rows, 0] = np.maximum(seen.max((2, 3)), -seen.min((2, 3))).T
            entries, strips = (_windows(a, (length, 1), (step, 1))[:, :, 0]
                               for a in (largest, squares[:, None, some]))
            most = strips.max(0)
            even = most <= SPREAD / width * _least(strips)
            mean = _small(strips, window) / (width * x.shape[3])
            bad[:, some] = ~((even | (entries.max(0)**2 <= SPREAD * mean)) & (most <= LARGEST))
    return bad


def uneven_tiles(squares: Array, inside: tuple[slice, slice], step: Pair, size: Pair,
                 window: int) -> Array:
    """As `uneven_rows` for the pixels of tiles, by their sums of squares R W N: S N.

    A row of tiles is uneven if one of them is.
    """
    bad = np.zeros(((len(squares) - size[0]) // step[0] + 1, squares.shape[2]), bool)
    with silent():
        some = np.flatnonzero(_apart(squares[inside], _SPREAD_TILE, (0, 1)))
        if some.size:
            tiles = _windows(squares[..., some], size, step)
            most = tiles.max(0)
            apart = ~(most <= np.minimum(_SPREAD_TILE * _least(tiles), LARGEST))
            small = _small(tiles[:, apart], window)
            apart[apart] = ~(most[apart] <= np.minimum(_SPREAD_TILE * small, LARGEST))
            bad[:, some] = apart.any(1)
    return bad


def tame(w: Array) -> bool:
    """Whether filters are finite, and so are their products on the way."""
    flat = w.reshape(-1)
    with silent():
        return bool(np.dot(flat, flat) <= LARGEST)


def regions(bad: Array, step: int, rows: int) -> list[Block]:
    """Blocks of results that cover the strips (S N) marked in ``bad`` and no other."""
    found: list[Block] = []
    runs: list[Pair] = []
    for i in np.flatnonzero(bad.any(0)).tolist():
        edges = np.flatnonzero(np.diff(bad[:, i].astype(np.int8), prepend=0, append=0)) * step
        here = [(first, min(last, rows)) for first, last in edges.reshape(-1, 2).tolist()]
        if found and found[-1][0].stop == i and here == runs:
            found[-len(runs):] = [(slice(images.start, i + 1), first, last)
                                  for images, first, last in found[-len(runs):]]
        else:
            found += [(slice(i, i + 1), first, last) for first, last in here]
        runs = here
    return found


def correlate(bad: Array, step: int, x: Array, w: Array, b: Array | None, y: Array,
              padding: Sides) -> None:
    """Write the marked strips of a convolution of stride 1 into ``y``, directly."""
    if not bad.any():
        return
    (top, _), (left, _) = padding
    for images, first, last in regions(bad, step, y.shape[1]):
        blas.correlate(x[images], w, b, y[images, first:last], (1, 1),
                       ((top - first, 0), (left, 0)), (1, 1), 1)
