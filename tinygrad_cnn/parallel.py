"""Training with several processes, each of which takes a part of every batch.

All processes run the same program on a copy of the model.  After each backward pass they add up
their gradients, so each takes the same step.  What differs between one machine and many is only how
numbers are added up, a `Group`: `run` forks workers of this process, which add up in shared memory;
a program that ``mpiexec`` has started adds up by MPI.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NoReturn, TypeVar

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.core import Tensor, TensorLike, apply, writable
from tinygrad_cnn.core.graph import is_grad_enabled
from tinygrad_cnn.core.op import Op, OpTest
from tinygrad_cnn.data.dataset import leaves, map_arrays
from tinygrad_cnn.data.loader import DataLoader
from tinygrad_cnn.errors import GradientError, ParallelError, SettingError, missing_extra
from tinygrad_cnn.kernels import norm as kernels
from tinygrad_cnn.kernels.parallel import get_num_threads, set_num_threads
from tinygrad_cnn.nn import Module
from tinygrad_cnn.nn.norm import _BatchNorm
from tinygrad_cnn.nn.state import LoadReport
from tinygrad_cnn.ops import default_generator
from tinygrad_cnn.types import Array, DType, Value

__all__ = ["DataParallel", "Group", "run", "shard", "world"]

T = TypeVar("T")
_BYTES = 1 << 20                # of each rank in shared memory; longer arrays go in pieces
_PATIENCE = 600.0               # seconds that a rank waits for another


class Group:
    """The processes of a run: here one, alone.

    Attributes
    ----------
    rank : int
        Which of them this process is, from 0.
    size : int
        How many there are.
    copies : int
        How many of them take the present batch as a whole, as `shard` lets a small one be.
    """

    rank = 0
    size = 1
    copies = 1

    def add_up(self, array: Array) -> Array:
        """Put the sum over all ranks into ``array``, which every rank passes; returns it.

        All ranks get the same bits.
        """
        return array

    def gather(self, numbers: Array) -> Array:
        """The arrays of all ranks, of one shape: (ranks, ...)."""
        rows = np.zeros((self.size, *np.shape(numbers)), np.asarray(numbers).dtype)
        rows[self.rank] = numbers
        return self.add_up(rows)

    def gather_text(self, text: str) -> list[str]:
        """The texts of all ranks."""
        own = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
        sizes = self.gather(np.array(own.size))
        padded = np.zeros(int(sizes.max()), np.int64)
        padded[:own.size] = own
        return [bytes(row[:n].astype(np.uint8)).decode()
                for row, n in zip(self.gather(padded), sizes, strict=True)]

    def spread(self, array: Array) -> Array:
        """Put the values of rank 0 into ``array``."""
        if self.rank:
            array[...] = 0
        return self.add_up(array)


class _MPI(Group):
    """The ranks that ``mpiexec`` has started, each with its share of the CPUs of its host.

    An exception that nobody catches ends all ranks, which would wait for this one for ever.
    """

    def __init__(self) -> None:
        try:
            from mpi4py import MPI
        except ImportError:
            raise missing_extra("mpi4py", extra="mpi", purpose="several ranks") from None
        self._all = MPI.COMM_WORLD
        self._in_place, self._error = MPI.IN_PLACE, MPI.Exception
        self.rank, self.size = self._all.rank, self._all.size
        here = self._all.Split_type(MPI.COMM_TYPE_SHARED).size
        set_num_threads(max(1, get_num_threads() // here))
        sys.excepthook = self._abort

    def _abort(self, *error: Any) -> None:
        sys.__excepthook__(*error)
        print(f"rank {self.rank} of {self.size} failed, so the run is stopped", file=sys.stderr,
              flush=True)
        self._all.Abort(2)

    def add_up(self, array: Array) -> Array:
        whole = np.ascontiguousarray(array)
        try:
            self._all.Allreduce(self._in_place, whole)
        except self._error as error:
            raise ParallelError(f"rank {self.rank} of {self.size} cannot reach the others, one of "
                                f"which has ended: {str(error).splitlines()[0]}") from None
        if whole is not array:
            array[...] = whole
        return array


# ---- workers on one machine

class _Left(BaseException):
    """Another rank has failed and told why; this one has nothing to add."""


class _Forked(Group):
    """A process and its children, which add up in memory that they share.

    Each rank writes its numbers into a row of its own, tells so, waits for the others and adds up
    all rows, always in the same order.  Two sets of rows take turns: a rank that begins to write
    the next numbers cannot meet one that still reads the last, and comes to the set again only when
    all have passed the other.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.pids: list[int] = []
        self._ended: dict[int, int] = {}        # rank -> status
        self._parent = os.getpid()
        self._shared = mmap.mmap(-1, 2 * size * _BYTES + (size + 1) * 64 + _TEXT)
        self._told = np.frombuffer(self._shared, np.int64, (size + 1) * 8).reshape(-1, 8)[:, 0]
        self._first = (size + 1) * 64 + _TEXT
        self._turn = 0
        self._order = threading.Lock()

    def add_up(self, array: Array) -> Array:
        flat = array.reshape(-1) if array.flags.c_contiguous else array.flatten()
        step = _BYTES // flat.itemsize
        for low in range(0, flat.size, step):
            part = flat[low:low + step]
            rows = self._rows(self._turn % 2, part)
            rows[self.rank][...] = part
            self._meet()
            np.add(rows[0], rows[1], out=part)
            for row in rows[2:]:
                part += row
        if not np.shares_memory(flat, array):
            array[...] = flat.reshape(array.shape)
        return array

    def _rows(self, side: int, part: Array) -> list[Array]:
        start = self._first + side * self.size * _BYTES
        return [np.frombuffer(self._shared, part.dtype, part.size, start + i * _BYTES)
                for i in range(self.size)]

    def _meet(self) -> None:
        """Go on when all ranks are here."""
        with self._order:               # what was written is seen by others before what is told
            self._turn += 1
        told, turn = self._told, self._turn
        told[self.rank] = turn
        if told[:-1].min() < turn:
            began = time.monotonic()
            while told[:-1].min() < turn:
                waited = time.monotonic() - began
                if waited < 1e-3:
                    os.sched_yield()
                else:
                    time.sleep(min(1e-3, waited / 20))
                    self._check_others(waited)
        with self._order:
            pass

    def _check_others(self, waited: float) -> None:
        if self.rank and os.getppid() != self._parent:
            os._exit(1)                 # nobody is left to tell
        for rank in range(1, len(self.pids) + 1):
            self._reap(rank, os.WNOHANG)
        # Looked at last: who has come may have failed or ended since, which is not of this meeting.
        late = [i for i in range(self.size) if self._told[i] < self._turn]
        if late and self._told[-1]:
            self.fail()
        for rank in late:
            if rank in self._ended:
                raise ParallelError(f"worker {rank} of {self.size} (process {self.pids[rank - 1]}) "
                                    f"{_how(self._ended[rank])}, so the run was stopped")
        if late and waited > _PATIENCE:
            raise ParallelError(f"worker {late[0]} of {self.size} has not answered for "
                                f"{_PATIENCE:.0f} s, so the run was stopped")

    def _reap(self, rank: int, how: int = 0) -> None:
        """Note how a worker has ended, if it has, or when it does."""
        if rank not in self._ended:
            pid, status = os.waitpid(self.pids[rank - 1], how)
            if pid:
                self._ended[rank] = status

    def tell(self, error: BaseException) -> None:
        """Leave word for the others of what has gone wrong here."""
        text = "".join(traceback.format_exception(error)).encode()[-_TEXT + 8:]
        start = (self.size + 1) * 64
        self._shared[start:start + len(text)] = text
        self._told[-1] = self.rank + 1

    def fail(self) -> NoReturn:
        """Stop because of what another rank has told."""
        if self.rank:
            raise _Left
        start = (self.size + 1) * 64
        text = self._shared[start:start + _TEXT].rstrip(b"\0").decode(errors="replace")
        raise ParallelError(f"worker {self._told[-1] - 1} of {self.size} failed:\n{text}")

    def end(self, *, well: bool) -> None:
        """Wait for the workers, or stop them."""
        for rank, pid in enumerate(self.pids, 1):
            if not well and rank not in self._ended:
                os.kill(pid, signal.SIGKILL)
            self._reap(rank)
        for rank, status in self._ended.items():
            if well and status:
                if self._told[-1]:
                    self.fail()
                raise ParallelError(f"worker {rank} of {self.size} (process "
                                    f"{self.pids[rank - 1]}) {_how(status)} at the end of the run")


