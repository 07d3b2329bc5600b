"""The own layout: everything in its place, nothing across anything else."""

import itertools

import pytest

from tinygrad_cnn.viz import Figure, layout, svg
from tinygrad_cnn.viz.diagram import draw


@pytest.fixture(params=["lenet", "resnet folded", "resnet", "branches", "skips"])
def diagram(request, nets):
    if request.param == "lenet":
        return draw(nets.lenet())
    if request.param.startswith("resnet"):
        return draw(nets.resnet(3), level="folded" if "folded" in request.param else "operators")
    b = nets.Builder()
    x = b.leaf("input", "x", (8, 4, 4, 2))
    made = [x]
    for k in range(7):
        w = b.leaf("parameter", "weight", (3, 3, 2, 2))
        source = made[0] if request.param == "branches" and k % 2 else made[-1]
        made.append(b.op("conv2d", (8, 4, 4, 2), source, w))
        if k > 2:
            made.append(b.op("add", (8, 4, 4, 2), made[-1], made[-3]))
    if request.param == "branches":
        made.append(b.op("add", (8, 4, 4, 2), made[-1], made[2]))
    return draw(b.recording())


def pieces(route):
    return list(zip(route.points, route.points[1:], strict=False))


def test_no_card_touches_another(diagram):
    boxes = layout.layout(diagram).cards
    assert set(boxes) == {c.id for c in diagram.cards}
    for a, b in itertools.combinations(boxes.values(), 2):
        assert not a.overlaps(b)


def test_every_edge_has_a_route_along_the_axes_that_crosses_no_card(diagram):
    places = layout.layout(diagram)
    assert {r.edge for r in places.routes} == {e.id for e in diagram.edges}
    for route in places.routes:
        for (ax, ay), (bx, by) in pieces(route):
            assert ax == bx or ay == by
            way = layout.Box(min(ax, bx), min(ay, by) + 1, max(1, abs(bx - ax)),
                            max(1, abs(by - ay) - 2))
            for name, box in places.cards.items():
                inner = layout.Box(box.x + 1, box.y + 1, box.w - 2, box.h - 2)
                assert not way.overlaps(inner), f"{route.edge} runs over {name}"


def test_an_edge_ends_at_the_border_of_its_cards(diagram):
    places = layout.layout(diagram)
    edges = {e.id: e for e in diagram.edges}
    for route in places.routes:
        for (x, y), name in ((route.points[0], edges[route.edge].source),
                             (route.points[-1], edges[route.edge].target)):
            box = places.cards[name]
            assert (x in (box.x, box.right) and box.y <= y <= box.bottom) or (
                y in (box.y, box.bottom) and box.x <= x <= box.right)


def test_the_box_of_a_module_holds_its_cards_and_no_other(diagram):
    places = layout.layout(diagram)
    parents = {g.id: g.parent for g in diagram.groups}
    for card in diagram.cards:
        inside, group = set(), card.group
        while group:
            inside.add(group)
            group = parents[group]
        for name, box in places.groups.items():
            assert box.overlaps(places.cards[card.id]) == (name in inside)


def test_the_trunk_is_one_straight_line(nets):
    places = layout.layout(draw(nets.lenet()))
    diagram = draw(nets.lenet())
    middles = {(b := places.cards[c.id]).x + b.w // 2 for c in diagram.cards if not c.beside}
    assert len(middles) == 1


def test_everything_stands_on_whole_pixels_inside_the_picture(diagram):
    places = layout.layout(diagram)
    for box in (*places.cards.values(), *places.groups.values()):
        assert all(type(v) is int for v in (box.x, box.y, box.w, box.h))
        assert box.x >= 0
        assert box.y >= 0
        assert box.right <= places.width
        assert box.bottom <= places.height


def test_places_are_the_same_in_every_run(nets):
    places = layout.layout(draw(nets.lenet()))
    assert (places.width, places.height, len(places.routes)) == (882, 1488, 16)
    assert (places.cards["n0"].x, places.cards["n0"].y) == (359, layout._MARGIN)
    assert places == layout.layout(draw(nets.lenet()))


def test_a_small_edit_leaves_the_rows_above_where_they_are(nets):
    before = draw(nets.chain(10, ("conv2d", "flatten")), level="everything")
    after = draw(nets.chain(11, ("conv2d", "flatten")), level="everything")
    a, b = layout.layout(before).cards, layout.layout(after).cards
    assert all(a[c.id].y == b[c.id].y for c in before.cards[:-1])


def test_a_graph_with_many_lanes_is_left_to_an_engine(nets):
    b = nets.Builder()
    x = b.leaf("input", "x", (8, 4))
    arms = [b.op("flatten", (8, 4), b.op("linear", (8, 4), x)) for _ in range(9)]
    b.op("concatenate", (8, 36), *arms, arguments=tuple(f"xs[{k}]" for k in range(9)))
    assert not layout.layout(draw(b.recording())).fits
    assert layout.layout(draw(nets.resnet(9))).fits


def test_an_empty_diagram_has_a_layout(nets):
    empty = draw(nets.lenet()).__class__("t", "s", "everything", (), (), (),
                                         draw(nets.lenet()).scale)
    assert layout.layout(empty).cards == {}


def test_the_svg_of_the_own_layout_scopes_every_id_to_its_figure(nets):
    drawn = svg.drawn(draw(nets.lenet()), layout.layout(draw(nets.lenet())), figure="abc")
    ids = [part.split('"')[0] for part in drawn.split(' id="')[1:]]
    assert ids
    assert all(name == "abc" or name.startswith("abc-") for name in ids)
    assert len(set(ids)) == len(ids)


def test_light_and_dark_differ_and_auto_holds_both(nets):
    recording = nets.lenet()
    light, dark, both = (Figure(recording, theme=t, engine="builtin").svg()
                         for t in ("light", "dark", "auto"))
    assert "prefers-color-scheme" in both
    assert "prefers-color-scheme" not in light + dark
    assert 'fill="#0f1720"' in dark
    assert 'fill="#0f1720"' not in light
