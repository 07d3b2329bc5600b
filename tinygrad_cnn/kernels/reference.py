"""The oracle: every windowed op as the loops of a textbook, slow and obviously right.

One pixel of one channel of one image at a time, in the order in which the formula is written.  The
fast kernels are checked against these, and ``tinygrad_cnn.stepwise`` teaches with them, so nothing
here is clever, and nothing is shared with the fast files.  Every case is taken: any stride,
asymmetric padding, dilation, groups, any float or complex dtype (a maximum of complex numbers
compares real parts).

Settings arrive in one form: ``stride`` and ``dilation`` are pairs (down, across), ``padding`` is
((top, bottom), (left, right)), axes are counted from the front.  Images N H W C, filters
KH KW C/groups O, results N OH OW O.
"""

from __future__ import annotations

import math

import numpy as np

from tinygrad_cnn import shapes
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.shapes import Pair, Shape, Sides
from tinygrad_cnn.types import Array

__all__ = ["avg_pool2d", "avg_pool2d_input", "conv2d", "conv2d_input", "conv2d_weight", "crop",
           "cross_entropy", "equal_share", "fold", "gather_max", "linear", "log_softmax",
           "mask_of_maxima", "matmul", "max_pool2d", "pad", "remove_padding", "scatter_max",
           "single_step", "softmax", "span", "spread_maxima", "unfold", "zero_pad"]



# ---- padding, and where a window lies

def _source(place: int, n: int, mode: str) -> int | None:
    """Which of the ``n`` pixels of a line is seen at ``place``; None where there is no pixel."""
    if 0 <= place < n:
        return place
    if mode == "constant":
        return None
    if mode == "edge" or n == 1:
        return min(max(place, 0), n - 1)
    if mode == "wrap":
        return place % n
    if mode == "reflect":                               # there and back again: 0 1 2 3 2 1 0 1 ...
        step = place % (2 * (n - 1))
        return min(step, 2 * (n - 1) - step)
    raise SettingError(f"pad: mode must be one of constant, reflect, edge, wrap, got {mode!r}")


def pad(x: Array, *, pad_width: tuple[Pair, ...], mode: str, value: float) -> Array:
    """Surround ``x`` with ``value`` or with copies of its own entries, one axis after the other.

    ``pad_width`` holds (before, after) for each axis; the modes are those of ``np.pad``.
    """
    for axis, (before, after) in enumerate(pad_width):
        n = x.shape[axis]
        lines = np.moveaxis(x, axis, 0)
        padded = np.full((before + n + after, *lines.shape[1:]), value, dtype=x.dtype)
        for place in range(len(padded)):
            source = _source(place - before, n, mode)
            if source is not None:
                padded[place] = lines[source]
        x = np.moveaxis(padded, 0, axis)
    return np.array(x, order="C")


def crop(y: Array, *, pad_width: tuple[Pair, ...], mode: str) -> Array:
    """Adjoint of ``pad``: every entry is added back to the one that it is a copy of."""
    for axis, (before, after) in enumerate(pad_width):
        n = y.shape[axis] - before - after
        padded = np.moveaxis(y, axis, 0)
        lines = np.zeros((n, *padded.shape[1:]), dtype=y.dtype)
        for place in range(len(padded)):
            source = _source(place - before, n, mode)
            if source is not None:
                lines[source] += padded[place]
        y = np.moveaxis(lines, 0, axis)
    return np.array(y, order="C")


def zero_pad(x: Array, padding: Sides) -> Array:
    """Zeros around the images, on H and W only: N H W C -> N H+top+bottom W+left+right C."""
    return pad(x, pad_width=((0, 0), *padding, (0, 0)), mode="constant", value=0.0)


def remove_padding(x_pad: Array, padding: Sides, image_size: Pair) -> Array:
    """Adjoint of ``zero_pad``: the images without their border (right for a border of 0 too)."""
    (top, _), (left, _) = padding
    h, w = image_size
    return np.array(x_pad[:, top:top + h, left:left + w])


def span(position: int, kernel: int, stride: int, dilation: int = 1) -> slice:
    """The pixels of a padded line under the window at ``position``."""
    corner = position * stride
    return slice(corner, corner + shapes.effective_kernel_size(kernel, dilation), dilation)


# ---- convolution in four nested loops, and its two adjoints

def single_step(window: Array, w: Array, b: Array | float = 0) -> np.floating:
    """One filter on one window: the sum of the products, and the bias added once."""
    return np.sum(window * w) + b


def _group(filter_index: Array, w: Shape, groups: int) -> slice:
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


# ---- windows, their maxima and their averages

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


def _pixel(index: Array, i: int, j: int, kernel_size: Pair, stride: Pair,
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


def equal_share(value: Array, count: int) -> Array:
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


# ---- rows

def matmul(a: Array, b: Array) -> Array:
    """y[..., i, j] = Σ_k a[..., i, k] · b[..., k, j]; leading axes broadcast."""
    leading = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a = np.broadcast_to(a, (*leading, *a.shape[-2:]))
    b = np.broadcast_to(b, (*leading, *b.shape[-2:]))
    y = np.zeros((*leading, a.shape[-2], b.shape[-1]), dtype=np.result_type(a, b))
    for *at, i, j in np.ndindex(*y.shape):
        y[(*at, i, j)] = np.sum(a[(*at, i)] * b[(*at, slice(None), j)])
    return y


def linear(x: Array, w: Array, b: Array | None = None) -> Array:
    """y[n, o] = b[o] + Σ_i x[n, i] · w[i, o]."""
    y = matmul(x, w)
    return y if b is None else y + b


def softmax(x: Array, *, axis: int) -> Array:
    """p_k = exp(x_k) / Σ_j exp(x_j), row by row; the largest entry is subtracted first."""
    rows = np.moveaxis(x, axis, -1)
    y = np.zeros(rows.shape, dtype=x.dtype)
    for at in np.ndindex(*rows.shape[:-1]):
        powers = np.exp(rows[at] - _largest(rows[at]))
        y[at] = powers / np.sum(powers)
    return np.moveaxis(y, -1, axis)


def log_softmax(x: Array, *, axis: int) -> Array:
    """x_k − log Σ_j exp(x_j), row by row: the exact logarithm, however small the probability."""
    rows = np.moveaxis(x, axis, -1)
    y = np.zeros(rows.shape, dtype=x.dtype)
    for at in np.ndindex(*rows.shape[:-1]):
        shifted = rows[at] - _largest(rows[at])
        y[at] = shifted - np.log(np.sum(np.exp(shifted)))
    return np.moveaxis(y, -1, axis)


def _largest(row: Array) -> Array:
    """The real part of the largest entry; 0 where that is infinite, for inf − inf is no number."""
    largest = row.real.max()
    return largest if np.isfinite(largest) else row.real.dtype.type(0)


def cross_entropy(x: Array, *, targets: Array) -> Array:
    """Loss of each row: −Σ_k targets[n, k] · log_softmax(x)[n, k], shape (N,)."""
    log_p = log_softmax(x, axis=1)
    y = np.zeros(len(x), dtype=x.dtype)
    for n, k in np.ndindex(*x.shape):
        if targets[n, k] != 0:                          # 0 · log 0 counts as 0
            y[n] -= targets[n, k] * log_p[n, k]
    return y
