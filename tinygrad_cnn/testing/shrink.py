"""The smallest program that shows a finding.

A failing call is made smaller: fewer entries, plainer settings, plainer values.  Greedy: each step
that still fails in the same way is kept, until none is left or time is up.  What is left is written
down as a program of at most 12 lines.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import chain
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from tinygrad_cnn.core import Tensor
from tinygrad_cnn.core.op import OPS, Op, Sample
from tinygrad_cnn.shapes import Shape, bind_axes
from tinygrad_cnn.testing.cases import Call, Case, OpCase
from tinygrad_cnn.testing.contract import run_property
from tinygrad_cnn.testing.linearization import CheckFailed, Finding
from tinygrad_cnn.testing.source_mutants import _source
from tinygrad_cnn.types import Array, Settings

__all__ = ["reproducer", "shrink"]

_SECONDS = 3.0
_MOST_WRITTEN = 400         # entries that a program of functions may hold
_PLAIN = {"stride": 1, "dilation": 1, "kernel_size": 1, "padding": 0, "pad_width": 0}


def shrink(finding: Finding, seconds: float = _SECONDS) -> Finding:
    """A finding of the same property and input on a smaller call; the same one if there is none."""
    case = finding.context
    if not isinstance(case, OpCase) or not case.present:
        return finding
    deadline = time.perf_counter() + seconds
    best = finding
    sample = Sample(case.sample.id, tuple(case.full(case.arrays)), case.settings)
    progress = True
    while progress and time.perf_counter() < deadline:
        progress = False
        for candidate in chain(_fewer_entries(case.op, sample), _plainer_settings(sample),
                               _plainer_values(sample)):
            if time.perf_counter() > deadline:
                break
            found = _fails(case, candidate, finding)
            if found is not None:
                best, sample, progress = found, candidate, True
                break
    return _plain_cotangent(best)


def _fails(case: OpCase, sample: Sample, finding: Finding) -> Finding | None:
    """What the same property finds on another sample, if it is the same kind of thing."""
    other = OpCase(case.op, sample, seed=case.seed)
    try:
        with np.errstate(all="ignore"):
            if not np.isfinite(other.out).all():
                return None
        if finding.prop == "gradient" and finding.error is None and finding.index >= 0:
            _gradient_alone(other, other.names.index(finding.input))
        else:
            run_property(finding.prop, other)
    except CheckFailed as failed:
        found = failed.finding
        same = (found.prop == finding.prop and found.input == finding.input
                and type(found.error) is type(finding.error))
        return found if same else None
    except Exception:
        return None                                # not a call that the op takes
    return None


def _gradient_alone(case: OpCase, k: int) -> None:
    """The gradient of the one input, which is quicker than all of the property."""
    ct = case.cotangent(1)
    case.here.wanted = (k,)
    case.here.compare(k, case.pull(case.arrays, ct)[k], ct, _bound(case, k, ct))


def _bound(case: OpCase, k: int, ct: Array) -> Array:
    here = case.here
    noise = None if here.exact(k) else here.noise(ct, np.float64, case.rng(1))
    return here.bound(k, ct, noise)


# ---- smaller calls

def _fewer_entries(op: Op, sample: Sample) -> Iterator[Sample]:
    shapes = [None if a is None else np.shape(a) for a in sample.args]
    for other in _reduced_shapes(op, shapes, dict(sample.settings)):
        args = tuple(None if a is None or s is None else
                     np.ascontiguousarray(np.asarray(a)[tuple(slice(0, n) for n in s)]).reshape(s)
                     for a, s in zip(sample.args, other, strict=True))
        yield dataclasses.replace(sample, args=args,
                                  settings=_cropped(sample.settings, shapes, other))


def _reduced_shapes(op: Op, shapes: list[Shape | None],
                    settings: Settings) -> Iterator[list[Shape | None]]:
    if op.axes is not None:
        patterns = [part.split() for part in op.axes.split("->")[0].split(",")]
        size = bind_axes(op.name, op.axes, dict(zip(op.inputs, shapes, strict=True)), settings)
        for letter, n in sorted(size.items(), key=lambda item: -item[1]):
            for less in _less(n):
                yield [None if s is None else tuple(
                    m * less // n if item.split("/")[0] == letter else m
                    for m, item in zip(s, pattern, strict=True))
                    for s, pattern in zip(shapes, patterns, strict=True)]
        return
    # No letters: all axes of one size together, then one axis after the other.
    for n in sorted({m for s in shapes if s is not None for m in s if m > 1}, reverse=True):
        for less in _less(n):
            yield [None if s is None else tuple(less if m == n else m for m in s) for s in shapes]
    for i, shape in enumerate(shapes):
        for axis, n in enumerate(shape or ()):
            for less in _less(n):
                assert shape is not None
                changed = (*shape[:axis], less, *shape[axis + 1:])
                yield [changed if j == i else s for j, s in enumerate(shapes)]


def _less(n: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(m for m in (1, n // 2, n - 1) if 0 < m < n))


def _cropped(settings: Mapping[str, object], before: list[Shape | None],
             after: list[Shape | None]) -> Settings:
    """Arrays and shapes among the settings, cut as the inputs were."""
    sizes = {m: n for old, new in zip(before, after, strict=True) if old is not None
             and new is not None for m, n in zip(old, new, strict=True) if m != n}
    result = dict(settings)
    for name, value in settings.items():
        if isinstance(value, np.ndarray):
            result[name] = np.ascontiguousarray(
                value[tuple(slice(0, sizes.get(n, n)) for n in value.shape)])
        elif name == "shape" and isinstance(value, tuple):
            result[name] = tuple(sizes.get(n, n) for n in value)
    return result


def _plainer_settings(sample: Sample) -> Iterator[Sample]:
    for name, value in sample.settings.items():
        if name in _PLAIN:
            for other in _plainer(value, _PLAIN[name]):
                yield dataclasses.replace(sample, settings={**sample.settings, name: other})


def _plainer(value: object, plain: int) -> Iterator[object]:
    """A number or nested pairs of numbers, nearer to the plain one."""
    if isinstance(value, int):
        yield from dict.fromkeys(v for v in (plain, value - 1) if plain <= v < value)
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            for other in _plainer(item, plain):
                yield (*value[:i], other, *value[i + 1:])


def _plainer_values(sample: Sample) -> Iterator[Sample]:
    """Ones, or whole numbers, instead of an input's values."""
    for i, a in enumerate(sample.args):
        if a is None or not a.size or (a == 1).all():
            continue
        for other in (np.ones_like(a), np.sign(np.round(a)) + (np.round(a) == 0),
                      np.round(a), np.round(2 * a) / 2):
            if not np.array_equal(other, a) and _weight(other) < _weight(a):
                yield dataclasses.replace(sample, args=tuple(
                    other if j == i else b for j, b in enumerate(sample.args)))


