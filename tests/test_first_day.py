"""What a user of NumPy, PyTorch or MyGrad writes from habit runs, or the error names the cure.

Three lists: expressions on a tensor, the differentiable NumPy names of HIPS autograd, and the
functions of MyGrad.  Each expression runs and is compared, or its error holds the words that stand
behind the ``!``.
"""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import Tensor
from tinygrad_cnn.testing import check_gradients

# ---- 1: expressions on a tensor ------------------------------------------------------------------
#
# The first list is run on an array as well; in the second, of PyTorch's habits, "=" is followed by
# what NumPy gives, and "!" by words of the cure.

NUMPY = """
t.shape; t.ndim; t.size; t.nbytes; t.itemsize; len(t); t.dtype; t.T; t.mT; t.tolist(); s.item()
float(s); int(s); bool(s); complex(s); f"{s:.4f}"; f"{s:8.2e}"; "%.3f" % s; "{:.1f}".format(s)
format(s, "+.2f"); f"{v[0]:.3f}"; -t; +t; abs(t); t + 1; 1 - t; t * t; t / 2; 2 / t; t ** 2
2.0 ** t; t @ t.T; t % 0.5; t // 0.5; t == t; t > 1; t >= v; t != 1; t[0]; t[0, 1]; t[:, 1:]
t[..., None]; t[::-1]; t[t > 1]; t[[0, 1]]; t[i]; t[0, i]; t[np.arange(2), [0, 2]]; 7.0 in t
[row.sum() for row in t]; sum(t); max(v); sorted(v); [x + y for x, y in zip(v, v)]
list(enumerate(v)); v[-1]; np.asarray(t); np.array(t); reversed(v); t.copy(); t.astype(np.float64)
t.sum(); t.sum(0); t.sum(axis=1, keepdims=True); t.mean(axis=(0, 1)); t.var(); t.var(ddof=1)
t.std(); t.std(axis=0); t.max(1); t.min(); t.argmax(); t.argmax(1); t.argmin(0); t.argsort()
t.argsort(axis=0); t.cumsum(1); t.cumsum(axis=0); t.cumprod(0); t.prod(); t.prod(axis=1)
t.clip(0.5, 1.0); t.clip(min=1.0); t.round(1); t.reshape(3, 2); t.reshape((3, -1)); t.reshape(-1)
t.ravel(); t.flatten(); t[None].squeeze(); t[None].squeeze(0); t.transpose(); t.transpose(1, 0)
t.transpose((1, 0)); t.swapaxes(0, 1); t.repeat(2, axis=0); t.take([0, 2], axis=1); t.trace()
t.diagonal(); t.dot(t.T); t.nonzero(); t.any(); t.all(axis=1); (t > 1).sum()
"""

