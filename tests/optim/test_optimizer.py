"""What all optimizers share: groups, refusals, frozen parameters, saving and taking up again."""

from __future__ import annotations

import contextlib
import json
import math

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn, optim

ALL = {"SGD": lambda p: optim.SGD(p, 0.1, momentum=0.9), "Adam": optim.Adam, "AdamW": optim.AdamW,
       "amsgrad": lambda p: optim.Adam(p, amsgrad=True), "NAdam": optim.NAdam, "RAdam": optim.RAdam,
       "RMSprop": lambda p: optim.RMSprop(p, momentum=0.5, centered=True), "Adagrad": optim.Adagrad,
       "Adadelta": optim.Adadelta, "Lion": optim.Lion}


def weights(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [tc.Parameter(rng.normal(size=shape)) for shape in shapes]


def step(optimizer, seed):
    rng = np.random.default_rng(seed)
    for p in optimizer.parameters:
        p.grad = tc.Tensor(rng.normal(size=p.shape))
    optimizer.step()


# ---- groups

def test_groups_have_settings_of_their_own_and_share_the_rest():
    a, b = weights((2,), (3,))
    optimizer = optim.SGD([{"params": [a], "lr": 1.0}, {"params": [b], "momentum": 0.5}],
                          0.1)
    assert [(g["lr"], g["momentum"]) for g in optimizer.param_groups] == [(1.0, 0.0), (0.1, 0.5)]
    assert optimizer.lr == 1.0
    assert optimizer.parameters == [a, b]
    before = a.data.copy(), b.data.copy()
    a.grad, b.grad = tc.Tensor(np.ones(2)), tc.Tensor(np.ones(3))
    optimizer.step()
    np.testing.assert_allclose(before[0] - a.data, 1.0)
    np.testing.assert_allclose(before[1] - b.data, 0.1)


def test_a_group_can_be_added_later():
    a, b = weights((2,), (3,))
    optimizer = optim.SGD([a], 0.1)
    optimizer.add_param_group({"params": [b], "lr": 0.5})
    assert len(optimizer.param_groups) == 2
    optimizer.param_groups[1]["nesterov"] = True
    assert repr(optimizer) == "SGD(\n  1 parameter: lr=0.1\n  1 parameter: lr=0.5, nesterov=True\n)"


def test_settings_may_be_changed_between_steps():
    w, = weights((1,))
    optimizer = optim.SGD([w], 0.1)
    optimizer.param_groups[0]["lr"] = 2.0
    before = w.data.copy()
    w.grad = tc.Tensor(np.ones(1))
    optimizer.step()
    np.testing.assert_allclose(before - w.data, 2.0)


def test_a_setting_is_an_attribute_that_reaches_every_group():
    a, b = weights((2,), (3,))
    optimizer = optim.SGD([{"params": [a], "lr": 1.0}, {"params": [b]}], 0.1, 0.9)
    assert (optimizer.lr, optimizer.momentum) == (1.0, 0.9)
    optimizer.lr = 0.5
    optimizer.nesterov = True
    assert [(g["lr"], g["nesterov"]) for g in optimizer.param_groups] == [(0.5, True)] * 2
    for name, wrong in (("lr", -1.0), ("lr", "fast"), ("momentum", 0.0), ("nesterov", 1)):
        with pytest.raises(tc.SettingError, match=rf"SGD: .*{name}"):
            setattr(optimizer, name, wrong)
    assert [(g["lr"], g["momentum"]) for g in optimizer.param_groups] == [(0.5, 0.9)] * 2


def test_zero_grad_takes_gradients_away_or_sets_them_to_zero():
    for zeroed in (optim.SGD(w := weights((2,), (3,))), nn.ParameterList(w)):
        w[0].grad = tc.Tensor(np.ones(2))
        zeroed.zero_grad(set_to_none=False)
        assert w[0].grad.data.tolist() == [0, 0]
        assert w[1].grad is None
        zeroed.zero_grad()
        assert w[0].grad is None


def test_maximize_goes_up_by_what_it_would_go_down():
    for make in ALL.values():
        down, up = (make(weights((3,))) for _ in range(2))
        up.maximize = True
        for optimizer, sign in ((down, 1), (up, -1)):
            optimizer.parameters[0].grad = tc.Tensor(sign * np.array([1.0, -2.0, 3.0]))
            optimizer.step()
        assert np.array_equal(down.parameters[0].data, up.parameters[0].data)


def test_a_generator_of_parameters_is_read_once_and_kept():
    model = nn.Linear(2, 3)
    optimizer = optim.SGD(model.parameters(), 0.1)
    assert optimizer.parameters == [model.weight, model.bias]
    optimizer.parameters[0].grad = tc.Tensor(np.ones((2, 3), np.float32))
    optimizer.zero_grad()
    assert model.weight.grad is None


# ---- refusals

W = tc.Parameter([1.0], name="w")


@pytest.mark.parametrize("make, error, message", [
    (lambda: optim.SGD([], 0.1), tc.SettingError, "no parameters were given; a generator"),
    (lambda: optim.SGD(W, 0.1), tc.SettingError, r"write SGD\(\[tensor\]"),
    (lambda: optim.Adam(nn.Linear(1, 1)), tc.SettingError, r"write Adam\(model.parameters\(\)"),
    (lambda: optim.SGD([np.ones(2)], 0.1), tc.DTypeError, "parameter 0 must be a Tensor"),
    (lambda: optim.SGD([W, W], 0.1), tc.SettingError, r"parameter 1 \(w\) .* given twice"),
    (lambda: optim.SGD([{"params": [W]}, {"params": [W]}], 0.1), tc.SettingError,
     r"parameter 0 \(w\) .* given twice"),
    (lambda: optim.SGD([W * 2.0], 0.1), tc.GradientError, "parameter 0 is the result of a comp"),
    (lambda: optim.SGD([tc.Tensor([1.0])], 0.1), tc.GradientError, "does not require a gradient"),
    (lambda: optim.SGD([tc.Tensor(np.array([1]))], 0.1), tc.DTypeError, "int64, which is not"),
    (lambda: optim.SGD([{"parameters": [W]}], 0.1), tc.SettingError, 'the key is "params"'),
    (lambda: optim.SGD([{"params": [W], "beta": 1}], 0.1), tc.SettingError,
     r"unknown settings \['beta'\]; choose from lr, momentum"),
    (lambda: optim.SGD([{"params": []}], 0.1), tc.SettingError, "no parameters were given"),
    (lambda: optim.SGD([W], -0.1), tc.SettingError, "lr must be a finite number of at least 0"),
    (lambda: optim.SGD([W], math.nan), tc.SettingError, "SGD: lr .*got nan"),
    (lambda: optim.SGD([W], "0.1"), tc.SettingError, "got '0.1'"),
    (lambda: optim.SGD([{"params": [W], "lr": math.inf}], 0.1), tc.SettingError, "got inf"),
    (lambda: optim.SGD([W], 0.1, nesterov=True), tc.SettingError, "nesterov needs a momentum"),
    (lambda: optim.SGD([W], 0.1, weight_decay=-1), tc.SettingError, "weight_decay"),
    (lambda: optim.Adam([W], betas=(0.9, 1.0)), tc.SettingError, "Adam: betas must be a number"),
    (lambda: optim.AdamW([W], betas=(math.nan, 0.9)), tc.SettingError, "AdamW: betas .* got nan"),
    (lambda: optim.Adam([W], betas=0.9), tc.SettingError, "betas must be two numbers, got 0.9"),
    (lambda: optim.Adam([W], eps=-1), tc.SettingError, "eps"),
    (lambda: optim.RMSprop([W], alpha=1.0), tc.SettingError, "alpha must be a number from 0 up to"),
    (lambda: optim.Adagrad([W], lr_decay=-1), tc.SettingError, "lr_decay"),
])
def test_what_cannot_be_trained_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_waiting_layer_is_refused_with_the_cure():
    with pytest.raises(tc.SettingError, match="call the model once"):
        optim.SGD(nn.Sequential(nn.Linear(None, 2)).parameters(), 0.1)


@pytest.mark.parametrize("gradient, message", [
    (np.ones(3), r"the tensor is float64 \(2,\) but its gradient float64 \(3,\)"),
    (np.ones(2, np.float32), r"but its gradient float32 \(2,\)")])
def test_a_gradient_that_does_not_fit_is_refused(gradient, message):
    w = tc.Parameter(np.ones(2), name="w")
    with pytest.raises(tc.GradientError, match=message):
        w.grad = tc.Tensor(gradient)


def test_a_parameter_that_changes_its_dtype_after_the_first_step_is_refused():
    layer = nn.Linear(2, 1)
    optimizer = optim.Adam(layer.parameters())
    for dtype in (np.float32, np.float64):
        layer.astype(dtype)
        for p in layer.parameters():
            p.grad = tc.Tensor(np.ones(p.shape, dtype))
        if dtype == np.float32:
            optimizer.step()
    with pytest.raises(tc.GradientError, match=r"parameter 0 \(weight\) is float64 \(2, 1\), but "
                                               r"was float32 .* make a new optimizer"):
        optimizer.step()


# ---- what is left alone

def test_parameters_without_gradient_and_frozen_ones_are_left_alone():
    a, b, c = weights((2,), (2,), (2,))
    optimizer = optim.SGD([a, b, c], 0.1, momentum=0.9, weight_decay=0.1)
    step(optimizer, 0)
    before = [w.data.copy() for w in (a, b, c)]
    b.grad = None
    c.requires_grad_(False)
    optimizer.step()
    assert not np.array_equal(a.data, before[0])
    assert np.array_equal(b.data, before[1])
    assert np.array_equal(c.data, before[2])


def test_a_frozen_parameter_is_taken():
    model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1))
    optimizer = optim.SGD(model.parameters(), 0.1)
    before = model[0].weight.data.copy()
    model(np.ones((1, 2), np.float32)).sum().backward()
    optimizer.step()
    assert np.array_equal(model[0].weight.data, before)


