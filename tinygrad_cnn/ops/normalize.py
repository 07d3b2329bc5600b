"""The softmax family, and the standardizing norms.

Kernels hand their statistics to the rules as residuals, which a rule passes on as settings so that
they are computed once; a rule that must differentiate them works them out again from x.
"""

from __future__ import annotations

import builtins
import math
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cnn import checks
from tinygrad_cnn.core import (
    Tensor,
    TensorLike,
    apply,
    as_array,
    as_setting,
    as_tensor,
    refuse_tensors_inside,
)
from tinygrad_cnn.core.op import ErrorInput, Op, OpTest, Sample, dyadic, register, register_function
from tinygrad_cnn.errors import SettingError, ShapeError
from tinygrad_cnn.kernels import norm as kernels
from tinygrad_cnn.kernels import reduce, reference
from tinygrad_cnn.ops.declare import composed, each
from tinygrad_cnn.ops.elementwise import expm1, sqrt
from tinygrad_cnn.ops.linear import matmul
from tinygrad_cnn.ops.reduction import centered, mean, sum, sum_to, var
from tinygrad_cnn.ops.shape import reshape
from tinygrad_cnn.shapes import Axis, Shape
from tinygrad_cnn.types import Function, Settings, Value

__all__ = ["affine", "batch_norm", "group_norm", "instance_norm", "layer_norm",
           "local_response_norm", "log_softmax", "rms_norm", "softmax", "standardize"]

Axes = tuple[int, ...]


# ---- softmax

def _softmax_vjp(ct: Value, out: Value, x: Value, *, axis: int) -> Value:
    # The same number taken from a whole row of ct changes nothing, so it counts as a constant; that
    # of the most probable entry leaves no large terms that cancel where its probability is near 1.
    best = np.expand_dims(as_array(out).argmax(axis=axis), axis)
    ct = ct - np.take_along_axis(as_array(ct), best, axis)
    return out * (ct - sum(out * ct, axis=axis, keepdims=True))


def _log_softmax_vjp(ct: Value, out: Value, x: Value, *, axis: int) -> Value:
    # ct − p Σ ct, with the share of an entry's own cotangent in one factor: 1 − p = −expm1(log p).
    # Of p = exp(out), far below 0, as many digits would be lost as out has before the point.
    total = sum(ct, axis=axis, keepdims=True)
    return -(ct * expm1(out)) - softmax(x, axis) * (total - ct)


def _declare_softmax(name: str, kernel: Function, loops: Function, vjp: Function,
                     saved: tuple[str, ...]) -> Op:
    def shape(x: Shape, *, axis: int) -> Shape:
        if not x[axis]:
            raise ShapeError(f"{name}: axis {axis} of {x} is empty")
        return x

    return register(Op(
        name=name, shape=shape, kernels={"array": kernel, "reference": loops}, vjp={"x": vjp},
        test=OpTest(samples=lambda rng: [
            Sample("classes", (rng.normal(size=(2, 3)),), {"axis": 1}),
            Sample("rows of an image", (rng.normal(size=(2, 3, 2, 2)),), {"axis": 1})]),
        saved=saved, couples=lambda x, *, axis: (axis,), family="activation",
        flops=lambda x, *, out_shape, axis: 5 * math.prod(x)))


SOFTMAX = _declare_softmax("softmax", reduce.softmax, reference.softmax, _softmax_vjp, ("out",))
LOG_SOFTMAX = _declare_softmax("log_softmax", reduce.log_softmax, reference.log_softmax,
                               _log_softmax_vjp, ("x", "out"))


@register_function()
def softmax(x: TensorLike, axis: int = -1) -> Tensor:
    """exp(x) / Σ exp(x) along an axis, without overflow.

    Parameters
    ----------
    x : Tensor
    axis : int, default -1

    Returns
    -------
    Tensor
        Of the same shape; each row along the axis sums to 1.

    Raises
    ------
    ShapeError
        If the axis does not exist or is empty.

    Examples
    --------
    >>> softmax(Tensor([0.0, 0.0, -1000.0])).data
    array([0.5, 0.5, 0. ], dtype=float32)
    """
    x = as_tensor(x, "softmax")
    return apply(SOFTMAX, x, axis=checks.axis_index("softmax", axis, x.shape))


