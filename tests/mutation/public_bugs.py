"""Mistakes that bug reports of public libraries tell of, each with one modest sample of a user.

Those in plain functions are tested with `check_vjp_pair`, those that hide in shapes, settings and
values that the one sample does not have with `check_op`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from tinygrad_cnn import GradientMismatch, Sample, Tensor
from tinygrad_cnn.core.op import make_op
from tinygrad_cnn.testing import Finding, check_op, check_vjp_pair

__all__ = ["BUGS", "Bug"]

Draw = Callable[[np.random.Generator], Any]


@dataclass(frozen=True)
class Bug:
    """One mistake: ``check(seed)`` must raise, and ``diagnosis`` is the key that names it."""

    name: str
    diagnosis: str
    check: Callable[[int], Any]
    pair: tuple[Any, Any, tuple[Draw, ...]] | None = None

    def finding(self, seed: int) -> Finding:
        """What is found of it."""
        try:
            self.check(seed)
        except GradientMismatch as error:
            return cast(Finding, error.finding)
        raise LookupError(f"{self.name} survives")


def pair(name: str, diagnosis: str, forward: Callable[..., Any], wrong: Callable[..., Any],
         *draws: Draw) -> Bug:
    """A mistake in a function of arrays."""
    def check(seed: int) -> Any:
        rng = np.random.default_rng(seed)
        return check_vjp_pair(forward, wrong, *(d(rng) for d in draws), seed=seed)
    return Bug(name, diagnosis, check, (forward, wrong, draws))


def op(name: str, diagnosis: str, kernel: Callable[..., Any], shape: Callable[..., Any],
       vjp: dict[str, Any],
       draws: list[Draw], **settings: Any) -> Bug:
    """A mistake in an op with one sample."""
    def check(seed: int) -> Any:
        rng = np.random.default_rng(seed)
        args = tuple(d(rng) for d in draws)
        return check_op(make_op(name="op", shape=shape, kernels={"array": kernel},
                                vjp={k: over_arrays(rule) for k, rule in vjp.items()},
                                samples=lambda _: [Sample("mine", args, settings)]), order=1,
                        seed=seed)
    return Bug(name, diagnosis, check)


def over_arrays(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A rule that is given arrays in a recorded pass, too."""
    @functools.wraps(rule)
    def wrapped(*args: Any, **settings: Any) -> Any:
        made = rule(*(a._data if isinstance(a, Tensor) else a for a in args), **settings)
        return Tensor(made) if isinstance(args[0], Tensor) else made
    return wrapped


def normal(*shape: int) -> Draw:
    return lambda rng: rng.normal(size=shape)


def positive(*shape: int) -> Draw:
    return lambda rng: rng.uniform(0.3, 2.0, shape)


def fixed(values: Any) -> Draw:
    return lambda rng: np.array(values)


erf = np.vectorize(math.erf)


def hat(x: Any, eps: float = 1e-3) -> Any:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


def hat_vjp(ct: Any, x: Any, eps: float, inside: float = 1e-3) -> Any:
    h, scale = hat(x, inside), 1 / (np.sqrt(x.var(-1, keepdims=True)) + eps)
    return scale * (ct - ct.mean(-1, keepdims=True) - h * (ct * h).mean(-1, keepdims=True))


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def smoothed(x: Any) -> Any:
    q = 0.9 * np.eye(x.shape[1])[np.arange(len(x)) % x.shape[1]] + 0.1 / x.shape[1]
    return -(q * np.log(softmax(x))).sum()


def windows(x: Any, k: int, s: int = 1, d: int = 1) -> Any:
    n = (len(x) - (k - 1) * d - 1) // s + 1
    return np.array([[i * s + j * d for j in range(k)] for i in range(max(n, 0))], int).reshape(
        max(n, 0), k)


def spread(ct: Any, x: Any, index: Any, w: Any = 1.0) -> Any:
    dx = np.zeros_like(x)
    np.add.at(dx, index, np.broadcast_to(ct[:, None] * w, index.shape))
    return dx


def assigned(ct: Any, x: Any, i: Any) -> Any:
    dx = np.zeros_like(x)
    dx[i] = ct
    return dx, None


