"""Convolutions whose filters see one channel each: tap by tap, without patches.

There is no matrix to multiply: each result is KH·KW products.  For each tap one whole-array product
of a strided slice of the block with the tap's row of weights is added up.  Weights are repeated
along the row, so that products run over whole rows instead of C numbers at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_cnn.kernels import compiled
from tinygrad_cnn.kernels.blocks import Array, Block, blocks, borrowed, place
from tinygrad_cnn.kernels.threads import get_num_threads, parallel
from tinygrad_cnn.shapes import Pair, Sides, effective_kernel_size

__all__ = ["depthwise", "depthwise_weight"]

_FEW = 1 << 12          # results, below which compiled loops have nothing to gain
_BUDGET = 1 << 16       # entries of a block: a handful of arrays of them fit into L2


def _slices(kernel_size: Pair, out: Pair, stride: Pair,
            dilation: Pair) -> list[tuple[int, int, slice, slice]]:
    """(u, v, rows, columns) of the padded block that tap (u, v) meets."""
    down, across = ([slice(tap * d, tap * d + (size - 1) * s + 1, s) for tap in range(k)]
                    for k, size, s, d in zip(kernel_size, out, stride, dilation, strict=True))
    return [(u, v, rows, columns) for u, rows in enumerate(down)
            for v, columns in enumerate(across)]


def _padded_shape(block: Block, out: tuple[int, ...], kernel_size: Pair, stride: Pair,
                  dilation: Pair) -> tuple[int, int, int, int]:
    images, first, last = block
    return (images.stop - images.start,
            (last - first - 1) * stride[0] + effective_kernel_size(kernel_size[0], dilation[0]),
            (out[2] - 1) * stride[1] + effective_kernel_size(kernel_size[1], dilation[1]), out[3])


def _passes(y: Array, stride: Pair) -> Any:
    """Compiled loops along whole rows, where windows lie side by side."""
    fits = stride[1] == 1 and y.flags.c_contiguous and y.size >= _FEW
    return compiled.module("passes", y.dtype) if fits else None


def _rows(x: Array) -> Array:
    """... W C -> ... W·C."""
    return x.reshape(*x.shape[:-2], -1)


def depthwise(x: Array, w: Array, b: Array | None, y: Array, stride: Pair, padding: Sides,
              dilation: Pair) -> None:
    """N H W C, KH KW 1 C, C -> N OH OW C, into ``y``."""
    kernel_size = (w.shape[0], w.shape[1])
    n, oh, ow, c = y.shape
    weights = np.tile(w.astype(y.dtype, copy=False), (1, 1, ow, 1))         # KH KW OW C
    bias = None if b is None else np.tile(b, (ow, 1))
    cut = blocks(n, oh, ow * c, _BUDGET, get_num_threads())
    passes = _passes(y, stride)
    apart = dilation[0], dilation[1] * c

    def work(low: int, high: int) -> None:
        for block in cut[low:high]:
            images, first, last = block
            part = y[images, first:last]
            shape = _padded_shape(block, y.shape, kernel_size, stride, dilation)
            with borrowed(y.dtype, shape, part.shape, part.shape) as (padded, total, product):
                place(padded, x[images], stride[0] * first - padding[0][0], -padding[1][0])
                if passes is not None:
                    added = np.zeros(ow * c, y.dtype) if bias is None else bias.reshape(-1)
                    passes.add_taps(_rows(padded), _rows(weights), added, _rows(part), stride[0],
                                    apart)
                    continue
                for index, (u, v, rows, columns) in enumerate(
                        _slices(kernel_size, (last - first, ow), stride, dilation)):
                    out = product if index else total
                    np.multiply(padded[:, rows, columns], weights[u, v], out=out)
                    if index:
                        np.add(total, product, out=total)
                if bias is not None:
                    np.add(total, bias, out=total)
                part[...] = total

    parallel(len(cut), work)


def depthwise_weight(x: Array, y: Array, kernel_size: Pair, stride: Pair, padding: Sides,
                     dilation: Pair) -> Array:
    """N H W C, N OH OW C -> KH KW 1 C."""
    n, oh, ow, c = y.shape
    dtype = np.result_type(x, y)
    cut = blocks(n, oh, ow * c, _BUDGET, get_num_threads())

    y = np.ascontiguousarray(y, dtype)
    passes = _passes(y, stride)
    apart = dilation[0], dilation[1] * c

    def work(low: int, high: int) -> Array:
        total = np.zeros((*kernel_size, c), dtype)
        spread = np.zeros((*kernel_size, ow * c), dtype)
        for block in cut[low:high]:
            images, first, last = block
            part = y[images, first:last]
            shape = _padded_shape(block, y.shape, kernel_size, stride, dilation)
            with borrowed(dtype, shape, part.shape) as (padded, product):
                place(padded, x[images], stride[0] * first - padding[0][0], -padding[1][0])
                if passes is not None:
                    passes.add_tap_products(_rows(padded), _rows(part), spread, stride[0], apart)
                    continue
                ones = np.ones(product.size // c, dtype)
                for u, v, rows, columns in _slices(kernel_size, (last - first, ow), stride,
                                                   dilation):
                    np.multiply(padded[:, rows, columns], part, out=product)
                    total[u, v] += ones @ product.reshape(-1, c)
        return total + spread.reshape(*kernel_size, ow, c).sum(2)

    total = np.asarray(sum(parallel(len(cut), work)), dtype)
    return total.reshape(*kernel_size, 1, c)
