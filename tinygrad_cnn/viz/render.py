"""From a diagram to bytes or text in a format: the only place that asks an engine.

An engine that was found but fails is passed over with one warning; one that was named raises.  The
last of the chain is the own layout, so a picture always comes.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import warnings
from pathlib import Path

from tinygrad_cnn.errors import VizError
from tinygrad_cnn.viz import paint, programs, raster, spine, svg
from tinygrad_cnn.viz.diagram import Diagram
from tinygrad_cnn.viz.dot import to_dot

__all__ = ["check_folder", "figure_id", "to_bitmap", "to_svg", "write"]

_MOST_PIXELS = 30_000_000


def figure_id(diagram: Diagram) -> str:
    """A short name for a figure, the same for equal diagrams: ids in a page begin with it."""
    return "g" + hashlib.sha256(diagram.to_json().encode()).hexdigest()[:8]


def to_svg(diagram: Diagram, *, engine: str | None = None, theme: str = "auto",
           figure: str | None = None) -> str:
    """The picture as SVG text, by the first engine that succeeds.

    Raises
    ------
    VizError
        If a named engine is absent or fails, or the theme is unknown.
    """
    if theme not in svg.THEMES:
        raise VizError(f"graph: theme {theme!r} is unknown; choose from {', '.join(svg.THEMES)}")
    name = figure or figure_id(diagram)
    label = f"{diagram.title}: {diagram.subtitle}"
    places = spine.layout(diagram)
    for candidate in _chain("svg", engine, places):
        if candidate.name == "spine":
            return svg.from_drawing(paint.paint(diagram, places), figure=name, theme=theme,
                                    label=label)
        drawn = _attempt(candidate, to_dot(diagram, figure=name), "svg", named=engine is not None)
        if drawn is not None:
            return svg.finish(drawn.decode(), figure=name, theme=theme, label=label)
    raise AssertionError("the own layout is always among the engines")


def to_bitmap(diagram: Diagram, form: str, *, engine: str | None = None, theme: str = "light",
              dpi: int = 144) -> bytes:
    """The picture as PNG or PDF bytes.

    Raises
    ------
    VizError
        If the picture is too large for PNG, or a named engine is absent or fails.
    MissingExtraError
        If no engine writes that format and matplotlib is not installed.
    """
    places = spine.layout(diagram)
    pixels = places.width * places.height * (dpi / 96) ** 2
    if form == "png" and pixels > _MOST_PIXELS:
        raise VizError(f"save: a PNG of {places.width * dpi // 96} × {places.height * dpi // 96} "
                       f"pixels is too large; save as .svg, fold with level='folded', or lower "
                       f"dpi={dpi}")
    dark = "dark" if theme == "dark" else "light"
    found = _chain(form, engine, places)
    for candidate in found:
        if candidate.name == "spine":
            if candidate is not found[-1] and not raster.available():
                continue
            return raster.from_drawing(paint.paint(diagram, places), form, theme=dark, dpi=dpi)
        extra = (f"-Gdpi={dpi}",) if form == "png" else ()
        drawn = _attempt(candidate, to_dot(diagram, theme=dark), form, *extra,
                         named=engine is not None)
        if drawn is not None:
            return drawn
    raise AssertionError("the own layout is always among the engines")


def _chain(form: str, engine: str | None, places: spine.Layout) -> tuple[programs.Engine, ...]:
    """The engines to try; a trunk with few branches is drawn by the own layout first.

    Its lines are straight, and the picture is the same on every machine.
    """
    found = programs.candidates(form, engine)
    if places.fits:
        found = tuple(sorted(found, key=lambda e: e.name != "spine"))
    if not found:
        raise VizError(f"graph: no engine writes {form}; save as .svg, .png or .pdf")
    return found


def _attempt(engine: programs.Engine, dot: str, form: str, *extra: str, named: bool
             ) -> bytes | None:
    try:
        return programs.run(engine, dot, form, *extra)
    except VizError as error:
        if named:
            raise
        warnings.warn(f"{error}; drawing with the next engine", RuntimeWarning, stacklevel=5)
        return None


# ---- files ---------------------------------------------------------------------------------------

def check_folder(path: Path) -> None:
    """Refuse a path that cannot be written, before anything is computed for it."""
    folder = path.parent
    if path.is_dir():
        raise VizError(f"save: {path} is a folder; give a file name")
    if not folder.is_dir():
        raise VizError(f"save: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise VizError(f"save: the folder {folder} cannot be written; choose another")


def write(path: Path, content: str | bytes) -> None:
    """Write beside the target, then rename: a file is whole or not there.

    Raises
    ------
    VizError
        If the disk refuses.
    """
    check_folder(path)
    data = content.encode() if isinstance(content, str) else content
    draft = path.with_name(f".{path.name[:40]}-{secrets.token_hex(6)}")
    try:
        with draft.open("xb") as file:
            file.write(data)
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise VizError(f"save: {path} cannot be written: {error.strerror}") from None
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
