"""Reports as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tinygrad_cnn.bench.frameworks import CONTENDERS, FAST, OURS
from tinygrad_cnn.bench.targets import OWN, best, ratio, targets
from tinygrad_cnn.errors import SettingError

__all__ = ["accuracy_markdown", "markdown", "ops_markdown", "profile_markdown", "renewed", "table"]

Report = Mapping[str, Any]
_RATIO = {OURS: "of PyTorch's best", FAST: "fast, of PyTorch's best"}


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


# ---- tables --------------------------------------------------------------------------------------

def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


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
            times = row[timer]
            others = f"{100 * row['others']:.0f} %" if "others" in row else "–"
            lines.append([net, *(f"{_ms(times[n]['min'])} ({_ms(times[n]['median'])})"
                                 if n in times else "–" for n in names),
                          *(_shown(ratio(times, own)) for own in OWN if own in names), others])
        yield f"### {title}: milliseconds, minimum (median)\n\n" + table(
            ["net", *names, *(_RATIO[own] for own in OWN if own in names),
             "CPU taken by others"], lines)
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
    rows: list[list[str]] = []
    own = [n for n in OWN if n in _names(found for row in report["ops"]
                                          for found in row.get("times", {}).values())]
    for row in report["ops"]:
        if "refused" in row:
            rows.append([row["op"], row["case"], *[""] * len(own),
                         row["refused"].splitlines()[0], *[""] * (1 + len(own))])
            continue
        times = row["times"]
        for timer in ("op", "forward", "both"):
            if OURS not in times.get(timer, ()):
                continue
            torch = best(times[timer], "torch")
            rows.append([f"{row['op']}{' and backward' if timer == 'both' else ''}", row["case"],
                         *(_ms(times[timer][n]["min"]) if n in times[timer] else "–" for n in own),
                         _kernels(times), "–" if torch is None else _ms(torch),
                         *(_shown(ratio(times[timer], n)) for n in own)])
    return "\n\n".join([_heading(report), "### Single ops: milliseconds, minimum\n\n" + table(
        ["op", "case", *own, "each kernel", "PyTorch's best", *(_RATIO[n] for n in own)],
        rows)]) + "\n"


def _kernels(times: Mapping[str, Mapping[str, Any]]) -> str:
    """Each kernel by its name; what only the compiled process has comes from there."""
    found = []
    for timer, row in times.items():
        if timer not in ("op", "forward", "both"):
            found += [f"{timer} {_ms(row[n]['min'])}" for n in OWN if n in row][:1]
    return ", ".join(found)


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
    how = "compiled kernels" if found["compiled"] else "pure NumPy"
    title = (f"### {found['net']}, batch {found['batch']}, {how}: "
             f"{found['step_s'] * 1e3:.2f} ms a step "
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
