"""Every registered op, held to its own declaration: op × sample × kernel.

Nothing here knows any op by name.  An op that is registered before the tests are collected is
tested without another line; the last tests show it, with an op that is right and with wrong ones.
Where samples hold odd eighths and the op is linear or has kinks alone, a step of 1/64 is exact and
``==`` decides.  The checkers of ``tinygrad_cnn.testing`` are not used: this is a second opinion.
"""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import OPS, Sample, Tensor, grad
from tinygrad_cnn.core import apply
from tinygrad_cnn.core.graph import changed
from tinygrad_cnn.core.op import make_op

STEP = 1 / 64               # below half the distance from an odd eighth to the next kink
FINE = 1 / 4096             # for curved ops: the error is some FINE⁴


# ---- what is tested ------------------------------------------------------------------------------

def samples_of(op):
    return list(op.test.samples(np.random.default_rng(0)))


SAMPLES = [pytest.param(op, sample, id=f"{op.name}, {sample.id}")
           for op in OPS.values() for sample in samples_of(op)]
CALLS = [pytest.param(op, sample, kernel, id=f"{op.name}, {sample.id}, kernel {kernel}")
         for op in OPS.values() for sample in samples_of(op) for kernel in op.kernels]
ERROR_INPUTS = [pytest.param(op, call, id=f"{op.name}, {call.id}")
                for op in OPS.values() for call in op.test.error_inputs]
EVERY_OP = [pytest.param(op, id=op.name) for op in OPS.values()]

each_sample = pytest.mark.parametrize("op, sample", SAMPLES)
each_call = pytest.mark.parametrize("op, sample, kernel", CALLS)


def cast(sample, dtype):
    """A sample in another dtype, its settings included: targets, masks and dtypes."""
    settings = dict(sample.settings)
    for name, value in settings.items():
        if isinstance(value, np.dtype):
            settings[name] = np.dtype(dtype)
        elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
            settings[name] = value.astype(dtype)
    return [None if a is None else a.astype(dtype) for a in sample.args], settings


def run(op, kernel, arrays, settings):
    """(array, residuals) of one kernel, or None if it declines."""
    soil(arrays)
    result = op.kernels[kernel](*arrays, **settings)
    if result is NotImplemented:
        return None
    y, residuals = result if op.residuals else (result, {})
    return np.asarray(y), residuals


def soil(arrays):
    """Leave NaN in freed memory, where ``np.empty`` of such sizes is likely to find it."""
    for a in arrays:
        if a is not None and a.dtype.kind == "f":
            held = [np.full(a.size, np.nan, a.dtype) for _ in range(8)]
            del held


def last(op):
    return list(op.kernels)[-1]


def is_exact(op, sample):
    """Whether the op only adds, multiplies and compares, and the sample holds multiples of 1/8."""
    return all(a is None or (a * 8 == np.round(a * 8)).all() for a in sample.args) and (
        op.test.piecewise_linear or set(op.test.exact_in) == set(op.inputs))


def dyadic(rng, shape):
    return np.asarray((2 * rng.integers(-4, 4, shape) + 1) / 8)


def tensors_of(sample):
    return [None if a is None else Tensor(a.copy(), requires_grad=True) for a in sample.args]


def given(tensors):
    return [t for t in tensors if t is not None]


def first_order(op, sample, ct):
    """The cotangent of each input that is given."""
    inputs = tensors_of(sample)
    found = grad(apply(op, *inputs, **sample.settings), given(inputs), ct)
    return [np.zeros_like(t.data) if g is None else g.data
            for t, g in zip(given(inputs), found, strict=True)]


# ---- values --------------------------------------------------------------------------------------

@each_call
def test_a_kernel_agrees_with_the_last_one(op, sample, kernel):
    expected, residuals = run(op, last(op), *cast(sample, np.float64))
    for dtype, digits in ((np.float64, 1e-12), (np.float32, 2e-5)):
        answer = run(op, kernel, *cast(sample, dtype))
        if answer is None:
            assert kernel != last(op), f"{op.name}: the last kernel may not decline"
            continue
        if dtype == np.float64 and is_exact(op, sample):
            digits = 0                              # numbers that any order of sums leaves exact
        scale = np.abs(expected).max(initial=1)
        np.testing.assert_allclose(answer[0], expected, rtol=digits, atol=digits * scale)
        assert set(answer[1]) == set(op.residuals)
        for name, value in residuals.items():
            np.testing.assert_allclose(answer[1][name], value, rtol=digits, atol=digits)


