"""Which kernel to try first, for each shape.

A choice is a rule of thumb over shapes and settings; each rule says what was measured.  It returns
kernel names in the order to try; a kernel that cannot serve a call declines it, so a wrong choice
costs time, never correctness.
"""

from __future__ import annotations

from typing import Any

__all__ = ["conv2d", "conv2d_input", "conv2d_weight"]


def conv2d(*arrays: Any, **settings: Any) -> tuple[str, ...]:
    """Kernel names to try first for ``conv2d(x, w, b)``."""
    return "winograd", "blas"


def conv2d_input(*arrays: Any, **settings: Any) -> tuple[str, ...]:
    """Kernel names to try first for ``conv2d_input(y, w)``."""
    return "winograd", "blas"


def conv2d_weight(*arrays: Any, **settings: Any) -> tuple[str, ...]:
    """Kernel names to try first for ``conv2d_weight(x, y)``."""
    return "winograd", "blas"
