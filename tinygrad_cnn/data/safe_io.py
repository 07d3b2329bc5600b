"""Reading untrusted files in bounded memory: plain, gzip, tar and pickle.

Every reader of this folder takes its bytes from here.  No size that a file claims is believed
before it is compared with the size that the file has; a compressed file is unpacked only as far as
its contents may reach; nothing is ever extracted to disk, and nothing in a pickle is ever called.

Published checksums, so that a name always means the same pixels, stand at the end.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import gzip
import hashlib
import io
import math
import pickle
import posixpath
import re
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.errors import DataError
from tinygrad_cnn.files import GZIP_MAGIC, describe, open_file, shown, words
from tinygrad_cnn.types import Function, Settings

__all__ = ["CLASSES", "PUBLISHED", "check_digest", "open_gzip", "read_batch", "reads_files",
           "tar_members"]

P = ParamSpec("P")
T = TypeVar("T")

def reads_files(function: Callable[P, T]) -> Callable[P, T]:
    """A reader whose errors of the operating system, and of impossible paths, are a DataError."""
    @functools.wraps(function)
    def read(*args: P.args, **settings: P.kwargs) -> T:
        try:
            return function(*args, **settings)
        except DataError as refused:
            if (text := shown(str(refused))) == str(refused):
                raise
            raise DataError(text) from None             # with a path that no terminal can print
        except (OSError, UnicodeError, RuntimeError) as failed:     # RuntimeError: of "~nobody"
            path = getattr(failed, "filename", None) or [*args, *settings.values()][0]
            raise DataError(f"{shown(str(path))}: cannot be read: {words(failed)}") from None
    return read


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


@contextlib.contextmanager
def open_gzip(file: BinaryIO, path: Path) -> Iterator[gzip.GzipFile]:
    """Unpack gzip data piece by piece; what is wrong with them is a DataError.

    The checksum is verified when the end is read.
    """
    try:
        with gzip.GzipFile(fileobj=file) as stream:
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the gzip data is damaged or cut off: {error}") from None


# ---- archives ------------------------------------------------------------------------------------

_MAX_TOTAL = 512 << 20        # bytes unpacked, wanted or not: CIFAR-10 has 180 MiB
_MAX_MEMBERS = 1_000
_MAX_EXTENSION = 1 << 16
_EXTENSIONS = {"path", "linkpath", "size", "hdrcharset"}


class _PlainMember(tarfile.TarInfo):
    """A file, a folder, or an extension header; links, devices, sparse files and the like are not.

    That leaves nothing of the tricks that archives play on those who extract them.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _PlainMember:
        """A member from its header, refused before its contents are looked at."""
        member = super().frombuf(buf, encoding, errors)
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE,
                               tarfile.XHDTYPE):
            raise DataError(f"the member {member.name!a} is of type {member.type!r}; only files "
                            "and folders are read")
        most = _MAX_EXTENSION if member.type == tarfile.XHDTYPE else _MAX_TOTAL
        if not 0 <= member.size <= most:
            raise DataError(f"the member {member.name!a} has {member.size:,} bytes, more than the "
                            f"{most:,} that are read")
        return member


