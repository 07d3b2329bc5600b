"""Measures which lines and branches of the package a pytest process executes.

Python imports this file at its start if the folder is on PYTHONPATH; what is measured goes to
``$COVERAGE_FILES``.  Probes take themselves out of the code once they were passed, so that the
tests run at nearly their usual speed.
"""

import os
import sys

# A worker of pytest-xdist is told on its standard input what to run.
if "COVERAGE_FILES" in os.environ and any(word in " ".join(sys.orig_argv) for word in
                                          ("pytest", "exec(eval(sys.stdin")):
    import atexit
    import json
    from pathlib import Path

    import slipcover

    SOURCE = str(Path(__file__).resolve().parents[2] / "tinygrad_cnn")
    # numba compiles what stands there, and knows no probe.
    compiled = ["*/kernels/jit/*"]
    measured = slipcover.Slipcover(immediate=True, branch=True, source=[SOURCE], omit=compiled)
    matcher = slipcover.FileMatcher(sources=[SOURCE], omit=compiled)
    slipcover.ImportManager(measured, matcher).__enter__()
    started = os.getpid()

    @atexit.register
    def save() -> None:
        """Write what was measured."""
        if os.getpid() == started:              # a forked child has nothing of its own to tell
            file = Path(os.environ["COVERAGE_FILES"], f"{started}.json")
            file.write_text(json.dumps(measured.get_coverage()))
