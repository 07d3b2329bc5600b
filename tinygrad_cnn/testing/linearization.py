"""A function at one place: its Jacobian, what its pullback must give, and how exactly.

A `Subject` is anything with values and a pullback: an op with its rules, a function of tensors, two
plain functions of arrays, of PyTorch or of JAX.  A `Linearization` measures its Jacobian J from
values alone and says, for a cotangent g, what r = gᵀ J must be and how far off a right rule may be:

- exact data: not at all;
- otherwise the rounding of the sum, a few eps · |g|ᵀ|J|, plus the noise of the rule itself, seen
  by moving its arguments by an ulp or two, plus the measured error of J.

An entry whose bound is too wide to say anything, or that sits on a kink, counts as *not measured*:
it is listed in the report, and no rule is right because of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tinygrad_cnn.testing.numeric import (
    LINE,
    Forward,
    Measured,
    along,
    confirmed,
    differences,
    grain_of,
    line_of,
    measure,
    moved,
    scale_of,
    slopes,
    slopes_along,
)
from tinygrad_cnn.types import Array

__all__ = ["CheckFailed", "Finding", "Linearization", "Stats", "Subject", "odd_integers", "tied"]

Arrays = Sequence[Array]
PRECISION = 1e-6            # relative to the entry: what "right" promises in float64
_SINGLE = 1e-2              # and in float32
_SMALL = 1e-2               # of the largest entry: smaller ones are measured to its precision
_ROUNDINGS = 16.0           # eps · |g|ᵀ|J| that a formula may lose besides its last sum
_NOISE = 8.0                # times the change that ulps of the arguments cause
_NOISE_CAP = 2.0 ** 13      # eps · max |g|ᵀ|J|
_GUARD_BITS = 12            # of the mantissa, for the intermediate results of a rule
_WHOLE = 2000               # entries up to which the whole Jacobian is measured
_LOST = 1e4                 # eps · the values over the input
_LARGEST = 1 << 22          # entries of that Jacobian
_ERRORS = 4.0               # times the estimated error of a difference
_AGAIN = 48                 # entries that are measured a second time before they count as wrong
_GROUPS = 32                # of entries that tie
_BLOCKS = 16


# ---- what is counted, and what is found

@dataclass
class Stats:
    """What a running test has counted so far, and the property that it is at.

    ``unmeasured`` maps inputs to what could not be judged and why, ``precision`` to the largest
    bound in units of the gradient.
    """

    comparisons: int = 0
    worst: float = 0.0
    methods: dict[str, str] = field(default_factory=dict)
    precision: dict[str, float] = field(default_factory=dict)
    unmeasured: dict[str, list[str]] = field(default_factory=dict)
    prop: str = "gradient"

    def note(self, name: str, why: str) -> None:
        """Remember what was not measured of an input, once."""
        several = self.unmeasured.setdefault(name, [])
        if why not in several:
            several.append(why)


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
    context: object = None

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


def _beyond(got: Array, expected: Array, bound: Array | float) -> tuple[Array, Array]:
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
    forward: Forward
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
    rtol : float, optional
        Relative error that is allowed besides.
    dtype : dtype
        In which the function computes.
    quick : bool
        Whether to begin with directions, see `agrees_along`, and not with the whole Jacobian.
    case, context
        For findings.
    """

    def __init__(self, subject: Subject, arrays: Arrays, stats: Stats, *,
                 affine: Sequence[int] = (), piecewise_linear: bool = False,
                 ties: str | None = None, capped: bool = True, rtol: float | None = None,
                 dtype: np.dtype | type = np.float64, quick: bool = False, case: str = "",
                 context: object = None) -> None:
        self.subject = subject
        self.arrays = tuple(arrays)
        self.stats = stats
        self.wanted = tuple(k for k, x in enumerate(arrays) if x.dtype.kind == "f")
        self.affine = frozenset(affine)
        self.piecewise_linear = piecewise_linear
        self.ties = ties
        self.capped = capped
        self.rtol = rtol
        self.dtype = np.dtype(dtype)
        self.quick = quick
        self.case = case
        self.context = context
        self._pulled: dict[tuple[str, bytes], list[Array | None]] = {}
        self._measured: dict[int, Measured] = {}
        self._again: dict[int, set[int]] = {}
        self._tied: dict[int, Array] | None = None

    @cached_property
    def out(self) -> Array:
        """The values of the function."""
        return np.array(self.subject.forward(self.arrays))

    @cached_property
    def scales(self) -> list[float]:
        """A typical size of the entries of each input, and of the values last."""
        return [scale_of(x) if x.dtype.kind == "f" else 1.0 for x in (*self.arrays, self.out)]

    @cached_property
    def large(self) -> bool:
        """Whether there are too many entries to measure each: then directions are."""
        entries = sum(self.arrays[k].size for k in self.wanted)
        return entries > _WHOLE or entries * self.out.size > _LARGEST

    @property
    def directed(self) -> bool:
        """Whether directions are measured, and no entries."""
        return self.quick or self.large

    def pulled(self, ct: Array) -> list[Array | None]:
        """The cotangents of the inputs, computed once for each ``ct``."""
        key = (ct.dtype.char, ct.tobytes())
        if key not in self._pulled:
            with np.errstate(all="ignore"):
                self.keep(ct, self.subject.pull(self.arrays, ct))
        return self._pulled[key]

    def keep(self, ct: Array, parts: Sequence[Array | None]) -> None:
        """Remember what the pullback gave for ``ct``."""
        self._pulled[ct.dtype.char, ct.tobytes()] = [None if p is None else np.array(p)
                                                     for p in parts]

    @cached_property
    def grain(self) -> Array:
        """The rounding of the values, output by output."""
        return grain_of(self.subject.forward, self.arrays, self.dtype)

    def measured(self, k: int) -> Measured:
        """The Jacobian in input ``k``."""
        if k not in self._measured:
            assert not self.directed, "only directions are measured there"
            self._measured[k] = measure(
                self.subject.forward, self.arrays, k, affine=k in self.affine,
                piecewise_linear=self.piecewise_linear, real=self.dtype.itemsize < 8,
                grain=None if k in self.affine or self.piecewise_linear else self.grain)
        return self._measured[k]

    def exact(self, k: int) -> bool:
        """Whether input ``k`` is compared with ``==``."""
        return not self.directed and self.measured(k).method == "exact" and (
            self.measured(k).left is None or self.ties is not None) \
            and not np.any(self.measured(k).error)

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

    def cotangent(self, rng: np.random.Generator, shape: Sequence[int],
                  dtype: np.dtype | type) -> Array:
        """A random cotangent: odd integers as large as the exact comparison of ``dtype`` allows."""
        bits = 30
        for m in () if self.directed else map(self.measured, self.wanted):
            if m.method == "exact":
                total = max(float(np.abs(side).sum(axis=0).max(initial=0.0))
                            for side in (m.matrix, m.left) if side is not None)
                used = int(np.ceil(np.log2(max(total, 1.0))))
                bits = min(bits, (53 if np.dtype(dtype).itemsize == 8 else 24) - _GUARD_BITS - used)
            else:
                bits = min(bits, 8)
        return odd_integers(rng, shape, max(min(bits, 8) if self.directed else bits, 2))

    # ---- what the pullback must give

    def expected(self, k: int, ct: Array) -> Array:
        """ctᵀ J for input ``k``, in float64."""
        return (ct.reshape(-1).astype(np.float64) @ self.matrix(k)).reshape(self.arrays[k].shape)

    def size(self, k: int, ct: Array) -> Array:
        """|ct|ᵀ |J| for each entry of input ``k``: what its cotangent is a sum of."""
        if self.directed:                       # not known: as large as the largest entry
            part = self.pulled(ct.astype(self.out.dtype))[k]
            largest = 0.0 if part is None else float(np.abs(part).max(initial=0.0))
            return np.full(self.arrays[k].shape, largest)
        flat = np.abs(ct.reshape(-1).astype(np.float64))
        return (flat @ np.abs(self.matrix(k))).reshape(self.arrays[k].shape)

    def rounding(self, k: int, ct: Array, dtype: np.dtype | type = np.float64) -> Array:
        """Error that a right rule may have from rounding and from the measured error of J."""
        steps = _ROUNDINGS + np.log2(1.0 + ct.size)
        eps = float(np.finfo(np.promote_types(np.float32, dtype) if self.dtype.itemsize == 8
                             else self.dtype).eps)
        bound = steps * eps * self.size(k, ct)
        if not self.directed and not isinstance(self.measured(k).error, float):
            # Differences cannot be trusted further than their own estimate says.
            m, flat = self.measured(k), np.abs(ct.reshape(-1))
            with np.errstate(invalid="ignore"):
                error = flat[:, None] * (_ERRORS * m.error + 1e-11 * np.abs(m.matrix))
            bound = bound + np.where(flat[:, None] == 0, 0.0, error).sum(axis=0).reshape(
                bound.shape)
        return np.asarray(bound)

    def kinked(self, k: int) -> Array:
        """Which entries of input ``k`` sit on a kink, in its shape."""
        if self.directed:
            return np.zeros(self.arrays[k].shape, bool)
        return np.asarray(self.measured(k).kinks.any(axis=0)).reshape(self.arrays[k].shape)

    def noise(self, ct: Array, dtype: np.dtype | type,
              rng: np.random.Generator) -> dict[int, Array]:
        """How much the pullback changes when its arguments move by an ulp or two.

        Entries on a kink stay: there an ulp turns one slope into another.
        """
        still = {k: self.kinked(k) for k in self.wanted} if not self.capped else {}
        arrays = [x.astype(dtype) if x.dtype.kind == "f" else x for x in self.arrays]
        base = self.pulled(ct) if ct.dtype == dtype else self.subject.pull(arrays, ct.astype(dtype))
        changes = {k: np.zeros(self.arrays[k].shape) for k in self.wanted}
        for _ in range(1 if self.quick else 3 if self.capped else 6):
            others = [moved(x, rng, still.get(k), dtype) for k, x in enumerate(arrays)]
            other = self.subject.pull(others, moved(ct.astype(dtype), rng, None, dtype))
            for k in self.wanted:
                a, b = base[k], other[k]
                if a is not None and b is not None and a.shape == b.shape == changes[k].shape:
                    off = np.nan_to_num(_beyond(a, np.asarray(b, np.float64), 0.0)[0])
                    changes[k] = np.maximum(changes[k], off)
        return changes

    def bound(self, k: int, ct: Array, noise: dict[int, Array] | None,
              dtype: np.dtype | type = np.float64) -> Array:
        """How far the pullback may be off in each entry of input ``k``."""
        if noise is None or self.exact(k):
            return np.zeros(self.arrays[k].shape)
        # A single entry may be quiet by luck: each gets a quarter of the loudest, a few ulps of the
        # largest entry, which a formula such as 1 + tanh may lose where it is small itself, and a
        # few of the cotangent, where all entries are.
        eps = float(np.finfo(dtype).eps)
        size = self.size(k, ct)
        largest = eps * size.max(initial=0.0)
        if self.capped:
            loud = _NOISE * np.maximum(noise[k], 0.25 * noise[k].max(initial=0.0))
            loud = np.minimum(loud + 8 * largest, _NOISE_CAP * largest)
        else:
            # A user's function may be as deep as it likes; but what is loud is loud for its size.
            with np.errstate(all="ignore"):
                share = np.where(size > 0, noise[k] / size, 0.0).max(initial=0.0)
            loud = 8 * _NOISE * np.maximum(noise[k], 0.25 * min(share, 1.0) * size) + 64 * largest
            loud = loud + (self.rtol or 0.0) * self._unit(size)
        least = 8 * eps * np.abs(ct).max(initial=0.0) + 1e-300
        if not self.capped:
            least *= min(1.0, self.scales[-1] / self.scales[k])
        return np.asarray(self.rounding(k, ct, dtype) + loud + least)

    @property
    def _asked(self) -> float:
        """The precision to which an entry must be measured, to count."""
        return max(PRECISION if self.dtype.itemsize == 8 else _SINGLE, 4 * (self.rtol or 0.0))

    def _unit(self, size: Array) -> Array:
        """What the precision of an entry is relative to: its size, unless it is far smaller."""
        share = _SMALL if self.dtype.itemsize == 8 else 1.0
        return np.asarray(np.maximum(size, share * size.max(initial=0.0)))

    def _lost(self, k: int, ct: Array) -> float:
        """Slopes below that are 0 as far as the rounding of the values can tell."""
        return float(_LOST * np.finfo(self.dtype).eps * np.linalg.norm(ct) * self.scales[-1]
                     / self.scales[k])

    # ---- the comparison

    def compare(self, k: int, got: Array | None, ct: Array, bound: Array) -> None:
        """Count and compare the cotangent of input ``k`` with what it must be.

        What does not agree is measured a second time, in another way, before it counts as wrong.
        """
        if got is None:
            got = np.zeros(self.arrays[k].shape)
        expected = self.expected(k, ct)
        if got.shape == expected.shape:
            _, bad = _beyond(got, expected, bound)
            places = np.flatnonzero(bad & ~self.kinked(k))
            if places.size and self.ties is None and self._remeasure(k, places):
                bound = np.maximum(bound, self.rounding(k, ct))
                expected = self.expected(k, ct)
        self.compare_arrays(k, got, expected, bound, ct=ct)

    def _remeasure(self, k: int, places: Array) -> bool:
        """Replace entries of the Jacobian by differences where these say something else."""
        m, done = self.measured(k), self._again.setdefault(k, set())
        new = [i for i in places.tolist() if i not in done][:_AGAIN - len(done)]
        if not new or m.method.startswith("differences"):
            return False
        done.update(new)
        other = differences(self.subject.forward, self.arrays, k, self.grain, new)
        matrix, left = m.matrix.copy(), (m.matrix if m.left is None else m.left).copy()
        error = np.broadcast_to(np.asarray(m.error, np.float64), matrix.shape).copy()
        size = np.abs(matrix).max(initial=0.0)
        off = np.abs(other.matrix - matrix[:, new])
        # Few digits decide: complex steps are exact, unless the imaginary part is lost on the way.
        doubted = other.kinks | (np.isfinite(other.error) & (
            off > 10 * np.asarray(other.error) + 1e-6 * np.abs(other.matrix) + 1e-12 * size))
        if m.method == "exact":
            doubted = other.kinks
        matrix[:, new] = np.where(doubted, other.matrix, matrix[:, new])
        error[:, new] = np.where(doubted, other.error, error[:, new])
        left[:, new] = np.where(doubted, other.matrix if other.left is None else other.left,
                                left[:, new])
        self._measured[k] = Measured(m.method, matrix, error if error.any() else 0.0,
                                     None if np.array_equal(left, matrix) else left, m.reach)
        return bool(doubted.any())

    def compare_arrays(self, k: int, got: Array | None, expected: Array, bound: Array | float,
                       detail: str = "", ct: Array | None = None) -> None:
        """Count and compare two cotangents of input ``k``; raise `CheckFailed` if they differ."""
        name, stats = self.subject.inputs[k], self.stats
        if got is None:
            got = np.zeros(self.arrays[k].shape)
        if got.shape != expected.shape:
            raise self.failed(f"the cotangent of {name} has shape {got.shape}, the input "
                              f"{expected.shape}", k, got=got, expected=expected, ct=ct)
        limit = np.broadcast_to(np.asarray(bound, np.float64), expected.shape)
        off, bad = _beyond(got, expected, limit)
        unknown = ~np.isfinite(limit)           # where differences did not settle
        kinks = np.zeros(bad.shape, bool)
        if ct is not None and self.ties is None:
            kinks = self.kinked(k)
            bad = np.where(kinks, self._beyond_the_slopes(k, got, ct), bad)
        bad &= ~unknown | np.isnan(got)         # an infinite slope is right where none settles
        stats.comparisons += int((~unknown).sum())
        if bad.any():
            if not np.isfinite(got[bad]).all():
                place = tuple(int(i) for i in np.argwhere(bad & ~np.isfinite(got))[0])
                detail = detail or f"the gradient is {got[place]} at {place}"
            elif (bad & kinks).any() and not (bad & ~kinks).any():
                detail = detail or f"beyond the slopes to the two sides of a kink at {_places(bad)}"
            raise self.failed(detail or f"{int(bad.sum())} of {bad.size} wrong", k, got=got,
                              expected=expected, ct=ct, bound=limit)
        if ct is not None:
            self._note_what_was_not_measured(k, limit, kinks, ct)
        known = (limit > 0) & ~unknown & ~kinks
        if known.any():
            stats.worst = max(stats.worst, float((off[known] / limit[known]).max()))

    def _note_what_was_not_measured(self, k: int, limit: Array, kinks: Array, ct: Array) -> None:
        name, stats = self.subject.inputs[k], self.stats
        if kinks.any():
            stats.note(name, f"not differentiable here: {name} at {_places(kinks)}")
        if self.capped:
            return                              # of an op: bounds are capped, and samples its own
        size = np.where(np.isfinite(limit), self.size(k, ct), 0.0)
        around = (np.abs(ct.reshape(-1)) * self.measured(k).reach).sum()
        unit = np.maximum(self._unit(size), _SMALL * around)
        if not unit.any():
            unit = np.full(unit.shape, 1e-3 * np.abs(ct).max(initial=0.0))
        with np.errstate(all="ignore"):
            share = np.where(kinks, 0.0, limit / np.maximum(unit, 1e-300))
        share = np.where((size <= limit) & (limit <= self._lost(k, ct)), 0.0, share)
        loose = share > self._asked
        stats.precision[name] = max(stats.precision.get(name, 0.0),
                                    float(np.where(loose, 0.0, share).max(initial=0.0)))
        if loose.any():
            known = np.where(np.isfinite(share), share, 0.0)[loose].max()
            how = f"to {known:.0e} only" if known else "not at all: differences do not settle"
            if self.out.dtype == np.float32 and self.dtype.itemsize == 8:
                how += ", for the result is float32: say dtype=np.float32"
            stats.note(name, f"measured {how}: {name} at {_places(loose)}")

    def failed(self, detail: str, k: int = -1, **facts: object) -> CheckFailed:
        """A finding about input ``k``."""
        name = self.subject.inputs[k] if k >= 0 else ""
        return CheckFailed(Finding(self.stats.prop, self.subject.name, self.case, name, detail, k,
                                   context=self.context or self, **facts))  # type: ignore[arg-type]

    # ---- kinks

    def _beyond_the_slopes(self, k: int, got: Array, ct: Array) -> Array:
        """Which entries lie outside of what the slopes to the two sides allow."""
        m = self.measured(k)
        left = m.matrix if m.left is None else m.left
        low, high, slack = _interval(ct, m.matrix, left, m.error)
        value = got.reshape(-1)
        return np.asarray(~((value >= low - slack) & (value <= high + slack))).reshape(got.shape)

    def compare_together(self, parts: Sequence[Array | None], ct: Array) -> None:
        """Entries that tie, moved together, have a slope that their sum must give.

        Each entry of a tie may take all of the slope, or nothing; but not all of them at once.
        """
        if self.ties is not None or self.directed:
            return
        sizes = [self.arrays[k].size for k in self.wanted]
        kinks = np.concatenate([self.measured(k).kinks for k in self.wanted], axis=1)
        for members in _groups(kinks):
            sides = np.split(members, np.cumsum(sizes)[:-1])
            directions = {k: (side * scale_of(self.arrays[k])).reshape(self.arrays[k].shape)
                          for k, side in zip(self.wanted, sides, strict=True)}
            found = slopes(line_of(self.subject.forward, self.arrays, directions), LINE[:-1],
                           self.grain)
            low, high, slack = (float(v[0]) for v in _interval(
                ct, found.right[:, None], found.left[:, None], found.error[:, None]))
            value = float(sum((0.0 if p is None else (p * directions[k]).sum())
                              for k, p in zip(self.wanted, (parts[k] for k in self.wanted),
                                              strict=True)))
            self.stats.comparisons += 1
            if np.isfinite(slack) and not low - slack <= value <= high + slack:
                k = next(k for k in self.wanted if directions[k].any())
                raise self.failed(
                    f"{int(members.sum())} entries that tie, moved together, have a slope of "
                    f"{low:.6g}" + (f" to {high:.6g}" if high - low > slack else "")
                    + f", and the gradient says {value:.6g}", k, ct=ct)

    # ---- directions, where there are too many entries

    def agrees_along(self, cotangents: Sequence[Array], noise: dict[int, Array]) -> bool:
        """Whether a direction through all entries of all inputs shows that the gradient is right.

        Its weights are random, so that errors do not cancel, and it is measured so precisely that
        no entry can be further off than `PRECISION`; of too many entries, each input together.
        False if there is any doubt: a kink, or a loss of digits.  Entries are then measured one by
        one.
        """
        pulled = []
        for ct in cotangents:
            parts = {k: p for k, p in enumerate(self.pulled(ct)) if k in self.wanted
                     and p is not None and p.shape == self.arrays[k].shape
                     and np.isfinite(p).all()}
            if len(parts) < len(self.wanted):
                return False
            pulled.append((ct.reshape(-1).astype(np.float64), parts))
        rng, forward = np.random.default_rng(17), self.subject.forward
        weights = {k: np.copysign(rng.uniform(0.5, 1.5, x.shape), rng.random(x.shape) - 0.5)
                   * np.maximum(np.abs(x), self.scales[k])
                   for k, x in enumerate(self.arrays) if k in self.wanted}
        slope, method = along(forward, self.arrays, weights), "complex step"
        error = np.zeros(self.out.size)
        if slope is None or not self._is_slope(slope, weights):
            line = slopes(line_of(forward, self.arrays, weights), LINE, self.grain)
            slope, error, method = line.value, line.error, "differences"
            if not np.isfinite(error).all() or not np.array_equal(line.right, line.left):
                return False
        loud = 8 * np.sqrt(sum(((noise[k] * w) ** 2).sum() for k, w in weights.items()))
        worst, precision = 0.0, dict.fromkeys(self.wanted, 0.0)
        for flat, parts in pulled:
            terms = {k: part * weights[k] for k, part in parts.items()}
            size = np.abs(slope) @ np.abs(flat) + sum(np.abs(t).sum() for t in terms.values())
            margin = float(64 * np.finfo(np.float64).eps * size + loud
                           + _ERRORS * (error @ np.abs(flat)))
            off = abs(float(sum(t.sum() for t in terms.values()) - slope @ flat))
            if not off <= margin:
                return False
            worst = max(worst, off / max(margin, 1e-300))
            for k, part in parts.items():
                unit = np.abs(terms[k]).sum() if self.large else \
                    (np.abs(weights[k]) * self._unit(np.abs(part))).min(initial=np.inf)
                lost = self._lost(k, flat)
                if not max(margin / np.abs(weights[k]).min(initial=np.inf),
                           np.abs(part).max(initial=0.0)) <= lost:
                    precision[k] = max(precision[k], margin / max(float(unit), 1e-300))
        if not max(precision.values()) <= PRECISION:
            return False
        names = [self.subject.inputs[k] for k in self.wanted]
        self.stats.comparisons += len(pulled)
        self.stats.worst = max(self.stats.worst, worst)
        self.stats.precision.update(zip(names, precision.values(), strict=True))
        self.stats.methods.update(dict.fromkeys(names, f"{method} along a direction"))
        return True

    def _is_slope(self, slope: Array, weights: dict[int, Array], step: float = 2.0 ** -17) -> bool:
        """Whether differences confirm a complex step: no kink, no imaginary part that is lost."""
        line = line_of(self.subject.forward, self.arrays, weights)
        out = self.out.reshape(-1)
        ahead, behind = ((line(h).reshape(-1) - out) / h for h in (step, -step))
        size = np.abs(slope) + 1e-6 * np.abs(slope).max(initial=0.0)
        rounding = 8 * np.finfo(np.float64).eps * np.abs(out) / step
        with np.errstate(invalid="ignore"):
            return bool(((np.abs((ahead + behind) / 2 - slope) <= 1e-6 * size + rounding)
                         & (rounding <= 1e-3 * size)
                         & (np.abs(ahead - behind) <= 1e-2 * np.abs(slope).max())).all())

    def compare_directions(self, k: int, cotangents: Sequence[Array],
                           rng: np.random.Generator) -> None:
        """Inner products of the gradient in input ``k`` with directions over many entries, or one.

        Every entry is part of a direction; weights are random, so that errors do not cancel.
        """
        x, name, stats = self.arrays[k], self.subject.inputs[k], self.stats
        forward, arrays = self.subject.forward, self.arrays
        stats.methods[name] = "directions"
        eps = float(np.finfo(self.dtype).eps)
        pulled = []
        for ct in cotangents:
            part = self.pulled(ct)[k]
            part = np.zeros(x.shape) if part is None else np.asarray(part, np.float64)
            if part.shape != x.shape or not np.isfinite(part).all():
                self.compare_arrays(k, part, np.zeros(x.shape), np.inf, ct=None)
                bad = tuple(int(i) for i in np.argwhere(~np.isfinite(part))[0])
                raise self.failed(f"the gradient is {part[bad]} at {bad}", k, got=part, ct=ct,
                                  expected=np.zeros(x.shape))
            noise = self.noise(ct, self.dtype, rng)[k]
            pulled.append((ct.reshape(-1).astype(np.float64), part,
                           np.maximum(noise, 0.25 * noise.max(initial=0.0))))
        trusted = self.dtype.itemsize == 8 and not self.subject_is_real(k)
        margins, sizes = [0.0], [1e-300]
        for direction, place in _directions(x, rng):
            precise = along(forward, arrays, {k: direction}) if trusted else None
            line = None
            if precise is None:
                line = slopes_along(forward, arrays, {k: direction}, self.grain)
            slope = line.value if line is not None else precise
            assert slope is not None
            error = line.error if line is not None else np.zeros(slope.shape)
            for ct, part, noise in pulled:
                got = float((part * direction).sum())
                size = float(np.abs(slope) @ np.abs(ct) + np.abs(part * direction).sum())
                margin = (64 * eps * size + 8 * float(np.linalg.norm(noise * direction)) + 1e-300
                          + (self.rtol or 0.0) * size)
                low, high, slack = self._along(slope, line, error, ct, margin)
                stats.comparisons += 1
                if not low - slack <= got <= high + slack and line is None:
                    # A kink, or a lost imaginary part: differences decide.
                    line = slopes_along(forward, arrays, {k: direction}, self.grain)
                    if not confirmed(line, slope, np.abs(slope)).all():
                        slope, error = line.value, line.error
                        low, high, slack = self._along(slope, line, error, ct, margin)
                where = f"{name} at {place}" if place is not None else f"{name} along a direction"
                if not np.isfinite(slack):
                    stats.note(name, f"measured not at all: differences do not settle: {where}")
                elif not low - slack <= got <= high + slack:
                    expected = low if low == high else min(max(got, low), high)
                    raise self.failed(
                        f"{f'at {place}' if place is not None else 'along a random direction'} the "
                        f"slope is {expected:.12g}, the gradient says {got:.12g}, off by "
                        f"{abs(got - expected):.2g}", k, expected=np.array(expected),
                        got=np.array(got))
                elif low != high:
                    stats.note(name, f"not differentiable here: {where}")
                else:
                    margins += [slack] if place is None else []
                    sizes += [size] if place is None else []
                    stats.worst = max(stats.worst, abs(got - low) / slack)
        largest = max(margins) / max(sizes)
        stats.precision[name] = largest
        if largest > self._asked:
            stats.note(name, f"measured to {largest:.0e} only: {name} along directions")

    @staticmethod
    def _along(slope: Array, line: object, error: Array, ct: Array,
               margin: float) -> tuple[float, float, float]:
        """The inner product that a gradient may have: from, to, and how much more."""
        right, left = getattr(line, "right", slope), getattr(line, "left", slope)
        if line is None or np.array_equal(right, left):
            right = left = slope
        low, high, slack = _interval(ct, right[:, None], left[:, None], error[:, None])
        return float(low[0]), float(high[0]), float(slack[0]) + margin

    def subject_is_real(self, k: int) -> bool:
        """Whether complex steps fail two directions in input ``k``."""
        for n in (0, 1):
            x = self.arrays[k]
            direction = np.random.default_rng([n, 6]).choice([-1.0, 1.0, 0.5], x.shape)
            precise = along(self.subject.forward, self.arrays, {k: direction})
            if precise is None:
                return True
            line = slopes_along(self.subject.forward, self.arrays, {k: direction}, self.grain)
            if not confirmed(line, precise, np.abs(precise) + 1e-6 * np.abs(precise).max(
                    initial=0.0)).any():
                return True
        return False


