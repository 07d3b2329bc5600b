"""The user's value: a handle on an array and on the node that made it.

The values of a tensor are its own.  Inside, arrays are shared: a node keeps the arrays that its
rules read, and a reshape looks at the memory of its input.  So an array is copied before anybody
may write to what somebody else reads (`writable`), or before it is kept by somebody else while the
user can still write to it (`shared`).

Operators and methods find what they call in ``FUNCTIONS``, so this file need not know
``tinygrad_cnn.ops``.
"""

from __future__ import annotations

import warnings
from array import array as buffer
from collections import UserList, deque
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from sys import getrefcount
from types import EllipsisType
from typing import (
    TYPE_CHECKING,
    Any,
    NoReturn,
    Self,
    SupportsIndex,
    TypeAlias,
    TypeVar,
    Unpack,
    cast,
)
from weakref import ref

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from tinygrad_cnn.checks import flag
from tinygrad_cnn.core.backward import backward_pass
from tinygrad_cnn.core.graph import EXPOSED, READ_ONLY, SHARED, Key, Node, _state, is_grad_enabled
from tinygrad_cnn.core.op import FUNCTIONS
from tinygrad_cnn.errors import DTypeError, GradientError, ShapeError
from tinygrad_cnn.names import accepting
from tinygrad_cnn.shapes import Shape
from tinygrad_cnn.types import Array, DType, Function

if TYPE_CHECKING:
    from tinygrad_cnn.viz import Figure
    from tinygrad_cnn.viz.figure import Settings as Style

__all__ = ["Detached", "Parameter", "Tensor", "TensorLike", "as_array", "as_dtype", "as_setting",
           "as_tensor", "refuse_tensors_inside", "shared", "source_of", "standing_for", "tensor",
           "with_own_dtype", "writable"]

Index: TypeAlias = "slice | EllipsisType | ArrayLike | tuple[object, ...] | None"
T = TypeVar("T", bound="Tensor")
# What stands for a method until ``ops/methods.py`` makes it, by what it gives.
_method: Callable[..., Tensor]
_list_method: Callable[..., list[Tensor]]
_array_method: Function                         # what has no gradient gives plain values
_method = _list_method = _array_method = LATER = lambda x: NotImplemented

_new: Any = object.__new__
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def _new_array(data: object, dtype: DTypeLike | None, op: str, *, copy: bool = True) -> Array:
    """``data`` in a dtype that tensors take; numbers and lists become float32."""
    if isinstance(data, Tensor):
        raise DTypeError(f"{op}: data is a Tensor already; use .detach() for one without history")
    refuse_tensors_inside(data, op)
    data = with_own_dtype(data)
    known = isinstance(data, (np.ndarray, np.generic))
    try:
        array = np.array(data, dtype if known else None, copy=copy or None)
    except ValueError as error:
        raise ShapeError(f"{op}: the rows of data have unequal lengths ({error})") from None
    if array.dtype.kind not in "fiub" or (array.dtype.kind == "f"
                                          and array.dtype.newbyteorder("=") not in _FLOATS):
        if array.dtype.kind in "OSUVMmT":
            raise DTypeError(f"{op}: data must be numbers, got {_kind_of(data)}")
        raise DTypeError(f"{op}: dtype {array.dtype} is not supported; "
                         "use float32 or float64 (integers and booleans are not differentiable)")
    if not known and dtype is not None:
        return array.astype(dtype, copy=False)
    if not known and array.dtype.kind != "b":
        return array.astype(np.float32)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def with_own_dtype(value: object) -> Any:
    """An array, if ``value`` brings a dtype: arrays of other libraries do, and so do buffers."""
    if isinstance(value, (np.ndarray, np.generic, Tensor)) or not (
            hasattr(value, "__array__") or isinstance(value, (memoryview, buffer))):
        return value
    return np.asarray(value)


