"""Matrix products, softmax and its relatives row by row, and the statistics of channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["batch_statistics", "cross_entropy", "linear", "log_softmax", "logsumexp",
           "matmul", "softmax"]

Array = NDArray[Any]


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


def logsumexp(x: Array, *, axis: int) -> Array:
    """Take log Σ_j exp(x_j), row by row; the largest entry is taken out first.  The axis goes."""
    rows = np.moveaxis(x, axis, -1)
    y = np.zeros(rows.shape[:-1], dtype=x.dtype)
    for at in np.ndindex(*y.shape):
        largest = _largest(rows[at])
        y[at] = largest + np.log(np.sum(np.exp(rows[at] - largest)))
    return y


def log_softmax(x: Array, *, axis: int) -> Array:
    """x_k − log Σ_j exp(x_j), row by row: the exact logarithm, however small the probability."""
    rows = np.moveaxis(x, axis, -1)
    y = np.zeros(rows.shape, dtype=x.dtype)
    for at in np.ndindex(*rows.shape[:-1]):
        shifted = rows[at] - _largest(rows[at])
        y[at] = shifted - np.log(np.sum(np.exp(shifted)))
    return np.moveaxis(y, -1, axis)


def _largest(row: Array) -> Any:
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


def batch_statistics(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance of each channel, over all axes but the last: two arrays of C."""
    mean = np.zeros(x.shape[-1], dtype=x.dtype)
    var = np.zeros(x.shape[-1], dtype=x.dtype)
    for c in range(x.shape[-1]):
        values = x[..., c]
        mean[c] = np.sum(values) / values.size
        off = values - mean[c]
        var[c] = np.sum(off * off) / values.size
    return mean, var
