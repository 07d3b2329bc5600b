"""Figures that tell how good predictions are: plain arrays in, numbers out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.errors import SettingError, ShapeError
from tinygrad_cnn.tensor import as_array

__all__ = ["accuracy", "confusion_matrix", "top_k_accuracy"]


def _scores_and_labels(who: str, scores: Any, labels: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    values, classes = as_array(scores), as_array(labels)
    if classes.shape == values.shape:
        classes = classes.argmax(-1)                              # one-hot or soft
    if values.ndim != 2 or classes.shape != values.shape[:1]:
        raise ShapeError(f"{who}: scores have shape {values.shape} and labels {classes.shape}; "
                         "give (N, K) and (N,)")
    if not len(values):
        raise ShapeError(f"{who}: there are no scores")
    return values, classes


def accuracy(scores: Any, labels: Any) -> float:
    """The share of rows whose highest score is at the label.

    Parameters
    ----------
    scores : array_like, shape (N, K)
    labels : array_like, shape (N,) or (N, K)

    Raises
    ------
    ShapeError
        If the shapes do not fit, or N is 0.

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

    Parameters
    ----------
    scores : array_like, shape (N, K)
    labels : array_like, shape (N,) or (N, K)
    k : int, default 5

    Raises
    ------
    ShapeError
        If the shapes do not fit, or N is 0.
    SettingError
        If k is not from 1 to K.

    Examples
    --------
    >>> from tinygrad_cnn.train import top_k_accuracy
    >>> top_k_accuracy(np.array([[0.1, 0.5, 0.4]]), np.array([2]), k=2)
    1.0
    """
    values, classes = _scores_and_labels("top_k_accuracy", scores, labels)
    if not 1 <= k <= values.shape[1]:
        raise SettingError(f"top_k_accuracy: k must be from 1 to {values.shape[1]}, got {k}")
    best = np.argpartition(-values, k - 1, axis=1)[:, :k]
    return float((best == classes[:, None]).any(1).mean())


def confusion_matrix(scores: Any, labels: Any) -> NDArray[np.int64]:
    """How often label i (row) was taken for class j (column).

    Parameters
    ----------
    scores : array_like, shape (N, K)
    labels : array_like, shape (N,) or (N, K)

    Returns
    -------
    ndarray of int64, shape (K, K)

    Raises
    ------
    ShapeError
        If the shapes do not fit, or N is 0.

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
