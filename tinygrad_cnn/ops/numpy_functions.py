"""NumPy's functions on tensors: ``np.f(tensor)`` means what NumPy means, or is refused by name.

Three tables say what happens to a call that NumPy hands over:

- a function of ``_OURS`` is answered by an op.  Its arguments have NumPy's names and order, from
  NumPy's own signature; ``dtype=`` casts the tensors first; any other argument that the op does not
  take must have its default.
- a function of ``_PLAIN`` has a derivative that is zero or undefined by nature.  It answers with
  plain arrays.
- any other function answers with plain arrays as well, unless a tensor requires a gradient.

A ufunc is answered by what `register_function` names it for; otherwise the same rules hold.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, partial, reduce
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, DTypeLike

from tinygrad_cnn import checks
from tinygrad_cnn.core import Tensor, TensorLike, as_array, as_dtype, as_setting, is_grad_enabled
from tinygrad_cnn.core.op import FUNCTIONS, register_function
from tinygrad_cnn.errors import TinygradCnnError
from tinygrad_cnn.ops.einsum import dot, einsum, inner, kron, outer, tensordot
from tinygrad_cnn.ops.elementwise import (
    abs,
    add,
    clip,
    div,
    maximum,
    minimum,
    mul,
    neg,
    power,
    sub,
    where,
)
from tinygrad_cnn.ops.linear import matmul
from tinygrad_cnn.ops.math import exp2, log1p, round, sin
from tinygrad_cnn.ops.rearrange import (
    diag,
    diagonal,
    diff,
    flip,
    median,
    repeat,
    roll,
    sort,
    take,
    take_along_axis,
    tile,
    trace,
    tril,
    triu,
)
from tinygrad_cnn.ops.reduction import broadcast_to, max, mean, min, sum
from tinygrad_cnn.ops.shape import (
    astype,
    concatenate,
    expand_dims,
    pad,
    reshape,
    squeeze,
    stack,
    transpose,
)
from tinygrad_cnn.ops.statistics import cumprod, cumsum, norm, prod, std, var
from tinygrad_cnn.shapes import Axis, PairLike, Shape
from tinygrad_cnn.types import Function, Settings

__all__: list[str] = []

NumpyFunction: TypeAlias = Function


# ---- calls that NumPy hands over -----------------------------------------------------------------

class _Row(NamedTuple):
    """A function of NumPy, what answers it, and NumPy's name -> ours of each argument."""

    numpy: NumpyFunction
    ours: NumpyFunction
    arrays: Mapping[str, str]
    settings: Mapping[str, str]


@register_function()
def array_ufunc(ufunc: np.ufunc, method: str, inputs: tuple[object, ...],
                settings: Settings) -> object:
    """Answer ``ufunc.method(*inputs, **settings)``, or refuse it."""
    known = getattr(np, ufunc.__name__, None) is ufunc
    what = f"np.{ufunc.__name__}" if known else ufunc.__name__
    ours = FUNCTIONS.get(ufunc)
    if method != "__call__":
        if ours is not None:
            raise TypeError(f"{what}.{method} is not supported on a tensor; {what} is")
        what += f".{method}"
    if ours is not None:
        settings = dict(settings)
        dtype = settings.pop("dtype", None)
        for name, value in settings.items():
            if name == "out":
                raise TypeError(f"{what}: out= is not supported on a tensor, nor is `array -= "
                                "tensor`; dtype= may be given, and for plain values tensor.data")
            if not _same(value, _UFUNC_DEFAULTS.get(name, inspect.Parameter.empty)):
                raise _not_supported(what, name, ("dtype",))
        return ours(*(inputs if dtype is None else _cast(what, inputs, dtype)))
    carries = () if ufunc in _PLAIN else (inputs, settings)
    return _plain(what, getattr(ufunc, method), inputs, settings, carries)


@register_function()
def array_function(function: NumpyFunction, args: tuple[object, ...],
                   settings: Settings) -> object:
    """Answer ``function(*args, **settings)``, a function of NumPy without an op, or refuse it."""
    carries: Sequence[object] = (args, settings)
    if (names := _PLAIN.get(function)) is not None:
        carries = [_given(function, args, settings).get(name) for name in names]
    return _plain(_name(function), function, args, settings, carries)


