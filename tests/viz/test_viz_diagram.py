"""What gets a card, and the figures on it: everything that fits, then less and less of it."""

import math
from dataclasses import replace

import pytest

from tinygrad_cnn.errors import VizError
from tinygrad_cnn.viz.capture import Statistics
from tinygrad_cnn.viz.diagram import Diagram, Scale, draw
from tinygrad_cnn.viz.figure import dumps, loads
from tinygrad_cnn.viz.fold import fold


def titles(diagram):
    return [card.title for card in diagram.cards]


def card(diagram, title):
    return next(c for c in diagram.cards if c.title == title)


def texts(found, kind="text"):
    return [r.text + r.hot + r.after for r in found.rows if r.kind == kind]


def changed(recording, places, **facts):
    """A recording with other facts at the entries that ``places`` picks."""
    entries = [replace(e, **facts) if places(i, e) else e for i, e in enumerate(recording.entries)]
    return replace(recording, entries=tuple(entries))


# ---- folding -------------------------------------------------------------------------------------

def test_a_small_network_shows_everything(nets):
    diagram = draw(nets.lenet())
    assert diagram.level == "everything"
    assert titles(diagram) == [
        "x", "weight", "bias", "conv2d", "relu", "max_pool2d", "weight", "bias", "conv2d", "relu",
        "max_pool2d", "flatten", "weight", "bias", "linear", "y", "cross_entropy"]
    assert [g.title for g in diagram.groups] == ["conv1", "conv2", "fc"]


@pytest.mark.parametrize("limit, level", [(17, "everything"), (16, "operators"), (11, "operators"),
                                          (10, "folded")])
def test_the_first_level_that_fits_the_limit_is_taken(nets, limit, level):
    diagram = draw(nets.lenet(), limit=limit)
    assert diagram.level == level
    assert len(diagram.cards) <= limit


def test_parameters_go_into_the_card_of_their_reader(nets):
    diagram = draw(nets.lenet(), level="operators")
    assert "weight 5×5×1×8 · bias 8" in texts(card(diagram, "conv1 · conv2d"))
    assert not [c for c in diagram.cards if c.kind == "parameter"]


def test_a_resnet_of_56_layers_folds_to_one_page(nets):
    diagram = draw(nets.resnet(9))
    assert diagram.level == "folded"
    assert titles(diagram) == [
        "x", "conv · conv2d", "norm · batch_norm", "relu", "stage1[0…8] × 9",
        *["conv1 · conv2d", "norm1 · batch_norm", "relu", "conv2 · conv2d", "norm2 · batch_norm",
          "down · conv2d", "down_norm · batch_norm", "add, relu", "stage2[1…8] × 8"],
        *["conv1 · conv2d", "norm1 · batch_norm", "relu", "conv2 · conv2d", "norm2 · batch_norm",
          "down · conv2d", "down_norm · batch_norm", "add, relu", "stage3[1…8] × 8"],
        "global_avg_pool2d", "fc · linear", "y", "cross_entropy"]
    assert [g.title for g in diagram.groups] == ["stage2", "stage2[0]", "stage3", "stage3[0]"]
    stack = card(diagram, "stage1[0…8] × 9")
    assert stack.tag == "117 nodes"         # 9 blocks of 7 ops and 6 parameters
    assert texts(stack)[:2] == ["32×32×16", "conv, norm, relu, conv, norm, add, relu"]
    weights = 9 * (2 * 9 * 16 * 16 + 4 * 16)
    assert texts(stack)[2].startswith(f"{weights:,} parameters · ".replace(",", "\u00a0"))
    assert next(r for r in stack.rows if r.kind == "squares").levels == (1,) * 9


def test_one_block_stays_open_while_there_is_room(nets):
    recording = nets.resnet(3)              # no stage has three equal blocks but the first
    diagram = draw(recording)
    assert {g.title for g in diagram.groups} >= {"stage1", "stage1[0]"}
    assert "stage1[1…2] × 2" in titles(diagram)
    by_title = {g.title: g for g in diagram.groups}
    assert by_title["stage1[0]"].parent == by_title["stage1"].id
    assert by_title["stage1"].parent == ""
    skips = [e for e in diagram.edges if not e.trunk and card(diagram, "add, relu").id == e.target]
    assert [next(c.title for c in diagram.cards if c.id == e.source) for e in skips] == ["relu"]
    assert "stage1[0…2] × 3" in titles(draw(recording, limit=len(diagram.cards) - 1))
    assert "stage1[0…2] × 3" in titles(draw(recording, density="compact"))


