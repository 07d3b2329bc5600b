"""A figure in its forms: files, notebook, loading back, motion; and errors in one line."""

import json
import os
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn, viz
from tinygrad_cnn.errors import VizError
from tinygrad_cnn.viz.figure import SUFFIXES
from tinygrad_cnn.viz.html import module_html, tensor_html


@pytest.fixture
def figure(nets):
    return viz.Figure(nets.lenet())


@pytest.mark.parametrize("suffix, begins", [
    (".svg", "<?xml"), (".dot", "digraph"), (".mmd", "flowchart TB"), (".json", "{"),
    (".html", "<!doctype html>"), (".txt", "LeNet\n"), (".tex", "\\definecolor{net")])
def test_a_figure_saves_in_the_format_of_the_suffix_and_twice_the_same(figure, nets, tmp_path,
                                                                       suffix, begins):
    path = figure.save(tmp_path / f"graph{suffix}")
    assert path.read_text(encoding="utf-8").startswith(begins)
    assert [p.name for p in tmp_path.iterdir()] == [f"graph{suffix}"]
    again = viz.Figure(nets.lenet()).save(tmp_path / f"again{suffix}")
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("suffix", [".json", ".svg", ".html"])
def test_a_saved_figure_can_be_loaded_and_drawn_at_another_level(figure, tmp_path, suffix):
    path = figure.save(tmp_path / f"graph{suffix}")
    again = viz.load(path, level="operators")
    assert again.recording == figure.recording
    assert again.diagram.level == "operators"
    if suffix == ".json":
        data = json.loads(path.read_text(encoding="utf-8"))
        assert set(data) == {"format", "recording"}
        assert data["format"] == "tinygrad_cnn graph 1"


def test_an_empty_tensor_can_be_loaded(nets, tmp_path):
    b = nets.Builder()
    b.op("relu", (0, 3), b.leaf("input", "x", (0, 3)))
    path = viz.Figure(b.recording()).save(tmp_path / "empty.json")
    assert viz.load(path).recording == b.recording()


def test_a_large_picture_does_not_carry_its_graph(nets):
    large, small = (viz.Figure(nets.chain(n)).svg() for n in (1000, 999))
    assert "<metadata" not in large
    assert "<metadata" in small


@pytest.mark.parametrize("name, message", [
    ("graph", r"'graph' has the suffix 'none'; choose from \.svg"),
    ("graph.gif", r"'graph\.gif' has the suffix '\.gif'; choose from \.svg, \.png"),
    ("missing/graph.svg", r"the folder .*missing does not exist; create it first")])
