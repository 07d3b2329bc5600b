"""Losses as modules, and the L2 penalty.  None of them broadcasts."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tinygrad_cnn import checks, ops
from tinygrad_cnn.core import Tensor, TensorLike, as_setting
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.nn.module import OpLayer
from tinygrad_cnn.ops.loss import REDUCTIONS
from tinygrad_cnn.settings import setting
from tinygrad_cnn.types import Array

__all__ = ["BCELoss", "BCEWithLogitsLoss", "CosineEmbeddingLoss", "CosineSimilarity",
           "CrossEntropyLoss", "DiceLoss", "FocalLoss", "HingeLoss", "HuberLoss", "KLDivLoss",
           "L1Loss", "MSELoss", "MultiMarginLoss", "NLLLoss", "SmoothL1Loss", "TripletMarginLoss",
           "l2_penalty"]


def _weights(owner: str, name: str, value: object) -> Array:
    return np.array(as_setting(value, owner, name))


class _Loss(OpLayer):
    """A loss, and how its terms become one number."""

    reduction: str = setting(checks.choice, default="mean", kw_only=True, options=REDUCTIONS)


class _Pairwise(_Loss):
    """A loss of a prediction and a target."""

    def forward(self, prediction: TensorLike, target: TensorLike) -> Tensor:
        return type(self).op(prediction, target, **self._settings())


class CrossEntropyLoss(_Pairwise):
    """The cross-entropy of softmax(scores) against labels; see `tinygrad_cnn.cross_entropy`.

    Parameters
    ----------
    weight : array_like, shape (K,), optional
        Of each class; a mean divides by the sum of the labels' weights.
    ignore_index : int, default -100
        The label of what does not count.
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
    ignore_index: int = setting(checks.integer, default=-100, kw_only=True)
    label_smoothing: float = setting(checks.number, default=0.0, kw_only=True, minimum=0, maximum=1)


class NLLLoss(_Pairwise):
    op = ops.nll_loss
    weight: TensorLike | None = setting(_weights, default=None)
    ignore_index: int = setting(checks.integer, default=-100, kw_only=True)


class MSELoss(_Pairwise): op = ops.mse_loss
class L1Loss(_Pairwise): op = ops.l1_loss


class SmoothL1Loss(_Pairwise):
    op = ops.smooth_l1_loss
    beta: float = setting(checks.number, default=1.0, kw_only=True, minimum=0)


class HuberLoss(_Pairwise):
    op = ops.huber_loss
    reduction: str = setting(checks.choice, default="mean", options=REDUCTIONS)
    delta: float = setting(checks.number, default=1.0, above=0)


class KLDivLoss(_Pairwise):
    op = ops.kl_div
    reduction: str = setting(checks.choice, default="mean", kw_only=True,
                             options=(*REDUCTIONS, "batchmean"))
    log_target: bool = setting(checks.flag, default=False, kw_only=True)


class BCELoss(_Pairwise):
    op = ops.binary_cross_entropy
    weight: TensorLike | None = setting(_weights, default=None)


class BCEWithLogitsLoss(_Pairwise):
    op = ops.binary_cross_entropy_with_logits
    weight: TensorLike | None = setting(_weights, default=None)
    pos_weight: TensorLike | None = setting(_weights, default=None, kw_only=True)


class FocalLoss(_Pairwise):
    op = ops.focal_loss
    gamma: float = setting(checks.number, default=2.0, minimum=0)
    alpha: float | None = setting(checks.number, default=0.25, optional=True, minimum=0, maximum=1)


class DiceLoss(_Pairwise):
    op = ops.dice_loss
    smooth: float = setting(checks.number, default=1.0, minimum=0)


class HingeLoss(_Pairwise):
    op = ops.hinge_loss
    margin: float = setting(checks.number, default=1.0)


class MultiMarginLoss(_Pairwise):
    op = ops.multi_margin_loss
    p: int = setting(checks.integer, default=1, minimum=1, maximum=2)
    margin: float = setting(checks.number, default=1.0)


class CosineEmbeddingLoss(_Loss):
    op = ops.cosine_embedding_loss
    margin: float = setting(checks.number, default=0.0)

    def forward(self, a: TensorLike, b: TensorLike, labels: TensorLike) -> Tensor:
        return ops.cosine_embedding_loss(a, b, labels, **self._settings())


class TripletMarginLoss(_Loss):
    op = ops.triplet_margin_loss
    margin: float = setting(checks.number, default=1.0, above=0)
    p: float = setting(checks.number, default=2.0, above=0)
    eps: float = setting(checks.number, default=1e-6, minimum=0)

    def forward(self, anchor: TensorLike, positive: TensorLike, negative: TensorLike) -> Tensor:
        return ops.triplet_margin_loss(anchor, positive, negative, **self._settings())


class CosineSimilarity(OpLayer):
    op = ops.cosine_similarity
    axis: int = setting(checks.integer, default=-1)
    eps: float = setting(checks.number, default=1e-8, minimum=0)

    def forward(self, a: TensorLike, b: TensorLike) -> Tensor:
        return ops.cosine_similarity(a, b, **self._settings())


def l2_penalty(parameters: Tensor | Iterable[Tensor], coefficient: float) -> Tensor:
    """L2 regularization, to be added to a loss: coefficient / 2 · Σ w².

    Its gradient is coefficient · w, the same as ``weight_decay`` of `optim.SGD` adds.

    ``parameters`` are such as ``model.parameters()``; the biases are often left out.

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
