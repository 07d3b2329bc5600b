"""PyTorch as a judge of everything that trains: layers, losses, optimizers, lr_scheduler.

Both libraries start from the same weights and see the same batches for 20 steps.  In float64 they
agree to 1e-10.  In float32 ours is held to PyTorch in float64: 20 steps that each lose some 32
units of roundoff make 4e-5.  Every public class has an entry here, or a reason to have none.
"""

from __future__ import annotations

import inspect
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn, optim
from tinygrad_cnn.optim import lr_scheduler

torch = pytest.importorskip("torch", reason="PyTorch is not installed: no second opinion")
there = torch.nn

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning:torch"),
              pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")]

STEPS = 20
TOLERANCE = {np.float64: 1e-10, np.float32: STEPS * 32 * 2.0 ** -24}
both_dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])

with warnings.catch_warnings():         # a first step imports modules that add filters
    warnings.simplefilter("ignore")
    _weight = there.Parameter(torch.zeros(1))
    (_weight * 2).sum().backward()
    torch.optim.SGD([_weight], 0.1).step()


@pytest.fixture(autouse=True)
def one_torch_thread_and_its_random_numbers():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    usual = torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)              # also of the numbers that optimizers keep
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(usual)
    torch.set_rng_state(state)


# ---- both layouts --------------------------------------------------------------------------------

def to_torch(a):
    """N ... C -> N C ... , in float64."""
    return torch.tensor(np.ascontiguousarray(np.moveaxis(a, -1, 1)).astype(np.float64)
                        if a.ndim > 2 else a.astype(np.float64))


def from_torch(t):
    a = t.numpy(force=True)
    return np.moveaxis(a, 1, -1) if a.ndim > 2 else a


ORDERS = {nn.Conv2D: (2, 3, 1, 0), nn.ConvTranspose2D: (2, 3, 0, 1), nn.Conv1D: (2, 1, 0),
          nn.ConvTranspose1D: (2, 0, 1), nn.Linear: (1, 0)}


def in_our_order(model, arrays):
    """PyTorch's weights, by name, with their axes in our order; ``model`` is ours."""
    found = {}
    for name, array in arrays.items():
        module = model
        *path, last = name.split(".")
        for part in path:
            module = module[int(part)] if part.isdecimal() else getattr(module, part)
        order = ORDERS.get(type(module)) if last == "weight" else None
        found[name] = array.transpose(order) if order else array
    return found


def states(model):
    """Its state dict; class weights, which a loss keeps there, are settings of ours."""
    return {k: np.asarray(v.numpy(force=True)) for k, v in model.state_dict().items()
            if not isinstance(model, there.modules.loss._Loss)}


def gradients(model):
    return {k: p.grad if p.grad is None else p.grad.numpy() for k, p in model.named_parameters()}


def agree(name, ours, theirs, dtype):
    size = np.abs(theirs).max(initial=1)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE[dtype] * size, err_msg=name)


# ---- layers and losses ---------------------------------------------------------------------------

@dataclass(frozen=True)
class Pair:
    """One setting of a layer, here and there, and the shape of its input, N ... C."""

    ours: Any
    theirs: Any
    shape: tuple[int, ...]
    labels: Any = None          # of a loss: rng -> array
    modes: tuple[bool, ...] = (True, False)
    layout: bool = True         # whether PyTorch wants N C ...


def same(ours, theirs, *shapes):
    """An elementwise layer."""
    return [Pair(ours, theirs, shape) for shape in shapes or ((4, 3), (2, 3, 4, 5))]


def classes(k, *shape):
    return lambda rng: rng.integers(0, k, shape)


def soft(k, *shape):
    return lambda rng: rng.dirichlet(np.ones(k), shape)


def between(*shape):
    return lambda rng: rng.uniform(0, 1, shape)


WEIGHT = np.array([0.5, 2.0, 1.0, 0.25])
REDUCTIONS = ("mean", "sum", "none")


def torch_weight(reduction, **more):
    return {"reduction": reduction, "weight": torch.tensor(WEIGHT), **more}


class Flat(there.Module):
    """Flattening in our order of axes."""

    def forward(self, x):
        return x.movedim(1, -1).flatten(1) if x.ndim > 2 else x


class Sixth(there.Module):
    """PyTorch's Hardsigmoid takes 1/6 in float32 on the way back, in float64 too."""

    def forward(self, x):
        return there.functional.relu6(x + 3) / 6


