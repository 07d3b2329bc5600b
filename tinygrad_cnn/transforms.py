"""Derivatives of functions of tensors.

Each takes a function and gives a function or values; nothing touches any ``.grad``.  ``jvp`` runs
the backward rules twice: the rule of an op is linear in its cotangent, so differentiating it in the
cotangent gives the forward derivative, and no op needs a rule of its own for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np

from tinygrad_cnn.core import Tensor, TensorLike
from tinygrad_cnn.core import grad as _grad
from tinygrad_cnn.core.graph import enable_grad
from tinygrad_cnn.errors import GradientError, SettingError, ShapeError
from tinygrad_cnn.ops import reshape, stack

__all__ = ["grad", "hessian", "jacobian", "jvp", "value_and_grad", "vjp"]

Function = Callable[..., Tensor]
Derivatives = Callable[..., Any]            # a value and gradients, one or several
Several = Callable[..., tuple[Tensor, ...]]


def _function(f: Function, owner: str) -> Function:
    """``f``, unless it is a value, as those try who know a function of this name from PyTorch."""
    if not callable(f):
        raise SettingError(f"{owner}: f must be a function of tensors, got {type(f).__name__}; the "
                           "gradient of a tensor y that was computed is tinygrad_cnn.grad(y, [x])")
    return f


def _fresh(x: TensorLike) -> Tensor:
    """``x`` as a tensor that requires a gradient; one with a graph stays in it."""
    if isinstance(x, Tensor):
        if x.requires_grad:
            return x
        return Tensor(x._data, requires_grad=True)
    return Tensor(x, requires_grad=True)


def _own(x: TensorLike) -> Tensor:
    """A view of ``x`` that is a node of its own, so that only this use of it is differentiated."""
    return reshape(_fresh(x), np.shape(x._data if isinstance(x, Tensor) else x))


def _scalar(y: object, owner: str) -> Tensor:
    if not isinstance(y, Tensor):
        raise GradientError(f"{owner}: the function returned {type(y).__name__}, expected a Tensor")
    if y.size != 1:
        raise ShapeError(f"{owner}: the function returned shape {y.shape}, expected one element; "
                         "use jacobian, or reduce it with .sum() or .mean()")
    return y


def _zero_like(x: Tensor) -> Tensor:
    return Tensor(np.zeros_like(x._data))


def _positions(argnums: int | Sequence[int], count: int, owner: str) -> tuple[int, ...]:
    several = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    for i in several:
        if not -count <= i < count:
            raise SettingError(f"{owner}: argnums names argument {i}, the function got {count}")
    return tuple(i % count for i in several)


@overload
def value_and_grad(f: Function, argnums: int = 0) -> Callable[..., tuple[Tensor, Tensor]]: ...


@overload
def value_and_grad(f: Function,
                   argnums: Sequence[int]) -> Callable[..., tuple[Tensor, tuple[Tensor, ...]]]: ...


def value_and_grad(f: Function, argnums: int | Sequence[int] = 0) -> Derivatives:
    """The function that gives f(...) and its gradient.

    Parameters
    ----------
    f : callable
        Of tensors, giving a tensor of one element.
    argnums : int or sequence of int, default 0
        Which arguments to differentiate; one gradient, or a tuple of them.

    Returns
    -------
    callable
        ``(*args, **settings)`` -> (value, gradient).

    Raises
    ------
    ShapeError
        If f gives more than one element.
    SettingError
        If argnums names an argument that is not there.

    Examples
    --------
    >>> from tinygrad_cnn.transforms import value_and_grad
    >>> value, gradient = value_and_grad(lambda x: (x * x).sum())(Tensor([1.0, 3.0]))
    >>> value.item(), gradient.data
    (10.0, array([2., 6.], dtype=float32))
    """
    _function(f, "value_and_grad")

    def value_and_gradient(*args: TensorLike, **settings: object) -> tuple[Tensor, Any]:
        places = _positions(argnums, len(args), "value_and_grad")
        with enable_grad():
            own: list[Any] = [_own(x) if i in places else x for i, x in enumerate(args)]
            value = _scalar(f(*own, **settings), "value_and_grad")
            inputs = [own[i] for i in places]
            # Recorded, so that the gradient can be differentiated in turn.
            found = _grad(value, inputs, create_graph=True) if value.requires_grad else \
                (None,) * len(inputs)
        each = tuple(_zero_like(x) if g is None else g for x, g in zip(inputs, found, strict=True))
        return value, each[0] if isinstance(argnums, int) else each
    return value_and_gradient


@overload
def grad(f: Function, argnums: int = 0) -> Function: ...


@overload
def grad(f: Function, argnums: Sequence[int]) -> Several: ...


def grad(f: Function, argnums: int | Sequence[int] = 0) -> Function | Several:
    """The function that gives the gradient of f; apply it again for higher orders.

    Parameters
    ----------
    f, argnums
        As in `value_and_grad`.

    Returns
    -------
    callable
        ``(*args, **settings)`` -> gradient, or a tuple of them.

    Raises
    ------
    ShapeError, SettingError
        As `value_and_grad`.

    Examples
    --------
    >>> from tinygrad_cnn.transforms import grad
    >>> def cube(x):
    ...     return x * x * x
    >>> grad(cube)(Tensor(2.0)).item(), grad(grad(cube))(Tensor(2.0)).item()
    (12.0, 12.0)
    """
    both: Callable[..., Any] = value_and_grad(_function(f, "grad"), argnums)

    def gradient(*args: TensorLike, **settings: object) -> Any:
        return both(*args, **settings)[1]
    return gradient


def vjp(f: Function,
        *inputs: TensorLike) -> tuple[Tensor, Callable[[TensorLike], tuple[Tensor, ...]]]:
    """f(inputs), and the function ct -> ctᵀ J for each input.

    Parameters
    ----------
    f : callable
        Of tensors, giving a tensor.
    *inputs : Tensor or array_like

    Returns
    -------
    (Tensor, callable)
        The value, and ``(ct)`` -> tuple of cotangents, which may be called repeatedly.

    Raises
    ------
    ShapeError
        If ct does not have the shape of the value.

    Examples
    --------
    >>> from tinygrad_cnn.transforms import vjp
    >>> value, pull = vjp(lambda x: x * x, Tensor([1.0, 3.0]))
    >>> pull(Tensor([1.0, 10.0]))[0].data
    array([ 2., 60.], dtype=float32)
    """
    _function(f, "vjp")
    with enable_grad():
        own = [_own(x) for x in inputs]
        value = f(*own)
    if not isinstance(value, Tensor):
        raise GradientError(f"vjp: the function returned {type(value).__name__}, expected a Tensor")

    def pull(ct: TensorLike) -> tuple[Tensor, ...]:
        if not value.requires_grad:
            return tuple(map(_zero_like, own))
        with enable_grad():
            found = _grad(value, own, ct, create_graph=True)
        return tuple(_zero_like(x) if g is None else g for x, g in zip(own, found, strict=True))
    return value, pull


def jvp(f: Function, inputs: Sequence[TensorLike],
        tangents: Sequence[TensorLike]) -> tuple[Tensor, Tensor]:
    """f(inputs), and the directional derivative J v.

    Parameters
    ----------
    f : callable
        Of tensors, giving a tensor.
    inputs, tangents : sequence of Tensor or array_like
        Of the same shapes.

    Returns
    -------
    (Tensor, Tensor)
        The value and J v, of one shape.

    Raises
    ------
    ShapeError
        If a tangent does not have the shape of its input.

    References
    ----------
    Townsend, *A new trick for calculating Jacobian vector products*, 2017.

    Examples
    --------
    >>> from tinygrad_cnn.transforms import jvp
    >>> value, derivative = jvp(lambda x: x * x, [Tensor([1.0, 3.0])], [Tensor([1.0, 10.0])])
    >>> derivative.data
    array([ 2., 60.], dtype=float32)
    """
    if len(inputs) != len(tangents):
        raise ShapeError(f"jvp: {len(inputs)} inputs but {len(tangents)} tangents")
    value, pull = vjp(_function(f, "jvp"), *inputs)
    dummy = Tensor(np.zeros_like(value._data), requires_grad=True)
    with enable_grad():
        pulled = pull(dummy)
    total: Tensor | None = None
    for i, (ct, v) in enumerate(zip(pulled, tangents, strict=True)):
        v = v if isinstance(v, Tensor) else Tensor(np.asarray(v, ct.dtype))
        if v.shape != ct.shape:
            raise ShapeError(f"jvp: tangent {i} has shape {v.shape}, its input {ct.shape}")
        if ct.requires_grad:
            part = _grad(ct, dummy, v, create_graph=True)[0]
            if part is not None:
                total = part if total is None else total + part
    return value, _zero_like(value) if total is None else total


def jacobian(f: Function, argnums: int = 0) -> Function:
    """The function that gives the matrix of all derivatives, one row of the output at a time.

    Parameters
    ----------
    f : callable
        Of tensors, giving a tensor.
    argnums : int, default 0
        Which argument to differentiate.

    Returns
    -------
    callable
        ``(*args, **settings)`` -> Tensor of shape (*output shape, *input shape).

    Examples
    --------
    >>> from tinygrad_cnn.transforms import jacobian
    >>> jacobian(lambda x: x * x)(Tensor([1.0, 3.0])).data
    array([[2., 0.],
           [0., 6.]], dtype=float32)
    """
    _function(f, "jacobian")

    def matrix(*args: TensorLike, **settings: object) -> Tensor:
        place = _positions(argnums, len(args), "jacobian")[0]

        def of_one(x: Tensor) -> Tensor:
            return f(*args[:place], x, *args[place + 1:], **settings)

        value, pull = vjp(of_one, args[place])
        x = args[place]
        shape = np.shape(x._data if isinstance(x, Tensor) else x)
        rows = []
        for i in range(value.size):
            unit = np.zeros(value.size, value.dtype)
            unit[i] = 1
            rows.append(pull(Tensor(unit.reshape(value.shape)))[0])
        if not rows:
            return Tensor(np.zeros((*value.shape, *shape), value.dtype))
        return reshape(stack(rows), (*value.shape, *shape))
    return matrix


def hessian(f: Function, argnums: int = 0) -> Function:
    """The function that gives the matrix of second derivatives: the Jacobian of the gradient.

    Parameters
    ----------
    f : callable
        Of tensors, giving a tensor of one element.
    argnums : int, default 0
        Which argument to differentiate.

    Returns
    -------
    callable
        ``(*args, **settings)`` -> Tensor of shape (*input shape, *input shape).

    Raises
    ------
    ShapeError
        If f gives more than one element.

    Examples
    --------
    >>> from tinygrad_cnn.transforms import hessian
    >>> hessian(lambda x: (x * x * x).sum())(Tensor([1.0, 2.0])).data
    array([[ 6.,  0.],
           [ 0., 12.]], dtype=float32)
    """
    return jacobian(grad(_function(f, "hessian"), argnums), argnums)
