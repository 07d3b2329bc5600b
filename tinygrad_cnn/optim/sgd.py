"""Stochastic gradient descent, plain or with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygrad_cnn.core import as_flag
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.optim.optimizer import Array, Group, Optimizer, coefficient

__all__ = ["SGD"]


class SGD(Optimizer):
    """Step against the gradient, with momentum if asked.

    g ← g + weight_decay · w;  v ← momentum · v + g, from v = 0;  then w ← w − lr · v, or with
    nesterov w ← w − lr · (g + momentum · v).

    Parameters
    ----------
    parameters : iterable of Tensor, or of dict
        Such as ``model.parameters()``; or groups with settings of their own.
    lr : float
        Step size.
    momentum : float, default 0.0
        Share of the last step that is kept.
    nesterov : bool, default False
        Look ahead along the momentum; needs one.
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
    Sutskever et al., *On the importance of initialization and momentum in deep learning*,
    ICML 2013.

    Examples
    --------
    >>> from tinygrad_cnn import Parameter
    >>> w = Parameter([1.0])
    >>> optimizer = SGD([w], lr=0.1)
    >>> (w * w).sum().backward()                    # the gradient is 2
    >>> optimizer.step()
    >>> w.data
    array([0.8], dtype=float32)
    """

    scratch = 2

    def __init__(self, parameters: Iterable[Any], lr: float, *, momentum: float = 0.0,
                 nesterov: bool = False, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "nesterov": nesterov,
                                      "weight_decay": weight_decay})

    def check(self, group: Group) -> None:
        """Refuse settings that are out of their range."""
        for name in ("lr", "momentum", "weight_decay"):
            group[name] = coefficient("SGD", name, group[name])
        group["nesterov"] = as_flag(group["nesterov"], "SGD", "nesterov")
        if group["nesterov"] and not group["momentum"]:
            raise SettingError("SGD: nesterov needs a momentum above 0, got momentum=0")

    def arrays(self, group: Group) -> dict[str, float]:
        """The velocity, if there is momentum."""
        return {"velocity": 0.0} if group["momentum"] else {}

    def update(self, w: Array, g: Array, state: list[Array], scratch: tuple[Array, ...],
               group: Group, step: int) -> None:
        """Two passes over ``w``; two to four more with momentum and decay."""
        first, second = scratch
        momentum, weight_decay = group["momentum"], group["weight_decay"]
        if weight_decay:
            np.multiply(w, weight_decay, out=first)
            g = np.add(first, g, out=first)
        if momentum:
            velocity, = state
            velocity *= momentum
            velocity += g
            if group["nesterov"]:
                np.multiply(velocity, momentum, out=second)
                g = np.add(second, g, out=second)
            else:
                g = velocity
        np.multiply(g, group["lr"], out=second)
        w -= second
