"""Optimisers, schedules of the learning rate, and gradient clipping."""

from tinygrad_cnn.optim import schedules
from tinygrad_cnn.optim.adam import Adam, AdamW
from tinygrad_cnn.optim.adaptive import AdaGrad, RMSprop
from tinygrad_cnn.optim.clipping import clip_norm, clip_value
from tinygrad_cnn.optim.optimizer import Optimizer
from tinygrad_cnn.optim.sgd import SGD

__all__ = ["SGD", "AdaGrad", "Adam", "AdamW", "Optimizer", "RMSprop", "clip_norm", "clip_value",
           "schedules"]