TORCH = """
t.size() ! x.shape
t.size(0) ! x.shape[0]
t.dim() = 2
t.numel() = 6
t.view(3, 2) = a.reshape(3, 2)
t.view(-1) = a.reshape(-1)
t.view(t.shape[0], -1) = a
t.permute(1, 0) = a.T
t.permute((1, 0)) = a.T
t.t() = a.T
t.unsqueeze(0) = a[None]
t.unsqueeze(-1) = a[..., None]
t.unsqueeze(dim=1) = a[:, None]
t.flatten(0) = a.reshape(-1)
t.flatten(1) = a
t.expand(4, 2, 3) = np.broadcast_to(a, (4, 2, 3))
t.expand_as(t) = a
t.broadcast_to((4, 2, 3)) = np.broadcast_to(a, (4, 2, 3))
t.tile((2, 1)) = np.tile(a, (2, 1))
t.repeat_interleave(2, 1) = a.repeat(2, 1)
t.chunk(3, 1) = np.split(a, 3, 1)
t.unbind(0) = list(a)
t.flip(0) = a[::-1]
t.flip([0, 1]) = a[::-1, ::-1]
t.roll(1, 0) = np.roll(a, 1, 0)
t.roll(1) = np.roll(a, 1)
t.topk(2)[0] = -np.sort(-a)[:, :2]
t.movedim(0, 1) = a.T
t.moveaxis(0, 1) = a.T
t.masked_fill(t > 1, 0.0) = np.where(a > 1, 0.0, a)
t.gather(1, j) = np.take_along_axis(a, j_, 1)
t.where(t > 1, t * 0) = np.where(a > 1, a, 0.0)
t.clamp(0.5, 1.0) = a.clip(0.5, 1.0)
t.clamp(min=1.0) = a.clip(min=1.0)
t.pow(2) = a ** 2
t.square() = a ** 2
t.sqrt() = np.sqrt(a)
t.rsqrt() = 1 / np.sqrt(a)
t.reciprocal() = 1 / a
t.exp() = np.exp(a)
t.log() = np.log(a)
t.log2() = np.log2(a)
t.log10() = np.log10(a)
t.log1p() = np.log1p(a)
t.expm1() = np.expm1(a)
t.sin() = np.sin(a)
t.cos() = np.cos(a)
t.tan() = np.tan(a)
t.arctan() = np.arctan(a)
t.sinh() = np.sinh(a)
t.tanh() = np.tanh(a)
t.sigmoid() = 1 / (1 + np.exp(-a))
t.relu() = np.maximum(a, 0)
t.softmax(1) = np.exp(a) / np.exp(a).sum(1, keepdims=True)
t.softmax(dim=1) = np.exp(a) / np.exp(a).sum(1, keepdims=True)
t.log_softmax(-1) = np.log(np.exp(a) / np.exp(a).sum(1, keepdims=True))
t.logsumexp(1) = np.log(np.exp(a).sum(1))
t.abs() = a
t.neg() = -a
t.sign() = np.sign(a)
t.floor() = np.floor(a)
t.ceil() = np.ceil(a)
t.round() = np.round(a)
t.add(1) = a + 1
t.sub(1) = a - 1
t.mul(2) = a * 2
t.div(2) = a / 2
t.matmul(t.T) = a @ a.T
t.sum(dim=1) = a.sum(1)
t.sum(1, keepdim=True) = a.sum(1, keepdims=True)
t.mean(1) = a.mean(1)
t.mean(dim=(0, 1)) = a.mean()
t.var(correction=1) = a.var(ddof=1)
t.norm() = np.linalg.norm(a)
t.norm(dim=1) = np.linalg.norm(a, axis=1)
t.prod(1) = a.prod(1)
t.cumsum(dim=1) = a.cumsum(1)
t.amax(1) = a.max(1)
t.amin(dim=0) = a.min(0)
t.argmax(dim=1) = a.argmax(1)
t.argmax(1, keepdim=True) = a.argmax(1)[:, None]
t.isnan().any() = False
t.isfinite().all() = True
t.eq(t) = a == a
t.gt(1.0) = a > 1
t.maximum(1 - t) = np.maximum(a, 1 - a)
t.allclose(t) = True
t.diag() = a.diagonal()
t.tril() = np.tril(a)
t.clone() = a
t.detach() = a
t.detach().numpy() = a
t.requires_grad = True
t.requires_grad_() = a
t.is_leaf = True
t.retain_grad() = None
t.register_hook(lambda g: None) is not None = True
round(s, 2) = 2.5
round(s) = 2
t.argmax(1).tolist() = a.argmax(1).tolist()
t.cpu() ! leave it out
t.cuda() ! leave it out
t.device ! in the memory of the CPU
t.to("cpu") ! x.astype
t.float() ! x.astype(np.float32)
t.contiguous() ! leave it out
t.grad_fn ! x.node
t.index_select(0, i) ! x.take
t.masked_select(t > 1) ! x[mask]
t.add_(1) ! x += y
t.zero_() ! x.data[...]
t.data_ptr() ! x.numpy()
t.repeat(2, 1) ! x.tile
t.sort() ! tc.sort
t.split(2, 1) ! tc.split
t.median() ! tc.median
"""


def lines(text):
    return [line.strip() for line in text.strip().splitlines()]


def rows():
    """(expression, what NumPy gives for it, words of the cure)."""
    for line in lines(NUMPY):
        for expression in line.split("; "):
            yield expression, None, None
    for line in lines(TORCH):
        if " ! " in line:
            expression, _, words = line.partition(" ! ")
            yield expression, None, words
        else:
            expression, _, value = line.rpartition(" = ")
            yield expression, value, None


