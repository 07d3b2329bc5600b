"""Weights: what comes back, who else reads them, and what is refused.

Every flipped bit, every length and fuzzed files: tests/reliability.
"""

from __future__ import annotations

import hashlib
import json
import tracemalloc

import numpy as np
import pytest

from tinygrad_cnn import CheckpointError, nn
from tinygrad_cnn.io import load_weights, save_weights
from tinygrad_cnn.io.weights import _DTYPES


def state():
    rng = np.random.default_rng(0)
    return {"conv.weight": rng.normal(size=(3, 3, 1, 2)).astype(np.float32),
            "count": np.array(7), "mask": np.array([True, False]), "none": np.zeros((0, 3)),
            "fortran": np.asfortranarray(rng.normal(size=(2, 3))), "é{\"]": np.ones(2, np.uint8),
            **{code: np.ones(3, dtype) for code, dtype in _DTYPES.items()},
            "big endian": np.arange(3, dtype=">i4"), "strided": np.arange(10.0)[::-2]}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype.newbyteorder("=")
        assert found[name].shape == value.shape
        np.testing.assert_array_equal(found[name], value)


def test_arrays_come_back_bit_for_bit_and_in_order(tmp_path):
    found = load_weights(save_weights(state(), tmp_path / "w.safetensors"))
    assert list(found) == list(state())
    same(found, state())
    assert all(array.flags.writeable for array in found.values())
    same(load_weights(save_weights({}, tmp_path / "none")), {})
    edges = {"x" * 10_000: np.ones(1), "axes": np.ones((1,) * 64)}
    same(load_weights(save_weights(edges, tmp_path / "edges")), edges)
    a, b = (save_weights(state(), tmp_path / name).read_bytes() for name in "ab")
    assert a == b


def test_a_model_comes_back(tmp_path):
    model = nn.Sequential(nn.Conv2D(1, 2), nn.BatchNorm2D(2))
    other = nn.Sequential(nn.Conv2D(1, 2), nn.BatchNorm2D(2))
    other.load_state_dict(load_weights(save_weights(model, tmp_path / "m")))
    same(other.state_dict(), model.state_dict())


def test_the_package_safetensors_reads_our_files_and_we_read_its(tmp_path):
    theirs = pytest.importorskip("safetensors.numpy")
    path = save_weights(state(), tmp_path / "ours")
    same(theirs.load_file(path), state())
    with pytest.importorskip("safetensors").safe_open(path, "numpy") as file:
        digest = file.metadata()["sha256:conv.weight"]
    assert digest == hashlib.sha256(state()["conv.weight"].tobytes()).hexdigest()
    plain = {name: np.array(value, value.dtype.newbyteorder("="), order="C")
             for name, value in state().items()}
    theirs.save_file(plain, tmp_path / "theirs", {"format": "np"})
    with pytest.raises(CheckpointError, match=r"no SHA-256 .* foreign=True"):
        load_weights(tmp_path / "theirs")
    same(load_weights(tmp_path / "theirs", foreign=True), plain)


def test_what_is_no_array_and_no_name_is_not_saved(tmp_path):
    for value in (np.array([None]), np.ones(1, complex), np.array(["text"]),
                  np.zeros(1, [("a", "f4")]), np.array(["2026"], "M8[Y]"),
                  np.ones(1, np.longdouble)):
        with pytest.raises(CheckpointError, match="w has dtype"):
            save_weights({"w": value}, tmp_path / "w")
    for value, words in (([[1], [1, 2]], "is no array"), (np.ma.ones(2), "its mask")):
        with pytest.raises(CheckpointError, match=words):
            save_weights({"w": value}, tmp_path / "w")
    for name in ("a\0b", "x" * 10_001, "\ud800", 3, "__metadata__"):
        with pytest.raises(CheckpointError, match="is no name for an array"):
            save_weights({name: np.ones(1)}, tmp_path / "w")
    with pytest.raises(CheckpointError, match="arrays are too many for their size"):
        save_weights({str(i): np.ones(1) for i in range(20_000)}, tmp_path / "w")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match=r"cannot be written: the folder .* create it first"):
        save_weights(state(), tmp_path / "no" / "w")


def sealed(header, arrays=b"", *, digests=()):
    """A file with that header, with the digests that its contents have."""
    if not isinstance(header, bytes):
        texts = {"sha256": "0" * 64} | {f"sha256:{name}": hashlib.sha256(part).hexdigest()
                                        for name, part in digests}
        header = json.dumps({"__metadata__": texts} | header, separators=(",", ":")).encode()
    start = header.find(b'"sha256":"') + 10
    if start >= 10 and header[start:start + 64].strip(b"0") == b"":
        length = len(header).to_bytes(8, "little")
        digest = hashlib.sha256(length + header).hexdigest().encode()
        header = header[:start] + digest + header[start + 64:]
    return len(header).to_bytes(8, "little") + header + arrays


