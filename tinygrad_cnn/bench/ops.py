"""Single ops over many shapes: each kernel of ours, and PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from tinygrad_cnn.bench.cases import Case, kernel_case, layer_case
from tinygrad_cnn.bench.operands import operands
from tinygrad_cnn.bench.process import BenchError, workers
from tinygrad_cnn.bench.race import Report, race
from tinygrad_cnn.bench.run import Plan, Tell, describe_machine
from tinygrad_cnn.kernels.compiled import get_compiled, set_compiled
from tinygrad_cnn.op import OPS

__all__ = ["conv_cases", "kernel_errors", "layer_cases", "measure_ops"]

# N H C k O, then stride, dilation and groups where they are not 1: the layers of the nets first.
_CONVOLUTIONS: tuple[tuple[int, ...], ...] = (
    (64, 28, 1, 5, 8), (64, 14, 8, 5, 16),
    (64, 32, 3, 3, 32), (64, 32, 32, 3, 32), (64, 16, 32, 3, 64), (64, 16, 64, 3, 64),
    (32, 32, 64, 3, 128), (32, 32, 128, 3, 128), (32, 16, 256, 3, 256),
    (64, 32, 16, 3, 16), (64, 32, 16, 3, 32, 2), (64, 16, 32, 3, 32), (64, 8, 64, 3, 64),
    (64, 32, 16, 1, 32, 2), (64, 16, 64, 1, 128), (32, 32, 3, 7, 32, 2),
    (32, 32, 32, 3, 32, 1, 2), (32, 32, 32, 3, 32, 1, 1, 32), (32, 16, 64, 3, 64, 1, 1, 4),
    (1, 32, 32, 3, 32), (8, 7, 64, 3, 64),
)
_TINY = ((2, 6, 3, 3, 4), (2, 7, 4, 3, 4, 2), (1, 5, 2, 5, 3))


def conv_cases(*, tiny: bool = False) -> list[Case]:
    """The three faces of each convolution.

    Examples
    --------
    >>> [case.name for case in conv_cases(tiny=True)[:3]]
    ['conv2d', 'conv2d_input', 'conv2d_weight']
    """
    cases = []
    for n, h, c, k, o, *rest in _TINY if tiny else _CONVOLUTIONS:
        stride, dilation, groups = (*rest, 1, 1, 1)[:3]
        p = (k - 1) * dilation // 2
        settings: dict[str, Any] = {
            "stride": (stride, stride), "padding": ((p, p), (p, p)),
            "dilation": (dilation, dilation), "groups": groups}
        x, w = (n, h, h, c), (k, k, c // groups, o)
        y = OPS["conv2d"].shape(x, w, **settings)
        cases += [kernel_case("conv2d", x, w, **settings),
                  kernel_case("conv2d_input", y, w, image_size=(h, h), **settings),
                  kernel_case("conv2d_weight", x, y, kernel_size=(k, k), **settings)]
    return cases


def layer_cases(*, tiny: bool = False) -> list[Case]:
    """Public functions, forward and with a backward pass."""
    images = ((2, 4, 4, 3),) if tiny else (
        (64, 28, 28, 8), (64, 32, 32, 32), (64, 16, 16, 64), (32, 32, 32, 128))
    rows = ((4, 6, 3),) if tiny else ((64, 784, 10), (64, 4096, 10), (128, 1024, 1024))
    cases = []
    for x in images:
        c = x[3:]
        cases += [layer_case("relu", x), layer_case("max_pool2d", x, kernel_size=2),
                  layer_case("avg_pool2d", x, kernel_size=2), layer_case("global_avg_pool2d", x),
                  layer_case("batch_norm", x, c, c), layer_case("add", x, c),
                  layer_case("sum", x)]
    for n, features, classes in rows:
        cases += [layer_case("linear", (n, features), (features, classes), (classes,)),
                  layer_case("cross_entropy", (n, classes), (n,))]
    return cases


def describe(case: Case) -> str:
    """The shapes, and the settings that are not the usual ones, as a table shows them."""
    shapes = " · ".join("×".join(map(str, shape)) for shape in case.shapes if shape)
    unusual = [f"{name} {value[0] if isinstance(value, tuple) else value}"
               for name, value in case.settings.items()
               if name in ("stride", "dilation", "groups") and value not in (1, (1, 1))]
    return ", ".join([shapes, *unusual])


def measure_ops(plan: Plan, tell: Tell = lambda line: None, *, tiny: bool = False) -> Report:
    """Every case in our processes, pure and compiled, and in PyTorch's, in turns.

    Returns
    -------
    dict
        ``machine``, ``versions``, ``skipped`` and ``ops``: a list of rows with ``op``, ``case``,
        ``flop`` and ``times`` (timer -> name -> summary), or ``refused``.
    """
    skipped: dict[str, str] = {}
    report: Report = {"machine": describe_machine(plan.threads), "versions": {},
                      "skipped": skipped, "ops": []}
    names = plan.contenders(*(n for n in plan.against if n == "torch"), eager=True)
    with workers(names, threads=plan.threads, pythons=plan.pythons, skipped=skipped) as running:
        for worker in running.values():
            report["versions"].update(worker.versions)
        for case in conv_cases(tiny=tiny) + layer_cases(tiny=tiny):
            checks = {"op": 1} if case.kind == "kernel" else {"forward": 1, "both": 1}
            row: Report = {"op": case.name, "case": describe(case), "flop": _flop(case)}
            try:
                row["times"] = race(running, case, rounds=plan.rounds, seconds=plan.seconds,
                                    checks=checks, patience=plan.patience,
                                    skipped=skipped)["times"]
            except BenchError as error:
                row["refused"] = str(error)
            report["ops"].append(row)
            tell(_line(row))
    return report


def _flop(case: Case) -> int | None:
    """Operations of one call of a convolution; nothing is claimed for the others."""
    if case.kind != "kernel":
        return None
    op = OPS[case.name]
    return op.count_flops(*case.shapes, out=op.shape(*case.shapes, **case.settings),
                          **case.settings)


def _line(row: Mapping[str, Any]) -> str:
    if "refused" in row:
        return f"{row['op']} {row['case']}: {row['refused']}"
    return f"{row['op']} {row['case']}: " + "; ".join(
        f"{timer} " + ", ".join(f"{n} {v['min'] * 1e3:.3f} ms" for n, v in found.items())
        for timer, found in row["times"].items())


def kernel_errors(*, tiny: bool = False, compiled: bool | None = None) -> list[dict[str, Any]]:
    """How far each fast kernel is from the loops in float64, in parts of the largest output.

    Parameters
    ----------
    tiny : bool, default False
        Fewer and smaller cases.
    compiled : bool, optional
        Each kernel also with compiled parts, or not; where they are installed if not given.

    Returns
    -------
    list of dict
        ``op``, ``case``, ``kernel``, whether ``compiled`` kernels were on, and the errors in
        ``float32`` and ``float64``.

    Examples
    --------
    >>> all(row["float32"] < 5e-5 for row in kernel_errors(tiny=True))
    True
    """
    compiled = get_compiled() if compiled is None else compiled
    rows: list[dict[str, Any]] = []
    for case in conv_cases(tiny=tiny):
        op, (arrays, _) = OPS[case.name], operands(_small(case))
        exact = [a.astype(np.float64) for a in arrays]
        truth = op.kernels["reference"](*exact, **case.settings)
        for on in (False, True) if compiled else (False,):
            with set_compiled(on):
                found = {name: _errors(partial(kernel, **case.settings), exact, truth)
                         for name, kernel in op.kernels.items() if name != "reference"}
            rows += [{"op": case.name, "case": describe(_small(case)), "kernel": name,
                      "compiled": on, **errors} for name, errors in found.items() if errors]
    return rows


def _errors(kernel: Callable[..., Any], exact: Sequence[Any], truth: Any) -> dict[str, float]:
    """Of a kernel by dtype, without those that it declines."""
    errors = {}
    for dtype in (np.float32, np.float64):
        found = kernel(*(a.astype(dtype) for a in exact))
        if found is not NotImplemented:
            errors[np.dtype(dtype).name] = float(np.abs(found - truth).max() / np.abs(truth).max())
    return errors


def _small(case: Case) -> Case:
    """The same case on two images, since the loops are slow."""
    shapes = tuple((min(2, s[0]), *s[1:]) if s is not None and i in (0, 1)
                   and (i == 0 or case.name == "conv2d_weight") else s
                   for i, s in enumerate(case.shapes))
    return Case(case.kind, case.name, shapes, case.settings)
