"""What gets a card: everything that fits, then less and less of it."""

from dataclasses import replace

import pytest

from tinygrad_cnn.errors import VizError
from tinygrad_cnn.viz.capture import Statistics
from tinygrad_cnn.viz.diagram import Diagram, draw
from tinygrad_cnn.viz.figure import dumps, loads


def titles(diagram):
    return [card.title for card in diagram.cards]


def test_a_small_network_shows_everything(nets):
    diagram = draw(nets.lenet())
    assert diagram.level == "everything"
    assert titles(diagram) == [
        "x", "weight", "bias", "conv2d", "relu", "max_pool2d", "weight", "bias", "conv2d", "relu",
        "max_pool2d", "flatten", "weight", "bias", "linear", "y", "cross_entropy"]
    assert [g.title for g in diagram.groups] == ["conv1", "conv2", "fc"]


def test_parameters_go_into_the_card_of_their_reader(nets):
    diagram = draw(nets.lenet(), level="operators")
    conv = next(c for c in diagram.cards if c.title == "conv1 · conv2d")
    assert any(row.text == "weight 5×5×1×8 · bias 8" for row in conv.rows)
    assert not [c for c in diagram.cards if c.kind == "parameter"]


def test_a_resnet_of_56_layers_folds_to_one_page(nets):
    recording = nets.resnet(9)
    diagram = draw(recording)
    assert diagram.level == "folded"
    assert len(diagram.cards) <= 40
    assert "stage1[0…8] × 9" in titles(diagram)
    assert "stage2[1…8] × 8" in titles(diagram)
    assert [g.title for g in diagram.groups] == ["stage2", "stage2[0]", "stage3", "stage3[0]"]
    stack = next(c for c in diagram.cards if c.title == "stage1[0…8] × 9")
    squares = next(r for r in stack.rows if r.kind == "squares")
    assert len(squares.levels) == 9


def test_opening_a_module_takes_it_out_of_its_stack(nets):
    diagram = draw(nets.resnet(9), open=["stage1[4]"])
    assert "stage1[0…3] × 4" in titles(diagram)
    assert "stage1[5…8] × 4" in titles(diagram)
    assert {"stage1", "stage1[4]"} <= {g.title for g in diagram.groups}


@pytest.mark.parametrize("name", ["stage1[4]", "stage1.4"])
def test_a_module_may_be_named_as_drawn_or_as_in_its_state(nets, name):
    assert draw(nets.resnet(9), open=name) is not None


def test_a_module_that_is_not_there_is_refused_with_the_names_that_are(nets):
    with pytest.raises(VizError, match=r"open='stage9' is no module .* modules: conv1, conv2, fc"):
        draw(nets.lenet(), open="stage9")


def test_a_block_that_differs_stands_alone(nets):
    recording = nets.resnet(6)
    entries = list(recording.entries)
    odd = next(i for i, e in enumerate(entries) if e.op == "relu" and e.scope == ("stage1", "2"))
    entries[odd] = replace(entries[odd], settings=("slope 0.1",))
    diagram = draw(replace(recording, entries=tuple(entries)), limit=20)
    assert "stage1[3…5] × 3" in titles(diagram)


def test_a_block_whose_inside_is_read_outside_joins_no_stack(nets):
    recording = nets.resnet(6)
    entries = list(recording.entries)
    inner = next(i for i, e in enumerate(entries) if e.op == "relu" and e.scope == ("stage1", "1"))
    last = next(i for i, e in reversed(list(enumerate(entries))) if e.op == "add")
    entries[last] = replace(entries[last], inputs=(entries[last].inputs[0], inner))
    diagram = draw(replace(recording, entries=tuple(entries)))
    assert "stage1[2…5] × 4" in titles(diagram)
    assert not any("stage1[0…" in t for t in titles(diagram))


@pytest.mark.parametrize("rms", [float("nan"), 1.0])
def test_a_block_with_a_wild_gradient_leaves_its_stack(nets, rms):
    recording = nets.resnet(9)
    entries = list(recording.entries)
    lasts = [i for i, e in enumerate(entries) if e.op == "relu" and e.scope == ("stage1", "4")]
    entries[lasts[-1]] = replace(entries[lasts[-1]], gradient=Statistics(rms, bad=int(rms != rms)))
    found = titles(draw(replace(recording, entries=tuple(entries))))
    assert "stage1[0…3] × 4" in found
    assert "stage1[4]" in found


def test_a_warning_inside_a_stack_names_its_block(nets):
    recording = nets.resnet(9)
    entries = list(recording.entries)
    i = next(i for i, e in enumerate(entries) if e.op == "relu" and e.scope == ("stage2", "4"))
    entries[i] = replace(entries[i], dead=5, channels=32)
    diagram = draw(replace(recording, entries=tuple(entries)))
    stack = next(c for c in diagram.cards if c.title == "stage2[1…8] × 8")
    assert stack.warnings == ("block 4, relu: 5 of 32 channels are dead",)


