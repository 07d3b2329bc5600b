"""Pooling of images N H W C.

max_pool2d keeps the index of the maximum in each window; gather_max and scatter_max, which read and
add at these indices, are each other's adjoint.  Where a tie is to be shared, the op keeps the share
of each pixel of a window instead, and unfold and fold are the pair.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinygrad_cnn import checks, shapes
from tinygrad_cnn.core import Tensor, apply, as_tensor, make_function
from tinygrad_cnn.core.op import ErrorInput, Op, OpTest, Sample, dyadic, register, register_function
from tinygrad_cnn.errors import ShapeError
from tinygrad_cnn.kernels import pooling, reference
from tinygrad_cnn.ops.declare import geometry
from tinygrad_cnn.ops.elementwise import where
from tinygrad_cnn.ops.reduction import mean
from tinygrad_cnn.ops.shape import reshape
from tinygrad_cnn.shapes import Pair, Shape, Sides

__all__ = ["avg_pool2d", "fold", "global_avg_pool2d", "max_pool2d", "scatter_max",
           "gather_max", "unfold"]

_TIES = ("split", "all")        # who shares the gradient of a tie, if not the first has all of it
_SIDES0: Sides = ((0, 0), (0, 0))
_CASES: tuple[tuple[str, Shape, dict[str, Any]], ...] = (
    ("overlapping", (2, 5, 4, 3), {"kernel_size": (3, 2), "stride": (1, 1), "padding": _SIDES0}),
    ("tiling", (2, 4, 6, 3), {"kernel_size": (2, 2), "stride": (2, 2), "padding": _SIDES0}),
    ("a row and a column left over", (1, 5, 8, 2),
     {"kernel_size": (2, 3), "stride": (2, 2), "padding": _SIDES0}),
    ("windows apart", (1, 5, 6, 2), {"kernel_size": (1, 2), "stride": (2, 3), "padding": _SIDES0}),
    ("tiling, shifted by padding", (1, 6, 6, 2),
     {"kernel_size": (3, 3), "stride": (3, 3), "padding": ((1, 1), (1, 1))}),
    ("padded", (2, 4, 5, 2),
     {"kernel_size": (3, 2), "stride": (2, 1), "padding": ((1, 0), (1, 1))}),
)


def _flops(x: Shape, *, out_shape: Shape, kernel_size: Pair, **settings: Any) -> int:
    return math.prod(out_shape) * math.prod(kernel_size)


# ---- the maximum of each window

def _max_pool2d_vjp(ct: Tensor, out: Tensor, x: Tensor, *, argmax_indices: np.ndarray,
                    **settings: Any) -> Tensor:
    return scatter_max(ct, argmax_indices=argmax_indices, image_size=x.shape[1:3], **settings)


def _scatter_max_vjp(ct: Tensor, out: Tensor, y: Tensor, *, argmax_indices: np.ndarray,
                        image_size: Pair, **settings: Any) -> Tensor:
    return gather_max(ct, argmax_indices=argmax_indices, **settings)


def _gather_max_shape(x: Shape, *, argmax_indices: np.ndarray, kernel_size: Pair, stride: Pair,
                        padding: Sides) -> Shape:
    return argmax_indices.shape


def _scatter_max_shape(y: Shape, *, argmax_indices: np.ndarray, image_size: Pair, kernel_size: Pair,
                          stride: Pair, padding: Sides) -> Shape:
    if y != argmax_indices.shape:
        raise ShapeError(f"scatter_max: y is {y}, but argmax_indices is {argmax_indices.shape}")
    return y[0], *image_size, y[3]


def _distinct(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """No two entries alike, half of them negative, at least ½ apart."""
    n = math.prod(shape)
    return (rng.permutation(n).reshape(shape) - n // 2 + 0.5) / 2


def _cases(rng: np.random.Generator) -> Iterator[tuple[str, Shape, dict[str, Any]]]:
    """The cases above, and some that are drawn."""
    yield from _CASES
    for name in ("drawn", "drawn again"):
        x, w, drawn = geometry(rng)
        kernel_size = (w[0], w[1])
        padding = tuple((min(a, k - 1), min(b, k - 1))
                        for k, (a, b) in zip(kernel_size, drawn["padding"], strict=True))
        image = (max(x[1], w[0]), max(x[2], w[1]))
        yield name, (x[0], *image, x[3]), {"kernel_size": kernel_size,
                                           "stride": drawn["stride"], "padding": padding}


def _max_pool2d_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for name, shape, settings in _cases(rng):
        yield Sample(name, (_distinct(rng, shape),), settings)


def _argmax_indices(rng: np.random.Generator, shape: Shape, settings: dict[str, Any]) -> np.ndarray:
    made: np.ndarray = pooling.max_pool2d(_distinct(rng, shape), **settings)[1]["argmax_indices"]
    return made


def _take_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for name, shape, settings in _cases(rng):
        yield Sample(name, (dyadic(rng, *shape),),
                     {"argmax_indices": _argmax_indices(rng, shape, settings), **settings})


def _spread_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for name, shape, settings in _cases(rng):
        argmax_indices = _argmax_indices(rng, shape, settings)
        yield Sample(name, (dyadic(rng, *argmax_indices.shape),),
                     {"argmax_indices": argmax_indices, "image_size": shape[1:3], **settings})


_TWO: dict[str, Any] = {"kernel_size": (2, 2), "stride": (2, 2), "padding": _SIDES0}

MAX_POOL2D = register(Op(
    name="max_pool2d", axes="N H W C -> N OH OW C", shape=shapes.max_pool2d,
    kernels={"array": pooling.max_pool2d, "reference": reference.max_pool2d},
    vjp={"x": _max_pool2d_vjp},
    test=OpTest(
        samples=_max_pool2d_samples, piecewise_linear=True, subgradient="first",
        error_inputs=(
            ErrorInput("windows of padding", ((1, 4, 4, 1),), _TWO | {"padding": ((2, 0), (0, 0))},
                       "without a single pixel"),
            ErrorInput("rank", ((4, 4, 1),), _TWO, "x needs 4 axes, got 3"),
            ErrorInput("too large", ((1, 1, 4, 1),), _TWO, "does not fit"),
            ErrorInput("stride", ((1, 4, 4, 1),), _TWO | {"stride": (0, 2)},
                       "stride must be at least 1"),)),
    saved=(), residuals=("argmax_indices",), family="pool", flops=_flops))

GATHER_MAX = register(Op(
    name="gather_max", axes="N H W C -> N OH OW C", shape=_gather_max_shape,
    kernels={"array": pooling.gather_max, "reference": reference.gather_max},
    vjp={"x": _max_pool2d_vjp}, test=OpTest(samples=_take_samples, exact_in=("x",)), saved=(),
    family="pool"))

SCATTER_MAX = register(Op(
    name="scatter_max", axes="N OH OW C -> N H W C", shape=_scatter_max_shape,
    kernels={"array": pooling.scatter_max, "reference": reference.scatter_max},
    vjp={"y": _scatter_max_vjp},
    test=OpTest(
        samples=_spread_samples, exact_in=("y",),
        error_inputs=(
            ErrorInput("argmax_indices", ((1, 2, 2, 1),),
                       {**_TWO, "argmax_indices": np.zeros((1, 1, 1, 1), np.uint8),
                        "image_size": (2, 2)}, "argmax_indices is (1, 1, 1, 1)"),)),
    saved=(), family="pool"))

gather_max = make_function(GATHER_MAX)
gather_max.__doc__ = """The pixel of each window at ``argmax_indices``: N H W C -> N OH OW C.

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C)
    argmax_indices : ndarray of int, shape (N, OH, OW, C)
        Place u · KW + v inside each window, as `max_pool2d` finds it.
    kernel_size, stride, padding
        As `max_pool2d` normalizes them.

    Examples
    --------
    >>> x = Tensor(np.arange(4.0).reshape(1, 2, 2, 1))
    >>> gather_max(x, argmax_indices=np.array([[[[2]]]]), kernel_size=(2, 2), stride=(2, 2),
    ...              padding=((0, 0), (0, 0))).item()
    2.0
    """

scatter_max = make_function(SCATTER_MAX)
scatter_max.__doc__ = """The adjoint of `gather_max`: add each entry at its index.

    Parameters
    ----------
    y : Tensor, shape (N, OH, OW, C)
    argmax_indices : ndarray of int, shape (N, OH, OW, C)
    image_size : (int, int)
        (H, W) of the images.
    kernel_size, stride, padding
        As `max_pool2d` normalizes them.

    Raises
    ------
    ShapeError
        If ``y`` and ``argmax_indices`` differ in shape.

    Examples
    --------
    >>> y = Tensor(np.full((1, 1, 1, 1), 5.0))
    >>> scatter_max(y, argmax_indices=np.array([[[[2]]]]), image_size=(2, 2), kernel_size=(2, 2),
    ...                stride=(2, 2), padding=((0, 0), (0, 0))).data[0, :, :, 0]
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
    made = _unfold_shape(x, kernel_size=(y[4], y[5]), stride=stride, padding=padding,
                          fill=0.0)
    if made != y:
        raise ShapeError(f"fold: y is {y}, but unfold makes {made} of images {x}")
    return x


