"""How each data set is trained unless the user says otherwise, and what one run is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinygrad_cnn import data, optim
from tinygrad_cnn.cli.receipt import receipt_of, write_receipt
from tinygrad_cnn.data import Dataset
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.files import shown, words
from tinygrad_cnn.io import save_weights
from tinygrad_cnn.models import build
from tinygrad_cnn.ops import manual_seed
from tinygrad_cnn.parallel import world
from tinygrad_cnn.train import BestCheckpoint, Trainer, summarize
from tinygrad_cnn.types import Settings

__all__ = ["OPTIMIZERS", "RECIPES", "Job", "Outcome", "Recipe", "make_folder", "recipe_for",
           "run", "test_batches"]

OPTIMIZERS = {"sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW,
              "rmsprop": optim.RMSprop, "adagrad": optim.Adagrad}


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run."""

    model: str
    epochs: int = 3
    batch_size: int = 64
    lr: float = 2e-3
    optimizer: str = "adamw"
    flip: bool = False
    shift: int = 0


RECIPES = {
    # Two convolutions and one late pool; ±1 pixel of shift stands for more writers.
    "digits": Recipe("digits", epochs=15, batch_size=32, lr=3e-3, shift=1),
    "mnist": Recipe("lenet", epochs=3, shift=1),
    "fashion-mnist": Recipe("lenet", epochs=3),
    "cifar10": Recipe("resnet20", epochs=30, batch_size=128, lr=3e-3, flip=True, shift=4),
}


def recipe_for(name: str) -> Recipe:
    """The recipe of a data set; that of CIFAR-10's kind for a folder of the user's."""
    return RECIPES.get(name, Recipe("vgg", epochs=10, flip=False, shift=2))


def transforms(train: Dataset, recipe: Recipe) -> tuple[data.Compose, data.Compose]:
    """What is done to the images of training, and to those of the test."""
    scale = 1 / train.peak
    mean, std = data.channel_statistics(train.images, scale=scale)
    plain: list[data.Transform] = [data.ToFloat(scale), data.Normalize(mean, std)]
    augment: list[data.Transform] = []
    if recipe.flip:
        augment.append(data.RandomFlip())
    if recipe.shift:
        augment.append(data.RandomShift(recipe.shift))
    return data.Compose([*augment, *plain]), data.Compose(plain)


def test_batches(train: Dataset, test: Dataset, recipe: Recipe) -> data.DataLoader:
    """The test images, prepared with the statistics of the training images."""
    return data.DataLoader(test, batch_size=256, seed=0, transform=transforms(train, recipe)[1])


@dataclass(frozen=True)
class Job:
    """What a training run is asked to do; the same job on the same machine ends with equal bits."""

    data: str
    recipe: Recipe
    root: Path | None = None
    seed: int = 0
    limit: int | None = None
    validation: int = 0
    workers: int = 1

    def arguments(self) -> list[str]:
        """The job as arguments of ``tinygrad-cnn train``, from any folder."""
        recipe = {k: v for k, v in vars(self.recipe).items() if k not in ("flip", "shift")}
        settings = {**vars(self), **recipe, "root": self.root and self.root.absolute()}
        if self.data not in data.NAMES and Path(self.data).exists():
            settings["data"] = Path(self.data).absolute()
        del settings["recipe"]
        return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()
                if value is not None]


@dataclass(frozen=True)
class Outcome:
    """What a run ended with, and where it wrote."""

    trainer: Trainer
    accuracy: float
    correct: int
    images: int
    split: str
    files: list[Path]
    sample: tuple[np.ndarray, np.ndarray]
    receipt: Settings


def run(job: Job, out: Path | None, *, say: Callable[[str], None] = print,
        resume: str | None = None, save_every: int | None = None) -> Outcome:
    """Train by a recipe, say how it goes, judge on the test images, and write the results.

    The test images are looked at once, at the end.  With ``validation``, that many of the last
    training images are held out and judged after each epoch, and the best weights are kept.  What a
    run needs to go on is in ``checkpoint.safetensors`` after each epoch; one that is over has
    ``run.json``.  Of several ranks the first speaks and writes.
    """
    group = world()
    if group.rank:
        def say(line: str) -> None:
            """Nothing: rank 0 says it."""
    train, test = data.load(job.data, root=job.root)
    recipe, validation = job.recipe, job.validation
    out = out or Path("runs") / f"{train.name}-{recipe.model}"
    if job.limit is not None:
        train, test = train.subset(slice(job.limit)), test.subset(slice(job.limit))
    if not 0 <= validation < len(train):
        raise SettingError(f"validation must be from 0 to {len(train) - 1}, got {validation}")
    kept = train.subset(slice(len(train) - validation))
    held_out = train.subset(slice(len(train) - validation, None)) if validation else None
    rng = manual_seed(job.seed)
    model = build(recipe.model, train.image_shape, len(train.classes), rng=rng)
    augmented, plain = transforms(kept, recipe)
    batches = data.DataLoader(kept, batch_size=recipe.batch_size, shuffle=True, seed=job.seed,
                              drop_last=len(kept) > recipe.batch_size, transform=augmented)
    optimizer = OPTIMIZERS[recipe.optimizer](model.parameters(), recipe.lr)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=recipe.lr,
                                        total_steps=recipe.epochs * len(batches))
    callbacks = [BestCheckpoint(out / "best.safetensors")] if held_out is not None else []
    trainer = Trainer(model, optimizer, schedule=schedule, log=say, callbacks=callbacks,
                      workers=job.workers)
    make_folder(out)
    checkpoint, receipt = out / "checkpoint.safetensors", out / "run.json"
    # As rank 0 sees it: it may have written a checkpoint before another rank looks.
    saved, over = group.spread(np.array([checkpoint.exists(), receipt.exists()], np.int64)).tolist()
    going_on = bool(saved) and resume == "auto"
    if saved and not over and resume is None:
        raise SettingError(f"{out} holds a run that was cut; --resume auto goes on with it, "
                           "--resume never starts again and overwrites it")
    say(f"{train.name}: {len(kept):,} images to train on, {len(test):,} to test on ({test.split})")
    say(str(summarize(model, train.image_shape)))
    if going_on:
        say(f"resuming from {checkpoint}")
    elif not group.rank:
        receipt.unlink(missing_ok=True)
    history = trainer.fit(batches, recipe.epochs, validation=None if held_out is None else
                          data.DataLoader(held_out, batch_size=256, seed=0, transform=plain),
                          checkpoint=checkpoint, save_every=save_every,
                          resume=checkpoint if going_on else None)
    judged = data.DataLoader(test, batch_size=256, seed=0, transform=plain)
    scores = trainer.evaluate(judged)
    accuracy, correct = scores["accuracy"], round(scores["accuracy"] * len(test))
    if group.rank:
        return Outcome(trainer, accuracy, correct, len(test), test.split, [], next(iter(judged)),
                       {})
    weights = save_weights(model, out / "weights.safetensors")
    written = receipt_of(job.arguments(), weights, (train, test), scores, history)
    files = [history.save(out / "history.csv"), weights,
             *(callback.path for callback in callbacks), checkpoint,
             write_receipt(written, receipt)]
    return Outcome(trainer, accuracy, correct, len(test), test.split, files, next(iter(judged)),
                   written)


def make_folder(out: Path) -> None:
    """Make the folder that results are written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise SettingError(f"--out {shown(out)} cannot be made: {words(error)}") from None
