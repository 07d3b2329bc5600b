"""The command line: what each verb prints, writes and exits with."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import __version__, data
from tinygrad_cnn.cli import main, recipes
from tinygrad_cnn.io import load_weights
from tinygrad_cnn.models import MODELS, build
from tinygrad_cnn.train import History


@pytest.mark.parametrize("bar, expected, said", [
    (0.0, 0, ""), (1.01, 1, "below the accuracy of 101 %\n")])
def test_demo_trains_prints_writes_and_is_judged(bar, expected, said, tmp_path, capsys,
                                                 monkeypatch):
    monkeypatch.setattr("tinygrad_cnn.cli.verbs.DEMO_ACCURACY", bar)
    assert main(["demo", "--epochs", "1", "--out", str(tmp_path)]) == expected
    out, err = capsys.readouterr()
    assert err == said
    assert "Conv2D" in out
    assert re.search(r"epoch 1/1  loss [\d.]+  accuracy [\d.]+ %", out)
    assert re.search(r"test accuracy [\d.]+ % \(\d+ of 397 images;", out)
    assert {p.name for p in tmp_path.iterdir()} >= {"history.csv", "run.json", "graph.dot"}
    assert len(History.load(tmp_path / "history.csv")) == 1
    assert (tmp_path / "graph.dot").read_text().lstrip().startswith(("digraph", "//", "strict"))


def test_train_then_eval_gives_the_same_accuracy(tmp_path, capsys):
    assert main(["train", "--data", "digits", "--epochs", "1", "--limit", "300", "--validation",
                 "100", "--out", str(tmp_path)]) == 0
    trained = capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {
        "history.csv", "run.json", *(f"{name}.safetensors" for name in ("weights", "best",
                                                                         "checkpoint"))}
    weights = ["--data", "digits", "--weights", str(tmp_path / "weights.safetensors")]
    assert main(["eval", *weights]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert main(["graph", "--model", "digits", *weights]) == 0
    assert "conv2d" in capsys.readouterr().out
    assert main(["eval", *weights, "--confusion"]) == 0
    judged = capsys.readouterr().out
    assert "test accuracy" in trained
    assert "test accuracy" in judged
    assert len(judged.splitlines()) == 12                   # the line, a head, ten classes


def test_the_same_seed_gives_the_same_weights(tmp_path, capsys):
    for name in "ab":
        main(["train", "--data", "digits", "--epochs", "1", "--limit", "100", "--seed", "3",
              "--out", str(tmp_path / name)])
    capsys.readouterr()
    a, b = (load_weights(tmp_path / name / "weights.safetensors") for name in "ab")
    assert all((a[key] == b[key]).all() for key in a)


def test_a_bar_for_train(tmp_path, capsys):
    words = ["train", "--data", "digits", "--epochs", "1", "--limit", "64", "--out", str(tmp_path)]
    assert main([*words, "--min-accuracy", "0"]) == 0
    assert main([*words, "--min-accuracy", "1.01"]) == 1
    capsys.readouterr()


@pytest.mark.parametrize("name", MODELS)
def test_summary_of_every_model(name, capsys):
    assert main(["summary", "--model", name, "--image-shape", "32x32x3"]) == 0
    assert "parameters" in capsys.readouterr().out.splitlines()[-1]


def test_resnet20_has_the_published_number_of_parameters():
    # He et al. count 0.27 M for the CIFAR ResNet-20; with projection shortcuts 272,474.
    assert sum(p.size for p in build("resnet20", (32, 32, 3), 10).parameters()) == 272_474


def test_data_says_what_is_there(capsys):
    assert main(["data", "digits"]) == 0
    assert "1,400 + 397 images of 8×8×1, 10 classes" in capsys.readouterr().out
    assert main(["data"]) == 0


def test_threads_are_set_and_gradients_tested_from_the_command_line(capsys):
    assert main(["summary", "--threads", str(tc.get_num_threads())]) == 0
    assert main(["gradtest", "relu"]) == 0
    assert "1 ops, " in capsys.readouterr().out


@pytest.mark.parametrize("flip, shift, names", [
    (False, 0, []), (True, 0, ["RandomFlip"]), (False, 2, ["RandomShift"]),
    (True, 2, ["RandomFlip", "RandomShift"])])
def test_a_recipe_says_how_images_are_varied(flip, shift, names):
    train, _ = data.load("digits")
    first, second = recipes.transforms(train, recipes.Recipe("lenet", flip=flip, shift=shift))
    kinds = [[type(t).__name__ for t in both.steps] for both in (first, second)]
    assert kinds == [[*names, "ToFloat", "Normalize"], ["ToFloat", "Normalize"]]


def test_graph_is_drawn_from_the_command_line(tmp_path, capsys):
    for suffix in ("svg", "dot", "html", "mmd", "json", "txt"):
        path = tmp_path / f"net.{suffix}"
        assert main(["graph", "--model", "digits", "--data", "digits", "--backward", "--out",
                     str(path)]) == 0
        assert path.stat().st_size > 500
    assert main(["graph", "--image-shape", "12x12x1"]) == 0
    assert "conv2d" in capsys.readouterr().out


def test_a_model_of_ones_own_is_drawn_in_a_format(tmp_path, capsys):
    file = tmp_path / "nets.py"
    file.write_text("from tinygrad_cnn import nn\n\n\nclass Net(nn.Sequential):\n"
                    "    def __init__(self):\n"
                    "        super().__init__(nn.Flatten(), nn.Linear(None, 3))\n")
    out = tmp_path / "net.svg"
    assert main(["graph", "--model", f"{file}:Net", "--image-shape", "4x4x1", "--for", "slide",
                 "--direction", "LR", "--out", str(out)]) == 0
    assert ">Net</text>" in out.read_text()
    assert main(["graph", "--model", "tinygrad_cnn.models:resnet20", "--image-shape",
                 "32x32x3"]) == 0
    assert "stage1[1…2] × 2" in capsys.readouterr().out


@pytest.mark.parametrize("words, message", [
    (["train", "--data", "nowhere"], "nowhere"),
    (["data", "cifar10", "--root", "nowhere"], "nowhere"),
    (["graph", "--batch-size", "1"], "graph: needs a batch of at least 2 and a class, got 1"),
    (["eval", "--data", "digits", "--weights", "none.st"], "none.st does not exist"),
    (["graph", "--model", "alexnet"], "model 'alexnet' cannot be loaded"),
    (["graph", "--model", "nowhere:Net"], "No module named 'nowhere'"),
    (["graph", "--model", "math:tau"], "math:tau"),
    (["graph", "--model", "lenet", "--out", "x.bmp"], "bmp"),
    (["train", "--data", "digits", "--validation", "5000"], "validation must be from 0"),
])
def test_what_cannot_be_used_exits_with_2_and_one_reason(words, message, capsys):
    assert main(words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("tinygrad-cnn: ")
    assert "Traceback" not in err


@pytest.mark.parametrize("words", [
    [], ["fly"], ["demo", "--epochs", "0"], ["demo", "--seed", "-1"], ["train"],
    ["train", "--data", "digits", "--model", "alexnet"], ["summary", "--image-shape", "8x8"],
])
def test_a_wrong_call_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: tinygrad-cnn" in capsys.readouterr().err


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "tinygrad_cnn", "--version"], capture_output=True,
                          text=True, check=True)
    assert done.stdout == f"tinygrad-cnn {__version__}\n"


def test_models_are_built_with_known_sizes():
    for name in MODELS:
        model = build(name, (8, 8, 1), 3, rng=np.random.default_rng(0))
        assert model.training
        assert all(p.size for p in model.parameters())


def test_a_run_is_repeated_to_the_bit_or_it_is_said_what_differs(tmp_path, capsys):
    assert main(["train", "--data", "digits", "--epochs", "1", "--limit", "96", "--out",
                 str(tmp_path)]) == 0
    file = tmp_path / "run.json"
    receipt = json.loads(file.read_text())
    machine = receipt["machine"] | {"system": "Another"}
    for changed, status, says in (
            ({}, 0, "the same to the bit"),
            ({"loss": [9.0]}, 1, "the losses differ from epoch 1 on"),
            ({"loss": [9.0], "machine": machine}, 0, "system: 'Another' then"),
            ({"loss": [9.0], "machine": machine, "test": {"accuracy": 2.0, "loss": 9.0}}, 1,
             "beyond 0.02"),
            ({"data": ["0", "0"]}, 1, "the data are others")):
        file.write_text(json.dumps(receipt | changed))
        capsys.readouterr()
        assert main(["verify", str(tmp_path)]) == status, says
        assert says in capsys.readouterr().out
