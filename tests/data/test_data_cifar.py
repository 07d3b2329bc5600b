"""CIFAR-10 in both formats, in folders and in archives."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile

import numpy as np
import pytest

from tinygrad_cnn.data import load_cifar10, read_cifar_binary, read_cifar_python, safe_io
from tinygrad_cnn.data.safe_io import CLASSES, PUBLISHED, tar_members
from tinygrad_cnn.errors import DataError


def expected_images(data):
    """N × 3,072 bytes as images, pixel by pixel."""
    images = np.empty((len(data), 32, 32, 3), np.uint8)
    for n, row in enumerate(data):
        for channel in range(3):
            for y in range(32):
                start = channel * 1024 + y * 32
                images[n, y, :, channel] = row[start:start + 32]
    return images


def pickled(data, labels, *, protocol, keys=str, order="C"):
    """A batch as Python 3 and the installed NumPy write it."""
    batch = {"data": np.asarray(data, order=order), "labels": [int(x) for x in labels],
             "batch_label": "training batch 1 of 5",
             "filenames": [f"image_{i}.png" for i in range(len(data))]}
    if keys is bytes:
        batch = {key.encode(): value for key, value in batch.items()}
    return pickle.dumps(batch, protocol=protocol)


class Python2Unpickler(pickle.Unpickler):
    """The standard library's own reader, taught where NumPy 2 keeps the old names."""

    def find_class(self, module, name):
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


# ---- binary version -----------------------------------------------------------------------------

def test_binary_version_puts_the_planes_side_by_side(formats):
    data, labels = formats.cifar_planes(3, seed=1)
    images, found = read_cifar_binary(formats.cifar_binary(data, labels), path="x")
    assert images.dtype == np.uint8
    assert found.dtype == np.int64
    assert np.array_equal(images, expected_images(data))
    assert np.array_equal(found, labels)


def test_binary_version_refuses_every_length_but_whole_records(formats):
    whole = formats.cifar_binary(*formats.cifar_planes(2, seed=1))
    for length in (0, 1, 3072, 3074, 6145, *range(6000, 6146, 7)):
        with pytest.raises(DataError, match="no whole number of records"):
            read_cifar_binary(whole[:length], path="data_batch_1.bin")
    with pytest.raises(DataError, match="it is cut off, or an HTML page"):
        read_cifar_binary(b"<html>", path="data_batch_1.bin")


def test_binary_version_names_the_first_label_above_9(formats):
    data, _ = formats.cifar_planes(3, seed=1)
    for bad in ([9, 10, 0], [9, 10, 255]):
        with pytest.raises(DataError, match="label 10 of record 1 is not 0 to 9"):
            read_cifar_binary(formats.cifar_binary(data, bad), path="data_batch_1.bin")


# ---- Python version -----------------------------------------------------------------------------

@pytest.mark.parametrize("keys", [str, bytes])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", range(6))
def test_python_version_of_python_3(formats, protocol, keys, order):
    data, labels = formats.cifar_planes(4, seed=protocol)
    raw = pickled(data, labels, protocol=protocol, keys=keys, order=order)
    images, found = read_cifar_python(raw, path="data_batch_1")
    assert np.array_equal(images, expected_images(data))
    assert np.array_equal(found, labels)


@pytest.mark.parametrize("protocol", [0, 2])
def test_python_version_of_python_2(formats, protocol):
    data, labels = formats.cifar_planes(3, seed=protocol)
    raw = formats.python2_pickle(data, labels, protocol=protocol)
    judge = Python2Unpickler(io.BytesIO(raw), encoding="bytes").load()
    assert np.array_equal(judge[b"data"], data), "the test's own stream is a valid pickle"
    assert judge[b"labels"] == labels.tolist()
    images, found = read_cifar_python(raw, path="data_batch_1")
    assert np.array_equal(images, expected_images(data))
    assert np.array_equal(found, labels)


def test_python_version_reads_a_whole_batch_of_ten_thousand(formats):
    rng = np.random.default_rng(0)
    data, labels = rng.integers(0, 256, (10_000, 3072), np.uint8), rng.integers(0, 10, 10_000)
    images, found = read_cifar_python(pickled(data, labels, protocol=2), path="data_batch_1")
    assert np.array_equal(images[:, 31, 31, 2], data[:, 3071])
    assert np.array_equal(found, labels)


