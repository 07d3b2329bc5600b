"""Winograd's minimal filtering in both directions, for layers of many channels.

With d a tile of pixels, g a filter and Y the results of a tile,

    Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A,

where ⊙ stands for a matrix product over the channels.  F(4×4, 3×3) makes 16 results of 36 products
where the direct form needs 144; the transforms cost more than those of one direction (see
winograd.py), and pay from 64 channels on.

Images of a block lie side by side, pixel for pixel: rows, columns, images, channels.  So both the
rows of a strip and the columns of a tile are long rows of numbers, and each transform is a matrix
product on them as they lie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from tinygrad_cnn.kernels import outliers
from tinygrad_cnn.kernels.blocks import Array, Block, borrowed, multiply, place, view
from tinygrad_cnn.kernels.memory import allocate
from tinygrad_cnn.kernels.outliers import Squares
from tinygrad_cnn.kernels.threads import get_num_threads, parallel
from tinygrad_cnn.kernels.toom_cook import matrices
from tinygrad_cnn.shapes import Pair, Sides

__all__ = ["correlate", "correlate_weight"]

_MOST = 8               # products of a tile along one direction: beyond, float32 loses too much
_RUN = 256              # numbers in a row of a column transform, from which BLAS is at full speed
_TILES = 64             # tiles in a block
_TILES_WEIGHT = 128     # as many as pay for adding up the block's filter gradient


@cache
def _together(size: int, taps: int) -> int:
    """How many results of one direction to make together: fewest products, then least rounding."""
    return min(range(1, _MOST - taps + 2), key=lambda m: (-(-size // m) * (m + taps - 1), m))


def _flat(array: Array, *shape: int) -> Array:
    """The beginning of a buffer, in another shape."""
    return array.reshape(-1)[:math.prod(shape)].reshape(shape)


class _Tiles:
    """Results cut into tiles, and tiles into blocks that fit the cache."""

    def __init__(self, out: Sequence[int], kernel_size: Pair, c: int, most: int) -> None:
        n, self.oh, self.ow, self.o = out
        self.c = c
        self.mh, self.mw = _together(self.oh, kernel_size[0]), _together(self.ow, kernel_size[1])
        self.nh, self.nw = self.mh + kernel_size[0] - 1, self.mw + kernel_size[1] - 1
        self.pixels_h, self.filter_h, self.results_h = matrices(self.mh, kernel_size[0])
        self.pixels_w, self.filter_w, self.results_w = matrices(self.mw, kernel_size[1])
        self.across = -(-self.ow // self.mw)
        self.width = self.across * self.mw + kernel_size[1] - 1
        self.down = -(-self.oh // self.mh)
        self.blocks = self._blocks(n, self.down, most)

    def _blocks(self, n: int, down: int, most: int) -> list[Block]:
        threads = get_num_threads()
        wanted = max(-(-_RUN // min(self.c, self.o)), most // (down * self.across))
        groups = max(1, -(-n // wanted))
        groups = min(n, -(-groups // threads) * threads)
        rows = max(1, most // (self.across * max(1, -(-n // max(1, groups)))))
        pieces = max(-(-down // rows), min(down, -(-threads // max(1, n))))
        images = [n * i // max(1, groups) for i in range(groups + 1)]
        strips = [down * i // pieces for i in range(pieces + 1)]
        return [(slice(a, b), first, last) for a, b in zip(images, images[1:], strict=False)
                for first, last in zip(strips, strips[1:], strict=False)]

    def sizes(self, block: Block) -> tuple[int, int, int]:
        """Images, rows of tiles, and tiles of a block."""
        images, first, last = block
        count = images.stop - images.start
        return count, last - first, count * (last - first) * self.across

    def buffer(self, block: Block, channels: int) -> tuple[int, int, int]:
        """Of all products of a block; large enough for every step on the way to them."""
        return self.nh * self.nw, self.sizes(block)[2], channels

    def transform_pixels(self, x: Array, block: Block, padding: Sides, spare: Array,
                         out: Array, squares: Squares) -> Array:
        """Bᵀ d B: NH·NW T C, in ``out``; and the sums of squares of the padded pixels."""
        (images, first, _), (count, rows, tiles) = block, self.sizes(block)
        run = count * self.c
        padded = _flat(out, self.mh * rows + self.nh - self.mh, self.width, count, self.c)
        top = self.mh * first - padding[0][0]
        squares.look(images, top, top + len(padded))
        place(padded.transpose(2, 0, 1, 3), x[images], top, -padding[1][0])
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

    def uneven(self, squares: Squares, padding: Sides, kernel_size: Pair) -> Array | None:
        """Which rows of tiles of pixels are not to be filtered: S N, or None."""
        return outliers.uneven_tiles(
            squares, (padding[0][0], padding[1][0]), (self.down, self.across),
            (self.mh, self.mw), (self.nh, self.nw), math.prod(kernel_size),
            kernel_size[0] - max(padding[0]))

    def transform_results(self, y: Array, block: Block, spare: Array, out: Array,
                          squares: Squares) -> Array:
        """A y Aᵀ: NH·NW T O, in ``out``; and the sums of squares of the results."""
        (images, first, last), (count, rows, tiles) = block, self.sizes(block)
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

    def write(self, products: Array, block: Block, spare: Array, y: Array) -> None:
        """Aᵀ products A, cropped to the images: into ``y``."""
        (images, first, last), (count, rows, _) = block, self.sizes(block)
        run = count * self.o
        half = _flat(spare, self.nh, rows, self.across, self.mw, run)
        whole = products.reshape(self.nw, self.nh, rows, self.across, run)
        np.matmul(self.results_w, whole.transpose(1, 2, 3, 0, 4), out=half)
        results = _flat(products, rows, self.mh, self.across * self.mw * run)
        np.matmul(self.results_h, half.reshape(self.nh, rows, -1).transpose(1, 0, 2), out=results)
        part = y[images, self.mh * first:self.mh * last]
        results = results.reshape(rows * self.mh, self.across * self.mw, count, self.o)
        np.copyto(part, results.transpose(2, 0, 1, 3)[:, :part.shape[1], :self.ow])


def _squares(x: Array, window: int, padding: Pair) -> Squares:
    """Sums of squares of pixels, or of pairs, for half the cost, if windows see whole ones."""
    pairs = window >= 3 and window - max(padding) >= 2 and x.shape[2] % 2 == 0
    return Squares(x, x.shape[2] // (2 if pairs else 1))


def correlate(x: Array, w: Array, b: Array | None, out: Sequence[int], padding: Sides) -> Array:
    """Forward convolution; negative padding crops the image."""
    kh, kw, c, o = w.shape
    cut = _Tiles(out, (kh, kw), c, _TILES)
    y = allocate("conv2d", tuple(out), np.float32)
    filters = np.matmul(cut.filter_h, w.reshape(kh, -1)).reshape(cut.nh, kw, -1)
    filters = np.matmul(cut.filter_w, filters).transpose(1, 0, 2).reshape(-1, c, o)
    squares = _squares(x, kw, padding[1])

    def work(low: int, high: int) -> None:
        for block in cut.blocks[low:high]:
            spare_size = math.prod(cut.buffer(block, max(c, o)))
            with borrowed(np.float32, (spare_size,), (spare_size,)) as (one, other):
                pixels = cut.transform_pixels(x, block, padding, other, one, squares)
                products = _flat(other, *cut.buffer(block, o))
                multiply(pixels, filters, products)
                if b is not None:
                    # Points (1, 1): this product reaches every result with the same weight.
                    products[cut.nh + 1] += b / (cut.results_h[0, 1] * cut.results_w[0, 1])
                cut.write(products, block, one, y)

    with outliers.silent():
        parallel(len(cut.blocks), work)
    bad = cut.uneven(squares, padding, (kh, kw))
    outliers.correlate(bad, cut.mh, x, w, b, y, padding)
    return y


def correlate_weight(x: Array, y: Array, kernel_size: Pair, padding: Sides) -> Any:
    """Gradient of the filters; declined where a tile of pixels or results is uneven."""
    c, o = x.shape[3], y.shape[3]
    cut = _Tiles(y.shape, kernel_size, c, _TILES_WEIGHT)
    shape = (cut.nw * cut.nh, c, o)
    x_squares, y_squares = _squares(x, kernel_size[1], padding[1]), _squares(y, cut.mw, (0, 0))

    def work(low: int, high: int) -> Array:
        total = np.zeros(shape, np.float32)
        for block in cut.blocks[low:high]:
            spare_size = math.prod(cut.buffer(block, max(c, o)))
            with borrowed(np.float32, (spare_size,), cut.buffer(block, c), cut.buffer(block, o),
                          shape) as (spare, one, other, products):
                pixels = cut.transform_pixels(x, block, padding, spare, one, x_squares)
                results = cut.transform_results(y, block, spare, other, y_squares)
                np.matmul(pixels.transpose(0, 2, 1), results, out=products)
                np.add(total, products, out=total)
        return total

    with outliers.silent():
        total: Array = sum(parallel(len(cut.blocks), work))             # NW·NH C O
    m = (cut.mh, cut.mw)
    if cut.uneven(x_squares, padding, kernel_size) is not None or outliers.uneven_tiles(
            y_squares, (0, 0), (cut.down, cut.across), m, m, math.prod(m), m[0]) is not None:
        return NotImplemented
    half = np.matmul(cut.filter_w.T, total.reshape(cut.nw, -1))         # KW NH·C·O
    half = half.reshape(kernel_size[1], cut.nh, -1)
    w = np.matmul(cut.filter_h.T, half)                                 # KW KH C·O
    return np.ascontiguousarray(w.transpose(1, 0, 2)).reshape(*kernel_size, c, o)
