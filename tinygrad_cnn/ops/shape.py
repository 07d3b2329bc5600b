"""Ops that move entries and compute nothing: each stands next to its transpose.

reshape and transpose undo themselves; pad and crop, getitem and scatter_add, broadcast_to and
sum_to (in ``reduction``) are each other's rules.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import wraps
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import DTypeLike

from tinygrad_cnn import checks
from tinygrad_cnn.core import (
    Tensor,
    TensorLike,
    apply,
    as_array,
    as_dtype,
    as_setting,
    as_tensor,
    make_function,
)
from tinygrad_cnn.core.op import ErrorInput, Op, OpTest, Sample, dyadic, register, register_function
from tinygrad_cnn.core.tensor import Index
from tinygrad_cnn.errors import DTypeError, SettingError, ShapeError
from tinygrad_cnn.kernels import reference
from tinygrad_cnn.kernels import shape as kernels
from tinygrad_cnn.names import accepting
from tinygrad_cnn.ops.declare import each
from tinygrad_cnn.shapes import Axis, Pair, Shape
from tinygrad_cnn.types import Function, Value

__all__ = ["astype", "concatenate", "expand_dims", "flatten", "getitem", "pad", "permute",
           "reshape", "scatter_add", "squeeze", "stack", "transpose", "crop"]

F = TypeVar("F", bound=Function)
PadWidth: TypeAlias = tuple[Pair, ...]


# ---- reshape

def _reshape_shape(x: Shape, *, shape: Shape) -> Shape:
    if math.prod(x) != math.prod(shape):
        raise ShapeError(f"reshape: {math.prod(x)} values of shape {x} cannot fill {shape}, "
                         f"which holds {math.prod(shape)}")
    return shape


RESHAPE: Op = register(Op(
    name="reshape", shape=_reshape_shape, kernels={"array": lambda x, *, shape: x.reshape(shape)},
    vjp={"x": lambda ct, out, x, *, shape: apply(RESHAPE, ct, shape=x.shape)},
    test=OpTest(
        samples=lambda rng: [Sample("to a matrix", (dyadic(rng, 2, 3, 2),), {"shape": (3, 4)}),
                             Sample("to more axes", (dyadic(rng, 6),), {"shape": (1, 2, 3)})],
        exact_in=("x",),
        error_inputs=(ErrorInput("too many", ((2, 3),), {"shape": (7,)}, "cannot fill (7,)"),)),
    saved=(), family="shape", flops=lambda x, *, out_shape, shape: 0))


@register_function()
def reshape(x: TensorLike, shape: int | Sequence[int]) -> Tensor:
    """The same values, in reading order, in another shape.

    Parameters
    ----------
    x : Tensor
    shape : int or sequence of int
        One entry may be −1: it is worked out.

    Raises
    ------
    ShapeError
        If the number of values differs.
    SettingError
        If more than one entry is −1, or one is less.

    Examples
    --------
    >>> reshape(Tensor(np.zeros((2, 3, 4))), (2, -1)).shape
    (2, 12)
    """
    x = as_tensor(x, "reshape")
    sizes = [checks.integer("reshape", "shape", n, minimum=-1)
             for n in (shape if isinstance(shape, (tuple, list)) else (shape,))]
    if sizes.count(-1) > 1:
        raise SettingError(f"reshape: only one axis can be worked out, got {tuple(sizes)}")
    if -1 in sizes:
        known = math.prod(n for n in sizes if n != -1)
        if not known or x.size % known:
            raise ShapeError(f"reshape: {x.size} values of shape {x.shape} cannot fill "
                             f"{tuple(sizes)}")
        sizes[sizes.index(-1)] = x.size // known
    return apply(RESHAPE, x, shape=tuple(sizes))


@register_function()
def flatten(x: TensorLike, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Several axes into one, in reading order; with ``start_dim`` 1 all but the batch.

    Parameters
    ----------
    x : Tensor
    start_dim, end_dim : int, default 0 and -1
        The first and the last of the axes that become one.  With 1 and -1, (N) becomes (N, 1).

    Raises
    ------
    ShapeError
        If ``x`` lacks one of these axes, or the last comes before the first.
    SettingError
        If an axis is not an integer.

    Examples
    --------
    >>> x = Tensor(np.zeros((2, 4, 4, 3)))
    >>> flatten(x).shape, flatten(x, 1).shape
    ((96,), (2, 48))
    """
    x = x if isinstance(x, Tensor) else as_tensor(x, "flatten")
    if not x.ndim and (start_dim, end_dim) == (0, -1):
        return reshape(x, (1,))
    if x.ndim and type(start_dim) is type(end_dim) is int and (start_dim, end_dim) == (1, -1):
        return apply(RESHAPE, x, shape=(x.shape[0], math.prod(x.shape[1:])))
    first = checks.axis_index("flatten", start_dim, x.shape, name="start_dim")
    last = checks.axis_index("flatten", end_dim, x.shape, name="end_dim")
    if last < first:
        raise ShapeError(f"flatten: end_dim {end_dim} comes before start_dim {start_dim} in x "
                         f"{x.shape}")
    return apply(RESHAPE, x, shape=(*x.shape[:first], math.prod(x.shape[first:last + 1]),
                                    *x.shape[last + 1:]))


