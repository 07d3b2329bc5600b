"""Files of weights: written whole or not at all, read without trusting them."""

from __future__ import annotations

import contextlib
import io
import zipfile

import numpy as np
import pytest

from tinygrad_cnn import CheckpointError, nn
from tinygrad_cnn.io import load_weights, save_weights


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
    for value in (np.array([print], dtype=object), np.ones(1, complex), np.array(["text"])):
        np.savez(path, w=value)
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


def loaded(path, content):
    """What a file of these bytes holds, or None if it is refused."""
    path.write_bytes(content)
    try:
        return load_weights(path)
    except CheckpointError:
        return None


@pytest.mark.parametrize("save", [save_weights,
                                  lambda state, path: np.savez_compressed(path, **state)],
                         ids=["ours", "savez_compressed"])
def test_no_flipped_bit_changes_or_loses_an_array(save, tmp_path):
    state = {"a": np.array([True]), "b": np.array(7)}
    save(state, tmp_path / "w.npz")
    whole = (tmp_path / "w.npz").read_bytes()
    assert loaded(tmp_path / "w.npz", whole).keys() == state.keys()
    refused, contents = 0, set()
    with zipfile.ZipFile(tmp_path / "w.npz") as archive:
        for entry in archive.infolist():                # below: a bit in each byte of the arrays
            start = entry.header_offset + 55
            contents |= set(range(start, start + entry.compress_size))
    bits = [8 * i + k for i in range(len(whole)) for k in ([i % 8] if i in contents else range(8))]
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        found = loaded(tmp_path / "w.npz", damaged)
        if found is None:
            refused += 1
            continue
        assert list(found) == list(state)               # a date or the like has changed
        for name, value in state.items():
            assert found[name].dtype == value.dtype
            assert np.array_equal(found[name], value)
    assert refused > 0.4 * len(bits)


def test_bytes_before_between_and_after_are_refused(tmp_path):
    whole = save_weights({"a": np.arange(3.0), "b": np.ones(2)}, tmp_path / "w.npz").read_bytes()
    second = whole.index(b"PK\x03\x04", 4)
    for extra in (b"\0", b"PK\x03\x04", bytes(24), whole):
        for place in (0, second, len(whole)):
            assert loaded(tmp_path / "w.npz", whole[:place] + extra + whole[place:]) is None


def test_an_array_twice_and_lying_headers_are_refused(tmp_path):
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for value in (1.0, 2.0):
            with pytest.warns(UserWarning, match="Duplicate") if value == 2 else (
                    contextlib.nullcontext()), archive.open("w.npy", "w") as entry:
                np.lib.format.write_array(entry, np.array([value]))
    with pytest.raises(CheckpointError, match="lists 2 arrays, of which 1 are there"):
        load_weights(path)
    for header in ("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 2)}",
                   "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -2)}",
                   "{'descr': '<f4', 'fortran_order': False, 'shape': (2.0,)}",
                   "{'descr': '<f4', 'shape': (", "(" * 500, "{'descr': '|O'}"):
        text = f"{header:<117}\n".encode()
        magic = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w.npy", magic + text + bytes(8))
        with pytest.raises(CheckpointError):
            load_weights(path)


def test_a_small_file_cannot_ask_for_much_memory(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in "ab":
            with archive.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, np.zeros(3 << 18))
    assert path.stat().st_size < 50_000
    with pytest.raises(CheckpointError, match="claim to hold 12,583,168, more than 100 times"):
        load_weights(path)


def test_what_was_written_to_a_pipe_is_read(tmp_path):
    class Pipe(io.RawIOBase):
        def __init__(self):
            self.made = bytearray()

        def writable(self):
            return True

        def write(self, part):
            self.made += part
            return len(part)

    pipe = Pipe()
    np.savez(pipe, a=np.arange(3.0), b=np.ones(2))
    found = loaded(tmp_path / "w.npz", bytes(pipe.made))
    assert np.array_equal(found["a"], np.arange(3.0))
    assert np.array_equal(found["b"], np.ones(2))


@pytest.mark.parametrize("name", ["a\0b", "x" * 70_000, "\ud800", 3])
def test_what_is_no_name_for_an_array_is_refused(name, tmp_path):
    with pytest.raises(CheckpointError):
        save_weights({name: np.ones(1)}, tmp_path / "w.npz")
    assert list(tmp_path.iterdir()) == []
