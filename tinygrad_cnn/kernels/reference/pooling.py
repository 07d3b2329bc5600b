"""Windows, their maxima and their averages, one window of one channel at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn import shapes
from tinygrad_cnn.kernels.reference.padding import pad, remove_padding, span, zero_pad
from tinygrad_cnn.shapes import Pair, Sides

__all__ = ["avg_pool2d", "avg_pool2d_input", "equal_share", "fold", "gather_max", "mask_of_maxima",
           "max_pool2d", "scatter_max", "spread_maxima", "unfold"]

Array = NDArray[Any]


def unfold(x: Array, *, kernel_size: Pair, stride: Pair, padding: Sides, fill: float) -> Array:
    """Copy what each window sees: N H W C -> N OH OW C KH KW."""
    (images, h, w, channels), (kh, kw) = x.shape, kernel_size
    oh = shapes.output_size(h, kh, stride[0], padding[0])
    ow = shapes.output_size(w, kw, stride[1], padding[1])
    x_pad = pad(x, pad_width=((0, 0), *padding, (0, 0)), mode="constant", value=fill)
    view = np.zeros((images, oh, ow, channels, kh, kw), dtype=x.dtype)
    for n, i, j, c in np.ndindex(*view.shape[:4]):
        view[n, i, j, c] = x_pad[n, span(i, kh, stride[0]), span(j, kw, stride[1]), c]
    return view


def fold(y: Array, *, image_size: Pair, stride: Pair, padding: Sides) -> Array:
    """Adjoint of ``unfold``: add each window back to where it was copied from -> N H W C."""
    images, _, _, channels, kh, kw = y.shape
    x_pad = zero_pad(np.zeros((images, *image_size, channels), dtype=y.dtype), padding)
    for n, i, j, c in np.ndindex(*y.shape[:4]):
        x_pad[n, span(i, kh, stride[0]), span(j, kw, stride[1]), c] += y[n, i, j, c]
    return remove_padding(x_pad, padding, image_size)


def _inside(position: int, n: int, kernel: int, stride: int, padding: Pair) -> tuple[slice, int]:
    """The part of a window that lies on the image, and how much of it is cut off in front."""
    corner = position * stride - padding[0]
    first = max(corner, 0)
    return slice(first, min(corner + kernel, n)), first - corner


def max_pool2d(x: Array, *, kernel_size: Pair, stride: Pair,
               padding: Sides) -> tuple[Array, dict[str, Array]]:
    """y[n, i, j, c] = max x[n, window(i, j), c], and ``argmax_indices``: the offset of that pixel.

    The offset u·KW + v counts inside the window, in reading order; a tie goes to the first.  Only
    pixels of the image compete, so padding never wins; NaN beats every number.
    """
    (_, h, w, _), (kh, kw) = x.shape, kernel_size
    shape = shapes.max_pool2d(x.shape, kernel_size=kernel_size, stride=stride, padding=padding)
    y = np.zeros(shape, dtype=x.dtype)                  # N OH OW C
    argmax_indices = np.zeros(shape, dtype=np.uint8 if kh * kw <= 256 else np.int32)
    for n, i, j, c in np.ndindex(*shape):
        rows, above = _inside(i, h, kh, stride[0], padding[0])
        columns, before = _inside(j, w, kw, stride[1], padding[1])
        window = x[n, rows, columns, c]
        u, v = divmod(int(np.argmax(window.real)), window.shape[1])
        y[n, i, j, c] = window[u, v]
        argmax_indices[n, i, j, c] = (above + u) * kw + (before + v)
    return y, {"argmax_indices": argmax_indices}


def _pixel(index: Any, i: int, j: int, kernel_size: Pair, stride: Pair,
           padding: Sides) -> tuple[int, int]:
    """Row and column, in the image, of the maximum of window (i, j)."""
    u, v = divmod(int(index), kernel_size[1])
    return i * stride[0] + u - padding[0][0], j * stride[1] + v - padding[1][0]


def gather_max(x: Array, *, argmax_indices: Array, kernel_size: Pair, stride: Pair,
                 padding: Sides) -> Array:
    """y[n, i, j, c] = x at the maximum of window (i, j): N H W C -> N OH OW C."""
    y = np.zeros(argmax_indices.shape, dtype=x.dtype)
    for n, i, j, c in np.ndindex(*argmax_indices.shape):
        row, column = _pixel(argmax_indices[n, i, j, c], i, j, kernel_size, stride, padding)
        y[n, i, j, c] = x[n, row, column, c]
    return y


def scatter_max(y: Array, *, argmax_indices: Array, image_size: Pair, kernel_size: Pair,
                stride: Pair, padding: Sides) -> Array:
    """Adjoint of ``gather_max``: add y at the index of each window -> N H W C."""
    x = np.zeros((y.shape[0], *image_size, y.shape[3]), dtype=y.dtype)
    for n, i, j, c in np.ndindex(*y.shape):
        row, column = _pixel(argmax_indices[n, i, j, c], i, j, kernel_size, stride, padding)
        x[n, row, column, c] += y[n, i, j, c]           # windows may share a pixel: add
    return x


def mask_of_maxima(window: Array) -> Array:
    """True at every entry that equals the largest: all of a tie."""
    mask: Array = window.real == np.max(window.real)
    return mask


def spread_maxima(y: Array, x: Array, *, kernel_size: Pair, stride: Pair,
                  padding: Sides) -> Array:
    """Backward pass of max pooling where every maximum of a window gets the whole of y.

    Differs from ``scatter_max`` at ties only, where it is no subgradient.  -> N H W C
    """
    spread = np.zeros(x.shape, dtype=np.result_type(y, x))
    for n, i, j, c in np.ndindex(*y.shape):
        rows, _ = _inside(i, x.shape[1], kernel_size[0], stride[0], padding[0])
        columns, _ = _inside(j, x.shape[2], kernel_size[1], stride[1], padding[1])
        mask = mask_of_maxima(x[n, rows, columns, c])
        spread[n, rows, columns, c] += mask * y[n, i, j, c]     # windows may overlap: add
    return spread


def equal_share(value: Any, count: int) -> Any:
    """What each of ``count`` entries gets when a value is spread evenly."""
    return value / count


def _share(i: int, j: int, image: Pair, kernel_size: Pair, stride: Pair, padding: Sides,
           count_include_pad: bool) -> tuple[slice, slice, int]:
    """Rows and columns of the image under window (i, j), and what their sum is divided by."""
    rows, _ = _inside(i, image[0], kernel_size[0], stride[0], padding[0])
    columns, _ = _inside(j, image[1], kernel_size[1], stride[1], padding[1])
    pixels = (rows.stop - rows.start) * (columns.stop - columns.start)
    return rows, columns, math.prod(kernel_size) if count_include_pad else pixels


def avg_pool2d(x: Array, *, kernel_size: Pair, stride: Pair, padding: Sides,
               count_include_pad: bool) -> Array:
    """y[n, i, j, c] = Σ x[n, window(i, j), c] / count; padding counts as zeros, or not at all."""
    image = (x.shape[1], x.shape[2])
    y = np.zeros(shapes.avg_pool2d(x.shape, kernel_size=kernel_size, stride=stride,
                                   padding=padding, count_include_pad=count_include_pad),
                 dtype=x.dtype)                         # N OH OW C
    for n, i, j, c in np.ndindex(*y.shape):
        rows, columns, count = _share(i, j, image, kernel_size, stride, padding, count_include_pad)
        y[n, i, j, c] = np.sum(x[n, rows, columns, c]) / count
    return y


def avg_pool2d_input(y: Array, *, image_size: Pair, kernel_size: Pair, stride: Pair,
                     padding: Sides, count_include_pad: bool) -> Array:
    """Adjoint of ``avg_pool2d``: each pixel of the window gets an equal share -> N H W C."""
    x = np.zeros((y.shape[0], *image_size, y.shape[3]), dtype=y.dtype)
    for n, i, j, c in np.ndindex(*y.shape):
        rows, columns, count = _share(i, j, image_size, kernel_size, stride, padding,
                                      count_include_pad)
        x[n, rows, columns, c] += equal_share(y[n, i, j, c], count)
    return x
