"""The exercise's layers as classes: ``__call__`` keeps the input, ``grad`` sends a gradient back.

A layer (``get_type() == "layer"``) answers ``grad(in_gradient)`` with a tuple whose first entry is
the gradient of its input: (dX, dW, db) where there are parameters, with None for a missing bias,
and (dX, None) where there are none.  An activation answers with the gradient alone.
``parameters()`` gives the arrays themselves, so whoever updates them in place updates the layer.

Weights come from NumPy's legacy global stream, as the exercise has it.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from tinygrad_cnn import shapes
from tinygrad_cnn.errors import GradientError
from tinygrad_cnn.stepwise.checks import Array, check_same, floats
from tinygrad_cnn.stepwise.functions import conv_backward, conv_forward
from tinygrad_cnn.stepwise.pooling import create_mask_from_window, pool_backward, pool_forward
from tinygrad_cnn.stepwise.steps import fc_backward, fc_forward

__all__ = ["Conv2D", "Flatten", "Layer", "Linear", "Maxpool2D", "Step", "kept"]


class Step(Protocol):
    """What a ``Model`` is made of: layers and activations."""

    def __call__(self, X: Array) -> Array:
        """Compute the result and keep what ``grad`` needs."""

    def grad(self, in_gradient: Array) -> Any:
        """Send the gradient of the result back."""

    def get_type(self) -> str:
        """Say "layer" or "activation"."""

    def parameters(self) -> tuple[Array | None, Array | None]:
        """Weights and biases, the arrays themselves; None for what the step does not have."""


class Layer:
    """What all layers share."""

    def get_type(self) -> str:
        """Say "layer"."""
        return "layer"

    def parameters(self) -> tuple[Array | None, Array | None]:
        """Weights and biases, the arrays themselves; None where the layer has none."""
        return None, None


def kept(step: object, value: Any) -> Any:
    """What the last call kept, or an error if there was no call."""
    if value is None:
        raise GradientError(f"{type(step).__name__}: grad needs the input of a call, and this one "
                            "has not been called yet")
    return value


class Conv2D(Layer):
    """A convolution: Z = conv(X, W) + b, with filters drawn by ``randn``, unscaled.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the images and number of filters.
    kernel_size : int, pixels, default 3
        Side of the square filters.
    stride : int, pixels, default 1
        Step from window to window.
    padding : int, pixels, default 2
        Border of zeros on every side.

    Attributes
    ----------
    W : array, shape (k, k, C_in, C_out)
    b : array, shape (1, 1, 1, C_out)
        Drawn in this order.
    X : array
        The input of the last call.

    Raises
    ------
    SettingError
        If a size is below 1 or the padding below 0.

    Examples
    --------
    >>> np.random.seed(42)
    >>> layer = Conv2D(3, 8, padding=1)
    >>> Z = layer(np.ones((2, 5, 5, 3)))
    >>> [g.shape for g in layer.grad(np.ones_like(Z))]
    [(2, 5, 5, 3), (3, 3, 3, 8), (1, 1, 1, 8)]
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1,
                 padding: int = 2) -> None:
        channels = shapes.integer("Conv2D", "in_channels", in_channels, least=1)
        filters = shapes.integer("Conv2D", "out_channels", out_channels, least=1)
        size = shapes.integer("Conv2D", "kernel_size", kernel_size, least=1)
        self.hparameters = {"stride": shapes.integer("Conv2D", "stride", stride, least=1),
                            "pad": shapes.integer("Conv2D", "padding", padding, least=0)}
        self.W: Array = np.random.randn(size, size, channels, filters)
        self.b: Array = np.random.randn(1, 1, 1, filters)
        self.X: Array | None = None
        self._cache: Any = None

    def parameters(self) -> tuple[Array | None, Array | None]:
        """(W, b)."""
        return self.W, self.b

    def __call__(self, X: Array) -> Array:
        """Z of ``conv_forward``, shape (N, n_H, n_W, C_out)."""
        Z, self._cache = conv_forward(X, self.W, self.b, self.hparameters)
        self.X = self._cache[0]
        return Z

    def grad(self, in_gradient: Array) -> tuple[Array, Array, Array]:
        """(dLdX, dLdW, dLdb) of ``conv_backward``; in_gradient has the shape of the result."""
        return conv_backward(in_gradient, kept(self, self._cache))


