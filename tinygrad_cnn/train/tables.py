"""`Table`: results that are a table, and show themselves as one in text and in a notebook."""

from __future__ import annotations

from html import escape
from typing import ClassVar

__all__ = ["Table"]

Rows = list[tuple[str, ...]]
_MOST = 40                              # rows that are shown; of more, the first and the last


class Table:
    """Base of results with rows; a subclass gives `_cells`."""

    #: How many of the columns are text; the others are numbers, which end at the right.
    _texts: ClassVar[int] = 0

    def _cells(self) -> tuple[str, tuple[str, ...], Rows, str]:
        """What stands above, the head, the rows, and what stands below."""
        raise NotImplementedError

    def _shown(self) -> tuple[str, tuple[str, ...], Rows, str]:
        above, head, rows, below = self._cells()
        if len(rows) > _MOST:
            rows = [*rows[:_MOST // 2], ("…",) * len(head), *rows[-_MOST // 2:]]
        return above, head, rows, below

    def __str__(self) -> str:
        above, head, rows, below = self._shown()
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(cell.ljust(w) if i < self._texts else cell.rjust(w)
                           for i, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip()
                 for row in (head, *rows)]
        rule = "-" * max(map(len, lines))
        return "\n".join(filter(None, [above, lines[0], rule, *lines[1:], below and rule, below]))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        above, head, rows, below = self._shown()

        def line(cells: tuple[str, ...], tag: str) -> str:
            return "<tr>" + "".join(
                f'<{tag} style="text-align:{"left" if i < self._texts else "right"}">'
                f"{escape(cell)}</{tag}>" for i, cell in enumerate(cells)) + "</tr>"
        return (f"<p>{escape(above)}</p><table>{line(head, 'th')}"
                f"{''.join(line(row, 'td') for row in rows)}</table><p>{escape(below)}</p>")
