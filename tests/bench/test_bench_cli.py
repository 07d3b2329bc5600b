"""The command from arguments to JSON and Markdown, with tiny nets; no time is judged."""

from __future__ import annotations

import importlib.util
import json

import pytest

import tinygrad_cnn as tc
from tinygrad_cnn.bench import cli, report
from tinygrad_cnn.bench.frameworks.own import Own
from tinygrad_cnn.bench.imports import import_cost, size_on_disk
from tinygrad_cnn.bench.nets import lookup
from tinygrad_cnn.bench.ops import kernel_errors
from tinygrad_cnn.bench.profile import profile
from tinygrad_cnn.bench.targets import targets

needs_numba = pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="needs numba")


def quick(tmp_path, *arguments):
    written, tables = tmp_path / "found.json", tmp_path / "found.md"
    if "--compiled" not in arguments:               # which would compile every kernel first
        arguments += "--no-compiled",
    status = cli.main([*arguments, "--quick", "--threads", "1", "--json", str(written),
                       "--markdown", str(tables)])
    return status, json.loads(written.read_text()), tables.read_text()


def test_nets_are_reported_as_json_and_as_tables(tmp_path, capsys):
    status, found, tables = quick(tmp_path, "nets", "--net", "lenet", "--against", "")
    assert status == 0
    assert set(found) == {"machine", "versions", "skipped", "nets"}
    row = found["nets"]["lenet"]
    assert set(row) == {"batch", "gflop", "losses", "others", "step", "inference"}
    assert set(row["step"]["tinygrad_cnn"]) == {"min", "median", "count"}
    assert len(row["losses"]["tinygrad_cnn"]) == 3
    assert "| lenet |" in tables
    assert capsys.readouterr().out.strip() == tables.strip()


@needs_numba
def test_compiled_kernels_are_a_contender_of_their_own(tmp_path):
    status, found, tables = quick(tmp_path, "nets", "--net", "lenet", "--against", "",
                                  "--compiled")
    assert status == 0
    row = found["nets"]["lenet"]
    assert set(row["step"]) == set(row["inference"]) == {"tinygrad_cnn", "tinygrad_cnn fast"}
    assert set(row["losses"]) == {"tinygrad_cnn", "tinygrad_cnn fast"}
    assert {"tinygrad_cnn", "numpy", "numba"} <= set(found["versions"])
    assert "| net | tinygrad_cnn | tinygrad_cnn fast | of PyTorch's best | fast, of" in tables


def test_everything_else_is_in_the_whole_report(tmp_path):
    status, found, tables = quick(tmp_path, "--net", "lenet", "--against", "")
    assert status == 0
    assert {"engine", "notebook", "growth", "memory", "imports", "errors"} <= set(found)
    assert found["memory"]["bytes"]["tinygrad_cnn"]["step"] >= 0
    assert set(found["imports"]) == {"tinygrad_cnn", "numpy"}
    assert "### Targets" in tables and "### Import" in tables


def test_single_ops_are_reported(tmp_path):
    status, found, tables = quick(tmp_path, "ops", "--against", "")
    assert status == 0
    assert {row["op"] for row in found["ops"]} >= {"conv2d", "conv2d_input", "conv2d_weight",
                                                   "max_pool2d", "relu", "linear"}
    assert not [row for row in found["ops"] if "refused" in row]
    assert "| conv2d_weight |" in tables and "| relu and backward |" in tables


def test_training_is_reported_by_epoch(tmp_path):
    status, found, tables = quick(tmp_path, "accuracy", "--against", "")
    assert status == 0
    row = found["accuracy"]["tinygrad_cnn"]
    assert len(row["seconds"]) == len(row["curve"]) == 1
    assert 0.3 < row["curve"][0] <= 1.0
    assert "time to 90 % of the test set" in tables


def test_a_profile_shares_out_the_whole_step(tmp_path):
    status, found, tables = quick(tmp_path, "--profile", "--net", "lenet")
    assert status == 0
    rows = found["profiles"][0]["rows"]
    assert found["profiles"][0]["compiled"] is False
    assert "### lenet, batch 2, pure NumPy: " in tables
    assert sum(row["share"] for row in rows) == pytest.approx(1.0, abs=0.02)
    assert {"conv2d", "conv2d_input", "conv2d_weight", "sgd"} <= {row["op"] for row in rows}
    assert "of peak" in tables


def test_a_profile_takes_the_kernels_that_are_set_or_asked_for(monkeypatch):
    seen = []
    monkeypatch.setattr(Own, "step", lambda own: seen.append(tc.get_compiled()))
    net = lookup("lenet", batch=1)
    for on in {False, tc.get_compiled()}:
        with tc.set_compiled(on):
            assert profile(net, steps=1)["compiled"] is on
        assert profile(net, steps=1, compiled=on)["compiled"] is on
        assert seen[-2:] == [on, on]