def _answer(row: _Row, *args: object, **settings: object) -> object:
    """What an op answers to a function of NumPy, called with NumPy's arguments."""
    given = _given(row.numpy, args, settings)
    if not any(True for name in row.arrays for _ in _tensors(given.get(name))):
        return array_function(row.numpy, args, settings)        # a tensor among the settings only
    what = _name(row.numpy)
    defaults = _parameters(row.numpy).parameters
    dtype = given.pop("dtype", None)
    call: Settings = {}
    for name, value in given.items():
        ours = row.arrays.get(name) or row.settings.get(name)
        if ours in call:
            raise TypeError(f"{what}: {name}= was given under another name already")
        if name in row.arrays:
            call[row.arrays[name]] = value if dtype is None else _cast(what, value, dtype)
        elif ours is not None:
            call[ours] = as_setting(value, what, name) if isinstance(value, Tensor) else value
        elif name not in defaults or not _same(value, defaults[name].default):
            raise _not_supported(what, name, [n for n in row.settings if n in defaults]
                                 + ["dtype"] * ("dtype" in defaults))
    try:
        return row.ours(**call)
    except TinygradCnnError as error:
        if f"{row.numpy.__name__}:" in str(error):
            raise
        raise type(error)(f"{what}: {error}") from None


def _plain(what: str, function: NumpyFunction, args: tuple[object, ...], settings: Settings,
           carries: object) -> object:
    """What NumPy answers for the plain values, unless that cuts the graph or writes to them."""
    if is_grad_enabled() and any(x.requires_grad for x in _tensors(carries)):
        raise TypeError(f"{what} is not differentiable here; for plain values pass "
                        "tensor.numpy()")
    try:
        return function(*_values(args), **_values(settings))
    except Exception as error:
        if "read-only" not in str(error):
            raise error from None               # NumPy tries twice, and would show both
        raise TypeError(f"{what} would write into a tensor; write into an array, or into "
                        "tensor.data") from None


# ---- NumPy's arguments ---------------------------------------------------------------------------

def _name(function: NumpyFunction) -> str:
    """``np.linalg.norm``: the name that users call it by."""
    module = function.__module__
    return f"np{module.removeprefix('numpy')}.{function.__name__}" \
        if module.partition(".")[0] == "numpy" else f"{module}.{function.__name__}"


@cache
def _parameters(function: NumpyFunction) -> inspect.Signature:
    return inspect.signature(_SIGNATURES.get(function, function))


def _given(function: NumpyFunction, args: tuple[object, ...],
           settings: Settings) -> Settings:
    """What the caller gave, by NumPy's names."""
    try:
        found = dict(_parameters(function).bind(*args, **settings).arguments)
    except TypeError as error:
        raise TypeError(f"{_name(function)}: {error}") from None
    rest = found.pop("kwargs", {})
    return {name: value for name, value in (found | rest).items() if value is not np._NoValue}


def _same(value: object, default: object) -> bool:
    """Whether the caller gave what NumPy assumes anyway."""
    return value is default or (isinstance(value, (bool, int, str)) and value == default)


def _not_supported(what: str, name: str, taken: Iterable[str]) -> TypeError:
    names = ", ".join(f"{t}=" for t in taken)
    return TypeError(f"{what}: {name}= is not supported on a tensor"
                     + (f"; {names} may be given" if names else ""))


def _cast(what: str, value: Any, dtype: DTypeLike) -> Any:
    """Arrays and tensors, also in lists, in the dtype that the caller asks for."""
    wanted = as_dtype(dtype, what)
    if wanted not in (np.float32, np.float64):
        raise TypeError(f"{what}: dtype={wanted} is not supported on a tensor; float32 and float64 "
                        "are")
    if isinstance(value, (list, tuple)):
        return [_cast(what, x, wanted) for x in value]
    return astype(value, wanted) if isinstance(value, Tensor) else np.asarray(value, wanted)


