"""Convolution of images N H W C with filters KH KW C O.

conv2d and its two adjoints, conv2d_input and conv2d_weight, belong to one trilinear form

    T(x, w, y) = Σ conv2d(x, w) · y,

so the rules of each are the other two, and derivatives of every order stay in the family.  The
optional bias is an input, so that a kernel can add it while the block is in cache.
conv_transpose2d is conv2d_input with the channels of its filters named the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from tinygrad_cnn import checks, shapes
from tinygrad_cnn.core import Tensor, TensorLike, apply, as_tensor, make_function
from tinygrad_cnn.core.op import ErrorInput, Op, OpTest, dyadic, register, register_function
from tinygrad_cnn.errors import SettingError, ShapeError
from tinygrad_cnn.kernels import conv, reference
from tinygrad_cnn.ops.declare import each, geometry
from tinygrad_cnn.ops.reduction import SUM_TO
from tinygrad_cnn.ops.shape import TRANSPOSE, one_image, pad
from tinygrad_cnn.shapes import PaddingLike, Pair, PairLike, Shape, Sides, effective_kernel_size
from tinygrad_cnn.types import Array, Function, Settings

__all__ = ["conv2d", "conv2d_input", "conv2d_weight", "conv_transpose2d"]


# ---- samples

_PLAIN = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
_CASES: tuple[tuple[str, Shape, Shape, Settings], ...] = (
    # axes of unlike sizes, strides that leave a border, gaps between windows, uneven padding
    ("3x3 stride 1", (2, 5, 4, 3), (3, 3, 3, 4), _PLAIN | {"padding": ((1, 1), (0, 2))}),
    ("stride leaves a border", (2, 8, 6, 3), (3, 2, 3, 4), _PLAIN | {"stride": (2, 3)}),
    ("windows apart", (1, 3, 4, 2), (1, 1, 2, 3), _PLAIN | {"stride": (1, 2)}),
    ("dilated", (2, 7, 6, 2), (2, 3, 2, 3),
     _PLAIN | {"dilation": (3, 2), "padding": ((0, 1), (2, 0))}),
    ("everything at once", (1, 6, 7, 4), (3, 2, 2, 6),
     {"stride": (2, 1), "padding": ((2, 1), (0, 1)), "dilation": (1, 2), "groups": 2}),
    ("depthwise", (2, 4, 5, 3), (2, 3, 1, 3), _PLAIN | {"groups": 3, "padding": ((1, 0), (1, 1))}),
)


def _cases(rng: np.random.Generator) -> Iterator[tuple[str, Shape, Shape, Settings]]:
    """The cases above, and some that are drawn."""
    yield from _CASES
    yield "drawn", *geometry(rng)
    yield "drawn again", *geometry(rng)
    yield "drawn, two groups", *geometry(rng, groups=2)


def _biased(rng: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    for i, case in enumerate(_cases(rng)):
        yield f"{case[0]}, {'no bias' if i % 2 else 'bias'}", *case[1:], i % 2 == 0


def _result(x: Shape, w: Shape, settings: Settings) -> Shape:
    return shapes.conv2d(x, w, **settings)


def _conv2d_flops(x: Shape, w: Shape, b: Shape | None = None, *, out_shape: Shape,
                  **settings: Any) -> int:
    return 2 * math.prod(out_shape) * math.prod(w[:3])


CONV2D = register(Op(
    name="conv2d", axes="N H W C, KH KW C/groups O, O -> N OH OW O", shape=shapes.conv2d,
    kernels=conv.kernels("conv2d") | {"reference": reference.conv2d}, choose=conv.choose("conv2d"),
    vjp={"x": lambda ct, out, x, w, b=None, **settings: apply(
            CONV2D_INPUT, ct, w, image_size=x.shape[1:3], **settings),
         "w": lambda ct, out, x, w, b=None, **settings: apply(
            CONV2D_WEIGHT, x, ct, kernel_size=w.shape[:2], **settings),
         "b": lambda ct, out, x, w, b=None, **settings: apply(SUM_TO, ct, shape=b.shape)},
    test=OpTest(
        samples=each(_biased, lambda rng, x, w, settings, bias: (
            (dyadic(rng, *x), dyadic(rng, *w), dyadic(rng, w[3]) if bias else None), settings)),
        exact_in=("x", "w", "b"),
        error_inputs=(
            ErrorInput("channels", ((2, 8, 8, 4), (3, 3, 3, 5), None), _PLAIN,
                       "C is 4 in x but 3 in w"),
            ErrorInput("groups", ((2, 8, 8, 4), (3, 3, 3, 6), None), _PLAIN | {"groups": 2},
                       "3 × 2 groups = 6"),
            ErrorInput("filters", ((2, 8, 8, 4), (3, 3, 2, 5), None), _PLAIN | {"groups": 2},
                       "5, is not divisible by groups=2"),
            ErrorInput("bias", ((2, 8, 8, 3), (3, 3, 3, 5), (4,)), _PLAIN,
                       "O is 5 in w but 4 in b"),
            ErrorInput("rank", ((8, 8, 3), (3, 3, 3, 5), None), _PLAIN, "x needs 4 axes, got 3"),
            ErrorInput("image too small", ((1, 2, 2, 1), (3, 3, 1, 1), None), _PLAIN,
                       "does not fit"),
            ErrorInput("stride", ((1, 4, 4, 1), (3, 3, 1, 1), None), _PLAIN | {"stride": (0, 1)},
                       "stride must be at least 1"),)),
    saved=("x", "w"), family="conv", flops=_conv2d_flops))

CONV2D_INPUT: Op = register(Op(
    name="conv2d_input", axes="N OH OW O, KH KW C/groups O -> N H W C", shape=shapes.conv2d_input,
    kernels=conv.kernels("conv2d_input") | {"reference": reference.conv2d_input},
    choose=conv.choose("conv2d_input"),
    vjp={"y": lambda ct, out, y, w, *, image_size, **settings: apply(CONV2D, ct, w, **settings),
         "w": lambda ct, out, y, w, *, image_size, **settings: apply(
            CONV2D_WEIGHT, ct, y, kernel_size=w.shape[:2], **settings)},
    test=OpTest(
        samples=each(_cases, lambda rng, x, w, settings: (
            (dyadic(rng, *_result(x, w, settings)), dyadic(rng, *w)),
            {"image_size": x[1:3], **settings})),
        exact_in=("y", "w"),
        error_inputs=(
            ErrorInput("image", ((1, 4, 4, 2), (3, 3, 1, 2)), _PLAIN | {"image_size": (7, 7)},
                       "conv2d makes (1, 5, 5, 2)"),)),
    saved=("y", "w"), family="conv",
    flops=lambda y, w, *, out_shape, **settings: 2 * math.prod(y) * math.prod(w[:3])))

CONV2D_WEIGHT: Op = register(Op(
    name="conv2d_weight", axes="N H W C, N OH OW O -> KH KW C/groups O", shape=shapes.conv2d_weight,
    kernels=conv.kernels("conv2d_weight") | {"reference": reference.conv2d_weight},
    choose=conv.choose("conv2d_weight"),
    vjp={"x": lambda ct, out, x, y, *, kernel_size, **settings: apply(
            CONV2D_INPUT, y, ct, image_size=x.shape[1:3], **settings),
         "y": lambda ct, out, x, y, *, kernel_size, **settings: apply(CONV2D, x, ct, **settings)},
    test=OpTest(
        samples=each(_cases, lambda rng, x, w, settings: (
            (dyadic(rng, *x), dyadic(rng, *_result(x, w, settings))),
            {"kernel_size": w[:2], **settings})),
        exact_in=("x", "y"),
        error_inputs=(
            ErrorInput("window", ((1, 6, 6, 1), (1, 4, 4, 2)), _PLAIN | {"kernel_size": (2, 2)},
                       "conv2d makes (1, 5, 5, 2)"),)),
    saved=("x", "y"), family="conv",
    flops=lambda x, y, *, out_shape, **settings: 2 * math.prod(y) * math.prod(out_shape[:3])))


@make_function(CONV2D_INPUT)
def conv2d_input(y: TensorLike, w: TensorLike, *, image_size: Pair, stride: Pair, padding: Sides,
                 dilation: Pair, groups: int) -> Tensor:
    """The adjoint of `conv2d` in its images: from y (N, OH, OW, O) and the filters.

    ``image_size`` is (H, W) of the images, since several sizes can lead to one (OH, OW).  The other
    settings are those of `conv2d`: pairs, and padding as ((top, bottom), (left, right)).  If conv2d
    does not make ``y`` of such images, that is a `ShapeError`.

    >>> y, w = Tensor(np.ones((1, 2, 2, 1))), Tensor(np.ones((2, 2, 1, 1)))
    >>> conv2d_input(y, w, image_size=(3, 3), stride=(1, 1), padding=((0, 0), (0, 0)),
    ...              dilation=(1, 1), groups=1).data[0, :, :, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """


@make_function(CONV2D_WEIGHT)
def conv2d_weight(x: TensorLike, y: TensorLike, *, kernel_size: Pair, stride: Pair, padding: Sides,
                  dilation: Pair, groups: int) -> Tensor:
    """The adjoint of `conv2d` in its filters: from the images and y (N, OH, OW, O).

    ``kernel_size`` is (KH, KW) of the filters; the rest is as for `conv2d_input`.

    >>> x, y = Tensor(np.ones((1, 3, 3, 1))), Tensor(np.ones((1, 2, 2, 1)))
    >>> conv2d_weight(x, y, kernel_size=(2, 2), stride=(1, 1), padding=((0, 0), (0, 0)),
    ...               dilation=(1, 1), groups=1).data[:, :, 0, 0]
    array([[4., 4.],
           [4., 4.]])
    """


@register_function()
@one_image
def conv2d(x: TensorLike, w: TensorLike, b: TensorLike | None = None, stride: PairLike = 1,
           padding: PaddingLike = 0, dilation: PairLike = 1, groups: int = 1) -> Tensor:
    """Slide the filters ``w`` over the images ``x`` and sum the products.

    y[n, i, j, o] = b[o] + Σ_{u, v, c} x[n, i·s + u·d − top, j·s + v·d − left, c] · w[u, v, c, o],
    with x = 0 outside the images; with groups, c runs over the group of o.

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C)
        Images.
    w : Tensor, shape (KH, KW, C / groups, O)
        Filters.  They are not flipped: this is cross-correlation, the custom of deep learning.
    b : Tensor, shape (O,), optional
        Added to every pixel of its channel.
    stride : int or (int, int), pixels, default 1
        Distance between window positions, down and across.
    padding : int, (int, int), ((int, int), (int, int)), "same" or "valid", pixels, default 0
        Zeros around the images: everywhere; down, across; (top, bottom), (left, right).  "same"
        makes OH = ceil(H / stride), with an odd pixel at the bottom and right.
    dilation : int or (int, int), pixels, default 1
        Distance between the pixels under one window.
    groups : int, default 1
        Parts into which the channels are split, each with filters of its own.

    Returns
    -------
    Tensor, shape (N, OH, OW, O)
        OH = (H + top + bottom − dilation·(KH − 1) − 1) // stride + 1, and OW likewise.  Pixels
        that no whole window reaches get gradient zero.  In float32, kernels that filter by
        Winograd's method are within 5e-5 of the largest result that does not see a pixel, whatever
        that pixel holds; NaN and infinity reach the results that see them alone.

    Raises
    ------
    ShapeError
        If C or O differs between the inputs, or a window is larger than the padded image.
    SettingError
        If ``stride``, ``dilation`` or ``groups`` is below 1, or ``padding`` below 0.

    References
    ----------
    Dumoulin & Visin, *A guide to convolution arithmetic for deep learning*, arXiv:1603.07285.

    Examples
    --------
    >>> x = Tensor(np.arange(9.0).reshape(1, 3, 3, 1))
    >>> w = Tensor(np.ones((2, 2, 1, 1)))
    >>> conv2d(x, w).data[0, :, :, 0]
    array([[ 8., 12.],
           [20., 24.]])
    >>> conv2d(x, w, stride=2, padding=((0, 1), (0, 1))).data[0, :, :, 0]
    array([[ 8.,  7.],
           [13.,  8.]])
    >>> conv2d(x, Tensor(np.ones((2, 2, 3, 1))))
    Traceback (most recent call last):
        ...
    tinygrad_cnn.ShapeError: conv2d: C is 1 in x but 3 in w
      x (N H W C) = (1, 3, 3, 1)
      w (KH KW C/groups O) = (2, 2, 3, 1)
    """
    x = x if isinstance(x, Tensor) else as_tensor(x, "conv2d")
    w = w if isinstance(w, Tensor) else as_tensor(w, "conv2d", "w")
    steps = checks.pair("conv2d", "stride", stride, minimum=1)
    spread = checks.pair("conv2d", "dilation", dilation, minimum=1)
    # Wrong ranks are refused by the axes of the op, which show both inputs.
    known, kernel = x.ndim == 4 and w.ndim == 4, cast(Pair, w.shape[:2])
    return apply(
        CONV2D, x, w, b, stride=steps, dilation=spread,
        padding=checks.padding("conv2d", padding, image=x.shape[1:3], kernel=kernel,
                               stride=steps, dilation=spread) if known else ((0, 0), (0, 0)),
        groups=checks.integer("conv2d", "groups", groups, minimum=1))


# ---- transposed convolution

def _turned(w: TensorLike) -> Tensor:
    """KH KW C O/groups <-> KH KW O/groups C: whose input is whose output."""
    return apply(TRANSPOSE, w, axes=(0, 1, 3, 2))


def _conv_transpose2d_shape(x: Shape, w: Shape, b: Shape | None = None, *, image_size: Pair,
                            stride: Pair, padding: Sides, dilation: Pair, groups: int) -> Shape:
    out = (x[0], *image_size, w[3] * groups)
    turned = (w[0], w[1], w[3], w[2])
    if w[2] % groups:
        raise ShapeError(f"conv_transpose2d: the number of channels, {w[2]}, is not divisible by "
                         f"groups={groups}")
    if b is not None and b != (out[3],):
        raise ShapeError(f"conv_transpose2d: b is {b}, the result has {out[3]} channels")
    made = shapes.conv2d(out, turned, stride=stride, padding=padding, dilation=dilation,
                         groups=groups)
    if made != x:
        raise ShapeError(f"conv_transpose2d: x is {x}, but conv2d makes {made} of images {out}")
    return out


def _transposed(kernel: Function) -> Function:
    """A kernel of conv_transpose2d from one of conv2d_input."""
    def conv_transpose2d(x: Array, w: Array, b: Array | None = None, **settings: object) -> Array:
        y = kernel(x, w.transpose(0, 1, 3, 2), **settings)
        return y if b is None or y is NotImplemented else y + b
    return conv_transpose2d


_choose_input = conv.choose("conv2d_input")

CONV_TRANSPOSE2D = register(Op(
    name="conv_transpose2d", shape=_conv_transpose2d_shape,
    kernels={name: _transposed(kernel) for name, kernel in CONV2D_INPUT.kernels.items()},
    choose=lambda x, w, b=None, **settings: _choose_input(
        x, w.transpose(0, 1, 3, 2), **settings),
    vjp={"x": lambda ct, out, x, w, b=None, *, image_size, **settings: apply(
            CONV2D, ct, _turned(w), **settings),
         "w": lambda ct, out, x, w, b=None, *, image_size, **settings: _turned(apply(
            CONV2D_WEIGHT, ct, x, kernel_size=w.shape[:2], **settings)),
         "b": lambda ct, out, x, w, b=None, **settings: apply(SUM_TO, ct, shape=b.shape)},
    test=OpTest(
        samples=each(_biased, lambda rng, x, w, settings, bias: (
            (dyadic(rng, *_result(x, w, settings)), dyadic(rng, w[0], w[1], w[3], w[2]),
             dyadic(rng, x[3]) if bias else None), {"image_size": x[1:3], **settings})),
        exact_in=("x", "w", "b"),
        error_inputs=(
            ErrorInput("bias", ((1, 2, 2, 3), (2, 2, 3, 4), (3,)), _PLAIN | {"image_size": (3, 3)},
                       "the result has 4 channels"),)),
    saved=("x", "w"), family="conv",
    flops=lambda x, w, b=None, *, out_shape, **settings:
        2 * math.prod(x) * w[0] * w[1] * w[3]))


@register_function()
@one_image
def conv_transpose2d(x: TensorLike, w: TensorLike, b: TensorLike | None = None,
                     stride: PairLike = 1, padding: PaddingLike = 0, output_padding: PairLike = 0,
                     groups: int = 1, dilation: PairLike = 1) -> Tensor:
    """Spread each pixel of ``x`` over a window of the result: the adjoint of `conv2d`, upsampling.

    y[n, i·s + u·d − top, j·s + v·d − left, o] += x[n, i, j, c] · w[u, v, c, o], plus b[o].

    Parameters
    ----------
    x : Tensor, shape (N, H, W, C)
        Images.
    w : Tensor, shape (KH, KW, C, O / groups)
        Filters, of this op's own input and output.
    b : Tensor, shape (O,), optional
        Added to every pixel of its channel.
    stride : int or (int, int), pixels, default 1
        Distance between the windows of neighboring pixels.
    padding : int, (int, int), ((int, int), (int, int)), "same" or "valid", pixels, default 0
        Cut off around the result.  "same" makes OH = H · stride.
    output_padding : int or (int, int), pixels, default 0
        Added to the size of the result at the bottom and right; smaller than stride or dilation.
    dilation : int or (int, int), pixels, default 1
        Distance between the pixels under one window.
    groups : int, default 1
        Parts into which the channels are split.

    Returns
    -------
    Tensor, shape (N, OH, OW, O)
        OH = (H − 1)·stride − top − bottom + dilation·(KH − 1) + 1 + output_padding.

    Raises
    ------
    ShapeError
        If C differs between the inputs, or nothing is left of the result.
    SettingError
        If a setting is out of its range.

    References
    ----------
    Zeiler et al., *Deconvolutional networks*, CVPR 2010; Dumoulin & Visin, arXiv:1603.07285.

    Examples
    --------
    >>> x, w = Tensor(np.array([[1.0, 2.0]]).reshape(1, 1, 2, 1)), Tensor(np.ones((1, 3, 1, 1)))
    >>> conv_transpose2d(x, w, stride=(1, 2)).data[0, :, :, 0]
    array([[1., 1., 3., 2., 2.]])
    """
    op = "conv_transpose2d"
    x = as_tensor(x, "conv_transpose2d")
    w = as_tensor(w, "conv_transpose2d", "w")
    parts = checks.integer(op, "groups", groups, minimum=1)
    shapes.bind_axes(op, "N H W C, KH KW C O", {"x": x.shape, "w": w.shape}, {})
    steps = checks.pair(op, "stride", stride, minimum=1)
    spread = checks.pair(op, "dilation", dilation, minimum=1)
    extra = checks.pair(op, "output_padding", output_padding, minimum=0)
    for e, s, d in zip(extra, steps, spread, strict=True):
        if e >= max(s, d):
            raise SettingError(f"{op}: output_padding {extra} must be smaller than stride {steps} "
                               f"or dilation {spread}")
    same = isinstance(padding, str) and padding == "same"
    if same and any(extra):
        raise SettingError(f"{op}: output_padding {extra} does not go with padding 'same', which "
                           "makes OH = H · stride; give the padding in numbers")
    further = tuple(e // s for e, s in zip(extra, steps, strict=True))
    if any(further):                        # a whole stride more: as if pixels of 0 came after x
        x = pad(x, ((0, further[0]), (0, further[1])))
        extra = (extra[0] % steps[0], extra[1] % steps[1])
    image, kernel = x.shape[1:3], (w.shape[0], w.shape[1])
    if min(w.shape) < 1:
        raise ShapeError(f"{op}: w {w.shape} (KH KW C O) holds no filter")
    if same:
        grown = tuple(n * s for n, s in zip(image, steps, strict=True))
        border = shapes.same_padding(grown, kernel, steps, spread)
    else:
        border = checks.padding(op, padding)
    size = tuple((n - 1) * s - sum(p) + effective_kernel_size(k, d) + e for n, s, p, k, d, e in
                 zip(image, steps, border, kernel, spread, extra, strict=True))
    if same:
        size = tuple(n * s for n, s in zip(image, steps, strict=True))
    if min(size) < 1:
        raise ShapeError(f"{op}: padding {border} cuts off the whole result, which would be {size} "
                         "pixels; use less")
    return apply(CONV_TRANSPOSE2D, x, w, b, image_size=size, stride=steps, padding=border,
                 dilation=spread, groups=parts)
