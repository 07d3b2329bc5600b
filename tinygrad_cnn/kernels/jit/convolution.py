"""conv2d and its two adjoints in compiled code: direct, or Winograd's filtering down the rows.

`tile` does the arithmetic and ``loops`` goes through the images; here shapes become numbers of
entries, work space is borrowed, and bands of rows are handed to the threads.

Winograd's filtering (see ``kernels.winograd``) is for float32, stride 1 and filters of 2 to 5 rows.
It mixes the rows of a strip; where one holds an infinity, a NaN, or a pixel far above the rest, the
direct kernel takes over (see ``kernels.outliers``).
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from tinygrad_cnn import shapes
from tinygrad_cnn.kernels.blocks import Array, borrowed
from tinygrad_cnn.kernels.jit import loops
from tinygrad_cnn.kernels.jit.tile import lanes, tile_rows, tile_vectors, wide_vectors
from tinygrad_cnn.kernels.memory import aligned, allocate
from tinygrad_cnn.kernels.outliers import regions, tame
from tinygrad_cnn.kernels.threads import get_num_threads, parallel
from tinygrad_cnn.kernels.toom_cook import gather, matrices, repeat
from tinygrad_cnn.shapes import Pair, Sides

__all__ = ["conv2d", "conv2d_input", "conv2d_weight"]

_FRAME = 1 << 16            # entries of a frame: 256 KB of float32
_SPACE = 1 << 17            # entries of the transforms of strips: 512 KB
_FEW = 1 << 13              # entries of filters that stay in the first-level cache
_MOST = 8                   # products of a strip
_STRIP = 4                  # rows of a strip: more cost digits and save little


def _served(x: Array, w: tuple[int, ...], dilation: Pair, groups: int, dtype: Any) -> bool:
    return (groups == 1 and (dilation[1] == 1 or w[1] == 1) and x.dtype == dtype
            and dtype in (np.float32, np.float64) and x.size > 0 and math.prod(w) > 0)


@cache
def _strip(rows: int, taps: int) -> int:
    """Rows of results that are made together: fewest products."""
    most = min(_STRIP, rows, _MOST - taps + 1)
    return min(range(1, most + 1), key=lambda m: (-(-rows // m) * (m + taps - 1), m))


def conv2d(x: Array, w: Array, b: Array | None = None, *, stride: Pair, padding: Sides,
           dilation: Pair, groups: int) -> Any:
    """N H W C, KH KW C O, O -> N OH OW O."""
    if not _served(x, w.shape, dilation, groups, w.dtype):
        return NotImplemented
    out = shapes.conv2d(x.shape, w.shape, stride=stride, padding=padding, dilation=dilation,
                        groups=groups)
    y = allocate("conv2d", out, x.dtype)
    origin = (padding[0][0], padding[1][0])
    _forward(np.ascontiguousarray(x), np.ascontiguousarray(w), b, y, stride, origin, dilation)
    return y


def conv2d_input(y: Array, w: Array, *, image_size: Pair, stride: Pair, padding: Sides,
                 dilation: Pair, groups: int) -> Any:
    """N OH OW O, KH KW C O -> N H W C."""
    if not _served(y, w.shape, dilation, groups, w.dtype):
        return NotImplemented
    kh, kw, c, _ = w.shape
    x = allocate("conv2d_input", (len(y), *image_size, c), y.dtype)
    y = np.ascontiguousarray(y)
    turned = w[::-1, ::-1].transpose(0, 1, 3, 2)                            # KH KW O C
    for rows in shapes.phases(image_size[0], kh, stride[0], padding[0][0], dilation[0]):
        for columns in shapes.phases(image_size[1], kw, stride[1], padding[1][0], dilation[1]):
            pixels = x[:, rows.pixels, columns.pixels]
            filters = np.ascontiguousarray(turned[rows.taps, columns.taps])
            if not pixels.size:
                continue
            if filters.size:
                _forward(y, filters, None, pixels, (1, 1), (rows.padding, columns.padding),
                         (rows.dilation, columns.dilation))
            else:
                pixels[...] = 0                                 # no window reaches these pixels
    return x


def _forward(x: Array, w: Array, b: Array | None, y: Array, stride: Pair, origin: Pair,
             dilation: Pair) -> None:
    """Convolution into ``y``, which may be every so many pixels of an image."""
    if _in_strips(x, w.shape[0], y, stride, dilation) and y.flags.c_contiguous and tame(w):
        m, bad = _forward_strips(x, w, b, y, origin)
        for images, first, last in regions(bad.T, m, y.shape[1]) if bad.any() else ():
            _forward_direct(x[images], w, b, y[images, first:last], stride,
                            (origin[0] - first, origin[1]), dilation)
    else:
        _forward_direct(x, w, b, y, stride, origin, dilation)


def _in_strips(x: Array, taps: int, y: Array, stride: Pair, dilation: Pair) -> bool:
    """Whether Winograd's filtering serves, and saves anything."""
    return (x.dtype == np.float32 and stride == dilation == (1, 1) and 2 <= taps <= 5
            and _strip(y.shape[1], taps) >= 2)