EXPRESSIONS = list(rows())


def values(kind):
    """The names that the expressions use, with arrays of ``kind``."""
    a = np.array([[0.25, 1.5, 0.75], [1.25, 0.5, 1.75]])
    i, j = np.array([1, 0]), np.array([[2], [0]])
    return {"np": np, "t": kind(a), "a": a, "v": kind(a[0]), "s": kind(np.array(2.5)), "i": i,
            "j": j, "j_": j}


def leaf(array):
    return Tensor(array, requires_grad=True)


def same(ours, theirs):
    if isinstance(theirs, (list, tuple)) and isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs)
        for x, y in zip(ours, theirs, strict=True):
            same(x, y)
        return
    if hasattr(theirs, "__next__"):
        same(list(ours), list(theirs))
        return
    assert type(ours) is not np.ndarray or ours.dtype == np.asarray(theirs).dtype
    ours, theirs = (x.numpy() if isinstance(x, Tensor) else x for x in (ours, theirs))
    assert np.shape(ours) == np.shape(theirs)
    if np.asarray(theirs).dtype.kind in "fc":
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    else:
        assert np.array_equal(ours, theirs)


@functools.cache
def answer(expression, value, words):
    """Whether the expression works; fails if it is wrong, or refused without the cure."""
    if words is not None:
        with pytest.raises((AttributeError, TypeError, ValueError), match=re.escape(words)):
            eval(expression, values(leaf))
        return False
    same(eval(expression, values(leaf)), eval(value or expression, values(np.array)))
    return True


@pytest.mark.parametrize("row", EXPRESSIONS, ids=lambda row: row[0])
def test_an_expression_on_a_tensor_works_or_names_the_cure(row):
    answer(*row)


def test_the_expressions_of_pytorch_are_its_own():
    torch = pytest.importorskip("torch", reason="the values of PyTorch's habits come from it")
    for expression, value, _ in EXPRESSIONS:
        if value is None or re.search(r"register_hook|round\(s", expression):
            continue
        named = values(lambda array: torch.tensor(array, requires_grad=True))
        named["j"] = torch.tensor(named["j"])
        theirs = eval(expression, named)
        if isinstance(theirs, torch.Tensor):
            theirs = theirs.detach().numpy()
        elif isinstance(theirs, (list, tuple)):
            theirs = [x.detach().numpy() if isinstance(x, torch.Tensor) else x for x in theirs]
        same(theirs, eval(value, values(np.array)))


# ---- 2: the NumPy names that HIPS autograd differentiates ----------------------------------------
#
# From autograd/numpy/numpy_vjps.py of github.com/HIPS/autograd (August 2026), to which its tutorial
# refers under "Supported and unsupported parts of numpy/scipy": each public name of NumPy 2 that
# has a rule there.
HIPS = """
abs(t); absolute(t); add(t, t); amax(t, axis=1); amin(t); angle(t); arccos(h); arccosh(t + 1)
arcsin(h); arcsinh(t); arctan(t); arctan2(t, 2 - t); arctanh(h); array_split(v, 2); atleast_1d(s)
atleast_2d(v); atleast_3d(t); broadcast_to(v, (2, 3)); clip(t, 0.5, 1.1); concatenate([t, t])
conj(t); conjugate(t); cos(t); cosh(t); cross(v, t[1]); cumsum(t, axis=1); deg2rad(t); degrees(t)
diag(v); diagonal(t); diff(t); divide(t, 1 + t); dot(t, v); dsplit(t[..., None], 1)
einsum("ij,kj->ik", t, t); exp(t); exp2(t); expand_dims(t, 0); expm1(t); fabs(t); fliplr(t)
flipud(t); fmax(t, 1 - t); fmin(t, 1 - t); full((2, 2), s); gradient(v); hsplit(t, 3); hypot(t, t)
imag(t); inner(v, v); kron(v, v); linspace(s, 3.0, 5); log(t); log10(t); log1p(t); log2(t)
logaddexp(t, 1 - t); logaddexp2(t, 1 - t); matmul(t, t.T); max(t, axis=0); maximum(t, 1 - t)
mean(t, axis=0); min(t); minimum(t, 1 - t); mod(t, 0.4); moveaxis(t, 0, 1); multiply(t, t)
nan_to_num(t); negative(t); outer(v, v); pad(t, 1); partition(v, 1); power(t, 1.5); prod(t, axis=1)
rad2deg(t); radians(t); ravel(t); real(t); real_if_close(t); reciprocal(t); remainder(t, 0.4)
repeat(t, 2, axis=1); reshape(t, (3, 2)); roll(t, 1, axis=1); rollaxis(t, 1); rot90(t); sin(t)
sinc(t); sinh(t); sort(t, axis=1); split(t, 3, axis=1); sqrt(t); square(t); squeeze(t[None])
std(t, axis=1); subtract(t, v); sum(t, axis=0); swapaxes(t, 0, 1); tan(t); tanh(t)
tensordot(t, t, axes=((0, 1), (0, 1))); tile(t, (2, 1)); trace(t); transpose(t); tril(t); triu(t)
true_divide(t, 2 + t); var(t, axis=0); vsplit(t, 2); where(a > 1, t, 0.0)
"""

