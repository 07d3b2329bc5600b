"""A diagram in words: lines for a terminal, and a flow chart in the language of Mermaid."""

from __future__ import annotations

from collections.abc import Iterator

from tinygrad_cnn.viz.diagram import Card, Diagram, Group
from tinygrad_cnn.viz.dot import card_colours
from tinygrad_cnn.viz.palette import LIGHT
from tinygrad_cnn.viz.text import clean

__all__ = ["to_mermaid", "to_text"]

_HEIGHTS = "▁▃▅▆█"
_CHANGES = {"added": "+ ", "removed": "- ", "changed": "~ "}


def to_text(diagram: Diagram) -> str:
    """A line for each card, indented by module: name, facts, gradient; warnings below.

    What a card reads is named only where it is not the card above it.
    """
    lines = [clean(diagram.title), clean(diagram.subtitle, 200), ""]
    depth, title = {"": 0}, {g.id: g for g in diagram.groups}
    for g in diagram.groups:
        depth[g.id] = depth[g.parent] + 1
    titles = {c.id: clean(c.title) + _number(c) for c in diagram.cards}
    reads: dict[str, list[str]] = {}
    for e in diagram.edges:
        reads.setdefault(e.target, []).append(e.source)
    beside = {c.id for c in diagram.cards if c.beside}
    open_groups: list[str] = []
    above = ""
    for card in diagram.cards:
        chain = _chain(card.group, title)
        for k, name in enumerate(chain):
            if open_groups[:k + 1] != chain[:k + 1]:
                note = f"  {clean(title[name].note)}" if title[name].note else ""
                lines.append(f"{'  ' * k}[{clean(title[name].title)}]{note}")
        open_groups = chain
        others = [titles[s] for s in reads.get(card.id, ()) if s not in beside and s != above]
        lines.extend(_lines(card, "  " * len(chain), others))
        if not card.beside:
            above = card.id
    return "\n".join(lines) + "\n"


def _number(card: Card) -> str:
    return f" {card.tag}" if card.tag.startswith("#") else ""


def _chain(group: str, groups: dict[str, Group]) -> list[str]:
    """A module and those around it, outermost first."""
    chain: list[str] = []
    while group:
        chain.insert(0, group)
        group = groups[group].parent
    return chain


def _lines(card: Card, indent: str, others: list[str]) -> Iterator[str]:
    facts, gradient, warnings = [], "", []
    for row in card.rows:
        if row.kind == "text":
            facts.append(clean(row.text + row.hot + row.after))
        elif row.kind == "warning":
            warnings.append(clean(row.text))
        else:
            gradient = "".join(_HEIGHTS[level] for level in row.levels) + " " + clean(row.text)
    name = _CHANGES.get(card.change, "") + (f"{card.badge} " if card.badge else "") \
        + clean(card.title) + _number(card)
    read = f"  reads {', '.join(others)}" if others else ""
    facts.append(gradient) if gradient else None
    yield f"{indent + name:<30}  {' | '.join(facts)}{read}".rstrip()
    for warning in warnings:
        yield f"{indent}  ! {warning}"


# ---- Mermaid -------------------------------------------------------------------------------------

def to_mermaid(diagram: Diagram) -> str:
    """A flow chart that Markdown pages of code hosts draw; folded as the diagram is."""
    inside: dict[str, list[str]] = {"": []}
    for g in diagram.groups:
        inside[g.id] = []
    for card in diagram.cards:
        inside[card.group].append(_mermaid_card(card))
    for g in reversed(diagram.groups):
        body = [f"  {line}" for line in inside[g.id]]
        inside[g.parent] += [f'subgraph {g.id}["{_mermaid(g.title)}"]', *body, "end"]
    lines = ["flowchart TD", *(f"  {line}" for line in inside[""])]
    for e in diagram.edges:
        words = " · ".join(filter(None, (e.text, f"grad {e.gradient}" if e.gradient else "")))
        arrow = f'-->|"{_mermaid(words)}"|' if words else "-->"
        lines.append(f"  {e.source} {arrow} {e.target}")
    looks = {card_colours(c): c for c in diagram.cards}
    for fill, line in looks:
        members = [c.id for c in diagram.cards if card_colours(c) == (fill, line)]
        lines.append(f"  classDef {fill} fill:{LIGHT[fill]},stroke:{LIGHT[line]},"
                     f"color:{LIGHT['ink']}")
        lines.append(f"  class {','.join(members)} {fill}")
    return "\n".join(lines) + "\n"


def _mermaid_card(card: Card) -> str:
    rows = [row.text + row.hot + row.after for row in card.rows]
    label = "<br/>".join([f"<b>{_mermaid(card.title)}</b>",
                          *(_mermaid(("! " if r.kind == "warning" else "") + t)
                            for r, t in zip(card.rows, rows, strict=True))])
    left, right = ("[[", "]]") if card.kind == "stack" else ("([", "])") if card.kind == "input" \
        else ("[", "]")
    return f'{card.id}{left}"{label}"{right}'


def _mermaid(text: str) -> str:
    """Letters, digits and a few harmless signs as they are; everything else as an entity."""
    return "".join(c if c.isalnum() or c in " .,_-+×·→…%µ()" else f"#{ord(c)};"
                   for c in clean(text))
