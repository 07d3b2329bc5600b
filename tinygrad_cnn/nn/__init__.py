"""Layers, containers, losses and first values.

A network is a `Module`; `Sequential` makes one from layers in a row.  Names that PyTorch spells
with a small d, such as ``Conv2d``, are aliases; images are N H W C all the same.
"""

from typing import TYPE_CHECKING

from tinygrad_cnn.core import Parameter as Parameter
from tinygrad_cnn.names import gathered, on_first_use
from tinygrad_cnn.nn import init as init
from tinygrad_cnn.nn.activation import *
from tinygrad_cnn.nn.containers import *
from tinygrad_cnn.nn.conv import *
from tinygrad_cnn.nn.linear import *
from tinygrad_cnn.nn.loss import *
from tinygrad_cnn.nn.module import HookHandle as HookHandle
from tinygrad_cnn.nn.module import Module as Module
from tinygrad_cnn.nn.module import evaluating as evaluating
from tinygrad_cnn.nn.norm import *
from tinygrad_cnn.nn.pool import *
from tinygrad_cnn.nn.state import LoadReport as LoadReport

AdaptiveAvgPool2d, AdaptiveMaxPool2d, MaxUnpool2d = (
    AdaptiveAvgPool2D, AdaptiveMaxPool2D, MaxUnpool2D)
AvgPool1d, AvgPool2d, MaxPool1d, MaxPool2d = AvgPool1D, AvgPool2D, MaxPool1D, MaxPool2D
BatchNorm1d, BatchNorm2d, Conv1d, Conv2d = BatchNorm1D, BatchNorm2D, Conv1D, Conv2D
ConvTranspose1d, ConvTranspose2d = ConvTranspose1D, ConvTranspose2D
Dropout1d, Dropout2d, InstanceNorm2d = Dropout1D, Dropout2D, InstanceNorm2D
GlobalAvgPool2d, GlobalMaxPool2d = GlobalAvgPool2D, GlobalMaxPool2D
SeparableConv2d, ZeroPad2d = SeparableConv2D, ZeroPad2D

if not TYPE_CHECKING:                           # type checkers follow the stars
    __all__ = sorted({"Parameter", "init", *gathered(__name__),
                      *(name for name in globals() if name[-2:] in ("1d", "2d"))})

on_first_use(__name__)
