"""Derivatives of functions, against closed forms in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import Tensor, transforms
from tinygrad_cnn.transforms import grad, hessian, jacobian, jvp, value_and_grad, vjp

RNG = np.random.default_rng(0)
A, X, Y = RNG.normal(size=(4, 3)), RNG.normal(size=3), RNG.normal(size=3)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


# ---- value_and_grad and grad ---------------------------------------------------------------------

def test_value_and_grad_of_a_quadratic_form():
    value, gradient = value_and_grad(lambda x: ((A @ x) ** 2).sum())(X)
    assert value.item() == pytest.approx(X @ A.T @ A @ X)
    np.testing.assert_allclose(gradient.data, 2 * A.T @ A @ X)


@pytest.mark.parametrize("argnums, expected", [
    (0, Y), (1, X + 2 * Y), (-1, X + 2 * Y), ((1, 0), (X + 2 * Y, Y)), ([0], (Y,)),
])
def test_argnums_names_the_arguments_to_differentiate(argnums, expected):
    found = grad(lambda x, y: (x * y + y * y).sum(), argnums)(X, Y)
    if isinstance(argnums, int):
        found, expected = (found,), (expected,)
    assert len(found) == len(expected)
    for g, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(g.data, e)


def test_settings_are_passed_on():
    f = grad(lambda x, *, factor: (x * factor).sum())
    np.testing.assert_array_equal(f(X, factor=3.0).data, np.full(3, 3.0))


def test_an_argument_that_is_not_used_has_gradient_zero():
    found = grad(lambda x, y: y.sum())(X, Tensor(Y))
    np.testing.assert_array_equal(found.data, np.zeros(3))


def test_a_function_that_uses_no_tensor_has_gradient_zero():
    value, gradient = value_and_grad(lambda x: Tensor(np.array(5.0)))(X)
    assert value.item() == 5
    np.testing.assert_array_equal(gradient.data, np.zeros(3))


def test_the_same_tensor_passed_twice_is_two_arguments():
    x = Tensor(X)
    for g, expected in zip(grad(lambda a, b: (a * a * b).sum(), (0, 1))(x, x), (2 * X * X, X * X),
                           strict=True):
        np.testing.assert_allclose(g.data, expected)


def test_grad_of_grad_gives_every_order():
    def power(x):
        return x * x * x * x * x
    f, x = power, Tensor(np.array(2.0))
    for expected in (80, 160, 240, 240, 120, 0):
        f = grad(f)
        assert f(x).item() == expected


def test_nothing_touches_grad_and_nothing_is_kept():
    x = Tensor(X, requires_grad=True)
    value_and_grad(lambda x: (x * x).sum())(x)
    vjp(lambda x: x * x, x)[1](np.ones(3))
    jvp(lambda x: x * x, [x], [Y])
    assert x.grad is None


def test_transforms_record_within_no_grad():
    with tc.no_grad():
        np.testing.assert_allclose(grad(lambda x: (x * x).sum())(X).data, 2 * X)
        np.testing.assert_allclose(jvp(lambda x: x * x, [X], [Y])[1].data, 2 * X * Y)
        np.testing.assert_allclose(jacobian(lambda x: x * x)(X).data, np.diag(2 * X))


def test_a_gradient_can_be_part_of_a_loss():
    # d/dx Σ (∇ Σ x³)² = d/dx Σ 9 x⁴ = 36 x³
    x = Tensor(X, requires_grad=True)
    (grad(lambda x: (x * x * x).sum())(x) ** 2).sum().backward()
    np.testing.assert_allclose(x.grad.data, 36 * X ** 3)


# ---- vjp and jvp ---------------------------------------------------------------------------------

def test_vjp_pulls_a_cotangent_back_to_every_input():
    ct = np.array([1.0, -2.0, 0.5])
    value, pull = vjp(lambda x, y: x * tc.exp(y), X, Y)
    np.testing.assert_allclose(value.data, X * np.exp(Y))
    for _ in range(2):                                      # may be called repeatedly
        to_x, to_y = pull(ct)
        np.testing.assert_allclose(to_x.data, ct * np.exp(Y))
        np.testing.assert_allclose(to_y.data, ct * X * np.exp(Y))


def test_jvp_pushes_tangents_of_every_input_forward():
    u, v = np.array([1.0, 2.0, 3.0]), np.array([0.5, -1.0, 0.0])
    value, derivative = jvp(lambda x, y: x * tc.exp(y), [X, Y], [u, v])
    np.testing.assert_allclose(value.data, X * np.exp(Y))
    np.testing.assert_allclose(derivative.data, u * np.exp(Y) + v * X * np.exp(Y))


def test_jvp_and_vjp_are_adjoint_through_a_network():
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(2, 6, 6, 2)), rng.normal(size=(3, 3, 2, 3))

    def f(x, w):
        return tc.softmax(tc.global_avg_pool2d(tc.gelu(tc.conv2d(x, w, padding="same"))))

    u, v = rng.normal(size=x.shape), rng.normal(size=w.shape)
    value, pushed = jvp(f, [x, w], [u, v])
    ct = rng.normal(size=value.shape)
    pulled = vjp(f, x, w)[1](ct)
    assert np.sum(ct * pushed.data) == pytest.approx(
        np.sum(pulled[0].data * u) + np.sum(pulled[1].data * v))


@pytest.mark.parametrize("f", [lambda x: x * 0.0 + 1.0, lambda x: Tensor(np.ones(3))],
                         ids=["flat", "not connected"])
def test_the_derivative_of_a_constant_is_zero(f):
    np.testing.assert_array_equal(jvp(f, [X], [Y])[1].data, np.zeros(3))
    np.testing.assert_array_equal(vjp(f, X)[1](np.ones(3))[0].data, np.zeros(3))
    np.testing.assert_array_equal(jacobian(f)(X).data, np.zeros((3, 3)))


def test_a_linear_function_is_its_own_derivative():
    np.testing.assert_allclose(jvp(lambda x: A @ x, [X], [Y])[1].data, A @ Y)


# ---- jacobian and hessian ------------------------------------------------------------------------

def test_the_jacobian_of_a_linear_function_is_its_matrix():
    np.testing.assert_allclose(jacobian(lambda x: A @ x)(X).data, A)


def test_the_jacobian_of_softmax():
    p = softmax(X)
    np.testing.assert_allclose(jacobian(tc.softmax)(X).data, np.diag(p) - np.outer(p, p))


def test_a_jacobian_has_the_axes_of_the_output_and_then_those_of_the_input():
    x = RNG.normal(size=(2, 3))
    found = jacobian(lambda x: x @ np.ones((3, 4)))(x)
    assert found.shape == (2, 4, 2, 3)
    np.testing.assert_allclose(found.data, np.einsum("ij,lk->ikjl", np.eye(2), np.ones((3, 4))))


def test_the_jacobian_of_another_argument():
    np.testing.assert_allclose(jacobian(lambda x, y: x * y, 1)(X, Y).data, np.diag(X))


def test_an_output_without_entries_has_a_jacobian_without_rows():
    assert jacobian(lambda x: x[:0])(X).shape == (0, 3)


def test_the_hessian_of_a_quadratic_form_is_its_symmetric_matrix():
    np.testing.assert_allclose(hessian(lambda x: ((A @ x) ** 2).sum())(X).data, 2 * A.T @ A)


def test_the_hessian_of_logsumexp_is_the_jacobian_of_softmax():
    p = softmax(X)
    np.testing.assert_allclose(hessian(tc.logsumexp)(X).data, np.diag(p) - np.outer(p, p))


def test_the_hessian_of_a_product():
    expected = np.zeros((2, 2, 2, 2))
    expected[0, 0, 1, 1] = expected[1, 1, 0, 0] = 1         # of x00 · x11 − x01 · x10
    expected[0, 1, 1, 0] = expected[1, 0, 0, 1] = -1
    found = hessian(lambda x: x[0, 0] * x[1, 1] - x[0, 1] * x[1, 0])(RNG.normal(size=(2, 2)))
    np.testing.assert_allclose(found.data, expected)


def test_a_hessian_vector_product_by_three_ways():
    def f(x):
        return tc.exp(A @ x).sum()
    exact = A.T @ (np.exp(A @ X) * (A @ Y))
    np.testing.assert_allclose(hessian(f)(X).data @ Y, exact)
    np.testing.assert_allclose(jvp(grad(f), [X], [Y])[1].data, exact)       # forward over reverse
    np.testing.assert_allclose(vjp(grad(f), X)[1](Y)[0].data, exact)        # reverse over reverse


def test_float32_stays_float32():
    x = X.astype(np.float32)
    f = lambda x: (x * x * x).sum()
    for found in (grad(f)(x), hessian(f)(x), jvp(f, [x], [np.ones(3)])[1],
                  vjp(f, x)[1](np.float32(1.0))[0], jacobian(lambda x: x * x)(x)):
        assert found.dtype == np.float32


# ---- refusals ------------------------------------------------------------------------------------

@pytest.mark.parametrize("call, error, words", [
    (lambda: grad(lambda x: x * x)(X), tc.ShapeError, "returned shape .3,., expected one element"),
    (lambda: hessian(lambda x: x * x)(X), tc.ShapeError, "expected one element"),
    (lambda: grad(lambda x: 3.0)(X), tc.GradientError, "returned float, expected a Tensor"),
    (lambda: vjp(lambda x: x.numpy(), X), tc.GradientError, "vjp: the function returned ndarray"),
    (lambda: grad(lambda x: x.sum(), 1)(X), tc.SettingError, "argnums names argument 1, .* got 1"),
    (lambda: jacobian(lambda x: x, -2)(X), tc.SettingError, "jacobian: argnums names argument -2"),
    (lambda: vjp(lambda x: x * x, X)[1](np.ones(4)), tc.ShapeError, "gradient has shape .4,."),
    (lambda: jvp(lambda x: x * x, [X], [Y, Y]), tc.ShapeError, "jvp: 1 inputs but 2 tangents"),
    (lambda: jvp(lambda x: x * x, [X], [np.ones(4)]), tc.ShapeError,
     "jvp: tangent 0 has shape .4,., its input .3,."),
    (lambda: grad(lambda x: x.sum())(np.ones(3, int)), tc.DTypeError, "cannot require a gradient"),
])
def test_a_misuse_is_answered_in_words(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("name", transforms.__all__)
def test_a_tensor_in_place_of_a_function_is_refused_with_the_cure(name):
    y = Tensor([1.0], requires_grad=True) * 2
    words = rf"{name}: f must be a function .*, got Tensor; .* is tinygrad_cnn.grad\(y, \[x\]\)"
    with pytest.raises(tc.SettingError, match=words):
        getattr(transforms, name)(y, *[[1.0]] * (2 if name == "jvp" else 1))
