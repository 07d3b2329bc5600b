"""The built-in layout: everything in its place, nothing across anything else; and its SVG."""

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

import tinygrad_cnn as tc
from tinygrad_cnn.viz import Figure, svg
from tinygrad_cnn.viz.diagram import Card, Diagram, Row, draw
from tinygrad_cnn.viz.labels import width
from tinygrad_cnn.viz.layout import Box, layout, measure, strip_width
from tinygrad_cnn.viz.text import to_tikz
from viz import zoo


@pytest.fixture(params=["lenet", "resnet folded", "resnet", "branches", "skips", "random dag",
                        "siamese", "attention", "gan", "two heads"])
def diagram(request, nets):
    if request.param in zoo.ZOO and request.param != "lenet":
        return zoo.ZOO[request.param]().graph().diagram
    if request.param == "lenet":
        return draw(nets.lenet())
    if request.param.startswith("resnet"):
        return draw(nets.resnet(3), level="folded" if "folded" in request.param else "operators")
    return draw(nets.branches() if request.param == "branches" else nets.skips())


def pieces(route):
    return list(zip(route.points, route.points[1:], strict=False))


def test_no_card_touches_another(diagram):
    boxes = layout(diagram).cards
    assert set(boxes) == {c.id for c in diagram.cards}
    for a, b in itertools.combinations(boxes.values(), 2):
        assert not a.overlaps(b)


def test_every_edge_has_a_route_along_the_axes_that_crosses_no_card(diagram):
    places = layout(diagram)
    assert {r.edge for r in places.routes} == {e.id for e in diagram.edges}
    for route in places.routes:
        for (ax, ay), (bx, by) in pieces(route):
            assert ax == bx or ay == by
            way = Box(min(ax, bx), min(ay, by) + 1, max(1, abs(bx - ax)), max(1, abs(by - ay) - 2))
            for name, box in places.cards.items():
                inner = Box(box.x + 1, box.y + 1, box.w - 2, box.h - 2)
                assert not way.overlaps(inner), f"{route.edge} runs over {name}"


