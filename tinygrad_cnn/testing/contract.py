"""What a backward rule promises besides the right numbers.

Each check takes a `Trial` and raises `Wrong`; each counts what it compares.  The names are those of
the tests that pytest shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_cnn.core import Tensor, grad, gradients
from tinygrad_cnn.core.graph import blank, changed
from tinygrad_cnn.core.op import OPS, Array
from tinygrad_cnn.testing.contract_engine import called_by_name, records_and_frees
from tinygrad_cnn.testing.trial import Trial, forced

__all__ = ["CONTRACT"]


# ---- nothing is written, nothing is shared

def writes_nothing(trial: Trial) -> None:
    """Inputs, settings and cotangents are the same after the call; all may be read-only."""
    name = "writes nothing"
    given = [x.copy() for x in trial.arrays]
    ct = trial.cotangent()
    arrays_in_settings = {k: v for k, v in trial.settings.items() if isinstance(v, np.ndarray)}
    before = {k: v.copy() for k, v in arrays_in_settings.items()}
    kept = ct.copy()
    tensors = trial.tensors(given)
    y = trial.apply(tensors)
    values = y._data.copy()
    with np.errstate(all="ignore"):
        gradients(y, Tensor(ct))
    for what, now, then in (*zip(trial.names, given, trial.arrays, strict=True),
                            ("the cotangent", ct, kept), ("the output", y._data, values),
                            *((k, v, before[k]) for k, v in arrays_in_settings.items())):
        trial.tally.comparisons += now.size
        if not np.array_equal(now, then, equal_nan=now.dtype.kind == "f"):
            raise trial.wrong(name, f"the rule or the kernel writes into {what}", got=now,
                              expected=then)
    frozen = [_frozen(x) for x in trial.arrays]
    try:
        trial.pull(frozen, _frozen(ct))
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        raise trial.wrong(name, f"read-only inputs are refused: {error}", error=error) from error


def _frozen(x: Array) -> Array:
    """A read-only copy whose base is read-only too."""
    base = x.copy()
    base.flags.writeable = False
    view = base.view()
    view.flags.writeable = False
    return view


def shares_no_memory(trial: Trial) -> None:
    """A gradient is an array of its own: not an input, not the cotangent, not another gradient."""
    given, ct = [x.copy() for x in trial.arrays], trial.cotangent()
    tensors = trial.tensors(given)
    y = trial.apply(tensors)
    with np.errstate(all="ignore"):
        seed = Tensor(ct)
        found = gradients(y, seed, retain_graph=True)
    others = [*zip(trial.names, given, strict=True), ("the cotangent", seed.data),
              ("the output", y.data)]
    for k, t in enumerate(tensors):
        if t in found:
            part = found[t].data                # what the user gets, and may write to
            for what, other in others:
                trial.tally.comparisons += 1
                if part.size and np.shares_memory(part, other):
                    raise trial.wrong("shares no memory", f"the gradient of {trial.names[k]} "
                                      f"shares memory with {what}", k)
            others.append((f"the gradient of {trial.names[k]}", part))


# ---- the same call gives the same result

def re_entrant(trial: Trial) -> None:
    """A retained graph gives the same gradients again, whatever is computed in between."""
    name = "re-entrant"
    ct = trial.cotangent()
    tensors = trial.tensors(trial.arrays)
    y = trial.apply(tensors)
    values = y._data.copy()
    with np.errstate(all="ignore"):
        first = gradients(y, Tensor(ct), retain_graph=True)
        # Another call in between, on other values: a rule may not use what the last forward left.
        z = trial.apply(trial.tensors(_others(trial)))
        second = gradients(y, Tensor(ct), retain_graph=True)
        gradients(z, Tensor(ct))
        third = gradients(y, Tensor(ct))
    for k, t in enumerate(tensors):
        for other, when in ((second, "after another forward pass"), (third, "the third time")):
            trial.same(name, k, _data(other, t), _data(first, t),
                       f"the same backward pass gives another result {when}", ct)
    again = trial.pull(trial.arrays, ct)
    for k, t in enumerate(tensors):
        trial.same(name, k, again[k], _data(first, t), "the same call gives another result", ct)
    if not np.array_equal(trial.apply(trial.tensors(trial.arrays))._data, values, equal_nan=True):
        raise trial.wrong(name, "the op gives other values when called again: it is random or "
                          "keeps state; draw random numbers outside and pass them in as a setting")


def _others(trial: Trial) -> list[Array]:
    """The inputs with their entries in reverse, or the same ones if the op does not take those."""
    turned = [_turned(x) for x in trial.arrays]
    return turned if trial.takes(turned) else [x.copy() for x in trial.arrays]


def _turned(x: Array) -> Array:
    return x.reshape(-1)[::-1].reshape(x.shape).copy()


def _data(found: dict[Tensor, Tensor], t: Tensor) -> Array | None:
    return found[t]._data if t in found else None


# ---- a pullback is linear in the cotangent

_EXTREME = (0.0, -0.0, 1.0, -1.0, 1e-40, -1e-30, 800.0, -800.0, 1e30, -1e38, np.inf, -np.inf,
            np.nan)


def zero_gives_zero(trial: Trial) -> None:
    """A cotangent of zero gives exactly zero; for ops with ``couples`` at any inputs."""
    points = [(trial.sample.id, trial.arrays)]
    if trial.op.couples is not None:
        rng = trial.rng(6)
        points += [("inputs that are 0, huge, infinite or NaN",
                    tuple(np.asarray(rng.choice(_EXTREME, x.shape)) if x.dtype.kind == "f" else x
                          for x in trial.arrays)) for _ in range(3)]
    for where, arrays in points:
        for dtype in (np.float64, np.float32):
            with np.errstate(all="ignore"):
                given = [x.astype(dtype) if x.dtype.kind == "f" else x for x in arrays]
                out = trial.apply(trial.tensors(given))
                parts = trial.pull(given, np.zeros(out.shape, out.dtype))
            for k, part in enumerate(parts):
                trial.tally.comparisons += 1
                if part is not None and (part != 0).any():
                    raise trial.wrong("zero gives zero", f"a zero cotangent gives "
                                      f"{part[part != 0].flat[0]} at {where!r}", k, got=part,
                                      expected=np.zeros(part.shape))


def linear_in_the_cotangent(trial: Trial) -> None:
    """Twice the cotangent gives twice the result, minus gives minus, sums give sums."""
    name = "linear in the cotangent"
    first, second = trial.cotangent(1), trial.cotangent(2)
    a, b = trial.pull(trial.arrays, first), trial.pull(trial.arrays, second)
    # A result from zeros and from single entries: a rule may look at signs or at sizes of entries.
    sparse = np.where(trial.rng(3).random(first.shape) < 0.5, 0.0, second)
    c, d = trial.pull(trial.arrays, first + sparse), trial.pull(trial.arrays, sparse)
    doubled, minus = trial.pull(trial.arrays, 2 * first), trial.pull(trial.arrays, -first)
    noise = trial.noise(np.abs(first) + np.abs(sparse))
    for k in trial.point.wanted:
        part = a[k]
        if part is None:
            continue
        trial.same(name, k, doubled[k], 2 * part, "twice the cotangent does not give twice", first)
        trial.same(name, k, minus[k], -part, "minus the cotangent does not give minus", first)
        bound = trial.point.bound(k, np.abs(first) + np.abs(sparse), np.float64, noise)
        for total, x, y in ((c[k], part, d[k]),):
            if x is not None and y is not None:
                trial.point.compare_arrays(name, k, total, x + y, 3 * bound, None, trial.tally,
                                           detail="the result of a sum is not the sum of results")
    trial.tally.comparisons += sum(0 if x is None else x.size for x in b)


# ---- how arrays lie in memory

_LAYOUTS: tuple[tuple[str, Callable[[Array], Array]], ...] = (
    ("in column order", lambda x: x.copy(order="F")),
    ("with gaps", lambda x: np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x),
    ("backwards", lambda x: np.flip(np.flip(x).copy())),
)


def memory_layout(trial: Trial) -> None:
    """Strided, reversed and column-ordered cotangents and inputs give the same result."""
    name = "memory layout"
    ct = trial.cotangent()
    plain = trial.pull(trial.arrays, ct)
    noise = trial.noise(ct)
    for what, lay in _LAYOUTS:
        variants = (("a cotangent", trial.arrays, lay(ct)),
                    ("an input", [lay(x) for x in trial.arrays], ct))
        for who, arrays, given in variants:
            _alike(trial, name, trial.pull(arrays, given), plain, given, noise,
                   f"{who} that lies {what} in memory gives another result")
    if ct.size:
        even = np.full(ct.shape, ct.flat[0])
        stretched = np.broadcast_to(ct.reshape(-1)[0], ct.shape)         # strides of 0
        _alike(trial, name, trial.pull(trial.arrays, stretched), trial.pull(trial.arrays, even),
               even, noise, "a cotangent with strides of 0 gives another result")


def _alike(trial: Trial, name: str, got: list[Array | None], expected: list[Array | None],
           ct: Array, noise: dict[int, Array] | None, detail: str) -> None:
    """Equal where data is exact, else within rounding."""
    for k in trial.point.wanted:
        part = expected[k]
        if part is not None:
            trial.point.compare_arrays(name, k, got[k], part,
                                       trial.point.bound(k, ct, np.float64, noise), None,
                                       trial.tally, detail=detail)


# ---- kernels

def kernels_agree(trial: Trial) -> None:
    """Every kernel gives the same values, by-products and dtype as the last one."""
    op, arrays = trial.op, trial.full(trial.arrays)
    with forced(*reversed(tuple(op.kernels))), np.errstate(all="ignore"):
        expected, residuals = op.run(*arrays, **trial.settings)
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    for kernel, function in op.kernels.items():
        with np.errstate(all="ignore"):
            result = function(*arrays, **trial.settings)
        if result is NotImplemented:
            continue
        y, parts = result if op.residuals else (result, {})
        trial.tally.comparisons += np.size(y)
        if np.shape(y) != expected.shape or set(parts) != set(residuals):
            raise trial.wrong("kernels agree", f"kernel {kernel!r} gives shape {np.shape(y)} and "
                              f"residuals {sorted(parts)}, expected {expected.shape} and "
                              f"{sorted(residuals)}")
        for what, got, want in (("values", y, expected),
                                *((r, parts[r], residuals[r]) for r in parts)):
            off = np.abs(np.asarray(got, np.float64) - want)
            if not (off <= 1e-12 * scale).all() and not np.array_equal(got, want, equal_nan=True):
                raise trial.wrong("kernels agree", f"kernel {kernel!r} gives other {what} than "
                                  f"{list(op.kernels)[-1]!r}", got=np.asarray(y), expected=expected)


def keeps_dtype(trial: Trial) -> None:
    """float32 in, float32 out; float64 in, float64 out; the result has the input's shape."""
    for dtype in (np.float32, np.float64):
        given = [x.astype(dtype) if x.dtype.kind == "f" else x for x in trial.arrays]
        y = trial.apply(trial.tensors(given))
        for k, part in enumerate(trial.pull(given, trial.cotangent().astype(y.dtype))):
            trial.tally.comparisons += 1
            if part is not None and (part.dtype != given[k].dtype or part.shape != given[k].shape):
                raise trial.wrong("keeps dtype", f"the gradient of {trial.names[k]} is "
                                  f"{part.dtype} {part.shape}, the input {given[k].dtype} "
                                  f"{given[k].shape}", k)


