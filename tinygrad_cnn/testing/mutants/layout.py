"""Mistakes in matrix products, in ops that move entries, in contracts, and in the engine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_cnn import graph
from tinygrad_cnn.op import FUNCTIONS, OPS, Array, Op
from tinygrad_cnn.tensor import Tensor, _wrap, derivatives, unary, value
from tinygrad_cnn.testing.mutants.mutant import Mutant, broken, post, replaced

__all__ = ["MUTANTS"]


# ---- matrix products and layout

def _assigned(right: Any, ct: Any, out: Any, x: Any, *, index: Any) -> Array:
    """= instead of +=, where an index names an entry repeatedly."""
    dx = np.zeros_like(x._data)
    dx[index] = ct._data
    return dx


def _positive_step(right: Any, ct: Any, out: Any, x: Any, *, index: Any) -> Any:
    """Takes a slice of negative step for one of positive step, from the same end."""
    other = tuple(slice(i.start, i.stop, -i.step) if isinstance(i, slice) and (i.step or 1) < 0
                  else i for i in index)
    fits = np.zeros(x.shape)[other].shape == ct.shape
    return right(ct, out, x, index=other if fits else index)


def _forward_axes(right: Any, ct: Any, out: Any, x: Any, *, axes: Any) -> Array:
    """The permutation itself instead of its inverse, forced into shape."""
    return np.asarray(ct._data.transpose(axes).reshape(x.shape))


def _not_inverted(right: Any, ct: Any, out: Any, x: Any, *, shape: Any) -> Array:
    """Reads the entries in column order."""
    return np.asarray(ct._data.reshape(x.shape, order="F"))


def _offset_ignored(right: Any, ct: Any, out: Any, *xs: Any, axis: int, index: int) -> Array:
    n = xs[index].shape[axis]
    return np.asarray(np.take(ct._data, range(n), axis))


def _swapped(x: Array) -> Array:
    return np.asarray(np.swapaxes(x, -1, -2))


# ---- contracts

def _writes_ct(right: Any, ct: Any, out: Any, x: Any, **s: Any) -> Any:
    made = right(ct, out, x, **s)._data.copy()
    ct._data *= 2
    return made


def _writes_x(right: Any, ct: Any, out: Any, x: Any, **s: Any) -> Any:
    made = right(ct, out, x, **s)._data.copy()
    x._data += 1
    return made


def _gives_x_away(right: Any, ct: Any, out: Any, x: Any, **s: Any) -> Any:
    """The right numbers, in the memory of the input."""
    np.copyto(x._data, right(ct, out, x, **s)._data)
    return x._data


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

        wrong = broken("max_pool2d", "x", lambda right, ct, out, x, *, winners, **s: right(
            ct, out, x, winners=last["winners"] if last["winners"].shape == winners.shape
            else winners, **s))()
        return replaced(wrong, kernels={"array": remembering})
    return make


def _counting(right: Any, ct: Any, out: Any, x: Any, **s: Any) -> Any:
    """Gives more each time it is called on the same cotangent array."""
    _CALLS.append(None)
    return right(ct, out, x, **s)._data * (1 + 2.0 ** -30 * (len(_CALLS) % 7))


_CALLS: list[None] = []


def _as_if_contiguous(right: Any, ct: Any, out: Any, x: Any, **s: Any) -> Any:
    """Reads the memory of the cotangent from its start to its end."""
    base = ct._data
    while isinstance(base.base, np.ndarray):
        base = base.base
    return right(Tensor(np.resize(base.ravel(order="K"), ct.shape)), out, x, **s)


def _undeclared() -> Op:
    """Reads its input, which the declaration says it does not."""
    return replaced(broken("softplus", "x", lambda right, ct, out, x: ct / (1.0 + (-x).exp()))(),
                    reads=())


def _constant_derivative(right: Any, ct: Any, out: Any, x: Any, **s: Any) -> Any:
    """Right at first order, but the factor is not recorded."""
    return ct * right(Tensor(np.ones(ct.shape, ct.dtype)), out.detach(), x.detach(), **s).detach()


def _scaled_twice(right: Any, ct: Any, out: Any, x: Any) -> Any:
    """Right at first order; the derivative of the factor counts twice."""
    factor = 1.0 - out * out
    return ct * (factor + (factor - factor.detach()))


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
    return _patched(graph._ArrayStep, "add", lambda self, a, b, may_write: b)


def _first_use_only() -> Any:
    return _patched(graph._ArrayStep, "add", lambda self, a, b, may_write: a)


def _writes_into_shared() -> Any:
    """Adds into an array that other places still hold."""
    def add(self: Any, a: Array, b: Array, may_write: bool) -> Array:
        return np.add(a, b, out=a) if a.flags.writeable else np.asarray(a + b)
    return _patched(graph._ArrayStep, "add", add)


def _nothing_copied() -> Any:
    """Gives out whatever array a rule passed on, twice if need be."""
    def separate(found: dict[Any, Any], ct: Any, create_graph: bool) -> dict[Any, Any]:
        return found if create_graph else {k: _wrap(v, False, None)
                                           for k, v in found.items()}
    return _patched(derivatives, "_separate", separate)


def _tensors_overwrite() -> Any:
    return _patched(graph._TensorStep, "add", lambda self, a, b, may_write: b)


def _grad_assigned() -> Any:
    """backward() assigns to .grad, and does not add."""
    return _patched(value, "_sum", lambda a, b, create_graph: b)


def _nothing_freed() -> Any:
    walk = graph._walk


    def retaining(last: Any, seed: Any, step: Any, useful: Any, wanted: Any, retain: bool,
                  observer: Any) -> Any:
        return walk(last, seed, step, useful, wanted, True, observer)
    return _patched(graph, "_walk", retaining)


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
            ct, out, a, Tensor(_swapped(b._data).copy()) if b.shape[-1] == b.shape[-2] else b))),
    Mutant("X02", "matmul", "a not transposed", "transposed", broken(
        "matmul", "b", lambda right, ct, out, a, b: right(
            ct, out, Tensor(_swapped(a._data).copy()) if a.shape[-1] == a.shape[-2] else a, b))),
    Mutant("X03", "matmul", "first matrix of the batch for all", "one sample", broken(
        "matmul", "a", lambda right, ct, out, a, b: right(
            ct, out, a, Tensor(np.broadcast_to(b._data[:1], b.shape)) if b.ndim > 2 else b))),
    Mutant("X04", "linear", "dw divided by the batch", "mean", broken(
        "linear", "w", lambda right, ct, *rest: right(ct, *rest)._data / len(ct))),
    Mutant("X05", "linear", "db of the first row", "one sample",
           broken("linear", "b", lambda right, ct, *rest: ct._data[0].copy())),
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
        ct._data.reshape(-1)[:x.size].reshape(x.shape).copy())),
    Mutant("X12", "dropout", "another mask", "wrong place", broken(
        "dropout", "x", lambda right, ct, out, x, *, mask: ct._data * np.roll(
            mask, 1, axis=-1).astype(ct.dtype))),
    Mutant("X13", "dropout", "mask without its scale", "scale", broken(
        "dropout", "x", lambda right, ct, out, x, *, mask: ct._data * (mask > 0))),
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
           broken("gelu", "x", _constant_derivative), order=2),
    Mutant("K08", "tanh", "derivative of the factor doubled", "second order",
           broken("tanh", "x", _scaled_twice), order=2),
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
)
