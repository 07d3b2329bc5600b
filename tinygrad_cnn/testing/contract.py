"""What is asked of a backward rule: the right numbers, and what it promises besides.

Each check takes a `Case`, counts what it compares, and raises `CheckFailed`; `PROPERTIES` holds
them under the names of the tests that pytest shows.  Those of `EVERYWHERE` need values and a
pullback alone; the others ask an op, or the engine.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tinygrad_cnn.core import Tensor, grad, gradients
from tinygrad_cnn.core.graph import changed, no_grad, placeholder
from tinygrad_cnn.core.op import FUNCTIONS, OPS, Op, Sample
from tinygrad_cnn.errors import GraphFreedError
from tinygrad_cnn.kernels.parallel import get_num_threads, set_num_threads
from tinygrad_cnn.testing.cases import Case, OpCase, forced, kind_of
from tinygrad_cnn.testing.linearization import CheckFailed, odd_integers, tied
from tinygrad_cnn.testing.numeric import along, differences, grain_of, is_dyadic, slopes_along
from tinygrad_cnn.types import Array, DType, Function, Settings

__all__ = ["EVERYWHERE", "PROPERTIES", "properties_of", "run_property"]

_INEXACT_KERNEL = 2.0 ** 9      # eps of float32 · largest entry: what Winograd's method may lose
_SECOND_ORDER = 1e-6            # relative to the largest entry, for slopes that are not exact
_SECOND_ENTRIES = 4             # entries of an input whose second slope is measured
_EXTREME = (0.0, -0.0, 1.0, -1.0, 1e-40, -1e-30, 800.0, -800.0, 1e30, -1e38, np.inf, -np.inf,
            np.nan)
_LARGE = 1024                   # entries of an array whose unread values the engine does not keep
_POWERS = (-2.0 ** 40, 2.0 ** -40)      # floats multiply by them without rounding


# ---- the gradient

def gradient(case: Case) -> None:
    """The cotangent of every input is ctᵀ J, on every kernel."""
    here, dtype = case.here, case.dtype
    if isinstance(case, OpCase):
        for k in case.affine:
            _is_affine(case, k)
    cotangents = [case.cotangent(1, dtype), case.cotangent(2, dtype)]
    if here.quick:
        if here.agrees_along(cotangents, case.noise(cotangents[0]) or {}):
            return
        case.measure_entries()
    if here.large:
        for kernels in case.kernels:
            with forced(*kernels):
                for k in here.wanted:
                    here.compare_directions(k, cotangents, case.rng(98))
        return
    for k in here.wanted:
        case.stats.methods[case.names[k]] = here.measured(k).method
    noise = case.noise(cotangents[0])           # the other cotangent is as dense and as large
    for kernels in case.kernels:
        with forced(*kernels):
            for ct in cotangents:
                found = case.pull(case.arrays, ct)
                for k in here.wanted:
                    here.compare(k, found[k], ct, here.bound(k, ct, noise, dtype))
                here.compare_together(found, ct)


def _is_affine(case: OpCase, k: int) -> None:
    """An op that declares an input in ``exact_in`` is affine in it."""
    x = case.arrays[k]
    step = np.resize([1.0, -2.0, 3.0, -1.0], x.size).reshape(x.shape)
    a, b, c = (case.forward([*case.arrays[:k], x + t * step, *case.arrays[k + 1:]])
               for t in (0.0, 1.0, 3.0))
    scale = max(float(np.abs(v).max(initial=0.0)) for v in (a, b, c))
    case.stats.comparisons += a.size
    if not (np.abs(c - a - 3 * (b - a)) <= 1e-12 * scale).all():
        raise case.failed(f"exact_in names {case.names[k]!r}, but the values do not change in "
                          "proportion to it", k)


def single_precision(case: Case) -> None:
    """In float32 the rule is exact where data is, and else as good as float32 can be."""
    here = case.here
    if not isinstance(case, OpCase) and not _computes_in_float32(case):
        return
    ct = case.cotangent(1, np.float32)
    given, noise = _cast(case.arrays, np.float32), case.noise(ct, np.float32)
    exact = here.pulled(ct.astype(np.float64)) if here.directed else []
    for kernels in {("reference",), *case.kernels}:
        with forced(*kernels):
            found = case.pull(given, ct.astype(np.float32))
        for k in here.wanted:
            part = found[k]
            if part is not None and part.dtype != np.float32:
                raise case.failed(f"the gradient of {case.names[k]} is {part.dtype}, the input "
                                  "float32", k, got=part)
            bound = here.bound(k, ct, noise, np.float32)
            if kernels not in (("reference",), ()):
                largest = here.size(k, ct).max(initial=0.0)
                bound = np.maximum(bound, _INEXACT_KERNEL * np.finfo(np.float32).eps * largest)
            if here.directed:
                here.compare_arrays(k, part, np.asarray(exact[k], np.float64), bound)
            elif isinstance(case, OpCase):
                here.compare(k, part, ct, bound)
            else:
                # The input moves when it is rounded; what that does is part of the noise.
                here.compare_arrays(k, part, here.expected(k, ct), np.where(
                    here.kinked(k), np.inf, 2 * bound))


def _computes_in_float32(case: Case) -> bool:
    """Whether a function gives finite float32 for float32, about what it gives for float64."""
    try:
        with np.errstate(all="ignore"):
            y = np.asarray(case.forward(_cast(case.arrays, np.float32)))
    except Exception:
        return False                               # it takes float64 alone, which it may
    return y.dtype == np.float32 and y.shape == case.out.shape and bool(
        np.isfinite(y).all()) and bool(np.isfinite(case.arrays[0]).all())


def _cast(arrays: Sequence[Array], dtype: DType | type) -> list[Array]:
    return [x.astype(dtype) if x.dtype.kind == "f" else x for x in arrays]


# ---- kinks

def at_kinks(case: OpCase) -> None:
    """Where slopes differ to the two sides, the rule gives what the op declares in ``ties``.

    Inputs are drawn from −1, 0, 1 and the numbers among the settings, so that most of them tie.
    Without a declaration each entry lies between the slopes to the two sides.
    """
    pool = [-1.0, 0.0, 1.0]
    for v in case.settings.values():
        if isinstance(v, float) and abs(v) < 8 and min(abs(v - p) for p in pool) >= 0.25:
            pool.append(v)                          # a bound; steps must not reach the next one
    few = sum(x.size for x in case.arrays) <= 24        # entries: chance may leave out a tie
    for purpose in (30, 31) if few else (30,):
        rng, notes = case.rng(purpose), dict(case.stats.unmeasured)
        arrays = [rng.choice(pool, x.shape) for x in case.arrays]
        if case.takes(arrays):
            exact = case.op.test.piecewise_linear and is_dyadic(np.array(pool), 20)
            if not exact or not _exact_kinks(case, arrays, purpose):
                _smooth_kinks(case, arrays, purpose)
        case.stats.unmeasured = notes               # kinks were looked for: they are no news


def _exact_kinks(case: OpCase, arrays: list[Array], purpose: int) -> bool:
    """Compare where slopes are binary fractions; False where they are not."""
    there = case.at(arrays)
    if case.ties is not None and any(there.measured(k).method != "exact" for k in there.wanted):
        return False
    ct = there.cotangent(case.rng(purpose + 2), case.forward(arrays).shape, np.float64)
    for kernels in case.kernels:
        with forced(*kernels):
            found = case.pull(arrays, ct)
        for k in there.wanted:
            # A third is not a binary fraction.
            rounded = case.ties in (None, "even")
            bound = there.rounding(k, ct)
            there.compare(k, found[k], ct, bound if rounded else
                          np.where(np.isfinite(bound), 0.0, np.inf))
        there.compare_together(found, ct)
    return True


def _smooth_kinks(case: OpCase, arrays: list[Array], purpose: int) -> None:
    """As above for an op that is curved between its kinks: slopes are extrapolated."""
    assert case.ties is not None
    sides = {k: differences(case.forward, arrays, k) for k in range(len(arrays))}
    matrices = tied(case.forward, arrays, sides, case.ties)
    ct = case.rng(purpose + 2).normal(size=case.forward(arrays).shape)
    there = case.at(arrays)
    for k, part in enumerate(case.pull(arrays, ct)):
        expected = (ct.reshape(-1) @ matrices[k]).reshape(arrays[k].shape)
        there.compare_arrays(k, part, expected, 1e-6 * np.abs(ct).max())


# ---- second order

def second_order(case: OpCase) -> None:
    """The rule itself, as a function of inputs and cotangent, has the right gradient.

    S = Σ u · r(x, ct) is differentiated through the recorded backward pass, and measured from the
    values of r: in ct it is J u, in x it comes from differences.
    """
    here = case.here
    # Small, so that sums over whole arrays of products with it are exact.
    ct = odd_integers(case.rng(5), case.out.shape, 8)
    weights = {k: 2.0 * case.rng(10 + k).integers(-8, 8, case.arrays[k].shape) + 1.0
               for k in here.wanted}
    of_ct, of_inputs = _recorded_second(case, ct, weights)

    expected, slack = np.zeros(case.out.size), np.zeros(case.out.size)
    for k in here.wanted:
        line = weights[k].reshape(-1)
        if here.large:
            part = along(case.forward, case.arrays, {k: weights[k]})
            if part is None:
                part = slopes_along(case.forward, case.arrays, {k: weights[k]}, here.grain).value
            expected += part
            slack += 1e-6 * np.abs(part).max(initial=0.0)
            continue
        expected += here.matrix(k) @ line
        if not here.exact(k):
            slack += 1e-9 * (np.abs(here.matrix(k)) @ np.abs(line)).max(initial=0.0)
            slack += (4 * here.measured(k).error * np.abs(line)).sum(axis=-1)
    case.stats.comparisons += expected.size
    if not (np.abs(of_ct.reshape(-1) - expected) <= slack).all():
        raise case.failed("the recorded rule has the wrong derivative in the cotangent", got=of_ct,
                          expected=expected.reshape(of_ct.shape))

    def total(arrays: Sequence[Array]) -> Array:
        value = 0.0
        for k, part in enumerate(case.pull(arrays, ct)):
            value += 0.0 if part is None else float((weights[k] * part).sum())
        return np.array(value)

    if not here.large and any(here.measured(k).left is not None for k in here.wanted):
        return                                  # at a kink the rule jumps: it has no slope there
    grain = np.zeros(1) if here.all_exact else grain_of(total, case.arrays)
    for k in here.wanted:
        for direction in _second_directions(case, k):
            slope, bound = _second_slope(case, total, k, direction, grain)
            found = float((of_inputs[k] * direction).sum())
            case.stats.comparisons += int(np.isfinite(bound))
            if not abs(found - slope) <= bound:
                raise case.failed(f"the derivative of the rule is wrong: in {case.names[k]} it is "
                                  f"{slope:.10g} along a direction, the recorded backward pass "
                                  f"gives {found:.10g}", k, got=np.array(found),
                                  expected=np.array(slope), ct=ct)


def _recorded_second(case: OpCase, ct: Array,
                     weights: dict[int, Array]) -> tuple[Array, dict[int, Array]]:
    """The gradient of Σ u · r(x, ct) in ct and in each input, through the engine."""
    tensors = case.tensors(case.arrays)
    asked = [tensors[k] for k in case.here.wanted]
    try:
        with np.errstate(all="ignore"):
            y = case.apply(tensors)
            seed = Tensor(ct.astype(y.dtype), requires_grad=True)
            first = grad(y, asked, seed, create_graph=True)
            total: Any = None
            for k, part in zip(case.here.wanted, first, strict=True):
                if part is not None and part.size:
                    term = (part * weights[k]).sum()
                    total = term if total is None else total + term
            second: tuple[Tensor | None, ...] = (None,) * (len(asked) + 1)
            if total is not None and total.requires_grad:
                second = grad(total, [seed, *asked])
    except Exception as error:
        raise case.failed(f"the rule cannot be differentiated: {error}", error=error) from error
    parts = [None if s is None else s._data for s in second]
    of_ct = np.zeros_like(ct) if parts[0] is None else parts[0]
    of_inputs = {k: np.zeros(case.arrays[k].shape) if p is None else p
                 for k, p in zip(case.here.wanted, parts[1:], strict=True)}
    return of_ct, of_inputs


def _second_directions(case: OpCase, k: int) -> list[Array]:
    """Directions in input ``k``: some single entries, and two through all of them."""
    rng = case.rng(20 + k)
    shape, size = case.arrays[k].shape, case.arrays[k].size
    through = [rng.choice([-1.0, 1.0, -0.5, 0.5], shape) for _ in range(2 if size > 1 else 0)]
    entries = _SECOND_ENTRIES // (1 if case.here.all_exact else 2)          # differences take long
    single = [np.zeros(shape) for _ in range(min(size, entries))]
    for direction, i in zip(single, rng.permutation(size), strict=False):
        direction.flat[i] = 1.0
    return [*through, *single]


def _second_slope(case: OpCase, total: Callable[[Sequence[Array]], Array], k: int,
                  direction: Array, grain: Array) -> tuple[float, float]:
    """The slope of ``total`` along a direction in input ``k``, and a bound on its error."""
    if case.here.all_exact:
        # Along one entry the rule is affine; along a line that is at most quadratic, central
        # quotients are equal for all steps.
        steps = (1 / 32,) if np.count_nonzero(direction) == 1 else (1 / 32, 1 / 64)
        slopes = [float(_moved(case, total, k, h * direction) - _moved(case, total, k, -h
                                                                       * direction)) / (2 * h)
                  for h in steps]
        if slopes[0] == slopes[-1]:
            return slopes[0], 0.0
    line = slopes_along(total, case.arrays, {k: direction}, grain)
    scale = max(1.0, abs(float(line.value[0])))
    return float(line.value[0]), 10 * float(line.error[0]) + _SECOND_ORDER * scale


def _moved(case: OpCase, total: Callable[[Sequence[Array]], Array], k: int, by: Array) -> Array:
    return total([*case.arrays[:k], case.arrays[k] + by, *case.arrays[k + 1:]])


# ---- nothing is written, nothing is shared

def writes_nothing(case: Case) -> None:
    """Inputs, settings and cotangents are the same after the call; all may be read-only."""
    given, ct = [x.copy() for x in case.arrays], case.cotangent()
    watched = [*zip(case.names, given, strict=True), ("the cotangent", ct)]
    if isinstance(case, OpCase):
        y = case.apply(case.tensors(given))
        watched += [(name, v) for name, v in case.settings.items() if isinstance(v, np.ndarray)]
        watched.append(("the output", y._data))
    before = [now.copy() for _, now in watched]
    with np.errstate(all="ignore"):
        if isinstance(case, OpCase):
            gradients(y, Tensor(ct))
        else:
            case.here.keep(before[-1], case.pull(given, ct))
    for (what, now), then in zip(watched, before, strict=True):
        case.stats.comparisons += now.size
        if not np.array_equal(now, then, equal_nan=now.dtype.kind == "f"):
            raise case.failed(f"the rule or the kernel writes into {what}", got=now, expected=then)
    if not isinstance(case, OpCase):
        return                                  # compiled functions may ask for writable arrays
    try:
        case.pull([_frozen(x) for x in case.arrays], _frozen(ct))
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        raise case.failed(f"read-only inputs are refused: {error}", error=error) from error


def _frozen(x: Array) -> Array:
    """A read-only copy whose base is read-only too."""
    base = x.copy()
    base.flags.writeable = False
    return base.view()


def shares_no_memory(case: OpCase) -> None:
    """A gradient is an array of its own: not an input, not the cotangent, not another gradient."""
    given = [x.copy() for x in case.arrays]
    tensors, seed = case.tensors(given), Tensor(case.cotangent())
    y = case.apply(tensors)
    with np.errstate(all="ignore"):
        found = gradients(y, seed, retain_graph=True)
    others = [*zip(case.names, given, strict=True), ("the cotangent", seed.data),
              ("the output", y.data)]
    for k, t in enumerate(tensors):
        if t in found:
            part = found[t].data                # what the user gets, and may write to
            for what, other in others:
                case.stats.comparisons += 1
                if part.size and np.shares_memory(part, other):
                    raise case.failed(f"the gradient of {case.names[k]} shares memory with {what}",
                                      k)
            others.append((f"the gradient of {case.names[k]}", part))


# ---- the same call gives the same result

def re_entrant(case: Case) -> None:
    """The same call gives the same gradients again, whatever is computed in between."""
    ct = case.cotangent()
    others = [x.reshape(-1)[::-1].reshape(x.shape).copy() for x in case.arrays]
    if not isinstance(case, OpCase):
        first = case.here.pulled(ct)
        with contextlib.suppress(Exception):    # not in its domain
            case.pull(others, ct)
        for k, part in enumerate(case.pull(case.arrays, ct)):
            case.same(k, part, first[k], "the same backward pass gives another result", ct)
        return
    tensors = case.tensors(case.arrays)
    y = case.apply(tensors)
    values = y._data.copy()
    with np.errstate(all="ignore"):
        found = gradients(y, Tensor(ct), retain_graph=True)
        # Another call in between, on other values: a rule may not use what the last forward left.
        z = case.apply(case.tensors(others if case.takes(others) else
                                    [x.copy() for x in case.arrays]))
        second = gradients(y, Tensor(ct), retain_graph=True)
        gradients(z, Tensor(ct))
        third = gradients(y, Tensor(ct))
    again = case.pull(case.arrays, ct)
    for k, t in enumerate(tensors):
        for other, what in ((_data(second, t), "backward pass gives another result after another "
                                               "forward pass"),
                            (_data(third, t), "backward pass gives another result the third time"),
                            (again[k], "call gives another result")):
            case.same(k, other, _data(found, t), f"the same {what}", ct)
    if not np.array_equal(case.apply(case.tensors(case.arrays))._data, values, equal_nan=True):
        raise case.failed("the op gives other values when called again: it is random or keeps "
                          "state; draw random numbers outside and pass them in as a setting")


def _data(found: dict[Tensor, Tensor], t: Tensor) -> Array | None:
    return found[t]._data if t in found else None


# ---- a pullback is linear in the cotangent

def zero_gives_zero(case: Case) -> None:
    """A cotangent of zero gives exactly zero, where inputs are 0 too; with ``couples`` anywhere."""
    if not isinstance(case, OpCase):
        full = case.here.pulled(case.cotangent())
        for k, part in enumerate(case.pull(case.arrays, np.zeros_like(case.out))):
            known = full[k]
            if part is not None and known is not None:      # 0 · inf is NaN, where a slope is inf
                case.here.compare_arrays(k, np.where(np.isfinite(known), part, 0.0),
                                         np.zeros(part.shape), 0.0,
                                         "a cotangent of zero does not give zero")
        return
    points = [(case.sample.id, case.arrays)]
    if case.op.couples is None:
        points += [("an input of 0", arrays) for arrays in _with_a_zero(case)]
    else:
        rng = case.rng(6)
        points += [("inputs that are 0, huge, infinite or NaN",
                    tuple(np.asarray(rng.choice(_EXTREME, x.shape)) if x.dtype.kind == "f" else x
                          for x in case.arrays)) for _ in range(3)]
    for where, arrays in points:
        for dtype in (np.float64, np.float32):
            with np.errstate(all="ignore"):
                given = _cast(arrays, dtype)
                out = case.apply(case.tensors(given))
                parts = case.pull(given, np.zeros(out.shape, out.dtype))
            for k, part in enumerate(parts):
                case.stats.comparisons += 1
                if part is not None and (part != 0).any():
                    raise case.failed(f"a zero cotangent gives {part[part != 0].flat[0]} at "
                                      f"{where!r}", k, got=part, expected=np.zeros(part.shape))


def _with_a_zero(case: OpCase, most: int = 16) -> Iterator[tuple[Array, ...]]:
    """The sample with one entry of an input set to 0, where the op gives finite values."""
    for k in case.here.wanted:
        for i in range(min(case.arrays[k].size, most)):
            planted = case.arrays[k].copy()
            planted.flat[i] = 0.0
            arrays = (*case.arrays[:k], planted, *case.arrays[k + 1:])
            if case.takes(arrays):
                yield arrays
                break


def linear_in_the_cotangent(case: Case) -> None:
    """Multiples of the cotangent give multiples, huge and tiny ones too; sums give sums."""
    here, first = case.here, case.cotangent(1)
    # A result from zeros and from single entries: a rule may look at signs or at sizes of entries.
    sparse = np.where(case.rng(3).random(first.shape) < 0.5, 0.0, case.cotangent(2)).astype(
        first.dtype)
    a = here.pulled(first)
    for power in _POWERS:
        for k, part in enumerate(case.pull(case.arrays, _times(first, power))):
            whole = a[k]
            if whole is not None and part is not None and part.shape == whole.shape:
                with np.errstate(all="ignore"):
                    times = _times(whole, power)
                # Below that, floats lose digits of their own.
                exact = np.isfinite(times) & ((np.abs(times) > 1e-280) | (whole == 0))
                case.same(k, np.where(exact, part, 0.0), np.where(exact, times, 0.0),
                          f"{power:.4g} times the cotangent does not give {power:.4g} times the "
                          "result", first)
    if first.size == 1:
        return                                  # `gradient` has compared two numbers
    size = np.abs(first) + np.abs(sparse)
    b, both, noise = here.pulled(sparse), here.pulled(np.asarray(first + sparse)), case.noise(size)
    for k in here.wanted:
        part, other, total = a[k], b[k], both[k]
        if part is not None and other is not None and total is not None:
            with np.errstate(all="ignore"):
                sums = part + other
            finite = np.isfinite(sums)
            here.compare_arrays(k, np.where(finite, total, 0.0), np.where(finite, sums, 0.0),
                                3 * here.bound(k, size, noise, case.dtype),
                                "the result of a sum is not the sum of results")


def _times(x: Array, power: float) -> Array:
    return np.asarray(x * x.dtype.type(power))


# ---- how arrays lie in memory

_LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "as usual": lambda x: x,
    "in column order": lambda x: x.copy(order="F"),
    "backwards with gaps": lambda x: np.flip(np.repeat(np.flip(x), 2, axis=-1)[..., ::2]
                                             if x.ndim else x),
}


def threads_agree(case: Case) -> None:
    """With one thread, with two, and three where there are so many, the result is the same."""
    ct = case.cotangent()
    plain, noise, now = case.here.pulled(ct), case.noise(ct), get_num_threads()
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for n in {1, *range(2, min(cpus, 3) + 1)} - {now}:
        with set_num_threads(n):
            _alike(case, case.pull(case.arrays, ct), plain, ct, noise,
                   f"with {n} threads the result is another one than with {now}")


def memory_layout(case: Case) -> None:
    """Strided, reversed and column-ordered cotangents and inputs give the same result."""
    ct = case.cotangent()
    plain, noise = case.here.pulled(ct), case.noise(ct)
    usual, column, scattered = _LAYOUTS
    _laid(case, usual, column, plain, ct, noise)
    if ct.ndim:
        _laid(case, column, usual, plain, ct, noise)
    try:
        _laid(case, scattered, scattered, plain, ct, noise)
    except CheckFailed:
        _laid(case, scattered, usual, plain, ct, noise)     # which of them it is
        _laid(case, usual, scattered, plain, ct, noise)
        raise
    if ct.size > 1:
        even = np.full(ct.shape, ct.flat[0])
        stretched = np.broadcast_to(ct.reshape(-1)[0], ct.shape)         # strides of 0
        _alike(case, case.pull(case.arrays, stretched), case.pull(case.arrays, even), even, noise,
               "a cotangent with strides of 0 gives another result")


def _laid(case: Case, of_ct: str, of_inputs: str, plain: Sequence[Array | None], ct: Array,
          noise: dict[int, Array] | None) -> None:
    """The result for a cotangent and inputs that lie so in memory is the usual one."""
    arrays = [_LAYOUTS[of_inputs](x) for x in case.arrays]
    found = case.pull(arrays, _LAYOUTS[of_ct](ct))
    who = " and ".join(f"{a} that {b} {how} in memory" for a, b, how in (
        ("a cotangent", "lies", of_ct), ("inputs", "lie", of_inputs)) if how != "as usual")
    try:
        _alike(case, found, plain, ct, noise, f"another result for {who}")
    except CheckFailed:
        if isinstance(case, OpCase) or np.allclose(case.forward(arrays), case.out, 1e-6, 1e-6 * (
                np.abs(case.out).max(initial=0.0))):
            raise
        # Random numbers, say, that are drawn in the order of memory: that is not the rule's fault.
        case.stats.note(case.names[0], f"{case.subject.name} gives other values for {who}")


def _alike(case: Case, got: Sequence[Array | None], expected: Sequence[Array | None], ct: Array,
           noise: dict[int, Array] | None, detail: str, times: int = 1) -> None:
    """Equal where data is exact, else within the bound of so many cotangents."""
    for k in case.here.wanted:
        part = expected[k]
        if part is not None:
            finite, other = np.isfinite(part), got[k]
            bound = times * case.here.bound(k, ct, noise, case.dtype)
            with np.errstate(all="ignore"):
                case.here.compare_arrays(
                    k, other if other is None or other.shape != part.shape else
                    np.where(finite, other, 0.0), np.where(finite, times * part, 0.0),
                    bound, detail)


# ---- kernels and dtypes

def kernels_agree(case: OpCase) -> None:
    """Every kernel gives the same values, by-products and dtype as the last one."""
    op, arrays, last = case.op, case.full(case.arrays), list(case.op.kernels)[-1]
    with forced(*reversed(tuple(op.kernels))), np.errstate(all="ignore"):
        expected, residuals = op.run(*arrays, **case.settings)
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    for kernel, function in op.kernels.items():
        with np.errstate(all="ignore"):
            result = function(*arrays, **case.settings)
        if result is NotImplemented:
            continue
        y, parts = result if op.residuals else (result, {})
        case.stats.comparisons += np.size(y)
        if np.shape(y) != expected.shape or set(parts) != set(residuals):
            raise case.failed(f"kernel {kernel!r} gives shape {np.shape(y)} and residuals "
                              f"{sorted(parts)}, expected {expected.shape} and {sorted(residuals)}")
        for what, got, want in (("values", y, expected),
                                *((r, parts[r], residuals[r]) for r in parts)):
            off = np.abs(np.asarray(got, np.float64) - want)
            if not (off <= 1e-12 * scale).all() and not np.array_equal(got, want, equal_nan=True):
                raise case.failed(f"kernel {kernel!r} gives other {what} than {last!r}",
                                  got=np.asarray(y), expected=expected)


def keeps_dtype(case: OpCase) -> None:
    """float32 in, float32 out; float64 in, float64 out; the result has the input's shape."""
    for dtype in (np.float32, np.float64):
        given = _cast(case.arrays, dtype)
        y = case.apply(case.tensors(given))
        for k, part in enumerate(case.pull(given, case.cotangent().astype(y.dtype))):
            case.stats.comparisons += 1
            if part is not None and (part.dtype != given[k].dtype or part.shape != given[k].shape):
                raise case.failed(f"the gradient of {case.names[k]} is {part.dtype} {part.shape}, "
                                  f"the input {given[k].dtype} {given[k].shape}", k)


