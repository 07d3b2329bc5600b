"""The schedule that watches the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.optim.optimizer import Optimizer, coefficient, fractions
from tinygrad_cnn.optim.schedule import Schedule, step_count

__all__ = ["Plateau"]


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
        self.patience = step_count("Plateau", "patience", patience, least=0)
        self.threshold = coefficient("Plateau", "threshold", threshold)
        self.cooldown = step_count("Plateau", "cooldown", cooldown, least=0)
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
        counts = [step_count(who, name, entries[name], least=0)
                  for name in ("bad", "resting", "drops")]
        best = float(entries["best"])
        if math.isnan(best):
            raise SettingError("best is NaN")
        self._best = best
        self._bad, self._resting, self._drops = counts
