"""Sums of products in Einstein's notation, and what is one: `dot`, `outer`, `tensordot` ...

In `einsum` each letter is an axis; a letter that the result does not have is summed over.
"""

from __future__ import annotations

import math
import string
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.core import Tensor, TensorLike, apply, as_tensor
from tinygrad_cnn.core.op import ErrorInput, Op, OpTest, Sample, dyadic, register, register_function
from tinygrad_cnn.errors import SettingError, ShapeError
from tinygrad_cnn.ops.declare import composed
from tinygrad_cnn.ops.elementwise import mul
from tinygrad_cnn.ops.linear import matmul
from tinygrad_cnn.ops.rearrange import diagonal
from tinygrad_cnn.ops.reduction import broadcast_to, sum
from tinygrad_cnn.ops.shape import reshape, transpose
from tinygrad_cnn.shapes import Shape
from tinygrad_cnn.types import Value

__all__ = ["dot", "einsum", "inner", "kron", "outer", "tensordot"]


def _einsum_shape(*xs: Shape, subscripts: str) -> Shape:
    inputs, _, result = subscripts.partition("->")
    sizes: dict[str, tuple[int, int]] = {}
    for i, (letters, x) in enumerate(zip(inputs.split(","), xs, strict=True)):
        for letter, n in zip(letters, x, strict=True):
            known, first = sizes.setdefault(letter, (n, i))
            if known != n:
                raise ShapeError(f"einsum: {letter} is {known} in operand {first} but {n} in "
                                 f"operand {i} of {subscripts!r}")
    return tuple(sizes[letter][0] for letter in result)


def _einsum_vjp(ct: Value, out: Value, *xs: Value, subscripts: str, index: int) -> Value:
    inputs, _, result = subscripts.partition("->")
    letters = inputs.split(",")
    others = [i for i in range(len(xs)) if i != index]
    swapped = ",".join([result, *(letters[i] for i in others)]) + "->" + letters[index]
    return apply(EINSUM, ct, *(xs[i] for i in others), subscripts=swapped)


def _einsum_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for words, *shapes in (("nij,njk->nik", (2, 2, 3), (2, 3, 2)), ("ij->ji", (2, 3)),
                           ("ij,j,ik->k", (2, 3), (3,), (2, 4)), ("i,j->ij", (2,), (3,)),
                           ("ij,ij->", (2, 3), (2, 3))):
        yield Sample(words, tuple(dyadic(rng, *shape) for shape in shapes), {"subscripts": words})


EINSUM = register(Op(
    name="einsum", shape=_einsum_shape,
    kernels={"array": lambda *xs, subscripts: np.asarray(
        np.einsum(subscripts, *xs, optimize=len(xs) > 1))},
    vjp={"xs": _einsum_vjp},
    test=OpTest(
        samples=_einsum_samples,
        error_inputs=(ErrorInput("sizes", ((2, 3), (4,)), {"subscripts": "ij,j->i"},
                                 "j is 3 in operand 0 but 4 in operand 1"),)),
    family="linear", flops=lambda *xs, out_shape, subscripts: 2 * math.prod(
        dict(zip(subscripts.partition("->")[0].replace(",", ""),
                 (n for x in xs for n in x), strict=True)).values())))