def refuse_tensors_inside(value: object, op: str) -> None:
    """Refuse a sequence that holds tensors, and an array whose mask NumPy would drop."""
    if isinstance(value, (list, tuple, deque, UserList)):
        for x in value:
            if isinstance(x, Tensor):
                raise GradientError(f"{op}: a {type(value).__name__} that holds tensors has no "
                                    "gradient; join them first: stack([...]), or concatenate")
            refuse_tensors_inside(x, op)
    elif isinstance(value, np.ma.MaskedArray):
        raise DTypeError(f"{op}: a masked array would lose its mask; fill it first: "
                         "array.filled(0.0), and use where() with the mask")


class _Size(int):
    """A number of values, which PyTorch's users call: that gives the shape there."""

    def __call__(self, axis: int | None = None) -> NoReturn:
        raise TypeError("size is NumPy's: the number of values; the sizes of the axes are x.shape"
                        + ("" if axis is None else f", and of this one x.shape[{axis}]"))


class Tensor:
    """An array that remembers how it was computed.

    Parameters
    ----------
    data : array_like
        Copied.  NumPy arrays keep their dtype; Python numbers and lists become float32.
    requires_grad : bool, default False
        Whether `backward` fills ``grad``.  Only float32 and float64 can.
    name : str, optional
        What drawings and errors call it.

    Attributes
    ----------
    data : ndarray
        The values, to read or to write in place.  Each tensor's values are its own: writing changes
        no other tensor, and not what a recorded graph has kept for its backward pass.
    grad : Tensor or None
        The gradient, summed over backward passes until it is set to None.
    node : Node or None
        The application of an op that made this tensor; None for a leaf.

    Raises
    ------
    DTypeError
        If the dtype is not float32, float64, integer or boolean, or an integer asks for a gradient.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> loss = (x * x).sum()
    >>> loss.backward()
    >>> x.grad.data
    array([2., 4.], dtype=float32)
    """

    _hooks: dict[object, Function]  # of a leaf, where there are some
    _source: ref[object]        # where it is set, what this tensor stands for: see `source_of`
    _when_filled: Function      # of a leaf, where `backward` calls something at its end
    __slots__ = ("__weakref__", "_access", "_data", "_grad", "_hooks", "_requires_grad", "_source",
                 "_when_filled", "name", "node")

    def __init__(self, data: TensorLike, requires_grad: bool = False,
                 name: str | None = None) -> None:
        self._data: Array = _new_array(data, None, "Tensor")
        self._access = SHARED
        self._requires_grad = _may_require(self._data, requires_grad, "Tensor", "data")
        self.node: Node | None = None
        self._grad: Tensor | None = None
        self.name = name

    # ---- what it is

    @property
    def data(self) -> Array:
        """The values, to read or to write in place."""
        if self._access == READ_ONLY:
            return self.numpy()
        # Said before it is done: an op in another thread then copies the array, or is seen here.
        before, self._access = self._access, EXPOSED
        if before == SHARED and not (_alone(self) and self._data.flags.writeable):
            self._data = self._data.copy()
        return self._data

    @data.setter
    def data(self, values: TensorLike) -> None:
        if values is self._data:                # what `x.data -= y` ends with
            return
        if self._access == READ_ONLY:
            raise GradientError("data: a backward rule must not change what it is given; "
                                "compute a new tensor instead")
        if isinstance(values, Tensor):
            raise DTypeError("data: the values are an array, got a Tensor; write x.data = y.data, "
                             "or x.data -= rate * x.grad.data")
        array = _new_array(values, None, "data")
        if array.shape != self._data.shape or array.dtype != self._data.dtype:
            raise ShapeError(f"data: the tensor is {self._data.dtype} {self._data.shape} and the "
                             f"values are {array.dtype} {array.shape}; a tensor keeps its shape "
                             "and dtype: make a new one")
        self._data = array
        self._access = SHARED

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient is wanted; of a leaf it may be set."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, requires_grad: bool) -> None:
        self.requires_grad_(requires_grad)

    @property
    def grad(self) -> Tensor | None:
        """The gradient of a leaf, summed over backward passes until it is set to None.

        Asking a tensor that an op has made is a `UserWarning`, unless `retain_grad` keeps it there.
        """
        if self._grad is None and self.node is not None and self.node.op.name != "hooks":
            warnings.warn(f"grad: this tensor was made by the op {self.node.op.name}, and backward "
                          "leaves gradients in leaves only; call x.retain_grad() before it, or take"
                          " tc.grad(loss, [x])", UserWarning, stacklevel=2)
        return self._grad

    @grad.setter
    def grad(self, gradient: Tensor | None) -> None:
        if gradient is not None:
            if not isinstance(gradient, Tensor):
                raise DTypeError(f"grad: a gradient is a Tensor or None, got {_kind_of(gradient)}; "
                                 "write x.grad = Tensor(array), or x.grad = None to start afresh")
            if gradient.shape != self.shape or gradient.dtype != self.dtype:
                raise GradientError(f"grad: the tensor is {self.dtype} {self.shape} but its "
                                    f"gradient {gradient.dtype} {gradient.shape}; it needs the "
                                    "same shape and dtype")
        self._grad = gradient

    @property
    def shape(self) -> Shape:
        """Sizes of the axes."""
        return self._data.shape

    @property
    def dtype(self) -> DType:
        """The dtype of the values."""
        return self._data.dtype

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return self._data.ndim

    @property
    def size(self) -> int:
        """How many values there are."""
        return _Size(self._data.size)

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded op made this tensor."""
        return self.node is None

    @property
    def T(self) -> Tensor:  # noqa: N802 - NumPy's name
        """The tensor with its axes reversed."""
        return _call("transpose", self)

    @property
    def mT(self) -> Tensor:  # noqa: N802 - NumPy's name
        """The tensor with its last two axes swapped."""
        if self.ndim < 2:
            raise ShapeError(f"mT: a matrix has two axes, the tensor has shape {self.shape}")
        return self.swapaxes(-1, -2)

    @property
    def itemsize(self) -> int:
        """Bytes of one value."""
        return self._data.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return self._data.nbytes

    def __len__(self) -> int:
        if not self._data.ndim:
            raise TypeError("len: a tensor without axes has no length; its value is x.item()")
        return len(self._data)

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.__getitem__, range(len(self)))

    def __contains__(self, value: object) -> bool:
        if not self._data.ndim:
            raise TypeError("in: a tensor without axes holds nothing; compare it: x == value")
        return bool((self == value).any())

    def __bool__(self) -> bool:
        if self._data.size != 1:
            raise ShapeError(f"bool: a tensor of shape {self.shape} is neither true nor false; "
                             "use .data.any() or .data.all()")
        return bool(self._data.reshape(()))

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __round__(self, digits: int | None = None) -> float:
        return round(self.item(), digits)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    # ---- copies: the values of a copy are its own, and a graph stays with the tensor it led to

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[object, ...]:
        if self.node is not None:
            raise GradientError(f"copy: the op {self.node.op.name} made this tensor, and its graph "
                                "is not copied or pickled; copy tensor.detach(), or the leaves")
        return super().__reduce_ex__(protocol)

    def __getstate__(self) -> object:
        state: Any = super().__getstate__()
        instance, slots = state
        slots.pop("_source", None)
        slots.pop("_hooks", None)
        slots.pop("_when_filled", None)
        return instance, {**slots, "_data": shared(self), "_access": SHARED}

    def __repr__(self) -> str:
        values = np.array2string(self._data, separator=", ", prefix="Tensor(", threshold=20)
        facts = [f"dtype={self._data.dtype}"]
        if self._data.size > 20:
            facts.insert(0, f"shape={self.shape}")
        if self.node is not None:
            facts.append(f"op={self.node.op.name}")
        elif self.requires_grad:
            facts.append("requires_grad=True")
        if self.name:
            facts.append(f"name={self.name!r}")
        return f"{type(self).__name__}({values}, {', '.join(facts)})"

    # ---- leaving and entering the graph

    def backward(self, gradient: TensorLike | None = None, *, retain_graph: bool = False,
                 create_graph: bool = False) -> None:
        """Add the gradients of this tensor to ``grad`` of every leaf that it depends on.

        Parameters
        ----------
        gradient : array_like, optional
            The cotangent of this tensor, of its shape; 1 if the tensor has one element.
        retain_graph : bool, default False
            Keep the graph for another pass; otherwise each node is freed as it is passed.
        create_graph : bool, default False
            Record the pass itself, so that gradients can be differentiated.  A leaf's ``grad`` then
            refers back to the leaf: set it to None when done, or use `grad`, which makes no cycle.

        Raises
        ------
        GradientError
            If nothing was recorded, or ``gradient`` is missing for more than one element.
        GraphFreedError
            If an earlier pass has freed the graph.
        ShapeError, DTypeError
            If ``gradient`` does not have the shape or the dtype of this tensor.

        Examples
        --------
        >>> w = Tensor([3.0], requires_grad=True)
        >>> (w * w).sum().backward()
        >>> w.grad.data
        array([6.], dtype=float32)
        """
        found = gradients_of(self, gradient, "backward", create_graph=create_graph,
                             retain_graph=retain_graph)
        filled: dict[Function, None] = {}
        for leaf, part in found.items():
            if isinstance(leaf, Tensor):
                if function := getattr(leaf, "_when_filled", None):
                    filled[function] = None
                if hooks := getattr(leaf, "_hooks", None):
                    part = FUNCTIONS["pass_hooks"](part if create_graph else part._data, hooks)
                    part = part if create_graph else _wrap(part, False, None)
                before = leaf._grad
                leaf._grad = part if before is None else _sum(before, part, create_graph)
        for function in filled:                         # once, however many leaves it is set for
            function()

    def detach(self) -> Tensor:
        """The same values without history."""
        plain = _wrap(shared(self), False, None)
        plain._source = Detached(self if self.node is None else self.node)
        return plain

    def numpy(self) -> Array:
        """The values at this time, read-only; they are copied only if you hold ``data``."""
        view = shared(self).view()
        view.flags.writeable = False
        return view

    def item(self) -> float:
        """The one value as a Python number."""
        if self._data.size != 1:
            raise ShapeError(f"item: a tensor of shape {self.shape} holds {self.size} values, "
                             "not one; index it, or use .numpy()")
        return self._data.item()

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Switch whether this leaf collects a gradient; returns the tensor itself."""
        if self.node is not None:
            raise GradientError("requires_grad_: only a leaf can be switched; use .detach() first")
        self._requires_grad = _may_require(self._data, requires_grad, "requires_grad_", "tensor")
        return self

    def graph(self, **settings: Unpack[Style]) -> Figure:
        """Draw the graph that led to this tensor; see ``tinygrad_cnn.viz``."""
        from tinygrad_cnn import viz  # the one look upwards: drawing is an afterthought of a tensor
        return viz.graph(self, **settings)

    def _repr_html_(self) -> str:
        from tinygrad_cnn.viz.html import tensor_html

        return tensor_html(self)

    # ---- NumPy

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        if dtype is not None and np.dtype(dtype) != self._data.dtype:
            if copy is False:
                raise ValueError(f"a view as {np.dtype(dtype)} of a tensor of {self._data.dtype} "
                                 "cannot be made without a copy")
            return self._data.astype(dtype)
        return self._data.copy() if copy else self.numpy()

    def __array_ufunc__(self, ufunc: object, method: str, *inputs: object,
                        **kwargs: object) -> object:
        function = FUNCTIONS.get(ufunc)
        if function is not None and method == "__call__" and not kwargs:
            return function(*inputs)
        return FUNCTIONS["array_ufunc"](ufunc, method, inputs, kwargs)

    def __array_function__(self, function: object, types: object, args: tuple[object, ...],
                           kwargs: dict[str, object]) -> object:
        own = FUNCTIONS.get(function)
        return own(*args, **kwargs) if own else FUNCTIONS["array_function"](function, args, kwargs)

    @property
    def _mask(self) -> NoReturn:
        """What functions of ``numpy.ma``, which never ask a tensor, look for in their operands."""
        if self._requires_grad and is_grad_enabled():
            raise GradientError("numpy.ma: a masked array has no gradient; fill it first: "
                                "array.filled(0.0), and use where() with the mask; for plain "
                                "values pass tensor.numpy()")
        raise AttributeError("_mask")

    # ---- operators

    def __add__(self, other: TensorLike) -> Tensor: return FUNCTIONS["add"](self, other)
    def __radd__(self, other: TensorLike) -> Tensor: return FUNCTIONS["add"](other, self)
    def __sub__(self, other: TensorLike) -> Tensor: return FUNCTIONS["sub"](self, other)
    def __rsub__(self, other: TensorLike) -> Tensor: return FUNCTIONS["sub"](other, self)
    def __mul__(self, other: TensorLike) -> Tensor: return FUNCTIONS["mul"](self, other)
    def __rmul__(self, other: TensorLike) -> Tensor: return FUNCTIONS["mul"](other, self)
    def __truediv__(self, other: TensorLike) -> Tensor: return FUNCTIONS["div"](self, other)
    def __rtruediv__(self, other: TensorLike) -> Tensor: return FUNCTIONS["div"](other, self)
    def __pow__(self, other: TensorLike) -> Tensor: return FUNCTIONS["power"](self, other)
    def __rpow__(self, other: TensorLike) -> Tensor: return FUNCTIONS["power"](other, self)
    def __matmul__(self, other: TensorLike) -> Tensor: return FUNCTIONS["matmul"](self, other)
    def __rmatmul__(self, other: TensorLike) -> Tensor: return FUNCTIONS["matmul"](other, self)
    def __neg__(self) -> Tensor: return FUNCTIONS["neg"](self)
    def __pos__(self) -> Tensor: return self
    def __mod__(self, other: TensorLike) -> Tensor: return FUNCTIONS["remainder"](self, other)
    def __rmod__(self, other: TensorLike) -> Tensor: return FUNCTIONS["remainder"](other, self)
    def __floordiv__(self, other: TensorLike) -> Array: return np.floor_divide(self, other)
    def __rfloordiv__(self, other: TensorLike) -> Array: return np.floor_divide(other, self)
    def __abs__(self) -> Tensor: return FUNCTIONS["abs"](self)
    def __getitem__(self, index: Index) -> Tensor: return FUNCTIONS["getitem"](self, index)

    # Comparisons have no gradient: they give plain boolean arrays.
    def __eq__(self, other: object) -> Array:           # type: ignore[override]
        return _compare(np.equal, self, other)
    def __ne__(self, other: object) -> Array:           # type: ignore[override]
        return _compare(np.not_equal, self, other)
    def __lt__(self, other: TensorLike) -> Array: return _compare(np.less, self, other)
    def __le__(self, other: TensorLike) -> Array: return _compare(np.less_equal, self, other)
    def __gt__(self, other: TensorLike) -> Array: return _compare(np.greater, self, other)
    def __ge__(self, other: TensorLike) -> Array: return _compare(np.greater_equal, self, other)

    __hash__ = object.__hash__

    # A leaf that collects a gradient changes in place, and only where nothing is recorded; every
    # other tensor becomes a new one.
    def __iadd__(self, other: TensorLike) -> Self: return _in_place("add", "+=", self, other)
    def __isub__(self, other: TensorLike) -> Self: return _in_place("sub", "-=", self, other)
    def __imul__(self, other: TensorLike) -> Self: return _in_place("mul", "*=", self, other)
    def __itruediv__(self, other: TensorLike) -> Self: return _in_place("div", "/=", self, other)
    def __ipow__(self, other: TensorLike) -> Self: return _in_place("power", "**=", self, other)
    def __imatmul__(self, other: TensorLike) -> Self:
        return _in_place("matmul", "@=", self, other)

    def __setitem__(self, index: Index, value: object) -> NoReturn:
        raise GradientError("in-place assignment is not supported, since it has no gradient: build "
                            "a new tensor with where(), concatenate() or pad(); to change the "
                            "values of a leaf, write tensor.data[index] = value")

    # ---- methods: the function of the same name, or NumPy's, with the tensor in front.  They are
    # made in ``ops/methods.py``, since functions need a tensor first.

    abs = add = amax = amin = arctan = astype = broadcast_to = ceil = clamp = clip = _method
    clone = copy = cos = cosh = cumprod = cumsum = diag = diagonal = div = dot = erf = _method
    exp = expand = expand_as = expand_dims = expm1 = flatten = flip = floor = gather = _method
    log = log10 = log1p = log2 = log_softmax = logsumexp = masked_fill = matmul = max = _method
    maximum = mean = min = minimum = moveaxis = movedim = mul = neg = norm = permute = _method
    pow = power = prod = ravel = reciprocal = relu = repeat = repeat_interleave = reshape = _method
    roll = round = rsqrt = sigmoid = sign = sin = sinh = softmax = sqrt = square = _method
    squeeze = std = sub = sum = swapaxes = t = take = take_along_axis = tan = tanh = tile = _method
    trace = transpose = tril = triu = unsqueeze = var = view = where = _method
    chunk = unbind = _list_method
    all = allclose = any = argmax = argmin = argsort = dim = eq = ge = gt = _array_method
    isfinite = isinf = isnan = le = lt = ne = nonzero = register_hook = retain_grad = _array_method
    numel = tolist = topk = _array_method


