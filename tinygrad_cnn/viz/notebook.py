"""What a notebook shows for a tensor and for a module: small tables, every word escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinygrad_cnn.tensor import Tensor
from tinygrad_cnn.viz.recorder import is_stand_in, statistics
from tinygrad_cnn.viz.text import binary_size, count, escape, number, shape_text

if TYPE_CHECKING:
    from tinygrad_cnn.nn import Module

__all__ = ["module_html", "tensor_html"]

_MOST_VALUES = 64


def tensor_html(x: Tensor) -> str:
    """Shape, dtype, where it comes from, its figures, and its values if they are few.

    Parameters
    ----------
    x : Tensor
        What to show.

    Returns
    -------
    str
        HTML without a script, a link or a style.

    Examples
    --------
    >>> tensor_html(Tensor([1.0, 3.0], name="x")).count("<tr>")
    5
    """
    name = f"{type(x).__name__} {x.name}" if x.name else type(x).__name__
    rows = [("shape", shape_text(x.shape)), ("dtype", f"{x.dtype}, {binary_size(x._data.nbytes)}")]
    if x.node is not None:
        rows.append(("made by", x.node.op.name))
    rows.append(("gradient", _gradient(x)))
    if x.size and not is_stand_in(x._data):
        rows.append(("values", _figures(x)))
    table = _table((name,), rows)
    if 0 < x.size <= _MOST_VALUES:
        lines = np.array2string(x._data, precision=4, separator=", ").splitlines()
        table += "<pre>" + "\n".join(escape(line, 200) for line in lines) + "</pre>"
    return table


def _gradient(x: Tensor) -> str:
    if not x.requires_grad:
        return "none wanted"
    return "not computed" if x.grad is None else f"RMS {number(statistics(x.grad._data).rms)}"


def _figures(x: Tensor) -> str:
    s = statistics(x._data)
    bad = f", {s.bad} NaN or infinite" if s.bad else ""
    return f"{number(s.low)} … {number(s.high)}, RMS {number(s.rms)}{bad}"


def module_html(model: Module) -> str:
    """The parts of a network: path, class and settings, shapes and number of parameters.

    Parameters
    ----------
    model : Module
        What to show.  A layer that waits for its first call shows no parameters yet.

    Returns
    -------
    str
        HTML without a script, a link or a style.
    """
    rows: list[tuple[str, ...]] = []
    total = 0
    for path, part in model.named_modules():
        own = list(part.own_parameters())
        total += sum(p.size for _, p in own)
        if path:
            shapes = ", ".join(f"{name} {shape_text(p.shape)}" for name, p in own)
            size = count(sum(p.size for _, p in own)) if own else ""
            rows.append((path, f"{type(part).__name__}({part.extra_repr()})", shapes, size))
    rows.append(("", "together", "", count(total)))
    head = (type(model).__name__, "layer", "shapes", "parameters")
    return _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f'<th align="left"{" colspan=2" if len(head) == 1 else ""}>{escape(h)}</th>'
                  for h in head)
    body = "".join("<tr>" + "".join(f'<td align="left">{escape(cell, 120)}</td>' for cell in row)
                   + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"
