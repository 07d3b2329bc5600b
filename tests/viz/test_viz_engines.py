"""Whatever is installed, or is not, or fails: a picture comes, and errors say what to do."""

import re
import shlex
import stat
import sys
import warnings

import pytest

from tinygrad_cnn.errors import MissingExtraError, VizError
from tinygrad_cnn.viz import Figure, dot, engines
from tinygrad_cnn.viz.layout import measure
from tinygrad_cnn.viz.svg import size

WIDE = 4164                                 # pixels of a picture that the program below has placed
PLACES = """import json, re, sys
text = sys.stdin.read()
cards = re.findall(r"(n\\d+) \\[width=([\\d.]+), height=([\\d.]+)", text)
print(json.dumps({"bb": "0,0,3075,%d" % (99 * len(cards)), "objects": [
    {"name": n, "pos": "1500,%d" % (99 * k + 50), "width": w, "height": h}
    for k, (n, w, h) in enumerate(cards)], "edges": [
    {"id": e, "pos": "e,9,9 0,0 3,3 6,6 9,9", "lp": "4,4"}
    for e in re.findall(r'id="(e\\d+)"', text)]}))
"""
DRAWS = f"{shlex.quote(sys.executable)} -c {shlex.quote(PLACES)}"


def by_program(figure):
    return f'viewBox="0 0 {WIDE} ' in figure.svg()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with nothing on PATH but the scripts that the test puts there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv(dot.VARIABLE, raising=False)
    monkeypatch.setattr(dot, "_pure", lambda path: None)
    dot._found.cache_clear()

    def script(name, body):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        dot._found.cache_clear()
        return path

    yield script
    dot._found.cache_clear()


def test_a_machine_without_any_engine_draws_all_the_same(machine, nets, tmp_path):
    assert [e.name for e in engines()] == ["builtin", "text"]
    for recording in (nets.lenet(), nets.wide()):
        figure = Figure(recording)
        for suffix in (".svg", ".html", ".dot", ".mmd", ".txt", ".json"):
            assert figure.save(tmp_path / f"graph{suffix}").stat().st_size > 500
        assert "image/svg+xml" in figure._repr_mimebundle_()


def test_png_and_pdf_need_no_engine_but_matplotlib(machine, nets, monkeypatch, tmp_path):
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


def test_matplotlib_paints_the_colors_of_the_svg(machine, nets, tmp_path):
    image = pytest.importorskip("matplotlib.image")
    figure = Figure(nets.lenet(), theme="dark")
    figure.save(tmp_path / "a.png", dpi=96)
    pixels = image.imread(tmp_path / "a.png")
    found = re.search(r'x="([0-9.]+)" y="([0-9.]+)" width="9" [^/]*fill="#3aa0dd"', figure.svg())
    x, y = (round(float(v)) + 4 for v in found.groups())        # inside the strip of a convolution
    for at, color in (((5, 5), (0x0f, 0x17, 0x20)), ((y, x), (0x3a, 0xa0, 0xdd))):
        assert tuple(round(float(v) * 255) for v in pixels[at][:3]) == color


def test_a_name_that_no_font_can_show_is_drawn_without_a_warning(machine, nets, tmp_path):
    pytest.importorskip("matplotlib")
    b = nets.Builder("日本語 🙂 \ufffd")
    b.op("relu", (2, 3), b.leaf("input", "∇\u202e名", (2, 3)))
    for suffix in (".png", ".pdf"):
        Figure(b.recording()).save(tmp_path / f"graph{suffix}", dpi=72)


def test_a_wide_graph_goes_to_the_program_that_is_found_and_a_trunk_does_not(machine, nets):
    machine("dot", DRAWS)
    assert [e.name for e in engines()] == ["dot", "builtin", "text"]
    assert by_program(Figure(nets.wide()))
    assert not by_program(Figure(nets.lenet()))


def test_places_and_lines_of_a_program_are_those_that_it_wrote(machine, nets):
    machine("dot", DRAWS)
    figure = Figure(nets.lenet())
    engine = engines()[0]
    places = dot.place(engine, figure.diagram)
    assert places.width == WIDE
    names = re.findall(r"(n\d+) \[width", figure.dot)
    first, second = (places.cards[name] for name in names[:2])
    cards = {c.id: c for c in figure.diagram.cards}
    assert (first.w, first.h) == measure(cards[names[0]])
    assert first.x + first.w // 2 == second.x + second.w // 2 == 2000 + 32
    assert first.y + first.h // 2 - (second.y + second.h // 2) == 132   # 99 points upwards
    top = places.height - 32
    assert places.routes[0].points[0] == (32, top)
    assert places.routes[0].points[-1] == (32 + 12, top - 12)
    machine("dot", DRAWS.replace('r"(n', 'r"(n1'))
    with pytest.raises(VizError, match="lost a part; engine='builtin' needs no program"):
        dot.place(engine, figure.diagram)


