"""Files of weights."""

from tinygrad_cnn.io.weights import load_weights, save_weights, write_atomically

__all__ = ["load_weights", "save_weights", "write_atomically"]
