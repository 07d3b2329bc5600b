"""Hostile command lines in hostile environments, and Ctrl-C at any moment: no traceback.

    python tests/reliability command_lines [--count 200] [--seed 0]

Every command line runs in every environment, and ends with a documented status and no traceback.
Then ``count`` runs of ``train`` are interrupted at random moments, from the import of the package
to their end.
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

from reliability.report import Figure
from tinygrad_cnn.io import load_checkpoint

ROOT = Path(__file__).parents[2]
STATUS = (0, 1, 2, 130, 141)
SHAPE = "999999999x999999999x3"

# @ is a folder with a few odd files.
LINES = [
    [], ["--version"], ["fly"], ["train"], ["summary", "--threads", "0"],
    ["summary", "--image-shape", SHAPE],
    ["summary", "--image-shape", "1x1x1", "--model", "resnet20"],
    ["summary", "--classes", "99999999999"], ["summary", "--threads", "99999"],
    ["graph"], ["graph", "--classes", "9" * 30], ["graph", "--out", "@/no/x.svg"],
    ["graph", "--out", "@/x.bmp"], ["graph", "--engine", "nope"], ["graph", "--weights", "@/zip"],
    ["graph", "--model", "@/broken.py:Net"], ["graph", "--model", "@/dies.py:Net"],
    ["graph", "--model", ":"], ["graph", "--model", "os:system"], ["graph", "--level", "\udcff"],
    ["graph", "--limit", "-1"], ["graph", "--dpi", "0", "--out", "@/x.png"],
    ["graph", "--seed", "-1"], ["profile", "--model", "a:b"], ["profile", "--batch-size", "9" * 25],
    ["profile", "--steps", "1", "--model", "lenet", "--image-shape", "1x1x1"],
    ["data"], ["data", "\udcff\n"], ["data", "digits", "--root", "/dev/null"],
    ["data", "mnist", "--root", "@/pipe"],
    ["train", "--data", "/dev/null"], ["train", "--data", "@/pipe"], ["train", "--data", ""],
    ["train", "--data", "digits", "--out", "/proc/x"], ["train", "--data", "digits", "--lr", "nan"],
    ["train", "--data", "digits", "--lr", "1e300", "--limit", "40", "--out", "@/run"],
    ["train", "--data", "digits", "--validation", "-1"],
    ["train", "--data", "digits", "--out", "@/zip"],
    ["train", "--data", "digits", "--seed", "9" * 40, "--limit", "40", "--epochs", "1",
     "--out", "@/seed"],
    ["train", "--data", "digits", "--resume", "auto", "--out", "@/damaged", "--limit", "40"],
    ["eval", "--data", "digits", "--weights", "@/pipe"],
    ["eval", "--data", "digits", "--weights", "@/zip"], ["verify", "@"], ["verify", "/dev/null"],
    ["verify", "@/lying"], ["gradtest", "nope"], ["gradtest", "relu", "--json", "/proc/x"],
    ["gradtest", "relu", "--import", "nowhere"], ["gradtest", "relu", "--import", ""],
    ["gradtest", "relu", "--seeds", "0"],
]
ENVIRONMENTS: dict[str, tuple[str, dict[str, str | None]]] = {
    "plain": ("{} > out", {}),
    "ASCII": ("{} > out", {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}),
    "cp1252": ("{} > out", {"PYTHONIOENCODING": "cp1252"}),
    "a pipe that closes": ("{} | head -c1 > out", {}),
    "a full disk": ("{} > /dev/full", {}),
    "nothing": ("{} >&- 2>err <&-", {"HOME": None, "PATH": "/usr/bin:/bin", "COLUMNS": "x",
                                     "TERM": "?", "TMPDIR": "/nonexistent",
                                     "NUMBA_CACHE_DIR": "/proc/x",
                                     "TINYGRAD_CNN_DATA": "\udcff/x"}),
    "a read-only folder": ("cd /proc && {} > /dev/null", {}),
}


def odd_files(folder: Path) -> None:
    (folder / "zip").write_bytes(b"PK\3\4" + bytes(100))
    os.mkfifo(folder / "pipe")
    (folder / "broken.py").write_text("import nowhere_to_be_found\n")
    (folder / "dies.py").write_text("def Net():\n    raise KeyError('x')\n")
    for name, file in (("damaged", "checkpoint.safetensors"), ("lying", "run.json")):
        (folder / name).mkdir()
        (folder / name / file).write_bytes(b'{"format": "tinygrad_cnn run 1"}')


def command(line: list[str], folder: Path) -> str:
    words = [sys.executable, "-m", "tinygrad_cnn", *line]
    return " ".join("'" + word.replace("@", str(folder)) + "'" for word in words)


def environment(more: dict[str, str | None]) -> dict[str, str]:
    own: dict[str, str | None] = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    return {name: value for name, value in own.items() if value is not None}


def lines(chosen: list[list[str]]) -> Figure:
    """Each line in each environment."""
    figure = Figure(f"command lines in {len(ENVIRONMENTS)} environments ended without a traceback, "
                    "with a documented status")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        odd_files(folder)
        for line in chosen:
            for title, (shell, more) in ENVIRONMENTS.items():
                text = "set -o pipefail; " + shell.replace("{}", command(line, folder))
                try:
                    done = subprocess.run(
                        ["bash", "-c", text.encode("utf-8", "surrogateescape")], cwd=folder,
                        stderr=subprocess.PIPE, env=environment(more), timeout=300)
                except subprocess.TimeoutExpired:
                    figure.count(f"{line}, {title}: hangs")
                    continue
                said = done.stderr + ((folder / "err").read_bytes() if "err" in shell else b"")
                bad = b"Traceback" in said or b"Exception ignored" in said
                figure.count(f"{line}, {title}: status {done.returncode}, {said[-300:]!r}"
                             if bad or done.returncode not in STATUS else "")
    return figure


def _interruptible() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupts(count: int, rng: random.Random) -> Figure:
    """Ctrl-C at random moments of a run; its last checkpoint stays."""
    figure = Figure("interrupts of train ended it with status 130, one line, a whole checkpoint")
    late = 0
    with tempfile.TemporaryDirectory() as name:
        words = [sys.executable, "-m", "tinygrad_cnn", "train", "--data", "digits", "--limit",
                 "200", "--epochs", "3", "--save-every", "1", "--resume", "never", "--out"]
        ready = "import sys; sys.stdout.write('x')"
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", ready], stdout=subprocess.DEVNULL, check=True)
        start = time.monotonic() - began                # of Python itself, before anything of ours
        began = time.monotonic()
        subprocess.run([*words, f"{name}/0"], stdout=subprocess.DEVNULL, check=True,
                       env=environment({}), cwd=ROOT)
        whole = time.monotonic() - began
        while figure.trials < count:
            out = Path(name, "run")
            # A job in the background of a shell ignores the signal, and so would its children.
            child = subprocess.Popen([*words, str(out)], stdout=subprocess.DEVNULL, cwd=ROOT,
                                     stderr=subprocess.PIPE, env=environment({}),
                                     preexec_fn=_interruptible)
            time.sleep(2 * start + rng.uniform(0, whole) * rng.choice((0.2, 1)))
            child.send_signal(signal.SIGINT)
            said = child.communicate()[1]
            if child.returncode == 0:                   # it was over
                late += 1
                if late > 10 * count:
                    raise RuntimeError("runs are over before the interrupt comes")
                continue
            # Outside of all Python code, as it starts and ends, the signal itself ends it.
            sound = (child.returncode, said) in ((130, b"tinygrad-cnn: interrupted\n"),
                                                 (-signal.SIGINT, b""))
            wrong = "" if sound else f"status {child.returncode}: {said[-300:]!r}"
            checkpoint = out / "checkpoint.safetensors"
            if checkpoint.exists():
                load_checkpoint(checkpoint)
            figure.count(wrong)
    return figure


def measure(count: int, rng: random.Random) -> Iterator[Figure]:
    """All lines, or a few for a small count; then interrupts."""
    yield lines(LINES if count >= 100 else rng.sample(LINES, max(1, count // 3)))
    yield interrupts(count, rng)
