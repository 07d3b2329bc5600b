"""The training loop, once: forward, loss, backward, step, for every batch of every epoch.

``examples/smallest.py`` is the same loop in twenty lines; the trainer adds figures, validation,
callbacks and a history.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, contextmanager
from functools import partial
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cnn import checks
from tinygrad_cnn.core import Tensor, TensorLike, as_array, writable
from tinygrad_cnn.core.graph import no_grad
from tinygrad_cnn.errors import GradientError, SettingError
from tinygrad_cnn.io import load_checkpoint, save_checkpoint
from tinygrad_cnn.nn import CrossEntropyLoss, Module, NLLLoss, evaluating
from tinygrad_cnn.nn.module import training
from tinygrad_cnn.ops import cross_entropy, default_generator, nll_loss
from tinygrad_cnn.optim import Optimizer, clip_grad_norm_
from tinygrad_cnn.optim.lr_scheduler import LRScheduler
from tinygrad_cnn.parallel import (
    DataParallel,
    Group,
    check_batches,
    must_agree,
    run,
    share,
    world,
)
from tinygrad_cnn.train.callbacks import Callback
from tinygrad_cnn.train.history import History, Row
from tinygrad_cnn.train.lr_finder import LRCurve
from tinygrad_cnn.train.metrics import Metric, Metrics, accuracy, metrics_by_name
from tinygrad_cnn.train.progress import NotebookLine, with_progress
from tinygrad_cnn.train.run import Configuration, Listed, Place, generators, states_of
from tinygrad_cnn.types import Array, Settings

__all__ = ["Trainer", "fit"]

Part = ArrayLike | Mapping[str, ArrayLike]  # an array, or a tuple or dict of them
Batches = Iterable[tuple[Part, Part]]       # inputs and targets


class Stepped(Protocol):
    """Anything with a ``step``, such as a schedule of your own."""

    def step(self) -> object:
        """Go on by one."""


class Trainer:
    """Train a model, and judge it.

    Parameters
    ----------
    model : Module
        Takes images and gives scores.
    optimizer : Optimizer
        Over the parameters of the model, or some of them.
    loss : callable, optional
        ``(scores, labels)`` -> Tensor of one element; `cross_entropy` if not given.
    metrics : mapping of str to callable, or sequence of str or callable, optional
        ``(scores, labels)`` -> float, averaged over batches by size; or names of `METRICS`:
        "accuracy", "top_5_accuracy", "mae", "mse".  If not given, the accuracy for `cross_entropy`
        and `nll_loss`, as functions or as modules, and none for other losses.
    schedule : object with ``step``, optional
        Steps the learning rate, as ``schedule_every`` says.
    schedule_every : {"batch", "epoch"}, default "batch"
        When ``schedule.step()`` is called.  One that needs a loss gets that of the batch, or of
        the epoch: of its validation if there is one.
    clip : float, optional
        Largest norm of all gradients together.
    callbacks : sequence of Callback
        Called in this order.
    log : callable, optional
        Gets one line of text for each epoch; ``print`` shows it.
    progress : bool, default True
        Show a progress bar: in a notebook one line, on a terminal if tqdm is installed.
    workers : int, default 1
        Processes of this machine that train together, each with a part of every batch and its
        share of the CPUs; see `parallel.run`.  Results are those of one process to rounding, and
        repeat to the bit.  A program that ``mpiexec`` has started trains on all its ranks.

    Raises
    ------
    SettingError
        If ``schedule_every`` is unknown, or ``workers`` is below 1.

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
                 metrics: Metrics | None = None,
                 schedule: LRScheduler | Stepped | None = None,
                 schedule_every: str = "batch", clip: float | None = None,
                 callbacks: Sequence[Callback] = (), log: Callable[[str], object] | None = None,
                 progress: bool = True, workers: int = 1) -> None:
        self.model, self.optimizer = model, optimizer
        self.loss: Callable[..., Tensor] = cross_entropy if loss is None else loss
        self.metrics = default_metrics(self.loss) if metrics is None else metrics_by_name(metrics)
        self.schedule = schedule
        self.schedule_every = checks.choice("Trainer", "schedule_every", schedule_every,
                                            ("batch", "epoch"))
        self.clip, self.callbacks, self.log = clip, tuple(callbacks), log
        self.progress = progress
        self.workers = checks.integer("Trainer", "workers", workers, minimum=1)
        self._group = Group()
        self._replica: DataParallel | None = None
        self.history = History()
        self._place = Place()
        self._ending = False                    # some callbacks know of the end of the epoch
        self._loaders: Settings = {}            # those of `fit`
        # As they are before the first step, which a schedule and a run change.
        self._begun = {"optimizer": checks.text_of(optimizer), "schedule": checks.text_of(schedule)}

    def __repr__(self) -> str:
        loss = getattr(self.loss, "__name__", repr(self.loss))
        more = [] if self.schedule is None else [f"schedule={self.schedule!r}"]
        return (f"Trainer({type(self.model).__name__}, {self.optimizer!r}, "
                f"{', '.join([f'loss={loss}', f'metrics={list(self.metrics)}', *more])}): "
                f"{len(self.history)} epochs")

    def _repr_html_(self) -> str:
        return ('<pre style="font-family:monospace;white-space:pre-wrap">'
                f"{escape(repr(self))}</pre>{self.history._repr_html_()}")

    def fit(self, batches: Batches, epochs: int, *, validation: Batches | None = None,
            checkpoint: str | Path | None = None, save_every: int | None = None,
            resume: str | Path | None = None) -> History:
        """Train for some epochs; calling it again goes on counting.

        A part of the model that is in evaluation mode, such as a frozen batch normalization, stays
        so.  A model that is in evaluation mode as a whole is trained, and put back afterwards.

        Parameters
        ----------
        batches : iterable of (inputs, targets)
            Gone through once an epoch; a `DataLoader`, or a list.  A model of several inputs gets
            those of a tuple by position, those of a dict by name.
        epochs : int
            At least 1.
        validation : iterable of (inputs, targets), optional
            Judged after each epoch, in evaluation mode.
        checkpoint : path, optional
            Where the run is saved at its start and after each epoch, as by `save`.  The batches
            must then be a `DataLoader`, or a list, or have a ``state_dict``.
        save_every : int, steps, optional
            Save the run after so many steps too.
        resume : path, optional
            A file that such a run saved, in the middle of an epoch or not: go on from there, to the
            last bit as if the run had not been cut.  ``epochs`` are those of the whole run.
            Everything else must be made as it was then.

        Returns
        -------
        History
            One row for each epoch: epoch, loss, the metrics, "validation ..." and seconds.

        Raises
        ------
        SettingError
            If ``epochs`` is below 1, there are no batches, or the optimizer holds none of the
            model's parameters, or one that is neither the model's nor the loss's.
        CheckpointError
            If the run cannot be saved, or ``resume`` is a file of another model, optimizer, data
            set, setting or version; all that differs is listed, and nothing is changed.
        GradientError
            If the loss is not finite, or a gradient with ``clip``.  Such a batch changes nothing:
            weights, buffers such as running statistics, and the state of optimizer and schedule
            are those before it, as after any error and any interrupt before the optimizer's step.
        ParallelError
            If a worker failed or was killed.
        """
        self._check_optimizer()
        epochs = checks.integer("fit", "epochs", epochs, minimum=1)
        if save_every is not None:
            save_every = checks.integer("fit", "save_every", save_every, minimum=1)
            if checkpoint is None:
                raise SettingError("fit: save_every goes with checkpoint=, the file to save to")
        self._loaders = {"loader": batches, "validation": validation}
        with training(self.model):
            self._place, self._ending = Place(began=len(self.history)), False
            if resume is not None:
                load_checkpoint(resume, **self._parts())
            return run(self.workers, partial(self._fit, batches, epochs, validation, checkpoint,
                                             save_every, resume))

    def _check_optimizer(self) -> None:
        """Refuse an optimizer that would train nothing, or something else."""
        own, of_loss = ({id(p) for module in part.modules() for _, p in module._own_parameters()}
                        if isinstance(part, Module) else set() for part in (self.model, self.loss))
        held = self.optimizer.parameters
        who = type(self.optimizer).__name__
        cure = (f"make it when the model is complete: {who}(model.parameters(), ...); copying a "
                "model or replacing a part makes new parameters")
        if own.isdisjoint(map(id, held)):
            raise SettingError(f"fit: the optimizer {who} holds none of the model's parameters, so "
                               f"the model would not be trained; {cure}")
        strange = [f"{p.name or 'one without a name'} {p.shape}" for p in held
                   if id(p) not in own | of_loss]
        if strange:
            raise SettingError(f"fit: the optimizer {who} holds {len(strange)} of {len(held)} "
                               f"parameters that the model lacks: {', '.join(strange[:5])}; {cure}."
                               "  Parameters of a loss count if loss= is a Module that has them")

    def _fit(self, batches: Batches, epochs: int, validation: Batches | None,
             checkpoint: str | Path | None, save_every: int | None, resume: str | Path | None,
             group: Group) -> History:
        with ExitStack() as ends, self._parts_of_batches(group):
            if resume is not None and group.rank:
                load_checkpoint(resume, **{f"rank {group.rank}": self._own()})
            if checkpoint is not None:
                self.save(checkpoint)           # what cannot be saved is said before hours are lost
            for callback in reversed(self._callbacks):      # what is entered last runs first
                ends.callback(callback.on_fit_end, self)
            for callback in self._callbacks:
                callback.on_fit_start(self)
            place, last = self._place, self._place.began + epochs
            self._line = NotebookLine()
            while len(self.history) < last and not place.stopped:
                began = time.perf_counter() - place.seconds
                if not place.trained:
                    self._epoch(batches, last, checkpoint, save_every)
                    place.trained = True
                self._end_epoch(validation, last, began)
                if checkpoint is not None:
                    self.save(checkpoint)
        return self.history

    def _end_epoch(self, validation: Batches | None, last: int, began: float) -> None:
        """Judge an epoch, note its figures, and ask the callbacks whether it was the last."""
        place = self._place
        row: Row = {"epoch": len(self.history) + 1, **place.means("fit", self._group)}
        if validation is not None:
            judged = self.evaluate(validation)
            row |= {f"validation {name}": value for name, value in judged.items()}
        row["seconds"] = round(time.perf_counter() - began, 3)
        if self.schedule is not None and self.schedule_every == "epoch":
            self._step_schedule(row["loss" if validation is None else "validation loss"])
        self._ending = True
        stop = [callback.on_epoch_end(self, row) for callback in self._callbacks]
        self._ending = False
        self.history.append(row)
        place.end_epoch(stopped=bool(self._group.spread(np.array(any(stop), np.int64))))
        if self.log is not None and not self._group.rank:
            self.log(describe(row, last))

    @contextmanager
    def _parts_of_batches(self, group: Group) -> Iterator[None]:
        """Take this rank's part of each batch from here on."""
        if group.size == 1:
            yield
            return
        for part in self._loaders.values():
            check_batches(part, group)
        must_agree(group, "the run", [
            f"{name}: {checks.text_of(value)}" for name, value in vars(self).items()
            if name in ("optimizer", "schedule", "schedule_every", "clip", "metrics", "_place")],
            "start all ranks with the same settings")
        self._group, self._replica = group, (replica := DataParallel(_Forward(self), group))
        try:
            yield
        finally:
            replica.close()
            self._group, self._replica = Group(), None

    @property
    def _callbacks(self) -> list[Callback]:
        """Those that this rank calls."""
        return [one for one in self.callbacks if one.every_rank or not self._group.rank]

    def _step_schedule(self, loss: float) -> None:
        assert self.schedule is not None
        self.schedule.step(*[loss] if getattr(self.schedule, "needs_loss", False) else [])

    def _epoch(self, batches: Batches, epochs: int, checkpoint: str | Path | None,
               save_every: int | None) -> None:
        """The steps of an epoch that are still to be done."""
        if not self.model.training:             # a callback has switched it
            self.model.train()
        place, epoch = self._place, len(self.history) + 1
        began = time.perf_counter() - place.seconds
        total = len(batches) if isinstance(batches, Sized) else 0
        if not hasattr(batches, "load_state_dict"):     # else it goes on by itself
            batches = islice(batches, place.batch, None)
        buffers = [(vars(module), name) for module in self.model.modules()
                   for name in module._buffer_names]
        for inputs, targets in _pairs(with_progress(
                batches, total=total, done=place.batch, label=f"epoch {epoch}/{epochs}",
                show=self.progress and not self._group.rank, line=self._line)):
            whole = _count(inputs)
            inputs, targets = share((inputs, targets), self._group)
            before = [None if held[name] is None else held[name].copy() for held, name in buffers]
            try:
                value, figures = self._gradients(
                    inputs, targets, f"batch {place.batch + 1} of epoch {epoch}")
                self.optimizer.step()
            except BaseException:
                _put_back(buffers, before)
                self._zero_grad()
                raise
            place.add(self._weight(inputs, whole), {"loss": value, **figures})
            if self.schedule is not None and self.schedule_every == "batch":
                self._step_schedule(value)
            for callback in self._callbacks:
                callback.on_batch_end(self, place.batch - 1, value)
            if save_every and checkpoint is not None and place.steps % save_every == 0:
                place.seconds = time.perf_counter() - began
                self.save(checkpoint)

    def _weight(self, inputs: Any, whole: int) -> float:
        """The samples of this part of a batch, each counted by one rank."""
        own = _count(inputs)
        return own if own < whole else whole / self._group.size

    def _forward(self, inputs: Any, targets: Any) -> tuple[Tensor, Any]:
        scores = self._run(inputs)
        return self.loss(scores, targets), scores

    def _gradients(self, inputs: Part, targets: Part, where: str) -> tuple[float, dict[str, float]]:
        """The loss and the metrics of a batch, which leaves its gradients in the parameters."""
        loss, scores = (self._replica or self._forward)(inputs, targets)
        value = loss.item()
        if self._replica is not None:           # that of all ranks, so that all do the same
            value = self._replica.mean(value, _count(inputs))
        if not math.isfinite(value):
            raise GradientError(
                f"fit: the loss is {value} at {where}; lower the learning rate "
                f"({self.optimizer.lr:g}), clip gradients (clip=1.0), or look for NaN in the data")
        figures = self._judge(scores, targets)
        self._zero_grad()
        loss.backward()
        if self.clip is not None:
            clip_grad_norm_(self.optimizer.parameters, self.clip)
        return value, figures

    def _zero_grad(self) -> None:
        self.optimizer.zero_grad()              # a loss may have parameters of its own ...
        self.model.zero_grad()                  # ... and the optimizer not all of the model's

    def _run(self, inputs: Part) -> Tensor:
        if isinstance(inputs, dict):
            return self.model(**{name: Tensor(array) for name, array in inputs.items()})
        return self.model(*map(Tensor, inputs if isinstance(inputs, tuple) else (inputs,)))

    def _judge(self, scores: TensorLike, targets: Any) -> dict[str, float]:
        plain: Any = scores._data if isinstance(scores, Tensor) else scores
        return {name: metric(plain, targets) for name, metric in self.metrics.items()}

    def find_lr(self, batches: Batches, *, start: float = 1e-7, end: float = 10.0,
                steps: int = 100) -> LRCurve:
        """Train a little with a rate that rises from step to step, and see how the loss goes.

        The rate grows by one factor from step to step; there are fewer steps if the loss rises to
        four times the lowest.  The batches are gone through as often as needed, and afterwards the
        model and the optimizer are as before.
        Smith, *Cyclical learning rates for training neural networks*, arXiv:1506.01186.
        """
        start = checks.number("find_lr", "start", start, above=0)
        end = checks.number("find_lr", "end", end, above=start)
        steps = checks.integer("find_lr", "steps", steps, minimum=2)
        self._check_optimizer()
        arrays = [p._data.copy() for p in self.optimizer.parameters]
        buffers = [(vars(module), name) for module in self.model.modules()
                   for name in module._buffer_names]
        before = [None if held[name] is None else held[name].copy() for held, name in buffers]
        state, curve = self.optimizer.state_dict(), LRCurve()
        try:
            with training(self.model):
                for i, (inputs, targets) in enumerate(_endless(batches)):
                    self.optimizer.lr = start * (end / start) ** (i / (steps - 1))
                    try:
                        value, _ = self._gradients(inputs, targets, f"step {i + 1}")
                    except GradientError:           # the loss is not finite: the rate is too high
                        break
                    curve.append(self.optimizer.lr, value)
                    self.optimizer.step()
                    if i == steps - 1 or curve.diverged:
                        break
        finally:
            for p, array in zip(self.optimizer.parameters, arrays, strict=True):
                writable(p)[...] = array
            _put_back(buffers, before)
            self.optimizer.load_state_dict(state)
            self._zero_grad()
        return curve

    def _parts(self) -> Settings:
        """All that a run consists of, by the names that it has in a checkpoint."""
        if self.schedule is not None and not hasattr(self.schedule, "state_dict"):
            raise SettingError(f"fit: the schedule of a run that is saved must have a state_dict "
                               f"and load_state_dict, got {self.schedule!r}")
        settings = {**self._begun, "model": checks.text_of(self.model),
                    "loss": checks.text_of(self.loss), "metrics": ", ".join(self.metrics),
                    "schedule_every": self.schedule_every, "clip": self.clip,
                    "workers": max(self.workers, world().size),
                    "callbacks": ", ".join(type(c).__name__ for c in self.callbacks)}
        loaders = {name: part if hasattr(part, "state_dict") else Listed(name, part)
                   for name, part in self._loaders.items() if part is not None}
        parts = {"model": self.model, "loss": self.loss, "optimizer": self.optimizer,
                 "schedule": self.schedule, **loaders}
        return {"configuration": Configuration(settings),
                **{name: part for name, part in parts.items() if hasattr(part, "state_dict")},
                "callbacks": list(self.callbacks), "history": self.history, **self._own()}

    def _own(self) -> Settings:
        """What each of several workers has for itself."""
        return {"rng": {"default": default_generator(),
                        **generators(model=self.model, loss=self.loss)}, "place": self._place}

    def save(self, path: str | Path) -> Path:
        """Write the run as it is now, for ``fit(resume=path)``; see `io.save_checkpoint`.

        The file holds weights, buffers, the states of optimizer, schedule, loss and callbacks, all
        generators, the history, the place in the epoch, the SHA-256 of the data, and all settings.
        After an interrupt, the step that was under way is done again.  Callbacks may save in
        ``on_batch_end``; when an epoch ends, ``fit(checkpoint=)`` does it after all callbacks.
        """
        if self._ending:
            raise SettingError("save: in on_epoch_end some callbacks have counted the epoch and "
                               "others have not; fit(checkpoint=path) saves after all of them")
        parts = self._parts()
        done = {"loader": self._place.batch, "validation": 0}   # what was handed out may be more
        for name, batches in done.items():
            if name in parts:
                parts[name] = state = dict(parts[name].state_dict())
                if state.get("position", 0) > batches:
                    state["position"] = batches
        if self._group.size > 1:
            states = self._group.gather_text(states_of(self._own()))
            parts |= {f"rank {i}": json.loads(text) for i, text in enumerate(states) if i}
        return Path(path) if self._group.rank else save_checkpoint(path, **parts)

    def evaluate(self, batches: Batches) -> dict[str, float]:
        """The mean loss and metrics over some batches, in evaluation mode and without a graph."""
        place = Place()
        with evaluating(self.model), no_grad():
            for inputs, targets in _pairs(batches):
                whole = _count(inputs)
                inputs, targets = share((inputs, targets), self._group)
                loss, scores = self._forward(inputs, targets)
                place.add(self._weight(inputs, whole), {"loss": loss.item(),
                                                        **self._judge(scores, targets)})
        return place.means("evaluate", self._group)

    def predict(self, images: TensorLike, *, batch_size: int = 256) -> Array:
        """The scores of some images (N, H, W, C), in evaluation mode and without a graph.

        ``batch_size`` of them are taken at a time.
        """
        array = as_array(images)
        batch_size = checks.integer("predict", "batch_size", batch_size, minimum=1)
        if not len(array):
            raise SettingError("predict: there are no images")
        with evaluating(self.model), no_grad():
            return np.concatenate([self.model(Tensor(array[i:i + batch_size]))._data
                                   for i in range(0, len(array), batch_size)])


