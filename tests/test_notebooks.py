"""The published figures of the two notebooks, met by the loops and by the registered ops.

``data/notebooks.json`` is a list of cases: recipes for inputs, steps, and checks with the figures
that public notebooks print, or that were recomputed in float64 by an independent implementation.
Every case runs twice: through ``stepwise``, and through ops whose gradients come from
``backward()``.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest

from tinygrad_cnn import Tensor, avg_pool2d, conv2d, max_pool2d, pad, stepwise

PACK = json.loads((Path(__file__).parent / "data" / "notebooks.json").read_text(encoding="utf-8"))
CASES = {case["id"]: case for case in PACK["cases"]}
CHECKS = [pytest.param(case["id"], check, id=f"{case['id']}: {check['what']}")
          for case in PACK["cases"] for check in case["checks"]]
FIGURES = [pytest.param(mistake, figure, id=f"{mistake['id']} {figure['case']}: {figure['what']}")
           for mistake in PACK["known_wrong"] for figure in mistake["figures"]]


# ---- the two forms of every step: arrays and parameters in, a tuple of results out ---------------

def by_hand(op, arrays, params):
    """The step as the notebook has it."""
    if op == "conv_forward":
        return stepwise.conv_forward(**arrays, hparameters=params)[:1]
    if op == "conv_backward":
        primal = [arrays[name] for name in ("A_prev", "W", "b")]
        return stepwise.conv_backward(arrays["dZ"], (*primal, params))
    if op == "pool_forward":
        hparameters = {key: params[key] for key in ("f", "stride")}
        return stepwise.pool_forward(arrays["A_prev"], hparameters, mode=params["mode"])[:1]
    if op == "pool_backward":
        _, cache = stepwise.pool_forward(arrays["A_prev"], params, mode=params["mode"])
        return (stepwise.pool_backward(arrays["dA"], cache, mode=params["mode"]),)
    return (getattr(stepwise, op)(**arrays, **params),)


def leaf(array):
    """A float64 tensor that wants its gradient."""
    return Tensor(np.array(array, dtype=np.float64), requires_grad=True)


def convolve(A_prev, W, b, *, stride, pad):
    """The registered op on leaves: (x, w, b, z)."""
    x, w, bias = leaf(A_prev), leaf(W), leaf(np.reshape(b, -1))
    return x, w, bias, conv2d(x, w, bias, stride=stride, padding=pad)


def pool(A_prev, *, f, stride, mode):
    """The registered op on a leaf: (x, a)."""
    x = leaf(A_prev)
    if mode == "max":
        return x, max_pool2d(x, kernel_size=f, stride=stride, ties="all")
    return x, avg_pool2d(x, kernel_size=f, stride=stride)


def with_ops(op, arrays, params):
    """The same step by a registered op; what the notebooks derive by hand comes from backward()."""
    return OPS[op](**arrays, **params)


def _pad_op(X, pad_width):
    return (pad(Tensor(X), ((0, 0), (pad_width, pad_width), (pad_width, pad_width), (0, 0))).data,)


def _single_step_op(a_slice_prev, W, b):
    *_, z = convolve(a_slice_prev[None], W[..., None], b, stride=1, pad=0)
    return (z.data[0, 0, 0, 0],)


def _conv_backward_op(dZ, A_prev, W, b, stride, pad):
    x, w, bias, z = convolve(A_prev, W, b, stride=stride, pad=pad)
    z.backward(Tensor(dZ))
    return x.grad.data, w.grad.data, bias.grad.data.reshape(b.shape)


def _pool_backward_op(dA, A_prev, f, stride, mode):
    x, a = pool(A_prev, f=f, stride=stride, mode=mode)
    a.backward(Tensor(dA))
    return (x.grad.data,)


def _mask_op(x):
    """One window: the pixels that a gradient of 1 reaches."""
    window = leaf(x[None, :, :, None])
    max_pool2d(window, kernel_size=x.shape, ties="all").backward(Tensor(np.ones((1, 1, 1, 1))))
    return (window.grad.data[0, :, :, 0] == 1,)


def _distribute_op(dz, shape):
    """One window: where the gradient dz of its average goes."""
    window = leaf(np.zeros((1, *shape, 1)))
    average = avg_pool2d(window, kernel_size=tuple(shape))
    average.backward(Tensor(np.full((1, 1, 1, 1), float(dz))))
    return (window.grad.data[0, :, :, 0],)


OPS = {
    "zero_pad": lambda X, pad: _pad_op(X, pad),
    "conv_single_step": _single_step_op,
    "conv_forward": lambda A_prev, W, b, **params: (convolve(A_prev, W, b, **params)[-1].data,),
    "conv_backward": _conv_backward_op,
    "pool_forward": lambda A_prev, **params: (pool(A_prev, **params)[-1].data,),
    "pool_backward": _pool_backward_op,
    "create_mask_from_window": _mask_op,
    "distribute_value": _distribute_op,
}


# ---- running a case ------------------------------------------------------------------------------

def draw(recipe):
    """The inputs of a case, in order; RandomState gives the stream of np.random.seed."""
    values = {}
    stream = None
    for item in recipe:
        if "seed" in item:
            stream = np.random.RandomState(item["seed"])
        elif "randn" in item:
            values[item["randn"]] = stream.randn(*item["shape"])
        else:
            values[item["name"]] = np.array(item["value"], dtype=np.float64)
    return values


@functools.cache
def run(case_id, form):
    """All named arrays of a case after its steps."""
    case = CASES[case_id]
    values = draw(case["inputs"])
    for step in case["steps"]:
        arrays = {parameter: values[name] for parameter, name in step["arrays"].items()}
        results = form(step["op"], arrays, step["params"])
        values.update(zip(step["returns"], results, strict=True))
    return values


def figure_of(check, values):
    """What a check looks at: an array of the case, indexed and reduced."""
    def entry(index):
        if isinstance(index, int):
            return index
        start, stop = index.split(":")
        return slice(int(start) if start else None, int(stop) if stop else None)

    found = np.asarray(values[check["value"]])[tuple(map(entry, check["index"]))]
    if check["reduce"] == "shape":
        return list(found.shape)
    return getattr(found, check["reduce"])() if check["reduce"] else found


def complaint(case_id, check, found):
    """Why ``found`` is not the figure of the check, or None; a known mistake is named."""
    if check["reduce"] == "shape" or np.asarray(check.get("expected")).dtype == bool:
        right = np.array_equal(found, check["expected"])
        right = right and (check["reduce"] == "shape" or found.dtype == bool)
    elif "equals" in check:
        right = np.array_equal(found, draw(CASES[case_id]["inputs"])[check["equals"]])
    else:
        right = np.shape(found) == np.shape(check["expected"]) and np.allclose(
            found, check["expected"], **check["tolerance"])
        if right and "printed" in check:
            right = np.allclose(found, check["printed"], rtol=0, atol=check["printed_tolerance"])
    if right:
        return None
    cause = stepwise.diagnose(case_id, check["what"], found, PACK["known_wrong"])
    return f"{case_id}: {check['what']} is {found}, expected {check.get('expected')}; {cause}"


# ---- tests ---------------------------------------------------------------------------------------

def test_the_pack_is_complete_and_of_the_format_that_is_read_here():
    assert (PACK["format"], PACK["dtype"]) == (1, "float64")
    assert (len(CASES), len(CHECKS), len(FIGURES)) == (29, 118, 22)
    assert set(OPS) == set(PACK["operations"])


@pytest.mark.parametrize("form", [by_hand, with_ops], ids=["stepwise", "ops"])
@pytest.mark.parametrize(("case_id", "check"), CHECKS)
def test_the_published_figures_are_met(case_id, check, form):
    problem = complaint(case_id, check, figure_of(check, run(case_id, form)))
    assert problem is None, problem


@pytest.mark.parametrize("case_id", CASES)
def test_both_forms_give_the_same_arrays(case_id):
    ours, theirs = run(case_id, by_hand), run(case_id, with_ops)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(theirs[name], value, rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize(("mistake", "figure"), FIGURES)
def test_a_known_wrong_figure_is_traced_to_its_cause(mistake, figure):
    where = figure["case"], figure["what"]
    words = stepwise.diagnose(*where, figure["wrong"], PACK["known_wrong"])
    if figure["reveals"]:
        assert words == f"{mistake['name']}: {mistake['cause']}"
    else:
        assert words is None                # the mistake leaves this figure right


@pytest.mark.parametrize(("mistake", "figure"), [p for p in FIGURES if "printed" in p.values[1]])
def test_a_known_wrong_figure_is_recognized_as_it_is_printed_and_in_float32(mistake, figure):
    where = figure["case"], figure["what"]
    for value in (figure["printed"], np.float32(figure["wrong"])):
        words = stepwise.diagnose(*where, value, PACK["known_wrong"])
        assert (words is not None) == figure["reveals"]
        assert words is None or words.startswith(mistake["name"])


@pytest.mark.parametrize(("case_id", "check"), CHECKS)
def test_a_right_figure_is_never_taken_for_a_mistake(case_id, check):
    if "expected" in check:
        assert stepwise.diagnose(case_id, check["what"], check["expected"],
                                 PACK["known_wrong"]) is None


@pytest.mark.parametrize("case_id", ["S4", "S5"])
def test_the_exercises_class_draws_the_weights_of_the_pack(case_id):
    before = np.random.get_state()
    np.random.seed(42)
    layer = stepwise.Conv2D(3, 8, kernel_size=3, stride=1, padding=1)
    np.random.set_state(before)
    drawn = draw(CASES[case_id]["inputs"])
    assert np.array_equal(layer.W, drawn["W"])
    assert np.array_equal(layer.b, drawn["b"])


def planted(mistake):
    """The steps by hand, with one of the known mistakes made on purpose."""
    def form(op, arrays, params):
        if mistake == "F1" and op == "conv_single_step":
            window, W, b = arrays["a_slice_prev"], arrays["W"], arrays["b"]
            return (np.sum(window * W + b),)
        if mistake == "F1" and op == "conv_forward":
            window_size = int(np.prod(arrays["W"].shape[:3]))
            return by_hand(op, arrays | {"b": arrays["b"] * window_size}, params)
        if mistake == "F2" and op == "conv_backward":
            return backward_without_stride(**arrays, **params)
        return by_hand(op, arrays, params)
    return form


def backward_without_stride(dZ, A_prev, W, b, stride, pad):
    """Windows at (h, w) instead of (h·stride, w·stride)."""
    del stride
    _, height, width, _ = A_prev.shape
    f = W.shape[0]
    A_pad = np.pad(A_prev, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    dA_pad, dW = np.zeros_like(A_pad), np.zeros_like(W)
    for n, h, w, c in np.ndindex(*dZ.shape):
        dA_pad[n, h:h + f, w:w + f] += W[:, :, :, c] * dZ[n, h, w, c]
        dW[:, :, :, c] += A_pad[n, h:h + f, w:w + f] * dZ[n, h, w, c]
    db = dZ.sum((0, 1, 2)).reshape(b.shape)
    return dA_pad[:, pad:pad + height, pad:pad + width], dW, db


@pytest.mark.parametrize(("mistake", "case_ids", "words"), [
    ("F1", ("C2", "C3", "C5"), "the bias is added inside the window sum"),
    ("F2", ("C4", "C5b"), "the backward pass ignores the stride"),
])
def test_a_planted_mistake_is_reported_with_its_name(mistake, case_ids, words):
    form = planted(mistake)
    for case_id in case_ids:
        values = run(case_id, form)
        found = [complaint(case_id, check, figure_of(check, values))
                 for check in CASES[case_id]["checks"]]
        assert any(words in problem for problem in found if problem)
