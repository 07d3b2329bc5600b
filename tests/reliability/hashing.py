"""What it takes to verify 100 MB while they are read, against hashing the same file.

    python tests/reliability hashing [--count 20]

The same arrays are read from a file of ours, and from one without digests; the difference is what
verifying costs.  All alternate; the least time of the CPU of each counts.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from reliability.report import Figure
from tinygrad_cnn.io import load_weights, save_weights


def measure(count: int, rng: random.Random) -> Iterator[Figure]:
    """The ratio of times."""
    least = [float("inf")] * 3
    with tempfile.TemporaryDirectory() as name:
        values = np.random.default_rng(0).normal(size=(100, 125_000))
        own = save_weights({f"layer {i}": row for i, row in enumerate(values)}, Path(name, "own"))
        raw = own.read_bytes()
        plain = Path(name, "plain")
        plain.write_bytes(raw[:8] + raw[8:].replace(b'"sha256":"', b'"SHA256":"', 1))

        def hashed() -> None:
            with open(own, "rb") as file:
                hashlib.file_digest(file, "sha256")

        works = (hashed, lambda: load_weights(own), lambda: load_weights(plain, foreign=True))
        for _ in range(count):
            for i, work in enumerate(works):
                began = time.process_time()
                work()
                least[i] = min(least[i], time.process_time() - began)
    hashing, verified, unverified = (1000 * seconds for seconds in least)
    added = (verified - unverified) / hashing
    figure = Figure(f"reads of 100 MB: verifying adds {added:.2f} times the time of hashing "
                    f"({hashing:.0f} ms of the CPU) to {unverified:.0f} ms")
    figure.count()
    yield figure
