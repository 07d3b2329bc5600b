"""Sums, matrix products, and the softmax family, on the threads of this package.

Axes come as sorted tuples counted from the front.  A matrix product is cut along its rows, so that
every entry is summed in one thread, and BLAS is kept from starting threads of its own.
"""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
from numpy.typing import DTypeLike

from tinygrad_cnn.kernels import compiled
from tinygrad_cnn.kernels.memory import empty, long_lines
from tinygrad_cnn.kernels.parallel import one_blas_thread, parallel, parts
from tinygrad_cnn.shapes import Shape, reduced
from tinygrad_cnn.types import Array, Function

__all__ = ["Axes", "add_rows", "add_up", "count", "cross_entropy", "cross_entropy_input",
           "log_softmax", "logsumexp", "matmul", "max", "mean", "min", "softmax", "sum", "sum_to"]

Axes = tuple[int, ...]

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

    found = parallel(len(x), work, least=_ROWS // (x.shape[1] or 1) or 1, products=False)
    total: Array = found[0]
    for part in found[1:]:
        total += part
    return total


def _add_lines(passes: ModuleType, x: Array) -> Array:
    lines = long_lines(x, _LINE)

    least = _ROWS // lines.shape[1]
    found = np.zeros((parts(len(lines), least), lines.shape[1]))
    passes.add_lines(len(lines), lines, found, least=least)
    total = found.sum(0)
    return total.reshape(-1, x.shape[1]).sum(0).astype(x.dtype)


def sum(x: Array, *, axis: Axes, keepdims: bool) -> Array:
    """Σ x over ``axis``."""
    if x.ndim > 1 and axis == tuple(range(x.ndim - 1)) and x.flags.c_contiguous and x.size:
        # A matrix product adds rows some 25 times faster than a reduction at few columns.
        rows = x.reshape(-1, x.shape[-1])
        total = add_rows(rows)
        return np.asarray(total.reshape((1,) * (x.ndim - 1) + total.shape if keepdims
                                        else total.shape))
    total = add_up(x, axis, x.dtype)
    return total if keepdims else total.reshape(reduced(x.shape, axis, False))


def add_up(x: Array, axis: Axes, dtype: DTypeLike) -> Array:
    """Σ x over ``axis``, which are kept; long lines are added first, as NumPy would not."""
    first = axis[0] if axis else x.ndim
    inner = math.prod(x.shape[first + 1:])
    if (x.size >= _ROWS and inner > 1 and x.shape[first] >= 8 and x.flags.c_contiguous
            and len(axis) < x.ndim - first):                # which is no sum of whole lines
        fold = math.gcd(x.shape[first], 1 << (_LINE // inner).bit_length())
        lines = x.reshape(*x.shape[:first], -1, fold * inner)
        x = lines.sum(axis=first, dtype=dtype).reshape(*x.shape[:first], fold, *x.shape[first + 1:])
    return np.asarray(x.sum(axis=axis, keepdims=True, dtype=dtype))


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


def count(shape: Shape, axis: Axes) -> int:
    """How many entries one result of a reduction over ``axis`` is made of."""
    return math.prod(shape[i] for i in axis)


def max(x: Array, *, axis: Axes, keepdims: bool) -> tuple[Array, dict[str, Array]]:
    """The largest entry, and what share of the cotangent each entry gets: ties share evenly."""
    return _extreme(x, np.max, axis, keepdims)


def min(x: Array, *, axis: Axes, keepdims: bool) -> tuple[Array, dict[str, Array]]:
    """The smallest entry, and what share of the cotangent each entry gets: ties share evenly."""
    return _extreme(x, np.min, axis, keepdims)


def _extreme(x: Array, choose: Function, axis: Axes,
             keepdims: bool) -> tuple[Array, dict[str, Array]]:
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
