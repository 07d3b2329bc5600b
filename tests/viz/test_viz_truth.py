"""Names come from the user, roles from what a tensor is, and scalars keep value and sign."""

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import models, nn, viz
from tinygrad_cnn.viz import svg
from tinygrad_cnn.viz.layout import layout
from viz import zoo

f32 = np.float32


def leaves(loss):
    return [(e.name, e.role, e.note) for e in viz.describe(loss).entries if not e.op]


def rows(figure, title):
    card = next(c for c in figure.diagram.cards if c.title == title)
    return [r.text + r.hot for r in card.rows]


@pytest.mark.parametrize("wrap", [tc.Tensor, np.asarray])
@pytest.mark.parametrize("batch", [1, 8])
def test_one_image_is_one_input_at_every_batch(wrap, batch):
    for model in (zoo.Residual(), zoo.Dense()):
        loss = model(wrap(np.ones((batch, 32, 32, 3), f32))).sum()
        assert [e.name for e in viz.describe(loss).entries if e.role == "input"] == ["x"]


def test_two_tensors_of_one_name_are_two():
    a, b = (tc.Tensor(np.full((64, 64), v, f32), name="img") for v in (0, 1))
    w = tc.Parameter(np.ones((64, 64), f32), name="w")
    text = (w + a + b).sum().graph().canonical()
    assert "img#2 = input -> 64×64 float32\nadd#2 = add() add img#2" in text


def test_a_name_is_that_of_the_variable_and_a_number_is_its_literal():
    first, second = tc.Tensor(2.0, requires_grad=True), tc.Parameter([1.0, 2.0])
    rate, target = 0.25, np.zeros(2, f32)
    loss = (((first * second + 1.0) * rate - .5) * (1 - target)).sum()
    assert leaves(loss) == [
        ("first", "input", ""), ("second", "parameter", ""), ("1", "constant", ""),
        ("rate", "constant", "0.25"), ("0.5", "constant", ""), ("1 - target", "input",
                                                                "no gradient")]


def test_an_input_without_a_name_is_x_if_it_is_the_only_one():
    w = tc.Parameter([1.0, 2.0], name="w")
    assert leaves((w * np.arange(2.0).astype(f32)).sum())[1][:2] == ("x", "input")
    named = tc.Tensor([1.0, 2.0], name="rows")
    assert [n for n, *_ in leaves((w * named * np.arange(2.0).astype(f32)).sum())] == [
        "w", "rows", "input"]


def test_a_role_does_not_depend_on_the_place_of_an_operand():
    a, b, c = (tc.Tensor(v, requires_grad=True) for v in (2.0, -3.0, 10.0))
    for loss in (a * b + c, c + b * a):
        assert {(n, r) for n, r, _ in leaves(loss)} == {(n, "input") for n in "abc"}
        assert "parameters" not in loss.graph().diagram.subtitle
        assert "batch" not in loss.graph().diagram.subtitle


def test_scalars_and_small_vectors_show_value_and_sign():
    a, b, c = (tc.Tensor(v, requires_grad=True) for v in (2.0, -3.0, 10.0))
    figure = (a * b + c).graph()
    assert rows(figure, "a") == ["scalar · float32", "= 2", "grad -3.0"]
    assert rows(figure, "b") == ["scalar · float32", "= -3", "grad 2.0"]
    assert rows(figure, "mul")[0] == "= -6"
    assert [e.gradient for e in figure.diagram.edges] == ["-3.0", "2.0", "1.0", "1.0"]
    u = tc.Tensor([1.0, -2.0], requires_grad=True)
    figure = (u * u).sum().graph()
    assert rows(figure, "u") == ["2 · float32", "= 1, -2", "grad 2.0, -4.0"]
    assert "batch" not in figure.diagram.subtitle


def test_labels_are_drawn_as_they_were_given():
    targets = np.array([1, 0])
    scores = tc.Parameter(np.ones((2, 3), f32))
    last = viz.describe(tc.cross_entropy(scores, targets)).entries[-2]
    assert (last.name, last.role, last.shape, last.dtype) == ("targets", "label", (2,), "int64")


def test_the_source_of_a_name_may_be_gone():
    code = "import tinygrad_cnn as tc\nw = tc.Parameter([1.0, 2.0])\nloss = (w * 2.0).sum()\n"
    space: dict = {}
    exec(compile(code, "<a cell that is gone>", "exec"), space)
    assert leaves(space["loss"]) == [("parameter", "parameter", ""), ("2", "constant", "")]


