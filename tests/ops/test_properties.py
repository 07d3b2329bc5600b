"""NumPy as a judge: broadcasting, indexing, reductions, shapes and dtypes, on drawn examples.

What an op gives is NumPy's answer to the same call; what its rule gives is worked out here by
NumPy alone.  The examples are the same in every run.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import tinygrad_cnn as tc

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis draws the examples")
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as hnp  # noqa: E402


def examples(count):
    """The settings of every property here: the same examples each time, none kept on disk."""
    return hypothesis.settings(derandomize=True, max_examples=count, deadline=None, database=None)


SEEDS = st.integers(0, 2**16)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
FULL_SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=4)
FLOATS = st.sampled_from([np.float32, np.float64])


def numbers(seed, shape, dtype=np.float64):
    """Odd eighths in (−4, 4): sums and products of a few are exact, and none is 0."""
    rng = np.random.default_rng([seed, *shape])
    return np.asarray((2 * rng.integers(-16, 16, shape) + 1) / 8, dtype)


def gradients(y, leaves, ct):
    found = tc.grad(y, leaves, ct)
    return [np.zeros(x.shape, x.dtype) if g is None else g.data
            for g, x in zip(found, leaves, strict=True)]


def close(found, expected):
    """Of the same shape, and as near as float64 is after some sums."""
    assert found.shape == np.shape(expected)
    digits = 1e-12 if found.dtype == np.float64 else 1e-5
    np.testing.assert_allclose(found, expected, rtol=digits, atol=digits)


# ---- broadcasting --------------------------------------------------------------------------------

def summed(g, shape):
    """A gradient, summed over the axes that broadcasting stretched."""
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    return g.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)


def share(a, b):
    return (a > b) + 0.5 * (a == b)


# ours, NumPy's, and the derivatives by both operands
BINARY = {
    "add": (tc.add, np.add, lambda a, b: 1.0, lambda a, b: 1.0),
    "sub": (tc.sub, np.subtract, lambda a, b: 1.0, lambda a, b: -1.0),
    "mul": (tc.mul, np.multiply, lambda a, b: b, lambda a, b: a),
    "div": (tc.div, np.true_divide, lambda a, b: 1 / b, lambda a, b: -a / b**2),
    "power": (lambda a, b: tc.power(a * a, b), lambda a, b: np.power(a * a, b),
              lambda a, b: 2 * b * a * (a * a) ** (b - 1),
              lambda a, b: (a * a) ** b * np.log(a * a)),
    "maximum": (tc.maximum, np.maximum, share, lambda a, b: share(b, a)),
    "minimum": (tc.minimum, np.minimum, lambda a, b: share(b, a), share),
    "hypot": (tc.hypot, np.hypot, lambda a, b: a / np.hypot(a, b), lambda a, b: b / np.hypot(a, b)),
    "arctan2": (tc.arctan2, np.arctan2, lambda a, b: b / (a * a + b * b),
                lambda a, b: -a / (a * a + b * b)),
    "logaddexp": (tc.logaddexp, np.logaddexp, lambda a, b: 1 / (1 + np.exp(b - a)),
                  lambda a, b: 1 / (1 + np.exp(a - b))),
    "remainder": (tc.remainder, np.remainder, lambda a, b: 1.0, lambda a, b: -np.floor(a / b)),
    "where": (lambda a, b: tc.where(a.data > b.data, a, b), lambda a, b: np.where(a > b, a, b),
              lambda a, b: a > b, lambda a, b: a <= b),
}


def test_every_op_that_broadcasts_is_here():
    others = {"matmul", "cross_entropy_input"}
    assert {name for name, op in tc.OPS.items() if op.broadcasts} == {*BINARY, *others}


@pytest.mark.parametrize("name", BINARY)
@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, min_dims=0, max_dims=4, min_side=0,
                                                max_side=3), seed=SEEDS, dtype=FLOATS)
@examples(60)
def test_a_binary_op_broadcasts_as_numpy(name, shapes, seed, dtype):
    ours, numpys, by_a, by_b = BINARY[name]
    a, b = (numbers(seed + i, shape, dtype) for i, shape in enumerate(shapes.input_shapes))
    leaves = [tc.Tensor(v, requires_grad=True) for v in (a, b)]
    y = ours(*leaves)
    np.testing.assert_array_equal(y.data, numpys(a, b))
    assert y.shape == shapes.result_shape
    assert y.dtype == dtype
    ct = numbers(seed + 2, y.shape, dtype)
    for g, x, by in zip(gradients(y, leaves, ct), (a, b), (by_a, by_b), strict=True):
        exact = np.broadcast_to(by(a.astype(float), b.astype(float)), ct.shape) * ct
        size = np.abs(exact).max(initial=1)
        assert g.dtype == dtype
        close(g / dtype(size), summed(exact, x.shape) / size)


@given(hnp.mutually_broadcastable_shapes(signature="(n?,k),(k,m?)->(n?,m?)", max_dims=2, min_side=0,
                                         max_side=3), SEEDS, FLOATS)
@examples(100)
def test_matmul_broadcasts_as_numpy(shapes, seed, dtype):
    a, b = (numbers(seed + i, shape, dtype) for i, shape in enumerate(shapes.input_shapes))
    leaves = [tc.Tensor(v, requires_grad=True) for v in (a, b)]
    y = tc.matmul(*leaves)
    np.testing.assert_array_equal(y.data, a @ b)
    assert y.dtype == dtype
    ct = numbers(seed + 2, y.shape, dtype)
    # As matrices: a vector is a row on the left, a column on the right.
    rows = a if a.ndim > 1 else a[None, :]
    columns = b if b.ndim > 1 else b[:, None]
    wide = ct.reshape(*ct.shape[:ct.ndim - (a.ndim > 1) - (b.ndim > 1)], rows.shape[-2],
                      columns.shape[-1])
    by_a = summed(wide @ np.swapaxes(columns, -1, -2), rows.shape).reshape(a.shape)
    by_b = summed(np.swapaxes(rows, -1, -2) @ wide, columns.shape).reshape(b.shape)
    for g, expected in zip(gradients(y, leaves, ct), (by_a, by_b), strict=True):
        assert g.dtype == dtype
        close(g, expected)


@given(a=SHAPES, b=SHAPES)
@examples(100)
def test_shapes_that_numpy_cannot_broadcast_are_refused(a, b):
    try:
        np.broadcast_shapes(a, b)
    except ValueError:
        with pytest.raises(tc.ShapeError):
            tc.add(tc.Tensor(np.zeros(a)), tc.Tensor(np.zeros(b)))
    else:
        assert tc.add(tc.Tensor(np.zeros(a)), tc.Tensor(np.zeros(b))).shape == \
            np.broadcast_shapes(a, b)


# ---- ops that only move entries ------------------------------------------------------------------

def moves(ours, numpys, shapes, seed, dtype=np.float64):
    """Value and gradient of a function that takes entries: NumPy's, of numbers and of positions."""
    arrays = [numbers(seed + i, shape, dtype) for i, shape in enumerate(shapes)]
    leaves = [tc.Tensor(a, requires_grad=True) for a in arrays]
    y = ours(*leaves)
    np.testing.assert_array_equal(y.data, numpys(*arrays))
    assert y.shape == np.shape(numpys(*arrays))
    assert y.dtype == dtype
    ct = numbers(seed + 9, y.shape, dtype)
    ends = np.cumsum([0, *(a.size for a in arrays)])
    places = numpys(*(np.arange(start, start + a.size).reshape(a.shape)
                      for start, a in zip(ends[:-1], arrays, strict=True)))
    expected = np.zeros(ends[-1], dtype)
    np.add.at(expected, np.asarray(places, int), ct)
    for g, a, start in zip(gradients(y, leaves, ct), arrays, ends[:-1], strict=True):
        np.testing.assert_array_equal(g, expected[start:start + a.size].reshape(a.shape))


