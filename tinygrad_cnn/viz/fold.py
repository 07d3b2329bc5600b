"""Which parts of a recording get one card: parameters, chains, equal blocks and modules fold away.

Every part is an interval of the recording order, which is a topological order: whatever is folded,
the arrows between parts go one way only, and each step takes linear time.  The parts form a tree of
modules; folding closes branches of it until the picture is small enough.
"""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.errors import VizError
from tinygrad_cnn.viz.capture import Entry, Recording, dotted

__all__ = ["LEVELS", "Folding", "Part", "fold"]

LEVELS = ("auto", "everything", "operators", "modules", "folded")

_MOST_DRAWN = 2000                          # an engine needs half a minute for 10,000 cards
_LEAST_RUN = 3
_LONGEST_PATTERN = 24
_CHAINABLE = ("elementwise", "activation")


@dataclass(eq=False)
class Part:
    """An interval of ops that may become one card.

    ``op``, ``chain`` (element-wise), ``span`` (a module), ``stack`` (equal modules), ``pattern``
    (equal runs of ops) or ``segment`` (when nothing else is left).
    """

    kind: str
    start: int                              # positions among the ops, not among the entries
    stop: int
    path: tuple[str, ...] = ()
    children: list[Part] = field(default_factory=list)
    instances: tuple[tuple[int, int], ...] = ()
    paths: tuple[tuple[str, ...], ...] = ()
    open: bool = False
    above: tuple[Part, ...] = ()            # of a drawn part: the open modules around it
    calls: tuple[int, ...] = ()             # of a module: which call of it and those around it

    @property
    def interval(self) -> tuple[int, int]:
        """Start and stop."""
        return self.start, self.stop

    @property
    def loop(self) -> bool:
        """Whether it is one thing done again and again, rather than equal modules in a row."""
        return self.kind == "pattern" or (len(self.instances) > 1 and len(set(self.paths)) == 1)


@dataclass(frozen=True)
class Folding:
    """The drawn parts, in recording order, and which leaves still get a card of their own."""

    level: str
    parts: tuple[Part, ...]
    ops: tuple[int, ...]                    # entry index of each op
    separate: frozenset[str]                # roles of leaves that are cards
    remark: str = ""