@register_function()
def log_softmax(x: TensorLike, axis: int = -1) -> Tensor:
    """x − log Σ exp(x) along an axis: the logarithm of `softmax`, without overflow.

    Arguments and errors are those of `softmax`.

    >>> log_softmax(Tensor([0.0, -1000.0])).data
    array([    0., -1000.], dtype=float32)
    """
    x = as_tensor(x, "log_softmax")
    return apply(LOG_SOFTMAX, x, axis=checks.axis_index("log_softmax", axis, x.shape))


# ---- standardize: mean 0, variance 1

def _standardize_shape(x: Shape, *, axis: Axes, eps: float) -> Shape:
    if any(x[i] == 0 for i in axis):
        raise ShapeError(f"standardize: axis {axis} of {x} is empty")
    return x


def _same_shape(op: str, g: Shape, x: Shape) -> Shape:
    if g != x:
        raise ShapeError(f"{op}: g is {g} but x is {x}")
    return x


def _standardize_input_vjp_x(ct: Value, out: Value, g: Value, x: Value, *, axis: Axes, eps: float,
                             **statistics: Any) -> Value:
    # Of Σ ct · J(x) g, where J = r (I − 1/n − x̂ x̂ᵀ/n), r = 1/√(var + eps), x̂ = r (x − mean).
    # ``center`` and ``variance`` are functions of x too: they are worked out again, recorded.
    r = (var(x, axis=axis, keepdims=True) + eps) ** -0.5
    x_hat = centered(x, axis) * r

    def average(t: Value) -> Value:
        return mean(t, axis=axis, keepdims=True)

    ct_mean, g_mean = average(ct), average(g)
    ct_along, g_along = average(ct * x_hat), average(g * x_hat)
    ct_rest, g_rest = ct - ct_mean - x_hat * ct_along, g - g_mean - x_hat * g_along
    both = average(ct * g) - ct_mean * g_mean - ct_along * g_along
    return -(r * r) * (x_hat * both + ct_along * g_rest + g_along * ct_rest)


_ROWS = (("channels", (2, 3, 2, 3), (0, 1, 2), 1e-2), ("rows", (3, 5), (1,), 1e-3))
_ANEW = {"center": None, "variance": None}      # statistics that a kernel works out itself


def _norm_flops(*inputs: Shape | None, out_shape: Shape, **settings: object) -> int:
    return 8 * math.prod(out_shape)


def _over_axis(*shapes: Shape | None, axis: Axes, **settings: object) -> Axes:
    return axis


def _over_batch(x: Shape, *others: Shape | None, **settings: object) -> Axes:
    return tuple(range(len(x) - 1))


STANDARDIZE = register(Op(
    name="standardize", shape=_standardize_shape, kernels={"array": kernels.standardize},
    vjp={"x": lambda ct, out, x, **settings: apply(STANDARDIZE_INPUT, ct, x, **settings)},
    test=OpTest(samples=each(lambda rng: _ROWS, lambda rng, x, axis, eps: (
        (rng.normal(size=x) + 1,), {"axis": axis, "eps": eps}))),
    saved=("x",), couples=_over_axis, spoils=True, residuals=("center", "variance"),
    constant_residuals=True, family="norm", flops=_norm_flops))

STANDARDIZE_INPUT: Op = register(Op(
    name="standardize_input",
    shape=lambda g, x, *, axis, eps, center, variance: _same_shape("standardize_input", g, x),
    kernels={"array": kernels.standardize_input},
    vjp={"g": lambda ct, out, g, x, **settings: apply(STANDARDIZE_INPUT, ct, x, **settings),
         "x": _standardize_input_vjp_x},        # the first, since the Jacobian is symmetric
    test=OpTest(samples=each(lambda rng: _ROWS, lambda rng, x, axis, eps: (
        (rng.normal(size=x), rng.normal(size=x) + 1), {"axis": axis, "eps": eps, **_ANEW})),
                exact_in=("g",)),
    couples=_over_axis, spoils=True, family="norm", flops=_norm_flops))