def _tensors(value: object) -> Iterator[Tensor]:
    """The tensors in a nest of lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for x in value:
            yield from _tensors(x)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _values(value: object) -> Any:
    """The same nest with plain arrays for tensors."""
    if isinstance(value, Tensor):
        return value.numpy()
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(_values(x) for x in value)
    return {k: _values(x) for k, x in value.items()} if isinstance(value, dict) else value


# ---- functions of NumPy that are made of ops -----------------------------------------------------

def _deviation(f: NumpyFunction) -> NumpyFunction:
    """`var` or `std` with the two names that NumPy has for one argument."""
    def answer(what: str, a: object, ddof: float = 0, correction: float | None = None,
               **settings: object) -> Tensor:
        if ddof and correction is not None:
            raise TypeError(f"{what}: ddof= and correction= are the same argument; give one")
        return f(a, correction=ddof if correction is None else correction, **settings)
    return partial(answer, f"np.{f.__name__}")


def _moved(function: NumpyFunction) -> NumpyFunction:
    """`transpose` to where ``function`` puts the axes."""
    def answer(a: Tensor, **places: object) -> Tensor:
        # Sizes 0, 1, 2 ... come out as the order of the axes.
        return transpose(a, function(np.empty(range(a.ndim)), **places).shape)
    return answer


def _norm(x: Tensor, ord: Any = None, axis: Axis = None, keepdims: bool = False) -> Tensor:
    axes = checks.axes_tuple("np.linalg.norm", axis, x.shape)
    if ord is not None and len(axes) != 1 and not (ord == "fro" and len(axes) == 2):
        raise TypeError(f"np.linalg.norm: ord={ord!r} of a matrix is not supported on a tensor; "
                        "give axis=, or leave ord out for the Frobenius norm")
    return norm(x, 2 if ord in (None, "fro") else ord, axes, keepdims)


def _average(a: Tensor, axis: Axis = None, weights: object = None,
             keepdims: bool = False) -> Tensor:
    if weights is None:
        return mean(a, axis, keepdims)
    shares = as_setting(weights, "np.average", "weights")
    if np.ndim(shares) == 1 and isinstance(axis, int) and a.ndim > 1:
        shares = np.reshape(shares, [-1 if i == axis % a.ndim else 1 for i in range(a.ndim)])
    if np.shape(shares) != a.shape and np.ndim(shares) != a.ndim:
        raise TypeError(f"np.average: weights {np.shape(shares)} do not fit a {a.shape}")
    whole = np.broadcast_to(shares, a.shape)
    return div(sum(mul(a, whole), axis, keepdims),
               np.sum(whole, axis if axis is None else tuple(np.atleast_1d(axis)),
                      keepdims=keepdims))


def _cross(a: TensorLike, b: TensorLike, axis: int | None = -1) -> Tensor:
    axis = -1 if axis is None else axis
    if np.shape(as_array(a))[axis] != 3 or np.shape(as_array(b))[axis] != 3:
        raise TypeError("np.cross: vectors of a tensor must have three entries")
    return sub(mul(roll(a, -1, axis), roll(b, -2, axis)), mul(roll(a, -2, axis), roll(b, -1, axis)))


def _nan_to_num(x: Tensor, nan: float = 0.0, posinf: float | None = None,
                neginf: float | None = None) -> Tensor:
    values = as_array(x)
    plain = np.nan_to_num(values, nan=nan, posinf=posinf, neginf=neginf)
    return where(np.isfinite(values), x, plain)


def _parts(function: NumpyFunction, along: int | None) -> NumpyFunction:
    """The parts into which ``function`` cuts a line of numbers; None: along the second axis."""
    def answer(ary: Tensor, sections: object, axis: int = 0) -> list[Tensor]:
        fixed = (1 if ary.ndim > 1 else 0) if along is None else along
        axis = checks.axis_index(f"np.{function.__name__}", fixed or axis, ary.shape)
        places = function(np.arange(ary.shape[axis]), sections)
        return [take(ary, part, axis) for part in places]
    return answer


def _joined(function: NumpyFunction, axis: int, columns: bool = False) -> NumpyFunction:
    """`concatenate` after giving each the axes that ``function`` gives them."""
    def answer(tup: Sequence[TensorLike]) -> Tensor:
        shaped = []
        for x in tup:
            values = as_array(x)
            shape = function(np.empty(values.shape)).shape
            shaped.append(reshape(x, shape[::-1] if columns and values.ndim < 2 else shape))
        return concatenate(shaped, axis if shaped[0].ndim > axis else 0)
    return answer


def _turned(m: Tensor, k: int = 1, axes: tuple[int, int] = (0, 1)) -> Tensor:
    # Sizes stay apart: the places of all entries say where each has come from.
    places = np.rot90(np.arange(m.size).reshape(m.shape), k, axes)
    return reshape(m, -1)[np.ascontiguousarray(places)]


def _floats(what: str, x: Tensor) -> Tensor:
    if x.dtype.kind != "f":
        raise TypeError(f"{what}: {x.dtype} becomes floats in NumPy; cast the tensor: "
                        "x.astype(np.float32)")
    return x


def _itself(x: Tensor) -> Tensor:
    return reshape(x, x.shape)


def _sinc(x: Tensor) -> Tensor:
    """sin(πx) / (πx); near 0 its series, whose derivatives of every order are right as well."""
    near = np.abs(as_array(_floats("np.sinc", x))) < 0.25
    y = mul(x, math.pi)
    square = power(where(near, y, 0.0), 2)
    series = mul(square, 0.0)
    for k in range(9, 0, -1):
        series = mul(add(series, 1.0), mul(square, -1 / (2 * k * (2 * k + 1))))
    far = where(near, 1.0, y)
    return where(near, add(series, 1.0), div(sin(far), far))


def _scaled(what: str, factor: float, x: Tensor) -> Tensor:
    return mul(_floats(what, x), factor)


def _logaddexp2(a: TensorLike, b: TensorLike) -> Tensor:
    a, b = (_floats("np.logaddexp2", x) if isinstance(x, Tensor) else x for x in (a, b))
    with np.errstate(invalid="ignore"):                             # infinities may be equal
        apart = where(np.equal(as_array(a), as_array(b)), 0.0, sub(a, b))
    return add(maximum(a, b), mul(log1p(exp2(neg(abs(apart)))), 1 / math.log(2)))


def _without_nan(pick: NumpyFunction) -> NumpyFunction:
    """``pick`` of two values, of which a NaN is taken for the other."""
    def answer(a: TensorLike, b: TensorLike) -> Tensor:
        return pick(*(where(np.isnan(as_array(x)), other, x) for x, other in ((a, b), (b, a))))
    return answer


def _partition(a: TensorLike, kth: object, axis: int | None = -1) -> Tensor:
    return take_along_axis(a, np.argpartition(as_array(a), as_setting(kth, "np.partition", "kth"),
                                              axis), axis)


def _gradient(f: Tensor, axis: Axis = None) -> Tensor | tuple[Tensor, ...]:
    """Half the difference of both neighbors; at the ends the difference to the one."""
    found = []
    for i in checks.axes_tuple("np.gradient", axis, f.shape):
        if f.shape[i] < 2:
            raise TypeError(f"np.gradient: axis {i} of {f.shape} needs at least two entries")
        slope = diff(_floats("np.gradient", f), axis=i)
        ends = [take(slope, [k], i) for k in (0, -1)]
        inner = [] if f.shape[i] == 2 else [mul(_neighbors(slope, i), 0.5)]
        found.append(concatenate([ends[0], *inner, ends[1]], i))
    return found[0] if len(found) == 1 else tuple(found)


def _neighbors(x: Tensor, axis: int) -> Tensor:
    """x[i] + x[i + 1] along an axis."""
    places = np.arange(x.shape[axis])
    return add(take(x, places[:-1], axis), take(x, places[1:], axis))


def _sliding(x: Tensor, window_shape: int | Shape, axis: int | Shape | None = None) -> Tensor:
    places = np.arange(x.size).reshape(x.shape)
    return reshape(x, -1)[sliding_window_view(places, window_shape, axis).copy()]


def _concatenate(xs: Sequence[TensorLike], axis: int | None = 0) -> Tensor:
    if axis is None:
        return concatenate([reshape(x, -1) if isinstance(x, Tensor) else np.ravel(x) for x in xs])
    return concatenate(xs, axis)


def _pad(array: Tensor, pad_width: ArrayLike | dict[int, PairLike], mode: str = "constant",
         constant_values: ArrayLike | None = None) -> Tensor:
    if constant_values is not None and mode != "constant":
        raise TypeError(f"np.pad: constant_values= belongs to mode 'constant', got {mode!r}")
    values = np.unique(0 if constant_values is None else constant_values)
    if values.size != 1:
        raise TypeError("np.pad: constant_values= of a tensor must be one number for all sides, "
                        f"got {constant_values!r}; pad one side after the other")
    sides = np.asarray(list(pad_width.values()) if isinstance(pad_width, dict) else pad_width)
    if sides.dtype.kind != "i":
        raise TypeError(f"np.pad: pad_width must hold integers, got {pad_width!r}")
    if isinstance(pad_width, dict):
        each = np.zeros((array.ndim, 2), int)
        for axis, both in pad_width.items():
            each[axis] = both
    else:
        each = np.broadcast_to(sides, (array.ndim, 2))
    return pad(array, each.tolist(), mode=mode, value=values.item())


# ---- which function is answered by what ----------------------------------------------------------

def _row(numpy: NumpyFunction, ours: NumpyFunction, arrays: str, settings: str = "") -> None:
    """Let ``ours`` answer; "a=x" says that NumPy's ``a`` is our ``x``."""
    def names(text: str) -> dict[str, str]:
        return {word.partition("=")[0]: word.rpartition("=")[2] for word in text.split()}
    FUNCTIONS[numpy] = partial(_answer, _Row(numpy, ours, names(arrays), names(settings)))


