"""The catalog of mutants: mistakes that people make in backward rules, to test the tester."""

from functools import cache

from mutation import conv, layout, pool, rows
from mutation.mutant import Mutant
from tinygrad_cnn.core.op import Op

__all__ = ["CATALOG", "Mutant", "mutant"]

CATALOG: tuple[Mutant, ...] = (*conv.MUTANTS, *pool.MUTANTS, *rows.MUTANTS, *layout.MUTANTS)
"""Every mutant, by family: C T conv, M A P pools and pads, B broadcasting, E elementwise, R
reductions, S softmax, N norms, L losses, X matrices and layout, K contracts, G engine."""


@cache
def mutant(name: str) -> Op:
    """The broken op of a mutant, by name.

    >>> from mutation import mutant
    >>> mutant("C05").name
    'conv2d'
    """
    return next(m for m in CATALOG if m.name == name).make()
