"""A small expression as a textbook draws it, and the chain rule written out line by line.

Each op is a circle, each tensor a box with name, value and signed gradient; along each edge stands
the local derivative.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tinygrad_cnn.viz import svg
from tinygrad_cnn.viz.capture import Recording, Statistics, entry_names
from tinygrad_cnn.viz.diagnostics import problems
from tinygrad_cnn.viz.labels import clean, count, number, shape_text, width

__all__ = ["Step", "Steps", "drawn", "fits", "steps"]

_MOST = 12                                  # tensors of a picture that chooses this style by itself
_SMALL = 8                                  # values of each
_SIGNS = {"add": "+", "sub": "−", "mul": "×", "div": "÷", "neg": "−", "power": "^", "matmul": "@"}

# Derivative of an op by each input, as text and as a number of the inputs and the result; ``{0}``
# and ``{1}`` are the names of the inputs, ``{y}`` that of the result.
_Rule = tuple[str, Callable[..., float]]
_RULES: dict[str, tuple[_Rule, ...]] = {
    "add": (("1", lambda a, b, y: 1.0), ("1", lambda a, b, y: 1.0)),
    "sub": (("1", lambda a, b, y: 1.0), ("−1", lambda a, b, y: -1.0)),
    "mul": (("{1}", lambda a, b, y: b), ("{0}", lambda a, b, y: a)),
    "div": (("1/{1}", lambda a, b, y: 1 / b), ("−{y}/{1}", lambda a, b, y: -y / b)),
    "power": (("{1}·{0}^({1}−1)", lambda a, b, y: b * a ** (b - 1)),
              ("{y}·ln {0}", lambda a, b, y: y * math.log(a))),
    "neg": (("−1", lambda a, y: -1.0),), "sum": (("1", lambda a, y: 1.0),),
    "exp": (("{y}", lambda a, y: y),), "log": (("1/{0}", lambda a, y: 1 / a),),
    "sqrt": (("1/(2·{y})", lambda a, y: 0.5 / y),),
    "tanh": (("(1−{y}²)", lambda a, y: 1 - y * y),),
    "sigmoid": (("{y}·(1−{y})", lambda a, y: y * (1 - y)),),
    "relu": (("[{0} > 0]", lambda a, y: float(a > 0)),),
    "abs": (("sign {0}", lambda a, y: math.copysign(1.0, a) if a else 0.0),)}


def fits(recording: Recording) -> bool:
    """Whether a run is small enough to be drawn this way unasked; cards show what is wrong."""
    return len(recording.entries) <= _MOST and all(
        1 <= e.size <= _SMALL and not e.scope for e in recording.entries
    ) and not problems(recording)


def _names(recording: Recording) -> list[str]:
    """Names as in a formula: the user's, ``v1``, ``v2`` for what has none, ``L`` for a loss."""
    names, made = [], 0
    for name, e in zip(entry_names(recording), recording.entries, strict=True):
        if e.op:
            made += e.role != "loss" and not e.name
            name = "L" if e.role == "loss" else e.name or f"v{made}"
        names.append(clean(name, 24))
    return names


