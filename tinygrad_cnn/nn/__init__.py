"""Layers, containers, losses and first values.

A network is a `Module`; `Sequential` makes one from layers in a row.  Names that PyTorch spells
with a small d, such as ``Conv2d``, are aliases; images are N H W C all the same.
"""

from tinygrad_cnn.core import Parameter
from tinygrad_cnn.names import on_first_use
from tinygrad_cnn.nn import init
from tinygrad_cnn.nn.activation import (
    CELU,
    ELU,
    GELU,
    GLU,
    SELU,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softmin,
    Softplus,
    Softsign,
    Tanh,
)
from tinygrad_cnn.nn.containers import ModuleDict, ModuleList, ParameterList, Sequential
from tinygrad_cnn.nn.conv import Conv1D, Conv2D, ConvTranspose1D, ConvTranspose2D, SeparableConv2D
from tinygrad_cnn.nn.linear import Embedding, Flatten, Identity, Lambda, Linear, Unflatten
from tinygrad_cnn.nn.loss import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    MSELoss,
    NLLLoss,
    l2_penalty,
)
from tinygrad_cnn.nn.module import HookHandle, Module, evaluating
from tinygrad_cnn.nn.norm import (
    BatchNorm1D,
    BatchNorm2D,
    Dropout,
    Dropout1D,
    Dropout2D,
    DropPath,
    LayerNorm,
)
from tinygrad_cnn.nn.pool import (
    AvgPool1D,
    AvgPool2D,
    GlobalAvgPool2D,
    MaxPool1D,
    MaxPool2D,
    Pad2D,
    ZeroPad2D,
)
from tinygrad_cnn.nn.state import LoadReport

AvgPool1d, AvgPool2d, MaxPool1d, MaxPool2d = AvgPool1D, AvgPool2D, MaxPool1D, MaxPool2D
BatchNorm1d, BatchNorm2d, Conv1d, Conv2d = BatchNorm1D, BatchNorm2D, Conv1D, Conv2D
ConvTranspose1d, ConvTranspose2d = ConvTranspose1D, ConvTranspose2D
Dropout1d, Dropout2d, GlobalAvgPool2d = Dropout1D, Dropout2D, GlobalAvgPool2D
SeparableConv2d, ZeroPad2d = SeparableConv2D, ZeroPad2D

__all__ = [
    "CELU", "ELU", "GELU", "GLU", "SELU", "AvgPool1D", "AvgPool1d", "AvgPool2D", "AvgPool2d",
    "BCEWithLogitsLoss", "BatchNorm1D", "BatchNorm1d", "BatchNorm2D", "BatchNorm2d", "Conv1D",
    "Conv1d", "Conv2D", "Conv2d", "ConvTranspose1D", "ConvTranspose1d", "ConvTranspose2D",
    "ConvTranspose2d", "CrossEntropyLoss", "DropPath", "Dropout", "Dropout1D", "Dropout1d",
    "Dropout2D", "Dropout2d", "Embedding", "Flatten", "GlobalAvgPool2D", "GlobalAvgPool2d",
    "Hardsigmoid", "Hardswish", "Hardtanh", "HookHandle", "Identity", "Lambda", "LayerNorm",
    "LeakyReLU",
    "Linear", "LoadReport", "LogSigmoid", "LogSoftmax", "MSELoss", "MaxPool1D", "MaxPool1d",
    "MaxPool2D", "MaxPool2d", "Mish", "Module", "ModuleDict", "ModuleList", "NLLLoss", "PReLU",
    "Pad2D", "Parameter", "ParameterList", "ReLU", "ReLU6", "SeparableConv2D", "SeparableConv2d",
    "Sequential", "SiLU", "Sigmoid", "Softmax", "Softmin", "Softplus", "Softsign", "Tanh",
    "Unflatten", "ZeroPad2D", "ZeroPad2d", "evaluating", "init", "l2_penalty",
]

on_first_use(__name__)
