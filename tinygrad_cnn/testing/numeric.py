"""Derivatives measured from values alone, without any backward rule.

Three methods, the best one that a function admits:

- *exact differences*: a function that is linear along a coordinate, on data in small binary
  fractions, has differences that floats compute without any rounding; a rule can be held to ``==``;
- *complex step*: Im f(x + i h) / h with h = 1e-20 has no cancellation, for functions whose code
  also runs on complex arrays; one direction is compared with Ridders, since abs, sign or a real
  buffer would drop the imaginary part without a word;
- *Ridders*: central differences with halved steps, extrapolated to step 0; the disagreement within
  the table estimates its own error.

References
----------
Ridders, *Accurate computation of F'(x) and F'(x)F''(x)*, Adv. Eng. Software 4 (1982); Squire &
Trapp, *Using complex variables to estimate derivatives of real functions*, SIAM Review 40 (1998).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tinygrad_cnn.core.op import Array

__all__ = ["Forward", "Measured", "along", "complex_step", "exact_differences", "has_complex_form",
           "is_dyadic", "measure", "ridders", "ridders_matrix", "slope_along",
           "slopes_from_the_right"]

Forward = Callable[[Sequence[Array]], Array]

_COMPLEX_STEP = 1e-20
_ROWS = 6
_SETTLED = 1e-6             # of the largest slope: an estimate that is worse says nothing
_AGREEMENT = 1e-8           # of complex step and Ridders, relative to the largest entry


@dataclass(frozen=True)
class Measured:
    """The Jacobian of a function in one input, of shape (outputs, entries), as measured.

    ``error`` estimates that of each entry; 0.0 where only rounding counts.  Exact differences at a
    kink give the slopes to the right, and in ``left`` those to the left.
    """

    method: str
    matrix: Array
    error: Array | float = 0.0
    left: Array | None = None


def _flat(y: Array) -> Array:
    """A copy in one row: a function may return a view of its input, which moves with it."""
    return np.array(y, copy=True).reshape(-1)


def is_dyadic(x: Array, bits: int = 24) -> bool:
    """Whether every entry is a multiple of 2 ** -bits, and small enough for exact sums."""
    scaled = np.ldexp(np.asarray(x, np.float64), bits)
    return bool((np.abs(scaled) < 2.0 ** 50).all() and (scaled == np.rint(scaled)).all())


def exact_differences(forward: Forward, arrays: Sequence[Array], k: int, *, step: float,
                      both_sides: bool) -> Measured | None:
    """The Jacobian in input ``k`` from differences that are exact, or None if they are not.

    ``both_sides`` asks for the slopes to the left too.  Otherwise the function is taken to be
    affine in each coordinate, which one direction through all of them confirms.
    """
    if not is_dyadic(arrays[k]):
        return None
    given = list(arrays)
    x = given[k] = arrays[k].copy()
    line = x.reshape(-1)
    base = _flat(forward(given))
    if not is_dyadic(base):
        return None
    right = np.zeros((base.size, line.size))
    left = np.zeros_like(right) if both_sides else right
    for i, old in enumerate(line.tolist()):
        line[i] = old + step
        right[:, i] = (_flat(forward(given)) - base) / step
        if both_sides:
            line[i] = old - step
            left[:, i] = (base - _flat(forward(given))) / step
        line[i] = old
    if not (is_dyadic(right) and is_dyadic(left)):
        return None
    if not both_sides:
        direction = np.resize([1.0, -3.0, 2.0, 5.0, -2.0], line.size)
        line += direction
        if not np.array_equal(_flat(forward(given)) - base, right @ direction):
            return None
    return Measured("exact", right, left=None if np.array_equal(left, right) else left)


def along(forward: Forward, arrays: Sequence[Array], k: int, direction: Array) -> Array | None:
    """The derivative of all outputs along a direction by a complex step; None if it is refused."""
    given = [x.astype(np.complex128) if x.dtype.kind == "f" else x for x in arrays]
    given[k] = given[k] + 1j * _COMPLEX_STEP * direction
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            y = _flat(forward(given))
    except Exception:
        return None                                # the function has no complex form
    if y.dtype.kind != "c" or not np.isfinite(y).all():
        return None
    return y.imag / _COMPLEX_STEP


def has_complex_form(forward: Forward, arrays: Sequence[Array], k: int,
                     directions: Sequence[Array]) -> bool:
    """Whether complex steps agree with Ridders along these directions in input ``k``."""
    for direction in directions:
        precise = along(forward, arrays, k, direction)
        if precise is None:
            return False
        slope, error = slope_along(forward, arrays, k, direction)
        usable = np.isfinite(error)
        off = np.abs(precise - slope)[usable]
        allowed = 10 * error[usable] + _AGREEMENT * np.abs(precise).max(initial=0.0)
        if not usable.any() or not (off <= allowed).all():
            return False
    return True


def _units(x: Array) -> Iterator[Array]:
    """Directions along single entries."""
    for i in range(x.size):
        unit = np.zeros(x.shape)
        unit.flat[i] = 1.0
        yield unit


def complex_step(forward: Forward, arrays: Sequence[Array], k: int) -> Measured | None:
    """The Jacobian in input ``k`` by complex steps; None if complex arrays are refused."""
    x = arrays[k]
    columns = []
    for unit in _units(x):
        slopes = along(forward, arrays, k, unit)
        if slopes is None:
            return None
        columns.append(slopes)
    direction = np.resize([0.5, -0.75, 1.0, -0.375, 0.875], x.size).reshape(x.shape)
    if not columns or not has_complex_form(forward, arrays, k, [direction]):
        return None
    return Measured("complex step", np.stack(columns, axis=1))


def ridders(line: Callable[[float], Array], step: float = 0.25) -> tuple[Array, Array]:
    """The derivative at 0 of ``line``, entry by entry, and an estimate of its error.

    Where a step leaves the domain or crosses a kink, a table may settle on a wrong number and think
    well of it.  So each entry is taken from the first two tables in a row, of ever smaller steps,
    that agree within their estimates; their difference counts as error.
    """
    before, doubt = _table(line, step)
    result = np.where(np.isfinite(before), before, 0.0)
    error = np.full(before.shape, np.inf)
    for _ in range(6):
        step /= 6
        after, own = _table(line, step)
        apart = np.abs(after - before)
        size = max(float(np.abs(after[np.isfinite(after)]).max(initial=0.0)), 1e-3)
        settled = (own <= _SETTLED * size) | (doubt <= _SETTLED * size)
        fits = np.isinf(error) & settled & (apart <= 10 * (own + doubt) + 1e-12 * np.abs(after))
        first = doubt <= own
        result = np.where(fits, np.where(first, before, after), result)
        error = np.where(fits, np.maximum(np.where(first, doubt, own), 0.1 * apart), error)
        if np.isfinite(error).all():
            break
        before, doubt = after, own
    return result, error


def _table(line: Callable[[float], Array], step: float) -> tuple[Array, Array]:
    """One table of Neville's extrapolation in h²: value and estimated error."""
    with np.errstate(all="ignore"):
        rows: list[list[Array]] = []
        value = error = np.empty(0)
        for r in range(_ROWS):
            h = step / 2.0 ** r
            row = [(_flat(line(h)) - _flat(line(-h))) / (2 * h)]
            if not r:
                value, error = row[0], np.full(row[0].shape, np.inf)
            for c in range(1, r + 1):
                factor = 4.0 ** c
                row.append((factor * row[c - 1] - rows[-1][c - 1]) / (factor - 1))
                doubt = np.maximum(np.abs(row[c] - row[c - 1]), np.abs(row[c] - rows[-1][c - 1]))
                better = doubt < error                                   # false for NaN
                value, error = np.where(better, row[c], value), np.where(better, doubt, error)
            rows.append(row)
    return value, error


