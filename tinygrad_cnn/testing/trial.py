"""One op on one sample: the ground on which the properties are checked.

A `Trial` runs the op through the engine, as users do, on kernels and in dtypes of its choosing, and
keeps what several properties share: the samples on exact data, the measured Jacobians, the tally.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np

from tinygrad_cnn.core import Tensor, _wrap, apply, gradients
from tinygrad_cnn.core import op as op_module
from tinygrad_cnn.core.op import Array, Op, Sample
from tinygrad_cnn.testing.derivatives import is_dyadic
from tinygrad_cnn.testing.point import Point, Subject
from tinygrad_cnn.testing.report import Finding, Tally, Wrong

__all__ = ["Trial", "cast_settings", "forced", "on_the_lattice"]


@contextmanager
def forced(*kernels: str) -> Iterator[None]:
    """Try these kernels first; as `use_kernels`, for ops that are not registered too."""
    outer = op_module._forced.get()
    try:
        op_module._forced.set(kernels)
        yield
    finally:
        op_module._forced.set(outer)


def cast_settings(settings: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    """Float arrays among the settings in ``dtype``, as the public functions would pass them."""
    return {k: v.astype(dtype) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v
            for k, v in settings.items()}


def on_the_lattice(x: Array) -> Array:
    """``x`` rounded to odd eighths, which floats add and multiply exactly."""
    return np.asarray((2 * np.floor(4 * np.clip(x, -64, 64)) + 1) / 8)


class Trial:
    """One op on one sample.

    Parameters
    ----------
    op : Op
        Need not be registered.
    sample : Sample
    seed : int
        Of the random cotangents.
    tally : Tally
        What is compared is counted here.
    """

    def __init__(self, op: Op, sample: Sample, *, seed: int = 0,
                 tally: Tally | None = None) -> None:
        self.op = op
        self.sample = sample
        self.settings = dict(sample.settings)
        self.tally = Tally() if tally is None else tally
        self.seed = seed
        self.present = tuple(i for i, x in enumerate(sample.args) if x is not None)
        self.names = tuple(op.input_name(i) for i in self.present)

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
        for i in self.present:
            x = np.array(self.sample.args[i], np.float64)
            if not is_dyadic(x, 10):
                affine = self._name(i) in self.op.affine_in or self.op.piecewise_linear
                x = on_the_lattice(x) if affine else x.astype(np.float32).astype(np.float64)
            result.append(x)
        return tuple(result)

    def _name(self, i: int) -> str:
        return self.op.inputs[0] if self.op.variadic else self.op.inputs[i]

    @cached_property
    def affine(self) -> tuple[int, ...]:
        """Which of the present inputs the op is affine in."""
        return tuple(k for k, i in enumerate(self.present) if self._name(i) in self.op.affine_in)

    @property
    def ties(self) -> str | None:
        """The op's rule at kinks, for these settings."""
        rule = self.op.ties
        return rule(**self.settings) if callable(rule) else rule

    def siblings(self, most: int = 4) -> Iterator[Trial]:
        """Trials of the op's other samples."""
        for sample in self.op.samples(np.random.default_rng(self.seed)):
            if most and sample.id != self.sample.id:
                most -= 1
                yield Trial(self.op, sample, seed=self.seed)

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
            return apply(self.op, *self.full(tensors), **cast_settings(self.settings, dtype))

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
    def subject(self) -> Subject:
        """The op on these settings as a function and its pullback."""
        return Subject(self.op.name, self.names, self.forward, self.pull)

    @cached_property
    def point(self) -> Point:
        """The op at this sample."""
        return self.at(self.arrays)

    def at(self, arrays: Sequence[Array], *, ties: bool = True) -> Point:
        """The op on these settings at other values of its inputs."""
        wanted = tuple(k for k, x in enumerate(arrays) if x.dtype.kind == "f")
        return Point(self.subject, arrays, wanted=wanted, affine=self.affine,
                     piecewise_linear=self.op.piecewise_linear, ties=self.ties if ties else None,
                     case=self.sample.id, context=self)

    @cached_property
    def out(self) -> Array:
        """The values at this sample."""
        return self.forward(self.arrays)

    def cotangent(self, purpose: int = 0, dtype: Any = np.float64) -> Array:
        """A random cotangent of the output."""
        narrow = min(np.dtype(dtype), self.out.dtype, key=lambda d: d.itemsize)
        ct = self.point.cotangent(self.rng(purpose), self.out.shape, narrow)
        return ct.astype(self.out.dtype)

    def noise(self, ct: Array, dtype: Any = np.float64) -> dict[int, Array] | None:
        """The noise of the rules at this sample; None if all are compared exactly."""
        if all(map(self.point.exact, self.point.wanted)):
            return None
        return self.point.noise(ct, dtype, self.rng(99))

    @property
    def kernels(self) -> tuple[tuple[str, ...], ...]:
        """Which kernels to force, in turn: each of the op's own, or none if it has one."""
        names = tuple(self.op.kernels)
        return tuple((name,) for name in names) if len(names) > 1 else ((),)

    def wrong(self, prop: str, detail: str, k: int = -1, **facts: Any) -> Wrong:
        """A finding about this op on this sample."""
        return Wrong(Finding(prop, self.op.name, self.sample.id,
                             self.names[k] if k >= 0 else "", detail, k, context=self, **facts))

    def same(self, prop: str, k: int, got: Array | None, expected: Array | None, detail: str,
             ct: Array | None = None) -> None:
        """Two cotangents of input ``k`` must be equal to the last bit."""
        if got is None or expected is None:
            if got is not expected:
                raise self.wrong(prop, detail, k, got=got, expected=expected)
            return
        self.tally.comparisons += max(got.size, 1)
        if got.shape != expected.shape or got.dtype != expected.dtype \
                or not np.array_equal(got, expected, equal_nan=True):
            raise self.wrong(prop, detail, k, got=got, expected=expected, ct=ct)
