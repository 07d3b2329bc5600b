"""Every optimizer against numbers computed by hand and against its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import optim
from tinygrad_cnn.optim import optimizer as engine


def moved(make, gradients, start=1.0, dtype=np.float64):
    """Where one weight stands after each step, given the gradients."""
    w = tc.Parameter(np.array([start], dtype))
    optimizer, places = make([w]), []
    for g in gradients:
        w.grad = tc.Tensor(np.array([g], dtype))
        optimizer.step()
        places.append(w.data.item())
    return places


@pytest.mark.parametrize("make, expected", [
    (lambda p: optim.SGD(p, 0.1), [0.8, 0.4]),
    # v = 2, then 0.5 · 2 + 4 = 5.
    (lambda p: optim.SGD(p, 0.1, momentum=0.5), [0.8, 0.3]),
    # 2 + 0.5 · 2 = 3; then v = 5 and 4 + 0.5 · 5 = 6.5.
    (lambda p: optim.SGD(p, 0.1, momentum=0.5, nesterov=True), [0.7, 0.05]),
    # 2 + 0.5 · 1; 4 + 0.5 · 0.75.
    (lambda p: optim.SGD(p, 0.1, weight_decay=0.5), [0.75, 0.3125]),
    # Means 2 and (0.5·0.5·2 + 0.5·4) / 0.75 = 10/3; squares 4 and (0.75·0.25·4 + 0.25·16) / 0.4375.
    (lambda p: optim.Adam(p, 0.1, betas=(0.5, 0.75), eps=0.0),
     [0.9, 0.9 - 0.1 * (10 / 3) / math.sqrt(4.75 / 0.4375)]),
    (lambda p: optim.AdamW(p, 0.1, betas=(0.5, 0.75), eps=0.0, weight_decay=0.5),
     [0.85, 0.85 * 0.95 - 0.1 * (10 / 3) / math.sqrt(4.75 / 0.4375)]),
    # Squares 0.25 · 4 = 1 and 0.75 · 1 + 0.25 · 16 = 4.75.
    (lambda p: optim.RMSprop(p, 0.1, alpha=0.75, eps=0.0), [0.8, 0.8 - 0.4 / math.sqrt(4.75)]),
    # With eps 1 the roots are 2 and √4.75 + 1, and the second step keeps half of the first.
    (lambda p: optim.RMSprop(p, 0.1, alpha=0.75, eps=1.0, momentum=0.5),
     [0.9, 0.9 - 0.1 * (0.5 + 4 / (math.sqrt(4.75) + 1))]),
    # Means 0.5 and 0.75 · 0.5 + 1 = 1.375: variances 0.75 and 4.75 − 1.890625.
    (lambda p: optim.RMSprop(p, 0.1, alpha=0.75, eps=0.0, centered=True),
     [1 - 0.2 / math.sqrt(0.75), 1 - 0.2 / math.sqrt(0.75) - 0.4 / math.sqrt(2.859375)]),
    # Sums 4 and 20; the second rate is 0.1 / 1.5.
    # The first step is not dampened: v = 2, then 0.5 · 2 + 0.75 · 4 = 4.
    (lambda p: optim.SGD(p, 0.1, momentum=0.5, dampening=0.25), [0.8, 0.4]),
    # Signs of 0.5 · 2 and of 0.5 · 1 + 0.5 · 4.
    (lambda p: optim.Lion(p, 0.1, (0.5, 0.5), weight_decay=1.0), [0.8, 0.62]),
    (lambda p: optim.Adagrad(p, 0.1, lr_decay=0.5, eps=0.0),
     [0.9, 0.9 - 0.1 / 1.5 * 4 / math.sqrt(20)]),
])
def test_two_steps_by_hand(make, expected):
    assert moved(make, [2.0, 4.0]) == pytest.approx(expected, abs=1e-12)


def test_adam_takes_eps_as_its_formula_does():
    # m̂ = 2 and v̂ = 4 at the first step, whatever the betas: 1 − 0.1 · 2 / (2 + 0.5).
    for betas in ((0.9, 0.999), (0.5, 0.0), (0.0, 0.5)):
        assert moved(lambda p, betas=betas: optim.Adam(p, 0.1, betas=betas, eps=0.5),
                     [2.0]) == pytest.approx([0.92])


def test_adam_decays_through_its_averages_but_adamw_does_not():
    # At the first step Adam moves by lr whatever the size of the gradient, decay included.
    assert moved(lambda p: optim.Adam(p, 0.1, weight_decay=10.0), [2.0]) == pytest.approx([0.9])
    assert moved(lambda p: optim.AdamW(p, 0.1, weight_decay=2.0), [2.0]) == pytest.approx([0.7])


def amsgrad(t, g, s, lr=0.1, beta=(0.5, 0.75), eps=0.25):
    s["m"], s["v"] = beta[0] * s["m"] + (1 - beta[0]) * g, beta[1] * s["v"] + (1 - beta[1]) * g * g
    s["most"] = max(s["most"], s["v"])
    return lr * s["m"] / (1 - beta[0] ** t) / (math.sqrt(s["most"] / (1 - beta[1] ** t)) + eps)


def nadam(t, g, s, lr=0.1, beta=(0.5, 0.75), decay=2.0, eps=0.25):
    s["m"], s["v"] = beta[0] * s["m"] + (1 - beta[0]) * g, beta[1] * s["v"] + (1 - beta[1]) * g * g
    now, ahead = (beta[0] * (1 - 0.96 ** (i * decay) / 2) for i in (t, t + 1))
    s["left"] = (s["left"] or 1.0) * now
    mean = ahead * s["m"] / (1 - s["left"] * ahead) + (1 - now) * g / (1 - s["left"])
    return lr * mean / (math.sqrt(s["v"] / (1 - beta[1] ** t)) + eps)


def radam(t, g, s, lr=0.1, beta=(0.5, 0.9)):
    s["m"], s["v"] = beta[0] * s["m"] + (1 - beta[0]) * g, beta[1] * s["v"] + (1 - beta[1]) * g * g
    mean, most = s["m"] / (1 - beta[0] ** t), 2 / (1 - beta[1]) - 1
    n = most - 2 * t * beta[1] ** t / (1 - beta[1] ** t)
    if n <= 5:
        return lr * mean
    r = math.sqrt((n - 4) * (n - 2) * most / ((most - 4) * (most - 2) * n))
    return lr * r * mean / math.sqrt(s["v"] / (1 - beta[1] ** t))


def adadelta(t, g, s, lr=0.5, rho=0.75, eps=0.25):
    s["v"] = rho * s["v"] + (1 - rho) * g * g
    move = g * math.sqrt(s["u"] + eps) / math.sqrt(s["v"] + eps)
    s["u"] = rho * s["u"] + (1 - rho) * move * move
    return lr * move


@pytest.mark.parametrize("formula, make", [
    (amsgrad, lambda p: optim.Adam(p, 0.1, (0.5, 0.75), 0.25, amsgrad=True)),
    (nadam, lambda p: optim.NAdam(p, 0.1, (0.5, 0.75), 0.25, momentum_decay=2.0)),
    (radam, lambda p: optim.RAdam(p, 0.1, (0.5, 0.9), eps=0.0)),
    (adadelta, lambda p: optim.Adadelta(p, 0.5, 0.75, 0.25))])
def test_steps_are_those_of_the_formula(formula, make):
    gradients, w, expected = [4.0, -2.0, 1.0, 3.0, -1.0, 0.5, 2.0, -3.0, 1.5], 1.0, []
    state = dict.fromkeys(("m", "v", "u", "most", "left"), 0.0)
    for t, g in enumerate(gradients, 1):
        w -= formula(t, g, state)
        expected.append(w)
    assert moved(make, gradients) == pytest.approx(expected, rel=1e-12)


RULES = {
    "SGD": lambda p: optim.SGD(p, 0.02),
    "SGD, momentum and decay": lambda p: optim.SGD(p, 0.02, momentum=0.9, weight_decay=0.1),
    "SGD, Nesterov": lambda p: optim.SGD(p, 0.02, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": optim.Adam,
    "Adam with decay": lambda p: optim.Adam(p, 0.01, betas=(0.8, 0.9), weight_decay=0.1),
    "AdamW": optim.AdamW,
    "AdamW with decay": lambda p: optim.AdamW(p, 0.01, eps=1e-3, weight_decay=0.3),
    "RMSprop": optim.RMSprop,
    "RMSprop, everything": lambda p: optim.RMSprop(p, 0.005, alpha=0.9, momentum=0.9,
                                                   centered=True, weight_decay=0.1),
    "Adagrad": optim.Adagrad,
    "SGD, dampened": lambda p: optim.SGD(p, 0.02, 0.9, 0.5),
    "Adam, amsgrad": lambda p: optim.Adam(p, amsgrad=True), "NAdam": optim.NAdam,
    "RAdam": optim.RAdam, "Adadelta": optim.Adadelta,
    "Lion": lambda p: optim.Lion(p, weight_decay=0.1),
    "Adagrad, falling": lambda p: optim.Adagrad(p, 0.1, lr_decay=0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("name", RULES)
def test_large_and_strided_parameters_move_like_small_ones(name, monkeypatch):
    make = RULES[name]
    rng = np.random.default_rng(0)
    w0, grads = rng.normal(size=(40, 30)), [rng.normal(size=(40, 30)) for _ in range(3)]

    def run(parameter):
        optimizer = make([parameter])
        for g in grads:
            parameter.grad = tc.Tensor(g)
            optimizer.step()
        return parameter.data.copy()

    whole = run(tc.Parameter(w0))
    strided = tc.Parameter(w0)
    strided.data = np.asfortranarray(w0)
    assert np.array_equal(run(strided), whole)
    monkeypatch.setattr(engine, "_BLOCK", 64)           # 1,200 entries: 18 blocks and a rest
    assert np.array_equal(run(tc.Parameter(w0)), whole)


@pytest.mark.parametrize("name", RULES)
def test_a_step_works_in_place_and_only_reads_the_gradient(name):
    w = tc.Parameter(np.ones((3, 3)))
    array, g = w.data, np.full((3, 3), 2.0)
    g.flags.writeable = False
    w.grad = tc.Tensor(g)
    RULES[name]([w]).step()
    assert w.data is array
    assert (g == 2).all()
    assert (array < 1).all()


@pytest.mark.parametrize("name", RULES)
def test_a_quadratic_bowl_is_descended(name):
    w = tc.Parameter(np.array([3.0, -2.0]))
    optimizer = RULES[name]([w])
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_centred_rmsprop_survives_a_constant_gradient():
    # The variance is 0 but for rounding, which must not go below it.
    places = moved(lambda p: optim.RMSprop(p, 1e-6, centered=True), [0.1] * 200, dtype=np.float32)
    assert np.isfinite(places).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-2), (np.float64, 1e-9)])
def test_a_centered_rmsprop_knows_the_deviation_of_a_large_gradient(dtype, tolerance):
    """Of gradients of 1e4 ± 0.1, of which a difference of squares would lose the 0.1 in float32."""
    w = tc.Parameter(np.zeros(1, dtype))
    optimizer = optim.RMSprop([w], lr=1.0, alpha=0.5, centered=True)
    mean = variance = 0.0
    for step in range(60):
        g = float(dtype(1e4 + 0.1 * (-1) ** step))
        variance = 0.5 * variance + 0.25 * (g - mean) ** 2
        mean += 0.5 * (g - mean)
        w.grad = tc.Tensor(np.full(1, g, dtype))
        w.data[...] = 0
        optimizer.step()
    assert -w.item() == pytest.approx(g / (variance ** 0.5 + 1e-8), rel=tolerance)
