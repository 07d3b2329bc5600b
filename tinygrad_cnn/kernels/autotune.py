"""Kernels chosen by their times on this machine, where that is asked for.

Inside a block of ``autotune``, ``conv`` asks ``fastest`` for each call.  A call of a kind that
was not met before runs every kernel that takes it, on its own arrays; the quickest is remembered,
and kept in a file between processes.  Outside of such a block nothing is timed, read or written.

The file is plain JSON: its format, the machine, and the name of a kernel for each kind of call.  It
is read as data that anybody may have written, so the worst that it can do is to cost time.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import platform
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from tinygrad_cnn.contexts import block
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.files import parse_json, read_whole, words, write_atomically
from tinygrad_cnn.kernels.compiled import get_compiled
from tinygrad_cnn.kernels.parallel import get_num_threads
from tinygrad_cnn.types import Array, Function, Named, Settings
from tinygrad_cnn.version import __version__

__all__ = ["autotune", "fastest", "is_tuning", "machine"]

_FORMAT = "tinygrad_cnn kernel choices, version 1"
_NAMES = frozenset({"blas", "compiled", "winograd"})    # what a file may name
_ROUNDS = 3                                             # timed runs, of which the quickest counts
_LARGEST = 1 << 24                                      # bytes of a file, above which it is damaged

_clock: Callable[[], float] = time.perf_counter


@dataclass
class _Session:
    """One block of ``autotune``: its file, and what is known so far."""

    file: Path
    choices: dict[str, str]
    found: dict[str, str] = field(default_factory=dict)     # those that the file does not have
    lock: threading.Lock = field(default_factory=threading.Lock)


_session: ContextVar[_Session | None] = ContextVar("autotune", default=None)


@block
def autotune(path: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Choose the kernels of convolutions by timing them, inside the block.

    The first call of each kind, which is an op with its shapes, dtypes, settings, number of threads
    and whether compiled kernels are chosen, runs each kernel that takes it: once to warm up, then
    three times, in turns.  The one with the least time serves this call and all later ones of its
    kind.  At the end of the block the choices are kept in a file, which the next block reads, in
    this process or another.  Kernels that `use_kernels` names still come first.

    Kernels round differently, so with ``autotune`` results depend on which kernel was faster: they
    repeat to the last bit only while the remembered choices stay the same.  The file makes them
    stay; delete it to time again.  Like `no_grad`, the block holds for its thread or asynchronous
    task.

    Parameters
    ----------
    path : str or path, optional
        Folder of the file, made when it is needed.  The default is ``tinygrad_cnn`` in the user's
        cache directory: ``XDG_CACHE_HOME`` if it is set, ``LOCALAPPDATA`` on Windows, else
        ``~/.cache``.  The name of the file tells CPU, number of CPUs and versions of this package,
        NumPy and numba apart, so machines can share a folder.

    Warns
    -----
    RuntimeWarning
        If the file is damaged or cannot be read, whereupon it is ignored; if it cannot be written.

    Raises
    ------
    SettingError
        If ``path`` is neither a str nor a path, is empty, or is a file.

    Examples
    --------
    >>> import tempfile
    >>> x, w = Tensor(np.ones((2, 8, 8, 4))), Tensor(np.ones((3, 3, 4, 8)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with autotune(folder):                      # times the kernels, then keeps the choice
    ...         y = conv2d(x, w)
    ...     with autotune(folder):                      # reads it
    ...         y = conv2d(x, w)
    ...     len(os.listdir(folder))
    1
    """
    file = _folder(path) / _file_name()
    outer = _session.get()
    if outer is not None and outer.file == file:        # the outer block keeps the choices of both
        yield
        return
    known, trouble = _read(file)
    if trouble:
        warnings.warn(trouble, RuntimeWarning, stacklevel=3)
    session = _Session(file, known)
    try:
        _session.set(session)
        yield
    finally:
        _session.set(outer)
        trouble = _write(file, session.found)
        if trouble:
            warnings.warn(trouble, RuntimeWarning, stacklevel=3)


def is_tuning() -> bool:
    """Whether kernels are chosen by their times here and now."""
    return _session.get() is not None


def fastest(op: str, kernels: Mapping[str, Function], arrays: tuple[Array | None, ...],
            settings: Named) -> str | None:
    """The name of the quickest kernel for such a call, or None if all decline or nobody asks."""
    session = _session.get()
    if session is None:
        return None
    key = _key(op, arrays, settings)
    known = session.choices.get(key)
    if known in kernels:
        return known
    with session.lock:                      # two threads that time at once would time each other
        known = session.choices.get(key)
        if known in kernels:
            return known
        best = _race(kernels, arrays, settings)
        if best is not None:
            session.choices[key] = session.found[key] = best
        return best


