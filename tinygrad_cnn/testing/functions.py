"""Functions as subjects of a gradient test: of tensors, of arrays, of PyTorch's or JAX's tensors.

Each maker returns a `Subject` over one flat list of arrays: arguments may be lists, tuples and
dictionaries of arrays, and so may results, whose entries are then tested in one row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numpy as np

from tinygrad_cnn.core import Tensor, _wrap, grad, gradients
from tinygrad_cnn.core.graph import Node
from tinygrad_cnn.errors import DTypeError, GradientError
from tinygrad_cnn.nn import Module
from tinygrad_cnn.ops import concatenate, default_generator
from tinygrad_cnn.testing.linearization import Subject
from tinygrad_cnn.types import Array, Function, Settings

__all__ = ["TensorFunction", "arguments", "in_dtype", "jax_function", "name_of", "pair",
           "plain", "torch_function"]


def name_of(fn: object, owner: str) -> str:
    """What reports call a function; a lambda has a place instead of a name."""
    if not callable(fn):
        raise TypeError(f"{owner}: {fn!r} is not a function")
    name = str(getattr(fn, "__name__", type(fn).__name__))
    code = getattr(fn, "__code__", None)
    if name == "<lambda>" and isinstance(code, CodeType) and not code.co_filename.startswith("<"):
        return f"lambda at {Path(code.co_filename).name}:{code.co_firstlineno}"
    return name


# ---- nested arguments and results

def _items(value: object) -> list[tuple[str, Any]] | None:
    """The parts of a list, tuple or dictionary, and how each is spelled; None of anything else."""
    if isinstance(value, dict):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{i}]", part) for i, part in enumerate(value)]
    return None


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, Any]]:
    items = _items(value)
    if items is None:
        yield name, value
    else:
        for spelled, part in items:
            yield from _leaves(part, name + spelled)


def _rebuilt(like: object, parts: Iterator[Any]) -> Any:
    """A value of the same structure, with other leaves."""
    if isinstance(like, dict):
        return {key: _rebuilt(part, parts) for key, part in like.items()}
    if isinstance(like, (list, tuple)):
        made = [_rebuilt(part, parts) for part in like]
        named = isinstance(like, tuple) and hasattr(like, "_fields")
        return type(like)(*made) if named else type(like)(made)
    return next(parts)


def _nested(value: object) -> bool:
    """Whether a list holds arrays of its own, and is not one array written as a list."""
    return _items(value) is not None and any(hasattr(leaf, "dtype") for _, leaf in _leaves(value))


@dataclass(frozen=True)
class Arguments:
    """The arguments of a call: their structure, and their leaves as arrays."""

    like: list[Any]
    names: tuple[str, ...]
    arrays: list[Array]

    def call(self, leaves: Sequence[Any]) -> list[Any]:
        """The arguments with other leaves."""
        return list(_rebuilt(self.like, iter(leaves)))


def arguments(owner: str, values: Sequence[Any], dtype: np.dtype | type, prefix: str) -> Arguments:
    """The leaves of all arguments; floats are tested, in ``dtype``."""
    like: list[Any] = []
    names: list[str] = []
    arrays: list[Array] = []
    for i, value in enumerate(values):
        nested = _nested(value)
        like.append(value if nested else None)
        for name, leaf in _leaves(value, f"{prefix}{i}") if nested else [(f"{prefix}{i}", value)]:
            try:
                array = np.array(plain(leaf))
            except (ValueError, TypeError) as error:
                raise GradientError(f"{owner}: {name} is {type(leaf).__name__} that makes no array "
                                    f"({error})") from None
            if array.dtype.kind not in "fiub":
                what = f"complex ({array.dtype}); test its real and imaginary part as two inputs" \
                    if array.dtype.kind == "c" else \
                    f"{type(leaf).__name__}, expected a tensor, an array or a number; close over " \
                    "anything else"
                raise GradientError(f"{owner}: {name.replace(prefix, 'input ', 1)} is {what}")
            names.append(name)
            arrays.append(array.astype(dtype, order="C") if array.dtype.kind == "f" else array)
    return Arguments(like, tuple(names), arrays)


def plain(leaf: object) -> Any:
    """The values of a tensor of ours, or of PyTorch's."""
    if isinstance(leaf, Tensor):
        return leaf._data
    return leaf.detach().cpu().numpy() if hasattr(leaf, "detach") else leaf


