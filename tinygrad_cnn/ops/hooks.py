"""Hooks of a tensor: functions that see its gradient pass, and may replace it.

The hooks of a tensor that an op made are a node of their own, put between that op and everything
that uses the tensor; those of a leaf are called when `backward` has found its gradient.
"""

from __future__ import annotations

import copy
import weakref
from typing import Self

import numpy as np

from tinygrad_cnn.core import Tensor, _wrap, apply
from tinygrad_cnn.core.graph import changed, handed, placeholder
from tinygrad_cnn.core.op import Op, OpTest, register_function
from tinygrad_cnn.errors import GradientError
from tinygrad_cnn.types import Function, Value

__all__ = ["HookHandle", "register_hook", "retain_grad", "with_hook"]

Hook = Function


class HookHandle:
    """What registering a hook gives: it removes the hook, by call or as a block."""

    def __init__(self, hooks: dict[object, Hook], hook: Hook) -> None:
        self._hooks = hooks
        self._key = object()                            # a number could be used again
        hooks[self._key] = hook

    def __repr__(self) -> str:
        return f"HookHandle({'registered' if self._key in self._hooks else 'removed'})"

    def remove(self) -> None:
        """Remove the hook; doing so twice is harmless."""
        self._hooks.pop(self._key, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


@register_function()
def pass_hooks(ct: Value, hooks: dict[object, Hook]) -> Value:
    """The cotangent, an array or a tensor, after each hook has seen it."""
    for hook in tuple(hooks.values()):
        plain = isinstance(ct, np.ndarray)
        given = ct if isinstance(ct, Tensor) else _wrap(ct.copy(), False, None)
        with changed(recording=not plain, plain=False):
            new = handed(hook, given)
        if new is None:
            continue
        if not isinstance(new, Tensor) or (new.shape, new.dtype) != (ct.shape, ct.dtype):
            said = f"a tensor of {new.dtype} {new.shape}" if isinstance(new, Tensor) else \
                f"a {type(new).__name__}"
            raise GradientError(f"register_hook: the hook gave {said} for a gradient of {ct.dtype} "
                                f"{ct.shape}; it returns None, or a tensor like the one given")
        ct = new._data if plain else new
    return ct


_HOOKS = Op(
    name="hooks", shape=lambda x, *, hooks: x, kernels={"array": lambda x, *, hooks: x},
    vjp={"x": lambda ct, out, x, *, hooks: pass_hooks(ct, hooks)},
    test=OpTest(samples=lambda rng: []), saved=(), family="shape")


def with_hook(x: Tensor, hook: Hook) -> Tensor:
    """A tensor like ``x``, of which the hook sees the gradient, apart from other uses of ``x``."""
    return apply(_HOOKS, x, hooks={None: hook})


def register_hook(x: Tensor, hook: Hook) -> HookHandle:
    """Let a function see the gradient of ``x`` pass, in each backward pass.

    Parameters
    ----------
    x : Tensor
        That requires a gradient.
    hook : callable
        ``(gradient)`` -> None, or a tensor that is passed on instead.  The gradient is a `Tensor`.

    Returns
    -------
    HookHandle
        Its ``remove()`` takes the hook off.

    Raises
    ------
    GradientError
        If ``x`` requires no gradient, or the hook gives no gradient of the same shape and dtype.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> y = x * x
    >>> handle = y.register_hook(lambda g: 2 * g)
    >>> y.sum().backward()
    >>> x.grad.data
    array([4., 8.], dtype=float32)
    """
    if not x.requires_grad:
        raise GradientError("register_hook: the tensor requires no gradient, so none will pass")
    if not callable(hook):
        raise TypeError(f"register_hook: a hook is a function of the gradient, got {hook!r}")
    if x.node is None:
        hooks = getattr(x, "_hooks", None)
        if hooks is None:
            hooks = x._hooks = {}
        return HookHandle(hooks, hook)
    if x.node.op is not _HOOKS:
        _divide(x)
    return HookHandle(x.node.settings["hooks"], hook)


def _divide(x: Tensor) -> None:
    """Move what the node of ``x`` holds into one below it, and let the hooks pass the node.

    Tensors and later nodes refer to the node, so it must stay the same object.
    """
    node = x.node
    assert node is not None
    if node.inputs is None:
        raise node.freed_error()
    below = copy.copy(node)
    # After its inputs, before all that was made later.
    below.order = node.order + 0.5                      # type: ignore[assignment]
    unread = placeholder(x.shape, x.dtype)
    node.op, node.inputs, node.values = _HOOKS, (_wrap(unread, True, below),), (unread,)
    node.settings, node.residuals, node.out = {"hooks": {}}, {}, None


def retain_grad(x: Tensor) -> None:
    """Let `backward` fill ``grad`` of a tensor that is no leaf.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> y = x * x
    >>> y.retain_grad()
    >>> (3 * y).sum().backward()
    >>> y.grad.data
    array([3., 3.], dtype=float32)
    """
    if x.node is None:
        return
    kept = weakref.ref(x)                               # the graph must not keep its own result

    def keep(gradient: Tensor) -> None:
        tensor = kept()
        if tensor is not None:
            before = tensor._grad
            tensor.grad = gradient if before is None else before + gradient
    register_hook(x, keep)