def _race(kernels: Mapping[str, Function], arrays: tuple[Array | None, ...],
          settings: Named) -> str | None:
    session = _session.get()
    try:
        _session.set(None)                  # a kernel that calls an op does not time inside a race
        runs = [name for name, kernel in kernels.items()
                if kernel(*arrays, **settings) is not NotImplemented]
        if len(runs) < 2:
            return next(iter(runs), None)
        least = dict.fromkeys(runs, float("inf"))
        for _ in range(_ROUNDS):            # in turns, so that a change of load meets all of them
            for name in runs:
                start = _clock()
                kernels[name](*arrays, **settings)
                least[name] = min(least[name], _clock() - start)
        return min(least, key=least.__getitem__)        # of equals, the first
    finally:
        _session.set(session)


def _key(op: str, arrays: tuple[Array | None, ...], settings: Named) -> str:
    """What a choice depends on, as text: the same in every process."""
    inputs = ", ".join("none" if a is None else f"{a.dtype.name} {a.shape}" for a in arrays)
    plain = ", ".join(f"{name} {settings[name]}" for name in sorted(settings))
    kernels = "compiled and NumPy's" if get_compiled() else "NumPy's"
    return f"{op}({inputs}; {plain}); threads {get_num_threads()}; {kernels}"


# ---- the file -----------------------------------------------------------------------------------

def _folder(path: str | os.PathLike[str] | None) -> Path:
    if path is None:
        return _cache_directory() / "tinygrad_cnn"
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise SettingError(f"autotune: path must be the name of a folder, a str or a path, "
                           f"got {path!r}")
    if not os.fspath(path) or "\0" in os.fspath(path):
        raise SettingError(f"autotune: path must name a folder, got {path!r}; leave it out for "
                           f"the user's cache directory")
    folder = Path(os.path.abspath(os.path.expanduser(path)))
    if folder.is_file():
        raise SettingError(f"autotune: path must be a folder, but {path!s} is a file")
    return folder


def _cache_directory() -> Path:
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):                # the specification ignores any other
        return Path(given)
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"])
    return Path(os.path.expanduser("~"), ".cache").absolute()


@cache
def machine() -> Settings:
    """What times depend on, beside the call."""
    metadata = importlib.import_module("importlib.metadata")    # slow to import, and needed here
    try:
        compiler = metadata.version("numba")
    except metadata.PackageNotFoundError:
        compiler = None
    return {"cpu": _cpu_name(), "cpus": os.cpu_count(), "numpy": np.__version__,
            "tinygrad_cnn": __version__, "numba": compiler}


def _cpu_name() -> str:
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file_name() -> str:
    text = json.dumps(machine(), sort_keys=True)
    return f"kernels-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def _read(file: Path) -> tuple[dict[str, str], str]:
    """The choices that a file keeps, and what is wrong with it, if anything is."""
    if not file.exists():
        return {}, ""
    try:
        kept = parse_json(read_whole(file, OSError, limit=_LARGEST), 2 * _LARGEST)
    except OSError as error:
        return {}, f"autotune: {error}; it is ignored"
    except ValueError:
        kept = None
    choices = kept.get("choices") if isinstance(kept, dict) else None
    if (not isinstance(kept, dict) or kept.get("format") != _FORMAT
            or kept.get("machine") != machine() or not isinstance(choices, dict)):
        return {}, (f"autotune: {file} is damaged, or of another format or machine, and is "
                    f"ignored; the end of the block writes it anew if there is anything to keep")
    # A name from elsewhere is no choice of ours: such a call is timed again.
    return {key: name for key, name in choices.items()
            if isinstance(name, str) and name in _NAMES}, ""


def _write(file: Path, found: dict[str, str]) -> str:
    """Add choices to the file, whole or not at all; what went wrong, if anything did."""
    if not found:
        return ""
    kept = {**_read(file)[0], **found}      # another process may have added some meanwhile
    text = json.dumps({"format": _FORMAT, "machine": machine(), "choices": kept}, indent=1,
                      sort_keys=True)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(file, OSError) as stream:
            stream.write(text.encode() + b"\n")
    except OSError as error:
        why = str(error) if error.strerror is None else f"{file} cannot be written: {words(error)}"
        return f"autotune: {why}; the choices are lost"
    return ""
