"""Every op: its declaration, registered in ``OPS``, and its public function.

The files, each of which may import the ones before it: ``declare``, ``elementwise``,
``activation``, ``math``, ``shape``, ``reduction``, ``statistics``, ``rearrange``, ``linear``,
``einsum``, ``convolution``, ``pooling``, ``resample``, ``normalize``, ``loss``, ``distance``,
``random``, ``creation``, ``numpy_functions``, ``hooks``, ``checkpoint``, ``methods``.
"""

from typing import TYPE_CHECKING

from tinygrad_cnn.ops import activation as _1
from tinygrad_cnn.ops import checkpoint as _18
from tinygrad_cnn.ops import convolution as _2
from tinygrad_cnn.ops import creation as _3
from tinygrad_cnn.ops import distance as _16
from tinygrad_cnn.ops import einsum as _4
from tinygrad_cnn.ops import elementwise as _5
from tinygrad_cnn.ops import linear as _6
from tinygrad_cnn.ops import loss as _7
from tinygrad_cnn.ops import math as _8
from tinygrad_cnn.ops import normalize as _9
from tinygrad_cnn.ops import numpy_functions as numpy_functions
from tinygrad_cnn.ops import pooling as _10
from tinygrad_cnn.ops import random as _11
from tinygrad_cnn.ops import rearrange as _12
from tinygrad_cnn.ops import reduction as _13
from tinygrad_cnn.ops import resample as _17
from tinygrad_cnn.ops import shape as _14
from tinygrad_cnn.ops import statistics as _15
from tinygrad_cnn.ops.activation import *
from tinygrad_cnn.ops.checkpoint import *
from tinygrad_cnn.ops.convolution import *
from tinygrad_cnn.ops.creation import *
from tinygrad_cnn.ops.distance import *
from tinygrad_cnn.ops.einsum import *
from tinygrad_cnn.ops.elementwise import *
from tinygrad_cnn.ops.linear import *
from tinygrad_cnn.ops.loss import *
from tinygrad_cnn.ops.math import *
from tinygrad_cnn.ops.methods import install
from tinygrad_cnn.ops.normalize import *
from tinygrad_cnn.ops.pooling import *
from tinygrad_cnn.ops.random import *
from tinygrad_cnn.ops.rearrange import *
from tinygrad_cnn.ops.reduction import *
from tinygrad_cnn.ops.resample import *
from tinygrad_cnn.ops.shape import *
from tinygrad_cnn.ops.statistics import *

if not TYPE_CHECKING:                           # type checkers follow the stars
    __all__ = sorted(name for module in (_1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, _12, _13,
                                          _14, _15, _16, _17, _18)
                     for name in module.__all__)

install()
