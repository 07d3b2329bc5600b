"""Derivatives measured from values alone, without any backward rule.

Three methods, the best one that a function admits:

- *exact differences*: a function that is linear along a coordinate, on data in small binary
  fractions, has differences that floats compute without any rounding; a rule can be held to ``==``;
- *complex step*: Im f(x + i h) / h with a tiny h has no cancellation, for functions whose code also
  runs on complex arrays; two directions are compared with differences, since ``sign`` or a real
  buffer would drop the imaginary part without a word;
- *differences*: central differences of three steps, extrapolated to step 0, on shrinking scales
  until they settle.  Their error is what the extrapolation disagrees by, plus the rounding
  of f itself divided by h; the slopes to the two sides, extrapolated alike, must agree, or there is
  a kink within the step.

Steps are in proportion to the input; so a function of 1e8, or of 1e-8, is measured as well.

References
----------
Ridders, *Accurate computation of F'(x) and F'(x)F''(x)*, Adv. Eng. Software 4 (1982); Squire &
Trapp, *Using complex variables to estimate derivatives of real functions*, SIAM Review 40 (1998).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tinygrad_cnn.types import Array

__all__ = ["LINE", "Forward", "Line", "Measured", "along", "complex_step", "differences",
           "exact_differences", "grain_of", "is_dyadic", "line_of", "measure", "moved", "scale_of",
           "slopes", "slopes_along"]

Forward = Callable[[Sequence[Array]], Array]
Directions = Mapping[int, Array]        # by position of the input

_COMPLEX_STEP = 1e-20
_LEVELS = (6, 13, 20, 27)   # steps of 2 ** -n of the scale of the input
LINE = tuple(2.0 ** -n for n in (6, 13, 17, 20, 27, 2))     # along a direction through all entries
_RATIOS = (1.0, 0.61, 0.37)         # of steps within a level: no wave has a period of all of them
_KINK = 1e-6                # of the slope: sides that are further apart have a kink between them
_SETTLED = 1e-9             # of the largest slope: no smaller steps are needed then
_TOGETHER = 16              # entries whose lines run side by side
_SAMPLES = 4                # calls that the rounding of f is judged by


@dataclass(frozen=True)
class Measured:
    """The Jacobian of a function in one input, of shape (outputs, entries), as measured.

    ``error`` estimates that of each entry; 0.0 where only rounding counts.  At a kink ``matrix``
    holds the slopes to the right, and ``left`` those to the left; they are equal elsewhere.
    ``reach`` is the size of the slopes, output by output, a step away: near a minimum those at the
    place itself are 0 but for rounding.
    """

    method: str
    matrix: Array
    error: Array | float = 0.0
    left: Array | None = None
    reach: Array | float = 0.0

    @property
    def kinks(self) -> Array:
        """Where the slopes to the two sides differ."""
        return np.zeros(self.matrix.shape, bool) if self.left is None else self.left != self.matrix


@dataclass(frozen=True)
class Line:
    """The derivative of all outputs along a line.

    ``error`` is infinite where nothing settled; ``right`` and ``left`` differ at a kink, where the
    ``value`` is that to the right, and the error that of the sides.
    """

    value: Array
    error: Array
    right: Array
    left: Array
    reach: Array


def _flat(y: Array) -> Array:
    """A copy in one row: a function may return a view of its input, which moves with it."""
    return np.array(y, copy=True).reshape(-1)


def is_dyadic(x: Array, bits: int = 24) -> bool:
    """Whether every entry is a multiple of 2 ** -bits, and small enough for exact sums."""
    scaled = np.ldexp(np.asarray(x, np.float64), bits)
    return bool((np.abs(scaled) < 2.0 ** 50).all() and (scaled == np.rint(scaled)).all())


def scale_of(x: Array) -> float:
    """A typical size of the entries."""
    there = np.abs(x[x != 0])
    return float(np.median(there)) if there.size else 1.0


def exact_differences(forward: Forward, arrays: Sequence[Array], k: int, *, step: float,
                      both_sides: bool) -> Measured | None:
    """The Jacobian in input ``k`` from differences that are exact, or None if they are not.

    ``both_sides`` asks for the slopes to the left too.  Otherwise the function is taken to be
    affine in each coordinate, which one direction through all of them confirms.
    """
    if not is_dyadic(arrays[k]):
        return None
    given = list(arrays)
    x = given[k] = np.array(arrays[k], order="C")
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
    # A jump looks like a slope that grows as steps shrink: there is none.
    jumps = np.zeros(right.shape, bool)
    steep = np.flatnonzero((np.abs(right) * step >= 0.25).any(axis=0)).tolist()
    for i in steep if both_sides else ():
        old = line[i]
        line[i] = old + step / 2
        jumps[:, i] = (_flat(forward(given)) - base) * 2 / step != right[:, i]
        line[i] = old
    if not both_sides:
        direction = np.resize([1.0, -3.0, 2.0, 5.0, -2.0], line.size)
        line += direction
        if not np.array_equal(_flat(forward(given)) - base, right @ direction):
            return None
    return Measured("exact", right, np.where(jumps, np.inf, 0.0) if jumps.any() else 0.0,
                    None if np.array_equal(left, right) else left)


# ---- complex steps

@contextlib.contextmanager
def _strict() -> Iterator[None]:
    """Within the block, a cast that drops an imaginary part is an error."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        yield


