"""Losses as modules, and the L2 penalty.  None of them broadcasts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygrad_cnn import checks, ops
from tinygrad_cnn.core import Tensor, as_setting
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.nn.module import Module, show
from tinygrad_cnn.ops.loss import REDUCTIONS

__all__ = ["BCEWithLogitsLoss", "CrossEntropyLoss", "MSELoss", "NLLLoss", "l2_penalty"]


class _Loss(Module):
    """A loss, and how its terms become one number."""

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = checks.choice(type(self).__name__, "reduction", reduction, REDUCTIONS)

    def extra_repr(self) -> str:
        """What is not the default."""
        return show(reduction=(self.reduction, "mean"))


class _ClassLoss(_Loss):
    """A loss over classes, each of which may have a weight."""

    label_smoothing: float = 0.0

    def __init__(self, *, weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.weight = None if weight is None else np.array(
            as_setting(weight, type(self).__name__, "weight"))

    def extra_repr(self) -> str:
        """What is not the default."""
        parts = [show(label_smoothing=(self.label_smoothing, 0.0)),
                 "" if self.weight is None else f"weight=array of {self.weight.shape}",
                 super().extra_repr()]
        return ", ".join(filter(None, parts))


class CrossEntropyLoss(_ClassLoss):
    """The cross-entropy of softmax(scores) against labels; see `tinygrad_cnn.cross_entropy`.

    Parameters
    ----------
    label_smoothing : float, default 0.0
        Share of each label that is spread evenly over the classes, from 0 to 1.
    weight : array_like, shape (K,), optional
        Of each class; a mean divides by the sum of the labels' weights.
    reduction : {"mean", "sum", "none"}, default "mean"

    Raises
    ------
    SettingError
        If a setting is out of its range.

    Examples
    --------
    >>> CrossEntropyLoss()(Tensor([[0.0, 0.0]]), np.array([1])).item()  # log 2
    0.693...
    """

    def __init__(self, *, label_smoothing: float = 0.0, weight: Any = None,
                 reduction: str = "mean") -> None:
        super().__init__(weight=weight, reduction=reduction)
        self.label_smoothing = checks.number("CrossEntropyLoss", "label_smoothing",
                                             label_smoothing, minimum=0, maximum=1)

    def forward(self, logits: Any, labels: Any) -> Tensor:
        """Scores (N, ..., K) and labels (N, ...) or (N, ..., K) -> ()."""
        return ops.cross_entropy(logits, labels, label_smoothing=self.label_smoothing,
                                 weight=self.weight, reduction=self.reduction)


class NLLLoss(_ClassLoss):
    """The negative log-likelihood of log-probabilities; see `tinygrad_cnn.nll_loss`.

    The settings ``weight`` and ``reduction`` are those of `CrossEntropyLoss`.

    Examples
    --------
    >>> NLLLoss()(Tensor([[-0.5, -2.0]]), np.array([0])).item()
    0.5
    """

    def forward(self, log_probabilities: Any, labels: Any) -> Tensor:
        """Log-probabilities (N, ..., K) and labels -> ()."""
        return ops.nll_loss(log_probabilities, labels, weight=self.weight, reduction=self.reduction)


class MSELoss(_Loss):
    """The mean of (prediction − target)²; see `tinygrad_cnn.mse_loss`.

    >>> MSELoss()(Tensor([1.0, 2.0]), Tensor([1.0, 4.0])).item()
    2.0
    """

    def forward(self, prediction: Any, target: Any) -> Tensor:
        """Two tensors of one shape -> ()."""
        return ops.mse_loss(prediction, target, reduction=self.reduction)


class BCEWithLogitsLoss(_Loss):
    """The cross-entropy of sigmoid(scores) against probabilities, without overflow.

    See `tinygrad_cnn.binary_cross_entropy_with_logits`.

    Examples
    --------
    >>> BCEWithLogitsLoss()(Tensor([1000.0, -1000.0]), [1, 0]).item()
    0.0
    """

    def forward(self, logits: Any, labels: Any) -> Tensor:
        """Two arrays of one shape -> ()."""
        return ops.binary_cross_entropy_with_logits(logits, labels, reduction=self.reduction)


def l2_penalty(parameters: Tensor | Iterable[Tensor], coefficient: float) -> Tensor:
    """L2 regularization, to be added to a loss: coefficient / 2 · Σ w².

    Its gradient is coefficient · w, the same as ``weight_decay`` of `optim.SGD` adds.

    Parameters
    ----------
    parameters : tensor, or iterable of tensors
        Such as ``model.parameters()``; the biases are often left out.
    coefficient : float
        At least 0.

    Raises
    ------
    SettingError
        If the coefficient is below 0 or not finite, or there are no parameters.

    Examples
    --------
    >>> l2_penalty([Tensor([1.0, 2.0]), Tensor([[3.0]])], 0.5).item()  # 0.5 / 2 · 14
    3.5
    """
    coefficient = checks.number("l2_penalty", "coefficient", coefficient, minimum=0)
    several = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    if not several:
        raise SettingError("l2_penalty: no parameters were given; a generator such as "
                           "model.parameters() can be read once only")
    total = ops.sum(several[0] * several[0])
    for w in several[1:]:
        total = total + ops.sum(w * w)
    return total * (coefficient / 2)
