"""Matrix products."""

from __future__ import annotations

import math

import numpy as np

from tinygrad_cnn.core import Tensor, TensorLike, apply, as_tensor, standing_for
from tinygrad_cnn.core.op import ErrorInput, Op, OpTest, dyadic, register, register_function
from tinygrad_cnn.errors import ShapeError
from tinygrad_cnn.kernels import reduce, reference
from tinygrad_cnn.ops.declare import each
from tinygrad_cnn.ops.reduction import SUM_TO
from tinygrad_cnn.ops.shape import TRANSPOSE, reshape, squeeze
from tinygrad_cnn.shapes import Shape, broadcast
from tinygrad_cnn.types import Value

__all__ = ["linear", "matmul"]


def _matmul_shape(a: Shape, b: Shape) -> Shape:
    if len(a) < 2 or len(b) < 2:
        raise ShapeError(f"matmul: a and b need two axes or more, got {a} and {b}")
    if a[-1] != b[-2]:
        raise ShapeError(f"matmul: K is {a[-1]} in a but {b[-2]} in b"
                         f"\n  a (... M K) = {a}\n  b (... K N) = {b}")
    try:
        return *broadcast("matmul", a=a[:-2], b=b[:-2]), a[-2], b[-1]
    except ShapeError:
        raise ShapeError(f"matmul: the axes in front, {a[:-2]} of a and {b[:-2]} of b, do not "
                         f"broadcast\n  a (... M K) = {a}\n  b (... K N) = {b}") from None


_CASES = (("matrices", (2, 3), (3, 4)), ("batches", (2, 2, 3), (2, 3, 4)),
          ("batches stretched", (2, 1, 2, 3), (3, 3, 2)),
          ("one matrix for a batch", (2, 3, 4), (4, 2)), ("square", (3, 3), (3, 3)),
          ("square batch", (2, 2, 2), (2, 2, 2)))


def _swap(x: Value) -> Value:
    """The last two axes exchanged."""
    return apply(TRANSPOSE, x, axes=(*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


MATMUL: Op = register(Op(
    name="matmul", shape=_matmul_shape,
    kernels={"array": reduce.matmul, "reference": reference.matmul},
    vjp={"a": lambda ct, out, a, b: apply(MATMUL, ct, _swap(b)),
         "b": lambda ct, out, a, b: apply(MATMUL, _swap(a), ct)},
    test=OpTest(
        samples=each(lambda rng: _CASES, lambda rng, a, b: (
            (dyadic(rng, *a), dyadic(rng, *b)), {})),
        exact_in=("a", "b"),
        error_inputs=(ErrorInput("inner sizes", ((2, 3), (4, 5)), {}, "K is 3 in a but 4 in b"),)),
    saved=("a", "b"), broadcasts=True, family="linear",
    flops=lambda a, b, *, out_shape: 2 * math.prod(out_shape) * a[-1]))


@register_function(np.matmul)
def matmul(a: TensorLike, b: TensorLike) -> Tensor:
    """The matrix product over the last two axes; the axes before them broadcast.

    y[…, i, j] = Σ_k a[…, i, k] · b[…, k, j].  ``a @ b`` on tensors is this function.

    Parameters
    ----------
    a : Tensor, shape (..., M, K) or (K,)
    b : Tensor, shape (..., K, N) or (K,)
        A vector is taken as a row of ``a`` or a column of ``b``, and its axis is dropped again.

    Returns
    -------
    Tensor, shape (..., M, N)

    Raises
    ------
    ShapeError
        If K differs, an operand has no axes, or the axes in front do not broadcast.

    Examples
    --------
    >>> matmul(Tensor([[1.0, 2.0]]), Tensor([[3.0], [4.0]])).data
    array([[11.]], dtype=float32)
    """
    a = as_tensor(a, "matmul", "a")
    b = as_tensor(b, "matmul", "b")
    if not a.ndim or not b.ndim:
        raise ShapeError(f"matmul: a and b need an axis, got {a.shape} and {b.shape}; "
                         "multiply numbers with *")
    row, column = a.ndim == 1, b.ndim == 1
    y = apply(MATMUL, reshape(a, (1, a.size)) if row else a,
              reshape(b, (b.size, 1)) if column else b)
    gone = ((-2,) if row and not column else ()) + ((-1,) if column else ())
    return squeeze(y, (-2, -1) if row and column else gone) if gone else y


def _linear_array(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    y: np.ndarray = reduce.matmul(x, w)
    if b is not None:
        y += b
    return y


LINEAR = register(Op(
    name="linear", axes="N I, I O, O -> N O", shape=lambda x, w, b=None: (x[0], w[1]),
    kernels={"array": _linear_array, "reference": reference.linear},
    vjp={"x": lambda ct, out, x, w, b=None: apply(MATMUL, ct, w.T),
         "w": lambda ct, out, x, w, b=None: apply(MATMUL, x.T, ct),
         "b": lambda ct, out, x, w, b=None: apply(SUM_TO, ct, shape=b.shape)},
    test=OpTest(
        samples=each(
            lambda rng: [("bias", 4, 3, 2, True), ("no bias", 2, 3, 4, False),
                         ("square", 3, 3, 3, True)],
            lambda rng, n, i, o, bias: ((dyadic(rng, n, i), dyadic(rng, i, o),
                                         dyadic(rng, o) if bias else None), {})),
        exact_in=("x", "w", "b"),
        error_inputs=(
            ErrorInput("inputs", ((2, 3), (4, 5), None), {}, "I is 3 in x but 4 in w"),
            ErrorInput("bias", ((2, 3), (3, 5), (4,)), {}, "O is 5 in w but 4 in b"),)),
    saved=("x", "w"), family="linear",
    flops=lambda x, w, b=None, *, out_shape: 2 * x[0] * x[1] * w[1]))


@register_function()
def linear(x: TensorLike, w: TensorLike, b: TensorLike | None = None) -> Tensor:
    """y = x w + b, the fully connected layer.

    Parameters
    ----------
    x : Tensor, shape (N, I) or (N, ..., I)
        Rows of inputs; axes in between are rows too.
    w : Tensor, shape (I, O)
        Weights.
    b : Tensor, shape (O,), optional
        Added to each row.

    Returns
    -------
    Tensor, shape (N, O) or (N, ..., O)

    Raises
    ------
    ShapeError
        If I or O differs between the inputs.

    Examples
    --------
    >>> linear(Tensor([[1.0, 2.0]]), Tensor([[1.0], [10.0]]), Tensor([100.0])).data
    array([[121.]], dtype=float32)
    """
    given = x
    x = x if isinstance(x, Tensor) else as_tensor(x, "linear")
    if x.ndim in (0, 2):
        return apply(LINEAR, x, w, b)
    rows = reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
    if isinstance(rows, Tensor) and not rows.requires_grad:
        standing_for(given, rows)
    y = apply(LINEAR, rows, w, b)
    return reshape(y, (*x.shape[:-1], y.shape[-1]))