@register_function()
def squeeze(x: TensorLike, axis: Axis = None) -> Tensor:
    """Take away axes of one entry: those named, or all.

    Parameters
    ----------
    x : Tensor
    axis : int or tuple of int, optional

    Raises
    ------
    ShapeError
        If a named axis does not exist or has more than one entry.

    Examples
    --------
    >>> squeeze(Tensor(np.zeros((1, 3, 1)))).shape
    (3,)
    """
    x = as_tensor(x, "squeeze")
    ones = tuple(i for i, n in enumerate(x.shape) if n == 1)
    gone = ones if axis is None else checks.axes_tuple("squeeze", axis, x.shape)
    for i in gone:
        if x.shape[i] != 1:
            raise ShapeError(f"squeeze: axis {i} of {x.shape} has {x.shape[i]} entries, not one")
    return reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in gone))


@register_function()
def expand_dims(x: TensorLike, axis: int | Sequence[int]) -> Tensor:
    """Put in axes of one entry, at these places of the result.

    Parameters
    ----------
    x : Tensor
    axis : int or tuple of int

    Raises
    ------
    ShapeError
        If the place does not exist in the result.

    Examples
    --------
    >>> expand_dims(Tensor(np.zeros((2, 3))), 1).shape
    (2, 1, 3)
    """
    x = as_tensor(x, "expand_dims")
    places = _new_places(axis, x, "expand_dims")
    rank = x.ndim + len(places)
    rest = iter(x.shape)
    return reshape(x, tuple(1 if i in places else next(rest) for i in range(rank)))


def _new_places(axis: object, x: Tensor, op: str) -> tuple[int, ...]:
    """Where in the result the new axes are, counted from the front."""
    rank = x.ndim + (len(axis) if isinstance(axis, (tuple, list)) else 1)
    try:
        return checks.axes_tuple(op, axis, (1,) * rank)
    except ShapeError:
        raise ShapeError(f"{op}: axis {axis!r} does not exist in the result, which has {rank} axes "
                         f"(x is {x.shape})") from None


# ---- transpose

def _inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argsort(axes))


TRANSPOSE: Op = register(Op(
    name="transpose", shape=lambda x, *, axes: tuple(x[i] for i in axes),
    kernels={"array": lambda x, *, axes: x.transpose(axes)},
    vjp={"x": lambda ct, out, x, *, axes: apply(TRANSPOSE, ct, axes=_inverse(axes))},
    test=OpTest(
        samples=lambda rng: [Sample("cycle", (dyadic(rng, 2, 3, 4),), {"axes": (1, 2, 0)}),
                             Sample("swap", (dyadic(rng, 2, 3),), {"axes": (1, 0)})],
        exact_in=("x",)),
    saved=(), family="shape", flops=lambda x, *, out_shape, axes: 0))


@register_function()
def transpose(x: TensorLike, axes: Sequence[int] | None = None) -> Tensor:
    """The axes in another order: axis i of the result is axis ``axes[i]`` of ``x``.

    Parameters
    ----------
    x : Tensor
    axes : sequence of int, optional
        Each axis once; reversed if not given.

    Raises
    ------
    SettingError
        If ``axes`` is not a permutation of the axes of ``x``.

    Examples
    --------
    >>> transpose(Tensor(np.zeros((2, 3, 4))), (0, 2, 1)).shape
    (2, 4, 3)
    """
    x = as_tensor(x, "transpose")
    if axes is not None and not isinstance(axes, (tuple, list)):
        raise SettingError(f"transpose: axes must be a sequence of {x.ndim} integers, got {axes!r}")
    order = tuple(reversed(range(x.ndim))) if axes is None else tuple(
        checks.axis_index("transpose", i, x.shape, name="axes") for i in axes)
    if sorted(order) != list(range(x.ndim)):
        raise SettingError(f"transpose: axes {tuple(axes or ())} must name each of the {x.ndim} "
                           f"axes of {x.shape} once")
    return apply(TRANSPOSE, x, axes=order)


