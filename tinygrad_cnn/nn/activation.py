"""Activations as layers; each is the op of the same name, applied to every entry."""

from __future__ import annotations

from typing import Any

from tinygrad_cnn import checks, ops
from tinygrad_cnn.core import Tensor
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.nn.module import Module, show

__all__ = ["ELU", "GELU", "LeakyReLU", "LogSoftmax", "ReLU", "SiLU", "Sigmoid", "Softmax",
           "Softplus", "Tanh"]


class ReLU(Module):
    """max(x, 0).

    Examples
    --------
    >>> ReLU()([-1.0, 2.0]).data
    array([0., 2.], dtype=float32)
    """

    def forward(self, x: Any) -> Tensor:
        """Entry by entry."""
        return ops.relu(x)


class LeakyReLU(Module):
    """x above zero, slope · x elsewhere.

    Parameters
    ----------
    slope : float, default 0.01

    Raises
    ------
    SettingError
        If the slope is not a finite number.

    Examples
    --------
    >>> LeakyReLU(0.5)([-1.0, 2.0]).data
    array([-0.5,  2. ], dtype=float32)
    """

    def __init__(self, slope: float = 0.01) -> None:
        super().__init__()
        self.slope = checks.number("LeakyReLU", "slope", slope)

    def forward(self, x: Any) -> Tensor:
        """Entry by entry."""
        return ops.leaky_relu(x, slope=self.slope)

    def extra_repr(self) -> str:
        """The slope."""
        return show(slope=(self.slope, 0.01))


class ELU(Module):
    """x above zero, alpha · (exp(x) − 1) elsewhere.

    Parameters
    ----------
    alpha : float, default 1.0
        Minus the value far below zero.

    Raises
    ------
    SettingError
        If alpha is not a finite number.

    Examples
    --------
    >>> ELU()([-1000.0, 2.0]).data
    array([-1.,  2.], dtype=float32)
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = checks.number("ELU", "alpha", alpha)

    def forward(self, x: Any) -> Tensor:
        """Entry by entry."""
        return ops.elu(x, alpha=self.alpha)

    def extra_repr(self) -> str:
        """The alpha."""
        return show(alpha=(self.alpha, 1.0))


class GELU(Module):
    """x · Φ(x) in its tanh form; see `tinygrad_cnn.gelu`.

    Parameters
    ----------
    approximate : {"tanh"}, default "tanh"
        The form.  PyTorch's default, "none", is not there.

    Raises
    ------
    SettingError
        If another form is asked for.

    Examples
    --------
    >>> GELU()([0.0, 10.0]).data
    array([ 0., 10.], dtype=float32)
    """

    def __init__(self, approximate: str = "tanh") -> None:
        super().__init__()
        if approximate != "tanh":
            raise SettingError(f"GELU: approximate {approximate!r} is not supported; there is the "
                               "form 'tanh', which is within 5e-4 of x · Φ(x)")

    def forward(self, x: Any) -> Tensor:
        """Entry by entry."""
        return ops.gelu(x)


class SiLU(Module):
    """x · sigmoid(x).

    Examples
    --------
    >>> SiLU()([0.0, 100.0]).data
    array([  0., 100.], dtype=float32)
    """

    def forward(self, x: Any) -> Tensor:
        """Entry by entry."""
        return ops.silu(x)


class Softplus(Module):
    """log(1 + exp(beta · x)) / beta, a smooth `ReLU`.

    Parameters
    ----------
    beta : float, default 1.0
        How sharp the bend is.  PyTorch's ``threshold`` is not needed: no size overflows.

    Raises
    ------
    SettingError
        If beta is not a finite number above 0.

    Examples
    --------
    >>> Softplus()([-1000.0, 1000.0]).data
    array([   0., 1000.], dtype=float32)
    >>> Softplus(beta=5.0)([1.0]).data
    array([1.0013431], dtype=float32)
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = checks.number("Softplus", "beta", beta, above=0)

    def forward(self, x: Any) -> Tensor:
        """Entry by entry."""
        if self.beta == 1.0:
            return ops.softplus(x)
        return ops.div(ops.softplus(ops.mul(x, self.beta)), self.beta)

    def extra_repr(self) -> str:
        """The beta."""
        return show(beta=(self.beta, 1.0))


class Tanh(Module):
    """The hyperbolic tangent.

    Examples
    --------
    >>> Tanh()([0.0, 100.0]).data
    array([0., 1.], dtype=float32)
    """

    def forward(self, x: Any) -> Tensor:
        """Entry by entry."""
        return ops.tanh(x)


class Sigmoid(Module):
    """1 / (1 + exp(−x)).

    Examples
    --------
    >>> Sigmoid()([-1000.0, 0.0]).data
    array([0. , 0.5], dtype=float32)
    """

    def forward(self, x: Any) -> Tensor:
        """Entry by entry."""
        return ops.sigmoid(x)


class Softmax(Module):
    """exp(x) / Σ exp(x) along an axis: positive, with sum 1.

    Not before `CrossEntropyLoss`, which takes the scores themselves.

    Parameters
    ----------
    axis : int, default -1

    Raises
    ------
    SettingError
        If the axis is not an integer.

    Examples
    --------
    >>> Softmax()([[0.0, 0.0]]).data
    array([[0.5, 0.5]], dtype=float32)
    """

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = checks.integer(type(self).__name__, "axis", axis)

    def forward(self, x: Any) -> Tensor:
        """Along the axis."""
        return ops.softmax(x, axis=self.axis)

    def extra_repr(self) -> str:
        """The axis."""
        return show(axis=(self.axis, -1))


class LogSoftmax(Softmax):
    """x − log Σ exp(x) along an axis: the logarithm of `Softmax`, for `NLLLoss`.

    Parameters
    ----------
    axis : int, default -1

    Examples
    --------
    >>> LogSoftmax()([[0.0, 1000.0]]).data
    array([[-1000.,     0.]], dtype=float32)
    """

    def forward(self, x: Any) -> Tensor:
        """Along the axis."""
        return ops.log_softmax(x, axis=self.axis)
