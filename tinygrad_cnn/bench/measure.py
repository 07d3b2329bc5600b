"""Clocks and memory: how a number in a table comes about."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Others", "Samples", "collect", "peak_bytes", "reset_peak", "resident_bytes", "summary"]

Samples = list[float]


def collect(call: Callable[[], Any], *, seconds: float, most: int = 1000) -> Samples:
    """Time single calls, after one that is not counted, until the time is up.

    Parameters
    ----------
    call : callable
        What to time; it returns when its work is done.
    seconds : float
        Stop after this time; at least one call is timed.
    most : int, default 1000
        Stop after this many.

    Returns
    -------
    list of float
        Seconds of each call.

    Examples
    --------
    >>> len(collect(lambda: None, seconds=10.0, most=3))
    3
    """
    call()
    gc.collect()
    samples: Samples = []
    end = time.perf_counter() + seconds
    while True:
        began = time.perf_counter()
        call()
        now = time.perf_counter()
        samples.append(now - began)
        if now >= end or len(samples) >= most:
            return samples


def summary(samples: Samples) -> dict[str, Any]:
    """Minimum, median and number.

    Examples
    --------
    >>> summary([3.0, 1.0, 2.0])
    {'min': 1.0, 'median': 2.0, 'count': 3}
    """
    return {"min": min(samples), "median": statistics.median(samples), "count": len(samples)}


# ---- what other processes do meanwhile -----------------------------------------------------------

class Others:
    """How much of the machine other processes took since this object was made, as Linux counts.

    Parameters
    ----------
    pid : int
        The process that is measured; it does not count.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began = self._counts()

    def _counts(self) -> tuple[float, float]:
        """Ticks of all CPUs, and those in which others ran; zeros where the system does not say."""
        machine, own = Path("/proc/stat"), Path(f"/proc/{self._pid}/stat")
        if not (machine.exists() and own.exists()):
            return 0.0, 0.0
        ticks = [int(n) for n in machine.read_text().splitlines()[0].split()[1:9]]
        mine = own.read_text().rpartition(")")[2].split()
        idle = ticks[3] + ticks[4]
        return sum(ticks), sum(ticks) - idle - int(mine[11]) - int(mine[12])

    def share(self) -> float:
        """Of the time of all CPUs: 0 if nobody else ran."""
        total, others = (now - then for now, then in zip(self._counts(), self._began, strict=True))
        return max(0.0, others / total) if total else 0.0


# ---- memory of this process ----------------------------------------------------------------------

_STATUS = Path("/proc/self/status")


def _field(name: str) -> int | None:
    """A line of the process's status, in bytes; None where the system has no such file."""
    if not _STATUS.exists():
        return None
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return None


def _maximum() -> int:
    """ru_maxrss in bytes: the largest ever, which starts from the parent's on Linux."""
    if sys.platform == "win32":
        return 0
    import resource
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def reset_peak() -> None:
    """Let the peak start again from the memory of now, where the system can."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def resident_bytes() -> int:
    """Memory held now; the peak so far where the system does not tell."""
    now = _field("VmRSS")
    return _maximum() if now is None else now


def peak_bytes() -> int:
    """The most memory held since `reset_peak`."""
    peak = _field("VmHWM")
    return _maximum() if peak is None else peak
