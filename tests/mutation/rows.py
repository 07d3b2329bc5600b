"""Mistakes in the rules of elementwise ops, reductions, softmax, norms and losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mutation.mutant import Mutant, broken, post, replaced
from tinygrad_cnn.core.op import Array, Op

__all__ = ["MUTANTS"]


def _stretched(op: str, change: Callable[[Array, tuple[int, ...]], Array]) -> Callable[[], Op]:
    """An op that sums its cotangents itself; for the first operand in another way."""
    def rule(change: Callable[[Array, tuple[int, ...]], Array], k: int) -> Callable[..., Array]:
        def of_operand(right: Any, ct: Any, out: Any, *operands: Any) -> Array:
            full = np.broadcast_to(right(ct, out, *operands), ct.shape)
            return change(full, operands[k].shape)
        return of_operand

    def make() -> Op:
        second = broken(op, "b", rule(_summed, 1))().vjp["b"]
        first = broken(op, "a", rule(change, 0))().vjp["a"]
        return replaced(broken(op, "a", rule(change, 0))(), vjp={"a": first, "b": second},
                        broadcasts=False)
    return make


def _summed(full: Array, shape: tuple[int, ...]) -> Array:
    return np.asarray(full.sum(_axes(full.shape, shape)).reshape(shape))


def _axes(full: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    lead = len(full) - len(shape)
    return (*range(lead), *(lead + i for i, n in enumerate(shape) if n == 1))


def _mean_over(full: Array, shape: tuple[int, ...]) -> Array:
    return np.asarray(full.mean(_axes(full.shape, shape)).reshape(shape))


def _first_copy(full: Array, shape: tuple[int, ...]) -> Array:
    index = tuple(slice(0, 1) if i in _axes(full.shape, shape) else slice(None)
                  for i in range(full.ndim))
    return np.asarray(full[index].reshape(shape))


def _wrong_axis(full: Array, shape: tuple[int, ...]) -> Array:
    """Sums over the other axis, which goes unnoticed where the result is square."""
    right = np.asarray(full.sum(_axes(full.shape, shape)).reshape(shape))
    if full.ndim == 2 and full.shape[0] == full.shape[1] and right.size == full.shape[0]:
        return np.asarray(full.sum(1 if _axes(full.shape, shape) == (0,) else 0).reshape(shape))
    return right


def _reversed_copies(full: Array, shape: tuple[int, ...]) -> Array:
    """Puts sums back in reverse order."""
    summed = full.sum(_axes(full.shape, shape)).reshape(shape)
    return np.asarray(summed.reshape(-1)[::-1].reshape(shape))


def _no_mean_term(right: Any, ct: Any, out: Any, x: Any, *, axis: Any, eps: float, center: Array,
                  variance: Array) -> Array:
    scale = 1 / np.sqrt(variance + eps)
    x_hat = (x - center) * scale
    return np.asarray(scale * (ct - x_hat * (ct * x_hat).mean(axis, keepdims=True)))


def _no_variance_term(right: Any, ct: Any, out: Any, x: Any, *, axis: Any, eps: float,
                      center: Array, variance: Array) -> Array:
    return np.asarray((ct - ct.mean(axis, keepdims=True)) / np.sqrt(variance + eps))


def _statistics_constant(right: Any, ct: Any, out: Any, x: Any, *, axis: Any, eps: float,
                         center: Array, variance: Array) -> Array:
    return np.asarray(ct / np.sqrt(variance + eps))


def _unbiased(right: Any, ct: Any, out: Any, x: Any, *, axis: Any, eps: float, center: Array,
              variance: Array) -> Array:
    """n − 1 instead of n in the variance term."""
    n = np.prod([x.shape[i] for i in axis])
    scale = 1 / np.sqrt(variance + eps)
    x_hat = (x - center) * scale
    along = (ct * x_hat).sum(axis, keepdims=True) / max(n - 1, 1)
    return np.asarray(scale * (ct - ct.mean(axis, keepdims=True) - x_hat * along))


def _eps_outside(right: Any, ct: Any, out: Any, x: Any, *, axis: Any, eps: float, center: Array,
                 variance: Array) -> Any:
    """1 / (√var + eps) instead of 1 / √(var + eps)."""
    deviation = np.sqrt(x.var(axis, keepdims=True))
    return right(ct, out, x, axis=axis, eps=eps, center=center,
                 variance=(deviation + eps) ** 2 - eps)


def _spread(ct: Array, x: Array, axis: tuple[int, ...]) -> Array:
    kept = tuple(1 if i in axis else n for i, n in enumerate(x.shape))
    return np.broadcast_to(ct.reshape(kept), x.shape)


def _sum_as_mean(right: Any, ct: Any, out: Any, x: Any, *, axis: Any, keepdims: bool) -> Array:
    return np.asarray(_spread(ct, x, axis) / max(1, x.size // max(ct.size, 1)))


def _mean_as_sum(right: Any, ct: Any, out: Any, x: Any, *, axis: Any, keepdims: bool) -> Array:
    return _spread(ct, x, axis).copy()


def _keepdims_forgotten(right: Any, ct: Any, out: Any, x: Any, *, axis: Any,
                        keepdims: bool) -> Array:
    """Stretches ct without putting the reduced axes back, which only a mismatch gives away."""
    g = ct
    lined = g if keepdims else g.reshape((1,) * (x.ndim - g.ndim) + g.shape)
    return np.broadcast_to(lined, x.shape).copy()


def _of_x(change: Callable[[Array, Array, Array], Array]) -> Callable[..., Array]:
    """A rule by hand from the arrays ct, out and x."""
    return lambda right, ct, out, x, **s: change(ct, out, x)


def _last_axis(r: Array) -> Array:
    return np.asarray(np.flip(r, -1)) if r.ndim else r


def _sparse(right: Any, ct: Any, out: Any, x: Any, *, axis: int) -> Array:
    """The Jacobian of softmax with its diagonal only."""
    return np.asarray(ct * out * (1 - out))


MUTANTS = (
    Mutant("B01", "add", "no reduction", "unbroadcast",
           _stretched("add", lambda full, shape: full.copy())),
    Mutant("B02", "mul", "a mean over the copies", "mean",
           _stretched("mul", _mean_over)),
    Mutant("B03", "add", "wrong axis where square", "transposed",
           _stretched("add", _wrong_axis)),
    Mutant("B04", "sub", "one copy only", "one slice",
           _stretched("sub", _first_copy)),
    Mutant("B05", "mul", "the wrong operand", "swapped",
           broken("mul", "a", lambda right, ct, out, a, b: ct * a)),
    Mutant("B06", "add", "copies added in reverse", "flipped",
           _stretched("add", _reversed_copies)),
    Mutant("E01", "sub", "sign of the second operand", "sign",
           broken("sub", "b", lambda right, ct, out, a, b: ct)),
    Mutant("E02", "div", "one division missing", "factor",
           broken("div", "b", lambda right, ct, out, a, b: -ct * a / b)),
    Mutant("E03", "div", "sign of the divisor", "sign",
           broken("div", "b", lambda right, ct, out, a, b: ct * a / (b * b))),
    Mutant("E04", "power", "0 / 0 at a base of 0", "zero", broken(
        "power", "a", lambda right, ct, out, a, b: ct * b * out / a, couples=None)),
    Mutant("E05", "power", "exponent not lowered", "factor",
           broken("power", "a", lambda right, ct, out, a, b: ct * b * out)),
    Mutant("E06", "power", "logarithm missing", "factor",
           broken("power", "b", lambda right, ct, out, a, b: ct * out)),
    Mutant("E07", "exp", "factor out missing", "factor",
           broken("exp", "x", _of_x(lambda g, y, x: g.copy()))),
    Mutant("E08", "log", "times x", "factor", broken("log", "x", _of_x(lambda g, y, x: g * x))),
    Mutant("E09", "sqrt", "factor ½ missing", "scale",
           broken("sqrt", "x", _of_x(lambda g, y, x: g / np.where(y == 0, 1, y)))),
    Mutant("E11", "abs", "slope 1 everywhere", "region",
           broken("abs", "x", _of_x(lambda g, y, x: g.copy()))),
    Mutant("E12", "tanh", "1 − y instead of 1 − y²", "factor",
           broken("tanh", "x", _of_x(lambda g, y, x: g * (1 - y)))),
    Mutant("E13", "tanh", "1 + y²", "factor",
           broken("tanh", "x", _of_x(lambda g, y, x: g * (1 + y * y)))),
    Mutant("E14", "sigmoid", "1 − y missing", "factor",
           broken("sigmoid", "x", _of_x(lambda g, y, x: g * y))),
    Mutant("E15", "maximum", "a tie goes to both", "ties",
           broken("maximum", "a", lambda right, ct, out, a, b: ct * (a >= b))),
    Mutant("E16", "clip", "open interval", "ties", broken(
        "clip", "x", lambda right, ct, out, x, *, min, max:
        ct * ((x > min) & (x < max)))),
    Mutant("E17", "clip", "lower bound ignored", "region", broken(
        "clip", "x", lambda right, ct, out, x, *, min, max: ct * (x <= max))),
    Mutant("E18", "relu", "slope 1 at 0", "ties",
           broken("relu", "x", _of_x(lambda g, y, x: g * (x >= 0)))),
    Mutant("E19", "relu", "looks at the sign of ct", "not linear",
           broken("relu", "x", _of_x(lambda g, y, x: g * (g > 0)))),
    Mutant("E20", "leaky_relu", "slope ignored below 0", "region", broken(
        "leaky_relu", "x", lambda right, ct, out, x, *, negative_slope: ct * (x > 0))),
    Mutant("E21", "elu", "alpha missing", "region", broken(
        "elu", "x", lambda right, ct, out, x, *, alpha:
        ct * np.where(x > 0, 1.0, np.exp(np.minimum(x, 0))).astype(ct.dtype))),
    Mutant("E22", "silu", "second term missing", "factor",
           broken("silu", "x", _of_x(lambda g, y, x: g / (1 + np.exp(-x))))),
    Mutant("E23", "softplus", "1 − sigmoid", "factor",
           broken("softplus", "x", _of_x(lambda g, y, x: g / (1 + np.exp(x))))),
    Mutant("E24", "where", "branches swapped", "swapped", broken(
        "where", "a", lambda right, ct, out, a, b, *, condition:
        np.where(condition, 0.0, ct).astype(ct.dtype))),
    Mutant("R01", "sum", "a mean", "mean", broken("sum", "x", _sum_as_mean)),
    Mutant("R02", "mean", "a sum", "sum", broken("mean", "x", _mean_as_sum)),
    Mutant("R03", "sum", "axes lined up at the back", "raises",
           broken("sum", "x", _keepdims_forgotten)),
    Mutant("R04", "var", "factor 2 missing", "scale", post("var", "x", lambda r: r / 2)),
    Mutant("R05", "var", "mean not subtracted", "mean term", broken(
        "var", "x", lambda right, ct, out, x, *, axis, keepdims:
        _spread(ct, x, axis) * 2 * x / max(1, x.size // max(ct.size, 1)))),
    Mutant("R06", "max", "everyone of a tie gets it", "ties", broken(
        "max", "x", lambda right, ct, out, x, *, axis, keepdims, shares:
        _spread(ct, x, axis) * (shares > 0))),
    Mutant("R07", "logsumexp", "not normalized", "factor", broken(
        "logsumexp", "x", lambda right, ct, out, x, *, axis, keepdims:
        _spread(ct, x, axis) * np.exp(x))),
    Mutant("R08", "sum_to", "row sums in reverse", "flipped", post("sum_to", "x", _last_axis)),
    Mutant("S01", "softmax", "diagonal only", "diagonal", broken("softmax", "x", _sparse)),
    Mutant("S02", "softmax", "factor out missing", "factor", broken(
        "softmax", "x", lambda right, ct, out, x, *, axis:
        ct - (out * ct).sum(axis=axis, keepdims=True))),
    Mutant("S03", "softmax", "sum over the wrong axis", "wrong axis", broken(
        "softmax", "x", lambda right, ct, out, x, *, axis:
        out * (ct - (out * ct).sum(axis=(axis + 1) % x.ndim, keepdims=True)))),
    Mutant("S04", "softmax", "p g alone", "rank one term",
           broken("softmax", "x", lambda right, ct, out, x, *, axis: out * ct)),
    Mutant("S05", "softmax", "ignores the cotangent", "ignores ct", broken(
        "softmax", "x", lambda right, ct, out, x, *, axis: out * (1 - out))),
    Mutant("S06", "log_softmax", "without the sum of ct", "diagonal", broken(
        "log_softmax", "x", lambda right, ct, out, x, *, axis: ct - ct * np.exp(out))),
    Mutant("N01", "standardize", "mean term missing", "mean term",
           broken("standardize", "x", _no_mean_term)),
    Mutant("N02", "standardize", "variance term missing", "rank one term",
           broken("standardize", "x", _no_variance_term)),
    Mutant("N03", "standardize", "statistics held constant", "rank one term",
           broken("standardize", "x", _statistics_constant)),
    Mutant("N04", "standardize", "unbiased variance", "rank one term",
           broken("standardize", "x", _unbiased)),
    Mutant("N05", "standardize", "eps outside of the root", "nearly",
           broken("standardize", "x", _eps_outside)),
    Mutant("N06", "batch_norm", "dw not summed over pixels", "unbroadcast", broken(
        "batch_norm", "w", lambda right, ct, out, x, w, b, *, eps, center, variance:
        ct * (x - center) / np.sqrt(variance + eps))),
    Mutant("N07", "batch_norm", "dx without the factor w", "factor", broken(
        "batch_norm", "x", lambda right, ct, out, x, w, b, **s:
        right(ct, out, x, w, b, **s) / w)),
    Mutant("N08", "batch_norm", "db of the first sample", "one sample", broken(
        "batch_norm", "b", lambda right, ct, *rest, **s:
        ct[:1].reshape(-1, ct.shape[-1]).sum(0))),
    Mutant("L01", "cross_entropy", "divided twice", "mean", broken(
        "cross_entropy", "logits", lambda right, ct, out, logits, **settings:
        right(ct, out, logits, **settings) / len(logits))),
    Mutant("L02", "cross_entropy", "weights of the rows ignored", "factor", broken(
        "cross_entropy", "logits", lambda right, ct, out, logits, *, target, own, even, divisor:
        right(ct, out, logits, own=None, even=even, divisor=divisor,
              target=target / target.sum(1, keepdims=True) if target.ndim == 2 else target))),
    Mutant("L03", "cross_entropy", "labels not subtracted", "extra", broken(
        "cross_entropy", "logits", lambda right, ct, out, logits, *, target, own, even, divisor:
        right(ct, out, logits, target=target, own=own, even=even, divisor=divisor)
        + (np.eye(logits.shape[1])[target] if target.ndim == 1 else target)
        * (ct.reshape(-1, 1) if divisor is None else ct / divisor))),
)
