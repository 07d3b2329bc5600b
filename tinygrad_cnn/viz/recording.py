"""What one run of a network did, as plain data: one `Entry` for each tensor, in recording order.

A recording holds no array and no reference into the graph: it can be folded, drawn, compared and
stored after the graph is gone.  `describe` and `watch` make recordings; `fold` reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tinygrad_cnn.viz.text import shape_text

__all__ = ["FORMAT", "Entry", "Recording", "Statistics", "dotted", "entry_names"]

FORMAT = "tinygrad_cnn graph 1"


@dataclass(frozen=True)
class Statistics:
    """Figures of an array: root mean square, extremes, and how many entries are NaN or infinite."""

    rms: float
    low: float = 0.0
    high: float = 0.0
    bad: int = 0


@dataclass(frozen=True)
class Entry:
    """One tensor of the run, and the op that made it.

    Attributes
    ----------
    role : str
        ``input``, ``parameter``, ``constant``, ``label``, ``op`` or ``loss``.
    op : str
        Name of the op; empty for a leaf.
    name : str
        Name of a leaf, ``weight``; empty for an op.
    scope : tuple of str
        Path of the modules that were running, below the outermost.
    inputs, arguments : tuple
        Indices of the entries that were read, and their names in the signature of the op.
    settings : tuple of str
        What the op was set to, in words: ``("5×5", "stride 1", "1→8 channels")``.
    flops, kept : int
        Floating-point operations of the forward pass; bytes that live on for the backward pass.
    seconds : float or None
        Time of the forward pass, if it was observed.
    gradient : Statistics or None
        Of the cotangent of this tensor; None where it was not recorded.
    sent : tuple of float or None
        RMS of the gradient sent through each input.
    step : int
        Position in the backward pass, or −1.
    weight : float or None
        RMS of a parameter.
    """

    role: str
    shape: tuple[int, ...]
    dtype: str
    op: str = ""
    name: str = ""
    scope: tuple[str, ...] = ()
    family: str = ""
    inputs: tuple[int, ...] = ()
    arguments: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    needs_gradient: bool = False
    flops: int = 0
    kept: int = 0
    seconds: float | None = None
    note: str = ""
    value: Statistics | None = None
    weight: float | None = None
    gradient: Statistics | None = None
    sent: tuple[float | None, ...] = ()
    step: int = -1
    source: str = ""
    dead: int = 0                           # channels that are zero over batch and space
    channels: int = 0
    confidence: float | None = None         # of a loss: mean of the largest probability
    classes: int = 0

    @property
    def size(self) -> int:
        """Number of entries of the tensor."""
        total = 1
        for n in self.shape:
            total *= n
        return total

    @property
    def is_op(self) -> bool:
        """Whether an op made this tensor."""
        return bool(self.op)

    @property
    def path(self) -> str:
        """Name of the tensor with the modules that hold it: ``conv1.weight``."""
        return dotted((*self.scope, self.name or self.op))


@dataclass(frozen=True)
class Recording:
    """One run: its entries, where its output is, and what is known of it as a whole."""

    title: str
    entries: tuple[Entry, ...]
    output: int
    backward: bool = False                  # whether gradients were recorded
    unreached: tuple[str, ...] = ()         # parameters of the model that the output does not read
    notes: dict[str, str] = field(default_factory=dict)     # module path -> what its class says

    @property
    def batch(self) -> int | None:
        """Size of the first axis of the first input, if it has one."""
        for e in self.entries:
            if e.role == "input" and e.shape:
                return e.shape[0]
        return None

    def __str__(self) -> str:
        return f"{self.title}: {len(self.entries)} tensors, output {self.output_text}"

    @property
    def output_text(self) -> str:
        """Shape and dtype of the output."""
        out = self.entries[self.output]
        return f"{shape_text(out.shape)} {out.dtype}"


def entry_names(recording: Recording) -> list[str]:
    """A name for each entry, its path; the second of a name is ``relu#2``."""
    taken: dict[str, int] = {}
    names = []
    for e in recording.entries:
        path = e.path
        n = taken[path] = taken.get(path, 0) + 1
        names.append(path if n == 1 else f"{path}#{n}")
    return names


def dotted(path: tuple[str, ...]) -> str:
    """
    >>> dotted(("stage2", "0", "conv1"))
    'stage2[0].conv1'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if part.isdigit() and text else f".{part}" if text else part
    return text
