"""Learning rates that change during training.

A schedule sets ``"lr"`` of every group of an optimizer: once when it is made, for the first step,
and again at each ``step()``, called after the optimizer's.  All but `ReduceLROnPlateau` are
formulas of the number t of steps so far and of the rate that each group had at first, so nothing
drifts and a run can be resumed anywhere.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise
from typing import ClassVar

from tinygrad_cnn import checks
from tinygrad_cnn.core import Tensor
from tinygrad_cnn.errors import CheckpointError, DTypeError, SettingError
from tinygrad_cnn.names import on_first_use
from tinygrad_cnn.optim.optimizer import Optimizer, State, fraction, non_negative
from tinygrad_cnn.settings import Declared, setting, show
from tinygrad_cnn.types import Settings

__all__ = ["ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "ExponentialLR",
           "LRScheduler", "LambdaLR", "LinearLR", "LinearWarmup", "MultiStepLR", "OneCycleLR",
           "PolynomialLR", "ReduceLROnPlateau", "SequentialLR", "StepLR"]

Loss = float | Tensor | None


def _optimizer(owner: str, name: str, value: object) -> Optimizer:
    if not isinstance(value, Optimizer):
        raise DTypeError(f"{owner}: optimizer must be an Optimizer, got {value!r}")
    return value


def _milestones(owner: str, name: str, value: object) -> tuple[int, ...]:
    """Counts of steps, each above the one before."""
    found = checks.sizes(owner, name, value, minimum=1)
    if any(a >= b for a, b in pairwise(found)):
        raise SettingError(f"{owner}: {name} must rise, got {value!r}")
    return found


class LRScheduler(Declared):
    """Base of the schedules: the count of steps, the first rates, and saving.

    A subclass declares its settings and defines `get_lr`.

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

    needs_loss: ClassVar[bool] = False
    optimizer: Optimizer = setting(_optimizer, shown="never")

    def _setup(self) -> None:
        self.steps = 0
        self._first = self._found = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._set()

    @property
    def _owner(self) -> str:
        return type(self).__name__

    def get_lr(self, t: int, first: float) -> float:
        """The rate after ``t`` steps of a group whose rate was ``first``."""
        raise NotImplementedError

    def step(self, loss: Loss = None) -> None:
        """Go on to the next rate; call after the optimizer's step.

        Only a schedule with ``needs_loss`` reads the loss.  Groups that were added to the optimizer
        after the schedule was made are a `SettingError`.
        """
        self.steps += 1
        self._set()

    def _groups(self) -> list[tuple[int, Settings]]:
        groups = list(enumerate(self.optimizer.param_groups))
        if len(groups) != len(self._first):
            raise SettingError(f"{self._owner}: the optimizer has {len(groups)} groups now, "
                               f"{len(self._first)} when the schedule was made; make it last")
        return groups

    def _set(self) -> None:
        for i, group in self._groups():
            group["lr"] = self.get_lr(self.steps, self._first[i])

    def _restart(self, found: list[float]) -> None:
        """Start from other rates than those that were found when the schedule was made."""
        if self._first == self._found:                  # rates that it does not have from elsewhere
            self._first = found
        self._found = found

    def __repr__(self) -> str:
        rates = ", ".join(f"{group['lr']:.4g}" for group in self.optimizer.param_groups)
        return f"{self._owner}({show(self)}): lr {rates} after {self.steps} steps"

    def _repr_html_(self) -> str:
        """The settings, and the rate of the first group over the steps with a mark at this one."""
        text = f'<pre style="font-family:monospace;white-space:pre-wrap">{escape(repr(self))}</pre>'
        if self.needs_loss:
            return text
        last = max(self.steps + 1, getattr(self, "total_steps", getattr(self, "T_max", 100)))
        rates = [self.get_lr(t, self._first[0]) for t in range(last + 1)]
        high = max(rates) or 1.0
        points = [f"{300 * t / last:.1f},{72 - 70 * rate / high:.1f}"
                  for t, rate in enumerate(rates)]
        x, y = points[self.steps].split(",")
        return (f'{text}<svg viewBox="-4 -2 310 90" width="310" style="max-width:100%">'
                f'<polyline points="{" ".join(points)}" fill="none" stroke="#0072b2"/>'
                f'<circle cx="{x}" cy="{y}" r="3" fill="#d55e00"/><text y="86" font-size="10" '
                f'fill="currentColor">steps 0 to {last}, rate 0 to {high:.4g}</text></svg>')

    def state_dict(self) -> State:
        """Everything needed to go on as if the run had not stopped.

        ``"scheduler"``: the name of the class; ``"steps"``; ``"first"``: position of a group ->
        its first rate; and what else the schedule keeps.
        """
        return {"scheduler": self._owner, "steps": self.steps,
                "first": {str(i): lr for i, lr in enumerate(self._first)}}

    def load_state_dict(self, entries: State) -> None:
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
                                  f"{self._owner}.state_dict ({error})") from None
        self._first, self.steps = first, steps
        self._set()

    def _load_more(self, owner: str, entries: State) -> None:
        """Check and take over what only some schedules keep."""


