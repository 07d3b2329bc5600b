"""conv2d and its two adjoints as matrix products over blocks of patches, for every case.

A patch is the window of one result as a row of KH·KW·C numbers; all patches of a block times the
filters as a matrix are the results of the block.  Patches of the whole batch would take KH·KW times
the memory of the images; those of a block stay in the cache of the core that made them.

* Images of few channels are patched with the pixels last: the copies then run along whole rows of
  pixels instead of KW·C numbers at a time, and BLAS reads a transposed matrix as well as any.
* 1×1 filters at stride 1 need no patches: the images are the matrix.
* Filters of one channel each (depthwise) have no matrix to speak of: they are applied tap by tap.
* The input gradient is a forward convolution with turned filters; at stride s one for each
  of the s·s sets of pixels that see the same taps.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinygrad_cnn import shapes
from tinygrad_cnn.kernels.blocks import (
    Array,
    Block,
    blocks,
    borrowed,
    move,
    multiply,
    place,
)
from tinygrad_cnn.kernels.depthwise import depthwise, depthwise_weight
from tinygrad_cnn.kernels.memory import allocate
from tinygrad_cnn.kernels.threads import get_num_threads, parallel
from tinygrad_cnn.shapes import Pair, Sides

__all__ = ["conv2d", "conv2d_input", "conv2d_weight", "correlate"]

_BUDGET = 1 << 18           # entries of patches in a block: 1 MB of float32, half of an L2 cache
_FEW = 16                   # numbers in a row of a window, below which pixels go last


def conv2d(x: Array, w: Array, b: Array | None = None, *, stride: Pair, padding: Sides,
           dilation: Pair, groups: int) -> Array:
    """N H W C, KH KW C/groups O, O -> N OH OW O."""
    out = shapes.conv2d(x.shape, w.shape, stride=stride, padding=padding, dilation=dilation,
                        groups=groups)
    y = allocate("conv2d", out, np.result_type(x, w))
    correlate(x, w, b, y, stride, padding, dilation, groups)
    return y


def conv2d_input(y: Array, w: Array, *, image_size: Pair, stride: Pair, padding: Sides,
                 dilation: Pair, groups: int) -> Array:
    """N OH OW O, KH KW C/groups O -> N H W C."""
    out = shapes.conv2d_input(y.shape, w.shape, image_size=image_size, stride=stride,
                              padding=padding, dilation=dilation, groups=groups)
    kh, kw, c, o = w.shape
    x = allocate("conv2d_input", out, np.result_type(y, w))
    turned = w.reshape(kh, kw, c, groups, o // groups)[::-1, ::-1]
    turned = turned.transpose(0, 1, 4, 3, 2).reshape(kh, kw, o // groups, groups * c)
    for rows, columns in itertools.product(
            shapes.phases(image_size[0], kh, stride[0], padding[0][0], dilation[0]),
            shapes.phases(image_size[1], kw, stride[1], padding[1][0], dilation[1])):
        pixels = x[:, rows.pixels, columns.pixels]
        filters = turned[rows.taps, columns.taps]
        if filters.size and pixels.size:
            correlate(y, filters, None, pixels, (1, 1),
                      ((rows.padding, 0), (columns.padding, 0)),
                      (rows.dilation, columns.dilation), groups)
        else:
            pixels[...] = 0                             # no window reaches these pixels
    return x


def conv2d_weight(x: Array, y: Array, *, kernel_size: Pair, stride: Pair, padding: Sides,
                  dilation: Pair, groups: int) -> Array:
    """N H W C, N OH OW O -> KH KW C/groups O."""
    out = shapes.conv2d_weight(x.shape, y.shape, kernel_size=kernel_size, stride=stride,
                               padding=padding, dilation=dilation, groups=groups)
    c, o = out[2], out[3] // groups
    dtype = np.result_type(x, y)
    if groups > 1 and c == o == 1:
        return depthwise_weight(x, y, kernel_size, stride, padding, dilation)
    w = np.empty((*kernel_size, c, groups, o), dtype)
    for group in range(groups):
        patches = _Patches(x[..., group * c:(group + 1) * c], y.shape, kernel_size, stride, padding,
                           dilation, dtype)
        _weight(patches, y[..., group * o:(group + 1) * o], w[..., group, :])
    return w.reshape(out)


def _weight(patches: _Patches, y: Array, w: Array) -> None:
    """The filter gradient of one group, into ``w``."""
    o = w.shape[3]

    def work(low: int, high: int) -> Array:
        total = np.zeros((patches.length, o), w.dtype)
        for block in patches.blocks[low:high]:
            images, first, last = block
            with borrowed(w.dtype, patches.shape(block), total.shape) as (memory, products):
                rows = y[images, first:last].reshape(-1, o)
                np.matmul(patches.take(block, memory).T, rows, out=products)
                np.add(total, products, out=total)
        return total

    total = np.asarray(sum(parallel(len(patches.blocks), work)), w.dtype)
    kh, kw, c, _ = w.shape
    if patches.pixels_last:
        w[...] = total.reshape(c, kh, kw, o).transpose(1, 2, 0, 3)
    else:
        w[...] = total.reshape(kh, kw, c, o)


def correlate(x: Array, w: Array, b: Array | None, y: Array, stride: Pair, padding: Sides,
              dilation: Pair, groups: int) -> None:
    """Forward convolution into ``y``; only the top and left of the padding are read."""
    kh, kw, c, _ = w.shape
    o = w.shape[3] // groups
    if groups > 1 and c == o == 1:
        depthwise(x, w, b, y, stride, padding, dilation)
        return
    for group in range(groups):
        mine = slice(group * o, (group + 1) * o)
        patches = _Patches(x[..., group * c:(group + 1) * c], y.shape, (kh, kw), stride, padding,
                           dilation, y.dtype)
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
            with borrowed(y.dtype, patches.shape(block), part.shape) as (memory, results):
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


class _Patches:
    """Windows of images, block by block, as the rows of a matrix."""

    def __init__(self, x: Array, out: tuple[int, ...], kernel_size: Pair, stride: Pair,
                 padding: Sides, dilation: Pair, dtype: np.dtype[Any]) -> None:
        n, self.oh, self.ow, _ = out
        self.x, self.kernel_size, self.stride, self.dilation = x, kernel_size, stride, dilation
        self.origin, self.dtype = (padding[0][0], padding[1][0]), dtype
        kh, kw = kernel_size
        self.c = x.shape[3]
        self.length = kh * kw * self.c
        self.plain = (self.length == self.c and stride == (1, 1) and self.origin == (0, 0)
                      and out[1:3] == x.shape[1:3] and x.flags.c_contiguous and x.dtype == dtype)
        self.pixels_last = not self.plain and kw * self.c < _FEW
        self.reach = ((self.oh - 1) * stride[0] + shapes.effective_kernel_size(kh, dilation[0]),
                      (self.ow - 1) * stride[1] + shapes.effective_kernel_size(kw, dilation[1]))
        self.blocks: list[Block] = blocks(n, self.oh, self.ow * self.length, _BUDGET,
                                          get_num_threads())

    def _padded(self, block: Block) -> tuple[int, int, int, int]:
        images, first, last = block
        rows = (last - first - 1) * self.stride[0] + shapes.effective_kernel_size(
            self.kernel_size[0], self.dilation[0])
        return images.stop - images.start, rows, self.reach[1], self.c

    def shape(self, block: Block) -> tuple[int, ...]:
        """Work space for ``take``, in entries."""
        if self.plain:
            return (0,)
        images, first, last = block
        patches = (images.stop - images.start) * (last - first) * self.ow * self.length
        return (patches + math.prod(self._padded(block)),)

    def take(self, block: Block, memory: Array) -> Array:
        """The patches of a block: N·OH·OW KH·KW·C, or C·KH·KW with the pixels last in memory."""
        images, first, last = block
        if self.plain:
            return self.x[images, first:last].reshape(-1, self.c)
        n, rows, columns, c = shape = self._padded(block)
        (kh, kw), (sh, sw), (dh, dw) = self.kernel_size, self.stride, self.dilation
        size = math.prod(shape)
        if self.pixels_last:
            padded = memory[:size].reshape(c, n, rows, columns).transpose(1, 2, 3, 0)
        else:
            padded = memory[:size].reshape(shape)
        place(padded, self.x[images], sh * first - self.origin[0], -self.origin[1])
        image, down, across, channel = padded.strides
        if self.pixels_last:
            view = as_strided(padded, (c, kh, kw, n, last - first, self.ow),
                              (channel, dh * down, dw * across, image, sh * down, sw * across))
            patches = memory[size:].reshape(view.shape)
            np.copyto(patches, view)
            return patches.reshape(self.length, -1).T
        if dw == 1:                             # the pixels of a row lie side by side
            kw, c = 1, kw * c
        view = as_strided(padded, (n, last - first, self.ow, kh, kw, c),
                          (image, sh * down, sw * across, dh * down, dw * across, channel))
        patches = memory[size:].reshape(view.shape)
        move(patches, view)
        return patches.reshape(-1, self.length)