def standardize(x: TensorLike, axis: Axis = -1, *, eps: float = 1e-5) -> Tensor:
    """(x − mean) / √(var + eps) over the axes, with the biased variance.

    Parameters
    ----------
    x : Tensor
    axis : int or tuple of int, default -1
        Over which mean and variance are taken.
    eps : float, default 1e-5
        Keeps the root away from 0.

    Raises
    ------
    ShapeError
        If an axis does not exist or is empty.
    SettingError
        If eps is not positive.

    Examples
    --------
    >>> standardize(Tensor([1.0, 3.0]), eps=1e-12).data
    array([-1.,  1.], dtype=float32)
    """
    x = as_tensor(x, "standardize")
    return apply(STANDARDIZE, x, axis=checks.axes_tuple("standardize", axis, x.shape),
                 eps=checks.number("standardize", "eps", eps, above=0))


# ---- batch_norm and layer_norm

def _batch_norm_shape(x: Shape, w: Shape, b: Shape, *, eps: float) -> Shape:
    if len(x) < 2:
        raise ShapeError(f"batch_norm: x needs two axes or more (N ... C), got {x}")
    if w != x[-1:] or b != x[-1:]:
        raise ShapeError(f"batch_norm: x is {x}, w {w} and b {b}; w and b need one entry for each "
                         "entry of the last axis of x (N ... C)")
    if math.prod(x[:-1]) < 2:
        raise ShapeError(f"batch_norm: x is {x}, which is {math.prod(x[:-1])} for each channel, "
                         "and a variance needs two values; use a larger batch, or evaluation mode")
    return x


def _batch_norm_vjp(ct: Value, out: Value, x: Value, w: Value, b: Value, *, eps: float,
                    center: np.ndarray,
                    variance: np.ndarray) -> tuple[Value, ...]:
    statistics: Settings = {"eps": eps, "center": center, "variance": variance}
    if isinstance(ct, np.ndarray) and isinstance(x, np.ndarray) and isinstance(w, np.ndarray):
        # The three share their sums over the batch.
        return kernels.batch_norm_cotangents(ct, x, w, **statistics)
    dx = apply(STANDARDIZE_INPUT, ct * w, x, axis=tuple(range(x.ndim - 1)), **statistics)
    return dx, apply(BATCH_NORM_WEIGHT, ct, x, **statistics), sum_to(ct, shape=b.shape)


BATCH_NORM_WEIGHT: Op = register(Op(
    name="batch_norm_weight",
    shape=lambda g, x, *, eps, center, variance: _same_shape("batch_norm_weight", g, x)[-1:],
    kernels={"array": kernels.batch_norm_weight},
    vjp={"g": lambda ct, out, g, x, *, eps, **statistics: ct * standardize(
            x, tuple(range(x.ndim - 1)), eps=eps),
         "x": lambda ct, out, g, x, **settings: apply(
            STANDARDIZE_INPUT, ct * g, x, axis=tuple(range(x.ndim - 1)), **settings)},
    test=OpTest(samples=each(lambda rng: [("4 axes", (2, 3, 2, 3)), ("2 axes", (5, 2))],
                             lambda rng, x: ((rng.normal(size=x), rng.normal(size=x) + 1),
                                             {"eps": 1e-2, **_ANEW})),
                exact_in=("g",)),
    couples=_over_batch, spoils=True, family="norm", flops=_norm_flops))

BATCH_NORM = register(Op(
    name="batch_norm", shape=_batch_norm_shape, kernels={"array": kernels.batch_norm},
    vjp={("x", "w", "b"): _batch_norm_vjp},
    test=OpTest(
        samples=each(lambda rng: [("images", (2, 3, 2, 3), 1e-2), ("rows", (5, 2), 1e-3)],
                     lambda rng, x, eps: ((rng.normal(size=x) + 1, rng.normal(size=x[-1]),
                                           rng.normal(size=x[-1])), {"eps": eps})),
        exact_in=("w", "b"),
        error_inputs=(
            ErrorInput("channels", ((2, 3), (2,), (2,)), {"eps": 1e-5}, "one entry for each entry"),
            ErrorInput("one value", ((1, 3), (3,), (3,)), {"eps": 1e-5}, "a variance needs two"),)),
    saved=("x", "w"), couples=_over_batch, spoils=True, residuals=("center", "variance"),
    constant_residuals=True, family="norm", flops=_norm_flops))


