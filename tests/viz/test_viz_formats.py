"""Directions, columns and compact cards: the figures of the page, and nothing over anything."""

import base64
import io
import itertools
import re

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn, viz
from tinygrad_cnn.viz import Figure, svg
from tinygrad_cnn.viz.capture import thumbnail
from tinygrad_cnn.viz.diagram import draw
from tinygrad_cnn.viz.figure import SUFFIXES
from tinygrad_cnn.viz.layout import Box, layout
from viz import zoo

NETS = ("lenet", "vgg", "resnet20", "unet", "densenet", "gpt", "inception", "rnn")


@pytest.fixture(scope="module")
def recordings():
    return {name: viz.describe(zoo.ZOO[name]()) for name in NETS}


@pytest.fixture
def lenet_step(nets, batch):
    """The loss of a network, its graph alive, and what two of its ops gave."""
    model, seen = nets.LeNet(), {}
    for layer, op in ((model.conv1, "conv2d"), (model.fc, "linear")):
        layer.register_forward_hook(lambda m, x, out, op=op: seen.update({op: out.data}))
    return tc.cross_entropy(model(tc.Tensor(batch[0], name="image")), batch[1]), seen


def check(diagram):
    """Whole pixels on the page, no card on another, and no line over a card."""
    places = layout(diagram)
    for a, b in itertools.combinations(places.cards.values(), 2):
        assert not a.overlaps(b)
    edges = {e.id: e for e in diagram.edges}
    for route in places.routes:
        ends = {edges[route.edge].source, edges[route.edge].target}
        for (ax, ay), (bx, by) in itertools.pairwise(route.points):
            assert ax == bx or ay == by
            assert 0 <= min(ax, bx) <= max(ax, bx) <= places.width
            assert 0 <= min(ay, by) <= max(ay, by) <= places.height
            way = Box(min(ax, bx), min(ay, by), max(1, abs(bx - ax)), max(1, abs(by - ay)))
            for name, box in places.cards.items():
                inner = Box(box.x + 1, box.y + 1, box.w - 2, box.h - 2)
                assert name in ends or not way.overlaps(inner), f"{route.edge} over {name}"
    return places


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("settings", [
    {"direction": "LR"}, {"aspect": 16 / 9}, {"aspect": 1.0, "direction": "LR"},
    {"density": "compact"}, {"density": "compact", "aspect": 2.5},
    {"density": "compact", "aspect": 16 / 9, "direction": "LR"}], ids=str)
def test_nothing_lies_on_anything_in_any_format(recordings, name, settings):
    check(draw(recordings[name], **settings))


@pytest.mark.parametrize("name", NETS)
def test_a_picture_goes_to_the_right_on_request(recordings, name):
    diagram = draw(recordings[name], direction="LR", level="operators")
    places = layout(diagram)
    for e in diagram.edges:
        if e.trunk:
            assert places.cards[e.source].right < places.cards[e.target].x
    down = layout(draw(recordings[name], level="operators"))
    assert places.width / places.height > down.width / down.height


@pytest.mark.parametrize("name", ["lenet", "vgg", "resnet20", "unet"])
def test_text_on_a_slide_has_at_least_fourteen_pixels(recordings, name):
    figure = viz.Figure(recordings[name], for_="slide")
    w, h = svg.size(figure.svg())
    scale = min(1920 / w, 1080 / h)
    smallest = 10.5                         # of the words at the right of a card
    assert min(map(float, re.findall(r'font-size="([\d.]+)"', figure.svg()))) == smallest
    assert smallest * scale >= 14
    assert 1 <= w / h <= 3


def test_a_limit_that_is_given_holds_for_a_slide_too(recordings):
    few, own = (viz.Figure(recordings["resnet20"], for_="slide", **more).diagram
                for more in ({}, {"limit": 8}))
    assert len(few.cards) == len(viz.Figure(recordings["resnet20"], density="compact",
                                            limit=30).diagram.cards) > 8
    assert len(own.cards) <= 8


