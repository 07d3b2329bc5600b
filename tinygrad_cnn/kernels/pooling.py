"""Windows of images: maximum and average pooling, and their adjoints.

A maximum is taken tap by tap: for each of the KH·KW places in a window, one whole-array comparison
of a strided slice of the image with the best so far.  No window is ever copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from tinygrad_cnn import shapes
from tinygrad_cnn.kernels.threads import parallel
from tinygrad_cnn.shapes import Pair, Sides

__all__ = ["avg_pool2d", "avg_pool2d_input", "fold", "max_pool2d", "spread_winners",
           "take_winners", "windows"]

Array = NDArray[Any]
Slices = tuple[slice, ...]


def _overlap(offset: int, n: int, count: int, stride: int) -> tuple[slice, slice] | None:
    """Windows and pixels that meet where tap ``offset`` (may be < 0) falls inside 0..n."""
    first = max(0, -(offset // stride))                       # ceil(-offset / stride)
    last = min(count, (n - 1 - offset) // stride + 1)
    if first >= last:
        return None
    start = first * stride + offset
    return slice(first, last), slice(start, start + (last - first - 1) * stride + 1, stride)


def _taps(image: Pair, out: Pair, kernel_size: Pair, stride: Pair,
          padding: Sides) -> Iterator[tuple[int, int, Slices, Slices]]:
    """(u, v, windows, pixels): tap (u, v) of these windows lies on these pixels of the image."""
    for u in range(kernel_size[0]):
        down = _overlap(u - padding[0][0], image[0], out[0], stride[0])
        for v in range(kernel_size[1]):
            across = _overlap(v - padding[1][0], image[1], out[1], stride[1])
            if down is not None and across is not None:
                yield (u, v, (slice(None), down[0], across[0]), (slice(None), down[1], across[1]))


def _winner_dtype(kernel_size: Pair) -> type[np.unsignedinteger[Any]] | type[np.signedinteger[Any]]:
    return np.uint8 if kernel_size[0] * kernel_size[1] <= 256 else np.int32


def max_pool2d(x: Array, *, kernel_size: Pair, stride: Pair,
               padding: Sides) -> tuple[Array, dict[str, Array]]:
    """N H W C -> N OH OW C, and the place of each winner inside its window."""
    out = shapes.max_pool2d(x.shape, kernel_size=kernel_size, stride=stride, padding=padding)
    y = np.empty(out, x.dtype)
    winners = np.empty(out, _winner_dtype(kernel_size))
    taps = list(_taps((x.shape[1], x.shape[2]), (out[1], out[2]), kernel_size, stride, padding))

    def work(low: int, high: int) -> None:
        image, best, place = x[low:high], y[low:high], winners[low:high]
        seen = np.zeros(best.shape[:3] + (1,), bool)          # has a window met a pixel yet?
        for u, v, where, pixels in taps:
            candidate = image[pixels]
            held = best[where]
            # A later pixel wins when it is greater, or the first NaN; nothing beats a NaN.
            with np.errstate(invalid="ignore"):
                wins = (candidate > held) | ((candidate != candidate) & (held == held))
            wins |= ~seen[where]
            np.copyto(held, candidate, where=wins)
            np.copyto(place[where], u * kernel_size[1] + v, where=wins, casting="unsafe")
            seen[where] = True

    parallel(len(x), work)
    return y, {"winners": winners}


def take_winners(x: Array, *, winners: Array, kernel_size: Pair, stride: Pair,
                 padding: Sides) -> Array:
    """N H W C -> N OH OW C, the pixels that ``winners`` points at."""
    out = winners.shape
    y = np.zeros(out, x.dtype)
    for u, v, where, pixels in _taps((x.shape[1], x.shape[2]), (out[1], out[2]), kernel_size,
                                     stride, padding):
        np.copyto(y[where], x[pixels], where=winners[where] == u * kernel_size[1] + v)
    return y


def spread_winners(y: Array, *, winners: Array, image_size: Pair, kernel_size: Pair, stride: Pair,
                   padding: Sides) -> Array:
    """N OH OW C -> N H W C, each value added where its winner was; adjoint of take_winners."""
    n, oh, ow, c = y.shape
    x = np.zeros((n, *image_size, c), y.dtype)
    for u, v, where, pixels in _taps(image_size, (oh, ow), kernel_size, stride, padding):
        x[pixels] += np.where(winners[where] == u * kernel_size[1] + v, y[where], y.dtype.type(0))
    return x


def windows(x: Array, *, kernel_size: Pair, stride: Pair, padding: Sides, fill: float) -> Array:
    """N H W C -> N OH OW C KH KW, each window copied out; ``fill`` outside the image."""
    n, h, w, c = x.shape
    out = tuple(shapes.positions(size, k, s, p) for size, k, s, p in
                zip((h, w), kernel_size, stride, padding, strict=True))
    (top, bottom), (left, right) = padding
    image = np.full((n, h + top + bottom, w + left + right, c), fill, x.dtype)
    image[:, top:top + h, left:left + w] = x
    sn, sh, sw, sc = image.strides
    view = as_strided(image, (n, *out, c, *kernel_size),
                      (sn, sh * stride[0], sw * stride[1], sc, sh, sw))
    return view.copy()


def fold(y: Array, *, image_size: Pair, stride: Pair, padding: Sides) -> Array:
    """N OH OW C KH KW -> N H W C, windows added up where they overlap; adjoint of windows."""
    n, oh, ow, c, kh, kw = y.shape
    x = np.zeros((n, *image_size, c), y.dtype)
    for u, v, where, pixels in _taps(image_size, (oh, ow), (kh, kw), stride, padding):
        x[pixels] += y[..., u, v][where]
    return x


def _divisors(image: Pair, out: Pair, kernel_size: Pair, stride: Pair, padding: Sides,
              count_include_pad: bool, dtype: Any) -> Array:
    """How many pixels each window divides by: OH OW 1."""
    if count_include_pad:
        return np.full((1, 1, 1), kernel_size[0] * kernel_size[1], dtype)
    counts = np.zeros((1, *out, 1), dtype)
    for _, _, where, _ in _taps(image, out, kernel_size, stride, padding):
        counts[where] += 1
    return counts[0]


def avg_pool2d(x: Array, *, kernel_size: Pair, stride: Pair, padding: Sides,
               count_include_pad: bool) -> Array:
    """N H W C -> N OH OW C."""
    out = shapes.avg_pool2d(x.shape, kernel_size=kernel_size, stride=stride, padding=padding,
                            count_include_pad=count_include_pad)
    image = (x.shape[1], x.shape[2])
    y = np.zeros(out, x.dtype)
    for _, _, where, pixels in _taps(image, (out[1], out[2]), kernel_size, stride, padding):
        y[where] += x[pixels]
    y /= _divisors(image, (out[1], out[2]), kernel_size, stride, padding, count_include_pad,
                   y.real.dtype)
    return y


def avg_pool2d_input(y: Array, *, image_size: Pair, kernel_size: Pair, stride: Pair,
                     padding: Sides, count_include_pad: bool) -> Array:
    """N OH OW C -> N H W C, each value shared out among the pixels of its window."""
    n, oh, ow, c = y.shape
    share = y / _divisors(image_size, (oh, ow), kernel_size, stride, padding, count_include_pad,
                          y.real.dtype)
    x = np.zeros((n, *image_size, c), y.dtype)
    for _, _, where, pixels in _taps(image_size, (oh, ow), kernel_size, stride, padding):
        x[pixels] += share[where]
    return x
