"""Batches of a data set, epoch after epoch, in an order that can be repeated and resumed.

The order of epoch e depends on (seed, e) alone, and the random numbers of batch b on (seed, e, b):
no prefetching, no earlier epoch and no interruption changes what is drawn.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn import checks
from tinygrad_cnn.data.dataset import Arrays, Dataset, check_arrays, digest, leaves, map_arrays
from tinygrad_cnn.data.sampling import Sampler
from tinygrad_cnn.data.transforms import Transform
from tinygrad_cnn.errors import DataError, SettingError
from tinygrad_cnn.names import accepting
from tinygrad_cnn.types import Array, Function

__all__ = ["DataLoader"]

Batch = tuple[Array, Array]           # or tuples or dicts of arrays in their place
State = dict[str, int | bool | str | None]

# Which of a seed's streams: the order of an epoch, or the numbers that a transform draws.
_ORDER, _TRANSFORM = 0, 1


class DataLoader:
    """Iterate over data in batches; one ``for`` is one epoch.

    Parameters
    ----------
    data : Dataset or array, or a tuple or dict of arrays
        The inputs, one at each index of axis 0, of any rank; a `Dataset` brings its labels.
    targets : array, or a tuple or dict of arrays, optional
        What belongs to the inputs: class numbers (N,), rows (N, K), numbers to be predicted, masks,
        images.  Without them a batch is the inputs alone.
    batch_size : int, default 1
        Samples in a batch; the last one of an epoch may have fewer.  ``DataLoader(dataset, 32)``
        is understood too.
    shuffle : bool, default False
        A new order each epoch.
    sampler : Sampler, optional
        Draws the samples of an epoch, as `WeightedRandomSampler` does.
    seed : int, optional
        Of the order and of the transforms, at least 0.  Without it one is drawn from the operating
        system; ``loader.seed`` tells it.
    drop_last : bool, default False
        Leave out a last batch that is not full.
    prefetch : int, default 0
        Batches that a thread prepares ahead; 0 prepares each when it is asked for.
    transform : callable, optional
        ``transform(inputs, rng) -> inputs``, for each batch; a `Transform` is given the targets
        too, so that masks follow.

    Yields
    ------
    (inputs, targets) : arrays, tuples or dicts of arrays, as given
        New arrays each time, in the dtype of the data unless the transform changes it.

    Raises
    ------
    DataError, SettingError
        If data or the result of the transform, or a setting, are not as described.

    Notes
    -----
    Leaving a ``for`` early ends that epoch: the next ``for`` begins the next one.  `state_dict`
    says at any moment how far the present epoch is, and `load_state_dict` goes on from there with
    exactly the batches that would have come.  The order also depends on NumPy's generators, which
    may change from one release of NumPy to another.

    Examples
    --------
    >>> import numpy as np
    >>> loader = DataLoader(np.arange(5), np.array([0.5, 1.5, 2.5, 3.5, 4.5]), batch_size=2)
    >>> for x, y in loader:
    ...     print(x, y)
    [0 1] [0.5 1.5]
    [2 3] [2.5 3.5]
    [4] [4.5]
    >>> len(loader), loader.epoch
    (3, 1)
    """

    @partial(accepting, owner="DataLoader")
    def __init__(self, data: Dataset | Arrays, targets: Arrays | int | None = None,
                 batch_size: int | None = None, shuffle: bool | None = None, *,
                 sampler: Sampler | None = None, seed: int | None = None,
                 drop_last: bool = False, prefetch: int = 0,
                 transform: Callable[..., Arrays] | None = None) -> None:
        if isinstance(targets, int):                        # DataLoader(data, 32, True)
            if batch_size is not None:
                shuffle = batch_size                        # type: ignore[assignment]
            targets, batch_size = None, targets
        self.inputs, self.targets = _arrays(data, targets)
        self.count = len(leaves(self.inputs)[0])
        self.batch_size = checks.integer("DataLoader", "batch_size",
                                         1 if batch_size is None else batch_size, minimum=1)
        self.prefetch = checks.integer("DataLoader", "prefetch", prefetch, minimum=0)
        self._seed_given = seed is not None
        self.seed = (checks.integer("DataLoader", "seed", seed, minimum=0) if seed is not None
                     else int(np.random.SeedSequence().generate_state(1, np.uint64)[0] >> 1))
        if transform is not None and not callable(transform):
            raise SettingError(f"DataLoader: transform must be callable, got {transform!r}")
        self.shuffle = checks.flag("DataLoader", "shuffle", shuffle or False)
        self.drop_last = checks.flag("DataLoader", "drop_last", drop_last)
        if sampler is not None and self.shuffle:
            raise SettingError("DataLoader: a sampler decides the order; leave shuffle out")
        self.sampler = sampler
        self.transform: Function | None = transform
        if len(self) == 0:
            raise SettingError(f"DataLoader: drop_last leaves no batch: {self._drawn} samples, "
                               f"batch_size {self.batch_size}")
        self._epoch = 0
        self._position = 0            # batches of this epoch that were handed out
        self._running: object = None  # the iteration that the state follows

    @property
    def _drawn(self) -> int:
        """Samples in an epoch."""
        return self.count if self.sampler is None else len(self.sampler)

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(self._drawn, self.batch_size)
        return whole if self.drop_last or not rest else whole + 1

    def __repr__(self) -> str:
        return (f"DataLoader({self.count:,} samples, {len(self):,} batches of "
                f"{self.batch_size}, shuffle={self.shuffle}, seed={self.seed}, epoch={self.epoch})")

    @property
    def epoch(self) -> int:
        """The epoch under way, or the next one if none is, from 0."""
        return self._epoch

    # ---- order and contents, functions of (seed, epoch, batch) alone ---------------------------

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The indices of the samples in the order of that epoch."""
        epoch = checks.integer("DataLoader", "epoch", epoch, minimum=0)
        if self.sampler is not None:
            found = np.asarray(self.sampler.draw(self._generator(epoch, _ORDER)))
            if (found.shape != (self._drawn,) or found.dtype.kind not in "iu"
                    or not 0 <= found.min() <= found.max() < self.count):
                raise SettingError(f"DataLoader: {self.sampler!r} must draw {self._drawn} indices "
                                   f"from 0 to {self.count - 1}; is it for other data?")
            return found.astype(np.int64)
        if not self.shuffle:
            return np.arange(self.count)
        return self._generator(epoch, _ORDER).permutation(self.count)

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _batch(self, order: NDArray[np.int64], epoch: int, number: int) -> Batch:
        index = order[number * self.batch_size:(number + 1) * self.batch_size]
        inputs: Any = map_arrays(lambda array: array[index], self.inputs)
        targets: Any = None if self.targets is None else map_arrays(
            lambda array: array[index], self.targets)
        if self.transform is not None:
            rng = self._generator(epoch, _TRANSFORM, number)
            if isinstance(self.transform, Transform) and targets is not None:
                inputs, targets = self.transform(inputs, rng, targets)
            else:
                inputs = self.transform(inputs, rng)
            for made in leaves(inputs):
                if not isinstance(made, np.ndarray) or np.shape(made)[:1] != index.shape:
                    found = f"shape {made.shape}" if isinstance(made, np.ndarray) else \
                        type(made).__name__
                    raise DataError(f"DataLoader: the transform was given {len(index)} samples and "
                                    f"returned {found}")
        return inputs if targets is None else (inputs, targets)

    # ---- iteration -----------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Batch]:
        if self._running is not None:                  # the last epoch was left early
            self._epoch += 1
            self._position = 0
        self._running = me = object()
        return self._iterate(me, self._epoch, self._position)

    def _iterate(self, me: object, epoch: int, start: int) -> Generator[Batch, None, None]:
        order = self.order(epoch)
        batches: Iterable[Batch] = (self._batch(order, epoch, number)
                                    for number in range(start, len(self)))
        with contextlib.ExitStack() as stack:
            if self.prefetch:
                batches = stack.enter_context(_Ahead(batches, self.prefetch))
            for number, batch in enumerate(batches, start + 1):
                if self._running is me:
                    self._position = number
                yield batch
        if self._running is me:
            self._epoch, self._position, self._running = epoch + 1, 0, None

    def set_epoch(self, epoch: int) -> None:
        """Let the next ``for`` be the whole of that epoch."""
        self._epoch = checks.integer("DataLoader", "epoch", epoch, minimum=0)
        self._position, self._running = 0, None

    # ---- exact resume --------------------------------------------------------------------------

    def state_dict(self) -> State:
        """Where the iteration is and what it depends on: plain numbers, fit for JSON.

        ``position`` counts the batches of ``epoch`` that were handed out.  After the last one, and
        until the ``for`` asks for more, it equals ``len(loader)``: resumed there, the epoch has no
        batch left, and what follows an epoch can follow.
        """
        return {"epoch": self._epoch, "position": self._position, **self._setting()}

    def _setting(self) -> State:
        return {"seed": self.seed, "samples": self.count, "batch_size": self.batch_size,
                "shuffle": self.shuffle, "drop_last": self.drop_last,
                "sampler": None if self.sampler is None else repr(self.sampler),
                "transform": checks.text_of(self.transform), "data": self._digest}

    @functools.cached_property
    def _digest(self) -> str:
        return digest((self.inputs, self.targets))

    def load_state_dict(self, state: Mapping[str, int | bool | str | None]) -> None:
        """Go on where `state_dict` was taken.

        A loader that was made without ``seed`` takes over the seed.  A state of other settings, of
        another transform (by its text) or of other data (by their SHA-256) is a SettingError.
        """
        present = self._setting()
        missing = sorted({"epoch", "position", *present} - set(state))
        if missing:
            raise SettingError(f"DataLoader: the state lacks {', '.join(missing)}")
        if not self._seed_given:
            present["seed"] = checks.integer("DataLoader", "seed", state["seed"], minimum=0)
        different = [f"{key} is {value} here but {state[key]} in the state"
                     for key, value in present.items() if state[key] != value]
        if different:
            raise SettingError("DataLoader: cannot resume, the batches would differ: "
                               + "; ".join(different))
        epoch = checks.integer("DataLoader", "epoch", state["epoch"], minimum=0)
        position = checks.integer("DataLoader", "position", state["position"], minimum=0)
        if position > len(self):
            raise SettingError(f"DataLoader: position {position} is past the {len(self)} batches "
                               "of an epoch")
        self.seed = checks.integer("DataLoader", "seed", present["seed"])
        self._epoch, self._position, self._running = epoch, position, None