def test_each_square_of_a_stack_is_the_weakest_of_its_blocks(nets):
    def last(i, e):
        return e.op == "relu" and e.scope and e.scope[0] == "stage1"

    recording = nets.resnet(70)             # more blocks than squares: three a square, one at last
    entries = list(recording.entries)
    lasts = [i for i, e in enumerate(entries) if last(i, e)][1::2]
    for k, i in enumerate(lasts):
        entries[i] = replace(entries[i], gradient=Statistics(2e-3 if k % 3 or k == 69 else 5e-4))
    stack = next(c for c in draw(replace(recording, entries=tuple(entries))).cards
                 if c.title.startswith("stage1[0"))
    row = next(r for r in stack.rows if r.kind == "squares")
    assert row.levels == (1,) * 23 + (2,)
    assert row.text == "grad 5.0e-4 … 2.0e-3"


def test_opening_a_module_takes_it_out_of_its_stack(nets):
    for name in ("stage1[4]", "stage1.4"):
        diagram = draw(nets.resnet(9), open=name)
        assert {"stage1[0…3] × 4", "stage1[5…8] × 4"} <= set(titles(diagram))
        assert {"stage1", "stage1[4]"} <= {g.title for g in diagram.groups}
    with pytest.raises(VizError, match=r"open='stage9' is no module .* modules: conv1, conv2, fc"):
        draw(nets.lenet(), open="stage9")


def test_a_block_that_differs_or_is_read_outside_joins_no_stack(nets):
    recording = nets.resnet(6)
    odd = changed(recording, lambda i, e: e.op == "relu" and e.scope == ("stage1", "2"),
                  settings=("slope 0.1",))
    assert "stage1[3…5] × 3" in titles(draw(odd, limit=20))
    inner = next(i for i, e in enumerate(recording.entries)
                 if e.op == "relu" and e.scope == ("stage1", "1"))
    last = max(i for i, e in enumerate(recording.entries) if e.op == "add")
    found = titles(draw(changed(recording, lambda i, e: i == last,
                                inputs=(recording.entries[last].inputs[0], inner))))
    assert "stage1[3…5] × 3" in found       # the first of the four is open
    assert not any("stage1[0…" in t for t in found)


@pytest.mark.parametrize("rms, apart", [(math.nan, True), (1.01e-2, True), (0.99e-2, False)])
def test_a_block_whose_gradient_is_ten_times_that_of_its_siblings_leaves_its_stack(nets, rms,
                                                                                   apart):
    recording = nets.resnet(9)              # all gradients are 1e-3
    last = max(i for i, e in enumerate(recording.entries)
               if e.op == "relu" and e.scope == ("stage1", "4"))
    found = titles(draw(changed(recording, lambda i, e: i == last,
                                gradient=Statistics(rms, bad=int(rms != rms)))))
    assert ({"stage1[0…3] × 4", "stage1[4]", "stage1[5…8] × 4"} <= set(found)) == apart
    assert ("stage1[0…8] × 9" in found) != apart


def test_a_block_between_two_that_left_stands_alone(nets):
    wild = changed(nets.resnet(9), lambda i, e: e.op == "relu" and e.scope[-1:] in (("4",), ("6",)),
                   gradient=Statistics(1.0))
    assert {"stage1[1…3] × 3", "stage1[4]", "stage1[5]", "stage1[6]", "stage1[7…8] × 2"} <= set(
        titles(draw(wild)))


def test_a_warning_inside_a_stack_names_its_block(nets):
    recording = changed(nets.resnet(9), lambda i, e: e.op == "relu" and e.scope == ("stage2", "4"),
                        dead=5, channels=32)
    assert card(draw(recording), "stage2[1…8] × 8").warnings == (
        "block 4, relu: 5 of 32 channels are dead",)


@pytest.mark.parametrize("ops, limit", [
    (("relu",), 4), (("conv2d", "relu"), 40), (("conv2d", "relu", "flatten", "max_pool2d"), 10),
    (("relu", "conv2d", "conv2d", "mul", "flatten"), 7)])
@pytest.mark.parametrize("length", [41, 500, 3000])
def test_a_long_chain_without_modules_always_fits(nets, ops, limit, length):
    diagram = draw(nets.chain(length, ops), limit=limit)
    assert len(diagram.cards) <= limit
    assert f"shown as {len(diagram.cards)} cards" in diagram.subtitle


