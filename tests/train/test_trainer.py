"""The training loop: what it computes, what it reports, how it refuses."""

from __future__ import annotations

import ast
import contextlib
import functools
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tinygrad_cnn as tc
from sources import nodes
from tinygrad_cnn import nn, optim
from tinygrad_cnn.data import DataLoader, RandomShift
from tinygrad_cnn.io import load_weights
from tinygrad_cnn.optim import lr_scheduler
from tinygrad_cnn.train import (
    BestCheckpoint,
    Callback,
    EarlyStopping,
    History,
    LRCurve,
    Trainer,
    accuracy,
    confusion_matrix,
    fit,
    mean_squared_error,
    profile,
    summarize,
    top_k_accuracy,
)
from tinygrad_cnn.train.progress import NotebookLine, with_progress
from tinygrad_cnn.viz import attribution

PACKAGE = Path(tc.__file__).parent


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


class Siamese(nn.Module):
    """Two images in, by position or by name; a tuple of scores and distance out."""

    def __init__(self):
        self.fc = nn.Linear(16, 2, rng=np.random.default_rng(0))

    def forward(self, left, right):
        a, b = (self.fc(tc.flatten(x, 1)) for x in (left, right))
        return a, ((a - b) ** 2).sum(axis=1)


@pytest.mark.parametrize("inputs", [lambda a, b: (a, b), lambda a, b: {"right": b, "left": a}])
def test_a_model_of_several_inputs_and_outputs_is_trained_and_judged(inputs):
    images, labels = problem(12)
    model, twin = Siamese(), Siamese()
    targets = {"label": labels, "far": np.ones(12, np.float32)}

    def loss(outputs, targets):
        return tc.cross_entropy(outputs[0], targets["label"]) + tc.mse_loss(outputs[1],
                                                                            targets["far"])
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.01), loss=loss, progress=False,
                      metrics={"far": lambda outputs, targets: outputs[1].data.mean()})
    batches = [(inputs(images, images[::-1]), targets)]
    row, = trainer.fit(batches, 1, validation=batches)
    start = loss(twin(tc.Tensor(images), tc.Tensor(images[::-1])), targets)
    assert row["loss"] == pytest.approx(start.item(), rel=1e-6)
    assert row["far"] == pytest.approx(twin(images, images[::-1])[1].data.mean(), rel=1e-6)
    assert row["validation loss"] < row["loss"]


@pytest.mark.parametrize("batch, words", [
    (np.ones((2, 4, 4, 1)), "a batch is .inputs, targets., got ndarray; several inputs are"),
    ((1, 2, 3), "got tuple of 3")])
def test_a_batch_that_is_no_pair_is_refused(batch, words):
    model = network()
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.5), progress=False)
    for call in (lambda: trainer.fit([batch], 1), lambda: trainer.evaluate([batch])):
        with pytest.raises(tc.SettingError, match=words):
            call()


def test_metrics_go_by_name_or_are_functions():
    model = network()
    optimizer = optim.SGD(model.parameters(), 0.0)
    images, labels = problem(10)
    onehot = np.eye(2, dtype=np.float32)[labels]
    found = Trainer(model, optimizer, loss=tc.mse_loss,
                    metrics=["accuracy", "mae", mean_squared_error]).evaluate([(images, onehot)])
    scores = model(tc.Tensor(images)).data
    assert found["accuracy"] == accuracy(scores, labels)
    assert found["mae"] == pytest.approx(abs(scores - onehot).mean())
    assert found["mean_squared_error"] == pytest.approx(found["loss"], rel=1e-5)
    assert set(Trainer(model, optimizer, metrics="accuracy").metrics) == {"accuracy"}
    with pytest.raises(tc.SettingError, match=r"metrics must be one of accuracy, .*'acc'"):
        Trainer(model, optimizer, metrics=["acc"])
    with pytest.raises(tc.ShapeError, match=r"prediction \(2,\) and target \(3,\) must have one"):
        mean_squared_error([1, 2], [1, 2, 3])


def test_results_show_themselves_as_text_and_as_a_table_of_html():
    model = network()
    optimizer = optim.SGD(model.parameters(), 0.5)
    trainer = Trainer(model, optimizer, schedule=lr_scheduler.StepLR(optimizer, 7), progress=False)
    history = trainer.fit(loader(), 2)
    assert repr(trainer) == (
        "Trainer(Sequential, SGD(2 parameters: lr=0.05), loss=cross_entropy, metrics=['accuracy'], "
        "schedule=StepLR(7): lr 0.05 after 10 steps): 2 epochs")
    lines = repr(history).splitlines()
    assert lines[0] == "2 epochs"
    assert lines[1].split() == ["epoch", "loss", "accuracy", "seconds"]
    assert lines[3].split()[:2] == ["1", f"{history['loss'][0]:.4f}"]
    assert history._repr_html_().count("<tr>") == 3
    assert history._repr_html_() in trainer._repr_html_()
    assert repr(History()) == "0 epochs"
    rows = [{"epoch": i, "note": "<b>" if i == 1 else None} for i in range(1, 101)]
    many = History(rows)
    assert [len(repr(History(rows[:n])).splitlines()) for n in (40, 41)] == [3 + 40, 3 + 41]
    assert len(repr(many).splitlines()) == 3 + 41
    assert "&lt;b&gt;" in many._repr_html_()
    assert repr(summarize(model, (4, 4, 1))) == str(summarize(model, (4, 4, 1)))


