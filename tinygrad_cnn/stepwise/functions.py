"""A convolutional network step by step, as functions on plain arrays.

Nothing is recorded: what a backward step needs is in the ``cache`` that its forward step returns.
The loops are those of ``kernels.reference``, against which the fast kernels are checked, so each
formula is written once.  The shape rules are those of ``tinygrad_cnn.shapes``, so a mistake reads
the same by hand and with Tensors.

Shapes: images X (N, H, W, C), filters W (f, f, C_in, C_out), biases b (1, 1, 1, C_out).  Filters
are not flipped (cross-correlation).  Results keep the float dtype of the input.

What does not fit is refused in the words of the ops: sizes and axes with a ShapeError, settings and
labels with a SettingError, what holds no numbers with a DTypeError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinygrad_cnn import checks, shapes
from tinygrad_cnn.errors import DTypeError, SettingError, ShapeError, missing_extra
from tinygrad_cnn.kernels import reference
from tinygrad_cnn.shapes import Pair, Shape, Sides

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "compute_loss", "compute_loss_backward", "conv_backward", "conv_forward", "conv_single_step",
    "convnet_backward", "convnet_forward", "create_mask_from_window", "distribute_value",
    "fc_backward", "fc_forward", "initialize_parameters", "layer_structure", "padding_picture",
    "pool_backward", "pool_forward", "relu_backward", "relu_forward", "softmax_backward",
    "softmax_forward", "update_parameters", "zero_pad", "zero_padding",
]

Array = NDArray[Any]
Scalar = np.floating
Settings = Mapping[str, int]
ConvCache = tuple[Array, Array, Array, dict[str, int]]
PoolCache = tuple[Array, dict[str, int]]
FCCache = tuple[Array, Array, Array]
Caches = list[Any]                          # of all steps, in order
Parameters = dict[str, Array]
Structure = tuple[tuple[int, ...], tuple[int, ...], int]

NO_PADDING: Sides = ((0, 0), (0, 0))
HALVING = {"f": 2, "stride": 2}             # the pooling of every stage


# ---- checks --------------------------------------------------------------------------------------

def floats(array: ArrayLike, *, op: str, name: str, axes: str | None = None) -> Array:
    """``array`` with its float dtype, integers as float64; its axes counted against ``axes``."""
    values = np.asarray(array)
    if values.dtype.kind in "biu":
        values = values.astype(np.float64)
    if not np.issubdtype(values.dtype, np.inexact):
        raise DTypeError(f"{op}: {name} must hold numbers, got dtype {values.dtype}")
    if axes is not None:
        shapes.bind_axes(op, axes, {name: values.shape}, {})
    return values


def setting(op: str, hparameters: Settings, key: str) -> int:
    """The value under ``key``, or an error that says which key is missing."""
    if key not in hparameters:
        raise SettingError(f"{op}: hparameters has no {key!r}, only "
                           f"{', '.join(map(repr, hparameters)) or 'nothing'}")
    return hparameters[key]


def check_filters(x: Shape, w: Shape, b: Shape) -> None:
    """Images N H W C, square filters f f C_in C_out, biases 1 1 1 C_out that fit together."""
    if len(b) != 4 or b[:3] != (1, 1, 1):
        raise ShapeError(f"conv2d: b must have shape (1, 1, 1, C_out), got {b}; "
                         "b.reshape(1, 1, 1, -1) makes it from a row")
    shapes.bind_axes("conv2d", "N H W C, KH KW C/groups O, O -> N OH OW O",
                     {"x": x, "w": w, "b": b[3:]}, {"groups": 1})
    if w[0] != w[1]:
        raise ShapeError(f"conv2d: the notebooks' filters are square, (f, f, C_in, C_out), got "
                         f"{w}; the registered op takes oblong ones")


def pool_settings(hparameters: Settings, mode: str) -> tuple[Pair, Pair]:
    """Window and stride as pairs, and a mode that exists."""
    if mode not in ("max", "average"):
        raise SettingError(f"pool: mode must be 'max' or 'average', got {mode!r}")
    op = "max_pool2d" if mode == "max" else "avg_pool2d"
    size = checks.pair(op, "kernel_size", setting(op, hparameters, "f"), minimum=1)
    stride = checks.pair(op, "stride", setting(op, hparameters, "stride"), minimum=1)
    return size, stride


def check_same(op: str, name: str, got: Shape, like: str, expected: Shape) -> None:
    """A gradient has the shape of its value."""
    if got != expected:
        raise ShapeError(f"{op}: {name} is {got} but {like} is {expected}")


def one_hot(y: ArrayLike, p: Array, *, op: str) -> Array:
    """Labels as rows of one 1 and zeros, from integers (N,) or from such rows (N, K)."""
    labels = np.asarray(y)
    rows, classes = p.shape
    if labels.shape == p.shape:
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()):
            raise SettingError(f"{op}: y of shape (N, K) must be one-hot, a single 1 in each row")
        return labels.astype(p.dtype)
    if labels.shape != (rows,):
        raise ShapeError(f"{op}: y must have shape (N,) = {(rows,)} or (N, K) = {p.shape}, "
                         f"got {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise DTypeError(f"{op}: labels of shape (N,) must be integers, got dtype {labels.dtype}")
    if rows and (labels.min() < 0 or labels.max() >= classes):
        raise SettingError(f"{op}: labels must lie in 0 … {classes - 1}, got {labels.min()} to "
                           f"{labels.max()}")
    rows_of_one = np.zeros(p.shape, dtype=p.dtype)
    for n in range(rows):
        rows_of_one[n, labels[n]] = 1
    return rows_of_one


# ---- padding and convolution ---------------------------------------------------------------------

def zero_pad(X: Array, pad: int) -> Array:
    """Surround every image of X (N, H, W, C) with ``pad`` rows and columns of zeros.

    The result is (N, H + 2·pad, W + 2·pad, C): batch and channels are not padded.

    Examples
    --------
    >>> zero_pad(np.ones((1, 1, 2, 1)), 1)[0, :, :, 0]
    array([[0., 0., 0., 0.],
           [0., 1., 1., 0.],
           [0., 0., 0., 0.]])
    """
    images = floats(X, op="pad", name="x", axes="N H W C")
    return reference.zero_pad(images, checks.pad_width("pad", pad))


zero_padding = zero_pad                     # the exercise's name for the same step


def conv_single_step(a_slice_prev: Array, W: Array, b: Array) -> Scalar:
    """Apply one filter to one window: Z = Σ_{u, v, c} a[u, v, c] · W[u, v, c] + b.

    ``a_slice_prev`` and ``W`` are (f, f, C_in), ``b`` is (1, 1, 1) and added once, after the sum.

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
                 hparameters: Settings) -> tuple[Array, ConvCache]:
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


