"""Name the likely mistake behind a finding.

A diagnosis looks at two Jacobians: the one that is right, and the one that the rule stands for,
found by pulling the cotangents e_j one by one.  Each *pattern* is a function of both that returns a
key and a sentence, or None; those that fit most of the op's wrong samples win.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, permutations, product
from typing import Any

import numpy as np

from tinygrad_cnn.shapes import Shape
from tinygrad_cnn.testing.cases import Case, OpCase
from tinygrad_cnn.testing.linearization import Finding, Linearization, Stats
from tinygrad_cnn.types import Array, Settings

__all__ = ["Diagnosis", "diagnose"]

Diagnosis = tuple[str, str]

_MOST_ROWS = 600             # of a Jacobian that is looked at

_BY_PROPERTY = {
    "writes nothing": ("in place", "an array that is not the rule's own is written to: copy it"),
    "re-entrant": ("stateful", "the rule keeps state between calls: use what is given alone"),
    "shares no memory": ("shared memory", "two results live in one array: copy one"),
    "shared tensor": ("reuse", "a tensor that is used several times does not collect the sum"),
    "at kinks": ("ties", "wrong only at ties and kinks: the tie rule is not the declared one"),
    "zero gives zero": ("zero", "0 / 0 or 0 * inf where nothing is asked for: 0 must stay 0; "
                                "declare couples"),
    "linear in the cotangent": ("not linear", "the result is not linear in the cotangent"),
    "memory layout": ("layout", "memory is read as if it were contiguous: use the array, not its "
                                "buffer"),
    "reads what is declared": ("reads", "a value is read that the op's saved= does not name"),
    "second order": ("second order", "the rule is right but its derivative is not: a factor is a "
                                     "plain array where a recorded tensor belongs (order=1 does "
                                     "not ask for it)"),
    "only what is asked": ("recording", "the result depends on which gradients are wanted, or on "
                                        "whether the pass is recorded"),
    "records and frees": ("recording", "the engine does not record, add up or free as it should"),
    "called by name": ("public function", "the public function is not the op: it runs another "
                                          "kernel, or records another op"),
    "keeps dtype": ("dtype", "the dtype of the input is not kept"),
    "kernels agree": ("kernel", "a kernel computes something else"),
    "refusals": ("refusal", "a call that must be refused is not, or not with the words"),
    "samples": ("samples", "there is nothing to test with"),
}
_SECOND = {"shared tensor": ("shared memory", "a sum is written into an array that others still "
                                              "hold"),
           "re-entrant": ("in place", "a result is written over by a later call")}


def diagnose(finding: Finding, most: int = 3) -> list[Diagnosis]:
    """The most likely mistakes, best first: a key and a sentence each.

    Never empty; where nothing fits, the finding's own words are returned.
    """
    found: list[Diagnosis] = []
    if finding.error is not None:
        found.append(_of_error(finding))
    elif finding.prop in _BY_PROPERTY and finding.prop != "kernels agree":
        found.append(_BY_PROPERTY[finding.prop])
        found.extend([_SECOND[finding.prop]] if finding.prop in _SECOND else [])
    else:
        if finding.got is not None and not np.isfinite(finding.got).all():
            place = tuple(int(i) for i in np.argwhere(~np.isfinite(finding.got))[0])
            found.append(("not finite", f"the gradient is {finding.got[place]} at {place}: 0 / 0, "
                                        "0 * inf or an overflow, where the function is finite"))
        elif "float32" in finding.detail and finding.prop == "float32":
            found.append(("dtype", f"the dtype of the input is not kept: {finding.detail}"))
        elif "kink" in finding.detail or "that tie" in finding.detail:
            found.append(("ties", "wrong at ties and kinks: entries that tie must share the slope "
                                  "that they have together"))
        if not found or found[0][0] == "ties":
            found[:0] = [d for d in _voted(finding) if not found or d[0] in ("scale", "sign")]
        if finding.prop == "float32" and not found:
            found.append(("rounded", "wrong in float32 only: something is computed in less "
                                     "precision, or in another dtype"))
        if finding.prop in _BY_PROPERTY:
            found.append(_BY_PROPERTY[finding.prop])
    unique = dict(reversed(found))
    ordered = [(key, unique[key]) for key in dict.fromkeys(key for key, _ in found)]
    return ordered[:most] or [("unknown", finding.detail)]


def _voted(finding: Finding) -> list[Diagnosis]:
    """The patterns that fit most of the op's wrong samples, the most telling first.

    One sample may have a pattern by chance: sizes that are equal, signs that line up.
    """
    pairs = list(_pairs(finding))
    several = [_of_numbers(e) for e in pairs]
    if steady_ratio(pairs):
        several = [[("scale", words.split(": a ")[0], weight) if key in ("mean", "sum")
                    else (key, words, weight) for key, words, weight in found]
                   for found in several]
    votes: dict[str, float] = {}
    best: dict[str, float] = {}
    words: dict[str, str] = {}
    for found in several:
        for rank, (key, sentence, weight) in enumerate(found):
            votes[key] = votes.get(key, 0.0) + weight
            best[key] = min(best.get(key, 99.0), rank)
            words.setdefault(key, sentence)
    if votes.get("dropped", len(several)) < len(several):
        del votes["dropped"]                        # it gets through elsewhere
    order = sorted(votes, key=lambda key: (-votes[key], best[key]))
    return [(key, words[key]) for key in order]


def _pairs(finding: Finding, most: int = 3) -> Iterator[Jacobians]:
    """The two Jacobians of the sample that was found wrong, and of others that are wrong too."""
    first = gather(finding)
    if first is None:
        return
    yield first
    if not isinstance(finding.context, OpCase) or finding.prop not in ("gradient", "float32"):
        return
    for other in finding.context.siblings():
        name = finding.input
        if most > 1 and name in other.names and other.arrays[other.names.index(name)].size < 130:
            pair = gather(dataclasses.replace(finding, context=other,
                                                  index=other.names.index(name)))
            if pair is not None and pair.wrong.any():
                most -= 1
                yield pair


def _of_numbers(pair: Jacobians) -> list[tuple[str, str, float]]:
    """Every pattern that fits, most telling first, and what it counts."""
    found: dict[str, tuple[str, str, float]] = {}
    for pattern, weight in PATTERNS.items():
        try:
            with np.errstate(all="ignore"):
                diagnosis = pattern(pair)
        except (ArithmeticError, ValueError, np.linalg.LinAlgError):
            diagnosis = None                       # arrays of odd sizes: the pattern does not apply
        if diagnosis is not None:
            found.setdefault(diagnosis[0], (*diagnosis, weight))
    return list(found.values())


def _of_error(finding: Finding) -> Diagnosis:
    """What an exception in a rule says."""
    text = str(finding.error)
    shapes = re.search(r"has shape (\([\d, ]*\)), the input has shape (\([\d, ]*\))", text)
    if shapes:
        got, wanted = (tuple(int(n) for n in re.findall(r"\d+", s)) for s in shapes.groups())
        if len(got) >= len(wanted) and _stretches(wanted, got):
            return "unbroadcast", (f"missing un-broadcast: the cotangent of shape {got} is not "
                                   f"summed back to the input's shape {wanted}")
        return "shape", (f"wrong shape: {got} instead of {wanted}; a strip that no window reaches "
                         "still belongs to the input")
    if "dtype" in text:
        return "dtype", f"the dtype of the input is not kept: {text}"
    if finding.prop in ("samples", "refusals"):
        return _BY_PROPERTY[finding.prop]
    if "read-only" in text:
        return _BY_PROPERTY["writes nothing"]
    if finding.prop == "second order":
        return "second order", (f"the rule cannot be differentiated (order=1 does not ask for it): "
                                f"{text}")
    return "raises", f"the rule raises {type(finding.error).__name__}: {text}"


def _stretches(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    lead = len(large) - len(small)
    return all(n in (1, m) for n, m in zip(small, large[lead:], strict=True))


# ---- the two Jacobians

@dataclass(frozen=True)
class Jacobians:
    """The Jacobian that is right and the one that was got, of shape (outputs, entries of input k).

    ``offset`` is what the rule gives for a cotangent of zero.
    """

    here: Linearization
    k: int
    right: Array
    got: Array
    offset: Array
    case: OpCase | None = None

    @property
    def x(self) -> Array:
        """The input itself."""
        return self.here.arrays[self.k]

    @property
    def shape(self) -> Shape:
        """The shape of the input."""
        return self.x.shape

    @property
    def settings(self) -> Settings:
        """Of the op; none of a function."""
        return {} if self.case is None else self.case.settings

    @cached_property
    def out(self) -> Array:
        """The values of the function."""
        return np.asarray(self.here.subject.forward(self.here.arrays))

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
    def silent(self) -> Array:
        """Which outputs send back nothing."""
        return np.logical_not(self.got.any(axis=1)).reshape(self.out.shape)

    @cached_property
    def wrong_columns(self) -> Array:
        """Which entries of the input get something wrong, in its shape."""
        return np.asarray(self.wrong.any(axis=0)).reshape(self.shape)

    def axis(self, i: int) -> str:
        """What to call axis ``i`` of the input: by its letter, if the op has letters."""
        if self.case is not None and self.case.op.axes is not None and not self.case.op.variadic:
            patterns = self.case.op.axes.split("->")[0].split(",")
            return f"axis {i} ({patterns[self.case.present[self.k]].split()[i]})"
        return f"axis {i}"

    @property
    def entry_by_entry(self) -> bool:
        """Whether each output depends on one entry at most, and each entry on one output."""
        return self.out.shape == self.shape and (self.right != 0).sum(axis=0).max(initial=0) <= 1

    @cached_property
    def known(self) -> dict[str, Array]:
        """Arrays that a formula may use: input, output, other inputs, arrays among the settings."""
        arrays = {**dict(zip(self.here.subject.inputs, self.here.arrays, strict=True)),
                  "out": self.out, **self.settings}
        return {name: a.astype(np.float64) for name, a in arrays.items()
                if isinstance(a, np.ndarray) and a.dtype.kind in "fb"}


def gather(finding: Finding) -> Jacobians | None:
    """The two Jacobians behind a finding; None where they cannot be had."""
    case, k = finding.context, finding.index
    if k < 0 or not isinstance(case, (Case, Linearization)):
        return None
    here = case.here if isinstance(case, Case) else case
    if here.large:
        return None
    shape = np.shape(here.subject.forward(here.arrays))
    rows, columns = math.prod(shape), here.arrays[k].size
    if rows > _MOST_ROWS or columns > 4 * _MOST_ROWS:
        return None

    def pulled(ct: Array) -> Array:
        part = here.subject.pull(here.arrays, ct.reshape(shape))[k]
        return np.zeros(columns) if part is None else np.array(part, np.float64).reshape(-1)

    try:
        got = np.array([pulled(unit) for unit in np.eye(rows)]).reshape(rows, columns)
        if here.ties is None:                   # at a kink several slopes are right
            got = np.where(here.measured(k).kinks, here.matrix(k), got)
        return Jacobians(here, k, here.matrix(k), got, pulled(np.zeros(rows)),
                         case if isinstance(case, OpCase) else None)
    except Exception:
        return None                                # a rule that raises has no Jacobian to look at


def subsets(items: Sequence[int]) -> list[tuple[int, ...]]:
    """All subsets but the empty one, small ones first."""
    return [part for n in range(1, len(items) + 1) for part in combinations(items, n)]


# ---- what the rule does with the cotangent

def swapped(e: Jacobians) -> Diagnosis | None:
    """What another input should get."""
    for i in e.here.wanted:
        if i != e.k and e.here.arrays[i].shape == e.shape and e.same(e.got, e.here.matrix(i)) \
                and not np.array_equal(e.here.arrays[i], e.x):
            return "swapped", (f"swapped: {e.here.subject.inputs[e.k]} gets the cotangent of "
                               f"{e.here.subject.inputs[i]}")
    return None


def not_transposed(e: Jacobians) -> Diagnosis | None:
    """J instead of its transpose."""
    if e.right.shape[0] == e.right.shape[1] > 1 and e.same(e.got, e.right.T) \
            and not e.same(e.right, e.right.T):
        return "not transposed", ("the Jacobian is not transposed: the rule does to the cotangent "
                                  "what the function does to its input")
    return None


def ignores_the_cotangent(e: Jacobians) -> Diagnosis | None:
    """The same for every cotangent."""
    if len(e.got) and e.offset.any() and all(e.same(row, e.offset) for row in e.got):
        return "ignores ct", "the cotangent is ignored: the result is the same for every one"
    return None


def adds_a_constant(e: Jacobians) -> Diagnosis | None:
    """Right, plus something that does not depend on the cotangent."""
    if e.offset.any() and e.same(e.got - e.offset, e.right):
        return "extra", "something is added that does not depend on the cotangent"
    return None


def not_linear(e: Jacobians) -> Diagnosis | None:
    """Single entries do not add up to the whole."""
    ct = np.random.default_rng(1234).normal(size=e.out.shape)
    whole = e.here.subject.pull(e.here.arrays, ct)[e.k]
    if e.offset.any() or whole is None:
        return None
    off = np.abs(whole.reshape(-1) - ct.reshape(-1) @ e.got)
    off = off[~e.here.kinked(e.k).reshape(-1)]
    if (off > 0.01 * (np.abs(ct).reshape(-1) @ np.abs(e.got)).max(initial=0)).any():
        return "not linear", "the result is not linear in the cotangent"
    return None


def dropped(e: Jacobians) -> Diagnosis | None:
    """Nothing at all."""
    if not e.got.any() and e.right.any():
        return "dropped", "the gradient is always zero: the input is cut off"
    return None


# ---- precision and scale

def rounded(e: Jacobians) -> Diagnosis | None:
    """Errors of the size of a narrower float's eps, without a pattern."""
    rng = np.random.default_rng(0)
    ct = rng.integers(-(1 << 20), 1 << 20, e.out.shape) * 2.0 + 1.0
    got = e.here.subject.pull(e.here.arrays, ct)[e.k]
    if got is None:
        return None
    expected = (ct.reshape(-1) @ e.right).reshape(e.shape)
    large = np.abs(expected) > 1e-3 * np.abs(expected).max(initial=0.0)
    error = (got / expected - 1)[large]
    if not error.size or not np.isfinite(error).all():
        return None
    worst = float(np.abs(error).max())
    sums = (ct.reshape(-1) @ e.got).reshape(e.shape)[large]
    linear = np.abs(got[large] - sums).max() < 0.02 * np.abs(got - expected)[large].max()
    random = worst < 1e-6 and 0.2 < np.mean(error > 0) < 0.8
    if (np.abs(error) > 0.02 * worst).sum() < min(2, error.size) or (linear and not random):
        return None                             # a formula is off: entry by entry, and linearly
    if not 1e-11 < worst < 5e-3 or (np.ptp(error) < 0.2 * worst and error.size > 1):
        return None
    name = min((("float16", 2.0 ** -11), ("bfloat16", 2.0 ** -8), ("float32", 2.0 ** -24)),
               key=lambda item: abs(math.log(worst / item[1])))[0]
    return "rounded", f"rounded on the way: errors of {worst:.1e} look like a pass through {name}"