LAYERS: dict[type, list[Pair]] = {
    nn.Conv2D: [
        Pair(lambda: nn.Conv2D(3, 4, 3), lambda: there.Conv2d(3, 4, 3), (2, 6, 5, 3)),
        Pair(lambda: nn.Conv2D(4, 6, (3, 2), stride=(2, 1), padding=1, dilation=(1, 2), groups=2),
             lambda: there.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=1, dilation=(1, 2),
                                  groups=2), (2, 7, 8, 4)),
        Pair(lambda: nn.Conv2D(3, 4, (2, 4), padding="same", bias=False),
             lambda: there.Conv2d(3, 4, (2, 4), padding="same", bias=False), (2, 6, 5, 3)),
        Pair(lambda: nn.Conv2D(None, 8, 3, groups=4, padding=(0, 2)),
             lambda: there.Conv2d(4, 8, 3, groups=4, padding=(0, 2)), (2, 6, 5, 4)),
        *(Pair(lambda mode=mode, border=border: nn.Conv2D(3, 4, (3, 2), padding=border,
                                                          dilation=(1, 2), padding_mode=mode),
               lambda mode=mode, border=border: there.Conv2d(3, 4, (3, 2), padding=border,
                                                             dilation=(1, 2), padding_mode=mode),
               (2, 6, 5, 3))
          for mode in ("reflect", "replicate", "circular") for border in ((2, 1), "same"))],
    nn.ConvTranspose2D: [
        Pair(lambda: nn.ConvTranspose2D(3, 4, 3), lambda: there.ConvTranspose2d(3, 4, 3),
             (2, 4, 5, 3)),
        Pair(lambda: nn.ConvTranspose2D(4, 6, (3, 2), stride=(2, 3), padding=(1, 0),
                                        output_padding=(1, 2), groups=2, bias=False),
             lambda: there.ConvTranspose2d(4, 6, (3, 2), stride=(2, 3), padding=(1, 0),
                                           output_padding=(1, 2), groups=2, bias=False),
             (2, 4, 5, 4)),
        Pair(lambda: nn.ConvTranspose2D(2, 3, 2, dilation=2),
             lambda: there.ConvTranspose2d(2, 3, 2, dilation=2), (2, 4, 5, 2))],
    nn.Conv1D: [
        Pair(lambda: nn.Conv1D(3, 4, 3), lambda: there.Conv1d(3, 4, 3), (2, 7, 3)),
        Pair(lambda: nn.Conv1D(None, 6, 2, 2, 3, 2, 2, False, "circular"),
             lambda: there.Conv1d(4, 6, 2, 2, 3, 2, 2, False, "circular"), (2, 7, 4)),
        Pair(lambda: nn.Conv1D(3, 4, 4, padding="same"),
             lambda: there.Conv1d(3, 4, 4, padding="same"), (2, 7, 3))],
    nn.ConvTranspose1D: [
        Pair(lambda: nn.ConvTranspose1D(4, 6, 3, 3, 1, 2, 2, False),
             lambda: there.ConvTranspose1d(4, 6, 3, 3, 1, 2, 2, False), (2, 5, 4))],
    nn.SeparableConv2D: [
        Pair(lambda: nn.SeparableConv2D(3, 4, 3, 2, 1), lambda: there.Sequential(OrderedDict(
            depthwise=there.Conv2d(3, 3, 3, 2, 1, groups=3, bias=False),
            pointwise=there.Conv2d(3, 4, 1))), (2, 6, 5, 3))],
    nn.Linear: [
        Pair(lambda: nn.Linear(5, 3), lambda: there.Linear(5, 3), (4, 5)),
        Pair(lambda: nn.Linear(None, 3, bias=False), lambda: there.Linear(5, 3, bias=False),
             (4, 2, 5), layout=False)],
    nn.BatchNorm1D: [
        Pair(lambda: nn.BatchNorm1D(3), lambda: there.BatchNorm1d(3), (6, 3)),
        Pair(lambda: nn.BatchNorm1D(3, momentum=None, eps=1e-3),
             lambda: there.BatchNorm1d(3, momentum=None, eps=1e-3), (4, 5, 3)),
        Pair(lambda: nn.BatchNorm1D(3, momentum=0.7, affine=False),
             lambda: there.BatchNorm1d(3, momentum=0.7, affine=False), (6, 3))],
    nn.BatchNorm2D: [
        Pair(lambda: nn.BatchNorm2D(3), lambda: there.BatchNorm2d(3), (2, 3, 4, 3)),
        Pair(lambda: nn.BatchNorm2D(None, momentum=None, eps=1e-3),
             lambda: there.BatchNorm2d(3, momentum=None, eps=1e-3), (2, 3, 4, 3)),
        Pair(lambda: nn.BatchNorm2D(3, momentum=0.0), lambda: there.BatchNorm2d(3, momentum=0.0),
             (2, 3, 4, 3)),
        Pair(lambda: nn.BatchNorm2D(3, momentum=1.0, affine=False),
             lambda: there.BatchNorm2d(3, momentum=1.0, affine=False), (2, 3, 4, 3)),
        Pair(lambda: nn.BatchNorm2D(3, track_running_stats=False),
             lambda: there.BatchNorm2d(3, track_running_stats=False), (2, 3, 4, 3))],
    nn.LayerNorm: [
        Pair(lambda: nn.LayerNorm(5), lambda: there.LayerNorm(5), (4, 5)),
        *(Pair(lambda a=a: nn.LayerNorm(*a), lambda a=a: there.LayerNorm(*a), (2, 3, 5),
               layout=False) for a in ((5, 1e-2, True, False), ((3, 5),), ([3, 5], 1e-5, False)))],
    nn.RMSNorm: [
        Pair(lambda: nn.RMSNorm(5), lambda: there.RMSNorm(5), (4, 5)),
        Pair(lambda: nn.RMSNorm((3, 5), 1e-2), lambda: there.RMSNorm((3, 5), 1e-2), (2, 3, 5),
             layout=False),
        Pair(lambda: nn.RMSNorm(5, None, False), lambda: there.RMSNorm(5, None, False), (4, 5))],
    nn.GroupNorm: [
        Pair(lambda: nn.GroupNorm(2, 6), lambda: there.GroupNorm(2, 6), (3, 4, 5, 6)),
        Pair(lambda: nn.GroupNorm(3, None, 1e-2), lambda: there.GroupNorm(3, 6, 1e-2), (3, 6)),
        Pair(lambda: nn.GroupNorm(1, 6, 1e-5, False), lambda: there.GroupNorm(1, 6, 1e-5, False),
             (3, 4, 6))],
    nn.InstanceNorm2D: [
        Pair(lambda: nn.InstanceNorm2D(3), lambda: there.InstanceNorm2d(3), (2, 4, 5, 3)),
        Pair(lambda: nn.InstanceNorm2D(3, 1e-2, affine=True),
             lambda: there.InstanceNorm2d(3, 1e-2, affine=True), (2, 4, 5, 3))],
    nn.LocalResponseNorm: [
        Pair(lambda: nn.LocalResponseNorm(3), lambda: there.LocalResponseNorm(3), (2, 4, 5, 7)),
        Pair(lambda: nn.LocalResponseNorm(2, 0.1, 0.5, 2.0),
             lambda: there.LocalResponseNorm(2, 0.1, 0.5, 2.0), (2, 4, 5, 7))],
    nn.AdaptiveAvgPool2D: [
        Pair(lambda: nn.AdaptiveAvgPool2D((3, 2)), lambda: there.AdaptiveAvgPool2d((3, 2)),
             (2, 7, 5, 3)),
        Pair(lambda: nn.AdaptiveAvgPool2D((None, 1)), lambda: there.AdaptiveAvgPool2d((None, 1)),
             (2, 7, 5, 3))],
    nn.AdaptiveMaxPool2D: [Pair(lambda: nn.AdaptiveMaxPool2D(3),
                                lambda: there.AdaptiveMaxPool2d(3), (2, 7, 5, 3))],
    nn.GlobalMaxPool2D: [
        Pair(nn.GlobalMaxPool2D,
             lambda: there.Sequential(there.AdaptiveMaxPool2d(1), there.Flatten()), (2, 4, 5, 3))],
    nn.Upsample: [
        Pair(lambda a=a: nn.Upsample(*a), lambda a=a: there.Upsample(*a), (2, 3, 4, 3))
        for a in ((None, 2), ((5, 9),), ((5, 9), None, "bilinear"), (None, 2, "bilinear", True))],
    nn.PixelShuffle: [Pair(lambda: nn.PixelShuffle(2), lambda: there.PixelShuffle(2),
                           (2, 3, 4, 8))],
    nn.PixelUnshuffle: [Pair(lambda: nn.PixelUnshuffle(2), lambda: there.PixelUnshuffle(2),
                             (2, 6, 4, 3))],
    nn.MaxPool1D: [
        Pair(lambda: nn.MaxPool1D(3, 2, 1), lambda: there.MaxPool1d(3, 2, 1), (2, 7, 3)),
        Pair(lambda: nn.MaxPool1D(2, 2, 0, 2, False, True),
             lambda: there.MaxPool1d(2, 2, 0, 2, False, True), (2, 8, 3))],
    nn.AvgPool1D: [
        Pair(lambda: nn.AvgPool1D(3, 2, 1), lambda: there.AvgPool1d(3, 2, 1), (2, 7, 3))],
    nn.MaxPool2D: [
        Pair(nn.MaxPool2D, lambda: there.MaxPool2d(2), (2, 6, 7, 3)),
        Pair(lambda: nn.MaxPool2D((3, 2), (2, 1), padding=1),
             lambda: there.MaxPool2d((3, 2), (2, 1), padding=1), (2, 6, 7, 3)),
        Pair(lambda: nn.MaxPool2D(3, 2, 1, (2, 1), False, True),
             lambda: there.MaxPool2d(3, 2, 1, (2, 1), False, True), (2, 8, 7, 3))],
    nn.AvgPool2D: [
        Pair(nn.AvgPool2D, lambda: there.AvgPool2d(2), (2, 6, 7, 3)),
        Pair(lambda: nn.AvgPool2D((3, 2), (2, 1), padding=1),
             lambda: there.AvgPool2d((3, 2), (2, 1), padding=1), (2, 6, 7, 3)),
        Pair(lambda: nn.AvgPool2D(3, padding=1, count_include_pad=False),
             lambda: there.AvgPool2d(3, padding=1, count_include_pad=False), (2, 6, 7, 3)),
        Pair(lambda: nn.AvgPool2D(3, 2, 1, True, True, 5),
             lambda: there.AvgPool2d(3, 2, 1, True, True, 5), (2, 6, 7, 3))],
    nn.GlobalAvgPool2D: [
        Pair(nn.GlobalAvgPool2D,
             lambda: there.Sequential(there.AdaptiveAvgPool2d(1), there.Flatten()), (2, 4, 5, 3)),
        Pair(lambda: nn.GlobalAvgPool2D(keepdims=True), lambda: there.AdaptiveAvgPool2d(1),
             (2, 4, 5, 3))],
    nn.ZeroPad2D: [
        Pair(lambda: nn.ZeroPad2D(2), lambda: there.ZeroPad2d(2), (2, 3, 4, 3)),
        Pair(lambda: nn.ZeroPad2D(((1, 2), (3, 0))), lambda: there.ZeroPad2d((3, 0, 1, 2)),
             (2, 3, 4, 3))],
    nn.Pad2D: [
        Pair(lambda: nn.Pad2D((1, 2), value=1.5), lambda: there.ConstantPad2d((2, 2, 1, 1), 1.5),
             (2, 3, 4, 3)),
        Pair(lambda: nn.Pad2D(((1, 2), (3, 0)), mode="reflect"),
             lambda: there.ReflectionPad2d((3, 0, 1, 2)), (2, 4, 5, 3)),
        Pair(lambda: nn.Pad2D(((1, 2), (3, 0)), mode="edge"),
             lambda: there.ReplicationPad2d((3, 0, 1, 2)), (2, 4, 5, 3)),
        Pair(lambda: nn.Pad2D(((1, 2), (3, 0)), mode="wrap"),
             lambda: there.CircularPad2d((3, 0, 1, 2)), (2, 4, 5, 3))],
    nn.Flatten: same(nn.Flatten, Flat),
    nn.Unflatten: [Pair(lambda: nn.Unflatten(1, (2, -1)), lambda: there.Unflatten(1, (2, -1)),
                        (4, 6), layout=False)],
    nn.Lambda: same(lambda: nn.Lambda(tc.tanh), there.Tanh),
    nn.Dropout1D: [Pair(nn.Dropout1D, there.Dropout1d, (2, 5, 3), modes=(False,))],
    nn.Dropout2D: [Pair(nn.Dropout2D, there.Dropout2d, (2, 5, 4, 3), modes=(False,))],
    nn.Identity: same(nn.Identity, there.Identity),
    nn.ReLU: same(nn.ReLU, there.ReLU),
    nn.LeakyReLU: same(nn.LeakyReLU, there.LeakyReLU)
    + same(lambda: nn.LeakyReLU(0.3), lambda: there.LeakyReLU(0.3)),
    nn.ELU: same(nn.ELU, there.ELU) + same(lambda: nn.ELU(0.6), lambda: there.ELU(0.6)),
    nn.GELU: same(nn.GELU, there.GELU)
    + same(lambda: nn.GELU("tanh"), lambda: there.GELU(approximate="tanh")),
    **{getattr(nn, name): same(getattr(nn, name), getattr(there, name)) for name in (
        "ReLU6", "SELU", "Mish", "Hardswish", "Softsign", "LogSigmoid")},
    nn.Hardsigmoid: same(nn.Hardsigmoid, Sixth),
    nn.CELU: same(nn.CELU, there.CELU) + same(lambda: nn.CELU(0.5), lambda: there.CELU(0.5)),
    nn.Hardtanh: same(nn.Hardtanh, there.Hardtanh)
    + same(lambda: nn.Hardtanh(-0.5, 0.2), lambda: there.Hardtanh(-0.5, 0.2)),
    nn.PReLU: same(nn.PReLU, there.PReLU)
    + same(lambda: nn.PReLU(5, 0.1), lambda: there.PReLU(5, 0.1), (2, 3, 4, 5)),
    nn.GLU: same(nn.GLU, lambda: there.GLU(1), (4, 6), (2, 3, 4, 6)),
    nn.Softmin: same(nn.Softmin, lambda: there.Softmin(1)),
    nn.SiLU: same(nn.SiLU, there.SiLU),
    # PyTorch's Softplus is the identity above the threshold.
    nn.Softplus: same(nn.Softplus, lambda: there.Softplus(threshold=1000)),
    nn.Tanh: same(nn.Tanh, there.Tanh),
    nn.Sigmoid: same(nn.Sigmoid, there.Sigmoid),
    nn.Softmax: same(nn.Softmax, lambda: there.Softmax(1))
    + same(lambda: nn.Softmax(0), lambda: there.Softmax(0)),
    nn.LogSoftmax: same(nn.LogSoftmax, lambda: there.LogSoftmax(1))
    + same(lambda: nn.LogSoftmax(0), lambda: there.LogSoftmax(0)),
    nn.Dropout: [
        *same(lambda: nn.Dropout(0.0), lambda: there.Dropout(0.0)),
        # What training drops is drawn.
        Pair(lambda: nn.Dropout(0.4), lambda: there.Dropout(0.4), (4, 3), modes=(False,))],
    nn.Sequential: [
        Pair(lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)),
             lambda: there.Sequential(there.Linear(5, 6), there.Tanh(), there.Linear(6, 2)),
             (4, 5))],
    nn.CrossEntropyLoss: [
        pair for r in REDUCTIONS for pair in (
            Pair(lambda r=r: nn.CrossEntropyLoss(reduction=r),
                 lambda r=r: there.CrossEntropyLoss(reduction=r), (6, 4), classes(4, 6)),
            Pair(lambda r=r: nn.CrossEntropyLoss(reduction=r, weight=WEIGHT, label_smoothing=0.2),
                 lambda r=r: there.CrossEntropyLoss(**torch_weight(r, label_smoothing=0.2)),
                 (6, 4), classes(4, 6)),
            Pair(lambda r=r: nn.CrossEntropyLoss(reduction=r, label_smoothing=0.1),
                 lambda r=r: there.CrossEntropyLoss(reduction=r, label_smoothing=0.1), (6, 4),
                 soft(4, 6)),
            Pair(lambda r=r: nn.CrossEntropyLoss(reduction=r),
                 lambda r=r: there.CrossEntropyLoss(reduction=r), (2, 3, 2, 4),
                 classes(4, 2, 3, 2)))]
    # A mean of weighted soft labels divides by their weights here, by N in PyTorch.
    + [Pair(lambda: nn.CrossEntropyLoss(reduction="sum", weight=WEIGHT),
            lambda: there.CrossEntropyLoss(**torch_weight("sum")), (6, 4), soft(4, 6))],
    nn.NLLLoss: [
        pair for r in REDUCTIONS for pair in (
            Pair(lambda r=r: nn.NLLLoss(reduction=r), lambda r=r: there.NLLLoss(reduction=r),
                 (6, 4), classes(4, 6)),
            Pair(lambda r=r: nn.NLLLoss(reduction=r, weight=WEIGHT),
                 lambda r=r: there.NLLLoss(**torch_weight(r)), (2, 3, 2, 4), classes(4, 2, 3, 2)))],
    nn.MSELoss: [Pair(lambda r=r: nn.MSELoss(reduction=r), lambda r=r: there.MSELoss(reduction=r),
                      (4, 3), between(4, 3)) for r in REDUCTIONS],
    nn.BCEWithLogitsLoss: [
        Pair(lambda r=r: nn.BCEWithLogitsLoss(reduction=r),
             lambda r=r: there.BCEWithLogitsLoss(reduction=r), (4, 3), between(4, 3))
        for r in REDUCTIONS] + [
        Pair(lambda: nn.BCEWithLogitsLoss(WEIGHT, pos_weight=2 * WEIGHT),
             lambda: there.BCEWithLogitsLoss(torch.tensor(WEIGHT),
                                             pos_weight=torch.tensor(2 * WEIGHT)), (3, 4),
             between(3, 4))],
    **{getattr(nn, name): [
        Pair(lambda r=r, n=name, s=s: getattr(nn, n)(reduction=r, **s),
             lambda r=r, n=name, s=s: getattr(there, n)(reduction=r, **s), (4, 3), between(4, 3))
        for r in REDUCTIONS for s in ({}, more)] for name, more in (
            ("L1Loss", {}), ("SmoothL1Loss", {"beta": 0.5}), ("HuberLoss", {"delta": 0.5}),
            ("KLDivLoss", {"log_target": True}))},
    nn.MultiMarginLoss: [Pair(lambda a=a: nn.MultiMarginLoss(*a),
                              lambda a=a: there.MultiMarginLoss(*a), (6, 4), classes(4, 6))
                         for a in ((), (2, 0.5))],
}

