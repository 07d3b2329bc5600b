"""Files of each format, damaged at random: only the documented exception, little memory, no hang.

    python tests/reliability fuzz [--count 100000] [--seed 0]

Bytes are changed, cut out, doubled and exchanged with those of other files; of weights and
checkpoints the digests are put right again, so that what they say is looked at.  Each call may take
10 s, and twice the file, or 100 times if it is compressed, and 64 MB, of memory that can be asked
for; that of weights is measured more closely in tests/io/test_weights.py.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import random
import re
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_cnn as tc
from reliability.report import Figure, limits
from reliability.writers import RECEIPT
from tinygrad_cnn import nn, optim, viz
from tinygrad_cnn.cli.receipt import read_receipt, write_receipt
from tinygrad_cnn.data import (
    load_cifar10,
    load_image_folder,
    read_cifar_binary,
    read_cifar_python,
    read_idx,
)
from tinygrad_cnn.errors import CheckpointError, DataError, VizError
from tinygrad_cnn.io import load_checkpoint, load_weights, save_checkpoint, save_weights
from tinygrad_cnn.io.weights import _DIGITS, _START
from tinygrad_cnn.train import History

WORDS = [b"-1", b"0", b"1e999", b"NaN", b"null", b"true", b"[]", b"{}", b'""', b"9" * 30, b"[[[[",
         b'"\\ud800"', b"\0", b"\xff\xff\xff\xff", b"\xff" * 8, b"\x7f", b"I64", b"BOOL", b"F16"]


@dataclass
class Format:
    """How a format is read, and what may be raised."""

    name: str
    seeds: list[bytes]
    read: Callable[[Path], Any]
    error: type[Exception]
    file: str = "file"
    sealed: bool = False
    share: float = 1.0                  # of the count, where reading is slow


def sealed(rng: random.Random, raw: bytes) -> bytes:
    """Weights with a damaged header or damaged arrays, and the digests that belong to them."""
    end = 8 + int.from_bytes(raw[:8], "little")
    header, arrays = raw[8:end], raw[end:]
    if rng.random() < 0.8:
        header = damaged(rng, [header])
    else:
        arrays = damaged(rng, [arrays])
    for found in re.finditer(rb'"([^"]+)":{"dtype":"\w+","shape":[^}]*?"data_offsets":'
                             rb'\[(\d{1,12}),(\d{1,12})\]', header):
        name, a, b = found.groups()
        digest = hashlib.sha256(arrays[int(a):int(b)]).hexdigest().encode()
        header = re.sub(rb'("sha256:' + re.escape(name) + rb'":")[^"]{64}',
                        lambda m: m.group(1) + digest, header)              # noqa: B023
    length = len(header).to_bytes(8, "little")
    if header.startswith(_START):
        zeros = header[:_DIGITS.start] + b"0" * 64 + header[_DIGITS.stop:]
        digest = hashlib.sha256(length + zeros).hexdigest().encode()
        header = header[:_DIGITS.start] + digest + header[_DIGITS.stop:]
    return length + header + arrays


def damaged(rng: random.Random, seeds: list[bytes]) -> bytes:
    raw = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        a, b = sorted(rng.randrange(len(raw) + 1) for _ in "ab")
        b = min(b, a + rng.choice((1, 4, 16, 200)))
        kind = rng.randrange(7)
        if kind == 0 and raw:
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del raw[a:b]
        elif kind == 2:
            raw[a:a] = raw[a:b] * rng.choice((1, 2, 50))
        elif kind == 3:
            other = rng.choice(seeds)
            place = rng.randrange(len(other) + 1)
            raw[a:b] = other[place:place + b - a]
        elif kind == 4:
            raw[a:b] = rng.choice(WORDS)
        elif kind == 5 and (digits := list(re.finditer(rb"\d+", raw))):
            found = rng.choice(digits)
            raw[found.start():found.end()] = str(rng.choice(
                (0, 1, 2, 7, 8, 255, 1 << 31, 1 << 62, 1 << 64, 10 ** rng.randrange(25)))).encode()
        else:
            raw[a:b] = rng.randbytes(b - a)
    return bytes(raw)


def parts() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(3, 2, rng=rng), nn.BatchNorm1D(2))
    optimizer = optim.Adam(model.parameters())
    tc.sum(model(tc.Tensor(rng.normal(size=(4, 3)).astype(np.float32))) ** 2).backward()
    optimizer.step()
    return {"model": model, "optimizer": optimizer, "history": History([{"loss": 0.5, "n": 1}]),
            "schedule": optim.lr_scheduler.ReduceLROnPlateau(optimizer), "rng": [
                rng, np.random.Generator(np.random.MT19937(0)),
                np.random.Generator(np.random.Philox(0))]}


def formats(folder: Path) -> Iterator[Format]:
    """A few valid files of each format, and their reader."""
    rng = np.random.default_rng(0)
    bytes_of = Path.read_bytes
    own = parts()
    states = [save_weights({"a": np.ones((2, 3)), "b": np.array([True]), "c": np.zeros((0, 2))},
                           folder / "w"), save_weights(nn.Linear(2, 2), folder / "w2")]
    runs = [save_checkpoint(folder / "c", **own), save_checkpoint(
        folder / "c2", **own, extra={"a": [1, (2.5, None, "x")], "b": float("inf")})]

    def draw(path: Path) -> None:
        """Load, and use what has come."""
        load_checkpoint(path, **own)
        for generator in own["rng"]:
            generator.random(3)

    yield Format("checkpoints, sealed again", [bytes_of(p) for p in runs], draw, CheckpointError,
                 sealed=True)
    yield Format("weights, sealed again", [bytes_of(p) for p in states], load_weights,
                 CheckpointError, sealed=True)
    yield Format("weights of others", [bytes_of(p) for p in states],
                 lambda path: load_weights(path, foreign=True), CheckpointError)
    idx = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 3]) + rng.bytes(24)
    labels = bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1])
    yield Format("IDX files", [idx, labels], read_idx, DataError)
    yield Format("gzip IDX files", [gzip.compress(idx), gzip.compress(labels)], read_idx, DataError)
    record = bytes([3]) + rng.bytes(3072)
    yield Format("CIFAR-10 records", [record, record * 2],
                 lambda path: read_cifar_binary(bytes_of(path), path="x"), DataError)
    batch = {b"data": np.frombuffer(record[1:] * 2, np.uint8).reshape(2, -1), b"labels": [1, 2]}
    yield Format("CIFAR-10 pickles", [pickle.dumps(batch, protocol) for protocol in range(6)],
                 lambda path: read_cifar_python(bytes_of(path), path="x"), DataError, share=0.5)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
            member = tarfile.TarInfo(f"cifar/{name}.bin")
            member.size = len(record)
            tar.addfile(member, io.BytesIO(record))
    yield Format("tar archives", [made.getvalue()], load_cifar10, DataError,
                 file="cifar-10-binary.tar.gz", share=0.2)
    history = History([{"epoch": 1, "loss": 0.5, "note": "a,\"b\""}, {"epoch": 2, "loss": None}])
    yield Format("histories", [bytes_of(history.save(folder / "h")), b"a\n1\n"], History.load,
                 DataError)
    yield Format("receipts", [bytes_of(write_receipt(RECEIPT, folder / "r"))], read_receipt,
                 CheckpointError)
    figure = (tc.Tensor([1.0], requires_grad=True, name="x") * 2).sum().graph()
    yield Format("graphs", [bytes_of(figure.save(folder / "g.json"))], viz.load, VizError,
                 file="file.json", share=0.2)
    try:
        from PIL import Image
    except ImportError:
        return
    pictures = []
    for kind in ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP"):
        made = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(made, kind)
        pictures.append(made.getvalue())
    for place in ("train", "test"):
        (folder / "pictures" / place / "a").mkdir(parents=True, exist_ok=True)
        (folder / "pictures" / place / "a" / "0.png").write_bytes(pictures[0])
    yield Format("pictures", pictures, lambda path: load_image_folder(path.parents[2]), DataError,
                 file="pictures/train/a/1.png", share=0.3)


def measure(count: int, rng: random.Random) -> Iterator[Figure]:
    """Damage and read files of each format."""
    root = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=root) as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in formats(Path(name)):
            path = Path(name, one.file)
            path.parent.mkdir(parents=True, exist_ok=True)
            trials = max(20, int(one.share * count))
            figure = Figure(f"fuzzed {one.name} were read or refused as documented")
            refused = 0
            for _ in range(trials):
                raw = (sealed(rng, rng.choice(one.seeds)) if one.sealed else
                       damaged(rng, one.seeds))
                if one.name == "tar archives":
                    raw = gzip.compress(raw, 1)
                path.write_bytes(raw)
                try:
                    with limits(10, (64 << 20) + 100 * len(raw)):
                        one.read(path)
                except one.error:
                    refused += 1
                except Exception as error:
                    path.with_name(f"kept-{figure.trials}").write_bytes(raw)
                    figure.count(f"{type(error).__name__}: {error!s:.200}\n    {raw[:3000]!r}")
                    continue
                figure.count()
            figure.what += f" ({refused:,} refused)"
            yield figure