# ---- what a rule is given

def reads_what_is_declared(case: OpCase) -> None:
    """Values that the op does not declare in ``reads`` may be anything: here they are NaN."""
    op, ct = case.op, case.cotangent()
    tensors = case.tensors(case.arrays)
    y = case.apply(tensors)
    if y.node is None or y.node.inputs is None:
        return
    whole = case.full(tensors)
    unread = [placeholder(t.shape, t.dtype) if t is not None and i in op.unsaved else t
              for i, t in enumerate(whole)]
    plain = case.pull(case.arrays, ct)
    for k in case.here.wanted:
        i, residuals = case.present[k], y.node.residuals
        with np.errstate(all="ignore"):
            over_arrays = _rule(case, i, ct, y if op.saves_out else None, unread, residuals)
            over_tensors = _rule(case, i, ct, y, whole, residuals, recorded=True)
        case.same(k, over_arrays, plain[k], f"the rule for {case.names[k]} reads values that saved="
                  f"{op.saved} does not name", ct)
        # The rules of batch_norm, say, share sums over arrays, and round in another way.
        expected = np.asarray(plain[k])
        slack = 1e-9 * np.abs(expected).max(initial=0.0)
        if over_tensors.shape != expected.shape or not np.allclose(over_tensors, expected, 1e-9,
                                                                   slack, equal_nan=True):
            case.same(k, over_tensors, expected, f"the rule for {case.names[k]} gives another "
                      "result on tensors than on arrays", ct)


