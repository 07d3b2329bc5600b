"""Which entry of a recording stands on which card, and which card in which box."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tinygrad_cnn.viz.diagram import Group
from tinygrad_cnn.viz.fold import Part, Plan
from tinygrad_cnn.viz.recording import Recording, dotted, entry_names
from tinygrad_cnn.viz.text import count

__all__ = ["Unit", "Units", "relative"]


@dataclass
class Unit:
    """One card in the making: its part (or leaf), and the entries inside."""

    id: str
    part: Part | None
    members: list[int]
    group: str = ""
    beside: str = ""
    prefix: str = ""                        # module path, where the module has no box of its own
    inside: tuple[str, ...] = ()            # path of the innermost box


class Units:
    """The cards of a picture in the making, in recording order.

    Attributes
    ----------
    units : list of Unit
        One for each card.
    unit_of : dict of int to Unit
        The card of each entry.
    groups : list of Group
        The boxes, the outer before the inner.
    names : list of str
        A name for each entry.
    readers : dict of int to list of int
        The entries that read an entry.
    """

    def __init__(self, recording: Recording, chosen: Plan) -> None:
        self.recording, self.plan, self.entries = recording, chosen, recording.entries
        self.names = entry_names(recording)
        self.readers: dict[int, list[int]] = {}
        for i, e in enumerate(self.entries):
            for j in e.inputs:
                self.readers.setdefault(j, []).append(i)
        self.unit_of: dict[int, Unit] = {}
        self.groups: list[Group] = []
        self.units = self._units()

    def _units(self) -> list[Unit]:
        drawn = list(self.plan.walk())
        boxes = self._boxes(drawn)
        ops: list[Unit] = []
        for part, above in drawn:
            box = next((s for s in reversed(above) if s in boxes), None)
            members = [self.plan.ops[p] for p in range(part.start, part.stop)]
            unit = Unit("", part, members, boxes[box] if box else "",
                         inside=box.path if box else ())
            if above and above[-1] is not box:
                unit.prefix = relative(above[-1].path, unit.inside)
            ops.append(unit)
            for i in members:
                self.unit_of[i] = unit
        return self._with_leaves(ops)

    def _boxes(self, drawn: list[tuple[Part, tuple[Part, ...]]]) -> dict[Part, str]:
        """The open modules that get a box: those that hold at least two cards."""
        held: Counter[Part] = Counter()
        for part, above in drawn:
            cards = 1
            if "parameter" in self.plan.separate:
                cards += len({j for p in range(part.start, part.stop)
                              for j in self.entries[self.plan.ops[p]].inputs
                              if self.entries[j].role == "parameter"})
            for span in above:
                held[span] += cards
        boxes: dict[Part, str] = {}
        calls: Counter[str] = Counter()
        for _, above in drawn:
            for depth, span in enumerate(above):
                if span in boxes or held[span] < 2:
                    continue
                around = next((s for s in reversed(above[:depth]) if s in boxes), None)
                boxes[span] = f"m{len(boxes)}"
                path = dotted(span.path)
                calls[path] += 1
                title = relative(span.path, around.path if around else ())
                again = f" #{calls[path]}" if calls[path] > 1 else ""
                self.groups.append(Group(boxes[span], title + again, self._group_note(span),
                                         boxes[around] if around else "", path))
        return boxes

    def _group_note(self, span: Part) -> str:
        path = dotted(span.path)
        return " · ".join(filter(None, (self.recording.notes.get(path, ""),
                                        self.parameter_text(range(span.start, span.stop)))))

    def parameter_text(self, positions: Iterable[int]) -> str:
        """``1 168 parameters``, of all ops at these positions; empty for none."""
        weights = {j for p in positions for j in self.entries[self.plan.ops[p]].inputs
                   if self.entries[j].role == "parameter"}
        total = sum(self.entries[j].size for j in weights)
        return f"{count(total)} parameters" if total else ""

    def _with_leaves(self, ops: list[Unit]) -> list[Unit]:
        """All cards in recording order, each leaf card before the card that first reads it."""
        out: list[Unit] = []
        for unit in ops:
            for i in unit.members:
                for j in self.entries[i].inputs:
                    e = self.entries[j]
                    if e.is_op or j in self.unit_of:
                        continue
                    if e.role not in self.plan.separate:
                        self.unit_of[j] = unit
                        continue
                    leaf = self.unit_of[j] = Unit("", None, [j])
                    if e.role != "input":
                        leaf.group, leaf.inside = unit.group, unit.inside
                        if len(set(self.readers[j])) == 1:
                            leaf.beside = "yes"
                        elif e.role == "parameter":
                            leaf.group, leaf.inside = "", ()
                    out.append(leaf)
            out.append(unit)
        for k, unit in enumerate(out):
            unit.id = f"n{k}"
        for unit in out:
            if unit.beside:
                unit.beside = self.unit_of[self.readers[unit.members[0]][0]].id
        return out

    def inside(self, unit: Unit) -> list[int]:
        """The entries on a card: its members, and the leaves drawn inside it."""
        leaves = dict.fromkeys(j for i in unit.members for j in self.entries[i].inputs
                               if self.unit_of[j] is unit and not self.entries[j].is_op)
        return [*leaves, *unit.members]


def relative(path: tuple[str, ...], around: tuple[str, ...]) -> str:
    """A module path as seen from the box around it; a bare number keeps the name before it.

    >>> relative(("stage2", "0", "conv1"), ("stage2", "0"))
    'conv1'
    >>> relative(("stage2", "0"), ("stage2",))
    'stage2[0]'
    """
    keep = len(around)
    while keep and path[keep].isdigit():
        keep -= 1
    return dotted(path[keep:])