def tar_members(path: Path, wanted: Collection[str], *, limit: int) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, contents) for each wanted member of a ``.tar.gz``, in its order.

    The archive is read as a stream; nothing is extracted.  A member is wanted if it lies in one top
    folder, or in none, under one of the names; more than ``limit`` bytes of it are refused.
    """
    with open_file(path, DataError) as file:
        head = file.read(512)
        file.seek(0)
        if not head.startswith(GZIP_MAGIC):
            raise DataError(f"{path}: is not a gzip archive but {describe(head)}")
        with open_gzip(file, path) as stream:
            try:
                with tarfile.open(fileobj=stream, mode="r|", tarinfo=_PlainMember) as tar:
                    yield from _wanted(tar, wanted, limit)
                    _check_end(tar)
            except (tarfile.TarError, DataError, ValueError) as error:
                raise DataError(f"{path}: {error}") from None


def _wanted(tar: tarfile.TarFile, wanted: Collection[str],
            limit: int) -> Iterator[tuple[str, bytes]]:
    seen: set[str] = set()
    for count, member in enumerate(tar, start=1):
        if count > _MAX_MEMBERS:
            raise DataError(f"has more than {_MAX_MEMBERS:,} members")
        if member.offset_data + member.size > _MAX_TOTAL:
            raise DataError(f"unpacks to more than {_MAX_TOTAL:,} bytes")
        if changed := [key for key in member.pax_headers
                       if key in _EXTENSIONS or key.startswith("GNU.")]:
            raise DataError(f"an extension header changes {changed[0]} of the member after it; "
                            "only plain members are read")
        folder, short = posixpath.split(posixpath.normpath(member.name))
        if short not in wanted or "/" in folder or folder == "..":
            continue
        if short in seen:
            raise DataError(f"holds {short} twice")
        if member.size > limit:
            raise DataError(f"the member {member.name!a} has {member.size:,} bytes, more than the "
                            f"{limit:,} that such a file can have")
        seen.add(short)
        content = tar.extractfile(member)
        if content is None:
            raise DataError(f"the member {member.name!a} is a folder")
        yield short, content.read()


def _check_end(tar: tarfile.TarFile) -> None:
    """Only zeros may follow, which fill up the last record, and the checksum must hold."""
    assert tar.fileobj is not None
    for _ in range(64):
        block = tar.fileobj.read(1 << 14)
        if block.strip(b"\0"):
            break
        if not block:
            return
    raise DataError("has bytes after the end of the archive, or a damaged header")


# ---- pickles -------------------------------------------------------------------------------------

# A batch of 10,000 images takes about 60,000 instructions, in any protocol.
_MAX_STEPS = 1_000_000

# What repr() of a Python 2 string writes, and nothing else; possessive, so it cannot backtrack.
_PY2_TEXT = re.compile(rb"(?:[^\\]|\\(?:x[0-9a-fA-F]{2}|[\\'\"nrt]))*+", re.DOTALL)


def read_batch(raw: bytes, *, path: str) -> Settings:
    """Read a pickled dict of strings, numbers, lists and byte arrays; nothing is ever executed.

    ``raw`` is the whole file, in any of the protocols 0 to 5, as Python 2 and 3 and NumPy 1 and 2
    write them; ``path`` is its name in messages.  Keys come as text, arrays read-only, of uint8.
    """
    if not raw:
        raise DataError(f"{path}: is an empty file")
    machine = _Unpickler(raw)
    if raw[0] not in machine.dispatch:
        raise DataError(f"{path}: is not a batch of CIFAR-10's Python version but "
                        f"{describe(raw[:512])}")
    try:
        found = machine.load()
    except EOFError:
        raise DataError(f"{path}: the pickle is cut off") from None
    except Exception as error:              # a hostile stream can raise anything
        raise DataError(f"{path}: {error}") from None
    if left := machine.left():
        raise DataError(f"{path}: {left:,} bytes follow the end")
    if type(found) is not dict:
        raise DataError(f"{path}: the file does not hold one dict")
    batch: Settings = {}
    for key, value in found.items():
        if _text(key) in batch:
            raise DataError(f"{path}: has the key {_text(key)!a} twice")
        if isinstance(value, _Array) and value.value is None:
            raise DataError(f"{path}: the array {_text(key)!a} has no contents")
        batch[_text(key)] = value.value if isinstance(value, _Array) else value
    return batch


def _text(value: object) -> str:
    """A string of Python 2 or 3 as text; "" for anything else."""
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    return value if isinstance(value, str) else ""


class _Dtype:
    """Stands for NumPy's unsigned byte, the only dtype of a batch."""

    def set(self, state: Any) -> None:
        if len(state) not in (8, 9) or _text(state[1]) != "|" or state[2:5] != (None,) * 3:
            raise DataError("a dtype with fields, or of another byte order")


