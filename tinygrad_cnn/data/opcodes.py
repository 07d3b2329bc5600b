"""The pickles of CIFAR-10's Python version, read without running anything.

A pickle is a program for a small stack machine.  Two of its instructions fetch any importable name
and call it, so that unpickling a stranger's file means running a stranger's code.  `read_batch`
walks the same instructions, but its machine can import and call nothing at all: a name becomes a
token, and a call of one of the few tokens that NumPy writes for an array is worked out here.  Every
other name, and every instruction that a batch never holds, ends the reading with a DataError.

What is understood: one dict with text or byte-string keys, lists, tuples, numbers and strings, and
arrays of unsigned bytes, in protocols 0 to 5, as Python 2 and 3 and NumPy 1 and 2 write them.

References
----------
Python Software Foundation, *Data stream format*, documentation of the standard library; PEP 307,
PEP 574.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.data.files import describe
from tinygrad_cnn.data.stack_machine import MARK, StackMachine, as_text, short
from tinygrad_cnn.errors import DataError

__all__ = ["read_batch"]

# A batch of 10,000 images takes about 60,000 instructions, in any protocol.
_MAX_STEPS = 1_000_000

# What repr() of a Python 2 string writes, and nothing else; possessive, so it cannot backtrack.
_PY2_TEXT = re.compile(rb"(?:[^\\]|\\(?:x[0-9a-fA-F]{2}|[\\'\"nrt]))*+", re.DOTALL)


@dataclass(frozen=True)
class _Name:
    """A name that the stream mentions: a token, never looked up."""

    words: str


class _Array:
    """Where an array is being put together: shape and bytes come in a later instruction."""

    def __init__(self) -> None:
        self.value: NDArray[np.uint8] | None = None


class _Dtype:
    """NumPy's unsigned byte, the only dtype of a batch."""


_NUMPY_CORE = ("numpy.core", "numpy._core")            # the name changed in NumPy 2
_NDARRAY = "numpy ndarray"


def read_batch(raw: bytes, *, path: str) -> dict[str, Any]:
    """Read a pickled dict of strings, numbers, lists and byte arrays; nothing is ever executed.

    Parameters
    ----------
    raw : bytes
        The whole file.
    path : str
        What to call it in messages.

    Returns
    -------
    dict
        Keys as text; arrays as read-only ``ndarray`` of uint8 that share memory with ``raw``.

    Raises
    ------
    DataError
        If the stream is anything else: names a function, uses an instruction that data never need,
        is cut off, goes on after its end, or lies about a length.
    """
    if not raw:
        raise DataError(f"{path}: is an empty file")
    found = _Machine(raw, path).run()
    batch: dict[str, Any] = {}
    for key, value in found.items():
        text = as_text(key)
        if text in batch:
            raise DataError(f"{path}: has the key {short(text)} twice")
        if isinstance(value, _Array):
            if value.value is None:
                raise DataError(f"{path}: the array {short(text)} has no contents")
            batch[text] = value.value
        else:
            batch[text] = value
    return batch


