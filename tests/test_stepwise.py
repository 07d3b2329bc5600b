"""The notebooks' steps one by one: hand-computed values, defects mended, and ties to the ops."""

import functools
import importlib.util
import inspect
import math
import re
from pathlib import Path

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import Tensor, errors, stepwise
from tinygrad_cnn.kernels import reference
from tinygrad_cnn.stepwise import (
    Conv2D,
    CrossEntropy,
    Dropout,
    Flatten,
    L2regularization,
    LeakyReLU,
    Linear,
    Maxpool2D,
    Model,
    MSELoss,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)

ROOT = Path(__file__).parents[1]
HYPER = {"stride": 1, "pad": 0}
TIES = np.array([[3.0, 3.0, 1.0], [0.0, 3.0, 2.0], [1.0, 2.0, 2.0]]).reshape(1, 3, 3, 1)


@pytest.fixture(autouse=True)
def legacy_stream():
    """Seed NumPy's global stream, which the notebooks draw from, and put it back afterwards."""
    before = np.random.get_state()
    np.random.seed(7)
    yield
    np.random.set_state(before)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def leaf(array):
    return Tensor(np.array(array, dtype=np.float64), requires_grad=True)


def same(found, expected):
    """Equal to rtol 1e-10; atol only keeps sums that cancel to nothing from failing."""
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13)


def slope(f, x, step=1e-6):
    """Gradient of a scalar function by central differences."""
    gradient = np.zeros_like(x)
    for at in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[at] += step
        down[at] -= step
        gradient[at] = (f(up) - f(down)) / (2 * step)
    return gradient


# ---- the first notebook: padding and convolution -------------------------------------------------

@pytest.mark.parametrize("pad", [0, 1, 3])
def test_zero_pad_surrounds_height_and_width_only(pad):
    X = normal(2, 3, 4, 5)
    padded = stepwise.zero_pad(X, pad)
    assert padded.shape == (2, 3 + 2 * pad, 4 + 2 * pad, 5)
    assert np.array_equal(padded[:, pad:pad + 3, pad:pad + 4], X)
    same(padded.sum(), X.sum())
    x = leaf(X)
    out = tc.pad(x, pad)
    assert np.array_equal(out.data, padded)
    ct = normal(*padded.shape, seed=1)
    out.backward(ct)
    inner = reference.remove_padding(ct, ((pad, pad), (pad, pad)), (3, 4))
    assert np.array_equal(x.grad.data, inner)


def test_zero_padding_is_the_exercises_name_for_zero_pad():
    assert stepwise.zero_padding is stepwise.zero_pad


def test_the_bias_of_a_single_step_is_added_once():
    window, W = np.full((2, 2, 3), 2.0), np.full((2, 2, 3), 0.5)
    Z = stepwise.conv_single_step(window, W, np.array([[[10.0]]]))
    assert Z == 22.0                        # 12 products of 1, and 10
    assert np.ndim(Z) == 0


def test_a_single_step_is_what_conv_forward_does_in_each_window():
    A, W, b = normal(2, 5, 6, 3), normal(2, 2, 3, 4, seed=1), normal(1, 1, 1, 4, seed=2)
    Z, _ = stepwise.conv_forward(A, W, b, {"stride": 2, "pad": 1})
    A_pad = stepwise.zero_pad(A, 1)
    for n, h, w, c in np.ndindex(*Z.shape):
        window = A_pad[n, 2 * h:2 * h + 2, 2 * w:2 * w + 2]
        assert Z[n, h, w, c] == stepwise.conv_single_step(window, W[..., c], b[..., c])


@pytest.mark.parametrize(("image", "f", "stride", "pad"), [
    ((4, 4), 2, 2, 2), ((5, 7), 3, 2, 1), ((5, 4), 3, 1, 0), ((3, 3), 1, 1, 0),
    ((6, 5), 2, 3, 0),                      # rows and columns are left over
])
def test_convolution_by_hand_and_by_backward_agree(image, f, stride, pad):
    A, W, b = normal(2, *image, 3), normal(f, f, 3, 4, seed=1), normal(1, 1, 1, 4, seed=2)
    Z, cache = stepwise.conv_forward(A, W, b, {"stride": stride, "pad": pad})
    dZ = normal(*Z.shape, seed=3)
    dA, dW, db = stepwise.conv_backward(dZ, cache)
    assert (dA.shape, dW.shape, db.shape) == (A.shape, W.shape, b.shape)
    x, w, bias = leaf(A), leaf(W), leaf(b.reshape(-1))
    z = tc.conv2d(x, w, bias, stride=stride, padding=pad)
    z.backward(dZ)
    same(z.data, Z)
    same(x.grad.data, dA)
    same(w.grad.data, dW)
    same(bias.grad.data.reshape(b.shape), db)


def test_conv_backward_is_the_slope_of_conv_forward():
    A, W, b = normal(1, 4, 5, 2), normal(2, 2, 2, 3, seed=1), normal(1, 1, 1, 3, seed=2)
    hyper = {"stride": 2, "pad": 1}
    Z, cache = stepwise.conv_forward(A, W, b, hyper)
    dZ = normal(*Z.shape, seed=3)

    def loss(A=A, W=W, b=b):
        return np.sum(stepwise.conv_forward(A, W, b, hyper)[0] * dZ)

    dA, dW, db = stepwise.conv_backward(dZ, cache)
    np.testing.assert_allclose(dA, slope(lambda v: loss(A=v), A), atol=1e-7)
    np.testing.assert_allclose(dW, slope(lambda v: loss(W=v), W), atol=1e-7)
    np.testing.assert_allclose(db, slope(lambda v: loss(b=v), b), atol=1e-7)


