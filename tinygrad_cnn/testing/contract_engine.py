"""What an op promises through the engine: to be recorded, added up, freed, called by name."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from tinygrad_cnn.errors import GraphFreedError
from tinygrad_cnn.graph import no_grad
from tinygrad_cnn.op import FUNCTIONS, OPS, Array
from tinygrad_cnn.tensor import Tensor, gradients
from tinygrad_cnn.testing.trial import Trial

__all__ = ["called_by_name", "records_and_frees"]

_LARGE = 1024               # entries of an array whose unread values the engine does not keep


def records_and_frees(trial: Trial) -> None:
    """backward() adds to .grad and frees the graph; no_grad and detach leave nothing to record."""
    name = "records and frees"
    ct = trial.cotangent()
    single = trial.pull(trial.arrays, ct)
    tensors = trial.tensors(trial.arrays)
    y = trial.apply(tensors)
    if not y.requires_grad:
        raise trial.wrong(name, "the result does not require a gradient")
    with np.errstate(all="ignore"):
        y.backward(Tensor(ct), retain_graph=True)
        y.backward(Tensor(ct))
    for k in trial.point.wanted:
        part = single[k]
        if part is not None:
            found = tensors[k].grad
            trial.same(name, k, None if found is None else found._data, part + part,
                       "two backward passes do not add up in .grad", ct)
    try:
        y.backward(Tensor(ct))
    except GraphFreedError:
        trial.tally.comparisons += 1
    else:
        raise trial.wrong(name, "a third backward pass through a freed graph does not raise")
    with no_grad():
        silent = trial.apply(tensors)
    cut = trial.apply([t.detach() for t in tensors])
    trial.tally.comparisons += 2
    if silent.requires_grad or silent.node is not None or cut.requires_grad:
        raise trial.wrong(name, "an op under no_grad(), or of detached tensors, is recorded")


def called_by_name(trial: Trial) -> None:
    """The public function of an op without settings gives what the op gives, however large."""
    op = trial.op
    function = FUNCTIONS.get(op.name)
    if function is None or OPS.get(op.name) is not op or op.settings or op.variadic \
            or len(trial.present) != len(op.inputs) or not _takes(function, len(op.inputs)):
        return
    ct = trial.cotangent()
    expected = trial.pull(trial.arrays, ct)
    _compare(trial, function, trial.arrays, ct, trial.out, expected)
    large = [np.resize(a, (_LARGE, *a.shape[1:])) for a in trial.arrays]
    if {a.shape for a in trial.arrays} == {trial.out.shape} and trial.out.size and trial.out.ndim \
            and trial.takes(large):
        more = trial.forward(large)
        several = np.resize(ct, more.shape)
        parts = trial.pull(large, several)
        for k in trial.point.wanted:
            part = parts[k]
            if part is not None and not np.isfinite(part).all():
                raise trial.wrong("called by name", "the rule reads values that are not kept for "
                                  "large arrays, see reads", k)
        _compare(trial, function, large, several, more, parts)


def _takes(function: Any, inputs: int) -> bool:
    """Whether a function can be called with that many tensors and nothing else."""
    try:
        inspect.signature(function).bind(*range(inputs))
    except TypeError:
        return False
    return True


def _compare(trial: Trial, function: Any, arrays: Any, ct: Array, out: Array,
             expected: list[Array | None]) -> None:
    name = "called by name"
    tensors = trial.tensors(arrays)
    with np.errstate(all="ignore"):
        y = function(*tensors)
        found = gradients(y, Tensor(ct))
    trial.tally.comparisons += y.size
    if y.shape != out.shape or not np.allclose(y._data, out, rtol=1e-12, atol=0.0):
        raise trial.wrong(name, f"the public function {trial.op.name} gives other values than its "
                          "op", got=y._data, expected=out)
    for k, part in enumerate(expected):
        got = found[tensors[k]]._data if tensors[k] in found else None
        if part is None or got is None:
            trial.same(name, k, got, part, "the public function has another gradient than its op")
            continue
        trial.tally.comparisons += part.size
        scale = float(np.abs(part).max(initial=0.0))
        if got.shape != part.shape or not np.allclose(got, part, rtol=1e-12, atol=1e-14 * scale):
            raise trial.wrong(name, "the public function has another gradient than its op, or "
                              "reads values that are not kept for large arrays", k, got=got,
                              expected=part)
