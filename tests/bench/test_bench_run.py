"""The harness: turns, agreement, what is left out, the shape of a report.  No time is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn.bench import race as turns
from tinygrad_cnn.bench import run
from tinygrad_cnn.bench.cases import Case, case_from, case_to, chain_case, layer_case, net_case
from tinygrad_cnn.bench.frameworks import CONTENDERS, FAST, OURS, contenders, open_framework
from tinygrad_cnn.bench.measure import (
    Others,
    collect,
    peak_bytes,
    reset_peak,
    resident_bytes,
    summary,
)
from tinygrad_cnn.bench.process import Absent, BenchError, Worker
from tinygrad_cnn.bench.race import Disagreement, agree, race
from tinygrad_cnn.bench.run import Plan
from tinygrad_cnn.bench.worker import Server, _digest
from tinygrad_cnn.kernels import compiled


class Fake:
    """Stands for a worker: answers from tables."""

    pid = 0

    def __init__(self, losses, seconds=0.5):
        self.losses, self.seconds, self.timed = losses, seconds, 0

    def load(self, case):
        return ["step"]

    def call(self, timer, count=1):
        return self.losses[:count]

    def time(self, timer, *, seconds, most=1000):
        self.timed += 1
        return [self.seconds, 2 * self.seconds]


def run_fakes(fakes, rounds=3):
    return race(fakes, net_case("lenet"), rounds=rounds, seconds=0.1, checks={"step": 3})


def test_a_race_gives_minimum_and_median_of_all_turns():
    found = run_fakes({OURS: Fake([3, 2, 1]), "torch": Fake([3, 2, 1], seconds=1.0)})
    assert found["times"]["step"][OURS] == {"min": 0.5, "median": 0.75, "count": 6}
    assert found["times"]["step"]["torch"]["min"] == 1.0


def test_a_net_whose_losses_differ_is_not_timed():
    fakes = {OURS: Fake([3.0, 2.0, 1.0]), "torch": Fake([3.0, 2.0, 1.01])}
    with pytest.raises(Disagreement, match=r"(?s)step results of lenet differ.*torch: 3, 2, 1.01"):
        run_fakes(fakes)
    assert all(fake.timed == 0 for fake in fakes.values())


def test_a_net_is_not_timed_when_compiled_kernels_compute_something_else():
    fakes = {OURS: Fake([3.0, 2.0, 1.0]), FAST: Fake([3.0, 2.0, 1.01])}
    with pytest.raises(Disagreement, match=r"(?s)of lenet differ.*tinygrad_cnn fast: 3, 2, 1.01"):
        run_fakes(fakes)


def test_compiled_kernels_that_fail_are_left_out_with_the_reason():
    class Failing(Fake):
        def load(self, case):
            raise BenchError("cannot compile")

    skipped = {}
    found = race({OURS: Fake([1.0]), FAST: Failing([1.0])}, net_case("lenet"), rounds=1,
                 seconds=0.1, checks={"step": 1}, skipped=skipped)
    assert list(found["times"]["step"]) == [OURS]
    assert skipped == {"tinygrad_cnn fast · lenet": "cannot compile"}


@pytest.mark.parametrize("other", [[1.0, 2.0], [1.0, float("nan"), 3.0], [1.0, 2.0, 3.004]])
def test_agreement_is_refused_for(other):
    with pytest.raises(Disagreement):
        agree({OURS: [1.0, 2.0, 3.0], "torch": other}, what="losses")


def test_agreement_allows_rounding():
    agree({OURS: [1.0, 2.0], "torch": [1.0005, 1.9995]}, what="losses")


def test_losses_that_are_not_finite_are_refused_even_if_all_have_them():
    with pytest.raises(Disagreement):
        agree({OURS: [float("inf")], "torch": [float("inf")]}, what="losses")


def test_a_refused_net_is_reported_and_the_next_one_measured(monkeypatch):
    def fake_race(running, case, **settings):
        if case.name == "vgg":
            raise Disagreement("vgg: different")
        return {"results": {"step": {}}, "times": {"step": {}, "inference": {}}, "others": 0.0}

    monkeypatch.setattr(run, "race", fake_race)
    rows = {net: run._net({}, net, Plan(nets=(net,)), {}, lambda line: None)
            for net in ("vgg", "lenet")}
    assert rows["vgg"]["refused"] == "vgg: different"
    assert "step" not in rows["vgg"] and "step" in rows["lenet"]


def test_a_disturbed_turn_is_taken_again_and_the_calmest_is_kept(monkeypatch):
    shares = iter([0.5, 0.2, 0.3, 0.0])

    class Others:
        def __init__(self, pid):
            pass

        def share(self):
            return next(shares)

    class Turns(Fake):
        def time(self, timer, *, seconds, most=1000):
            self.timed += 1
            return [float(self.timed)]

    monkeypatch.setattr(turns, "Others", Others)
    fake = Turns([1.0])
    assert turns._turn(fake, "step", 0.1, 10, patience=2) == ([2.0], 0.2)
    assert turns._turn(fake, "step", 0.1, 10, patience=2) == ([4.0], 0.0)  # calm: no more
    assert fake.timed == 4


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the system's counts")
def test_the_work_of_others_is_seen_and_ones_own_is_not():
    def work():
        end = time.perf_counter() + 0.3
        while time.perf_counter() < end:
            sum(range(1000))

    mine, another = Others(os.getpid()), Others(1)      # to the first process, we are another
    work()
    assert another.share() > mine.share()


# ---- a process of its own

def test_a_worker_steps_the_same_net_as_this_process():
    with Worker(OURS, threads=1) as worker:
        assert worker.versions["numpy"] == np.__version__
        assert set(worker.load(net_case("lenet", batch=2))) == {"step", "inference"}
        assert len(worker.call("step", 3)) == 3
        assert len(worker.time("step", seconds=0.01, most=2)) <= 2
        memory = worker.memory("step", 1)
        assert memory["process"] >= memory["step"] >= 0
        result, seconds = worker.clocked("step")
        assert np.isfinite(result) and seconds > 0
        with pytest.raises(Absent, match="no case of kind unheard-of"):
            worker.load(Case("unheard-of", "x"))
        with pytest.raises(BenchError, match="KeyError"):
            worker.call("no such timer")
        assert worker.load(chain_case(5)) == ["chain"]       # it lives on


def test_a_library_that_is_not_installed_is_skipped_with_its_pip_line(tmp_path):
    # An interpreter in an empty folder of packages: only the standard library and NumPy's path.
    (tmp_path / "mygrad.py").write_text("raise ImportError('No module named mygrad')\n")
    code = ("import sys\n"
            f"sys.path.insert(0, {str(tmp_path)!r})\n"
            "from tinygrad_cnn.bench.process import workers\n"
            "import os; os.environ['PYTHONPATH'] = os.pathsep.join(sys.path)\n"
            "skipped = {}\n"
            "with workers(('mygrad',), threads=1, pythons={}, skipped=skipped) as running:\n"
            "    print(list(running), skipped['mygrad'])\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ("[] mygrad: No module named mygrad; pip install mygrad")


def test_compiled_kernels_that_are_not_installed_are_skipped_with_one_pip_line(tmp_path):
    # An interpreter that has NumPy but finds no numba.
    without = tmp_path / "python"
    without.write_text(f"#!{sys.executable}\n"
                       "import sys\n"
                       f"sys.path[:0] = {sys.path!r}\n"
                       "from tinygrad_cnn.kernels import compiled\n"
                       "compiled._installed = lambda: False\n"
                       "from tinygrad_cnn.bench.worker import main\n"
                       "sys.exit(main(sys.argv[3:]))\n")
    without.chmod(0o755)
    with pytest.raises(Absent) as error:
        Worker(FAST, threads=1, python=str(without))
    assert str(error.value) == (
        "tinygrad_cnn fast: compiled kernels need the package numba, which is not installed: "
        'pip install "tinygrad-cnn[fast]"')


def test_compiled_kernels_asked_for_where_they_are_not_installed_are_refused(monkeypatch):
    monkeypatch.setattr(compiled, "_installed", lambda: False)
    assert Plan().contenders() == (OURS, FAST)              # left out later, with the reason
    assert Plan(compiled=False).contenders() == (OURS,)
    with pytest.raises(tc.MissingExtraError, match=r"tinygrad-cnn\[fast\]"):
        Plan(compiled=True)
    with pytest.raises(tc.MissingExtraError, match=r"tinygrad-cnn\[fast\]"):
        open_framework(FAST, 1)


def test_a_process_that_dies_is_an_error_not_a_wait(tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(BenchError, match="ended with status 3"):
        Worker(OURS, threads=1, python=str(broken))


def test_an_answer_that_takes_too_long_ends_the_process():
    with Worker(OURS, threads=1) as worker:
        worker.load(chain_case(1_000_000))
        worker._limit = 0.05
        with pytest.raises(BenchError, match="ended with status -9"):
            worker.call("chain")


# ---- plain parts

def test_cases_travel_through_json():
    case = layer_case("max_pool2d", (2, 4, 4, 1), kernel_size=2)
    assert case_from(json.loads(json.dumps(case_to(case)))) == case


def test_the_digest_of_an_array_does_not_depend_on_its_memory_order():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    assert _digest(x) == pytest.approx(_digest(x.transpose(0, 3, 1, 2)), rel=1e-12)
    assert _digest(np.float32(2.5)) == 2.5


def test_collect_does_not_count_the_first_call():
    calls = []
    assert len(collect(lambda: calls.append(1), seconds=10, most=4)) == 4
    assert len(calls) == 5


def test_summary_names_minimum_median_and_number():
    assert summary([4.0, 1.0, 3.0, 2.0]) == {"min": 1.0, "median": 2.5, "count": 4}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the process's status")
def test_the_peak_sees_memory_that_was_given_back():
    reset_peak()
    before = resident_bytes()
    block = np.ones(4_000_000)                          # 32 MB
    del block
    assert peak_bytes() - before > 25_000_000


def test_every_contender_says_how_to_install_it():
    assert all(c.pip.startswith("pip install ") for c in CONTENDERS.values())
    assert contenders(("jax", "torch"), eager=True) == (
        OURS, FAST, "torch", "torch channels_last", "jax")
    assert contenders(("torch",), compiled=False) == (
        OURS, "torch", "torch channels_last", "torch.compile")


@pytest.mark.parametrize("settings, words", [
    ({"against": ("theano",)}, "choose from torch, jax, mygrad, autograd, tinygrad"),
    ({"nets": ("alexnet",)}, "there is no net 'alexnet'"),
    ({"threads": 0}, "threads must be from 1 to"),
    ({"threads": 10**6}, "threads must be from 1 to"),
    ({"rounds": 0}, "rounds must be from 1"),
    ({"patience": -1}, "patience must be from 0 to"),
    ({"seconds": 0.0}, "seconds must be positive"),
    ({"seconds": float("nan")}, "seconds must be positive"),
])
def test_a_plan_refuses(settings, words):
    with pytest.raises(tc.SettingError, match=words):
        Plan(**settings)


def test_a_server_frees_the_last_case_before_the_next():
    class Framework:
        def timers(self, case):
            assert server.timers == {}
            return {"one": lambda: 1.0}

    server = Server(Framework())
    for _ in range(2):
        assert server.answer({"do": "load", "case": case_to(chain_case(1))}) == {"timers": ["one"]}