def test_a_bad_path_is_refused_and_leaves_nothing(figure, tmp_path, name, message):
    with pytest.raises(VizError, match=message) as caught:
        figure.save(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_or_without_leave_to_write_is_refused(figure, tmp_path, monkeypatch):
    (tmp_path / "graph.svg").mkdir()
    with pytest.raises(VizError, match="is a folder; give a file name"):
        figure.save(tmp_path / "graph.svg")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(VizError, match="cannot be written: Permission denied"):
        figure.save(tmp_path / "other.svg")


def test_an_old_file_stays_if_the_disk_refuses_the_new_one(figure, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")
    path = tmp_path / "graph.txt"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(VizError, match="cannot be written: No space left on device"):
        figure.save(path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("graph.txt", "old")]


@pytest.mark.parametrize("dpi, fine", [(19, False), (20, True), (1200, True), (1201, False)])
def test_a_wild_resolution_is_refused(figure, tmp_path, dpi, fine):
    if fine:
        assert figure.save(tmp_path / "graph.txt", dpi=dpi)
    else:
        with pytest.raises(VizError, match=f"dpi must be between 20 and 1200, got {dpi}"):
            figure.save(tmp_path / "graph.png", dpi=dpi)


def test_an_unknown_theme_is_refused_at_once(nets):
    with pytest.raises(VizError, match="theme 'pink' is unknown; choose from auto, light, dark"):
        viz.Figure(nets.lenet(), theme="pink")


HEAD = '{"format": "tinygrad_cnn graph 1", "recording": '


@pytest.mark.parametrize("content, message", [
    ("{", "is not JSON"), ("[1]", "was not saved by tinygrad_cnn"), ("{}", "was not saved"),
    ('{"format": "tinygrad_cnn graph 1"}', "Recording should be Recording"),
    (HEAD + '{"title": 3, "entries": [], "output": 0}}', r"Recording\.title should be str"),
    (HEAD + '{"title": [], "entries": [], "output": 0}}', r"title should be str, .* has list"),
    (HEAD + '{"title": "", "entries": {}, "output": 0}}', r"entries should be .* has dict"),
    (HEAD + '{"title": "", "entries": [], "output": 0}}', "output 0 is outside the 0 entries"),
    (HEAD + '{"title": "", "evil": 1}}', "has no field 'evil'"),
    (HEAD + '{"title": ""}}', "lacks a field"),
    (HEAD + '{"title": "", "output": 0, "entries": [{"role": "op", "shape": [1], "dtype": "f", '
     '"op": "a", "inputs": [0], "arguments": ["x"]}]}}', "entry 0 reads"),
    (HEAD + '{"title": "", "output": 0, "entries": [{"role": "input", "shape": [-1], "dtype": "f"'
     '}]}}', r"entry 0 has the shape \(-1,\)"),
    ("[" * 100_000, "is not JSON")])
def test_a_file_that_is_no_figure_is_refused(tmp_path, content, message):
    path = tmp_path / "graph.json"
    path.write_text(content)
    with pytest.raises(VizError, match=message):
        viz.load(path)


@pytest.mark.parametrize("name, content, message", [
    ("a.svg", b"<svg></svg>", "holds no graph; save the figure as .json"),
    ("b.svg", b'<metadata id="graph">{</metadata>', "not a graph saved by tinygrad_cnn"),
    ("a.png", b"\x89PNG\xff", "is not text"), ("none.svg", None, "does not exist")])
def test_a_picture_without_a_graph_cannot_be_loaded(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(VizError, match=message):
        viz.load(tmp_path / name)


def test_two_figures_in_one_notebook_share_no_id(nets):
    figures = [viz.Figure(r) for r in (nets.lenet(), nets.resnet(3))]
    bundles = [f._repr_mimebundle_() for f in figures]
    assert all(set(b) == {"image/svg+xml", "text/plain"} for b in bundles)
    assert bundles[0]["text/plain"] == str(figures[0])
    drawn = [b["image/svg+xml"] for b in bundles]
    ids = [set(re.findall(r'\sid="([^"]+)"', s)) for s in drawn]
    assert not ids[0] & ids[1]
    for s, names in zip(drawn, ids, strict=True):
        ElementTree.fromstring(s)
        scope = min(names, key=len)
        rules = s[s.index("<style>") + 7:s.index("</style>")]
        selectors = re.findall(r"(?:^|[{}])([^{}@]+)\{", rules)
        assert selectors
        assert all(sel.strip().startswith(f"#{scope}") for sel in selectors)


def test_the_interactive_frame_is_sandboxed(figure):
    frame = figure.interactive()._repr_html_()
    assert frame.startswith('<iframe sandbox="allow-scripts"')
    assert "allow-same-origin" not in frame


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
    play, rest = 15 * 0.35, 2.0             # 14 edges and the loss, then a rest
    assert order == [round(100 * play * k / 15 / (play + rest), 2) for k in range(1, 15)]
    assert f" {play + rest:.2f}s linear infinite" in moving
    whole = [tuple(map(float, m)) for m in re.findall(
        r"\{0%,([\d.]+)%\{opacity:0\}([\d.]+)%,100%\{opacity:1\}\}", moving)]
    fade = 100 * 0.25 / (play + rest)       # a quarter of a second each
    assert all(end - start == pytest.approx(fade, abs=0.02) for start, end in whole)
    assert begins["n16"] == 0.0             # the loss lights first
    assert begins["n1"] == begins["e1"]     # a parameter when its gradient arrives


def test_what_has_no_gradient_cannot_move(nets, tmp_path, batch):
    figure = nets.LeNet().graph(batch[0])
    with pytest.raises(VizError, match="no gradient was recorded"):
        viz.animate(figure, tmp_path / "a.svg")
    with pytest.raises(VizError, match=r"must end with \.svg"):
        viz.animate(figure, tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []
    assert ".gif" not in SUFFIXES


# ---- tensors and modules in a notebook -----------------------------------------------------------

def words(html):
    return re.sub(r"<[^>]+>", " ", html)


def test_a_tensor_shows_shape_dtype_op_gradient_and_figures():
    x = tc.Parameter([3.0, -4.0], name="x")
    y = x * 2.0
    y.sum().backward()
    assert "made by  mul" in words(tensor_html(y))
    shown = words(tensor_html(x))
    assert "Parameter x" in shown
    assert "-4.0 … 3.0, RMS 3.5" in shown
    assert "gradient  RMS 2.0" in shown
    assert "float32, 8 B" in shown
    assert "<script" not in tensor_html(tc.Tensor([1.0], name="<script>alert(1)</script>"))
    assert tc.Tensor([1.0])._repr_html_().startswith("<table>")


@pytest.mark.parametrize("size, listed", [(1, True), (64, True), (65, False), (0, False)])
def test_few_values_are_listed_and_many_are_not(size, listed):
    assert ("<pre" in tensor_html(tc.Tensor(np.ones(size)))) == listed


def test_a_module_lists_its_parts_and_their_parameters(nets):
    shown = words(module_html(nets.LeNet()))
    assert "conv1  Conv2D(1, 4, kernel_size=3, padding=1)  weight 3×3×1×4, bias 4  40" in shown
    assert shown.strip().endswith("together    666")
    assert "Linear(None, 3)" in words(module_html(nn.Sequential(nn.Linear(None, 3))))
    assert nets.LeNet()._repr_html_().startswith("<table>")