def test_rows_that_no_window_reaches_get_gradient_zero():
    A = normal(1, 5, 5, 1)
    Z, cache = stepwise.conv_forward(A, np.ones((2, 2, 1, 1)), np.zeros((1, 1, 1, 1)),
                                     {"stride": 2, "pad": 0})
    dA, _, _ = stepwise.conv_backward(np.ones_like(Z), cache)
    assert np.array_equal(dA[0, :, :, 0], np.pad(np.ones((4, 4)), ((0, 1), (0, 1))))


def test_the_cache_holds_the_primal_arrays_and_a_copy_of_the_settings():
    A, W, b, hyper = normal(1, 3, 3, 1), np.ones((2, 2, 1, 1)), np.zeros((1, 1, 1, 1)), dict(HYPER)
    Z, cache = stepwise.conv_forward(A, W, b, hyper)
    before = stepwise.conv_backward(np.ones_like(Z), cache)
    hyper["stride"] = 2
    after = stepwise.conv_backward(np.ones_like(Z), cache)
    assert cache[3] == HYPER
    assert all(np.array_equal(p, q) for p, q in zip(before, after, strict=True))
    assert np.array_equal(cache[0], A)
    assert np.array_equal(cache[1], W)
    pool_settings = {"f": 2, "stride": 1}
    _, pool_cache = stepwise.pool_forward(A, pool_settings)
    pool_settings["f"] = 3
    assert pool_cache[1] == {"f": 2, "stride": 1}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_keep_the_float_dtype_of_the_input(dtype):
    A, W, b = (a.astype(dtype) for a in (normal(1, 4, 4, 2), normal(3, 3, 2, 3),
                                         normal(1, 1, 1, 3)))
    Z, cache = stepwise.conv_forward(A, W, b, {"stride": 1, "pad": 1})
    P, pool_cache = stepwise.pool_forward(Z, {"f": 2, "stride": 2}, mode="average")
    results = [stepwise.zero_pad(A, 1), Z, P, *stepwise.conv_backward(Z, cache),
               stepwise.pool_backward(P, pool_cache, mode="average"),
               stepwise.pool_backward(P, pool_cache), stepwise.relu_forward(Z)[0],
               stepwise.softmax_forward(Z[0, 0])[0], LeakyReLU()(Z), Tanh()(Z), Sigmoid()(Z)]
    assert {r.dtype for r in results} == {np.dtype(dtype)}


def test_integers_are_read_as_float64():
    assert stepwise.zero_pad(np.ones((1, 2, 2, 1), dtype=int), 1).dtype == np.float64


# ---- the first notebook: pooling -----------------------------------------------------------------

@pytest.mark.parametrize(("mode", "value"), [("max", [4.0, 5.0, 7.0, 8.0]),
                                         ("average", [2.0, 3.0, 5.0, 6.0])])
def test_pooling_keeps_the_largest_entry_or_the_average(mode, value):
    A, _ = stepwise.pool_forward(np.arange(9.0).reshape(1, 3, 3, 1), {"f": 2, "stride": 1}, mode)
    assert A.ravel().tolist() == value


@pytest.mark.parametrize("mode", ["max", "average"])
@pytest.mark.parametrize(("image", "f", "stride"), [((5, 7), 2, 2), ((5, 5), 3, 2), ((4, 5), 2, 1)])
def test_pooling_by_hand_and_by_backward_agree(image, f, stride, mode):
    A_prev = np.round(normal(2, *image, 3))     # rounded, so that there are ties
    A, cache = stepwise.pool_forward(A_prev, {"f": f, "stride": stride}, mode=mode)
    dA = normal(*A.shape, seed=1)
    x = leaf(A_prev)
    if mode == "max":
        a = tc.max_pool2d(x, kernel_size=f, stride=stride, ties="all")
    else:
        a = tc.avg_pool2d(x, kernel_size=f, stride=stride)
    a.backward(dA)
    same(a.data, A)
    same(x.grad.data, stepwise.pool_backward(dA, cache, mode=mode))


def test_ties_first_split_and_all_are_three_rules_of_the_op_and_stepwise_has_the_last():
    received = {}
    for ties in ("first", "split", "all"):
        x = leaf(TIES)
        tc.max_pool2d(x, kernel_size=2, stride=1, ties=ties).backward(np.ones((1, 2, 2, 1)))
        received[ties] = x.grad.data.sum()
    _, cache = stepwise.pool_forward(TIES, {"f": 2, "stride": 1})
    by_hand = stepwise.pool_backward(np.ones((1, 2, 2, 1)), cache)
    same(received["first"], 4.0)            # four windows, mass 4 kept
    same(received["split"], 4.0)
    assert received["all"] == by_hand.sum() == 3 + 2 + 1 + 1


