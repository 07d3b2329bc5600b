"""Ctrl-C while the command line starts or ends: one line, not a traceback of what was imported.

This is imported before anything else of the package.  In a program of the user's it does nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

__all__ = ["interrupts_end_quietly", "interrupts_raise"]

# "-m" as long as Python looks for what ``python -m tinygrad_cnn`` is to run.
_command = os.path.basename((getattr(sys, "argv", None) or [""])[0]) in (
    "-m", "tinygrad-cnn", "tinygrad-cnn.exe")


def _end(number: int, frame: FrameType | None) -> None:
    try:
        os.write(2, b"tinygrad-cnn: interrupted\n")
    finally:
        os._exit(130)


def interrupts_end_quietly() -> None:
    """Let Ctrl-C end the command line at once, with status 130."""
    if _command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def interrupts_raise() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


interrupts_end_quietly()