def constant_ratio(e: Jacobians) -> Diagnosis | None:
    """Every entry is off by one factor."""
    ratio = _one_ratio(e)
    if ratio is None:
        return None
    if abs(ratio + 1) < 1e-9:
        return "sign", "constant ratio -1: the sign is wrong"
    counts = _counts(e)
    for key, value, words in (("mean", 1 / ratio, "a mean where a sum belongs"),
                              ("sum", ratio, "a sum where a mean belongs")):
        # One sample of a function cannot tell a count from a factor; those of an op can.
        whole = value > 1.5 and abs(value - round(value)) < 1e-6 * value
        if e.case is not None and whole and round(value) in counts:
            return key, (f"constant ratio {ratio:.6g}: {words}, {round(value)} = "
                         f"{counts[round(value)]}")
    shown = f"{ratio:.6g}" if abs(ratio - 1) > 1e-3 else \
        f"1 {'-' if ratio < 1 else '+'} {abs(ratio - 1):.3g}"
    return "scale", f"constant ratio: every entry is {shown} times what it should be"


def steady_ratio(several: Sequence[Jacobians]) -> bool:
    """Whether samples of several sizes have one ratio, so that it is no count."""
    ratios = [_one_ratio(e) for e in several]
    first = ratios[0] if ratios else None
    if len(several) < 2 or first is None or any(r is None or abs(r - first) > 1e-6 * abs(first)
                                                for r in ratios):
        return False
    count = round(max(first, 1 / first)) if first > 0 else 0
    return not any(all(shape[:1] == (count,) for shape in side)
                   for side in ([e.out.shape for e in several], [e.shape for e in several]))


