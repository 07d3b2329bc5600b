"""The picture as plain data: cards, edges and groups, with every word and number already chosen.

A `Diagram` is what `fold` makes and what every renderer reads: DOT, the own layout, the text tree,
Mermaid and the page.  It survives JSON unchanged, and equal runs give equal diagrams.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinygrad_cnn.viz import plain

__all__ = ["Card", "Diagram", "Edge", "Group", "Row", "Scale"]


@dataclass(frozen=True)
class Scale:
    """Four edges that part values into five colours, and the words of its legend."""

    name: str
    edges: tuple[float, ...]
    low: str
    high: str

    def level(self, value: float) -> int:
        """Colour of a value, 0 to 4; NaN takes the last.

        >>> Scale("gradient RMS", (1e-4, 1e-3, 1e-2, 1e-1), "1e-4", "0.1").level(3e-3)
        2
        """
        return sum(not value <= edge for edge in self.edges)


@dataclass(frozen=True)
class Row:
    """One line of a card.

    ``kind`` is ``text`` (``text``, then ``hot`` in bold, then ``after``), ``bar`` (filled to
    ``fraction`` in colour ``levels[0]``, with ``text`` beside it), ``squares`` (a colour for each
    of ``levels``) or ``warning``.
    """

    kind: str
    text: str
    hot: str = ""
    after: str = ""
    fraction: float = 0.0
    levels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Card:
    """One box of the picture.

    Attributes
    ----------
    id : str
        Unique in the diagram: ``n`` and a serial number, never a user's word.
    kind : str
        ``op``, ``input``, ``parameter``, ``constant``, ``label``, ``loss``, ``module``, ``stack``.
    family, badge, title, tag : str
        Colour of the strip, the letter on it, the bold name, the small words at the right.
    beside : str
        The card in whose row this one stands: a parameter beside its reader.
    group : str
        The innermost group that holds the card, or empty.
    path : str
        The module that the card stands for, of a stack the first; ``open=`` takes it.  Empty for
        an op.
    about : tuple of str
        Facts for whoever asks: tooltip and page.
    change : str
        In the picture of a difference: ``added``, ``removed`` or ``changed``.
    broken : bool
        Whether its value or its gradient holds NaN or infinity: the border is dashed.
    """

    id: str
    kind: str
    family: str
    title: str
    tag: str = ""
    badge: str = ""
    rows: tuple[Row, ...] = ()
    beside: str = ""
    group: str = ""
    path: str = ""
    about: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    change: str = ""
    broken: bool = False

    @property
    def tip(self) -> str:
        """The facts on one line."""
        return " | ".join((self.title, *self.about))


@dataclass(frozen=True)
class Edge:
    """One value that goes from card to card, and the gradient that comes back.

    ``gradient`` is its RMS in words, empty where none was recorded, and ``level`` its colour, −1
    for none.  ``trunk`` marks the deepest input of its target, ``step`` its turn in the backward
    pass.
    """

    id: str
    source: str
    target: str
    text: str = ""
    gradient: str = ""
    level: int = -1
    trunk: bool = False
    step: int = -1
    tip: str = ""


@dataclass(frozen=True)
class Group:
    """A module that is drawn open: a box around its cards."""

    id: str
    title: str
    note: str = ""
    parent: str = ""
    path: str = ""


@dataclass(frozen=True)
class Diagram:
    """A whole picture, ordered as it was recorded."""

    title: str
    subtitle: str
    level: str
    cards: tuple[Card, ...]
    edges: tuple[Edge, ...]
    groups: tuple[Group, ...]
    scale: Scale
    notes: tuple[str, ...] = ()
    opened: tuple[str, ...] = ()

    def to_json(self) -> str:
        """JSON text, the same on every machine."""
        return plain.dumps(self)

    @classmethod
    def from_json(cls, text: str) -> Diagram:
        """Read what `to_json` wrote; raises VizError for anything else."""
        return plain.loads(cls, text)

    def backward(self) -> tuple[Edge, ...]:
        """The edges that carry a gradient, in the order in which the engine sent it."""
        return tuple(sorted((e for e in self.edges if e.step >= 0), key=lambda e: e.step))