@pytest.mark.parametrize("op, kernel", [pytest.param(op, kernel, id=f"{op.name}, {kernel}")
                                        for op in OPS.values() for kernel in op.kernels])
def test_a_kernel_takes_at_least_one_sample(op, kernel):
    if kernel == "compiled":
        pytest.importorskip("numba")
    assert any(run(op, kernel, *cast(sample, dtype)) is not None
               for sample in samples_of(op) for dtype in (np.float32, np.float64))


@each_call
def test_a_result_has_the_shape_of_the_rule_and_the_dtype_of_the_inputs(op, sample, kernel):
    shapes = [None if a is None else a.shape for a in sample.args]
    for dtype in (np.float32, np.float64):
        arrays, settings = cast(sample, dtype)
        answer = run(op, kernel, arrays, settings)
        if answer is not None:
            assert answer[0].shape == op.shape(*shapes, **settings)
            assert answer[0].dtype == dtype


LAYOUTS = {
    "read-only": lambda a: a.copy(),
    "Fortran order": lambda a: np.array(a, order="F"),
    "every axis backwards": lambda a: a[(slice(None, None, -1),) * a.ndim].copy()[
        (slice(None, None, -1),) * a.ndim],
    "every other entry of a larger array": lambda a: np.repeat(a[..., None], 2, -1)[..., 0],
    "axes swapped in memory": lambda a: a.swapaxes(0, -1).copy().swapaxes(0, -1) if a.ndim else a,
}


@each_call
def test_a_kernel_writes_to_no_input_and_takes_any_memory_layout(op, sample, kernel):
    # Sums may be taken in another order.
    for dtype, tolerance in ((np.float32, 2e-5), (np.float64, 1e-12)):
        arrays, settings = cast(sample, dtype)
        expected = run(op, kernel, arrays, settings)
        if expected is None:
            continue
        settings = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in settings.items()}
        for layout, laid_out in LAYOUTS.items():
            odd = [None if a is None else laid_out(a) for a in arrays]
            for a in (*odd, *settings.values()):
                if isinstance(a, np.ndarray):
                    a.flags.writeable = False
            y = run(op, kernel, odd, settings)[0]
            np.testing.assert_allclose(y, expected[0], rtol=tolerance, atol=tolerance,
                                       err_msg=layout)
            for a, b in zip(odd, arrays, strict=True):
                assert a is None or np.array_equal(a, b), layout


# ---- gradients -----------------------------------------------------------------------------------

def slope(f, exact):
    """f'(0): central differences, of fourth order where the second makes an error at all."""
    h = STEP if exact else FINE
    near = (f(h) - f(-h)) / (2 * h)
    return near if exact else (4 * near - (f(2 * h) - f(-2 * h)) / (4 * h)) / 3


def numeric_gradient(op, sample, i, ct):
    """Of Σ ct · op with respect to input ``i``, entry by entry, from values alone."""
    x = sample.args[i]
    found = np.empty(x.shape)
    for place in np.ndindex(x.shape):
        unit = np.zeros(x.shape)
        unit[place] = 1

        def at(t, unit=unit):
            arrays = [*sample.args[:i], x + t * unit, *sample.args[i + 1:]]
            return op.run(*arrays, **sample.settings)[0]

        found[place] = np.sum(ct * slope(at, is_exact(op, sample)))
    return found


@each_sample
def test_the_first_derivative_is_that_of_the_values(op, sample):
    ct = dyadic(np.random.default_rng(1), op.shape(
        *(None if a is None else a.shape for a in sample.args), **sample.settings))
    ours = iter(first_order(op, sample, ct))
    for i, a in enumerate(sample.args):
        if a is not None:
            theirs = numeric_gradient(op, sample, i, ct)
            tolerance = 0 if is_exact(op, sample) else 1e-9
            np.testing.assert_allclose(next(ours), theirs, rtol=tolerance, atol=tolerance,
                                       err_msg=op.input_name(i))