def _unfold_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for name, shape, settings in _cases(rng):
        yield Sample(name, (dyadic(rng, *shape),), {**settings, "fill": 0.5})


def _fold_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for name, shape, settings in _cases(rng):
        y = _unfold_shape(shape, **settings, fill=0.0)
        yield Sample(name, (dyadic(rng, *y),), {
            "image_size": shape[1:3], "stride": settings["stride"],
            "padding": settings["padding"]})


def _unfold_vjp(ct: Tensor, out: Tensor, x: Tensor, *, kernel_size: Pair, stride: Pair,
                 padding: Sides, fill: float) -> Tensor:
    return fold(ct, image_size=x.shape[1:3], stride=stride, padding=padding)


def _fold_vjp(ct: Tensor, out: Tensor, y: Tensor, *, image_size: Pair, stride: Pair,
              padding: Sides) -> Tensor:
    return unfold(ct, kernel_size=y.shape[4:], stride=stride, padding=padding, fill=0.0)


UNFOLD = register(Op(
    name="unfold", axes="N H W C -> N OH OW C KH KW", shape=_unfold_shape,
    kernels={"array": pooling.unfold, "reference": reference.unfold}, vjp={"x": _unfold_vjp},
    test=OpTest(samples=_unfold_samples, exact_in=("x",)), saved=(), family="pool"))

