"""Where in a network an error happened: the path of the layer, and the shapes on the way to it.

While the outermost module runs, each module that finishes leaves its path and the shape of its
output.  An error that passes through the call of a module gets the last of these added to its
message, once, by the innermost module.
"""

from __future__ import annotations

from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING

from tinygrad_cnn.errors import TinygradCnnError
from tinygrad_cnn.shapes import Shape

if TYPE_CHECKING:
    from tinygrad_cnn.nn.module import Module

__all__ = ["Steps", "begin", "explain", "running"]

Steps = deque[tuple[tuple[str, ...], "Module", Shape]]

_LAST = 12                                              # lines that still help to find the place
_MARK = "\n  in the layer "
running: ContextVar[Steps | None] = ContextVar("steps", default=None)


def begin() -> Steps:
    """What the outermost call of a module notes in ``running`` while it runs."""
    return deque(maxlen=3 * _LAST)                      # modules with parts are left out when shown


def explain(error: TinygradCnnError, path: tuple[str, ...], module: Module, steps: Steps) -> None:
    """Add to the message where it happened and which shapes led there, unless that is done."""
    message = str(error)
    if _MARK in message:
        return
    leaves = [step for step in steps if next(step[1].children(), None) is None][-_LAST:]
    rows = [(f"{'.'.join(where[1:]) or where[0]}: {_one_line(layer)}", str(shape))
            for where, layer, shape in leaves]
    width = max((len(name) for name, _ in rows), default=0)
    came = "".join(f"\n    {name:<{width}}  -> {shape}" for name, shape in rows)
    error.args = (f"{message}{_MARK}{'.'.join(path)}: {_one_line(module)}"
                  + (f"\n  which came after{came}" if came else ""),)


def _one_line(module: Module) -> str:
    """The module's own line of the tree, without its parts."""
    parts = next(module.children(), None) is not None
    return f"{type(module).__name__}({'...' if parts else module.extra_repr()})"
