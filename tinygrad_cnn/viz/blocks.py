"""The layers of a network as blocks, as authors of papers draw them, from the shapes alone.

Height and depth of a block are H and W of the tensor, its thickness is C; a vector is a bar.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from tinygrad_cnn.errors import VizError
from tinygrad_cnn.viz import svg
from tinygrad_cnn.viz.capture import Recording
from tinygrad_cnn.viz.labels import LIGHT, STRIPS, clean, width

__all__ = ["drawn"]

_TALLEST, _GAP, _SLANT, _SIZE = 170.0, 44.0, 0.35, 11.0
_SHORT = {"conv2d": "conv", "max_pool2d": "max pool", "avg_pool2d": "avg pool", "linear": "linear",
          "conv_transpose2d": "up conv", "reshape": "flatten", "mean": "mean"}


def _trunk(recording: Recording) -> Iterator[int]:
    """From the input that lies deepest to the output: each tensor that has another shape."""
    depth: list[int] = []
    for e in recording.entries:
        depth.append(1 + max((depth[j] for j in e.inputs), default=0))
    path = [recording.output]
    while reads := recording.entries[path[-1]].inputs:
        path.append(max(reads, key=lambda j: depth[j]))
    shape: tuple[int, ...] = ()
    for i in reversed(path):
        e = recording.entries[i]
        if len(e.shape) > 1 and e.shape != shape:
            shape = e.shape
            yield i


def drawn(recording: Recording, title: str, *, figure: str, theme: str) -> str:
    """The picture as one SVG element, left to right."""
    kept = list(_trunk(recording))
    if not kept:
        raise VizError("graph: style 'blocks' draws tensors with a batch axis, and there are none")
    entries = [recording.entries[i] for i in kept]
    highest = max((e.shape[1] for e in entries if len(e.shape) == 4), default=1)
    x, middle, parts = 40.0, 120 + _TALLEST / 2, []
    for k, e in enumerate(entries):
        image = len(e.shape) == 4
        tall = _TALLEST * (e.shape[1] / highest) ** 0.6 if image else min(
            _TALLEST, 18 + 14 * math.log2(e.shape[-1] + 1))
        deep = _SLANT * _TALLEST * (e.shape[2] / highest) ** 0.6 if image else 7.0
        thick = 5 + 6 * math.log2(e.shape[-1] + 1) if image else 10.0
        if k:
            name = clean(_SHORT.get(e.op, e.op), 14)
            room = max(_GAP, width(name, _SIZE) + 16)
            parts += [svg._arrow([(x + 4, middle), (x + room - 4, middle)], "line"),
                      svg._text(x + room / 2, middle - 9, name, _SIZE, "muted", anchor="middle")]
            x += room
        top, bottom = middle - tall / 2, middle + tall / 2
        color, edge = LIGHT[STRIPS[e.family or e.role]], LIGHT["ink"]
        far, right = x + thick, x + thick + deep
        faces = (((x, top), (x + deep, top - deep), (right, top - deep), (far, top)),
                 ((far, top), (right, top - deep), (right, bottom - deep), (far, bottom)),
                 ((x, top), (far, top), (far, bottom), (x, bottom)))
        parts += [f'<polygon points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in face)}" '
                  f'fill="{color}" fill-opacity="{shade}" stroke="{edge}" stroke-width="0.8"/>'
                  for face, shade in zip(faces, (0.45, 0.7, 0.9), strict=True)]
        words = (str(e.shape[-1]), f"{e.shape[1]}×{e.shape[2]}" if image else "")
        parts += [svg._text(x + thick / 2, bottom + 18 + 15 * n, word, _SIZE, "ink", bold=not n,
                            anchor="middle") for n, word in enumerate(words)]
        x += thick + deep
    w = math.ceil(max(x + 40, width(title, 22, bold=True) + 60))
    head = svg._text(w / 2, 40, title, 22, "ink", bold=True, anchor="middle")
    return svg.element(w, math.ceil(middle + _TALLEST / 2 + 60), [head, *parts], figure=figure,
                       theme=theme, label=f"{title}: {len(entries)} layers as blocks")
