"""kill -9 of one rank at a random moment: all end at once, and the restart gives the same bits.

    python tests/reliability kill_ranks [--count 200] [--seed 0]

``tinygrad-cnn train --ranks 2`` saves often.  In trials of even number it may not restart: the time
from the kill to the end of the last process is bounded, its status is not 0, and the checkpoint
loads.  In the others it goes on by itself, and the weights are those of a run that was never cut.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from reliability.kill_training import WORDS, result
from reliability.report import Figure
from tinygrad_cnn.io import load_checkpoint

LIMIT = 10.0            # seconds until all have ended


def start(out: Path, *more: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "tinygrad_cnn", *WORDS, "--out", str(out), *more]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)


def ranks_of(out: Path) -> list[int]:
    """The processes that train into this folder, but for the ones that started them."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if b"mpi4py" in words and str(out).encode() in words and not words[0].endswith(b"mpiexec"):
            found.append(int(entry.name))
    return found


def measure(count: int, rng: random.Random) -> Iterator[Figure]:
    """Kill one rank of so many runs."""
    ended = Figure(f"runs of 2 ranks ended within {LIMIT:.0f} s of the kill of one, with an error "
                   "and a checkpoint that loads")
    same = Figure("runs of 2 ranks that lost one went on to the same SHA-256 and losses")
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name, "whole")
        began = time.monotonic()
        if start(whole, "--ranks", "2").wait():
            raise RuntimeError("the run failed")
        longest, expected, tried = time.monotonic() - began, result(whole), 0
        while ended.trials + same.trials < count:
            tried += 1
            out, again = Path(name, str(tried)), (ended.trials + same.trials) % 2
            child = start(out, "--ranks", "2", "--save-every", str(rng.choice([1, 3])),
                          "--max-restarts", str(again))
            checkpoint = out / "checkpoint.safetensors"
            while not checkpoint.exists() and child.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.3 * longest))
            pids = ranks_of(out)
            if len(pids) != 2 or (out / "run.json").exists():           # it was over
                child.wait()
                continue
            os.kill(rng.choice(pids), signal.SIGKILL)
            killed = time.monotonic()
            status = child.wait()
            took = time.monotonic() - killed
            if again:
                same.count("" if not status and result(out) == expected else
                           f"trial {tried}: status {status}, or other bits")
            else:
                load_checkpoint(checkpoint)
                ended.count("" if status and took < LIMIT and not ranks_of(out) else
                            f"trial {tried}: status {status} after {took:.1f} s, "
                            f"{len(ranks_of(out))} ranks left")
    yield ended
    yield same
