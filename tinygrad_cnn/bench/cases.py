"""What a worker may be asked to time, as plain data that travels as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Case", "case_from", "case_to", "chain_case", "kernel_case", "layer_case",
           "net_case"]


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes
    ----------
    kind : str
        ``"net"``, ``"kernel"``, ``"layer"``, ``"chain"`` or ``"notebook"``.
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


def chain_case(length: int, *, width: int = 8) -> Case:
    """``length`` times ``h * b + a`` on ``width`` values, forward and backward."""
    return Case("chain", f"chain of {length}", settings={"length": length, "width": width})


def kernel_case(name: str, *shapes: tuple[int, ...] | None, **settings: Any) -> Case:
    """One face of a convolution on plain arrays: every kernel that takes it."""
    return Case("kernel", name, shapes, settings)


def layer_case(name: str, *shapes: tuple[int, ...], **settings: Any) -> Case:
    """One public function: forward without recording, and forward with backward."""
    return Case("layer", name, shapes, settings)


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
