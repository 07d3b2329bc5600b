"""A disk that is full or fails at any moment: the old file stays whole, and nothing else is left.

    python tests/reliability disk [--count 1000]

Each public writer is called while the operating system refuses its first, second, ... call: to
open, to write, to change the mode, to synchronize, to rename, to close; with ENOSPC and with EIO.
Then it may write only so many bytes, as on a full disk, for ``count`` sizes of each file.
"""

from __future__ import annotations

import errno
import io
import os
import random
import resource
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from reliability.report import Figure
from reliability.writers import WRITERS, Writer


class Failing:
    """Counts the calls of the operating system that a save makes, and fails in one of them."""

    def __init__(self, at: int, number: int) -> None:
        self.at, self.number, self.calls = at, number, 0

    def step(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise OSError(self.number, os.strerror(self.number))

    def wrapped(self, function):
        def call(*args, **settings):
            self.step()
            return function(*args, **settings)
        return call

    def fdopen(self, number, mode="r"):
        steps = self

        class File(io.FileIO):
            def write(self, part):
                steps.step()
                return super().write(part)

            def close(self):
                if not self.closed:
                    super().close()
                    if "w" in mode:
                        steps.step()
        if "w" not in mode:
            return real_fdopen(number, mode)
        return io.BufferedWriter(File(number, "wb"), 4096)


real_fdopen = os.fdopen


def attempt(writer: Writer, path: Path, at: int, number: int) -> tuple[bool, str]:
    """Whether the call of that place was reached, and what went wrong."""
    failing = Failing(at, number)
    old = path.read_bytes()
    said = ""
    with mock.patch.multiple(os, open=failing.wrapped(os.open), fsync=failing.wrapped(os.fsync),
                             replace=failing.wrapped(os.replace), fdopen=failing.fdopen,
                             fchmod=failing.wrapped(os.fchmod), stat=os.stat):
        try:
            writer.write(path)
            refused = False
        except writer.error as error:
            refused = True
            if os.strerror(number) not in str(error) or path.name not in str(error):
                said = f"says {error}"
        except Exception as error:
            return True, f"{type(error).__name__}: {error}"
    reached = failing.calls >= at
    new = path.read_bytes()
    if refused and new != old:
        said = "the old file is gone"
    if not refused and reached and new == old and failing.calls == at:
        said = "the failure was not said"
    if left := [file.name for file in path.parent.iterdir() if file != path]:
        said = f"left {left}"
    return reached, said


def measure(count: int, rng: random.Random) -> Iterator[Figure]:
    """Fail everywhere, once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        faults = Figure("failures of the disk left the old file whole, no temporary, and were told")
        for title, writer in WRITERS.items():
            path = folder / f"file{writer.suffix}"
            writer.write(path)
            for number in (errno.ENOSPC, errno.EIO):
                at, reached = 1, True
                while reached:
                    path.write_bytes(b"old")
                    reached, said = attempt(writer, path, at, number)
                    if reached:
                        faults.count(said and f"{title}, call {at}: {said}")
                    at += 1
            path.unlink()
        yield faults
        full = Figure("saves to a disk with too little room left the old file whole, and no other")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            for title, writer in WRITERS.items():
                path = folder / f"file{writer.suffix}"
                writer.write(path)
                size = path.stat().st_size
                path.write_bytes(b"old")
                for most in range(0, size, max(1, size // count)):
                    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
                    said = ""
                    try:
                        writer.write(path)
                        said = "the failure was not said"
                    except writer.error:
                        pass
                    except Exception as error:
                        said = f"{type(error).__name__}: {error}"
                    resource.setrlimit(resource.RLIMIT_FSIZE, before)
                    if path.read_bytes() != b"old" or len(list(folder.iterdir())) > 1:
                        said = "the old file is gone, or another is there"
                    full.count(said and f"{title}, {most} bytes: {said}")
                path.unlink()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        yield full
