"""``np.f(tensor)`` means what NumPy means, or is refused by name.

Every function of NumPy that an op answers is called with arguments from a table, in three ways: by
position, by keyword, and with defaults.  Then every public function of NumPy is called with a
tensor.
"""

from __future__ import annotations

import functools
import inspect
import io
import itertools
import warnings
from collections import Counter

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

import tinygrad_cnn as tc
from tinygrad_cnn import Tensor
from tinygrad_cnn.core.op import FUNCTIONS
from tinygrad_cnn.ops import numpy_functions
from tinygrad_cnn.testing import check_gradients

RNG = np.random.default_rng(0)
WAYS = ("positional", "keyword", "defaults")
TOLERANCE = {np.dtype(np.float32): 4e-6, np.dtype(np.float64): 1e-14}     # of short sums


def floats(*shape, dtype=np.float64):
    return np.asarray(RNG.uniform(0.25, 1.75, shape), dtype)


class Marked:
    """An array that becomes a tensor in the call with tensors; or a list of such arrays."""

    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return f"Marked({self.value!r})"

    def has_floats(self):
        return all(x.dtype.kind == "f" for x in self.arrays())

    def arrays(self):
        return self.value if isinstance(self.value, list) else [self.value]

    def tensor(self, requires_grad=False):
        if isinstance(self.value, list):
            return [Marked(x).tensor(requires_grad) for x in self.value]
        return Tensor(self.value, requires_grad=requires_grad and self.value.dtype.kind == "f")


# ---- the arguments -------------------------------------------------------------------------------

ONE = [Marked(a) for a in (
    floats(2, 3), floats(2, 3, dtype=np.float32), floats(3), floats(dtype=np.float32),
    floats(1, 3, 1), floats(2, 1, 3, dtype=np.float32), floats(0, 3), np.array([[1, -2, 3]]),
    np.array([[3, 4]], np.int8), np.array([[True, False], [True, True]]))]
PAIRS = [(Marked(a), Marked(b)) for a, b in (
    (floats(2, 3), floats(2, 3)), (floats(2, 3, dtype=np.float32), floats(3, dtype=np.float32)),
    (floats(3), floats(3)), (floats(2, 3), floats(3, 2)), (floats(2, 2), floats(2, 2)),
    (floats(dtype=np.float32), floats(2, dtype=np.float32)), (floats(3), floats()),
    (np.array([1, 2]), np.array([3, 4])), (np.array([1, 2], np.int8), np.array([3, 4], np.int8)),
    (np.array([True, False]), np.array([True, True])))]
PAIRS += [(Marked(floats(2, 3)), 2), (0.5, Marked(floats(2, 3, dtype=np.float32))),
          (Marked(floats(3)), floats(2, 3)), (floats(3, 3), Marked(floats(3, 3)))]
SEVERAL = [Marked([a, b]) for a, b in (
    (floats(2, 3), floats(2, 3)), (floats(2, dtype=np.float32), floats(2, dtype=np.float32)),
    (floats(1, 3, 2), floats(1, 3, 2)), (np.array([[1, 2]]), np.array([[3, 4]])),
    (np.array([True]), np.array([False])))]
SEVERAL += [Marked(floats(2, 3, 1)), Marked([floats(2, 2), floats(1, 2)])]
MASK = np.array([True, False, True])


class Like:
    """An array of the shape and dtype of the result."""