FOLD = register(Op(
    name="fold", axes="N OH OW C KH KW -> N H W C", shape=_fold_shape,
    kernels={"array": pooling.fold, "reference": reference.fold}, vjp={"y": _fold_vjp},
    test=OpTest(
        samples=_fold_samples, exact_in=("y",),
        error_inputs=(
            ErrorInput("image", ((1, 2, 2, 1, 2, 2),),
                       {"image_size": (3, 3), "stride": (2, 2), "padding": _SIDES0},
                       "unfold makes (1, 1, 1, 1, 2, 2)"),)),
    saved=(), family="pool"))

unfold = make_function(UNFOLD)
unfold.__doc__ = """Every window of the images, copied out: N H W C -> N OH OW C KH KW.

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C)
    kernel_size, stride, padding
        As `max_pool2d` normalizes them.
    fill : float
        What stands in the padding.

    Examples
    --------
    >>> unfold(Tensor(np.zeros((1, 4, 4, 3))), kernel_size=(2, 2), stride=(2, 2),
    ...         padding=((0, 0), (0, 0)), fill=0.0).shape
    (1, 2, 2, 3, 2, 2)
    """

fold = make_function(FOLD)
fold.__doc__ = """The adjoint of `unfold`: add up windows where they overlap.

    Parameters
    ----------
    y : Tensor, shape (N, OH, OW, C, KH, KW)
    image_size : (int, int)
        (H, W) of the images.
    stride, padding
        As `max_pool2d` normalizes them.

    Raises
    ------
    ShapeError
        If `unfold` does not make ``y`` of such images.

    Examples
    --------
    >>> fold(Tensor(np.ones((1, 1, 2, 1, 1, 2))), image_size=(1, 3), stride=(1, 1),
    ...      padding=((0, 0), (0, 0))).data[0, :, :, 0]
    array([[1., 2., 1.]])
    """


