"""Winograd's minimal filtering down the rows of an image, plain products across them.

``m`` rows of results need ``m + KH − 1`` products per place instead of ``m · KH``.  With d the
``n = m + KH − 1`` rows of pixels under a strip, g the KH rows of a filter and Y the m rows of
results,

    Y = Aᵀ [(G g) ⊙ (Bᵀ d)],

where ⊙ stands for a matrix product over columns and channels.  Only the rows are transformed, for
three reasons.  Rows lie far apart in memory, so that Bᵀ d and Aᵀ [...] are matrix products on the
image as it lies there: nothing is gathered into tiles.  One dimension keeps far more digits than
two, so m may be as large as 8.  And the KW pixels under a window lie side by side, as one row of
KW·C numbers, so that the products need no copy either: every KW-th window is a row of an ordinary
matrix, and there are KW such matrices.

The adjoints use the same three matrices: the filter gradient is Gᵀ [Σ (Bᵀ d) ⊙ (A y)], and the
input gradient is a forward convolution of the padded cotangent with the filters turned by half a
circle.

float64 is declined, because whoever asks for it wants its digits; in float32 the error is about
5e-6 of the largest result.  Strips with a pixel that is not finite, or far above the rest, are
computed directly (see ``outliers``), so that it tells only on results that see it.

References
----------
Winograd, *Arithmetic Complexity of Computations*, SIAM 1980; Lavin & Gray, *Fast Algorithms for
Convolutional Neural Networks*, arXiv:1509.09308; Barabasz et al., *Error Analysis and Improving the
Accuracy of Winograd Convolution for Deep Neural Networks*, arXiv:1803.10986 (choice of points).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from tinygrad_cnn import shapes
from tinygrad_cnn.kernels import outliers, tiles
from tinygrad_cnn.kernels.blocks import (
    Array,
    Block,
    blocks,
    borrowed,
    multiply,
    place,
    view,
)
from tinygrad_cnn.kernels.memory import allocate
from tinygrad_cnn.kernels.outliers import Squares
from tinygrad_cnn.kernels.threads import get_num_threads, one_blas_thread, parallel
from tinygrad_cnn.kernels.toom_cook import MOST, gather, matrices, repeat
from tinygrad_cnn.shapes import Pair, Sides

__all__ = ["conv2d", "conv2d_input", "conv2d_weight", "rows_together"]

_MANY = 64                      # channels, in and out, from which both directions are transformed
_WIDE = 32                      # numbers in a row of results, from which BLAS is at full speed
_BUDGET = 1 << 19               # entries that a block keeps at hand: 2 MB of float32


@cache
def rows_together(rows: int, taps: int) -> int:
    """How many rows of results to make together: fewest products, then the smallest strip."""
    return min(range(1, MOST - taps + 2), key=lambda m: (-(-rows // m) * (m + taps - 1), m))


@cache
def places_together(columns: int, o: int) -> int:
    """How many results of a row to make with one window: enough for 32 numbers, at most 4."""
    return max(1, min(4, columns, _WIDE // o))


def _served(x: Array, y: Array, kernel_size: Sequence[int], rows: int, stride: Pair,
            dilation: Pair, groups: int) -> bool:
    return (2 <= kernel_size[0] <= 7 and rows > 1 and stride == (1, 1) and dilation == (1, 1)
            and groups == 1 and x.dtype == np.float32 and y.dtype == np.float32)


@one_blas_thread
def conv2d(x: Array, w: Array, b: Array | None = None, *, stride: Pair, padding: Sides,
           dilation: Pair, groups: int) -> Any:
    """N H W C, KH KW C O, O -> N OH OW O."""
    out = shapes.conv2d(x.shape, w.shape, stride=stride, padding=padding, dilation=dilation,
                        groups=groups)
    if not _served(x, w, w.shape, out[1], stride, dilation, groups) or not outliers.tame(w):
        return NotImplemented
    return _correlate(x, w, b, out, padding)


@one_blas_thread
def conv2d_input(y: Array, w: Array, *, image_size: Pair, stride: Pair, padding: Sides,
                 dilation: Pair, groups: int) -> Any:
    """N OH OW O, KH KW C O -> N H W C."""
    if (not _served(y, w, w.shape, image_size[0], stride, dilation, groups)
            or not outliers.tame(w)):
        return NotImplemented
    kh, kw, c, _ = w.shape
    turned = np.ascontiguousarray(w[::-1, ::-1].transpose(0, 1, 3, 2))      # KH KW O C
    (top, bottom), (left, right) = padding
    return _correlate(y, turned, None, (len(y), *image_size, c),
                      ((kh - 1 - top, kh - 1 - bottom), (kw - 1 - left, kw - 1 - right)))


@one_blas_thread
def conv2d_weight(x: Array, y: Array, *, kernel_size: Pair, stride: Pair, padding: Sides,
                  dilation: Pair, groups: int) -> Any:
    """N H W C, N OH OW O -> KH KW C O."""
    if not _served(x, y, kernel_size, y.shape[1], stride, dilation, groups):
        return NotImplemented
    c, o = x.shape[3], y.shape[3]
    make = tiles.correlate_weight if _tiled(c, o, y.shape[1:3], kernel_size) else _correlate_weight
    return make(x, y, kernel_size, padding)


def _correlate_weight(x: Array, y: Array, kernel_size: Pair, padding: Sides) -> Any:
    c, o = x.shape[3], y.shape[3]
    strips = _strips(y.shape, kernel_size, c, get_num_threads())
    x_squares, y_squares = Squares(x, 1), Squares(y, 1)

    def work(low: int, high: int) -> Array:
        total = np.zeros((strips.n, strips.reach * c, strips.g * o), np.float32)
        for block in strips.blocks[low:high]:
            with borrowed(np.float32, *strips.shapes(block), total.shape) as (
                    padded, pixels, results, products):
                strips.transform_pixels(x, block, padding, padded, pixels, x_squares)
                strips.transform_results(y, block, results, y_squares)
                for windows, places in strips.residues(pixels, results):
                    np.matmul(windows.transpose(0, 2, 1), places, out=products)
                    np.add(total, products, out=total)
        return total

    with outliers.silent():
        parts = np.asarray(sum(parallel(len(strips.blocks), work)))
        if strips.uneven(x_squares, padding[0]) is not None or outliers.uneven_rows(
                y_squares, 0, strips.count, strips.m, strips.m, strips.m,
                strips.m) is not None:
            return NotImplemented
    total: Array = gather(parts, kernel_size[1], c, strips.g)               # n KW·C·O
    w: Array = np.matmul(matrices(strips.m, strips.kh)[1].T, total)
    return w.reshape(*kernel_size, c, o)


def _tiled(c: int, o: int, size: Sequence[int], kernel_size: Pair) -> bool:
    """Does it pay to save products in both directions?"""
    return min(c, o) >= _MANY and min(size) >= 4 and min(kernel_size) >= 2


def _correlate(x: Array, w: Array, b: Array | None, out: Sequence[int], padding: Sides) -> Array:
    """Forward convolution; negative padding crops the image."""
    kh, kw, c, o = w.shape
    if _tiled(c, o, out[1:3], (kh, kw)):
        return tiles.correlate(x, w, b, out, padding)
    strips = _strips(tuple(out), (kh, kw), c, get_num_threads())
    y = allocate("conv2d", tuple(out), np.float32)
    to_filter = matrices(strips.m, kh)[1]
    filters = repeat(np.matmul(to_filter, w.reshape(kh, -1)), kw, c, strips.g)
    squares = Squares(x, 1)

    def work(low: int, high: int) -> None:
        for block in strips.blocks[low:high]:
            with borrowed(np.float32, *strips.shapes(block)) as (padded, pixels, results):
                strips.transform_pixels(x, block, padding, padded, pixels, squares)
                for windows, places in strips.residues(pixels, results):
                    multiply(windows, filters, places)
                strips.write(results, block, b, y)

    with outliers.silent():
        parallel(len(strips.blocks), work)
    outliers.correlate(strips.uneven(squares, padding[0]), strips.m, x, w, b, y, padding)
    return y


class _Strips:
    """Results cut into strips of m rows, and strips into blocks that fit the cache.

    Places lie in groups of g side by side, which share one window of KW + g − 1 pixels and one row
    of g·O results: BLAS is slow on rows of few numbers, and g·O is 32 or more.
    """

    def __init__(self, out: Sequence[int], kernel_size: Pair, c: int, threads: int) -> None:
        self.images, self.oh, self.ow, self.o = out
        self.c, (self.kh, self.kw) = c, kernel_size
        self.m = rows_together(self.oh, self.kh)
        self.n = self.m + self.kh - 1
        self.g = places_together(self.ow, self.o)
        self.reach = self.kw + self.g - 1
        # Whole groups in each row, so that no window of a result runs on into the next row.
        self.width = -(-(-(-self.ow // self.g) * self.g + self.kw - 1) // self.g) * self.g
        cost = self.width * ((self.m + self.n) * c + self.n * self.o)
        self.count = -(-self.oh // self.m)
        self.blocks: list[Block] = blocks(self.images, self.count, cost, _BUDGET, threads)

    def shapes(self, block: Block) -> tuple[tuple[int, ...], ...]:
        """Of the padded images, the transformed pixels and the transformed results."""
        images, first, last = block
        count, strips = images.stop - images.start, last - first
        places = count * strips * self.width
        return ((count, self.m * strips + self.kh - 1, self.width, self.c),
                (self.n, (places + self.kw - 1) * self.c),      # the last window runs on
                (self.n, count, strips, self.width * self.o))

    def transform_pixels(self, x: Array, block: Block, padding: Sides, padded: Array,
                         out: Array, squares: Squares) -> None:
        """Bᵀ d: n N·S·W·C, with zeros behind; and the sums of squares of the padded rows."""
        images, first, last = block
        top = padding[0][0]
        squares.look(images, self.m * first - top, self.m * last + self.kh - 1 - top)
        place(padded, x[images], self.m * first - top, -padding[1][0])
        image, row, _, item = padded.strides
        seen = view(padded, (len(padded), last - first, self.n, self.width * self.c),
                    (image, self.m * row, row, item))           # strips overlap by KH − 1 rows
        used = out.shape[1] - (self.kw - 1) * self.c
        out[:, used:] = 0
        target = out[:, :used].reshape(self.n, len(padded), last - first, -1)
        np.matmul(matrices(self.m, self.kh)[0], seen, out=target.transpose(1, 2, 0, 3))

    def residues(self, pixels: Array, results: Array) -> list[tuple[Array, Array]]:
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

    def uneven(self, squares: Squares, around: Pair) -> Array | None:
        """Which strips of pixels are not to be filtered: S N, or None."""
        return outliers.uneven_rows(squares, around[0], self.count, self.m, self.n, self.kh,
                                    self.kh - max(around))

    def transform_results(self, y: Array, block: Block, out: Array, squares: Squares) -> None:
        """A y: n N S W O, zero where windows run over the right edge; and the sums of squares."""
        out[..., self.ow * self.o:] = 0
        from_results = matrices(self.m, self.kh)[2].T
        images, first, last = block
        squares.look(images, self.m * first, self.m * last)
        for results, products in self._pairs(y, out, block):
            np.matmul(from_results[:, :results.shape[2]], results, out=products)

    def write(self, products: Array, block: Block, b: Array | None, y: Array) -> None:
        """Aᵀ products + b, into y."""
        to_results = matrices(self.m, self.kh)[2]
        if b is not None:
            # The second point is 1: its product reaches every row with the same weight.
            # (All places are written, also those that are cropped.)
            flat = products.reshape(self.n, -1, self.o)
            flat[1] += b / to_results[0, 1]
        for rows, parts in self._pairs(y, products, block):
            np.matmul(to_results[:rows.shape[2]], parts, out=rows)


@lru_cache(maxsize=256)
def _strips(out: tuple[int, ...], kernel_size: Pair, c: int, threads: int) -> _Strips:
    """The strips of a layer, which are the same in every step of a training."""
    return _Strips(out, kernel_size, c, threads)
