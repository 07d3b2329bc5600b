"""Initial values: arrays drawn so that signals keep their size from layer to layer.

For inputs of unit variance, the variance of an output is fan_in · var(w), where fan_in counts the
inputs that one output adds up: KH · KW · C for filters KH KW C O, and I for the (I, O) of a linear
layer, which is the product of all axes but the last.  fan_out counts the outputs that one input
reaches: KH · KW · O, or O.

Every function takes the shape and draws from ``rng``, or from the default generator
(`manual_seed`).  Numbers are drawn in float64 and rounded, so a seed means the same in both dtypes,
float32 and float64; another is a `DTypeError`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from tinygrad_cnn import checks
from tinygrad_cnn.errors import ShapeError
from tinygrad_cnn.names import on_first_use
from tinygrad_cnn.nn.state import float_dtype
from tinygrad_cnn.ops import default_generator
from tinygrad_cnn.types import Array

__all__ = ["fans", "glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "lecun_normal",
           "lecun_uniform", "normal", "ones", "orthogonal", "uniform", "zeros"]

Rng = np.random.Generator | None


def fans(shape: Sequence[int], *, owner: str = "fans") -> tuple[int, int]:
    """(fan_in, fan_out) of filters KH KW C O or of a linear weight (I, O).

    Raises
    ------
    ShapeError
        If there are fewer than two axes, or an axis is empty.

    Examples
    --------
    >>> fans((5, 5, 3, 8)), fans((400, 10))
    ((75, 200), (400, 10))
    """
    sizes = checks.sizes(owner, "shape", shape)
    if len(sizes) < 2 or 0 in sizes:
        raise ShapeError(f"{owner}: a fan needs a shape of two or more axes, none empty (KH KW C "
                         f"O, or I O), got {sizes}")
    window = math.prod(sizes[:-2])
    return window * sizes[-2], window * sizes[-1]


def he_normal(shape: Sequence[int], *, rng: Rng = None, dtype: DTypeLike = np.float32) -> Array:
    """Normal with variance 2 / fan_in, for layers that a relu follows, which halves it.

    He et al., *Delving deep into rectifiers*, arXiv:1502.01852.

    >>> he_normal((3, 3, 16, 32), rng=np.random.default_rng(0)).std()  # √(2 / 144) = 0.1179
    np.float32(0.117...)
    """
    std = math.sqrt(2 / fans(shape, owner="he_normal")[0])
    return _drawn("he_normal", "normal", 0.0, std, shape, rng, dtype)


def he_uniform(shape: Sequence[int], *, rng: Rng = None, dtype: DTypeLike = np.float32) -> Array:
    """Uniform on ±√(6 / fan_in), which has the variance of `he_normal` and no tails."""
    bound = math.sqrt(6 / fans(shape, owner="he_uniform")[0])
    return _drawn("he_uniform", "uniform", -bound, bound, shape, rng, dtype)


def glorot_normal(shape: Sequence[int], *, rng: Rng = None, dtype: DTypeLike = np.float32) -> Array:
    """Normal with variance 2 / (fan_in + fan_out), a compromise of both directions, for tanh.

    Glorot & Bengio, *Understanding the difficulty of training deep feedforward neural networks*,
    AISTATS 2010.
    """
    std = math.sqrt(2 / sum(fans(shape, owner="glorot_normal")))
    return _drawn("glorot_normal", "normal", 0.0, std, shape, rng, dtype)


def glorot_uniform(shape: Sequence[int], *, rng: Rng = None,
                   dtype: DTypeLike = np.float32) -> Array:
    """Uniform on ±√(6 / (fan_in + fan_out)), which has the variance of `glorot_normal`."""
    bound = math.sqrt(6 / sum(fans(shape, owner="glorot_uniform")))
    return _drawn("glorot_uniform", "uniform", -bound, bound, shape, rng, dtype)


def lecun_normal(shape: Sequence[int], *, rng: Rng = None, dtype: DTypeLike = np.float32) -> Array:
    """Normal with variance 1 / fan_in, which keeps the variance of a layer without activation.

    LeCun et al., *Efficient BackProp*, 1998.
    """
    std = math.sqrt(1 / fans(shape, owner="lecun_normal")[0])
    return _drawn("lecun_normal", "normal", 0.0, std, shape, rng, dtype)


def lecun_uniform(shape: Sequence[int], *, rng: Rng = None, dtype: DTypeLike = np.float32) -> Array:
    """Uniform on ±√(3 / fan_in), which has the variance of `lecun_normal`."""
    bound = math.sqrt(3 / fans(shape, owner="lecun_uniform")[0])
    return _drawn("lecun_uniform", "uniform", -bound, bound, shape, rng, dtype)


def normal(shape: Sequence[int], *, mean: float = 0.0, std: float = 1.0, rng: Rng = None,
           dtype: DTypeLike = np.float32) -> Array:
    """Normal with this mean and standard deviation, which is at least 0."""
    mean = checks.number("normal", "mean", mean)
    std = checks.number("normal", "std", std, minimum=0)
    return _drawn("normal", "normal", mean, std, shape, rng, dtype)


def uniform(shape: Sequence[int], *, low: float = -1.0, high: float = 1.0, rng: Rng = None,
            dtype: DTypeLike = np.float32) -> Array:
    """Uniform on the interval from ``low`` to ``high``."""
    low = checks.number("uniform", "low", low)
    high = checks.number("uniform", "high", high, minimum=low)
    return _drawn("uniform", "uniform", low, high, shape, rng, dtype)


def zeros(shape: Sequence[int], *, rng: Rng = None, dtype: DTypeLike = np.float32) -> Array:
    """All 0; ``rng`` is checked, and not used, so that it can stand wherever the others do."""
    return _filled("zeros", 0.0, shape, rng, dtype)


def ones(shape: Sequence[int], *, rng: Rng = None, dtype: DTypeLike = np.float32) -> Array:
    """All 1; ``rng`` is checked, and not used."""
    return _filled("ones", 1.0, shape, rng, dtype)


def orthogonal(shape: Sequence[int], *, gain: float = 1.0, rng: Rng = None,
               dtype: DTypeLike = np.float32) -> Array:
    """Rows or columns, whichever are fewer, that are orthogonal and of length ``gain``.

    The weight is taken as a matrix of fan_in rows and O columns.  It comes from the QR
    factorization of a normal matrix, with the signs of R's diagonal moved into Q, so that no
    orthogonal matrix is preferred to another.

    Saxe, McClelland & Ganguli, *Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks*, arXiv:1312.6120.

    >>> w = orthogonal((6, 3), rng=np.random.default_rng(0), dtype=np.float64)
    >>> np.allclose(w.T @ w, np.eye(3))
    True
    """
    rows, columns = fans(shape, owner="orthogonal")[0], shape[-1]
    gain, chosen = checks.number("orthogonal", "gain", gain), float_dtype("orthogonal", dtype)
    drawn = default_generator(rng).normal(size=(max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(drawn)
    q = q * np.copysign(1.0, np.diagonal(r))
    return np.asarray((gain * (q if rows >= columns else q.T)).reshape(tuple(shape)), chosen)


def _drawn(owner: str, kind: str, a: float, b: float, shape: Sequence[int], rng: Rng,
           dtype: DTypeLike) -> Array:
    """Numbers of a distribution of NumPy's generators with two settings."""
    sizes, chosen = checks.sizes(owner, "shape", shape), float_dtype(owner, dtype)
    return np.asarray(getattr(default_generator(rng), kind)(a, b, sizes)).astype(chosen)


def _filled(owner: str, value: float, shape: Sequence[int], rng: Rng, dtype: DTypeLike) -> Array:
    default_generator(rng)                                      # refuses what is no generator
    return np.full(checks.sizes(owner, "shape", shape), value, float_dtype(owner, dtype))


on_first_use(__name__)
