"""The nets as data: weights, work, and the walk through every layer."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn.bench.frameworks.own import Own
from tinygrad_cnn.bench.nets import NETS, flops, lookup, problem, weights


def test_the_work_of_lenet_is_what_one_counts_by_hand():
    # filters 5·5·C·O at OH·OW pixels; the first layer has no gradient of its images: two passes
    conv1 = 2 * 2 * 28 * 28 * 25 * 8
    conv2 = 3 * 2 * 14 * 14 * 25 * 8 * 16
    linear = 3 * 2 * 7 * 7 * 16 * 10
    assert flops(lookup("lenet", batch=3)) == 3 * (conv1 + conv2 + linear)


def test_resnet20_has_the_parameters_of_its_paper_and_two_projections():
    trained = sum(w.array.size for w in weights(NETS["resnet20"]) if w.trained)
    projections = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert trained == 269_722 + projections           # 0.27 million in the paper's table 6


@pytest.mark.parametrize("name", NETS)
def test_a_problem_is_the_same_in_every_process(name):
    first, second = problem(lookup(name, batch=2)), problem(lookup(name, batch=2))
    assert np.array_equal(first.images, second.images)
    assert all(np.array_equal(a.array, b.array)
               for a, b in zip(first.weights, second.weights, strict=True))
    assert first.images.dtype == np.float32
    assert first.images.shape == (2, *NETS[name].image)


@pytest.mark.parametrize("name", ["lenet", "vgg", "resnet20"])
def test_steps_lower_the_loss_of_a_repeated_batch(name):
    own = Own()
    own.load(problem(lookup(name, batch=4)))
    losses = [own.step() for _ in range(4)]
    assert losses[-1] < losses[0]


def test_a_step_moves_each_weight_against_its_gradient():
    own = Own()
    given = problem(lookup("lenet", batch=2))
    own.load(given)
    own.loss().backward()
    gradients = [p.grad.data.copy() for p in own.trained]
    own.update()
    for p, gradient, weight in zip(own.trained, gradients, given.weights, strict=True):
        expected = weight.array - np.float32(given.net.rate) * gradient
        assert np.allclose(p.data, expected, rtol=0, atol=1e-7)
        assert p.grad is None


def test_a_step_moves_the_running_statistics_a_tenth_of_the_way():
    own = Own()
    own.load(problem(lookup("resnet20", batch=2)))
    own.step()
    kinds = [w.kind for w in own.problem.weights]
    x, w = own.x, own.problem.weights[0].array
    y = tc.conv2d(x, w, padding=1).data
    count = y.size // y.shape[3]
    mean, var = (own.weights[kinds.index(kind)] for kind in ("mean", "var"))
    assert np.allclose(mean, 0.1 * y.mean((0, 1, 2)), atol=1e-5)
    assert np.allclose(var, 0.9 + 0.1 * y.var((0, 1, 2)) * count / (count - 1), rtol=1e-4)


def test_an_unknown_net_is_told_the_known_ones():
    with pytest.raises(tc.SettingError, match="choose from lenet, vgg, wide, resnet20"):
        lookup("alexnet")
    with pytest.raises(tc.SettingError, match="batch must be at least 1, got 0"):
        lookup("lenet", batch=0)