class _Array:
    """Stands for an array whose shape and bytes come in a later instruction."""

    def __init__(self, value: NDArray[np.uint8] | None = None) -> None:
        self.value = value

    def set(self, state: Any) -> None:
        if self.value is not None or len(state) != 5 or type(state[3]) not in (bool, int):
            raise DataError("the state of an array is not understood")
        _, shape, dtype, fortran, buffer = state
        self.value = _array(buffer, dtype, shape, "F" if fortran else "C")


def _array(buffer: object, dtype: object, shape: object, order: str) -> NDArray[np.uint8]:
    if not isinstance(dtype, _Dtype):
        raise DataError("an array is not of unsigned bytes (dtype u1)")
    if type(buffer) is not bytes:
        raise DataError("the contents of an array are not bytes")
    if not (type(shape) is tuple and 1 <= len(shape) <= 4
            and all(type(n) is int and n > 0 for n in shape)):
        raise DataError("the shape of an array is not one to four sizes above 0")
    if math.prod(shape) != len(buffer):
        raise DataError(f"an array of shape {shape} with {len(buffer):,} bytes")
    return np.frombuffer(buffer, np.uint8).reshape(shape, order="F" if order == "F" else "C")


# What takes the place of each name that a batch may mention; nothing is ever looked up.

def _ndarray() -> None:
    raise DataError("numpy.ndarray is called")


def _dtype(code: object, align: object, copy: object) -> _Dtype:
    if _text(code) != "u1":
        raise DataError("an array is not of unsigned bytes (dtype u1)")
    return _Dtype()


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    if kind is not _ndarray or shape != (0,) or _text(code) != "b":
        raise DataError("an array begins in an unknown way")
    return _Array()


def _frombuffer(buffer: object, dtype: object, shape: object, order: object) -> _Array:
    """Protocol 5."""
    if _text(order) not in ("C", "F"):
        raise DataError("an array has an unknown order")
    return _Array(_array(buffer, dtype, shape, _text(order)))


def _encode(text: object, encoding: object) -> bytes:
    """How Python 3 writes a byte string in protocols 0 to 2."""
    if not isinstance(text, str) or _text(encoding) != "latin1":
        raise DataError("_codecs.encode of something that is not bytes")
    return text.encode("latin1")


_NAMES: dict[str, Function] = {
    "numpy.ndarray": _ndarray, "numpy.dtype": _dtype, "_codecs.encode": _encode,
    **{f"numpy.{core}.{name}": stand_in for core in ("core", "_core")      # renamed in NumPy 2
       for name, stand_in in (("multiarray._reconstruct", _reconstruct),
                              ("numeric._frombuffer", _frombuffer))},
}

# MARK, memo, numbers, byte strings, text, containers, names, calls, states, frames and the end.
_ALLOWED = (b"(pq\x94rghj" b"N\x88\x89ILJKM\x8a" b"SUTCB\x8e" b"V\x8cX\x8d"
            b")t\x85\x86\x87]lae}dsu" b"c\x93" b"R" b"b" b"\x80\x95.")


# The one in Python: with the one in C a short file can reserve much memory (a memo of any size) and
# hash deeply nested keys.
_Standard: Any = pickle._Unpickler


class _Steps(dict[int, Callable[["_Unpickler"], None]]):
    """The instructions of a batch; any other is refused."""

    def __missing__(self, code: int) -> NoReturn:
        raise DataError(f"the instruction {bytes([code])!r} is never needed for images")