# ---- 3: the functions of MyGrad ------------------------------------------------------------------
#
# From docs/source/math.rst, tensor_manipulation.rst, linalg.rst, indexing.rst and nnet.rst of
# github.com/rsokl/MyGrad (December 2025): functions of tensors.  Functions that NumPy has as well
# are called as np.name(tensor), the others here as tc.name; constructors are not counted.
MYGRAD = """
sin(t); cos(t); tan(t); arcsin(h); arccos(h); arctan(t); arctan2(t, 2 - t); sinh(t); cosh(t)
tanh(t); arcsinh(t); arccosh(t + 1); arctanh(h); prod(t, axis=1); sum(t); cumprod(t, axis=1)
cumsum(t, axis=0); mean(t); var(t); std(t); amax(t); amin(t); max(t, axis=1); min(t); exp(t)
expm1(t); exp2(t); log(t); log10(t); log2(t); log1p(t); logaddexp(t, 1 - t); logaddexp2(t, 1 - t)
sinc(t); add(t, t); reciprocal(t); positive(t); negative(t); multiply(t, t); divide(t, 1 + t)
power(t, 1.5); subtract(t, v); clip(t, 0.5, 1.1); sqrt(t); cbrt(t); square(t); absolute(t)
maximum(t, 1 - t); minimum(t, 1 - t); ravel(t); reshape(t, (3, 2)); moveaxis(t, 0, 1); roll(t, 1)
swapaxes(t, 0, 1); transpose(t); atleast_1d(s); atleast_2d(v); atleast_3d(t)
broadcast_to(v, (2, 3)); expand_dims(t, 0); squeeze(t[None]); concatenate([t, t]); stack([t, t])
repeat(t, 2, axis=0); matmul(t, t.T); linalg.multi_dot([t, t.T, t]); einsum("ij,kj->ik", t, t)
linalg.norm(t); where(a > 1, t, 0.0)
lib.stride_tricks.sliding_window_view(t, 2, axis=1)
"""
MYGRAD_OWN = """
relu
elu
leaky_relu
sigmoid
softmax
selu
glu
hard_tanh
focal_loss
logsoftmax ! log_softmax
soft_sign ! softsign
softmax_crossentropy ! cross_entropy
negative_log_likelihood ! nll_loss
multiclass_hinge ! multi_margin_loss
margin_ranking_loss
softmax_focal_loss ! focal_loss
batchnorm ! batch_norm
conv_nd ! conv2d
max_pool ! max_pool2d
gru ! docs/recipes.md
add_sequence ! sum
multiply_sequence ! prod
"""

# Those of both lists that are refused, and those whose result is a plain array: the derivative of
# an angle or an imaginary part is 0 for real numbers; np.full asks for values.
REFUSED = {"linspace(s, 3.0, 5)"}
PLAIN = {"angle(t)", "imag(t)", "full((2, 2), s)"}


def calls(text):
    return [call for line in lines(text) for call in line.split("; ")]