# Of all that programs ask, this is asked the most: an answer without a Python call.
for _name in ("shape", "dtype", "ndim"):
    setattr(Tensor, _name, property(attrgetter(f"_data.{_name}"),
                                    doc=getattr(Tensor, _name).__doc__))


class Parameter(Tensor):
    """A leaf that is trained; modules collect it.

    Parameters
    ----------
    data : array_like
        Initial values, float32 or float64; copied.
    requires_grad : bool, default True
        False for one that is frozen.
    name : str, optional
        What drawings and errors call it.

    Raises
    ------
    DTypeError
        If the dtype is an integer or boolean.

    Examples
    --------
    >>> Parameter([1.0, 2.0], name="scale")
    Parameter([1., 2.], dtype=float32, requires_grad=True, name='scale')
    """

    __slots__ = ()

    def __init__(self, data: TensorLike, requires_grad: bool = True,
                 name: str | None = None) -> None:
        super().__init__(data, requires_grad, name)


@accepting
def tensor(data: TensorLike, *, dtype: DTypeLike | None = None, requires_grad: bool = False,
           name: str | None = None) -> Tensor:
    """Make a tensor from a copy of ``data``.

    Parameters
    ----------
    data : array_like
        NumPy arrays keep their dtype, Python numbers and lists become float32.
    dtype : dtype, optional
        Cast to this.
    requires_grad, name
        As in `Tensor`.

    Examples
    --------
    >>> tensor([1, 2], dtype=np.float64)
    Tensor([1., 2.], dtype=float64)
    """
    array = _new_array(data, None if dtype is None else as_dtype(dtype, "tensor"), "tensor")
    return Tensor(array, requires_grad, name)


