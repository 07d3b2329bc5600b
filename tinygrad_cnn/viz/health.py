"""Rules that look for sick gradients: the same findings mark the cards and fail a test.

No rule judges an absolute RMS, which falls with the batch and the image: each compares figures of
the same run.  A figure that was not recorded gives no finding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tinygrad_cnn.errors import VizError
from tinygrad_cnn.viz.recording import Entry, Recording, entry_names
from tinygrad_cnn.viz.text import number

__all__ = ["RULES", "Problem", "problems"]


@dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes
    ----------
    rule : str
        A name of `RULES`.
    severity : str
        ``error`` or ``warning``.
    name, source : str
        Which tensor, and the line that made it.
    evidence : str
        The numbers, in a few words; a card shows these.
    cure : str
        The likely cause and what to try.
    entry : int
        Index in the recording, −1 for a parameter that the run never read.
    """

    rule: str
    severity: str
    name: str
    evidence: str
    cure: str
    source: str = ""
    entry: int = -1

    def __str__(self) -> str:
        where = f" ({self.source})" if self.source else ""
        return f"{self.severity}: {self.name}{where}: {self.evidence}; {self.cure} [{self.rule}]"


def problems(recording: Recording, *, severity: str | None = None,
             learning_rate: float | None = None) -> tuple[Problem, ...]:
    """Everything that looks wrong with a run, in the order of the recording.

    Parameters
    ----------
    recording : Recording
        What `viz.describe` or `viz.watch` gives; ``fig.recording``.
    severity : "error" or "warning", optional
        Keep only these.
    learning_rate : float, optional
        Of plain gradient descent; with it the size of the steps is judged too.

    Returns
    -------
    tuple of Problem
        Empty for a healthy run.

    Raises
    ------
    VizError
        If ``severity`` is neither.
    """
    if severity not in (None, "error", "warning"):
        raise VizError(f"problems: severity {severity!r} is unknown; choose error or warning")
    run = _Run(recording, entry_names(recording), learning_rate)
    found = [p for rule in RULES.values() for p in rule(run)]
    found.sort(key=lambda p: p.entry if p.entry >= 0 else len(recording.entries))
    return tuple(p for p in found if severity in (None, p.severity))


@dataclass(frozen=True)
class _Run:
    """A recording with its names."""

    recording: Recording
    names: list[str]
    learning_rate: float | None

    def problem(self, rule: str, severity: str, entry: int, evidence: str, cure: str) -> Problem:
        source = self.recording.entries[entry].source
        return Problem(rule, severity, self.names[entry], evidence, cure, source, entry)

    def entries(self, *roles: str) -> Iterator[tuple[int, Entry]]:
        for i, e in enumerate(self.recording.entries):
            if e.role in roles:
                yield i, e


def _non_finite(run: _Run) -> Iterator[Problem]:
    """The first value, and the first gradient in backward order, with NaN or infinity."""
    entries = run.recording.entries
    for i, e in enumerate(entries):
        if e.value is not None and e.value.bad:
            ranges = ", ".join(f"{run.names[j]} in {number(v.low)}…{number(v.high)}"
                               for j in e.inputs if (v := entries[j].value) is not None)
            yield run.problem("non-finite", "error", i,
                              f"{e.value.bad} NaN or infinite values begin here"
                              f"{', from ' + ranges if ranges else ''}",
                              "scale the input, lower the learning rate, or use the stable form "
                              "(logsumexp, log_softmax, log(x + eps))")
            break
    bad = [(e.step, -i) for i, e in enumerate(entries)
           if e.gradient is not None and e.gradient.bad and e.is_op]
    if bad:
        i = -min(bad)[1]
        gradient = entries[i].gradient
        count = gradient.bad if gradient is not None else 0
        yield run.problem("non-finite", "error", i, f"{count} NaN or infinite gradients begin here",
                          "look at the op that reads this: its slope overflows or divides by zero")


def _no_gradient(run: _Run) -> Iterator[Problem]:
    """A parameter that the loss does not depend on, or whose gradient is exactly zero."""
    if not run.recording.backward:
        return
    for i, e in run.entries("parameter"):
        if e.gradient is not None and e.gradient.rms == 0 and not e.gradient.bad:
            yield run.problem("no gradient", "error", i, "the gradient is exactly zero",
                              "every path to the loss is dead: look for dead units behind it, or a "
                              "detached branch")
    for name in run.recording.unreached:
        yield Problem("no gradient", "error", name, "the loss does not depend on this parameter",
                      "use it in forward, or remove it")


def _dead(run: _Run) -> Iterator[Problem]:
    """At least a tenth of the channels zero over batch and space."""
    for i, e in run.entries("op"):
        if e.channels and e.dead * 10 >= e.channels:
            yield run.problem("dead", "warning", i,
                              f"{e.dead} of {e.channels} channels are dead",
                              "lower the learning rate, start biases above zero, or use leaky_relu")


