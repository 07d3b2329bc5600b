"""Calls that many ops share, to declare themselves with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tinygrad_cnn.op import Sample, dyadic

__all__ = ["broadcasting", "matrices", "smooth_matrices"]

Samples = Callable[[np.random.Generator], Iterator[Sample]]

_PAIRS = (
    ("same shape", (2, 3), (2, 3)),
    ("both operands stretched", (3, 1), (1, 2)),
    ("missing axes", (2, 3, 2), (3, 1)),
    ("no axes", (), (2, 3)),
)


def matrices(rng: np.random.Generator) -> Iterator[Sample]:
    """Exactly representable entries, none of them 0, of both signs."""
    yield Sample("matrix", (dyadic(rng, 2, 3),))
    yield Sample("no axes", (dyadic(rng),))
    yield Sample("empty", (dyadic(rng, 0, 3),))


def smooth_matrices(low: float = -2.0, high: float = 2.0) -> Samples:
    """Entries drawn evenly from an interval in which the op is smooth."""
    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample("matrix", (rng.uniform(low, high, (3, 4)),))
        yield Sample("images", (rng.uniform(low, high, (2, 3, 2, 3)),))
        yield Sample("no axes", (np.asarray(rng.uniform(low, high)),))
    return samples


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