# ---- the rate finder

def test_the_rate_finder_finds_a_rate_and_leaves_everything_as_it_was():
    model = steadied()
    optimizer = optim.Adam([{"params": model[0].parameters(), "lr": 0.003},
                            {"params": model[-1].parameters(), "lr": 0.002}])
    trainer = Trainer(model, optimizer, progress=False)
    batches = list(loader())
    trainer.fit(batches, 1)
    held = dict(model.named_buffers())
    before = model.state_dict(), optimizer.state_dict()
    curve = trainer.find_lr(batches, start=1e-4, end=1e2, steps=31)
    np.testing.assert_equal((model.state_dict(), optimizer.state_dict()), before)
    assert all(array is held[name] for name, array in model.named_buffers())
    assert all(p.grad is None for p in model.parameters())
    assert curve.rates[:2] == pytest.approx([1e-4, 1e-4 * 10 ** 0.2])
    assert len(curve.losses) == len(curve.rates) <= 31
    assert curve.suggestion in curve.rates
    assert repr(curve).startswith(f"suggested rate: {curve.suggestion:.3g}\n    rate ")


def test_the_rate_finder_stops_where_the_loss_grows_or_is_not_finite():
    model = network()
    model.astype(np.float64)
    x = problem(8)[0].astype(np.float64)

    def steep(scores, labels):
        return (scores ** 4).mean()

    trainer = Trainer(model, optim.SGD(model.parameters()), loss=steep, progress=False)
    curve = trainer.find_lr([(x, x)], start=10.0, end=1e3, steps=50)
    assert curve.diverged
    assert len(curve.rates) < 50
    trainer.loss = not_a_number
    with np.errstate(all="ignore"):
        assert trainer.find_lr([(x, np.zeros(8, int))], steps=5).rates == []
    assert LRCurve().suggestion is None
    for wrong, words in (({"start": 0}, "start"), ({"end": 1e-9}, "end"), ({"steps": 1}, "steps")):
        with pytest.raises(tc.SettingError, match=f"find_lr: {words} must be"):
            trainer.find_lr([(x, x)], **wrong)
    with pytest.raises(tc.SettingError, match="there are no batches"):
        trainer.find_lr([])


def test_a_rate_is_suggested_by_the_decade_and_four_times_the_least_loss_diverges():
    uneven = LRCurve()
    for rate, loss in ((0.0001, 2.0), (0.01, 1.0), (0.011, 0.99)):
        uneven.append(rate, loss)
    assert uneven.suggestion == 0.011
    tiny = LRCurve()                # 0.57 after 0.1 is more than four times as much
    tiny.append(0.1, 0.1)
    assert not tiny.diverged
    tiny.append(1.0, 1.0)
    assert tiny.diverged


def test_the_curve_of_rates_is_drawn():
    pytest.importorskip("matplotlib")
    curve = LRCurve()
    with pytest.raises(tc.VizError, match="no step was taken"):
        curve.plot()
    for rate, loss in ((0.01, 2.0), (0.1, 1.0), (1.0, 3.0)):
        curve.append(rate, loss)
    axis, = curve.plot().axes
    assert [line.get_label() for line in axis.lines] == ["loss", "smoothed", "suggested: 0.1"]
    np.testing.assert_allclose(axis.lines[0].get_xydata(), [[0.01, 2], [0.1, 1], [1, 3]])
    assert curve.smoothed == pytest.approx([2.0, (0.9 * 2 + 1) / 1.9, (
        0.81 * 2 + 0.9 + 3) / 2.71])


class Cut(Callback):
    """Ends a run as a kill does, after some steps."""

    def __init__(self, steps):
        self.left = steps

    def on_batch_end(self, trainer, batch, loss):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def saved_run(path, steps=10**9, *, listed=False, workers=1, **changed):
    """A run with state everywhere: averages, statistics, generators, a schedule, a best value."""
    tc.manual_seed(changed.get("seed", 3))
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1D(8), nn.Dropout(0.2),
                          nn.Dropout(changed.get("p", 0.3), rng=np.random.default_rng(5)),
                          nn.Linear(8, 2))
    optimizer = optim.Adam(model.parameters(), changed.get("lr", 0.05))
    trainer = Trainer(
        model, optimizer, schedule=lr_scheduler.ReduceLROnPlateau(optimizer, patience=1),
        schedule_every="epoch", progress=False, clip=changed.get("clip"), workers=workers,
        callbacks=[Cut(steps), EarlyStopping(patience=changed.get("patience", 2)),
                   BestCheckpoint(path.with_name("best"), "validation loss", mode="min")])
    images, labels = problem(changed.get("n", 40))
    batches = (list(loader()) if listed else DataLoader(
        images, labels, batch_size=9, shuffle=True, seed=4, prefetch=2,
        transform=RandomShift(1)))
    unseen = DataLoader(images[::-1].copy(), labels[::-1].copy(), batch_size=16, shuffle=True,
                        seed=1)
    return trainer, batches, unseen


