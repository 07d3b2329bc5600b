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
import time
from collections.abc import Callable
from functools import partial, wraps
from queue import SimpleQueue
from types import TracebackType
from typing import Any, ClassVar, ParamSpec, TypeVar

import numpy as np

from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.types import Array, Function

__all__ = ["apart", "get_num_threads", "one_blas_thread", "parallel", "parallel_ufunc",
           "parts", "set_num_threads"]

P = ParamSpec("P")
T = TypeVar("T")


# ---- how many threads ---------------------------------------------------------------------------

def _available() -> int:
    """CPUs that this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):        # absent on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# A worker that sleeps begins some 100 µs after it was called, and its caller wakes as late again:
# half of the work must take longer than that.
_WORTH = 250e-6         # seconds of work, below which the parts run one after the other
_KINDS = 4096           # kinds of calls that are remembered
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
    """Holds BLAS to one thread while there is a region that asks for it."""

    def __init__(self) -> None:
        self.regions: set[object] = set()       # those that run; leaving one is a single discard
        self._lock = threading.Lock()
        self._before: list[int] | None = None   # threads of each library, until they are set back
        self._libraries: list[tuple[Callable[[], int], Callable[[int], object]]] = []
        library = numpy_library()
        for setter, getter in _BLAS_NAMES if library is not None else ():
            try:
                self._libraries = [(getattr(library, getter), getattr(library, setter))]
                break
            except AttributeError:
                continue
        if not self._libraries:
            self._libraries = _other_libraries()

    def forget(self) -> None:
        """A forked child holds nothing, whatever its parent was doing."""
        self._lock = threading.Lock()
        self.regions.clear()
        self.lift()

    def hold(self, region: object) -> None:
        """One thread from here on, until the region leaves ``regions``."""
        with self._lock:
            first = not self.regions
            self.regions.add(region)
            if first:
                if self._before is None:        # else an interrupt has kept it from being set back
                    before = []
                    for get, _ in self._libraries:
                        before.append(get())
                    self._before = before
                for _, put in self._libraries:
                    put(1)

    def lift(self) -> None:
        """Give BLAS its threads back if no region is left."""
        with self._lock:
            if not self.regions and self._before is not None:
                for (_, put), count in zip(self._libraries, self._before, strict=True):
                    put(count)
                self._before = None


def _other_libraries() -> list[tuple[Callable[[], int], Callable[[int], object]]]:
    """BLAS libraries that are not named above, where threadpoolctl is installed to find them."""
    try:
        import threadpoolctl
    except ImportError:
        return []                               # BLAS keeps its threads: slower, never wrong
    found = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
    return [(library.get_num_threads, library.set_num_threads) for library in found]


def one_blas_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Hold BLAS to one thread while the decorated function runs.

    The threads of OpenBLAS spin for a while after each product that they have shared, and take the
    CPU from the workers here.  So no kernel leaves BLAS its own threads, even where it does not
    run in parallel itself.
    """
    @wraps(function)
    def held(*args: P.args, **settings: P.kwargs) -> T:
        blas, region = _Shared.limit or _Shared.blas(), object()
        try:
            blas.hold(region)
            return function(*args, **settings)
        finally:
            # One call of compiled code, which no interrupt divides; if one comes after it, the
            # next region that ends gives BLAS its threads back.
            blas.regions.discard(region)
            blas.lift()
    return held


# ---- workers ------------------------------------------------------------------------------------

# A signal handler may raise in the main thread at nearly any line, and the call that it ends must
# leave nothing behind.  So what a call needs belongs to its own jobs, who runs a job is settled by
# one operation on a dict, and a call ends only when no worker touches its arrays any more.

class _Job:
    """One call, for its owner or a worker, whoever begins it first; it keeps its arrays alive."""

    __slots__ = ("_call", "_context", "_error", "_over", "_running", "_taken", "_value", "seconds")

    def __init__(self, call: Callable[[], object]) -> None:
        self._call: Callable[[], object] | None = call
        # The copy carries np.errstate and other context variables into the worker.
        self._context: contextvars.Context | None = contextvars.copy_context()
        self._taken: dict[str, str] = {}
        self._running = True
        self._over = threading.Lock()
        self._over.acquire()
        self._value: object = None
        self._error: BaseException | None = None
        self.seconds = 0.0                      # that it ran

    def _take(self, who: str) -> bool:
        return self._taken.setdefault("by", who) == who

    def serve(self) -> None:
        """Run in a worker, unless the owner has taken the job back; signals do not come here."""
        if not self._take("worker"):
            return
        try:
            assert self._context is not None and self._call is not None
            began = time.perf_counter()
            self._value = self._context.run(self._call)
            self.seconds = time.perf_counter() - began
        except BaseException as error:
            self._error = error
        finally:
            self._call = self._context = None   # the arrays are let go before the owner goes on
            self._running = False
            self._over.release()

    def run(self) -> None:
        """Run in the owner's thread, unless a worker has begun."""
        if self._take("owner"):
            call, self._call, self._context = self._call, None, None
            assert call is not None
            began = time.perf_counter()
            self._value = call()
            self.seconds = time.perf_counter() - began

    def cancel(self) -> None:
        """Keep workers from beginning it."""
        if self._take("owner"):
            self._call = self._context = None

    def wait(self) -> None:
        """Until the worker that has it is done; may be interrupted, and called again."""
        while self._running and self._taken.get("by") != "owner":
            self._over.acquire()

    def result(self) -> Any:
        """What the call returned or raised."""
        value, error = self._value, self._error
        self._value = self._error = None        # a worker may hold the job for a moment longer
        if error is not None:
            try:
                raise error
            finally:
                del error                       # the traceback holds this frame: no cycle
        return value


