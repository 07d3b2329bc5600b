"""Rubbish in, a sentence out: what went in, what was expected, and what to write instead.

Each row is a call and words of the refusal, which must begin with the name of the op.  The rows are
kept as strings, so that they read as a user would type them.
"""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import Tensor

f4 = np.float32


def zeros(*shape):
    return Tensor(np.zeros(shape, f4))


NAMES = {
    "tc": tc, "np": np, "Tensor": Tensor, "zeros": zeros, "f4": f4,
    "x": zeros(2, 8, 8, 3), "w": zeros(3, 3, 3, 4), "m": zeros(2, 3), "v": zeros(3), "b": zeros(4),
    "many": Tensor(np.ones(3, np.int64)),
}

WRONG = {
    "shapes and ranks": [
        ("tc.conv2d(zeros(8, 3), w)", tc.ShapeError,
         "conv2d: x needs 4 axes, got 2", "x (N H W C) = (8, 3)"),
        ("tc.conv2d(x, zeros(3, 3, 3))", tc.ShapeError,
         "conv2d: w needs 4 axes, got 3", "w (KH KW C/groups O) = (3, 3, 3)"),
        ("tc.conv2d(x, zeros(3, 3, 5, 4))", tc.ShapeError,
         "conv2d: C is 3 in x but 5 in w", "x (N H W C) = (2, 8, 8, 3)"),
        ("tc.conv2d(zeros(2, 3, 8, 8), w)", tc.ShapeError,
         "conv2d: C is 8 in x but 3 in w", "looks like N C H W", "transpose(x, (0, 2, 3, 1))"),
        ("tc.conv2d(x, w, zeros(5))", tc.ShapeError, "conv2d: O is 4 in w but 5 in b"),
        ("tc.conv2d(x, w, zeros(1, 4))", tc.ShapeError, "conv2d: b needs 1 axis, got 2"),
        ("tc.conv2d(x, zeros(9, 9, 3, 4))", tc.ShapeError,
         "conv2d: a filter of (9, 9) does not fit in an image of (8, 8)", "more padding"),
        ("tc.conv2d(x, w, dilation=4)", tc.ShapeError, "conv2d: a filter of (3, 3) with dilation"),
        ("tc.conv2d(x, zeros(3, 3, 3, 0))", tc.ShapeError, "conv2d: w", "holds no filter"),
        ("tc.conv2d(zeros(2, 0, 8, 3), w)", tc.ShapeError, "conv2d: a filter", "(0, 8)"),
        ("tc.conv2d(x, w, groups=2)", tc.ShapeError, "conv2d: C is 3 in x but 3 × 2 groups = 6"),
        ("tc.conv2d(x, zeros(3, 3, 1, 4), groups=3)", tc.ShapeError,
         "conv2d: the number of filters, 4, is not divisible by groups=3"),
        ("tc.conv_transpose2d(x, zeros(3, 3, 4, 5))", tc.ShapeError,
         "conv_transpose2d: C is 3 in x but 4 in w", "w (KH KW C O) = (3, 3, 4, 5)"),
        ("tc.conv_transpose2d(x, zeros(3, 3, 3, 5), b)", tc.ShapeError,
         "conv_transpose2d: b is (4,), the result has 5 channels"),
        ("tc.conv_transpose2d(x, zeros(3, 3, 3, 5), padding=20)", tc.ShapeError,
         "conv_transpose2d: padding ((20, 20), (20, 20)) cuts off the whole result"),
        ("tc.max_pool2d(m, kernel_size=2)", tc.ShapeError, "max_pool2d: x needs 4 axes, got 2"),
        ("tc.avg_pool2d(x, kernel_size=9)", tc.ShapeError, "avg_pool2d: a window of (9, 9)"),
        ("tc.global_avg_pool2d(m)", tc.ShapeError, "global_avg_pool2d: x needs 4 axes, got 2"),
        ("tc.global_avg_pool2d(zeros(2, 0, 4, 3))", tc.ShapeError,
         "global_avg_pool2d: the images of x (2, 0, 4, 3) (N H W C) have no pixel"),
        ("tc.linear(m, zeros(4, 5))", tc.ShapeError, "linear: I is 3 in x but 4 in w"),
        ("tc.linear(v[0], zeros(3, 5))", tc.ShapeError, "linear: x needs 2 axes, got 0"),
        ("m @ m", tc.ShapeError, "matmul: K is 3 in a but 2 in b", "b (... K N) = (2, 3)"),
        ("m @ 3", tc.ShapeError, "matmul: a and b need an axis", "multiply numbers with *"),
        ("zeros(2, 2, 3) @ zeros(3, 3, 4)", tc.ShapeError,
         "matmul: the axes in front, (2,) of a and (3,) of b, do not broadcast"),
        ("m + zeros(4)", tc.ShapeError, "add: axis -1 is 3 in one input and 4", "b = (4,)"),
        ("tc.where(m > 0, m, zeros(2))", tc.ShapeError, "where: axis -1", "condition = (2, 3)"),
        ("m == np.ones(7)", tc.ShapeError, "equal: shapes (2, 3) and (7,) do not broadcast"),
        ("tc.batch_norm(m, v, b)", tc.ShapeError, "batch_norm: x is (2, 3), w (3,) and b (4,)"),
        ("tc.batch_norm(v, v, v)", tc.ShapeError, "batch_norm: x needs two axes or more"),
        ("tc.batch_norm(m, v, v, mean=np.zeros(2), var=np.ones(3))", tc.ShapeError,
         "batch_norm: mean is (2,), the last axis of x (2, 3) needs (3,)"),
        ("tc.layer_norm(m, b, b)", tc.ShapeError, "layer_norm: w is (4,)", "needs (3,)"),
        ("tc.layer_norm(1.0, v, v)", tc.ShapeError, "layer_norm: x needs a last axis"),
        ("tc.reshape(m, 7)", tc.ShapeError, "reshape: 6 values of shape (2, 3) cannot fill (7,)"),
        ("tc.reshape(m, (4, -1))", tc.ShapeError, "reshape: 6 values", "cannot fill (4, -1)"),
        ("tc.flatten(1.0, 1)", tc.ShapeError, "flatten: axis 1 does not exist in an array of"),
        ("tc.squeeze(m, 0)", tc.ShapeError, "squeeze: axis 0 of (2, 3) has 2 entries, not one"),
        ("tc.concatenate([m, v])", tc.ShapeError, "concatenate: xs[0] is (2, 3) but xs[1] is (3,)"),
        ("tc.stack([m, v])", tc.ShapeError, "stack: xs[0] is (2, 3) but xs[1] is (3,)"),
        ("tc.broadcast_to(m, (3, 3))", tc.ShapeError,
         "broadcast_to: (2, 3) cannot be stretched to (3, 3)"),
        ("tc.sum_to(m, (3, 3))", tc.ShapeError, "sum_to: (2, 3) is not what broadcasting makes"),
        ("tc.pad(m, 1)", tc.ShapeError, "pad: pad_width 1 must hold one pair", "2 axes of (2, 3)"),
        ("tc.conv2d([[1, 2], [3]], w)", tc.ShapeError, "conv2d: x: the rows", "unequal lengths"),
    ],
    "axes and indices": [
        ("tc.sum(m, axis=2)", tc.ShapeError, "sum: axis 2 does not exist in an array of shape"),
        ("tc.mean(m, axis=(0, 0))", tc.SettingError, "mean: axis (0, 0) names an axis twice"),
        ("tc.max(m, axis=1.0)", tc.SettingError, "max: axis must be an integer, got 1.0"),
        ("tc.softmax(m, axis=2)", tc.ShapeError, "softmax: axis 2 does not exist"),
        ("tc.expand_dims(m, 5)", tc.ShapeError,
         "expand_dims: axis 5 does not exist in the result, which has 3 axes"),
        ("tc.stack([m, m], axis=5)", tc.ShapeError, "stack: axis 5 does not exist in the result"),
        ("tc.transpose(m, (0, 0))", tc.SettingError, "transpose: axes (0, 0) must name each"),
        ("tc.transpose(m, 1)", tc.SettingError, "transpose: axes must be a sequence of 2 integers"),
        ("m[5]", tc.ShapeError, "getitem: the index does not fit a tensor of shape (2, 3)"),
        ("m[0, 0, 0]", tc.ShapeError, "getitem: the index does not fit", "too many indices"),
        ("m[1.5]", tc.SettingError, "getitem: an index must be integers, booleans or slices"),
        ("m['a']", tc.SettingError, "getitem: an index must be", "got str"),
        ("m[[0, [1, 2]]]", tc.SettingError, "getitem: the rows of the index", "x[i, j]"),
    ],
    "settings": [
        ("tc.conv2d(x, w, stride=0)", tc.SettingError,
         "conv2d: stride must be at least 1 along each axis, got 0"),
        ("tc.conv2d(x, w, stride=(1, -2))", tc.SettingError,
         "conv2d: stride must be at least 1 along each axis, got (1, -2)"),
        ("tc.conv2d(x, w, stride=1.5)", tc.SettingError,
         "conv2d: stride must be one integer or two (down, across), got 1.5"),
        ("tc.conv2d(x, w, stride=(1, 2, 3))", tc.SettingError, "conv2d: stride must be one"),
        ("tc.conv2d(x, w, stride=None)", tc.SettingError, "conv2d: stride must be one", "None"),
        ("tc.conv2d(x, w, dilation=0)", tc.SettingError, "conv2d: dilation must be at least 1"),
        ("tc.conv2d(x, w, padding=-1)", tc.SettingError, "conv2d: padding must be", "got -1"),
        ("tc.conv2d(x, w, padding='full')", tc.SettingError,
         "conv2d: padding must be an integer,", "'same' or 'valid'", "got 'full'"),
        ("tc.conv2d(x, w, padding=(1, 2, 3, 4))", tc.SettingError, "conv2d: padding must be an"),
        ("tc.conv2d(x, w, groups=0)", tc.SettingError,
         "conv2d: groups must be an integer of at least 1, got 0"),
        ("tc.conv2d(x, w, groups=True)", tc.SettingError, "conv2d: groups must be an integer"),
        ("tc.conv_transpose2d(x, zeros(3, 3, 3, 5), output_padding=1)", tc.SettingError,
         "conv_transpose2d: output_padding (1, 1) must be smaller than stride (1, 1) or dilation"),
        ("tc.conv_transpose2d(x, zeros(3, 3, 3, 5), stride=2, padding='same', output_padding=1)",
         tc.SettingError, "conv_transpose2d: output_padding (1, 1) does not go with", "'same'"),
        ("tc.max_pool2d(x, kernel_size=0)", tc.SettingError, "max_pool2d: kernel_size must be at"),
        ("tc.max_pool2d(x, kernel_size='2')", tc.SettingError, "max_pool2d: kernel_size", "'2'"),
        ("tc.max_pool2d(x, kernel_size=2, padding=2)", tc.SettingError,
         "max_pool2d: padding ((2, 2), (2, 2))", "must be smaller than kernel_size"),
        ("tc.max_pool2d(x, kernel_size=2, ties='last')", tc.SettingError,
         "max_pool2d: ties must be one of first, split, all, got 'last'"),
        ("tc.avg_pool2d(x, kernel_size=2, count_include_pad='no')", tc.SettingError,
         "avg_pool2d: count_include_pad must be True or False, got 'no'"),
        ("tc.pad(x, -1)", tc.SettingError, "pad: pad_width must be an integer", "got -1"),
        ("tc.pad(x, 'same')", tc.SettingError, "pad: pad_width must be an integer", "got 'same'"),
        ("tc.pad(m, ((1, 1), (1, -1)))", tc.SettingError, "pad: pad_width must not be below 0",
         "to crop, index the tensor"),
        ("tc.pad(x, 1, mode='mirror')", tc.SettingError,
         "pad: mode must be one of constant, reflect, edge, wrap, got 'mirror'"),
        ("tc.pad(x, 1, value='a')", tc.SettingError, "pad: value must be a number, got 'a'"),
        ("tc.leaky_relu(m, negative_slope=np.nan)", tc.SettingError,
         "leaky_relu: negative_slope must be a finite number, got nan"),
        ("tc.elu(m, alpha=None)", tc.SettingError, "elu: alpha must be a finite number, got None"),
        ("tc.clip(m, 2, 1)", tc.SettingError, "clip: min is 2.0 and max 1.0"),
        ("tc.clip(m, 'a', 1)", tc.SettingError, "clip: min and max must be numbers, got 'a'"),
        ("tc.clip(m, np.ones(3), 1)", tc.SettingError, "clip: min and max", "use maximum()"),
        ("tc.where(m, m, m)", tc.SettingError, "where: condition must be boolean", "x > 0"),
        ("tc.sum(m, keepdims=1)", tc.SettingError, "sum: keepdims must be True or False, got 1"),
        ("tc.reshape(m, (-1, -1))", tc.SettingError, "reshape: only one axis can be worked out"),
        ("tc.reshape(m, (2.0, 3))", tc.SettingError, "reshape: shape must be an integer", "2.0"),
        ("tc.concatenate([])", tc.SettingError, "concatenate: xs is empty"),
        ("tc.concatenate(3)", tc.SettingError, "concatenate: xs must be a list or tuple of"),
        ("tc.stack([])", tc.SettingError, "stack: xs is empty"),
        ("tc.dropout(m, p=1)", tc.SettingError, "dropout: p must be a number from 0", "got 1"),
        ("tc.dropout(m, rng=0)", tc.SettingError, "rng must be a numpy.random.Generator, got 0"),
        ("tc.batch_norm(m, v, v, eps=0)", tc.SettingError, "batch_norm: eps must be a finite"),
        ("tc.batch_norm(m, v, v, mean=np.zeros(3))", tc.SettingError,
         "batch_norm: give both mean and var (evaluation), or neither (training)"),
        ("tc.batch_norm(m, v, v, mean=np.zeros(3), var=-np.ones(3))", tc.SettingError,
         "batch_norm: var must be at least 0, its least entry is -1.0"),
        ("tc.manual_seed(-1)", tc.SettingError, "manual_seed: seed must be an integer of at least"),
        ("tc.use_kernels('magic').__enter__()", tc.SettingError,
         "use_kernels: no op has a kernel 'magic'; choose from array, blas, compiled, reference"),
        ("tc.set_num_threads(0)", tc.SettingError, "set_num_threads: n must be", "got 0"),
    ],
    "dtypes": [
        ("tc.conv2d(x, np.zeros((3, 3, 3, 4)))", tc.DTypeError,
         "conv2d: x is float32 but w is float64; cast one: w.astype(np.float32)"),
        ("m + np.ones(3)", tc.DTypeError,
         "add: b is an array of float64 among tensors of float32; cast it: b.astype(np.float32)"),
        ("tc.concatenate([m, np.ones((2, 3))])", tc.DTypeError, "concatenate: xs[1] is an array"),
        ("tc.mse_loss(m, np.ones((2, 3)))", tc.DTypeError,
         "mse_loss: prediction is float32 but target float64", "target.astype(np.float32)"),
        ("Tensor(np.ones(2, int), requires_grad=True)", tc.DTypeError,
         "Tensor: int64 cannot require a gradient; cast it: data.astype(np.float32)"),
        ("tc.Parameter(np.array([True]))", tc.DTypeError, "Tensor: bool cannot require a gradient"),
        ("tc.exp(many)", tc.DTypeError, "exp: x is int64, and the result of exp is not; cast it"),
        ("many / 2", tc.DTypeError, "div: a is int64", "a.astype(np.float32)"),
        ("many / many", tc.DTypeError, "div: a is int64", "a.astype(np.float32)"),
        ("tc.mean(many)", tc.DTypeError, "mean: x is int64", "x.astype(np.float32)"),
        ("tc.softmax(many)", tc.DTypeError, "softmax: x is int64"),
        ("tc.avg_pool2d(Tensor(np.ones((1, 4, 4, 1), int)), kernel_size=2)", tc.DTypeError,
         "avg_pool2d: x is int64", "x.astype(np.float32)"),
        ("-Tensor(np.array([True]))", tc.DTypeError, "neg: x is bool", "x.astype(np.float32)"),
        ("tc.dropout(many)", tc.DTypeError, "dropout: x is int64", "x.astype(np.float32)"),
        ("tc.sum(Tensor(np.full(3, 200, np.uint8)))", tc.DTypeError,
         "sum: x is uint8, which cannot hold large sums"),
        ("tc.astype(m, 'float16')", tc.DTypeError, "astype: dtype float16 is not supported"),
        ("tc.astype(m, 'number')", tc.DTypeError, "astype: 'number' is not a dtype"),
        ("tc.tensor([1.0], dtype='number')", tc.DTypeError, "tensor: 'number' is not a dtype"),
        ("tc.tensor([1j])", tc.DTypeError, "tensor: dtype complex128 is not supported"),
        ("tc.tensor('abc')", tc.DTypeError, "tensor: data must be numbers, got str"),
        ("tc.tensor(None)", tc.DTypeError, "tensor: data must be numbers, got NoneType"),
        ("m + 'a'", tc.DTypeError, "add: b must be a tensor, an array or a number, got str"),
        ("m + None", tc.DTypeError, "add: b must be a tensor, an array or a number, got NoneType"),
        ("m * np.ones(3, complex)", tc.DTypeError, "mul: b must be", "ndarray of complex128"),
        ("tc.relu(None)", tc.DTypeError, "relu: x must be a tensor", "got NoneType"),
        ("tc.conv2d(None, w)", tc.DTypeError, "conv2d: x: data must be numbers, got NoneType"),
        ("tc.conv2d(x, 'w')", tc.DTypeError, "conv2d: w: data must be numbers, got str"),
        ("tc.batch_norm(m, None, None)", tc.DTypeError, "batch_norm: w must be a tensor"),
    ],
    "labels and losses": [
        ("tc.cross_entropy(m, [0, 3])", tc.SettingError,
         "cross_entropy: label 3 at position 1 is outside 0..2"),
        ("tc.cross_entropy(m, [0, -1])", tc.SettingError, "cross_entropy: label -1 at position 1"),
        ("tc.cross_entropy(m, [[0], [1]])", tc.ShapeError,
         "cross_entropy: labels have shape (2, 1)", "integer classes of shape (2,)"),
        ("tc.cross_entropy(m, [0, 1, 2])", tc.ShapeError, "cross_entropy: labels have shape (3,)"),
        ("tc.cross_entropy(m, 1)", tc.ShapeError, "cross_entropy: labels have shape ()"),
        ("tc.cross_entropy(m, [0.0, 1.0])", tc.DTypeError,
         "cross_entropy: labels of shape (2,) are classes and must be integers", "np.int64"),
        ("tc.cross_entropy(m, [0.0, np.nan])", tc.SettingError,
         "cross_entropy: labels hold NaN or infinity at (1,)"),
        ("tc.cross_entropy(m, [[0.5, 0.5, np.nan], [0, 0, 1]])", tc.SettingError,
         "cross_entropy: labels hold NaN or infinity at (0, 2)"),
        ("tc.cross_entropy(m, [[0.5, 0.5, 0.5], [0, 0, 1]])", tc.SettingError,
         "cross_entropy: soft labels must", "row 0 sums to 1.5"),
        ("tc.cross_entropy(m, [[1.5, -0.5, 0], [0, 0, 1]])", tc.SettingError,
         "cross_entropy: soft labels must be at least 0", "least entry is -0.5"),
        ("tc.cross_entropy(m, ['cat', 'dog'])", tc.DTypeError, "cross_entropy: labels must be int"),
        ("tc.cross_entropy(m, [True, False])", tc.DTypeError, "cross_entropy: labels", "bool"),
        ("tc.cross_entropy(m, None)", tc.DTypeError, "cross_entropy: labels must be", "object"),
        ("tc.cross_entropy(v[0], 1)", tc.ShapeError, "cross_entropy: the scores need", "(N ... K)"),
        ("tc.cross_entropy(zeros(2, 0), [0, 0])", tc.ShapeError,
         "cross_entropy: the scores (2, 0) hold no class"),
        ("tc.cross_entropy(zeros(0, 3), np.zeros(0, int))", tc.ShapeError,
         "cross_entropy: the batch is empty, scores have shape (0, 3)"),
        ("tc.cross_entropy(m, Tensor(np.ones((2, 3)) / 3, requires_grad=True))", tc.GradientError,
         "cross_entropy: labels is not differentiable", "labels.detach()"),
        ("tc.cross_entropy(m, [0, 1], label_smoothing=2)", tc.SettingError,
         "cross_entropy: label_smoothing must be a number from 0 to 1, got 2"),
        ("tc.cross_entropy(m, [0, 1], weight=[1, 2])", tc.SettingError,
         "cross_entropy: weight must hold one finite number", "3 classes, got [1, 2]"),
        ("tc.cross_entropy(m, [0, 1], weight=[1, 2, np.inf])", tc.SettingError,
         "cross_entropy: weight must hold", "got [1, 2, inf]"),
        ("tc.cross_entropy(m, [0, 1], weight='a')", tc.SettingError, "cross_entropy: weight must"),
        ("tc.cross_entropy(m, [0, 1], reduction='avg')", tc.SettingError,
         "cross_entropy: reduction must be one of mean, sum, none, got 'avg'"),
        ("tc.nll_loss(m, [0, 5])", tc.SettingError, "nll_loss: label 5 at position 1 is outside"),
        ("tc.nll_loss(m, [[0], [1]])", tc.ShapeError, "nll_loss: labels have shape (2, 1)"),
        ("tc.mse_loss(zeros(3, 1), v)", tc.ShapeError,
         "mse_loss: prediction has shape (3, 1) but target (3,)", "does not broadcast"),
        ("tc.mse_loss(v, zeros(3, 1))", tc.ShapeError, "mse_loss: prediction has shape (3,) but"),
        ("tc.mse_loss(v, 1.0)", tc.ShapeError, "mse_loss: prediction has shape (3,) but target ()"),
        ("tc.mse_loss(zeros(0), zeros(0))", tc.ShapeError, "mse_loss: the batch is empty"),
        ("tc.binary_cross_entropy_with_logits(v, [0, 1, 2])", tc.SettingError,
         "binary_cross_entropy_with_logits: labels must be from 0 to 1, got 0 to 2"),
        ("tc.binary_cross_entropy_with_logits(v, [0, 1, np.nan])", tc.SettingError,
         "binary_cross_entropy_with_logits: labels hold NaN at (2,)"),
        ("tc.binary_cross_entropy_with_logits(v, np.ones((3, 1)))", tc.ShapeError,
         "binary_cross_entropy_with_logits: logits has shape (3,) but labels (3, 1)"),
        ("tc.binary_cross_entropy_with_logits(v, ['a', 'b', 'c'])", tc.DTypeError,
         "binary_cross_entropy_with_logits: labels must be numbers from 0 to 1"),
    ],
    "empty batches": [
        ("tc.mean(zeros(0, 3), axis=0)", tc.ShapeError, "mean: axis (0,) of (0, 3) is empty"),
        ("tc.max(zeros(0, 3))", tc.ShapeError, "max: axis (0, 1) of (0, 3) is empty"),
        ("tc.logsumexp(zeros(2, 0))", tc.ShapeError, "logsumexp: axis (1,) of (2, 0) is empty"),
        ("tc.softmax(zeros(2, 0))", tc.ShapeError, "softmax: axis 1 of (2, 0) is empty"),
        ("tc.log_softmax(zeros(2, 0))", tc.ShapeError, "log_softmax: axis 1 of (2, 0) is empty"),
        ("tc.batch_norm(zeros(0, 3), v, v)", tc.ShapeError,
         "batch_norm: x is (0, 3), which is 0 for each channel", "needs two values"),
        ("tc.batch_norm(zeros(1, 3), v, v)", tc.ShapeError,
         "batch_norm: x is (1, 3), which is 1 for each channel", "evaluation mode"),
        ("tc.layer_norm(zeros(2, 0), zeros(0), zeros(0))", tc.ShapeError, "layer_norm: x needs"),
    ],
    "gradients": [
        ("m.backward()", tc.GradientError, "backward: nothing was recorded"),
        ("Tensor([1.0, 2.0], requires_grad=True).backward()", tc.GradientError,
         "backward: the output has shape (2,), not one element", ".sum() or .mean()"),
        ("tc.grad(m, m)", tc.GradientError, "grad: input 0 does not require a gradient"),
        ("m.item()", tc.ShapeError, "item: a tensor of shape (2, 3) holds 6 values, not one"),
        ("bool(m)", tc.ShapeError, "bool: a tensor of shape (2, 3) is neither true nor false"),
        ("m.__setitem__(0, 1.0)", tc.GradientError, "in-place assignment is not supported",
         "where()"),
    ],
}


