"""Findings in words: what is likely wrong, where, by how much, and a program that shows it.

::

    conv2d[overlapping] x: overwritten overlaps: ... use += instead of = (1 of 3 wrong)
      n=0, c=0      worst (0, 1, 0, 0): expected 2, got 1, ratio 0.5, 4.5e+15 ulps
        .           property gradient; shrunk from 240 to 8 entries
        x
        .
"""

from __future__ import annotations

import numpy as np

from tinygrad_cnn.core.op import Array
from tinygrad_cnn.errors import GradientMismatch
from tinygrad_cnn.testing.diagnose import diagnose
from tinygrad_cnn.testing.report import Finding
from tinygrad_cnn.testing.reproduce import reproducer
from tinygrad_cnn.testing.shrink import shrink
from tinygrad_cnn.testing.trial import Trial

__all__ = ["explain", "headline", "mismatch", "picture"]

_ROWS, _COLUMNS = 12, 48


def mismatch(finding: Finding) -> GradientMismatch:
    """The error that carries a finding to the user."""
    return GradientMismatch(explain(finding))


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
    lines = [headline(finding)]
    lines += _side_by_side(picture(small), _facts(finding, small))
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
            facts.append(f"off by {off / np.spacing(abs(expected) or 1.0):.2g} ulps"
                         + _in_units(small, place, off))
    before, after = (_entries(f) for f in (finding, small))
    if before and after and after < before:
        facts.append(f"shrunk from {before} to {after} entries")
    return facts


def _in_units(finding: Finding, place: tuple[int, ...], off: float) -> str:
    if finding.bound is None:
        return ""
    bound = float(np.broadcast_to(finding.bound, np.asarray(finding.expected).shape)[place])
    return f", {off / bound:.2g} times its bound" if bound else ", and the comparison is exact"


def _entries(finding: Finding) -> int:
    trial = finding.context
    return sum(a.size for a in trial.arrays) if isinstance(trial, Trial) else 0


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


def _side_by_side(left: list[str], right: list[str]) -> list[str]:
    """Two columns of text."""
    width = max((len(line) for line in left), default=0)
    count = max(len(left), len(right))
    pairs = zip(left + [""] * (count - len(left)), right + [""] * (count - len(right)),
                strict=True)
    return [f"  {a:<{width}}    {b}".rstrip() if left else f"  {b}" for a, b in pairs]