# Values for a parameter of any function that has it.
VALUES = {
    "axis": [None, 0, -1, 1, (0, 1), ()], "keepdims": [True, False],
    "dtype": [None, np.float32, np.float64, "f4", np.int64, np.float16, complex],
    "out": [None, Like], "initial": [0.5], "where": [True, MASK], "ddof": [0, 1, 0.5],
    "correction": [0, 1], "mean": [1.0], "order": ["C", "F", "A", "K"], "copy": [None, True],
    "subok": [True, False], "casting": ["same_kind", "unsafe"], "axes": [None, (0, 1), [1, 0],
                                                                       (2, 0, 1)],
    "signature": [None, "d->d", "dd->d"],
}
SHAPE = list(inspect.signature(np.reshape).parameters)[1]        # newshape before NumPy 2.1
# For each function: the calls without optional arguments, and values for parameters of its own.
NEEDS = {
    np.concatenate: [{"arrays": a} for a in SEVERAL], np.stack: [{"arrays": a} for a in SEVERAL],
    np.broadcast_to: [{"array": a, "shape": s} for a in ONE for s in ((2, 3), (4, 2, 3), 3)],
    np.reshape: [{"a": a, SHAPE: s} for a in ONE for s in ((3, -1), 6, (1, 3), -1, [3])],
    np.expand_dims: [{"a": a, "axis": i} for a in ONE for i in (0, -1, (0, 2))],
    np.swapaxes: [{"a": a, "axis1": 0, "axis2": i} for a in ONE for i in (0, -1, 1)],
    np.moveaxis: [{"a": a, "source": i, "destination": j} for a in ONE
                  for i, j in ((0, -1), (-1, 0), ((0, 1), (1, 2)))],
    np.where: [{"condition": a.value > 0.75} for a in ONE] + [{"condition": a} for a in ONE]
              + [{"condition": MASK, "x": a, "y": b} for a, b in PAIRS]
              + [{"condition": Marked(MASK), "x": 1.0, "y": np.zeros(3)}],
    np.clip: [{"a": a, **bounds} for a in ONE for bounds in (
        {"a_min": 0.5, "a_max": 1.25}, {"a_min": None, "a_max": 1}, {"a_min": 1, "a_max": None},
        {"min": 0.5}, {"max": 1}, {"min": 0, "max": 1}, {"a_min": np.ones(3), "a_max": 2},
        {"a_min": 2, "a_max": 1}, {"a_min": Marked(floats(dtype=np.float32)), "a_max": 2})],
    np.pad: [{"array": a, "pad_width": w} for a in ONE for w in (
        1, (1, 2), ((1, 2),), ((1, 0), (0, 2)), {-1: 1}, {0: (1, 2)}, ((1,), (2,)), 0)],
}
def plain(value):
    return value.value if isinstance(value, Marked) else value


# Without Python's numbers, which these make float64 arrays of; here they are of the tensor's dtype.
ARRAYS = [pair for pair in PAIRS if not any(isinstance(x, (int, float)) for x in pair)]
TWO = [{"a": a, "b": b} for a, b in ARRAYS]
SMALL = [{"x0": Marked(a.value / 2)} for a in ONE]
LINES = [Marked(floats(4, 6, 2)), Marked(floats(4, 2, 2, dtype=np.float32)),
         Marked(np.arange(24).reshape(4, 2, 3)), Marked(floats(2, 4, 4))]