LAYERS_WITHOUT_JUDGE = {nn.Module: "what layers are made of", nn.DropPath: "not in PyTorch",
                        nn.Embedding: "takes no floats", nn.MaxUnpool2D: "takes indices",
                        **dict.fromkeys((nn.BCELoss, nn.CosineSimilarity, nn.CosineEmbeddingLoss,
                                         nn.TripletMarginLoss), "takes other inputs; see below"),
                        **dict.fromkeys((nn.FocalLoss, nn.DiceLoss, nn.HingeLoss),
                                        "not in PyTorch"),
                        **dict.fromkeys((nn.ModuleList, nn.ModuleDict, nn.ParameterList),
                                        "has no forward")}


@both_dtypes
@pytest.mark.parametrize("pair", [pytest.param(pair, id=f"{layer.__name__} {i}")
                                  for layer, pairs in LAYERS.items()
                                  for i, pair in enumerate(pairs)])
def test_a_layer_agrees_with_pytorch_over_twenty_steps(pair, dtype):
    rng = np.random.default_rng(0)
    a, b = pair.ours().astype(dtype), pair.theirs().double()
    start = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in states(b).items()}
    b.load_state_dict({k: torch.tensor(v) for k, v in start.items()}, strict=bool(start))
    a.load_state_dict(in_our_order(a, start))           # a layer that waits for its size learns it
    steps = (optim.SGD(a.parameters(), 0.02, momentum=0.9),
             torch.optim.SGD(b.parameters(), 0.02, momentum=0.9)) if gradients(b) else ()
    for step in range(STEPS):
        training = pair.modes[step % 3 == 2 and len(pair.modes) - 1]
        a.train(training)
        b.train(training)
        x = rng.normal(size=pair.shape).astype(dtype)
        mine = tc.Tensor(x, requires_grad=True)
        other = to_torch(x) if pair.layout else torch.tensor(x, dtype=torch.float64)
        other.requires_grad_()
        labels = () if pair.labels is None else (pair.labels(rng),)
        if labels and labels[0].dtype.kind == "f":
            labels = (labels[0].astype(dtype),)
        y = a(mine, *labels)
        z = b(other, *(torch.tensor(t if t.dtype.kind == "i" else t.astype(np.float64))
                       for t in labels))
        back = from_torch if pair.layout and not labels else lambda t: t.numpy(force=True)
        agree("value", y.data, back(z), dtype)
        assert y.dtype == dtype
        ct = rng.normal(size=y.shape)
        a.zero_grad()
        b.zero_grad()
        (y * ct.astype(dtype)).sum().backward()
        ct = np.asarray(ct.astype(dtype), np.float64)
        (z * (to_torch(ct) if back is from_torch else torch.tensor(ct))).sum().backward()
        agree("gradient", mine.grad.data, from_torch(other.grad) if pair.layout
              else other.grad.numpy(), dtype)
        expected = in_our_order(a, gradients(b))
        assert set(expected) == {k for k, _ in a.named_parameters()}
        for name, p in a.named_parameters():
            agree(f"gradient of {name}", p.grad.data, expected[name], dtype)
        for optimizer in steps:
            optimizer.step()
        expected, state = in_our_order(a, states(b)), a.state_dict()
        assert list(state) == list(expected)
        for name, array in state.items():
            agree(name, array, expected[name], dtype)


