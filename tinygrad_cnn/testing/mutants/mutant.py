"""What a mutant is: an op with one rule broken, and the diagnosis that it should get.

A catalogue of mutants tests the tester.  Each is a mistake that people make; none is known to the
checks.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_cnn.op import OPS, Array, Op
from tinygrad_cnn.tensor import Tensor

__all__ = ["Mutant", "arrays_of", "broken", "post", "replaced"]


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes
    ----------
    name : str
        Short and unique, such as ``"C05"``.
    op : str
        The op whose rule is broken, or through which an engine is seen to be.
    says : str
        The mistake in a few words.
    diagnosis : str
        Key of the diagnosis that names it, see ``diagnose``.
    make : callable
        ``()`` -> the broken op.
    engine : callable, optional
        ``()`` -> context manager within which the engine is broken.
    order : {1, 2}
        2 if only the derivative of the rule is wrong.
    """

    name: str
    op: str
    says: str
    diagnosis: str
    make: Callable[[], Op]
    engine: Callable[[], AbstractContextManager[None]] | None = None
    order: int = 1


def broken(op: str, k: str, rule: Callable[..., Any], **changes: Any) -> Callable[[], Op]:
    """A maker of ``op`` with another rule for input ``k``.

    ``rule(right, ct, out, *inputs, **settings)`` gets the right rule, and tensors; it returns a
    tensor or an array.
    """
    def make() -> Op:
        declared = OPS[op]
        right = declared.vjp[k]

        @functools.wraps(right)                 # an op asks a rule for its signature
        def wrong(*args: Any, **settings: Any) -> Tensor:
            tensors = [Tensor(a) if isinstance(a, (np.ndarray, np.generic)) else a for a in args]
            made = rule(right, *tensors, **settings)
            return made if isinstance(made, Tensor) else Tensor(np.asarray(made))

        # Whatever the wrong rule reads is kept for it, so that only its result is at fault.
        return replaced(declared, **{"vjp": {**declared.vjp, k: wrong}, "reads": None,
                                     "array_rules": False, "joint": None, **changes})
    return make


def replaced(op: Op, **changes: Any) -> Op:
    """A copy of an op with other fields."""
    return dataclasses.replace(op, **changes)


def post(op: str, k: str, change: Callable[[Array], Array], **changes: Any) -> Callable[[], Op]:
    """A maker of ``op`` whose rule for input ``k`` is right up to a change of its result."""
    return broken(op, k, lambda right, *args, **settings: change(right(*args, **settings)._data),
                  **changes)


def arrays_of(*tensors: Any) -> tuple[Any, ...]:
    """The arrays of tensors, None for None."""
    return tuple(None if t is None else t._data for t in tensors)
