"""``run.json``: what a run was made of and ended with, so that it can be repeated and compared."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

from tinygrad_cnn.data import Dataset
from tinygrad_cnn.errors import CheckpointError
from tinygrad_cnn.files import open_file, parse_json, read_whole, shown, write_atomically
from tinygrad_cnn.kernels.autotune import machine
from tinygrad_cnn.kernels.compiled import get_compiled
from tinygrad_cnn.kernels.parallel import get_num_threads
from tinygrad_cnn.train import History
from tinygrad_cnn.types import Settings

__all__ = ["TOLERANCE", "compared", "read_receipt", "receipt_of", "sha256_of", "write_receipt"]

# How far the figures of a run may be from those on another machine, or with other threads or
# kernels, whose sums round otherwise: docs/reliability.md has what was measured.
TOLERANCE = {"accuracy": 0.02, "loss": 0.05}

_FORMAT = "tinygrad_cnn run 1"
_LARGEST = 1 << 22


def receipt_of(arguments: list[str], weights: Path, sets: tuple[Dataset, Dataset],
               scores: dict[str, float], history: History) -> Settings:
    """All that the figures of a run depend on, and the figures."""
    return {"format": _FORMAT, "arguments": arguments,
            "data": [part.digest() for part in sets],
            "machine": {**machine(), "python": platform.python_version(),
                        "system": platform.system(), "threads": get_num_threads(),
                        "kernels": "compiled" if get_compiled() else "numpy"},
            "revision": _revision(), "test": scores, "loss": history["loss"],
            "weights": sha256_of(weights)}


def write_receipt(receipt: Settings, path: Path) -> Path:
    """Write it as JSON."""
    with write_atomically(path) as file:
        file.write(json.dumps(receipt, indent=1).encode() + b"\n")
    return path


def read_receipt(path: Path) -> Settings:
    """Read what `write_receipt` wrote; anything else is a `CheckpointError`."""
    raw = read_whole(path, CheckpointError, limit=_LARGEST)
    try:
        found: Any = parse_json(raw, 3 * _LARGEST)
        whole = (found["format"] == _FORMAT
                 and all(type(word) is str for word in [*found["arguments"], *found["data"]])
                 and type(found["machine"]["threads"]) is int and found["machine"]["threads"] > 0
                 and all(type(x) is float for x in [*found["loss"], *found["test"].values()])
                 and found["test"].keys() == TOLERANCE.keys()
                 and type(found["weights"]) is str and len(found["data"]) == 2)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{shown(path)} is no receipt of a run: {error}") from None
    if not whole:
        raise CheckpointError(f"{shown(path)} is no receipt of a run that this version reads")
    return found


def sha256_of(path: Path) -> str:
    """What ``sha256sum`` says of a file."""
    with open_file(path, CheckpointError) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compared(old: Settings, new: Settings) -> tuple[bool, list[str]]:
    """Whether a run has been repeated, and how: to the bit, or by its figures."""
    lines = [f"{name}: {a!a:.200} then, {b!a:.200} now" for name, a, b in (
        ("data", old["data"], new["data"]),
        *((key, old["machine"].get(key), value) for key, value in new["machine"].items()))
        if a != b]
    if old["data"] != new["data"]:
        return False, [*lines, "the data are others"]
    if old["weights"] == new["weights"] and old["loss"] == new["loss"]:
        return True, [*lines, f"the same to the bit: weights {new['weights']}"]
    if not lines:
        first = next((i for i, (a, b) in enumerate(zip(old["loss"], new["loss"], strict=False))
                      if a != b), None)
        return False, [f"weights {old['weights']!a:.70} then, {new['weights']} now, on the same "
                       "machine",
                       "the losses are the same" if first is None else
                       f"the losses differ from epoch {first + 1} on"]
    good = True
    for name, most in TOLERANCE.items():
        a, b = old["test"][name], new["test"][name]
        within = abs(a - b) <= (most * abs(a) if name == "loss" else most)
        good &= within
        lines.append(f"test {name}: {a:.4f} then, {b:.4f} now, "
                     f"{'within' if within else 'beyond'} {most:g}"
                     f"{' of it' * (name == 'loss')}")
    return good, lines


def _revision() -> str | None:
    """The revision of git that this package is, if it lies in a repository."""
    try:
        done = subprocess.run(["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
                              capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