@pytest.mark.parametrize("settings", [{"for_": "slide"}, {"aspect": 1.0}])
def test_an_encoder_decoder_is_a_u_with_its_skips_across(recordings, settings):
    figure = viz.Figure(recordings["unet"], **settings)
    places, cards = figure._places, figure.diagram.cards
    boxes = {c.title: places.cards[c.id] for c in cards}
    down, up = (next(b for t, b in boxes.items() if t.startswith(name)) if "aspect" not in settings
                else next(places.groups[g.id] for g in figure.diagram.groups if g.title == name)
                for name in ("down1", "up1"))
    assert down.right < up.x
    joins = [c for c in cards if c.title == "concatenate"]
    assert places.cards[joins[0].id].y > places.cards[joins[1].id].y    # the way up
    edges = {e.id: e for e in figure.diagram.edges}
    across = [r for r in places.routes if edges[r.edge].target in {c.id for c in joins}
              and places.cards[edges[r.edge].source].right < up.x]
    assert len(across) == 2
    for route in across:                    # from side to side, and over no card
        assert [y for _, y in route.points[:2]] == [route.points[0][1]] * 2
        for (ax, ay), (bx, by) in zip(route.points, route.points[1:], strict=False):
            way = Box(min(ax, bx) + 1, min(ay, by), max(1, abs(bx - ax) - 2), max(1, abs(by - ay)))
            assert not any(way.overlaps(b) for b in places.cards.values())


def test_a_lenet_for_paper_is_small(recordings):
    w, h = svg.size(viz.Figure(recordings["lenet"], for_="paper").svg())
    assert w * h < 1.2 * 220 * 1152         # what torchview takes for the forward pass of this net


def test_a_compact_card_has_one_line_and_keeps_its_findings(recordings):
    diagram = draw(recordings["lenet"], density="compact")
    assert diagram.level == "operators"
    tags = {c.title: c.tag for c in diagram.cards}
    assert tags["conv1 · conv2d"] == "5×5 · pad 2"
    assert tags["cross_entropy"].startswith("loss ")
    assert all(not c.rows for c in diagram.cards)
    assert all(e.text == "" for e in diagram.edges)
    with_nan = draw(viz.describe(zoo.vanishing()), density="compact")
    assert any(r.kind == "warning" for c in with_nan.cards for r in c.rows)


def test_cards_and_edges_carry_words_of_ones_own(recordings):
    plain = draw(recordings["lenet"], level="operators")
    own = draw(recordings["lenet"], level="operators", edge=lambda a, b: f"{a.op}>{b.op}",
               card=lambda e: f"{e.size} values" if e.family == "conv" else "")
    at = recordings["lenet"].entries
    for before, after in zip(plain.cards, own.cards, strict=True):
        entry = at[after.entries[-1]]
        added = [f"{entry.size} values"] if entry.family == "conv" else []
        assert [r.text for r in after.rows[len(before.rows):]] == added
    assert {e.text for e in own.edges if e.trunk} >= {">conv2d", "conv2d>relu", "relu>max_pool2d"}


