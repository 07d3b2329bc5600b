"""A progress bar where there is a terminal and tqdm is installed; nothing otherwise."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["with_progress"]

T = TypeVar("T")


def with_progress(batches: Iterable[T], *, total: int, done: int, label: str,
                  show: bool) -> Iterator[T]:
    """Pass the batches through, and show how far they are."""
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
