"""Randomness: the default generator, and dropout.

Random numbers are drawn in the public function: the op gets the mask as a setting and is pure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.core import Tensor, TensorLike, apply, as_tensor
from tinygrad_cnn.core.graph import remember
from tinygrad_cnn.core.op import Op, OpTest, dyadic, register, register_function
from tinygrad_cnn.errors import DTypeError, SettingError, ShapeError
from tinygrad_cnn.kernels.elementwise import keep
from tinygrad_cnn.ops.declare import each
from tinygrad_cnn.shapes import Shape, broadcast

__all__ = ["default_generator", "dropout", "manual_seed"]


_DEFAULT: dict[str, np.random.Generator] = {}       # made on first use: NumPy's takes 17 ms to load


def manual_seed(seed: int) -> np.random.Generator:
    """Restart the default generator, which initializations and dropout draw from.

    Parameters
    ----------
    seed : int
        At least 0; the same seed gives the same numbers.

    Returns
    -------
    numpy.random.Generator
        The default generator.

    Raises
    ------
    SettingError
        If the seed is not an integer of at least 0.

    Examples
    --------
    >>> first = manual_seed(0).normal()
    >>> first == manual_seed(0).normal()
    True
    """
    seed = checks.integer("manual_seed", "seed", seed, minimum=0)
    # Restarted in place, so that whoever holds the generator follows.
    generator = default_generator()
    generator.bit_generator.state = np.random.default_rng(seed).bit_generator.state
    return generator


def default_generator(rng: np.random.Generator | None = None) -> np.random.Generator:
    """``rng``, or the default generator if it is None.

    >>> default_generator() is default_generator(None)
    True
    """
    if rng is None:
        rng = _DEFAULT.get("generator") or _DEFAULT.setdefault(
            "generator", np.random.default_rng())       # one, whichever thread asks first
    if not isinstance(rng, np.random.Generator):
        raise SettingError(f"rng must be a numpy.random.Generator, got {rng!r}; make one with "
                           "np.random.default_rng(seed)")
    drawn = rng.bit_generator
    remember(rng, lambda: drawn.state, lambda state: setattr(drawn, "state", state))
    return rng


def _dropout_shape(x: Shape, *, kept: np.ndarray, scale: float) -> Shape:
    if kept.shape != x:
        raise ShapeError(f"dropout: the mask is {kept.shape}, x is {x}")
    return x


def _dropout_array(x: np.ndarray, *, kept: np.ndarray, scale: float) -> np.ndarray:
    y = keep(x, kept)
    y *= x.dtype.type(scale)
    return y


DROPOUT: Op = register(Op(
    name="dropout", shape=_dropout_shape, kernels={"array": _dropout_array},
    vjp={"x": lambda ct, out, x, **settings: apply(DROPOUT, ct, **settings)},
    test=OpTest(samples=each(lambda rng: [("half", (4, 3), 0.5), ("a third", (2, 3, 2), 1 / 3)],
                             lambda rng, x, p: ((dyadic(rng, *x),), {
                                 "kept": rng.random(x) >= p, "scale": 2.0 if p == 0.5 else 1.5})),
                exact_in=("x",)),
    saved=(), family="random"))


@register_function()
def dropout(x: TensorLike, p: float = 0.5, training: bool = True, *,
            rng: np.random.Generator | None = None,
            noise_shape: Sequence[int] | None = None) -> Tensor:
    """Set a share ``p`` of the entries to 0 and divide the others by 1 − p, in training.

    Parameters
    ----------
    x : Tensor
    p : float, default 0.5
        Probability to drop an entry, from 0 up to, not including, 1.
    training : bool, default True
        If False, ``x`` is returned as it is.
    rng : numpy.random.Generator, optional
        Where the mask is drawn from; the default generator (`manual_seed`) if not given.
    noise_shape : sequence of int, optional
        Shape of the mask, which is broadcast: (N, 1, 1, C) drops whole channels of images.

    Returns
    -------
    Tensor
        Of the same shape and, on average, the same values.

    Raises
    ------
    SettingError
        If ``p`` is outside [0, 1), or ``training`` is neither True nor False.
    DTypeError
        If ``x`` holds integers, in training.

    References
    ----------
    Srivastava et al., *Dropout*, JMLR 15 (2014), 1929-1958.

    Examples
    --------
    >>> dropout(Tensor([1.0, 1.0, 1.0, 1.0]), p=0.5, rng=np.random.default_rng(0)).data
    array([2., 2., 2., 0.], dtype=float32)
    """
    p = checks.number("dropout", "p", p, minimum=0, below=1)
    x = as_tensor(x, "dropout")
    if not checks.flag("dropout", "training", training) or p == 0:
        return x
    if x.dtype.kind != "f":
        raise DTypeError(f"dropout: x is {x.dtype}, which cannot hold x / (1 − p); cast it: "
                         "x.astype(np.float32)")
    shape = x.shape if noise_shape is None else checks.sizes("dropout", "noise_shape", noise_shape)
    if noise_shape is not None and broadcast("dropout", x=x.shape, noise_shape=shape) != x.shape:
        raise ShapeError(f"dropout: noise_shape {shape} does not broadcast to {x.shape}")
    kept = default_generator(rng).random(shape, dtype=np.float32) >= p
    if shape != x.shape:
        kept = np.array(np.broadcast_to(kept, x.shape))
    kept.flags.writeable = False                # so that recording it takes no copy
    return apply(DROPOUT, x, kept=kept, scale=float(1 / (1 - p)))
