"""Where a step spends its time: rows, counts and the command."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn, optim
from tinygrad_cnn.cli import main
from tinygrad_cnn.train import profile

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)


def net():
    return nn.Sequential(nn.Conv2D(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(None, 5))


def test_the_rows_make_up_the_step():
    found = profile(net(), IMAGES, np.array([1, 4]), steps=2)
    assert sum(row.seconds for row in found.rows) == pytest.approx(found.seconds, rel=0.02)
    assert [row.seconds for row in found.rows] == sorted((row.seconds for row in found.rows),
                                                         reverse=True)


def test_calls_operations_and_bytes_are_counted():
    rows = {(row.phase, row.op): row for row in profile(net(), IMAGES, np.array([1, 4])).rows}
    conv = rows["forward", "conv2d"]
    assert (conv.shape, conv.calls) == ((2, 8, 8, 4), 1)
    assert conv.flops == 2 * 2 * 8 * 8 * 9 * 3 * 4
    assert conv.bytes == 4 * (2 * 8 * 8 * 3 + 9 * 3 * 4 + 4 + 2 * 8 * 8 * 4)
    back = rows["backward", "conv2d"]
    assert back.calls == 1
    assert back.bytes == 4 * (2 * 8 * 8 * 4 + 9 * 3 * 4 + 4)    # not the gradient of the images


def test_the_table_says_shares_and_rates():
    lines = str(profile(net(), IMAGES, np.array([1, 4]), steps=1)).splitlines()
    assert lines[0].endswith(" ms a step")
    assert lines[1].split() == ["phase", "op", "result", "calls", "ms", "share", "GFLOP/s", "GB/s"]
    assert any(line.startswith("forward   conv2d ") and "2×8×8×4" in line for line in lines)


def test_another_loss_and_optimizer_are_used():
    model, seen = net(), []
    model(IMAGES)

    def loss(scores, labels):
        seen.append(labels)
        return (scores * scores).sum()

    before = model.state_dict()
    profile(model, IMAGES, "labels", loss=loss, optimizer=optim.SGD(model.parameters(), 0.0),
            steps=1)
    assert seen == ["labels"] * 3
    assert all((before[name] == value).all() for name, value in model.state_dict().items())
    with pytest.raises(tc.SettingError, match="steps must be an integer of at least 1, got 0"):
        profile(model, IMAGES, np.array([1, 4]), steps=0)


def test_the_command_profiles_a_model_by_name_or_of_ones_own(capsys, tmp_path, monkeypatch):
    words = ["--batch-size", "2", "--steps", "1", "--no-compiled"]
    assert main(["profile", "--model", "lenet", *words]) == 0
    assert "lenet, batch 2, pure NumPy: " in capsys.readouterr().out
    (tmp_path / "nets_of_mine.py").write_text(
        "from tinygrad_cnn import nn\n"
        "def small(): return nn.Sequential(nn.Flatten(), nn.Linear(12, 10))\n"
        "def number(): return 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["profile", "--model", "nets_of_mine:small", "--image-shape", "2x2x3", *words]) == 0
    assert "linear" in capsys.readouterr().out
    for name, why in (("nets_of_mine:number", "gave int"), ("nets_of_mine:none", "no attribute"),
                      ("nowhere_at_all:net", "No module named")):
        assert main(["profile", "--model", name, *words]) == 2
        assert why in capsys.readouterr().err
