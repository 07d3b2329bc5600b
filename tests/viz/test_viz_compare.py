"""Graphs under test: text that names structure alone, a golden file, a difference."""

from dataclasses import replace

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn, viz
from tinygrad_cnn.viz import compare
from viz import zoo

LENET = """\
tinygrad_cnn graph 1
x = input -> N×28×28×1 float32
conv1.weight = parameter -> 5×5×1×8 float32
conv1.bias = parameter -> 8 float32
conv1.conv2d = conv2d(5×5, stride 1, 1→8 channels) x conv1.weight conv1.bias -> N×28×28×8 float32
relu = relu() conv1.conv2d -> N×28×28×8 float32
max_pool2d = max_pool2d(2×2, stride 2) relu -> N×14×14×8 float32
conv2.weight = parameter -> 3×3×8×16 float32
conv2.bias = parameter -> 16 float32
conv2.conv2d = conv2d(3×3, stride 1, 8→16 channels) max_pool2d conv2.weight conv2.bias -> \
N×12×12×16 float32
relu#2 = relu() conv2.conv2d -> N×12×12×16 float32
max_pool2d#2 = max_pool2d(2×2, stride 2) relu#2 -> N×6×6×16 float32
flatten = flatten() max_pool2d#2 -> N×576 float32
fc.weight = parameter -> 576×10 float32
fc.bias = parameter -> 10 float32
fc.linear = linear(576→10) flatten fc.weight fc.bias -> N×10 float32
y = label -> N int64
cross_entropy = cross_entropy() fc.linear y -> scalar float32
"""


def test_canonical_text_names_structure_alone(nets):
    assert viz.Figure(nets.lenet()).canonical(batch="N") == LENET    # a bias of 8 is no batch of 8


def test_the_text_holds_for_every_batch_and_for_new_weights(nets):
    images = np.zeros((2, 12, 12, 1), np.float32), np.ones((5, 12, 12, 1), np.float32)
    a, b = (nets.LeNet(seed).graph(x) for seed, x in enumerate(images))
    assert a.canonical(batch="N") == b.canonical(batch="N")
    assert a.canonical() != b.canonical()


def test_a_golden_file_is_written_on_request_and_held_to(nets, tmp_path, monkeypatch):
    path = tmp_path / "lenet.txt"
    figure = viz.Figure(nets.lenet())
    with pytest.raises(AssertionError, match="does not exist; run once with TINYGRAD_CNN_UPDATE"):
        viz.assert_graph_unchanged(figure, path)
    monkeypatch.setenv(compare.UPDATE, "1")
    viz.assert_graph_unchanged(figure, path)
    monkeypatch.delenv(compare.UPDATE)
    assert path.read_text(encoding="utf-8") == LENET
    viz.assert_graph_unchanged(figure, path)


def test_a_changed_graph_fails_with_a_line_diff(nets, tmp_path):
    path = tmp_path / "lenet.txt"
    path.write_text(LENET, encoding="utf-8")
    recording = nets.lenet()
    entries = list(recording.entries)
    entries[4] = replace(entries[4], op="gelu")
    with pytest.raises(AssertionError) as caught:
        viz.assert_graph_unchanged(viz.Figure(replace(recording, entries=tuple(entries))), path)
    lines = str(caught.value).splitlines()
    assert "-relu = relu() conv1.conv2d -> N×28×28×8 float32" in lines
    assert "+gelu = gelu() conv1.conv2d -> N×28×28×8 float32" in lines
    assert "TINYGRAD_CNN_UPDATE_GRAPHS=1" in lines[0]


def test_a_tensor_may_be_held_to_a_file(tmp_path):
    w = tc.Parameter([1.0, 2.0], name="w")
    viz.assert_graph_unchanged((w * w).sum(), tmp_path / "g.txt", update=True)
    viz.assert_graph_unchanged((w * w).sum(), tmp_path / "g.txt")
    with pytest.raises(AssertionError, match="the graph has changed"):
        viz.assert_graph_unchanged((w + w).sum(), tmp_path / "g.txt")


def net(*layers):
    rng = np.random.default_rng(0)

    class Net(nn.Module):
        def __init__(self):
            self.first = nn.Linear(6, layers[0], rng=rng)
            self.second = nn.Linear(layers[0], 3, rng=rng)

        def forward(self, x):
            x = self.first(x)
            for f in layers[1:]:
                x = f(x)
            return self.second(x)

    return viz.graph_of_module(Net(), np.ones((2, 6), np.float32))


def structure(difference):
    """The lines without the figures of the runs."""
    return [line for line in str(difference).splitlines() if "(× " not in line]


def test_equal_graphs_do_not_differ(nets, monkeypatch):
    difference = viz.diff(net(4, tc.relu), net(4, tc.relu))
    assert not difference
    assert structure(difference) == ["the graphs are equal"]
    monkeypatch.setattr(compare, "_MOST_ALIGNED", 20)
    assert not viz.diff(nets.chain(9), viz.Figure(nets.chain(9)))       # 20 tensors together
    with pytest.raises(tc.VizError, match="11 and 10 tensors are too many to align; compare"):
        viz.diff(nets.chain(10), nets.chain(9))