# ---- what a rule is given

def reads_what_is_declared(trial: Trial) -> None:
    """Values that the op does not declare in ``reads`` may be anything: here they are NaN."""
    op = trial.op
    ct = trial.cotangent()
    tensors = trial.tensors(trial.arrays)
    y = trial.apply(tensors)
    node = y.node
    if node is None or node.inputs is None:
        return
    whole = trial.full(tensors)
    unread = [blank(t.shape, t.dtype) if t is not None and i in op.unread else t
              for i, t in enumerate(whole)]
    plain = trial.pull(trial.arrays, ct)
    for k, i in enumerate(trial.present):
        if k in trial.point.wanted:
            with np.errstate(all="ignore"):
                part = _rule(trial, i, ct, y if op.reads_out else None, unread, node.residuals)
                trial.same("reads what is declared", k, part, plain[k],
                           f"the rule for {trial.names[k]} reads values that reads={op.reads} "
                           "does not name", ct)
                part = _rule(trial, i, ct, y, whole, node.residuals, recorded=True)
            # The rules of batch_norm, say, share sums over arrays, and round in another way.
            whole_part = np.asarray(plain[k])
            slack = 1e-9 * np.abs(whole_part).max(initial=0.0)
            if part.shape != whole_part.shape or not np.allclose(part, whole_part, 1e-9, slack,
                                                                 equal_nan=True):
                trial.same("reads what is declared", k, part, whole_part,
                           f"the rule for {trial.names[k]} gives another result on tensors than "
                           "on arrays", ct)


