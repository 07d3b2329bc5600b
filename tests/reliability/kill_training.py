"""kill -9 at random moments of training: the run that is resumed ends with the same bits.

    python tests/reliability kill_training [--count 50] [--seed 0]

``tinygrad-cnn train`` runs in a fork of this process, is killed, and is called again with
``--resume auto``; the SHA-256 of the weights and the log of losses are compared with those of a run
that was never cut.  Every second run saves after each step, so that it is often killed while it
saves.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

from reliability.report import Figure, in_child
from tinygrad_cnn import cli, set_compiled
from tinygrad_cnn.io import load_checkpoint
from tinygrad_cnn.train import History

WORDS = ["train", "--data", "digits", "--limit", "320", "--validation", "64", "--batch-size", "16",
         "--epochs", "4"]
STEPS = 4 * (320 - 64) // 16


def start(out: Path, *more: str) -> int:
    def work() -> None:
        with open(os.devnull, "w") as nothing, redirect_stdout(nothing), set_compiled(False):
            if cli.main([*WORDS, "--out", str(out), *more]):
                raise RuntimeError("the run failed")
    return in_child(work)


def finish(out: Path, *more: str) -> None:
    if os.waitpid(start(out, *more), 0)[1]:
        raise RuntimeError("the run failed")


def saves(checkpoint: Path) -> int:
    """Something that changes with each save."""
    try:
        return checkpoint.stat().st_ino
    except FileNotFoundError:
        return 0


def result(out: Path) -> tuple[str, list[object]]:
    rows = History.load(out / "history.csv").rows
    return (json.loads((out / "run.json").read_text())["weights"],
            [{k: v for k, v in row.items() if k != "seconds"} for row in rows])


def measure(count: int, rng: random.Random) -> Iterator[Figure]:
    """Cut runs until so many were cut while they trained."""
    same = Figure("runs that were killed and resumed ended with the same SHA-256 and losses")
    amid, saving = 0, 0
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name, "whole")
        finish(whole)
        expected = result(whole)
        while same.trials < count:
            out = Path(name, str(same.trials))
            every = 1 if same.trials % 2 else 3
            checkpoint = out / "checkpoint.safetensors"
            child, last = start(out, "--save-every", str(every)), 0
            left = rng.randrange(1, STEPS // every)             # saves to wait for
            while left and not os.waitpid(child, os.WNOHANG)[0]:
                if (now := saves(checkpoint)) != last:
                    left, last = left - 1, now
                time.sleep(0.0005)
            if not left:
                time.sleep(rng.uniform(0, 0.03))
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            if (out / "run.json").exists():                             # it was over
                shutil.rmtree(out)
                continue
            amid += bool(load_checkpoint(checkpoint)["place"]["batch"])
            saving += any(file.suffix == ".tmp" for file in out.iterdir())
            finish(out, "--resume", "auto", "--save-every", str(every))
            same.count("" if result(out) == expected else f"trial {same.trials}: other bits")
    same.what += f" ({amid} from the middle of an epoch, {saving} killed while saving)"
    yield same
