"""Names of types that signatures share; no code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tinygrad_cnn.core.tensor import Tensor

__all__ = ["Array", "DType", "Function", "Named", "Settings", "Value"]

Array: TypeAlias = NDArray[Any]                 # of any dtype and shape
DType: TypeAlias = np.dtype[Any]
Function: TypeAlias = Callable[..., Any]        # of any signature
Settings: TypeAlias = dict[str, Any]            # name -> value of what a call is told by keyword
Named: TypeAlias = Mapping[str, Any]            # settings that are only read
Value: TypeAlias = "Array | Tensor"
"""What a rule takes and gives: arrays in a first-order pass, tensors in a recorded one."""