def _joined(name: str, owner: str, y: object) -> tuple[Array, list[Array]]:
    """A result as one array, and its parts."""
    parts = [np.asarray(leaf) for _, leaf in _leaves(y)]
    if not parts or any(p.dtype.kind not in "fciub" for p in parts):
        raise GradientError(f"{owner}: {name} returned {type(y).__name__}, expected an array, or a "
                            "tuple, list or dictionary of arrays")
    if _items(y) is None:
        return parts[0], parts
    return np.concatenate([p.reshape(-1) for p in parts]), parts


def _split(ct: Array, y: object, parts: Sequence[Array]) -> Any:
    """The cotangent of each part of a result, in the structure of the result."""
    if _items(y) is None:
        return ct
    ends = np.cumsum([p.size for p in parts])[:-1]
    pieces = [np.array(c).reshape(p.shape).astype(p.dtype)
              for c, p in zip(np.split(ct, ends), parts, strict=True)]
    return _rebuilt(y, iter(pieces))


# ---- two plain functions of arrays

def pair(name: str, forward: Function, vjp: Function,
         given: Arguments) -> Subject:
    """A forward function and its backward function on plain arrays.

    ``forward`` runs before each ``vjp``: a layer may keep what its backward pass needs.
    """
    def values(inputs: Sequence[Array]) -> Array:
        return _joined(name, "check_vjp_pair", forward(*given.call(inputs)))[0]

    def pull(inputs: Sequence[Array], ct: Array) -> list[Array | None]:
        call = given.call(inputs)
        with np.errstate(all="ignore"):
            y = forward(*call)
            found = vjp(_split(ct, y, _joined(name, "check_vjp_pair", y)[1]), *call)
        several = tuple(found) if isinstance(found, (tuple, list)) and (
            len(given.like) != 1 or not _nested(given.like[0])
            or len(found) == 1) else (found,)
        if len(several) != len(given.like):
            raise GradientError(f"check_vjp_pair: vjp returned {len(several)} cotangents for "
                                f"{len(given.like)} arrays; return one for each, None for an array "
                                "without a gradient")
        result: list[Array | None] = []
        for like, part in zip(given.like, several, strict=True):
            leaves = [None] * len(list(_leaves(like))) if part is None else \
                [leaf for _, leaf in _leaves(part)] if like is not None else [part]
            result += [None if leaf is None else np.asarray(leaf) for leaf in leaves]
        if len(result) != len(inputs):
            raise GradientError(f"check_vjp_pair: vjp returned {len(result)} arrays in all for "
                                f"{len(inputs)}; return them in the structure of the arguments")
        return result

    return Subject(name, given.names, values, pull)


# ---- functions of PyTorch, of JAX

