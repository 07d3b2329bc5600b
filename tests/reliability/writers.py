"""Every public call that writes a file, for the scripts that break the disk and the names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_cnn as tc
from tinygrad_cnn import nn, optim, viz
from tinygrad_cnn.cli.receipt import read_receipt, write_receipt
from tinygrad_cnn.errors import CheckpointError, VizError
from tinygrad_cnn.files import write_atomically
from tinygrad_cnn.io import load_checkpoint, load_weights, save_checkpoint, save_weights
from tinygrad_cnn.train import BestCheckpoint, History, Trainer

RECEIPT = {"format": "tinygrad_cnn run 1", "arguments": ["--data=digits"], "data": ["a", "b"],
           "machine": {"threads": 2}, "test": {"loss": 0.5, "accuracy": 0.5}, "loss": [0.5],
           "weights": "ab"}


@dataclass(frozen=True)
class Writer:
    """A call, the suffix of its files, the error that it documents, and who reads it again."""

    write: Callable[[Path], Any]
    suffix: str
    error: type[Exception]
    read: Callable[[Path], Any]


@cache
def figure() -> viz.Figure:
    return (tc.Tensor([1.0], requires_grad=True, name="x") * 2).sum().graph()


@cache
def plot() -> Any:
    return viz.plots.learning_curves(History([{"epoch": i, "loss": 1 / i} for i in (1, 2)]))


@cache
def trainer() -> Trainer:
    model = nn.Linear(4, 2)
    made = Trainer(model, optim.Adam(model.parameters()))
    made.fit([(np.ones((2, 4), np.float32), np.array([0, 1]))], 1)
    return made


def best(path: Path) -> None:
    BestCheckpoint(path, "loss", mode="min").on_epoch_end(trainer(), {"loss": 0.5, "epoch": 1})


def raw(path: Path) -> None:
    with write_atomically(path) as file:
        for _ in range(3):
            file.write(bytes(5000))


STATE = {"w": np.arange(4000.0), "b": np.ones(3, np.float32)}
WRITERS = {
    "save_weights": Writer(lambda path: save_weights(STATE, path), ".st", CheckpointError,
                           load_weights),
    "save_checkpoint": Writer(lambda path: save_checkpoint(path, state=STATE, epoch=3), ".st",
                              CheckpointError, load_checkpoint),
    "Trainer.save": Writer(lambda path: trainer().save(path), ".st", CheckpointError,
                           load_checkpoint),
    "BestCheckpoint": Writer(best, ".st", CheckpointError, load_weights),
    "History.save": Writer(lambda path: trainer().history.save(path), ".csv", CheckpointError,
                           History.load),
    "write_receipt": Writer(lambda path: write_receipt(RECEIPT, path), ".json", CheckpointError,
                            read_receipt),
    "write_atomically": Writer(raw, ".bin", CheckpointError, Path.read_bytes),
    **{f"Figure.save {suffix}": Writer(lambda path: figure().save(path), suffix, VizError,
                                       viz.load if suffix in (".json", ".svg", ".html")
                                       else Path.read_bytes)
       for suffix in (".svg", ".html", ".json", ".dot", ".mmd", ".txt", ".tex")},
    "Figure.animate": Writer(lambda path: figure().animate(path), ".svg", VizError,
                             Path.read_bytes),
    "assert_graph_unchanged": Writer(
        lambda path: viz.assert_graph_unchanged(figure(), path, update=True), ".txt", VizError,
        lambda path: viz.assert_graph_unchanged(figure(), path)),
}
if find_spec("matplotlib"):
    WRITERS |= {f"plots {suffix}": Writer(lambda path: plot().savefig(path), suffix, VizError,
                                          Path.read_bytes) for suffix in (".svg", ".png")}
