"""From real tensors and modules to a recording, without leaving a trace in them."""

import copy
import gc
import weakref

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn, viz
from tinygrad_cnn.errors import VizError
from tinygrad_cnn.viz import capture
from tinygrad_cnn.viz.capture import statistics


def rms(array):
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


def by_op(recording):
    return {e.op: e for e in recording.entries if e.op}


@pytest.fixture
def step(nets, batch):
    model, (images, labels) = nets.LeNet(), batch
    return model, images, labels, tc.cross_entropy(model(images), labels)


def test_a_loss_knows_its_ops_names_settings_and_source_lines(step):
    recording = viz.describe(step[3])
    assert recording.title == "LeNet"
    assert [e.path for e in recording.entries] == [
        "image", "conv1.weight", "conv1.bias", "conv1.conv2d", "relu", "max_pool2d", "conv2.weight",
        "conv2.bias", "conv2.conv2d", "relu", "max_pool2d", "reshape", "fc.weight", "fc.bias",
        "fc.linear", "labels", "cross_entropy"]
    conv = recording.entries[3]
    assert conv.settings == ("3×3", "stride 1", "pad 1", "1→4 channels")
    assert conv.source.startswith("conftest.py:")
    assert recording.entries[-1].role == "loss"
    assert [e.weight for e in recording.entries if e.role in ("input", "label")] == [None, None]


def test_the_cost_of_each_op_is_that_of_its_formula(step):
    ops = [e for e in viz.describe(step[3]).entries if e.op]
    n = len(step[1])
    products = {0: n * 12 * 12 * 4 * 9 * 1, 3: n * 4 * 4 * 8 * 9 * 4, 7: n * 32 * 10}
    for k, count in products.items():       # two operations a product, and at most one a bias
        assert 2 * count <= ops[k].flops <= 2 * count + ops[k].size
    assert ops[1].kept == ops[1].size * 4   # float32, kept for relu or for the pooling
    assert ops[6].op == "reshape"
    assert ops[6].kept == 0                 # a view allocates nothing


def test_kept_bytes_are_counted_once_at_the_op_that_made_them():
    x = tc.Parameter(np.ones((64, 64)), name="x")        # 32,768 bytes each
    y = x * 2.0
    entries = viz.describe((y.reshape(-1) * y.reshape(-1)).sum()).entries
    assert [(e.op, e.kept) for e in entries if e.op] == [
        ("mul", 32_768), ("reshape", 0), ("reshape", 0), ("mul", 0), ("sum", 0)]


@pytest.mark.parametrize("values, note", [([[-1.0, 2.0, 3.0, 4.0]], "25% zeros"),
                                          ([[-1.0, -2.0, 3.0, 0.0]], "75% zeros"),
                                          ([[-1.0, -2.0]], "")])
def test_the_share_of_zeros_is_that_of_the_values(values, note):
    x = tc.Parameter(values, name="x")
    assert by_op(viz.describe(tc.relu(x).sum()))["relu"].note == note


def test_dead_channels_are_counted_where_there_are_enough_rows():
    w = tc.Parameter(np.array([[1.0, 1.0, 0.0, -1.0]]))
    for rows, expected in ((64, (2, 4)), (63, (0, 0))):
        found = by_op(viz.describe(tc.relu(tc.Tensor(np.ones((rows, 1))) @ w).sum()))["relu"]
        assert (found.dead, found.channels) == expected


def test_confidence_classes_and_loss_are_those_of_the_scores():
    scores = tc.Parameter(np.log([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]), name="scores")
    found = viz.describe(tc.cross_entropy(scores, np.array([0, 2]))).entries[-1]
    assert found.confidence == pytest.approx((0.7 + 0.5) / 2)
    assert found.classes == 3
    assert found.note == f"loss {-(np.log(0.7) + np.log(0.5)) / 2:.4f}"
    shares = by_op(viz.describe(tc.softmax(scores, axis=1).sum()))["softmax"]
    assert shares.confidence == pytest.approx(0.6)


