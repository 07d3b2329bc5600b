"""A convolutional network step by step, as classes: the layers, losses and model of the exercise.

``__call__`` computes and keeps its input as ``X`` or ``x``; ``grad`` sends a gradient back.  A
layer (``get_type() == "layer"``) answers with a tuple whose first entry is the gradient of its
input: (dX, dW, db) where there are parameters, with None for a missing bias, and (dX, None) where
there are none.  An activation answers with the gradient alone.  A loss is called with two arrays,
and ``grad()`` gives its gradient with respect to the prediction.  ``parameters()`` gives the arrays
themselves, so whoever updates them in place updates the layer.

The work is done by the functions of ``functions``, which also refuse what does not fit.  Weights
come from NumPy's legacy global stream, as in the exercise.  A size below 1 is a SettingError, a
``grad`` before the first call a GradientError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.errors import GradientError, SettingError, ShapeError
from tinygrad_cnn.kernels import reference
from tinygrad_cnn.stepwise.functions import (
    Scalar,
    check_same,
    conv_backward,
    conv_forward,
    create_mask_from_window,
    fc_backward,
    fc_forward,
    floats,
    one_hot,
    pool_backward,
    pool_forward,
    relu_backward,
    relu_forward,
    softmax_backward,
    softmax_forward,
)
from tinygrad_cnn.types import Array

__all__ = [
    "Conv2D", "CrossEntropy", "Dropout", "Flatten", "L2regularization", "LeakyReLU", "Linear",
    "MSELoss", "Maxpool2D", "Model", "ReLU", "Sigmoid", "Softmax", "Tanh",
]

WeightsAndBiases = tuple[Array | None, Array | None]        # or their gradients
Gradients = Mapping[int, WeightsAndBiases]
Answer = Array | tuple[Array | None, ...]                    # of an activation, of a layer
T = TypeVar("T")


class Step(Protocol):
    """What a ``Model`` is made of: layers and activations."""

    def __call__(self, X: Array) -> Array:
        """Compute the result and keep what ``grad`` needs."""

    def grad(self, in_gradient: Array) -> Answer:
        """Send the gradient of the result back."""

    def get_type(self) -> str:
        """Say "layer" or "activation"."""

    def parameters(self) -> WeightsAndBiases:
        """Weights and biases, the arrays themselves; None for what the step does not have."""


class _Base:
    """What layers and activations share."""

    _type = "layer"

    def get_type(self) -> str:
        """Say "layer" or "activation"."""
        return self._type

    def parameters(self) -> WeightsAndBiases:
        """Weights and biases, the arrays themselves; None where there are none."""
        return None, None


def kept(step: object, value: T | None) -> T:
    """What the last call kept, or an error if there was no call."""
    if value is None:
        raise GradientError(f"{type(step).__name__}: grad needs the input of a call, and this one "
                            "has not been called yet")
    return value


# ---- layers --------------------------------------------------------------------------------------

class Conv2D(_Base):
    """A convolution Z = conv(X, W) + b, with filters drawn by ``randn``, unscaled.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the images and number of filters.
    kernel_size, stride, padding : int, pixels, default 3, 1 and 2
        Side of the square filters, step from window to window, border of zeros on every side.

    Attributes
    ----------
    W, b : array
        Shapes (k, k, C_in, C_out) and (1, 1, 1, C_out), drawn in this order.

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
        channels = checks.integer("Conv2D", "in_channels", in_channels, minimum=1)
        filters = checks.integer("Conv2D", "out_channels", out_channels, minimum=1)
        size = checks.integer("Conv2D", "kernel_size", kernel_size, minimum=1)
        self.hparameters = {"stride": checks.integer("Conv2D", "stride", stride, minimum=1),
                            "pad": checks.integer("Conv2D", "padding", padding, minimum=0)}
        self.W: Array = np.random.randn(size, size, channels, filters)
        self.b: Array = np.random.randn(1, 1, 1, filters)
        self.X: Array | None = None
        self._cache: Any = None

    def parameters(self) -> WeightsAndBiases:
        """(W, b)."""
        return self.W, self.b

    def __call__(self, X: Array) -> Array:
        """Z of ``conv_forward``."""
        Z, self._cache = conv_forward(X, self.W, self.b, self.hparameters)
        self.X = self._cache[0]
        return Z

    def grad(self, in_gradient: Array) -> tuple[Array, Array, Array]:
        """(dLdX, dLdW, dLdb) of ``conv_backward``."""
        return conv_backward(in_gradient, kept(self, self._cache))