@st.composite
def reshapes(draw):
    """A shape and another of the same size, perhaps with −1."""
    shape = draw(SHAPES)
    rest, new = math.prod(shape), []
    while rest > 1 and len(new) < 4:
        n = draw(st.sampled_from([d for d in range(1, rest + 1) if rest % d == 0]))
        new.append(n)
        rest //= n
    new.append(rest)
    if math.prod(shape) and draw(st.booleans()):
        new[draw(st.integers(0, len(new) - 1))] = -1
    return shape, tuple(new)


@given(reshapes(), SEEDS, FLOATS)
@examples(100)
def test_reshape(shapes, seed, dtype):
    shape, new = shapes
    moves(lambda x: tc.reshape(x, new), lambda x: np.reshape(x, new), [shape], seed, dtype)
    moves(lambda x: x.reshape(*new), lambda x: x.reshape(*new), [shape], seed)


@given(st.data(), SHAPES, SEEDS)
@examples(100)
def test_transpose(data, shape, seed):
    n = len(shape)
    axes = data.draw(st.none() | st.permutations(range(n)).map(tuple))
    if axes and data.draw(st.booleans()):
        axes = tuple(i - n for i in axes)
    moves(lambda x: tc.transpose(x, axes), lambda x: np.transpose(x, axes), [shape], seed)


