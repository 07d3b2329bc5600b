"""Each rule finds a network with just its flaw, and healthy networks have none."""

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn, viz
from tinygrad_cnn.viz import diagnostics


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


@pytest.mark.parametrize("depth, act", [(1, tc.relu), (3, tc.relu), (2, tc.gelu)])
def test_a_healthy_network_has_no_problem(depth, act):
    assert viz.graph(classifier(depth, act=act)).problems() == ()


def test_a_healthy_convolutional_network_has_no_problem(nets, batch):
    figure = viz.graph_of_module(nets.LeNet(seed=3), batch[0], labels=batch[1])
    assert figure.problems(severity="error") == ()


def test_the_first_nan_is_named_with_the_ranges_that_led_to_it():
    x = tc.Parameter([1.0, -1.0], name="x")
    with np.errstate(all="ignore"):
        loss = ((x - 1.0).log() * 2.0).sum()
        found = viz.graph(loss).problems(severity="error")
    value = next(p for p in found if "values begin here" in p.evidence)
    assert (value.rule, value.name) == ("non-finite", "log")
    assert value.evidence == "2 NaN or infinite values begin here, from sub in -2.0…0"


def test_a_gradient_that_overflows_is_found_where_it_begins():
    x = tc.Parameter([0.0, 4.0], name="x")
    with np.errstate(all="ignore"):
        found = viz.graph(tc.sqrt(x * 1.0).sum()).problems(severity="error")
    assert [(p.rule, p.name) for p in found] == [("non-finite", "mul")]
    assert "gradients begin here" in found[0].evidence


def test_a_parameter_behind_dead_units_has_no_gradient():
    w = tc.Parameter(-np.ones((3, 2)), name="w")
    loss = tc.relu(tc.Tensor(np.ones((4, 3))) @ w).sum()
    assert [(p.rule, p.name) for p in viz.graph(loss).problems(severity="error")] == [
        ("no gradient", "w")]


def test_dead_channels_are_counted():
    w = tc.Parameter(np.ones((1, 1, 1, 8)), name="w")
    b = tc.Parameter(np.array([0.0] * 6 + [-9.0] * 2), name="b")
    x = tc.Tensor(np.random.default_rng(0).normal(size=(2, 4, 4, 1)))
    loss = tc.relu(tc.conv2d(x, w, b)).sum()
    found, = viz.graph(loss).problems()
    assert (found.rule, found.evidence) == ("dead", "2 of 8 channels are dead")


@pytest.mark.parametrize("rate, expected", [(1e-6, {"step size"}), (10.0, {"step size"}),
                                            (None, set())])
def test_the_size_of_a_step_is_judged_by_the_learning_rate(rate, expected):
    assert rules(classifier(1), learning_rate=rate) == expected


@pytest.mark.parametrize("loss, expected", [
    (classifier(6, act=tc.sigmoid, scale=0.6), "vanishing"),
    (classifier(1, first=1e-4, act=lambda h: h), "exploding")])
def test_gradients_that_fade_or_grow_over_depth_are_found(loss, expected):
    assert expected in rules(loss)


def test_a_loss_far_above_guessing_is_found():
    assert "start" in rules(classifier(1, head=30.0))


def test_a_saturated_softmax_is_found():
    assert "saturated" in rules(classifier(1, head=1e5))


def test_a_bias_before_batch_norm_is_idle():
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Conv2D(1, 4, 3, rng=rng), nn.BatchNorm2D(4), nn.ReLU(),
                          nn.Flatten(), nn.Linear(16, 4, rng=rng))
    x = rng.normal(size=(8, 4, 4, 1)).astype(np.float32)
    found = viz.graph_of_module(model, x, labels=np.arange(8) % 4).problems()
    assert [p.rule for p in found if p.severity == "warning"].count("idle bias") == 1
    model = nn.Sequential(nn.Conv2D(1, 4, 3, bias=False, rng=rng), nn.BatchNorm2D(4))
    assert "idle bias" not in {p.rule for p in model.graph(x).problems()}


def test_findings_show_in_the_cards_and_carry_the_source_line():
    figure = viz.graph(classifier(1, head=1e5))
    found = next(p for p in figure.problems() if p.rule == "saturated")
    assert found.source.startswith("test_viz_diagnostics.py:")
    assert any(found.evidence in card.warnings for card in figure.diagram.cards)
    assert str(found).startswith("warning: cross_entropy (test_viz_diagnostics.py:")


def test_a_card_with_nan_has_a_dashed_border():
    x = tc.Parameter([1.0, -1.0], name="x")
    with np.errstate(all="ignore"):
        figure = viz.graph(x.log().sum())
    assert [c.title for c in figure.diagram.cards if c.broken]
    assert "stroke-dasharray" in figure.svg()


def test_what_was_not_recorded_is_no_finding(nets):
    figure = nets.LeNet().graph(np.ones((2, 12, 12, 1), np.float32))
    assert not [p for p in figure.problems() if p.rule in ("no gradient", "vanishing", "exploding")]


def test_an_unknown_severity_is_refused(nets):
    with pytest.raises(tc.VizError, match="severity 'fatal' is unknown; choose error or warning"):
        viz.Figure(nets.lenet()).problems(severity="fatal")


def test_every_rule_says_what_it_finds():
    assert all(rule.__doc__ for rule in diagnostics.RULES.values())
