"""A run that was saved goes on as if it had not stopped."""

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import data, nn, optim
from tinygrad_cnn.io import load_checkpoint, load_weights, save_checkpoint, save_weights


class Run:
    """A training run with state in every part: momenta, statistics, a schedule, two generators."""

    def __init__(self, seed):
        rng = np.random.default_rng(0)
        images = rng.normal(size=(24, 4, 4, 1)).astype(np.float32)
        self.rng = np.random.default_rng(seed)
        self.model = nn.Sequential(
            nn.Conv2D(1, 4, 3, padding=1, rng=self.rng), nn.BatchNorm2D(4), nn.Dropout(0.5),
            nn.Flatten(), nn.Linear(64, 3, rng=self.rng))
        self.model[2].rng = self.rng
        self.optimizer = optim.Adam(self.model.parameters(), lr=1e-2)
        self.schedule = optim.lr_scheduler.StepLR(self.optimizer, 2)
        self.loader = data.DataLoader(images, np.arange(24) % 3, batch_size=8, shuffle=True,
                                      seed=0)
        self.parts = {"model": self.model, "optimizer": self.optimizer, "rng": self.rng,
                      "schedule": self.schedule, "loader": self.loader}

    def epoch(self):
        losses = []
        for images, labels in self.loader:
            loss = tc.cross_entropy(self.model(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            losses.append(loss.item())
        return losses


def test_a_run_that_is_loaded_goes_on_to_the_last_bit(tmp_path):
    whole, first, second = Run(0), Run(0), Run(1)
    expected = [whole.epoch() for _ in range(4)]
    assert [first.epoch() for _ in range(2)] == expected[:2]
    path = save_checkpoint(tmp_path / "run.npz", **first.parts, epoch=2, note="half")
    assert load_checkpoint(path, **second.parts) == {"epoch": 2, "note": "half"}
    assert [second.epoch() for _ in range(2)] == expected[2:]


def test_plain_values_come_back_as_they_were(tmp_path):
    values = {"a": (1, [2.5, None, True]), "b": {"c": np.arange(3), "d": {}}, "e": float("inf"),
              "f": np.float64(0.1), "g": 1 << 100}
    found = load_checkpoint(save_checkpoint(tmp_path / "x.npz", **values))
    assert found["b"].pop("c").tolist() == values["b"].pop("c").tolist() == [0, 1, 2]
    assert found == values


def test_nothing_is_changed_if_a_part_does_not_fit(tmp_path):
    path = save_checkpoint(tmp_path / "run.npz", model=nn.Linear(2, 2),
                           optimizer=optim.SGD(nn.Linear(2, 2).parameters(), 0.1))
    model = nn.Linear(2, 2)
    before = model.weight.numpy().copy()
    with pytest.raises(tc.CheckpointError, match="the state is of SGD, not of Adam"):
        load_checkpoint(path, model=model, optimizer=optim.Adam(model.parameters()))
    assert (model.weight.numpy() == before).all()


def test_what_cannot_be_saved_or_loaded_is_named(tmp_path):
    path = tmp_path / "x.npz"
    for wrong, words in (({"f": print}, "f is a builtin_function"), ({"a": {1: 2}}, "the key 1"),
                         ({"o": {"p": object()}}, "o/p is a object")):
        with pytest.raises(tc.CheckpointError, match=words):
            save_checkpoint(path, **wrong)
    save_checkpoint(path, epoch=3)
    with pytest.raises(tc.CheckpointError, match="holds epoch, but not model"):
        load_checkpoint(path, model=nn.Linear(1, 1))
    with pytest.raises(tc.CheckpointError, match="epoch is a int, which cannot be loaded into"):
        load_checkpoint(path, epoch=0)
    save_weights(nn.Linear(1, 1), path)
    with pytest.raises(tc.CheckpointError, match=r"weights alone; use load_weights"):
        load_checkpoint(path)
    save_weights({"checkpoint.json": np.frombuffer(b'{"a": {"set": []}}', np.uint8)}, path)
    with pytest.raises(tc.CheckpointError, match="damaged checkpoint"):
        load_checkpoint(path)
    with pytest.raises(tc.CheckpointError, match="in front of the path"):
        save_weights(str(path), nn.Linear(1, 1))


def test_a_model_is_saved_as_its_state(tmp_path):
    model = nn.Linear(2, 3)
    found = load_weights(save_weights(model, tmp_path / "w.npz"))
    assert found.keys() == model.state_dict().keys()