# ---- saving

@pytest.mark.parametrize("name", ALL)
def test_a_run_that_was_saved_goes_on_as_if_it_had_not_stopped(name):
    straight, stopped = (ALL[name](weights((3, 2), (4,))) for _ in range(2))
    for i in range(3):
        step(straight, i)
        step(stopped, i)
    saved = stopped.state_dict()
    values = [p.data.copy() for p in stopped.parameters]
    step(stopped, 99)                                   # must not reach into what was saved
    resumed = ALL[name]([tc.Parameter(v) for v in values])
    resumed.load_state_dict(saved)
    for array in _arrays(saved):
        array[...] = np.nan                             # nor may the saved reach into the resumed
    for i in range(3, 6):
        step(straight, i)
        step(resumed, i)
    for p, q in zip(straight.parameters, resumed.parameters, strict=True):
        assert np.array_equal(p.data, q.data)


def _arrays(state):
    return [v for entry in state["state"].values() for v in entry.values()
            if isinstance(v, np.ndarray)]


def test_the_state_is_plain_numbers_and_arrays():
    optimizer = optim.Adam(weights((2,), (3,)), 0.01)
    optimizer.parameters[1].grad = tc.Tensor(np.ones(3))
    optimizer.step()
    state = optimizer.state_dict()
    assert state["algorithm"] == "Adam"
    assert state["param_groups"] == {"0": {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8,
                                           "weight_decay": 0.0, "amsgrad": False,
                                           "maximize": False, "params": 2}}
    assert list(state["state"]) == ["1"]
    assert state["state"]["1"]["step"] == 1
    assert state["state"]["1"]["square"].shape == (3,)


