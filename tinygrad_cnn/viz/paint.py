"""A diagram and its layout as strokes: rectangles, polygons, lines and words, with colour roles.

The SVG writer and the matplotlib writer both read these, so the own layout looks the same in each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tinygrad_cnn.viz import spine
from tinygrad_cnn.viz.diagram import Card, Diagram, Edge, Group, Row
from tinygrad_cnn.viz.dot import LEGEND_NAMES, card_colours, has_scale, legend_strips
from tinygrad_cnn.viz.palette import STRIPS
from tinygrad_cnn.viz.spine import Box, Layout, Route
from tinygrad_cnn.viz.text import clean, wide, width

__all__ = ["Drawing", "Line", "Piece", "Polygon", "Rectangle", "Words", "paint"]

Point = tuple[float, float]
_TITLE, _SUBTITLE, _HEAD = 24.0, 13.0, 78
_ARROW, _HALF_ARROW, _APART = 8.0, 3.6, 2.2
_LEGEND_ROW = 24


@dataclass(frozen=True)
class Rectangle:
    """A box with round corners; ``line`` may be empty."""

    x: float
    y: float
    w: float
    h: float
    fill: str
    line: str = ""
    radius: float = 0.0
    thick: float = 1.2
    dashed: bool = False


@dataclass(frozen=True)
class Polygon:
    """A filled polygon: an arrow head."""

    points: tuple[Point, ...]
    fill: str


@dataclass(frozen=True)
class Line:
    """A line with round corners."""

    points: tuple[Point, ...]
    line: str
    thick: float = 1.6
    radius: float = 9.0


@dataclass(frozen=True)
class Words:
    """A run of text; ``y`` is its base line, ``x`` its start, middle or end."""

    x: float
    y: float
    text: str
    size: float
    colour: str
    bold: bool = False
    anchor: str = "start"


Stroke = Rectangle | Polygon | Line | Words


@dataclass(frozen=True)
class Piece:
    """Strokes that belong together: one card, one edge, one module."""

    id: str
    kind: str
    tip: str
    strokes: tuple[Stroke, ...]


@dataclass(frozen=True)
class Drawing:
    """A finished picture, back to front."""

    width: int
    height: int
    title: str
    pieces: tuple[Piece, ...]


def paint(diagram: Diagram, layout: Layout | None = None) -> Drawing:
    """Draw a diagram where its layout says.

    Parameters
    ----------
    diagram : Diagram
        What to draw.
    layout : Layout, optional
        The own layout of the diagram, if it is already known.
    """
    places = spine.layout(diagram) if layout is None else layout
    words = _heading(diagram)
    legend = _legend(diagram)
    full = math.ceil(max(places.width, _span(words) + 40, _span(legend) + 40))
    shift = (full - places.width) // 2
    below = _HEAD + places.height
    pieces = [Piece("heading", "heading", "", tuple(_moved(words, full / 2, 0.0)))]
    pieces += [_move(p, shift, _HEAD - 24) for p in _body(diagram, places)]
    pieces.append(Piece("legend", "legend", "legend",
                        tuple(_moved(legend, full / 2 - _span(legend) / 2, below - 24.0))))
    return Drawing(full, below + _legend_height(legend) + 8, clean(diagram.title), tuple(pieces))


def _body(diagram: Diagram, places: Layout) -> Iterator[Piece]:
    for g in diagram.groups:
        if g.id in places.groups:
            yield _group(g, places.groups[g.id], places)
        elif g.id in places.unboxed:
            yield from _bare_title(g, diagram, places)
    edges = {e.id: e for e in diagram.edges}
    for route in places.routes:
        yield _edge(edges[route.edge], route)
    for card in diagram.cards:
        yield _card(card, places.cards[card.id])


# ---- modules and cards ---------------------------------------------------------------------------

def _group(g: Group, box: Box, places: Layout) -> Piece:
    title, note = clean(g.title), clean(g.note)
    long = width(title, spine.GROUP_SIZE, bold=True)
    starts = [box.x + 14, *(x + 10 for x in _lines_through(places, box))]
    start = next((x for x in starts if not _crossed(places, x, x + long, box.y + 17, near=4)),
                 starts[0])
    strokes: list[Stroke] = [
        Rectangle(box.x, box.y, box.w, box.h, "module_inner" if g.parent else "module",
                  "module_line", 14),
        Words(start, box.y + 21, title, spine.GROUP_SIZE, "ink", bold=True)]
    first = start + 12 + long
    for words in (note, note.rpartition(" · ")[2]):
        place = _clear_place(places, box, first, width(words, spine.ROW_SIZE))
        if words and place is not None:
            strokes.append(Words(place, box.y + 21, words, spine.ROW_SIZE, "muted"))
            break
    return Piece(g.id, "module", f"{g.path or g.title} | {g.note}", tuple(strokes))


def _clear_place(places: Layout, box: Box, first: float, long: float) -> float | None:
    """Where a note fits in the head of a box off every line: beside the title, or at the right."""
    return next((x for x in (first, box.right - 14 - long)
                 if x >= first and not _crossed(places, x, x + long, box.y + 17)), None)


def _lines_through(places: Layout, box: Box) -> list[int]:
    """Where edges run down through the head of a box, from the left."""
    return sorted({ax for route in places.routes
                   for (ax, ay), (bx, by) in zip(route.points, route.points[1:], strict=False)
                   if ax == bx and box.x < ax < box.right
                   and min(ay, by) <= box.y + 17 <= max(ay, by)})


def _crossed(places: Layout, low: float, high: float, y: float, near: float = 14) -> bool:
    """Whether an edge runs down through the words between ``low`` and ``high`` at ``y``."""
    return any(ax == bx and low - near <= ax <= high + near and min(ay, by) <= y <= max(ay, by)
               for route in places.routes
               for (ax, ay), (bx, by) in zip(route.points, route.points[1:], strict=False))


def _bare_title(g: Group, diagram: Diagram, places: Layout) -> Iterator[Piece]:
    """The name of a module without a box, above its first card."""
    inner = {g.id}
    for other in diagram.groups:
        if other.parent in inner:
            inner.add(other.id)
    first = next((c for c in diagram.cards if c.group in inner), None)
    if first is not None:
        box = places.cards[first.id]
        yield Piece(g.id, "module", g.path or g.title, (
            Words(box.x + 4, box.y - 7, clean(g.title), spine.ROW_SIZE, "muted", bold=True),))


def _card(card: Card, box: Box) -> Piece:
    fill, line = card_colours(card)
    strokes: list[Stroke] = []
    x, y, w, h = box.x, box.y, box.w, box.h
    if card.kind == "stack":                # two borders around the card's own
        for k in (0, 4):
            strokes.append(Rectangle(x + k, y + k, w - 2 * k, h - 2 * k, "card", "fold_line",
                                     18 - k))
        x, y, w, h, line = x + 8, y + 8, w - 16, h - 16, "fold_line"
    strokes.append(Rectangle(x, y, w, h, fill, line, 10, 2.2 if card.change else 1.2, card.broken))
    strip = spine.strip_width(card)
    strokes.append(Rectangle(x + 7, y + 7, strip, h - 14, STRIPS[card.family], "", 3))
    if card.badge:
        strokes.append(Words(x + 7 + strip / 2, y + h / 2 + 6, card.badge, 16.5, "badge", bold=True,
                             anchor="middle"))
    left, right = x + strip + 16, x + w - 11
    strokes.append(Words(left, y + 23, clean(card.title), spine.TITLE_SIZE, "ink", bold=True))
    if card.tag:
        strokes.append(Words(right, y + 22, clean(card.tag), spine.TAG_SIZE, "muted", anchor="end"))
    top = y + 32
    for row in card.rows:
        strokes.extend(_row(row, left, right, top))
        top += spine.row_height(row)
    return Piece(card.id, f"card {card.kind} {card.family}", card.tip, tuple(strokes))


def _row(row: Row, left: float, right: float, top: float) -> Iterator[Stroke]:
    size, base = spine.ROW_SIZE, top + 12
    if row.kind == "text":
        x = left
        for text, role, bold in ((row.text, "muted", False), (row.hot, "hot", True),
                                 (row.after, "muted", False)):
            if text:
                yield Words(x, base, clean(text), size, role, bold)
                x += width(clean(text), size, bold=bold)
    elif row.kind == "warning":
        yield Rectangle(left - 4, top + 1, right - left + 8, 18, "warn_fill", "", 4)
        yield Words(left + 1, top + 14, "! " + clean(row.text), size, "warn", bold=True)
    elif row.kind == "bar":
        filled = max(2.0, round(spine.BAR * min(1.0, row.fraction), 1))
        yield Rectangle(left, top + 5, spine.BAR, 7, "track", "", 3.5)
        yield Rectangle(left, top + 5, max(filled, 7.0), 7, f"ramp{row.levels[0]}", "", 3.5)
        yield Words(right, base, clean(row.text), spine.SMALL_SIZE, "grad_text", anchor="end")
    else:
        for k, level in enumerate(row.levels):
            yield Rectangle(left + k * (spine.SQUARE + 2), top + 3, spine.SQUARE, 14,
                            f"ramp{level}", "", 2)
        yield Words(right, base + 3, clean(row.text), spine.SMALL_SIZE, "grad_text", anchor="end")


# ---- edges ---------------------------------------------------------------------------------------

def _edge(e: Edge, route: Route) -> Piece:
    points: tuple[Point, ...] = tuple((float(x), float(y)) for x, y in route.points)
    strokes: list[Stroke] = []
    if e.level < 0:
        strokes += _arrow(points, "line")
    else:
        strokes += _arrow(_parallel(points, -_APART), "line")
        strokes += _arrow(_parallel(points, _APART)[::-1], f"ramp{e.level}")
    x, y = route.label
    if e.text:
        strokes.append(Words(x, y, clean(e.text), spine.EDGE_SIZE, "line", anchor=route.anchor))
    if e.text and e.gradient:
        strokes.append(Words(x, y + 13, f"grad {e.gradient}", spine.SMALL_SIZE, "grad_text",
                             anchor=route.anchor))
    return Piece(e.id, "edge", e.tip, tuple(strokes))


def _arrow(points: tuple[Point, ...], colour: str) -> tuple[Stroke, ...]:
    """A line and the head at its end; the line stops inside the head."""
    (ax, ay), (bx, by) = points[-2], points[-1]
    length = math.hypot(bx - ax, by - ay) or 1.0
    ux, uy = (bx - ax) / length, (by - ay) / length
    foot = (bx - ux * _ARROW, by - uy * _ARROW)
    head = ((bx, by), (foot[0] - uy * _HALF_ARROW, foot[1] + ux * _HALF_ARROW),
            (foot[0] + uy * _HALF_ARROW, foot[1] - ux * _HALF_ARROW))
    return Line((*points[:-1], foot), colour), Polygon(head, colour)


def _parallel(points: tuple[Point, ...], d: float) -> tuple[Point, ...]:
    """The same way, ``d`` to the right of itself; all pieces run along an axis."""
    normals = []
    for (ax, ay), (bx, by) in zip(points, points[1:], strict=False):
        length = math.hypot(bx - ax, by - ay) or 1.0
        normals.append((-(by - ay) / length, (bx - ax) / length))
    out = []
    for k, (x, y) in enumerate(points):
        before, after = normals[max(0, k - 1)], normals[min(k, len(normals) - 1)]
        if before == after:
            out.append((x + before[0] * d, y + before[1] * d))
        else:
            out.append((x + (before[0] + after[0]) * d, y + (before[1] + after[1]) * d))
    return tuple(out)


# ---- heading and legend --------------------------------------------------------------------------

def _heading(diagram: Diagram) -> list[Stroke]:
    return [Words(0, 44, clean(diagram.title), _TITLE, "ink", bold=True, anchor="middle"),
            Words(0, 70, clean(diagram.subtitle, 200), _SUBTITLE, "muted", anchor="middle")]


def _legend(diagram: Diagram) -> list[Stroke]:
    """Strips and scale, then what the lines mean, in a frame that begins at (0, 0)."""
    strokes: list[Stroke] = []
    x = 16.0
    for strip in legend_strips(diagram):
        strokes.append(Rectangle(x, 15, 18, 12, strip, "", 2))
        strokes.append(Words(x + 25, 25, LEGEND_NAMES[strip], spine.ROW_SIZE, "muted"))
        x += 25 + width(LEGEND_NAMES[strip], spine.ROW_SIZE) + 20
    rows = [x]
    x, y = 16.0, 15.0 + _LEGEND_ROW
    if has_scale(diagram):
        s = diagram.scale
        strokes.append(Words(x, y + 10, f"{s.name}  {s.low}", spine.ROW_SIZE, "grad_text"))
        x += width(f"{s.name}  {s.low}", spine.ROW_SIZE) + 8
        for k in range(5):
            strokes.append(Rectangle(x + 30 * k, y, 30, 12, f"ramp{k}"))
        x += 158
        strokes.append(Words(x, y + 10, s.high, spine.ROW_SIZE, "grad_text"))
        x += width(s.high, spine.ROW_SIZE) + 20
    for note in diagram.notes:
        strokes.append(Words(x, y + 10, note, spine.ROW_SIZE, "muted"))
        x += width(note, spine.ROW_SIZE) + 18
    rows.append(x)
    frame = Rectangle(0, 0, max(rows) - 2, 15 + 2 * _LEGEND_ROW, "card", "card_line", 10)
    return [frame, *strokes]


def _legend_height(legend: list[Stroke]) -> int:
    frame = legend[0]
    assert isinstance(frame, Rectangle), "a legend begins with its frame"
    return math.ceil(frame.h)


def _span(strokes: list[Stroke]) -> float:
    first = strokes[0]
    if isinstance(first, Rectangle):
        return first.w
    return max(wide(((s.text, s.size, s.bold),)) for s in strokes if isinstance(s, Words))


def _moved(strokes: list[Stroke] | tuple[Stroke, ...], dx: float, dy: float) -> Iterator[Stroke]:
    for s in strokes:
        if isinstance(s, (Line, Polygon)):
            points = tuple((x + dx, y + dy) for x, y in s.points)
            yield (Line(points, s.line, s.thick, s.radius) if isinstance(s, Line)
                   else Polygon(points, s.fill))
        else:
            yield replace(s, x=s.x + dx, y=s.y + dy)


def _move(piece: Piece, dx: float, dy: float) -> Piece:
    return Piece(piece.id, piece.kind, piece.tip, tuple(_moved(piece.strokes, dx, dy)))
