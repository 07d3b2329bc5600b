"""From a live graph to a recording, and the watch that notes a step while it runs."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from numpy.typing import NDArray

from tinygrad_cnn.errors import GradientError, VizError
from tinygrad_cnn.graph import Node, observing
from tinygrad_cnn.tensor import Tensor, gradients
from tinygrad_cnn.viz.recorder import Recorder, is_stand_in, statistics
from tinygrad_cnn.viz.recording import Recording

__all__ = ["Watch", "describe", "watch"]

Array = NDArray[Any]

_watching: ContextVar[Watch | None] = ContextVar("watching", default=None)


def describe(output: Tensor, *, gradients: bool = True, title: str = "",
             watch: Watch | None = None) -> Recording:
    """What led to ``output``, as plain data.

    Gradients come from the first of these that is there: a `watch` that saw the step; a private
    replay of the backward pass, if the graph is alive and the output is one number; the ``grad`` of
    the parameters.  Nothing of the caller's is changed: no ``grad``, no graph, no random state.

    Parameters
    ----------
    output : Tensor
        A loss, or any tensor that ops made.
    gradients : bool, default True
        Whether to replay the backward pass.
    title : str
        Instead of the name of the outermost module.
    watch : Watch, optional
        One that has ended; the one around the call is found by itself.

    Raises
    ------
    VizError
        If no op is recorded behind the tensor, or its graph was freed.
    """
    seen = watch or _watching.get()
    node = output.node
    if node is None:
        raise VizError("graph: no op is recorded behind this tensor; compute it outside no_grad() "
                       "from parameters that require a gradient")
    if seen is not None and seen.recorder.knows(output):
        return seen.recorder.recording(node.serial, title=title)
    nodes = _reached(node)
    recorder = Recorder()
    arrays = _arrays(nodes)
    if output._data is not None:
        arrays[node.serial] = output._data
    for n in nodes:
        recorder.note(n, arrays.get(n.serial), None)
    if gradients and output.size == 1 and output.requires_grad:
        _replay(output, recorder)
    else:
        _own_gradients(nodes, recorder)
    return recorder.recording(node.serial, title=title)


def _reached(last: Node) -> list[Node]:
    """The nodes behind one, in creation order."""
    reached, stack = {last}, [last]
    while stack:
        node = stack.pop()
        if node.inputs is None:
            raise VizError("graph: backward() has freed this graph; draw it before backward(), "
                           "pass retain_graph=True, or wrap the step in viz.watch()")
        for x in node.inputs:
            if x is not None and x.node is not None and x.node not in reached:
                reached.add(x.node)
                stack.append(x.node)
    return sorted(reached, key=lambda n: n.serial)


def _arrays(nodes: Iterable[Node]) -> dict[int, Array]:
    """Results that are still alive, by the serial of the op that made them."""
    arrays = {}
    for node in nodes:
        if node.out is not None:
            arrays[node.serial] = node.out
        for x in node.inputs or ():
            if x is not None and x.node is not None and not is_stand_in(x._data):
                arrays[x.node.serial] = x._data
    return arrays


def _replay(output: Tensor, recorder: Recorder) -> None:
    with observing(recorder):
        try:
            gradients(output, retain_graph=True)
        except GradientError as error:
            error.add_note("while drawing; graph(gradients=False) draws without gradients")
            raise


def _own_gradients(nodes: Iterable[Node], recorder: Recorder) -> None:
    """What ``backward`` left in the leaves."""
    for node in nodes:
        for key, x in zip(recorder.ops[node.serial].inputs,
                          (x for x in node.inputs or () if x is not None), strict=False):
            if key < 0 and x.grad is not None:
                recorder.gradients[key] = statistics(x.grad._data)


class Watch:
    """A context manager that notes every op and gradient of the steps inside it.

    Examples
    --------
    >>> w = Parameter([1.0, 2.0], name="w")
    >>> with watch() as seen:
    ...     loss = (w * w).sum()
    ...     loss.backward()
    >>> [e.op for e in seen.describe(loss).entries if e.op]
    ['mul', 'sum']
    """

    def __init__(self) -> None:
        self.recorder = Recorder()
        self._contexts: list[tuple[Any, Any]] = []

    def __enter__(self) -> Watch:
        inner = observing(self.recorder)
        inner.__enter__()
        self._contexts.append((inner, _watching.set(self)))
        return self

    def __exit__(self, *error: Any) -> None:
        inner, token = self._contexts.pop()
        _watching.reset(token)
        inner.__exit__(*error)

    def describe(self, output: Tensor, *, title: str = "") -> Recording:
        """The recording of one output that was computed inside the block.

        Raises
        ------
        VizError
            If the output was not.
        """
        if not self.recorder.knows(output):
            raise VizError("graph: this tensor was not computed inside the watch; compute it in "
                           "the with block")
        return describe(output, title=title, watch=self)


def watch() -> Watch:
    """Note RMS, extremes, NaN and time of every op and gradient inside a ``with`` block.

    The graph of a step that was watched can be drawn after ``backward()`` has freed it:
    ``viz.graph(loss, watch=seen)``, or ``loss.graph()`` inside the block.
    """
    return Watch()