def _rule(case: OpCase, i: int, ct: Array, out: Any, inputs: list[Any], residuals: Settings,
          *, recorded: bool = False) -> Array:
    """One rule called by hand, and its result summed over what broadcasting stretched."""
    def given(t: Any) -> object:
        values = t._data if isinstance(t, Tensor) else t
        return Tensor(values) if recorded and values is not None else values

    with changed(recording=False, plain=not recorded):
        part = case.op.rule(i)(given(ct), given(out), *map(given, inputs), **case.settings,
                               **residuals)
    array = np.asarray(part._data if isinstance(part, Tensor) else part)
    given_to = case.full(case.arrays)[i]
    assert given_to is not None
    shape = given_to.shape
    if array.shape != shape and case.op.broadcasts:
        array = OPS["sum_to"].run(array, shape=shape)[0]
    return np.asarray(array)


def only_what_is_asked(case: OpCase) -> None:
    """The gradient of one input does not depend on whether others are wanted, or recorded."""
    ct = case.cotangent()
    everything = case.pull(case.arrays, ct)
    for k in case.here.wanted:
        alone = case.pull(case.arrays, ct, wanted=(k,))
        case.same(k, alone[k], everything[k],
                  f"the gradient of {case.names[k]} changes when it alone is wanted", ct)
    tensors = case.tensors(case.arrays)
    with np.errstate(all="ignore"):
        recorded = gradients(case.apply(tensors), Tensor(ct), create_graph=True)
    _alike(case, [_data(recorded, t) for t in tensors], everything, ct, case.noise(ct),
           "a recorded backward pass gives another result")


