"""Files inside a ``.tar.gz``, streamed into memory; nothing is ever extracted.

Only plain members are known: a header, the contents, padding.  Links, devices, sparse files and the
extension headers that rename or resize what follows are refused, and with them every trick that
archives play on those who extract them.  An extension that only adds a time or an owner is passed
over.

References
----------
IEEE Std 1003.1 (POSIX), *pax*, section "ustar Interchange Format".
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator
from pathlib import Path

from tinygrad_cnn.data.files import GZIP_MAGIC, GzipStream, describe, open_file
from tinygrad_cnn.errors import DataError

__all__ = ["tar_members"]

_BLOCK = 512
_MAX_TOTAL = 512 << 20        # bytes unpacked, wanted or not: CIFAR-10 has 180 MiB
_MAX_MEMBERS = 1_000


def tar_members(path: Path, wanted: Collection[str], *, limit: int) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, contents) for each wanted member, in the order of the archive.

    Parameters
    ----------
    path : Path
        A gzip-compressed tar archive.
    wanted : collection of str
        File names.  A member is wanted if it lies in one top folder, or in none, under that name.
    limit : int
        The most bytes that one wanted member may have.

    Raises
    ------
    DataError
        If the archive is damaged, has a member twice, one larger than ``limit``, one that is
        neither file nor folder, or more than 512 MiB or 1,000 members in all.
    """
    with open_file(path) as file:
        head = file.read(512)
        file.seek(0)
        if not head.startswith(GZIP_MAGIC):
            raise DataError(f"{path}: is not a gzip archive but {describe(head)}")
        stream = GzipStream(file, path)
        seen: set[str] = set()
        total = 0
        for _ in range(_MAX_MEMBERS):
            header = stream.read(_BLOCK)
            if header == bytes(_BLOCK):
                _finish(stream, path)
                return
            name, size, kind = _header(header, path)
            total += size
            if total > _MAX_TOTAL:
                raise DataError(f"{path}: unpacks to more than {_MAX_TOTAL:,} bytes")
            if kind == b"x":
                _pass_over_extension(stream, name, size, path)
            elif (short := _wanted(name, wanted)) is None:
                _skip(stream, size, path)
            else:
                if short in seen:
                    raise DataError(f"{path}: holds {short} twice")
                seen.add(short)
                yield short, _contents(stream, name, size, limit, path)
            _skip(stream, -size % _BLOCK, path)
        raise DataError(f"{path}: has more than {_MAX_MEMBERS:,} members")


def _wanted(name: str, wanted: Collection[str]) -> str | None:
    """The file name, if it is wanted and at most one folder deep."""
    folder, short = posixpath.split(posixpath.normpath(name))
    return short if short in wanted and "/" not in folder and folder != ".." else None


def _header(header: bytes, path: Path) -> tuple[str, int, bytes]:
    """Name, size and type of a member, after every check."""
    if len(header) < _BLOCK:
        raise DataError(f"{path}: the archive is cut off")
    # The checksum counts its own eight bytes as spaces.
    if sum(header[:148]) + 8 * 32 + sum(header[156:]) != _octal(header[148:156], path):
        raise DataError(f"{path}: is not a tar archive, or its checksum is wrong")
    name = header[:100].split(b"\0")[0].decode("utf-8", "replace")
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].split(b"\0")[0].decode("utf-8", "replace") + "/" + name
    kind = header[156:157]
    if kind not in (b"0", b"\0", b"5", b"x"):
        raise DataError(f"{path}: the member {name!a} is of type {kind!r}; only files and "
                        "folders are read")
    size = _octal(header[124:136], path)
    if kind == b"5" and size:
        raise DataError(f"{path}: the folder {name!a} has contents")
    return name, size, kind


def _pass_over_extension(stream: GzipStream, name: str, size: int, path: Path) -> None:
    """Accept a pax header that leaves the next member's name, size and kind alone."""
    records = _contents(stream, name, size, 1 << 16, path)
    for key in (b" path=", b" linkpath=", b" size=", b" GNU.", b" hdrcharset="):
        if key in records:
            raise DataError(f"{path}: an extension header changes {key.strip(b' =.').decode()} of "
                            "the member after it; only plain members are read")


def _octal(field: bytes, path: Path) -> int:
    digits = field.split(b"\0")[0].strip()
    if not digits or digits.strip(b"01234567"):
        raise DataError(f"{path}: is not a tar archive: a header holds {describe(field)} where a "
                        "number should be")
    return int(digits, 8)


def _contents(stream: GzipStream, name: str, size: int, limit: int, path: Path) -> bytes:
    if size > limit:
        raise DataError(f"{path}: the member {name!a} has {size:,} bytes, more than the "
                        f"{limit:,} that such a file can have")
    raw = stream.read(size)
    if len(raw) != size:
        raise DataError(f"{path}: the archive is cut off inside {name!a}")
    return raw


def _skip(stream: GzipStream, size: int, path: Path) -> None:
    while size:
        got = len(stream.read(min(size, 1 << 18)))
        if not got:
            raise DataError(f"{path}: the archive is cut off")
        size -= got


def _finish(stream: GzipStream, path: Path) -> None:
    """After the first block of zeros only zeros may follow: tar fills up its last record."""
    for _ in range(64):
        block = stream.read(1 << 14)
        if block.strip(b"\0"):
            raise DataError(f"{path}: has bytes after the end of the archive")
        if not block:
            stream.finish()
            return
    raise DataError(f"{path}: has bytes after the end of the archive")