def test_pool_backward_is_made_of_the_mask_and_of_the_distributed_value():
    A_prev, f = np.round(normal(1, 4, 4, 2)), 3
    A, cache = stepwise.pool_forward(A_prev, {"f": f, "stride": 1})
    dA = normal(*A.shape, seed=1)
    largest, average = np.zeros_like(A_prev), np.zeros_like(A_prev)
    for n, h, w, c in np.ndindex(*A.shape):
        window = (n, slice(h, h + f), slice(w, w + f), c)
        largest[window] += stepwise.create_mask_from_window(A_prev[window]) * dA[n, h, w, c]
        average[window] += stepwise.distribute_value(dA[n, h, w, c], (f, f))
    same(stepwise.pool_backward(dA, cache), largest)
    same(stepwise.pool_backward(dA, cache, mode="average"), average)


def test_the_mask_is_boolean_and_marks_all_ties():
    mask = stepwise.create_mask_from_window(TIES[0, :2, :2, 0])
    assert mask.dtype == bool
    assert mask.tolist() == [[True, True], [False, True]]


def test_a_distributed_value_fills_the_window_and_adds_up():
    a = stepwise.distribute_value(6, (2, 3))
    assert a.tolist() == [[1.0] * 3] * 2


# ---- the first notebook: the headings ------------------------------------------------------------

def test_layer_structure_reads_the_sizes_off_the_data():
    X, y = np.zeros((5, 8, 6, 3)), np.array([0, 2, 1, 2, 0])
    assert stepwise.layer_structure(X, y, 4) == ((8, 6, 3), (4,), 3)
    assert stepwise.layer_structure(X, np.eye(3)[y], (4, 8)) == ((8, 6, 3), (4, 8), 3)


def test_initialize_parameters_draws_layer_by_layer_with_scaled_weights():
    parameters = stepwise.initialize_parameters(((8, 6, 3), (4, 5), 10))
    stream = np.random.RandomState(7)
    assert list(parameters) == ["W1", "b1", "W2", "b2", "W3", "b3"]
    same(parameters["W1"], stream.randn(3, 3, 3, 4) * math.sqrt(2 / 27))
    same(parameters["W2"], stream.randn(3, 3, 4, 5) * math.sqrt(2 / 36))
    same(parameters["W3"], stream.randn(2 * 1 * 5, 10) * math.sqrt(2 / 10))
    for name, shape in (("b1", (1, 1, 1, 4)), ("b2", (1, 1, 1, 5)), ("b3", (1, 10))):
        assert np.array_equal(parameters[name], np.zeros(shape))


def test_relu_and_its_gradient_are_zero_at_zero():
    Z = np.array([-np.inf, -1.0, 0.0, 2.0])
    A, cache = stepwise.relu_forward(Z)
    assert A.tolist() == [0.0, 0.0, 0.0, 2.0]
    assert stepwise.relu_backward(np.full(4, 3.0), cache).tolist() == [0.0, 0.0, 0.0, 3.0]


def test_the_dense_layer_flattens_images_and_gives_three_gradients():
    A, W, b = normal(4, 2, 3, 2), normal(12, 5, seed=1), normal(1, 5, seed=2)
    Z, cache = stepwise.fc_forward(A, W, b)
    dZ = normal(4, 5, seed=3)
    dA, dW, db = stepwise.fc_backward(dZ, cache)
    x, w, bias = leaf(A), leaf(W), leaf(b[0])
    z = tc.linear(tc.flatten(x, 1), w, bias)
    z.backward(dZ)
    assert (dA.shape, dW.shape, db.shape) == (A.shape, W.shape, b.shape)
    same(z.data, Z)
    same(x.grad.data, dA)
    same(w.grad.data, dW)
    same(bias.grad.data, db[0])


def test_softmax_rows_add_up_and_the_gradient_is_that_of_the_op():
    Z, dP = normal(3, 4) * 5, normal(3, 4, seed=1)
    P, cache = stepwise.softmax_forward(Z)
    z = leaf(Z)
    p = tc.softmax(z)
    p.backward(dP)
    same(P.sum(axis=1), np.ones(3))
    same(p.data, P)
    same(z.grad.data, stepwise.softmax_backward(dP, cache))


@pytest.mark.parametrize("one_hot", [False, True])
def test_loss_and_its_gradient_to_the_scores_are_those_of_cross_entropy(one_hot):
    Z, y = normal(5, 3) * 3, np.array([0, 2, 1, 1, 0])
    labels = np.eye(3)[y] if one_hot else y
    P, _ = stepwise.softmax_forward(Z)
    z = leaf(Z)
    loss = tc.cross_entropy(z, labels)
    loss.backward()
    same(stepwise.compute_loss(P, labels), loss.item())
    same(stepwise.compute_loss_backward(P, labels), z.grad.data)


def test_the_loss_of_a_true_class_without_probability_is_infinite():
    assert stepwise.compute_loss(np.array([[1.0, 0.0]]), np.array([1])) == np.inf


def test_softmax_backward_after_the_loss_alone_is_the_short_cut():
    Z, y = normal(3, 4), np.array([3, 0, 2])
    P, cache = stepwise.softmax_forward(Z)
    dP = np.where(np.eye(4)[y] > 0, -1 / P, 0) / 3
    same(stepwise.softmax_backward(dP, cache), stepwise.compute_loss_backward(P, y))


