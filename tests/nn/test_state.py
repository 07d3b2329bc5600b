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
    state["3.weight"] = state["3.weight"][:, :2]
    state["3.bias"] = state["3.bias"].astype(np.float64)
    with pytest.raises(tc.CheckpointError) as caught:
        m.load_state_dict(state)
    assert str(caught.value).splitlines() == [
        "Sequential.load_state_dict: the arrays do not fit the model, nothing was written",
        "  missing: 0.bias (2,)",
        "  missing: 1.running_var (2,)",
        "  unexpected: extra (2, 2)",
        "  of another shape: 3.weight is (8, 2), the model needs (8, 3)",
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


# ---- states of PyTorch

def in_pytorch_s_layout(state):
    """Linear weights as O I, filters as O C KH KW."""
    turn = {2: (1, 0), 4: (3, 2, 0, 1)}
    return {name: array.transpose(turn[array.ndim]) if array.ndim in turn else array
            for name, array in state.items()}


@pytest.mark.parametrize("make", [
    model, lambda: nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)),
    lambda: nn.Sequential(nn.Conv2D(2, 4, (3, 2), groups=2))])
@pytest.mark.parametrize("strict", [True, False])
def test_pytorch_s_layouts_are_told_by_a_weight_that_fits_turned_round(make, strict):
    m = make()
    before, state = m.state_dict(), in_pytorch_s_layout(make().state_dict())
    with pytest.raises(tc.CheckpointError) as caught:
        m.load_state_dict(state, strict=strict)
    message = str(caught.value)
    turned = [n for n in state if n.endswith("weight") and state[n].shape != before[n].shape]
    assert turned
    assert all(f"{n} {state[n].shape} as {before[n].shape}" in message for n in turned)
    assert "PyTorch's layouts" in message
    assert "square ones too: w.T for Linear, w.transpose(2, 3, 1, 0) for Conv2D" in message
    assert all(np.array_equal(array, before[name]) for name, array in m.state_dict().items())


def test_a_transposed_convolution_has_a_layout_of_its_own():
    m = nn.ConvTranspose2D(2, 3, 4)
    theirs = m.weight.data.transpose(2, 3, 0, 1)                # C O KH KW
    with pytest.raises(tc.CheckpointError, match=r"weight \(2, 3, 4, 4\) as \(4, 4, 2, 3\)"):
        m.load_state_dict({"weight": theirs, "bias": m.bias.data})


def test_a_layer_that_waits_tells_pytorch_s_layout_too():
    for m, theirs in ((nn.Linear(None, 3), (3, 8)), (nn.Conv2D(None, 4, 3), (4, 2, 3, 3))):
        with pytest.raises(tc.CheckpointError, match=r"PyTorch's layouts"):
            m.load_state_dict({"weight": np.zeros(theirs, np.float32)}, strict=False)
        assert vars(m)[m.lazy_setting] is None


def test_a_shape_that_fits_neither_way_is_not_called_pytorch_s():
    with pytest.raises(tc.CheckpointError) as caught:
        nn.Linear(8, 3).load_state_dict({"weight": np.zeros((3, 7), np.float32)}, strict=False)
    assert "PyTorch" not in str(caught.value)


def test_tensors_of_pytorch_are_refused_with_the_conversion():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 3)).state_dict()
    m = nn.Sequential(nn.Linear(3, 3))
    before = m.state_dict()
    with pytest.raises(tc.CheckpointError, match=r"0.weight is a tensor of PyTorch, whose weights "
                                                 r"have another layout; .* w.T for Linear"):
        m.load_state_dict(theirs)
    assert all(np.array_equal(array, before[name]) for name, array in m.state_dict().items())


def test_a_network_of_pytorch_gives_the_same_scores_after_the_conversion():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.BatchNorm2d(3), torch.nn.ReLU(),
        torch.nn.ConvTranspose2d(3, 3, 3), torch.nn.Flatten(), torch.nn.Linear(3 * 36, 4),
        torch.nn.Linear(4, 4)).eval()
    ours = nn.Sequential(
        nn.Conv2D(3, 3, 3, padding=1), nn.BatchNorm2D(3), nn.ReLU(), nn.ConvTranspose2D(3, 3, 3),
        nn.Flatten(), nn.Linear(3 * 36, 4), nn.Linear(4, 4)).eval()
    state = {name: t.detach().numpy() for name, t in theirs.state_dict().items()}
    state["0.weight"] = state["0.weight"].transpose(2, 3, 1, 0)
    state["3.weight"] = state["3.weight"].transpose(2, 3, 0, 1)
    rows = state["5.weight"].T.reshape(3, 6, 6, 4)              # C H W O: what Flatten met there
    state["5.weight"] = rows.transpose(1, 2, 0, 3).reshape(-1, 4)
    state["6.weight"] = state["6.weight"].T
    ours.load_state_dict(state)
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).detach().numpy()
    np.testing.assert_allclose(ours(x).data, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("entries, message", [
    (lambda s: {f"module.{k}": v for k, v in s.items()},
     "the prefix 'module.' is all that differs; take it off each path"),
    (lambda s: {"state_dict": s, "epoch": 3},
     r"state_dict is a dict, not an array; a file of several parts\?  .* entries\['state_dict'\]"),
])
def test_states_as_training_programs_save_them_are_refused_with_the_cure(entries, message):
    m = model()
    with pytest.raises(tc.CheckpointError, match=message):
        m.load_state_dict(entries(m.state_dict()))


def test_a_state_without_the_prefix_of_the_model_is_refused_with_the_cure():
    with pytest.raises(tc.CheckpointError, match=r"prefix 'net\.' is all that differs; put it in "
                                                 "front of each path"):
        nn.Sequential({"net": model()}).load_state_dict(model().state_dict())