@given(st.data(), SHAPES, SEEDS)
@examples(100)
def test_expand_dims_and_squeeze(data, shape, seed):
    n = len(shape)
    axis = data.draw(st.integers(-n - 1, n))
    moves(lambda x: tc.expand_dims(x, axis), lambda x: np.expand_dims(x, axis), [shape], seed)
    ones = [i for i, size in enumerate(shape) if size == 1]
    axes = data.draw(st.none() | st.lists(st.sampled_from(ones), unique=True).map(tuple)
                     if ones else st.none())
    moves(lambda x: tc.squeeze(x, axes), lambda x: np.squeeze(x, axes), [shape], seed)


@given(hnp.mutually_broadcastable_shapes(num_shapes=2, min_dims=0, max_dims=4, min_side=0,
                                         max_side=3), SEEDS)
@examples(100)
def test_broadcast_to_and_its_adjoint(shapes, seed):
    shape, result = shapes.input_shapes[0], shapes.result_shape
    moves(lambda x: tc.broadcast_to(x, result), lambda x: np.broadcast_to(x, result), [shape], seed)
    x = numbers(seed, result)
    close(tc.sum_to(tc.Tensor(x), shape).data, summed(x, shape))


@st.composite
def joinable(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=3))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    sizes = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    several = []
    for n in sizes:
        one = list(shape)
        one[axis] = n
        several.append(tuple(one))
    return several, axis


@given(joinable(), SEEDS)
@examples(100)
def test_concatenate(several, seed):
    shapes, axis = several
    moves(lambda *xs: tc.concatenate(xs, axis=axis), lambda *xs: np.concatenate(xs, axis=axis),
          shapes, seed)


@given(st.data(), SHAPES, st.integers(1, 3), SEEDS)
@examples(100)
def test_stack(data, shape, count, seed):
    axis = data.draw(st.integers(-len(shape) - 1, len(shape)))
    moves(lambda *xs: tc.stack(xs, axis=axis), lambda *xs: np.stack(xs, axis=axis), [shape] * count,
          seed)


@given(st.data(), FULL_SHAPES, SEEDS, st.sampled_from(["reflect", "edge", "wrap"]))
@examples(100)
def test_pad(data, shape, seed, mode):
    least = 2 if mode == "reflect" else 1               # one entry has no mirror image
    both = st.tuples(st.integers(0, 5), st.integers(0, 5))
    pad_width = [data.draw(both) if n >= least else (0, 0) for n in shape]
    moves(lambda x: tc.pad(x, pad_width, mode=mode), lambda x: np.pad(x, pad_width, mode=mode)
          if x.ndim else x, [shape], seed)


# ---- indexing ------------------------------------------------------------------------------------

@st.composite
def indexed(draw):
    """A shape and an index of any form that NumPy has; out of range at times."""
    shape = draw(SHAPES)
    kind = draw(st.sampled_from(["basic", "integers", "mask", "mixed"]))
    if kind == "basic":
        return shape, draw(hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True))
    if kind == "integers" and shape and all(shape):
        return shape, draw(hnp.integer_array_indices(
            shape, result_shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)))
    if kind == "mask":
        axes = draw(st.integers(0, len(shape)))
        return shape, draw(hnp.arrays(bool, shape[:axes]))
    items = []
    for n in shape[:draw(st.integers(0, len(shape)))]:
        items.append(draw(st.one_of(
            st.integers(-n - 1, n), st.integers(-n - 1, n).map(np.int64), st.slices(n),
            st.none(), st.booleans(),
            st.lists(st.integers(-n, max(n - 1, 0)), min_size=0, max_size=3),
            hnp.arrays(np.int64, st.integers(0, 3).map(lambda k: (k,)),
                       elements=st.integers(-n, max(n - 1, 0))),
            hnp.arrays(bool, (n,)))))
    if draw(st.booleans()):
        items.insert(draw(st.integers(0, len(items))), Ellipsis)
    return shape, tuple(items)


