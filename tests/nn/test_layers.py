"""Layers against hand-computed numbers and against the ops."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn


def images(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


# ---- every layer keeps the dtype, records, and is what its op is

LAYERS = {
    "Conv2D": (lambda: nn.Conv2D(3, 4, 3, stride=2, padding=1), (2, 6, 6, 3), (2, 3, 3, 4)),
    "Conv2D same": (lambda: nn.Conv2D(3, 4, (3, 2), stride=2, padding="same"), (2, 5, 6, 3),
                    (2, 3, 3, 4)),
    "Conv2D dilated": (lambda: nn.Conv2D(3, 6, 3, dilation=(2, 1), padding=((0, 1), (2, 0))),
                       (2, 6, 6, 3), (2, 3, 6, 6)),
    "Conv2D depthwise": (lambda: nn.Conv2D(4, 8, 3, groups=4, bias=False), (2, 6, 6, 4),
                         (2, 4, 4, 8)),
    "ConvTranspose2D": (lambda: nn.ConvTranspose2D(4, 6, 3, stride=2, padding=1, output_padding=1,
                                                   groups=2), (2, 3, 3, 4), (2, 6, 6, 6)),
    "MaxPool2D": (lambda: nn.MaxPool2D(3, 2, padding=1), (2, 6, 6, 3), (2, 3, 3, 3)),
    "MaxPool2D split": (lambda: nn.MaxPool2D((2, 3), ties="split"), (2, 6, 6, 3), (2, 3, 2, 3)),
    "AvgPool2D": (lambda: nn.AvgPool2D(3, 1, padding="same", count_include_pad=False),
                  (2, 6, 6, 3), (2, 6, 6, 3)),
    "GlobalAvgPool2D": (nn.GlobalAvgPool2D, (2, 6, 6, 3), (2, 3)),
    "GlobalAvgPool2D keeping": (lambda: nn.GlobalAvgPool2D(keepdims=True), (2, 6, 6, 3),
                                (2, 1, 1, 3)),
    "ZeroPad2D": (lambda: nn.ZeroPad2D(((1, 0), (2, 3))), (2, 6, 6, 3), (2, 7, 11, 3)),
    "Pad2D": (lambda: nn.Pad2D((1, 2), mode="reflect"), (2, 6, 6, 3), (2, 8, 10, 3)),
    "Linear": (lambda: nn.Linear(6, 4), (5, 6), (5, 4)),
    "Linear on sequences": (lambda: nn.Linear(6, 4, bias=False), (5, 2, 6), (5, 2, 4)),
    "Flatten": (nn.Flatten, (2, 6, 6, 3), (2, 108)),
    "ReLU": (nn.ReLU, (2, 3), (2, 3)), "LeakyReLU": (nn.LeakyReLU, (2, 3), (2, 3)),
    "ELU": (nn.ELU, (2, 3), (2, 3)), "GELU": (nn.GELU, (2, 3), (2, 3)),
    "SiLU": (nn.SiLU, (2, 3), (2, 3)), "Softplus": (nn.Softplus, (2, 3), (2, 3)),
    "Tanh": (nn.Tanh, (2, 3), (2, 3)), "Sigmoid": (nn.Sigmoid, (2, 3), (2, 3)),
    "Softmax": (lambda: nn.Softmax(axis=0), (2, 3), (2, 3)),
    "LogSoftmax": (nn.LogSoftmax, (2, 3), (2, 3)),
    "Dropout": (lambda: nn.Dropout(0.3), (2, 3), (2, 3)),
    "BatchNorm2D": (lambda: nn.BatchNorm2D(3), (2, 6, 6, 3), (2, 6, 6, 3)),
    "BatchNorm2D plain": (lambda: nn.BatchNorm2D(3, affine=False), (2, 6, 6, 3), (2, 6, 6, 3)),
    "BatchNorm1D": (lambda: nn.BatchNorm1D(3), (5, 3), (5, 3)),
    "BatchNorm1D on sequences": (lambda: nn.BatchNorm1D(3), (5, 2, 3), (5, 2, 3)),
    "LayerNorm": (lambda: nn.LayerNorm(3), (2, 4, 3), (2, 4, 3)),
    "LayerNorm of two axes": (lambda: nn.LayerNorm((4, 3)), (2, 4, 3), (2, 4, 3)),
    "Conv1D": (lambda: nn.Conv1D(3, 4, 3, 2, (1, 0)), (2, 6, 3), (2, 3, 4)),
    "ConvTranspose1D": (lambda: nn.ConvTranspose1D(3, 4, 2, 2), (2, 6, 3), (2, 12, 4)),
    "SeparableConv2D": (lambda: nn.SeparableConv2D(3, 4, 3, padding=1), (2, 6, 6, 3), (2, 6, 6, 4)),
    "MaxPool1D": (nn.MaxPool1D, (2, 6, 3), (2, 3, 3)),
    "AvgPool1D": (lambda: nn.AvgPool1D(3, padding="same", stride=1), (2, 6, 3), (2, 6, 3)),
    "Unflatten": (lambda: nn.Unflatten(-1, (2, -1)), (2, 6), (2, 2, 3)),
    "Lambda": (lambda: nn.Lambda(tc.exp), (2, 6), (2, 6)),
    "Dropout1D": (nn.Dropout1D, (2, 6, 3), (2, 6, 3)),
    "Dropout2D": (nn.Dropout2D, (2, 6, 6, 3), (2, 6, 6, 3)),
    "DropPath": (lambda: nn.DropPath(0.2), (2, 6), (2, 6)),
    "Identity": (nn.Identity, (2, 3), (2, 3)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_makes_the_expected_shape_in_its_dtype_and_sends_gradients_back(name, dtype):
    make, shape, out = LAYERS[name]
    for mode in (True, False):
        layer = make().astype(dtype).train(mode)
        x = tc.Tensor(images(*shape, dtype=dtype), requires_grad=True)
        y = layer(x)
        assert y.shape == out
        assert y.dtype == dtype
        (y * y).sum().backward()
        assert x.grad.shape == shape
        assert all(p.grad is not None and p.grad.dtype == dtype for p in layer.parameters())


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_takes_plain_arrays(name):
    make, shape, out = LAYERS[name]
    assert np.shape(make()(images(*shape))) == out


@pytest.mark.parametrize("layer, function", [
    (nn.ReLU(), tc.relu), (nn.ELU(0.5), lambda x: tc.elu(x, alpha=0.5)), (nn.GELU(), tc.gelu),
    (nn.SiLU(), tc.silu), (nn.Softplus(), tc.softplus), (nn.Tanh(), tc.tanh),
    (nn.Sigmoid(), tc.sigmoid), (nn.LeakyReLU(0.2), lambda x: tc.leaky_relu(x, negative_slope=0.2)),
    (nn.Softmax(0), lambda x: tc.softmax(x, axis=0)), (nn.LogSoftmax(), tc.log_softmax)])
def test_an_activation_is_its_op(layer, function):
    x = images(3, 4)
    assert np.array_equal(layer(x).data, function(tc.Tensor(x)).data)


def test_aliases_are_the_same_classes():
    for name in nn.__all__:
        if name[-2:] in ("1d", "2d"):
            assert getattr(nn, name) is getattr(nn, name[:-1] + "D")


# ---- hand-computed numbers

def test_conv2d_adds_products_and_bias():
    layer = nn.Conv2D(1, 1, 2)
    layer.weight.data[...] = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 2, 1, 1)
    layer.bias.data[...] = 10
    x = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    # 0·1 + 1·2 + 3·3 + 4·4 + 10 = 37, and 10 more for each step to the right, 30 for each down.
    assert layer(x).data[0, :, :, 0].tolist() == [[37.0, 47.0], [67.0, 77.0]]


def test_linear_adds_products_and_bias():
    layer = nn.Linear(2, 2)
    layer.weight.data[...] = [[1, 2], [3, 4]]
    layer.bias.data[...] = [10, 20]
    assert layer(np.array([[1, 10]], np.float32)).data.tolist() == [[41.0, 62.0]]


def test_batch_norm_weighs_the_new_value_by_momentum_and_keeps_the_unbiased_variance():
    layer = nn.BatchNorm2D(1, momentum=0.25)
    x = np.array([1.0, 2.0, 3.0, 6.0], np.float32).reshape(2, 2, 1, 1)
    y = layer(x)
    # Mean 3; biased variance (4 + 1 + 0 + 9) / 4 = 3.5; unbiased 14 / 3.
    assert y.data.ravel() == pytest.approx(np.array([-2, -1, 0, 3]) / math.sqrt(3.5 + 1e-5))
    assert layer.running_mean == pytest.approx([0.25 * 3])
    assert layer.running_var == pytest.approx([0.75 + 0.25 * 14 / 3])
    assert layer.num_batches_tracked == 1
    assert layer.num_batches_tracked.dtype == np.int64


def test_batch_norm_uses_the_running_statistics_in_evaluation_and_leaves_them():
    layer = nn.BatchNorm2D(1, eps=1e-12).eval()
    layer.running_mean[...], layer.running_var[...] = 2, 4
    layer.weight.data[...], layer.bias.data[...] = 10, 100
    assert layer(np.full((1, 1, 1, 1), 4, np.float32)).item() == pytest.approx(110.0)
    assert layer.running_mean == [2]
    assert layer.num_batches_tracked == 0


def test_batch_norm_without_momentum_averages_all_batches():
    layer = nn.BatchNorm1D(1, momentum=None)
    for centre in (0.0, 3.0, 6.0):
        layer(np.array([[centre - 1], [centre + 1]], np.float32))
    assert layer.running_mean == pytest.approx([3.0])
    assert layer.running_var == pytest.approx([2.0])
    assert layer.num_batches_tracked == 3


def test_the_parameters_of_a_layer_norm_are_those_asked_for():
    for affine, bias, names in ((True, True, ["weight", "bias"]), (True, False, ["weight"]),
                                (False, True, []), (False, False, [])):
        layer = nn.LayerNorm(4, elementwise_affine=affine, bias=bias)
        assert [name for name, _ in layer.named_parameters()] == names


def test_layer_norm_standardises_each_row():
    layer = nn.LayerNorm(4, eps=1e-12)
    layer.bias.data[...] = [0, 0, 0, 1]
    y = layer(np.array([[1.0, 1.0, 3.0, 3.0]], np.float32)).data
    assert y.tolist() == [pytest.approx([-1, -1, 1, 2])]


def test_dropout_keeps_the_mean_and_draws_from_its_generator():
    x = np.ones((200, 200), np.float32)
    first, second = (nn.Dropout(0.25, rng=np.random.default_rng(5))(x).data for _ in range(2))
    assert np.array_equal(first, second)
    assert set(np.unique(first)) == {np.float32(0), np.float32(1 / 0.75)}
    # 40,000 draws: the standard error of the share is 0.0022.
    assert (first == 0).mean() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("layer, shape, mask", [
    (nn.Dropout2D(0.4), (40, 5, 6, 30), (40, 1, 1, 30)),
    (nn.Dropout2D(0.4), (40, 5, 30), (40, 1, 30)), (nn.Dropout1D(0.4), (40, 5, 30), (40, 1, 30)),
    (nn.DropPath(0.4), (1200, 5), (1200, 1))])
def test_a_dropout_of_channels_or_rows_drops_them_whole(layer, shape, mask):
    x = tc.Tensor(np.ones(shape, np.float32), requires_grad=True)
    y = layer(x)
    first = y.data[tuple(slice(0, n) for n in mask)]
    assert np.array_equal(y.data, np.broadcast_to(first, shape))
    assert set(np.unique(first)) == {np.float32(0), np.float32(1 / 0.6)}
    assert (first == 0).mean() == pytest.approx(0.4, abs=0.06)      # 1,200 draws: 4 deviations
    y.sum().backward()
    assert np.array_equal(x.grad.data, y.data)
    assert layer.eval()(x) is x


def test_dropout_without_a_generator_follows_manual_seed():
    x = np.ones((50,), np.float32)
    layer = nn.Dropout(0.5)
    tc.manual_seed(1)
    first = layer(x).data
    assert not np.array_equal(layer(x).data, first)
    tc.manual_seed(1)
    assert np.array_equal(layer(x).data, first)


# ---- first values

def test_filters_start_with_the_variance_of_he():
    layer = nn.Conv2D(16, 64, 3, rng=np.random.default_rng(0))
    # 9,216 draws: the standard deviation is known to about 0.7 %.
    assert layer.weight.data.std() == pytest.approx(math.sqrt(2 / 144), rel=0.03)
    assert not layer.bias.data.any()


def test_depthwise_filters_count_the_inputs_of_their_group():
    layer = nn.Conv2D(256, 256, 3, groups=256, rng=np.random.default_rng(0))
    assert layer.weight.data.std() == pytest.approx(math.sqrt(2 / 9), rel=0.06)


def test_transposed_filters_keep_the_mean_square_of_a_relu_signal():
    layer = nn.ConvTranspose2D(16, 64, 4, stride=2, rng=np.random.default_rng(0))
    assert layer.weight.data.std() == pytest.approx(math.sqrt(2 / (16 * 16 / 4)), rel=0.03)


def test_linear_weights_start_even_and_small():
    layer = nn.Linear(100, 300, rng=np.random.default_rng(0))
    assert abs(layer.weight.data).max() <= 0.1
    assert layer.weight.data.std() == pytest.approx(0.1 / math.sqrt(3), rel=0.02)


def test_the_same_generator_gives_the_same_weights_in_either_dtype():
    a, b = (nn.Conv2D(2, 3, rng=np.random.default_rng(4), dtype=dtype).weight.data
            for dtype in (np.float32, np.float64))
    assert np.array_equal(a, b.astype(np.float32))
    tc.manual_seed(4)
    assert not np.array_equal(nn.Conv2D(2, 3).weight.data, nn.Conv2D(2, 3).weight.data)


# ---- text

@pytest.mark.parametrize("layer, text", [
    (nn.Conv2D(1, 8, 5), "Conv2D(1, 8, kernel_size=5)"),
    (nn.Conv2D(4, 8, (3, 1), stride=2, padding="same", dilation=(1, 2), groups=2, bias=False),
     "Conv2D(4, 8, kernel_size=(3, 1), stride=2, padding='same', dilation=(1, 2), groups=2, "
     "bias=False)"),
    (nn.ConvTranspose2D(4, 8, 3, stride=2, output_padding=1),
     "ConvTranspose2D(4, 8, kernel_size=3, stride=2, output_padding=1)"),
    (nn.MaxPool2D(), "MaxPool2D(2)"),
    (nn.MaxPool2D((3, 2), 2, padding=1, ties="all"),
     "MaxPool2D((3, 2), stride=2, padding=1, ties='all')"),
    (nn.AvgPool2D(3, 3, count_include_pad=False), "AvgPool2D(3, count_include_pad=False)"),
    (nn.ZeroPad2D(2), "ZeroPad2D(2)"),
    (nn.Pad2D((1, 2), mode="edge"), "Pad2D(((1, 1), (2, 2)), mode='edge')"),
    (nn.Linear(4, 2, bias=False), "Linear(4, 2, bias=False)"),
    (nn.BatchNorm2D(8, momentum=None, eps=1e-3), "BatchNorm2D(8, eps=0.001, momentum=None)"),
    (nn.LayerNorm(8), "LayerNorm(8)"), (nn.Dropout(0.25), "Dropout(0.25)"),
    (nn.LayerNorm((8, 8), bias=False), "LayerNorm((8, 8), bias=False)"),
    (nn.Conv1D(1, 8, padding=(2, 0)), "Conv1D(1, 8, kernel_size=3, padding=(2, 0))"),
    (nn.MaxPool1D(3, 1), "MaxPool1D(3, stride=1)"),
    (nn.GroupNorm(2, 6, affine=False), "GroupNorm(2, 6, affine=False)"),
    (nn.InstanceNorm2D(3), "InstanceNorm2D(3)"), (nn.RMSNorm((4, 4)), "RMSNorm((4, 4))"),
    (nn.Upsample(scale_factor=2, mode="bilinear"), "Upsample(scale_factor=2, mode='bilinear')"),
    (nn.AdaptiveAvgPool2D((3, None)), "AdaptiveAvgPool2D((3, None))"),
    (nn.PixelShuffle(2), "PixelShuffle(2)"), (nn.HuberLoss(delta=2.0), "HuberLoss(delta=2.0)"),
    (nn.Unflatten(1, (2, 2)), "Unflatten(1, (2, 2))"), (nn.Lambda(tc.relu), "Lambda(relu)"),
    (nn.LeakyReLU(0.2), "LeakyReLU(negative_slope=0.2)"), (nn.ReLU(), "ReLU()"),
    (nn.ELU(), "ELU()"), (nn.Softmax(1), "Softmax(axis=1)"),
    (nn.GlobalAvgPool2D(True), "GlobalAvgPool2D(keepdims=True)"),
])
def test_a_layer_shows_what_is_not_the_default(layer, text):
    assert repr(layer) == text


# ---- refusals

@pytest.mark.parametrize("make, message", [
    (lambda: nn.Conv2D(0, 8), "Conv2D: in_channels must be an integer of at least 1, got 0"),
    (lambda: nn.Conv2D(1.5, 8), "in_channels must be an integer of at least 1, got 1.5"),
    (lambda: nn.Conv2D(1, 0), "out_channels must be an integer of at least 1"),
    (lambda: nn.Conv2D(1, None), "out_channels must be an integer of at least 1, got None"),
    (lambda: nn.Conv2D(1, 8, 0), "kernel_size must be at least 1 along each axis, got 0"),
    (lambda: nn.Conv2D(1, 8, stride=(1, 0)), "stride must be at least 1"),
    (lambda: nn.Conv2D(1, 8, padding=-1), "Conv2D: padding must be"),
    (lambda: nn.Conv2D(1, 8, padding="full"), "padding must be an integer, .*, 'same' or 'valid'"),
    (lambda: nn.Conv2D(3, 8, groups=2), "in_channels=3 is not divisible by groups=2"),
    (lambda: nn.Conv2D(4, 7, groups=2), "out_channels=7 is not divisible by groups=2"),
    (lambda: nn.Conv2D(1, 8, rng=0), r"rng must be a numpy.random.Generator, got 0"),
    (lambda: nn.Conv2D(1, 8, dtype=np.int64), "Conv2D: parameters are float32 or float64"),
    (lambda: nn.ConvTranspose2D(1, 8, output_padding=-1), "output_padding must be at least 0"),
    (lambda: nn.Linear(True, 8), "in_features must be an integer of at least 1, got True"),
    (lambda: nn.MaxPool2D(0), "MaxPool2D: kernel_size must be at least 1"),
    (lambda: nn.MaxPool2D(2, ties="last"), "ties must be one of first, split, all, got 'last'"),
    (lambda: nn.Pad2D(-1), "Pad2D: pad_width must be an integer"),
    (lambda: nn.Pad2D("same"), "Pad2D: pad_width must be .*, got 'same'"),
    (lambda: nn.Pad2D(1, mode="mirror"), "Pad2D: mode must be one of constant, .*, got 'mirror'"),
    (lambda: nn.Dropout(1.0), "p must be a number from 0 up to, not including, 1, got 1.0"),
    (lambda: nn.Dropout(math.nan), "p must be a number from 0 up to, not including, 1, got nan"),
    (lambda: nn.Dropout(rng=3), "rng must be a numpy.random.Generator"),
    (lambda: nn.BatchNorm2D(4, momentum=1.5), "momentum must be a number from 0 to 1, got 1.5"),
    (lambda: nn.BatchNorm2D(4, eps=0), "eps must be a finite number above 0, got 0"),
    (lambda: nn.LeakyReLU(math.inf), "negative_slope must be a finite number, got inf"),
    (lambda: nn.ELU("1"), "alpha must be a finite number, got '1'"),
    (lambda: nn.Conv1D(1, 2, (3, 3)), "kernel_size must be an integer of at least 1, got"),
    (lambda: nn.MaxPool1D(2, padding=((1, 1), (1, 1))), "padding must be"),
    (lambda: nn.Lambda(3), "Lambda: function must be callable, got 3"),
    (lambda: nn.Unflatten(1, (2, -2)), "unflattened_size must be integers of at least -1"),
    (lambda: nn.LayerNorm((2, 0)), r"normalized_shape must be integers of at least 1, got \(2, 0"),
    (lambda: nn.Softmax("last"), "axis must be an integer, got 'last'"),
])
def test_settings_out_of_range_are_refused_when_the_layer_is_made(make, message):
    with pytest.raises((tc.SettingError, tc.DTypeError), match=message):
        make()


@pytest.mark.parametrize("layer, shape, message", [
    (nn.Conv2D(3, 8), (2, 3, 32, 32), r"x has 32 channels but the layer takes 3\n  x \(N H W C\) = "
     r"\(2, 3, 32, 32\)\n  cure: these look like N C H W.*x\.transpose\(0, 2, 3, 1\)"),
    (nn.Conv2D(3, 8), (2, 8, 8, 4), r"x has 4 channels but the layer takes 3"),
    (nn.BatchNorm2D(3), (8, 8, 3), r"3 axes: \(8, 8, 3\)\n  cure: for a single image, x\[None\]"),
    (nn.Conv2D(1, 8), (2, 8, 8), r"cure: for gray images without a channel axis, x\[..., None\]"),
    (nn.Conv2D(1, 8, 5), (2, 4, 4, 1), r"does not fit in an image of \(4, 4\)"),
    (nn.MaxPool2D(2), (4, 4), r"MaxPool2D: x must hold images \(N H W C\), got 2 axes"),
    (nn.GlobalAvgPool2D(), (4, 4), "GlobalAvgPool2D: x must hold images"),
    (nn.ZeroPad2D(1), (4, 4), "ZeroPad2D: x must hold images"),
    (nn.Linear(48, 2), (5, 4, 4, 3), r"cure: nn.Flatten\(\) before this layer"),
    (nn.Linear(48, 2), (), "needs at least one axis"),
    (nn.Conv1D(3, 8), (2, 3), r"Conv1D: x must hold sequences \(N L C\), got 2 axes: \(2, 3\)"),
    (nn.MaxPool1D(3), (2, 4, 4, 3), r"MaxPool1D: x must hold sequences \(N L C\), got 4 axes"),
    (nn.Dropout2D(), (2, 3), r"Dropout2D: x must hold images \(N H W C\) or sequences"),
    (nn.Unflatten(2, 3), (2, 3), "axis 2 does not exist"),
    (nn.LayerNorm((4, 3)), (2, 3), r"last axes of x are \(2, 3\) but the layer takes \(4, 3\)"),
    (nn.GroupNorm(3, 6), (2, 4, 4, 5), "last axis of x has 5 entries but the layer takes 6"),
    (nn.InstanceNorm2D(3), (2, 4, 3), r"InstanceNorm2D: x must hold images \(N H W C\)"),
    (nn.Upsample(scale_factor=2), (4, 4), "Upsample: x must hold images"),
    (nn.BatchNorm2D(3), (2, 4, 4, 5), "x has 5 channels but the layer takes 3"),
    (nn.BatchNorm2D(3), (1, 1, 1, 3), "a variance needs two values"),
    (nn.BatchNorm1D(3), (2, 4, 4, 3), "cure: BatchNorm2D for images"),
    (nn.BatchNorm1D(3), (2, 4), "last axis of x has 4 entries but the layer takes 3"),
    (nn.LayerNorm(3), (2, 4), r"last axes of x are \(4,\) but the layer takes \(3,\)"),
])
def test_inputs_that_do_not_fit_are_refused_with_the_cure(layer, shape, message):
    with pytest.raises(tc.ShapeError, match=f"(?s){message}"):
        layer(np.ones(shape, np.float32))


@pytest.mark.parametrize("layer", [nn.Conv2D(1, 2), nn.Linear(1, 2), nn.BatchNorm2D(1),
                                   nn.LayerNorm(1), nn.ConvTranspose2D(1, 2)])
def test_floats_of_another_dtype_are_refused_with_the_cast(layer):
    with pytest.raises(tc.DTypeError, match=r"x is float64 but the parameters are float32\n  cure: "
                                            r"x.astype\(np.float32\), or model.astype"):
        layer(np.ones((2, 4, 4, 1)))


def test_integer_images_become_floats():
    assert nn.Conv2D(1, 2)(np.ones((1, 4, 4, 1), np.uint8)).dtype == np.float32
