"""The training loop: what it computes, what it reports, how it refuses."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn, optim
from tinygrad_cnn.data import DataLoader
from tinygrad_cnn.io import load_weights
from tinygrad_cnn.train import (
    BestCheckpoint,
    Callback,
    EarlyStopping,
    History,
    Trainer,
    accuracy,
    confusion_matrix,
    fit,
    summarize,
    top_k_accuracy,
)


def problem(n=40):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(n, 4, 4, 1)).astype(np.float32)
    return images, (images.mean((1, 2, 3)) > 0).astype(np.int64)


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2, rng=np.random.default_rng(1)))


def loader(**settings):
    return DataLoader(*problem(), batch_size=8, seed=0, **settings)


def test_fit_is_the_plain_loop():
    model, by_hand = network(), network()
    Trainer(model, optim.SGD(model.parameters(), 0.5)).fit(loader(), 2)
    optimizer = optim.SGD(by_hand.parameters(), 0.5)
    batches = loader()
    for _ in range(2):
        for images, labels in batches:
            loss = tc.cross_entropy(by_hand(tc.Tensor(images)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for ours, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        np.testing.assert_array_equal(ours.data, theirs.data)


def test_the_figures_are_means_over_images_not_over_batches():
    model = network()
    images, labels = problem(10)
    batches = [(images[:8], labels[:8]), (images[8:], labels[8:])]
    judged = Trainer(model, optim.SGD(model.parameters(), 0.0)).evaluate(batches)
    scores = model(tc.Tensor(images))
    assert judged["loss"] == pytest.approx(tc.cross_entropy(scores, labels).item(), rel=1e-6)
    assert judged["accuracy"] == pytest.approx(accuracy(scores, labels))


def test_evaluation_leaves_mode_and_running_statistics_alone():
    model = nn.Sequential(nn.Conv2D(1, 2, 3, rng=np.random.default_rng(0)), nn.BatchNorm2D(2),
                          nn.Flatten(), nn.Linear(8, 2, rng=np.random.default_rng(0)))
    before = model.state_dict()
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.1))
    trainer.evaluate(loader())
    trainer.predict(problem()[0])
    assert model.training
    after = model.state_dict()
    assert all((before[name] == after[name]).all() for name in before)


def test_a_model_in_evaluation_mode_stays_there():
    model = network().eval()
    Trainer(model, optim.SGD(model.parameters(), 0.1)).evaluate(loader())
    assert not model.training


def test_predict_does_not_depend_on_the_batch_size():
    trainer = Trainer(model := network(), optim.SGD(model.parameters(), 0.1))
    images = problem()[0]
    np.testing.assert_allclose(trainer.predict(images, batch_size=7), trainer.predict(images),
                               rtol=1e-5, atol=1e-6)


def test_validation_adds_figures_and_fit_goes_on_counting():
    model = network()
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.5))
    trainer.fit(loader(), 2, validation=loader())
    history = trainer.fit(loader(), 1, validation=loader())
    assert history["epoch"] == [1, 2, 3]
    assert history.columns == ["epoch", "loss", "accuracy", "validation loss",
                               "validation accuracy", "seconds"]
    assert history["validation loss"][2] < history["validation loss"][0]


def test_early_stopping_waits_for_its_patience():
    model = network()
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.0),
                      callbacks=[EarlyStopping(patience=2)])
    assert len(trainer.fit(loader(), 10, validation=loader())) == 3     # best, and two more


def test_the_best_weights_are_kept(tmp_path):
    model = network()
    path = tmp_path / "best.npz"
    best = BestCheckpoint(path, "loss", mode="min")
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.5), callbacks=[best])
    trainer.fit(loader(), 3)
    assert best.best_epoch == 3
    saved = load_weights(path)
    assert all((saved[name] == value).all() for name, value in model.state_dict().items())


def test_a_monitor_that_is_not_there_is_named():
    model = network()
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.5), callbacks=[EarlyStopping()])
    with pytest.raises(tc.SettingError, match="'validation loss' is not among the figures"):
        trainer.fit(loader(), 1)


def test_callbacks_see_everything_in_order():
    seen = []

    class Watch(Callback):
        def on_fit_start(self, trainer): seen.append("start")
        def on_batch_end(self, trainer, batch, loss): seen.append(batch)
        def on_epoch_end(self, trainer, row): seen.append("epoch")
        def on_fit_end(self, trainer): seen.append("end")

    model = network()
    Trainer(model, optim.SGD(model.parameters(), 0.5), callbacks=[Watch()]).fit(loader(), 1)
    assert seen == ["start", 0, 1, 2, 3, 4, "epoch", "end"]


class Stop(Callback):
    """Counts its calls, and raises what it is given in the one that is named."""

    def __init__(self, where=None, error=None):
        self.where, self.error, self.seen = where, error, []

    def _note(self, name):
        self.seen.append(name)
        if name == self.where:
            raise self.error

    def on_fit_start(self, trainer): self._note("start")
    def on_batch_end(self, trainer, batch, loss): self._note("batch")
    def on_epoch_end(self, trainer, row): self._note("epoch")
    def on_fit_end(self, trainer): self._note("end")


def steadied():
    """A network with running statistics, and a buffer that is written in the forward pass."""
    class Counter(nn.Module):
        def __init__(self):
            self.register_buffer("calls", np.zeros((), np.int64))

        def forward(self, x):
            self.calls += 1
            return x

    rng = np.random.default_rng(2)
    return nn.Sequential(nn.Conv2D(1, 3, 3, rng=rng), nn.BatchNorm2D(3), Counter(), nn.Flatten(),
                         nn.BatchNorm1D(12), nn.Linear(12, 2, rng=rng))


def interrupted(scores, labels):
    raise KeyboardInterrupt


def not_a_number(scores, labels):
    return tc.cross_entropy(scores, labels) * np.float32(np.nan)


def infinite_gradient(scores, labels):
    return tc.sqrt(scores - scores.detach()).mean() + tc.cross_entropy(scores, labels)


def wrong_labels(scores, labels):
    return tc.cross_entropy(scores, labels + 7)


REFUSED = {"a loss that is not finite": (not_a_number, tc.GradientError, "the loss is nan"),
           "a gradient that is not finite": (infinite_gradient, tc.GradientError, "clip_norm"),
           "labels that do not fit": (wrong_labels, tc.TinygradCnnError, None),
           "an interrupt": (interrupted, KeyboardInterrupt, None)}


@pytest.mark.parametrize("loss, error, words", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("good", [0, 3], ids=["at first", "after some batches"])
def test_a_refused_batch_changes_nothing(loss, error, words, good):
    model = steadied()
    optimizer = optim.Adam(model.parameters(), 0.01)
    schedule = optim.schedules.Cosine(optimizer, 20)
    end = Stop()
    batches = list(loader())
    if good:
        Trainer(model, optimizer, schedule=schedule, bar=False).fit(batches[:good], 1)
    before = model.state_dict(), optimizer.state_dict(), schedule.state_dict(), optimizer.lr
    held = dict(model.named_buffers())
    trainer = Trainer(model, optimizer, schedule=schedule, loss=loss, clip=1.0, callbacks=[end],
                      bar=False)
    with pytest.raises(error, match=words), np.errstate(all="ignore"):
        trainer.fit([batches[good]], 1)
    after = model.state_dict(), optimizer.state_dict(), schedule.state_dict(), optimizer.lr
    np.testing.assert_equal(after, before)
    assert all(array is held[name] for name, array in model.named_buffers())
    assert all(p.grad is None for p in model.parameters()), "a later step would use the gradients"
    assert end.seen == ["start", "end"]
    assert np.isfinite(list(Trainer(model, optimizer).evaluate(batches).values())).all()


def test_a_gradient_that_does_not_fit_moves_no_parameter():
    model = network()
    optimizer = optim.Adam(model.parameters(), 0.1)
    weight, bias = model.parameters()
    weight.grad, bias.grad = tc.Tensor(np.ones(weight.shape, np.float32)), tc.Tensor(np.ones(7))
    before = model.state_dict()
    with pytest.raises(tc.GradientError, match="but its gradient"):
        optimizer.step()
    np.testing.assert_equal(model.state_dict(), before)
    assert optimizer.state_dict()["state"] == {}


@pytest.mark.parametrize("where", ["start", "batch", "epoch", "end"])
@pytest.mark.parametrize("error", [ValueError("on purpose"), KeyboardInterrupt(), SystemExit(1)],
                         ids=lambda error: type(error).__name__)
def test_the_end_of_a_fit_is_told_to_all_callbacks_whatever_ended_it(where, error):
    model = network()
    first, failing, last = Stop(), Stop(where, error), Stop()
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.5), callbacks=[first, failing, last],
                      bar=False)
    with pytest.raises(type(error)):
        trainer.fit(loader(), 2)
    assert all(callback.seen.count("end") == 1 for callback in (first, failing, last))


@pytest.mark.parametrize("call, words", [
    (lambda t: t.fit(loader(), 0), "epochs must be at least 1"),
    (lambda t: t.fit(iter(()), 1), "there are no batches"),
    (lambda t: t.evaluate([]), "there are no batches"),
    (lambda t: t.predict(np.zeros((0, 4, 4, 1))), "needs images"),
])
def test_impossible_calls_are_named(call, words):
    model = network()
    with pytest.raises(tc.SettingError, match=words):
        call(Trainer(model, optim.SGD(model.parameters(), 0.5)))


def test_unknown_settings_are_named():
    model = network()
    with pytest.raises(tc.SettingError, match="schedule_every 'week'"):
        Trainer(model, optim.SGD(model.parameters(), 0.5), schedule_every="week")
    with pytest.raises(tc.SettingError, match="mode 'most'"):
        EarlyStopping(mode="most")
    with pytest.raises(tc.SettingError, match="patience"):
        EarlyStopping(patience=0)


def test_fit_in_one_call_and_one_line_an_epoch(capsys):
    model = network()
    fit(model, loader(), epochs=2, optimizer=optim.SGD(model.parameters(), 0.5), log=print)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2/2  loss 0.")
    assert "accuracy" in lines[1]


def test_gradients_are_clipped_before_the_step():
    model = network()
    before = model.state_dict()
    trainer = Trainer(model, optim.SGD(model.parameters(), 1.0), clip=1e-3)
    trainer.fit(list(loader())[:1], 1)
    moved = np.sqrt(sum(((model.state_dict()[k] - v) ** 2).sum() for k, v in before.items()))
    assert moved == pytest.approx(1e-3, rel=1e-3)


# ---- history

def test_a_history_is_read_back(tmp_path):
    history = History([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "note": "x"}])
    again = History.load(history.save(tmp_path / "history.csv"))
    assert again.rows == [{"epoch": 1, "loss": 0.5, "note": None},
                          {"epoch": 2, "loss": 0.25, "note": "x"}]


def test_a_history_says_what_it_has(tmp_path):
    with pytest.raises(tc.SettingError, match="no figure 'los'; choose from loss"):
        History([{"loss": 1.0}])["los"]
    with pytest.raises(tc.SettingError, match="no epoch is finished"):
        _ = History().last
    with pytest.raises(tc.DataError, match="is not a history"):
        History.load(tmp_path / "missing.csv")


# ---- metrics

def test_metrics_by_hand():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    labels = np.array([1, 2, 2, 0])
    assert accuracy(scores, labels) == 0.75
    assert accuracy(scores, np.eye(3)[labels]) == 0.75
    assert top_k_accuracy(scores, labels, k=2) == 1.0
    assert confusion_matrix(scores, labels).tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]


def test_metrics_refuse_what_does_not_fit():
    with pytest.raises(tc.ShapeError, match=r"\(N, K\) and \(N,\)"):
        accuracy(np.zeros((3, 2)), np.zeros((3, 1), int))
    with pytest.raises(tc.ShapeError, match="no scores"):
        accuracy(np.zeros((0, 2)), np.zeros(0, int))
    with pytest.raises(tc.SettingError, match="k must be from 1 to 2"):
        top_k_accuracy(np.zeros((3, 2)), np.zeros(3, int), k=3)


# ---- summary

def test_a_summary_counts_parameters_and_work_by_hand():
    model = nn.Sequential(nn.Conv2D(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2D(2), nn.Flatten(),
                          nn.Linear(2 * 2 * 2, 3))
    before = model.state_dict()
    table = summarize(model, (4, 4, 1))
    rows = {row.kind: row for row in table.layers}
    assert rows["Conv2D"].shape == (4, 4, 2)
    assert rows["Conv2D"].parameters == 3 * 3 * 1 * 2 + 2
    assert rows["Conv2D"].flops == 2 * 4 * 4 * 2 * 9
    assert rows["MaxPool2D"].shape == (2, 2, 2)
    assert rows["Linear"].flops == 2 * 8 * 3
    assert table.parameters == 20 + 27
    assert model.training
    assert all((before[name] == value).all() for name, value in model.state_dict().items())
    assert "47 parameters" in str(table)