@pytest.mark.parametrize("ours, theirs, signs", [
    (nn.CosineSimilarity, lambda: there.CosineSimilarity(dim=-1), None),
    (lambda: nn.CosineEmbeddingLoss(0.3), lambda: there.CosineEmbeddingLoss(0.3), (4,)),
    (lambda: nn.TripletMarginLoss(2.0), lambda: there.TripletMarginLoss(2.0), (4, 3)),
    (lambda: nn.TripletMarginLoss(0.5, 1.0, reduction="sum"),
     lambda: there.TripletMarginLoss(0.5, 1.0, reduction="sum"), (4, 3))])
def test_a_loss_of_several_inputs_agrees_with_pytorch(ours, theirs, signs):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(4, 3)) for _ in range(2)]
    third = () if signs is None else (
        rng.normal(size=signs) if len(signs) > 1 else rng.choice([-1, 1], signs),)
    a = [tc.Tensor(v, requires_grad=True) for v in arrays]
    b = [torch.tensor(v, requires_grad=True) for v in arrays]
    y, z = ours()(*a, *third), theirs()(*b, *map(torch.tensor, third))
    agree("value", y.data, z.numpy(force=True), np.float64)
    (y * y).sum().backward()
    (z * z).sum().backward()
    for p, q in zip(a, b, strict=True):
        agree("gradient", p.grad.data, q.grad.numpy(), np.float64)


