"""Test gradients: of ops, of any function of tensors, and of plain NumPy functions."""

from tinygrad_cnn.testing.check import check_gradients, check_op, check_sample, check_vjp_pair
from tinygrad_cnn.testing.linearization import Finding
from tinygrad_cnn.testing.report import Report

__all__ = ["Finding", "Report", "check_gradients", "check_op", "check_sample", "check_vjp_pair"]
