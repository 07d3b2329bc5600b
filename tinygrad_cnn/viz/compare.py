"""Graphs under test: a file that a test compares with, and the difference of two graphs."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Unpack

from tinygrad_cnn.core import Tensor
from tinygrad_cnn.errors import VizError
from tinygrad_cnn.viz.capture import Entry, Recording, describe, entry_names
from tinygrad_cnn.viz.figure import Figure, Settings
from tinygrad_cnn.viz.labels import shape_text
from tinygrad_cnn.viz.text import canonical, canonical_line

__all__ = ["GraphDifference", "assert_graph_unchanged", "diff"]

UPDATE = "TINYGRAD_CNN_UPDATE_GRAPHS"
_MOST_ALIGNED = 20_000


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
        file.write_text(text, encoding="utf-8")
        return
    if not file.exists():
        raise AssertionError(f"graph: {file} does not exist; run once with {UPDATE}=1 to write it, "
                             "and look at what it wrote")
    golden = file.read_text(encoding="utf-8")
    if golden != text:
        lines = difflib.unified_diff(golden.splitlines(), text.splitlines(), str(file),
                                     "this graph", lineterm="", n=1)
        raise AssertionError("the graph has changed; if that is meant, run once with "
                             f"{UPDATE}=1\n" + "\n".join(lines))


# ---- the difference of two -----------------------------------------------------------------------

@dataclass(frozen=True)
class GraphDifference:
    """What changed between two graphs; false if nothing did.  ``print`` lists it."""

    added: tuple[str, ...]                  # lines of canonical text
    removed: tuple[str, ...]
    changed: tuple[tuple[str, str], ...]    # old and new lines, without those of
    renamed: tuple[str, ...]                # "old → new" of what is the same under another name
    follow: tuple[str, ...]                 # and of what has another shape for a change before it
    merged: Recording = field(repr=False)   # both graphs in one
    marks: dict[int, str] = field(repr=False)   # added, removed or changed, for its entries

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.renamed)

    def __str__(self) -> str:
        if not self:
            return "the graphs are equal"
        counts = [f"{len(v)} {k}" for k, v in (
            ("added", self.added), ("removed", self.removed), ("renamed", self.renamed),
            ("changed", self.changed), (f"shape{'s' * (len(self.follow) > 1)} follow"
                                        + "s" * (len(self.follow) == 1), self.follow)) if v]
        return "\n".join([", ".join(counts), *(f"- {line}" for line in self.removed),
                          *(f"+ {line}" for line in self.added),
                          *(f"- {old}\n+ {new}" for old, new in self.changed),
                          *(f"~ {line}" for line in (*self.renamed, *self.follow))])

    def figure(self, **settings: Unpack[Settings]) -> Figure:
        """The two graphs in one picture: new cards with +, old ones with −, changed ones marked."""
        settings.setdefault("level", "operators")
        return Figure(self.merged, changes=self.marks, **settings)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {**self.figure()._repr_mimebundle_(), "text/plain": str(self)}


def diff(old: Figure | Recording, new: Figure | Recording) -> GraphDifference:
    """Compare the structure of two graphs: ops, settings, shapes and wiring, not values.

    A VizError says that 20,000 tensors together are too many to align.

    Examples
    --------
    >>> w = Parameter([1.0, 2.0], name="w")
    >>> print(diff((w * w).sum().graph(), (w * w).exp().sum().graph()))
    1 added, 1 changed
    + exp = exp() mul -> 2 float32
    - sum = sum(axis 0) mul -> scalar float32
    + sum = sum(axis 0) exp -> scalar float32
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
    entries, marks = [], {}
    added, removed, changed, renamed, follow = [], [], [], [], []
    for i, (a, b) in enumerate(pairs):
        before = "" if a is None else canonical_line(old, a, old_names)
        if b is None:
            assert a is not None, "a pair has one side at least"
            marks[i] = "removed"
            removed.append(before)
            entries.append(_structure(old.entries[a], at_old))
            continue
        e, after = new.entries[b], canonical_line(new, b, new_names)
        entries.append(_structure(e, at_new))
        if a is None:
            marks[i] = "added"
            added.append(after)
            continue
        was = old.entries[a]
        note = _changes(was, e, to_new, old_names, new_names)
        if was.path != e.path:
            renamed.append(f"{old_names[a]} → {new_names[b]}")
            note = note or f"renamed {renamed[-1]}"
        if note:
            shape = f"{shape_text(was.shape)} → {shape_text(e.shape)}"
            marks[i] = "changed"
            if note == shape and any(at_new[j] in marks for j in e.inputs):
                follow.append(f"{new_names[b]}: {shape}")
            elif not note.startswith("renamed"):
                changed.append((before, after))
            entries[-1] = replace(entries[-1], note=note)
    title = old.title if old.title == new.title else f"{old.title} → {new.title}"
    merged = Recording(f"{title}: what changed", tuple(entries), at_new[new.output])
    return GraphDifference(tuple(added), tuple(removed), tuple(changed), tuple(renamed),
                           tuple(follow), merged, marks)


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


def _changes(a: Entry, b: Entry, to_new: dict[int, int], old_names: Sequence[str],
             new_names: Sequence[str]) -> str:
    """What differs between two entries of one name, as ``old → new``; empty if nothing does."""
    found = []
    if a.settings != b.settings:
        found.append(f"{', '.join(s for s in a.settings if s not in b.settings) or 'none'} → "
                     f"{', '.join(s for s in b.settings if s not in a.settings) or 'none'}")
    if a.shape != b.shape:
        found.append(f"{shape_text(a.shape)} → {shape_text(b.shape)}")
    if a.dtype != b.dtype:
        found.append(f"{a.dtype} → {b.dtype}")
    reads = tuple(to_new.get(j, -1) for j in a.inputs)
    if reads != b.inputs:
        gone = [old_names[j] for j, k in zip(a.inputs, reads, strict=True) if k not in b.inputs]
        come = [new_names[j] for j in b.inputs if j not in reads]
        found.append(f"reads {', '.join(gone) or 'nothing'} → "
                     f"{', '.join(come) or 'in another order'}")
    return "; ".join(found)
