"""A table of a model: each layer with its output, its parameters and its work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_cnn.graph import Node, no_grad, observing
from tinygrad_cnn.nn import Module
from tinygrad_cnn.shapes import Shape
from tinygrad_cnn.tensor import Tensor

__all__ = ["LayerRow", "Summary", "summarize"]


@dataclass(frozen=True)
class LayerRow:
    """One layer: its path, what it is, its output shape, parameters, and forward FLOPs."""

    name: str
    kind: str
    shape: Shape
    parameters: int
    flops: int


@dataclass(frozen=True)
class Summary:
    """The layers of a model in the order in which they ran; ``str`` gives the table."""

    title: str
    layers: tuple[LayerRow, ...]
    parameters: int
    flops: int
    bytes: int

    def __str__(self) -> str:
        head = ("layer", "output", "parameters", "MFLOP")
        rows = [(f"{row.name} {row.kind}", "×".join(map(str, row.shape)),
                 f"{row.parameters:,}" if row.parameters else "-", f"{row.flops / 1e6:,.3f}")
                for row in self.layers]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(cell.ljust(w) if i < 2 else cell.rjust(w)
                           for i, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip()
                 for row in (head, *rows)]
        rule = "-" * max(map(len, lines))
        total = (f"{self.parameters:,} parameters ({self.bytes / 1024:,.0f} KiB), "
                 f"{self.flops / 1e6:,.2f} MFLOP forward for one image")
        return "\n".join([self.title, lines[0], rule, *lines[1:], rule, total])


class _Count:
    """Sums up the work of the ops, under the path of the module that ran them."""

    def __init__(self) -> None:
        self.flops: dict[tuple[str, ...], int] = {}

    def forward(self, node: Node, out: np.ndarray, seconds: float) -> None:
        assert node.inputs is not None
        work = node.op.count_flops(*(None if x is None else x.shape for x in node.inputs),
                                   out=out.shape, **node.settings)
        self.flops[node.scope] = self.flops.get(node.scope, 0) + work

    def backward(self, node: Node, cotangent: np.ndarray, sent: Any, seconds: float) -> None:
        """Nothing runs backward here."""


def summarize(model: Module, image_shape: tuple[int, ...]) -> Summary:
    """Run a model once on an empty image, and list its layers.

    Parameters
    ----------
    model : Module
        Its mode and buffers are left as they are.
    image_shape : tuple of int
        Shape of one image: (H, W, C).

    Returns
    -------
    Summary
        Layers with output shape (N left out), parameters and forward FLOPs for one image.

    Raises
    ------
    ShapeError, SettingError
        What the model raises for such an image.

    Examples
    --------
    >>> from tinygrad_cnn.models import build
    >>> from tinygrad_cnn.train import summarize
    >>> summarize(build("lenet", (28, 28, 1), 10), (28, 28, 1)).parameters
    215370
    """
    count = _Count()
    shapes: dict[str, Shape] = {}
    leaves = {name: module for name, module in model.named_modules()
              if name and not any(True for _ in module.children())}
    handles = [module.register_forward_hook(_note_shape(shapes, name))
               for name, module in leaves.items()]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with no_grad(), observing(count):
            model(Tensor(np.zeros((1, *image_shape), np.float32)))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    by_path = {".".join(scope[1:]): work for scope, work in count.flops.items()}
    rows = tuple(
        LayerRow(name, type(leaves[name]).__name__, shape,
                 sum(p.size for p in leaves[name].parameters()), by_path.get(name, 0))
        for name, shape in shapes.items())
    parameters = list(model.parameters())
    return Summary(type(model).__name__, rows, sum(p.size for p in parameters),
                   sum(count.flops.values()), sum(p._data.nbytes for p in parameters))


def _note_shape(shapes: dict[str, Shape], name: str) -> Any:
    def hook(module: Module, inputs: Any, output: Any) -> None:
        shapes[name] = output.shape[1:]
    return hook
