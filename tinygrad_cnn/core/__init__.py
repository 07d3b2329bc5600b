"""Tensors: the user's value, gradients of what was recorded, and where ops are applied."""

from tinygrad_cnn.core.apply import (
    apply,
    as_tensors,
    binary,
    custom_op,
    make_function,
    unary,
)
from tinygrad_cnn.core.autograd import grad, gradients
from tinygrad_cnn.core.graph import is_grad_enabled
from tinygrad_cnn.core.tensor import (
    Detached,
    Parameter,
    Tensor,
    TensorLike,
    as_array,
    as_dtype,
    as_setting,
    as_tensor,
    refuse_tensors_inside,
    shared,
    source_of,
    standing_for,
    tensor,
    writable,
)
from tinygrad_cnn.core.tensor import _wrap as _wrap

__all__ = ["Detached", "Parameter", "Tensor", "TensorLike", "apply",
           "as_array", "as_dtype", "as_setting", "as_tensor", "as_tensors", "binary",
           "custom_op", "grad", "gradients", "is_grad_enabled", "make_function",
           "refuse_tensors_inside", "shared", "source_of", "standing_for", "tensor",
           "unary", "writable"]
