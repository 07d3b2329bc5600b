"""``python tests/bench/parallel.py``: what further processes are worth, and what they tell another.

Each line is a program of its own, in turns: one process of one thread, forked workers of one thread
each, ranks of MPI, and PyTorch: one process with all threads, and DistributedDataParallel (gloo).
All train the same net on the same batch, of which each rank has a part.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import numpy as np  # noqa: E402

from bench.nets import NETS, problem  # noqa: E402
from bench.race import THREADS  # noqa: E402

# name -> processes (0 stands for all CPUs), threads of each, how they are started
WAYS = {
    "one": (1, 1, "fork"), "threads": (1, 0, "fork"), "workers": (0, 1, "fork"),
    "ranks": (0, 1, "mpi"),
    "torch": (1, 0, "torch"), "torch channels_last": (1, 0, "torch"), "torch DDP": (0, 1, "ddp"),
}


def steps(step, agree, seconds):
    """Seconds of a step, the least of several runs of five; all ranks stop together."""
    best, end = math.inf, None
    for _ in range(3):
        step()
    end = time.perf_counter() + seconds
    while agree(time.perf_counter() < end):
        began = time.perf_counter()
        for _ in range(5):
            step()
        best = min(best, (time.perf_counter() - began) / 5)
    return best


def ours(request, group):
    """A step in seconds, and the seconds of it in sums over the ranks."""
    import tinygrad_cnn as tc
    from bench.libraries.ours import Layers
    from tinygrad_cnn import parallel
    tc.set_compiled(request["fast"])
    library = Layers()
    given = problem(NETS[request["net"]])
    library.load(given)
    images, labels = parallel.share((given.images, given.labels), group)
    library.images, library.labels = tc.Tensor(images), labels
    sums, spent = group.add_up, [0.0, 0]

    def timed(array):
        began = time.perf_counter()
        try:
            return sums(array)
        finally:
            spent[0] += time.perf_counter() - began
            spent[1] += 1
    library.logits = parallel.DataParallel(library.model, group, check_every=0)
    group.add_up = timed

    def agree(going_on):
        return bool(group.spread(np.array(going_on, np.int64)))
    library.train()
    counted = [0]

    def step():
        counted[0] += 1
        library.step()
    best = steps(step, agree, request["seconds"])
    return {"step": best, "sums": spent[0] / counted[0], "calls": spent[1] / counted[0],
            "batch": len(given.images), "parameters": sum(w.array.size for w in given.weights)}


def torch_step(request, rank=0, ranks=1):
    import torch
    import torch.distributed

    from bench.libraries.torch import Torch
    torch.set_num_threads(request["threads"])
    library = Torch("channels_last" if "channels_last" in request["way"] else "")
    given = problem(NETS[request["net"]])
    n = len(given.images)
    part = slice(n * rank // ranks, n * (rank + 1) // ranks)
    library.load(given._replace(images=given.images[part], labels=given.labels[part]))
    if ranks > 1:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=ranks)
        library.logits = torch.nn.parallel.DistributedDataParallel(library.model)

    def agree(going_on):
        flag = torch.tensor(int(going_on))
        if ranks > 1:
            torch.distributed.broadcast(flag, 0)
        return bool(flag)
    library.train()
    return {"step": steps(library.step, agree, request["seconds"]), "batch": n}


def program(request):
    """What one rank does; rank 0 prints what it found."""
    rank = int(os.environ.get("BENCH_RANK", 0))
    if request["how"] in ("torch", "ddp"):
        found = torch_step(request, rank, request["processes"])
    else:
        from tinygrad_cnn import parallel, set_num_threads
        count = request["processes"] if request["how"] == "fork" else 1
        set_num_threads(max(request["threads"], count))         # which the workers share
        found = parallel.run(count, lambda group: ours(request, group))
        rank = parallel.world().rank
    if not rank:
        print(json.dumps(found))


def measured(way, net, fast, seconds, cpus):
    """One turn of one way."""
    processes, threads, how = WAYS[way]
    request = {"way": way, "net": net, "fast": fast, "seconds": seconds, "how": how,
               "processes": processes or cpus, "threads": threads or cpus}
    words = [sys.executable, __file__, "--request", json.dumps(request)]
    environment = {**os.environ, **dict.fromkeys(THREADS, str(request["threads"]))}
    if how == "mpi":
        words[:1] = [str(Path(sys.executable).with_name("mpiexec")), "-n",
                     str(request["processes"]), sys.executable, "-m", "mpi4py"]
    ranks = range(request["processes"] if how == "ddp" else 1)
    started = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={
        **environment, "BENCH_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29511"}) for rank in ranks]
    outputs = [one.communicate(timeout=600)[0] for one in started]
    if any(one.returncode for one in started):
        raise SystemExit(f"{way}, {net}: a process failed")
    return json.loads(outputs[0].splitlines()[-1])


def main(words=None):
    made = argparse.ArgumentParser(prog="python tests/bench/parallel.py", description=__doc__)
    made.add_argument("--net", action="append", choices=NETS)
    made.add_argument("--way", action="append", choices=WAYS)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--seconds", type=float, default=2.0)
    made.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    made.add_argument("--fast", action="append_const", const=True, help="compiled kernels alone")
    made.add_argument("--request", type=json.loads, help=argparse.SUPPRESS)
    given = made.parse_args(words)
    if given.request:
        program(given.request)
        return 0
    for net in given.net or NETS:
        best = {}
        for _ in range(given.rounds):
            for way in given.way or WAYS:
                for fast in given.fast or ((True, False) if "torch" not in way else (False,)):
                    found = measured(way, net, fast, given.seconds, given.processes)
                    name = f"{way} fast" if fast else way
                    if name not in best or found["step"] < best[name]["step"]:
                        best[name] = found
        print(f"\n| {net} | step, ms | images/s | sums, ms a step |\n|---|---|---|---|")
        for name, found in best.items():
            print(f"| {name} | {1e3 * found['step']:.2f} | {found['batch'] / found['step']:,.0f} | "
                  + (f"{1e3 * found['sums']:.2f} in {found['calls']:.0f} calls |"
                     if found.get("sums") else "|"), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