@needs_numba
def test_the_title_of_a_profile_says_compiled(tmp_path):
    _, _, tables = quick(tmp_path, "--profile", "--net", "lenet", "--compiled")
    assert "### lenet, batch 2, compiled kernels: " in tables


def test_a_profile_counts_calls_and_operations():
    rows = profile(lookup("lenet", batch=2), steps=2, compiled=False)["rows"]
    second = next(r for r in rows if r["op"] == "conv2d" and r["shape"] == [2, 14, 14, 16])
    assert second["calls"] == 1
    assert second["flops"] == 2 * 2 * 14 * 14 * 25 * 8 * 16
    assert second["bytes"] == 4 * (2 * 14 * 14 * 8 + 25 * 8 * 16 + 16 + 2 * 14 * 14 * 16)


@pytest.mark.parametrize("arguments, words", [
    (["--against", "theano"], "choose from torch, jax"),
    (["--net", "alexnet"], "there is no net 'alexnet'"),
    (["--python", "torch"], "must be LIBRARY=PATH"),
    (["--threads", "0"], "threads must be from 1"),
])
def test_a_wrong_argument_ends_with_status_2_and_the_known_values(arguments, words, capsys):
    assert cli.main([*arguments, "--quick"]) == 2
    assert words in capsys.readouterr().err


def test_a_refused_net_ends_with_status_1(monkeypatch, capsys):
    refused = {"machine": {"cpu": "", "cpus": 1, "threads": 1, "system": "", "python": ""},
               "versions": {}, "skipped": {},
               "nets": {"lenet": {"batch": 2, "gflop": 0.1, "refused": "losses differ"}}}
    monkeypatch.setattr(cli, "measure", lambda plan, tell: refused)
    assert cli.main(["nets", "--quick"]) == 1
    assert "**lenet was not timed**: losses differ" in capsys.readouterr().out


