"""Nothing is swallowed: what a constructor or function does not take is a TypeError that names it.

The walk goes over everything public that is made or called with settings; a new layer, optimizer or
transform is walked over without a line here.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import pickle
import re

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import data, models, nn, optim, train, transforms
from tinygrad_cnn.core.op import FUNCTIONS
from tinygrad_cnn.optim import lr_scheduler

MODULES = (nn, nn.init, optim, lr_scheduler, data, data.transforms, train, models, transforms)


def public():
    """(name, callable) of everything public that takes settings, once each."""
    found = {}
    for module in MODULES:
        for name in module.__all__:
            thing = getattr(module, name)
            if (inspect.isfunction(thing) or isinstance(thing, type)) \
                    and not getattr(thing, "_is_protocol", False):
                found[f"{module.__name__}.{thing.__name__}".removeprefix("tinygrad_cnn.")] = thing
    for name in tc.__all__:
        thing = getattr(tc, name)
        if name in FUNCTIONS and thing is FUNCTIONS[name]:
            found[name] = thing
    return found


def kinds(thing):
    return {p.kind for p in inspect.signature(thing).parameters.values()}


PUBLIC = public()


def first_sample(name):
    op = tc.OPS[name]
    sample = next(iter(op.test.samples(np.random.default_rng(0))))
    return sample.args, sample.settings


@pytest.mark.parametrize("name", PUBLIC)
def test_an_unknown_keyword_is_a_type_error_that_names_it_and_the_class(name):
    thing, args, settings = PUBLIC[name], (), {}
    if name == "train.fit":                     # hands its settings to a Trainer
        model = nn.Linear(1, 1)
        args = (model, [])
        settings = {"epochs": 1, "optimizer": optim.SGD(model.parameters(), 0.1)}
    elif inspect.Parameter.VAR_KEYWORD in kinds(thing) and not isinstance(thing, type):
        args, settings = first_sample(name)     # takes an op's inputs and settings as they are
    elif not isinstance(thing, type):
        args = [np.ones((2, 2)) for p in inspect.signature(thing).parameters.values()
                if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]
    with pytest.raises(TypeError, match=r"\bnonsense\b") as caught:
        thing(*args, **settings, nonsense=1)
    who = "Trainer" if name == "train.fit" else thing.__name__
    assert who in str(caught.value)


@pytest.mark.parametrize("name", [
    name for name, thing in PUBLIC.items()
    if isinstance(thing, type) and (inspect.Parameter.VAR_POSITIONAL not in kinds(thing)
                                    or "__init__" not in vars(thing))])
def test_surplus_positional_arguments_are_a_type_error_that_names_the_class(name):
    made = PUBLIC[name]
    with pytest.raises(TypeError, match=rf"\b{made.__name__}\b"):
        made(*[None] * 50)


# ---- modules of users

class Bare(nn.Module):
    def forward(self, x):
        return x


class Sized(nn.Module):
    def __init__(self, size, *, depth=1):
        self.size, self.depth = size, depth


class Grown(Sized):
    pass


class Mixin:
    def __init__(self, color="red"):
        self.color = color


class Mixed(nn.Module, Mixin):
    pass


class Open(nn.Module):
    def __init__(self, *sizes, **settings):
        self.sizes, self.settings = sizes, settings


@dataclasses.dataclass(eq=False, repr=False)
class Declared(nn.Module):
    size: int
    depth: int = 1


def wrapped(init):
    @functools.wraps(init)
    def inner(self, *args, extra=None, **settings):
        init(self, *args, **settings)
        self.extra = extra
    return inner


class Decorated(nn.Module):
    @wrapped
    def __init__(self, size):
        self.size = size


@pytest.mark.parametrize("make, message", [
    (lambda: Bare(3), "Bare: takes 0 arguments by position, got 1"),
    (lambda: Bare(size=3), "Bare: there is no setting 'size'; Bare takes none"),
    (lambda: Sized(1, 2), "Sized: takes 1 arguments by position (size), got 2; give the others by "
                          "name: depth="),
    (lambda: Sized(1, dept=2), "Sized: there is no setting 'dept'; did you mean 'depth'?  Sized "
                               "takes size, depth"),
    (lambda: Sized(depth=2), "Sized: size must be given; Sized takes size, depth"),
    (lambda: Sized(1, size=2), "Sized: size is given by position and by name"),
    (lambda: Grown(1, dept=2), "Grown: there is no setting 'dept'"),
    (lambda: Mixed(colour="blue"), "Mixed: there is no setting 'colour'; did you mean 'color'?"),
    (lambda: Declared(1, 2, 3), "Declared: takes 2 arguments by position (size, depth), got 3"),
    (lambda: nn.MSELoss("sum"), "MSELoss: takes 0 arguments by position, got 1; give the others by "
                                "name: reduction="),
    (lambda: nn.Conv2D(1, 8, out=3), "Conv2D: there is no setting 'out'; leave it out."),
    (lambda: nn.ReLU(inplace=True), "ReLU: there is no setting 'inplace'; leave it out."),
    (lambda: optim.SGD([tc.Parameter([1.0])], foreach=True), "'foreach'; leave it out.  SGD takes"),
])
def test_a_module_names_itself_when_it_is_made_wrongly(make, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        make()


def test_layers_optimizers_and_schedules_can_be_derived_from():
    class Three(nn.Conv2D):
        def __init__(self, out):
            super().__init__(1, out, 3, bias=False)

    class Padded(nn.Conv2D):                            # declares nothing
        pass

    class Slow(optim.SGD):
        def __init__(self, params):
            super().__init__(params, 1e-4, 0.9)

    class Halved(lr_scheduler.StepLR):
        def __init__(self, optimizer):
            super().__init__(optimizer, 1, 0.5)

    assert repr(Three(8)) == "Three(1, 8, kernel_size=3, bias=False)"
    assert Padded(2, 4, 3, 2).stride == (2, 2)
    optimizer = Slow([tc.Parameter([1.0])])
    assert (optimizer.lr, optimizer.momentum) == (1e-4, 0.9)
    Halved(optimizer).step()
    assert optimizer.lr == 5e-5
    with pytest.raises(TypeError, match=r"Three: takes 1 arguments by position \(out\), got 2"):
        Three(1, 2)


def test_a_module_takes_what_its_init_takes():
    assert Sized(1, depth=2).depth == 2
    assert Grown(size=3).size == 3
    assert Mixed("blue").color == "blue"
    assert Declared(1, depth=5).depth == 5
    made = Open(1, 2, width=3)
    assert (made.sizes, made.settings) == ((1, 2), {"width": 3})
    assert Decorated(1, extra=2).extra == 2


@pytest.mark.parametrize("made", [Bare(), Sized(1), Declared(2), Open(1, a=2), nn.Linear(2, 3)])
def test_a_module_is_copied_and_pickled_without_its_arguments(made):
    for again in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert type(again) is type(made)
        assert {n for n in vars(again) if n[0] != "_"} == {n for n in vars(made) if n[0] != "_"}


def test_a_callback_of_a_user_names_what_it_does_not_take():
    class Watch(train.Callback):
        pass

    with pytest.raises(TypeError, match="nonsense"):
        Watch(nonsense=1)


# ---- PyTorch's own arguments

def test_softplus_has_a_beta():
    x = np.linspace(-30, 30, 61)
    np.testing.assert_allclose(nn.Softplus(beta=5.0)(tc.Tensor(x)).data,
                               np.logaddexp(0, 5 * x) / 5, rtol=1e-12)
    assert repr(nn.Softplus(beta=5.0)) == "Softplus(beta=5.0)"
    with pytest.raises(tc.SettingError, match="beta must be a finite number above 0"):
        nn.Softplus(0)


@pytest.mark.parametrize("start, end, shape", [
    (1, -1, (2, 60)), (2, -1, (2, 3, 20)), (0, 1, (6, 4, 5)), (1, 1, (2, 3, 4, 5)), (0, -1, (120,)),
    (-2, -1, (2, 3, 20))])
def test_flatten_takes_the_axes_that_become_one(start, end, shape):
    x = np.arange(120.0).reshape(2, 3, 4, 5)
    y = nn.Flatten(start_dim=start, end_dim=end)(tc.Tensor(x))
    assert y.shape == shape
    assert np.array_equal(y.data, x.reshape(shape))


def test_flatten_keeps_rows_and_refuses_axes_in_the_wrong_order():
    assert nn.Flatten()(np.zeros(3)).shape == (3, 1)
    with pytest.raises(tc.ShapeError, match="end_dim 1 comes before start_dim 2"):
        nn.Flatten(2, 1)(np.zeros((2, 3, 4)))
    with pytest.raises(tc.ShapeError, match="flatten: axis 5 does not exist"):
        nn.Flatten(end_dim=5)(np.zeros((2, 3, 4)))


def test_gelu_is_exact_or_has_the_tanh_form():
    assert repr(nn.GELU("tanh")) == "GELU(approximate='tanh')"
    with pytest.raises(tc.SettingError, match="GELU: approximate must be one of none, tanh, got"):
        nn.GELU(approximate="erf")


# ---- dtypes

NO_DTYPES = [None, "garbage", "cuda", "float23", "", "(2,", "2f4", "f4,f8", 5, (np.float32, (2,)),
             object, int, bool, "int8", "float16", np.complex128, ">f8", np.zeros(2), nn,
             tc.Tensor([1.0])]
WITH_DTYPE = {name: thing for name, thing in PUBLIC.items()
              if name.startswith("nn.") and "dtype" in inspect.signature(thing).parameters}
NEEDED = {"in_channels": 2, "out_channels": 2, "in_features": 3, "out_features": 2, "shape": (2, 2),
          "num_groups": 2, "num_channels": 4, "num_embeddings": 4, "embedding_dim": 2}


@pytest.mark.parametrize("name", WITH_DTYPE)
def test_what_is_no_dtype_for_parameters_is_refused(name):
    thing = WITH_DTYPE[name]
    needed = {n: NEEDED[n] for n, p in inspect.signature(thing).parameters.items()
              if p.default is p.empty and n != "dtype"}
    thing(**needed, dtype=np.float64)
    for dtype in NO_DTYPES:
        with pytest.raises(tc.DTypeError):
            thing(**needed, dtype=dtype)


@pytest.mark.parametrize("method", ["astype", "to"])
def test_a_model_refuses_what_is_no_dtype_and_stays_as_it_is(method):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1D(2))
    for dtype in NO_DTYPES:
        with pytest.raises((tc.DTypeError, tc.SettingError)):
            getattr(model, method)(dtype)
    assert {p.dtype for p in model.parameters()} == {np.dtype(np.float32)}
    assert getattr(model, method)(float) is model
    assert model[1].running_mean.dtype == model[0].weight.dtype == np.float64


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "gpu", "tpu", "xpu:0"])
def test_a_model_runs_on_the_cpu_only(device):
    model = nn.Linear(2, 2)
    assert model.to("cpu") is model
    assert model.to("cpu:0").weight.dtype == np.float32
    with pytest.raises(tc.SettingError, match=rf"Linear.to: the device '{device}' is not supported"
                                              ".* runs on the CPU only"):
        model.to(device)


def test_pytorch_s_devices_and_dtypes_are_told_apart():
    torch = pytest.importorskip("torch")
    model = nn.Linear(2, 2)
    assert model.to(torch.device("cpu")) is model
    with pytest.raises(tc.SettingError, match="the device 'cuda' is not supported"):
        model.to(torch.device("cuda"))
    with pytest.raises(tc.DTypeError, match=r"torch.float64 is not a dtype; use np.float32"):
        model.to(torch.float64)


@pytest.mark.parametrize("cast", [
    lambda dtype: tc.Tensor([1.0]).astype(dtype), lambda dtype: tc.astype([1.0], dtype),
    lambda dtype: tc.tensor([1.0], dtype=dtype) if dtype is not None else tc.astype([1.0], dtype)])
def test_a_tensor_is_not_cast_to_what_is_no_dtype(cast):
    for dtype in (None, "garbage", "cuda", "(2,", 5, (np.float32, (2,)), object, nn,
                  tc.Tensor([1.0])):
        with pytest.raises(tc.DTypeError):
            cast(dtype)
