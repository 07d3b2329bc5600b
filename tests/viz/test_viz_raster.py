"""PNG and PDF, painted by matplotlib from the SVG, and the text for Graphviz."""

import os
import re

import pytest

from tinygrad_cnn.errors import MissingExtraError, VizError
from tinygrad_cnn.viz import Figure
from tinygrad_cnn.viz.svg import size


def test_png_and_pdf_need_matplotlib_alone(nets, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    for theme in ("light", "dark"):
        figure = Figure(nets.lenet(), theme=theme)
        for dpi in (48, 96):
            data = figure.save(tmp_path / "a.png", dpi=dpi).read_bytes()
            assert data.startswith(b"\x89PNG")
            width = int(figure.svg().split('viewBox="0 0 ')[1].split(" ")[0])
            assert int.from_bytes(data[16:20]) == width * dpi // 96     # at 96 as large as the SVG
        assert figure.save(tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r'pip install "tinygrad-cnn\[viz\]"'):
        figure.save(tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_matplotlib_paints_the_colors_of_the_svg(nets, tmp_path):
    image = pytest.importorskip("matplotlib.image")
    figure = Figure(nets.lenet(), theme="dark")
    figure.save(tmp_path / "a.png", dpi=96)
    pixels = image.imread(tmp_path / "a.png")
    found = re.search(r'x="([0-9.]+)" y="([0-9.]+)" width="9" [^/]*fill="#3aa0dd"', figure.svg())
    x, y = (round(float(v)) + 4 for v in found.groups())        # inside the strip of a convolution
    for at, color in (((5, 5), (0x0f, 0x17, 0x20)), ((y, x), (0x3a, 0xa0, 0xdd))):
        assert tuple(round(float(v) * 255) for v in pixels[at][:3]) == color


def test_a_name_that_no_font_can_show_is_drawn_without_a_warning(nets, tmp_path):
    pytest.importorskip("matplotlib")
    b = nets.Builder("日本語 🙂 \ufffd")
    b.op("relu", (2, 3), b.leaf("input", "∇\u202e名", (2, 3)))
    for suffix in (".png", ".pdf"):
        Figure(b.recording()).save(tmp_path / f"graph{suffix}", dpi=72)


def test_a_picture_too_large_for_png_is_refused_before_it_is_painted(nets, tmp_path):
    figure = Figure(nets.resnet(9), level="operators")
    w, h = (int(v) * 600 // 96 for v in size(figure.svg()))
    with pytest.raises(VizError, match=f"a PNG of {w} × {h} pixels is too large"):
        figure.save(tmp_path / "big.png", dpi=600)
    assert list(tmp_path.iterdir()) == []


def test_the_text_for_graphviz_names_every_card_and_line(nets):
    figure = Figure(nets.lenet(), theme="dark")
    assert figure.dot.startswith("digraph")
    assert '#1b2733' in figure.dot
    for card in figure.diagram.cards:
        assert f"  {card.id} [width=" in figure.dot
    for edge in figure.diagram.edges:
        assert f'  {edge.source} -> {edge.target} [id="{edge.id}"' in figure.dot
    assert figure.dot.count("subgraph cluster_") == 3


def test_a_program_of_graphviz_lays_out_what_is_asked(nets, tmp_path, monkeypatch):
    """A program that gives back what it was told and given stands for one of Graphviz."""
    program = tmp_path / "bin" / "dot"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s " "$@"\ncat\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    figure = Figure(nets.lenet())
    for suffix in ("svg", "png", "pdf"):
        told = figure.save(tmp_path / f"a.{suffix}", engine="dot").read_text()
        assert told.startswith("-Kdot") and f"-T{suffix}" in told
        assert figure.dot.strip() in told
    assert figure.graphviz("neato").engine == "neato"


def test_a_program_of_graphviz_that_is_missing_is_named_with_the_cure(nets, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    figure = Figure(nets.lenet())
    with pytest.raises(VizError, match=r"no program 'sfdp' of Graphviz .* leave out engine="):
        figure.save(tmp_path / "a.svg", engine="sfdp")
    with pytest.raises(VizError, match=r"engine must be one of .*dot.*, got 'spline'"):
        figure.save(tmp_path / "a.svg", engine="spline")
    with pytest.raises(VizError, match=r"lays out .svg, .png and .pdf, got '.txt'"):
        figure.save(tmp_path / "a.txt", engine="dot")
    assert list(tmp_path.iterdir()) == []