def entry(shape=(2,), offsets=(0, 8), dtype="F32", **more):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets} | more


TWO = np.ones(2, np.float32).tobytes()
ZEROS = b'{"__metadata__":{"sha256":"' + b"0" * 64 + b'"'
LIES = {
    "negative": ({"a": entry(offsets=(-8, 0))}, "which is no place"),
    "a hole": ({"a": entry(offsets=(8, 16))}, "do not fit"),
    "an overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, "which end at 8"),
    "one place twice": ({"a": entry(), "b": entry()}, "which end at 8"),
    "behind the end": ({"a": entry((4,), (0, 16))}, "is cut off"),
    "too large": ({"a": entry((10**11,), (0, 4 * 10**11))}, "is cut off"),
    "another size": ({"a": entry((3,))}, "do not fit"),
    "zeros and more": ({"a": entry((0, 1 << 62, 4), (0, 0))}, "a shape that is none"),
    "as many as none": ({"a": entry((1 << 60,), (0, 4 << 60))}, "a shape that is none"),
    "65 axes": ({"a": entry((1,) * 65, (0, 4))}, "a shape that is none"),
    "true": ({"a": entry((True, 2))}, "a shape that is none"),
    "half": ({"a": entry((2.0,))}, "a shape that is none"),
    "text": ({"a": entry("2")}, "a shape that is none"),
    "no numbers": ({"a": entry(dtype="BF16")}, "dtype 'BF16', not numbers"),
    "a list": ({"a": entry(dtype=["F32"])}, "not numbers"),
    "more keys": ({"a": entry(more=1)}, "by other than"),
    "no object": ({"a": [1]}, "by other than"),
    "booleans": ({"a": entry((8,), dtype="BOOL")}, "neither 0 nor 1"),
    "no digest": ({"b": entry()}, "the SHA-256 of 'b' differs"),
    "twice": (ZEROS + b'},"a":{},"a":{}}', "a key comes twice"),
    "no text": (ZEROS + b',"b":1}}', "not of texts"),
    "infinite": (ZEROS + b'},"a":1e999}', "no finite number"),
    "NaN": (ZEROS + b'},"a":NaN}', "no finite number"),
    "a long number": (ZEROS + b'},"a":' + b"1" * 10_000 + b"}", "is refused"),
    "deep": (ZEROS + b'},"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nested too deeply"),
    "no UTF-8": (ZEROS + b'},"\xff":1}', "is refused"),
    "open": (ZEROS + b'},', "is refused"),
}


def test_a_header_that_ends_behind_the_file_is_cut_off(tmp_path):
    for missing in range(1, 9):
        (tmp_path / "w").write_bytes(sealed({})[:-missing])
        with pytest.raises(CheckpointError, match="is cut off, or no file of weights"):
            load_weights(tmp_path / "w")


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies_is_refused_even_if_it_is_sealed(name, tmp_path):
    header, words = LIES[name]
    content = b"\2" + bytes(7) if name == "booleans" else TWO
    (tmp_path / "w").write_bytes(sealed(header, content, digests=[("a", content)]))
    with pytest.raises(CheckpointError, match=words):
        load_weights(tmp_path / "w")


def test_other_files_are_described(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.ones(2))
    for content, words in ((b"", "an empty file"), (b"<html>", "an HTML page"),
                           (b"\x80\x04.", "a pickle"), (b"[1, 2, 3]", "text that begins"),
                           ((tmp_path / "a.npz").read_bytes(), r"zip archive; .*numpy\.load")):
        (tmp_path / "other").write_bytes(content)
        for foreign in (False, True):
            with pytest.raises(CheckpointError, match=f"other is cut off, or no file .*{words}"):
                load_weights(tmp_path / "other", foreign=foreign)


@pytest.mark.parametrize("unit", [b'[],', b'{},', b'"ab",', b'{"a":0},', b'[[[]]],', b'1.5,',
                                  b'"\xf0\x9f\x98\x80",', b'"\\ud83d\\ude00",', b'12345,'])
def test_a_header_cannot_ask_for_much_more_memory_than_it_has(unit, tmp_path):
    for count in (10_000, 100_000, 1_000_000):
        header = ZEROS + b'},"a":[' + unit * count + b'0]}'
        (tmp_path / "w").write_bytes(sealed(header))
        del header
        tracemalloc.start()
        with pytest.raises(CheckpointError):
            load_weights(tmp_path / "w")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most <= 2 * (tmp_path / "w").stat().st_size + (16 << 20)
