"""The pytest plugin, run as users run it, and the command line."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tinygrad_cnn import OPS
from tinygrad_cnn.testing import cli, pytest_entry

ROOT = Path(__file__).parents[2]
MY_OPS = '''
from tinygrad_cnn import Sample, custom_op

@custom_op(shape=lambda x: x, vjp={"x": lambda ct, out, x: ct * 3.0 * x * x},
           samples=lambda rng: [Sample("row", (rng.normal(size=3),))])
def cube_of_mine(x):
    return x * x * x

@custom_op(shape=lambda x: x, vjp={"x": lambda ct, out, x: ct}, samples=lambda rng: [])
def untested_of_mine(x):
    return x.copy()
'''
WRONG_OP = '''
@custom_op(shape=lambda x: x, vjp={"x": lambda ct, out, x: ct * 3.0 * x},
           samples=lambda rng: [Sample("row", (rng.normal(size=3),))])
def wrong_of_mine(x):
    return x * x * x
'''
FAILING_TEST = '''
def test_bad(gradtest): gradtest.pair(lambda x: x * x, lambda ct, x: ct * x, np.ones(3))
'''
TEST = '''
import numpy as np
import pytest
from tinygrad_cnn import GradientMismatch, relu

def test_by_hand(gradtest):
    assert gradtest(relu, np.ones((2, 3))).comparisons
    assert gradtest.pair(lambda x: x * x, lambda ct, x: 2 * ct * x, np.ones(3)).comparisons
    with pytest.raises(GradientMismatch):
        gradtest(lambda x: (x * x.detach()).sum(), np.ones(3))
'''


# An installed package brings the plugin by its entry point; a bare checkout names the file.
INSTALLED = importlib.util.find_spec("pytest_tinygrad_cnn") is not None
PLUGIN = [] if INSTALLED else ["-p", "tinygrad_cnn.testing.pytest_entry"]


def run_pytest(folder, *arguments):
    (folder / "pytest.ini").write_text("[pytest]\n")       # else one in a folder above counts
    return subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGIN,
         *(() if "cacheprovider" in arguments else ("-p", "no:cacheprovider")),
         "--rootdir", str(folder), *arguments],
        cwd=folder, capture_output=True, text=True, check=False, timeout=120,
        env={"PYTHONPATH": f"{ROOT}", "PATH": "", "OPENBLAS_NUM_THREADS": "1"})


def test_each_op_case_and_property_is_a_test_with_a_name_that_reads(tmp_path):
    done = run_pytest(tmp_path, "--gradtest-only", "--gradtest-op", "relu", "--collect-only", "-q")
    place = (ROOT / "tinygrad_cnn" / "ops" / "activation.py").as_posix()
    assert f"{place}::relu-matrix-gradient" in done.stdout
    assert f"{place}::relu-matrix-zero_gives_zero" in done.stdout
    assert "conv2d" not in done.stdout


def test_ops_of_the_user_are_tested_and_one_without_samples_fails(tmp_path):
    (tmp_path / "my_ops.py").write_text(MY_OPS)
    (tmp_path / "test_it.py").write_text(TEST)
    done = run_pytest(tmp_path, "--gradtest", "--gradtest-import", "my_ops", "-k",
                      "of_mine or by_hand", "-q")
    assert done.returncode == 1, done.stdout + done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1
    assert "my_ops.py::untested_of_mine-has_samples" in failed[0]
    assert "the op has no samples" in done.stdout
    assert "Traceback" not in done.stdout
    assert "comparisons" in done.stdout


@pytest.fixture
def project(tmp_path):
    """A foreign project: an op that is right, one that is wrong, and a test that fails."""
    (tmp_path / "my_ops.py").write_text(MY_OPS + WRONG_OP)
    (tmp_path / "test_mine.py").write_text("import my_ops\nimport numpy as np\n" + FAILING_TEST)
    return tmp_path


def outcome(done):
    return done.stdout.strip().splitlines()[-1].split(" in ")[0]


def test_a_foreign_project_s_own_ops_are_tested_and_one_mistake_is_one_red_test(project):
    done = run_pytest(project, "--gradtest", "-q", "--deselect", "test_mine.py::test_bad", "-rfs",
                      "-k", "not untested")
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert [line.split(" - ")[0] for line in failed] \
        == ["FAILED my_ops.py::wrong_of_mine-row-gradient"]
    assert "wrong_of_mine is wrong already: my_ops.py::wrong_of_mine-row-gradient" in done.stdout
    assert "relu" not in done.stdout


@pytest.mark.parametrize("node, code", [("cube_of_mine-row-gradient", 0),
                                        ("wrong_of_mine-row-gradient", 1)])
def test_a_node_id_can_be_run(project, node, code):
    done = run_pytest(project, "--gradtest", "-q", f"my_ops.py::{node}")
    assert done.returncode == code, done.stdout
    assert outcome(done) == ("1 failed" if code else "1 passed")


def test_the_last_failures_are_those_that_run_again(project):
    cache = ("-p", "cacheprovider")
    run_pytest(project, "--gradtest", "-q", *cache)
    again = run_pytest(project, "--gradtest", "-q", "--lf", *cache)
    assert outcome(again) == "3 failed"


def test_workers_give_the_counts_and_the_red_tests_of_one_process(project):
    pytest.importorskip("xdist")
    results = []
    for workers in ((), ("-n", "2"), ("-n", "2", "--dist", "worksteal")):
        done = run_pytest(project, "--gradtest", "-q", "--junitxml", "report.xml", *workers)
        report = (project / "report.xml").read_text()
        names = re.findall(r'testcase[^>]* name="([^"]*)"', report)
        assert all(re.fullmatch(r"[\w-]+", name) for name in names)
        failed = sorted(line.split(" - ")[0] for line in done.stdout.splitlines()
                        if line.startswith("FAILED"))
        results.append((failed, outcome(done), sorted(names),
                        re.findall(r'(?:failures|skipped|tests)="\d+"', report),
                        re.findall(r"gradtest: \d+ comparisons", done.stdout)))
    assert results[0][0] == [f"FAILED {end}" for end in (
        "my_ops.py::untested_of_mine-has_samples", "my_ops.py::wrong_of_mine-row-gradient",
        "test_mine.py::test_bad")]
    assert results[1:] == results[:1] * 2


def test_a_failure_shows_the_line_of_the_user_and_none_of_the_checker_s(project):
    done = run_pytest(project, "-q", "test_mine.py")
    assert "test_mine.py:4: GradientMismatch" in done.stdout
    assert "check.py" not in done.stdout
    assert "lambda at test_mine.py:4" in done.stdout


def test_without_the_flag_nothing_is_collected_or_imported(tmp_path):
    (tmp_path / "test_nothing.py").write_text("def test_nothing(): pass\n")
    done = run_pytest(tmp_path, "-q")
    assert done.returncode == 0
    assert "1 passed" in done.stdout
    code = ("import importlib.util, sys\n"
            f"spec = importlib.util.spec_from_file_location('entry', {pytest_entry.__file__!r})\n"
            "spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
            "names = ('numpy', 'tinygrad', 'pytest')\n"
            "print(sorted(m for m in sys.modules if m.startswith(names)))")
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                            check=True)
    assert loaded.stdout.strip() == "[]"
    assert importlib.util.find_spec("tinygrad_cnn.testing.plugin") is not None


def test_an_unknown_op_is_a_usage_error(tmp_path):
    done = run_pytest(tmp_path, "--gradtest-only", "--gradtest-op", "relo")
    assert done.returncode == 4
    assert "no op is called relo" in done.stderr


# ---- the command

def test_the_command_prints_a_table_and_writes_it_down(tmp_path, capsys):
    file = tmp_path / "table.json"
    assert cli.main(["relu", "matmul", "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "relu" in shown
    assert "2 ops, " in shown
    table = json.loads(file.read_text())
    assert [row["op"] for row in table["ops"]] == ["relu", "matmul"]
    assert all(row["right"] and row["comparisons"] for row in table["ops"])


def test_the_command_names_an_unknown_op(capsys):
    assert cli.main(["relo"]) == 2
    assert "no op is called relo" in capsys.readouterr().err


def test_the_kill_rate_of_an_op_counts_the_slips_in_its_rules(capsys):
    assert cli.main(["exp", "--kill-rate"]) == 0
    assert "exp: 4 slips, 100 % killed by its samples" in capsys.readouterr().out


def test_the_command_imports_modules_of_the_user_and_finds_a_wrong_rule(
        tmp_path, capsys, monkeypatch):
    (tmp_path / "wrong_ops_of_mine.py").write_text(MY_OPS.replace("3.0 * x * x", "x * x")
                                                   .replace("_of_mine", "_gone_wrong"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert cli.main(["cube_gone_wrong", "--import", "wrong_ops_of_mine"]) == 1
    shown = capsys.readouterr().out
    assert "WRONG" in shown
    assert "constant ratio" in shown
    assert "import wrong_ops_of_mine" in shown
    assert "cube_gone_wrong" in OPS


def test_the_options_explain_themselves(tmp_path):
    shown = run_pytest(tmp_path, "--help").stdout
    assert all(f"--gradtest{end}" in shown for end in ("", "-only", "-op", "-import", "-seed"))
