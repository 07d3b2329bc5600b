"""What a gradient test has to say: how much it compared, or what it found.

A finding is put into words: what is likely wrong, where, by how much, and a program that shows it::

    conv2d[overlapping] x, gradient: overwritten overlaps: ... use += instead of = (1 of 3 wrong)
      n=0, c=0      worst (0, 1, 0, 0): expected 2, got 1, ratio 0.5
        .           off by 4.5e+15 ulps, and the comparison is exact
        x           shrunk from 240 to 8 entries
"""

from __future__ import annotations

import html
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tinygrad_cnn.errors import GradientMismatch
from tinygrad_cnn.testing.cases import OpCase
from tinygrad_cnn.testing.diagnose import diagnose
from tinygrad_cnn.testing.linearization import Finding, Stats
from tinygrad_cnn.testing.shrink import reproducer, shrink
from tinygrad_cnn.types import Array

__all__ = ["Report", "explain", "headline", "mismatch", "picture"]

_ROWS, _COLUMNS = 12, 48


@dataclass(frozen=True, repr=False)
class Report:
    """A gradient test that found nothing wrong.

    Attributes
    ----------
    name : str
        What was tested.
    comparisons : int
        How many numbers were compared; never 0.
    worst : float
        Largest error, in units of its bound: 0 in exact tests, about 0.3 is fine, and above 1 is a
        failure.
    seconds : float
        Time taken.
    methods : mapping of str to str
        How the derivative in each input was measured: exact, complex step, differences or
        directions.
    precision : mapping of str to float
        For each input, the largest bound of an entry that was measured, relative to the entry.
    unmeasured : mapping of str to tuple of str
        For each input, which entries were not measured, and why; empty if all were.
    rtol : float or None
        The relative error that was allowed.
    """

    name: str
    comparisons: int
    worst: float
    seconds: float
    methods: Mapping[str, str]
    precision: Mapping[str, float] = field(default_factory=dict)
    unmeasured: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rtol: float | None = None

    @classmethod
    def of(cls, name: str, stats: Stats, began: float, rtol: float | None = None) -> Report:
        """The report of a test that began at this time."""
        return cls(name, stats.comparisons, stats.worst, time.perf_counter() - began,
                   dict(stats.methods), dict(stats.precision),
                   {k: tuple(v) for k, v in stats.unmeasured.items()}, rtol)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not measured, one line each."""
        return tuple(why for several in self.unmeasured.values() for why in several)

    @property
    def verdict(self) -> str:
        """``"right"``, ``"right to 0.001, as asked"``, or ``"not measured"``.

        Right means that every entry was measured, to 1e-6 of its size in float64.  A gradient that
        is wrong raises `GradientMismatch`.
        """
        if self.unmeasured:
            return "not measured"
        return "right" if self.rtol is None else f"right to {self.rtol:g}, as asked"

    def __str__(self) -> str:
        how = ", ".join(f"{name} {method}" + (
            f" to {self.precision[name]:.0e}" if self.precision.get(name) else "")
            for name, method in self.methods.items())
        head = (f"{self.name}: {self.verdict}, {self.comparisons} comparisons, worst error "
                f"{self.worst:.2g} of its bound, {self.seconds:.2f} s ({how})")
        return "\n".join([head, *(f"  {note}" for note in self.notes)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return ('<pre style="font-family:monospace;white-space:pre-wrap">'
                f"{html.escape(str(self))}</pre>")


# ---- a finding in words

def mismatch(finding: Finding) -> GradientMismatch:
    """The error that carries a finding to the user."""
    error = GradientMismatch(explain(finding))
    error.finding = finding
    return error


def headline(finding: Finding) -> str:
    """One line: the op, the call, the input, and the likely mistake."""
    where = f"[{finding.case}]" if finding.case else ""
    who = f" {finding.input}" if finding.input else ""
    said = [words for _, words in diagnose(finding, 2)]
    found = "" if said[0] == finding.detail else f" ({finding.detail})"
    second = f"; or else: {said[1]}" if len(said) > 1 else ""
    what = finding.prop if finding.error is None else "raises"
    return f"{finding.subject}{where}{who}, {what}: {said[0]}{found}{second}"


def explain(finding: Finding) -> str:
    """The whole report: headline, map, worst entry, and the smallest program that shows it."""
    small = shrink(finding)
    left, right = picture(small), _facts(finding, small)
    width = max(map(len, left), default=0)
    count = max(len(left), len(right))
    left, right = (side + [""] * (count - len(side)) for side in (left, right))
    lines = [headline(finding), *(f"  {a:<{width}}{'    ' if width else ''}{b}".rstrip()
                                  for a, b in zip(left, right, strict=True))]
    program = reproducer(small)
    if program:
        lines += ["", "To see it alone:", *(f"  {line}" for line in program.splitlines())]
    return "\n".join(lines)


def _facts(finding: Finding, small: Finding) -> list[str]:
    """The worst entry in numbers, and how far the call was shrunk."""
    facts = []
    place = small.worst
    if place is not None and small.expected is not None and small.got is not None:
        expected, got = float(small.expected[place]), float(small.got[place])
        facts.append(f"worst {place}: expected {expected:.6g}, got {got:.6g}"
                     + (f", ratio {got / expected:.4g}" if expected and np.isfinite(got) else ""))
        with np.errstate(all="ignore"):
            off = abs(got - expected)
            said = f"off by {off / np.spacing(abs(expected) or 1.0):.2g} ulps"
        if small.bound is not None:
            bound = float(np.broadcast_to(small.bound, small.expected.shape)[place])
            said += f", {off / bound:.2g} times its bound" if bound else \
                ", and the comparison is exact"
        facts.append(said)
    before, after = (sum(a.size for a in f.context.arrays) if isinstance(f.context, OpCase) else 0
                     for f in (finding, small))
    if 0 < after < before:
        facts.append(f"shrunk from {before} to {after} entries")
    return facts


def picture(finding: Finding) -> list[str]:
    """A map of one plane of the cotangent: ``x`` where it is wrong, ``.`` where it is right."""
    wrong = finding.wrong
    place = finding.worst
    if wrong is None or place is None or not wrong.ndim:
        return []
    rows, columns = {1: (None, 0), 2: (0, 1), 4: (1, 2)}.get(wrong.ndim,
                                                             (wrong.ndim - 2, wrong.ndim - 1))
    index = tuple(slice(None) if i in (rows, columns) else n for i, n in enumerate(place))
    plane: Array = np.atleast_2d(wrong[index])
    held = ", ".join(f"axis {i} at {n}" for i, n in enumerate(place) if i not in (rows, columns))
    lines = [f"{held}:"] if held else []
    for line in plane[:_ROWS]:
        lines.append(" ".join("x" if bad else "." for bad in line[:_COLUMNS])
                     + (" ..." if line.size > _COLUMNS else ""))
    return lines + (["..."] if len(plane) > _ROWS else [])
