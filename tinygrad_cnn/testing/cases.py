"""An op on one sample, and the samples on which it is tested: its own, and derived ones.

A `Case` runs the op through the engine, as users do, on kernels and in dtypes of its choosing, and
keeps what several properties share: the samples on exact data, the measured Jacobians, the counts.

Samples show how an op is called; a mistake may hide in the shapes that they do not have.  So for
each seed a few samples are *derived*: other sizes for the axes (by letter where the op declares
``axes``, else every axis of one size takes another), operands that are stretched, other strides,
paddings, axes and flags.  The shape rule decides what is a call at all: what it or the kernel
refuses is dropped.  Values are drawn anew from the range of the sample's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain, count
from typing import Any

import numpy as np

from tinygrad_cnn.core import Tensor, _wrap, apply, gradients
from tinygrad_cnn.core import op as op_module
from tinygrad_cnn.core.op import Array, Op, Sample, dyadic
from tinygrad_cnn.shapes import Shape, bind_axes
from tinygrad_cnn.testing.linearization import CheckFailed, Finding, Linearization, Stats, Subject
from tinygrad_cnn.testing.numeric import is_dyadic

__all__ = ["DERIVED", "Case", "derived", "forced", "is_derived", "samples_of"]

DERIVED = 3                     # samples that are derived for each seed
_DERIVED_ID = "derived "
_TRIES = 60
_MOST_ENTRIES = 90              # of all inputs together
_LEAST = {"stride": 1, "dilation": 1, "kernel_size": 1, "image_size": 1, "groups": 1}
_PIXELS = (*_LEAST, "padding", "pad_width")


@contextmanager
def forced(*kernels: str) -> Iterator[None]:
    """Try these kernels first; as `use_kernels`, for ops that are not registered too."""
    outer = op_module._forced.get()
    try:
        op_module._forced.set(kernels)
        yield
    finally:
        op_module._forced.set(outer)


def _cast(settings: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    """Float arrays among the settings in ``dtype``, as the public functions would pass them."""
    return {k: v.astype(dtype) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v
            for k, v in settings.items()}


def _on_the_lattice(x: Array) -> Array:
    """``x`` rounded to odd eighths, which floats add and multiply exactly."""
    return np.asarray((2 * np.floor(4 * np.clip(x, -64, 64)) + 1) / 8)


class Case:
    """One op, registered or not, on one sample; ``seed`` is that of the random cotangents."""

    def __init__(self, op: Op, sample: Sample, *, seed: int = 0,
                 stats: Stats | None = None) -> None:
        self.op = op
        self.sample = sample
        self.settings = dict(sample.settings)
        self.stats = Stats() if stats is None else stats
        self.seed = seed
        self.present = tuple(i for i, x in enumerate(sample.args) if x is not None)
        self.names = tuple(op.input_name(i) for i in self.present)
        self.subject = Subject(op.name, self.names, self.forward, self.pull)
        self.affine = tuple(k for k in range(len(self.present)) if self._declared_affine(k))

    def _declared_affine(self, k: int) -> bool:
        i = 0 if self.op.variadic else self.present[k]
        return self.op.inputs[i] in self.op.test.exact_in

    def rng(self, purpose: int = 0) -> np.random.Generator:
        """A generator that depends on the seed and on what it is for."""
        return np.random.default_rng([self.seed, purpose])

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The inputs that are present, in float64.

        Where the op is affine, data off the lattice is moved onto it; elsewhere it is rounded to
        float32, so that both dtypes are tested at one point.
        """
        result = []
        for k, i in enumerate(self.present):
            x = np.array(self.sample.args[i], np.float64)
            if not is_dyadic(x, 10):
                exact = k in self.affine or self.op.test.piecewise_linear
                x = _on_the_lattice(x) if exact else x.astype(np.float32).astype(np.float64)
            result.append(x)
        return tuple(result)

    @property
    def ties(self) -> str | None:
        """The op's rule at kinks, for these settings."""
        rule = self.op.test.subgradient
        return rule(**self.settings) if callable(rule) else rule

    def siblings(self, most: int = 4) -> Iterator[Case]:
        """Cases of the op's other samples."""
        for sample in self.op.test.samples(np.random.default_rng(self.seed)):
            if most and sample.id != self.sample.id:
                most -= 1
                yield Case(self.op, sample, seed=self.seed)

    # ---- running the op

    def full(self, arrays: Sequence[Any]) -> list[Any]:
        """All inputs, None for those that are left out."""
        result: list[Any] = [None] * len(self.sample.args)
        for i, x in zip(self.present, arrays, strict=True):
            result[i] = x
        return result

    def forward(self, arrays: Sequence[Array]) -> Array:
        """The values of the op, straight from its kernels."""
        with np.errstate(all="ignore"):
            return np.asarray(self.op.run(*self.full(arrays), **self.settings)[0])

    def takes(self, arrays: Sequence[Array]) -> bool:
        """Whether the op gives finite values there."""
        try:
            return bool(np.isfinite(self.forward(arrays)).all())
        except Exception:
            return False                           # outside of its domain, whatever it says

    def tensors(self, arrays: Sequence[Array], wanted: Sequence[int] | None = None) -> list[Tensor]:
        """The present inputs as leaves, all of them or the wanted ones requiring a gradient."""
        return [_wrap(np.asarray(x), x.dtype.kind == "f" and (wanted is None or k in wanted), None)
                for k, x in enumerate(arrays)]

    def apply(self, tensors: Sequence[Tensor]) -> Tensor:
        """The op through the engine."""
        dtype = tensors[0].dtype if tensors else np.float64
        with np.errstate(all="ignore"):
            return apply(self.op, *self.full(tensors), **_cast(self.settings, dtype))

    def pull(self, arrays: Sequence[Array], ct: Array,
             wanted: Sequence[int] | None = None) -> list[Array | None]:
        """The cotangents of the present inputs, through the engine."""
        tensors = self.tensors(arrays, wanted)
        y = self.apply(tensors)
        with np.errstate(all="ignore"):
            found = gradients(y, _wrap(np.asarray(ct, y.dtype), False, None))
        return [found[t]._data if t in found else None for t in tensors]

    # ---- what properties ask for

    @cached_property
    def here(self) -> Linearization:
        """The op at this sample."""
        return self.at(self.arrays)

    def at(self, arrays: Sequence[Array], *, ties: bool = True) -> Linearization:
        """The op on these settings at other values of its inputs."""
        return Linearization(self.subject, arrays, self.stats, affine=self.affine,
                             piecewise_linear=self.op.test.piecewise_linear,
                             ties=self.ties if ties else None, case=self.sample.id, context=self)

    @cached_property
    def out(self) -> Array:
        """The values at this sample."""
        return self.forward(self.arrays)

    def cotangent(self, purpose: int = 0, dtype: Any = np.float64) -> Array:
        """A random cotangent of the output."""
        narrow = min(np.dtype(dtype), self.out.dtype, key=lambda d: d.itemsize)
        ct = self.here.cotangent(self.rng(purpose), self.out.shape, narrow)
        return ct.astype(self.out.dtype)

    def noise(self, ct: Array, dtype: Any = np.float64) -> dict[int, Array] | None:
        """The noise of the rules at this sample; None if all are compared exactly."""
        return None if self.here.all_exact else self.here.noise(ct, dtype, self.rng(99))

    @property
    def kernels(self) -> tuple[tuple[str, ...], ...]:
        """Which kernels to force, in turn: each of the op's own, or none if it has one."""
        names = tuple(self.op.kernels)
        return tuple((name,) for name in names) if len(names) > 1 else ((),)

    def failed(self, detail: str, k: int = -1, **facts: Any) -> CheckFailed:
        """A finding about this op on this sample."""
        return CheckFailed(Finding(self.stats.prop, self.op.name, self.sample.id,
                                   self.names[k] if k >= 0 else "", detail, k, context=self,
                                   **facts))

    def same(self, k: int, got: Array | None, expected: Array | None, detail: str,
             ct: Array | None = None) -> None:
        """Two cotangents of input ``k`` must be equal to the last bit."""
        if got is None or expected is None:
            if got is not expected:
                raise self.failed(detail, k, got=got, expected=expected)
            return
        self.stats.comparisons += max(got.size, 1)
        if got.shape != expected.shape or got.dtype != expected.dtype \
                or not np.array_equal(got, expected, equal_nan=True):
            raise self.failed(detail, k, got=got, expected=expected, ct=ct)


# ---- samples: the op's own, and derived ones

def samples_of(op: Op, seed: int, *, extra: int = DERIVED) -> Iterator[Sample]:
    """Every sample of an op for one seed: its own, then derived ones, ids made unique."""
    samples = list(op.test.samples(np.random.default_rng(seed)))
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
                 _drawn(np.asarray(a), s, rng, op.test.piecewise_linear)
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