@functools.cache
def numpy_answer(call):
    """Whether ``np.`` in front of the call gives NumPy's values and their gradient."""
    a = values(leaf)["a"]
    named = {"np": np, "a": a, "s": 2.5, "v": a[0], "t": a, "h": a / 2}
    used = [n for n in ("t", "v", "s", "h") if re.search(rf"\b{n}\b", call)]
    tensors = {n: leaf(np.asarray(named[n])) for n in used}
    if call in REFUSED:
        with pytest.raises(TypeError, match=f"np.{call.split('(')[0]} is not differentiable here"):
            eval("np." + call, named | tensors)
        return False
    ours = eval("np." + call, named | tensors)
    same(ours, eval("np." + call, named))
    if call in PLAIN:
        return False

    def function(*tensors):
        found = eval("np." + call, named | dict(zip(used, tensors, strict=True)))
        return sum(p.sum() for p in found) if isinstance(found, (list, tuple)) else found
    check_gradients(function, *(np.asarray(named[n], float) for n in used))
    return True


@pytest.mark.parametrize("call", calls(HIPS))
def test_a_name_of_hips_autograd_has_values_and_gradient_or_is_refused(call):
    numpy_answer(call)


@pytest.mark.parametrize("call", calls(MYGRAD))
def test_a_name_of_mygrad_has_values_and_gradient_or_is_refused(call):
    numpy_answer(call)


@functools.cache
def own_answer(name, words):
    """Whether ``tc.name`` is there; fails if it is missing without the cure."""
    if words is not None:
        with pytest.raises(AttributeError, match=re.escape(words)):
            getattr(tc, name)
        return False
    return callable(getattr(tc, name))


POSITIONS = """
tc.max_pool2d(x, 2, 1, 1) = tc.max_pool2d(x, kernel_size=2, stride=1, padding=1)
tc.avg_pool2d(x, 2, 2, 1) = tc.avg_pool2d(x, kernel_size=2, stride=2, padding=1)
tc.conv2d(x, w, b, 2, 1, 1, 1) = tc.conv2d(x, w, b, stride=2, padding=1, dilation=1, groups=1)
tc.conv_transpose2d(x, w, b, 2, 1) = tc.conv_transpose2d(x, w, b, stride=2, padding=1)
tc.dropout(x, 0.5, False) = x
tc.leaky_relu(x, 0.1) = tc.leaky_relu(x, negative_slope=0.1)
tc.elu(x, 2.0) = tc.elu(x, alpha=2.0)
tc.pad(x, 1, "edge") = tc.pad(x, pad_width=1, mode="edge")
tc.flatten(x, 1) = x.reshape(2, -1)
tc.softmax(x, 1) = tc.softmax(x, axis=1)
tc.clip(x, 0, 0.5) = np.clip(x, 0, 0.5)
tc.concatenate([x, x], 1) = tc.concatenate([x, x], axis=1)
"""


@pytest.mark.parametrize("line", lines(POSITIONS))
def test_settings_go_by_position_in_the_order_of_pytorch(line):
    rng = np.random.default_rng(0)
    named = {"tc": tc, "np": np, "x": leaf(rng.normal(size=(2, 6, 6, 3))),
             "w": leaf(rng.normal(size=(3, 3, 3, 3))), "b": leaf(rng.normal(size=3))}
    ours, theirs = (eval(side, named) for side in line.split(" = "))
    assert np.array_equal(ours.numpy(), theirs.numpy())


def test_how_many_of_the_three_lists_work(capsys):
    own = [row.partition(" ! ")[::2] for row in lines(MYGRAD_OWN)]
    works = {
        "expressions": [answer(*row) for row in EXPRESSIONS],
        "HIPS autograd": [numpy_answer(call) for call in calls(HIPS)],
        "MyGrad": [numpy_answer(call) for call in calls(MYGRAD)]
                  + [own_answer(name, words or None) for name, words in own],
    }
    with capsys.disabled():
        print("".join(f"\n{sum(found)} of {len(found)}: {name}" for name, found in works.items()))
    least = {"expressions": 200, "HIPS autograd": 100, "MyGrad": 75}
    for name, found in works.items():
        assert sum(found) >= least[name], name
