"""Graphs under test: canonical text, a file that a test holds it to, and a difference of two."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tinygrad_cnn.errors import VizError
from tinygrad_cnn.viz.recording import FORMAT, Entry, Recording, entry_names
from tinygrad_cnn.viz.text import clean, shape_text

__all__ = ["Difference", "canonical", "compare", "compare_with_file"]

UPDATE = "TINYGRAD_CNN_UPDATE_GRAPHS"


def canonical(recording: Recording, *, batch: str | None = None) -> str:
    """One line for each tensor in recording order; no values, times, addresses or source lines.

    Parameters
    ----------
    recording : Recording
        The run.
    batch : str, optional
        Written for the first axis wherever it has the size of the batch, so that the text holds for
        every batch; parameters keep their numbers.

    Returns
    -------
    str
        The same text for runs of the same structure, on every machine.
    """
    names = [clean(n) for n in entry_names(recording)]
    lines = [f"{names[i]} = {_details(recording, i, names, batch)}"
             for i in range(len(recording.entries))]
    return "\n".join([FORMAT, *lines, ""])


def _details(recording: Recording, i: int, names: Sequence[str], batch: str | None) -> str:
    e = recording.entries[i]
    what = f"{e.op}({', '.join(clean(s) for s in e.settings)})" if e.op else e.role
    reads = "".join(f" {names[j]}" for j in e.inputs)
    return f"{what}{reads} -> {_shape(recording, e, batch)} {e.dtype}"


def _shape(recording: Recording, e: Entry, batch: str | None) -> str:
    dims: list[int | str] = list(e.shape)
    if batch and dims and e.role != "parameter" and e.shape[0] == recording.batch:
        dims[0] = batch
    return shape_text(dims)


def compare_with_file(text: str, path: str | os.PathLike[str], *,
                      update: bool | None = None) -> None:
    """Hold canonical text to a file; see `viz.assert_graph_unchanged`."""
    file = Path(path)
    if update if update is not None else os.environ.get(UPDATE, "") not in ("", "0"):
        file.write_text(text, encoding="utf-8")
        return
    if not file.exists():
        raise AssertionError(f"graph: {file} does not exist; run once with {UPDATE}=1 to write it, "
                             "and look at what it wrote")
    golden = file.read_text(encoding="utf-8")
    if golden == text:
        return
    lines = difflib.unified_diff(golden.splitlines(), text.splitlines(), str(file), "this graph",
                                 lineterm="", n=1)
    raise AssertionError("the graph has changed; if that is meant, run once with "
                         f"{UPDATE}=1\n" + "\n".join(lines))


# ---- the difference of two -----------------------------------------------------------------------

@dataclass(frozen=True)
class Difference:
    """What changed from one graph to another, as lines and as a merged recording for the picture.

    ``added`` and ``removed`` hold canonical lines, ``changed`` pairs of an old and a new line.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[tuple[str, str], ...]
    merged: Recording
    marks: dict[int, str]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __str__(self) -> str:
        if not self:
            return "the graphs are equal"
        words = [f"{len(v)} {k}" for k, v in (("added", self.added), ("removed", self.removed),
                                              ("changed", self.changed)) if v]
        return "\n".join([", ".join(words), *(f"- {line}" for line in self.removed),
                          *(f"+ {line}" for line in self.added),
                          *(f"- {old}\n+ {new}" for old, new in self.changed)])