def _interval(ct: Array, right: Array, left: Array,
              error: Array | float) -> tuple[Array, Array, Array]:
    """For each entry, the least and the largest ctᵀJ between two Jacobians, and its error."""
    g = ct.reshape(-1, 1).astype(np.float64)
    with np.errstate(invalid="ignore"):
        a, b = g * right, g * left
        slack = np.where(g == 0, 0.0, np.abs(g) * (_ERRORS * np.asarray(error) + 1e-6 * np.where(
            right != left, np.maximum(np.abs(right), np.abs(left)), 0.0)
            + 1e-12 * np.abs(right)))
    return np.minimum(a, b).sum(axis=0), np.maximum(a, b).sum(axis=0), slack.sum(axis=0)


def _groups(kinks: Array) -> list[Array]:
    """Entries that have a kink in one output, joined where outputs share some; not too many."""
    groups: list[Array] = []
    for row in kinks:
        if row.any():
            joined, apart = row.copy(), []
            for group in groups:
                if (group & joined).any():
                    joined |= group
                else:
                    apart.append(group)
            groups = [*apart, joined]
    several = [g for g in groups if g.sum() > 1]
    return several[:_GROUPS - 1] + ([np.any(several[_GROUPS - 1:], axis=0)]
                                    if len(several) >= _GROUPS else [])


