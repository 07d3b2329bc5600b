"""The page on data: each block runs as written, and prints what is shown below it."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_each_block_of_the_page_runs_and_prints_what_is_shown(monkeypatch):
    pytest.importorskip("PIL", reason="the page reads pictures (extra train)")
    monkeypatch.chdir(PAGE.parents[1])
    namespace: dict[str, object] = {"__name__": "data_page"}
    printed, shown = None, 0
    blocks = FENCE.findall(PAGE.read_text(encoding="utf-8"))
    for language, text in blocks:
        if language == "python":
            assert not printed, f"nothing is shown for the output {printed!r}"
            room = io.StringIO()
            with contextlib.redirect_stdout(room):
                exec(compile(text, str(PAGE), "exec"), namespace)
            printed = room.getvalue()
        else:
            assert language == "text"
            assert printed == text
            printed, shown = "", shown + 1
    assert shown >= 8


def test_the_page_names_every_public_name_of_the_loaders_and_transforms():
    import tinygrad_cnn.data as room
    text = PAGE.read_text(encoding="utf-8")
    internal = {"Splits", "Transform", "NAMES", "check_labels", "load_digits", "load_idx",
                "load_cifar10", "load_image_folder", "read_cifar_binary", "read_cifar_python"}
    assert [name for name in sorted(set(room.__all__) - internal) if name not in text] == []
