"""State dicts: complete, copied, and loaded as a whole or not at all."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn


def model(seed=0):
    rng = np.random.default_rng(seed)
    return nn.Sequential(nn.Conv2D(1, 2, 3, rng=rng), nn.BatchNorm2D(2), nn.Flatten(),
                         nn.Linear(8, 3, rng=rng))


KEYS = ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var",
        "1.num_batches_tracked", "3.weight", "3.bias"]


def test_names_are_those_of_pytorch():
    assert list(model().state_dict()) == KEYS


def test_the_state_is_a_copy():
    m = model()
    state = m.state_dict()
    for array in state.values():
        array[...] = 9
    assert not any((array == 9).any() for array in m.state_dict().values())


def test_loading_restores_values_and_copies_them():
    a, b = model(0), model(1)
    a(np.ones((2, 4, 4, 1), np.float32))
    state = a.state_dict()
    assert b.load_state_dict(state) == ((), ())
    assert all(np.array_equal(array, state[name]) for name, array in b.state_dict().items())
    state["0.bias"][...] = 5
    assert not (b[0].bias.data == 5).any()


def test_loading_writes_into_the_arrays_that_are_there():
    m = model()
    before = m[0].weight.data
    m.load_state_dict(model(1).state_dict())
    assert m[0].weight.data is before


def test_every_difference_is_listed_and_nothing_is_written():
    m = model()
    before = m.state_dict()
    state = model(1).state_dict()
    del state["0.bias"], state["1.running_var"]
    state["extra"] = np.ones((2, 2))
    state["3.weight"] = state["3.weight"].T
    state["3.bias"] = state["3.bias"].astype(np.float64)
    with pytest.raises(tc.CheckpointError) as caught:
        m.load_state_dict(state)
    assert str(caught.value).splitlines() == [
        "Sequential.load_state_dict: the arrays do not fit the model, nothing was written",
        "  missing: 0.bias (2,)",
        "  missing: 1.running_var (2,)",
        "  unexpected: extra (2, 2)",
        "  of another shape: 3.weight is (3, 8), the model needs (8, 3)",
        "  of another dtype: 3.bias is float64, the model has float32; cast the array, or the "
        "model with model.astype(...)"]
    assert all(np.array_equal(array, before[name]) for name, array in m.state_dict().items())


def test_not_strict_takes_what_there_is_and_reports_the_rest():
    m, state = model(0), model(1).state_dict()
    before = m.state_dict()
    report = m.load_state_dict({"0.weight": state["0.weight"], "other": np.ones(1)}, strict=False)
    assert report.missing == tuple(KEYS[1:])
    assert report.unexpected == ("other",)
    assert np.array_equal(m[0].weight.data, state["0.weight"])
    assert np.array_equal(m[3].weight.data, before["3.weight"])
    with pytest.raises(tc.CheckpointError, match=r"3.weight is \(1,\), the model needs \(8, 3\)"):
        m.load_state_dict({"3.weight": np.ones(1, np.float32)}, strict=False)


@pytest.mark.parametrize("dtype, fits", [
    (np.float16, True), (np.float32, True), (np.float64, False), (np.int8, False), (bool, False)])
def test_a_dtype_fits_if_no_digit_is_lost(dtype, fits):
    layer = nn.Linear(2, 1, bias=False)
    state = {"weight": np.ones((2, 1), dtype)}
    if fits:
        layer.load_state_dict(state)
        assert layer.weight.dtype == np.float32
        assert (layer.weight.data == 1).all()
    else:
        with pytest.raises(tc.CheckpointError, match="of another dtype: weight"):
            layer.load_state_dict(state)


def test_tensors_are_taken_as_arrays():
    layer = nn.Linear(2, 1, bias=False)
    layer.load_state_dict({"weight": tc.Parameter([[1.0], [2.0]])})
    assert layer.weight.data.ravel().tolist() == [1.0, 2.0]


def test_paths_of_one_shared_parameter_must_agree():
    m = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    m[1].weight = m[0].weight
    state = m.state_dict()
    m.load_state_dict(state)
    state["1.weight"] = state["1.weight"] + 1
    with pytest.raises(tc.CheckpointError, match=r"0\.weight and 1\.weight are one shared"):
        m.load_state_dict(state)


def test_what_is_no_mapping_is_refused():
    with pytest.raises(tc.CheckpointError, match="must be a mapping of paths to arrays, got list"):
        model().load_state_dict([1])


def test_what_is_no_array_is_refused():
    with pytest.raises(tc.CheckpointError, match="weight is no array"):
        nn.Linear(2, 1).load_state_dict({"weight": [[1.0], [1.0, 2.0]]})
    with pytest.raises(tc.CheckpointError, match="of another dtype: weight is object"):
        nn.Linear(1, 1, bias=False).load_state_dict({"weight": np.array([[None]])})


def waiting():
    return nn.Sequential(nn.Conv2D(None, 4, 3, groups=2), nn.BatchNorm2D(affine=False),
                         nn.ConvTranspose2D(None, 2, 2, bias=False), nn.LayerNorm(), nn.Flatten(),
                         nn.Linear(None, 3))


def test_waiting_layers_take_their_sizes_from_the_state():
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 6)).astype(np.float32)
    called, loaded = waiting(), waiting()
    called(x)
    loaded.load_state_dict(called.state_dict())
    assert loaded[0].in_channels == 6
    assert repr(loaded) == repr(called)
    assert np.array_equal(loaded.eval()(x).data, called.eval()(x).data)


def test_waiting_layers_stay_as_they_are_when_the_state_does_not_fit():
    called, loaded = waiting(), waiting()
    called(np.ones((2, 5, 5, 6), np.float32))
    state = called.state_dict()
    state["5.bias"] = np.zeros(4, np.float32)
    with pytest.raises(tc.CheckpointError, match=r"5.bias is \(4,\), the model needs \(3,\)"):
        loaded.load_state_dict(state)
    assert loaded[0].in_channels is None
    assert repr(loaded[5]) == "Linear(None, 3)"


@pytest.mark.parametrize("strict", [True, False])
def test_a_waiting_layer_without_its_weight_cannot_be_loaded(strict):
    with pytest.raises(tc.CheckpointError, match=r"missing: 0\.weight of a size that"):
        nn.Sequential(nn.Linear(None, 3)).load_state_dict({}, strict=strict)
    with pytest.raises(tc.CheckpointError, match=r"0.weight is \(4, 7\)"):
        nn.Sequential(nn.Linear(None, 3)).load_state_dict(
            {"0.weight": np.ones((4, 7), np.float32)}, strict=strict)
