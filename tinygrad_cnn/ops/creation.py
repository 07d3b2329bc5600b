"""Tensors made of nothing: zeros, ranges, random numbers.  float32, unless a dtype is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import DTypeLike

from tinygrad_cnn import checks
from tinygrad_cnn.core import Tensor, TensorLike, as_array, as_dtype, as_setting
from tinygrad_cnn.errors import DTypeError, SettingError
from tinygrad_cnn.names import accepting
from tinygrad_cnn.ops.random import default_generator
from tinygrad_cnn.shapes import Shape
from tinygrad_cnn.types import Array

__all__ = ["arange", "eye", "full", "full_like", "linspace", "ones", "ones_like", "rand",
           "rand_like", "randn", "randn_like", "zeros", "zeros_like"]


def _shape(owner: str, shape: tuple[object, ...]) -> Shape:
    """``f(2, 3)`` and ``f((2, 3))`` alike."""
    one = shape[0] if len(shape) == 1 else shape
    return checks.sizes(owner, "shape", one.tolist() if isinstance(one, np.ndarray) else one)


def _made(array: Array, owner: str, dtype: DTypeLike | None, requires_grad: bool) -> Tensor:
    wanted = np.dtype(np.float32) if dtype is None else as_dtype(dtype, owner)
    with np.errstate(invalid="ignore"):
        made = np.asarray(array, wanted)
    if wanted.kind in "iub" and not np.array_equal(made, array):
        raise DTypeError(f"{owner}: {wanted} cannot hold these numbers; make floats and cast "
                         f"them: {owner}(...).astype(np.{wanted})")
    return Tensor(made, requires_grad=requires_grad)


def _ends(owner: str, **named: float) -> list[float]:
    """Finite numbers, integers among them as they are."""
    plain = [as_setting(value, owner, name) for name, value in named.items()]
    for (name, value), number in zip(named.items(), plain, strict=True):
        if number.ndim or number.dtype.kind not in "iuf" or not np.isfinite(number):
            raise SettingError(f"{owner}: {name} must be a finite number, got {value!r}")
    return [number.item() for number in plain]


@accepting
def zeros(*shape: int | Sequence[int], dtype: DTypeLike | None = None,
          requires_grad: bool = False) -> Tensor:
    """Zeros of a shape: ``zeros(2, 3)`` or ``zeros((2, 3))``.

    >>> zeros(2).data
    array([0., 0.], dtype=float32)
    """
    return _made(np.zeros(_shape("zeros", shape)), "zeros", dtype, requires_grad)


@accepting
def ones(*shape: int | Sequence[int], dtype: DTypeLike | None = None,
         requires_grad: bool = False) -> Tensor:
    """Ones of a shape.

    >>> ones(2).data
    array([1., 1.], dtype=float32)
    """
    return _made(np.ones(_shape("ones", shape)), "ones", dtype, requires_grad)


@accepting
def full(shape: int | Shape, fill_value: float, *, dtype: DTypeLike | None = None,
         requires_grad: bool = False) -> Tensor:
    """One value in a shape.

    >>> full((2,), 0.5).data
    array([0.5, 0.5], dtype=float32)
    """
    value = as_setting(fill_value, "full", "fill_value")
    if value.ndim or value.dtype.kind not in "iufb":
        raise SettingError(f"full: fill_value must be a number, got {fill_value!r}")
    return _made(np.full(_shape("full", (shape,)), value), "full", dtype, requires_grad)


@accepting
def arange(start: float, stop: float | None = None, step: float = 1, *,
           dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    """Numbers from start up to and without stop; integers if all three are, as in NumPy.

    >>> arange(3).data
    array([0, 1, 2])
    """
    start, stop = (0, start) if stop is None else (start, stop)
    start, stop, step = _ends("arange", start=start, stop=stop, step=step)
    if not step:
        raise SettingError("arange: step must not be 0, got 0")
    values = np.arange(start, stop, step)
    whole = values.dtype.kind in "iu"
    return _made(values, "arange", values.dtype if dtype is None and whole else dtype,
                 requires_grad)


@accepting
def linspace(start: float, stop: float, num: int = 50, *, dtype: DTypeLike | None = None,
             requires_grad: bool = False) -> Tensor:
    """``num`` numbers from start to stop, both included, at equal distances.

    >>> linspace(0, 1, 3).data
    array([0. , 0.5, 1. ], dtype=float32)
    """
    low, high = _ends("linspace", start=start, stop=stop)
    return _made(np.linspace(low, high, checks.integer("linspace", "num", num, minimum=0)),
                 "linspace", dtype, requires_grad)


@accepting
def eye(n: int, m: int | None = None, *, dtype: DTypeLike | None = None,
        requires_grad: bool = False) -> Tensor:
    """The identity matrix.

    >>> eye(2).data
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    """
    n = checks.integer("eye", "n", n, minimum=0)
    return _made(np.eye(n, n if m is None else checks.integer("eye", "m", m, minimum=0)), "eye",
                 dtype, requires_grad)


@accepting
def randn(*shape: int | Sequence[int], rng: np.random.Generator | None = None,
          dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    """Standard normal numbers, from ``rng`` or the generator that `manual_seed` restarts.

    >>> randn(2, 3, rng=np.random.default_rng(0)).shape
    (2, 3)
    """
    return _made(default_generator(rng).standard_normal(_shape("randn", shape)), "randn", dtype,
                 requires_grad)


@accepting
def rand(*shape: int | Sequence[int], rng: np.random.Generator | None = None,
         dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    """Numbers drawn evenly from [0, 1), from ``rng`` or the generator of `manual_seed`.

    >>> rand(2, 3, rng=np.random.default_rng(0)).shape
    (2, 3)
    """
    made = default_generator(rng).random(_shape("rand", shape))
    if dtype is None or as_dtype(dtype, "rand") == np.float32:
        made = np.minimum(made, 1 - 2 ** -24)           # what rounds up to 1 is not below it
    return _made(made, "rand", dtype, requires_grad)


def _like(make: Callable[..., Tensor], value: str = "") -> Callable[..., Tensor]:
    """``make`` with the shape and the dtype of a tensor."""
    def like(x: TensorLike, *args: object, dtype: DTypeLike | None = None,
             requires_grad: bool = False, **settings: object) -> Tensor:
        array = as_array(x)
        return make(array.shape, *args, dtype=array.dtype if dtype is None else dtype,
                    requires_grad=requires_grad, **settings)
    like.__name__ = like.__qualname__ = f"{make.__name__}_like"
    like.__doc__ = f"""As `{make.__name__}`, with the shape and the dtype of a tensor.

    >>> {like.__name__}(Tensor([1.0, 2.0]){value}).shape
    (2,)
    """
    return accepting(like)


zeros_like, ones_like, full_like = _like(zeros), _like(ones), _like(full, ", 3.0")
randn_like, rand_like = _like(randn), _like(rand)