# The signatures of compiled functions, which NumPy tells from 2.4 on.
_SIGNATURES: dict[object, NumpyFunction] = {
    np.concatenate: lambda arrays, /, axis=0, out=None, *, dtype=None, casting="same_kind": None,
    np.dot: lambda a, b, out=None: None,
    np.inner: lambda a, b, /: None,
    np.where: lambda condition, x=None, y=None, /: None,
}

_row(np.sum, sum, "a=x", "axis keepdims")
_row(np.mean, mean, "a=x", "axis keepdims")
for _twin in (np.max, np.amax):
    _row(_twin, max, "a=x", "axis keepdims")
for _twin in (np.min, np.amin):
    _row(_twin, min, "a=x", "axis keepdims")
_row(np.var, _deviation(var), "a", "axis keepdims ddof correction")
_row(np.std, _deviation(std), "a", "axis keepdims ddof correction")
_row(np.clip, clip, "a=x", "a_min=min a_max=max min max")
_row(np.where, where, "x=a y=b", "condition")
_row(np.reshape, reshape, "a=x", "shape newshape=shape")
_row(np.ravel, lambda a: reshape(a, -1), "a")
_row(np.copy, lambda a: reshape(a, a.shape), "a")
_row(np.squeeze, squeeze, "a=x", "axis")
_row(np.expand_dims, expand_dims, "a=x", "axis")
_row(np.transpose, transpose, "a=x", "axes")
_row(np.swapaxes, _moved(np.swapaxes), "a", "axis1 axis2")
_row(np.moveaxis, _moved(np.moveaxis), "a", "source destination")
_row(np.broadcast_to, broadcast_to, "array=x", "shape")
_row(np.concatenate, _concatenate, "arrays=xs", "axis")
_row(np.stack, stack, "arrays=xs", "axis")
_row(np.pad, _pad, "array", "pad_width mode constant_values")
_row(np.cumsum, cumsum, "a=x", "axis")
_row(np.cumprod, cumprod, "a=x", "axis")
_row(np.prod, prod, "a=x", "axis keepdims")
_row(np.linalg.norm, _norm, "x", "ord axis keepdims")
_row(np.sort, sort, "a=x", "axis")
_row(np.median, median, "a=x", "axis keepdims")
_row(np.average, _average, "a", "axis weights keepdims")
_row(np.flip, flip, "m=x", "axis")
_row(np.fliplr, lambda m: flip(m, 1), "m")
_row(np.flipud, lambda m: flip(m, 0), "m")
_row(np.rot90, _turned, "m", "k axes")
_row(np.roll, roll, "a=x", "shift axis")
_row(np.rollaxis, _moved(np.rollaxis), "a", "axis start")
_row(np.tile, tile, "A=x", "reps")
_row(np.repeat, repeat, "a=x", "repeats axis")
_row(np.take, take, "a=x", "indices axis")
_row(np.take_along_axis, take_along_axis, "arr=x", "indices axis")
_row(np.tril, tril, "m=x", "k")
_row(np.triu, triu, "m=x", "k")
_row(np.diagonal, diagonal, "a=x", "offset axis1 axis2")
_row(np.diag, diag, "v=x", "k")
_row(np.trace, trace, "a=x", "offset")
_row(np.diff, diff, "a=x", "n axis")
_row(np.cross, _cross, "a b", "axis")
_row(np.tensordot, tensordot, "a b", "axes")
_row(np.outer, outer, "a b")
_row(np.inner, inner, "a b")
_row(np.dot, dot, "a b")
_row(np.kron, kron, "a b")
_row(np.nan_to_num, _nan_to_num, "x", "nan posinf neginf")
for _rounding in (np.round, np.around):
    _row(_rounding, round, "a=x", "decimals")
