"""Which kernel to try first, for each shape.

A choice is a rule of thumb over shapes and settings, and says what was measured.  It returns kernel
names in the order to try; a kernel that cannot serve a call declines it, so a wrong choice costs
time, never correctness.  The finer choices are made where the shapes are known best: strips or
tiles in ``winograd``, the order of patches and the depthwise case in ``blas``.  Inside a block of
``autotune``, times on this machine come before the rule.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_cnn.kernels import blas, compiled, winograd
from tinygrad_cnn.kernels.blocks import Array
from tinygrad_cnn.kernels.compiled import get_compiled
from tinygrad_cnn.kernels.tune import fastest, is_tuning
from tinygrad_cnn.shapes import Pair

__all__ = ["conv2d", "conv2d_input", "conv2d_weight"]

_MODULES = {"compiled": compiled, "winograd": winograd, "blas": blas}
_WINOGRAD = ("winograd", "blas")
_DIRECT = ("blas",)
_SMALL = 1 << 16            # products, below which calling compiled code costs more than it saves
_WIDE = 1 << 13             # filters of C·O channels, from which tiles beat compiled strips


def _choose(x: Array, y: Array, filters: tuple[int, ...], stride: Pair, dilation: Pair,
            groups: int) -> tuple[str, ...]:
    kh, _, c, o = filters
    # Wherever it applies, Winograd took 0.4 to 0.9 of the time of patches: least where a layer has
    # hundreds of channels, most where it has one.  Filters of one row have nothing to save, and
    # float64 is chosen for its digits.
    applies = (kh > 1 and stride == (1, 1) and dilation == (1, 1) and groups == 1
               and x.dtype == y.dtype == np.float32)
    names = _WINOGRAD if applies else _DIRECT
    if not get_compiled():
        return names
    # Compiled, a convolution took 0.4 to 0.9 of NumPy's time: least at large strides and where
    # channels are few.  Layers of hundreds of channels save more by tiles, in both directions.
    if applies and c * o >= _WIDE:
        return names
    products = math.prod(x.shape[:3]) * math.prod(filters)
    return names if products < _SMALL else ("compiled", *names)


def _by_time(op: str, names: tuple[str, ...], *arrays: Array | None,
             **settings: Any) -> tuple[str, ...]:
    """The quickest kernel for such a call before the others."""
    kernels = {name: getattr(module, op) for name, module in _MODULES.items()
               if name != "compiled" or get_compiled()}
    best = fastest(op, kernels, arrays, settings)
    return names if best is None else (best, *(name for name in names if name != best))


def conv2d(x: Array, w: Array, b: Array | None = None, *, stride: Pair, dilation: Pair,
           groups: int, **settings: Any) -> tuple[str, ...]:
    """Kernel names to try first for ``conv2d(x, w, b)``."""
    names = _choose(x, w, w.shape, stride, dilation, groups)
    return names if not is_tuning() else _by_time(
        "conv2d", names, x, w, b, stride=stride, dilation=dilation, groups=groups, **settings)


def conv2d_input(y: Array, w: Array, *, stride: Pair, dilation: Pair, groups: int,
                 **settings: Any) -> tuple[str, ...]:
    """Kernel names to try first for ``conv2d_input(y, w)``."""
    names = _choose(y, w, w.shape, stride, dilation, groups)
    return names if not is_tuning() else _by_time(
        "conv2d_input", names, y, w, stride=stride, dilation=dilation, groups=groups, **settings)


def conv2d_weight(x: Array, y: Array, *, kernel_size: Pair, stride: Pair, dilation: Pair,
                  groups: int, **settings: Any) -> tuple[str, ...]:
    """Kernel names to try first for ``conv2d_weight(x, y)``."""
    filters = (*kernel_size, x.shape[3] // groups, y.shape[3])
    names = _choose(x, y, filters, stride, dilation, groups)
    return names if not is_tuning() else _by_time(
        "conv2d_weight", names, x, y, kernel_size=kernel_size, stride=stride, dilation=dilation,
        groups=groups, **settings)