class Maxpool2D(Layer):
    """Max pooling; the default windows overlap.

    Parameters
    ----------
    kernel : int, pixels, default 2
        Side of the window.
    stride : int, pixels, default 1
        Step from window to window.

    Attributes
    ----------
    X : array
        The input of the last call.

    Examples
    --------
    >>> layer = Maxpool2D()
    >>> layer(np.arange(9.0).reshape(1, 3, 3, 1))[0, :, :, 0]
    array([[4., 5.],
           [7., 8.]])
    >>> dLdX, nothing = layer.grad(np.ones((1, 2, 2, 1)))
    >>> dLdX[0, :, :, 0]
    array([[0., 0., 0.],
           [0., 1., 1.],
           [0., 1., 1.]])
    """

    def __init__(self, kernel: int = 2, stride: int = 1) -> None:
        self.hparameters = {"f": shapes.integer("Maxpool2D", "kernel", kernel, least=1),
                            "stride": shapes.integer("Maxpool2D", "stride", stride, least=1)}
        self.X: Array | None = None
        self._cache: Any = None

    def create_mask(self, X: Array) -> Array:
        """Mark every largest entry of a window, all of a tie."""
        return create_mask_from_window(X)

    def __call__(self, X: Array) -> Array:
        """A of ``pool_forward``, shape (N, n_H, n_W, C)."""
        A, self._cache = pool_forward(X, self.hparameters)
        self.X = self._cache[0]
        return A

    def grad(self, in_gradient: Array) -> tuple[Array, None]:
        """(dLdX, None); every maximum of a tie gets the whole gradient."""
        return pool_backward(in_gradient, kept(self, self._cache)), None


class Flatten(Layer):
    """Images to rows, in (H, W, C) order; the layer that the exercise lacks for a CNN.

    Examples
    --------
    >>> layer = Flatten()
    >>> layer(np.zeros((2, 4, 4, 3))).shape, layer.grad(np.zeros((2, 48)))[0].shape
    ((2, 48), (2, 4, 4, 3))
    """

    def __init__(self) -> None:
        self.X: Array | None = None

    def __call__(self, X: Array) -> Array:
        """Rows, shape (N, H·W·C)."""
        self.X = floats(X, op="flatten", name="x")
        return self.X.reshape(len(self.X), math.prod(self.X.shape[1:]))

    def grad(self, in_gradient: Array) -> tuple[Array, None]:
        """(dLdX, None): the gradient in the shape of the images."""
        X = kept(self, self.X)
        gradient = floats(in_gradient, op="flatten", name="in_gradient")
        rows = (len(X), math.prod(X.shape[1:]))
        check_same("Flatten", "in_gradient", gradient.shape, "the result", rows)
        return gradient.reshape(X.shape), None


class Linear(Layer):
    """A fully connected layer: X W + b, drawn as randn · 0.05.

    Parameters
    ----------
    in_features, out_features : int
        Entries of a row before and after.
    bias : bool, default True
        Whether there is a b.

    Attributes
    ----------
    weights : array, shape (in, out)
    bias : array, shape (1, out), or None
        Drawn in this order.
    X : array, shape (N, in)
        The input of the last call.

    Raises
    ------
    SettingError
        If a size is below 1.

    Examples
    --------
    >>> layer = Linear(3, 2, bias=False)
    >>> layer(np.ones((4, 3))).shape
    (4, 2)
    >>> dX, dW, db = layer.grad(np.ones((4, 2)))
    >>> dX.shape, dW.shape, db
    ((4, 3), (3, 2), None)
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        inputs = shapes.integer("Linear", "in_features", in_features, least=1)
        outputs = shapes.integer("Linear", "out_features", out_features, least=1)
        self.weights: Array = np.random.randn(inputs, outputs) * 0.05
        self.bias: Array | None = np.random.randn(1, outputs) * 0.05 if bias else None
        self.X: Array | None = None

    def parameters(self) -> tuple[Array | None, Array | None]:
        """(weights, bias)."""
        return self.weights, self.bias

    def __call__(self, X: Array) -> Array:
        """X W + b, shape (N, out)."""
        self.X = floats(X, op="linear", name="x", axes="N I")
        Z, _ = fc_forward(self.X, self.weights, self._row())
        return Z

    def grad(self, in_gradient: Array) -> tuple[Array, Array, Array | None]:
        """(dX, dW, db), with None for a missing bias."""
        X = kept(self, self.X)
        dX, dW, db = fc_backward(in_gradient, (X, self.weights, self._row()))
        return dX, dW, None if self.bias is None else db

    def _row(self) -> Array:
        """The bias, or zeros in its place."""
        if self.bias is not None:
            return self.bias
        return np.zeros((1, self.weights.shape[1]), dtype=self.weights.dtype)
