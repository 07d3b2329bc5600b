"""Name the likely mistake behind a finding."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import numpy as np

from tinygrad_cnn.testing.evidence import Evidence, gather
from tinygrad_cnn.testing.patterns import PATTERNS, VAGUE, Diagnosis, steady_ratio
from tinygrad_cnn.testing.report import Finding
from tinygrad_cnn.testing.trial import Trial

__all__ = ["Diagnosis", "diagnose"]

_BY_PROPERTY = {
    "writes nothing": ("in place", "an array that is not the rule's own is written to: work on a "
                                   "copy"),
    "re-entrant": ("stateful", "the rule keeps state between calls: it must use what it is given "
                               "alone"),
    "shares no memory": ("shared memory", "two results live in one array: copy before passing it "
                                          "on"),
    "shared tensor": ("reuse", "a tensor that is used several times does not collect the sum: add, "
                               "do not assign"),
    "at kinks": ("ties", "wrong only at ties and kinks: the tie rule is not the declared one"),
    "zero gives zero": ("zero", "0 / 0 or 0 * inf where nothing is asked for: 0 must stay 0; "
                                "declare couples"),
    "linear in the cotangent": ("not linear", "the result is not linear in the cotangent"),
    "memory layout": ("layout", "memory is read as if it were contiguous: use the array, not its "
                                "buffer"),
    "reads what is declared": ("reads", "a value is read that the op's reads= does not name"),
    "second order": ("second order", "the rule is right but its derivative is not: a factor is a "
                                     "plain array where a recorded tensor belongs (order=1 does "
                                     "not ask for it)"),
    "only what is asked": ("recording", "the result depends on which gradients are wanted, or on "
                                        "whether the pass is recorded"),
    "records and frees": ("recording", "the engine does not record, add up or free as it should"),
    "called by name": ("public function", "the public function is not the op: it runs another "
                                          "kernel, or records another op"),
    "keeps dtype": ("dtype", "the dtype of the input is not kept"),
    "kernels agree": ("kernel", "a kernel computes something else"),
    "refusals": ("refusal", "a call that must be refused is not, or not with the words"),
    "samples": ("samples", "there is nothing to test with"),
}
_SECOND = {"shared tensor": ("shared memory", "a sum is written into an array that others still "
                                              "hold"),
           "re-entrant": ("in place", "a result is written over by a later call")}


def diagnose(finding: Finding, most: int = 3) -> list[Diagnosis]:
    """The most likely mistakes, best first: a key and a sentence each.

    Never empty; where nothing fits, the finding's own words are returned.
    """
    found: list[Diagnosis] = []
    if finding.error is not None:
        found.append(_of_error(finding))
    elif finding.prop in _BY_PROPERTY and finding.prop != "kernels agree":
        found.append(_BY_PROPERTY[finding.prop])
        found.extend([_SECOND[finding.prop]] if finding.prop in _SECOND else [])
    else:
        if finding.got is not None and not np.isfinite(finding.got).all():
            found.append(("not finite", "the gradient holds NaN or infinity"))
        found.extend(_voted(finding))
        if finding.prop == "float32" and not found:
            found.append(("rounded", "wrong in float32 only: something is computed in less "
                                     "precision, or in another dtype"))
        if finding.prop in _BY_PROPERTY:
            found.append(_BY_PROPERTY[finding.prop])
    unique = dict(reversed(found))
    ordered = [(key, unique[key]) for key in dict.fromkeys(key for key, _ in found)]
    return ordered[:most] or [("unknown", finding.detail)]


def _voted(finding: Finding) -> list[Diagnosis]:
    """The patterns that fit most of the op's wrong samples, the most telling first.

    One sample may have a pattern by chance: sizes that are equal, signs that line up.
    """
    evidences = list(_evidences(finding))
    several = [_of_numbers(e) for e in evidences]
    if steady_ratio(evidences):
        several = [[("scale", words.split(": a ")[0], weight) if key in ("mean", "sum")
                    else (key, words, weight) for key, words, weight in found]
                   for found in several]
    votes: dict[str, float] = {}
    best: dict[str, float] = {}
    words: dict[str, str] = {}
    for found in several:
        for rank, (key, sentence, weight) in enumerate(found):
            votes[key] = votes.get(key, 0.0) + weight
            best[key] = min(best.get(key, 99.0), rank)
            words.setdefault(key, sentence)
    if votes.get("dropped", len(several)) < len(several):
        del votes["dropped"]                        # it gets through elsewhere
    order = sorted(votes, key=lambda key: (-votes[key], best[key]))
    return [(key, words[key]) for key in order]


def _evidences(finding: Finding, most: int = 3) -> Iterator[Evidence]:
    """The two Jacobians of the sample that was found wrong, and of others that are wrong too."""
    first = gather(finding)
    if first is None:
        return
    yield first
    if not isinstance(finding.context, Trial) or finding.prop not in ("gradient", "float32"):
        return
    for other in finding.context.siblings():
        name = finding.input
        if most > 1 and name in other.names and other.arrays[other.names.index(name)].size < 130:
            evidence = gather(dataclasses.replace(finding, context=other,
                                                  index=other.names.index(name)))
            if evidence is not None and evidence.wrong.any():
                most -= 1
                yield evidence


def _of_numbers(evidence: Evidence) -> list[tuple[str, str, float]]:
    """Every pattern that fits, most telling first, and what it counts."""
    found: dict[str, tuple[str, str, float]] = {}
    for pattern in PATTERNS:
        try:
            with np.errstate(all="ignore"):
                diagnosis = pattern(evidence)
        except (ArithmeticError, ValueError, np.linalg.LinAlgError):
            diagnosis = None                       # arrays of odd sizes: the pattern does not apply
        if diagnosis is not None:
            found.setdefault(diagnosis[0], (*diagnosis, VAGUE.get(pattern, 1.0)))
    return list(found.values())


def _of_error(finding: Finding) -> Diagnosis:
    """What an exception in a rule says."""
    text = str(finding.error)
    shapes = re.search(r"has shape (\([\d, ]*\)), the input has shape (\([\d, ]*\))", text)
    if shapes:
        got, wanted = (tuple(int(n) for n in re.findall(r"\d+", s)) for s in shapes.groups())
        if len(got) >= len(wanted) and _stretches(wanted, got):
            return "unbroadcast", (f"missing un-broadcast: the cotangent of shape {got} is not "
                                   f"summed back to the input's shape {wanted}")
        return "shape", (f"wrong shape: {got} instead of {wanted}; a strip that no window reaches "
                         "still belongs to the input")
    if "dtype" in text:
        return "dtype", f"the dtype of the input is not kept: {text}"
    if finding.prop in ("samples", "refusals"):
        return _BY_PROPERTY[finding.prop]
    if "read-only" in text:
        return _BY_PROPERTY["writes nothing"]
    if finding.prop == "second order":
        return "second order", (f"the rule cannot be differentiated (order=1 does not ask for it): "
                                f"{text}")
    return "raises", f"the rule raises {type(finding.error).__name__}: {text}"


def _stretches(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    lead = len(large) - len(small)
    return all(n in (1, m) for n, m in zip(small, large[lead:], strict=True))
