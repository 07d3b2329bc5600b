"""The bench refuses nets on which libraries disagree, and prints ratios.  No time is judged."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import tinygrad_cnn as tc
from bench import calls, gradtest, layers, race
from bench.__main__ import main, measure
from bench.libraries import CONTENDERS, OURS
from bench.nets import NETS, flops
from bench.race import AbsentError, BenchError, DisagreementError, Plan
from bench.report import markdown, ratios

ROOT = Path(__file__).parents[2]


class Answers:
    """Stands for the processes: the values that each contender computes, and seconds."""

    def __init__(self, **values):
        self.values, self.asked = values, []

    def __call__(self, name, case, plan, seconds):
        self.asked.append((name, seconds))
        values = self.values[name]
        if isinstance(values, Exception):
            raise values
        return {"versions": {}, "values": {"step": values}, "step_bytes": 1,
                "seconds": {"step": [3.0, 2.0] if name == OURS else [4.0, 8.0]}}


PLAN = Plan(nets=("lenet",), against=("jax",), compiled=False, rounds=3)


def test_libraries_that_agree_take_turns_and_the_minimum_counts():
    answers = Answers(tinygrad_cnn=[3.0, 2.0], jax=[3.001, 2.001])
    found = race.race("lenet", PLAN, {}, answers)
    assert answers.asked == [(OURS, 0), ("jax", 0), *[(OURS, 0.5), ("jax", 0.5)] * 3]
    assert found["seconds"] == {"step": {OURS: 2.0, "jax": 4.0}}


@pytest.mark.parametrize("other", [[3.0, 2.01], [3.0, float("nan")], [3.0]])
def test_a_net_on_which_libraries_disagree_is_refused_before_anything_is_timed(other):
    answers = Answers(tinygrad_cnn=[3.0, 2.0], jax=other)
    with pytest.raises(DisagreementError, match=r"(?s)lenet: step values differ.*jax: 3"):
        race.race("lenet", PLAN, {}, answers)
    assert all(seconds == 0 for _, seconds in answers.asked)


def test_a_refused_net_is_reported_and_the_next_one_measured():
    def one_differs(case, plan, skipped):
        if case == "lenet":
            raise DisagreementError("lenet: step values differ")
        return {"seconds": {}}

    text = markdown(measure(Plan(nets=("lenet", "vgg")), race=one_differs))
    assert "**lenet was not timed**: lenet: step values differ" in text


def test_a_library_that_is_absent_or_fails_is_left_out_and_ours_is_not():
    skipped = {}
    for error in (AbsentError("pip install jax"), BenchError("killed")):
        found = race.race("lenet", PLAN, skipped, Answers(tinygrad_cnn=[1.0], jax=error))
        assert list(found["seconds"]["step"]) == [OURS]
        assert skipped == {"jax, lenet": str(error)}
    with pytest.raises(BenchError, match="killed"):
        race.race("lenet", PLAN, {}, Answers(tinygrad_cnn=BenchError("killed"), jax=[1.0]))


def test_ratios_are_of_the_quickest_variant_and_of_the_same_way_in_another_checkout():
    assert ratios({OURS: 1.0, f"{OURS} fast": 0.5, "torch": 4.0, "torch channels_last": 2.0,
                   f"{OURS} @ old": 8.0}) == {
        (OURS, "torch"): 0.5, (f"{OURS} fast", "torch"): 0.25, (OURS, "checkout old"): 0.125}


def test_the_command_runs_a_process_each_and_prints_ratios(capsys, tmp_path):
    status = main(["--net", "lenet", "--batch", "2", "--rounds", "1", "--seconds", "0.01",
                   "--threads", "1", "--against", "", "--no-compiled", "--functions",
                   "--checkout", str(ROOT), "--json", str(tmp_path / "found.json")])
    assert status == 0
    shown = capsys.readouterr().out
    assert f"{OURS} functions / checkout {ROOT}" in shown
    assert len(re.findall(r"^\| lenet \|.*\| \d+\.\d\d \| \d+\.\d\d \|$", shown, re.M)) == 2
    assert (tmp_path / "found.json").stat().st_size


def test_libraries_that_are_installed_compute_the_same_net():
    net = "resnet20"                                    # it has every layer but the pool
    plan = Plan(nets=(net,), batch=4, functions=True, compiled=False)
    installed = {OURS: None, f"{OURS} functions": None,
                 **{n: c for n, c in CONTENDERS.items() if n != "torch.compile"
                    and c.library != OURS and importlib.util.find_spec(c.library)}}
    found = {name: race.ask(name, net, plan, 0)["values"] for name in installed}
    for timer in ("inference", "step"):
        race.agree({name: values[timer] for name, values in found.items()}, f"{net} {timer}")


@pytest.mark.parametrize("words, known", [
    (["--against", "theano"], "choose from torch, torch.compile, jax"),
    (["--net", "alexnet"], "choose from lenet"),
    (["--python", "theano=/usr/bin/python"], "choose from torch"),
    (["--threads", "0"], "--threads must be from 1 to"), (["--seconds", "0"], "must be positive"),
    (["--checkout", "/nowhere"], "has no folder tinygrad_cnn"),
])
def test_a_wrong_argument_ends_with_status_2_and_the_known_values(words, known, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert known in capsys.readouterr().err


def test_a_profile_shows_the_ops_of_a_net(capsys):
    assert main(["--profile", "--net", "lenet", "--batch", "2", "--rounds", "1", "--threads", "1",
                 "--no-compiled"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("lenet: ")
    assert {"forward", "backward", "conv2d", "max_pool2d", "optimizer"} <= set(shown.split())


def test_the_page_has_the_arithmetic_of_every_net():
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for net in NETS.values():
        shape = " × ".join(map(str, (net.batch, *net.image)))
        assert f"| {net.name} | {shape} | {flops(net) / 1e9:.2f} |" in page


def test_calls_are_counted_by_file_and_repeat():
    with tc.set_compiled(False):
        forward, backward = calls.count()
        again = calls.count()
    assert forward.files["nn/module.py"] >= 6           # the model and its five layers
    assert forward.hops["the caller", "nn/module.py"] == 1
    # With NumPy's kernels; a way that gets longer again should be noticed.
    assert 100 < forward.total < 215 and 100 < backward.total < 240
    assert [forward.total, backward.total] == [c.total for c in again]


def test_layers_of_known_nets_are_timed_if_all_compute_the_same(monkeypatch):
    small = layers.Layer("MobileNetV2", 9, 8, 8, groups=8)
    assert set(layers.measured(small, 1, 1, 0, against=False)) <= {"pure", "fast"}
    assert str(layers.LAYERS[5]) == "7×7 224² 3→64 stride 2"
    real = layers.ours

    def shifted(compiled, *call):
        run = real(compiled, *call)
        return lambda: tuple(a + compiled for a in run())
    monkeypatch.setattr(layers, "ours", shifted)
    if tc.get_compiled():
        with pytest.raises(ValueError, match="fast does not compute what pure NumPy does"):
            layers.measured(small, 1, 1, 0, against=False)
    lines, times = [], {"pure": 3.0, "fast": 1.0, "torch": 2.0, "channels_last": 4.0}
    monkeypatch.setattr(layers, "measured", lambda *case: times)
    layers.table([small], (1, 2), 1, 0, lines.append)
    assert lines[2].startswith("| MobileNetV2 | 3×3 9² 8→8 groups 8 | 1 | 2000.00 | 1.50 |")
    assert len(lines) == 4


def test_functions_that_race_against_gradcheck_compute_the_same():
    torch = pytest.importorskip("torch")
    several = gradtest.functions()
    assert len(several) == 10
    for ours, theirs, *arrays in several.values():
        other = theirs(*map(torch.tensor, arrays)).numpy()
        if other.ndim == 4:
            other = other.transpose(0, 2, 3, 1)
        np.testing.assert_allclose(ours(*map(tc.Tensor, arrays)).data, other, rtol=1e-9)
