"""Whatever is installed, or is not, or fails: a picture comes, and errors say what to do."""

import stat
import warnings

import pytest

from tinygrad_cnn.errors import MissingExtraError, VizError
from tinygrad_cnn.viz import Figure, dot, engines

SVG = ('<svg width="10pt" height="10pt" viewBox="0 0 10 10" xmlns="http://www.w3.org/2000/svg">'
       '<g id="graph0"></g></svg>')


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


@pytest.fixture
def wide(nets):
    """A graph that the own layout leaves to an engine."""
    b = nets.Builder()
    x = b.leaf("input", "x", (8, 4))
    arms = [b.op("flatten", (8, 4), b.op("linear", (8, 4), x)) for _ in range(9)]
    b.op("concatenate", (8, 36), *arms, arguments=tuple(f"xs[{k}]" for k in range(9)))
    return b.recording()


def test_a_machine_without_any_engine_draws_all_the_same(machine, nets, wide, tmp_path):
    assert [e.name for e in engines()] == ["builtin", "text"]
    for recording in (nets.lenet(), wide):
        figure = Figure(recording)
        for suffix in (".svg", ".html", ".dot", ".mmd", ".txt", ".json"):
            assert figure.save(tmp_path / f"graph{suffix}").stat().st_size > 500
        assert "image/svg+xml" in figure._repr_mimebundle_()
        assert b"<svg" in figure.dot.pipe(format="svg")


def test_png_and_pdf_need_no_engine_but_matplotlib(machine, nets, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    figure = Figure(nets.lenet())
    assert figure.save(tmp_path / "a.png", dpi=72).read_bytes().startswith(b"\x89PNG")
    assert figure.save(tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_without_matplotlib_and_engine_a_png_says_what_to_install(machine, nets, monkeypatch,
                                                                 tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r'pip install "tinygrad-cnn\[viz\]"'):
        Figure(nets.lenet()).save(tmp_path / "a.png")
    assert list(tmp_path.glob("*.png")) == []


def test_a_wide_graph_goes_to_the_program_that_is_found(machine, wide):
    machine("dot", f"/bin/cat >/dev/null; echo '{SVG}'")
    assert [e.name for e in engines()] == ["dot", "builtin", "text"]
    assert 'id="graph0"' in Figure(wide).svg()


@pytest.mark.parametrize("body, cause", [
    ("/bin/cat >/dev/null; echo 'no memory' >&2; exit 3", "no memory"),
    (f"/bin/cat >/dev/null; echo 'syntax error in line 1' >&2; echo '{SVG}'", "syntax error"),
    ("/bin/cat >/dev/null", "exit code 0")])
def test_a_found_engine_that_fails_is_passed_over_with_one_warning(machine, wide, body, cause):
    machine("dot", body)
    with pytest.warns(RuntimeWarning, match=cause) as seen:
        drawn = Figure(wide).svg()
    assert len(seen) == 1
    assert "<svg" in drawn
    assert "<rect" in drawn


def test_a_named_engine_that_fails_is_an_error_with_a_cure(machine, nets):
    machine("dot", "echo broken >&2; exit 1")
    with pytest.raises(VizError, match=r"dot failed: broken; engine='builtin' needs no program"):
        Figure(nets.lenet(), engine="dot").svg()


def test_a_program_that_hangs_is_stopped(machine, nets, monkeypatch):
    machine("dot", "while :; do :; done")
    monkeypatch.setattr(dot, "_SECONDS", 0.3)
    with pytest.raises(VizError, match=r"took more than 0.3 s; fold harder"):
        Figure(nets.lenet(), engine="dot").svg()


def test_a_program_in_the_current_folder_is_not_run(machine, wide, tmp_path, monkeypatch):
    machine("dot", f"/bin/cat >/dev/null; echo '{SVG}'")
    monkeypatch.chdir(tmp_path / "bin")
    assert [e.name for e in engines()] == ["builtin", "text"]


def test_a_program_may_be_given_by_its_path(machine, nets):
    path = machine("my-dot", f"/bin/cat >/dev/null; echo '{SVG}'")
    assert 'id="graph0"' in Figure(nets.lenet(), engine=str(path)).svg()


def test_the_environment_names_an_engine(machine, nets, monkeypatch):
    machine("dot", f"/bin/cat >/dev/null; echo '{SVG}'")
    monkeypatch.setenv(dot.VARIABLE, "builtin")
    assert 'id="graph0"' not in Figure(nets.lenet()).svg()
    monkeypatch.setenv(dot.VARIABLE, "dot")
    assert 'id="graph0"' in Figure(nets.lenet()).svg()


@pytest.mark.parametrize("engine, message", [
    ("pure", r"engine 'pure' is not installed; pip install graphviz-pure"),
    ("dot", r"engine 'dot' is not installed; apt install graphviz"),
    ("fdp", r"engine 'fdp' is unknown; choose from pure, dot, pygraphviz, builtin, text"),
    ("text", r"engine 'text' writes txt, not svg")])
def test_an_engine_that_is_not_there_is_named_with_its_cure(machine, nets, engine, message):
    with pytest.raises(VizError, match=message):
        Figure(nets.lenet(), engine=engine).svg()


def test_a_notebook_shows_words_where_no_picture_can_be_drawn(machine, nets):
    bundle = Figure(nets.lenet(), engine="dot")._repr_mimebundle_()
    assert "conv2d" in bundle["text/plain"]
    assert "apt install graphviz" in bundle["text/plain"]
    assert "image/svg+xml" not in bundle


@pytest.mark.parametrize("engine", ["pure", "dot", "pygraphviz", "builtin"])
def test_every_installed_engine_draws_the_same_cards(nets, engine, tmp_path):
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
    (tmp_path / "out").mkdir()
    path = source.render(filename="g", directory=tmp_path / "out", format="svg", cleanup=True)
    assert path == str(tmp_path / "out" / "g.svg")
    source.render(outfile=tmp_path / "out" / "h.svg")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["g.svg", "h.svg"]
    source.render(filename="g", directory=tmp_path / "out")
    assert (tmp_path / "out" / "g").read_text(encoding="utf-8") == source.source
    with pytest.raises(VizError, match="no engine writes jpg"):
        source.pipe(format="jpg")
    with pytest.raises(VizError, match="unflatten needs the program"):
        source.unflatten()


def test_a_picture_too_large_for_png_is_refused_before_it_is_drawn(nets, tmp_path):
    figure = Figure(nets.resnet(9), level="operators")
    with pytest.raises(VizError, match=r"a PNG of \d+ × \d+ pixels is too large; save as \.svg"):
        figure.save(tmp_path / "big.png", dpi=600)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_no_font_can_show_is_drawn_without_a_warning(machine, nets, tmp_path):
    pytest.importorskip("matplotlib")
    b = nets.Builder("日本語 🙂 \ufffd")
    b.op("relu", (2, 3), b.leaf("input", "∇\u202e名", (2, 3)))
    for suffix in (".png", ".pdf"):
        Figure(b.recording()).save(tmp_path / f"graph{suffix}", dpi=72)


def test_matplotlib_draws_light_and_dark(nets):
    pytest.importorskip("matplotlib")
    light, dark = (Figure(nets.lenet(), theme=t, engine="builtin")._content(".png", 40)
                   for t in ("light", "dark"))
    assert light != dark
