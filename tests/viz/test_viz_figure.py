"""A figure in its forms: files, notebook, loading back, motion; and errors in one line."""

import json
import os
import re
import xml.etree.ElementTree as ElementTree

import pytest

from tinygrad_cnn import viz
from tinygrad_cnn.errors import VizError
from tinygrad_cnn.viz.figure import SUFFIXES


@pytest.fixture
def figure(nets):
    return viz.Figure(nets.lenet())


@pytest.mark.parametrize("suffix, begins", [
    (".svg", "<?xml"), (".dot", "digraph"), (".mmd", "flowchart TD"), (".json", "{"),
    (".html", "<!doctype html>"), (".txt", "LeNet\n")])
def test_a_figure_saves_in_the_format_of_the_suffix(figure, tmp_path, suffix, begins):
    path = figure.save(tmp_path / f"graph{suffix}")
    assert path.read_text(encoding="utf-8").startswith(begins)
    assert [p.name for p in tmp_path.iterdir()] == [f"graph{suffix}"]


@pytest.mark.parametrize("suffix", [".json", ".svg", ".html"])
def test_a_saved_figure_can_be_loaded_and_drawn_at_another_level(figure, tmp_path, suffix):
    path = figure.save(tmp_path / f"graph{suffix}")
    again = viz.load(path, level="operators")
    assert again.recording == figure.recording
    assert again.diagram.level == "operators"


def test_saving_twice_gives_the_same_bytes(nets, tmp_path):
    for suffix in SUFFIXES:
        if suffix in (".png", ".pdf"):
            continue
        a, b = (viz.Figure(nets.lenet()).save(tmp_path / f"{k}{suffix}").read_bytes()
                for k in "ab")
        assert a == b, suffix


@pytest.mark.parametrize("name, message", [
    ("graph", r"'graph' has the suffix 'none'; choose from \.svg"),
    ("graph.gif", r"'graph\.gif' has the suffix '\.gif'; choose from \.svg, \.png"),
    ("missing/graph.svg", r"the folder .*missing does not exist; create it first")])
def test_a_bad_path_is_refused_and_leaves_nothing(figure, tmp_path, name, message):
    with pytest.raises(VizError, match=message) as caught:
        figure.save(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_refused(figure, tmp_path):
    (tmp_path / "graph.svg").mkdir()
    with pytest.raises(VizError, match="is a folder; give a file name"):
        figure.save(tmp_path / "graph.svg")


def test_a_folder_that_cannot_be_written_is_refused(figure, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(VizError, match="cannot be written; choose another"):
        figure.save(tmp_path / "graph.svg")


def test_a_disk_that_fills_leaves_no_partial_file(figure, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(VizError, match="cannot be written: No space left on device"):
        figure.save(tmp_path / "graph.svg")
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_stays_if_the_new_one_fails(figure, tmp_path, monkeypatch):
    path = tmp_path / "graph.txt"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "broken")))
    with pytest.raises(VizError, match="broken"):
        figure.save(path)
    assert path.read_text() == "old"


def test_a_wild_resolution_is_refused(figure, tmp_path):
    with pytest.raises(VizError, match="dpi must be between 20 and 1200, got 0"):
        figure.save(tmp_path / "graph.png", dpi=0)


@pytest.mark.parametrize("settings, message", [
    ({"theme": "pink"}, "theme 'pink' is unknown; choose from auto, light, dark"),
    ({"level": "deep"}, "level 'deep' is unknown")])
def test_an_unknown_setting_is_refused_at_once(nets, settings, message):
    with pytest.raises(VizError, match=message):
        viz.Figure(nets.lenet(), **settings)


@pytest.mark.parametrize("content, message", [
    ("{", "is not JSON"), ("[1]", "was not saved by tinygrad_cnn"), ("{}", "was not saved"),
    ('{"format": "tinygrad_cnn graph 1"}', "Recording should be Recording"),
    ('{"format": "tinygrad_cnn graph 1", "recording": {"title": 3, "entries": [], "output": 0}}',
     r"Recording\.title should be str"),
    ('{"format": "tinygrad_cnn graph 1", "recording": {"title": "", "entries": [], "output": 0}}',
     "output 0 is outside the 0 entries"),
    ('{"format": "tinygrad_cnn graph 1", "recording": {"title": "", "evil": 1}}',
     "has no field 'evil'"),
    ('{"format": "tinygrad_cnn graph 1", "recording": {"title": "", "output": 0, "entries": '
     '[{"role": "op", "shape": [1], "dtype": "f", "op": "a", "inputs": [0], "arguments": ["x"]}]}}',
     "entry 0 reads"),
    ("[" * 100_000, "is not JSON")])
