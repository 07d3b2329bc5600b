"""Make a failing call smaller: fewer entries, plainer settings, plainer values.

Greedy: each step that still fails in the same way is kept, until none is left or time is up.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinygrad_cnn.core.op import Array, Sample
from tinygrad_cnn.shapes import Shape, bind_axes
from tinygrad_cnn.testing.properties import run_property
from tinygrad_cnn.testing.report import Finding, Tally, Wrong
from tinygrad_cnn.testing.trial import Trial

__all__ = ["shrink"]

_SECONDS = 3.0
_PLAIN = {"stride": 1, "dilation": 1, "kernel_size": 1, "padding": 0, "widths": 0}


def shrink(finding: Finding, seconds: float = _SECONDS) -> Finding:
    """A finding of the same property and input on a smaller call; the same one if there is none."""
    trial = finding.context
    if not isinstance(trial, Trial) or not trial.present:
        return finding
    deadline = time.perf_counter() + seconds
    best, sample = finding, _exact(trial)
    progress = True
    while progress and time.perf_counter() < deadline:
        progress = False
        for candidate in _smaller(trial, sample):
            if time.perf_counter() > deadline:
                break
            found = _fails(trial, candidate, finding)
            if found is not None:
                best, sample, progress = found, candidate, True
                break
    return _plain_cotangent(best)


def _exact(trial: Trial) -> Sample:
    """The sample with the arrays that the trial made of it."""
    return Sample(trial.sample.id, tuple(trial.full(trial.arrays)), trial.settings)


def _fails(trial: Trial, sample: Sample, finding: Finding) -> Finding | None:
    """What the same property finds on another sample, if it is the same kind of thing."""
    other = Trial(trial.op, sample, seed=trial.seed)
    try:
        with np.errstate(all="ignore"):
            if not np.isfinite(other.out).all():
                return None
        if finding.prop == "gradient" and finding.error is None and finding.index >= 0:
            _gradient_alone(other, finding)
        else:
            run_property(finding.prop, other)
    except Wrong as wrong:
        same = (wrong.finding.prop == finding.prop and wrong.finding.input == finding.input
                and type(wrong.finding.error) is type(finding.error))
        return wrong.finding if same else None
    except Exception:
        return None                                # not a call that the op takes
    return None


def _gradient_alone(trial: Trial, finding: Finding) -> None:
    """The gradient of the one input, which is quicker than all of the property."""
    k = trial.names.index(finding.input)
    ct = trial.cotangent(1)
    trial.point.wanted = (k,)
    noise = None if trial.point.exact(k) else trial.point.noise(ct, np.float64, trial.rng(1))
    trial.point.compare("gradient", k, trial.pull(trial.arrays, ct)[k], ct,
                        trial.point.bound(k, ct, np.float64, noise), Tally())


# ---- smaller calls

def _smaller(trial: Trial, sample: Sample) -> Iterator[Sample]:
    """Smaller and plainer calls, the boldest first."""
    yield from _fewer_entries(trial, sample)
    yield from _plainer_settings(sample)
    yield from _plainer_values(sample)


def _fewer_entries(trial: Trial, sample: Sample) -> Iterator[Sample]:
    shapes = [None if a is None else np.shape(a) for a in sample.args]
    for other in _reduced_shapes(trial, shapes, dict(sample.settings)):
        args = tuple(None if a is None or s is None else
                     np.ascontiguousarray(np.asarray(a)[tuple(slice(0, n) for n in s)]).reshape(s)
                     for a, s in zip(sample.args, other, strict=True))
        yield dataclasses.replace(sample, args=args,
                                  settings=_cropped(sample.settings, shapes, other))


def _reduced_shapes(trial: Trial, shapes: list[Shape | None],
                    settings: dict[str, Any]) -> Iterator[list[Shape | None]]:
    op = trial.op
    if op.axes is not None:
        patterns = [part.split() for part in op.axes.split("->")[0].split(",")]
        size = bind_axes(op.name, op.axes, dict(zip(op.inputs, shapes, strict=True)), settings)
        for letter, n in sorted(size.items(), key=lambda item: -item[1]):
            for less in _less(n):
                yield [None if s is None else tuple(
                    m * less // n if item.split("/")[0] == letter else m
                    for m, item in zip(s, pattern, strict=True))
                    for s, pattern in zip(shapes, patterns, strict=True)]
        return
    # No letters: all axes of one size together, then one axis after the other.
    for n in sorted({m for s in shapes if s is not None for m in s if m > 1}, reverse=True):
        for less in _less(n):
            yield [None if s is None else tuple(less if m == n else m for m in s) for s in shapes]
    for i, shape in enumerate(shapes):
        for axis, n in enumerate(shape or ()):
            for less in _less(n):
                assert shape is not None
                changed = (*shape[:axis], less, *shape[axis + 1:])
                yield [changed if j == i else s for j, s in enumerate(shapes)]


def _less(n: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(m for m in (1, n // 2, n - 1) if 0 < m < n))


def _cropped(settings: Any, before: list[Shape | None],
             after: list[Shape | None]) -> dict[str, Any]:
    """Arrays and shapes among the settings, cut as the inputs were."""
    sizes = {m: n for old, new in zip(before, after, strict=True) if old is not None
             and new is not None for m, n in zip(old, new, strict=True) if m != n}
    result = dict(settings)
    for name, value in settings.items():
        if isinstance(value, np.ndarray):
            result[name] = np.ascontiguousarray(
                value[tuple(slice(0, sizes.get(n, n)) for n in value.shape)])
        elif name == "shape" and isinstance(value, tuple):
            result[name] = tuple(sizes.get(n, n) for n in value)
    return result


def _plainer_settings(sample: Sample) -> Iterator[Sample]:
    for name, value in sample.settings.items():
        if name in _PLAIN:
            for other in _plainer(value, _PLAIN[name]):
                yield dataclasses.replace(sample, settings={**sample.settings, name: other})


def _plainer(value: Any, plain: int) -> Iterator[Any]:
    """A number or nested pairs of numbers, nearer to the plain one."""
    if isinstance(value, int):
        yield from dict.fromkeys(v for v in (plain, value - 1) if plain <= v < value)
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            for other in _plainer(item, plain):
                yield (*value[:i], other, *value[i + 1:])


def _plainer_values(sample: Sample) -> Iterator[Sample]:
    """Ones, or whole numbers, instead of an input's values."""
    for i, a in enumerate(sample.args):
        if a is None or not a.size or (a == 1).all():
            continue
        for other in (np.ones_like(a), np.sign(np.round(a)) + (np.round(a) == 0),
                      np.round(a), np.round(2 * a) / 2):
            if not np.array_equal(other, a) and _weight(other) < _weight(a):
                yield dataclasses.replace(sample, args=tuple(
                    other if j == i else b for j, b in enumerate(sample.args)))


