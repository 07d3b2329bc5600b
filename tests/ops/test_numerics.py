"""Activations and losses to the ends of the number line, against 50 digits.

Value and gradient of every op of the families activation and loss, and of every public loss, at
±{0, 1e-30, ..., 1e38, ∞}, in both precisions: the error is at most 4 units in the last place of the
true result, and limits are exact.  Nothing here knows the list of functions: one that is added
without a reference fails.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import OPS, Tensor, grad
from tinygrad_cnn.ops import activation, loss

mpmath = pytest.importorskip("mpmath", reason="the reference needs the extra dev")
mp = mpmath.mp
mp.dps = 50
mpf, inf = mpmath.mpf, float("inf")

POSITIVE = (0.0, 1e-30, 1e-8, 10.0, 20.0, 50.0, 88.0, 104.0, 1e3, 1e10, 1e19, 1e38, inf)
POINTS = (*(-p for p in POSITIVE), *POSITIVE)
MOST = 4.0                                      # units in the last place
SLOPE, ALPHA, A = mpf("0.01"), mpf("1.0"), mpf("0.044715")


# ---- references, in forms that cancel nowhere; each gives (value, slope) -------------------------

def logistic(x):
    return 1 / (1 + mp.exp(-x))


def relu(x):
    return (x, 1) if x > 0 else (0, 0)


def leaky_relu(x):
    return (x, 1) if x > 0 else (SLOPE * x, SLOPE)


def elu(x):
    return (x, 1) if x > 0 else (ALPHA * mp.expm1(x), ALPHA * mp.exp(x))


def tanh(x):
    return mp.tanh(x), 4 * logistic(2 * x) * logistic(-2 * x)


def sigmoid(x):
    return logistic(x), logistic(x) * logistic(-x)


def softplus(x):
    return (x if x > 0 else 0) + mp.log1p(mp.exp(-abs(x))), logistic(x)


def log_sigmoid(x):
    return -softplus(-x)[0], logistic(-x)


def silu(x):
    if abs(x) == inf:
        return (x, 1) if x > 0 else (0, 0)
    return x * logistic(x), logistic(x) * (1 + x * logistic(-x))


def gelu(x):
    if abs(x) == inf:
        return (x, 1) if x > 0 else (0, 0)
    phi = mp.erfc(-x / mp.sqrt(2)) / 2
    return x * phi, phi + x * mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


def gelu_tanh(x):
    if abs(x) == inf:
        return (x, 1) if x > 0 else (0, 0)
    c = 2 * mp.sqrt(2 / mp.pi)
    v = c * (x + A * x**3)
    s = logistic(v)
    return x * s, s * (1 + x * logistic(-v) * c * (1 + 3 * A * x**2))


def clipped(x, low, high):
    return (x, 1) if low <= x <= high else (mpf(low if x < low else high), 0)


def hard_swish(x):
    if not -3 < x < 3:
        return (x, 1) if x > 0 else (0, 0)
    return x * (x + 3) / 6, (2 * x + 3) / 6


def mish(x):
    if abs(x) == inf:
        return (x, 1) if x > 0 else (0, 0)
    s = softplus(x)[0]
    t = mp.tanh(s)
    return x * t, t + x * mp.sech(s) ** 2 * logistic(x)


SELU = mpf("1.6732632423543772848170429916717")
LAMBDA = mpf("1.0507009873554804934193349852946")


def two_classes(x, label, *, own=(1, 1), even=0):
    """Loss and slopes of cross-entropy for the scores (x, 0) and targets ``own`` at the label."""
    p = (logistic(x), logistic(-x))
    log_p = (log_sigmoid(x)[0], log_sigmoid(-x)[0])
    target = [mpf(even) + (own[k] if k == label else 0) for k in range(2)]
    value = -sum(t * q for t, q in zip(target, log_p, strict=True) if t)
    first = p[0] * target[1] - p[1] * target[0]
    return value, first, -first


def row(x):
    """Scores (x, 0) for each point."""
    return tc.stack([x, Tensor(np.zeros(x.shape, x.dtype))], axis=-1)


# Name -> (function of a tensor of points, reference of one point); the gradient is that of the sum.
ELEMENTWISE = {
    "relu": (tc.relu, relu),
    "leaky_relu": (tc.leaky_relu, leaky_relu),
    "elu": (tc.elu, elu),
    "tanh": (tc.tanh, tanh),
    "sigmoid": (tc.sigmoid, sigmoid),
    "softplus": (tc.softplus, softplus),
    "silu": (tc.silu, silu),
    "gelu": (tc.gelu, gelu),
    "gelu, tanh": (lambda x: tc.gelu(x, approximate="tanh"), gelu_tanh),
    "softsign": (tc.softsign, lambda x: (x / (1 + abs(x)) if abs(x) < inf else mp.sign(x),
                                         1 / (1 + abs(x)) ** 2)),
    "glu": (lambda x: tc.glu(tc.stack([Tensor(np.ones(x.shape, x.dtype)), x], axis=-1))[:, 0],
            sigmoid),
    "prelu": (lambda x: tc.prelu(x, Tensor(np.asarray(0.25, x.dtype))),
              lambda x: (x, 1) if x > 0 else (x / 4, mpf("0.25"))),
    "relu6": (tc.relu6, lambda x: clipped(x, 0, 6)),
    "hard_tanh": (tc.hard_tanh, lambda x: clipped(x, -1, 1)),
    "hard_sigmoid": (tc.hard_sigmoid, lambda x: (clipped(x + 3, 0, 6)[0] / 6,
                                                 clipped(x + 3, 0, 6)[1] / mpf(6))),
    "hard_swish": (tc.hard_swish, hard_swish),
    "selu": (tc.selu, lambda x: [LAMBDA * (mpf(v)) for v in (
        (x, 1) if x > 0 else (SELU * mp.expm1(x), SELU * mp.exp(x)))]),
    "celu": (lambda x: tc.celu(x, alpha=0.5), lambda x: (x, 1) if x > 0 else (
        mp.expm1(2 * x) / 2, mp.exp(2 * x))),
    "mish": (tc.mish, mish),
    "log_sigmoid": (tc.log_sigmoid, log_sigmoid),
    "softmin": (lambda x: tc.softmin(row(x))[:, 0],
                lambda x: (logistic(-x), -logistic(x) * logistic(-x))),
    "softmax": (lambda x: tc.softmax(row(x))[:, 0], sigmoid),
    "softmax, the other class": (lambda x: tc.softmax(row(x))[:, 1],
                                 lambda x: (logistic(-x), -logistic(x) * logistic(-x))),
    "log_softmax": (lambda x: tc.log_softmax(row(x))[:, 0], log_sigmoid),
    "log_softmax, the other class": (
        lambda x: tc.log_softmax(row(x))[:, 1],
        lambda x: (-softplus(x)[0], -logistic(x))),
    "logsumexp": (lambda x: tc.logsumexp(row(x), axis=1), softplus),
    "-softplus(-x)": (lambda x: -tc.softplus(-x), log_sigmoid),
    "cross_entropy": (
        lambda x: tc.cross_entropy(row(x), np.zeros(len(x), int), reduction="none"),
        lambda x: two_classes(x, 0)[:2]),
    "cross_entropy, the wrong class": (
        lambda x: tc.cross_entropy(row(x), np.ones(len(x), int), reduction="none"),
        lambda x: two_classes(x, 1)[:2]),
    "cross_entropy, one-hot rows": (
        lambda x: tc.cross_entropy(row(x), np.eye(2)[np.zeros(len(x), int)], reduction="none"),
        lambda x: two_classes(x, 0)[:2]),
    "cross_entropy, weighted": (
        lambda x: tc.cross_entropy(row(x), np.zeros(len(x), int), weight=[0.5, 3.0],
                                   reduction="none"),
        lambda x: two_classes(x, 0, own=(mpf("0.5"), 3))[:2]),
    "cross_entropy, smoothed": (
        lambda x: tc.cross_entropy(row(x), np.zeros(len(x), int), label_smoothing=0.25,
                                   reduction="none"),
        lambda x: two_classes(x, 0, own=(mpf("0.75"), 0), even=mpf("0.125"))[:2]),
    "nll_loss": (lambda x: tc.nll_loss(row(x), np.zeros(len(x), int), reduction="none"),
                 lambda x: (-x, -1)),
    "binary_cross_entropy_with_logits": (
        lambda x: tc.binary_cross_entropy_with_logits(x, np.ones(x.shape), reduction="none"),
        lambda x: (softplus(-x)[0], -logistic(-x))),
    "binary_cross_entropy_with_logits, label 0": (
        lambda x: tc.binary_cross_entropy_with_logits(x, np.zeros(x.shape), reduction="none"),
        softplus),
    "binary_cross_entropy_with_logits, label 0.25": (
        lambda x: tc.binary_cross_entropy_with_logits(x, np.full(x.shape, 0.25), reduction="none"),
        lambda x: (softplus(-x)[0] / 4 + softplus(x)[0] * mpf("0.75"),
                   logistic(x) * mpf("0.75") - logistic(-x) / 4)),
    "mse_loss": (lambda x: tc.mse_loss(x, np.full(x.shape, 0.5, x.dtype), reduction="none"),
                 lambda x: ((x - mpf("0.5"))**2, 2 * (x - mpf("0.5")))),
}


def ulps(got, true):
    """How far a float is from a number of 50 digits, in units of that number's last place."""
    kind = got.dtype.type
    if mpmath.isinf(true) or abs(true) > mpf(float(np.finfo(kind).max)):
        return 0.0 if got == (kind(inf) if true > 0 else -kind(inf)) else inf
    if not np.isfinite(got):
        return inf
    nearest = kind(mpmath.nstr(true, 40))
    unit = mpf(float(np.spacing(np.abs(nearest))))
    return float(abs(mpf(float(got)) - true) / unit)


