"""Test gradients: of ops, of any function of tensors, and of plain NumPy functions."""

from tinygrad_cnn.testing.gradients import check_gradients, check_vjp_pair
from tinygrad_cnn.testing.ops import check_op, check_sample
from tinygrad_cnn.testing.report import Finding, Report

__all__ = ["Finding", "Report", "check_gradients", "check_op", "check_sample", "check_vjp_pair"]
