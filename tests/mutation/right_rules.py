"""Right gradients of many kinds, to see that the tester fails none of them.

Losses, kinked functions, functions without a complex form, ill-conditioned ones, huge and tiny
scales, SciPy's, PyTorch's, sorting, norms, products of many operands, whole networks.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_cnn as tc
from tinygrad_cnn import nn
from tinygrad_cnn.testing import Report, check_gradients, check_torch, check_vjp_pair

__all__ = ["POPULATION", "Outcome", "Right", "outcomes"]

Rng = np.random.Generator


@dataclass(frozen=True)
class Right:
    """A right gradient: ``check(rng, seed)`` tests it on inputs drawn from ``rng``."""

    name: str
    check: Callable[[Rng, int], Report]


def tensors(name: str, fn: Callable[..., Any], *draws: Callable[[Rng], Any], **settings: Any
            ) -> Right:
    """A function of tensors."""
    return Right(name, lambda rng, seed: check_gradients(fn, *(d(rng) for d in draws), seed=seed,
                                                         **settings))


def arrays(name: str, forward: Callable[..., Any], vjp: Callable[..., Any],
           *draws: Callable[[Rng], Any], real: bool = True, **settings: Any) -> Right:
    """Two functions of arrays; ``real`` ones refuse complex numbers, as compiled code does."""
    def forward_of_reals(*xs: Any) -> Any:
        if any(np.iscomplexobj(x) for x in xs):
            raise TypeError("no complex form")
        return np.asarray(forward(*xs))

    return Right(name, lambda rng, seed: check_vjp_pair(
        forward_of_reals if real else forward, vjp, *(d(rng) for d in draws), seed=seed,
        **settings))


def normal(*shape: int, times: float = 1.0, plus: float = 0.0) -> Callable[[Rng], Any]:
    return lambda rng: rng.normal(size=shape) * times + plus


def positive(*shape: int, times: float = 1.0) -> Callable[[Rng], Any]:
    return lambda rng: rng.uniform(0.2, 2.0, shape) * times


def labels(n: int, k: int) -> Callable[[Rng], Any]:
    return lambda rng: rng.integers(0, k, n)


def spread(ct: Any, x: Any) -> Any:
    return np.broadcast_to(ct, x.shape)


# ---- rules that the functions below need

def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def cross_entropy(x: Any, y: Any) -> Any:
    return (np.log(np.exp(x - x.max(1, keepdims=True)).sum(1)) + x.max(1)
            - x[np.arange(len(x)), y]).mean()


def cross_entropy_vjp(ct: Any, x: Any, y: Any) -> Any:
    p = softmax(x)
    p[np.arange(len(x)), y] -= 1
    return ct * p / len(x), None


def layer_norm_vjp(ct: Any, x: Any) -> Any:
    center, scale = x - x.mean(-1, keepdims=True), 1 / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    hat = center * scale
    return scale * (ct - ct.mean(-1, keepdims=True) - hat * (ct * hat).mean(-1, keepdims=True))


def sort_vjp(ct: Any, x: Any) -> Any:
    dx = np.zeros_like(x)
    np.put_along_axis(dx, np.argsort(x, -1), ct, -1)
    return dx


def median_vjp(ct: Any, x: Any) -> Any:
    dx = np.zeros_like(x)
    dx[np.arange(len(x)), np.argsort(x, 1)[:, x.shape[1] // 2]] = ct
    return dx


def gather_vjp(ct: Any, x: Any, index: Any) -> Any:
    dx = np.zeros_like(x)
    np.add.at(dx, index, ct)
    return dx, None


def prod_vjp(ct: Any, x: Any) -> Any:
    return ct * np.array([np.prod(np.delete(x, i)) for i in range(x.size)])


def conv1d(x: Any, w: Any) -> Any:
    return np.lib.stride_tricks.sliding_window_view(x, w.size) @ w


def conv1d_vjp(ct: Any, x: Any, w: Any) -> Any:
    dx = np.zeros_like(x)
    for i in range(len(ct)):
        dx[i:i + w.size] += ct[i] * w
    return dx, np.lib.stride_tricks.sliding_window_view(x, w.size).T @ ct


def max_pool(x: Any) -> Any:
    return x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2).max((1, 3))


def max_pool_vjp(ct: Any, x: Any) -> Any:
    tiles = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2).transpose(0, 2, 1, 3)
    flat = tiles.reshape(*tiles.shape[:2], 4)
    dx = np.zeros_like(flat)
    np.put_along_axis(dx, flat.argmax(-1)[..., None], ct[..., None], -1)
    return dx.reshape(tiles.shape).transpose(0, 2, 1, 3).reshape(x.shape)


def huber(d: Any) -> Any:
    return tc.where(abs(d) < 1, 0.5 * d * d, abs(d) - 0.5)


def constant(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


TARGET, IMAGE_TARGET = constant(1, 20, 10), constant(2, 12)


def small_network(rng: Rng, pooled: bool = True) -> Any:
    layers = [nn.Conv2D(2, 4, 3, padding=1, rng=rng), nn.ReLU()]
    layers += [nn.MaxPool2D(2)] if pooled else [nn.BatchNorm2D(4)]
    return nn.Sequential(*layers, nn.Conv2D(4, 3, 3, rng=rng), nn.ReLU(), nn.Flatten(),
                         nn.Linear(None, 5, rng=rng))


def network(rng: Rng, seed: int, pooled: bool, size: int, batch: int = 2) -> Report:
    model = small_network(rng, pooled)
    x, y = rng.normal(size=(batch, size, size, 2)), rng.integers(0, 5, batch)
    return check_gradients(lambda x: tc.cross_entropy(model(x), y), x, seed=seed)


def gray_image(rng: Rng, seed: int) -> Report:
    """Sixteen levels of gray: windows of a pool tie."""
    return check_gradients(lambda x: (tc.max_pool2d(x, kernel_size=2) ** 3).sum(),
                           rng.integers(0, 16, (1, 8, 8, 1)) / 16, seed=seed)


def of_torch() -> Iterator[Right]:
    import torch
    f = torch.nn.functional
    for name, fn, draws in (
            ("gelu", f.gelu, [normal(4, 5)]),
            ("layer_norm", lambda x: f.layer_norm(x, (5,)), [normal(4, 5)]),
            ("conv2d", f.conv2d, [normal(1, 2, 6, 5), normal(3, 2, 3, 2)]),
            ("max_pool2d", lambda x: f.max_pool2d(x, 2), [normal(1, 2, 6, 6)]),
            ("huber", lambda x: f.huber_loss(x, torch.zeros_like(x)), [normal(10, 20)]),
            ("cdist", torch.cdist, [normal(4, 3), normal(5, 3)]),
            ("dropout in the order of memory", lambda x: torch.manual_seed(0) and f.dropout(x, 0.4),
             [normal(5, 6)]),
            ("grid_sample", lambda x, g: f.grid_sample(x, g, align_corners=False),
             [normal(1, 1, 5, 5), lambda rng: rng.uniform(-0.9, 0.9, (1, 3, 3, 2))]),
            ("bicubic", lambda x: f.interpolate(x, scale_factor=2, mode="bicubic"),
             [normal(1, 1, 4, 4)]),
            ("logdet", lambda x: torch.logdet(x @ x.T + torch.eye(4, dtype=x.dtype)),
             [normal(4, 4)]),
            ("svd", torch.linalg.svdvals, [normal(4, 3)])):
        yield Right(f"torch {name}", lambda rng, seed, fn=fn, draws=draws: check_torch(
            fn, *(d(rng) for d in draws), seed=seed))


def of_scipy() -> Iterator[Right]:
    from scipy import special
    root = float(2 / np.sqrt(np.pi))
    yield arrays("expit", special.expit, lambda ct, x: ct * special.expit(x)
                 * special.expit(-x), normal(30, times=3))
    yield arrays("gammaln", special.gammaln, lambda ct, x: ct * special.digamma(x), positive(30))
    yield arrays("erf", special.erf, lambda ct, x: ct * root * np.exp(-x * x), normal(30))
    yield arrays("erfinv", special.erfinv, lambda ct, x: ct / root * np.exp(
        special.erfinv(x) ** 2), lambda rng: rng.uniform(-0.9, 0.9, 30))
    yield arrays("j0", special.j0, lambda ct, x: -ct * special.j1(x), normal(30, times=50))
    yield arrays("xlogy", lambda x: special.xlogy(x, x).sum(), lambda ct, x: ct * (np.log(x) + 1),
                 positive(30))


POPULATION: list[Right] = [
    # losses of many numbers
    tensors("mean Huber", lambda x: huber(x - TARGET).mean(), normal(20, 10)),
    tensors("mean |x|", lambda x: abs(x - TARGET).mean(), normal(20, 10)),
    tensors("mse", lambda x: tc.mse_loss(x, TARGET), normal(20, 10)),
    tensors("BCE and L1", lambda x: tc.binary_cross_entropy_with_logits(
        x, (TARGET > 0).astype(float)) + abs(x).mean(), normal(20, 10)),
    tensors("sum |x| x", lambda x: (abs(x) * x).sum(), normal(200)),
    tensors("cross entropy", lambda x: tc.cross_entropy(x, np.arange(20) % 10), normal(20, 10)),
    tensors("logits of 1e3", lambda x: tc.cross_entropy(x, np.arange(4)), normal(4, 6, times=1e3)),
    arrays("real mse", lambda x: ((x - 3) ** 2).mean(), lambda ct, x: ct * 2 * (x - 3) / x.size,
           normal(10, 20)),
    arrays("real sum of squares", lambda x: (x * x).sum(), lambda ct, x: ct * 2 * x, normal(200)),
    arrays("real Huber", lambda x: np.where(np.abs(x) < 1, x * x / 2, np.abs(x) - 0.5).mean(),
           lambda ct, x: ct * np.clip(x, -1, 1) / x.size, normal(200)),
    arrays("real mean |x|", lambda x: np.abs(x).mean(), lambda ct, x: ct * np.sign(x) / x.size,
           normal(200)),
    arrays("real cross entropy", cross_entropy, cross_entropy_vjp, normal(8, 6), labels(8, 6)),
    arrays("|x|³", lambda x: (np.abs(x) ** 3).sum(), lambda ct, x: ct * 3 * x * np.abs(x),
           normal(60), real=False),
    arrays("a constant of 1e3", lambda x: 1e3 + 1e-3 * x.sum() ** 2,
           lambda ct, x: ct * 2e-3 * x.sum() * np.ones_like(x), normal(20)),
    arrays("x³ and 1e4", lambda x: (x ** 3).sum() + 1e4, lambda ct, x: ct * 3 * x * x, normal(20)),
    arrays("keeps a narrow dtype", lambda x: np.asarray(np.abs(x).mean(), x.dtype),
           lambda ct, x: ct * np.sign(x) / x.size, normal(20), real=False),
    # many entries: along directions
    arrays("sum of squares of 5000", lambda x: (x * x).sum(), lambda ct, x: ct * 2 * x,
           normal(5000)),
    arrays("mean |x| of 5000", lambda x: np.abs(x).mean(), lambda ct, x: ct * np.sign(x) / x.size,
           normal(5000)),
    tensors("mean Huber of 5000", lambda x: huber(x).mean(), normal(5000)),
    tensors("sum of squares of 100 × 100", lambda x: (x * x).sum(), normal(100, 100)),
    # scales
    tensors("x² at 1e8", lambda x: (x * x).sum(), normal(6, times=1e8)),
    tensors("log at 1e8", lambda x: x.log(), positive(6, times=1e8)),
    tensors("exp(x / s) at 1e10", lambda x: (x * 1e-10).exp(), normal(6, times=1e10)),
    tensors("relu at 1e-7", lambda x: tc.relu(x).sum(), normal(6, times=1e-7)),
    tensors("unlike scales", lambda x: (x * x).sum(), lambda rng: rng.normal(size=6)
            * 10.0 ** rng.integers(-6, 7, 6)),
    arrays("real 3 |x| at 1e30", lambda x: 3 * np.abs(x), lambda ct, x: 3 * ct * np.sign(x),
           normal(6, times=1e30)),
    arrays("sin(1000 x)", lambda x: np.sin(1000 * x), lambda ct, x: ct * 1000 * np.cos(1000 * x),
           normal(12)),
    arrays("complex sin(1000 x)", lambda x: np.sin(1000 * x),
           lambda ct, x: ct * 1000 * np.cos(1000 * x), normal(12), real=False),
    arrays("log near 0", np.log, lambda ct, x: ct / x, positive(6, times=1e-9)),
    # kinks
    tensors("relu", tc.relu, normal(6, 7)),
    tensors("clip with bounds in the input", lambda x: tc.clip(x, -1.0, 1.0),
            lambda rng: rng.choice([-1.0, -0.5, 0.25, 1.0, 2.0], 12)),
    tensors("max of a tie", lambda x: tc.max(x, axis=1), lambda rng: rng.integers(0, 3, (4, 5))
            / 2.0),
    Right("gray image", gray_image),
    arrays("first of a tie", lambda x: x.max(), lambda ct, x: ct * (np.arange(x.size)
                                                                    == x.argmax()),
           lambda rng: rng.integers(0, 4, 8) / 4.0),
    arrays("relu of zeros", lambda x: np.maximum(x, 0), lambda ct, x: ct * (x > 0),
           lambda rng: rng.choice([0.0, 1.0, -1.0], 10), real=False),
    arrays("|a − b| of equals", lambda a, b: np.abs(a - b).sum(),
           lambda ct, a, b: (ct * np.sign(a - b), -ct * np.sign(a - b)),
           lambda rng: rng.integers(0, 2, 6).astype(float), lambda rng: rng.integers(0, 2, 6)
           .astype(float)),
    arrays("kinked and smooth", lambda x: np.maximum(x, 0) + np.sin(x), lambda ct, x: ct * (
        (x > 0) + np.cos(x)), normal(10)),
    arrays("real max pool", max_pool, max_pool_vjp, normal(6, 8)),
    # sorting, selecting, products
    arrays("sort", lambda x: np.sort(x, -1), sort_vjp, normal(4, 6)),
    arrays("median", lambda x: np.median(x, axis=1), median_vjp, normal(4, 5)),
    arrays("gather with repeats", lambda x, i: x[i], gather_vjp, normal(5, 3),
           lambda rng: rng.integers(0, 5, 9), real=False),
    arrays("prod", lambda x: x.prod(), prod_vjp, normal(7), real=False),
    arrays("cumsum", np.cumsum, lambda ct, x: np.cumsum(ct[::-1])[::-1].copy(), normal(9)),
    arrays("einsum", lambda a, b, c: np.einsum("ij,jk,kl->il", a, b, c),
           lambda ct, a, b, c: (ct @ (b @ c).T, a.T @ ct @ c.T, (a @ b).T @ ct),
           normal(2, 3), normal(3, 4), normal(4, 2)),
    arrays("outer and trace", lambda a, b: np.outer(a, b).trace(),
           lambda ct, a, b: (ct * b, ct * a), normal(5), normal(5)),
    arrays("conv1d", conv1d, conv1d_vjp, normal(12), normal(3)),
    arrays("fft power", lambda x: (np.abs(np.fft.fft(x)) ** 2), lambda ct, x: 2 * np.real(
        np.fft.ifft(ct * np.fft.fft(x))) * x.size, normal(9)),
    # norms and other deep formulas
    arrays("norm", lambda x: np.sqrt((x * x).sum()), lambda ct, x: ct * x / np.sqrt((x * x).sum()),
           normal(30)),
    arrays("softmax", softmax, lambda ct, x: softmax(x) * (
        ct - (softmax(x) * ct).sum(-1, keepdims=True)), normal(4, 6, times=4)),
    arrays("layer norm", lambda x: (x - x.mean(-1, keepdims=True))
           / np.sqrt(x.var(-1, keepdims=True) + 1e-5), layer_norm_vjp, normal(4, 6)),
    arrays("layer norm of 1e-2", lambda x: (x - x.mean(-1, keepdims=True))
           / np.sqrt(x.var(-1, keepdims=True) + 1e-5), layer_norm_vjp, normal(4, 6, times=1e-2)),
    arrays("det", np.linalg.det, lambda ct, x: ct * np.linalg.det(x) * np.linalg.inv(x).T,
           normal(4, 4)),
    arrays("inverse of a Hilbert matrix", np.linalg.inv, lambda ct, x: -np.linalg.inv(x).T @ ct
           @ np.linalg.inv(x).T, lambda rng: 1 / (1 + np.add.outer(np.arange(5.0), np.arange(5.0)))
           + 1e-6 * rng.normal(size=(5, 5))),
    arrays("solve", np.linalg.solve, lambda ct, a, b: (
        -np.outer(np.linalg.solve(a.T, ct), np.linalg.solve(a, b)), np.linalg.solve(a.T, ct)),
        lambda rng: rng.normal(size=(5, 5)) + 4 * np.eye(5), normal(5)),
    arrays("log of a sum", lambda x: np.log(np.exp(x).sum()), lambda ct, x: ct * np.exp(x)
           / np.exp(x).sum(), normal(12, times=5)),
    arrays("log(1 + eˣ) far out", lambda x: np.logaddexp(0, x), lambda ct, x: ct / (1 + np.exp(-x)),
           normal(12, times=30)),
    arrays("transposed input", lambda x: (x * x * x).sum(0), lambda ct, x: ct * 3 * x * x,
           lambda rng: rng.normal(size=(3, 4)).T),
    arrays("float32 code", lambda x: np.tanh(x.astype(np.float32)),
           lambda ct, x: ct * (1 - np.tanh(x.astype(np.float32)) ** 2), normal(8),
           dtype=np.float32),
    arrays("root by two steps of Newton", lambda x: 0.5 * (y := 0.5 * (1.5 + x / 1.5)) + x / y / 2,
           lambda ct, x: ct / (2 * np.sqrt(x)), lambda rng: rng.uniform(2, 2.4, 6), rtol=1e-2),
    # models
    tensors("tanh network", lambda x, w, v: tc.tanh(x @ w) @ v, normal(3, 4), normal(4, 5),
            normal(5, 2), order=2),
    tensors("gelu of a product", lambda x, w: tc.gelu(x @ w).sum(), normal(4, 3), normal(3, 2),
            order=2),
    Right("pooled network", lambda rng, seed: network(rng, seed, True, 8)),
    Right("normalized network", lambda rng, seed: network(rng, seed, False, 4)),
    Right("network on an image", lambda rng, seed: network(rng, seed, True, 32)),
    # gradients that are 0 but for rounding
    tensors("sum of softmax", lambda x: tc.softmax(x).sum(), normal(3, 4)),
    tensors("bias before centering", lambda x, b: tc.tanh(x + b - (x + b).mean(
        axis=0, keepdims=True)).sum(axis=1), normal(5, 3), normal(3)),
    Right("dropout", lambda rng, seed: check_gradients(
        lambda x: tc.dropout(x, p=0.5) * x, rng.normal(size=(3, 4)), seed=seed)),
]
if importlib.util.find_spec("torch") is not None:
    POPULATION += of_torch()
if importlib.util.find_spec("scipy") is not None:
    POPULATION += of_scipy()


@dataclass(frozen=True)
class Outcome:
    """What came of a right gradient on one seed: the verdict, or the first line of the error."""

    name: str
    seed: int
    verdict: str
    alarm: bool


def outcomes(seeds: range, population: Sequence[Right] = POPULATION) -> list[Outcome]:
    """Every right gradient on every seed."""
    found = []
    for right in population:
        for seed in seeds:
            try:
                with warnings.catch_warnings():     # PyTorch adds filters on first use
                    verdict, alarm = right.check(np.random.default_rng(seed), seed).verdict, False
            except tc.TinygradCnnError as error:
                verdict, alarm = f"{type(error).__name__}: {str(error).splitlines()[0]}", True
            found.append(Outcome(right.name, seed, verdict, alarm))
    return found