def test_frozen_layers_stay_in_the_picture():
    model = nn.Sequential(zoo.conv(3, 8), nn.ReLU(), nn.Flatten(), nn.Linear(None, 2))
    x = np.zeros((2, 32, 32, 3), f32)
    model(x)
    for part in (model[0], model):
        part.requires_grad_(False)
        entries = model.graph(x).recording.entries
        assert [e.op for e in entries if e.op] == ["conv2d", "relu", "reshape", "linear"]
        assert [(e.path, e.note) for e in entries][:3] == [
            ("x", "no gradient"), ("0.weight", "frozen"), ("0.bias", "frozen")]


def test_the_built_in_networks_and_frozen_ones_have_no_finding():
    for name, shape in (("lenet", (28, 28, 1)), ("vgg", (32, 32, 3)), ("resnet20", (32, 32, 3))):
        model = models.build(name, shape, 10, rng=np.random.default_rng(0))
        x = np.random.default_rng(1).normal(size=(2, *shape)).astype(f32)
        assert model.graph(x, labels=[0, 1]).problems(severity="error") == ()
    assert zoo.fine_tuned().graph().problems() == ()


def test_a_tensor_with_nan_is_the_one_finding_and_has_no_color():
    model = nn.Sequential(zoo.dense(6, 6), nn.ReLU(), zoo.dense(6, 3))
    model[2].weight.data[3, 1] = np.nan
    figure = model.graph(zoo.rows(), labels=zoo.classes(16, 3))
    problem, = figure.problems()
    assert problem.name == "2.weight"
    assert problem.evidence == "1 of its 18 values are NaN or infinite"
    broken = [c for c in figure.diagram.cards if c.broken]
    assert "2.weight" in {figure.recording.entries[i].path for c in broken for i in c.entries}
    assert all(r.hot == "grad nan" for c in broken for r in c.rows if r.hot.startswith("grad"))
    assert not any(r.kind == "bar" and "nan" in r.text for c in broken for r in c.rows)


@pytest.mark.parametrize("model", [zoo.Attention(), zoo.GPT(), zoo.RNN()])
def test_golden_text_does_not_depend_on_the_batch(model):
    shape = (28, 8) if isinstance(model, zoo.RNN) else (5, 8)
    texts = {model.graph(zoo.rng().normal(size=(n, *shape)).astype(f32)).canonical(batch="N")
             for n in (2, 4, 5)}
    text, = texts
    if isinstance(model, zoo.Attention):
        assert "q.reshape = reshape() x -> 5N×8 float32" in text


def test_a_model_that_holds_to_one_batch_keeps_its_numbers():
    class Fixed(nn.Module):
        def __init__(self):
            self.layer = zoo.dense(6, 4)

        def forward(self, x):
            return tc.reshape(self.layer(x), (5, 2, 2)) * 2.0

    text = Fixed().graph(zoo.rows(5)).canonical(batch="N")
    assert "x = input -> N×6" in text
    assert "reshape = reshape() layer.linear -> N×2×2" in text
    assert not any(e.symbolic for e in Fixed().graph(zoo.rows(5)).recording.entries)


@pytest.mark.parametrize("batch", [6, 8])
def test_a_matrix_that_has_the_size_of_the_batch_by_chance_is_no_batch(batch):
    w, x = tc.Parameter(np.ones((8, 6), f32)), tc.Tensor(np.ones((batch, 6), f32))
    assert (x @ w.T).sum().graph().canonical(batch="N").splitlines()[1:5] == [
        "w = parameter -> 8×6 float32", "transpose = transpose(axes 1, 0) w -> 6×8 float32",
        "x = input -> N×6 float32",
        "matmul = matmul(6→8) x transpose -> N×8 float32"]


@pytest.mark.parametrize("in_a_module", [True, False])
def test_a_function_of_several_ops_is_one_group_and_one_card(in_a_module):
    class Net(nn.Module):
        def __init__(self):
            self.layer = zoo.dense(6, 6)

        def forward(self, x, y):
            return tc.mse_loss(self.layer(x), y) + tc.mse_loss(x, self.layer(x))

    model, x, y = Net(), zoo.rows(), zoo.rows(seed=5)
    h = model.layer(x)
    loss = model(x, y) if in_a_module else tc.mse_loss(h * 2.0, y) * 3.0
    calls = 2 if in_a_module else 1
    figure = loss.graph()
    assert [g.title.partition(" ")[0] for g in figure.diagram.groups].count("mse_loss()") == calls
    means = [e for e in figure.recording.entries if e.op == "mean"]
    assert [e.scope for e in means] == [("mse_loss()",)] * calls
    folded = loss.graph(level="operators").diagram
    cards = [c for c in folded.cards if c.title.startswith("mse_loss()")]
    assert len(cards) == calls
    assert all("sub, mul, mean" in [r.text for r in c.rows] for c in cards)