@pytest.mark.parametrize("call, error, words", [
    pytest.param(call, error, words, id=f"{group}: {call}")
    for group, rows in WRONG.items() for call, error, *words in rows])
def test_a_wrong_call_is_answered_in_words(call, error, words):
    with pytest.raises(error) as caught:
        eval(call, dict(NAMES))
    message = str(caught.value)
    assert message.startswith(words[0])
    assert all(word in message for word in words), message
    assert len(caught.value.args) == 1


@pytest.mark.parametrize("call", [
    "tc.conv2d(x)", "tc.conv2d(x, w, b, 1, 0, 1, 1, 1)", "tc.conv2d(x, w, kernel_size=3)",
    "tc.max_pool2d(x)", "tc.max_pool2d(x, 2, 2, 0, 1, False, False, 1)",
    "tc.conv2d_input(x, w, (8, 8))", "tc.crop(m, ((1, 1), (0, 0)))",
])
def test_a_call_of_the_wrong_form_is_a_type_error_that_names_the_function(call):
    name = re.match(r"tc\.(\w+)", call)[1]
    with pytest.raises(TypeError, match=rf"^{name}(\(\)|: )"):
        eval(call, dict(NAMES))


@pytest.mark.parametrize("call, shape", [
    ("tc.conv2d(zeros(0, 8, 8, 3), w, padding=1)", (0, 8, 8, 4)),
    ("tc.conv_transpose2d(zeros(0, 4, 4, 3), zeros(3, 3, 3, 2))", (0, 6, 6, 2)),
    ("tc.max_pool2d(zeros(0, 8, 8, 3), kernel_size=2)", (0, 4, 4, 3)),
    ("tc.avg_pool2d(zeros(0, 8, 8, 3), kernel_size=2)", (0, 4, 4, 3)),
    ("tc.global_avg_pool2d(zeros(0, 8, 8, 3))", (0, 3)),
    ("tc.linear(zeros(0, 3), zeros(3, 5))", (0, 5)),
    ("tc.softmax(zeros(0, 3))", (0, 3)),
    ("tc.flatten(zeros(0, 2, 2, 3), 1)", (0, 12)),
    ("tc.layer_norm(zeros(0, 3), v, v)", (0, 3)),
    ("tc.relu(zeros(0, 3))", (0, 3)),
])
def test_an_empty_batch_passes_where_nothing_is_averaged_over_it(call, shape):
    assert eval(call, dict(NAMES)).shape == shape


