"""Kernels chosen by their times: which, how long remembered, and what a file can do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import tinygrad_cnn as tc
from tests.kernels.conftest import CASES, PLAIN, SAME, arrays
from tinygrad_cnn.kernels import autotune, conv

ROOT = Path(__file__).parents[2]
X, W, B = np.ones((2, 6, 5, 3), np.float32), np.ones((3, 3, 3, 4), np.float32), np.ones(4)


class Bench:
    """Fake kernels, whose runs move a fake clock by as much as they say."""

    def __init__(self, **times):
        self.now, self.runs, self.tuning = 0.0, [], []
        self.kernels = {name: self._kernel(name, iter(kernel_times), kernel_times[-1])
                        for name, kernel_times in times.items()}

    def _kernel(self, name, times, last):
        def run(*arrays, **settings):
            self.runs.append(name)
            self.tuning.append(autotune.is_tuning())
            took = next(times, last)
            if took is None:
                return NotImplemented
            self.now += took
            return X
        return run

    def fastest(self, *inputs, op="conv2d", **settings):
        return autotune.fastest(op, self.kernels, inputs or (X, W, None), settings or SAME)


@pytest.fixture
def bench(monkeypatch):
    def make(**times):
        made = Bench(**times)
        monkeypatch.setattr(autotune, "_clock", lambda: made.now)
        return made
    return make


def only_file(folder):
    (file,) = folder.iterdir()
    return file


# ---- the choice ----------------------------------------------------------------------------------

def test_the_kernel_of_the_least_time_is_chosen(bench, tmp_path):
    fakes = bench(compiled=[3.0], winograd=[1.0], blas=[2.0])
    with tc.autotune(tmp_path):
        assert fakes.fastest() == "winograd"


def test_the_first_run_warms_up_and_the_quickest_of_three_counts(bench, tmp_path):
    # 90 s of compiling are not counted; neither is what disturbed two of the runs of blas
    fakes = bench(compiled=[90.0, 2.0], blas=[1.0, 9.0, 1.5, 9.0])
    with tc.autotune(tmp_path):
        assert fakes.fastest() == "blas"
    assert fakes.runs == ["compiled", "blas"] * 4


def test_a_kernel_that_declines_is_not_chosen_and_one_that_is_alone_is_not_timed(bench, tmp_path):
    fakes = bench(compiled=[None], winograd=[None], blas=[5.0])
    with tc.autotune(tmp_path):
        assert fakes.fastest() == "blas"
    assert fakes.runs == ["compiled", "winograd", "blas"]


def test_where_all_decline_nothing_is_chosen_or_kept(bench, tmp_path):
    fakes = bench(winograd=[None])
    with tc.autotune(tmp_path):
        assert fakes.fastest() is None
    assert not list(tmp_path.iterdir())


def test_of_kernels_that_take_as_long_the_first_is_chosen(bench, tmp_path):
    fakes = bench(winograd=[1.0], blas=[1.0])
    with tc.autotune(tmp_path):
        assert fakes.fastest() == "winograd"


def test_kernels_do_not_tune_while_they_are_timed(bench, tmp_path):
    fakes = bench(winograd=[1.0], blas=[2.0])
    with tc.autotune(tmp_path):
        fakes.fastest()
        assert autotune.is_tuning()
    assert not any(fakes.tuning)


def test_a_kernel_that_fails_says_so_and_leaves_the_block_as_it_was(bench, tmp_path):
    def broken(*arrays, **settings):
        raise MemoryError("too large")

    with tc.autotune(tmp_path):
        with pytest.raises(MemoryError, match="too large"):
            autotune.fastest("conv2d", {"blas": broken}, (X, W, None), SAME)
        assert autotune.is_tuning()
        assert bench(blas=[1.0]).fastest() == "blas"


# ---- what is remembered --------------------------------------------------------------------------

def test_a_choice_is_remembered_inside_the_block(bench, tmp_path):
    fakes = bench(winograd=[1.0], blas=[2.0])
    with tc.autotune(tmp_path):
        fakes.fastest()
        runs = len(fakes.runs)
        assert fakes.fastest() == "winograd"
    assert len(fakes.runs) == runs == 8


@pytest.mark.parametrize("other", [
    {"op": "conv2d_input"}, {"inputs": (X, W, B)}, {"inputs": (X[:1], W, None)},
    {"inputs": (X.astype(np.float64), W, None)}, {"settings": PLAIN}],
    ids=["op", "bias", "shape", "dtype", "settings"])
def test_a_call_of_another_kind_is_timed_by_itself(bench, tmp_path, other):
    fakes = bench(winograd=[1.0] * 4 + [3.0], blas=[2.0])
    with tc.autotune(tmp_path):
        assert fakes.fastest() == "winograd"
        changed = fakes.fastest(*other.get("inputs", ()), op=other.get("op", "conv2d"),
                                **other.get("settings", {}))
        assert changed == "blas", "after its fourth run, the fake winograd is slow"
        assert fakes.fastest() == "winograd"


def test_threads_and_compiled_kernels_are_part_of_the_kind(bench, tmp_path, monkeypatch):
    fakes = bench(blas=[1.0])
    with tc.autotune(tmp_path):
        for threads in (1, 3):
            monkeypatch.setattr(autotune, "get_num_threads", lambda threads=threads: threads)
            for compiled in (True, False):
                monkeypatch.setattr(autotune, "get_compiled", lambda compiled=compiled: compiled)
                fakes.fastest()
                fakes.fastest()
    assert len(fakes.runs) == 4


def test_a_thread_that_is_started_in_the_block_does_not_tune(tmp_path):
    seen = []
    with tc.autotune(tmp_path):
        thread = threading.Thread(target=lambda: seen.append(autotune.is_tuning()))
        thread.start()
        thread.join()
    assert seen == [False]


def test_blocks_of_one_folder_share_their_choices(bench, tmp_path):
    fakes = bench(winograd=[1.0], blas=[2.0])
    with tc.autotune(tmp_path):
        with tc.autotune(tmp_path):
            fakes.fastest()
        assert autotune.is_tuning()
        fakes.fastest()
    assert len(fakes.runs) == 8


def test_a_block_inside_another_returns_to_its_folder(bench, tmp_path):
    fakes = bench(winograd=[1.0], blas=[2.0])
    with tc.autotune(tmp_path / "outer"):
        with tc.autotune(tmp_path / "inner"):
            fakes.fastest()
        fakes.fastest()
    assert len(fakes.runs) == 16
    assert only_file(tmp_path / "outer").read_text() == only_file(tmp_path / "inner").read_text()


# ---- the file ------------------------------------------------------------------------------------

def test_the_next_block_reads_what_this_one_kept(bench, tmp_path):
    fakes = bench(winograd=[1.0], blas=[2.0])
    with tc.autotune(tmp_path / "new" / "folder"):
        fakes.fastest()
    slower = bench(winograd=[9.0], blas=[2.0])
    with tc.autotune(str(tmp_path / "new" / "folder")):
        assert slower.fastest() == "winograd"
    assert not slower.runs


def test_the_file_is_plain_json_that_says_what_it_is_of(bench, tmp_path):
    with tc.autotune(tmp_path):
        bench(winograd=[1.0], blas=[2.0]).fastest()
    kept = json.loads(only_file(tmp_path).read_text(encoding="utf-8"))
    assert sorted(kept) == ["choices", "format", "machine"]
    assert kept["machine"]["numpy"] == np.__version__
    assert kept["machine"]["tinygrad_cnn"] == tc.__version__
    (key,) = kept["choices"]
    assert key.startswith("conv2d(float32 (2, 6, 5, 3), float32 (3, 3, 3, 4), none; dilation (1,")
    assert kept["choices"][key] == "winograd"


def test_choices_are_added_to_those_of_another_process(bench, tmp_path):
    fakes = bench(winograd=[1.0], blas=[2.0])
    with tc.autotune(tmp_path):
        fakes.fastest()
        beside = tmp_path / "beside"
        with tc.autotune(beside):
            fakes.fastest(op="conv2d_input")
        os.replace(only_file(beside), tmp_path / only_file(beside).name)
        beside.rmdir()
    assert len(json.loads(only_file(tmp_path).read_text())["choices"]) == 2


def test_machines_have_files_of_their_own(tmp_path, monkeypatch):
    names = set()
    for machine in ({"cpu": "a", "cpus": 2}, {"cpu": "a", "cpus": 4}, {"cpu": "b", "cpus": 2}):
        monkeypatch.setattr(autotune, "machine", lambda machine=machine: machine)
        names.add(autotune._file_name())
    assert len(names) == 3


def test_a_block_that_fails_keeps_its_choices(bench, tmp_path):
    fakes = bench(winograd=[1.0], blas=[2.0])
    with pytest.raises(ZeroDivisionError), tc.autotune(tmp_path):
        raise ZeroDivisionError(fakes.fastest())
    assert only_file(tmp_path)
    assert not autotune.is_tuning()


@pytest.mark.parametrize("text", [
    b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe\x00", b"[" * 100_000, b'{"choices": {}}',
    b'{"format": "tinygrad_cnn kernel choices, version 1", "machine": {}, "choices": {}}',
    b"cos\nsystem\n(S'echo'\ntR."])
def test_a_damaged_file_is_named_ignored_and_written_anew(bench, tmp_path, text):
    file = tmp_path / autotune._file_name()
    file.write_bytes(text)
    fakes = bench(winograd=[1.0], blas=[2.0])
    with pytest.warns(RuntimeWarning, match="is damaged, or of another") as caught, \
            tc.autotune(tmp_path):
        assert fakes.fastest() == "winograd"
    assert str(file) in str(caught[0].message)
    assert caught[0].filename == __file__
    with tc.autotune(tmp_path):
        assert fakes.fastest() == "winograd"
    assert len(fakes.runs) == 8


@pytest.mark.parametrize("choices", [[], None, "blas"])
def test_choices_that_are_no_table_are_damage(tmp_path, choices):
    file = tmp_path / autotune._file_name()
    file.write_text(json.dumps({"format": autotune._FORMAT, "machine": autotune.machine(),
                                "choices": choices}))
    with pytest.warns(RuntimeWarning, match="is damaged"), tc.autotune(tmp_path):
        pass


def test_a_file_that_is_too_long_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(autotune, "_LARGEST", 20)
    (tmp_path / autotune._file_name()).write_text(" " * 21 + "{}")
    words = "has 23 bytes, more than the 20 that such a file can have; it is ignored"
    with pytest.warns(RuntimeWarning, match=words), tc.autotune(tmp_path):
        pass


@pytest.mark.parametrize("name", ["reference", "os.system", "", 3, None, ["blas"], {"blas": 1}])
def test_a_name_that_is_no_choice_of_ours_is_timed_again(bench, tmp_path, name):
    fakes = bench(winograd=[1.0], blas=[2.0])
    with tc.autotune(tmp_path):
        fakes.fastest()
    file = only_file(tmp_path)
    kept = json.loads(file.read_text())
    kept["choices"] = dict.fromkeys(kept["choices"], name)
    file.write_text(json.dumps(kept))
    with tc.autotune(tmp_path):
        assert fakes.fastest() == "winograd"
    assert len(fakes.runs) == 16
    assert list(json.loads(file.read_text())["choices"].values()) == ["winograd"]


def test_a_folder_that_cannot_be_written_is_a_warning(bench, tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(autotune.os, "replace", refuse)
    with pytest.warns(RuntimeWarning, match="cannot be written.*: Permission denied") as caught, \
            tc.autotune(tmp_path):
        assert bench(winograd=[1.0], blas=[2.0]).fastest() == "winograd"
    assert str(tmp_path) in str(caught[0].message)
    assert caught[0].filename == __file__
    assert not list(tmp_path.iterdir()), "no draft is left behind"


def test_a_folder_below_a_file_is_a_warning_each_way(bench, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(RuntimeWarning) as caught, tc.autotune(tmp_path / "file" / "below"):
        assert bench(winograd=[1.0], blas=[2.0]).fastest() == "winograd"
    messages = [str(warning.message) for warning in caught]
    assert any("cannot be written" in message for message in messages), messages


@pytest.mark.parametrize("path", [3, b"bytes", ["folder"], True, "", "a\0b"])
def test_a_path_that_names_no_folder_is_refused(path):
    with pytest.raises(tc.SettingError, match="autotune: path must"), tc.autotune(path):
        pass
    assert not autotune.is_tuning()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(tc.SettingError, match="is a file"), tc.autotune(tmp_path / "file"):
        pass


def test_the_default_folder_is_the_cache_of_the_user(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with tc.autotune():
        bench(winograd=[1.0], blas=[2.0]).fastest()
    assert only_file(tmp_path / "cache" / "tinygrad_cnn").suffix == ".json"


def test_a_relative_cache_directory_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert autotune._cache_directory() == tmp_path / ".cache"


# ---- together with the ops -----------------------------------------------------------------------

def test_without_a_block_nothing_is_timed_read_or_written(tmp_path):
    code = ("import numpy as np, tinygrad_cnn as tc\n"
            "from tinygrad_cnn.kernels import autotune\n"
            "def never(*args): raise AssertionError(args)\n"
            "for name in ('_clock', '_read', '_write', 'machine', '_key'):\n"
            "    setattr(autotune, name, never)\n"
            "x, w = tc.Tensor(np.ones((2, 6, 5, 3))), tc.Parameter(np.ones((3, 3, 3, 4)))\n"
            "with tc.set_compiled(False): tc.conv2d(x, w).sum().backward()\n"
            "print(w.grad.shape)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=ROOT, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)})
    assert done.stdout.strip() == "(3, 3, 3, 4)"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("op", ["conv2d", "conv2d_input", "conv2d_weight"])
def test_each_face_asks_for_its_own_kernels_and_tries_the_winner_first(tmp_path, monkeypatch, op):
    y = np.ones((2, 6, 5, 4), np.float32)
    inputs, more = {"conv2d_input": ((y, W), {"image_size": (6, 5)}),
                    "conv2d_weight": ((X, y), {"kernel_size": (3, 3)})}.get(op, ((X, W, None), {}))
    asked = []

    def answer(name, kernels, arrays, settings):
        asked.append((name, kernels, arrays, settings))
        return "blas"

    monkeypatch.setattr(conv, "fastest", answer)
    with tc.set_compiled(False):
        by_rule = conv.choose(op)(*inputs, **SAME, **more)
        with tc.autotune(tmp_path):
            by_time = conv.choose(op)(*inputs, **SAME, **more)
    assert (by_rule, by_time) == (("winograd", "blas"), ("blas", "winograd"))
    kernels = {name: conv.kernels(op)[name] for name in ("split", "winograd", "blas")}
    ((name, candidates, arrays, settings),) = asked
    assert (name, candidates, settings) == (op, kernels, SAME | more)
    assert all(a is b for a, b in zip(arrays, inputs, strict=True))


def test_compiled_kernels_compete_where_they_are_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(conv, "get_compiled", lambda: True)
    seen = []
    monkeypatch.setattr(conv, "fastest", lambda op, kernels, *call: seen.extend(kernels))
    with tc.autotune(tmp_path):
        assert conv.choose("conv2d")(X, W, **SAME) == ("winograd", "blas"), "too small for the rule"
    assert seen == ["compiled", "split", "winograd", "blas"]


@pytest.mark.parametrize("case", ["odd sides", "stride 2, padded", "groups", "depthwise", "dilated",
                                  "1x1 filter", "empty batch"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_inside_and_outside_agree_as_rounding_allows(tmp_path, case, dtype):
    x, w, b, ct = arrays(np.random.default_rng(5), CASES[case], dtype)
    settings = CASES[case][2]

    def step():
        leaves = tc.Parameter(x), tc.Parameter(w), tc.Parameter(b)
        y = tc.conv2d(*leaves, **settings)
        y.backward(tc.Tensor(ct))
        return [y.data, *(leaf.grad.data for leaf in leaves)]

    with tc.set_compiled(False):
        outside = step()
        with tc.autotune(tmp_path):
            inside = step()
    bound = {np.float32: 5e-5, np.float64: 1e-12}[dtype]
    for mine, other in zip(inside, outside, strict=True):
        assert mine.dtype == other.dtype == dtype
        assert np.abs(mine - other).max(initial=0) <= bound * np.abs(other).max(initial=0)
    kept = json.loads(only_file(tmp_path).read_text())["choices"]
    assert sorted(key.partition("(")[0] for key in kept) == ["conv2d", "conv2d_input",
                                                             "conv2d_weight"]
