"""PyTorch's own sample inputs, as a judge of every op: value, gradient and second order.

PyTorch tests its operators with a database of sample calls (``op_db``, and ``module_db`` for
modules).  `OPS_OF_TORCH` and `MODULES_OF_TORCH` say which operator judges which function of ours.
An adapter has the signature of the PyTorch function, takes tensors in PyTorch's layout and calls
ours; an argument that it does not name, or a value that we do not have, counts as unsupported, by
argument.  ``python tests/ops/test_opinfo.py`` prints the table of counts.

The reference is PyTorch in float64, at the same numbers, for both dtypes.  An entry may be off by
FACTOR · u · (size + condition).  u is the unit roundoff of the dtype; the size is that of the
array's largest entry, or of one of condition number 1, |ct| · |y| / |x| for a gradient, if that is
larger, where |x| is the deviation of x.  The condition is measured: how far PyTorch is off in
float32, in units of the roundoff of float32, when inputs, cotangent and directions are moved up or
down by one ulp at random.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn

pytest.importorskip("expecttest", reason="PyTorch's databases of samples import expecttest")
torch = pytest.importorskip("torch", reason="PyTorch is not installed: no second opinion")

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning:torch"),
              pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
              pytest.mark.filterwarnings("ignore:reduction. 'mean' divides"),
              pytest.mark.filterwarnings("ignore:.*upsample.* is deprecated")]

FACTOR = 32
DTYPES = ("float64", "float32")
EVERY = {"nn.functional.max_pool2d": 5}     # of 1440 samples: each value of each argument is there


class UnsupportedError(Exception):
    """The sample uses an argument that we do not have; the text names it."""


def need(holds, argument):
    if not holds:
        raise UnsupportedError(argument)


# ---- layouts and arguments -----------------------------------------------------------------------

def last(x):
    """N C ... -> N ... C."""
    return tc.transpose(x, (0, *range(2, x.ndim), 1)) if x.ndim > 2 else x


def first(x):
    """N ... C -> N C ... ."""
    return tc.transpose(x, (0, x.ndim - 1, *range(1, x.ndim - 1))) if x.ndim > 2 else x


def images(x):
    """N C H W -> N H W C, or C H W -> H W C."""
    return last(x) if x.ndim != 3 else tc.transpose(x, (1, 2, 0))


def maps(y):
    """N H W C -> N C H W, or H W C -> C H W."""
    return first(y) if y.ndim != 3 else tc.transpose(y, (2, 0, 1))


def only(function, **fixed):
    """``function``, and arguments for which it has one value."""
    def adapter(*args, **kwargs):
        for name, value in fixed.items():
            need(kwargs.pop(name, value) == value, name)
        return function(*args, **kwargs)

    known = inspect.signature(function)
    more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
            for name, value in fixed.items()]
    adapter.__signature__ = known.replace(parameters=[*known.parameters.values(), *more])
    return adapter


def axes(dim):
    """``dim`` of a reduction: PyTorch reads an empty list as all axes."""
    return None if dim is None or dim in ([], ()) else tuple(dim) if isinstance(dim, list) else dim


def reduction(function):
    def adapter(input, dim=None, keepdim=False, dtype=None):
        need(dtype is None, "dtype")
        return function(input, axis=axes(dim), keepdims=keepdim)
    return adapter


def logsumexp(input, dim, keepdim=False):
    # PyTorch's gradient is exp(x − logsumexp(x)): at 1e3 rounding the second term costs 3 digits.
    need(largest(input.numpy()) < 1e3, "scores of 1e3, where PyTorch's gradient has lost digits")
    return tc.logsumexp(input, axis=axes(dim), keepdims=keepdim)


def var(input, dim=None, unbiased=None, keepdim=False, correction=1, *, function=tc.var):
    if isinstance(dim, bool):                               # var(x, unbiased)
        dim, unbiased = None, dim
    lost = 1 if correction is None else correction
    return function(input, axis=axes(dim), keepdims=keepdim,
                    correction=lost if unbiased is None else int(unbiased))


def over(function):
    def adapter(input, dim, dtype=None):
        need(dtype is None, "dtype")
        need(input.ndim, "dim of an input without axes")
        return function(input, dim)
    return adapter


def prod(input, dim=None, keepdim=False, dtype=None):
    need(np.abs(np.prod(input.numpy().astype(float))) > 1e-30, "product near the end of float32")
    return reduction(tc.prod)(input, dim, keepdim, dtype)


def tensordot(a, b, dims=2):
    if not isinstance(dims, int):
        need(all(a.shape[i] == b.shape[j] for i, j in zip(*dims, strict=True)), "axes of size 1")
    return tc.tensordot(a, b, dims)


def hypot(a, b):
    need(not ((np.asarray(a.data) == 0) & (np.asarray(b.data) == 0)).any(), "(0, 0)")
    return tc.hypot(a, b)


def prelu(input, weight):
    need(input.ndim, "input without axes")
    shape = (-1, *(1,) * (input.ndim - 2)) if weight.ndim else ()
    return tc.prelu(input, tc.reshape(weight, shape) if input.ndim > 1 else weight)


def vector_norm(x, ord=2, dim=None, keepdim=False, dtype=None):
    need(dtype is None, "dtype")
    need(x.ndim or ord != 6, "power of a number")         # PyTorch's second order is not quite 0
    return tc.norm(x, ord, axes(dim), keepdim)


def sort(input, dim=-1, descending=False, stable=False):
    need(input.ndim, "dim of an input without axes")
    return tc.sort(input, dim, descending)


def topk(input, k, dim=-1, largest=True, sorted=True):
    need(input.ndim, "dim of an input without axes")
    return tc.topk(input, k, dim, largest)[0]


def take_along(input, indices, dim=None):
    return tc.take_along_axis(input, np.ravel(indices) if dim is None else indices, dim)


def gather(input, dim, index, sparse_grad=False):
    need(input.ndim == np.ndim(index) > 0, "index with other axes")
    return tc.gather(input, dim, index)


def embedding(weight, input, padding_idx=None, max_norm=None, norm_type=2.0,
              scale_grad_by_freq=False, sparse=False):
    need(padding_idx is None, "padding_idx")
    need(max_norm is None, "max_norm")
    need(not scale_grad_by_freq, "scale_grad_by_freq")
    return tc.embedding(input, weight)


def diff(input, n=1, dim=-1, prepend=None, append=None):
    return tc.diff(input, n, dim, prepend, append)


def shape_of(function):
    def adapter(input, *shape):
        shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return function(input, tuple(getattr(shape, "shape", shape)))
    return adapter


def expand(input, shape):
    need(-1 not in shape, "shape with -1")
    return tc.broadcast_to(input, tuple(shape))


def swap(input, dim0=-2, dim1=-1):
    if input.ndim < 2:
        return input
    order = list(range(input.ndim))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return tc.transpose(input, order)


def movedim(input, source, destination):
    order = np.moveaxis(np.empty(range(input.ndim)), source, destination).shape
    return tc.transpose(input, order)


def to(dtype):
    def adapter(input, memory_format=None):
        return tc.astype(input, dtype)
    return adapter


def cast(input, *device_dtype, memory_format=None):
    for d in device_dtype:
        if isinstance(d, torch.dtype):
            return tc.astype(input, str(d).removeprefix("torch."))
        if isinstance(d, (np.ndarray, tc.Tensor)):          # to(other)
            return tc.astype(input, d.dtype)
    raise TypeError(f"no dtype in {device_dtype}")


def pad(input, pad, mode="constant", value=None):
    need(min(pad, default=0) >= 0, "pad below 0")
    names = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    pad_width = [(0, 0)] * (input.ndim - len(pairs)) + pairs[::-1]
    return tc.pad(input, pad_width, mode=names[mode], value=0.0 if value is None else value)


def constant_pad(input, pad_widths, value=0.0):
    return pad(input, pad_widths, "constant", value)


def getitem(input, index):
    # PyTorch reads a list that holds more than integers as a tuple; NumPy refuses it.
    plain = isinstance(index, list) and all(isinstance(i, int) for i in index)
    return tc.getitem(input, tuple(index) if isinstance(index, list) and not plain else index)


def at(input, dim, item):
    need(input.ndim, "dim of an input without axes")
    return tc.getitem(input, (slice(None),) * (dim % input.ndim) + (item,))


def narrow(input, dim, start, length):
    start = int(start) + (input.shape[dim] if start < 0 else 0)
    return at(input, dim, slice(start, start + length))


def index_put(input, indices, values, accumulate=False):
    need(accumulate, "accumulate=False")
    index = tuple(indices)
    target = np.empty(input.shape)[index].shape
    return input + tc.scatter_add(tc.broadcast_to(values, target), index=index, shape=input.shape)


def concatenate(tensors, dim=0):
    need(len({x.ndim for x in tensors}) == 1, "tensors of shape (0,) among others")
    return tc.concatenate(tensors, axis=dim)


def softmax_like(function):
    def adapter(input, dim, dtype=None):
        need(dtype is None, "dtype")
        return function(input, axis=dim)
    return adapter


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return maps(tc.conv2d(
        images(input), tc.transpose(weight, (2, 3, 1, 0)), bias, stride=stride, padding=padding,
        dilation=dilation, groups=groups))


def conv_transpose2d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1,
                     dilation=1):
    return maps(tc.conv_transpose2d(
        images(input), tc.transpose(weight, (2, 3, 0, 1)), bias, stride=stride, padding=padding,
        output_padding=output_padding, groups=groups, dilation=dilation))


def ones_and_zeros(weight, bias, size, dtype):
    return (np.ones(size, dtype) if weight is None else weight,
            np.zeros(size, dtype) if bias is None else bias)


def batch_norm(input, running_mean, running_var, weight=None, bias=None, training=False,
               momentum=0.1, eps=1e-5):
    need(input.ndim > 1, "input without C")
    w, b = ones_and_zeros(weight, bias, input.shape[1], input.dtype)
    fixed = {} if training else {"mean": running_mean, "var": running_var}
    return first(tc.batch_norm(last(input), w, b, eps=eps, **fixed))


def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    w, b = ones_and_zeros(weight, bias, normalized_shape, input.dtype)
    return tc.layer_norm(input, w, b, eps=eps)


def instance_norm(function):
    def adapter(input, running_mean=None, running_var=None, weight=None, bias=None,
                use_input_stats=True, momentum=0.1, eps=1e-5):
        need(use_input_stats, "use_input_stats")
        w, b = ones_and_zeros(weight, bias, input.shape[1], input.dtype)
        x = last(input)
        if function is None:
            return first(tc.instance_norm(x, w, b, eps=eps))
        return first(function(tc.standardize(x, tuple(range(1, x.ndim - 1)), eps=eps), w, b))
    return adapter


def group_norm(input, num_groups, weight=None, bias=None, eps=1e-5):
    w, b = ones_and_zeros(weight, bias, input.shape[1], input.dtype)
    return first(tc.group_norm(last(input), num_groups, w, b, eps=eps))


def linear(input, weight, bias=None):
    return tc.linear(input, tc.transpose(weight), bias)


def cross_entropy(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
                  reduction="mean", label_smoothing=0.0):
    need(size_average is None and reduce is None, "size_average, reduce")
    soft = target.shape == input.shape and input.ndim > 1
    need(not soft or weight is None or reduction != "mean", "weighted mean of soft labels")
    return tc.cross_entropy(last(input), np.moveaxis(target, 1, -1) if soft else target,
                            weight=weight, reduction=reduction, label_smoothing=label_smoothing,
                            ignore_index=ignore_index)


def nll_loss(input, target, weight=None, size_average=None, ignore_index=-100, reduce=None,
             reduction="mean"):
    need(size_average is None and reduce is None, "size_average, reduce")
    return tc.nll_loss(last(input), target, weight=weight, reduction=reduction,
                       ignore_index=ignore_index)


def binary_cross_entropy_with_logits(input, target, weight=None, size_average=None, reduce=None,
                                     reduction="mean", pos_weight=None):
    need(size_average is None and reduce is None, "size_average, reduce")
    return tc.binary_cross_entropy_with_logits(input, target, weight=weight,
                                               pos_weight=pos_weight, reduction=reduction)


def plain_loss(function):
    def adapter(input, target, reduction="mean", **settings):
        return function(input, target, reduction=reduction, **settings)
    return adapter


def triplet(anchor, positive, negative, margin=1.0, p=2.0, eps=1e-6, swap=False,
            reduction="mean"):
    need(not swap, "swap")
    need(anchor.shape == positive.shape == negative.shape, "shapes that broadcast")
    return tc.triplet_margin_loss(anchor, positive, negative, margin=margin, p=p, eps=eps,
                                  reduction=reduction)


def cosine(x1, x2, dim=1, eps=1e-8):
    need(x1.ndim > 0, "dim of an input without axes")
    need(x1.shape == x2.shape, "shapes that broadcast")
    return tc.cosine_similarity(x1, x2, dim, eps=eps)


def resized(input, size=None, scale_factor=None, mode="nearest", align_corners=None,
            recompute_scale_factor=None, antialias=False):
    need(mode in ("nearest", "bilinear"), "mode")
    need(input.ndim == 4, "rows and volumes")
    if recompute_scale_factor:
        scales = np.broadcast_to(scale_factor, 2)
        size = [int(n * s) for n, s in zip(input.shape[2:], scales, strict=True)]
        scale_factor = None
    return maps(tc.interpolate(images(input), size, scale_factor, mode, bool(align_corners)))


def upsampled(mode):
    def adapter(input, size=None, scale_factor=None, align_corners=None):
        return resized(input, size, scale_factor, mode, align_corners)
    return adapter


def adaptive(function):
    def adapter(input, output_size, return_indices=False):
        y = function(images(input), output_size, *[True] * return_indices)
        return maps(y[0] if return_indices else y)
    return adapter


def shuffle(input, upscale_factor):
    return maps(tc.pixel_shuffle(images(input), upscale_factor))


def unshuffle(input, downscale_factor):
    return maps(tc.pixel_unshuffle(images(input), downscale_factor))


def rms(input, normalized_shape, weight=None, eps=None):
    w = np.ones(normalized_shape, input.dtype) if weight is None else weight
    return tc.rms_norm(input, w, eps=eps)


def response(input, size, alpha=1e-4, beta=0.75, k=1.0):
    need(input.ndim > 2, "input without C")
    return first(tc.local_response_norm(last(input), size, alpha, beta, k))


def max_pool2d(ties):
    def adapter(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False,
                return_indices=False):
        y = tc.max_pool2d(images(input), kernel_size, stride or None, padding, dilation, ceil_mode,
                          return_indices, ties=ties)
        return maps(y[0] if return_indices else y)
    return adapter


def avg_pool2d(input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True,
               divisor_override=None):
    need(divisor_override is None or divisor_override > 0, "divisor_override below 0")
    border = padding[0] if isinstance(padding, (tuple, list)) and len(padding) == 1 else padding
    return maps(tc.avg_pool2d(images(input), kernel_size, stride or None, border, ceil_mode,
                               count_include_pad, divisor_override))


def unfold(input, kernel_size, dilation=1, padding=0, stride=1):
    y = tc.unfold(images(input), kernel_size, dilation, padding, stride)    # N OH OW C KH KW
    n, oh, ow, c, kh, kw = y.shape
    return tc.reshape(tc.transpose(y, (0, 3, 4, 5, 1, 2)), (n, c * kh * kw, oh * ow))


def dropout(input, p=0.5, training=True, inplace=False):
    need(not training or p == 0, "training: what is dropped is drawn")
    return tc.dropout(input, p=p, training=training)


def dropout_mask(grad_output, mask, scale):
    from tinygrad_cnn.core import apply
    return apply(tc.OPS["dropout"], grad_output, kept=mask, scale=float(scale))


# ---- modules: what makes ours from PyTorch's arguments, and how it is called ---------------------

def make_conv2d(in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1,
                bias=True, padding_mode="zeros"):
    return nn.Conv2D(in_channels, out_channels, kernel_size, stride=stride, padding=padding,
                     dilation=dilation, groups=groups, bias=bias, padding_mode=padding_mode)


def make_conv_transpose2d(in_channels, out_channels, kernel_size, stride=1, padding=0,
                          output_padding=0, groups=1, bias=True, dilation=1):
    return nn.ConvTranspose2D(in_channels, out_channels, kernel_size, stride=stride,
                              padding=padding, output_padding=output_padding, groups=groups,
                              bias=bias, dilation=dilation)


def make_batch_norm(layer):
    def make(num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True,
             bias=True):
        need(bias, "bias")
        return layer(num_features, eps, momentum, affine, track_running_stats)
    return make


def make_layer_norm(normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
    return nn.LayerNorm(tuple(normalized_shape), eps, elementwise_affine, bias)


def make_max_pool2d(kernel_size, stride=None, padding=0, dilation=1, return_indices=False,
                    ceil_mode=False):
    return nn.MaxPool2D(kernel_size, stride, padding, dilation, return_indices, ceil_mode)


def make_avg_pool2d(kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True,
                    divisor_override=None):
    return nn.AvgPool2D(kernel_size, stride, padding, ceil_mode, count_include_pad,
                        divisor_override)


def make_global_avg_pool2d(output_size):
    need(output_size == 1, "output_size")
    return nn.GlobalAvgPool2D(keepdims=True)


def make_pad2d(mode):
    def make(padding, value=0.0):
        left, right, top, bottom = (padding,) * 4 if isinstance(padding, int) else padding
        return nn.Pad2D(((top, bottom), (left, right)), mode=mode, value=value)
    return make


def make_softplus(beta=1, threshold=20):
    need(threshold == 20, "threshold")
    return nn.Softplus(beta)


def make_zero_pad2d(padding):
    left, right, top, bottom = (padding,) * 4 if isinstance(padding, int) else padding
    return nn.ZeroPad2D(((top, bottom), (left, right)))


def make_loss(loss, **fixed):
    def make(**settings):
        for name, value in {"size_average": None, "reduce": None, **fixed}.items():
            need(settings.pop(name, value) == value, name)
        settings = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in settings.items()}
        return loss(**settings)
    return make


def as_it_is(layer, *inputs):
    return layer(*inputs)


def on_images(layer, x):
    y = layer(images(x))
    return maps(y[0] if isinstance(y, tuple) else y)


def on_channels(layer, x):
    return first(layer(last(x)))


def on_scores(layer, x, target):
    soft = target.shape == x.shape and x.ndim > 1
    need(not soft or layer.weight is None or layer.reduction != "mean",
         "weighted mean of soft labels")
    return layer(last(x), np.moveaxis(target, 1, -1) if soft else target)


# ---- which operator judges which function --------------------------------------------------------

# What a loss here gives no gradient to counts as a constant there too.
CONSTANTS = {"cross_entropy": "target", "binary_cross_entropy_with_logits": "target"}

# Words of our errors, and what the table calls a sample that we refuse on purpose.
REFUSED = {
    "soft labels must be at least 0 and each row must sum to 1": "target that is no distribution",
    "does not exist in an array of shape ()": "dim of an input without axes",
    "entries, not one": "dim of more than one entry",
    "is empty": "empty axis",
    "every label is left out by ignore_index": "mean of no label",
    "which is 0 for each channel": "empty batch",
    "eps must be a finite number above 0, got -": "eps below 0",
    "leaves windows of": "padding of whole windows",
    "p must be a number from 0 up to, not including, 1, got 1.0": "p of 1",
}

OPS_OF_TORCH: dict[str, dict[str, Any]] = {
    "add": {"add": tc.add, "__radd__": lambda a, b: b + a},
    "sub": {"sub": tc.sub, "__rsub__": lambda a, b: b - a, "rsub": lambda a, b: b - a},
    "mul": {"mul": tc.mul, "__rmul__": lambda a, b: b * a},
    "div": {"div/no_rounding_mode": tc.div, "true_divide": tc.div, "__rdiv__": lambda a, b: b / a,
            "reciprocal": lambda x: 1 / x},
    "neg": {"neg": tc.neg},
    "power": {"pow": tc.power, "__rpow__": lambda a, b: b ** a, "square": lambda x: x ** 2},
    "exp": {"exp": tc.exp}, "expm1": {"expm1": tc.expm1}, "log": {"log": tc.log},
    "sqrt": {"sqrt": tc.sqrt, "rsqrt": lambda x: 1 / tc.sqrt(x)},
    "abs": {"abs": tc.abs},
    "maximum": {"maximum": tc.maximum, "max/binary": tc.maximum, "clamp_min": tc.maximum},
    "minimum": {"minimum": tc.minimum, "min/binary": tc.minimum, "clamp_max": tc.minimum},
    "clip": {"nn.functional.hardtanh": lambda x, *, min_val=-1.0, max_val=1.0:
             tc.clip(x, min_val, max_val),
             "nn.functional.relu6": lambda x: tc.clip(x, 0, 6)},
    "where": {"where": lambda x, condition, other: tc.where(condition, x, other),
              "masked_fill": lambda x, mask, value: tc.where(mask, value, x)},
    "relu": {"nn.functional.relu": only(tc.relu, inplace=False)},
    "tanh": {"tanh": tc.tanh}, "sigmoid": {"sigmoid": tc.sigmoid},
    "softplus": {"nn.functional.logsigmoid": lambda x: -tc.softplus(-x)},
    "silu": {"nn.functional.silu": only(tc.silu, inplace=False)},
    "gelu_tanh": {"nn.functional.gelu": lambda x, approximate="none":
                  tc.gelu(x, approximate=approximate)},
    "gelu": {"nn.functional.gelu": lambda x, approximate="none":
             tc.gelu(x, approximate=approximate)},
    "softsign": {"nn.functional.softsign": tc.softsign},
    "mish": {"nn.functional.mish": only(tc.mish, inplace=False)},
    "selu": {"nn.functional.selu": only(tc.selu, inplace=False)},
    "celu": {"nn.functional.celu": lambda x, alpha=1.0: tc.celu(x, alpha=alpha)},
    "relu6": {"nn.functional.relu6": only(tc.relu6, inplace=False)},
    "hard_tanh": {"nn.functional.hardtanh": lambda x, *, min_val=-1.0, max_val=1.0:
                  tc.hard_tanh(x, min_val=min_val, max_val=max_val)},
    "hard_swish": {"nn.functional.hardswish": only(tc.hard_swish, inplace=False)},
    "log_sigmoid": {"nn.functional.logsigmoid": tc.log_sigmoid},
    "glu": {"nn.functional.glu": lambda x, dim=-1: tc.glu(x, dim)},
    "prelu": {"nn.functional.prelu": prelu},
    "softmin": {"nn.functional.softmin": softmax_like(tc.softmin)},
    **{ours: {theirs: getattr(tc, ours)} for ours, theirs in (
        ("sin", "sin"), ("cos", "cos"), ("tan", "tan"), ("arcsin", "asin"), ("arccos", "acos"),
        ("arctan", "atan"), ("sinh", "sinh"), ("cosh", "cosh"), ("arcsinh", "asinh"),
        ("arccosh", "acosh"), ("arctanh", "atanh"), ("exp2", "exp2"), ("log1p", "log1p"),
        ("log2", "log2"), ("log10", "log10"), ("logaddexp", "logaddexp"), ("erf", "erf"),
        ("square", "square"), ("reciprocal", "reciprocal"), ("arctan2", "atan2"), ("sign", "sign"),
        ("floor", "floor"), ("ceil", "ceil"), ("trunc", "trunc"), ("rint", "round"),
        ("inner", "inner"), ("outer", "outer"), ("kron", "kron"), ("dot", "dot"),
        ("trace", "trace"), ("remainder", "remainder"))},
    "hypot": {"hypot": hypot}, "round": {"round/decimals_3": tc.round},
    "cumsum": {"cumsum": over(tc.cumsum)}, "cumprod": {"cumprod": over(tc.cumprod)},
    "prod": {"prod": prod},
    "std": {"std": partial(var, function=tc.std), "std/unbiased": partial(var, function=tc.std)},
    "norm": {"linalg.vector_norm": vector_norm},
    "sort": {"sort": sort}, "topk": {"topk": topk},
    "flip": {"flip": lambda x, dims: tc.flip(x, tuple(dims)), "flipud": lambda x: tc.flip(x, 0),
             "fliplr": lambda x: tc.flip(x, 1)},
    "roll": {"roll": lambda x, shifts, dims=None: tc.roll(x, shifts, None if dims in ((), []) else
                                                          dims)},
    "tile": {"tile": lambda x, dims: tc.tile(x, dims)},
    "repeat": {"repeat_interleave": lambda x, repeats, dim=None: tc.repeat(x, repeats, dim)},
    "split": {"split_with_sizes": lambda x, split_sizes, dim=0:
              tc.split(x, np.cumsum(split_sizes)[:-1].tolist(), dim)[0]},
    "chunk": {"chunk": lambda x, chunks, dim=0: tc.chunk(x, chunks, dim)[0]},
    "take": {"take": lambda x, index: tc.take(x, index)},
    "take_along_axis": {"take_along_dim": take_along},
    "gather": {"gather": gather}, "embedding": {"nn.functional.embedding": embedding},
    "tril": {"tril": lambda x, diagonal=0: tc.tril(x, diagonal)},
    "triu": {"triu": lambda x, diagonal=0: tc.triu(x, diagonal)},
    "diagonal": {"diagonal": lambda x, offset=0, dim1=0, dim2=1:
                 tc.diagonal(x, offset, dim1, dim2)},
    "diag": {"diag": lambda x, diagonal=0: tc.diag(x, diagonal)},
    "diff": {"diff": diff}, "einsum": {"einsum": lambda operands, equation:
                                       tc.einsum(equation, *operands)},
    "tensordot": {"tensordot": tensordot},
    "leaky_relu": {"nn.functional.leaky_relu": lambda x, negative_slope=0.01:
                   tc.leaky_relu(x, negative_slope=negative_slope)},
    "elu": {"nn.functional.elu": lambda x, alpha=1.0: tc.elu(x, alpha=alpha)},
    "reshape": {"reshape": shape_of(tc.reshape), "view": shape_of(tc.reshape),
                "reshape_as": shape_of(tc.reshape), "view_as": shape_of(tc.reshape),
                "ravel": lambda x: tc.reshape(x, -1)},
    "flatten": {"flatten": tc.flatten},
    "transpose": {"permute": tc.transpose, "transpose": swap, "t": swap, "mT": swap,
                  "T": tc.transpose, "movedim": movedim},
    "permute": {"permute": tc.permute},
    "astype": {"to": cast, "double": to("float64"), "float": to("float32")},
    "pad": {**{f"nn.functional.pad/{mode}": pad
               for mode in ("constant", "reflect", "replicate", "circular")},
            "constant_pad_nd": constant_pad},
    "getitem": {"__getitem__": getitem, "select": at, "index_select": at, "narrow": narrow,
                "slice": lambda x, dim=0, start=None, end=None, step=None:
                at(x, dim, slice(start, end, step))},
    "scatter_add": {"index_put": index_put},
    "concatenate": {"cat": concatenate},
    "stack": {"stack": lambda tensors, dim=0: tc.stack(tensors, axis=dim)},
    "squeeze": {"squeeze": tc.squeeze, "squeeze/multiple": tc.squeeze},
    "expand_dims": {"unsqueeze": tc.expand_dims},
    "sum_to": {"sum_to_size": shape_of(tc.sum_to)},
    "broadcast_to": {"broadcast_to": shape_of(tc.broadcast_to), "expand": expand,
                     "expand_as": shape_of(tc.broadcast_to)},
    "sum": {"sum": reduction(tc.sum)}, "mean": {"mean": reduction(tc.mean)},
    "var": {"var": var, "var/unbiased": var},
    "max": {"amax": reduction(tc.max), "max/reduction_no_dim": reduction(tc.max),
            "max/reduction_with_dim": reduction(tc.max)},
    "min": {"amin": reduction(tc.min), "min/reduction_no_dim": reduction(tc.min),
            "min/reduction_with_dim": reduction(tc.min)},
    "logsumexp": {"logsumexp": logsumexp},
    "conv2d": {"nn.functional.conv2d": conv2d},
    "conv_transpose2d": {"nn.functional.conv_transpose2d": conv_transpose2d},
    "softmax": {"softmax": softmax_like(tc.softmax),
                "nn.functional.softmin": softmax_like(lambda x, axis: tc.softmax(-x, axis))},
    "log_softmax": {"log_softmax": softmax_like(tc.log_softmax)},
    "standardize": {"nn.functional.instance_norm":
                    instance_norm(lambda x, w, b: x * w + b),
                    "nn.functional.group_norm": group_norm},
    "group_norm": {"nn.functional.group_norm": group_norm},
    "instance_norm": {"nn.functional.instance_norm": instance_norm(None)},
    "affine": {"nn.functional.instance_norm": instance_norm(tc.affine)},
    "batch_norm": {"nn.functional.batch_norm": batch_norm},
    "layer_norm": {"nn.functional.layer_norm": layer_norm},
    "matmul": {"matmul": tc.matmul, "__rmatmul__": lambda a, b: b @ a, "mm": tc.matmul,
               "mv": tc.matmul, "bmm": tc.matmul, "dot": tc.matmul},
    "linear": {"nn.functional.linear": linear},
    "cross_entropy": {"nn.functional.cross_entropy": cross_entropy},
    "nll_loss": {"nn.functional.nll_loss": nll_loss},
    "mse_loss": {"nn.functional.mse_loss": only(tc.mse_loss)},
    "l1_loss": {"nn.functional.l1_loss": plain_loss(tc.l1_loss)},
    "smooth_l1_loss": {"nn.functional.smooth_l1_loss": plain_loss(tc.smooth_l1_loss)},
    "huber_loss": {"nn.functional.huber_loss": plain_loss(tc.huber_loss)},
    "kl_div": {"nn.functional.kl_div": plain_loss(tc.kl_div)},
    "cosine_similarity": {"nn.functional.cosine_similarity": cosine},
    "triplet_margin_loss": {"nn.functional.triplet_margin_loss": triplet},
    "interpolate": {"nn.functional.interpolate/nearest": partial(resized, mode="nearest"),
                    "nn.functional.interpolate/bilinear": partial(resized, mode="bilinear")},
    "upsample2d": {"nn.functional.upsample_nearest": upsampled("nearest"),
                   "nn.functional.upsample_bilinear": partial(upsampled("bilinear"),
                                                              align_corners=True)},
    "adaptive_avg_pool2d": {"nn.functional.adaptive_avg_pool2d": adaptive(tc.adaptive_avg_pool2d)},
    "adaptive_max_pool2d": {"nn.functional.adaptive_max_pool2d": adaptive(tc.adaptive_max_pool2d)},
    "pixel_shuffle": {"nn.functional.pixel_shuffle": shuffle},
    "pixel_unshuffle": {"nn.functional.pixel_unshuffle": unshuffle},
    "rms_norm": {"nn.functional.rms_norm": rms},
    "local_response_norm": {"nn.functional.local_response_norm": response},
    "binary_cross_entropy_with_logits": {
        "nn.functional.binary_cross_entropy_with_logits":
        binary_cross_entropy_with_logits},
    "max_pool2d": {"nn.functional.max_pool2d": max_pool2d("first")},
    "max_pool2d_shared": {"nn.functional.max_pool2d": max_pool2d("split")},
    "avg_pool2d": {"nn.functional.avg_pool2d": avg_pool2d},
    "unfold": {"nn.functional.unfold": unfold},
    "dropout": {"nn.functional.dropout": dropout, "native_dropout_backward": dropout_mask},
}

WITHOUT_JUDGE = {
    "cbrt": "not in PyTorch; judged by NumPy in test_numpy_functions.py",
    "crop": "the gradient of pad, judged with it",
    "conv2d_input": "the gradient of conv2d, judged with it",
    "conv2d_weight": "the gradient of conv2d, judged with it",
    "standardize_input": "the gradient of standardize, judged with it",
    "batch_norm_weight": "the gradient of batch_norm, judged with it",
    "gather_max": "the second order of max_pool2d, judged with it",
    "scatter_max": "the gradient of max_pool2d, judged with it",
    "avg_pool2d_input": "the gradient of avg_pool2d, judged with it",
    "fold": "the gradient of unfold, judged with it",
    "global_avg_pool2d": "adaptive_avg_pool2d has no such sample; nn.GlobalAvgPool2D is judged",
    "gelu_slope": "the gradient of gelu, judged with it",
    "gelu_tanh_slope": "the gradient of gelu, judged with it",
    "mish_slope": "the gradient of mish, judged with it",
    **dict.fromkeys(("dice_loss", "focal_loss", "hinge_loss"), "PyTorch has none"),
    **dict.fromkeys(("global_max_pool2d", "max_unpool2d", "binary_cross_entropy",
                     "multi_margin_loss", "margin_ranking_loss", "cosine_embedding_loss"),
                    "no sample that both take; test_against_torch.py judges it"),
    "hard_sigmoid": "PyTorch has no second order of it; test_numerics.py judges it",
    "median": "PyTorch takes the lower of two; test_numpy_functions.py judges it",
    **dict.fromkeys(("arange", "eye", "full", "full_like", "linspace", "one_hot", "ones",
                     "ones_like", "rand", "rand_like", "randn", "randn_like", "zeros",
                     "zeros_like"), "takes no tensor, or only its shape"),
    "sigmoid_slope": "the gradient of sigmoid, judged with it",
    "silu_slope": "the gradient of silu, judged with it",
    "cross_entropy_input": "the gradient of cross_entropy, judged with it",
    "checkpoint": "calls a function; tests/core/test_graph_memory.py judges it",
    "default_generator": "makes no tensor", "manual_seed": "makes no tensor",
}

# Our layer: {their module: (what makes ours, how it is called)}.
MODULES_OF_TORCH: dict[Any, dict[str, Any]] = {
    nn.Conv2D: {"Conv2d": (make_conv2d, on_images)},
    nn.ConvTranspose2D: {"ConvTranspose2d": (make_conv_transpose2d, on_images)},
    nn.Linear: {"Linear": (lambda in_features, out_features, bias=True:
                           nn.Linear(in_features, out_features, bias=bias), as_it_is)},
    nn.BatchNorm1D: {"BatchNorm1d": (make_batch_norm(nn.BatchNorm1D), on_channels)},
    nn.BatchNorm2D: {"BatchNorm2d": (make_batch_norm(nn.BatchNorm2D), on_images)},
    nn.LayerNorm: {"LayerNorm": (make_layer_norm, as_it_is)},
    nn.MaxPool2D: {"MaxPool2d": (make_max_pool2d, on_images)},
    nn.AvgPool2D: {"AvgPool2d": (make_avg_pool2d, on_images)},
    nn.GlobalAvgPool2D: {"AdaptiveAvgPool2d": (make_global_avg_pool2d, on_images)},
    nn.ZeroPad2D: {"ZeroPad2d": (make_zero_pad2d, on_images)},
    nn.Pad2D: {f"{name}Pad2d": (make_pad2d(mode), on_images)
               for name, mode in (("Constant", "constant"), ("Reflection", "reflect"),
                                  ("Replication", "edge"), ("Circular", "wrap"))},
    nn.ReLU: {"ReLU": (nn.ReLU, as_it_is)},
    nn.LeakyReLU: {"LeakyReLU": (lambda negative_slope=0.01: nn.LeakyReLU(negative_slope),
                                 as_it_is)},
    nn.ELU: {"ELU": (nn.ELU, as_it_is)},
    nn.GELU: {"GELU": (nn.GELU, as_it_is)},
    nn.SiLU: {"SiLU": (nn.SiLU, as_it_is)},
    nn.Softplus: {"Softplus": (make_softplus, as_it_is)},
    nn.Tanh: {"Tanh": (nn.Tanh, as_it_is)},
    nn.Sigmoid: {"Sigmoid": (nn.Sigmoid, as_it_is)},
    nn.Softmax: {"Softmax": (lambda dim: nn.Softmax(dim), as_it_is),
                 "Softmax2d": (lambda: nn.Softmax(-1), on_images)},
    nn.LogSoftmax: {"LogSoftmax": (lambda dim: nn.LogSoftmax(dim), as_it_is)},
    nn.CrossEntropyLoss: {"CrossEntropyLoss":
                          (make_loss(nn.CrossEntropyLoss), on_scores)},
    nn.NLLLoss: {"NLLLoss": (make_loss(nn.NLLLoss), on_scores)},
    nn.MSELoss: {"MSELoss": (make_loss(nn.MSELoss), as_it_is)},
    nn.BCEWithLogitsLoss: {"BCEWithLogitsLoss":
                           (make_loss(nn.BCEWithLogitsLoss),
                            as_it_is)},
}

OPS_AND_JUDGES = [(ours, theirs) for ours, table in OPS_OF_TORCH.items() for theirs in table]
MODULES_AND_JUDGES = [(ours, theirs) for ours, table in MODULES_OF_TORCH.items()
                      for theirs in table]


# ---- value, gradient, second order ---------------------------------------------------------------

def ours_of(call, leaves, given):
    """Value, gradient, and vjp of the vjp, of a function of tensors, as arrays.

    ``given`` makes the cotangent and the directions from the shape of the value.
    """
    tensors = [tc.Tensor(a, requires_grad=True) for a in leaves]
    with np.errstate(all="ignore"):
        y = call(tensors)
        if not y.requires_grad:
            return [y.data]
        ct, *directions = given(y)
        c = tc.Tensor(ct, requires_grad=True)
        gradients = tc.grad((y * c).sum(), tensors, create_graph=True)
        gradients = [x * 0 if g is None else g for g, x in zip(gradients, tensors, strict=True)]
        total = sum((g * u).sum() for g, u in zip(gradients, directions, strict=True))
        second = tc.grad(total, [*tensors, c])
    return [y.data, *(g.data for g in gradients),
            *(np.zeros(x.shape, x.dtype) if h is None else h.data
              for h, x in zip(second, [*tensors, c], strict=True))]


def theirs_of(call, leaves, given):
    """The same by PyTorch."""
    tensors = [torch.tensor(a, requires_grad=True) for a in leaves]
    y = call(tensors)
    if not y.requires_grad:
        return [y.numpy()]
    ct, *directions = map(torch.tensor, given(y))
    c = ct.requires_grad_()
    unused = {"allow_unused": True, "materialize_grads": True}
    gradients = torch.autograd.grad((y * c).sum(), tensors, create_graph=True, **unused)
    total = sum((g * u).sum() for g, u in zip(gradients, directions, strict=True))
    second = torch.autograd.grad(total, [*tensors, c], **unused) if total.requires_grad else \
        [torch.zeros_like(x) for x in (*tensors, c)]
    return [a.numpy(force=True) for a in (y, *gradients, *second)]


def largest(a):
    return np.abs(a[np.isfinite(a)]).max(initial=0)


def compare(ours, theirs, leaves, dtype):
    """Both at the same numbers; the tolerance is that of the head of this file."""
    def given(y):
        """A cotangent of the dtype of ``y``, and directions of that of the leaves."""
        rng = np.random.default_rng(0)
        ct = rng.normal(size=tuple(y.shape)).astype(dtype)
        return [ct.astype(str(y.dtype).removeprefix("torch.")),
                *(rng.normal(size=a.shape).astype(dtype) for a in leaves)]

    def reference(arrays, given=given):
        return theirs_of(theirs, [np.asarray(a, np.float64) for a in arrays],
                         lambda y: [np.asarray(a, np.float64) for a in given(y)])

    leaves = [a.astype(dtype) for a in leaves]
    found, right = ours_of(ours, leaves, given), reference(leaves)
    condition = condition_of(theirs, reference, leaves, given)
    n = len(leaves)
    names = ["value", *(f"gradient {i}" for i in range(n)),
             *(f"second order {i}" for i in range(n)), "second order, cotangent"]
    sizes = sizes_of(right, leaves, given(found[0]))
    for name, a, b, size, change in zip(names, found, right, sizes, condition, strict=False):
        assert a.shape == b.shape, f"{name}: shape {a.shape}, PyTorch's is {b.shape}"
        u = max(np.finfo(t).eps / 2 for t in (dtype, a.dtype))
        allowed = FACTOR * u * (size + change)
        with np.errstate(invalid="ignore"):
            good = (np.abs(a - b) <= allowed) | (a == b) | (np.isnan(a) & np.isnan(b))
        if not good.all():
            place = tuple(np.argwhere(~good)[0].tolist())
            raise AssertionError(
                f"{name} at {place}: {a[place]!r}, PyTorch has {b[place]!r}; "
                f"{np.count_nonzero(~good)} of {a.size} entries differ by more than "
                f"{allowed:.3g}")


def condition_of(theirs, reference, leaves, given):
    """How far PyTorch is off in float32, in units of its u, where all arrays move by one ulp."""
    u = np.finfo(np.float32).eps / 2
    leaves = [a.astype(np.float32) for a in leaves]

    def rounded(y):
        return [a.astype(np.float32) if a.dtype != y.dtype else a for a in given(y)]

    def moved(seed):
        rng = np.random.default_rng(seed)

        def move(a):
            return a + rng.choice([-1, 1], a.shape).astype(a.dtype) * np.spacing(a)

        return theirs_of(theirs, list(map(move, leaves)), lambda y: list(map(move, rounded(y))))

    right, others = reference(leaves, rounded), [moved(seed) for seed in (1, 2)]
    condition = []
    for i, b in enumerate(right):
        with np.errstate(invalid="ignore"):
            changes = [np.abs(o[i] - b) for o in others]
        # One ulp may cross a kink: a jump is no condition.
        jump = np.sqrt(u) * largest(b)
        condition.append(sum(largest(c[c < jump]) for c in changes) / u)
    return condition


def sizes_of(right, leaves, given):
    """What each result is measured by: its largest entry, or what that is at condition number 1."""
    n = len(leaves)
    value, gradients, second = right[0], right[1:n + 1], right[n + 1:]
    if not gradients:
        return [largest(value)]

    def per(size, x):
        length = x.std() if x.size > 1 else largest(x)      # norms see the deviation alone
        return size / length if length else 0.0

    ct, *directions = given
    first = [max(largest(g), per(largest(ct) * largest(value), x))
             for g, x in zip(gradients, leaves, strict=True)]
    total = sum(largest(u) * size for u, size in zip(directions, first, strict=True))
    return [largest(value), *first, *(max(largest(h), per(total, x))
                                      for h, x in zip(second, [*leaves, ct], strict=True))]


# ---- samples -------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def databases():
    return load()


def load():
    """{name: OpInfo} and {name: ModuleInfo} of PyTorch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
        from torch.testing._internal.common_modules import module_db
        # A first gradient imports modules that add filters.
        one = torch.ones(2, requires_grad=True)
        torch.autograd.grad(one * 2, one, torch.ones(2))
    ops = {info.name + (f"/{info.variant_test_name}" if info.variant_test_name else ""): info
           for info in op_db}
    return ops, {info.formatted_name: info for info in module_db}


