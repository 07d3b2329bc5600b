"""A graph as text: for a terminal, Mermaid, LaTeX and Graphviz, and canonical text for tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tinygrad_cnn.viz.capture import Recording, entry_names
from tinygrad_cnn.viz.diagram import Card, Diagram, Edge, Group
from tinygrad_cnn.viz.labels import LIGHT, RAMP, clean, escape, shape_text, to_dark
from tinygrad_cnn.viz.layout import EDGE_SIZE, GROUP_SIZE, ROW_SIZE, Layout, measure

__all__ = ["FORMAT", "canonical", "canonical_line", "shapes", "to_dot", "to_mermaid", "to_text",
           "to_tikz"]

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
    facts = [clean(r.text + r.hot + r.after) for r in card.rows if r.kind == "text"]
    facts += ["".join(_HEIGHTS[level] for level in r.levels) + " " + clean(r.text)
              for r in card.rows if r.levels]
    name = _CHANGES.get(card.change, "") + (f"{card.badge} " if card.badge else "") \
        + clean(card.title) + _number(card)
    read = f"  reads {', '.join(others)}" if others else ""
    yield f"{indent + name:<30}  {' | '.join(facts)}{read}".rstrip()
    for row in card.rows:
        if row.kind == "warning":
            yield f"{indent}  ! {clean(row.text)}"


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
    rows = [_mermaid(("! " if r.kind == "warning" else "") + r.text + r.hot + r.after)
            for r in card.rows]
    label = "<br/>".join([f"<b>{_mermaid(card.title)}</b>", *rows])
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
        "µ": "$\\mu$", "²": "$^2$", "<": "$<$", ">": "$>$", "\u00a0": "~",
        **{c: f"\\{c}" for c in "{}$&#_%"}}


def to_tikz(diagram: Diagram, places: Layout) -> str:
    """A ``tikzpicture`` for a paper, a pixel as 0.75 points; it needs the package tikz alone."""
    used = {role: LIGHT[role] for card in diagram.cards for role in card.colors}
    used |= {"line": LIGHT["line"], **{f"ramp{k}": color for k, color in enumerate(RAMP)}}
    lines = [f"\\definecolor{{{_color(role)}}}{{HTML}}{{{color[1:].upper()}}}"
             for role, color in used.items()]
    lines.append("\\begin{tikzpicture}[x=0.75pt, y=-0.75pt, font=\\sffamily\\fontsize{8}{9.5}"
                 "\\selectfont]")
    for g in diagram.groups:
        if g.id in places.groups:
            b = places.groups[g.id]
            lines.append(f"\\draw[rounded corners=8pt, gray!60] ({b.x},{b.y}) rectangle "
                         f"({b.right},{b.bottom});\n\\node[anchor=north west] at ({b.x},{b.y}) "
                         f"{{\\textbf{{{_tex(g.title)}}}}};")
    edges = {e.id: e for e in diagram.edges}
    for route in places.routes:
        level = edges[route.edge].level
        for points, color in ((route.points, "line"), (route.points[::-1], f"ramp{level}")):
            if color != "ramp-1":
                way = " -- ".join(f"({x},{y})" for x, y in points)
                shift = "" if level < 0 else ", transform canvas={shift={(1.2pt,1.2pt)}}" \
                    if color == "line" else ", transform canvas={shift={(-1.2pt,-1.2pt)}}"
                lines.append(f"\\draw[->, {_color(color)}, rounded corners=4pt{shift}] {way};")
    for card in diagram.cards:
        b = places.cards[card.id]
        fill, line = (_color(role) for role in card.colors)
        rows = [_tex(r.text + r.hot + r.after) for r in card.rows]
        head = f"\\textbf{{{_tex(card.title)}}}" + (f" {_tex(card.tag)}" if card.tag else "")
        lines.append(
            f"\\node[draw={line}, fill={fill}, rounded corners=3pt, align=left, minimum width="
            f"{b.w * 0.75:.0f}pt, minimum height={b.h * 0.75:.0f}pt] at ({b.x + b.w // 2},"
            f"{b.y + b.h // 2}) {{" + " \\\\ ".join(filter(None, (head, *rows))) + "};")
    return "\n".join([*lines, "\\end{tikzpicture}", ""])


def _color(role: str) -> str:
    return f"net{role.replace('_', '')}"    # no name of TikZ or of a package


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in clean(text))


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
    rows = (("! " if r.kind == "warning" else "") + r.text + r.hot + r.after for r in card.rows)
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
