"""Winograd's minimal filtering down the rows of an image, plain products across them.

``m`` rows of results need ``m + KH − 1`` products per place instead of ``m · KH``.  With d the
``n = m + KH − 1`` rows of pixels under a strip, g the KH rows of a filter and Y the m rows of
results,

    Y = Aᵀ [(G g) ⊙ (Bᵀ d)],

where ⊙ stands for a matrix product over columns and channels.  Only the rows are transformed, for
three reasons.  Rows lie far apart in memory, so that Bᵀ d and Aᵀ [...] are matrix products on the
image as it lies there: nothing is gathered into tiles.  One dimension keeps far more digits than
two, so m may be as large as 8.  And the KW pixels under a window lie side by side, as one row of
KW·C numbers, so that the products need no copy either: windows that start at columns r, r + KW,
r + 2·KW, ... do not overlap and are the rows of an ordinary matrix, one for each r below KW.

The adjoints use the same three matrices: the filter gradient is Gᵀ [Σ (Bᵀ d) ⊙ (A y)], and the
input gradient is a forward convolution of the padded cotangent with the filters turned by half a
circle.

float64 is declined, because whoever asks for it wants its digits; in float32 the error is about
5e-6 of the largest result.

References
----------
Winograd, *Arithmetic Complexity of Computations*, SIAM 1980; Lavin & Gray, *Fast Algorithms for
Convolutional Neural Networks*, arXiv:1509.09308; Barabasz et al., *Error Analysis and Improving the
Accuracy of Winograd Convolution for Deep Neural Networks*, arXiv:1803.10986 (choice of points).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinygrad_cnn import shapes
from tinygrad_cnn.kernels import tiles
from tinygrad_cnn.kernels.blocks import Array, Block, blocks, borrowed, multiply, place
from tinygrad_cnn.kernels.threads import get_num_threads, one_blas_thread, parallel
from tinygrad_cnn.kernels.toom_cook import MOST, matrices
from tinygrad_cnn.shapes import Pair, Sides

__all__ = ["conv2d", "conv2d_input", "conv2d_weight", "rows_together"]

_MANY = 64                      # channels, in and out, from which both directions are transformed
_BUDGET = 1 << 19               # entries that a block keeps at hand: 2 MB of float32


@cache
def rows_together(rows: int, taps: int) -> int:
    """How many rows of results to make together: fewest products, then the smallest strip."""
    return min(range(1, MOST - taps + 2), key=lambda m: (-(-rows // m) * (m + taps - 1), m))


def _served(x: Array, y: Array, kernel_size: Sequence[int], rows: int, stride: Pair,
            dilation: Pair, groups: int) -> bool:
    return (2 <= kernel_size[0] <= 7 and rows > 1 and stride == (1, 1) and dilation == (1, 1)
            and groups == 1 and x.dtype == np.float32 and y.dtype == np.float32)


@one_blas_thread()
def conv2d(x: Array, w: Array, b: Array | None = None, *, stride: Pair, padding: Sides,
           dilation: Pair, groups: int) -> Any:
    """N H W C, KH KW C O, O -> N OH OW O."""
    out = shapes.conv2d(x.shape, w.shape, stride=stride, padding=padding, dilation=dilation,
                        groups=groups)
    if not _served(x, w, w.shape, out[1], stride, dilation, groups):
        return NotImplemented
    return _correlate(x, w, b, out, padding)


@one_blas_thread()
def conv2d_input(y: Array, w: Array, *, image_size: Pair, stride: Pair, padding: Sides,
                 dilation: Pair, groups: int) -> Any:
    """N OH OW O, KH KW C O -> N H W C."""
    if not _served(y, w, w.shape, image_size[0], stride, dilation, groups):
        return NotImplemented
    kh, kw, c, _ = w.shape
    turned = np.ascontiguousarray(w[::-1, ::-1].transpose(0, 1, 3, 2))      # KH KW O C
    (top, bottom), (left, right) = padding
    return _correlate(y, turned, None, (len(y), *image_size, c),
                      ((kh - 1 - top, kh - 1 - bottom), (kw - 1 - left, kw - 1 - right)))


@one_blas_thread()
def conv2d_weight(x: Array, y: Array, *, kernel_size: Pair, stride: Pair, padding: Sides,
                  dilation: Pair, groups: int) -> Any:
    """N H W C, N OH OW O -> KH KW C O."""
    if not _served(x, y, kernel_size, y.shape[1], stride, dilation, groups):
        return NotImplemented
    c, o = x.shape[3], y.shape[3]
    if _tiled(c, o, y.shape[1:3], kernel_size):
        return tiles.correlate_weight(x, y, kernel_size, padding)
    strips = _Strips(y.shape, kernel_size, c)

    def work(low: int, high: int) -> Array:
        total = np.zeros((strips.n, strips.kw * c, o), np.float32)
        for block in strips.blocks[low:high]:
            with borrowed(np.float32, *strips.shapes(block), total.shape) as (
                    padded, pixels, results, products):
                strips.transform_pixels(x, block, padding, padded, pixels)
                strips.transform_results(y, block, results)
                for windows, places in strips.residues(pixels, results):
                    np.matmul(windows.transpose(0, 2, 1), places, out=products)
                    np.add(total, products, out=total)
        return total

    total: Array = sum(parallel(len(strips.blocks), work))      # n KW·C O
    w: Array = np.matmul(matrices(strips.m, strips.kh)[1].T, total.reshape(strips.n, -1))
    return w.reshape(*kernel_size, c, o)


def _tiled(c: int, o: int, size: Sequence[int], kernel_size: Pair) -> bool:
    """Does it pay to save products in both directions?"""
    return min(c, o) >= _MANY and min(size) >= 4 and min(kernel_size) >= 2


def _correlate(x: Array, w: Array, b: Array | None, out: Sequence[int], padding: Sides) -> Array:
    """Forward convolution; negative padding crops the image."""
    kh, kw, c, o = w.shape
    if _tiled(c, o, out[1:3], (kh, kw)):
        return tiles.correlate(x, w, b, out, padding)
    strips = _Strips(out, (kh, kw), c)
    y = np.empty(out, np.float32)
    to_filter = matrices(strips.m, kh)[1]
    filters = np.matmul(to_filter, w.reshape(kh, -1)).reshape(strips.n, kw * c, o)

    def work(low: int, high: int) -> None:
        for block in strips.blocks[low:high]:
            with borrowed(np.float32, *strips.shapes(block)) as (padded, pixels, results):
                strips.transform_pixels(x, block, padding, padded, pixels)
                for windows, places in strips.residues(pixels, results):
                    multiply(windows, filters, places)
                strips.write(results, block, b, y)

    parallel(len(strips.blocks), work)
    return y


class _Strips:
    """Results cut into strips of m rows, and strips into blocks that fit the cache."""

    def __init__(self, out: Sequence[int], kernel_size: Pair, c: int) -> None:
        count, self.oh, self.ow, self.o = out
        self.c, (self.kh, self.kw) = c, kernel_size
        self.m = rows_together(self.oh, self.kh)
        self.n = self.m + self.kh - 1
        self.width = self.ow + self.kw - 1
        cost = self.width * ((self.m + self.n) * c + self.n * self.o)
        self.blocks: list[Block] = blocks(count, -(-self.oh // self.m), cost, _BUDGET,
                                          get_num_threads())

    def shapes(self, block: Block) -> tuple[tuple[int, ...], ...]:
        """Of the padded images, the transformed pixels and the transformed results."""
        images, first, last = block
        count, strips = images.stop - images.start, last - first
        return ((count, self.m * strips + self.kh - 1, self.width, self.c),
                (self.n, count, strips, self.width, self.c),
                (self.n, count, strips, self.width, self.o))

    def transform_pixels(self, x: Array, block: Block, padding: Sides, padded: Array,
                         out: Array) -> None:
        """Bᵀ d: n N S W C."""
        images, first, last = block
        place(padded, x[images], self.m * first - padding[0][0], -padding[1][0])
        image, row, _, item = padded.strides
        rows = as_strided(padded, (len(padded), last - first, self.n, self.width * self.c),
                          (image, self.m * row, row, item))     # strips overlap by KH − 1 rows
        np.matmul(matrices(self.m, self.kh)[0], rows,
                  out=out.reshape(*out.shape[:3], -1).transpose(1, 2, 0, 3))

    def residues(self, pixels: Array, results: Array) -> list[tuple[Array, Array]]:
        """For each r < KW, the windows that start at r, r + KW, ... and the places they fill.

        Windows run on over the right edge of a row into the next; what they give there is never
        read, or multiplied by zero.
        """
        found = []
        flat = pixels.reshape(self.n, -1)
        places = results.reshape(self.n, -1, self.o)
        for r in range(self.kw):
            count = (places.shape[1] - r) // self.kw
            windows = flat[:, r * self.c:(r + count * self.kw) * self.c]
            if count:
                found.append((windows.reshape(self.n, count, self.kw * self.c),
                              places[:, r:r + count * self.kw:self.kw]))
        return found

    def _pairs(self, y: Array, products: Array, block: Block) -> list[tuple[Array, Array]]:
        """Rows of results and products that belong together: N S m OW·O and N S n OW·O."""
        images, first, last = block
        part = y[images, self.m * first:self.m * last]
        products = products.reshape(*products.shape[:3], -1)[..., :self.ow * self.o]
        products = products.transpose(1, 2, 0, 3)
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

    def transform_results(self, y: Array, block: Block, out: Array) -> None:
        """A y: n N S W O, zero where windows run over the right edge."""
        out[:, :, :, self.ow:] = 0
        from_results = matrices(self.m, self.kh)[2].T
        for rows, products in self._pairs(y, out, block):
            np.matmul(from_results[:, :rows.shape[2]], rows, out=products)

    def write(self, products: Array, block: Block, b: Array | None, y: Array) -> None:
        """Aᵀ products + b, into y."""
        to_results = matrices(self.m, self.kh)[2]
        if b is not None:
            # The second point is 1: its product reaches every row with the same weight.
            products[1, :, :, :self.ow] += b / to_results[0, 1]
        for rows, parts in self._pairs(y, products, block):
            np.matmul(to_results[:rows.shape[2]], parts, out=rows)
