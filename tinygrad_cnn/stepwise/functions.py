"""Padding and convolution, forward and backward, under the first notebook's names.

Plain arrays go in and come out; nothing is recorded.  What a backward step needs is in the
``cache`` that its forward step returns.  The loops are those of ``kernels.reference``, against
which the fast kernels are checked, so each formula is written once.

Shapes: images X (N, H, W, C), filters W (f, f, C_in, C_out), biases b (1, 1, 1, C_out).  Filters
are not flipped (cross-correlation).  Results keep the float dtype of the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinygrad_cnn import shapes
from tinygrad_cnn.errors import ShapeError
from tinygrad_cnn.kernels import reference
from tinygrad_cnn.stepwise.checks import Array, check_filters, check_same, floats, setting

__all__ = ["conv_backward", "conv_forward", "conv_single_step", "zero_pad", "zero_padding"]

ConvCache = tuple[Array, Array, Array, dict[str, Any]]


def zero_pad(X: Array, pad: int) -> Array:
    """Surround every image with ``pad`` rows and columns of zeros.

    Parameters
    ----------
    X : array, shape (N, H, W, C)
        Images.
    pad : int, pixels
        Width of the border on each of the four sides; at least 0.

    Returns
    -------
    array, shape (N, H + 2·pad, W + 2·pad, C)
        The images inside their borders; batch and channels are not padded.

    Raises
    ------
    ShapeError
        If X does not have four axes.
    SettingError
        If ``pad`` is negative or no integer.

    Examples
    --------
    >>> zero_pad(np.ones((1, 1, 2, 1)), 1)[0, :, :, 0]
    array([[0., 0., 0., 0.],
           [0., 1., 1., 0.],
           [0., 0., 0., 0.]])
    """
    images = floats(X, op="pad", name="x", axes="N H W C")
    return reference.zero_pad(images, shapes.widths(pad, op="pad"))


zero_padding = zero_pad                     # the exercise's name for the same step


def conv_single_step(a_slice_prev: Array, W: Array, b: Array) -> Any:
    """Apply one filter to one window.

    Z = Σ_{u, v, c} a_slice_prev[u, v, c] · W[u, v, c] + b, with b added once, after the sum.

    Parameters
    ----------
    a_slice_prev : array, shape (f, f, C_in)
        What the window sees.
    W : array, shape (f, f, C_in)
        One filter.
    b : array, shape (1, 1, 1)
        Its bias.

    Returns
    -------
    scalar
        One pixel of the result.

    Raises
    ------
    ShapeError
        If window and filter differ in shape, or b holds more than one number.

    Examples
    --------
    >>> print(conv_single_step(np.ones((2, 2, 3)), np.ones((2, 2, 3)), np.array([[[0.5]]])))
    12.5
    """
    window = floats(a_slice_prev, op="conv_single_step", name="a_slice_prev", axes="KH KW C")
    weights = floats(W, op="conv_single_step", name="W", axes="KH KW C")
    bias = floats(b, op="conv_single_step", name="b")
    check_same("conv_single_step", "W", weights.shape, "a_slice_prev", window.shape)
    if bias.size != 1:
        raise ShapeError(f"conv_single_step: b must hold one number, shape (1, 1, 1), "
                         f"got {bias.shape}")
    return reference.single_step(window, weights, bias.reshape(())[()])


def conv_forward(A_prev: Array, W: Array, b: Array,
                 hparameters: Mapping[str, Any]) -> tuple[Array, ConvCache]:
    """Slide every filter over every padded image: the forward step of a convolution.

    Z[n, h, w, c] = conv_single_step(A_pad[n, window(h, w)], W[:, :, :, c], b[..., c]),
    where window(h, w) starts at row h·stride and column w·stride of the padded image.

    Parameters
    ----------
    A_prev : array, shape (N, H, W, C_in)
        Images, or the result of the layer before.
    W : array, shape (f, f, C_in, C_out)
        Filters.
    b : array, shape (1, 1, 1, C_out)
        Biases.
    hparameters : mapping
        ``"stride"``, the step from window to window, and ``"pad"``, the border of zeros; in pixels.

    Returns
    -------
    Z : array, shape (N, n_H, n_W, C_out)
        n_H = ⌊(H + 2·pad − f) / stride⌋ + 1, and n_W likewise.
    cache : tuple
        (A_prev, W, b, hparameters) for ``conv_backward``; the mapping is copied.

    Raises
    ------
    ShapeError
        If ranks, channels or filter counts differ, the filters are not square, or a filter is
        larger than the padded image.
    SettingError
        If a key is missing, the stride is below 1 or the padding below 0.

    Notes
    -----
    The four nested loops are ``tinygrad_cnn.kernels.reference.conv2d``.  The registered op is
    ``tinygrad_cnn.conv2d``.

    Examples
    --------
    >>> A = np.arange(9.0).reshape(1, 3, 3, 1)
    >>> W, b = np.ones((2, 2, 1, 1)), np.zeros((1, 1, 1, 1))
    >>> Z, cache = conv_forward(A, W, b, {"stride": 1, "pad": 0})
    >>> Z[0, :, :, 0]
    array([[ 8., 12.],
           [20., 24.]])
    """
    images = floats(A_prev, op="conv2d", name="x")
    weights = floats(W, op="conv2d", name="w")
    bias = floats(b, op="conv2d", name="b")
    check_filters(images.shape, weights.shape, bias.shape)
    settings = _conv_settings(hparameters)
    Z = reference.conv2d(images, weights, bias.reshape(-1), **settings)     # N n_H n_W C_out
    return Z, (images, weights, bias, dict(hparameters))


def _conv_settings(hparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Stride and padding in the form that the kernels know."""
    stride = setting("conv2d", hparameters, "stride")
    padding = setting("conv2d", hparameters, "pad")
    return {"stride": shapes.pair(stride, op="conv2d", setting="stride", least=1),
            "padding": shapes.sides(padding, op="conv2d"), "dilation": (1, 1), "groups": 1}


