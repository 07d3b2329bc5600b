"""Pictures of graphs: forward and backward in one, on any machine, and graphs under test.

``loss.graph()`` and ``model.graph(x)`` give a `Figure` that shows itself in a notebook and saves
itself as SVG, PNG, PDF, DOT, Mermaid, JSON, text or one interactive page.  There are two models on
the way: a `Recording` of the run is folded into a `Diagram`, and every format is written from that.

The plots of training are in `tinygrad_cnn.viz.plots`, and the arrays behind them in
`tinygrad_cnn.viz.attribution`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from numpy.typing import ArrayLike

from tinygrad_cnn.core import Tensor, TensorLike
from tinygrad_cnn.names import on_first_use
from tinygrad_cnn.viz.capture import Recording, Watch, describe, describe_module, watch
from tinygrad_cnn.viz.compare import GraphDifference, assert_graph_unchanged, diff
from tinygrad_cnn.viz.diagnostics import Problem, problems
from tinygrad_cnn.viz.diagram import Diagram
from tinygrad_cnn.viz.figure import Figure, Settings, load
from tinygrad_cnn.viz.text import to_dot

if TYPE_CHECKING:
    from tinygrad_cnn.nn import Module

__all__ = ["Diagram", "Figure", "GraphDifference", "Problem", "Recording", "Watch",
           "animate", "assert_graph_unchanged", "describe", "describe_module", "diff", "graph",
           "graph_of_module", "load", "problems", "to_dot", "watch"]

on_first_use(__name__)


def graph(output: Tensor, *, gradients: bool = True, watch: Watch | None = None,
          values: bool = False, thumbnails: bool = False,
          **settings: Unpack[Settings]) -> Figure:
    """Draw what led to a tensor; ``tensor.graph()`` calls this.

    ``gradients`` asks for a private replay of the backward pass: no ``grad`` is touched.  With
    ``watch``, a `Watch` that saw the step, it may be drawn after ``backward()``.  ``values`` gives
    each card the range, the RMS and a histogram of its values and gradients, ``thumbnails`` small
    pictures of images and feature maps.  The settings are those of `Figure`.  A VizError says that
    nothing is recorded, or that the graph was freed.

    Examples
    --------
    >>> w = Parameter([[1.0], [2.0]], name="w")
    >>> x = Tensor([[3.0, 4.0]], name="x")
    >>> fig = graph((x @ w).sum())
    >>> [card.title for card in fig.diagram.cards]
    ['x', 'w', 'matmul', 'sum']
    >>> fig.recording.entries[1].gradient.rms
    3.535533905932738
    """
    return Figure(describe(output, gradients=gradients, watch=watch, values=values,
                           thumbnails=thumbnails), **settings)


def graph_of_module(module: Module, x: TensorLike | tuple[TensorLike, ...], *,
                    labels: ArrayLike | None = None, values: bool = False,
                    thumbnails: bool = False, **settings: Unpack[Settings]) -> Figure:
    """Draw a model as it computes one batch; ``model.graph(x)`` calls this.

    See `describe_module` for what runs, `graph` for ``values`` and ``thumbnails``, and `Figure` for
    the settings.
    """
    return Figure(describe_module(module, x, labels, values=values, thumbnails=thumbnails),
                  **settings)


def animate(output: Tensor | Figure, path: str | os.PathLike[str],
            **settings: Unpack[Settings]) -> Path:
    """Write the backward pass in motion as one SVG without script; ``path`` ends with ``.svg``.

    ``output`` is a loss whose graph is alive, with settings as in `graph`, or its figure.
    """
    figure = output if isinstance(output, Figure) else graph(output, **settings)
    return figure.animate(path)
