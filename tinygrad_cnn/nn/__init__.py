"""Layers, containers, losses and first values.

A network is a `Module`; `Sequential` makes one from layers in a row.  Names that PyTorch spells
with a small d, such as ``Conv2d``, are aliases; images are N H W C all the same.
"""

from tinygrad_cnn.core import Parameter
from tinygrad_cnn.names import on_first_use
from tinygrad_cnn.nn import init
from tinygrad_cnn.nn.activation import (
    ELU,
    GELU,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from tinygrad_cnn.nn.containers import ModuleList, Sequential
from tinygrad_cnn.nn.conv import Conv2D, ConvTranspose2D
from tinygrad_cnn.nn.linear import Flatten, Identity, Linear
from tinygrad_cnn.nn.loss import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    MSELoss,
    NLLLoss,
    l2_penalty,
)
from tinygrad_cnn.nn.module import HookHandle, Module, evaluating
from tinygrad_cnn.nn.norm import BatchNorm1D, BatchNorm2D, Dropout, LayerNorm
from tinygrad_cnn.nn.pool import AvgPool2D, GlobalAvgPool2D, MaxPool2D, Pad2D, ZeroPad2D
from tinygrad_cnn.nn.state import LoadReport

Conv2d, ConvTranspose2d = Conv2D, ConvTranspose2D
MaxPool2d, AvgPool2d, ZeroPad2d = MaxPool2D, AvgPool2D, ZeroPad2D
BatchNorm1d, BatchNorm2d = BatchNorm1D, BatchNorm2D

__all__ = [
    "ELU", "GELU", "AvgPool2D", "AvgPool2d", "BCEWithLogitsLoss", "BatchNorm1D", "BatchNorm1d",
    "BatchNorm2D", "BatchNorm2d", "Conv2D", "Conv2d", "ConvTranspose2D", "ConvTranspose2d",
    "CrossEntropyLoss", "Dropout", "Flatten", "GlobalAvgPool2D", "HookHandle", "Identity",
    "LayerNorm", "LeakyReLU", "Linear", "LoadReport", "LogSoftmax", "MSELoss", "MaxPool2D",
    "MaxPool2d", "Module", "ModuleList", "NLLLoss", "Pad2D", "Parameter", "ReLU", "Sequential",
    "SiLU", "Sigmoid", "Softmax", "Softplus", "Tanh", "ZeroPad2D", "ZeroPad2d", "evaluating",
    "init", "l2_penalty",
]

on_first_use(__name__)
