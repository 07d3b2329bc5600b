"""kill -9 at random moments of training: the run that is resumed ends with the same bits.

    python tests/reliability kill_training [--count 50] [--seed 0]

``tinygrad-cnn train`` runs in a process of its own, is killed, and is called again with ``--resume
auto``; the SHA-256 of the weights and the log of losses are compared with those of a run that was
never cut.  Every second run saves after each step, so that it is often killed while it saves.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from reliability.report import Figure
from tinygrad_cnn.io import load_checkpoint
from tinygrad_cnn.train import History

WORDS = ["train", "--data", "digits", "--limit", "320", "--validation", "64", "--batch-size", "16",
         "--epochs", "4"]
ROOT = Path(__file__).parents[2]


def start(out: Path, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tinygrad_cnn", *WORDS, "--out", str(out), *more],
        stdout=subprocess.DEVNULL, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


def finish(out: Path, *more: str) -> None:
    if start(out, *more).wait():
        raise RuntimeError("the run failed")


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
        began = time.monotonic()
        finish(whole)
        longest = 1.2 * (time.monotonic() - began)
        expected = result(whole)
        while same.trials < count:
            out = Path(name, str(same.trials))
            every = ["--save-every", "1" if same.trials % 2 else "3"]
            child = start(out, *every)
            checkpoint = out / "checkpoint.safetensors"
            while not checkpoint.exists() and child.poll() is None:     # it still imports
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.4 * longest))
            child.kill()
            child.wait()
            if (out / "run.json").exists():                             # it was over
                out.rename(out.with_name(f"over {rng.random()}"))
                continue
            amid += bool(load_checkpoint(checkpoint)["place"]["batch"])
            saving += any(file.suffix == ".tmp" for file in out.iterdir())
            finish(out, "--resume", "auto", *every)
            same.count("" if result(out) == expected else f"trial {same.trials}: other bits")
    same.what += f" ({amid} from the middle of an epoch, {saving} killed while saving)"
    yield same