# ---- one tensor in several places

def shared_tensor(case: OpCase) -> None:
    """A tensor that is used twice, or three times, collects the sum of its gradients."""
    ct = case.cotangent()
    single = case.pull(case.arrays, ct)
    tensors = case.tensors(case.arrays)
    with np.errstate(all="ignore"):
        y = case.apply(tensors)
        seed = Tensor(ct.astype(y.dtype))
        twice = gradients(y + y, seed)
        three = case.apply(tensors) + case.apply(tensors) + case.apply(tensors)
        thrice = gradients(three, seed, retain_graph=True)
        recorded = gradients(three, seed, create_graph=True)
    _alike(case, [_data(recorded, t) for t in tensors], single, ct, case.noise(ct),
           "recorded, three uses of a tensor do not give the sum of three gradients", 3)
    for k, t in enumerate(tensors):
        part = single[k]
        if part is not None:
            case.same(k, _data(twice, t), part + part,
                      "a result that is used twice does not give twice the gradient", ct)
            case.same(k, _data(thrice, t), part + part + part,
                      "three uses of a tensor do not give the sum of three gradients", ct)
    wanted = case.here.wanted
    for k, j in ((k, j) for k in wanted for j in wanted if k < j):
        if case.arrays[k].shape == case.arrays[j].shape:
            _one_tensor_for_two_inputs(case, k, j, ct)


