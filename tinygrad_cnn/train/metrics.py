"""Figures that tell how good predictions are: plain arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn import checks
from tinygrad_cnn.core import TensorLike, as_array
from tinygrad_cnn.data.dataset import check_labels
from tinygrad_cnn.errors import DTypeError, SettingError, ShapeError
from tinygrad_cnn.types import Array

__all__ = ["METRICS", "accuracy", "confusion_matrix", "mean_absolute_error", "mean_squared_error",
           "top_k_accuracy"]

Metric = Callable[[Array, Array], float]


def _scores_and_labels(who: str, scores: object, labels: object) -> tuple[Array, Array]:
    """Scores (N, K) that can be compared, and one class of 0..K-1 for each row."""
    values, given = _numbers(who, "scores", scores), _numbers(who, "labels", labels)
    if values.ndim != 2 or given.shape not in (values.shape, values.shape[:1]):
        raise ShapeError(f"{who}: scores have shape {values.shape} and labels {given.shape}; "
                         "give (N, K) and (N,), or (N, K) and (N, K)")
    if not len(values):
        raise ShapeError(f"{who}: there are no scores")
    if values.shape[1] < 2:
        raise ShapeError(f"{who}: scores {values.shape} have one column, whose largest is always "
                         "itself; give a column for each class, or, if they are no classes, "
                         "another metric")
    if np.isnan(values).any():
        place = tuple(np.argwhere(np.isnan(values))[0].tolist())
        raise SettingError(f"{who}: scores hold NaN at {place}, which is neither above nor below "
                           "another score")
    classes = check_labels(given, len(values), classes=values.shape[1], where=who)
    if classes.ndim == 1:
        return values, classes
    bad = (given < 0).any(1) | (abs(given.sum(1) - 1.0) > 1e-3)
    if bad.any():
        raise SettingError(f"{who}: labels of shape (N, K) are rows of probabilities, at least 0 "
                           f"and with sum 1; row {int(np.argmax(bad))} is "
                           f"{given[np.argmax(bad)].tolist()}; for targets that are no classes, "
                           "use another metric")
    return values, given.argmax(1)                                          # one-hot or soft


def _numbers(who: str, name: str, value: object) -> Array:
    try:
        array = as_array(value)
    except ValueError as error:
        raise ShapeError(f"{who}: the rows of {name} have unequal lengths ({error})") from None
    if array.dtype.kind not in "iuf":
        raise DTypeError(f"{who}: {name} must be integers or floats, got {array.dtype}")
    return array


def accuracy(scores: TensorLike, labels: TensorLike) -> float:
    """The share of rows whose highest score is at the label.

    Parameters
    ----------
    scores : array_like, shape (N, K)
        Of K ≥ 2 classes.
    labels : array_like of int, shape (N,), or of shape (N, K)
        Classes 0..K−1, or one-hot or soft rows that sum to 1.

    Raises
    ------
    ShapeError
        If the shapes do not fit, N is 0, or K is 1.
    DataError
        If a label is outside 0..K−1, or a class is not an integer.
    SettingError
        If a score is NaN, or labels (N, K) are not rows of probabilities.
    DTypeError
        If scores or labels are not integers or floats.

    Examples
    --------
    >>> from tinygrad_cnn.train import accuracy
    >>> accuracy(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    0.5
    """
    values, classes = _scores_and_labels("accuracy", scores, labels)
    return float((values.argmax(1) == classes).mean())


def top_k_accuracy(scores: TensorLike, labels: TensorLike, *, k: int = 5) -> float:
    """The share of rows whose label is among the k highest scores; arguments as of `accuracy`.

    Of equal scores the first counts as the highest, as in `accuracy`, which is k = 1.

    >>> from tinygrad_cnn.train import top_k_accuracy
    >>> top_k_accuracy(np.array([[0.1, 0.5, 0.4]]), np.array([2]), k=2)
    1.0
    """
    values, classes = _scores_and_labels("top_k_accuracy", scores, labels)
    columns = values.shape[1]
    k = checks.integer("top_k_accuracy", "k", k, minimum=1, maximum=columns)
    own = np.take_along_axis(values, classes[:, None], axis=1)              # N 1
    before = np.arange(columns) < classes[:, None]                          # N K
    rank = ((values > own) | ((values == own) & before)).sum(1)
    return float((rank < k).mean())


def confusion_matrix(scores: TensorLike, labels: TensorLike) -> NDArray[np.int64]:
    """How often label i (row) was taken for class j (column); arguments as of `accuracy`.

    >>> from tinygrad_cnn.train import confusion_matrix
    >>> confusion_matrix(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    array([[0, 0],
           [1, 1]])
    """
    values, classes = _scores_and_labels("confusion_matrix", scores, labels)
    matrix = np.zeros((values.shape[1],) * 2, np.int64)
    np.add.at(matrix, (classes, values.argmax(1)), 1)
    return matrix


def mean_absolute_error(prediction: TensorLike, target: TensorLike) -> float:
    """The mean of |prediction − target|, of two arrays of one shape.

    >>> from tinygrad_cnn.train import mean_absolute_error
    >>> mean_absolute_error([[1.0], [4.0]], [[2.0], [2.0]])
    1.5
    """
    return float(np.abs(_difference("mean_absolute_error", prediction, target)).mean())


def mean_squared_error(prediction: TensorLike, target: TensorLike) -> float:
    """The mean of (prediction − target)², of two arrays of one shape."""
    return float((_difference("mean_squared_error", prediction, target) ** 2).mean())


def _difference(who: str, prediction: object, target: object) -> Array:
    values, given = _numbers(who, "prediction", prediction), _numbers(who, "target", target)
    if values.shape != given.shape or not values.size:
        raise ShapeError(f"{who}: prediction {values.shape} and target {given.shape} must have one "
                         "shape, and entries")
    return values.astype(np.float64) - given


Metrics = Mapping[str, Metric] | Sequence[str | Metric] | str | Metric

METRICS: dict[str, Metric] = {
    "accuracy": accuracy, "top_5_accuracy": top_k_accuracy, "mae": mean_absolute_error,
    "mse": mean_squared_error}
"""Name -> metric, as `Trainer` takes it."""


def metrics_by_name(given: Metrics) -> dict[str, Metric]:
    """A mapping of names to functions; names alone stand for those of `METRICS`."""
    if isinstance(given, Mapping):
        return dict(given)
    found: dict[str, Metric] = {}
    for metric in [given] if isinstance(given, str) or callable(given) else given:
        if isinstance(metric, str):
            found[metric] = METRICS[checks.choice("Trainer", "metrics", metric, tuple(METRICS))]
        else:
            found[getattr(metric, "__name__", type(metric).__name__)] = metric
    return found