def _shared_shape(x: Shape, *, kernel_size: Pair, stride: Pair, padding: Sides,
                  ties: str) -> Shape:
    checks.choice("max_pool2d", "ties", ties, ("first", *_TIES))
    return shapes.max_pool2d(x, kernel_size=kernel_size, stride=stride, padding=padding)


def _shared_array(x: np.ndarray, *, kernel_size: Pair, stride: Pair, padding: Sides,
                  ties: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    view = pooling.unfold(x, kernel_size=kernel_size, stride=stride, padding=padding,
                           fill=-math.inf)                    # N OH OW C KH KW
    inside = pooling.unfold(np.ones((1, *x.shape[1:3], 1)), kernel_size=kernel_size,
                             stride=stride, padding=padding, fill=0.0)
    y = view.max(axis=(4, 5))                                 # N OH OW C
    top = y[..., None, None]
    mask = ((view == top) | ((view != view) & (top != top))) & (inside > 0)
    shares = mask.astype(x.dtype)
    if ties == "split":
        shares /= shares.sum(axis=(4, 5), keepdims=True)
    return y, {"shares": shares}


def _shared_vjp(ct: Tensor, out: Tensor, x: Tensor, *, kernel_size: Pair, stride: Pair,
                padding: Sides, ties: str, shares: np.ndarray) -> Tensor:
    chosen = where(shares > 0, reshape(ct, (*ct.shape, 1, 1)), 0.0)
    return fold(chosen * shares, image_size=x.shape[1:3], stride=stride, padding=padding)


def _shared_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for ties in ("split", "all"):
        for name, shape, settings in _cases(rng):
            yield Sample(f"{name}, {ties}", (_distinct(rng, shape),), {**settings, "ties": ties})


MAX_POOL2D_SHARED = register(Op(
    name="max_pool2d_shared", axes="N H W C -> N OH OW C", shape=_shared_shape,
    kernels={"array": _shared_array}, vjp={"x": _shared_vjp},
    test=OpTest(
        samples=_shared_samples, piecewise_linear=True,
        subgradient=lambda *, ties, **settings: "even" if ties == "split" else "all"),
    saved=(), residuals=("shares",), constant_residuals=True, family="pool", flops=_flops))


def _window_settings(op: str, x: Any, kernel_size: Any, stride: Any,
                     padding: Any) -> tuple[Tensor, dict[str, Any]]:
    x = x if isinstance(x, Tensor) else as_tensor(x, op)
    size = checks.pair(op, "kernel_size", kernel_size, minimum=1)
    steps = size if stride is None else checks.pair(op, "stride", stride, minimum=1)
    border = checks.padding(op, padding, image=x.shape[1:3] if x.ndim == 4 else (1, 1),
                            kernel=size, stride=steps)
    return x, {"kernel_size": size, "stride": steps, "padding": border}


@register_function()
def max_pool2d(x: Any, *, kernel_size: Any, stride: Any = None, padding: Any = 0,
               ties: str = "first") -> Tensor:
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
    if ties == "first" or (x.dtype.kind in "iub" and ties in _TIES):    # no gradient to share
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


def _avg_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for name, shape, settings in _cases(rng):
        for counted in (True, False) if name == "padded" else (True,):
            yield Sample(f"{name}{'' if counted else ', padding not counted'}",
                         (rng.normal(size=shape),), {**settings, "count_include_pad": counted})


def _avg_input_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for sample in _avg_samples(rng):
        assert sample.args[0] is not None
        x = sample.args[0].shape
        yield Sample(sample.id, (rng.normal(size=shapes.avg_pool2d(x, **sample.settings)),),
                     {"image_size": x[1:3], **sample.settings})


def _avg_pool2d_vjp(ct: Tensor, out: Tensor, x: Tensor, **settings: Any) -> Tensor:
    return avg_pool2d_input(ct, image_size=x.shape[1:3], **settings)


def _avg_pool2d_input_vjp(ct: Tensor, out: Tensor, y: Tensor, *, image_size: Pair,
                          **settings: Any) -> Tensor:
    return apply(AVG_POOL2D, ct, **settings)


AVG_POOL2D = register(Op(
    name="avg_pool2d", axes="N H W C -> N OH OW C", shape=shapes.avg_pool2d,
    kernels={"array": pooling.avg_pool2d, "reference": reference.avg_pool2d},
    vjp={"x": _avg_pool2d_vjp},
    test=OpTest(
        samples=_avg_samples,
        error_inputs=(
            ErrorInput("windows of padding", ((1, 4, 4, 1),),
                       _TWO | {"padding": ((2, 0), (0, 0)), "count_include_pad": True},
                       "without a single pixel"),)),
    saved=(), family="pool", flops=_flops))

AVG_POOL2D_INPUT = register(Op(
    name="avg_pool2d_input", axes="N OH OW C -> N H W C", shape=_avg_pool2d_input_shape,
    kernels={"array": pooling.avg_pool2d_input, "reference": reference.avg_pool2d_input},
    vjp={"y": _avg_pool2d_input_vjp},
    test=OpTest(
        samples=_avg_input_samples,
        error_inputs=(
            ErrorInput("image", ((1, 3, 3, 1),),
                       _TWO | {"image_size": (4, 4), "count_include_pad": True},
                       "avg_pool2d makes (1, 2, 2, 1)"),)),
    saved=(), family="pool"))

avg_pool2d_input = make_function(AVG_POOL2D_INPUT)
avg_pool2d_input.__doc__ = """The adjoint of `avg_pool2d`: share each entry out among its window.

    Parameters
    ----------
    y : Tensor, shape (N, OH, OW, C)
    image_size : (int, int)
        (H, W) of the images.
    kernel_size, stride, padding, count_include_pad
        As `avg_pool2d` normalizes them.

    Raises
    ------
    ShapeError
        If `avg_pool2d` does not make ``y`` of such images.

    Examples
    --------
    >>> avg_pool2d_input(Tensor(np.full((1, 1, 1, 1), 8.0)), image_size=(2, 2), kernel_size=(2, 2),
    ...                  stride=(2, 2), padding=((0, 0), (0, 0)),
    ...                  count_include_pad=True).data[0, :, :, 0]
    array([[2., 2.],
           [2., 2.]])
    """


@register_function()
def avg_pool2d(x: Any, *, kernel_size: Any, stride: Any = None, padding: Any = 0,
               count_include_pad: bool = True) -> Tensor:
    """The mean of each window, channel by channel.

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C)
        Images.
    kernel_size, stride, padding
        As in `max_pool2d`; padding holds zeros.
    count_include_pad : bool, default True
        Divide by KH · KW everywhere; if False, by the pixels of the image under the window.

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
    return apply(AVG_POOL2D, x, **settings, count_include_pad=checks.flag(
        "avg_pool2d", "count_include_pad", count_include_pad))


@register_function()
def global_avg_pool2d(x: Any, *, keepdims: bool = False) -> Tensor:
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
    return mean(x, axis=(1, 2), keepdims=keepdims)
