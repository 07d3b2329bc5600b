"""Worker threads for kernels, and a limit on the threads that BLAS starts by itself.

NumPy lets go of the interpreter lock inside matrix products, copies and elementwise functions, so
plain threads run kernels side by side.  ``parallel`` splits a range into as many parts as
``get_num_threads()`` says, always at the same places: a result depends on the number of threads,
never on which of them was faster.  While the parts run, BLAS is held to one thread each; two
threads with a single-threaded BLAS beat one thread with a BLAS of two, because the copies around
a product run side by side too and blocks stay in the cache of their core.

This module knows nothing about images.
"""

from __future__ import annotations

import contextvars
import ctypes
import importlib
import os
import threading
from collections.abc import Callable
from contextlib import ContextDecorator
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.errors import SettingError

__all__ = ["get_num_threads", "one_blas_thread", "parallel", "set_num_threads", "spread"]


# ---- how many threads ---------------------------------------------------------------------------

def _available() -> int:
    """CPUs that this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):        # absent on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_ENOUGH = 1 << 17       # entries, from which an elementwise function is worth two threads


class _Setting:
    """The number of threads; one place, so that nothing else in the package is global."""

    count = _available()


class set_num_threads:  # noqa: N801 - a function that can also be used in a with statement
    """Set how many threads the kernels use, for good or for one ``with`` block.

    Parameters
    ----------
    n : int
        Threads, from 1 to the number of CPUs that this process may use, which is the default.

    Raises
    ------
    SettingError
        If ``n`` is below 1, above the number of CPUs, or not an integer.

    Examples
    --------
    >>> with set_num_threads(1):
    ...     get_num_threads()
    1
    """

    def __init__(self, n: int) -> None:
        most = _available()
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
            raise SettingError(f"set_num_threads: n must be an integer, got {n!r}")
        if not 1 <= n <= most:
            raise SettingError(f"set_num_threads: n must be from 1 to {most}, the CPUs that this "
                               f"process may use, got {n}")
        self._before = _Setting.count
        _Setting.count = int(n)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        _Setting.count = self._before


def get_num_threads() -> int:
    """How many threads the kernels use.

    Examples
    --------
    >>> get_num_threads() >= 1
    True
    """
    return _Setting.count


# ---- BLAS's own threads -------------------------------------------------------------------------

# Setters and getters of the BLAS libraries that NumPy is built with; the first pair that exists.
_BLAS_NAMES = (
    ("scipy_openblas_set_num_threads64_", "scipy_openblas_get_num_threads64_"),
    ("scipy_openblas_set_num_threads", "scipy_openblas_get_num_threads"),
    ("openblas_set_num_threads64_", "openblas_get_num_threads64_"),
    ("openblas_set_num_threads", "openblas_get_num_threads"),
    ("MKL_Set_Num_Threads", "MKL_Get_Max_Threads"),
    ("bli_thread_set_num_threads", "bli_thread_get_num_threads"),
)


def numpy_library() -> ctypes.CDLL | None:
    """NumPy's compiled core, through which its BLAS can be reached; None where it cannot."""
    try:
        core = importlib.import_module("numpy._core._multiarray_umath")
        return ctypes.CDLL(core.__file__)
    except (ImportError, OSError):
        return None


