"""A function at one place: its Jacobian, what its pullback must give, and how exactly.

A `Subject` is anything with values and a pullback: an op with its rules, a function of tensors, two
plain NumPy functions.  A `Linearization` measures its Jacobian J from values alone and says, for a
cotangent g, what r = gᵀ J must be and how far off a right rule may be:

- exact data: not at all;
- otherwise the rounding of the sum, a few eps · |g|ᵀ|J|, plus the noise of the rule itself, seen
  by moving its arguments by an ulp or two, plus the measured error of J.

The noise of an op is capped, so that no rule can buy tolerance by being inaccurate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygrad_cnn.core.op import Array
from tinygrad_cnn.testing.numeric import Measured, measure

__all__ = ["CheckFailed", "Finding", "Linearization", "Stats", "Subject", "odd_integers", "tied"]

Arrays = Sequence[Array]
_ROUNDINGS = 16.0           # eps · |g|ᵀ|J| that a formula may lose besides its last sum
_NOISE = 8.0                # times the change that ulps of the arguments cause
_NOISE_CAP = 2.0 ** 13      # eps · max |g|ᵀ|J|
_GUARD_BITS = 12            # of the mantissa, for the intermediate results of a rule


# ---- what is counted, and what is found

@dataclass
class Stats:
    """What a running test has counted so far, and the property that it is at."""

    comparisons: int = 0
    worst: float = 0.0
    methods: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    prop: str = "gradient"

    def note(self, text: str) -> None:
        """Remember something to tell, once."""
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a rule.

    Attributes
    ----------
    prop : str
        The property that failed, such as ``"gradient"`` or ``"re-entrant"``.
    subject, case, input : str
        The op or function, which call of it, and which input; ``""`` if all.
    detail : str
        One sentence.
    index : int
        Position of the input, or −1.
    expected, got, ct, bound : ndarray or None
        Cotangents of the input, that of the output, and how far off the first two may be.
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
    def wrong(self) -> Array | None:
        """Which entries are further off than their bound; None if there is nothing to compare."""
        if self.expected is None or self.got is None or self.expected.shape != self.got.shape \
                or not self.expected.size:
            return None
        return _beyond(self.got, self.expected, 0.0 if self.bound is None else self.bound)[1]

    @property
    def worst(self) -> tuple[int, ...] | None:
        """Index of the entry that is furthest off, in units of its bound."""
        if self.wrong is None or self.expected is None or self.got is None:
            return None
        bound = 1e-300 if self.bound is None else np.maximum(self.bound, 1e-300)
        with np.errstate(all="ignore"):
            off = np.where(self.wrong, np.abs(self.got - self.expected) / bound, 0.0)
        off = np.where(np.isnan(off), np.inf, off)
        return tuple(int(i) for i in np.unravel_index(int(np.argmax(off)), off.shape))


class CheckFailed(Exception):  # noqa: N818 - it carries a finding; users get GradientMismatch
    """A finding on its way to whoever words it."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.detail)
        self.finding = finding


def _beyond(got: Array, expected: Array, bound: Any) -> tuple[Array, Array]:
    """How far off each entry is, and whether that is more than its bound."""
    with np.errstate(all="ignore"):
        off = np.abs(np.asarray(got, np.float64) - expected)
        return off, ~(off <= bound)


# ---- the subject, and its Jacobian at one place

@dataclass(frozen=True)
class Subject:
    """A function of arrays and its pullback.

    ``forward(arrays)`` gives an array, ``pull(arrays, ct)`` a list of the cotangents of the inputs,
    None where there is none.
    """

    name: str
    inputs: tuple[str, ...]
    forward: Callable[[Arrays], Array]
    pull: Callable[[Arrays, Array], list[Array | None]]


def odd_integers(rng: np.random.Generator, shape: Sequence[int], bits: int) -> Array:
    """Odd integers of both signs below 2 ** bits: none is 0, and sums are not alike by chance."""
    top = 1 << max(bits - 1, 1)
    return np.asarray(2 * rng.integers(-top, top, shape) + 1, np.float64)


