"""Learning rates that change during training.

A schedule sets ``"lr"`` of every group of an optimizer: once when it is made, for the first step,
and again at each ``step()``, called after the optimizer's.  All but `ReduceLROnPlateau` are
formulas of the number t of steps so far and of the rate that each group had at first, so nothing
drifts and a run can be resumed anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tinygrad_cnn import checks
from tinygrad_cnn.errors import CheckpointError, DTypeError, SettingError
from tinygrad_cnn.names import on_first_use
from tinygrad_cnn.optim.optimizer import Optimizer, fraction, non_negative

__all__ = ["CosineAnnealingLR", "LRScheduler", "LinearWarmup", "OneCycleLR", "ReduceLROnPlateau",
           "StepLR"]


class LRScheduler:
    """Base of the schedules: the count of steps, the first rates, and saving.

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups' ``"lr"`` it sets.

    Attributes
    ----------
    steps : int
        How often `step` was called.
    needs_loss : bool
        Whether `step` wants the loss, or another measure of success.

    Raises
    ------
    DTypeError
        If ``optimizer`` is not one.
    SettingError
        If a setting is out of its range.
    """

    needs_loss: bool = False

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise DTypeError(f"{self._owner}: optimizer must be an Optimizer, got {optimizer!r}")
        self.optimizer = optimizer
        self.steps = 0
        self._first = [float(group["lr"]) for group in optimizer.param_groups]
        self._set()

    @property
    def _owner(self) -> str:
        return type(self).__name__

    def get_lr(self, t: int, first: float) -> float:
        """The rate after ``t`` steps of a group whose rate was ``first``."""
        raise NotImplementedError

    def step(self, loss: Any = None) -> None:
        """Go on to the next rate; call after the optimizer's step.

        Only a schedule with ``needs_loss`` reads the loss.  Groups that were added to the optimizer
        after the schedule was made are a `SettingError`.
        """
        self.steps += 1
        self._set()

    def _groups(self) -> list[tuple[int, dict[str, Any]]]:
        groups = list(enumerate(self.optimizer.param_groups))
        if len(groups) != len(self._first):
            raise SettingError(f"{self._owner}: the optimizer has {len(groups)} groups now, "
                               f"{len(self._first)} when the schedule was made; make it last")
        return groups

    def _set(self) -> None:
        for i, group in self._groups():
            group["lr"] = self.get_lr(self.steps, self._first[i])

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on as if the run had not stopped.

        ``"scheduler"``: the name of the class; ``"steps"``; ``"first"``: position of a group ->
        its first rate; and what else the schedule keeps.
        """
        return {"scheduler": self._owner, "steps": self.steps,
                "first": {str(i): lr for i, lr in enumerate(self._first)}}

    def load_state_dict(self, entries: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; a state of another schedule is a `CheckpointError`."""
        owner = f"{self._owner}.load_state_dict"
        try:
            if entries["scheduler"] != self._owner:
                raise CheckpointError(f"{owner}: the state is of {entries['scheduler']}, not of "
                                      f"{self._owner}")
            saved = entries["first"]
            if len(saved) != len(self._first):
                raise CheckpointError(f"{owner}: the state has {len(saved)} groups, the optimizer "
                                      f"{len(self._first)}")
            first = [non_negative(owner, "first", saved[str(i)]) for i in range(len(saved))]
            steps = checks.integer(owner, "steps", entries["steps"], minimum=0)
            self._load_more(owner, entries)
        except (KeyError, TypeError, SettingError) as error:
            raise CheckpointError(f"{owner}: the state is damaged or was not made by "
                                  f"{self._owner}.state_dict ({error})") from error
        self._first, self.steps = first, steps
        self._set()

    def _load_more(self, owner: str, entries: Mapping[str, Any]) -> None:
        """Check and take over what only some schedules keep."""


def _between(first: float, last: float, part: float) -> float:
    """From the first value to the last along half a cosine, flat at both ends."""
    return last + (first - last) / 2 * (1 + math.cos(math.pi * part))


class StepLR(LRScheduler):
    """Multiply the rate by gamma every so many steps: lr = first · gamma^⌊t / step_size⌋.

    Parameters
    ----------
    step_size : int
        Steps between two drops.
    gamma : float, default 0.1
        Factor of a drop.

    Examples
    --------
    >>> optimizer = SGD([Parameter([0.0])], lr=1.0)
    >>> schedule = StepLR(optimizer, 2, gamma=0.5)
    >>> for _ in range(5):
    ...     print(optimizer.lr, end=" ")
    ...     schedule.step()
    1.0 1.0 0.5 0.5 0.25
    """

    def __init__(self, optimizer: Optimizer, step_size: int, *, gamma: float = 0.1) -> None:
        self.step_size = checks.integer(self._owner, "step_size", step_size, minimum=1)
        self.gamma = non_negative(self._owner, "gamma", gamma)
        super().__init__(optimizer)

    def get_lr(self, t: int, first: float) -> float:
        """The rate after ``t`` steps."""
        return first * self.gamma ** (t // self.step_size)


class CosineAnnealingLR(LRScheduler):
    """lr = min_lr + (first − min_lr) / 2 · (1 + cos(π t / total_steps)), then min_lr.

    Parameters
    ----------
    total_steps : int
        Steps from the first rate to the last.
    min_lr : float, default 0.0
        The last rate.

    References
    ----------
    Loshchilov & Hutter, *SGDR*, arXiv:1608.03983.

    Examples
    --------
    >>> schedule = CosineAnnealingLR(SGD([Parameter([0.0])], lr=1.0), 4)
    >>> [round(schedule.get_lr(t, 1.0), 4) for t in range(6)]
    [1.0, 0.8536, 0.5, 0.1464, 0.0, 0.0]
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, *, min_lr: float = 0.0) -> None:
        self.total_steps = checks.integer(self._owner, "total_steps", total_steps, minimum=1)
        self.min_lr = non_negative(self._owner, "min_lr", min_lr)
        super().__init__(optimizer)

    def get_lr(self, t: int, first: float) -> float:
        """The rate after ``t`` steps."""
        return _between(first, self.min_lr, min(t / self.total_steps, 1.0))