class _Blas:
    """Counts the regions in which BLAS is held to one thread; lifts the limit after the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._regions = 0
        self._before = 1
        self._set: Callable[[int], Any] | None = None
        self._get: Callable[[], int] | None = None
        self._limits: Any = None                # threadpoolctl, for libraries not named above
        self._restore: Any = None
        library = numpy_library()
        for setter, getter in _BLAS_NAMES if library is not None else ():
            try:
                self._set, self._get = getattr(library, setter), getattr(library, getter)
                break
            except AttributeError:
                continue
        if self._set is None:
            self._find_limits()

    def _find_limits(self) -> None:
        try:
            import threadpoolctl
        except ImportError:
            return                              # BLAS keeps its threads: slower, never wrong
        self._limits = threadpoolctl.ThreadpoolController()

    def forget(self) -> None:
        """A forked child holds nothing, whatever its parent was doing."""
        self._lock = threading.Lock()
        if self._regions:
            self._regions = 1
            self.release()

    def hold(self) -> None:
        """One thread from here on."""
        with self._lock:
            self._regions += 1
            if self._regions > 1:
                return
            if self._set is not None and self._get is not None:
                self._before = self._get()
                self._set(1)
            elif self._limits is not None:
                self._restore = self._limits.limit(limits=1, user_api="blas")

    def release(self) -> None:
        """Undo one ``hold``."""
        with self._lock:
            self._regions -= 1
            if self._regions:
                return
            if self._set is not None:
                self._set(self._before)
            elif self._restore is not None:
                self._restore.restore_original_limits()


# ---- workers ------------------------------------------------------------------------------------

class one_blas_thread(ContextDecorator):  # noqa: N801 - used as a function that decorates
    """Hold BLAS to one thread, in a ``with`` block or a decorated function.

    The threads of OpenBLAS spin for a while after each product that they have shared, and take the
    CPU from the workers here.  So no kernel leaves BLAS its own threads, even where it does not
    run in parallel itself.
    """

    def __enter__(self) -> None:
        _Shared.blas().hold()

    def __exit__(self, *error: object) -> None:
        _Shared.blas().release()


class _Pool:
    """Threads that wait for work; made at the first need, and anew in a forked child."""

    def __init__(self) -> None:
        self.busy = threading.Lock()
        self._tasks: list[SimpleQueue[Any]] = []
        self._done: SimpleQueue[Any] = SimpleQueue()

    def run(self, calls: list[Callable[[], Any]]) -> list[Any]:
        """Call each in a thread of its own, the first in this one."""
        while len(self._tasks) < len(calls) - 1:
            tasks: SimpleQueue[Any] = SimpleQueue()
            threading.Thread(target=_serve, args=(tasks, self._done), daemon=True,
                             name=f"tinygrad_cnn-{len(self._tasks) + 1}").start()
            self._tasks.append(tasks)
        for index, call in enumerate(calls[1:]):
            # The copy carries np.errstate and other context variables into the worker.
            self._tasks[index].put((index + 1, contextvars.copy_context(), call))
        results: list[Any] = [None] * len(calls)
        error: BaseException | None = None
        try:
            results[0] = calls[0]()
        except BaseException as caught:
            error = caught
        for _ in calls[1:]:
            index, value, caught_there = self._done.get()
            results[index] = value
            error = error or caught_there
        if error is not None:
            raise error
        return results


def _serve(tasks: SimpleQueue[Any], done: SimpleQueue[Any]) -> None:
    """Body of a worker."""
    while True:
        index, context, call = tasks.get()
        try:
            value, error = context.run(call), None
        except BaseException as caught:
            value, error = None, caught
        done.put((index, value, error))
        del context, call, value, error         # do not keep arrays alive while waiting


class _Shared:
    """What all threads of the process share, made at the first need."""

    pool: _Pool | None = None
    limit: _Blas | None = None

    @classmethod
    def blas(cls) -> _Blas:
        if cls.limit is None:
            cls.limit = _Blas()
        return cls.limit


def _forget() -> None:
    """A forked child has none of the threads, and locks in an unknown state."""
    _Shared.pool = None
    if _Shared.limit is not None:
        _Shared.limit.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def parallel(count: int, work: Callable[[int, int], Any], *, least: int = 1,
             products: bool = True) -> list[Any]:
    """Call ``work(low, high)`` on equal parts of ``range(count)``, side by side.

    Parameters
    ----------
    count : int
        Length of the range.
    work : callable
        Called once for each part; parts must not write to the same memory.
    least : int, default 1
        A part has at least this many entries, unless there is one part only.
    products : bool, default True
        Whether the parts multiply matrices, so that BLAS must be held to one thread.

    Returns
    -------
    list
        What the calls returned, in the order of the parts.  The parts depend on ``count``,
        ``least`` and ``get_num_threads()`` alone; a call from inside a worker runs its parts one
        after the other.

    Examples
    --------
    >>> with set_num_threads(1):
    ...     parallel(10, lambda low, high: high - low)
    [10]
    """
    if products:
        with one_blas_thread():
            return _parallel(count, work, least)
    return _parallel(count, work, least)


def _parallel(count: int, work: Callable[[int, int], Any], least: int) -> list[Any]:
    parts = max(1, min(_Setting.count, count // least))
    if parts == 1:
        return [work(0, count)]
    cuts = [count * i // parts for i in range(parts + 1)]
    pool = _Shared.pool
    if pool is None:
        pool = _Shared.pool = _Pool()
    if not pool.busy.acquire(blocking=False):   # from a worker, or another user's thread
        return [work(low, high) for low, high in zip(cuts, cuts[1:], strict=False)]
    try:
        return pool.run([partial(work, low, high)
                         for low, high in zip(cuts, cuts[1:], strict=False)])
    finally:
        pool.busy.release()


def spread(function: Callable[..., Any], out: NDArray[Any], *arrays: NDArray[Any]) -> NDArray[Any]:
    """Call ``function(*arrays, out=out)`` in parts, side by side, where there is enough to do.

    Parameters
    ----------
    function : callable
        An elementwise function, such as a ufunc.
    out : ndarray
        Where the results go; returned.
    arrays : ndarray
        Of the shape of ``out``, or scalars.

    Examples
    --------
    >>> spread(np.add, np.empty(3), np.ones(3), np.arange(3.0))
    array([1., 2., 3.])
    """
    if out.size < _ENOUGH or not out.flags.c_contiguous or any(
            a.shape and (a.shape != out.shape or not a.flags.c_contiguous) for a in arrays):
        function(*arrays, out=out)
        return out
    flat = [a.reshape(-1) if a.shape else a for a in arrays]
    target = out.reshape(-1)

    def work(low: int, high: int) -> None:
        function(*(a[low:high] if a.shape else a for a in flat), out=target[low:high])

    parallel(out.size, work, products=False)
    return out
