"""Matrix products and sums of rows, on the threads of this package.

A product is cut along its rows, so that every entry is summed in one thread, and BLAS is kept from
starting threads of its own: see ``threads.one_blas_thread``.
"""

from __future__ import annotations

import numpy as np

from tinygrad_cnn.kernels.blocks import Array
from tinygrad_cnn.kernels.threads import one_blas_thread, parallel

__all__ = ["add_rows", "matmul"]

_ENOUGH = 1 << 20       # products, from which a second thread pays for being woken
_ROWS = 1 << 17         # entries of a part, from which adding rows does


@one_blas_thread()
def matmul(a: Array, b: Array) -> Array:
    """… I K, … K J -> … I J."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] * a.shape[1] * b.shape[1] < _ENOUGH:
        return np.asarray(np.matmul(a, b))
    out = np.empty((a.shape[0], b.shape[1]), np.result_type(a, b))
    if len(a) >= b.shape[1]:
        parallel(len(a), lambda low, high: np.matmul(a[low:high], b, out=out[low:high]))
    else:
        parallel(b.shape[1], lambda low, high: np.matmul(a, b[:, low:high], out=out[:, low:high]))
    return out


@one_blas_thread()
def add_rows(x: Array) -> Array:
    """I J -> J, as a product with ones: some 25 times faster than a sum at few columns."""
    def work(low: int, high: int) -> Array:
        return np.asarray(np.ones(high - low, x.dtype) @ x[low:high])

    parts = parallel(len(x), work, least=max(1, _ROWS // max(1, x.shape[1])))
    total: Array = parts[0]
    for part in parts[1:]:
        total += part
    return total