class OneCycleLR(LRScheduler):
    """Rise from max_lr / div_factor to max_lr, then fall far below, each along half a cosine.

    The rise ends at step pct_start · total_steps − 1, the fall at total_steps − 1, with the rate
    max_lr / (div_factor · final_div_factor), which then stays.

    Parameters
    ----------
    max_lr : float, or a sequence with one for each group
        The highest rate.
    total_steps : int
        Batches in the whole run.
    pct_start : float, default 0.3
        Share of the steps in which the rate rises.
    div_factor : float, default 25.0
        max_lr over the first rate.
    final_div_factor : float, default 1e4
        The first rate over the last.
    momentum : (float, float), optional
        Cycle the momentum (or the first beta) against the rate: low at the peak, high at both ends;
        given as (low, high).  Left alone if not given.

    References
    ----------
    Smith & Topin, *Super-convergence*, arXiv:1708.07120.

    Examples
    --------
    >>> optimizer = SGD([Parameter([0.0])], lr=1.0)
    >>> schedule = OneCycleLR(optimizer, max_lr=1.0, total_steps=10, pct_start=0.5)
    >>> [round(schedule.get_lr(t, 1.0), 3) for t in range(10)]
    [0.04, 0.181, 0.52, 0.859, 1.0, 0.905, 0.655, 0.346, 0.095, 0.0]
    """

    def __init__(self, optimizer: Optimizer, max_lr: float | Sequence[float], total_steps: int, *,
                 pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4,
                 momentum: tuple[float, float] | None = None) -> None:
        self.total_steps = checks.integer(self._owner, "total_steps", total_steps, minimum=1)
        self.pct_start = checks.number(self._owner, "pct_start", pct_start, minimum=0, maximum=1)
        self.div_factor = checks.number(self._owner, "div_factor", div_factor, minimum=1)
        self.final_div_factor = checks.number(self._owner, "final_div_factor", final_div_factor,
                                              minimum=1)
        self.momentum = None
        super().__init__(optimizer)
        count = len(optimizer.param_groups)
        rates = list(max_lr) if isinstance(max_lr, (list, tuple)) else [max_lr] * count
        if len(rates) != count:
            raise SettingError(f"{self._owner}: max_lr has {len(rates)} rates for {count} groups")
        self._first = [non_negative(self._owner, "max_lr", rate) for rate in rates]
        if momentum is not None:
            self.momentum = self._momentum_bounds(momentum)
        self._set()

    def _momentum_bounds(self, momentum: Any) -> tuple[float, float]:
        if not isinstance(momentum, (list, tuple)) or len(momentum) != 2:
            raise SettingError(f"OneCycleLR: momentum must be (low, high), got {momentum!r}")
        low, high = (fraction(self._owner, "momentum", m) for m in momentum)
        if low > high:
            raise SettingError(f"OneCycleLR: momentum must be (low, high), got {momentum!r}")
        for group in self.optimizer.param_groups:
            if "betas" not in group and not group.get("momentum"):
                raise SettingError(f"OneCycleLR: {type(self.optimizer).__name__} has no momentum "
                                   "to cycle; leave out momentum=, or give the optimizer one")
        return low, high

    def _along(self, t: int, start: float, peak: float, end: float) -> float:
        """The cycle from ``start`` over ``peak`` to ``end``, after ``t`` steps."""
        top, last = self.pct_start * self.total_steps - 1, self.total_steps - 1
        if t <= top:
            return _between(start, peak, t / top if top else 1.0)
        return _between(peak, end, min((t - top) / (last - top), 1.0) if last > top else 1.0)

    def get_lr(self, t: int, first: float) -> float:
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