def test_a_module_that_is_called_like_a_function_is_no_function():
    groups = zoo.ZOO["attention"]().graph().diagram.groups
    assert [g.title for g in groups if "norm" in g.title] == ["norm"]


class Cell(nn.Module):
    def __init__(self):
        self.of_x, self.of_h = zoo.dense(8, 16), zoo.dense(16, 16)

    def forward(self, x, h):
        return tc.tanh(self.of_x(x) + self.of_h(h))


class Recurrent(nn.Module):
    def __init__(self):
        self.cell, self.head = Cell(), zoo.dense(16, 10)

    def forward(self, x):
        h = tc.Tensor(np.zeros((len(x), 16), f32))
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.head(h)


@pytest.mark.parametrize("live", [True, False])
def test_a_cell_that_a_loop_calls_is_one_card_with_its_number_of_calls(live):
    x = zoo.rng(4).normal(size=(4, 28, 8)).astype(f32)
    model = Recurrent()
    figure = tc.cross_entropy(model(x), zoo.classes(4)).graph() if live \
        else model.graph(x, labels=zoo.classes(4))
    stack, = (c for c in figure.diagram.cards if c.kind == "stack")
    assert (stack.title, stack.loop) == ("cell × 28", True)
    squares, = (r for r in stack.rows if r.kind == "squares")
    assert len(squares.levels) == 28
    calls = [e.calls for e in figure.recording.entries if e.op == "tanh"]
    assert calls == [(), *((n,) for n in range(2, 29))]
    assert len(figure.diagram.cards) <= 6


def test_two_calls_of_a_module_are_two_boxes_and_their_weights_one_card():
    model, x = nn.Sequential(zoo.dense(6, 4), nn.ReLU()), zoo.rows()
    diagram = (model(x) - model(x * 2)).sum().graph().diagram
    assert [g.title for g in diagram.groups] == [
        "Sequential", "Sequential[0]", "Sequential #2", "Sequential[0] #2"]
    assert [c.title for c in diagram.cards if c.kind == "parameter"] == [
        "Sequential[0].weight", "Sequential[0].bias"]


@pytest.mark.parametrize("batch", [2, 80])              # of 80, the graph keeps no values
@pytest.mark.parametrize("wrap", [tc.Tensor, np.asarray])
def test_tokens_that_several_layers_read_are_one_input(wrap, batch):
    x = wrap(zoo.rng(3).normal(size=(batch, 5, 8)).astype(f32))
    loss = zoo.Attention()(x).mean()
    assert [(e.name, e.shape) for e in viz.describe(loss).entries if e.role == "input"] == [
        ("x", (batch, 5, 8))]


def test_an_op_that_a_loop_calls_is_no_function_of_several_ops():
    x = tc.Parameter([1.0], name="x")
    for _ in range(9):
        x = tc.tanh(x)
    assert {e.scope for e in viz.describe(x).entries} == {()}


def test_what_a_function_makes_for_itself_has_no_name_of_the_users():
    scores, ones = tc.Parameter(zoo.rows(4, 1), name="scores"), np.ones((4, 1), f32)
    loss = tc.binary_cross_entropy_with_logits(scores, ones)
    assert [n for n, *_ in leaves(loss)] == ["scores", "0", "ones", "0", "input"]
    loss = tc.binary_cross_entropy(tc.sigmoid(scores), ones)
    groups = loss.graph(level="everything").diagram.groups
    assert [g.title for g in groups] == ["binary_cross_entropy()"]


def test_equal_steps_over_time_fold_into_one_with_a_square_each():
    figure = zoo.ZOO["rnn"]().graph()
    stack, = (c for c in figure.diagram.cards if c.kind == "stack")
    assert stack.title.endswith("× 28")
    squares, = (r for r in stack.rows if r.kind == "squares")
    assert len(squares.levels) == 28
    assert squares.levels[0] <= squares.levels[-1]      # the gradient fades toward the past
    assert len(figure.diagram.cards) <= 8
    x = zoo.rng(4).normal(size=(4, 28, 8)).astype(f32)
    indexed = zoo.RNN().graph(x, labels=zoo.classes(4)).diagram     # x[:, t] is an op here
    stack, = (c for c in indexed.cards if c.kind == "stack")
    assert stack.title.endswith("× 28")
    assert [c.title for c in indexed.cards if c.kind in ("input", "label")] == ["x", "h", "y"]
    drawn = svg.drawn(indexed, layout(indexed))
    pieces = {c.id: drawn.split(f'id="f1-{c.id}"')[1].split("</g>")[0] for c in indexed.cards}
    assert [n for n, piece in pieces.items() if "<polygon" in piece] == [stack.id]  # the way back
