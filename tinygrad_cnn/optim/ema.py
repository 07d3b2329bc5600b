"""`EMA`: weights averaged over the steps of a run, which often judge better than the last ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.contexts import block
from tinygrad_cnn.core import Tensor, writable
from tinygrad_cnn.errors import CheckpointError
from tinygrad_cnn.optim.optimizer import State, _listed
from tinygrad_cnn.types import Array

__all__ = ["EMA"]


class EMA:
    """The exponential moving average of some parameters.

    The first `update` copies them; each later one makes
    average ← decay · average + (1 − decay) · w.

    Polyak & Juditsky, *Acceleration of stochastic approximation by averaging*, SIAM J. Control 30
    (1992).

    >>> w = Parameter([1.0])
    >>> ema = EMA([w], decay=0.75)
    >>> for value in (4.0, 8.0):
    ...     w.data = value * np.ones(1, np.float32)     # a step of an optimizer
    ...     ema.update()
    >>> with ema.applied():
    ...     w.item()                                    # 0.75 · 4 + 0.25 · 8
    5.0
    >>> w.item()
    8.0
    """

    def __init__(self, params: Iterable[Tensor], decay: float = 0.999) -> None:
        self.params = _listed("EMA", params)
        self.decay = checks.number("EMA", "decay", decay, minimum=0, maximum=1)
        self.steps = 0
        self.averages: list[Array] = [p._data.copy() for p in self.params]

    def update(self) -> None:
        """Take the parameters into the averages; call after the optimizer's step."""
        for average, p in zip(self.averages, self.params, strict=True):
            average += (p._data - average) * ((1 - self.decay) if self.steps else 1)
        self.steps += 1

    @block
    def applied(self) -> Iterator[None]:
        """A block in which the parameters are the averages; afterwards they are as before."""
        own = [p._data.copy() for p in self.params]
        try:
            for p, average in zip(self.params, self.averages, strict=True):
                writable(p)[...] = average
            yield
        finally:
            for p, array in zip(self.params, own, strict=True):
                writable(p)[...] = array

    def state_dict(self) -> State:
        """The count of updates, and each average by its position, copied."""
        return {"steps": self.steps,
                "averages": {str(i): a.copy() for i, a in enumerate(self.averages)}}

    def load_state_dict(self, entries: State) -> None:
        """Take over what `state_dict` gave; what does not fit is a `CheckpointError`."""
        try:
            given = [np.asarray(entries["averages"][str(i)]) for i in range(len(self.averages))]
            steps = checks.integer("EMA.load_state_dict", "steps", entries["steps"], minimum=0)
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"EMA.load_state_dict: the state is damaged ({error})") from None
        for i, (new, old) in enumerate(zip(given, self.averages, strict=True)):
            if new.shape != old.shape or new.dtype != old.dtype:
                raise CheckpointError(f"EMA.load_state_dict: average {i} is {new.dtype} "
                                      f"{new.shape}, the parameter is {old.dtype} {old.shape}")
        self.averages, self.steps = [new.copy() for new in given], steps

    def __repr__(self) -> str:
        return f"EMA({len(self.params)} parameters, decay={self.decay}): {self.steps} updates"
