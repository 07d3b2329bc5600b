"""Files, opened for reading and for writing in one place: every reader and writer goes through it.

Only regular files are read: a folder, a device or a named pipe is refused and nothing hangs.  No
size that a file claims is believed, and text is parsed only if its values fit into memory that the
size of the file justifies.  A file is written beside its target and renamed, so that it is whole or
not there, whatever ends the program.  Each caller says which error its users know; what the
operating system says becomes that.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from tinygrad_cnn.errors import CheckpointError

try:
    import fcntl
except ImportError:                     # Windows, where a file that is open cannot be removed
    fcntl = None                        # type: ignore[assignment]

Error = Callable[[str], Exception]     # what is raised, made from a message

__all__ = ["GZIP_MAGIC", "check_expansion", "check_text", "describe", "open_file", "parse_json",
           "read_whole", "write_atomically"]

GZIP_MAGIC = b"\x1f\x8b"

# Real images shrink 2 to 10 times, deflate at most 1,032 times.  Above this ratio a large payload
# is taken for a bomb; a small one is harmless whatever its ratio.
_MAX_RATIO = 100
_SMALL_PAYLOAD = 4 << 20

# A named pipe that has no writer is not waited for, and no link is followed.
_CAREFUL = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)

_KNOWN_STARTS = (
    (b"\x7fELF", "a program"), (b"PK\x03\x04", "a zip archive"), (GZIP_MAGIC, "a gzip file"),
    (b"\x89PNG", "a PNG image"), (b"\xff\xd8\xff", "a JPEG image"), (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"), (b"BZh", "a bzip2 file"), (b"\xfd7zXZ", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"), (b"\x93NUMPY", "a NumPy array file"),
    *((bytes([0x80, version]), "a pickle") for version in range(2, 6)),
    (b"version https://git-lfs", "a Git LFS pointer: the data itself was not fetched"),
)


def describe(head: bytes) -> str:
    """What a file seems to be, judged by its first bytes.

    >>> describe(b"<!DOCTYPE html><html>"), describe(b""), describe(bytes(4))
    ('an HTML page', 'an empty file', 'bytes 00 00 00 00')
    """
    if not head:
        return "an empty file"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if text.startswith((b"<?xml", b"<error", b"<")):
        return "an XML or HTML document"
    for start, kind in _KNOWN_STARTS:
        if head.startswith(start):
            return kind
    sample = head[:24]
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in sample):
        return f"text that begins {sample.decode('ascii')!r}"
    return "bytes " + head[:8].hex(" ")


@contextlib.contextmanager
def open_file(path: str | os.PathLike[str], error: Error) -> Iterator[BufferedReader]:
    """Open a regular file for reading; anything else, and a failure to read, is an ``error``."""
    try:
        # O_NONBLOCK: opening a named pipe that has no writer must not wait for ever
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
                         | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise error(f"{shown(path)} does not exist") from None
    except (OSError, ValueError) as failed:             # ValueError: no name of a file at all
        raise error(f"{shown(path)}: cannot be read: {words(failed)}") from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise error(f"{shown(path)}: is not a regular file")
    with os.fdopen(number, "rb") as file:
        try:
            yield file
        except OSError as failed:
            raise error(f"{shown(path)}: cannot be read: {words(failed)}") from None


def read_whole(path: str | os.PathLike[str], error: Error, *, limit: int) -> bytes:
    """All bytes of a regular file, refused unread when it is larger than ``limit`` bytes."""
    with open_file(path, error) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise error(f"{shown(path)}: has {size:,} bytes, more than the {limit:,} that such a "
                        "file can have")
        return file.read(limit + 1)


def check_text(text: bytes, room: int) -> None:
    """Refuse text whose values could take more than ``room`` bytes once it is parsed.

    A value of Python takes much more memory than its text: ``{}`` 64 bytes, ``"ab"`` 51, and a
    letter four if there is one like 𝕩 in its string.  A ValueError says what was found.
    """
    wide = 1 if text.isascii() and b"\\u" not in text else 4
    need = (len(text) * (1 + 2 * wide) + 250 * (text.count(b"{") + text.count(b"\n"))
            + 90 * text.count(b"[") + 60 * text.count(b'"') + 36 * text.count(b","))
    if need > room:
        raise ValueError(f"{len(text):,} bytes of text may need {need:,} bytes of memory, more "
                         f"than {room:,}")


def parse_json(text: bytes, room: int) -> object:
    """JSON in at most ``room`` bytes; no key may come twice, no number be infinite or NaN.

    A ValueError says what is wrong.

    >>> parse_json(b'{"a": [1, 2.5]}', 1000)
    {'a': [1, 2.5]}
    """
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a key comes twice")
        return found

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise ValueError(f"{number:.20} is no finite number")
        return value

    check_text(text, room)
    try:
        return json.loads(text.decode(), object_pairs_hook=unique, parse_float=finite,
                          parse_constant=finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike[str],
                     error: Error = CheckpointError) -> Iterator[BinaryIO]:
    """A binary file that replaces ``path`` when the block ends well, and vanishes otherwise.

    The permissions of a file that is replaced stay, and a link stays a link.  What an earlier
    process left half written for this path, because it was killed, is removed.  A failure of the
    operating system, in the block too, is an ``error``.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with write_atomically(folder + "/note") as file:
    ...         _ = file.write(b"whole")
    ...     pathlib.Path(folder, "note").read_bytes()
    b'whole'
    """
    draft = None
    try:
        target = Path(os.path.realpath(path))
        mode = _mode_of(target, error)
        draft, file = _draft(target, 0o666 if mode is None else 0o600)
        try:
            yield file
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
            if os.name != "nt":                         # while it is locked, nobody removes it
                os.replace(draft, target)
        finally:
            with contextlib.suppress(OSError):          # all that counts is synchronized
                file.close()
        if os.name == "nt":                             # where a file that is open stays
            os.replace(draft, target)
        _sync_folder(target.parent)
    except (OSError, UnicodeError) as failed:
        why = words(failed)
        if isinstance(failed, FileNotFoundError) and not target.parent.is_dir():
            why = f"the folder {shown(target.parent)} does not exist; create it first"
        raise error(f"{shown(path)} cannot be written: {why}") from None
    except ValueError as failed:                        # a NUL in the name; or of the block
        if draft is not None:
            raise
        raise error(f"{shown(path)} cannot be written: {words(failed)}") from None
    finally:
        if draft is not None:
            with contextlib.suppress(OSError):
                draft.unlink()


def check_expansion(payload: int, compressed: int, *, path: Path, error: Error) -> None:
    """Refuse to unpack ``compressed`` bytes into a payload that they can hardly hold."""
    if payload > _SMALL_PAYLOAD and payload > _MAX_RATIO * compressed:
        raise error(f"{path}: {compressed:,} compressed bytes claim to hold {payload:,}, more than "
                    f"{_MAX_RATIO} times as much; if you trust the file, unpack it yourself and "
                    "read the plain one")


def words(failed: Exception) -> str:
    """What the operating system says, without number and path."""
    return getattr(failed, "strerror", None) or str(failed)


def shown(path: str | os.PathLike[str]) -> str:
    """A path that any terminal can print."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _mode_of(target: Path, error: Error) -> int | None:
    """The permissions of a regular file; None if there is nothing."""
    try:
        found = target.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found):
        kind = "a folder" if stat.S_ISDIR(found) else "no regular file"
        raise error(f"{target} cannot be written: it is {kind}; give a file name")
    return stat.S_IMODE(found)


def _draft(target: Path, mode: int) -> tuple[Path, BinaryIO]:
    """A new file beside the target, open and locked; drafts that nobody holds are removed."""
    owner = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]
    for old in target.parent.glob(f".{owner}-*.tmp"):
        with contextlib.suppress(OSError), os.fdopen(os.open(old, os.O_RDONLY | _CAREFUL)) as file:
            _lock(file.fileno())
            old.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        draft = target.with_name(f".{owner}-{os.urandom(6).hex()}.tmp")
        made = os.fdopen(os.open(draft, flags, mode), "wb")
        try:
            _lock(made.fileno())
        except BlockingIOError:                         # somebody is about to remove it
            made.close()
            continue
        except OSError:                                 # nobody can lock here, so nobody removes
            pass
        if os.fstat(made.fileno()).st_nlink or os.name == "nt":
            return draft, made
        made.close()


def _lock(number: int) -> None:
    """Mark an open file as in use, until it is closed; an OSError if it is in use already."""
    if fcntl is not None:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync_folder(folder: Path) -> None:
    """Let the new name survive a power cut too, where folders can be synchronized."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