def _pairs(batches: Batches) -> Iterator[tuple[Part, Part]]:
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise SettingError(f"a batch is (inputs, targets), got {type(batch).__name__}"
                               + (f" of {len(batch)}" if isinstance(batch, (tuple, list)) else "")
                               + "; several inputs are a tuple or dict: ((a, b), targets)")
        yield batch[0], batch[1]


def _endless(batches: Batches) -> Iterator[tuple[Part, Part]]:
    """The batches, again and again."""
    empty = False
    while not empty:
        empty = True
        for pair in _pairs(batches):
            empty = False
            yield pair
    raise SettingError("find_lr: there are no batches; pass a DataLoader or a list")


def _count(inputs: Any) -> int:
    """How many samples there are in a batch."""
    several = inputs.values() if isinstance(inputs, dict) else inputs
    return len(next(iter(several)) if isinstance(inputs, (tuple, dict)) else inputs)


def default_metrics(loss: Callable[..., Tensor]) -> dict[str, Metric]:
    """The accuracy if the loss is one over classes; nothing is known about other losses."""
    plain = loss.func if isinstance(loss, partial) else loss
    classes = plain in (cross_entropy, nll_loss) or isinstance(plain, (CrossEntropyLoss, NLLLoss))
    return {"accuracy": accuracy} if classes else {}


