"""The oracle itself: loops against NumPy's own padding and einsum, against adjoints and by hand."""

import itertools

import numpy as np
import pytest

from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.kernels import reference

CONVOLUTIONS = [
    # image, filters KH KW C/groups O, stride, padding, dilation, groups
    ((5, 6), (3, 2, 3, 4), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    ((7, 5), (2, 3, 2, 4), (2, 3), ((1, 0), (2, 1)), (1, 1), 2),
    ((7, 8), (3, 3, 1, 6), (2, 1), ((0, 2), (1, 1)), (2, 2), 3),
    ((6, 6), (1, 1, 2, 2), (3, 3), ((0, 0), (0, 0)), (1, 1), 1),    # rows are left over
]
POOLS = [
    # image, kernel_size, stride, padding
    ((4, 6), (2, 2), (2, 2), ((0, 0), (0, 0))),
    ((5, 7), (3, 2), (1, 1), ((1, 2), (0, 1))),                     # windows overlap
    ((5, 6), (2, 3), (3, 2), ((0, 1), (2, 0))),
]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def inner(a, b):
    return float(np.sum(a * b))


def patches(x, kernel, stride, padding, dilation):
    """N OH OW C KH KW by NumPy's sliding windows, which the loops know nothing of."""
    x = np.pad(x, ((0, 0), *padding, (0, 0)))
    spread = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, spread, axis=(1, 2))
    return view[:, ::stride[0], ::stride[1], :, ::dilation[0], ::dilation[1]]


@pytest.mark.parametrize(("image", "w_shape", "stride", "padding", "dilation", "groups"),
                         CONVOLUTIONS)
