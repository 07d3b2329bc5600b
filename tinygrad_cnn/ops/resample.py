"""Images in another size: `interpolate`, `pixel_shuffle`, adaptive pools, and pools by position.

Resampling is linear and separable: a matrix for the rows and one for the columns.  Windows that the
kernels of `max_pool2d` do not take (dilated, cut off, of unequal size) are read by position.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cnn import checks
from tinygrad_cnn.core import Tensor, TensorLike, as_setting
from tinygrad_cnn.errors import DTypeError, SettingError, ShapeError
from tinygrad_cnn.ops.declare import composed
from tinygrad_cnn.ops.linear import matmul
from tinygrad_cnn.ops.pooling import largest
from tinygrad_cnn.ops.shape import one_image, reshape, scatter_add, transpose
from tinygrad_cnn.shapes import PairLike
from tinygrad_cnn.types import Array

__all__ = ["adaptive_avg_pool2d", "adaptive_max_pool2d", "global_max_pool2d", "interpolate",
           "max_unpool2d", "pixel_shuffle", "pixel_unshuffle", "upsample2d"]


def images(owner: str, x: Tensor) -> None:
    """Refuse what is no batch of images with pixels."""
    if x.ndim != 4 or 0 in x.shape[1:3]:
        raise ShapeError(f"{owner}: x must hold images with pixels (N H W C), got {x.shape}")


def _resampled(owner: str, x: Tensor, rows: Array, columns: Array) -> Tensor:
    """N H W C -> N I J C by the matrices I H and J W."""
    checks.floats(owner, "x", x.dtype)
    n, h, w, c = x.shape
    y = matmul(rows.astype(x.dtype), reshape(x, (n, h, w * c)))                   # N I WC
    y = matmul(columns.astype(x.dtype), reshape(y, (n * len(rows), w, c)))        # NI J C
    return reshape(y, (n, len(rows), len(columns), c))


# ---- interpolation

def _nearest(size: int, wanted: int, scale: float | None) -> Array:
    """Which row each row of the result is."""
    step = size / wanted if scale is None else 1 / scale
    return np.minimum((np.arange(wanted) * step).astype(np.int64), size - 1)


def _linear(size: int, wanted: int, scale: float | None, align_corners: bool) -> Array:
    """How much of each row is in each row of the result: a matrix (wanted, size)."""
    if align_corners:
        places = np.linspace(0, size - 1, wanted) if wanted > 1 else np.zeros(1)
    else:
        step = size / wanted if scale is None else 1 / scale
        places = np.maximum((np.arange(wanted) + 0.5) * step - 0.5, 0)
    first = np.minimum(places.astype(np.int64), size - 1)
    share = places - first
    matrix = np.zeros((wanted, size))
    np.add.at(matrix, (np.arange(wanted), first), 1 - share)
    np.add.at(matrix, (np.arange(wanted), np.minimum(first + 1, size - 1)), share)
    return matrix


@composed
@one_image
def interpolate(x: TensorLike, size: PairLike | None = None,
                scale_factor: float | Sequence[float] | None = None, mode: str = "nearest",
                align_corners: bool = False) -> Tensor:
    """Images in another size.

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C)
    size : int or (int, int), pixels, optional
        Of the result; or give ``scale_factor``.
    scale_factor : float or (float, float), optional
        The result has floor(H · scale) rows and floor(W · scale) columns.
    mode : {"nearest", "bilinear"}, default "nearest"
    align_corners : bool, default False
        Bilinear only: whether the centers of the corner pixels stay where they are; otherwise the
        outer edges of the images do.

    Returns
    -------
    Tensor, shape (N, OH, OW, C)

    Raises
    ------
    ShapeError
        If ``x`` holds no images.
    SettingError
        If both or neither of size and scale_factor are given, or one is out of its range.

    Examples
    --------
    >>> x = Tensor(np.array([[1.0, 3.0]]).reshape(1, 1, 2, 1))
    >>> interpolate(x, (1, 4)).data.ravel()
    array([1., 1., 3., 3.])
    >>> interpolate(x, (1, 4), mode="bilinear").data.ravel()
    array([1. , 1.5, 2.5, 3. ])
    """
    x = cast(Tensor, x)
    images("interpolate", x)
    checks.choice("interpolate", "mode", mode, ("nearest", "bilinear"))
    align_corners = checks.flag("interpolate", "align_corners", align_corners)
    if (size is None) == (scale_factor is None):
        raise SettingError(f"interpolate: give size or scale_factor, got size={size!r} and "
                           f"scale_factor={scale_factor!r}")
    if align_corners and mode == "nearest":
        raise SettingError("interpolate: align_corners belongs to mode 'bilinear', got 'nearest'")
    scales: tuple[float | None, float | None] = (None, None)
    if size is not None:
        wanted = checks.pair("interpolate", "size", size, minimum=1)
    else:
        both = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * 2
        if len(both) != 2:
            raise SettingError("interpolate: scale_factor must be a number or two, got "
                               f"{scale_factor!r}")
        high, wide = (checks.number("interpolate", "scale_factor", s, above=0) for s in both)
        wanted = math.floor(x.shape[1] * high), math.floor(x.shape[2] * wide)
        scales = (high, wide)
        if 0 in wanted:
            raise SettingError(f"interpolate: scale_factor {scale_factor!r} leaves no pixel of "
                               f"{x.shape[1]}×{x.shape[2]}")
    if mode == "bilinear":
        return _resampled("interpolate", x, *(_linear(n, m, s, align_corners) for n, m, s in
                               zip(x.shape[1:3], wanted, scales, strict=True)))
    rows, columns = (_nearest(n, m, s) for n, m, s in
                     zip(x.shape[1:3], wanted, scales, strict=True))
    return x[:, rows[:, None], columns]


@composed
@one_image
def upsample2d(x: TensorLike, scale_factor: PairLike = 2, mode: str = "nearest",
               align_corners: bool = False) -> Tensor:
    """Images ``scale_factor`` times as large; see `interpolate`.

    >>> upsample2d(Tensor(np.ones((1, 2, 3, 1))), 2).shape
    (1, 4, 6, 1)
    """
    return interpolate(x, None, checks.pair("upsample2d", "scale_factor", scale_factor, minimum=1),
                       mode, align_corners)


@composed
@one_image
def pixel_shuffle(x: TensorLike, upscale_factor: int) -> Tensor:
    """Channels into pixels: (N, H, W, C r²) -> (N, H r, W r, C), in PyTorch's order of channels.

    Shi et al., *Real-time super-resolution with a sub-pixel network*, arXiv:1609.05158.

    >>> pixel_shuffle(Tensor(np.arange(4.0).reshape(1, 1, 1, 4)), 2).data[0, :, :, 0]
    array([[0., 1.],
           [2., 3.]])
    """
    x = cast(Tensor, x)
    r = checks.integer("pixel_shuffle", "upscale_factor", upscale_factor, minimum=1)
    if x.ndim != 4 or x.shape[3] % (r * r):
        raise ShapeError(f"pixel_shuffle: x must be (N H W C) with C divisible by {r * r}, got "
                         f"{x.shape}")
    n, h, w, c = x.shape
    y = transpose(reshape(x, (n, h, w, c // (r * r), r, r)), (0, 1, 4, 2, 5, 3))  # N H r W r C
    return reshape(y, (n, h * r, w * r, c // (r * r)))


@composed
@one_image
def pixel_unshuffle(x: TensorLike, downscale_factor: int) -> Tensor:
    """Pixels into channels: the inverse of `pixel_shuffle`.

    >>> pixel_unshuffle(Tensor(np.ones((1, 4, 4, 3))), 2).shape
    (1, 2, 2, 12)
    """
    x = cast(Tensor, x)
    r = checks.integer("pixel_unshuffle", "downscale_factor", downscale_factor, minimum=1)
    if x.ndim != 4 or x.shape[1] % r or x.shape[2] % r:
        raise ShapeError(f"pixel_unshuffle: x must be (N H W C) with H and W divisible by {r}, got "
                         f"{x.shape}")
    n, h, w, c = x.shape
    y = transpose(reshape(x, (n, h // r, r, w // r, r, c)), (0, 1, 3, 5, 2, 4))   # N H W C r r
    return reshape(y, (n, h // r, w // r, c * r * r))


# ---- windows of unequal size

def _windows(owner: str, x: Tensor, output_size: object) -> Iterator[tuple[int, Array, Array]]:
    """H and W, and first and last + 1 of the windows of an adaptive pool along each."""
    images(owner, x)
    both = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * 2
    if len(both) != 2:
        raise SettingError(f"{owner}: output_size must be one or two integers, got {output_size!r}")
    for size, n in zip(both, x.shape[1:3], strict=True):
        wanted = n if size is None else checks.integer(owner, "output_size", size, minimum=1)
        i = np.arange(wanted)
        yield n, i * n // wanted, -(-(i + 1) * n // wanted)


@composed
@one_image
def adaptive_avg_pool2d(x: TensorLike, output_size: int | Sequence[int | None]) -> Tensor:
    """The means of OH × OW windows that cover the image: row i takes floor(i H / OH) and after.

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C)
    output_size : int or (int, int)
        OH and OW; None keeps H or W.

    Raises
    ------
    ShapeError, SettingError
        If ``x`` holds no images, or a size is less than 1.

    Examples
    --------
    >>> adaptive_avg_pool2d(Tensor(np.arange(3.0).reshape(1, 1, 3, 1)), (1, 2)).data.ravel()
    array([0.5, 1.5])
    """
    x = cast(Tensor, x)
    matrices = []
    for size, first, last in _windows("adaptive_avg_pool2d", x, output_size):
        inside = (np.arange(size) >= first[:, None]) & (np.arange(size) < last[:, None])
        matrices.append(inside / (last - first)[:, None])
    return _resampled("adaptive_avg_pool2d", x, *matrices)


@composed
@one_image
def adaptive_max_pool2d(x: TensorLike, output_size: int | Sequence[int | None],
                        return_indices: bool = False) -> Tensor | tuple[Tensor, Array]:
    """The largest pixels of OH × OW windows that cover the image, as in `adaptive_avg_pool2d`.

    With ``return_indices`` also row · W + column of each, for `max_unpool2d`.

    >>> adaptive_max_pool2d(Tensor(np.arange(3.0).reshape(1, 1, 3, 1)), (1, 2)).data.ravel()
    array([1., 2.])
    """
    x = cast(Tensor, x)
    places = []
    for _, first, last in _windows("adaptive_max_pool2d", x, output_size):
        steps = np.arange((last - first).max())
        places.append(np.minimum(first[:, None] + steps, last[:, None] - 1))
    y, indices = largest(x, *places)
    return (y, indices) if checks.flag("adaptive_max_pool2d", "return_indices",
                                       return_indices) else y


@composed
@one_image
def global_max_pool2d(x: TensorLike) -> Tensor:
    """The largest pixel of each channel: (N, H, W, C) -> (N, C).

    >>> global_max_pool2d(Tensor(np.arange(4.0).reshape(1, 2, 2, 1))).data
    array([[3.]])
    """
    x = cast(Tensor, x)
    images("global_max_pool2d", x)
    return reshape(cast(Tensor, adaptive_max_pool2d(x, 1)), (x.shape[0], x.shape[3]))


@composed
def max_unpool2d(x: TensorLike, indices: ArrayLike, kernel_size: PairLike,
                 stride: PairLike | None = None, padding: PairLike = 0,
                 output_size: Sequence[int] | None = None) -> Tensor:
    """Each entry back at the place from which `max_pool2d` took it; 0 elsewhere.

    Parameters
    ----------
    x : Tensor, shape (N, OH, OW, C)
    indices : array_like of int, shape (N, OH, OW, C)
        As ``max_pool2d(..., return_indices=True)`` gives them: row · W + column.
    kernel_size, stride, padding
        Of the pool; the size of the images is worked out from them.
    output_size : sequence of int, optional
        H and W, where several sizes give the same pool; or the whole shape (N, H, W, C).

    Raises
    ------
    ShapeError
        If the shapes do not fit, or an index is outside the images.
    SettingError
        If two entries stand at one place, as those of overlapping windows may.

    Examples
    --------
    >>> x = Tensor(np.array([[1.0, 4.0], [3.0, 2.0]]).reshape(1, 2, 2, 1))
    >>> y, indices = max_pool2d(x, 2, return_indices=True)
    >>> max_unpool2d(y, indices, 2).data[0, :, :, 0]
    array([[0., 4.],
           [0., 0.]])
    """
    x = cast(Tensor, x)
    owner = "max_unpool2d"
    images(owner, x)
    places = as_setting(indices, owner, "indices")
    if places.dtype.kind not in "iu":
        raise DTypeError(f"{owner}: indices must hold integers, got {places.dtype}")
    if places.shape != x.shape:
        raise ShapeError(f"{owner}: indices are {places.shape}, x is {x.shape}")
    kernel = checks.pair(owner, "kernel_size", kernel_size, minimum=1)
    step = kernel if stride is None else checks.pair(owner, "stride", stride, minimum=1)
    border = checks.pair(owner, "padding", padding, minimum=0)
    n, oh, ow, c = x.shape
    if output_size is None:
        h, w = ((m - 1) * s - 2 * p + k for m, s, p, k in
                zip((oh, ow), step, border, kernel, strict=True))
    else:
        whole_shape = tuple(np.atleast_1d(as_setting(output_size, owner, "output_size")).tolist())
        sizes = whole_shape[1:3] if len(whole_shape) == 4 else whole_shape
        h, w = checks.pair(owner, "output_size", sizes, minimum=1)
    if places.size and not 0 <= places.min() <= places.max() < h * w:
        worst = places.min() if places.min() < 0 else places.max()
        raise ShapeError(f"{owner}: index {worst} is outside images of {h}×{w}; give output_size=")
    image, channel = np.arange(n)[:, None, None, None], np.arange(c)
    whole = ((image * h + places // w) * w + places % w) * c + channel
    if np.unique(whole).size != whole.size:
        raise SettingError(f"{owner}: two entries stand at one place, as with overlapping windows; "
                           "pool with stride=kernel_size")
    return scatter_add(x, index=(image, places // w, places % w, channel), shape=(n, h, w, c))
