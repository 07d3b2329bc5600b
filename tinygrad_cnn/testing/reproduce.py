"""Write a finding down as a program that fails in the same way, in at most 12 lines."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from tinygrad_cnn.core.op import OPS, Array, Op
from tinygrad_cnn.testing.report import Finding
from tinygrad_cnn.testing.trial import Trial

__all__ = ["literal", "reproducer"]


def reproducer(finding: Finding, named: tuple[list[str], str] | None = None) -> str:
    """A program of at most 12 lines that raises AssertionError; empty if none can be written.

    ``named`` are the lines that import the op and the expression that names it; if they are not
    given, the op is looked for in the registry and in the module of its rules.
    """
    trial = finding.context
    if not isinstance(trial, Trial):
        return ""
    imports, op = named or _named(trial.op)
    if not op:
        return ""
    if finding.prop == "gradient" and finding.error is None and finding.got is not None \
            and finding.expected is not None and finding.ct is not None \
            and np.shape(finding.got) == np.shape(finding.expected):
        lines = _by_numbers(finding, trial, op)
        if imports[-1] == "from tinygrad_cnn import OPS":
            imports[-1] = "from tinygrad_cnn import OPS, Tensor, gradients"
            lines = lines[1:]
    else:
        lines = _by_property(finding, trial, op)
    return "\n".join(["import numpy as np", *imports, *lines])


def _by_numbers(finding: Finding, trial: Trial, op: str) -> list[str]:
    """The gradient computed and compared."""
    assert finding.got is not None and finding.expected is not None and finding.ct is not None
    lines = ["from tinygrad_cnn import Tensor, gradients", "from tinygrad_cnn.core import apply"]
    names = []
    for i, a in enumerate(trial.full(trial.arrays)):
        if a is None:
            names.append("None")
            continue
        names.append(f"x{i}")
        lines.append(f"x{i} = Tensor({literal(a)}, requires_grad=True)")
    settings = "".join(f", {k}={literal(v)}" for k, v in trial.settings.items())
    exact = finding.bound is None or not np.asarray(finding.bound).any()
    off = np.abs(np.asarray(finding.got) - finding.expected)
    compare = "assert_array_equal" if exact else "assert_allclose"
    bound = "" if exact else f", rtol=0, atol={_tolerance(finding, off):.1e}"
    mine = names[trial.present[finding.index]]
    return [*lines, f"y = apply({op}, {', '.join(names)}{settings})",
            f"got = gradients(y, {literal(finding.ct)})[{mine}].data",
            f"np.testing.{compare}(got, {literal(finding.expected)}{bound})"]


def _tolerance(finding: Finding, off: Array) -> float:
    """Between the bound and the error, so that the program fails, but for the error alone."""
    bound = np.asarray(finding.bound, np.float64).max()
    worst = float(np.nanmax(off)) if np.isfinite(off).any() else 1.0
    return float(min(max(bound * 2, worst * 1e-3), worst / 2))


def _by_property(finding: Finding, trial: Trial, op: str) -> list[str]:
    """The property checked on the call."""
    args = "".join(f"{literal(a)}, " for a in trial.full(trial.arrays)).rstrip(" ")
    settings = ", ".join(f"{k!r}: {literal(v)}" for k, v in trial.settings.items())
    return ["from tinygrad_cnn import Sample", "from tinygrad_cnn.testing import check_sample",
            f'sample = Sample("smallest", ({args}), {{{settings}}})',
            f"check_sample({op}, sample, {finding.prop!r})"]


def _named(op: Op) -> tuple[list[str], str]:
    """Lines that import an op, and the expression that names it."""
    if OPS.get(op.name) is op:
        modules = {rule.__module__ for rule in op.vjp.values()} - {"__main__"}
        own = sorted(m for m in modules if not m.startswith("tinygrad_cnn."))
        return [f"import {m}" for m in own[:1]] + ["from tinygrad_cnn import OPS"], \
            f"OPS[{op.name!r}]"
    for rule in op.vjp.values():
        module = sys.modules.get(rule.__module__)
        for name, value in vars(module).items() if module is not None else ():
            if value is op or getattr(value, "op", None) is op:
                return [f"from {rule.__module__} import {name}"], \
                    name if value is op else f"{name}.op"
    return [], ""


def literal(value: Any) -> str:
    """A value as Python writes it; arrays by their entries and shape."""
    if not isinstance(value, np.ndarray):
        if isinstance(value, tuple):
            return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
        if isinstance(value, np.dtype):
            return f"np.dtype({value.name!r})"
        return "np.inf" if value == np.inf else "-np.inf" if value == -np.inf else repr(value)
    entries = ", ".join(_number(v) for v in value.reshape(-1).tolist())
    dtype = "" if value.dtype == np.float64 else f", np.{value.dtype.name}"
    text = f"np.array([{entries}]{dtype or ', float'})"
    return text if value.ndim == 1 else f"{text}.reshape({value.shape})"


def _number(value: Any) -> str:
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            return "np.nan" if value != value else "np.inf" if value > 0 else "-np.inf"
        return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
    return repr(value)