def _between(first: float, last: float, part: float) -> float:
    """From the first value to the last along half a cosine, flat at both ends."""
    return last + (first - last) / 2 * (1 + math.cos(math.pi * part))


# ---- formulas ------------------------------------------------------------------------------------

class StepLR(LRScheduler):
    """Multiply the rate by gamma every so many steps: lr = first · gamma^⌊t / step_size⌋.

    >>> optimizer = SGD([Parameter([0.0])], lr=1.0)
    >>> schedule = StepLR(optimizer, 2, gamma=0.5)
    >>> for _ in range(5):
    ...     print(optimizer.lr, end=" ")
    ...     schedule.step()
    1.0 1.0 0.5 0.5 0.25
    >>> schedule
    StepLR(2, gamma=0.5): lr 0.25 after 5 steps
    """

    step_size: int = setting(checks.integer, minimum=1)
    gamma: float = setting(non_negative, default=0.1)

    def get_lr(self, t: int, first: float) -> float:
        return first * self.gamma ** (t // self.step_size)


class MultiStepLR(LRScheduler):
    """Multiply the rate by gamma at each milestone, a count of steps.

    >>> schedule = MultiStepLR(SGD([Parameter([0.0])], lr=1.0), [2, 3])
    >>> [round(schedule.get_lr(t, 1.0), 4) for t in range(5)]
    [1.0, 1.0, 0.1, 0.01, 0.01]
    """

    milestones: Sequence[int] = setting(_milestones)
    gamma: float = setting(non_negative, default=0.1)

    def get_lr(self, t: int, first: float) -> float:
        return first * self.gamma ** bisect_right(self.milestones, t)


class ExponentialLR(LRScheduler):
    """Multiply the rate by gamma at each step: lr = first · gamma^t."""

    gamma: float = setting(non_negative)

    def get_lr(self, t: int, first: float) -> float:
        return first * self.gamma ** t


class ConstantLR(LRScheduler):
    """lr = first · factor for ``total_iters`` steps, then the first rate."""

    factor: float = setting(checks.number, default=1 / 3, minimum=0, maximum=1)
    total_iters: int = setting(checks.integer, default=5, minimum=0)

    def get_lr(self, t: int, first: float) -> float:
        return first * self.factor if t < self.total_iters else first


class LinearLR(LRScheduler):
    """From first · start_factor to first · end_factor in a straight line of ``total_iters`` steps.

    >>> schedule = LinearLR(SGD([Parameter([0.0])], lr=1.0), 0.5, total_iters=2)
    >>> [schedule.get_lr(t, 1.0) for t in range(4)]
    [0.5, 0.75, 1.0, 1.0]
    """

    start_factor: float = setting(checks.number, default=1 / 3, minimum=0, maximum=1)
    end_factor: float = setting(checks.number, default=1.0, minimum=0, maximum=1)
    total_iters: int = setting(checks.integer, default=5, minimum=1)

    def get_lr(self, t: int, first: float) -> float:
        part = min(t / self.total_iters, 1.0)
        return first * (self.start_factor + (self.end_factor - self.start_factor) * part)


class PolynomialLR(LRScheduler):
    """lr = first · (1 − t / total_iters)^power, then 0."""

    total_iters: int = setting(checks.integer, default=5, minimum=1)
    power: float = setting(non_negative, default=1.0)

    def get_lr(self, t: int, first: float) -> float:
        return first * (1 - min(t / self.total_iters, 1.0)) ** self.power


def _functions(owner: str, name: str, value: object) -> list[Callable[[int], float]]:
    given = list(value) if isinstance(value, (list, tuple)) else [value]
    found: list[Callable[[int], float]] = [f for f in given if callable(f)]
    if not given or len(found) < len(given):
        raise SettingError(f"{owner}: {name} must be callable, got {value!r}")
    return found


class LambdaLR(LRScheduler):
    """lr = first · f(t), for a function of your own, or a list with one for each group.

    A saved state does not hold the functions.

    >>> schedule = LambdaLR(SGD([Parameter([0.0])], lr=1.0), lambda t: 1 / (1 + t))
    >>> [schedule.get_lr(t, 1.0) for t in range(4)]
    [1.0, 0.5, 0.333..., 0.25]
    """

    lr_lambda: list[Callable[[int], float]] = setting(_functions)

    def _setup(self) -> None:
        count = len(self.optimizer.param_groups)
        self.lr_lambda *= count if len(self.lr_lambda) == 1 else 1
        if len(self.lr_lambda) != count:
            raise SettingError(f"{self._owner}: lr_lambda has {len(self.lr_lambda)} functions for "
                               f"{count} groups")
        super()._setup()

    def get_lr(self, t: int, first: float, group: int = 0) -> float:
        return first * non_negative(self._owner, f"lr_lambda({t})", self.lr_lambda[group](t))

    def _set(self) -> None:
        for i, group in self._groups():
            group["lr"] = self.get_lr(self.steps, self._first[i], i)


class CosineAnnealingLR(LRScheduler):
    """lr = eta_min + (first − eta_min) / 2 · (1 + cos(π t / T_max)), then eta_min.

    Loshchilov & Hutter, *SGDR*, arXiv:1608.03983.

    >>> schedule = CosineAnnealingLR(SGD([Parameter([0.0])], lr=1.0), 4)
    >>> [round(schedule.get_lr(t, 1.0), 4) for t in range(6)]
    [1.0, 0.8536, 0.5, 0.1464, 0.0, 0.0]
    """

    T_max: int = setting(checks.integer, minimum=1)
    eta_min: float = setting(non_negative, default=0.0)

    def get_lr(self, t: int, first: float) -> float:
        return _between(first, self.eta_min, min(t / self.T_max, 1.0))


class CosineAnnealingWarmRestarts(LRScheduler):
    """`CosineAnnealingLR` again and again: after T_0 steps, then T_0 · T_mult, T_0 · T_mult², ...

    >>> schedule = CosineAnnealingWarmRestarts(SGD([Parameter([0.0])], lr=1.0), 2, T_mult=2)
    >>> [round(schedule.get_lr(t, 1.0), 4) for t in range(7)]
    [1.0, 0.5, 1.0, 0.8536, 0.5, 0.1464, 1.0]
    """

    T_0: int = setting(checks.integer, minimum=1)
    T_mult: int = setting(checks.integer, default=1, minimum=1)
    eta_min: float = setting(non_negative, default=0.0)

    def get_lr(self, t: int, first: float) -> float:
        length = self.T_0
        if self.T_mult == 1:
            t %= length
        while t >= length:
            t, length = t - length, length * self.T_mult
        return _between(first, self.eta_min, t / length)


class OneCycleLR(LRScheduler):
    """Rise from max_lr / div_factor to max_lr, then fall far below, each along half a cosine.

    The rise ends at step pct_start · total_steps − 1, the fall at total_steps − 1, with the rate
    max_lr / (div_factor · final_div_factor), which then stays.

    Smith & Topin, *Super-convergence*, arXiv:1708.07120.

    Parameters
    ----------
    max_lr : float, or a sequence with one for each group
        The highest rate.
    total_steps : int
        Batches in the whole run; or give ``epochs`` and ``steps_per_epoch``.
    pct_start : float, default 0.3
        Share of the steps in which the rate rises.
    div_factor : float, default 25.0
        max_lr over the first rate.
    final_div_factor : float, default 1e4
        The first rate over the last.
    momentum : (float, float), optional
        Cycle the momentum (or the first beta) against the rate: low at the peak, high at both ends;
        given as (low, high).  Left alone if not given.

    Examples
    --------
    >>> optimizer = SGD([Parameter([0.0])], lr=1.0)
    >>> schedule = OneCycleLR(optimizer, max_lr=1.0, total_steps=10, pct_start=0.5)
    >>> [round(schedule.get_lr(t, 1.0), 3) for t in range(10)]
    [0.04, 0.181, 0.52, 0.859, 1.0, 0.905, 0.655, 0.346, 0.095, 0.0]
    """

    max_lr: float | Sequence[float] = setting(
        lambda owner, name, value: tuple(non_negative(owner, name, v) for v in value)
        if isinstance(value, (list, tuple)) else non_negative(owner, name, value))
    total_steps: int | None = setting(checks.integer, default=None, minimum=1, shown="value")
    epochs: int | None = setting(checks.integer, default=None, minimum=1, shown="never")
    steps_per_epoch: int | None = setting(checks.integer, default=None, minimum=1, shown="never")
    pct_start: float = setting(checks.number, default=0.3, minimum=0, maximum=1)
    div_factor: float = setting(checks.number, default=25.0, kw_only=True, minimum=1)
    final_div_factor: float = setting(checks.number, default=1e4, kw_only=True, minimum=1)
    momentum: tuple[float, float] | None = setting(
        lambda owner, name, value: _low_and_high(owner, value), default=None, kw_only=True)

    def _setup(self) -> None:
        groups = self.optimizer.param_groups
        if (self.total_steps is None) == (self.epochs is None or self.steps_per_epoch is None):
            raise SettingError(f"{self._owner}: give total_steps, or epochs and steps_per_epoch, "
                               f"got {self.total_steps}, {self.epochs} and {self.steps_per_epoch}")
        if self.epochs is not None and self.steps_per_epoch is not None:
            self.total_steps = self.epochs * self.steps_per_epoch
        one = self.max_lr
        rates = one if isinstance(one, Sequence) else [one] * len(groups)
        if len(rates) != len(groups):
            raise SettingError(f"{self._owner}: max_lr has {len(rates)} rates for {len(groups)} "
                               "groups")
        for group in groups if self.momentum else ():
            if "betas" not in group and not group.get("momentum"):
                raise SettingError(f"OneCycleLR: {type(self.optimizer).__name__} has no momentum "
                                   "to cycle; leave out momentum=, or give the optimizer one")
        self.steps, self._found, self._first = 0, [], list(rates)
        self._set()

    def _along(self, t: int, start: float, peak: float, end: float) -> float:
        """The cycle from ``start`` over ``peak`` to ``end``, after ``t`` steps."""
        assert self.total_steps is not None
        top, last = self.pct_start * self.total_steps - 1, self.total_steps - 1
        if t <= top:
            return _between(start, peak, t / top if top else 1.0)
        return _between(peak, end, min((t - top) / (last - top), 1.0) if last > top else 1.0)

    def get_lr(self, t: int, first: float) -> float:
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


def _low_and_high(owner: str, value: object) -> tuple[float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not value[0] <= value[1]:
        raise SettingError(f"{owner}: momentum must be (low, high), got {value!r}")
    return fraction(owner, "momentum", value[0]), fraction(owner, "momentum", value[1])


# ---- schedules of schedules ----------------------------------------------------------------------

class SequentialLR(LRScheduler):
    """One schedule after another: each begins when the count of steps reaches its milestone.

    ``schedulers`` are new ones of this optimizer; there is one milestone fewer.

    >>> optimizer = SGD([Parameter([0.0])], lr=1.0)
    >>> parts = [LinearLR(optimizer, 0.5, total_iters=2), ExponentialLR(optimizer, 0.5)]
    >>> schedule = SequentialLR(optimizer, parts, [2])
    >>> for _ in range(5):
    ...     print(optimizer.lr, end=" ")
    ...     schedule.step()
    0.5 0.75 1.0 0.5 0.25
    """

    schedulers: Sequence[LRScheduler] = setting(
        lambda owner, name, value: list(value))
    milestones: Sequence[int] = setting(_milestones)

    def _setup(self) -> None:
        parts, self.steps = self.schedulers, 0
        if len(parts) != len(self.milestones) + 1:
            raise SettingError(f"{self._owner}: {len(parts)} schedulers need one milestone fewer, "
                               f"got {len(self.milestones)}")
        for part in parts:
            if not isinstance(part, LRScheduler) or part.optimizer is not self.optimizer:
                raise SettingError(f"{self._owner}: schedulers must be schedules of the same "
                                   f"optimizer, got {part!r}")
            _new(self._owner, part)
        # A schedule sets its first rate when it is made, which the next one finds.
        made = [[part.get_lr(0, first) for first in part._first] for part in parts]
        for (before, after), rates in zip(pairwise(parts), made, strict=False):
            if after._found == rates:
                after._restart(before._found or after._found)
        self.needs_loss = any(part.needs_loss for part in parts)    # type: ignore[misc]
        self._first = self._found = parts[0]._found
        parts[0]._set()

    def get_lr(self, t: int, first: float) -> float:
        i = bisect_right(self.milestones, t)
        return self.schedulers[i].get_lr(t - (0, *self.milestones)[i], first)

    def step(self, loss: Loss = None) -> None:
        self.steps += 1
        part = self.schedulers[bisect_right(self.milestones, self.steps)]
        if self.steps in self.milestones:
            part._set()
        else:
            part.step(loss)

    def state_dict(self) -> State:
        """Its own steps, and under ``"schedulers"`` the state of each part by its position."""
        return super().state_dict() | {"schedulers": {
            str(i): part.state_dict() for i, part in enumerate(self.schedulers)}}

    def _load_more(self, owner: str, entries: State) -> None:
        for i, part in enumerate(self.schedulers):
            part.load_state_dict(entries["schedulers"][str(i)])

    def _set(self) -> None:
        self.schedulers[bisect_right(self.milestones, self.steps)]._set()


def _new(owner: str, schedule: LRScheduler) -> None:
    if schedule.steps:
        raise SettingError(f"{owner}: {type(schedule).__name__} has stepped {schedule.steps} "
                           "times already; wrap it when it is new")


class LinearWarmup(SequentialLR):
    """Rise in a straight line to the first rate of another schedule, then follow that.

    For t ≤ warm_steps, lr = first · (start_factor + (1 − start_factor) · t / warm_steps); then the
    other schedule takes its steps.

    Goyal et al., *Accurate, large minibatch SGD*, arXiv:1706.02677.

    ``after`` is what follows; an optimizer keeps its rate.

    >>> optimizer = SGD([Parameter([0.0])], lr=1.0)
    >>> schedule = LinearWarmup(StepLR(optimizer, 1, gamma=0.5), 2, start_factor=0.5)
    >>> for _ in range(5):
    ...     print(optimizer.lr, end=" ")
    ...     schedule.step()
    0.5 0.75 1.0 0.5 0.25
    """

    def __init__(self, after: LRScheduler | Optimizer, warm_steps: int,
                 start_factor: float = 0.1) -> None:
        warm_steps = checks.integer(self._owner, "warm_steps", warm_steps, minimum=1)
        start_factor = checks.number(self._owner, "start_factor", start_factor, minimum=0,
                                     maximum=1)
        if not isinstance(after, LRScheduler):
            after = ConstantLR(_optimizer(self._owner, "after", after), 1.0, 0)
        _new(self._owner, after)
        rise = LinearLR(after.optimizer, start_factor, 1.0, warm_steps)
        super().__init__(after.optimizer, [rise, after], [warm_steps])


class ReduceLROnPlateau(LRScheduler):
    """Multiply the rate by a factor when the loss has stopped getting better.

    Better means below best − threshold · |best| (above, for mode "max").  After more than
    ``patience`` steps in a row without, lr ← max(lr · factor, min_lr).

    With ``threshold_mode="abs"`` the threshold is the difference itself; ``cooldown`` steps after a
    drop do not count.

    >>> optimizer = SGD([Parameter([0.0])], lr=1.0)
    >>> schedule = ReduceLROnPlateau(optimizer, patience=1, factor=0.5)
    >>> for loss in [3.0, 2.0, 2.0, 2.0, 1.0]:
    ...     schedule.step(loss)
    ...     print(optimizer.lr, end=" ")
    1.0 1.0 1.0 0.5 0.5
    """

    needs_loss: ClassVar[bool] = True
    mode: str = setting(checks.choice, default="min", options=("min", "max"))
    factor: float = setting(fraction, default=0.1)
    patience: int = setting(checks.integer, default=10, minimum=0)
    threshold: float = setting(non_negative, default=1e-4)
    threshold_mode: str = setting(checks.choice, default="rel", options=("rel", "abs"))
    cooldown: int = setting(checks.integer, default=0, minimum=0)
    min_lr: float = setting(non_negative, default=0.0)

    def _setup(self) -> None:
        self._best = math.inf if self.mode == "min" else -math.inf
        self._bad = self._resting = self._drops = 0
        super()._setup()

    def get_lr(self, t: int, first: float) -> float:
        return max(first * self.factor ** self._drops, min(self.min_lr, first))

    def step(self, loss: Loss = None) -> None:
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
        size = abs(self._best) if self.threshold_mode == "rel" else 1.0
        margin = 0.0 if math.isinf(self._best) else self.threshold * size
        return sign * value < sign * self._best - margin

    def state_dict(self) -> State:
        return super().state_dict() | {"best": self._best, "bad": self._bad,
                                       "resting": self._resting, "drops": self._drops}

    def _load_more(self, owner: str, entries: State) -> None:
        counts = [checks.integer(owner, name, entries[name], minimum=0)
                  for name in ("bad", "resting", "drops")]
        best = float(entries["best"])
        if math.isnan(best):
            raise SettingError("best is NaN")
        self._best = best
        self._bad, self._resting, self._drops = counts


on_first_use(__name__)
