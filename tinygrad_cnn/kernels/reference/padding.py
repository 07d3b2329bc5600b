"""Padding with loops, and where a window lies.

A line of pixels is padded by asking, for each place of the longer line, which pixel is seen there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn import shapes
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.shapes import Pair, Sides

__all__ = ["crop", "pad", "remove_padding", "span", "zero_pad"]

Array = NDArray[Any]


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
    raise SettingError(f"pad: mode {mode!r} has no adjoint; choose from constant, reflect, edge, "
                       "wrap")


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