def test_the_state_survives_json():
    first, second = (optim.Adam(weights((2,))) for _ in range(2))
    step(first, 0)
    text = json.dumps(first.state_dict(), default=np.ndarray.tolist)
    loaded = json.loads(text)
    for entry in loaded["state"].values():
        entry.update({k: np.array(v) for k, v in entry.items() if k != "step"})
    second.load_state_dict(loaded)
    assert second.param_groups[0]["betas"] == (0.9, 0.999)
    assert np.array_equal(second.state_dict()["state"]["0"]["square"],
                          first.state_dict()["state"]["0"]["square"])


def _damaged(change):
    optimizer = optim.Adam(weights((2,), (3,)))
    step(optimizer, 0)
    state = optimizer.state_dict()
    change(state)
    return state


@pytest.mark.parametrize("change, message", [
    (lambda s: s.update(algorithm="SGD"), "the state is of SGD, not of Adam"),
    (lambda s: s["param_groups"]["0"].update(params=3),
     r"groups of \[3\] parameters, the optimizer of \[2\]"),
    (lambda s: s["param_groups"].update({"1": s["param_groups"]["0"]}), r"groups of \[2, 2\]"),
    (lambda s: s["param_groups"]["0"].pop("eps"), "group 0 has the settings"),
    (lambda s: s["param_groups"]["0"].update(lr=math.nan), "lr must be a finite number"),
    (lambda s: s["state"].update({"2": s["state"]["0"]}), "names parameter '2' of 2"),
    (lambda s: s["state"].update({"x": s["state"]["0"]}), "names parameter 'x' of 2"),
    (lambda s: s["state"]["0"].update(mean=np.ones(5)), r"mean of parameter 0 is float64 \(5,\)"),
    (lambda s: s["state"]["0"].update(mean=np.ones(2, np.float32)), "mean of parameter 0 is float"),
    (lambda s: s["state"]["0"].pop("square"), "the state of parameter 0 lacks square"),
    (lambda s: s["state"]["0"].update(step=-1), "integer of at least 0, got -1"),
    (lambda s: s["state"]["0"].pop("step"), "damaged"),
    (lambda s: s.pop("param_groups"), "damaged"),
    (lambda s: s.update(state=3), "damaged"),
])
def test_a_damaged_state_is_refused_and_changes_nothing(change, message):
    optimizer = optim.Adam(weights((2,), (3,), seed=5), 0.5)
    step(optimizer, 7)
    before = optimizer.state_dict()
    with pytest.raises(tc.CheckpointError, match=message):
        optimizer.load_state_dict(_damaged(change))
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for a, b in zip(_arrays(before), _arrays(after), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("make", [r for r in vars(optim).values()
                                  if isinstance(r, type) and issubclass(r, optim.Optimizer)
                                  and r is not optim.Optimizer])
def test_a_setting_written_into_a_group_is_checked_before_a_step(make):
    for name in set(make.declared) - {"params"}:
        for wrong in (math.nan, -1.0, "a", [0.1], None, tc.Tensor(0.1)):
            w = tc.Parameter([1.0])
            optimizer = make([w], 0.1)
            optimizer.param_groups[0][name] = wrong
            w.grad = tc.Tensor([1.0])
            with pytest.raises(tc.SettingError, match=name):
                optimizer.step()
            assert w.data.tolist() == [1.0]


# ---- averages of weights

def averaged(decay=0.75):
    w, = weights((2,))
    ema = optim.EMA([w], decay)
    for value in (4.0, 8.0):
        w.data[...] = value
        ema.update()
    return w, ema


def test_an_average_starts_at_the_first_update_and_is_lent_to_a_block():
    w, ema = averaged()
    with contextlib.suppress(KeyError), ema.applied():
        assert w.data.tolist() == [5.0, 5.0]            # 0.75 · 4 + 0.25 · 8
        raise KeyError
    assert w.data.tolist() == [8.0, 8.0]
    assert repr(ema) == "EMA(1 parameters, decay=0.75): 2 updates"


def test_averages_are_saved_and_loaded_or_refused():
    (w, ema), (_, other) = averaged(), averaged(0.5)
    saved = ema.state_dict()
    ema.averages[0][...] = 0
    other.load_state_dict(saved)
    saved["averages"]["0"][...] = 0
    with other.applied():
        assert other.params[0].data.tolist() == [5.0, 5.0]
    for wrong, words in (({}, "damaged"), ({"steps": 1, "averages": {"0": np.ones(3)}}, r"\(3,\)")):
        with pytest.raises(tc.CheckpointError, match=words):
            other.load_state_dict(wrong)
    with pytest.raises(tc.SettingError, match="decay must be a number from 0 to 1"):
        optim.EMA([w], 1.5)