@pytest.mark.parametrize("settings", [{}, {"weight": WEIGHT}, {"reduction": "sum"}], ids=str)
def test_the_binary_cross_entropy_of_probabilities_agrees_with_pytorch(settings):
    rng = np.random.default_rng(0)
    p, labels = rng.uniform(0.01, 0.99, (3, 4)), rng.uniform(0, 1, (3, 4))
    x, t = tc.Tensor(p, requires_grad=True), torch.tensor(p, requires_grad=True)
    y = nn.BCELoss(**settings)(x, labels)
    z = there.BCELoss(**{k: torch.tensor(v) if k == "weight" else v for k, v in settings.items()})(
        t, torch.tensor(labels))
    y.backward()
    z.backward()
    agree("value", y.data, z.numpy(force=True), np.float64)
    agree("gradient", x.grad.data, t.grad.numpy(), np.float64)


def test_labels_that_do_not_count_agree_with_pytorch():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(6, 4)), np.array([0, 3, -100, 1, -100, 2])
    weight = torch.tensor(WEIGHT)
    for ours, theirs in ((nn.CrossEntropyLoss(WEIGHT), there.CrossEntropyLoss(weight)),
                         (nn.NLLLoss(), there.NLLLoss())):
        agree("value", ours(scores, labels).data,
              theirs(torch.tensor(scores), torch.tensor(labels)).numpy(), np.float64)


