"""Keep gradients from growing too large: by their common norm, or entry by entry.

Nobody writes into a gradient: a clipped one is a new tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.core import Tensor
from tinygrad_cnn.errors import DTypeError, GradientError, SettingError
from tinygrad_cnn.types import Array

__all__ = ["clip_grad_norm_", "clip_grad_value_"]


def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, *,
              error_if_nonfinite: bool = True) -> float:
    """Scale all gradients by one factor so that their common norm is at most ``max_norm``.

    The norm is √(Σ g²) over every entry of every gradient, and is returned as it was before; call
    between backward and step.

    Pascanu, Mikolov & Bengio, *On the difficulty of training recurrent neural networks*,
    arXiv:1211.5063.

    Parameters
    ----------
    parameters : tensor, or iterable of tensors
        Those without a gradient are passed over; one given twice counts once.
    max_norm : float
        Above 0; infinity measures without clipping.
    error_if_nonfinite : bool, default True
        Raise if a gradient holds NaN or infinity.  If False, such gradients stay as they are.

    Raises
    ------
    GradientError
        If a gradient holds NaN or infinity; names the parameter.  Nothing is changed then.
    SettingError, DTypeError
        If ``max_norm`` is not above 0, there are no parameters, or one is not a tensor.

    Examples
    --------
    >>> w = Parameter([1.5, 2.0])
    >>> (w * w).sum().backward()                    # the gradient is (3, 4)
    >>> clip_grad_norm_([w], 1.0)
    5.0
    >>> w.grad.data
    array([0.6, 0.8], dtype=float32)
    """
    limit = checks.number("clip_grad_norm_", "max_norm", max_norm, above=0, finite=False)
    refuses = checks.flag("clip_grad_norm_", "error_if_nonfinite", error_if_nonfinite)
    several = _with_gradient("clip_grad_norm_", parameters)
    norms = [_norm(parameter.grad._data) for _, parameter in several if parameter.grad is not None]
    total = math.hypot(*norms)
    if not math.isfinite(total):
        if refuses:
            position, parameter = next(pair for pair, norm in zip(several, norms, strict=True)
                                       if not math.isfinite(norm))
            raise _nonfinite(position, parameter)
        return total
    if total > limit:
        for _, parameter in several:
            if parameter.grad is not None:
                g = parameter.grad._data
                parameter.grad = Tensor(g * g.dtype.type(limit / total))
    return total


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], max_value: float) -> None:
    """Clip every entry of every gradient to the interval from −max_value to max_value.

    This turns the gradient, unlike `clip_grad_norm_`.  NaN stays NaN.

    >>> w = Parameter([1.5, -0.25])
    >>> (w * w).sum().backward()                    # the gradient is (3, −0.5)
    >>> clip_grad_value_([w], 1.0)
    >>> w.grad.data
    array([ 1. , -0.5], dtype=float32)
    """
    limit = checks.number("clip_grad_value_", "max_value", max_value, above=0, finite=False)
    for _, parameter in _with_gradient("clip_grad_value_", parameters):
        if parameter.grad is not None:
            parameter.grad = Tensor(np.clip(parameter.grad._data, -limit, limit))


def _with_gradient(owner: str, parameters: Tensor | Iterable[Tensor]) -> list[tuple[int, Tensor]]:
    """Positions and parameters that have a gradient, once each."""
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    if not given:
        raise SettingError(f"{owner}: no parameters were given; a generator such as "
                           "model.parameters() can be read once only")
    once: dict[int, tuple[int, Tensor]] = {}
    for i, parameter in enumerate(given):
        if not isinstance(parameter, Tensor):
            raise DTypeError(f"{owner}: parameter {i} must be a Tensor, "
                             f"got {type(parameter).__name__}")
        if parameter.grad is not None:
            once.setdefault(id(parameter), (i, parameter))
    return list(once.values())


def _norm(g: Array) -> float:
    """√(Σ g²), also where the squares would overflow or vanish."""
    flat = g.reshape(-1)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):      # judged below
        square = float(np.dot(flat, flat))
    if 1e-30 < square < math.inf:
        return math.sqrt(square)
    peak = float(np.max(np.abs(flat), initial=0.0))
    if peak == 0 or not math.isfinite(peak):
        return peak
    scaled = flat / g.dtype.type(peak)
    return peak * math.sqrt(float(np.dot(scaled, scaled)))


def _nonfinite(position: int, parameter: Tensor) -> GradientError:
    name = f"parameter {position}" + (f" ({parameter.name})" if parameter.name else "")
    assert parameter.grad is not None
    g = parameter.grad._data
    bad = ~np.isfinite(g)
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    return GradientError(f"clip_grad_norm_: the gradient of {name} {g.shape} holds "
                         f"{int(bad.sum())} entries that are NaN or infinite, the first at "
                         f"{where}: {g[where]}; look for a division by 0, a logarithm of 0 or "
                         "too large a step size")
