"""A cotangent of zero gives exactly zero, and what is masked stays masked.

The tests walk over the registry.  Which cotangents an entry depends on is found from values alone:
an entry that is NaN spoils the results that depend on it.  Inputs are then 0, tiny, huge, infinite
or NaN, cotangents hold zeros, and an entry whose every cotangent is zero must get zero: in first
and in second order, in both precisions, compiled or not.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import OPS, Tensor, grad
from tinygrad_cnn.core import apply

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")      # of the forward passes
inf, nan = np.inf, np.nan

LINEAR_MAPS = ("conv", "linear")        # they multiply, as docs/conventions.md says
EXTREME = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-40, -1e-40, 1e-30, 88.0, -88.0, 800.0, -800.0, 1e30,
           -1e30, 1e38, -1e38, 1e308, -1e308, inf, -inf, nan)


def samples(op):
    return [s for s in op.test.samples(np.random.default_rng(0)) if any(
        a is not None and a.size for a in s.args)]


SAMPLES = [pytest.param(op, sample, id=f"{op.name}, {sample.id}")
           for op in OPS.values() if op.family not in LINEAR_MAPS for sample in samples(op)]


def cast(sample, dtype):
    settings = {k: v.astype(dtype) if isinstance(v, np.ndarray) and v.dtype.kind == "f"
                else np.dtype(dtype) if isinstance(v, np.dtype) else v
                for k, v in sample.settings.items()}
    with np.errstate(over="ignore"):
        return [None if a is None else a.astype(dtype) for a in sample.args], settings


def dependence(op, sample):
    """For each input that is given: boolean (its entries, entries of the result)."""
    found = []
    for i, x in enumerate(sample.args):
        if x is None:
            continue
        rows = []
        for k in range(x.size):
            spoiled = x.copy()
            spoiled.reshape(-1)[k] = nan
            args = [*sample.args[:i], spoiled, *sample.args[i + 1:]]
            rows.append(np.isnan(op.run(*args, **sample.settings)[0]).reshape(-1))
        size = op.run(*sample.args, **sample.settings)[0].size
        found.append(np.array(rows, bool).reshape(x.size, size))
    return found


def drawn(op, sample, dtype, rng):
    """Inputs at extreme values, and a cotangent that holds zeros, or is zero."""
    arrays, settings = cast(sample, np.float64)
    arrays = [None if a is None else np.asarray(rng.choice(EXTREME, a.shape)) for a in arrays]
    one = rng.random()                          # some inputs spoil one entry alone
    if one < 0.5:
        arrays = [None if a is None else np.where(rng.random(a.shape) < 0.2, a, b)
                  for a, b in zip(arrays, sample.args, strict=True)]
    with np.errstate(over="ignore"):
        arrays = [None if a is None else np.asarray(a, dtype) for a in arrays]
    settings = cast(sample, dtype)[1]
    shape = op.shape(*(None if a is None else a.shape for a in arrays), **settings)
    ct = np.where(rng.random(shape) < rng.choice([0.0, 0.3, 0.7]), rng.normal(size=shape), 0.0)
    return arrays, settings, np.asarray(ct, dtype)


def assert_zero(part, dead, what):
    if part is not None:
        values = part.data.reshape(-1)[dead]
        assert (values == 0).all(), f"{what}: {values[values != 0][0]} where every cotangent is 0"


@pytest.mark.parametrize("op, sample", SAMPLES)
def test_an_entry_whose_every_cotangent_is_zero_gets_zero(op, sample):
    depends = dependence(op, sample)
    rng = np.random.default_rng(1)
    count = 0
    many = 12 if max(map(len, depends)) > 2 else 40         # of few entries
    for dtype in (np.float64, np.float32):
        for _ in range(many):
            arrays, settings, ct = drawn(op, sample, dtype, rng)
            leaves = [None if a is None else Tensor(a, requires_grad=True) for a in arrays]
            given = [x for x in leaves if x is not None]
            out = apply(op, *leaves, **settings)
            dead = [~(d & (ct.reshape(-1) != 0)).any(axis=1) for d in depends]
            count += sum(d.sum() for d in dead)
            # Alone, as one of several, and recorded.
            for wanted in (given, *([x] for x in given if len(given) > 1)):
                found = grad(out, wanted, Tensor(ct), retain_graph=True)
                for x, part in zip(wanted, found, strict=True):
                    k = next(i for i, t in enumerate(given) if t is x)
                    assert_zero(part, dead[k], f"{op.name}, input {k}")
            seed = Tensor(ct, requires_grad=True)
            first = grad(out, given, seed, create_graph=True)
            for k, part in enumerate(first):
                assert_zero(part, dead[k], f"{op.name}, input {k}, recorded")
            check_second(op, first, given, dead, seed, depends, rng)
    assert count


def check_second(op, first, given, dead, seed, depends, rng):
    """The gradient of Σ u · first: 0 in the inputs where ct is, 0 in ct where u is.

    An input entry is touched by the cotangents of the results it reaches, and through another
    input by those that both reach.
    """
    weights = [None if g is None else np.where(rng.random(g.shape) < 0.5, 0.0, 1.0)
               for g in first]
    total = None
    for g, u in zip(first, weights, strict=True):
        if g is not None and g.requires_grad:
            term = (g * u.astype(g.dtype)).sum()
            total = term if total is None else total + term
    if total is None or not total.requires_grad:
        return
    *of_inputs, of_ct = grad(total, [*given, seed])
    for k, part in enumerate(of_inputs):
        assert_zero(part, dead[k], f"{op.name}, input {k}, second order")
    live = np.zeros(seed.size, bool)            # results that an entry with a weight reaches
    for d, u in zip(depends, weights, strict=True):
        if u is not None:
            live |= d[u.reshape(-1) != 0].any(axis=0)
    assert_zero(of_ct, ~live, f"{op.name}, the cotangent, second order")


# ---- the declaration behind it -------------------------------------------------------------------

@pytest.mark.parametrize("op, sample", [p for p in SAMPLES if p.values[0].couples is not None])
def test_couples_names_the_axes_along_which_entries_depend_on_each_other(op, sample):
    shapes = [None if a is None else a.shape for a in sample.args]
    axes = op.coupled(*shapes, **sample.settings)
    x, depends = sample.args[0], dependence(op, sample)[0]
    shape = op.shape(*shapes, **sample.settings)
    if not axes:
        places = np.broadcast_to(np.arange(x.size).reshape(x.shape), shape).reshape(-1)
        expected = np.arange(x.size)[:, None] == places
    else:
        kept = tuple(1 if k in axes else n for k, n in enumerate(x.shape))
        group = np.broadcast_to(np.arange(int(np.prod(kept))).reshape(kept), x.shape)
        if shape == x.shape:
            results = group.reshape(-1)
        elif int(np.prod(shape)) == int(np.prod(kept)):
            results = np.arange(int(np.prod(kept)))
        else:
            results = None                      # the mean of a loss depends on all
        expected = (np.ones_like(depends) if results is None
                    else group.reshape(-1)[:, None] == results)
    assert np.array_equal(depends, expected)


@pytest.mark.parametrize("op, sample", [p for p in SAMPLES if p.values[0].spoils])
def test_a_nan_in_a_group_of_a_norm_is_one_in_every_entry_of_its_gradient(op, sample):
    rng = np.random.default_rng(2)
    shapes = [None if a is None else a.shape for a in sample.args]
    axes = op.coupled(*shapes, **sample.settings)
    for _ in range(100):
        arrays, settings, _ = drawn(op, sample, np.float64, rng)
        y, residuals = op.run(*arrays, **settings)
        ct = Tensor(np.zeros(y.shape))
        for i in range(len(arrays)):
            part = op.rule(i)(ct, Tensor(y), *map(Tensor, arrays), **settings, **residuals).data
            if part.shape == shapes[0]:
                bad = np.isnan(part)
                assert np.array_equal(bad, np.broadcast_to(bad.all(axis=axes, keepdims=True),
                                                           bad.shape)), i


# ---- a masked entry stays masked -----------------------------------------------------------------

def slope(f, values):
    x = Tensor(np.array(values, float), requires_grad=True)
    return grad(f(x).sum(), x)[0].data.tolist()


def root_at_zero(select):
    """√ behind a selection: the cotangent of what is masked is ∞."""
    return lambda x: tc.sqrt(select(x))


def pooled(ties):
    return lambda x: tc.max_pool2d(tc.reshape(x, (1, 1, -1, 1)), kernel_size=(1, 2), ties=ties)


MASKED = {
    "relu": (tc.relu, [-1.0, 4.0], [0, 0.25]),
    "leaky_relu": (lambda x: tc.leaky_relu(x, negative_slope=0.0), [-1.0, 4.0], [0, 0.25]),
    "elu": (lambda x: tc.elu(x, alpha=0.0), [-1.0, 4.0], [0, 0.25]),
    "clip": (lambda x: tc.clip(x, 0, None), [-1.0, 4.0], [0, 0.25]),
    "clip from above": (lambda x: tc.clip(x, None, 0.0), [1.0, 2.0], [0, 0]),
    "maximum": (lambda x: tc.maximum(x, 0.0), [-1.0, 4.0], [0, 0.25]),
    "maximum, the other": (lambda x: tc.maximum(0.0, x), [-1.0, 4.0], [0, 0.25]),
    "minimum": (lambda x: -tc.minimum(-x, 0.0), [-1.0, 4.0], [0, 0.25]),
    "max": (tc.max, [-1.0, 0.0], [0, inf]),
    "min": (tc.min, [1.0, 0.0], [0, inf]),
    "where": (lambda x: tc.where(x > 0, x, 0.0), [-1.0, 4.0], [0, 0.25]),
    "where, the other": (lambda x: tc.where(x <= 0, 0.0, x), [-1.0, 4.0], [0, 0.25]),
    "max_pool2d, first": (pooled("first"), [-1.0, 0.0, 1.0, 4.0], [0, inf, 0, 0.25]),
    "max_pool2d, split": (pooled("split"), [-1.0, 0.0, 1.0, 4.0], [0, inf, 0, 0.25]),
    "max_pool2d, all": (pooled("all"), [-1.0, 0.0, 1.0, 4.0], [0, inf, 0, 0.25]),
    "getitem": (lambda x: x[1:], [0.0, 4.0], [0, 0.25]),
}


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="needs the extra fast"))])
@pytest.mark.parametrize("name", MASKED)
def test_a_masked_entry_gets_no_gradient_however_large_the_cotangent(name, compiled):
    select, values, expected = MASKED[name]
    with tc.set_compiled(compiled):
        assert slope(root_at_zero(select), values) == expected
        x = Tensor(np.array(values), requires_grad=True)
        first, = grad(tc.sqrt(select(x)).sum(), x, create_graph=True)
        assert first.data.tolist() == expected
        masked = np.array(expected) == 0
        second, = grad(first[masked].sum(), x)
        assert not second.data[masked].any()


def selecting_ops():
    """Ops whose derivative is exactly 0 at some entries and not at others, by values alone."""
    for op in OPS.values():
        if op.test.piecewise_linear or op.name in ("where", "dropout"):
            yield op


@pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in selecting_ops()])
@pytest.mark.parametrize("huge", [inf, nan])
def test_an_op_that_selects_drops_an_infinite_cotangent(op, huge):
    # With a cotangent of 1 it is seen which entries get nothing; of ∞, they get nothing either.
    for sample in samples(op):
        for dtype in (np.float64, np.float32):
            arrays, settings = cast(sample, dtype)
            leaves = [Tensor(a, requires_grad=True) for a in arrays]
            out = apply(op, *leaves, **settings)
            one = Tensor(np.ones(out.shape, dtype))
            for recorded in (False, True):
                plain = grad(out, leaves, one, retain_graph=True, create_graph=recorded)
                spoiled = grad(out, leaves, Tensor(one.data * dtype(huge)), retain_graph=True,
                               create_graph=recorded)
                for a, b, x in zip(plain, spoiled, leaves, strict=True):
                    same = a is not None and a.shape == out.shape
                    if same or op.family in ("pool", "reduction"):
                        assert not b.data[a.data == 0].any(), op.name
                        assert x.shape == b.shape


def test_large_arrays_are_masked_as_small_ones_are():
    # Kernels take other ways from some sizes on: lines, threads, used memory.
    for shape in ((3, 1000), (8, 32, 32, 32)):
        for dtype in (np.float32, np.float64):
            rng = np.random.default_rng(0)
            x = Tensor(rng.normal(size=shape).astype(dtype), requires_grad=True)
            ct = np.where(rng.random(shape) < 0.5, dtype(inf), dtype(nan))
            for f in (tc.relu, lambda x: tc.maximum(x, 0.0), lambda x: tc.clip(x, 0, None)):
                found = grad(f(x), x, Tensor(ct))[0].data
                assert not found[x.data < 0].any()
                assert np.array_equal(found[x.data > 0], ct[x.data > 0], equal_nan=True)


def test_dropped_entries_are_zero_whatever_they_were():
    x = Tensor(np.array([inf, nan, -inf, 1.0] * 50), requires_grad=True)
    y = tc.dropout(x, p=0.5, rng=np.random.default_rng(0))
    kept = grad(y, x, Tensor(np.ones(x.shape)))[0].data != 0
    assert not y.data[~kept].any()
    assert not grad(tc.dropout(x, p=0.5, rng=np.random.default_rng(0)), x,
                    Tensor(np.full(x.shape, inf)))[0].data[~kept].any()


@pytest.mark.parametrize("f, bad", [
    (tc.exp, 800.0), (tc.sqrt, -1.0), (tc.log, -1.0), (lambda x: x**0.5, -1.0), (tc.gelu, 1e308),
    (lambda x: 1.0 / x, 0.0), (lambda x: x**-2.0, 0.0), (lambda x: 2.0**x, 1e308),
    (tc.softplus, nan), (lambda x: x * inf, 1.0)])
def test_where_in_front_of_a_linear_map_still_gives_zero(f, bad):
    # The map multiplies; what it sends back is dropped by where, and stays dropped behind f.
    x = Tensor(np.array([[bad, 0.5]]), requires_grad=True)
    y = tc.where(np.array([[False, True]]), f(x), 0.0) @ np.array([[1.0, 2.0], [3.0, 4.0]])
    y.sum().backward()
    assert x.grad.data[0, 0] == 0
    image = Tensor(np.full((1, 3, 3, 1), bad), requires_grad=True)
    masked = tc.where(np.zeros((1, 3, 3, 1), bool), f(image), 0.0)
    tc.conv2d(masked, np.ones((2, 2, 1, 1))).sum().backward()
    assert not image.grad.data.any()


def test_a_derivative_that_is_asked_for_is_not_hidden():
    # NaN and ∞ where the cotangent is not 0 are results, and stay.
    assert slope(tc.sqrt, [0.0, 4.0]) == [inf, 0.25]
    assert slope(tc.exp, [800.0, 0.0]) == [inf, 1]
    assert np.isnan(slope(tc.sqrt, [-1.0, 4.0])[0])
    assert np.isnan(slope(lambda x: x * nan, [1.0])[0])
    x = Tensor(np.array([[nan, 1.0], [1.0, 2.0]]), requires_grad=True)
    ct = np.array([[1.0, 0.0], [0.0, 0.0]])
    found = grad(tc.softmax(x), x, Tensor(ct))[0].data
    assert np.isnan(found[0]).all()             # coupled to the first entry, whose ct is 1
    assert found[1].tolist() == [0, 0]