def test_a_file_that_is_no_figure_is_refused(tmp_path, content, message):
    path = tmp_path / "graph.json"
    path.write_text(content)
    with pytest.raises(VizError, match=message):
        viz.load(path)


@pytest.mark.parametrize("name, content, message", [
    ("a.svg", b"<svg></svg>", "holds no graph; save the figure as .json"),
    ("a.png", b"\x89PNG\xff", "is not text"), ("none.svg", None, "cannot be read: No such file")])
def test_a_picture_without_a_graph_cannot_be_loaded(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(VizError, match=message):
        viz.load(tmp_path / name)


def test_a_notebook_gets_a_picture_and_words(figure):
    bundle = figure._repr_mimebundle_()
    assert set(bundle) == {"image/svg+xml", "text/plain"}
    ElementTree.fromstring(bundle["image/svg+xml"])
    assert bundle["text/plain"] == str(figure)


def test_two_figures_in_one_notebook_share_no_id(nets):
    a, b = viz.Figure(nets.lenet()).svg(), viz.Figure(nets.resnet(3)).svg()
    ids = [set(re.findall(r'\sid="([^"]+)"', s)) for s in (a, b)]
    assert not ids[0] & ids[1]
    for s, names in ((a, ids[0]), (b, ids[1])):
        scope = min(names, key=len)
        rules = s[s.index("<style>") + 7:s.index("</style>")]
        selectors = re.findall(r"(?:^|[{}])([^{}@]+)\{", rules)
        assert selectors
        assert all(sel.strip().startswith(f"#{scope}") for sel in selectors)


def test_the_interactive_frame_is_sandboxed(figure):
    frame = figure.interactive()._repr_html_()
    assert frame.startswith('<iframe sandbox="allow-scripts"')
    assert "allow-same-origin" not in frame


def test_words_for_a_terminal_name_shapes_gradients_and_warnings(figure):
    words = figure.text()
    assert "conv2d #3" in words
    assert "5×5 · stride 1 · 1→8 channels" in words
    assert "grad 0.10" in words
    assert "! 2 of 16 channels are dead" in words
    assert words.count("\n") < 40


def test_mermaid_names_every_card_once(figure):
    chart = figure._content(".mmd", 96)
    for card in figure.diagram.cards:
        assert len(re.findall(rf"^ +{card.id}[\[(]", chart, re.MULTILINE)) == 1
    assert chart.count("subgraph ") == 3
    assert chart.count("\n    end") + chart.count("\n  end") == 3


def test_json_holds_the_recording(figure, tmp_path):
    data = json.loads(figure.save(tmp_path / "g.json").read_text(encoding="utf-8"))
    assert set(data) == {"format", "recording"}
    assert data["format"] == "tinygrad_cnn graph 1"
    assert len(data["recording"]["entries"]) == 17


def test_the_animation_follows_the_order_of_the_engine(figure, tmp_path):
    path = viz.animate(figure, tmp_path / "backward.svg")
    moving = path.read_text(encoding="utf-8")
    ElementTree.fromstring(moving)
    assert "<script" not in moving
    assert "prefers-reduced-motion" in moving
    begins = {}
    for frames, selectors in re.findall(r"@keyframes \w+\{0%,([\d.]+)%.*?\}\}(#[^{]+)\{animation",
                                        moving):
        for selector in selectors.split(","):
            begins[selector.split("-")[1].split(" ")[0]] = float(frames)
    order = [begins[e.id] for e in figure.diagram.backward()]
    assert order == sorted(order)
    assert begins["n16"] == 0.0             # the loss lights first
    assert begins["n1"] == begins["e1"]     # a parameter when its gradient arrives


def test_what_has_no_gradient_cannot_move(nets, tmp_path, batch):
    figure = nets.LeNet().graph(batch[0])
    with pytest.raises(VizError, match="no gradient was recorded"):
        viz.animate(figure, tmp_path / "a.svg")
    with pytest.raises(VizError, match=r"must end with \.svg"):
        viz.animate(figure, tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_the_backward_pass_runs_from_the_loss_to_the_first_layer(figure):
    edges = figure.diagram.backward()
    assert [edges[0].target, edges[-1].target] == ["n16", "n3"]
    assert [e.step for e in edges] == list(range(len(edges)))