def _may_require(array: Array, requires_grad: object, op: str, name: str) -> bool:
    """The flag ``requires_grad``; refused if it is no flag, or the values are no floats."""
    wanted = flag(op, "requires_grad", requires_grad)
    if wanted and array.dtype.kind != "f":
        raise DTypeError(f"{op}: {array.dtype} cannot require a gradient; "
                         f"cast it: {name}.astype(np.float32)")
    return wanted


def _wrap(data: Array, requires_grad: bool, node: Node | None) -> Tensor:
    """A tensor around an array that is known to be right: the quick way in."""
    t = _new(Tensor)
    t._data = data
    t._requires_grad = requires_grad
    t.node = node
    t._access = SHARED
    t._grad = None
    t.name = None
    return t


class Detached(ref[object]):
    """What the result of ``x.detach()`` refers to."""


def source_of(x: Tensor) -> ref[object]:
    """What tells whether two leaves are one: a reference to the tensor, node or array of the user.

    The engine puts tensors of its own in place of others: placeholders without values, casts, and
    tensors around arrays.  These refer to what they stand for.
    """
    found: ref[object] | None = getattr(x, "_source", None)
    return found or ref(x if x.node is None else x.node)


def standing_for(x: object, made: Tensor) -> Tensor:
    """``made``, which stands for the leaf or the array ``x`` of the user's."""
    if isinstance(x, Tensor):
        made._source, made.name = source_of(x), x.name
    elif isinstance(x, np.ndarray):
        made._source = ref(x)
    return made


