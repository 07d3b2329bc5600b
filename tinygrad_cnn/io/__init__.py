"""Files: weights of a model, and checkpoints of a training run."""

from tinygrad_cnn.files import write_atomically
from tinygrad_cnn.io.checkpoint import load_checkpoint, save_checkpoint
from tinygrad_cnn.io.weights import load_weights, save_weights
from tinygrad_cnn.names import on_first_use

__all__ = ["load_checkpoint", "load_weights", "save_checkpoint", "save_weights", "write_atomically"]

on_first_use(__name__)
