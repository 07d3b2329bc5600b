"""IDX files: every damaged one is refused, in bounded memory."""

from __future__ import annotations

import gzip
import os
import resource
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from tinygrad_cnn.data import load_idx, read_idx
from tinygrad_cnn.errors import DataError

IMAGES = np.random.default_rng(3).integers(0, 256, (2, 3, 4), np.uint8)


@pytest.fixture
def save(tmp_path):
    def write(raw: bytes, name: str = "images-idx3-ubyte") -> Path:
        path = tmp_path / name
        path.write_bytes(raw)
        return path
    return write


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 4), (5,), (1, 1, 1), (2, 2, 2, 2)])
def test_read_idx_gives_back_what_was_written(formats, save, shape, compress):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    raw = formats.idx_bytes(array)
    path = save(gzip.compress(raw) if compress else raw)
    found = read_idx(path, ndim=len(shape))
    assert found.dtype == np.uint8
    assert np.array_equal(found, array)


def test_gzip_is_seen_from_the_contents_not_the_name(formats, save):
    raw = formats.idx_bytes(IMAGES)
    assert np.array_equal(read_idx(save(raw, "plain-idx3-ubyte.gz")), IMAGES)
    assert np.array_equal(read_idx(save(gzip.compress(raw), "packed-idx3-ubyte")), IMAGES)


@pytest.mark.parametrize("compress", [False, True])
def test_every_truncation_is_refused(formats, save, compress):
    raw = formats.idx_bytes(IMAGES)
    whole = gzip.compress(raw) if compress else raw
    for length in range(len(whole)):
        with pytest.raises(DataError, match="images-idx3-ubyte"):
            read_idx(save(whole[:length]), ndim=3)


@pytest.mark.parametrize("compress", [False, True])
def test_every_flipped_bit_of_the_header_is_refused(formats, save, compress):
    raw = formats.idx_bytes(IMAGES)
    for bit in range(8 * 16):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DataError, match="images-idx3-ubyte"):
            read_idx(save(gzip.compress(changed) if compress else bytes(changed)), ndim=3)