def _one_tensor_for_two_inputs(case: OpCase, k: int, j: int, ct: Array) -> None:
    given = list(case.arrays)
    given[j] = given[k]
    if case.takes(given):
        apart = case.pull(given, ct)
        one = case.tensors(given)
        one[j] = one[k]
        with np.errstate(all="ignore"):
            found = gradients(case.apply(one), Tensor(ct))
        a, b = apart[k], apart[j]
        if a is not None and b is not None:
            case.same(k, _data(found, one[k]), a + b, f"one tensor for {case.names[k]} and "
                      f"{case.names[j]} does not collect both gradients", ct)


# ---- through the engine

def records_and_frees(case: OpCase) -> None:
    """backward() adds to .grad and frees the graph; no_grad and detach leave nothing to record."""
    ct = case.cotangent()
    single = case.pull(case.arrays, ct)
    tensors = case.tensors(case.arrays)
    y = case.apply(tensors)
    if not y.requires_grad:
        raise case.failed("the result does not require a gradient")
    with np.errstate(all="ignore"):
        y.backward(Tensor(ct), retain_graph=True)
        y.backward(Tensor(ct))
    for k in case.here.wanted:
        part, found = single[k], tensors[k].grad
        if part is not None:
            case.same(k, None if found is None else found._data, part + part,
                      "two backward passes do not add up in .grad", ct)
    try:
        y.backward(Tensor(ct))
    except GraphFreedError:
        case.stats.comparisons += 1
    else:
        raise case.failed("a third backward pass through a freed graph does not raise")
    with no_grad():
        silent = case.apply(tensors)
    cut = case.apply([t.detach() for t in tensors])
    case.stats.comparisons += 2
    if silent.requires_grad or silent.node is not None or cut.requires_grad:
        raise case.failed("an op under no_grad(), or of detached tensors, is recorded")


