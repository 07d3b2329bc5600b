"""A graph as text: a terminal's, Mermaid, LaTeX, draw.io, Graphviz, and canonical for tests."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence

from tinygrad_cnn.viz.capture import Recording, entry_names
from tinygrad_cnn.viz.diagram import Card, Diagram, Edge, Group
from tinygrad_cnn.viz.labels import LIGHT, RAMP, STRIPS, clean, escape, shape_text, to_dark
from tinygrad_cnn.viz.layout import (
    EDGE_SIZE,
    GROUP_SIZE,
    ROW_SIZE,
    Box,
    Layout,
    Route,
    measure,
    strip_width,
)

__all__ = ["FORMAT", "canonical", "canonical_line", "shapes", "to_dot", "to_drawio", "to_mermaid",
           "to_text", "to_tikz"]

FORMAT = "tinygrad_cnn graph 1"
_HEIGHTS = "▁▃▅▆█"
_CHANGES = {"added": "+ ", "removed": "- ", "changed": "~ "}


def canonical(recording: Recording, *, batch: str | None = None) -> str:
    """One line for each tensor in recording order; no values, times, addresses or source lines.

    ``batch`` stands for the size of the batch: as `viz.describe_module` found it in a second run
    with another batch; in the graph of a tensor, on the first axis of what an input led to.  Runs
    of the same structure give the same text on every machine.
    """
    names = [clean(n) for n in entry_names(recording)]
    lines = (canonical_line(recording, i, names, shape)
             for i, shape in enumerate(shapes(recording, batch)))
    return "\n".join([FORMAT, *lines, ""])


def shapes(recording: Recording, batch: str | None) -> list[str]:
    """The shape of each entry, with a name for the batch."""
    found: list[str] = []
    counted = any(e.symbolic for e in recording.entries)
    size, behind = recording.batch, set[int]()
    for i, e in enumerate(recording.entries):
        dims: list[int | str] = list(e.shape)
        if e.role in ("input", "label") or not behind.isdisjoint(e.inputs):
            behind.add(i)
        if batch and e.symbolic:
            dims = [d.replace("N", batch) for d in e.symbolic]
        elif batch and size and dims and i in behind and (not counted or e.role == "label"):
            times, rest = divmod(e.shape[0], size)
            if times == 1 and not rest:
                dims[0] = batch
            elif times and not rest and e.op == "reshape":
                dims[0] = f"{times}{batch}"
        found.append(shape_text(dims))
    return found


def canonical_line(recording: Recording, i: int, names: Sequence[str],
                   shape: str = "") -> str:
    """The line of entry ``i``, with ``shape`` in place of its own."""
    e = recording.entries[i]
    what = f"{e.op}({', '.join(clean(s) for s in e.settings)})" if e.op else e.role
    reads = "".join(f" {names[j]}" for j in e.inputs)
    return f"{names[i]} = {what}{reads} -> {shape or shape_text(e.shape)} {e.dtype}"


def to_text(diagram: Diagram) -> str:
    """A line for each card, indented by module: name, facts, gradient; warnings below.

    What a card reads is named only where it is not the card above it.
    """
    lines = [clean(diagram.title), clean(diagram.subtitle, 200), ""]
    groups = {g.id: g for g in diagram.groups}
    titles = {c.id: clean(c.title) + _number(c) for c in diagram.cards}
    beside = {c.id for c in diagram.cards if c.beside}
    reads: dict[str, list[str]] = {}
    for e in diagram.edges:
        if e.source not in beside:
            reads.setdefault(e.target, []).append(e.source)
    opened: list[str] = []
    above = ""
    for card in diagram.cards:
        chain: list[str] = []               # the module of the card and those around it
        group = card.group
        while group:
            chain.insert(0, group)
            group = groups[group].parent
        for k, name in enumerate(chain):
            if opened[:k + 1] != chain[:k + 1]:
                note = clean(groups[name].note)
                lines.append(f"{'  ' * k}[{clean(groups[name].title)}]{note and '  ' + note}")
        opened = chain
        others = [titles[s] for s in reads.get(card.id, ()) if s != above]
        lines.extend(_card_lines(card, "  " * len(chain), others))
        if not card.beside:
            above = card.id
    return "\n".join(lines) + "\n"


def _number(card: Card) -> str:
    return f" {card.tag}" if card.tag.startswith("#") else ""


def _card_lines(card: Card, indent: str, others: list[str]) -> Iterator[str]:
    facts = [clean(r.words) for r in card.rows if r.kind == "text"]
    for row in card.rows:
        most = max(row.levels, default=0) if row.kind in ("values", "gradients") else 4
        facts += ["".join(_HEIGHTS[-(-4 * n // (most or 1))] for n in row.levels)
                  + f" {clean(row.text)}"] if row.levels else []
    name = _CHANGES.get(card.change, "") + (f"{card.badge} " if card.badge else "") \
        + clean(card.title) + _number(card)
    read = f"  reads {', '.join(others)}" if others else ""
    yield f"{indent + name:<30}  {' | '.join(facts)}{read}".rstrip()
    yield from (f"{indent}  {clean(row.words)}" for row in card.rows if row.kind == "warning")


# ---- Mermaid -------------------------------------------------------------------------------------

def to_mermaid(diagram: Diagram) -> str:
    """A flow chart that Markdown pages of code hosts draw; folded as the diagram is."""
    inside: dict[str, list[str]] = {"": [], **{g.id: [] for g in diagram.groups}}
    for card in diagram.cards:
        inside[card.group].append(_mermaid_card(card))
    for g in reversed(diagram.groups):
        body = [f"  {line}" for line in inside[g.id]]
        inside[g.parent] += [f'subgraph {g.id}["{_mermaid(g.title)}"]', *body, "end"]
    lines = [f"flowchart {diagram.direction}", *(f"  {line}" for line in inside[""])]
    for e in diagram.edges:
        label = " · ".join(filter(None, (e.text, f"grad {e.gradient}" if e.gradient else "")))
        arrow = f'-->|"{_mermaid(label)}"|' if label else "-->"
        lines.append(f"  {e.source} {arrow} {e.target}")
    classes: dict[tuple[str, str], list[str]] = {}
    for card in diagram.cards:
        classes.setdefault(card.colors, []).append(card.id)
    for (fill, line), members in classes.items():
        lines.append(f"  classDef {fill} fill:{LIGHT[fill]},stroke:{LIGHT[line]},"
                     f"color:{LIGHT['ink']}")
        lines.append(f"  class {','.join(members)} {fill}")
    return "\n".join(lines) + "\n"


def _mermaid_card(card: Card) -> str:
    rows = (_mermaid(r.words) for r in card.rows)
    label = "<br/>".join([f"<b>{_mermaid(card.title)}</b>", *filter(None, rows)])
    left, right = ("[[", "]]") if card.kind == "stack" else ("([", "])") if card.kind == "input" \
        else ("[", "]")
    return f'{card.id}{left}"{label}"{right}'


def _mermaid(text: str) -> str:
    """Letters, digits and a few harmless signs as they are; everything else as an entity."""
    return "".join(c if c.isalnum() or c in " .,_-+×·→…%µ()" else f"#{ord(c)};"
                   for c in clean(text))


# ---- LaTeX ---------------------------------------------------------------------------------------

_TEX = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
        "×": "$\\times$", "·": "$\\cdot$", "→": "$\\to$", "…": "\\dots{}", "−": "$-$",
        "∇": "$\\nabla$", "∂": "$\\partial$", "µ": "$\\mu$", "²": "$^2$",
        "<": "$<$", ">": "$>$", "\u00a0": "~",
        **{c: f"\\{c}" for c in "{}$&#_%"}}


def to_tikz(diagram: Diagram, places: Layout) -> str:
    """A ``tikzpicture`` for a paper, a pixel as 0.75 points; it needs the package tikz alone."""
    used = dict.fromkeys(role for card in diagram.cards
                         for role in (*card.colors, STRIPS[card.family]))
    used |= dict.fromkeys(("line", "grad_text", "module", "module_line",
                           *(f"ramp{k}" for k in range(len(RAMP)))))
    lines = [f"\\definecolor{{{_color(role)}}}{{HTML}}{{{LIGHT[role][1:].upper()}}}"
             for role in used]
    # pdflatex has no other letters, and stops at one; LuaLaTeX and XeLaTeX have.
    lines.append("\\def\\netchar#1{\\ifdefined\\pdfoutput?\\else\\char\"#1\\relax\\fi}")
    lines.append("\\begin{tikzpicture}[x=0.75pt, y=-0.75pt, inner sep=0pt, "
                 "font=\\sffamily\\fontsize{8}{9.5}\\selectfont]")

    def filled(box: Box, fill: str, line: str, corners: float, text: str, x: int, y: float,
               anchor: str) -> None:
        border = f", draw={_color(line)}" if line else ""
        lines.append(f"\\path[fill={_color(fill)}{border}, rounded corners={corners:g}pt] "
                     f"({box.x},{box.y}) rectangle ({box.right},{box.bottom});")
        if text:
            lines.append(f"\\node[anchor={anchor}, align=left] at ({x},{y:g}) {{{text}}};")

    for g in diagram.groups:
        if g.id in places.groups:
            b = places.groups[g.id]
            filled(b, "module", "module_line", 8, f"\\textbf{{{_tex(g.title)}}}", b.x + 12, b.y + 8,
                   "north west")
    edges = {e.id: e for e in diagram.edges}
    for route in places.routes:
        e = edges[route.edge]
        for points, color, shift in ((route.points, "line", 1.2 * (e.level >= 0)),
                                     (route.points[::-1], f"ramp{e.level}", -1.2)):
            if color != "ramp-1":
                way = " -- ".join(f"({x},{y})" for x, y in points)
                lines.append(f"\\draw[->, {_color(color)}, rounded corners=4pt, "
                             f"transform canvas={{shift={{({shift}pt,{shift}pt)}}}}] {way};")
        if e.text and route.anchor:
            grad = e.gradient and f" \\\\{{}} \\color{{{_color('grad_text')}}}grad {e.gradient}"
            anchor = "east" if route.anchor == "end" else "west"
            lines.append(f"\\node[anchor={anchor}, align=left] "
                         f"at ({route.label[0]},{route.label[1] + (3 if grad else -4)}) "
                         f"{{{_tex(e.text)}{grad}}};")
    for card in diagram.cards:
        b, strip = places.cards[card.id], strip_width(card)
        middle = b.y + b.h / 2
        rows = [_tex(r.words) for r in card.rows]
        head = f"\\textbf{{{_tex(card.title)}}}" + (f" {_tex(card.tag)}" if card.tag else "")
        filled(b, *card.colors, 5, " \\\\{} ".join(filter(None, (head, *rows))), b.x + strip + 16,
               middle, "west")
        filled(Box(b.x + 7, b.y + 7, strip, b.h - 14), STRIPS[card.family], "", 2,
               f"\\textbf{{{card.badge}}}" if card.badge else "", b.x + 7 + strip // 2, middle,
               "center")
    return "\n".join([*lines, "\\end{tikzpicture}", ""])


def _color(role: str) -> str:
    return f"net{role.replace('_', '')}"    # no name of TikZ or of a package


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c if ord(c) < 256 else f"\\netchar{{{ord(c):X}}}")
                   for c in clean(text))


# ---- draw.io -------------------------------------------------------------------------------------

def to_drawio(diagram: Diagram, places: Layout) -> str:
    """XML for draw.io (diagrams.net): modules are containers, and lines stay on what they join."""
    def cell(name: str, words: Iterable[str], style: str, box: Box, parent: str) -> str:
        around = places.groups.get(parent) or places.cards.get(parent)
        x, y = (box.x - around.x, box.y - around.y) if around else (box.x, box.y)
        first, *rest = map(escape, words)
        label = "<br>".join((f"<b>{first}</b>", *rest))
        return (f'<mxCell id="{name}" value="{html.escape(label)}" style="html=1;{style}" '
                f'vertex="1" parent="{parent}"><mxGeometry x="{x}" y="{y}" width="{box.w}" '
                f'height="{box.h}" as="geometry"/></mxCell>')

    def colored(fill: str, line: str, size: float, arc: int = 20) -> str:
        return (f"rounded=1;absoluteArcSize=1;arcSize={arc};fontFamily=Arial;fontSize={size:g};"
                f"fontColor={LIGHT['ink']};fillColor={LIGHT[fill]};"
                f"strokeColor={LIGHT[line] if line else 'none'};")

    boxes = {g.id: g for g in diagram.groups if g.id in places.groups}
    outer = {g.id: g.parent for g in diagram.groups}

    def inside(name: str) -> str:
        while name and name not in boxes:
            name = outer[name]
        return name or "1"

    cells = [cell(g.id, [g.title], colored("module", "module_line", GROUP_SIZE, 28)
                  + "container=1;collapsible=0;align=left;verticalAlign=top;spacingLeft=10;",
                  places.groups[g.id], inside(g.parent)) for g in boxes.values()]
    for card in diagram.cards:
        b, strip = places.cards[card.id], strip_width(card)
        rows = filter(None, (r.words for r in card.rows))
        thick = "strokeWidth=4;" if card.kind == "stack" else ""
        cells += [cell(card.id, [f"{card.title}  {card.tag}".strip(), *rows],
                       colored(*card.colors, ROW_SIZE) + f"align=left;spacingLeft={strip + 12};"
                       f"whiteSpace=wrap;overflow=hidden;{thick}", b, inside(card.group)),
                  cell(f"{card.id}s", [card.badge], colored(STRIPS[card.family], "", 15.5, 6)
                       + "connectable=0;", Box(b.x + 7, b.y + 7, strip, b.h - 14),
                       card.id)]
    edges = {e.id: e for e in diagram.edges}
    for route in places.routes:
        e = edges[route.edge]
        there, back = route.points, route.points[::-1]
        shift = 0 if e.level < 0 else 2
        cells.append(_drawio_edge(e.id, e.source, e.target, "line", shift, there, places, e, route))
        if e.level >= 0:
            cells.append(_drawio_edge(f"{e.id}g", e.target, e.source, f"ramp{e.level}", -2, back,
                                      places))
    body = "\n".join(('<mxCell id="0"/>', '<mxCell id="1" parent="0"/>', *cells))
    return (f'<mxfile host="tinygrad_cnn"><diagram id="graph" name="{escape(diagram.title)}">\n'
            f'<mxGraphModel grid="0" page="0" pageWidth="{places.width}" '
            f'pageHeight="{places.height}"><root>\n{body}\n</root></mxGraphModel>\n'
            "</diagram></mxfile>\n")


def _drawio_edge(name: str, source: str, target: str, color: str, shift: int,
                 points: Sequence[tuple[int, int]], places: Layout, labelled: Edge | None = None,
                 route: Route | None = None) -> str:
    moved = [(x + shift, y + shift) for x, y in points]
    ends = ""
    for end, card, (x, y) in (("exit", source, moved[0]), ("entry", target, moved[-1])):
        b = places.cards[card]
        across, down = (min(1.0, max(0.0, v)) for v in ((x - b.x) / b.w, (y - b.y) / b.h))
        ends += f"{end}X={across:.3f};{end}Y={down:.3f};{end}Perimeter=0;"
    corners = "".join(f'<mxPoint x="{x}" y="{y}"/>' for x, y in moved[1:-1])
    label = offset = ""
    if labelled and route and labelled.text:
        dx, dy = route.label[0] - moved[0][0], route.label[1] - moved[0][1]
        offset = f'<mxPoint x="{dx}" y="{dy}" as="offset"/>'
        ends += f"align={'right' if route.anchor == 'end' else 'left'};"
        label = escape(labelled.text)
        if labelled.gradient:
            label += f'<br><font color="{LIGHT["grad_text"]}">grad {labelled.gradient}</font>'
    return (f'<mxCell id="{name}" value="{html.escape(label)}" style="html=1;rounded=1;endArrow='
            f"block;endSize=4;labelBackgroundColor=none;fontFamily=Arial;fontSize={EDGE_SIZE:g};"
            f"fontColor={LIGHT['line']};strokeColor={LIGHT[color]};strokeWidth=1.6;{ends}"
            f'" edge="1" parent="1" source="{source}" target="{target}"><mxGeometry x="-1" '
            f'relative="1" as="geometry"><Array as="points">{corners}</Array>{offset}'
            "</mxGeometry></mxCell>")


# ---- Graphviz ------------------------------------------------------------------------------------

def to_dot(diagram: Diagram, *, theme: str = "light") -> str:
    """A diagram in the language of Graphviz; no name or id in it is a user's word."""
    lines = ["digraph {",
             f'  graph [rankdir={diagram.direction}, bgcolor="{LIGHT["page"]}", fontname="Arial", '
             f'fontcolor="{LIGHT["ink"]}", nodesep=0.45, ranksep=0.40, splines=true, labelloc=t, '
             f"label={_quoted(f'{diagram.title}: {diagram.subtitle}')}];",
             f'  node [shape=box, style="rounded,filled", fixedsize=true, fontname="Arial", '
             f'fontsize={ROW_SIZE * 0.75:.1f}, fontcolor="{LIGHT["ink"]}"];',
             f'  edge [fontname="Arial", fontsize={EDGE_SIZE * 0.75:.1f}, arrowsize=0.6];',
             *_cards_in_groups(diagram), *map(_dot_edge, diagram.edges)]
    text = "\n".join([*lines, "}", ""])
    return to_dark(text) if theme == "dark" else text