for _cut in (np.split, np.array_split):
    _row(_cut, _parts(_cut, 0), "ary", "indices_or_sections=sections axis")
for _along, _axis in ((np.hsplit, None), (np.vsplit, 0), (np.dsplit, 2)):
    _row(_along, _parts(np.split, _axis), "ary", "indices_or_sections=sections")
_row(np.hstack, _joined(np.atleast_1d, 1), "tup")
_row(np.vstack, _joined(np.atleast_2d, 0), "tup")
_row(np.dstack, _joined(np.atleast_3d, 2), "tup")
_row(np.column_stack, _joined(np.atleast_2d, 1, columns=True), "tup")
_row(np.append, lambda arr, values, axis=None: _concatenate((arr, values), axis), "arr values",
     "axis")


def _several(function: NumpyFunction) -> NumpyFunction:
    """`reshape` to the shape that ``function`` gives each of its arguments."""
    def answer(*xs: TensorLike) -> object:
        made = [reshape(x, function(np.empty(x.shape)).shape) if isinstance(x, Tensor)
                else function(x) for x in xs]
        return made[0] if len(made) == 1 else tuple(made)
    return answer


for _raised in (np.atleast_1d, np.atleast_2d, np.atleast_3d):
    FUNCTIONS[_raised] = _several(_raised)


