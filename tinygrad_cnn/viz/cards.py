"""From a recording and a plan to a diagram: words, numbers and colours of every card and edge."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from tinygrad_cnn.errors import VizError
from tinygrad_cnn.viz.diagram import Card, Diagram, Row, Scale
from tinygrad_cnn.viz.edges import edges
from tinygrad_cnn.viz.fold import Part, Plan, plan
from tinygrad_cnn.viz.health import Problem, problems
from tinygrad_cnn.viz.recording import Entry, Recording, dotted
from tinygrad_cnn.viz.text import (
    binary_size,
    count,
    flop_text,
    number,
    seconds_text,
    shape_text,
)
from tinygrad_cnn.viz.units import Unit, Units, relative

__all__ = ["COLOURS", "draw"]

COLOURS = ("grad", "time", "memory", "flop")
SHARES = (0.01, 0.03, 0.1, 0.3)
DECADES = Scale("gradient RMS", (1e-4, 1e-3, 1e-2, 1e-1), "1e-4", "0.1")
_MOST_SQUARES = 32
_HOT_SHARE = 0.25
_BADGES = {"input": "x", "label": "y", "loss": "L", "constant": "c"}
_SHORT = {"batch_norm": "norm", "layer_norm": "norm", "conv2d": "conv"}


def draw(recording: Recording, *, level: str = "auto", color: str = "grad",
         scale: str = "decades", open: Iterable[str] = (), limit: int = 40,
         title: str | None = None, changes: Mapping[int, str] | None = None) -> Diagram:
    """Fold a recording and write its cards.

    Parameters
    ----------
    recording : Recording
        The run.
    level, open, limit
        As in `fold.plan`.
    color : str, default "grad"
        What the bars show: ``grad``, ``time``, ``memory`` or ``flop``.
    scale : str, default "decades"
        Bins of the gradient: decades from 1e-4 to 0.1, or ``fit``, half-decades round the median.
    title : str, optional
        Instead of the name of the outermost module.
    changes : mapping of int to str, optional
        ``added``, ``removed`` or ``changed`` for entries, in the picture of a difference.

    Raises
    ------
    VizError
        If a setting is unknown.
    """
    if color not in COLOURS:
        raise VizError(f"graph: color {color!r} is unknown; choose from {', '.join(COLOURS)}")
    if scale not in ("decades", "fit"):
        raise VizError(f"graph: scale {scale!r} is unknown; choose decades or fit")
    opened = (open,) if isinstance(open, str) else tuple(open)
    chosen = plan(recording, level, open=opened, limit=limit)
    writer = _Writer(recording, chosen, color, scale, changes or {})
    return writer.diagram(title or recording.title, opened)


class _Writer:
    def __init__(self, recording: Recording, chosen: Plan, color: str, scale: str,
                 changes: Mapping[int, str]) -> None:
        self.recording, self.plan, self.color, self.changes = recording, chosen, color, changes
        self.entries = recording.entries
        self.cast = Units(recording, chosen)
        self.totals = {"time": sum(e.seconds or 0.0 for e in self.entries),
                       "memory": sum(e.kept for e in self.entries),
                       "flop": sum(e.flops for e in self.entries)}
        self.findings: dict[int, list[Problem]] = {}
        for p in problems(recording):
            self.findings.setdefault(p.entry, []).append(p)
        self.ramp = self._scale(scale)

    # ---- numbers and their colours ---------------------------------------------------------------
    def _scale(self, scale: str) -> Scale:
        if self.color != "grad":
            words = {"time": "share of forward time", "memory": "share of bytes kept",
                     "flop": "share of FLOP"}
            return Scale(words[self.color], SHARES, "1%", "30%")
        if scale == "decades":
            return DECADES
        values = sorted(g.rms for e in self.entries if e.is_op and (g := e.gradient) is not None
                        and 0 < g.rms < math.inf)
        if not values:
            return DECADES
        k = math.floor(2 * math.log10(values[len(values) // 2]))
        edges = tuple((1 if i % 2 == 0 else 3) * 10.0 ** (i // 2) for i in range(k - 1, k + 3))
        return Scale("gradient RMS", edges, _edge_text(edges[0]), _edge_text(edges[-1]))

    def _bar(self, unit: Unit, entry: Entry | None) -> Row | None:
        """The bar of a card: gradient of its output, or its share of a total."""
        last = self.entries[unit.members[-1]] if entry is None else entry
        if self.color == "grad":
            if last.gradient is None:
                return None
            value = last.gradient.rms
            seed = last.role == "loss" and value == 1
            text = "grad 1 (seed)" if seed else f"grad {number(value)}"
            return Row("bar", text, fraction=_log_fraction(value, self.ramp),
                       levels=(self.ramp.level(value),))
        total = self.totals[self.color]
        amount = sum(self._amount(self.entries[i]) for i in unit.members)
        if not total or last.role == "parameter":
            return None
        share = amount / total
        words: dict[str, Callable[[float], str]] = {
            "time": seconds_text, "memory": lambda v: binary_size(int(v)),
            "flop": lambda v: flop_text(int(v))}
        return Row("bar", f"{words[self.color](amount)}, {share * 100:.0f}%",
                   fraction=max(0.02, share), levels=(self.ramp.level(share),))

    def _amount(self, e: Entry) -> float:
        return {"time": e.seconds or 0.0, "memory": float(e.kept),
                "flop": float(e.flops)}[self.color]

    # ---- cards -----------------------------------------------------------------------------------
    def diagram(self, title: str, opened: tuple[str, ...]) -> Diagram:
        cards = tuple(self._card(unit) for unit in self.cast.units)
        notes = ["dark line: value forward"]
        if self.recording.backward:
            notes += ["pink line: gradient back", "single line: no gradient"]
        if any(c.kind == "stack" for c in cards):
            notes[1:] = [*notes[1:2], "triple border: equal parts, a square each"]
        return Diagram(title, self._subtitle(len(cards)), self.plan.level, cards,
                       edges(self.cast, self.ramp if self.color == "grad" else DECADES),
                       tuple(self.cast.groups), self.ramp, tuple(notes), opened)

    def _subtitle(self, cards: int) -> str:
        entries = self.entries
        weights = sum(e.size for e in entries if e.role == "parameter")
        nodes = f"{count(len(entries))} node{'s' * (len(entries) != 1)}"
        out = entries[self.recording.output]
        # Constants are drawn inside their reader, and are no reason to speak of folding.
        return " · ".join(filter(None, (
            nodes if cards == len(entries) else f"{nodes} shown as {cards} cards",
            f"batch {self.recording.batch}" if self.recording.batch is not None else "",
            f"{count(weights)} parameters" if weights else "",
            f"{flop_text(int(self.totals['flop']))} forward" if self.totals["flop"] else "",
            f"{seconds_text(self.totals['time'])} forward" if self.totals["time"] else "",
            f"{binary_size(int(self.totals['memory']))} kept for backward"
            if self.totals["memory"] else "",
            out.note if out.role == "loss" else "", self.plan.remark)))

    def _card(self, unit: Unit) -> Card:
        if unit.part is None:
            card = self._leaf(unit, unit.members[0])
        elif unit.part.stop - unit.part.start == 1:
            card = self._op(unit, unit.members[0])
        else:
            card = self._folded(unit, unit.part)
        findings = [(i, p) for i in self.cast.inside(unit) for p in self.findings.get(i, ())]
        alone = len(unit.members) == 1
        texts = tuple(dict.fromkeys(self._finding(unit, i, p, alone) for i, p in findings))
        rows = (*card.rows, *(Row("warning", t) for t in texts[:3]))
        if len(texts) > 3:
            rows = (*rows, Row("warning", f"and {len(texts) - 3} more"))
        broken = any(s is not None and s.bad for i in self.cast.inside(unit)
                     for s in (self.entries[i].value, self.entries[i].gradient))
        change = self._change(unit)
        return replace(card, rows=rows, warnings=texts, broken=broken, group=unit.group,
                       beside=unit.beside, change=change,
                       tag=" · ".join(filter(None, (card.tag, change))))

    def _change(self, unit: Unit) -> str:
        """One word for a card: what happened to all that is on it, else ``changed`` if anything."""
        words = {self.changes.get(i, "") for i in self.cast.inside(unit)}
        return words.pop() if len(words) == 1 else "changed"

    def _finding(self, unit: Unit, i: int, p: Problem, alone: bool) -> str:
        e = self.entries[i]
        if alone:
            return f"{e.name}: {p.evidence}" if unit.part is not None and e.name else p.evidence
        part = unit.part
        assert part is not None, "a card of several members has a part"
        if part.instances:
            at = next((k for k, (a, b) in enumerate(part.instances)
                       if self.plan.ops[a] <= i <= self.plan.ops[b - 1]), 0)
            block = part.paths[at][-1] if part.paths else str(at)
            return f"block {block}, {e.name or e.op}: {p.evidence}"
        return f"{e.name or e.op}: {p.evidence}"

    def _about(self, i: int) -> tuple[str, ...]:
        e = self.entries[i]
        gradient = "" if e.gradient is None else (
            f"gradient RMS {number(e.gradient.rms)}, between {number(e.gradient.low)} and "
            f"{number(e.gradient.high)}")
        return tuple(filter(None, (
            self.cast.names[i], " · ".join(e.settings), e.note, f"{shape_text(e.shape)} {e.dtype}",
            f"forward {seconds_text(e.seconds)}" if e.seconds is not None else "",
            flop_text(e.flops) if e.flops else "",
            f"keeps {binary_size(e.kept)} for backward" if e.kept else "",
            f"RMS of the weights {number(e.weight)}" if e.weight is not None else "",
            gradient, e.source)))

    def _leaf(self, unit: Unit, i: int) -> Card:
        e = self.entries[i]
        dtype = "" if e.role == "parameter" else f" · {e.dtype}"
        rows = [Row("text", shape_text(e.shape) + dtype)]
        if e.note:
            rows.append(Row("text", e.note))
        bar = self._bar(unit, e) if e.role == "parameter" or e.gradient is not None else None
        if bar is not None:
            rows.append(bar)
        badge = _BADGES.get(e.role, "W" if len(e.shape) > 1 else "b")
        path = dotted(e.scope[len(unit.inside):])
        title = f"{path}.{e.name}" if path and e.role == "parameter" else e.name
        return Card(unit.id, e.role, e.role, title, badge=badge, rows=tuple(rows),
                    about=self._about(i))

    def _op(self, unit: Unit, i: int) -> Card:
        e = self.entries[i]
        leaves = [self.entries[j] for j in self.cast.inside(unit) if j != i]
        weights = " · ".join(f"{p.name} {shape_text(p.shape)}" for p in leaves
                             if p.role == "parameter")
        constants = " · ".join(f"{p.name} {p.note}".strip() for p in leaves if p.role == "constant")
        rows = [Row("text", " · ".join(filter(None, (*e.settings, constants, e.note)))),
                Row("text", weights), self._cost_row([i], e.seconds, e.flops, e.kept),
                self._bar(unit, e)]
        title = f"{unit.prefix} · {e.op}" if unit.prefix else e.op
        return Card(unit.id, "loss" if e.role == "loss" else "op", e.family, title, f"#{i}",
                    _BADGES.get(e.role, ""), _kept(rows), about=self._about(i))

    def _cost_row(self, members: Sequence[int], seconds: float | None, flops: int,
                  kept: int) -> Row | None:
        before = flop_text(flops) if flops >= 90_000 else ""
        after = f"keeps {binary_size(kept)}" if kept else ""
        time = seconds_text(seconds) if seconds is not None and seconds >= 5e-7 else ""
        total = self.totals["time"]
        share = seconds / total if seconds and total else 0.0
        if time and share > _HOT_SHARE and len(self.plan.ops) > 1:
            return Row("text", before + " · " if before else "", f"{time} ({share * 100:.0f}%)",
                       " · " + after if after else "")
        return Row("text", " · ".join(filter(None, (before, time, after))))

    def _folded(self, unit: Unit, part: Part) -> Card:
        members = unit.members
        stacked = bool(part.instances)
        first = range(*part.instances[0]) if stacked else range(part.start, part.stop)
        inside = [self.entries[i] for i in self.cast.inside(unit)]
        seconds = [e.seconds for e in inside if e.seconds is not None]
        path = dotted(part.path) if part.kind in ("span", "stack") else ""
        rows = [Row("text", " · ".join(filter(None, (self.recording.notes.get(path, ""),
                                                     self._flow(members))))),
                Row("text", "" if part.kind in ("chain", "pattern") and len(first) <= 3
                    else self._chain(first)),
                self._totals(part, inside, seconds), self._folded_bar(unit, part)]
        title = self._folded_title(unit, part)
        family = _strip([self.entries[i].family for i in members])
        nodes = f"{count(len(inside))} nodes"
        last = self.entries[members[-1]]
        about = (*filter(None, (title if title != path else "", path)), f"{nodes} folded",
                 f"output {shape_text(last.shape)} {last.dtype}", *filter(None, (last.source,)))
        return Card(unit.id, "stack" if stacked else "module", family, title, nodes, "",
                    _kept(rows), path=path, about=about)

    def _totals(self, part: Part, inside: Sequence[Entry], seconds: Sequence[float]) -> Row:
        cost = self._cost_row([], sum(seconds) if seconds else None,
                              sum(e.flops for e in inside), sum(e.kept for e in inside))
        weights = self.cast.parameter_text(range(part.start, part.stop))
        assert cost is not None, "a cost row may be empty, but it is a row"
        if not weights:
            return cost
        glue = " · " if cost.text or cost.hot else ""
        return replace(cost, text=weights + glue + cost.text)

    def _flow(self, members: Sequence[int]) -> str:
        """Shapes of the first image that enters and of the last that leaves, without the batch."""
        inside = set(members)
        enters = next((self.entries[j] for i in members for j in self.entries[i].inputs
                       if j not in inside and self.entries[j].role in ("op", "input")), None)
        leaves = self.entries[members[-1]]
        if enters is None or len(enters.shape) < 2:
            return ""
        a, b = shape_text(enters.shape[1:]), shape_text(leaves.shape[1:])
        return a if a == b else f"{a} → {b}"

    def _chain(self, positions: range) -> str:
        """The ops of a folded part in order, or counted where there are many."""
        ops = [_SHORT.get(n, n) for n in (self.entries[self.plan.ops[p]].op for p in positions)]
        if len(ops) <= 7:
            return ", ".join(ops) if len(ops) > 1 else ""
        counts = Counter(ops).most_common(4)
        rest = len(set(ops)) - len(counts)
        more = f" and {rest} more" if rest > 0 else ""
        return ", ".join(f"{n} {op}" for op, n in counts) + more

    def _folded_bar(self, unit: Unit, part: Part) -> Row | None:
        if not part.instances or self.color != "grad":
            return self._bar(unit, None)
        lasts = [self.entries[self.plan.ops[stop - 1]] for _, stop in part.instances]
        values = [e.gradient.rms for e in lasts if e.gradient is not None]
        if len(values) < len(lasts):
            return None
        each = -(-len(values) // _MOST_SQUARES)
        weakest = [min(values[k:k + each]) for k in range(0, len(values), each)]
        return Row("squares", f"grad {number(values[0])} … {number(values[-1])}",
                   levels=tuple(self.ramp.level(v) for v in weakest))

    def _folded_title(self, unit: Unit, part: Part) -> str:
        times = f" × {len(part.instances)}"
        if part.kind == "stack":
            first, last = part.paths[0], part.paths[-1]
            start = relative(first, unit.inside)
            if first[-1].isdigit() and last[-1].isdigit():
                start, end = start.removesuffix("]"), f"{last[-1]}{']' * start.endswith(']')}"
                return f"{start}…{end}{times}"
            return f"{start}…{last[-1]}{times}"
        if part.kind == "pattern":
            return (self._chain(range(*part.instances[0])) or
                    self.entries[self.plan.ops[part.start]].op) + times
        prefix = f"{unit.prefix} · " if unit.prefix else ""
        if part.kind == "chain":
            return prefix + (self._chain(range(part.start, part.stop))
                             if part.stop - part.start <= 3
                             else f"{part.stop - part.start} element-wise ops")
        if part.kind == "segment":
            return f"nodes {unit.members[0]}–{unit.members[-1]}"
        return relative(part.path, unit.inside)


def _kept(rows: Iterable[Row | None]) -> tuple[Row, ...]:
    return tuple(r for r in rows if r is not None and (r.text or r.hot or r.kind == "squares"))


def _strip(families: Sequence[str]) -> str:
    return next((f for f in ("conv", "linear", "norm", "pool", "activation") if f in families),
                families[-1])


def _log_fraction(value: float, scale: Scale) -> float:
    low, high = math.log10(scale.edges[0]) - 1, math.log10(scale.edges[-1]) + 1
    if not math.isfinite(value):
        return 1.0
    return min(1.0, max(0.03, (math.log10(max(value, 1e-30)) - low) / (high - low)))


def _edge_text(v: float) -> str:
    exponent = math.floor(math.log10(v) + 1e-9)
    return f"{v:g}" if exponent >= -2 else f"{round(v / 10.0 ** exponent)}e{exponent}"