def mean_pool(x: Any) -> Any:
    """Windows of 3 with one zero at each end; the divisor counts what is inside."""
    padded = np.concatenate([[0], x, [0]])
    return padded[windows(padded, 3)].sum(1) / np.array([2, *[3] * (len(x) - 2), 2])


def reflected(x: Any) -> Any:
    return np.pad(x, 1, mode="reflect")


def reflected_vjp(ct: Any, x: Any) -> Any:
    dx = ct[1:-1, 1:-1].copy()
    dx[1] += ct[0, 1:-1]
    dx[-2] += ct[-1, 1:-1]
    dx[:, 1] += ct[1:-1, 0]
    dx[:, -2] += ct[1:-1, -1]                       # the corners are lost
    return dx


class FirstCall:
    """Keeps the input of its first call for good."""

    x: Any = None

    def forward(self, x: Any) -> Any:
        self.x = x.real.copy() if self.x is None else self.x
        return x ** 3

    def backward(self, ct: Any, x: Any) -> Any:
        return ct * 3 * self.x ** 2


def first_call(seed: int) -> Any:
    layer, rng = FirstCall(), np.random.default_rng(seed)
    layer.forward(rng.normal(size=(2, 3)))
    return check_vjp_pair(layer.forward, layer.backward, rng.normal(size=(2, 3)), seed=seed)


def in_place(ct: Any, x: Any) -> Any:
    ct *= 2 * x
    return ct.copy()


def lost_blocks(n: int) -> Callable[..., Any]:
    def rule(ct: Any, out: Any, x: Any) -> Any:
        dx = np.zeros_like(x)
        whole = len(x) // n * n if len(x) >= n else len(x)
        dx[:whole] = 2 * x[:whole] * ct[:whole]
        return dx
    return rule


def unbroadcast(ct: Any, shape: Any) -> Any:
    ct = ct.sum(tuple(range(ct.ndim - len(shape))))
    return ct.sum(tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)


