"""Parts of a tensor and their order: split, flip, sort, gather, triangles; made of other ops."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cnn import checks
from tinygrad_cnn.core import Tensor, TensorLike, as_array, as_setting, as_tensor
from tinygrad_cnn.errors import DTypeError, SettingError, ShapeError
from tinygrad_cnn.names import accepting
from tinygrad_cnn.ops.declare import composed
from tinygrad_cnn.ops.elementwise import where
from tinygrad_cnn.ops.reduction import broadcast_to, mean, sum
from tinygrad_cnn.ops.shape import concatenate, expand_dims, pad, reshape

__all__ = ["chunk", "diag", "diagonal", "diff", "embedding", "flip", "gather", "median", "one_hot",
           "repeat", "roll", "sort", "split", "take", "take_along_axis", "tile", "topk", "trace",
           "tril", "triu"]


def _at(axis: int, item: object) -> tuple[Any, ...]:
    """The index of ``item`` along an axis."""
    return (*(slice(None),) * axis, item)


def _whole(owner: str, name: str, values: object) -> np.ndarray:
    """A setting that holds integers."""
    array = np.asarray(as_setting(values, owner, name))
    if array.dtype.kind not in "iu" and array.size:
        raise DTypeError(f"{owner}: {name} must hold integers, got {array.dtype}")
    return array.astype(np.int64)


def _list(owner: str, name: str, values: object) -> np.ndarray:
    """A setting that is an integer or a list of them, as a list."""
    array = _whole(owner, name, values)
    if array.ndim > 1:
        raise SettingError(f"{owner}: {name} must be an integer or a list of them, got {values!r}")
    return np.atleast_1d(array)


def order(x: Tensor, axis: int, descending: bool) -> np.ndarray:
    """The places of the entries in order; equal ones keep theirs, and NaN is the largest."""
    values = as_array(x)
    if not descending:
        return np.argsort(values, axis, kind="stable")
    back = np.argsort(np.flip(values, axis), axis, kind="stable")
    return np.flip(values.shape[axis] - 1 - back, axis)


# ---- order

@composed
def flip(x: TensorLike, axis: int | Sequence[int] | None = None) -> Tensor:
    """The entries in reverse order along these axes, or all.

    >>> flip(Tensor([1.0, 2.0, 3.0])).data
    array([3., 2., 1.], dtype=float32)
    """
    x = cast(Tensor, x)
    turned = checks.axes_tuple("flip", axis, x.shape)
    return x[tuple(slice(None, None, -1 if i in turned else None) for i in range(x.ndim))]


@composed
def roll(x: TensorLike, shift: int | Sequence[int],
         axis: int | Sequence[int] | None = None) -> Tensor:
    """The entries moved on by ``shift`` places; what leaves at the end comes in at the start.

    Without an axis the tensor is rolled as one line.

    >>> roll(Tensor([1.0, 2.0, 3.0]), 1).data
    array([3., 1., 2.], dtype=float32)
    """
    x = cast(Tensor, x)
    if axis is None:
        line = reshape(x, -1)
        for n in _list("roll", "shift", shift):
            line = roll(line, int(n), 0)
        return reshape(line, x.shape)
    shifts, axes = _list("roll", "shift", shift), _list("roll", "axis", axis)
    if len(shifts) != len(axes) and 1 not in (len(shifts), len(axes)):
        raise SettingError(f"roll: shift {shift!r} and axis {axis!r} must have one length")
    shifts, axes = np.broadcast_arrays(shifts, axes)
    for n, i in zip(shifts.tolist(), axes.tolist(), strict=True):
        i = checks.axis_index("roll", i, x.shape)
        if x.shape[i] and n % x.shape[i]:
            cut = x.shape[i] - n % x.shape[i]
            x = concatenate([x[_at(i, slice(cut, None))], x[_at(i, slice(0, cut))]], i)
    return x


@composed
def sort(x: TensorLike, axis: int | None = -1, descending: bool = False) -> Tensor:
    """The entries in rising order along an axis; equal ones keep their order, NaN is the largest.

    >>> sort(Tensor([3.0, 1.0, 2.0])).data
    array([1., 2., 3.], dtype=float32)
    """
    x = cast(Tensor, x)
    if axis is None:
        x, axis = reshape(x, -1), 0
    axis = checks.axis_index("sort", axis, x.shape)
    return take_along_axis(x, order(x, axis, checks.flag("sort", "descending", descending)), axis)


@composed
def topk(x: TensorLike, k: int, axis: int = -1, largest: bool = True) -> tuple[Tensor, np.ndarray]:
    """The k largest (or smallest) entries along an axis, in order, and where they stand.

    NaN is the largest, as in PyTorch.

    >>> values, places = topk(Tensor([1.0, 3.0, 2.0]), 2)
    >>> values.data, places
    (array([3., 2.], dtype=float32), array([1, 2]))
    """
    x = cast(Tensor, x)
    axis = checks.axis_index("topk", axis, x.shape)
    k = checks.integer("topk", "k", k, minimum=0)
    if k > x.shape[axis]:
        raise SettingError(f"topk: k is {k}, and axis {axis} of {x.shape} has {x.shape[axis]} "
                           "entries")
    places = order(x, axis, checks.flag("topk", "largest", largest))[_at(axis, slice(0, k))]
    return take_along_axis(x, places, axis), places


@composed
def median(x: TensorLike, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The middle entry in order, or the mean of the two in the middle; NaN if one entry is NaN.

    >>> median(Tensor([3.0, 1.0, 2.0, 10.0])).item()
    2.5
    """
    x = cast(Tensor, x)
    shape = x.shape
    if axis is None:
        x, axis = reshape(x, -1), 0
        shape = (1,) * len(shape)
    axis = checks.axis_index("median", axis, x.shape)
    size = x.shape[axis]
    if not size:
        raise ShapeError(f"median: axis {axis} of {x.shape} is empty")
    checks.floats("median", "x", x.dtype)
    values, middle = as_array(x), range((size - 1) // 2, size // 2 + 1)
    places = np.argpartition(values, middle, axis)[_at(axis, slice(middle[0], middle[-1] + 1))]
    missing = np.isnan(values)
    if missing.any():
        places = np.where(missing.any(axis, keepdims=True), missing.argmax(axis, keepdims=True),
                          places)
    y = mean(take_along_axis(x, places, axis), axis, keepdims)
    return reshape(y, shape) if keepdims and x.ndim != len(shape) else y


# ---- parts

@composed
def split(x: TensorLike, sections: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """Cut into equal parts, or before the entries that ``sections`` lists, as `numpy.split` does.

    PyTorch's ``split`` takes the *size* of the parts: ``chunk`` takes their number.

    >>> [part.data.tolist() for part in split(Tensor([1.0, 2.0, 3.0, 4.0]), 2)]
    [[1.0, 2.0], [3.0, 4.0]]
    """
    x = cast(Tensor, x)
    axis = checks.axis_index("split", axis, x.shape)
    size = x.shape[axis]
    if isinstance(sections, (int, np.integer)):
        parts = checks.integer("split", "sections", sections, minimum=1)
        if size % parts:
            raise ShapeError(f"split: axis {axis} of {x.shape} has {size} entries, which is not "
                             f"divisible by sections={parts}; chunk cuts into unequal parts")
        cuts = [size // parts * i for i in range(1, parts)]
    else:
        cuts = _list("split", "sections", sections).tolist()
    edges = [0, *cuts, size]
    return [x[_at(axis, slice(low, high))] for low, high in zip(edges, edges[1:], strict=False)]


@composed
def chunk(x: TensorLike, chunks: int, axis: int = 0) -> list[Tensor]:
    """Cut into parts of one size, the last of which may be smaller, as in PyTorch.

    >>> [part.data.tolist() for part in chunk(Tensor([1.0, 2.0, 3.0]), 2)]
    [[1.0, 2.0], [3.0]]
    """
    x = cast(Tensor, x)
    axis = checks.axis_index("chunk", axis, x.shape)
    size = -(-x.shape[axis] // checks.integer("chunk", "chunks", chunks, minimum=1))
    return split(x, list(range(size, x.shape[axis], size)) if size else [], axis)


@composed
def tile(x: TensorLike, reps: int | Sequence[int]) -> Tensor:
    """The tensor repeated as a whole, ``reps`` times along each axis.

    >>> tile(Tensor([1.0, 2.0]), 2).data
    array([1., 2., 1., 2.], dtype=float32)
    """
    x = cast(Tensor, x)
    times = [checks.integer("tile", "reps", n, minimum=0)
             for n in _list("tile", "reps", reps).tolist()]
    times = [1] * (x.ndim - len(times)) + times
    shape = (1,) * (len(times) - x.ndim) + x.shape
    apart = [n for size in shape for n in (1, size)]
    wide = [n for r, size in zip(times, shape, strict=True) for n in (r, size)]
    return reshape(broadcast_to(reshape(x, apart), wide),
                   [r * size for r, size in zip(times, shape, strict=True)])


@composed
def repeat(x: TensorLike, repeats: int | Sequence[int], axis: int | None = None) -> Tensor:
    """Each entry repeated, as `numpy.repeat` and PyTorch's ``repeat_interleave`` do.

    PyTorch's ``Tensor.repeat`` repeats the whole: that is `tile`.

    >>> repeat(Tensor([1.0, 2.0]), 2).data
    array([1., 1., 2., 2.], dtype=float32)
    """
    x = cast(Tensor, x)
    if axis is None:
        x, axis = reshape(x, -1), 0
    axis = checks.axis_index("repeat", axis, x.shape)
    times = _list("repeat", "repeats", repeats)
    if times.size and times.min() < 0:
        raise SettingError(f"repeat: repeats must be 0 or more, got {repeats!r}")
    if times.size not in (1, x.shape[axis]):
        raise ShapeError(f"repeat: repeats has {times.size} entries, axis {axis} of {x.shape} has "
                         f"{x.shape[axis]}")
    return x[_at(axis, np.repeat(np.arange(x.shape[axis]), times))]


# ---- places

@composed
def take_along_axis(x: TensorLike, indices: ArrayLike, axis: int | None = -1) -> Tensor:
    """The entries at these places of each line along an axis, as in NumPy.

    >>> take_along_axis(Tensor([[1.0, 2.0], [3.0, 4.0]]), [[1], [0]], axis=1).data
    array([[2.],
           [3.]], dtype=float32)
    """
    x = cast(Tensor, x)
    places = _whole("take_along_axis", "indices", indices)
    if axis is None:
        x, axis = reshape(x, -1), 0
    axis = checks.axis_index("take_along_axis", axis, x.shape)
    if places.ndim != x.ndim:
        raise ShapeError(f"take_along_axis: indices has {places.ndim} axes, x has {x.ndim}")
    _within("take_along_axis", places, x.shape[axis], axis)
    grid = np.ogrid[tuple(slice(0, n) for n in x.shape)] if x.ndim else []
    index = [places if i == axis else grid[i] for i in range(x.ndim)]
    return x[tuple(index)]


@composed
def gather(x: TensorLike, axis: int, index: ArrayLike) -> Tensor:
    """The entries at these places of each line along an axis, as in PyTorch.

    Along the other axes ``index`` may be shorter than x.

    >>> gather(Tensor([[1.0, 2.0], [3.0, 4.0]]), 1, [[1], [0]]).data
    array([[2.],
           [3.]], dtype=float32)
    """
    x = cast(Tensor, x)
    axis = checks.axis_index("gather", axis, x.shape)
    places = _whole("gather", "index", index)
    if places.ndim != x.ndim or any(n > m for i, (n, m) in enumerate(
            zip(places.shape, x.shape, strict=True)) if i != axis):
        raise ShapeError(f"gather: index {places.shape} must have the axes of x, {x.shape}, and be "
                         f"no longer than it except along axis {axis}")
    return take_along_axis(x[tuple(slice(None) if i == axis else slice(0, n)
                                   for i, n in enumerate(places.shape))], places, axis)


def _within(owner: str, places: np.ndarray, size: int, axis: int) -> None:
    if places.size and not -size <= places.min() <= places.max() < size:
        worst = places.max() if places.max() >= size else places.min()
        raise ShapeError(f"{owner}: index {worst} is out of range for axis {axis} of {size} "
                         "entries")


@composed
def take(x: TensorLike, indices: ArrayLike, axis: int | None = None) -> Tensor:
    """The slices at these places along an axis; without one, of the tensor as one line.

    >>> take(Tensor([10.0, 20.0, 30.0]), [2, 0]).data
    array([30., 10.], dtype=float32)
    """
    x = cast(Tensor, x)
    if axis is None:
        x, axis = reshape(x, -1), 0
    axis = checks.axis_index("take", axis, x.shape)
    places = _whole("take", "indices", indices)
    _within("take", places, x.shape[axis], axis)
    return x[_at(axis, places)]


@composed
def embedding(indices: ArrayLike, w: TensorLike) -> Tensor:
    """Row ``w[i]`` for each integer i; the gradient of a row is the sum over its uses.

    >>> embedding([1, 1, 0], Tensor([[1.0, 2.0], [3.0, 4.0]])).data
    array([[3., 4.],
           [3., 4.],
           [1., 2.]], dtype=float32)
    """
    w = cast(Tensor, w)
    if w.ndim != 2:
        raise ShapeError(f"embedding: w must be (number of rows, size), got {w.shape}")
    places = _whole("embedding", "indices", indices)
    if places.size and not 0 <= places.min() <= places.max() < w.shape[0]:
        worst = places.max() if places.max() >= w.shape[0] else places.min()
        raise ShapeError(f"embedding: index {worst} is out of range for {w.shape[0]} rows")
    return w[places]


@accepting
def one_hot(labels: ArrayLike, num_classes: int | None = None) -> np.ndarray:
    """1 at each label and 0 elsewhere, as float32: an array of one axis more.

    >>> one_hot([0, 2], 3)
    array([[1., 0., 0.],
           [0., 0., 1.]], dtype=float32)
    """
    places = _whole("one_hot", "labels", labels)
    least = int(places.max(initial=-1)) + 1
    classes = least if num_classes is None else checks.integer("one_hot", "num_classes",
                                                               num_classes, minimum=1)
    if places.size and (places.min() < 0 or least > classes):
        worst = places.min() if places.min() < 0 else places.max()
        raise SettingError(f"one_hot: label {worst} is none of the classes 0 to {classes - 1}")
    rows = np.zeros((*places.shape, classes), np.float32)
    np.put_along_axis(rows, places[..., None], 1, -1)
    return rows


# ---- diagonals and triangles

def _triangle(owner: str, x: TensorLike, k: int, mask: Callable[..., np.ndarray]) -> Tensor:
    x = as_tensor(x, owner)
    if x.ndim < 2:
        raise ShapeError(f"{owner}: x needs two axes or more, got {x.shape}")
    return where(mask(*x.shape[-2:], checks.integer(owner, "k", k)), x, np.zeros((), x.dtype))


@composed
def tril(x: TensorLike, k: int = 0) -> Tensor:
    """The entries of the last two axes on and below the k-th diagonal, 0 above.

    >>> tril(Tensor([[1.0, 2.0], [3.0, 4.0]])).data
    array([[1., 0.],
           [3., 4.]], dtype=float32)
    """
    return _triangle("tril", x, k, lambda n, m, k: np.tri(n, m, k, bool))


@composed
def triu(x: TensorLike, k: int = 0) -> Tensor:
    """The entries of the last two axes on and above the k-th diagonal, 0 below.

    >>> triu(Tensor([[1.0, 2.0], [3.0, 4.0]])).data
    array([[1., 2.],
           [0., 4.]], dtype=float32)
    """
    return _triangle("triu", x, k, lambda n, m, k: ~np.tri(n, m, k - 1, bool))


@composed
def diagonal(x: TensorLike, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """The entries x[…, i, i + offset, …] of two axes, as the last axis.

    >>> diagonal(Tensor([[1.0, 2.0], [3.0, 4.0]])).data
    array([1., 4.], dtype=float32)
    """
    x = cast(Tensor, x)
    if x.ndim < 2:
        raise ShapeError(f"diagonal: x needs two axes or more, got {x.shape}")
    offset = checks.integer("diagonal", "offset", offset)
    first = checks.axis_index("diagonal", axis1, x.shape, name="axis1")
    second = checks.axis_index("diagonal", axis2, x.shape, name="axis2")
    if first == second:
        raise SettingError(f"diagonal: axis1 and axis2 are both axis {first} of {x.shape}")
    lines = np.diagonal(np.arange(x.size).reshape(x.shape), offset, first, second)
    return reshape(x, -1)[np.ascontiguousarray(lines)]


@composed
def diag(x: TensorLike, k: int = 0) -> Tensor:
    """The k-th diagonal of a matrix, or the matrix that has a vector as its k-th diagonal.

    >>> diag(Tensor([1.0, 2.0])).data
    array([[1., 0.],
           [0., 2.]], dtype=float32)
    """
    x = cast(Tensor, x)
    k = checks.integer("diag", "k", k)
    if x.ndim == 2:
        return diagonal(x, k)
    if x.ndim != 1:
        raise ShapeError(f"diag: x must have one or two axes, got {x.shape}")
    rows = broadcast_to(expand_dims(x, 0), (x.size, x.size))
    above, below = builtins.max(k, 0), builtins.max(-k, 0)
    square = where(np.eye(x.size, dtype=bool), rows, np.zeros((), x.dtype))
    return pad(square, ((below, above), (above, below)))


@composed
def trace(x: TensorLike, offset: int = 0) -> Tensor:
    """The sum of a diagonal of the first two axes.

    >>> trace(Tensor([[1.0, 2.0], [3.0, 4.0]])).item()
    5.0
    """
    return sum(diagonal(x, offset), -1)


@composed
def diff(x: TensorLike, n: int = 1, axis: int = -1, prepend: TensorLike | None = None,
         append: TensorLike | None = None) -> Tensor:
    """The differences of neighbors along an axis, n times, after joining what is given to it.

    >>> diff(Tensor([1.0, 4.0, 9.0])).data
    array([3., 5.], dtype=float32)
    """
    x = cast(Tensor, x)
    axis = checks.axis_index("diff", axis, x.shape)
    if x.dtype.kind == "b":
        raise DTypeError("diff: x is bool, which has no differences; cast it: x.astype(np.float32)")
    n = checks.integer("diff", "n", n, minimum=0)
    if n and (prepend is not None or append is not None):
        edge = (*x.shape[:axis], 1, *x.shape[axis + 1:])
        parts = [cast(Tensor, part) for part in (prepend, x, append) if part is not None]
        x = concatenate([part if part.ndim else broadcast_to(part, edge) for part in parts], axis)
    for _ in range(n):
        x = x[_at(axis, slice(1, None))] - x[_at(axis, slice(0, -1))]
    return x
