"""DOT text of a diagram, and the programs of Graphviz, which place what the own layout leaves.

A program only says where everything is: cards are drawn by `svg` whoever placed them.  Every word
passes through `escape`; names and ids in DOT are serial numbers, never a user's word.  No shell is
used, no program in the current folder is run, and standard output is the only way back.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tinygrad_cnn.errors import VizError
from tinygrad_cnn.viz.diagram import Card, Diagram, Edge, Group
from tinygrad_cnn.viz.labels import LIGHT as C
from tinygrad_cnn.viz.labels import RAMP, escape, to_dark
from tinygrad_cnn.viz.layout import (
    EDGE_SIZE,
    GROUP_SIZE,
    MARGIN,
    ROW_SIZE,
    Box,
    Layout,
    Route,
    measure,
)

__all__ = ["Engine", "candidates", "engines", "place", "to_dot"]

_POINT = 72 / 96                            # of a pixel
_STRAIGHT = 8                               # pieces of a curve


def to_dot(diagram: Diagram, *, theme: str = "light", titled: bool = True) -> str:
    """Write a diagram in the language of Graphviz; equal diagrams give equal text.

    The theme ``dark`` gives dark colors.  Each card is a box with its lines as plain text, so the
    text can be edited.
    """
    lines = ["digraph {",
             f'  graph [rankdir={diagram.direction}, bgcolor="{C["page"]}", fontname="Arial", '
             f'fontcolor="{C["ink"]}", nodesep=0.45, ranksep=0.40, splines=true, labelloc=t, '
             f"label={_quoted(f'{diagram.title}: {diagram.subtitle}' * titled)}];",
             f'  node [shape=box, style="rounded,filled", fixedsize=true, fontname="Arial", '
             f'fontsize={ROW_SIZE * _POINT:.1f}, fontcolor="{C["ink"]}"];',
             f'  edge [fontname="Arial", fontsize={EDGE_SIZE * _POINT:.1f}, arrowsize=0.6];',
             *_cards_in_groups(diagram), *map(_edge, diagram.edges)]
    text = "\n".join([*lines, "}", ""])
    return to_dark(text) if theme == "dark" else text


def _quoted(text: str, limit: int = 300) -> str:
    return f'"{escape(text, limit)}"'


def _card(card: Card) -> str:
    w, h = measure(card)
    rows = (("! " if r.kind == "warning" else "") + r.text + r.hot + r.after for r in card.rows)
    title = " ".join(filter(None, (card.badge, card.title, card.tag)))
    label = "".join(escape(line) + "\\l" for line in (title, *rows))
    fill, line = card.colors
    shape = ", peripheries=3" if card.kind == "stack" else ""
    return (f'{card.id} [width={w / 96:.2f}, height={h / 96:.2f}, fillcolor="{C[fill]}", '
            f'color="{C[line]}", tooltip={_quoted(card.tip)}, label="{label}"{shape}];')


def _cards_in_groups(diagram: Diagram) -> Iterable[str]:
    """Node statements and ranks inside the clusters of their modules; each is opened once."""
    held: dict[str, list[str]] = {"": [], **{group.id: [] for group in diagram.groups}}
    beside: dict[str, list[str]] = {}
    for card in diagram.cards:
        held[card.group].append("    " + _card(card))
        if card.beside:
            beside.setdefault(card.beside, []).append(card.id)
    for card in diagram.cards:                  # a rank outside its cluster would empty the cluster
        if card.id in beside:
            row = "; ".join([card.id, *beside[card.id]])
            held[card.group].append(f"    {{ rank=same; {row}; }}")
    for group in reversed(diagram.groups):     # inner groups come after the ones around them
        lines = held[group.id]
        held[group.parent] += [_cluster(group), *lines, "  }"]
    return held[""]


def _cluster(group: Group) -> str:
    role = "module_inner" if group.parent else "module"
    return (f'  subgraph cluster_{group.id} {{ labeljust=l; style="rounded,filled"; '
            f'fillcolor="{C[role]}"; color="{C["module_line"]}"; margin=12; '
            f"fontsize={GROUP_SIZE * _POINT:.1f}; label={_quoted(group.title, 72)};")


def _edge(edge: Edge) -> str:
    words = filter(None, (edge.text, edge.gradient and edge.text and f"grad {edge.gradient}"))
    label = "\\n".join(escape(w) for w in words)
    color = C["line"] if edge.level < 0 else f"{C['line']}:{RAMP[edge.level]}"
    return (f'  {edge.source} -> {edge.target} [id="{edge.id}", weight={60 if edge.trunk else 1}, '
            f'color="{color}", tooltip={_quoted(edge.tip)}, label="{label}"];')


# ---- places --------------------------------------------------------------------------------------

def place(engine: Engine, diagram: Diagram) -> Layout:
    """Where a program puts everything; a VizError if it fails, hangs or loses something."""
    found = json.loads(_run(engine, to_dot(diagram, titled=False)))
    _, _, w, h = (float(v) / _POINT for v in found["bb"].split(","))

    def at(x: str, y: str) -> tuple[int, int]:
        return round(float(x) / _POINT), round(h - float(y) / _POINT)

    cards, groups = {}, {}
    for o in found.get("objects", ()):
        if o["name"].startswith("cluster_"):
            x0, y0, x1, y1 = o["bb"].split(",")
            (left, bottom), (right, top) = at(x0, y0), at(x1, y1)
            groups[o["name"].removeprefix("cluster_")] = Box(left, top, right - left, bottom - top)
        elif "pos" in o:
            x, y = at(*o["pos"].split(","))
            wide, high = (round(float(o[k]) * 96) for k in ("width", "height"))
            cards[o["name"]] = Box(x - wide // 2, y - high // 2, wide, high)
    routes = []
    for e in found.get("edges", ()):
        words = e["pos"].split()
        end = [at(*p[2:].split(",")) for p in words if p[:2] == "e,"]
        points = [at(*p.split(",")) for p in words if p[:2] not in ("e,", "s,")]
        label = at(*e["lp"].split(",")) if "lp" in e else (0, 0)
        routes.append(Route(e["id"], (*_flat(points), *end), (label[0] + 6, label[1] - 2),
                            "middle"))
    if cards.keys() != {c.id for c in diagram.cards} or len(routes) != len(diagram.edges):
        raise VizError(f"graph: {engine.where} lost a part; engine='builtin' needs no program")
    return Layout(round(w), round(h), cards, groups, tuple(routes), 0).moved(
        MARGIN, MARGIN, round(w) + 2 * MARGIN, round(h) + 2 * MARGIN)


def _flat(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Bezier curves as short straight pieces."""
    out = points[:1]
    for k in range(0, len(points) - 3, 3):
        four = points[k:k + 4]
        for n in range(1, _STRAIGHT + 1):
            t = n / _STRAIGHT
            parts = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t ** 3)
            out.append((round(sum(f * x for f, (x, _) in zip(parts, four, strict=True))),
                        round(sum(f * y for f, (_, y) in zip(parts, four, strict=True)))))
    return out


