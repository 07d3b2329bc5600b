"""Context managers that find where a computation went wrong: `detect_anomaly`, `check_mutation`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

import numpy as np

from tinygrad_cnn.contexts import block
from tinygrad_cnn.core.graph import Node, Observer, observing
from tinygrad_cnn.errors import AnomalyError, GradientError
from tinygrad_cnn.types import Array

if TYPE_CHECKING:
    from tinygrad_cnn.core import Tensor

__all__ = ["check_mutation", "detect_anomaly"]



@block
def detect_anomaly(*, infinity: bool = True) -> Iterator[None]:
    """Raise at the first NaN or infinity, in the forward or the backward pass.

    The error names the op, the tensor, the first index, your line that applied the op, and the
    ranges of its inputs; and, if an input held the value already, where that input comes from.
    Inside the block a step takes up to a quarter more time; outside, nothing is checked.

    Parameters
    ----------
    infinity : bool, default True
        If False, only NaN is looked for, for models in which −inf marks what is masked.

    Raises
    ------
    AnomalyError
        Inside the block, at the first value that is not finite.

    Examples
    --------
    >>> x = Tensor([4.0, 0.0], requires_grad=True, name="x")
    >>> with detect_anomaly():
    ...     sqrt(x).sum().backward()
    Traceback (most recent call last):
        ...
    tinygrad_cnn.AnomalyError: sqrt: the backward rule for 'x' made inf at index (1,); 1 of 2
    values is not finite
      applied at ...
      ct (2,): from 1 to 1
      x (2,): from 0 to 4
      out (2,): from 0 to 2
    """
    with observing(_Anomalies(infinity)):
        yield


@block
def check_mutation() -> Iterator[None]:
    """Raise in the backward pass if values that a graph keeps were changed since the forward pass.

    No write through a tensor changes what a graph keeps; see docs/conventions.md.  A write that
    bypasses tensors does: through a raw pointer, a read-only view that was made writable, or a
    backward rule that writes to its residuals.  Inside the block every kept array is copied when an
    op is applied, and compared before and after its rules are called.

    Raises
    ------
    GradientError
        Inside the block, when the backward pass comes to values that were changed.

    Examples
    --------
    >>> x = Tensor([2.0, 3.0], requires_grad=True)
    >>> with check_mutation():
    ...     loss = (x * x).sum()
    ...     view = x.numpy()
    ...     view.flags.writeable = True
    ...     view[1] = 30.0
    ...     loss.backward()
    Traceback (most recent call last):
        ...
    tinygrad_cnn.GradientError: mul: a was changed after the forward pass, past its tensor: at
    index (1,) it is 30.0 and was 3.0; call backward() before the change, or run the forward pass
    again
      applied at ...
    """
    with observing(_Mutations()):
        yield


# ---- values that are not finite ------------------------------------------------------------------

class _Anomalies(Observer):

    def __init__(self, infinity: bool) -> None:
        self._wrong = np.isinf if infinity else None

    def _bad(self, array: Array) -> Array | None:
        """Where the array is not finite; None if nowhere."""
        if array.dtype.kind != "f":
            return None
        flat = array.reshape(-1)
        with np.errstate(all="ignore"):
            if np.isfinite(flat.dot(flat)):             # one pass; the sum may overflow, though
                return None
        bad = np.isnan(array) | np.isinf(array) if self._wrong else np.isnan(array)
        return bad if bad.any() else None

    def forward(self, node: Node, inputs: tuple[Tensor | None, ...], out: Array,
                seconds: float) -> None:
        if (bad := self._bad(out)) is None:
            return
        named = _named(node, inputs)
        lines = [_range(name, x._data) + _source(x) * (self._bad(x._data) is not None)
                 for name, x in named]
        raise AnomalyError(f"{node.op.name}: the result holds {_first(out, bad)}"
                           + "".join([_applied(node), *lines]))

    def before_backward(self, node: Node, cotangent: Array) -> None:
        if (bad := self._bad(cotangent)) is not None:
            raise AnomalyError(f"{node.op.name}: the cotangent of its result holds "
                               f"{_first(cotangent, bad)}; it was given to backward(gradient=)"
                               + _applied(node))

    def backward(self, node: Node, cotangent: Array, sent: Sequence[tuple[Tensor, Array]],
                 seconds: float) -> None:
        for x, part in sent:
            if (bad := self._bad(part)) is None:
                continue
            kept = [(name, value) for (name, _), value in zip(
                _named(node, node.inputs or ()), (v for v in node.values if v is not None),
                strict=True) if value.strides != (0,) * value.ndim or not value.ndim]
            if node.out is not None:
                kept.append(("out", node.out))
            name = next(name for name, t in _named(node, node.inputs or ()) if t is x)
            raise AnomalyError(
                f"{node.op.name}: the backward rule for {name!r} made {_first(part, bad)}"
                + "".join([_applied(node), _range("ct", cotangent),
                           *(_range(name, value) for name, value in kept)]))


def _named(node: Node, inputs: tuple[Tensor | None, ...]) -> list[tuple[str, Tensor]]:
    return [(node.op.input_name(i), x) for i, x in enumerate(inputs) if x is not None]


def _first(array: Array, bad: Array) -> str:
    place = tuple(int(i) for i in np.argwhere(bad)[0])
    count = int(bad.sum())
    return (f"{array[place]} at index {place}; {count} of {array.size} values "
            f"{'is' if count == 1 else 'are'} not finite")


def _applied(node: Node) -> str:
    line = node.line
    where = f" in {'.'.join(node.scope)}" if node.scope else ""
    return "" if line is None else f"\n  applied at {line[0]}:{line[1]}{where}"


def _range(name: str, array: Array) -> str:
    if not array.size or array.dtype.kind not in "fiu":
        return f"\n  {name} {array.shape}"
    finite = array[np.isfinite(array)]
    text = f"from {finite.min():g} to {finite.max():g}" if finite.size else "nothing finite"
    return f"\n  {name} {array.shape}: {text}"


def _source(x: Tensor) -> str:
    """Where an input that held NaN or infinity already comes from."""
    name = f" {x.name!r}" if x.name else ""
    if x.node is not None:
        return f"; it held NaN or infinity already: made by {x.node.op.name} before the block"
    kind = "leaf" if x.requires_grad else "constant"
    return f"; it held NaN or infinity already: the {kind}{name} brought it in"


# ---- values that were changed --------------------------------------------------------------------

class _Mutations(Observer):

    def __init__(self, *, trust: bool = True) -> None:
        self._trust = trust                             # the package's own rules do not write
        self._copies: WeakKeyDictionary[Node, dict[str, Array]] = WeakKeyDictionary()
        self._last: dict[int, tuple[ref[Array], Array]] = {}    # a result is often kept twice
        self._cotangent: Array | None = None

    def forward(self, node: Node, inputs: tuple[Tensor | None, ...], out: Array,
                seconds: float) -> None:
        self._copies[node] = {name: self._copy(array) for name, array in _kept(node)}

    def _copy(self, array: Array) -> Array:
        key = id(array)
        known, copy = self._last.get(key, (None, array))
        # A parameter is written between its uses, by an optimizer: then its copy is out of date.
        now, then = _bits(array), _bits(copy)
        if known is None or known() is not array or now is None or then is None \
                or not np.array_equal(now, then):
            copy = array.copy()
            self._last[key] = ref(array, lambda _: self._last.pop(key, None)), copy
        return copy

    def before_backward(self, node: Node, cotangent: Array) -> None:
        self._compare(node, "changed after the forward pass, past its tensor", "call backward() "
                      "before the change, or run the forward pass again")
        self._cotangent = None if self._trusts(node) else cotangent.copy()

    def backward(self, node: Node, cotangent: Array, sent: Sequence[tuple[Tensor, Array]],
                 seconds: float) -> None:
        if self._cotangent is None:
            return
        cure = "a rule must not write to what it is given"
        self._compare(node, "changed by a backward rule", cure)
        _refuse(node, "ct", cotangent, self._cotangent, "changed by a backward rule", cure)

    def _trusts(self, node: Node) -> bool:
        return self._trust and not node.op.foreign

    def _compare(self, node: Node, how: str, cure: str) -> None:
        copies = self._copies.get(node, {})             # none, if applied outside the block
        for name, array in _kept(node):
            if name in copies:
                _refuse(node, name, array, copies[name], how, cure)


def _kept(node: Node) -> list[tuple[str, Array]]:
    """Every array that a node keeps, with what errors call it."""
    held = [(node.op.input_name(i), value) for i, value in enumerate(node.values)
            if value is not None and not (value.ndim and value.strides == (0,) * value.ndim)]
    named = [*held, ("the result", node.out), *node.settings.items(), *node.residuals.items()]
    return [(name, value) for name, value in named if isinstance(value, np.ndarray)]


def _refuse(node: Node, name: str, now: Array, then: Array, how: str, cure: str) -> None:
    one, other = _bits(now), _bits(then)
    if one is not None and other is not None and np.array_equal(one, other):
        return
    different = (now != then) & ~((now != now) & (then != then))
    if not different.any():
        return
    place = tuple(int(i) for i in np.argwhere(different)[0])
    raise GradientError(f"{node.op.name}: {name} was {how}: at index {place} it is {now[place]} "
                        f"and was {then[place]}; {cure}" + _applied(node))


def _bits(array: Array) -> Array | None:
    """The bytes of a contiguous array, eight at a time where they divide: NaN equals itself."""
    if not array.flags.c_contiguous or not array.size:
        return None
    wide = np.uint64 if array.nbytes % 8 == 0 else np.uint8
    return array.reshape(-1).view(np.uint8).view(wide)
