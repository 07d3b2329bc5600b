"""Name the likely mistake behind a finding.

A diagnosis looks at two Jacobians: the one that is right, and the one that the rule stands for,
found by pulling the cotangents e_j one by one.  Each *pattern* is a function of both that returns a
key and a sentence, or None; those that fit most of the op's wrong samples win.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, permutations, product
from typing import Any

import numpy as np

from tinygrad_cnn.core.op import Array
from tinygrad_cnn.shapes import Shape
from tinygrad_cnn.testing.cases import Case
from tinygrad_cnn.testing.linearization import Finding, Linearization

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
    "reads what is declared": ("reads", "a value is read that the op's reads= does not name"),
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
            found.append(("not finite", "the gradient holds NaN or infinity"))
        found.extend(_voted(finding))
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
    if not isinstance(finding.context, Case) or finding.prop not in ("gradient", "float32"):
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
    case: Case | None = None

    @property
    def x(self) -> Array:
        """The input itself."""
        return self.here.arrays[self.k]

    @property
    def shape(self) -> Shape:
        """The shape of the input."""
        return self.x.shape

    @property
    def settings(self) -> dict[str, Any]:
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
    shape = np.shape(here.subject.forward(here.arrays))
    rows, columns = math.prod(shape), here.arrays[k].size
    if rows > _MOST_ROWS or columns > 4 * _MOST_ROWS:
        return None

    def pulled(ct: Array) -> Array:
        part = here.subject.pull(here.arrays, ct.reshape(shape))[k]
        return np.zeros(columns) if part is None else np.array(part, np.float64).reshape(-1)

    try:
        got = np.array([pulled(unit) for unit in np.eye(rows)]).reshape(rows, columns)
        return Jacobians(here, k, here.matrix(k), got, pulled(np.zeros(rows)),
                         case if isinstance(case, Case) else None)
    except Exception:
        return None                                # a rule that raises has no Jacobian to look at


def subsets(items: Sequence[int]) -> list[tuple[int, ...]]:
    """All subsets but the empty one, small ones first."""
    return [part for n in range(1, len(items) + 1) for part in combinations(items, n)]


# ---- what the rule does with the cotangent

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
    if e.offset.any():
        return None
    ct = np.random.default_rng(0).normal(size=e.out.shape)
    whole = e.here.subject.pull(e.here.arrays, ct)[e.k]
    parts = ct.reshape(-1) @ e.got
    size = np.abs(ct).reshape(-1) @ np.abs(e.got)
    if whole is not None and (np.abs(whole.reshape(-1) - parts) > 0.01 * size.max(initial=0)).any():
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
    with np.errstate(all="ignore"):
        error = (got / expected - 1)[large]
    if not error.size or not np.isfinite(error).all():
        return None
    worst, steady = float(np.abs(error).max()), float(np.ptp(error))
    if not 1e-11 < worst < 5e-3 or (steady < 0.2 * worst and error.size > 1):
        return None
    name = min((("float16", 2.0 ** -11), ("bfloat16", 2.0 ** -8), ("float32", 2.0 ** -24)),
               key=lambda item: abs(math.log(worst / item[1])))[0]
    return "rounded", f"rounded on the way: errors of {worst:.1e} look like a pass through {name}"


def constant_ratio(e: Jacobians) -> Diagnosis | None:
    """Every entry is off by one factor."""
    ratio = _one_ratio(e.got, e.right, e)
    if ratio is None:
        return None
    if abs(ratio + 1) < 1e-9:
        return "sign", "constant ratio -1: the sign is wrong"
    text = f"{ratio:.6g}"
    counts = _counts(e)
    for key, value, words in (("mean", 1 / ratio, "a mean where a sum belongs"),
                              ("sum", ratio, "a sum where a mean belongs")):
        # One sample of a function cannot tell a count from a factor; those of an op can.
        whole = value > 1.5 and abs(value - round(value)) < 1e-6 * value
        if e.case is not None and whole and round(value) in counts:
            return key, (f"constant ratio {text}: {words}, {round(value)} = "
                         f"{counts[round(value)]}")
    return "scale", f"constant ratio: every entry is {text} times what it should be"


def steady_ratio(several: Sequence[Jacobians]) -> bool:
    """Whether samples of several sizes have one ratio, so that it is no count."""
    ratios = [_one_ratio(e.got, e.right, e) for e in several]
    first = ratios[0] if ratios else None
    if len(several) < 2 or first is None or any(r is None or abs(r - first) > 1e-6 * abs(first)
                                                for r in ratios):
        return False
    count = round(max(first, 1 / first)) if first > 0 else 0
    batches = ([e.out.shape[:1] for e in several], [e.shape[:1] for e in several])
    return not any(all(sizes == (count,) for sizes in side) for side in batches)


def _one_ratio(got: Array, right: Array, e: Jacobians) -> float | None:
    there = np.abs(right) > 1e-9 * e.scale
    if not there.any() or (np.abs(got[~there]) > 1e-7 * e.scale).any() \
            or (right.size == 1 and e.case is not None):      # one number has a ratio by itself
        return None
    ratios = got[there] / right[there]
    middle = float(np.median(ratios))
    if not middle or abs(middle - 1) < 1e-12 \
            or (np.abs(ratios - middle) > 1e-5 * abs(middle)).any() \
            or np.ptp(ratios) > 0.2 * abs(middle - 1):
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
    for shape in (a.shape for a in e.here.arrays):
        for n in shape:
            found.setdefault(n, f"the size of an axis of {shape}")
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


# ---- moved entries

def flipped(e: Jacobians) -> Diagnosis | None:
    """Right when an axis of the result, of the cotangent or of another input is turned round."""
    for axes in subsets([i for i in range(len(e.shape)) if e.shape[i] > 1]):
        if e.same(e.got, np.flip(e.right.reshape(-1, *e.shape),
                                 tuple(i + 1 for i in axes)).reshape(e.right.shape)):
            return "flipped", f"flipped: the result is in reverse along " \
                              f"{', '.join(map(e.axis, axes))}"
    for axes in subsets([i for i in range(e.out.ndim) if e.out.shape[i] > 1]):
        if e.same(e.got, np.flip(e.right.reshape(*e.out.shape, -1),
                                 axes).reshape(e.right.shape)):
            return "flipped", f"flipped: the cotangent is read in reverse along axes {axes}"
    return _other_input(e, "flipped", _flips, "flipped along axes")


def transposed(e: Jacobians) -> Diagnosis | None:
    """Right when two axes of the result, of the cotangent or of another input change places."""
    for shape, side in ((e.shape, 1), (e.out.shape, 0)):
        places = np.arange(math.prod(shape)).reshape(shape)
        for axes in permutations(range(len(shape))):
            for order in (places.transpose(axes).reshape(-1),
                          np.argsort(places.transpose(axes).reshape(-1))):
                if np.array_equal(order, places.reshape(-1)):
                    continue
                if e.same(e.got, e.right[:, order] if side else e.right[order]):
                    what = "the result" if side else "the cotangent"
                    fits = tuple(shape[i] for i in axes) == shape
                    return ("transposed" if fits else "permuted",
                            f"transposed: {what} is read with its axes in the order {axes}")
    return _other_input(e, "transposed", _transposes, "transposed to the order")


def _flips(x: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
    for axes in subsets([i for i in range(x.ndim) if x.shape[i] > 1]):
        yield axes, np.flip(x, axes)


def _transposes(x: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
    for axes in permutations(range(x.ndim)):
        if axes != tuple(range(x.ndim)) and x.transpose(axes).shape == x.shape:
            yield axes, x.transpose(axes)


def _other_input(e: Jacobians, key: str, variants: Callable[[Array], Iterator[tuple[Any, Array]]],
                 words: str) -> Diagnosis | None:
    """Right if another input were something else."""
    for i in e.here.wanted:
        if i == e.k:
            continue
        for axes, other in variants(e.here.arrays[i]):
            arrays = [other.copy() if j == i else a for j, a in enumerate(e.here.arrays)]
            if e.case is not None and _looks_like(e, arrays) \
                    and e.same(e.got, e.case.at(arrays, ties=False).matrix(e.k)):
                name = e.here.subject.inputs[i]
                return key, f"{key}: right if {name} were {words} {axes}"
    return None


def _looks_like(e: Jacobians, arrays: list[Array]) -> bool:
    """Whether a few columns of the Jacobian at other inputs are those that were got."""
    assert e.case is not None
    some = np.flatnonzero(e.wrong.any(axis=0))[:4]
    given, x = list(arrays), arrays[e.k]
    for i in some:
        sides = []
        for step in (2.0 ** -6, -(2.0 ** -6)):
            given[e.k] = x.copy()
            given[e.k].flat[i] += step
            sides.append(np.array(e.case.forward(given)).reshape(-1))
        if not np.allclose((sides[0] - sides[1]) * 2.0 ** 5, e.got[:, i], rtol=0.05,
                           atol=0.01 * e.scale):
            return False
    return True


def shifted(e: Jacobians) -> Diagnosis | None:
    """Right when the result or the cotangent is moved by a few entries."""
    for shape, side in ((e.shape, 1), (e.out.shape, 0)):
        got = e.got.reshape(-1, *shape) if side else np.moveaxis(e.got.reshape(*shape, -1), -1, 0)
        right = e.right.reshape(-1, *shape) if side else \
            np.moveaxis(e.right.reshape(*shape, -1), -1, 0)
        for axes in [(i,) for i in range(len(shape))] + list(combinations(range(len(shape)), 2)):
            for steps in product(*(range(-4, 5) for _ in axes)):
                if 0 in steps or any(abs(d) >= shape[i] for i, d in zip(axes, steps, strict=True)):
                    continue
                a, b = _overlap(got, right, axes, steps)
                if b.any() and e.same(a, b) and np.count_nonzero(b) * 4 >= np.count_nonzero(right):
                    where = ", ".join(f"{d:+d} along {e.axis(i) if side else f'axis {i}'}"
                                      for i, d in zip(axes, steps, strict=True))
                    what = "the result" if side else "the cotangent"
                    return "shifted", f"shifted: {what} is off by {where}"
    return None


def _overlap(got: Array, right: Array, axes: tuple[int, ...],
             steps: tuple[int, ...]) -> tuple[Array, Array]:
    """The parts of ``got`` and of ``right``, moved by the steps, that lie over each other."""
    here: list[slice] = [slice(None)] * got.ndim
    there: list[slice] = [slice(None)] * got.ndim
    for i, d in zip(axes, steps, strict=True):
        here[i + 1] = slice(max(d, 0), got.shape[i + 1] + min(d, 0))
        there[i + 1] = slice(max(-d, 0), got.shape[i + 1] + min(-d, 0))
    return got[tuple(here)], right[tuple(there)]


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
    silent = ~e.got.any(axis=1).reshape(e.out.shape)
    if not e.wrong_rows.any() or (e.wrong_rows & ~silent).any():
        return None
    matters = e.right.any(axis=1).reshape(e.out.shape)
    for axes, end, inside in _slices(e.out.shape):
        if np.array_equal(matters & ~e.wrong_rows, inside & matters) and (inside & matters).any():
            return _slice(e, axes, end, "the others are left out")
    return None


def one_slice_for_all(e: Jacobians) -> Diagnosis | None:
    """Right for the outputs at one index of an axis; the others are treated like it."""
    if e.entry_by_entry:
        return None
    for axes, end, inside in _slices(e.out.shape):
        if len(axes) == 1 and not (e.wrong_rows & inside).any() \
                and float(np.mean(e.wrong_rows[~inside])) > 0.4:
            return _slice(e, axes, end, "the others are treated as if they were it")
    return None


def _slices(shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], str, Array]]:
    """Outputs at the first, or last, index of some axes."""
    for axes in subsets([i for i, n in enumerate(shape) if n > 1]):
        for end in ("first", "last"):
            inside = np.zeros(shape, bool)
            inside[tuple((slice(0, 1) if end == "first" else slice(-1, None)) if i in axes
                         else slice(None) for i in range(len(shape)))] = True
            yield axes, end, inside


def _slice(e: Jacobians, axes: tuple[int, ...], end: str, others: str) -> Diagnosis:
    if axes == (0,) and e.case is not None and e.case.op.family not in ("elementwise", "shape"):
        return "one sample", f"per-sample: only the {end} sample of the batch is right, {others}"
    where = " and ".join(f"axis {i}" for i in axes)
    return "one slice", f"one slice: right only for outputs at the {end} index of {where}, {others}"


def border_windows(e: Jacobians) -> Diagnosis | None:
    """The outputs at one end of an axis send nothing."""
    silent = ~e.got.any(axis=1).reshape(e.out.shape)
    if not e.wrong_rows.any() or not (silent | ~e.wrong_rows).all():
        return None
    for i in range(e.out.ndim):
        n = e.out.shape[i]
        for end, name in ((n - 1, "last"), (0, "first")):
            places = np.flatnonzero(e.wrong_rows.any(axis=tuple(j for j in range(e.out.ndim)
                                                                if j != i)))
            if n > 1 and list(places) == [end]:
                return "one border window", (f"border only: the {name} outputs along axis {i} are "
                                             "left out, a loop ends too early")
    return None


def leftover(e: Jacobians) -> Diagnosis | None:
    """Entries that no output depends on get something."""
    reached = e.right.any(axis=0).reshape(e.shape)
    if e.entry_by_entry:
        return None
    if e.wrong_columns.any() and not (e.wrong_columns & reached).any():
        return "leftover", ("leftover strip: entries that no output depends on get a gradient, it "
                            "must be zero")
    return None


def overwritten(e: Jacobians) -> Diagnosis | None:
    """Of several contributions to an entry one is kept."""
    there = np.abs(e.right) > 1e-9 * e.scale
    kept = np.abs(e.got) > 1e-9 * e.scale
    several = there.sum(axis=0) > 1
    wrong = e.wrong.any(axis=0)
    if wrong.any() and not (wrong & ~several).any() and not (kept & e.wrong).any() \
            and np.asarray(kept.any(axis=0))[several].all():
        return "overwritten", ("overwritten overlaps: where several outputs meet in one entry only "
                               "one contribution is kept, use += instead of =")
    return None


def region(e: Jacobians) -> Diagnosis | None:
    """Wrong above or below a value of the input."""
    wrong = e.wrong_columns
    if not wrong.any() or wrong.all() or not e.entry_by_entry:
        return None
    bad, good = e.x[wrong], e.x[~wrong]
    if bad.max() < good.min():
        return "region", f"wrong only where {e.here.subject.inputs[e.k]} is below " \
                         f"{_between(bad.max(), good.min())}"
    if bad.min() > good.max():
        return "region", f"wrong only where {e.here.subject.inputs[e.k]} is above " \
                         f"{_between(good.max(), bad.min())}"
    return None


def _between(low: float, high: float) -> str:
    return "0" if low <= 0 <= high else f"{(low + high) / 2:.3g}"


# ---- settings, factors and terms

def other_setting(e: Jacobians) -> Diagnosis | None:
    """Right for a call with another stride, dilation or padding."""
    case = e.case
    if case is None:
        return None
    for name, value, settings in _other_settings(e.settings):
        try:
            with np.errstate(all="ignore"):
                found = _jacobian_with(e, settings)
        except Exception:
            continue                               # not a call that the op takes
        if found is not None and e.same(e.got, found):
            key = "setting" if isinstance(value, bool) else name
            return key, (f"{name} ignored or mixed up: right if {name} were {value} instead of "
                          f"{e.settings[name]}")
    return None


def _other_settings(settings: Any) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """The same call with one setting at its default, turned round, or taken from another."""
    for name, value in settings.items():
        if isinstance(value, bool) and name != "keepdims":
            yield name, not value, {**settings, name: not value}
    for name in ("stride", "dilation", "padding"):
        value = settings.get(name)
        if not isinstance(value, tuple) or len(value) != 2:
            continue
        others: list[Any] = [((0, 0), (0, 0)) if name == "padding" else (1, 1), value[::-1]]
        if name == "padding":
            others.append(tuple(side[::-1] for side in value))
        if name == "stride" and "kernel_size" in settings:
            others.append(settings["kernel_size"])
        for other in others:
            if other != value:
                yield name, other, {**settings, name: other}


def _jacobian_with(e: Jacobians, settings: dict[str, Any]) -> Array | None:
    """The Jacobian of the outputs that the call has, under other settings.

    Windows may lie elsewhere then: pixels that do not count are put below and to the right of the
    images, so that all of them exist.
    """
    case = e.case
    assert case is not None
    images = e.here.arrays[0]
    kernel = settings.get("kernel_size") or next(
        (a.shape[:2] for a in e.here.arrays[1:] if a.ndim == 4), (1, 1))
    more = [(0, 0)] * images.ndim
    if "stride" in settings and "padding" in settings and images.ndim == 4:
        for i in (0, 1):
            reach = (e.out.shape[i + 1] - 1) * settings["stride"][i] \
                + (kernel[i] - 1) * settings.get("dilation", (1, 1))[i] + 1
            more[i + 1] = (0, max(0, reach - images.shape[i + 1] - settings["padding"][i][0]))
    fill = -1000.0 if case.op.piecewise_linear else 0.0
    crop = tuple(slice(0, n) for n in e.out.shape)

    def forward(arrays: Any) -> Array:
        wide = [np.pad(arrays[0], more, constant_values=fill), *arrays[1:]]
        return np.asarray(case.op.run(*case.full(wide), **settings)[0])[crop]

    return _differences(forward, e) if forward(e.here.arrays).shape == e.out.shape else None


def _differences(forward: Callable[[Any], Array], e: Jacobians) -> Array:
    """Central differences in the input, coarse but enough to tell settings apart."""
    given = list(e.here.arrays)
    x = given[e.k] = e.x.copy()
    line = x.reshape(-1)
    columns = []
    for i, old in enumerate(line.tolist()):
        line[i] = old + 1 / 64
        up = np.array(forward(given)).reshape(-1)
        line[i] = old - 1 / 64
        columns.append((up - np.array(forward(given)).reshape(-1)) * 32)
        line[i] = old
    return np.stack(columns, axis=1)


def diagonal_only(e: Jacobians) -> Diagnosis | None:
    """The diagonal is right, the rest is missing."""
    n, m = e.right.shape
    if n != m or n < 2:
        return None
    off = ~np.eye(n, dtype=bool)
    if e.right[off].any() and not (np.abs(e.got[off]) > 1e-9 * e.scale).any() and \
            e.same(np.diag(e.got), np.diag(e.right)):
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
    difference = e.got - e.right
    blocks = _blocks(e.right)
    ranks = set()
    constant = True
    for rows, columns in blocks:
        part = difference[np.ix_(rows, columns)]
        if min(part.shape) < 1 or not (np.abs(part) > 1e-9 * e.scale).any():
            continue
        values = np.linalg.svd(part, compute_uv=False)
        ranks.add(int((values > 1e-7 * max(values[0], e.scale)).sum()))
        spread = np.ptp(part, axis=1)
        constant &= bool((spread <= 1e-7 * e.scale).all()) and len(columns) > 1
    smallest = min((min(len(r), len(c)) for r, c in blocks), default=0)
    if not ranks:
        return None
    if constant:
        return "mean term", ("a term is missing that is the same for all entries of a group, "
                             "such as the mean of the cotangent or of the input")
    if max(ranks) <= 2 and smallest > max(ranks) + 1:
        return "rank one term", (f"a term of rank {max(ranks)} is missing or wrong, such as a "
                                 "vector times its inner product with the cotangent")
    return None


def _blocks(matrix: Array) -> list[tuple[list[int], list[int]]]:
    """Outputs and entries that are connected: the blocks of the Jacobian."""
    there = np.abs(matrix) > 0
    left = set(range(len(matrix)))
    blocks = []
    while left:
        rows: set[int] = {left.pop()}
        columns: set[int] = set()
        while True:
            more = set(np.flatnonzero(there[sorted(rows)].any(axis=0)).tolist())
            wide = set(np.flatnonzero(there[:, sorted(more)].any(axis=1)).tolist()) | rows
            if more == columns and wide == rows:
                break
            rows, columns = wide, more
        left -= rows
        blocks.append((sorted(rows), sorted(columns)))
    return blocks


def factor(e: Jacobians) -> Diagnosis | None:
    """Each output, or each entry, is off by a factor of its own."""
    there = np.abs(e.right) > 1e-9 * e.scale
    if (np.abs(e.got[~there]) > 1e-7 * e.scale).any():
        return None
    with np.errstate(all="ignore"):
        ratio = np.where(there, e.got / np.where(there, e.right, 1.0), np.nan)
    for axis, shape, what in ((0, e.shape, "entry"), (1, e.out.shape, "output")):
        line = [r[~np.isnan(r)] for r in (ratio.T if axis == 0 else ratio)]
        if all(r.size == 0 or np.ptp(r) <= 1e-5 * max(np.abs(r).max(), 1e-9) for r in line):
            values = np.array([r[0] if r.size else np.nan for r in line]).reshape(shape)
            return "factor", (f"a factor is wrong: each {what} is off by one of its own"
                              + _formula(e, values))
    return None


def _formula(e: Jacobians, values: Array) -> str:
    """What the factor is, in terms of the arrays at hand."""
    usable = ~np.isnan(values)
    terms: list[tuple[str, Array]] = []
    for name, array in e.known.items():
        a = array.astype(np.float64)
        for form, f in ((name, a), (f"({name})**2", a * a), (f"(1 - {name})", 1 - a),
                        (f"(1 - {name}**2)", 1 - a * a), (f"log({name})", _log(a))):
            try:
                terms.append((form, np.broadcast_to(f, values.shape)))
            except ValueError:
                continue
    with np.errstate(all="ignore"):
        for form, f in terms:
            for text, value in ((form, f), (f"1 / {form}", 1 / f), (f"-{form}", -f),
                                (f"2 * {form}", 2 * f), (f"1 / (2 * {form})", 0.5 / f)):
                if np.allclose(values[usable], value[usable], rtol=1e-5, atol=1e-9):
                    return f"; the ratio to the right one is {text}"
        for (first, f), (second, g) in product(terms, terms):
            if np.allclose(values[usable], (f / g)[usable], rtol=1e-5, atol=1e-9):
                return f"; the ratio to the right one is {first} / {second}"
    return ""


def _log(a: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.log(a)


def extra(e: Jacobians) -> Diagnosis | None:
    """The difference is a multiple of an array at hand."""
    difference = e.got - e.right
    for name, a in e.known.items():
        if a.shape != e.shape:
            continue
        line = a.astype(np.float64).reshape(1, -1)
        with np.errstate(all="ignore"):
            along = (difference * line).sum(axis=1, keepdims=True) / max((line * line).sum(), 1e-30)
        if along.any() and e.same(difference + e.right, along * line + e.right):
            return "extra", f"a term is missing or too much: the difference is a multiple of {name}"
    return None


PATTERNS: dict[Callable[[Jacobians], Diagnosis | None], float] = {
    **dict.fromkeys((ignores_the_cotangent, adds_a_constant, not_linear, dropped, rounded,
                     constant_ratio, flipped, transposed, other_setting, region, one_slice_alone,
                     border_windows, leftover, diagonal_only, overwritten, shifted, wrong_axis,
                     spread_out), 1.0),
    permuted: 0.5, one_slice_for_all: 0.5, wrong_place: 0.25, extra: 0.5, nearly: 0.5,
    missing_term: 1.0, factor: 0.3}
"""From the most telling to the least, and what each counts: less if other mistakes have it too."""