def test_repeated_ops_fold_with_their_count(nets):
    def parts(length, ops, limit):
        return [(p.kind, p.interval, len(p.instances))
                for p in fold(nets.chain(length, ops), "folded", limit=limit).parts]

    # the first reads a parameter, so the pattern begins behind it
    assert titles(draw(nets.chain(41, ("conv2d", "flatten")))) == ["conv2d", "flatten, conv × 20"]
    assert parts(41, ("conv2d", "flatten"), 40) == [("op", (0, 1), 0), ("pattern", (1, 41), 20)]
    five = ("relu", "conv2d", "conv2d", "mul", "flatten")
    assert parts(45, five, 9) == [("op", (0, 1), 0), ("pattern", (1, 41), 8),
                                  *(("op", (k, k + 1), 0) for k in range(41, 45))]
    assert parts(45, five, 5) == [("segment", (0, 41), 0), ("segment", (41, 43), 0),
                                  ("segment", (43, 45), 0)]
    assert parts(50, ("relu", "mul"), 4) == [("chain", (0, 50), 0)]
    assert titles(draw(nets.chain(50, ("relu", "mul")))) == ["50 element-wise ops"]


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
    place = {c.id: k for k, c in enumerate(diagram.cards)}
    assert 35 <= len(diagram.cards) <= 40
    assert all(place[e.source] < place[e.target] for e in diagram.edges)


def test_many_inputs_do_not_break_the_limit(nets):
    b = nets.Builder()
    total = b.leaf("input", "x", (4, 3))
    for k in range(300):
        total = b.op("add", (4, 3), total, b.leaf("input", f"x{k}", (4, 3)))
    assert len(draw(b.recording()).cards) <= 40


def test_a_level_of_too_many_cards_folds_and_says_so(nets):
    diagram = draw(nets.chain(2500, ("conv2d", "relu")), level="everything")
    assert diagram.level == "folded"
    assert "too many cards for level everything: folded" in diagram.subtitle


def test_folding_takes_linear_time(nets, calls):
    few, many = (calls(draw, nets.chain(length, ("relu", "conv2d", "mul")))
                 for length in (500, 4000))
    assert many < 10 * few                          # eight times the nodes


# ---- figures and colors --------------------------------------------------------------------------

def test_the_subtitle_sums_up_the_run(nets):
    recording = nets.lenet()
    ops = [e for e in recording.entries if e.op]
    flops, kept = (sum(getattr(e, name) for e in ops) for name in ("flops", "kept"))
    assert draw(recording).subtitle == (
        f"17 nodes · batch 8 · 7\u00a0146 parameters · {flops / 1e6:.1f} MFLOP forward · 900 µs "
        f"forward · {kept / 1024:.0f} KiB kept for backward · loss 2.5374")


def test_cards_show_cost_and_gradient(nets):
    diagram = draw(nets.lenet())
    conv = diagram.cards[3]
    assert conv.tag == "#3"
    assert texts(conv) == ["5×5 · stride 1 · 1→8 channels", "2.5 MFLOP · 100 µs · keeps 196 KiB"]
    bar = conv.rows[-1]
    assert (bar.text, bar.levels) == ("grad 0.10", (3,))
    assert bar.fraction == pytest.approx((math.log10(0.1) + 5) / 5)     # from 1e-5 to 1
    assert diagram.cards[16].rows[-1].text == "grad 1 (seed)"
    assert texts(diagram.cards[14])[-1] == "100 µs · keeps 320 B"      # 4,000 FLOP are few
    assert conv.about[:4] == ("conv1.conv2d", "5×5 · stride 1 · 1→8 channels",
                              "8×28×28×8 float32", "forward 100 µs")
    assert diagram.cards[1].about[-2:] == (
        "value RMS 0.050, between -0.10 and 0.10", "gradient RMS 1.0e-3, between -1.0 and 1.0")


def test_a_time_above_a_quarter_of_all_is_bold(nets):
    for seconds, hot in ((2.6e-4, ""), (2.7e-4, "270 µs (25%)")):       # beside eight times 100 µs
        recording = changed(nets.lenet(), lambda i, e: i == 3, seconds=seconds)
        rows = [r for r in draw(recording).cards[3].rows if r.hot]
        assert [r.hot for r in rows] == [hot] * bool(hot)
        assert all((r.text, r.after) == ("2.5 MFLOP · ", " · keeps 196 KiB") for r in rows)
    assert not any(r.hot for c in draw(nets.chain(1)).cards for r in c.rows)    # all of one op


@pytest.mark.parametrize("color, text", [("time", "100 µs, 11%"), ("memory", "196 KiB, 32%"),
                                         ("flop", "2.5 MFLOP, 32%")])
def test_bars_show_another_share_on_request(nets, color, text):
    diagram = draw(nets.lenet(), color=color)
    bar, = (r for r in diagram.cards[3].rows if r.kind == "bar")
    assert bar.text == text
    sizes = [e.size for e in nets.lenet().entries if e.op]      # what both figures are made of
    share = 1 / 9 if color == "time" else sizes[0] / sum(sizes)
    assert bar.fraction == pytest.approx(share)
    assert bar.levels == ((3,) if share < 0.3 else (4,))