def test_unpooling_agrees_with_pytorch():
    x = np.random.default_rng(0).normal(size=(2, 6, 8, 3))
    y, indices = nn.MaxPool2D(2, return_indices=True)(tc.Tensor(x))
    z, places = there.MaxPool2d(2, return_indices=True)(to_torch(x))
    agree("unpooled", nn.MaxUnpool2D(2)(y, indices).data,
          from_torch(there.MaxUnpool2d(2)(z, places)), np.float64)
    z, places = nn.MaxPool1D(2, return_indices=True)(tc.Tensor(x[:, 0]))
    assert z.shape == places.shape == (2, 4, 3)


def test_every_layer_has_a_judge_or_a_reason():
    layers = {x for x in vars(nn).values() if inspect.isclass(x) and issubclass(x, nn.Module)}
    assert layers - set(LAYERS) == set(LAYERS_WITHOUT_JUDGE)


# ---- optimizers ----------------------------------------------------------------------------------

OPTIMIZERS: dict[type, list[tuple[Any, Any]]] = {
    optim.SGD: [(settings, torch.optim.SGD) for settings in (
        {"lr": 0.02}, {"lr": 0.02, "momentum": 0.9}, {"lr": 0.02, "weight_decay": 0.1},
        {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        {"lr": 0.02, "momentum": 0.9, "dampening": 0.3, "maximize": True, "weight_decay": 0.1})],
    optim.Adam: [(settings, torch.optim.Adam) for settings in (
        {}, {"lr": 0.01, "betas": (0.8, 0.9), "weight_decay": 0.1}, {"lr": 0.01, "eps": 1e-3},
        {"lr": 0.01, "betas": (0.5, 0.6), "amsgrad": True}, {"maximize": True})],
    optim.NAdam: [(settings, torch.optim.NAdam) for settings in (
        {}, {"lr": 0.01, "betas": (0.8, 0.9), "momentum_decay": 0.1, "weight_decay": 0.1},
        {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 1e-3})],
    optim.RAdam: [(settings, torch.optim.RAdam) for settings in (
        {}, {"lr": 0.01, "betas": (0.8, 0.9), "weight_decay": 0.1},
        {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 1e-3})],
    optim.Adadelta: [(settings, torch.optim.Adadelta) for settings in (
        {}, {"lr": 0.5, "rho": 0.7, "eps": 1e-3, "weight_decay": 0.1, "maximize": True})],
    optim.AdamW: [(settings, torch.optim.AdamW) for settings in (
        {}, {"lr": 0.01, "eps": 1e-3, "weight_decay": 0.3}, {"lr": 0.01, "betas": (0.5, 0.7)})],
    optim.RMSprop: [(settings, torch.optim.RMSprop) for settings in (
        {}, {"lr": 0.005, "alpha": 0.9, "momentum": 0.9, "weight_decay": 0.1},
        {"lr": 0.005, "alpha": 0.9, "centered": True, "momentum": 0.9}, {"lr": 0.01, "eps": 0.1})],
    optim.Adagrad: [(settings, torch.optim.Adagrad) for settings in (
        {}, {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "eps": 1e-6},
        {"lr": 0.1, "initial_accumulator_value": 0.5})],
}

each_optimizer = pytest.mark.parametrize("rule, settings, other", [
    pytest.param(rule, settings, other, id=f"{rule.__name__} {i}")
    for rule, entries in OPTIMIZERS.items() for i, (settings, other) in enumerate(entries)])


@each_optimizer
@both_dtypes
def test_an_optimizer_agrees_with_pytorch_over_twenty_steps(rule, settings, other, dtype):
    rng = np.random.default_rng(0)
    start = [rng.uniform(-0.5, 0.5, shape).astype(dtype) for shape in ((7, 5), (5,), ())]
    ours = [tc.Parameter(w) for w in start]
    theirs = [there.Parameter(torch.tensor(w)) for w in start]
    a, b = rule(ours, **settings), other(theirs, **settings)
    for step in range(STEPS):
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            g = rng.normal(size=p.shape).astype(dtype)
            # The second parameter has no gradient in every third step: its averages must wait.
            absent = i == 1 and step % 3 == 1
            p.grad = None if absent else tc.Tensor(g)
            q.grad = None if absent else torch.tensor(g)
        a.step()
        b.step()
        for p, q in zip(ours, theirs, strict=True):
            # Both in one dtype, entry by entry: a few roundings of each step.
            np.testing.assert_allclose(p.data, q.numpy(force=True), rtol=0,
                                       atol=STEPS * 8 * np.finfo(dtype).eps / 2)
            assert p.dtype == dtype


def networks(dtype):
    """One network here and there, of every layer that a small image network has."""
    a = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.ConvTranspose2d(4, 3, 2, stride=2), nn.MaxPool2d(2), nn.LeakyReLU(0.1),
        nn.AvgPool2d(3, 1, padding=1), nn.Flatten(), nn.Linear(48, 3)).astype(dtype)
    b = there.Sequential(
        there.Conv2d(2, 4, 3, padding=1, stride=2, bias=False), there.BatchNorm2d(4), there.ReLU(),
        there.ConvTranspose2d(4, 3, 2, stride=2), there.MaxPool2d(2), there.LeakyReLU(0.1),
        there.AvgPool2d(3, 1, padding=1), Flat(), there.Linear(48, 3)).double()
    start = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in states(b).items()}
    b.load_state_dict({k: torch.tensor(v) for k, v in start.items()})
    a.load_state_dict(in_our_order(a, start))
    return a, b


