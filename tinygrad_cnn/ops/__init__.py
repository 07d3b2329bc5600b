"""Every op: its declaration, registered in ``OPS``, and its public function.

The files, each of which may import the ones before it: ``declare``, ``elementwise``,
``activation``, ``shape``, ``reduction``, ``linear``, ``convolution``, ``pooling``, ``normalize``,
``loss``, ``random``, ``numpy_functions``, ``hooks``, ``methods``.
"""

from tinygrad_cnn.ops import numpy_functions as numpy_functions
from tinygrad_cnn.ops.activation import (
    elu,
    gelu,
    leaky_relu,
    relu,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from tinygrad_cnn.ops.convolution import conv2d, conv2d_input, conv2d_weight, conv_transpose2d
from tinygrad_cnn.ops.elementwise import (
    abs,
    add,
    clip,
    div,
    exp,
    expm1,
    log,
    maximum,
    minimum,
    mul,
    neg,
    power,
    sqrt,
    sub,
    where,
)
from tinygrad_cnn.ops.linear import linear, matmul
from tinygrad_cnn.ops.loss import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    mse_loss,
    nll_loss,
)
from tinygrad_cnn.ops.methods import install
from tinygrad_cnn.ops.normalize import (
    affine,
    batch_norm,
    layer_norm,
    log_softmax,
    softmax,
    standardize,
)
from tinygrad_cnn.ops.pooling import (
    avg_pool2d,
    avg_pool2d_input,
    fold,
    gather_max,
    global_avg_pool2d,
    max_pool2d,
    scatter_max,
    unfold,
)
from tinygrad_cnn.ops.random import default_generator, dropout, manual_seed
from tinygrad_cnn.ops.reduction import (
    broadcast_to,
    logsumexp,
    max,
    mean,
    min,
    sum,
    sum_to,
    var,
)
from tinygrad_cnn.ops.shape import (
    astype,
    concatenate,
    crop,
    expand_dims,
    flatten,
    getitem,
    pad,
    permute,
    reshape,
    scatter_add,
    squeeze,
    stack,
    transpose,
)

__all__ = [
    "abs", "add", "astype", "avg_pool2d", "avg_pool2d_input", "batch_norm",
    "binary_cross_entropy_with_logits", "broadcast_to", "clip", "concatenate",
    "conv2d", "conv2d_input", "conv2d_weight", "conv_transpose2d", "cross_entropy",
    "default_generator", "div", "dropout", "elu", "exp", "expand_dims", "expm1", "flatten", "fold",
    "gelu", "getitem", "global_avg_pool2d", "layer_norm", "leaky_relu", "linear", "log",
    "log_softmax", "logsumexp", "manual_seed", "matmul", "max", "max_pool2d", "maximum", "mean",
    "min", "minimum", "mse_loss", "mul", "neg", "nll_loss", "pad", "permute", "power", "relu",
    "reshape", "affine", "sigmoid", "silu", "softmax", "softplus", "scatter_add",
    "scatter_max", "sqrt", "squeeze", "stack", "standardize", "sub", "sum", "sum_to",
    "gather_max", "tanh", "transpose", "crop", "var", "where", "unfold",
]

install()
