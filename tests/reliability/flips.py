"""Every flipped bit, every length, and bytes in front and behind, of files of each format.

    python tests/reliability flips [--count 1000000]

At most ``count`` flips and lengths of each file, evenly spread.  Files with digests or checksums
must be refused, or, where a bit means nothing (a date of gzip), hold the same.
"""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from reliability.report import Figure
from tinygrad_cnn.data import load_cifar10, read_idx
from tinygrad_cnn.errors import TinygradCnnError
from tinygrad_cnn.io import load_checkpoint, load_weights, save_checkpoint, save_weights


def files(folder: Path) -> Iterator[tuple[str, Path, Callable[[Path], Any], bool]]:
    """Name, file, reader, and whether every bit of it must be refused."""
    rng = np.random.default_rng(0)
    yield ("weights of 800 bytes", save_weights(
        {"a": rng.normal(size=(6, 9)), "b": np.array([True])}, folder / "small"), load_weights,
        True)
    yield ("weights of 100 kB", save_weights({"a": rng.normal(size=12_400).reshape(124, 100)},
                                             folder / "large"), load_weights, True)
    yield ("a checkpoint", save_checkpoint(
        folder / "run", rng=rng, model={"w": rng.normal(size=20)}, history=[{"loss": 0.5}]),
        load_checkpoint, True)
    (folder / "idx").write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 3])
                                 + rng.bytes(24))
    packed = folder / "idx.gz"
    packed.write_bytes(gzip.compress((folder / "idx").read_bytes(), mtime=0))
    yield "a gzip IDX file", packed, read_idx, False
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
            content = bytes([3]) + bytes(3072)
            member = tarfile.TarInfo(f"{name}.bin")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    yield ("a CIFAR-10 archive", folder / "cifar-10-binary.tar.gz",
           lambda path: [(d.images, d.labels) for d in load_cifar10(path)], False)


def key(found: Any) -> Any:
    """Something that is equal if and only if the contents are."""
    if isinstance(found, np.ndarray):
        return found.dtype.str, found.shape, found.tobytes()
    if isinstance(found, dict):
        return {name: key(value) for name, value in found.items()}
    return [key(value) for value in found] if isinstance(found, (list, tuple)) else found


def measure(count: int, rng: random.Random) -> Iterator[Figure]:
    """Damage each file in each way, and read it."""
    root = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=root) as name:
        for what, path, read, all_refused in files(Path(name)):
            whole = path.read_bytes()
            right = key(read(path))

            def judge() -> str:
                try:
                    found = key(read(path))                     # noqa: B023
                except TinygradCnnError:
                    return ""
                if not all_refused and found == right:          # noqa: B023
                    return ""
                return "was read"

            flips = Figure(f"flipped bits of {what} ({len(whole):,} bytes) refused"
                           + " or without meaning" * (not all_refused))
            number = os.open(path, os.O_RDWR)
            for bit in range(0, 8 * len(whole), max(1, 8 * len(whole) // count)):
                place = bit // 8
                os.pwrite(number, bytes([whole[place] ^ 1 << bit % 8]), place)
                said = judge()
                flips.count(said and f"bit {bit} {said}")
                os.pwrite(number, whole[place:place + 1], place)
            yield flips
            cut = Figure(f"lengths of {what} refused")
            for length in range(len(whole) - 1, -1, -max(1, len(whole) // count)):
                os.ftruncate(number, length)
                said = judge()
                cut.count(said and f"length {length} {said}")
            os.close(number)
            yield cut
            more = Figure(f"additions to {what} refused")
            for extra in (b"\0", b" ", b"\n", bytes(8), whole[:8], whole):
                for content in (extra + whole, whole + extra):
                    path.write_bytes(content)
                    said = judge()
                    more.count(said and f"{extra[:8]!r} {said}")
            yield more