_TEXT = 1 << 14


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


class _World:
    """The group that this process belongs to."""

    group: Group | None = None


def world() -> Group:
    """The group of this process: its workers, the ranks of ``mpiexec``, or itself alone.

    Examples
    --------
    >>> world().rank, world().size
    (0, 1)
    """
    if _World.group is None:
        started = any(int(os.environ.get(name, 1)) > 1
                      for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_SIZE"))
        _World.group = _MPI() if started else Group()
    return _World.group


def run(workers: int, function: Callable[[Group], T]) -> T:
    """Call a function in several processes of this machine, side by side.

    The processes are forked: they have all that this one has, and nothing is sent to them.  Each
    uses its share of the CPUs.

    Parameters
    ----------
    workers : int
        Processes, this one among them.
    function : callable
        ``function(group)``; it makes the same calls of ``group`` in every process.

    Returns
    -------
    object
        What the function returned in this process, which has rank 0.  What it did in the others is
        lost, but for files.

    Raises
    ------
    SettingError
        If ``workers`` is below 1, or the system cannot fork safely.
    ParallelError
        If another worker failed, was killed, or does not answer; none is left running.

    Examples
    --------
    >>> run(2, lambda group: group.gather(np.array(group.rank)).tolist())
    [0, 1]
    """
    workers = checks.integer("run", "workers", workers, minimum=1)
    if workers == 1:
        return function(world())
    if not sys.platform.startswith("linux"):
        raise SettingError(f"workers={workers} needs Linux, whose processes can be forked while "
                           "threads run; elsewhere start the program by "
                           f"mpiexec -n {workers} python -m mpi4py program.py")
    if world().size > 1:
        raise SettingError(f"workers={workers}: this process is one of {world().size} ranks "
                           "already; start more ranks instead")
    group = _Forked(workers)
    sys.stdout.flush()
    sys.stderr.flush()
    before, well = _World.group, False
    with set_num_threads(max(1, get_num_threads() // workers)):
        try:
            for rank in range(1, workers):
                with warnings.catch_warnings():         # threads of the package begin anew there
                    warnings.simplefilter("ignore", DeprecationWarning)
                    pid = os.fork()
                if not pid:
                    _child(group, rank, function)
                group.pids.append(pid)
            _World.group = group
            result = function(group)
            well = True
        finally:
            _World.group = before
            group.end(well=well)
    return result


def _child(group: _Forked, rank: int, function: Callable[[Group], object]) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)    # the parent is interrupted, and ends us
        group.rank, group.pids, _World.group = rank, [], group
        function(group)
        code = 0
    except _Left:
        pass
    except BaseException as error:
        group.tell(error)
    finally:
        os._exit(code)


def _jump(rng: np.random.Generator, rank: int) -> None:
    """Let a generator go on with numbers that no other rank draws."""
    bits = rng.bit_generator
    if hasattr(bits, "jumped"):
        bits.state = bits.jumped(rank).state
    else:
        seed = int(rng.integers(1 << 62))
        bits.state = type(bits)(np.random.SeedSequence(seed, spawn_key=(rank,))).state


# ---- the part of a batch

def share(batch: Any, group: Group) -> Any:
    """The part of a batch that this rank takes: the whole if it has fewer samples than ranks."""
    arrays: Any = leaves(batch) if isinstance(batch, (tuple, dict)) else [batch]
    n = len(arrays[0])
    group.copies = group.size if n < group.size else 1
    if group.size == 1 or n < group.size:
        return batch
    low, high = n * group.rank // group.size, n * (group.rank + 1) // group.size
    return map_arrays(lambda array: array[low:high], batch)


def shard(batches: Iterable[T], group: Group | None = None) -> Iterator[T]:
    """The part of each batch that this rank takes.

    A batch that has fewer samples than there are ranks is given to each as a whole, which leaves
    the mean of the gradients as it is.

    Parameters
    ----------
    batches : DataLoader or iterable
        The same on all ranks, so a `DataLoader` needs a seed there.
    group : Group, optional
        `world()` if not given.

    Examples
    --------
    >>> batches = [(np.zeros((4, 2)), np.arange(4))]
    >>> run(2, lambda group: next(shard(batches))[1].tolist())
    [0, 1]
    """
    group = world() if group is None else group
    check_batches(batches, group)
    for batch in batches:
        yield share(batch, group)


def check_batches(batches: object, group: Group) -> None:
    """Refuse a `DataLoader` that is not the same on all ranks, or too small for them."""
    if group.size == 1 or not isinstance(batches, DataLoader):
        return
    must_agree(group, "the DataLoader", [str(batches.state_dict())],
               "give it the same seed= and data on all ranks")
    if batches.batch_size < group.size:
        raise SettingError(f"DataLoader: batch_size {batches.batch_size} is below the {group.size} "
                           "workers or ranks, each of which takes a part; use larger batches")


def must_agree(group: Group, what: str, lines: list[str], cure: str) -> None:
    """Refuse lines of text that are not the same on all ranks."""
    digest = np.frombuffer(hashlib.sha256("\n".join(lines).encode()).digest()[:8], np.int64)
    if len(set(group.gather(digest).ravel().tolist())) == 1:
        return
    texts = [text.split("\n") for text in group.gather_text("\n".join(lines))]
    other = next(i for i, text in enumerate(texts) if text != texts[0])
    mine, theirs = next(((a, b) for a, b in zip(texts[0], texts[other], strict=False) if a != b),
                        (f"{len(texts[0])} entries", f"{len(texts[other])} entries"))
    raise ParallelError(f"{what} of rank {other} differs from that of rank 0; {cure}\n"
                        f"  rank 0: {mine}\n  rank {other}: {theirs}")


# ---- replicas of a model

class DataParallel(Module):
    """A model of which every rank has a copy that stays the same.

    Called in training, it gives what ``module`` gives for this rank's part of the batch.  After
    ``backward`` the gradients of all its parameters are the means over the samples of all ranks, so
    ``optimizer.step()`` does the same everywhere.  With one rank it is the module itself.

    At the start parameters and buffers are those of rank 0.  Batch normalization uses the
    statistics of the whole batch.  Generators of dropout go on with numbers of their own on each
    rank.

    Li et al., *PyTorch Distributed*, arXiv:2006.15704.

    Parameters
    ----------
    module : Module
        Complete: a layer that takes its size from the first call must have had it.
    group : Group, optional
        `world()` if not given.
    check_every : int, default 100
        After how many backward passes the ranks compare their parameters; 0 does not.

    Raises
    ------
    SettingError
        If the module has no parameters yet, or is in another `DataParallel`.
    ParallelError
        If ranks have unlike parameters, at the start or later.

    Notes
    -----
    ``grad`` is averaged, by `Tensor.backward`; what `tinygrad_cnn.grad` returns is not.  All ranks
    must make the same number of backward passes.  ``state_dict`` is that of the module.

    Examples
    --------
    >>> from tinygrad_cnn import nn, optim
    >>> model = DataParallel(nn.Linear(2, 1, rng=np.random.default_rng(0)))
    >>> optimizer = optim.SGD(model.parameters(), 0.1)
    >>> for x, y in shard([(np.ones((4, 2), np.float32), np.ones((4, 1), np.float32))]):
    ...     loss = ((model(x) - y) ** 2).mean()
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    """

    def __init__(self, module: Module, group: Group | None = None, *,
                 check_every: int = 100) -> None:
        self.module = module
        for path, part in module.named_modules():
            part.require_initialized(path)
        state = vars(self)
        state["group"] = group = world() if group is None else group
        state["_check_every"] = checks.integer("DataParallel", "check_every", check_every,
                                               minimum=0)
        state["_passes"] = state["_samples"] = 0
        state["_named"] = named = list(module.named_parameters())
        if group.size == 1:
            return
        if taken := [path for path, p in named if getattr(p, "_when_filled", None)]:
            raise SettingError(f"DataParallel: the parameter {taken[0]} is in another DataParallel;"
                               " close that first")
        must_agree(group, "the model", [f"{path} {p.dtype} {p.shape}" for path, p in named],
                    "make the same model on all ranks")
        for _, p in named:
            group.spread(writable(p))
            p._when_filled = self._average
        for _, buffer in module.named_buffers():
            group.spread(buffer)
        generators = {id(default_generator()): default_generator()}
        for part in module.modules():
            if isinstance(part, _BatchNorm):
                vars(part)["_of_batch"] = partial(_of_whole_batch, part, group)
            generators |= {id(v): v for v in vars(part).values()
                           if isinstance(v, np.random.Generator)}
        for rng in generators.values():
            _jump(rng, group.rank)

    def close(self) -> None:
        """Let the module work for itself again."""
        for _, p in vars(self)["_named"]:
            p._when_filled = None
        for part in self.module.modules():
            vars(part).pop("_of_batch", None)

    def forward(self, *inputs: TensorLike, **named: TensorLike) -> Tensor:
        """What the module gives."""
        if self.training and is_grad_enabled():
            given: Any = (*inputs, *named.values())
            vars(self)["_samples"] += len(leaves(given)[0])
        return self.module(*inputs, **named)

    def state_dict(self) -> dict[str, Array]:
        """That of the module."""
        return self.module.state_dict()

    def load_state_dict(self, entries: Mapping[str, TensorLike], *, strict: bool = True
                        ) -> LoadReport:
        """That of the module."""
        return self.module.load_state_dict(entries, strict=strict)

    def mean(self, value: float, samples: float) -> float:
        """The mean of a figure over the samples of all ranks."""
        total, n = self.group.add_up(np.array([value * samples, samples], np.float64))
        return float(total / n)

    def _average(self) -> None:
        """The mean gradients, over samples, of all ranks; called when a pass has filled them."""
        state = vars(self)
        samples, state["_samples"] = max(1, self._samples), 0
        for dtype in dict.fromkeys(p.dtype for _, p in self._named):
            self._average_those([(path, p) for path, p in self._named if p.dtype == dtype],
                                samples, dtype)
        state["_passes"] += 1
        if self._check_every and self._passes % self._check_every == 0:
            self._compare()

    def _average_those(self, named: list[tuple[str, Any]], samples: int, dtype: DType) -> None:
        sizes = [p.size for _, p in named]
        ends = np.cumsum(sizes)
        flat = np.zeros(ends[-1] + len(named) + 1, dtype)   # gradients, which there are, samples
        flat[-1] = samples
        for i, (path, p) in enumerate(named):
            if p.grad is not None:
                if p.grad.requires_grad:
                    raise GradientError(f"DataParallel: the gradient of {path} was recorded by "
                                        "create_graph=True, and cannot be averaged")
                np.multiply(p.grad._data.reshape(-1), samples, out=flat[ends[i] - sizes[i]:ends[i]])
                flat[ends[-1] + i] = 1
        self.group.add_up(flat)
        flat[:ends[-1]] /= flat[-1]
        for i, (_, p) in enumerate(named):
            if flat[ends[-1] + i]:
                p.grad = Tensor(flat[ends[i] - sizes[i]:ends[i]].reshape(p.shape))

    def _compare(self) -> None:
        """Refuse parameters that are not the same to the bit on all ranks."""
        must_agree(self.group, f"after {self._passes} backward passes the model",
                    [f"{path} {hashlib.sha256(p._data.tobytes()).hexdigest()[:16]}"
                     for path, p in self._named],
                    "do the same steps on all ranks: optimizer, schedule, callbacks")


# ---- batch normalization over the batch of all ranks

def _statistics(x: Array, group: Group) -> tuple[int, Array, Array]:
    """Values for each channel, mean and biased variance over all ranks, in float64.

    Put together as in Chan, Golub & LeVeque, *Updating formulae* (1979).
    """
    center, variance = kernels.statistics(x, tuple(range(x.ndim - 1)))
    rows = group.gather(np.concatenate([[x.size // x.shape[-1]], center.ravel(),
                                        variance.ravel()]))
    counts = rows[:, :1]
    centers, variances = np.split(rows[:, 1:], 2, axis=1)
    n = counts.sum()
    mean = (counts * centers).sum(0) / n
    spread = (counts * (variances + (centers - mean) ** 2)).sum(0) / n
    return int(n), mean.reshape(center.shape), spread.reshape(center.shape)


def _kernel(x: Array, w: Array, b: Array, *, eps: float, group: Group
            ) -> tuple[Array, dict[str, Array]]:
    n, center, variance = _statistics(x, group)
    return (kernels.batch_norm_by(x, w, b, eps=eps, center=center, variance=variance),
            {"center": center, "variance": variance, "count": np.array(n)})


def _vjp(ct: Value, out: Value, x: Array, w: Array, b: Array, *, eps: float, group: Group,
         count: Array, **statistics: Array) -> tuple[Array, Array, Array]:
    if not isinstance(ct, np.ndarray):
        raise GradientError("batch_norm: several ranks have first-order gradients only; leave out "
                            "create_graph=True")
    share = x.size // x.shape[-1] / int(count)          # gradients here are of means over ranks
    return kernels.batch_norm_cotangents(
        ct, x, w, eps=eps, everywhere=lambda sums: group.add_up(sums * share), **statistics)


_WHOLE_BATCH = Op(
    name="batch_norm", shape=lambda x, w, b, *, eps, group: x, kernels={"array": _kernel},
    vjp={("x", "w", "b"): _vjp}, test=OpTest(samples=lambda rng: []), saved=("x", "w"),
    couples=lambda x, w, b, **settings: tuple(range(len(x) - 1)), spoils=True,
    residuals=("center", "variance", "count"), constant_residuals=True, family="norm")


def _of_whole_batch(layer: _BatchNorm, group: Group, x: Tensor, w: TensorLike, b: TensorLike
                    ) -> tuple[Tensor, Array, Array, int]:
    found: dict[str, Any] = {}
    y = apply(_WHOLE_BATCH, x, w, b, by_products=found, eps=layer.eps, group=group)
    return (y, found["center"].reshape(-1), found["variance"].reshape(-1),
            int(found["count"]) // group.copies)
