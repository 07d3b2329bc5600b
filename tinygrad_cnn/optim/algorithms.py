"""The optimizers: what each does to one parameter."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.optim.optimizer import (
    Array,
    Check,
    Group,
    Optimizer,
    fraction,
    fractions,
    non_negative,
)

__all__ = ["SGD", "AdaGrad", "Adam", "AdamW", "RMSprop"]


class SGD(Optimizer):
    """Stochastic gradient descent, plain or with momentum.

    g ← g + weight_decay · w;  v ← momentum · v + g, from v = 0;  then w ← w − lr · v, or with
    nesterov w ← w − lr · (g + momentum · v).

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        Such as ``model.parameters()``; groups and errors as in `Optimizer`.
    lr : float
        Step size.
    momentum : float, default 0.0
        Share of the last step that is kept.
    nesterov : bool, default False
        Nesterov's momentum; needs one above 0.
    weight_decay : float, default 0.0
        Adds weight_decay / 2 · Σ w² to the loss.

    References
    ----------
    Sutskever et al., *On the importance of initialization and momentum in deep learning*,
    ICML 2013.

    Examples
    --------
    >>> w = Parameter([1.0])
    >>> optimizer = SGD([w], lr=0.1)
    >>> (w * w).sum().backward()                    # the gradient is 2
    >>> optimizer.step()
    >>> w.data
    array([0.8], dtype=float32)
    """

    settings: ClassVar[dict[str, Check]] = {
        "lr": non_negative, "momentum": non_negative, "nesterov": checks.flag,
        "weight_decay": non_negative}
    state_arrays: ClassVar[dict[str, str | None]] = {"velocity": "momentum"}

    def __init__(self, params: Iterable[Any], lr: float, *, momentum: float = 0.0,
                 nesterov: bool = False, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov,
                         "weight_decay": weight_decay})

    def check(self, group: Group) -> None:
        """Refuse settings that are out of their range."""
        super().check(group)
        if group["nesterov"] and not group["momentum"]:
            raise SettingError("SGD: nesterov needs a momentum above 0, got momentum=0")

    def update(self, w: Array, g: Array, state: dict[str, Array], s: Array, group: Group,
               step: int) -> None:
        """Two passes over ``w``, and two or three more with momentum."""
        if group["momentum"]:
            velocity = state["velocity"]
            velocity *= group["momentum"]
            velocity += g
            if group["nesterov"]:
                np.multiply(velocity, group["momentum"], out=s)
                g = np.add(s, g, out=s)
            else:
                g = velocity
        np.multiply(g, group["lr"], out=s)
        w -= s


class Adam(Optimizer):
    """Step by the running mean of the gradient over the root of its running square.

    g ← g + weight_decay · w;  m ← β1 · m + (1 − β1) · g;  v ← β2 · v + (1 − β2) · g²;  with
    m̂ = m / (1 − β1^t) and v̂ = v / (1 − β2^t) at step t,  w ← w − lr · m̂ / (√v̂ + eps).

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        As in `SGD`.
    lr : float, default 1e-3
        Step size: about how far a weight moves in a step.
    betas : (float, float), default (0.9, 0.999)
        Share of the past in m and in v.
    eps : float, default 1e-8
        Keeps the root away from 0.
    weight_decay : float, default 0.0
        Adds weight_decay / 2 · Σ w² to the loss.  `AdamW` is usually the better choice.

    References
    ----------
    Kingma & Ba, *Adam: a method for stochastic optimization*, arXiv:1412.6980.

    Examples
    --------
    >>> w = Parameter([1.0])
    >>> optimizer = Adam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()                            # the first step is lr, whatever the gradient
    >>> w.data
    array([0.9], dtype=float32)
    """

    settings: ClassVar[dict[str, Check]] = {
        "lr": non_negative, "betas": fractions, "eps": non_negative, "weight_decay": non_negative}
    state_arrays: ClassVar[dict[str, str | None]] = {"mean": None, "square": None}

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, *,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps,
                                  "weight_decay": weight_decay})

    def update(self, w: Array, g: Array, state: dict[str, Array], s: Array, group: Group,
               step: int) -> None:
        """Move one piece; the corrections of m and v are moved into the step size and eps."""
        beta1, beta2 = group["betas"]
        mean, square = state["mean"], state["square"]
        np.subtract(g, mean, out=s)                     # m + (1 − β1)(g − m) saves a pass
        s *= 1 - beta1
        mean += s
        np.multiply(g, g, out=s)
        s *= 1 - beta2
        square *= beta2
        square += s
        root = math.sqrt(1 - beta2 ** step)
        np.sqrt(square, out=s)
        s += group["eps"] * root
        np.divide(mean, s, out=s)
        s *= group["lr"] * root / (1 - beta1 ** step)
        w -= s


class AdamW(Adam):
    """`Adam` that decays weights apart from the gradient: w ← w · (1 − lr · weight_decay) first.

    In `Adam` the decay passes through m and v, so that weights with large gradients hardly decay.

    Parameters
    ----------
    params, lr, betas, eps
        As in `Adam`.
    weight_decay : float, default 0.01
        Share of each weight that is taken off in a step, times lr.

    References
    ----------
    Loshchilov & Hutter, *Decoupled weight decay regularization*, arXiv:1711.05101.

    Examples
    --------
    >>> w = Parameter([1.0])
    >>> optimizer = AdamW([w], lr=0.1, weight_decay=0.5)
    >>> (w * w).sum().backward()
    >>> optimizer.step()                            # 1 · (1 − 0.1 · 0.5) − 0.1
    >>> w.data
    array([0.85], dtype=float32)
    """

    decoupled_decay: ClassVar[bool] = True

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, *,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.01) -> None:
        super().__init__(params, lr, betas=betas, eps=eps, weight_decay=weight_decay)


class RMSprop(Optimizer):
    """Divide the gradient by the root of its running square.

    g ← g + weight_decay · w;  v ← alpha · v + (1 − alpha) · g², or with centered the running
    variance v ← alpha · v + alpha · (1 − alpha) · (g − m)², then m ← m + (1 − alpha) · (g − m);
    d = g / (√v + eps);  b ← momentum · b + d;  w ← w − lr · b.

    Parameters
    ----------
    params, lr, weight_decay
        As in `SGD`; lr is 1e-2 if not given.
    alpha : float, default 0.99
        Share of the past in the running square.
    eps : float, default 1e-8
        Keeps the root away from 0.
    momentum : float, default 0.0
        Share of the last step that is kept.
    centered : bool, default False
        Divide by the deviation from the running mean instead.

    References
    ----------
    Tieleman & Hinton, lecture 6.5 of *Neural networks for machine learning*, 2012; centered:
    Graves, arXiv:1308.0850.

    Examples
    --------
    >>> w = Parameter([1.0])
    >>> optimizer = RMSprop([w], lr=0.01, alpha=0.75)
    >>> (w * w).sum().backward()
    >>> optimizer.step()                            # 1 − 0.01 · 2 / √(0.25 · 4)
    >>> w.data
    array([0.98], dtype=float32)
    """

    settings: ClassVar[dict[str, Check]] = {
        "lr": non_negative, "alpha": fraction, "eps": non_negative, "momentum": non_negative,
        "centered": checks.flag, "weight_decay": non_negative}
    state_arrays: ClassVar[dict[str, str | None]] = {
        "square": None, "mean": "centered", "velocity": "momentum"}

    def __init__(self, params: Iterable[Any], lr: float = 1e-2, *, alpha: float = 0.99,
                 eps: float = 1e-8, momentum: float = 0.0, centered: bool = False,
                 weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum,
                                  "centered": centered, "weight_decay": weight_decay})

    def update(self, w: Array, g: Array, state: dict[str, Array], s: Array, group: Group,
               step: int) -> None:
        """Move one piece of a parameter."""
        alpha, square = group["alpha"], state["square"]
        square *= alpha
        if group["centered"]:
            # The variance itself is kept: v − m² would lose its digits where g hardly changes.
            np.subtract(g, state["mean"], out=s)
            s *= 1 - alpha
            state["mean"] += s
            s *= s
            s *= alpha / (1 - alpha)
        else:
            np.multiply(g, g, out=s)
            s *= 1 - alpha
        square += s
        np.sqrt(square, out=s)
        s += group["eps"]
        np.divide(g, s, out=s)
        if group["momentum"]:
            velocity = state["velocity"]
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
    params, lr, weight_decay
        As in `SGD`; lr is 1e-2 if not given.
    lr_decay : float, default 0.0
        How fast the step size falls.
    eps : float, default 1e-10
        Keeps the root away from 0.

    References
    ----------
    Duchi, Hazan & Singer, *Adaptive subgradient methods*, JMLR 12 (2011), 2121-2159.

    Examples
    --------
    >>> w = Parameter([1.0])
    >>> optimizer = AdaGrad([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()                            # 1 − 0.1 · 2 / √4
    >>> w.data
    array([0.9], dtype=float32)
    """

    settings: ClassVar[dict[str, Check]] = {
        "lr": non_negative, "lr_decay": non_negative, "eps": non_negative,
        "weight_decay": non_negative}
    state_arrays: ClassVar[dict[str, str | None]] = {"square": None}

    def __init__(self, params: Iterable[Any], lr: float = 1e-2, *, lr_decay: float = 0.0,
                 eps: float = 1e-10, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "lr_decay": lr_decay, "eps": eps,
                                  "weight_decay": weight_decay})

    def update(self, w: Array, g: Array, state: dict[str, Array], s: Array, group: Group,
               step: int) -> None:
        """Move one piece of a parameter."""
        square = state["square"]
        np.multiply(g, g, out=s)
        square += s
        np.sqrt(square, out=s)
        s += group["eps"]
        np.divide(g, s, out=s)
        s *= group["lr"] / (1 + (step - 1) * group["lr_decay"])
        w -= s