def _affine_shape(x: Shape, w: Shape, b: Shape, *, center: np.ndarray | None) -> Shape:
    if not x or w != x[-1:] or b != x[-1:] or (center is not None and center.shape != x[-1:]):
        raise ShapeError(f"affine: x is {x}, w {w} and b {b}; w and b need one entry for each "
                         "entry of the last axis of x")
    return x


AFFINE = register(Op(
    name="affine", shape=_affine_shape, kernels={"array": kernels.affine},
    vjp={"x": lambda ct, out, x, w, b, *, center: ct * w,
         "w": lambda ct, out, x, w, b, *, center: sum_to(
            ct * (x if center is None else x - center), shape=w.shape),
         "b": lambda ct, out, x, w, b, *, center: sum_to(ct, shape=b.shape)},
    test=OpTest(
        samples=each(lambda rng: [("4 axes", (2, 3, 2, 3), True), ("2 axes", (5, 2), False)],
                     lambda rng, x, centers: (
                         (dyadic(rng, *x), dyadic(rng, x[-1]), dyadic(rng, x[-1])),
                         {"center": dyadic(rng, x[-1]) if centers else None})),
        exact_in=("x", "w", "b"),
        error_inputs=(
            ErrorInput("channels", ((2, 3), (2,), (2,)), {"center": None},
                       "one entry for each entry"),)),
    saved=("x", "w"), couples=(), family="norm",
    flops=lambda x, w, b, *, out_shape, center: 2 * math.prod(x)))


@register_function()
def affine(x: TensorLike, w: TensorLike, b: TensorLike) -> Tensor:
    """Scale and shift each channel: x · w + b along the last axis.

    Parameters
    ----------
    x : Tensor, shape (..., C)
    w, b : Tensor, shape (C,)

    Raises
    ------
    ShapeError
        If C differs.

    Examples
    --------
    >>> affine(Tensor([[1.0, 2.0]]), Tensor([10.0, 20.0]), Tensor([0.5, 0.0])).data
    array([[10.5, 40. ]], dtype=float32)
    """
    return apply(AFFINE, x, w, b, center=None)


def batch_norm_with_statistics(x: TensorLike, w: TensorLike, b: TensorLike, *,
                               eps: float = 1e-5) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """`batch_norm` in training mode, with the mean and biased variance (C,) of the batch.

    The statistics are float64.
    """
    found: Settings = {}
    y = apply(BATCH_NORM, x, w, b, by_products=found,
              eps=checks.number("batch_norm", "eps", eps, above=0))
    return y, found["center"].reshape(-1), found["variance"].reshape(-1)


@register_function()
def batch_norm(x: TensorLike, w: TensorLike, b: TensorLike, *, mean: ArrayLike | None = None,
               var: ArrayLike | None = None, eps: float = 1e-5) -> Tensor:
    """Standardize each channel over the batch, then scale and shift it.

    y = w · (x − mean) / √(var + eps) + b, over all axes but the last.

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C) or (N, C)
    w, b : Tensor, shape (C,)
        Scale and shift.
    mean, var : array_like, shape (C,), optional
        Running statistics, for evaluation: constants.  In training, leave both out: mean and biased
        variance are those of the batch, and the gradient goes through them.
    eps : float, default 1e-5
        Keeps the root away from 0.

    Returns
    -------
    Tensor
        Of the shape of ``x``.

    Raises
    ------
    ShapeError
        If C differs, or in training there is one value for each channel.
    SettingError
        If eps is not positive, or only one of mean and var is given.
    GradientError
        If mean or var requires a gradient.

    References
    ----------
    Ioffe & Szegedy, *Batch normalization*, arXiv:1502.03167.

    Examples
    --------
    >>> x = Tensor([[1.0], [3.0]])
    >>> batch_norm(x, Tensor([2.0]), Tensor([10.0]), eps=1e-12).data
    array([[ 8.],
           [12.]], dtype=float32)
    """
    if mean is None and var is None:
        return apply(BATCH_NORM, x, w, b, eps=checks.number("batch_norm", "eps", eps, above=0))
    if mean is None or var is None:
        raise SettingError("batch_norm: give both mean and var (evaluation), or neither "
                           "(training)")
    x = as_tensor(x, "batch_norm")
    mean, var = as_setting(mean, "batch_norm", "mean"), as_setting(var, "batch_norm", "var")
    for name, value in (("w", w), ("b", b), ("mean", mean), ("var", var)):
        refuse_tensors_inside(value, f"batch_norm: {name}")
        if np.shape(as_array(value)) != x.shape[-1:]:
            raise ShapeError(f"batch_norm: {name} is {np.shape(as_array(value))}, the last axis of "
                             f"x {x.shape} needs {x.shape[-1:]}")
    if not (as_array(var) >= 0).all():
        raise SettingError(f"batch_norm: var must be at least 0, its least entry is "
                           f"{np.min(as_array(var))}")
    plain = np.sqrt(as_array(var) + checks.number("batch_norm", "eps", eps, above=0))
    scale = w * (1 / plain).astype(x.dtype)
    # The mean is taken off first: the difference of two large products would lose the digits.
    return apply(AFFINE, x, scale, b, center=as_array(mean).astype(x.dtype))