def _one_ratio(e: Jacobians) -> float | None:
    there = np.abs(e.right) > 1e-9 * e.scale
    if not there.any() or (np.abs(e.got[~there]) > 1e-7 * e.scale).any() \
            or (e.right.size == 1 and e.case is not None):     # one number has a ratio by itself
        return None
    ratios = e.got[there] / e.right[there]
    middle = float(np.median(ratios))
    if not middle or abs(middle - 1) < 1e-12 or np.ptp(ratios) > 0.2 * abs(middle - 1) \
            or (np.abs(ratios - middle) > 1e-5 * abs(middle)).any():
        return None
    return middle


def _counts(e: Jacobians) -> dict[int, str]:
    """Numbers that a sum may be divided by, and where each comes from."""
    found: dict[int, str] = {}
    for name, shape in (("the output", e.out.shape), ("the input", e.shape),
                        ("the window", e.settings.get("kernel_size", ()))):
        if isinstance(shape, tuple) and all(isinstance(n, int) for n in shape):
            for axes in reversed(subsets(range(len(shape)))):
                found[math.prod(shape[i] for i in axes)] = \
                    f"{' x '.join(str(shape[i]) for i in axes)} of {name}"
    for a in e.here.arrays:
        for n in a.shape:
            found.setdefault(n, f"the size of an axis of {a.shape}")
    if e.out.size and e.x.size:
        found.setdefault(e.x.size // e.out.size, "entries for each output")
        found.setdefault(e.out.size // e.x.size, "outputs for each entry")
    return found


def nearly(e: Jacobians) -> Diagnosis | None:
    """Close everywhere, but not by rounding."""
    size = np.abs(e.got - e.right).max(initial=0.0) / e.scale
    if 1e-9 < size < 0.05 and e.wrong.sum() > 0.5 * np.count_nonzero(e.right):
        return "nearly", (f"off by {100 * size:.2g} % at most: a constant such as eps is in the "
                          "wrong place, or a divisor is off by one")
    return None


# ---- right numbers at other places

def flipped(e: Jacobians) -> Diagnosis | None:
    """Right when an axis of the result, of the cotangent or of another input is reversed."""
    for shape, side, who in ((e.shape, 1, "the result is in reverse along"),
                             (e.out.shape, 0, "the cotangent is read in reverse along")):
        got, right = (m.T if side else m for m in (e.got, e.right))
        for axes, other in _flips(right.reshape(*shape, -1), len(shape)):
            if e.same(got, other.reshape(right.shape)):
                where = (e.axis(i) if side else f"axis {i}" for i in axes)
                return "flipped", f"flipped: {who} {', '.join(where)}"
    return _other_input(e, "flipped", lambda x: _flips(x, x.ndim), "flipped along axes")


def transposed(e: Jacobians) -> Diagnosis | None:
    """Right when two axes of the result, of the cotangent or of another input change places."""
    for shape, side in ((e.shape, 1), (e.out.shape, 0)):
        places = np.arange(math.prod(shape)).reshape(shape)
        for axes in permutations(range(len(shape))):
            order = places.transpose(axes).reshape(-1)
            if np.array_equal(order, places.reshape(-1)):
                continue
            for moved in (order, np.argsort(order)):
                if e.same(e.got, np.take(e.right, moved, side)):
                    what = "the result" if side else "the cotangent"
                    fits = tuple(shape[i] for i in axes) == shape
                    return ("transposed" if fits else "permuted",
                            f"transposed: {what} is read with its axes in the order {axes}")
    return _other_input(e, "transposed", _transposes, "transposed to the order")


def _flips(x: Array, axes: int) -> Iterator[tuple[tuple[int, ...], Array]]:
    for some in subsets([i for i in range(axes) if x.shape[i] > 1]):
        yield some, np.flip(x, some)


def _transposes(x: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
    for axes in permutations(range(x.ndim)):
        if axes != tuple(range(x.ndim)) and x.transpose(axes).shape == x.shape:
            yield axes, x.transpose(axes)


def _other_input(e: Jacobians, key: str,
                 variants: Callable[[Array], Iterator[tuple[object, Array]]],
                 words: str) -> Diagnosis | None:
    """Right if another input were something else."""
    some = np.flatnonzero(e.wrong.any(axis=0))[:4]
    for i in e.here.wanted:
        if i == e.k:
            continue
        for axes, other in variants(e.here.arrays[i]):
            arrays = [other.copy() if j == i else a for j, a in enumerate(e.here.arrays)]
            # A few columns first: the whole Jacobian takes long.
            few = _differences(e.here.subject.forward, arrays, e.k, some)
            there = Linearization(e.here.subject, arrays, Stats(), affine=tuple(e.here.affine),
                                  piecewise_linear=e.here.piecewise_linear)
            if np.allclose(few, e.got[:, some], rtol=0.05, atol=0.01 * e.scale) \
                    and e.same(e.got, there.matrix(e.k)):
                return key, f"{key}: right if {e.here.subject.inputs[i]} were {words} {axes}"
    return None


def _differences(forward: Callable[[Any], Array], arrays: Sequence[Array], k: int,
                 entries: Iterable[int]) -> Array:
    """Central differences in entries of an input, coarse but enough to tell calls apart."""
    given = list(arrays)
    columns = []
    for i in entries:
        sides = []
        for step in (2.0 ** -6, -(2.0 ** -6)):
            given[k] = arrays[k].copy()
            given[k].flat[i] += step
            sides.append(np.array(forward(given)).reshape(-1))
        columns.append((sides[0] - sides[1]) * 2.0 ** 5)
    return np.stack(columns, axis=1)


def shifted(e: Jacobians) -> Diagnosis | None:
    """Right when the result or the cotangent is moved by a few entries."""
    for shape, side in ((e.shape, 1), (e.out.shape, 0)):
        got, right = ((m.T if side else m).reshape(*shape, -1) for m in (e.got, e.right))
        for axes in [axes for axes in subsets(range(len(shape))) if len(axes) < 3]:
            for steps in product(*([d for d in range(-4, 5) if d and abs(d) < shape[i]]
                                   for i in axes)):
                here, there = [slice(None)] * len(shape), [slice(None)] * len(shape)
                for i, d in zip(axes, steps, strict=True):
                    here[i] = slice(max(d, 0), shape[i] + min(d, 0))
                    there[i] = slice(max(-d, 0), shape[i] + min(-d, 0))
                a, b = got[tuple(here)], right[tuple(there)]
                if b.any() and e.same(a, b) and np.count_nonzero(b) * 4 >= np.count_nonzero(right):
                    where = ", ".join(f"{d:+d} along {e.axis(i) if side else f'axis {i}'}"
                                      for i, d in zip(axes, steps, strict=True))
                    return "shifted", (f"shifted: {'the result' if side else 'the cotangent'} is "
                                       f"off by {where}")
    return None


def permuted(e: Jacobians) -> Diagnosis | None:
    """The same columns, or rows, in another order."""
    for got, right, what in ((e.got.T, e.right.T, "entries"), (e.got, e.right, "outputs")):
        if right.any() and len(right) > 1:
            a, b = (np.round(m / e.scale, 7) + 0.0 for m in (got, right))
            if np.array_equal(a[np.lexsort(a.T)], b[np.lexsort(b.T)]):
                return "permuted", f"permuted: right numbers, but {what} are in another order"
    return None


def wrong_place(e: Jacobians) -> Diagnosis | None:
    """Each output sends right numbers to wrong entries."""
    a, b = (np.unique(np.round(np.abs(m[m != 0]) / e.scale, 7)) for m in (e.got, e.right))
    if a.size and b.size and a.size <= 4 and set(a) <= set(b):
        return "wrong place", ("wrong place: the numbers are right, but go to other entries: a "
                               "mask or an index is not the one of the forward pass")
    return None


def spread_out(e: Jacobians) -> Diagnosis | None:
    """Each output sends the right total, but to more entries."""
    if e.same(e.got.sum(axis=1), e.right.sum(axis=1)) and \
            np.count_nonzero(e.got) > 1.5 * np.count_nonzero(e.right):
        return "spread out", ("spread out: each output sends the right total, but shares it out "
                              "among entries that should get nothing: an average rule?")
    return None


# ---- which outputs, which entries

def one_slice_alone(e: Jacobians) -> Diagnosis | None:
    """Right for the outputs at one index of some axes; the others send nothing."""
    if not e.wrong_rows.any() or (e.wrong_rows & ~e.silent).any():
        return None
    matters = e.right.any(axis=1).reshape(e.out.shape)
    for axes, end, inside in _slices(e.out.shape):
        if np.array_equal(matters & ~e.wrong_rows, inside & matters) and (inside & matters).any():
            return _slice(e, axes, end, "the others are left out")
    return None


def one_slice_for_all(e: Jacobians) -> Diagnosis | None:
    """Right for the outputs at one index of an axis; the others are treated like it."""
    for axes, end, inside in _slices(e.out.shape):
        if len(axes) == 1 and not (e.wrong_rows & inside).any() \
                and float(np.mean(e.wrong_rows[~inside])) > 0.4 and not e.entry_by_entry:
            return _slice(e, axes, end, "the others are treated as if they were it")
    return None


def _slices(shape: Shape) -> Iterator[tuple[tuple[int, ...], str, Array]]:
    """Outputs at the first, or last, index of some axes."""
    for axes in subsets([i for i, n in enumerate(shape) if n > 1]):
        for end, place in (("first", slice(0, 1)), ("last", slice(-1, None))):
            inside = np.zeros(shape, bool)
            inside[tuple(place if i in axes else slice(None) for i in range(len(shape)))] = True
            yield axes, end, inside


def _slice(e: Jacobians, axes: tuple[int, ...], end: str, others: str) -> Diagnosis:
    if axes == (0,) and e.case is not None and e.case.op.family not in ("elementwise", "shape"):
        return "one sample", f"per-sample: only the {end} sample of the batch is right, {others}"
    where = " and ".join(f"axis {i}" for i in axes)
    return "one slice", f"one slice: right only for outputs at the {end} index of {where}, {others}"


def border_windows(e: Jacobians) -> Diagnosis | None:
    """The outputs at one end of an axis send nothing."""
    if not e.wrong_rows.any() or not (e.silent | ~e.wrong_rows).all():
        return None
    for axes, end, inside in _slices(e.out.shape):
        if len(axes) == 1 and not (e.wrong_rows & ~inside).any():
            return "one border window", (f"border only: the {end} outputs along axis {axes[0]} are "
                                         "left out, a loop ends too early")
    return None


def left_out(e: Jacobians) -> Diagnosis | None:
    """Some outputs send nothing; the others are right."""
    matters = e.right.any(axis=1).reshape(e.out.shape)
    lost = e.wrong_rows & e.silent
    if lost.any() and np.array_equal(lost, e.wrong_rows) and (matters & ~lost).any():
        places = ", ".join(str(tuple(int(i) for i in p)) for p in np.argwhere(lost)[:4])
        return "left out", f"left out: outputs at {places} send nothing back, the others are right"
    return None


def one_entry(e: Jacobians) -> Diagnosis | None:
    """A single entry of many is wrong."""
    if e.wrong_columns.sum() == 1 and e.x.size > 3:
        place = tuple(int(i) for i in np.argwhere(e.wrong_columns)[0])
        return "one entry", f"one entry: only {place} is wrong, everything else is right"
    return None


def leftover(e: Jacobians) -> Diagnosis | None:
    """Entries that no output depends on get something."""
    reached = e.right.any(axis=0).reshape(e.shape)
    if e.wrong_columns.any() and not (e.wrong_columns & reached).any() and not e.entry_by_entry:
        return "leftover", ("leftover strip: entries that no output depends on get a gradient, it "
                            "must be zero")
    return None


def overwritten(e: Jacobians) -> Diagnosis | None:
    """Of several contributions to an entry one is kept."""
    there, kept = (np.abs(m) > 1e-9 * e.scale for m in (e.right, e.got))
    several, wrong = there.sum(axis=0) > 1, e.wrong.any(axis=0)
    if wrong.any() and not (wrong & ~several).any() and not (kept & e.wrong).any() \
            and ((kept.sum(axis=0)[wrong] == 1).all() or (e.wrong_rows & ~e.silent).any()) \
            and bool((kept.sum(axis=0) > 0)[several].all()):
        return "overwritten", ("overwritten overlaps: where several outputs meet in one entry only "
                               "one contribution is kept, use += instead of =")
    return None


def region(e: Jacobians) -> Diagnosis | None:
    """Wrong above or below a value of the input."""
    wrong, name = e.wrong_columns, e.here.subject.inputs[e.k]
    large = np.abs(e.got - e.right).max(initial=0.0) > 1e-3 * e.scale
    if large and wrong.any() and not wrong.all() and e.entry_by_entry:
        bad, good = e.x[wrong], e.x[~wrong]
        for where, low, high in (("below", bad.max(), good.min()), ("above", good.max(),
                                                                    bad.min())):
            if low < high:
                limit = "0" if low <= 0 <= high else f"{(low + high) / 2:.3g}"
                return "region", f"wrong only where {name} is {where} {limit}"
    return None


# ---- settings, factors and terms

def other_setting(e: Jacobians) -> Diagnosis | None:
    """Right for a call with another stride, dilation or padding."""
    for name, value, settings in _other_settings(e.settings):
        try:
            found = _jacobian_with(e, settings)
        except Exception:
            continue                               # not a call that the op takes
        if found is not None and e.same(e.got, found):
            key = "setting" if isinstance(value, bool) else name
            return key, (f"{name} ignored or mixed up: right if {name} were {value} instead of "
                         f"{e.settings[name]}")
    return None


def _other_settings(settings: Settings) -> Iterator[tuple[str, object, Settings]]:
    """The same call with one setting at its default, turned round, or taken from another."""
    for name, value in settings.items():
        others: list[object] = []
        if isinstance(value, bool) and name != "keepdims":
            others = [not value]
        elif name in ("stride", "dilation", "padding") and isinstance(value, tuple) \
                and len(value) == 2:
            others = [((0, 0), (0, 0)) if name == "padding" else (1, 1), value[::-1]]
            if name == "padding":
                others.append(tuple(side[::-1] for side in value))
            if name == "stride" and "kernel_size" in settings:
                others.append(settings["kernel_size"])
        yield from ((name, other, {**settings, name: other}) for other in others if other != value)


def _jacobian_with(e: Jacobians, settings: Settings) -> Array | None:
    """The Jacobian of the outputs that the call has, under other settings.

    Windows may lie elsewhere then: pixels that do not count are put below and to the right of the
    images, so that all of them exist.
    """
    case, images = e.case, e.here.arrays[0]
    assert case is not None
    kernel = settings.get("kernel_size") or next(
        (a.shape[:2] for a in e.here.arrays[1:] if a.ndim == 4), (1, 1))
    more = [(0, 0)] * images.ndim
    if "stride" in settings and "padding" in settings and images.ndim == 4:
        for i in (0, 1):
            reach = (e.out.shape[i + 1] - 1) * settings["stride"][i] \
                + (kernel[i] - 1) * settings.get("dilation", (1, 1))[i] + 1
            more[i + 1] = (0, max(0, reach - images.shape[i + 1] - settings["padding"][i][0]))
    fill = -1000.0 if case.op.test.piecewise_linear else 0.0
    crop = tuple(slice(0, n) for n in e.out.shape)

    def forward(arrays: Sequence[Array]) -> Array:
        wide = [np.pad(arrays[0], more, constant_values=fill), *arrays[1:]]
        return np.asarray(case.op.run(*case.full(wide), **settings)[0])[crop]

    if forward(e.here.arrays).shape != e.out.shape:
        return None
    return _differences(forward, e.here.arrays, e.k, range(e.x.size))


def diagonal_only(e: Jacobians) -> Diagnosis | None:
    """The diagonal is right, the rest is missing."""
    n, m = e.right.shape
    if n == m > 1 and (e.right - np.diag(np.diag(e.right))).any() \
            and e.same(e.got, np.diag(np.diag(e.right))):
        return "diagonal", ("only the diagonal of the Jacobian: each entry is taken to depend on "
                            "its own input alone, the sum over the others is missing")
    return None


def wrong_axis(e: Jacobians) -> Diagnosis | None:
    """Outputs and entries are connected along another axis than they should be."""
    if e.shape != e.out.shape or e.x.size < 2:
        return None
    right, got = _linked(e.right, e), _linked(e.got, e)
    if right and got - right:
        return "wrong axis", (f"wrong axis: sums run along {', '.join(map(e.axis, sorted(got)))}, "
                              f"they should along {', '.join(map(e.axis, sorted(right)))}")
    return None


def _linked(matrix: Array, e: Jacobians) -> set[int]:
    """Axes along which an output depends on entries of other indices."""
    outputs, entries = np.nonzero(np.abs(matrix) > 1e-9 * e.scale)
    a, b = np.unravel_index(outputs, e.shape), np.unravel_index(entries, e.shape)
    return {i for i in range(len(e.shape)) if (a[i] != b[i]).any()}


def missing_term(e: Jacobians) -> Diagnosis | None:
    """The difference has a low rank, block by block."""
    difference, blocks = e.got - e.right, _blocks(e.right)
    ranks, constant, rows_off = set(), True, int(e.wrong.any(axis=1).sum())
    for rows, columns in blocks:
        part = difference[np.ix_(rows, columns)]
        if (np.abs(part) > 1e-9 * e.scale).any():
            values = np.linalg.svd(part, compute_uv=False)
            ranks.add(int((values > 1e-7 * max(values[0], e.scale)).sum()))
            constant &= len(columns) > 1 and bool((np.ptp(part, axis=1) <= 1e-7 * e.scale).all())
    if ranks and constant:
        return "mean term", ("a term is missing that is the same for all entries of a group, such "
                             "as the mean of the cotangent or of the input")
    smallest = min((min(len(r), len(c)) for r, c in blocks), default=0)
    if ranks and max(ranks) <= 2 and smallest > max(ranks) + 1 and rows_off > max(ranks) + 1:
        return "rank one term", (f"a term of rank {max(ranks)} is missing or wrong, such as a "
                                 "vector times its inner product with the cotangent")
    return None


def _blocks(matrix: Array) -> list[tuple[list[int], list[int]]]:
    """Outputs and entries that are connected: the blocks of the Jacobian."""
    there = matrix != 0
    left, blocks = set(range(len(matrix))), []
    while left:
        rows, before = {left.pop()}, 0
        while len(rows) > before:
            before = len(rows)
            columns = np.flatnonzero(there[sorted(rows)].any(axis=0))
            rows |= set(np.flatnonzero(there[:, columns].any(axis=1)).tolist())
        left -= rows
        blocks.append((sorted(rows), columns.tolist()))
    return blocks


def factor(e: Jacobians) -> Diagnosis | None:
    """Each output, or each entry, is off by a factor of its own."""
    there = np.abs(e.right) > 1e-9 * e.scale
    if (np.abs(e.got[~there]) > 1e-7 * e.scale).any():
        return None
    ratio = np.where(there, e.got / np.where(there, e.right, 1.0), np.nan)
    for lines, shape, what in ((ratio.T, e.shape, "entry"), (ratio, e.out.shape, "output")):
        known = [r[~np.isnan(r)] for r in lines]
        if all(r.size == 0 or np.ptp(r) <= 1e-5 * max(np.abs(r).max(), 1e-9) for r in known):
            values = np.array([r[0] if r.size else np.nan for r in known]).reshape(shape)
            formula = _formula(e, values)
            if formula or min(ratio.shape) > 1:     # of one output, each entry has a ratio
                return "factor", (f"a factor is wrong: each {what} is off by one of its own"
                                  + formula)
    return None


def _formula(e: Jacobians, values: Array) -> str:
    """What the factor is, in terms of the arrays at hand."""
    usable = ~np.isnan(values)
    terms = [(form, np.broadcast_to(f, values.shape)) for name, a in e.known.items()
             if a.ndim <= values.ndim and _stretches(a.shape, values.shape)
             for form, f in ((name, a), (f"({name})**2", a * a), (f"(1 - {name})", 1 - a),
                             (f"(1 - {name}**2)", 1 - a * a), (f"log({name})", np.log(a)))]
    for text, value in (*((text, value) for form, f in terms for text, value in (
            (form, f), (f"1 / {form}", 1 / f), (f"-{form}", -f), (f"2 * {form}", 2 * f),
            (f"1 / (2 * {form})", 0.5 / f))),
            *((f"{first} / {second}", f / g) for (first, f), (second, g) in product(terms, terms))):
        if np.allclose(values[usable], value[usable], rtol=1e-5, atol=1e-9):
            return f"; the ratio to the right one is {text}"
    return ""


def extra(e: Jacobians) -> Diagnosis | None:
    """The difference is a multiple of an array at hand."""
    difference = e.got - e.right
    for name, a in e.known.items():
        if a.shape == e.shape:
            line = a.reshape(1, -1)
            along = (difference * line).sum(axis=1, keepdims=True) / max((line * line).sum(), 1e-30)
            if along.any() and e.same(e.got, along * line + e.right):
                return "extra", f"the difference is a multiple of {name}: a missing term?"
    return None


PATTERNS: dict[Callable[[Jacobians], Diagnosis | None], float] = {
    **dict.fromkeys((ignores_the_cotangent, adds_a_constant, not_linear, dropped, swapped, rounded,
                     constant_ratio, flipped, transposed, not_transposed, other_setting, region,
                     one_slice_alone, border_windows, leftover, diagonal_only, overwritten,
                     left_out, shifted, wrong_axis, spread_out), 1.0),
    one_entry: 0.9, permuted: 0.5, one_slice_for_all: 0.5, wrong_place: 0.25, extra: 0.5,
    nearly: 0.5, missing_term: 1.0, factor: 0.3}
"""From the most telling to the least, and what each counts: less if other mistakes have it too."""
