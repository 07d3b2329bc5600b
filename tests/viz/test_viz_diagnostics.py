"""Each rule finds a network with just its flaw, at its limit, and healthy networks have none."""

import math
from dataclasses import replace

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn, viz
from tinygrad_cnn.viz import diagnostics
from tinygrad_cnn.viz.capture import Statistics


def classifier(depth=2, *, width=16, seed=0, scale=1.0, first=None, act=tc.relu, head=1.0):
    """A network of linear layers, with weights of a chosen scale."""
    rng = np.random.default_rng(seed)
    sizes = [12] + [width] * depth
    weights = [tc.Parameter(rng.normal(size=(a, b)) * np.sqrt(2 / a) * scale, name=f"w{k}")
               for k, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False))]
    if first is not None:
        weights[0].data[...] *= first
    last = tc.Parameter(rng.normal(size=(width, 4)) / np.sqrt(width) * head, name="head")
    x, y = rng.normal(size=(32, 12)), np.arange(32) % 4
    h = tc.Tensor(x)
    for w in weights:
        h = act(h @ w)
    return tc.cross_entropy(h @ last, y)


def rules(loss, **settings):
    return {p.rule for p in viz.graph(loss).problems(**settings)}


def found(nets, change, **settings):
    """The rules that the LeNet made by hand breaks, its entries changed."""
    recording = nets.lenet()
    entries = [replace(e, dead=0, channels=0) for e in recording.entries]
    for i, facts in change.items():
        entries[i] = replace(entries[i], **facts)
    return [(p.rule, p.entry) for p in diagnostics.problems(
        replace(recording, entries=tuple(entries)), **settings)]


def of_rms(value):
    return {"gradient": Statistics(value, -value, value)}


@pytest.mark.parametrize("depth, act", [(1, tc.relu), (3, tc.relu), (2, tc.gelu)])
def test_a_healthy_network_has_no_problem(depth, act):
    assert viz.graph(classifier(depth, act=act)).problems() == ()


def test_a_healthy_convolutional_network_has_no_error(nets, batch):
    figure = viz.graph_of_module(nets.LeNet(seed=3), batch[0], labels=batch[1])
    assert figure.problems(severity="error") == ()
    assert found(nets, {}) == []


def test_the_first_nan_is_named_with_the_ranges_that_led_to_it():
    x = tc.Parameter([1.0, -1.0], name="x")
    with np.errstate(all="ignore"):
        loss = ((x - 1.0).log() * 2.0).sum()
        errors = viz.graph(loss).problems(severity="error")
    value = next(p for p in errors if "values begin here" in p.evidence)
    assert (value.rule, value.name) == ("non-finite", "log")
    assert value.evidence == "2 NaN or infinite values begin here, from sub in -2.0…0"


def test_a_gradient_that_overflows_is_found_where_it_begins(nets):
    x = tc.Parameter([0.0, 4.0], name="x")
    with np.errstate(all="ignore"):
        errors = viz.graph(tc.sqrt(x * 1.0).sum()).problems(severity="error")
    assert [(p.rule, p.name) for p in errors] == [("non-finite", "mul")]
    assert "1 NaN or infinite gradients begin here" in errors[0].evidence
    bad = {"gradient": Statistics(math.nan, bad=3)}
    assert found(nets, {3: bad, 8: bad, 9: bad}) == [("non-finite", 9)]     # the first on the way


def test_a_parameter_behind_dead_units_has_no_gradient():
    w = tc.Parameter(-np.ones((3, 2)), name="w")
    loss = tc.relu(tc.Tensor(np.ones((4, 3))) @ w).sum()
    assert [(p.rule, p.name) for p in viz.graph(loss).problems(severity="error")] == [
        ("no gradient", "w")]


@pytest.mark.parametrize("dead, expected", [(2, ["dead"]), (1, [])])
def test_a_tenth_of_dead_channels_is_found(nets, dead, expected):
    assert [r for r, _ in found(nets, {4: {"dead": dead, "channels": 20}})] == expected


def test_dead_channels_of_a_real_layer_are_counted():
    w = tc.Parameter(np.ones((1, 1, 1, 8)), name="w")
    b = tc.Parameter(np.array([0.0] * 6 + [-9.0] * 2), name="b")
    x = tc.Tensor(np.random.default_rng(0).normal(size=(4, 4, 4, 1)))
    problem, = viz.graph(tc.relu(tc.conv2d(x, w, b)).sum()).problems()
    assert (problem.rule, problem.evidence) == ("dead", "2 of 8 channels are dead")


@pytest.mark.parametrize("ratio, evidence", [
    (1.1e-2, "0.011 of their size"), (0.9e-2, ""), (1.1e-4, ""), (0.9e-4, "9.0e-5 of their size")])
def test_a_step_is_judged_by_its_share_of_the_weights(nets, ratio, evidence):
    recording = nets.lenet()
    rate = {e.path: e.gradient.rms / e.weight for e in recording.entries if e.weight}
    only = [replace(e, gradient=None) if e.path in rate and e.path != "conv2.weight" else e
            for e in recording.entries]
    steps = [p for p in diagnostics.problems(replace(recording, entries=tuple(only)),
                                             learning_rate=ratio / rate["conv2.weight"])
             if p.rule == "step size"]
    assert [p.name for p in steps] == ["conv2.weight"] * bool(evidence)
    assert all(evidence in p.evidence for p in steps)
    assert all(("lower" if ratio > 1e-3 else "raise") in p.hint for p in steps)


