"""The patterns by which a wrong Jacobian gives its mistake away.

Each function takes `Evidence` and returns a diagnosis, a key and a sentence, or None.  ``PATTERNS``
lists them from the most telling to the least.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, permutations, product
from typing import Any

import numpy as np

from tinygrad_cnn.op import Array
from tinygrad_cnn.testing.evidence import Evidence, subsets

__all__ = ["PATTERNS", "VAGUE", "Diagnosis", "steady_ratio"]

Diagnosis = tuple[str, str]


# ---- what the rule does with the cotangent

def ignores_the_cotangent(e: Evidence) -> Diagnosis | None:
    """The same for every cotangent."""
    if len(e.got) and e.offset.any() and all(e.same(row, e.offset) for row in e.got):
        return "ignores ct", "the cotangent is ignored: the result is the same for every one"
    return None


def adds_a_constant(e: Evidence) -> Diagnosis | None:
    """Right, plus something that does not depend on the cotangent."""
    if e.offset.any() and e.same(e.got - e.offset, e.right):
        return "extra", "something is added that does not depend on the cotangent"
    return None


def not_linear(e: Evidence) -> Diagnosis | None:
    """Single entries do not add up to the whole."""
    if e.offset.any():
        return None
    ct = np.random.default_rng(0).normal(size=e.out.shape)
    whole = e.point.subject.pull(e.point.arrays, ct)[e.k]
    parts = ct.reshape(-1) @ e.got
    size = np.abs(ct).reshape(-1) @ np.abs(e.got)
    if whole is not None and (np.abs(whole.reshape(-1) - parts) > 0.01 * size.max(initial=0)).any():
        return "not linear", "the result is not linear in the cotangent"
    return None


def dropped(e: Evidence) -> Diagnosis | None:
    """Nothing at all."""
    if not e.got.any() and e.right.any():
        return "dropped", "the gradient is always zero: the input is cut off"
    return None


# ---- precision and scale

def rounded(e: Evidence) -> Diagnosis | None:
    """Errors of the size of a narrower float's eps, without a pattern."""
    rng = np.random.default_rng(0)
    ct = rng.integers(-(1 << 20), 1 << 20, e.out.shape) * 2.0 + 1.0
    got = e.point.subject.pull(e.point.arrays, ct)[e.k]
    if got is None:
        return None
    expected = (ct.reshape(-1) @ e.right).reshape(e.shape)
    large = np.abs(expected) > 1e-3 * np.abs(expected).max(initial=0.0)
    with np.errstate(all="ignore"):
        error = (got / expected - 1)[large]
    if not error.size or not np.isfinite(error).all():
        return None
    worst, steady = float(np.abs(error).max()), float(np.ptp(error))
    if not 1e-11 < worst < 5e-3 or steady < 0.2 * worst and error.size > 1:
        return None
    name = min((("float16", 2.0 ** -11), ("bfloat16", 2.0 ** -8), ("float32", 2.0 ** -24)),
               key=lambda item: abs(math.log(worst / item[1])))[0]
    return "rounded", f"rounded on the way: errors of {worst:.1e} look like a pass through {name}"


def constant_ratio(e: Evidence) -> Diagnosis | None:
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
        if value > 1.5 and abs(value - round(value)) < 1e-6 * value and round(value) in counts:
            return key, (f"constant ratio {text}: {words}, {round(value)} = "
                         f"{counts[round(value)]}")
    return "scale", f"constant ratio: every entry is {text} times what it should be"


def steady_ratio(several: Sequence[Evidence]) -> bool:
    """Whether samples of several sizes have one ratio, so that it is no count."""
    ratios = [_one_ratio(e.got, e.right, e) for e in several]
    first = ratios[0] if ratios else None
    if len(several) < 2 or first is None or any(r is None or abs(r - first) > 1e-6 * abs(first)
                                                for r in ratios):
        return False
    count = round(max(first, 1 / first)) if first > 0 else 0
    batches = ([e.out.shape[:1] for e in several], [e.shape[:1] for e in several])
    return not any(all(sizes == (count,) for sizes in side) for side in batches)


def _one_ratio(got: Array, right: Array, e: Evidence) -> float | None:
    there = np.abs(right) > 1e-9 * e.scale
    if not there.any() or (np.abs(got[~there]) > 1e-7 * e.scale).any() \
            or (right.size == 1 and e.trial is not None):      # one number has a ratio by itself
        return None
    ratios = got[there] / right[there]
    middle = float(np.median(ratios))
    if not middle or abs(middle - 1) < 1e-12 \
            or (np.abs(ratios - middle) > 1e-5 * abs(middle)).any() \
            or np.ptp(ratios) > 0.2 * abs(middle - 1):
        return None
    return middle


