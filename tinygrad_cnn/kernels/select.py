"""Which kernel to try first, for each shape.

A choice is a rule of thumb over shapes and settings, and says what was measured.  It returns kernel
names in the order to try; a kernel that cannot serve a call declines it, so a wrong choice costs
time, never correctness.  The finer choices are made where the shapes are known best: strips or
tiles in ``winograd``, the order of patches and the depthwise case in ``blas``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_cnn.kernels.blocks import Array
from tinygrad_cnn.shapes import Pair

__all__ = ["conv2d", "conv2d_input", "conv2d_weight"]

_WINOGRAD = ("winograd", "blas")
_DIRECT = ("blas",)


def _choose(x: Array, y: Array, kernel_size: Pair, stride: Pair, dilation: Pair,
            groups: int) -> tuple[str, ...]:
    # Wherever it applies, Winograd took 0.4 to 0.9 of the time of patches: least where a layer has
    # hundreds of channels, most where it has one.  Filters of one row have nothing to save, and
    # float64 is chosen for its digits.
    applies = (kernel_size[0] > 1 and stride == (1, 1) and dilation == (1, 1) and groups == 1
               and x.dtype == y.dtype == np.float32)
    return _WINOGRAD if applies else _DIRECT


def conv2d(x: Array, w: Array, b: Array | None = None, *, stride: Pair, dilation: Pair,
           groups: int, **settings: Any) -> tuple[str, ...]:
    """Kernel names to try first for ``conv2d(x, w, b)``."""
    return _choose(x, w, (w.shape[0], w.shape[1]), stride, dilation, groups)


def conv2d_input(y: Array, w: Array, *, stride: Pair, dilation: Pair, groups: int,
                 **settings: Any) -> tuple[str, ...]:
    """Kernel names to try first for ``conv2d_input(y, w)``."""
    return _choose(y, w, (w.shape[0], w.shape[1]), stride, dilation, groups)


def conv2d_weight(x: Array, y: Array, *, kernel_size: Pair, stride: Pair, dilation: Pair,
                  groups: int, **settings: Any) -> tuple[str, ...]:
    """Kernel names to try first for ``conv2d_weight(x, y)``."""
    return _choose(x, y, kernel_size, stride, dilation, groups)
