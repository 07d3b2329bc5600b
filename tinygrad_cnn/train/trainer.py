"""The training loop, once: forward, loss, backward, step, for every batch of every epoch.

``examples/smallest.py`` is the same loop in twenty lines; the trainer adds figures, validation,
callbacks and a history.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.errors import GradientError, SettingError
from tinygrad_cnn.graph import no_grad
from tinygrad_cnn.nn import Module
from tinygrad_cnn.ops import cross_entropy
from tinygrad_cnn.optim import Optimizer, clip_norm
from tinygrad_cnn.tensor import Tensor, as_array
from tinygrad_cnn.train.callbacks import Callback
from tinygrad_cnn.train.history import History
from tinygrad_cnn.train.metrics import accuracy
from tinygrad_cnn.train.progress import progress

__all__ = ["Trainer", "fit"]

Metric = Callable[[Any, Any], float]


class Trainer:
    """Train a model, and judge it.

    Parameters
    ----------
    model : Module
        Takes images and gives scores.
    optimizer : Optimizer
        Over the parameters of the model.
    loss : callable, optional
        ``(scores, labels)`` -> Tensor of one element; `cross_entropy` if not given.
    metrics : mapping of str to callable, optional
        ``(scores, labels)`` -> float, averaged over batches by size; accuracy if not given.
    schedule : object with ``step``, optional
        Steps the learning rate, as ``schedule_every`` says.
    schedule_every : {"batch", "epoch"}, default "batch"
        When ``schedule.step()`` is called.  A plateau schedule is stepped with the loss of each
        epoch: that of the validation if there is one.
    clip : float, optional
        Largest norm of all gradients together.
    callbacks : sequence of Callback
        Called in this order.
    log : callable, optional
        Gets one line of text for each epoch; ``print`` shows it.
    bar : bool, default True
        Show a progress bar on a terminal, if tqdm is installed.

    Raises
    ------
    SettingError
        If ``schedule_every`` is unknown.

    Examples
    --------
    >>> from tinygrad_cnn import nn, optim
    >>> from tinygrad_cnn.data import DataLoader
    >>> from tinygrad_cnn.train import Trainer
    >>> rng = np.random.default_rng(0)
    >>> images = rng.normal(size=(32, 4, 4, 1)).astype(np.float32)
    >>> labels = (images.mean((1, 2, 3)) > 0).astype(np.int64)
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, rng=rng))
    >>> trainer = Trainer(model, optim.SGD(model.parameters(), 0.5))
    >>> history = trainer.fit(DataLoader(images, labels, batch_size=8, seed=0), epochs=5)
    >>> history["loss"][-1] < history["loss"][0]
    True
    """

    def __init__(self, model: Module, optimizer: Optimizer, *,
                 loss: Callable[..., Tensor] | None = None,
                 metrics: Mapping[str, Metric] | None = None, schedule: Any = None,
                 schedule_every: str = "batch", clip: float | None = None,
                 callbacks: Sequence[Callback] = (), log: Callable[[str], Any] | None = None,
                 bar: bool = True) -> None:
        if schedule_every not in ("batch", "epoch"):
            raise SettingError(f"Trainer: schedule_every {schedule_every!r} must be 'batch' or "
                               "'epoch'")
        self.model, self.optimizer = model, optimizer
        self.loss = cross_entropy if loss is None else loss
        self.metrics = {"accuracy": accuracy} if metrics is None else dict(metrics)
        self.schedule, self.schedule_every = schedule, schedule_every
        self.clip, self.callbacks, self.log, self.bar = clip, tuple(callbacks), log, bar
        self.history = History()

    def fit(self, batches: Iterable[Any], epochs: int, *,
            validation: Iterable[Any] | None = None) -> History:
        """Train for some epochs; calling it again goes on counting.

        Parameters
        ----------
        batches : iterable of (images, labels)
            Gone through once an epoch; a `DataLoader`, or a list.
        epochs : int
            At least 1.
        validation : iterable of (images, labels), optional
            Judged after each epoch, in evaluation mode.

        Returns
        -------
        History
            One row for each epoch: epoch, loss, the metrics, "validation ..." and seconds.

        Raises
        ------
        SettingError
            If ``epochs`` is below 1, or there are no batches.
        GradientError
            If the loss is not finite; the weights are those before that batch.
        """
        if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
            raise SettingError(f"fit: epochs must be at least 1, got {epochs!r}")
        for callback in self.callbacks:
            callback.on_fit_start(self)
        first = len(self.history)
        for epoch in range(first + 1, first + epochs + 1):
            began = time.perf_counter()
            row: dict[str, Any] = {"epoch": epoch, **self._epoch(batches, epoch, first + epochs)}
            if validation is not None:
                judged = self.evaluate(validation)
                row |= {f"validation {name}": value for name, value in judged.items()}
            row["seconds"] = round(time.perf_counter() - began, 3)
            if self.schedule is not None and self.schedule_every == "epoch":
                self._step_schedule(row)
            stop = [callback.on_epoch_end(self, row) for callback in self.callbacks]
            self.history.append(row)
            if self.log is not None:
                self.log(describe(row, first + epochs))
            if any(stop):
                break
        for callback in self.callbacks:
            callback.on_fit_end(self)
        return self.history

    def _step_schedule(self, row: dict[str, Any]) -> None:
        if getattr(self.schedule, "needs_loss", False):
            self.schedule.step(row.get("validation loss", row["loss"]))
        else:
            self.schedule.step()

    def _epoch(self, batches: Iterable[Any], epoch: int, epochs: int) -> dict[str, float]:
        self.model.train()
        sums = _Sums()
        total = len(batches) if isinstance(batches, Sized) else 0
        for i, (images, labels) in enumerate(progress(
                batches, total=total, label=f"epoch {epoch}/{epochs}", show=self.bar)):
            scores = self.model(Tensor(images))
            loss = self.loss(scores, labels)
            value = loss.item()
            if not math.isfinite(value):
                raise GradientError(
                    f"fit: the loss is {value} at batch {i + 1} of epoch {epoch}; lower the "
                    f"learning rate ({self.optimizer.lr:g}), clip gradients (clip=1.0), or "
                    "look for NaN in the data")
            sums.add(len(images), {"loss": value, **self._judge(scores, labels)})
            self.optimizer.zero_grad()
            loss.backward()
            if self.clip is not None:
                clip_norm(self.model.parameters(), self.clip)
            self.optimizer.step()
            if self.schedule is not None and self.schedule_every == "batch":
                self.schedule.step()
            for callback in self.callbacks:
                callback.on_batch_end(self, i, value)
        return sums.means("fit")

    def _judge(self, scores: Tensor, labels: Any) -> dict[str, float]:
        return {name: metric(scores._data, labels) for name, metric in self.metrics.items()}

    def evaluate(self, batches: Iterable[Any]) -> dict[str, float]:
        """The mean loss and metrics over some batches, in evaluation mode and without a graph.

        Parameters
        ----------
        batches : iterable of (images, labels)

        Returns
        -------
        dict of str to float
            The loss, and each metric.

        Raises
        ------
        SettingError
            If there are no batches.
        """
        mode = self.model.training
        self.model.eval()
        sums = _Sums()
        try:
            with no_grad():
                for images, labels in batches:
                    scores = self.model(Tensor(images))
                    sums.add(len(images), {"loss": self.loss(scores, labels).item(),
                                           **self._judge(scores, labels)})
        finally:
            self.model.train(mode)
        return sums.means("evaluate")

    def predict(self, images: Any, *, batch_size: int = 256) -> NDArray[Any]:
        """The scores of some images, in evaluation mode and without a graph.

        Parameters
        ----------
        images : array, shape (N, H, W, C)
        batch_size : int, default 256
            Images at a time.

        Returns
        -------
        ndarray, shape (N, K)

        Raises
        ------
        SettingError
            If there are no images, or ``batch_size`` is below 1.
        """
        array = as_array(images)
        if not len(array) or batch_size < 1:
            raise SettingError(f"predict: needs images and a batch_size of at least 1, got "
                               f"{len(array)} and {batch_size}")
        mode = self.model.training
        self.model.eval()
        try:
            with no_grad():
                return np.concatenate([self.model(Tensor(array[i:i + batch_size]))._data
                                       for i in range(0, len(array), batch_size)])
        finally:
            self.model.train(mode)


class _Sums:
    """Means over batches of unlike size."""

    def __init__(self) -> None:
        self.count = 0
        self.totals: dict[str, float] = {}

    def add(self, size: int, figures: dict[str, float]) -> None:
        self.count += size
        for name, value in figures.items():
            self.totals[name] = self.totals.get(name, 0.0) + size * value

    def means(self, who: str) -> dict[str, float]:
        if not self.count:
            raise SettingError(f"{who}: there are no batches; an iterator that was used up gives "
                               "none: pass a DataLoader or a list")
        return {name: total / self.count for name, total in self.totals.items()}


def describe(row: Mapping[str, Any], epochs: int) -> str:
    """One line for a person."""
    figures = [f"{name} {100 * value:.2f} %" if "accuracy" in name else f"{name} {value:.4f}"
               for name, value in row.items() if name not in ("epoch", "seconds")]
    width = len(str(epochs))
    return f"epoch {row['epoch']:{width}d}/{epochs}  {'  '.join(figures)}  ({row['seconds']:.1f} s)"


def fit(model: Module, batches: Iterable[Any], *, epochs: int, optimizer: Optimizer,
        validation: Iterable[Any] | None = None, **settings: Any) -> History:
    """Train a model in one call: ``Trainer(model, optimizer, **settings).fit(...)``.

    Parameters
    ----------
    model, optimizer, **settings
        As in `Trainer`.
    batches, epochs, validation
        As in `Trainer.fit`.

    Returns
    -------
    History
        One row for each epoch.

    Raises
    ------
    SettingError, GradientError
        As `Trainer` and `Trainer.fit`.

    Examples
    --------
    >>> from tinygrad_cnn import nn, optim
    >>> from tinygrad_cnn.train import fit
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, rng=np.random.default_rng(0)))
    >>> batches = [(np.ones((2, 2, 2, 1), np.float32), np.array([0, 0]))]
    >>> len(fit(model, batches, epochs=2, optimizer=optim.SGD(model.parameters(), 0.1)))
    2
    """
    return Trainer(model, optimizer, **settings).fit(batches, epochs, validation=validation)
