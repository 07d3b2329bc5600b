"""What the scripts of this folder share: a figure, limits, and processes to kill."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Figure:
    """How often something held, of how many trials; and where it did not."""

    what: str
    good: int = 0
    trials: int = 0
    complaints: list[str] = field(default_factory=list)

    def count(self, complaint: str = "") -> None:
        self.trials += 1
        self.good += not complaint
        if complaint and len(self.complaints) < 20:
            self.complaints.append(complaint)

    def __str__(self) -> str:
        return "\n  ".join([f"{self.good:,} of {self.trials:,} {self.what}", *self.complaints])


class SlowError(Exception):
    """A call took longer than it may."""


@contextmanager
def limits(seconds: int, more_memory: int) -> Iterator[None]:
    """In this process no call takes longer, and so many bytes more can be asked for."""
    def late(number: int, frame: object) -> None:
        raise SlowError(f"more than {seconds} s")
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + more_memory, before[1]))
    handler = signal.signal(signal.SIGALRM, late)
    try:
        signal.alarm(seconds)
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def in_child(work: Callable[[], None]) -> int:
    """Do the work in a fork of this process; its process id."""
    if child := os.fork():
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)
