"""A run that was saved goes on as if it had not stopped."""

import copy
import functools

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import data, nn, optim
from tinygrad_cnn.io import load_checkpoint, load_weights, save_checkpoint, save_weights
from tinygrad_cnn.io.weights import write_arrays


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
    path = save_checkpoint(tmp_path / "run.safetensors", **first.parts, epoch=2, note="half")
    assert load_checkpoint(path, **second.parts) == {"epoch": 2, "note": "half"}
    assert [second.epoch() for _ in range(2)] == expected[2:]


def test_plain_values_come_back_as_they_were(tmp_path):
    values = {"a": (1, [2.5, None, True]), "b": {"c": np.arange(3), "d": {}}, "e": float("inf"),
              "f": np.float64(0.1), "g": 1 << 100}
    found = load_checkpoint(save_checkpoint(tmp_path / "x.safetensors", **values))
    assert found["b"].pop("c").tolist() == values["b"].pop("c").tolist() == [0, 1, 2]
    assert found == values


def test_nothing_is_changed_if_a_part_does_not_fit(tmp_path):
    path = save_checkpoint(tmp_path / "run.safetensors", model=nn.Linear(2, 2),
                           optimizer=optim.SGD(nn.Linear(2, 2).parameters(), 0.1))
    model = nn.Linear(2, 2)
    before = model.weight.numpy().copy()
    with pytest.raises(tc.CheckpointError, match="the state is of SGD, not of Adam"):
        load_checkpoint(path, model=model, optimizer=optim.Adam(model.parameters()))
    assert (model.weight.numpy() == before).all()


def test_what_cannot_be_saved_or_loaded_is_named(tmp_path):
    path = tmp_path / "x.safetensors"
    for wrong, words in (({"f": print}, "f is a builtin_function"), ({"a": {1: 2}}, "the key 1"),
                         ({"n": 10 ** 4000}, "n is a int"),
                         ({"o": {"p": object()}}, "o/p is a object")):
        with pytest.raises(tc.CheckpointError, match=words):
            save_checkpoint(path, **wrong)
    save_checkpoint(path, longest=1 - 10 ** 4000)
    assert load_checkpoint(path)["longest"] == 1 - 10 ** 4000
    save_checkpoint(path, epoch=3)
    with pytest.raises(tc.CheckpointError, match="holds epoch, but not model"):
        load_checkpoint(path, model=nn.Linear(1, 1))
    with pytest.raises(tc.CheckpointError, match="epoch: a int cannot be loaded into"):
        load_checkpoint(path, epoch=0)
    save_weights(nn.Linear(1, 1), path)
    with pytest.raises(tc.CheckpointError, match=r"weights alone; use load_weights"):
        load_checkpoint(path)
    with pytest.raises(tc.CheckpointError, match="in front of the path"):
        save_weights(str(path), nn.Linear(1, 1))


@pytest.mark.parametrize("tree", [
    "[]", "1", '{"a":[1]}', '{"a":{"set":[]}}', '{"a":{"array":0}}', '{"a":{"array":-1}}',
    '{"a":{"array":true}}', '{"a":{"dict":[]}}', '{"a":{"list":{}}}', '{"a":{"list":"ab"}}',
    '{"a":{}}', '{"a":{"list":[],"dict":{}}}', '{"a":{"float":"1e5"}}', '{"a":{"float":[]}}',
    '{"a":1,"a":2}', '{"a":NaN}', '{"a":{"list":[{"list":[',
    '{"a":' + '{"list":[' * 400 + "]}" * 400 + "}"])
def test_values_of_no_kind_are_refused_even_if_they_are_sealed(tree, tmp_path):
    write_arrays(tmp_path / "x", {}, {"checkpoint": tree})
    with pytest.raises(tc.CheckpointError, match=r"x is a damaged checkpoint|refused"):
        load_checkpoint(tmp_path / "x")


GENERATORS = [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox,
              np.random.SFC64]


@pytest.mark.parametrize("kind", GENERATORS, ids=lambda kind: kind.__name__)
def test_every_generator_goes_on_and_takes_no_state_that_is_none(kind, tmp_path):
    def walk(state, path=()):
        for name, value in state.items():
            yield (*path, name), value
            if isinstance(value, dict):
                yield from walk(value, (*path, name))

    first, second = (np.random.Generator(kind(seed)) for seed in (0, 1))
    first.integers(0, 9, 3, dtype=np.uint32)            # leaves half of a draw over
    path = save_checkpoint(tmp_path / "x", rng=first)
    load_checkpoint(path, rng=second)
    assert (first.random(700) == second.random(700)).all()
    assert (first.integers(0, 9, 9, dtype=np.uint32)
            == second.integers(0, 9, 9, dtype=np.uint32)).all()
    own = second.bit_generator.state
    for place, value in walk(own):
        for wrong in (None, "x", -1, 10**9, 2.5, {}, [1], np.zeros(3, np.uint64)):
            if (isinstance(wrong, int) and isinstance(value, int) and wrong > 0
                    and place[-1] in ("state", "inc", "uinteger")):
                continue                                # any number will do
            state = copy.deepcopy(own)
            inner = functools.reduce(lambda part, name: part[name], place[:-1], state)
            inner[place[-1]] = wrong
            write = save_checkpoint(tmp_path / "y", rng=state, n=1)
            with pytest.raises(tc.CheckpointError, match="does not fit, nothing was changed"):
                load_checkpoint(write, rng=second)
            second.random()


def test_parts_may_be_lists_and_dictionaries_and_all_that_differs_is_listed(tmp_path):
    def parts(width=3, **more):
        return {"nets": [nn.Linear(2, width), nn.Linear(2, 2)],
                "rng": {"a": np.random.default_rng(0)} | more}
    saved, other = parts(), parts()
    path = save_checkpoint(tmp_path / "x", **saved, **{"a/b": np.ones(1), "a": {"b": np.zeros(2)}})
    rest = load_checkpoint(path, **other)
    assert (rest["a/b"].tolist(), rest["a"]["b"].tolist()) == ([1], [0, 0])
    for a, b in zip(saved["nets"], other["nets"], strict=True):
        assert (a.weight.data == b.weight.data).all()
    with pytest.raises(tc.CheckpointError) as caught:
        load_checkpoint(path, **parts(4, b=np.random.default_rng(1)))
    for words in ("nets: 0: Linear.load_state_dict", "weight is (2, 3)",
                  "rng: the file has ['a'], here is ['a', 'b']"):
        assert words in str(caught.value)


def test_a_model_is_saved_as_its_state(tmp_path):
    model = nn.Linear(2, 3)
    found = load_weights(save_weights(model, tmp_path / "w.safetensors"))
    assert found.keys() == model.state_dict().keys()
