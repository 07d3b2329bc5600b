"""What a gradient test has to say: how much it compared, or what it found.

`Report` is the good news and `Finding` the bad; `Wrong` carries a finding to whoever words it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygrad_cnn.core.op import Array

__all__ = ["Finding", "Report", "Tally", "Wrong"]


@dataclass(frozen=True)
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
        How the derivative in each input was measured: exact, complex step, Ridders or adjoint.
    notes : tuple of str
        Places that are not differentiable, and what else a reader should know.
    """

    name: str
    comparisons: int
    worst: float
    seconds: float
    methods: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """``"right"``, or ``"not differentiable here"`` if some coordinates sit on a kink."""
        kinks = any("not differentiable here" in note for note in self.notes)
        return "not differentiable here" if kinks else "right"

    def __str__(self) -> str:
        how = ", ".join(f"{name} {method}" for name, method in self.methods.items())
        head = (f"{self.name}: {self.verdict}, {self.comparisons} comparisons, worst error "
                f"{self.worst:.2g} of its bound, {self.seconds:.2f} s ({how})")
        return "\n".join([head, *(f"  {note}" for note in self.notes)])


@dataclass
class Tally:
    """What a running test has counted so far."""

    comparisons: int = 0
    worst: float = 0.0
    methods: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Remember something to tell, once."""
        if text not in self.notes:
            self.notes.append(text)

    def report(self, name: str, seconds: float) -> Report:
        """The finished report."""
        return Report(name, self.comparisons, self.worst, seconds, dict(self.methods),
                      tuple(self.notes))


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a rule.

    Attributes
    ----------
    prop : str
        The property that failed, such as ``"gradient"`` or ``"re-entrant"``.
    subject : str
        The op or function.
    case : str
        Which call.
    input : str
        Which input, ``""`` if all.
    detail : str
        One sentence.
    index : int
        Position of the input, or −1.
    expected, got, ct : ndarray or None
        Cotangents of the input, and the one of the output that led to them.
    bound : ndarray or None
        What the difference may be.
    error : Exception or None
        What was raised, if anything was.
    context : object
        Where the finding was made, for a diagnosis.
    """

    prop: str
    subject: str
    case: str
    input: str
    detail: str
    index: int = -1
    expected: Array | None = None
    got: Array | None = None
    ct: Array | None = None
    bound: Array | None = None
    error: Exception | None = None
    context: Any = None

    @property
    def worst(self) -> tuple[int, ...] | None:
        """Index of the entry that is furthest off, in units of its bound."""
        if self.expected is None or self.got is None or self.expected.shape != self.got.shape \
                or not self.expected.size:
            return None
        with np.errstate(all="ignore"):
            off = np.abs(np.asarray(self.got, np.float64) - self.expected)
            if self.bound is not None:
                off = np.where(off > self.bound, off / np.maximum(self.bound, 1e-300), 0.0)
        off = np.where(np.isnan(off), np.inf, off)
        return tuple(int(i) for i in np.unravel_index(int(np.argmax(off)), off.shape))

    @property
    def wrong(self) -> Array | None:
        """Which entries are further off than their bound."""
        if self.expected is None or self.got is None or self.expected.shape != self.got.shape:
            return None
        bound = 0.0 if self.bound is None else self.bound
        with np.errstate(all="ignore"):
            return ~(np.abs(np.asarray(self.got, np.float64) - self.expected) <= bound)


class Wrong(Exception):  # noqa: N818 - it carries a finding; users get GradientMismatch
    """A finding on its way to whoever words it."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.detail)
        self.finding = finding