@pytest.mark.parametrize("change, words", [
    (lambda b: b.pop("data"), "data must be an array"),
    (lambda b: b.pop("labels"), "labels must be a list"),
    (lambda b: b.update(labels=b["labels"][:-1]), "2 images but 1 labels"),
    (lambda b: b.update(labels=[3, 10]), "label 10 of image 1 is not 0 to 9"),
    (lambda b: b.update(labels=[3, -1]), "label -1 of image 1"),
    (lambda b: b.update(labels=[3, True]), "labels must be a list of integers"),
    (lambda b: b.update(labels=["3", "4"]), "labels must be a list of integers"),
    (lambda b: b.update(labels=(3, 4)), "labels must be a list of integers"),
    (lambda b: b.update(labels=[3, 4.0]), "never needed for images"),
    (lambda b: b.update(data=b["data"][:, 1:]), "N × 3,072, found"),
    (lambda b: b.update(data=b["data"].ravel()), "N × 3,072, found"),
    (lambda b: b.update(data=b["data"].tolist()), "N × 3,072, found no array"),
    (lambda b: b.update(data=b["data"].astype(np.int8)), "dtype u1"),
    (lambda b: b.update(data=b["data"].astype(np.float32)), "dtype u1"),
    (lambda b: b.update(data=b["data"].astype(object)), "dtype u1"),
    (lambda b: b.update(fine_labels=[0, 0]), "CIFAR-100"),
    (lambda b: b.update({b"data": b["data"]}), "the key 'data' twice"),
    (lambda b: b.update({("data",): 1}), "a key is a tuple"),
])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_python_version_refuses_other_contents(formats, change, words, protocol):
    data, _ = formats.cifar_planes(2, seed=0)
    batch = {"data": data, "labels": [3, 4]}
    change(batch)
    with pytest.raises(DataError, match=words):
        read_cifar_python(pickle.dumps(batch, protocol=protocol), path="data_batch_1")


@pytest.mark.parametrize("content, words", [
    (b"", "is an empty file"),
    (b"<html>", "but an HTML page"),
    (b"\x1f\x8b\x08", "but a gzip file"),
    (b"PK\x03\x04", "but a zip archive"),
    (pickle.dumps([1, 2]), "does not hold one dict"),
    (b"\x80\x06}.", "unsupported pickle protocol: 6"),
])
def test_python_version_says_what_a_file_is_instead(content, words):
    with pytest.raises(DataError, match=f"data_batch_1: .*{words}"):
        read_cifar_python(content, path="data_batch_1")


# ---- whole sets ---------------------------------------------------------------------------------

def check_set(splits, content):
    train, test = splits
    names = [f"data_batch_{i}" for i in range(1, 6)]
    assert np.array_equal(train.images, expected_images(np.concatenate(
        [content[name][0] for name in names])))
    assert np.array_equal(train.labels, np.concatenate([content[name][1] for name in names]))
    assert np.array_equal(test.images, expected_images(content["test_batch"][0]))
    assert np.array_equal(test.labels, content["test_batch"][1])
    assert train.classes == CLASSES["cifar10"]
    assert train.name == "cifar10"


def version(formats, name):
    """(writer, suffix, archive name, top folder) of one of the two versions."""
    if name == "binary":
        return formats.cifar_binary, ".bin", "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
    return (lambda x, y: formats.python2_pickle(x, y, protocol=2), "", "cifar-10-python.tar.gz",
            "cifar-10-batches-py")


@pytest.mark.parametrize("name", ["binary", "python"])
def test_load_cifar10_reads_a_folder(formats, tmp_path, name):
    write, suffix, _, _ = version(formats, name)
    content = formats.write_cifar(tmp_path, write, suffix)
    check_set(load_cifar10(tmp_path), content)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["binary", "python"])
def test_load_cifar10_reads_an_archive_without_extracting(formats, tmp_path, name, format):
    write, suffix, file_name, top = version(formats, name)
    content = formats.write_cifar(tmp_path / "files", write, suffix)
    members = {f"{top}/{path.name}": path.read_bytes()
               for path in sorted((tmp_path / "files").iterdir(), reverse=True)}
    members[f"{top}/readme.html"] = b"<html>" * 1000
    path = tmp_path / file_name
    # a fraction of a second makes tarfile write an extension header in the pax format
    path.write_bytes(formats.tar_gz(members, format=format,
                                    change=lambda info: setattr(info, "mtime", 1.5)))
    before = sorted(tmp_path.rglob("*"))
    check_set(load_cifar10(path), content)
    assert sorted(tmp_path.rglob("*")) == before


def test_load_cifar10_lists_missing_batches(formats, tmp_path):
    formats.write_cifar(tmp_path, formats.cifar_binary, ".bin")
    (tmp_path / "data_batch_2.bin").unlink()
    (tmp_path / "test_batch.bin").unlink()
    with pytest.raises(DataError, match="lacks data_batch_2, test_batch of CIFAR-10"):
        load_cifar10(tmp_path)


def test_load_cifar10_refuses_files_that_are_not_the_published_ones(formats, tmp_path):
    formats.write_cifar(tmp_path, formats.cifar_binary, ".bin")
    with pytest.raises(DataError, match=r"data_batch_1\.bin: is not the published file of"):
        load_cifar10(tmp_path, digests=PUBLISHED["cifar10"])


def test_an_archive_with_both_versions_is_refused(formats, tmp_path):
    raw = formats.cifar_binary(*formats.cifar_planes(1, seed=0))
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(formats.tar_gz({
        "data_batch_1.bin": raw,
        "data_batch_1": formats.python2_pickle(*formats.cifar_planes(1, seed=0), protocol=2)}))
    with pytest.raises(DataError, match="holds data_batch_1 in both versions"):
        load_cifar10(path)


# ---- hostile archives ---------------------------------------------------------------------------

def read_archive(path, limit=1000):
    return dict(tar_members(path, {"a", "b"}, limit=limit))