@each_optimizer
def test_a_network_trained_by_an_optimizer_agrees_with_pytorch(rule, settings, other):
    dtype = np.float64
    rng = np.random.default_rng(0)
    a, b = networks(dtype)
    steps = rule(a.parameters(), **settings), other(b.parameters(), **settings)
    for _ in range(STEPS):
        x, labels = rng.normal(size=(5, 8, 8, 2)).astype(dtype), rng.integers(0, 3, 5)
        loss = tc.cross_entropy(a.train()(x), labels)
        loss_there = there.functional.cross_entropy(b.train()(to_torch(x)), torch.tensor(labels))
        agree("loss", loss.data, loss_there.numpy(force=True), dtype)
        for optimizer in steps:
            optimizer.zero_grad()
        loss.backward()
        loss_there.backward()
        for optimizer in steps:
            optimizer.step()
        expected = in_our_order(a, states(b))
        for name, array in a.state_dict().items():
            agree(name, array, expected[name], dtype)
        agree("evaluation", a.eval()(x).data, b.eval()(to_torch(x)).numpy(force=True), dtype)


def test_every_optimizer_has_a_judge():
    rules = {x for x in vars(optim).values()
             if inspect.isclass(x) and issubclass(x, optim.Optimizer)}
    assert rules == {*OPTIMIZERS, optim.Optimizer, optim.Lion}          # not in PyTorch


def test_an_average_of_weights_agrees_with_pytorch_over_twenty_steps():
    averages = torch.optim.swa_utils
    rng, w = np.random.default_rng(0), tc.Parameter(np.ones(3))
    model = there.Linear(3, 1, bias=False).double()
    theirs = averages.AveragedModel(model, multi_avg_fn=averages.get_ema_multi_avg_fn(0.9))
    ours = optim.EMA([w], 0.9)
    for _ in range(STEPS):
        w.data[...] = rng.normal(size=3)
        model.weight.data[...] = torch.tensor(w.data)
        ours.update()
        theirs.update_parameters(model)
        with ours.applied():
            agree("average", w.data, theirs.module.weight.numpy(force=True)[0], np.float64)


def test_clipping_agrees_with_pytorch():
    rng = np.random.default_rng(0)
    found = [rng.normal(size=s) for s in ((4, 5), (3,), ())]
    ours = [tc.Parameter(np.zeros(g.shape)) for g in found]
    theirs = [there.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in found]
    for p, q, g in zip(ours, theirs, found, strict=True):
        p.grad, q.grad = tc.Tensor(g), torch.tensor(g)
    total = there.utils.clip_grad_norm_(theirs, 2.0).item()
    assert optim.clip_grad_norm_(ours, 2.0) == pytest.approx(total)
    for p, q in zip(ours, theirs, strict=True):
        # PyTorch divides by the norm + 1e-6.
        np.testing.assert_allclose(p.grad.data, q.grad.numpy() * (total + 1e-6) / total, rtol=1e-12)


# ---- schedules -----------------------------------------------------------------------------------

RATES = torch.optim.lr_scheduler



def alike(name, *args, **settings):
    """The same call of both libraries."""
    return (lambda o: getattr(lr_scheduler, name)(o, *args, **settings),
            lambda o: getattr(RATES, name)(o, *args, **settings))


def in_sequence(library):
    return lambda o: library.SequentialLR(
        o, [library.LinearLR(o, 0.25, total_iters=4), library.ConstantLR(o, 0.5, 3),
            library.StepLR(o, 5, 0.5), library.CosineAnnealingWarmRestarts(o, 6)], [4, 9, 20])


SCHEDULES: dict[type, list[tuple[Any, Any]]] = {
    lr_scheduler.MultiStepLR: [alike("MultiStepLR", [3, 8, 30], 0.5),
                               alike("MultiStepLR", [1, 2])],
    lr_scheduler.ExponentialLR: [alike("ExponentialLR", 0.9)],
    lr_scheduler.ConstantLR: [alike("ConstantLR"), alike("ConstantLR", 0.5, 12)],
    lr_scheduler.LinearLR: [alike("LinearLR"), alike("LinearLR", 0.2, 0.7, 15)],
    lr_scheduler.PolynomialLR: [alike("PolynomialLR"), alike("PolynomialLR", 30, 2.5)],
    lr_scheduler.LambdaLR: [alike("LambdaLR", lambda t: 1 / (1 + t)),
                            alike("LambdaLR", [lambda t: 0.9 ** t])],
    lr_scheduler.CosineAnnealingWarmRestarts: [
        alike("CosineAnnealingWarmRestarts", 7),
        alike("CosineAnnealingWarmRestarts", 5, 2, 0.01)],
    lr_scheduler.SequentialLR: [(in_sequence(lr_scheduler), in_sequence(RATES))],
    lr_scheduler.StepLR: [
        (lambda o: lr_scheduler.StepLR(o, 7, gamma=0.3), lambda o: RATES.StepLR(o, 7, gamma=0.3)),
        (lambda o: lr_scheduler.StepLR(o, 1), lambda o: RATES.StepLR(o, 1))],
    lr_scheduler.CosineAnnealingLR: [
        (lambda o: lr_scheduler.CosineAnnealingLR(o, 40, eta_min=0.01),
         lambda o: RATES.CosineAnnealingLR(o, 40, eta_min=0.01)),
        (lambda o: lr_scheduler.CosineAnnealingLR(o, 45),
         lambda o: RATES.CosineAnnealingLR(o, 45))],
    lr_scheduler.OneCycleLR: [
        (lambda o: lr_scheduler.OneCycleLR(o, 3.0, 41, momentum=(0.85, 0.95)),
         lambda o: RATES.OneCycleLR(o, 3.0, 41)),
        (lambda o: lr_scheduler.OneCycleLR(o, 3.0, epochs=6, steps_per_epoch=7),
         lambda o: RATES.OneCycleLR(o, 3.0, epochs=6, steps_per_epoch=7, cycle_momentum=False)),
        (lambda o: lr_scheduler.OneCycleLR(o, 3.0, 41, pct_start=0.5, div_factor=10,
                                      final_div_factor=100),
         lambda o: RATES.OneCycleLR(o, 3.0, 41, pct_start=0.5, div_factor=10, final_div_factor=100,
                                    cycle_momentum=False))],
    lr_scheduler.LinearWarmup: [
        (lambda o: lr_scheduler.LinearWarmup(o, 9, start_factor=0.25),
         lambda o: RATES.LinearLR(o, 0.25, total_iters=9)),
        (lambda o: lr_scheduler.LinearWarmup(lr_scheduler.StepLR(o, 4, gamma=0.5), 6,
                                             start_factor=0.2),
         lambda o: RATES.SequentialLR(o, [RATES.LinearLR(o, 0.2, total_iters=6),
                                          RATES.StepLR(o, 4, gamma=0.5)], [6]))],
    lr_scheduler.ReduceLROnPlateau: [
        (lambda o, s=s: lr_scheduler.ReduceLROnPlateau(o, **s),
         lambda o, s=s: RATES.ReduceLROnPlateau(o, **s, eps=0))
        for s in ({}, {"patience": 3, "factor": 0.5, "cooldown": 2, "min_lr": 1e-3},
                  {"patience": 2, "mode": "max", "threshold": 0.02},
                  {"patience": 2, "threshold": 0.1, "threshold_mode": "abs"})],
}