def _arrays(data: Dataset | Arrays, targets: Arrays | None) -> tuple[Arrays, Arrays | None]:
    """Checked inputs and targets, whichever way they were given."""
    if isinstance(data, Dataset):
        if targets is not None:
            raise SettingError("DataLoader: a Dataset has labels of its own; leave targets out")
        return data.images, data.labels
    inputs = check_arrays(data, where="DataLoader", what="data")
    count = len(leaves(inputs)[0])
    return inputs, None if targets is None else check_arrays(targets, where="DataLoader",
                                                             what="targets", count=count)


class _Ahead:
    """A thread that runs ahead of an iteration by at most ``depth`` items.

    Nothing waits with a timeout: the thread takes a slot before it makes an item, the reader gives
    it back with the item, and leaving the block gives one more so that a waiting thread sees the
    stop.
    """

    def __init__(self, items: Iterable[Batch], depth: int) -> None:
        self._items = iter(items)
        self._slots = threading.Semaphore(depth)
        self._ready: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._stop = False
        # The caller's context variables hold in the thread too.  A daemon: an iteration that nobody
        # closes must not keep the interpreter from ending.
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._work,),
                                        name="tinygrad_cnn prefetch", daemon=True)

    def _work(self) -> None:
        try:
            while True:
                self._slots.acquire()
                if self._stop:
                    return
                item = next(self._items, None)
                if item is None:
                    self._ready.put(("end", None))
                    return
                self._ready.put(("item", item))
        except BaseException as error:
            self._ready.put(("error", error))

    def __enter__(self) -> Iterator[Batch]:
        self._thread.start()
        return self._read()

    def _read(self) -> Iterator[Batch]:
        while True:
            kind, value = self._ready.get()
            if kind == "end":
                return
            if kind == "error":
                try:
                    raise value
                finally:
                    del value          # the traceback holds this frame: no cycle
            self._slots.release()
            yield value

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._slots.release()
        self._thread.join()