def _rule(trial: Trial, i: int, ct: Array, out: Any, inputs: list[Any], residuals: dict[str, Any],
          *, recorded: bool = False) -> Array:
    """One rule called by hand, and its result summed over what broadcasting stretched."""
    op = trial.op

    def given(t: Any) -> Any:
        values = t._data if isinstance(t, Tensor) else t
        return Tensor(values) if recorded and values is not None else values

    with changed(recording=False, plain=not recorded):
        part = op.rule(i)(given(ct), given(out), *map(given, inputs), **trial.settings, **residuals)
    array = np.asarray(part._data if isinstance(part, Tensor) else part)
    shape = np.shape(trial.full(trial.arrays)[i])
    if array.shape != shape and op.broadcasts:
        array = OPS["sum_to"].run(array, shape=shape)[0]
    return np.asarray(array)


def only_what_is_asked(trial: Trial) -> None:
    """The gradient of one input does not depend on whether others are wanted, or recorded."""
    name = "only what is asked"
    ct = trial.cotangent()
    everything = trial.pull(trial.arrays, ct)
    for k in trial.point.wanted:
        alone = trial.pull(trial.arrays, ct, wanted=(k,))
        trial.same(name, k, alone[k], everything[k],
                   f"the gradient of {trial.names[k]} changes when it alone is wanted", ct)
    tensors = trial.tensors(trial.arrays)
    asked = [t for t in tensors if t.requires_grad]
    with np.errstate(all="ignore"):
        recorded = grad(trial.apply(tensors), asked, Tensor(ct), create_graph=True)
    noise = trial.noise(ct)
    for k, part in zip(trial.point.wanted, recorded, strict=True):
        plain = everything[k]
        if part is not None and plain is not None:
            trial.point.compare_arrays(
                name, k, part._data, plain, trial.point.bound(k, ct, np.float64, noise), None,
                trial.tally, detail="a recorded backward pass gives another result")