def test_cards_show_histograms_and_thumbnails_on_request(lenet_step, tmp_path):
    loss, seen = lenet_step
    plain, asked = loss.graph(), loss.graph(values=True, thumbnails=True, level="operators")
    assert not any(r.kind in ("values", "gradients", "picture")
                   for c in plain.diagram.cards for r in c.rows)
    entries = asked.recording.entries
    for op, values in seen.items():         # of some, the graph keeps no values
        entry = next(e for e in entries if e.op == op)
        counts, edges = np.histogram(values, 12)
        assert entry.value.bins == tuple(counts)
        assert (entry.value.low, entry.value.high) == pytest.approx((edges[0], edges[-1]))
        assert sum(entry.gradient.bins) == values.size
    rows = {c.title: [r.kind for r in c.rows if r.kind in ("values", "gradients", "picture")]
            for c in asked.diagram.cards}
    assert rows["image"] == ["values", "picture"]
    assert rows["conv1 · conv2d"] == ["values", "gradients", "picture"]
    assert rows["fc · linear"] == ["values", "gradients"]
    assert asked.svg().count("<image ") == 7
    assert Figure(asked.recording, for_="slide").svg().count("<image ") == 7
    for suffix in SUFFIXES:                 # no form shows the data as words
        if suffix not in (".json", ".html", ".svg", ".png", ".pdf"):
            assert "base64" not in str(asked._content(suffix)), suffix
    assert "█" in asked.text()
    asked.save(tmp_path / "r.json")
    assert viz.load(tmp_path / "r.json").recording == asked.recording
    text = (tmp_path / "r.json").read_text()
    for bad in ("https://example.org/a.png", "data:image/svg+xml;base64,PHN2Zz4="):
        (tmp_path / "bad.json").write_text(re.sub(r"data:image/png[^\"]*", bad, text, count=1))
        with pytest.raises(tc.VizError, match="a picture that is no PNG as a data URI"):
            viz.load(tmp_path / "bad.json")


def test_layers_and_functions_of_several_ops_are_one_card_each():
    rows, target = tc.Tensor(np.ones((4, 5, 8), np.float32), name="rows"), np.zeros((4, 5, 8))
    weight = tc.Parameter(np.ones((8, 8), np.float32))
    made = {"LayerNorm": nn.LayerNorm(8)(rows), "Linear": nn.Linear(8, 8)(rows),
            "MSELoss": nn.MSELoss()(rows * weight[0], target.astype(np.float32))}
    made["linear()"] = tc.linear(rows, weight)
    made["mse_loss()"] = tc.mse_loss(rows * weight[0], target.astype(np.float32))
    made["layer_norm()"] = tc.layer_norm(rows, weight[0], weight[1])
    made["huber_loss()"] = tc.huber_loss(rows * weight[0], target.astype(np.float32))
    for title, output in made.items():
        recording = viz.describe(output)
        folded, all_ = (draw(recording, level=level) for level in ("operators", "everything"))
        assert [c.title for c in folded.cards].count(title) == 1
        assert [g.title for g in all_.groups] == [title]
        assert len(all_.cards) > len(folded.cards)


def test_a_thumbnail_is_the_first_image_or_the_first_maps_side_by_side():
    imread = pytest.importorskip("matplotlib.image").imread
    ramp = np.arange(2 * 64 * 6, dtype=np.float32).reshape(2, 8, 8, 6)
    for images, shape in ((ramp, (8, 4 * 8 + 3)), (ramp[..., :3], (8, 8, 3)),
                          (np.zeros((1, 100, 100, 1)), (34, 34))):
        png = base64.b64decode(thumbnail(images).partition(",")[2])
        pixels = imread(io.BytesIO(png))
        assert pixels.shape == shape
    assert thumbnail(np.zeros((4, 3))) == ""


def test_columns_are_chosen_for_the_aspect(nets):
    recording = nets.chain(20, ("conv2d", "flatten"))
    sizes = [(p.width, p.height) for a in (0.25, 1.0, 4.0)
             for p in [layout(draw(recording, aspect=a, level="operators"))]]
    shapes = [w / h for w, h in sizes]
    assert shapes == sorted(shapes)
    assert shapes[0] < 0.5 < 1.0 < shapes[2]


@pytest.mark.parametrize("settings, message", [
    ({"direction": "RL"}, "direction 'RL' is unknown; choose from TB, LR"),
    ({"density": "thin"}, "density 'thin' is unknown; choose from normal, compact"),
    ({"for_": "poster"}, "for_ 'poster' is unknown; choose from slide, paper, readme"),
    ({"aspect": 100}, "aspect must be between 0.1 and 10, got 100; 16/9 is a slide")])
def test_a_format_that_is_unknown_is_refused(nets, settings, message):
    with pytest.raises(tc.VizError, match=message):
        viz.Figure(nets.lenet(), **settings)
