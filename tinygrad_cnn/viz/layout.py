"""The layout: a straight trunk, branches on its right, skips on its left.

The trunk runs from the output back through the deepest input.  A card's row is its depth;
parameters stand beside their reader, what is off the trunk in the nearest free lane.  Lines run
along the axes, between rows and over no card.  From left to right, the same is done with all sizes
turned; for a wide page, the rows are cut into columns.  It takes n log n time, and gives the same
whole pixels on every machine.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from tinygrad_cnn.viz.diagram import Card, Diagram, Edge, Row
from tinygrad_cnn.viz.labels import clean, width

__all__ = ["Box", "Layout", "Route", "layout"]

TITLE_SIZE, TAG_SIZE, ROW_SIZE, SMALL_SIZE = 14.5, 10.5, 11.5, 10.5
GROUP_SIZE, EDGE_SIZE = 15.0, 11.0
BAR, SQUARE = 96, 17
STRIP, BADGE_STRIP = 9, 28
_PAD = 7                                    # inside a card, around the strip
_SIDE_GAP = 58                              # between a card and what stands beside it
_LANE_GAP = 42
_LABEL_ROOM = 34                            # height between rows that edge labels need
_BOX_PAD, _BOX_TITLE = 16, 30
MARGIN = 32
_MOST_COLUMNS = 6
_MOST_LANES = 7                             # of cards, beyond which lines run between the cards
ROW_HEIGHTS = {"text": 17, "bar": 17, "squares": 23, "warning": 21, "values": 27, "gradients": 27,
               "picture": 54}


@dataclass(frozen=True)
class Box:
    """A rectangle: its upper left corner and its size, in pixels."""

    x: int
    y: int
    w: int
    h: int

    @property
    def right(self) -> int:
        """x of the right side."""
        return self.x + self.w

    @property
    def bottom(self) -> int:
        """y of the lower side."""
        return self.y + self.h

    def overlaps(self, other: Box) -> bool:
        """Whether the two share a pixel."""
        return (self.x < other.right and other.x < self.right
                and self.y < other.bottom and other.y < self.bottom)

    def moved(self, dx: int, dy: int) -> Box:
        """The same box elsewhere."""
        return Box(self.x + dx, self.y + dy, self.w, self.h)


@dataclass(frozen=True)
class Route:
    """The way of one edge, corner by corner from source to target, and where its label begins."""

    edge: str
    points: tuple[tuple[int, int], ...]
    label: tuple[int, int] = (0, 0)
    anchor: str = "start"                   # empty where there is no room for a label


@dataclass(frozen=True)
class Layout:
    """Where everything is."""

    width: int
    height: int
    cards: dict[str, Box]
    groups: dict[str, Box]
    routes: tuple[Route, ...]
    unboxed: tuple[str, ...] = ()           # modules whose box would cut through another card

    def moved(self, dx: int, dy: int, width: int, height: int) -> Layout:
        """The same places on another page."""
        return Layout(width, height, {k: b.moved(dx, dy) for k, b in self.cards.items()},
                      {k: b.moved(dx, dy) for k, b in self.groups.items()},
                      tuple(Route(r.edge, tuple((x + dx, y + dy) for x, y in r.points),
                                  (r.label[0] + dx, r.label[1] + dy), r.anchor)
                            for r in self.routes), self.unboxed)


def layout(diagram: Diagram) -> Layout:
    """Give every card, module and edge of a diagram its place."""
    return _Builder(diagram).place()


# ---- sizes ---------------------------------------------------------------------------------------

def _text_width(text: str, size: float, *, bold: bool = False) -> float:
    return width(clean(text), size, bold=bold)


def _row_width(row: Row) -> float:
    if row.kind == "text":
        return (_text_width(row.text, ROW_SIZE) + _text_width(row.hot, ROW_SIZE, bold=True)
                + _text_width(row.after, ROW_SIZE))
    if row.kind == "warning":
        return width("! " + clean(row.text), ROW_SIZE, bold=True) + 12
    if row.kind == "picture":
        return picture_size(row.text)[0]
    picture = len(row.levels) * (SQUARE + 2) if row.kind == "squares" else BAR
    return picture + 10 + _text_width(row.text, SMALL_SIZE)


def picture_size(uri: str) -> tuple[int, int]:
    """Width and height at which the PNG of a data URI is drawn, 48 pixels high at most."""
    w, h = struct.unpack(">II", base64.b64decode(uri.partition(",")[2][:32])[16:24])
    return min(200, w * 48 // h), min(48, 200 * h // w)


def strip_width(card: Card) -> int:
    """Width of the colored strip: enough for a badge if there is one."""
    return BADGE_STRIP if card.badge else STRIP


def measure(card: Card) -> tuple[int, int]:
    """Width and height of a card."""
    head = _text_width(card.title, TITLE_SIZE, bold=True)
    if card.tag:
        head += 18 + _text_width(card.tag, TAG_SIZE)
    inner = max([head, *map(_row_width, card.rows)])
    w = 2 * math.ceil((strip_width(card) + 3 * _PAD + inner + 10) / 2)
    h = 32 + sum(ROW_HEIGHTS[row.kind] for row in card.rows) + (6 if card.rows else 4)
    least = 196 if card.kind in ("op", "module", "stack") else 120
    edge = 16 if card.kind == "stack" else 0    # room for the outer borders of a stack
    return max(w, least) + edge, h + edge


# ---- the layout ----------------------------------------------------------------------------------

@dataclass
class _Block:
    """A card with what stands beside it."""

    card: Card
    w: int
    h: int
    left: list[tuple[Card, int, int]] = field(default_factory=list)
    right: list[tuple[Card, int, int]] = field(default_factory=list)
    row: int = 0
    lane: int = 0
    last: int = 0                           # last row that the lane is kept free for
    around: int = 0                         # how far the boxes of its modules go beyond it
    x: int = 0                              # of the center

    def reach(self, side: list[tuple[Card, int, int]]) -> int:
        """How far the block goes from its center to one side."""
        beside = max((w for _, w, _ in side), default=0)
        return self.w // 2 + (_SIDE_GAP + beside if beside else 0) + self.around

    @property
    def height(self) -> int:
        stacks = [sum(h for _, _, h in side) + 14 * (len(side) - 1)
                  for side in (self.left, self.right) if side]
        return max(self.h, *stacks) if stacks else self.h


@dataclass
class _Way:
    """An edge in the making: its ends, its vertical lane, and its turn in the gaps it crosses."""

    edge: Edge
    source: _Block
    target: _Block
    lane_x: int | None = None
    out_slot: int = 0
    in_slot: int = 0
    straight: bool = False
    side: int = 1                           # +1 right, −1 left
    from_x: int = 0
    to_x: int = 0


class _Builder:
    def __init__(self, diagram: Diagram) -> None:
        self.diagram = diagram
        self.turned, compact = diagram.direction == "LR", diagram.density == "compact"
        self.gap = 16 if compact else 30    # between rows without labels
        sizes = {c.id: (h, w) if self.turned else (w, h)
                 for c in diagram.cards for w, h in [measure(c)]}
        deep = {"": 0}
        for g in diagram.groups:
            deep[g.id] = deep[g.parent] + 1
        self.blocks = {c.id: _Block(c, *sizes[c.id], around=_BOX_PAD * deep[c.group])
                       for c in diagram.cards if not c.beside}
        for c in diagram.cards:
            if c.beside:
                block = self.blocks[c.beside]
                side = block.left if len(block.left) <= len(block.right) else block.right
                side.append((c, *sizes[c.id]))
        self.between = [e for e in diagram.edges
                        if e.source in self.blocks and e.target in self.blocks]
        self.cards: dict[str, Box] = {}
        self.tracks: dict[str, int] = {}    # of a tangle: x of the long lines from a card
        self.label_width = {e.id: math.ceil(max(
            _text_width(e.text, EDGE_SIZE),
            width("grad " + e.gradient, SMALL_SIZE) if e.gradient and e.text else 0))
            for e in diagram.edges}
        self.room = _LABEL_ROOM             # for the label of an edge, along the way it goes
        if self.turned:
            self.room = max(self.label_width.values(), default=0) + 10
            self.label_width = {name: 34 if w else 0 for name, w in self.label_width.items()}

    def place(self) -> Layout:
        if not self.blocks:
            return Layout(2 * MARGIN, 2 * MARGIN, {}, {}, ())
        self._rows()
        self._lanes()
        ways = self._ways()
        self._heights(ways)
        for block in self.blocks.values():
            self._set(block)
        routes = [*self._side_routes(), *map(self._route, ways)]
        if self.diagram.aspect:
            routes = self._folded_back(routes) or self._wrapped(routes)
        if self.turned:
            self.cards = {name: Box(b.y, b.x, b.h, b.w) for name, b in self.cards.items()}
            routes = [Route(r.edge, tuple((y, x) for x, y in r.points),
                            (r.label[1] - 11, r.label[0] - 29), "start" if r.anchor else "")
                      for r in routes]
        return self._shifted(*self._groups(), routes)

    # ---- rows and lanes
    def _rows(self) -> None:
        depth = dict.fromkeys(self.blocks, 0)
        deepest: dict[str, str] = {}
        for e in self.between:
            below = depth[e.source] + 1
            if below > depth[e.target] or (below == depth[e.target] and (
                    e.trunk or e.target not in deepest)):
                depth[e.target] = below
                deepest[e.target] = e.source
        readers: dict[str, list[str]] = {}
        for e in self.between:
            readers.setdefault(e.source, []).append(e.target)
        trunk = [next(reversed(self.blocks))]
        while trunk[-1] in deepest:
            trunk.append(deepest[trunk[-1]])
        self.trunk, self.deepest = set(trunk), deepest
        self.order = {name: k for k, name in enumerate(self.blocks)}
        for name, block in self.blocks.items():
            block.row = depth[name]
            if name not in self.trunk and name not in deepest and name in readers:
                block.row = max(0, min(depth[r] for r in readers[name]) - 1)
        for name, block in self.blocks.items():
            block.last = max([block.row, *(self.blocks[r].row - 1 for r in readers.get(name, ()))])
        self.rows = 1 + max(block.row for block in self.blocks.values())

    def _lanes(self) -> None:
        """Columns: the trunk at 0, every other card in the nearest lane free on its rows."""
        first = {name: block.row for name, block in self.blocks.items()}
        begins: dict[str, str] = {}         # what a leaf is read by first
        for e in self.between:
            begins.setdefault(e.source, e.target)
            if e.target not in self.trunk:
                first[e.target] = min(first[e.target], self.blocks[e.source].row + 1)
        taken: list[list[tuple[int, int, _Block]]] = []
        # A chain keeps its lane, so leaves take theirs after it.
        for name in sorted(self.blocks.keys() - self.trunk, key=lambda n: (
                n not in self.deepest, self.order[n])):
            block = self.blocks[name]
            span = (first[name], block.last)
            near = self.blocks[self.deepest.get(name) or begins.get(name, name)].lane - 1
            lane = next((k for k in (near, *range(len(taken))) if 0 <= k < len(taken)
                         and all(span[1] < a or b < span[0] for a, b, _ in taken[k])), len(taken))
            if lane == len(taken):
                taken.append([])
            taken[lane].append((*span, block))
            block.lane = lane + 1
        if len(taken) > _MOST_LANES and not self.diagram.groups:
            self._grid()
            return
        right = [0] * self.rows
        self.left = [0] * self.rows
        for block in self.blocks.values():
            if block.lane == 0:
                right[block.row] = block.reach(block.right)
                self.left[block.row] = -block.reach(block.left)
        for used in taken:
            rows = {r for a, b, _ in used for r in range(a, b + 1)}
            reach = max(block.reach(block.left) for _, _, block in used)
            x = max(right[r] for r in rows) + _LANE_GAP + reach
            for a, b, block in used:
                block.x = x
                for r in range(a, b + 1):
                    right[r] = x + (block.reach(block.right) if r == block.row else 12)

    def _grid(self) -> None:
        """A tangle: each card in the free column nearest to what it reads, and lines between."""
        deep: list[list[str]] = [[] for _ in range(self.rows)]
        for name, block in self.blocks.items():
            block.lane = 0
            if name not in self.trunk:
                deep[block.row].append(name)
        rows, starts = list[list[str]](), []        # of a depth, as many as it takes
        for names in deep:
            starts.append(len(rows))
            rows += [names[k:k + _MOST_LANES] for k in range(0, max(1, len(names)), _MOST_LANES)]
        for name in self.trunk:
            self.blocks[name].row = starts[self.blocks[name].row]
        for r, names in enumerate(rows):
            for name in names:
                self.blocks[name].row = r
        self.rows = len(rows)
        reads: dict[str, list[_Block]] = {}
        ends: dict[str, list[_Block]] = {}  # where lines go that are longer than a row
        for e in self.between:
            reads.setdefault(e.target, []).append(self.blocks[e.source])
            if self.blocks[e.target].row > self.blocks[e.source].row + 1:
                ends.setdefault(e.source, []).append(self.blocks[e.target])

        def middle(blocks: list[_Block]) -> float:
            return sum(b.lane for b in blocks) / len(blocks) if blocks else 0.0

        for names in rows:
            free = sorted(range(-len(names), len(names) + 1), key=abs)[1:]
            for wanted, name in sorted((middle(reads.get(n, [])), n) for n in names):
                self.blocks[name].lane = best = min(free, key=lambda c: (abs(c - wanted), abs(c)))
                free.remove(best)
        columns = range(min(b.lane for b in self.blocks.values()),
                        max(b.lane for b in self.blocks.values()) + 1)
        gutters: dict[int, list[list[tuple[int, int]]]] = {
            c: [] for c in (columns[0] - 1, *columns)}
        place: dict[str, tuple[int, int]] = {}
        for name, targets in ends.items():
            block = self.blocks[name]
            gutter = block.lane - (middle(targets) < block.lane)
            place[name] = gutter, _free_track(gutters[gutter], block.row + 1,
                                              max(b.row for b in targets))
        x, edge = 0, {}
        for c in (columns[0] - 1, *columns):
            here = [b for b in self.blocks.values() if b.lane == c]
            x += max((b.reach(b.left) for b in here), default=0)
            for block in here:
                block.x = x
            edge[c] = x = x + max((b.reach(b.right) for b in here), default=0) + 24
            x += 14 * len(gutters[c]) + 10
        self.tracks = {name: edge[c] + 14 * k for name, (c, k) in place.items()}

    # ---- edges
    def _ways(self) -> list[_Way]:
        ways = [_Way(e, self.blocks[e.source], self.blocks[e.target]) for e in self.between]
        for way in sorted(ways, key=lambda w: (w.target.row - w.source.row, w.edge.id)):
            a, b = way.source, way.target
            if self.tracks or b.row == a.row + 1:
                way.straight = a.x == b.x and b.row == a.row + 1
                way.lane_x = self.tracks[a.card.id] if b.row > a.row + 1 else None
                way.side = 1 if max(a.lane, b.lane) else -1
                if self.tracks:
                    way.side = 1 if (b.x if way.lane_x is None else way.lane_x) > a.x else -1
            elif a.lane and a.last >= b.row - 1:
                way.lane_x = a.x
            elif b.lane:
                way.lane_x = b.x
            else:
                rows = range(a.row + 1, b.row)
                way.side = -1
                way.lane_x = min(self.left[r] for r in rows) - 22
                for r in rows:
                    self.left[r] = way.lane_x
                self.left[rows[len(rows) // 2]] -= self.label_width[way.edge.id] + 10
        self._ports(ways)
        return ways

    def _ports(self, ways: list[_Way]) -> None:
        """Where each edge leaves and enters: the middle if it runs straight down, else off it."""
        used: dict[tuple[str, str, int], int] = {}
        slots: list[list[list[tuple[int, int]]]] = [[] for _ in range(self.rows)]
        for way in ways:
            a, b = way.source, way.target
            straight_out = way.straight or way.lane_x == a.x
            straight_in = way.straight or way.lane_x == b.x or (
                way.lane_x is None and b.lane > 0 and not a.lane)
            way.from_x = a.x if straight_out else self._port(used, a, "out", way.side)
            side_in = 1 if a.lane > b.lane else way.side if b.lane <= a.lane else -1
            way.to_x = b.x if straight_in else self._port(used, b, "in", side_in)
            if way.straight:
                continue
            turn = way.to_x if way.lane_x is None else way.lane_x
            if not (straight_out and way.lane_x is not None):
                way.out_slot = 1 + _free_track(slots[a.row], way.from_x, turn)
            if way.lane_x is not None and not straight_in:
                way.in_slot = 1 + _free_track(slots[b.row - 1], turn, way.to_x)
        self.leaving = used
        self.slots = [len(tracks) for tracks in slots]

    @staticmethod
    def _port(used: dict[tuple[str, str, int], int], block: _Block, end: str, side: int) -> int:
        key = (block.card.id, end, side)
        n = used[key] = used.get(key, 0) + 1
        return block.x + side * max(14, block.w // 2 - 4 - 14 * n)

    def _heights(self, ways: list[_Way]) -> None:
        """y of each row, with room between rows for labels, turns, and the titles of modules."""
        tall = [0] * self.rows
        for block in self.blocks.values():
            tall[block.row] = max(tall[block.row], block.height)
        spans = self._group_rows()
        opens, closes = [0] * self.rows, [0] * self.rows
        self.opens = opens
        for first, last in spans.values():
            opens[first] += 1
            closes[last] += 1
        labelled = self.labelled = [False] * self.rows
        for way in ways:
            if way.edge.text:
                labelled[way.source.row] = True
        self.top, self.tall = [0] * self.rows, tall
        self.channel = [0] * self.rows      # y below row r and below the boxes that end there
        y = 0
        for r in range(self.rows):
            y += opens[r] * (_BOX_TITLE + 4)
            self.top[r] = y
            y += tall[r] + closes[r] * _BOX_PAD
            self.channel[r] = y
            y += (self.room + 12 if labelled[r] else self.gap) + 9 * self.slots[r]

    def _set(self, block: _Block) -> None:
        middle = self.top[block.row] + self.tall[block.row] // 2
        self.cards[block.card.id] = box = Box(block.x - block.w // 2, middle - block.h // 2,
                                              block.w, block.h)
        for side, cards in ((-1, block.left), (1, block.right)):
            y = middle - (sum(h for _, _, h in cards) + 14 * (len(cards) - 1)) // 2
            for card, w, h in cards:
                x = box.x - _SIDE_GAP - w if side < 0 else box.right + _SIDE_GAP
                self.cards[card.id] = Box(x, y, w, h)
                y += h + 14

    # ---- modules
    def _group_rows(self) -> dict[str, tuple[int, int]]:
        """First and last row of each module, inner ones included."""
        rows: dict[str, list[int]] = {g.id: [] for g in self.diagram.groups}
        for block in self.blocks.values():
            if block.card.group:
                rows[block.card.group].append(block.row)
        for g in reversed(self.diagram.groups):
            if g.parent:
                rows[g.parent] += rows[g.id]
        return {name: (min(r), max(r)) for name, r in rows.items() if r}

    def _groups(self) -> tuple[dict[str, Box], tuple[str, ...]]:
        around: dict[str, list[Box]] = {g.id: [] for g in self.diagram.groups}
        inside: dict[str, set[str]] = {g.id: set() for g in self.diagram.groups}
        for c in self.diagram.cards:
            if c.group:
                around[c.group].append(self.cards[c.id])
                inside[c.group].add(c.id)
        boxes: dict[str, Box] = {}
        unboxed = []
        for g in reversed(self.diagram.groups):
            if not around[g.id]:
                continue
            title = _text_width(g.title, GROUP_SIZE, bold=True) + _text_width(g.note, ROW_SIZE)
            box = _bounds(around[g.id], math.ceil(title) + 50)
            others = (self.cards[c.id] for c in self.diagram.cards if c.id not in inside[g.id])
            if any(box.overlaps(other) for other in others):
                unboxed.append(g.id)
            else:
                boxes[g.id] = box
            if g.parent:
                around[g.parent] += [box] if g.id in boxes else around[g.id]
                inside[g.parent] |= inside[g.id]
        return boxes, tuple(reversed(unboxed))

    # ---- routes
    def _side_routes(self) -> Iterable[Route]:
        """Edges between a card and what stands beside it: across, with a step if need be."""
        for e in self.diagram.edges:
            if e.source in self.blocks or e.target not in self.blocks:
                continue
            a, b = self.cards[e.source], self.cards[e.target]
            left = a.x < b.x
            start = a.right if left else a.x
            end = b.x if left else b.right
            y = a.y + a.h // 2
            inside = min(max(y, b.y + 12), b.bottom - 12)
            turn = (start + end) // 2
            points = ((start, y), (end, y)) if y == inside else (
                (start, y), (turn, y), (turn, inside), (end, inside))
            yield Route(e.id, points)

    def _route(self, way: _Way) -> Route:
        a, b = self.cards[way.edge.source], self.cards[way.edge.target]
        if way.straight:
            points = ((way.from_x, a.bottom), (way.to_x, b.y))
            y = self.channel[way.source.row] + 17
            if self.leaving.get((way.edge.source, "out", 1), 0) > 1:    # they would cross it
                return Route(way.edge.id, points, (way.from_x - 9, y), "end")
            return Route(way.edge.id, points, (way.from_x + 9, y))
        out_y = self._slot_y(way.source.row, way.out_slot)
        if way.lane_x is None:
            corners = [(way.from_x, a.bottom), (way.from_x, out_y), (way.to_x, out_y),
                       (way.to_x, b.y)]
            label, anchor = self._turn_label(way, out_y)
            if self.leaving.get((way.edge.source, "out", way.side), 0) > 1 and self.tracks:
                anchor = ""
        else:
            in_y = self._slot_y(way.target.row - 1, way.in_slot)
            corners = [(way.from_x, a.bottom), (way.from_x, out_y), (way.lane_x, out_y),
                       (way.lane_x, in_y), (way.to_x, in_y), (way.to_x, b.y)]
            if self.tracks:
                return Route(way.edge.id, _simplified(corners), (way.from_x, out_y), "")
            rows = range(way.source.row + 1, way.target.row)
            r = rows[len(rows) // 2]
            y = self.top[r] + self.tall[r] // 2
            label, anchor = ((way.lane_x - 9, y), "end") if way.side < 0 else (
                (way.from_x + 9, self.channel[way.source.row] + 17), "start")
        return Route(way.edge.id, _simplified(corners), label, anchor)

    def _turn_label(self, way: _Way, out_y: int) -> tuple[tuple[int, int], str]:
        """Above the horizontal piece at its far end, or beside the first piece if that is short."""
        room = abs(way.to_x - way.from_x) - self.label_width[way.edge.id]
        if way.target.lane > way.source.lane and room > 30:
            return (way.to_x - 10, out_y - 19 if way.edge.gradient else out_y - 6), "end"
        return (way.from_x + 9, self.channel[way.source.row] + 17), "start"

    def _slot_y(self, row: int, slot: int) -> int:
        labelled = self.room if self.labelled[row] else self.gap - 12
        return self.channel[row] + labelled - 4 + 9 * slot

    # ---- columns side by side
    def _bottom(self, row: int) -> int:
        """y between a row and the next, above the boxes that begin there."""
        return self.top[row + 1] - 6 - self.opens[row + 1] * (_BOX_TITLE + 4)

    def _free_rows(self) -> list[int]:
        """The rows after which no module is cut."""
        spans = self._group_rows().values()
        return [r for r in range(self.rows - 1) if not any(a <= r < b for a, b in spans)]

    def _folded_back(self, routes: list[Route]) -> list[Route]:
        """An encoder-decoder as a U: down on the left, up on the right, and skips across.

        Empty if there are no two skips, each inside the one before it, or if a card is in the way.
        """
        half, middle = self.channel[-1] / 2, -1
        skips: list[tuple[int, int, str]] = []
        for r in sorted(self._free_rows(), key=lambda r: abs(self.channel[r] - half)):
            over = [(self.blocks[e.source].row, -self.blocks[e.target].row, e.id)
                    for e in self.between
                    if self.blocks[e.source].row <= r < self.blocks[e.target].row]
            skips = sorted(s for s in over if s[1] < -s[0] - 1 or s[2] not in self._trunk_edges())
            if len(skips) > 1 and len(over) == len(skips) + 1 and all(
                    a[0] < b[0] and a[1] < b[1] for a, b in zip(skips, skips[1:], strict=False)):
                middle = r
                break
        if middle < 0:
            return []
        turn, shift = self._bottom(middle), self._across(routes)
        between = max(b.right for b in self.cards.values() if b.y < turn) + 14
        cards = {name: b if b.y < turn else Box(b.x + shift, 2 * turn - b.bottom, b.w, b.h)
                 for name, b in self.cards.items()}

        def moved(x: int, y: int) -> tuple[int, int]:
            return (x, y) if y < turn else (x + shift, 2 * turn - y)

        ends = {e.id: (cards[e.source], cards[e.target]) for e in self.between}
        order = {name: k for k, (_, _, name) in enumerate(skips)}
        out = []
        for route in routes:
            points = [moved(x, y) for x, y in route.points]
            label = moved(*route.label)
            if route.edge in order:
                a, b = ends[route.edge]
                y, to = a.y + a.h // 2, b.y + b.h // 2
                x = between + 9 * order[route.edge]
                points = [(a.right, y), (x, y), (x, to), (b.x, to)]
                label, route = (x + 9, to - 22), replace(route, anchor="start")
            elif (route.points[0][1] < turn) != (route.points[-1][1] < turn):
                points = [points[0], (points[0][0], turn), (points[-1][0], turn), points[-1]]
                label = points[0][0] + 9, turn - 30
            out.append(Route(route.edge, _simplified(points), label, route.anchor))
            for (ax, ay), (bx, by) in zip(points, points[1:], strict=False):
                way = Box(min(ax, bx), min(ay, by) + 1, max(1, abs(bx - ax)),
                          max(1, abs(by - ay) - 2))
                if route.edge in order and any(way.overlaps(c.moved(1, 1)) and c not in (
                        *ends[route.edge],) for c in cards.values()):
                    return []
        self.cards = cards
        return out

    def _trunk_edges(self) -> set[str]:
        return {e.id for e in self.between if e.source in self.trunk and e.target in self.trunk}

    def _across(self, routes: list[Route]) -> int:
        """Width of a column, with room for lines between two."""
        xs = [x for b in self.cards.values() for x in (b.x, b.right)]
        xs += [x for r in routes for x, _ in r.points]
        return max(xs) - min(xs) + 76

    def _wrapped(self, routes: list[Route]) -> list[Route]:
        """Cut the rows into columns, so that the page comes near its aspect; no module is cut."""
        left = min([b.x for b in self.cards.values()] + [x for r in routes for x, _ in r.points])
        wide, tall, free = self._across(routes), self.channel[-1], self._free_rows()
        aspect = self.diagram.aspect
        wanted = 1 / aspect if self.turned else aspect

        def cuts(k: int) -> list[int]:
            near = (min(free, key=lambda r: abs(self.channel[r] - tall * n / k))
                    for n in range(1, k))
            return sorted(set(near))

        def misses(k: int) -> float:
            starts = [0, *(self.top[r + 1] for r in cuts(k)), tall]
            high = max(b - a for a, b in zip(starts, starts[1:], strict=False)) + 60
            return abs(math.log((len(starts) - 1) * wide / high / wanted))

        places = cuts(min(range(1, _MOST_COLUMNS + 1 if free else 2), key=misses))
        ends = [self._bottom(r) for r in places]

        def column(y: int) -> int:
            return sum(y > end for end in ends)

        def moved(x: int, y: int, c: int) -> tuple[int, int]:
            return x + c * wide, y - (ends[c - 1] - 34 if c else 0)

        self.cards = {name: Box(*moved(b.x, b.y, column(b.y)), b.w, b.h)
                      for name, b in self.cards.items()}
        slots, out = [0] * len(ends), []
        for route in routes:
            points = [moved(*route.points[0], column(route.points[0][1]))]
            for (_, before), (x, y) in zip(route.points, route.points[1:], strict=False):
                for c in range(column(before), column(y)):      # down, across and up again
                    slots[c] += 1
                    gutter = left + (c + 1) * wide - 14 - 7 * slots[c]
                    low = moved(x, ends[c], c)[1] + 5 * slots[c]
                    high = moved(x, ends[c], c + 1)[1] - 5 * slots[c]
                    points += [(x + c * wide, low), (gutter, low), (gutter, high),
                               (x + (c + 1) * wide, high)]
                points.append(moved(x, y, column(y)))
            label = moved(*route.label, column(route.label[1]))
            out.append(Route(route.edge, _simplified(points), label, route.anchor))
        return out

    def _shifted(self, groups: dict[str, Box], unboxed: tuple[str, ...],
                 routes: list[Route]) -> Layout:
        """Everything moved so that the picture begins at its margin."""
        bodies = _bounds([*self.cards.values(), *groups.values()], 0, pad=0, title=0)
        xs = [x for route in routes for x, _ in route.points]
        for route in routes:
            w = self.label_width[route.edge]
            if w and route.anchor:
                xs.append(route.label[0] + (w if route.anchor == "start" else -w))
        ys = [y for route in routes for _, y in route.points]
        low, high = min([bodies.x, *xs]), max([bodies.right, *xs])
        first, last = min([bodies.y, *ys]), max([bodies.bottom, *ys])
        placed = Layout(0, 0, self.cards, {g.id: groups[g.id] for g in self.diagram.groups
                                           if g.id in groups}, tuple(routes),
                        unboxed)
        return placed.moved(MARGIN - low, MARGIN - first, high - low + 2 * MARGIN,
                            last - first + 2 * MARGIN)


def _free_track(tracks: list[list[tuple[int, int]]], start: int, end: int) -> int:
    """The first of some parallel tracks on which nothing is between two places; it is taken."""
    low, high = min(start, end) - 9, max(start, end) + 9
    k = next((k for k, taken in enumerate(tracks)
              if all(high <= a or b <= low for a, b in taken)), len(tracks))
    if k == len(tracks):
        tracks.append([])
    tracks[k].append((low, high))
    return k


def _bounds(boxes: list[Box], least: int, *, pad: int = _BOX_PAD, title: int = _BOX_TITLE) -> Box:
    x, y = min(b.x for b in boxes) - pad, min(b.y for b in boxes) - title
    right, bottom = max(b.right for b in boxes) + pad, max(b.bottom for b in boxes) + pad
    return Box(x, y, max(right - x, least), bottom - y)


def _simplified(points: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Corners only: no point twice, none in the middle of a straight piece."""
    kept: list[tuple[int, int]] = []
    for p in points:
        if kept and kept[-1] == p:
            continue
        if len(kept) > 1 and (kept[-2][0] == kept[-1][0] == p[0]
                              or kept[-2][1] == kept[-1][1] == p[1]):
            kept.pop()
        kept.append(p)
    return tuple(kept)
