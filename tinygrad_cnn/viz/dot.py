"""DOT text of a diagram, and the programs of Graphviz that draw it.

Every word passes through `escape`; names and ids in DOT are serial numbers, never a user's word.
What engines get wrong shapes this file: a list of fonts loses its widths without pango, so there
is one, Arial; an empty ``<FONT>`` loses the label; nested tables stretch unless they are fixed.

No shell is used, no program in the current folder is run, and standard output is the only way back.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tinygrad_cnn.errors import VizError
from tinygrad_cnn.viz.diagram import Card, Diagram, Edge, Group, Row
from tinygrad_cnn.viz.labels import LIGHT as C
from tinygrad_cnn.viz.labels import RAMP, STRIPS, escape, to_dark

__all__ = ["Engine", "candidates", "engines", "run", "to_dot"]

_PLAIN = 'BORDER="0" CELLBORDER="0" CELLSPACING="0"'
_SQUARE, _BAR = 16, 80
_GAP = "\u00a0\u00a0"


def to_dot(diagram: Diagram, *, figure: str = "f1", theme: str = "light") -> str:
    """Write a diagram in the language of Graphviz; equal diagrams give equal text.

    ``figure`` is the prefix of the ids in the SVG, so that two figures can share a page; the theme
    ``dark`` gives dark colors, any other the light ones, which CSS can turn dark.
    """
    lines = [f'digraph "{figure}" {{',
             f'  graph [rankdir=TB, bgcolor="{C["page"]}", fontname="Arial", nodesep=0.40, '
             f"ranksep=0.30, pad=0.30, splines=true, labelloc=t, tooltip={_quoted(diagram.title)}, "
             f"label=<{_heading(diagram.title, diagram.subtitle)}>];",
             '  node  [shape=plain, fontname="Arial"];',
             '  edge  [fontname="Arial", arrowsize=0.6, penwidth=1.4];',
             *_cards_in_groups(diagram, figure)]
    right = _on_the_right(diagram)
    lines += [_edge(e, figure, e.source in right) for e in diagram.edges]
    lines.append(f'  legend [class="legend", tooltip="legend", label=<{_legend(diagram)}>];')
    if diagram.cards:
        lines.append(f"  {diagram.cards[-1].id} -> legend [style=invis, weight=60];")
    text = "\n".join([*lines, "}", ""])
    return to_dark(text) if theme == "dark" else text


# ---- text ----------------------------------------------------------------------------------------

def _safe(text: str, limit: int) -> str:
    """Escaped text; C Graphviz loses a label in which "]" stands alone, unless it is an entity."""
    return escape(text, limit).replace("]", "&#93;")


def _quoted(text: str, limit: int = 300) -> str:
    return f'"{_safe(text, limit)}"'


def _font(text: str, size: float = 9.0, role: str = "muted", *, bold: bool = False,
          limit: int = 72) -> str:
    body = _safe(text, limit)
    if not body:
        return ""
    return (f'<FONT POINT-SIZE="{size:g}" COLOR="{C[role]}">'
            f'{f"<B>{body}</B>" if bold else body}</FONT>')


# ---- rows of a card ------------------------------------------------------------------------------

def _row(row: Row) -> str:
    if row.kind == "warning":
        return (f'<TD ALIGN="LEFT" COLSPAN="2" BGCOLOR="{C["warn_fill"]}">'
                f'{_font("! " + row.text, 9.5, "warn", bold=True)}</TD>')
    if row.kind == "text":
        runs = _font(row.text, 9.2) + _font(row.hot, 9.2, "hot", bold=True) + _font(row.after, 9.2)
        return f'<TD ALIGN="LEFT" COLSPAN="2">{runs}</TD>'
    picture = _squares(row.levels) if row.kind == "squares" else _bar(row)
    words = _font("\u00a0" + row.text, 8.5, "grad_text")
    return (f'<TD ALIGN="LEFT" COLSPAN="2" CELLPADDING="0"><TABLE ALIGN="LEFT" {_PLAIN} '
            f'CELLPADDING="1"><TR><TD ALIGN="LEFT">{picture}</TD>'
            f'<TD ALIGN="RIGHT">{words}</TD></TR></TABLE></TD>')


def _cell(width: int, height: int, color: str) -> str:
    return f'<TD FIXEDSIZE="TRUE" WIDTH="{width}" HEIGHT="{height}" BGCOLOR="{color}"></TD>'


def _bar(row: Row) -> str:
    filled = max(1, int(_BAR * min(1.0, row.fraction)))
    cells = _cell(filled, 6, RAMP[row.levels[0]])
    if filled < _BAR:
        cells += _cell(_BAR - filled, 6, C["track"])
    return (f'<TABLE ALIGN="LEFT" FIXEDSIZE="TRUE" WIDTH="{_BAR}" HEIGHT="6" {_PLAIN} '
            f'CELLPADDING="0"><TR>{cells}</TR></TABLE>')


def _squares(levels: Sequence[int]) -> str:
    cells = "".join(_cell(_SQUARE, 14, RAMP[level]) for level in levels)
    return (f'<TABLE ALIGN="LEFT" FIXEDSIZE="TRUE" WIDTH="{(_SQUARE + 2) * len(levels) + 4}" '
            'HEIGHT="18" BORDER="0" CELLBORDER="0" CELLSPACING="2" CELLPADDING="0">'
            f"<TR>{cells}</TR></TABLE>")


# ---- cards and modules ---------------------------------------------------------------------------

def _card(card: Card, figure: str) -> str:
    n = len(card.rows) + 1
    letter = _font(card.badge, 13, "badge", bold=True)
    head = (f'<TD ROWSPAN="{n}" WIDTH="4" CELLPADDING="0"></TD>'
            f'<TD ROWSPAN="{n}" WIDTH="{20 if card.badge else 7}" '
            f'BGCOLOR="{C[STRIPS[card.family]]}">{letter}</TD><TD ROWSPAN="{n}" WIDTH="2"></TD>'
            f'<TD ALIGN="LEFT">{_font(card.title, 11.5, "ink", bold=True) or "&#160;"}</TD>'
            f'<TD ALIGN="RIGHT">{_font(card.tag and _GAP + card.tag, 8.5)}</TD>'
            f'<TD ROWSPAN="{n}" WIDTH="3" CELLPADDING="0"></TD>')
    space = '<TR><TD COLSPAN="6" HEIGHT="3" CELLPADDING="0"></TD></TR>'
    rows = "\n      ".join(f"<TR>{r}</TR>" for r in (head, *map(_row, card.rows)))
    fill, line = card.colors
    stacked = card.kind == "stack"
    style = "ROUNDED,DASHED" if card.broken else "ROUNDED"
    border = 0 if stacked else 2 if card.change else 1
    table = (f'<TABLE BORDER="{border}" COLOR="{C[line]}" BGCOLOR="{C[fill]}" STYLE="{style}" '
             f'CELLBORDER="0" CELLSPACING="0" CELLPADDING="2">{space}\n      {rows}\n      '
             f"{space}</TABLE>")
    frame = (f', shape=box, style="rounded,filled", fillcolor="{C["card"]}", '
             f'color="{C["fold_line"]}", peripheries=3, margin="0.02,0.02"') if stacked else ""
    return (f'{card.id} [id="{figure}-{card.id}", class="card {card.kind} {card.family}", '
            f"tooltip={_quoted(card.tip)}{frame}, label=<{table}>];")


def _cards_in_groups(diagram: Diagram, figure: str) -> Iterable[str]:
    """Node statements and ranks inside the clusters of their modules; each is opened once."""
    held: dict[str, list[str]] = {"": [], **{group.id: [] for group in diagram.groups}}
    beside: dict[str, list[str]] = {}
    for card in diagram.cards:
        held[card.group].append("    " + _card(card, figure))
        if card.beside:
            beside.setdefault(card.beside, []).append(card.id)
    for card in diagram.cards:                  # a rank outside its cluster would empty the cluster
        if card.id in beside:
            row = "; ".join([card.id, *beside[card.id]])
            held[card.group].append(f"    {{ rank=same; {row}; }}")
    for group in reversed(diagram.groups):     # inner groups come after the ones around them
        lines = held[group.id]
        held[group.parent] += [_cluster(group, figure, group.parent != ""), *lines, "  }"]
    return held[""]


def _cluster(group: Group, figure: str, inner: bool) -> str:
    label = _font(group.title, 12, "ink", bold=True) or "&#160;"
    if group.note:
        label += _font(_GAP + "\u00a0" + group.note, 9.5)
    return (f'  subgraph cluster_{group.id} {{ id="{figure}-{group.id}"; class="module"; '
            f"tooltip={_quoted(group.path)}; labeljust=l; labelloc=t; "
            f'style="rounded,filled"; fillcolor="{C["module_inner" if inner else "module"]}"; '
            f'color="{C["module_line"]}"; margin=14; label=<{label}>;')


def _on_the_right(diagram: Diagram) -> set[str]:
    """Every second card beside a reader stands on its right."""
    right, seen = set(), dict[str, int]()
    for card in diagram.cards:
        if card.beside:
            seen[card.beside] = seen.get(card.beside, 0) + 1
            if seen[card.beside] % 2 == 0:
                right.add(card.id)
    return right


# ---- edges ---------------------------------------------------------------------------------------

def _edge(edge: Edge, figure: str, swap: bool) -> str:
    """One edge; a parameter on the right is written reader -> parameter, with swapped colors."""
    label = _font(_GAP + edge.text, 9, "line") if edge.text else ""
    if edge.level < 0:
        look = f'color="{C["line"]}"' + (", dir=back" if swap else "")
    else:
        pink = RAMP[edge.level]
        if label:
            words = _font(_GAP + "grad\u00a0" + edge.gradient, 8.5, "grad_text")
            label += f'<BR ALIGN="LEFT"/>{words}'
        pair = (pink, C["line"]) if swap else (C["line"], pink)
        look = f'dir=both, arrowtail=normal, color="{pair[0]}:{pair[1]}"'
    text = f', label=<{label}<BR ALIGN="LEFT"/>>' if label else ""
    ends = f"{edge.target} -> {edge.source}" if swap else f"{edge.source} -> {edge.target}"
    tip = _quoted(edge.tip)
    return (f'  {ends} [id="{figure}-{edge.id}", class="edge", {look}, '
            f"weight={60 if edge.trunk else 1}, edgetooltip={tip}, labeltooltip={tip}{text}];")


# ---- heading and legend --------------------------------------------------------------------------

def _heading(title: str, subtitle: str) -> str:
    return (f'<TABLE {_PLAIN} CELLPADDING="3">'
            f'<TR><TD>{_font(title, 18, "ink", bold=True) or "&#160;"}</TD></TR>'
            f'<TR><TD>{_font(subtitle, 10.5, limit=200) or "&#160;"}</TD></TR>'
            '<TR><TD HEIGHT="6"></TD></TR></TABLE>')


def _legend(diagram: Diagram) -> str:
    strips = "".join(_cell(14, 10, C[strip]) + f'<TD ALIGN="LEFT">{_font(meaning + _GAP)}</TD>'
                     for strip, meaning in diagram.legend)
    notes = f'<TD ALIGN="LEFT">{_font((_GAP * 2).join(diagram.notes), limit=200)}</TD>'
    if diagram.has_scale:
        s = diagram.scale
        notes = (f'<TD>{_font(s.name + _GAP + s.low, 9, "grad_text")}</TD>'
                 + "".join(_cell(26, 10, c) for c in RAMP)
                 + f'<TD>{_font(s.high + _GAP, 9, "grad_text")}</TD>' + notes)
    inner = "".join(f'<TR><TD ALIGN="LEFT"><TABLE ALIGN="LEFT" {_PLAIN} CELLPADDING="2"><TR>{r}'
                    "</TR></TABLE></TD></TR>" for r in (strips, notes))
    return (f'<TABLE BORDER="1" COLOR="{C["card_line"]}" BGCOLOR="{C["card"]}" STYLE="ROUNDED" '
            f'CELLBORDER="0" CELLSPACING="2" CELLPADDING="1">{inner}</TABLE>')


# ---- engines -------------------------------------------------------------------------------------

VARIABLE = "TINYGRAD_CNN_ENGINE"
NAMES = ("pure", "dot", "builtin", "text")
_SECONDS = 30
_INSTALL = {"pure": "pip install graphviz-pure",
            "dot": "apt install graphviz, or brew install graphviz"}
_PURE_FORMATS = ("svg", "png", "jpg", "json")
_DOT_FORMATS = ("svg", "png", "jpg", "json", "pdf", "ps")


@dataclass(frozen=True)
class Engine:
    """What can lay out and draw a graph."""

    name: str                               # of NAMES, or "path" for a program given by its path
    where: str                              # absolute path of a program, or a few words
    formats: tuple[str, ...]

    @property
    def is_program(self) -> bool:
        """Whether it runs as a process of its own."""
        return self.name in ("pure", "dot", "path")


_ALWAYS = (Engine("builtin", "the layout of tinygrad_cnn", ("svg", "png", "pdf")),
           Engine("text", "lines of text", ("txt",)))


def engines() -> tuple[Engine, ...]:
    """What was found on this machine, in the order in which a picture tries it.

    >>> [e.name for e in engines()][-2:]
    ['builtin', 'text']
    """
    return _found(os.environ.get("PATH", os.defpath), os.getcwd())


@lru_cache(maxsize=8)
def _found(path: str, folder: str) -> tuple[Engine, ...]:
    found = []
    pure = _pure(path)
    if pure and _trusted(pure, folder):
        found.append(Engine("pure", pure, _PURE_FORMATS))
    dot = shutil.which("dot", path=path)
    if dot and _trusted(dot, folder):
        found.append(Engine("dot", dot, _DOT_FORMATS))
    return (*found, *_ALWAYS)


def _pure(path: str) -> str | None:
    """The program of the package graphviz-pure, even where its folder is not on PATH."""
    program = "graphviz-pure" + (".exe" if os.name == "nt" else "")
    try:
        files = importlib.metadata.files("graphviz-pure") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    places = [Path(str(f.locate())) for f in files if f.name == program]
    places.append(Path(sysconfig.get_path("scripts")) / program)
    for place in places:
        if place.is_file():
            return str(place.resolve())
    return shutil.which("graphviz-pure", path=path)


def _trusted(program: str, folder: str) -> bool:
    """Whether the program is named absolutely and does not lie in the current folder."""
    return os.path.isabs(program) and Path(program).resolve().parent != Path(folder).resolve()


def candidates(form: str, engine: str | None = None) -> tuple[Engine, ...]:
    """The engines to try for a format, best first; one alone if it was named.

    ``engine`` is a name of `Engine`, or the path of a program that understands ``-Tsvg``; the
    environment variable ``TINYGRAD_CNN_ENGINE`` is its default.  A VizError says why a named engine
    cannot be used.
    """
    wanted = engine or os.environ.get(VARIABLE) or None
    found = engines()
    if wanted is None:
        able = tuple(e for e in found if form in e.formats)
        if form in ("pdf", "ps"):           # C Graphviz embeds the fonts
            able = tuple(sorted(able, key=lambda e: e.name != "dot"))
        return able
    if wanted == "graphviz-pure":
        wanted = "pure"
    if wanted in NAMES:
        hit = next((e for e in found if e.name == wanted), None)
        if hit is None:
            raise VizError(f"graph: engine {wanted!r} is not installed; {_INSTALL[wanted]}, "
                           "or leave engine= out")
    elif os.path.isabs(wanted) and os.access(wanted, os.X_OK) and Path(wanted).is_file():
        hit = Engine("path", wanted, _DOT_FORMATS)
    else:
        raise VizError(f"graph: engine {wanted!r} is unknown; choose from {', '.join(NAMES)}, "
                       "or give the absolute path of a program")
    if form not in hit.formats:
        raise VizError(f"graph: engine {hit.name!r} writes {', '.join(hit.formats)}, not {form}; "
                       "leave engine= out, or save as .svg")
    return (hit,)


def run(engine: Engine, dot: str, form: str, *extra: str) -> bytes:
    """The drawing of DOT text; a VizError if the engine fails, hangs or loses a label."""
    command = [engine.where, "-Kdot", f"-T{form}", *extra]
    try:
        done = subprocess.run(command, input=dot.encode(), capture_output=True, timeout=_SECONDS,
                              check=False)
    except subprocess.TimeoutExpired:
        raise VizError(f"graph: {engine.where} took more than {_SECONDS} s; "
                       "fold harder with level='folded', or use engine='builtin'") from None
    except OSError as error:
        raise VizError(f"graph: {engine.where} cannot be run: {error.strerror}; "
                       "leave engine= out to use another") from None
    words = done.stderr.decode(errors="replace").strip()
    # Engines go on after a syntax error in a label, with the label lost.
    if done.returncode or not done.stdout or "syntax error" in words or "not well-formed" in words:
        last = words.splitlines()[-1][-200:] if words else f"exit code {done.returncode}"
        raise VizError(f"graph: {engine.where} failed: {last}; engine='builtin' needs no program")
    return done.stdout