def _signed(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _figures(found: Statistics | None) -> str:
    if found is None:
        return ""
    if not found.few:
        return f"RMS {number(found.rms)}"
    shown = ", ".join(map(_signed, found.few))
    return shown if len(found.few) == 1 else f"[{shown}]"


def _local(recording: Recording, names: list[str], i: int, k: int) -> tuple[str, float | None]:
    """The derivative of entry i by its k-th input: its formula, and its value if it is a number."""
    e = recording.entries[i]
    inputs = [recording.entries[j] for j in e.inputs]
    found = _RULES.get(e.op, ())
    values = [v.few[0] if (v := x.value) is not None and len(v.few) == 1 else None
              for x in (*inputs, e)]
    if k < len(found) and len(found) == len(inputs):
        formula, rule = found[k]
        text = formula.format(*(names[j] for j in e.inputs), y=names[i])
        try:
            return text, None if None in values else float(rule(*values))
        except (ArithmeticError, ValueError):
            return text, math.nan
    sent = e.sent[k] if k < len(e.sent) else None
    if None in values or sent is None or e.gradient is None or not e.gradient.few[0]:
        return "", None
    return "", sent / e.gradient.few[0]


# ---- the chain rule ------------------------------------------------------------------------------

@dataclass(frozen=True)
class Step:
    """One line of the chain rule, as text and as LaTeX."""

    text: str
    latex: str


class Steps(tuple[Step, ...]):
    """The lines in the order of the engine; ``print`` lists them, a notebook sets them."""

    def __str__(self) -> str:
        return "\n".join(step.text for step in self)

    def latex(self) -> str:
        """All lines as one ``aligned`` environment."""
        return "\\begin{aligned}\n" + " \\\\\n".join(step.latex for step in self) \
            + "\n\\end{aligned}"

    def _repr_latex_(self) -> str:
        return f"$${self.latex()}$$"


def steps(recording: Recording) -> Steps:
    """The chain rule of a run, from the output back: a line for each edge that sent a gradient.

    A tensor that several ops read gets a last line that adds up the parts.
    """
    names, entries = _names(recording), recording.entries
    out = names[recording.output]
    lines = [_line(f"∂{out}/∂{out}", "1")]
    parts: dict[int, list[float]] = {}
    reads = Counter(j for e in entries if e.step >= 0 for j in e.inputs)
    left = reads.copy()
    for i, e in sorted(enumerate(entries), key=lambda pair: pair[1].step):
        for k, j in enumerate(e.inputs) if e.step >= 0 else ():
            if k >= len(e.sent) or e.sent[k] is None:
                continue
            whole, part = f"∂{out}/∂{names[j]}", f"∂{names[i]}/∂{names[j]}"
            formula, slope = _local(recording, names, i, k)
            terms = [f"∂{out}/∂{names[i]} · {part}"]
            above = e.gradient.few if e.gradient is not None else ()
            if slope is not None and len(above) == 1:
                if formula and formula.strip("−") != "1":
                    terms.append(f"{_signed(above[0])} · {formula}")
                terms.append(f"{_signed(above[0])} · {_bracketed(slope)}")
                terms.append(_signed(above[0] * slope))
                parts.setdefault(j, []).append(above[0] * slope)
            else:
                if formula:
                    terms.append(f"∂{out}/∂{names[i]} · {formula}")
                terms.append(_figures(entries[j].gradient) if reads[j] == 1
                             else f"RMS {number(e.sent[k] or 0.0)}")
            left[j] -= 1
            lines.append(_line(f"{whole} via {names[i]}" if reads[j] > 1 else whole, *terms))
            if reads[j] > 1 and not left[j]:
                lines.append(_line(whole, *([" + ".join(map(_bracketed, parts[j]))]
                                            if j in parts else []), _figures(entries[j].gradient)))
    return Steps(lines)


def _bracketed(value: float) -> str:
    return f"({_signed(value)})" if value < 0 else _signed(value)


def _line(left: str, *terms: str) -> Step:
    return Step(" = ".join((left, *terms)), f"{_latex(left)} &= {' = '.join(map(_latex, terms))}")


def _latex(text: str) -> str:
    r"""
    >>> print(_latex("∂L/∂v1 · b"))
    \frac{\partial \mathrm{L}}{\partial \mathrm{v1}} \cdot \mathrm{b}
    """
    out = []
    for piece in text.split(" "):
        found = re.fullmatch("∂(.+)/∂(.+)", piece)
        out.append(_word(piece) if found is None else
                   f"\\frac{{\\partial {_word(found[1])}}}{{\\partial {_word(found[2])}}}")
    return " ".join(out)


def _word(piece: str) -> str:
    plain = "".join(f"\\{c}" if c in "#$%&_{}" else "" if c == "\\" else c for c in piece)
    known = {"·": "\\cdot", "via": "\\text{ via }", "RMS": "\\text{RMS }", "+": "+", "ln": "\\ln"}
    if piece in known:
        return known[piece]
    text = plain.replace("−", "-").replace("²", "^2").replace("·", " \\cdot ")
    return f"\\mathrm{{{text}}}" if text[:1].isalpha() and text.isalnum() else text


# ---- the picture ---------------------------------------------------------------------------------

_CELL, _HEIGHT, _ROW, _CIRCLE, _SIZE, _NOTE = 10, 34, 62, 34, 14.0, 11.0


def drawn(recording: Recording, title: str, *, figure: str, theme: str) -> str:
    """The picture as one SVG element, left to right."""
    entries, names = recording.entries, _names(recording)
    cells = [(names[i] if e.role != "constant" else "", _figures(e.value) or shape_text(e.shape),
              _figures(e.gradient)) for i, e in enumerate(entries)]
    sizes = [[width(c, _SIZE, bold=k == 0) + 2 * _CELL if c else 0.0 for k, c in enumerate(row)]
             for row in cells]
    locals_ = {(i, k): _edge_text(recording, names, i, k)
               for i, e in enumerate(entries) for k in range(len(e.inputs))}
    both = {(i, j): " and ".join(filter(None, (locals_[i, k] for k, other in enumerate(e.inputs)
                                               if other == j)))
            for i, e in enumerate(entries) for j in e.inputs}
    columns, rows = _places(recording)
    wide, gap = [0.0] * (max(columns) + 1), [0.0] * (max(columns) + 1)
    for i, e in enumerate(entries):
        wide[columns[i]] = max(wide[columns[i]], sum(sizes[i]))
        for k in range(len(e.inputs)):
            gap[columns[i]] = max(gap[columns[i]], width(both[i, e.inputs[k]], _NOTE) + 50)
    left, x = [], 30.0
    for column, w in enumerate(wide):
        x += gap[column] + (_CIRCLE + 34 if gap[column] else 0)
        left.append(x)
        x += w
    y = {i: 110 + _ROW * rows[i] for i in range(len(entries))}
    subtitle = f"{count(len(entries))} tensors · name | value | gradient · along each line the " \
        "local derivative"
    w = math.ceil(max(x + 30, width(title, 22, bold=True) + 60, width(subtitle, 12) + 60))
    shift = (w - x - 30) / 2
    left = [v + shift for v in left]
    lines, boxes, around, told = [], [], list[float](), Counter[int]()
    for i, e in enumerate(entries):
        at, middle = left[columns[i]], y[i]
        if e.op:
            center = at - 34 - _CIRCLE / 2
            lines.append(svg._arrow([(center, middle), (at, middle)], "line"))
            for k, j in enumerate(e.inputs):
                start = (left[columns[j]] + sum(sizes[j]), y[j])
                end = (center - _CIRCLE / 2 - 1, middle + (k - (len(e.inputs) - 1) / 2) * 9)
                way, at_label = [start, end], (start[0] + 10, start[1] + (
                    -8 - 13 * told[j] if start[1] <= middle else 17))
                if columns[i] > columns[j] + 1 and any(columns[j] < c < columns[i]
                                                       for c in columns):
                    low = max(y.values()) + 42 + 16 * len(around)   # around what stands between
                    beside = left[columns[j]] + wide[columns[j]] + 8
                    way[1:1] = [(beside, start[1]), (beside, low), (end[0] - 24, low),
                                (end[0] - 24, end[1])]
                    at_label = (beside + 10, low - 5)
                    around.append(low)
                elif start[1] <= middle:
                    told[j] += 1
                if j not in e.inputs[:k]:       # what is read twice has one line and one label
                    lines.append(svg._arrow(way, "line"))
                    lines.append(svg._text(*at_label, both[i, j], _NOTE, "grad_text"))
            sign = _SIGNS.get(e.op, e.op)
            size = 20.0 if len(sign) == 1 else min(13.0, 13 * (_CIRCLE - 6) / width(sign, 13))
            r = _CIRCLE / 2
            boxes += [svg._rectangle(center - r, middle - r, 2 * r, 2 * r, "label_fill", "norm", r,
                                     1.6),
                      svg._text(center, middle + size * 0.34, sign, size, "ink", bold=True,
                                anchor="middle")]
        role = {"parameter": "param", "input": "input", "loss": "loss"}.get(e.role, "")
        boxes.append(svg._rectangle(at, middle - _HEIGHT / 2, sum(sizes[i]), _HEIGHT,
                                    f"{role}_fill" if role else "card",
                                    f"{role}_line" if role else "card_line", 7))
        for k, (cell, size) in enumerate(zip(cells[i], sizes[i], strict=True)):
            if size:
                boxes.append(svg._text(at + size / 2, middle + 5, cell, _SIZE,
                                       "grad_text" if k == 2 else "ink", bold=k == 0,
                                       anchor="middle"))
            at += size
            if size and any(sizes[i][k + 1:]):
                boxes.append(svg._rectangle(at - 0.5, middle - _HEIGHT / 2, 1, _HEIGHT,
                                            "card_line"))
    h = math.ceil(max(max(y.values()) + 50, *around, 0) + 20 * bool(around))
    body = [svg._text(w / 2, 40, title, 22, "ink", bold=True, anchor="middle"),
            svg._text(w / 2, 64, subtitle, 12, "muted", anchor="middle"), *lines, *boxes]
    return svg.element(w, h, body, figure=figure, theme=theme, label=f"{title}: {subtitle}")


def _edge_text(recording: Recording, names: list[str], i: int, k: int) -> str:
    e = recording.entries[i]
    if k >= len(e.sent) or e.sent[k] is None:
        return ""
    formula, slope = _local(recording, names, i, k)
    shown = "" if slope is None else _signed(slope)
    return " = ".join(dict.fromkeys(filter(None, (
        f"∂/∂{names[e.inputs[k]]}", formula, shown)))) if formula or shown else ""


def _places(recording: Recording) -> tuple[list[int], list[float]]:
    """Column and row of each tensor: leaves below each other, each result beside what it reads."""
    entries = recording.entries
    columns, rows, free = [0] * len(entries), [-1.0] * len(entries), 0
    for i, e in enumerate(entries):
        if e.op:
            columns[i] = 1 + max((columns[j] for j in e.inputs), default=0)
            for j in e.inputs:
                if rows[j] < 0:             # a leaf that was not read before
                    rows[j], free = free, free + 1
                    columns[j] = max(0, columns[i] - 1)
            rows[i] = sum(rows[j] for j in set(e.inputs)) / max(1, len(set(e.inputs)))
    for column in range(max(columns) + 1):  # none above another
        here = sorted((i for i in range(len(entries)) if columns[i] == column),
                      key=lambda i: rows[i])
        for a, b in zip(here, here[1:], strict=False):
            rows[b] = max(rows[b], rows[a] + 0.8)
    return columns, rows
