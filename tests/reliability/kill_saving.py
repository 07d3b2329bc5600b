"""kill -9 at random moments of saving: the file loads, and the next save leaves no temporary.

    python tests/reliability kill_saving [--count 1000] [--seed 0]
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from reliability.report import Figure, in_child
from tinygrad_cnn.errors import TinygradCnnError
from tinygrad_cnn.io import load_checkpoint, save_checkpoint


def save(path: Path, value: float) -> None:
    save_checkpoint(path, weights=np.full(40_000, value), epoch=value)


def measure(count: int, rng: random.Random) -> Iterator[Figure]:
    """Let a process save again and again, and kill it."""
    loads = Figure("kills while saving left a file that loads, whole")
    clean = Figure("saves after a kill left no temporary")
    halves = 0
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(name, "run.safetensors")
        save(path, -1.0)

        def work() -> None:
            value = 0.0
            while True:
                save(path, value)
                value += 1

        for _ in range(count):
            child = in_child(work)
            time.sleep(rng.uniform(0.001, 0.03))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            halves += len(list(folder.iterdir())) > 1
            try:
                found = load_checkpoint(path)
                whole = np.array_equal(found["weights"], np.full(40_000, found["epoch"]))
                loads.count("" if whole else "mixed values")
            except TinygradCnnError as error:
                loads.count(str(error))
            save(path, -1.0)
            left = [file.name for file in folder.iterdir() if file != path]
            clean.count(f"left {left}" if left else "")
    loads.what += f" ({halves:,} kills came while a temporary was there)"
    yield loads
    yield clean