@pytest.mark.parametrize("factor, expected", [
    (1.1e-3, []), (0.9e-3, ["vanishing"]), (0.9e3, []), (1.1e3, ["exploding"])])
def test_gradient_over_weight_of_first_and_last_layer_is_compared(nets, factor, expected):
    recording = nets.lenet()
    first, last = (recording.entries[i] for i in (1, 12))
    rms = factor * last.gradient.rms / last.weight * first.weight
    assert [p for p in found(nets, {1: of_rms(rms)}) if p[0] != "step size"] == [
        (rule, 1) for rule in expected]
    assert found(nets, {1: of_rms(0.0)}) == [("cancels", 1)]        # its reader sends 0.1


@pytest.mark.parametrize("family, beyond, expected", [
    ("linear", 11, ["exploding"]), ("linear", 9, []), ("linear", 0.11, []),
    ("linear", 0.09, ["vanishing"]), ("conv", 11, ["exploding"]), ("activation", 11, ["exploding"]),
    ("elementwise", 11, []), ("pool", 0.01, []), ("norm", 100, [])])
def test_an_op_may_change_the_gradient_as_its_shape_does(nets, family, beyond, expected):
    recording = nets.lenet()                # entry 14 maps 576 values of a row to 10
    gain = beyond * math.sqrt(10 / 576)
    change = {14: {"family": family, **of_rms(2.0), "sent": (2.0 * gain, 1.0, 1.0)}}
    assert recording.entries[14].op == "linear"
    assert found(nets, change) == [(rule, 14) for rule in expected]


@pytest.mark.parametrize("loss, expected", [
    (classifier(6, act=tc.sigmoid, scale=0.6), "vanishing"),
    (classifier(1, first=1e-4, act=lambda h: h), "exploding")])
def test_gradients_that_fade_or_grow_over_depth_are_found_in_real_networks(loss, expected):
    assert expected in rules(loss)


@pytest.mark.parametrize("factor, expected", [(2.01, [("start", 16)]), (1.99, [])])
def test_a_loss_above_twice_that_of_guessing_is_found(nets, factor, expected):
    loss = factor * math.log(10)
    assert found(nets, {16: {"value": Statistics(loss, loss, loss)}}) == expected
    assert "start" in rules(classifier(1, head=30.0))


@pytest.mark.parametrize("confidence, expected", [(0.9991, [("saturated", 16)]), (0.9989, [])])
def test_a_saturated_softmax_is_found(nets, confidence, expected):
    assert found(nets, {16: {"confidence": confidence}}) == expected
    assert "saturated" in rules(classifier(1, head=1e5))


def test_a_bias_before_batch_norm_is_idle():
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Conv2D(1, 4, 3, rng=rng), nn.BatchNorm2D(4), nn.ReLU(),
                          nn.Flatten(), nn.Linear(16, 4, rng=rng))
    x = rng.normal(size=(8, 4, 4, 1)).astype(np.float32)
    problems = viz.graph_of_module(model, x, labels=np.arange(8) % 4).problems()
    assert [p.name for p in problems if p.rule == "idle bias"] == ["0.bias"]
    model = nn.Sequential(nn.Conv2D(1, 4, 3, bias=False, rng=rng), nn.BatchNorm2D(4))
    assert "idle bias" not in {p.rule for p in model.graph(x).problems()}


def test_findings_show_in_the_cards_and_carry_the_source_line():
    figure = viz.graph(classifier(1, head=1e5))
    problem = next(p for p in figure.problems() if p.rule == "saturated")
    assert problem.source.startswith("test_viz_diagnostics.py:")
    assert any(problem.evidence in card.warnings for card in figure.diagram.cards)
    assert str(problem).startswith("warning: cross_entropy (test_viz_diagnostics.py:")
    assert str(problem).endswith(f"{problem.hint} [saturated]")


def test_a_card_with_nan_has_a_dashed_border():
    x = tc.Parameter([1.0, -1.0], name="x")
    with np.errstate(all="ignore"):
        figure = viz.graph(x.log().sum())
    assert [c.title for c in figure.diagram.cards if c.broken] == ["log", "sum"]
    assert figure.svg().count("stroke-dasharray") == 2


def test_what_was_not_recorded_is_no_finding(nets):
    figure = nets.LeNet().graph(np.ones((2, 12, 12, 1), np.float32))
    assert not [p for p in figure.problems() if p.rule in ("no gradient", "vanishing", "exploding")]


def test_an_unknown_severity_is_refused(nets):
    with pytest.raises(tc.VizError, match="severity 'fatal' is unknown; choose error or warning"):
        viz.Figure(nets.lenet()).problems(severity="fatal")


def test_every_rule_says_what_it_finds():
    assert all(rule.__doc__ for rule in diagnostics.RULES.values())