def torch_function(name: str, fn: Function, given: Arguments) -> Subject:
    """A function of PyTorch's tensors, such as ``torch.autograd.Function.apply``."""
    import torch

    def tensor(a: Array) -> Any:
        if a.size and all(s == 0 for s in a.strides) and a.ndim:
            return torch.tensor(a.flat[0]).expand(a.shape)
        if min(a.strides, default=0) < 0 or not a.flags.writeable:
            a = a.copy()
        return torch.from_numpy(a)

    def called(inputs: Sequence[Array]) -> tuple[Any, list[Any], list[Any]]:
        leaves = [tensor(np.asarray(a)).requires_grad_(a.dtype.kind in "fc") for a in inputs]
        y = fn(*given.call(leaves))
        return y, [leaf for _, leaf in _leaves(y) if leaf.dtype.is_floating_point
                   or leaf.dtype.is_complex], leaves

    def values(inputs: Sequence[Array]) -> Array:
        y, parts, _ = called(inputs)
        arrays = [p.detach().numpy() for p in parts]
        if not arrays:
            return np.asarray(y.detach().numpy() if hasattr(y, "detach") else y)
        return arrays[0] if _items(y) is None else np.concatenate([a.reshape(-1) for a in arrays])

    def pull(inputs: Sequence[Array], ct: Array) -> list[Array | None]:
        y, parts, leaves = called(inputs)
        if not any(p.requires_grad for p in parts):
            raise GradientError(f"check_torch: the output of {name} depends on no input that "
                                "requires a gradient")
        ends = np.cumsum([p.numel() for p in parts])[:-1]
        pieces = [ct] if _items(y) is None else \
            [c.reshape(tuple(p.shape)) for c, p in zip(np.split(ct, ends), parts, strict=True)]
        asked = [t for t in leaves if t.requires_grad]
        kept = [(p, tensor(np.asarray(c))) for p, c in zip(parts, pieces, strict=True)
                if p.requires_grad]
        found = iter(torch.autograd.grad([p for p, _ in kept], asked,
                                         [c.to(p.dtype) for p, c in kept], allow_unused=True))
        return [None if g is None else g.detach().numpy() for g in
                (next(found) if t.requires_grad else None for t in leaves)]

    return Subject(name, given.names, values, pull)


def jax_function(name: str, fn: Function, given: Arguments) -> Subject:
    """A function of JAX's arrays, such as one with ``jax.custom_vjp``."""
    import jax

    floats = [i for i, a in enumerate(given.arrays) if a.dtype.kind == "f"]

    def of_floats(inputs: Sequence[Array]) -> tuple[Function, list[Any]]:
        def inner(*some: Any) -> Any:
            whole = [*inputs]
            for i, a in zip(floats, some, strict=True):
                whole[i] = a
            return fn(*given.call(whole))
        return inner, [jax.numpy.asarray(inputs[i]) for i in floats]

    def values(inputs: Sequence[Array]) -> Array:
        with jax.enable_x64():
            inner, some = of_floats(inputs)
            return _joined(name, "check_jax", inner(*some))[0]

    def pull(inputs: Sequence[Array], ct: Array) -> list[Array | None]:
        with jax.enable_x64():
            inner, some = of_floats(inputs)
            y, back = jax.vjp(inner, *some)
            pieces = _split(ct, y, _joined(name, "check_jax", y)[1])
            found = back(_rebuilt(y, (jax.numpy.asarray(c) for _, c in _leaves(pieces))))
        result: list[Array | None] = [None] * len(inputs)
        for i, part in zip(floats, found, strict=True):
            result[i] = np.array(part)
        return result

    return Subject(name, given.names, values, pull)


# ---- functions of tensors

