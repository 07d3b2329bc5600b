"""Hostile names and paths, for every public writer and reader: they work, or are refused.

    python tests/reliability hostile_names

Either the file is written, alone, and is read again; or the documented error comes, whose text any
terminal can print.  Nothing is written to another place.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from reliability.report import Figure
from reliability.writers import WRITERS, Writer
from tinygrad_cnn.cli.receipt import read_receipt
from tinygrad_cnn.data import find, load, load_cifar10, load_idx, load_image_folder, read_idx
from tinygrad_cnn.errors import CheckpointError, DataError, SettingError, VizError
from tinygrad_cnn.io import load_checkpoint, load_weights, save_checkpoint, save_weights
from tinygrad_cnn.train import History
from tinygrad_cnn.viz import load as load_figure

NAMES = [
    "plain", " ", " a ", "a b", ".hidden", "-rf", "--help", "a;touch x", "$(touch x)", "`touch x`",
    "a|b", "a>b", "a&b", "*", "?", "[a]", "{a}", "~", "~root", "%s%n", "a'b", 'a"b', "a\\b", "..a",
    "a\nb", "a\rb", "a\tb", "\x1b[31mred", "é", "\u202egnp", "😀", "\ud800", "\udcff", "a\0b", "\0",
    "x" * 200, "x" * 300, "é" * 120, "é" * 130, "x" * 5000, "CON", "nul", "a:b",
    "a" + "\u0301" * 60, "<script>", "no/folder", "file/inside", "../../nowhere/x", "folder",
    "pipe", "loop", "dead link", "/dev/null", "/dev/full", "/proc/self/x", "/proc/1/root/x",
    "/dev/null/x", "",
]
READERS = {load_weights: CheckpointError, load_checkpoint: CheckpointError, read_idx: DataError,
           load_idx: DataError, load_cifar10: DataError, load_image_folder: DataError,
           load: (DataError, SettingError), History.load: DataError, load_figure: VizError,
           read_receipt: CheckpointError, lambda path: find("mnist", root=path): DataError}


def write(writer: Writer, folder: Path, name: str) -> str:
    """What went wrong."""
    path = folder / (name + writer.suffix)      # that of /dev/... if the name begins so
    before = {file: file.lstat().st_mode for file in folder.iterdir()}
    try:
        writer.write(path)
    except writer.error as error:
        new = set(folder.iterdir()) - set(before)
        if not isinstance(error, (CheckpointError, VizError)) or "\n" in str(error).replace(
                str(path), ""):
            return f"says {error!r:.200}"
        try:
            str(error).encode()
        except UnicodeEncodeError:
            return f"cannot be printed: {error!r:.200}"
        return f"left {new}" if new else ""
    except Exception as error:
        return f"{type(error).__name__}: {error!r:.200}"
    try:
        writer.read(path)
    except Exception as error:
        return f"is not read again: {type(error).__name__}: {error!r:.200}"
    finally:
        new = set(folder.iterdir()) - set(before)
        for file in new:
            file.unlink()
    return "" if len(new) <= 1 else f"left {new}"


def measure(count: int, rng: random.Random) -> Iterator[Figure]:
    """Each name for each writer, each reader, and as the name of an array."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = Figure(f"files of {len(NAMES)} names and {len(WRITERS)} writers were written and "
                         "read again, or refused as documented")
        for title, writer in WRITERS.items():
            (folder / f"file{writer.suffix}").write_bytes(b"")
            (folder / f"folder{writer.suffix}").mkdir()
            os.mkfifo(folder / f"pipe{writer.suffix}")
            (folder / f"loop{writer.suffix}").symlink_to(folder / f"loop{writer.suffix}")
            (folder / f"dead link{writer.suffix}").symlink_to("/nonexistent/file")
            for text in NAMES[:-1]:
                said = write(writer, folder, text.replace("file/", f"file{writer.suffix}/"))
                written.count(said and f"{title}, {text!r:.60}: {said}")
            for file in folder.iterdir():
                file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
        yield written
        read = Figure(f"reads of {len(NAMES)} names by {len(READERS)} readers were refused as "
                      "documented")
        (folder / "file").write_bytes(b"")
        (folder / "folder").mkdir()
        os.mkfifo(folder / "pipe")
        (folder / "loop").symlink_to(folder / "loop")
        for reader, error in READERS.items():
            for text in NAMES:
                said = "was read"
                try:
                    reader(text if text.startswith(("/", "~")) else str(folder / text))
                except error as refused:
                    said = ""
                    try:
                        str(refused).encode()
                    except UnicodeEncodeError:
                        said = f"cannot be printed: {refused!r:.200}"
                except Exception as other:
                    said = f"{type(other).__name__}: {other!r:.200}"
                read.count(said and f"{reader.__qualname__}, {text!r:.60}: {said}")
        yield read
        arrays = Figure("names of arrays came back, or were refused; none was a path")
        place = folder / "w"
        for text in [*NAMES, "../x", "a/../../x", "/etc/passwd", "sha256", "sha256:a", "shape"]:
            said = ""
            for save in (lambda: save_weights({text: np.ones(2), "a": np.zeros(1)}, place),  # noqa: B023
                         lambda: save_checkpoint(place, **{text: np.ones(2)}, a={text: 1})):  # noqa: B023
                try:
                    save()
                    load_weights(place)
                    found = load_weights(place) if save.__code__.co_consts[1] != "a" else {}
                    if found and text in found and found[text].tolist() != [1, 1]:
                        said = "another value"
                except CheckpointError:
                    pass
                except Exception as error:
                    said = f"{type(error).__name__}: {error!r:.200}"
            arrays.count(said and f"{text!r:.60}: {said}")
        yield arrays
