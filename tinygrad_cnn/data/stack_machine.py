"""The stack, memo and bounded reading under `opcodes`: no instruction is known here.

Every length that a file claims is compared with the bytes that are left, every container has a
limit, and no value of the stream is printed, compared or hashed in a way that could recurse.
"""

from __future__ import annotations

import re
from typing import Any

from tinygrad_cnn.errors import DataError

__all__ = ["MARK", "StackMachine", "as_text", "short"]

_MAX_ITEMS = 200_000
_MAX_LINE = 24  # of a number; 2**64 has 20 digits

MARK = object()


def as_text(value: Any) -> str:
    """A string of Python 2 or 3 as text; "" for anything else."""
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    return value if isinstance(value, str) else ""


def short(text: str) -> str:
    """The repr of a stranger's string, of a bounded length."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")


class StackMachine:
    """A stack, a memo and a position in the bytes; one method for each kind of instruction."""

    def __init__(self, raw: bytes, path: str) -> None:
        self.raw = raw
        self.view = memoryview(raw).toreadonly()
        self.path = path
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.made = 0                        # bytes in strings made so far

    # ---- reading -------------------------------------------------------------------------------

    def refuse(self, why: str) -> DataError:
        """The error that ends the reading, with the position in the file."""
        return DataError(f"{self.path}: at byte {self.at:,}: {why}")

    def take(self, count: int) -> memoryview:
        """The next ``count`` bytes, without copying them."""
        if count > len(self.raw) - self.at:
            raise self.refuse(f"{count:,} bytes are announced, {len(self.raw) - self.at:,} left")
        piece = self.view[self.at:self.at + count]
        self.at += count
        return piece

    def number(self, count: int, *, signed: bool = False) -> int:
        """The next ``count`` bytes as an integer, lowest byte first."""
        return int.from_bytes(self.take(count), "little", signed=signed)

    def line(self, limit: int | None = None) -> bytes:
        """Up to the next newline, which is passed over."""
        stop = len(self.raw) if limit is None else min(len(self.raw), self.at + limit)
        end = self.raw.find(b"\n", self.at, stop)
        if end < 0:
            raise self.refuse("a line does not end")
        piece = self.raw[self.at:end]
        self.at = end + 1
        return piece

    def decimal(self) -> int:
        """An integer written out, up to the next newline."""
        text = self.line(_MAX_LINE)
        if not re.fullmatch(rb"-?[0-9]+L?", text):
            raise self.refuse("a number is malformed")
        return int(text.rstrip(b"L"))

    def count_bytes(self, count: int) -> None:
        """Strings may not outgrow the file: a short stream could copy a long one many times."""
        self.made += count
        if self.made > 4 * len(self.raw) + 4096:
            raise self.refuse("the strings outgrow the file")

    def text(self, raw: bytes | memoryview, encoding: str) -> str:
        """Bytes as text, or a refusal."""
        self.count_bytes(len(raw))
        try:
            return str(raw, encoding)
        except UnicodeDecodeError:
            raise self.refuse(f"a string is not {encoding}") from None

    # ---- the stack -----------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the last value off the stack; a mark is no value."""
        if not self.stack or self.stack[-1] is MARK:
            raise self.refuse("the stack is empty")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        """The last value, which an instruction is about to fill."""
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise self.refuse(f"a {kind.__name__.strip('_').lower()} to fill is missing")
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        # From the top down, so that each value is passed over once in the whole stream.
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is MARK:
                values = self.stack[index + 1:]
                del self.stack[index:]
                return values
        raise self.refuse("a mark is missing")

    def put(self, key: int) -> None:
        """Remember the last value under a number."""
        if not self.stack or self.stack[-1] is MARK:
            raise self.refuse("there is nothing to remember")
        self.memo[key] = self.stack[-1]

    def get(self, key: int) -> None:
        """Push what was remembered under a number."""
        if key not in self.memo:
            raise self.refuse(f"nothing was remembered as {key}")
        self.push(self.memo[key])

    def fill_dict(self, items: list[Any]) -> None:
        """Add keys and values, which alternate, to the dict on top."""
        target = self.top(dict)
        if len(items) % 2:
            raise self.refuse("a key has no value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, bytes)):     # hashing a nested tuple would recurse
                raise self.refuse(f"a key is a {type(key).__name__}, not a string")
            if key in target:
                raise self.refuse(f"the key {short(as_text(key))} comes twice")
            target[key] = value
        if len(target) > _MAX_ITEMS:
            raise self.refuse("a dict is too long")

    def fill_list(self, items: list[Any]) -> None:
        """Add values to the list on top."""
        target = self.top(list)
        if len(target) + len(items) > _MAX_ITEMS:
            raise self.refuse("a list is too long")
        target.extend(items)
