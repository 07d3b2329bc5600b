"""The calls on which an op is tested: its samples, and more that follow from its declaration.

Samples show how an op is called; a mistake may hide in the shapes that they do not have.  So for
each seed a few samples are *derived*: other sizes for the axes (by letter where the op declares
``axes``, else every axis of one size takes another), operands that are stretched, other strides,
paddings, axes and flags.  The shape rule decides what is a call at all: what it or the kernel
refuses is dropped.  Values are drawn anew from the range of the sample's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, count
from typing import Any

import numpy as np

from tinygrad_cnn.core.op import Array, Op, Sample, dyadic
from tinygrad_cnn.shapes import Shape, bind_axes
from tinygrad_cnn.testing.derivatives import is_dyadic

__all__ = ["DERIVED", "cases", "derived", "is_derived"]

DERIVED = 3                     # samples that are derived for each seed
_DERIVED_ID = "derived "
_TRIES = 60
_MOST_ENTRIES = 90              # of all inputs together
_LEAST = {"stride": 1, "dilation": 1, "kernel_size": 1, "image_size": 1, "groups": 1}
_PIXELS = (*_LEAST, "padding", "widths")


def cases(op: Op, seed: int, *, extra: int = DERIVED) -> Iterator[Sample]:
    """Every case of an op for one seed: samples, then derived ones, ids made unique."""
    samples = list(op.samples(np.random.default_rng(seed)))
    seen: set[str] = set()
    for sample in (*samples, *derived(op, samples, np.random.default_rng([seed, 1]), extra)):
        numbered = (f"{sample.id} {i}" for i in count(2))
        name = next(n for n in chain([sample.id], numbered) if n not in seen)
        seen.add(name)
        yield sample if name == sample.id else Sample(name, sample.args, sample.settings)


def is_derived(sample: Sample) -> bool:
    """Whether a case was derived here, and is none of the op's own samples."""
    return sample.id.startswith(_DERIVED_ID)


def derived(op: Op, samples: Sequence[Sample], rng: np.random.Generator,
            number: int) -> Iterator[Sample]:
    """A few more calls that the op takes."""
    plain = [s for s in samples if not any(_holds_array(v) for v in s.settings.values())
             and all(a is None or np.isfinite(a).all() for a in s.args)]
    if not plain:
        return
    found = 0
    for _ in range(_TRIES):
        base = plain[int(rng.integers(len(plain)))]
        sample = _varied(op, base, plain, rng)
        if sample is not None and _runs(op, sample):
            yield sample
            found += 1
            if found == number:
                return


def _holds_array(value: Any) -> bool:
    """Whether a setting depends on shapes in ways that only the op knows."""
    if isinstance(value, (tuple, list)):
        return any(map(_holds_array, value))
    return not isinstance(value, (int, float, str, bool, np.dtype, type(None)))


def _varied(op: Op, base: Sample, samples: Sequence[Sample],
            rng: np.random.Generator) -> Sample | None:
    """One variation of a sample; None if it contradicts itself."""
    shapes = [None if a is None else np.shape(a) for a in base.args]
    settings = dict(base.settings)
    if rng.random() < 0.8:
        sized = _resized(op, shapes, settings, rng)
        if sized is None:
            return None
        shapes = sized
    if op.broadcasts and rng.random() < 0.5:
        shapes = _stretched(shapes, rng)
    rank = next((len(s) for s in shapes if s is not None), 0)
    for name in settings:
        if rng.random() < 0.5:
            settings[name] = _other_setting(name, settings[name], rank, samples, rng)
    if sum(math.prod(s) for s in shapes if s is not None) > _MOST_ENTRIES:
        return None
    args = tuple(None if s is None or a is None else
                 _drawn(np.asarray(a), s, rng, op.piecewise_linear)
                 for a, s in zip(base.args, shapes, strict=True))
    what = [" × ".join(str(s) for s in shapes if s is not None),
            *(f"{k} {v}" for k, v in settings.items() if v != base.settings[k])]
    return Sample(f"{_DERIVED_ID}{', '.join(what)}", args, settings)


# ---- shapes

def _resized(op: Op, shapes: list[Shape | None], settings: dict[str, Any],
             rng: np.random.Generator) -> list[Shape | None] | None:
    if op.axes is not None:
        return _relettered(op, shapes, settings, rng)
    sizes = {n for s in shapes if s is not None for n in s if n > 1}
    new = {n: int(rng.integers(1, 6)) for n in sorted(sizes)}
    if "shape" in settings and isinstance(settings["shape"], tuple):
        settings["shape"] = tuple(new.get(n, n) for n in settings["shape"])
    return [None if s is None else tuple(new.get(n, n) for n in s) for s in shapes]


