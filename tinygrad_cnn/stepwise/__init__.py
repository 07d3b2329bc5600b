"""A convolutional network step by step: the functions and classes of two teaching notebooks.

Everything here works on plain arrays and can be read in one sitting: loops, formulas, caches that
are handed on, no graph.  The functions (``conv_forward``, ``pool_backward``, ``convnet_forward``
and the rest) are those of the first notebook, the classes (``Conv2D``, ``Linear``, ``Model``) those
of the exercise, under their own names and argument orders.  Each has a registered op that does the
same with ``backward()``; ``docs/notebooks.md`` walks from one to the other.

Images are (N, H, W, C), filters (f, f, C_in, C_out), biases (1, 1, 1, C_out).  The loops are those
of ``kernels.reference``: an oracle that shares no code with the fast kernels, the graph or the ops.
"""

from typing import TYPE_CHECKING

from tinygrad_cnn.names import gathered
from tinygrad_cnn.stepwise.classes import *
from tinygrad_cnn.stepwise.diagnosis import diagnose as diagnose
from tinygrad_cnn.stepwise.functions import *

if not TYPE_CHECKING:                           # type checkers follow the stars
    __all__ = gathered(__name__)
