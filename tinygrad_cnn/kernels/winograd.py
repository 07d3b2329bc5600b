"""Winograd's minimal filtering: fewer products for rows, or tiles, of results side by side.

``m`` rows of results need ``m + KH − 1`` products per place instead of ``m · KH``.  With d the
``n = m + KH − 1`` rows of pixels under a strip, g the KH rows of a filter and Y the m rows of
results,

    Y = Aᵀ [(G g) ⊙ (Bᵀ d)],

where ⊙ stands for a matrix product over columns and channels.  For layers of few channels only the
rows are transformed (`_Strips`).  Rows lie far apart in memory, so that Bᵀ d and Aᵀ [...] are
matrix products on the image as it lies there: nothing is gathered into tiles.  One dimension keeps
more digits than two, so m may be as large as 8.  And the KW pixels under a window lie side by side,
as one row of KW·C numbers, so that the products need no copy either: every KW-th window is a row of
an ordinary matrix, and there are KW such matrices.

From 64 channels on both directions are transformed (`_Tiles`): Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A.
F(4×4, 3×3) makes 16 results of 36 products where the direct form needs 144.  Images of a block lie
side by side, pixel for pixel: rows, columns, images, channels.  So both the rows of a strip and the
columns of a tile are long rows of numbers, and each transform is a matrix product.

The adjoints use the same three matrices: the filter gradient is Gᵀ [Σ (Bᵀ d) ⊙ (A y)], and the
input gradient is a forward convolution of the padded cotangent with the filters turned by half a
circle.

float64 is declined, because whoever asks for it wants its digits; in float32 the error is about
5e-6 of the largest result.  Strips with a pixel that is not finite, or far above the rest, are
computed directly, so that it tells only on results that see it: see the end of this file.

References
----------
Winograd, *Arithmetic Complexity of Computations*, SIAM 1980; Lavin & Gray, *Fast Algorithms for
Convolutional Neural Networks*, arXiv:1509.09308; Barabasz et al., *Error Analysis and Improving the
Accuracy of Winograd Convolution for Deep Neural Networks*, arXiv:1803.10986 (choice of points).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from fractions import Fraction
from functools import cache, lru_cache
from types import NotImplementedType
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tinygrad_cnn.kernels import direct
from tinygrad_cnn.kernels.memory import Block, blocks, empty, multiply, place, view, workspace
from tinygrad_cnn.kernels.parallel import get_num_threads, one_blas_thread, parallel
from tinygrad_cnn.shapes import Pair, Shape
from tinygrad_cnn.types import Array

if TYPE_CHECKING:
    from tinygrad_cnn.kernels.conv import Problem

__all__ = ["LARGEST", "SPREAD", "applies", "fewest_products", "finite_filters", "forward", "gather",
           "matrices", "regions", "repeat", "weight"]

_POINTS = tuple(map(Fraction, ("0", "1", "-1", "2", "-1/2", "1/2", "-2", "1/4", "-4")))
_MOST = len(_POINTS) + 1        # products of a strip; the last point is infinity
_MOST_TILE = 8                  # products of a tile along one direction: float32 allows no more
_MANY = 64                      # channels, in and out, from which both directions are transformed
_WIDE = 32                      # numbers in a row of results, from which BLAS is at full speed
_RUN = 256                      # numbers in a row of a column transform, from which it is
_BUDGET = 1 << 19               # entries that a block keeps at hand: 2 MB of float32
_FILTER = 32                    # tiles whose products take as long as to transform the filters
_COLUMNS = 1 << 12              # entries of filters that are transformed while they are in cache
_TILES = 64                     # tiles in a block
_TILES_WEIGHT = 128             # as many as pay for adding up the block's filter gradient


def applies(problem: Problem) -> bool:
    """float32, dense windows side by side, filters of 2 to 7 rows."""
    return (problem.plain and 2 <= problem.filters[0] <= 7 and problem.results[1] > 1
            and problem.dtypes[0] == problem.dtypes[1] == np.float32)


@one_blas_thread
def forward(problem: Problem, x: Array, w: Array, b: Array | None,
            y: Array) -> Array | NotImplementedType:
    """N H W C, KH KW C O, O -> N OH OW O, into ``y``; declined if filters are not finite."""
    if not finite_filters(w):
        return NotImplemented
    cut = _cut(problem, get_num_threads(), _TILES)
    filters, squares = cut.filters(w), cut.squares(x)

    def work(low: int, high: int) -> None:
        for block in cut.blocks[low:high]:
            cut.forward(x, block, filters, b, y, squares)

    with no_warnings():
        parallel(len(cut.blocks), work, products=False)
    bad = cut.uneven(squares)
    for images, first, last in () if bad is None else regions(bad, cut.step[0], y.shape[1]):
        part = replace(problem, origin=(problem.origin[0] - first, problem.origin[1]))
        direct.forward(part, x[images], w, b, y[images, first:last])
    return y


@one_blas_thread
def weight(problem: Problem, x: Array, y: Array) -> Array | NotImplementedType:
    """N H W C, N OH OW O -> KH KW C O; declined where pixels or results are uneven."""
    cut = _cut(problem, get_num_threads(), _TILES_WEIGHT)
    of_x, of_y = cut.squares(x), cut.squares_of_results(y)

    def work(low: int, high: int) -> Array:
        total = empty(cut.total, np.float32)
        total[...] = 0
        for block in cut.blocks[low:high]:
            cut.add_products(x, y, block, total, of_x, of_y)
        return total

    with no_warnings():
        total = np.asarray(sum(parallel(len(cut.blocks), work, products=False)), np.float32)
    if cut.uneven(of_x) is not None or cut.uneven_results(of_y) is not None:
        return NotImplemented
    return cut.weight(total).reshape(problem.filters)


@lru_cache(maxsize=256)
def _cut(problem: Problem, threads: int, tiles: int) -> _Strips | _Tiles:
    """The strips or tiles of a layer, which are the same in every step of a training.

    It pays to save products in both directions where there are many channels.
    """
    kh, kw, c, o = problem.filters
    if min(c, o) >= _MANY and min(problem.results[1:3]) >= 4 and min(kh, kw) >= 2:
        return _Tiles(problem, threads, tiles)
    return _Strips(problem, threads)


@cache
def fewest_products(size: int, taps: int, most: int) -> int:
    """How many results of one direction to make together: fewest products, then least rounding."""
    return min(range(1, most - taps + 2), key=lambda m: (-(-size // m) * (m + taps - 1), m))


class _Strips:
    """Results cut into strips of m rows, and strips into blocks that fit the cache.

    Places lie in groups of g side by side, which share one window of KW + g − 1 pixels and one row
    of g·O results: BLAS is slow on rows of few numbers, and g·O is 32 or more.
    """

    def __init__(self, problem: Problem, threads: int) -> None:
        n, self.oh, self.ow, self.o = problem.results
        self.kh, self.kw, self.c, _ = problem.filters
        self.h, self.origin = problem.images[1], problem.origin
        self.m = fewest_products(self.oh, self.kh, _MOST)
        self.n = self.m + self.kh - 1
        self.step = (self.m, 1)
        self.to_products, self.to_filter, self.to_results = matrices(self.m, self.kh)
        self.g = max(1, min(4, self.ow, _WIDE // self.o))
        self.reach = self.kw + self.g - 1
        # Whole groups in each row, so that no window of a result runs on into the next row.
        self.width = -(-(-(-self.ow // self.g) * self.g + self.kw - 1) // self.g) * self.g
        cost = self.width * ((self.m + self.n) * self.c + self.n * self.o)
        self.count = -(-self.oh // self.m)
        self.blocks: list[Block] = blocks(n, self.count, cost, _BUDGET, threads)
        self.total = (self.n, self.reach * self.c, self.g * self.o)

    def filters(self, w: Array) -> Array:
        """G g, for each of the places of a group: n (KW + g − 1)·C g·O."""
        return repeat(np.matmul(self.to_filter, w.reshape(self.kh, -1)), self.kw, self.c, self.g)

    def weight(self, total: Array) -> Array:
        """Gᵀ Σ (Bᵀ d) ⊙ (A y)."""
        return np.asarray(np.matmul(self.to_filter.T, gather(total, self.kw, self.c, self.g)))

    def forward(self, x: Array, block: Block, filters: Array, b: Array | None, y: Array,
                squares: Squares) -> None:
        """Write the results of a block."""
        with workspace(np.float32, *self._space(block)) as (padded, pixels, results):
            self._transform_pixels(x, block, padded, pixels, squares)
            for windows, places in self._residues(pixels, results):
                multiply(windows, filters, places)
            if b is not None:
                # The second point is 1: its product reaches every row with the same weight.
                # (All places are written, also those that are cropped.)
                flat = results.reshape(self.n, -1, self.o)
                flat[1] += b / self.to_results[0, 1]
            for rows, products in self._pairs(y, results, block):
                np.matmul(self.to_results[:rows.shape[2]], products, out=rows)

    def add_products(self, x: Array, y: Array, block: Block, total: Array, of_x: Squares,
                     of_y: Squares) -> None:
        """Add (Bᵀ d) ⊙ (A y) of a block."""
        with workspace(np.float32, *self._space(block), total.shape) as (
                padded, pixels, results, products):
            self._transform_pixels(x, block, padded, pixels, of_x)
            images, first, last = block
            of_y.look(images, self.m * first, self.m * last)
            results[..., self.ow * self.o:] = 0             # windows run over the right edge
            for rows, out in self._pairs(y, results, block):
                np.matmul(self.to_results.T[:, :rows.shape[2]], rows, out=out)
            for windows, places in self._residues(pixels, results):
                np.matmul(windows.transpose(0, 2, 1), places, out=products)
                np.add(total, products, out=total)

    def _space(self, block: Block) -> tuple[Shape, ...]:
        """Of the padded images, the transformed pixels and the transformed results."""
        images, first, last = block
        count, strips = images.stop - images.start, last - first
        places = count * strips * self.width
        return ((count, self.m * strips + self.kh - 1, self.width, self.c),
                (self.n, (places + self.kw - 1) * self.c),      # the last window runs on
                (self.n, count, strips, self.width * self.o))

    def _transform_pixels(self, x: Array, block: Block, padded: Array, out: Array,
                          squares: Squares) -> None:
        """Bᵀ d: n N·S·W·C, with zeros behind."""
        images, first, last = block
        top = self.m * first - self.origin[0]
        squares.look(images, top, top + padded.shape[1])
        place(padded, x[images], top, -self.origin[1])
        image, row, _, item = padded.strides
        seen = view(padded, (len(padded), last - first, self.n, self.width * self.c),
                    (image, self.m * row, row, item))           # strips overlap by KH − 1 rows
        used = out.shape[1] - (self.kw - 1) * self.c
        out[:, used:] = 0
        target = out[:, :used].reshape(self.n, len(padded), last - first, -1)
        np.matmul(self.to_products, seen, out=target.transpose(1, 2, 0, 3))

    def _residues(self, pixels: Array, results: Array) -> list[tuple[Array, Array]]:
        """Windows that do not overlap, as rows of a matrix, and the places that they fill.

        Groups r, r + apart, r + 2·apart, ... for each r < apart.  Windows run on over the right
        edge of a row into the next; what they give there is never read, or multiplied by zero.
        """
        apart = -(-self.reach // self.g)
        groups = results[0].size // (self.g * self.o)
        plane, item = pixels.strides
        step, row = self.g * self.c * item, self.g * self.o * item
        found = []
        for r in range(min(apart, groups)):
            count = -(-(groups - r) // apart)
            found.append((view(pixels, (self.n, count, self.reach * self.c),
                               (plane, apart * step, item), r * step),
                          view(results, (self.n, count, self.g * self.o),
                               (results.strides[0], apart * row, item), r * row)))
        return found

    def _pairs(self, y: Array, products: Array, block: Block) -> list[tuple[Array, Array]]:
        """Rows of results and products that belong together: N S m OW·O and N S n OW·O."""
        images, first, last = block
        part = y[images, self.m * first:self.m * last]
        products = products[..., :self.ow * self.o].transpose(1, 2, 0, 3)
        whole = part.shape[1] // self.m
        count, rest = len(part), part.shape[1] - whole * self.m
        pairs = []
        if whole:
            pairs.append((part[:, :whole * self.m].reshape(count, whole, self.m, -1),
                          products[:, :whole]))
        if rest:                        # the last strip of an image may have fewer rows
            pairs.append((part[:, whole * self.m:].reshape(count, 1, rest, -1),
                          products[:, whole:]))
        return pairs

    def squares(self, x: Array) -> Squares:
        """Those of the rows of images."""
        return Squares(x, 1)

    squares_of_results = squares

    def uneven(self, squares: Squares) -> Array | None:
        """Which strips of pixels are not to be filtered: S N, or None."""
        return uneven_rows(squares, self.origin[0], self.count, self.m, self.n, self.kh,
                           _seen(self.kh, self.origin[0], self.h, self.oh))

    def uneven_results(self, squares: Squares) -> Array | None:
        """The same for results."""
        return uneven_rows(squares, 0, self.count, self.m, self.m, self.m, self.m)


def _seen(taps: int, before: int, size: int, results: int) -> int:
    """How many pixels of an axis each window sees at least."""
    return taps - max(before, results + taps - 1 - before - size)


def _flat(array: Array, *shape: int) -> Array:
    """The beginning of a buffer, in another shape."""
    return array.reshape(-1)[:math.prod(shape)].reshape(shape)


class _Tiles:
    """Results cut into tiles, and tiles into blocks that fit the cache."""

    def __init__(self, problem: Problem, threads: int, most: int) -> None:
        n, self.oh, self.ow, self.o = problem.results
        self.kernel_size, self.c = problem.filters[:2], problem.filters[2]
        self.image, self.origin = problem.images[1:3], problem.origin
        kh, kw = self.kernel_size
        self.mh, self.mw = self.step = min(
            itertools.product(range(1, _MOST_TILE - kh + 2), range(1, _MOST_TILE - kw + 2)),
            key=lambda m: ((m[0] + kh - 1) * (m[1] + kw - 1) * (
                n * -(-self.oh // m[0]) * -(-self.ow // m[1]) + _FILTER), m))
        self.nh, self.nw = self.mh + kh - 1, self.mw + kw - 1
        self.pixels_h, self.filter_h, self.results_h = matrices(self.mh, kh)
        self.pixels_w, self.filter_w, self.results_w = matrices(self.mw, kw)
        self.across, self.down = -(-self.ow // self.mw), -(-self.oh // self.mh)
        self.width = self.across * self.mw + kw - 1
        self.blocks = self._blocks(n, threads, most)
        self.total = (self.nw * self.nh, self.c, self.o)

    def _blocks(self, n: int, threads: int, most: int) -> list[Block]:
        wanted = max(-(-_RUN // min(self.c, self.o)), most // (self.down * self.across))
        groups = max(1, -(-n // wanted))
        groups = min(n, -(-groups // threads) * threads)
        rows = max(1, most // (self.across * max(1, -(-n // max(1, groups)))))
        pieces = max(-(-self.down // rows), min(self.down, -(-threads // max(1, n))))
        images = [n * i // max(1, groups) for i in range(groups + 1)]
        strips = [self.down * i // pieces for i in range(pieces + 1)]
        return [(slice(a, b), first, last) for a, b in zip(images, images[1:], strict=False)
                for first, last in zip(strips, strips[1:], strict=False)]

    def filters(self, w: Array) -> Array:
        """G g Gᵀ: NW·NH C O."""
        kh, kw = self.kernel_size
        taps, out = w.reshape(kh, kw, -1), empty((self.nw, self.nh, self.c * self.o), np.float32)

        def work(low: int, high: int) -> None:
            for first in range(low, high, _COLUMNS):
                part = slice(first, min(first + _COLUMNS, high))
                with workspace(np.float32, (self.nh, kw, part.stop - first)) as (half,):
                    for v in range(kw):
                        np.matmul(self.filter_h, taps[:, v, part], out=half[:, v])
                    np.matmul(self.filter_w, half, out=out[:, :, part].transpose(1, 0, 2))

        parallel(self.c * self.o, work, least=_COLUMNS, products=False)
        return out.reshape(-1, self.c, self.o)

    def weight(self, total: Array) -> Array:
        """Gᵀ [Σ (Bᵀ d B) ⊙ (A y Aᵀ)] G: KH KW C·O."""
        half = np.matmul(self.filter_w.T, total.reshape(self.nw, -1))       # KW NH·C·O
        w = np.matmul(self.filter_h.T, half.reshape(self.kernel_size[1], self.nh, -1))
        return np.ascontiguousarray(w.transpose(1, 0, 2))

    def forward(self, x: Array, block: Block, filters: Array, b: Array | None, y: Array,
                squares: Squares) -> None:
        """Write the results of a block."""
        size = (math.prod(self._buffer(block, max(self.c, self.o))),)
        with workspace(np.float32, size, size) as (one, other):
            pixels = self._transform_pixels(x, block, other, one, squares)
            products = _flat(other, *self._buffer(block, self.o))
            multiply(pixels, filters, products)
            if b is not None:
                # Points (1, 1): this product reaches every result with the same weight.
                products[self.nh + 1] += b / (self.results_h[0, 1] * self.results_w[0, 1])
            self._write(products, block, one, y)

    def add_products(self, x: Array, y: Array, block: Block, total: Array, of_x: Squares,
                     of_y: Squares) -> None:
        """Add (Bᵀ d B) ⊙ (A y Aᵀ) of a block."""
        size = (math.prod(self._buffer(block, max(self.c, self.o))),)
        with workspace(np.float32, size, self._buffer(block, self.c), self._buffer(block, self.o),
                      total.shape) as (spare, one, other, products):
            pixels = self._transform_pixels(x, block, spare, one, of_x)
            results = self._transform_results(y, block, spare, other, of_y)
            np.matmul(pixels.transpose(0, 2, 1), results, out=products)
            np.add(total, products, out=total)

    def _sizes(self, block: Block) -> tuple[int, int, int]:
        """Images, rows of tiles, and tiles of a block."""
        images, first, last = block
        count = images.stop - images.start
        return count, last - first, count * (last - first) * self.across

    def _buffer(self, block: Block, channels: int) -> tuple[int, int, int]:
        """Of all products of a block; large enough for every step on the way to them."""
        return self.nh * self.nw, self._sizes(block)[2], channels

    def _transform_pixels(self, x: Array, block: Block, spare: Array, out: Array,
                          squares: Squares) -> Array:
        """Bᵀ d B: NH·NW T C, in ``out``."""
        (images, first, _), (count, rows, tiles) = block, self._sizes(block)
        run = count * self.c
        padded = _flat(out, self.mh * rows + self.nh - self.mh, self.width, count, self.c)
        top = self.mh * first - self.origin[0]
        squares.look(images, top, top + len(padded))
        place(padded.transpose(2, 0, 1, 3), x[images], top, -self.origin[1])
        row, item = padded.strides[0], padded.itemsize
        half = _flat(spare, self.nh, rows, self.width, run)
        np.matmul(self.pixels_h,
                  view(padded, (rows, self.nh, self.width * run), (self.mh * row, row, item)),
                  out=half.reshape(self.nh, rows, -1).transpose(1, 0, 2))
        high, low, column, _ = half.strides
        whole = _flat(out, self.nw, self.nh, rows, self.across, run)
        np.matmul(self.pixels_w,
                  view(half, (self.nh, rows, self.across, self.nw, run),
                       (high, low, self.mw * column, column, item)),
                  out=whole.transpose(1, 2, 3, 0, 4))
        return whole.reshape(self.nw * self.nh, tiles, self.c)

    def _transform_results(self, y: Array, block: Block, spare: Array, out: Array,
                           squares: Squares) -> Array:
        """A y Aᵀ: NH·NW T O, in ``out``."""
        (images, first, last), (count, rows, tiles) = block, self._sizes(block)
        run = count * self.o
        squares.look(images, self.mh * first, self.mh * last)
        padded = _flat(out, rows * self.mh, self.across * self.mw, count, self.o)
        place(padded.transpose(2, 0, 1, 3), y[images], self.mh * first, 0)
        half = _flat(spare, self.nh, rows, self.across * self.mw * run)
        np.matmul(self.results_h.T, padded.reshape(rows, self.mh, -1),
                  out=half.transpose(1, 0, 2))
        whole = _flat(out, self.nw, self.nh, rows, self.across, run)
        np.matmul(self.results_w.T, half.reshape(self.nh, rows, self.across, self.mw, run),
                  out=whole.transpose(1, 2, 3, 0, 4))
        return whole.reshape(self.nw * self.nh, tiles, self.o)

    def _write(self, products: Array, block: Block, spare: Array, y: Array) -> None:
        """Aᵀ products A, cropped to the images: into ``y``."""
        (images, first, last), (count, rows, _) = block, self._sizes(block)
        run = count * self.o
        half = _flat(spare, self.nh, rows, self.across, self.mw, run)
        whole = products.reshape(self.nw, self.nh, rows, self.across, run)
        np.matmul(self.results_w, whole.transpose(1, 2, 3, 0, 4), out=half)
        results = _flat(products, rows, self.mh, self.across * self.mw * run)
        np.matmul(self.results_h, half.reshape(self.nh, rows, -1).transpose(1, 0, 2), out=results)
        part = y[images, self.mh * first:self.mh * last]
        results = results.reshape(rows * self.mh, self.across * self.mw, count, self.o)
        np.copyto(part, results.transpose(2, 0, 1, 3)[:, :part.shape[1], :self.ow])

    def squares(self, x: Array) -> Squares:
        """Those of the pixels of images."""
        return Squares(x, _pieces(x, self.kernel_size[1], _seen(
            self.kernel_size[1], self.origin[1], self.image[1], self.ow)))

    def squares_of_results(self, y: Array) -> Squares:
        """Those of the pixels of results."""
        return Squares(y, _pieces(y, self.mw, self.mw))

    def uneven(self, squares: Squares) -> Array | None:
        """Which rows of tiles of pixels are not to be filtered: S N, or None."""
        return uneven_tiles(squares, self.origin, (self.down, self.across), self.step,
                            (self.nh, self.nw), math.prod(self.kernel_size), _seen(
                                self.kernel_size[0], self.origin[0], self.image[0], self.oh))

    def uneven_results(self, squares: Squares) -> Array | None:
        """The same for results."""
        return uneven_tiles(squares, (0, 0), (self.down, self.across), self.step, self.step,
                            self.mh * self.mw, self.mh)


def _pieces(x: Array, window: int, seen: int) -> int:
    """Parts of a row: its pixels, or pairs, for half the cost, if windows see whole ones."""
    return x.shape[2] // (2 if window >= 3 and seen >= 2 and x.shape[2] % 2 == 0 else 1)


# ---- the matrices, by Toom and Cook

def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of Π (t − root), lowest first."""
    terms = [Fraction(1)]
    for root in roots:
        terms = [(terms[i - 1] if i else Fraction(0)) - root * (terms[i] if i < len(terms) else 0)
                 for i in range(len(terms) + 1)]
    return terms