def pooled_shape(x: Any, *, pool: int, step: int) -> Any:
    if min(pool, step) < 1 or x[0] < pool:
        raise ValueError
    return ((x[0] - pool) // step + 1,)


def pooled(x: Any, *, pool: int, step: int) -> Any:
    return x[windows(x, pool, step)].mean(1)


def step_ignored(ct: Any, out: Any, x: Any, *, pool: int, step: int) -> Any:
    """Windows are taken to be side by side, as in the one sample."""
    index = np.minimum(windows(x, pool, pool), len(x) - 1)[:len(ct)]
    return spread(ct[:len(index)], x, index, x.dtype.type(1 / pool))


def convolved_shape(x: Any, w: Any, *, gap: int) -> Any:
    n = x[0] - (w[0] - 1) * gap
    if gap < 1 or n < 1:
        raise ValueError
    return (n,)


def square(x: Any) -> Any:
    return x * x


def same(x: Any) -> Any:
    return x


X = normal(3, 4)
BUGS: tuple[Bug, ...] = (
    pair("layer norm without eps", "nearly", hat, lambda ct, x: hat_vjp(ct, x, 0.0), X),
    pair("layer norm, eps outside of the root", "nearly",
         hat, lambda ct, x: hat_vjp(ct, x, 1e-3), X),
    pair("layer norm, constant mean", "mean term",
         hat, lambda ct, x: (ct - hat(x) * (ct * hat(x)).mean(
        -1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3), X),
    pair("gelu, the derivative of its tanh form", "nearly",
         lambda x: x * (1 + erf(x / 2 ** 0.5)) / 2,
         lambda ct, x: ct * (0.5 * (1 + (t := np.tanh(0.7978845608 * (x + 0.044715 * x ** 3))))
                             + x * (1 - t * t) / 2 * 0.7978845608 * (1 + 3 * 0.044715 * x * x)), X),
    pair("gelu, density forgotten", "factor", lambda x: x * (1 + erf(x / 2 ** 0.5)) / 2,
         lambda ct, x: ct * (1 + erf(x / 2 ** 0.5)) / 2, X),
    pair("norm with eps, rule without", "scale", lambda x: np.sqrt((x * x).sum() + 1e-5),
         lambda ct, x: ct * x / np.sqrt((x * x).sum()), X),
    pair("square root with eps, rule without", "nearly", lambda x: np.sqrt(x + 1e-6),
         lambda ct, x: ct / 2 / np.sqrt(x), positive(5)),
    pair("count_include_pad", "factor", mean_pool, lambda ct, x: spread(
        ct / 3, np.zeros(len(x) + 2), windows(np.zeros(len(x) + 2), 3))[1:-1], normal(6)),
    pair("corners of reflect", "left out", reflected, reflected_vjp, normal(4, 5)),
    pair("leftover of a stride", "leftover",
         lambda x, w: x[windows(x, 3, 2)] @ w, lambda ct, x, w: (
        np.append(spread(ct, x, windows(x, 3, 2), w)[:-1], ct[-1]), x[windows(x, 3, 2)].T @ ct),
        normal(8), normal(3)),
    pair("filter not flipped", "flipped",
         lambda x, w: np.convolve(x, w, "valid"), lambda ct, x, w: (
        spread(ct, x, windows(x, 3), w), x[windows(x, 3)].T @ ct), normal(7), normal(3)),
    pair("dilation ignored", "wrong place",
         lambda x, w: x[windows(x, 3, 1, 2)] @ w, lambda ct, x, w: (
        spread(ct, x, windows(x, 3)[:len(ct)], w), x[windows(x, 3, 1, 2)].T @ ct), normal(9),
        normal(3)),
    pair("label smoothing forgotten", "extra", smoothed, lambda ct, x: ct * (softmax(x) - np.eye(
        x.shape[1])[np.arange(len(x)) % x.shape[1]]), X),
    pair("cross entropy, labels not subtracted", "extra", lambda x: -np.log(softmax(x)[:, 0]).sum(),
         lambda ct, x: ct * softmax(x), X),
    pair("pos_weight on both terms", "factor", lambda x: (3 * np.log1p(np.exp(-x[:4])).sum()
                                                + np.log1p(np.exp(x[4:])).sum()),
         lambda ct, x: 3 * ct * (sigmoid(x) - (np.arange(8) < 4)), normal(8)),
    pair("focal loss without its second term", "factor",
         lambda p: (-(1 - p) ** 2 * np.log(p)).sum(),
         lambda ct, p: -ct * (1 - p) ** 2 / p, lambda rng: rng.uniform(0.1, 0.9, 5)),
    pair("Huber, delta forgotten", "factor",
         lambda x: np.where(np.abs(x) < 0.5, x * x / 2, 0.5 * np.abs(x)
                                                      - 0.125), lambda ct, x: ct * np.clip(
        x, -1, 1), normal(9)),
    pair("smooth L1, beta forgotten", "factor",
         lambda x: np.where(np.abs(x) < 0.5, x * x, np.abs(x) - 0.25),
         lambda ct, x: ct * np.where(np.abs(x) < 0.5, x, np.sign(x)), normal(9)),
    pair("KL, one too many", "mean term",
         lambda p: (p * np.log(p / 0.2)).sum(), lambda ct, p: ct * np.log(
        p / 0.2), positive(5)),
    pair("cosine similarity without projection", "extra", lambda a, b: a @ b / np.linalg.norm(
        a.real) / np.linalg.norm(b.real), lambda ct, a, b: (
            ct * b / np.linalg.norm(a) / np.linalg.norm(b),
            ct * a / np.linalg.norm(a) / np.linalg.norm(b)), normal(4), normal(4)),
    pair("normalize, norm held constant", "rank one term", lambda x: x / np.sqrt((x * x).sum()),
         lambda ct, x: ct / np.sqrt((x * x).sum()), normal(5)),
    pair("rms norm without its second term", "rank one term", lambda x: x / np.sqrt((x * x).mean()),
         lambda ct, x: ct / np.sqrt((x * x).mean()), normal(5)),
    pair("triplet, the negative's sign", "sign",
         lambda a, p, n: ((a - p) ** 2).sum() - ((a - n) ** 2)
         .sum(), lambda ct, a, p, n: (ct * 2 * (n - p), -ct * 2 * (a - p), -ct * 2 * (a - n)),
         normal(3), normal(3), normal(3)),
    pair("std, n for n − 1", "scale", lambda x: np.sqrt(((x - x.mean()) ** 2).sum() / (x.size - 1)),
         lambda ct, x: ct * (x - x.mean()) / x.size / x.std(ddof=1), normal(6)),
    pair("variance, mean not subtracted", "mean term", lambda x: ((x - x.mean()) ** 2).mean(),
         lambda ct, x: ct * 2 * x / x.size, normal(6)),
    pair("atan2, arguments swapped", "swapped", np.arctan2, lambda ct, y, x: (
        -ct * y / (x * x + y * y), ct * x / (x * x + y * y)), normal(5), normal(5)),
    pair("atan2, a root in the denominator", "factor", np.arctan2, lambda ct, y, x: (
        ct * x / np.hypot(x, y), -ct * y / np.hypot(x, y)), normal(5), normal(5)),
    pair("cumsum not reversed", "not transposed",
         np.cumsum, lambda ct, x: np.cumsum(ct), normal(5)),
    pair("gather, duplicates overwritten", "overwritten", lambda x, i: x[i], assigned, normal(5, 2),
         fixed([0, 2, 2, 4])),
    pair("upsampled, a mean of the window", "scale",
         lambda x: np.repeat(x, 2), lambda ct, x: ct.reshape(
        -1, 2).mean(1), normal(5)),
    pair("upsampled, the first of the window", "overwritten",
         lambda x: np.repeat(x, 2), lambda ct, x: ct[::2]
         .copy(), normal(5)),
    pair("interpolated, weights of the other corner", "wrong place",
         lambda x: 0.25 * x[:-1] + 0.75 * x[1:],
         lambda ct, x: np.append(0.75 * ct, 0) + np.append(0, 0.25 * ct), normal(6)),
    pair("clipped inside", "not linear",
         lambda x: x * x, lambda ct, x: np.clip(ct * 2 * x, -1, 1), normal(4)),
    pair("dropout without its scale", "scale", lambda x: x * np.array([0, 2, 2, 0.0]),
         lambda ct, x: ct * np.array([0, 1, 1, 0.0]), normal(4)),
    pair("max, all of a tie", "ties", lambda x: x.max(), lambda ct, x: ct * (x == x.max()),
         fixed([1.0, 3.0, 3.0])),
    pair("max, minus five times", "ties",
         lambda x: x.max(), lambda ct, x: -5 * ct * (x == x.max()) / 2,
         fixed([1.0, 3.0, 3.0])),
    pair("clip, three times, with a bound in the input", "scale", lambda x: np.clip(x, -1, 1),
         lambda ct, x: 3 * ct * (np.abs(x) <= 1), fixed([1.0, 0.5, 0.3, -0.2])),
    pair("swapped cotangents", "swapped",
         lambda a, b: a * b * b, lambda ct, a, b: (2 * ct * a * b, ct * b
                                                                        * b), normal(4), normal(4)),
    pair("cotangent forgotten", "ignores ct", lambda x: x * x, lambda ct, x: 2 * x, normal(4)),
    pair("one entry of twenty by 1e-5", "one entry", np.sin, lambda ct, x: ct * np.cos(x) * (
        1 + 1e-5 * (np.arange(20) == 7)), normal(20)),
    pair("a millionth too much", "scale",
         np.sin, lambda ct, x: ct * np.cos(x) * (1 + 1e-6), normal(6)),
    pair("float32 inside", "rounded", np.tanh, lambda ct, x: (ct.astype(np.float32) * (
        1 - np.tanh(x.astype(np.float32)) ** 2)).astype(x.dtype), normal(6)),
    pair("a matrix product, one side transposed", "transposed",
         lambda a, b: a @ b, lambda ct, a, b: (
        ct @ b, a.T @ ct), normal(3, 3), normal(3, 3)),
    pair("batched product not summed", "scale", lambda a, b: a @ b, lambda ct, a, b: (
        ct @ b.T, (a.transpose(0, 2, 1) @ ct).mean(0)), normal(2, 3, 4), normal(4, 2)),
    pair("log(1 + x) as log x", "factor", np.log1p, lambda ct, x: ct / x, positive(4)),
    pair("weight decay, half", "scale", lambda w: 0.1 * (w * w).sum(), lambda ct, w: 0.1 * ct * w,
         normal(4)),
    Bug("cache of the first forward", "factor", first_call),
    # what gradcheck passes
    pair("strides of x for the cotangent", "layout", lambda x: 2 * x, lambda ct, x:
         np.lib.stride_tricks.as_strided(2 * ct, x.shape, x.strides) if ct.flags.c_contiguous
         and all(s >= 0 for s in x.strides) and max(x.strides) * (max(x.shape) - 1) < ct.nbytes
         else 2 * ct, lambda rng: rng.normal(size=(3, 3))),
    pair("the cotangent written in place", "in place", lambda x: x * x, in_place, X),
    pair("float64 for float32", "dtype",
         lambda x: x * x, lambda ct, x: 2.0 * ct * x.astype(np.float64), X),
    pair("ravel in the order of memory", "layout",
         lambda x: 3 * x, lambda ct, x: 3 * ct.ravel("K").reshape(
        x.shape), X),
    pair("relu that also masks by ct > 0", "not linear",
         lambda x: np.maximum(x, 0), lambda ct, x: ct * (x > 0)
         * (ct > 0), X),
    # what one sample does not show
    op("a mean over the batch of one", "mean", lambda x, w: x @ w, lambda x, w: (x[0], w[1]) if
       len(x) == len(w) == 2 and x[1] == w[0] else 1 / 0, {
           "x": lambda ct, out, x, w: ct @ w.T, "w": lambda ct, out, x, w: x.T @ ct / x.dtype.type(
               len(x))}, [normal(1, 3), normal(3, 2)]),
    op("a square sample hides a transpose", "wrong axis", lambda x: x * np.sum(x, 0), same, {
        "x": lambda ct, out, x: ct * x.sum(0) + (ct * x).sum(0) if x.shape[0] == x.shape[1]
        else ct * x.sum(0) + (ct * x).sum(1)[:, None]}, [normal(3, 3)]),
    op("the last block dropped", "one border window",
       square, same, {"x": lost_blocks(4)}, [normal(8)]),
    op("the last block of 64 dropped", "one border window",
       square, same, {"x": lost_blocks(64)}, [normal(5)]),
    op("a step that is ignored", "wrong place",
       pooled, pooled_shape, {"x": step_ignored}, [normal(8)],
       pool=2, step=2),
    op("a gap that is ignored", "wrong place",
       lambda x, w, *, gap: x[windows(x, len(w), 1, gap)] @ w,
       convolved_shape, {"x": lambda ct, out, x, w, *, gap: spread(
           ct, x, windows(x, len(w))[:len(ct)], w),
           "w": lambda ct, out, x, w, *, gap: x[windows(x, len(w), 1, gap)].T @ ct},
       [normal(7), normal(3)], gap=1),
    op("prod with a zero", "zero", lambda x: np.asarray(x.prod()), lambda x: (), {
        "x": lambda ct, out, x: ct * out / x}, [normal(4)]),
    op("clamp without its upper bound", "region",
       lambda x, *, high: np.minimum(x, x.dtype.type(high)),
       lambda x, *, high: x, {"x": lambda ct, out, x, *, high: ct},
       [lambda rng: rng.uniform(-1, 1, 5)], high=1.5),
    op("an operand of size 1 not summed", "one slice",
       lambda a, b: a * b, lambda a, b: np.broadcast_shapes(
        a, b), {"a": lambda ct, out, a, b: unbroadcast(ct * b, a.shape),
                "b": lambda ct, out, a, b: np.broadcast_to((ct * a).sum(0) if ct.shape != b.shape
                                                           and ct.ndim > b.ndim else (ct * a)[
                    tuple(slice(0, n) for n in b.shape)], b.shape).copy()},
       [normal(3, 4), normal(3, 4)]),
    op("an empty batch", "raises", lambda x: x * 2, same, {
        "x": lambda ct, out, x: np.stack([2 * c for c in ct])}, [normal(3, 2)]),
    op("a rule that is right for positive sums", "sign",
       lambda x: np.abs(x.sum(1)), lambda x: (x[0],) if
       len(x) == 2 else 1 / 0, {"x": lambda ct, out, x: np.repeat(ct[:, None], x.shape[1], 1)},
       [positive(2, 3)]),
    op("overflow far out", "not finite", lambda x: np.logaddexp(0, x).astype(x.dtype), same, {
        "x": lambda ct, out, x: ct * np.exp(x) / (1 + np.exp(x))}, [normal(12)]),
)
