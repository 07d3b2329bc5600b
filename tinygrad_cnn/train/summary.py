"""A table of a model: each layer with its output, its parameters and its work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tinygrad_cnn.core import Tensor
from tinygrad_cnn.core.graph import Node, Observer, no_grad, observing
from tinygrad_cnn.nn import Module, evaluating
from tinygrad_cnn.shapes import Shape
from tinygrad_cnn.train.tables import Rows, Table
from tinygrad_cnn.types import Function

__all__ = ["LayerRow", "Summary", "summarize"]


@dataclass(frozen=True)
class LayerRow:
    """One layer: its path, what it is, its output shapes, parameters, and forward FLOPs."""

    name: str
    kind: str
    shapes: tuple[Shape, ...]
    parameters: int
    flops: int


@dataclass(frozen=True, repr=False)
class Summary(Table):
    """The layers of a model in the order in which they ran; ``str`` gives the table."""

    _texts: ClassVar[int] = 2

    title: str
    layers: tuple[LayerRow, ...]
    parameters: int
    flops: int
    bytes: int

    def _cells(self) -> tuple[str, tuple[str, ...], Rows, str]:
        return (self.title, ("layer", "output", "parameters", "MFLOP"),
                [(f"{row.name} {row.kind}".strip(),
                  ", ".join("×".join(map(str, shape)) for shape in row.shapes),
                  f"{row.parameters:,}" if row.parameters else "-", f"{row.flops / 1e6:,.3f}")
                 for row in self.layers],
                f"{self.parameters:,} parameters ({self.bytes / 1024:,.0f} KiB), "
                f"{self.flops / 1e6:,.2f} MFLOP forward for one image")


class _Count(Observer):
    """Sums up the work of the ops, under the path of the module that ran them."""

    def __init__(self) -> None:
        self.flops: dict[tuple[str, ...], int] = {}

    def forward(self, node: Node, inputs: object, out: np.ndarray, seconds: float) -> None:
        assert node.inputs is not None
        work = node.op.count_flops(*(None if x is None else x.shape for x in node.inputs),
                                   out=out.shape, **node.settings)
        self.flops[node.scope] = self.flops.get(node.scope, 0) + work


def summarize(model: Module, *input_shapes: Shape) -> Summary:
    """Run a model once on an empty image, and list its layers.

    Parameters
    ----------
    model : Module
        Its mode and buffers are left as they are.
    *input_shapes : tuple of int
        Shape of one image, (H, W, C), or of one of each of the inputs.

    Examples
    --------
    >>> from tinygrad_cnn.models import build
    >>> from tinygrad_cnn.train import summarize
    >>> summarize(build("lenet", (28, 28, 1), 10), (28, 28, 1)).parameters
    215370
    """
    count, shapes = _Count(), dict[str, tuple[Shape, ...]]()
    leaves = {name: module for name, module in model.named_modules()
              if not any(True for _ in module.children())}
    handles = [module.register_forward_hook(_note_shapes(shapes, name))
               for name, module in leaves.items()]
    try:
        with evaluating(model), no_grad(), observing(count):
            model(*(Tensor(np.zeros((1, *shape), np.float32)) for shape in input_shapes))
    finally:
        for handle in handles:
            handle.remove()
    by_path = {".".join(scope[1:]): work for scope, work in count.flops.items()}
    rows = tuple(
        LayerRow(name, type(leaves[name]).__name__, shape,
                 sum(p.size for p in leaves[name].parameters()), by_path.get(name, 0))
        for name, shape in shapes.items())
    parameters = list(model.parameters())
    return Summary(type(model).__name__, rows, sum(p.size for p in parameters),
                   sum(count.flops.values()), sum(p._data.nbytes for p in parameters))


def _note_shapes(shapes: dict[str, tuple[Shape, ...]], name: str) -> Function:
    def hook(module: Module, inputs: object, output: object) -> None:
        several = output.values() if isinstance(output, dict) else \
            output if isinstance(output, (tuple, list)) else [output]
        shapes[name] = tuple(out.shape[1:] for out in several if isinstance(out, Tensor))
    return hook
