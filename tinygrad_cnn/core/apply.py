"""The one place where ops are applied and recorded, and the functions made from declarations.

`apply` takes any op; `binary` and `unary` are the short ways of elementwise ops.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import lru_cache, update_wrapper
from types import FrameType
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import numpy as np
from numpy import ndarray

from tinygrad_cnn.core.graph import (
    EXPOSED,
    NOTHING,
    Node,
    State,
    _order,
    _state,
    locked,
    placeholder,
    warn_of_old_graphs,
)
from tinygrad_cnn.core.op import FUNCTIONS, OPS, Op, make_op, register, register_function
from tinygrad_cnn.core.tensor import (
    _FLOATS,
    Tensor,
    TensorLike,
    _converted,
    _exposed,
    _new,
    _not_numbers,
    _wrap,
    as_setting,
    held,
    refuse_tensors_inside,
    standing_for,
    with_own_dtype,
)
from tinygrad_cnn.errors import DTypeError, KernelFailed, SettingError, ShapeError, TinygradCnnError
from tinygrad_cnn.names import own_names
from tinygrad_cnn.shapes import Shape, bind_axes
from tinygrad_cnn.types import Array, DType, Function, Settings

__all__ = ["apply", "as_tensors", "binary", "custom_op", "make_function", "unary"]

F = TypeVar("F", bound=Function)

_PACKAGE = __name__.partition(".")[0] + "."
_LARGE = 1 << 17            # entries, from which an op is worth its kernel's threads
_KEEP_BYTES = 4096          # below this, a placeholder for unsaved values costs more than it saves
_PLAIN = frozenset({ndarray, type(None)})
_OPERATORS = vars(sys.modules[Tensor.__module__])       # frames of a + b have these globals,
_HERE = globals()                                       # and those of a + 2.0 these too


class Inputs(NamedTuple):
    """The tensors that a function takes, as `as_tensors` asks for them."""

    name: str
    inputs: tuple[str, ...]
    optional: tuple[str, ...] = ()
    variadic: bool = False

    def input_name(self, i: int) -> str:
        return self.inputs[i]


def as_tensors(op: Op | Inputs, inputs: tuple[object, ...]) -> tuple[Tensor | None, ...]:
    """All inputs as tensors of one dtype, or an error that names the odd one."""
    inputs = tuple(map(with_own_dtype, inputs))
    _refuse_other_dtypes(op, inputs)
    dtype, stepping = _common_dtype(inputs)
    result: list[Tensor | None] = []
    for i, x in enumerate(inputs):
        if x is None and (op.variadic or op.inputs[i] not in op.optional):
            raise _not_numbers(op.name, op.input_name(i), x)
        if x is None or (isinstance(x, Tensor) and x._data.dtype == dtype):
            result.append(x)
        elif isinstance(x, Tensor):
            if x._data.dtype.kind == "f" and not stepping:
                first = next(j for j, t in enumerate(inputs)
                             if isinstance(t, Tensor) and t._data.dtype == dtype)
                raise DTypeError(
                    f"{op.name}: {op.input_name(first)} is {dtype} but {op.input_name(i)} is "
                    f"{x._data.dtype}; cast one: {op.input_name(i)}.astype(np.{dtype})")
            result.append(standing_for(x, _wrap(x._data.astype(dtype), False, None)))
        else:
            made = _exposed(_converted(x, dtype, op.name, op.input_name(i)))
            result.append(standing_for(x, made))
    return tuple(result)


def _refuse_other_dtypes(op: Op | Inputs, inputs: tuple[object, ...]) -> None:
    """Refuse an array in whose dtype no tensor can be, where no float tensor decides."""
    if any(isinstance(x, Tensor) and x._data.dtype.kind in "fc" for x in inputs):
        return
    for i, x in enumerate(inputs):
        if isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind not in "iub" \
                and x.dtype.newbyteorder("=") not in _FLOATS:
            name = op.input_name(i)
            if x.dtype.kind not in "fc":
                raise _not_numbers(op.name, name, x)
            raise DTypeError(f"{op.name}: {name} is {x.dtype}, which is not supported; cast it to "
                             "float32 or float64")


def _common_dtype(inputs: tuple[object, ...]) -> tuple[DType, bool]:
    """The dtype in which the inputs meet, and whether a gradient test steps into the complex plane.

    A float tensor decides; then a float array; then NumPy's promotion of the integers, for which
    Python's numbers fit themselves to the rest.  Numbers and lists alone become float32.
    """
    tensors = [x._data.dtype for x in inputs if isinstance(x, Tensor)]
    for kind in "cf":
        for dtype in tensors:
            if dtype.kind == kind:
                return dtype, kind == "c"
    arrays = [x.dtype.newbyteorder("=") for x in inputs if isinstance(x, (np.ndarray, np.generic))]
    floats = [d for d in arrays if d.kind == "f"]
    numbers = [x for x in inputs if isinstance(x, (bool, int, float))]
    if floats or not (tensors or arrays) or any(isinstance(x, float) for x in numbers):
        return (floats or [np.dtype(np.float32)])[0], False
    try:
        lists = [np.asarray(x).dtype for x in inputs if isinstance(x, (list, tuple))]
    except ValueError:                              # ragged: refused where it is converted
        lists = []
    if any(d.kind == "f" for d in lists):
        return np.dtype(np.float32), False
    weak = [type(x)() for x in numbers]             # 0 fits everywhere: only the kind counts
    return np.result_type(*tensors, *arrays, *(d for d in lists if d.kind in "iub"), *weak), False


def apply(op: Op, *inputs: TensorLike | None, by_products: Settings | None = None,
          **settings: Any) -> Tensor:
    """Check the inputs, run a kernel, and record a node if a gradient will be wanted.

    Parameters
    ----------
    op : Op
        What to apply.
    *inputs : Tensor, array_like or None
        One for each input of the op; optional ones may be missing at the end.  What is no tensor
        takes the dtype of the tensors.
    by_products : dict, optional
        What the kernel makes besides goes here, such as the statistics of a batch.
    **settings
        The settings of the op, all of them, in their normalized form.

    Raises
    ------
    ShapeError, SettingError
        From the op's axes and shape rule.
    DTypeError
        If float dtypes differ, or the kernel makes another dtype than its inputs have.
    """
    if len(inputs) < len(op.inputs) and not op.variadic:
        inputs += (None,) * (len(op.inputs) - len(inputs))
    state = _state.get()
    if state.plain:
        plain: Any = inputs if _PLAIN.issuperset(map(type, inputs)) else _plain(inputs)
        y, residuals = op.run(*(map(locked, plain) if op.foreign else plain), **settings)
        if by_products is not None:
            by_products.update(residuals)
        return y if type(y) is ndarray else np.asarray(y)       # type: ignore[return-value]
    tensors, arrays, shapes, dtype, tracked = _read(op, inputs)
    if dtype is not None and dtype.kind in "iub":
        _refuse_fractions(op, tensors, settings)
        _refuse_integers(op, tensors, dtype)
    asked = (op, shapes, *settings.items())
    judge: Callable[..., Shape] = _remembered
    try:
        hash(asked)
    except TypeError:                           # an array, or a slice: judged anew each time
        judge = infer_shape
        settings = {name: _unwritten(value) for name, value in settings.items()}
    expected = judge(*asked)
    tracked = tracked and state.recording
    if tracked or state.observer is not None:
        for i, x in enumerate(tensors):
            # What the user may write to, also in another thread, is read once and kept.
            if x is not None and x._access == EXPOSED:
                arrays[i] = x._data.copy()
    began = time.perf_counter() if state.observer is not None else 0.0
    try:
        y, residuals = op.run(*(map(locked, arrays) if op.foreign else arrays), **settings)
    except TypeError:
        if dtype is None or dtype.kind == "f":
            raise
        raise _leaves_the_integers(op, tensors) from None       # NumPy refused to cast in place
    if type(y) is not ndarray:
        y = np.asarray(y)
    if y.shape != expected:
        raise ShapeError(f"{op.name}: the shape rule says {expected}, the kernel made {y.shape}")
    for x, array in zip(tensors, arrays, strict=True):
        # A result that looks at memory which the user can write to gets memory of its own.
        if x is not None and x._access == EXPOSED and array is x._data \
                and np.may_share_memory(y, array):
            y = y.copy()
    dtype = settings.get("dtype") or dtype or y.dtype
    if y.dtype != dtype:
        if dtype.kind != "f":
            raise _leaves_the_integers(op, tensors)
        raise DTypeError(f"{op.name}: the kernel made {y.dtype} of {dtype}; allocate with "
                         "dtype=x.dtype")
    if by_products is not None:
        by_products.update(residuals)
    if not tracked and state.observer is None:
        return _wrap(y, False, None)
    return _record(op, tensors, arrays, settings, residuals, y, state, tracked, began)


def _read(op: Op, inputs: tuple[Any, ...], again: bool = False) -> tuple[
        tuple[Tensor | None, ...], list[Array | None], tuple[Shape | None, ...],
        DType | None, bool]:
    """The inputs as tensors, their arrays, shapes and dtype, and whether one has a gradient."""
    arrays: list[Array | None] = []
    shapes: list[Shape | None] = []
    dtype, tracked = None, False
    for i, x in enumerate(inputs):
        if isinstance(x, Tensor) and x._access:
            held(x)                             # may find that it is not, before it is read
        if isinstance(x, Tensor) and (again or (
                x._data.dtype.kind == "f" if dtype is None else x._data.dtype is dtype)):
            array = x._data
            arrays.append(array)
            shapes.append(array.shape)
            dtype, tracked = array.dtype, tracked or x._requires_grad
        elif x is None and (again or (dtype is not None and not op.variadic
                                      and op.inputs[i] in op.optional)):
            arrays.append(None)
            shapes.append(None)
        else:                                   # the ones before it may be of another dtype
            return _read(op, as_tensors(op, inputs), again=True)
    return inputs, arrays, tuple(shapes), dtype, tracked


def _plain(inputs: tuple[object, ...]) -> list[Array | None]:
    """The inputs as arrays, for a rule in a first-order backward pass; numbers fit themselves."""
    arrays = [x._data if isinstance(x, Tensor) else x for x in inputs]
    dtype = next((x.dtype for x in arrays if isinstance(x, (ndarray, np.generic))), None)
    return [x if x is None or isinstance(x, ndarray) else np.asarray(x, dtype) for x in arrays]


def infer_shape(op: Op, shapes: tuple[Shape | None, ...], *settings: tuple[str, object]) -> Shape:
    """The shape of the result, or an error that says which inputs do not fit."""
    named = dict(settings)
    try:
        if op.axes is not None:
            bind_axes(op.name, op.axes, dict(zip(op.inputs, shapes, strict=True)), named)
        return op.shape(*shapes, **named)
    except TinygradCnnError as error:
        # The rule may have asked that of another op, as an adjoint does; the user called this one.
        other, _, rest = str(error).partition(": ")
        if other != op.name and other in OPS and op.name in FUNCTIONS:
            raise type(error)(f"{op.name}: {rest}") from None
        raise
    except (ArithmeticError, LookupError, ValueError) as error:
        raise SettingError(f"{op.name}: the settings {named} do not fit inputs of the shapes "
                           f"{shapes}: {error}") from None


# Each step of a training asks the same questions, and the answer takes longer than a small kernel.
_remembered = lru_cache(maxsize=4096)(infer_shape)


def _refuse_fractions(op: Op, tensors: tuple[Tensor | None, ...],
                      settings: Settings) -> None:
    """Refuse a setting that a kernel would cut off to fit integers, in silence."""
    for setting, value in settings.items():
        if isinstance(value, float) and not value.is_integer():
            i, x = next((i, x) for i, x in enumerate(tensors) if x is not None)
            name = op.input_name(i)
            raise DTypeError(f"{op.name}: {name} is {x.dtype} and {setting} is {value}, which is "
                             f"no integer; cast it: {name}.astype(np.float32)")


def _refuse_integers(op: Op, tensors: tuple[Tensor | None, ...], dtype: DType) -> None:
    """Refuse integers where the formula is one of real numbers, and short ones where sums are."""
    if op.family in ("loss", "norm"):
        raise _leaves_the_integers(op, tensors)
    if op.family in ("linear", "conv") and dtype.itemsize < 8:
        name = op.input_name(0)
        raise DTypeError(f"{op.name}: {name} is {dtype}, which cannot hold large sums; cast it: "
                         f"{name}.astype(np.float32)")


def _leaves_the_integers(op: Op, tensors: tuple[Tensor | None, ...]) -> DTypeError:
    i, x = next((i, x) for i, x in enumerate(tensors) if x is not None)
    name = op.input_name(i)
    return DTypeError(f"{op.name}: {name} is {x.dtype}, and the result of {op.name} is not; cast "
                      f"it: {name}.astype(np.float32)")


def _record(op: Op, tensors: tuple[Tensor | None, ...], arrays: list[Array | None],
            settings: Settings, residuals: Settings, y: Array, state: State,
            tracked: bool, began: float) -> Tensor:
    """The result as a tensor, with a node if a gradient is wanted; an observer is told of it."""
    kept: list[Any] = list(tensors)
    for i, x in enumerate(tensors):
        if i in op.unsaved and x is not None and x._data.nbytes >= _KEEP_BYTES:
            kept[i] = _placeholder(x)
            if kept[i] is not x:
                arrays[i] = kept[i]._data
    if op.foreign:
        residuals = {name: _unwritten(v) for name, v in residuals.items()}
    result = _recorded(op, tuple(kept), tuple(arrays), y, state, sys._getframe(2), settings,
                       residuals)
    if state.observer is not None:
        assert result.node is not None
        state.observer.forward(result.node, tensors, y, time.perf_counter() - began)
    return result if tracked else _wrap(y, False, None)


def _unwritten(value: object) -> object:
    """A setting to which nobody else can write: arrays are copied, unless they are read-only."""
    if isinstance(value, ndarray):
        if value.flags.writeable or value.base is not None:
            value = value.copy()
            value.flags.writeable = False
        return value
    return tuple([_unwritten(v) for v in value]) if type(value) is tuple else value


def _placeholder(x: Tensor | None) -> Tensor | None:
    """``x`` without its values, which no rule reads, so that their memory can be freed."""
    if x is None or x._data.nbytes < _KEEP_BYTES or (x.node is None and x._requires_grad):
        return x
    t = _wrap(placeholder(x._data.shape, x._data.dtype), x._requires_grad, x.node)
    t.name = x.name
    return t if x.node is not None else standing_for(x, t)


def binary(op: Op, ufunc: Callable[[Array, Array], Array]
           ) -> Callable[[TensorLike, TensorLike], Tensor]:
    """The function of an op of two inputs that broadcast: short for tensors, `apply` for the rest.

    NumPy judges the shapes here, and the shape rule is asked only to word its refusal.
    """
    unsaved = op.unsaved

    def function(a: Any = None, b: Any = None, **theirs: Any) -> Tensor:
        if theirs:
            return _by_their_names(op, (a, b), theirs)
        state = _state.get()
        try:
            x, y = a._data, b._data             # which a masked array has as well
            dtype = x.dtype
            if (dtype is not y.dtype or state.observer is not None or x.size >= _LARGE
                    or (a._access | b._access) & EXPOSED):
                del x, y                        # only the user may hold them
                return apply(op, a, b)          # whose kernel has threads
            out = ufunc(x, y)
        except (AttributeError, TypeError, ValueError):    # no tensor, booleans, shapes that differ
            out = None
        if out is None:                         # outside, where no error is shown after another
            if type(b) is float and isinstance(a, Tensor) and a._data.dtype.kind == "f":
                return function(a, _wrap(np.asarray(b, a._data.dtype), False, None))
            return apply(op, a, b)
        if type(out) is not ndarray:
            out = np.asarray(out)               # NumPy turns 0-d results into scalars
            if op.name == "add" and state.recording:
                warn_of_old_graphs(a.node, b.node)
        if out.dtype is not dtype:              # integers that are divided
            return apply(op, a, b)
        if not (a._requires_grad or b._requires_grad) or not state.recording:
            return _wrap(out, False, None)
        inputs: tuple[Any, ...] = (a, b)
        values: Any = (x, y)
        if unsaved and out.nbytes >= _KEEP_BYTES:
            inputs = tuple(_placeholder(t) if i in unsaved else t for i, t in enumerate(inputs))
            values = (inputs[0]._data, inputs[1]._data)
        return _recorded(op, inputs, values, out, state, sys._getframe(1))

    return _named(function, op, sys._getframe(1))


def _by_their_names(op: Op, inputs: tuple[Any, ...], theirs: Settings) -> Tensor:
    """Apply an op whose inputs were named, in the words of this package or of another."""
    given = own_names(op.name, op.inputs, theirs)
    for name, x in zip(op.inputs, inputs, strict=True):
        if x is not None and name in given:
            raise TypeError(f"{op.name}() got multiple values for argument {name!r}")
    return apply(op, *(given.get(name, x) for name, x in zip(op.inputs, inputs, strict=True)))


def _named(function: Callable[..., Tensor], op: Op, frame: FrameType) -> Callable[..., Tensor]:
    """The function as if it had been defined under the name of its op, where it is made."""
    function.__name__ = function.__qualname__ = op.name
    function.__module__ = frame.f_globals["__name__"]
    function.op = op  # type: ignore[attr-defined]
    return function


def _recorded(op: Op, inputs: tuple[Tensor | None, ...], values: tuple[Array | None, ...],
              out: Array, state: State, frame: FrameType | None, settings: Settings = NOTHING,
              residuals: Settings = NOTHING) -> Tensor:
    """A tensor and its node, field by field: this runs for each op of a program."""
    node = _new(Node)
    node.op = op
    node.inputs = inputs
    node.values = values
    node.settings = settings
    node.residuals = residuals
    node.out = out if op.saves_out else None
    node.scope = scope = state.scope
    node.order = next(_order)
    far = scope or settings is not NOTHING         # there may be other files of the package
    while frame is not None and ((place := frame.f_globals) is _OPERATORS or place is _HERE or (
            far and place.get("__name__", "").startswith(_PACKAGE))):
        frame = frame.f_back
    if frame is None:
        node.code, node.instruction = None, 0
    else:
        node.code, node.instruction = frame.f_code, frame.f_lasti
    t = _new(Tensor)
    t._data = out
    t._access = 0
    t._requires_grad = True
    t.node = node
    t._grad = t.name = None
    return t


def unary(op: Op, kernel: Callable[[Array], Array]) -> Callable[[TensorLike], Tensor]:
    """The function of an elementwise op of one input and no settings."""
    unsaved = op.unsaved

    def function(x: TensorLike | None = None, **theirs: TensorLike) -> Tensor:
        if theirs:
            return _by_their_names(op, (x,), theirs)
        state = _state.get()
        if not isinstance(x, Tensor) or x._data.dtype.kind != "f" or state.observer is not None:
            return apply(op, x)
        value = x._data
        if x._access == EXPOSED:
            del value                           # only the user may hold it
            return apply(op, x)
        try:
            out = kernel(value)
        except KernelFailed:                    # it is not asked again
            out = kernel(value)
        if type(out) is not ndarray:
            out = np.asarray(out)
        if not x._requires_grad or not state.recording:
            return _wrap(out, False, None)
        kept: Any = _placeholder(x) if unsaved else x
        return _recorded(op, (kept,), (value if kept is x else kept._data,), out, state,
                         sys._getframe(1))

    return _named(function, op, sys._getframe(1))


# ---- public functions made from a declaration ----------------------------------------------------

def make_function(op: Op) -> Callable[[F], F]:
    """Make the public function of an op whose settings need no normalizing.

    The decorated function gives name, signature and docstring, and is never called.
    """
    known = frozenset(op.settings)

    def function(*inputs: TensorLike | None, **settings: Any) -> Tensor:
        if _state.get().plain:                  # called by a rule, which knows what it gives
            return apply(op, *inputs, **settings)
        settings = own_names(op.name, (*op.inputs, *op.settings), settings)
        inputs += tuple(settings.pop(n) for n in op.inputs[len(inputs):] if n in settings)
        if not op.variadic and len(inputs) > len(op.inputs):
            raise TypeError(f"{op.name}() takes the inputs {', '.join(op.inputs)} by position and "
                            f"settings by name, but {len(inputs)} inputs were given")
        if settings.keys() != known:
            raise TypeError(f"{op.name}() takes the settings {', '.join(op.settings)}; missing: "
                            f"{', '.join(sorted(known - settings.keys()))}")
        for name, value in settings.items():
            if isinstance(value, Tensor):
                settings[name] = as_setting(value, op.name, name)
            else:
                refuse_tensors_inside(value, f"{op.name}: {name}")
        return apply(op, *inputs, **settings)

    def declare(declared: F) -> F:
        return cast(F, register_function()(update_wrapper(function, declared)))
    return declare


class OpFunction(Protocol):
    """A public function, and the op that it applies."""

    op: Op

    def __call__(self, *inputs: TensorLike | None, **settings: object) -> Tensor:
        """Apply the op."""


def custom_op(*, replace: bool = False, **declaration: object
              ) -> Callable[[Callable[..., Array]], OpFunction]:
    """Declare an op of your own: the decorated function is the kernel.

    Parameters
    ----------
    replace : bool, default False
        As in `register`: an op of that name may be declared elsewhere.
    **declaration
        The other fields of `Op` and those of `OpTest`: at least ``shape``, ``vjp`` and ``samples``.

    Returns
    -------
    callable
        A decorator; what it returns takes tensors, records, and has the attribute ``op``.

    Raises
    ------
    DeclarationError
        If the signatures disagree, or an op of that name is declared elsewhere.

    Examples
    --------
    >>> def _cube_vjp(ct, out, x):
    ...     return ct * 3.0 * x * x
    >>> @custom_op(shape=lambda x: x, vjp={"x": _cube_vjp},
    ...            samples=lambda rng: [Sample("matrix", (rng.normal(size=(2, 3)),))])
    ... def cube_for_the_docs(x):
    ...     return x * x * x
    >>> x = Tensor([2.0], requires_grad=True)
    >>> cube_for_the_docs(x).sum().backward()
    >>> x.grad.item()
    12.0
    """
    def build(kernel: Function) -> OpFunction:
        op = register(make_op(name=kernel.__name__, kernels={"array": kernel}, **declaration),
                      replace=replace)
        return cast(OpFunction, make_function(op)(kernel))
    return build
