"""SVG text: written from a drawing of our own, or finished from what an engine wrote.

Either way there is no script, event, link or URL in it, and no fixed size; the colours are
presentation attributes in the light theme, which rules in a style sheet turn dark for a reader who
prefers that.
"""

from __future__ import annotations

import html
import re

from tinygrad_cnn.errors import VizError
from tinygrad_cnn.viz.paint import Drawing, Line, Piece, Polygon, Rectangle, Stroke
from tinygrad_cnn.viz.palette import LIGHT as C
from tinygrad_cnn.viz.palette import dark_css, to_dark
from tinygrad_cnn.viz.text import escape

__all__ = ["THEMES", "embed", "embedded", "finish", "from_drawing"]

THEMES = ("auto", "light", "dark")
_FONT = "Arial, Helvetica, Liberation Sans, sans-serif"
_METADATA = re.compile(r'<metadata id="[^"]*graph">(.*?)</metadata>', re.DOTALL)


def from_drawing(drawing: Drawing, *, figure: str = "f1", theme: str = "auto", css: str = "",
                 label: str = "") -> str:
    """Write a drawing as one SVG element.

    Parameters
    ----------
    drawing : Drawing
        What to write.
    figure : str, default "f1"
        Prefix of every id, and the scope of the style.
    theme : str, default "auto"
        ``light``, ``dark``, or the reader's own.
    css : str
        More rules, for an animation.
    label : str
        What a screen reader calls the picture; the title if empty.
    """
    body = "\n".join(_piece(p, figure) for p in drawing.pieces)
    w, h = drawing.width, drawing.height
    text = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" '
            f'font-family="{_FONT}">\n<rect width="{w}" height="{h}" fill="{C["page"]}"/>\n'
            f"{body}\n</svg>\n")
    return finish(text, figure=figure, theme=theme, css=css, label=label or drawing.title, width=w)


def _piece(piece: Piece, figure: str) -> str:
    title = f"<title>{escape(piece.tip, 300)}</title>" if piece.tip else ""
    kind = f' class="{piece.kind}"' if piece.kind else ""
    return f'<g id="{figure}-{piece.id}"{kind}>{title}{"".join(map(_stroke, piece.strokes))}</g>'


def _mark(role: str) -> str:
    """Strokes that show a gradient have a class: an animation lets them appear."""
    return ' class="g"' if role.startswith(("ramp", "grad")) else ""


def _stroke(s: Stroke) -> str:
    if isinstance(s, Rectangle):
        radius = f' rx="{_n(s.radius)}"' if s.radius else ""
        line = f' stroke="{C[s.line]}" stroke-width="{_n(s.thick)}"' if s.line else ""
        dash = ' stroke-dasharray="5 4"' if s.dashed else ""
        return (f'<rect x="{_n(s.x)}" y="{_n(s.y)}" width="{_n(s.w)}" height="{_n(s.h)}"{radius} '
                f'fill="{C[s.fill]}"{line}{dash}{_mark(s.fill)}/>')
    if isinstance(s, Polygon):
        points = " ".join(f"{_n(x)},{_n(y)}" for x, y in s.points)
        return f'<polygon points="{points}" fill="{C[s.fill]}"{_mark(s.fill)}/>'
    if isinstance(s, Line):
        return (f'<path d="{_way(s)}" fill="none" stroke="{C[s.line]}" '
                f'stroke-width="{_n(s.thick)}"{_mark(s.line)}/>')
    body = escape(s.text, 210)
    if not body:
        return ""
    bold = ' font-weight="bold"' if s.bold else ""
    anchor = f' text-anchor="{s.anchor}"' if s.anchor != "start" else ""
    return (f'<text x="{_n(s.x)}" y="{_n(s.y)}" font-size="{_n(s.size)}"{bold}{anchor} '
            f'fill="{C[s.colour]}"{_mark(s.colour)} xml:space="preserve">{body}</text>')


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _way(s: Line) -> str:
    """A path with each corner rounded, by at most half of its shorter leg."""
    parts = [f"M{_n(s.points[0][0])} {_n(s.points[0][1])}"]
    for (ax, ay), (bx, by), (cx, cy) in zip(s.points, s.points[1:], s.points[2:], strict=False):
        first, second = abs(bx - ax) + abs(by - ay), abs(cx - bx) + abs(cy - by)
        r = min(s.radius, first / 2, second / 2)
        if r < 1:
            parts.append(f"L{_n(bx)} {_n(by)}")
            continue
        before = (bx + (ax - bx) / first * r, by + (ay - by) / first * r)
        after = (bx + (cx - bx) / second * r, by + (cy - by) / second * r)
        parts.append(f"L{_n(before[0])} {_n(before[1])}Q{_n(bx)} {_n(by)} "
                     f"{_n(after[0])} {_n(after[1])}")
    parts.append(f"L{_n(s.points[-1][0])} {_n(s.points[-1][1])}")
    return "".join(parts)


# ---- finishing -----------------------------------------------------------------------------------

def finish(svg: str, *, figure: str = "f1", theme: str = "auto", css: str = "", label: str = "",
           width: float | None = None) -> str:
    """Make an SVG fit for a page: no prologue, no fixed size, no links; scoped, titled and themed.

    Raises
    ------
    VizError
        If ``theme`` is unknown, or the text holds no SVG.
    """
    if theme not in THEMES:
        raise VizError(f"graph: theme {theme!r} is unknown; choose from {', '.join(THEMES)}")
    start = svg.find("<svg")
    if start < 0:
        raise VizError("graph: the engine wrote no SVG; try engine='spine'")
    head, rest = svg[start:].strip().split(">", 1)
    size = re.search(r'\swidth="([0-9.]+)', head)
    pixels = width or (float(size.group(1)) * 4 / 3 if size else 800)    # engines measure in points
    head = re.sub(r'\s(width|height|id|xmlns:xlink)="[^"]*"', "", head)
    rest = _without_links(re.sub(r"<!--.*?-->\s*", "", rest, flags=re.DOTALL))
    if theme == "dark":
        rest = to_dark(rest)
    css = f"#{figure}{{max-width:100%;height:auto;width:{pixels:.0f}px}}" + css
    if theme == "auto":
        css += f"@media (prefers-color-scheme:dark){{{dark_css(f'#{figure} ')}}}"
    name = escape(label, 400) or "graph"
    return (f'{head} id="{figure}" role="img" aria-label="{name}"><style>{css}</style>'
            f"{rest.rstrip()}\n")


def _without_links(body: str) -> str:
    """What engines write as ``<a xlink:title=…>`` becomes a plain ``<title>``."""
    body = re.sub(r"<title>[^<]*</title>\s*(?=<g id=\"a_)", "", body)
    body = re.sub(r'<g id="a_[^"]*"><a xlink:title="([^"]*)">', r"<g><title>\1</title>", body)
    body = re.sub(r"</a>\s*</g>", "</g>", body)
    return re.sub(r' xlink:[a-z]+="[^"]*"', "", body)


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
