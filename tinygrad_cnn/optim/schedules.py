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

import numpy as np

from tinygrad_cnn.errors import CheckpointError, DTypeError, SettingError
from tinygrad_cnn.optim.optimizer import Optimizer, coefficient, fractions

__all__ = ["Cosine", "OneCycle", "Plateau", "Schedule", "Step", "WarmUp"]


def _steps(who: str, setting: str, value: Any, *, least: int = 1) -> int:
    """An integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise SettingError(f"{who}: {setting} must be an integer of at least {least}, "
                           f"got {value!r}")
    return int(value)


def _share(who: str, setting: str, value: Any) -> float:
    """A number from 0 to 1."""
    if coefficient(who, setting, value) <= 1:
        return float(value)
    raise SettingError(f"{who}: {setting} must be from 0 to 1, got {value!r}")


def _between(first: float, last: float, share: float) -> float:
    """From the first value to the last along half a cosine, flat at both ends."""
    return last + (first - last) / 2 * (1 + math.cos(math.pi * share))


class Schedule:
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
    """

    needs_loss: bool = False

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise DTypeError(f"{self._who}: optimizer must be an Optimizer, got {optimizer!r}")
        self.optimizer = optimizer
        self.steps = 0
        self._first = [float(group["lr"]) for group in optimizer.groups]
        self._set()

    @property
    def _who(self) -> str:
        return type(self).__name__

    def lr_at(self, t: int, first: float) -> float:
        """The rate after ``t`` steps of a group whose rate was ``first``."""
        raise NotImplementedError

    def step(self, loss: Any = None) -> None:
        """Go on to the next rate; call after the optimiser's step.

        Parameters
        ----------
        loss : float, optional
            Only `Plateau` looks at it.

        Raises
        ------
        SettingError
            If groups were added to the optimiser after the schedule was made.
        """
        self.steps += 1
        self._set()

    def _groups(self) -> list[tuple[int, dict[str, Any]]]:
        groups = list(enumerate(self.optimizer.groups))
        if len(groups) != len(self._first):
            raise SettingError(f"{self._who}: the optimiser has {len(groups)} groups now, "
                               f"{len(self._first)} when the schedule was made; make it last")
        return groups

    def _set(self) -> None:
        for i, group in self._groups():
            group["lr"] = self.lr_at(self.steps, self._first[i])

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on as if the run had not stopped.

        Returns
        -------
        dict
            ``"schedule"``: the name of the class; ``"steps"``; ``"first"``: position of a group ->
            its first rate; and what else the schedule keeps.
        """
        return {"schedule": self._who, "steps": self.steps,
                "first": {str(i): lr for i, lr in enumerate(self._first)}}

    def load_state_dict(self, entries: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, and set the rates accordingly.

        Raises
        ------
        CheckpointError
            If the state is of another schedule, of another number of groups, or damaged.
        """
        who = f"{self._who}.load_state_dict"
        try:
            if entries["schedule"] != self._who:
                raise CheckpointError(f"{who}: the state is of {entries['schedule']}, not of "
                                      f"{self._who}")
            saved = entries["first"]
            if len(saved) != len(self._first):
                raise CheckpointError(f"{who}: the state has {len(saved)} groups, the optimiser "
                                      f"{len(self._first)}")
            first = [coefficient(who, "first", saved[str(i)]) for i in range(len(saved))]
            steps = _steps(who, "steps", entries["steps"], least=0)
            self._load_more(who, entries)
        except (KeyError, TypeError, SettingError) as error:
            raise CheckpointError(f"{who}: the state is damaged or was not made by "
                                  f"{self._who}.state_dict ({error})") from error
        self._first, self.steps = first, steps
        self._set()

    def _load_more(self, who: str, entries: Mapping[str, Any]) -> None:
        """Check and take over what only some schedules keep."""


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
        self.step_size = _steps("Step", "step_size", step_size)
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
        self.total_steps = _steps("Cosine", "total_steps", total_steps)
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
        self.total_steps = _steps(who, "total_steps", total_steps)
        self.pct_start = _share(who, "pct_start", pct_start)
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
        self.warm_steps = _steps("WarmUp", "warm_steps", warm_steps)
        self.start_factor = _share("WarmUp", "start_factor", start_factor)
        self.after = after if isinstance(after, Schedule) else None
        if self.after is not None and self.after.steps:
            raise SettingError(f"WarmUp: {type(after).__name__} has stepped {self.after.steps} "
                               "times already; wrap it when it is new")
        optimizer: Any = after if self.after is None else self.after.optimizer
        super().__init__(optimizer)
        self.needs_loss = self.after is not None and self.after.needs_loss

    def lr_at(self, t: int, first: float) -> float:
        """The rate after ``t`` steps, up to the end of the rise."""
        share = min(t / self.warm_steps, 1.0)
        return first * (self.start_factor + (1 - self.start_factor) * share)

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


