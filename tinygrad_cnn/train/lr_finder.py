"""`LRCurve`: the loss against the learning rate, and what it suggests."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from tinygrad_cnn.train.tables import Rows, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LRCurve"]

_SMOOTHING = 0.9                        # share of the past in the smoothed loss


class LRCurve(Table):
    """What `Trainer.find_lr` gives; ``plot()`` draws it.

    Attributes
    ----------
    rates, losses : list of float
        Of each step.
    smoothed : list of float
        The running mean of the losses, corrected for its start.

    Examples
    --------
    >>> from tinygrad_cnn.train import LRCurve
    >>> curve = LRCurve()
    >>> for rate, loss in zip([1e-3, 1e-2, 1e-1, 1.0], [2.0, 1.9, 0.9, 3.0]):
    ...     curve.append(rate, loss)
    >>> curve.suggestion
    0.1
    """

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.smoothed: list[float] = []
        self._mean = 0.0

    def append(self, rate: float, loss: float) -> None:
        """Take in the loss of a step."""
        self._mean = _SMOOTHING * self._mean + (1 - _SMOOTHING) * loss
        self.rates.append(rate)
        self.losses.append(loss)
        self.smoothed.append(self._mean / (1 - _SMOOTHING ** len(self.rates)))

    @property
    def diverged(self) -> bool:
        """Whether the smoothed loss is four times its lowest value."""
        return self.smoothed[-1] > 4 * min(self.smoothed)

    @property
    def suggestion(self) -> float | None:
        """The rate at which the smoothed loss falls most steeply; None if it never falls.

        The first tenth of the steps does not count: there the mean is of few losses.
        """
        points = list(zip(self.rates, self.smoothed, strict=True))[len(self.rates) // 10:]
        slope, rate = min((((after - before) / math.log(rate / lower), rate)
                           for (lower, before), (rate, after) in pairwise(points)),
                          default=(0.0, 0.0))
        return rate if slope < 0 else None

    def plot(self) -> Figure:
        """The curve, over a logarithmic axis of rates."""
        from tinygrad_cnn.viz.plots import lr_curve

        return lr_curve(self)

    def _cells(self) -> tuple[str, tuple[str, ...], Rows, str]:
        rows: Rows = [(f"{rate:.3g}", f"{loss:.4f}", f"{mean:.4f}") for rate, loss, mean in zip(
            self.rates, self.losses, self.smoothed, strict=True)]
        told = "none" if self.suggestion is None else f"{self.suggestion:.3g}"
        return f"suggested rate: {told}", ("rate", "loss", "smoothed"), rows, ""