@pytest.fixture
def save(tmp_path):
    def write(raw):
        path = tmp_path / "archive.tar.gz"
        path.write_bytes(raw)
        return path
    return write


def test_tar_members_takes_exact_names_at_most_one_folder_deep(formats, save):
    path = save(formats.tar_gz({"top/a": b"1", "b": b"2" * 600, "x/y/a": b"3", "../a": b"4",
                                "ab": b"5", "top/a/c": b"6"}))
    assert read_archive(path) == {"a": b"1", "b": b"2" * 600}


KINDS = {"hard link": tarfile.LNKTYPE, "symbolic link": tarfile.SYMTYPE, "device": tarfile.CHRTYPE,
         "block device": tarfile.BLKTYPE, "pipe": tarfile.FIFOTYPE, "contiguous": tarfile.CONTTYPE,
         "sparse": tarfile.GNUTYPE_SPARSE, "long name": tarfile.GNUTYPE_LONGNAME,
         "long link": tarfile.GNUTYPE_LONGLINK, "global pax": tarfile.XGLTYPE,
         "Solaris pax": tarfile.SOLARIS_XHDTYPE}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("name", ["a", "top/a", "../../a", "/etc/passwd"])
def test_members_that_are_no_plain_files_are_refused(formats, save, tmp_path, kind, name):
    def change(info):
        info.type, info.linkname, info.size = kind, "/etc/passwd", 0
    path = save(formats.tar_gz({name: b""}, change=change))
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(DataError, match="only files and folders are read"):
        read_archive(path)
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("key", ["path", "size", "linkpath", "GNU.sparse.name", "hdrcharset"])
def test_extension_headers_that_change_a_member_are_refused(formats, save, key):
    path = save(formats.tar_gz({"top/a": b"1"}, format=tarfile.PAX_FORMAT,
                               change=lambda info: info.pax_headers.update({key: "7"})))
    with pytest.raises(DataError, match="extension header changes"):
        read_archive(path)


def test_a_member_twice_or_too_large_is_refused(formats, save):
    with pytest.raises(DataError, match="holds a twice"):
        read_archive(save(formats.tar_gz({"a": b"1", "top/a": b"2"})))
    with pytest.raises(DataError, match="has 1,001 bytes, more than the 1,000"):
        read_archive(save(formats.tar_gz({"a": b"1" * 1001})))


def test_an_archive_that_unpacks_too_far_is_refused(formats, save, monkeypatch):
    monkeypatch.setattr(safe_io, "_MAX_TOTAL", 1 << 20)
    with pytest.raises(DataError, match="'c' has 2,097,152 bytes, more than the 1,048,576 that"):
        read_archive(save(formats.tar_gz({"c": bytes(1 << 21), "a": b"1"})))
    with pytest.raises(DataError, match="unpacks to more than 1,048,576 bytes"):
        read_archive(save(formats.tar_gz({"c": bytes(700_000), "d": bytes(700_000)})))
    monkeypatch.setattr(safe_io, "_MAX_MEMBERS", 5)
    with pytest.raises(DataError, match="more than 5 members"):
        read_archive(save(formats.tar_gz({f"c{i}": b"" for i in range(6)})))


def test_every_truncation_of_an_archive_is_refused(formats, save):
    whole = formats.tar_gz({"a": bytes(range(256)) * 3, "b": b"2"})
    for length in range(len(whole)):
        with pytest.raises(DataError):
            read_archive(save(whole[:length]))


def test_every_flipped_bit_of_a_tar_header_is_refused_or_changes_nothing(formats, save):
    content = b"contents"
    room = io.BytesIO()
    with tarfile.open(fileobj=room, mode="w", format=tarfile.GNU_FORMAT) as plain:
        info = tarfile.TarInfo("a")
        info.size = len(content)
        plain.addfile(info, io.BytesIO(content))
    harmless = set()
    for bit in range(0, 8 * 512, 7):
        changed = bytearray(room.getvalue())
        changed[bit // 8] ^= 1 << bit % 8
        try:
            found = read_archive(save(gzip.compress(changed, 1)))
        except DataError:
            continue
        assert found == {"a": content}
        harmless.add(bit // 8)
    # The checksum is a plain sum, so each bit changes it.  Of its own eight bytes the leading zero
    # may be a space, and what follows the NUL is free.
    assert harmless <= {148, 155}


@pytest.mark.parametrize("content, words", [
    (b"<!DOCTYPE html>", "is not a gzip archive but an HTML page"),
    (b"", "an empty file"),
])
def test_what_is_no_archive_is_named(save, content, words):
    with pytest.raises(DataError, match=words):
        read_archive(save(content))


def test_bytes_after_the_end_of_an_archive_are_refused(formats, save):
    whole = formats.tar_gz({"a": b"1"})
    with pytest.raises(DataError, match="the gzip data is damaged"):
        read_archive(save(whole + b"x"))
    plain = gzip.decompress(whole)
    for extra in (b"x", bytes(511) + b"x", bytes(2 << 20)):
        with pytest.raises(DataError, match="after the end of the archive"):
            read_archive(save(gzip.compress(plain + extra)))