# ---- one tensor in several places

def shared_tensor(trial: Trial) -> None:
    """A tensor that is used twice, or three times, collects the sum of its gradients."""
    name = "shared tensor"
    ct = trial.cotangent()
    single = trial.pull(trial.arrays, ct)
    tensors = trial.tensors(trial.arrays)
    with np.errstate(all="ignore"):
        y = trial.apply(tensors)
        diamond = gradients(y + y, Tensor(ct.astype(y.dtype)))
        three = trial.apply(tensors) + trial.apply(tensors) + trial.apply(tensors)
        thrice = gradients(three, Tensor(ct.astype(y.dtype)), retain_graph=True)
        recorded = gradients(three, Tensor(ct.astype(y.dtype)), create_graph=True)
    noise = trial.noise(ct)
    for k, t in enumerate(tensors):
        part = single[k]
        if part is not None:
            trial.point.compare_arrays(
                name, k, _data(recorded, t), part + part + part,
                3 * trial.point.bound(k, ct, np.float64, noise), None, trial.tally,
                detail="recorded, three uses of a tensor do not give the sum of three gradients")
            trial.same(name, k, _data(diamond, t), part + part,
                       "a result that is used twice does not give twice the gradient", ct)
            trial.same(name, k, _data(thrice, t), part + part + part,
                       "three uses of a tensor do not give the sum of three gradients", ct)
    _one_tensor_for_two_inputs(trial, ct)


def _one_tensor_for_two_inputs(trial: Trial, ct: Array) -> None:
    for k in trial.point.wanted:
        for j in trial.point.wanted:
            if k < j and trial.arrays[k].shape == trial.arrays[j].shape:
                given = list(trial.arrays)
                given[j] = given[k]
                if not trial.takes(given):
                    continue
                apart = trial.pull(given, ct)
                one = trial.tensors(given)
                one[j] = one[k]
                with np.errstate(all="ignore"):
                    found = gradients(trial.apply(one), Tensor(ct))
                a, b = apart[k], apart[j]
                if a is not None and b is not None:
                    trial.same("shared tensor", k, _data(found, one[k]), a + b,
                               f"one tensor for {trial.names[k]} and {trial.names[j]} does not "
                               "collect both gradients", ct)


CONTRACT: dict[str, Callable[[Trial], None]] = {
    "keeps dtype": keeps_dtype,
    "zero gives zero": zero_gives_zero,
    "linear in the cotangent": linear_in_the_cotangent,
    "writes nothing": writes_nothing,
    "shares no memory": shares_no_memory,
    "re-entrant": re_entrant,
    "memory layout": memory_layout,
    "kernels agree": kernels_agree,
    "reads what is declared": reads_what_is_declared,
    "only what is asked": only_what_is_asked,
    "shared tensor": shared_tensor,
    "records and frees": records_and_frees,
    "called by name": called_by_name,
}
"""Name of the property -> its check."""