class LinearWarmup(LRScheduler):
    """Rise in a straight line to the first rate of another schedule, then follow that.

    For t ≤ warm_steps, lr = first · (start_factor + (1 − start_factor) · t / warm_steps); then the
    other schedule takes its steps.

    Parameters
    ----------
    after : LRScheduler or Optimizer
        What follows; an optimizer keeps its rate.
    warm_steps : int
        Steps until the full rate.
    start_factor : float, default 0.1
        Share of the rate at the first step, from 0 to 1.

    References
    ----------
    Goyal et al., *Accurate, large minibatch SGD*, arXiv:1706.02677.

    Examples
    --------
    >>> optimizer = SGD([Parameter([0.0])], lr=1.0)
    >>> schedule = LinearWarmup(StepLR(optimizer, 1, gamma=0.5), 2, start_factor=0.5)
    >>> for _ in range(5):
    ...     print(optimizer.lr, end=" ")
    ...     schedule.step()
    0.5 0.75 1.0 0.5 0.25
    """

    def __init__(self, after: LRScheduler | Optimizer, warm_steps: int, *,
                 start_factor: float = 0.1) -> None:
        self.warm_steps = checks.integer(self._owner, "warm_steps", warm_steps, minimum=1)
        self.start_factor = checks.number(self._owner, "start_factor", start_factor, minimum=0,
                                          maximum=1)
        self.after = after if isinstance(after, LRScheduler) else None
        if self.after is not None and self.after.steps:
            raise SettingError(f"LinearWarmup: {type(after).__name__} has stepped "
                               f"{self.after.steps} times already; wrap it when it is new")
        optimizer: Any = after if self.after is None else self.after.optimizer
        super().__init__(optimizer)
        self.needs_loss = self.after is not None and self.after.needs_loss

    def get_lr(self, t: int, first: float) -> float:
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

    def _load_more(self, owner: str, entries: Mapping[str, Any]) -> None:
        if self.after is not None:
            self.after.load_state_dict(entries["after"])

    def _set(self) -> None:
        if self.steps <= self.warm_steps:               # beyond it, the rates are not ours
            super()._set()


