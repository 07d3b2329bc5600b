"""Words and numbers of a picture: made safe, made short, measured.

Names come from users and are hostile until proven otherwise, so every one passes through `clean`
and then through `escape`, which serves XML text, XML attributes and HTML-like DOT labels alike.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterable, Sequence

__all__ = ["binary_size", "clean", "count", "escape", "flop_text", "number", "seconds_text",
           "shape_text", "wide", "width"]

# Advances of Arial in thousandths of an em, for the printable ASCII characters.
_NARROW = (278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278,
           556, 556, 556, 556, 556, 556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556,
           1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833, 722, 778,
           667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556,
           333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556,
           556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584)
_OTHERS = {"×": 584, "·": 333, "→": 1000, "…": 1000, "µ": 576, "\u00a0": 278, "–": 556, "−": 584,
           "²": 333, "∇": 712}
_BOLD = 1.1                                 # letters of Arial Bold against Arial, on average


def clean(text: object, limit: int = 72) -> str:
    """One line of at most ``limit`` characters; control, bidi and unassigned ones become U+FFFD.

    >>> clean("conv1" + chr(0) + chr(0x202E) + "  weight" + chr(10))
    'conv1\ufffd\ufffd  weight '
    >>> clean("abcdef", limit=4)
    'abc…'
    """
    words = str(text)
    if len(words) <= limit and words.isprintable():     # the usual case
        return words
    kept = "".join(" " if c in "\n\r\t" else "\ufffd" if unicodedata.category(c)[0] == "C" else c
                   for c in words[:limit + 1])
    return kept if len(kept) <= limit else kept[:limit - 1] + "…"


def escape(text: object, limit: int = 72) -> str:
    r"""Text that is safe inside XML, HTML and DOT labels.

    Engines expand ``\N`` and ``\G`` in labels once and in tooltips twice, even where the backslash
    is spelled ``&#92;``; so U+2216 (set minus) stands for it.

    >>> escape('a<b & "c"')
    'a&lt;b &amp; &quot;c&quot;'
    """
    return html.escape(clean(text, limit), quote=True).replace("\\", "\u2216")


def shape_text(shape: Sequence[int | str]) -> str:
    """
    >>> shape_text((8, 28, 28, 1)), shape_text(())
    ('8×28×28×1', 'scalar')
    """
    return "×".join(map(str, shape)) or "scalar"


def binary_size(n: int) -> str:
    """
    >>> binary_size(320), binary_size(50_176), binary_size(38_300_000)
    ('320 B', '49 KiB', '36.5 MiB')
    """
    if n < 1024:
        return f"{n} B"
    for unit, size in (("KiB", 2**10), ("MiB", 2**20)):
        if n < 1024 * size:
            return f"{n / size:.{0 if unit == 'KiB' else 1}f} {unit}"
    return f"{n / 2**30:.1f} GiB"


def count(n: int) -> str:
    """A whole number with its thousands apart by no-break spaces.

    >>> count(7146).replace(chr(160), "_")
    '7_146'
    """
    return f"{n:,}".replace(",", "\u00a0")


def number(value: float) -> str:
    """Two significant digits, with an exponent where plain digits would be long.

    >>> [number(v) for v in (0, 0.00113, 0.17, 2.5374, 31.0, 9437.0, float("nan"))]
    ['0', '1.1e-3', '0.17', '2.5', '31', '9.4e+3', 'nan']
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}" if value == 0 else f"{value}"
    exponent = math.floor(math.log10(abs(value)))
    if -2 <= exponent <= 2:
        return f"{value:.{max(0, 1 - exponent)}f}"
    return f"{value / 10.0 ** exponent:.1f}e{exponent:+d}"


def seconds_text(seconds: float) -> str:
    """
    >>> seconds_text(4.94e-4), seconds_text(0.0123), seconds_text(2.5)
    ('494 µs', '12.3 ms', '2.5 s')
    """
    if seconds < 9.995e-4:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def flop_text(flops: int) -> str:
    """
    >>> flop_text(2_508_800), flop_text(2_008_000_000), flop_text(320)
    ('2.5 MFLOP', '2.0 GFLOP', '320 FLOP')
    """
    for size, unit in ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e5, "MFLOP"), (1e3, "kFLOP")):
        if flops >= size:
            return f"{flops / max(size, 1e6 if unit == 'MFLOP' else 0):.1f} {unit}"
    return f"{flops} FLOP"


def width(text: str, size: float, *, bold: bool = False) -> float:
    """Width of a run of text in Arial, in the unit of ``size``; unknown characters take one em.

    >>> width("conv2d", 10)
    32.24
    """
    total = 0.0
    for c in text:
        code = ord(c) - 32
        advance = _NARROW[code] if 0 <= code < len(_NARROW) else _OTHERS.get(
            c, 560 if code < 352 else 1000)
        total += advance * (_BOLD if bold and c.isalpha() else 1)
    return round(total * size / 1000, 2)


def wide(parts: Iterable[tuple[str, float, bool]]) -> float:
    """Total width of runs of ``(text, size, bold)``."""
    return sum(width(text, size, bold=bold) for text, size, bold in parts)