NEEDS |= {
    **dict.fromkeys((np.outer, np.inner, np.dot, np.kron), TWO),
    np.tensordot: [{"a": a, "b": b, "axes": axes} for a, b in ARRAYS
                   for axes in (0, 1, 2, ((0,), (0,)), ((-1,), (0,)), (0, 0))],
    np.cross: [{"a": Marked(floats(*a)), "b": b} for a, b in (
        ((3,), Marked(floats(3))), ((2, 3), floats(3)), ((2, 3), Marked(floats(2, 3))))],
    np.roll: [{"a": a, "shift": n} for a in ONE for n in (1, -2, (1, 2))],
    np.rollaxis: [{"a": a, "axis": i} for a in ONE for i in (0, -1, 1)],
    np.tile: [{"A": a, "reps": n} for a in ONE for n in (2, (2, 1), (2, 1, 3), 0)],
    np.repeat: [{"a": a, "repeats": n} for a in ONE for n in (2, (1, 2, 0), 0)],
    sliding_window_view: [{"x": a, "window_shape": n} for a in ONE for n in (1, 2, (1, 2))],
    np.partition: [{"a": a, "kth": n} for a in ONE for n in (0, 1, -1, [0, 1])],
    np.linalg.multi_dot: [{"arrays": Marked([floats(2, 3), floats(3, 2)])},
                          {"arrays": Marked([floats(3), floats(3, 2), floats(2)])},
                          {"arrays": Marked([floats(2, 2)] * 4)}],
    np.take: [{"a": a, "indices": i} for a in ONE for i in (0, [0, 1], [[1, -1]])],
    np.take_along_axis: [{"arr": a, "indices": i} for a in ONE
                         for i in (np.zeros((2, 1), int), np.array([[0, -1]]))],
    np.arcsin: SMALL, np.arccos: SMALL, np.arctanh: SMALL,
    np.arccosh: [{"x0": Marked(a.value + 1)} for a in ONE],
    np.append: [{"arr": a, "values": b} for a, b in ARRAYS],
    np.split: [{"ary": a, "indices_or_sections": n} for a in LINES for n in (2, [1], [1, 3], 4)],
    np.array_split: [{"ary": a, "indices_or_sections": n} for a in LINES for n in (2, 3, [1, 3])],
    **{f: [{"ary": a, "indices_or_sections": n} for a in LINES for n in (2, [1])]
       for f in (np.hsplit, np.vsplit, np.dsplit)},
    **{f: [{"tup": several} for several in SEVERAL]
       for f in (np.hstack, np.vstack, np.dstack, np.column_stack)},
    np.einsum: [{"operands": operands} for operands in (
        *(["ij->ji", a] for a in ONE), ["ij", ONE[0]], ["...j->...", ONE[0]],
        ["ii", Marked(floats(3, 3))],
        ["ij,kj->ik", ONE[0], ONE[0]], ["i,i", Marked(floats(3)), Marked(floats(3))],
        ["ij,j", ONE[0], Marked(floats(3))], ["ij->", ONE[0]])],
}
OWN = {
    np.round: {"decimals": [0, 1, -1]}, np.around: {"decimals": [0, 1, -1]},
    np.diag: {"k": [0, 1, -1]}, np.tril: {"k": [0, 1, -1]}, np.triu: {"k": [0, 1, -1]},
    np.diagonal: {"offset": [0, 1], "axis1": [0, 1], "axis2": [1, 0]},
    np.trace: {"offset": [0, 1], "axis1": [0, 1], "axis2": [1, 0]},
    np.diff: {"n": [1, 2, 0], "prepend": [0.5], "append": [0.5]},
    np.sort: {"kind": [None, "stable"], "order": [None], "stable": [None, True]},
    np.median: {"overwrite_input": [False, True]},
    np.average: {"weights": [None, np.array([1.0, 2.0, 3.0]), np.ones((2, 3))],
                 "returned": [False, True]},
    np.linalg.norm: {"ord": [None, 1, 2, np.inf, "fro", 0]},
    np.nan_to_num: {"nan": [0.0, 1.0], "posinf": [None, 9.0], "neginf": [None, -9.0]},
    np.rot90: {"k": [1, 2, -1], "axes": [(0, 1), (1, 0)]},
    sliding_window_view: {"writeable": [False, True]},
    np.real_if_close: {"tol": [100, 10]}, np.gradient: {"edge_order": [1, 2]},
    np.partition: {"kind": ["introselect"], "order": [None]},
    np.rollaxis: {"start": [0, 1]}, np.take: {"mode": ["raise", "wrap"]},
    np.cross: {"axisa": [-1], "axisb": [-1], "axisc": [-1, 0]},
    np.einsum: {"optimize": [False, True]},
    np.pad: {"mode": ["constant", "edge", "reflect", "wrap", "symmetric", "mean", "median", "empty",
                      "linear_ramp", "maximum", "minimum"],
             "constant_values": [0, 0.5, (1, 1), (1, 2), ((1, 2), (3, 4))], "stat_length": [1],
             "end_values": [1], "reflect_type": ["even", "odd"]},
    np.clip: {"a_min": [0], "a_max": [1], "min": [0], "max": [1]},
    np.where: {"x": [], "y": []}, np.reshape: {"shape": [], "newshape": []},
}