@register_function()
def layer_norm(x: TensorLike, w: TensorLike, b: TensorLike, *, eps: float = 1e-5) -> Tensor:
    """Standardize over the last axes, as many as w has, then scale and shift each entry.

    Parameters
    ----------
    x : Tensor, shape (..., C)
    w, b : Tensor, shape (C,)
        Scale and shift; or the shape of several last axes.
    eps : float, default 1e-5
        Keeps the root away from 0.

    Raises
    ------
    ShapeError
        If C differs.
    SettingError
        If eps is not positive.

    References
    ----------
    Ba, Kiros & Hinton, *Layer normalization*, arXiv:1607.06450.

    Examples
    --------
    >>> layer_norm(Tensor([[1.0, 3.0]]), Tensor([1.0, 1.0]), Tensor([0.0, 5.0]), eps=1e-12).data
    array([[-1.,  6.]], dtype=float32)
    """
    x = as_tensor(x, "layer_norm")
    for name, value in (("w", w), ("b", b)):
        refuse_tensors_inside(value, f"layer_norm: {name}")
        if not x.ndim or not x.shape[-1]:
            raise ShapeError(f"layer_norm: x needs a last axis with entries (... C), got {x.shape}")
        shape = np.shape(as_array(value))
        if shape != x.shape[-builtins.max(1, len(shape)):]:
            raise ShapeError(f"layer_norm: {name} is {shape}, the last axis of x {x.shape} needs "
                             f"{x.shape[-1:]}")
    checks.floats("layer_norm", "x", x.dtype)
    eps = checks.number("layer_norm", "eps", eps, above=0)
    return apply(STANDARDIZE, x, axis=tuple(range(x.ndim - np.ndim(w), x.ndim)), eps=eps) * w + b


# ---- norms composed of the above

def _scaled(owner: str, y: Tensor, *scales: TensorLike | None, axes: int = 1) -> Tensor:
    """y w + b with a number for each channel, the last axis, or for each entry of several."""
    w, b = cast("tuple[Tensor | None, Tensor | None]", scales)
    for name, value in (("w", w), ("b", b)):
        if value is not None and value.shape != y.shape[-axes:]:
            raise ShapeError(f"{owner}: {name} is {value.shape}, the channels of x {y.shape} need "
                             f"{y.shape[-axes:]}")
    y = y if w is None else y * w
    return y if b is None else y + b


