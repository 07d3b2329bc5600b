"""The process that one library runs in: reads requests as lines of JSON, answers likewise.

``python -m tinygrad_cnn.bench.worker NAME THREADS``.  The requests: ``load`` a case, ``call`` one
of its timers and tell what it returned, once also how long it took (``clocked``), ``time`` it,
tell the ``memory`` that it needs.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

from tinygrad_cnn.bench.cases import case_from
from tinygrad_cnn.bench.frameworks import Framework, open_framework
from tinygrad_cnn.bench.frameworks.base import Timers
from tinygrad_cnn.bench.measure import Samples, collect, peak_bytes, reset_peak, resident_bytes

__all__ = ["Server", "main", "serve"]


class Server:
    """Holds the library and the timers of the present case."""

    def __init__(self, framework: Framework) -> None:
        self.framework = framework
        self.timers: Timers = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What one request gives."""
        work: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "load": self._load, "call": self._call, "time": self._time, "memory": self._memory,
            "clocked": self._clocked}
        return work[request["do"]](request)

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        self.timers = {}
        self.timers = self.framework.timers(case_from(request["case"]))
        return {"timers": list(self.timers)}

    def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        timer = self.timers[request["timer"]]
        return {"results": [_digest(timer()) for _ in range(request["count"])]}

    def _time(self, request: dict[str, Any]) -> dict[str, Any]:
        samples: Samples = collect(self.timers[request["timer"]], seconds=request["seconds"],
                                   most=request["most"])
        return {"seconds": samples}

    def _clocked(self, request: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        result = _digest(self.timers[request["timer"]]())
        return {"result": result, "seconds": time.perf_counter() - began}

    def _memory(self, request: dict[str, Any]) -> dict[str, Any]:
        timer = self.timers[request["timer"]]
        gc.collect()
        reset_peak()
        before = resident_bytes()
        for _ in range(request["count"]):
            timer()
        peak = peak_bytes()
        return {"step": max(0, peak - before), "process": peak}


def _digest(value: Any) -> float:
    """A number for the whole value, the same in every memory order."""
    array = np.asarray(value, np.float64)
    return float(array) if not array.ndim else float(np.sqrt(np.sum(array * array)))


def _use_cpus(threads: int) -> None:
    """Keep this process to that many CPUs, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))


def serve(requests: TextIO, answers: TextIO, server: Server) -> None:
    """Answer until the requests end."""
    for line in requests:
        try:
            reply = server.answer(json.loads(line))
        except NotImplementedError as error:
            reply = {"absent": str(error)}
        except Exception as error:     # told to the other end, which goes on without
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


def main(argv: list[str]) -> int:
    """Open the library named first, with the number of threads named second, and serve."""
    name, threads = argv[0], int(argv[1])
    # Libraries print what they like: the answers have a file of their own.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with contextlib.redirect_stdout(sys.stderr):
        os.dup2(2, 1)
        _use_cpus(threads)
        try:
            framework = open_framework(name, threads)
            hello: dict[str, Any] = {"versions": framework.versions()}
        except ImportError as error:
            hello = {"absent": f"{error}"}
        channel.write(json.dumps(hello) + "\n")
        channel.flush()
        if "absent" in hello:
            return 0
        serve(sys.stdin, channel, Server(framework))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
