"""Where in a network an error happened: the path of the layer, and the shapes on the way to it.

While the outermost module runs, each layer that finishes leaves its path and the shape of its
output.  An error that passes through the call of a module gets the last of these added to its
message, once, by the innermost module.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from tinygrad_cnn.errors import TinygradCnnError
from tinygrad_cnn.shapes import Shape

if TYPE_CHECKING:
    from tinygrad_cnn.nn.module import Module

__all__ = ["Steps", "current", "explain", "started"]

Steps = deque[tuple[tuple[str, ...], "Module", Shape]]

_LAST = 12                                              # lines that still help to find the place
_MARK = "\n  in the layer "
_steps: ContextVar[Steps | None] = ContextVar("steps", default=None)


def current() -> Steps | None:
    """The steps of the outermost call that is running here, or None."""
    return _steps.get()


@contextmanager
def started() -> Iterator[None]:
    """Collect the steps of the calls inside the block."""
    token = _steps.set(deque(maxlen=_LAST))
    try:
        yield
    finally:
        _steps.reset(token)


def explain(error: TinygradCnnError, path: tuple[str, ...], module: Module, steps: Steps) -> None:
    """Add to the message where it happened and which shapes led there, unless that is done."""
    message = str(error)
    if _MARK in message:
        return
    rows = [(f"{'.'.join(where[1:]) or where[0]}: {_one_line(layer)}", str(shape))
            for where, layer, shape in steps]
    width = max((len(name) for name, _ in rows), default=0)
    came = "".join(f"\n    {name:<{width}}  -> {shape}" for name, shape in rows)
    error.args = (f"{message}{_MARK}{'.'.join(path)}: {_one_line(module)}"
                  + (f"\n  which came after{came}" if came else ""),)


def _one_line(module: Module) -> str:
    """The module's own line of the tree, without its parts."""
    parts = next(module.children(), None) is not None
    return f"{type(module).__name__}({'...' if parts else module.extra_repr()})"