class TensorFunction:
    """A function of tensors, and the leaves that are moved to test it."""

    def __init__(self, name: str, fn: Function, given: Arguments,
                 closed_over: Sequence[Tensor], modules: Sequence[Module]) -> None:
        self.name = name
        self.fn = fn
        self.given = given
        self.closed_over = tuple(closed_over)
        self.modules = modules
        self.draws: bool | None = None          # random numbers; known after the first call
        # The whole model comes first among its modules, and gives names such as ``3.bias``.
        dotted = {id(t): n for m in (reversed(modules) if closed_over else ())
                  for n, t in m.named_parameters()}
        self.names = (*given.names, *(dotted.get(id(t)) or t.name or f"parameter {i}"
                                      for i, t in enumerate(closed_over)))

    @property
    def subject(self) -> Subject:
        """What is tested."""
        return Subject(self.name, self.names, self.forward, self.pull)

    @property
    def arrays(self) -> list[Array]:
        """Where the function is tested: its arguments, then what it closes over."""
        return [*self.given.arrays, *(t._data for t in self.closed_over)]

    @contextmanager
    def called(self, arrays: Sequence[Array]) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """The output at these values, and the tensors that hold them; all is put back."""
        n = len(self.given.arrays)
        arrays = [*map(np.asarray, arrays)]     # of no axes, arithmetic makes scalars
        tensors = [*(_wrap(a, a.dtype.kind in "fc", None) for a in arrays[:n]), *self.closed_over]
        before = [t._data for t in self.closed_over]
        buffers = [(m, name, a, a.copy()) for m in self.modules
                   for name, a in m.named_buffers(recurse=False)]
        generator = default_generator().bit_generator
        state = generator.state if self.draws is not False else None
        try:
            for t, a in zip(self.closed_over, arrays[n:], strict=True):
                t._data = a
            for module, name, a, _ in buffers if any(a.dtype.kind == "c" for a in arrays) else ():
                vars(module)[name] = a.astype(np.complex128) if a.dtype.kind == "f" else a
            with np.errstate(all="ignore"):
                y = self._one_tensor(self.fn(*self.given.call(tensors[:n])))
            if self.draws is None:
                self.draws = generator.state != state
            for name, t, a in zip(self.names, tensors, arrays, strict=True):
                if t._data is not a and not np.array_equal(t._data, a, equal_nan=True):
                    raise GradientError(f"{self.name} writes to its input {name}; copy it first")
            yield y, tensors
        finally:
            if state is not None:
                generator.state = state         # the next call draws the same random numbers
            for t, a in zip(self.closed_over, before, strict=True):
                t._data = a
            for module, name, array, values in buffers:
                array[...] = values
                setattr(module, name, array)

    def _one_tensor(self, y: Any) -> Tensor:
        parts = [leaf for _, leaf in _leaves(y)]
        if not parts or not all(isinstance(p, Tensor) for p in parts):
            raise GradientError(f"check_gradients: {self.name} returned {type(y).__name__}, "
                                "expected a Tensor, or a tuple, list or dictionary of them")
        if _items(y) is None:
            return y
        floats = [p.reshape(-1) for p in parts if p.dtype.kind in "fc"]
        return concatenate(floats, axis=0) if floats else parts[0]

    def forward(self, arrays: Sequence[Array]) -> Array:
        """The values of the function."""
        with self.called(arrays) as (y, _):
            return y._data

    def pull(self, arrays: Sequence[Array], ct: Array) -> list[Array | None]:
        """The gradients of all leaves."""
        with self.called(arrays) as (y, tensors):
            if not y.requires_grad:
                raise GradientError(f"check_gradients: the output of {self.name} depends on no "
                                    "input that requires a gradient; was it computed from .data, "
                                    ".numpy() or .detach(), or under no_grad()?")
            found = gradients(y, _wrap(np.asarray(ct, y.dtype), False, None))
            return [found[t]._data if t in found else None for t in tensors]

    def gradient(self, seed: int) -> TensorFunction:
        """The function (inputs, ct) -> Σ u · (gradient of ⟨ct, fn⟩): it has second derivatives."""
        rng = np.random.default_rng([seed, 7])
        with self.called(self.arrays) as (y, tensors):
            ct = np.asarray(rng.normal(size=y.shape), y.dtype)
            weights = [rng.normal(size=t.shape) for t in tensors]

        def inner(*own: Tensor) -> Tensor:
            *inputs, last = own
            y = self._one_tensor(self.fn(*self.given.call(inputs)))
            leaves = [(t, u) for t, u in zip((*inputs, *self.closed_over), weights, strict=True)
                      if t.dtype.kind in "fc"]
            parts = grad(y, [t for t, _ in leaves], last, create_graph=True)
            terms = [(part * _wrap(np.asarray(u, part.dtype), False, None)).sum()
                     for part, (_, u) in zip(parts, leaves, strict=True) if part is not None]
            if not any(t.requires_grad for t in terms):
                # A gradient that is constant: keep the connection to the inputs, with weight 0.
                terms += [(0.0 * t).sum() for t, _ in leaves]
            total = terms[0]
            for term in terms[1:]:
                total = total + term
            return total

        given = Arguments([*self.given.like, None], (*self.given.names, "ct"),
                          [*self.given.arrays, ct])
        return TensorFunction(f"the gradient of {self.name}", inner, given, self.closed_over,
                              self.modules)