def _conv_settings(hparameters: Settings) -> dict[str, Any]:
    """Stride and padding in the form that the kernels know."""
    stride = setting("conv2d", hparameters, "stride")
    padding = setting("conv2d", hparameters, "pad")
    return {"stride": checks.pair("conv2d", "stride", stride, minimum=1),
            "padding": checks.padding("conv2d", padding), "dilation": (1, 1), "groups": 1}


def conv_backward(dZ: Array, cache: ConvCache) -> tuple[Array, Array, Array]:
    """Send the gradient of a convolution's result back to its images, filters and biases.

    ::

        dA_pad[n, window(h, w)] += Σ_c W_c · dZ[n, h, w, c]      then the padding is cut off
        dW_c = Σ_n,h,w A_pad[n, window(h, w)] · dZ[n, h, w, c]
        db_c = Σ_n,h,w dZ[n, h, w, c]

    Returns (dA_prev, dW, db), each shaped as its value.  Pixels that no whole window reaches get
    gradient zero.

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


# ---- pooling -------------------------------------------------------------------------------------

def pool_forward(A_prev: Array, hparameters: Settings,
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
    """Mark the largest entries of a window (f, f): mask = (x == max(x)), all of a tie.

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


def distribute_value(dz: float, shape: tuple[int, int]) -> Array:
    """Share a value out over a window of the given ``shape``: dz / (n_H · n_W) in every entry.

    Examples
    --------
    >>> distribute_value(2, (2, 2))
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    n_H, n_W = checks.pair("distribute_value", "shape", tuple(shape), minimum=1)
    value = floats(dz, op="distribute_value", name="dz", axes="")
    return np.full((n_H, n_W), reference.equal_share(value, n_H * n_W), dtype=value.dtype)


def pool_backward(dA: Array, cache: PoolCache, mode: str = "max") -> Array:
    """Send the gradient of a pooling step back to its images.

    ::

        max:      dA_prev[n, window(h, w), c] += create_mask_from_window(window) · dA[n, h, w, c]
        average:  dA_prev[n, window(h, w), c] += distribute_value(dA[n, h, w, c], (f, f))

    Windows may overlap, therefore += .  ``mode`` is that of the forward step.  Every maximum of a
    tie gets the whole gradient, as in the notebooks; the registered op does it with ``ties="all"``.

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