def called_by_name(case: OpCase) -> None:
    """The public function of an op without settings gives what the op gives, however large."""
    op = case.op
    function = FUNCTIONS.get(op.name)
    if function is None or OPS.get(op.name) is not op or op.settings or op.variadic \
            or len(case.present) != len(op.inputs) or not _takes(function, len(op.inputs)):
        return
    ct = case.cotangent()
    _compare_function(case, function, case.arrays, ct)
    large = [np.resize(a, (_LARGE, *a.shape[1:])) for a in case.arrays]
    if {a.shape for a in case.arrays} == {case.out.shape} and case.out.size and case.out.ndim \
            and case.takes(large):
        _compare_function(case, function, large, np.resize(ct, (_LARGE, *ct.shape[1:])))


def _takes(function: Function, inputs: int) -> bool:
    """Whether a function can be called with that many tensors and nothing else."""
    try:
        inspect.signature(function).bind(*range(inputs))
    except TypeError:
        return False
    return True


def _compare_function(case: OpCase, function: Function, arrays: Sequence[Array], ct: Array) -> None:
    out, expected = case.forward(arrays), case.pull(arrays, ct)
    tensors = case.tensors(arrays)
    with np.errstate(all="ignore"):
        y = function(*tensors)
        found = gradients(y, Tensor(ct))
    case.stats.comparisons += y.size
    if y.shape != out.shape or not np.allclose(y._data, out, rtol=1e-12, atol=0.0):
        raise case.failed(f"the public function {case.op.name} gives other values than its op",
                          got=y._data, expected=out)
    for k, part in enumerate(expected):
        got = _data(found, tensors[k])
        if part is None or got is None:
            case.same(k, got, part, "the public function has another gradient than its op")
            continue
        if k in case.here.wanted and not np.isfinite(part).all():
            raise case.failed("the rule reads values that are not kept for large arrays, see "
                              "reads", k)
        case.stats.comparisons += part.size
        scale = float(np.abs(part).max(initial=0.0))
        if got.shape != part.shape or not np.allclose(got, part, rtol=1e-12, atol=1e-14 * scale):
            raise case.failed("the public function has another gradient than its op, or reads "
                              "values that are not kept for large arrays", k, got=got,
                              expected=part)