@pytest.mark.parametrize("ops, limit", [
    (("relu",), 4), (("conv2d", "relu"), 40), (("conv2d", "relu", "flatten", "max_pool2d"), 10),
    (("relu", "conv2d", "conv2d", "mul", "flatten"), 7)])
@pytest.mark.parametrize("length", [41, 500, 3000])
def test_a_long_chain_without_modules_always_fits(nets, ops, limit, length):
    recording = nets.chain(length, ops)
    diagram = draw(recording, limit=limit)
    assert len(diagram.cards) <= limit
    assert "shown as" in diagram.subtitle


def test_an_irregular_graph_is_cut_into_pieces_whose_arrows_all_go_down(nets):
    b = nets.Builder()
    made = [b.leaf("input", "x", (4, 3))]
    state = 1
    for _ in range(1500):                   # a fixed, irregular wiring
        state = state * 1103515245 + 12345 & 0x7FFFFFFF
        near = made[-1 - state % min(len(made), 5)]
        op = ("relu", "conv2d", "add", "flatten", "mul", "max_pool2d")[state >> 8 & 3]
        made.append(b.op(op, (4, 3), near, made[-1 - (state >> 16) % min(len(made), 40)]))
    diagram = draw(b.recording())
    place = {card.id: k for k, card in enumerate(diagram.cards)}
    assert len(diagram.cards) <= 40
    assert all(place[e.source] < place[e.target] for e in diagram.edges)


def test_many_inputs_do_not_break_the_limit(nets):
    b = nets.Builder()
    total = b.leaf("input", "x", (4, 3))
    for k in range(300):
        total = b.op("add", (4, 3), total, b.leaf("input", f"x{k}", (4, 3)))
    assert len(draw(b.recording()).cards) <= 40


def test_a_tensor_read_twice_by_one_op_has_one_edge(nets):
    b = nets.Builder()
    x = b.leaf("parameter", "x", (4, 3))
    b.op("mul", (4, 3), x, x)
    assert len(draw(b.recording()).edges) == 1


def test_a_shared_parameter_is_not_drawn_beside_one_of_its_readers(nets):
    b = nets.Builder()
    x, w = b.leaf("input", "x", (4, 3)), b.leaf("parameter", "weight", (3, 3))
    b.op("linear", (4, 3), b.op("linear", (4, 3), x, w), w)
    card = next(c for c in draw(b.recording()).cards if c.kind == "parameter")
    assert card.beside == ""


def test_a_diagram_survives_json(nets):
    diagram = draw(nets.resnet(3), color="time")
    assert loads(Diagram, dumps(diagram)) == diagram


def test_equal_runs_give_equal_diagrams(nets):
    assert draw(nets.resnet(4)) == draw(nets.resnet(4))


@pytest.mark.parametrize("color, text", [("time", "100 µs, 11%"), ("memory", "196 KiB, 32%"),
                                         ("flop", "2.5 MFLOP, 32%")])
def test_bars_show_another_share_on_request(nets, color, text):
    conv = next(c for c in draw(nets.lenet(), color=color).cards if c.title == "conv2d")
    assert [r.text for r in conv.rows if r.kind == "bar"] == [text]


@pytest.mark.parametrize("setting, message", [
    ({"level": "all"}, "level 'all' is unknown; choose from auto, everything"),
    ({"color": "red"}, "color 'red' is unknown; choose from grad"),
    ({"scale": "log"}, "scale 'log' is unknown; choose decades or fit"),
    ({"limit": 2}, "at most 2 cards is too small")])
def test_an_unknown_setting_is_refused(nets, setting, message):
    with pytest.raises(VizError, match=message):
        draw(nets.lenet(), **setting)


def test_a_level_of_too_many_cards_folds_and_says_so(nets):
    diagram = draw(nets.chain(2500, ("conv2d", "relu")), level="everything")
    assert diagram.level == "folded"
    assert "too many cards for level everything: folded" in diagram.subtitle


def test_folding_takes_linear_time(nets, calls):
    few, many = (calls(draw, nets.chain(length, ("relu", "conv2d", "mul")))
                 for length in (500, 4000))
    assert many < 10 * few                          # eight times the nodes


def test_the_scale_fits_the_gradients_on_request(nets):
    recording = nets.resnet(3)
    scale = draw(recording, scale="fit").scale
    assert scale.edges[0] < 1e-3 < scale.edges[-1]
    assert draw(recording).scale.edges == (1e-4, 1e-3, 1e-2, 1e-1)
