"""What a rule gave, made a cotangent: a zero stays zero, shape and dtype are those of the input."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy import ndarray

from tinygrad_cnn.core.graph import Node, handed, locked, placeholder, refuse_changed
from tinygrad_cnn.core.op import FUNCTIONS, Op, Rules
from tinygrad_cnn.errors import GradientError, KernelFailed
from tinygrad_cnn.types import Array, Function, Settings, Value

try:                                    # in a quarter of the time of np.count_nonzero
    from numpy._core.multiarray import count_nonzero
except ImportError:
    from numpy import count_nonzero

__all__ = ["LARGE", "added", "count_nonzero", "fitted", "masked", "prepared", "retried",
           "values_of"]

LARGE = 1 << 17        # entries, from which a sum is worth a kernel's threads


def values_of(part: Value) -> Array:
    """The values of a cotangent, a tensor in a recorded pass."""
    return part if isinstance(part, ndarray) else part._data


def fitted(part: Any, value: Array, op: Op, i: int, plain: bool) -> Value:
    """A cotangent summed to the shape of its input, or refused."""
    if plain and hasattr(part, "node"):
        part = part._data
    expected = "an array" if plain else "a Tensor"
    if not (isinstance(part, (ndarray, np.generic)) if plain else hasattr(part, "node")):
        raise GradientError(f"{op.name}: vjp for {op.input_name(i)!r} returned "
                            f"{type(part).__name__}, expected {expected}")
    if part.shape != value.shape:
        if not op.broadcasts:
            raise GradientError(f"{op.name}: vjp for {op.input_name(i)!r} has shape {part.shape}, "
                                f"the input has shape {value.shape}")
        part = FUNCTIONS["sum_to"](part, shape=value.shape)
    if part.dtype != value.dtype:
        raise GradientError(f"{op.name}: vjp for {op.input_name(i)!r} has dtype {part.dtype}, the "
                            f"input has {value.dtype}; keep the dtype of ct")
    return np.asarray(part) if plain else part


def added(a: Value, b: Value) -> Value:
    """The sum of two cotangents of one input."""
    if type(a) is ndarray and a.size < LARGE:
        return np.asarray(a + b)
    return FUNCTIONS["add"](a, b)                       # recorded, or on all threads


def prepared(node: Node, ct: Value, rules: Rules, wrap: Function | None
             ) -> tuple[Rules, tuple[object, ...], Settings]:
    """The rules of a node, what they are given by position, and by name.

    In a recorded pass (``wrap`` makes a tensor) they are given tensors, to which they cannot write.
    """
    op, inputs = node.op, node.inputs
    assert inputs is not None
    if op.variadic:
        rules = [(i, op.rule(i)) for i in range(len(inputs))]
    elif op.together:
        rules = _called_once(op)
    if wrap is not None:
        refuse_changed(node)
        _refuse_residuals(node)
        out = placeholder(ct.shape, ct.dtype) if node.out is None else node.out
        args: tuple[Any, ...] = (ct, wrap(out, True, node), *inputs)
        rules = [(i, partial(handed, rule)) for i, rule in rules]
    else:
        args = (ct, node.out, *node.values)
        if op.foreign:
            args = tuple(map(locked, args))
    return rules, args, {**node.settings, **node.residuals}


def _refuse_residuals(node: Node) -> None:
    """Refuse to record a rule that would take for a constant what depends on the inputs."""
    if not node.op.constant_residuals:
        for name, value in node.residuals.items():
            dtype = getattr(value, "dtype", None)
            if not (value is None or isinstance(value, (int, str))
                    or (dtype is not None and dtype.kind in "iub")):
                raise GradientError(
                    f"{node.op.name}: a recorded backward pass (create_graph=True) would take the "
                    f"residual {name!r} ({dtype or type(value).__name__}) for a constant; compute "
                    "it in the rule, from the inputs or the result; or declare "
                    "constant_residuals=True, if its derivative is 0 wherever it exists")


def _called_once(op: Op) -> list[tuple[int, Function]]:
    """Rules that give each input its part of what one call makes for several."""
    made: list[tuple[Value, ...]] = []

    def part(k: int, *args: object, **named: object) -> Value:
        if not made:
            made.append(op.rules[0](*args, **named))
        return made[0][k]
    return [(i, partial(part, k)) for i, k in op.together.items()]


def retried(error: Exception, node: Node, i: int, rule: Function, args: tuple[object, ...],
            named: Settings) -> Value:
    """Call a rule whose kernel has failed again, or say in a note which rule raised the error."""
    op = node.op
    if isinstance(error, KernelFailed):                     # it is not asked again
        return rule(*args, **named)
    hint = (", which is given arrays, or tensors under create_graph: write it with operators and "
            "the functions of this package, which take both"
            if op.foreign and isinstance(error, (AttributeError, TypeError)) else "")
    error.add_note(f"in the backward rule of {op.name} for {op.input_name(i)!r}{hint}")
    raise error


def masked(part: Value, node: Node, ct: Value) -> Value:
    """What a rule gave, and 0 where every cotangent that an entry depends on is 0.

    A rule multiplies with derivatives, and 0 · ∞ or 0 · NaN is NaN.  Where there is no NaN, nothing
    needs to be done: so it is looked for first, at a fraction of the cost of the rule.
    """
    array: Any = getattr(part, "_data", part)
    given = getattr(ct, "_data", ct)
    if not hasattr(array, "dtype"):
        return part                                         # which will be refused
    op = node.op
    if not op.spoils and not _has_nan(array):
        return part
    whole = node.values[0].shape
    axes = op.coupled(*[None if v is None else v.shape for v in node.values], **node.settings)
    first = tuple([slice(1) if k in axes else slice(None) for k in range(array.ndim)])
    if op.spoils and not _has_nan(array if array.shape != whole else array[first]):
        return part
    zero = given == 0
    if axes and zero.ndim:
        kept = tuple([1 if k in axes else n for k, n in enumerate(whole)])
        zero = zero.all(axis=axes, keepdims=True) if zero.shape == whole else zero.reshape(kept)
    # An input that is stretched over the others depends on every cotangent that it reaches.
    lead = max(0, zero.ndim - array.ndim)
    over = (*range(lead), *(k for k in range(lead, zero.ndim)
                            if array.shape[k - zero.ndim] == 1 < zero.shape[k]))
    zero = zero.all(axis=over, keepdims=True)
    untouched = np.broadcast_to(zero.reshape(zero.shape[lead:]), array.shape)
    return FUNCTIONS["where"](untouched, 0.0, part)


def _has_nan(array: Array) -> bool:
    """Whether an entry is NaN: the sum of all squares is then, and BLAS is quick to find it."""
    total = array.item() if array.size == 1 else np.vdot(array, array)
    return bool(total != total)
