"""What may happen after each epoch: stop early, keep the best weights, or anything of your own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from tinygrad_cnn import checks
from tinygrad_cnn.errors import CheckpointError, SettingError
from tinygrad_cnn.io import save_weights
from tinygrad_cnn.train.history import Row
from tinygrad_cnn.types import Settings

if TYPE_CHECKING:
    from tinygrad_cnn.train.trainer import Trainer

__all__ = ["BestCheckpoint", "Callback", "EarlyStopping"]


class Callback:
    """Override what you need; each method gets the trainer.

    ``on_epoch_end`` also gets the row of figures, which it may add to; it returns True to stop.
    With several workers or ranks rank 0 calls them; one that changes the model or the optimizer
    must do so everywhere, and sets ``every_rank``.
    """

    every_rank = False

    def __init__(self) -> None:
        """Nothing is set here; Python would not name an argument that is too many."""

    def on_fit_start(self, trainer: Trainer) -> None:
        """Before the first epoch."""

    def on_batch_end(self, trainer: Trainer, batch: int, loss: float) -> None:
        """After each step of the optimizer."""

    def on_epoch_end(self, trainer: Trainer, row: Row) -> bool | None:
        """After each epoch and its validation."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """After the last epoch, whatever ended it: the number of epochs, an error, an interrupt."""

    def state_dict(self) -> Settings:
        """What a checkpoint has to hold of this callback: plain values and arrays by name."""
        return {}

    def load_state_dict(self, entries: Settings) -> None:
        """Take over what `state_dict` gave."""


class _Watching(Callback):
    """Common to callbacks that compare one figure with its best value so far."""

    def __init__(self, monitor: str, mode: str, owner: str) -> None:
        self.monitor, self._owner = monitor, owner
        self.mode = checks.choice(owner, "mode", mode, ("min", "max"))
        self.best = math.inf if mode == "min" else -math.inf
        self.best_epoch: int | None = None

    def improved(self, row: Row, min_delta: float = 0.0) -> bool:
        """Whether the figure is better than ever by more than ``min_delta``, which it then is."""
        if self.monitor not in row:
            raise SettingError(f"{self._owner}: monitor {self.monitor!r} is not among the figures "
                               f"{', '.join(row)}; pass validation= to fit or metrics= to "
                               "Trainer, or watch another")
        value = float(row[self.monitor])
        sign = 1 if self.mode == "min" else -1
        better = sign * value < sign * self.best - min_delta
        if better:
            self.best, self.best_epoch = value, row["epoch"]
        return better

    def state_dict(self) -> Settings:
        """The best value so far, and its epoch."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, entries: Settings) -> None:
        """Take over what `state_dict` gave."""
        owner = f"{self._owner}.load_state_dict"
        best, epoch = entries["best"], entries["best_epoch"]
        if type(best) is not float or not (epoch is None or type(epoch) is int):
            raise CheckpointError(f"{owner}: the state is damaged: best {best!r:.60} of epoch "
                                  f"{epoch!r:.60}")
        self.best, self.best_epoch = best, epoch


class EarlyStopping(_Watching):
    """Stop when a figure has not improved for some epochs.

    Parameters
    ----------
    monitor : str, default "validation loss"
        The figure.
    patience : int, epochs, default 3
        How long to wait.
    mode : {"min", "max"}, default "min"
        Which way is better.
    min_delta : float, default 0.0
        An improvement by at most this does not count.
    """

    def __init__(self, monitor: str = "validation loss", *, patience: int = 3, mode: str = "min",
                 min_delta: float = 0.0) -> None:
        super().__init__(monitor, mode, "EarlyStopping")
        self.patience = checks.integer("EarlyStopping", "patience", patience, minimum=1)
        self.min_delta = checks.number("EarlyStopping", "min_delta", min_delta, minimum=0)
        self.waited = 0

    def on_epoch_end(self, trainer: Trainer, row: Row) -> bool:
        """Compare, and count the epochs without improvement."""
        self.waited = 0 if self.improved(row, self.min_delta) else self.waited + 1
        return self.waited >= self.patience

    def state_dict(self) -> Settings:
        """The best value, its epoch, and the epochs since."""
        return super().state_dict() | {"waited": self.waited}

    def load_state_dict(self, entries: Settings) -> None:
        """Take over what `state_dict` gave."""
        waited = checks.integer("EarlyStopping", "waited", entries["waited"], minimum=0)
        super().load_state_dict(entries)
        self.waited = waited


class BestCheckpoint(_Watching):
    """Save the weights whenever a figure is better than ever.

    Parameters
    ----------
    path : path
        The file, by custom ``.safetensors``.
    monitor : str, default "validation accuracy"
        The figure.
    mode : {"min", "max"}, default "max"
        Which way is better.
    """

    def __init__(self, path: str | Path, monitor: str = "validation accuracy", *,
                 mode: str = "max") -> None:
        super().__init__(monitor, mode, "BestCheckpoint")
        self.path = Path(path)

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        """Compare, and save."""
        if self.improved(row):
            save_weights(trainer.model, self.path)
