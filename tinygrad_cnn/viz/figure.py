"""A picture of a graph that shows itself, saves itself, loads itself and reports what is wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import html as html_text
import json
import math
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack

import graphviz as gv

from tinygrad_cnn.errors import VizError
from tinygrad_cnn.files import open_file, write_atomically
from tinygrad_cnn.viz import blocks, html, svg, text, textbook
from tinygrad_cnn.viz.capture import Entry, Memory, Recording, memory
from tinygrad_cnn.viz.diagnostics import Problem, problems
from tinygrad_cnn.viz.diagram import Diagram, draw
from tinygrad_cnn.viz.layout import Layout, layout

__all__ = ["SUFFIXES", "Figure", "Settings", "dumps", "load", "loads", "write_file"]

SUFFIXES = (".svg", ".png", ".pdf", ".dot", ".mmd", ".json", ".html", ".txt", ".tex",
            ".drawio")
_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'
_LARGEST = 64 * 2**20                       # bytes of a file that `load` reads
_MOST_EMBEDDED = 1000                       # entries that an SVG or a page carries along
_MOST_PIXELS = 30_000_000
STYLES = ("auto", "cards", "textbook", "blocks")
MEDIA = {"slide": (30, 16 / 9, "auto"), "paper": (24, 0.0, "light"), "readme": (20, 1.0, "auto")}

T = TypeVar("T")


class Settings(TypedDict, total=False):
    """What `Figure` takes beside the recording."""

    level: str
    color: str
    scale: str
    open: str | Iterable[str]
    limit: int
    theme: str
    title: str | None
    style: str
    direction: str
    aspect: float
    density: str
    for_: str | None
    card: Callable[[Entry], str] | None
    edge: Callable[[Entry, Entry], str] | None


def _piped(source: gv.Source, form: str) -> bytes:
    """What the program of Graphviz draws."""
    try:
        return bytes(source.pipe(format=form))
    except gv.ExecutableNotFound:
        raise VizError(f"save: there is no program {source.engine!r} of Graphviz on this machine; "
                       "install Graphviz (graphviz.org), or leave out engine=") from None
    except gv.CalledProcessError as error:
        raise VizError(f"save: {source.engine} of Graphviz failed: {error}") from None


class Figure:
    """A graph as a picture: what ``loss.graph()`` and ``model.graph(x)`` return.

    In a notebook it shows itself.  ``print(fig)`` writes it as text.  A setting that is unknown is
    refused by a VizError.

    Parameters
    ----------
    recording : Recording
        The run.
    level : str, default "auto"
        ``everything``, ``operators``, ``modules``, ``folded``, or the first that fits ``limit``
        cards (default 40).
    color, scale : str
        What the bars show: ``grad``, ``time``, ``memory`` or ``flop``; and in which bins gradients
        do: ``decades`` from 1e-4 to 0.1, or ``fit``.
    open : str or iterable of str
        Modules that stay open, as they are named in the picture: ``"stage2[0]"``.
    theme, title : str, optional
        ``light``, ``dark``, or what the reader prefers; a name for the whole.
    style : str, default "auto"
        ``cards``, or ``textbook``: circles for ops, boxes with name, value and gradient, and the
        local derivative along each edge; ``auto`` takes it for at most 12 small tensors.
        ``blocks`` draws the layers as boxes with the sides H, W and C, as papers do.
    direction : str, default "TB"
        ``TB``, from top to bottom, or ``LR``, from left to right.
    aspect, density : float and str
        Width over height of the page, as ``16/9``: rows are cut into columns to come near it;
        ``compact`` gives each card one line, and edges no words.
    for_ : str, optional
        ``slide``, ``paper`` or ``readme``: compact, with a limit, an aspect and a theme for that.
    card, edge : callable, optional
        A line of your own for the card of an `Entry`; and the words of the edge from one to
        another, instead of the shape.
    changes : mapping of int to str, optional
        ``added``, ``removed`` or ``changed`` for entries, in the picture of a difference.
    """

    def __init__(self, recording: Recording, *, level: str = "auto", color: str = "grad",
                 scale: str = "decades", open: str | Iterable[str] = (), limit: int = 40,
                 theme: str = "auto", title: str | None = None,
                 style: str = "auto", direction: str = "TB", aspect: float = 0.0,
                 density: str = "normal", for_: str | None = None,
                 card: Callable[[Entry], str] | None = None,
                 edge: Callable[[Entry, Entry], str] | None = None,
                 changes: Mapping[int, str] | None = None) -> None:
        if for_ is not None:
            if for_ not in MEDIA:
                raise VizError(f"graph: for_ {for_!r} is unknown; choose from {', '.join(MEDIA)}")
            medium = MEDIA[for_]
            limit = medium[0] if limit == 40 else limit
            aspect, density = aspect or medium[1], "compact"
            theme = medium[2] if theme == "auto" else theme
        for name, value, known in (("theme", theme, svg.THEMES), ("style", style, STYLES)):
            if value not in known:
                raise VizError(f"graph: {name} {value!r} is unknown; "
                               f"choose from {', '.join(known)}")
        alone = level == "auto" and color == "grad" and not (changes or for_ or aspect)
        if style == "auto" and alone and textbook.fits(recording):
            style = "textbook"
        self._other = {"textbook": textbook.drawn, "blocks": blocks.drawn}.get(style)
        self.recording, self.theme = recording, theme
        self._style: dict[str, Any] = {"color": color, "scale": scale, "title": title,
                                       "limit": limit, "direction": direction,
                                       "aspect": aspect, "density": density, "card": card,
                                       "edge": edge}
        self.diagram: Diagram = draw(recording, level=level, open=open, changes=changes,
                                     **self._style)

    # ---- in other forms
    @cached_property
    def _places(self) -> Layout:
        return layout(self.diagram)

    @cached_property
    def _id(self) -> str:
        """A short name, the same for equal diagrams: ids in a page begin with it."""
        return "g" + hashlib.sha256(dumps(self.diagram).encode()).hexdigest()[:8]

    @cached_property
    def _carried(self) -> str:
        """The recording as JSON, for `load`; empty if it is large."""
        return "" if len(self.recording.entries) > _MOST_EMBEDDED else dumps(self.recording)

    @cached_property
    def _svg(self) -> str:
        drawn = self._drawn(self.theme)
        return svg.embed(drawn, self._carried, figure=self._id) if self._carried else drawn

    def svg(self) -> str:
        """The picture as SVG text, with the recording inside for `load`."""
        return self._svg

    @property
    def dot(self) -> str:
        """The picture in the language of Graphviz, as for ``graphviz.Source(fig.dot)``."""
        return text.to_dot(self.diagram, theme=self.theme)

    def graphviz(self, engine: str = "dot") -> gv.Source:
        """The graph for a program of Graphviz to lay out: it shows itself, and renders to files.

        Its layout is that of the program, so it differs between machines; it helps where a graph is
        a tangle rather than a network.  The programs come from graphviz.org, or a package manager.

        >>> a = Tensor([2.0], requires_grad=True)
        >>> (a * 3.0).graph().graphviz().source.startswith("digraph")
        True
        """
        if engine not in gv.ENGINES:
            raise VizError(f"graphviz: engine must be one of {', '.join(sorted(gv.ENGINES))}, "
                           f"got {engine!r}")
        return gv.Source(self.dot, engine=engine)

    def text(self) -> str:
        """The picture as text, for a terminal."""
        return text.to_text(self.diagram)

    __str__ = text

    def __repr__(self) -> str:
        return f"<Figure {self.diagram.title}: {self.diagram.subtitle}>"

    def html(self) -> str:
        """One self-contained interactive page; of up to 1,200 cards it has at most 2 MB."""
        return html.page(self.recording, self.diagram, self._carried, **self._style)

    def animation(self) -> str:
        """The backward pass in motion, as SVG text; see `animate`."""
        return svg.animated(self.diagram, self._places, figure="a" + self._id, theme=self.theme)

    def interactive(self, *, height: int = 640) -> Frame:
        """The page inside a notebook, in a frame that may run scripts and nothing else."""
        return Frame(self.html(), height)

    def canonical(self, *, batch: str | None = None) -> str:
        """Structure of the graph as text for a test; ``batch="N"`` holds for every batch size."""
        return text.canonical(self.recording, batch=batch)

    def problems(self, *, severity: str | None = None,
                 learning_rate: float | None = None) -> tuple[Problem, ...]:
        """What looks wrong with the run; see `tinygrad_cnn.viz.problems`."""
        return problems(self.recording, severity=severity, learning_rate=learning_rate)

    def memory(self) -> Memory:
        """Bytes kept for the backward pass, by node and by module; it prints as a table.

        Examples
        --------
        >>> x = Tensor(np.ones((64, 64)), requires_grad=True)
        >>> print((x.exp() * 2).sum().graph().memory())
               32,768  bytes kept for the backward pass
               32,768  node exp
        """
        return memory(self.recording)

    def steps(self) -> textbook.Steps:
        """The chain rule of the run, written out from the output back; it prints as text.

        Examples
        --------
        >>> a, b = (Tensor(v, requires_grad=True, name=n) for v, n in ((2.0, "a"), (-3.0, "b")))
        >>> print((a * b + 1.0).graph().steps())
        ∂L/∂L = 1
        ∂L/∂v1 = ∂L/∂L · ∂L/∂v1 = 1 · 1 = 1
        ∂L/∂a = ∂L/∂v1 · ∂v1/∂a = 1 · b = 1 · (−3) = −3
        ∂L/∂b = ∂L/∂v1 · ∂v1/∂b = 1 · a = 1 · 2 = 2
        """
        return textbook.steps(self.recording)

    def _drawn(self, theme: str) -> str:
        if self._other is not None:
            return self._other(self.recording, self.diagram.title, figure=self._id, theme=theme)
        return svg.drawn(self.diagram, self._places, figure=self._id, theme=theme)

    def _raster(self, form: str, dpi: int) -> bytes:
        drawn = self._drawn("dark" if self.theme == "dark" else "light")
        w, h = (int(side) * dpi // 96 for side in svg.size(drawn))
        if form == "png" and w * h > _MOST_PIXELS:
            raise VizError(f"save: a PNG of {w} × {h} pixels is too large; save as .svg, "
                           f"fold with level='folded', or lower dpi={dpi}")
        return svg.rasterized(drawn, form, dpi=dpi)

    # ---- files
    def save(self, path: str | os.PathLike[str], *, dpi: int = 144,
             engine: str = "builtin") -> Path:
        """Write the picture in the format of the suffix; the file is whole or not there.

        Suffixes are ``.svg``, ``.png``, ``.pdf``, ``.dot``, ``.mmd``, ``.json``, ``.html``,
        ``.txt``, ``.tex`` (TikZ) and ``.drawio``; ``dpi`` is that of a PNG, and 96 the size of the
        SVG.  An ``engine`` of Graphviz (``"dot"``, ``"sfdp"`` ...) lays out .svg, .png and .pdf
        instead of this package.  A VizError says that the suffix is unknown, the path cannot be
        written, a PNG would be too large, or matplotlib or the program is missing.
        """
        suffix = Path(path).suffix.lower()
        if suffix not in SUFFIXES:
            raise VizError(f"save: {Path(path).name!r} has the suffix {suffix or 'none'!r}; "
                           f"choose from {', '.join(SUFFIXES)}")
        if not 20 <= dpi <= 1200:
            raise VizError(f"save: dpi must be between 20 and 1200, got {dpi}")
        if engine != "builtin":
            if suffix not in (".svg", ".png", ".pdf"):
                raise VizError(f"save: engine={engine!r} lays out .svg, .png and .pdf, got "
                               f"{suffix!r}")
            source = self.graphviz(engine)
            return write_file(path, lambda: _piped(source, suffix[1:]))
        return write_file(path, lambda: self._content(suffix, dpi))

    def _content(self, suffix: str, dpi: int = 144) -> str | bytes:
        if suffix in (".png", ".pdf"):
            return self._raster(suffix[1:], dpi)
        writers: dict[str, Callable[[], str]] = {
            ".svg": lambda: _XML + self._svg,
            ".dot": lambda: self.dot,
            ".mmd": lambda: text.to_mermaid(self.diagram),
            ".json": lambda: json.dumps({"format": text.FORMAT,
                                         "recording": to_plain(self.recording)},
                                        ensure_ascii=False, indent=1, allow_nan=False) + "\n",
            ".html": self.html, ".txt": self.text,
            ".tex": lambda: text.to_tikz(self.diagram, self._places),
            ".drawio": lambda: text.to_drawio(self.diagram, self._places)}
        return writers[suffix]()

    def animate(self, path: str | os.PathLike[str]) -> Path:
        """Write `animation` to a file that ends with ``.svg``."""
        if Path(path).suffix.lower() != ".svg":
            raise VizError(f"animate: {Path(path).name!r} must end with .svg; it is the format "
                           "that moves")
        return write_file(path, lambda: _XML + self.animation())

    # ---- in a notebook
    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """The forms that a notebook may show; it never fails for want of an engine."""
        bundle = {"text/plain": self.text()}
        try:
            bundle["image/svg+xml"] = self._svg
        except VizError as error:
            bundle["text/plain"] += f"\n{error}\n"
        return bundle


class Frame:
    """HTML in a sandboxed frame: it runs its own script and can reach nothing of the notebook."""

    def __init__(self, page: str, height: int) -> None:
        self.page, self.height = page, height

    def _repr_html_(self) -> str:
        return (f'<iframe sandbox="allow-scripts" width="100%" height="{self.height}" '
                f'style="border:0" srcdoc="{html_text.escape(self.page, quote=True)}"></iframe>')


def write_file(path: str | os.PathLike[str], content: Callable[[], str | bytes]) -> Path:
    """Write beside the target, then rename: a file is whole or not there.

    A VizError says that the folder cannot be written, before the content is made, or why the disk
    refuses.
    """
    with write_atomically(path, lambda text: VizError(f"save: {text}")) as file:
        made = content()
        file.write(made.encode() if isinstance(made, str) else made)
    return Path(path)


# ---- reading back --------------------------------------------------------------------------------

def load(path: str | os.PathLike[str], **settings: Unpack[Settings]) -> Figure:
    """Read a figure that was saved as ``.json``, ``.svg`` or ``.html``; settings as in `Figure`.

    A VizError says that the file cannot be read, is too large, or holds no graph.
    """
    file = Path(path)
    with open_file(file, lambda text: VizError(f"load: {text}")) as stream:
        raw = stream.read(_LARGEST + 1)
    if len(raw) > _LARGEST:
        raise VizError(f"load: {file} is larger than {_LARGEST} bytes; no figure is")
    try:
        content = raw.decode()
    except UnicodeDecodeError:
        raise VizError(f"load: {file} is not text; load a .json, .svg or .html") from None
    if file.suffix.lower() == ".json":
        try:
            data = json.loads(content)
        except (ValueError, RecursionError):
            raise VizError(f"load: {file} is not JSON") from None
        if not isinstance(data, dict) or data.get("format") != text.FORMAT:
            raise VizError(f"load: {file} was not saved by tinygrad_cnn as {text.FORMAT!r}")
        return Figure(_checked(from_plain(Recording, data.get("recording"))), **settings)
    found = html.embedded(content) or svg.embedded(content)
    if found is None:
        raise VizError(f"load: {file} holds no graph; save the figure as .json to load it again")
    return Figure(_checked(loads(Recording, found)), **settings)


def _checked(recording: Recording) -> Recording:
    """Refuse a recording whose entries do not refer to earlier ones."""
    n = len(recording.entries)
    if not 0 <= recording.output < n:
        raise VizError(f"load: output {recording.output} is outside the {n} entries")
    for i, e in enumerate(recording.entries):
        if any(not 0 <= j < i for j in e.inputs) or len(e.inputs) != len(e.arguments):
            raise VizError(f"load: entry {i} reads {e.inputs}; each must be an earlier entry")
        if not re.fullmatch(r"(data:image/png;base64,[A-Za-z0-9+/]{32,}=*)?", e.picture):
            raise VizError(f"load: entry {i} has a picture that is no PNG as a data URI")
        if any(d < 0 for d in e.shape):
            raise VizError(f"load: entry {i} has the shape {e.shape}")
    return recording


# ---- dataclasses as JSON -------------------------------------------------------------------------
# JSON has no NaN and no infinity; those floats travel as the strings "nan", "inf" and "-inf".  What
# is read may come from anywhere, so each field is checked against its annotation.

def to_plain(value: object) -> object:
    """A dataclass as dicts, lists and scalars; fields that hold their default are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)
                if f.default is dataclasses.MISSING or getattr(value, f.name) != f.default}
    if isinstance(value, (tuple, list)):
        return [to_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: to_plain(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode()    # a lone surrogate is no text
    return value


def dumps(value: object) -> str:
    """Compact JSON text of a dataclass, the same on every machine."""
    return json.dumps(to_plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def loads(cls: type[T], text: str) -> T:
    """Read what `dumps` wrote; a VizError if it is no JSON or has not the fields of ``cls``."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VizError(f"load: this is not a graph saved by tinygrad_cnn: {error}") from None
    return from_plain(cls, data)


def from_plain(cls: type[T], data: object) -> T:
    """Build a dataclass from plain data, checking each field against its annotation."""
    return typing.cast(T, _read(cls, data, cls.__name__))


_hints = lru_cache(typing.get_type_hints)


def _read(kind: Any, data: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(data, dict):
            raise _refusal(where, kind, data)
        hints = _hints(typing.cast(Any, kind))
        unknown = data.keys() - hints.keys()
        if unknown:
            raise VizError(f"load: {where} has no field {sorted(map(str, unknown))[0]!r}")
        values = {k: _read(hints[k], v, f"{where}.{k}") for k, v in data.items()}
        try:
            return typing.cast(Any, kind)(**values)
        except TypeError as error:
            raise VizError(f"load: {where} lacks a field: {error}") from None
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if data is None and type(None) in arguments:
            return None
        return _read(next(a for a in arguments if a is not type(None)), data, where)
    if origin is tuple and isinstance(data, list):          # each is of one kind, of any length
        return tuple(_read(arguments[0], v, where) for v in data)
    if origin is dict and isinstance(data, dict):
        return {str(k): _read(arguments[1], v, where) for k, v in data.items()}
    if kind is float and (data in ("nan", "inf", "-inf") or type(data) in (int, float)):
        return float(data)
    if kind in (str, int, bool) and type(data) is kind:
        return data
    raise _refusal(where, kind, data)


def _refusal(where: str, kind: object, data: object) -> VizError:
    return VizError(f"load: {where} should be {getattr(kind, '__name__', kind)}, "
                    f"the file has {type(data).__name__}")
