"""Losses that compare two tensors entry by entry or row by row; made of other ops.

They have PyTorch's names, arguments and formulas.  None broadcasts: shapes that differ are refused.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cnn import checks
from tinygrad_cnn.core import Tensor, TensorLike, as_array, as_setting
from tinygrad_cnn.errors import SettingError, ShapeError
from tinygrad_cnn.ops.activation import softplus
from tinygrad_cnn.ops.declare import composed
from tinygrad_cnn.ops.elementwise import abs, exp, log, maximum, where
from tinygrad_cnn.ops.loss import REDUCTIONS, binary_cross_entropy_with_logits, entry_weights
from tinygrad_cnn.ops.reduction import mean, sum
from tinygrad_cnn.ops.statistics import norm

__all__ = ["binary_cross_entropy", "cosine_embedding_loss", "cosine_similarity", "dice_loss",
           "focal_loss", "hinge_loss", "huber_loss", "kl_div", "l1_loss", "margin_ranking_loss",
           "multi_margin_loss", "smooth_l1_loss", "triplet_margin_loss"]


def _alike(owner: str, **named: Tensor) -> None:
    """Refuse integers, tensors of different shapes, and tensors of no entries."""
    (first, a), *others = named.items()
    checks.floats(owner, first, a.dtype)
    for name, b in others:
        if a.shape != b.shape:
            raise ShapeError(f"{owner}: {first} has shape {a.shape} but {name} {b.shape}; a loss "
                             "does not broadcast: reshape one to the other")
    if not a.size:
        raise ShapeError(f"{owner}: the batch is empty, {first} has shape {a.shape}")


def _reduced(owner: str, terms: Tensor, reduction: str) -> Tensor:
    checks.choice(owner, "reduction", reduction, REDUCTIONS)
    return terms if reduction == "none" else (mean if reduction == "mean" else sum)(terms)


def _probabilities(owner: str, labels: object, shape: tuple[int, ...]) -> np.ndarray:
    """Labels from 0 to 1, which have no gradient."""
    plain = as_setting(labels, owner, "labels")
    if plain.shape != shape:
        raise ShapeError(f"{owner}: labels have shape {plain.shape}, the predictions {shape}; a "
                         "loss does not broadcast: reshape one to the other")
    if plain.dtype.kind not in "fiub" or not ((plain >= 0) & (plain <= 1)).all():
        raise SettingError(f"{owner}: labels must be numbers from 0 to 1, got {plain.dtype} from "
                           f"{plain.min(initial=0)} to {plain.max(initial=0)}")
    return plain


# ---- entry by entry

@composed
def l1_loss(prediction: TensorLike, target: TensorLike, *, reduction: str = "mean") -> Tensor:
    """The mean of |prediction − target|.

    >>> l1_loss(Tensor([1.0, 2.0]), Tensor([1.0, 4.0])).item()
    1.0
    """
    prediction, target = cast(Tensor, prediction), cast(Tensor, target)
    _alike("l1_loss", prediction=prediction, target=target)
    return _reduced("l1_loss", abs(prediction - target), reduction)


@composed
def huber_loss(prediction: TensorLike, target: TensorLike, *, reduction: str = "mean",
               delta: float = 1.0) -> Tensor:
    """The mean of d²/2 where d = |prediction − target| is below delta, delta (d − delta/2) above.

    Huber, *Robust estimation of a location parameter*, 1964.

    >>> huber_loss(Tensor([1.0, 5.0]), Tensor([0.0, 0.0]), reduction="none").data
    array([0.5, 4.5], dtype=float32)
    """
    prediction, target = cast(Tensor, prediction), cast(Tensor, target)
    _alike("huber_loss", prediction=prediction, target=target)
    delta = checks.number("huber_loss", "delta", delta, above=0)
    d = abs(prediction - target)
    near = as_array(d) < delta
    inside = where(near, d, 0.0)                # so that no large square overflows
    return _reduced("huber_loss", where(near, inside * inside * 0.5, (d - 0.5 * delta) * delta),
                    reduction)


@composed
def smooth_l1_loss(prediction: TensorLike, target: TensorLike, *, reduction: str = "mean",
                   beta: float = 1.0) -> Tensor:
    """The Huber loss of delta = beta, divided by beta; for beta 0 the L1 loss.

    Girshick, *Fast R-CNN*, arXiv:1504.08083.

    >>> smooth_l1_loss(Tensor([1.0, 5.0]), Tensor([0.0, 0.0]), beta=2.0, reduction="none").data
    array([0.25, 4.  ], dtype=float32)
    """
    prediction, target = cast(Tensor, prediction), cast(Tensor, target)
    beta = checks.number("smooth_l1_loss", "beta", beta, minimum=0)
    _alike("smooth_l1_loss", prediction=prediction, target=target)
    if not beta:
        return l1_loss(prediction, target, reduction=reduction)
    return huber_loss(prediction, target, reduction=reduction, delta=beta) / beta


@composed
def binary_cross_entropy(probabilities: TensorLike, labels: ArrayLike, *,
                         weight: ArrayLike | None = None, reduction: str = "mean") -> Tensor:
    """−t log p − (1 − t) log(1 − p); of scores take `binary_cross_entropy_with_logits`.

    As in PyTorch a logarithm counts as −100 at least.

    Parameters
    ----------
    probabilities : Tensor
        p of any shape, from 0 to 1.
    labels : array_like
        t of the same shape, from 0 to 1; they have no gradient.
    weight : array_like, optional
        Of each entry; it broadcasts to the shape of p.
    reduction : {"mean", "sum", "none"}, default "mean"

    Raises
    ------
    ShapeError
        If the shapes differ, or there are no entries.
    SettingError
        If a probability or a label is outside 0..1.

    Examples
    --------
    >>> binary_cross_entropy(Tensor([0.5, 1.0]), [1, 1], reduction="none").data
    array([0.6931, 0.    ], dtype=float32)
    """
    probabilities = cast(Tensor, probabilities)
    owner = "binary_cross_entropy"
    _alike(owner, probabilities=probabilities)
    t = _probabilities(owner, labels, probabilities.shape).astype(probabilities.dtype)
    plain = as_array(probabilities)
    if plain.dtype.kind == "f" and not ((plain >= 0) & (plain <= 1)).all():
        raise SettingError(f"{owner}: probabilities must be from 0 to 1, got {plain.min()} to "
                           f"{plain.max()}; of scores take binary_cross_entropy_with_logits")
    terms = _log_above(probabilities) * -t - _log_above(1.0 - probabilities) * (1 - t)
    if weight is not None:
        terms = terms * entry_weights(owner, "weight", weight, terms)
    return _reduced(owner, terms, reduction)


def _log_above(p: Tensor) -> Tensor:
    """log p, or −100 where that is less."""
    enough = as_array(p) > math.exp(-100)
    return where(enough, log(where(enough, p, 1.0)), -100.0)


@composed
def kl_div(log_probabilities: TensorLike, target: TensorLike, *, reduction: str = "mean",
           log_target: bool = False) -> Tensor:
    """The divergence target · (log target − log_probabilities), entry by entry.

    Parameters
    ----------
    log_probabilities, target : Tensor
        Of one shape; the target holds probabilities, or their logarithms if ``log_target``.
    reduction : {"mean", "batchmean", "sum", "none"}, default "mean"
        ``"batchmean"`` divides by the size of the first axis, which is the divergence of a row.
    log_target : bool, default False

    Raises
    ------
    ShapeError
        If the shapes differ, or there are no entries.

    Examples
    --------
    >>> kl_div(Tensor([[0.0, -1.0]]), Tensor([[1.0, 0.0]]), reduction="batchmean").item()
    0.0
    """
    log_probabilities, target = cast(Tensor, log_probabilities), cast(Tensor, target)
    checks.choice("kl_div", "reduction", reduction, (*REDUCTIONS, "batchmean"))
    _alike("kl_div", log_probabilities=log_probabilities, target=target)
    if checks.flag("kl_div", "log_target", log_target):
        terms = exp(target) * (target - log_probabilities)
    else:
        some = as_array(target) > 0             # 0 log 0 is 0
        terms = where(some, target * (log(where(some, target, 1.0)) - log_probabilities), 0.0)
    if reduction == "batchmean":
        return sum(terms) / (terms.shape[0] if terms.ndim else 1)
    return _reduced("kl_div", terms, reduction)


@composed
def hinge_loss(scores: TensorLike, labels: ArrayLike, *, margin: float = 1.0,
               reduction: str = "mean") -> Tensor:
    """max(0, margin − y · score) for labels y of −1 and 1: the loss of a support vector machine.

    >>> hinge_loss(Tensor([2.0, 0.5]), [1, -1], reduction="none").data
    array([0. , 1.5], dtype=float32)
    """
    scores = cast(Tensor, scores)
    y = as_setting(labels, "hinge_loss", "labels")
    if y.shape != scores.shape:
        raise ShapeError(f"hinge_loss: labels have shape {y.shape} but scores {scores.shape}; a "
                         "loss does not broadcast: reshape one to the other")
    if not np.isin(y, (-1, 1)).all():
        raise SettingError("hinge_loss: labels must be -1 or 1, got "
                           f"{y[~np.isin(y, (-1, 1))].flat[0]}; for classes take multi_margin_loss")
    margin = checks.number("hinge_loss", "margin", margin)
    _alike("hinge_loss", scores=scores)
    return _reduced("hinge_loss", maximum(margin - scores * y.astype(scores.dtype), 0.0), reduction)


@composed
def margin_ranking_loss(a: TensorLike, b: TensorLike, labels: ArrayLike, *, margin: float = 0.0,
                        reduction: str = "mean") -> Tensor:
    """max(0, margin − y (a − b)): a is to be larger where y is 1, and b where it is −1.

    >>> margin_ranking_loss(Tensor([2.0, 0.5]), Tensor([1.0, 1.0]), [1, 1], margin=1.0).data
    array(0.75, dtype=float32)
    """
    a, b = cast(Tensor, a), cast(Tensor, b)
    return hinge_loss(a - b, labels, margin=margin, reduction=reduction)


@composed
def multi_margin_loss(scores: TensorLike, labels: ArrayLike, *, p: int = 1, margin: float = 1.0,
                      reduction: str = "mean") -> Tensor:
    """Σ_k max(0, margin − score[label] + score[k])^p / K over the other classes k of each row.

    Parameters
    ----------
    scores : Tensor, shape (N, K)
    labels : array_like of int, shape (N,)
    p : {1, 2}, default 1
    margin : float, default 1.0
    reduction : {"mean", "sum", "none"}, default "mean"

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    SettingError
        If a label is no class, or p is neither 1 nor 2.

    Examples
    --------
    >>> multi_margin_loss(Tensor([[1.0, 0.5, -3.0]]), [0]).item()       # 0.5 / 3
    0.1666
    """
    scores = cast(Tensor, scores)
    owner = "multi_margin_loss"
    y = as_setting(labels, owner, "labels")
    if scores.ndim != 2 or y.shape != scores.shape[:1] or y.dtype.kind not in "iu":
        raise ShapeError(f"{owner}: scores must be (N, K) and labels integers (N,), got "
                         f"{scores.shape} and {y.shape} of {y.dtype}")
    p = checks.integer(owner, "p", p, minimum=1, maximum=2)
    rows, classes = scores.shape
    _alike(owner, scores=scores)
    if not 0 <= y.min() <= y.max() < classes:
        raise SettingError(f"{owner}: label {y.min() if y.min() < 0 else y.max()} is outside "
                           f"0..{classes - 1}, the classes of the scores")
    margin = checks.number(owner, "margin", margin)
    own = scores[np.arange(rows), y]
    terms = maximum(scores - own.reshape(-1, 1) + margin, 0.0)
    others = np.arange(classes) != y[:, None]
    terms = where(others, terms * terms if p == 2 else terms, 0.0)
    return _reduced(owner, sum(terms, 1) / classes, reduction)


@composed
def focal_loss(logits: TensorLike, labels: ArrayLike, *, gamma: float = 2.0,
               alpha: float | None = 0.25, reduction: str = "mean") -> Tensor:
    """Binary cross-entropy times (1 − p)^gamma, where p is the probability of the true label.

    Parameters
    ----------
    logits : Tensor
        Scores of any shape.
    labels : array_like
        0 or 1, of the same shape.
    gamma : float, default 2.0
        How much less what is nearly right counts.
    alpha : float from 0 to 1, optional, default 0.25
        The weight of label 1; 1 − alpha is that of label 0.  None: no weights.
    reduction : {"mean", "sum", "none"}, default "mean"

    References
    ----------
    Lin et al., *Focal loss for dense object detection*, arXiv:1708.02002.

    Examples
    --------
    >>> focal_loss(Tensor([0.0]), [1], alpha=None).item()           # log 2 / 4
    0.1732
    """
    logits = cast(Tensor, logits)
    _alike("focal_loss", logits=logits)
    t = _probabilities("focal_loss", labels, logits.shape).astype(logits.dtype)
    gamma = checks.number("focal_loss", "gamma", gamma, minimum=0)
    signed = logits * (1 - 2 * t)
    # log(1 − p) = −softplus(−signed): it keeps its digits where p is nearly 1.
    missed = exp(softplus(-signed) * -gamma)
    hard = bool(((t == 0) | (t == 1)).all())
    terms = missed * (softplus(signed) if hard else
                      binary_cross_entropy_with_logits(logits, t, reduction="none"))
    if alpha is not None:
        alpha = checks.number("focal_loss", "alpha", alpha, minimum=0, maximum=1)
        terms = terms * (alpha * t + (1 - alpha) * (1 - t))
    return _reduced("focal_loss", terms, reduction)


@composed
def dice_loss(probabilities: TensorLike, labels: ArrayLike, *, smooth: float = 1.0,
              reduction: str = "mean") -> Tensor:
    """1 − (2 Σ p t + smooth) / (Σ p + Σ t + smooth), for each image of the batch.

    Parameters
    ----------
    probabilities : Tensor, shape (N, ...)
        p, from 0 to 1.
    labels : array_like, shape (N, ...)
        t: the mask, from 0 to 1.
    smooth : float, default 1.0
        Keeps an empty mask from 0 / 0.
    reduction : {"mean", "sum", "none"}, default "mean"

    References
    ----------
    Milletari, Navab & Ahmadi, *V-Net*, arXiv:1606.04797.

    Examples
    --------
    >>> dice_loss(Tensor([[1.0, 1.0, 0.0]]), [[1, 1, 0]]).item()
    0.0
    """
    probabilities = cast(Tensor, probabilities)
    _alike("dice_loss", probabilities=probabilities)
    t = _probabilities("dice_loss", labels, probabilities.shape).astype(probabilities.dtype)
    smooth = checks.number("dice_loss", "smooth", smooth, minimum=0)
    axes = tuple(range(1, probabilities.ndim))
    both = sum(probabilities * t, axes) * 2.0 + smooth
    return _reduced("dice_loss", 1.0 - both / (sum(probabilities, axes) + (t.sum(axes) + smooth)),
                    reduction)


# ---- row by row

@composed
def cosine_similarity(a: TensorLike, b: TensorLike, axis: int = -1, *, eps: float = 1e-8) -> Tensor:
    """Σ a b / (|a| |b|) along an axis; a norm counts as eps at least.

    >>> cosine_similarity(Tensor([3.0, 4.0]), Tensor([4.0, 3.0])).item()
    0.96
    """
    a, b = cast(Tensor, a), cast(Tensor, b)
    eps = checks.number("cosine_similarity", "eps", eps, above=0)
    _alike("cosine_similarity", a=a, b=b)
    axis = checks.axis_index("cosine_similarity", axis, a.shape)
    return sum((a / maximum(norm(a, 2, axis, True), eps))
               * (b / maximum(norm(b, 2, axis, True), eps)), axis)


@composed
def cosine_embedding_loss(a: TensorLike, b: TensorLike, labels: ArrayLike, *, margin: float = 0.0,
                          reduction: str = "mean") -> Tensor:
    """1 − cos(a, b) where the label is 1, max(0, cos(a, b) − margin) where it is −1.

    >>> cosine_embedding_loss(Tensor([[1.0, 0.0]]), Tensor([[0.0, 1.0]]), [1]).item()
    1.0
    """
    a, b = cast(Tensor, a), cast(Tensor, b)
    owner = "cosine_embedding_loss"
    _alike(owner, a=a, b=b)
    y = as_setting(labels, owner, "labels")
    margin = checks.number(owner, "margin", margin)
    if y.shape != a.shape[:-1] or not np.isin(y, (-1, 1)).all():
        raise SettingError(f"{owner}: labels must be -1 or 1, of shape {a.shape[:-1]}, got shape "
                           f"{y.shape}")
    cosine = cosine_similarity(a, b)
    return _reduced(owner, where(y == 1, 1.0 - cosine, maximum(cosine - margin, 0.0)), reduction)


@composed
def triplet_margin_loss(anchor: TensorLike, positive: TensorLike, negative: TensorLike, *,
                        margin: float = 1.0, p: float = 2.0, eps: float = 1e-6,
                        reduction: str = "mean") -> Tensor:
    """max(0, |anchor − positive| − |anchor − negative| + margin), with norms over the last axis.

    Parameters
    ----------
    anchor, positive, negative : Tensor, shape (..., C)
    margin : float, default 1.0
    p : float, default 2.0
        Order of the norm, at least 1.
    eps : float, default 1e-6
        Added to each difference, as PyTorch does.
    reduction : {"mean", "sum", "none"}, default "mean"

    References
    ----------
    Schroff, Kalenichenko & Philbin, *FaceNet*, arXiv:1503.03832.

    Examples
    --------
    >>> triplet_margin_loss(Tensor([[0.0]]), Tensor([[0.0]]), Tensor([[0.25]])).item()
    0.75
    """
    anchor = cast(Tensor, anchor)
    positive = cast(Tensor, positive)
    negative = cast(Tensor, negative)
    owner = "triplet_margin_loss"
    _alike(owner, anchor=anchor, positive=positive, negative=negative)
    margin, eps = checks.number(owner, "margin", margin), checks.number(owner, "eps", eps)
    p = checks.number(owner, "p", p, minimum=1)
    near = norm(anchor - positive + eps, p, -1)
    return _reduced(owner, maximum(near - norm(anchor - negative + eps, p, -1) + margin, 0.0),
                    reduction)
