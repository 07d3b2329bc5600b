"""Reports as Markdown tables, and the targets held against what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tinygrad_cnn.bench.frameworks import CONTENDERS, OURS
from tinygrad_cnn.errors import SettingError

__all__ = ["Target", "accuracy_markdown", "markdown", "ops_markdown", "profile_markdown", "renewed",
           "table", "targets"]

Report = Mapping[str, Any]
_STEP = {"lenet": 0.9, "vgg": 0.8, "wide": 0.6, "resnet20": 0.9}    # × PyTorch's best


class Target(NamedTuple):
    """A figure to reach, and the one measured."""

    what: str
    bound: float
    measured: float
    unit: str = "×"
    least: bool = False                 # whether the bound is a lower one

    @property
    def reached(self) -> bool:
        """Whether the measured figure is on the right side."""
        return self.measured >= self.bound if self.least else self.measured <= self.bound


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; the first column to the left, numbers to the right.

    Examples
    --------
    >>> print(table(["net", "ms"], [["lenet", 3]]))
    | net | ms |
    |---|---:|
    | lenet | 3 |
    """
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def renewed(page: str, text: str, *, part: str) -> str:
    r"""A page with ``text`` between the comments ``begin: part`` and ``end: part``.

    Raises
    ------
    SettingError
        If the page does not have both comments.

    Examples
    --------
    >>> renewed("a <!-- begin: x -->old<!-- end: x --> b", "new", part="x")
    'a <!-- begin: x -->\n\nnew\n\n<!-- end: x --> b'
    """
    begin, end = f"<!-- begin: {part} -->", f"<!-- end: {part} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SettingError(f"bench: the page to update needs the lines {begin} and {end}")
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


# ---- targets -------------------------------------------------------------------------------------

def _best(row: Mapping[str, Any], library: str) -> float | None:
    """The quickest variant of a library."""
    times = [v["min"] for name, v in row.items() if CONTENDERS[name].library == library]
    return min(times, default=None)


def _libraries(row: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(CONTENDERS[name].library for name in row if name != OURS))


def _net_targets(report: Report) -> Iterable[Target]:
    for net, row in report.get("nets", {}).items():
        if "step" not in row:
            continue
        for timer, bound in (("step", _STEP.get(net, 0.9)), ("inference", 0.9)):
            ours, torch = _best(row[timer], OURS), _best(row[timer], "torch")
            if ours and torch:
                yield Target(f"{net}: {timer}, of PyTorch's best", bound, ours / torch)
        for library in _libraries(row["step"]):
            ours, other = _best(row["step"], OURS), _best(row["step"], library)
            if library != "torch" and ours and other:
                yield Target(f"{net}: step, faster than {library}", 3.0, other / ours, least=True)


def targets(report: Report) -> list[Target]:
    """Every target that the report has a measurement for.

    Examples
    --------
    >>> found = targets({"growth": {"ratio": 9.0}})
    >>> found[0].bound, found[0].reached
    (8.5, False)
    """
    found = list(_net_targets(report))
    if "engine" in report:
        per_op = report["engine"]["per_op_us"]
        found.append(Target("engine: time of an op, forward and backward", 8.0, per_op[OURS], "µs"))
        if "torch" in per_op:
            found.append(Target("engine: time of an op, of PyTorch's", 0.6,
                                per_op[OURS] / per_op["torch"]))
        *_, shorter, longer = ((int(n), t) for n, t in report["engine"]["long_chain_s"].items())
        found.append(Target(f"engine: {longer[0]:,} nodes against {shorter[0]:,}, per node", 1.5,
                            longer[1] / shorter[1] * shorter[0] / longer[0]))
    if "notebook" in report:
        times = report["notebook"]
        found.append(Target("the notebook's loops, slower than the op", 2000,
                            times["loops"] / times["op"], least=True))
    if "growth" in report:
        found.append(Target("lenet: step with 8 × the batch", 8.5, report["growth"]["ratio"]))
    memory = {n: b["step"] for n, b in report.get("memory", {}).get("bytes", {}).items()}
    torch = [b for n, b in memory.items() if n.startswith("torch")]
    if OURS in memory and torch:
        found.append(Target("vgg: memory of a step, of PyTorch's least", 1.0,
                            memory[OURS] / min(torch)))
    if OURS in report.get("imports", {}):
        found.append(Target("import", 0.25, report["imports"][OURS]["min"], "s"))
    if report.get("errors"):
        found += [Target(f"error of a fast kernel, {dtype}", bound, max(
            row[dtype] for row in report["errors"] if dtype in row), "of the largest output")
            for dtype, bound in (("float32", 5e-5), ("float64", 1e-12))]
    return found


# ---- tables --------------------------------------------------------------------------------------

def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


def _names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    present = {name for row in rows for name in row}
    return [name for name in CONTENDERS if name in present]


def _net_tables(report: Report) -> Iterable[str]:
    for timer, title in (("step", "Step (forward, backward, update)"),
                         ("inference", "Inference")):
        nets = {net: row for net, row in report["nets"].items() if timer in row}
        if not nets:
            continue
        names = _names(row[timer] for row in nets.values())
        lines = []
        for net, row in nets.items():
            times, torch = row[timer], _best(row[timer], "torch")
            ratio = f"{times[OURS]['min'] / torch:.2f}" if torch else "–"
            others = f"{100 * row['others']:.0f} %" if "others" in row else "–"
            lines.append([net, *(f"{_ms(times[n]['min'])} ({_ms(times[n]['median'])})"
                                 if n in times else "–" for n in names), ratio, others])
        yield f"### {title}: milliseconds, minimum (median)\n\n" + table(
            ["net", *names, "of PyTorch's best", "CPU taken by others"], lines)
    for net, row in report["nets"].items():
        if "refused" in row:
            yield f"**{net} was not timed**: {row['refused']}"


