"""Pooling, forward and backward, and the two helpers that share a gradient out over a window.

As in ``functions``, the loops are those of ``kernels.reference``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tinygrad_cnn import shapes
from tinygrad_cnn.errors import ShapeError
from tinygrad_cnn.kernels import reference
from tinygrad_cnn.stepwise.checks import NO_PADDING, Array, check_same, floats, pool_settings

__all__ = ["create_mask_from_window", "distribute_value", "pool_backward", "pool_forward"]

PoolCache = tuple[Array, dict[str, Any]]


def pool_forward(A_prev: Array, hparameters: Mapping[str, Any],
                 mode: str = "max") -> tuple[Array, PoolCache]:
    """Replace every window by its largest entry, or by its average.

    A[n, h, w, c] = max or mean of A_prev[n, window(h, w), c]; there is no padding.

    Parameters
    ----------
    A_prev : array, shape (N, H, W, C)
        Images, or the result of the layer before.
    hparameters : mapping
        ``"f"``, the side of the window, and ``"stride"``, the step between windows; in pixels.
    mode : {"max", "average"}, default "max"
        What is kept of a window.

    Returns
    -------
    A : array, shape (N, n_H, n_W, C)
        n_H = ⌊(H − f) / stride⌋ + 1, and n_W likewise; rows and columns left over are not read.
    cache : tuple
        (A_prev, hparameters) for ``pool_backward``; the mapping is copied.

    Raises
    ------
    ShapeError
        If A_prev does not have four axes, or no whole window fits.
    SettingError
        If ``mode`` is unknown, a key is missing, or window or stride is below 1.

    Notes
    -----
    The loops are ``tinygrad_cnn.kernels.reference.max_pool2d`` and ``avg_pool2d``.

    Examples
    --------
    >>> A_prev = np.array([[1.0, 2.0], [3.0, 6.0]]).reshape(1, 2, 2, 1)
    >>> pool_forward(A_prev, {"f": 2, "stride": 2})[0].item()
    6.0
    >>> pool_forward(A_prev, {"f": 2, "stride": 2}, mode="average")[0].item()
    3.0
    """
    size, stride = pool_settings(hparameters, mode)
    op = "max_pool2d" if mode == "max" else "avg_pool2d"
    images = floats(A_prev, op=op, name="x", axes="N H W C")
    if mode == "max":
        A, _ = reference.max_pool2d(images, kernel_size=size, stride=stride, padding=NO_PADDING)
    else:
        A = reference.avg_pool2d(images, kernel_size=size, stride=stride, padding=NO_PADDING,
                                 count_include_pad=True)
    return A, (images, dict(hparameters))


def create_mask_from_window(x: Array) -> Array:
    """Mark the largest entries of a window: mask = (x == max(x)), all of a tie.

    Parameters
    ----------
    x : array, shape (f, f)
        One window of one channel.

    Returns
    -------
    boolean array, shape (f, f)

    Raises
    ------
    ShapeError
        If the window is empty.

    Examples
    --------
    >>> create_mask_from_window(np.array([[1, 5], [5, 2]]))
    array([[False,  True],
           [ True, False]])
    """
    window = floats(x, op="create_mask_from_window", name="x")
    if window.size == 0:
        raise ShapeError(f"create_mask_from_window: x is empty, its shape is {window.shape}")
    return reference.mask_of_maxima(window)


def distribute_value(dz: Any, shape: tuple[int, int]) -> Array:
    """Spread a value evenly over a window: dz / (n_H · n_W) in every entry.

    Parameters
    ----------
    dz : scalar
        Gradient of the window's average.
    shape : (int, int)
        n_H and n_W, the sides of the window in pixels.

    Returns
    -------
    array, shape (n_H, n_W)

    Raises
    ------
    SettingError
        If a side is below 1.

    Examples
    --------
    >>> distribute_value(2, (2, 2))
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    n_H, n_W = shapes.pair(tuple(shape), op="distribute_value", setting="shape", least=1)
    value = floats(dz, op="distribute_value", name="dz", axes="")
    return np.full((n_H, n_W), reference.equal_share(value, n_H * n_W), dtype=value.dtype)


def pool_backward(dA: Array, cache: PoolCache, mode: str = "max") -> Array:
    """Send the gradient of a pooling step back to its images.

    ::

        max:      dA_prev[n, window(h, w), c] += create_mask_from_window(window) · dA[n, h, w, c]
        average:  dA_prev[n, window(h, w), c] += distribute_value(dA[n, h, w, c], (f, f))

    Windows may overlap, therefore += .

    Parameters
    ----------
    dA : array, shape (N, n_H, n_W, C)
        Gradient of the loss with respect to A.
    cache : tuple
        What ``pool_forward`` returned.
    mode : {"max", "average"}, default "max"
        The mode of the forward step.

    Returns
    -------
    array, shape (N, H, W, C)
        Every maximum of a tie gets the whole gradient, as the notebooks have it; the registered op
        does the same with ``ties="all"``.

    Raises
    ------
    ShapeError
        If dA does not have the shape of A.
    SettingError
        If ``mode`` is unknown.

    Examples
    --------
    >>> A, cache = pool_forward(np.array([[1.0, 7.0], [7.0, 2.0]]).reshape(1, 2, 2, 1),
    ...                         {"f": 2, "stride": 2})
    >>> pool_backward(np.ones((1, 1, 1, 1)), cache)[0, :, :, 0]
    array([[0., 1.],
           [1., 0.]])
    >>> pool_backward(np.ones((1, 1, 1, 1)), cache, mode="average")[0, :, :, 0]
    array([[0.25, 0.25],
           [0.25, 0.25]])
    """
    A_prev, hparameters = cache
    size, stride = pool_settings(hparameters, mode)
    gradient = floats(dA, op="pool_backward", name="dA", axes="N OH OW C")
    expected = shapes.max_pool2d(A_prev.shape, kernel_size=size, stride=stride, padding=NO_PADDING)
    check_same("pool_backward", "dA", gradient.shape, "A", expected)
    if mode == "max":
        return reference.spread_maxima(gradient, A_prev, kernel_size=size, stride=stride,
                                       padding=NO_PADDING)
    return reference.avg_pool2d_input(gradient, image_size=(A_prev.shape[1], A_prev.shape[2]),
                                      kernel_size=size, stride=stride, padding=NO_PADDING,
                                      count_include_pad=True)
