"""tinygrad_cnn: convolutional networks in NumPy, with automatic gradients.

>>> import tinygrad_cnn as tc
>>> x = tc.Tensor([[1.0, 2.0]], requires_grad=True)
>>> (x * x).sum().backward()
>>> x.grad.data
array([[2., 4.]], dtype=float32)

The parts ``tc.nn``, ``tc.optim``, ``tc.data``, ``tc.train``, ``tc.viz``, ``tc.transforms``,
``tc.testing``, ``tc.io``, ``tc.parallel`` and ``tc.models`` are imported when they are first used.
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
    ParallelError,
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
    from tinygrad_cnn import parallel as parallel
    from tinygrad_cnn import stepwise as stepwise
    from tinygrad_cnn import testing as testing
    from tinygrad_cnn import train as train
    from tinygrad_cnn import transforms as transforms
    from tinygrad_cnn import viz as viz

__version__ = "0.1.0"

__all__ = [
    "OPS", "AnomalyError", "CheckpointError", "DTypeError", "DataError", "DeclarationError",
    "ErrorInput", "GradientError", "GradientMismatch", "GraphFreedError", "MissingExtraError", "Op",
    "OpTest", "ParallelError", "Parameter", "Sample", "SettingError", "ShapeError", "Tensor",
    "TinygradCnnError", "VizError", "__version__", "autotune", "check_mutation", "custom_op",
    "detect_anomaly", "enable_grad", "get_compiled", "get_num_threads", "grad", "gradients",
    "is_grad_enabled", "no_grad", "register", "release_memory", "set_compiled", "set_num_threads",
    "tensor", "use_kernels",
    # the functions of ops, which type checkers look for here
    "abs", "adaptive_avg_pool2d", "adaptive_max_pool2d", "add", "affine", "arange", "arccos",
    "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "astype", "avg_pool2d",
    "avg_pool2d_input", "batch_norm", "binary_cross_entropy", "binary_cross_entropy_with_logits",
    "broadcast_to", "cbrt", "ceil", "celu", "chunk", "clip", "concatenate", "conv2d",
    "conv2d_input", "conv2d_weight", "conv_transpose2d", "cos", "cosh", "cosine_embedding_loss",
    "cosine_similarity", "crop", "cross_entropy", "cumprod", "cumsum", "default_generator", "diag",
    "diagonal", "dice_loss", "diff", "div", "dot", "dropout", "einsum", "elu", "embedding", "erf",
    "exp", "exp2", "expand_dims", "expm1", "eye", "flatten", "flip", "floor", "focal_loss", "fold",
    "full", "full_like", "gather", "gather_max", "gelu", "getitem", "global_avg_pool2d",
    "global_max_pool2d", "glu", "group_norm", "hard_sigmoid", "hard_swish", "hard_tanh",
    "hinge_loss", "huber_loss", "hypot", "inner", "instance_norm", "interpolate", "kl_div", "kron",
    "l1_loss", "layer_norm", "leaky_relu", "linear", "linspace", "local_response_norm", "log",
    "log10", "log1p", "log2", "log_sigmoid", "log_softmax", "logaddexp", "logsumexp", "manual_seed",
    "margin_ranking_loss", "matmul", "max", "max_pool2d", "max_unpool2d", "maximum", "mean",
    "median", "min", "minimum", "mish", "mse_loss", "mul", "multi_margin_loss", "neg", "nll_loss",
    "norm", "one_hot", "ones", "ones_like", "outer", "pad", "permute", "pixel_shuffle",
    "pixel_unshuffle", "power", "prelu", "prod", "rand", "rand_like", "randn", "randn_like",
    "reciprocal", "relu", "relu6", "remainder", "repeat", "reshape", "rint", "rms_norm", "roll",
    "round", "scatter_add", "scatter_max", "selu", "sigmoid", "sign", "silu", "sin", "sinh",
    "smooth_l1_loss", "softmax", "softmin", "softplus", "softsign", "sort", "split", "sqrt",
    "square", "squeeze", "stack", "standardize", "std", "sub", "sum", "sum_to", "take",
    "take_along_axis", "tan", "tanh", "tensordot", "tile", "topk", "trace", "transpose", "tril",
    "triplet_margin_loss", "triu", "trunc", "unfold", "upsample2d", "var", "where", "zeros",
    "zeros_like",
]

on_first_use(__name__)
