"""Standardizing the channels of images, block by block on several threads.

A block stays in the cache through all its steps, so that the images are read once for each pass and
not once for each step.  Several pixels make one line, with the numbers of the channels repeated
along it: NumPy is slow on lines of 16 numbers.

The steps are those of the formulas, with the mean taken off first: a variance as the mean of the
squares less the square of the mean would lose its digits where the mean is large.  Statistics are
float64: a float32 mean of 1e4 is off by up to 5e-4, which a channel of small deviation would show.
Where images are float32, ``_split`` hands what is left of the mean to a term that is added anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from tinygrad_cnn.kernels import compiled
from tinygrad_cnn.kernels.memory import empty, long_lines, workspace
from tinygrad_cnn.kernels.parallel import parallel, parts
from tinygrad_cnn.kernels.reduce import Axes, add_up, count, mean, sum, sum_to
from tinygrad_cnn.types import Array, DType

__all__ = ["affine", "batch_norm", "batch_norm_by", "batch_norm_cotangents", "batch_norm_weight",
           "standardize", "standardize_input", "statistics", "var"]

_LINE = 2048            # numbers in a line, at most
_SHORT = 512            # of compiled loops, which only need whole vectors
_BLOCK = 1 << 16        # numbers in a block: three arrays of them fit into L2
_LEAST = 1 << 14        # numbers, from which blocks pay


def _served(x: Array, axis: tuple[int, ...]) -> bool:
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


def _moments(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance of each channel in float64, with the axes kept.

    In one pass: each block has moments of its own, and those of all blocks are put together as
    Chan, Golub & LeVeque do (*Updating formulae*, 1979): a large mean costs no digits.
    """
    channels = x.shape[-1]
    lines = _lines(x)
    passes = compiled.module("passes", x.dtype)

    if passes is None:
        found = [part for some in parallel(len(lines), lambda low, high: [
            _block_moments(block) for part in _blocks(low, high, lines)
            for block in _flat(lines[part])]) for part in some]
    else:
        several = parts(len(lines))
        means, every = np.zeros((2, several, lines.shape[1]))
        passes.moments(len(lines), lines, means, every)
        cuts = [len(lines) * i // several for i in range(several + 1)]
        found = list(zip(np.diff(cuts).tolist(), means, every, strict=True))
    count = np.repeat([rows for rows, _, _ in found],
                      [len(mean) // channels for _, mean, _ in found])[:, None]
    mean, squares = (np.concatenate([part[i].reshape(-1, channels) for part in found])
                     for i in (1, 2))
    center = (count * mean).sum(0) / count.sum()
    variance = (squares + count * (mean - center) ** 2).sum(0) / count.sum()
    shape = (1,) * (x.ndim - 1) + x.shape[-1:]
    return center.reshape(shape), variance.reshape(shape)


def _flat(lines: Array) -> Iterator[Array]:
    """The same numbers as blocks of at most 63 lines: sums of few numbers keep their digits."""
    while len(lines):
        together = max(1, len(lines) // 32)
        whole = len(lines) // together * together
        yield lines[:whole].reshape(-1, together * lines.shape[1])
        lines = lines[whole:]


def _block_moments(block: Array) -> tuple[int, Array, Array]:
    """Lines, and of each column of them the mean and the sum of squared deviations, in float64.

    The first line is taken off before anything is added up, so that a constant column is exact.
    """
    count = len(block)
    ones = np.ones(count, block.dtype)
    with workspace(block.dtype, block.shape) as (d,):
        np.subtract(block, block[0], out=d)
        total = (ones @ d).astype(np.float64)
        np.multiply(d, d, out=d)
        squares = np.maximum(ones @ d - total * total / count, 0)
    return count, block[0] + total / count, squares


def _split(center: Array, dtype: DType) -> tuple[Array, Array]:
    """A mean in the dtype of the images, and the rest of it."""
    rounded = center.reshape(-1).astype(dtype)
    return rounded, center.reshape(-1) - rounded


def _affine(x: Array, center: Array, factor: Array, offset: Array | float = 0) -> Array:
    """(x − center) · factor + offset, a number for each channel."""
    lines = _lines(x)
    out = empty(lines.shape, x.dtype)
    center, rest = _split(center, x.dtype)
    added = _along(offset - rest * factor.reshape(-1), lines)
    center, factor = _along(center, lines), _along(factor, lines)
    passes = compiled.module("passes", x.dtype)

    if passes is not None:
        passes.affine(len(lines), lines, center, factor, added, out)
        return out.reshape(x.shape)

    def work(low: int, high: int) -> None:
        for part in _blocks(low, high, lines):
            target = out[part]
            np.subtract(lines[part], center, out=target)
            np.multiply(target, factor, out=target)
            np.add(target, added, out=target)

    parallel(len(lines), work)
    return out.reshape(x.shape)


def _totals(g: Array, x: Array, center: Array) -> Array:
    """Σ g and Σ g · (x − center) of each channel: 2 C, in float64."""
    lines, given = _lines(x), _lines(np.ascontiguousarray(g))
    center, rest = _split(center, x.dtype)
    center = _along(center, lines)
    passes = compiled.module("passes", x.dtype)

    def work(low: int, high: int) -> Array:
        sums = np.zeros((2, lines.shape[1]), lines.dtype)
        for part in _blocks(low, high, lines):
            block = given[part]
            ones = np.ones(len(block), lines.dtype)
            with workspace(lines.dtype, block.shape) as (d,):
                np.subtract(lines[part], center, out=d)
                np.multiply(d, block, out=d)
                sums[0] += ones @ block
                sums[1] += ones @ d
        return sums

    if passes is None:
        found = np.asarray(np.sum(parallel(len(lines), work), axis=0), np.float64)
    else:
        several = np.zeros((parts(len(lines)), 2, lines.shape[1]))
        passes.totals(len(lines), given, lines, center, several)
        found = several.sum(0)
    found = found.reshape(2, -1, x.shape[-1]).sum(1)
    found[1] -= rest * found[0]
    return found


def _standardize_input(g: Array, x: Array, center: Array, scale: Array, sums: Array,
                      weight: Array | None = None) -> Array:
    """scale · (g − mean(g) − x̂ · mean(g · x̂)) · weight, where x̂ = scale · (x − center).

    ``sums`` are the `totals` of ``g`` and ``x``.
    """
    lines, given = _lines(x), _lines(np.ascontiguousarray(g))
    n = math.prod(x.shape[:-1])
    center, rest = _split(center, x.dtype)
    flat = scale.reshape(-1)
    slope = -(sums[1] / n) * flat * flat
    mean, along = _along(sums[0] / n + rest * slope, lines), _along(slope, lines)
    center, scale = _along(center, lines), _along(flat, lines)
    last = None if weight is None else _along(weight, lines)
    out = empty(lines.shape, x.dtype)
    passes = compiled.module("passes", x.dtype)

    if passes is not None:
        passes.standardize_input(len(lines), given, lines, center, along, mean, scale,
                                 np.ones_like(scale) if last is None else last, out)
        return out.reshape(x.shape)

    def work(low: int, high: int) -> None:
        for part in _blocks(low, high, lines):
            target = out[part]
            np.subtract(lines[part], center, out=target)
            np.multiply(target, along, out=target)
            np.add(target, given[part], out=target)
            np.subtract(target, mean, out=target)
            np.multiply(target, scale, out=target)
            if last is not None:
                np.multiply(target, last, out=target)

    parallel(len(lines), work)
    return out.reshape(x.shape)


def statistics(x: Array, axis: Axes) -> tuple[Array, Array]:
    """Mean and biased variance over ``axis`` in float64 or wider, with the axes kept."""
    if _served(x, axis):
        return _moments(x)
    # The first entry is taken off before anything is added up, so that constants are exact; then
    # the mean, as far as the dtype of x can hold it, and what that leaves.
    wide = np.result_type(x.dtype, np.float64)
    first = x[tuple(slice(0, 1) if i in axis else slice(None) for i in range(x.ndim))]
    d = x - first
    n = count(x.shape, axis)
    middle = (add_up(d, axis, wide) / n).astype(x.dtype)
    d -= middle
    rest = add_up(d, axis, wide) / n
    d *= d
    return first + (middle + rest), add_up(d, axis, wide) / n - rest * rest


def var(x: Array, *, axis: Axes, keepdims: bool) -> Array:
    """Σ (x − mean)² / n over ``axis``."""
    variance = statistics(x, axis)[1]
    if x.dtype.kind in "fc":                            # that of integers is none, and refused
        variance = variance.astype(x.dtype)
    return np.asarray(variance if keepdims else variance.squeeze(axis))


def _scale(variance: Array, eps: float) -> Array:
    return np.asarray(1 / np.sqrt(variance + eps))


def _standardized(x: Array, center: Array, scale: Array) -> Array:
    """(x − center) · scale, with a center of more digits than the dtype of x holds."""
    rounded = center.astype(x.dtype)
    y = x - rounded
    y -= (center - rounded).astype(x.dtype)
    y *= scale.astype(x.dtype)
    return np.asarray(y)


def standardize(x: Array, *, axis: Axes, eps: float) -> tuple[Array, dict[str, Array]]:
    """(x − mean) / √(var + eps) over ``axis``, and the statistics."""
    center, variance = statistics(x, axis)
    scale, found = _scale(variance, eps), {"center": center, "variance": variance}
    if _served(x, axis):
        return _affine(x, center, scale), found
    return _standardized(x, center, scale), found


def standardize_input(g: Array, x: Array, *, axis: Axes, eps: float, center: Array | None,
                      variance: Array | None) -> Array:
    """scale · (g − mean(g) − x̂ · mean(g · x̂)): the cotangent of x under `standardize`."""
    if center is None or variance is None:
        center, variance = statistics(x, axis)
    scale = _scale(variance, eps)
    if _served(x, axis):
        return _standardize_input(g, x, center, scale, _totals(g, x, center))
    y = _standardized(x, center, scale)                      # x̂
    y *= -mean(g * y, axis=axis, keepdims=True)
    y += g
    y -= mean(g, axis=axis, keepdims=True)
    y *= scale.astype(y.dtype)
    return np.asarray(y)


def batch_norm_weight(g: Array, x: Array, *, eps: float, center: Array | None,
                      variance: Array | None) -> Array:
    """Σ g · x̂ over all axes but the last: the cotangent of w under `batch_norm`."""
    axis = tuple(range(x.ndim - 1))
    if center is None or variance is None:
        center, variance = statistics(x, axis)
    scale = _scale(variance, eps)
    if _served(x, axis):
        return (_totals(g, x, center)[1] * scale.reshape(-1)).astype(x.dtype)
    return sum(_standardized(x, center, scale) * g, axis=axis, keepdims=False)


def batch_norm(x: Array, w: Array, b: Array, *, eps: float) -> tuple[Array, dict[str, Array]]:
    """w · x̂ + b over all axes but the last, in two passes, and the statistics."""
    center, variance = statistics(x, tuple(range(x.ndim - 1)))
    return (batch_norm_by(x, w, b, eps=eps, center=center, variance=variance),
            {"center": center, "variance": variance})


def batch_norm_by(x: Array, w: Array, b: Array, *, eps: float, center: Array, variance: Array
                  ) -> Array:
    """w · x̂ + b, where the statistics are known."""
    scale = _scale(variance, eps) * w
    if _served(x, tuple(range(x.ndim - 1))):
        return _affine(x, center, scale, b)
    y = _standardized(x, center, scale)
    y += b
    return y


def batch_norm_cotangents(ct: Array, x: Array, w: Array, *, eps: float, center: Array,
                          variance: Array, everywhere: Callable[[Array], Array] | None = None
                          ) -> tuple[Array, Array, Array]:
    """The cotangents of x, w and b under `batch_norm`, which share their sums over the batch.

    ``everywhere`` turns these sums, 2 C, into those of a batch of which x is only a part, times the
    share that x has of it.
    """
    axis = tuple(range(x.ndim - 1))
    scale = _scale(variance, eps)
    if _served(x, axis):
        sums = _totals(ct, x, center)
        whole = sums if everywhere is None else everywhere(sums)
        return (_standardize_input(ct, x, center, scale, whole, w),
                (sums[1] * scale.reshape(-1)).astype(x.dtype), sums[0].astype(x.dtype))
    if everywhere is not None:
        x_hat = _standardized(x, center, scale)
        sums = np.stack([np.sum(ct, axis, np.float64), np.sum(ct * x_hat, axis, np.float64)])
        of_b, of_w = (everywhere(sums) / count(x.shape, axis)).astype(x.dtype)
        of_x = (ct - of_b - x_hat * of_w) * (scale * w).astype(x.dtype)
        return of_x, sums[1].astype(x.dtype), sums[0].astype(x.dtype)
    of_x = standardize_input(ct, x, axis=axis, eps=eps, center=center, variance=variance)
    of_x *= w
    return (of_x, batch_norm_weight(ct, x, eps=eps, center=center, variance=variance),
            sum_to(ct, shape=w.shape))


def affine(x: Array, w: Array, b: Array, *, center: Array | None) -> Array:
    """(x − center) · w + b, with a number for each entry of the last axis."""
    if _served(x, tuple(range(x.ndim - 1))):
        return _affine(x, np.zeros_like(w) if center is None else center, w, b)
    y = x * w if center is None else _standardized(x, center, w)
    y += b
    return np.asarray(y)