class _Unpickler(_Standard):                # type: ignore[misc]
    """The standard unpickler with few instructions, in which no name is looked up."""

    def __init__(self, raw: bytes) -> None:
        self._file = io.BytesIO(raw)
        super().__init__(self._file, encoding="bytes")
        self._size = len(raw)
        self._encoded = self._steps = 0

    def left(self) -> int:
        """How many bytes follow the end."""
        frame = self._unframer.current_frame
        return self._size - self._file.tell() + (len(frame.read()) if frame else 0)

    def find_class(self, module: str, name: str) -> object:
        """The stand-in of a name."""
        words = f"{module}.{name}"
        if words not in _NAMES:
            shown = ascii(words if len(words) <= 60 else words[:57] + "...")
            raise DataError(f"the file names {shown}, which images never need; nothing of it was "
                            "run; do not trust the file")
        return _NAMES[words]

    def persistent_load(self, pid: object) -> NoReturn:
        """Never needed."""
        raise DataError("a persistent id is never needed for images")

    def _frame(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        if size > self._size - self._file.tell():
            raise DataError(f"a frame of {size:,} bytes, more than the file has")
        self._unframer.load_frame(size)

    def _string(self) -> None:
        line = self.readline()[:-1]
        if len(line) < 2 or line[:1] not in b"'\"" or line[:1] != line[-1:]:
            raise DataError("a string is not quoted")
        if not _PY2_TEXT.fullmatch(line, 1, len(line) - 1):
            raise DataError("a string holds an escape that Python 2 never writes")
        self.append(codecs.escape_decode(line[1:-1])[0])

    def _call(self) -> None:
        arguments = self.stack.pop()
        if self.stack[-1] not in _NAMES.values() or type(arguments) is not tuple:
            raise DataError("a call of something that cannot be called here")
        self.stack[-1] = made = self.stack[-1](*arguments)
        self._encoded += len(made) if isinstance(made, bytes) else 0
        if self._encoded > 4 * self._size + 4096:           # one long text, again and again
            raise DataError("the strings outgrow the file")

    def _state(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], (_Array, _Dtype)) or type(state) is not tuple:
            raise DataError("a state for something that is not a new array")
        self.stack[-1].set(state)

    def _fill(self, items: list[object]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise DataError("a key has no value, or no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, bytes):               # hashing a nested tuple would recurse
                raise DataError(f"a key is a {type(key).__name__}, not a string")
            if key in target:
                raise DataError(f"the key {_text(key)[:60]!a} comes twice")
            target[key] = value

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._fill(items)


def _counted(step: Callable[[Any], None]) -> Callable[[Any], None]:
    def run(machine: _Unpickler) -> None:
        machine._steps += 1
        if machine._steps > _MAX_STEPS:
            raise DataError(f"more than {_MAX_STEPS:,} instructions")
        step(machine)
    return run


_Unpickler.dispatch = _Steps({code: _counted(step) for code, step in {
    **{code: _Standard.dispatch[code] for code in _ALLOWED},
    b"\x95"[0]: _Unpickler._frame, b"S"[0]: _Unpickler._string, b"R"[0]: _Unpickler._call,
    b"b"[0]: _Unpickler._state, b"d"[0]: _Unpickler._dict,
    b"s"[0]: lambda m: m._fill([m.stack.pop(-2), m.stack.pop()]),
    b"u"[0]: lambda m: m._fill(m.pop_mark()),
    b"\x96"[0]: _Standard.load_binbytes8,
}.items()})


# ---- published sets ------------------------------------------------------------------------------

# SHA-256 of the unpacked IDX files and of the binary CIFAR-10 batches; MD5 of the Python CIFAR-10
# batches, for which that is the checksum in circulation.  They detect damage and mix-ups:
# Fashion-MNIST uses the file names of MNIST, and the two cannot be told apart by size.

CLASSES = {
    "digits": tuple("0123456789"),
    "mnist": tuple("0123456789"),
    "fashion-mnist": ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt",
                      "sneaker", "bag", "ankle boot"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
                "truck"),
}

PUBLISHED = {
    "mnist": {
        "train-images-idx3-ubyte":
            "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte":
            "sha256:65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte":
            "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte":
            "sha256:ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte":
            "sha256:c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte":
            "sha256:bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte":
            "sha256:5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte":
            "sha256:0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    "cifar10": {
        "data_batch_1.bin":
            "sha256:cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin":
            "sha256:a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin":
            "sha256:bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin":
            "sha256:014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin":
            "sha256:755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin":
            "sha256:8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        "data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
        "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
        "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "md5:40351d587109b95175f43aff81a1287e",
    },
}