@pytest.mark.parametrize("ours, theirs", [
    pytest.param(*entry, id=f"{schedule.__name__} {i}")
    for schedule, entries in SCHEDULES.items() for i, entry in enumerate(entries)])
def test_a_schedule_agrees_with_pytorch_over_forty_steps(ours, theirs):
    rng = np.random.default_rng(0)
    w, v = tc.Parameter(np.ones(3)), there.Parameter(torch.ones(3, dtype=torch.float64))
    a = optim.SGD([w], 1.0, momentum=0.9)
    b = torch.optim.SGD([v], 1.0, momentum=0.9)
    mine, other = ours(a), theirs(b)
    for t in range(40):
        group, = b.param_groups
        assert a.lr == pytest.approx(group["lr"], abs=1e-12)
        assert a.param_groups[0]["momentum"] == pytest.approx(group["momentum"], abs=1e-12)
        g = rng.normal(size=3)
        w.grad, v.grad = tc.Tensor(g), torch.tensor(g)
        a.step()
        b.step()
        np.testing.assert_allclose(w.data, v.numpy(force=True), rtol=1e-10)
        loss = (5 / (1 + t) + rng.uniform(0, 0.5),) if mine.needs_loss else ()
        mine.step(*loss)
        other.step(*loss)


def test_every_schedule_has_a_judge():
    rules = {x for x in vars(lr_scheduler).values()
             if inspect.isclass(x) and issubclass(x, lr_scheduler.LRScheduler)}
    assert rules == {*SCHEDULES, lr_scheduler.LRScheduler}


# ---- settings by position

def by_position(thing):
    return [p.name for p in inspect.signature(thing).parameters.values()
            if p.kind is p.POSITIONAL_OR_KEYWORD]


# Ours -> theirs, where the names are different.
RENAMED = {"axis": "dim", "pad_width": "padding", "after": "optimizer"}
BOTH = [(ours, getattr(theirs, name)) for mine, theirs in (
            (nn, there), (optim, torch.optim), (lr_scheduler, RATES))
        for name in mine.__all__ if isinstance(ours := getattr(mine, name), type)
        and hasattr(theirs, name) and ours not in (nn.Parameter, optim.Optimizer)]


@pytest.mark.parametrize("ours, theirs", BOTH, ids=lambda thing: thing.__name__)
def test_settings_by_position_come_in_pytorch_s_order(ours, theirs):
    own = [RENAMED.get(name, name) for name in by_position(ours)]
    other = by_position(theirs)
    assert own[:len(other)] == other[:len(own)]
    after = other[len(own)] if len(own) < len(other) else None
    assert after not in inspect.signature(ours).parameters


def test_most_layers_optimizers_and_schedules_have_a_twin_in_pytorch():
    assert len(BOTH) >= 59


def test_an_embedding_agrees_with_pytorch():
    rng = np.random.default_rng(0)
    a, b = nn.Embedding(5, 3, dtype=np.float64), there.Embedding(5, 3)
    a.load_state_dict({"weight": b.weight.numpy(force=True)})
    indices = rng.integers(0, 5, (4, 6))
    y, z = a(indices), b(torch.tensor(indices))
    agree("value", y.data, z.numpy(force=True), np.float64)
    (y * y).sum().backward()
    (z * z).sum().backward()
    agree("gradient", a.weight.grad.data, b.weight.grad.numpy(), np.float64)


def test_a_deviation_at_the_ends_of_float32_is_that_of_pytorch():
    for scale in (1e-30, 1e-20, 1.0, 1e20, 1e30):
        a = (np.random.default_rng(0).normal(size=(4, 5)) * scale).astype(np.float32)
        x = tc.Tensor(a, requires_grad=True)
        t = torch.tensor(a.astype(np.float64), requires_grad=True)
        for axis in (None, 1):
            x.grad = t.grad = None
            y, z = tc.std(x, axis, correction=1), t.std(axis)
            y.sum().backward()
            z.sum().backward()
            np.testing.assert_allclose(y.data, z.numpy(force=True), rtol=1e-6)
            np.testing.assert_allclose(x.grad.data, t.grad.numpy(), atol=1e-6)
