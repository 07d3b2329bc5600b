"""SVG text, written from a diagram and its layout; PNG and PDF are the same, drawn by matplotlib.

There is no script, event, link or URL in it but the data of thumbnails, and no fixed size; the
colors are presentation attributes in the light theme, which a style sheet turns dark for a reader
who prefers that.
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

from tinygrad_cnn.errors import VizError, missing_extra
from tinygrad_cnn.types import Settings
from tinygrad_cnn.viz import layout
from tinygrad_cnn.viz.diagram import Card, Diagram, Edge, Group, Row
from tinygrad_cnn.viz.labels import LIGHT as C
from tinygrad_cnn.viz.labels import STRIPS, clean, dark_css, escape, to_dark, width
from tinygrad_cnn.viz.layout import Box, Layout, Route

__all__ = ["THEMES", "animated", "drawn", "element", "embed", "embedded", "rasterized", "size"]

THEMES = ("auto", "light", "dark")
_FONT = "Arial, Helvetica, Liberation Sans, sans-serif"
_METADATA = re.compile(r'<metadata id="[^"]*graph">(.*?)</metadata>', re.DOTALL)
_TITLE, _SUBTITLE, _HEAD = 24.0, 13.0, 78
_ARROW, _HALF_ARROW, _APART, _CORNER = 8.0, 3.6, 2.2, 9.0
_LEGEND_ROW = 24

Point = tuple[float, float]


def drawn(diagram: Diagram, places: Layout, *, figure: str = "f1", theme: str = "auto",
          css: str = "", label: str = "") -> str:
    """Write a diagram as one SVG element.

    ``figure`` is the prefix of every id and the scope of the style; ``css`` holds more rules;
    ``label`` is what a screen reader says, by default title and subtitle.
    """
    title, subtitle = clean(diagram.title), clean(diagram.subtitle, 200)
    legend, _ = _legend(diagram, 0, 0)
    if diagram.density == "compact":        # what is wider than the graph gives way
        legend = legend if legend + 40 <= places.width else 0.0
        while " · " in subtitle and width(subtitle, _SUBTITLE) + 40 > places.width:
            subtitle = subtitle.rpartition(" · ")[0]
    heading = max(width(title, _TITLE, bold=True), width(subtitle, _SUBTITLE))
    w = math.ceil(max(places.width, heading + 40, legend + 40))
    below, bottom = _HEAD + places.height, (15 + 2 * _LEGEND_ROW) * (legend > 0)
    places = places.moved((w - places.width) // 2, _HEAD - 24, w, places.height)
    pieces = [
        _piece(figure, "heading", "heading", "",
               _text(w / 2, 44, title, _TITLE, "ink", bold=True, anchor="middle")
               + _text(w / 2, 70, subtitle, _SUBTITLE, "muted", anchor="middle")),
        *(_piece(figure, *parts) for parts in _body(diagram, places)),
        _piece(figure, "legend", "legend", "legend",
               _legend(diagram, w / 2 - legend / 2, below - 24)[1] if legend else "")]
    return element(w, below + bottom + 8, pieces, figure=figure, theme=theme, css=css,
                   label=label or f"{diagram.title}: {diagram.subtitle}")


def element(w: int, h: int, pieces: Iterable[str], *, figure: str, theme: str, label: str,
            css: str = "") -> str:
    """One SVG element of a size, with a page behind its pieces."""
    body = (f'\n<rect width="{w}" height="{h}" fill="{C["page"]}"/>\n' + "\n".join(pieces)
            + "\n</svg>")
    return _finished(body, w, h, figure=figure, theme=theme, css=css, label=label)


def _body(diagram: Diagram, places: Layout) -> Iterator[tuple[str, str, str, str]]:
    """Id, kind, tooltip and elements of each module, edge and card, back to front."""
    for g in diagram.groups:
        if g.id in places.groups:
            yield g.id, "module", f"{g.path} | {g.note}", _group(g, places)
        elif g.id in places.unboxed:
            yield g.id, "module", g.path, _bare_title(g, diagram, places)
    edges = {e.id: e for e in diagram.edges}
    # A gradient that its card shows as well is not said twice.
    said = {(card.id, row.text) for card in diagram.cards for row in card.rows if row.kind == "bar"}
    for route in places.routes:
        e = edges[route.edge]
        gradient = e.gradient and f"grad {e.gradient}"
        yield route.edge, "edge", e.tip, _edge(
            e, route, "" if (e.source, gradient) in said else gradient)
    for card in diagram.cards:
        yield (card.id, f"card {card.kind} {card.family}", card.tip,
               _card(card, places.cards[card.id]))


# ---- elements ------------------------------------------------------------------------------------

def _piece(figure: str, name: str, kind: str, tip: str, elements: str) -> str:
    title = f"<title>{escape(tip, 300)}</title>" if tip else ""
    return f'<g id="{figure}-{name}" class="{kind}">{title}{elements}</g>'


def _mark(role: str) -> str:
    """What shows a gradient has a class: an animation lets it appear."""
    return ' class="g"' if role.startswith(("ramp", "grad")) else ""


def _rectangle(x: float, y: float, w: float, h: float, fill: str, line: str = "",
               radius: float = 0, thick: float = 1.2, *, dashed: bool = False) -> str:
    border = f' stroke="{C[line]}" stroke-width="{_n(thick)}"' if line else ""
    return (f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(w)}" height="{_n(h)}"'
            + (f' rx="{_n(radius)}"' if radius else "") + f' fill="{C[fill]}"{border}'
            + (' stroke-dasharray="5 4"' if dashed else "") + f"{_mark(fill)}/>")


def _text(x: float, y: float, text: str, size: float, color: str, *, bold: bool = False,
          anchor: str = "start") -> str:
    body = escape(text, 210)
    if not body:
        return ""
    return (f'<text x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}"'
            + (' font-weight="bold"' if bold else "")
            + (f' text-anchor="{anchor}"' if anchor != "start" else "")
            + f' fill="{C[color]}"{_mark(color)}>{body}</text>')


def _arrow(points: Sequence[Point], color: str) -> str:
    """A line with round corners and the head at its end; the line stops inside the head."""
    (ax, ay), (bx, by) = points[-2], points[-1]
    length = math.hypot(bx - ax, by - ay) or 1.0
    ux, uy = (bx - ax) / length, (by - ay) / length
    foot = (bx - ux * _ARROW, by - uy * _ARROW)
    head = ((bx, by), (foot[0] - uy * _HALF_ARROW, foot[1] + ux * _HALF_ARROW),
            (foot[0] + uy * _HALF_ARROW, foot[1] - ux * _HALF_ARROW))
    corners = " ".join(f"{_n(x)},{_n(y)}" for x, y in head)
    return (f'<path d="{_path([*points[:-1], foot])}" fill="none" stroke="{C[color]}" '
            f'stroke-width="1.6"{_mark(color)}/>'
            f'<polygon points="{corners}" fill="{C[color]}"{_mark(color)}/>')


def _path(points: Sequence[Point]) -> str:
    """A path with each corner rounded, by at most half of its shorter leg."""
    parts = [f"M{_n(points[0][0])} {_n(points[0][1])}"]
    for (ax, ay), (bx, by), (cx, cy) in zip(points, points[1:], points[2:], strict=False):
        first, second = abs(bx - ax) + abs(by - ay), abs(cx - bx) + abs(cy - by)
        r = min(_CORNER, first / 2, second / 2)
        if r < 1:
            parts.append(f"L{_n(bx)} {_n(by)}")
            continue
        before = (bx + (ax - bx) / first * r, by + (ay - by) / first * r)
        after = (bx + (cx - bx) / second * r, by + (cy - by) / second * r)
        parts.append(f"L{_n(before[0])} {_n(before[1])}Q{_n(bx)} {_n(by)} "
                     f"{_n(after[0])} {_n(after[1])}")
    parts.append(f"L{_n(points[-1][0])} {_n(points[-1][1])}")
    return "".join(parts)


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


# ---- modules and cards ---------------------------------------------------------------------------

def _group(g: Group, places: Layout) -> str:
    """The box, its title off the lines that run through its head, and its note where it fits."""
    box, title, note = places.groups[g.id], clean(g.title), clean(g.note)
    long = width(title, layout.GROUP_SIZE, bold=True)
    lines = {ax for route in places.routes
             for (ax, ay), (_, by) in zip(route.points, route.points[1:], strict=False)
             if ay != by and min(ay, by) <= box.y + 17 <= max(ay, by)}

    def clear(low: float, high: float, near: float) -> bool:
        return not any(low - near <= x <= high + near for x in lines)

    starts = [box.x + 14, *(x + 10 for x in sorted(lines) if box.x < x < box.right)]
    start = next((x for x in starts if clear(x, x + long, 4) and x + long + 8 < box.right),
                 starts[0])
    first = start + 12 + long
    words = ""
    for text in (note, note.rpartition(" · ")[2]):
        wide = width(text, layout.ROW_SIZE)
        place = next((x for x in (first, box.right - 14 - wide)
                      if x >= first and clear(x, x + wide, 14)), None)
        if text and place is not None:
            words = _text(place, box.y + 21, text, layout.ROW_SIZE, "muted")
            break
    return (_rectangle(box.x, box.y, box.w, box.h, "module_inner" if g.parent else "module",
                       "module_line", 14)
            + _text(start, box.y + 21, title, layout.GROUP_SIZE, "ink", bold=True) + words)


def _bare_title(g: Group, diagram: Diagram, places: Layout) -> str:
    """The name of a module without a box, above its first card."""
    inner = {g.id}
    inner.update(other.id for other in diagram.groups if other.parent in inner)
    first = next((c for c in diagram.cards if c.group in inner), None)
    if first is None:
        return ""
    box = places.cards[first.id]
    return _text(box.x + 4, box.y - 7, clean(g.title), layout.ROW_SIZE, "muted", bold=True)


def _card(card: Card, box: Box) -> str:
    fill, line = card.colors
    x, y, w, h = box.x, box.y, box.w, box.h
    parts = []
    if card.kind == "stack":                # two borders around the card's own
        parts = [_rectangle(x + k, y + k, w - 2 * k, h - 2 * k, "card", "fold_line", 18 - k)
                 for k in (0, 4)]
        if card.loop:                       # steps over time: the last leads back to the first
            right = x + w
            parts.insert(0, _arrow([(right, y + h - 16), (right + 18, y + h - 16),
                                    (right + 18, y + 16), (right, y + 16)], "line"))
        x, y, w, h, line = x + 8, y + 8, w - 16, h - 16, "fold_line"
    parts.append(_rectangle(x, y, w, h, fill, line, 10, 2.2 if card.change else 1.2,
                            dashed=card.broken))
    strip = layout.strip_width(card)
    parts.append(_rectangle(x + 7, y + 7, strip, h - 14, STRIPS[card.family], "", 3))
    left, right, top = x + strip + 16, x + w - 11, y + 32
    parts += [_text(x + 7 + strip / 2, y + h / 2 + 6, card.badge, 16.5, "badge", bold=True,
                    anchor="middle"),
              _text(left, y + 23, clean(card.title), layout.TITLE_SIZE, "ink", bold=True),
              _text(right, y + 22, clean(card.tag), layout.TAG_SIZE, "muted", anchor="end")]
    for row in card.rows:
        parts.append(_row(row, left, right, top))
        top += layout.ROW_HEIGHTS[row.kind]
    return "".join(parts)


def _row(row: Row, left: float, right: float, top: float) -> str:
    size, base, text = layout.ROW_SIZE, top + 12, clean(row.text)
    if row.kind == "text":
        hot = left + width(text, size)
        after = hot + width(clean(row.hot), size, bold=True)
        return (_text(left, base, text, size, "muted")
                + _text(hot, base, clean(row.hot), size, "hot", bold=True)
                + _text(after, base, clean(row.after), size, "muted"))
    if row.kind == "warning":
        return (_rectangle(left - 4, top + 1, right - left + 8, 18, "warn_fill", "", 4)
                + _text(left + 1, top + 14, "! " + text, size, "warn", bold=True))
    if row.kind == "bar":
        filled = max(7.0, round(layout.BAR * min(1.0, row.fraction), 1))
        return (_rectangle(left, top + 5, layout.BAR, 7, "track", "", 3.5)
                + _rectangle(left, top + 5, filled, 7, f"ramp{row.levels[0]}", "", 3.5)
                + _text(right, base, text, layout.SMALL_SIZE, "grad_text", anchor="end"))
    if row.kind == "picture":
        w, h = layout.picture_size(row.text)
        return (f'<image x="{_n(left)}" y="{_n(top + 4)}" width="{w}" height="{h}" '
                f'preserveAspectRatio="none" image-rendering="pixelated" href="{row.text}"/>')
    if row.kind in ("values", "gradients"):
        color, words = ("line", "muted") if row.kind == "values" else ("ramp2", "grad_text")
        wide, unit = layout.BAR / len(row.levels), 19 / (max(row.levels) or 1)
        columns = ((left + wide * k, max(1.0, unit * n)) for k, n in enumerate(row.levels) if n)
        return (_rectangle(left, top + 23, layout.BAR, 1, "track")
                + "".join(_rectangle(x, top + 23 - h, wide - 1, h, color) for x, h in columns)
                + _text(right, base + 6, text, layout.SMALL_SIZE, words, anchor="end"))
    side = layout.SQUARE
    squares = (_rectangle(left + k * (side + 2), top + 3, side, 14, f"ramp{level}", "", 2)
               for k, level in enumerate(row.levels))
    return "".join(squares) + _text(right, base + 3, text, layout.SMALL_SIZE, "grad_text",
                                    anchor="end")


# ---- edges and legend ----------------------------------------------------------------------------

def _edge(e: Edge, route: Route, gradient: str) -> str:
    if e.level < 0:
        arrows = _arrow(route.points, "line")
    else:
        arrows = (_arrow(_parallel(route.points, -_APART), "line")
                  + _arrow(_parallel(route.points, _APART)[::-1], f"ramp{e.level}"))
    if not e.text or not route.anchor:
        return arrows
    x, y = route.label
    return (arrows
            + _text(x, y, clean(e.text), layout.EDGE_SIZE, "line", anchor=route.anchor)
            + _text(x, y + 13, gradient, layout.SMALL_SIZE, "grad_text", anchor=route.anchor))


def _parallel(points: Sequence[Point], d: float) -> list[Point]:
    """The same way, ``d`` to the right of itself; all pieces run along an axis."""
    normals = []
    for (ax, ay), (bx, by) in zip(points, points[1:], strict=False):
        length = math.hypot(bx - ax, by - ay) or 1.0
        normals.append(((ay - by) / length, (bx - ax) / length))
    out = []
    for (x, y), a, b in zip(points, [normals[0], *normals], [*normals, normals[-1]], strict=True):
        turn = max(0.3, 1 + a[0] * b[0] + a[1] * b[1])
        out.append((x + (a[0] + b[0]) / turn * d, y + (a[1] + b[1]) / turn * d))
    return out


def _legend(diagram: Diagram, x0: float, y0: float) -> tuple[float, str]:
    """Strips and scale, then what the lines mean, in a frame at (x0, y0); and its width."""
    parts, x, y = [], 16.0, 15.0
    for strip, meaning in diagram.legend:
        parts += [_rectangle(x0 + x, y0 + y, 18, 12, strip, "", 2),
                  _text(x0 + x + 25, y0 + y + 10, meaning, layout.ROW_SIZE, "muted")]
        x += 25 + width(meaning, layout.ROW_SIZE) + 20
    upper, x, y = x, 16.0, y + _LEGEND_ROW
    if diagram.has_scale:
        s = diagram.scale
        name = f"{s.name}  {s.low}"
        parts.append(_text(x0 + x, y0 + y + 10, name, layout.ROW_SIZE, "grad_text"))
        x += width(name, layout.ROW_SIZE) + 8
        parts += [_rectangle(x0 + x + 30 * k, y0 + y, 30, 12, f"ramp{k}") for k in range(5)]
        x += 158
        parts.append(_text(x0 + x, y0 + y + 10, s.high, layout.ROW_SIZE, "grad_text"))
        x += width(s.high, layout.ROW_SIZE) + 20
    for note in diagram.notes:
        parts.append(_text(x0 + x, y0 + y + 10, note, layout.ROW_SIZE, "muted"))
        x += width(note, layout.ROW_SIZE) + 18
    w = max(upper, x) - 2
    frame = _rectangle(x0, y0, w, 15 + 2 * _LEGEND_ROW, "card", "card_line", 10)
    return w, frame + "".join(parts)


# ---- finishing -----------------------------------------------------------------------------------

def _finished(body: str, w: int, h: int, *, figure: str, theme: str, css: str, label: str) -> str:
    """An SVG fit for a page: scoped, titled and themed, of no fixed size."""
    css = f"#{figure}{{max-width:100%;height:auto;width:{w}px}}" + css
    if theme == "auto":
        css += f"@media (prefers-color-scheme:dark){{{dark_css(f'#{figure} ')}}}"
    name = escape(label, 400) or "graph"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" font-family="{_FONT}" '
            f'xml:space="preserve" id="{figure}" role="img" aria-label="{name}">'
            f"<style>{css}</style>{to_dark(body) if theme == 'dark' else body}\n")


def size(svg: str) -> tuple[float, float]:
    """Width and height of what `element` wrote, in pixels."""
    w, h = svg.split('viewBox="0 0 ', 1)[1].split('"', 1)[0].split()
    return float(w), float(h)


def embed(svg: str, json_text: str, *, figure: str = "f1") -> str:
    """Put the recording into the picture, so that the picture can be loaded again."""
    head, rest = svg.split("<style>", 1)
    # Two characters that JSON allows and XML does not.
    body = json_text.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")
    return (f'{head}<metadata id="{figure}-graph">{html.escape(body, quote=False)}</metadata>'
            f"<style>{rest}")


def embedded(svg: str) -> str | None:
    """The JSON text that `embed` put in, or None."""
    found = _METADATA.search(svg)
    return html.unescape(found.group(1)) if found else None


# ---- the backward pass in motion -----------------------------------------------------------------

_STEP, _LONGEST, _REST = 0.35, 12.0, 2.0    # seconds


def animated(diagram: Diagram, places: Layout, *, figure: str, theme: str = "auto") -> str:
    """The picture with gradients that appear in the order of the engine, the loss first.

    It needs no script and plays inside an ``<img>``; with reduced motion the end state shows.
    """
    steps = diagram.backward()
    if not steps:
        raise VizError("animate: no gradient was recorded; draw a loss whose graph is alive, or "
                       "record the step with viz.watch()")
    moments: dict[str, int] = {steps[0].target: 0}
    for k, edge in enumerate(steps, start=1):
        moments[edge.id] = k
        moments[edge.source] = k            # a gradient read twice is whole when the last part came
    shown: list[list[str]] = [[] for _ in range(len(steps) + 1)]
    for name, k in moments.items():
        shown[k].append(f"#{figure}-{name} .g")
    play = min(_LONGEST, _STEP * len(shown))
    total = play + _REST
    rules = []
    for k, ids in enumerate(shown):
        begin = 100 * play * k / len(shown) / total
        end = begin + 100 * min(0.25, play / len(shown)) / total
        rules.append(f"@keyframes {figure}k{k}{{0%,{begin:.2f}%{{opacity:0}}"
                     f"{end:.2f}%,100%{{opacity:1}}}}"
                     f"{','.join(ids)}{{animation:{figure}k{k} {total:.2f}s linear infinite}}")
    still = f"@media (prefers-reduced-motion:reduce){{#{figure} .g{{animation:none}}}}"
    return drawn(diagram, places, figure=figure, theme=theme, css="".join(rules) + still,
                 label=f"{diagram.title}: the backward pass, step by step")


# ---- PNG and PDF by matplotlib -------------------------------------------------------------------

_FONTS = ["Arial", "Liberation Sans", "Helvetica", "DejaVu Sans"]
_POINT = 72 / 96                            # of a pixel


def rasterized(svg: str, form: str, *, dpi: int = 144) -> bytes:
    """The bytes of a PNG or PDF of what `drawn` wrote; at 96 dpi a unit is a pixel."""
    try:
        import matplotlib
        from matplotlib import font_manager
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", extra="viz",
                            purpose=f"graphs as {form} without Graphviz") from None
    root = ElementTree.fromstring(svg)
    _, _, w, h = map(float, root.attrib["viewBox"].split())
    known = {f.name for f in font_manager.fontManager.ttflist}      # it warns about the others
    fonts = [name for name in _FONTS if name in known]
    look = {"font.family": fonts, "pdf.fonttype": 42, "text.hinting": "no_hinting"}
    with matplotlib.rc_context(look), \
            warnings.catch_warnings():
        # A character that no font has shows as a box, as everywhere; that is no news.
        warnings.filterwarnings("ignore", "Glyph ")
        figure = Figure(figsize=(w / 96, h / 96))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, w), ylim=(h, 0))
        axes.axis("off")
        draw = _painter(axes, 0.88 if fonts[:1] == ["DejaVu Sans"] else 1.0)    # a wide font
        for order, element in enumerate(root.iter()):
            draw(element.tag.rpartition("}")[2], element.attrib, element.text or "", order)
        out = io.BytesIO()
        figure.savefig(out, format=form, dpi=dpi)
    return out.getvalue()


def _painter(axes: Any, narrow: float) -> Callable[[str, dict[str, str], str, int], None]:
    """A function that draws one element of an SVG that this module wrote."""
    from matplotlib import patches
    from matplotlib.image import imread
    from matplotlib.path import Path

    codes = {"M": [Path.MOVETO], "L": [Path.LINETO], "Q": [Path.CURVE3, Path.CURVE3]}

    def draw(tag: str, a: dict[str, str], text: str, order: int) -> None:
        thick = float(a.get("stroke-width", 0)) * _POINT
        look: Settings = {"facecolor": a.get("fill"), "edgecolor": a.get("stroke", "none"),
                                "linewidth": thick, "zorder": order}
        if tag == "rect":
            x, y, w, h, r = (float(a.get(k, 0)) for k in ("x", "y", "width", "height", "rx"))
            axes.add_patch(patches.FancyBboxPatch(
                (x, y), w, h, boxstyle=f"round,pad=0,rounding_size={r}" if r else "square,pad=0",
                linestyle=(0, (5, 4)) if "stroke-dasharray" in a else "-", **look))
        elif tag == "polygon":
            points = [tuple(map(float, p.split(","))) for p in a["points"].split()]
            axes.add_patch(patches.Polygon(points, alpha=float(a.get("fill-opacity", 1)), **look))
        elif tag == "image":
            x, y, w, h = (float(a[k]) for k in ("x", "y", "width", "height"))
            png = io.BytesIO(base64.b64decode(a["href"].partition(",")[2]))
            axes.imshow(imread(png), cmap="gray", extent=(x, x + w, y + h, y), zorder=order,
                        aspect="auto", interpolation="nearest")
        elif tag == "path":
            steps = re.findall(r"([MLQ])([^MLQ]*)", a["d"])
            numbers = [float(v) for _, values in steps for v in values.split()]
            path = Path(list(zip(numbers[::2], numbers[1::2], strict=True)),
                        [code for letter, _ in steps for code in codes[letter]])
            axes.add_patch(patches.PathPatch(path, capstyle="butt", **look))
        elif tag == "text" and text.strip():
            axes.text(float(a["x"]), float(a["y"]), text, color=a["fill"], zorder=order,
                      fontsize=float(a["font-size"]) * _POINT * narrow, va="baseline",
                      parse_math=False, fontweight=a.get("font-weight", "normal"),
                      ha={"start": "left", "middle": "center", "end": "right"}[
                          a.get("text-anchor", "start")])

    return draw
