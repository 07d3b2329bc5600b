"""Calls that many ops share, to declare themselves with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygrad_cnn.core.op import Sample, dyadic
from tinygrad_cnn.shapes import Shape

__all__ = ["broadcasting", "geometry", "matrices", "smooth_matrices"]

Samples = Callable[[np.random.Generator], Iterator[Sample]]

_PAIRS = (
    ("same shape", (2, 3), (2, 3)),
    ("both operands stretched", (3, 1), (1, 2)),
    ("missing axes", (2, 3, 2), (3, 1)),
    ("no axes", (), (2, 3)),
    ("a row in a square", (3,), (3, 3)),
    ("a column in a square", (3, 1), (3, 3)),
    ("a square and a column", (3, 3), (3, 1)),
)


def matrices(rng: np.random.Generator) -> Iterator[Sample]:
    """Exactly representable entries, none of them 0, of both signs."""
    yield Sample("matrix", (dyadic(rng, 2, 3),))
    yield Sample("no axes", (dyadic(rng),))
    yield Sample("empty", (dyadic(rng, 0, 3),))


def smooth_matrices(low: float = -2.0, high: float = 2.0, wide: float = 0.0) -> Samples:
    """Entries drawn evenly from an interval in which the op is smooth, and from a wide one."""
    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample("matrix", (rng.uniform(low, high, (3, 4)),))
        if wide:
            yield Sample("far from 0", (rng.uniform(-wide, wide, (3, 3)),))
        yield Sample("images", (rng.uniform(low, high, (2, 3, 2, 3)),))
        yield Sample("no axes", (np.asarray(rng.uniform(low, high)),))
    return samples


def geometry(rng: np.random.Generator, *, groups: int = 1) -> tuple[Shape, Shape, dict[str, Any]]:
    """Images, filters and settings of a convolution, drawn small; no setting at its default."""
    kernel, stride, dilation = (tuple(int(i) for i in rng.integers(1, 4, 2)) for _ in range(3))
    padding = tuple((int(a), int(b)) for a, b in rng.integers(0, 3, (2, 2)))
    spare = rng.integers(0, 4, 2)
    image = tuple(max(1, (k - 1) * d + 1 - sum(p) + int(more))
                  for k, d, p, more in zip(kernel, dilation, padding, spare, strict=True))
    channels, filters = (int(i) for i in rng.integers(1, 3, 2))
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return ((int(rng.integers(1, 3)), *image, channels * groups),
            (*kernel, channels, filters * groups), settings)


def broadcasting(a: tuple[float, float] | None = None,
                 b: tuple[float, float] | None = None) -> Samples:
    """Two operands that broadcast in every way; drawn from intervals if given, dyadic otherwise."""
    def draw(rng: np.random.Generator, interval: tuple[float, float] | None,
             shape: tuple[int, ...]) -> np.ndarray:
        if interval is None:
            return dyadic(rng, *shape)
        return np.asarray(rng.uniform(*interval, shape))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for name, first, second in _PAIRS:
            yield Sample(name, (draw(rng, a, first), draw(rng, b, second)))
    return samples
