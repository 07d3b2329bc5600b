"""Optimisers that divide each gradient by the size of those before it: RMSprop and AdaGrad."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygrad_cnn.core import as_flag
from tinygrad_cnn.optim.optimizer import Array, Group, Optimizer, coefficient, fractions

__all__ = ["AdaGrad", "RMSprop"]


class RMSprop(Optimizer):
    """Divide the gradient by the root of its running square.

    g ← g + weight_decay · w;  v ← alpha · v + (1 − alpha) · g²;  d = g / (√v + eps), or with
    centered d = g / (√(v − m²) + eps), m the running mean of g;  b ← momentum · b + d;
    w ← w − lr · b.

    Parameters
    ----------
    parameters : iterable of Tensor, or of dict
        Such as ``model.parameters()``; or groups with settings of their own.
    lr : float, default 1e-2
        Step size.
    alpha : float, default 0.99
        Share of the past in the running square.
    eps : float, default 1e-8
        Keeps the root away from 0.
    momentum : float, default 0.0
        Share of the last step that is kept.
    centered : bool, default False
        Divide by the deviation from the running mean instead.
    weight_decay : float, default 0.0
        Adds weight_decay / 2 · Σ w² to the loss.

    Raises
    ------
    SettingError
        If there are no parameters, one is given twice, or a setting is out of its range.
    GradientError
        If a tensor is not a leaf, or does not require a gradient.
    DTypeError
        If something is not a tensor of float32 or float64.

    References
    ----------
    Tieleman & Hinton, lecture 6.5 of *Neural networks for machine learning*, 2012; centered:
    Graves, arXiv:1308.0850.

    Examples
    --------
    >>> from tinygrad_cnn import Parameter
    >>> w = Parameter([1.0])
    >>> optimizer = RMSprop([w], lr=0.01, alpha=0.75)
    >>> (w * w).sum().backward()
    >>> optimizer.step()                            # 1 − 0.01 · 2 / √(0.25 · 4)
    >>> w.data
    array([0.98], dtype=float32)
    """

    scratch = 2

    def __init__(self, parameters: Iterable[Any], lr: float = 1e-2, *, alpha: float = 0.99,
                 eps: float = 1e-8, momentum: float = 0.0, centered: bool = False,
                 weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum,
                                      "centered": centered, "weight_decay": weight_decay})

    def check(self, group: Group) -> None:
        """Refuse settings that are out of their range."""
        for name in ("lr", "eps", "momentum", "weight_decay"):
            group[name] = coefficient("RMSprop", name, group[name])
        group["alpha"] = fractions("RMSprop", "alpha", group["alpha"])
        group["centered"] = as_flag(group["centered"], "RMSprop", "centered")

    def arrays(self, group: Group) -> dict[str, float]:
        """The running square, and the mean and the velocity if they are asked for."""
        return {"square": 0.0} | ({"mean": 0.0} if group["centered"] else {}) | (
            {"velocity": 0.0} if group["momentum"] else {})

    def update(self, w: Array, g: Array, state: list[Array], scratch: tuple[Array, ...],
               group: Group, step: int) -> None:
        """Move one piece of a parameter."""
        s, decayed = scratch
        alpha, (square, *others) = group["alpha"], state
        if group["weight_decay"]:
            np.multiply(w, group["weight_decay"], out=decayed)
            g = np.add(decayed, g, out=decayed)
        np.multiply(g, g, out=s)
        s *= 1 - alpha
        square *= alpha
        square += s
        if group["centered"]:
            mean = others.pop(0)
            np.subtract(g, mean, out=s)
            s *= 1 - alpha
            mean += s
            np.multiply(mean, mean, out=s)
            np.subtract(square, s, out=s)
            np.maximum(s, 0.0, out=s)                   # rounding may leave less than nothing
            np.sqrt(s, out=s)
        else:
            np.sqrt(square, out=s)
        s += group["eps"]
        np.divide(g, s, out=s)
        if group["momentum"]:
            velocity = others.pop(0)
            velocity *= group["momentum"]
            velocity += s
            np.multiply(velocity, group["lr"], out=s)
        else:
            s *= group["lr"]
        w -= s


class AdaGrad(Optimizer):
    """Divide the gradient by the root of the sum of all its squares.

    g ← g + weight_decay · w;  v ← v + g²;  at step t,
    w ← w − lr / (1 + (t − 1) · lr_decay) · g / (√v + eps).

    Parameters
    ----------
    parameters : iterable of Tensor, or of dict
        Such as ``model.parameters()``; or groups with settings of their own.
    lr : float, default 1e-2
        Step size.
    lr_decay : float, default 0.0
        How fast the step size falls.
    eps : float, default 1e-10
        Keeps the root away from 0.
    weight_decay : float, default 0.0
        Adds weight_decay / 2 · Σ w² to the loss.

    Raises
    ------
    SettingError
        If there are no parameters, one is given twice, or a setting is out of its range.
    GradientError
        If a tensor is not a leaf, or does not require a gradient.
    DTypeError
        If something is not a tensor of float32 or float64.

    References
    ----------
    Duchi, Hazan & Singer, *Adaptive subgradient methods*, JMLR 12 (2011), 2121-2159.

    Examples
    --------
    >>> from tinygrad_cnn import Parameter
    >>> w = Parameter([1.0])
    >>> optimizer = AdaGrad([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()                            # 1 − 0.1 · 2 / √4
    >>> w.data
    array([0.9], dtype=float32)
    """

    scratch = 2

    def __init__(self, parameters: Iterable[Any], lr: float = 1e-2, *, lr_decay: float = 0.0,
                 eps: float = 1e-10, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "lr_decay": lr_decay, "eps": eps,
                                      "weight_decay": weight_decay})

    def check(self, group: Group) -> None:
        """Refuse settings that are out of their range."""
        for name in ("lr", "lr_decay", "eps", "weight_decay"):
            group[name] = coefficient("AdaGrad", name, group[name])

    def arrays(self, group: Group) -> dict[str, float]:
        """The sum of squares."""
        return {"square": 0.0}

    def update(self, w: Array, g: Array, state: list[Array], scratch: tuple[Array, ...],
               group: Group, step: int) -> None:
        """Move one piece of a parameter."""
        s, decayed = scratch
        square, = state
        if group["weight_decay"]:
            np.multiply(w, group["weight_decay"], out=decayed)
            g = np.add(decayed, g, out=decayed)
        np.multiply(g, g, out=s)
        square += s
        np.sqrt(square, out=s)
        s += group["eps"]
        np.divide(g, s, out=s)
        s *= group["lr"] / (1 + (step - 1) * group["lr_decay"])
        w -= s
