"""Files written whole or not at all, and read only where they are files."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import CheckpointError, DataError, VizError, viz
from tinygrad_cnn.cli.receipt import read_receipt, write_receipt
from tinygrad_cnn.data import read_idx
from tinygrad_cnn.files import open_file, write_atomically
from tinygrad_cnn.io import load_checkpoint, load_weights, save_checkpoint, save_weights
from tinygrad_cnn.train import History

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name != "posix", reason="permissions, pipes and signals of POSIX")
STATE = {"w": np.arange(4.0)}


def history(path):
    made = History()
    made.append({"epoch": 1, "loss": 0.5})
    return made.save(path)


def picture(path):
    return (tc.Tensor([1.0], requires_grad=True) * 2).sum().graph().save(path)


# Everything that writes a file: the call, the suffix, and the error that its users know.
WRITERS = {"weights": (lambda path: save_weights(STATE, path), ".safetensors", CheckpointError),
           "checkpoint": (lambda path: save_checkpoint(path, epoch=3), ".st", CheckpointError),
           "history": (history, ".csv", CheckpointError),
           "receipt": (lambda path: write_receipt({"a": 1}, path), ".json", CheckpointError),
           "picture": (picture, ".svg", VizError)}
# Everything that reads one.
READERS = {"weights": (load_weights, CheckpointError), "IDX": (read_idx, DataError),
           "checkpoint": (load_checkpoint, CheckpointError), "picture": (viz.load, VizError),
           "history": (History.load, DataError), "receipt": (read_receipt, CheckpointError)}


@pytest.mark.parametrize("name", WRITERS)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(name, tmp_path, monkeypatch):
    write, suffix, error = WRITERS[name]
    path = tmp_path / f"file{suffix}"
    path.write_bytes(b"old")

    def full(number):
        raise OSError(28, "No space left on device")

    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, lambda *args: full(0))
            with pytest.raises(error, match=rf"file\{suffix} cannot be written: No space left on"):
                write(path)
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
    write(path)
    assert path.stat().st_size > 3
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", WRITERS)
def test_no_name_of_a_file_and_a_folder_are_refused_with_the_path(name, tmp_path):
    write, suffix, error = WRITERS[name]
    for bad in (f"a\0b{suffix}", f"\ud800{suffix}", "x" * 300 + suffix, f"none/there{suffix}"):
        with pytest.raises(error):
            write(tmp_path / bad)
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(error, match=rf"folder\{suffix}.*folder"):
        write(tmp_path / f"folder{suffix}")
    write(tmp_path / ("n" * (255 - len(suffix)) + suffix))          # the longest legal name
    assert len(list(tmp_path.iterdir())) == 2


@posix
@pytest.mark.parametrize("name", WRITERS)
def test_permissions_and_links_stay(name, tmp_path):
    write, suffix, _ = WRITERS[name]
    path, link = tmp_path / f"file{suffix}", tmp_path / f"link{suffix}"
    before = os.umask(0o022)
    try:
        write(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644           # what the umask leaves
        for mode in (0o600, 0o666):
            path.chmod(mode)
            link.unlink(missing_ok=True)
            link.symlink_to(path)
            write(link)
            assert link.is_symlink()
            assert stat.S_IMODE(path.stat().st_mode) == mode
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@posix
def test_the_umask_of_other_threads_is_left_alone(tmp_path, monkeypatch):
    def changed(mask):
        raise AssertionError("os.umask was called")
    monkeypatch.setattr(os, "umask", changed)
    save_weights(STATE, tmp_path / "w.safetensors")


@posix
@pytest.mark.parametrize("name", READERS)
def test_a_named_pipe_a_device_and_a_folder_are_refused_without_waiting(name, tmp_path):
    read, error = READERS[name]
    os.mkfifo(tmp_path / "pipe.svg")
    (tmp_path / "folder.svg").mkdir()
    for path in (tmp_path / "pipe.svg", "/dev/null", tmp_path / "folder.svg", tmp_path / "none.svg",
                 "a\0b.svg", "\ud800.svg", "x" * 5000):
        with pytest.raises(error):
            read(path)


@posix
def test_a_device_is_not_replaced_by_a_file():
    with pytest.raises(CheckpointError, match="/dev/null cannot be written: it is no regular file"):
        save_weights(STATE, "/dev/null")
    assert not stat.S_ISREG(os.stat("/dev/null").st_mode)


@posix
def test_the_tuned_choices_do_not_wait_for_a_pipe(tmp_path):
    from tinygrad_cnn.kernels import autotune as tune
    os.mkfifo(tmp_path / tune._file_name())
    words = "is not a regular file; it is ignored"
    with pytest.warns(RuntimeWarning, match=words), tc.autotune(tmp_path):
        pass


@posix
def test_what_a_killed_process_left_is_removed_by_the_next_save(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(STATE, path)
    whole = path.read_bytes()
    code = ("import sys\nfrom tinygrad_cnn.files import write_atomically\n"
            "with write_atomically(sys.argv[1]) as file:\n"
            "    file.write(b'half'); file.flush(); print('ready', flush=True); sys.stdin.read()\n")
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ,
                                                                    "PYTHONPATH": str(ROOT)})
    assert child.stdout.readline() == b"ready\n"
    assert len(list(tmp_path.iterdir())) == 2
    save_weights(STATE, path)                           # the other process still runs
    assert len(list(tmp_path.iterdir())) == 2
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdin.close()
    child.stdout.close()
    assert path.read_bytes() == whole
    save_weights(STATE, path)
    assert list(tmp_path.iterdir()) == [path]


def test_saves_of_several_threads_are_whole_and_leave_nothing(tmp_path):
    path = tmp_path / "w.safetensors"

    def save(value):
        for _ in range(20):
            save_weights({"w": np.full(1000, value)}, path)
            found = load_weights(path)["w"]
            assert (found == found[0]).all()

    threads = [threading.Thread(target=save, args=(float(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_block_passes_and_leaves_nothing(tmp_path):
    for error in (ZeroDivisionError, ValueError, KeyboardInterrupt):
        def fail(error=error):
            with write_atomically(tmp_path / "x") as file:
                file.write(b"half")
                raise error("from the block")
        with pytest.raises(error, match="from the block"):
            fail()
        assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_read_on_is_an_error_of_the_caller(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")

    def read():
        with open_file(tmp_path / "x", KeyError) as file:
            assert file.read() == b"abc"
            raise OSError(5, "Input/output error")
    with pytest.raises(KeyError, match="cannot be read: Input/output error"):
        read()