class ReduceLROnPlateau(LRScheduler):
    """Multiply the rate by a factor when the loss has stopped getting better.

    Better means below best − threshold · |best| (above, for mode "max").  After more than
    ``patience`` steps in a row without, lr ← max(lr · factor, min_lr).

    Parameters
    ----------
    mode : {"min", "max"}, default "min"
        Whether a smaller or a larger value is better.
    factor : float, default 0.1
        Of a drop, from 0 up to, not including, 1.
    patience : int, default 10
        Steps without improvement that are let pass.
    threshold : float, default 1e-4
        Share of the best value by which a better one must differ.
    cooldown : int, default 0
        Steps after a drop that do not count.
    min_lr : float, default 0.0
        The lowest rate.

    Examples
    --------
    >>> optimizer = SGD([Parameter([0.0])], lr=1.0)
    >>> schedule = ReduceLROnPlateau(optimizer, patience=1, factor=0.5)
    >>> for loss in [3.0, 2.0, 2.0, 2.0, 1.0]:
    ...     schedule.step(loss)
    ...     print(optimizer.lr, end=" ")
    1.0 1.0 1.0 0.5 0.5
    """

    needs_loss = True

    def __init__(self, optimizer: Optimizer, *, mode: str = "min", factor: float = 0.1,
                 patience: int = 10, threshold: float = 1e-4, cooldown: int = 0,
                 min_lr: float = 0.0) -> None:
        self.mode = checks.choice(self._owner, "mode", mode, ("min", "max"))
        self.factor = fraction(self._owner, "factor", factor)
        self.patience = checks.integer(self._owner, "patience", patience, minimum=0)
        self.threshold = non_negative(self._owner, "threshold", threshold)
        self.cooldown = checks.integer(self._owner, "cooldown", cooldown, minimum=0)
        self.min_lr = non_negative(self._owner, "min_lr", min_lr)
        self._best = math.inf if mode == "min" else -math.inf
        self._bad = self._resting = self._drops = 0
        super().__init__(optimizer)

    def get_lr(self, t: int, first: float) -> float:
        """The rate after the drops so far; ``t`` does not matter."""
        return max(first * self.factor ** self._drops, min(self.min_lr, first))

    def step(self, loss: Any = None) -> None:
        """Note a loss, or another measure, which is a number, and drop the rate if it is time."""
        value = math.nan if loss is None else float(loss)
        if math.isnan(value):
            raise SettingError(f"ReduceLROnPlateau: step needs the loss as a number, got {loss!r}")
        self.steps += 1
        if self._better(value):
            self._best, self._bad = value, 0
        else:
            self._bad += 1
        if self._resting:
            self._resting, self._bad = self._resting - 1, 0
        if self._bad > self.patience:
            self._drops, self._resting, self._bad = self._drops + 1, self.cooldown, 0
        self._set()

    def _better(self, value: float) -> bool:
        sign = 1 if self.mode == "min" else -1
        margin = 0.0 if math.isinf(self._best) else self.threshold * abs(self._best)
        return sign * value < sign * self._best - margin

    def state_dict(self) -> dict[str, Any]:
        """The best value, and the counts of bad steps, of steps to rest and of drops."""
        return super().state_dict() | {"best": self._best, "bad": self._bad,
                                       "resting": self._resting, "drops": self._drops}

    def _load_more(self, owner: str, entries: Mapping[str, Any]) -> None:
        counts = [checks.integer(owner, name, entries[name], minimum=0)
                  for name in ("bad", "resting", "drops")]
        best = float(entries["best"])
        if math.isnan(best):
            raise SettingError("best is NaN")
        self._best = best
        self._bad, self._resting, self._drops = counts


on_first_use(__name__)
