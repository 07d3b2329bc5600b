"""Training: the loop, its history, metrics, callbacks, summary and profile of a model."""

from tinygrad_cnn.names import on_first_use
from tinygrad_cnn.train.callbacks import BestCheckpoint, Callback, EarlyStopping
from tinygrad_cnn.train.history import History
from tinygrad_cnn.train.lr_finder import LRCurve
from tinygrad_cnn.train.metrics import (
    METRICS,
    accuracy,
    confusion_matrix,
    mean_absolute_error,
    mean_squared_error,
    top_k_accuracy,
)
from tinygrad_cnn.train.profile import OpRow, Profile, profile
from tinygrad_cnn.train.summary import LayerRow, Summary, summarize
from tinygrad_cnn.train.trainer import Trainer, fit

__all__ = ["METRICS", "BestCheckpoint", "Callback", "EarlyStopping", "History", "LRCurve",
           "LayerRow", "OpRow", "Profile", "Summary", "Trainer", "accuracy", "confusion_matrix",
           "fit", "mean_absolute_error", "mean_squared_error", "profile", "summarize",
           "top_k_accuracy"]

on_first_use(__name__)
