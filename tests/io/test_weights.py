"""Files of weights: written whole or not at all, read without trusting them."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from tinygrad_cnn import CheckpointError, nn
from tinygrad_cnn.io import load_weights, save_weights, write_atomically


def state():
    rng = np.random.default_rng(0)
    return {"conv.weight": rng.normal(size=(3, 3, 1, 2)).astype(np.float32),
            "count": np.array(7), "mask": np.array([True, False]),
            "fortran": np.asfortranarray(rng.normal(size=(2, 3)))}


def test_arrays_come_back_bit_for_bit(tmp_path):
    found = load_weights(save_weights(state(), tmp_path / "w.npz"))
    assert list(found) == list(state())
    for name, value in state().items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)
        assert found[name].flags.writeable


def test_a_model_comes_back(tmp_path):
    model = nn.Sequential(nn.Conv2D(1, 2), nn.BatchNorm2D(2))
    other = nn.Sequential(nn.Conv2D(1, 2), nn.BatchNorm2D(2))
    other.load_state_dict(load_weights(save_weights(model.state_dict(), tmp_path / "m.npz")))
    assert all((other.state_dict()[k] == v).all() for k, v in model.state_dict().items())


def test_numpy_reads_our_files_and_we_read_its(tmp_path):
    path = save_weights(state(), tmp_path / "ours.npz")
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["conv.weight"], state()["conv.weight"])
    np.savez_compressed(tmp_path / "theirs.npz", **state())
    np.testing.assert_array_equal(load_weights(tmp_path / "theirs.npz")["fortran"],
                                  state()["fortran"])


def test_objects_are_not_saved(tmp_path):
    with pytest.raises(CheckpointError, match="w has dtype object"):
        save_weights({"w": np.array([None])}, tmp_path / "w.npz")
    assert list(tmp_path.iterdir()) == []


def test_objects_are_not_loaded(tmp_path):
    path = tmp_path / "hostile.npz"
    np.savez(path, w=np.array([print], dtype=object))
    with pytest.raises(CheckpointError, match="not numbers"):
        load_weights(path)


def test_every_truncation_is_refused(tmp_path):
    whole = save_weights({"w": np.arange(4.0)}, tmp_path / "w.npz").read_bytes()
    path = tmp_path / "cut.npz"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_weights(path)


def test_every_flipped_bit_of_the_values_is_noticed(tmp_path):
    values = np.arange(4.0)
    whole = bytearray(save_weights({"w": values}, tmp_path / "w.npz").read_bytes())
    start = bytes(whole).index(values.tobytes())
    path = tmp_path / "flipped.npz"
    for bit in range(8 * values.nbytes):
        damaged = whole.copy()
        damaged[start + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="not a file of weights"):
            load_weights(path)


def test_a_claim_of_more_than_the_file_holds_asks_for_no_memory(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**11,)})
    path = tmp_path / "huge.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", header.getvalue() + bytes(8))
    with pytest.raises(CheckpointError, match="claims 800000000000 bytes"):
        load_weights(path)


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04", b"\x80\x04."])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"other\.npz"):
        load_weights(path)


def test_a_missing_file_and_a_missing_folder_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_weights(tmp_path / "none.npz")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_weights(state(), tmp_path / "no" / "w.npz")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "w.npz"
    path.write_bytes(b"old")
    def fail_halfway():
        with write_atomically(path) as file:
            file.write(b"half of the ne")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
