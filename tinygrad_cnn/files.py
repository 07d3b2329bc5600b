"""Files, opened for reading and for writing in one place: every reader and writer goes through it.

Only regular files are read: a folder, a device or a named pipe is refused and nothing hangs.  A
file is written beside its target and renamed, so that it is whole or not there, whatever ends the
program.  Each caller says which error its users know; what the operating system says becomes that.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from tinygrad_cnn.errors import CheckpointError

Error = Callable[[str], Exception]     # what is raised, made from a message

__all__ = ["check_expansion", "open_file", "write_atomically"]

# Real images shrink 2 to 10 times, deflate at most 1,032 times.  Above this ratio a large payload
# is taken for a bomb; a small one is harmless whatever its ratio.
_MAX_RATIO = 100
_SMALL_PAYLOAD = 4 << 20

_live: set[str] = set()             # the drafts that this process is writing


@contextlib.contextmanager
def open_file(path: str | os.PathLike[str], error: Error) -> Iterator[BinaryIO]:
    """Open a regular file for reading; anything else, and a failure to read, is an ``error``."""
    try:
        # O_NONBLOCK: opening a named pipe that has no writer must not wait for ever
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
                         | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise error(f"{path!s} does not exist") from None
    except (OSError, ValueError) as failed:             # ValueError: no name of a file at all
        raise error(f"{shown(path)}: cannot be read: {words(failed)}") from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise error(f"{path!s}: is not a regular file")
    with os.fdopen(number, "rb") as file:
        try:
            yield file
        except OSError as failed:
            raise error(f"{path!s}: cannot be read: {words(failed)}") from None


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
        draft = target.with_name(_draft_name(target))
        _live.add(draft.name)
        number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0),
                         0o666 if mode is None else mode)
        with os.fdopen(number, "wb") as file:
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(number, mode)                 # the umask may have taken rights away
            yield file
            file.flush()
            os.fsync(number)
        os.replace(draft, target)
        _sync_folder(target.parent)
    except FileNotFoundError:
        raise error(f"{shown(path)} cannot be written: the folder {target.parent} does not exist; "
                    "create it first") from None
    except (OSError, UnicodeError) as failed:
        raise error(f"{shown(path)} cannot be written: {words(failed)}") from None
    except ValueError as failed:                        # a NUL in the name; or of the block
        if draft is not None:
            raise
        raise error(f"{shown(path)} cannot be written: {words(failed)}") from None
    finally:
        if draft is not None:
            with contextlib.suppress(OSError):
                draft.unlink()
            _live.discard(draft.name)


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


def _draft_name(target: Path) -> str:
    """A short name beside the target; drafts of processes that ended are removed."""
    owner = hashlib.sha256(f"{platform.node()}\0{target.name}".encode()).hexdigest()[:12]
    for old in target.parent.glob(f".{owner}-*.tmp"):
        with contextlib.suppress(OSError, ValueError):
            if old.name not in _live and not _runs(int(old.name.split("-")[1])):
                old.unlink()
    return f".{owner}-{os.getpid()}-{secrets.token_hex(4)}.tmp"


def _runs(number: int) -> bool:
    """Whether another process of that number is there."""
    if number == os.getpid():
        return False
    if os.name != "posix":
        return True                                     # not known
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _sync_folder(folder: Path) -> None:
    """Let the new name survive a power cut too, where folders can be synchronized."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
