"""A convolutional network step by step: the functions and classes of two teaching notebooks.

Everything here works on plain arrays and can be read in one sitting: loops, formulas, caches that
are handed on, no graph.  The functions (``conv_forward``, ``pool_backward``, ``convnet_forward``
and the rest) are those of the first notebook, the classes (``Conv2D``, ``Linear``, ``Model``) those
of the exercise, under their own names and argument orders.  Each has a registered op that does the
same with ``backward()``; ``docs/notebooks.md`` walks from one to the other.

Images are (N, H, W, C), filters (f, f, C_in, C_out), biases (1, 1, 1, C_out).  The loops are those
of ``kernels.reference``: an oracle that shares no code with the fast kernels, the graph or the ops.
"""

from tinygrad_cnn.stepwise.classes import (
    Conv2D,
    CrossEntropy,
    Dropout,
    Flatten,
    L2regularization,
    LeakyReLU,
    Linear,
    Maxpool2D,
    Model,
    MSELoss,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)
from tinygrad_cnn.stepwise.diagnosis import diagnose
from tinygrad_cnn.stepwise.functions import (
    compute_loss,
    compute_loss_backward,
    conv_backward,
    conv_forward,
    conv_single_step,
    convnet_backward,
    convnet_forward,
    create_mask_from_window,
    distribute_value,
    fc_backward,
    fc_forward,
    initialize_parameters,
    layer_structure,
    padding_picture,
    pool_backward,
    pool_forward,
    relu_backward,
    relu_forward,
    softmax_backward,
    softmax_forward,
    update_parameters,
    zero_pad,
    zero_padding,
)

__all__ = [
    "Conv2D", "CrossEntropy", "Dropout", "Flatten", "L2regularization", "LeakyReLU", "Linear",
    "MSELoss", "Maxpool2D", "Model", "ReLU", "Sigmoid", "Softmax", "Tanh", "compute_loss",
    "compute_loss_backward", "conv_backward", "conv_forward", "conv_single_step",
    "convnet_backward", "convnet_forward", "create_mask_from_window", "diagnose",
    "distribute_value", "fc_backward", "fc_forward", "initialize_parameters", "layer_structure",
    "padding_picture", "pool_backward", "pool_forward", "relu_backward", "relu_forward",
    "softmax_backward", "softmax_forward", "update_parameters", "zero_pad", "zero_padding",
]
