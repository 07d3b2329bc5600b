"""Standardising the channels of images, block by block on several threads.

A block stays in the cache through all its steps, so that the images are read once for each pass and
not once for each step.  Several pixels make one line, with the numbers of the channels repeated
along it: NumPy is slow on lines of 16 numbers.

The steps are those of the formulas, with the mean taken off first: a variance as the mean of the
squares less the square of the mean would lose its digits where the mean is large.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_cnn.kernels import compiled
from tinygrad_cnn.kernels.blocks import Array, borrowed, long_lines
from tinygrad_cnn.kernels.memory import empty
from tinygrad_cnn.kernels.products import add_rows
from tinygrad_cnn.kernels.threads import parallel

__all__ = ["affine", "moments", "served", "standardize_input", "totals"]

_LINE = 2048            # numbers in a line, at most
_SHORT = 512            # of compiled loops, which only need whole vectors
_BLOCK = 1 << 16        # numbers in a block: three arrays of them fit into L2
_LEAST = 1 << 14        # numbers, from which blocks pay


def served(x: Array, axis: tuple[int, ...]) -> bool:
    """Is this a case for the kernels below?"""
    return (x.size >= _LEAST and axis == tuple(range(x.ndim - 1)) and x.flags.c_contiguous
            and x.dtype.kind == "f")


def _lines(x: Array) -> Array:
    """The array as long lines, each of whole pixels."""
    return long_lines(x, _SHORT if compiled.get_compiled() else _LINE)


def _along(vector: Array, lines: Array) -> Array:
    """The numbers of the channels, repeated along a line."""
    numbers = vector.reshape(-1).astype(lines.dtype, copy=False)
    return np.broadcast_to(numbers, (lines.shape[1] // numbers.size, numbers.size)).reshape(-1)


def _blocks(low: int, high: int, lines: Array) -> list[slice]:
    size = max(1, _BLOCK // lines.shape[1])
    return [slice(first, min(first + size, high)) for first in range(low, high, size)]


def _sum(part: Array, channels: int) -> Array:
    """A sum over lines, for each channel: C."""
    return np.asarray(part.reshape(-1, channels).sum(0))


def moments(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance of each channel, with the axes kept."""
    channels = x.shape[-1]
    lines, shape = _lines(x), (1,) * (x.ndim - 1) + x.shape[-1:]
    passes = compiled.module("passes", x.dtype)
    if passes is not None:
        return _moments_compiled(passes, lines, channels, shape)
    n = x.dtype.type(x.size // channels)
    centre = _sum(add_rows(lines), channels) / n
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

    variance = _sum(sum(parallel(len(lines), work)), channels) / n
    return centre.reshape(shape), variance.reshape(shape)


def _moments_compiled(passes: Any, lines: Array, channels: int,
                      shape: tuple[int, ...]) -> tuple[Array, Array]:
    """In one pass: each column of each part has a mean of its own, put together in float64."""
    def work(low: int, high: int) -> tuple[int, Array, Array]:
        mean, squares = np.zeros(lines.shape[1]), np.zeros(lines.shape[1])
        passes.moments(lines, low, high, mean, squares)
        return high - low, mean, squares

    found = parallel(len(lines), work, products=False)
    count = np.repeat([rows for rows, _, _ in found], lines.shape[1] // channels)[:, None]
    mean, squares = (np.concatenate([part[i].reshape(-1, channels) for part in found])
                     for i in (1, 2))
    centre = (count * mean).sum(0) / count.sum()
    variance = (squares + count * (mean - centre) ** 2).sum(0) / count.sum()
    return (centre.astype(lines.dtype).reshape(shape), variance.astype(lines.dtype).reshape(shape))


def affine(x: Array, centre: Array, factor: Array, offset: Array | None = None) -> Array:
    """(x − centre) · factor + offset, a number for each channel."""
    lines = _lines(x)
    out = empty(lines.shape, x.dtype)
    centre, factor = _along(centre, lines), _along(factor, lines)
    added = None if offset is None else _along(offset, lines)
    passes = compiled.module("passes", x.dtype)

    def work(low: int, high: int) -> None:
        if passes is not None:
            passes.affine(lines, centre, factor, np.zeros_like(factor) if added is None else added,
                          out, low, high)
            return
        for part in _blocks(low, high, lines):
            target = out[part]
            np.subtract(lines[part], centre, out=target)
            np.multiply(target, factor, out=target)
            if added is not None:
                np.add(target, added, out=target)

    parallel(len(lines), work, products=passes is None)
    return out.reshape(x.shape)


def totals(g: Array, x: Array, centre: Array) -> Array:
    """Σ g and Σ g · (x − centre) of each channel: 2 C."""
    lines, given = _lines(x), _lines(np.ascontiguousarray(g))
    centre = _along(centre, lines)
    passes = compiled.module("passes", x.dtype)

    def work(low: int, high: int) -> Array:
        if passes is not None:
            sums = np.zeros((2, lines.shape[1]))
            passes.totals(given, lines, centre, low, high, sums[0], sums[1])
            return sums
        sums = np.zeros((2, lines.shape[1]), lines.dtype)
        for part in _blocks(low, high, lines):
            block = given[part]
            ones = np.ones(len(block), lines.dtype)
            with borrowed(lines.dtype, block.shape) as (d,):
                np.subtract(lines[part], centre, out=d)
                np.multiply(d, block, out=d)
                sums[0] += ones @ block
                sums[1] += ones @ d
        return sums

    found = np.asarray(sum(parallel(len(lines), work, products=passes is None)))
    return found.reshape(2, -1, x.shape[-1]).sum(1).astype(x.dtype, copy=False)


def standardize_input(g: Array, x: Array, centre: Array, scale: Array, sums: Array,
                      weight: Array | None = None) -> Array:
    """scale · (g − mean(g) − x̂ · mean(g · x̂)) · weight, where x̂ = scale · (x − centre).

    ``sums`` are the `totals` of ``g`` and ``x``.
    """
    lines, given = _lines(x), _lines(np.ascontiguousarray(g))
    n = x.dtype.type(math.prod(x.shape[:-1]))
    flat = scale.reshape(-1)
    centre, scale = _along(centre, lines), _along(scale, lines)
    mean, along = _along(sums[0] / n, lines), _along(-(sums[1] / n) * flat * flat, lines)
    last = None if weight is None else _along(weight, lines)
    out = empty(lines.shape, x.dtype)
    passes = compiled.module("passes", x.dtype)

    def work(low: int, high: int) -> None:
        if passes is not None:
            passes.standardize_input(given, lines, centre, along, mean, scale,
                                     np.ones_like(scale) if last is None else last, out, low, high)
            return
        for part in _blocks(low, high, lines):
            target = out[part]
            np.subtract(lines[part], centre, out=target)
            np.multiply(target, along, out=target)
            np.add(target, given[part], out=target)
            np.subtract(target, mean, out=target)
            np.multiply(target, scale, out=target)
            if last is not None:
                np.multiply(target, last, out=target)

    parallel(len(lines), work, products=passes is None)
    return out.reshape(x.shape)
