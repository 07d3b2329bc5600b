"""Activations as layers; each is the op of the same name, applied to every entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from tinygrad_cnn import checks, ops
from tinygrad_cnn.core import Tensor
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.nn.module import Module, show

__all__ = ["ELU", "GELU", "LeakyReLU", "LogSoftmax", "ReLU", "SiLU", "Sigmoid", "Softmax",
           "Softplus", "Tanh"]


class _Activation(Module):
    """An op with at most one setting, which the attribute ``setting`` names."""

    op: ClassVar[Callable[..., Tensor]]
    setting: ClassVar[tuple[str, Any] | None] = None    # name and default

    def forward(self, x: Any) -> Tensor:
        """The op of ``x``, in the shape of ``x``."""
        settings = {} if self.setting is None else {self.setting[0]: vars(self)[self.setting[0]]}
        return type(self).op(x, **settings)

    def extra_repr(self) -> str:
        """The setting, if it is not the default."""
        if self.setting is None:
            return ""
        name, default = self.setting
        return show(**{name: (vars(self)[name], default)})


class ReLU(_Activation):
    """max(x, 0).

    >>> ReLU()([-1.0, 2.0]).data
    array([0., 2.], dtype=float32)
    """

    op = ops.relu


class LeakyReLU(_Activation):
    """x above zero, negative_slope · x elsewhere.

    Parameters
    ----------
    negative_slope : float, default 0.01
        A finite number, or there is a `SettingError`.

    Examples
    --------
    >>> LeakyReLU(0.5)([-1.0, 2.0]).data
    array([-0.5,  2. ], dtype=float32)
    """

    op, setting = ops.leaky_relu, ("negative_slope", 0.01)

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = checks.number("LeakyReLU", "negative_slope", negative_slope)


class ELU(_Activation):
    """x above zero, alpha · (exp(x) − 1) elsewhere.

    Parameters
    ----------
    alpha : float, default 1.0
        Minus the value far below zero; a finite number, or there is a `SettingError`.

    Examples
    --------
    >>> ELU()([-1000.0, 2.0]).data
    array([-1.,  2.], dtype=float32)
    """

    op, setting = ops.elu, ("alpha", 1.0)

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = checks.number("ELU", "alpha", alpha)


class GELU(_Activation):
    """x · Φ(x) in its tanh form; see `tinygrad_cnn.gelu`.

    Parameters
    ----------
    approximate : {"tanh"}, default "tanh"
        The form.  PyTorch's default, "none", is a `SettingError`.

    Examples
    --------
    >>> GELU()([0.0, 10.0]).data
    array([ 0., 10.], dtype=float32)
    """

    op = ops.gelu

    def __init__(self, approximate: str = "tanh") -> None:
        super().__init__()
        if approximate != "tanh":
            raise SettingError(f"GELU: approximate {approximate!r} is not supported; there is the "
                               "form 'tanh', which is within 5e-4 of x · Φ(x)")


class SiLU(_Activation):
    """x · sigmoid(x).

    >>> SiLU()([0.0, 100.0]).data
    array([  0., 100.], dtype=float32)
    """

    op = ops.silu


class Softplus(Module):
    """log(1 + exp(beta · x)) / beta, a smooth `ReLU`.

    Parameters
    ----------
    beta : float, default 1.0
        Above 0, or there is a `SettingError`.  PyTorch's ``threshold`` is not needed: no size
        overflows.

    Examples
    --------
    >>> Softplus()([-1000.0, 1000.0]).data
    array([   0., 1000.], dtype=float32)
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


class Tanh(_Activation):
    """The hyperbolic tangent.

    >>> Tanh()([0.0, 100.0]).data
    array([0., 1.], dtype=float32)
    """

    op = ops.tanh


class Sigmoid(_Activation):
    """1 / (1 + exp(−x)).

    >>> Sigmoid()([-1000.0, 0.0]).data
    array([0. , 0.5], dtype=float32)
    """

    op = ops.sigmoid


class Softmax(_Activation):
    """exp(x) / Σ exp(x) along an axis: positive, with sum 1.

    Not before `CrossEntropyLoss`, which takes the scores themselves.

    Parameters
    ----------
    axis : int, default -1
        An integer, or there is a `SettingError`.

    Examples
    --------
    >>> Softmax()([[0.0, 0.0]]).data
    array([[0.5, 0.5]], dtype=float32)
    """

    op, setting = ops.softmax, ("axis", -1)

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = checks.integer(type(self).__name__, "axis", axis)


class LogSoftmax(Softmax):
    """x − log Σ exp(x) along an axis: the logarithm of `Softmax`, for `NLLLoss`.

    >>> LogSoftmax()([[0.0, 1000.0]]).data
    array([[-1000.,     0.]], dtype=float32)
    """

    op = ops.log_softmax