class _Pool:
    """Threads that wait for jobs; made at the first need, and anew in a forked child."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._threads = 0

    def offer(self, jobs: list[_Job]) -> None:
        """Have them begun by workers that are free."""
        while self._threads < len(jobs):
            thread = threading.Thread(target=_serve, args=(self._jobs,), daemon=True,
                                      name=f"tinygrad_cnn-{self._threads + 1}")
            try:
                thread.start()
            except RuntimeError:                # the system gives no more: the owner does the rest
                break
            self._threads += 1
        for job in jobs[:self._threads]:
            self._jobs.put(job)


def _serve(jobs: SimpleQueue[_Job]) -> None:
    """Body of a worker."""
    while True:
        job = jobs.get()
        job.serve()
        del job                                 # do not keep results alive while waiting


def _side_by_side(calls: list[Callable[[], object]]) -> tuple[list[object], float]:
    """Call each, the first in this thread, the others where a worker is free or here as well.

    What they returned, and the seconds that all of them ran.
    """
    jobs = [_Job(call) for call in calls]
    try:
        _Shared.pool.offer(jobs[1:])
        for job in jobs:
            job.run()
        for job in jobs:
            job.wait()
    except BaseException:
        _settle(jobs)
        raise
    return [job.result() for job in jobs], sum(job.seconds for job in jobs)


def _settle(jobs: list[_Job]) -> None:
    """Let no more of them begin, and wait for the others, however often that is interrupted."""
    while True:
        try:
            for job in jobs:
                job.cancel()
            for job in jobs:
                job.wait()
            return
        except BaseException:                   # the first one is on its way to the caller already
            continue


def apart(call: Callable[[], T]) -> T:
    """Call in a thread of its own, which signals do not reach.

    An interrupt ends the wait and not the call: for what must not be left half done, such as an
    import.  Where signals do not come anyway, this is a plain call.

    Examples
    --------
    >>> apart(lambda: 1 + 1)
    2
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    job = _Job(call)
    thread = threading.Thread(target=job.serve, name="tinygrad_cnn apart")
    try:
        thread.start()
    except RuntimeError:                        # the interpreter is ending
        return call()
    job.wait()
    result: T = job.result()
    return result


class _Shared:
    """What all threads of the process share."""

    pool = _Pool()
    limit: _Blas | None = None                  # made at the first need
    spent: ClassVar[dict[tuple[Any, ...], float]] = {}      # seconds of work in calls of one kind

    @classmethod
    def blas(cls) -> _Blas:
        if cls.limit is None:
            cls.limit = _Blas()
        return cls.limit


def _forget() -> None:
    """A forked child has none of the threads, and locks in an unknown state."""
    _Shared.pool = _Pool()
    if _Shared.limit is not None:
        _Shared.limit.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def parts(count: int, least: int = 1) -> int:
    """Into how many parts a range is cut, each of ``least`` entries at least.

    Examples
    --------
    >>> with set_num_threads(1):
    ...     parts(1000)
    1
    """
    return max(1, min(_Setting.count, count // least))


def parallel(count: int, work: Callable[[int, int], object], *, least: int = 1,
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
        ``least`` and ``get_num_threads()`` alone.  Who runs them does not: the caller runs them one
        after the other where no worker is free, and where calls of this kind were measured to take
        less than handing a part to a worker.

    Raises
    ------
    BaseException
        What a part raised, or a signal handler meanwhile, such as KeyboardInterrupt: when no part
        is running any more.  Parts that had not begun are left out.

    Examples
    --------
    >>> with set_num_threads(1):
    ...     parallel(10, lambda low, high: high - low)
    [10]
    """
    if products:
        return _held(count, work, least=least, products=False)
    several = parts(count, least)
    if several == 1:
        return [work(0, count)]
    cuts = [count * i // several for i in range(several + 1)]
    calls: list[Callable[[], object]] = [partial(work, low, high)
                                         for low, high in zip(cuts, cuts[1:], strict=False)]
    kind = _kind(count, work)
    before = _Shared.spent.get(kind)
    if before is not None and before < _WORTH:
        began = time.perf_counter()
        found, seconds = [call() for call in calls], time.perf_counter() - began
    else:
        found, seconds = _side_by_side(calls)
    if len(_Shared.spent) >= _KINDS:
        _Shared.spent.clear()
    # Others may have had the CPU meanwhile: the least is believed, and forgotten by and by.
    _Shared.spent[kind] = seconds if before is None else min(seconds, 1.02 * before)
    return found


def _kind(count: int, work: Function) -> tuple[Any, ...]:
    """What calls of equal work have in common: the code, and the sizes of what it works on."""
    cells = getattr(work, "__closure__", None) or ()
    return (getattr(work, "__code__", work), count,
            *[getattr(cell.cell_contents, "nbytes", 0) for cell in cells])


_held = one_blas_thread(parallel)


def parallel_ufunc(function: Function, out: Array,
                   *arrays: Array) -> Array:
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
    >>> parallel_ufunc(np.add, np.empty(3), np.ones(3), np.arange(3.0))
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