class Maxpool2D(_Base):
    """Max pooling over windows of ``kernel`` pixels, ``stride`` apart; the default ones overlap.

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
        self.hparameters = {"f": checks.integer("Maxpool2D", "kernel", kernel, minimum=1),
                            "stride": checks.integer("Maxpool2D", "stride", stride, minimum=1)}
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


class Flatten(_Base):
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


class Linear(_Base):
    """A fully connected layer: X W + b, drawn as randn · 0.05.

    Attributes
    ----------
    weights, bias : array
        Shapes (in_features, out_features) and (1, out_features), drawn in this order; with
        ``bias=False`` there is no bias, and its gradient is None.

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
        inputs = checks.integer("Linear", "in_features", in_features, minimum=1)
        outputs = checks.integer("Linear", "out_features", out_features, minimum=1)
        self.weights: Array = np.random.randn(inputs, outputs) * 0.05
        self.bias: Array | None = np.random.randn(1, outputs) * 0.05 if bias else None
        self.X: Array | None = None

    def parameters(self) -> WeightsAndBiases:
        """(weights, bias)."""
        return self.weights, self.bias

    def _row(self) -> Array:
        """The bias, or zeros in its place."""
        return np.zeros_like(self.weights[:1]) if self.bias is None else self.bias

    def __call__(self, X: Array) -> Array:
        """X W + b, shape (N, out)."""
        self.X = floats(X, op="linear", name="x", axes="N I")
        return fc_forward(self.X, self.weights, self._row())[0]

    def grad(self, in_gradient: Array) -> tuple[Array, Array, Array | None]:
        """(dX, dW, db), with None for a missing bias."""
        cache = kept(self, self.X), self.weights, self._row()
        dX, dW, db = fc_backward(in_gradient, cache)
        return dX, dW, None if self.bias is None else db


# ---- activations ---------------------------------------------------------------------------------

class Activation(_Base):
    """What all activations share: ``__call__`` keeps x, ``grad`` multiplies by the slope there."""

    _type = "activation"

    def __init__(self) -> None:
        self.x: Array | None = None

    def _forward(self, x: Array) -> Array:
        raise NotImplementedError

    def _backward(self, g: Array, x: Array) -> Array:
        raise NotImplementedError

    def __call__(self, x: Array) -> Array:
        """The activation of x, which is kept for ``grad``."""
        self.x = floats(x, op=type(self).__name__, name="x")
        return self._forward(self.x)

    def grad(self, in_gradient: Array) -> Array:
        """The gradient of the input of the last call, of the same shape."""
        x = kept(self, self.x)
        gradient = floats(in_gradient, op=type(self).__name__, name="in_gradient")
        check_same(type(self).__name__, "in_gradient", gradient.shape, "x", x.shape)
        return self._backward(gradient, x)


class ReLU(Activation):
    """max(x, 0); the gradient passes where x > 0, so it is 0 at 0.

    Examples
    --------
    >>> step = ReLU()
    >>> step(np.array([-np.inf, 0.0, 3.0])), step.grad(np.ones(3))
    (array([0., 0., 3.]), array([0., 0., 1.]))
    """

    def _forward(self, x: Array) -> Array:
        return relu_forward(x)[0]

    def _backward(self, g: Array, x: Array) -> Array:
        return relu_backward(g, x)


