"""tinygrad_cnn: convolutional networks in NumPy, with automatic gradients.

>>> import tinygrad_cnn as tc
>>> x = tc.Tensor([[1.0, 2.0]], requires_grad=True)
>>> (x * x).sum().backward()
>>> x.grad.data
array([[2., 4.]], dtype=float32)

The parts ``tc.nn``, ``tc.optim``, ``tc.data``, ``tc.train``, ``tc.viz``, ``tc.transforms``,
``tc.testing``, ``tc.io`` and ``tc.models`` are imported when they are first used.
"""

from typing import TYPE_CHECKING

from tinygrad_cnn.core import Parameter, Tensor, custom_op, grad, gradients, tensor
from tinygrad_cnn.core.graph import enable_grad, is_grad_enabled, no_grad
from tinygrad_cnn.core.op import OPS, ErrorInput, Op, OpTest, Sample, register, use_kernels
from tinygrad_cnn.debug import check_mutation, detect_anomaly
from tinygrad_cnn.errors import (
    AnomalyError,
    CheckpointError,
    DataError,
    DeclarationError,
    DTypeError,
    GradientError,
    GradientMismatch,
    GraphFreedError,
    MissingExtraError,
    SettingError,
    ShapeError,
    TinygradCnnError,
    VizError,
)
from tinygrad_cnn.kernels.autotune import autotune
from tinygrad_cnn.kernels.compiled import get_compiled, set_compiled
from tinygrad_cnn.kernels.memory import release_memory
from tinygrad_cnn.kernels.parallel import get_num_threads, set_num_threads
from tinygrad_cnn.names import on_first_use
from tinygrad_cnn.ops import *

if TYPE_CHECKING:                               # what is imported when it is first asked for
    from tinygrad_cnn import data as data
    from tinygrad_cnn import io as io
    from tinygrad_cnn import models as models
    from tinygrad_cnn import nn as nn
    from tinygrad_cnn import optim as optim
    from tinygrad_cnn import stepwise as stepwise
    from tinygrad_cnn import testing as testing
    from tinygrad_cnn import train as train
    from tinygrad_cnn import transforms as transforms
    from tinygrad_cnn import viz as viz

__version__ = "0.1.0"

__all__ = [
    "OPS", "AnomalyError", "CheckpointError", "DTypeError", "DataError", "DeclarationError",
    "ErrorInput", "GradientError", "GradientMismatch", "GraphFreedError", "MissingExtraError", "Op",
    "OpTest", "Parameter", "Sample", "SettingError", "ShapeError", "Tensor", "TinygradCnnError",
    "VizError", "__version__", "autotune", "check_mutation", "custom_op", "detect_anomaly",
    "enable_grad", "get_compiled", "get_num_threads", "grad", "gradients", "is_grad_enabled",
    "no_grad", "register", "release_memory", "set_compiled", "set_num_threads", "tensor",
    "use_kernels",
    # the functions of ops, which type checkers look for here
    "abs", "add", "affine", "astype", "avg_pool2d", "avg_pool2d_input", "batch_norm",
    "binary_cross_entropy_with_logits", "broadcast_to", "clip", "concatenate", "conv2d",
    "conv2d_input", "conv2d_weight", "conv_transpose2d", "crop", "cross_entropy",
    "default_generator", "div", "dropout", "elu", "exp", "expand_dims", "expm1", "flatten", "fold",
    "gather_max", "gelu", "getitem", "global_avg_pool2d", "layer_norm", "leaky_relu", "linear",
    "log", "log_softmax", "logsumexp", "manual_seed", "matmul", "max", "max_pool2d", "maximum",
    "mean", "min", "minimum", "mse_loss", "mul", "neg", "nll_loss", "pad", "permute", "power",
    "relu", "reshape", "scatter_add", "scatter_max", "sigmoid", "silu", "softmax", "softplus",
    "sqrt", "squeeze", "stack", "standardize", "sub", "sum", "sum_to", "tanh", "transpose",
    "unfold", "var", "where",
]

on_first_use(__name__)
