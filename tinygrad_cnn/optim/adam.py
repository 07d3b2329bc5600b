"""Adam, and AdamW with its decoupled weight decay."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.optim.optimizer import Array, Group, Optimizer, coefficient, fractions

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """Step by the running mean of the gradient over the root of its running square.

    g ← g + weight_decay · w;  m ← β1 · m + (1 − β1) · g;  v ← β2 · v + (1 − β2) · g²;  with
    m̂ = m / (1 − β1^t) and v̂ = v / (1 − β2^t) at step t,  w ← w − lr · m̂ / (√v̂ + eps).

    Parameters
    ----------
    parameters : iterable of Tensor, or of dict
        Such as ``model.parameters()``; or groups with settings of their own.
    lr : float, default 1e-3
        Step size: about how far a weight moves in a step.
    betas : (float, float), default (0.9, 0.999)
        Share of the past in m and in v.
    eps : float, default 1e-8
        Keeps the root away from 0.
    weight_decay : float, default 0.0
        Adds weight_decay / 2 · Σ w² to the loss.  `AdamW` is usually the better choice.

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
    Kingma & Ba, *Adam: a method for stochastic optimization*, arXiv:1412.6980.

    Examples
    --------
    >>> from tinygrad_cnn import Parameter
    >>> w = Parameter([1.0])
    >>> optimizer = Adam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()                            # the first step is lr, whatever the gradient
    >>> w.data
    array([0.9], dtype=float32)
    """

    scratch = 2
    _decoupled: ClassVar[bool] = False

    def __init__(self, parameters: Iterable[Any], lr: float = 1e-3, *,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps,
                                      "weight_decay": weight_decay})

    def check(self, group: Group) -> None:
        """Refuse settings that are out of their range."""
        who = type(self).__name__
        for name in ("lr", "eps", "weight_decay"):
            group[name] = coefficient(who, name, group[name])
        betas = group["betas"]
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise SettingError(f"{who}: betas must be two numbers, got {betas!r}")
        group["betas"] = tuple(fractions(who, "betas", beta) for beta in betas)

    def arrays(self, group: Group) -> dict[str, float]:
        """The running mean m and the running square v."""
        return {"mean": 0.0, "square": 0.0}

    def update(self, w: Array, g: Array, state: list[Array], scratch: tuple[Array, ...],
               group: Group, step: int) -> None:
        """Move one piece; the corrections of m and v are moved into the step size and eps."""
        lr, weight_decay, (beta1, beta2) = group["lr"], group["weight_decay"], group["betas"]
        s, decayed = scratch
        mean, square = state
        if weight_decay and self._decoupled:
            w *= 1 - lr * weight_decay
        elif weight_decay:
            np.multiply(w, weight_decay, out=decayed)
            g = np.add(decayed, g, out=decayed)
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
        s *= lr * root / (1 - beta1 ** step)
        w -= s


class AdamW(Adam):
    """`Adam` that decays weights apart from the gradient: w ← w · (1 − lr · weight_decay) first.

    In `Adam` the decay passes through m and v, so that weights with large gradients hardly decay.

    Parameters
    ----------
    parameters, lr, betas, eps
        As in `Adam`.
    weight_decay : float, default 0.01
        Share of each weight that is taken off in a step, times lr.

    Raises
    ------
    SettingError, GradientError, DTypeError
        As `Adam`.

    References
    ----------
    Loshchilov & Hutter, *Decoupled weight decay regularization*, arXiv:1711.05101.

    Examples
    --------
    >>> from tinygrad_cnn import Parameter
    >>> w = Parameter([1.0])
    >>> optimizer = AdamW([w], lr=0.1, weight_decay=0.5)
    >>> (w * w).sum().backward()
    >>> optimizer.step()                            # 1 · (1 − 0.1 · 0.5) − 0.1
    >>> w.data
    array([0.85], dtype=float32)
    """

    _decoupled: ClassVar[bool] = True

    def __init__(self, parameters: Iterable[Any], lr: float = 1e-3, *,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.01) -> None:
        super().__init__(parameters, lr, betas=betas, eps=eps, weight_decay=weight_decay)
