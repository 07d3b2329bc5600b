"""Convolutions of every kind, and what a test needs to hold a kernel to the reference."""

from __future__ import annotations

import numpy as np

from tinygrad_cnn import shapes

PLAIN = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
SAME = PLAIN | {"padding": ((1, 1), (1, 1))}

# (images N H W C, filters KH KW C/groups O, settings); sizes are chosen to leave partial blocks
CASES = {
    "one pixel": ((1, 1, 1, 1), (1, 1, 1, 1), PLAIN),
    "one pixel, padded": ((2, 1, 1, 3), (3, 3, 3, 2), SAME),
    "1x1 filter": ((3, 5, 4, 6), (1, 1, 6, 5), PLAIN),
    "1x1 filter, stride 2": ((3, 5, 4, 6), (1, 1, 6, 5), PLAIN | {"stride": (2, 2)}),
    "windows apart": ((2, 7, 7, 2), (2, 2, 2, 3), PLAIN | {"stride": (3, 4)}),
    "odd sides": ((3, 7, 9, 4), (3, 3, 4, 5), SAME),
    "one row": ((2, 1, 9, 4), (3, 3, 4, 5), SAME),
    "one column": ((2, 9, 1, 4), (3, 3, 4, 5), SAME),
    "uneven padding": ((2, 6, 5, 3), (3, 2, 3, 4), PLAIN | {"padding": ((0, 2), (3, 1))}),
    "more padding than filter": ((1, 4, 4, 2), (2, 3, 2, 3), PLAIN | {"padding": ((4, 3), (5, 4))}),
    "few channels": ((3, 9, 8, 1), (5, 5, 1, 8), PLAIN | {"padding": ((2, 2), (2, 2))}),
    "long filter": ((2, 12, 11, 2), (7, 5, 2, 3), PLAIN | {"padding": ((3, 3), (2, 2))}),
    "filter of one row": ((2, 5, 9, 3), (1, 4, 3, 2), PLAIN),
    "filter of one column": ((2, 9, 5, 3), (4, 1, 3, 2), PLAIN),
    "stride leaves a border": ((2, 8, 9, 3), (3, 2, 3, 4), PLAIN | {"stride": (3, 2)}),
    "stride 2, padded": ((2, 8, 7, 3), (3, 3, 3, 4), SAME | {"stride": (2, 2)}),
    "dilated": (
        (2, 9, 8, 2), (3, 2, 2, 3), PLAIN | {"dilation": (2, 3), "padding": ((1, 0), (2, 1))}),
    "dilated, strided": (
        (2, 9, 10, 2), (3, 3, 2, 3), SAME | {"dilation": (2, 3), "stride": (2, 2)}),
    "stride and dilation share a factor": (
        (1, 13, 12, 2), (3, 2, 2, 3), SAME | {"dilation": (4, 6), "stride": (6, 4)}),
    "groups": ((2, 5, 6, 6), (3, 3, 2, 9), SAME | {"groups": 3}),
    "depthwise": ((2, 6, 5, 7), (3, 3, 1, 7), SAME | {"groups": 7}),
    "depthwise, strided and dilated": (
        (2, 9, 9, 3), (2, 3, 1, 3),
        SAME | {"groups": 3, "stride": (2, 1), "dilation": (2, 2)}),
    "depthwise with several filters each": ((2, 5, 5, 3), (3, 3, 1, 6), SAME | {"groups": 3}),
    "empty batch": ((0, 5, 5, 3), (3, 3, 3, 4), SAME),
    "empty batch, depthwise": ((0, 5, 5, 3), (3, 3, 1, 3), SAME | {"groups": 3}),
    "many channels": ((1, 5, 7, 65), (3, 3, 65, 66), SAME),
}


def arrays(rng, case, dtype):
    """Images, filters, biases and cotangents of a case, normally distributed."""
    x_shape, w_shape, settings = case
    y_shape = shapes.conv2d(x_shape, w_shape, **settings)
    x, w, b, y = (rng.standard_normal(shape) for shape in (x_shape, w_shape, w_shape[3:], y_shape))
    if np.dtype(dtype).kind == "c":
        x, w, b, y = (a + 1j * rng.standard_normal(a.shape) for a in (x, w, b, y))
    return [a.astype(dtype) for a in (x, w, b, y)]


def calls(kernels, x, w, b, y, settings):
    """conv2d and its adjoints, each with its result: (name, array)."""
    yield "conv2d", kernels.conv2d(x, w, b, **settings)
    yield "without bias", kernels.conv2d(x, w, **settings)
    yield "conv2d_input", kernels.conv2d_input(y, w, image_size=x.shape[1:3], **settings)
    yield "conv2d_weight", kernels.conv2d_weight(x, y, kernel_size=w.shape[:2], **settings)


def terms(name, x, w, y):
    """How many products are added up in one entry of a result."""
    return {"conv2d_input": w[..., 0, :].size, "conv2d_weight": y[..., 0].size}.get(
        name, w[..., 0].size)


def scattered(a):
    """Equal values in a layout with gaps, axes reversed and one axis backwards."""
    wide = np.zeros((*a.shape[::-1][:-1], 2 * a.shape[0]), a.dtype)
    view = wide[..., ::2].T[::-1]
    view[...] = a
    return view


def within_the_bound(result, name, exact, sizes, x, w, y):
    """Is each entry as near as rounding in float32 allows?

    Rounding errors of a sum of n products stay below (n + 1) units of Σ |x·w|, which is ``sizes``.
    """
    unit = np.finfo(np.float32).eps / 2
    return (np.abs(result - exact) <= (terms(name, x, w, y) + 1) * unit * sizes).all()