def slope_along(forward: Forward, arrays: Sequence[Array], k: int,
                direction: Array) -> tuple[Array, Array]:
    """The derivative of all outputs along a direction in input ``k``, by Ridders, and its error."""
    given = list(arrays)

    def line(t: float) -> Array:
        given[k] = arrays[k] + t * direction
        try:
            return forward(given)
        except Exception:                          # a step that leaves the domain
            return np.full(np.shape(forward(arrays)), np.nan)
    return ridders(line)


def ridders_matrix(forward: Forward, arrays: Sequence[Array], k: int) -> Measured:
    """The Jacobian in input ``k`` by Ridders, entry by entry of the input."""
    columns = [slope_along(forward, arrays, k, unit) for unit in _units(arrays[k])]
    if not columns:
        return Measured("Ridders", np.zeros((_flat(forward(arrays)).size, 0)))
    slopes, errors = (np.stack(part, axis=1) for part in zip(*columns, strict=True))
    return Measured("Ridders", slopes, error=errors)


def slopes_from_the_right(line: Callable[[float], Array], step: float = 0.125) -> Array:
    """The derivative at +0 of ``line``: Neville's extrapolation of one-sided differences."""
    base = _flat(line(0.0))
    rows: list[list[Array]] = []
    for r in range(8):
        h = step / 2.0 ** r
        row = [(_flat(line(h)) - base) / h]
        for c in range(1, r + 1):
            factor = 2.0 ** c
            row.append((factor * row[c - 1] - rows[-1][c - 1]) / (factor - 1))
        rows.append(row)
    return rows[-1][-1]


def measure(forward: Forward, arrays: Sequence[Array], k: int, *, affine: bool = False,
            piecewise_linear: bool = False, step: float = 1 / 32) -> Measured:
    """The Jacobian in input ``k`` by the best method that the function admits there."""
    if affine or piecewise_linear:
        found = exact_differences(forward, arrays, k, step=1.0 if affine else step,
                                  both_sides=not affine)
        if found is not None:
            return found
    return complex_step(forward, arrays, k) or ridders_matrix(forward, arrays, k)
