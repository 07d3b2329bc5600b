"""A picture of a graph that shows itself, saves itself and answers for itself."""

from __future__ import annotations

import html as html_text
import json
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tinygrad_cnn.errors import VizError
from tinygrad_cnn.viz import canonical, cards, html, motion, plain, render, svg, tree
from tinygrad_cnn.viz.diagram import Diagram
from tinygrad_cnn.viz.digraph import Digraph
from tinygrad_cnn.viz.dot import to_dot
from tinygrad_cnn.viz.health import Problem, problems
from tinygrad_cnn.viz.recording import FORMAT, Recording

__all__ = ["SUFFIXES", "Figure", "load"]

SUFFIXES = (".svg", ".png", ".pdf", ".dot", ".mmd", ".json", ".html", ".txt")
_LARGEST = 64 * 2**20                       # bytes of a file that `load` reads
_MOST_EMBEDDED = 1000                       # entries that an SVG carries along


class Figure:
    """A graph as a picture: what ``loss.graph()`` and ``model.graph(x)`` return.

    In a notebook it shows itself.  ``print(fig)`` draws it in words.

    Parameters
    ----------
    recording : Recording
        The run.
    level : str, default "auto"
        ``everything``, ``operators``, ``modules``, ``folded``, or the first that fits ``limit``.
    color : str, default "grad"
        What the bars show: ``grad``, ``time``, ``memory`` or ``flop``.
    scale : str, default "decades"
        Bins of the gradient: decades, or ``fit`` for half-decades round the median.
    open : str or iterable of str
        Modules that stay open, as they are named in the picture: ``"stage2[0]"``.
    limit : int, default 40
        Cards that ``auto`` aims for.
    theme : str, default "auto"
        ``light``, ``dark``, or what the reader prefers.
    engine : str, optional
        ``pure``, ``dot``, ``pygraphviz``, ``spine``, or the path of a program; by default the first
        that `engines` lists and that succeeds.
    title : str, optional
        Instead of the name of the outermost module.
    changes : mapping of int to str, optional
        Marks of a difference, by entry.

    Raises
    ------
    VizError
        If a setting is unknown.
    """

    def __init__(self, recording: Recording, *, level: str = "auto", color: str = "grad",
                 scale: str = "decades", open: str | Iterable[str] = (), limit: int = 40,
                 theme: str = "auto", engine: str | None = None, title: str | None = None,
                 changes: Mapping[int, str] | None = None) -> None:
        if theme not in svg.THEMES:
            raise VizError(f"graph: theme {theme!r} is unknown; "
                           f"choose from {', '.join(svg.THEMES)}")
        self.recording = recording
        self.theme, self.engine = theme, engine
        self._style: dict[str, Any] = {"color": color, "scale": scale, "title": title,
                                       "limit": limit}
        self.diagram: Diagram = cards.draw(recording, level=level, open=open, changes=changes,
                                           **self._style)

    # ---- in other forms
    @cached_property
    def _svg(self) -> str:
        name = render.figure_id(self.diagram)
        drawn = render.to_svg(self.diagram, engine=self.engine, theme=self.theme, figure=name)
        if len(self.recording.entries) > _MOST_EMBEDDED:
            return drawn
        return svg.embed(drawn, plain.dumps(self.recording), figure=name)

    def svg(self) -> str:
        """The picture as SVG text, with the recording inside for `load`.

        Raises
        ------
        VizError
            If a named engine is absent or fails.
        """
        return self._svg

    @property
    def dot(self) -> Any:
        """A ``graphviz.Digraph`` of the picture; its ``pipe`` and ``render`` need no program.

        Raises
        ------
        MissingExtraError
            If the package graphviz is not installed.
        """
        return Digraph(self.diagram, self.engine)

    def text(self) -> str:
        """The picture in words, for a terminal."""
        return tree.to_text(self.diagram)

    __str__ = text

    def __repr__(self) -> str:
        return f"<Figure {self.diagram.title}: {self.diagram.subtitle}>"

    def html(self) -> str:
        """One self-contained interactive page, at most 2 MB."""
        return html.page(self.recording, self.diagram, **self._style)

    def animation(self) -> str:
        """The backward pass in motion, as SVG text; see `animate`."""
        return motion.to_svg(self.diagram, figure="a" + render.figure_id(self.diagram),
                              theme=self.theme)

    def interactive(self, *, height: int = 640) -> Any:
        """The page inside a notebook, in a frame that may run scripts and nothing else."""
        return _Frame(self.html(), height)

    def canonical(self, *, batch: str | None = None) -> str:
        """Structure of the graph as text for a test; ``batch="N"`` holds for every batch size.

        Examples
        --------
        >>> x = Parameter([1.0, 2.0], name="x")
        >>> print(graph((x * x).sum()).canonical(), end="")
        tinygrad_cnn graph 1
        x = parameter -> 2 float32
        mul = mul() x x -> 2 float32
        sum = sum(axis 0) mul -> scalar float32
        """
        return canonical.canonical(self.recording, batch=batch)

    snapshot = canonical

    def problems(self, *, severity: str | None = None,
                 learning_rate: float | None = None) -> tuple[Problem, ...]:
        """What looks wrong with the run; see `problems`."""
        return problems(self.recording, severity=severity, learning_rate=learning_rate)

    # ---- files
    def save(self, path: str | os.PathLike[str], *, dpi: int = 144) -> Path:
        """Write the picture in the format of the suffix.

        Parameters
        ----------
        path : str or path
            ``.svg``, ``.png``, ``.pdf``, ``.dot``, ``.mmd``, ``.json``, ``.html`` or ``.txt``.  The
            file is written beside its place and renamed: it is whole or not there.
        dpi : int, default 144
            Pixels per inch of a PNG; 96 is the size of the SVG.

        Returns
        -------
        Path
            Where it is.

        Raises
        ------
        VizError
            If the suffix is unknown, the path cannot be written, a PNG would be too large, or a
            named engine is absent or fails.
        """
        target = Path(path)
        suffix = target.suffix.lower()
        if suffix not in SUFFIXES:
            raise VizError(f"save: {target.name!r} has the suffix {suffix or 'none'!r}; "
                           f"choose from {', '.join(SUFFIXES)}")
        if not 20 <= dpi <= 1200:
            raise VizError(f"save: dpi must be between 20 and 1200, got {dpi}")
        render.check_folder(target)
        render.write(target, self._content(suffix, dpi))
        return target

    def _content(self, suffix: str, dpi: int) -> str | bytes:
        if suffix in (".png", ".pdf"):
            return render.to_bitmap(self.diagram, suffix[1:], engine=self.engine, theme=self.theme,
                                    dpi=dpi)
        if suffix == ".svg":
            return '<?xml version="1.0" encoding="UTF-8"?>\n' + self._svg
        if suffix == ".dot":
            return to_dot(self.diagram, theme=self.theme)
        if suffix == ".mmd":
            return tree.to_mermaid(self.diagram)
        if suffix == ".json":
            return json.dumps({"format": FORMAT, "recording": plain.to_plain(self.recording),
                               "diagram": plain.to_plain(self.diagram)},
                              ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        return self.html() if suffix == ".html" else self.text()

    # ---- in a notebook
    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """The forms that a notebook may show; it never fails for want of an engine."""
        bundle = {"text/plain": self.text()}
        try:
            bundle["image/svg+xml"] = self._svg
        except VizError as error:
            bundle["text/plain"] += f"\n{error}\n"
        return bundle


class _Frame:
    """HTML in a sandboxed frame: it runs its own script and can reach nothing of the notebook."""

    def __init__(self, page: str, height: int) -> None:
        self.page, self.height = page, height

    def _repr_html_(self) -> str:
        return (f'<iframe sandbox="allow-scripts" width="100%" height="{self.height}" '
                f'style="border:0" srcdoc="{html_text.escape(self.page, quote=True)}"></iframe>')


def load(path: str | os.PathLike[str], **settings: Any) -> Figure:
    """Read a figure that was saved as ``.json``, ``.svg`` or ``.html``.

    Parameters
    ----------
    path : str or path
        A file that `Figure.save` wrote.
    **settings
        Of `Figure`.

    Raises
    ------
    VizError
        If the file cannot be read, is too large, or holds no graph.
    """
    file = Path(path)
    try:
        if file.stat().st_size > _LARGEST:
            raise VizError(f"load: {file} is larger than {_LARGEST} bytes; no figure is")
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise VizError(f"load: {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise VizError(f"load: {file} is not text; load a .json, .svg or .html") from None
    return Figure(_checked(_recording_in(file, text)), **settings)


def _recording_in(file: Path, text: str) -> Recording:
    if file.suffix.lower() == ".json":
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            raise VizError(f"load: {file} is not JSON") from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise VizError(f"load: {file} was not saved by tinygrad_cnn as {FORMAT!r}")
        return plain.from_plain(Recording, data.get("recording"))
    found = html.embedded(text) or svg.embedded(text)
    if found is None:
        raise VizError(f"load: {file} holds no graph; save the figure as .json to load it again")
    return plain.loads(Recording, found)


def _checked(recording: Recording) -> Recording:
    """Refuse a recording whose entries do not refer to earlier ones."""
    n = len(recording.entries)
    if not 0 <= recording.output < n:
        raise VizError(f"load: output {recording.output} is outside the {n} entries")
    for i, e in enumerate(recording.entries):
        if any(not 0 <= j < i for j in e.inputs) or len(e.inputs) != len(e.arguments):
            raise VizError(f"load: entry {i} reads {e.inputs}; each must be an earlier entry")
        if any(d < 0 for d in e.shape):
            raise VizError(f"load: entry {i} has the shape {e.shape}")
    return recording