def _expanded(subscripts: str, xs: Sequence[Tensor]) -> tuple[list[str], str]:
    """The letters of each operand and of the result, without "..." and with "->"."""
    text = subscripts.replace(" ", "")
    left, arrow, result = text.partition("->")
    inputs = left.split(",")
    if len(inputs) != len(xs):
        raise SettingError(f"einsum: {subscripts!r} names {len(inputs)} operands, got {len(xs)}")
    named = [len(letters.replace("...", "")) for letters in inputs]
    free = [x.ndim - n for x, n in zip(xs, named, strict=True)]
    for i, (letters, x) in enumerate(zip(inputs, xs, strict=True)):
        if free[i] < 0 or (free[i] and "..." not in letters):
            raise ShapeError(f"einsum: {letters!r} of {subscripts!r} names {named[i]} axes, "
                             f"operand {i} is {x.shape}")
    # The axes that "..." stands for have letters, too; they are aligned at the last one.
    dots = "".join(c for c in string.ascii_letters if c not in text)[:max(free, default=0)]
    inputs = [letters.replace("...", dots[len(dots) - n:])
              for letters, n in zip(inputs, free, strict=True)]
    if not arrow:
        joined = left.replace("...", "").replace(",", "")
        result = ("..." if "..." in left else "") + "".join(
            sorted(c for c in set(joined) if joined.count(c) == 1))
    result = result.replace("...", dots)
    unknown = set(result) - set("".join(inputs))
    if unknown or len(set(result)) != len(result) or not "".join((*inputs, result, "a")).isalpha():
        raise SettingError(f"einsum: cannot read {subscripts!r}: each letter of the result stands "
                           "once there, and in an operand")
    return inputs, result


@register_function()
def einsum(subscripts: str, *operands: TensorLike) -> Tensor:
    """Sum of products in Einstein's notation, as `numpy.einsum`.

    Parameters
    ----------
    subscripts : str
        A letter for each axis, ``"ij,jk->ik"``; a letter that the result lacks is summed over,
        ``"..."`` stands for the axes in front, one that an operand names twice is its diagonal.
    *operands : Tensor

    Raises
    ------
    SettingError
        If the subscripts cannot be read, or there are fewer or more operands.
    ShapeError
        If a letter has two sizes, or an operand another number of axes.

    Examples
    --------
    >>> einsum("ij,j->i", Tensor([[1.0, 2.0], [3.0, 4.0]]), Tensor([1.0, 10.0])).data
    array([21., 43.], dtype=float32)
    """
    if not isinstance(subscripts, str):
        raise SettingError(f"einsum: subscripts must be a string, got {subscripts!r}")
    xs = [as_tensor(x, "einsum", f"operand {i}") for i, x in enumerate(operands)]
    inputs, result = _expanded(subscripts, xs)
    sizes: dict[str, int] = {}
    for i, letters in enumerate(inputs):
        while repeated := next((c for c in letters if letters.count(c) > 1), ""):
            first = letters.index(repeated)
            second = letters.index(repeated, first + 1)
            if xs[i].shape[first] != xs[i].shape[second]:
                raise ShapeError(f"einsum: {repeated} is {xs[i].shape[first]} and "
                                 f"{xs[i].shape[second]} in operand {i}, {xs[i].shape}")
            xs[i] = diagonal(xs[i], 0, first, second)
            letters = letters[:first] + letters[first + 1:second] + letters[second + 1:] + repeated
        for c, n in zip(letters, xs[i].shape, strict=True):
            sizes[c] = max(sizes.get(c, 1), n)
        inputs[i] = letters
    for i, letters in enumerate(inputs):
        others = result + "".join(inputs[:i]) + "".join(inputs[i + 1:])
        # An axis of one entry is stretched; one that nobody else has is summed at once.
        stretched = tuple(sizes[c] for c in letters)
        if stretched != xs[i].shape and all(
                n in (1, m) for n, m in zip(xs[i].shape, stretched, strict=True)):
            xs[i] = broadcast_to(xs[i], stretched)
        if alone := tuple(k for k, c in enumerate(letters) if c not in others):
            xs[i] = sum(xs[i], alone)
            inputs[i] = "".join(c for c in letters if c in others)
    if len(xs) == 1:                                            # nothing is multiplied
        return transpose(xs[0], [inputs[0].index(c) for c in result])
    return apply(EINSUM, *xs, subscripts=",".join(inputs) + "->" + result)


