"""Test the gradient of any function: of tensors, or of arrays with a pullback made by hand.

There are no tolerances to choose.  The Jacobian is measured from values alone, and the bound
follows from it (see ``point``).  Inputs of more than `_WHOLE` entries are not differenced entry by
entry: complex steps along directions over blocks of entries, and along single entries at both ends
of every axis, are compared with the inner products of the gradient.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from tinygrad_cnn.core import Tensor
from tinygrad_cnn.core.op import Array
from tinygrad_cnn.errors import GradientError, SettingError
from tinygrad_cnn.testing.derivatives import along, has_complex_form, slope_along
from tinygrad_cnn.testing.explain import mismatch
from tinygrad_cnn.testing.functions import Function, gradient_of, in_float64
from tinygrad_cnn.testing.point import Point, Subject
from tinygrad_cnn.testing.report import Report, Tally, Wrong

__all__ = ["check_gradients", "check_vjp_pair"]

_WHOLE = 2000               # entries up to which the whole Jacobian is measured
_SECONDS = 10.0             # and how long that may take
_BLOCKS = 16


def check_gradients(fn: Callable[..., Tensor], *inputs: Any, order: int = 1, seed: int = 0,
                    parameters: Sequence[Tensor] = ()) -> Report:
    """Test the gradient of a function of tensors, in every float input.

    What ``fn`` closes over is tested too: every tensor that requires a gradient and that the output
    depends on, such as the parameters of a model.  Random numbers from the default generator are
    replayed, so dropout needs no care.

    Parameters
    ----------
    fn : callable
        ``(*tensors)`` -> Tensor, the same for the same inputs.
    *inputs : Tensor, array_like or number
        Where to test.  What holds floats is tested, in float64 whatever its dtype; integers and
        booleans are passed on as tensors.
    order : int, default 1
        2 also tests the gradient of the gradient, and so on.
    seed : int, default 0
        Of the cotangents and directions.
    parameters : sequence of Tensor, optional
        More leaves to test, for instance such that the output does not depend on.

    Returns
    -------
    Report
        Comparisons, worst error in units of its bound, the method for each input, and notes on
        places that are not differentiable.

    Raises
    ------
    GradientMismatch
        If the gradient is wrong; the message names the likely mistake and the worst entry.
    GradientError
        If nothing can be tested: the function is random, writes to its inputs, does not return a
        float tensor with entries, gives NaN, or its output does not depend on any input.
    SettingError
        If ``order`` is below 1.

    Examples
    --------
    >>> from tinygrad_cnn.testing import check_gradients
    >>> x, w = np.array([0.5, -1.0, 2.0]), np.array([3.0, 1.0, -2.0])
    >>> check_gradients(lambda x, w: (x * w).tanh().sum(), x, w, order=2).verdict
    'right'
    >>> check_gradients(lambda x: (x * x.detach()).sum(), x)
    Traceback (most recent call last):
        ...
    tinygrad_cnn.GradientMismatch: <lambda> x0, gradient: constant ratio: every entry is 0.5 ...
    """
    if order < 1:
        raise SettingError(f"check_gradients: order must be at least 1, got {order}")
    began = time.perf_counter()
    tally = Tally()
    name = getattr(fn, "__name__", type(fn).__name__)
    with in_float64(fn, inputs, parameters) as function:
        _check_function(name, function, seed, tally, order)
    return tally.report(name, time.perf_counter() - began)


def check_vjp_pair(forward: Callable[..., Any], vjp: Callable[..., Any], *arrays: Any,
                   seed: int = 0) -> Report:
    """Test a backward function on plain NumPy arrays, with no tensor at all.

    Parameters
    ----------
    forward : callable
        ``(*arrays)`` -> array.
    vjp : callable
        ``(ct, *arrays)`` -> the cotangent of each array, as one array or a tuple; None for an array
        without a gradient.
    *arrays : array_like
        Where to test; those of floats are tested, in float64.
    seed : int, default 0
        Of the cotangents and directions.

    Returns
    -------
    Report

    Raises
    ------
    GradientMismatch
        If ``vjp`` is wrong.
    GradientError
        If nothing can be tested: a function is random, writes to its arguments, or gives no finite
        floats; or ``vjp`` gives the wrong number of arrays.

    Examples
    --------
    >>> from tinygrad_cnn.testing import check_vjp_pair
    >>> def dense(x, w): return x @ w
    >>> def dense_backward(ct, x, w): return ct @ w.T, x.T @ ct
    >>> x, w = np.arange(6.0).reshape(3, 2), np.arange(8.0).reshape(2, 4)
    >>> check_vjp_pair(dense, dense_backward, x, w).verdict
    'right'
    """
    began = time.perf_counter()
    tally = Tally()
    name = getattr(forward, "__name__", type(forward).__name__)
    given = [np.asarray(a) for a in arrays]
    given = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in given]

    def pull(values: Sequence[Array], ct: Array) -> list[Array | None]:
        with np.errstate(all="ignore"):
            found = vjp(ct, *values)
        several = tuple(found) if isinstance(found, (tuple, list)) else (found,)
        if len(several) != len(values):
            raise GradientError(f"check_vjp_pair: vjp returned {len(several)} cotangents for "
                                f"{len(values)} arrays; return one for each, None for an array "
                                "without a gradient")
        return [None if part is None else np.asarray(part) for part in several]

    subject = Subject(name, tuple(f"array {i}" for i in range(len(given))),
                      lambda values: _values(name, forward(*values)), pull)
    _check_subject(subject, given, seed, tally)
    return tally.report(name, time.perf_counter() - began)


# ---- testing a subject

def _check_function(name: str, function: Function, seed: int, tally: Tally, order: int) -> None:
    subject = Subject(name, function.names, function.forward, function.pull)
    _check_subject(subject, function.arrays, seed, tally)
    if order > 1:
        _check_function(f"the gradient of {name}", gradient_of(function, seed), seed, tally,
                        order - 1)


def _values(name: str, y: Any) -> Array:
    if isinstance(y, (tuple, list)) or y is None:
        raise GradientError(f"{name} returned {type(y).__name__}, expected one array")
    return np.asarray(y)


def _check_subject(subject: Subject, arrays: Sequence[Array], seed: int, tally: Tally) -> None:
    """The gradient of a subject at these arrays, and what a pullback promises besides."""
    wanted = tuple(k for k, a in enumerate(arrays) if a.dtype.kind == "f")
    out, seconds = _usable(subject, arrays, wanted)
    rng = np.random.default_rng(seed)
    point = Point(subject, arrays, wanted=wanted, capped=False)
    cotangents = [rng.normal(size=out.shape) for _ in range(2)]
    try:
        _promises(point, cotangents, tally, rng)
        entries = sum(arrays[k].size for k in wanted)
        whole = entries <= _WHOLE and 3 * entries * seconds <= _SECONDS \
            and entries * out.size <= 1 << 23
        before = tally.comparisons
        for k in wanted:
            if whole:
                _check_entries(point, k, cotangents, tally, rng)
            else:
                _check_directions(point, k, cotangents, tally, rng)
    except Wrong as wrong:
        raise mismatch(wrong.finding) from wrong.finding.error
    if tally.comparisons == before:
        why = "every input is empty" if not entries else \
            "its derivative could not be measured: it is too rough, or computed in float32"
        raise GradientError(f"{subject.name}: nothing was compared: {why}")


def _usable(subject: Subject, arrays: Sequence[Array],
            wanted: Sequence[int]) -> tuple[Array, float]:
    """The output and the seconds that it takes, after refusing what cannot be tested."""
    name = subject.name
    if not wanted:
        raise GradientError(f"{name}: no input holds floats, so there is no gradient to test")
    for k in wanted:
        if not np.isfinite(arrays[k]).all():
            raise GradientError(f"{name}: {subject.inputs[k]} holds NaN or infinity")
    given = [a.copy() for a in arrays]
    began = time.perf_counter()
    out = np.array(subject.forward(given))
    seconds = time.perf_counter() - began
    for k, (now, then) in enumerate(zip(given, arrays, strict=True)):
        if not np.array_equal(now, then):
            raise GradientError(f"{name} writes to its input {subject.inputs[k]}; copy it first")
    if out.dtype.kind != "f":
        raise GradientError(f"{name} gives {out.dtype}, which carries no gradient")
    if not out.size:
        raise GradientError(f"{name} gives a result without entries, of shape {out.shape}: there "
                            "is nothing to compare")
    if not np.isfinite(out).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(out))[0])
        raise GradientError(f"{name} gives {out[place]} at {place}: test it where it is finite")
    if not np.array_equal(np.array(subject.forward([a.copy() for a in arrays])), out):
        raise GradientError(f"{name} gives other values when called again: it is random or keeps "
                            "state; draw random numbers outside and pass them in")
    return out, seconds


def _promises(point: Point, cotangents: Sequence[Array], tally: Tally,
              rng: np.random.Generator) -> None:
    """A pullback writes nothing, repeats itself, and is linear in the cotangent."""
    subject, arrays = point.subject, point.arrays
    ct = cotangents[0]
    given, kept = [a.copy() for a in arrays], ct.copy()
    first = [None if p is None else p.copy() for p in subject.pull(given, kept)]
    for what, now, then in (*zip(subject.inputs, given, arrays, strict=True),
                            ("the cotangent", kept, ct)):
        tally.comparisons += now.size
        if not np.array_equal(now, then):
            raise point.wrong("writes nothing", -1, f"the backward pass writes into {what}")
    again = subject.pull(arrays, ct)
    none = subject.pull(arrays, np.zeros_like(ct))
    double = subject.pull(arrays, 2 * ct)
    both = subject.pull(arrays, ct + cotangents[1])
    other = subject.pull(arrays, cotangents[1])
    noise = point.noise(np.abs(ct) + np.abs(cotangents[1]), np.float64, rng)
    for k in point.wanted:
        part = first[k]
        if part is None:
            continue
        point.compare_arrays("re-entrant", k, again[k], part, 0.0, None, tally,
                             detail="the same backward pass gives another result")
        point.compare_arrays("zero gives zero", k, none[k], np.zeros(arrays[k].shape), 0.0, None,
                             tally, detail="a cotangent of zero does not give zero")
        point.compare_arrays("linear in the cotangent", k, double[k], 2 * part, 0.0, None, tally,
                             detail="twice the cotangent does not give twice the result")
        x, y = both[k], other[k]
        if x is not None and y is not None:
            scale = float((np.abs(part) + np.abs(y)).max(initial=0.0))
            point.compare_arrays("linear in the cotangent", k, x, part + y,
                                 1e-12 * scale + 32 * noise[k].max(initial=0.0), None, tally,
                                 detail="the result of a sum is not the sum of the results")


def _check_entries(point: Point, k: int, cotangents: Sequence[Array], tally: Tally,
                   rng: np.random.Generator) -> None:
    """Every entry of the gradient in input ``k``."""
    tally.methods[point.subject.inputs[k]] = point.measured(k).method
    for ct in cotangents:
        noise = point.noise(ct, np.float64, rng)
        bound = point.bound(k, ct, np.float64, noise)
        size = (np.abs(ct).reshape(-1) @ np.abs(point.matrix(k))).max(initial=0.0)
        known = bound[np.isfinite(bound)].max(initial=0.0)
        if known > 1e-6 * size > 0:
            tally.note(f"ill-conditioned: {point.subject.inputs[k]} could be tested to "
                       f"{known / size:.0e} of the largest entry only")
        point.compare("gradient", k, point.subject.pull(point.arrays, ct)[k], ct, bound, tally)


def _check_directions(point: Point, k: int, cotangents: Sequence[Array], tally: Tally,
                      rng: np.random.Generator) -> None:
    """Inner products of the gradient in input ``k`` with directions over many entries or one."""
    x = point.arrays[k]
    name = point.subject.inputs[k]
    tally.methods[name] = "adjoint"
    parts = [point.subject.pull(point.arrays, ct)[k] for ct in cotangents]
    noises = [point.noise(ct, np.float64, rng)[k] for ct in cotangents]
    noises = [np.maximum(noise, 0.25 * noise.max(initial=0.0)) for noise in noises]
    several = list(_directions(x, rng))
    complex_form = has_complex_form(point.subject.forward, point.arrays, k,
                                    [d for d, _ in several[:2]])
    for direction, place in several:
        precise = along(point.subject.forward, point.arrays, k, direction) if complex_form else None
        slope, error = slope_along(point.subject.forward, point.arrays, k, direction) \
            if precise is None else (precise, np.zeros(precise.shape))
        if not np.isfinite(error).all():
            tally.note(f"not differentiable here: {name} along a direction")
            continue
        for ct, part, noise in zip(cotangents, parts, noises, strict=True):
            flat = ct.reshape(-1)
            expected = float(slope @ flat)
            got = 0.0 if part is None else float((part * direction).sum())
            size = np.abs(slope) @ np.abs(flat) + np.sum(
                0.0 if part is None else np.abs(part * direction))
            bound = (64 * np.finfo(np.float64).eps * size + 10 * (error @ np.abs(flat))
                     + 8 * np.linalg.norm(noise * direction) + 1e-300)
            tally.comparisons += 1
            off = abs(got - expected)
            if not off <= bound:
                where = f"at {place}" if place is not None else "along a random direction"
                raise point.wrong("gradient", k, f"{where} the slope is {expected:.12g}, the "
                                  f"gradient says {got:.12g}",
                                  expected=np.array(expected), got=np.array(got))
            tally.worst = max(tally.worst, off / bound)


def _directions(x: Array, rng: np.random.Generator) -> Iterator[tuple[Array, Any]]:
    """Random directions over blocks of entries, then single entries: ends of axes, and more."""
    blocks = rng.integers(0, _BLOCKS, x.shape)
    for block in range(_BLOCKS):
        yield np.where(blocks == block, rng.choice([-1.0, 1.0], x.shape)
                       * rng.uniform(0.5, 1.5, x.shape), 0.0), None
    corners = set(product(*((0, n - 1) for n in x.shape))) if x.ndim <= 5 else set()
    some = {tuple(int(rng.integers(n)) for n in x.shape) for _ in range(16)}
    for place in sorted(corners | some):
        direction = np.zeros(x.shape)
        direction[place] = 1.0
        yield direction, place
