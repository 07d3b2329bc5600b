"""``python tests/bench --against torch``: what is measured, against whom."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]          # the package of this checkout

from bench import layers  # noqa: E402
from bench.libraries import LIBRARIES  # noqa: E402
from bench.nets import NETS, problem  # noqa: E402
from bench.race import BenchError, DisagreementError, Plan, race  # noqa: E402
from bench.report import markdown, milliseconds  # noqa: E402


def parser():
    made = argparse.ArgumentParser(
        prog="python tests/bench", epilog="`python tests/bench layers` times single convolutions.",
        description="Time nets side by side with other libraries: each "
        "in a process of its own, in turns, and only if they compute the same.")
    made.add_argument("--against", default="torch", metavar="LIBRARIES",
                      help=f"commas between them: {', '.join(LIBRARIES)}; '' for none")
    made.add_argument("--net", action="append", metavar="NAME",
                      help=f"one of {', '.join(NETS)}; may be repeated; default all")
    made.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0))
                      if hasattr(os, "sched_getaffinity") else os.cpu_count(),
                      help="CPUs for each library; default all that may be used")
    made.add_argument("--rounds", type=int, default=8, help="turns of each library; default 8")
    made.add_argument("--seconds", type=float, default=0.5, help="length of a turn; default 0.5")
    made.add_argument("--batch", type=int, help="another batch size than the nets' own")
    made.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True,
                      help="our compiled kernels beside pure NumPy, where they are installed")
    made.add_argument("--functions", action="store_true",
                      help="our nets in plain functions beside those in layers")
    made.add_argument("--checkout", action="append", default=[], metavar="FOLDER",
                      help="also time the version of this package in that folder")
    made.add_argument("--python", action="append", default=[], metavar="LIBRARY=PATH",
                      help="the interpreter that has this library, if it lives elsewhere")
    made.add_argument("--profile", action="store_true",
                      help="where the time of a step of our nets goes, op by op, instead")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to a file")
    return made


def plan_of(given):
    pythons = dict(pair.partition("=")[::2] for pair in given.python)
    return Plan(tuple(given.net or NETS), tuple(filter(None, given.against.split(","))),
                given.threads, given.rounds, given.seconds, given.batch, given.compiled,
                given.functions, pythons, tuple(given.checkout))


def measure(plan, tell=lambda line: None, race=race):
    """Nets and the engine; a net on which libraries disagree is refused."""
    found = {"machine": machine(plan.threads), "versions": {}, "nets": {}, "skipped": {}}
    for net in plan.nets:
        try:
            row = race(net, plan, found["skipped"])
        except DisagreementError as error:
            row = {"refused": str(error)}
            tell(str(error))
        found["nets"][net] = row
        found["versions"] |= row.pop("versions", {})
        for timer, times in row.get("seconds", {}).items():
            tell(f"{net} {timer}: " + ", ".join(f"{n} {milliseconds(s)} ms"
                                                for n, s in times.items()))
    found["chain"] = race("chain", plan, found["skipped"])["seconds"].get("chain")
    return found


def machine(threads):
    """What the figures were measured on."""
    cpus = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    model = next((line.split(":")[1].strip() for line in cpus if line.startswith("model name")),
                 platform.processor())
    return {"cpu": model, "cpus": os.cpu_count(), "threads": threads, "system": platform.platform(),
            "python": platform.python_version(), "load": round(os.getloadavg()[0], 2)}


def profiles(plan):
    """The profile of a step of each net, as text."""
    import tinygrad_cnn as tc
    from bench.libraries.ours import Layers
    from tinygrad_cnn import train
    with tc.set_compiled(plan.compiled and tc.get_compiled()), tc.set_num_threads(plan.threads):
        for name in plan.nets:
            given, ours = problem(NETS[name], plan.batch), Layers()
            ours.load(given)
            found = train.profile(ours.model, given.images, given.labels, steps=plan.rounds)
            yield f"{name}: {found}"


def main(words=None):
    """0; 1 if a net was refused or a process failed; 2 for a wrong argument."""
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["layers"]:
        return layers.main(words[1:])
    made = parser()
    given = made.parse_args(words)
    try:
        plan = plan_of(given)
    except ValueError as error:
        made.error(str(error))
    if given.profile:
        print("\n\n".join(profiles(plan)))
        return 0
    try:
        found = measure(plan, lambda line: print(line, file=sys.stderr, flush=True))
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    print(markdown(found))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if any("refused" in row for row in found["nets"].values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
