"""conv2d and its two adjoints as matrix products over blocks of patches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from tinygrad_cnn import shapes
from tinygrad_cnn.kernels.threads import parallel
from tinygrad_cnn.shapes import Pair, Sides

__all__ = ["conv2d", "conv2d_input", "conv2d_weight"]

Array = NDArray[Any]

_BLOCK = 1 << 17        # entries of patches at a time: half a megabyte of float32, inside L2


def padded(x: Array, padding: Sides) -> Array:
    """``x`` with zeros around each image."""
    (top, bottom), (left, right) = padding
    if not (top or bottom or left or right):
        return x
    n, h, w, c = x.shape
    out = np.zeros((n, h + top + bottom, w + left + right, c), x.dtype)
    out[:, top:top + h, left:left + w] = x
    return out


def patches(x: Array, size: Pair, kernel_size: Pair, stride: Pair, dilation: Pair) -> Array:
    """A view of a padded image's windows: N OH OW KH KW C."""
    n, _, _, c = x.shape
    sn, sh, sw, sc = x.strides
    return as_strided(x, (n, *size, *kernel_size, c),
                      (sn, sh * stride[0], sw * stride[1], sh * dilation[0], sw * dilation[1], sc))


def conv2d(x: Array, w: Array, b: Array | None = None, *, stride: Pair, padding: Sides,
           dilation: Pair, groups: int) -> Array:
    """N H W C, KH KW C/groups O, O -> N OH OW O."""
    n, oh, ow, o = shapes.conv2d(x.shape, w.shape, stride=stride, padding=padding,
                                 dilation=dilation, groups=groups)
    kh, kw, c, _ = w.shape
    y = np.empty((n, oh, ow, o), np.result_type(x, w))
    view = patches(padded(x, padding), (oh, ow), (kh, kw), stride, dilation)
    per = o // groups
    images = max(1, _BLOCK // max(1, oh * ow * kh * kw * c))

    def work(low: int, high: int) -> None:
        for first in range(low, high, images):
            part = slice(first, min(first + images, high))
            for group in range(groups):
                block = view[part, ..., group * c:(group + 1) * c].reshape(-1, kh * kw * c)
                filters = w[..., group * per:(group + 1) * per].reshape(-1, per)
                y[part, ..., group * per:(group + 1) * per] = (
                    block @ filters).reshape(-1, oh, ow, per)
            if b is not None:
                y[part] += b

    parallel(n, work)
    return y


def conv2d_input(y: Array, w: Array, *, image_size: Pair, stride: Pair, padding: Sides,
                 dilation: Pair, groups: int) -> Array:
    """N OH OW O, KH KW C/groups O -> N H W C."""
    n, oh, ow, o = y.shape
    kh, kw, c, _ = w.shape
    (top, bottom), (left, right) = padding
    height, width = image_size
    per = o // groups
    x = np.zeros((n, height + top + bottom, width + left + right, c * groups),
                 np.result_type(y, w))
    images = max(1, _BLOCK // max(1, oh * ow * kh * kw * c))

    def work(low: int, high: int) -> None:
        for first in range(low, high, images):
            part = slice(first, min(first + images, high))
            for group in range(groups):
                rows = y[part, ..., group * per:(group + 1) * per].reshape(-1, per)
                filters = w[..., group * per:(group + 1) * per].reshape(-1, per)
                block = (rows @ filters.T).reshape(-1, oh, ow, kh, kw, c)
                channels = slice(group * c, (group + 1) * c)
                for u in range(kh):
                    for v in range(kw):
                        down, across = u * dilation[0], v * dilation[1]
                        x[part, down:down + (oh - 1) * stride[0] + 1:stride[0],
                          across:across + (ow - 1) * stride[1] + 1:stride[1],
                          channels] += block[:, :, :, u, v]

    parallel(n, work)
    return np.ascontiguousarray(x[:, top:top + height, left:left + width])


def conv2d_weight(x: Array, y: Array, *, kernel_size: Pair, stride: Pair, padding: Sides,
                  dilation: Pair, groups: int) -> Array:
    """N H W C, N OH OW O -> KH KW C/groups O."""
    n, oh, ow, o = y.shape
    kh, kw = kernel_size
    c = x.shape[3] // groups
    per = o // groups
    dtype = np.result_type(x, y)
    view = patches(padded(x, padding), (oh, ow), kernel_size, stride, dilation)
    images = max(1, _BLOCK // max(1, oh * ow * kh * kw * c))

    def work(low: int, high: int) -> Array:
        total = np.zeros((groups, kh * kw * c, per), dtype)
        for first in range(low, high, images):
            part = slice(first, min(first + images, high))
            for group in range(groups):
                block = view[part, ..., group * c:(group + 1) * c].reshape(-1, kh * kw * c)
                rows = y[part, ..., group * per:(group + 1) * per].reshape(-1, per)
                total[group] += block.T @ rows
        return total

    total = sum(parallel(n, work))
    return np.ascontiguousarray(total.transpose(1, 0, 2).reshape(kh, kw, c, o))
