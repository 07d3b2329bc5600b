"""The optimizers: what each does to one parameter."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.optim.optimizer import Group, Optimizer, State, fraction, fractions, non_negative
from tinygrad_cnn.settings import setting
from tinygrad_cnn.types import Array

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Lion", "NAdam", "RAdam", "RMSprop"]


class SGD(Optimizer):
    """Stochastic gradient descent, plain or with momentum.

    g ← g + weight_decay · w;  v ← momentum · v + (1 − dampening) · g, from v = g;  then
    w ← w − lr · v, or with nesterov w ← w − lr · (g + momentum · v).

    Sutskever et al., *On the importance of initialization and momentum in deep learning*,
    ICML 2013.

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        Such as ``model.parameters()``; groups and errors as in `Optimizer`.
    lr : float, default 1e-3
        Step size.
    momentum : float, default 0.0
        Share of the last step that is kept.
    dampening : float, default 0.0
        Share of each new gradient that is left out, with momentum.
    weight_decay : float, default 0.0
        Adds weight_decay / 2 · Σ w² to the loss.
    nesterov : bool, default False
        Nesterov's momentum; needs one above 0, and no dampening.
    maximize : bool, default False
        Go up instead of down.  Every optimizer has it.

    Examples
    --------
    >>> w = Parameter([1.0])
    >>> optimizer = SGD([w], lr=0.1)
    >>> (w * w).sum().backward()                    # the gradient is 2
    >>> optimizer.step()
    >>> w.data
    array([0.8], dtype=float32)
    """

    momentum: float = setting(non_negative, default=0.0)
    dampening: float = setting(checks.number, default=0.0, minimum=0, maximum=1)
    weight_decay: float = setting(non_negative, default=0.0)
    nesterov: bool = setting(checks.flag, default=False)
    state_arrays: ClassVar[dict[str, str | None]] = {"velocity": "momentum"}

    def check(self, group: Group) -> None:
        super().check(group)
        if group["nesterov"] and (not group["momentum"] or group["dampening"]):
            raise SettingError("SGD: nesterov needs a momentum above 0 and no dampening, got "
                               f"momentum={group['momentum']:g}, dampening={group['dampening']:g}")

    def update(self, w: Array, g: Array, state: State, s: Array, group: Group) -> None:
        if group["momentum"]:
            velocity = state["velocity"]
            velocity *= group["momentum"]
            if group["dampening"] and state["step"] > 1:
                velocity += np.multiply(g, 1 - group["dampening"], out=s)
            else:
                velocity += g
            if group["nesterov"]:
                np.multiply(velocity, group["momentum"], out=s)
                g = np.add(s, g, out=s)
            else:
                g = velocity
        np.multiply(g, group["lr"], out=s)
        w -= s


class _Moments(Optimizer):
    """Optimizers with m ← β1 · m + (1 − β1) · g and v ← β2 · v + (1 − β2) · g²."""

    betas: tuple[float, float] = setting(fractions, default=(0.9, 0.999))
    eps: float = setting(non_negative, default=1e-8)
    weight_decay: float = setting(non_negative, default=0.0)
    state_arrays: ClassVar[dict[str, str | None]] = {"mean": None, "square": None}

    def _average(self, g: Array, state: State, s: Array, group: Group) -> None:
        beta1, beta2 = group["betas"]
        mean, square = state["mean"], state["square"]
        np.subtract(g, mean, out=s)                     # m + (1 − β1)(g − m) saves a pass
        s *= 1 - beta1
        mean += s
        np.multiply(g, g, out=s)
        s *= 1 - beta2
        square *= beta2
        square += s


class Adam(_Moments):
    """Step by the running mean of the gradient over the root of its running square.

    g ← g + weight_decay · w;  m ← β1 · m + (1 − β1) · g;  v ← β2 · v + (1 − β2) · g²;  with
    m̂ = m / (1 − β1^t) and v̂ = v / (1 − β2^t) at step t,  w ← w − lr · m̂ / (√v̂ + eps).

    Kingma & Ba, *Adam: a method for stochastic optimization*, arXiv:1412.6980; amsgrad: Reddi,
    Kale & Kumar, *On the convergence of Adam and beyond*, arXiv:1904.09237.

    ``lr`` is about how far a weight moves in a step, ``betas`` the share of the past in m and in v,
    ``eps`` keeps the root away from 0.  ``amsgrad`` takes the largest v so far instead of v, so
    that the step size never grows.  With ``weight_decay``, `AdamW` is usually the better choice.

    >>> w = Parameter([1.0])
    >>> optimizer = Adam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()                            # the first step is lr, whatever the gradient
    >>> w.data
    array([0.9], dtype=float32)
    """

    amsgrad: bool = setting(checks.flag, default=False)
    state_arrays: ClassVar[dict[str, str | None]] = {**_Moments.state_arrays, "largest": "amsgrad"}

    def update(self, w: Array, g: Array, state: State, s: Array, group: Group) -> None:
        self._average(g, state, s, group)
        beta1, beta2 = group["betas"]
        square = state["square"]
        if group["amsgrad"]:
            square = np.maximum(state["largest"], square, out=state["largest"])
        root = math.sqrt(1 - beta2 ** state["step"])
        np.sqrt(square, out=s)
        s += group["eps"] * root
        np.divide(state["mean"], s, out=s)
        s *= group["lr"] * root / (1 - beta1 ** state["step"])
        w -= s


class AdamW(Adam):
    """`Adam` that decays weights apart from the gradient: w ← w · (1 − lr · weight_decay) first.

    In `Adam` the decay passes through m and v, so that weights with large gradients hardly decay.

    Loshchilov & Hutter, *Decoupled weight decay regularization*, arXiv:1711.05101.

    >>> w = Parameter([1.0])
    >>> optimizer = AdamW([w], lr=0.1, weight_decay=0.5)
    >>> (w * w).sum().backward()
    >>> optimizer.step()                            # 1 · (1 − 0.1 · 0.5) − 0.1
    >>> w.data
    array([0.85], dtype=float32)
    """

    weight_decay: float = setting(non_negative, default=0.01)
    decoupled_decay: ClassVar[bool] = True


class NAdam(_Moments):
    """`Adam` with Nesterov's momentum: m looks one step ahead.

    With μ_t = β1 · (1 − 0.96^(t · momentum_decay) / 2) and the product M_t of μ_1 ... μ_t,
    w ← w − lr · (μ_(t+1) · m / (1 − M_(t+1)) + (1 − μ_t) · g / (1 − M_t)) / (√v̂ + eps).

    Dozat, *Incorporating Nesterov momentum into Adam*, ICLR workshop 2016.
    """

    lr: float = setting(non_negative, default=2e-3)
    momentum_decay: float = setting(non_negative, default=4e-3)
    decoupled_weight_decay: bool = setting(checks.flag, default=False)
    state_numbers: ClassVar[dict[str, float]] = {"step": 0, "momentum_product": 1.0}

    def _momentum(self, group: Group, step: int) -> float:
        beta: float = group["betas"][0]
        return beta * (1 - 0.5 * 0.96 ** (step * group["momentum_decay"]))

    def advance(self, state: State, group: Group) -> None:
        super().advance(state, group)
        state["momentum_product"] *= self._momentum(group, state["step"])

    def update(self, w: Array, g: Array, state: State, s: Array, group: Group) -> None:
        self._average(g, state, s, group)
        step, product = state["step"], state["momentum_product"]
        now, ahead = (self._momentum(group, t) for t in (step, step + 1))
        np.sqrt(state["square"], out=s)
        s *= 1 / math.sqrt(1 - group["betas"][1] ** step)
        s += group["eps"]
        w -= g / s * (group["lr"] * (1 - now) / (1 - product))
        np.divide(state["mean"], s, out=s)
        s *= group["lr"] * ahead / (1 - product * ahead)
        w -= s


class RAdam(_Moments):
    """`Adam` that steps by the mean alone until the running square can be trusted.

    With ρ∞ = 2 / (1 − β2) − 1 and ρ = ρ∞ − 2 t · β2^t / (1 − β2^t):  if ρ > 5,
    w ← w − lr · r · m̂ / √v̂, r² = (ρ − 4)(ρ − 2) ρ∞ / ((ρ∞ − 4)(ρ∞ − 2) ρ);  else w ← w − lr · m̂.

    Liu et al., *On the variance of the adaptive learning rate and beyond*, arXiv:1908.03265.
    """

    decoupled_weight_decay: bool = setting(checks.flag, default=False)

    def update(self, w: Array, g: Array, state: State, s: Array, group: Group) -> None:
        self._average(g, state, s, group)
        (beta1, beta2), t = group["betas"], state["step"]
        rate, known = group["lr"] / (1 - beta1 ** t), 1 - beta2 ** t
        most = 2 / (1 - beta2) - 1
        length = most - 2 * t * beta2 ** t / known
        if length > 5:
            np.sqrt(state["square"], out=s)
            s += group["eps"]
            np.divide(state["mean"], s, out=s)
            s *= rate * math.sqrt(known * (length - 4) * (length - 2) * most
                                  / ((most - 4) * (most - 2) * length))
        else:
            np.multiply(state["mean"], rate, out=s)
        w -= s


class RMSprop(Optimizer):
    """Divide the gradient by the root of its running square.

    g ← g + weight_decay · w;  v ← alpha · v + (1 − alpha) · g², or with centered the running
    variance v ← alpha · v + alpha · (1 − alpha) · (g − m)², then m ← m + (1 − alpha) · (g − m);
    d = g / (√v + eps);  b ← momentum · b + d;  w ← w − lr · b.

    Tieleman & Hinton, lecture 6.5 of *Neural networks for machine learning*, 2012; centered:
    Graves, arXiv:1308.0850.

    ``alpha`` is the share of the past in v, ``momentum`` that of the last step; ``centered``
    divides by the deviation from the running mean, ``eps`` keeps the root away from 0.

    >>> w = Parameter([1.0])
    >>> optimizer = RMSprop([w], lr=0.01, alpha=0.75)
    >>> (w * w).sum().backward()
    >>> optimizer.step()                            # 1 − 0.01 · 2 / √(0.25 · 4)
    >>> w.data
    array([0.98], dtype=float32)
    """

    lr: float = setting(non_negative, default=1e-2)
    alpha: float = setting(fraction, default=0.99)
    eps: float = setting(non_negative, default=1e-8)
    weight_decay: float = setting(non_negative, default=0.0)
    momentum: float = setting(non_negative, default=0.0)
    centered: bool = setting(checks.flag, default=False)
    state_arrays: ClassVar[dict[str, str | None]] = {
        "square": None, "mean": "centered", "velocity": "momentum"}

    def update(self, w: Array, g: Array, state: State, s: Array, group: Group) -> None:
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


class Adagrad(Optimizer):
    """Divide the gradient by the root of the sum of all its squares.

    g ← g + weight_decay · w;  v ← v + g², from initial_accumulator_value;  at step t,
    w ← w − lr / (1 + (t − 1) · lr_decay) · g / (√v + eps).

    Duchi, Hazan & Singer, *Adaptive subgradient methods*, JMLR 12 (2011), 2121-2159.

    ``lr_decay`` says how fast the step size falls, ``eps`` keeps the root away from 0.

    >>> w = Parameter([1.0])
    >>> optimizer = Adagrad([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()                            # 1 − 0.1 · 2 / √4
    >>> w.data
    array([0.9], dtype=float32)
    """

    lr: float = setting(non_negative, default=1e-2)
    lr_decay: float = setting(non_negative, default=0.0)
    weight_decay: float = setting(non_negative, default=0.0)
    initial_accumulator_value: float = setting(non_negative, default=0.0)
    eps: float = setting(non_negative, default=1e-10)
    state_arrays: ClassVar[dict[str, str | None]] = {"square": None}

    def update(self, w: Array, g: Array, state: State, s: Array, group: Group) -> None:
        square = state["square"]
        if state["step"] == 1:
            square += group["initial_accumulator_value"]
        np.multiply(g, g, out=s)
        square += s
        np.sqrt(square, out=s)
        s += group["eps"]
        np.divide(g, s, out=s)
        s *= group["lr"] / (1 + (state["step"] - 1) * group["lr_decay"])
        w -= s


class Adadelta(Optimizer):
    """Divide the gradient by its running root mean square, and multiply by that of the steps.

    v ← rho · v + (1 − rho) · g²;  d = g · √(u + eps) / √(v + eps);  u ← rho · u + (1 − rho) · d²;
    w ← w − lr · d.

    Zeiler, *ADADELTA: an adaptive learning rate method*, arXiv:1212.5701.
    """

    lr: float = setting(non_negative, default=1.0)
    rho: float = setting(fraction, default=0.9)
    eps: float = setting(non_negative, default=1e-6)
    weight_decay: float = setting(non_negative, default=0.0)
    state_arrays: ClassVar[dict[str, str | None]] = {"square": None, "steps": None}

    def update(self, w: Array, g: Array, state: State, s: Array, group: Group) -> None:
        rho, eps = group["rho"], group["eps"]
        square, steps = state["square"], state["steps"]
        square *= rho
        square += np.multiply(np.multiply(g, g, out=s), 1 - rho, out=s)
        np.divide(np.sqrt(steps + eps), np.sqrt(np.add(square, eps, out=s), out=s), out=s)
        s *= g
        steps *= rho
        steps += (1 - rho) * s * s
        s *= group["lr"]
        w -= s


class Lion(Optimizer):
    """Step by the sign of a mean of the gradient: every weight moves by lr.

    w ← w · (1 − lr · weight_decay);  w ← w − lr · sign(β1 · m + (1 − β1) · g);
    m ← β2 · m + (1 − β2) · g.  Usual rates are a tenth of those of `AdamW`.

    Chen et al., *Symbolic discovery of optimization algorithms*, arXiv:2302.06675.
    """

    lr: float = setting(non_negative, default=1e-4)
    betas: tuple[float, float] = setting(fractions, default=(0.9, 0.99))
    weight_decay: float = setting(non_negative, default=0.0)
    state_arrays: ClassVar[dict[str, str | None]] = {"mean": None}
    decoupled_decay: ClassVar[bool] = True

    def update(self, w: Array, g: Array, state: State, s: Array, group: Group) -> None:
        (beta1, beta2), mean = group["betas"], state["mean"]
        change = g - mean
        np.add(mean, np.multiply(change, 1 - beta1, out=s), out=s)
        np.sign(s, out=s)
        s *= group["lr"]
        w -= s
        change *= 1 - beta2
        mean += change
