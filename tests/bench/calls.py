"""Count the Python calls of a five-layer CNN: ``python tests/bench/calls.py``.

Prints the calls of its forward and of its backward pass, and for each file how many calls it got
and how often the way went from one file of the package to another.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import numpy as np  # noqa: E402

import tinygrad_cnn as tc  # noqa: E402
from tinygrad_cnn import nn  # noqa: E402

PACKAGE = Path(tc.__file__).parent


class Calls:
    """Python functions entered during a block, by file; hops by pairs of files."""

    def __init__(self):
        self.files, self.hops = Counter(), Counter()

    def __enter__(self):
        sys.setprofile(self._seen)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    def _seen(self, frame, event, _):
        if event == "call" and frame.f_code is not Calls.__exit__.__code__:
            files = [_short(f.f_code.co_filename) for f in (frame, frame.f_back) if f is not None]
            self.files[files[0]] += 1
            if files[-1] != files[0]:
                self.hops[files[-1], files[0]] += 1

    @property
    def total(self):
        return self.files.total()


def _short(filename):
    path = Path(filename)
    return path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else \
        "the caller" if path == Path(__file__) else "outside"


def count():
    """Calls of ``model(x)`` and of ``loss.backward()``, once everything is warm, on one thread."""
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2D(2), nn.Flatten(),
                          nn.Linear(8 * 8 * 8, 10))
    x = tc.Tensor(rng.normal(size=(8, 16, 16, 3)).astype(np.float32))
    labels = rng.integers(0, 10, 8)
    with tc.set_num_threads(1):
        for _ in range(2):
            tc.cross_entropy(model(x), labels).backward()
            model.zero_grad()
        with Calls() as forward:
            scores = model(x)
        loss = tc.cross_entropy(scores, labels)
        with Calls() as backward:
            loss.backward()
    return forward, backward


def main():
    forward, backward = count()
    print(f"forward {forward.total} calls, backward {backward.total} calls\n")
    print(f"{'file':32} {'forward':>8} {'hops in':>8} {'backward':>8} {'hops in':>8}")
    for file in sorted({*forward.files, *backward.files},
                       key=lambda f: -forward.files[f] - backward.files[f]):
        row = [n for calls in (forward, backward) for n in (
            calls.files[file], sum(k for (_, to), k in calls.hops.items() if to == file))]
        print(f"{file:32} " + " ".join(f"{n:8}" for n in row))


if __name__ == "__main__":
    main()
