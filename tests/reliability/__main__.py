"""What survives kills, damage, full disks, hostile names, files and command lines, in figures.

    python tests/reliability NAME [--count N] [--seed N]
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Name -> trials.
FULL = {"kill_saving": 1000, "kill_training": 50, "kill_ranks": 200, "flips": 1_000_000,
        "fuzz": 100_000, "disk": 1000, "hostile_names": 1, "command_lines": 200, "hashing": 20}


def main() -> int:
    """Print the figures, and say whether all of them held."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", choices=FULL)
    parser.add_argument("--count", type=int, help="trials; as many as the docs report if not given")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]
    script = importlib.import_module(f"reliability.{options.name}")
    failed = False
    for figure in script.measure(options.count or FULL[options.name], random.Random(options.seed)):
        print(figure, flush=True)
        failed |= figure.good != figure.trials
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