permute = transpose
register_function()(permute)


# ---- astype: the one op whose result has another dtype than its input

ASTYPE: Op = register(Op(
    name="astype", shape=lambda x, *, dtype: x,
    kernels={"array": lambda x, *, dtype: x.astype(x.dtype if x.dtype.kind == "c" else dtype)},
    vjp={"x": lambda ct, out, x, *, dtype: apply(ASTYPE, ct, dtype=x.dtype)},
    test=OpTest(
        samples=lambda rng: [Sample("to float64", (dyadic(rng, 2, 3),),
                                    {"dtype": np.dtype(np.float64)})],
        exact_in=("x",)),
    saved=(), family="shape"))


@register_function()
def astype(x: TensorLike, dtype: DTypeLike) -> Tensor:
    """Cast; the gradient is cast back to the dtype of ``x``.

    Parameters
    ----------
    x : Tensor
    dtype : dtype
        float32 or float64; an integer or boolean dtype cuts the graph.

    Raises
    ------
    DTypeError
        If the dtype is none of these.

    Examples
    --------
    >>> astype(Tensor([1.5]), np.float64).dtype
    dtype('float64')
    """
    x = as_tensor(x, "astype")
    wanted = as_dtype(dtype, "astype")
    if wanted.kind not in "fiub" or (wanted.kind == "f" and wanted.itemsize not in (4, 8)):
        raise DTypeError(f"astype: dtype {wanted} is not supported; use float32 or float64")
    if wanted == x.dtype:
        return x
    if wanted.kind != "f" or x.dtype.kind != "f":
        return Tensor(x._data.astype(wanted))
    return apply(ASTYPE, x, dtype=wanted)


# ---- pad copies pixels outwards, crop adds the copies back to where they came from

_MODES = ("constant", "reflect", "edge", "wrap")
_PAD_WIDTH = ((0, 0), (1, 2), (2, 0), (0, 0))


def _check_pad_width(op: str, shape: Shape, pad_width: PadWidth, mode: str) -> None:
    if len(pad_width) != len(shape):
        raise ShapeError(f"{op}: pad_width holds {len(pad_width)} pairs for an input of "
                         f"{len(shape)} axes {shape}")
    if mode not in _MODES:
        raise SettingError(f"{op}: mode must be one of {', '.join(_MODES)}, got {mode!r}")
    if any(n < 0 for both in pad_width for n in both):
        raise SettingError(f"{op}: pad_width must not be below 0, got {pad_width}; to crop, "
                           "index the tensor")


def _pad_shape(x: Shape, *, pad_width: PadWidth, mode: str, value: float) -> Shape:
    _check_pad_width("pad", x, pad_width, mode)
    if mode != "constant" and any(n == 0 and any(both)
                                  for n, both in zip(x, pad_width, strict=True)):
        raise ShapeError(f"pad: mode {mode!r} copies entries, and the input {x} has none")
    return tuple(before + n + after for n, (before, after) in zip(x, pad_width, strict=True))


def _crop_shape(y: Shape, *, pad_width: PadWidth, mode: str) -> Shape:
    _check_pad_width("crop", y, pad_width, mode)
    x = tuple(n - before - after for n, (before, after) in zip(y, pad_width, strict=True))
    if min(x, default=0) < 0:
        raise ShapeError(f"crop: pad_width {pad_width} are more than the input {y} has")
    return x


def _pad_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for mode in _MODES:
        yield Sample(mode, (dyadic(rng, 1, 3, 4, 2),),
                     {"pad_width": _PAD_WIDTH, "mode": mode, "value": 0.5})
    for mode in _MODES[1:]:
        yield Sample(f"{mode}, wider than the input", (dyadic(rng, 3, 2),),
                     {"pad_width": ((4, 3), (1, 5)), "mode": mode, "value": 0.0})


def _crop_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for mode in _MODES:
        yield Sample(mode, (dyadic(rng, 1, 6, 6, 2),), {"pad_width": _PAD_WIDTH, "mode": mode})
    yield Sample("wrap, wider than the result", (dyadic(rng, 9, 2),),
                 {"pad_width": ((4, 3), (0, 0)), "mode": "wrap"})


