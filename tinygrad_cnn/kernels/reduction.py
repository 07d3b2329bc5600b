"""Whole-array kernels of reductions, of softmax and its kin, and of normalization.

Axes come as sorted tuples counted from the front.  Statistics square with ``x * x`` and never go
through ``np.var``, so that they also hold for complex arrays.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.kernels import normalize
from tinygrad_cnn.kernels.products import add_rows
from tinygrad_cnn.shapes import Shape

__all__ = ["batch_norm", "batch_norm_cotangents", "batch_norm_weight",
           "cross_entropy", "log_softmax", "logsumexp", "max", "mean", "min", "scale_shift",
           "softmax", "standardize", "standardize_input", "sum", "sum_to",
           "var"]

Array = NDArray[Any]
Axes = tuple[int, ...]


def sum(x: Array, *, axis: Axes, keepdims: bool) -> Array:
    """Σ x over ``axis``."""
    if x.ndim > 1 and axis == tuple(range(x.ndim - 1)) and x.flags.c_contiguous and x.size:
        # A matrix product adds rows some 25 times faster than a reduction at few columns.
        rows = x.reshape(-1, x.shape[-1])
        total = add_rows(rows)
        return np.asarray(total.reshape((1,) * (x.ndim - 1) + total.shape if keepdims
                                        else total.shape))
    return np.asarray(x.sum(axis=axis, keepdims=keepdims, dtype=x.dtype))


def sum_to(x: Array, *, shape: Shape) -> Array:
    """Add up what broadcasting to ``x.shape`` has copied, down to ``shape``."""
    if x.shape == shape:
        return x
    lead = x.ndim - len(shape)
    axes = (*range(lead), *(lead + i for i, n in enumerate(shape) if n == 1 != x.shape[lead + i]))
    return sum(x, axis=axes, keepdims=True).reshape(shape)


def mean(x: Array, *, axis: Axes, keepdims: bool) -> Array:
    """Σ x / n over ``axis``."""
    return np.asarray(sum(x, axis=axis, keepdims=keepdims) / x.dtype.type(count(x.shape, axis)))


def var(x: Array, *, axis: Axes, keepdims: bool) -> Array:
    """Σ (x − mean)² / n over ``axis``."""
    variance = statistics(x, axis)[1].astype(x.dtype)
    return np.asarray(variance if keepdims else variance.squeeze(axis))


def count(shape: Shape, axis: Axes) -> int:
    """How many entries one result of a reduction over ``axis`` is made of."""
    return math.prod(shape[i] for i in axis)


def max(x: Array, *, axis: Axes, keepdims: bool) -> tuple[Array, dict[str, Array]]:
    """The largest entry, and what share of the cotangent each entry gets: ties share evenly."""
    return _extreme(x, np.max, axis, keepdims)


def min(x: Array, *, axis: Axes, keepdims: bool) -> tuple[Array, dict[str, Array]]:
    """The smallest entry, and what share of the cotangent each entry gets: ties share evenly."""
    return _extreme(x, np.min, axis, keepdims)


def _extreme(x: Array, choose: Any, axis: Axes, keepdims: bool) -> tuple[Array, dict[str, Array]]:
    y = choose(x, axis=axis, keepdims=True)
    mask = (x == y) | ((x != x) & (y != y))                  # NaN wins, and equals NaN here
    shares = mask.astype(x.dtype) / mask.sum(axis=axis, keepdims=True).astype(x.dtype)
    return np.asarray(y if keepdims else y.squeeze(axis)), {"shares": np.asarray(shares)}


def _shift(x: Array, axis: Axes) -> Array:
    """The largest entry along ``axis``, or 0 where that is infinite: subtracting it is harmless."""
    top = np.max(x.real, axis=axis, keepdims=True)
    return np.where(np.isfinite(top), top, 0).astype(x.real.dtype)


def logsumexp(x: Array, *, axis: Axes, keepdims: bool) -> Array:
    """log Σ exp(x) over ``axis``."""
    top = _shift(x, axis)
    with np.errstate(divide="ignore"):                       # a row of −inf gives −inf
        y = np.log(np.exp(x - top).sum(axis=axis, keepdims=True)) + top
    return np.asarray(y if keepdims else y.squeeze(axis))


def softmax(x: Array, *, axis: int) -> Array:
    """exp(x) / Σ exp(x) along ``axis``."""
    e = np.exp(x - _shift(x, (axis,)))
    e /= e.sum(axis=axis, keepdims=True)
    return np.asarray(e)


def log_softmax(x: Array, *, axis: int) -> Array:
    """x − log Σ exp(x) along ``axis``."""
    z = x - _shift(x, (axis,))
    z -= np.log(np.exp(z).sum(axis=axis, keepdims=True))
    return np.asarray(z)


def cross_entropy(logits: Array, *, target: Array, divisor: float | None) -> Array:
    """−Σ target · log softmax(logits): N K -> N, or one number if there is a divisor."""
    terms = np.zeros_like(logits)                            # 0 · log 0 is 0 here
    np.multiply(log_softmax(logits, axis=1), target, out=terms, where=target != 0)
    if divisor is None:
        return np.asarray(-terms.sum(axis=1))
    return np.asarray(-terms.sum() / logits.dtype.type(divisor))


def statistics(x: Array, axis: Axes) -> tuple[Array, Array]:
    """Mean and biased variance over ``axis`` in float64 or wider, with the axes kept."""
    if normalize.served(x, axis):
        return normalize.moments(x)
    # The first entry is taken off before anything is added up, so that constants are exact; then
    # the mean, as far as the dtype of x can hold it, and what that leaves.
    wide = np.result_type(x.dtype, np.float64)
    first = x[tuple(slice(0, 1) if i in axis else slice(None) for i in range(x.ndim))]
    d = x - first
    middle = d.mean(axis=axis, keepdims=True, dtype=wide).astype(x.dtype)
    d -= middle
    rest = d.mean(axis=axis, keepdims=True, dtype=wide)
    d *= d
    return first + (middle + rest), d.mean(axis=axis, keepdims=True, dtype=wide) - rest * rest


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
    if normalize.served(x, axis):
        return normalize.affine(x, center, scale), found
    return _standardized(x, center, scale), found


def standardize_input(g: Array, x: Array, *, axis: Axes, eps: float, center: Array | None,
                      variance: Array | None) -> Array:
    """scale · (g − mean(g) − x̂ · mean(g · x̂)): the cotangent of x under `standardize`."""
    if center is None or variance is None:
        center, variance = statistics(x, axis)
    scale = _scale(variance, eps)
    if normalize.served(x, axis):
        return normalize.standardize_input(g, x, center, scale, normalize.totals(g, x, center))
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
    if normalize.served(x, axis):
        return (normalize.totals(g, x, center)[1] * scale.reshape(-1)).astype(x.dtype)
    return sum(_standardized(x, center, scale) * g, axis=axis, keepdims=False)


def batch_norm(x: Array, w: Array, b: Array, *, eps: float) -> tuple[Array, dict[str, Array]]:
    """w · x̂ + b over all axes but the last, in two passes, and the statistics."""
    axis = tuple(range(x.ndim - 1))
    center, variance = statistics(x, axis)
    scale, found = _scale(variance, eps) * w, {"center": center, "variance": variance}
    if normalize.served(x, axis):
        return normalize.affine(x, center, scale, b), found
    y = _standardized(x, center, scale)
    y += b
    return y, found


def batch_norm_cotangents(ct: Array, x: Array, w: Array, *, eps: float, center: Array,
                          variance: Array) -> tuple[Array, Array, Array]:
    """The cotangents of x, w and b under `batch_norm`, which share their sums over the batch."""
    axis = tuple(range(x.ndim - 1))
    if normalize.served(x, axis):
        scale = _scale(variance, eps)
        sums = normalize.totals(ct, x, center)
        return (normalize.standardize_input(ct, x, center, scale, sums, w),
                (sums[1] * scale.reshape(-1)).astype(x.dtype), sums[0].astype(x.dtype))
    of_x = standardize_input(ct, x, axis=axis, eps=eps, center=center, variance=variance)
    of_x *= w
    return (of_x, batch_norm_weight(ct, x, eps=eps, center=center, variance=variance),
            sum_to(ct, shape=w.shape))


def scale_shift(x: Array, w: Array, b: Array, *, center: Array | None) -> Array:
    """(x − center) · w + b, with a number for each entry of the last axis."""
    if normalize.served(x, tuple(range(x.ndim - 1))):
        return normalize.affine(x, np.zeros_like(w) if center is None else center, w, b)
    y = x * w if center is None else _standardized(x, center, w)
    y += b
    return np.asarray(y)
