"""What a diagnosis looks at: the Jacobian that is right, and the one that the rule stands for.

The second is found by pulling the cotangents e_j one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tinygrad_cnn.core.op import Array
from tinygrad_cnn.shapes import Shape
from tinygrad_cnn.testing.point import Point
from tinygrad_cnn.testing.report import Finding
from tinygrad_cnn.testing.trial import Trial

__all__ = ["Diagnosis", "Evidence", "entry_by_entry", "gather", "subsets"]

Diagnosis = tuple[str, str]

_MOST_ROWS = 600


@dataclass(frozen=True)
class Evidence:
    """Everything about one wrong cotangent.

    Attributes
    ----------
    point : Point
    k : int
        Position of the input.
    right, got : ndarray, shape (outputs, entries)
        The two Jacobians.
    offset : ndarray, shape (entries,)
        What the rule gives for a cotangent of zero.
    settings : mapping
    family : str
    axes : tuple of str
        Names of the axes of the input.
    """

    point: Point
    k: int
    right: Array
    got: Array
    offset: Array
    settings: Mapping[str, Any] = field(default_factory=dict)
    family: str = ""
    axes: tuple[str, ...] = ()
    trial: Trial | None = None

    @property
    def x(self) -> Array:
        """The input itself."""
        return self.point.arrays[self.k]

    @property
    def shape(self) -> Shape:
        """The shape of the input."""
        return self.x.shape

    @cached_property
    def out(self) -> Array:
        """The values of the function."""
        return np.asarray(self.point.subject.forward(self.point.arrays))

    @cached_property
    def scale(self) -> float:
        """The size of the largest entry."""
        return max(float(np.abs(self.right).max(initial=0.0)), 1e-30)

    def close(self, a: Array, b: Array) -> Array:
        """Entries that are equal up to rounding."""
        with np.errstate(all="ignore"):
            return np.asarray(np.abs(a - b) <= 1e-7 * self.scale + 1e-7 * np.abs(b))

    def same(self, a: Array, b: Array) -> bool:
        """Whether all entries are equal up to rounding."""
        return a.shape == b.shape and bool(self.close(a, b).all())

    @cached_property
    def wrong(self) -> Array:
        """Which entries of the Jacobian are wrong."""
        return np.logical_not(self.close(self.got, self.right))

    @cached_property
    def wrong_rows(self) -> Array:
        """Which outputs send back something wrong, in the shape of the output."""
        return np.asarray(self.wrong.any(axis=1)).reshape(self.out.shape)

    @cached_property
    def wrong_columns(self) -> Array:
        """Which entries of the input get something wrong, in its shape."""
        return np.asarray(self.wrong.any(axis=0)).reshape(self.shape)

    def axis(self, i: int) -> str:
        """What to call axis ``i`` of the input."""
        return f"axis {i} ({self.axes[i]})" if i < len(self.axes) else f"axis {i}"

    @cached_property
    def known(self) -> dict[str, Array]:
        """Arrays that a formula may use: input, output, other inputs, arrays among the settings."""
        found = {self.point.subject.inputs[i]: a for i, a in enumerate(self.point.arrays)
                 if a.dtype.kind == "f"}
        return {**found, "out": self.out,
                **{name: v for name, v in self.settings.items()
                   if isinstance(v, np.ndarray) and v.dtype.kind in "fb"}}


def gather(finding: Finding) -> Evidence | None:
    """The two Jacobians behind a finding; None where they cannot be had."""
    context = finding.context
    if finding.index < 0 or not isinstance(context, (Trial, Point)):
        return None
    point = context.point if isinstance(context, Trial) else context
    k = finding.index
    shape = np.shape(point.subject.forward(point.arrays))
    rows = int(np.prod(shape))
    if rows > _MOST_ROWS or point.arrays[k].size > 4 * _MOST_ROWS:
        return None
    try:
        right = point.matrix(k)
        offset = _pulled(point, k, np.zeros(shape))
        got = np.empty_like(right)
        for j in range(rows):
            unit = np.zeros(rows)
            unit[j] = 1.0
            got[j] = _pulled(point, k, unit.reshape(shape))
    except Exception:
        return None                                # a rule that raises has no Jacobian to look at
    if not isinstance(context, Trial):
        return Evidence(point, k, right, got, offset)
    return Evidence(point, k, right, got, offset, context.settings, context.op.family,
                    _axes_of(context, k), context)


def _pulled(point: Point, k: int, ct: Array) -> Array:
    part = point.subject.pull(point.arrays, ct)[k]
    return np.zeros(point.arrays[k].size) if part is None else np.array(part,
                                                                        np.float64).reshape(-1)


def _axes_of(trial: Trial, k: int) -> tuple[str, ...]:
    """Names of the axes of an input: the op's letters, or those of images."""
    op, i = trial.op, trial.present[k]
    if op.axes is not None and not op.variadic:
        return tuple(op.axes.split("->")[0].split(",")[i].split())
    return ()


def subsets(items: Sequence[int]) -> list[tuple[int, ...]]:
    """All subsets but the empty one, small ones first."""
    found = [tuple(item for bit, item in enumerate(items) if mask >> bit & 1)
             for mask in range(1, 1 << len(items))]
    return sorted(found, key=len)


def entry_by_entry(e: Evidence) -> bool:
    """Whether each output depends on one entry at most, and each entry on one output."""
    there = e.right != 0
    return e.out.shape == e.shape and there.sum(axis=0).max(initial=0) <= 1