class Linearization:
    """A subject at one set of arrays.

    Parameters
    ----------
    subject : Subject
    arrays : sequence of ndarray
        Float64, not written to.  The cotangents of those of floats are tested.
    stats : Stats
        What is compared is counted here.
    affine : collection of int
        Positions in which the function is declared affine.
    piecewise_linear : bool
        Whether it is declared linear between kinks.
    ties : str, optional
        What the pullback must give at a kink, see `OpTest.subgradient`; None: anything between the
        slopes.
    capped : bool
        Whether the noise of the pullback is capped; a user's function may be ill-conditioned, an op
        on its own samples may not.
    case, context
        For findings.
    """

    def __init__(self, subject: Subject, arrays: Arrays, stats: Stats, *,
                 affine: Sequence[int] = (), piecewise_linear: bool = False,
                 ties: str | None = None, capped: bool = True, case: str = "",
                 context: Any = None) -> None:
        self.subject = subject
        self.arrays = tuple(arrays)
        self.stats = stats
        self.wanted = tuple(k for k, x in enumerate(arrays) if x.dtype.kind == "f")
        self.affine = frozenset(affine)
        self.piecewise_linear = piecewise_linear
        self.ties = ties
        self.capped = capped
        self.case = case
        self.context = context
        self._measured: dict[int, Measured] = {}
        self._tied: dict[int, Array] | None = None

    def measured(self, k: int) -> Measured:
        """The Jacobian in input ``k``."""
        if k not in self._measured:
            self._measured[k] = measure(self.subject.forward, self.arrays, k,
                                        affine=k in self.affine,
                                        piecewise_linear=self.piecewise_linear)
        return self._measured[k]

    def exact(self, k: int) -> bool:
        """Whether input ``k`` is compared with ``==``."""
        return self.measured(k).method == "exact" and (
            self.measured(k).left is None or self.ties is not None)

    @property
    def all_exact(self) -> bool:
        """Whether every input is."""
        return all(map(self.exact, self.wanted))

    def matrix(self, k: int) -> Array:
        """J in input ``k``; at a kink, what the declared tie rule makes of it."""
        if self.ties is None or all(self.measured(i).left is None for i in self.wanted):
            return self.measured(k).matrix
        if self._tied is None:
            self._tied = tied(self.subject.forward, self.arrays,
                              {i: self.measured(i) for i in self.wanted}, self.ties)
        return self._tied[k]

    def cotangent(self, rng: np.random.Generator, shape: Sequence[int], dtype: Any) -> Array:
        """A random cotangent: odd integers as large as the exact comparison of ``dtype`` allows."""
        bits = 30
        for m in map(self.measured, self.wanted):
            if m.method == "exact":
                total = max(float(np.abs(side).sum(axis=0).max(initial=0.0))
                            for side in (m.matrix, m.left) if side is not None)
                used = int(np.ceil(np.log2(max(total, 1.0))))
                bits = min(bits, (53 if np.dtype(dtype).itemsize == 8 else 24) - _GUARD_BITS - used)
            else:
                bits = min(bits, 8)
        return odd_integers(rng, shape, max(bits, 2))

    # ---- what the pullback must give

    def expected(self, k: int, ct: Array) -> Array:
        """ctᵀ J for input ``k``, in float64."""
        return (ct.reshape(-1).astype(np.float64) @ self.matrix(k)).reshape(self.arrays[k].shape)

    def size(self, k: int, ct: Array) -> Array:
        """|ct|ᵀ |J| for each entry of input ``k``: what its cotangent is a sum of."""
        flat = np.abs(ct.reshape(-1).astype(np.float64))
        return (flat @ np.abs(self.matrix(k))).reshape(self.arrays[k].shape)

    def rounding(self, k: int, ct: Array, dtype: Any = np.float64) -> Array:
        """Error that a right rule may have from rounding and from the measured error of J."""
        m = self.measured(k)
        steps = _ROUNDINGS + np.log2(1.0 + ct.size)
        bound = steps * float(np.finfo(dtype).eps) * self.size(k, ct)
        if not isinstance(m.error, float):
            # Differences cannot be trusted further than their own estimate says.
            error = np.abs(ct.reshape(-1)) @ (10.0 * m.error + 1e-11 * np.abs(m.matrix))
            bound = bound + error.reshape(bound.shape)
        return np.asarray(bound)

    def noise(self, ct: Array, dtype: Any, rng: np.random.Generator) -> dict[int, Array]:
        """How much the pullback changes when its arguments move by an ulp or two."""
        eps = np.finfo(dtype).eps

        def moved(x: Array) -> Array:
            if x.dtype.kind != "f":
                return x
            return (x * (1 + eps * rng.integers(-2, 3, x.shape))).astype(dtype)

        arrays = [x.astype(dtype) if x.dtype.kind == "f" else x for x in self.arrays]
        base = self.subject.pull(arrays, ct.astype(dtype))
        changes = {k: np.zeros(self.arrays[k].shape) for k in self.wanted}
        for _ in range(3 if self.capped else 6):
            other = self.subject.pull([moved(x) for x in arrays], moved(ct.astype(dtype)))
            for k in self.wanted:
                a, b = base[k], other[k]
                if a is not None and b is not None and a.shape == b.shape == changes[k].shape:
                    off = np.nan_to_num(_beyond(a, np.asarray(b, np.float64), 0.0)[0])
                    changes[k] = np.maximum(changes[k], off)
        return changes

    def bound(self, k: int, ct: Array, noise: dict[int, Array] | None,
              dtype: Any = np.float64) -> Array:
        """How far the pullback may be off in each entry of input ``k``."""
        if self.exact(k) or noise is None:
            return np.zeros(self.arrays[k].shape)
        # A single entry may be quiet by luck: each gets a quarter of the loudest, a few ulps of the
        # largest entry, which a formula such as 1 + tanh may lose where it is small itself, and a
        # few of the cotangent, where all entries are.
        eps = float(np.finfo(dtype).eps)
        largest = eps * self.size(k, ct).max(initial=0.0)
        loud = _NOISE * np.maximum(noise[k], 0.25 * noise[k].max(initial=0.0)) + 8 * largest
        # The samples of an op are its own; a user's function may be as deep as it likes.
        loud = np.minimum(loud, _NOISE_CAP * largest) if self.capped else 8 * loud
        least = 8 * eps * np.abs(ct).max(initial=0.0) + 1e-300
        return np.asarray(self.rounding(k, ct, dtype) + loud + least)

    # ---- the comparison

    def compare(self, k: int, got: Array | None, ct: Array, bound: Array) -> None:
        """Count and compare the cotangent of input ``k`` with what it must be."""
        self.compare_arrays(k, got, self.expected(k, ct), bound, ct=ct)

    def compare_arrays(self, k: int, got: Array | None, expected: Array, bound: Any,
                       detail: str = "", ct: Array | None = None) -> None:
        """Count and compare two cotangents of input ``k``; raise `CheckFailed` if they differ."""
        name, stats = self.subject.inputs[k], self.stats
        if got is None:
            got = np.zeros(self.arrays[k].shape)
        if got.shape != expected.shape:
            raise self.failed(f"the cotangent of {name} has shape {got.shape}, the input "
                              f"{expected.shape}", k, got=got, expected=expected, ct=ct)
        limit = np.broadcast_to(np.asarray(bound, np.float64), expected.shape)
        unknown = ~np.isfinite(limit)           # where differences did not settle
        off, bad = _beyond(got, expected, limit)
        bad |= unknown
        stats.comparisons += int((~unknown).sum())
        if bad.any() and ct is not None and self._between_slopes(k, got, ct, bad):
            stats.comparisons += int(unknown.sum())
            stats.note(f"not differentiable here: {name} at {_places(bad)}")
            return
        if unknown.any() and not (bad & ~unknown).any():
            stats.note(f"could not be measured: {name} at {_places(unknown)}")
        elif bad.any():
            raise self.failed(detail or f"{int(bad.sum())} of {bad.size} wrong", k, got=got,
                              expected=expected, ct=ct, bound=limit)
        known = (limit > 0) & ~unknown
        if known.any():
            stats.worst = max(stats.worst, float((off[known] / limit[known]).max()))

    def failed(self, detail: str, k: int = -1, **facts: Any) -> CheckFailed:
        """A finding about input ``k``."""
        name = self.subject.inputs[k] if k >= 0 else ""
        return CheckFailed(Finding(self.stats.prop, self.subject.name, self.case, name, detail, k,
                                   context=self.context or self, **facts))

    def _between_slopes(self, k: int, got: Array, ct: Array, bad: Array) -> bool:
        """Whether every bad entry sits on a kink, with a value between the slopes there."""
        if self.ties is not None:
            return False
        places = np.flatnonzero(bad)
        right, left = self._sides(k, places)
        larger = np.maximum(np.abs(right), np.abs(left))
        apart = np.abs(right - left).max(axis=0, initial=0.0)
        if (apart <= 1e-4 * larger.max(initial=0.0) + 1e-12).any():
            return False
        g = ct.reshape(-1, 1).astype(np.float64)
        low = np.minimum(g * right, g * left).sum(axis=0)
        high = np.maximum(g * right, g * left).sum(axis=0)
        slack = 1e-6 * (np.abs(g) * larger).sum(axis=0)
        value = got.reshape(-1)[places]
        return bool(((value >= low - slack) & (value <= high + slack)).all())

    def _sides(self, k: int, places: Array) -> tuple[Array, Array]:
        """Slopes to the right and to the left at some entries of input ``k``."""
        m = self.measured(k)
        if m.left is not None:
            return m.matrix[:, places], m.left[:, places]
        base = np.array(self.subject.forward(self.arrays), np.float64)

        def slope(i: int, h: float) -> Array:
            given = list(self.arrays)
            given[k] = given[k].copy()
            given[k].flat[i] += h
            return np.asarray((np.array(self.subject.forward(given), np.float64) - base) / h)

        steps = [(i, 2.0 ** -24 * max(1.0, abs(float(self.arrays[k].flat[i])))) for i in places]
        right, left = (np.stack([slope(i, sign * h).reshape(-1) for i, h in steps], axis=1)
                       for sign in (1, -1))
        return right, left


