"""Each net of the zoo is drawn as it ran: a second walk over its graph finds the same figures."""

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn, viz
from tinygrad_cnn.core import source_of
from tinygrad_cnn.core.graph import Observer, observing
from tinygrad_cnn.viz.capture import is_placeholder
from tinygrad_cnn.viz.diagram import draw
from viz import zoo

HEALTHY = [name for name in zoo.ZOO if name not in zoo.SICK]


_sources = []


def identity(x):
    """What tells a leaf from others; references are held, or their ids would be used again."""
    _sources.append(source_of(x))
    return id(_sources[-1])


def whole(thing):
    """The shape of a node, or of the user's tensor or array that a leaf stands for."""
    given = source_of(thing)() if isinstance(thing, tc.Tensor) else None
    return given.shape if isinstance(given, (tc.Tensor, np.ndarray)) else thing.shape


class Cotangents(Observer):
    """What the engine hands to each node, added up for each leaf."""

    def __init__(self):
        self.found = {}

    def backward(self, node, cotangent, sent, seconds):
        self.found[node.serial] = np.asarray(cotangent)
        for x, part in sent:
            if x.node is None:
                key = identity(x)
                self.found[key] = self.found.get(key, 0.0) + np.asarray(part)


def nodes_behind(loss):
    found, todo = {}, [loss.node]
    while todo:
        node = todo.pop()
        if node.serial not in found:
            found[node.serial] = node
            todo += [x.node for x in node.inputs if x is not None and x.node is not None]
    return [found[k] for k in sorted(found)]


def flops(node):
    """Two for each product of a convolution or a matrix product, by its formula."""
    name, shapes = node.op.name, [x.shape for x in node.inputs if x is not None]
    if name == "conv2d":
        return 2 * np.prod(node.shape) * np.prod(shapes[1][:3])
    if name == "conv_transpose2d":
        return 2 * np.prod(shapes[0][:3]) * np.prod(shapes[1])
    return 2 * np.prod(node.shape) * shapes[0][-1] if name in ("linear", "matmul") else None


def arrays_of(nodes):
    """The arrays that the graph keeps and no leaf owns, each memory once."""
    owners = {}
    leaves = {id(x._data) for n in nodes for x in n.inputs if x is not None and x.node is None}
    for n in nodes:
        kept = [n.out, *n.residuals.values(), *n.settings.values(),
                *(v for x, v in zip(n.inputs, n.values, strict=True)
                  if x is not None and x.node is not None)]
        for a in kept:
            if isinstance(a, np.ndarray) and not is_placeholder(a) and id(a) not in leaves:
                while isinstance(a.base, np.ndarray):
                    a = a.base
                owners[id(a)] = a
    return [a for a in owners.values() if id(a) not in leaves]


def drawn(loss):
    """Keys of nodes and leaves by entry, from the recorded graph alone."""
    order = {}
    for node in nodes_behind(loss):
        for x in node.inputs:
            if x is not None and x.node is None:
                order.setdefault((identity(x), x.requires_grad), x)
        if node.op.family == "loss" and isinstance(node.settings.get("target"), np.ndarray):
            order["label", node.serial] = node.settings["target"]
        order[node.serial] = node
    return order


@pytest.mark.parametrize("name", zoo.ZOO)
def test_the_drawn_graph_is_the_recorded_one(name):
    loss = zoo.ZOO[name]()
    truth = Cotangents()
    with np.errstate(all="ignore"):
        figure = loss.graph(level="everything", limit=400)
        with observing(truth):
            tc.core.gradients(loss, retain_graph=True)
    order = drawn(loss)
    at = {key: i for i, key in enumerate(order)}
    entries = figure.recording.entries
    assert [e.shape for e in entries] == [whole(x) for x in order.values()]
    for (key, thing), e in zip(order.items(), entries, strict=True):
        if isinstance(key, tuple):
            found = truth.found.get(key[0]) if key[1] is True else None
        else:
            found = truth.found.get(key)
            assert e.op == thing.op.name
            reads = [x.node.serial if x.node is not None else (identity(x), x.requires_grad)
                     for x in thing.inputs if x is not None]
            assert e.inputs[:len(reads)] == tuple(at[k] for k in reads)
            if e.op == "relu" and thing.out.ndim > 1:       # the op keeps its result
                share = f"{100 * np.mean(thing.out == 0):.0f}% zeros"
                assert e.note == (share if thing.out.any() else "")
            if (expected := flops(thing)) is not None:
                assert expected <= e.flops <= expected + e.size
        assert (e.gradient is None) == (found is None)
        if found is not None:
            rms = np.sqrt(np.mean(np.square(found, dtype=float)))
            assert e.gradient.rms == pytest.approx(rms, rel=1e-4, nan_ok=True)
            assert e.gradient.low == pytest.approx(found.min(), nan_ok=True) or e.gradient.bad
    live = arrays_of(nodes_behind(loss))
    assert sum(e.kept for e in entries) == sum(a.nbytes for a in live)
    cards = figure.diagram.cards
    assert [i for card in cards for i in card.entries] == list(range(len(entries)))
    ends = {(e.source, e.target) for e in figure.diagram.edges}
    card_of = {i: card.id for card in cards for i in card.entries}
    assert ends == {(card_of[j], card_of[i]) for i, e in enumerate(entries) for j in e.inputs}


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_level_shows_each_tensor_once_and_its_arrows_go_down(name):
    with np.errstate(all="ignore"):
        recording = viz.describe(zoo.ZOO[name]())
    for level in ("everything", "operators", "modules", "folded", "auto"):
        diagram = draw(recording, level=level)
        shown = [i for card in diagram.cards for i in card.entries]
        assert sorted(shown) == list(range(len(recording.entries)))
        place = {card.id: k for k, card in enumerate(diagram.cards)}
        assert all(place[e.source] < place[e.target] for e in diagram.edges)


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_net_has_no_error(name):
    assert zoo.ZOO[name]().graph().problems(severity="error") == ()


