"""Reading files that nobody vouches for, in bounded memory.

Every reader of this folder takes its bytes from here.  No size that a file claims is believed
before it is compared with the size that the file has; a compressed file is unpacked only as far as
its contents may reach; nothing is ever extracted to disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tinygrad_cnn.errors import DataError

__all__ = ["GZIP_MAGIC", "GzipStream", "check_digest", "check_expansion", "describe",
           "open_file", "read_whole"]

GZIP_MAGIC = b"\x1f\x8b"

# Real images shrink 2 to 10 times, deflate at most 1,032 times.  Above this ratio a large payload
# is taken for a bomb; a small one is harmless whatever its ratio.
MAX_RATIO = 100
SMALL_PAYLOAD = 4 << 20

_CHUNK = 1 << 18

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
    for start, words in _KNOWN_STARTS:
        if head.startswith(start):
            return words
    sample = head[:24]
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in sample):
        return f"text that begins {sample.decode('ascii')!r}"
    return "bytes " + head[:8].hex(" ")


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; a device, a pipe or a missing file is a DataError."""
    try:
        # O_NONBLOCK: opening a named pipe that has no writer must not wait for ever
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
                         | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise DataError(f"{path}: is not a regular file")
    with os.fdopen(number, "rb") as file:
        try:
            yield file
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def read_whole(path: Path, *, limit: int) -> bytes:
    """All bytes of a regular file, refused unread when it is larger than ``limit`` bytes."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise DataError(f"{path}: has {size:,} bytes, more than the {limit:,} that such a file "
                            "can have")
        return file.read(limit + 1)


def check_digest(found: bytes | memoryview, expected: str | None, *, path: Path | str,
                 name: str) -> None:
    """Compare with a published checksum, written ``sha256:…`` or ``md5:…``; None passes."""
    if expected is None:
        return
    kind, _, digits = expected.partition(":")
    if hashlib.new(kind, found, usedforsecurity=False).hexdigest() != digits:
        raise DataError(f"{path}: is not the published file of {name}: its {kind.upper()} differs. "
                        "It is damaged or belongs to another set; fetch it again, or give the path "
                        "of the folder instead of the name to read it as it is")


def check_expansion(payload: int, compressed: int, *, path: Path) -> None:
    """Refuse to unpack ``compressed`` bytes into a payload that they can hardly hold."""
    if payload > SMALL_PAYLOAD and payload > MAX_RATIO * compressed:
        raise DataError(f"{path}: {compressed:,} compressed bytes claim to hold {payload:,}, more "
                        f"than {MAX_RATIO} times as much; if you trust the file, unpack it "
                        "yourself and read the plain one")


class GzipStream:
    """One gzip member, unpacked piece by piece; its checksum is verified at the end.

    ``gzip.open`` joins several members into one and ignores zeros after them; here whatever follows
    the first member is an error.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._unpack = zlib.decompressobj(wbits=31)      # 31: gzip header and CRC-32
        self._input = b""

    def _some(self, limit: int) -> bytes:
        """From 1 to ``limit`` bytes; none at the end of the member."""
        while not self._unpack.eof:
            if not self._input:
                self._input = self._file.read(_CHUNK)
                if not self._input:
                    raise DataError(f"{self._path}: the gzip data is cut off")
            try:
                piece = self._unpack.decompress(self._input, limit)
            except zlib.error as error:
                raise DataError(f"{self._path}: the gzip data is damaged ({error})") from error
            self._input = self._unpack.unconsumed_tail
            if piece:
                return piece
        return b""

    def read_into(self, target: memoryview) -> int:
        """Fill ``target`` as far as the contents reach; how many bytes were written."""
        done = 0
        while done < len(target):
            piece = self._some(len(target) - done)
            if not piece:
                break
            target[done:done + len(piece)] = piece
            done += len(piece)
        return done

    def read(self, count: int) -> bytes:
        """At most ``count`` bytes; fewer only at the end."""
        room = bytearray(count)
        return bytes(room[:self.read_into(memoryview(room))])

    def finish(self) -> None:
        """Check that the contents, and the file, end here."""
        if self._some(1):
            raise DataError(f"{self._path}: holds more than its header announces")
        if self._unpack.unused_data or self._file.read(1):
            raise DataError(f"{self._path}: has bytes after the end of the gzip data (a second "
                            "member, or something appended)")
