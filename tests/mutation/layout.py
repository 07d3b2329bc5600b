"""Mistakes in matrix products, in ops that move entries, in contracts, and in the engine."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from mutation.mutant import Mutant, as_given, broken, post, replaced
from tinygrad_cnn import no_grad
from tinygrad_cnn.core import Tensor, backward, unary
from tinygrad_cnn.core.op import FUNCTIONS, OPS, Array, Op

__all__ = ["MUTANTS"]

_TENSOR_MODULE = sys.modules[Tensor.__module__]         # the name is that of a function too


# ---- matrix products and layout

def _assigned(right: Any, ct: Any, out: Any, x: Any, *, index: Any) -> Array:
    """= instead of +=, where an index names an entry repeatedly."""
    dx = np.zeros_like(x)
    dx[index] = ct
    return dx


def _positive_step(right: Any, ct: Any, out: Any, x: Any, *, index: Any) -> Any:
    """Takes a slice of negative step for one of positive step, from the same end."""
    other = tuple(slice(i.start, i.stop, -i.step) if isinstance(i, slice) and (i.step or 1) < 0
                  else i for i in index)
    fits = np.zeros(x.shape)[other].shape == ct.shape
    return right(ct, out, x, index=other if fits else index)


def _forward_axes(right: Any, ct: Any, out: Any, x: Any, *, axes: Any) -> Array:
    """The permutation itself instead of its inverse, forced into shape."""
    return np.asarray(ct.transpose(axes).reshape(x.shape))


def _not_inverted(right: Any, ct: Any, out: Any, x: Any, *, shape: Any) -> Array:
    """Reads the entries in column order."""
    return np.asarray(ct.reshape(x.shape, order="F"))


def _offset_ignored(right: Any, ct: Any, out: Any, *xs: Any, axis: int, index: int) -> Array:
    n = xs[index].shape[axis]
    return np.asarray(np.take(ct, range(n), axis))


def _swapped(x: Array) -> Array:
    return np.asarray(np.swapaxes(x, -1, -2))


# ---- contracts

def _writes_ct(right: Any, ct: Any, out: Any, x: Any, **s: Any) -> Any:
    made = right(ct, out, x, **s).copy()
    ct *= 2
    return made


def _writes_x(right: Any, ct: Any, out: Any, x: Any, **s: Any) -> Any:
    made = right(ct, out, x, **s).copy()
    x += 1
    return made


def _gives_x_away(right: Any, ct: Any, out: Any, x: Any, **s: Any) -> Any:
    """The right numbers, in the memory of the input."""
    np.copyto(x, right(ct, out, x, **s))
    return x


def _stale() -> Callable[[], Op]:
    """Uses what the last forward pass left, instead of its own residuals."""
    def make() -> Op:
        declared = OPS["max_pool2d"]
        last: dict[str, Any] = {}

        kernel = declared.kernels["array"]

        @functools.wraps(kernel)
        def remembering(x: Array, **s: Any) -> Any:
            made, residuals = kernel(x, **s)
            last.update(residuals)
            return made, residuals

        def stale(right: Any, ct: Any, out: Any, x: Any, *, argmax_indices: Array, **s: Any) -> Any:
            kept = last["argmax_indices"]
            return right(ct, out, x, argmax_indices=kept if kept.shape == argmax_indices.shape
                         else argmax_indices, **s)

        wrong = broken("max_pool2d", "x", stale)()
        return replaced(wrong, kernels={"array": remembering})
    return make


def _counting(right: Any, ct: Any, out: Any, x: Any, **s: Any) -> Any:
    """Gives more each time it is called on the same cotangent array."""
    _CALLS.append(None)
    return right(ct, out, x, **s) * (1 + 2.0 ** -30 * (len(_CALLS) % 7))


_CALLS: list[None] = []


def _as_if_contiguous(right: Any, ct: Any, out: Any, x: Any, **s: Any) -> Any:
    """Reads the memory of the cotangent from its start to its end."""
    base = ct
    while isinstance(base.base, np.ndarray):
        base = base.base
    return right(np.resize(base.ravel(order="K"), ct.shape), out, x, **s)


def _undeclared() -> Op:
    """Reads its input, which the declaration says it does not."""
    return replaced(broken("softplus", "x", lambda right, ct, out, x: ct / (1.0 + np.exp(-x)))(),
                    saved=())


def _constant_derivative(right: Any, ct: Any, out: Any, x: Any, **s: Any) -> Any:
    """Right at first order, but the factor is not recorded."""
    if isinstance(ct, np.ndarray):
        return right(ct, out, x, **s)
    with no_grad():
        factor = right(Tensor(np.ones(ct.shape, ct.dtype)), out, x, **s)
    return ct * factor


def _scaled_twice(right: Any, ct: Any, out: Any, x: Any) -> Any:
    """Right at first order; the derivative of the factor counts twice."""
    factor = 1.0 - out * out
    return ct * (factor if isinstance(ct, np.ndarray) else factor + (factor - factor.detach()))


# ---- the engine

@contextmanager
def _patched(owner: Any, name: str, other: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _reuse_overwrites() -> Any:
    return _added_by(lambda a, b: b)


def _first_use_only() -> Any:
    return _added_by(lambda a, b: a)


def _writes_into_shared() -> Any:
    """Adds into an array that other places still hold."""
    def add(a: Any, b: Any) -> Any:
        plain = isinstance(a, np.ndarray) and a.flags.writeable
        return np.add(a, b, out=a) if plain else a + b
    return _added_by(add)


@contextmanager
def _added_by(add: Callable[[Any, Any], Any]) -> Iterator[None]:
    """Cotangents are summed by another function, small ones too."""
    with _patched(backward, "added", add), _patched(backward, "LARGE", 0):
        yield


def _nothing_copied() -> Any:
    """A write to one gradient changes whatever else looks at its memory."""
    return _patched(_TENSOR_MODULE, "_alone", lambda x: True)


def _tensors_overwrite() -> Any:
    return _added_by(lambda a, b: np.asarray(a + b) if isinstance(a, np.ndarray) else b)


def _grad_assigned() -> Any:
    """backward() assigns to .grad, and does not add."""
    return _patched(_TENSOR_MODULE, "_sum", lambda a, b, create_graph: b)


def _nothing_masked() -> Any:
    return _patched(backward, "masked", lambda part, node, ct: part)


def _nothing_freed() -> Any:
    return _patched(_TENSOR_MODULE, "backward_pass", lambda *args, **settings:
                    backward.backward_pass(*args, **{**settings, "retain_graph": True}))


@contextmanager
def _another_function() -> Iterator[None]:
    """The public function runs another kernel than the op."""
    before = FUNCTIONS["tanh"]
    FUNCTIONS["tanh"] = unary(OPS["tanh"], lambda x: x / (1 + np.abs(x)))
    try:
        yield
    finally:
        FUNCTIONS["tanh"] = before


MUTANTS = (
    Mutant("X01", "matmul", "b not transposed", "transposed", broken(
        "matmul", "a", lambda right, ct, out, a, b: right(
            ct, out, a, _swapped(b).copy() if b.shape[-1] == b.shape[-2] else b))),
    Mutant("X02", "matmul", "a not transposed", "transposed", broken(
        "matmul", "b", lambda right, ct, out, a, b: right(
            ct, out, _swapped(a).copy() if a.shape[-1] == a.shape[-2] else a, b))),
    Mutant("X03", "matmul", "first matrix of the batch for all", "one sample", broken(
        "matmul", "a", lambda right, ct, out, a, b: right(
            ct, out, a, np.broadcast_to(b[:1], b.shape) if b.ndim > 2 else b))),
    Mutant("X04", "linear", "dw divided by the batch", "mean", broken(
        "linear", "w", lambda right, ct, *rest: right(ct, *rest) / len(ct))),
    Mutant("X05", "linear", "db of the first row", "one sample",
           broken("linear", "b", lambda right, ct, *rest: ct[0].copy())),
    Mutant("X06", "getitem", "repeated indices overwrite", "overwritten",
           broken("getitem", "x", _assigned)),
    Mutant("X07", "getitem", "negative step read forwards", "flipped",
           broken("getitem", "x", _positive_step)),
    Mutant("X08", "transpose", "permutation not inverted", "permuted",
           broken("transpose", "x", _forward_axes)),
    Mutant("X09", "reshape", "entries in column order", "permuted",
           broken("reshape", "x", _not_inverted)),
    Mutant("X10", "concatenate", "offset ignored", "shifted",
           broken("concatenate", "xs", _offset_ignored)),
    Mutant("X11", "broadcast_to", "one copy only", "one slice", broken(
        "broadcast_to", "x", lambda right, ct, out, x, *, shape:
        ct.reshape(-1)[:x.size].reshape(x.shape).copy())),
    Mutant("X12", "dropout", "another mask", "wrong place", broken(
        "dropout", "x", lambda right, ct, out, x, *, kept, scale: ct * np.roll(
            kept, 1, axis=-1) * ct.dtype.type(scale))),
    Mutant("X13", "dropout", "mask without its scale", "scale", broken(
        "dropout", "x", lambda right, ct, out, x, *, kept, scale: ct * kept)),
    Mutant("X14", "astype", "cotangent not cast back", "dtype",
           broken("astype", "x", lambda right, ct, out, x, *, dtype: ct)),
    Mutant("X15", "relu", "float64 gradient of float32", "dtype",
           post("relu", "x", lambda r: r.astype(np.float64))),
    Mutant("X16", "neg", "nothing at all", "dropped", post("neg", "x", np.zeros_like)),
    Mutant("K01", "exp", "writes into the cotangent", "in place", broken("exp", "x", _writes_ct)),
    Mutant("K02", "softplus", "writes into its input", "in place",
           broken("softplus", "x", _writes_x)),
    Mutant("K03", "max_pool2d", "residuals of the last call", "stateful", _stale()),
    Mutant("K04", "tanh", "depends on the number of calls", "stateful",
           broken("tanh", "x", _counting)),
    Mutant("K05", "sum_to", "memory of ct read from its start", "layout", broken(
        "sum_to", "x", _as_if_contiguous)),
    Mutant("K06", "softplus", "reads undeclared values", "reads", _undeclared),
    Mutant("K07", "gelu", "factor not recorded", "second order",
           as_given("gelu", "x", _constant_derivative), order=2),
    Mutant("K08", "tanh", "derivative of the factor doubled", "second order",
           as_given("tanh", "x", _scaled_twice), order=2),
    Mutant("K09", "transpose", "memory of ct read from its start", "layout",
           broken("transpose", "x", _as_if_contiguous)),
    Mutant("G01", "mul", "a second use overwrites the first", "reuse", lambda: OPS["mul"],
           _reuse_overwrites),
    Mutant("G02", "exp", "only the first use counts", "reuse", lambda: OPS["exp"],
           _first_use_only),
    Mutant("G03", "add", "sums written into shared arrays", "shared memory", lambda: OPS["add"],
           _writes_into_shared),
    Mutant("G04", "add", "two gradients in one array", "shared memory", lambda: OPS["add"],
           _nothing_copied),
    Mutant("G05", "mul", "recorded, a second use overwrites the first", "reuse",
           lambda: OPS["mul"], _tensors_overwrite),
    Mutant("G06", "relu", "backward assigns to .grad", "recording", lambda: OPS["relu"],
           _grad_assigned),
    Mutant("G07", "relu", "the graph is never freed", "recording", lambda: OPS["relu"],
           _nothing_freed),
    Mutant("G08", "tanh", "the public function runs another kernel", "public function",
           lambda: OPS["tanh"], _another_function),
    Mutant("G09", "div", "0 / 0 at a cotangent of 0", "zero", lambda: OPS["div"],
           _nothing_masked),
    Mutant("G10", "sqrt", "0 / 0 at a cotangent of 0", "zero", lambda: OPS["sqrt"],
           _nothing_masked),
    Mutant("G11", "softmax", "0 · NaN at a row of zero cotangents", "zero",
           lambda: OPS["softmax"], _nothing_masked),
)
