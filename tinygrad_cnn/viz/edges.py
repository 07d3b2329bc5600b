"""The edges of a picture: which value goes from card to card, and which gradient comes back."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from tinygrad_cnn.viz.diagram import Edge, Scale
from tinygrad_cnn.viz.text import number, shape_text
from tinygrad_cnn.viz.units import Units

__all__ = ["edges"]

_MOST_PARALLEL = 2                          # more values between two cards become one edge


@dataclass(frozen=True)
class _Flow:
    """One value on its way: entry ``source`` is read by entry ``reader`` as its input ``place``."""

    source: int
    reader: int
    place: int
    trunk: bool


def edges(cast: Units, scale: Scale) -> tuple[Edge, ...]:
    """Every value that goes from one card to another, once for each reading card.

    Where more than two values go from one card to another, they are one edge.
    """
    by_cards: dict[tuple[str, str], list[_Flow]] = {}
    for flow in _flows(cast):
        key = cast.unit_of[flow.source].id, cast.unit_of[flow.reader].id
        by_cards.setdefault(key, []).append(flow)
    reads = Counter((j, cast.unit_of[i].id) for i, e in enumerate(cast.entries)
                    for j in set(e.inputs) if i in cast.unit_of)
    made: list[Edge] = []
    for flows in by_cards.values():
        group = [_edge(cast, f, scale, reads[f.source, cast.unit_of[f.reader].id])
                 for f in flows]
        made += group if len(group) <= _MOST_PARALLEL else [_bundle(group)]
    return _with_steps(cast, [replace(e, id=f"e{k}") for k, e in enumerate(made)])


def _flows(cast: Units) -> list[_Flow]:
    depth: list[int] = []
    for e in cast.entries:
        depth.append(1 + max((depth[j] for j in e.inputs), default=0))
    found, seen = [], set()
    for i, e in enumerate(cast.entries):
        if i not in cast.unit_of:
            continue
        trunk = max(e.inputs, key=lambda j: depth[j], default=-1)
        for k, j in enumerate(e.inputs):
            key = (j, cast.unit_of[i].id)
            if cast.unit_of[j] is not cast.unit_of[i] and key not in seen:
                seen.add(key)
                found.append(_Flow(j, i, k, j == trunk))
    return found


def _edge(cast: Units, flow: _Flow, scale: Scale, reads: int) -> Edge:
    e, source = cast.entries[flow.reader], cast.entries[flow.source]
    sent = e.sent[flow.place] if flow.place < len(e.sent) else None
    several = reads > 1 or e.inputs.count(flow.source) > 1
    if several and source.gradient is not None and sent is not None:
        sent = source.gradient.rms          # several reads on one card: what they add up to
    beside = source.role in ("parameter", "label", "constant")
    shape = shape_text(source.shape)
    words = "" if sent is None else number(sent)
    tip = f"{cast.names[flow.source]} → {cast.names[flow.reader]} | {shape} {source.dtype}"
    return Edge("", cast.unit_of[flow.source].id, cast.unit_of[flow.reader].id,
                "" if beside else shape, words, -1 if sent is None else scale.level(sent),
                flow.trunk and not beside, tip=tip + (f" | gradient {words}" if words else ""))


def _bundle(group: list[Edge]) -> Edge:
    """Several parallel edges as one, in the colour of the strongest."""
    strongest = max(group, key=lambda e: e.level)
    tip = f"{len(group)} values, among them {group[0].tip}"
    return replace(strongest, text=f"{len(group)} values", tip=tip,
                   trunk=any(e.trunk for e in group))


def _with_steps(cast: Units, made: list[Edge]) -> tuple[Edge, ...]:
    """The edges with their turn in the backward pass: when the engine ran the reader's rule."""
    last_step = {unit.id: max((cast.entries[i].step for i in unit.members), default=-1)
                 for unit in cast.units}
    turns = sorted((last_step[e.target], k) for k, e in enumerate(made)
                   if e.level >= 0 and last_step[e.target] >= 0)
    order = {k: turn for turn, (_, k) in enumerate(turns)}
    return tuple(replace(e, step=order.get(k, -1)) for k, e in enumerate(made))
