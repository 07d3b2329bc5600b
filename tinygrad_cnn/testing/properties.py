"""The properties of numbers: the gradient in both dtypes, at kinks, and its own derivative.

Each check takes a `Trial` and raises `Wrong`; with those of ``contract`` they are all that is asked
of an op on a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_cnn.op import Array
from tinygrad_cnn.tensor import Tensor, grad
from tinygrad_cnn.testing.contract import CONTRACT
from tinygrad_cnn.testing.derivatives import (
    Measured,
    is_dyadic,
    ridders,
    slopes_from_the_right,
)
from tinygrad_cnn.testing.point import odd_integers, tied
from tinygrad_cnn.testing.report import Wrong
from tinygrad_cnn.testing.trial import Trial, forced

__all__ = ["PROPERTIES", "run_property"]

_INEXACT_KERNEL = 2.0 ** 9      # eps of float32 · largest entry: what Winograd's method may lose
_SECOND_ORDER = 1e-6            # relative to the largest entry, for slopes that Ridders measures


# ---- first order

def gradient(trial: Trial) -> None:
    """The cotangent of every input is ctᵀ J, on every kernel, in float64."""
    point = trial.point
    _declared_affine(trial)
    for k in point.wanted:
        trial.tally.methods[trial.names[k]] = point.measured(k).method
    cotangents = [trial.cotangent(1), trial.cotangent(2)]
    noise = trial.noise(cotangents[0])
    for kernels in trial.kernels:
        with forced(*kernels):
            for ct in cotangents:
                # The noise was measured for one dense cotangent; the other is as large.
                for k, part in _pulled(trial, "gradient", ct):
                    point.compare("gradient", k, part, ct, point.bound(k, ct, np.float64, noise),
                                  trial.tally)


def _declared_affine(trial: Trial) -> None:
    """An op that declares an input in ``affine_in`` is affine in it."""
    for k in trial.affine:
        x = trial.arrays[k]
        step = np.resize([1.0, -2.0, 3.0, -1.0], x.size).reshape(x.shape)
        given = list(trial.arrays)
        values = []
        for t in (0.0, 1.0, 3.0):
            given[k] = x + t * step
            values.append(trial.forward(given))
        off = np.abs(values[2] - values[0] - 3 * (values[1] - values[0]))
        scale = max(float(np.abs(v).max(initial=0.0)) for v in values)
        trial.tally.comparisons += off.size
        if not (off <= 1e-12 * scale).all():
            raise trial.wrong("gradient", f"affine_in names {trial.names[k]!r}, but the values do "
                              "not change in proportion to it", k)


def _pulled(trial: Trial, prop: str, ct: Array,
            arrays: Sequence[Array] | None = None) -> list[tuple[int, Array | None]]:
    """The cotangents of the inputs that are tested."""
    found = trial.pull(trial.arrays if arrays is None else arrays, ct)
    return [(k, found[k]) for k in trial.point.wanted]


def single_precision(trial: Trial) -> None:
    """In float32 the rule is exact where data is, and else as good as float32 can be."""
    point = trial.point
    ct = trial.cotangent(1, np.float32)
    arrays = [x.astype(np.float32) if x.dtype.kind == "f" else x for x in trial.arrays]
    noise = trial.noise(ct, np.float32)
    for kernels in {("reference",), *trial.kernels}:
        with forced(*kernels):
            for k, part in _pulled(trial, "float32", ct, arrays):
                if part is not None and part.dtype != np.float32:
                    raise trial.wrong("float32", f"the gradient of {trial.names[k]} is "
                                      f"{part.dtype}, the input float32", k, got=part)
                bound = point.bound(k, ct, np.float32, noise)
                if kernels not in (("reference",), ()):
                    size = np.abs(ct.reshape(-1)) @ np.abs(point.matrix(k))
                    bound = np.maximum(bound, _INEXACT_KERNEL * np.finfo(np.float32).eps
                                       * size.max(initial=0.0))
                point.compare("float32", k, part, ct, bound, trial.tally)


# ---- second order

def second_order(trial: Trial) -> None:
    """The rule itself, as a function of inputs and cotangent, has the right gradient.

    S = Σ u · r(x, ct) is differentiated through the recorded backward pass, and measured from the
    values of r: in ct it is J u, in x it comes from differences.
    """
    point, tally = trial.point, trial.tally
    # Small, so that sums over whole arrays of products with it are exact.
    ct = odd_integers(trial.rng(5), trial.out.shape, 8)
    weights = {k: _weights(trial, k) for k in point.wanted}
    of_ct, of_inputs = _recorded_second(trial, ct, weights)

    expected = np.zeros(trial.out.size)
    slack = np.zeros(trial.out.size)
    for k in point.wanted:
        line = weights[k].reshape(-1)
        expected += point.matrix(k) @ line
        if not point.exact(k):
            slack += 1e-9 * (np.abs(point.matrix(k)) @ np.abs(line)).max(initial=0.0)
    tally.comparisons += expected.size
    if not (np.abs(of_ct.reshape(-1) - expected) <= slack).all():
        raise trial.wrong("second order", "the recorded rule has the wrong derivative in the "
                          "cotangent", got=of_ct, expected=expected.reshape(of_ct.shape))

    def total(arrays: Sequence[Array]) -> Array:
        parts = trial.pull(arrays, ct)
        return np.array(sum(float((weights[k] * parts[k]).sum()) for k in point.wanted
                            if parts[k] is not None))

    if any(point.measured(k).left is not None for k in point.wanted):
        return                                  # at a kink the rule jumps: it has no slope there
    for k in point.wanted:
        for direction in _second_directions(trial, k):
            slope, bound = _second_slope(trial, total, k, direction)
            found = float((of_inputs[k] * direction).sum())
            tally.comparisons += int(np.isfinite(bound))
            if not abs(found - slope) <= bound:
                raise trial.wrong("second order", f"the derivative of the rule is wrong: in "
                                  f"{trial.names[k]} it is {slope:.10g} along a direction, the "
                                  f"recorded backward pass gives {found:.10g}", k,
                                  got=np.array(found), expected=np.array(slope), ct=ct)


def _all_exact(trial: Trial) -> bool:
    return all(map(trial.point.exact, trial.point.wanted))


def _weights(trial: Trial, k: int) -> Array:
    """What the cotangent of input ``k`` is multiplied by before it is summed."""
    rng = trial.rng(10 + k)
    shape = trial.arrays[k].shape
    return np.asarray(2.0 * rng.integers(-8, 8, shape) + 1.0)


def _recorded_second(trial: Trial, ct: Array,
                     weights: dict[int, Array]) -> tuple[Array, dict[int, Array]]:
    """The gradient of Σ u · r(x, ct) in ct and in each input, through the engine."""
    tensors = trial.tensors(trial.arrays)
    asked = [tensors[k] for k in trial.point.wanted]
    try:
        with np.errstate(all="ignore"):
            y = trial.apply(tensors)
            seed = Tensor(ct.astype(y.dtype), requires_grad=True)
            first = grad(y, asked, seed, create_graph=True)
            total: Any = None
            for k, part in zip(trial.point.wanted, first, strict=True):
                if part is not None and part.size:
                    term = (part * weights[k]).sum()
                    total = term if total is None else total + term
            if total is None or not total.requires_grad:
                second: tuple[Tensor | None, ...] = (None,) * (len(asked) + 1)
            else:
                second = grad(total, [seed, *asked])
    except Exception as error:
        raise trial.wrong("second order", f"the rule cannot be differentiated: {error}",
                          error=error) from error
    parts = [None if s is None else s._data for s in second]
    of_ct = np.zeros_like(ct) if parts[0] is None else parts[0]
    of_inputs = {k: np.zeros(trial.arrays[k].shape) if p is None else p
                 for k, p in zip(trial.point.wanted, parts[1:], strict=True)}
    return of_ct, of_inputs


def _second_directions(trial: Trial, k: int) -> list[Array]:
    """Directions in input ``k``: some single entries, and two through all of them."""
    rng = trial.rng(20 + k)
    shape, size = trial.arrays[k].shape, trial.arrays[k].size
    through = [rng.choice([-1.0, 1.0, -0.5, 0.5], shape) for _ in range(2 if size > 1 else 0)]
    entries = _SECOND_ENTRIES if _all_exact(trial) else _SECOND_ENTRIES // 2     # Ridders is dear
    single = [np.zeros(shape) for _ in range(min(size, entries))]
    for direction, i in zip(single, rng.permutation(size), strict=False):
        direction.flat[i] = 1.0
    return [*through, *single]


def _second_slope(trial: Trial, total: Callable[[Sequence[Array]], Array], k: int,
                  direction: Array) -> tuple[float, float]:
    """The slope of ``total`` along a direction in input ``k``, and a bound on its error."""
    given = list(trial.arrays)

    def line(t: float) -> Array:
        given[k] = trial.arrays[k] + t * direction
        return total(given)

    if _all_exact(trial):
        # Along one entry the rule is affine; along a line that is at most quadratic, central
        # quotients are equal for all steps.
        steps = (1 / 32,) if np.count_nonzero(direction) == 1 else (1 / 32, 1 / 64)
        slopes = [float(line(h) - line(-h)) / (2 * h) for h in steps]
        if slopes[0] == slopes[-1]:
            return slopes[0], 0.0
    value, error = ridders(line)
    scale = max(1.0, abs(float(value[0])))
    return float(value[0]), 10 * float(error[0]) + _SECOND_ORDER * scale


_SECOND_ENTRIES = 4             # entries of an input whose second slope is measured


# ---- kinks

def at_kinks(trial: Trial) -> None:
    """Where slopes differ to the two sides, the rule gives what the op declares in ``ties``.

    Inputs are drawn from −1, 0, 1 and the numbers among the settings, so that most of them tie.
    Without a declaration each entry lies between the slopes to the two sides.
    """
    if not trial.op.piecewise_linear and trial.op.ties is None:
        return
    pool = [-1.0, 0.0, 1.0]
    for v in trial.settings.values():
        if isinstance(v, float) and abs(v) < 8 and min(abs(v - p) for p in pool) >= 0.25:
            pool.append(v)                          # a bound; steps must not reach the next one
    few = sum(x.size for x in trial.arrays) <= 24       # entries: chance may leave out a tie
    for purpose in (30, 31) if few else (30,):
        rng, notes = trial.rng(purpose), list(trial.tally.notes)
        arrays = [rng.choice(pool, x.shape) for x in trial.arrays]
        if not trial.takes(arrays):
            continue
        if trial.op.piecewise_linear and is_dyadic(np.array(pool), 20):
            _exact_kinks(trial, arrays, purpose)
        else:
            _smooth_kinks(trial, arrays, purpose)
        trial.tally.notes[:] = notes                # kinks were looked for: they are no news


def _exact_kinks(trial: Trial, arrays: list[Array], purpose: int) -> None:
    point = trial.at(arrays)
    if trial.ties is not None and not all(point.measured(k).method == "exact"
                                          for k in point.wanted):
        _smooth_kinks(trial, arrays, purpose)       # its slopes are no binary fractions
        return
    out = trial.forward(arrays)
    ct = point.cotangent(trial.rng(purpose + 2), out.shape, np.float64)
    for kernels in trial.kernels:
        with forced(*kernels):
            found = trial.pull(arrays, ct)
        for k in point.wanted:
            bound = np.zeros(arrays[k].shape) if trial.ties not in (None, "even") else \
                point.rounding(k, ct, np.float64)               # a third is not a binary fraction
            point.compare("at kinks", k, found[k], ct, bound, trial.tally)


def _smooth_kinks(trial: Trial, arrays: list[Array], purpose: int) -> None:
    """As above for an op that is curved between its kinks: slopes are extrapolated."""
    sides: dict[int, Measured] = {}
    for k, x in enumerate(arrays):
        right, left = ([slopes_from_the_right(_line(trial, arrays, k, i, sign)) * sign
                        for i in range(x.size)] for sign in (1, -1))
        a, b = np.stack(right, axis=1), np.stack(left, axis=1)
        sides[k] = Measured("one-sided", a, left=np.where(np.abs(a - b) > 1e-5, b, a))
    assert trial.ties is not None
    matrices = tied(trial.forward, arrays, sides, trial.ties)
    ct = trial.rng(purpose + 2).normal(size=trial.forward(arrays).shape)
    point = trial.at(arrays)
    for k, part in enumerate(trial.pull(arrays, ct)):
        expected = (ct.reshape(-1) @ matrices[k]).reshape(arrays[k].shape)
        point.compare_arrays("at kinks", k, part, expected, 1e-6 * np.abs(ct).max(), None,
                             trial.tally)


def _line(trial: Trial, arrays: list[Array], k: int, i: int,
          sign: int) -> Callable[[float], Array]:
    def line(t: float) -> Array:
        given = list(arrays)
        given[k] = arrays[k].copy()
        given[k].flat[i] += sign * t
        return trial.forward(given)
    return line


PROPERTIES: dict[str, Callable[[Trial], None]] = {
    # What would spoil the other checks comes first.
    **{name: CONTRACT[name] for name in ("writes nothing", "re-entrant")},
    "gradient": gradient,
    "float32": single_precision,
    "at kinks": at_kinks,
    **CONTRACT,
    "second order": second_order,
}
"""Name of the property -> its check, in the order in which they are run."""


def run_property(name: str, trial: Trial) -> None:
    """Check one property; whatever a rule raises becomes a finding."""
    try:
        PROPERTIES[name](trial)
    except Wrong:
        raise
    except Exception as error:
        raise trial.wrong(name, f"{type(error).__name__}: {error}", error=error) from error
