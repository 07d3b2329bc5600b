"""PNG and PDF of a drawing of our own, by matplotlib: for machines without any layout engine."""

from __future__ import annotations

import importlib.util
import io
import warnings
from typing import Any

from tinygrad_cnn.errors import missing_extra
from tinygrad_cnn.viz.paint import Drawing, Line, Polygon, Rectangle, Words
from tinygrad_cnn.viz.palette import DARK, LIGHT

__all__ = ["available", "from_drawing"]

_DPI = 72                                   # one unit of the drawing is one point
_FONTS = ["Arial", "Liberation Sans", "Helvetica", "DejaVu Sans"]


def from_drawing(drawing: Drawing, form: str, *, theme: str = "light", dpi: int = 144) -> bytes:
    """The bytes of a PNG or PDF.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", extra="viz",
                            purpose=f"graphs as {form} without Graphviz") from None
    colours = DARK if theme == "dark" else LIGHT
    with matplotlib.rc_context({"font.family": _installed(), "pdf.fonttype": 42}), \
            warnings.catch_warnings():
        # A character that no font has shows as a box, as everywhere; that is no news.
        warnings.filterwarnings("ignore", "Glyph ")
        figure = Figure(figsize=(drawing.width / _DPI, drawing.height / _DPI),
                        facecolor=colours["page"])
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, drawing.width)
        axes.set_ylim(drawing.height, 0)
        axes.axis("off")
        for order, piece in enumerate(drawing.pieces):
            for stroke in piece.strokes:
                _draw(axes, stroke, colours, order)
        out = io.BytesIO()
        figure.savefig(out, format=form, dpi=dpi, facecolor=colours["page"])
    return out.getvalue()


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def _installed() -> list[str]:
    """The wanted fonts that this machine has, so that matplotlib does not warn about the others."""
    from matplotlib import font_manager

    known = {f.name for f in font_manager.fontManager.ttflist}
    return [name for name in _FONTS if name in known]


def _draw(axes: Any, s: Rectangle | Polygon | Line | Words, colours: dict[str, str],
          order: int) -> None:
    from matplotlib import patches

    if isinstance(s, Rectangle):
        r = min(s.radius, s.w / 2, s.h / 2)
        style = f"round,pad=0,rounding_size={r}" if r else "square,pad=0"
        axes.add_patch(patches.FancyBboxPatch(
            (s.x, s.y), s.w, s.h, boxstyle=style, facecolor=colours[s.fill], zorder=order,
            edgecolor=colours[s.line] if s.line else "none", linewidth=s.thick if s.line else 0,
            linestyle=(0, (5, 4)) if s.dashed else "-"))
    elif isinstance(s, Polygon):
        axes.add_patch(patches.Polygon(s.points, facecolor=colours[s.fill], zorder=order,
                                       edgecolor="none"))
    elif isinstance(s, Line):
        xs, ys = zip(*s.points, strict=True)
        axes.plot(xs, ys, color=colours[s.line], linewidth=s.thick, zorder=order,
                  solid_joinstyle="round", solid_capstyle="butt")
    elif s.text.strip():
        axes.text(s.x, s.y, s.text, fontsize=s.size, color=colours[s.colour], zorder=order,
                  fontweight="bold" if s.bold else "normal", va="baseline", parse_math=False,
                  ha={"start": "left", "middle": "center", "end": "right"}[s.anchor])
