"""Training: the loop, its history, metrics, callbacks, summary and profile of a model."""

from tinygrad_cnn.names import on_first_use
from tinygrad_cnn.train.callbacks import BestCheckpoint, Callback, EarlyStopping
from tinygrad_cnn.train.history import History
from tinygrad_cnn.train.metrics import accuracy, confusion_matrix, top_k_accuracy
from tinygrad_cnn.train.profile import OpRow, Profile, profile
from tinygrad_cnn.train.summary import LayerRow, Summary, summarize
from tinygrad_cnn.train.trainer import Trainer, fit

__all__ = ["BestCheckpoint", "Callback", "EarlyStopping", "History", "LayerRow", "OpRow",
           "Profile", "Summary", "Trainer", "accuracy", "confusion_matrix", "fit", "profile",
           "summarize", "top_k_accuracy"]

on_first_use(__name__)
