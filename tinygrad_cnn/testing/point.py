"""One function at one place: what its pullback must give there, and how exactly.

A `Subject` is anything with values and a pullback: an op with its rules, a function of tensors, two
plain NumPy functions.  A `Point` measures its Jacobian J from values alone and says, for a
cotangent g, what r = gᵀ J must be and how far off a right rule may be:

- exact data: not at all;
- otherwise the rounding of the sum, a few eps · |g|ᵀ|J|, plus the noise of the rule itself, seen
  by moving its arguments by an ulp or two, plus the measured error of J.

The noise is capped, so that no rule can buy tolerance by being inaccurate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_cnn.core.op import Array
from tinygrad_cnn.testing.derivatives import Measured, measure
from tinygrad_cnn.testing.report import Finding, Tally, Wrong

__all__ = ["Point", "Subject", "odd_integers", "tied"]

Arrays = Sequence[Array]
_ROUNDINGS = 16.0           # eps · |g|ᵀ|J| that a formula may lose besides its last sum
_NOISE = 8.0                # times the change that ulps of the arguments cause
_NOISE_CAP = 2.0 ** 13      # eps · max |g|ᵀ|J|
_GUARD_BITS = 12            # of the mantissa, for the intermediate results of a rule


@dataclass(frozen=True)
class Subject:
    """A function of arrays and its pullback.

    Attributes
    ----------
    name : str
        What reports call it.
    inputs : tuple of str
        Names of the inputs.
    forward : callable
        ``(arrays)`` -> array.
    pull : callable
        ``(arrays, ct)`` -> a list with the cotangent of each input, None where there is none.
    """

    name: str
    inputs: tuple[str, ...]
    forward: Callable[[Arrays], Array]
    pull: Callable[[Arrays, Array], list[Array | None]]


def odd_integers(rng: np.random.Generator, shape: Sequence[int], bits: int) -> Array:
    """Odd integers of both signs below 2 ** bits: none is 0, and sums are not alike by chance."""
    top = 1 << max(bits - 1, 1)
    return np.asarray(2 * rng.integers(-top, top, shape) + 1, np.float64)


class Point:
    """A subject at one set of arrays.

    Parameters
    ----------
    subject : Subject
    arrays : sequence of ndarray
        Float64, not written to.
    wanted : tuple of int
        Positions of the inputs to test.
    affine : collection of int
        Positions in which the function is declared affine.
    piecewise_linear : bool
        Whether it is declared linear between kinks.
    ties : str, optional
        What the pullback must give at a kink, see ``Op.ties``; None: anything between the slopes.
    capped : bool
        Whether the noise of the pullback is capped; a user's function may be ill-conditioned, an op
        on its own samples may not.
    case : str
        For findings.
    context : object
        For diagnoses.
    """

    def __init__(self, subject: Subject, arrays: Arrays, *, wanted: tuple[int, ...],
                 affine: Sequence[int] = (), piecewise_linear: bool = False,
                 ties: str | None = None, capped: bool = True, case: str = "",
                 context: Any = None) -> None:
        self.subject = subject
        self.arrays = tuple(arrays)
        self.wanted = wanted
        self.affine = frozenset(affine)
        self.piecewise_linear = piecewise_linear
        self.ties = ties
        self.capped = capped
        self.case = case
        self.context = context
        self._measured: dict[int, Measured] = {}
        self._tied: dict[int, Array] | None = None

    # ---- what is known of the Jacobian

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

    def matrix(self, k: int) -> Array:
        """J in input ``k``; at a kink, what the declared tie rule makes of it."""
        m = self.measured(k)
        if self.ties is None or all(self.measured(i).left is None for i in self.wanted):
            return m.matrix
        if self._tied is None:
            self._tied = tied(self.subject.forward, self.arrays,
                              {i: self.measured(i) for i in self.wanted}, self.ties)
        return self._tied[k]

    # ---- cotangents

    def cotangent(self, rng: np.random.Generator, shape: Sequence[int], dtype: Any) -> Array:
        """A random cotangent: odd integers as large as the exact comparison of ``dtype`` allows."""
        mantissa = 53 if np.dtype(dtype).itemsize == 8 else 24
        bits = 30
        for k in self.wanted:
            if self.measured(k).method == "exact":
                total = float(np.abs(self.measured(k).matrix).sum(axis=0).max(initial=0.0))
                left = self.measured(k).left
                if left is not None:
                    total = max(total, float(np.abs(left).sum(axis=0).max(initial=0.0)))
                used = int(np.ceil(np.log2(max(total, 1.0))))
                bits = min(bits, mantissa - _GUARD_BITS - used)
            else:
                bits = min(bits, 8)
        return odd_integers(rng, shape, max(bits, 2))

    # ---- what the pullback must give

    def expected(self, k: int, ct: Array) -> Array:
        """ctᵀ J for input ``k``, in float64."""
        return (ct.reshape(-1).astype(np.float64) @ self.matrix(k)).reshape(self.arrays[k].shape)

    def rounding(self, k: int, ct: Array, dtype: Any) -> Array:
        """Error that a right rule may have from rounding and from the measured error of J."""
        size = np.abs(ct.reshape(-1).astype(np.float64))
        m = self.measured(k)
        eps = float(np.finfo(dtype).eps)
        steps = _ROUNDINGS + np.log2(1.0 + ct.size)
        bound = steps * eps * (size @ np.abs(self.matrix(k)))
        if not isinstance(m.error, float):
            # Differences cannot be trusted further than their own estimate says.
            bound = bound + size @ (10.0 * m.error + 1e-11 * np.abs(m.matrix))
        return np.asarray(bound.reshape(self.arrays[k].shape))

    def noise(self, ct: Array, dtype: Any, rng: np.random.Generator) -> dict[int, Array]:
        """How much the pullback changes when its arguments move by an ulp or two."""
        eps = np.finfo(dtype).eps

        def moved(x: Array) -> Array:
            if x.dtype.kind != "f":
                return x
            return (x * (1 + eps * rng.integers(-2, 3, x.shape))).astype(dtype)

        arrays = [x.astype(dtype) if x.dtype.kind == "f" else x for x in self.arrays]
        base = self.subject.pull(arrays, ct.astype(dtype))
        changes: dict[int, Array] = {k: np.zeros(self.arrays[k].shape) for k in self.wanted}
        for _ in range(3 if self.capped else 6):
            other = self.subject.pull([moved(x) for x in arrays], moved(ct.astype(dtype)))
            for k in self.wanted:
                a, b = base[k], other[k]
                if a is not None and b is not None and a.shape == b.shape == changes[k].shape:
                    with np.errstate(all="ignore"):
                        off = np.abs(a.astype(np.float64) - b)
                    changes[k] = np.maximum(changes[k], np.nan_to_num(off))
        return changes

    def bound(self, k: int, ct: Array, dtype: Any, noise: dict[int, Array] | None) -> Array:
        """How far the pullback may be off in each entry of input ``k``."""
        if self.exact(k) or noise is None:
            return np.zeros(self.arrays[k].shape)
        rounding = self.rounding(k, ct, dtype)
        # A single entry may be quiet by luck: each gets a quarter of the loudest, a few ulps of the
        # largest entry, which a formula such as 1 + tanh may lose where it is small itself, and a
        # few of the cotangent, where all entries are.
        eps = float(np.finfo(dtype).eps)
        size = np.abs(ct.reshape(-1).astype(np.float64)) @ np.abs(self.matrix(k))
        largest = eps * size.max(initial=0.0)
        loud = _NOISE * np.maximum(noise[k], 0.25 * noise[k].max(initial=0.0)) + 8 * largest
        # The samples of an op are its own; a user's function may be as deep as it likes.
        loud = np.minimum(loud, _NOISE_CAP * largest) if self.capped else 8 * loud
        return np.asarray(rounding + loud + 8 * eps * np.abs(ct).max(initial=0.0) + 1e-300)

    # ---- the comparison

    def compare(self, prop: str, k: int, got: Array | None, ct: Array, bound: Array,
                tally: Tally, *, detail: str = "") -> None:
        """Count and compare one cotangent with what it must be; raise `Wrong` if it is not."""
        expected = self.expected(k, ct)
        self.compare_arrays(prop, k, got, expected, bound, ct, tally, detail=detail)

    def compare_arrays(self, prop: str, k: int, got: Array | None, expected: Array, bound: Any,
                       ct: Array | None, tally: Tally, *, detail: str = "") -> None:
        """Count and compare two cotangents of input ``k``."""
        name = self.subject.inputs[k]
        if got is None:
            got = np.zeros(self.arrays[k].shape)
        if got.shape != expected.shape:
            raise self.wrong(prop, k, f"the cotangent of {name} has shape {got.shape}, the input "
                             f"{expected.shape}", got=got, expected=expected, ct=ct)
        limit = np.broadcast_to(np.asarray(bound, np.float64), expected.shape)
        with np.errstate(all="ignore"):
            off = np.abs(got.astype(np.float64) - expected)
            unknown = ~np.isfinite(limit)           # where differences did not settle
            bad = ~(off <= limit) | unknown
        tally.comparisons += int((~unknown).sum())
        if bad.any() and ct is not None and self._between_slopes(k, got, ct, bad):
            tally.comparisons += int(unknown.sum())
            tally.note(f"not differentiable here: {name} at {_places(bad)}")
            return
        if unknown.any() and not (bad & ~unknown).any():
            tally.note(f"could not be measured: {name} at {_places(unknown)}")
        elif bad.any():
            raise self.wrong(prop, k, detail or f"{int(bad.sum())} of {bad.size} wrong", got=got,
                             expected=expected, ct=ct, bound=limit)
        known = (limit > 0) & ~unknown
        if known.any():
            tally.worst = max(tally.worst, float((off[known] / limit[known]).max()))

    def wrong(self, prop: str, k: int, detail: str, **facts: Any) -> Wrong:
        """A finding about input ``k`` of this point."""
        name = self.subject.inputs[k] if k >= 0 else ""
        return Wrong(Finding(prop, self.subject.name, self.case, name, detail, k,
                             context=self.context or self, **facts))

    def _between_slopes(self, k: int, got: Array, ct: Array, bad: Array) -> bool:
        """Whether every bad entry sits on a kink, with a value between the slopes there."""
        if self.ties is not None:
            return False
        right, left = self._sides(k, bad)
        places = np.flatnonzero(bad)
        scale = np.maximum(np.abs(right), np.abs(left)).max(initial=0.0)
        if (np.abs(right - left).max(axis=0, initial=0.0) <= 1e-4 * scale + 1e-12).any():
            return False
        g = ct.reshape(-1, 1).astype(np.float64)
        low = np.minimum(g * right, g * left).sum(axis=0)
        high = np.maximum(g * right, g * left).sum(axis=0)
        slack = 1e-6 * (np.abs(g) * np.maximum(np.abs(right), np.abs(left))).sum(axis=0)
        value = got.reshape(-1)[places]
        return bool(((value >= low - slack) & (value <= high + slack)).all())

    def _sides(self, k: int, bad: Array) -> tuple[Array, Array]:
        """Slopes to the right and to the left at the bad entries of input ``k``."""
        places = np.flatnonzero(bad)
        m = self.measured(k)
        if m.left is not None:
            return m.matrix[:, places], m.left[:, places]
        columns: list[tuple[Array, Array]] = []
        given = list(self.arrays)
        x = self.arrays[k]
        for i in places:
            h = 2.0 ** -24 * max(1.0, abs(float(x.flat[i])))
            sides = []
            for sign in (1, -1):
                given[k] = x.copy()
                given[k].flat[i] += sign * h
                change = (np.array(self.subject.forward(given), np.float64)
                          - self.subject.forward(self.arrays))
                sides.append(sign * change.reshape(-1) / h)
            columns.append((sides[0], sides[1]))
        return (np.stack([r for r, _ in columns], axis=1),
                np.stack([left for _, left in columns], axis=1))


def _places(bad: Array) -> str:
    """The first few indices where ``bad`` holds."""
    found = [str(tuple(int(i) for i in place)) for place in np.argwhere(bad)[:3]]
    return ", ".join(found) + (", ..." if int(bad.sum()) > 3 else "")


def tied(forward: Callable[[Arrays], Array], arrays: Arrays, measured: dict[int, Measured],
         rule: str) -> dict[int, Array]:
    """The Jacobians that a tie rule makes of the slopes to the two sides.

    The first four rules look at one entry at a time.  The others look, for each output, at the
    entries that have a kink there, move all of them together and share out the slope.
    """
    order = list(measured)
    right = np.concatenate([measured[k].matrix for k in order], axis=1)
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
                total = _slope_together(forward, arrays, order, places, j)
                matrix[j, places] = total / places.size if rule == "even" else 0.0
                matrix[j, places[:1] if rule == "first" else places[:0]] = total
                if rule == "all":
                    matrix[j, places] = total
    sizes = np.cumsum([measured[k].matrix.shape[1] for k in order])[:-1]
    return dict(zip(order, np.split(matrix, sizes, axis=1), strict=True))


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
