"""The other end of a worker: starts it, asks it, and ends it when it takes too long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any

from tinygrad_cnn.bench.cases import Case, case_to
from tinygrad_cnn.bench.frameworks import CONTENDERS, OURS
from tinygrad_cnn.errors import TinygradCnnError

__all__ = ["Absent", "BenchError", "Worker", "workers"]


class BenchError(TinygradCnnError, RuntimeError):
    """A measurement could not be made."""


class Absent(BenchError):  # noqa: N818 - it reads as a finding
    """The library is not installed, or has no such case."""


class Worker:
    """One library in a process of its own; a context manager.

    Parameters
    ----------
    name : str
        Of a contender.
    threads : int
        CPUs that the process may use.
    python : str, optional
        The interpreter, for a library that lives in another environment.
    limit : float, default 600
        Seconds that one answer may take.

    Raises
    ------
    Absent
        If the library is not installed there; the message has the pip line.
    BenchError
        If the process ends or does not answer in time.
    """

    def __init__(self, name: str, *, threads: int, python: str | None = None,
                 limit: float = 600.0) -> None:
        self.name, self._limit = name, limit
        environment = {**os.environ, **dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"),
            str(threads))}
        if python is not None:              # the package itself may not be installed there
            environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p) \
                if python == sys.executable else _package_folder()
        self._process = subprocess.Popen(
            [python or sys.executable, "-m", "tinygrad_cnn.bench.worker", name, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment)
        self._tail: list[str] = []
        self._drainer = threading.Thread(target=self._drain, daemon=True)
        self._drainer.start()
        try:
            self.versions: dict[str, str] = self._read()["versions"]
        except Absent as missing:
            self.close()
            why, cure = f"{name}: {missing}", CONTENDERS[name].pip
            raise Absent(why if cure in why else f"{why}; {cure}") from None
        except BenchError:
            self.close()
            raise

    def _drain(self) -> None:
        """Keep the last lines of what the library complains about."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._tail = [*self._tail[-20:], line]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(self._limit, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if not line:
            self._process.wait()
            raise BenchError(f"{self.name}: the process ended with status "
                             f"{self._process.returncode}: {''.join(self._tail[-3:]).strip()}")
        answer: dict[str, Any] = json.loads(line)
        if "absent" in answer:
            raise Absent(answer["absent"])
        if "error" in answer:
            raise BenchError(f"{self.name}: {answer['error']}")
        return answer

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchError(f"{self.name}: the process has ended") from None
        return self._read()

    def load(self, case: Case) -> list[str]:
        """Make the case ready; the names of its timers."""
        timers: list[str] = self.ask(do="load", case=case_to(case))["timers"]
        return timers

    def call(self, timer: str, count: int = 1) -> list[float]:
        """What ``count`` calls returned, each as one number."""
        results: list[float] = self.ask(do="call", timer=timer, count=count)["results"]
        return results

    def time(self, timer: str, *, seconds: float, most: int = 1000) -> list[float]:
        """Seconds of single calls."""
        samples: list[float] = self.ask(do="time", timer=timer, seconds=seconds,
                                        most=most)["seconds"]
        return samples

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def clocked(self, timer: str) -> tuple[float, float]:
        """What one call returned, and its seconds."""
        answer = self.ask(do="clocked", timer=timer)
        return answer["result"], answer["seconds"]

    def memory(self, timer: str, count: int = 3) -> dict[str, int]:
        """Bytes that the calls needed on top of what was held before, and in all."""
        return self.ask(do="memory", timer=timer, count=count)

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):         # the process may have ended before us
                    stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._drainer.join()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def _package_folder() -> str:
    """The folder that holds the package."""
    here = os.path.dirname(os.path.abspath(__file__))
    return os.path.dirname(os.path.dirname(here))


@contextmanager
def workers(names: tuple[str, ...], *, threads: int, pythons: Mapping[str, str],
            skipped: dict[str, str]) -> Iterator[dict[str, Worker]]:
    """A worker for each contender that can be had; why the others cannot goes into ``skipped``.

    Raises
    ------
    BenchError
        If our own cannot be had.
    """
    with ExitStack() as stack:
        running = {}
        for name in names:
            python = pythons.get(CONTENDERS[name].library)
            try:
                running[name] = stack.enter_context(Worker(name, threads=threads, python=python))
            except BenchError as error:
                if name == OURS:
                    raise
                skipped[name] = str(error)
        yield running