def test_an_empty_batch_has_a_gradient_of_zero():
    w = tc.Parameter(np.ones((3, 3, 3, 4), f4))
    v = tc.Parameter(np.ones((4 * 16, 5), f4))
    x = Tensor(np.zeros((0, 8, 8, 3), f4), requires_grad=True)
    y = tc.max_pool2d(tc.relu(tc.conv2d(x, w, padding=1)), kernel_size=2)
    (tc.flatten(y, 1) @ v).sum().backward()
    assert x.grad.shape == (0, 8, 8, 3)
    assert not w.grad.data.any()
    assert not v.grad.data.any()


def test_every_group_of_calls_is_refused_without_a_warning_or_a_trace_of_numpy():
    for rows in WRONG.values():
        for call, error, *_ in rows:
            with pytest.raises(error) as caught:
                eval(call, dict(NAMES))
            assert type(caught.value).__module__ == "tinygrad_cnn", call


def test_numpy_functions_take_tensors_as_the_ops_do():
    x = Tensor(np.arange(3.0), requires_grad=True)
    assert np.broadcast_to(x, (2, 3)).shape == (2, 3)
    assert np.stack([x, x]).shape == (2, 3)
    assert np.pad(x, ((1, 1),)).shape == (5,)
    assert np.clip(x, 0, 1).data.tolist() == [0, 1, 1]