# ---- who may write to an array -------------------------------------------------------------------

def writable(x: Tensor) -> Array:
    """The array of ``x`` for writing in place: first copied, if anybody else may read it."""
    if x._access != EXPOSED and not (_alone(x) and x._data.flags.writeable):
        x._data = x._data.copy()
    return x._data


def held(x: Tensor) -> bool:
    """Whether the user holds the array of ``x``, or a view of it, and may still write to it."""
    if x._access == EXPOSED and _alone(x):
        x._access = SHARED
        if not _alone(x):                       # another thread has asked for it meanwhile
            x._access = EXPOSED
    return x._access == EXPOSED


def shared(x: Tensor) -> Array:
    """The array of ``x`` for keeping: a copy, if the user may still write to it."""
    return x._data.copy() if held(x) else x._data


def _alone(x: Tensor) -> bool:
    """Whether nobody but ``x`` holds its array, and the array looks at nobody else's memory."""
    base = x._data.base
    return getrefcount(x._data) <= _ALONE and (
        base is None or getattr(base, "exclusive", False))      # memory that is used again


def _references(x: Tensor) -> int:
    return getrefcount(x._data)


_ALONE = _references(_wrap(np.empty(1), False, None))       # 2 in CPython: the slot and the call


def _in_place(name: str, sign: str, x: T, other: object) -> T:
    if x.node is not None or not x.requires_grad:
        return cast(T, _call(name, x, other))
    if is_grad_enabled():
        raise GradientError(f"a leaf that requires a gradient cannot be changed by {sign} while "
                            f"ops are recorded; write `with no_grad(): x {sign} ...`, or make a "
                            f"new tensor: x = x {sign[:-1]} ...")
    result = _call(name, x, other)._data
    if result.shape != x._data.shape:
        raise ShapeError(f"{sign}: the result has shape {result.shape}, the leaf {x._data.shape}; "
                         "a leaf keeps its shape")
    writable(x)[...] = result
    return x