@pytest.mark.parametrize("name", zoo.SICK)
def test_a_sick_net_has_one_finding(name):
    with np.errstate(all="ignore"):
        found = zoo.ZOO[name]().graph().problems()
    assert [p.rule for p in found] == [zoo.SICK[name]]


def spoiled(change, x=None, depth=2, act=nn.ReLU):
    """A classifier of ``depth`` hidden layers after a change, and one batch."""
    layers = [part for k in range(depth) for part in (zoo.dense(32 if k else 12, 32), act())]
    model = nn.Sequential(*layers, zoo.dense(32, 10))
    x = zoo.rows(80, 12) if x is None else x
    change(model, x)
    with np.errstate(all="ignore"):
        return model.graph(x, labels=zoo.classes(80)).problems()


def scaled(place, factor):
    def change(model, x):
        model[place].weight.data[...] *= factor
    return change


def written(place, name, value):
    def change(model, x):
        getattr(model[place], name).data[0] = value
    return change


def channels(model, x):
    model[0].weight.data[:, :9], model[0].bias.data[:9] = 0, -1


def growing(model, x):
    for layer in list(model)[::2]:
        layer.weight.data[...] *= 20


@pytest.mark.parametrize("change, settings, rule, name", [
    (written(2, "weight", np.nan), {}, "non-finite", "2.weight"),
    (written(2, "bias", np.inf), {}, "non-finite", "2.bias"),
    (lambda m, x: x.__setitem__((3, 4), np.nan), {}, "non-finite", "x"),
    (lambda m, x: x.__setitem__((3, 4), np.inf), {}, "non-finite", "x"),
    (lambda m, x: None, {"x": zoo.rows(80, 12) * 80 + 120}, "unscaled", "x"),
    (channels, {}, "dead", "1.relu"),
    (written(0, "bias", 0.0), {"depth": 8, "act": nn.Sigmoid}, "vanishing", "0.weight"),
    (growing, {"depth": 5}, "exploding", "8.linear"),
    (scaled(4, 60), {}, "start", "cross_entropy"),
    (scaled(4, 1e5), {}, "saturated", "cross_entropy"),
    (lambda m, x: m[2].bias.data.fill(-999), {}, "no gradient", "0.weight"),
    (lambda m, x: m[4].weight.data.fill(0), {}, "zero factor", "0.weight")])
def test_a_planted_sickness_is_one_finding_that_names_it(change, settings, rule, name):
    found = spoiled(change, **settings)
    assert [p.rule for p in found] == [rule], [str(p) for p in found]
    assert found[0].name == name


def test_a_module_that_is_not_called_and_a_part_that_is_cut_off_are_named():
    class Net(nn.Module):
        def __init__(self):
            self.first, self.last, self.spare = zoo.dense(6, 6), zoo.dense(6, 6), zoo.dense(3, 3)

        def forward(self, x):
            return self.last(tc.relu(self.first(x)).detach())

    found = Net().graph(zoo.rows(64), labels=zoo.classes(64, 6)).problems()
    assert [(p.rule, p.name) for p in found] == [
        ("detached", "detached"), *(("no gradient", name) for name in (
            "first.weight", "first.bias", "spare.weight", "spare.bias"))]
    detached = viz.graph(Net()(zoo.rows(64)).sum()).problems()
    assert [(p.rule, p.name) for p in detached] == [("detached", "detached")]
