"""The report: milliseconds, and our time as a ratio of the best of each library."""

from __future__ import annotations

from bench.libraries import OURS
from bench.race import library_of
from bench.worker import LINKS


def table(head, rows):
    """A Markdown table; numbers to the right."""
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def ratios(times):
    """{(our way, library): our time over the best of the library}."""
    best = {}
    for name, seconds in times.items():
        library = library_of(name)
        best[library] = min(seconds, best.get(library, seconds))
    found = {}
    for name, seconds in times.items():
        if library_of(name) == OURS:
            for library in best:
                if library.startswith("checkout "):     # the same way of ours, before or after
                    twin = times.get(f"{name} @ {library.removeprefix('checkout ')}")
                    found |= {(name, library): seconds / twin} if twin else {}
                elif library != OURS:
                    found[name, library] = seconds / best[library]
    return found


def milliseconds(seconds):
    return f"{seconds * 1e3:.3g}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


def _timed(rows, shown):
    """A table of rows {label: {name: seconds}}: times, then ratios."""
    names = list(dict.fromkeys(name for times in rows.values() for name in times))
    pairs = list(dict.fromkeys(pair for times in rows.values() for pair in ratios(times)))
    lines = []
    for label, times in rows.items():
        found = ratios(times)
        lines.append([label, *(shown(times[n]) if n in times else "–" for n in names),
                      *(f"{found[p]:.2f}" if p in found else "–" for p in pairs)])
    return table(["", *names, *(f"{own} / {library}" for own, library in pairs)], lines)


def markdown(found):
    """The whole report.  Ratios below 1: ours is faster than the quickest variant."""
    machine, nets = found["machine"], found["nets"]
    parts = ["\n".join(f"- {fact}" for fact in (
        f"{machine['cpu']}, {machine['threads']} of {machine['cpus']} CPUs, load {machine['load']}",
        f"{machine['system']}, Python {machine['python']}",
        ", ".join(f"{n} {v}" for n, v in found["versions"].items())))]
    for timer, title in (("step", "Step (forward, backward, update)"), ("inference", "Inference")):
        rows = {net: row["seconds"][timer] for net, row in nets.items()
                if timer in row.get("seconds", ())}
        if rows:
            parts.append(f"### {title}: milliseconds, minimum; then ratios\n\n"
                         + _timed(rows, milliseconds))
    parts += [f"**{net} was not timed**: {row['refused']}" for net, row in nets.items()
              if "refused" in row]
    if found.get("chain"):
        per_op = {name: s / (2 * LINKS) for name, s in found["chain"].items()}
        parts.append("### Engine: µs per op of a chain of `h * b + a`, forward and backward\n\n"
                     + _timed({"µs per op": per_op}, lambda s: f"{s * 1e6:.2f}"))
    memory = {net: row["bytes"] for net, row in nets.items() if any(row.get("bytes", {}).values())}
    if memory:
        names = list(dict.fromkeys(name for row in memory.values() for name in row))
        parts.append("### Memory of three steps beyond what was held before, MiB\n\n" + table(
            ["", *names], [[net, *(f"{row[n] / 2**20:.0f}" if n in row else "–" for n in names)]
                           for net, row in memory.items()]))
    if found["skipped"]:
        parts.append("### Left out\n\n" + "\n".join(f"- {n}: {why}"
                                                    for n, why in found["skipped"].items()))
    return "\n\n".join(parts)