@cache
def matrices(m: int, taps: int) -> tuple[Array, Array, Array]:
    """Bᵀ (n × n), G (n × taps) and Aᵀ (m × n) of F(m, taps).

    A filter and a strip are polynomials; they are multiplied by way of their values at n − 1 points
    and at infinity.  Small fractions, their opposites and reciprocals as points keep the numbers in
    the matrices small, and with them the rounding errors.
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
    for place_ in range(g):
        several[:, place_:place_ + kw, :, place_] = single
    return several.reshape(len(single), -1, g * o)


def gather(filters: Array, kw: int, c: int, g: int) -> Array:
    """The adjoint of `repeat`: n (KW + g − 1)·C·g·O -> n KW·C·O."""
    several = filters.reshape(len(filters), kw + g - 1, c, g, -1)
    single = several[:, :kw, :, 0].copy()
    for place_ in range(1, g):
        single += several[:, place_:place_ + kw, :, place_]
    return single.reshape(len(single), -1)


# ---- where filtering would let a pixel tell on results that do not see it
#
# The transforms add and subtract the pixels of a strip or tile.  What a pixel adds to a result that
# does not see it cancels, up to rounding: 1e-6 to 1e-5 of the pixel are left.  While pixels are of
# one size that is lost in the rounding of the result; of a far larger one it is an error, and of an
# infinity or NaN nothing cancels.  Sums of squares, taken on the way, find such strips.  The direct
# kernel then makes their results; a filter gradient, a sum over all strips, it makes anew.
#
# The bounds keep what is left within 5e-5 of the largest result that does not see the pixel, which
# is what the filtering is held to elsewhere.

SPREAD = 2.0**10        # square of an entry over the mean square of its strip, at most
_SPREAD_TILE = 2.0**7   # the same for the pixels of a tile, which mixes in two directions
_AT_ONCE = 1 << 17      # entries of images that stay in the cache as a whole
LARGEST = 1e34          # sum of squares whose products cannot overflow on the way


def no_warnings() -> AbstractContextManager[None]:
    """A block without warnings, of results that may be thrown away."""
    return np.errstate(over="ignore", invalid="ignore")


class Squares:
    """Sums of squares of images: each row in so many parts, N H parts.

    Small images are looked at in one go; of large ones a block at a time, while it is in the cache.
    """

    def __init__(self, x: Array, parts: int) -> None:
        self.x, self.parts, self.done = x, parts, x.size <= _AT_ONCE
        with no_warnings():
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

    with no_warnings():
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
    with no_warnings():
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


def finite_filters(w: Array) -> bool:
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
