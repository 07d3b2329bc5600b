"""Patterns of a wrong Jacobian: which outputs and which entries are wrong."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinygrad_cnn.core.op import Array
from tinygrad_cnn.testing.evidence import Diagnosis, Evidence, entry_by_entry, subsets

__all__ = ["border", "border_windows", "leftover", "one_slice_alone",
           "one_slice_for_all", "overwritten", "region"]


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
    if entry_by_entry(e):
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
    if entry_by_entry(e):
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
            and np.asarray(kept.any(axis=0))[several].all():
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
    if not wrong.any() or wrong.all() or not entry_by_entry(e):
        return None
    bad, good = e.x[wrong], e.x[~wrong]
    if bad.max() < good.min():
        return "region", f"wrong only where {e.point.subject.inputs[e.k]} is below " \
                         f"{_between(bad.max(), good.min())}"
    if bad.min() > good.max():
        return "region", f"wrong only where {e.point.subject.inputs[e.k]} is above " \
                         f"{_between(good.max(), bad.min())}"
    return None


def _between(low: float, high: float) -> str:
    return "0" if low <= 0 <= high else f"{(low + high) / 2:.3g}"