@given(indexed(), SEEDS)
@examples(400)
def test_getitem(case, seed):
    shape, index = case
    try:
        np.empty(shape)[index]
    except IndexError:
        with pytest.raises((tc.ShapeError, tc.SettingError)):
            tc.Tensor(np.empty(shape))[index]
        return
    moves(lambda x: x[index], lambda x: x[index], [shape], seed)


# ---- reductions ----------------------------------------------------------------------------------

def np_logsumexp(x, axis, keepdims):
    top = np.max(x, axis=axis, keepdims=True)
    y = top + np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True))
    return y if keepdims else y.reshape(np.sum(x, axis=axis).shape)


# ours, NumPy's, the derivative of each entry from x, the result with its axes kept, and n
REDUCTIONS = {
    "sum": (tc.sum, np.sum, lambda x, y, axis, n: np.ones_like(x)),
    "mean": (tc.mean, np.mean, lambda x, y, axis, n: np.full_like(x, 1 / n)),
    "var": (tc.var, np.var,
            lambda x, y, axis, n: 2 / n * (x - x.mean(axis=axis, keepdims=True))),
    "max": (tc.max, np.max,
            lambda x, y, axis, n: (x == y) / (x == y).sum(axis=axis, keepdims=True)),
    "min": (tc.min, np.min,
            lambda x, y, axis, n: (x == y) / (x == y).sum(axis=axis, keepdims=True)),
    "logsumexp": (tc.logsumexp, np_logsumexp, lambda x, y, axis, n: np.exp(x - y)),
}


def test_every_reduction_is_here():
    others = {"sum_to", "cumsum"}           # above, with broadcast_to; in test_numpy_functions.py
    assert {name for name, op in tc.OPS.items() if op.family == "reduction"} == \
        set(REDUCTIONS) | others


@st.composite
def reduced(draw, shapes):
    """A shape, an axis of any form, and keepdims."""
    shape = draw(shapes)
    n = len(shape)
    each = st.integers(-n, n - 1) if n else st.nothing()
    several = st.lists(each, unique_by=lambda i: i % n, max_size=n).map(tuple)
    return shape, draw(st.one_of(st.none(), each, several)), draw(st.booleans())


def reduce_and_compare(name, case, seed, dtype):
    ours, numpys, slope = REDUCTIONS[name]
    shape, axis, keepdims = case
    a = numbers(seed, shape, dtype)
    x = tc.Tensor(a, requires_grad=True)
    y, expected = ours(x, axis=axis, keepdims=keepdims), numpys(a, axis=axis, keepdims=keepdims)
    close(y.data, expected)
    assert y.dtype == dtype
    ct = numbers(seed + 1, y.shape, dtype)
    wide = a.astype(float)
    kept = numpys(wide, axis=axis, keepdims=True)
    n = a.size // max(kept.size, 1)
    g, = gradients(y, [x], ct)
    assert g.dtype == dtype
    close(g, slope(wide, kept, axis, n) * ct.reshape(kept.shape))


@pytest.mark.parametrize("name", REDUCTIONS)
@given(reduced(FULL_SHAPES), SEEDS, FLOATS)
@examples(60)
def test_a_reduction_agrees_with_numpy(name, case, seed, dtype):
    reduce_and_compare(name, case, seed, dtype)


@given(reduced(SHAPES), SEEDS)
@examples(60)
def test_a_sum_over_nothing_is_zero(case, seed):
    reduce_and_compare("sum", case, seed, np.float64)


@pytest.mark.parametrize("name", [name for name in REDUCTIONS if name != "sum"])
@given(st.data(), FULL_SHAPES.filter(len), st.booleans())
@examples(40)
def test_a_reduction_of_nothing_is_refused(name, data, shape, keepdims):
    empty = data.draw(st.integers(0, len(shape) - 1))
    axis = data.draw(st.sampled_from([None, empty, empty - len(shape), (empty,)]))
    x = np.empty([0 if i == empty else n for i, n in enumerate(shape)])
    with pytest.raises(tc.ShapeError):
        REDUCTIONS[name][0](tc.Tensor(x), axis=axis, keepdims=keepdims)


# ---- dtypes --------------------------------------------------------------------------------------

WHOLE = [np.dtype(d) for d in ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32",
                               "int64", "uint64")]
REAL = [np.dtype(d) for d in ("float32", "float64")]

