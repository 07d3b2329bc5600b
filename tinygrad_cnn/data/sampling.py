"""Which samples go where: parts of a data set, folds, and draws by weight."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinygrad_cnn import checks
from tinygrad_cnn.data.dataset import Arrays, Dataset, check_labels, leaves, map_arrays
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.types import Array

__all__ = ["Sampler", "WeightedRandomSampler", "k_fold", "random_split"]

Indices = NDArray[np.int64]
Data = TypeVar("Data", Dataset, Arrays)


class Sampler(Protocol):
    """What a `DataLoader` takes as ``sampler``: ``len``, ``draw`` and a telling ``repr``."""

    def __len__(self) -> int:
        """How many samples an epoch has."""

    def draw(self, rng: np.random.Generator) -> Indices:
        """The indices of an epoch, in order."""


class WeightedRandomSampler:
    """Draw each sample with a chance that is proportional to its weight.

    Parameters
    ----------
    weights : array, shape (N,)
        At least 0, not all 0.
    num_samples : int, optional
        Samples in an epoch; N if not given.
    replacement : bool, default True
        Whether a sample can come twice in an epoch.

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.array([0, 0, 0, 0, 0, 0, 0, 1])
    >>> sampler = WeightedRandomSampler.balanced(labels, 1000)
    >>> np.bincount(labels[sampler.draw(np.random.default_rng(0))])
    array([473, 527])
    """

    def __init__(self, weights: ArrayLike, num_samples: int | None = None,
                 replacement: bool = True) -> None:
        owner = "WeightedRandomSampler"
        self.weights: Array = np.array(weights, np.float64)
        if (self.weights.ndim != 1 or not np.isfinite(self.weights).all()
                or (self.weights < 0).any() or not self.weights.any()):
            raise SettingError(f"{owner}: weights must be a row of numbers of at least 0, not all "
                               "0, one for each sample")
        self.replacement = checks.flag(owner, "replacement", replacement)
        most = None if self.replacement else np.count_nonzero(self.weights)
        self.num_samples = checks.integer(
            owner, "num_samples", len(self.weights) if num_samples is None else num_samples,
            minimum=1, maximum=None if most is None else int(most))

    @classmethod
    def balanced(cls, labels: ArrayLike, num_samples: int | None = None) -> WeightedRandomSampler:
        """One whose classes come equally often: weights 1 / size of the class."""
        _, which, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        return cls((1 / sizes)[which.ravel()], num_samples)

    def __len__(self) -> int:
        return self.num_samples

    def draw(self, rng: np.random.Generator) -> Indices:
        """The indices of an epoch."""
        return rng.choice(len(self.weights), self.num_samples, replace=self.replacement,
                          p=self.weights / self.weights.sum())

    def __repr__(self) -> str:
        digest = hashlib.sha256(self.weights.tobytes()).hexdigest()[:8]
        return (f"WeightedRandomSampler({len(self.weights):,} weights {digest}, "
                f"num_samples={self.num_samples}, replacement={self.replacement})")


def random_split(data: Data, lengths: Sequence[float], *, stratify: ArrayLike | bool = False,
                 seed: int = 0) -> list[Data]:
    """Divide data into random parts.

    Parameters
    ----------
    data : Dataset, array, or a tuple or dict of arrays
        Samples along axis 0.
    lengths : sequence of int, or of float
        Samples of each part, which add up to all; or shares, which add up to 1.
    stratify : bool or array of integers, shape (N,), default False
        Give each part its share of each class: of the data set's labels, or of these.
    seed : int, default 0

    Returns
    -------
    list
        The parts, like the data; samples keep their order.

    Examples
    --------
    >>> from tinygrad_cnn.data import load
    >>> train, validation = random_split(load("digits").train, [0.9, 0.1], stratify=True)
    >>> len(train), list(validation.counts().values())
    (1260, [14, 14, 14, 14, 14, 14, 15, 14, 13, 14])
    """
    owner, count = "random_split", _count(data)
    given: list[float] = [checks.number(owner, "lengths", length, minimum=0) for length in lengths]
    if math.isclose(sum(given), 1):
        given = np.diff(np.rint(np.cumsum([0.0, *given]) * count)).tolist()
    sizes = [int(length) for length in given]
    if sum(sizes) != count or not all(sizes) or sizes != given:
        raise SettingError(f"{owner}: lengths {list(lengths)} do not divide {count:,} samples into "
                           "parts that are not empty; give their sizes, or shares that add up to 1")
    # The parts, each spread evenly over a row as long as the data.
    place = np.concatenate([(np.arange(n) + 0.5) / n for n in sizes])
    part = _dealt(np.repeat(np.arange(len(sizes)), sizes)[np.argsort(place, kind="stable")],
                  data, stratify, seed, owner)
    return [_take(data, part == i, f"random part {i + 1} of {len(sizes)}, seed {seed}")
            for i in range(len(sizes))]


def k_fold(data: Data, k: int = 5, *, stratify: ArrayLike | bool = False,
           seed: int = 0) -> Iterator[tuple[Data, Data]]:
    """Hold out each of ``k`` random parts in turn: (training part, held-out part).

    Parameters
    ----------
    data, stratify, seed
        As in `random_split`.
    k : int, default 5
        Number of folds, from 2 to N; their sizes differ by at most 1.

    Examples
    --------
    >>> import numpy as np
    >>> for train, test in k_fold(np.arange(5), 2):
    ...     print(train, test)
    [0 2] [1 3 4]
    [1 3 4] [0 2]
    """
    count = _count(data)
    k = checks.integer("k_fold", "k", k, minimum=2, maximum=count)
    fold = _dealt(np.arange(count) % k, data, stratify, seed, "k_fold")
    return ((_take(data, fold != i, f"without fold {i + 1} of {k}, seed {seed}"),
             _take(data, fold == i, f"fold {i + 1} of {k}, seed {seed}")) for i in range(k))


def _count(data: Dataset | Arrays) -> int:
    return len(data) if isinstance(data, Dataset) else len(leaves(data)[0])


def _take(data: Data, chosen: NDArray[np.bool_], words: str) -> Data:
    if isinstance(data, Dataset):
        return data.subset(chosen, split=f"{words}, of: {data.split}")
    return map_arrays(lambda array: array[chosen], data)


def _dealt(parts: Indices, data: Dataset | Arrays, stratify: ArrayLike | bool, seed: int,
           owner: str) -> Indices:
    """The part of each sample: ``parts`` dealt out in random order, or class by class."""
    rng = np.random.default_rng(checks.integer(owner, "seed", seed, minimum=0))
    if stratify is True and not isinstance(data, Dataset):
        raise SettingError(f"{owner}: stratify=True goes with a Dataset; give the class numbers: "
                           "stratify=labels")
    labels: Array = np.zeros(len(parts), int)
    if stratify is not False:
        labels = check_labels(data.labels if isinstance(data, Dataset) and stratify is True
                              else stratify, len(parts), where=owner)
    order = np.lexsort((rng.random(len(parts)), labels))
    dealt = np.empty_like(parts)
    dealt[order] = parts
    return dealt