def mapped(tree, change):
    """``tree`` of lists, tuples and dicts with every tensor changed."""
    if isinstance(tree, torch.Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {k: mapped(v, change) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(mapped(v, change) for v in tree)
    return tree


def check_names(function, kwargs):
    """Unsupported by the first keyword that an adapter does not name."""
    known = inspect.signature(function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        for name in kwargs:
            need(name in known, name)


class OpCall:
    """A sample of an operator as functions of its leaves: the tensors that require a gradient."""

    def __init__(self, adapter, operator, constant, args, kwargs):
        check_names(adapter, kwargs)
        bound = inspect.signature(adapter).bind(*args, **kwargs)
        constant = bound.arguments.get(constant)
        self.adapter, self.operator, self.sample = adapter, operator, [list(args), kwargs]
        self.places, self.leaves = {}, []

        def collect(t):
            if t.requires_grad and id(t) not in self.places and t is not constant:
                self.places[id(t)] = len(self.leaves)
                self.leaves.append(t.detach().numpy())
            return t

        mapped(self.sample, collect)

    def with_leaves(self, tensors, constant):
        def change(t):
            i = self.places.get(id(t))
            return constant(t) if i is None else tensors[i]
        return mapped(self.sample, change)

    def ours(self, tensors):
        args, kwargs = self.with_leaves(tensors, lambda t: t.detach().numpy())
        return self.adapter(*args, **kwargs)

    def theirs(self, tensors):
        args, kwargs = self.with_leaves(tensors, lambda t: like(t.detach().clone(), tensors))
        y = self.operator(*args, **kwargs)
        return y[0] if isinstance(y, tuple) else y


def like(t, tensors):
    """A constant in the dtype of the leaves."""
    return t.to(tensors[0].dtype) if t.is_floating_point() and tensors else t


class ModuleCall:
    """A sample of a module as functions of its leaves: inputs, then parameters."""

    def __init__(self, make, call, module_class, sample, training):
        constructor, forward = sample.constructor_input, sample.forward_input
        check_names(make, constructor.kwargs)
        self.make = lambda: make(*constructor.args, **constructor.kwargs)
        self.call, self.training, self.layer = call, training, self.make()
        self.module = module_class(*constructor.args, **constructor.kwargs).train(training)
        self.inputs = [*forward.args, *forward.kwargs.values()]
        self.names = [name for name, _ in self.module.named_parameters()]
        self.constants = self.inputs[1:]                # of a loss: its labels
        self.leaves = [self.inputs[0].detach().numpy()]
        self.leaves += [p.detach().numpy() for p in self.module.parameters()]

    def ours(self, tensors):
        layer = self.make().astype(tensors[0].dtype).train(self.training)
        for name, t in zip(self.names, tensors[1:], strict=True):
            order = LAYOUTS.get((type(layer), name), range(t.ndim))
            delattr(layer, name)                        # a Parameter can only become another
            setattr(layer, name, tc.transpose(t, tuple(order)))
        return self.call(layer, tensors[0], *(t.detach().numpy() for t in self.constants))

    def theirs(self, tensors):
        state = {k: like(b.clone(), tensors) for k, b in self.module.named_buffers()}
        state |= zip(self.names, tensors[1:], strict=True)
        inputs = (tensors[0], *(like(t.detach(), tensors) for t in self.constants))
        y = torch.func.functional_call(self.module, state, inputs)
        return y[0] if isinstance(y, tuple) else y


# PyTorch's axes of a weight in our order.
LAYOUTS = {(nn.Conv2D, "weight"): (2, 3, 1, 0), (nn.ConvTranspose2D, "weight"): (2, 3, 0, 1),
           (nn.Linear, "weight"): (1, 0)}


def judge(make_call, dtype, counts):
    """Count one sample; None, or what went wrong."""
    try:
        call = make_call()
        compare(call.ours, call.theirs, call.leaves, dtype)
    except UnsupportedError as error:
        counts[str(error)] += 1
    except Exception as error:
        for words, name in REFUSED.items():
            if isinstance(error, tc.TinygradCnnError) and words in str(error):
                counts[name] += 1
                return None
        counts["failed"] += 1
        return f"{type(error).__name__}: {error}"
    else:
        counts["passed"] += 1
    return None


COUNTS: dict[tuple[str, str], Counter] = {}


DRAWN: dict[tuple[str, str], Any] = {}      # samples, kept for the other functions they judge


def samples_of(name, info, dtype):
    if (name, dtype) not in DRAWN:
        torch.manual_seed(0)
        samples = info.sample_inputs("cpu", getattr(torch, dtype), requires_grad=True)
        DRAWN[name, dtype] = list(enumerate(samples))[::EVERY.get(name, 1)]
    return DRAWN[name, dtype]


def judge_op(ours, theirs, info, dtype):
    """Every sample of one operator; the counts are kept, the failures returned."""
    counts = COUNTS.setdefault((ours, theirs), Counter())
    failures = []
    for i, sample in samples_of(theirs, info, dtype):
        wrong = judge(partial(OpCall, OPS_OF_TORCH[ours][theirs], info.op, CONSTANTS.get(ours),
                              (sample.input, *sample.args), sample.kwargs), dtype, counts)
        if wrong:
            failures.append(f"sample {i} in {dtype}, {sample.summary()}: {wrong}")
    return failures


def judge_module(ours, theirs, info, dtype):
    """Every sample of one module, in training and evaluation."""
    make, call = MODULES_OF_TORCH[ours][theirs]
    counts = COUNTS.setdefault((f"nn.{ours.__name__}", f"nn.{theirs}"), Counter())
    failures = []
    for training in (True, False):
        torch.manual_seed(0)
        samples = info.module_inputs_func(info, device="cpu", dtype=getattr(torch, dtype),
                                          requires_grad=True, training=training)
        for i, sample in enumerate(samples):
            wrong = judge(partial(ModuleCall, make, call, info.module_cls, sample, training), dtype,
                          counts)
            if wrong:
                failures.append(f"sample {i} in {dtype}, {sample.desc or 'plain'}, "
                                f"{'training' if training else 'evaluation'}: {wrong}")
    return failures


def table():
    """The counts as text: a line for each judge, and the sums."""
    rows, total = [], Counter()
    for (ours, theirs), counts in COUNTS.items():
        total.update(counts)
        lacking = ", ".join(f"{name} {n}" for name, n in sorted(counts.items())
                            if name not in ("passed", "failed"))
        rows.append(f"{ours:<34} {theirs:<48} {counts['passed']:>6} {counts['failed']:>6}  "
                    f"{lacking}".rstrip())
    head = f"{'ours':<34} {'judged by':<48} passed failed  unsupported, by argument"
    lacking = ", ".join(f"{name} {n}" for name, n in total.most_common()
                        if name not in ("passed", "failed"))
    unsupported = total.total() - total["passed"] - total["failed"]
    return "\n".join([head, *rows, f"all: passed {total['passed']}, failed {total['failed']}, "
                      f"unsupported {unsupported}: {lacking}"])


# ---- tests ---------------------------------------------------------------------------------------

@contextlib.contextmanager
def torch_for_tests():
    """One thread, and the random numbers of before afterwards."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)


@pytest.fixture(scope="module", autouse=True)
def prints_the_table():
    with torch_for_tests():
        yield
    print("\n" + table())                               # shown with -s


@pytest.mark.parametrize("ours, theirs", OPS_AND_JUDGES)
def test_an_op_agrees_with_pytorch_on_its_samples(ours, theirs, databases):
    failures = [f for dtype in DTYPES for f in judge_op(ours, theirs, databases[0][theirs], dtype)]
    assert not failures, "\n".join(failures)
    assert COUNTS[ours, theirs]["passed"]


@pytest.mark.parametrize("ours, theirs", MODULES_AND_JUDGES,
                         ids=[f"{ours.__name__}-{theirs}" for ours, theirs in MODULES_AND_JUDGES])
def test_a_layer_agrees_with_pytorch_on_its_samples(ours, theirs, databases):
    failures = [f for dtype in DTYPES
                for f in judge_module(ours, theirs, databases[1][f"nn_{theirs}"], dtype)]
    assert not failures, "\n".join(failures)
    assert COUNTS[f"nn.{ours.__name__}", f"nn.{theirs}"]["passed"]


def test_every_op_and_public_function_has_a_judge_or_a_reason():
    names = set(tc.OPS) | set(tc.ops.__all__)
    assert names - set(OPS_OF_TORCH) == set(WITHOUT_JUDGE)
    assert set(OPS_OF_TORCH) <= names


def main():
    """Judge everything and print the table."""
    ops, modules = load()
    failures = []
    with torch_for_tests():
        for dtype in DTYPES:
            for ours, theirs in OPS_AND_JUDGES:
                failures += [f"{ours} by {theirs}, {f}"
                             for f in judge_op(ours, theirs, ops[theirs], dtype)]
            for ours, theirs in MODULES_AND_JUDGES:
                failures += [f"nn.{ours.__name__} by {theirs}, {f}"
                             for f in judge_module(ours, theirs, modules[f"nn_{theirs}"], dtype)]
    print(table(), *failures, sep="\n")
    return bool(failures)


if __name__ == "__main__":
    raise SystemExit(main())
