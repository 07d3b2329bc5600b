"""The exercise's ``Model``: layers in a row, and four ways to update them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.stepwise.checks import Array, check_same
from tinygrad_cnn.stepwise.layers import Step

__all__ = ["Model"]

Gradients = Mapping[int, tuple[Array | None, Array | None]]


class Model:
    """Layers and activations, one after the other.

    Gradients are kept per component: index → (dW, db), for components with parameters, None in
    place of a missing bias.  Every update writes into the layers' own arrays.

    Parameters
    ----------
    components : sequence
        Layers and activations; each is asked for its ``parameters()``.

    Attributes
    ----------
    components : list
    dX : array
        Gradient of the input, from the last ``backward``.

    Raises
    ------
    SettingError
        If there is no component.

    Examples
    --------
    >>> from tinygrad_cnn.stepwise import Conv2D, CrossEntropy, Flatten, Linear, ReLU
    >>> np.random.seed(0)
    >>> model = Model([Conv2D(1, 2, padding=0), ReLU(), Flatten(), Linear(8, 2)])
    >>> X, Y, loss = np.random.randn(3, 4, 4, 1), np.eye(2)[[0, 1, 0]], CrossEntropy()
    >>> before = loss(model.forward(X), Y)
    >>> grads = model.backward(loss.grad())
    >>> sorted(grads)
    [0, 3]
    >>> model.update_parameters(grads, lr=0.01)
    >>> bool(loss(model.forward(X), Y) < before)
    True
    """

    def __init__(self, components: Sequence[Step]) -> None:
        if not components:
            raise SettingError("Model: components is empty; give it layers and activations")
        self.components = list(components)
        self.dX: Array | None = None
        self._velocity: dict[tuple[int, int], Array] = {}       # momentum
        self._squares: dict[tuple[int, int], Array] = {}        # AdaGrad
        self._moments: dict[tuple[int, int], tuple[Array, Array]] = {}      # Adam
        self._calls = 0                                         # of adam

    def forward(self, x: Array) -> Array:
        """Run all components in order."""
        for component in self.components:
            x = component(x)
        return x

    def __call__(self, x: Array) -> Array:
        """The same as ``forward``."""
        return self.forward(x)

    def backward(self, in_grad: Array) -> dict[int, tuple[Array | None, Array | None]]:
        """Run all components backwards: {index: (dW, db)}; ``dX`` keeps the input's gradient."""
        grads: dict[int, tuple[Array | None, Array | None]] = {}
        gradient = in_grad
        for index in reversed(range(len(self.components))):
            component = self.components[index]
            answer = component.grad(gradient)
            if component.get_type() == "activation":
                gradient = answer
                continue
            gradient, *own = answer
            if own != [None]:
                grads[index] = (own[0], own[1])
        self.dX = gradient
        return grads

    def _pairs(self, grads: Gradients) -> list[tuple[tuple[int, int], Array, Array]]:
        """(key, parameter, gradient) of everything that is to be updated."""
        pairs = []
        for index, own in grads.items():
            if not 0 <= index < len(self.components):
                raise SettingError(f"Model: grads has index {index}, but there are "
                                   f"{len(self.components)} components")
            parameters = self.components[index].parameters()
            for place, gradient in enumerate(own):
                if gradient is None:
                    continue
                value = parameters[place]
                if value is None:
                    raise SettingError(f"Model: grads has a gradient for parameter {place} of "
                                       f"component {index}, which has no such parameter")
                check_same("Model", f"grads[{index}][{place}]", gradient.shape, "its parameter",
                           value.shape)
                pairs.append(((index, place), value, gradient))
        return pairs

    def update_parameters(self, grads: Gradients, lr: float) -> None:
        """Gradient descent: W ← W − lr · g."""
        for _, value, gradient in self._pairs(grads):
            value -= lr * gradient

    def sgd_momentum(self, grads: Gradients, lr: float, alpha: float) -> None:
        """Momentum: v ← alpha · v − lr · g, W ← W + v; v starts at 0."""
        for key, value, gradient in self._pairs(grads):
            velocity = self._velocity.get(key, np.zeros_like(value))
            self._velocity[key] = alpha * velocity - lr * gradient
            value += self._velocity[key]

    def ada_grad(self, grads: Gradients, lr: float, tol: float = 1e-8) -> None:
        """AdaGrad: s ← s + g², W ← W − lr · g / (tol + √s); s starts at 0."""
        for key, value, gradient in self._pairs(grads):
            squares = self._squares.get(key, np.zeros_like(value))
            self._squares[key] = squares + gradient * gradient
            value -= lr * gradient / (tol + np.sqrt(self._squares[key]))

    def adam(self, grads: Gradients, lr: float, beta1: float = 0.9, beta2: float = 0.999,
             eps: float = 1e-8) -> None:
        """Adam: W ← W − lr · m̂ / (√v̂ + eps), with one step counted for each call.

        m ← beta1 · m + (1 − beta1) · g, v ← beta2 · v + (1 − beta2) · g²; at call t the averages
        are freed of their start at 0: m̂ = m / (1 − beta1ᵗ), v̂ = v / (1 − beta2ᵗ).  Kingma & Ba,
        *Adam: A Method for Stochastic Optimization*, arXiv:1412.6980.
        """
        self._calls += 1
        for key, value, gradient in self._pairs(grads):
            m, v = self._moments.get(key, (np.zeros_like(value), np.zeros_like(value)))
            m = beta1 * m + (1 - beta1) * gradient
            v = beta2 * v + (1 - beta2) * gradient * gradient
            self._moments[key] = (m, v)
            mean: Any = m / (1 - beta1 ** self._calls)
            spread: Any = v / (1 - beta2 ** self._calls)
            value -= lr * mean / (np.sqrt(spread) + eps)
