"""Files written whole or not at all, and read only where they are files.

Full and failing disks, kills, and hostile names: tests/reliability.
"""

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
from reliability.writers import WRITERS
from tinygrad_cnn import CheckpointError
from tinygrad_cnn.files import open_file, write_atomically
from tinygrad_cnn.io import load_weights, save_weights

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name != "posix", reason="permissions, pipes and signals of POSIX")
STATE = {"w": np.arange(4.0)}


@posix
@pytest.mark.parametrize("name", WRITERS)
def test_permissions_and_links_stay(name, tmp_path):
    write, suffix = WRITERS[name].write, WRITERS[name].suffix
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
