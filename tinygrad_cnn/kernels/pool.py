"""Windows of images: maximum and average pooling, and their adjoints.

A maximum is taken tap by tap: for each of the KH·KW places in a window, one whole-array comparison
of a strided slice of the image with the best so far.  No window is ever copied.
"""

from __future__ import annotations

import math
from functools import lru_cache
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinygrad_cnn import shapes
from tinygrad_cnn.kernels import compiled
from tinygrad_cnn.kernels.elementwise import select
from tinygrad_cnn.kernels.memory import blocks, empty, move, place, workspace
from tinygrad_cnn.kernels.parallel import get_num_threads, parallel
from tinygrad_cnn.shapes import Pair, Sides
from tinygrad_cnn.types import Array, DType

__all__ = ["avg_pool2d", "avg_pool2d_input", "fold", "gather_max", "max_pool2d",
           "scatter_max", "unfold"]

Slices = tuple[slice, ...]
_Tap = tuple[int, int, Slices, Slices]

_FEW = 1 << 12          # results, below which compiled loops have nothing to gain
_BUDGET = 1 << 16       # results in a block: half a dozen arrays of them fit into L2


def _overlap(offset: int, n: int, count: int, stride: int) -> tuple[slice, slice] | None:
    """Windows and pixels that meet where tap ``offset`` (may be < 0) falls inside 0..n."""
    first = max(0, -(offset // stride))                       # ceil(-offset / stride)
    last = min(count, (n - 1 - offset) // stride + 1)
    if first >= last:
        return None
    start = first * stride + offset
    return slice(first, last), slice(start, start + (last - first - 1) * stride + 1, stride)


@lru_cache(maxsize=256)
def _taps(image: Pair, out: Pair, kernel_size: Pair, stride: Pair,
          padding: Sides) -> tuple[_Tap, ...]:
    """(u, v, windows, pixels): tap (u, v) of these windows lies on these pixels of the image."""
    found: list[_Tap] = []
    for u in range(kernel_size[0]):
        down = _overlap(u - padding[0][0], image[0], out[0], stride[0])
        for v in range(kernel_size[1]):
            across = _overlap(v - padding[1][0], image[1], out[1], stride[1])
            if down is not None and across is not None:
                found.append((u, v, (slice(None), down[0], across[0]),
                              (slice(None), down[1], across[1])))
    return tuple(found)


def _index_dtype(kernel_size: Pair) -> type[np.unsignedinteger[Any]] | type[np.signedinteger[Any]]:
    return np.uint8 if kernel_size[0] * kernel_size[1] <= 256 else np.int32


def max_pool2d(x: Array, *, kernel_size: Pair, stride: Pair,
               padding: Sides) -> tuple[Array, dict[str, Array]]:
    """N H W C -> N OH OW C, and the place of each maximum inside its window."""
    out = shapes.max_pool2d(x.shape, kernel_size=kernel_size, stride=stride, padding=padding)
    y = empty(out, x.dtype)
    argmax_indices = np.empty(out, _index_dtype(kernel_size))
    taps = _taps((x.shape[1], x.shape[2]), (out[1], out[2]), kernel_size, stride, padding)
    cut = _images(out)
    (top, bottom), (left, right) = padding
    padded = x.shape[1] + top + bottom, x.shape[2] + left + right, x.shape[3]
    surrounded = bool(top or bottom or left or right) and x.dtype.kind == "f"
    passes = compiled.module("passes", x.dtype)
    if passes is not None and argmax_indices.dtype == np.uint8 and y.size >= _FEW:
        image = x
        if surrounded:
            image = empty((len(x), *padded), x.dtype)
            parallel(len(x), lambda low, high: place(image[low:high], x[low:high], -top, -left,
                                                     -math.inf), products=False)
        finite = np.empty(len(x), np.bool_)
        passes.pool(*kernel_size)(len(x), image, y, argmax_indices, *stride, finite)
        for i in np.flatnonzero(~finite):
            _careful_max(x[i:i + 1], y[i:i + 1], argmax_indices[i:i + 1], taps, kernel_size)
        return y, {"argmax_indices": argmax_indices}

    def work(low: int, high: int) -> None:
        for part in cut[low:high]:
            image, best, place_ = x[part], y[part], argmax_indices[part]
            with workspace(x.dtype, (len(image), *padded) if surrounded else (0,)) as (memory,):
                if surrounded:
                    place(memory, image, -top, -left, -math.inf)
                    image = memory
                if (not surrounded and (top or bottom or left or right)) or not _quick_max(
                        image, best, place_, kernel_size, stride):
                    _careful_max(x[part], best, place_, taps, kernel_size)

    parallel(len(cut), work, products=False)
    return y, {"argmax_indices": argmax_indices}


def _quick_max(image: Array, best: Array, argmax_indices: Array, kernel_size: Pair,
               stride: Pair) -> bool:
    """Maxima of windows that lie inside the image; False if one of them is not finite.

    Each tap is copied out first: whole-array functions are several times faster on arrays without
    gaps.  A later pixel wins only when it is greater, so that the first of a tie stays.
    """
    _, oh, ow, _ = best.shape
    with (workspace(best.dtype, best.shape) as (candidate,),
          workspace(np.bool_, best.shape) as (wins,),
          workspace(argmax_indices.dtype, best.shape) as (mark,)):
        for u in range(kernel_size[0]):
            rows = slice(u, u + (oh - 1) * stride[0] + 1, stride[0])
            for v in range(kernel_size[1]):
                pixels = image[:, rows, v:v + (ow - 1) * stride[1] + 1:stride[1]]
                if u == v == 0:
                    move(best, pixels)
                    argmax_indices[...] = 0
                    continue
                move(candidate, pixels)
                np.greater(candidate, best, out=wins)
                np.maximum(best, candidate, out=best)
                index = argmax_indices.dtype.type(u * kernel_size[1] + v)
                np.multiply(wins.view(np.uint8), index, out=mark)
                np.maximum(argmax_indices, mark, out=argmax_indices)
        np.isfinite(best, out=wins)
        return bool(wins.all())


def _careful_max(image: Array, best: Array, argmax_indices: Array, taps: tuple[_Tap, ...],
                 kernel_size: Pair) -> None:
    """Maxima among NaN and infinities: the first NaN wins, and padding never does."""
    seen = np.zeros((*best.shape[:3], 1), bool)            # has a window met a pixel yet?
    for u, v, where, pixels in taps:
        candidate, held = image[pixels], best[where]
        with np.errstate(invalid="ignore"):
            wins = (candidate > held) | ((candidate != candidate) & (held == held))
        wins |= ~seen[where]
        np.copyto(held, candidate, where=wins)
        np.copyto(argmax_indices[where], u * kernel_size[1] + v, where=wins, casting="unsafe")
        seen[where] = True


def gather_max(x: Array, *, argmax_indices: Array, kernel_size: Pair, stride: Pair,
                 padding: Sides) -> Array:
    """N H W C -> N OH OW C, the pixels that ``argmax_indices`` points at."""
    out = argmax_indices.shape
    y = np.zeros(out, x.dtype)
    taps = _taps((x.shape[1], x.shape[2]), (out[1], out[2]), kernel_size, stride, padding)

    def work(low: int, high: int) -> None:
        for u, v, where, pixels in taps:
            chosen = argmax_indices[low:high][where] == u * kernel_size[1] + v
            np.copyto(y[low:high][where], x[low:high][pixels], where=chosen)

    parallel(len(x), work)
    return y


def scatter_max(y: Array, *, argmax_indices: Array, image_size: Pair, kernel_size: Pair,
                stride: Pair, padding: Sides) -> Array:
    """N OH OW C -> N H W C, each value added at its index; adjoint of gather_max."""
    n, oh, ow, c = y.shape
    x = empty((n, *image_size, c), y.dtype)
    taps = _taps(image_size, (oh, ow), kernel_size, stride, padding)
    cut = _images(y.shape)
    apart = stride[0] >= kernel_size[0] and stride[1] >= kernel_size[1]
    # Windows side by side that cover the image write every pixel, and each of them once.  They
    # begin at the first pixel: padding in front would leave the last ones unwritten.
    covered = (stride == kernel_size and padding[0][0] == 0 == padding[1][0]
               and (oh * stride[0], ow * stride[1]) == tuple(image_size))
    passes = compiled.module("passes", y.dtype) if covered and y.size >= _FEW else None
    values = np.ascontiguousarray(y)
    if passes is not None:
        passes.keep_maxima(*kernel_size)(n, values, argmax_indices, x)
        return x

    def work(low: int, high: int) -> None:
        for part in cut[low:high]:
            values_, places, image = values[part], argmax_indices[part], x[part]
            if not covered:
                image[...] = 0
            with workspace(y.dtype, values_.shape) as (chosen,):
                for u, v, where, pixels in taps:
                    select(values_, places == u * kernel_size[1] + v, chosen)
                    if apart:
                        move(image[pixels], chosen[where])
                    else:
                        image[pixels] += chosen[where]

    parallel(len(cut), work, products=False)
    return x


def _images(out: tuple[int, ...]) -> list[slice]:
    """Images of a batch in groups whose results make up a block."""
    n, oh, ow, c = out
    cut = blocks(n, 1, oh * ow * c, _BUDGET, get_num_threads())
    return list(map(itemgetter(0), cut))


def unfold(x: Array, *, kernel_size: Pair, stride: Pair, padding: Sides, fill: float) -> Array:
    """N H W C -> N OH OW C KH KW, each window copied out; ``fill`` outside the image."""
    n, h, w, c = x.shape
    out = tuple(shapes.output_size(size, k, s, p) for size, k, s, p in
                zip((h, w), kernel_size, stride, padding, strict=True))
    (top, bottom), (left, right) = padding
    image = np.full((n, h + top + bottom, w + left + right, c), fill, x.dtype)
    image[:, top:top + h, left:left + w] = x
    sn, sh, sw, sc = image.strides
    view = as_strided(image, (n, *out, c, *kernel_size),
                      (sn, sh * stride[0], sw * stride[1], sc, sh, sw))
    return view.copy()


def fold(y: Array, *, image_size: Pair, stride: Pair, padding: Sides) -> Array:
    """N OH OW C KH KW -> N H W C, windows added up where they overlap; adjoint of unfold."""
    n, oh, ow, c, kh, kw = y.shape
    x = np.zeros((n, *image_size, c), y.dtype)
    for u, v, where, pixels in _taps(image_size, (oh, ow), (kh, kw), stride, padding):
        x[pixels] += y[..., u, v][where]
    return x


def _divisors(image: Pair, out: Pair, kernel_size: Pair, stride: Pair, padding: Sides,
              count_include_pad: bool, dtype: DType) -> Array:
    """How many pixels each window divides by: OH OW 1."""
    if count_include_pad:
        return np.full((1, 1, 1), kernel_size[0] * kernel_size[1], dtype)
    counts: Array = np.zeros((*out, 1), dtype)
    for _, _, where, _ in _taps(image, out, kernel_size, stride, padding):
        counts[where[1:]] += 1
    return counts


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
    """N OH OW C -> N H W C, each value divided among the pixels of its window."""
    n, oh, ow, c = y.shape
    share = y / _divisors(image_size, (oh, ow), kernel_size, stride, padding, count_include_pad,
                          y.real.dtype)
    x = np.zeros((n, *image_size, c), y.dtype)
    for _, _, where, pixels in _taps(image_size, (oh, ow), kernel_size, stride, padding):
        x[pixels] += share[where]
    return x