def _step_size(run: _Run) -> Iterator[Problem]:
    """A step of plain gradient descent that is not a thousandth of the weights, give or take."""
    if run.learning_rate is None:
        return
    for i, e in run.entries("parameter"):
        if e.gradient is None or not e.weight or len(e.shape) < 2:
            continue
        ratio = run.learning_rate * e.gradient.rms / e.weight
        if ratio > 1e-2 or 0 < ratio < 1e-4:
            yield run.problem("step size", "warning", i,
                              f"a step changes the weights by {number(ratio)} of their size",
                              f"{'lower' if ratio > 1e-2 else 'raise'} the learning rate "
                              f"({run.learning_rate:g})")


def _depth(run: _Run) -> Iterator[Problem]:
    """Gradient over weight of like parameters, compared over the depth of the network."""
    rates = [(i, e.gradient.rms / e.weight) for i, e in run.entries("parameter")
             if e.gradient is not None and e.gradient.rms > 0 and e.weight and len(e.shape) > 1]
    rates = [(i, r) for i, r in rates if math.isfinite(r)]
    if len(rates) < 2:
        return
    (first, at_first), (last, at_last) = rates[0], rates[-1]
    ratio = at_first / at_last
    if ratio < 1e-3:
        yield run.problem("vanishing", "warning", first,
                          f"gradient over weight is {number(ratio)} of that at {run.names[last]}",
                          "initialise for the activation (He for relu), normalise, or add skips")
    elif ratio > 1e3:
        yield run.problem("exploding", "warning", first,
                          f"gradient over weight is {number(ratio)} times that at "
                          f"{run.names[last]}",
                          "lower the scale of the initial weights, normalise, or clip gradients")


def _gain(run: _Run) -> Iterator[Problem]:
    """One op that shrinks or grows the gradient of its data ten times more than its shape does.

    Weights that keep the size of values multiply gradients by √(entries out / entries in).
    """
    for i, e in run.entries("op"):
        if e.family not in ("conv", "linear", "activation") or not e.sent:
            continue
        if e.gradient is None or not e.gradient.rms > 0:
            continue
        source = run.recording.entries[e.inputs[0]]
        if source.role == "parameter" or e.sent[0] is None or not source.size:
            continue
        gain = e.sent[0] / e.gradient.rms
        beyond = gain / math.sqrt(e.size / source.size)
        if math.isfinite(gain) and not 0.1 <= beyond <= 10:
            rule = "vanishing" if beyond < 0.1 else "exploding"
            yield run.problem(rule, "warning", i,
                              f"multiplies the gradient by {number(gain)}",
                              "saturated units or weights of the wrong scale: check the "
                              "initialisation, or normalise before this op")


def _start(run: _Run) -> Iterator[Problem]:
    """The loss of a classifier that knows nothing is ln(classes)."""
    for i, e in run.entries("loss"):
        if e.classes > 1 and e.value is not None and math.isfinite(e.value.rms):
            expected = math.log(e.classes)
            if e.value.rms > 2 * expected:
                yield run.problem("start", "warning", i,
                                  f"loss {number(e.value.rms)}, guessing gives {number(expected)}",
                                  "the last layer starts too large: scale its weights or its input")


def _saturated(run: _Run) -> Iterator[Problem]:
    """A softmax that is sure of everything sends no gradient."""
    for i, e in run.entries("loss"):
        if e.confidence is not None and e.confidence > 0.999:
            yield run.problem("saturated", "warning", i,
                              f"softmax is saturated: mean top probability {e.confidence:.4f}",
                              "the logits are too large: scale the last layer, or add weight decay")


def _idle_bias(run: _Run) -> Iterator[Problem]:
    """A bias whose sum goes straight into a normalisation, which takes it out again."""
    entries = run.recording.entries
    readers: dict[int, list[int]] = {}
    for i, e in enumerate(entries):
        for j in e.inputs:
            readers.setdefault(j, []).append(i)
    for i, e in run.entries("op"):
        after = readers.get(i, [])
        if not after or not all(entries[k].op == "batch_norm" for k in after):
            continue
        for j, argument in zip(e.inputs, e.arguments, strict=True):
            if argument == "b" and e.family in ("conv", "linear") \
                    and entries[j].role == "parameter":
                yield run.problem("idle bias", "warning", j,
                                  "batch_norm removes whatever this bias adds",
                                  "pass bias=False to the layer before batch_norm")


RULES: dict[str, Callable[[_Run], Iterator[Problem]]] = {
    "non-finite": _non_finite,
    "no gradient": _no_gradient,
    "dead": _dead,
    "step size": _step_size,
    "vanishing or exploding": _depth,
    "gain": _gain,
    "start": _start,
    "saturated": _saturated,
    "idle bias": _idle_bias,
}