def test_update_parameters_moves_weights_and_biases_into_new_arrays():
    parameters = {"W1": np.array([1.0, 2.0]), "b1": np.array([3.0])}
    grads = {"W1": np.array([10.0, -10.0]), "b1": np.array([2.0])}
    updated = stepwise.update_parameters(parameters, grads, 0.5)
    assert {k: v.tolist() for k, v in updated.items()} == {"W1": [-4.0, 7.0], "b1": [2.0]}
    assert parameters["W1"].tolist() == [1.0, 2.0]


def network():
    """A small two-stage network with its data."""
    X, y = normal(3, 7, 6, 2), np.array([0, 2, 1])
    parameters = stepwise.initialize_parameters(stepwise.layer_structure(X, y, (3, 4)))
    return X, y, parameters


def forward_with_tensors(X, parameters):
    """The same network on leaves."""
    leaves = {name: leaf(value) for name, value in parameters.items()}
    a, stages = Tensor(X), len(parameters) // 2 - 1
    for stage in range(1, stages + 1):
        z = tc.conv2d(a, leaves[f"W{stage}"], leaves[f"b{stage}"].reshape(-1), padding=1)
        a = tc.max_pool2d(tc.relu(z), kernel_size=2, ties="all")
    last = stages + 1
    return tc.linear(tc.flatten(a, 1), leaves[f"W{last}"], leaves[f"b{last}"].reshape(-1)), leaves


def test_the_whole_network_by_hand_and_by_backward_agree():
    X, y, parameters = network()
    P, caches = stepwise.convnet_forward(X, parameters)
    grads = stepwise.convnet_backward(P, y, caches)
    logits, leaves = forward_with_tensors(X, parameters)
    loss = tc.cross_entropy(logits, y)
    loss.backward()
    same(stepwise.compute_loss(P, y), loss.item())
    assert grads.keys() == parameters.keys()
    for name, gradient in grads.items():
        assert gradient.shape == parameters[name].shape
        same(leaves[name].grad.data, gradient)


def test_the_gradients_of_the_whole_network_are_slopes_of_its_loss():
    X, y, parameters = network()
    P, caches = stepwise.convnet_forward(X, parameters)
    grads = stepwise.convnet_backward(P, y, caches)
    for name in ("b1", "b2", "b3"):
        def loss(value, name=name):
            P, _ = stepwise.convnet_forward(X, parameters | {name: value})
            return stepwise.compute_loss(P, y)
        np.testing.assert_allclose(grads[name], slope(loss, parameters[name]), atol=1e-7)


def test_padding_picture_has_two_panels_on_one_scale():
    pytest.importorskip("matplotlib")
    X = normal(2, 3, 4, 2)
    figure = stepwise.padding_picture(X, 2, image=1, channel=1)
    plain, padded = (axes.images[0] for axes in figure.axes[:2])
    assert np.array_equal(plain.get_array(), X[1, :, :, 1])
    assert np.array_equal(padded.get_array(), stepwise.zero_pad(X, 2)[1, :, :, 1])
    assert plain.get_clim() == padded.get_clim() == (min(0, X[1, :, :, 1].min()),
                                                     max(0, X[1, :, :, 1].max()))
    frame, = figure.axes[1].patches                     # around the pixels 2 … 4, 2 … 5
    assert frame.get_bbox().bounds == (1.5, 1.5, 4, 3)


# ---- the exercise: layers ------------------------------------------------------------------------

def test_the_convolution_class_draws_w_then_b_and_pads_by_two_by_default():
    layer = Conv2D(3, 4)
    stream = np.random.RandomState(7)
    assert np.array_equal(layer.W, stream.randn(3, 3, 3, 4))
    assert np.array_equal(layer.b, stream.randn(1, 1, 1, 4))
    X = normal(1, 5, 5, 3)
    assert layer(X).shape == (1, 7, 7, 4)
    assert np.array_equal(layer.X, X)
    assert layer.get_type() == "layer"


def test_the_convolution_class_gives_the_exercises_gradients():
    layer, X = Conv2D(2, 3, kernel_size=2, stride=2, padding=1), normal(2, 4, 5, 2)
    g = normal(*layer(X).shape, seed=1)
    x, w, b = leaf(X), leaf(layer.W), leaf(layer.b.reshape(-1))
    tc.conv2d(x, w, b, stride=2, padding=1).backward(g)
    dX, dW, db = layer.grad(g)
    same(dX, x.grad.data)
    same(dW, w.grad.data)
    same(db.reshape(-1), b.grad.data)


def test_the_pooling_class_overlaps_by_default_and_has_no_parameter_gradient():
    layer, X = Maxpool2D(), np.round(normal(2, 4, 4, 2))
    A = layer(X)
    g = normal(*A.shape, seed=1)
    x = leaf(X)
    a = tc.max_pool2d(x, kernel_size=2, stride=1, ties="all")
    a.backward(g)
    dX, nothing = layer.grad(g)
    assert nothing is None
    assert layer.get_type() == "layer"
    same(A, a.data)
    same(dX, x.grad.data)
    assert layer.create_mask(np.array([[1, 1]])).tolist() == [[True, True]]