def _call(name: str, *args: object, **settings: object) -> Tensor:
    result: Tensor = FUNCTIONS[name](*args, **settings)
    return result


def _compare(ufunc: np.ufunc, a: Tensor, b: Any) -> Array:
    if isinstance(b, str):                      # as in `padding == "same"`, if a tensor is given
        return NotImplemented
    b = b._data if isinstance(b, Tensor) else b
    try:
        return ufunc(a._data, b)
    except ValueError as error:
        what = f"{ufunc.__name__}: " + (f"shapes {a.shape} and {b.shape} do not broadcast"
                                        if hasattr(b, "shape") else f"{error}")
        raise ShapeError(what) from None


def as_tensor(value: object, op: str, name: str = "x") -> Tensor:
    """``value`` if it is a tensor; a tensor of it otherwise, or an error that names the input.

    Inside a first-order backward pass, where op functions give arrays, an array stays one.
    """
    if isinstance(value, Tensor):
        return value
    if _state.get().plain:
        return np.asarray(value)                # type: ignore[return-value]
    return standing_for(value, _exposed(_new_array(value, None, f"{op}: {name}", copy=False)))


def _exposed(array: Array) -> Tensor:
    """A tensor around an array that the user may hold: it is copied only if it is kept."""
    tensor = _wrap(array, False, None)
    tensor._access = EXPOSED
    return tensor