def outcome(trainer):
    """Weights, the log without its seconds, and what the callbacks know."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in trainer.history]
    states = [c.state_dict() for c in trainer.callbacks]
    return {k: v.tobytes() for k, v in trainer.model.state_dict().items()}, rows, states


@pytest.mark.parametrize("kind", [{}, {"listed": True}, {"workers": 2}], ids=str)
def test_a_run_that_is_cut_anywhere_ends_as_if_it_had_not_been(tmp_path, kind):
    if "workers" in kind and sys.platform != "linux":
        pytest.skip("workers are forked, which needs Linux")
    path = tmp_path / "run.safetensors"
    whole, batches, unseen = saved_run(path, **kind)
    whole.fit(batches, 9, validation=unseen)
    assert 3 < len(whole.history) < 9                           # EarlyStopping has ended it
    for every, first, second in ((1, 3, 9), (2, 1, 4), (None, 7, 6), (3, 5, 2), (4, 0, 3)):
        path.unlink(missing_ok=True)
        for steps in (first, second, 10**9):
            trainer, batches, unseen = saved_run(path, steps, **kind)
            with contextlib.suppress(KeyboardInterrupt):
                trainer.fit(batches, 9, validation=unseen, checkpoint=path, save_every=every,
                            resume=path if path.exists() else None)
        assert outcome(trainer) == outcome(whole)
        trainer, batches, unseen = saved_run(path, **kind)
        trainer.fit(batches, 9, validation=unseen, resume=path)         # it was over
        assert outcome(trainer) == outcome(whole)


@pytest.mark.parametrize("where", ["the loss", "validation", "a callback"])
def test_a_run_that_was_interrupted_and_then_saved_leaves_out_no_batch(where, tmp_path):
    def made():
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, rng=np.random.default_rng(0)),
                              nn.BatchNorm1D(2))
        optimizer = optim.Adam(model.parameters(), 0.01)
        return Trainer(model, optimizer, progress=False, callbacks=[Stop()],
                       schedule=lr_scheduler.StepLR(optimizer, 3)), loader(shuffle=True), loader()

    whole, batches, unseen = made()
    whole.fit(batches, 3, validation=unseen)
    for at in (1, 3, 5, 6, 8):
        path, calls, (trainer, batches, unseen) = tmp_path / "run", [], made()

        def interrupted(*args, calls=calls, at=at, trainer=trainer):
            calls.append(trainer.model.training)
            if len(calls) == 2 * at if where == "the loss" else calls.count(False) == at:
                raise KeyboardInterrupt
            return tc.cross_entropy(*args)
        interrupted.__qualname__ = "cross_entropy"
        if where == "a callback":
            trainer.callbacks[0].where, trainer.callbacks[0].error = "batch", KeyboardInterrupt()
        else:
            trainer.loss = interrupted
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(batches, 3, validation=unseen)
        trainer.save(path)
        second, batches, unseen = made()
        second.fit(batches, 3, validation=unseen, resume=path)
        assert outcome(second)[:2] == outcome(whole)[:2]


def test_a_run_is_not_saved_while_callbacks_count_the_epoch(tmp_path):
    class Save(Callback):
        def on_epoch_end(self, trainer, row): trainer.save(tmp_path / "run")

    model = network()
    trainer = Trainer(model, optim.SGD(model.parameters()), callbacks=[Save()], progress=False)
    with pytest.raises(tc.SettingError, match=r"fit\(checkpoint=path\) saves after all of them"):
        trainer.fit(loader(), 1)


def test_a_run_is_not_resumed_with_anything_changed(tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    trainer, batches, unseen = saved_run(path)
    trainer.fit(batches, 2, validation=unseen, checkpoint=path)

    def refused(trainer, batches, unseen, *words):
        before, rng = outcome(trainer), tc.default_generator().bit_generator.state
        with pytest.raises(tc.CheckpointError) as caught:
            trainer.fit(batches, 3, validation=unseen, resume=path)
        for word in words:
            assert word in str(caught.value)
        assert outcome(trainer) == before
        assert tc.default_generator().bit_generator.state == rng
        assert batches.epoch == 0

    refused(*saved_run(path, p=0.4, lr=0.1, clip=1.0, n=48, workers=2),
            "0.3)", "0.4)", "workers is 1 in the file, 2 here", "lr=0.05", "lr=0.1",
            "clip is None in the file, 1.0 here",
            "loader: ", "samples is 48 here but 40 in the state", "data is", "validation: ")
    other, batches, unseen = saved_run(path)
    images, labels = problem(40)
    labels[7] = 1 - labels[7]
    refused(other, DataLoader(images, labels, batch_size=9, shuffle=True, seed=4,
                              transform=RandomShift(1)), unseen, "loader: ", "data is")
    refused(other, DataLoader(images, problem(40)[1], batch_size=9, shuffle=True, seed=4,
                              transform=RandomShift(2)), unseen, "transform is RandomShift")
    monkeypatch.setattr("tinygrad_cnn.train.run.__version__", "9.9")
    refused(*saved_run(path), f"tinygrad_cnn is {tc.__version__} in the file, 9.9 here")


def test_what_cannot_be_resumed_is_refused_before_it_is_trained(tmp_path):
    path = tmp_path / "run"
    trainer, batches, _ = saved_run(path)
    for wrong, words in (({"save_every": 2}, "save_every goes with checkpoint="),
                         ({"save_every": 0, "checkpoint": path}, "save_every must be"),
                         ({"resume": path}, "run does not exist")):
        with pytest.raises((tc.SettingError, tc.CheckpointError), match=words):
            trainer.fit(batches, 1, **wrong)
    with pytest.raises(tc.SettingError, match=r"a DataLoader, a list, .*generator"):
        trainer.fit((pair for pair in batches), 1, checkpoint=path)
    model = network()
    with pytest.raises(tc.SettingError, match="must have a state_dict"):
        Trainer(model, optim.SGD(model.parameters()),
                schedule=SimpleNamespace(step=print)).save(path)


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
    path = tmp_path / "best.safetensors"
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
           "a gradient that is not finite": (infinite_gradient, tc.GradientError, "clip_grad_"),
           "labels that do not fit": (wrong_labels, tc.TinygradCnnError, None),
           "an interrupt": (interrupted, KeyboardInterrupt, None)}


@pytest.mark.parametrize("loss, error, words", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("good", [0, 3], ids=["at first", "after some batches"])
def test_a_refused_batch_changes_nothing(loss, error, words, good):
    model = steadied()
    optimizer = optim.Adam(model.parameters(), 0.01)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    end = Stop()
    batches = list(loader())
    if good:
        Trainer(model, optimizer, schedule=schedule, progress=False).fit(batches[:good], 1)
    before = model.state_dict(), optimizer.state_dict(), schedule.state_dict(), optimizer.lr
    held = dict(model.named_buffers())
    trainer = Trainer(model, optimizer, schedule=schedule, loss=loss, clip=1.0, callbacks=[end],
                      progress=False)
    with pytest.raises(error, match=words), np.errstate(all="ignore"):
        trainer.fit([batches[good]], 1)
    after = model.state_dict(), optimizer.state_dict(), schedule.state_dict(), optimizer.lr
    np.testing.assert_equal(after, before)
    assert all(array is held[name] for name, array in model.named_buffers())
    assert all(p.grad is None for p in model.parameters()), "a later step would use the gradients"
    assert end.seen == ["start", "end"]
    assert np.isfinite(list(Trainer(model, optimizer).evaluate(batches).values())).all()


def test_a_refused_batch_gives_back_a_buffer_that_was_replaced_or_taken_away():
    class Log(nn.Module):
        def __init__(self):
            for name, array in (("first", None), ("seen", np.zeros(0)), ("gone", np.ones(1))):
                self.register_buffer(name, array)

        def forward(self, x):
            self.first, self.seen, self.gone = np.ones(2), np.append(self.seen, 1.0), None
            return x

    model = nn.Sequential(Log(), network())
    with pytest.raises(tc.GradientError):
        Trainer(model, optim.SGD(model.parameters()), loss=not_a_number).fit(loader(), 1)
    log = model[0]
    assert [log.first.tolist(), log.seen.tolist(), log.gone.tolist()] == [[1, 1], [], [1]]


def test_a_gradient_that_does_not_fit_moves_no_parameter():
    model = network()
    optimizer = optim.Adam(model.parameters(), 0.1)
    weight, bias = model.parameters()
    for p in (weight, bias):
        p.grad = tc.Tensor(np.ones(p.shape, np.float32))
    bias._data = np.zeros(7)                            # past the tensor, which keeps them alike
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
                      progress=False)
    with pytest.raises(type(error)):
        trainer.fit(loader(), 2)
    assert all(callback.seen.count("end") == 1 for callback in (first, failing, last))


@pytest.mark.parametrize("call, words", [
    (lambda t: t.fit(loader(), 0), "epochs must be an integer of at least 1"),
    (lambda t: t.fit(iter(()), 1), "there are no batches"),
    (lambda t: t.evaluate([]), "there are no batches"),
    (lambda t: t.predict(np.zeros((0, 4, 4, 1))), "predict: there are no images"),
])
def test_impossible_calls_are_named(call, words):
    model = network()
    with pytest.raises(tc.SettingError, match=words):
        call(Trainer(model, optim.SGD(model.parameters(), 0.5)))


# ---- schedules

class Recorded(optim.SGD):
    """Notes the rate of each step."""

    def step(self):
        self.used = [*getattr(self, "used", []), self.lr]
        super().step()


class Losses(Callback):
    def __init__(self):
        self.seen = []

    def on_batch_end(self, trainer, batch, loss):
        self.seen.append(loss)


SCHEDULES = {
    lr_scheduler.StepLR: lambda o: lr_scheduler.StepLR(o, 2, gamma=0.5),
    lr_scheduler.MultiStepLR: lambda o: lr_scheduler.MultiStepLR(o, [1, 3]),
    lr_scheduler.ExponentialLR: lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    lr_scheduler.PolynomialLR: lambda o: lr_scheduler.PolynomialLR(o, 20),
    lr_scheduler.LinearLR: lr_scheduler.LinearLR, lr_scheduler.ConstantLR: lr_scheduler.ConstantLR,
    lr_scheduler.LambdaLR: lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    lr_scheduler.CosineAnnealingLR: lambda o: lr_scheduler.CosineAnnealingLR(o, 20),
    lr_scheduler.CosineAnnealingWarmRestarts:
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    lr_scheduler.OneCycleLR: lambda o: lr_scheduler.OneCycleLR(o, 1.0, 20),
    lr_scheduler.SequentialLR: lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.ReduceLROnPlateau(o, patience=0)], [2]),
    lr_scheduler.LinearWarmup: lambda o: lr_scheduler.LinearWarmup(
        lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=1.0), 2),
    lr_scheduler.ReduceLROnPlateau: lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1)}


def test_no_schedule_is_left_out():
    assert {*SCHEDULES, lr_scheduler.LRScheduler} == {
        getattr(lr_scheduler, name) for name in lr_scheduler.__all__}


@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize("every", ["batch", "epoch"])
@pytest.mark.parametrize("make", SCHEDULES.values(), ids=lambda m: "-")
def test_a_schedule_steps_after_each_batch_or_after_each_epoch(make, every, validated):
    model, batches = network(), list(loader())
    optimizer, losses = Recorded(model.parameters(), 0.5), Losses()
    schedule = make(optimizer)
    trainer = Trainer(model, optimizer, schedule=schedule, schedule_every=every,
                      callbacks=[losses], progress=False)
    history = trainer.fit(batches, 4, validation=batches[:2] if validated else None)
    twin, expected = make(optim.SGD([tc.Parameter([0.0])], 0.5)), []
    for i, loss in enumerate(losses.seen):
        expected.append(twin.optimizer.lr)
        epoch, last = divmod(i, len(batches))
        if every == "batch":
            twin.step(loss)
        elif last == len(batches) - 1:
            twin.step(history["validation loss" if validated else "loss"][epoch])
    assert optimizer.used == expected
    assert schedule.steps == twin.steps == (4 if every == "epoch" else 4 * len(batches))
    assert optimizer.lr == twin.optimizer.lr


@pytest.mark.parametrize("every, steps", [("batch", 10), ("epoch", 2)])
def test_a_schedule_that_takes_no_loss_is_stepped_without_one(every, steps):
    class Counter:
        count = 0

        def step(self):
            self.count += 1

    model, schedule = network(), Counter()
    Trainer(model, optim.SGD(model.parameters(), 0.5), schedule=schedule, schedule_every=every,
            progress=False).fit(loader(), 2)
    assert schedule.count == steps


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("min_delta, figures, waited", [
    (0.0, [2.0, 2.0, 1.5, 1.5, 1.5], [0, 1, 0, 1, 2]),              # a tie is no improvement
    (0.5, [2.0, 1.5, 1.25, 0.75, 0.5], [0, 1, 0, 1, 0]),            # nor is one by min_delta
    (0.0, [float("nan"), 1.0, float("nan"), 2.0], [1, 0, 1, 2])])
def test_early_stopping_waits_while_a_figure_is_no_better(mode, min_delta, figures, waited):
    stopping = EarlyStopping("figure", patience=2, mode=mode, min_delta=min_delta)
    sign = 1 if mode == "min" else -1
    for epoch, (figure, wait) in enumerate(zip(figures, waited, strict=True)):
        stop = stopping.on_epoch_end(None, {"epoch": epoch, "figure": sign * figure})
        assert (stopping.waited, stop) == (wait, wait >= 2)


def test_unknown_settings_are_named():
    model = network()
    with pytest.raises(tc.SettingError, match=r"schedule_every must be one of .*, got 'week'"):
        Trainer(model, optim.SGD(model.parameters(), 0.5), schedule_every="week")
    with pytest.raises(tc.SettingError, match="mode must be one of min, max, got 'most'"):
        EarlyStopping(mode="most")
    with pytest.raises(tc.SettingError, match="patience"):
        EarlyStopping(patience=0)
    with pytest.raises(tc.SettingError, match="min_delta must be a finite number of at least 0"):
        EarlyStopping(min_delta=-1)


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


# ---- modes

def frozen():
    """A network whose batch normalization is frozen, while the rest trains."""
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Conv2D(1, 2, 3, rng=rng), nn.BatchNorm2D(2), nn.Dropout(0.1, rng=rng),
                          nn.Flatten(), nn.Linear(8, 2, rng=rng))
    model[1].eval()
    return model


def modes(model):
    return [part.training for part in model.modules()]


def trainer_of(model, **settings):
    return Trainer(model, optim.SGD(model.parameters(), 0.1), **settings)


RUNS = {
    "evaluate": lambda m: trainer_of(m).evaluate(loader()),
    "predict": lambda m: trainer_of(m).predict(problem()[0]),
    "fit": lambda m: trainer_of(m).fit(loader(), 2),
    "fit with validation": lambda m: trainer_of(m).fit(loader(), 2, validation=loader()),
    "summarize": lambda m: summarize(m, (4, 4, 1)),
    "profile": lambda m: profile(m, *problem(2), steps=1),
    "graph": lambda m: m.graph(problem(2)[0]),
    "feature maps": lambda m: attribution.feature_map_arrays(m, problem(2)[0], "0"),
    "saliency": lambda m: attribution.saliency_arrays(m, problem(2)[0]),
    "grad-cam": lambda m: attribution.grad_cam_arrays(m, problem(2)[0], "0"),
    "loss surface": lambda m: attribution.loss_grid(m, *problem(2), points=2),
}


@pytest.mark.parametrize("run", RUNS)
def test_a_frozen_part_stays_frozen(run):
    model = frozen()
    before, statistics = modes(model), dict(model[1].named_buffers())
    statistics = {name: array.copy() for name, array in statistics.items()}
    RUNS[run](model)
    assert modes(model) == before
    assert all((array == statistics[name]).all() for name, array in model[1].named_buffers())


@pytest.mark.parametrize("run", RUNS)
def test_modes_are_put_back_after_an_error(run):
    class Broken(nn.Module):
        def forward(self, x):
            raise ZeroDivisionError

    model = frozen()
    model.append(Broken())
    before = modes(model)
    with pytest.raises(ZeroDivisionError):
        RUNS[run](model)
    assert modes(model) == before


@pytest.mark.parametrize("run", RUNS)
def test_a_model_in_evaluation_is_so_afterwards(run):
    model = frozen().eval()
    RUNS[run](model)
    assert not any(modes(model))


def test_no_file_switches_the_modes_of_a_model_that_is_not_its_own():
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if place == "nn/module.py":
            continue
        for node in nodes(path):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) \
                    and node.func.attr in ("train", "eval"):
                text = ast.unparse(node)
                assert text.startswith("copy.deepcopy(") or (
                    path.name == "trainer.py" and text == "self.model.train()"), f"{path}: {text}"


def test_fit_trains_a_model_that_was_in_evaluation():
    model = frozen().eval()
    seen = []

    class Watch(Callback):
        def on_batch_end(self, trainer, batch, loss): seen.append(all(modes(trainer.model)))

    before = model.state_dict()
    trainer_of(model, callbacks=[Watch()]).fit(loader(), 1)
    assert all(seen)
    assert (model.state_dict()["1.running_mean"] != before["1.running_mean"]).any()


def test_a_callback_may_freeze_a_part_for_good():
    class Freeze(Callback):
        def on_epoch_end(self, trainer, row): trainer.model[1].eval()

    model = frozen().train()
    trainer_of(model, callbacks=[Freeze()]).fit(loader(), 2, validation=loader())
    assert modes(model) == modes(frozen())


def test_a_callback_that_leaves_the_model_in_evaluation_does_not_stop_the_training():
    seen = []

    class Judge(Callback):
        def on_batch_end(self, trainer, batch, loss): seen.append(trainer.model.training)
        def on_epoch_end(self, trainer, row): trainer.model.eval()

    trainer_of(network(), callbacks=[Judge()]).fit(loader(), 2)
    assert all(seen)


# ---- what is trained

def test_an_optimizer_of_another_model_is_refused():
    model, other = network(), network()
    with pytest.raises(tc.SettingError, match=r"fit: the optimizer SGD holds none of the model's "
                                              r"parameters.*SGD\(model.parameters\(\), ...\)"):
        Trainer(model, optim.SGD(other.parameters(), 0.1)).fit(loader(), 1)
    assert Trainer(model, optim.SGD(other.parameters(), 0.1)).evaluate(loader())["loss"] > 0


def test_an_optimizer_of_a_part_that_was_replaced_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 3))
    optimizer = optim.SGD(model.parameters(), 0.1)
    model[3] = nn.Linear(4, 2)
    with pytest.raises(tc.SettingError, match=r"holds 2 of 4 parameters that the model lacks: "
                                              r"weight \(4, 3\), bias \(3,\)"):
        Trainer(model, optimizer).fit(loader(), 1)


def test_an_optimizer_of_some_parameters_and_of_the_loss_is_taken():
    class Scaled(nn.CrossEntropyLoss):
        def __init__(self):
            super().__init__()
            self.scale = tc.Parameter([1.0])

        def forward(self, scores, labels):
            return super().forward(scores * self.scale, labels)

    model, loss = network(), Scaled()
    before = model.state_dict()
    optimizer = optim.SGD([model[1].bias, loss.scale], 0.1)
    history = Trainer(model, optimizer, loss=loss).fit(loader(), 1)
    assert (model[1].weight.data == before["1.weight"]).all()
    assert (model[1].bias.data != before["1.bias"]).any()
    assert loss.scale.item() != 1.0
    assert "accuracy" in history.columns


# ---- default metrics

@pytest.mark.parametrize("loss, columns", [
    (None, ["accuracy"]), (tc.cross_entropy, ["accuracy"]), (nn.CrossEntropyLoss(), ["accuracy"]),
    (functools.partial(tc.cross_entropy, label_smoothing=0.1), ["accuracy"]),
    (lambda scores, labels: tc.nll_loss(tc.log_softmax(scores), labels), []),
    (lambda scores, labels: tc.mse_loss(scores, np.eye(2, dtype=np.float32)[labels]), [])])
def test_only_losses_over_classes_have_a_metric_by_default(loss, columns):
    history = trainer_of(network(), loss=loss).fit(loader(), 1)
    assert history.columns == ["epoch", "loss", *columns, "seconds"]


@pytest.mark.parametrize("loss", [tc.mse_loss, nn.MSELoss(), tc.binary_cross_entropy_with_logits])
def test_a_regression_has_no_accuracy(loss):
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(4, 8, 8, 1)).astype("f"), rng.random((4, 1)).astype("f"))]
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    assert trainer_of(model, loss=loss).fit(batches, 1).columns == ["epoch", "loss", "seconds"]
    with pytest.raises(tc.ShapeError, match=r"accuracy: scores \(4, 1\) have one column"):
        trainer_of(model, loss=loss, metrics={"accuracy": accuracy}).fit(batches, 1)


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
    path = tmp_path / "history.csv"
    with pytest.raises(tc.DataError, match="does not exist"):
        History.load(path)
    for content in (b"a,a\n1,2\n", b"a,b\n1\n", b"a\n1,2\n", b"a\n\xff\n", b'a\n"1',
                    b"a\n" + b"1\n" * 100_000):
        path.write_bytes(content)
        with pytest.raises(tc.DataError, match="is not a history"):
            History.load(path)


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
    with pytest.raises(tc.SettingError, match="k must be an integer from 1 to 2"):
        top_k_accuracy(np.zeros((3, 2)), np.zeros(3, int), k=3)


METRICS = [accuracy, confusion_matrix, lambda s, y: top_k_accuracy(s, y, k=2)]
SCORES = np.eye(3)
HOSTILE = {
    "a label below 0": (SCORES, [-1, 1, 2], tc.DataError, "label -1 of image 0 names no class"),
    "a label too large": (SCORES, [0, 1, 3], tc.DataError, "label 3 of image 2 .* 3 classes"),
    "float classes": (SCORES, [0.0, 1.0, 2.0], tc.DataError, "must be integers, got float64"),
    "boolean classes": (SCORES, [True, False, True], tc.DTypeError, "labels must be integers or"),
    "words": (SCORES, ["a", "b", "c"], tc.DTypeError, "labels must be integers or floats"),
    "nothing": (SCORES, None, tc.DTypeError, "labels must be integers or floats, got object"),
    "ragged labels": (SCORES, [[0, 1], [1]], tc.ShapeError, "rows of labels have unequal"),
    "ragged scores": ([[0, 1], [1]], [0, 1], tc.ShapeError, "rows of scores have unequal"),
    "rows that do not sum to 1": (SCORES, SCORES * 2, tc.SettingError, "sum 1; row 0 is"),
    "rows below 0": (SCORES, [[2, -1, 0]] * 3, tc.SettingError, "row 0 is"),
    "regression targets": (SCORES, np.full((3, 3), 0.7), tc.SettingError, "use another metric"),
    "NaN in labels": (SCORES, SCORES * np.nan, tc.DataError, "must be finite"),
    "NaN in scores": (SCORES * np.nan, [0, 1, 2], tc.SettingError, r"NaN at \(0, 0\)"),
    "complex scores": (SCORES * 1j, [0, 1, 2], tc.DTypeError, "scores must be integers or floats"),
    "one column": (np.zeros((3, 1)), [0, 0, 0], tc.ShapeError, "have one column"),
    "one column twice": (np.zeros((3, 1)), np.ones((3, 1)), tc.ShapeError, "have one column"),
    "a column of labels": (SCORES, [[0], [1], [2]], tc.ShapeError, r"\(N, K\) and \(N,\)"),
    "too few labels": (SCORES, [0, 1], tc.ShapeError, r"\(N, K\) and \(N,\)"),
    "one row": (SCORES[0], 0, tc.ShapeError, r"\(N, K\) and \(N,\)"),
    "images": (np.zeros((3, 2, 2, 3)), [0, 1, 2], tc.ShapeError, r"\(N, K\) and \(N,\)"),
    "no rows": (np.zeros((0, 3)), [], tc.ShapeError, "there are no scores"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_refuses_what_it_cannot_judge(metric, case):
    scores, labels, error, message = HOSTILE[case]
    with pytest.raises(error, match=message):
        metric(scores, labels)


@pytest.mark.parametrize("k", [0, 4, -1, 1.5, True, None, "1"])
def test_the_k_of_top_k_is_an_integer_from_1_to_the_classes(k):
    with pytest.raises(tc.SettingError, match="k must be"):
        top_k_accuracy(SCORES, [0, 1, 2], k=k)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int8, np.int64])
def test_metrics_take_scores_of_any_number_and_agree_on_ties(dtype):
    rng = np.random.default_rng(0)
    low = 0 if np.dtype(dtype).kind == "u" else -128
    scores = rng.integers(low, low + 3, (200, 4)).astype(dtype)             # ties, and the least
    labels = rng.integers(0, 4, 200)
    assert top_k_accuracy(scores, labels, k=1) == accuracy(scores, labels)
    assert top_k_accuracy(scores, labels, k=4) == 1.0
    ranks = np.argsort(-scores.astype(float), axis=1, kind="stable")
    for k in (2, 3):
        expected = np.mean([label in row[:k] for label, row in zip(labels, ranks, strict=True)])
        assert top_k_accuracy(scores, labels, k=k) == pytest.approx(expected)
    matrix = confusion_matrix(scores, labels)
    assert matrix.sum() == 200
    assert np.trace(matrix) / 200 == accuracy(scores, labels)
    assert (matrix.sum(1) == np.bincount(labels, minlength=4)).all()


def test_metrics_take_tensors_and_soft_and_one_hot_labels():
    scores = tc.Tensor(SCORES, requires_grad=True)
    soft = np.array([[0.6, 0.4, 0.0], [0.1, 0.8, 0.1], [0.5, 0.2, 0.3]])
    assert accuracy(scores, tc.Tensor(soft)) == pytest.approx(2 / 3)
    assert accuracy(scores, np.eye(3, dtype=np.uint8)) == 1.0
    assert accuracy(np.where(SCORES > 0, np.inf, -np.inf), [0, 1, 2]) == 1.0


# ---- summary

def test_a_summary_counts_parameters_and_work_by_hand():
    model = nn.Sequential(nn.Conv2D(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2D(2), nn.Flatten(),
                          nn.Linear(2 * 2 * 2, 3))
    before = model.state_dict()
    table = summarize(model, (4, 4, 1))
    rows = {row.kind: row for row in table.layers}
    assert rows["Conv2D"].shapes == ((4, 4, 2),)
    assert rows["Conv2D"].parameters == 3 * 3 * 1 * 2 + 2
    assert rows["Conv2D"].flops == 2 * 4 * 4 * 2 * 9
    assert rows["MaxPool2D"].shapes == ((2, 2, 2),)
    assert rows["Linear"].flops == 2 * 8 * 3
    assert table.parameters == 20 + 27
    assert model.training
    assert all((before[name] == value).all() for name, value in model.state_dict().items())
    assert "47 parameters" in str(table)


def test_the_summary_of_a_model_of_several_inputs_and_outputs():
    class Halves(nn.Module):
        def forward(self, a, b):
            return a, tc.concatenate([a, b])[:, 0]

    model = nn.Sequential({"net": Halves()})
    model.forward = lambda a, b: model.net(a, b)
    row, = summarize(model, (4, 4, 1), (4, 4, 1)).layers
    assert (row.name, row.shapes) == ("net", ((4, 4, 1), (4, 1)))
    assert "4×4×1, 4×1" in str(summarize(model, (4, 4, 1), (4, 4, 1)))
    assert summarize(nn.Linear(3, 2), (3,)).layers[0].shapes == ((2,),)


@pytest.mark.parametrize("show", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_bar_is_shown_at_a_terminal_and_if_asked_for(show, terminal, monkeypatch):
    shown = []
    bar = types.SimpleNamespace(tqdm=lambda batches, **settings: shown.append(settings) or batches)
    monkeypatch.setitem(sys.modules, "tqdm", bar)
    monkeypatch.setattr(sys, "stderr", types.SimpleNamespace(isatty=lambda: terminal))
    assert list(with_progress([1, 2], total=9, done=7, label="epoch 2/3", show=show,
                              line=NotebookLine())) == [1, 2]
    assert [(s["total"], s["initial"], s["desc"]) for s in shown] == \
        [(9, 7, "epoch 2/3")] * (show and terminal)
