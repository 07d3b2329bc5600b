"""A progress bar on a terminal where tqdm is installed, or in a notebook; nothing otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

__all__ = ["NotebookLine", "with_progress"]

T = TypeVar("T")
_EVERY = 0.2                            # seconds between two looks at a line


class NotebookLine:
    """One line of a notebook's output, which is written again and again, and stays at the end."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._text, self._shown = "", 0.0

    def __repr__(self) -> str:
        return self._text

    def write(self, text: str, *, now: bool = False) -> None:
        """Replace the line, unless it was replaced a moment ago."""
        if not now and time.monotonic() - self._shown < _EVERY:
            return
        from IPython.display import display

        self._text, self._shown = text, time.monotonic()
        if self._handle is None:
            self._handle = display(self, display_id=True)
        else:
            self._handle.update(self)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def with_progress(batches: Iterable[T], *, total: int, done: int, label: str, show: bool,
                  line: NotebookLine) -> Iterator[T]:
    """Pass the batches through, and show how far they are."""
    if show and _in_notebook():
        for batch in batches:
            yield batch
            done += 1
            bar = "█" * (20 * done // total) if total else ""
            line.write(f"{label} {bar:░<20} {done}/{total or '?'}")
        line.write(f"{label} {'█' * 20} {done}/{done}", now=True)
        return
    if show and sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            yield from tqdm(batches, total=total, initial=done, desc=label, leave=False,
                            unit="batch")
            return
    yield from batches