class _Machine(StackMachine):
    """What the instructions do; `_STEPS` below says which byte means which."""

    # ---- names and what stands for calling them ------------------------------------------------

    def name(self, module: Any, attribute: Any) -> None:
        if not (isinstance(module, str) and isinstance(attribute, str)):
            raise self.refuse("a name is not a string")
        words = f"{module} {attribute}"
        if words != _NDARRAY and words not in _CALLS:
            raise self.refuse(f"the file names {short(f'{module}.{attribute}')}, which images "
                              "never need; nothing of it was run; do not trust the file")
        self.push(_Name(words))

    def reduce(self) -> None:
        """What would be a call: one of the methods below takes its place."""
        arguments, what = self.pop(), self.pop()
        if not isinstance(what, _Name) or what.words not in _CALLS or type(arguments) is not tuple:
            raise self.refuse("a call of something that cannot be called here")
        count, stand_in = _CALLS[what.words]
        if len(arguments) != count:
            raise self.refuse(f"{what.words.replace(' ', '.')} with {len(arguments)} arguments")
        self.push(stand_in(self, *arguments))

    def call_encode(self, text: Any, encoding: Any) -> bytes:
        """How Python 3 writes a byte string in protocols 0 to 2."""
        if not isinstance(text, str) or as_text(encoding) != "latin1":
            raise self.refuse("_codecs.encode of something that is not bytes")
        self.count_bytes(len(text))
        try:
            return text.encode("latin1")
        except UnicodeEncodeError:
            raise self.refuse("a byte string holds a character above 255") from None

    def call_dtype(self, code: Any, align: Any, copy: Any) -> _Dtype:
        if as_text(code) != "u1" or not {type(align), type(copy)} <= {bool, int}:
            raise self.refuse("an array is not of unsigned bytes (dtype u1)")
        return _Dtype()

    def call_reconstruct(self, kind: Any, shape: Any, code: Any) -> _Array:
        if not (isinstance(kind, _Name) and kind.words == "numpy ndarray"):
            raise self.refuse("an array of a class that is not numpy.ndarray")
        if shape != (0,) or as_text(code) != "b":
            raise self.refuse("an array begins in an unknown way")
        return _Array()

    def call_frombuffer(self, buffer: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        """Protocol 5."""
        if as_text(order) not in ("C", "F"):
            raise self.refuse("an array has an unknown order")
        array = _Array()
        array.value = self.array(buffer, dtype, shape, as_text(order))
        return array

    def build(self) -> None:
        state = self.pop()
        if type(state) is not tuple:
            raise self.refuse("a state is not a tuple")
        target = self.stack[-1] if self.stack else None
        if isinstance(target, _Dtype):
            if len(state) not in (8, 9) or as_text(state[1]) != "|" or state[2:5] != (None,) * 3:
                raise self.refuse("a dtype with fields, or of another byte order")
        elif isinstance(target, _Array) and target.value is None:
            if len(state) != 5 or type(state[3]) not in (bool, int):
                raise self.refuse("the state of an array is not understood")
            _, shape, dtype, fortran, buffer = state
            target.value = self.array(buffer, dtype, shape, "F" if fortran else "C")
        else:
            raise self.refuse("a state for something that is not a new array")

    def array(self, buffer: Any, dtype: Any, shape: Any, order: str) -> NDArray[np.uint8]:
        if not isinstance(dtype, _Dtype):
            raise self.refuse("an array is not of unsigned bytes (dtype u1)")
        if not isinstance(buffer, (bytes, memoryview)):
            raise self.refuse("the contents of an array are not bytes")
        if not (type(shape) is tuple and 1 <= len(shape) <= 4
                and all(type(n) is int and n > 0 for n in shape)):
            raise self.refuse("the shape of an array is not one to four sizes above 0")
        if math.prod(shape) != len(buffer):
            raise self.refuse(f"an array of shape {shape} with {len(buffer):,} bytes")
        return np.frombuffer(buffer, np.uint8).reshape(shape, order="F" if order == "F" else "C")

    # ---- instructions --------------------------------------------------------------------------

    def string(self, raw: memoryview) -> None:
        """A byte string.  A long one stays a window on the file: it holds the pixels."""
        self.push(bytes(raw) if len(raw) < 1024 else raw)

    def text_line(self) -> None:
        self.push(self.text(self.line(), "raw-unicode-escape"))

    def quoted_line(self) -> None:
        raw = self.line()
        if len(raw) < 2 or raw[:1] not in b"'\"" or raw[:1] != raw[-1:]:
            raise self.refuse("a string is not quoted")
        if not _PY2_TEXT.fullmatch(raw, 1, len(raw) - 1):
            raise self.refuse("a string holds an escape that Python 2 never writes")
        self.push(self.text(raw[1:-1], "unicode_escape").encode("latin1"))

    def int_line(self) -> None:
        start = self.raw[self.at:self.at + 3]
        if start in (b"00\n", b"01\n"):
            self.at += 3
            self.push(start == b"01\n")
        else:
            self.push(self.decimal())

    def long(self) -> None:
        size = self.number(1)
        if size > 8:
            raise self.refuse(f"a number of {size} bytes")
        self.push(self.number(size, signed=True))

    def protocol(self) -> None:
        version = self.number(1)
        if version not in range(2, 6) or self.at != 2:
            raise self.refuse(f"protocol {version} where none can be declared" if self.at != 2
                              else f"protocol {version} is unknown")

    def frame(self) -> None:
        size = self.number(8)
        if size > len(self.raw) - self.at:
            raise self.refuse(f"a frame of {size:,} bytes, {len(self.raw) - self.at:,} are left")

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(values[::-1]))

    def dict_of(self) -> None:
        items = self.pop_to_mark()
        self.push({})
        self.fill_dict(items)

    def global_line(self) -> None:
        module, attribute = self.line(200), self.line(200)
        self.name(self.text(module, "utf-8"), self.text(attribute, "utf-8"))

    def stack_global(self) -> None:
        attribute, module = self.pop(), self.pop()
        self.name(module, attribute)

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.fill_dict([key, value])

    def run(self) -> dict[Any, Any]:
        """Walk to the end; the one dict that is left."""
        for _ in range(_MAX_STEPS):
            code = bytes(self.take(1))
            if code == b".":
                return self.result()
            step = _STEPS.get(code)
            if step is None:
                if self.at == 1:
                    raise DataError(f"{self.path}: is not a batch of CIFAR-10's Python version but "
                                    f"{describe(self.raw[:512])}")
                raise self.refuse(f"the instruction {code!r} is never needed for images")
            step(self)
        raise self.refuse(f"more than {_MAX_STEPS:,} instructions")

    def result(self) -> dict[Any, Any]:
        if self.at != len(self.raw):
            raise self.refuse(f"{len(self.raw) - self.at:,} bytes follow the end")
        if len(self.stack) != 1 or type(self.stack[0]) is not dict:
            raise self.refuse("the file does not hold one dict")
        found: dict[Any, Any] = self.stack[0]
        return found