def test_conv2d_is_the_sum_over_windows_plus_the_bias_once(image, w_shape, stride, padding,
                                                           dilation, groups):
    x, w, b = normal(2, *image, w_shape[2] * groups), normal(*w_shape, seed=1), normal(w_shape[3])
    y = reference.conv2d(x, w, b, stride=stride, padding=padding, dilation=dilation, groups=groups)
    view = patches(x, w_shape[:2], stride, padding, dilation)
    view = view.reshape(*view.shape[:3], groups, w_shape[2], *w_shape[:2])
    filters = w.reshape(*w_shape[:3], groups, w_shape[3] // groups)
    expected = np.einsum("nijgcuv,uvcgo->nijgo", view, filters)
    np.testing.assert_allclose(y, expected.reshape(y.shape) + b, atol=1e-12)


@pytest.mark.parametrize(("image", "w_shape", "stride", "padding", "dilation", "groups"),
                         CONVOLUTIONS)
def test_the_three_faces_of_convolution_are_adjoint(image, w_shape, stride, padding, dilation,
                                                    groups):
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    x, w = normal(2, *image, w_shape[2] * groups), normal(*w_shape, seed=1)
    y = reference.conv2d(x, w, **settings)
    ct = normal(*y.shape, seed=2)
    ct_x = reference.conv2d_input(ct, w, image_size=image, **settings)
    ct_w = reference.conv2d_weight(x, ct, kernel_size=w_shape[:2], **settings)
    assert (ct_x.shape, ct_w.shape) == (x.shape, w.shape)
    assert inner(y, ct) == pytest.approx(inner(x, ct_x), rel=1e-12)
    assert inner(y, ct) == pytest.approx(inner(w, ct_w), rel=1e-12)


@pytest.mark.parametrize(("image", "kernel_size", "stride", "padding"), POOLS)
def test_windows_and_fold_are_adjoint_and_windows_copy(image, kernel_size, stride, padding):
    x = normal(2, *image, 3)
    view = reference.unfold(x, kernel_size=kernel_size, stride=stride, padding=padding, fill=0.0)
    assert np.array_equal(view, patches(x, kernel_size, stride, padding, (1, 1)))
    ct = normal(*view.shape, seed=1)
    back = reference.fold(ct, image_size=image, stride=stride, padding=padding)
    assert inner(view, ct) == pytest.approx(inner(x, back), rel=1e-12)


@pytest.mark.parametrize(("image", "kernel_size", "stride", "padding"), POOLS)
def test_the_index_of_a_window_is_that_of_its_first_maximum(image, kernel_size, stride, padding):
    x = np.round(normal(2, *image, 3))      # rounded, so that there are ties
    settings = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    y, residuals = reference.max_pool2d(x, **settings)
    view = reference.unfold(x, fill=-np.inf, **settings)
    assert np.array_equal(y, view.max((-1, -2)))
    assert np.array_equal(residuals["argmax_indices"], view.reshape(*view.shape[:4], -1).argmax(-1))
    assert residuals["argmax_indices"].dtype == np.uint8
    assert np.array_equal(reference.gather_max(x, **residuals, **settings), y)
    ct = normal(*y.shape, seed=1)
    back = reference.scatter_max(ct, **residuals, image_size=image, **settings)
    assert inner(y, ct) == pytest.approx(inner(x, back), rel=1e-12)
    every = reference.spread_maxima(ct, x, **settings)
    assert inner(view == y[..., None, None], ct[..., None, None]) == pytest.approx(every.sum())


def test_padding_never_wins_and_nan_always_does():
    settings = {"kernel_size": (2, 2), "stride": (2, 2)}
    low = np.full((1, 3, 3, 1), -np.inf)
    y, residuals = reference.max_pool2d(low, padding=((1, 0), (1, 0)), **settings)
    assert np.array_equal(y, np.full((1, 2, 2, 1), -np.inf))
    assert residuals["argmax_indices"][0, :, :, 0].tolist() == [[3, 2], [1, 0]]
    hole = np.array([[1.0, 9.0], [np.nan, 2.0]]).reshape(1, 2, 2, 1)
    y, residuals = reference.max_pool2d(hole, padding=((0, 0), (0, 0)), **settings)
    assert np.isnan(y.item())
    assert residuals["argmax_indices"].item() == 2


@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize(("image", "kernel_size", "stride", "padding"), POOLS)
def test_an_average_divides_by_the_window_or_by_the_pixels_in_it(image, kernel_size, stride,
                                                                 padding, count_include_pad):
    x = normal(2, *image, 3)
    settings = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    y = reference.avg_pool2d(x, count_include_pad=count_include_pad, **settings)
    view = reference.unfold(x, fill=0.0 if count_include_pad else np.nan, **settings)
    np.testing.assert_allclose(y, np.nanmean(view, axis=(-1, -2)), atol=1e-12)
    ct = normal(*y.shape, seed=1)
    back = reference.avg_pool2d_input(ct, image_size=image, count_include_pad=count_include_pad,
                                      **settings)
    assert inner(y, ct) == pytest.approx(inner(x, back), rel=1e-12)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_pad_is_that_of_numpy_however_wide_and_unpad_its_adjoint(n, mode):
    x = normal(2, n)
    for both in itertools.product((0, 1, 4, 9), (0, 2, 7)):
        pad_width = ((1, 0), both)
        wanted = np.pad(x, pad_width, mode=mode)
        assert np.array_equal(reference.pad(x, pad_width=pad_width, mode=mode, value=0.0), wanted)
        ct = normal(*wanted.shape, seed=1)
        back = reference.crop(ct, pad_width=pad_width, mode=mode)
        assert inner(wanted, ct) == pytest.approx(inner(x, back), rel=1e-12, abs=1e-12)


def test_pad_fills_with_a_value_and_refuses_a_mode_without_adjoint():
    padded = reference.pad(np.zeros((1, 2)), pad_width=((0, 0), (1, 2)), mode="constant", value=7.0)
    assert padded.tolist() == [[7.0, 0.0, 0.0, 7.0, 7.0]]
    with pytest.raises(SettingError, match=r"mode must be one of .* got 'median'"):
        reference.pad(np.zeros((1, 2)), pad_width=((0, 0), (1, 2)), mode="median", value=0.0)


def test_rows_agree_with_the_formulas_on_whole_arrays():
    x = normal(3, 4, 5)
    for axis in (0, 1, 2):
        sums = np.exp(x).sum(axis, keepdims=True)
        np.testing.assert_allclose(reference.softmax(x, axis=axis), np.exp(x) / sums)
        np.testing.assert_allclose(reference.log_softmax(x, axis=axis), x - np.log(sums))
    a, b, bias = normal(2, 1, 4, 5), normal(3, 5, 2, seed=1), normal(2)
    np.testing.assert_allclose(reference.matmul(a, b), a @ b, atol=1e-12)
    np.testing.assert_allclose(reference.linear(a[0, 0], b[0], bias), a[0, 0] @ b[0] + bias)


def test_rows_with_huge_entries_stay_finite():
    x = np.array([[1000.0, 0.0, -np.inf]])
    assert reference.softmax(x, axis=1).tolist() == [[1.0, 0.0, 0.0]]
    targets = np.array([[0.0, 1.0, 0.0]])
    assert reference.cross_entropy(x, targets=targets).tolist() == [1000.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_every_kernel_keeps_the_dtype(dtype):
    x, w = normal(1, 4, 4, 2).astype(dtype), normal(2, 2, 2, 3).astype(dtype)
    conv = {"stride": (1, 1), "padding": ((1, 0), (0, 1)), "dilation": (1, 1), "groups": 1}
    pool = {"kernel_size": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0))}
    y = reference.conv2d(x, w, **conv)
    p, argmax_indices = reference.max_pool2d(x, **pool)
    results = [
        y, reference.conv2d_input(y, w, image_size=(4, 4), **conv),
        reference.conv2d_weight(x, y, kernel_size=(2, 2), **conv), p,
        reference.gather_max(x, **argmax_indices, **pool),
        reference.scatter_max(p, **argmax_indices, image_size=(4, 4), **pool),
        reference.spread_maxima(p, x, **pool),
        reference.avg_pool2d(x, count_include_pad=True, **pool),
        reference.unfold(x, fill=0.0, **pool), reference.softmax(x, axis=3),
        reference.log_softmax(x, axis=3), reference.matmul(x, x.swapaxes(2, 3)),
        reference.pad(x, pad_width=((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect", value=0.0),
    ]
    assert {r.dtype for r in results} == {np.dtype(dtype)}
