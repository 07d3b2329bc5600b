"""How each library writes the nets.  A file imports its library when it is opened, not before."""

from __future__ import annotations

import importlib
from typing import NamedTuple

OURS = "tinygrad_cnn"


class Contender(NamedTuple):
    """A library in one of its ways of running."""

    library: str                        # what --against and --python name
    module: str                         # file of this folder
    variant: str                        # what the file is told
    pip: str                            # what installs it


CONTENDERS = {
    OURS: Contender(OURS, "ours", "layers", ""),
    f"{OURS} fast": Contender(OURS, "ours", "layers fast", 'pip install "tinygrad-cnn[fast]"'),
    f"{OURS} functions": Contender(OURS, "ours", "functions", ""),
    "torch": Contender("torch", "torch", "", "pip install torch"),
    "torch channels_last": Contender("torch", "torch", "channels_last", "pip install torch"),
    "torch.compile": Contender("torch.compile", "torch", "compile", "pip install torch"),
    "jax": Contender("jax", "jax", "", "pip install jax"),
    "mygrad": Contender("mygrad", "mygrad", "", "pip install mygrad"),
    "autograd": Contender("autograd", "autograd", "", "pip install autograd"),
    "tinygrad": Contender("tinygrad", "tinygrad", "", "pip install tinygrad"),
}
LIBRARIES = tuple(dict.fromkeys(c.library for c in CONTENDERS.values() if c.library != OURS))


def open_library(name, threads):
    """Import a library, hold it to so many threads, and give its adapter.

    An adapter has ``versions``, ``load(problem)``, ``train()`` and ``eval()``, ``step()`` -> loss,
    ``infer()`` -> logits, and perhaps ``chain(length)``.
    """
    _, module, variant, _ = CONTENDERS[name]
    return importlib.import_module(f"bench.libraries.{module}").open_library(variant, threads)