def _relettered(op: Op, shapes: list[Shape | None], settings: dict[str, Any],
                rng: np.random.Generator) -> list[Shape | None] | None:
    """Each axis letter with another size, in every input that has it."""
    assert op.axes is not None
    patterns = [part.split() for part in op.axes.split("->")[0].split(",")]
    try:
        size = bind_axes(op.name, op.axes, dict(zip(op.inputs, shapes, strict=True)), settings)
    except Exception:
        return None
    for letter in size:
        if rng.random() < 0.6:
            parts = max((settings[item.partition("/")[2]] for pattern in patterns
                         for item in pattern if item.startswith(letter + "/")), default=1)
            size[letter] = int(rng.integers(1, 4)) * parts if parts > 1 else \
                int(rng.integers(1, 7))
    result: list[Shape | None] = []
    for shape, pattern in zip(shapes, patterns, strict=True):
        if shape is None:
            result.append(None)
            continue
        made = []
        for item in pattern:
            letter, _, divisor = item.partition("/")
            made.append(size[letter] // (settings[divisor] if divisor else 1))
        result.append(tuple(made))
    return result


def _stretched(shapes: list[Shape | None], rng: np.random.Generator) -> list[Shape | None]:
    """One axis of one operand set to 1, or its first axis left out."""
    places = [i for i, s in enumerate(shapes) if s]
    if not places:
        return shapes
    i = places[int(rng.integers(len(places)))]
    shape = shapes[i]
    assert shape is not None
    if rng.random() < 0.3:
        changed = shape[1:]
    else:
        axis = int(rng.integers(len(shape)))
        changed = (*shape[:axis], 1, *shape[axis + 1:])
    return [changed if j == i else s for j, s in enumerate(shapes)]


# ---- settings

def _other_setting(name: str, value: Any, rank: int, samples: Sequence[Sample],
                   rng: np.random.Generator) -> Any:
    """Another value for a setting: turned about, one more or less, or one of another sample."""
    if isinstance(value, bool):
        return bool(rng.integers(2))
    if name == "axis" and isinstance(value, int) and rank:
        return int(rng.integers(rank))
    if name == "axis" and isinstance(value, tuple) and rank:
        number = int(rng.integers(1, rank + 1))
        return tuple(sorted(int(i) for i in rng.permutation(rank)[:number]))
    if name == "axes" and isinstance(value, tuple) and sorted(value) == list(range(rank)):
        return tuple(int(i) for i in rng.permutation(rank))
    if name in _PIXELS and rng.random() < 0.7:
        return _other_pixels(value, _LEAST.get(name, 0), rng)
    others = [s.settings[name] for s in samples if name in s.settings]
    return others[int(rng.integers(len(others)))] if others else value


def _other_pixels(value: Any, least: int, rng: np.random.Generator) -> Any:
    """A number, a pair or a pair of pairs of pixels, swapped or moved by one."""
    if isinstance(value, int):
        return max(least, value + int(rng.integers(-1, 2)))
    if isinstance(value, tuple) and len(value) == 2 and rng.random() < 0.4:
        return value[::-1]
    if isinstance(value, tuple):
        return tuple(_other_pixels(v, least, rng) for v in value)
    return value


# ---- values

def _drawn(base: Array, shape: Shape, rng: np.random.Generator, apart: bool) -> Array:
    """Values like those of ``base``: on the same lattice, or from the same range."""
    if base.dtype.kind != "f" or not base.size:
        return np.zeros(shape, base.dtype)
    if apart and is_dyadic(base, 10):
        # Distinct values: an op that compares entries has no kink there.
        n = math.prod(shape)
        return np.asarray((rng.permutation(n).reshape(shape) - n // 2 + 0.5) / 2)
    if is_dyadic(base, 3):
        return dyadic(rng, *shape)
    return np.asarray(rng.uniform(base.min(), base.max(), shape))


def _runs(op: Op, sample: Sample) -> bool:
    """Whether the op takes the call and makes finite values of a usable number."""
    shapes = [None if a is None else np.shape(a) for a in sample.args]
    try:
        if op.axes is not None:
            bind_axes(op.name, op.axes, dict(zip(op.inputs, shapes, strict=True)), sample.settings)
        expected = op.shape(*shapes, **sample.settings)
        if not 0 < math.prod(expected) <= 2 * _MOST_ENTRIES:
            return False
        with np.errstate(all="ignore"):
            out = np.asarray(op.run(*sample.args, **sample.settings)[0])
    except Exception:
        return False                               # whatever it is, the op does not take the call
    return out.shape == expected and bool(np.isfinite(out).all())