def _counts(e: Evidence) -> dict[int, str]:
    """Numbers that a sum may be divided by, and where each comes from."""
    found: dict[int, str] = {}
    for name, shape in (("the output", e.out.shape), ("the input", e.shape),
                        ("the window", e.settings.get("kernel_size", ()))):
        if isinstance(shape, tuple) and all(isinstance(n, int) for n in shape):
            for axes in reversed(subsets(range(len(shape)))):
                found[math.prod(shape[i] for i in axes)] = \
                    f"{' x '.join(str(shape[i]) for i in axes)} of {name}"
    for shape in (a.shape for a in e.point.arrays):
        for n in shape:
            found.setdefault(n, f"the size of an axis of {shape}")
    if e.out.size and e.x.size:
        found.setdefault(e.x.size // e.out.size, "entries for each output")
        found.setdefault(e.out.size // e.x.size, "outputs for each entry")
    return found


def nearly(e: Evidence) -> Diagnosis | None:
    """Close everywhere, but not by rounding."""
    size = np.abs(e.got - e.right).max(initial=0.0) / e.scale
    if 1e-9 < size < 0.05 and e.wrong.sum() > 0.5 * np.count_nonzero(e.right):
        return "nearly", (f"off by {100 * size:.2g} % at most: a constant such as eps is in the wrong "
                          "place, or a divisor is off by one")
    return None


# ---- which outputs, which entries

def one_slice_alone(e: Evidence) -> Diagnosis | None:
    """Right for the outputs at one index of some axes; the others send nothing."""
    silent = ~e.got.any(axis=1).reshape(e.out.shape)
    if not e.wrong_rows.any() or (e.wrong_rows & ~silent).any():
        return None
    matters = e.right.any(axis=1).reshape(e.out.shape)
    for axes, end, inside in _slices(e.out.shape):
        if np.array_equal(matters & ~e.wrong_rows, inside & matters) and (inside & matters).any():
            return _slice(e, axes, end, "the others are left out")
    return None


def one_slice_for_all(e: Evidence) -> Diagnosis | None:
    """Right for the outputs at one index of an axis; the others are treated like it."""
    if _entry_by_entry(e):
        return None
    for axes, end, inside in _slices(e.out.shape):
        if len(axes) == 1 and not (e.wrong_rows & inside).any() \
                and e.wrong_rows[~inside].mean() > 0.4:
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


def _slice(e: Evidence, axes: tuple[int, ...], end: str, others: str) -> Diagnosis:
    if axes == (0,) and e.family not in ("elementwise", "shape", ""):
        return "one sample", f"per-sample: only the {end} sample of the batch is right, {others}"
    where = " and ".join(f"axis {i}" for i in axes)
    return "one slice", f"one slice: right only for outputs at the {end} index of {where}, {others}"


def border_windows(e: Evidence) -> Diagnosis | None:
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


def leftover(e: Evidence) -> Diagnosis | None:
    """Entries that no output depends on get something."""
    reached = e.right.any(axis=0).reshape(e.shape)
    if _entry_by_entry(e):
        return None
    if e.wrong_columns.any() and not (e.wrong_columns & reached).any():
        return "leftover", ("leftover strip: entries that no output depends on get a gradient, it "
                            "must be zero")
    return None


def overwritten(e: Evidence) -> Diagnosis | None:
    """Of several contributions to an entry one is kept."""
    there = np.abs(e.right) > 1e-9 * e.scale
    kept = np.abs(e.got) > 1e-9 * e.scale
    several = there.sum(axis=0) > 1
    wrong = e.wrong.any(axis=0)
    if wrong.any() and not (wrong & ~several).any() and not (kept & e.wrong).any() \
            and kept.any(axis=0)[several].all():
        return "overwritten", ("overwritten overlaps: where several outputs meet in one entry only "
                               "one contribution is kept, use += instead of =")
    return None


def border(e: Evidence) -> Diagnosis | None:
    """Wrong at the ends of an axis, right between them."""
    for what, wrong in (("outputs", e.wrong_rows), ("entries", e.wrong_columns)):
        if not wrong.any() or wrong.all():
            continue
        for axes in subsets([i for i in range(wrong.ndim) if wrong.shape[i] > 2]):
            inner = tuple(slice(1, -1) if i in axes else slice(None) for i in range(wrong.ndim))
            if len(axes) < 3 and not wrong[inner].any():
                return "border", (f"border only: {what} at the ends of "
                                  f"{', '.join(f'axis {i}' for i in axes)} are wrong")
    return None


def region(e: Evidence) -> Diagnosis | None:
    """Wrong above or below a value of the input."""
    wrong = e.wrong_columns
    if not wrong.any() or wrong.all() or not _entry_by_entry(e):
        return None
    bad, good = e.x[wrong], e.x[~wrong]
    if bad.max() < good.min():
        return "region", f"wrong only where {e.point.subject.inputs[e.k]} is below " \
                         f"{_between(bad.max(), good.min())}"
    if bad.min() > good.max():
        return "region", f"wrong only where {e.point.subject.inputs[e.k]} is above " \
                         f"{_between(good.max(), bad.min())}"
    return None


def _entry_by_entry(e: Evidence) -> bool:
    """Whether each output depends on one entry at most, and each entry on one output."""
    there = e.right != 0
    return e.out.shape == e.shape and there.sum(axis=0).max(initial=0) <= 1


def _between(low: float, high: float) -> str:
    return "0" if low <= 0 <= high else f"{(low + high) / 2:.3g}"


# ---- moved entries

def flipped(e: Evidence) -> Diagnosis | None:
    """Right when an axis of the result, of the cotangent or of another input is turned round."""
    for axes in subsets([i for i in range(len(e.shape)) if e.shape[i] > 1]):
        if e.same(e.got, np.flip(e.right.reshape(-1, *e.shape),
                                 [i + 1 for i in axes]).reshape(e.right.shape)):
            return "flipped", f"flipped: the result is in reverse along " \
                              f"{', '.join(map(e.axis, axes))}"
    for axes in subsets([i for i in range(e.out.ndim) if e.out.shape[i] > 1]):
        if e.same(e.got, np.flip(e.right.reshape(*e.out.shape, -1),
                                 axes).reshape(e.right.shape)):
            return "flipped", f"flipped: the cotangent is read in reverse along axes {axes}"
    return _other_input(e, "flipped", _flips, "flipped along axes")


def transposed(e: Evidence) -> Diagnosis | None:
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


def _other_input(e: Evidence, key: str, variants: Callable[[Array], Iterator[tuple[Any, Array]]],
                 words: str) -> Diagnosis | None:
    """Right if another input were something else."""
    for i in e.point.wanted:
        if i == e.k:
            continue
        for axes, other in variants(e.point.arrays[i]):
            arrays = [other.copy() if j == i else a for j, a in enumerate(e.point.arrays)]
            if e.trial is not None and e.same(e.got, e.trial.at(arrays, ties=False).matrix(e.k)):
                name = e.point.subject.inputs[i]
                return key, f"{key}: right if {name} were {words} {axes}"
    return None


def shifted(e: Evidence) -> Diagnosis | None:
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


def permuted(e: Evidence) -> Diagnosis | None:
    """The same columns, or rows, in another order."""
    for got, right, what in ((e.got.T, e.right.T, "entries"), (e.got, e.right, "outputs")):
        if not right.any() or len(right) < 2:
            continue
        a, b = (np.round(m / e.scale, 7) + 0.0 for m in (got, right))
        if np.array_equal(a[np.lexsort(a.T)], b[np.lexsort(b.T)]):
            return "permuted", f"permuted: right numbers, but {what} are in another order"
    return None


def wrong_place(e: Evidence) -> Diagnosis | None:
    """Each output sends right numbers to wrong entries."""
    a, b = (np.unique(np.round(np.abs(m[m != 0]) / e.scale, 7)) for m in (e.got, e.right))
    if a.size and b.size and a.size <= 4 and set(a) <= set(b):
        return "wrong place", ("wrong place: the numbers are right, but go to other entries: a mask "
                               "or an index is not the one of the forward pass")
    return None


def spread_out(e: Evidence) -> Diagnosis | None:
    """Each output sends the right total, but to more entries."""
    if e.same(e.got.sum(axis=1), e.right.sum(axis=1)) and \
            np.count_nonzero(e.got) > 1.5 * np.count_nonzero(e.right):
        return "spread out", ("spread out: each output sends the right total, but shares it out "
                              "among entries that should get nothing: an average rule?")
    return None


# ---- settings, factors and terms

def other_setting(e: Evidence) -> Diagnosis | None:
    """Right for a call with another stride, dilation or padding."""
    trial = e.trial
    if trial is None:
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


def _jacobian_with(e: Evidence, settings: dict[str, Any]) -> Array | None:
    """The Jacobian of the outputs that the call has, under other settings.

    Windows may lie elsewhere then: pixels that do not count are put below and to the right of the
    images, so that all of them exist.
    """
    trial = e.trial
    assert trial is not None
    images = e.point.arrays[0]
    kernel = settings.get("kernel_size") or next(
        (a.shape[:2] for a in e.point.arrays[1:] if a.ndim == 4), (1, 1))
    more = [(0, 0)] * images.ndim
    if "stride" in settings and "padding" in settings and images.ndim == 4:
        for i in (0, 1):
            reach = (e.out.shape[i + 1] - 1) * settings["stride"][i] \
                + (kernel[i] - 1) * settings.get("dilation", (1, 1))[i] + 1
            more[i + 1] = (0, max(0, reach - images.shape[i + 1] - settings["padding"][i][0]))
    fill = -1000.0 if trial.op.piecewise_linear else 0.0
    crop = tuple(slice(0, n) for n in e.out.shape)

    def forward(arrays: Any) -> Array:
        wide = [np.pad(arrays[0], more, constant_values=fill), *arrays[1:]]
        return np.asarray(trial.op.run(*trial.full(wide), **settings)[0])[crop]

    return _differences(forward, e) if forward(e.point.arrays).shape == e.out.shape else None


def _differences(forward: Callable[[Any], Array], e: Evidence) -> Array:
    """Central differences in the input, coarse but enough to tell settings apart."""
    given = list(e.point.arrays)
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


def diagonal_only(e: Evidence) -> Diagnosis | None:
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


def wrong_axis(e: Evidence) -> Diagnosis | None:
    """Outputs and entries are connected along another axis than they should be."""
    if e.shape != e.out.shape or e.x.size < 2:
        return None
    right, got = _linked(e.right, e), _linked(e.got, e)
    if right and got - right:
        return "wrong axis", (f"wrong axis: sums run along {', '.join(map(e.axis, sorted(got)))}, "
                              f"they should along {', '.join(map(e.axis, sorted(right)))}")
    return None


def _linked(matrix: Array, e: Evidence) -> set[int]:
    """Axes along which an output depends on entries of other indices."""
    outputs, entries = np.nonzero(np.abs(matrix) > 1e-9 * e.scale)
    a, b = np.unravel_index(outputs, e.shape), np.unravel_index(entries, e.shape)
    return {i for i in range(len(e.shape)) if (a[i] != b[i]).any()}


def missing_term(e: Evidence) -> Diagnosis | None:
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
        return "mean term", ("a term is missing that is the same for all entries of a group, such as "
                             "the mean of the cotangent or of the input")
    if max(ranks) <= 2 and smallest > max(ranks) + 1:
        return "rank one term", (f"a term of rank {max(ranks)} is missing or wrong, such as a vector "
                                 "times its inner product with the cotangent")
    return None


def _blocks(matrix: Array) -> list[tuple[list[int], list[int]]]:
    """Outputs and entries that are connected: the blocks of the Jacobian."""
    there = np.abs(matrix) > 0
    left = set(range(len(matrix)))
    blocks = []
    while left:
        rows, columns = {left.pop()}, set()
        while True:
            more = set(np.flatnonzero(there[sorted(rows)].any(axis=0)).tolist())
            wide = set(np.flatnonzero(there[:, sorted(more)].any(axis=1)).tolist()) | rows
            if more == columns and wide == rows:
                break
            rows, columns = wide, more
        left -= rows
        blocks.append((sorted(rows), sorted(columns)))
    return blocks


def factor(e: Evidence) -> Diagnosis | None:
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


def _formula(e: Evidence, values: Array) -> str:
    """What the factor is, in terms of the arrays at hand."""
    usable = ~np.isnan(values)
    terms: list[tuple[str, Array]] = []
    for name, a in e.known.items():
        a = a.astype(np.float64)
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
        for (a, f), (b, g) in product(terms, terms):
            if np.allclose(values[usable], (f / g)[usable], rtol=1e-5, atol=1e-9):
                return f"; the ratio to the right one is {a} / {b}"
    return ""


def _log(a: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.log(a)


def extra(e: Evidence) -> Diagnosis | None:
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


PATTERNS: tuple[Callable[[Evidence], Diagnosis | None], ...] = (
    ignores_the_cotangent, adds_a_constant, not_linear, dropped, rounded, constant_ratio, flipped,
    transposed, other_setting, region, one_slice_alone, border_windows, leftover, diagonal_only,
    overwritten, permuted, shifted, wrong_axis, spread_out, one_slice_for_all, wrong_place, extra,
    nearly, missing_term, border, factor,
)
"""From the most telling to the least."""

VAGUE: dict[Callable[[Evidence], Diagnosis | None], float] = {
    one_slice_for_all: 0.5, extra: 0.5, nearly: 0.5, border: 0.5, wrong_place: 0.25, factor: 0.3}
"""What a pattern counts that other mistakes often have too."""