def along(forward: Forward, arrays: Sequence[Array], directions: Directions,
          strict: bool = False) -> Array | None:
    """The derivative of all outputs along a direction by a complex step; None if it is refused."""
    given = [x.astype(np.complex128, order="C") if x.dtype.kind == "f" else x for x in arrays]
    step = np.inf
    for k, direction in directions.items():
        x, moves = arrays[k], direction != 0
        reach = float(np.abs(x[moves]).min()) if moves.any() and x[moves].all() else scale_of(x)
        step = min(step, reach / max(float(np.abs(direction).max(initial=0.0)), 1e-250))
    step *= _COMPLEX_STEP
    for k, direction in directions.items():
        given[k] = np.asarray(given[k] + 1j * step * direction)
    try:
        with contextlib.nullcontext() if strict else _strict():
            y = _flat(forward(given))
    except Exception:
        return None                                # the function has no complex form
    if y.dtype.kind != "c" or not np.isfinite(y).all():
        return None
    return y.imag / step


def complex_step(forward: Forward, arrays: Sequence[Array], k: int,
                 grain: Array | None = None) -> Measured | None:
    """The Jacobian in input ``k`` by complex steps; None if complex arrays are refused.

    Outputs whose slope along two directions is not what differences say are measured by these: they
    have a kink, or an imaginary part that was dropped.
    """
    x, columns, lines = arrays[k], [], []
    grain = grain_of(forward, arrays) if grain is None else grain
    for n in (0, 1):
        direction = (np.random.default_rng([n, 5]).choice([-1.0, 1.0, -0.5, 0.75], x.shape)
                     * np.maximum(np.abs(x), scale_of(x)))
        made = along(forward, arrays, {k: direction})
        if made is None:
            return None
        lines.append((direction.reshape(-1), slopes_along(forward, arrays, {k: direction}, grain)))
        if not n and not confirmed(lines[0][1], made, np.abs(made)).any():
            return None                            # abs, say, drops the imaginary part
    with _strict():
        for i in range(x.size):
            unit = np.zeros(x.shape)
            unit.flat[i] = 1.0
            made = along(forward, arrays, {k: unit}, strict=True)
            if made is None:
                return None
            columns.append(made)
    if not columns:
        return None
    matrix, doubted = np.stack(columns, axis=1), np.zeros(len(columns[0]), bool)
    for along_it, line in lines:
        doubted |= ~confirmed(line, matrix @ along_it, np.abs(matrix) @ np.abs(along_it))
    reach = np.max([line.reach / np.abs(d).max() for d, line in lines], axis=0)
    if not doubted.any():
        return Measured("complex step", matrix, reach=reach)
    other = differences(forward, arrays, k, grain)
    error = np.where(doubted[:, None], other.error, 0.0)
    left = np.where(doubted[:, None], other.matrix if other.left is None else other.left, matrix)
    matrix = np.where(doubted[:, None], other.matrix, matrix)
    return Measured("complex step, differences", matrix, error,
                    None if np.array_equal(left, matrix) else left, reach)


def confirmed(line: Line, slope: Array, size: Array) -> Array:
    """Which outputs have this slope along a line, as far as differences can tell; few digits do."""
    with np.errstate(all="ignore"):
        fits = np.abs(slope - line.value) <= 10 * line.error + 1e-5 * size
        return np.asarray(fits & (line.error <= 1e-3 * size + 1e-300) & (line.left == line.right)
                          | (size == 0) & (line.value == 0))


# ---- differences

def moved(x: Array, rng: np.random.Generator, still: Array | None = None,
          dtype: type | np.dtype = np.float64) -> Array:
    """``x`` with its entries moved by an ulp or two; those that are ``still`` are not."""
    if x.dtype.kind != "f":
        return x
    by = np.finfo(dtype).eps * rng.integers(-2, 3, x.shape)
    return np.asarray((x * (1 + (by if still is None else np.where(still, 0.0, by)))), dtype)


