"""Every convention of docs/conventions.md, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import Tensor, nn


def image(*rows):
    """One image of one channel: 1 H W 1."""
    return Tensor(np.array(rows, float)[None, :, :, None], requires_grad=True)


def plane(t):
    """The first channel of the first image, as nested lists."""
    return t.data[0, :, :, 0].tolist()


def slope(f, *values):
    """The gradient of Σ f at these numbers, one list for each argument."""
    leaves = [Tensor(np.array(v, float), requires_grad=True) for v in values]
    found = tc.grad(f(*leaves).sum(), leaves)
    result = [np.zeros(x.shape).tolist() if g is None else g.data.tolist()
              for x, g in zip(leaves, found, strict=True)]
    return result[0] if len(result) == 1 else result


COUNTING = image([0, 1, 2], [3, 4, 5], [6, 7, 8])


# ---- convolution ---------------------------------------------------------------------------------

def test_filters_are_not_flipped():
    w = Tensor(np.array([[1.0, 10.0], [100.0, 1000.0]])[:, :, None, None])      # KH KW C O
    # at the top left: 1·0 + 10·1 + 100·3 + 1000·4
    assert plane(tc.conv2d(COUNTING, w)) == [[4310, 5421], [7643, 8754]]


def test_images_are_n_h_w_c_and_filters_kh_kw_c_o():
    x, w = np.zeros((2, 5, 7, 3)), np.zeros((2, 4, 3, 6))
    assert tc.conv2d(Tensor(x), Tensor(w)).shape == (2, 4, 4, 6)
    assert tc.linear(Tensor(np.zeros((2, 5))), Tensor(np.zeros((5, 3)))).shape == (2, 3)


def test_the_last_axis_of_the_filters_is_the_channel_that_comes_out():
    x = image([1.0])
    w = Tensor(np.array([2.0, 3.0]).reshape(1, 1, 1, 2))
    b = Tensor(np.array([10.0, 20.0]))
    assert tc.conv2d(x, w, b).data.ravel().tolist() == [12, 23]


@pytest.mark.parametrize("padding, edges", [
    (0, ((0, 0), (0, 0))), (1, ((1, 1), (1, 1))), ((1, 2), ((1, 1), (2, 2))),
    (((0, 1), (2, 3)), ((0, 1), (2, 3))), ([1, 2], ((1, 1), (2, 2))), ("valid", ((0, 0), (0, 0))),
    ("same", ((0, 1), (1, 1))),                 # of a 2 × 3 filter at stride 1
])
def test_padding_has_six_forms(padding, edges):
    x = np.random.default_rng(0).normal(size=(1, 4, 5, 2))
    w = Tensor(np.random.default_rng(1).normal(size=(2, 3, 2, 3)))
    expected = tc.conv2d(Tensor(np.pad(x, ((0, 0), *edges, (0, 0)))), w)
    np.testing.assert_array_equal(tc.conv2d(Tensor(x), w, padding=padding).data, expected.data)


@pytest.mark.parametrize("n, kernel, stride, dilation, before, after", [
    # total = (ceil(n / stride) − 1) · stride + reach − n; the odd pixel comes after
    (5, 3, 1, 1, 1, 1), (5, 2, 1, 1, 0, 1), (5, 4, 1, 1, 1, 2), (6, 3, 2, 1, 0, 1),
    (5, 3, 2, 1, 1, 1), (7, 5, 3, 1, 2, 2), (8, 5, 3, 1, 1, 2), (5, 3, 1, 2, 2, 2),
    (4, 1, 2, 1, 0, 0), (7, 2, 3, 1, 0, 1), (6, 2, 1, 3, 1, 2),
])
def test_same_makes_the_image_over_the_stride_and_puts_the_odd_pixel_last(
        n, kernel, stride, dilation, before, after):
    x = np.random.default_rng(0).normal(size=(1, n, 1, 1))
    w = Tensor(np.random.default_rng(1).normal(size=(kernel, 1, 1, 1)))
    settings = {"stride": (stride, 1), "dilation": (dilation, 1)}
    y = tc.conv2d(Tensor(x), w, padding="same", **settings)
    assert y.shape == (1, math.ceil(n / stride), 1, 1)
    expected = tc.conv2d(Tensor(x), w, padding=((before, after), (0, 0)), **settings)
    np.testing.assert_array_equal(y.data, expected.data)


@pytest.mark.parametrize("n, kernel, stride, padding, dilation, out", [
    (5, 3, 1, (0, 0), 1, 3), (5, 3, 2, (0, 0), 1, 2), (6, 3, 2, (0, 0), 1, 2),
    (6, 3, 2, (1, 0), 1, 3), (5, 3, 1, (0, 0), 2, 1), (7, 2, 3, (2, 1), 4, 2),
    (3, 3, 9, (0, 0), 1, 1),
])
def test_as_many_pixels_come_out_as_whole_windows_fit(n, kernel, stride, padding, dilation, out):
    y = tc.conv2d(Tensor(np.zeros((1, n, 1, 1))), Tensor(np.zeros((kernel, 1, 1, 1))),
                  stride=(stride, 1), padding=(padding, (0, 0)), dilation=(dilation, 1))
    assert y.shape == (1, out, 1, 1)


def test_pixels_that_no_whole_window_reaches_get_gradient_zero():
    x = image(*np.ones((5, 4)))
    tc.conv2d(x, Tensor(np.ones((2, 3, 1, 1))), stride=2).sum().backward()
    assert plane(x.grad) == [[1, 1, 1, 0]] * 4 + [[0, 0, 0, 0]]
    for pool in (tc.max_pool2d, tc.avg_pool2d):
        x = image(*np.arange(20.0).reshape(5, 4))
        pool(x, kernel_size=(2, 3), stride=2).sum().backward()
        assert (x.grad.data[0, 4] == 0).all()
        assert (x.grad.data[0, :, 3] == 0).all()
        assert x.grad.data.sum() == pytest.approx(2)


def test_stride_and_dilation_count_pixels_down_and_across():
    x = image(*np.arange(30.0).reshape(5, 6))
    w = Tensor(np.ones((2, 2, 1, 1)))
    # windows begin at rows 0, 2 and columns 0, 3; their pixels are 1 down and 2 across apart
    assert plane(tc.conv2d(x, w, stride=(2, 3), dilation=(1, 2))) == [
        [0 + 2 + 6 + 8, 3 + 5 + 9 + 11], [12 + 14 + 18 + 20, 15 + 17 + 21 + 23]]


def test_an_output_channel_reads_the_group_that_its_number_falls_into():
    x = Tensor(np.array([1.0, 10.0, 100.0, 1000.0]).reshape(1, 1, 1, 4))
    # O = 6 in 2 groups: channels 0, 1, 2 read inputs 0, 1; channels 3, 4, 5 read inputs 2, 3
    w = Tensor(np.ones((1, 1, 2, 6)))
    assert tc.conv2d(x, w, groups=2).data.ravel().tolist() == [11] * 3 + [1100] * 3
    depthwise = Tensor(np.arange(8.0).reshape(1, 1, 1, 8))
    # 8 filters in 4 groups: two filters for each channel
    assert tc.conv2d(x, depthwise, groups=4).data.ravel().tolist() == [
        0, 1, 20, 30, 400, 500, 6000, 7000]


def test_a_window_larger_than_the_padded_image_is_an_error():
    with pytest.raises(tc.ShapeError, match=r"filter of \(4, 3\) does not fit .* of \(3, 3\)"):
        tc.conv2d(COUNTING, Tensor(np.ones((4, 3, 1, 1))))
    y = tc.conv2d(COUNTING, Tensor(np.ones((4, 3, 1, 1))), padding=((0, 1), (0, 0)))
    assert plane(y) == [[36]]


def test_conv_transpose2d_has_filters_of_its_own_input_and_output():
    x, w = np.zeros((2, 3, 4, 5)), np.zeros((2, 2, 5, 7))                       # KH KW C O
    assert tc.conv_transpose2d(Tensor(x), Tensor(w)).shape == (2, 4, 5, 7)


def test_conv_transpose2d_spreads_each_pixel_and_adds_where_windows_overlap():
    x = image([1, 2])
    w = Tensor(np.array([1.0, 10.0, 100.0]).reshape(1, 3, 1, 1))
    assert plane(tc.conv_transpose2d(x, w)) == [[1, 12, 120, 200]]
    assert plane(tc.conv_transpose2d(x, w, stride=(1, 2))) == [[1, 10, 102, 20, 200]]
    assert plane(tc.conv_transpose2d(x, w, stride=(1, 2), padding=((0, 0), (1, 0)))) == [
        [10, 102, 20, 200]]
    assert plane(tc.conv_transpose2d(x, w, stride=(1, 2), output_padding=(0, 1))) == [
        [1, 10, 102, 20, 200, 0]]
    assert plane(tc.conv_transpose2d(x, w, dilation=(1, 2))) == [[1, 2, 10, 20, 100, 200]]


def test_conv_transpose2d_adds_its_bias_everywhere_even_past_the_last_window():
    y = tc.conv_transpose2d(image([1]), Tensor(np.ones((2, 2, 1, 1))), Tensor(np.array([5.0])),
                            dilation=3, output_padding=2)
    assert plane(y) == [[6, 5, 5, 6, 5, 5], [5] * 6, [5] * 6, [6, 5, 5, 6, 5, 5], [5] * 6, [5] * 6]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_conv_transpose2d_with_same_padding_multiplies_the_size_by_the_stride(stride, kernel):
    x, w = Tensor(np.zeros((1, 4, 5, 2))), Tensor(np.zeros((kernel, kernel, 2, 3)))
    y = tc.conv_transpose2d(x, w, stride=stride, padding="same")
    assert y.shape == (1, 4 * stride, 5 * stride, 3)


def test_conv_transpose2d_is_the_adjoint_of_conv2d():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 7, 6, 3)), rng.normal(size=(3, 2, 3, 4))
    y = tc.conv2d(Tensor(x), Tensor(w), stride=2, padding=1)
    ct = rng.normal(size=y.shape)
    # images of 7 × 6 leave a row and no column over, which output_padding puts back
    back = tc.conv_transpose2d(Tensor(ct), Tensor(w.transpose(0, 1, 3, 2)), stride=2, padding=1,
                               output_padding=(0, 0))
    assert back.shape == (2, 7, 6, 3)
    assert np.sum(y.data * ct) == pytest.approx(np.sum(x * back.data))


# ---- pooling -------------------------------------------------------------------------------------

def test_the_stride_of_a_pool_is_its_kernel_size_unless_given():
    x = Tensor(np.zeros((1, 7, 9, 1)))
    for pool in (tc.max_pool2d, tc.avg_pool2d):
        assert pool(x, kernel_size=(2, 3)).shape == (1, 3, 3, 1)
        assert pool(x, kernel_size=(2, 3), stride=1).shape == (1, 6, 7, 1)


def test_padding_never_wins_a_maximum():
    x = image([-5, -6], [-7, -8])
    assert plane(tc.max_pool2d(x, kernel_size=2, stride=1, padding=1)) == [
        [-5, -5, -6], [-5, -5, -6], [-7, -7, -8]]
    everywhere = image(*np.full((2, 2), -np.inf))
    y = tc.max_pool2d(everywhere, kernel_size=2, padding=1)
    y.sum().backward()
    assert plane(everywhere.grad) == [[1, 1], [1, 1]]


@pytest.mark.parametrize("padding", [2, ((0, 2), (0, 0)), ((0, 0), (3, 0))])
@pytest.mark.parametrize("pool", [tc.max_pool2d, tc.avg_pool2d])
def test_padding_is_smaller_than_the_window(pool, padding):
    with pytest.raises(tc.SettingError, match="padding must be smaller than kernel_size"):
        pool(image(*np.ones((4, 4))), kernel_size=2, padding=padding)


@pytest.mark.parametrize("ties, expected", [
    ("first", [[1, 0, 0], [1, 0, 0]]),              # in reading order
    ("split", [[0.5, 0.5, 0], [1, 0, 0]]),          # evenly
    ("all", [[1, 1, 0], [1, 0, 0]]),                # each the whole: the notebooks' rule
])
def test_a_tie_of_max_pool2d_goes_to_the_first_to_all_evenly_or_to_each(ties, expected):
    x = image([7, 7, 1], [9, 2, 1])
    tc.max_pool2d(x, kernel_size=(1, 3), ties=ties).sum().backward()
    assert plane(x.grad) == expected


def test_overlapping_windows_add_up():
    x = image([1, 5, 2])
    tc.max_pool2d(x, kernel_size=(1, 2), stride=1).sum().backward()
    assert plane(x.grad) == [[0, 2, 0]]
    x = image([1, 5, 2])
    tc.avg_pool2d(x, kernel_size=(1, 2), stride=1).sum().backward()
    assert plane(x.grad) == [[0.5, 1, 0.5]]


def test_nan_wins_a_maximum():
    x = image([1, np.nan, 3, 4])
    y = tc.max_pool2d(x, kernel_size=(1, 2))
    assert math.isnan(plane(y)[0][0])
    assert plane(y)[0][1] == 4


def test_avg_pool2d_counts_padding_unless_told_otherwise():
    x = image([4, 8], [12, 16])
    assert plane(tc.avg_pool2d(x, kernel_size=2, padding=1)) == [[1, 2], [3, 4]]
    assert plane(tc.avg_pool2d(x, kernel_size=2, padding=1, count_include_pad=False)) == [
        [4, 8], [12, 16]]


def test_pool_padding_same_makes_the_image_over_the_stride():
    x = image([1, 2, 3, 4, 5])
    assert plane(tc.max_pool2d(x, kernel_size=(1, 2), stride=(1, 2), padding="same")) == [[2, 4, 5]]


# ---- padding -------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode, padded, gradient", [
    ("constant", [9, 9, 1, 2, 3, 9], [1, 1, 1]), ("reflect", [3, 2, 1, 2, 3, 2], [1, 3, 2]),
    ("edge", [1, 1, 1, 2, 3, 3], [3, 1, 2]), ("wrap", [2, 3, 1, 2, 3, 1], [2, 2, 2]),
])
def test_pad_copies_outwards_and_its_gradient_adds_the_copies_back(mode, padded, gradient):
    x = Tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True)
    y = tc.pad(x, ((2, 1),), mode=mode, value=9.0)
    assert y.data.tolist() == padded
    y.sum().backward()
    assert x.grad.data.tolist() == gradient


def test_pad_of_images_takes_the_forms_of_padding():
    x = Tensor(np.zeros((1, 4, 5, 2)))
    for pad_width, shape in ((1, (1, 6, 7, 2)), ((1, 2), (1, 6, 9, 2)),
                          (((0, 1), (2, 3)), (1, 5, 10, 2)),
                          (((1, 0), (0, 0), (0, 2), (0, 0)), (2, 4, 7, 2))):
        assert tc.pad(x, pad_width).shape == shape


def test_concatenate_joins_the_first_axis_unless_told():
    x = Tensor(np.zeros((2, 3)))
    assert tc.concatenate([x, x]).shape == np.concatenate([x, x]).shape == (4, 3)
    assert tc.concatenate([x, x], axis=-1).shape == (2, 6)


def test_numpy_pads_every_axis_where_pad_takes_the_forms_of_padding():
    x = Tensor(np.zeros((1, 4, 5, 2)))
    assert np.pad(x, 1).shape == (3, 6, 7, 4)
    assert np.pad(x, (1, 2)).shape == (4, 7, 8, 5)
    assert np.pad(x, {1: (1, 2)}).shape == (1, 7, 5, 2)


# ---- kinks ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("f, values, expected", [
    (tc.relu, [-1, 0, 2], [0, 0, 1]),
    (lambda x: tc.leaky_relu(x, negative_slope=0.25), [-1, 0, 2], [0.25, 0.25, 1]),
    (lambda x: tc.elu(x, alpha=0.5), [0, 2], [0.5, 1]),
    (tc.abs, [-1, 0, 2], [-1, 0, 1]),
    (lambda x: tc.clip(x, -1, 1), [-2, -1, 0, 1, 2], [0, 1, 1, 1, 0]),
    (lambda x: tc.maximum(x, 0.0), [-1, 0, 2], [0, 0.5, 1]),
    (lambda x: tc.minimum(x, 0.0), [-1, 0, 2], [1, 0.5, 0]),
    (tc.max, [3, 1, 3, 3], [1 / 3, 0, 1 / 3, 1 / 3]),
    (tc.min, [3, 1, 3, 1], [0, 0.5, 0, 0.5]),
    (lambda x: tc.max(x, axis=1), [[1, 1], [1, 2]], [[0.5, 0.5], [0, 1]]),
])
def test_the_derivative_at_a_kink(f, values, expected):
    assert slope(f, values) == expected


def test_maximum_and_minimum_split_a_tie_between_the_two():
    assert slope(tc.maximum, [1, 2, 3], [2, 2, 2]) == [[0, 0.5, 1], [1, 0.5, 0]]
    assert slope(tc.minimum, [1, 2, 3], [2, 2, 2]) == [[1, 0.5, 0], [0, 0.5, 1]]


# ---- dtypes --------------------------------------------------------------------------------------

def test_a_gradient_has_the_dtype_of_its_tensor():
    for dtype in (np.float32, np.float64):
        x = Tensor(np.ones(3, dtype), requires_grad=True)
        (x * 2 + np.float64(1.5) - 1).mean().backward()
        assert x.grad.dtype == dtype


def test_integers_take_the_dtype_of_the_floats_they_meet_and_refuse_a_gradient():
    x = Tensor(np.ones((1, 2, 2, 1), np.uint8))
    w = Tensor(np.ones((1, 1, 1, 1), np.float32), requires_grad=True)
    assert tc.conv2d(x, w).dtype == np.float32
    with pytest.raises(tc.DTypeError, match="uint8 cannot require a gradient"):
        Tensor(x.data, requires_grad=True)


# ---- gradients -----------------------------------------------------------------------------------

def test_gradients_add_up_until_they_are_cleared():
    x = Tensor([1.0, 2.0], requires_grad=True)
    (x * 3).sum().backward()
    (x * 4).sum().backward()
    assert x.grad.data.tolist() == [7, 7]
    x.grad = None
    (x * 4).sum().backward()
    assert x.grad.data.tolist() == [4, 4]


def test_broadcasting_is_summed_back():
    assert slope(lambda a, b: a * b, [[1], [2]], [[3, 4, 5]]) == [[[12], [12]], [[3, 3, 3]]]


def test_an_entry_that_is_taken_twice_collects_both_gradients():
    assert slope(lambda x: x[[0, 2, 0]], [1, 2, 3]) == [2, 0, 1]


# ---- losses --------------------------------------------------------------------------------------

LOGITS = np.log([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]])      # already normalized


def test_cross_entropy_is_minus_the_logarithm_of_the_label_s_probability():
    loss = tc.cross_entropy(Tensor(LOGITS), [0, 2], reduction="none")
    np.testing.assert_allclose(loss.data, [math.log(2), math.log(4 / 3)])
    assert tc.cross_entropy(Tensor(LOGITS), [0, 2]).item() == pytest.approx(math.log(8 / 3) / 2)
    assert tc.cross_entropy(Tensor(LOGITS), [0, 2], reduction="sum").item() == pytest.approx(
        math.log(8 / 3))


def test_integer_one_hot_and_soft_labels_say_the_same():
    classes = tc.cross_entropy(Tensor(LOGITS), np.array([0, 2]))
    one_hot = tc.cross_entropy(Tensor(LOGITS), np.array([[1, 0, 0], [0, 0, 1]]))
    soft = tc.cross_entropy(Tensor(LOGITS), np.array([[1.0, 0, 0], [0, 0, 1.0]]))
    assert classes.item() == one_hot.item() == soft.item()
    half = tc.cross_entropy(Tensor(LOGITS[:1]), np.array([[0.5, 0.5, 0.0]]))
    assert half.item() == pytest.approx(1.5 * math.log(2))      # (log 2 + log 4) / 2


def test_a_weighted_mean_divides_by_the_sum_of_the_labels_weights():
    loss = tc.cross_entropy(Tensor(LOGITS), [0, 2], weight=[1, 10, 3])
    assert loss.item() == pytest.approx((math.log(2) + 3 * math.log(4 / 3)) / (1 + 3))
    soft = tc.cross_entropy(Tensor(LOGITS), np.array([[1.0, 0, 0], [0, 0, 1.0]]), weight=[1, 10, 3])
    assert soft.item() == pytest.approx(loss.item())


def test_weights_that_are_all_zero_have_a_sum_but_no_mean():
    assert tc.cross_entropy(Tensor(LOGITS), [0, 0], weight=[0, 1, 1], reduction="sum").item() == 0
    with pytest.raises(tc.SettingError, match="the weights of all labels are 0"):
        tc.cross_entropy(Tensor(LOGITS), [0, 0], weight=[0, 1, 1])


def test_label_smoothing_mixes_in_the_even_distribution():
    # 0.1 shared among three classes: 0.9 + 0.1/3 for the label, 0.1/3 for the others
    loss = tc.cross_entropy(Tensor(LOGITS[:1]), [0], label_smoothing=0.1)
    assert loss.item() == pytest.approx(0.9 * math.log(2)
                                        + 0.1 / 3 * (math.log(2) + 2 * math.log(4)))


def test_the_gradient_of_cross_entropy_is_softmax_minus_the_label_over_n():
    x = Tensor(LOGITS, requires_grad=True)
    tc.cross_entropy(x, [0, 2]).backward()
    np.testing.assert_allclose(x.grad.data, [[-0.25, 0.125, 0.125], [0.0625, 0.0625, -0.125]],
                               atol=1e-16)


def test_scores_of_minus_infinity_have_probability_zero_and_no_nan():
    x = Tensor(np.array([[0.0, 0.0, -np.inf]]), requires_grad=True)
    tc.cross_entropy(x, [1]).backward()
    assert x.grad.data.tolist() == [[0.5, -0.5, 0]]


def test_mse_loss_is_the_mean_over_all_entries():
    a, b = Tensor(np.array([[1.0, 2.0], [3.0, 4.0]])), np.array([[1.0, 4.0], [0.0, 4.0]])
    assert tc.mse_loss(a, b).item() == 13 / 4
    assert tc.mse_loss(a, b, reduction="sum").item() == 13
    assert tc.mse_loss(a, b, reduction="none").data.tolist() == [[0, 4], [9, 0]]


def test_binary_cross_entropy_takes_logits_of_any_size():
    loss = tc.binary_cross_entropy_with_logits(Tensor(np.array([0.0, 800.0, -800.0, 800.0])),
                                               [1, 1, 0, 0], reduction="none")
    np.testing.assert_allclose(loss.data, [math.log(2), 0, 0, 800])


# ---- norms ---------------------------------------------------------------------------------------

def test_batch_norm_takes_the_biased_variance_over_all_axes_but_the_last():
    x = Tensor(np.array([[0.0, 10.0], [2.0, 10.0], [4.0, 40.0]]))
    one, zero = Tensor(np.ones(2)), Tensor(np.zeros(2))
    y = tc.batch_norm(x, one, zero, eps=1e-12).data
    # mean 2, variance (4 + 0 + 4) / 3; mean 20, variance (100 + 100 + 400) / 3
    np.testing.assert_allclose(y[:, 0], np.array([-2, 0, 2]) / math.sqrt(8 / 3))
    np.testing.assert_allclose(y[:, 1], np.array([-10, -10, 20]) / math.sqrt(200))
    images = Tensor(x.data.reshape(1, 3, 1, 2))
    again = tc.batch_norm(images, one, zero, eps=1e-12).data
    np.testing.assert_array_equal(again.ravel(), y.ravel())


def test_batch_norm_in_evaluation_uses_the_statistics_that_it_is_given():
    y = tc.batch_norm(Tensor([[3.0]]), Tensor([2.0]), Tensor([10.0]), mean=[1.0], var=[4.0],
                      eps=1e-9)
    assert y.item() == pytest.approx(12)                # 2 · (3 − 1) / 2 + 10


def test_running_averages_take_the_unbiased_variance():
    layer = nn.BatchNorm2D(1)
    x = np.array([0.0, 2.0, 4.0]).reshape(1, 3, 1, 1).astype(np.float32)
    before = {name: np.array(value) for name, value in layer.state_dict().items()}
    layer(Tensor(x))
    after = {name: np.array(value) for name, value in layer.state_dict().items()}
    moved = {name: after[name] - before[name] for name in after if "running" in name}
    share = float(moved["running_mean"][0]) / 2         # mean 2, unbiased variance 8 / 2
    assert 0 < share < 1
    np.testing.assert_allclose(after["running_var"],
                               (1 - share) * before["running_var"] + share * 4, rtol=1e-6)


def test_layer_norm_standardises_each_row_over_the_last_axis():
    x = Tensor(np.array([[1.0, 3.0], [10.0, 30.0]]))
    y = tc.layer_norm(x, Tensor(np.array([1.0, 2.0])), Tensor(np.array([0.0, 5.0])), eps=1e-12)
    np.testing.assert_allclose(y.data, [[-1, 7], [-1, 7]])


def test_eps_is_added_to_the_variance_under_the_root():
    x, one, zero = Tensor(np.array([[1.0, 3.0]])), Tensor(np.ones(2)), Tensor(np.zeros(2))
    y = tc.layer_norm(x, one, zero, eps=3.0)
    assert y.data.tolist() == [[-0.5, 0.5]]             # variance 1, √(1 + 3) = 2


# ---- the rest ------------------------------------------------------------------------------------

def test_dropout_divides_what_it_keeps_by_the_probability_to_keep():
    x = Tensor(np.ones((100, 100)), requires_grad=True)
    y = tc.dropout(x, p=0.2, rng=np.random.default_rng(0))
    np.testing.assert_allclose(np.unique(y.data), [0, 1.25], rtol=1e-6)
    assert (y.data == 0).mean() == pytest.approx(0.2, abs=0.02)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.data, y.data)
    assert tc.dropout(x, p=0.2, training=False) is x


def test_gelu_is_exact_unless_its_tanh_form_is_asked_for():
    points = np.array([-1.0, 0.5, 2.0])
    exact = [x / 2 * (1 + math.erf(x / math.sqrt(2))) for x in points]
    np.testing.assert_allclose(tc.gelu(Tensor(points)).data, exact, rtol=1e-15)
    y = tc.gelu(Tensor(points), approximate="tanh").data
    np.testing.assert_allclose(y, exact, atol=5e-4)
    assert abs(y - exact).max() > 1e-5                  # close to x · Φ(x), and not the same


def test_erf_is_that_of_the_standard_library():
    points = np.concatenate([np.linspace(-7, 7, 2001), [np.inf, -np.inf, 0.0, 1e-300]])
    exact = [math.erf(x) for x in points]
    np.testing.assert_allclose(tc.erf(Tensor(points)).data, exact, rtol=4e-16)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_products_are_differentiated_without_division(n, zeros):
    values = np.arange(1.0, n + 1)
    values[:zeros] = 0
    x = Tensor(values, requires_grad=True)
    tc.prod(x).backward()
    others = [np.prod(np.delete(values, i)) for i in range(n)]
    np.testing.assert_array_equal(x.grad.data, others)
    np.testing.assert_array_equal(tc.cumprod(x).data, np.cumprod(values))


def test_a_norm_neither_overflows_nor_has_a_gradient_at_zero():
    for size in (1e200, 1e-200, 1.0):
        x = Tensor(np.array([3.0, 4.0]) * size, requires_grad=True)
        y = tc.norm(x)
        y.backward()
        np.testing.assert_allclose([y.item() / size, *x.grad.data], [5, 0.6, 0.8], rtol=1e-15)
    x = Tensor(np.zeros(3), requires_grad=True)
    (tc.norm(x) + tc.norm(x, 3) + tc.norm(x, 1)).backward()
    assert x.grad.data.tolist() == [0, 0, 0]


def test_sorted_entries_take_their_gradients_back():
    x = Tensor(np.array([3.0, 1.0, 2.0]), requires_grad=True)
    (tc.sort(x) * np.array([1.0, 10.0, 100.0])).sum().backward()
    assert x.grad.data.tolist() == [100, 1, 10]
    values, places = tc.topk(x, 2)
    assert values.data.tolist() == [3, 2] and places.tolist() == [0, 2]


def test_flatten_keeps_the_batch_and_reads_row_by_row():
    x = Tensor(np.arange(8.0).reshape(2, 2, 1, 2))
    assert tc.flatten(x, 1).data.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_var_is_biased():
    assert tc.var(Tensor(np.array([1.0, 3.0]))).item() == 1