def test_a_difference_lists_what_was_added_removed_and_changed():
    difference = viz.diff(net(4, tc.relu), net(5, tc.relu, tc.tanh))
    assert [line.split(" = ")[0] for line in difference.added] == ["tanh"]
    assert difference.removed == ()
    assert [new.split(" = ")[0] for _, new in difference.changed] == [
        "first.weight", "second.linear"]
    assert difference.follow == ("first.bias: 4 → 5", "first.linear: 2×4 → 2×5",
                                 "relu: 2×4 → 2×5", "second.weight: 4×3 → 5×3")
    old, new = difference.changed[0]
    assert (old, new) == ("first.weight = parameter -> 6×4 float32",
                          "first.weight = parameter -> 6×5 float32")


def test_an_inserted_op_does_not_rename_those_after_it():
    difference = viz.diff(net(4, tc.relu, tc.relu), net(4, tc.relu, tc.tanh, tc.relu))
    assert [line.split(" = ")[0] for line in difference.added] == ["tanh"]
    assert [new.split(" = ")[0] for _, new in difference.changed] == ["relu#2"]


def test_a_cause_stands_before_the_shapes_that_follow():
    def strided(stride):
        class Net(nn.Module):
            def __init__(self):
                self.conv = nn.Conv2D(1, 2, 3, stride=stride, padding=1)

            def forward(self, x):
                return tc.relu(tc.max_pool2d(tc.relu(self.conv(x)), kernel_size=2))

        return Net().graph(np.ones((1, 16, 16, 1), np.float32))

    difference = viz.diff(strided(1), strided(2))
    assert structure(difference) == [
        "1 setting changed, 3 shapes follow",
        "- conv.conv2d = conv2d(3×3, stride 1, pad 1, 1→2 channels) x conv.weight conv.bias -> "
        "1×16×16×2 float32",
        "+ conv.conv2d = conv2d(3×3, stride 2, pad 1, 1→2 channels) x conv.weight conv.bias -> "
        "1×8×8×2 float32",
        "~ relu: 1×16×16×2 → 1×8×8×2", "~ max_pool2d: 1×8×8×2 → 1×4×4×2",
        "~ relu#2: 1×8×8×2 → 1×4×4×2"]


def test_a_renamed_module_is_recognized():
    def named(name):
        class Net(nn.Module):
            def __init__(self):
                setattr(self, name, nn.Conv2D(1, 2, 3))

            def forward(self, x):
                return tc.relu(getattr(self, name)(x))

        return Net().graph(np.ones((1, 8, 8, 1), np.float32))

    difference = viz.diff(named("c1"), named("stem"))
    assert difference
    assert structure(difference) == [
        "3 renamed", "~ c1.weight → stem.weight", "~ c1.bias → stem.bias",
        "~ c1.conv2d → stem.conv2d"]
    notes = [e.note for e in difference.merged.entries]
    assert "renamed c1.conv2d → stem.conv2d" in notes


def test_what_an_op_reads_instead_is_said():
    x, y = (tc.Parameter([1.0, 2.0], name=n) for n in "xy")
    difference = viz.diff(viz.graph((x * y + x).sum()), viz.graph((x * y + y).sum()))
    assert [e.note for e in difference.merged.entries if e.note] == ["reads x → y"]
    assert difference.changed == (("add = add() mul x -> 2 float32",
                                   "add = add() mul y -> 2 float32"),)


def test_the_picture_of_a_difference_marks_its_cards():
    figure = viz.diff(net(4, tc.relu), net(4, tc.tanh)).figure(level="everything")
    marks = {c.title: c.change for c in figure.diagram.cards}
    assert marks["tanh"] == "added"
    assert marks["relu"] == "removed"
    assert marks["linear"] == "changed"      # the last reads tanh now
    assert "#5 · added" in {c.tag for c in figure.diagram.cards}
    assert "+ tanh" in figure.text()
    assert "- relu" in figure.text()
    assert "<svg" in figure.svg()


def test_a_changed_setting_shows_old_and_new():
    x = tc.Parameter(np.ones((1, 4, 4, 1)), name="x")
    a, b = (viz.graph(tc.max_pool2d(x, kernel_size=2, stride=s).sum()) for s in (1, 2))
    figure = viz.diff(a, b).figure()
    pool = next(c for c in figure.diagram.cards if c.title == "max_pool2d")
    assert any("stride 1 → stride 2; 1×3×3×1 → 1×2×2×1" in row.text for row in pool.rows)


def test_the_figures_of_two_runs_are_compared():
    def run(scale, n=4):
        loss = zoo.classified(nn.Sequential(zoo.dense(6, 12), nn.ReLU(), zoo.dense(12, 10)),
                              zoo.rows(n) * np.float32(scale))
        return loss.graph()

    old, new = run(1), run(8)
    difference = viz.diff(old, new)
    assert structure(difference) == ["the graphs are equal"]
    found = {(n.name, n.what): n for n in difference.numbers}
    loss, weight = found["", "loss"], found["0.weight", "gradient"]
    assert (loss.old, loss.new) == tuple(f.recording.entries[-1].value.signed for f in (old, new))
    entry, = (e for e in new.recording.entries if e.path == "0.weight")
    assert weight.new == entry.gradient.rms
    assert weight.ratio > 4
    ratios = [abs(np.log(n.ratio)) for n in difference.numbers if n.name]
    assert ratios == sorted(ratios, reverse=True)
    assert not any(n.what == "time" for n in difference.numbers)
    larger = viz.diff(old, run(1, 12))
    assert structure(larger) == ["the graphs are equal"]
    assert "batch 4 → 12 (× 3.0)" in str(larger)
    kept = sum(e.kept for e in old.recording.entries)
    assert ("", "memory", kept, 3 * kept) in [
        (n.name, n.what, n.old, n.new) for n in larger.numbers]
