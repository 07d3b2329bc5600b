"""Whole-array kernels of reductions, the softmax family, and normalization.

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

__all__ = ["affine", "batch_norm", "batch_norm_cotangents", "batch_norm_weight",
           "cross_entropy", "cross_entropy_input", "log_softmax", "logsumexp", "max", "mean", "min",
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
    axes = list(range(lead))
    for i, n in enumerate(shape, lead):
        if n == 1 != x.shape[i]:
            axes.append(i)
    return sum(x, axis=tuple(axes), keepdims=True).reshape(shape)


def mean(x: Array, *, axis: Axes, keepdims: bool) -> Array:
    """Σ x / n over ``axis``."""
    return np.asarray(sum(x, axis=axis, keepdims=keepdims) / x.dtype.type(count(x.shape, axis)))


def var(x: Array, *, axis: Axes, keepdims: bool) -> Array:
    """Σ (x − mean)² / n over ``axis``."""
    variance = statistics(x, axis)[1]
    if x.dtype.kind in "fc":                            # that of integers is none, and refused
        variance = variance.astype(x.dtype)
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


def _shifted(x: Array, axis: Axes) -> tuple[Array, Array]:
    """x − the largest entry along ``axis``, and that entry.

    A row of −∞ stays as it is.  In a row with one +∞ the others become −∞, which is the limit; with
    two of them there is no limit, and they are NaN.
    """
    top = np.max(x.real, axis=axis, keepdims=True)
    if np.isfinite(top).all():
        return np.asarray(x - top), top
    infinite = x.real == np.inf
    with np.errstate(invalid="ignore"):
        z = np.where(infinite, 0, x - np.where(np.isneginf(top), 0, top)).astype(x.dtype)
    z[infinite & (infinite.sum(axis=axis, keepdims=True) > 1)] = np.nan
    return z, top


def _log_total(z: Array, axis: Axes, out: Array | None = None) -> Array:
    """log Σ exp(z) of rows whose largest entry is 0, without adding what is small to 1."""
    most = z.real == 0
    e = np.asarray(np.exp(z, out=out))
    e -= most
    rest = np.asarray(e.sum(axis=axis, keepdims=True))
    rest += most.sum(axis=axis, keepdims=True) - 1
    with np.errstate(divide="ignore"):                       # a row of −∞: log 0
        return np.asarray(np.log1p(rest, out=rest))


def logsumexp(x: Array, *, axis: Axes, keepdims: bool) -> Array:
    """log Σ exp(x) over ``axis``."""
    z, top = _shifted(x, axis)
    y = _log_total(z, axis, out=z)
    y += np.where(np.isneginf(top), 0, top)
    return np.asarray(y if keepdims else y.squeeze(axis))


def softmax(x: Array, *, axis: Axes) -> Array:
    """exp(x) / Σ exp(x) over ``axis``."""
    e, _ = _shifted(x, axis)
    np.exp(e, out=e)
    e /= e.sum(axis=axis, keepdims=True)
    return e


def log_softmax(x: Array, *, axis: Axes) -> Array:
    """x − log Σ exp(x) over ``axis``."""
    z, _ = _shifted(x, axis)
    z -= _log_total(z, axis)
    return z


def cross_entropy(logits: Array, *, target: Array, own: Array | None, even: Array | None,
                  divisor: float | None) -> Array:
    """−Σ target · log softmax(logits): N K -> N, or one number if there is a divisor.

    Classes (N,) as ``target`` stand for rows of K entries, which are never made: ``own`` (N,), or
    1, at the class, and ``even`` (K,) everywhere.
    """
    z, _ = _shifted(logits, (1,))
    # Σ target · (log Σ exp(z) − z): both terms are at least 0, so nothing cancels.
    if target.ndim == 2:
        inner, whole = _product(z, target).sum(axis=1), target.sum(axis=1)
    else:
        inner, whole = z[np.arange(len(z)), target], own
        if own is not None:
            inner = _product(inner, own)
        if even is not None:
            inner = inner + (z @ even if even.all() else _product(z, even).sum(axis=1))
            whole = (1 if own is None else own) + even.sum()
    total = _log_total(z, (1,), out=z)[:, 0]
    terms = (total if whole is None else _product(total, whole)) - inner
    if divisor is None:
        return np.asarray(terms)
    return np.asarray(terms.sum() / logits.dtype.type(divisor))


def _product(x: Array, factor: Array) -> Array:
    """x · factor, and 0 where the factor is: 0 · log 0 is 0."""
    if factor.all():
        return np.asarray(x * factor)
    return np.multiply(x, factor, out=np.zeros_like(x), where=factor != 0)


def cross_entropy_input(logits: Array, g: Array, *, target: Array, own: Array | None,
                        even: Array | None) -> Array:
    """(softmax(logits) · Σ target − target) · g: N K, N 1 or 1 1 -> N K.

    At one entry of each row the target is near to what is taken from it: at the label, and among
    soft targets where the probability is largest.  There the difference is made of the others.
    """
    p, _ = _shifted(logits, (1,))
    soft = target.ndim == 2
    rows = np.arange(len(p))
    best = target if not soft and even is None else p.real.argmax(axis=1)
    np.exp(p, out=p)
    first = p[rows, best]
    p[rows, best] = 0
    others = p.sum(axis=1)
    total = first + others
    p /= total[:, None]
    others /= total
    if not soft and even is None:
        p[rows, best] = -others
        p *= g if own is None else g * own[:, None]
        return p
    if soft:
        rest = target.copy()
        rest[rows, best] = 0
        left = rest.sum(axis=1)
        whole = left + target[rows, best]
        p *= whole[:, None]
        p -= rest
    else:
        assert even is not None
        mine = np.ones(len(p), p.real.dtype) if own is None else own
        left = np.where(best == target, 0, mine) + (even.sum() - even[best])
        whole = mine + even.sum()
        p *= whole[:, None]
        p -= even
        p[rows, target] -= mine
    p[rows, best] = left - whole * others
    p *= g
    return p


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


def affine(x: Array, w: Array, b: Array, *, center: Array | None) -> Array:
    """(x − center) · w + b, with a number for each entry of the last axis."""
    if normalize.served(x, tuple(range(x.ndim - 1))):
        return normalize.affine(x, np.zeros_like(w) if center is None else center, w, b)
    y = x * w if center is None else _standardized(x, center, w)
    y += b
    return np.asarray(y)
