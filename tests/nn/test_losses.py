"""Losses as modules, and the L2 penalty."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn, optim
from tinygrad_cnn.kernels.memory import release_memory

LOGITS = tc.Tensor(np.array([[0.0, math.log(3.0)], [math.log(4.0), 0.0]]))   # ¼ ¾; ⅘ ⅕
LABELS = np.array([1, 1])


@pytest.mark.parametrize("loss, expected", [
    (nn.CrossEntropyLoss(), (math.log(4 / 3) + math.log(5)) / 2),
    (nn.CrossEntropyLoss(reduction="sum"), math.log(4 / 3) + math.log(5)),
    (nn.CrossEntropyLoss(label_smoothing=0.5), (
        0.75 * math.log(4 / 3) + 0.25 * math.log(4) + 0.75 * math.log(5) + 0.25 * math.log(5 / 4)
    ) / 2),
])
def test_cross_entropy_loss(loss, expected):
    assert loss(LOGITS, LABELS).item() == pytest.approx(expected)


def test_a_weighted_mean_divides_by_the_weights_of_the_labels():
    loss = nn.CrossEntropyLoss(weight=[1.0, 3.0])
    assert loss(LOGITS, np.array([0, 1])).item() == pytest.approx(
        (math.log(4) + 3 * math.log(5)) / 4)


def test_nll_loss_is_cross_entropy_of_log_softmax():
    labels = np.array([0, 1])
    for settings in ({}, {"weight": [1.0, 3.0]}, {"reduction": "sum"}):
        a = nn.NLLLoss(**settings)(nn.LogSoftmax()(LOGITS), labels)
        b = nn.CrossEntropyLoss(**settings)(LOGITS, labels)
        assert a.item() == pytest.approx(b.item())


def test_mse_and_bce():
    assert nn.MSELoss()(tc.Tensor([1.0, 2.0]), tc.Tensor([1.0, 4.0])).item() == 2
    each = nn.MSELoss(reduction="none")(tc.Tensor([1.0, 2.0]), tc.Tensor([1.0, 4.0]))
    assert each.data.tolist() == [0, 4]
    # sigmoid(0) = ½ costs log 2 whatever the label.
    assert nn.BCEWithLogitsLoss(reduction="sum")(
        tc.Tensor([0.0, 0.0]), [0, 1]).item() == pytest.approx(2 * math.log(2))


def test_a_loss_does_not_broadcast():
    with pytest.raises(tc.ShapeError, match="does not broadcast"):
        nn.MSELoss()(tc.Tensor(np.ones((3, 1))), np.ones(3))


@pytest.mark.parametrize("loss, text", [
    (nn.CrossEntropyLoss(label_smoothing=0.1, reduction="sum"),
     "CrossEntropyLoss(reduction='sum', label_smoothing=0.1)"),
    (nn.NLLLoss(weight=[1.0, 2.0]), "NLLLoss(weight=array of (2,))"), (nn.MSELoss(), "MSELoss()")])
def test_a_loss_shows_what_is_not_the_default(loss, text):
    assert repr(loss) == text


@pytest.mark.parametrize("make, message", [
    (lambda: nn.MSELoss(reduction="max"), "reduction must be one of mean, sum, none, got 'max'"),
    (lambda: nn.CrossEntropyLoss(label_smoothing=2), "label_smoothing must be a number from 0"),
    (lambda: nn.l2_penalty([], 1.0), "no parameters were given; a generator"),
    (lambda: nn.l2_penalty([tc.Tensor([1.0])], -1), "coefficient must be a finite number"),
    (lambda: nn.l2_penalty([tc.Tensor([1.0])], math.inf), "coefficient"),
])
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(tc.SettingError, match=message):
        make()


def test_the_penalty_is_half_the_coefficient_times_the_squares_and_its_gradient_is_linear():
    a, b = tc.Parameter([1.0, 2.0]), tc.Parameter([[3.0]])
    penalty = nn.l2_penalty([a, b], 0.5)
    assert penalty.item() == 3.5                        # 0.25 · (1 + 4 + 9)
    penalty.backward()
    assert a.grad.data.tolist() == [0.5, 1.0]
    assert b.grad.data.tolist() == [[1.5]]


def test_the_penalty_equals_weight_decay():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 3)).astype(np.float32), np.array([0, 1, 1, 0])
    models = [nn.Linear(3, 2, rng=np.random.default_rng(1)) for _ in range(2)]
    penalised = optim.SGD(models[0].parameters(), 0.1)
    decayed = optim.SGD(models[1].parameters(), 0.1, weight_decay=0.3)
    for _ in range(3):
        for model, optimizer in zip(models, (penalised, decayed), strict=True):
            loss = tc.cross_entropy(model(x), y)
            if optimizer is penalised:
                loss = loss + nn.l2_penalty(model.parameters(), 0.3)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    np.testing.assert_allclose(models[0].weight.data, models[1].weight.data, rtol=1e-5)


# ---- memory --------------------------------------------------------------------------------------

@pytest.mark.parametrize("settings", [{}, {"reduction": "none"}, {"weight": 0.5},
                                      {"label_smoothing": 0.1}], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 8000), (1, 100_000), (64, 1000), (2, 64, 64, 21),
                                   (50_000, 10)])
@pytest.mark.parametrize("loss", [tc.cross_entropy, tc.nll_loss])
def test_integer_labels_take_at_most_three_times_the_memory_of_the_scores(loss, shape, dtype,
                                                                          settings):
    if loss is tc.nll_loss and "label_smoothing" in settings:
        settings = {"weight": 2.0}
    if "weight" in settings:
        settings = {"weight": np.full(shape[-1], settings["weight"], dtype)}
    rng = np.random.default_rng(0)
    x = tc.Tensor(rng.normal(size=shape).astype(dtype), requires_grad=True)
    labels = rng.integers(0, shape[-1], shape[:-1])
    release_memory()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        value = loss(x, labels, **settings)
        value.sum().backward()
        most = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert value.dtype == x.grad.dtype == dtype
    assert most <= 3 * x.data.nbytes


def test_a_graph_of_a_loss_in_float32_holds_no_float64():
    x = tc.Tensor(np.ones((4, 3), np.float32), requires_grad=True)
    for settings in ({}, {"weight": [1.0, 2.0, 3.0]}, {"label_smoothing": 0.1}):
        for labels in ([0, 1, 2, 0], np.eye(3)[[0, 1, 2, 0]]):
            node = tc.cross_entropy(x, labels, **settings).node
            assert all(v.dtype in (np.float32, np.intp) for v in node.settings.values()
                       if isinstance(v, np.ndarray))
