"""PyTorch as a judge, where it is installed."""

from __future__ import annotations

import warnings

import pytest


@pytest.fixture(scope="session")
def torch():
    """PyTorch, with what it imports at the first step of an optimiser.

    It adds warning filters while it is imported; they are taken back.
    """
    with warnings.catch_warnings():
        torch = pytest.importorskip("torch", reason="PyTorch is not installed: no second opinion")
        weight = torch.nn.Parameter(torch.zeros(1))
        weight.grad = torch.zeros(1)
        torch.optim.SGD([weight], 0.1).step()
    return torch
