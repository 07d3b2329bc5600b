"""Whatever is installed, or is not, or fails: a picture comes, and errors say what to do."""

import re
import stat
import warnings

import pytest

from tinygrad_cnn.errors import MissingExtraError, VizError
from tinygrad_cnn.viz import Figure, dot, engines

SVG = ('<svg width="10pt" height="10pt" viewBox="0 0 10 10" xmlns="http://www.w3.org/2000/svg">'
       '<g id="graph0"></g></svg>')
DRAWS = f"/bin/cat >/dev/null; echo '{SVG}'"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with nothing on PATH but the scripts that the test puts there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv(dot.VARIABLE, raising=False)
    monkeypatch.setattr(dot, "_pure", lambda path: None)
    monkeypatch.setattr(dot.importlib.util, "find_spec", lambda name: None)
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
    assert 'id="graph0"' in Figure(nets.wide()).svg()
    assert 'id="graph0"' not in Figure(nets.lenet()).svg()


@pytest.mark.parametrize("body, cause", [
    ("/bin/cat >/dev/null; echo 'no memory' >&2; exit 3", "no memory"),
    (f"/bin/cat >/dev/null; echo 'syntax error in line 1' >&2; echo '{SVG}'", "syntax error"),
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
    assert 'id="graph0"' in Figure(nets.lenet(), engine=str(path)).svg()
    machine("dot", DRAWS)
    monkeypatch.setenv(dot.VARIABLE, "builtin")
    assert 'id="graph0"' not in Figure(nets.wide()).svg()
    monkeypatch.setenv(dot.VARIABLE, "dot")
    assert 'id="graph0"' in Figure(nets.lenet()).svg()


@pytest.mark.parametrize("engine, message", [
    ("pure", r"engine 'pure' is not installed; pip install graphviz-pure"),
    ("dot", r"engine 'dot' is not installed; apt install graphviz"),
    ("fdp", r"engine 'fdp' is unknown; choose from pure, dot, builtin, text"),
    ("text", r"engine 'text' writes txt, not svg")])
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
        assert drawn.count(f'-{card.id}"') + drawn.count(f'&#45;{card.id}"') >= 1
    assert "width=" not in drawn[:drawn.index("<style>")]


def test_the_graphviz_source_renders_to_a_file_on_any_machine(machine, nets, tmp_path):
    graphviz = pytest.importorskip("graphviz")
    source = Figure(nets.lenet()).dot
    assert isinstance(source, graphviz.Source)
    assert source.source.startswith("digraph")
    assert source.pipe(format="dot", encoding="utf-8") == source.source
    assert "<svg" in source._repr_mimebundle_()["image/svg+xml"]
    out = tmp_path / "out"
    assert source.render(filename="g", directory=out, format="svg", cleanup=True) == str(
        out / "g.svg")
    source.render(outfile=out / "h.svg")
    assert sorted(p.name for p in out.iterdir()) == ["g.svg", "h.svg"]
    source.render(filename="g", directory=out)
    assert (out / "g").read_text(encoding="utf-8") == source.source
    with pytest.raises(VizError, match="no engine writes jpg"):
        source.pipe(format="jpg")
    with pytest.raises(VizError, match="unflatten needs the program"):
        source.unflatten()


def test_a_picture_too_large_for_png_is_refused_before_it_is_drawn(nets, tmp_path):
    figure = Figure(nets.resnet(9), level="operators")
    places = figure._places
    with pytest.raises(VizError, match=f"a PNG of {places.width * 600 // 96} × "
                                       f"{places.height * 600 // 96} pixels is too large"):
        figure.save(tmp_path / "big.png", dpi=600)
    assert list(tmp_path.iterdir()) == []