@pytest.mark.parametrize("bias", [True, False])
def test_the_linear_class_honors_bias_and_returns_its_gradient(bias):
    layer, X, g = Linear(4, 3, bias=bias), normal(5, 4), normal(5, 3, seed=1)
    stream = np.random.RandomState(7)
    same(layer.weights, stream.randn(4, 3) * 0.05)
    x, w = leaf(X), leaf(layer.weights)
    b = leaf(layer.bias[0]) if bias else None
    z = tc.linear(x, w, b)
    z.backward(g)
    same(layer(X), z.data)
    dX, dW, db = layer.grad(g)
    same(dX, x.grad.data)
    same(dW, w.grad.data)
    if bias:
        same(layer.bias, stream.randn(1, 3) * 0.05)
        same(db[0], b.grad.data)
    else:
        assert db is None
        assert layer.bias is None


def test_l2_adds_the_gradient_of_its_penalty_with_m_rows():
    inner = Linear(4, 2)
    layer, X, g = L2regularization(inner, coefficient=0.3), normal(5, 4), normal(5, 2, seed=1)
    layer(X)
    w = leaf(inner.weights)
    loss = (tc.linear(Tensor(X), w, Tensor(inner.bias[0])) * Tensor(g)).sum()
    (loss + (w * w).sum() * (0.3 / (2 * 5))).backward()
    dX, dW, db = layer.grad(g)
    same(dW, w.grad.data)
    same(dX, g @ inner.weights.T)
    same(db, g.sum(axis=0, keepdims=True))
    same(layer.penalty(), 0.3 / 10 * np.sum(inner.weights ** 2))


def test_dropout_draws_its_mask_after_the_layer_and_scales_what_is_left():
    inner = Linear(3, 4)
    layer, X, g = Dropout(inner, p=0.25), normal(6, 3), normal(6, 4, seed=1)
    np.random.seed(11)
    out = layer(X)
    scale = np.random.RandomState(11).binomial(1, 0.75, size=(6, 4)) / 0.75
    same(out, inner(X) * scale)
    for found, expected in zip(layer.grad(g), inner.grad(g * scale), strict=True):
        same(found, expected)


def test_dropout_does_nothing_in_evaluation():
    layer, X = Dropout(Linear(3, 4), p=0.9), normal(6, 3)
    layer.training = False
    same(layer(X), layer.layer(X))
    same(layer.grad(np.ones((6, 4)))[1], layer.layer.grad(np.ones((6, 4)))[1])


def test_dropout_of_the_op_given_the_same_mask_has_the_same_gradient():
    layer, X = Dropout(ReLU(), p=0.5), normal(4, 6)
    out = layer(X)
    x = leaf(X)
    kept = tc.relu(x) * Tensor(layer.scale)
    kept.backward(np.ones((4, 6)))
    same(out, kept.data)
    same(layer.grad(np.ones((4, 6))), x.grad.data)
    assert layer.get_type() == "activation"


def test_wrappers_share_the_arrays_of_the_layer_so_updates_reach_it():
    inner = Linear(2, 2)
    model = Model([Dropout(L2regularization(inner), p=0.5)])
    before = inner.weights.copy()
    model.forward(normal(3, 2))
    model.update_parameters(model.backward(np.ones((3, 2))), lr=0.1)
    assert not np.array_equal(inner.weights, before)


# ---- the exercise: activations and losses --------------------------------------------------------

@pytest.mark.parametrize(("step", "op"), [
    (ReLU(), tc.relu), (LeakyReLU(), tc.leaky_relu),
    (LeakyReLU(alpha=0.3), lambda x: tc.leaky_relu(x, negative_slope=0.3)),
    (Tanh(), tc.tanh), (Sigmoid(), tc.sigmoid), (Softmax(), lambda x: tc.softmax(x, axis=1)),
], ids=["ReLU", "LeakyReLU", "LeakyReLU(0.3)", "Tanh", "Sigmoid", "Softmax"])
def test_an_activation_is_the_op_of_its_name_forward_and_backward(step, op):
    X, g = normal(4, 5) * 3, normal(4, 5, seed=1)
    X[0, :2] = 0.0                          # the kink
    x = leaf(X)
    y = op(x)
    y.backward(g)
    same(step(X), y.data)
    assert np.array_equal(step.x, X)
    same(step.grad(g), x.grad.data)
    assert step.get_type() == "activation"


def test_gradients_at_zero_are_zero_and_alpha():
    relu, leaky = ReLU(), LeakyReLU(alpha=0.2)
    relu(np.zeros(1))
    leaky(np.zeros(1))
    assert relu.grad(np.ones(1)).item() == 0.0
    assert leaky.grad(np.ones(1)).item() == 0.2


def test_large_inputs_neither_overflow_nor_become_nan():
    huge = np.array([[-np.inf, -1e4, 0.0, 1e4]])
    assert ReLU()(huge).tolist() == [[0.0, 0.0, 0.0, 1e4]]
    assert Sigmoid()(huge).tolist() == [[0.0, 0.0, 0.5, 1.0]]
    assert Softmax()(huge).tolist() == [[0.0, 0.0, 0.0, 1.0]]


@pytest.mark.parametrize("average", [True, False])
def test_the_cross_entropy_class_agrees_with_the_op_and_sum_means_sum(average):
    logits, Y = normal(4, 3) * 4, np.eye(3)[[0, 2, 1, 1]]
    loss = CrossEntropy(class_count=3, average=average)
    z = leaf(logits)
    value = tc.cross_entropy(z, Y, reduction="mean" if average else "sum")
    value.backward()
    same(loss(logits, Y), value.item())
    same(loss.grad(), z.grad.data)


