"""Directions, columns and compact cards: the figures of the page, and nothing over anything."""

import itertools

import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import viz
from tinygrad_cnn.viz import svg
from tinygrad_cnn.viz.diagram import draw
from tinygrad_cnn.viz.layout import Box, layout
from viz import zoo

NETS = ("lenet", "vgg", "resnet20", "unet", "densenet", "gpt", "inception", "rnn")


@pytest.fixture(scope="module")
def recordings():
    return {name: viz.describe(zoo.ZOO[name]()) for name in NETS}


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
    assert 'font-size="10.5"' in figure.svg()
    assert smallest * scale >= 14
    assert 1 <= w / h <= 3


def test_a_limit_that_is_given_holds_for_a_slide_too(recordings):
    few, own = (viz.Figure(recordings["resnet20"], for_="slide", **more).diagram
                for more in ({}, {"limit": 8}))
    assert len(few.cards) == len(viz.Figure(recordings["resnet20"], density="compact",
                                            limit=30).diagram.cards) > 8
    assert len(own.cards) <= 8


def test_a_lenet_for_paper_is_small(recordings):
    w, h = svg.size(viz.Figure(recordings["lenet"], for_="paper").svg())
    assert w * h < 1.25 * 262 * 1152        # what torchview takes for a LeNet


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
