"""Which dtype a result has, and that no value wraps or is cut in silence."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import Tensor
from tinygrad_cnn.core import apply
from tinygrad_cnn.core.op import OPS

INTEGERS = [np.bool_, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64]
SEVERAL = [n for n, op in OPS.items() if op.variadic or len(op.inputs) > 1]


def whole(rng, shape, dtype):
    high = 2 if dtype is np.bool_ else 100
    return rng.integers(0, high, shape).astype(dtype)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")       # 0 / 0, and the like
@pytest.mark.parametrize("name", SEVERAL)
def test_integers_meet_as_in_numpy(name):
    """Every op of several inputs gives what it gives for one wide dtype, or refuses."""
    op, rng = OPS[name], np.random.default_rng(0)
    for sample in list(op.test.samples(rng))[:2]:
        for one, other in itertools.product(INTEGERS, repeat=2):
            arrays = [None if a is None else whole(rng, a.shape, one if i == 0 else other)
                      for i, a in enumerate(sample.args)]
            present = [a for a in arrays if a is not None]
            common = np.result_type(*present)
            try:
                wide = apply(op, *[None if a is None else Tensor(a.astype(common))
                                   for a in arrays], **sample.settings)
            except (tc.TinygradCnnError, TypeError):
                with pytest.raises((tc.TinygradCnnError, TypeError)):
                    apply(op, *[None if a is None else Tensor(a) for a in arrays],
                          **sample.settings)
                continue
            mixed = apply(op, *[None if a is None else Tensor(a) for a in arrays],
                          **sample.settings)
            assert mixed.dtype == wide.dtype, (one, other)
            np.testing.assert_array_equal(mixed.data, wide.data)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("number", [True, 5, -3, 300, 70_000, 2**40, 2**70, 10**400, 0.5])
@pytest.mark.parametrize("function", [np.add, np.multiply, np.maximum, np.subtract])
def test_a_python_number_fits_itself_to_the_tensor(dtype, number, function):
    """As in NumPy, which refuses a number that the dtype cannot hold; floats become float32."""
    array = np.array([1, 0], dtype)
    own = {np.add: tc.add, np.multiply: tc.mul, np.maximum: tc.maximum,
           np.subtract: tc.sub}[function]
    try:
        expected = function(array, number)
    except (OverflowError, TypeError):
        with pytest.raises((tc.DTypeError, TypeError)):
            own(Tensor(array), number)
        return
    if isinstance(number, float):
        expected = function(array.astype(np.float32), np.float32(number))
    elif expected.dtype == object:
        with pytest.raises(tc.DTypeError, match="cannot hold"):
            own(Tensor(array), number)
        return
    got = own(Tensor(array), number)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got.data, expected)


def test_a_number_too_large_for_a_float_is_refused():
    with pytest.raises(tc.DTypeError, match=r"mul: b is an integer of 1329 bits, which float32"):
        Tensor([1.0]) * 10**400


@pytest.mark.parametrize("code", ["f4", "f8", "i2", "i4", "i8", "u4"])
@pytest.mark.parametrize("wrap", [Tensor, tc.tensor, lambda a: tc.add(a, 0), lambda a: a[::-1]])
def test_the_other_byte_order_is_converted(code, wrap):
    array = np.arange(3).astype(">" + code)
    made = Tensor(wrap(array)) if not isinstance(wrap(array), Tensor) else wrap(array)
    assert made.dtype == np.dtype(code)
    assert made.dtype.isnative
    assert sorted(made.data.tolist()) == [0, 1, 2]
    mixed = tc.mul(Tensor(np.ones(3, made.dtype)), array)
    assert mixed.dtype.isnative
    np.testing.assert_array_equal(mixed.data, array)


def test_a_mask_is_not_dropped():
    masked = np.ma.array([1.0, 2.0], mask=[False, True])
    for use in (Tensor, lambda m: Tensor([1.0, 2.0]) * m, tc.exp,
                lambda m: tc.mse_loss(np.ones(2), m)):
        with pytest.raises(tc.DTypeError, match="would lose its mask; fill it first"):
            use(masked)


WITH_FRACTIONS = [(op, sample) for op in OPS.values() for sample in op.test.samples(
    np.random.default_rng(0)) if any(isinstance(v, float) for v in sample.settings.values())]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("op, sample", [pytest.param(op, sample, id=f"{op.name}, {sample.id}")
                                        for op, sample in WITH_FRACTIONS])
def test_a_setting_with_a_fraction_is_not_cut_off_to_fit_integers(op, sample, dtype):
    rng = np.random.default_rng(0)
    tensors = [None if a is None else Tensor(whole(rng, a.shape, dtype)) for a in sample.args]
    for name, value in sample.settings.items():
        if isinstance(value, float):
            with pytest.raises(tc.DTypeError, match=rf"^{op.name}: .* {name} is 0.75, which is no"):
                apply(op, *tensors, **{**sample.settings, name: 0.75} | {
                    k: 2.0 for k, v in sample.settings.items()
                    if isinstance(v, float) and k != name})


@pytest.mark.parametrize("dtype", [d for d in INTEGERS if d is not np.bool_])
def test_clip_of_integers_holds_its_bounds_or_refuses(dtype):
    values = np.array([0, 1, 5, 100]).astype(dtype)
    x = Tensor(values)
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    for low in (None, -1, 0, 2.0, -np.inf, 10**30, 1, np.int8(1)):
        for high in (None, 2, 300, np.inf, 10**30, -5, 3.0):
            bottom = -np.inf if low is None else low
            top = np.inf if high is None else high
            if bottom > top:
                with pytest.raises(tc.SettingError):
                    tc.clip(x, low, high)
            elif bottom > most or top < least:
                with pytest.raises(tc.DTypeError, match=f"no {x.dtype} is from"):
                    tc.clip(x, low, high)
            else:
                found = tc.clip(x, low, high)
                assert found.dtype == x.dtype
                assert found.data.tolist() == [min(max(v, bottom), top) for v in values.tolist()]
    with pytest.raises(tc.DTypeError, match=r"clip: x is .* min is 0.5"):
        tc.clip(x, 0.5, 0.75)


def test_a_bound_of_large_integers_keeps_its_digits():
    x = Tensor(np.array([2**60 + 1, 2**62]))
    assert tc.clip(x, 0, 2**61 + 1).data.tolist() == [2**60 + 1, 2**61 + 1]


@pytest.mark.parametrize("call", [
    lambda x: x**-2, lambda x: x**-1, lambda x: tc.power(x, Tensor(np.array([-3, 2]))),
    lambda x: 2**-x])
def test_a_power_that_is_no_integer_is_refused_in_words(call):
    with pytest.raises(tc.DTypeError, match="power: a is int64, and the result of power is not"):
        call(Tensor(np.array([1, 2])))


def test_a_maximum_of_integers_needs_no_rule_for_ties():
    x = Tensor(np.full((1, 2, 2, 1), -7))
    for ties in ("first", "split", "all"):
        y = tc.max_pool2d(x, kernel_size=2, padding=1, ties=ties)
        assert y.data.ravel().tolist() == [-7] * 4


class _Theirs:
    """An array of another library: NumPy can convert it, and that is all."""

    def __init__(self, values):
        self._values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self._values, dtype)


def outcome(op, args, settings):
    try:
        result = apply(op, *args, **settings)
    except tc.TinygradCnnError as error:
        return type(error), str(error)
    return result.dtype, result.data.tobytes()


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
@pytest.mark.parametrize("wrap", [_Theirs, memoryview], ids=["__array__", "buffer"])
@pytest.mark.parametrize("name", OPS)
def test_an_array_of_another_library_counts_as_the_array_that_it_is(name, wrap):
    """With each dtype of the other inputs: the same result, or the same refusal."""
    op = OPS[name]
    sample = next(iter(op.test.samples(np.random.default_rng(0))))
    for i, given in enumerate(sample.args):
        if given is None or not np.ndim(given):
            continue
        for own, other in itertools.product((np.float32, np.float64, np.int64), repeat=2):
            array = np.ascontiguousarray(given, own)
            rest = [a if a is None else Tensor(np.asarray(a, other)) for a in sample.args]
            plain, theirs = ([*rest[:i], x, *rest[i + 1:]] for x in (array, wrap(array)))
            assert outcome(op, theirs, sample.settings) == outcome(op, plain, sample.settings)


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble, np.complex64, "M8[D]", object, "U3"])
@pytest.mark.parametrize("rest", [np.int64, np.bool_, None], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_no_array_makes_a_tensor_of_a_dtype_that_tensors_do_not_have(name, rest, dtype):
    """Among integers, or alone, an array would else decide."""
    op = OPS[name]
    sample = next(iter(op.test.samples(np.random.default_rng(0))))
    for i, given in enumerate(sample.args):
        if given is None:
            continue
        args = [a if a is None or rest is None else Tensor(np.zeros(np.shape(a), rest))
                for a in sample.args]
        args[i] = np.zeros(np.shape(given)).astype("i8").astype(dtype)
        with pytest.raises(tc.DTypeError, match=name):
            apply(op, *args, **sample.settings)


def test_a_matrix_is_refused_where_its_operators_mean_something_else():
    for call in (lambda m, x: m * x, lambda m, x: x * m, lambda m, x: np.multiply(m, x)):
        with pytest.raises(tc.DTypeError, match=r"np\.matrix, whose"):
            call(np.eye(2).view(np.matrix), Tensor(np.ones((2, 2))))


def test_rows_of_unequal_lengths_are_refused_in_words():
    for x in (Tensor([1.0, 2.0]), Tensor(np.array([1, 2]))):
        with pytest.raises(tc.ShapeError, match="mul: the rows of b have unequal lengths"):
            x * [[1, 2], [3]]


@pytest.mark.parametrize("recording", [True, False])
@pytest.mark.parametrize("call", [
    lambda m, x: m * x, lambda m, x: m - x, np.ma.add, np.ma.maximum, np.ma.dot,
    lambda m, x: np.ma.sum(x), lambda m, x: np.ma.exp(x), lambda m, x: np.ma.array(x),
    lambda m, x: np.ma.where(m > 0, x, m)])
def test_no_function_of_masked_arrays_loses_a_gradient(call, recording):
    x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    masked = np.ma.masked_array(np.ones(3, np.float32), [0, 1, 0])
    if recording:
        with pytest.raises(tc.GradientError, match="a masked array has no gradient"):
            call(masked, x)
    else:
        expected = call(masked, x.numpy().copy())
        with tc.no_grad():
            found = call(masked, x)
        np.testing.assert_array_equal(found, expected)