def conv_backward(dZ: Array, cache: ConvCache) -> tuple[Array, Array, Array]:
    """Send the gradient of a convolution's result back to its images, filters and biases.

    ::

        dA_pad[n, window(h, w)] += Σ_c W_c · dZ[n, h, w, c]      then the padding is cut off
        dW_c = Σ_n,h,w A_pad[n, window(h, w)] · dZ[n, h, w, c]
        db_c = Σ_n,h,w dZ[n, h, w, c]

    Parameters
    ----------
    dZ : array, shape (N, n_H, n_W, C_out)
        Gradient of the loss with respect to Z.
    cache : tuple
        What ``conv_forward`` returned.

    Returns
    -------
    dA_prev : array, shape (N, H, W, C_in)
    dW : array, shape (f, f, C_in, C_out)
    db : array, shape (1, 1, 1, C_out)
        Each shaped as its value.  Pixels that no whole window reaches get gradient zero.

    Raises
    ------
    ShapeError
        If dZ does not have the shape of Z.

    Notes
    -----
    The loops are ``tinygrad_cnn.kernels.reference.conv2d_input`` and ``conv2d_weight``.  With
    Tensors, ``Z.backward(dZ)`` leaves the same three arrays in ``.grad``.

    Examples
    --------
    >>> A = np.arange(9.0).reshape(1, 3, 3, 1)
    >>> W, b = np.ones((2, 2, 1, 1)), np.zeros((1, 1, 1, 1))
    >>> Z, cache = conv_forward(A, W, b, {"stride": 1, "pad": 0})
    >>> dA, dW, db = conv_backward(np.ones_like(Z), cache)
    >>> dA[0, :, :, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    >>> dW[:, :, 0, 0]
    array([[ 8., 12.],
           [20., 24.]])
    >>> db.shape, db.item()
    ((1, 1, 1, 1), 4.0)
    """
    A_prev, W, b, hparameters = cache
    gradient = floats(dZ, op="conv2d_input", name="y", axes="N OH OW O")
    settings = _conv_settings(hparameters)
    image_size = (A_prev.shape[1], A_prev.shape[2])
    expected = shapes.conv2d(A_prev.shape, W.shape, **settings)
    check_same("conv_backward", "dZ", gradient.shape, "Z", expected)
    dA_prev = reference.conv2d_input(gradient, W, image_size=image_size, **settings)
    dW = reference.conv2d_weight(A_prev, gradient, kernel_size=(W.shape[0], W.shape[1]), **settings)
    db = gradient.sum(axis=(0, 1, 2)).reshape(b.shape)                      # 1 1 1 C_out
    return dA_prev, dW, db
