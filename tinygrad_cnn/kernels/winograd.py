"""Winograd's minimal filtering F(4×4, 3×3); declines what it does not serve."""

from __future__ import annotations

from typing import Any

__all__ = ["conv2d", "conv2d_input", "conv2d_weight"]


def conv2d(x: Any, w: Any, b: Any = None, *, stride: Any, padding: Any, dilation: Any,
           groups: Any) -> Any:
    """N H W C, KH KW C O, O -> N OH OW O."""
    return NotImplemented


def conv2d_input(y: Any, w: Any, *, image_size: Any, stride: Any, padding: Any, dilation: Any,
                 groups: Any) -> Any:
    """N OH OW O, KH KW C O -> N H W C."""
    return NotImplemented


def conv2d_weight(x: Any, y: Any, *, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
                  groups: Any) -> Any:
    """N H W C, N OH OW O -> KH KW C O."""
    return NotImplemented