def test_gradients_of_a_private_replay_are_those_of_backward(step):
    model, _, _, loss = step
    recording = viz.describe(loss)
    assert all(p.grad is None for p in model.parameters())
    loss.backward()
    for e in recording.entries:
        if e.role == "parameter":
            p = dict(model.named_parameters())[e.path]
            assert e.gradient.rms == pytest.approx(rms(p.grad.data), rel=1e-5)
            assert (e.gradient.low, e.gradient.high) == (p.grad.data.min(), p.grad.data.max())
            assert e.weight == pytest.approx(rms(p.data), rel=1e-5)
    after = viz.describe(model.fc.weight.sum())          # what backward left in a leaf, without one
    assert after.entries[0].gradient.rms == pytest.approx(np.sqrt(1))
    left = viz.describe(model.fc.weight * 1.0).entries[0]
    assert left.gradient.rms == pytest.approx(rms(model.fc.weight.grad.data), rel=1e-5)


def test_the_backward_pass_counts_from_the_loss_and_fills_every_edge_but_that_of_the_image(step):
    entries = viz.describe(step[3]).entries
    ops = [e for e in entries if e.op]
    assert [e.step for e in ops] == list(range(len(ops)))[::-1]
    for e in ops:                           # each is read once: what is sent is the whole gradient
        assert e.sent == tuple(g and g.rms for g in (entries[j].gradient for j in e.inputs))
    assert sum(s is None for e in ops for s in e.sent) == 2     # the image and the labels


def test_an_edge_shows_what_went_through_it_and_a_card_the_whole():
    x = tc.Parameter([1.0, 2.0], name="x")
    y = x * 3.0                             # read twice: by mul with slope 5, by sum with slope 1
    recording = viz.describe((y * 5.0).sum() + y.sum())
    first = next(e for e in recording.entries if e.op == "mul")
    assert first.gradient.rms == pytest.approx(6.0)
    sent = {round(s, 6) for e in recording.entries if e.op in ("mul", "sum") and e is not first
            for s, j in zip(e.sent, e.inputs, strict=True) if recording.entries[j] is first}
    assert sent == {5.0, 1.0}
    w = tc.Parameter([2.0, 3.0], name="w")
    twice = viz.describe((w * w).sum())
    assert twice.entries[0].gradient.rms == pytest.approx(rms([4.0, 6.0]))
    assert twice.entries[1].sent == pytest.approx((rms([2.0, 3.0]),) * 2)


def test_drawing_changes_no_graph_no_grad_and_no_random_state(nets, batch):
    class Net(nets.LeNet):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2D(1)
            self.drop = nn.Dropout(0.5)

        def forward(self, image):
            return self.drop(super().forward(self.norm(image)))

    model = Net()
    images, labels = batch
    loss = tc.cross_entropy(model(images), labels)
    before = copy.deepcopy(model.state_dict())
    grads = [p.grad for p in model.parameters()]
    model.graph(images, labels=labels).svg()
    loss.graph().svg()
    after = model.state_dict()
    assert all(np.array_equal(before[k], after[k]) for k in before)
    assert grads == [p.grad for p in model.parameters()]
    loss.backward()                         # the graph is alive still


def test_a_step_that_was_watched_can_be_drawn_after_backward(nets, batch):
    model, (images, labels) = nets.LeNet(), batch
    with viz.watch() as seen:
        loss = tc.cross_entropy(model(images), labels)
        loss.backward()
        inside = loss.graph()
    after = viz.graph(loss, watch=seen)
    assert inside.recording == after.recording == seen.describe(loss)
    assert all(e.seconds > 0 for e in after.recording.entries if e.op)
    weights = {n: rms(p.grad.data) for n, p in model.named_parameters()}
    assert {e.path: e.gradient.rms for e in after.recording.entries if e.role == "parameter"} == {
        n: pytest.approx(v, rel=1e-5) for n, v in weights.items()}


def test_a_watch_of_several_steps_draws_each_and_keeps_no_array(nets, batch):
    model, (images, labels) = nets.LeNet(), batch
    with viz.watch() as seen:
        losses = []
        for _ in range(3):
            model.zero_grad()
            loss = tc.cross_entropy(model(images), labels)
            loss.backward()
            losses.append(loss)
    assert {len(seen.describe(loss).entries) for loss in losses} == {17}
    nodes = [weakref.ref(loss.node) for loss in losses]
    del loss, losses
    gc.collect()
    assert all(ref() is None for ref in nodes)