class Plateau(Schedule):
    """Multiply the rate by a factor when the loss has stopped getting better.

    Better means below best − threshold · |best| (above, for mode "max").  After more than
    ``patience`` steps in a row without, lr ← max(lr · factor, min_lr).

    Parameters
    ----------
    optimizer : Optimizer
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

    Raises
    ------
    SettingError
        If a setting is out of its range.

    Examples
    --------
    >>> from tinygrad_cnn import Parameter
    >>> from tinygrad_cnn.optim import SGD
    >>> optimizer = SGD([Parameter([0.0])], lr=1.0)
    >>> schedule = Plateau(optimizer, patience=1, factor=0.5)
    >>> for loss in [3.0, 2.0, 2.0, 2.0, 1.0]:
    ...     schedule.step(loss)
    ...     print(optimizer.lr, end=" ")
    1.0 1.0 1.0 0.5 0.5
    """

    needs_loss = True

    def __init__(self, optimizer: Optimizer, *, mode: str = "min", factor: float = 0.1,
                 patience: int = 10, threshold: float = 1e-4, cooldown: int = 0,
                 min_lr: float = 0.0) -> None:
        if mode not in ("min", "max"):
            raise SettingError(f"Plateau: mode {mode!r} must be 'min' or 'max'")
        self.mode = mode
        self.factor = fractions("Plateau", "factor", factor)
        self.patience = _steps("Plateau", "patience", patience, least=0)
        self.threshold = coefficient("Plateau", "threshold", threshold)
        self.cooldown = _steps("Plateau", "cooldown", cooldown, least=0)
        self.min_lr = coefficient("Plateau", "min_lr", min_lr)
        self._best = math.inf if mode == "min" else -math.inf
        self._bad = self._resting = self._drops = 0
        super().__init__(optimizer)

    def lr_at(self, t: int, first: float) -> float:
        """The rate after the drops so far; ``t`` does not matter."""
        return max(first * self.factor ** self._drops, min(self.min_lr, first))

    def step(self, loss: Any = None) -> None:
        """Take in a loss, or another measure, and drop the rate if it is time.

        Parameters
        ----------
        loss : float or tensor of one element

        Raises
        ------
        SettingError
            If it is missing or NaN.
        """
        value = math.nan if loss is None else float(loss)
        if math.isnan(value):
            raise SettingError(f"Plateau: step needs the loss as a number, got {loss!r}")
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
        if math.isinf(self._best):
            return value < self._best if self.mode == "min" else value > self._best
        margin = self.threshold * abs(self._best)
        return value < self._best - margin if self.mode == "min" else value > self._best + margin

    def state_dict(self) -> dict[str, Any]:
        """The best value, and the counts of bad steps, of steps to rest and of drops."""
        return super().state_dict() | {"best": self._best, "bad": self._bad,
                                       "resting": self._resting, "drops": self._drops}

    def _load_more(self, who: str, entries: Mapping[str, Any]) -> None:
        counts = [_steps(who, name, entries[name], least=0) for name in ("bad", "resting", "drops")]
        best = float(entries["best"])
        if math.isnan(best):
            raise SettingError("best is NaN")
        self._best = best
        self._bad, self._resting, self._drops = counts
