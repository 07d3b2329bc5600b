"""Patterns of a wrong Jacobian: what the rule does with the cotangent, precision, scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tinygrad_cnn.core.op import Array
from tinygrad_cnn.testing.evidence import Diagnosis, Evidence, subsets

__all__ = ["adds_a_constant", "constant_ratio", "dropped", "ignores_the_cotangent",
           "nearly", "not_linear", "rounded", "steady_ratio"]


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
    if not 1e-11 < worst < 5e-3 or (steady < 0.2 * worst and error.size > 1):
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
        # One sample of a function cannot tell a count from a factor; those of an op can.
        whole = value > 1.5 and abs(value - round(value)) < 1e-6 * value
        if e.trial is not None and whole and round(value) in counts:
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
        return "nearly", (f"off by {100 * size:.2g} % at most: a constant such as eps is in the "
                          "wrong place, or a divisor is off by one")
    return None
