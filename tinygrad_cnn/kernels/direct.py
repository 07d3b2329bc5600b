"""Convolutions as matrix products over blocks of patches, for every case.

A patch is the window of one result as a row of KH·KW·C numbers; all patches of a block times the
filters as a matrix are the results of the block.  Patches of the whole batch would take KH·KW times
the memory of the images; those of a block stay in the cache of the core that made them.

* Images of few channels are patched with the pixels last: the copies then run along whole rows of
  pixels instead of KW·C numbers at a time, and BLAS reads a transposed matrix as well as any.
* 1×1 filters at stride 1 need no patches: the images are the matrix.
* Filters of one channel each (depthwise) have no matrix to speak of: each result is KH·KW products,
  and for each tap one product of a strided slice of the block with the tap's row of weights is
  added up.  Weights are repeated along the row, so that products run over whole rows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinygrad_cnn.kernels.memory import Block, blocks, move, multiply, place, workspace
from tinygrad_cnn.kernels.parallel import get_num_threads, parallel
from tinygrad_cnn.shapes import Shape, effective_kernel_size
from tinygrad_cnn.types import Array

if TYPE_CHECKING:
    from tinygrad_cnn.kernels.conv import Problem

__all__ = ["applies", "forward", "weight"]

_BUDGET = 1 << 18           # entries of patches in a block: 1 MB of float32, half of an L2 cache
_BUDGET_TAPS = 1 << 16      # of a depthwise block: a handful of arrays of them fit into L2
_FEW = 16                   # numbers in a row of a window, below which pixels go last


def applies(problem: Problem) -> bool:
    """Always."""
    return True


def _depthwise(problem: Problem) -> bool:
    return problem.groups > 1 and problem.groups == problem.images[3] == problem.results[3]


def forward(problem: Problem, x: Array, w: Array, b: Array | None, y: Array) -> None:
    """N H W C, KH KW C/groups O, O -> N OH OW O, into ``y``."""
    if _depthwise(problem):
        _forward_taps(problem, x, w, b, y)
        return
    c, o = w.shape[2], w.shape[3] // problem.groups
    for group in range(problem.groups):
        mine = slice(group * o, (group + 1) * o)
        patches = _Patches(problem, x[..., group * c:(group + 1) * c], y.shape)
        _forward(patches, w[..., mine], None if b is None else b[mine], y[..., mine])


def _forward(patches: _Patches, w: Array, b: Array | None, y: Array) -> None:
    """The results of one group, into ``y``."""
    _, _, ow, o = y.shape
    order = w.transpose(2, 0, 1, 3) if patches.pixels_last else w
    filters = np.ascontiguousarray(order, y.dtype).reshape(1, -1, o)
    bias = None if b is None else np.tile(b, ow)        # long rows add faster than short ones

    def work(low: int, high: int) -> None:
        for block in patches.blocks[low:high]:
            images, first, last = block
            part = y[images, first:last]
            with workspace(y.dtype, patches.shape(block), part.shape) as (memory, results):
                direct = part.flags.c_contiguous
                target = part if direct else results
                rows = patches.take(block, memory)
                multiply(rows[None], filters, target.reshape(1, -1, o))
                if bias is not None:
                    lines = target.reshape(-1, ow * o)
                    np.add(lines, bias, out=lines)
                if not direct:
                    part[...] = results

    parallel(len(patches.blocks), work)


def weight(problem: Problem, x: Array, y: Array) -> Array:
    """N H W C, N OH OW O -> KH KW C/groups O."""
    if _depthwise(problem):
        return _weight_taps(problem, x, y)
    kh, kw, c, _ = problem.filters
    o = y.shape[3] // problem.groups
    w = np.empty((kh, kw, c, problem.groups, o), problem.dtype)
    for group in range(problem.groups):
        patches = _Patches(problem, x[..., group * c:(group + 1) * c], y.shape)
        total = _weight(patches, y[..., group * o:(group + 1) * o])
        w[..., group, :] = (total.reshape(c, kh, kw, o).transpose(1, 2, 0, 3)
                            if patches.pixels_last else total.reshape(kh, kw, c, o))
    return w.reshape(problem.filters)


def _weight(patches: _Patches, y: Array) -> Array:
    """The filter gradient of one group, in the order of the patches."""
    o, dtype = y.shape[3], patches.dtype

    def work(low: int, high: int) -> Array:
        total = np.zeros((patches.length, o), dtype)
        for block in patches.blocks[low:high]:
            images, first, last = block
            with workspace(dtype, patches.shape(block), total.shape) as (memory, products):
                rows = y[images, first:last].reshape(-1, o)
                np.matmul(patches.take(block, memory).T, rows, out=products)
                np.add(total, products, out=total)
        return total

    return np.asarray(sum(parallel(len(patches.blocks), work)), dtype)


def _padded(problem: Problem, block: Block, c: int) -> tuple[int, int, int, int]:
    """The pixels that the results of a block see: N H W C."""
    images, first, last = block
    rows, columns = ((size - 1) * stride + effective_kernel_size(taps, dilation)
                     for size, stride, taps, dilation in zip(
                         (last - first, problem.results[2]), problem.stride, problem.filters,
                         problem.dilation, strict=False))
    return images.stop - images.start, rows, columns, c


class _Patches:
    """Windows of images of one group, block by block, as the rows of a matrix."""

    def __init__(self, problem: Problem, x: Array, out: Shape) -> None:
        self.x, self.problem, self.dtype, self.c = x, problem, problem.dtype, x.shape[3]
        kh, kw = problem.filters[:2]
        self.length = kh * kw * self.c
        self.plain = (self.length == self.c and problem.stride == (1, 1)
                      and problem.origin == (0, 0) and out[1:3] == x.shape[1:3]
                      and x.flags.c_contiguous and x.dtype == self.dtype)
        self.pixels_last = not self.plain and kw * self.c < _FEW
        self.blocks: list[Block] = blocks(out[0], out[1], out[2] * self.length, _BUDGET,
                                          get_num_threads())

    def shape(self, block: Block) -> Shape:
        """Work space for ``take``, in entries."""
        if self.plain:
            return (0,)
        images, first, last = block
        patches = ((images.stop - images.start) * (last - first) * self.problem.results[2]
                   * self.length)
        return (patches + math.prod(_padded(self.problem, block, self.c)),)

    def take(self, block: Block, memory: Array) -> Array:
        """The patches of a block: N·OH·OW KH·KW·C, or C·KH·KW with the pixels last in memory."""
        images, first, last = block
        if self.plain:
            return self.x[images, first:last].reshape(-1, self.c)
        problem, ow = self.problem, self.problem.results[2]
        n, rows, columns, c = shape = _padded(problem, block, self.c)
        (kh, kw), (sh, sw), (dh, dw) = problem.filters[:2], problem.stride, problem.dilation
        size = math.prod(shape)
        if self.pixels_last:
            padded = memory[:size].reshape(c, n, rows, columns).transpose(1, 2, 3, 0)
        else:
            padded = memory[:size].reshape(shape)
        place(padded, self.x[images], sh * first - problem.origin[0], -problem.origin[1])
        image, down, across, channel = padded.strides
        if self.pixels_last:
            view = as_strided(padded, (c, kh, kw, n, last - first, ow),
                              (channel, dh * down, dw * across, image, sh * down, sw * across))
            patches = memory[size:].reshape(view.shape)
            np.copyto(patches, view)
            return patches.reshape(self.length, -1).T
        if dw == 1:                             # the pixels of a row lie side by side
            kw, c = 1, kw * c
        view = as_strided(padded, (n, last - first, ow, kh, kw, c),
                          (image, sh * down, sw * across, dh * down, dw * across, channel))
        patches = memory[size:].reshape(view.shape)
        move(patches, view)
        return patches.reshape(-1, self.length)


# ---- depthwise, tap by tap

def _slices(problem: Problem, rows: int) -> list[tuple[int, int, slice, slice]]:
    """(u, v, rows, columns) of the padded block of so many rows that tap (u, v) meets."""
    down, across = ([slice(tap * d, tap * d + (size - 1) * s + 1, s) for tap in range(k)]
                    for k, size, s, d in zip(problem.filters, (rows, problem.results[2]),
                                             problem.stride, problem.dilation, strict=False))
    return [(u, v, rows, columns) for u, rows in enumerate(down)
            for v, columns in enumerate(across)]


def _forward_taps(problem: Problem, x: Array, w: Array, b: Array | None, y: Array) -> None:
    n, oh, ow, c = y.shape
    weights = np.tile(w.astype(y.dtype, copy=False), (1, 1, ow, 1))         # KH KW OW C
    bias = None if b is None else np.tile(b, (ow, 1))
    cut = blocks(n, oh, ow * c, _BUDGET_TAPS, get_num_threads())
    down = problem.stride[0]

    def work(low: int, high: int) -> None:
        for block in cut[low:high]:
            images, first, last = block
            part = y[images, first:last]
            with workspace(y.dtype, _padded(problem, block, c), part.shape, part.shape) as (
                    padded, total, product):
                place(padded, x[images], down * first - problem.origin[0], -problem.origin[1])
                for index, (u, v, rows, columns) in enumerate(_slices(problem, last - first)):
                    out = product if index else total
                    np.multiply(padded[:, rows, columns], weights[u, v], out=out)
                    if index:
                        np.add(total, product, out=total)
                if bias is not None:
                    np.add(total, bias, out=total)
                part[...] = total

    parallel(len(cut), work)


def _weight_taps(problem: Problem, x: Array, y: Array) -> Array:
    (n, oh, ow, c), kernel_size, dtype = y.shape, problem.filters[:2], problem.dtype
    cut = blocks(n, oh, ow * c, _BUDGET_TAPS, get_num_threads())
    y = np.ascontiguousarray(y, dtype)
    down = problem.stride[0]

    def work(low: int, high: int) -> Array:
        total = np.zeros((*kernel_size, c), dtype)
        for block in cut[low:high]:
            images, first, last = block
            part = y[images, first:last]
            with workspace(dtype, _padded(problem, block, c), part.shape) as (padded, product):
                place(padded, x[images], down * first - problem.origin[0], -problem.origin[1])
                ones = np.ones(product.size // c, dtype)
                for u, v, rows, columns in _slices(problem, last - first):
                    np.multiply(padded[:, rows, columns], part, out=product)
                    total[u, v] += ones @ product.reshape(-1, c)
        return total

    return np.asarray(sum(parallel(len(cut), work)), dtype).reshape(problem.filters)
