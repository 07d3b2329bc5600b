"""Standardising the channels of images, block by block on several threads.

A block stays in the cache through all its steps, so that the images are read once for each pass and
not once for each step.  Several pixels make one line, with the numbers of the channels repeated
along it: NumPy is slow on lines of 16 numbers.

The steps are those of the formulas, with the mean taken off first: a variance as the mean of the
squares less the square of the mean would lose its digits where the mean is large.
"""

from __future__ import annotations

import math

import numpy as np

from tinygrad_cnn.kernels.blocks import Array, borrowed
from tinygrad_cnn.kernels.products import add_rows
from tinygrad_cnn.kernels.threads import parallel

__all__ = ["affine", "moments", "served", "standardize_input", "weight"]

_LINE = 2048            # numbers in a line, at most
_BLOCK = 1 << 16        # numbers in a block: three arrays of them fit into L2
_LEAST = 1 << 14        # numbers, from which blocks pay


def served(x: Array, axis: tuple[int, ...]) -> bool:
    """Is this a case for the kernels below?"""
    return (x.size >= _LEAST and axis == tuple(range(x.ndim - 1)) and x.flags.c_contiguous
            and x.dtype.kind == "f")


def _lines(x: Array) -> Array:
    """The array as long lines, each of whole pixels."""
    channels = x.shape[-1]
    pixels, together = x.size // channels, 1
    while pixels % (2 * together) == 0 and 2 * together * channels <= _LINE:
        together *= 2
    return x.reshape(-1, together * channels)


def _along(vector: Array, lines: Array) -> Array:
    """The numbers of the channels, repeated along a line."""
    return np.tile(vector.reshape(-1), lines.shape[1] // vector.size).astype(lines.dtype)


def _blocks(low: int, high: int, lines: Array) -> list[slice]:
    size = max(1, _BLOCK // lines.shape[1])
    return [slice(first, min(first + size, high)) for first in range(low, high, size)]


def _sum(parts: list[Array], channels: int) -> Array:
    """Parts of a sum over lines: C."""
    total: Array = sum(parts[1:], start=parts[0])
    return np.asarray(total.reshape(-1, channels).sum(0))


def moments(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance of each channel, with the axes kept."""
    channels = x.shape[-1]
    lines, n = _lines(x), x.dtype.type(x.size // channels)
    centre = add_rows(lines).reshape(-1, channels).sum(0) / n
    centre_line = _along(centre, lines)

    def work(low: int, high: int) -> Array:
        total = np.zeros(lines.shape[1], x.dtype)
        for part in _blocks(low, high, lines):
            block = lines[part]
            with borrowed(x.dtype, block.shape) as (d,):
                np.subtract(block, centre_line, out=d)
                np.multiply(d, d, out=d)
                total += np.ones(len(d), d.dtype) @ d
        return total

    variance = _sum(parallel(len(lines), work), channels) / n
    shape = (1,) * (x.ndim - 1) + (channels,)
    return centre.reshape(shape), variance.reshape(shape)


def affine(x: Array, centre: Array, factor: Array, offset: Array | None = None) -> Array:
    """(x − centre) · factor + offset, with a number for each channel."""
    lines = _lines(x)
    out = np.empty(lines.shape, x.dtype)
    centre, factor = _along(centre, lines), _along(factor, lines)
    added = None if offset is None else _along(offset, lines)

    def work(low: int, high: int) -> None:
        for part in _blocks(low, high, lines):
            target = out[part]
            np.subtract(lines[part], centre, out=target)
            np.multiply(target, factor, out=target)
            if added is not None:
                np.add(target, added, out=target)

    parallel(len(lines), work)
    return out.reshape(x.shape)


def weight(g: Array, x: Array, centre: Array, scale: Array) -> Array:
    """Σ g · x̂ of each channel: C."""
    lines, given = _lines(x), _lines(np.ascontiguousarray(g))
    totals = _totals(given, lines, _along(centre, lines))
    return np.asarray(totals[1].reshape(-1, x.shape[-1]).sum(0) * scale.reshape(-1))


def _totals(given: Array, lines: Array, centre: Array) -> Array:
    """Σ g and Σ g · (x − centre) over the lines."""
    def work(low: int, high: int) -> Array:
        totals = np.zeros((2, lines.shape[1]), lines.dtype)
        for part in _blocks(low, high, lines):
            block = given[part]
            ones = np.ones(len(block), lines.dtype)
            with borrowed(lines.dtype, block.shape) as (d,):
                np.subtract(lines[part], centre, out=d)
                np.multiply(d, block, out=d)
                totals[0] += ones @ block
                totals[1] += ones @ d
        return totals

    return np.asarray(sum(parallel(len(lines), work)))


def standardize_input(g: Array, x: Array, centre: Array, scale: Array) -> Array:
    """scale · (g − mean(g) − x̂ · mean(g · x̂)), where x̂ = scale · (x − centre)."""
    channels = x.shape[-1]
    lines, given = _lines(x), _lines(np.ascontiguousarray(g))
    centre_line, scale_line = _along(centre, lines), _along(scale, lines)

    totals = _totals(given, lines, centre_line)
    n = x.dtype.type(math.prod(x.shape[:-1]))
    mean, along = (totals[i].reshape(-1, channels).sum(0) / n for i in range(2))
    flat = scale.reshape(-1)
    mean_line, along_line = _along(mean, lines), _along(-along * flat * flat, lines)
    out = np.empty(lines.shape, x.dtype)

    def work(low: int, high: int) -> None:
        for part in _blocks(low, high, lines):
            target = out[part]
            np.subtract(lines[part], centre_line, out=target)
            np.multiply(target, along_line, out=target)
            np.add(target, given[part], out=target)
            np.subtract(target, mean_line, out=target)
            np.multiply(target, scale_line, out=target)

    parallel(len(lines), work)
    return out.reshape(x.shape)
