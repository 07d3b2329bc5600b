"""Pictures of graphs: forward and backward in one, on any machine, and graphs under test.

``loss.graph()`` and ``model.graph(x)`` give a `Figure` that shows itself in a notebook and saves
itself as SVG, PNG, PDF, DOT, Mermaid, JSON, text or one interactive page.  The way there is a chain
of plain data: a `Recording` of the run, folded into a `Diagram`, written as DOT or laid out by the
package itself.

The plots of training (filters, learning curves, saliency, ...) are in `tinygrad_cnn.viz.plots`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinygrad_cnn.errors import VizError
from tinygrad_cnn.tensor import Tensor
from tinygrad_cnn.viz import canonical, render
from tinygrad_cnn.viz.diagram import Diagram
from tinygrad_cnn.viz.dot import to_dot
from tinygrad_cnn.viz.figure import Figure, load
from tinygrad_cnn.viz.health import Problem, problems
from tinygrad_cnn.viz.live import Watch, describe, watch
from tinygrad_cnn.viz.models import describe_module
from tinygrad_cnn.viz.programs import Engine, engines
from tinygrad_cnn.viz.recording import Recording

if TYPE_CHECKING:
    from tinygrad_cnn.nn import Module

__all__ = ["Diagram", "Engine", "Figure", "GraphDifference", "Problem", "Recording", "Watch",
           "animate", "assert_graph_unchanged", "describe", "describe_module", "diff", "engines",
           "graph", "graph_of_module", "load", "problems", "to_dot", "watch"]


def graph(output: Tensor, *, gradients: bool = True, watch: Watch | None = None,
          **settings: Any) -> Figure:
    """Draw what led to a tensor; ``tensor.graph()`` calls this.

    Parameters
    ----------
    output : Tensor
        A loss, or any tensor that recorded ops made.
    gradients : bool, default True
        Replay the backward pass privately, so that gradients show.  No ``grad`` is touched.
    watch : Watch, optional
        One that saw the step; then it may be drawn after ``backward()``.
    **settings
        ``level``, ``color``, ``scale``, ``open``, ``limit``, ``theme``, ``engine`` and ``title`` of
        `Figure`.

    Returns
    -------
    Figure

    Raises
    ------
    VizError
        If nothing is recorded behind the tensor, its graph was freed, or a setting is unknown.

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
    return Figure(describe(output, gradients=gradients, watch=watch), **settings)


def graph_of_module(module: Module, x: Any, *, labels: Any = None, **settings: Any) -> Figure:
    """Draw a model as it computes one batch; ``model.graph(x)`` calls this.

    A copy of the model runs: weights, ``grad``, running averages and random state stay as they are.

    Parameters
    ----------
    module : Module
        The model.
    x : Tensor, array_like, or a tuple of them
        One batch.
    labels : array_like, optional
        Classes, shape (N,); with them the loss and the gradients show.
    **settings
        Of `Figure`.

    Raises
    ------
    VizError
        If ``x`` is None, or the model does not return a tensor.
    """
    return Figure(describe_module(module, x, labels), **settings)


def animate(output: Tensor | Figure, path: str | os.PathLike[str], **settings: Any) -> Path:
    """Write the backward pass in motion as one SVG that needs no script.

    Parameters
    ----------
    output : Tensor or Figure
        A loss whose graph is alive, or its figure.
    path : str or path
        Ends with ``.svg``.
    **settings
        Of `graph`, if a tensor is given.

    Raises
    ------
    VizError
        If no gradient is recorded, or the path cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() != ".svg":
        raise VizError(f"animate: {target.name!r} must end with .svg; it is the format that moves")
    render.check_folder(target)
    figure = output if isinstance(output, Figure) else graph(output, **settings)
    render.write(target, '<?xml version="1.0" encoding="UTF-8"?>\n' + figure.animation())
    return target


class GraphDifference:
    """What changed between two graphs: false if nothing did; ``print`` lists it, ``figure`` draws.

    Attributes
    ----------
    added, removed : tuple of str
        Lines of canonical text.
    changed : tuple of (str, str)
        Old and new lines.
    """

    def __init__(self, found: canonical.Difference) -> None:
        self.added, self.removed, self.changed = found.added, found.removed, found.changed
        self._found = found

    def __bool__(self) -> bool:
        return bool(self._found)

    def __str__(self) -> str:
        return str(self._found)

    def figure(self, **settings: Any) -> Figure:
        """The two graphs in one picture: new cards with +, old ones with −, changed ones marked."""
        return Figure(self._found.merged, changes=self._found.marks,
                      **{"level": "operators", **settings})

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {**self.figure()._repr_mimebundle_(), "text/plain": str(self)}


def diff(old: Figure | Recording, new: Figure | Recording) -> GraphDifference:
    """Compare the structure of two graphs: ops, settings, shapes and wiring, not values.

    Parameters
    ----------
    old, new : Figure or Recording

    Examples
    --------
    >>> w = Parameter([1.0, 2.0], name="w")
    >>> old, new = graph((w * w).sum()), graph((w * w).exp().sum())
    >>> print(diff(old, new))
    1 added, 1 changed
    + exp = exp() mul -> 2 float32
    - sum = sum(axis 0) mul -> scalar float32
    + sum = sum(axis 0) exp -> scalar float32
    """
    a, b = (g.recording if isinstance(g, Figure) else g for g in (old, new))
    return GraphDifference(canonical.compare(a, b))


def assert_graph_unchanged(figure: Figure | Tensor, path: str | os.PathLike[str], *,
                           batch: str | None = "N", update: bool | None = None) -> None:
    """Fail a test if the structure of a graph is not the one in a file.

    Parameters
    ----------
    figure : Figure or Tensor
        The graph.
    path : str or path
        A text file, written by a first run with ``TINYGRAD_CNN_UPDATE_GRAPHS=1``.
    batch : str or None, default "N"
        Written for the size of the batch, so that the test holds for every batch size.
    update : bool, optional
        Write the file instead of reading it; by default what the environment variable says.

    Raises
    ------
    AssertionError
        With a line diff if the graph differs, or with the cure if the file is missing.
    """
    shown = figure if isinstance(figure, Figure) else graph(figure, gradients=False)
    canonical.compare_with_file(shown.canonical(batch=batch), path, update=update)
