"""What a worker may be asked to time, as plain data that travels as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["MACHINE", "Case", "case_from", "case_to", "chain_case", "kernel_case", "layer_case",
           "net_case", "notebook_case", "training_case"]


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes
    ----------
    kind : str
        ``"net"``, ``"training"``, ``"kernel"``, ``"layer"``, ``"chain"``, ``"notebook"`` or
        ``"machine"``.
    name : str
        Of the net or the op; free for the others.
    shapes : tuple
        Of the arrays of an op.
    settings : dict
        Of the op, or of the case: ``batch``, ``length``, ``width``.
    """

    kind: str
    name: str
    shapes: tuple[tuple[int, ...] | None, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


def net_case(name: str, *, batch: int | None = None) -> Case:
    """A step (forward, backward, update) and an inference of one net."""
    return Case("net", name, settings={"batch": batch})


def training_case(name: str, *, data: str, batch: int, rate: float, seed: int = 0) -> Case:
    """Epochs of a net over a data set, and its accuracy on the test set."""
    return Case("training", name, settings={"data": data, "batch": batch, "rate": rate,
                                            "seed": seed})


def chain_case(length: int, *, width: int = 8) -> Case:
    """``length`` times ``h * b + a`` on ``width`` values, forward and backward."""
    return Case("chain", f"chain of {length}", settings={"length": length, "width": width})


def kernel_case(name: str, *shapes: tuple[int, ...] | None, **settings: Any) -> Case:
    """One face of a convolution on plain arrays: every kernel that takes it."""
    return Case("kernel", name, shapes, settings)


def layer_case(name: str, *shapes: tuple[int, ...], **settings: Any) -> Case:
    """One public function: forward without recording, and forward with backward."""
    return Case("layer", name, shapes, settings)


def notebook_case(images: int = 14) -> Case:
    """The teaching notebook's four loops on N × 32 × 32 × 3, 8 filters, forward and backward."""
    return Case("notebook", "four-loop convolution", settings={"images": images})


MACHINE = Case("machine", "machine")
"""A product of two matrices and a copy, to know what the machine can do."""

def case_to(case: Case) -> dict[str, Any]:
    """As a dictionary for JSON."""
    return asdict(case)


def case_from(given: dict[str, Any]) -> Case:
    """From the dictionary that came through JSON: lists become tuples again.

    Examples
    --------
    >>> case = layer_case("relu", (2, 3))
    >>> case_from(case_to(case)) == case
    True
    """
    return Case(given["kind"], given["name"], _tuples(given["shapes"]),
                {k: _tuples(v) for k, v in given["settings"].items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value
