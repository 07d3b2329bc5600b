"""The command line at its edges: one line and a documented status, whatever is given to it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinygrad_cnn import cli
from tinygrad_cnn.cli import main, verbs

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name != "posix", reason="pipes and devices of POSIX")


def shell(line):
    """The finished command; ``cnn`` in the line is the command line of this copy."""
    command = f"'{sys.executable}' -m tinygrad_cnn"
    return subprocess.run(["bash", "-c", "set -o pipefail; " + line.replace("cnn", command)],
                          capture_output=True, cwd=ROOT, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})


@posix
@pytest.mark.parametrize("verb", ["graph", "data digits", "--help"])
def test_a_reader_that_goes_away_ends_the_command_quietly(verb):
    done = shell(f"cnn {verb} | head -c1")
    assert done.stderr == b""
    assert done.returncode in (0, 141)                  # 0: all was written before it went


@posix
def test_a_full_disk_at_the_end_of_a_pipe_is_one_line():
    done = shell("cnn summary > /dev/full")
    assert done.returncode == 2
    assert done.stderr == b"tinygrad-cnn: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
@pytest.mark.parametrize("verb", ["summary", "graph", "data digits"])
def test_a_terminal_of_few_letters_shows_question_marks(verb, encoding, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(verb.split()) == 0
    assert len(terminal.buffer.getvalue().decode(encoding)) > 50
    assert terminal.errors == "strict"


@pytest.mark.parametrize("words, message", [
    (["train", "--data", "/dev/null"], "/dev/null: cannot be read: Not a directory"),
    (["train", "--data", "x" * 5000], "File name too long"),
    (["train", "--data", "~nobody_xyz/a"], "~nobody_xyz/a: cannot be read"),
    (["train", "--data", "digits", "--out", "/dev/null/x"], "--out /dev/null/x cannot be made"),
    (["eval", "--data", "digits", "--weights", "/dev/null"], "/dev/null: is not a regular file"),
    (["eval", "--data", "digits", "--weights", "a\0b"], "cannot be read"),
    (["graph", "--batch-size", "999999999"], "values are more than the 268,435,456"),
    (["profile", "--batch-size", "999999999"], "values are more than the 268,435,456"),
])
def test_what_cannot_be_used_is_one_line_and_status_2(words, message, capsys, tmp_path,
                                                      monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("tinygrad-cnn: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("verb", ["summary", "graph", "profile"])
@pytest.mark.parametrize("shape, message", [
    ("999999x999999x999", "an image of more than 16,777,216 values"),
    ("0x2x2", "each size must be at least 1"), ("8x8", "is not HxWxC")])
def test_an_absurd_image_is_refused_before_memory_is_asked_for(verb, shape, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--image-shape", shape])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("error, status, message", [
    (KeyboardInterrupt(), 130, "tinygrad-cnn: interrupted\n"),
    (MemoryError("1 PiB"), 2, "tinygrad-cnn: there is not enough memory: 1 PiB\n"),
    (OSError(5, "Input/output error", "runs/x"), 2, "tinygrad-cnn: runs/x: Input/output error\n"),
    (BrokenPipeError(32, "Broken pipe"), 141, ""),
])
def test_each_way_to_end_has_its_status_and_is_documented(error, status, message, capsys,
                                                          monkeypatch):
    def fail(_):
        raise error
    monkeypatch.setattr(verbs, "_status", fail)
    monkeypatch.setattr(verbs, "_give_up_output", lambda: None)
    assert main(["summary"]) == status
    assert capsys.readouterr().err == message
    assert str(status) in cli.__doc__
