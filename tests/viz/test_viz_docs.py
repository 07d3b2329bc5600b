"""The pictures of the docs are what the code draws now."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_pictures_of_the_docs_are_current():
    done = subprocess.run([sys.executable, "docs/make_pictures.py", "--check"], cwd=ROOT,
                          capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_draws_in_every_form(tmp_path):
    done = subprocess.run([sys.executable, "-W", "error", "examples/draw_lenet.py", "--quick",
                           "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
                          check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "backward.svg", "difference.svg", "lenet.html", "lenet.svg"]