def _weight(a: Array) -> float:
    """How long the values are to write down."""
    return sum(len(f"{v:.17g}") for v in a.reshape(-1)) + float(np.abs(a).sum()) / 1e6


# ---- the cotangent

def _plain_cotangent(finding: Finding) -> Finding:
    """The same finding for a cotangent of ones, or with a single 1, if one of them shows it."""
    case, k = finding.context, finding.index
    if not isinstance(case, OpCase) or finding.prop != "gradient" or finding.ct is None or k < 0:
        return finding
    for ct in _plain_cotangents(np.shape(finding.ct)):
        try:
            got = case.pull(case.arrays, ct)[k]
        except Exception:
            return finding
        expected = case.here.expected(k, ct)
        if got is None or got.shape != expected.shape:
            return finding
        plain = dataclasses.replace(finding, ct=ct, got=got, expected=expected,
                                    bound=_bound(case, k, ct))
        if plain.wrong is not None and plain.wrong.any():
            return dataclasses.replace(plain, detail=f"{plain.wrong.sum()} of {got.size} wrong")
    return finding


def _plain_cotangents(shape: Shape) -> Iterator[Array]:
    size = math.prod(shape)
    yield np.ones(shape)
    for j in range(min(size, 16)):
        unit = np.zeros(size)
        unit[j] = 1.0
        yield unit.reshape(shape)
    yield np.arange(1.0, size + 1).reshape(shape)


# ---- the program

def reproducer(finding: Finding, named: tuple[list[str], str] | None = None) -> str:
    """A program of at most 12 lines that raises AssertionError; empty if none can be written.

    ``named`` are the lines that import the op and the expression that names it; if they are not
    given, the op is looked for in the registry and in the module of its rules.
    """
    case = finding.context
    if isinstance(case, Case) and case.call is not None:
        return _of_functions(case.call, case.seed)
    if not isinstance(case, OpCase):
        return ""
    imports, op = named or _named(case.op)
    if not op:
        return ""
    if finding.prop == "gradient" and finding.error is None and finding.got is not None \
            and finding.expected is not None and finding.ct is not None \
            and np.shape(finding.got) == np.shape(finding.expected):
        lines = _by_numbers(finding, case, op)
        if imports[-1] == "from tinygrad_cnn import OPS":
            imports[-1] = "from tinygrad_cnn import OPS, Tensor, gradients"
            lines = lines[1:]
    else:
        lines = _by_property(finding, case, op)
    return "\n".join(["import numpy as np", *imports, *lines])