@composed
def tensordot(a: TensorLike, b: TensorLike,
              axes: int | Sequence[int | Sequence[int]] = 2) -> Tensor:
    """Sum of products over the last ``axes`` axes of a and the first of b, or over named pairs.

    >>> tensordot(Tensor([[1.0, 2.0]]), Tensor([[3.0], [4.0]]), 1).data
    array([[11.]], dtype=float32)
    """
    a, b = cast(Tensor, a), cast(Tensor, b)
    first = string.ascii_letters[:a.ndim]
    second = string.ascii_letters[a.ndim:a.ndim + b.ndim]
    if isinstance(axes, (int, np.integer)):
        n = checks.integer("tensordot", "axes", axes, minimum=0, maximum=min(a.ndim, b.ndim))
        pairs = list(zip(range(a.ndim - n, a.ndim), range(n), strict=True))
    elif not isinstance(axes, (tuple, list)):
        raise SettingError("tensordot: axes must be a number or two lists of equal length, got "
                           f"{axes!r}")
    else:
        sides = [[side] if isinstance(side, (int, np.integer)) else list(side) for side in axes]
        if len(sides) != 2 or len(sides[0]) != len(sides[1]):
            raise SettingError(f"tensordot: axes must be a number or two lists of equal length, "
                               f"got {axes!r}")
        pairs = [(checks.axis_index("tensordot", i, a.shape),
                  checks.axis_index("tensordot", j, b.shape))
                 for i, j in zip(*sides, strict=True)]
    if any(len(set(side)) != len(side) for side in zip(*pairs, strict=True)):
        raise SettingError(f"tensordot: axes {axes!r} names an axis twice")
    for i, j in pairs:
        if a.shape[i] != b.shape[j]:
            raise ShapeError(f"tensordot: axis {i} of a is {a.shape[i]} but axis {j} of b is "
                             f"{b.shape[j]}\n  a = {a.shape}\n  b = {b.shape}")
        second = second[:j] + first[i] + second[j + 1:]
    gone = {first[i] for i, _ in pairs}
    kept = "".join(c for c in first + second if c not in gone)
    return apply(EINSUM, a, b, subscripts=f"{first},{second}->{kept}")


@composed
def dot(a: TensorLike, b: TensorLike) -> Tensor:
    """The product of vectors or matrices, over the last axis of a and the last but one of b.

    >>> dot(Tensor([1.0, 2.0]), Tensor([3.0, 4.0])).item()
    11.0
    """
    a, b = cast(Tensor, a), cast(Tensor, b)
    if not a.ndim or not b.ndim:
        return mul(a, b)
    return matmul(a, b) if b.ndim <= 2 else tensordot(a, b, [[-1], [-2]])


@composed
def inner(a: TensorLike, b: TensorLike) -> Tensor:
    """Sum of products over the last axis of both.

    >>> inner(Tensor([1.0, 2.0]), Tensor([3.0, 4.0])).item()
    11.0
    """
    a, b = cast(Tensor, a), cast(Tensor, b)
    return tensordot(a, b, [[-1], [-1]]) if a.ndim and b.ndim else mul(a, b)


@composed
def outer(a: TensorLike, b: TensorLike) -> Tensor:
    """All products of an entry of a with one of b, both read as vectors.

    >>> outer(Tensor([1.0, 2.0]), Tensor([3.0, 4.0])).data
    array([[3., 4.],
           [6., 8.]], dtype=float32)
    """
    return mul(reshape(a, (-1, 1)), reshape(b, -1))


@composed
def kron(a: TensorLike, b: TensorLike) -> Tensor:
    """The Kronecker product: b times each entry of a, in one tensor.

    >>> kron(Tensor([1.0, 10.0]), Tensor([1.0, 2.0])).data
    array([ 1.,  2., 10., 20.], dtype=float32)
    """
    a, b = cast(Tensor, a), cast(Tensor, b)
    most = max(a.ndim, b.ndim)
    a, b = (reshape(x, (1,) * (most - x.ndim) + x.shape) for x in (a, b))
    y = mul(reshape(a, [n for size in a.shape for n in (size, 1)]),
            reshape(b, [n for size in b.shape for n in (1, size)]))
    return reshape(y, [n * m for n, m in zip(a.shape, b.shape, strict=True)])