def test_cross_entropy_has_no_ceiling_and_its_gradient_is_its_slope():
    loss, Y = CrossEntropy(), np.array([[1.0, 0.0]])
    assert loss(np.array([[0.0, 50.0]]), Y) == pytest.approx(50.0)
    logits = np.array([[0.0, 30.0]])
    loss(logits, Y)
    np.testing.assert_allclose(loss.grad(), slope(lambda z: CrossEntropy()(z, Y), logits),
                               atol=1e-6)


def test_the_mse_class_takes_the_truth_first_and_its_gradient_points_uphill():
    truth, prediction = normal(4, 3), normal(4, 3, seed=1)
    loss, p = MSELoss(), leaf(prediction)
    value = tc.mse_loss(p, truth, reduction="sum") * (1 / 4)
    value.backward()
    same(loss(truth, prediction), value.item())
    same(loss.grad(), p.grad.data)
    same(loss.grad(), 2 * (prediction - truth) / 4)


# ---- the exercise: the model and its updates -----------------------------------------------------

def cnn(dropout=False):
    """Convolution, pooling, flatten, dense: what the exercise cannot train."""
    dense = Linear(2 * 2 * 3, 3)
    return Model([Conv2D(2, 3, padding=1), ReLU(), Maxpool2D(2, 2), Flatten(),
                  Dropout(dense, p=0.1) if dropout else dense])


def test_a_model_maps_each_layer_with_parameters_to_its_two_gradients():
    model, X, Y = cnn(), normal(4, 4, 4, 2), np.eye(3)[[0, 1, 2, 1]]
    loss = CrossEntropy()
    loss(model.forward(X), Y)
    grads = model.backward(loss.grad())
    assert sorted(grads) == [0, 4]
    conv, dense = model.components[0], model.components[4]
    x, w, b = leaf(X), leaf(conv.W), leaf(conv.b.reshape(-1))
    v, c = leaf(dense.weights), leaf(dense.bias[0])
    a = tc.max_pool2d(tc.relu(tc.conv2d(x, w, b, padding=1)), kernel_size=2, ties="all")
    tc.cross_entropy(tc.linear(tc.flatten(a, 1), v, c), Y).backward()
    for found, expected in ((grads[0][0], w), (grads[0][1].reshape(-1), b), (grads[4][0], v),
                            (grads[4][1][0], c), (model.dX, x)):
        same(found, expected.grad.data)


@pytest.mark.parametrize("update", [
    lambda m, g: m.update_parameters(g, lr=0.1), lambda m, g: m.sgd_momentum(g, lr=0.05, alpha=0.5),
    lambda m, g: m.ada_grad(g, lr=0.05), lambda m, g: m.adam(g, lr=0.02),
], ids=["sgd", "momentum", "adagrad", "adam"])
def test_a_model_with_a_convolution_learns(update):
    model, X, Y = cnn(), normal(6, 4, 4, 2), np.eye(3)[[0, 1, 2, 0, 1, 2]]
    loss = CrossEntropy()
    start = loss(model(X), Y)
    filters = model.components[0].W.copy()
    for _ in range(15):
        loss(model(X), Y)
        update(model, model.backward(loss.grad()))
    assert loss(model(X), Y) < 0.7 * start
    assert not np.array_equal(model.components[0].W, filters)


def one_weight():
    """A model of a single number 1 without bias, and gradients to feed it."""
    model = Model([Linear(1, 1, bias=False)])
    model.components[0].weights[:] = 1.0
    return model, lambda g: {0: (np.array([[g]]), None)}


def test_plain_descent_by_hand():
    model, grads = one_weight()
    model.update_parameters(grads(4.0), lr=0.1)
    same(model.components[0].weights, [[0.6]])


def test_momentum_by_hand():
    model, grads = one_weight()
    model.sgd_momentum(grads(2.0), lr=0.1, alpha=0.5)           # v = −0.2
    model.sgd_momentum(grads(4.0), lr=0.1, alpha=0.5)           # v = −0.1 − 0.4
    same(model.components[0].weights, [[1.0 - 0.2 - 0.5]])


def test_ada_grad_by_hand():
    model, grads = one_weight()
    model.ada_grad(grads(3.0), lr=0.1, tol=0.0)                 # √9
    model.ada_grad(grads(4.0), lr=0.1, tol=0.0)                 # √25
    same(model.components[0].weights, [[1.0 - 0.1 - 0.1 * 4 / 5]])


def test_adam_counts_one_step_per_call_however_many_layers_there_are():
    model = Model([Linear(1, 1, bias=False) for _ in range(3)])
    for layer in model.components:
        layer.weights[:] = 1.0
    m = v = 0.0
    expected = 1.0
    for t, g in enumerate([1.0, -3.0, 2.0], start=1):
        model.adam({i: (np.array([[g]]), None) for i in range(3)}, lr=0.1)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        expected -= 0.1 * (m / (1 - 0.9 ** t)) / (math.sqrt(v / (1 - 0.999 ** t)) + 1e-8)
    for layer in model.components:
        same(layer.weights, [[expected]])


# ---- bad input -----------------------------------------------------------------------------------

X4, W4, B4 = np.ones((2, 4, 4, 3)), np.ones((3, 3, 3, 5)), np.ones((1, 1, 1, 5))