# ---- activations ---------------------------------------------------------------------------------

def relu_forward(Z: Array) -> tuple[Array, Array]:
    """Cut off negative numbers: A = max(Z, 0), any shape; the cache is Z.

    Examples
    --------
    >>> relu_forward(np.array([-1.0, 0.0, 2.0]))[0]
    array([0., 0., 2.])
    """
    Z = floats(Z, op="relu", name="x")
    return np.maximum(Z, 0), Z


def relu_backward(dA: Array, cache: Array) -> Array:
    """Let the gradient through where Z was positive: dZ = dA · (Z > 0), zero at 0.

    Examples
    --------
    >>> relu_backward(np.array([5.0, 5.0, 5.0]), np.array([-1.0, 0.0, 2.0]))
    array([0., 0., 5.])
    """
    gradient = floats(dA, op="relu", name="dA")
    check_same("relu_backward", "dA", gradient.shape, "Z", cache.shape)
    return np.where(cache > 0, gradient, np.zeros_like(gradient))


def softmax_forward(Z: Array) -> tuple[Array, Array]:
    """Turn rows of scores into rows of probabilities: P[i, k] = exp(Z[i, k]) / Σ_j exp(Z[i, j]).

    The largest score of a row is subtracted first, which changes nothing but avoids overflow.  The
    cache is P.

    Examples
    --------
    >>> softmax_forward(np.array([[1000.0, 1000.0]]))[0]
    array([[0.5, 0.5]])
    """
    scores = floats(Z, op="softmax", name="x", axes="N K")
    P = reference.softmax(scores, axis=1)
    return P, P


def softmax_backward(dP: Array, cache: Array) -> Array:
    """Send the gradient of probabilities back to scores: dZ = P · (dP − Σ_k dP[:, k] · P[:, k]).

    Examples
    --------
    >>> softmax_backward(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]))
    array([[ 0.25, -0.25]])
    """
    gradient = floats(dP, op="softmax", name="dP")
    check_same("softmax_backward", "dP", gradient.shape, "P", cache.shape)
    inner: Array = np.sum(gradient * cache, axis=1, keepdims=True)          # N 1
    dZ: Array = cache * (gradient - inner)
    return dZ


# ---- the fully connected layer -------------------------------------------------------------------

def fc_forward(A_prev: Array, W: Array, b: Array) -> tuple[Array, FCCache]:
    """Multiply rows by a matrix: Z = A W + b, each image flattened to a row first.

    Parameters
    ----------
    A_prev : array, shape (N, H, W, C) or (N, D)
        Flattened in (H, W, C) order, so that D = H·W·C.
    W, b : arrays, shapes (D, K) and (1, K)

    Returns
    -------
    Z : array, shape (N, K)
    cache : tuple
        (A_prev, W, b) for ``fc_backward``.

    Examples
    --------
    >>> fc_forward(np.ones((1, 1, 2, 1)), np.eye(2), np.array([[0.0, 10.0]]))[0]
    array([[ 1., 11.]])
    """
    images = floats(A_prev, op="linear", name="x")
    weights = floats(W, op="linear", name="w")
    bias = floats(b, op="linear", name="b")
    if images.ndim < 2:
        raise ShapeError(f"linear: x needs an axis of images and one of values, got {images.shape}")
    if bias.ndim != 2 or bias.shape[0] != 1:
        raise ShapeError(f"linear: b must have shape (1, K), got {bias.shape}")
    rows = images.reshape(len(images), math.prod(images.shape[1:]))         # N D
    shapes.bind_axes("linear", "N I, I O, O -> N O",
                     {"x": rows.shape, "w": weights.shape, "b": bias.shape[1:]}, {})
    return rows @ weights + bias, (images, weights, bias)