def as_dtype(value: DTypeLike, op: str) -> DType:
    """``value`` as a dtype, or an error that names the op."""
    try:
        # NumPy takes None for float64, and a pair, or what has a dtype, for a dtype too.
        if value is not None and not isinstance(value, (Tensor, tuple, list)):
            return np.dtype(value)
    except (TypeError, ValueError, SyntaxError):            # NumPy parses strings such as "(2,)f4"
        pass
    raise DTypeError(f"{op}: {value!r} is not a dtype; use np.float32 or np.float64")


def _kind_of(value: object) -> str:
    """What errors call a value that is refused: ``str``, ``ndarray of complex128``."""
    kind = type(value).__name__
    return f"{kind} of {value.dtype}" if isinstance(value, np.ndarray) else kind


def _not_numbers(op: str, name: str, value: object) -> DTypeError:
    return DTypeError(f"{op}: {name} must be a tensor, an array or a number, "
                      f"got {_kind_of(value)}")


def as_array(value: object) -> Array:
    """The plain values of a tensor or of anything array-like."""
    return value._data if isinstance(value, Tensor) else np.asarray(value)


def as_setting(value: object, op: str, name: str) -> Array:
    """The plain values of a setting; refused if a gradient would be lost."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            raise GradientError(f"{op}: {name} is not differentiable, but the tensor given "
                                f"requires a gradient; pass {name}.detach()"
                                + ", or the scores first if they are swapped" * (name == "labels"))
        return value._data
    refuse_tensors_inside(value, f"{op}: {name}")
    return np.asarray(value)


# ---- gradients of a recorded graph ---------------------------------------------------------------

def _cotangent_of(out: Tensor, gradient: object, who: str) -> Tensor:
    if not out.requires_grad:
        raise GradientError(f"{who}: nothing was recorded: the output depends on no tensor that "
                            "requires a gradient, or was computed under no_grad()")
    if gradient is None:
        if out._data.size != 1:
            raise GradientError(f"{who}: the output has shape {out.shape}, not one element; reduce "
                                "it with .sum() or .mean(), or pass gradient= of that shape")
        return _wrap(np.ones_like(out._data), False, None)
    if not isinstance(gradient, Tensor):
        gradient = _exposed(_converted(gradient, out._data.dtype, who, "gradient"))
    if gradient.shape != out.shape:
        raise ShapeError(f"{who}: gradient has shape {gradient.shape}, the output {out.shape}")
    if gradient.dtype != out.dtype:
        raise DTypeError(f"{who}: gradient is {gradient.dtype}, the output {out.dtype}; "
                         f"cast it: gradient.astype(np.{out.dtype})")
    return gradient


def gradients_of(out: Tensor, gradient: object, who: str, *, create_graph: bool, retain_graph: bool,
                 targets: Sequence[Tensor] | None = None) -> dict[Key, Tensor]:
    """The gradients that `backward_pass` finds, each a tensor of its own."""
    ct = _cotangent_of(out, gradient, who)
    found: dict[Key, Any] = backward_pass(
        out, ct if create_graph else shared(ct), retain_graph=retain_graph,
        wrap=_wrap if create_graph else None, targets=targets)
    if not create_graph:
        return {key: _wrap(part, False, None) for key, part in found.items()}
    seen = {id(ct)}
    for key, part in found.items():
        if id(part) in seen:                            # a rule passed on what it was given
            found[key] = part = _call("reshape", part, part.shape)
        seen.add(id(part))
    return found


def _sum(a: Tensor, b: Tensor, create_graph: bool) -> Tensor:
    return _call("add", a, b) if create_graph else _wrap(np.asarray(a._data + b._data), False, None)


def _converted(value: Any, dtype: DType, op: str, name: str) -> Array:
    """A value that is no tensor, in ``dtype``; other float arrays are refused."""
    refuse_tensors_inside(value, f"{op}: {name}")
    value = with_own_dtype(value)
    if isinstance(value, np.matrix):
        raise DTypeError(f"{op}: {name} is an np.matrix, whose * and ** mean matmul; pass "
                         f"np.asarray({name}), and write @ for matmul")
    if isinstance(value, np.ndarray) and value.ndim and value.dtype.kind == "f" \
            and value.dtype.newbyteorder("=") != dtype and dtype.kind != "c":
        raise DTypeError(f"{op}: {name} is an array of {value.dtype} among tensors of {dtype}; "
                         f"cast it: {name}.astype(np.{dtype})")
    try:
        array = np.asarray(value, dtype if isinstance(value, int) else None)
    except OverflowError:
        raise DTypeError(f"{op}: {name} is an integer of {int(value).bit_length()} bits, which "
                         f"{dtype} cannot hold; cast the tensor first: tensor.astype(np.int64), "
                         "or to a float dtype") from None
    except ValueError as error:
        raise ShapeError(f"{op}: the rows of {name} have unequal lengths ({error})") from None
    if array.dtype.kind not in ("fiubc" if dtype.kind == "c" else "fiub"):
        raise _not_numbers(op, name, value)
    return array.astype(dtype, copy=False)


TensorLike: TypeAlias = Tensor | ArrayLike
"""What is taken for a tensor: arrays, numbers and nested lists of numbers, too."""