def conv_both(X=X4, W=W4, b=B4, stride=1, pad=0):
    """The two calls that should fail in the same words."""
    return (lambda: stepwise.conv_forward(X, W, b, {"stride": stride, "pad": pad}),
            lambda: tc.conv2d(X, W, b.reshape(-1), stride=stride, padding=pad))


def pool_both(X=X4, f=2, stride=2, mode="max"):
    op = tc.max_pool2d if mode == "max" else tc.avg_pool2d
    return (lambda: stepwise.pool_forward(X, {"f": f, "stride": stride}, mode=mode),
            lambda: op(X, kernel_size=f, stride=stride))


@pytest.mark.parametrize(("by_hand", "by_op", "error"), [
    (*conv_both(W=np.ones((7, 7, 3, 5)), pad=1), errors.ShapeError),
    (*conv_both(stride=0), errors.SettingError),
    (*conv_both(pad=-1), errors.SettingError),
    (*conv_both(X=np.ones((4, 4))), errors.ShapeError),
    (*conv_both(W=np.ones((3, 3, 3))), errors.ShapeError),
    (*conv_both(W=np.ones((3, 3, 4, 5))), errors.ShapeError),
    (*conv_both(b=np.ones((1, 1, 1, 6))), errors.ShapeError),
    (*pool_both(f=0), errors.SettingError),
    (*pool_both(stride=0), errors.SettingError),
    (*pool_both(f=5), errors.ShapeError),
    (*pool_both(f=5, mode="average"), errors.ShapeError),
    (*pool_both(X=np.ones((4, 4))), errors.ShapeError),
    (*pool_both(X=np.ones((1, 1, 1, 1))), errors.ShapeError),
    (lambda: stepwise.zero_pad(X4, -1), lambda: tc.pad(X4, -1), errors.SettingError),
    (lambda: stepwise.fc_forward(np.ones((2, 3)), np.ones((4, 5)), np.ones((1, 5))),
     lambda: tc.linear(np.ones((2, 3)), np.ones((4, 5)), np.ones(5)), errors.ShapeError),
], ids=["filter too large", "stride 0", "padding -1", "image rank", "filter rank", "channels",
        "bias", "window 0", "pool stride 0", "window too large", "average window too large",
        "pool rank", "1x1 image", "pad -1", "dense sizes"])
def test_bad_input_raises_the_error_of_the_registered_op(by_hand, by_op, error):
    with pytest.raises(error) as ours:
        by_hand()
    with pytest.raises(error) as theirs:
        by_op()
    assert str(ours.value) == str(theirs.value)


