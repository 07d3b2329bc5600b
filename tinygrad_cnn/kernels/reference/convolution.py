"""Convolution in four nested loops, and its two adjoints.

The loops run over images, rows, columns and filters; ``single_step`` is all that happens inside.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn import shapes
from tinygrad_cnn.kernels.reference.padding import remove_padding, span, zero_pad
from tinygrad_cnn.shapes import Pair, Shape, Sides

__all__ = ["conv2d", "conv2d_input", "conv2d_weight", "single_step"]

Array = NDArray[Any]


def single_step(window: Array, w: Array, b: Any = 0) -> Any:
    """One filter on one window: the sum of the products, and the bias added once."""
    return np.sum(window * w) + b


def _group(filter_index: int, w: Shape, groups: int) -> slice:
    """The channels that a filter reads: those of the group that it belongs to."""
    channels, filters = w[2], w[3]
    group = filter_index // (filters // groups)
    return slice(group * channels, (group + 1) * channels)


def conv2d(x: Array, w: Array, b: Array | None = None, *, stride: Pair, padding: Sides,
           dilation: Pair, groups: int) -> Array:
    """y[n, i, j, o] = b[o] + Σ x_pad[n, window(i, j), group(o)] · w[:, :, :, o]."""
    kh, kw = w.shape[:2]
    shape = shapes.conv2d(x.shape, w.shape, stride=stride, padding=padding, dilation=dilation,
                          groups=groups)
    x_pad = zero_pad(x, padding)                        # N H+2p W+2p C
    arrays = (x, w) if b is None else (x, w, b)
    y = np.zeros(shape, dtype=np.result_type(*arrays))  # N OH OW O
    for n, i, j, o in np.ndindex(*shape):
        rows = span(i, kh, stride[0], dilation[0])
        columns = span(j, kw, stride[1], dilation[1])
        window = x_pad[n, rows, columns, _group(o, w.shape, groups)]        # KH KW C/groups
        y[n, i, j, o] = single_step(window, w[:, :, :, o], 0 if b is None else b[o])
    return y


def conv2d_input(y: Array, w: Array, *, image_size: Pair, stride: Pair, padding: Sides,
                 dilation: Pair, groups: int) -> Array:
    """Adjoint of conv2d in x: x_pad[n, window(i, j), group(o)] += w[:, :, :, o] · y[n, i, j, o]."""
    kh, kw = w.shape[:2]
    shape = shapes.conv2d_input(y.shape, w.shape, image_size=image_size, stride=stride,
                                padding=padding, dilation=dilation, groups=groups)
    x_pad = zero_pad(np.zeros(shape, dtype=np.result_type(y, w)), padding)  # N H+2p W+2p C
    for n, i, j, o in np.ndindex(*y.shape):
        rows = span(i, kh, stride[0], dilation[0])
        columns = span(j, kw, stride[1], dilation[1])
        x_pad[n, rows, columns, _group(o, w.shape, groups)] += w[:, :, :, o] * y[n, i, j, o]
    return remove_padding(x_pad, padding, image_size)   # N H W C


def conv2d_weight(x: Array, y: Array, *, kernel_size: Pair, stride: Pair, padding: Sides,
                  dilation: Pair, groups: int) -> Array:
    """Adjoint of conv2d in w: w[:, :, :, o] += x_pad[n, window(i, j), group(o)] · y[n, i, j, o]."""
    kh, kw = kernel_size
    shape = shapes.conv2d_weight(x.shape, y.shape, kernel_size=kernel_size, stride=stride,
                                 padding=padding, dilation=dilation, groups=groups)
    x_pad = zero_pad(x, padding)                        # N H+2p W+2p C
    w = np.zeros(shape, dtype=np.result_type(x, y))     # KH KW C/groups O
    for n, i, j, o in np.ndindex(*y.shape):
        rows = span(i, kh, stride[0], dilation[0])
        columns = span(j, kw, stride[1], dilation[1])
        w[:, :, :, o] += x_pad[n, rows, columns, _group(o, shape, groups)] * y[n, i, j, o]
    return w
