"""Optimizers, schedules of the learning rate, and gradient clipping."""

from tinygrad_cnn.names import on_first_use
from tinygrad_cnn.optim import lr_scheduler
from tinygrad_cnn.optim.algorithms import SGD, AdaGrad, Adam, AdamW, RMSprop
from tinygrad_cnn.optim.clip import clip_grad_norm_, clip_grad_value_
from tinygrad_cnn.optim.optimizer import Optimizer

__all__ = ["SGD", "AdaGrad", "Adam", "AdamW", "Optimizer", "RMSprop", "clip_grad_norm_",
           "clip_grad_value_", "lr_scheduler"]

on_first_use(__name__)
