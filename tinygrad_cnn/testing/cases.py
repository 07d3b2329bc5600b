"""What is tested at one place, and the samples on which an op is: its own, and derived ones.

A `Case` is a subject at one set of arrays, and what the checks share: cotangents, measured
Jacobians, counts.  An `OpCase` runs an op through the engine, as users do, on kernels and in dtypes
of its choosing.

Samples show how an op is called; a mistake may hide in the shapes and values that they do not have.
So for each seed a few samples are *derived*: other sizes for the axes (by letter where the op
declares ``axes``), axes of size 1, 0 and 65, operands that are stretched, other numbers in every
setting, and values with zeros, ties, constant rows and other scales.  The shape rule decides what
is a call at all: what it or the kernel refuses is dropped, and so are values that are not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count, islice
from typing import Any, TypeVar

import numpy as np

from tinygrad_cnn.core import Tensor, _wrap, apply, gradients
from tinygrad_cnn.core import op as op_module
from tinygrad_cnn.core.op import Op, Sample, dyadic
from tinygrad_cnn.shapes import Shape, bind_axes
from tinygrad_cnn.testing.linearization import CheckFailed, Finding, Linearization, Stats, Subject
from tinygrad_cnn.testing.numeric import is_dyadic
from tinygrad_cnn.types import Array, DType, Settings

T = TypeVar("T")

__all__ = ["DERIVED", "Case", "OpCase", "derived", "forced", "is_derived", "kind_of", "samples_of"]

DERIVED = 3                     # samples with other shapes and settings for each seed
_DERIVED_ID = "derived "
_TRIES = 40
_MOST_ENTRIES = 90              # of all inputs together
_RANGE = (1, 2, 3, 4, 5, 7)     # sizes: odd, even and prime ones


@contextmanager
def forced(*kernels: str) -> Iterator[None]:
    """Try these kernels first; as `use_kernels`, for ops that are not registered too."""
    outer = op_module._forced.get()
    try:
        op_module._forced.set(kernels)
        yield
    finally:
        op_module._forced.set(outer)


@dataclass(frozen=True)
class Call:
    """How a user asked for the test of functions."""

    owner: str
    functions: tuple[Callable[..., object], ...]
    values: Sequence[Any]
    settings: Mapping[str, object]


class Case:
    """A subject at one set of arrays; ``seed`` is that of the random cotangents."""

    id = ""
    call: Call | None = None
    kernels: tuple[tuple[str, ...], ...] = ((),)        # which to force, in turn

    def __init__(self, subject: Subject, arrays: Sequence[Array], *, seed: int = 0,
                 stats: Stats | None = None, rtol: float | None = None,
                 dtype: np.dtype | type = np.float64) -> None:
        self.subject = subject
        self.names = subject.inputs
        self.stats = Stats() if stats is None else stats
        self.seed = seed
        self.rtol = rtol
        self.dtype = np.dtype(dtype)
        self._arrays = tuple(arrays)
        self._noise: dict[DType, tuple[float, dict[int, Array]]] = {}

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The inputs."""
        return self._arrays

    def rng(self, purpose: int = 0) -> np.random.Generator:
        """A generator that depends on the seed and on what it is for."""
        return np.random.default_rng([self.seed, purpose])

    def forward(self, arrays: Sequence[Array]) -> Array:
        """The values of the function."""
        return self.subject.forward(arrays)

    def pull(self, arrays: Sequence[Array], ct: Array) -> list[Array | None]:
        """The cotangents of the inputs."""
        with np.errstate(all="ignore"):
            return self.subject.pull(arrays, ct)

    def takes(self, arrays: Sequence[Array]) -> bool:
        """Whether the function gives finite values there."""
        try:
            with np.errstate(all="ignore"):
                return bool(np.isfinite(self.forward(arrays)).all())
        except Exception:
            return False                           # outside of its domain, whatever it says

    @cached_property
    def here(self) -> Linearization:
        """The function at its arrays."""
        return Linearization(self.subject, self.arrays, self.stats, capped=False, context=self,
                             rtol=self.rtol, dtype=self.dtype,
                             quick=self.dtype == np.float64 and self.rtol is None)

    @property
    def out(self) -> Array:
        """The values there."""
        return self.here.out

    def measure_entries(self) -> None:
        """Measure each entry from now on: directions have left a doubt."""
        self.here.quick = False
        self._noise.clear()

    def cotangent(self, purpose: int = 1, dtype: np.dtype | type = np.float64) -> Array:
        """A random cotangent of the output."""
        narrow = min(np.dtype(dtype), self.out.dtype, key=lambda d: d.itemsize)
        ct = self.here.cotangent(self.rng(purpose), self.out.shape, narrow)
        return ct.astype(self.out.dtype)

    def noise(self, ct: Array, dtype: np.dtype | type | None = None) -> dict[int, Array] | None:
        """The noise of the rules there, for dense cotangents; None if all are compared exactly."""
        if self.here.all_exact:
            return None
        chosen = np.dtype(self.dtype if dtype is None else dtype)
        size = float(np.abs(ct).max(initial=0.0))
        if chosen not in self._noise:               # once: it takes many calls
            if self.here.quick and chosen != self.dtype:
                ratio = np.finfo(chosen).eps / np.finfo(self.dtype).eps
                return {k: ratio * part for k, part in (self.noise(ct) or {}).items()}
            self._noise[chosen] = (size, self.here.noise(ct, chosen, self.rng(99)))
        known, noise = self._noise[chosen]
        times = max(1.0, size / max(known, 1e-300))
        return {k: times * part for k, part in noise.items()}

    def failed(self, detail: str, k: int = -1, **facts: Any) -> CheckFailed:
        """A finding at this place."""
        return CheckFailed(Finding(self.stats.prop, self.subject.name, self.id,
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


def _cast(settings: Mapping[str, object], dtype: DType | type) -> Settings:
    """Float arrays among the settings in ``dtype``, as the public functions would pass them."""
    return {k: v.astype(dtype) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v
            for k, v in settings.items()}


def _on_the_lattice(x: Array) -> Array:
    """``x`` rounded to odd eighths, which floats add and multiply exactly."""
    return np.asarray((2 * np.floor(4 * np.clip(x, -64, 64)) + 1) / 8)


class OpCase(Case):
    """One op, registered or not, on one sample."""

    def __init__(self, op: Op, sample: Sample, *, seed: int = 0,
                 stats: Stats | None = None) -> None:
        self.op = op
        self.sample = sample
        self.id = sample.id
        self.settings = dict(sample.settings)
        self.present = tuple(i for i, x in enumerate(sample.args) if x is not None)
        names = tuple(op.input_name(i) for i in self.present)
        super().__init__(Subject(op.name, names, self.forward, self.pull), (), seed=seed,
                         stats=stats)
        self.affine = tuple(k for k in range(len(self.present)) if self._declared_affine(k))
        kernels = tuple(op.kernels)
        self.kernels = tuple((name,) for name in kernels) if len(kernels) > 1 else ((),)

    def _declared_affine(self, k: int) -> bool:
        i = 0 if self.op.variadic else self.present[k]
        return self.op.inputs[i] in self.op.test.exact_in

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

    def siblings(self, most: int = 4) -> Iterator[OpCase]:
        """Cases of the op's other samples."""
        for sample in self.op.test.samples(np.random.default_rng(self.seed)):
            if most and sample.id != self.sample.id:
                most -= 1
                yield OpCase(self.op, sample, seed=self.seed)

    def full(self, arrays: Sequence[T]) -> list[T | None]:
        """All inputs, None for those that are left out."""
        result: list[T | None] = [None] * len(self.sample.args)
        for i, x in zip(self.present, arrays, strict=True):
            result[i] = x
        return result

    def forward(self, arrays: Sequence[Array]) -> Array:
        """The values of the op, straight from its kernels."""
        with np.errstate(all="ignore"):
            return np.asarray(self.op.run(*self.full(arrays), **self.settings)[0])

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

    @cached_property
    def here(self) -> Linearization:
        """The op at this sample."""
        return self.at(self.arrays)

    def at(self, arrays: Sequence[Array], *, ties: bool = True) -> Linearization:
        """The op on these settings at other values of its inputs."""
        return Linearization(self.subject, arrays, self.stats, affine=self.affine,
                             piecewise_linear=self.op.test.piecewise_linear,
                             ties=self.ties if ties else None, case=self.id, context=self)


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


def kind_of(sample: Sample) -> str:
    """``"own"``, or how a sample was derived: ``"call"``, ``"empty"`` or ``"values"``."""
    if not is_derived(sample):
        return "own"
    word = sample.id[len(_DERIVED_ID):].partition(":")[0]
    return word if word in ("empty", "values") else "call"


def derived(op: Op, samples: Sequence[Sample], rng: np.random.Generator,
            number: int) -> Iterator[Sample]:
    """A few more calls that the op takes; more of them for an op that has one sample or two."""
    usable = [s for s in samples if any(np.size(a) for a in s.args if a is not None)
              and all(a is None or np.isfinite(a).all() for a in s.args)]
    plain = [s for s in usable if not any(map(_holds_array, s.settings.values()))]
    few = len(samples) <= 2
    if number and plain:
        for way in [_any_way] * number + [_unlike, _settings, _settings] * few:
            yield from _first_that_runs(op, plain, way, rng)
        every = [(base, size) for base in plain for size in (1, 3, 65, 0)]
        for base, size in every if few else [every[int(rng.integers(len(every)))]]:
            yield from islice(_one_axis(op, base, size, rng), None if few else 1)
    if number and usable:
        order = rng.permutation(len(_VALUES))
        for i in order if few else order[:2]:
            name, change = list(_VALUES.items())[i]
            base = usable[int(rng.integers(len(usable)))]
            sample = _with_values(base, name, change, rng)
            if sample is not None and not any(np.isin(a, op.test.singular).any()
                                              for a in sample.args if a is not None) \
                    and _runs(op, sample):
                yield sample


Way = Callable[[Op, Sample, Sequence[Sample], np.random.Generator], "Sample | None"]


def _first_that_runs(op: Op, plain: Sequence[Sample], way: Way,
                     rng: np.random.Generator) -> Iterator[Sample]:
    for _ in range(_TRIES):
        sample = way(op, plain[int(rng.integers(len(plain)))], plain, rng)
        if sample is not None and _runs(op, sample):
            yield sample
            return


def _holds_array(value: object) -> bool:
    """Whether a setting depends on shapes in ways that only the op knows."""
    if isinstance(value, (tuple, list)):
        return any(map(_holds_array, value))
    return not isinstance(value, (int, float, str, bool, np.dtype, type(None)))


def _runs(op: Op, sample: Sample) -> bool:
    """Whether the op takes the call and makes finite values of a usable number."""
    shapes = [None if a is None else np.shape(a) for a in sample.args]
    try:
        if op.axes is not None:
            bind_axes(op.name, op.axes, dict(zip(op.inputs, shapes, strict=True)), sample.settings)
        expected = op.shape(*shapes, **sample.settings)
        entries = math.prod(expected)
        if entries > 4 * _MOST_ENTRIES or (not entries and kind_of(sample) != "empty"):
            return False
        with np.errstate(all="ignore"):
            out = np.asarray(op.run(*sample.args, **sample.settings)[0])
    except Exception:
        return False                               # whatever it is, the op does not take the call
    return out.shape == expected and bool(np.isfinite(out).all())


def _made(op: Op, base: Sample, shapes: Sequence[Shape | None], settings: Settings,
          rng: np.random.Generator, kind: str = "", most: int = _MOST_ENTRIES) -> Sample | None:
    """A sample of these shapes, with values like those of ``base``; None if nothing is new."""
    before = [None if a is None else np.shape(a) for a in base.args]
    if sum(math.prod(s) for s in shapes if s is not None) > most \
            or (list(shapes) == before and settings == dict(base.settings)):
        return None
    args = tuple(None if s is None or a is None else
                 _drawn(np.asarray(a), s, rng, op.test.piecewise_linear)
                 for a, s in zip(base.args, shapes, strict=True))
    what = [" × ".join(str(s) for s in shapes if s is not None),
            *(f"{k} {v}" for k, v in settings.items() if v != base.settings[k])]
    return Sample(f"{_DERIVED_ID}{kind}{', '.join(what)}", args, settings)


def _shapes(base: Sample) -> list[Shape | None]:
    return [None if a is None else np.shape(a) for a in base.args]


# ---- ways to another call

def _any_way(op: Op, base: Sample, samples: Sequence[Sample],
             rng: np.random.Generator) -> Sample | None:
    """Other sizes, stretched operands, and other settings, each with some chance."""
    shapes, settings = _shapes(base), dict(base.settings)
    if rng.random() < 0.8:
        sized = _resized(op, shapes, settings, rng)
        if sized is None:
            return None
        shapes = sized
    if rng.random() < (0.5 if op.broadcasts else 0.15):
        shapes = _stretched(shapes, rng)
    rank = next((len(s) for s in shapes if s is not None), 0)
    for name in settings:
        if rng.random() < 0.5:
            settings[name] = _other_setting(name, settings[name], rank, samples, rng)
    return _made(op, base, shapes, settings, rng)


def _unlike(op: Op, base: Sample, samples: Sequence[Sample],
            rng: np.random.Generator) -> Sample | None:
    """No two axes alike, as far as the op takes it: a square sample does not stay square."""
    shapes, settings = _shapes(base), dict(base.settings)
    if op.axes is not None:
        sized = _relettered(op, shapes, settings, rng, every=True)
        return None if sized is None else _made(op, base, sized, settings, rng)
    pool = [int(n) for n in rng.permutation([2, 3, 4, 5, 7, 2, 3, 5])]
    own = [None if s is None else tuple(pool[(i + j) % 8] if n > 1 else n
                                        for j, n in enumerate(s)) for i, s in
           zip(range(len(shapes)) if rng.random() < 0.5 else [0] * len(shapes), shapes,
               strict=True)]
    return _made(op, base, own, settings, rng)


def _settings(op: Op, base: Sample, samples: Sequence[Sample],
              rng: np.random.Generator) -> Sample | None:
    """Sizes a little larger, and one setting or all with other numbers."""
    shapes, settings = _shapes(base), dict(base.settings)
    if not settings:
        return None
    if rng.random() < 0.5:
        shapes = [None if s is None else tuple(n + int(rng.integers(3)) if n > 2 else n
                                               for n in s) for s in shapes] \
            if len(shapes) == 1 else shapes
    rank = next((len(s) for s in shapes if s is not None), 0)
    names = list(settings)
    for name in names if rng.random() < 0.3 else [names[int(rng.integers(len(names)))]]:
        settings[name] = _other_setting(name, settings[name], rank, samples, rng)
    if settings == dict(base.settings):
        return None
    return _made(op, base, shapes, settings, rng, most=2 * _MOST_ENTRIES)


def _one_axis(op: Op, base: Sample, size: int, rng: np.random.Generator) -> Iterator[Sample]:
    """Each axis with 1, 65 or no entries: wherever that size is, in all inputs, or alone.

    Of 3, for axes that have one: what is divided by 1, or summed over one, shows there.
    """
    shapes, seen = _shapes(base), []
    places = [(i, axis) for i, s in enumerate(shapes) for axis in range(len(s or ()))]
    for i, axis in [places[j] for j in rng.permutation(len(places))]:
        old, found = (shapes[i] or ())[axis], 0
        if size == 3 and old != 1:
            continue
        for which in (lambda j, a, n: n == old, lambda j, a, n: a == axis,      # noqa: B023
                      lambda j, a, n: (j, a) == (i, axis)):                     # noqa: B023
            other = [None if s is None else tuple(size if which(j, a, n) else n
                                                  for a, n in enumerate(s))
                     for j, s in enumerate(shapes)]
            settings = dict(base.settings)
            if isinstance(settings.get("shape"), tuple):
                settings["shape"] = tuple(size if n == old else n for n in settings["shape"])
            sample = _made(op, base, other, settings, rng, "" if size else "empty: ", 400)
            if sample is not None and other not in seen and _runs(op, sample):
                seen.append(other)
                found += 1
                yield sample
        if found and size == 65:
            return                              # once: it takes long


def _resized(op: Op, shapes: list[Shape | None], settings: Settings,
             rng: np.random.Generator) -> list[Shape | None] | None:
    if op.axes is not None:
        return _relettered(op, shapes, settings, rng)
    sizes = {n for s in shapes if s is not None for n in s if n > 1}
    new = {n: _RANGE[int(rng.integers(6))] for n in sorted(sizes)}
    if "shape" in settings and isinstance(settings["shape"], tuple):
        settings["shape"] = tuple(new.get(n, n) for n in settings["shape"])
    return [None if s is None else tuple(new.get(n, n) for n in s) for s in shapes]


def _relettered(op: Op, shapes: list[Shape | None], settings: Settings,
                rng: np.random.Generator, every: bool = False) -> list[Shape | None] | None:
    """Each axis letter with another size, in every input that has it."""
    assert op.axes is not None
    patterns = [part.split() for part in op.axes.split("->")[0].split(",")]
    try:
        size = bind_axes(op.name, op.axes, dict(zip(op.inputs, shapes, strict=True)), settings)
    except Exception:
        return None
    pool = [int(n) for n in rng.permutation([2, 3, 4, 5, 6, 7, 1, 2, 3, 4])]
    for letter in size:
        if every or rng.random() < 0.6:
            parts = max((settings[item.partition("/")[2]] for pattern in patterns
                         for item in pattern if item.startswith(letter + "/")), default=1)
            size[letter] = int(rng.integers(1, 4)) * parts if parts > 1 else \
                pool.pop() if every and pool else int(rng.integers(1, 7))
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

def _other_setting(name: str, value: object, rank: int, samples: Sequence[Sample],
                   rng: np.random.Generator) -> object:
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
    others = [s.settings[name] for s in samples if name in s.settings]
    if others and rng.random() < 0.3:
        return others[int(rng.integers(len(others)))]
    return _other_numbers(value, rng)


def _other_numbers(value: object, rng: np.random.Generator) -> object:
    """Whole numbers, pairs of them and pairs of pairs, swapped, moved by one or doubled."""
    if isinstance(value, bool) or not isinstance(value, (int, tuple)):
        return value
    if isinstance(value, int):
        return max(0, value + int(rng.choice([-1, 0, 1, 1, 2]))) if 0 <= value < 32 else value
    if len(value) == 2 and value[0] != value[1] and rng.random() < 0.4:
        return value[::-1]
    return tuple(_other_numbers(v, rng) for v in value)


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


def _planted(value: Callable[[Array], float]) -> Callable[[Array, np.random.Generator], Array]:
    def change(x: Array, rng: np.random.Generator) -> Array:
        x.flat[int(rng.integers(x.size))] = value(x)
        return x
    return change


def _constant_row(x: Array, rng: np.random.Generator) -> Array:
    if x.ndim:
        np.moveaxis(x, int(rng.integers(x.ndim)), 0)[0] = x.flat[0]
    return x


_VALUES: dict[str, Callable[[Array, np.random.Generator], Array]] = {
    "a zero": _planted(lambda x: 0.0),
    "two equal": _planted(lambda x: float(x.flat[0])),
    "a constant row": _constant_row,
    "all equal": lambda x, rng: np.full_like(x, x.flat[0]),
    "minus": lambda x, rng: -x,
    "four times": lambda x, rng: 4.0 * x,
    "a thousand times": lambda x, rng: 1e3 * x,
    "a thousandth": lambda x, rng: x / 1024,
    "a bound": lambda x, rng: x,
}


def _with_values(base: Sample, name: str, change: Callable[[Array, np.random.Generator], Array],
                 rng: np.random.Generator) -> Sample | None:
    """A sample with a special value in an input, or in all of them."""
    places = [i for i, a in enumerate(base.args)
              if a is not None and np.asarray(a).dtype.kind == "f" and np.size(a)]
    bounds = [v for v in base.settings.values() if isinstance(v, float) and np.isfinite(v)]
    if not places or (name == "a bound" and not bounds):
        return None
    if name == "a bound":
        change = _planted(lambda x: bounds[int(rng.integers(len(bounds)))])
    only = None if rng.random() < 0.5 else places[int(rng.integers(len(places)))]
    args = tuple(change(np.array(a, np.float64), rng) if i in places and only in (None, i) else a
                 for i, a in enumerate(base.args))
    return Sample(f"{_DERIVED_ID}values: {name} in {base.id}", args, base.settings)