CONV_CACHE = stepwise.conv_forward(X4, W4, B4, HYPER)[1]
POOL_CACHE = stepwise.pool_forward(X4, {"f": 2, "stride": 2})[1]


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: conv_both(W=np.ones((1, 2, 3, 5)))[0](), errors.ShapeError, "filters are square"),
    (lambda: conv_both(b=np.ones(5))[0](), errors.ShapeError, "b must have shape (1, 1, 1, C_out)"),
    (lambda: stepwise.conv_forward(X4, W4, B4, {"stride": 1}), errors.SettingError,
     "hparameters has no 'pad', only 'stride'"),
    (lambda: stepwise.pool_forward(X4, {"f": 2, "stride": 2}, mode="min"), errors.SettingError,
     "mode must be 'max' or 'average', got 'min'"),
    (lambda: stepwise.pool_backward(X4, POOL_CACHE), errors.ShapeError,
     "dA is (2, 4, 4, 3) but A is (2, 2, 2, 3)"),
    (lambda: stepwise.conv_backward(X4, CONV_CACHE), errors.ShapeError,
     "dZ is (2, 4, 4, 3) but Z is (2, 2, 2, 5)"),
    (lambda: stepwise.conv_single_step(np.ones((2, 2, 3)), np.ones((1, 2, 3)), np.ones((1, 1, 1))),
     errors.ShapeError, "W is (1, 2, 3) but a_slice_prev is (2, 2, 3)"),
    (lambda: stepwise.conv_single_step(np.ones((2, 2, 3)), np.ones((2, 2, 3)), np.ones((1, 1, 2))),
     errors.ShapeError, "b must hold one number"),
    (lambda: stepwise.create_mask_from_window(np.ones((0, 2))), errors.ShapeError, "x is empty"),
    (lambda: stepwise.distribute_value(1.0, (0, 2)), errors.SettingError, "at least 1"),
    (lambda: stepwise.zero_pad(np.array([["a"]]), 1), errors.DTypeError, "must hold numbers"),
    (lambda: stepwise.compute_loss(np.ones((2, 3)), np.array([0, 3])), errors.SettingError,
     "labels must lie in 0 … 2, got 0 to 3"),
    (lambda: stepwise.compute_loss(np.ones((2, 3)), np.array([0.0, 1.0])), errors.DTypeError,
     "must be integers"),
    (lambda: stepwise.compute_loss(np.ones((2, 3)), np.ones((2, 1))), errors.ShapeError,
     "y must have shape (N,) = (2,) or (N, K) = (2, 3)"),
    (lambda: stepwise.compute_loss(np.ones((2, 3)), np.ones((2, 3))), errors.SettingError,
     "must be one-hot"),
    (lambda: stepwise.layer_structure(X4, np.zeros(3, int), 4), errors.ShapeError,
     "y must have shape (N,) = (2,)"),
    (lambda: stepwise.layer_structure(X4, np.zeros(2, int), 0), errors.SettingError,
     "hidden_size must be an integer of at least 1"),
    (lambda: stepwise.initialize_parameters(((8, 8, 1), (4,), 10), f=2), errors.SettingError,
     "f must be odd"),
    (lambda: stepwise.initialize_parameters(((2, 2, 1), (4, 4), 10)), errors.ShapeError,
     "does not fit in an image of (1, 1)"),
    (lambda: stepwise.update_parameters({"W1": X4}, {"W2": X4}, 0.1), errors.SettingError,
     "W1, W2"),
    (lambda: stepwise.update_parameters({"W1": X4}, {"W1": W4}, 0.1), errors.ShapeError,
     "grads['W1'] is (3, 3, 3, 5) but W1 is (2, 4, 4, 3)"),
    (lambda: stepwise.fc_forward(np.ones(3), np.ones((3, 2)), np.ones((1, 2))), errors.ShapeError,
     "an axis of images"),
    (lambda: stepwise.fc_forward(np.ones((1, 3)), np.ones((3, 2)), np.ones(2)), errors.ShapeError,
     "b must have shape (1, K)"),
    (lambda: ReLU().grad(np.ones(1)), errors.GradientError, "ReLU: grad needs the input of a call"),
    (lambda: Conv2D(1, 1).grad(np.ones(1)), errors.GradientError, "has not been called yet"),
    (lambda: Conv2D(1, 1, padding=-1), errors.SettingError, "padding must be an integer"),
    (lambda: L2regularization(Conv2D(1, 1)), errors.SettingError, "must be a Linear, got Conv2D"),
    (lambda: L2regularization(Linear(1, 1), coefficient=0), errors.SettingError, "above 0, got 0"),
    (lambda: Dropout(ReLU(), p=1), errors.SettingError, "p must be a number from 0"),
    (lambda: Model([]), errors.SettingError, "components is empty"),
    (lambda: cnn().update_parameters({9: (None, None)}, lr=1), errors.SettingError, "index 9"),
    (lambda: cnn().update_parameters({1: (X4, None)}, lr=1), errors.SettingError,
     "has no such parameter"),
    (lambda: cnn().update_parameters({0: (X4, None)}, lr=1), errors.ShapeError, "its parameter"),
    (lambda: CrossEntropy(class_count=4)(np.ones((2, 3)), np.eye(3)[:2]), errors.ShapeError,
     "class_count is 4"),
    (lambda: MSELoss()(np.ones((2, 3)), np.ones((2, 1))), errors.ShapeError,
     "y_pred is (2, 1) but y_true is (2, 3)"),
    (lambda: stepwise.padding_picture(X4, 1, channel=3), errors.SettingError,
     "channel must lie in 0 … 2, got 3"),
])
def test_a_mistake_is_refused_with_words_that_name_it(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


def test_every_public_step_has_a_docstring_with_an_example():
    for name in stepwise.__all__:
        assert ">>>" in inspect.getdoc(getattr(stepwise, name)), name


# ---- the example, the page and its pictures ------------------------------------------------------

def script(path):
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_finished_notebook_prints_both_columns_and_the_difference(capsys, monkeypatch):
    example = script("examples/notebook_cnn.py")
    timing = functools.partial(example.time_exercise_convolution, images=1)     # seconds saved
    monkeypatch.setattr(example, "time_exercise_convolution", timing)
    status = example.main(["--quick", "--steps", "3"])
    printed = capsys.readouterr().out
    rows = re.findall(r"^ +(\d) +(\d\.\d{14}) +(\d\.\d{14})$", printed, re.MULTILINE)
    assert [step for step, _, _ in rows] == ["1", "2", "3"]
    assert all(abs(float(a) - float(b)) <= 1e-10 for _, a, b in rows)
    assert "largest difference in the first 3 steps" in printed
    assert "times faster" in printed
    assert status == 0


def test_the_finished_notebook_fails_when_the_losses_part(capsys, monkeypatch):
    example = script("examples/notebook_cnn.py")
    monkeypatch.setattr(example, "time_exercise_convolution", lambda repeats: (1.0, 1.0, 0.0))
    by_tensors = example.train_with_tensors

    def slightly_off(parameters, data, learning_rate):
        losses, *rest = by_tensors(parameters, data, learning_rate)
        return [loss + 1e-9 for loss in losses], *rest

    monkeypatch.setattr(example, "train_with_tensors", slightly_off)
    assert example.main(["--quick", "--steps", "1"]) == 1
    assert "1.0e-09" in capsys.readouterr().out


def test_the_pictures_of_the_page_are_current(tmp_path):
    pytest.importorskip("matplotlib")
    script("docs/pictures/notebook_pictures.py").main(tmp_path)
    page = (ROOT / "docs/notebooks.md").read_text(encoding="utf-8")

    def digest(path):
        return re.search(rb"Comment\x00([0-9a-f]{16})", path.read_bytes()).group(1)

    drawn = sorted(tmp_path.iterdir())
    assert len(drawn) == 2
    for path in drawn:
        assert digest(path) == digest(ROOT / "docs" / "pictures" / path.name)
        assert f"pictures/{path.name}" in page