class LeakyReLU(Activation):
    """x where positive, alpha · x elsewhere; the gradient at 0 is alpha, default 0.01.

    Examples
    --------
    >>> step = LeakyReLU(alpha=0.1)
    >>> step(np.array([-2.0, 0.0, 3.0])), step.grad(np.ones(3))
    (array([-0.2,  0. ,  3. ]), array([0.1, 0.1, 1. ]))
    """

    def __init__(self, alpha: float = 0.01) -> None:
        super().__init__()
        self.alpha = alpha

    def _forward(self, x: Array) -> Array:
        return np.where(x > 0, x, self.alpha * x)

    def _backward(self, g: Array, x: Array) -> Array:
        return np.where(x > 0, g, self.alpha * g)


class Tanh(Activation):
    """tanh(x); its gradient is (1 − tanh²(x)) · g.

    Examples
    --------
    >>> step = Tanh()
    >>> step(np.array([0.0, 1.0])), step.grad(np.ones(2))
    (array([0.        , 0.76159416]), array([1.        , 0.41997434]))
    """

    def _forward(self, x: Array) -> Array:
        return np.tanh(x)

    def _backward(self, g: Array, x: Array) -> Array:
        return (1 - np.tanh(x) ** 2) * g


class Sigmoid(Activation):
    """σ(x) = 1 / (1 + exp(−x)), written so that no power overflows; its gradient is σ(1 − σ) · g.

    Examples
    --------
    >>> step = Sigmoid()
    >>> step(np.array([-1000.0, 0.0, 1000.0])), step.grad(np.ones(3))
    (array([0. , 0.5, 1. ]), array([0.  , 0.25, 0.  ]))
    """

    def _forward(self, x: Array) -> Array:
        power = np.exp(-np.abs(x))          # exp(x) / (1 + exp(x)) is the same below 0
        return np.where(x >= 0, 1 / (1 + power), power / (1 + power))

    def _backward(self, g: Array, x: Array) -> Array:
        return self._forward(x) * self._forward(-x) * g


class Softmax(Activation):
    """Rows of scores to rows of probabilities, along axis 1; its gradient is P · (g − Σ_k g · P).

    Examples
    --------
    >>> step = Softmax()
    >>> step(np.array([[0.0, 0.0]])), step.grad(np.array([[1.0, 0.0]]))
    (array([[0.5, 0.5]]), array([[ 0.25, -0.25]]))
    """

    def _forward(self, x: Array) -> Array:
        return softmax_forward(x)[0]

    def _backward(self, g: Array, x: Array) -> Array:
        return softmax_backward(g, self._forward(x))


# ---- losses --------------------------------------------------------------------------------------

class _Loss:
    """What both losses share: the gradient of the last call is kept."""

    def __init__(self) -> None:
        self._gradient: Array | None = None

    def grad(self) -> Array:
        """The gradient of the last call's loss to its prediction."""
        return kept(self, self._gradient)


class CrossEntropy(_Loss):
    """−Σ onehot · log softmax(logits), averaged over the rows or added up.

    The logarithm is taken before the division, so the loss has no ceiling and agrees with its
    gradient, (softmax − onehot) / N, however sure and wrong the prediction is.

    Parameters
    ----------
    class_count : int, optional
        K; checked against the arrays when given.
    average : bool, default True
        Divide by the N rows; False adds them up.

    Examples
    --------
    >>> loss = CrossEntropy()
    >>> print(loss(np.array([[0.0, 1000.0]]), np.array([[1, 0]])))
    1000.0
    >>> loss.grad()
    array([[-1.,  1.]])
    """

    def __init__(self, class_count: int | None = None, average: bool = True) -> None:
        super().__init__()
        if class_count is not None:
            class_count = checks.integer("CrossEntropy", "class_count", class_count, minimum=1)
        self.class_count = class_count
        self.average = average

    def __call__(self, Y_pred: Array, Y_real: Array) -> Scalar:
        """The loss of logits (N, K) at one-hot truth (N, K): a scalar, in nats."""
        logits = floats(Y_pred, op="cross_entropy", name="Y_pred", axes="N K")
        if self.class_count not in (None, logits.shape[1]):
            raise ShapeError(f"cross_entropy: class_count is {self.class_count}, but Y_pred has "
                             f"{logits.shape[1]} classes")
        check_same("cross_entropy", "Y_real", np.shape(Y_real), "Y_pred", logits.shape)
        truth = one_hot(Y_real, logits, op="cross_entropy")
        rows = len(logits) if self.average else 1
        losses = reference.cross_entropy(logits, targets=truth)             # N
        self._gradient = (reference.softmax(logits, axis=1) - truth) / rows
        return np.sum(losses) / rows


