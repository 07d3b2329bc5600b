"""Batches of a data set, epoch after epoch, in an order that can be repeated and resumed.

The order of epoch e depends on (seed, e) alone, and the random numbers of batch b on (seed, e, b):
no prefetching, no earlier epoch and no interruption changes what is drawn.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn import checks
from tinygrad_cnn.data.dataset import Dataset, check_images, check_labels
from tinygrad_cnn.errors import DataError, SettingError

__all__ = ["DataLoader"]

Batch = tuple[NDArray[Any], NDArray[Any]]

# Which of a seed's streams: the order of an epoch, or the numbers that a transform draws.
_ORDER, _TRANSFORM = 0, 1


class DataLoader:
    """Iterate over a data set in batches; one ``for`` is one epoch.

    Parameters
    ----------
    images : Dataset or array, shape (N, H, W, C)
        A data set, or images of uint8, float32 or float64.
    labels : array, optional
        With images as an array: class numbers (N,), or one-hot or soft labels (N, K).
    batch_size : int
        Images in a batch; the last one of an epoch may have fewer.
    shuffle : bool, default False
        A new order each epoch.
    seed : int, optional
        Of the order and of the transforms, at least 0.  Without it one is drawn from the operating
        system; ``loader.seed`` tells it.
    drop_last : bool, default False
        Leave out a last batch that is not full.
    prefetch : int, default 0
        Batches that a thread prepares ahead; 0 prepares each when it is asked for.
    transform : callable, optional
        ``transform(images, rng) -> images``, for each batch; see `transforms`.

    Yields
    ------
    (images, labels) : arrays, shapes (B, H, W, C) and (B,) or (B, K)
        New arrays each time.  Images keep their dtype unless the transform changes it; class
        numbers are int64.

    Raises
    ------
    DataError
        If there are no images, or not as many labels; if labels are NaN, negative, or no class of
        the data set; if the transform returns anything but as many images.
    SettingError
        If ``batch_size`` is below 1, ``prefetch`` or ``seed`` below 0, ``transform`` cannot be
        called, or ``drop_last`` would leave nothing.

    Notes
    -----
    Leaving a ``for`` early ends that epoch: the next ``for`` begins the next one.  `state_dict`
    says at any moment how far the present epoch is, and `load_state_dict` goes on from there with
    exactly the batches that would have come.  The order also depends on NumPy's generators, which
    may change from one release of NumPy to another.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    >>> loader = DataLoader(images, np.array([0, 1, 0, 1, 0]), batch_size=2)
    >>> for x, y in loader:
    ...     print(x.ravel(), y)
    [0 1] [0 1]
    [2 3] [0 1]
    [4] [0]
    >>> len(loader), loader.epoch
    (3, 1)
    """

    def __init__(self, images: Dataset | NDArray[Any], labels: NDArray[Any] | None = None, *,
                 batch_size: int, shuffle: bool = False, seed: int | None = None,
                 drop_last: bool = False, prefetch: int = 0,
                 transform: Callable[..., NDArray[Any]] | None = None) -> None:
        self.images, self.labels = _arrays(images, labels)
        self.batch_size = checks.integer("DataLoader", "batch_size", batch_size, minimum=1)
        self.prefetch = checks.integer("DataLoader", "prefetch", prefetch, minimum=0)
        self._seed_given = seed is not None
        self.seed = (checks.integer("DataLoader", "seed", seed, minimum=0) if seed is not None
                     else int(np.random.SeedSequence().generate_state(1, np.uint64)[0] >> 1))
        if transform is not None and not callable(transform):
            raise SettingError(f"DataLoader: transform must be callable, got {transform!r}")
        self.shuffle = bool(shuffle)
        self.drop_last = bool(drop_last)
        self.transform = transform
        if len(self) == 0:
            raise SettingError(f"DataLoader: drop_last leaves no batch: {len(self.images)} images, "
                               f"batch_size {self.batch_size}")
        self._epoch = 0
        self._position = 0            # batches of this epoch that were handed out
        self._running: object = None  # the iteration that the state follows

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(len(self.images), self.batch_size)
        return whole if self.drop_last or not rest else whole + 1

    def __repr__(self) -> str:
        return (f"DataLoader({len(self.images):,} images, {len(self):,} batches of "
                f"{self.batch_size}, shuffle={self.shuffle}, seed={self.seed}, epoch={self.epoch})")

    @property
    def epoch(self) -> int:
        """The epoch under way, or the next one if none is, from 0."""
        return self._epoch

    # ---- order and contents, functions of (seed, epoch, batch) alone ---------------------------

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The indices of the images in the order of that epoch, shape (N,)."""
        epoch = checks.integer("DataLoader", "epoch", epoch, minimum=0)
        if not self.shuffle:
            return np.arange(len(self.images))
        return self._generator(epoch, _ORDER).permutation(len(self.images))

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _batch(self, order: NDArray[np.int64], epoch: int, number: int) -> Batch:
        index = order[number * self.batch_size:(number + 1) * self.batch_size]
        images, labels = self.images[index], self.labels[index]
        if self.transform is None:
            return images, labels
        made = self.transform(images, self._generator(epoch, _TRANSFORM, number))
        if not isinstance(made, np.ndarray) or len(made.shape) != 4 or len(made) != len(index):
            found = f"shape {made.shape}" if isinstance(made, np.ndarray) else type(made).__name__
            raise DataError(f"DataLoader: the transform was given {len(index)} images N H W C and "
                            f"returned {found}")
        return made, labels

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
        """Let the next ``for`` be the whole of that epoch.

        Raises
        ------
        SettingError
            If ``epoch`` is not an integer from 0.
        """
        self._epoch = checks.integer("DataLoader", "epoch", epoch, minimum=0)
        self._position, self._running = 0, None

    # ---- exact resume --------------------------------------------------------------------------

    def state_dict(self) -> dict[str, int | bool]:
        """Where the iteration is and what it depends on: plain numbers, fit for JSON.

        ``position`` counts the batches of ``epoch`` that were handed out.  After the last one, and
        until the ``for`` asks for more, it equals ``len(loader)``: resumed there, the epoch has no
        batch left, and what follows an epoch can follow.
        """
        return {"epoch": self._epoch, "position": self._position, **self._setting()}

    def _setting(self) -> dict[str, int | bool]:
        return {"seed": self.seed, "images": len(self.images), "batch_size": self.batch_size,
                "shuffle": self.shuffle, "drop_last": self.drop_last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        A loader that was made without ``seed`` takes over the seed.

        Raises
        ------
        SettingError
            If the loader differs from the one that was saved in number of images, batch size,
            shuffle, drop_last or a given seed, or a key is missing or has a value that cannot be.
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
        self.seed = int(present["seed"])
        self._epoch, self._position, self._running = epoch, position, None


def _arrays(images: Dataset | NDArray[Any],
            labels: NDArray[Any] | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Checked images and labels, whichever way they were given."""
    if isinstance(images, Dataset):
        if labels is not None:
            raise SettingError("DataLoader: a Dataset has labels of its own; leave labels out")
        return images.images, images.labels
    if labels is None:
        raise SettingError("DataLoader: labels are missing; give a Dataset, or images and labels")
    checked = check_images(images, where="DataLoader")
    if not len(checked):
        raise DataError("DataLoader: there are no images")
    return checked, check_labels(labels, len(checked), where="DataLoader")


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