# ---- engines -------------------------------------------------------------------------------------

VARIABLE = "TINYGRAD_CNN_ENGINE"
NAMES = ("pure", "dot", "builtin", "text")
_SECONDS = 30
_INSTALL = {"pure": "pip install graphviz-pure",
            "dot": "apt install graphviz, or brew install graphviz"}


@dataclass(frozen=True)
class Engine:
    """What can lay out a graph."""

    name: str                               # of NAMES, or "path" for a program given by its path
    where: str                              # absolute path of a program, or a few words

    @property
    def is_program(self) -> bool:
        """Whether it runs as a process of its own."""
        return self.name in ("pure", "dot", "path")


_ALWAYS = (Engine("builtin", "the layout of tinygrad_cnn"), Engine("text", "lines of text"))


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
        found.append(Engine("pure", pure))
    dot = shutil.which("dot", path=path)
    if dot and _trusted(dot, folder):
        found.append(Engine("dot", dot))
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


def candidates(engine: str | None = None) -> tuple[Engine, ...]:
    """The engines to try for a picture, best first; one alone if it was named.

    ``engine`` is a name of `Engine`, or the path of a program that understands ``-Tjson``; the
    environment variable ``TINYGRAD_CNN_ENGINE`` is its default.  A VizError says why a named engine
    cannot be used.
    """
    wanted = engine or os.environ.get(VARIABLE) or None
    found = engines()
    if wanted is None:
        return tuple(e for e in found if e.name != "text")
    if wanted == "graphviz-pure":
        wanted = "pure"
    if wanted == "text":
        raise VizError("graph: engine 'text' draws no picture; print the figure, or save it as "
                       ".txt")
    if wanted in NAMES:
        hit = next((e for e in found if e.name == wanted), None)
        if hit is None:
            raise VizError(f"graph: engine {wanted!r} is not installed; {_INSTALL[wanted]}, "
                           "or leave engine= out")
    elif os.path.isabs(wanted) and os.access(wanted, os.X_OK) and Path(wanted).is_file():
        hit = Engine("path", wanted)
    else:
        raise VizError(f"graph: engine {wanted!r} is unknown; choose from {', '.join(NAMES)}, "
                       "or give the absolute path of a program")
    return (hit,)


def _run(engine: Engine, dot: str) -> bytes:
    try:
        done = subprocess.run([engine.where, "-Kdot", "-Tjson"], input=dot.encode(),
                              capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise VizError(f"graph: {engine.where} took more than {_SECONDS} s; "
                       "fold harder with level='folded', or use engine='builtin'") from None
    except OSError as error:
        raise VizError(f"graph: {engine.where} cannot be run: {error.strerror}; "
                       "leave engine= out to use another") from None
    words = done.stderr.decode(errors="replace").strip()
    # Engines go on after a syntax error in a label, with the label lost.
    if done.returncode or not done.stdout.startswith(b"{") or "syntax error" in words:
        last = words.splitlines()[-1][-200:] if words else f"exit code {done.returncode}"
        raise VizError(f"graph: {engine.where} failed: {last}; engine='builtin' needs no program")
    return done.stdout
