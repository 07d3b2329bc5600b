"""The process that one library runs in: one request as JSON in, one answer as JSON out.

The request has ``name``, ``case``, ``batch``, ``threads`` and ``seconds``.  A case is the name of a
net, or "chain".  With ``seconds`` 0 the process says only what it computes.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from bench.libraries import open_library
from bench.nets import NETS, problem

LINKS = 1000                            # of the chain; each is a product and a sum


def answer(request):
    """Versions, what was computed, seconds of single calls, and bytes of three steps."""
    library = open_library(request["name"], request["threads"])
    found = {"versions": library.versions(), "values": {}, "seconds": {}}
    if request["case"] == "chain":
        if not hasattr(library, "chain"):
            raise NotImplementedError("has no chain here")
        calls = {"chain": (lambda: None, lambda: library.chain(LINKS), 1)}
    else:
        library.load(problem(NETS[request["case"]], request["batch"]))
        calls = {"inference": (library.eval, library.infer, 1),
                 "step": (library.train, library.step, 3)}
    for timer, (prepare, call, count) in calls.items():
        prepare()
        before = reset_peak()
        found["values"][timer] = [size(call()) for _ in range(count)]
        found[f"{timer}_bytes"] = status("VmHWM") - before
        if request["seconds"]:
            found["seconds"][timer] = collect(call, request["seconds"])
    return found


def size(value):
    """A number for the whole value, the same in every memory order."""
    return float(np.linalg.norm(np.asarray(value, np.float64).ravel())) if np.ndim(value) else \
        float(value)


def collect(call, seconds, most=1000):
    """Seconds of single calls, after one that is not counted; at least one."""
    call()
    gc.collect()
    samples = []
    end = time.perf_counter() + seconds
    while not samples or (time.perf_counter() < end and len(samples) < most):
        began = time.perf_counter()
        call()
        samples.append(time.perf_counter() - began)
    return samples


def status(field):
    """A line of Linux's status of this process, in bytes; 0 elsewhere."""
    file = Path("/proc/self/status")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def reset_peak():
    """Let the peak of memory start from the memory of now, which is returned."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def main(words):
    request = json.loads(words[0])
    # Libraries print what they like: the answer has the file of the output to itself.
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:request["threads"]]))
    try:
        found = answer(request)
    except (ImportError, NotImplementedError) as error:
        found = {"absent": str(error), "install": isinstance(error, ImportError)}
    with output:
        json.dump(found, output)


if __name__ == "__main__":
    main(sys.argv[1:])
