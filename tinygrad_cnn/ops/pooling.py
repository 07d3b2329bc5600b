"""Pooling of images N H W C.

max_pool2d keeps the index of the maximum in each window; gather_max and scatter_max, which read and
add at these indices, are each other's adjoint.  Where a tie is to be shared, the op keeps the share
of each pixel of a window instead, and unfold and fold are the pair.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, overload

import numpy as np

from tinygrad_cnn import checks, shapes
from tinygrad_cnn.core import Tensor, TensorLike, apply, as_array, as_tensor, make_function
from tinygrad_cnn.core.op import ErrorInput, Op, OpTest, dyadic, register, register_function
from tinygrad_cnn.errors import ShapeError
from tinygrad_cnn.kernels import pool, reference
from tinygrad_cnn.ops.declare import each, geometry
from tinygrad_cnn.ops.elementwise import where
from tinygrad_cnn.ops.reduction import mean
from tinygrad_cnn.ops.shape import one_image, reshape, transpose
from tinygrad_cnn.shapes import PaddingLike, Pair, PairLike, Shape, Sides
from tinygrad_cnn.types import Array, Settings, Value

__all__ = ["avg_pool2d", "avg_pool2d_input", "fold", "gather_max", "global_avg_pool2d",
           "max_pool2d", "scatter_max", "unfold"]

_TIES = ("split", "all")        # who shares the gradient of a tie, if not the first has all of it


# ---- samples

def _settings(kernel_size: Pair, stride: Pair, padding: Sides = ((0, 0), (0, 0))) -> Settings:
    return {"kernel_size": kernel_size, "stride": stride, "padding": padding}


_CASES: tuple[tuple[str, Shape, Settings], ...] = (
    ("overlapping", (2, 5, 4, 3), _settings((3, 2), (1, 1))),
    ("tiling", (2, 4, 6, 3), _settings((2, 2), (2, 2))),
    ("a row and a column left over", (1, 5, 8, 2), _settings((2, 3), (2, 2))),
    ("windows apart", (1, 5, 6, 2), _settings((1, 2), (2, 3))),
    ("tiling, shifted by padding", (1, 6, 6, 2), _settings((3, 3), (3, 3), ((1, 1), (1, 1)))),
    ("padded", (2, 4, 5, 2), _settings((3, 2), (2, 1), ((1, 0), (1, 1)))),
)
_TWO = _settings((2, 2), (2, 2))
_ALL_PADDING = {**_TWO, "padding": ((2, 0), (0, 0))}


def _cases(rng: np.random.Generator) -> Iterator[tuple[str, Shape, Settings]]:
    """The cases above, and some that are drawn."""
    yield from _CASES
    for name in ("drawn", "drawn again"):
        x, (kh, kw, *_), drawn = geometry(rng)
        padding = tuple((min(a, k - 1), min(b, k - 1))
                        for k, (a, b) in zip((kh, kw), drawn["padding"], strict=True))
        yield name, (x[0], max(x[1], kh), max(x[2], kw), x[3]), {
            "kernel_size": (kh, kw), "stride": drawn["stride"], "padding": padding}


def _distinct(rng: np.random.Generator, shape: Shape) -> Array:
    """No two entries alike, half of them negative, at least ½ apart."""
    n = math.prod(shape)
    return (rng.permutation(n).reshape(shape) - n // 2 + 0.5) / 2


def _with_indices(rng: np.random.Generator) -> Iterator[tuple[str, Shape, Shape, Settings]]:
    for name, x, settings in _cases(rng):
        indices = pool.max_pool2d(_distinct(rng, x), **settings)[1]["argmax_indices"]
        yield name, x, indices.shape, {"argmax_indices": indices, **settings}


def _flops(x: Shape, *, out_shape: Shape, kernel_size: Pair, **settings: object) -> int:
    return math.prod(out_shape) * math.prod(kernel_size)


# ---- the maximum of each window

def _scatter_max_shape(y: Shape, *, argmax_indices: Array, image_size: Pair, kernel_size: Pair,
                       stride: Pair, padding: Sides) -> Shape:
    if y != argmax_indices.shape:
        raise ShapeError(f"scatter_max: y is {y}, but argmax_indices is {argmax_indices.shape}")
    return y[0], *image_size, y[3]


def _max_pool2d_vjp(ct: Value, out: Value, x: Value, **settings: Any) -> Value:
    return apply(SCATTER_MAX, ct, image_size=x.shape[1:3], **settings)


MAX_POOL2D = register(Op(
    name="max_pool2d", axes="N H W C -> N OH OW C", shape=shapes.max_pool2d,
    kernels={"array": pool.max_pool2d, "reference": reference.max_pool2d},
    vjp={"x": _max_pool2d_vjp},
    test=OpTest(
        samples=each(_cases, lambda rng, x, settings: ((_distinct(rng, x),), settings)),
        piecewise_linear=True, subgradient="first",
        error_inputs=(
            ErrorInput("windows of padding", ((1, 4, 4, 1),), _ALL_PADDING,
                       "without a single pixel"),
            ErrorInput("rank", ((4, 4, 1),), _TWO, "x needs 4 axes, got 3"),
            ErrorInput("too large", ((1, 1, 4, 1),), _TWO, "does not fit"),
            ErrorInput("stride", ((1, 4, 4, 1),), {**_TWO, "stride": (0, 2)},
                       "stride must be at least 1"))),
    saved=(), residuals=("argmax_indices",), family="pool", flops=_flops))

GATHER_MAX = register(Op(
    name="gather_max", axes="N H W C -> N OH OW C",
    shape=lambda x, *, argmax_indices, kernel_size, stride, padding: argmax_indices.shape,
    kernels={"array": pool.gather_max, "reference": reference.gather_max},
    vjp={"x": _max_pool2d_vjp},
    test=OpTest(samples=each(_with_indices, lambda rng, x, y, settings: ((dyadic(rng, *x),),
                                                                         settings)),
                exact_in=("x",)),
    saved=(), family="pool"))

SCATTER_MAX = register(Op(
    name="scatter_max", axes="N OH OW C -> N H W C", shape=_scatter_max_shape,
    kernels={"array": pool.scatter_max, "reference": reference.scatter_max},
    vjp={"y": lambda ct, out, y, *, image_size, **settings: apply(GATHER_MAX, ct, **settings)},
    test=OpTest(
        samples=each(_with_indices, lambda rng, x, y, settings: (
            (dyadic(rng, *y),), {"image_size": x[1:3], **settings})),
        exact_in=("y",),
        error_inputs=(
            ErrorInput("argmax_indices", ((1, 2, 2, 1),),
                       {**_TWO, "argmax_indices": np.zeros((1, 1, 1, 1), np.uint8),
                        "image_size": (2, 2)}, "argmax_indices is (1, 1, 1, 1)"),)),
    saved=(), family="pool"))


@make_function(GATHER_MAX)
def gather_max(x: TensorLike, *, argmax_indices: Array, kernel_size: Pair, stride: Pair,
               padding: Sides) -> Tensor:
    """The pixel of each window at ``argmax_indices``: N H W C -> N OH OW C.

    An index (N, OH, OW, C) is the place u · KW + v inside its window, as `max_pool2d` finds it; the
    other settings are those of `max_pool2d`, as pairs.

    >>> x = Tensor(np.arange(4.0).reshape(1, 2, 2, 1))
    >>> gather_max(x, argmax_indices=np.array([[[[2]]]]), kernel_size=(2, 2), stride=(2, 2),
    ...            padding=((0, 0), (0, 0))).item()
    2.0
    """


@make_function(SCATTER_MAX)
def scatter_max(y: TensorLike, *, argmax_indices: Array, image_size: Pair, kernel_size: Pair,
                stride: Pair, padding: Sides) -> Tensor:
    """The adjoint of `gather_max`: add each entry of y (N, OH, OW, C) at its index.

    ``image_size`` is (H, W) of the result.

    >>> y = Tensor(np.full((1, 1, 1, 1), 5.0))
    >>> scatter_max(y, argmax_indices=np.array([[[[2]]]]), image_size=(2, 2), kernel_size=(2, 2),
    ...             stride=(2, 2), padding=((0, 0), (0, 0))).data[0, :, :, 0]
    array([[0., 0.],
           [5., 0.]])
    """


# ---- every window at once, and the sharing of ties

def _unfold_shape(x: Shape, *, kernel_size: Pair, stride: Pair, padding: Sides,
                  fill: float) -> Shape:
    pooled = shapes.avg_pool2d(x, kernel_size=kernel_size, stride=stride, padding=padding,
                               count_include_pad=True)
    return *pooled, *kernel_size


def _fold_shape(y: Shape, *, image_size: Pair, stride: Pair, padding: Sides) -> Shape:
    x = (y[0], *image_size, y[3])
    made = _unfold_shape(x, kernel_size=(y[4], y[5]), stride=stride, padding=padding, fill=0.0)
    if made != y:
        raise ShapeError(f"fold: y is {y}, but unfold makes {made} of images {x}")
    return x


UNFOLD = register(Op(
    name="unfold", axes="N H W C -> N OH OW C KH KW", shape=_unfold_shape,
    kernels={"array": pool.unfold, "reference": reference.unfold},
    vjp={"x": lambda ct, out, x, *, kernel_size, fill, **settings: apply(
        FOLD, ct, image_size=x.shape[1:3], **settings)},
    test=OpTest(samples=each(_cases, lambda rng, x, settings: ((dyadic(rng, *x),),
                                                               {**settings, "fill": 0.5})),
                exact_in=("x",)),
    saved=(), family="pool"))

FOLD: Op = register(Op(
    name="fold", axes="N OH OW C KH KW -> N H W C", shape=_fold_shape,
    kernels={"array": pool.fold, "reference": reference.fold},
    vjp={"y": lambda ct, out, y, *, image_size, **settings: apply(
        UNFOLD, ct, kernel_size=y.shape[4:], fill=0.0, **settings)},
    test=OpTest(
        samples=each(_cases, lambda rng, x, settings: (
            (dyadic(rng, *_unfold_shape(x, **settings, fill=0.0)),),
            {"image_size": x[1:3], "stride": settings["stride"], "padding": settings["padding"]})),
        exact_in=("y",),
        error_inputs=(
            ErrorInput("image", ((1, 2, 2, 1, 2, 2),),
                       {"image_size": (3, 3), "stride": (2, 2), "padding": ((0, 0), (0, 0))},
                       "unfold makes (1, 1, 1, 1, 2, 2)"),)),
    saved=(), family="pool"))


@register_function()
def unfold(x: TensorLike, kernel_size: PairLike, dilation: PairLike = 1, padding: PaddingLike = 0,
           stride: PairLike = 1, *, fill: float = 0.0) -> Tensor:
    """Every window of the images, copied out: N H W C -> N OH OW C KH KW.

    ``fill`` stands in the padding; the other settings are those of `conv2d`.

    >>> unfold(Tensor(np.zeros((1, 4, 4, 3))), kernel_size=2, stride=2).shape
    (1, 2, 2, 3, 2, 2)
    """
    x, settings = _window_settings("unfold", x, kernel_size, stride, padding, dilation)
    down, across = checks.pair("unfold", "dilation", dilation)
    # The kernel knows no dilation: of the pixels that a window spans, some are left out.
    y = apply(UNFOLD, x, **settings, fill=checks.number("unfold", "fill", fill, finite=False))
    return y if down == across == 1 else y[..., ::down, ::across]


@make_function(FOLD)
def fold(y: TensorLike, *, image_size: Pair, stride: Pair, padding: Sides) -> Tensor:
    """The adjoint of `unfold`: add up windows where they overlap, to images of (H, W).

    >>> fold(Tensor(np.ones((1, 1, 2, 1, 1, 2))), image_size=(1, 3), stride=(1, 1),
    ...      padding=((0, 0), (0, 0))).data[0, :, :, 0]
    array([[1., 2., 1.]])
    """


def _shared_shape(x: Shape, *, ties: str, kernel_size: Pair, stride: Pair, padding: Sides) -> Shape:
    checks.choice("max_pool2d", "ties", ties, ("first", *_TIES))
    return shapes.max_pool2d(x, kernel_size=kernel_size, stride=stride, padding=padding)


def _shared_array(x: Array, *, ties: str, **settings: Any) -> tuple[Array, dict[str, Array]]:
    view = pool.unfold(x, fill=-math.inf, **settings)      # N OH OW C KH KW
    inside = pool.unfold(np.ones((1, *x.shape[1:3], 1), x.dtype), fill=0.0, **settings)
    y = view.max(axis=(4, 5))                                 # N OH OW C
    top = y[..., None, None]
    mask = ((view == top) | ((view != view) & (top != top))) & (inside > 0)
    shares = mask.astype(x.dtype)
    if ties == "split":
        shares /= shares.sum(axis=(4, 5), keepdims=True)
    return y, {"shares": shares}


def _shared_vjp(ct: Value, out: Value, x: Value, *, kernel_size: Pair, ties: str, shares: Array,
                **settings: Any) -> Value:
    chosen = where(shares > 0, reshape(ct, (*ct.shape, 1, 1)), 0.0)
    return apply(FOLD, chosen * shares, image_size=x.shape[1:3], **settings)


MAX_POOL2D_SHARED = register(Op(
    name="max_pool2d_shared", axes="N H W C -> N OH OW C", shape=_shared_shape,
    kernels={"array": _shared_array}, vjp={"x": _shared_vjp},
    test=OpTest(
        samples=each(lambda rng: [(f"{name}, {ties}", x, {**settings, "ties": ties})
                                  for ties in _TIES for name, x, settings in _cases(rng)],
                     lambda rng, x, settings: ((_distinct(rng, x),), settings)),
        piecewise_linear=True,
        subgradient=lambda *, ties, **settings: "even" if ties == "split" else "all"),
    saved=(), residuals=("shares",), constant_residuals=True, family="pool", flops=_flops))


def _shared(x: Tensor, spans: Settings, dilation: Pair, ties: str) -> Tensor:
    """`max_pool2d` of dilated windows, each of which becomes an image of its own."""
    windows = unfold(x, **spans, fill=-math.inf)[..., ::dilation[0], ::dilation[1]]
    n, oh, ow, c, kh, kw = windows.shape
    alone = reshape(transpose(windows, (0, 1, 2, 4, 5, 3)), (n * oh * ow, kh, kw, c))
    y = apply(MAX_POOL2D_SHARED, alone, **_settings((kh, kw), (1, 1)), ties=ties)
    return reshape(y, (n, oh, ow, c))


def _window_settings(op: str, x: TensorLike, kernel_size: PairLike, stride: PairLike | None,
                     padding: PaddingLike, dilation: PairLike = 1) -> tuple[Tensor, Settings]:
    x = x if isinstance(x, Tensor) else as_tensor(x, op)
    size = checks.pair(op, "kernel_size", kernel_size, minimum=1)
    steps = size if stride is None else checks.pair(op, "stride", stride, minimum=1)
    apart = checks.pair(op, "dilation", dilation, minimum=1)
    border = checks.padding(op, padding, image=x.shape[1:3] if x.ndim == 4 else (1, 1),
                            kernel=size, stride=steps, dilation=apart)
    if apart != (1, 1):
        size = (shapes.effective_kernel_size(size[0], apart[0]),
                shapes.effective_kernel_size(size[1], apart[1]))
    return x, {"kernel_size": size, "stride": steps, "padding": border}


def _ceiling(x: Tensor, settings: Settings) -> Settings:
    """The settings with padding for the windows that begin in the image and end outside."""
    more = []
    for n, k, s, (low, high) in zip(x.shape[1:3], settings["kernel_size"], settings["stride"],
                                    settings["padding"], strict=True):
        last = -(-(n + low + high - k) // s)
        if last * s >= n + low:
            last -= 1                           # it would begin in the padding at the end
        more.append((low, max(high, last * s + k - n - low)))
    return settings | {"padding": tuple(more)}


def largest(x: Tensor, rows: Array, columns: Array) -> tuple[Tensor, Array]:
    """The largest pixels of windows given by position, and where they stand in the image.

    ``rows`` is (OH, KH) and ``columns`` is (OW, KW); −1 stands for a place outside the image.  Of
    equal pixels the first counts, and NaN counts as the largest.
    """
    values = as_array(x)
    n, _, w, c = x.shape
    (oh, kh), (ow, kw) = rows.shape, columns.shape
    windows = values[:, rows[:, :, None, None], columns]                        # N OH KH OW KW C
    outside = (rows < 0)[:, :, None, None] | (columns < 0)
    least = -np.inf if values.dtype.kind == "f" else np.iinfo(values.dtype).min \
        if values.dtype.kind in "iu" else False
    windows = np.where(outside[..., None], np.asarray(least, values.dtype), windows)
    flat = windows.transpose(0, 1, 3, 5, 2, 4).reshape(n, oh, ow, c, kh * kw)
    best = flat.argmax(-1)                                                      # N OH OW C
    # A window of nothing but −inf: the first place inside it.
    inside = ~outside.transpose(0, 2, 1, 3).reshape(oh, ow, kh * kw)
    best = np.where(np.take_along_axis(np.broadcast_to(inside[None, :, :, None], flat.shape),
                                       best[..., None], -1)[..., 0],
                    best, inside.argmax(-1)[None, :, :, None])
    i, j = np.arange(oh)[:, None, None], np.arange(ow)[:, None]
    row, column = rows[i, best // kw], columns[j, best % kw]
    image, channel = np.arange(n)[:, None, None, None], np.arange(c)
    return x[image, row, column, channel], row * w + column


def _positions(n: int, kernel: int, stride: int, padding: Pair, dilation: int,
               ceil_mode: bool) -> Array:
    """The places of the pixels of each window along an axis; −1 outside."""
    span = shapes.effective_kernel_size(kernel, dilation)
    room = n + sum(padding) - span
    windows = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (windows - 1) * stride >= n + padding[0]:
        windows -= 1
    places = np.arange(windows)[:, None] * stride - padding[0] + np.arange(kernel) * dilation
    return np.where((places >= 0) & (places < n), places, -1)


@overload
def max_pool2d(x: TensorLike, kernel_size: PairLike, stride: PairLike | None = None,
               padding: PaddingLike = 0, dilation: PairLike = 1, ceil_mode: bool = False,
               return_indices: Literal[False] = False, *, ties: str = "first") -> Tensor: ...
@overload
def max_pool2d(x: TensorLike, kernel_size: PairLike, stride: PairLike | None = None,
               padding: PaddingLike = 0, dilation: PairLike = 1, ceil_mode: bool = False, *,
               return_indices: Literal[True], ties: str = "first") -> tuple[Tensor, Array]: ...
@register_function()
@one_image
def max_pool2d(x: TensorLike, kernel_size: PairLike, stride: PairLike | None = None,
               padding: PaddingLike = 0, dilation: PairLike = 1, ceil_mode: bool = False,
               return_indices: bool = False, *,
               ties: str = "first") -> Tensor | tuple[Tensor, Array]:
    """The largest pixel of each window, channel by channel.

    y[n, i, j, c] = max over (u, v) of x[n, i·s + u − top, j·s + v − left, c].

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C)
        Images.
    kernel_size : int or (int, int), pixels
        Size of the windows.
    stride : int or (int, int), pixels, optional
        Distance between window positions; ``kernel_size`` if not given.
    padding : int, (int, int), ((int, int), (int, int)), "same" or "valid", pixels, default 0
        Around the images; smaller than the window.  Padding never wins.
    dilation : int or (int, int), default 1
        Distance of the pixels of a window.
    ceil_mode : bool, default False
        Also take the windows that begin in the image and end outside.
    return_indices : bool, default False
        Give (y, indices): row · W + column of each largest pixel, for `max_unpool2d`.
    ties : {"first", "split", "all"}, default "first"
        Who gets the gradient of a tie: the first pixel in reading order; all, evenly; all, each
        the whole, as in the teaching notebooks (not a subgradient).

    Returns
    -------
    Tensor, shape (N, OH, OW, C)
        Pixels that no whole window reaches get gradient zero.

    Raises
    ------
    ShapeError
        If ``x`` has not four axes, or a window is larger than the padded image.
    SettingError
        If a setting is out of its range.

    Examples
    --------
    >>> x = Tensor(np.arange(16.0).reshape(1, 4, 4, 1))
    >>> max_pool2d(x, kernel_size=2).data[0, :, :, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    """
    x, settings = _window_settings("max_pool2d", x, kernel_size, stride, padding)
    apart = checks.pair("max_pool2d", "dilation", dilation, minimum=1)
    cut = checks.flag("max_pool2d", "ceil_mode", ceil_mode)
    if checks.flag("max_pool2d", "return_indices", return_indices) or apart != (1, 1):
        # The shape rule knows no dilation: a window of the pixels that it spans.
        spans = tuple(map(shapes.effective_kernel_size, settings["kernel_size"], apart))
        wide = settings | {"kernel_size": spans}
        shapes.max_pool2d(x.shape, **wide)
        places = [_positions(n, k, s, p, d, cut) for n, k, s, p, d in zip(
            x.shape[1:3], settings["kernel_size"], settings["stride"], settings["padding"], apart,
            strict=True)]
        y, indices = largest(x, *places)
        if checks.choice("max_pool2d", "ties", ties, ("first", *_TIES)) != "first":
            y = _shared(x, _ceiling(x, wide) if cut else wide, apart, ties)
        return (y, indices) if return_indices else y
    if cut and x.ndim == 4:
        settings = _ceiling(x, settings)
    checks.choice("max_pool2d", "ties", ties, ("first", *_TIES))
    if ties == "first" or x.dtype.kind in "iub":                        # no gradient to share
        return apply(MAX_POOL2D, x, **settings)
    return apply(MAX_POOL2D_SHARED, x, **settings, ties=ties)


# ---- averages

def _avg_pool2d_input_shape(y: Shape, *, image_size: Pair, kernel_size: Pair, stride: Pair,
                            padding: Sides, count_include_pad: bool) -> Shape:
    x = (y[0], *image_size, y[3])
    made = shapes.avg_pool2d(x, kernel_size=kernel_size, stride=stride, padding=padding,
                             count_include_pad=count_include_pad)
    if made != y:
        raise ShapeError(f"avg_pool2d_input: y is {y}, but avg_pool2d makes {made} of images {x}")
    return x


def _avg_cases(rng: np.random.Generator) -> Iterator[tuple[str, Shape, Settings]]:
    for name, x, settings in _cases(rng):
        yield name, x, {**settings, "count_include_pad": True}
        if name == "padded":
            yield f"{name}, padding not counted", x, {**settings, "count_include_pad": False}


AVG_POOL2D = register(Op(
    name="avg_pool2d", axes="N H W C -> N OH OW C", shape=shapes.avg_pool2d,
    kernels={"array": pool.avg_pool2d, "reference": reference.avg_pool2d},
    vjp={"x": lambda ct, out, x, **settings: apply(
        AVG_POOL2D_INPUT, ct, image_size=x.shape[1:3], **settings)},
    test=OpTest(
        samples=each(_avg_cases, lambda rng, x, settings: ((rng.normal(size=x),), settings)),
        error_inputs=(
            ErrorInput("windows of padding", ((1, 4, 4, 1),),
                       {**_ALL_PADDING, "count_include_pad": True}, "without a single pixel"),)),
    saved=(), family="pool", flops=_flops))

AVG_POOL2D_INPUT: Op = register(Op(
    name="avg_pool2d_input", axes="N OH OW C -> N H W C", shape=_avg_pool2d_input_shape,
    kernels={"array": pool.avg_pool2d_input, "reference": reference.avg_pool2d_input},
    vjp={"y": lambda ct, out, y, *, image_size, **settings: apply(AVG_POOL2D, ct, **settings)},
    test=OpTest(
        samples=each(_avg_cases, lambda rng, x, settings: (
            (rng.normal(size=shapes.avg_pool2d(x, **settings)),),
            {"image_size": x[1:3], **settings})),
        error_inputs=(
            ErrorInput("image", ((1, 3, 3, 1),),
                       {**_TWO, "image_size": (4, 4), "count_include_pad": True},
                       "avg_pool2d makes (1, 2, 2, 1)"),)),
    saved=(), family="pool"))


@make_function(AVG_POOL2D_INPUT)
def avg_pool2d_input(y: TensorLike, *, image_size: Pair, kernel_size: Pair, stride: Pair,
                     padding: Sides, count_include_pad: bool) -> Tensor:
    """The adjoint of `avg_pool2d`: divide each entry among its window, in images of (H, W).

    The settings are those of `avg_pool2d`, as pairs.

    >>> avg_pool2d_input(Tensor(np.full((1, 1, 1, 1), 8.0)), image_size=(2, 2), kernel_size=(2, 2),
    ...                  stride=(2, 2), padding=((0, 0), (0, 0)),
    ...                  count_include_pad=True).data[0, :, :, 0]
    array([[2., 2.],
           [2., 2.]])
    """


@register_function()
@one_image
def avg_pool2d(x: TensorLike, kernel_size: PairLike, stride: PairLike | None = None,
               padding: PaddingLike = 0, ceil_mode: bool = False, count_include_pad: bool = True,
               divisor_override: int | None = None) -> Tensor:
    """The mean of each window, channel by channel.

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C)
        Images.
    kernel_size, stride, padding
        As in `max_pool2d`; padding holds zeros.
    ceil_mode : bool, default False
        Also take the windows that begin in the image and end outside.
    count_include_pad : bool, default True
        Divide by KH · KW everywhere, but for what ``ceil_mode`` adds; if False, by the pixels of
        the image under the window.
    divisor_override : int, optional
        Divide by this instead.

    Returns
    -------
    Tensor, shape (N, OH, OW, C)

    Raises
    ------
    ShapeError, SettingError
        As `max_pool2d`.

    Examples
    --------
    >>> x = Tensor(np.arange(16.0).reshape(1, 4, 4, 1))
    >>> avg_pool2d(x, kernel_size=2).data[0, :, :, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    x, settings = _window_settings("avg_pool2d", x, kernel_size, stride, padding)
    whole = checks.flag("avg_pool2d", "count_include_pad", count_include_pad)
    cut = checks.flag("avg_pool2d", "ceil_mode", ceil_mode)
    given = None if divisor_override is None else checks.integer(
        "avg_pool2d", "divisor_override", divisor_override, minimum=1)
    wider = _ceiling(x, settings) if cut and x.ndim == 4 else settings
    y = apply(AVG_POOL2D, x, **wider, count_include_pad=whole or given is not None)
    pixels = math.prod(settings["kernel_size"])
    if given is not None:
        return y * (pixels / given)
    if whole and wider != settings:
        # What was added for the last windows does not count.
        under = [np.minimum(np.arange(m) * s + k, n + sum(p)) - np.arange(m) * s for m, n, k, s, p
                 in zip(y.shape[1:3], x.shape[1:3], settings["kernel_size"], settings["stride"],
                        settings["padding"], strict=True)]
        return y * (pixels / np.multiply.outer(*under))[:, :, None].astype(y.dtype)
    return y


@register_function()
@one_image
def global_avg_pool2d(x: TensorLike, *, keepdims: bool = False) -> Tensor:
    """The mean of each channel over the whole image.

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C)
    keepdims : bool, default False
        Give (N, 1, 1, C).

    Returns
    -------
    Tensor, shape (N, C)

    Raises
    ------
    ShapeError
        If ``x`` has not four axes, or the image has no pixel.

    Examples
    --------
    >>> global_avg_pool2d(Tensor(np.ones((2, 4, 4, 3)))).shape
    (2, 3)
    """
    x = as_tensor(x, "global_avg_pool2d")
    shapes.bind_axes("global_avg_pool2d", "N H W C", {"x": x.shape}, {})
    if 0 in x.shape[1:3]:
        raise ShapeError(f"global_avg_pool2d: the images of x {x.shape} (N H W C) have no pixel")
    checks.floats("global_avg_pool2d", "x", x.dtype)
    return mean(x, axis=(1, 2), keepdims=keepdims)
