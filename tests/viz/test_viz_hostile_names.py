"""Names come from anywhere: they must show as text, and do nothing else."""

import html
import json
import random
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from tinygrad_cnn.viz import Figure, labels, to_dot

SEEDS = ["", " ", "plain", '"', "'", "<b>", "<a> <b>", "</svg>", "</script>", "]]>", "&lt;", "&#0;",
         "\0", "\n", "\r\n", "\\N", "\\G", "\\", "\\\"", "a\\l", "\u202eevil", "\u2066x\u2069",
         "javascript:alert(1)", "onload=alert(1)", "<script>alert(1)</script>",
         "<img src=x onerror=alert(1)>", "}", "{", "|", "[", "]", "]; node [", "--", "->", ";",
         "%s", "{0}", "日本語", "∇loss", "🙂", "e\u0301", "x" * 10_000, "<!--", "-->", "<![CDATA[",
         "\ud800", "\ufffe", "url(https://example.org)", "{{7*7}}", "$(id)", "`id`",
         "../../etc/passwd", "#", ","]


def hostile_names(n):
    """Names of the seeds, alone and joined at random."""
    rng = random.Random(5)
    return SEEDS + ["".join(rng.choices(SEEDS, k=rng.randint(2, 4))) for _ in range(n - len(SEEDS))]


def recording_of(nets, names):
    """A chain whose leaves, modules, settings, sources and notes all carry hostile names."""
    b = nets.Builder(names[3])
    x = b.leaf("input", names[0], (2, 3))
    for name in names:
        b.scope = (name,)
        w = b.leaf("parameter", name, (3, 3))
        x = b.op("linear", (2, 3), x, w, settings=(name,), note=name)
    return b.recording(notes={names[7]: names[8]})


@pytest.fixture(scope="module")
def thousand():
    return hostile_names(1000)


@pytest.fixture
def figure(nets, thousand):
    return Figure(recording_of(nets, thousand[:60]), limit=4000)


URL = re.compile(r"^(href|src|xlink:href|action|formaction|data|poster|background)$")


def attributes_of(svg):
    root = ElementTree.fromstring(svg)
    return root, [(element.tag, key.rpartition("}")[2], value) for element in root.iter()
                  for key, value in element.attrib.items()]


def check_svg(svg):
    root, attributes = attributes_of(svg)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags <= {"svg", "g", "title", "text", "rect", "path", "polygon", "polyline", "ellipse",
                    "style", "metadata"}
    for _, key, value in attributes:
        assert not key.lower().startswith("on")
        assert not URL.match(key)
        if key != "aria-label":
            assert "javascript:" not in value
    return root


def test_a_thousand_names_survive_the_own_layout(nets, thousand):
    # 2,001 cards are more than are ever laid out, so the picture of all is made in parts.
    assert len(Figure(recording_of(nets, thousand), level="everything").diagram.cards) <= 40
    for start in range(0, 1000, 100):
        part = Figure(recording_of(nets, thousand[start:start + 100]), level="everything")
        root = check_svg(part.svg())
        cards = [g for g in root.iter("{http://www.w3.org/2000/svg}g")
                 if g.get("class", "").startswith("card")]
        assert len(cards) == len(part.diagram.cards) == 201
        shown = {t.text for t in root.iter("{http://www.w3.org/2000/svg}text")}
        for name in thousand[start:start + 100]:
            expected = labels.clean(name).replace("\\", "\u2216")
            assert not expected.strip() or expected in shown or any(
                expected in (s or "") for s in shown)


def test_dot_holds_each_name_as_one_label(nets, thousand):
    """In DOT a string ends at a quote without a backslash: there is none of either in a name."""
    for start in range(0, 1000, 100):
        figure = Figure(recording_of(nets, thousand[start:start + 100]), level="everything")
        nodes = {}
        for line in to_dot(figure.diagram).splitlines():
            if found := re.fullmatch(r' *(n\d+) \[(?:[a-z]+=(?:[\d.]+|"[^"]*"),? ?)+\];', line):
                nodes[found[1]] = re.search(r', label="([^"]*)"', line)[1]
        assert nodes.keys() == {c.id for c in figure.diagram.cards}
        for card in figure.diagram.cards:
            words = html.unescape(nodes[card.id])
            assert labels.clean(card.title, 60).removesuffix("…").replace("\\", "\u2216") in words
            assert not re.search(r"\\(?!l)", words)