def compare(old: Recording, new: Recording) -> Difference:
    """Align two recordings by their names and note what was added, removed and changed.

    Raises
    ------
    VizError
        If the graphs have more than 20,000 tensors together, too many to align.
    """
    if len(old.entries) + len(new.entries) > 20_000:
        raise VizError(f"diff: {len(old.entries)} and {len(new.entries)} tensors are too many to "
                       "align; compare fig.canonical() with a line tool")
    pairs = _aligned(old, new)
    to_new = {a: b for a, b in pairs if a is not None and b is not None}
    order, at_old, at_new = _merge_order(pairs)
    old_names, new_names = entry_names(old), entry_names(new)
    entries, marks = [], {}
    added, removed, changed = [], [], []
    for i, (a, b) in enumerate(order):
        if b is None:
            assert a is not None, "a pair has one side at least"
            e = old.entries[a]
            marks[i] = "removed"
            removed.append(f"{old_names[a]} = {_details(old, a, old_names, None)}")
            entries.append(_bare(e, tuple(at_old[j] for j in e.inputs)))
            continue
        e = new.entries[b]
        entries.append(_bare(e, tuple(at_new[j] for j in e.inputs)))
        line = f"{new_names[b]} = {_details(new, b, new_names, None)}"
        if a is None:
            marks[i] = "added"
            added.append(line)
            continue
        reads = _other_reads(old.entries[a], e, to_new, old_names, new_names)
        words = _changes(old.entries[a], e, reads)
        if words:
            marks[i] = "changed"
            changed.append((f"{old_names[a]} = {_details(old, a, old_names, None)}", line))
            entries[-1] = replace(entries[-1], note=words)
    title = old.title if old.title == new.title else f"{old.title} → {new.title}"
    merged = Recording(f"{title}: what changed", tuple(entries), at_new[new.output])
    return Difference(tuple(added), tuple(removed), tuple(changed), merged, marks)


def _aligned(old: Recording, new: Recording) -> list[tuple[int | None, int | None]]:
    """Entries of both in one order: pairs of the same name, or one side alone."""
    tokens = [[(e.role, e.path) for e in r.entries] for r in (old, new)]
    pairs: list[tuple[int | None, int | None]] = []
    for tag, a1, a2, b1, b2 in difflib.SequenceMatcher(
            None, tokens[0], tokens[1], autojunk=False).get_opcodes():
        if tag == "equal":
            pairs.extend(zip(range(a1, a2), range(b1, b2), strict=True))
        else:
            pairs.extend((a, None) for a in range(a1, a2))
            pairs.extend((None, b) for b in range(b1, b2))
    return pairs


def _merge_order(pairs: list[tuple[int | None, int | None]]) -> tuple[
        list[tuple[int | None, int | None]], dict[int, int], dict[int, int]]:
    at_old = {a: i for i, (a, _) in enumerate(pairs) if a is not None}
    at_new = {b: i for i, (_, b) in enumerate(pairs) if b is not None}
    return pairs, at_old, at_new


def _bare(e: Entry, inputs: tuple[int, ...]) -> Entry:
    """The structure of an entry, without the figures of its run."""
    return Entry(e.role, e.shape, e.dtype, op=e.op, name=e.name, scope=e.scope, family=e.family,
                 inputs=inputs, arguments=e.arguments, settings=e.settings, source=e.source)


def _other_reads(a: Entry, b: Entry, to_new: dict[int, int], old_names: Sequence[str],
                 new_names: Sequence[str]) -> str:
    """What an entry reads instead of what it read before; empty if that is the same."""
    if tuple(to_new.get(j, -1) for j in a.inputs) == b.inputs:
        return ""
    before, after = {to_new.get(j, -1) for j in a.inputs}, set(b.inputs)
    gone = [old_names[j] for j in a.inputs if to_new.get(j, -1) not in after]
    come = [new_names[j] for j in b.inputs if j not in before]
    return f"reads {', '.join(gone) or 'nothing'} → {', '.join(come) or 'in another order'}"


def _changes(a: Entry, b: Entry, reads: str) -> str:
    """What differs between two entries of one name, as ``old → new``."""
    words = []
    if a.settings != b.settings:
        before, after = set(a.settings), set(b.settings)
        words.append(f"{', '.join(s for s in a.settings if s not in after) or 'none'} → "
                     f"{', '.join(s for s in b.settings if s not in before) or 'none'}")
    if a.shape != b.shape:
        words.append(f"{shape_text(a.shape)} → {shape_text(b.shape)}")
    if a.dtype != b.dtype:
        words.append(f"{a.dtype} → {b.dtype}")
    return "; ".join([*words, *filter(None, (reads,))])