def _places(bad: Array) -> str:
    """The first few indices where ``bad`` holds."""
    found = [str(tuple(int(i) for i in place)) for place in np.argwhere(bad)[:3]]
    return ", ".join(found) + (", ..." if int(bad.sum()) > 3 else "")


# ---- ties

def tied(forward: Callable[[Arrays], Array], arrays: Arrays, measured: dict[int, Measured],
         rule: str) -> dict[int, Array]:
    """The Jacobians that a tie rule makes of the slopes to the two sides.

    The first four rules look at one entry at a time.  The others look, for each output, at the
    entries that have a kink there, move all of them together and share out the slope.
    """
    right = np.concatenate([m.matrix for m in measured.values()], axis=1)
    left = np.concatenate([m.matrix if m.left is None else m.left for m in measured.values()],
                          axis=1)
    if rule in ("left", "right"):
        matrix = (left if rule == "left" else right).copy()
    elif rule == "larger":
        matrix = np.where(np.abs(left) > np.abs(right), left, right)
    elif rule == "middle":
        matrix = (left + right) / 2
    else:
        matrix = right.copy()
        for j, members in enumerate(left != right):
            places = np.flatnonzero(members)
            if places.size:
                total = _slope_together(forward, arrays, list(measured), places, j)
                matrix[j, places] = {"even": total / places.size, "all": total, "first": 0.0}[rule]
                if rule == "first":
                    matrix[j, places[0]] = total
    sizes = np.cumsum([m.matrix.shape[1] for m in measured.values()])[:-1]
    return dict(zip(measured, np.split(matrix, sizes, axis=1), strict=True))


def _slope_together(forward: Callable[[Arrays], Array], arrays: Arrays, order: Sequence[int],
                    places: Array, output: int, step: float = 1 / 32) -> float:
    """The slope of one output when several entries of the inputs move to the right together."""
    given = [np.array(x, copy=True) for x in arrays]
    before = float(np.asarray(forward(given)).reshape(-1)[output])
    start = 0
    for k in order:
        line = given[k].reshape(-1)
        own = places[(places >= start) & (places < start + line.size)] - start
        line[own] += step
        start += line.size
    return (float(np.asarray(forward(given)).reshape(-1)[output]) - before) / step
