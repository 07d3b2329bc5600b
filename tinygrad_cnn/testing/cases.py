"""The calls on which an op is tested: its samples, and more that follow from its declaration."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinygrad_cnn.op import Op, Sample

__all__ = ["cases"]


def cases(op: Op, seed: int) -> Iterator[Sample]:
    """Every case of an op for one seed."""
    yield from op.samples(np.random.default_rng(seed))
