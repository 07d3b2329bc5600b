"""Rules that find unhealthy gradients: the same findings mark the cards and fail a test.

No rule judges an absolute RMS, which falls with the batch and the image: each compares figures of
the same run.  A figure that was not recorded gives no finding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tinygrad_cnn.errors import VizError
from tinygrad_cnn.viz.capture import Entry, Recording, entry_names
from tinygrad_cnn.viz.labels import number

__all__ = ["RULES", "Problem", "problems"]


@dataclass(frozen=True)
class Problem:
    """One finding."""

    rule: str                               # "dead", "vanishing", ...: see docs/pictures.md
    severity: str                           # error or warning
    name: str                               # of the tensor
    evidence: str                           # the figures; a card shows them
    hint: str                               # the likely cause and what to try
    source: str = ""                        # the line that made the tensor
    entry: int = -1                         # -1 for a parameter that the run never read

    def __str__(self) -> str:
        where = f" ({self.source})" if self.source else ""
        return f"{self.severity}: {self.name}{where}: {self.evidence}; {self.hint} [{self.rule}]"


def problems(recording: Recording, *, severity: str | None = None,
             learning_rate: float | None = None) -> tuple[Problem, ...]:
    """Everything that looks wrong with a run, in the order of the recording; empty if healthy.

    ``severity`` keeps only "error" or "warning".  With ``learning_rate``, of plain gradient
    descent, the size of the steps is judged too.
    """
    if severity not in (None, "error", "warning"):
        raise VizError(f"problems: severity {severity!r} is unknown; choose error or warning")
    run = _Run(recording, entry_names(recording), learning_rate)
    found: list[Problem] = []
    for name, rule in RULES.items():        # a consequence of what was found is no finding
        if not any(p.rule in _CAUSES.get(name, ()) for p in found):
            found.extend(rule(run))
    found.sort(key=lambda p: p.entry if p.entry >= 0 else len(recording.entries))
    return tuple(p for p in found if severity in (None, p.severity))


@dataclass(frozen=True)
class _Run:
    """A recording with its names."""

    recording: Recording
    names: list[str]
    learning_rate: float | None

    def problem(self, rule: str, entry: int, evidence: str, hint: str,
                severity: str = "warning") -> Problem:
        source = self.recording.entries[entry].source
        return Problem(rule, severity, self.names[entry], evidence, hint, source, entry)

    def entries(self, role: str) -> Iterator[tuple[int, Entry]]:
        return ((i, e) for i, e in enumerate(self.recording.entries) if e.role == role)


def _non_finite(run: _Run) -> Iterator[Problem]:
    """The first value with NaN or infinity, or else the first such gradient in backward order."""
    entries = run.recording.entries
    for i, e in enumerate(entries):
        if e.value is not None and e.value.bad:
            ranges = ", ".join(f"{run.names[j]} in {number(v.low)}…{number(v.high)}"
                               for j in e.inputs if (v := entries[j].value) is not None)
            evidence = f"{e.value.bad} NaN or infinite values begin here" if e.op else \
                f"{e.value.bad} of its {e.size} values are NaN or infinite"
            hint = ("scale the input, lower the learning rate, or use the stable form (logsumexp, "
                    "log_softmax, log(x + eps))") if e.op else "look at where it comes from"
            yield run.problem("non-finite", i, f"{evidence}{', from ' + ranges if ranges else ''}",
                              hint, "error")
            return
    bad = [(e.step, -i, e.gradient.bad) for i, e in enumerate(entries)
           if e.gradient is not None and e.gradient.bad and e.op]
    if bad:
        _, i, count = min(bad)
        yield run.problem("non-finite", -i, f"{count} NaN or infinite gradients begin here",
                          "look at the op that reads this: its slope overflows or divides by zero",
                          "error")


def _no_gradient(run: _Run) -> Iterator[Problem]:
    """A parameter that the loss does not depend on, or whose gradient is exactly zero.

    That is a warning where the parts cancel or a factor is zero: the values are the cause.
    """
    entries = run.recording.entries
    readers: dict[int, list[int]] = {}
    for i, e in enumerate(entries):
        for j in dict.fromkeys(e.inputs):
            readers.setdefault(j, []).append(i)
    zero_behind = lru_cache(None)(lambda: _zero_factors(entries, readers))
    dead: list[int] = []
    factors: dict[int, list[int]] = {}      # what is zero -> the parameters behind it
    learns = run.recording.backward and all(0 not in e.shape for e in entries)  # no empty batch
    for j, e in run.entries("parameter") if learns else ():
        if not e.needs_gradient or e.gradient is None or e.gradient.rms != 0 or e.gradient.bad:
            continue
        if any(v for i in readers[j] for k, v in zip(entries[i].inputs, entries[i].sent,
                                                     strict=False) if k == j):
            yield run.problem("cancels", j, "the gradients of its readers cancel exactly",
                              "fine if the model is symmetric here; else initialize its parts "
                              "differently")
            continue
        zero = zero_behind()[j]
        dead.append(j) if zero < 0 else factors.setdefault(zero, []).append(j)
    for group, zero in ((dead, -1), *((g, z) for z, g in factors.items() if not dead)):
        if group:
            more = f", as of {len(group) - 1} more" if len(group) > 1 else ""
            why = f", since {run.names[zero]} is zero" if zero >= 0 else ""
            yield run.problem(
                "zero factor" if why else "no gradient", group[0],
                f"the gradient is exactly zero{more}{why}",
                "fine at the start, if that is how it was initialized" if why else
                "every path to the loss is dead: look for dead units behind it, or a detached "
                "branch", "warning" if why else "error")
    for name in run.recording.unreached:
        yield Problem("no gradient", "error", name, "the loss does not depend on this parameter",
                      "use it in forward, or remove it")


def _zero_factors(entries: Sequence[Entry], readers: dict[int, list[int]]) -> list[int]:
    """For each entry, what is zero where the gradient on the way to it stops, or -1."""
    def passes(e: Entry) -> bool:
        return e.gradient is not None and e.gradient.rms != 0

    def zero(k: int) -> bool:
        v = entries[k].value
        return v is not None and v.low == v.high == 0 == v.bad and (
            passes(entries[k]) or not entries[k].op)

    found = [-1] * len(entries)
    for j in reversed(range(len(entries))):
        for i in readers.get(j, ()):        # the ops that get a gradient, but send none
            found[j] = max(found[j], next(filter(zero, (k for k in entries[i].inputs if k != j)),
                                          -1) if passes(entries[i]) else found[i])
    return found


def _detached(run: _Run) -> Iterator[Problem]:
    """A tensor that was cut off from the ops that made it."""
    for i, e in run.entries("input"):
        if e.note == "detached":
            yield run.problem("detached", i, "detach() ends the gradient here",
                              "leave detach() out, unless what is before it must not learn")


def _unscaled(run: _Run) -> Iterator[Problem]:
    """A batch of inputs with values in the tens or hundreds, as of images from 0 to 255."""
    for i, e in run.entries("input"):
        if e.value is not None and len(e.shape) > 1 and e.dtype.startswith("float") \
                and 10 < e.value.rms < math.inf:
            yield run.problem("unscaled", i, f"values between {number(e.value.low)} and "
                              f"{number(e.value.high)}", "scale the inputs, as in x / 255")


def _growing(run: _Run) -> Iterator[Problem]:
    """Values of at least two ops that are more than 1,000 times those of the first."""
    made = [(i, e.value.rms) for i, e in run.entries("op")
            if e.value is not None and e.family in ("conv", "linear", "activation")
            and 0 < e.value.rms < math.inf]
    if len(made) > 2:
        (_, first), (last, most) = made[0], sorted(made, key=lambda pair: pair[1])[-2]
        if most > 1e3 * max(first, 1.0):
            yield run.problem("exploding", last, f"values grow from {number(first)} to "
                              f"{number(most)}", "lower the scale of the initial weights, or "
                              "normalize between layers")


def _dead(run: _Run) -> Iterator[Problem]:
    """At least a tenth of the channels zero over batch and space."""
    for i, e in run.entries("op"):
        if e.channels and e.dead * 10 >= e.channels:
            yield run.problem("dead", i, f"{e.dead} of {e.channels} channels are dead",
                              "lower the learning rate, start biases above zero, or use leaky_relu")


def _rates(run: _Run) -> Iterator[tuple[int, float]]:
    """Gradient over weight of each parameter that is no vector."""
    for i, e in run.entries("parameter"):
        if e.gradient is not None and e.weight and len(e.shape) > 1:
            yield i, e.gradient.rms / e.weight


def _step_size(run: _Run) -> Iterator[Problem]:
    """A step of plain gradient descent outside 1e-4 to 1e-2 of the weights."""
    for i, rate in _rates(run) if run.learning_rate is not None else ():
        assert run.learning_rate is not None
        ratio = run.learning_rate * rate
        if ratio > 1e-2 or 0 < ratio < 1e-4:
            yield run.problem("step size", i,
                              f"a step changes the weights by {number(ratio)} of their size",
                              f"{'lower' if ratio > 1e-2 else 'raise'} the learning rate "
                              f"({run.learning_rate:g})")


def _depth(run: _Run) -> Iterator[Problem]:
    """Gradient over weight of the first and the last layer differ by more than 1,000."""
    rates = [(i, r) for i, r in _rates(run) if 0 < r < math.inf]
    if len(rates) < 2:
        return
    (first, at_first), (last, at_last) = rates[0], rates[-1]
    ratio = at_first / at_last
    if ratio < 1e-3:
        yield run.problem("vanishing", first,
                          f"gradient over weight is {number(ratio)} of that at {run.names[last]}",
                          "initialize for the activation (He for relu), normalize, or add skips")
    elif ratio > 1e3:
        yield run.problem("exploding", first, f"gradient over weight is {number(ratio)} times "
                          f"that at {run.names[last]}",
                          "lower the scale of the initial weights, normalize, or clip gradients")


def _gain(run: _Run) -> Iterator[Problem]:
    """One op that shrinks or grows the gradient of its data ten times more than its shape does.

    Weights that keep the size of values multiply gradients by √(elements out / elements in); a
    softmax over T entries divides them by about T, as it must.  Equal ops are one finding.
    """
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for i, e in run.entries("op"):
        if e.family not in ("conv", "linear", "activation") or not e.sent \
                or "softmax" in e.op or e.op.endswith("_slope"):
            continue
        source = run.recording.entries[e.inputs[0]]
        if e.gradient is None or not e.gradient.rms > 0 or source.role == "parameter" \
                or e.sent[0] is None or not source.size:
            continue
        gain = abs(e.sent[0]) / e.gradient.rms
        beyond = gain / math.sqrt(e.size / source.size)
        if math.isfinite(gain) and not 0.1 <= beyond <= 10:
            found.setdefault(("vanishing" if beyond < 0.1 else "exploding", e.op), []).append(
                (i, gain))
    for (rule, _), places in found.items():
        i, gain = max(places, key=lambda place: abs(math.log(place[1] or 1e-300)))
        more = f", and {len(places) - 1} more like it" if len(places) > 1 else ""
        yield run.problem(rule, i, f"multiplies the gradient by {number(gain)}{more}",
                          "saturated units or weights of the wrong scale: check the "
                          "initialization, or normalize before this op")


def _start(run: _Run) -> Iterator[Problem]:
    """A loss above twice ln(classes), the loss of a classifier that knows nothing."""
    for i, e in run.entries("loss"):
        if e.classes > 1 and e.value is not None \
                and 2 * math.log(e.classes) < e.value.rms < math.inf:
            yield run.problem("start", i, f"loss {number(e.value.rms)}, guessing gives "
                              f"{number(math.log(e.classes))}",
                              "the last layer starts too large: scale its weights or its input")


def _saturated(run: _Run) -> Iterator[Problem]:
    """A softmax that is certain of everything sends no gradient."""
    for i, e in run.entries("loss"):
        if e.confidence is not None and e.confidence > 0.999:
            yield run.problem("saturated", i,
                              f"softmax is saturated: mean top probability {e.confidence:.4f}",
                              "the logits are too large: scale the last layer, or add weight decay")


def _idle_bias(run: _Run) -> Iterator[Problem]:
    """A bias just before a batch norm, which removes it."""
    entries = run.recording.entries
    readers: dict[int, set[str]] = {}
    for e in entries:
        for j in e.inputs:
            readers.setdefault(j, set()).add(e.op)
    for i, e in run.entries("op"):
        if readers.get(i) != {"batch_norm"} or e.family not in ("conv", "linear"):
            continue
        for j, argument in zip(e.inputs, e.arguments, strict=True):
            if argument == "b" and entries[j].role == "parameter":
                yield run.problem("idle bias", j, "batch_norm removes whatever this bias adds",
                                  "pass bias=False to the layer before batch_norm")


RULES: dict[str, Callable[[_Run], Iterator[Problem]]] = {
    "non-finite": _non_finite, "no gradient": _no_gradient, "detached": _detached,
    "step size": _step_size, "unscaled": _unscaled, "growing": _growing, "dead": _dead,
    "saturated": _saturated, "start": _start, "depth": _depth, "gain": _gain,
    "idle bias": _idle_bias}
# Rule -> findings of which its own would be consequences.
_CAUSES = {"no gradient": ("non-finite",), "dead": ("no gradient", "unscaled", "exploding"),
           "growing": ("non-finite", "unscaled"),
           "saturated": ("non-finite", "exploding", "unscaled"),
           "start": ("non-finite", "exploding", "unscaled", "saturated"),
           "depth": ("non-finite", "exploding", "saturated", "start"),
           "gain": ("non-finite", "no gradient", "zero factor", "exploding", "vanishing",
                    "unscaled", "saturated", "start")}
