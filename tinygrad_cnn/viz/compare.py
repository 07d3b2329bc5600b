"""Graphs under test: a file that a test compares with, and the difference of two graphs."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Unpack

from tinygrad_cnn.core import Tensor
from tinygrad_cnn.errors import VizError
from tinygrad_cnn.files import read_whole
from tinygrad_cnn.viz.capture import Entry, Recording, describe, entry_names
from tinygrad_cnn.viz.figure import Figure, Settings, write_file
from tinygrad_cnn.viz.labels import binary_size, flop_text, number, seconds_text
from tinygrad_cnn.viz.text import canonical, canonical_line, shapes

__all__ = ["GraphDifference", "assert_graph_unchanged", "diff"]

UPDATE = "TINYGRAD_CNN_UPDATE_GRAPHS"
_MOST_ALIGNED = 20_000
_MOST_NUMBERS = 8
_WRITTEN: dict[str, Callable[[float], str]] = {
    "loss": "{:.4g}".format, "time": seconds_text, "FLOP": lambda v: flop_text(int(v)),
    "memory": lambda v: binary_size(int(v)), "gradient": number, "batch": "{:.0f}".format}


def assert_graph_unchanged(figure: Figure | Tensor, path: str | os.PathLike[str], *,
                           batch: str | None = "N", update: bool | None = None) -> None:
    """Fail a test if the structure of a graph is not the one in the text file ``path``.

    A first run with ``TINYGRAD_CNN_UPDATE_GRAPHS=1``, or ``update=True``, writes the file.
    ``batch`` stands for the size of the batch, so that the test holds for every size.
    """
    recording = figure.recording if isinstance(figure, Figure) else describe(figure,
                                                                             gradients=False)
    text, file = canonical(recording, batch=batch), Path(path)
    if update if update is not None else os.environ.get(UPDATE, "") not in ("", "0"):
        write_file(file, lambda: text)
        return
    if not file.exists():
        raise AssertionError(f"graph: {file} does not exist; run once with {UPDATE}=1 to write it, "
                             "and look at what it wrote")
    golden = read_whole(file, VizError, limit=1 << 26).decode("utf-8", "replace")
    if golden != text:
        lines = difflib.unified_diff(golden.splitlines(), text.splitlines(), str(file),
                                     "this graph", lineterm="", n=1)
        raise AssertionError("the graph has changed; if that is meant, run once with "
                             f"{UPDATE}=1\n" + "\n".join(lines))


# ---- the difference of two -----------------------------------------------------------------------

@dataclass(frozen=True)
class Number:
    """A figure of two runs: of one tensor, or of a whole run."""

    name: str                               # of the tensor; empty for the run
    what: str                               # gradient, time, memory, FLOP or loss
    old: float
    new: float

    @property
    def ratio(self) -> float:
        """New over old; infinite if it was zero."""
        return abs(self.new / self.old) if self.old else math.inf

    def __str__(self) -> str:
        old, new = (_WRITTEN[self.what](v) for v in (self.old, self.new))
        return f"{self.name}{self.name and ': '}{self.what} {old} → {new} (× {number(self.ratio)})"


@dataclass(frozen=True)
class GraphDifference:
    """What changed between two graphs; false if no op, setting, shape or wire did.

    ``print`` lists it, causes first, then what follows from them, and figures of the two runs:
    those of the whole, and those of tensors that differ most.
    """

    added: tuple[str, ...]                  # lines of canonical text
    removed: tuple[str, ...]
    changed: tuple[tuple[str, str], ...]    # old and new lines, without those of
    renamed: tuple[str, ...]                # "old → new" of what is the same under another name
    follow: tuple[str, ...]                 # and of what has another shape for a change before it
    numbers: tuple[Number, ...]
    merged: Recording = field(repr=False)   # both graphs in one
    marks: dict[int, str] = field(repr=False)   # added, removed or changed, for its entries

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.renamed)

    def __str__(self) -> str:
        settings = all(old.partition(" -> ")[0].partition(" = ")[2].partition(")")[0]
                       != new.partition(" -> ")[0].partition(" = ")[2].partition(")")[0]
                       for old, new in self.changed)
        changed = f"setting{'s' * (len(self.changed) > 1)} changed" if settings else "changed"
        follow = f"shape{'s follow' if len(self.follow) > 1 else ' follows'}"
        counts = [f"{len(v)} {k}" for k, v in (
            ("added", self.added), ("removed", self.removed), ("renamed", self.renamed),
            (changed, self.changed), (follow, self.follow)) if v]
        return "\n".join([", ".join(counts) or "the graphs are equal",
                          *(f"- {line}" for line in self.removed),
                          *(f"+ {line}" for line in self.added),
                          *(f"- {old}\n+ {new}" for old, new in self.changed),
                          *(f"~ {line}" for line in (*self.renamed, *self.follow)),
                          *map(str, self.numbers)])

    def figure(self, **settings: Unpack[Settings]) -> Figure:
        """The two graphs in one picture: new cards with +, old ones with −, changed ones marked."""
        settings.setdefault("level", "operators")
        return Figure(self.merged, changes=self.marks, **settings)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {**self.figure()._repr_mimebundle_(), "text/plain": str(self)}


def diff(old: Figure | Recording, new: Figure | Recording, *,
         time: bool = False) -> GraphDifference:
    """Compare two graphs: ops, settings, shapes and wiring, and the figures of their runs.

    Shapes that differ for the size of the batch alone are equal.  Of the gradients and the memory
    of tensors, those count that differ by more than a quarter; with ``time``, of two runs that were
    watched, also times that differ by more than a half.  A VizError says that 20,000 tensors
    together are too many to align.

    Examples
    --------
    >>> w = Parameter([1.0, 2.0], name="w")
    >>> print(diff((w * w).sum().graph(), (w * w).exp().sum().graph()))
    1 added, 1 changed
    + exp = exp() mul -> 2 float32
    - sum = sum(axis 0) mul -> scalar float32
    + sum = sum(axis 0) exp -> scalar float32
    loss 5 → 57.32 (× 11)
    FLOP 4 FLOP → 6 FLOP (× 1.5)
    memory 8 B → 16 B (× 2.0)
    w: gradient 3.2 → 154 (× 49)
    mul: gradient 1.0 → 39 (× 39)
    """
    old, new = (g.recording if isinstance(g, Figure) else g for g in (old, new))
    if len(old.entries) + len(new.entries) > _MOST_ALIGNED:
        raise VizError(f"diff: {len(old.entries)} and {len(new.entries)} tensors are too many to "
                       "align; compare fig.canonical() with a line tool")
    pairs = _aligned(old, new)
    to_new = {a: b for a, b in pairs if a is not None and b is not None}
    at_old = {a: i for i, (a, _) in enumerate(pairs) if a is not None}
    at_new = {b: i for i, (_, b) in enumerate(pairs) if b is not None}
    old_names, new_names = entry_names(old), entry_names(new)
    batch = "N" if old.batch != new.batch and old.batch and new.batch else None
    old_shapes, new_shapes = shapes(old, batch), shapes(new, batch)
    wide = _widened(old, new, pairs)
    entries, marks = [], {}
    added, removed, changed, renamed, follow = [], [], [], [], []
    for i, (a, b) in enumerate(pairs):
        before = "" if a is None else canonical_line(old, a, old_names, old_shapes[a])
        if b is None:
            assert a is not None, "a pair has one side at least"
            marks[i] = "removed"
            removed.append(before)
            entries.append(_structure(old.entries[a], at_old))
            continue
        e, after = new.entries[b], canonical_line(new, b, new_names, new_shapes[b])
        entries.append(_structure(e, at_new))
        if a is None:
            marks[i] = "added"
            added.append(after)
            continue
        was = old.entries[a]
        shape = f"{old_shapes[a]} → {new_shapes[b]}" if old_shapes[a] != new_shapes[b] else ""
        note = _changes(was, e, shape, to_new, old_names, new_names)
        moved = bool(note)
        if was.path != e.path:
            renamed.append(f"{old_names[a]} → {new_names[b]}")
            note = note or f"renamed {renamed[-1]}"
        if note:
            marks[i] = "changed"
            follows = b in wide if not e.op else any(
                at_new[j] in marks for j in e.inputs) and _plain(was) == _plain(e)
            if follows and moved and "reads " not in note:
                follow.append(f"{new_names[b]}: {shape or note}")
            elif moved:
                changed.append((before, after))
            entries[-1] = replace(entries[-1], note=note)
    title = old.title if old.title == new.title else f"{old.title} → {new.title}"
    merged = Recording(f"{title}: what changed", tuple(entries), at_new[new.output])
    return GraphDifference(tuple(added), tuple(removed), tuple(changed), tuple(renamed),
                           tuple(follow), tuple(_numbers(old, new, pairs, new_names, time)),
                           merged, marks)


def _plain(e: Entry) -> tuple[str, ...]:
    """The settings of an op that no shape decides: a stride, not ``1→8 channels``."""
    return tuple(s for s in e.settings if "→" not in s)


def _widened(old: Recording, new: Recording, pairs: Sequence[tuple[int | None, int | None]]
             ) -> set[int]:
    """Parameters of the new graph whose shape follows: from what their op reads, or each other."""
    before = {b: old.entries[a] for a, b in pairs if a is not None and b is not None}
    found = set()
    for e in new.entries:
        weights = [j for j in e.inputs if new.entries[j].role == "parameter" and j in before]
        changed = {j: [k - len(before[j].shape) for k, (x, y) in enumerate(
            zip(before[j].shape, new.entries[j].shape, strict=True)) if x != y]
            for j in weights if len(before[j].shape) == len(new.entries[j].shape)}
        found |= {j for j in weights[:1] if changed.get(j) == [-2]}
        found |= {j for j in weights[1:] if changed.get(j) == [-1]}
    return found


def _numbers(old: Recording, new: Recording, pairs: Sequence[tuple[int | None, int | None]],
             names: Sequence[str], time: bool) -> Iterator[Number]:
    """Figures that differ: of the whole, then of those tensors that differ most."""
    def figures(e: Entry) -> dict[str, float]:
        value = e.value if e.role == "loss" else None
        return {"loss": value.signed if value else 0.0, "time": time * (e.seconds or 0.0),
                "FLOP": e.flops, "memory": e.kept,
                "gradient": e.gradient.rms if e.gradient else 0.0}

    whole = []
    for run in (old, new):
        rows = [figures(e) for e in run.entries]
        whole.append({what: math.fsum(row[what] for row in rows) for what in rows[0]})
    if old.batch != new.batch and old.batch and new.batch:
        yield Number("", "batch", old.batch, new.batch)
    yield from (n for what in whole[0] if what != "gradient"
                and (n := Number("", what, whole[0][what], whole[1][what])) and n.old and n.new
                and abs(n.new - n.old) > 0.005 * abs(n.old))
    each = [Number(names[b], what, figures(old.entries[a])[what], figures(new.entries[b])[what])
            for a, b in pairs if a is not None and b is not None for what in ("gradient", "memory",
                                                                              "time")]
    apart = [(abs(math.log(n.ratio)), n) for n in each if n.old and n.new
             and math.isfinite(n.old) and math.isfinite(n.new)]
    apart = [(d, n) for d, n in apart if d > math.log(1.5 if n.what == "time" else 1.25) and (
        n.what != "time" or abs(n.new - n.old) > 0.1 * whole[0]["time"])]
    yield from (n for _, n in sorted(apart, key=lambda pair: -pair[0])[:_MOST_NUMBERS])


def _aligned(old: Recording, new: Recording) -> list[tuple[int | None, int | None]]:
    """Entries of both in one order: pairs of one name, or of one kind at one place, or alone."""
    def by_name(e: Entry) -> object:
        return e.role, e.path

    def by_kind(e: Entry) -> object:
        return e.role, e.op, e.settings, e.shape, e.dtype, bool(e.scope)

    pairs: list[tuple[int | None, int | None]] = []

    def match(a1: int, a2: int, b1: int, b2: int, tell: Callable[[Entry], object]) -> None:
        tokens = [tell(e) for e in old.entries[a1:a2]], [tell(e) for e in new.entries[b1:b2]]
        for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(
                None, *tokens, autojunk=False).get_opcodes():
            if tag == "equal":
                pairs.extend(zip(range(a1 + i1, a1 + i2), range(b1 + j1, b1 + j2), strict=True))
            elif tag == "replace" and tell is by_name:
                match(a1 + i1, a1 + i2, b1 + j1, b1 + j2, by_kind)
            else:
                pairs.extend((a, None) for a in range(a1 + i1, a1 + i2))
                pairs.extend((None, b) for b in range(b1 + j1, b1 + j2))

    match(0, len(old.entries), 0, len(new.entries), by_name)
    return pairs


def _structure(e: Entry, place: dict[int, int]) -> Entry:
    """An entry without the figures of its run, its inputs numbered anew."""
    return Entry(e.role, e.shape, e.dtype, op=e.op, name=e.name, scope=e.scope, family=e.family,
                 inputs=tuple(place[j] for j in e.inputs), arguments=e.arguments,
                 settings=e.settings, source=e.source)


def _changes(a: Entry, b: Entry, shape: str, to_new: dict[int, int], old_names: Sequence[str],
             new_names: Sequence[str]) -> str:
    """What differs between two entries of one name, as ``old → new``; empty if nothing does."""
    found = []
    if a.settings != b.settings:
        found.append(f"{', '.join(s for s in a.settings if s not in b.settings) or 'none'} → "
                     f"{', '.join(s for s in b.settings if s not in a.settings) or 'none'}")
    if shape:
        found.append(shape)
    if a.dtype != b.dtype:
        found.append(f"{a.dtype} → {b.dtype}")
    reads = tuple(to_new.get(j, -1) for j in a.inputs)
    if reads != b.inputs:
        gone = [old_names[j] for j, k in zip(a.inputs, reads, strict=True) if k not in b.inputs]
        come = [new_names[j] for j in b.inputs if j not in reads]
        found.append(f"reads {', '.join(gone) or 'nothing'} → "
                     f"{', '.join(come) or 'in another order'}")
    return "; ".join(found)
