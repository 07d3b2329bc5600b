"""Every op: its declaration, registered in ``OPS``, and its public function.

The files, each of which may import the ones before it: ``declare``, ``elementwise``,
``activation``, ``math``, ``shape``, ``reduction``, ``statistics``, ``rearrange``, ``linear``,
``einsum``, ``convolution``, ``pooling``, ``resample``, ``normalize``, ``loss``, ``distance``,
``random``, ``creation``, ``numpy_functions``, ``hooks``, ``checkpoint``, ``methods``.
"""

from typing import TYPE_CHECKING

from tinygrad_cnn.names import gathered
from tinygrad_cnn.ops import numpy_functions as numpy_functions
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
    __all__ = gathered(__name__)

install()
