"""Activations, the dense layer and the loss, each a forward and a backward step.

The first notebook has headings for these steps and stops there.  Each forward step returns its
result and a cache, each backward step takes a gradient and that cache, exactly as in ``functions``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_cnn import shapes
from tinygrad_cnn.errors import ShapeError
from tinygrad_cnn.kernels import reference
from tinygrad_cnn.stepwise.checks import Array, check_same, floats, one_hot

__all__ = [
    "compute_loss", "compute_loss_backward", "fc_backward", "fc_forward", "relu_backward",
    "relu_forward", "softmax_backward", "softmax_forward",
]

FCCache = tuple[Array, Array, Array]


# ---- activations -------------------------------------------------------------------------------

def relu_forward(Z: Array) -> tuple[Array, Array]:
    """Cut off negative numbers: A = max(Z, 0).

    Parameters
    ----------
    Z : array, any shape

    Returns
    -------
    A : array, the shape of Z
    cache : array
        Z, for ``relu_backward``.

    Examples
    --------
    >>> relu_forward(np.array([-1.0, 0.0, 2.0]))[0]
    array([0., 0., 2.])
    """
    Z = floats(Z, op="relu", name="x")
    return np.maximum(Z, 0), Z


def relu_backward(dA: Array, cache: Array) -> Array:
    """Let the gradient through where Z was positive: dZ = dA · (Z > 0), zero at 0.

    Parameters
    ----------
    dA : array, the shape of Z
    cache : array
        What ``relu_forward`` returned.

    Returns
    -------
    array, the shape of Z

    Raises
    ------
    ShapeError
        If dA does not have the shape of Z.

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

    The largest score of a row is subtracted first, which changes nothing but avoids overflow.

    Parameters
    ----------
    Z : array, shape (N, K)
        Scores, or logits.

    Returns
    -------
    P : array, shape (N, K)
        Each row adds up to 1.
    cache : array
        P, for ``softmax_backward``.

    Raises
    ------
    ShapeError
        If Z does not have two axes.

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

    Parameters
    ----------
    dP : array, shape (N, K)
    cache : array, shape (N, K)
        What ``softmax_forward`` returned.

    Returns
    -------
    array, shape (N, K)

    Raises
    ------
    ShapeError
        If dP does not have the shape of P.

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
    W : array, shape (D, K)
        Weights.
    b : array, shape (1, K)
        Biases.

    Returns
    -------
    Z : array, shape (N, K)
    cache : tuple
        (A_prev, W, b) for ``fc_backward``.

    Raises
    ------
    ShapeError
        If the sizes do not fit together.

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

    Parameters
    ----------
    dZ : array, shape (N, K)
    cache : tuple
        What ``fc_forward`` returned.

    Returns
    -------
    dA_prev : array, the shape of A_prev
    dW : array, shape (D, K)
    db : array, shape (1, K)

    Raises
    ------
    ShapeError
        If dZ does not have the shape of Z.

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

def compute_loss(P: Array, y: Array) -> Any:
    """Average the surprise at the true classes: −(1/N) Σ_i log P[i, y_i].

    Parameters
    ----------
    P : array, shape (N, K)
        Probabilities, from ``softmax_forward``.
    y : array of int, shape (N,), or one-hot, shape (N, K)
        True classes.

    Returns
    -------
    scalar, in nats
        Infinite if a true class has probability zero.

    Raises
    ------
    ShapeError
        If P does not have two axes, or y has neither of the two shapes.
    SettingError
        If a label lies outside 0 … K − 1.
    DTypeError
        If labels of shape (N,) are not integers.

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

    Parameters
    ----------
    P : array, shape (N, K)
        Probabilities, from ``softmax_forward``.
    y : array of int, shape (N,), or one-hot, shape (N, K)
        True classes.

    Returns
    -------
    array, shape (N, K)
        Gradient of the loss with respect to the scores Z, not to P.

    Raises
    ------
    ShapeError, SettingError, DTypeError
        As ``compute_loss``.

    Examples
    --------
    >>> compute_loss_backward(np.array([[0.5, 0.5]]), np.array([1]))
    array([[ 0.5, -0.5]])
    """
    probabilities = floats(P, op="compute_loss", name="P", axes="N K")
    truth = one_hot(y, probabilities, op="compute_loss")
    dZ: Array = (probabilities - truth) / len(probabilities)
    return dZ
