"""The user's value: a handle on an array and on the node that made it.

Operators and methods find what they call in ``FUNCTIONS``, so this file need not know
``tinygrad_cnn.ops``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.errors import DTypeError, GradientError, ShapeError
from tinygrad_cnn.graph import Node, cotangents
from tinygrad_cnn.op import FUNCTIONS
from tinygrad_cnn.shapes import Shape

__all__ = ["Parameter", "Tensor", "as_array", "as_dtype", "as_tensor", "tensor"]

Array = NDArray[Any]

_new: Any = object.__new__
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def _new_array(data: Any, dtype: Any, op: str) -> Array:
    """``data`` as an array of a dtype that tensors take; numbers and lists become float32."""
    if isinstance(data, Tensor):
        raise DTypeError(f"{op}: data is a Tensor already; use .detach() for one without history")
    if isinstance(data, (np.ndarray, np.generic)):
        array = np.asarray(data, dtype)
    else:
        try:
            array = np.asarray(data)
        except ValueError as error:
            raise ShapeError(f"{op}: the rows of data have unequal lengths ({error})") from None
        if dtype is not None:
            array = array.astype(dtype)
        elif array.dtype.kind in "fiub":
            array = array.astype(np.float32) if array.dtype.kind != "b" else array
    if array.dtype.kind in "OSUVMm":
        raise DTypeError(f"{op}: data must be numbers, got {_kind_of(data)}")
    if array.dtype.kind not in "fiub" or (array.dtype.kind == "f" and array.dtype not in _FLOATS):
        raise DTypeError(f"{op}: dtype {array.dtype} is not supported; "
                         "use float32 or float64 (integers and booleans carry no gradient)")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


class Tensor:
    """An array that remembers how it was computed.

    Parameters
    ----------
    data : array_like
        NumPy arrays keep their dtype and are not copied; Python numbers and lists become float32.
    requires_grad : bool, default False
        Whether `backward` fills ``grad``.  Only float32 and float64 can.
    name : str, optional
        What drawings and errors call it.

    Attributes
    ----------
    data : ndarray
        The values.
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

    __slots__ = ("__weakref__", "data", "grad", "name", "node", "requires_grad")

    def __init__(self, data: Any, requires_grad: bool = False, name: str | None = None) -> None:
        self.data: Array = _new_array(data, None, "Tensor")
        if requires_grad and self.data.dtype.kind != "f":
            raise DTypeError(f"Tensor: {self.data.dtype} cannot require a gradient; "
                             "cast it: data.astype(np.float32)")
        self.requires_grad = bool(requires_grad)
        self.node: Node | None = None
        self.grad: Tensor | None = None
        self.name = name

    # ---- what it is

    @property
    def shape(self) -> Shape:
        """Sizes of the axes."""
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return self.data.ndim

    @property
    def size(self) -> int:
        """How many values there are."""
        return self.data.size

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded op made this tensor."""
        return self.node is None

    @property
    def T(self) -> Tensor:  # noqa: N802 - NumPy's name
        """The tensor with its axes reversed."""
        return _call("transpose", self)

    def __len__(self) -> int:
        if not self.data.ndim:
            raise ShapeError("len: a tensor without axes has no length")
        return len(self.data)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        if self.data.size != 1:
            raise ShapeError(f"bool: a tensor of shape {self.shape} is neither true nor false; "
                             "use .data.any() or .data.all()")
        return bool(self.data.reshape(()))

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __repr__(self) -> str:
        values = np.array2string(self.data, separator=", ", prefix="Tensor(", threshold=20)
        facts = [f"dtype={self.data.dtype}"]
        if self.data.size > 20:
            facts.insert(0, f"shape={self.shape}")
        if self.node is not None:
            facts.append(f"op={self.node.op.name}")
        elif self.requires_grad:
            facts.append("requires_grad=True")
        if self.name:
            facts.append(f"name={self.name!r}")
        return f"{type(self).__name__}({values}, {', '.join(facts)})"

    # ---- leaving and entering the graph

    def backward(self, gradient: Any = None, *, retain_graph: bool = False,
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
        ct = _cotangent_of(self, gradient, "backward")
        found = cotangents(self, ct, wrap=_wrap, create_graph=create_graph,
                           retain_graph=retain_graph)
        for leaf, part in _separate(found, ct, create_graph).items():
            if isinstance(leaf, Tensor):
                leaf.grad = part if leaf.grad is None else _sum(leaf.grad, part, create_graph)

    def detach(self) -> Tensor:
        """The same values without history; they share memory."""
        return _wrap(self.data, False, None)

    def numpy(self) -> Array:
        """The values as a read-only view."""
        view = self.data.view()
        view.flags.writeable = False
        return view

    def item(self) -> Any:
        """The one value as a Python number."""
        if self.data.size != 1:
            raise ShapeError(f"item: a tensor of shape {self.shape} holds {self.data.size} values, "
                             "not one; index it, or use .numpy()")
        return self.data.item()

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Switch whether this leaf collects a gradient; returns the tensor itself."""
        if self.node is not None:
            raise GradientError("requires_grad_: only a leaf can be switched; use .detach() first")
        if requires_grad and self.data.dtype.kind != "f":
            raise DTypeError(f"requires_grad_: {self.data.dtype} cannot require a gradient; "
                             "cast it: tensor.astype(np.float32)")
        self.requires_grad = requires_grad
        return self

    def graph(self, **settings: Any) -> Any:
        """Draw the graph that led to this tensor; see ``tinygrad_cnn.viz``."""
        from tinygrad_cnn import viz  # the one look upwards: drawing is an afterthought of a tensor
        return viz.graph(self, **settings)

    def _repr_html_(self) -> str:
        from tinygrad_cnn.viz.notebook import tensor_html

        return tensor_html(self)

    # ---- NumPy

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if dtype is not None and np.dtype(dtype) != self.data.dtype:
            if copy is False:
                raise ValueError(f"a view as {np.dtype(dtype)} of a tensor of {self.data.dtype} "
                                 "cannot be made without a copy")
            return self.data.astype(dtype)
        return self.data.copy() if copy else self.numpy()

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        function = FUNCTIONS.get(ufunc)
        if method == "__call__" and not kwargs and function is not None:
            return function(*inputs)
        what = f"np.{ufunc.__name__}" + (f".{method}" if method != "__call__" else "")
        why = f" with {', '.join(kwargs)}=" if function is not None and kwargs else ""
        raise TypeError(f"{what}{why} is not differentiable here; use the functions of "
                        "tinygrad_cnn, or tensor.numpy() for plain values")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        own = FUNCTIONS.get(function)
        if own is None:
            name = f"np.{function.__name__}"
            raise TypeError(f"{name} is not differentiable here; use the functions of "
                            "tinygrad_cnn, or tensor.numpy() for plain values")
        return own(*args, **kwargs)

    # ---- operators

    def __add__(self, other: Any) -> Tensor: return FUNCTIONS["add"](self, other)
    def __radd__(self, other: Any) -> Tensor: return FUNCTIONS["add"](other, self)
    def __sub__(self, other: Any) -> Tensor: return FUNCTIONS["sub"](self, other)
    def __rsub__(self, other: Any) -> Tensor: return FUNCTIONS["sub"](other, self)
    def __mul__(self, other: Any) -> Tensor: return FUNCTIONS["mul"](self, other)
    def __rmul__(self, other: Any) -> Tensor: return FUNCTIONS["mul"](other, self)
    def __truediv__(self, other: Any) -> Tensor: return FUNCTIONS["div"](self, other)
    def __rtruediv__(self, other: Any) -> Tensor: return FUNCTIONS["div"](other, self)
    def __pow__(self, other: Any) -> Tensor: return FUNCTIONS["power"](self, other)
    def __rpow__(self, other: Any) -> Tensor: return FUNCTIONS["power"](other, self)
    def __matmul__(self, other: Any) -> Tensor: return FUNCTIONS["matmul"](self, other)
    def __rmatmul__(self, other: Any) -> Tensor: return FUNCTIONS["matmul"](other, self)
    def __neg__(self) -> Tensor: return FUNCTIONS["neg"](self)
    def __pos__(self) -> Tensor: return self
    def __abs__(self) -> Tensor: return FUNCTIONS["abs"](self)
    def __getitem__(self, index: Any) -> Tensor: return FUNCTIONS["getitem"](self, index)

    # Comparisons have no gradient: they give plain boolean arrays.
    def __eq__(self, other: Any) -> Any: return _compare(np.equal, self, other)
    def __ne__(self, other: Any) -> Any: return _compare(np.not_equal, self, other)
    def __lt__(self, other: Any) -> Any: return _compare(np.less, self, other)
    def __le__(self, other: Any) -> Any: return _compare(np.less_equal, self, other)
    def __gt__(self, other: Any) -> Any: return _compare(np.greater, self, other)
    def __ge__(self, other: Any) -> Any: return _compare(np.greater_equal, self, other)

    __hash__ = object.__hash__

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise GradientError("a tensor is not written in place: a recorded op may need its values; "
                            "build a new one with where(), concatenate() or pad()")

    # ---- ops of one input, as methods

    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Sum over ``axis``; see `tinygrad_cnn.sum`."""
        return _call("sum", self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Mean over ``axis``; see `tinygrad_cnn.mean`."""
        return _call("mean", self, axis=axis, keepdims=keepdims)

    def var(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Biased variance over ``axis``; see `tinygrad_cnn.var`."""
        return _call("var", self, axis=axis, keepdims=keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Largest value over ``axis``; see `tinygrad_cnn.max`."""
        return _call("max", self, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Smallest value over ``axis``; see `tinygrad_cnn.min`."""
        return _call("min", self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape: Any) -> Tensor:
        """The same values in another shape; see `tinygrad_cnn.reshape`."""
        return _call("reshape", self, shape[0] if len(shape) == 1 else shape)

    def flatten(self) -> Tensor:
        """(N, ...) -> (N, rest); see `tinygrad_cnn.flatten`."""
        return _call("flatten", self)

    def transpose(self, *axes: int) -> Tensor:
        """Axes in another order; see `tinygrad_cnn.transpose`."""
        one = len(axes) == 1 and isinstance(axes[0], (tuple, list))
        return _call("transpose", self, axes[0] if one else (axes or None))

    def squeeze(self, axis: Any = None) -> Tensor:
        """Without axes of one entry; see `tinygrad_cnn.squeeze`."""
        return _call("squeeze", self, axis=axis)

    def expand_dims(self, axis: Any) -> Tensor:
        """With a new axis of one entry; see `tinygrad_cnn.expand_dims`."""
        return _call("expand_dims", self, axis=axis)

    def astype(self, dtype: Any) -> Tensor:
        """Cast; the gradient is cast back.  See `tinygrad_cnn.astype`."""
        return _call("astype", self, dtype)

    def exp(self) -> Tensor:
        """See `tinygrad_cnn.exp`."""
        return _call("exp", self)

    def log(self) -> Tensor:
        """See `tinygrad_cnn.log`."""
        return _call("log", self)

    def sqrt(self) -> Tensor:
        """See `tinygrad_cnn.sqrt`."""
        return _call("sqrt", self)

    def abs(self) -> Tensor:
        """See `tinygrad_cnn.abs`."""
        return _call("abs", self)

    def clip(self, low: Any, high: Any) -> Tensor:
        """See `tinygrad_cnn.clip`."""
        return _call("clip", self, low, high)

    def relu(self) -> Tensor:
        """See `tinygrad_cnn.relu`."""
        return _call("relu", self)

    def tanh(self) -> Tensor:
        """See `tinygrad_cnn.tanh`."""
        return _call("tanh", self)

    def sigmoid(self) -> Tensor:
        """See `tinygrad_cnn.sigmoid`."""
        return _call("sigmoid", self)

    def softmax(self, axis: int = -1) -> Tensor:
        """See `tinygrad_cnn.softmax`."""
        return _call("softmax", self, axis=axis)

    def log_softmax(self, axis: int = -1) -> Tensor:
        """See `tinygrad_cnn.log_softmax`."""
        return _call("log_softmax", self, axis=axis)

    def logsumexp(self, axis: Any = -1) -> Tensor:
        """See `tinygrad_cnn.logsumexp`."""
        return _call("logsumexp", self, axis=axis)


class Parameter(Tensor):
    """A leaf that is trained: ``requires_grad`` is True, and modules collect it.

    Parameters
    ----------
    data : array_like
        Initial values, float32 or float64; copied, since optimisers write to them.
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

    def __init__(self, data: Any, name: str | None = None) -> None:
        super().__init__(data, requires_grad=True, name=name)
        self.data = self.data.copy()


def tensor(data: Any, *, dtype: Any = None, requires_grad: bool = False,
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
    return Tensor(array.copy(), requires_grad, name)


def _wrap(data: Array, requires_grad: bool, node: Node | None) -> Tensor:
    """A tensor around an array that is known to be right: the quick way in."""
    t = _new(Tensor)
    t.data = data
    t.requires_grad = requires_grad
    t.node = node
    t.grad = None
    t.name = None
    return t


def _call(name: str, *args: Any, **settings: Any) -> Tensor:
    result: Tensor = FUNCTIONS[name](*args, **settings)
    return result


def _compare(ufunc: Any, a: Tensor, b: Any) -> Any:
    try:
        return ufunc(a.data, b.data if isinstance(b, Tensor) else b)
    except ValueError:
        raise ShapeError(f"{ufunc.__name__}: shapes {a.shape} and {np.shape(as_array(b))} do not "
                         "broadcast") from None


def as_tensor(value: Any, op: str, name: str = "x") -> Tensor:
    """``value`` if it is a tensor; a tensor of it otherwise, or an error that names the input."""
    if isinstance(value, Tensor):
        return value
    return _wrap(_new_array(value, None, f"{op}: {name}"), False, None)


def as_dtype(value: Any, op: str) -> np.dtype[Any]:
    """``value`` as a dtype, or an error that names the op."""
    try:
        return np.dtype(value)
    except TypeError:
        raise DTypeError(f"{op}: {value!r} is not a dtype; use np.float32 or np.float64") from None


def _kind_of(value: Any) -> str:
    """What errors call a value that is refused: ``str``, ``ndarray of complex128``."""
    kind = type(value).__name__
    return f"{kind} of {value.dtype}" if isinstance(value, np.ndarray) else kind


def _not_numbers(op: str, name: str, value: Any) -> DTypeError:
    return DTypeError(f"{op}: {name} must be a tensor, an array or a number, "
                      f"got {_kind_of(value)}")


def as_array(value: Any) -> Array:
    """The plain values of a tensor or of anything array-like, for settings."""
    return value.data if isinstance(value, Tensor) else np.asarray(value)


# ---- gradients of a recorded graph ---------------------------------------------------------------

def _cotangent_of(out: Tensor, gradient: Any, who: str) -> Tensor:
    if not out.requires_grad:
        raise GradientError(f"{who}: nothing was recorded: the output depends on no tensor that "
                            "requires a gradient, or was computed under no_grad()")
    if gradient is None:
        if out.data.size != 1:
            raise GradientError(f"{who}: the output has shape {out.shape}, not one element; reduce "
                                "it with .sum() or .mean(), or pass gradient= of that shape")
        return _wrap(np.ones_like(out.data), False, None)
    if not isinstance(gradient, Tensor):
        gradient = _wrap(_converted(gradient, out.data.dtype, who, "gradient"), False, None)
    if gradient.shape != out.shape:
        raise ShapeError(f"{who}: gradient has shape {gradient.shape}, the output {out.shape}")
    if gradient.dtype != out.dtype:
        raise DTypeError(f"{who}: gradient is {gradient.dtype}, the output {out.dtype}; "
                         f"cast it: gradient.astype(np.{out.dtype})")
    return gradient


def _separate(found: dict[Any, Any], ct: Tensor, create_graph: bool) -> dict[Any, Tensor]:
    """Cotangents as tensors, no two of which share memory with each other or with ``ct``."""
    if create_graph:
        return found
    seen = {id(ct.data)}
    result = {}
    for key, part in found.items():
        if part.base is not None or id(part) in seen:       # a rule passed on what it was given
            part = part.copy()
        seen.add(id(part))
        result[key] = _wrap(part, False, None)
    return result


def _sum(a: Tensor, b: Tensor, create_graph: bool) -> Tensor:
    return _call("add", a, b) if create_graph else _wrap(np.asarray(a.data + b.data), False, None)


def _converted(value: Any, dtype: np.dtype[Any], op: str, name: str) -> Array:
    """A value that is no tensor, in the dtype of its company; other float arrays are refused."""
    if isinstance(value, np.ndarray) and value.ndim and value.dtype.kind == "f" \
            and value.dtype != dtype and dtype.kind != "c":
        raise DTypeError(f"{op}: {name} is an array of {value.dtype} among tensors of {dtype}; "
                         f"cast it: {name}.astype(np.{dtype})")
    array = np.asarray(value)
    if array.dtype.kind not in ("fiubc" if dtype.kind == "c" else "fiub"):
        raise _not_numbers(op, name, value)
    return array if array.dtype == dtype else array.astype(dtype)