@functools.cache
def parameters(function):
    if isinstance(function, np.ufunc):
        names = [f"x{i}" for i in range(function.nin)]
        kinds = dict.fromkeys(names, inspect.Parameter.POSITIONAL_ONLY)
        kinds["out"] = inspect.Parameter.POSITIONAL_OR_KEYWORD
        kinds |= dict.fromkeys(("where", "casting", "order", "dtype", "subok", "signature"),
                               inspect.Parameter.KEYWORD_ONLY)
        return [inspect.Parameter(n, k, default=inspect.Parameter.empty if n in names else None)
                for n, k in kinds.items()]
    found = [p for p in numpy_functions._parameters(function).parameters.values()
             if p.name != "varargs"]            # the spacing of np.gradient
    if found[-1].kind is inspect.Parameter.VAR_KEYWORD:
        del found[-1]
        known = {p.name for p in found}
        more = [*OWN.get(function, {}), "where", "dtype"]
        found += [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=np._NoValue)
                  for n in more if n not in known]
    return found


def bases(function):
    if function in NEEDS:
        return NEEDS[function]
    if isinstance(function, np.ufunc) and function.nin == 2:
        return [{"x0": a, "x1": b} for a, b in PAIRS]
    return [{parameters(function)[0].name: a} for a in ONE]


def calls(function):
    """Each way with the arguments by name, in the order of NumPy's signature."""
    order = [p.name for p in parameters(function)]
    rng = np.random.default_rng(1)
    for base in bases(function):
        yield "defaults", base
        optional = [(p, v) for p in order if p not in base
                    for v in OWN.get(function, {}).get(p, VALUES.get(p, []))]
        chosen = [((p, v),) for p, v in optional]
        pairs = [pair for pair in itertools.combinations(optional, 2) if pair[0][0] != pair[1][0]]
        if pairs:
            chosen += [pairs[i] for i in rng.integers(0, len(pairs), 6)]
        for more in chosen:
            full = base | dict(more)
            for way in ("positional", "keyword"):
                yield way, {name: full[name] for name in order if name in full}


def arranged(function, way, call):
    """The call as (args, keywords)."""
    args, keywords = [], {}
    found = parameters(function)
    last = max((i for i, p in enumerate(found)
                if p.name in call and p.kind is not p.KEYWORD_ONLY), default=-1)
    for i, p in enumerate(found):
        by_name = way == "keyword" and p.kind is not p.POSITIONAL_ONLY
        if p.kind is p.KEYWORD_ONLY or by_name:
            if p.name in call:
                keywords[p.name] = call[p.name]
        elif p.kind is p.VAR_POSITIONAL:
            several = isinstance(call[p.name], list)
            args.extend(call[p.name] if several else [call[p.name]])
        elif i <= last and (way == "positional" or p.name in call or
                            p.kind is p.POSITIONAL_ONLY):
            args.append(call.get(p.name, p.default))
    return args, keywords


def with_tensor(value):
    return value.tensor() if isinstance(value, Marked) else value


def quietly(function, args, keywords):
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return function(*args, **keywords)


def outcomes(function, way, call):
    """NumPy's answer, and ours or the error; None if NumPy itself refuses."""
    if any(v is Like for v in call.values()):
        try:
            result = quietly(function, *arranged(
                function, "keyword", {n: plain(v) for n, v in call.items() if v is not Like}))
        except Exception:
            return None
        call = {n: np.empty_like(result) if v is Like else v for n, v in call.items()}
    args, keywords = arranged(function, way, call)
    try:
        theirs = quietly(function, [plain(v) for v in args],
                         {n: plain(v) for n, v in keywords.items()})
    except Exception:
        return None
    try:
        ours = quietly(function, [with_tensor(v) for v in args],
                       {n: with_tensor(v) for n, v in keywords.items()})
    except Exception as error:
        return theirs, error
    return theirs, ours


def as_plain(result):
    if isinstance(result, (tuple, list)):
        return [as_plain(x) for x in result]
    return result.numpy() if isinstance(result, Tensor) else result