@composed
def group_norm(x: TensorLike, num_groups: int, w: TensorLike | None = None,
               b: TensorLike | None = None, *, eps: float = 1e-5) -> Tensor:
    """Standardize each image over each group of its channels, then scale and shift each channel.

    Parameters
    ----------
    x : Tensor, shape (N, ..., C)
    num_groups : int
        A divisor of C.
    w, b : Tensor, shape (C,), optional
        Scale and shift.
    eps : float, default 1e-5
        Keeps the root away from 0.

    Raises
    ------
    ShapeError
        If C is not divisible by num_groups, or w or b is not (C,).

    References
    ----------
    Wu & He, *Group normalization*, arXiv:1803.08494.

    Examples
    --------
    >>> group_norm(Tensor([[1.0, 3.0, 10.0, 30.0]]), 2, eps=1e-12).data
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    x = cast(Tensor, x)
    groups = checks.integer("group_norm", "num_groups", num_groups, minimum=1)
    if x.ndim < 2 or x.shape[-1] % groups:
        raise ShapeError(f"group_norm: the channels of x {x.shape} (N ... C) are not divisible by "
                         f"num_groups={groups}")
    n, c = x.shape[0], x.shape[-1]
    y = reshape(x, (n, math.prod(x.shape[1:-1]), groups, c // groups))
    return _scaled("group_norm", reshape(standardize(y, (1, 3), eps=eps), x.shape), w, b)


@composed
def instance_norm(x: TensorLike, w: TensorLike | None = None, b: TensorLike | None = None, *,
                  eps: float = 1e-5) -> Tensor:
    """Standardize each channel of each image, then scale and shift it.

    Ulyanov, Vedaldi & Lempitsky, *Instance normalization*, arXiv:1607.08022.

    >>> instance_norm(Tensor(np.array([[[1.0], [3.0]]])), eps=1e-12).data.ravel()
    array([-1.,  1.])
    """
    x = cast(Tensor, x)
    if x.ndim < 3:
        raise ShapeError(f"instance_norm: x needs axes between the batch and the channels "
                         f"(N ... C), got {x.shape}")
    return _scaled("instance_norm", standardize(x, tuple(range(1, x.ndim - 1)), eps=eps), w, b)


@composed
def rms_norm(x: TensorLike, w: TensorLike | None = None, *, eps: float | None = None) -> Tensor:
    """x / √(mean x² + eps) over the last axis, times w; or over as many as w has.

    ``eps`` is the spacing of the dtype at 1 if not given.  Zhang & Sennrich, *Root mean square
    layer normalization*, arXiv:1910.07467.

    >>> rms_norm(Tensor([3.0, 3.0])).data
    array([1., 1.], dtype=float32)
    """
    x = cast(Tensor, x)
    if not x.ndim or not x.shape[-1]:
        raise ShapeError(f"rms_norm: x needs a last axis with entries (... C), got {x.shape}")
    checks.floats("rms_norm", "x", x.dtype)
    small = float(np.finfo(x.dtype).eps) if eps is None else checks.number("rms_norm", "eps", eps,
                                                                          above=0)
    axes = tuple(range(-builtins.max(1, np.ndim(as_array(w)) if w is not None else 1), 0))
    return _scaled("rms_norm", x / sqrt(mean(x * x, axes, True) + small), w, None, axes=len(axes))


@composed
def local_response_norm(x: TensorLike, size: int, alpha: float = 1e-4, beta: float = 0.75,
                        k: float = 1.0) -> Tensor:
    """x / (k + alpha · mean of x² over ``size`` neighboring channels)^beta.

    Krizhevsky, Sutskever & Hinton, *ImageNet classification with deep CNNs*, NIPS 2012.

    >>> local_response_norm(Tensor(np.ones((1, 1, 1, 3))), 1, alpha=1.0, beta=1.0).data.ravel()
    array([0.5, 0.5, 0.5])
    """
    x = cast(Tensor, x)
    owner = "local_response_norm"
    size = checks.integer(owner, "size", size, minimum=1)
    alpha, beta, k = (checks.number(owner, name, value) for name, value in
                      (("alpha", alpha), ("beta", beta), ("k", k)))
    if x.ndim < 2 or not x.shape[-1]:
        raise ShapeError(f"{owner}: x needs channels (N ... C), got {x.shape}")
    checks.floats(owner, "x", x.dtype)
    c = x.shape[-1]
    near = np.arange(c) - np.arange(c)[:, None]                 # channel j from channel i
    window = (near >= -((size - 1) // 2)) & (near <= size // 2)
    squares = matmul(reshape(x * x, (-1, c)), window.astype(x.dtype) / size)
    return x / (reshape(squares, x.shape) * alpha + k) ** beta