# ---- all of them

PROPERTIES: dict[str, Callable[[Any], None]] = {
    # What would spoil the other checks comes first.
    "writes nothing": writes_nothing,
    "re-entrant": re_entrant,
    "gradient": gradient,
    "float32": single_precision,
    "at kinks": at_kinks,
    "keeps dtype": keeps_dtype,
    "zero gives zero": zero_gives_zero,
    "linear in the cotangent": linear_in_the_cotangent,
    "shares no memory": shares_no_memory,
    "memory layout": memory_layout,
    "threads agree": threads_agree,
    "kernels agree": kernels_agree,
    "reads what is declared": reads_what_is_declared,
    "only what is asked": only_what_is_asked,
    "shared tensor": shared_tensor,
    "records and frees": records_and_frees,
    "called by name": called_by_name,
    "second order": second_order,
}
"""Name of the property -> its check, in the order in which they are run."""

EVERYWHERE = ("writes nothing", "re-entrant", "gradient", "float32", "zero gives zero",
              "linear in the cotangent", "memory layout", "threads agree")
"""What any function and its pullback are asked for."""

_NUMBERS = ("gradient", "float32", "at kinks", "linear in the cotangent", "memory layout",
            "kernels agree", "second order")


def properties_of(op: Op, sample: Sample, order: int = 2) -> tuple[str, ...]:
    """Names of the properties that are checked on a sample of the op.

    Derived calls are asked for right numbers, the op's own samples for the whole contract.
    """
    kinds: dict[str, Sequence[str]] = {"own": tuple(PROPERTIES), "call": _NUMBERS,
                                       "values": ("gradient",), "empty": ("keeps dtype",)}
    return tuple(name for name in kinds[kind_of(sample)]
                 if (name != "second order" or order > 1)
                 and (name != "at kinks" or op.test.piecewise_linear
                      or op.test.subgradient is not None)
                 and (name != "kernels agree" or len(op.kernels) > 1))


def run_property(name: str, case: Case) -> None:
    """Check one property; whatever a rule raises becomes a finding."""
    case.stats.prop = name
    try:
        PROPERTIES[name](case)
    except CheckFailed:
        if not case.here.quick:
            raise
        case.measure_entries()                  # the bounds of directions may be too narrow
        run_property(name, case)
    except Exception as error:
        raise case.failed(f"{type(error).__name__}: {error}", error=error) from error
