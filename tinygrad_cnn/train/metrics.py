"""Figures that tell how good predictions are: plain arrays in, numbers out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn import checks
from tinygrad_cnn.core import as_array
from tinygrad_cnn.data.dataset import check_labels
from tinygrad_cnn.errors import DTypeError, SettingError, ShapeError

__all__ = ["accuracy", "confusion_matrix", "top_k_accuracy"]


def _scores_and_labels(who: str, scores: Any, labels: Any) -> tuple[NDArray[Any], NDArray[Any]]:
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


def _numbers(who: str, name: str, value: Any) -> NDArray[Any]:
    try:
        array = as_array(value)
    except ValueError as error:
        raise ShapeError(f"{who}: the rows of {name} have unequal lengths ({error})") from None
    if array.dtype.kind not in "iuf":
        raise DTypeError(f"{who}: {name} must be integers or floats, got {array.dtype}")
    return array


def accuracy(scores: Any, labels: Any) -> float:
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


def top_k_accuracy(scores: Any, labels: Any, *, k: int = 5) -> float:
    """The share of rows whose label is among the k highest scores.

    Of equal scores the first counts as the highest, as in `accuracy`, which is k = 1.

    Parameters
    ----------
    scores : array_like, shape (N, K)
        Of K ≥ 2 classes.
    labels : array_like of int, shape (N,), or of shape (N, K)
        Classes 0..K−1, or one-hot or soft rows that sum to 1.
    k : int, default 5

    Raises
    ------
    ShapeError, DataError, SettingError, DTypeError
        As `accuracy`, or if k is not from 1 to K.

    Examples
    --------
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


def confusion_matrix(scores: Any, labels: Any) -> NDArray[np.int64]:
    """How often label i (row) was taken for class j (column).

    Parameters
    ----------
    scores : array_like, shape (N, K)
        Of K ≥ 2 classes.
    labels : array_like of int, shape (N,), or of shape (N, K)
        Classes 0..K−1, or one-hot or soft rows that sum to 1.

    Returns
    -------
    ndarray of int64, shape (K, K)

    Raises
    ------
    ShapeError, DataError, SettingError, DTypeError
        As `accuracy`.

    Examples
    --------
    >>> from tinygrad_cnn.train import confusion_matrix
    >>> confusion_matrix(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    array([[0, 0],
           [1, 1]])
    """
    values, classes = _scores_and_labels("confusion_matrix", scores, labels)
    matrix = np.zeros((values.shape[1],) * 2, np.int64)
    np.add.at(matrix, (classes, values.argmax(1)), 1)
    return matrix