def assert_same(ours, theirs):
    ours = as_plain(ours)
    if isinstance(theirs, (tuple, list)):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)
        return
    if not isinstance(theirs, (np.ndarray, np.generic)):
        assert type(ours) is type(theirs) or isinstance(ours, type(theirs)), (ours, theirs)
    a, b = np.asarray(ours), np.asarray(theirs)
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    if a.dtype.kind in "OUV":
        assert np.array_equal(a, b) or str(ours) == str(theirs)
    else:
        np.testing.assert_allclose(a, b, rtol=TOLERANCE.get(b.dtype, 0))


def names_of(function):
    """What an error may call the function: NumPy's name, or the one of the op that answers."""
    own = FUNCTIONS.get(function)
    inner = getattr(own, "args", [None])[0]
    names = [function.__name__, getattr(own, "__name__", None),
             getattr(getattr(inner, "ours", None), "__name__", None)]
    return [n.strip("_") for n in names if n and n != "<lambda>"]


# Calls with supported arguments and floats that are refused all the same: words of the errors.
REFUSED = (
    "need an axis",                             # np.dot of numbers
    "axis must be an integer", "cannot round",   # of several axes, and of integers
    "must have three entries", "which has no differences",
    "needs two axes or more",                   # NumPy makes a matrix of the rows of a vector
    "cannot hold large results", "of a matrix is not supported", "ord must be at least 1",
    "does not exist in an array of shape ()",   # NumPy takes axis 0 of a number
    "is empty",                        # the mean of nothing is NaN for NumPy
    "correction is",                            # as many as there are entries: NumPy gives inf
    "min must not be above max", "for arrays use maximum() and minimum()",
    "must be one number for all sides", "mode must be one of",
    "among tensors of float32", "dtype=", "at most 2",
    "mode 'wrap' copies entries", "mode 'edge' copies entries", "mode 'reflect' copies entries",
)
NUMPY_FUNCTIONS = [f for f in FUNCTIONS if not isinstance(f, str)]


@functools.cache
def tried(function):
    """Each call that NumPy takes: the way, the arguments, its answer, and ours or the error."""
    found = ((way, call, outcomes(function, way, call)) for way, call in calls(function))
    return [(way, call, *both) for way, call, both in found if both is not None]


def name_of(function):
    return getattr(function, "__name__", str(function))


@pytest.mark.parametrize("function", NUMPY_FUNCTIONS, ids=name_of)
def test_a_mapped_function_answers_as_numpy_or_refuses_by_name(function):
    answered = Counter()
    for way, call, theirs, ours in tried(function):
        if not isinstance(ours, Exception):
            answered[way] += 1
            try:
                assert_same(ours, theirs)
            except AssertionError as error:
                raise AssertionError(f"{way} {call}: {error}") from None
            continue
        assert isinstance(ours, (TypeError, tc.TinygradCnnError)), f"{way} {call}: {ours!r}"
        message = str(ours)
        assert any(n in message for n in names_of(function)), f"{way} {call}: {message}"
        if "not supported on a tensor" in message:
            assert any(f"{n}=" in message for n in call), f"{way} {call}: {message}"
            continue
        short = not all(v.has_floats() for v in call.values() if isinstance(v, Marked))
        assert short or any(words in message for words in REFUSED), f"{way} {call}: {message}"
    assert answered["defaults"] >= 3
    assert {way for way, *_ in tried(function)} == set(answered), "some way is only refused"


def test_each_way_is_answered_at_least_200_times():
    answers = Counter(way for function in NUMPY_FUNCTIONS for way, _, _, ours in tried(function)
                      if not isinstance(ours, Exception))
    assert all(answers[way] >= 200 for way in WAYS), answers


@pytest.mark.parametrize("function", numpy_functions._SIGNATURES, ids=name_of)
def test_signatures_that_numpy_does_not_tell_are_its_own(function):
    ours = inspect.signature(numpy_functions._SIGNATURES[function])
    try:
        assert ours == inspect.signature(function)
    except ValueError:
        assert np.lib.NumpyVersion(np.__version__) < "2.4.0"


