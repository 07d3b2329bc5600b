"""Every library that is installed computes the same nets, chains and ops as ours."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import set_num_threads
from tinygrad_cnn.bench.cases import chain_case, kernel_case, layer_case, net_case
from tinygrad_cnn.bench.frameworks import CONTENDERS, FAST, OURS, of_library, open_framework
from tinygrad_cnn.bench.ops import conv_cases, layer_cases
from tinygrad_cnn.bench.worker import _digest

INSTALLED = [name for name, c in CONTENDERS.items()
             if name != OURS and importlib.util.find_spec("numba" if name == FAST else c.library)]
EAGER = [name for name in INSTALLED if name != "torch.compile"]      # it compiles for a minute
TORCH = [name for name in EAGER if of_library(name, "torch")]
SINGLE = [name for name in EAGER if name == FAST or name in TORCH]


@pytest.fixture(autouse=True)
def one_thread_and_the_same_warnings():
    """Opening a framework sets threads, and importing one may add filters of warnings."""
    with warnings.catch_warnings(), set_num_threads(1):
        yield


@pytest.mark.parametrize("net", ["lenet", "vgg", "resnet20"])
@pytest.mark.parametrize("name", EAGER)
def test_steps_agree(name, net):
    ours, other = open_framework(OURS, 1), open_framework(name, 1)
    case = net_case(net, batch=2)
    mine, theirs = ours.timers(case), other.timers(case)
    assert _digest(mine["inference"]()) == pytest.approx(_digest(theirs["inference"]()), rel=1e-3)
    assert [mine["step"]() for _ in range(3)] == pytest.approx(
        [theirs["step"]() for _ in range(3)], rel=1e-3)


@pytest.mark.parametrize("name", SINGLE)
def test_chains_agree(name):
    results = [open_framework(n, 1).timers(chain_case(20))["chain"]() for n in (OURS, name)]
    assert results[0] == pytest.approx(0.999**20, rel=1e-5)
    assert results[1] == pytest.approx(results[0], rel=1e-5)


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("case", conv_cases(tiny=True) + layer_cases(tiny=True),
                         ids=lambda case: f"{case.name} {case.shapes}")
def test_single_ops_agree(name, case):
    mine, theirs = (open_framework(n, 1).timers(case) for n in (OURS, name))
    for timer in set(mine) & set(theirs):
        assert _digest(mine[timer]()) == pytest.approx(_digest(theirs[timer]()), rel=1e-3), timer


@pytest.mark.parametrize("name", [OURS, pytest.param(FAST, marks=pytest.mark.skipif(
    FAST not in INSTALLED, reason="needs numba"))])
def test_each_of_ours_runs_with_its_own_kernels_and_leaves_the_setting_alone(name, monkeypatch):
    own, seen = open_framework(name, 1), []
    monkeypatch.setattr(own, "step", lambda: seen.append(tc.get_compiled()))
    for outside in {False, tc.get_compiled()}:
        with tc.set_compiled(outside):
            own.timers(net_case("lenet", batch=1))["step"]()
            assert tc.get_compiled() is outside
    assert set(seen) == {name == FAST}
    assert ("numba" in own.versions()) is (name == FAST)


def test_every_kernel_of_a_convolution_gives_the_same():
    case = kernel_case("conv2d", (2, 8, 8, 4), (3, 3, 4, 4), stride=(1, 1), dilation=(1, 1),
                       padding=((1, 1), (1, 1)), groups=1)
    timers = open_framework(OURS, 1).timers(case)
    assert len(timers) > 1
    chosen = timers["op"]()
    for timer in timers.values():
        assert np.allclose(timer(), chosen, atol=1e-4)


def test_what_a_library_does_not_have_is_said():
    with pytest.raises(NotImplementedError, match="no case of kind nothing"):
        open_framework(OURS, 1).timers(layer_case("relu", (1,)).__class__("nothing", "x"))