# What takes several inputs, for whole numbers too.
PROMOTING = {
    "add": (tc.add, np.add), "mul": (tc.mul, np.multiply),
    "maximum": (tc.maximum, np.maximum), "minimum": (tc.minimum, np.minimum),
    "where": (lambda a, b: tc.where(np.array([True, False]), a, b),
              lambda a, b: np.where(np.array([True, False]), a, b)),
    "concatenate": (lambda a, b: tc.concatenate([a, b], axis=0),
                    lambda a, b: np.concatenate([np.atleast_1d(a), np.atleast_1d(b)])),
    "stack": (lambda a, b: tc.stack([a, b]), lambda a, b: np.stack([a, b])),
    "matmul": (tc.matmul, np.matmul),
}


def entries(dtype, data):
    return np.array(data.draw(st.lists(hnp.from_dtype(dtype), min_size=2, max_size=2)), dtype)


@pytest.mark.parametrize("name", PROMOTING)
@given(st.data(), st.sampled_from(WHOLE), st.sampled_from(WHOLE))
@examples(60)
def test_mixed_integers_are_promoted_as_numpy_does(name, data, first, second):
    ours, numpys = PROMOTING[name]
    a, b = entries(first, data), entries(second, data)
    with np.errstate(over="ignore"):
        expected = numpys(a, b)
        if name == "matmul" and (expected.dtype.kind == "b" or expected.dtype.itemsize < 8):
            with pytest.raises(tc.DTypeError, match="cannot hold"):    # NumPy's sums wrap
                ours(tc.Tensor(a), tc.Tensor(b))
            return
        y = ours(tc.Tensor(a), tc.Tensor(b))
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(y.data, expected)


@given(st.data(), st.sampled_from(WHOLE[1:]), st.integers(-100, 100),
       st.sampled_from(["add", "mul", "maximum", "minimum"]))
@examples(100)
def test_a_python_integer_takes_the_dtype_of_the_tensor(data, dtype, n, name):
    ours, numpys = PROMOTING[name]
    a = entries(dtype, data)
    try:
        with np.errstate(over="ignore"):
            expected = numpys(a, n)
    except OverflowError:                               # a negative number among unsigned ones
        with pytest.raises((tc.TinygradCnnError, OverflowError)):
            ours(tc.Tensor(a), n)
        return
    with np.errstate(over="ignore"):
        y, z = ours(tc.Tensor(a), n), ours(n, tc.Tensor(a))
    assert y.dtype == z.dtype == expected.dtype == dtype
    np.testing.assert_array_equal(y.data, expected)
    np.testing.assert_array_equal(z.data, expected)


@given(st.data(), st.sampled_from(WHOLE), st.sampled_from([-1.5, 0.5, 2.25]),
       st.sampled_from(["add", "mul", "maximum", "minimum"]))
@examples(100)
def test_a_python_float_is_not_truncated_by_an_integer_tensor(data, dtype, number, name):
    ours, numpys = PROMOTING[name]
    a = np.array(data.draw(st.lists(st.integers(0, 1), min_size=2, max_size=2)), dtype)
    try:
        y = ours(tc.Tensor(a), number)
    except tc.DTypeError:
        return
    assert y.dtype.kind == "f"
    np.testing.assert_array_equal(y.data, numpys(a, number))


@pytest.mark.parametrize("name", PROMOTING)
@pytest.mark.parametrize("real", REAL, ids=str)
@given(whole=st.sampled_from(WHOLE), seed=SEEDS, number=st.sampled_from([3, 0.25, np.float64(0.5)]))
@examples(30)
def test_integers_and_numbers_take_the_dtype_of_the_floats_they_meet(name, real, whole, seed,
                                                                     number):
    ours, numpys = PROMOTING[name]
    a = numbers(seed, (2,), real)
    b = np.array([0, 1], whole)
    for y, expected in ((ours(tc.Tensor(a), tc.Tensor(b)), numpys(a, b)),
                        (ours(tc.Tensor(b), tc.Tensor(a)), numpys(b, a))):
        assert y.dtype == real
        np.testing.assert_array_equal(y.data, expected)
    if name in ("add", "mul", "maximum", "minimum", "where"):
        y = ours(tc.Tensor(a), number)
        assert y.dtype == real
        np.testing.assert_array_equal(y.data, numpys(a, number))


@pytest.mark.parametrize("name", PROMOTING)
@pytest.mark.parametrize("first, second", [REAL, REAL[::-1]], ids=["float32", "float64"])
def test_mixed_floats_are_refused(name, first, second):
    a, b = tc.Tensor(np.ones(2, first)), np.ones(2, second)
    for other in (tc.Tensor(b), b):
        with pytest.raises(tc.DTypeError, match="float32"):
            PROMOTING[name][0](a, other)