@pytest.mark.parametrize("function", NUMPY_FUNCTIONS, ids=name_of)
def test_the_table_has_values_for_each_parameter_of_numpy(function):
    needed = {n for base in bases(function) for n in base}
    known = needed | set(VALUES) | set(OWN.get(function, {}))
    assert {p.name for p in parameters(function)} <= known


@pytest.mark.parametrize("function", NUMPY_FUNCTIONS, ids=name_of)
def test_a_mapped_function_has_a_gradient(function):
    checked = 0
    for way, base, _, ours in tried(function):
        marked = {n: v for n, v in base.items() if isinstance(v, Marked)}
        arrays = [x for v in (*marked.values(), *base.get("operands", ())) if isinstance(v, Marked)
                  for x in v.arrays()]
        if way != "defaults" or isinstance(ours, Exception) or not tensors_in(ours) \
                or not tensors_in(ours)[0].size \
                or not all(x.dtype == np.float64 and x.size for x in arrays):
            continue

        def called(*tensors, base=base, marked=marked):
            rest = iter(tensors)
            call = base | {n: [next(rest) for _ in v.value] if isinstance(v.value, list)
                           else next(rest) for n, v in marked.items()}
            if "operands" in base:
                call["operands"] = [next(rest) if isinstance(v, Marked) else v
                                    for v in base["operands"]]
            args, keywords = arranged(function, "positional", call)
            y = function(*args, **keywords)
            return y if isinstance(y, Tensor) else y[0]
        check_gradients(called, *arrays)
        checked += 1
        if checked == 2:
            break
    assert checked


@pytest.mark.parametrize("call", [
    lambda t: np.var(t, axis=0, ddof=1), lambda t: np.std(t, axis=0, ddof=1),
    lambda t: np.pad(t, (1, 2), "reflect"), lambda t: np.clip(t, a_min=0.5, a_max=1.2),
    lambda t: np.concatenate([t, t], axis=None),
])
def test_arguments_of_numpy_keep_the_gradient(call):
    check_gradients(call, floats(3, 2))


@pytest.mark.parametrize("call, slope", [
    (lambda t: np.sum(t, dtype=np.float64), 1), (lambda t: np.add(t, 1, dtype=np.float64), 1),
    (lambda t: np.concatenate([t, t], dtype=np.float64), 2),
])
def test_a_cast_by_dtype_keeps_the_gradient(call, slope):
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    y = call(x)
    y.sum().backward()
    assert (y.dtype, x.grad.dtype) == (np.float64, np.float32)
    assert (x.grad.numpy() == slope).all()


def test_the_deviation_of_equal_entries_has_gradient_zero():
    x = Tensor(np.full((3, 2), 2.0), requires_grad=True)
    np.std(x, axis=0).sum().backward()
    assert (x.grad.numpy() == 0).all()


# ---- every public function of NumPy --------------------------------------------------------------

MODULES = {"np": np, "np.linalg": np.linalg, "np.fft": np.fft}
# Those that take no array, set what holds for the whole process, or write and read files.
APART = {"np.test", "np.show_config", "np.show_runtime", "np.info", "np.get_include",
         "np.set_printoptions", "np.get_printoptions", "np.printoptions", "np.seterr", "np.geterr",
         "np.seterrcall", "np.geterrcall", "np.setbufsize", "np.getbufsize", "np.frompyfunc",
         "np.load", "np.loadtxt", "np.genfromtxt", "np.fromfile", "np.fromregex", "np.bmat"}
PUBLIC = {f"{prefix}.{name}": getattr(module, name) for prefix, module in MODULES.items()
          for name in sorted(module.__all__) if callable(getattr(module, name))
          and not isinstance(getattr(module, name), type) and f"{prefix}.{name}" not in APART}

A, B, V = (Marked(floats(*shape)) for shape in ((3, 3), (3, 3), (4,)))
I = Marked(np.array([2, 0, 1]))             # noqa: E741
TRIED = [(A,), (V,), (I,), (A, B), (V, V), (A, 1), (V, 2), (I, I), (1, A), (A, I), (I, A),
         ([A, B],), ([V, V],), (A, 0, 1), (A, [0, 1]), (V, V, V), (A, (3, 3)), (A, A, 1),
         (V, 0.5, V)]