def _directions(x: Array, rng: np.random.Generator) -> list[tuple[Array, tuple[int, ...] | None]]:
    """Random directions over blocks of entries, then single entries: ends of axes, and more."""
    blocks = rng.integers(0, _BLOCKS, x.shape)
    found: list[tuple[Array, tuple[int, ...] | None]] = []
    weights = rng.choice([-1.0, 1.0], x.shape) * rng.uniform(0.5, 1.5, x.shape)
    scale = np.maximum(np.abs(x), 1e-3 * scale_of(x)) / scale_of(x)
    for block in np.unique(blocks):
        found.append((np.where(blocks == block, weights * np.minimum(scale, 1e3), 0.0), None))
    ends = [sorted({0, n - 1}) for n in x.shape]
    corners = {tuple(end[-1 if b >> i & 1 else 0] for i, end in enumerate(ends))
               for b in range(min(1 << x.ndim, 32))}
    some = {tuple(int(rng.integers(n)) for n in x.shape) for _ in range(16)}
    for place in sorted(corners | some):
        direction = np.zeros(x.shape)
        direction[place] = 1.0
        found.append((direction, place))
    return found


def _places(bad: Array) -> str:
    """The first few indices where ``bad`` holds."""
    found = [str(tuple(int(i) for i in place)) for place in np.argwhere(bad)[:3]]
    return ", ".join(found) + (f", ... ({int(bad.sum())})" if int(bad.sum()) > 3 else "")


# ---- ties

def tied(forward: Forward, arrays: Arrays, measured: dict[int, Measured],
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


def _slope_together(forward: Forward, arrays: Arrays, order: Sequence[int], places: Array,
                    output: int, step: float = 1 / 32) -> float:
    """The slope of one output when several entries of the inputs move to the right together."""
    given = [np.array(x, copy=True, order="C") for x in arrays]
    before = float(np.asarray(forward(given)).reshape(-1)[output])
    start = 0
    for k in order:
        line = given[k].reshape(-1)
        own = places[(places >= start) & (places < start + line.size)] - start
        line[own] += step
        start += line.size
    return (float(np.asarray(forward(given)).reshape(-1)[output]) - before) / step
