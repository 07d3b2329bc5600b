"""DOT text of a diagram: pure text, made without any engine.

Every word passes through `escape`; names and ids in DOT are serial numbers, never a user's word.
What engines get wrong shapes this file: a list of fonts loses its widths without pango, so there
is one, Arial; an empty ``<FONT>`` loses the label; nested tables stretch unless they are fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tinygrad_cnn.viz.diagram import Card, Diagram, Edge, Group, Row, Scale
from tinygrad_cnn.viz.palette import LIGHT as C
from tinygrad_cnn.viz.palette import RAMP, STRIPS, to_dark
from tinygrad_cnn.viz.text import escape

__all__ = ["LEGEND_NAMES", "LOOKS", "to_dot"]

LOOKS = {"input": ("input_fill", "input_line"), "parameter": ("param_fill", "param_line"),
         "label": ("label_fill", "label_line"), "constant": ("label_fill", "label_line"),
         "loss": ("loss_fill", "loss_line")}
LEGEND_NAMES = {"activation": "input, activation", "param": "parameter", "conv": "conv, linear",
                "pool": "pooling, reduction", "norm": "norm, element-wise",
                "shape": "shape, random", "loss": "loss"}
_PLAIN = 'BORDER="0" CELLBORDER="0" CELLSPACING="0"'
_SQUARE, _BAR = 16, 80


def to_dot(diagram: Diagram, *, figure: str = "f1", theme: str = "light") -> str:
    """Write a diagram in the language of Graphviz.

    Parameters
    ----------
    diagram : Diagram
        What to draw.
    figure : str, default "f1"
        Prefix of the ids in the SVG, so that two figures can share a page.
    theme : str, default "light"
        ``dark`` gives dark colours; any other value the light ones, which CSS can turn dark.

    Returns
    -------
    str
        The same text for equal diagrams.
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
    lines += _legend_lines(diagram)
    text = "\n".join([*lines, "}", ""])
    return to_dark(text) if theme == "dark" else text


# ---- words ---------------------------------------------------------------------------------------

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


def _cell(width: int, height: int, colour: str) -> str:
    return f'<TD FIXEDSIZE="TRUE" WIDTH="{width}" HEIGHT="{height}" BGCOLOR="{colour}"></TD>'


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
            f'<TD ALIGN="RIGHT">{_font(_apart(card.tag), 8.5)}</TD>'
            f'<TD ROWSPAN="{n}" WIDTH="3" CELLPADDING="0"></TD>')
    space = '<TR><TD COLSPAN="6" HEIGHT="3" CELLPADDING="0"></TD></TR>'
    rows = "\n      ".join(f"<TR>{r}</TR>" for r in (head, *map(_row, card.rows)))
    fill, line = card_colours(card)
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


def _apart(tag: str) -> str:
    return f"\u00a0\u00a0{tag}" if tag else ""


def card_colours(card: Card) -> tuple[str, str]:
    """The roles of a card's fill and border."""
    if card.change:
        return f"{card.change}_fill", f"{card.change}_line"
    return LOOKS.get(card.kind, ("card", "card_line"))


def _cards_in_groups(diagram: Diagram, figure: str) -> Iterable[str]:
    """Node statements and ranks inside the clusters of their modules; each is opened once."""
    held: dict[str, list[str]] = {"": []}
    for group in diagram.groups:
        held[group.id] = []
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
        label += _font("\u00a0\u00a0\u00a0" + group.note, 9.5)
    return (f'  subgraph cluster_{group.id} {{ id="{figure}-{group.id}"; class="module"; '
            f"tooltip={_quoted(group.path or group.title)}; labeljust=l; labelloc=t; "
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
    """One edge; a parameter on the right is written reader -> parameter, with swapped colours."""
    label = _font("\u00a0\u00a0" + edge.text, 9, "line") if edge.text else ""
    if edge.level < 0:
        look = f'color="{C["line"]}"' + (", dir=back" if swap else "")
    else:
        pink = RAMP[edge.level]
        if label:
            words = _font("\u00a0\u00a0grad\u00a0" + edge.gradient, 8.5, "grad_text")
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


def legend_strips(diagram: Diagram) -> list[str]:
    """The strips that the cards of a diagram wear, in the order of the legend."""
    worn = {STRIPS[card.family] for card in diagram.cards}
    return [strip for strip in LEGEND_NAMES if strip in worn]


def _legend(diagram: Diagram) -> str:
    gap = "\u00a0\u00a0"
    swatches = "".join(_cell(14, 10, C[s]) + f'<TD ALIGN="LEFT">{_font(LEGEND_NAMES[s] + gap)}</TD>'
                       for s in legend_strips(diagram))
    rows = [swatches, f'<TD ALIGN="LEFT">{_font((gap * 2).join(diagram.notes), limit=200)}</TD>']
    if has_scale(diagram):
        rows[1] = _scale_cells(diagram.scale, gap) + rows[1]
    inner = "".join(f'<TR><TD ALIGN="LEFT"><TABLE ALIGN="LEFT" {_PLAIN} CELLPADDING="2"><TR>{r}'
                    "</TR></TABLE></TD></TR>" for r in rows)
    return (f'<TABLE BORDER="1" COLOR="{C["card_line"]}" BGCOLOR="{C["card"]}" STYLE="ROUNDED" '
            f'CELLBORDER="0" CELLSPACING="2" CELLPADDING="1">{inner}</TABLE>')


def has_scale(diagram: Diagram) -> bool:
    """Whether anything in the picture wears a colour of the ramp."""
    return (any(e.level >= 0 for e in diagram.edges)
            or any(row.levels for card in diagram.cards for row in card.rows))


def _scale_cells(scale: Scale, gap: str) -> str:
    words = _font(scale.name + gap + scale.low, 9, "grad_text")
    end = _font(scale.high + gap, 9, "grad_text")
    return f"<TD>{words}</TD>{''.join(_cell(26, 10, c) for c in RAMP)}<TD>{end}</TD>"


def _legend_lines(diagram: Diagram) -> Iterable[str]:
    yield f'  legend [class="legend", tooltip="legend", label=<{_legend(diagram)}>];'
    if diagram.cards:
        yield f"  {diagram.cards[-1].id} -> legend [style=invis, weight=60];"
