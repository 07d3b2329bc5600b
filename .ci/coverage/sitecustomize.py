"""Measures which lines and branches pytest executes, and the processes that some tests start.

Python imports this file at its start if the folder is on PYTHONPATH; what is measured goes to
``$COVERAGE_FILES``.  Probes take themselves out of the code once they were passed, so that the
tests run at nearly their usual speed.
"""

import os
import sys

# A worker of pytest-xdist is told on its standard input what to run.
if "COVERAGE_FILES" in os.environ and ("COVERAGE_STARTED_BY" in os.environ or any(
        word in " ".join(sys.orig_argv) for word in ("pytest", "exec(eval(sys.stdin"))):
    import atexit
    import json
    import subprocess
    from pathlib import Path

    import slipcover

    SOURCE = str(Path(__file__).resolve().parents[2] / "tinygrad_cnn")
    # numba compiles what stands there, and knows no probe.
    compiled = ["*/kernels/jit/*"]
    measured = slipcover.Slipcover(immediate=True, branch=True, source=[SOURCE], omit=compiled)
    matcher = slipcover.FileMatcher(sources=[SOURCE], omit=compiled)
    slipcover.ImportManager(measured, matcher).__enter__()
    started = os.getpid()

    # A test gives a process the environment that it wants to test; this goes along.  A measured
    # process takes seconds to start, so only those of these tests are, which test the command line
    # and pytest inside pytest.
    folders = ("tests/cli/", "tests/testing/", "tests/test_parallel")
    ours = {"COVERAGE_FILES": os.environ["COVERAGE_FILES"], "COVERAGE_STARTED_BY": str(started)}
    path = os.environ["PYTHONPATH"]
    start = subprocess.Popen.__init__

    def start_measured(self, *args, env=None, **kwargs):
        """Start a process that is measured too, if such a test does."""
        if not os.environ.get("PYTEST_CURRENT_TEST", "").startswith(folders):
            start(self, *args, env=env, **kwargs)
            return
        env = dict(os.environ if env is None else env)
        given = env.get("PYTHONPATH", "")
        both = given if path in given else os.pathsep.join(filter(None, (given, path)))
        start(self, *args, env={**env, **ours, "PYTHONPATH": both}, **kwargs)

    subprocess.Popen.__init__ = start_measured

    @atexit.register
    def save() -> None:
        """Write what was measured."""
        if os.getpid() == started:              # a forked child has nothing of its own to tell
            files = measured.get_coverage()
            name = f"{os.environ.get('COVERAGE_STARTED_BY', '')}-{started}.json"
            Path(ours["COVERAGE_FILES"], name).write_text(json.dumps(files))