class Page(HTMLParser):
    """Collects tags, attributes and the text of scripts."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.inside = [], [], [], False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag == "script":
            self.scripts.append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "script"

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data


def test_the_page_holds_one_script_and_no_event_or_url(figure):
    page = Page()
    page.feed(figure.html())
    kinds = [dict(a[1:] for a in [(t, k, v)]) for t, k, v in page.attributes if t == "script"]
    assert page.tags.count("script") == 3
    assert kinds.count({"type": "application/json"}) == 2
    assert json.loads(page.scripts[0])["states"][0]["cards"]
    for tag, key, value in page.attributes:
        assert not key.startswith("on")
        assert not URL.match(key)
        assert key != "style"
        assert tag not in ("img", "a", "iframe", "link", "object", "embed", "form", "base")
        assert value is None or "javascript:" not in value or key == "aria-label"


def test_the_other_forms_hold_no_markup_of_a_name(figure):
    assert not re.search("<script>|<img", figure._content(".mmd"))
    assert not re.search("[\0\u202e\x1b]", figure.text())


def test_tex_reads_no_command_in_a_name(figure):
    text = figure._content(".tex")
    for line in (line for line in text.splitlines() if line.startswith("\\node[")):
        body = line[line.index(") {") + 2:].removesuffix(";")
        body = re.sub(r"\\\\\{\}|\\color\{netgradtext\}|\\netchar\{[0-9A-F]+\}", "", body)
        plain = re.sub(r"\\(textbf|textbackslash|textasciitilde|textasciicircum|dots)\b", "", body)
        plain = re.sub(r"\$(\\(times|cdot|to|mu|nabla|partial)|\^2|-|<|>)\$", "", plain)
        plain = re.sub(r"\\[{}$&#_%]", "", plain)
        assert plain.count("{") == plain.count("}")
        assert not set("\\$&#_%^") & set(plain), plain


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX: apt texlive-pictures")
def test_latex_takes_the_picture(figure, nets, tmp_path):
    for k, each in enumerate((figure, Figure(nets.resnet(4)), Figure(nets.lenet(), for_="paper"))):
        each.save(tmp_path / "picture.tex")
        (tmp_path / f"{k}.tex").write_text(
            "\\documentclass{article}\\usepackage{tikz}\\pdfpageheight=100in\\textheight=99in"
            "\\begin{document}\\input{picture}\\end{document}")
        done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error",
                               f"{k}.tex"], cwd=tmp_path, capture_output=True, text=True,
                              errors="replace", check=False)
        assert done.returncode == 0, done.stdout[-2000:]


def test_drawio_holds_the_picture_and_nothing_of_a_name(figure, nets):
    for each in (figure, Figure(nets.lenet()), Figure(nets.resnet(4)), Figure(nets.branches())):
        text = each._content(".drawio")
        root = ElementTree.fromstring(text).find("diagram/mxGraphModel/root")
        cells = {cell.get("id"): cell for cell in root}
        assert len(cells) == len(root)                  # no two of one name
        diagram, places = each.diagram, each._places

        def place(name, cells=cells):
            """The corner of a cell on the page, from its containers'."""
            x = y = 0
            while name not in ("0", "1"):
                g = cells[name].find("mxGeometry")
                x, y, name = x + int(g.get("x")), y + int(g.get("y")), cells[name].get("parent")
            return x, y

        for name, box in (*places.cards.items(), *places.groups.items()):
            g = cells[name].find("mxGeometry")
            assert (*place(name), int(g.get("width")), int(g.get("height"))) == (
                box.x, box.y, box.w, box.h)
        for e in diagram.edges:
            assert (cells[e.id].get("source"), cells[e.id].get("target")) == (e.source, e.target)
            assert (f"{e.id}g" in cells) == (e.level >= 0)
            points = [(int(p.get("x")), int(p.get("y"))) for p in cells[e.id].iter("mxPoint")
                      if p.get("as") is None]
            route = next(r for r in places.routes if r.edge == e.id)
            assert len(points) == len(route.points) - 2
            shift = 2 if e.level >= 0 else 0            # beside the edge of the backward pass
            assert points == [(x + shift, y + shift) for x, y in route.points[1:-1]]
            style = dict(re.findall(r"(\w+)=([\d.]+);", cells[e.id].get("style")))
            for end, card, (x, y) in (("exit", e.source, route.points[0]),
                                      ("entry", e.target, route.points[-1])):
                box = places.cards[card]
                across, down = ((v - low) / size for v, low, size in (
                    (x + shift, box.x, box.w), (y + shift, box.y, box.h)))
                assert float(style[f"{end}X"]) == pytest.approx(min(1, max(0, across)), abs=6e-4)
                assert float(style[f"{end}Y"]) == pytest.approx(min(1, max(0, down)), abs=6e-4)
        for cell in cells.values():                     # what is shown is markup of ours alone
            assert set(re.findall(r"<(/?\w+)", cell.get("value") or "")) <= {
                "b", "/b", "br", "font", "/font"}


def test_hostile_names_survive_json(figure, tmp_path):
    from tinygrad_cnn.viz import load

    # A lone surrogate cannot be written as UTF-8; everything else comes back as it was.
    path = tmp_path / "figure.json"
    figure.save(path)
    assert [e.name for e in load(path).recording.entries] == [
        e.name.encode("utf-8", "replace").decode() for e in figure.recording.entries]