def _weight(a: Array) -> float:
    """How long the values are to write down."""
    return sum(len(f"{v:.17g}") for v in a.reshape(-1)) + float(np.abs(a).sum()) / 1e6


# ---- the cotangent

def _plain_cotangent(finding: Finding) -> Finding:
    """The same finding for a cotangent of ones, or with a single 1, if one of them shows it."""
    trial = finding.context
    if finding.prop != "gradient" or finding.ct is None or finding.index < 0:
        return finding
    shape = np.shape(finding.ct)
    for ct in _plain_cotangents(shape):
        try:
            got = trial.pull(trial.arrays, ct)[finding.index]
        except Exception:
            return finding
        expected = trial.point.expected(finding.index, ct)
        if got is None or got.shape != expected.shape:
            return finding
        noise = None if trial.point.exact(finding.index) else \
            trial.point.noise(ct, np.float64, trial.rng(1))
        bound = trial.point.bound(finding.index, ct, np.float64, noise)
        if not (np.abs(got - expected) <= bound).all():
            bad = int((~(np.abs(got - expected) <= bound)).sum())
            return dataclasses.replace(finding, ct=ct, got=got, expected=expected, bound=bound,
                                       detail=f"{bad} of {got.size} wrong")
    return finding


def _plain_cotangents(shape: Shape) -> Iterator[Array]:
    size = math.prod(shape)
    yield np.ones(shape)
    for j in range(min(size, 16)):
        unit = np.zeros(size)
        unit[j] = 1.0
        yield unit.reshape(shape)
    yield np.arange(1.0, size + 1).reshape(shape)