def fc_backward(dZ: Array, cache: FCCache) -> tuple[Array, Array, Array]:
    """Send the gradient of a dense layer back: dA = dZ Wᵀ, dW = Aᵀ dZ, db = Σ_rows dZ.

    Returns (dA_prev, dW, db), each shaped as its value.

    Examples
    --------
    >>> _, cache = fc_forward(np.array([[1.0, 2.0]]), np.eye(2), np.zeros((1, 2)))
    >>> fc_backward(np.array([[1.0, 0.0]]), cache)[1]
    array([[1., 0.],
           [2., 0.]])
    """
    A_prev, W, b = cache
    gradient = floats(dZ, op="linear", name="dZ")
    check_same("fc_backward", "dZ", gradient.shape, "Z", (len(A_prev), W.shape[1]))
    rows = A_prev.reshape(len(A_prev), W.shape[0])                          # N D
    dA_prev = (gradient @ W.T).reshape(A_prev.shape)
    dW = rows.T @ gradient                                                  # D K
    db = gradient.sum(axis=0).reshape(b.shape)                              # 1 K
    return dA_prev, dW, db


# ---- the loss ------------------------------------------------------------------------------------

def compute_loss(P: Array, y: Array) -> Scalar:
    """Average the surprise at the true classes: −(1/N) Σ_i log P[i, y_i], in nats.

    Parameters
    ----------
    P : array, shape (N, K)
        Probabilities, from ``softmax_forward``.
    y : array of int, shape (N,), or one-hot, shape (N, K)
        True classes; the loss is infinite if one of them has probability zero.

    Examples
    --------
    >>> print(round(compute_loss(np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([0, 0])), 6))
    0.399254
    """
    probabilities = floats(P, op="compute_loss", name="P", axes="N K")
    truth = one_hot(y, probabilities, op="compute_loss") > 0                # N K
    with np.errstate(divide="ignore"):
        return -np.sum(np.log(probabilities[truth])) / len(probabilities)


def compute_loss_backward(P: Array, y: Array) -> Array:
    """Differentiate softmax and loss in one step: dZ = (P − onehot(y)) / N.

    P and y as in ``compute_loss``; the result is the gradient to the scores Z, not to P.

    Examples
    --------
    >>> compute_loss_backward(np.array([[0.5, 0.5]]), np.array([1]))
    array([[ 0.5, -0.5]])
    """
    probabilities = floats(P, op="compute_loss", name="P", axes="N K")
    truth = one_hot(y, probabilities, op="compute_loss")
    dZ: Array = (probabilities - truth) / len(probabilities)
    return dZ


# ---- the network ---------------------------------------------------------------------------------

def layer_structure(X: Array, y: Array, hidden_size: int | Sequence[int]) -> Structure:
    """Read the sizes of a network off its data: ((H, W, C), filters of each stage, classes).

    Parameters
    ----------
    X : array, shape (N, H, W, C)
        Images.
    y : array of int, shape (N,), or one-hot, shape (N, K)
        True classes; integers count from 0, so there is one class more than the largest.
    hidden_size : int or sequence of int
        Number of filters of each convolution; an int is a single stage.

    Examples
    --------
    >>> layer_structure(np.zeros((4, 8, 8, 1)), np.array([0, 9, 3, 1]), (8, 16))
    ((8, 8, 1), (8, 16), 10)
    """
    images = floats(X, op="layer_structure", name="X", axes="N H W C")
    hidden = hidden_size if isinstance(hidden_size, (tuple, list)) else [hidden_size]
    filters = tuple(checks.integer("layer_structure", "hidden_size", n, minimum=1) for n in hidden)
    labels = np.asarray(y)
    if labels.ndim not in (1, 2) or len(labels) != len(images) or labels.size == 0:
        raise ShapeError(f"layer_structure: y must have shape (N,) = {(len(images),)} or (N, K), "
                         f"got {labels.shape}")
    classes = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    return images.shape[1:], filters, classes


