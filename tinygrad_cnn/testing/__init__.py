"""Test gradients: of ops, of functions of tensors, of plain functions, of PyTorch's and JAX's."""

from tinygrad_cnn.testing.check import (
    check_gradients,
    check_jax,
    check_op,
    check_sample,
    check_torch,
    check_vjp_pair,
)
from tinygrad_cnn.testing.linearization import Finding
from tinygrad_cnn.testing.report import Report

__all__ = ["Finding", "Report", "check_gradients", "check_jax", "check_op", "check_sample",
           "check_torch", "check_vjp_pair"]