def test_a_page_is_updated_between_its_comments(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin: nets -->\nold\n<!-- end: nets -->\nafter\n")
    status, _, tables = quick(tmp_path, "nets", "--net", "lenet", "--against", "",
                              "--update", str(page))
    assert status == 0
    assert page.read_text() == (
        f"before\n<!-- begin: nets -->\n\n{tables.strip()}\n\n<!-- end: nets -->\nafter\n")


def test_a_page_without_the_comments_is_left_alone(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("nothing to replace\n")
    assert cli.main(["--profile", "--net", "lenet", "--quick", "--update", str(page)]) == 2
    assert "needs the lines <!-- begin: profile -->" in capsys.readouterr().err
    assert page.read_text() == "nothing to replace\n"


# ---- tables and targets

def one(seconds):
    return {"min": seconds, "median": seconds, "count": 1}


def test_targets_are_held_against_the_quickest_variant_of_pytorch():
    row = {"tinygrad_cnn": one(0.010), "torch": one(0.020), "torch channels_last": one(0.0125),
           "jax": one(0.035)}
    found = targets({"nets": {"vgg": {"step": row, "inference": row}}})
    by_name = {t.what: t for t in found}
    step = by_name["vgg: step, of PyTorch's best"]
    assert (step.bound, step.measured, step.reached) == (0.8, pytest.approx(0.8), True)
    assert by_name["vgg: step, faster than jax"].measured == pytest.approx(3.5)
    assert by_name["vgg: step, faster than jax"].reached


def test_a_missed_target_says_no():
    text = report.markdown({
        "machine": {"cpu": "c", "cpus": 2, "threads": 2, "system": "s", "python": "3"},
        "versions": {}, "skipped": {"jax": "not installed"}, "nets": {},
        "growth": {"ratio": {"tinygrad_cnn": 9.0}}})
    assert "| lenet: step with 8 × the batch | ≤ 8.5 × | 9 | no |" in text
    assert "- jax: not installed" in text


def test_the_memory_of_a_step_is_held_against_pytorchs_least():
    memory = {"bytes": {n: {"step": s, "process": 9} for n, s in
                        (("tinygrad_cnn", 30), ("torch", 60), ("torch channels_last", 40))}}
    target, = targets({"memory": memory})
    assert target.measured == 0.75


def test_pure_numpy_and_compiled_kernels_are_held_against_the_targets_apart():
    row = {"tinygrad_cnn": one(0.030), "tinygrad_cnn fast": one(0.010), "torch": one(0.020),
           "jax": one(0.045)}
    measured = {t.what: t.measured for t in targets({
        "nets": {"lenet": {"step": row, "inference": row}},
        "engine": {"per_op_us": {"tinygrad_cnn": 3.0, "tinygrad_cnn fast": 4.0, "torch": 8.0},
                   "long_chain_s": {"10": 1.0, "20": 2.0}},
        "notebook": {"loops": 6.0, "op": {"tinygrad_cnn": 0.003, "tinygrad_cnn fast": 0.002}},
        "growth": {"ratio": {"tinygrad_cnn": 8.0, "tinygrad_cnn fast": 7.0}},
        "memory": {"bytes": {"tinygrad_cnn": {"step": 30}, "tinygrad_cnn fast": {"step": 20},
                             "torch": {"step": 40}}},
        "imports": {"tinygrad_cnn": one(0.1), "numba": one(0.5)},
        "errors": [{"compiled": False, "float32": 1e-6, "float64": 1e-15},
                   {"compiled": True, "float32": 2e-6}]})}
    fast = ", with the extra fast"
    assert measured == pytest.approx({
        "lenet: step, of PyTorch's best": 1.5, f"lenet: step, of PyTorch's best{fast}": 0.5,
        "lenet: inference, of PyTorch's best": 1.5,
        f"lenet: inference, of PyTorch's best{fast}": 0.5,
        "lenet: step, faster than jax": 1.5, f"lenet: step, faster than jax{fast}": 4.5,
        "engine: time of an op, forward and backward": 3.0,
        f"engine: time of an op, forward and backward{fast}": 4.0,
        "engine: time of an op, of PyTorch's": 0.375,
        f"engine: time of an op, of PyTorch's{fast}": 0.5,
        "engine: 20 nodes against 10, per node": 1.0,
        "the notebook's loops, slower than the op": 2000.0,
        f"the notebook's loops, slower than the op{fast}": 3000.0,
        "lenet: step with 8 × the batch": 8.0, f"lenet: step with 8 × the batch{fast}": 7.0,
        "vgg: memory of a step, of PyTorch's least": 0.75,
        f"vgg: memory of a step, of PyTorch's least{fast}": 0.5,
        "import": 0.1,
        "largest error of a kernel, float32": 1e-6, "largest error of a kernel, float64": 1e-15,
        f"largest error of a kernel, float32{fast}": 2e-6})


MACHINE = {"cpu": "c", "cpus": 2, "threads": 2, "system": "s", "python": "3"}


def test_the_table_of_nets_has_both_ratios():
    row = {"tinygrad_cnn": one(0.030), "tinygrad_cnn fast": one(0.010), "torch": one(0.020)}
    pure = {n: row[n] for n in ("tinygrad_cnn", "torch")}
    text = report.markdown({"machine": MACHINE, "versions": {}, "skipped": {}, "nets": {
        "lenet": {"step": row, "inference": row, "others": 0.01},
        "vgg": {"step": pure, "inference": pure, "others": 0.0}}})
    assert ("| net | tinygrad_cnn | tinygrad_cnn fast | torch | of PyTorch's best | "
            "fast, of PyTorch's best | CPU taken by others |") in text
    assert "| lenet | 30 (30) | 10 (10) | 20 (20) | 1.50 | 0.50 | 1 % |" in text
    assert "| vgg | 30 (30) | – | 20 (20) | 1.50 | – | 0 % |" in text


def test_the_table_of_ops_has_both_ratios_and_every_kernel_once():
    times = {"op": {"tinygrad_cnn": one(0.003), "tinygrad_cnn fast": one(0.001),
                    "torch": one(0.002)},
             "blas": {"tinygrad_cnn": one(0.003), "tinygrad_cnn fast": one(0.004)},
             "compiled": {"tinygrad_cnn fast": one(0.001)}}
    text = report.ops_markdown({"machine": MACHINE, "versions": {}, "ops": [
        {"op": "conv2d", "case": "a case", "times": times},
        {"op": "relu", "case": "a case", "refused": "results differ\nall of them"}]})
    assert "| conv2d | a case | 3 | 1 | blas 3, compiled 1 | 2 | 1.50 | 0.50 |" in text
    assert "| relu | a case |  |  | results differ |  |  |  |" in text


def test_fast_kernels_stay_within_the_error_that_is_promised():
    rows = kernel_errors(tiny=True, compiled=False)
    assert {row["kernel"] for row in rows} >= {"blas"}
    assert not any(row["compiled"] for row in rows)
    assert max(row["float32"] for row in rows) <= 5e-5
    assert max(row["float64"] for row in rows if "float64" in row) <= 1e-12


def test_the_cost_of_an_import_is_measured_in_fresh_processes():
    found = import_cost(("tinygrad_cnn", "no_such_package"), rounds=1)
    assert list(found) == ["tinygrad_cnn"]
    assert found["tinygrad_cnn"]["disk"] > 100_000
    assert size_on_disk("numpy") > 10_000_000


def test_the_size_on_disk_leaves_out_what_was_cached(tmp_path, monkeypatch):
    package = tmp_path / "a_package_of_ten_bytes"
    (package / "__pycache__").mkdir(parents=True)
    (package / "__init__.py").write_text("x = 12345\n")
    (package / "__pycache__" / "kernel.nbc").write_bytes(bytes(1000))
    monkeypatch.syspath_prepend(tmp_path)
    assert size_on_disk("a_package_of_ten_bytes") == 10
