"""A ``graphviz.Digraph`` that draws itself on machines without Graphviz."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tinygrad_cnn.errors import VizError, missing_extra
from tinygrad_cnn.viz import programs
from tinygrad_cnn.viz import render as renderer
from tinygrad_cnn.viz.diagram import Diagram
from tinygrad_cnn.viz.dot import to_dot

__all__ = ["Digraph"]


def Digraph(diagram: Diagram, engine: str | None = None) -> Any:  # noqa: N802 - it makes a Digraph
    """A ``graphviz.Digraph`` with the text of `to_dot`; nodes and edges may be added to it.

    ``pipe``, ``render`` and the notebook picture go through the engines of `programs.engines`, so
    ``ExecutableNotFound`` is not raised.  Added nodes need a real engine: the own layout knows only
    the diagram.

    Raises
    ------
    MissingExtraError
        If the package graphviz is not installed.
    """
    try:
        import graphviz
    except ImportError:
        raise missing_extra("graphviz", extra="viz", purpose="fig.dot") from None

    class _Digraph(graphviz.Digraph):  # type: ignore[misc]
        """See `Digraph`."""

        def pipe(self, format: str | None = None, *_: Any, encoding: str | None = None,
                 engine: str | None = None, **__: Any) -> Any:
            form = format or self.format or "svg"
            data = _drawn(diagram, self.source, original, form, engine or chosen)
            return data.decode(encoding) if encoding else data

        def render(self, filename: Any = None, directory: Any = None, view: bool = False,
                   cleanup: bool = False, format: str | None = None, *_: Any,
                   outfile: Any = None, engine: str | None = None, **__: Any) -> str:
            form = format or (Path(outfile).suffix[1:] if outfile else None) or self.format or "svg"
            base = Path(directory or ".") / (filename or "graph.gv")
            target = Path(outfile) if outfile else base.with_name(f"{base.name}.{form}")
            data = _drawn(diagram, self.source, original, form, engine or chosen)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not cleanup and not outfile:
                renderer.write(base, self.source)
            renderer.write(target, data)
            return os.fspath(target)

        def unflatten(self, *_: Any, **__: Any) -> Any:
            raise VizError("graph: unflatten needs the program of Graphviz; "
                           "save the .dot and run unflatten on it")

        def _repr_mimebundle_(self, include: Any = None, exclude: Any = None, **_: Any
                              ) -> dict[str, str]:
            return {"image/svg+xml": self.pipe(format="svg", encoding="utf-8"),
                    "text/plain": self.source}

    chosen = engine
    made = _Digraph(name=renderer.figure_id(diagram), format="svg")
    lines = to_dot(diagram, figure=renderer.figure_id(diagram)).splitlines(keepends=True)
    made.body.extend(lines[1:-1])
    original = made.source
    return made


def _drawn(diagram: Diagram, source: str, original: str, form: str, engine: str | None) -> bytes:
    if source == original:
        if form == "svg":
            return renderer.to_svg(diagram, engine=engine).encode()
        if form in ("png", "pdf"):
            return renderer.to_bitmap(diagram, form, engine=engine)
        if form in ("dot", "gv"):
            return source.encode()
    for candidate in programs.candidates(form, engine):
        if candidate.name not in ("spine", "text"):
            return programs.run(candidate, source, form)
    raise VizError(f"graph: a changed Digraph, or the format {form}, needs Graphviz; "
                   "pip install graphviz-pure")
