"""Matrix products and sums of rows, on the threads of this package.

A product is cut along its rows, so that every entry is summed in one thread, and BLAS is kept from
starting threads of its own: see ``threads.one_blas_thread``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_cnn.kernels import compiled
from tinygrad_cnn.kernels.blocks import Array, long_lines
from tinygrad_cnn.kernels.memory import empty
from tinygrad_cnn.kernels.threads import one_blas_thread, parallel

__all__ = ["add_rows", "matmul"]

_ENOUGH = 1 << 20       # products, from which a second thread pays for being woken
_LINE = 512             # numbers in a line of a compiled loop
_ROWS = 1 << 17         # entries of a part, from which adding rows does


@one_blas_thread
def matmul(a: Array, b: Array) -> Array:
    """… I K, … K J -> … I J."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] * a.shape[1] * b.shape[1] < _ENOUGH:
        return np.asarray(np.matmul(a, b))
    out = empty((a.shape[0], b.shape[1]), np.result_type(a, b))
    if len(a) >= b.shape[1]:
        parallel(len(a), lambda low, high: np.matmul(a[low:high], b, out=out[low:high]),
                 products=False)                # whose thread holds BLAS already
    else:
        parallel(b.shape[1], lambda low, high: np.matmul(a, b[:, low:high], out=out[:, low:high]),
                 products=False)
    return out


@one_blas_thread
def add_rows(x: Array) -> Array:
    """I J -> J, as a product with ones: some 25 times faster than a sum at few columns."""
    passes = compiled.module("passes", x.dtype)
    if passes is not None and x.size >= _ROWS and x.flags.c_contiguous:
        return _add_lines(passes, x)

    def work(low: int, high: int) -> Array:
        return np.asarray(np.ones(high - low, x.dtype) @ x[low:high])

    parts = parallel(len(x), work, least=max(1, _ROWS // max(1, x.shape[1])), products=False)
    total: Array = parts[0]
    for part in parts[1:]:
        total += part
    return total


def _add_lines(passes: Any, x: Array) -> Array:
    lines = long_lines(x, _LINE)

    def work(low: int, high: int) -> Array:
        total = np.zeros(lines.shape[1])
        passes.add_lines(lines, low, high, total)
        return total

    total = np.asarray(sum(parallel(len(lines), work, least=_ROWS // lines.shape[1],
                                products=False)))
    return total.reshape(-1, x.shape[1]).sum(0).astype(x.dtype)
