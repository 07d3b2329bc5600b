"""tinygrad_cnn: convolutional networks in NumPy, with automatic gradients.

>>> import tinygrad_cnn as tc
>>> x = tc.Tensor([[1.0, 2.0]], requires_grad=True)
>>> (x * x).sum().backward()
>>> x.grad.data
array([[2., 4.]], dtype=float32)

The parts ``tc.nn``, ``tc.optim``, ``tc.data``, ``tc.train``, ``tc.viz``, ``tc.transforms``,
``tc.testing``, ``tc.io``, ``tc.parallel`` and ``tc.models`` are imported when they are first used.
"""

from tinygrad_cnn import start as _start  # noqa: F401, I001 - before NumPy is imported

from typing import TYPE_CHECKING

from tinygrad_cnn import names
from tinygrad_cnn.core import Parameter as Parameter
from tinygrad_cnn.core import Tensor as Tensor
from tinygrad_cnn.core import custom_op as custom_op
from tinygrad_cnn.core import grad as grad
from tinygrad_cnn.core import gradients as gradients
from tinygrad_cnn.core import tensor as tensor
from tinygrad_cnn.core.graph import enable_grad as enable_grad
from tinygrad_cnn.core.graph import is_grad_enabled as is_grad_enabled
from tinygrad_cnn.core.graph import no_grad as no_grad
from tinygrad_cnn.core.op import OPS as OPS
from tinygrad_cnn.core.op import ErrorInput as ErrorInput
from tinygrad_cnn.core.op import Op as Op
from tinygrad_cnn.core.op import OpTest as OpTest
from tinygrad_cnn.core.op import Sample as Sample
from tinygrad_cnn.core.op import register as register
from tinygrad_cnn.core.op import use_kernels as use_kernels
from tinygrad_cnn.debug import *
from tinygrad_cnn.errors import *
from tinygrad_cnn.kernels.autotune import autotune as autotune
from tinygrad_cnn.kernels.compiled import get_compiled as get_compiled
from tinygrad_cnn.kernels.compiled import set_compiled as set_compiled
from tinygrad_cnn.kernels.memory import release_memory as release_memory
from tinygrad_cnn.kernels.parallel import get_num_threads as get_num_threads
from tinygrad_cnn.kernels.parallel import set_num_threads as set_num_threads
from tinygrad_cnn.ops import *
from tinygrad_cnn.version import __version__ as __version__

if TYPE_CHECKING:                               # what is imported when it is first asked for
    from tinygrad_cnn import data as data
    from tinygrad_cnn import io as io
    from tinygrad_cnn import models as models
    from tinygrad_cnn import nn as nn
    from tinygrad_cnn import optim as optim
    from tinygrad_cnn import parallel as parallel
    from tinygrad_cnn import stepwise as stepwise
    from tinygrad_cnn import testing as testing
    from tinygrad_cnn import train as train
    from tinygrad_cnn import transforms as transforms
    from tinygrad_cnn import viz as viz

if not TYPE_CHECKING:                           # type checkers follow the stars
    __all__ = ["__version__", *names.gathered(__name__)]

names.on_first_use(__name__)
