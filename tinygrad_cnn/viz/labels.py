"""What every format needs: text made safe and short, its width, settings of ops, and the colors.

Names come from users and are not trusted: each passes through `clean`, then through `escape`, which
serves XML text, XML attributes and HTML-like DOT labels alike.
"""

from __future__ import annotations

import ast
import html
import itertools
import linecache
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import CodeType

import numpy as np

from tinygrad_cnn.types import Named

__all__ = ["DARK", "LIGHT", "RAMP", "STRIPS", "binary_size", "called_name", "clean", "count",
           "dark_css", "escape", "flop_text", "number", "operand_name", "seconds_text",
           "setting_labels", "shape_text", "source_line", "to_dark", "width"]


# ---- safe text -----------------------------------------------------------------------------------

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

    Graphviz expands ``\N`` and ``\G`` even where the backslash is spelled ``&#92;``; so U+2216 (set
    minus) replaces it.

    >>> escape('a<b & "c"')
    'a&lt;b &amp; &quot;c&quot;'
    """
    return html.escape(clean(text, limit), quote=True).replace("\\", "\u2216")


# Advances of Arial in thousandths of an em, for the printable ASCII characters.
_ADVANCES = (278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278,
             556, 556, 556, 556, 556, 556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556,
             1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833, 722, 778,
             667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556,
             333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556,
             556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584)
_OTHERS = {"×": 584, "·": 333, "→": 1000, "…": 1000, "µ": 576, "\u00a0": 278, "–": 556, "−": 584,
           "²": 333, "∇": 712}
_BOLD = 1.1                                 # letters of Arial Bold against Arial, on average


def width(text: str, size: float, *, bold: bool = False) -> float:
    """Width of text in Arial, in the unit of ``size``; unknown characters take one em.

    >>> width("conv2d", 10)
    32.24
    """
    total = 0.0
    for c in text:
        code = ord(c) - 32
        advance = _ADVANCES[code] if 0 <= code < len(_ADVANCES) else _OTHERS.get(
            c, 560 if code < 352 else 1000)
        total += advance * (_BOLD if bold and c.isalpha() else 1)
    return round(total * size / 1000, 2)


# ---- numbers -------------------------------------------------------------------------------------

def shape_text(shape: Sequence[int | str]) -> str:
    """``8×28×28×1``, or ``scalar``."""
    return "×".join(map(str, shape)) or "scalar"


def binary_size(n: int) -> str:
    """``320 B``, ``49 KiB``, ``36.5 MiB``."""
    if n < 1024:
        return f"{n} B"
    if n < 2**20:
        return f"{n / 2**10:.0f} KiB"
    return f"{n / 2**20:.1f} MiB" if n < 2**30 else f"{n / 2**30:.1f} GiB"


def count(n: int) -> str:
    """A whole number with its thousands apart by no-break spaces."""
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
    """``494 µs``, ``12.3 ms``, ``2.5 s``."""
    if seconds < 9.995e-4:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def flop_text(flops: int) -> str:
    """``320 FLOP``, ``2.5 MFLOP``, ``2.0 GFLOP``."""
    for start, size, unit in ((1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e5, 1e6, "M"), (1e3, 1e3, "k")):
        if flops >= start:
            return f"{flops / size:.1f} {unit}FLOP"
    return f"{flops} FLOP"


# ---- ops -----------------------------------------------------------------------------------------

_LONGEST = 44
_LONGEST_NAME = 20

Shapes = Sequence[tuple[int, ...] | None]


def setting_labels(op: str, settings: Mapping[str, object], shapes: Shapes) -> tuple[str, ...]:
    """What an op was set to, without the defaults that change nothing.

    ``settings`` are normalized, ``shapes`` those of the inputs, None for one left out.

    >>> setting_labels("clip", {"min": 0.0, "max": 6.0, "extra": None}, [(8, 10)])
    ('min 0', 'max 6')
    """
    special = _SPECIAL.get(op)
    if special is not None:
        try:
            return tuple(filter(None, special(settings, shapes)))
        except (KeyError, IndexError, TypeError, ValueError):
            pass                            # a user's op of that name with other settings
    return tuple(f"{name} {text}" for name, value in settings.items()
                 if (text := _value(value)) is not None)


def _value(value: object) -> str | None:
    if value is None or value is False:
        return None
    if isinstance(value, np.ndarray):
        return shape_text(value.shape)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, np.dtype):
        return value.name
    if isinstance(value, slice):
        ends = ("" if v is None else str(v) for v in (value.start, value.stop))
        return ":".join(ends) + ("" if value.step in (None, 1) else f":{value.step}")
    if value is Ellipsis:
        return "…"
    if isinstance(value, (tuple, list)):
        return clean(", ".join(_value(v) or "none" for v in value), _LONGEST) or "none"
    return clean(value, _LONGEST)


def _pair(value: Sequence[int]) -> str:
    down, across = value
    return f"{down}" if down == across else f"{down}×{across}"


def _pad(value: Sequence[Sequence[int]]) -> str:
    (top, bottom), (left, right) = value
    if top == bottom == left == right:
        return f"pad {top}" if top else ""
    if (top, left) == (bottom, right):
        return f"pad {top}×{left}"
    return f"pad {top},{bottom},{left},{right}"


def _conv(s: Named, shapes: Shapes) -> list[str]:
    w = shapes[1] or ()
    dilation, groups = s.get("dilation", (1, 1)), s.get("groups", 1)
    return [f"{w[0]}×{w[1]}", f"stride {_pair(s['stride'])}", _pad(s["padding"]),
            "" if dilation == (1, 1) else f"dilation {_pair(dilation)}",
            "" if groups == 1 else f"groups {groups}", f"{w[2] * groups}→{w[3]} channels"]


def _pool(s: Named, shapes: Shapes) -> list[str]:
    size = s["kernel_size"]
    return [f"{size[0]}×{size[1]}", f"stride {_pair(s['stride'])}", _pad(s["padding"])]


def _matrix(s: Named, shapes: Shapes) -> list[str]:
    a, b = (shape or () for shape in shapes[:2])
    return [f"{a[-1]}→{b[-1]}"]


_SPECIAL: dict[str, Callable[[Named, Shapes], list[str]]] = {
    "conv2d": _conv, "conv_transpose2d": _conv, "max_pool2d": _pool, "max_pool2d_shared": _pool,
    "avg_pool2d": _pool, "linear": _matrix, "matmul": _matrix,
    **dict.fromkeys(("cross_entropy", "reshape", "batch_norm"), lambda s, shapes: [])}


@lru_cache(maxsize=4096)
def source_line(code: CodeType, instruction: int) -> str:
    """``lenet.py:14`` for a code object and an instruction in it; the file without its folders."""
    for start, end, line in code.co_lines():
        if start <= instruction < end and line is not None:
            name = str(code.co_filename).replace("\\", "/").rsplit("/", 1)[-1]
            return clean(f"{name}:{line}")
    return ""


# Callables that take a tensor and make others: their arguments name nothing inside them.
_PACKAGE = __file__.rpartition("viz")[0]
_NOT_OPS = {"backward", "describe_module", "grad", "gradients", "graph", "graph_of_module",
            "hessian", "jacobian", "jvp", "value_and_grad", "vjp"}


Origin = tuple[CodeType, int] | None       # code object and instruction that applied an op


@lru_cache(maxsize=4096)
def _expression(origin: Origin) -> ast.expr | None:
    """The expression of the user's line that applied an op, if its source is at hand."""
    if origin is None:
        return None
    code, instruction = origin
    start, end, column, last = next(itertools.islice(code.co_positions(), instruction // 2, None))
    if start is None or end is None:
        return None
    lines = [linecache.getline(code.co_filename, n).encode() for n in range(start, end + 1)]
    lines[-1] = lines[-1][:last]
    try:
        return ast.parse(b"(" + lines[0][column:] + b"".join(lines[1:]) + b")", mode="eval").body
    except (SyntaxError, ValueError):
        return None


def called_name(origin: Origin) -> tuple[str, int]:
    """The function that the user's line calls, as ``mse_loss`` in ``tc.mse_loss(x, y)``; its place.

    An op that was applied outside of modules knows only which function of the package applied it.
    """
    if origin is not None and origin[0].co_filename.startswith(_PACKAGE):
        return origin[0].co_name, 0
    found = _expression(origin)
    if not isinstance(found, ast.Call) or origin is None:
        return "", 0
    return ast.unparse(found.func).rpartition(".")[2], id(origin[0]) + origin[1]


def operand_name(origin: Origin, place: int) -> str:
    """What the user's line calls an operand of an op: a variable, or a short expression of some.

    Empty if it names no such operand.  ``a * b`` names both, ``conv(image)`` the first.
    """
    found = _expression(origin)
    operands: list[ast.expr] = []
    if isinstance(found, ast.BinOp):
        operands = [found.left, found.right]
    elif isinstance(found, ast.UnaryOp):
        operands = [found.operand]
    elif isinstance(found, (ast.Subscript, ast.Attribute)):         # x[0], x.T
        operands = [found.value]
    elif isinstance(found, ast.Call) and called_name(origin)[0] not in _NOT_OPS:
        operands = found.args or [f.value for f in [found.func] if isinstance(f, ast.Attribute)]
    text = ast.unparse(operands[place]) if place < len(operands) else ""
    named = re.fullmatch(r"[A-Za-z_][\w.\[\], :+*/-]*|[\d. ]+[-+*/] *[A-Za-z_][\w.]*", text)
    return text.removeprefix("self.") if named and len(text) <= _LONGEST_NAME else ""


# ---- colors --------------------------------------------------------------------------------------
# Each role has a light literal of its own, so a finished light SVG turns dark by CSS rules such as
# [fill="#1f2933"]{fill:#e6edf3}: a presentation attribute loses to any rule.  The strips take the
# hues of Okabe and Ito, which people with any color vision tell apart.

_ROLES: dict[str, tuple[str, str]] = {      # role: (light, dark)
    "page": ("#ffffff", "#0f1720"), "card": ("#fefefe", "#1b2733"),
    "card_line": ("#cbd5df", "#33414f"), "fold_line": ("#9fb3c8", "#4f6780"),
    "module": ("#f3f6fb", "#15202b"), "module_line": ("#cfdae6", "#2a3948"),
    "module_inner": ("#eaf0f8", "#1a2836"),     # a module inside a module
    "ink": ("#1f2933", "#e6edf3"), "muted": ("#56626f", "#a3b3c2"), "line": ("#3e4c59", "#b8c4d0"),
    "track": ("#e9edf2", "#2c3b4b"),
    "badge": ("#0b1016", "#0b1017"),            # letter on a colored strip, dark in both themes
    "grad_text": ("#7a1566", "#f2a7d8"), "hot": ("#9a3b01", "#ffb48b"),
    "warn": ("#9a3b00", "#ffb48a"), "warn_fill": ("#fce4d8", "#4a2412"),
    "input_fill": ("#f0faf6", "#0e211b"), "input_line": ("#9fd9c3", "#1f6b52"),
    "param_fill": ("#fffaef", "#241d0e"), "param_line": ("#ebcf94", "#7a5a14"),
    "loss_fill": ("#fff4ed", "#2a1710"), "loss_line": ("#edb795", "#8a4a24"),
    "label_fill": ("#f6f8fa", "#17202a"), "label_line": ("#cbd5de", "#33414e"),
    "added_fill": ("#e9f9ee", "#10281b"), "added_line": ("#2b8a4b", "#3fae66"),
    "removed_fill": ("#fdeeee", "#2d1417"), "removed_line": ("#c03540", "#e0626c"),
    "changed_fill": ("#fff6da", "#2b230c"), "changed_line": ("#b07d00", "#c99a22"),
    # strips: one per group of op families
    "conv": ("#0072b2", "#3aa0dd"), "activation": ("#009e73", "#22b88d"),
    "pool": ("#56b4e9", "#7cc8f2"), "norm": ("#4c6ea8", "#7c9bd1"),
    "shape": ("#8d99a6", "#8494a5"), "param": ("#e69f00", "#e9ae2b"),
    "loss": ("#d55e00", "#f07f2e"),
    # gradient ramp: luminance falls (light theme) or rises (dark theme) strictly
    "ramp0": ("#f5b7d3", "#6b3557"), "ramp1": ("#ea7bb4", "#97407a"),
    "ramp2": ("#d0459a", "#c2559f"), "ramp3": ("#9c1878", "#e58ac6"),
    "ramp4": ("#560560", "#ffd0ee"),
}

LIGHT = {role: pair[0] for role, pair in _ROLES.items()}
DARK = {role: pair[1] for role, pair in _ROLES.items()}
RAMP = tuple(LIGHT[f"ramp{i}"] for i in range(5))

STRIPS = {"conv": "conv", "linear": "conv", "activation": "activation", "pool": "pool",
          "norm": "norm", "elementwise": "norm", "reduction": "pool", "shape": "shape",
          "random": "shape", "input": "activation", "label": "shape", "constant": "shape",
          "parameter": "param", "loss": "loss"}


def to_dark(text: str) -> str:
    """The same DOT or SVG text with each light literal replaced by its dark one."""
    for role, light in LIGHT.items():
        text = text.replace(light, f"\0{role}\0")
    for role, dark in DARK.items():
        text = text.replace(f"\0{role}\0", dark)
    return text


def dark_css(prefix: str = "") -> str:
    """CSS rules that turn a finished light SVG dark; ``prefix`` limits them to one figure."""
    return "".join(f'{prefix}[{attribute}="{light}"]{{{attribute}:{DARK[role]}}}'
                   for role, light in LIGHT.items() for attribute in ("fill", "stroke"))