@each_sample
def test_the_second_derivative_is_that_of_the_first(op, sample):
    rng = np.random.default_rng(2)
    inputs = tensors_of(sample)
    out = apply(op, *inputs, **sample.settings)
    ct = Tensor(dyadic(rng, out.shape), requires_grad=True)
    leaves = given(inputs)
    weights = [dyadic(rng, t.shape) for t in leaves]

    def total(cotangents):
        return sum(np.sum(u * g) for u, g in zip(weights, cotangents, strict=True))

    first = grad(out, leaves, ct, create_graph=True)
    scalar = sum((g * u).sum() for g, u in zip(first, weights, strict=True))
    second = grad(scalar, [*leaves, ct])
    exact = is_exact(op, sample)
    if op.test.piecewise_linear:    # an input may lie on a kink, so only the cotangent is moved
        assert all(g is None or not g.data.any() for g in second[:-1])
    for _ in range(3):
        still = op.test.piecewise_linear
        moves = [np.zeros(t.shape) if still and t is not ct else dyadic(rng, t.shape)
                 for t in (*leaves, ct)]
        ours = sum(np.sum(g.data * v) for g, v in zip(second, moves, strict=True) if g is not None)

        def at(t, moves=moves):
            v = iter(moves)
            args = tuple(None if a is None else a + t * next(v) for a in sample.args)
            return total(first_order(op, Sample("moved", args, sample.settings),
                                     ct.data + t * moves[-1]))

        # Of degree 2 in what moves if the op is exact: central differences make no error then.
        theirs = slope(at, exact)
        assert ours == theirs if exact else ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)


@each_sample
def test_a_gradient_in_float32_is_the_one_in_float64_rounded(op, sample):
    out = op.shape(*(None if a is None else a.shape for a in sample.args), **sample.settings)
    ct = dyadic(np.random.default_rng(3), out)
    arrays, settings = cast(sample, np.float32)
    single = first_order(op, Sample("float32", tuple(arrays), settings), ct.astype(np.float32))
    for g, expected in zip(single, first_order(op, sample, ct), strict=True):
        assert g.dtype == np.float32
        scale = np.abs(expected).max(initial=1)
        np.testing.assert_allclose(g, expected, rtol=1e-4, atol=1e-5 * scale)


# ---- what a rule may rely on ---------------------------------------------------------------------

def rules(op, sample, blank=(), wrap=Tensor):
    """What each rule gives, with NaN for the values of the inputs named in ``blank``."""
    y, residuals = op.run(*sample.args, **sample.settings)
    ct = wrap(dyadic(np.random.default_rng(4), y.shape))

    def shown(name, a):
        if a is None:
            return None
        return wrap(np.full(a.shape, np.nan) if name in blank else a)

    names = op.inputs * len(sample.args) if op.variadic else op.inputs
    args = [shown(name, a) for name, a in zip(names, sample.args, strict=True)]
    return [op.rule(i)(ct, shown("out", y), *args, **sample.settings, **residuals)
            for i, a in enumerate(sample.args) if a is not None]


def values(parts):
    return [p.data if isinstance(p, Tensor) else np.asarray(p) for p in parts]


