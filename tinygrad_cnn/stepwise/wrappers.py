"""The exercise's wrappers: a penalty on the weights of a layer, and dropout behind a step.

A wrapper shares the arrays of what it wraps, so an update of one is an update of both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.stepwise.checks import Array, check_same, floats
from tinygrad_cnn.stepwise.layers import Layer, Linear, Step, kept

__all__ = ["Dropout", "L2regularization"]


class L2regularization(Layer):
    """A Linear layer whose weights are pulled towards zero: + coefficient/(2m) · ΣW² on the loss.

    Parameters
    ----------
    layer : Linear
        The layer; its arrays are shared, not copied.
    coefficient : float, default 0.01
        Strength, above 0.

    Raises
    ------
    SettingError
        If ``layer`` is no Linear, or ``coefficient`` not above 0.

    Examples
    --------
    >>> np.random.seed(0)
    >>> plain = Linear(2, 1)
    >>> layer = L2regularization(plain, coefficient=0.6)
    >>> _ = layer(np.ones((3, 2)))
    >>> extra = layer.grad(np.ones((3, 1)))[1] - plain.grad(np.ones((3, 1)))[1]
    >>> bool(np.allclose(extra, 0.6 / 3 * plain.weights))
    True
    """

    def __init__(self, layer: Linear, coefficient: float = 0.01) -> None:
        if not isinstance(layer, Linear):
            raise SettingError("L2regularization: layer must be a Linear, got "
                               f"{type(layer).__name__}")
        if not coefficient > 0:
            raise SettingError(f"L2regularization: coefficient must be above 0, got {coefficient}")
        self.layer = layer
        self.coefficient = coefficient

    def parameters(self) -> tuple[Array | None, Array | None]:
        """Those of the wrapped layer."""
        return self.layer.parameters()

    def __call__(self, X: Array) -> Array:
        """The result of the wrapped layer."""
        return self.layer(X)

    def penalty(self) -> Any:
        """coefficient/(2m) · ΣW², with m rows in the last call: what to add to the loss."""
        rows = len(kept(self, self.layer.X))
        return self.coefficient / (2 * rows) * np.sum(self.layer.weights * self.layer.weights)

    def grad(self, in_gradient: Array) -> tuple[Array, Array, Array | None]:
        """(dX, dW + coefficient/m · W, db), with m rows in the last call."""
        rows = len(kept(self, self.layer.X))
        dX, dW, db = self.layer.grad(in_gradient)
        return dX, dW + self.coefficient / rows * self.layer.weights, db


class Dropout:
    """A step whose results are dropped at random while training, the others scaled up.

    The mask is binomial(1, 1 − p), drawn after the wrapped step; result · mask / (1 − p), so that
    the expectation stays.  With ``training = False`` nothing is dropped.

    Parameters
    ----------
    layer : Layer or activation
        The step; its arrays are shared, not copied.
    p : float, default 0.5
        Chance of an entry to be dropped; at least 0, below 1.

    Attributes
    ----------
    training : bool
        Whether entries are dropped; set it to False to evaluate.

    Raises
    ------
    SettingError
        If p lies outside [0, 1).

    Examples
    --------
    >>> from tinygrad_cnn.stepwise import ReLU
    >>> np.random.seed(0)
    >>> step = Dropout(ReLU(), p=0.5)
    >>> step(np.ones((1, 4)))
    array([[2., 2., 2., 2.]])
    >>> step(np.ones((1, 4)))
    array([[0., 2., 0., 2.]])
    >>> step.grad(np.ones((1, 4)))
    array([[0., 2., 0., 2.]])
    >>> step.training = False
    >>> step(np.ones((1, 4)))
    array([[1., 1., 1., 1.]])
    """

    def __init__(self, layer: Step, p: float = 0.5) -> None:
        if not 0 <= p < 1:
            raise SettingError(f"Dropout: p is the chance to drop an entry, at least 0 and below "
                               f"1, got {p}")
        self.layer = layer
        self.p = p
        self.training = True
        self.scale: Array | None = None     # mask / (1 − p) of the last call

    def get_type(self) -> str:
        """The type of the wrapped step."""
        return self.layer.get_type()

    def parameters(self) -> tuple[Array | None, Array | None]:
        """Those of the wrapped step."""
        return self.layer.parameters()

    def __call__(self, X: Array) -> Array:
        """The result of the wrapped step, thinned out while training."""
        out = self.layer(X)
        self.scale = np.ones(out.shape, dtype=out.dtype)
        if self.training:
            mask = np.random.binomial(1, 1 - self.p, size=out.shape)
            self.scale = mask.astype(out.dtype) / (1 - self.p)
        thinned: Array = out * self.scale
        return thinned

    def grad(self, in_gradient: Array) -> Any:
        """The wrapped step's ``grad`` of in_gradient · mask / (1 − p)."""
        scale = kept(self, self.scale)
        gradient = floats(in_gradient, op="dropout", name="in_gradient")
        check_same("Dropout", "in_gradient", gradient.shape, "the result", scale.shape)
        return self.layer.grad(gradient * scale)