# For each name that may be called: how many arguments it takes, and what is done instead.
_CALLS: dict[str, tuple[int, Callable[..., Any]]] = {
    "_codecs encode": (2, _Machine.call_encode),
    "numpy dtype": (3, _Machine.call_dtype),
    **{f"{core}.multiarray _reconstruct": (3, _Machine.call_reconstruct) for core in _NUMPY_CORE},
    **{f"{core}.numeric _frombuffer": (4, _Machine.call_frombuffer) for core in _NUMPY_CORE},
}

_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.protocol, b"\x95": _Machine.frame,
    # marks and memo
    b"(": lambda m: m.push(MARK),
    b"p": lambda m: m.put(m.decimal()), b"q": lambda m: m.put(m.number(1)),
    b"r": lambda m: m.put(m.number(4)), b"\x94": lambda m: m.put(len(m.memo)),
    b"g": lambda m: m.get(m.decimal()), b"h": lambda m: m.get(m.number(1)),
    b"j": lambda m: m.get(m.number(4)),
    # numbers
    b"N": lambda m: m.push(None), b"\x88": lambda m: m.push(True), b"\x89": lambda m: m.push(False),
    b"I": _Machine.int_line, b"L": lambda m: m.push(m.decimal()), b"\x8a": _Machine.long,
    b"J": lambda m: m.push(m.number(4, signed=True)), b"K": lambda m: m.push(m.number(1)),
    b"M": lambda m: m.push(m.number(2)),
    # byte strings, of Python 2 and 3
    b"S": _Machine.quoted_line,
    b"U": lambda m: m.string(m.take(m.number(1))), b"T": lambda m: m.string(m.take(m.number(4))),
    b"C": lambda m: m.string(m.take(m.number(1))), b"B": lambda m: m.string(m.take(m.number(4))),
    b"\x8e": lambda m: m.string(m.take(m.number(8))),
    b"\x96": lambda m: m.string(m.take(m.number(8))),
    # text
    b"V": _Machine.text_line,
    b"\x8c": lambda m: m.push(m.text(m.take(m.number(1)), "utf-8")),
    b"X": lambda m: m.push(m.text(m.take(m.number(4)), "utf-8")),
    b"\x8d": lambda m: m.push(m.text(m.take(m.number(8)), "utf-8")),
    # containers
    b")": lambda m: m.push(()), b"t": lambda m: m.push(tuple(m.pop_to_mark())),
    b"\x85": lambda m: m.tuple_of(1), b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"]": lambda m: m.push([]), b"l": lambda m: m.push(m.pop_to_mark()),
    b"a": lambda m: m.fill_list([m.pop()]), b"e": lambda m: m.fill_list(m.pop_to_mark()),
    b"}": lambda m: m.push({}), b"d": _Machine.dict_of, b"s": _Machine.set_item,
    b"u": lambda m: m.fill_dict(m.pop_to_mark()),
    # names, calls and states: all worked out above
    b"c": _Machine.global_line, b"\x93": _Machine.stack_global, b"R": _Machine.reduce,
    b"b": _Machine.build,
}