def fold(recording: Recording, level: str = "auto", *, open: Iterable[str] = (),
         limit: int = 40, compact: bool = False) -> Folding:
    """Choose what gets a card.

    ``level`` says how much: ``everything`` draws each parameter; ``operators`` puts parameters into
    their reader's card; ``modules`` draws each innermost module as one card; ``folded`` folds until
    there are ``limit`` cards; ``auto`` is the first of everything, operators and folded that fits.
    ``open`` names module paths, as they are written in the picture, that stay open.  A ``compact``
    picture takes operators for everything, and has no card for labels.
    """
    if level not in LEVELS:
        raise VizError(f"graph: level {level!r} is unknown; choose from {', '.join(LEVELS)}")
    if limit < 4:
        raise VizError(f"graph: a picture of at most {limit} cards is too small; "
                       "give limit=4 or more")
    folder = _Folder(recording, open)
    inputs = frozenset(("input", "label")[:2 - compact])
    leaves = inputs | {"label", "parameter", "constant"}
    most = limit if level == "auto" else _MOST_DRAWN
    if level in (("auto", "everything")[compact:]) and folder.cards(leaves) <= most:
        return folder.folding("everything", leaves)
    folder.close_functions()
    if level in ("auto", "operators") and folder.cards(inputs) <= most:
        return folder.folding("operators", inputs)
    if level == "modules":
        folder.close_innermost()
        if folder.cards(inputs) <= most:
            return folder.folding("modules", inputs)
    remark = "" if level in ("auto", "folded") else f"too many cards for level {level}: folded"
    separate = inputs if folder.leaves(inputs) <= max(2, limit // 4) else frozenset[str]()
    folder.fold(limit, separate)
    if not compact:
        folder.show_one(limit, separate)
    return folder.folding("folded", separate, remark)


def _drawn(root: Part) -> Iterator[Part]:
    """The closed parts, in recording order, each with the open modules around it."""
    stack: list[tuple[Part, tuple[Part, ...]]] = [(root, ())]
    while stack:
        part, above = stack.pop()
        if part.open:
            inside = (*above, part) if part.path else above
            stack.extend((child, inside) for child in reversed(part.children))
        else:
            part.above = above
            yield part


class _Folder:
    """The tree of one recording while it is being folded."""

    def __init__(self, recording: Recording, opened: Iterable[str]) -> None:
        self.entries = recording.entries
        self.ops = tuple(i for i, e in enumerate(self.entries) if e.op)
        self.position = {i: p for p, i in enumerate(self.ops)}
        self.last_reader = list(range(len(self.ops)))
        for p, i in enumerate(self.ops):
            for at in self._read(i):
                self.last_reader[at] = p
        self.signatures: dict[tuple[int, int], int] = {}
        self.interned: dict[object, int] = {}
        self.root = self._tree()
        self.opened = self._opened(opened)

    def _read(self, i: int) -> list[int]:
        """The positions of the ops that entry ``i`` reads."""
        return [self.position[j] for j in self.entries[i].inputs if j in self.position]

    def _tree(self) -> Part:
        root = Part("span", 0, len(self.ops), open=True)
        stack = [root]
        for p, i in enumerate(self.ops):
            scope = self.entries[i].scope
            calls = (*self.entries[i].calls, *[1] * len(scope))[:len(scope)]
            depth = 0
            while (depth + 1 < len(stack) and depth < len(scope)
                   and stack[depth + 1].path[-1] == scope[depth]
                   and stack[depth + 1].calls[-1] == calls[depth]):
                depth += 1
            del stack[depth + 1:]
            for k in range(depth, len(scope)):
                span = Part("span", p, p, scope[:k + 1], open=True, calls=calls[:k + 1])
                stack[-1].children.append(span)
                stack.append(span)
            stack[-1].children.append(Part("op", p, p + 1, scope))
            for span in stack:
                span.stop = p + 1
        return root

    def _opened(self, names: Iterable[str]) -> set[tuple[str, ...]]:
        """The paths that must stay open: those asked for, and the modules around them."""
        wanted = {_normal(name): name for name in names}
        if not wanted:
            return set()
        known = {_normal(dotted(s.path)): s.path for s in self.spans() if s.path}
        keep: set[tuple[str, ...]] = set()
        for key, name in wanted.items():
            if key not in known:
                some = ", ".join(dotted(p) for p in list(known.values())[:6]) or "none"
                raise VizError(f"graph: open={name!r} is no module of this graph; modules: {some}")
            path = known[key]
            keep.update(path[:k] for k in range(1, len(path) + 1))
        return keep

    def spans(self) -> list[Part]:
        """All open modules, the outer before the inner, in recording order."""
        found, stack = [], [self.root]
        while stack:
            part = stack.pop()
            if part.open:
                found.append(part)
                stack.extend(reversed(part.children))
        return found

    def leaves(self, separate: frozenset[str]) -> int:
        return sum(not e.op and e.role in separate for e in self.entries)

    def cards(self, separate: frozenset[str]) -> int:
        return self.leaves(separate) + sum(1 for _ in _drawn(self.root))

    def folding(self, level: str, separate: frozenset[str], remark: str = "") -> Folding:
        return Folding(level, tuple(_drawn(self.root)), self.ops, separate, remark)

    # ---- the steps of folding, from the mildest to the harshest ----------------------------------
    def fold(self, limit: int, separate: frozenset[str]) -> None:
        for step in (self._chains, self._runs, self._patterns):
            if self.cards(separate) <= limit:
                return
            for span in self.spans():
                if span.open:
                    span.children = step(span.children)
        for depth in range(max((len(s.path) for s in self.spans()), default=0), 0, -1):
            if self.cards(separate) <= limit:
                return
            for span in self.spans():
                if len(span.path) == depth:
                    self._close(span)
        if self.cards(separate) > limit:
            self.root.children = self._patterns(self.root.children)
        if self.cards(separate) > limit:
            self._segments(max(1, limit - self.leaves(separate)))

    def show_one(self, limit: int, separate: frozenset[str]) -> None:
        """Open the first block of the first stack, if no block is open and there is room."""
        spans = self.spans()
        span, k = next(((s, k) for s in spans for k, part in enumerate(s.children)
                        if part.kind == "stack" and len(part.instances) > 2 and not part.loop),
                       (self.root, -1))
        if k < 0 or any(len(s.path) > len(span.path) for s in spans):
            return
        first, *rest = span.children[k].children
        if self.cards(separate) + sum(1 for _ in _drawn(first)) <= limit:
            span.children[k:k + 1] = [first, _stack(rest)]

    def close_functions(self) -> None:
        """Draw a function of several ops, such as a loss, and a layer that is one, as one card.

        The ops of a layer of the package, as of a layer norm, all come from the user's one line.
        """
        for span in self.spans():
            lines = {self.entries[i].source for i in self.ops[span.start:span.stop]}
            if span.path and (span.path[-1].endswith("()") or (
                    len(lines) == 1 and "" not in lines
                    and all(child.kind == "op" for child in span.children))):
                self._close(span)

    def close_innermost(self) -> None:
        for span in self.spans():
            if all(child.kind == "op" for child in span.children):
                self._close(span)

    def _close(self, span: Part) -> None:
        if span.path and span.path not in self.opened and span.stop - span.start > 1:
            span.open = False

    def _chains(self, children: list[Part]) -> list[Part]:
        """Element-wise ops that only feed each other, as one part."""
        out: list[Part] = []
        for part in children:
            before = out[-1] if out else None
            if before is not None and self._continues(before, part):
                out[-1] = Part("chain", before.start, part.stop, part.path)
            else:
                out.append(part)
        return out

    def _continues(self, before: Part, part: Part) -> bool:
        if part.kind != "op" or before.kind not in ("op", "chain"):
            return False
        last, entry = self.ops[before.stop - 1], self.entries[self.ops[part.start]]
        if last not in entry.inputs or self.last_reader[before.stop - 1] != part.start:
            return False
        return (self.entries[last].family in _CHAINABLE and entry.family in _CHAINABLE
                and entry.role != "loss")

    def _runs(self, children: list[Part]) -> list[Part]:
        """At least three equal sibling modules in a row, as one stack."""
        out: list[Part] = []
        k = 0
        while k < len(children):
            end = k
            while end < len(children) and self._may_stack(children, k, end):
                end += 1
            out.extend(self._stacks(children[k:end]) if end > k else [children[k]])
            k = max(end, k + 1)
        return out

    def _may_stack(self, children: Sequence[Part], first: int, k: int) -> bool:
        part = children[k]
        if part.kind != "span" or part.path in self.opened or self._leaks(*part.interval):
            return False
        if k == first:
            return True
        return (self._outside(*part.interval) <= {part.start - 1}
                and self._signature(*part.interval) == self._signature(*children[first].interval))

    def _stacks(self, run: list[Part]) -> list[Part]:
        """One stack, or several where an outlier stands between them."""
        if len(run) < _LEAST_RUN:
            return run
        out: list[Part] = []
        again = len({part.path for part in run}) == 1       # steps, whose gradient may well grow
        odd = set() if again else self._outliers(run)
        group: list[Part] = []
        for part in (*run, None):
            if part is not None and part not in odd:
                group.append(part)
                continue
            if len(group) > 1:
                out.append(_stack(group))
            else:
                out.extend(group)
            group = []
            if part is not None:
                part.open = False
                out.append(part)
        return out

    def _outliers(self, run: list[Part]) -> set[Part]:
        """Blocks whose gradient holds NaN, or is ten times the median of their siblings'."""
        values = {part: g.rms for part in run
                  if (g := self.entries[self.ops[part.stop - 1]].gradient) is not None}
        finite = [v for v in values.values() if np.isfinite(v) and v > 0]
        middle = statistics.median(finite) if finite else np.inf
        return {part for part, v in values.items() if not v <= 10 * middle}

    def _patterns(self, children: list[Part]) -> list[Part]:
        """A few parts that repeat in a row at least three times, as one part; the longest first."""
        if len(children) < 2 * _LEAST_RUN:
            return children
        codes = np.array([self._local(part) for part in children])
        matches = [_matches(codes, period) for period in range(1, _LONGEST_PATTERN + 1)]
        out: list[Part] = []
        k = 0
        while k < len(children):
            best, length = 0, 0
            for period, match in enumerate(matches, start=1):
                times = match[k] // period + 1
                if k + period < len(match):     # the first step may read what was there before
                    more = match[k + period] // period + 2
                    if more > max(times, _LEAST_RUN) and more * period > length \
                            and self._begins(children[k:k + period], children[k + period]):
                        times = more
                if times >= _LEAST_RUN and times * period > length:
                    best, length = period, int(times * period)
            if best:
                out.append(_pattern(children[k:k + length], best))
            else:
                out.append(children[k])
            k += max(length, 1)
        return out

    def _begins(self, first: list[Part], second: Part) -> bool:
        """Whether parts differ from those after them only in reads of leaves instead of ops."""
        if any(part.open and part.path in self.opened for part in first):
            return False
        for p, q in zip(range(first[0].start, first[-1].stop), itertools.count(second.start),
                        strict=False):
            one, two = (self.entries[self.ops[at]] for at in (p, q))
            if (one.op, _steady(one), one.shape, one.scope, len(one.inputs)) != (
                    two.op, _steady(two), two.shape, two.scope, len(two.inputs)):
                return False
            for i, j in zip(one.inputs, two.inputs, strict=True):
                same = i in self.position and j in self.position \
                    and p - self.position[i] == q - self.position[j]
                if not same and (i in self.position or (
                        self.entries[i].role == "parameter" and i != j)):
                    return False
        return True

    def _segments(self, most: int) -> None:
        """Cut what is left into at most ``most`` pieces of equal length; open modules stay."""
        kept = [part for part in self.root.children if part.open and part.path in self.opened]
        rest = len(self.root.children) - len(kept)
        each = -(-rest // max(1, most - sum(1 for part in kept for _ in _drawn(part))))
        out: list[Part] = []
        taken = 0                           # how many parts the last piece holds, if it may grow
        for part in self.root.children:
            if part in kept or not 0 < taken < each:
                out.append(part)
                taken = 0 if part in kept else 1
            else:
                out[-1] = Part("segment", out[-1].start, part.stop)
                taken += 1
        self.root.children = out

    # ---- what makes two parts equal --------------------------------------------------------------
    def _leaks(self, start: int, stop: int) -> bool:
        """Whether a tensor inside, other than the last, is read outside."""
        return any(self.last_reader[p] >= stop for p in range(start, stop - 1))

    def _outside(self, start: int, stop: int) -> set[int]:
        """The positions before ``start`` that the part reads."""
        return {at for p in range(start, stop) for at in self._read(self.ops[p]) if at < start}

    def _signature(self, start: int, stop: int) -> int:
        """One number for ops, settings, shapes and wiring; weights and names do not count."""
        found = self.signatures.get((start, stop))
        if found is None:
            outer: dict[int, int] = {}

            def read(p: int, j: int) -> object:
                at = self.position.get(j)
                return p - at if at is not None and at >= start else (
                    "outside", outer.setdefault(j, len(outer)))

            found = self.signatures[start, stop] = self._intern(
                tuple(self._described(p, read) for p in range(start, stop)))
        return found

    def _described(self, p: int, read: Callable[[int, int], object]) -> tuple[Any, ...]:
        """Op, settings, shape and reads of one op; ``read`` describes what is no parameter."""
        e = self.entries[self.ops[p]]
        reads: list[object] = []
        for j, argument in zip(e.inputs, e.arguments, strict=True):
            source = self.entries[j]
            reads.append((source.role, argument, source.shape)
                         if source.role in ("parameter", "constant") else read(p, j))
        return e.op, _steady(e), e.shape, e.dtype, e.role, tuple(reads)

    def _local(self, part: Part) -> int:
        """Like `_signature`, but with the distance to what is read outside.

        What follows an input and what follows the op before count as the same, so that a pattern
        begins with the first of its kind; and so do the numbers of an index, which count steps.
        """
        if part.open and part.path in self.opened:
            return self._intern(("open", part.start))
        if part.kind != "op" and not part.open:
            return self._intern((part.kind, self._signature(*part.interval)))
        return self._intern(tuple(          # a module of one op repeats as the op
            self._described(p, lambda p, j: p - self.position.get(j, p - 1))
            for p in range(*part.interval)))

    def _intern(self, described: object) -> int:
        return self.interned.setdefault(described, len(self.interned))


def _steady(e: Entry) -> tuple[str, ...]:
    """The settings of an op, without the numbers of an index, which count steps."""
    return e.settings if e.op != "getitem" else tuple(re.sub(r"\d+", "", s) for s in e.settings)


def _matches(codes: NDArray[np.int64], period: int) -> list[int]:
    """For each place, how many entries in a row equal the one ``period`` further on."""
    n = len(codes)
    if period >= n:
        return [0] * n
    equal = np.concatenate([codes[:-period] == codes[period:], np.zeros(period, bool)])
    ends = np.where(equal, n, np.arange(n))
    ends = np.minimum.accumulate(ends[::-1])[::-1]
    return [int(v) for v in ends - np.arange(n)]


def _stack(group: list[Part]) -> Part:
    return Part("stack", group[0].start, group[-1].stop, group[0].path, group,
                tuple(g.interval for g in group), tuple(g.path for g in group))


def _pattern(parts: list[Part], period: int) -> Part:
    instances = tuple((parts[k].start, parts[k + period - 1].stop)
                      for k in range(0, len(parts), period))
    modules = tuple(part.path for part in parts[:period] if part.kind == "span")
    return Part("pattern", parts[0].start, parts[-1].stop, instances=instances,
                paths=modules if len(modules) == 1 else ())


def _normal(path: str) -> str:
    return str(path).replace("[", ".").replace("]", "").strip(".")
