"""Writers of the exact file formats, independent of the readers under test."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

IDX_STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
             "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(array: np.ndarray, *, kind: int = 0x08) -> bytes:
    """An IDX file, written from its definition."""
    sizes = b"".join(struct.pack(">I", n) for n in array.shape)
    return struct.pack(">BBBB", 0, 0, kind, array.ndim) + sizes + array.tobytes()


def write_idx_set(folder: Path, *, train: int = 6, test: int = 4, side: tuple[int, int] = (5, 3),
                  compress: bool = False) -> dict[str, np.ndarray]:
    """The four files of an MNIST-like set with random pixels; what they hold."""
    rng = np.random.default_rng(7)
    arrays = {
        IDX_STEMS[0]: rng.integers(0, 256, (train, *side), np.uint8),
        IDX_STEMS[1]: np.arange(train, dtype=np.uint8) % 3,
        IDX_STEMS[2]: rng.integers(0, 256, (test, *side), np.uint8),
        IDX_STEMS[3]: np.arange(test, dtype=np.uint8) % 3,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array in arrays.items():
        raw = idx_bytes(array)
        if compress:
            (folder / f"{stem}.gz").write_bytes(gzip.compress(raw, mtime=0))
        else:
            (folder / stem).write_bytes(raw)
    return arrays


def cifar_planes(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images as CIFAR-10 keeps them: N × 3,072 bytes (C H W), and N labels."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3072), np.uint8), rng.integers(0, 10, count)


def cifar_binary(data: np.ndarray, labels: np.ndarray) -> bytes:
    """Records of label byte, then red, green and blue planes."""
    return b"".join(bytes([int(label)]) + row.tobytes()
                    for row, label in zip(data, labels, strict=True))


def python2_pickle(data: np.ndarray, labels: np.ndarray, *, protocol: int) -> bytes:
    """The stream that cPickle of Python 2 and NumPy 1 wrote for the published batches."""
    return {0: _python2_protocol0, 2: _python2_protocol2}[protocol](data, labels)


def _short(text: str) -> bytes:
    return b"U" + bytes([len(text)]) + text.encode()


def _number(n: int) -> bytes:
    return b"K" + bytes([n]) if n < 256 else b"M" + struct.pack("<H", n)


def _python2_protocol2(data: np.ndarray, labels: np.ndarray) -> bytes:
    n, width = data.shape
    raw = data.tobytes()
    return b"".join([
        b"\x80\x02}q\x01(", _short("batch_label"), b"q\x02", _short("training batch 1 of 5"),
        b"q\x03",
        _short("labels"), b"q\x04]q\x05(", *(_number(int(x)) for x in labels), b"e",
        _short("data"), b"q\x06",
        b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85"
        b"U\x01b\x87Rq\x09",
        b"(K\x01", _number(n), _number(width), b"\x86", b"cnumpy\ndtype\nq\x0a", _short("u1"),
        b"K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
        b"T", struct.pack("<I", len(raw)), raw, b"tb",
        _short("filenames"), b"q\x0c]q\x0d(",
        *(_short(f"image_{i}.png") + b"q" + bytes([14 + i]) for i in range(n)), b"eu."])


def _python2_protocol0(data: np.ndarray, labels: np.ndarray) -> bytes:
    n, width = data.shape
    quoted = repr(data.tobytes())[1:].encode()           # Python 3's b'…' has Python 2's escapes
    return b"".join([
        b"(dp1\nS'batch_label'\np2\nS'training batch 1 of 5'\np3\nsS'labels'\np4\n(lp5\n",
        *(b"I%d\na" % int(x) for x in labels), b"sS'data'\np6\n",
        b"cnumpy.core.multiarray\n_reconstruct\np7\n(cnumpy\nndarray\np8\n(I0\ntS'b'\ntRp9\n",
        b"(I1\n(I%d\nI%d\ntcnumpy\ndtype\np10\n(S'u1'\nI0\nI1\ntRp11\n" % (n, width),
        b"(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS", quoted, b"\ntbsS'filenames'\np12\n(lp13\n",
        *(b"S'image_%d.png'\np%d\na" % (i, 14 + i) for i in range(n)), b"s."])


def write_cifar(folder: Path, write: Callable[[np.ndarray, np.ndarray], bytes], suffix: str = "",
                *, count: int = 2) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The six files of either version, ``count`` images each; what they hold."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    content = {name: cifar_planes(count, seed=i) for i, name in enumerate(names)}
    for name, (data, labels) in content.items():
        (folder / f"{name}{suffix}").write_bytes(write(data, labels))
    return content


def tar_gz(members: Mapping[str, bytes], *,
           change: Callable[[tarfile.TarInfo], Any] = lambda _: None,
           format: int = tarfile.GNU_FORMAT) -> bytes:
    """An archive in memory; ``change`` may alter each header before it is written."""
    room = io.BytesIO()
    with tarfile.open(fileobj=room, mode="w:gz", format=format) as archive:
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            change(info)
            archive.addfile(info, io.BytesIO(raw))
    return room.getvalue()


@pytest.fixture(scope="session")
def formats() -> SimpleNamespace:
    """The writers above, for tests that need exact bytes."""
    return SimpleNamespace(
        idx_bytes=idx_bytes, write_idx_set=write_idx_set, cifar_planes=cifar_planes,
        cifar_binary=cifar_binary, python2_pickle=python2_pickle, write_cifar=write_cifar,
        tar_gz=tar_gz, idx_stems=IDX_STEMS)
