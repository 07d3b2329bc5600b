"""Losses as modules, and the L2 penalty.  None of them broadcasts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygrad_cnn import checks, ops
from tinygrad_cnn.core import Tensor, TensorLike, as_setting
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.nn.module import Array, OpLayer
from tinygrad_cnn.ops.loss import REDUCTIONS
from tinygrad_cnn.settings import setting

__all__ = ["BCEWithLogitsLoss", "CrossEntropyLoss", "MSELoss", "NLLLoss", "l2_penalty"]


def _weights(owner: str, name: str, value: Any) -> Array:
    return np.array(as_setting(value, owner, name))


class _Loss(OpLayer):
    """An op of a prediction and a target, and how its terms become one number."""

    reduction: str = setting(checks.choice, default="mean", kw_only=True, options=REDUCTIONS)

    def forward(self, prediction: TensorLike, target: TensorLike) -> Tensor:
        return type(self).op(prediction, target, **self._settings())


class CrossEntropyLoss(_Loss):
    """The cross-entropy of softmax(scores) against labels; see `tinygrad_cnn.cross_entropy`.

    Parameters
    ----------
    weight : array_like, shape (K,), optional
        Of each class; a mean divides by the sum of the labels' weights.
    reduction : {"mean", "sum", "none"}, default "mean"
    label_smoothing : float, default 0.0
        Share of each label that is spread evenly over the classes, from 0 to 1.

    Raises
    ------
    SettingError
        If a setting is out of its range.

    Examples
    --------
    >>> CrossEntropyLoss()(Tensor([[0.0, 0.0]]), np.array([1])).item()  # log 2
    0.693...
    """

    op = ops.cross_entropy
    weight: TensorLike | None = setting(_weights, default=None)
    label_smoothing: float = setting(checks.number, default=0.0, kw_only=True, minimum=0, maximum=1)


class NLLLoss(_Loss):
    op = ops.nll_loss
    weight: TensorLike | None = setting(_weights, default=None)


class MSELoss(_Loss): op = ops.mse_loss
class BCEWithLogitsLoss(_Loss): op = ops.binary_cross_entropy_with_logits


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