def initialize_parameters(structure: Structure, f: int = 3) -> Parameters:
    """Draw the weights of the network from NumPy's legacy global stream.

    Layer by layer W before b; W = randn · √(2 / fan_in), b = 0, where fan_in is the number of
    products that a single result adds up (He et al., arXiv:1502.01852).  Unscaled ``randn`` would
    saturate the softmax after two stages.

    Parameters
    ----------
    structure : tuple
        What ``layer_structure`` returned.
    f : int, pixels, default 3
        Side of the filters; odd, so that a border of (f − 1) / 2 keeps the size of the image.

    Returns
    -------
    dict
        ``W1, b1, …``: filters (f, f, C_in, C_out) and biases (1, 1, 1, C_out) of each stage, and
        last the dense layer, (D, K) and (1, K).

    Examples
    --------
    >>> np.random.seed(1)
    >>> parameters = initialize_parameters(((8, 8, 1), (4, 6), 10))
    >>> {name: array.shape for name, array in parameters.items()}
    {'W1': (3, 3, 1, 4), 'b1': (1, 1, 1, 4), 'W2': (3, 3, 4, 6), 'b2': (1, 1, 1, 6),
     'W3': (24, 10), 'b3': (1, 10)}
    """
    (height, width, channels), filters, classes = structure
    side = checks.integer("initialize_parameters", "f", f, minimum=1)
    if side % 2 == 0:
        raise SettingError(f"initialize_parameters: f must be odd, got {f}; a border of (f − 1)/2 "
                           "on every side then keeps the size of the image")
    sizes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for filter_count in filters:
        sizes.append(((side, side, channels, filter_count), (1, 1, 1, filter_count)))
        _, height, width, channels = shapes.max_pool2d(
            (1, height, width, filter_count), kernel_size=(2, 2), stride=(2, 2),
            padding=((0, 0), (0, 0)))
    sizes.append(((height * width * channels, classes), (1, classes)))
    parameters = {}
    for layer, (w_shape, b_shape) in enumerate(sizes, start=1):
        fan_in = math.prod(w_shape[:-1])                # f · f · C_in, or D
        parameters[f"W{layer}"] = np.random.randn(*w_shape) * math.sqrt(2 / fan_in)
        parameters[f"b{layer}"] = np.zeros(b_shape)
    return parameters


def update_parameters(parameters: Mapping[str, Array], grads: Mapping[str, Array],
                      learning_rate: float) -> Parameters:
    """Take one step of gradient descent: θ ← θ − learning_rate · g, for weights and biases.

    ``parameters`` and ``grads`` have the same names; the result has new arrays under them.

    Examples
    --------
    >>> update_parameters({"W1": np.array([1.0])}, {"W1": np.array([4.0])}, 0.25)
    {'W1': array([0.])}
    """
    if parameters.keys() != grads.keys():
        odd = ", ".join(sorted(parameters.keys() ^ grads.keys()))
        raise SettingError(f"update_parameters: parameters and grads need the same names, but only "
                           f"one of them has {odd}")
    updated = {}
    for name, value in parameters.items():
        check_same("update_parameters", f"grads[{name!r}]", grads[name].shape, name, value.shape)
        updated[name] = value - learning_rate * grads[name]
    return updated


