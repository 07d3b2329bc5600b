"""Patterns of a wrong Jacobian: right numbers at other places."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import combinations, permutations, product
from typing import Any

import numpy as np

from tinygrad_cnn.core.op import Array
from tinygrad_cnn.testing.evidence import Diagnosis, Evidence, subsets

__all__ = ["flipped", "permuted", "shifted", "spread_out", "transposed", "wrong_place"]


# ---- moved entries

def flipped(e: Evidence) -> Diagnosis | None:
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
            if e.trial is not None and _looks_like(e, arrays) \
                    and e.same(e.got, e.trial.at(arrays, ties=False).matrix(e.k)):
                name = e.point.subject.inputs[i]
                return key, f"{key}: right if {name} were {words} {axes}"
    return None


def _looks_like(e: Evidence, arrays: list[Array]) -> bool:
    """Whether a few columns of the Jacobian at other inputs are those that were got."""
    assert e.trial is not None
    some = np.flatnonzero(e.wrong.any(axis=0))[:4]
    given, x = list(arrays), arrays[e.k]
    for i in some:
        sides = []
        for step in (2.0 ** -6, -(2.0 ** -6)):
            given[e.k] = x.copy()
            given[e.k].flat[i] += step
            sides.append(np.array(e.trial.forward(given)).reshape(-1))
        if not np.allclose((sides[0] - sides[1]) * 2.0 ** 5, e.got[:, i], rtol=0.05,
                           atol=0.01 * e.scale):
            return False
    return True


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
        return "wrong place", ("wrong place: the numbers are right, but go to other entries: a "
                               "mask or an index is not the one of the forward pass")
    return None


def spread_out(e: Evidence) -> Diagnosis | None:
    """Each output sends the right total, but to more entries."""
    if e.same(e.got.sum(axis=1), e.right.sum(axis=1)) and \
            np.count_nonzero(e.got) > 1.5 * np.count_nonzero(e.right):
        return "spread out", ("spread out: each output sends the right total, but shares it out "
                              "among entries that should get nothing: an average rule?")
    return None
