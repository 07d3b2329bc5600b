"""Learning rates that change during training.

A schedule sets ``"lr"`` of every group of an optimiser: once when it is made, for the first step,
and again at each ``step()``, called after the optimiser's.  All but `Plateau` are formulas of the
number t of steps so far and of the rate that each group had at first, so nothing drifts and a run
can be taken up anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.optim.optimizer import Optimizer, coefficient, fractions
from tinygrad_cnn.optim.plateau import Plateau
from tinygrad_cnn.optim.schedule import Schedule, share, step_count

__all__ = ["Cosine", "OneCycle", "Plateau", "Schedule", "Step", "WarmUp"]


def _between(first: float, last: float, part: float) -> float:
    """From the first value to the last along half a cosine, flat at both ends."""
    return last + (first - last) / 2 * (1 + math.cos(math.pi * part))


class Step(Schedule):
    """Multiply the rate by gamma every so many steps: lr = first · gamma^⌊t / step_size⌋.

    Parameters
    ----------
    optimizer : Optimizer
    step_size : int
        Steps between two drops.
    gamma : float, default 0.1
        Factor of a drop.

    Raises
    ------
    SettingError
        If ``step_size`` is below 1 or ``gamma`` below 0.

    Examples
    --------
    >>> from tinygrad_cnn import Parameter
    >>> from tinygrad_cnn.optim import SGD
    >>> optimizer = SGD([Parameter([0.0])], lr=1.0)
    >>> schedule = Step(optimizer, 2, gamma=0.5)
    >>> for _ in range(5):
    ...     print(optimizer.lr, end=" ")
    ...     schedule.step()
    1.0 1.0 0.5 0.5 0.25
    """

    def __init__(self, optimizer: Optimizer, step_size: int, *, gamma: float = 0.1) -> None:
        self.step_size = step_count("Step", "step_size", step_size)
        self.gamma = coefficient("Step", "gamma", gamma)
        super().__init__(optimizer)

    def lr_at(self, t: int, first: float) -> float:
        """The rate after ``t`` steps."""
        return first * self.gamma ** (t // self.step_size)


class Cosine(Schedule):
    """Fall along half a cosine: lr = min_lr + (first − min_lr) / 2 · (1 + cos(π t / total_steps)).

    After ``total_steps`` the rate stays at ``min_lr``.

    Parameters
    ----------
    optimizer : Optimizer
    total_steps : int
        Steps from the first rate to the last.
    min_lr : float, default 0.0
        The last rate.

    Raises
    ------
    SettingError
        If ``total_steps`` is below 1 or ``min_lr`` below 0.

    References
    ----------
    Loshchilov & Hutter, *SGDR*, arXiv:1608.03983.

    Examples
    --------
    >>> from tinygrad_cnn import Parameter
    >>> from tinygrad_cnn.optim import SGD
    >>> schedule = Cosine(SGD([Parameter([0.0])], lr=1.0), 4)
    >>> [round(schedule.lr_at(t, 1.0), 4) for t in range(6)]
    [1.0, 0.8536, 0.5, 0.1464, 0.0, 0.0]
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, *, min_lr: float = 0.0) -> None:
        self.total_steps = step_count("Cosine", "total_steps", total_steps)
        self.min_lr = coefficient("Cosine", "min_lr", min_lr)
        super().__init__(optimizer)

    def lr_at(self, t: int, first: float) -> float:
        """The rate after ``t`` steps."""
        return _between(first, self.min_lr, min(t / self.total_steps, 1.0))


