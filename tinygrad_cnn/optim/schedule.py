"""What every schedule shares: the count of steps, the first rates, and saving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tinygrad_cnn.errors import CheckpointError, DTypeError, SettingError
from tinygrad_cnn.optim.optimizer import Optimizer, coefficient

__all__ = ["Schedule", "share", "step_count"]


def step_count(who: str, setting: str, value: Any, *, least: int = 1) -> int:
    """An integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise SettingError(f"{who}: {setting} must be an integer of at least {least}, "
                           f"got {value!r}")
    return int(value)


def share(who: str, setting: str, value: Any) -> float:
    """A number from 0 to 1."""
    if coefficient(who, setting, value) <= 1:
        return float(value)
    raise SettingError(f"{who}: {setting} must be from 0 to 1, got {value!r}")


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
            steps = step_count(who, "steps", entries["steps"], least=0)
            self._load_more(who, entries)
        except (KeyError, TypeError, SettingError) as error:
            raise CheckpointError(f"{who}: the state is damaged or was not made by "
                                  f"{self._who}.state_dict ({error})") from error
        self._first, self.steps = first, steps
        self._set()

    def _load_more(self, who: str, entries: Mapping[str, Any]) -> None:
        """Check and take over what only some schedules keep."""
