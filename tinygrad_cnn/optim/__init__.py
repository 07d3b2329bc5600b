"""Optimizers, schedules of the learning rate, gradient clipping, and averages of weights."""

from tinygrad_cnn.names import on_first_use
from tinygrad_cnn.optim import lr_scheduler
from tinygrad_cnn.optim.algorithms import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    Lion,
    NAdam,
    RAdam,
    RMSprop,
)
from tinygrad_cnn.optim.clip import clip_grad_norm_, clip_grad_value_
from tinygrad_cnn.optim.ema import EMA
from tinygrad_cnn.optim.optimizer import Optimizer

__all__ = ["EMA", "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Lion", "NAdam", "Optimizer",
           "RAdam", "RMSprop", "clip_grad_norm_", "clip_grad_value_", "lr_scheduler"]

on_first_use(__name__)
