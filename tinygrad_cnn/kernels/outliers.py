"""Where Winograd's filtering would let a pixel tell on results that do not see it.

The transforms add and subtract the pixels of a strip or tile.  What a pixel adds to a result that
does not see it cancels, up to rounding: 1e-6 to 1e-5 of the pixel are left.  While pixels are of
one size that is lost in the rounding of the result; of a far larger one it is an error, and of an
infinity or NaN nothing cancels.  Sums of squares, taken on the way, find such strips.  The direct
kernel then makes their results; a filter gradient, which is a sum over all strips, it makes anew.

The bounds keep what is left within 5e-5 of the largest result that does not see the pixel, which is
what the filtering is held to elsewhere.  Two numbers of the whole array settle nearly all calls:
what surrounds a NumPy function costs as much as a function of so few numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tinygrad_cnn.kernels import blas
from tinygrad_cnn.kernels.blocks import Array, Block, place
from tinygrad_cnn.shapes import Pair, Sides

__all__ = ["LARGEST", "SPREAD", "Squares", "correlate", "regions", "silent", "tame", "uneven_rows",
           "uneven_tiles"]

SPREAD = 2.0**10        # square of an entry over the mean square of its strip, at most
_SPREAD_TILE = 2.0**7   # the same for the pixels of a tile, which mixes in two directions
_AT_ONCE = 1 << 17      # entries of images that stay in the cache as a whole
LARGEST = 1e34          # sum of squares whose products cannot overflow on the way


def silent() -> Any:
    """A block without warnings, of results that may be thrown away."""
    return np.errstate(over="ignore", invalid="ignore")


class Squares:
    """Sums of squares of images: each row in so many parts, N H parts.

    Small images are looked at in one go; of large ones a block at a time, while it is in the cache.
    """

    def __init__(self, x: Array, parts: int) -> None:
        self.x, self.parts, self.done = x, parts, x.size <= _AT_ONCE
        with silent():
            self.sums = self._of(x) if self.done else np.zeros((*x.shape[:2], parts), x.dtype)

    def _of(self, x: Array) -> Array:
        n, h, w, c = x.shape
        lines = x.reshape(n, h, self.parts, w // self.parts * c)
        return np.asarray(np.vecdot(lines, lines))

    def look(self, images: slice, first: int, last: int) -> None:
        """Take in rows of some images, as far as there are such rows."""
        if not self.done:
            rows = slice(max(0, first), max(0, last))
            self.sums[images, rows] = self._of(self.x[images, rows])


def _apart(squares: Array, most: float, reach: int) -> Array:
    """Which images have a row or pixel far above the rest, or not finite: seldom one.

    Results see ``reach`` rows of an image at least, so that of neighbors the largest counts; what
    is zero tells nothing.
    """
    flat = squares.reshape(len(squares), squares.shape[1] * squares.shape[2])
    least = np.minimum.reduce(flat, 1, initial=np.inf)
    largest = np.maximum.reduce(flat, 1, initial=0) * (1 / most)        # no overflow, no warning
    even = largest <= np.minimum(least, LARGEST / most)
    if even.all():
        return np.zeros(0, int)
    some = np.flatnonzero(~even)
    near = squares[some]
    if reach > 1 and near.shape[1] > 1:
        near = np.maximum(near[:, 1:], near[:, :-1])
    near = near.reshape(some.size, -1)
    least = np.where(near > 0, near, np.inf).min(1)
    return some[~(largest[some] <= np.minimum(least, LARGEST / most))]


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


def uneven_rows(squares: Squares, top: int, count: int, step: int, length: int,
                window: int, reach: int) -> Array | None:
    """Which strips hold an entry far above the rest, or one that is not finite: S N, or None.

    ``squares`` are those of whole rows.  The first of ``count`` strips begins ``top`` rows above
    the images; a strip has ``length`` rows, of which a result sees ``window`` at least and
    ``reach`` on the image, and begins ``step`` rows after the one before.
    """
    x, width = squares.x, squares.x.shape[2]
    some = _apart(squares.sums, SPREAD / width, reach)
    if not some.size:
        return None

    def strips(rows: Array) -> Array:
        around = np.zeros((count * step + length - step, 1, len(rows)), rows.dtype)
        place(around.transpose(2, 0, 1)[..., None], rows.reshape(len(rows), -1, 1, 1), -top, 0)
        return _windows(around, (length, 1), (step, 1))[:, :, 0]

    with silent():
        seen = strips(squares.sums[some])
        most, mean = seen.max(0), _small(seen, window) / (width * x.shape[3])
        even = most <= np.minimum(SPREAD / width * _least(seen), LARGEST)
        even |= most <= np.minimum(SPREAD * mean, LARGEST)      # an entry is less than its row
        left = np.flatnonzero(~even.all(0))
        if not left.size:
            return None
        images = x[some[left]]
        entries = strips(np.maximum(images.max((2, 3)), -images.min((2, 3)))).max(0)
        even[:, left] |= (entries**2 <= SPREAD * mean[:, left]) & (most[:, left] <= LARGEST)
        return _marked(even, some, len(x))


def uneven_tiles(squares: Squares, origin: Pair, count: Pair, step: Pair, size: Pair,
                 window: int, reach: int) -> Array | None:
    """As `uneven_rows` for the pixels of tiles: S N.  A row of tiles is uneven if one of them is.

    ``squares`` N H W are those of pixels, or of so many side by side that each result sees all of
    some.
    """
    x = squares.x
    some = _apart(squares.sums, _SPREAD_TILE, reach)
    if not some.size:
        return None
    around = np.zeros((*(n * s + k - s for n, s, k in zip(count, step, size, strict=True)),
                       some.size), x.dtype)
    with silent():
        pixels = np.vecdot(x[some], x[some])[..., None]
        place(around.transpose(2, 0, 1)[..., None], pixels, -origin[0], -origin[1])
        tiles = _windows(around, size, step)
        most = tiles.max(0)
        apart = ~(most <= np.minimum(_SPREAD_TILE * _least(tiles), LARGEST))
        small = _small(tiles[:, apart], window)
        apart[apart] = ~(most[apart] <= np.minimum(_SPREAD_TILE * small, LARGEST))
        return _marked(~apart.any(1), some, len(x))


def _marked(even: Array, some: Array, n: int) -> Array | None:
    """Strips that are not even, of all ``n`` images instead of some: S N; None if there is none."""
    if even.all():
        return None
    bad = np.zeros((len(even), n), bool)
    bad[:, some] = ~even
    return bad


def tame(w: Array) -> bool:
    """Whether filters are finite, and so are their products on the way."""
    flat = w.ravel()
    return bool(np.dot(flat, flat) <= LARGEST)          # BLAS raises no warnings


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


def correlate(bad: Array | None, step: int, x: Array, w: Array, b: Array | None, y: Array,
              padding: Sides) -> None:
    """Write the marked strips of a convolution of stride 1 into ``y``, directly."""
    (top, _), (left, _) = padding
    for images, first, last in [] if bad is None else regions(bad, step, y.shape[1]):
        blas.correlate(x[images], w, b, y[images, first:last], (1, 1),
                       ((top - first, 0), (left, 0)), (1, 1), 1)