def test_colors_part_the_decades():
    scale = Scale("gradient RMS", (1e-4, 1e-3, 1e-2, 1e-1), "1e-4", "0.1")
    assert [scale.level(v) for v in (0, 1e-4, 1.1e-4, 1e-3, 2e-3, 0.1, 0.2, math.nan)] == [
        0, 0, 1, 1, 2, 3, 4, 4]


@pytest.mark.parametrize("gradient, edges, ends", [
    (1e-3, (3e-4, 1e-3, 3e-3, 1e-2), ("3e-4", "0.01")),
    (4e-3, (1e-3, 3e-3, 1e-2, 3e-2), ("1e-3", "0.03"))])
def test_the_scale_fits_the_gradients_on_request(nets, gradient, edges, ends):
    recording = changed(nets.resnet(3), lambda i, e: e.op, gradient=Statistics(gradient))
    scale = draw(recording, scale="fit").scale
    assert scale.edges == pytest.approx(edges)
    assert (scale.low, scale.high) == ends
    n = len(recording.entries)
    fading = replace(recording, entries=tuple(
        replace(e, gradient=Statistics(10.0 ** (-12 * i / n))) if e.op else e
        for i, e in enumerate(recording.entries)))
    assert draw(fading, scale="fit").scale.edges == (1e-9, 1e-7, 1e-5, 1e-3)
    half = len(recording.entries) // 2
    infinite = changed(recording, lambda i, e: i < half, gradient=Statistics(math.inf))
    assert draw(infinite, scale="fit").scale == scale
    assert draw(recording).scale.edges == (1e-4, 1e-3, 1e-2, 1e-1)


def test_edges_carry_the_value_the_gradient_and_its_turn(nets):
    diagram = draw(nets.lenet())
    by_ends = {(e.source, e.target): e for e in diagram.edges}
    edge = by_ends["n5", "n8"]
    assert (edge.text, edge.gradient, edge.level, edge.trunk) == ("8×14×14×8", "0.010", 2, True)
    weight = by_ends["n6", "n8"]
    assert (weight.text, weight.gradient, weight.trunk) == ("", "0.010", False)
    assert by_ends["n0", "n3"].level == -1
    edges = diagram.backward()
    assert [edges[0].target, edges[-1].target] == ["n16", "n3"]
    assert [e.step for e in edges] == list(range(14))


def test_parallel_edges_become_one(nets):
    b = nets.Builder()
    x = b.leaf("parameter", "x", (4, 3))
    b.scope = ("first",)
    made = [b.op("conv2d", (4, 3), x, x) for _ in range(3)]
    b.scope = ("second",)
    b.op("add", (4, 3), b.op("add", (4, 3), *made[:2]), made[2])
    edge, = draw(b.recording(), level="modules").edges
    assert edge.text == "3 values"
    two = nets.Builder()
    x = two.leaf("parameter", "x", (4, 3))
    two.scope = ("first",)
    made = [two.op("conv2d", (4, 3), x, x) for _ in range(2)]
    two.scope = ("second",)
    two.op("mul", (4, 3), two.op("add", (4, 3), *made), made[0])
    assert [e.text for e in draw(two.recording(), level="modules").edges] == ["4×3", "4×3"]
    twice = nets.Builder()
    x = twice.leaf("parameter", "x", (4, 3))
    twice.op("mul", (4, 3), x, x)
    assert len(draw(twice.recording()).edges) == 1


def test_a_shared_parameter_is_not_drawn_beside_one_of_its_readers(nets):
    b = nets.Builder()
    x, w = b.leaf("input", "x", (4, 3)), b.leaf("parameter", "weight", (3, 3))
    b.op("linear", (4, 3), b.op("linear", (4, 3), x, w), w)
    assert [c.beside for c in draw(b.recording()).cards] == ["", "", "", ""]
    assert [c.beside for c in draw(nets.lenet()).cards[:4]] == ["", "n3", "n3", ""]


def test_a_diagram_survives_json_and_equal_runs_give_equal_diagrams(nets):
    diagram = draw(nets.resnet(3), color="time")
    assert loads(Diagram, dumps(diagram)) == diagram
    assert draw(nets.resnet(4)) == draw(nets.resnet(4))


@pytest.mark.parametrize("setting, message", [
    ({"level": "all"}, "level 'all' is unknown; choose from auto, everything"),
    ({"color": "red"}, "color 'red' is unknown; choose from grad"),
    ({"scale": "log"}, "scale 'log' is unknown; choose from decades, fit"),
    ({"limit": 3}, "at most 3 cards is too small")])
def test_an_unknown_setting_is_refused(nets, setting, message):
    with pytest.raises(VizError, match=message):
        draw(nets.lenet(), **setting)
