"""Gradients of a graph that is recorded already, without touching any ``grad``."""

from __future__ import annotations

from collections.abc import Sequence

from tinygrad_cnn.core.graph import key_of
from tinygrad_cnn.core.tensor import Tensor, TensorLike, gradients_of
from tinygrad_cnn.errors import DTypeError, GradientError

__all__ = ["grad", "gradients"]


def grad(output: Tensor, inputs: Tensor | Sequence[Tensor] | None = None, gradient: object = None,
         *, retain_graph: bool = False, create_graph: bool = False) -> tuple[Tensor | None, ...]:
    """The gradients of ``output`` with respect to ``inputs``, without touching any ``.grad``.

    Parameters
    ----------
    output : Tensor
        What to differentiate; of one element unless ``gradient`` is given.
    inputs : Tensor or sequence of Tensor
        Leaves or intermediate tensors of the graph.
    gradient, retain_graph, create_graph
        As in `Tensor.backward`.

    Returns
    -------
    tuple of Tensor or None
        One for each input; None where no path leads.

    Raises
    ------
    GradientError
        If nothing was recorded, or an input does not require a gradient.

    Examples
    --------
    >>> x = Tensor([2.0], requires_grad=True)
    >>> y = (x * x * x).sum()
    >>> first, = grad(y, x, create_graph=True)
    >>> second, = grad(first.sum(), x)
    >>> first.item(), second.item()
    (12.0, 12.0)
    """
    if not isinstance(output, Tensor):
        raise DTypeError(f"grad: output must be a tensor that was computed, got {output!r}; the "
                         "gradient of a function is transforms.grad(f)")
    if inputs is None:
        raise TypeError("grad: inputs must be given, as in grad(y, [x])")
    several = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    for i, x in enumerate(several):
        if not isinstance(x, Tensor) or not x.requires_grad:
            raise GradientError(f"grad: input {i} does not require a gradient; make it with "
                                "requires_grad=True before the output is computed")
    found = gradients_of(output, gradient, "grad", create_graph=create_graph,
                         retain_graph=retain_graph, targets=several)
    return tuple(found.get(key_of(x)) for x in several)


def gradients(out: Tensor, ct: TensorLike | None = None, *, create_graph: bool = False,
              retain_graph: bool = False) -> dict[Tensor, Tensor]:
    """The gradient of every leaf below ``out``, as a dictionary; no ``.grad`` is touched.

    Parameters
    ----------
    out : Tensor
        What to differentiate.
    ct : array_like, optional
        Its cotangent; 1 if it has one element.
    create_graph, retain_graph : bool
        As in `Tensor.backward`.

    Examples
    --------
    >>> a, b = Tensor([2.0], requires_grad=True), Tensor([5.0], requires_grad=True)
    >>> found = gradients((a * b).sum())
    >>> found[a].item(), found[b].item()
    (5.0, 2.0)
    """
    found = gradients_of(out, ct, "gradients", create_graph=create_graph,
                         retain_graph=retain_graph)
    return {leaf: part for leaf, part in found.items() if isinstance(leaf, Tensor)}
