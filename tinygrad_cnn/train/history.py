"""What happened, epoch by epoch: a table that can be read back."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from tinygrad_cnn.errors import CheckpointError, DataError, SettingError
from tinygrad_cnn.files import check_text, open_file, shown, write_atomically
from tinygrad_cnn.train.tables import Rows, Table
from tinygrad_cnn.types import Settings

__all__ = ["History"]

Figure = int | float | str | None
Row = Settings

_ROOM = 12 << 20                # bytes that the values of a file may take, beside as many as it has


class History(Table):
    """One row of figures for each epoch.

    >>> from tinygrad_cnn.train import History
    >>> history = History()
    >>> history.append({"epoch": 1, "loss": 0.5})
    >>> history.append({"epoch": 2, "loss": 0.25})
    >>> history["loss"]
    [0.5, 0.25]
    >>> history.last["epoch"]
    2
    >>> history
    2 epochs
    epoch    loss
    -------------
        1  0.5000
        2  0.2500
    """

    def __init__(self, rows: list[Row] | None = None) -> None:
        self.rows: list[Row] = list(rows or ())

    def append(self, row: Row) -> None:
        """Add the figures of an epoch."""
        self.rows.append(dict(row))

    @property
    def columns(self) -> list[str]:
        """The names of the figures, in the order in which they came."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    @property
    def last(self) -> Row:
        """The figures of the last epoch."""
        if not self.rows:
            raise SettingError("history: no epoch is finished yet")
        return self.rows[-1]

    def __getitem__(self, name: str) -> list[Figure]:
        if name not in self.columns:
            raise SettingError(f"history: there is no figure {name!r}; "
                               f"choose from {', '.join(self.columns) or 'none yet'}")
        return [row.get(name) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def _cells(self) -> tuple[str, tuple[str, ...], Rows, str]:
        head = tuple(self.columns)
        return (f"{len(self)} epochs", head,
                [tuple(_cell(row.get(name)) for name in head) for row in self.rows], "")

    def save(self, path: str | Path) -> Path:
        """Write the table as comma-separated values, in place of a file that exists as a whole."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        with write_atomically(path) as file:
            file.write(text.getvalue().encode())
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> History:
        """Read a table that `save` wrote; a file that is none is a `DataError`."""
        with open_file(path, DataError) as file:
            try:
                text = file.read()
                check_text(text, _ROOM + len(text))
                table = csv.DictReader(io.StringIO(text.decode(), newline=""), strict=True)
                if len(set(table.fieldnames or ())) < len(table.fieldnames or ()):
                    raise ValueError("a column comes twice")
                rows = [{k: _number(v) for k, v in row.items()} for row in table]
            except (csv.Error, TypeError, ValueError) as error:
                raise DataError(f"{shown(path)} is not a history: {error}") from None
        return cls(rows)

    def state_dict(self) -> Settings:
        """The rows."""
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, entries: Settings) -> None:
        """Take over what `state_dict` gave."""
        rows = entries["rows"]
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise CheckpointError("History.load_state_dict: the state is damaged: no rows")
        self.rows = [dict(row) for row in rows]


def _cell(value: object) -> str:
    """A figure of a table."""
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _number(text: str) -> Figure:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None