def _einsum(*operands: Any, optimize: object = False, **settings: object) -> Tensor:
    for name, value in settings.items():
        if value is not None:
            raise _not_supported("np.einsum", name, ("optimize",))
    return einsum(*operands)


FUNCTIONS[np.einsum] = _einsum

for _angle, _factor in ((np.deg2rad, math.pi / 180), (np.radians, math.pi / 180),
                        (np.rad2deg, 180 / math.pi), (np.degrees, 180 / math.pi)):
    FUNCTIONS[_angle] = partial(_scaled, f"np.{_angle.__name__}", _factor)
FUNCTIONS |= {np.logaddexp2: _logaddexp2, np.positive: _itself,
              np.conjugate: lambda x: _itself(_floats("np.conjugate", x)),
              np.fabs: lambda x: abs(_floats("np.fabs", x)),
              np.fmax: _without_nan(maximum), np.fmin: _without_nan(minimum)}
_row(sliding_window_view, _sliding, "x", "window_shape axis")
_row(np.sinc, _sinc, "x")
_row(np.real, _itself, "val=x")
_row(np.real_if_close, _itself, "a=x")
_row(np.partition, _partition, "a", "kth axis")
_row(np.gradient, _gradient, "f", "axis")
_row(np.linalg.multi_dot, lambda arrays: reduce(matmul, arrays), "arrays")

# Functions whose derivative is zero or undefined by nature.  Where an argument does carry a
# gradient, the table names it.
_PLAIN: dict[object, tuple[str, ...]] = dict.fromkeys((
    np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal, np.logical_and,
    np.logical_or, np.logical_xor, np.logical_not, np.isfinite, np.isnan, np.isinf, np.signbit,
    np.floor_divide, np.fix, np.imag, np.angle,
    np.any, np.all, np.isclose, np.allclose, np.array_equal, np.array_equiv, np.isin,
    np.isposinf, np.isneginf, np.isreal, np.iscomplex, np.isrealobj, np.iscomplexobj,
    np.argmax, np.argmin, np.nanargmax, np.nanargmin, np.argsort, np.argpartition, np.lexsort,
    np.argwhere, np.nonzero, np.flatnonzero, np.where, np.count_nonzero, np.searchsorted,
    np.digitize,
    np.shape, np.ndim, np.size, np.result_type, np.can_cast, np.common_type, np.min_scalar_type,
    np.may_share_memory, np.shares_memory, np.diag_indices_from, np.tril_indices_from,
    np.triu_indices_from, np.zeros_like, np.ones_like, np.empty_like,
    np.array_repr, np.array_str, np.array2string, np.save, np.savez, np.savez_compressed,
    np.savetxt), ())
_PLAIN |= dict.fromkeys((np.histogram, np.histogram2d, np.histogramdd), ("weights",))
_PLAIN[np.full_like] = ("fill_value",)

# What a ufunc may be told without a change of its result.
_UFUNC_DEFAULTS = {"out": None, "where": True, "casting": "same_kind", "order": "K", "subok": True}