@each_sample
def test_rules_read_no_value_that_the_op_does_not_name(op, sample):
    unread = () if op.saved is None else {*op.inputs, "out"} - set(op.saved)
    for ours, expected in zip(values(rules(op, sample, unread)), values(rules(op, sample)),
                              strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("op", EVERY_OP)
def test_every_value_that_an_op_names_is_read(op):
    for name in op.saved or ():
        changed = [not np.array_equal(a, b) for sample in samples_of(op) for a, b in
                   zip(values(rules(op, sample, (name,))), values(rules(op, sample)), strict=True)]
        assert any(changed), f"{op.name} keeps {name} in vain"


@pytest.mark.parametrize("op, sample", SAMPLES)
def test_rules_over_arrays_give_what_they_give_over_tensors(op, sample):
    with changed(recording=False, plain=True):
        parts = rules(op, sample, wrap=np.asarray)
    for part, expected in zip(parts, rules(op, sample), strict=True):
        assert not isinstance(part, Tensor)
        assert np.asarray(part).dtype == expected.dtype
        np.testing.assert_allclose(part, expected.data, rtol=1e-13, atol=1e-13)


# ---- refusals and bookkeeping --------------------------------------------------------------------

@pytest.mark.parametrize("op, call", ERROR_INPUTS)
def test_a_refusal_says_its_words_and_the_name_of_the_op(op, call):
    arrays = [None if shape is None else np.zeros(shape) for shape in call.shapes]
    with pytest.raises(tc.TinygradCnnError) as caught:
        apply(op, *arrays, **call.settings)
    assert str(caught.value).startswith(f"{op.name}: ")
    assert call.message in str(caught.value)


@pytest.mark.parametrize("op", EVERY_OP)
def test_samples_are_told_apart_and_held_in_float64(op):
    samples = samples_of(op)
    assert samples
    assert len({sample.id for sample in samples}) == len(samples)
    for sample in samples:
        assert all(a is None or a.dtype == np.float64 for a in sample.args)
        shapes = [None if a is None else a.shape for a in sample.args]
        flops = op.count_flops(*shapes, out=op.shape(*shapes, **sample.settings), **sample.settings)
        assert isinstance(flops, int)
        assert flops >= 0


# ---- the tests themselves, on ops of a user ------------------------------------------------------

def declared(**changes):
    """x · |x|, twice differentiable away from 0; ``changes`` plant a mistake."""
    right = {
        "name": "signed_square", "shape": lambda x: x,
        "kernels": {"array": lambda x: x * np.abs(x)},
        "vjp": {"x": lambda ct, out, x: ct * 2.0 * abs(x)}, "saved": ("x",),
        "samples": lambda rng: iter([Sample("row", (rng.uniform(0.5, 2, 5),))])}
    return make_op(**right | changes)


def _first_kernel(check):
    return lambda op, sample: check(op, sample, next(iter(op.kernels)))


CHECKS = {
    "first order": test_the_first_derivative_is_that_of_the_values,
    "second order": test_the_second_derivative_is_that_of_the_first,
    "float32": test_a_gradient_in_float32_is_the_one_in_float64_rounded,
    "saved": test_rules_read_no_value_that_the_op_does_not_name,
    "kernels": _first_kernel(test_a_kernel_agrees_with_the_last_one),
    "shape and dtype": _first_kernel(
        test_a_result_has_the_shape_of_the_rule_and_the_dtype_of_the_inputs),
    "layout": _first_kernel(test_a_kernel_writes_to_no_input_and_takes_any_memory_layout),
}


def complaints(op):
    """The checks that the op fails."""
    found = set()
    for name, check in CHECKS.items():
        for sample in samples_of(op):
            try:
                check(op, sample)
            except (AssertionError, ValueError, tc.TinygradCnnError):
                found.add(name)
    return found


def test_an_op_of_a_user_is_held_to_the_same():
    assert not complaints(declared())


def _in_place(x):
    x *= np.abs(x)
    return x


@pytest.mark.parametrize("finder, changes", [
    pytest.param("first order", {"vjp": {"x": lambda ct, out, x: ct * abs(x)}},
                 id="a factor missing"),
    pytest.param("second order",
                 {"vjp": {"x": lambda ct, out, x: ct * Tensor(2.0 * np.abs(x.data))}},
                 id="a rule that hides its input from the second derivative"),
    pytest.param("float32", {"vjp": {"x": lambda ct, out, x: (ct * 2.0 * abs(x)).astype("f8")}},
                 id="a rule that makes float64"),
    pytest.param("saved", {"saved": ()}, id="a value read but not named"),
    pytest.param("shape and dtype", {"kernels": {"array": lambda x: np.abs(x) * x.astype("f8")}},
                 id="a kernel that makes float64"),
    pytest.param("shape and dtype", {"kernels": {"array": lambda x: (x * np.abs(x))[:-1]}},
                 id="a wrong shape"),
    pytest.param("kernels", {"kernels": {"array": lambda x: 1.01 * x * np.abs(x),
                                         "reference": lambda x: x * np.abs(x)}},
                 id="kernels that disagree"),
    pytest.param("layout", {"kernels": {"array": _in_place}}, id="an input written to"),
    pytest.param("layout", {
        "kernels": {"array": lambda x: np.ravel(x, "K").reshape(x.shape) ** 2},
        "samples": lambda rng: iter([Sample("matrix", (rng.uniform(0.5, 2, (2, 3)),))])},
        id="a memory layout taken for granted"),
])
def test_a_mistake_in_a_declaration_is_found(finder, changes):
    assert finder in complaints(declared(**changes))
