"""Textbook pictures of small expressions, and the chain rule line by line."""

import itertools
import re
from collections import Counter
from xml.etree import ElementTree

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import viz
from tinygrad_cnn.viz import textbook
from tinygrad_cnn.viz.svg import rasterized
from viz import zoo

SVG = "{http://www.w3.org/2000/svg}"


def texts(figure):
    root = ElementTree.fromstring(figure.svg())
    return [t.text for t in root.iter(f"{SVG}text")]


def test_boxes_hold_name_value_and_signed_gradient_and_lines_the_local_derivative():
    shown = texts(zoo.expression().graph())
    for cells in (["a", "2", "−3"], ["b", "−3", "2"], ["v1", "−6", "1"], ["c", "10", "1"],
                  ["L", "4", "1"]):
        k = next(k for k, t in enumerate(shown) if t == cells[0])
        assert shown[k:k + 3] == cells
    assert {"×", "+", "∂/∂a = b = −3", "∂/∂b = a = 2", "∂/∂v1 = 1", "∂/∂c = 1"} <= set(shown)


def test_it_goes_from_left_to_right_and_nothing_lies_on_anything():
    svg = zoo.neuron().graph().svg()
    boxes = [tuple(float(v) for v in m) for m in re.findall(
        r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="34" rx', svg)]
    assert len(boxes) == 10 + 5             # tensors and circles
    for k, (x, y, w) in enumerate(boxes):
        for other_x, other_y, other_w in boxes[:k]:
            assert x >= other_x + other_w or other_x >= x + w or abs(y - other_y) >= 34


def test_the_local_derivative_is_that_of_the_op():
    rules = {"add": (2.0, 5.0), "sub": (2.0, 5.0), "mul": (2.0, 5.0), "div": (2.0, 5.0),
             "power": (2.0, 5.0), "neg": (2.0,), "sum": (2.0,), "exp": (0.5,), "log": (2.0,),
             "sqrt": (2.0,), "tanh": (0.5,), "sigmoid": (0.5,), "relu": (2.0,), "abs": (-2.0,)}
    assert rules.keys() == textbook._RULES.keys()
    for name, values in rules.items():
        inputs = [tc.Tensor(np.float64(v), requires_grad=True) for v in values]
        out = getattr(tc, name)(*inputs)
        out.backward()
        for (_, rule), x in zip(textbook._RULES[name], inputs, strict=True):
            assert rule(*values, out.item()) == pytest.approx(x.grad.item())


def test_the_steps_are_the_chain_rule_and_parts_add_up():
    a = tc.Tensor(3.0, requires_grad=True)
    figure = (a * a + a).graph()
    assert str(figure.steps()).splitlines() == [
        "∂L/∂L = 1", "∂L/∂v1 = ∂L/∂L · ∂L/∂v1 = 1 · 1 = 1",
        "∂L/∂a via L = ∂L/∂L · ∂L/∂a = 1 · 1 = 1",
        "∂L/∂a via v1 = ∂L/∂v1 · ∂v1/∂a = 1 · a = 1 · 3 = 3",
        "∂L/∂a via v1 = ∂L/∂v1 · ∂v1/∂a = 1 · a = 1 · 3 = 3", "∂L/∂a = 1 + 3 + 3 = 7"]
    latex = figure.steps().latex()
    assert latex.startswith("\\begin{aligned}\n\\frac{\\partial \\mathrm{L}}")
    assert latex.count("{") == latex.count("}")
    assert figure.steps()._repr_latex_() == f"$${latex}$$"


def test_a_vector_shows_its_entries_and_a_big_tensor_its_size():
    x = tc.Parameter([1.0, -2.0])
    lines = str(((x * x).sum() + x.mean()).graph().steps())
    assert "∂L/∂v1 = ∂L/∂v2 · ∂v2/∂v1 = ∂L/∂v2 · 1 = [1, 1]" in lines
    assert lines.endswith("∂L/∂x = [2.5, −3.5]")
    w = tc.Parameter(np.ones((5, 3), np.float32))
    loss = (tc.Tensor(np.ones((2, 5), np.float32)) @ w).sum()
    assert "∂L/∂w = ∂L/∂v1 · ∂v1/∂w = RMS 2.0" in str(loss.graph().steps())


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_gradient_has_its_line(name):
    with np.errstate(all="ignore"):
        figure = zoo.ZOO[name]().graph()
    entries = figure.recording.entries
    reached = [(j, g) for e in entries if e.step >= 0
               for j, g in itertools.zip_longest(e.inputs, e.sent)]
    reads, sent = Counter(j for j, _ in reached), Counter(j for j, g in reached if g is not None)
    sums = sum(n > 1 and sent[j] == n for j, n in reads.items())
    assert len(figure.steps()) == 1 + sent.total() + sums
    assert all(" = " in step.text for step in figure.steps())


def test_small_expressions_take_the_style_by_themselves_and_others_do_not():
    def style(figure):
        return "textbook" if "local derivative" in figure.svg() else "cards"

    def row(n, length):
        x = tc.Parameter(np.ones(length))
        for _ in range(n):
            x = x * x
        return x

    assert [style(row(n, k).graph()) for n, k in ((11, 8), (12, 8), (11, 9))] == [
        "textbook", "cards", "cards"]
    expression = zoo.expression()
    assert style(expression.graph(style="cards")) == "cards"
    assert style(expression.graph(level="everything")) == "cards"
    assert style(zoo.mlp().graph(style="textbook")) == "textbook"
    with pytest.raises(tc.VizError,
                       match="style 'book' is unknown; choose from auto, cards, textbook, blocks"):
        expression.graph(style="book")


def test_it_is_themed_carried_along_and_painted(tmp_path):
    pytest.importorskip("matplotlib")
    figure = zoo.expression().graph(theme="dark")
    assert 'fill="#0f1720"' in figure.svg()
    assert viz.load(figure.save(tmp_path / "a.svg")).recording == figure.recording
    width = int(figure.svg().split('viewBox="0 0 ')[1].split(" ")[0])
    data = figure.save(tmp_path / "a.png", dpi=96).read_bytes()
    assert int.from_bytes(data[16:20]) == width
    assert rasterized(figure.svg(), "pdf").startswith(b"%PDF")