# Where none of these fits.
SPECIAL = {
    "np.apply_along_axis": [(np.sum, 0, A)],
    "np.apply_over_axes": [(np.sum, A, [0])],
    "np.array_split": [(V, 2)],
    "np.astype": [(A, np.float32)],
    "np.block": [([[A, B]],)],
    "np.can_cast": [(A, np.float32)],
    "np.choose": [(I, [A, A, A])],
    "np.clip": [(A, 0.5, 1.0)],
    "np.copyto": [(A, B)],
    "np.dsplit": [(Marked(floats(2, 2, 2)), 2)],
    "np.einsum": [("ij,jk->ik", A, B)],
    "np.einsum_path": [("ij,jk->ik", A, B)],
    "np.histogramdd": [(A, 2)],
    "np.hsplit": [(A, [1])],
    "np.insert": [(V, 1, V)],
    "np.interp": [(V, Marked(np.arange(4.0)), V)],
    "np.ldexp": [(V, Marked(np.array([1, 2, 0, 1])))],
    "np.linalg.cholesky": [(Marked(np.eye(3) + 1),)],
    "np.linalg.cross": [(Marked(floats(3)), Marked(floats(3)))],
    "np.linalg.multi_dot": [([A, B, A],)],
    "np.linalg.tensorinv": [(A, 1)],
    "np.linalg.tensorsolve": [(A, Marked(floats(3)))],
    "np.packbits": [(Marked(np.array([True, False])),)],
    "np.piecewise": [(V, [V.value > 1], [1.0, 0.0])],
    "np.place": [(V, V.value > 1, [0.0])],
    "np.polyfit": [(Marked(np.arange(4.0)), V, 1)],
    "np.put_along_axis": [(V, np.array([1]), 5.0, 0)],
    "np.putmask": [(V, V.value > 1, 0.0)],
    "np.ravel_multi_index": [([I, I], (3, 3))],
    "np.save": [(io.BytesIO(), A)],
    "np.savetxt": [(io.BytesIO(), A)],
    "np.savez": [(io.BytesIO(), A)],
    "np.savez_compressed": [(io.BytesIO(), A)],
    "np.select": [([MASK], [Marked(floats(3))], 0.0)],
    "np.split": [(V, 2)],
    "np.take_along_axis": [ (V, Marked(np.array([1, 0])), 0)],
    "np.unpackbits": [(Marked(np.array([3], np.uint8)),)],
    "np.unravel_index": [(I, (2, 2))],
    "np.unwrap": [(V,)],
    "np.vsplit": [(A, 3)],
}
# Functions that give what they are given the form of an array: np.asarray(tensor) is NumPy's way to
# ask for plain values, and these do not ask the tensor.
CONVERT = {n for n, f in PUBLIC.items() if not hasattr(f, "_implementation")
           and not isinstance(f, np.ufunc)}
# Memory as it was found.
NO_VALUES = {"np.empty_like"}


def deep(value, change):
    if isinstance(value, Marked):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(deep(x, change) for x in value)
    if isinstance(value, io.BytesIO):
        return io.BytesIO()
    return value.copy() if isinstance(value, np.ndarray) else value


def fresh(marked):
    return marked.value.copy()


def moved(marked):
    """A little to the side: no integer, order or digit that is printed changes."""
    return marked.value + 1e-10 if marked.value.dtype.kind == "f" else marked.value.copy()


def fitting(name):
    """The arguments that NumPy itself takes, and its answers."""
    for args in SPECIAL.get(name, []) + TRIED:
        try:
            yield args, quietly(PUBLIC[name], deep(args, fresh), {})
        except Exception:
            continue


def tensors_in(result):
    if isinstance(result, Tensor):
        return [result]
    return [t for x in result for t in tensors_in(x)] if isinstance(result, (tuple, list)) else []


