"""The checks that users call: of an op, of a function of tensors, of plain functions of arrays.

The Jacobian is measured from values alone, and the bound follows from it (see ``linearization``).
Functions of more than 2000 entries are not differenced entry by entry: the derivatives along
directions over blocks of entries, and along single entries at both ends of every axis, are compared
with the inner products of the gradient.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import DTypeLike

from tinygrad_cnn.core import Tensor, apply
from tinygrad_cnn.core.op import FUNCTIONS, OPS, ErrorInput, Op, Sample
from tinygrad_cnn.errors import GradientError, MissingExtraError, SettingError, TinygradCnnError
from tinygrad_cnn.kernels.parallel import set_num_threads
from tinygrad_cnn.testing.cases import DERIVED, Call, Case, OpCase, is_derived, samples_of
from tinygrad_cnn.testing.contract import EVERYWHERE, PROPERTIES, properties_of, run_property
from tinygrad_cnn.testing.functions import (
    arguments,
    in_dtype,
    jax_function,
    name_of,
    pair,
    plain,
    torch_function,
)
from tinygrad_cnn.testing.linearization import CheckFailed, Finding, Stats, Subject
from tinygrad_cnn.testing.report import Report, mismatch
from tinygrad_cnn.types import Array

__all__ = ["check_gradients", "check_jax", "check_op", "check_sample", "check_torch",
           "check_vjp_pair", "find", "run_error_input", "start"]


# ---- ops

def check_op(op: Op | str | Callable[..., Tensor], *, order: int = 2, seed: int = 0,
             derived: int = DERIVED) -> Report:
    """Test every backward rule of an op on every sample and kernel.

    The gradient is measured from the op's values alone: exactly, with ``==``, for inputs in
    ``exact_in`` and for ``piecewise_linear`` ops, else by complex steps or by differences.
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
    derived : int, default 3
        How many calls with other sizes and settings are made from the samples, besides some with
        special values; more for an op with one sample or two.  0 tests the samples alone.

    Returns
    -------
    Report
        Comparisons, worst error in units of its bound, seconds, and the method for each input.

    Raises
    ------
    GradientMismatch
        If a rule is wrong, a sample cannot be run, there is no sample, or nothing was compared.
    SettingError
        If no op has the name, ``order`` is neither 1 nor 2, or ``derived`` is below 0.
    TypeError
        If ``op`` is no op.

    Examples
    --------
    >>> from tinygrad_cnn.testing import check_op
    >>> report = check_op("matmul")
    >>> report.verdict, report.methods
    ('right', {'a': 'exact', 'b': 'exact'})
    """
    __tracebackhide__ = True
    declared = _declared(op, "check_op")
    if order not in (1, 2):
        raise SettingError(f"check_op: order must be 1 or 2, got {order}")
    if derived < 0:
        raise SettingError(f"check_op: derived must be at least 0, got {derived}")
    began, stats = time.perf_counter(), Stats()
    with set_num_threads(1):                    # samples are small: other threads only cost time
        finding = find(declared, order=order, seed=seed, stats=stats, extra=derived)
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
    __tracebackhide__ = True
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


def _declared(op: object, owner: str) -> Op:
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
            notes = {k: list(v) for k, v in stats.unmeasured.items()}
            for name in properties_of(op, sample, order):
                run_property(name, case)
            if is_derived(sample):              # kinks are looked for there: they are no news
                stats.unmeasured = notes
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


def start(op: Op, sample: Sample, seed: int, stats: Stats) -> OpCase:
    """A case of a sample that has been seen to run."""
    case = OpCase(op, sample, seed=seed, stats=stats)
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


# ---- functions

def check_gradients(fn: Callable[..., object], *inputs: object, order: int = 1, seed: int = 0,
                    parameters: Sequence[Tensor] = (), dtype: DTypeLike = np.float64,
                    rtol: float | None = None) -> Report:
    """Test the gradient of a function of tensors, in every float input.

    What ``fn`` closes over is tested too: every tensor that requires a gradient and that the output
    depends on, such as the parameters of a model.  Random numbers from the default generator are
    replayed, and buffers of modules that ``fn`` names are put back, so dropout and batch
    normalization need no care.

    Parameters
    ----------
    fn : callable
        ``(*tensors)`` -> Tensor, or a tuple, list or dictionary of them; the same for the same
        inputs.
    *inputs : Tensor, array_like, number, or a list, tuple or dictionary of tensors or arrays
        Where to test.  What holds floats is tested; integers and booleans are passed on.
    order : int, default 1
        2 also tests the gradient of the gradient, in the inputs and in the cotangent, and so on.
    seed : int, default 0
        Of the cotangents and directions.
    parameters : sequence of Tensor, optional
        More leaves to test, for instance such that the output does not depend on.
    dtype : {numpy.float64, numpy.float32}, default float64
        In which everything is computed, whatever the dtype of the inputs and parameters.
    rtol : float, optional
        A relative error that is allowed, for functions that are approximate.

    Returns
    -------
    Report
        The verdict, comparisons, worst error in units of its bound, how each input was measured and
        how precisely, and which entries were not.

    Raises
    ------
    GradientMismatch
        If the gradient is wrong; the message names the likely mistake and the worst entry.
    GradientError
        If nothing can be tested: the function is random, writes to its inputs, does not return a
        float tensor with entries, gives NaN, or its output does not depend on any input.
    SettingError
        If ``order`` is below 1, ``rtol`` is not above 0, or ``dtype`` is another one.
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
    __tracebackhide__ = True
    name, chosen = name_of(fn, "check_gradients"), _chosen("check_gradients", dtype, rtol)
    if order < 1:
        raise SettingError(f"check_gradients: order must be at least 1, got {order}")
    began, stats = time.perf_counter(), Stats()
    given = arguments("check_gradients", inputs, chosen, "x")
    with in_dtype(name, fn, given, parameters, chosen) as function:
        for n in range(order):
            _check_function(function.subject, function.arrays, seed, stats, rtol, chosen,
                            Call("check_gradients", (fn,), inputs, {
                                "order": order if order > 1 else None, **_said(chosen, rtol)}),
                            float32=False)
            function = function.gradient(seed) if n < order - 1 else function
    return Report.of(name, stats, began, rtol)