@contextmanager
def in_dtype(name: str, fn: Function, given: Arguments, parameters: Sequence[Tensor],
             dtype: np.dtype | type) -> Iterator[TensorFunction]:
    """The function, with all that it differentiates in one dtype while the block runs.

    Modules that it reaches are converted too, with their buffers, and put back.
    """
    owner = getattr(fn, "__self__", None)
    reached = [fn, *getattr(fn, "__dict__", {}).values(), *getattr(owner, "__dict__", {}).values()]
    modules = list({id(part): part for m in _reached(reached, {}, Module)
                    for part in m.modules()}.values())
    found = _closed_over(TensorFunction(name, fn, given, (), modules))
    several = list({id(t): t for t in (*parameters, *found)}.values())
    own = {id(t): t for m in modules for _, t in m.named_parameters(recurse=False)}
    constant = [t for t in _reached(reached, {}, Tensor) if t.is_leaf]
    held = list({id(t): t for t in (*several, *own.values(), *constant)
                 if t._data.dtype.kind == "f"}.values())
    with ExitStack() as stack:
        for t in held:
            stack.callback(setattr, t, "_data", t._data)
            t._data = t._data.astype(dtype)
        for module in modules:
            stack.callback(_restore, module, {k: v for k, v in vars(module).items() if isinstance(
                v, (np.ndarray, np.dtype))})
            for key, value in list(vars(module).items()):
                if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                    vars(module)[key] = value.astype(dtype)
            if "dtype" in vars(module):
                vars(module)["dtype"] = np.dtype(dtype)
        try:
            yield TensorFunction(name, fn, given, several, modules)
        except DTypeError as error:
            raise GradientError(f"check_gradients: {name} mixes in tensors of another dtype than "
                                f"{np.dtype(dtype)}, in which it is tested; pass them as inputs, "
                                f"or in parameters= ({error})") from error


def _restore(module: Module, before: Settings) -> None:
    vars(module).update(before)


def _reached(value: Any, seen: dict[int, Any], kind: type) -> Iterator[Any]:
    """What a function can reach: itself, by closure, as globals, in containers."""
    if id(value) in seen:
        return
    seen[id(value)] = value
    if isinstance(value, kind):
        yield value
        return
    parts: list[Any] = [getattr(value, "__self__", None), getattr(value, "__func__", None),
                        getattr(value, "func", None), getattr(value, "args", None)]
    code = getattr(value, "__code__", None)
    if isinstance(code, CodeType):
        with suppress(ValueError):              # a cell that is not assigned yet
            parts += [cell.cell_contents for cell in value.__closure__ or ()]
        if not str(value.__module__).startswith("tinygrad_cnn."):
            parts += [value.__globals__.get(name) for name in _names_in(code)]
        parts += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    elif isinstance(value, (list, tuple)):
        parts += value
    elif isinstance(value, dict):
        parts += value.values()
    for part in parts:
        if part is not None and not isinstance(part, (np.ndarray, str, type, ModuleType)) \
                and (kind is Tensor or not isinstance(part, Tensor)):
            yield from _reached(part, seen, kind)


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names_in(inner)


def _closed_over(function: TensorFunction) -> list[Tensor]:
    """The leaves that the function reaches and was not given."""
    # Parameters may be float32 or float64, whatever the inputs are: the first company that fits.
    for dtype in (None, np.float32, np.float64):
        given = [a.astype(dtype) if dtype is not None and a.dtype.kind == "f" else a.copy()
                 for a in function.given.arrays]
        try:
            with function.called(given) as (y, tensors):
                own = set(map(id, tensors))
                return [t for t in _leaves_below(y) if id(t) not in own]
        except DTypeError:
            if dtype is np.float64:
                raise
    return []


def _leaves_below(y: Tensor) -> list[Tensor]:
    """The leaves that require a gradient below an output, in the order in which they are met."""
    if y.node is None:
        return [y] if y.requires_grad else []
    seen: set[Node] = {y.node}
    stack, leaves = [y.node], {}
    while stack:
        for x in stack.pop().inputs or ():
            if x is not None and x.node is None and x.requires_grad:
                leaves[id(x)] = x
            elif x is not None and x.node is not None and x.node not in seen:
                seen.add(x.node)
                stack.append(x.node)
    return list(leaves.values())
