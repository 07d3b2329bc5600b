"""What a package costs before anything is computed: time to import, memory, size on disk."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinygrad_cnn.bench.measure import summary

__all__ = ["import_cost", "size_on_disk"]

_CODE = """
import json, sys, time
began = time.perf_counter()
__import__(sys.argv[1])
seconds = time.perf_counter() - began
try:
    with open("/proc/self/status") as file:
        memory = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))
except OSError:
    memory = None
print(json.dumps([seconds, memory]))
"""


def import_cost(packages: tuple[str, ...], *, rounds: int = 5,
                pythons: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Import each package in fresh processes, in turns.

    Parameters
    ----------
    packages : tuple of str
        What to import; a package that cannot be imported is left out.
    rounds : int, default 5
        Processes for each.
    pythons : mapping of str to str, optional
        Package -> interpreter.

    Returns
    -------
    dict
        Package -> ``min``, ``median`` and ``count`` of the seconds, ``resident`` bytes after the
        import, and bytes on ``disk`` where this interpreter has the package.

    Examples
    --------
    >>> found = import_cost(("json", "no_such_package"), rounds=1)
    >>> list(found), found["json"]["count"]
    (['json'], 1)
    """
    seconds: dict[str, list[float]] = {}
    resident: dict[str, int | None] = {}
    folder = str(Path(__file__).parents[2])
    for _ in range(rounds):
        for package in packages:
            python = (pythons or {}).get(package, sys.executable)
            done = subprocess.run([python, "-c", _CODE, package], capture_output=True, text=True,
                                  env={**os.environ, "PYTHONPATH": folder}, check=False)
            if done.returncode == 0:
                taken, memory = json.loads(done.stdout.splitlines()[-1])
                seconds.setdefault(package, []).append(taken)
                resident[package] = memory
    return {package: {**summary(times), "resident": resident[package],
                      "disk": size_on_disk(package)}
            for package, times in seconds.items()}


def size_on_disk(package: str) -> int | None:
    """Bytes of all files that the distribution installed, or of the package's folder.

    What interpreters and compilers cached in ``__pycache__`` is not counted.

    Examples
    --------
    >>> size_on_disk("no_such_package") is None
    True
    """
    try:
        files = importlib.metadata.files(package) or []
        paths = [Path(str(f.locate())) for f in files]
    except importlib.metadata.PackageNotFoundError:
        paths = []
    if not any(path.name == "__init__.py" for path in paths):   # installed in place, or built in
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            return None
        paths = [p for place in spec.submodule_search_locations for p in Path(place).rglob("*")]
    return sum(p.stat().st_size for p in paths if "__pycache__" not in p.parts and p.is_file())