class OneCycle(Schedule):
    """Rise from max_lr / div_factor to max_lr, then fall far below, each along half a cosine.

    The rise ends at step pct_start · total_steps − 1, the fall at total_steps − 1, with the rate
    max_lr / (div_factor · final_div_factor), which then stays.

    Parameters
    ----------
    optimizer : Optimizer
        Its own rates are replaced.
    max_lr : float, or a sequence with one for each group
        The highest rate.
    total_steps : int
        Batches in the whole run.
    pct_start : float, default 0.3
        Share of the steps that rise.
    div_factor : float, default 25.0
        max_lr over the first rate.
    final_div_factor : float, default 1e4
        The first rate over the last.
    momentum : (float, float), optional
        Cycle the momentum (or the first beta) against the rate: low at the peak, high at both ends;
        given as (low, high).  Left alone if not given.

    Raises
    ------
    SettingError
        If a setting is out of its range, or the optimiser has no momentum to cycle.

    References
    ----------
    Smith & Topin, *Super-convergence*, arXiv:1708.07120.

    Examples
    --------
    >>> from tinygrad_cnn import Parameter
    >>> from tinygrad_cnn.optim import SGD
    >>> optimizer = SGD([Parameter([0.0])], lr=1.0)
    >>> schedule = OneCycle(optimizer, max_lr=1.0, total_steps=10, pct_start=0.5)
    >>> [round(schedule.lr_at(t, 1.0), 3) for t in range(10)]
    [0.04, 0.181, 0.52, 0.859, 1.0, 0.905, 0.655, 0.346, 0.095, 0.0]
    """

    def __init__(self, optimizer: Optimizer, max_lr: float | Sequence[float], total_steps: int, *,
                 pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4,
                 momentum: tuple[float, float] | None = None) -> None:
        who = "OneCycle"
        self.total_steps = step_count(who, "total_steps", total_steps)
        self.pct_start = share(who, "pct_start", pct_start)
        for name, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
            if coefficient(who, name, value) < 1:
                raise SettingError(f"{who}: {name} must be at least 1, got {value!r}")
        self.div_factor, self.final_div_factor = float(div_factor), float(final_div_factor)
        self.momentum = None
        super().__init__(optimizer)
        count = len(optimizer.groups)
        rates = list(max_lr) if isinstance(max_lr, (list, tuple)) else [max_lr] * count
        if len(rates) != count:
            raise SettingError(f"{who}: max_lr has {len(rates)} rates for {count} groups")
        self._first = [coefficient(who, "max_lr", rate) for rate in rates]
        if momentum is not None:
            self.momentum = self._momentum_bounds(momentum)
        self._set()

    def _momentum_bounds(self, momentum: Any) -> tuple[float, float]:
        if not isinstance(momentum, (list, tuple)) or len(momentum) != 2:
            raise SettingError(f"OneCycle: momentum must be (low, high), got {momentum!r}")
        low, high = (fractions("OneCycle", "momentum", m) for m in momentum)
        if low > high:
            raise SettingError(f"OneCycle: momentum must be (low, high), got {momentum!r}")
        for group in self.optimizer.groups:
            if "betas" not in group and not group.get("momentum"):
                raise SettingError(f"OneCycle: {type(self.optimizer).__name__} has no momentum to "
                                   "cycle; leave out momentum=, or give the optimiser one")
        return low, high

    def _along(self, t: int, start: float, peak: float, end: float) -> float:
        """The cycle from ``start`` over ``peak`` to ``end``, after ``t`` steps."""
        top, last = self.pct_start * self.total_steps - 1, self.total_steps - 1
        if t <= top:
            return _between(start, peak, t / top if top else 1.0)
        return _between(peak, end, min((t - top) / (last - top), 1.0) if last > top else 1.0)

    def lr_at(self, t: int, first: float) -> float:
        """The rate after ``t`` steps of a group whose highest rate is ``first``."""
        start = first / self.div_factor
        return self._along(t, start, first, start / self.final_div_factor)

    def _set(self) -> None:
        super()._set()
        if self.momentum is None:
            return
        low, high = self.momentum
        now = self._along(self.steps, high, low, high)
        for _, group in self._groups():
            if "betas" in group:
                group["betas"] = (now, group["betas"][1])
            else:
                group["momentum"] = now


class WarmUp(Schedule):
    """Rise in a straight line to the first rate of another schedule, then follow that.

    For t ≤ warm_steps, lr = first · (start_factor + (1 − start_factor) · t / warm_steps); then the
    other schedule takes its steps.

    Parameters
    ----------
    after : Schedule or Optimizer
        What follows; an optimiser keeps its rate.
    warm_steps : int
        Steps until the full rate.
    start_factor : float, default 0.1
        Share of the rate at the first step, from 0 to 1.

    Raises
    ------
    SettingError
        If ``warm_steps`` is below 1 or ``start_factor`` outside 0..1, or ``after`` has stepped.
    DTypeError
        If ``after`` is neither a schedule nor an optimiser.

    References
    ----------
    Goyal et al., *Accurate, large minibatch SGD*, arXiv:1706.02677.

    Examples
    --------
    >>> from tinygrad_cnn import Parameter
    >>> from tinygrad_cnn.optim import SGD
    >>> optimizer = SGD([Parameter([0.0])], lr=1.0)
    >>> schedule = WarmUp(Step(optimizer, 1, gamma=0.5), 2, start_factor=0.5)
    >>> for _ in range(5):
    ...     print(optimizer.lr, end=" ")
    ...     schedule.step()
    0.5 0.75 1.0 0.5 0.25
    """

    def __init__(self, after: Schedule | Optimizer, warm_steps: int, *,
                 start_factor: float = 0.1) -> None:
        self.warm_steps = step_count("WarmUp", "warm_steps", warm_steps)
        self.start_factor = share("WarmUp", "start_factor", start_factor)
        self.after = after if isinstance(after, Schedule) else None
        if self.after is not None and self.after.steps:
            raise SettingError(f"WarmUp: {type(after).__name__} has stepped {self.after.steps} "
                               "times already; wrap it when it is new")
        optimizer: Any = after if self.after is None else self.after.optimizer
        super().__init__(optimizer)
        self.needs_loss = self.after is not None and self.after.needs_loss

    def lr_at(self, t: int, first: float) -> float:
        """The rate after ``t`` steps, up to the end of the rise."""
        part = min(t / self.warm_steps, 1.0)
        return first * (self.start_factor + (1 - self.start_factor) * part)

    def step(self, loss: Any = None) -> None:
        """Go on to the next rate; ``loss`` is for the schedule that follows."""
        self.steps += 1
        if self.steps <= self.warm_steps:
            self._set()
        elif self.after is not None:
            self.after.step(loss)

    def state_dict(self) -> dict[str, Any]:
        """Its own steps, and under ``"after"`` those of the schedule that follows."""
        more = {} if self.after is None else {"after": self.after.state_dict()}
        return super().state_dict() | more

    def _load_more(self, who: str, entries: Mapping[str, Any]) -> None:
        if self.after is not None:
            self.after.load_state_dict(entries["after"])

    def _set(self) -> None:
        if self.steps <= self.warm_steps:               # beyond it, the rates are not ours
            super()._set()