def out_of_range(value):
    """Settings of the same form that no op can take, or that few can."""
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        yield from (0, -1, 9)
    elif isinstance(value, tuple) and value and all(isinstance(e, int) for e in value):
        yield from (tuple(n for _ in value) for n in (0, -1, 9))
    elif isinstance(value, tuple) and value and all(isinstance(e, tuple) for e in value):
        yield from (tuple(tuple(n for _ in e) for e in value) for n in (-1, 9))
    elif isinstance(value, str):
        yield "nonsense"


@pytest.mark.parametrize("name", [
    n for n, op in tc.OPS.items() if hasattr(tc, n) and not op.variadic])
def test_a_setting_out_of_range_is_taken_or_refused_in_the_name_of_the_function(name):
    """Whichever op's shape rule is asked on the way, as an adjoint asks that of its op."""
    op, function = tc.OPS[name], getattr(tc, name)
    takes = inspect.signature(function).parameters
    for sample in list(op.test.samples(np.random.default_rng(0)))[:3]:
        given = {k: v for k, v in sample.settings.items() if k in takes}
        for key, value in given.items():
            for other in out_of_range(value):
                try:
                    function(*sample.args, **{**given, key: other})
                except tc.TinygradCnnError as error:
                    said = str(error)
                except (ValueError, LookupError, ArithmeticError):
                    # Adjoints take their settings as they are, from rules that have checked them.
                    assert takes[key].default is inspect.Parameter.empty, (key, other)
                    continue
                else:
                    continue
                assert said.startswith(f"{name}: "), (key, other, said)