def _put_back(buffers: Sequence[tuple[Settings, str]],
              before: Sequence[Array | None]) -> None:
    """Give the buffers of a model the values that they had, in the arrays that they are."""
    for (held, name), array in zip(buffers, before, strict=True):
        if array is not None and held[name] is not None and held[name].shape == array.shape:
            held[name][...] = array
        elif array is not None:
            held[name] = array


class _Forward(Module):
    """Model and loss of a trainer, whose parameters are trained together."""

    def __init__(self, trainer: Trainer) -> None:
        self.model = trainer.model
        if isinstance(trainer.loss, Module):
            self.loss = trainer.loss
        vars(self)["forward"] = trainer._forward


def describe(row: Row, epochs: int) -> str:
    """One line for a person."""
    figures = [f"{name} {100 * value:.2f} %" if "accuracy" in name else f"{name} {value:.4f}"
               for name, value in row.items() if name not in ("epoch", "seconds")]
    width = len(str(epochs))
    return f"epoch {row['epoch']:{width}d}/{epochs}  {'  '.join(figures)}  ({row['seconds']:.1f} s)"


class _Settings(TypedDict, total=False):
    """What `Trainer` is told by name."""

    loss: Callable[..., Tensor] | None
    metrics: Metrics | None
    schedule: LRScheduler | Stepped | None
    schedule_every: str
    clip: float | None
    callbacks: Sequence[Callback]
    log: Callable[[str], object] | None
    progress: bool


def fit(model: Module, batches: Batches, *, epochs: int, optimizer: Optimizer,
        validation: Batches | None = None, **settings: Unpack[_Settings]) -> History:
    """Train a model in one call: ``Trainer(model, optimizer, **settings).fit(...)``.

    >>> from tinygrad_cnn import nn, optim
    >>> from tinygrad_cnn.train import fit
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, rng=np.random.default_rng(0)))
    >>> batches = [(np.ones((2, 2, 2, 1), np.float32), np.array([0, 0]))]
    >>> len(fit(model, batches, epochs=2, optimizer=optim.SGD(model.parameters(), 0.1)))
    2
    """
    return Trainer(model, optimizer, **settings).fit(batches, epochs, validation=validation)