@pytest.mark.parametrize("body, cause", [
    ("/bin/cat >/dev/null; echo 'no memory' >&2; exit 3", "no memory"),
    ("/bin/cat >/dev/null; echo 'syntax error in line 1' >&2; echo '{}'", "syntax error"),
    ("/bin/cat >/dev/null", "exit code 0")])
def test_a_found_engine_that_fails_is_passed_over_with_one_warning(machine, nets, body, cause):
    machine("dot", body)
    with pytest.warns(RuntimeWarning, match=cause) as seen:
        drawn = Figure(nets.wide()).svg()
    assert len(seen) == 1
    assert "<rect" in drawn


def test_a_named_engine_that_fails_or_hangs_is_an_error_with_a_hint(machine, nets, monkeypatch):
    machine("dot", "echo broken >&2; exit 1")
    with pytest.raises(VizError, match=r"dot failed: broken; engine='builtin' needs no program"):
        Figure(nets.lenet(), engine="dot").svg()
    monkeypatch.setenv(dot.VARIABLE, "dot")
    with pytest.raises(VizError, match="dot failed: broken"):
        Figure(nets.lenet()).svg()
    machine("dot", "while :; do :; done")
    monkeypatch.setattr(dot, "_SECONDS", 0.3)
    with pytest.raises(VizError, match=r"took more than 0.3 s; fold harder"):
        Figure(nets.lenet(), engine="dot").svg()


def test_a_program_in_the_current_folder_is_not_run(machine, tmp_path, monkeypatch):
    machine("dot", DRAWS)
    monkeypatch.chdir(tmp_path / "bin")
    assert [e.name for e in engines()] == ["builtin", "text"]


def test_a_program_may_be_given_by_its_path_or_by_the_environment(machine, nets, monkeypatch):
    path = machine("my-dot", DRAWS)
    assert by_program(Figure(nets.lenet(), engine=str(path)))
    machine("dot", DRAWS)
    monkeypatch.setenv(dot.VARIABLE, "builtin")
    assert not by_program(Figure(nets.wide()))
    monkeypatch.setenv(dot.VARIABLE, "dot")
    assert by_program(Figure(nets.lenet()))


@pytest.mark.parametrize("engine, message", [
    ("pure", r"engine 'pure' is not installed; pip install graphviz-pure"),
    ("dot", r"engine 'dot' is not installed; apt install graphviz"),
    ("fdp", r"engine 'fdp' is unknown; choose from pure, dot, builtin, text"),
    ("text", r"engine 'text' draws no picture; print the figure")])
def test_an_engine_that_is_not_there_is_named_with_a_hint(machine, nets, engine, message):
    figure = Figure(nets.lenet(), engine=engine)
    with pytest.raises(VizError, match=message):
        figure.svg()
    bundle = figure._repr_mimebundle_()
    assert set(bundle) == {"text/plain"}
    assert "conv2d" in bundle["text/plain"]
    assert f"engine '{engine}'" in bundle["text/plain"]


def test_the_layout_is_computed_only_where_it_is_needed(machine, nets, monkeypatch):
    from tinygrad_cnn.viz import figure

    machine("dot", DRAWS)
    monkeypatch.setattr(figure, "layout", lambda diagram: pytest.fail("laid out"))
    drawn = Figure(nets.lenet(), engine="dot")
    assert drawn.text()
    assert drawn._content(".dot")
    assert "<svg" in drawn.svg()


@pytest.mark.parametrize("engine", ["pure", "dot", "builtin"])
def test_every_installed_engine_draws_the_same_cards(nets, engine):
    if engine not in [e.name for e in engines()]:
        pytest.skip(f"{engine} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = Figure(nets.lenet(), engine=engine)
        drawn = figure.svg()
    for card in figure.diagram.cards:
        assert drawn.count(f'-{card.id}"') == 1
    assert "width=" not in drawn[:drawn.index("<style>")]


def test_the_text_for_graphviz_names_every_card_and_line(nets):
    figure = Figure(nets.lenet(), theme="dark")
    assert figure.dot.startswith("digraph")
    assert '#1b2733' in figure.dot
    for card in figure.diagram.cards:
        assert f"  {card.id} [width=" in figure.dot
    for edge in figure.diagram.edges:
        assert f'  {edge.source} -> {edge.target} [id="{edge.id}"' in figure.dot
    assert figure.dot.count("subgraph cluster_") == 3


def test_a_picture_too_large_for_png_is_refused_before_it_is_drawn(nets, tmp_path):
    figure = Figure(nets.resnet(9), level="operators")
    w, h = (int(v) * 600 // 96 for v in size(figure.svg()))
    with pytest.raises(VizError, match=f"a PNG of {w} × {h} pixels is too large"):
        figure.save(tmp_path / "big.png", dpi=600)
    assert list(tmp_path.iterdir()) == []