@pytest.mark.parametrize("requires_grad", [False, True], ids=["values", "gradient"])
@pytest.mark.parametrize("name", PUBLIC)
def test_every_function_of_numpy_answers_or_is_refused_by_name(name, requires_grad):
    function = PUBLIC[name]
    for args, theirs in fitting(name):
        given = deep(args, lambda m: m.tensor(requires_grad))
        try:
            ours = quietly(function, given, {})
        except (TypeError, AttributeError, tc.TinygradCnnError) as error:
            refusal = error
        else:
            refusal = None
        if refusal is not None:
            named = any(n in str(refusal) for n in names_of(function))
            assert name in CONVERT or (named and not isinstance(refusal, AttributeError)), \
                f"{args}: {refusal!r}"
            continue
        if name in NO_VALUES:
            assert type(ours) is np.ndarray
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            continue
        assert_same(ours, theirs)
        recorded = [t for t in tensors_in(ours) if t.requires_grad]
        # NumPy converts a list itself, unless it joins what is in it; the edges of a histogram
        # follow the extremes.
        if requires_grad and not recorded and not isinstance(args[0], list) \
                and name not in CONVERT and not isinstance(ours, str) \
                and not name.startswith("np.histogram"):
            nearby = quietly(function, deep(args, moved), {})
            assert_same(as_plain(ours), nearby)


def test_nearly_every_function_of_numpy_is_called():
    never = sorted(n for n in set(PUBLIC) - CONVERT if next(fitting(n), None) is None)
    assert never == ["np.busday_count", "np.busday_offset", "np.datetime_as_string",
                     "np.isnat"], never                         # these take dates


def test_a_refusal_of_numpy_says_its_whole_name_and_a_cure():
    x = Tensor(np.ones((2, 2)), requires_grad=True)
    for call, words in (
            (lambda: np.i0(x), "np.i0 is not differentiable here; for plain values pass"),
            (lambda: np.linalg.inv(x), "np.linalg.inv is not differentiable here"),
            (lambda: np.fft.fft(x), "np.fft.fft is not"),
            (lambda: np.sum(x, initial=1.0), "np.sum: initial= is not supported on a tensor; a"),
            (lambda: np.exp(x, out=np.ones((2, 2))), "np.exp: out= is not supported on a tensor"),
            (lambda: np.add(x, 1, where=x > 0), "np.add: where= is not"),
            (lambda: np.sum(x, dtype=int), "np.sum: dtype=int64 is not supported on a tensor"),
            (lambda: np.copyto(x.detach(), 0.0), "np.copyto would write into a tensor"),
            (lambda: np.isnan(np.ones((2, 2)), out=Tensor(np.ones((2, 2), bool))),
             "np.isnan would write into a tensor"),
            (lambda: np.clip(np.ones(2), x, 3), "np.clip is not"),
            (lambda: np.full_like(x, x[0]), "np.full_like is not"),
            (lambda: np.histogram(x, weights=x), "np.histogram is not"),
            (lambda: np.concatenate([x, x], axis=0, casting="unsafe"), "casting= is not")):
        with pytest.raises(TypeError) as caught:
            call()
        assert words in str(caught.value)


@pytest.mark.parametrize("method, args", [("reduce", ()), ("accumulate", ()), ("outer", ([1.0],)),
                                          ("at", ([0], 1.0)), ("reduceat", ([0, 1],))])
@pytest.mark.parametrize("function", [f for f in NUMPY_FUNCTIONS if isinstance(f, np.ufunc)
                                      and f.nin == 2 and not f.signature], ids=name_of)
def test_the_methods_of_a_ufunc_are_refused_by_name(function, method, args):
    x = Tensor(np.ones((2, 2)), requires_grad=True)
    words = f"np.{function.__name__}.{method} is not supported on a tensor"
    with pytest.raises(TypeError, match=words.replace(".", r"\.")):
        getattr(function, method)(x, *args)


def test_without_recording_every_function_answers():
    x = Tensor(np.ones(2), requires_grad=True)
    with tc.no_grad():
        np.testing.assert_array_equal(np.sin(x), np.sin(np.ones(2)))


def test_the_tables_name_each_function_once():
    both = {f for f in numpy_functions._PLAIN if f in FUNCTIONS}
    assert both == {np.where}                   # np.where(condition) gives places
