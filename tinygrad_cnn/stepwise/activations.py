"""The exercise's activations and losses as classes.

An activation keeps its input as ``x``; ``grad(in_gradient)`` multiplies by the derivative there.  A
loss is called with two arrays and ``grad()`` gives its gradient with respect to the prediction.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_cnn import shapes
from tinygrad_cnn.errors import ShapeError
from tinygrad_cnn.kernels import reference
from tinygrad_cnn.stepwise.checks import Array, check_same, floats, one_hot
from tinygrad_cnn.stepwise.layers import kept
from tinygrad_cnn.stepwise.steps import (
    relu_backward,
    relu_forward,
    softmax_backward,
    softmax_forward,
)

__all__ = ["CrossEntropy", "LeakyReLU", "MSELoss", "ReLU", "Sigmoid", "Softmax", "Tanh"]


class Activation:
    """What all activations share: the input of the last call, and its shape check."""

    def __init__(self) -> None:
        self.x: Array | None = None

    def get_type(self) -> str:
        """Say "activation"."""
        return "activation"

    def parameters(self) -> tuple[Array | None, Array | None]:
        """None and None: an activation has no parameters."""
        return None, None

    def _keep(self, x: Array) -> Array:
        """Keep the input of a call."""
        self.x = floats(x, op=type(self).__name__, name="x")
        return self.x

    def _gradient(self, in_gradient: Array) -> tuple[Array, Array]:
        """The input of the last call and a gradient of the same shape."""
        x = kept(self, self.x)
        gradient = floats(in_gradient, op=type(self).__name__, name="in_gradient")
        check_same(type(self).__name__, "in_gradient", gradient.shape, "x", x.shape)
        return x, gradient


class ReLU(Activation):
    """max(x, 0); the gradient passes where x > 0, so it is 0 at 0.

    Examples
    --------
    >>> step = ReLU()
    >>> step(np.array([-np.inf, 0.0, 3.0]))
    array([0., 0., 3.])
    >>> step.grad(np.ones(3))
    array([0., 0., 1.])
    """

    def __call__(self, x: Array) -> Array:
        """max(x, 0)."""
        A, _ = relu_forward(self._keep(x))
        return A

    def grad(self, in_gradient: Array) -> Array:
        """Pass g on where x > 0."""
        x, gradient = self._gradient(in_gradient)
        return relu_backward(gradient, x)


class LeakyReLU(Activation):
    """x where positive, alpha · x elsewhere; the gradient at 0 is alpha.

    Parameters
    ----------
    alpha : float, default 0.01
        Slope on the negative side.

    Examples
    --------
    >>> step = LeakyReLU(alpha=0.1)
    >>> step(np.array([-2.0, 0.0, 3.0]))
    array([-0.2,  0. ,  3. ])
    >>> step.grad(np.ones(3))
    array([0.1, 0.1, 1. ])
    """

    def __init__(self, alpha: float = 0.01) -> None:
        super().__init__()
        self.alpha = alpha

    def __call__(self, x: Array) -> Array:
        """x, or alpha · x."""
        x = self._keep(x)
        return np.where(x > 0, x, self.alpha * x)

    def grad(self, in_gradient: Array) -> Array:
        """Pass g on, times alpha where x ≤ 0."""
        x, gradient = self._gradient(in_gradient)
        return np.where(x > 0, gradient, self.alpha * gradient)


class Tanh(Activation):
    """tanh(x); its gradient is (1 − tanh²(x)) · g.

    Examples
    --------
    >>> step = Tanh()
    >>> step(np.array([0.0, 1.0]))
    array([0.        , 0.76159416])
    >>> step.grad(np.ones(2))
    array([1.        , 0.41997434])
    """

    def __call__(self, x: Array) -> Array:
        """tanh(x)."""
        return np.tanh(self._keep(x))

    def grad(self, in_gradient: Array) -> Array:
        """(1 − tanh²(x)) · g."""
        x, gradient = self._gradient(in_gradient)
        tanh = np.tanh(x)
        return (1 - tanh * tanh) * gradient


class Sigmoid(Activation):
    """σ(x) = 1 / (1 + exp(−x)), written so that no power overflows; its gradient is σ(1 − σ) · g.

    Examples
    --------
    >>> step = Sigmoid()
    >>> step(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    >>> step.grad(np.ones(3))
    array([0.  , 0.25, 0.  ])
    """

    def __call__(self, x: Array) -> Array:
        """σ(x)."""
        return _sigmoid(self._keep(x))

    def grad(self, in_gradient: Array) -> Array:
        """σ(x) · (1 − σ(x)) · g."""
        x, gradient = self._gradient(in_gradient)
        return _sigmoid(x) * _sigmoid(-x) * gradient


def _sigmoid(x: Array) -> Array:
    """1 / (1 + exp(−x)) for x ≥ 0 and its equal exp(x) / (1 + exp(x)) below: powers stay small."""
    power = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + power), power / (1 + power))


class Softmax(Activation):
    """Rows of scores to rows of probabilities, along axis 1.

    Examples
    --------
    >>> step = Softmax()
    >>> step(np.array([[0.0, 0.0]]))
    array([[0.5, 0.5]])
    >>> step.grad(np.array([[1.0, 0.0]]))
    array([[ 0.25, -0.25]])
    """

    def __call__(self, x: Array) -> Array:
        """P of ``softmax_forward``, shape (N, K)."""
        P, _ = softmax_forward(self._keep(x))
        return P

    def grad(self, in_gradient: Array) -> Array:
        """P · (g − Σ_k g · P)."""
        x, gradient = self._gradient(in_gradient)
        _, P = softmax_forward(x)
        return softmax_backward(gradient, P)


class CrossEntropy:
    """−Σ onehot · log softmax(logits), averaged over the rows or added up.

    The logarithm is taken before the division, so the loss has no ceiling and agrees with its
    gradient however sure and wrong the prediction is.

    Parameters
    ----------
    class_count : int, optional
        K; checked against the arrays when given.
    average : bool, default True
        Divide by the N rows; False adds them up.

    Raises
    ------
    SettingError
        If ``class_count`` is below 1.

    Examples
    --------
    >>> loss = CrossEntropy()
    >>> print(loss(np.array([[0.0, 1000.0]]), np.array([[1, 0]])))
    1000.0
    >>> loss.grad()
    array([[-1.,  1.]])
    """

    def __init__(self, class_count: int | None = None, average: bool = True) -> None:
        if class_count is not None:
            class_count = shapes.integer("CrossEntropy", "class_count", class_count, least=1)
        self.class_count = class_count
        self.average = average
        self._gradient: Array | None = None

    def __call__(self, Y_pred: Array, Y_real: Array) -> Any:
        """The loss of logits (N, K) at one-hot truth (N, K): a scalar, in nats."""
        logits = floats(Y_pred, op="cross_entropy", name="Y_pred", axes="N K")
        if self.class_count not in (None, logits.shape[1]):
            raise ShapeError(f"cross_entropy: class_count is {self.class_count}, but Y_pred has "
                             f"{logits.shape[1]} classes")
        truth = np.asarray(Y_real)
        check_same("cross_entropy", "Y_real", truth.shape, "Y_pred", logits.shape)
        truth = one_hot(truth, logits, op="cross_entropy")
        rows = len(logits) if self.average else 1
        losses = reference.cross_entropy(logits, targets=truth)             # N
        self._gradient = (reference.softmax(logits, axis=1) - truth) / rows
        return np.sum(losses) / rows

    def grad(self) -> Array:
        """(softmax − onehot) / N, or without / N: the gradient to the logits."""
        gradient: Array = kept(self, self._gradient)
        return gradient


class MSELoss:
    """Squared error per row: Σ (t − p)² / N; the truth comes first.

    Examples
    --------
    >>> loss = MSELoss()
    >>> print(loss(np.array([[1.0, 2.0]]), np.array([[1.0, 5.0]])))
    9.0
    >>> loss.grad()
    array([[0., 6.]])
    """

    def __init__(self) -> None:
        self._gradient: Array | None = None

    def __call__(self, y_true: Array, y_pred: Array) -> Any:
        """Σ (t − p)² / N, with N rows."""
        truth = floats(y_true, op="mse_loss", name="y_true")
        prediction = floats(y_pred, op="mse_loss", name="y_pred")
        check_same("mse_loss", "y_pred", prediction.shape, "y_true", truth.shape)
        if truth.ndim == 0 or len(truth) == 0:
            raise ShapeError(f"mse_loss: there are no rows in arrays of shape {truth.shape}")
        off = prediction - truth
        self._gradient = 2 * off / len(truth)
        return np.sum(off * off) / len(truth)

    def grad(self) -> Array:
        """2 (p − t) / N: the gradient to the prediction."""
        gradient: Array = kept(self, self._gradient)
        return gradient
