"""The checks that users call: of an op, of a function of tensors, of plain NumPy functions.

There are no tolerances to choose.  The Jacobian is measured from values alone, and the bound
follows from it (see ``linearization``).  Functions of more than `_WHOLE` entries are not
differenced entry by entry: complex steps along directions over blocks of entries, and along single
entries at both ends of every axis, are compared with the inner products of the gradient.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from types import CodeType
from typing import Any

import numpy as np

from tinygrad_cnn.core import Tensor, _wrap, apply, gradients
from tinygrad_cnn.core import grad as grad_of
from tinygrad_cnn.core.graph import Node
from tinygrad_cnn.core.op import FUNCTIONS, OPS, Array, ErrorInput, Op, Sample
from tinygrad_cnn.errors import DTypeError, GradientError, SettingError, TinygradCnnError
from tinygrad_cnn.kernels.threads import set_num_threads
from tinygrad_cnn.nn import Module
from tinygrad_cnn.ops import default_generator
from tinygrad_cnn.testing.cases import DERIVED, Case, samples_of
from tinygrad_cnn.testing.contract import PROPERTIES, properties_of, run_property
from tinygrad_cnn.testing.linearization import CheckFailed, Finding, Linearization, Stats, Subject
from tinygrad_cnn.testing.numeric import along, has_complex_form, slope_along
from tinygrad_cnn.testing.report import Report, mismatch

__all__ = ["check_gradients", "check_op", "check_sample", "check_vjp_pair", "find",
           "run_error_input", "start"]

_WHOLE = 2000               # entries up to which the whole Jacobian is measured
_SECONDS = 10.0             # and how long that may take
_BLOCKS = 16


# ---- ops

def check_op(op: Op | str | Callable[..., Tensor], *, order: int = 2, seed: int = 0) -> Report:
    """Test every backward rule of an op on every sample and kernel.

    The gradient is measured from the op's values alone: exactly, with ``==``, for inputs in
    ``exact_in`` and for ``piecewise_linear`` ops, else by complex steps or Ridders' extrapolation.
    The same run checks the contract: nothing is written or shared, results are reproducible and
    linear in the cotangent, a zero cotangent gives zero, dtypes and shapes are kept, memory layout
    does not matter, kernels agree, ``reads`` and ``ties`` are as declared, and the rule can be
    differentiated.

    Parameters
    ----------
    op : function, str or Op
        A function such as ``tc.conv2d`` or one that `custom_op` made, its name, or an `Op`.
    order : {1, 2}, default 2
        2 also tests the derivative of the rules.
    seed : int, default 0
        Of samples and cotangents.

    Returns
    -------
    Report
        Comparisons, worst error in units of its bound, seconds, and the method for each input.

    Raises
    ------
    GradientMismatch
        If a rule is wrong, a sample cannot be run, there is no sample, or nothing was compared.
    SettingError
        If no op has the name, or ``order`` is neither 1 nor 2.
    TypeError
        If ``op`` is no op.

    Examples
    --------
    >>> from tinygrad_cnn.testing import check_op
    >>> report = check_op("matmul")
    >>> report.verdict, report.methods
    ('right', {'a': 'exact', 'b': 'exact'})
    """
    declared = _declared(op, "check_op")
    if order not in (1, 2):
        raise SettingError(f"check_op: order must be 1 or 2, got {order}")
    began, stats = time.perf_counter(), Stats()
    with set_num_threads(1):                    # samples are small: other threads only cost time
        finding = find(declared, order=order, seed=seed, stats=stats)
    if finding is not None:
        raise mismatch(finding) from finding.error
    return Report.of(declared.name, stats, began)


def check_sample(op: Op | str | Callable[..., Tensor], sample: Sample, prop: str | None = None, *,
                 seed: int = 0) -> Report:
    """Test an op on one call.

    Parameters
    ----------
    op : function, str or Op
        As in `check_op`.
    sample : Sample
        The call.
    prop : str, optional
        One property, such as ``"gradient"``; all of them if not given.
    seed : int, default 0
        Of the cotangents.

    Returns
    -------
    Report

    Raises
    ------
    GradientMismatch
        If a rule is wrong there.
    SettingError
        If no op, or no property, has the name.
    TypeError
        If ``op`` is no op.

    Examples
    --------
    >>> from tinygrad_cnn.testing import check_sample
    >>> check_sample("exp", Sample("one", (np.array([1.0]),)), "gradient").verdict
    'right'
    """
    declared = _declared(op, "check_sample")
    if prop is not None and prop not in PROPERTIES:
        raise SettingError(f"check_sample: no property is called {prop!r}; choose from "
                           f"{', '.join(PROPERTIES)}")
    began, stats = time.perf_counter(), Stats()
    try:
        with set_num_threads(1):
            case = start(declared, sample, seed, stats)
            for name in (prop,) if prop is not None else properties_of(declared, sample):
                run_property(name, case)
    except CheckFailed as failed:
        raise mismatch(failed.finding) from failed.finding.error
    return Report.of(declared.name, stats, began)


def _declared(op: Any, owner: str) -> Op:
    """The op itself, the one of that name, or the one that a function applies."""
    if isinstance(op, Op):
        return op
    name = op if isinstance(op, str) else getattr(op, "__name__", "")
    found = getattr(op, "op", None)
    # A function of the package, and one that is registered as public, has the name of its op.
    if isinstance(op, str) or FUNCTIONS.get(name) is op \
            or str(getattr(op, "__module__", "")).startswith("tinygrad_cnn.ops."):
        found = OPS.get(name, found)
    if isinstance(found, Op):
        return found
    if isinstance(op, str):
        raise SettingError(f"{owner}: no op is called {op!r}; choose from {', '.join(OPS)}")
    raise TypeError(f"{owner}: {op!r} is not an op; pass a function that custom_op made, the name "
                    "of an op, or an Op, and test any other function with check_gradients")


def find(op: Op, *, order: int = 2, seed: int = 0, stats: Stats | None = None,
         extra: int = DERIVED) -> Finding | None:
    """The first thing that is wrong with an op, or None; ``extra`` samples are derived."""
    stats = Stats() if stats is None else stats
    seen = False
    try:
        for sample in drawn(op, seed, extra):
            case = start(op, sample, seed, stats)
            seen = seen or bool(case.out.size and sum(a.size for a in case.arrays))
            for name in properties_of(op, sample, order):
                run_property(name, case)
        for call in op.test.error_inputs:
            run_error_input(op, call, stats)
        if not seen:
            raise _failed("samples", op, "nothing was compared: no sample has entries")
    except CheckFailed as failed:
        return failed.finding
    return None


def drawn(op: Op, seed: int, extra: int = DERIVED) -> list[Sample]:
    """The samples on which an op is tested; a finding if there are none."""
    try:
        found = list(samples_of(op, seed, extra=extra))
    except Exception as error:
        raise _failed("samples", op, f"samples cannot be drawn: {error}", error) from error
    if not found:
        raise _failed("samples", op, "the op has no samples, so nothing of it is tested; yield at "
                      "least one from samples(rng)")
    return found


def _failed(prop: str, op: Op, detail: str, error: Exception | None = None,
            case: str = "") -> CheckFailed:
    return CheckFailed(Finding(prop, op.name, case, "", detail, error=error))


def start(op: Op, sample: Sample, seed: int, stats: Stats) -> Case:
    """A case of a sample that has been seen to run."""
    case = Case(op, sample, seed=seed, stats=stats)
    stats.prop = "samples"
    try:
        y = case.apply(case.tensors(case.arrays))
    except Exception as error:
        raise case.failed(f"the sample cannot be run: {error}", error=error) from error
    if y.dtype.kind != "f":
        raise case.failed(f"the op gives {y.dtype}, which is not differentiable")
    if not np.isfinite(y._data).all():
        raise case.failed("the sample gives NaN or infinity, which no gradient has")
    return case


def run_error_input(op: Op, call: ErrorInput, stats: Stats) -> None:
    """The call must fail with an error of ours that holds the words."""
    stats.comparisons += 1
    try:
        apply(op, *(None if s is None else Tensor(np.zeros(s)) for s in call.shapes),
              **call.settings)
    except Exception as error:
        if not isinstance(error, TinygradCnnError):
            detail = f"{type(error).__name__} instead of an error that explains: {error}"
        elif call.message in str(error):
            return
        else:
            detail = f"the error reads {str(error)!r}, expected the words {call.message!r}"
        raise _failed("refusals", op, detail, error, call.id) from error
    raise _failed("refusals", op, "the call must fail, and did not", case=call.id)


# ---- functions of tensors

def check_gradients(fn: Callable[..., Tensor], *inputs: Any, order: int = 1, seed: int = 0,
                    parameters: Sequence[Tensor] = ()) -> Report:
    """Test the gradient of a function of tensors, in every float input.

    What ``fn`` closes over is tested too: every tensor that requires a gradient and that the output
    depends on, such as the parameters of a model.  Random numbers from the default generator are
    replayed, and buffers of modules that ``fn`` names are put back, so dropout and batch
    normalization need no care.

    Parameters
    ----------
    fn : callable
        ``(*tensors)`` -> Tensor, the same for the same inputs.
    *inputs : Tensor, array_like or number
        Where to test.  What holds floats is tested, in float64 whatever its dtype; integers and
        booleans are passed on as tensors.
    order : int, default 1
        2 also tests the gradient of the gradient, and so on.
    seed : int, default 0
        Of the cotangents and directions.
    parameters : sequence of Tensor, optional
        More leaves to test, for instance such that the output does not depend on.

    Returns
    -------
    Report
        Comparisons, worst error in units of its bound, the method for each input, and notes on
        places that are not differentiable.

    Raises
    ------
    GradientMismatch
        If the gradient is wrong; the message names the likely mistake and the worst entry.
    GradientError
        If nothing can be tested: the function is random, writes to its inputs, does not return a
        float tensor with entries, gives NaN, or its output does not depend on any input.
    SettingError
        If ``order`` is below 1.
    TypeError
        If ``fn`` cannot be called.

    Examples
    --------
    >>> from tinygrad_cnn.testing import check_gradients
    >>> x, w = np.array([0.5, -1.0, 2.0]), np.array([3.0, 1.0, -2.0])
    >>> check_gradients(lambda x, w: (x * w).tanh().sum(), x, w, order=2).verdict
    'right'
    >>> check_gradients(lambda x: (x * x.detach()).sum(), x)
    Traceback (most recent call last):
        ...
    tinygrad_cnn.GradientMismatch: <lambda> x0, gradient: constant ratio: every entry is 0.5 ...
    """
    name = _name(fn, "check_gradients")
    if order < 1:
        raise SettingError(f"check_gradients: order must be at least 1, got {order}")
    began, stats = time.perf_counter(), Stats()
    with _in_float64(name, fn, inputs, parameters) as function:
        for n in range(order):
            title = "the gradient of " * n + name
            _check_subject(Subject(title, function.names, function.forward, function.pull),
                           function.arrays, seed, stats)
            function = _gradient_of(function, seed) if n < order - 1 else function
    return Report.of(name, stats, began)


def _name(fn: Any, owner: str) -> str:
    """What reports call a function."""
    if not callable(fn):
        raise TypeError(f"{owner}: {fn!r} is not a function")
    return str(getattr(fn, "__name__", type(fn).__name__))


class _Function:
    """A function of tensors, and the leaves that are moved to test it."""

    def __init__(self, name: str, fn: Callable[..., Any], leaves: Sequence[Array],
                 closed_over: Sequence[Tensor], modules: Sequence[Module]) -> None:
        self.name = name
        self.fn = fn
        self.leaves = leaves                    # one for each argument
        self.closed_over = tuple(closed_over)
        self.modules = modules
        self.names = (*(f"x{i}" for i in range(len(leaves))),
                      *(t.name or f"parameter {i}" for i, t in enumerate(closed_over)))

    @property
    def arrays(self) -> list[Array]:
        """Where the function is tested: its arguments, then what it closes over."""
        return [*self.leaves, *(t._data for t in self.closed_over)]

    @contextmanager
    def called(self, arrays: Sequence[Array]) -> Iterator[tuple[Any, list[Tensor]]]:
        """The output at these values, and the tensors that hold them; all is put back."""
        own, others = arrays[:len(self.leaves)], arrays[len(self.leaves):]
        tensors = [*(_wrap(a, a.dtype.kind in "fc", None) for a in own), *self.closed_over]
        before = [t._data for t in self.closed_over]
        buffers = [(m, name, a, a.copy()) for m in self.modules
                   for name, a in m.named_buffers(recurse=False)]
        generator = default_generator().bit_generator
        state = generator.state
        try:
            for t, a in zip(self.closed_over, others, strict=True):
                t._data = a
            with np.errstate(all="ignore"):
                y = self.fn(*tensors[:len(own)])
            for name, t, a in zip(self.names, tensors, arrays, strict=True):
                if t._data is not a and not np.array_equal(t._data, a, equal_nan=True):
                    raise GradientError(f"{self.name} writes to its input {name}; copy it first")
            yield y, tensors
        finally:
            generator.state = state             # the next call draws the same random numbers
            for t, a in zip(self.closed_over, before, strict=True):
                t._data = a
            for module, name, array, values in buffers:
                array[...] = values
                setattr(module, name, array)

    def forward(self, arrays: Sequence[Array]) -> Array:
        """The values of the function."""
        with self.called(arrays) as (y, _):
            if not isinstance(y, Tensor):
                raise GradientError(f"check_gradients: {self.name} returned {type(y).__name__}, "
                                    "expected one Tensor; combine several outputs with "
                                    "concatenate(), or test them one at a time")
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


@contextmanager
def _in_float64(name: str, fn: Callable[..., Any], inputs: Sequence[Any],
                parameters: Sequence[Tensor]) -> Iterator[_Function]:
    """The function, with all that it differentiates in float64 while the block runs."""
    leaves = []
    for i, x in enumerate(inputs):
        a = np.array(x._data if isinstance(x, Tensor) else x)
        if a.dtype.kind not in "fiub":
            raise GradientError(f"check_gradients: input {i} is {type(x).__name__}, expected a "
                                "tensor, an array or a number; close over anything else")
        leaves.append(a)
    owner = getattr(fn, "__self__", None)
    reached = [fn, *getattr(fn, "__dict__", {}).values(), *getattr(owner, "__dict__", {}).values()]
    modules = [part for m in _modules_of(reached, {}) for part in m.modules()]
    found = _closed_over(_Function(name, fn, leaves, (), modules))
    several = list({id(t): t for t in (*parameters, *found)}.values())
    before = [t._data for t in several]
    try:
        for t in several:
            t._data = t._data.astype(np.float64)
        yield _Function(name, fn, [a.astype(np.float64) if a.dtype.kind == "f" else a
                                   for a in leaves], several, modules)
    except DTypeError as error:
        raise GradientError(f"check_gradients: {name} mixes in tensors of float32, and is tested "
                            "in float64; pass them as inputs, or in parameters= "
                            f"({error})") from error
    finally:
        for t, a in zip(several, before, strict=True):
            t._data = a


def _modules_of(value: Any, seen: dict[int, Any]) -> Iterator[Module]:
    """The modules that a function can reach: itself, by closure, as globals, in containers."""
    if id(value) in seen:
        return
    seen[id(value)] = value
    if isinstance(value, Module):
        yield value
        return
    parts: list[Any] = [getattr(value, "__self__", None), getattr(value, "__func__", None),
                        getattr(value, "func", None), getattr(value, "args", None)]
    code = getattr(value, "__code__", None)
    if isinstance(code, CodeType):
        for cell in value.__closure__ or ():
            try:
                parts.append(cell.cell_contents)
            except ValueError:                  # not assigned yet
                continue
        parts += [value.__globals__.get(name) for name in _names_in(code)]
    elif isinstance(value, (list, tuple)):
        parts += value
    elif isinstance(value, dict):
        parts += value.values()
    for part in parts:
        if part is not None and not isinstance(part, (Tensor, np.ndarray, str, type)):
            yield from _modules_of(part, seen)


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names_in(inner)


def _closed_over(function: _Function) -> list[Tensor]:
    """The leaves that the function reaches and was not given."""
    # Parameters may be float32 or float64, whatever the inputs are: the first company that fits.
    for dtype in (None, np.float32, np.float64):
        given = [a.astype(dtype) if dtype is not None and a.dtype.kind == "f" else a.copy()
                 for a in function.leaves]
        try:
            with function.called(given) as (y, tensors):
                own = set(map(id, tensors))
                return [] if not isinstance(y, Tensor) else \
                    [t for t in _leaves_below(y) if id(t) not in own]
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


def _gradient_of(function: _Function, seed: int) -> _Function:
    """The function Σ u · (gradient of ⟨ct, fn⟩), whose gradient is a second derivative."""
    rng = np.random.default_rng([seed, 7])
    with function.called(function.arrays) as (y, tensors):
        ct = rng.normal(size=y.shape)
        weights = [rng.normal(size=t.shape) for t in tensors]

    def inner(*own: Tensor) -> Tensor:
        y = function.fn(*own)
        leaves = [(t, u) for t, u in zip((*own, *function.closed_over), weights, strict=True)
                  if t.dtype.kind in "fc"]
        parts = grad_of(y, [t for t, _ in leaves], _wrap(np.asarray(ct, y.dtype), False, None),
                        create_graph=True)
        total: Any = None
        for part, (_, u) in zip(parts, leaves, strict=True):
            if part is not None:
                term = (part * _wrap(np.asarray(u, part.dtype), False, None)).sum()
                total = term if total is None else total + term
        if total is None or not total.requires_grad:
            # A gradient that is constant: keep the connection to the inputs, with weight 0.
            nothing = sum((0.0 * t).sum() for t, _ in leaves)
            total = nothing if total is None else total + nothing
        return total

    return _Function(function.name, inner, function.leaves, function.closed_over, function.modules)


# ---- plain NumPy functions

def check_vjp_pair(forward: Callable[..., Any], vjp: Callable[..., Any], *arrays: Any,
                   seed: int = 0) -> Report:
    """Test a backward function on plain NumPy arrays, with no tensor at all.

    Parameters
    ----------
    forward : callable
        ``(*arrays)`` -> array.
    vjp : callable
        ``(ct, *arrays)`` -> the cotangent of each array, as one array or a tuple; None for an array
        without a gradient.
    *arrays : array_like
        Where to test; those of floats are tested, in float64.
    seed : int, default 0
        Of the cotangents and directions.

    Returns
    -------
    Report

    Raises
    ------
    GradientMismatch
        If ``vjp`` is wrong.
    GradientError
        If nothing can be tested: a function is random, writes to its arguments, or gives no finite
        floats; or ``vjp`` gives the wrong number of arrays.
    TypeError
        If ``forward`` or ``vjp`` cannot be called.

    Examples
    --------
    >>> from tinygrad_cnn.testing import check_vjp_pair
    >>> def dense(x, w): return x @ w
    >>> def dense_backward(ct, x, w): return ct @ w.T, x.T @ ct
    >>> x, w = np.arange(6.0).reshape(3, 2), np.arange(8.0).reshape(2, 4)
    >>> check_vjp_pair(dense, dense_backward, x, w).verdict
    'right'
    """
    name = _name(forward, "check_vjp_pair")
    _name(vjp, "check_vjp_pair")
    began, stats = time.perf_counter(), Stats()
    given = [np.asarray(a) for a in arrays]
    given = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in given]

    def values(inputs: Sequence[Array]) -> Array:
        y = forward(*inputs)
        if isinstance(y, (tuple, list)) or y is None:
            raise GradientError(f"{name} returned {type(y).__name__}, expected one array")
        return np.asarray(y)

    def pull(inputs: Sequence[Array], ct: Array) -> list[Array | None]:
        with np.errstate(all="ignore"):
            found = vjp(ct, *inputs)
        several = tuple(found) if isinstance(found, (tuple, list)) else (found,)
        if len(several) != len(inputs):
            raise GradientError(f"check_vjp_pair: vjp returned {len(several)} cotangents for "
                                f"{len(inputs)} arrays; return one for each, None for an array "
                                "without a gradient")
        return [None if part is None else np.asarray(part) for part in several]

    names = tuple(f"array {i}" for i in range(len(given)))
    _check_subject(Subject(name, names, values, pull), given, seed, stats)
    return Report.of(name, stats, began)


# ---- what functions and pairs have in common

def _check_subject(subject: Subject, arrays: Sequence[Array], seed: int, stats: Stats) -> None:
    """The gradient of a subject at these arrays, and what a pullback promises besides."""
    here = Linearization(subject, arrays, stats, capped=False)
    out, seconds = _usable(here)
    rng = np.random.default_rng(seed)
    cotangents = [rng.normal(size=out.shape) for _ in range(2)]
    entries = sum(arrays[k].size for k in here.wanted)
    whole = entries <= _WHOLE and 3 * entries * seconds <= _SECONDS \
        and entries * out.size <= 1 << 23
    try:
        _check_promises(here, cotangents, rng)
        stats.prop = "gradient"
        before = stats.comparisons
        for k in here.wanted:
            (_check_entries if whole else _check_directions)(here, k, cotangents, rng)
    except CheckFailed as failed:
        raise mismatch(failed.finding) from failed.finding.error
    if stats.comparisons == before:
        why = "every input is empty" if not entries else \
            "its derivative could not be measured: it is too rough, or computed in float32"
        raise GradientError(f"{subject.name}: nothing was compared: {why}")


def _usable(here: Linearization) -> tuple[Array, float]:
    """The output and the seconds that it takes, after refusing what cannot be tested."""
    subject, arrays, name = here.subject, here.arrays, here.subject.name
    if not here.wanted:
        raise GradientError(f"{name}: no input holds floats, so there is no gradient to test")
    for k in here.wanted:
        if not np.isfinite(arrays[k]).all():
            raise GradientError(f"{name}: {subject.inputs[k]} holds NaN or infinity")
    given = [a.copy() for a in arrays]
    began = time.perf_counter()
    out = np.array(subject.forward(given))
    seconds = time.perf_counter() - began
    for k, (now, then) in enumerate(zip(given, arrays, strict=True)):
        if not np.array_equal(now, then):
            raise GradientError(f"{name} writes to its input {subject.inputs[k]}; copy it first")
    if out.dtype.kind != "f":
        raise GradientError(f"{name} gives {out.dtype}, which is not differentiable")
    if not out.size:
        raise GradientError(f"{name} gives a result without entries, of shape {out.shape}: there "
                            "is nothing to compare")
    if not np.isfinite(out).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(out))[0])
        raise GradientError(f"{name} gives {out[place]} at {place}: test it where it is finite")
    if not np.array_equal(np.array(subject.forward([a.copy() for a in arrays])), out):
        raise GradientError(f"{name} gives other values when called again: it is random or keeps "
                            "state; draw random numbers outside and pass them in")
    return out, seconds


def _check_promises(here: Linearization, cotangents: Sequence[Array],
                    rng: np.random.Generator) -> None:
    """A pullback writes nothing, repeats itself, and is linear in the cotangent."""
    subject, arrays, stats = here.subject, here.arrays, here.stats
    ct, second = cotangents
    given, kept = [a.copy() for a in arrays], ct.copy()
    first = [None if p is None else p.copy() for p in subject.pull(given, kept)]
    stats.prop = "writes nothing"
    for what, now, then in (*zip(subject.inputs, given, arrays, strict=True),
                            ("the cotangent", kept, ct)):
        stats.comparisons += now.size
        if not np.array_equal(now, then):
            raise here.failed(f"the backward pass writes into {what}")
    again, none, double, both, other = (subject.pull(arrays, c) for c in (
        ct, np.zeros_like(ct), 2 * ct, ct + second, second))
    noise = here.noise(np.abs(ct) + np.abs(second), np.float64, rng)
    for k in here.wanted:
        part, total, more = first[k], both[k], other[k]
        if part is None:
            continue
        for prop, got, expected, detail in (
                ("re-entrant", again[k], part, "the same backward pass gives another result"),
                ("zero gives zero", none[k], np.zeros(arrays[k].shape),
                 "a cotangent of zero does not give zero"),
                ("linear in the cotangent", double[k], 2 * part,
                 "twice the cotangent does not give twice the result")):
            stats.prop = prop
            here.compare_arrays(k, got, expected, 0.0, detail)
        if total is not None and more is not None:
            scale = float((np.abs(part) + np.abs(more)).max(initial=0.0))
            here.compare_arrays(k, total, part + more,
                                1e-12 * scale + 32 * noise[k].max(initial=0.0),
                                "the result of a sum is not the sum of the results")


def _check_entries(here: Linearization, k: int, cotangents: Sequence[Array],
                   rng: np.random.Generator) -> None:
    """Every entry of the gradient in input ``k``."""
    name = here.subject.inputs[k]
    here.stats.methods[name] = here.measured(k).method
    for ct in cotangents:
        bound = here.bound(k, ct, here.noise(ct, np.float64, rng))
        size = here.size(k, ct).max(initial=0.0)
        known = bound[np.isfinite(bound)].max(initial=0.0)
        if known > 1e-6 * size > 0:
            here.stats.note(f"ill-conditioned: {name} could be tested to {known / size:.0e} of the "
                            "largest entry only")
        here.compare(k, here.subject.pull(here.arrays, ct)[k], ct, bound)


def _check_directions(here: Linearization, k: int, cotangents: Sequence[Array],
                      rng: np.random.Generator) -> None:
    """Inner products of the gradient in input ``k`` with directions over many entries or one."""
    x, name, stats = here.arrays[k], here.subject.inputs[k], here.stats
    forward, arrays = here.subject.forward, here.arrays
    stats.methods[name] = "adjoint"
    pulled = []
    for ct in cotangents:
        part = here.subject.pull(arrays, ct)[k]
        noise = here.noise(ct, np.float64, rng)[k]
        pulled.append((ct.reshape(-1), np.zeros(x.shape) if part is None else part,
                       np.maximum(noise, 0.25 * noise.max(initial=0.0))))
    several = list(_directions(x, rng))
    complex_form = has_complex_form(forward, arrays, k, [d for d, _ in several[:2]])
    for direction, place in several:
        precise = along(forward, arrays, k, direction) if complex_form else None
        slope, error = slope_along(forward, arrays, k, direction) \
            if precise is None else (precise, np.zeros(precise.shape))
        if not np.isfinite(error).all():
            stats.note(f"not differentiable here: {name} along a direction")
            continue
        for ct, part, noise in pulled:
            expected, got = float(slope @ ct), float((part * direction).sum())
            size = np.abs(slope) @ np.abs(ct) + np.abs(part * direction).sum()
            bound = (64 * np.finfo(np.float64).eps * size + 10 * (error @ np.abs(ct))
                     + 8 * np.linalg.norm(noise * direction) + 1e-300)
            stats.comparisons += 1
            off = abs(got - expected)
            if not off <= bound:
                where = f"at {place}" if place is not None else "along a random direction"
                raise here.failed(f"{where} the slope is {expected:.12g}, the gradient says "
                                  f"{got:.12g}", k, expected=np.array(expected), got=np.array(got))
            stats.worst = max(stats.worst, off / bound)


def _directions(x: Array, rng: np.random.Generator) -> Iterator[tuple[Array, Any]]:
    """Random directions over blocks of entries, then single entries: ends of axes, and more."""
    blocks = rng.integers(0, _BLOCKS, x.shape)
    for block in range(_BLOCKS):
        yield np.where(blocks == block, rng.choice([-1.0, 1.0], x.shape)
                       * rng.uniform(0.5, 1.5, x.shape), 0.0), None
    corners = set(product(*((0, n - 1) for n in x.shape))) if x.ndim <= 5 else set()
    some = {tuple(int(rng.integers(n)) for n in x.shape) for _ in range(16)}
    for place in sorted(corners | some):
        direction = np.zeros(x.shape)
        direction[place] = 1.0
        yield direction, place