def _heading(report: Report) -> str:
    machine = report["machine"]
    facts = [f"{machine['cpu']}, {machine['threads']} of {machine['cpus']} CPUs",
             f"{machine['system']}, Python {machine['python']}",
             ", ".join(f"{n} {v}" for n, v in report["versions"].items())]
    if "sgemm_gflops" in machine:
        torch = machine["sgemm_gflops_torch"]
        facts.append(f"float32 matrix product {machine['sgemm_gflops']} GFLOP/s in NumPy"
                     + (f", {torch} in PyTorch" if torch else "")
                     + f"; copy {machine['copy_gb_per_s']} GB/s; load before {machine['load']}")
    return "\n".join(f"- {fact}" for fact in facts)


def _rest(report: Report) -> Iterable[str]:
    if "engine" in report:
        per_op = report["engine"]["per_op_us"]
        yield "### Engine: a chain of `h * b + a` on 8 values, forward and backward\n\n" + table(
            ["", "µs per op"], [[n, f"{v:.2f}"] for n, v in per_op.items()])
    if report.get("memory", {}).get("bytes"):
        yield "### Memory of vgg steps, MiB\n\n" + table(
            ["", "beyond what was held before", "peak of the process"],
            [[n, *(f"{b[k] / 2**20:.0f}" for k in ("step", "process"))]
             for n, b in report["memory"]["bytes"].items()])
    if report.get("imports"):
        yield "### Import\n\n" + table(
            ["", "seconds", "memory, MiB", "disk, MB"],
            [[n, f"{v['min']:.2f}", _whole(v["resident"], 2**20), _whole(v["disk"], 10**6)]
             for n, v in report["imports"].items()])
    found = targets(report)
    if found:
        yield "### Targets\n\n" + table(
            ["", "to reach", "measured", "reached"],
            [[t.what, f"{'≥' if t.least else '≤'} {t.bound:g} {t.unit}",
              f"{t.measured:.3g}", "yes" if t.reached else "no"] for t in found])
    if report["skipped"]:
        yield "### Left out\n\n" + "\n".join(f"- {n}: {why}"
                                             for n, why in report["skipped"].items())


def _whole(value: float | None, unit: float) -> str:
    return "–" if value is None else f"{value / unit:.0f}"


def markdown(report: Report) -> str:
    """The whole report of `tinygrad_cnn.bench.run.measure`."""
    return "\n\n".join([_heading(report), *_net_tables(report), *_rest(report)]) + "\n"


def ops_markdown(report: Report) -> str:
    """Single ops: one row for each case and timer."""
    rows = []
    for row in report["ops"]:
        if "refused" in row:
            rows.append([row["op"], row["case"], "", row["refused"].splitlines()[0], "", ""])
            continue
        times = row["times"]
        ours = {timer: found[OURS]["min"] for timer, found in times.items() if OURS in found}
        for timer in ("op", "forward", "both"):
            if timer not in ours:
                continue
            torch = _best(times[timer], "torch")
            kernels = ", ".join(f"{k} {_ms(v)}" for k, v in ours.items()
                                if k not in ("op", "forward", "both"))
            rows.append([f"{row['op']}{' and backward' if timer == 'both' else ''}", row["case"],
                         _ms(ours[timer]), kernels, "–" if torch is None else _ms(torch),
                         "–" if torch is None else f"{ours[timer] / torch:.2f}"])
    return "\n\n".join([_heading(report), "### Single ops: milliseconds, minimum\n\n" + table(
        ["op", "case", "ours", "each kernel", "PyTorch's best", "ratio"], rows)]) + "\n"


def profile_markdown(found: Report, *, peak: float, most: int = 30) -> str:
    """The rows of a step; ``peak`` is the FLOP/s of a matrix product."""
    rows = []
    for row in found["rows"][:most]:
        seconds = row["seconds"] or 1e-12
        rate = row["flops"] / seconds
        rows.append([row["phase"], row["op"], "×".join(map(str, row["shape"])), row["calls"],
                     f"{row['seconds'] * 1e3:.3f}", f"{100 * row['share']:.1f} %",
                     f"{rate / 1e9:.1f}", f"{100 * rate / peak:.0f} %",
                     f"{row['bytes'] / 1e6:.2f}", f"{row['bytes'] / seconds / 1e9:.1f}"])
    left = found["rows"][most:]
    if left:
        rows.append(["", f"{len(left)} more", "", "",
                     f"{sum(r['seconds'] for r in left) * 1e3:.3f}",
                     f"{100 * sum(r['share'] for r in left):.1f} %", "", "", "", ""])
    title = (f"### {found['net']}, batch {found['batch']}: {found['step_s'] * 1e3:.2f} ms a step "
             f"(matrix product: {peak / 1e9:.0f} GFLOP/s)\n\n")
    return title + table(["phase", "op", "result", "calls", "ms", "share", "GFLOP/s", "of peak",
                          "MB", "GB/s"], rows) + "\n"


def accuracy_markdown(report: Report) -> str:
    """Epochs and seconds of each framework until the goal."""
    rows = []
    for name, row in report["accuracy"].items():
        seconds = sum(row["seconds"])
        rows.append([name, len(row["seconds"]), f"{seconds:.1f}",
                     f"{min(row['seconds'], default=0.0):.2f}",
                     f"{100 * max(row['curve'], default=0.0):.2f} %",
                     "yes" if row["reached"] else "no"])
    return "\n\n".join([_heading(report), (
        f"### {report['net']} on {report['data']}: time to {100 * report['goal']:g} % of the test "
        "set\n\n") + table(["", "epochs", "seconds", "quickest epoch", "accuracy", "reached"],
                           rows)]) + "\n"