PAD = register(Op(
    name="pad", shape=_pad_shape, kernels={"array": kernels.pad, "reference": reference.pad},
    vjp={"x": lambda ct, out, x, *, pad_width, mode, value: apply(
        CROP, ct, pad_width=pad_width, mode=mode)},
    test=OpTest(
        samples=_pad_samples, exact_in=("x",),
        error_inputs=(
            ErrorInput("too few pad_width", ((2, 3),),
                       {"pad_width": ((0, 0),), "mode": "constant", "value": 0.0}, "holds 1 pairs"),
            ErrorInput("unknown mode", ((2, 3),),
                       {"pad_width": ((0, 0), (1, 1)), "mode": "mean", "value": 0.0},
                       "mode must be one of"),
            ErrorInput("nothing to copy", ((2, 0),),
                       {"pad_width": ((0, 0), (1, 1)), "mode": "edge", "value": 0.0},
                       "has none"),)),
    saved=(), family="shape", flops=lambda x, *, out_shape, pad_width, mode, value: 0))

CROP: Op = register(Op(
    name="crop", shape=_crop_shape,
    kernels={"array": kernels.crop, "reference": reference.crop},
    vjp={"y": lambda ct, out, y, **settings: apply(PAD, ct, value=0.0, **settings)},
    test=OpTest(
        samples=_crop_samples, exact_in=("y",),
        error_inputs=(
            ErrorInput("too wide", ((2, 3),), {"pad_width": ((2, 1), (0, 0)), "mode": "edge"},
                       "more than the input"),)),
    saved=(), family="shape"))


@make_function(CROP)
def crop(y: TensorLike, *, pad_width: PadWidth, mode: str) -> Tensor:
    """The adjoint of `pad`: crop, or add each copy back to where it came from.

    ``pad_width`` holds a pair for each axis; errors are those of `pad`.

    >>> crop(Tensor([1.0, 2.0, 3.0, 4.0]), pad_width=((1, 0),), mode="edge").data
    array([3., 3., 4.], dtype=float32)
    """


@register_function()
def pad(x: TensorLike, pad_width: int | Sequence[int] | Sequence[Sequence[int]],
        mode: str = "constant", value: float = 0.0) -> Tensor:
    """Put more entries around a tensor.

    Parameters
    ----------
    x : Tensor
    pad_width : int, (int, int), ((int, int), (int, int)) or one (int, int) for each axis, entries
        For images N H W C the first three forms are those of conv2d's padding, and widen H and W:
        everywhere; down, across; (top, bottom), (left, right).  For any tensor, a pair (before,
        after) for each axis.
    mode : {"constant", "reflect", "edge", "wrap"}, default "constant"
        What is put there: a value; a mirror image without the border itself; the border; the other
        end.
    value : float, default 0.0
        Of mode "constant".

    Returns
    -------
    Tensor
        Each axis longer by its two pad_width.

    Raises
    ------
    ShapeError
        If the number of pairs is not the number of axes, or there is nothing to copy.
    SettingError
        If a width is below 0 or the mode is unknown.

    Examples
    --------
    >>> pad(Tensor([1.0, 2.0, 3.0]), ((1, 2),), mode="reflect").data
    array([2., 1., 2., 3., 2., 1.], dtype=float32)
    >>> pad(Tensor(np.zeros((1, 4, 4, 3))), 2).shape
    (1, 8, 8, 3)
    """
    x = as_tensor(x, "pad")
    widths: Any = pad_width
    if isinstance(widths, (tuple, list)) and len(widths) == x.ndim and all(
            isinstance(both, (tuple, list)) and len(both) == 2 for both in widths):
        sides = tuple((checks.integer("pad", "pad_width", a), checks.integer("pad", "pad_width", b))
                      for a, b in widths)
    elif x.ndim == 4:
        sides = ((0, 0), *checks.pad_width("pad", widths), (0, 0))
    else:
        raise ShapeError(f"pad: pad_width {pad_width!r} must hold one pair (before, after) for "
                         f"each of the {x.ndim} axes of {x.shape}")
    try:
        number = float(as_setting(value, "pad", "value"))
    except (TypeError, ValueError):
        raise SettingError(f"pad: value must be a number, got {value!r}") from None
    return apply(PAD, x, pad_width=sides, mode=mode, value=number)


# ---- getitem takes entries, scatter_add adds them back to where they were taken