def _of_functions(call: Call, seed: int) -> str:
    """The same check of the same functions, with their source; empty where that cannot be had."""
    arrays = [a._data if isinstance(a, Tensor) else a for a in call.values]
    if sum(np.size(a) for a in arrays) > _MOST_WRITTEN:
        return ""
    lines: dict[str, None] = {}
    names = ("function",) if len(call.functions) == 1 else ("forward", "vjp")
    try:
        for name, function in zip(names, call.functions, strict=True):
            _write_down(name, function, lines, set())
        given = ", ".join(literal(np.asarray(a)) for a in arrays)
    except (LookupError, ValueError, TypeError):
        return ""
    settings = "".join(f", {k}={v!r}" for k, v in (*call.settings.items(), ("seed", seed)) if v)
    return "\n".join(["import numpy as np", f"from tinygrad_cnn.testing import {call.owner}",
                      *lines, f"{call.owner}({', '.join(names)}, {given}{settings})"])


def _write_down(name: str, value: Any, lines: dict[str, None], seen: set[int]) -> None:
    """Lines that define a name as it is in the user's program; `LookupError` if there are none."""
    if isinstance(value, ModuleType):
        if name != "np":                        # it is imported already
            lines[f"import {value.__name__} as {name}"] = None
        return
    if isinstance(value, (int, float, str, tuple, np.ndarray, np.generic)) or value is None:
        lines[f"{name} = {literal(value)}"] = None
        return
    if isinstance(compiled := getattr(value, "py_func", None), FunctionType):
        _write_down(name, compiled, lines, seen)
        lines.update({"import numba": None, f"{name} = numba.njit({name})": None})
        return
    tree = _source(value) if isinstance(value, FunctionType) and not _installed(value) else None
    if tree is not None and id(value) not in seen:
        seen.add(id(value))
        inside = inspect.getclosurevars(value)
        for other, held in {**inside.globals, **inside.nonlocals}.items():
            _write_down(other, held, lines, seen)
        if isinstance(tree, ast.FunctionDef):
            tree.decorator_list = []
        text = ast.unparse(tree)
        named = isinstance(tree, ast.FunctionDef)
        lines[text if named else f"{name} = {text}"] = None
        if isinstance(tree, ast.FunctionDef) and tree.name != name:
            lines[f"{name} = {tree.name}"] = None
    elif id(value) not in seen:
        module, path = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
        found: Any = sys.modules.get(module or "")
        for part in path.split("."):
            found = getattr(found, part, None)
        if found is not value or module == "__main__":
            raise LookupError(name)
        lines[f"from {module} import {path.partition('.')[0]}"] = None
        if name != path:
            lines[f"{name} = {path}"] = None


def _installed(function: FunctionType) -> bool:
    """Whether a function is part of a package, and not of the user's program."""
    top = function.__module__.partition(".")[0]
    return top == "tinygrad_cnn" or top in sys.stdlib_module_names \
        or "site-packages" in function.__code__.co_filename


def _by_numbers(finding: Finding, case: OpCase, op: str) -> list[str]:
    """The gradient computed and compared."""
    assert finding.got is not None and finding.expected is not None and finding.ct is not None
    lines = ["from tinygrad_cnn import Tensor, gradients", "from tinygrad_cnn.core import apply"]
    names = []
    for i, a in enumerate(case.full(case.arrays)):
        if a is None:
            names.append("None")
            continue
        names.append(f"x{i}")
        lines.append(f"x{i} = Tensor({literal(a)}, requires_grad=True)")
    settings = "".join(f", {k}={literal(v)}" for k, v in case.settings.items())
    exact = finding.bound is None or not np.asarray(finding.bound).any()
    off = np.abs(np.asarray(finding.got) - finding.expected)
    compare = "assert_array_equal" if exact else "assert_allclose"
    bound = "" if exact else f", rtol=0, atol={_tolerance(finding, off):.1e}"
    mine = names[case.present[finding.index]]
    return [*lines, f"y = apply({op}, {', '.join(names)}{settings})",
            f"got = gradients(y, {literal(finding.ct)})[{mine}].data",
            f"np.testing.{compare}(got, {literal(finding.expected)}{bound})"]


def _tolerance(finding: Finding, off: Array) -> float:
    """Between the bound and the error, so that the program fails, but for the error alone."""
    bound = np.asarray(finding.bound, np.float64).max()
    worst = float(np.nanmax(off)) if np.isfinite(off).any() else 1.0
    return float(min(max(bound * 2, worst * 1e-3), worst / 2))


def _by_property(finding: Finding, case: OpCase, op: str) -> list[str]:
    """The property checked on the call."""
    args = "".join(f"{literal(a)}, " for a in case.full(case.arrays)).rstrip(" ")
    settings = ", ".join(f"{k!r}: {literal(v)}" for k, v in case.settings.items())
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


def literal(value: object) -> str:
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


def _number(value: object) -> str:
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            return "np.nan" if value != value else "np.inf" if value > 0 else "-np.inf"
        return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
    return repr(value)
