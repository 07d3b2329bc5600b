"""PyTorch as a second opinion: configurations of which its own samples have few.

Its samples judge every op in `test_opinfo`; here windows, their padding, ties and weighted labels
are drawn at random.  Value, gradient and second order.

Each case draws a configuration from its own seed, runs both libraries in float64 on the same
numbers, and compares the result, the gradient of Σ ct · y, and the gradient of the sum of that
gradient's products with fixed weights: everything that a rule of first or second order decides.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import tinygrad_cnn as tc

torch = pytest.importorskip("torch", reason="PyTorch is not installed: no second opinion")
functional = torch.nn.functional

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")

with warnings.catch_warnings():         # a first gradient imports modules that add filters
    _one = torch.ones(2, requires_grad=True)
    torch.autograd.grad(_one * 2, _one, torch.ones(2))


@pytest.fixture(autouse=True)
def one_torch_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- both libraries side by side -----------------------------------------------------------------

def images(x):
    """N H W C as PyTorch wants it: N C H W."""
    return x.permute(0, 3, 1, 2)


def back(y):
    return y.permute(0, 2, 3, 1)


def filters(w):
    """KH KW C O -> O C KH KW."""
    return w.permute(3, 2, 0, 1).contiguous()


def compare(ours, theirs, arrays, seed, digits=1e-9):
    """Value, first and second order of two functions of the same arrays."""
    rng = np.random.default_rng([seed, 1])
    leaves = [tc.Tensor(a, requires_grad=True) for a in arrays]
    others = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, z = ours(*leaves), theirs(*others)
    ct = np.asarray(rng.normal(size=y.shape))
    weights = [rng.normal(size=a.shape) for a in arrays]
    first = tc.grad(y, leaves, ct, create_graph=True)
    first_z = torch.autograd.grad(z, others, torch.tensor(ct), create_graph=True)
    total = sum((g * u).sum() for g, u in zip(first, weights, strict=True))
    total_z = sum((g * torch.tensor(u)).sum() for g, u in zip(first_z, weights, strict=True))
    if total.requires_grad:
        second = tc.grad(total, leaves)
    else:
        second = [None] * len(leaves)
    second_z = torch.autograd.grad(total_z, others, allow_unused=True) \
        if total_z.requires_grad else [None] * len(others)

    def plain(g, like):
        if g is None:
            return np.zeros(like.shape)
        return g.data if isinstance(g, tc.Tensor) else g.numpy(force=True)

    for what, a, b in (("value", [y], [z]), ("gradient", first, first_z),
                       ("second order", second, second_z)):
        likes = [y] if what == "value" else arrays
        for g, h, like in zip(a, b, likes, strict=True):
            np.testing.assert_allclose(plain(g, like), plain(h, like), rtol=digits, atol=digits,
                                       err_msg=what)


def integers(rng, low, high, count=2):
    """``count`` integers from ``low`` to ``high``, both included, as Python integers."""
    return tuple(int(n) for n in rng.integers(low, high + 1, count))


# ---- convolution ---------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(24))
def test_conv2d(seed):
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 1, 2, 3]))
    c, o = (groups * n for n in integers(rng, 1, 3))
    kernel, stride, dilation = integers(rng, 1, 3), integers(rng, 1, 3), integers(rng, 1, 2)
    top, bottom, left, right = integers(rng, 0, 2, 4)
    size = [(k - 1) * d + 1 + extra
            for k, d, extra in zip(kernel, dilation, integers(rng, 0, 5), strict=True)]
    x = rng.normal(size=(int(rng.integers(1, 3)), *size, c))
    w = rng.normal(size=(*kernel, c // groups, o))
    b = [rng.normal(size=o)] if rng.integers(2) else []

    def ours(x, w, b=None):
        return tc.conv2d(x, w, b, stride=stride, dilation=dilation, groups=groups,
                         padding=((top, bottom), (left, right)))

    def theirs(x, w, b=None):
        padded = functional.pad(images(x), (left, right, top, bottom))
        return back(functional.conv2d(padded, filters(w), b, stride=stride, dilation=dilation,
                                      groups=groups))

    compare(ours, theirs, [x, w, *b], seed)


@pytest.mark.parametrize("kernel, dilation", [((3, 3), (1, 1)), ((2, 4), (1, 1)),
                                              ((3, 2), (2, 2)), ((1, 5), (3, 1))])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_conv2d_with_same_padding_at_stride_1(kernel, dilation):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 7, 8, 2)), rng.normal(size=(*kernel, 2, 3))
    compare(lambda x, w: tc.conv2d(x, w, padding="same", dilation=dilation),
            lambda x, w: back(functional.conv2d(images(x), filters(w), padding="same",
                                                dilation=dilation)), [x, w], 0)


@pytest.mark.parametrize("seed", range(24))
def test_conv_transpose2d(seed):
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 1, 2, 3]))
    c, o = (groups * n for n in integers(rng, 1, 3))
    kernel, stride, dilation = integers(rng, 1, 3), integers(rng, 1, 3), integers(rng, 1, 2)
    padding = tuple(int(rng.integers(0, (k - 1) * d // 2 + 1))
                    for k, d in zip(kernel, dilation, strict=True))
    extra = tuple(int(rng.integers(0, max(s, d)))
                  for s, d in zip(stride, dilation, strict=True))
    x = rng.normal(size=(2, *integers(rng, 2, 4), c))
    w = rng.normal(size=(*kernel, c, o // groups))
    b = [rng.normal(size=o)] if rng.integers(2) else []

    def ours(x, w, b=None):
        return tc.conv_transpose2d(x, w, b, stride=stride, padding=padding, output_padding=extra,
                                   dilation=dilation, groups=groups)

    def theirs(x, w, b=None):
        # PyTorch's filters are C O KH KW here.
        return back(functional.conv_transpose2d(
            images(x), w.permute(2, 3, 0, 1).contiguous(), b, stride=stride, padding=padding,
            output_padding=extra, dilation=dilation, groups=groups))

    compare(ours, theirs, [x, w, *b], seed)


# ---- pooling -------------------------------------------------------------------------------------

def pooling(rng):
    kernel, stride = integers(rng, 1, 3), integers(rng, 1, 3)
    padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
    return kernel, stride, padding, rng.normal(size=(2, *integers(rng, 4, 8), 3))


@pytest.mark.parametrize("seed", range(6))
def test_max_pool2d_gives_a_tie_to_the_first(seed):
    rng = np.random.default_rng(seed)
    kernel, stride, padding, x = pooling(rng)
    x = rng.integers(0, 2, x.shape).astype(float)
    compare(lambda x: tc.max_pool2d(x, kernel_size=kernel, stride=stride, padding=padding),
            lambda x: back(functional.max_pool2d(images(x), kernel, stride, padding)), [x], seed)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("counted", [True, False])
def test_avg_pool2d(seed, counted):
    kernel, stride, padding, x = pooling(np.random.default_rng(seed))
    compare(lambda x: tc.avg_pool2d(x, kernel_size=kernel, stride=stride, padding=padding,
                                    count_include_pad=counted),
            lambda x: back(functional.avg_pool2d(images(x), kernel, stride, padding,
                                                 count_include_pad=counted)), [x], seed)


# ---- losses --------------------------------------------------------------------------------------

@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True], ids=["even", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("soft", [False, True], ids=["classes", "soft labels"])
def test_cross_entropy(reduction, weighted, smoothing, soft):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 4)) * 3
    labels = rng.dirichlet(np.ones(4), 6) if soft else rng.integers(0, 4, 6)
    weight = rng.uniform(0.5, 2, 4) if weighted else None
    if soft and reduction == "mean" and weighted:
        # PyTorch divides soft labels by N; here a weighted mean divides by the weights, always.
        divisor = float((labels * weight).sum()) / 6
    else:
        divisor = 1.0
    compare(lambda x: tc.cross_entropy(x, labels, label_smoothing=smoothing, weight=weight,
                                       reduction=reduction) * divisor,
            lambda x: functional.cross_entropy(
                x, torch.tensor(labels), label_smoothing=smoothing, reduction=reduction,
                weight=None if weight is None else torch.tensor(weight)), [x], 0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nll_loss(reduction):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    weight = rng.uniform(0.5, 2, 4)
    compare(lambda x: tc.nll_loss(tc.log_softmax(x), labels, weight=weight, reduction=reduction),
            lambda x: functional.nll_loss(torch.log_softmax(x, 1), torch.tensor(labels),
                                          torch.tensor(weight), reduction=reduction), [x], 0)


# ---- losses whose labels have no gradient here, and pools by position ----------------------------

@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_of_labels(reduction):
    rng = np.random.default_rng(0)
    p, t = rng.uniform(0.05, 0.95, (4, 3)), rng.uniform(0, 1, (4, 3))
    weight = rng.uniform(0.5, 2, 3)
    compare(lambda x: tc.binary_cross_entropy(x, t, weight=weight, reduction=reduction),
            lambda x: functional.binary_cross_entropy(
                x, torch.tensor(t), torch.tensor(np.broadcast_to(weight, (4, 3)).copy()),
                reduction=reduction), [p], 0)
    compare(lambda x: tc.binary_cross_entropy_with_logits(
                x, t, weight=weight, pos_weight=weight, reduction=reduction),
            lambda x: functional.binary_cross_entropy_with_logits(
                x, torch.tensor(t), torch.tensor(weight), pos_weight=torch.tensor(weight),
                reduction=reduction), [rng.normal(size=(4, 3))], 1)
    sides = np.array([1, -1, 1, -1])
    labels = np.tile(sides[:, None], 3)
    compare(lambda a, b: tc.margin_ranking_loss(a, b, labels, margin=0.5, reduction=reduction),
            lambda a, b: functional.margin_ranking_loss(
                a, b, torch.tensor(labels), margin=0.5, reduction=reduction),
            [rng.normal(size=(4, 3)) for _ in range(2)], 2)
    compare(lambda a, b: tc.cosine_embedding_loss(a, b, sides, margin=-0.5, reduction=reduction),
            lambda a, b: functional.cosine_embedding_loss(
                a, b, torch.tensor(sides), margin=-0.5, reduction=reduction),
            [rng.normal(size=(4, 3)) for _ in range(2)], 2)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("p", [1, 2])
def test_multi_margin_loss(p, reduction):
    scores = np.random.default_rng(0).normal(size=(4, 5))
    labels = np.array([0, 3, 4, 1])
    x, y = tc.Tensor(scores, requires_grad=True), torch.tensor(scores, requires_grad=True)
    ours = tc.multi_margin_loss(x, labels, p=p, margin=0.5, reduction=reduction)
    theirs = functional.multi_margin_loss(y, torch.tensor(labels), p=p, margin=0.5,
                                          reduction=reduction)
    np.testing.assert_allclose(ours.data, theirs.detach().numpy(), rtol=1e-12)
    ours.sum().backward()
    theirs.sum().backward()
    np.testing.assert_allclose(x.grad.data, y.grad.numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("gamma, alpha", [(2.0, 0.25), (0.0, None), (1.5, 0.75)])
def test_focal_loss_is_cross_entropy_times_a_power_of_what_is_missed(gamma, alpha):
    rng = np.random.default_rng(0)
    t = rng.integers(0, 2, (4, 3)).astype(float)

    def theirs(x):
        p, y = torch.sigmoid(x), torch.tensor(t)
        missed = torch.where(y == 1, 1 - p, p) ** gamma
        share = 1.0 if alpha is None else torch.where(y == 1, alpha, 1 - alpha)
        return (share * missed * functional.binary_cross_entropy_with_logits(
            x, y, reduction="none")).mean()

    compare(lambda x: tc.focal_loss(x, t, gamma=gamma, alpha=alpha), theirs,
            [rng.normal(size=(4, 3))], 0)


def test_dice_and_hinge_loss_by_hand():
    t = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    p = np.array([[0.5, 0.25, 1.0], [0.1, 0.0, 0.2]])
    expected = 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    np.testing.assert_allclose(tc.dice_loss(tc.Tensor(p), t, reduction="none").data, expected)
    y = tc.hinge_loss(tc.Tensor([0.5, -2.0, 3.0]), [1, 1, -1], margin=1.5, reduction="none")
    assert y.data.tolist() == [1.0, 3.5, 4.5]


@pytest.mark.parametrize("seed", range(12))
def test_max_pool2d_with_indices_goes_there_and_back(seed):
    rng = np.random.default_rng(seed)
    k, s = (int(n) for n in rng.integers(1, 4, 2))
    padding = int(rng.integers(0, k // 2 + 1))
    dilation, ceil = int(rng.integers(1, 3)), bool(rng.integers(2))
    x = rng.permutation(2 * 9 * 8 * 2).reshape(2, 9, 8, 2) / 7.0
    y, indices = tc.max_pool2d(tc.Tensor(x), k, s, padding, dilation, ceil, True)
    z, places = functional.max_pool2d(images(torch.tensor(x)), k, s, padding, dilation, ceil, True)
    np.testing.assert_array_equal(y.data, back(z).numpy())
    np.testing.assert_array_equal(indices, back(places).numpy())
    plain = tc.max_pool2d(tc.Tensor(x), k, s, padding, dilation, ceil)
    np.testing.assert_array_equal(plain.data, y.data)


def test_max_unpool2d_puts_each_back():
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3))
    y, indices = tc.max_pool2d(tc.Tensor(x), 2, return_indices=True)
    compare(lambda a: tc.max_unpool2d(a, indices, 2),
            lambda a: back(functional.max_unpool2d(
                images(a), torch.tensor(indices).permute(0, 3, 1, 2), 2)), [y.data], 0)
    with pytest.raises(tc.SettingError, match="two entries stand at one place"):
        tc.max_unpool2d(*tc.max_pool2d(tc.Tensor(np.eye(3).reshape(1, 3, 3, 1)), 2, 1,
                                       return_indices=True), 2, 1)
    whole = tc.global_max_pool2d(tc.Tensor(x))
    np.testing.assert_array_equal(whole.data, x.max((1, 2)))
