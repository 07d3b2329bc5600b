"""What a mutant is: an op with one rule broken, and the diagnosis that it should get.

A catalog of mutants tests the tester.  Each is a mistake that people make; none is known to the
checks.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from tinygrad_cnn.core import Tensor
from tinygrad_cnn.core.graph import changed
from tinygrad_cnn.core.op import OPS, Array, Op

__all__ = ["Mutant", "as_given", "broken", "post", "replaced"]


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

    ``rule(right, ct, out, *inputs, **settings)`` gets the right rule, and arrays; it returns an
    array.
    """
    def over_arrays(right: Callable[..., Any], *args: Any, **settings: Any) -> Any:
        arrays = [a._data if isinstance(a, Tensor) else a for a in args]
        with changed(recording=False, plain=True):
            made = rule(right, *arrays, **settings)
        return Tensor(made) if isinstance(args[0], Tensor) else made

    return as_given(op, k, over_arrays, **changes)


def as_given(op: str, k: str, rule: Callable[..., Any], **changes: Any) -> Callable[[], Op]:
    """As `broken`, but the rule gets arrays or tensors, as the engine gives them."""
    def make() -> Op:
        declared = OPS[op]
        vjp = {name: declared.vjp.get(name) or declared.rule(i)
               for i, name in enumerate(declared.inputs)}
        right = vjp[k]

        @functools.wraps(right)                 # an op asks a rule for its signature
        def wrong(*args: Any, **settings: Any) -> Any:
            return rule(right, *args, **settings)

        wrong.__module__ = __name__
        # Whatever the wrong rule reads is kept for it, so that only its result is at fault.
        return replaced(declared, **{"vjp": {**vjp, k: wrong}, "saved": None, **changes})
    return make


def replaced(op: Op, **changes: Any) -> Op:
    """A copy of an op with other fields, those of its test included."""
    tests = {name: changes.pop(name) for name in vars(op.test) if name in changes}
    return dataclasses.replace(op, test=dataclasses.replace(op.test, **tests), **changes)


def post(op: str, k: str, change: Callable[[Array], Array], **changes: Any) -> Callable[[], Op]:
    """A maker of ``op`` whose rule for input ``k`` is right up to a change of its result."""
    return broken(op, k, lambda right, *args, **settings: change(right(*args, **settings)),
                  **changes)
