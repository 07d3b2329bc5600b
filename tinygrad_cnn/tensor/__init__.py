"""Tensors: the user's value, gradients of what was recorded, and where ops are applied."""

from tinygrad_cnn.graph import scope
from tinygrad_cnn.tensor.applying import (
    apply,
    apply_with_residuals,
    binary,
    custom_op,
    expose,
    unary,
)
from tinygrad_cnn.tensor.derivatives import grad, gradients
from tinygrad_cnn.tensor.value import (
    Parameter,
    Tensor,
    as_array,
    as_dtype,
    as_setting,
    as_tensor,
    shared,
    tensor,
    writable,
)
from tinygrad_cnn.tensor.value import _wrap as _wrap

__all__ = ["Parameter", "Tensor", "apply", "apply_with_residuals", "as_array", "as_dtype",
           "as_setting", "as_tensor", "binary", "custom_op", "expose", "grad", "gradients", "scope",
           "shared", "tensor", "unary", "writable"]