def measured(name, dtype):
    """The worst errors of value and gradient, each with the point."""
    f, reference = ELEMENTWISE[name]
    points = np.array(POINTS, dtype)
    x = Tensor(points, requires_grad=True)
    with np.errstate(over="ignore"):            # where the true result overflows, too
        y = f(x)
        slope, = grad(y, [x], Tensor(np.ones_like(points)))
    found = []
    for got, k in ((y.data, 0), (slope.data, 1)):
        assert got.dtype == dtype
        errors = [(ulps(g, mpf(reference(mpf(float(p)))[k])), float(p))
                  for g, p in zip(got, points, strict=True)]
        found.append(max(errors))
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_error_is_at_most_4_units_in_the_last_place(name, dtype):
    for what, (error, point) in zip(("value", "gradient"), measured(name, dtype), strict=True):
        assert error <= MOST, f"the {what} at {point} is off by {error} ulp"


def test_every_activation_and_every_loss_has_a_reference():
    names = {*activation.__all__, *loss.__all__,
             *(op.name for op in OPS.values()
               if op.family in ("activation", "loss") and hasattr(tc, op.name))}
    assert names <= set(ELEMENTWISE)


# ---- the table of docs/conventions.md ------------------------------------------------------------

PAGE = Path(tc.__file__).parents[1] / "docs" / "conventions.md"


def rows_of_the_page():
    text = PAGE.read_text(encoding="utf-8")
    figure = r" ([\d.]+) \|"
    found = re.findall(rf"^\| `([\w()-]+)` \|{figure * 4}$", text,
                       re.MULTILINE)
    return {name: list(map(float, numbers)) for name, *numbers in found}


def worst():
    """Name of the function -> worst error of value and gradient in float32, and in float64."""
    found = {}
    for name in ELEMENTWISE:
        errors = [e for dtype in (np.float32, np.float64) for e, _ in measured(name, dtype)]
        plain = name.partition(",")[0]
        found[plain] = [max(a, b) for a, b in zip(errors, found.get(plain, errors), strict=True)]
    return found


def test_the_page_of_conventions_lists_the_worst_errors():
    page, found = rows_of_the_page(), worst()
    assert set(page) == set(found)
    for name, errors in found.items():
        # Exponentials of other processors are off by other fractions.
        assert max(page[name]) <= MOST
        assert all(error <= min(most + 1, MOST)
                   for error, most in zip(errors, page[name], strict=True)), (name, errors)