def _forward_direct(x: Array, w: Array, b: Array | None, y: Array, stride: Pair, origin: Pair,
                    dilation: Pair) -> None:
    n, oh, ow, o = y.shape
    kh, kw, c, _ = w.shape
    vectors = tile_vectors(o, x.itemsize)
    width = lanes(x.itemsize)
    run = loops.correlate(tile_rows(ow, vectors), vectors, width, o % width != 0)
    columns = (ow - 1) * stride[1] + kw
    bands, band = _bands(n, oh, columns * c * stride[0], _FRAME)
    bias = np.zeros(o, x.dtype) if b is None else np.ascontiguousarray(b, x.dtype)
    filters = _aligned(w)
    flat, begin = _flat(y)
    places = (begin, *(s // y.itemsize for s in y.strides[:3]))
    size = ((band - 1) * stride[0] + (kh - 1) * dilation[0] + 1) * columns * c

    def work(low: int, high: int) -> None:
        with borrowed(x.dtype, (size,)) as (space,):
            run(x.reshape(-1), filters, bias, flat, space, low, high, bands, band,
                x.shape[1:], y.shape[1:], (kh, kw * c), (*stride, dilation[0]), origin, columns,
                places)

    parallel(n * bands, work, products=False)


def _aligned(w: Array) -> Array:
    """Flat, and each vector in one line of the cache."""
    out = aligned(w.size, w.dtype)
    out[...] = w.reshape(-1)
    return out


def _flat(y: Array) -> tuple[Array, int]:
    """All the memory under a view, flat, and the entry at which the view begins."""
    base = y
    while isinstance(base.base, np.ndarray) and not base.flags.c_contiguous:
        base = base.base
    start = y.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return base.reshape(-1), start // y.itemsize


def _bands(n: int, rows: int, cost: int, budget: int) -> Pair:
    """Bands of an image, and rows of a band: small enough, and enough for all threads."""
    affordable = max(1, budget // max(1, cost))
    needed = max(-(-rows // affordable), min(rows, -(-get_num_threads() // max(1, n))))
    band = -(-rows // needed)
    return -(-rows // band), band


def _group(each: int, shared: int) -> int:
    """How many strips to transform together: more where the filters, ``shared``, are larger."""
    budget = _SPACE if shared > _FEW else _SPACE // 4
    return max(1, budget // each)


def _together(ow: int, o: int) -> int:
    """How many pixels of a row to make with one window, so that their results fill a vector."""
    most = max(1, min(4, lanes(4) // o))
    while ow % most:
        most -= 1
    return most


def _forward_strips(x: Array, w: Array, b: Array | None, y: Array,
                    origin: Pair) -> tuple[int, Array]:
    """Rows of a strip, and which strips (N S) are uneven: their results are to be made directly."""
    n, oh, ow, o = y.shape
    kh, kw, c, _ = w.shape
    m = _strip(oh, kh)
    bad = np.zeros((n, -(-oh // m)), bool)
    products = m + kh - 1
    to_products, to_filter, to_results = matrices(m, kh)
    g = _together(ow, o)
    filters = _aligned(repeat(np.matmul(to_filter, w.reshape(kh, -1)), kw, c, g))
    vectors, width = tile_vectors(g * o, 4), lanes(4)
    run = loops.correlate_strips(tile_rows(ow // g, vectors), vectors, width, g * o % width != 0,
                                 m, products, wide_vectors(products), wide_vectors(m))
    columns = ow + kw - 1
    line, row = columns * c, ow * o
    group = _group(products * (line + row), filters.size)
    bias = np.zeros(row, np.float32)
    if b is not None:
        bias.reshape(ow, o)[...] = b
    zeros = np.zeros(max(line, width * 4), np.float32)

    def work(low: int, high: int) -> None:
        several = min(group, high - low)
        with borrowed(np.float32, (products * line,), (several * products * line,),
                      (max(several * products * row, width * 4),)) as (space, pixels, made):
            run(x.reshape(-1), filters, bias, zeros, y.reshape(-1), space, pixels, made,
                to_products.reshape(-1), to_results.reshape(-1), low, high, group, x.shape[1:],
                (oh, ow // g, g * o), (kh, (kw + g - 1) * c, g * c), origin, columns,
                bad.reshape(-1))

    parallel(bad.size, work, products=False)
    return m, bad


def conv2d_weight(x: Array, y: Array, *, kernel_size: Pair, stride: Pair, padding: Sides,
                  dilation: Pair, groups: int) -> Any:
    """N H W C, N OH OW O -> KH KW C O."""
    (kh, kw), c, o = kernel_size, x.shape[3], y.shape[3]
    if not _served(x, (kh, kw, c, o), dilation, groups, y.dtype) or not y.size:
        return NotImplemented
    x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
    origin = (padding[0][0], padding[1][0])
    if _in_strips(x, kh, y, stride, dilation):
        made = _weight_strips(x, y, kernel_size, origin)
        if made is not None:
            return made
    return _weight_direct(x, y, kernel_size, stride, origin, dilation)


def _weight_direct(x: Array, y: Array, kernel_size: Pair, stride: Pair, origin: Pair,
                   dilation: Pair) -> Array:
    n, oh, ow, o = y.shape
    (kh, kw), c = kernel_size, x.shape[3]
    vectors, width = tile_vectors(o, x.itemsize), lanes(x.itemsize)
    rows = tile_rows(kw * c, vectors)
    run = loops.weight(rows, vectors, width, o % width != 0)
    columns = (ow - 1) * stride[1] + kw
    bands, band = _bands(n, oh, columns * c * stride[0], _FRAME)
    lines = -(-kw * c // rows) * rows
    size = ((band - 1) * stride[0] + (kh - 1) * dilation[0] + 1) * columns * c + rows

    def work(low: int, high: int) -> Array:
        total = np.zeros(kh * lines * o, x.dtype)
        with borrowed(x.dtype, (size,)) as (space,):
            space[-rows:] = 0                           # a last tile reads on into these
            run(x.reshape(-1), y.reshape(-1), total, space, low, high, bands, band, x.shape[1:],
                y.shape[1:], (kh, kw * c), (*stride, dilation[0]), origin, columns)
        return total

    total: Array = sum(parallel(n * bands, work, products=False))
    return np.ascontiguousarray(total.reshape(kh, lines, o)[:, :kw * c]).reshape(kh, kw, c, o)


def _weight_strips(x: Array, y: Array, kernel_size: Pair, origin: Pair) -> Array | None:
    """None if a strip of pixels or results is uneven."""
    n, oh, ow, o = y.shape
    (kh, kw), c = kernel_size, x.shape[3]
    m = _strip(oh, kh)
    products = m + kh - 1
    to_products, to_filter, to_results = matrices(m, kh)
    g = _together(ow, o)
    length = (kw + g - 1) * c
    vectors, width = tile_vectors(g * o, 4), lanes(4)
    rows = tile_rows(length, vectors)
    run = loops.weight_strips(rows, vectors, width, g * o % width != 0, m, products,
                              wide_vectors(products))
    columns = ow + kw - 1
    line, row = columns * c, ow * o
    group = max(1, _SPACE // (products * (line + row)))
    lines = -(-length // rows) * rows
    zeros = np.zeros(max(line, row), np.float32)
    spread = np.ascontiguousarray(to_results.T).reshape(-1)

    def work(low: int, high: int) -> Array | None:
        total = np.zeros(products * lines * g * o, np.float32)
        several = min(group, high - low)
        with borrowed(np.float32, (products * line,), (several * products * line + rows,),
                      (several * products * row,)) as (space, pixels, results):
            pixels[-rows:] = 0                          # a last tile reads on into these
            even = run(x.reshape(-1), y.reshape(-1), total, zeros, space, pixels, results,
                       to_products.reshape(-1), spread, low, high, group, x.shape[1:],
                       (oh, ow // g, g * o), (kh, length, g * c), origin, columns)
        return total if even else None

    found = parallel(n * -(-oh // m), work, products=False)
    if any(part is None for part in found):
        return None
    total: Array = sum(part for part in found if part is not None)
    total = gather(total.reshape(products, lines, g * o)[:, :length], kw, c, g)
    w: Array = np.matmul(to_filter.T, total)
    return w.reshape(kh, kw, c, o)
