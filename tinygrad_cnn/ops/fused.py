"""Ops with the relu that follows them in one pass: conv2d_relu, batch_norm_relu, ...

Each is relu(op(...)) to the last bit, and so are its gradients; only the numbers between the two
are never kept.  A convolution rectifies its block while it is in the cache, and memory is read and
written once instead of twice, forward and backward.

With m = (out > 0), the rules are those of the op itself, given m · ct.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tinygrad_cnn.errors import SettingError, ShapeError
from tinygrad_cnn.kernels import blas, compiled, elementwise, reduction, reference, select, winograd
from tinygrad_cnn.op import Op, Sample, public, register
from tinygrad_cnn.ops.convolution import CONV2D, convolve
from tinygrad_cnn.ops.elementwise import ADD
from tinygrad_cnn.ops.normalize import BATCH_NORM, SCALE_SHIFT, fixed_statistics, positive
from tinygrad_cnn.shapes import Shape
from tinygrad_cnn.tensor import Tensor, apply, expose

__all__ = ["add_relu", "batch_norm_relu", "conv2d_relu", "scale_shift_relu"]

Array = np.ndarray
Arrays = tuple[Array | None, ...]


def _rule(right: Callable[..., Any]) -> Callable[..., Any]:
    """The rule of the op itself, for m · ct."""
    @functools.wraps(right)
    def rule(ct: Any, out: Any, *inputs: Any, **settings: Any) -> Any:
        return right(ct * (out > 0), out, *inputs, **settings)

    return rule


def _shape(op: Op, name: str) -> Callable[..., Shape]:
    """The shape rule of ``op``, whose errors name the op that was called."""
    @functools.wraps(op.shape)
    def shape(*inputs: Shape | None, **settings: Any) -> Shape:
        try:
            return op.shape(*inputs, **settings)
        except (ShapeError, SettingError) as error:
            words = str(error).replace(f"{op.name}:", f"{name}:", 1)
            raise type(error)(words) from None

    return shape


def _samples(op: Op) -> Callable[[np.random.Generator], Iterator[Sample]]:
    """Some of those of ``op`` with other numbers: no result near 0, where relu has its kink."""
    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for sample in tuple(op.samples(rng))[::3]:
            nearest = 0.0
            while nearest < 1e-3:
                args = tuple(None if a is None else rng.normal(size=a.shape) for a in sample.args)
                y = op.run(*args, **sample.settings)[0]
                nearest = np.abs(y[y != 0]).min(initial=1.0)    # a window of padding stays 0
            yield Sample(sample.id, args, sample.settings)

    return samples


def _rectified(op: Op, **changes: Any) -> Op:
    """The declaration of ``op`` with relu after it."""
    reads = op.inputs if op.reads is None else op.reads
    name = f"{op.name}_relu"
    return replace(op, name=name, shape=_shape(op, name), samples=_samples(op),
                   vjp={k: _rule(f) for k, f in op.vjp.items()}, affine_in=(),
                   reads=(*reads, "out"), array_rules=False, **changes)


# ---- conv2d_relu

def _conv2d_relu_joint(wanted: tuple[bool, ...], ct: Array, out: Array, x: Array, w: Array,
                       b: Array | None = None, **settings: Any) -> Arrays:
    ct = elementwise.relu_input(ct, out)
    made: list[Array | None] = [None, None, None]
    inputs = (Tensor(x), Tensor(w), None if b is None else Tensor(b))
    for i, rule in enumerate(CONV2D.rules):
        if wanted[i]:
            made[i] = rule(Tensor(ct), None, *inputs, **settings)._data
    return tuple(made)


CONV2D_RELU = register(_rectified(
    CONV2D, joint=_conv2d_relu_joint, choose=select.conv2d_relu,
    kernels={"winograd": winograd.conv2d_relu, "blas": blas.conv2d_relu,
             "compiled": compiled.conv2d_relu, "reference": reference.conv2d_relu}))


@public()
def conv2d_relu(x: Any, w: Any, b: Any = None, *, stride: Any = 1, padding: Any = 0,
                dilation: Any = 1, groups: int = 1) -> Tensor:
    """max(conv2d(x, w, b), 0), rectified while each block of the result is in the cache.

    Parameters
    ----------
    x, w, b, stride, padding, dilation, groups
        As those of `conv2d`.

    Returns
    -------
    Tensor, shape (N, OH, OW, O)
        ``relu(conv2d(x, w, b, ...))``, to the last bit; so are the gradients.

    Raises
    ------
    ShapeError, SettingError
        As `conv2d`.

    Examples
    --------
    >>> x, w = Tensor(np.array([[-1.0, 2.0]]).reshape(1, 1, 2, 1)), Tensor(np.ones((1, 1, 1, 1)))
    >>> conv2d_relu(x, w).data[0, :, :, 0]
    array([[0., 2.]])
    """
    return convolve(CONV2D_RELU, x, w, b, stride=stride, padding=padding, dilation=dilation,
                    groups=groups)


# ---- batch_norm_relu

def _batch_norm_relu_joint(wanted: tuple[bool, ...], ct: Array, out: Array, x: Array, w: Array,
                           b: Array, *, eps: float, centre: Array, scale: Array) -> Arrays:
    return reduction.batch_norm_cotangents(elementwise.relu_input(ct, out), x, w, eps=eps,
                                           centre=centre, scale=scale)


BATCH_NORM_RELU = register(_rectified(
    BATCH_NORM, joint=_batch_norm_relu_joint, kernels={"array": reduction.batch_norm_relu}))


@public()
def batch_norm_relu(x: Any, w: Any, b: Any, *, mean: Any = None, var: Any = None,
                    eps: float = 1e-5) -> Tensor:
    """max(batch_norm(x, w, b), 0), rectified where it is made.

    Parameters
    ----------
    x, w, b, mean, var, eps
        As those of `batch_norm`.

    Returns
    -------
    Tensor
        ``relu(batch_norm(x, w, b, ...))``, of the shape of ``x``.

    Raises
    ------
    ShapeError, SettingError
        As `batch_norm`.

    Examples
    --------
    >>> batch_norm_relu(Tensor([[1.0], [3.0]]), Tensor([1.0]), Tensor([0.5]), eps=1e-12).data
    array([[0. ],
           [1.5]], dtype=float32)
    """
    if mean is None and var is None:
        return apply(BATCH_NORM_RELU, x, w, b, eps=positive("batch_norm_relu", eps))
    return apply(SCALE_SHIFT_RELU,
                 *fixed_statistics("batch_norm_relu", x, w, b, mean, var, eps))


# ---- scale_shift_relu and add_relu

SCALE_SHIFT_RELU = register(_rectified(
    SCALE_SHIFT, kernels={"array": reduction.scale_shift_relu}))

scale_shift_relu = expose(SCALE_SHIFT_RELU)
scale_shift_relu.__doc__ = """max(x · w + b, 0) along the last axis, in one pass.

    Parameters
    ----------
    x : Tensor, shape (..., C)
    w, b : Tensor, shape (C,)

    Raises
    ------
    ShapeError
        If C differs.

    Examples
    --------
    >>> scale_shift_relu(Tensor([[1.0, 2.0]]), Tensor([10.0, -1.0]), Tensor([0.5, 0.0])).data
    array([[10.5,  0. ]], dtype=float32)
    """

ADD_RELU = register(_rectified(
    ADD, kernels={"array": elementwise.add_relu}))

add_relu = expose(ADD_RELU)
add_relu.__doc__ = """max(a + b, 0) in one pass, as at the end of a residual block.

    Parameters
    ----------
    a, b : Tensor
        Of shapes that broadcast.

    Returns
    -------
    Tensor
        ``relu(a + b)``.

    Raises
    ------
    ShapeError
        If the shapes do not broadcast.

    Examples
    --------
    >>> add_relu(Tensor([1.0, 2.0]), Tensor([1.0, -3.0])).data
    array([2., 0.], dtype=float32)
    """
