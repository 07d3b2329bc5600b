"""The picture as plain data: cards, edges and groups, with every word and number already chosen.

`draw` makes a `Diagram` of a recording; every format is written from it.  Equal runs give equal
diagrams.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tinygrad_cnn.errors import VizError
from tinygrad_cnn.viz.capture import Entry, Recording, dotted, entry_names
from tinygrad_cnn.viz.diagnostics import Problem, problems
from tinygrad_cnn.viz.fold import Part, fold
from tinygrad_cnn.viz.labels import (
    STRIPS,
    binary_size,
    count,
    flop_text,
    number,
    seconds_text,
    shape_text,
)

__all__ = ["COLORS", "Card", "Diagram", "Edge", "Group", "Row", "Scale", "draw"]

COLORS = ("grad", "time", "memory", "flop")
_FILLS = {"input": "input", "parameter": "param", "label": "label", "constant": "label",
          "loss": "loss"}
_LEGEND = {"activation": "input, activation", "param": "parameter", "conv": "conv, linear",
           "pool": "pooling, reduction", "norm": "norm, element-wise", "shape": "shape, random",
           "loss": "loss"}


@dataclass(frozen=True)
class Scale:
    """Four edges that part values into five colors, and the words of its legend."""

    name: str
    edges: tuple[float, ...]
    low: str
    high: str

    def level(self, value: float) -> int:
        """Color of a value, 0 to 4; NaN takes the last.

        >>> Scale("gradient RMS", (1e-4, 1e-3, 1e-2, 1e-1), "1e-4", "0.1").level(3e-3)
        2
        """
        return sum(not value <= edge for edge in self.edges)


@dataclass(frozen=True)
class Row:
    """One line of a card."""

    kind: str               # text, bar, squares, values, gradients, picture or warning
    text: str                               # of a picture its URI
    hot: str = ""                           # in bold, after the text
    after: str = ""
    fraction: float = 0.0                   # of a bar
    levels: tuple[int, ...] = ()            # color of a bar, of each square; counts of a histogram

    @property
    def words(self) -> str:
        """The row as text."""
        whole = "" if self.kind == "picture" else self.text + self.hot + self.after
        return f"! {whole}" if self.kind == "warning" else whole


@dataclass(frozen=True)
class Card:
    """One box of the picture."""

    id: str                                 # "n" and a serial number, never a user's word
    kind: str                   # op, input, parameter, constant, label, loss, module or stack
    family: str                             # color of the strip
    title: str
    tag: str = ""                           # small text at the right
    badge: str = ""                         # letter on the strip
    rows: tuple[Row, ...] = ()
    beside: str = ""                        # a parameter stands in the row of its reader
    group: str = ""                         # the innermost group that holds the card
    path: str = ""                          # the module that the card shows folded
    about: tuple[str, ...] = ()             # facts for the tooltip and the page
    warnings: tuple[str, ...] = ()
    change: str = ""                        # of a difference: added, removed or changed
    broken: bool = False                    # holds NaN or infinity
    loop: bool = False                      # of a stack: steps, of which each leads to the next
    entries: tuple[int, ...] = ()           # of the recording, that the card shows

    @property
    def tip(self) -> str:
        """The facts on one line."""
        return " | ".join(dict.fromkeys((self.title, *self.about)))

    @property
    def colors(self) -> tuple[str, str]:
        """The color roles of fill and border."""
        name = self.change or _FILLS.get(self.kind, "")
        return (f"{name}_fill", f"{name}_line") if name else ("card", "card_line")


@dataclass(frozen=True)
class Edge:
    """One value that goes from card to card, and the gradient that comes back."""

    id: str
    source: str
    target: str
    text: str = ""
    gradient: str = ""                      # its RMS as text, empty where none was recorded
    level: int = -1                         # its color
    trunk: bool = False                     # whether it is the deepest input of its target
    step: int = -1                          # its turn in the backward pass
    tip: str = ""


@dataclass(frozen=True)
class Group:
    """A module that is drawn open: a box around its cards."""

    id: str
    title: str
    note: str = ""
    parent: str = ""
    path: str = ""


@dataclass(frozen=True)
class Diagram:
    """A whole picture, ordered as it was recorded."""

    title: str
    subtitle: str
    level: str
    cards: tuple[Card, ...]
    edges: tuple[Edge, ...]
    groups: tuple[Group, ...]
    scale: Scale
    notes: tuple[str, ...] = ()
    opened: tuple[str, ...] = ()
    direction: str = "TB"                   # or LR
    aspect: float = 0.0                     # width over height of the page, 0 for any
    density: str = "normal"                 # or compact: a line for each card

    def backward(self) -> tuple[Edge, ...]:
        """The edges that carry a gradient, in the order in which the engine sent it."""
        return tuple(sorted((e for e in self.edges if e.step >= 0), key=lambda e: e.step))

    @property
    def legend(self) -> list[tuple[str, str]]:
        """The strips that the cards wear, each with its meaning."""
        worn = {STRIPS[card.family] for card in self.cards}
        return [(strip, meaning) for strip, meaning in _LEGEND.items() if strip in worn]

    @property
    def has_scale(self) -> bool:
        """Whether anything wears a color of the ramp."""
        return (any(e.level >= 0 for e in self.edges)
                or any(row.levels for card in self.cards for row in card.rows))


# ---- from a recording to a diagram ---------------------------------------------------------------

_SHARES = (0.01, 0.03, 0.1, 0.3)
_DECADES = Scale("gradient RMS", (1e-4, 1e-3, 1e-2, 1e-1), "1e-4", "0.1")
_MOST_SQUARES = 32
_MOST_PARALLEL = 2                          # more values between two cards become one edge
_MOST_WARNINGS = 3
_HOT_SHARE = 0.25
_WIDE_SPAN = 3.0                            # decades, beyond which half-decades hide the rest
_MOST_VALUES = 4                            # of a result, on its card
_LONGEST_TAG = 28                           # beside the title of a compact card
_LEAST_FLOPS = 90_000                       # fewer are not worth a word
_BADGES = {"input": "x", "label": "y", "loss": "L", "constant": "c"}
_SHORT = {"batch_norm": "norm", "layer_norm": "norm", "conv2d": "conv"}


def draw(recording: Recording, *, level: str = "auto", color: str = "grad",
         scale: str = "decades", open: str | Iterable[str] = (), limit: int = 40,
         title: str | None = None, direction: str = "TB", aspect: float = 0.0,
         density: str = "normal", card: Callable[[Entry], str] | None = None,
         edge: Callable[[Entry, Entry], str] | None = None,
         changes: Mapping[int, str] | None = None) -> Diagram:
    """Fold a recording and write its cards; settings and errors are those of `Figure`."""
    for name, value, known in (("color", color, COLORS), ("scale", scale, ("decades", "fit")),
                               ("direction", direction, ("TB", "LR")),
                               ("density", density, ("normal", "compact"))):
        if value not in known:
            raise VizError(f"graph: {name} {value!r} is unknown; choose from {', '.join(known)}")
    if aspect and not 0.1 <= aspect <= 10:
        raise VizError(f"graph: aspect must be between 0.1 and 10, got {aspect}; 16/9 is a slide")
    opened = (open,) if isinstance(open, str) else tuple(open)
    writer = _Writer(recording, level, opened, limit, color, scale, changes or {},
                     density == "compact", edge)
    drawn = writer.diagram(title or recording.title, opened)
    drawn = replace(drawn, direction=direction, aspect=float(aspect), density=density)
    if density == "compact":
        drawn = _compact(drawn)
    return drawn if card is None else replace(drawn, cards=tuple(
        replace(c, rows=(*c.rows, Row("text", text)))
        if c.kind not in ("module", "stack") and (text := card(recording.entries[c.entries[-1]]))
        else c for c in drawn.cards))


def _compact(diagram: Diagram) -> Diagram:
    """One line for each card, and no words on edges; findings stay."""
    cards = []
    for card in diagram.cards:
        rows = [r.text for r in card.rows if r.kind == "text" and r.text]
        parts = [p for p in " · ".join(rows).split(" · ") if p.startswith("loss ")] or [
            p for p in (rows or [""])[0].split(" · ")
            if p and p != "stride 1" and not re.match(r"keeps|[\d.]+ (µs|ms|s|[kMGT]?FLOP)", p)]
        short = " · ".join(parts[:2])
        tag = card.change or (short if len(short) <= _LONGEST_TAG else "")
        cards.append(replace(card, tag=tag, rows=tuple(
            r for r in card.rows if r.kind in ("warning", "values", "gradients", "picture"))))
    return replace(diagram, cards=tuple(cards),
                   edges=tuple(replace(e, text="") for e in diagram.edges))


@dataclass
class _Unit:
    """One card in the making: its part, None for a leaf, and the entries on it."""

    part: Part | None
    members: list[int]
    id: str = ""
    group: str = ""
    beside: bool = False
    prefix: str = ""                        # module path, where the module has no box of its own
    inside: tuple[str, ...] = ()            # path of the innermost box


class _Writer:
    def __init__(self, recording: Recording, level: str, opened: tuple[str, ...], limit: int,
                 color: str, scale: str, changes: Mapping[int, str], compact: bool,
                 edge: Callable[[Entry, Entry], str] | None) -> None:
        self.edge = edge
        self.recording, self.color, self.changes = recording, color, changes
        self.entries = recording.entries
        self.folding = fold(recording, level, open=opened, limit=limit, compact=compact)
        self.ops = self.folding.ops
        self.names = entry_names(recording)
        self.readers: dict[int, list[int]] = {}
        for i, e in enumerate(self.entries):
            for j in e.inputs:
                self.readers.setdefault(j, []).append(i)
        self.totals = {kind: sum(self._amount(kind, e) for e in self.entries)
                       for kind in COLORS[1:]}
        self.findings: dict[int, list[Problem]] = {}
        for p in problems(recording):
            self.findings.setdefault(p.entry, []).append(p)
        self.ramp = self._scale(scale)
        self.unit_of: dict[int, _Unit] = {}
        self.groups: list[Group] = []
        self.units = self._units()

    def diagram(self, title: str, opened: tuple[str, ...]) -> Diagram:
        cards = tuple(self._card(unit) for unit in self.units)
        notes = ["dark line: value forward"]
        if any(c.kind == "stack" for c in cards):
            notes.append("triple border: equal parts, a square each")
        if self.recording.backward:
            notes[1:1] = ["pink line: gradient back", "single line: no gradient"]
        if self.changes:
            notes.append("border: green is new, red is gone, yellow has changed")
        if len(notes) == 4:                 # there is no room for all of them
            del notes[2]
        return Diagram(title, self._subtitle(len(cards)), self.folding.level, cards, self._edges(),
                       tuple(self.groups), self.ramp, tuple(notes), opened)

    def _subtitle(self, cards: int) -> str:
        entries, batch = self.entries, self.recording.batch
        weights = sum(e.size for e in entries if e.role == "parameter")
        nodes = f"{count(len(entries))} node{'s' * (len(entries) != 1)}"
        out = entries[self.recording.output]
        return " · ".join(filter(None, (
            nodes if cards == len(entries) else f"{nodes} shown as {cards} cards",
            f"batch {batch}" if batch is not None else "",
            f"{count(weights)} parameters" if weights else "",
            f"{flop_text(int(self.totals['flop']))} forward" if self.totals["flop"] else "",
            f"{seconds_text(self.totals['time'])} forward" if self.totals["time"] else "",
            f"{binary_size(int(self.totals['memory']))} kept for backward"
            if self.totals["memory"] else "",
            out.note if out.role == "loss" else "", self.folding.remark)))

    # ---- which entry stands on which card, and which card in which box ---------------------------
    def _units(self) -> list[_Unit]:
        """The cards in recording order, each leaf before the card that first reads it."""
        boxes = self._boxes()
        made: list[_Unit] = []
        for part in self.folding.parts:
            box = next((s for s in reversed(part.above) if s in boxes), None)
            unit = _Unit(part, list(self.ops[part.start:part.stop]))
            if box is not None:
                unit.group, unit.inside = boxes[box], box.path
            if part.above and part.above[-1] is not box:
                unit.prefix = _relative(part.above[-1].path, unit.inside)
            self.unit_of.update(dict.fromkeys(unit.members, unit))
            own = [j for i in unit.members for j in self.entries[i].inputs
                   if self.entries[j].role == "input" and part.instances
                   and all(self.unit_of.get(r) is unit for r in self.readers[j])]
            steps = set(own) if len(set(own)) > 2 else set()    # one for each step of a loop
            for i in unit.members:
                for j in self.entries[i].inputs:
                    if self.entries[j].op or j in self.unit_of:
                        continue
                    if self.entries[j].role in self.folding.separate and j not in steps:
                        self.unit_of[j] = self._leaf_unit(j, unit)
                        made.append(self.unit_of[j])
                    else:
                        self.unit_of[j] = unit
            made.append(unit)
        for k, unit in enumerate(made):
            unit.id = f"n{k}"
        return made

    def _leaf_unit(self, j: int, reader: _Unit) -> _Unit:
        """A leaf that one op reads stands beside it, unless it is where the graph begins.

        A shared parameter stands outside of boxes.
        """
        role, readers = self.entries[j].role, set(self.readers[j])
        once = len(readers) == 1
        begins = role == "input" and not any(self.entries[k].op for i in readers
                                             for k in self.entries[i].inputs)
        unit = _Unit(None, [j], beside=once and not begins)
        if unit.beside or role not in ("input", "parameter"):
            unit.group, unit.inside = reader.group, reader.inside
        return unit

    def _boxes(self) -> dict[Part, str]:
        """The open modules that get a box: those that hold at least two cards."""
        held: Counter[Part] = Counter()
        for part in self.folding.parts:
            weights = self._weights(range(part.start, part.stop)) \
                if "parameter" in self.folding.separate else ()
            for span in part.above:
                held[span] += 1 + len(weights)
        boxes: dict[Part, str] = {}
        for part in self.folding.parts:
            for depth, span in enumerate(part.above):
                if span in boxes or held[span] < 2:
                    continue
                around = next((s for s in reversed(part.above[:depth]) if s in boxes), None)
                boxes[span] = f"m{len(boxes)}"
                path = dotted(span.path)
                title = _relative(span.path, around.path if around else ())
                again = f" #{span.calls[-1]}" if span.calls[-1] > 1 else ""
                note = " · ".join(filter(None, (self.recording.notes.get(path, ""),
                                                self._parameters(range(*span.interval)))))
                self.groups.append(Group(boxes[span], title + again, note,
                                         boxes[around] if around else "", path))
        return boxes

    def _weights(self, positions: Iterable[int]) -> set[int]:
        """The parameters that the ops at these positions read."""
        return {j for p in positions for j in self.entries[self.ops[p]].inputs
                if self.entries[j].role == "parameter"}

    def _parameters(self, positions: Iterable[int]) -> str:
        """``1 168 parameters``; empty for none."""
        total = sum(self.entries[j].size for j in self._weights(positions))
        return f"{count(total)} parameters" if total else ""

    def _inside(self, unit: _Unit) -> list[int]:
        """The entries on a card: its members, and the leaves drawn inside it."""
        leaves = dict.fromkeys(j for i in unit.members for j in self.entries[i].inputs
                               if self.unit_of[j] is unit and not self.entries[j].op)
        return [*leaves, *unit.members]

    # ---- numbers and their colors ----------------------------------------------------------------
    def _scale(self, scale: str) -> Scale:
        if self.color != "grad":
            name = {"time": "share of forward time", "memory": "share of bytes kept",
                    "flop": "share of FLOP"}[self.color]
            return Scale(name, _SHARES, "1%", "30%")
        values = sorted(g.rms for e in self.entries if e.op and (g := e.gradient) is not None
                        and 0 < g.rms < math.inf)
        if scale == "decades" or not values:
            return _DECADES
        low, high = (math.log10(values[k * (len(values) - 1) // 10]) for k in (1, 9))
        if high - low > _WIDE_SPAN:         # the colors part all of it, in whole decades
            first, step = math.floor(low), max(1, round((high - low) / 5))
            edges = tuple(10.0 ** (first + step * (i + 1)) for i in range(4))
            return Scale("gradient RMS", edges, _edge_text(edges[0]), _edge_text(edges[-1]))
        k = math.floor(2 * math.log10(values[len(values) // 2]))
        edges = tuple((1 if i % 2 == 0 else 3) * 10.0 ** (i // 2) for i in range(k - 1, k + 3))
        return Scale("gradient RMS", edges, _edge_text(edges[0]), _edge_text(edges[-1]))

    @staticmethod
    def _amount(kind: str, e: Entry) -> float:
        return e.seconds or 0.0 if kind == "time" else float(e.kept if kind == "memory"
                                                             else e.flops)

    def _bar(self, unit: _Unit) -> Row | None:
        """The bar of a card: gradient of its output, or its share of a total."""
        last = self.entries[unit.members[-1]]
        if self.color == "grad":
            if last.gradient is None:
                return None
            value = last.gradient.rms
            seed = last.role == "loss" and value == 1
            if last.gradient.bad:           # no color of the ramp: it is no size
                return Row("text", "", f"grad {number(value)}")
            few = last.gradient.few if last.size == 1 or (
                not last.scope and last.size <= (_MOST_VALUES if last.op else 8)) else ()
            shown = ", ".join(map(number, few or (value,)))
            return Row("bar", "grad 1 (seed)" if seed else f"grad {shown}",
                       fraction=_log_fraction(value, self.ramp), levels=(self.ramp.level(value),))
        total = self.totals[self.color]
        amount = sum(self._amount(self.color, self.entries[i]) for i in unit.members)
        if not total or last.role == "parameter":
            return None
        text = seconds_text(amount) if self.color == "time" else (
            binary_size if self.color == "memory" else flop_text)(int(amount))
        return Row("bar", f"{text}, {amount / total * 100:.0f}%",
                   fraction=max(0.02, amount / total), levels=(self.ramp.level(amount / total),))

    def _cost(self, seconds: float | None, flops: int, kept: int, weights: str = "") -> Row:
        """FLOP, time, bold where it is a large share, and bytes kept, as far as they matter."""
        before = [weights, flop_text(flops) if flops >= _LEAST_FLOPS else ""]
        after = f"keeps {binary_size(kept)}" if kept else ""
        time = seconds_text(seconds) if seconds is not None and seconds >= 5e-7 else ""
        share = seconds / self.totals["time"] if seconds and self.totals["time"] else 0.0
        if time and share > _HOT_SHARE and len(self.ops) > 1:
            text = "".join(f"{part} · " for part in before if part)
            return Row("text", text, f"{time} ({share * 100:.0f}%)", after and f" · {after}")
        return Row("text", " · ".join(filter(None, (*before, time, after))))

    # ---- cards -----------------------------------------------------------------------------------
    def _card(self, unit: _Unit) -> Card:
        inside = self._inside(unit)
        if unit.part is None:
            card = self._leaf(unit, unit.members[0])
        elif len(unit.members) == 1:
            card = self._op(unit, unit.members[0])
        else:
            card = self._folded(unit, unit.part)
        texts = tuple(dict.fromkeys(self._finding(unit, i, p) for i in inside
                                    for p in self.findings.get(i, ())))
        warnings = [Row("warning", t) for t in texts[:_MOST_WARNINGS]]
        if len(texts) > _MOST_WARNINGS:
            warnings.append(Row("warning", f"and {len(texts) - _MOST_WARNINGS} more"))
        broken = any(s is not None and s.bad for i in inside
                     for s in (self.entries[i].value, self.entries[i].gradient))
        changes = {self.changes.get(i, "") for i in inside}
        change = changes.pop() if len(changes) == 1 else "changed"
        rows = (*(r for r in card.rows if r.text or r.hot or r.levels),
                *(self._histograms(self.entries[unit.members[-1]]) if card.kind != "stack" else ()),
                *warnings)
        beside = self.unit_of[self.readers[unit.members[0]][0]].id if unit.beside else ""
        return replace(card, rows=rows, warnings=texts, broken=broken, group=unit.group,
                       beside=beside, change=change, entries=tuple(inside),
                       tag=" · ".join(filter(None, (card.tag, change))))

    def _finding(self, unit: _Unit, i: int, p: Problem) -> str:
        e, part = self.entries[i], unit.part
        if len(unit.members) == 1:
            return f"{e.name}: {p.evidence}" if part is not None and e.name else p.evidence
        assert part is not None, "a card of several members has a part"
        block = ""
        if part.instances:
            at = next((k for k, (a, b) in enumerate(part.instances)
                       if self.ops[a] <= i <= self.ops[b - 1]), 0)
            block = f"step {at + 1}, " if part.loop else f"block {part.paths[at][-1]}, "
        return f"{block}{e.name or e.op}: {p.evidence}"

    def _about(self, i: int) -> tuple[str, ...]:
        e = self.entries[i]
        value, gradient = (
            "" if s is None else f"{what} RMS {number(s.rms)}, between {number(s.low)} and "
            f"{number(s.high)}" for what, s in (("value", e.value), ("gradient", e.gradient)))
        return tuple(filter(None, (
            self.names[i], " · ".join(e.settings), e.note, f"{shape_text(e.shape)} {e.dtype}",
            f"forward {seconds_text(e.seconds)}" if e.seconds is not None else "",
            flop_text(e.flops) if e.flops else "",
            f"keeps {binary_size(e.kept)} for backward" if e.kept else "",
            value, gradient, e.source)))

    @staticmethod
    def _histograms(e: Entry) -> Iterator[Row]:
        """What was asked for of the values and the gradient of a tensor, and its picture."""
        for kind, s in (("values", e.value), ("gradients", e.gradient)):
            if s is not None and s.bins and e.size > 1:
                rms = f" · RMS {number(s.rms)}" if kind == "values" else ""
                yield Row(kind, f"{number(s.low)} … {number(s.high)}{rms}", levels=s.bins)
        if e.picture:
            yield Row("picture", e.picture)

    def _leaf(self, unit: _Unit, i: int) -> Card:
        e = self.entries[i]
        weights = e.role == "parameter"
        bar = self._bar(unit) if weights or e.gradient is not None else None
        rows = [Row("text", shape_text(e.shape) + ("" if weights else f" · {e.dtype}")),
                Row("text", e.note), self._values(e), bar]
        path = dotted(e.scope[len(unit.inside):])
        return Card(unit.id, e.role, e.role, f"{path}.{e.name}" if path and weights else e.name,
                    badge=_BADGES.get(e.role, "b" if e.name[:1] == "b" and len(e.shape) < 2
                                      else "W"),
                    rows=tuple(filter(None, rows)), about=self._about(i))

    @staticmethod
    def _values(e: Entry) -> Row | None:
        """The entries of a small tensor, unless its card says them anyway."""
        few = e.value.few if e.value is not None and e.role not in ("constant", "loss") \
            and (e.size == 1 or not e.scope) and e.size <= (_MOST_VALUES if e.op else 8) else ()
        return Row("text", f"= {', '.join(f'{v:.4g}' for v in few)}") if few else None

    def _op(self, unit: _Unit, i: int) -> Card:
        e = self.entries[i]
        inside = [j for j in self._inside(unit) if j != i]
        leaves = [self.entries[j] for j in inside]
        shared = [j for j in e.inputs if not self.entries[j].op and j not in inside
                  and self.unit_of[j].part is not None]
        weights = " · ".join(
            f"{self.entries[j].name} {shape_text(self.entries[j].shape)}"
            + (" shared" if j in shared or len(set(self.readers[j])) > 1 else "")
            for j in (*inside, *shared) if self.entries[j].role == "parameter")
        constants = " · ".join(f"{p.name} {p.note}".strip() for p in leaves if p.role == "constant")
        rows = [Row("text", " · ".join(filter(None, (*e.settings, constants, e.note)))),
                Row("text", weights), self._values(e), self._cost(e.seconds, e.flops, e.kept),
                self._bar(unit)]
        title = f"{unit.prefix} · {e.op}" if unit.prefix else e.op
        return Card(unit.id, "loss" if e.role == "loss" else "op", e.family, title, f"#{i}",
                    _BADGES.get(e.role, ""), tuple(filter(None, rows)), about=self._about(i))

    def _folded(self, unit: _Unit, part: Part) -> Card:
        first = range(*(part.instances[0] if part.instances else part.interval))
        inside = [self.entries[i] for i in self._inside(unit)]
        seconds = [e.seconds for e in inside if e.seconds is not None]
        path = dotted(part.path) if part.kind in ("span", "stack") else ""
        short = part.kind in ("chain", "pattern") and len(first) <= 3
        rows = [Row("text", " · ".join(filter(None, (self.recording.notes.get(path, ""),
                                                     self._flow(unit.members))))),
                Row("text", "" if short else self._ops_text(first)),
                self._cost(sum(seconds) if seconds else None, sum(e.flops for e in inside),
                           sum(e.kept for e in inside), self._parameters(range(*part.interval))),
                self._folded_bar(unit, part)]
        families = [self.entries[i].family for i in unit.members]
        family = next((f for f in ("conv", "linear", "norm", "pool", "activation")
                       if f in families), families[-1])
        title = self._folded_title(unit, part)
        nodes = f"{count(len(inside))} nodes"
        last = self.entries[unit.members[-1]]
        about = (path, f"{nodes} folded",
                 f"output {shape_text(last.shape)} {last.dtype}", last.source)
        kind = "stack" if part.instances else "loss" if last.role == "loss" else "module"
        rows.insert(1, Row("text", last.note if kind == "loss" else ""))
        return Card(unit.id, kind, family, title, nodes, _BADGES.get(kind, ""),
                    tuple(filter(None, rows)), path=path, about=tuple(filter(None, about)),
                    loop=part.loop)

    def _flow(self, members: Sequence[int]) -> str:
        """Shapes of the first image that enters and of the last that leaves, without the batch."""
        inside = set(members)
        enters = next((self.entries[j] for i in members for j in self.entries[i].inputs
                       if j not in inside and self.entries[j].role in ("op", "input")), None)
        if enters is None or len(enters.shape) < 2:
            return ""
        a, b = shape_text(enters.shape[1:]), shape_text(self.entries[members[-1]].shape[1:])
        return a if a == b else f"{a} → {b}"

    def _ops_text(self, positions: range) -> str:
        """The ops of a folded part in order, or counted where there are many."""
        ops = [_SHORT.get(n, n) for n in (self.entries[self.ops[p]].op for p in positions)]
        if len(ops) <= 7:
            return ", ".join(ops) if len(ops) > 1 else ""
        counts = Counter(ops).most_common(4)
        rest = len(set(ops)) - len(counts)
        return ", ".join(f"{n} {op}" for op, n in counts) + (f" and {rest} more" if rest else "")

    def _folded_bar(self, unit: _Unit, part: Part) -> Row | None:
        if not part.instances or self.color != "grad":
            return self._bar(unit)
        values = [g.rms for _, stop in part.instances
                  if (g := self.entries[self.ops[stop - 1]].gradient) is not None]
        if len(values) < len(part.instances):
            return None
        each = -(-len(values) // _MOST_SQUARES)
        weakest = [min(values[k:k + each]) for k in range(0, len(values), each)]
        return Row("squares", f"grad {number(values[0])} … {number(values[-1])}",
                   levels=tuple(self.ramp.level(v) for v in weakest))

    def _folded_title(self, unit: _Unit, part: Part) -> str:
        times = f" × {len(part.instances)}"
        if part.loop and part.paths:
            return _relative(part.paths[0], unit.inside) + times
        if part.kind == "stack":
            first, last = part.paths[0], part.paths[-1]
            start, end = _relative(first, unit.inside), last[-1]
            if first[-1].isdigit() and end.isdigit() and start.endswith("]"):
                start, end = start.removesuffix("]"), f"{end}]"
            return f"{start}…{end}{times}"
        if part.kind == "pattern":
            return (self._ops_text(range(*part.instances[0]))
                    or self.entries[self.ops[part.start]].op) + times
        if part.kind == "chain":
            length = part.stop - part.start
            title = self._ops_text(range(*part.interval)) if length <= 3 \
                else f"{length} element-wise ops"
            return f"{unit.prefix} · {title}" if unit.prefix else title
        if part.kind == "segment":
            return f"nodes {unit.members[0]}–{unit.members[-1]}"
        return _relative(part.path, unit.inside)

    # ---- edges -----------------------------------------------------------------------------------
    def _edges(self) -> tuple[Edge, ...]:
        """Every value that goes from one card to another, once for each reading card.

        Where more than two values go from one card to another, they are one edge.
        """
        reads = Counter((j, self.unit_of[i].id) for i, e in enumerate(self.entries)
                        for j in set(e.inputs) if i in self.unit_of)
        scale = self.ramp if self.color == "grad" else _DECADES
        by_cards: dict[tuple[str, str], list[Edge]] = {}
        for i, k, trunk in self._flows():
            j = self.entries[i].inputs[k]
            ends = self.unit_of[j].id, self.unit_of[i].id
            several = reads[j, ends[1]] > 1 or self.entries[i].inputs.count(j) > 1
            by_cards.setdefault(ends, []).append(self._edge(i, k, ends, trunk, several, scale))
        made = [e for group in by_cards.values()
                for e in (group if len(group) <= _MOST_PARALLEL else [_bundle(group)])]
        last_step = {unit.id: max(self.entries[i].step for i in unit.members)
                     for unit in self.units}
        turns = sorted((last_step[e.target], k) for k, e in enumerate(made)
                       if e.level >= 0 and last_step[e.target] >= 0)
        step = {k: turn for turn, (_, k) in enumerate(turns)}
        return tuple(replace(e, id=f"e{k}", step=step.get(k, -1)) for k, e in enumerate(made))

    def _flows(self) -> Iterator[tuple[int, int, bool]]:
        """``(reader, place of the input, whether it is the deepest)``, once a value and card.

        A parameter inside the card of its first reader sends no line to others: it is no data.
        """
        depth: list[int] = []
        seen = set()
        for i, e in enumerate(self.entries):
            depth.append(1 + max((depth[j] for j in e.inputs), default=0))
            if i not in self.unit_of:
                continue
            trunk = max(e.inputs, key=lambda j: depth[j], default=-1)
            for k, j in enumerate(e.inputs):
                key = (j, self.unit_of[i].id)
                folded = not self.entries[j].op and self.unit_of[j].part is not None
                if self.unit_of[j] is not self.unit_of[i] and key not in seen and not folded:
                    seen.add(key)
                    yield i, k, j == trunk

    def _edge(self, i: int, k: int, ends: tuple[str, str], trunk: bool, several: bool,
              scale: Scale) -> Edge:
        e, j = self.entries[i], self.entries[i].inputs[k]
        source = self.entries[j]
        sent = e.sent[k] if k < len(e.sent) else None
        if several and source.gradient is not None and sent is not None:
            sent = source.gradient.signed   # several reads on one card: what they add up to
        beside = source.role in ("parameter", "label", "constant") or self.unit_of[j].beside
        shape = shape_text(source.shape)
        gradient = "" if sent is None else number(sent)
        tip = f"{self.names[j]} → {self.names[i]} | {shape} {source.dtype}" \
            + (f" | gradient {gradient}" if gradient else "")
        text = "" if beside else shape if self.edge is None else self.edge(source, e)
        return Edge("", *ends, text, gradient,
                    scale.level(abs(sent)) if sent else -1, trunk and not beside, tip=tip)


def _bundle(group: list[Edge]) -> Edge:
    """Several parallel edges as one, in the color of the strongest."""
    return replace(max(group, key=lambda e: e.level), text=f"{len(group)} values",
                   tip=f"{len(group)} values, among them {group[0].tip}",
                   trunk=any(e.trunk for e in group))


def _relative(path: tuple[str, ...], around: tuple[str, ...]) -> str:
    """A module path as seen from the box around it; a bare number keeps the name before it.

    >>> _relative(("stage2", "0", "conv1"), ("stage2", "0"))
    'conv1'
    >>> _relative(("stage2", "0"), ("stage2",))
    'stage2[0]'
    """
    keep = len(around)
    while keep and path[keep].isdigit():
        keep -= 1
    return dotted(path[keep:])


def _log_fraction(value: float, scale: Scale) -> float:
    low, high = math.log10(scale.edges[0]) - 1, math.log10(scale.edges[-1]) + 1
    if not math.isfinite(value):
        return 1.0
    return min(1.0, max(0.03, (math.log10(max(value, 1e-30)) - low) / (high - low)))


def _edge_text(v: float) -> str:
    exponent = math.floor(math.log10(v) + 1e-9)
    return f"{v:g}" if exponent >= -2 else f"{round(v / 10.0 ** exponent)}e{exponent}"