def _getitem_shape(x: Shape, *, index: tuple[Any, ...]) -> Shape:
    try:
        return np.broadcast_to(np.float32(0), x)[index].shape
    except IndexError as error:
        raise ShapeError(f"getitem: the index does not fit a tensor of shape {x}: {error}"
                         ) from None


def _scatter_add_shape(y: Shape, *, index: tuple[Any, ...], shape: Shape) -> Shape:
    taken = _getitem_shape(shape, index=index)
    if taken != y:
        raise ShapeError(f"scatter_add: y is {y}, but the index takes {taken} of {shape}")
    return shape


_INDICES: tuple[tuple[str, Shape, tuple[object, ...]], ...] = (
    ("slices", (4, 5), (slice(1, 3), slice(None, None, 2))),
    ("negative step", (4, 3), (slice(None, None, -2),)),
    ("integer and new axis", (3, 4), (1, None, slice(1, None))),
    ("ellipsis", (2, 3, 4), (Ellipsis, -1)),
    ("repeated integers", (4, 3), (np.array([2, 0, 2, 2]),)),
    ("pairs", (4, 3), (np.array([0, 3, 0]), np.array([1, 2, 1]))),
    ("boolean", (2, 3), (np.array([[True, False, True], [False, True, False]]),)),
    ("integers across", (2, 3, 4), (slice(None), np.array([[0, 2], [2, 1]]))),
)


GETITEM: Op = register(Op(
    name="getitem", shape=_getitem_shape, kernels={"array": lambda x, *, index: x[index]},
    vjp={"x": lambda ct, out, x, *, index: apply(SCATTER_ADD, ct, index=index, shape=x.shape)},
    test=OpTest(
        samples=each(lambda rng: _INDICES, lambda rng, shape, index: (
            (dyadic(rng, *shape),), {"index": index})),
        exact_in=("x",),
        error_inputs=(ErrorInput("out of range", ((2, 3),), {"index": (5,)}, "does not fit"),)),
    saved=(), family="shape", flops=lambda x, *, out_shape, index: 0))

SCATTER_ADD: Op = register(Op(
    name="scatter_add", shape=_scatter_add_shape, kernels={"array": kernels.scatter_add},
    vjp={"y": lambda ct, out, y, *, index, shape: apply(GETITEM, ct, index=index)},
    test=OpTest(
        samples=each(lambda rng: _INDICES, lambda rng, shape, index: (
            (dyadic(rng, *_getitem_shape(shape, index=index)),), {"index": index, "shape": shape})),
        exact_in=("y",)),
    saved=(), family="shape"))


@make_function(SCATTER_ADD)
def scatter_add(y: TensorLike, *, index: tuple[object, ...], shape: Shape) -> Tensor:
    """The adjoint of indexing: zeros of ``shape`` with ``y`` added at ``index``.

    The index is a tuple, as `getitem` normalizes it; an entry that is named repeatedly collects a
    sum.  A ``y`` that has not the shape that the index takes is a `ShapeError`.

    >>> scatter_add(Tensor([1.0, 2.0]), index=(np.array([1, 1]),), shape=(3,)).data
    array([0., 3., 0.], dtype=float32)
    """


def _plain_index(item: object) -> object:
    if item is None or item is Ellipsis or isinstance(item, slice):
        return item
    if isinstance(item, (bool, np.bool_)):
        return np.asarray(item)
    if isinstance(item, (int, np.integer)):
        return int(item)
    try:
        array = as_setting(item, "getitem", "index")
    except ValueError:
        raise SettingError(f"getitem: the rows of the index {item!r} have unequal lengths; "
                           "separate axes with a comma, as in x[i, j]") from None
    if array.size == 0 and not isinstance(item, (np.ndarray, Tensor)):
        array = array.astype(np.intp)
    if array.dtype.kind not in "iub":
        raise SettingError(f"getitem: an index must be integers, booleans or slices, "
                           f"got {type(item).__name__} of {array.dtype}")
    return array


@register_function()
def getitem(x: TensorLike, index: Index) -> Tensor:
    """Take entries, as NumPy's indexing does; ``x[index]`` on tensors is this function.

    Parameters
    ----------
    x : Tensor
    index : int, slice, None, Ellipsis, array of int or bool, or a tuple of these
        Entries may be named repeatedly: their gradients add up.

    Raises
    ------
    ShapeError
        If the index does not fit the shape.
    SettingError
        If it holds anything else.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> x[[0, 0, 2]].sum().backward()
    >>> x.grad.data
    array([2., 0., 1.], dtype=float32)
    """
    items = index if isinstance(index, tuple) else (index,)
    return apply(GETITEM, x, index=tuple(_plain_index(i) for i in items))


