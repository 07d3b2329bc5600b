"""Patterns of a wrong Jacobian: other settings, wrong factors, missing terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np

from tinygrad_cnn.core.op import Array
from tinygrad_cnn.testing.evidence import Diagnosis, Evidence

__all__ = ["diagonal_only", "extra", "factor", "missing_term", "other_setting",
           "wrong_axis"]


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