def check_vjp_pair(forward: Callable[..., object], vjp: Callable[..., object], *arrays: object,
                   seed: int = 0, dtype: DTypeLike = np.float64,
                   rtol: float | None = None) -> Report:
    """Test a backward function on plain NumPy arrays, with no tensor at all.

    ``forward`` is called before each ``vjp``, so a layer may keep what its backward pass needs.

    Parameters
    ----------
    forward : callable
        ``(*arrays)`` -> array, or a tuple, list or dictionary of arrays.
    vjp : callable
        ``(ct, *arrays)`` -> the cotangent of each array, as one array or a tuple; None for an array
        without a gradient.  ``ct`` has the structure of the result.
    *arrays : array_like, or a list, tuple or dictionary of arrays
        Where to test; those of floats are tested.
    seed, dtype, rtol
        As in `check_gradients`.

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
    SettingError
        If ``rtol`` is not above 0, or ``dtype`` is neither float64 nor float32.
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
    __tracebackhide__ = True
    name, chosen = name_of(forward, "check_vjp_pair"), _chosen("check_vjp_pair", dtype, rtol)
    name_of(vjp, "check_vjp_pair")
    given = arguments("check_vjp_pair", arrays, chosen, "array ")
    return _report(pair(name, forward, vjp, given), given.arrays, seed, rtol, chosen,
                   Call("check_vjp_pair", (forward, vjp), arrays, _said(chosen, rtol)))


def check_torch(function: Callable[..., object], *tensors: object, seed: int = 0,
                dtype: DTypeLike = np.float64, rtol: float | None = None) -> Report:
    """Test the gradient of a function of PyTorch's tensors.

    ``function`` may be the ``apply`` of a ``torch.autograd.Function``.  It is asked for more than
    `torch.autograd.gradcheck` asks: other layouts in memory, float32, cotangents of any size,
    nothing written in place, and tighter bounds.

    Parameters
    ----------
    function : callable
        ``(*tensors)`` -> tensor, or a tuple, list or dictionary of tensors.
    *tensors : torch.Tensor or array_like
        Where to test; those of floats are tested.
    seed, dtype, rtol
        As in `check_gradients`.

    Returns
    -------
    Report

    Raises
    ------
    GradientMismatch, GradientError, SettingError, TypeError
        As `check_gradients` does.
    MissingExtraError
        If PyTorch is not installed.
    """
    __tracebackhide__ = True
    return _check_other("torch", torch_function, function, tensors, seed, dtype, rtol)


def check_jax(function: Callable[..., object], *arrays: object, seed: int = 0,
              dtype: DTypeLike = np.float64, rtol: float | None = None) -> Report:
    """Test the gradient of a function of JAX's arrays, such as one with ``jax.custom_vjp``.

    Parameters
    ----------
    function : callable
        ``(*arrays)`` -> array, or a tuple, list or dictionary of arrays.
    *arrays : array_like
        Where to test; those of floats are tested, in float64 whatever JAX is set to.
    seed, dtype, rtol
        As in `check_torch`, which also tells what is returned and raised.
    """
    __tracebackhide__ = True
    return _check_other("jax", jax_function, function, arrays, seed, dtype, rtol)


def _check_other(package: str, make: Callable[..., Subject], function: Callable[..., object],
                 values: Sequence[object], seed: int, dtype: DTypeLike,
                 rtol: float | None) -> Report:
    __tracebackhide__ = True
    owner = f"check_{package}"
    name, chosen = name_of(function, owner), _chosen(owner, dtype, rtol)
    if name == "apply":
        holder = getattr(function, "__self__", None)
        name = getattr(holder, "__name__", name)
    given = arguments(owner, values, chosen, "x")
    try:
        subject = make(name, function, given)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{owner} needs {package}: pip install {package}") from error
    return _report(subject, given.arrays, seed, rtol, chosen,
                   Call(owner, (function,), [*map(plain, values)], _said(chosen, rtol)))


# ---- what functions have in common

def _said(dtype: np.dtype, rtol: float | None) -> dict[str, object]:
    """Settings that are not the default."""
    return {"dtype": str(dtype) if dtype != np.float64 else None, "rtol": rtol}


def _chosen(owner: str, dtype: DTypeLike, rtol: float | None) -> np.dtype:
    chosen = np.dtype(dtype)
    if chosen not in (np.float64, np.float32):
        raise SettingError(f"{owner}: dtype must be float64 or float32, got {chosen}")
    if rtol is not None and not 0 < rtol < 1:
        raise SettingError(f"{owner}: rtol must be between 0 and 1, got {rtol}")
    return chosen


def _report(subject: Subject, arrays: Sequence[Array], seed: int, rtol: float | None,
            dtype: np.dtype, call: Call) -> Report:
    __tracebackhide__ = True
    began, stats = time.perf_counter(), Stats()
    _check_function(subject, arrays, seed, stats, rtol, dtype, call)
    return Report.of(subject.name, stats, began, rtol)


def _check_function(subject: Subject, arrays: Sequence[Array], seed: int, stats: Stats,
                    rtol: float | None, dtype: np.dtype, call: Call, float32: bool = True) -> None:
    """The gradient of a subject at these arrays, and what a pullback promises besides."""
    __tracebackhide__ = True
    case = Case(subject, arrays, seed=seed, stats=stats, rtol=rtol, dtype=dtype)
    case.call = call
    _refuse(case)
    compared = 0
    try:
        for prop in EVERYWHERE:
            if prop == "float32" and not (float32 and dtype == np.float64):
                continue
            before = stats.comparisons
            run_property(prop, case)
            compared += stats.comparisons - before if prop == "gradient" else 0
    except CheckFailed as failed:
        if isinstance(failed.finding.error, GradientError):
            raise failed.finding.error from None    # it cannot be tested, and says why
        raise mismatch(failed.finding) from failed.finding.error
    if not compared:
        why = "every input is empty" if not any(a.size for a in arrays) else \
            "its derivative could not be measured: it is too rough, or computed in float32; " \
            "dtype=np.float32 and rtol= say so"
        raise GradientError(f"{subject.name}: nothing was compared: {why}")


def _refuse(case: Case) -> None:
    """Refuse what cannot be tested."""
    subject, arrays, name = case.subject, case.arrays, case.subject.name
    floats = [k for k, x in enumerate(arrays) if x.dtype.kind == "f"]
    if not floats:
        raise GradientError(f"{name}: no input holds floats, so there is no gradient to test")
    for k in floats:
        if not np.isfinite(arrays[k]).all():
            raise GradientError(f"{name}: {subject.inputs[k]} holds NaN or infinity")
    given = [a.copy() for a in arrays]
    out = case.here.out = np.array(subject.forward(given))
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
