"""How each library runs the nets of the benchmark; each file imports its library when asked."""

from __future__ import annotations

import importlib
from typing import NamedTuple

from tinygrad_cnn.bench.frameworks.base import Framework
from tinygrad_cnn.errors import SettingError

__all__ = ["CONTENDERS", "FAST", "LIBRARIES", "OURS", "Contender", "Framework", "contenders",
           "of_library", "open_framework"]


class Contender(NamedTuple):
    """A library in one of its ways of running, and how to get it."""

    library: str                        # what --against names
    module: str                         # file in this folder
    variant: str                        # what the file is told
    pip: str                            # what installs it


OURS = "tinygrad_cnn"
"""Pure NumPy: what every claim without further words is about."""

FAST = "tinygrad_cnn fast"
"""The same with the extra ``fast``: compiled kernels, told apart everywhere."""

CONTENDERS: dict[str, Contender] = {
    OURS: Contender(OURS, "own", "", "pip install tinygrad-cnn"),
    FAST: Contender(OURS, "own", "compiled", 'pip install "tinygrad-cnn[fast]"'),
    "torch": Contender("torch", "pytorch", "nchw", "pip install torch"),
    "torch channels_last": Contender("torch", "pytorch", "channels_last", "pip install torch"),
    "torch.compile": Contender("torch", "pytorch", "compile", "pip install torch"),
    "jax": Contender("jax", "on_jax", "", "pip install jax"),
    "mygrad": Contender("mygrad", "on_mygrad", "", "pip install mygrad"),
    "autograd": Contender("autograd", "on_autograd", "", "pip install autograd"),
    "tinygrad": Contender("tinygrad", "on_tinygrad", "", "pip install tinygrad"),
}
"""Name in tables -> how it is run."""

LIBRARIES = tuple(dict.fromkeys(c.library for c in CONTENDERS.values() if c.library != OURS))


def of_library(name: str, library: str) -> bool:
    """Whether a contender is a way of running this library.

    Examples
    --------
    >>> of_library("torch channels_last", "torch"), of_library(FAST, OURS)
    (True, True)
    """
    return CONTENDERS[name].library == library


def contenders(against: tuple[str, ...], *, eager: bool = False,
               compiled: bool = True) -> tuple[str, ...]:
    """Ourselves first, then every variant of the libraries named.

    Parameters
    ----------
    against : tuple of str
        Libraries.
    eager : bool, default False
        Without torch.compile.
    compiled : bool, default True
        With our own compiled kernels beside pure NumPy.

    Raises
    ------
    SettingError
        If a library has no file here.

    Examples
    --------
    >>> contenders(("torch",), eager=True)
    ('tinygrad_cnn', 'tinygrad_cnn fast', 'torch', 'torch channels_last')
    """
    for library in against:
        if library not in LIBRARIES:
            raise SettingError(f"bench: --against {library!r} is unknown; choose from "
                               f"{', '.join(LIBRARIES)}")
    left_out = {*(("torch.compile",) if eager else ()), *(() if compiled else (FAST,))}
    return tuple(name for name, c in CONTENDERS.items()
                 if c.library in (OURS, *against) and name not in left_out)


def open_framework(name: str, threads: int) -> Framework:
    """Import the library of a contender and set its threads.

    Raises
    ------
    ImportError
        If the library is not installed.
    """
    contender = CONTENDERS[name]
    module = importlib.import_module(f"{__name__}.{contender.module}")
    framework: Framework = module.open(contender.variant, threads)
    return framework