def test_a_tangle_is_a_page_wide_and_a_chain_keeps_its_lane():
    assert layout(zoo.ZOO["random dag"]().graph().diagram).width < 2500     # 6,349 in lanes
    fan = sum((tc.tanh(tc.Parameter([1.0], name=f"p{k}")) for k in range(30)), tc.Tensor(0.0))
    assert layout(fan.graph(level="operators").diagram).width < 2500
    diagram = zoo.ZOO["siamese"]().graph(level="everything").diagram
    places = layout(diagram)
    towers = [[c for c in diagram.cards if c.kind == "op" and c.group
               and any(g.id in (c.group, inner.parent) for g in diagram.groups if g.title == title
                       for inner in diagram.groups if inner.id == c.group)]
              for title in ("tower", "tower #2")]
    for tower in towers:
        assert len(tower) == 4
        assert len({(b := places.cards[c.id]).x + b.w // 2 for c in tower}) == 1


def test_an_edge_ends_at_the_border_of_its_cards(diagram):
    places = layout(diagram)
    edges = {e.id: e for e in diagram.edges}
    for route in places.routes:
        for (x, y), name in ((route.points[0], edges[route.edge].source),
                             (route.points[-1], edges[route.edge].target)):
            box = places.cards[name]
            assert (x in (box.x, box.right) and box.y <= y <= box.bottom) or (
                y in (box.y, box.bottom) and box.x <= x <= box.right)


def test_the_box_of_a_module_holds_its_cards_and_no_other(diagram):
    places = layout(diagram)
    parents = {g.id: g.parent for g in diagram.groups}
    for card in diagram.cards:
        inside, group = set(), card.group
        while group:
            inside.add(group)
            group = parents[group]
        for name, box in places.groups.items():
            assert box.overlaps(places.cards[card.id]) == (name in inside)


def test_everything_stands_on_whole_pixels_inside_the_picture(diagram):
    places = layout(diagram)
    for box in (*places.cards.values(), *places.groups.values()):
        assert all(type(v) is int for v in (box.x, box.y, box.w, box.h))
        assert 0 <= box.x <= box.right <= places.width
        assert 0 <= box.y <= box.bottom <= places.height


def test_the_trunk_is_one_straight_line_and_parameters_stand_beside_it(nets):
    diagram = draw(nets.lenet())
    places = layout(diagram)
    boxes = {c.id: places.cards[c.id] for c in diagram.cards}
    assert {boxes[c.id].x + boxes[c.id].w // 2 for c in diagram.cards if not c.beside} == {441}
    assert (places.width, places.height, len(places.routes)) == (882, 1488, 16)
    assert [boxes[name] for name in ("n0", "n1", "n3")] == [
        Box(359, 32, 164, 55), Box(48, 175, 220, 72), Box(326, 167, 230, 89)]
    assert (boxes["n2"].x, boxes["n2"].y) == (614, 175)


def test_boxes_overlap_where_they_share_a_pixel():
    box = Box(10, 10, 5, 5)
    assert [box.overlaps(Box(x, y, 5, 5)) for x, y in (
        (14, 14), (15, 10), (10, 15), (6, 6), (5, 10), (10, 5))] == [
            True, False, False, True, False, False]


def test_the_box_of_a_module_is_as_wide_as_its_title(nets):
    b = nets.Builder()
    b.scope = ("a" * 60,)
    b.op("relu", (2,), b.op("relu", (2,), b.leaf("parameter", "w", (2,))))
    diagram = draw(b.recording())
    box, = layout(diagram).groups.values()
    note = width(diagram.groups[0].note, 11.5)
    assert box.w == 50 + math.ceil(60 * 0.556 * 1.1 * 15 + note)


def test_several_parameters_stand_above_each_other(nets):
    b = nets.Builder()
    weights = [b.leaf("parameter", f"w{k}", (3, 3)) for k in range(5)]
    b.op("linear", (8, 3), b.leaf("input", "x", (8, 3)), *weights, arguments="xabcde")
    boxes = layout(draw(b.recording())).cards
    middle = boxes["n6"].y + boxes["n6"].h // 2
    for side in (("n1", "n3", "n5"), ("n2", "n4")):
        column = [boxes[name] for name in side]
        assert len({box.x for box in column}) == 1
        assert all(below.y == above.bottom + 14 for above, below in itertools.pairwise(column))
        assert abs(column[0].y + column[-1].bottom - 2 * middle) <= 1
    assert boxes["n1"].right + 58 == boxes["n6"].x
    assert boxes["n6"].right + 58 == boxes["n2"].x


def test_the_size_of_a_card_is_that_of_its_text():
    op = Card("n0", "op", "conv", "conv2d", "#3", rows=(Row("text", "x" * 50),))
    assert measure(op) == (2 * -(-(9 + 21 + 50 * 5.75 + 10) // 2), 32 + 17 + 6)
    small = Card("n0", "input", "input", "x")
    assert measure(small) == (120, 36)
    assert measure(Card("n0", "stack", "conv", "x")) == (196 + 16, 36 + 16)
    rows = (Row("text", "a"), Row("bar", "b", levels=(1,)), Row("squares", "c", levels=(1, 2)),
            Row("warning", "d"))
    assert measure(Card("n0", "op", "conv", "x", rows=rows))[1] == 32 + 17 + 17 + 23 + 21 + 6
    squares = Card("n0", "input", "conv", "", rows=(Row("squares", "", levels=(1,) * 20),))
    assert measure(squares)[0] == 9 + 21 + 20 * 19 + 10 + 10


def test_a_small_edit_leaves_the_rows_above_where_they_are(nets):
    before = draw(nets.chain(10, ("conv2d", "flatten")), level="everything")
    after = draw(nets.chain(11, ("conv2d", "flatten")), level="everything")
    a, b = layout(before).cards, layout(after).cards
    assert all(a[c.id].y == b[c.id].y for c in before.cards[:-1])


def test_an_empty_diagram_has_a_layout(nets):
    empty = Diagram("t", "s", "everything", (), (), (), draw(nets.lenet()).scale)
    places = layout(empty)
    assert (places.cards, places.width, places.height) == ({}, 64, 64)
    ElementTree.fromstring(svg.drawn(empty, places))


@pytest.mark.parametrize("name, settings", [
    ("lenet_slide", {"for_": "slide"}), ("lenet_right", {"direction": "LR"}),
    ("lenet_blocks", {"style": "blocks"}), ("lenet_textbook", {"style": "textbook"}),
    ("resnet_columns", {"aspect": 1.5, "direction": "LR", "level": "modules"})])
def test_every_format_is_the_one_that_was_looked_at(nets, golden, name, settings):
    recording = getattr(nets, name.partition("_")[0])()
    if name.startswith("resnet"):
        recording = nets.resnet(3)
    golden(f"{name}.svg", Figure(recording, theme="light", **settings)._drawn("light"))


def test_tikz_puts_every_card_and_line_where_the_layout_does(nets):
    diagram = draw(nets.lenet())
    places = layout(diagram)
    text = to_tikz(diagram, places)
    for card in diagram.cards:
        box = places.cards[card.id]
        assert f"({box.x},{box.y}) rectangle ({box.right},{box.bottom});" in text
        start = box.x + strip_width(card) + 16
        assert f"] at ({start},{box.y + box.h / 2:g}) {{\\textbf{{" in text
    for edge in diagram.edges:
        route = next(r for r in places.routes if r.edge == edge.id)
        way = " -- ".join(f"({x},{y})" for x, y in route.points)
        assert f"{way};" in text
        back = " -- ".join(f"({x},{y})" for x, y in route.points[::-1])
        assert (f"netramp{edge.level}, rounded corners=4pt" in text) == (edge.level >= 0)
        assert (f"{back};" in text) == (edge.level >= 0)
    defined = set(re.findall(r"definecolor\{(\w+)\}", text))
    assert set(re.findall(r"(?:draw|fill)=(\w+)", text)) <= defined
    assert "5$\\times$5 $\\cdot$ stride 1 $\\cdot$ 1$\\to$8 channels" in text
    assert "\\textbf{max\\_pool2d} \\#5" in text


# ---- SVG -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, suffix", [
    ("lenet", ".svg"), ("lenet", ".dot"), ("lenet", ".mmd"), ("lenet", ".txt"), ("resnet", ".svg"),
    ("resnet", ".txt"), ("branches", ".svg"), ("skips", ".svg")])
def test_every_place_color_and_word_is_the_one_that_was_looked_at(nets, golden, name, suffix):
    figure = Figure(nets.resnet(4) if name == "resnet" else getattr(nets, name)(), theme="light")
    text = svg.drawn(figure.diagram, layout(figure.diagram), theme="light") \
        if suffix == ".svg" else figure._content(suffix)
    golden(name + suffix, text)


def test_lines_run_side_by_side_with_round_corners_and_a_head():
    assert svg._parallel([(0, 0), (0, 10), (20, 10)], 2.0) == [(-2.0, 0.0), (-2.0, 12.0),
                                                               (20.0, 12.0)]
    assert svg._path([(0, 0), (0, 10), (20, 10)]) == "M0 0L0 5Q0 10 5 10L20 10"
    assert svg._path([(0, 0), (0, 100), (100, 100)]) == "M0 0L0 91Q0 100 9 100L100 100"
    assert svg._path([(0, 0), (0, 1), (9, 1)]) == "M0 0L0 1L9 1"
    arrow = svg._arrow([(0, 0), (0, 100)], "line")
    assert 'd="M0 0L0 92"' in arrow
    assert 'points="0,100 -3.6,92 3.6,92"' in arrow


def test_a_bar_is_filled_to_its_fraction():
    for fraction, filled in ((0.0, "7"), (0.5, "48"), (1.0, "96"), (2.0, "96")):
        drawn = svg._row(Row("bar", "t", fraction=fraction, levels=(2,)), 10, 300, 50)
        assert f'<rect x="10" y="55" width="{filled}" height="7" rx="3.5" fill="#d0459a"' in drawn


def test_the_svg_scopes_every_id_to_its_figure(nets):
    diagram = draw(nets.lenet())
    drawn = svg.drawn(diagram, layout(diagram), figure="abc")
    ids = [part.split('"')[0] for part in drawn.split(' id="')[1:]]
    assert len(ids) == len(set(ids)) == 1 + 17 + 16 + 3 + 2     # cards, edges, modules, two texts
    assert all(name == "abc" or name.startswith("abc-") for name in ids)


def test_light_and_dark_differ_and_auto_holds_both(nets):
    light, dark, both = (Figure(nets.lenet(), theme=t).svg()
                         for t in ("light", "dark", "auto"))
    assert "prefers-color-scheme" in both
    assert "prefers-color-scheme" not in light + dark
    assert 'fill="#0f1720"' in dark
    assert 'fill="#0f1720"' not in light