class MSELoss(_Loss):
    """Squared error per row: Σ (t − p)² / N; the truth comes first.  Gradient: 2 (p − t) / N.

    Examples
    --------
    >>> loss = MSELoss()
    >>> print(loss(np.array([[1.0, 2.0]]), np.array([[1.0, 5.0]])))
    9.0
    >>> loss.grad()
    array([[0., 6.]])
    """

    def __call__(self, y_true: Array, y_pred: Array) -> Scalar:
        """Σ (t − p)² / N, with N rows."""
        truth = floats(y_true, op="mse_loss", name="y_true")
        prediction = floats(y_pred, op="mse_loss", name="y_pred")
        check_same("mse_loss", "y_pred", prediction.shape, "y_true", truth.shape)
        if truth.ndim == 0 or len(truth) == 0:
            raise ShapeError(f"mse_loss: there are no rows in arrays of shape {truth.shape}")
        off = prediction - truth
        self._gradient = 2 * off / len(truth)
        return np.sum(off * off) / len(truth)


# ---- wrappers ------------------------------------------------------------------------------------

class L2regularization(_Base):
    """A Linear layer whose weights are pulled towards zero: + coefficient/(2m) · ΣW² on the loss.

    Parameters
    ----------
    layer : Linear
        The layer; its arrays are shared, not copied.
    coefficient : float, default 0.01
        Strength, above 0; m is the number of rows.

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
        self.layer = layer
        self.coefficient = checks.number("L2regularization", "coefficient", coefficient, above=0)

    def parameters(self) -> WeightsAndBiases:
        """Those of the wrapped layer."""
        return self.layer.parameters()

    def __call__(self, X: Array) -> Array:
        """The result of the wrapped layer."""
        return self.layer(X)

    def penalty(self) -> Scalar:
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
    layer : layer or activation
        The step; its arrays are shared, not copied.
    p : float, default 0.5
        Chance of an entry to be dropped; at least 0, below 1.

    Examples
    --------
    >>> np.random.seed(0)
    >>> step = Dropout(ReLU(), p=0.5)
    >>> step(np.ones((1, 4))), step(np.ones((1, 4)))
    (array([[2., 2., 2., 2.]]), array([[0., 2., 0., 2.]]))
    >>> step.grad(np.ones((1, 4)))
    array([[0., 2., 0., 2.]])
    >>> step.training = False
    >>> step(np.ones((1, 4)))
    array([[1., 1., 1., 1.]])
    """

    def __init__(self, layer: Step, p: float = 0.5) -> None:
        self.layer = layer
        self.p = checks.number("Dropout", "p", p, minimum=0, below=1)
        self.training = True
        self.scale: Array | None = None     # mask / (1 − p) of the last call

    def get_type(self) -> str:
        """The type of the wrapped step."""
        return self.layer.get_type()

    def parameters(self) -> WeightsAndBiases:
        """Those of the wrapped step."""
        return self.layer.parameters()

    def __call__(self, X: Array) -> Array:
        """The result of the wrapped step, with entries dropped while training."""
        out = self.layer(X)
        self.scale = np.ones(out.shape, dtype=out.dtype)
        if self.training:
            mask = np.random.binomial(1, 1 - self.p, size=out.shape)
            self.scale = mask.astype(out.dtype) / (1 - self.p)
        return out * self.scale

    def grad(self, in_gradient: Array) -> Answer:
        """The wrapped step's ``grad`` of in_gradient · mask / (1 − p)."""
        scale = kept(self, self.scale)
        gradient = floats(in_gradient, op="dropout", name="in_gradient")
        check_same("Dropout", "in_gradient", gradient.shape, "the result", scale.shape)
        return self.layer.grad(gradient * scale)