def grain_of(forward: Forward, arrays: Sequence[Array],
             dtype: type | np.dtype = np.float64) -> Array:
    """How far the values of a function may be off by rounding, output by output."""
    rng, values = np.random.default_rng(11), [np.asarray(forward(arrays))]
    for _ in range(_SAMPLES):
        try:
            values.append(np.asarray(forward([moved(x, rng, None, dtype) for x in arrays])))
        except Exception:
            continue                               # an ulp leaves the domain
    several = np.array([_flat(y) for y in values], np.float64)
    with np.errstate(all="ignore"):
        off = np.abs(several[1:] - several[0])
        single = np.array_equal(several, several.astype(np.float32)) \
            and not np.array_equal(several, several.astype(np.float16))
        # A result with the digits of float32 alone was computed in it, whatever its dtype says.
        eps = np.finfo(np.float32 if single or values[0].dtype == np.float32 else dtype).eps
        spread = np.where(np.isfinite(off), off, 0.0).max(axis=0, initial=0.0)
        return np.asarray(np.maximum(float(eps) * np.abs(several[0]), spread))


def slopes(line: Callable[..., Array], steps: Sequence[float], grain: Array,
           several: int = 1) -> Line:
    """The derivative at 0 of ``line``, output by output, from steps that shrink until it settles.

    Central differences may settle on half of a jump where a kink is close.  So the slopes to the
    two sides are extrapolated as well; outputs where they disagree take smaller steps, and if the
    sides stay as they are on two scales, there is a kink at 0 itself.  ``several`` lines may run
    side by side, with the outputs of each in a row; ``line(t, which)`` may leave out some then.
    """
    which = np.arange(several)
    base = _flat(line(0.0, which))
    value, error = np.zeros(base.shape), np.full(base.shape, np.inf)
    right, left = np.zeros(base.shape), np.zeros(base.shape)
    kinked, reach = np.zeros(base.shape, bool), np.zeros(base.shape)
    before: tuple[float, Array, Array] | None = None
    with np.errstate(all="ignore"):
        for h in steps:
            ahead, behind = ([(_flat(line(sign * h * r, which)) - base) / (sign * h * r)
                              for r in _RATIOS] for sign in (1, -1))
            first, slope = _at_zero([(a + b) / 2 for a, b in zip(ahead, behind, strict=True)],
                                    [r * r for r in _RATIOS])
            (_, a), (_, b) = _at_zero(ahead, _RATIOS), _at_zero(behind, _RATIOS)
            rounding = 8 * grain / h
            apart = np.abs(a - b)
            doubt = np.maximum(np.abs(slope - first[1]), np.abs(first[1] - first[0]) / 15)
            if before is None:
                reach = np.nan_to_num(np.maximum(np.abs(ahead[0]), np.abs(behind[0])), posinf=0.0)
            smooth = apart <= _KINK * np.abs(slope) + 1e-9 * reach + 8 * rounding
            doubt = np.where(smooth, doubt, np.maximum(doubt, apart)) + rounding
            # Steps beyond a pole see little of it, and think well of that.
            rough = (doubt > 0.1 * np.abs(slope)) & (doubt > 32 * rounding) & (doubt > 1e-3 * reach)
            doubt = np.where(np.isfinite(doubt) & ~rough, doubt, np.inf)
            better, off = (doubt < error) & ~kinked, np.abs(slope - value)
            if before is not None and h > before[0]:
                better &= off <= 10 * error     # they round less; but a wave may look flat to them
            else:
                better |= np.isfinite(doubt) & (off > 10 * (error + doubt)) & ~kinked
            value, error = np.where(better, slope, value), np.where(better, doubt, error)
            largest = np.where(np.isfinite(error), np.abs(value), 0.0).reshape(several, -1).max(
                axis=1, initial=0.0).repeat(value.size // several)
            settled = error <= np.maximum(_SETTLED * np.maximum(
                np.abs(value), 1e-3 * np.maximum(largest, reach)), 1e-300)
            settled |= (largest == 0) & (ahead[0] == 0) & (behind[0] == 0)
            if before is not None and before[0] > h and h <= 2.0 ** -15 * max(steps):
                drift = np.maximum(np.abs(a - before[1]), np.abs(b - before[2]))
                # A quarter: smooth functions bring the sides together in proportion to the step.
                new = ~kinked & ~smooth & (drift <= 1e-3 * apart + 32 * rounding) \
                    & (apart >= 100 * rounding + 1e-6 * reach) \
                    & (error > 1e-5 * (np.abs(a) + np.abs(b)))
                right, left = np.where(new, a, right), np.where(new, b, left)
                error = np.where(new, 16 * rounding + 10 * np.minimum(drift, 1e-3 * apart), error)
                value, kinked = np.where(new, a, value), kinked | new
            done = (settled | kinked).reshape(several, -1).all(axis=1)
            if done.all():
                break
            which = np.flatnonzero(~done)
            before = (h, a, b)
    return Line(value, error, np.where(kinked, right, value), np.where(kinked, left, value), reach)


def _at_zero(values: Sequence[Array], at: Sequence[float]) -> tuple[list[Array], Array]:
    """The value at 0 of the parabola through three points, and those of the lines through two."""
    def through(a: Array, b: Array, at_a: float, at_b: float) -> Array:
        return (b * at_a - a * at_b) / (at_a - at_b)

    lines = [through(values[i], values[i + 1], at[i], at[i + 1]) for i in (0, 1)]
    return lines, through(lines[0], lines[1], at[0], at[2])


def _steps(own: Array) -> list[float]:
    """The steps to try for entries of these sizes, in units of the typical one, or larger."""
    least = float(own.min(initial=np.inf))
    steps = [2.0 ** -n for n in _LEVELS]
    if 0 < least < 2.0 ** -6:
        steps += [least * 2.0 ** -n for n in _LEVELS[:3]]
    return [*steps, 0.25]


def line_of(forward: Forward, arrays: Sequence[Array],
            directions: Directions) -> Callable[..., Array]:
    """The values of a function along a line; NaN where a step leaves its domain."""
    def line(t: float, which: Array | None = None) -> Array:
        given = [np.asarray(x + t * directions[k], x.dtype) if k in directions else x
                 for k, x in enumerate(arrays)]
        with contextlib.suppress(Exception):
            return np.asarray(forward(given), np.float64)
        return np.array(np.nan)
    return line


def slopes_along(forward: Forward, arrays: Sequence[Array], directions: Directions,
                 grain: Array | None = None) -> Line:
    """The derivative of all outputs along a direction, by differences."""
    grain = grain_of(forward, arrays) if grain is None else grain
    every = []
    for k, d in directions.items():
        own = np.abs(arrays[k][d != 0])
        start = max(scale_of(arrays[k]), float(own.max()) if own.size == 1 else 0.0)
        every.append(np.array(_steps(own / start)) * start / (np.abs(d).max(initial=0.0) or 1.0))
    return slopes(line_of(forward, arrays, directions), min(every, key=max).tolist(), grain)


def differences(forward: Forward, arrays: Sequence[Array], k: int, grain: Array | None = None,
                entries: Sequence[int] | None = None) -> Measured:
    """The Jacobian in input ``k`` by differences, entry by entry of the input."""
    x, lines = arrays[k], []
    grain = grain_of(forward, arrays) if grain is None else grain
    asked = list(range(x.size) if entries is None else entries)
    typical, given = scale_of(x), list(arrays)
    flat, base = np.abs(x.reshape(-1)), np.asarray(forward(arrays)).reshape(-1)

    for some in (asked[i:i + _TOGETHER] for i in range(0, len(asked), _TOGETHER)):
        scales = np.maximum(typical, flat[some])

        def line(t: float, which: Array, some: list[int] = some, scales: Array = scales) -> Array:
            values = np.tile(np.nan if t else base, (len(some), 1 if not t else base.size))
            for n in which if t else ():
                given[k] = stepped = np.array(x, order="C")
                stepped.reshape(-1)[some[n]] += t * scales[n]
                with contextlib.suppress(Exception):        # a step that leaves the domain
                    values[n] = np.asarray(forward(given)).reshape(-1)
            return values

        found = slopes(line, _steps(flat[some] / scales), np.tile(grain, len(some)), len(some))
        unit = np.repeat(scales, grain.size)
        lines.append([part.reshape(-1, grain.size) / unit.reshape(-1, grain.size)
                      for part in (found.right, found.left, found.error, found.reach)])
    if not lines:
        return Measured("differences", np.zeros((grain.size, 0)))
    right, left, error, reach = (np.concatenate(parts).T for parts in zip(*lines, strict=True))
    return Measured("differences", right, error, None if np.array_equal(left, right) else left,
                    reach.max(axis=1))


def measure(forward: Forward, arrays: Sequence[Array], k: int, *, affine: bool = False,
            piecewise_linear: bool = False, step: float = 1 / 32,
            grain: Array | None = None, real: bool = False) -> Measured:
    """The Jacobian in input ``k`` by the best method that the function admits there."""
    if affine or piecewise_linear:
        found = exact_differences(forward, arrays, k, step=1.0 if affine else step,
                                  both_sides=not affine)
        if found is not None:
            return found
    grain = grain_of(forward, arrays) if grain is None else grain
    found = None if real else complex_step(forward, arrays, k, grain)
    return found or differences(forward, arrays, k, grain)