def test_a_very_long_watch_forgets_its_oldest_steps(nets, batch, monkeypatch):
    monkeypatch.setattr(capture, "_MOST_OPS", 40)
    model, (images, labels) = nets.LeNet(), batch
    with viz.watch() as seen:
        for _ in range(30):
            loss = tc.cross_entropy(model(images + 0.0), labels)
            loss.backward()
    assert 36 <= len(seen.ops) <= 40
    assert len(seen.leaves) < 40
    assert len(seen.describe(loss).entries) == 17


def test_a_number_is_a_constant_unless_it_is_trained():
    x = tc.Parameter(2.0, name="x")
    leaves = [e for e in viz.describe(x * 3.5 + 0.25).entries if not e.op]
    assert [(e.role, e.name, e.note, e.weight) for e in leaves] == [
        ("parameter", "x", "", 2.0), ("constant", "3.5", "", None), ("constant", "0.25", "", None)]


def test_ops_before_the_first_parameter_show_in_a_watch():
    w = tc.Parameter(np.ones((4, 2), np.float32), name="w")
    with viz.watch() as seen:
        x = tc.Tensor(np.ones((3, 2, 2), np.float32))
        loss = (tc.flatten(x, 1) @ w).sum()
    assert [e.op for e in seen.describe(loss).entries if e.op] == ["reshape", "matmul", "sum"]


def test_a_model_is_named_by_its_parameters_and_its_arguments(nets, batch):
    figure = nets.LeNet().graph(batch[0])
    assert [e.name for e in figure.recording.entries if e.role == "input"] == ["image"]
    assert not figure.recording.backward
    group = figure.diagram.groups[0]
    assert (group.title, group.note) == ("conv1", "Conv2D(1, 4, kernel_size=3, padding=1) · "
                                                  "40 parameters")


@pytest.mark.parametrize("as_array", [True, False])
def test_an_input_that_several_ops_read_is_one_card(as_array):
    """Pooling reads no values backward, so its graph keeps a placeholder for the image."""
    class Branches(nn.Module):
        def __init__(self):
            self.a, self.b = (nn.Conv2D(1, 2, 1, rng=np.random.default_rng(0)) for _ in "ab")

        def forward(self, image):
            return self.a(image) + self.b(tc.max_pool2d(image, kernel_size=3, stride=1, padding=1))

    x = np.ones((2, 40, 40, 1), np.float32)
    figure = Branches().graph(x if as_array else tc.Tensor(x))
    assert [e.name for e in figure.recording.entries if e.role == "input"] == ["image"]


def test_an_array_that_several_layers_read_is_one_input(batch):
    w = tc.Parameter(np.ones((144, 2), np.float32), name="w")
    rows = batch[0].reshape(6, 144)
    with viz.watch() as seen:
        loss = (tc.linear(rows, w) + tc.linear(rows, w)).sum()
    assert [e.name for e in seen.describe(loss).entries if not e.op] == ["rows", "w"]
    zeros = [tc.Tensor(np.zeros((6, 144), np.float32)) for _ in range(2)]
    two = viz.describe((tc.linear(zeros[0], w) + tc.linear(zeros[1], w)).sum())
    assert [e.name for e in two.entries if not e.op] == ["zeros[0]", "w", "zeros[1]"]


def test_labels_make_the_gradients_of_a_model_show(nets, batch):
    model = nets.LeNet()
    recording = model.graph(batch[0], labels=batch[1]).recording
    assert recording.backward
    loss = tc.cross_entropy(model(batch[0]), batch[1]).item()
    assert recording.entries[-1].note == f"loss {loss:.4f}"
    assert recording.unreached == ()


def test_a_parameter_that_the_loss_does_not_read_is_found(nets, batch):
    model = nets.LeNet()
    model.spare = nn.Linear(3, 3, rng=np.random.default_rng(0))
    figure = model.graph(batch[0], labels=batch[1])
    assert figure.recording.unreached == ("spare.weight", "spare.bias")
    assert [p.name for p in figure.problems(severity="error")] == ["spare.weight", "spare.bias"]


