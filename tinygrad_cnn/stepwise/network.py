"""The whole network of the first notebook: sizes, parameters, forward, backward, update.

[convolution, ReLU, 2×2 max-pool] for every stage, then a dense layer and softmax.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_cnn import shapes
from tinygrad_cnn.errors import SettingError, ShapeError
from tinygrad_cnn.stepwise.checks import Array, check_same, floats
from tinygrad_cnn.stepwise.functions import conv_backward, conv_forward
from tinygrad_cnn.stepwise.pooling import pool_backward, pool_forward
from tinygrad_cnn.stepwise.steps import (
    compute_loss_backward,
    fc_backward,
    fc_forward,
    relu_backward,
    relu_forward,
    softmax_forward,
)

__all__ = [
    "convnet_backward", "convnet_forward", "initialize_parameters", "layer_structure",
    "update_parameters",
]

Parameters = dict[str, Array]
Structure = tuple[tuple[int, ...], tuple[int, ...], int]

HALVING = {"f": 2, "stride": 2}             # the pooling of every stage


def layer_structure(X: Array, y: Array, hidden_size: int | Sequence[int]) -> Structure:
    """Read the sizes of a network off its data.

    Parameters
    ----------
    X : array, shape (N, H, W, C)
        Images.
    y : array of int, shape (N,), or one-hot, shape (N, K)
        True classes; integers count from 0, so there is one class more than the largest.
    hidden_size : int or sequence of int
        Number of filters of each convolution; an int is a single stage.

    Returns
    -------
    tuple
        ((H, W, C), filters of each stage, number of classes).

    Raises
    ------
    ShapeError
        If X does not have four axes, or y neither of the two shapes.
    SettingError
        If a number of filters is below 1.

    Examples
    --------
    >>> layer_structure(np.zeros((4, 8, 8, 1)), np.array([0, 9, 3, 1]), (8, 16))
    ((8, 8, 1), (8, 16), 10)
    """
    images = floats(X, op="layer_structure", name="X", axes="N H W C")
    hidden = hidden_size if isinstance(hidden_size, (tuple, list)) else [hidden_size]
    filters = tuple(shapes.integer("layer_structure", "hidden_size", n, least=1) for n in hidden)
    labels = np.asarray(y)
    if labels.ndim not in (1, 2) or len(labels) != len(images) or labels.size == 0:
        raise ShapeError(f"layer_structure: y must have shape (N,) = {(len(images),)} or (N, K), "
                         f"got {labels.shape}")
    classes = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    return images.shape[1:], filters, classes


def initialize_parameters(structure: Structure, f: int = 3) -> Parameters:
    """Draw the weights of the network from NumPy's legacy global stream.

    Layer by layer W before b; W = randn · √(2 / fan_in), b = 0, where fan_in is the number of
    products that a single result adds up.

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

    Raises
    ------
    SettingError
        If ``f`` is even or below 1.
    ShapeError
        If the image is too small to be halved by every stage.

    Notes
    -----
    ``np.random.seed`` makes the draw repeatable; unscaled ``randn`` would saturate the softmax
    after two stages.

    References
    ----------
    He et al., *Delving Deep into Rectifiers*, arXiv:1502.01852.

    Examples
    --------
    >>> np.random.seed(1)
    >>> parameters = initialize_parameters(((8, 8, 1), (4, 6), 10))
    >>> {name: array.shape for name, array in parameters.items()}
    {'W1': (3, 3, 1, 4), 'b1': (1, 1, 1, 4), 'W2': (3, 3, 4, 6), 'b2': (1, 1, 1, 6),
     'W3': (24, 10), 'b3': (1, 10)}
    """
    (height, width, channels), filters, classes = structure
    side = shapes.integer("initialize_parameters", "f", f, least=1)
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

    Parameters
    ----------
    parameters : mapping
        Name → array.
    grads : mapping
        The same names → gradients.
    learning_rate : float
        Length of the step.

    Returns
    -------
    dict
        New arrays under the same names; nothing is written in place.

    Raises
    ------
    SettingError
        If the names differ.
    ShapeError
        If a gradient does not have the shape of its parameter.

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


def convnet_forward(X: Array, parameters: Mapping[str, Array]) -> tuple[Array, list[Any]]:
    """Run the network: [conv, ReLU, 2×2 max-pool] for every stage, dense layer, softmax.

    Parameters
    ----------
    X : array, shape (N, H, W, C)
        Images.
    parameters : mapping
        ``W1, b1, …`` as ``initialize_parameters`` makes them.

    Returns
    -------
    P : array, shape (N, K)
        Probabilities of the classes.
    caches : list
        The cache of each step, in order, for ``convnet_backward``.

    Raises
    ------
    ShapeError
        If image and parameters do not fit together.

    Examples
    --------
    >>> np.random.seed(1)
    >>> X = np.random.randn(2, 4, 4, 1)
    >>> P, caches = convnet_forward(X, initialize_parameters(((4, 4, 1), (3,), 5)))
    >>> P.shape, len(caches)
    ((2, 5), 5)
    """
    stages = len(parameters) // 2 - 1
    caches: list[Any] = []
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


def convnet_backward(P: Array, y: Array, caches: Sequence[Any]) -> Parameters:
    """Walk the network backwards and collect the gradient of the loss for every parameter.

    Parameters
    ----------
    P : array, shape (N, K)
        What ``convnet_forward`` returned.
    y : array of int, shape (N,), or one-hot, shape (N, K)
        True classes.
    caches : list
        What ``convnet_forward`` returned.

    Returns
    -------
    dict
        Gradients under the names of the parameters.

    Raises
    ------
    ShapeError, SettingError, DTypeError
        As ``compute_loss``.

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