def test_every_flipped_bit_of_a_gzip_file_is_refused_or_changes_nothing(formats, save):
    whole = gzip.compress(formats.idx_bytes(IMAGES), mtime=0)
    harmless = set()
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            found = read_idx(save(bytes(changed)), ndim=3)
        except DataError:
            continue
        assert np.array_equal(found, IMAGES), f"bit {bit}"
        harmless.add(bit // 8)
    # the "text" flag, time stamp, extra flags and operating system; the padding of the last byte
    # before the checksum and the length
    assert harmless == {*range(3, 10), len(whole) - 9}


@pytest.mark.parametrize("extra, where", [
    (b"\0", "plain"), (b"\0" * 512, "plain"), (b"more", "plain"), (b"\0", "inside"),
    (b"more", "inside"), (b"more", "after")])
def test_trailing_bytes_are_refused(formats, save, extra, where):
    raw = formats.idx_bytes(IMAGES)
    content = {"plain": raw + extra, "inside": gzip.compress(raw + extra),
               "after": gzip.compress(raw) + extra}[where]
    words = {"plain": "too long", "inside": "more than its header announces",
             "after": "the gzip data is damaged"}[where]
    with pytest.raises(DataError, match=words):
        read_idx(save(content))


def test_gzip_members_and_padding_are_joined_as_gzip_joins_them(formats, save):
    raw = formats.idx_bytes(IMAGES)
    whole = gzip.compress(raw)
    for content in (gzip.compress(raw[:20]) + gzip.compress(raw[20:]), whole + bytes(9),
                    whole + gzip.compress(b"")):
        assert np.array_equal(read_idx(save(content)), IMAGES)
    for second in (b"x", raw):
        with pytest.raises(DataError, match="more than its header announces"):
            read_idx(save(whole + gzip.compress(second)))


@pytest.mark.parametrize("kind", [0x09, 0x0B, 0x0C, 0x0D, 0x0E, 0x00])
def test_other_types_are_refused(formats, save, kind):
    with pytest.raises(DataError, match=f"type 0x{kind:02x}; only 0x08"):
        read_idx(save(formats.idx_bytes(IMAGES, kind=kind)))


@pytest.mark.parametrize("shape, ndim, words", [
    ((2, 3, 4), 1, r"3 axes, expected 1 \(labels\)"),
    ((5,), 3, r"1 axes, expected 3 \(gray images\)"),
    ((1,) * 5, None, "5 axes, expected 1 to 4"),
    ((), None, "0 axes"),
    ((0, 3, 4), 3, "holds nothing"),
    ((2, 0, 4), 3, "holds nothing"),
])
def test_unexpected_axes_are_refused(formats, save, shape, ndim, words):
    with pytest.raises(DataError, match=words):
        read_idx(save(formats.idx_bytes(np.zeros(shape, np.uint8))), ndim=ndim)


@pytest.mark.parametrize("content, words", [
    (b"<!DOCTYPE html><html><title>404</title>", "an HTML page"),
    (b"\n  <html lang='en'>", "an HTML page"),
    (b"<?xml version='1.0'?><Error/>", "an XML or HTML document"),
    (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    (b"PK\x03\x04rest", "a zip archive"),
    (b"\x80\x04\x95", "a pickle"),
    (b"Not found", "text that begins 'Not found'"),
    (b"", "an empty file"),
    (b"\xca\xfe\xba\xbe", "bytes ca fe ba be"),
])
def test_message_says_what_was_found_instead(save, content, words):
    for name in ("train-images-idx3-ubyte.gz", "train-images-idx3-ubyte"):
        with pytest.raises(DataError, match=f"{name}: is not an IDX file but {words}"):
            read_idx(save(content, name))


def test_missing_files_folders_and_pipes_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("absent", "does not exist"), ("", "is not a regular file"),
                        ("pipe", "is not a regular file")):
        with pytest.raises(DataError, match=words):
            read_idx(tmp_path / name)


def bomb(head: bytes, megabytes: int) -> bytes:
    """A gzip stream of ``head`` and then zeros, a thousand times its own size."""
    pack = zlib.compressobj(9, wbits=31)
    start = pack.compress(head) + pack.flush(zlib.Z_FULL_FLUSH)
    million = pack.compress(bytes(1 << 20)) + pack.flush(zlib.Z_FULL_FLUSH)
    return start + million * megabytes


# A header that tells the truth about a gigabyte, one that tells of little, one of terabytes.
@pytest.mark.parametrize("shape", [(1 << 20, 32, 32), (10, 5, 5), (1 << 30, 1 << 10, 1 << 10)])
def test_a_gzip_bomb_is_refused_in_little_memory(formats, save, shape):
    head = formats.idx_bytes(np.zeros((1, 1, 1), np.uint8))[:4]
    head += b"".join(n.to_bytes(4, "big") for n in shape)
    path = save(bomb(head, 1024), "train-images-idx3-ubyte.gz")
    assert path.stat().st_size < 1_200_000
    code = f"""
import resource
from tinygrad_cnn.data import read_idx
from tinygrad_cnn.errors import DataError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_idx({str(path)!r}, ndim=3)
except DataError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         timeout=60, preexec_fn=_no_more_than_two_gigabytes)
    # ru_maxrss counts kibibytes on Linux: the refusal may cost 8 MiB above what Python itself takes
    assert int(out.stdout) < 8 << 10


def _no_more_than_two_gigabytes() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))


def test_a_bomb_says_how_to_read_the_file_all_the_same(formats, save):
    head = formats.idx_bytes(np.zeros((1, 1, 1), np.uint8))[:4]
    head += b"".join(n.to_bytes(4, "big") for n in (8192, 32, 32))
    with pytest.raises(DataError, match="unpack it yourself"):
        read_idx(save(bomb(head, 8)))


def test_a_small_file_of_zeros_is_read_however_well_it_shrinks(formats, save):
    blank = np.zeros((1000, 28, 28), np.uint8)
    path = save(gzip.compress(formats.idx_bytes(blank)))
    assert path.stat().st_size * 100 < blank.size
    assert np.array_equal(read_idx(path), blank)


@pytest.mark.parametrize("compress", [False, True])
def test_load_idx_reads_the_four_files(formats, tmp_path, compress):
    arrays = formats.write_idx_set(tmp_path, compress=compress)
    train, test = load_idx(tmp_path)
    images, labels, test_images, test_labels = (arrays[stem] for stem in formats.idx_stems)
    assert np.array_equal(train.images, images[..., None])
    assert np.array_equal(train.labels, labels)
    assert np.array_equal(test.images, test_images[..., None])
    assert np.array_equal(test.labels, test_labels)
    assert (train.name, train.classes) == ("idx", ("0", "1", "2"))
    assert train.split == "idx training set (6 images)"
    assert test.split == "idx test set (4 images)"


def test_load_idx_knows_the_names_with_a_dot(formats, tmp_path):
    formats.write_idx_set(tmp_path)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / path.name.replace("-idx", ".idx"))
    assert len(load_idx(tmp_path).train) == 6


def test_load_idx_lists_every_missing_file(formats, tmp_path):
    formats.write_idx_set(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(DataError, match="lacks train-labels-idx1-ubyte, t10k-images-idx3-ubyte"):
        load_idx(tmp_path)


def test_load_idx_refuses_sizes_that_disagree(formats, tmp_path):
    formats.write_idx_set(tmp_path)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    whole = labels.read_bytes()
    labels.write_bytes(formats.idx_bytes(np.zeros(3, np.uint8)))
    with pytest.raises(DataError, match="4 images but 3 labels"):
        load_idx(tmp_path)
    labels.write_bytes(whole)
    images = tmp_path / "t10k-images-idx3-ubyte"
    images.write_bytes(formats.idx_bytes(np.zeros((4, 5, 4), np.uint8)))
    with pytest.raises(DataError, match=r"training images are \(5, 3\) but test images \(5, 4\)"):
        load_idx(tmp_path)


def test_a_checksum_that_differs_is_refused(formats, save):
    path = save(formats.idx_bytes(IMAGES))
    with pytest.raises(DataError, match="its SHA256 differs"):
        read_idx(path, digest="sha256:" + "0" * 64)