def test_a_module_called_twice_is_drawn_twice():
    class Twice(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(3, 3, rng=np.random.default_rng(0))

        def forward(self, x):
            return self.layer(tc.relu(self.layer(x)))

    figure = Twice().graph(np.ones((2, 3), np.float32), level="everything")
    assert [e.op for e in figure.recording.entries if e.op] == ["linear", "relu", "linear"]
    assert sum(e.role == "parameter" for e in figure.recording.entries) == 2


def test_a_model_without_a_trained_parameter_is_drawn(nets, batch):
    model = nets.LeNet()
    for p in model.parameters():
        p.requires_grad = False
    recording = model.graph(batch[0]).recording
    assert [e.op for e in recording.entries if e.op][-1] == "linear"
    assert not any(e.needs_gradient for e in recording.entries)


@pytest.mark.parametrize("array, expected", [
    ([3.0, -4.0], (np.sqrt(12.5), -4.0, 3.0, 0)), ([], (0.0, 0.0, 0.0, 0)),
    ([1.0, np.nan], (np.nan, 1.0, 1.0, 1)), ([np.inf, 2.0], (np.inf, 2.0, 2.0, 1)),
    ([np.nan, -np.inf], (np.nan, 0.0, 0.0, 2)), ([3e200, -4e200], (np.sqrt(12.5) * 1e200, -4e200,
                                                                   3e200, 0))])
def test_figures_of_an_array(array, expected):
    s = statistics(np.array(array))
    assert (s.rms, s.low, s.high, s.bad) == pytest.approx(expected, nan_ok=True)


def test_a_chain_of_ten_thousand_ops_is_described_without_recursion():
    y = tc.Parameter([1.0], name="x")
    for _ in range(10_000):
        y = y + 1.0
    assert len(y.sum().graph(gradients=False).diagram.cards) <= 40


def test_zero_size_tensors_are_drawn():
    w = tc.Parameter(np.ones((3, 2)), name="w")
    assert "0×2" in (tc.Tensor(np.ones((0, 3))) @ w).sum().graph().svg()


def freed(model, images, loss):
    loss.backward()
    return loss.graph()


def without_grad(model, images, loss):
    with tc.no_grad():
        return model(images).graph()


def outside(model, images, loss):
    with viz.watch() as seen:
        pass
    return seen.describe(loss)


class Pair(nn.Module):
    def forward(self, x, y=1.0):
        h = tc.exp(x)
        return {"a": tc.relu(h), "b": h * y}


def test_a_model_of_several_inputs_and_outputs_is_drawn():
    x = np.ones((2, 3), np.float32)
    found = Pair().graph(x, x).recording
    assert [e.name or e.op for e in found.entries] == ["x", "exp", "relu", "y", "mul"]
    assert found.entries[found.output].op == "mul"


@pytest.mark.parametrize("draw, message", [
    (freed, r"backward\(\) has freed this graph; draw it before backward\(\), pass retain_graph"),
    (lambda *_: tc.Tensor([1.0]).graph(),
     r"no op is recorded behind this tensor; compute it outside no_grad\(\)"),
    (without_grad, "no op is recorded behind this tensor"),
    (lambda model, *_: model.graph(None),
     "LeNet has not been called, so its shapes are not known; give one batch"),
    (lambda model, images, loss: nn.Lambda(lambda x: "a").graph(images),
     "Lambda returned str, not a Tensor"),
    (lambda model, images, loss: Pair().graph(images, labels=[0]),
     "Pair returned dict, of which labels have no cross entropy; compute the loss"),
    (lambda model, images, loss: nn.Sequential().graph(images), "applied no op"),
    (outside, "was not computed inside the watch")])
def test_what_cannot_be_drawn_is_refused_in_one_line(step, draw, message):
    model, images, _, loss = step
    with pytest.raises(VizError, match=message) as caught:
        draw(model, images, loss)
    assert "\n" not in str(caught.value)
