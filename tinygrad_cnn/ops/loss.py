"""Losses.  They never broadcast: shapes that differ are refused.

Labels have no gradient.  Class weights and label smoothing are folded into the targets by the
public functions, so that one op serves integer, one-hot and soft labels.  Integer labels stay
integers: a matrix of zeros and ones would take more memory than the logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cnn import checks
from tinygrad_cnn.core import (
    Tensor,
    TensorLike,
    apply,
    as_array,
    as_setting,
    as_tensor,
    refuse_tensors_inside,
)
from tinygrad_cnn.core.op import ErrorInput, Op, OpTest, Sample, register, register_function
from tinygrad_cnn.errors import DTypeError, SettingError, ShapeError
from tinygrad_cnn.kernels import reduce as kernels
from tinygrad_cnn.ops.activation import softplus
from tinygrad_cnn.ops.elementwise import where
from tinygrad_cnn.ops.normalize import softmax
from tinygrad_cnn.ops.reduction import mean, sum
from tinygrad_cnn.ops.shape import reshape, scatter_add
from tinygrad_cnn.shapes import Shape
from tinygrad_cnn.types import DType, Function, Settings, Value

__all__ = ["binary_cross_entropy_with_logits", "cross_entropy", "mse_loss", "nll_loss"]

REDUCTIONS = ("mean", "sum", "none")


# ---- labels

def _check_classes(op: str, labels: np.ndarray, classes: int) -> None:
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        wrong = int(np.flatnonzero((labels < 0) | (labels >= classes))[0])
        raise SettingError(f"{op}: label {labels.flat[wrong]} at position {wrong} is outside "
                           f"0..{classes - 1}, the classes of the logits")


def _soft_labels(op: str, labels: np.ndarray, dtype: DType) -> np.ndarray:
    """One-hot or soft rows, checked to be distributions."""
    rows = labels.reshape(-1, labels.shape[-1])
    rows = rows if rows.dtype.kind == "f" else rows.astype(dtype)
    if not np.isfinite(rows).all():
        place = tuple(np.argwhere(~np.isfinite(labels))[0].tolist())
        raise SettingError(f"{op}: labels hold NaN or infinity at {place}")
    if (rows < 0).any() or (abs(rows.sum(1) - 1) > 1e-3).any():
        wrong = int(np.flatnonzero((rows < 0).any(1) | (abs(rows.sum(1) - 1) > 1e-3))[0])
        raise SettingError(f"{op}: soft labels must be at least 0 and each row must sum to 1; row "
                           f"{wrong} sums to {rows[wrong].sum():.6g}, its least entry is "
                           f"{rows[wrong].min():.6g}")
    return rows


def _targets(op: str, scores: Tensor, labels: object, weight: object, smoothing: float,
             reduction: str) -> Settings:
    """The settings of the op `cross_entropy`: targets, and what their sum is divided by."""
    plain = as_setting(labels, op, "labels")
    if scores.ndim < 2:
        raise ShapeError(f"{op}: the scores need axes (N ... K), got shape {scores.shape}")
    checks.floats(op, "logits" if op == "cross_entropy" else "log_probabilities", scores.dtype)
    classes = scores.shape[-1]
    if not classes:
        raise ShapeError(f"{op}: the scores {scores.shape} hold no class: their last axis is 0")
    if plain.dtype.kind not in "iuf":
        raise DTypeError(f"{op}: labels must be integer classes or rows of probabilities, got "
                         f"dtype {plain.dtype}")
    are_classes = plain.dtype.kind in "iu" and plain.shape == scores.shape[:-1]
    if are_classes:
        _check_classes(op, plain, classes)
        target = plain.reshape(-1).astype(np.intp)                    # rows
    elif plain.shape == scores.shape:
        target = _soft_labels(op, plain, scores.dtype)                              # rows, K
    elif plain.shape == scores.shape[:-1]:
        if not np.isfinite(plain).all():
            place = tuple(np.argwhere(~np.isfinite(plain))[0].tolist())
            raise SettingError(f"{op}: labels hold NaN or infinity at {place}")
        raise DTypeError(f"{op}: labels of shape {plain.shape} are classes and must be integers, "
                         f"got {plain.dtype}; cast them: labels.astype(np.int64)")
    else:
        raise ShapeError(f"{op}: labels have shape {plain.shape} and dtype {plain.dtype}, the "
                         f"scores {scores.shape}; give integer classes of shape "
                         f"{scores.shape[:-1]}, or one-hot or soft rows of shape {scores.shape}")
    if not len(target):
        raise ShapeError(f"{op}: the batch is empty, scores have shape {scores.shape}")
    per_class = None if weight is None else _class_weights(op, weight, classes)
    if per_class is None:
        total = float(len(target)) if are_classes else float(target.sum(dtype=np.float64))
    else:
        total = float((per_class[target] if are_classes else target @ per_class).sum(
            dtype=np.float64))
    if not total and reduction == "mean":
        raise SettingError(f"{op}: the weights of all labels are 0, so their mean is not defined")
    own = even = None
    one = np.ones(1, scores.dtype) if per_class is None else per_class.astype(scores.dtype)
    if not are_classes:
        target = ((target * (1 - smoothing) + smoothing / classes) * one).astype(scores.dtype)
    elif per_class is not None or smoothing:
        own = np.broadcast_to(one, classes)[target].astype(scores.dtype) * (1 - smoothing)
        if smoothing:
            even = np.broadcast_to(smoothing / classes * one, classes).astype(scores.dtype)
    for array in (target, own, even):
        if array is not None:
            array.flags.writeable = False       # so that recording it takes no copy
    return {"target": target, "own": own, "even": even,
            "divisor": {"mean": total, "sum": 1.0, "none": None}[reduction]}


def _kept(op: str, scores: Tensor, labels: object, ignored: int) -> np.ndarray | None:
    """Which rows are part of the loss; None: all."""
    ignored = checks.integer(op, "ignore_index", ignored)
    plain = as_setting(labels, op, "labels")
    if plain.dtype.kind not in "iu" or plain.shape != scores.shape[:-1] or scores.ndim < 2:
        return None
    kept = np.asarray(plain != ignored)
    if kept.all():
        return None
    return kept


def _only(op: str, scores: Tensor, labels: object, kept: np.ndarray) -> tuple[Tensor, np.ndarray]:
    if not kept.any():
        raise SettingError(f"{op}: every label is left out by ignore_index, so their mean is not "
                           "defined")
    return scores[kept], as_array(labels)[kept]


def _placed(terms: Tensor, kept: np.ndarray) -> Tensor:
    """The terms of the rows that are kept, and 0 at the others."""
    return scatter_add(terms, index=np.nonzero(kept), shape=kept.shape)


def _one_row(loss: Function, scores: Tensor, labels: object, **settings: Any) -> Tensor:
    """The loss of one row of scores and its label, neither of which has a batch axis."""
    plain = as_setting(labels, loss.__name__, "labels")
    return reshape(loss(reshape(scores, (1, -1)), plain[None], **settings), ())


def _class_weights(op: str, weight: object, classes: int) -> np.ndarray:
    """One weight for each class, checked."""
    plain = as_setting(weight, op, "weight")
    if plain.dtype.kind not in "iuf" or plain.shape != (classes,) or not np.isfinite(plain).all():
        raise SettingError(f"{op}: weight must hold one finite number for each of the {classes} "
                           f"classes, got {weight!r}")
    return plain


# ---- cross-entropy

def _cross_entropy_shape(logits: Shape, *, target: np.ndarray, own: np.ndarray | None,
                         even: np.ndarray | None, divisor: float | None) -> Shape:
    if target.shape not in (logits, logits[:1]):
        raise ShapeError(f"cross_entropy: the targets are {target.shape}, the logits {logits}")
    return () if divisor is not None else logits[:1]


def _cross_entropy_vjp(ct: Value, out: Value, logits: Value, *, divisor: float | None,
                       **targets: Any) -> Value:
    rows = ct.reshape(-1, 1) if divisor is None else (ct / divisor).reshape(1, 1)
    return apply(CROSS_ENTROPY_INPUT, logits, rows, **targets)


def _cross_entropy_input_shape(logits: Shape, g: Shape, *, target: np.ndarray,
                               own: np.ndarray | None, even: np.ndarray | None) -> Shape:
    if g not in ((1, 1), (logits[0], 1)):
        raise ShapeError(f"cross_entropy_input: g is {g} and the logits {logits}; give one number "
                         "for each row, or one for all")
    return logits


def _cross_entropy_input_vjp_logits(ct: Value, out: Value, logits: Value, g: Value, *,
                                    target: np.ndarray, own: np.ndarray | None,
                                    even: np.ndarray | None) -> Value:
    # The targets are constant: what is left is the derivative of softmax.
    if target.ndim == 2:
        whole = target.sum(axis=1, keepdims=True)
    else:
        whole = np.ones((len(target), 1), g.dtype) if own is None else own[:, None]
        whole = whole if even is None else whole + even.sum()
    p, given = softmax(logits), ct * (g * whole)
    return p * (given - sum(p * given, axis=-1, keepdims=True))


def _cross_entropy_input_vjp_g(ct: Value, out: Value, logits: Value, g: Value,
                               **targets: Any) -> Value:
    one = Tensor(np.ones((1, 1), g.dtype))
    return sum(ct * apply(CROSS_ENTROPY_INPUT, logits, one, **targets), axis=-1, keepdims=True)


def _cross_entropy_samples(rng: np.random.Generator) -> Iterator[Sample]:
    rows = rng.dirichlet(np.ones(3), 4) * [0.5, 1.0, 2.0]
    plain: Settings = {"own": None, "even": None}
    yield Sample("classes, mean", (rng.normal(size=(4, 3)),),
                 {"target": np.array([0, 2, 1, 2]), **plain, "divisor": 4.0})
    yield Sample("weighted and smoothed classes", (rng.normal(size=(3, 4)),),
                 {"target": np.array([3, 0, 3]), "own": np.array([0.5, 2.0, 0.5]),
                  "even": np.array([0.25, 0.5, 0.0, 0.125]), "divisor": None})
    yield Sample("weighted rows", (rng.normal(size=(4, 3)),),
                 {"target": rows, **plain, "divisor": None})


def _cross_entropy_input_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for sample in _cross_entropy_samples(rng):
        targets = dict(sample.settings)
        rows = 1 if targets.pop("divisor") else len(targets["target"])
        yield Sample(sample.id, (*sample.args, rng.normal(size=(rows, 1))), targets)


CROSS_ENTROPY = register(Op(
    name="cross_entropy", shape=_cross_entropy_shape, kernels={"array": kernels.cross_entropy},
    vjp={"logits": _cross_entropy_vjp},
    test=OpTest(
        samples=_cross_entropy_samples,
        error_inputs=(
            ErrorInput("targets", ((2, 3),),
                       {"target": np.zeros((2, 4)), "own": None, "even": None, "divisor": 2.0},
                       "the targets are (2, 4)"),)),
    saved=("logits",), couples=(1,), family="loss",
    flops=lambda logits, *, out_shape, target, own, even, divisor: 6 * math.prod(logits)))

CROSS_ENTROPY_INPUT = register(Op(
    name="cross_entropy_input", shape=_cross_entropy_input_shape,
    kernels={"array": kernels.cross_entropy_input},
    vjp={"logits": _cross_entropy_input_vjp_logits, "g": _cross_entropy_input_vjp_g},
    test=OpTest(
        samples=_cross_entropy_input_samples, exact_in=("g",),
        error_inputs=(
            ErrorInput("rows", ((2, 3), (3, 1)),
                       {"target": np.zeros(2, int), "own": None, "even": None},
                       "one number for each row"),)),
    saved=("logits", "g"), couples=(1,), broadcasts=True, family="loss",
    flops=lambda logits, g, *, out_shape, **settings: 6 * math.prod(logits)))


@register_function()
def cross_entropy(logits: TensorLike, labels: TensorLike, *, label_smoothing: float = 0.0,
                  weight: ArrayLike | None = None, ignore_index: int = -100,
                  reduction: str = "mean") -> Tensor:
    """The cross-entropy of softmax(logits) against the labels.

    loss[n] = −Σ_k weight[k] · t[n, k] · log softmax(logits)[n, k], where t is the label as a row of
    probabilities, mixed with the even distribution: t · (1 − s) + s / K.

    Parameters
    ----------
    logits : Tensor, shape (N, ..., K)
        Scores; softmax is taken here, over the last axis.
    labels : array_like of int, shape (N, ...), or of shape (N, ..., K)
        Classes 0..K−1, or one-hot or soft rows that sum to 1.
    label_smoothing : float, default 0.0
        s, from 0 to 1.
    weight : array_like, shape (K,), optional
        Of each class.
    ignore_index : int, default -100
        Rows with this label are no part of the loss.
    reduction : {"mean", "sum", "none"}, default "mean"
        A weighted mean divides by the sum of the labels' weights.

    Returns
    -------
    Tensor, shape () or (N, ...)

    Raises
    ------
    ShapeError
        If the shapes do not fit, (N, 1) labels included, or the batch is empty.
    SettingError
        If a label is out of range or NaN, or a setting is out of its range.
    DTypeError
        If classes are not integers, or labels not numbers.
    GradientError
        If the labels require a gradient.

    References
    ----------
    Szegedy et al., *Rethinking the Inception architecture*, arXiv:1512.00567 (label smoothing).

    Examples
    --------
    >>> cross_entropy(Tensor([[0.0, 0.0]]), np.array([1])).item()  # doctest: +ELLIPSIS
    0.6931...
    """
    checks.choice("cross_entropy", "reduction", reduction, REDUCTIONS)
    smoothing = checks.number("cross_entropy", "label_smoothing", label_smoothing, minimum=0,
                              maximum=1)
    logits = as_tensor(logits, "cross_entropy", "logits")
    if logits.ndim == 1:
        return _one_row(cross_entropy, logits, labels, weight=weight, reduction=reduction,
                        label_smoothing=smoothing, ignore_index=ignore_index)
    if (kept := _kept("cross_entropy", logits, labels, ignore_index)) is not None:
        if not kept.any() and reduction != "mean":
            return _reduce(where(kept, logits[..., 0], 0.0), reduction)
        part = cross_entropy(*_only("cross_entropy", logits, labels, kept), weight=weight,
                             label_smoothing=smoothing, reduction=reduction)
        return _placed(part, kept) if reduction == "none" else part
    settings = _targets("cross_entropy", logits, labels, weight, smoothing, reduction)
    rows = logits if logits.ndim == 2 else reshape(logits, (-1, logits.shape[-1]))
    loss = apply(CROSS_ENTROPY, rows, **settings)
    return reshape(loss, logits.shape[:-1]) if reduction == "none" and logits.ndim > 2 else loss


@register_function()
def nll_loss(log_probabilities: TensorLike, labels: TensorLike, *,
             weight: ArrayLike | None = None, ignore_index: int = -100,
             reduction: str = "mean") -> Tensor:
    """The negative log-likelihood: `cross_entropy` for scores that are log-probabilities already.

    Parameters
    ----------
    log_probabilities : Tensor, shape (N, ..., K)
        Such as `log_softmax` makes.
    labels, weight, ignore_index, reduction
        As in `cross_entropy`.

    Raises
    ------
    ShapeError, SettingError, DTypeError, GradientError
        As `cross_entropy`.

    Examples
    --------
    >>> nll_loss(Tensor([[-0.5, -2.0]]), np.array([0])).item()
    0.5
    """
    checks.choice("nll_loss", "reduction", reduction, REDUCTIONS)
    scores = log_probabilities
    scores = as_tensor(scores, "nll_loss", "log_probabilities")
    if scores.ndim == 1:
        return _one_row(nll_loss, scores, labels, weight=weight, reduction=reduction,
                        ignore_index=ignore_index)
    if (kept := _kept("nll_loss", scores, labels, ignore_index)) is not None:
        if not kept.any() and reduction != "mean":
            return _reduce(where(kept, scores[..., 0], 0.0), reduction)
        part = nll_loss(*_only("nll_loss", scores, labels, kept), weight=weight,
                        reduction=reduction)
        return _placed(part, kept) if reduction == "none" else part
    settings = _targets("nll_loss", scores, labels, weight, 0.0, reduction)
    target, own, divisor = (settings[name] for name in ("target", "own", "divisor"))
    rows = scores if scores.ndim == 2 else reshape(scores, (-1, scores.shape[-1]))
    if target.ndim == 1:
        terms = -rows[np.arange(len(target)), target]
        terms = terms if own is None else where(own != 0, terms, 0.0) * own
    else:
        # −inf where the target is 0 must not become NaN.
        terms = -sum(where(target != 0, rows, 0.0) * target, axis=-1)
    return reshape(terms, scores.shape[:-1]) if divisor is None else sum(terms) / divisor


# ---- regression and binary losses

def _same_shape(op: str, a: object, b: object, names: tuple[str, str]) -> Tensor:
    """``a`` as a tensor, if ``b`` has its shape."""
    a = as_tensor(a, op, names[0])
    refuse_tensors_inside(b, f"{op}: {names[1]}")
    shape = np.shape(as_array(b))
    checks.floats(op, names[0], a.dtype)
    if a.shape != shape:
        raise ShapeError(f"{op}: {names[0]} has shape {a.shape} but {names[1]} {shape}; a loss "
                         "does not broadcast: reshape one to the other")
    if not a.size:
        raise ShapeError(f"{op}: the batch is empty, {names[0]} has shape {a.shape}")
    return a


def _reduce(terms: Tensor, reduction: str) -> Tensor:
    return terms if reduction == "none" else (mean if reduction == "mean" else sum)(terms)


@register_function()
def mse_loss(prediction: TensorLike, target: TensorLike, *,
             reduction: str = "mean") -> Tensor:
    """The mean of (prediction − target)², over all entries.

    Parameters
    ----------
    prediction, target : Tensor
        Of one shape.
    reduction : {"mean", "sum", "none"}, default "mean"

    Raises
    ------
    ShapeError
        If the shapes differ, (n, 1) against (n,) included, or there are no entries.
    DTypeError
        If one is float32 and the other float64.
    SettingError
        If the reduction is unknown.

    Examples
    --------
    >>> mse_loss(Tensor([1.0, 2.0]), Tensor([1.0, 4.0])).item()
    2.0
    """
    checks.choice("mse_loss", "reduction", reduction, REDUCTIONS)
    prediction = _same_shape("mse_loss", prediction, target, ("prediction", "target"))
    dtype = target.dtype if isinstance(target, (Tensor, np.ndarray)) else prediction.dtype
    if dtype.kind == prediction.dtype.kind == "f" and dtype != prediction.dtype:
        raise DTypeError(f"mse_loss: prediction is {prediction.dtype} but target {dtype}; cast "
                         f"one: target.astype(np.{prediction.dtype})")
    difference = prediction - target
    return _reduce(difference * difference, reduction)


@register_function()
def binary_cross_entropy_with_logits(logits: TensorLike, labels: TensorLike, *,
                                     weight: ArrayLike | None = None,
                                     pos_weight: ArrayLike | None = None,
                                     reduction: str = "mean") -> Tensor:
    """The cross-entropy of sigmoid(logits) against probabilities, without overflow.

    loss = weight · (pos_weight · t · log(1 + exp(−x)) + (1 − t) · log(1 + exp(x))).

    Parameters
    ----------
    logits : Tensor
        Scores x of any shape.
    labels : array_like
        t of the same shape, from 0 to 1.
    weight, pos_weight : array_like, optional
        Of each entry, and of label 1; they broadcast to the shape of the logits.
    reduction : {"mean", "sum", "none"}, default "mean"

    Raises
    ------
    ShapeError
        If the shapes differ, or there are no entries.
    SettingError
        If a label is outside 0..1 or NaN, or the reduction is unknown.
    DTypeError
        If the labels are not numbers.
    GradientError
        If the labels require a gradient.

    Examples
    --------
    >>> binary_cross_entropy_with_logits(Tensor([1000.0, -1000.0]), [1, 0]).item()
    0.0
    """
    op = "binary_cross_entropy_with_logits"
    checks.choice(op, "reduction", reduction, REDUCTIONS)
    plain = as_setting(labels, op, "labels")
    logits = _same_shape(op, logits, labels, ("logits", "labels"))
    if plain.dtype.kind not in "fiub":
        raise DTypeError(f"{op}: labels must be numbers from 0 to 1, got dtype {plain.dtype}")
    if np.isnan(plain).any():
        raise SettingError(f"{op}: labels hold NaN at "
                           f"{tuple(np.argwhere(np.isnan(plain))[0].tolist())}")
    if not ((plain >= 0) & (plain <= 1)).all():
        raise SettingError(f"{op}: labels must be from 0 to 1, got {plain.min()} to {plain.max()}")
    plain = plain.astype(logits.dtype)
    # A term of weight 0 is no part of the loss, even where it is infinite.
    on = where(plain != 0, softplus(-logits), 0.0) * plain
    off = where(plain != 1, softplus(logits), 0.0) * (1 - plain)
    if pos_weight is not None:
        on = on * entry_weights(op, "pos_weight", pos_weight, logits)
    terms = on + off
    if weight is not None:
        terms = terms * entry_weights(op, "weight", weight, logits)
    return _reduce(terms, reduction)


def fits(small: Shape, large: Shape) -> bool:
    """Whether the one broadcasts to the other."""
    lead = len(large) - len(small)
    return lead >= 0 and all(n in (1, m) for n, m in zip(small, large[lead:], strict=True))


def entry_weights(op: str, name: str, weight: object, x: Tensor) -> np.ndarray:
    """A number for each entry, which has no gradient."""
    plain = as_setting(weight, op, name)
    if plain.dtype.kind not in "iufb":
        raise SettingError(f"{op}: {name} must hold numbers, got {plain.dtype}")
    if not fits(plain.shape, x.shape):
        raise ShapeError(f"{op}: {name} {plain.shape} does not broadcast to the shape of the "
                         f"predictions, {x.shape}")
    return plain.astype(x.dtype)
