"""Every public function, with other numbers and other settings than it was written for.

Integers give what floats of the same values give, or are refused; a setting of the wrong kind is
refused by the name of the function and in words of this package.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import re

import numpy as np
import pytest

import tinygrad_cnn as tc
from tests.ops.test_lost_gradients import CALLS, called
from tinygrad_cnn import Tensor

EVERY = [pytest.param(name, *CALLS[name], id=name) for name in sorted(CALLS)]
every_function = pytest.mark.parametrize("name, inputs, settings", EVERY)

# Entry by entry integers are those of NumPy, which wrap; its sums of products would do it too.
WRAPS = {name for name in CALLS if isinstance(ufunc := getattr(np, name, None), np.ufunc)
         and ufunc.signature is None} | {"neg", "sub", "mul", "diff", "outer", "kron"}


def whole(x, dtype):
    """Integers from 8 to 15: products of two fit a byte, and sums of products do not."""
    if isinstance(x, tuple):
        return tuple(whole(one, dtype) for one in x)
    return (8 + np.arange(np.size(x)) % 8).reshape(np.shape(x)).astype(dtype)


def tensors(x):
    return tuple(map(Tensor, x)) if isinstance(x, tuple) else Tensor(x)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8, bool])
@every_function
def test_integers_are_as_good_as_floats_or_refused(name, inputs, settings, dtype):
    given = {key: whole(x, dtype) if np.asarray(x).dtype.kind == "f" else x
             for key, x in inputs.items()}
    refusal = ""
    try:
        y = called(name, {key: tensors(x) for key, x in given.items()}, settings)
    except tc.DTypeError as error:
        refusal = str(error)
    if refusal:
        assert re.match(rf"{name}: .*astype", refusal), refusal
        return
    floats = {key: tensors(tuple(map(np.float64, x)) if isinstance(x, tuple) else np.float64(x)
                           if np.asarray(x).dtype.kind in "iub" and x is not inputs[key] else x)
              for key, x in given.items()}
    right = called(name, floats, settings).data
    if name in WRAPS and not np.array_equal(y.data, right):
        names = {"neg": "negative", "sub": "subtract", "mul": "multiply"}
        twin = getattr(np, names.get(name, name))
        right = twin(given.pop("x"), **given) if name == "diff" else twin(*given.values())
    np.testing.assert_allclose(y.data, right, rtol=1e-5)


RUBBISH = ("a", None, 1.5, -1, [], [[1, 2]], [1, 2, 3, 4, 5], np.nan, b"", {}, object(), len,
           np.ones((2, 2)), float("inf"), True)


def foreign(names, call):
    """What an error of this call says, unless it is one of this package that names one of these."""
    try:
        call()
    except tc.TinygradCnnError as error:
        return "" if re.search(rf"\b({'|'.join(names)})\b", str(error)) else repr(error)
    except Exception as error:
        return repr(error)
    return ""


@pytest.mark.filterwarnings("ignore")
@every_function
def test_a_setting_of_the_wrong_kind_is_refused_in_the_functions_name(name, inputs, settings):
    takes = inspect.signature(getattr(tc, name)).parameters
    given = {key: tensors(x) if np.asarray(x).dtype.kind == "f" else x
             for key, x in inputs.items()}
    known = "transpose" if name == "permute" else name
    for setting, parameter in takes.items():
        if setting in inputs or parameter.kind is parameter.VAR_POSITIONAL:
            continue
        for value in RUBBISH:
            call = functools.partial(called, name, given, settings | {setting: value})
            assert not foreign((known, setting), call), (setting, value)


MAKERS = {"zeros": {}, "ones": {}, "rand": {}, "randn": {}, "full": {"shape": 2, "fill_value": 1.5},
          "linspace": {"start": 0, "stop": 1, "num": 3},
          "arange": {"start": 0, "stop": 2, "step": 1}, "eye": {"n": 2, "m": 3}}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MAKERS)
def test_what_makes_tensors_refuses_what_is_no_number_and_no_shape(name):
    make, needed = getattr(tc, name), MAKERS[name]
    lost = Tensor(2.0, requires_grad=True)
    for value in (*RUBBISH, lost):
        calls = [functools.partial(make, **needed | {argument: value}) for argument in needed]
        for call in calls or [functools.partial(make, value)]:
            assert not foreign((name,), call), call
    for argument in set(needed) - {"shape"}:
        with pytest.raises(tc.TinygradCnnError, match=argument):
            make(**needed | {argument: lost})


@pytest.mark.parametrize("call", [
    lambda: tc.full((2,), 1000, dtype=np.uint8), lambda: tc.full((2,), np.nan, dtype=np.int64),
    lambda: tc.rand(9, dtype=np.int64), lambda: tc.randn_like(Tensor(np.zeros(9, int))),
    lambda: tc.arange(0, 1, 0.25, dtype=np.int64), lambda: tc.linspace(0, 1, 3, dtype=bool)])
def test_integers_are_not_made_of_other_numbers(call):
    with pytest.raises(tc.DTypeError, match="cannot hold these numbers"):
        call()


def test_one_hot_takes_the_memory_of_its_result():
    assert tc.one_hot([200_000]).sum() == 1             # and not of a square of 160 GB


# ---- order

ORDERED = {"ties": [2.0, 1, 2, 3, 1, 3], "NaN": [1.0, np.nan, 3, np.nan, -np.inf, np.inf],
           "zeros": [0.0, -0.0, 0.0, -0.0, 1, -1]}


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("values", ORDERED.values(), ids=list(ORDERED))
def test_order_is_stable_and_nan_is_the_largest(values, descending):
    x, ct = Tensor(np.array(values), requires_grad=True), np.arange(1.0, 7)
    order = sorted(range(6), key=lambda i: (np.isnan(values[i]), values[i]), reverse=descending)
    for y in (tc.sort(x, descending=descending), tc.topk(x, 3, largest=descending)[0]):
        x.grad = None
        y.backward(ct[:len(y)])
        np.testing.assert_array_equal(y.data, np.array(values)[order[:len(y)]])
        np.testing.assert_array_equal(x.grad.data[order[:len(y)]], ct[:len(y)])
        assert np.count_nonzero(x.grad.data) == len(y)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, bool, np.int64])
def test_order_of_integers(dtype):
    values = np.array([0, 1, np.iinfo(dtype).min if dtype is not bool else 0], dtype)
    np.testing.assert_array_equal(tc.topk(Tensor(values), 3)[0].data, np.sort(values)[::-1])
    np.testing.assert_array_equal(tc.sort(Tensor(values), descending=True).data,
                                  np.sort(values)[::-1])


def test_the_median_of_a_line_with_nan_is_nan():
    x = Tensor(np.array([[1.0, np.nan, 3.0, 2.0], [4.0, 1.0, 3.0, 2.0]]), requires_grad=True)
    y = tc.median(x, 1)
    np.testing.assert_array_equal(y.data, [np.nan, 2.5])
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.data, [[0, 1, 0, 0], [0, 0, 0.5, 0.5]])
    assert np.isnan(np.median(x).data)


# ---- numbers whose squares overflow

@pytest.mark.parametrize("a, b", [(3e30, 4e30), (3e-30, 4e-30), (0.0, 1e-30), (0.0, 0.0)])
def test_the_slopes_of_arctan2_do_not_overflow(a, b):
    x, y = (Tensor([v], requires_grad=True) for v in (a, b))
    tc.arctan2(x, y).backward([1.0])
    square = a * a + b * b or 1.0
    np.testing.assert_allclose([x.grad.item(), y.grad.item()], [b / square, -a / square], rtol=1e-5)


def test_methods_know_both_names_of_what_is_divided_by():
    x = np.array([[1.0, 2.0, 4.0], [0.0, 1.0, 5.0]])
    for name in ("std", "var"):
        right = getattr(x, name)(axis=1, ddof=1, keepdims=True)
        for settings in ({"dim": 1, "ddof": 1, "keepdim": True},
                         {"axis": 1, "correction": 1, "keepdims": True}):
            np.testing.assert_allclose(getattr(Tensor(x), name)(**settings).data, right)


@pytest.mark.parametrize("shape", [(32, 70, 17, 4), (7, 4096, 3, 2), (600, 9, 5, 7), (40000, 5)])
def test_large_sums_are_right_over_any_axes(shape):
    x = np.random.default_rng(0).normal(size=shape)
    every = range(len(shape))
    for axis in itertools.chain(*(itertools.combinations(every, k) for k in (0, *every[1:]))):
        right = x.sum(axis, keepdims=True)
        np.testing.assert_allclose(tc.sum(Tensor(x), axis, True).data, right, atol=1e-9)
        assert tc.sum(Tensor(x), axis).shape == x.sum(axis).shape
        if axis:
            np.testing.assert_allclose(tc.var(Tensor(x), axis).data, x.var(axis))
