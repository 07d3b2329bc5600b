"""Test an op from its declaration alone: samples × properties, and refusals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from tinygrad_cnn.errors import GradientMismatch, TinygradCnnError
from tinygrad_cnn.kernels.threads import set_num_threads
from tinygrad_cnn.op import Op, Reject, Sample
from tinygrad_cnn.tensor import Tensor, apply
from tinygrad_cnn.testing.cases import DERIVED, cases, is_derived
from tinygrad_cnn.testing.explain import mismatch
from tinygrad_cnn.testing.properties import PROPERTIES, run_property
from tinygrad_cnn.testing.report import Finding, Report, Tally, Wrong
from tinygrad_cnn.testing.trial import Trial

__all__ = ["check_op", "check_sample", "find", "properties_of", "run_reject"]


_NUMBERS = ("gradient", "float32", "at kinks", "linear in the cotangent", "memory layout",
            "kernels agree", "second order")


def properties_of(op: Op, sample: Sample, order: int = 2) -> tuple[str, ...]:
    """Names of the properties that are checked on a sample of the op.

    Derived calls are asked for right numbers, the op's own samples for the whole contract.
    """
    return tuple(name for name in (_NUMBERS if is_derived(sample) else PROPERTIES)
                 if (name != "second order" or order > 1)
                 and (name != "at kinks" or op.piecewise_linear or op.ties is not None)
                 and (name != "kernels agree" or len(op.kernels) > 1))


def check_op(op: Op | Callable[..., Tensor], *, order: int = 2, seed: int = 0) -> Report:
    """Test every backward rule of an op on every sample and kernel.

    The gradient is measured from the op's values alone: exactly, with ``==``, for inputs in
    ``affine_in`` and for ``piecewise_linear`` ops, else by complex steps or Ridders' extrapolation.
    The same run checks the contract: nothing is written or shared, results are reproducible and
    linear in the cotangent, a zero cotangent gives zero, dtypes and shapes are kept, memory layout
    does not matter, kernels agree, ``reads`` is honoured, ties follow ``ties``, and the rule can be
    differentiated.

    Parameters
    ----------
    op : Op or function
        An op, or a function that has one as its attribute ``op``, as `custom_op` makes them.
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

    Examples
    --------
    >>> from tinygrad_cnn.testing import check_op
    >>> report = check_op(OPS["matmul"])
    >>> report.verdict, report.methods
    ('right', {'a': 'exact', 'b': 'exact'})
    """
    declared = _declared(op, "check_op")
    began = time.perf_counter()
    tally = Tally()
    with set_num_threads(1):                    # samples are small: other threads only cost time
        finding = find(declared, order=order, seed=seed, tally=tally)
    if finding is not None:
        raise mismatch(finding) from finding.error
    return tally.report(declared.name, time.perf_counter() - began)


def check_sample(op: Op | Callable[..., Tensor], sample: Sample, prop: str | None = None, *,
                 seed: int = 0) -> Report:
    """Test an op on one call.

    Parameters
    ----------
    op : Op or function
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

    Examples
    --------
    >>> from tinygrad_cnn.testing import check_sample
    >>> check_sample(OPS["exp"], Sample("one", (np.array([1.0]),)), "gradient").verdict
    'right'
    """
    declared = _declared(op, "check_sample")
    began = time.perf_counter()
    tally = Tally()
    try:
        with set_num_threads(1):
            trial = start(declared, sample, seed, tally)
            for name in (prop,) if prop is not None else properties_of(declared, sample):
                run_property(name, trial)
    except Wrong as wrong:
        raise mismatch(wrong.finding) from wrong.finding.error
    return tally.report(declared.name, time.perf_counter() - began)


def _declared(op: Op | Callable[..., Tensor], who: str) -> Op:
    """The op itself, or the one that a function carries."""
    declared = op if isinstance(op, Op) else getattr(op, "op", None)
    if not isinstance(declared, Op):
        raise GradientMismatch(f"{who}: {op!r} is no Op and has no attribute op; pass OPS[name], "
                               "or check a plain function with check_gradients")
    return declared


def find(op: Op, *, order: int = 2, seed: int = 0, tally: Tally | None = None,
         extra: int = DERIVED) -> Finding | None:
    """The first thing that is wrong with an op, or None; ``extra`` cases are derived."""
    tally = Tally() if tally is None else tally
    seen = False
    try:
        for trial in trials(op, seed, tally, extra):
            seen = seen or bool(trial.out.size and sum(a.size for a in trial.arrays))
            for name in properties_of(op, trial.sample, order):
                run_property(name, trial)
        for reject in op.rejects:
            run_reject(op, reject, tally)
        if not seen:
            raise Wrong(Finding("samples", op.name, "", "", "nothing was compared: no sample has "
                                "entries"))
    except Wrong as wrong:
        return wrong.finding
    return None


def trials(op: Op, seed: int, tally: Tally, extra: int = DERIVED) -> Iterator[Trial]:
    """A trial for each case of the op."""
    try:
        found = list(cases(op, seed, extra=extra))
    except Exception as error:
        raise Wrong(Finding("samples", op.name, "", "", f"samples cannot be drawn: {error}",
                            error=error)) from error
    if not found:
        raise Wrong(Finding("samples", op.name, "", "", "the op has no samples, so nothing of it "
                            "is tested; yield at least one from samples(rng)"))
    for sample in found:
        yield start(op, sample, seed, tally)


def start(op: Op, sample: Sample, seed: int, tally: Tally) -> Trial:
    """A trial of a sample that has been seen to run."""
    trial = Trial(op, sample, seed=seed, tally=tally)
    try:
        y = trial.apply(trial.tensors(trial.arrays))
    except Exception as error:
        raise trial.wrong("samples", f"the sample cannot be run: {error}", error=error) from error
    if y.dtype.kind != "f":
        raise trial.wrong("samples", f"the op gives {y.dtype}, which carries no gradient")
    if not np.isfinite(y._data).all():
        raise trial.wrong("samples", "the sample gives NaN or infinity, which no gradient has")
    return trial


def run_reject(op: Op, reject: Reject, tally: Tally) -> None:
    """The call must fail with an error of ours that holds the words."""
    tally.comparisons += 1
    try:
        apply(op, *(None if s is None else Tensor(np.zeros(s)) for s in reject.shapes),
              **reject.settings)
    except TinygradCnnError as error:
        if reject.message in str(error):
            return
        raise Wrong(Finding("refusals", op.name, reject.id, "", f"the error reads {str(error)!r}, "
                            f"expected the words {reject.message!r}", error=error)) from error
    except Exception as error:
        raise Wrong(Finding("refusals", op.name, reject.id, "",
                            f"{type(error).__name__} instead of an error that explains: {error}",
                            error=error)) from error
    raise Wrong(Finding("refusals", op.name, reject.id, "", "the call must fail, and did not"))