# ---- the model -----------------------------------------------------------------------------------

class Model:
    """Layers and activations, one after the other.

    Gradients are kept per component: index → (dW, db), for components with parameters, None in
    place of a missing bias.  Every update writes into the layers' own arrays.

    Attributes
    ----------
    components : list
    dX : array
        Gradient of the input, from the last ``backward``.

    Examples
    --------
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
        self._averages: dict[tuple[str, int, int], Array] = {}      # what a rule remembers
        self._calls = 0                                             # of adam

    def forward(self, x: Array) -> Array:
        """Run all components in order."""
        for component in self.components:
            x = component(x)
        return x

    __call__ = forward

    def backward(self, in_grad: Array) -> dict[int, WeightsAndBiases]:
        """Run all components backwards: {index: (dW, db)}; ``dX`` keeps the input's gradient."""
        grads: dict[int, WeightsAndBiases] = {}
        gradient = in_grad
        for index, component in reversed(list(enumerate(self.components))):
            answer = component.grad(gradient)
            if not isinstance(answer, tuple):               # of an activation
                gradient = answer
                continue
            first, *own = answer
            gradient = kept(component, first)
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
            values = self.components[index].parameters()
            for place, (value, gradient) in enumerate(zip(values, own, strict=True)):
                if gradient is None:
                    continue
                if value is None:
                    raise SettingError(f"Model: grads has a gradient for parameter {place} of "
                                       f"component {index}, which has no such parameter")
                check_same("Model", f"grads[{index}][{place}]", gradient.shape, "its parameter",
                           value.shape)
                pairs.append(((index, place), value, gradient))
        return pairs

    def _average(self, name: str, key: tuple[int, int], value: Array) -> Array:
        """What a rule remembers of a parameter: 0 at first, then written in place."""
        return self._averages.setdefault((name, *key), np.zeros_like(value))

    def update_parameters(self, grads: Gradients, lr: float) -> None:
        """Gradient descent: W ← W − lr · g."""
        for _, value, gradient in self._pairs(grads):
            value -= lr * gradient

    def sgd_momentum(self, grads: Gradients, lr: float, alpha: float) -> None:
        """Momentum: v ← alpha · v − lr · g, W ← W + v; v starts at 0."""
        for key, value, gradient in self._pairs(grads):
            velocity = self._average("momentum", key, value)
            velocity[...] = alpha * velocity - lr * gradient
            value += velocity

    def ada_grad(self, grads: Gradients, lr: float, tol: float = 1e-8) -> None:
        """AdaGrad: s ← s + g², W ← W − lr · g / (tol + √s); s starts at 0."""
        for key, value, gradient in self._pairs(grads):
            squares = self._average("adagrad", key, value)
            squares += gradient * gradient
            value -= lr * gradient / (tol + np.sqrt(squares))

    def adam(self, grads: Gradients, lr: float, beta1: float = 0.9, beta2: float = 0.999,
             eps: float = 1e-8) -> None:
        """Adam: W ← W − lr · m̂ / (√v̂ + eps), with one step counted for each call.

        m ← beta1 · m + (1 − beta1) · g, v ← beta2 · v + (1 − beta2) · g²; at call t the averages
        are corrected for their start at 0: m̂ = m / (1 − beta1ᵗ), v̂ = v / (1 − beta2ᵗ).  Kingma &
        Ba, *Adam: A Method for Stochastic Optimization*, arXiv:1412.6980.
        """
        self._calls += 1
        for key, value, gradient in self._pairs(grads):
            m, v = (self._average(name, key, value) for name in ("adam m", "adam v"))
            m[...] = beta1 * m + (1 - beta1) * gradient
            v[...] = beta2 * v + (1 - beta2) * gradient * gradient
            mean = m / (1 - beta1 ** self._calls)
            variance = v / (1 - beta2 ** self._calls)
            value -= lr * mean / (np.sqrt(variance) + eps)