def _quoted(text: str, limit: int = 300) -> str:
    return f'"{escape(text, limit)}"'


def _dot_card(card: Card) -> str:
    w, h = measure(card)
    rows = filter(None, (r.words for r in card.rows))
    title = " ".join(filter(None, (card.badge, card.title, card.tag)))
    label = "".join(escape(line) + "\\l" for line in (title, *rows))
    fill, line = card.colors
    shape = ", peripheries=3" if card.kind == "stack" else ""
    return (f'{card.id} [width={w / 96:.2f}, height={h / 96:.2f}, fillcolor="{LIGHT[fill]}", '
            f'color="{LIGHT[line]}", tooltip={_quoted(card.tip)}, label="{label}"{shape}];')


def _cards_in_groups(diagram: Diagram) -> Iterable[str]:
    """Node statements and ranks inside the clusters of their modules; each is opened once."""
    held: dict[str, list[str]] = {"": [], **{group.id: [] for group in diagram.groups}}
    beside: dict[str, list[str]] = {}
    for card in diagram.cards:
        held[card.group].append("    " + _dot_card(card))
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
            f'fillcolor="{LIGHT[role]}"; color="{LIGHT["module_line"]}"; margin=12; '
            f"fontsize={GROUP_SIZE * 0.75:.1f}; label={_quoted(group.title, 72)};")


def _dot_edge(edge: Edge) -> str:
    words = filter(None, (edge.text, edge.gradient and edge.text and f"grad {edge.gradient}"))
    label = "\\n".join(escape(w) for w in words)
    color = LIGHT["line"] if edge.level < 0 else f"{LIGHT['line']}:{RAMP[edge.level]}"
    return (f'  {edge.source} -> {edge.target} [id="{edge.id}", weight={60 if edge.trunk else 1}, '
            f'color="{color}", tooltip={_quoted(edge.tip)}, label="{label}"];')
