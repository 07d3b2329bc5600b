"""Copying and clearing runs of entries, which the system's own routines do best."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# mypy: disable-error-code="untyped-decorator"

__all__ = ["clear", "copy"]


def _run(target: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    data = target.make_array(kind)(target, builder, array).data
    return builder.gep(data, [at])


@intrinsic
def copy(context: Any, out: Any, out_at: Any, x: Any, at: Any, count: Any) -> Any:
    """``out[out_at:out_at + count] = x[at:at + count]``, of arrays that share no memory."""
    def generate(target: Any, builder: Any, sig: Any, args: Any) -> Any:
        to = _run(target, builder, sig.args[0], args[0], args[1])
        source = _run(target, builder, sig.args[2], args[2], args[3])
        cgutils.raw_memcpy(builder, to, source, args[4], sig.args[0].dtype.bitwidth // 8)
        return target.get_dummy_value()

    return types.void(out, types.intp, x, types.intp, types.intp), generate


@intrinsic
def clear(context: Any, out: Any, at: Any, count: Any) -> Any:
    """``out[at:at + count] = 0``."""
    def generate(target: Any, builder: Any, sig: Any, args: Any) -> Any:
        to = _run(target, builder, sig.args[0], args[0], args[1])
        size = builder.mul(args[2], ir.Constant(ir.IntType(64), sig.args[0].dtype.bitwidth // 8))
        cgutils.memset(builder, to, size, 0)
        return target.get_dummy_value()

    return types.void(out, types.intp, types.intp), generate
