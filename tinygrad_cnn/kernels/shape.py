"""Whole-array kernels that move entries: padding, indexing, and their adjoints, which add back."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_cnn.shapes import Pair, Shape
from tinygrad_cnn.types import Array

__all__ = ["crop", "pad", "scatter_add"]

PadWidth = tuple[Pair, ...]


def _sources(n: int, both: Pair, mode: str) -> Array:
    """For each position of a padded axis, the position that it is copied from."""
    if both == (0, 0):
        return np.arange(n)
    return np.pad(np.arange(n), both, mode=mode)  # type: ignore[call-overload]


def pad(x: Array, *, pad_width: PadWidth, mode: str, value: float) -> Array:
    """More entries at both ends of each axis: a constant, or copies of what is there."""
    if mode == "constant":
        shape = [before + n + after for n, (before, after) in zip(x.shape, pad_width, strict=True)]
        y = np.full(shape, value, x.dtype)
        y[tuple(slice(before, before + n)
                for n, (before, _) in zip(x.shape, pad_width, strict=True))] = x
        return y
    for axis, both in enumerate(pad_width):
        if both != (0, 0):
            x = x.take(_sources(x.shape[axis], both, mode), axis=axis)
    return x.copy() if not any(map(any, pad_width)) else x


def crop(y: Array, *, pad_width: PadWidth, mode: str) -> Array:
    """The adjoint of `pad`: a crop, or each copy added back to where it came from."""
    if mode == "constant":
        return y[tuple(slice(before, n - after)
                       for n, (before, after) in zip(y.shape, pad_width, strict=True))].copy()
    for axis, both in enumerate(pad_width):
        if both == (0, 0):
            continue
        n = y.shape[axis] - sum(both)
        x = np.zeros((*y.shape[:axis], n, *y.shape[axis + 1:]), y.dtype)
        np.add.at(np.moveaxis(x, axis, 0), _sources(n, both, mode), np.moveaxis(y, axis, 0))
        y = x
    return y if y.flags.owndata else y.copy()


def scatter_add(y: Array, *, index: tuple[Any, ...], shape: Shape) -> Array:
    """Zeros of ``shape`` with ``y`` added at ``index``: the adjoint of ``x[index]``."""
    x = np.zeros(shape, y.dtype)
    if any(isinstance(i, np.ndarray) and i.dtype.kind != "b" for i in index):
        np.add.at(x, index, y)                               # an entry may be picked repeatedly
    else:
        x[index] = y
    return x