def convnet_forward(X: Array, parameters: Mapping[str, Array]) -> tuple[Array, Caches]:
    """Run the network: [conv, ReLU, 2×2 max-pool] for every stage, dense layer, softmax.

    Takes images (N, H, W, C) and ``W1, b1, …`` as ``initialize_parameters`` makes them.  Returns
    the probabilities (N, K) of the classes, and the caches of all steps for ``convnet_backward``.

    Examples
    --------
    >>> np.random.seed(1)
    >>> X = np.random.randn(2, 4, 4, 1)
    >>> P, caches = convnet_forward(X, initialize_parameters(((4, 4, 1), (3,), 5)))
    >>> P.shape, len(caches)
    ((2, 5), 5)
    """
    stages = len(parameters) // 2 - 1
    caches: Caches = []
    A = X
    for stage in range(1, stages + 1):
        W, b = parameters[f"W{stage}"], parameters[f"b{stage}"]
        Z, conv_cache = conv_forward(A, W, b, {"stride": 1, "pad": (W.shape[0] - 1) // 2})
        A, relu_cache = relu_forward(Z)
        A, pool_cache = pool_forward(A, HALVING)
        caches += [conv_cache, relu_cache, pool_cache]
    Z, fc_cache = fc_forward(A, parameters[f"W{stages + 1}"], parameters[f"b{stages + 1}"])
    P, softmax_cache = softmax_forward(Z)
    return P, [*caches, fc_cache, softmax_cache]


def convnet_backward(P: Array, y: Array, caches: Caches) -> Parameters:
    """Walk the network backwards: the gradient of the loss for every parameter, by its name.

    Takes what ``convnet_forward`` returned, and the true classes as in ``compute_loss``.

    Examples
    --------
    >>> np.random.seed(1)
    >>> X, parameters = np.random.randn(2, 4, 4, 1), initialize_parameters(((4, 4, 1), (3,), 5))
    >>> P, caches = convnet_forward(X, parameters)
    >>> sorted(convnet_backward(P, np.array([0, 3]), caches))
    ['W1', 'W2', 'b1', 'b2']
    """
    *stage_caches, fc_cache, _ = caches
    stages = len(stage_caches) // 3
    grads: Parameters = {}
    dZ = compute_loss_backward(P, y)                    # softmax and loss at once
    dA, grads[f"W{stages + 1}"], grads[f"b{stages + 1}"] = fc_backward(dZ, fc_cache)
    for stage in range(stages, 0, -1):
        conv_cache, relu_cache, pool_cache = stage_caches[3 * stage - 3:3 * stage]
        dA = pool_backward(dA, pool_cache)
        dZ = relu_backward(dA, relu_cache)
        dA, grads[f"W{stage}"], grads[f"b{stage}"] = conv_backward(dZ, conv_cache)
    return grads


# ---- a picture -----------------------------------------------------------------------------------

def padding_picture(X: Array, pad: int, image: int = 0, channel: int = 0) -> Figure:
    """Draw one channel of one image, and beside it the same with its border of zeros.

    Both panels share one color scale, so that equal numbers have equal colors; a frame in the
    second shows where the image lies.  ``figure.savefig("padding.png")`` writes the picture
    (matplotlib, extra ``viz``).

    Examples
    --------
    >>> figure = padding_picture(np.ones((1, 3, 3, 1)), 2)
    >>> [axes.get_title() for axes in figure.axes[:2]]
    ['x', 'x_pad']
    """
    images = floats(X, op="pad", name="x", axes="N H W C")
    padded = zero_pad(images, pad)
    for name, index, size in (("image", image, images.shape[0]),
                              ("channel", channel, images.shape[3])):
        if not 0 <= checks.integer("padding_picture", name, index) < size:
            raise SettingError(f"padding_picture: {name} must lie in 0 … {size - 1}, got {index}")
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
    except ImportError:
        raise missing_extra("matplotlib", extra="viz", purpose="pictures") from None
    panels = {"x": images[image, :, :, channel], "x_pad": padded[image, :, :, channel]}
    low = min(panel.min() for panel in panels.values())
    high = max(panel.max() for panel in panels.values())
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots(1, 2)
    for place, (title, panel) in zip(axes, panels.items(), strict=True):
        drawn = place.imshow(panel, vmin=low, vmax=high, cmap="gray")
        place.set_title(title)
    height, width = images.shape[1:3]                   # a frame where the image lies inside it
    axes[1].add_patch(Rectangle((pad - 0.5, pad - 0.5), width, height, fill=False,
                                edgecolor="tab:orange", linewidth=2))
    figure.colorbar(drawn, ax=list(axes))
    return figure