# ---- concatenate: a variadic op; its one rule is told the index of the input

def _concatenate_shape(*xs: Shape, axis: int) -> Shape:
    for i, x in enumerate(xs):
        if len(x) != len(xs[0]) or x[:axis] + x[axis + 1:] != xs[0][:axis] + xs[0][axis + 1:]:
            raise ShapeError(f"concatenate: xs[0] is {xs[0]} but xs[{i}] is {x}; "
                             f"only axis {axis} may differ")
    return *xs[0][:axis], sum(x[axis] for x in xs), *xs[0][axis + 1:]


def _concatenate_vjp(ct: Value, out: Value, *xs: Value, axis: int, index: int) -> Value:
    start = sum(x.shape[axis] for x in xs[:index])
    part = (slice(None),) * axis + (slice(start, start + xs[index].shape[axis]),)
    return apply(GETITEM, ct, index=part)


CONCATENATE = register(Op(
    name="concatenate", shape=_concatenate_shape,
    kernels={"array": lambda *xs, axis: np.concatenate(xs, axis)}, vjp={"xs": _concatenate_vjp},
    test=OpTest(
        samples=lambda rng: [
            Sample("channels", tuple(dyadic(rng, 2, 3, c) for c in (1, 4, 2)), {"axis": 2}),
            Sample("rows", tuple(dyadic(rng, n, 2) for n in (2, 0, 1)), {"axis": 0})],
        exact_in=("xs",),
        error_inputs=(
            ErrorInput("rows differ", ((2, 3), (4, 3)), {"axis": 1}, "xs[1] is (4, 3)"),)),
    saved=(), family="shape", flops=lambda *xs, out_shape, axis: 0))


def _check_several(op: str, xs: object) -> None:
    if not isinstance(xs, (tuple, list, np.ndarray, Tensor)) or not np.ndim(as_array(xs[:1])):
        raise SettingError(f"{op}: xs must be a list or tuple of tensors, got {type(xs).__name__}")
    if not len(xs):
        raise SettingError(f"{op}: xs is empty; there must be at least one tensor")


@register_function()
def concatenate(xs: Sequence[TensorLike], axis: int = 0) -> Tensor:
    """Join tensors along an axis that they have.

    Parameters
    ----------
    xs : sequence of Tensor
        Alike in every axis but one.
    axis : int, default 0
        The first axis holds the images; −1 joins channels.

    Raises
    ------
    ShapeError
        If another axis differs, or the axis does not exist.
    SettingError
        If ``xs`` is empty.

    Examples
    --------
    >>> concatenate([Tensor([1.0]), Tensor([2.0, 3.0])]).data
    array([1., 2., 3.], dtype=float32)
    """
    _check_several("concatenate", xs)
    first = as_tensor(xs[0], "concatenate", "xs[0]")
    return apply(CONCATENATE, first, *xs[1:],
                 axis=checks.axis_index("concatenate", axis, first.shape))


@register_function()
def stack(xs: Sequence[TensorLike], axis: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis.

    Parameters
    ----------
    xs : sequence of Tensor
    axis : int, default 0
        Where the new axis is put.

    Raises
    ------
    ShapeError
        If the shapes differ.
    SettingError
        If ``xs`` is empty.

    Examples
    --------
    >>> stack([Tensor([1.0, 2.0]), Tensor([3.0, 4.0])]).shape
    (2, 2)
    """
    _check_several("stack", xs)
    first = as_tensor(xs[0], "stack", "xs[0]")
    place, = _new_places(checks.integer("stack", "axis", axis), first, "stack")
    for i, x in enumerate(xs):
        if np.shape(as_array(x)) != first.shape:
            raise ShapeError(f"stack: xs[0] is {first.shape} but xs[{i}] is {np.shape(as_array(x))}"
                             "; all must be alike")
    first = expand_dims(first, place)
    return concatenate([first, *(expand_dims(x, place) for x in xs[1:])], axis=place)


def one_image(function: F) -> F:
    """The function of images N H W C, which takes one image H W C as well."""
    @wraps(function)
    def call(x: Any, *args: Any, **settings: Any) -> Any:
        if getattr(x, "ndim", 0) != 3:
            return function(x, *args, **settings)
        y = function(reshape(x, (1, *x.shape)), *args, **settings)
        return tuple(part[0] for part in y) if isinstance(y, tuple) else y[0]
    return cast(F, accepting(call))
