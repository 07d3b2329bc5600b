"""Training: the loop, its history, metrics, callbacks, and the summary of a model."""

from tinygrad_cnn.train.callbacks import BestCheckpoint, Callback, EarlyStopping
from tinygrad_cnn.train.history import History
from tinygrad_cnn.train.metrics import accuracy, confusion_matrix, top_k_accuracy
from tinygrad_cnn.train.summary import LayerRow, Summary, summarize
from tinygrad_cnn.train.trainer import Trainer, fit

__all__ = ["BestCheckpoint", "Callback", "EarlyStopping", "History", "LayerRow", "Summary",
           "Trainer", "accuracy", "confusion_matrix", "fit", "summarize", "top_k_accuracy"]
