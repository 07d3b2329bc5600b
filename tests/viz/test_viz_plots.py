"""Plots: the arrays behind them against arithmetic by hand, and what they refuse."""

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn
from tinygrad_cnn.errors import MissingExtraError, VizError
from tinygrad_cnn.viz import attribution, plots

matplotlib = pytest.importorskip("matplotlib")


class Weighted(nn.Module):
    """Scores that are sums of pixels under two known weights, behind a layer of maps."""

    def __init__(self):
        self.maps = nn.Conv2D(1, 2, 1, bias=False, rng=np.random.default_rng(0))
        self.maps.weight.data[...] = np.array([1.0, -2.0]).reshape(1, 1, 1, 2)

    def forward(self, x):
        return self.maps(x).sum(axis=(1, 2))


IMAGES = np.arange(32, dtype=np.float32).reshape(2, 4, 4, 1)


def test_saliency_of_a_linear_score_is_its_weight():
    assert np.array_equal(attribution.saliency_arrays(Weighted(), IMAGES, [0, 1]),
                          np.broadcast_to([[[1.0]], [[2.0]]], (2, 4, 4)))


def test_saliency_takes_the_top_class_where_none_is_given():
    assert np.array_equal(attribution.saliency_arrays(Weighted(), IMAGES), np.ones((2, 4, 4)))


def test_grad_cam_weighs_each_map_by_its_mean_gradient():
    cam = attribution.grad_cam_arrays(Weighted(), IMAGES, "maps", 0)
    assert np.allclose(cam[0], IMAGES[0, :, :, 0] / 15)
    assert not attribution.grad_cam_arrays(Weighted(), IMAGES, "maps", 1).any()


def test_small_maps_are_stretched_between_pixel_centres():
    stretched = attribution._stretched(np.array([[[0.0, 1.0]]]), (1, 4))
    assert np.allclose(stretched, [[[0.0, 0.25, 0.75, 1.0]]])


def test_feature_maps_are_what_the_layer_passes_on():
    found = attribution.feature_map_arrays(Weighted(), IMAGES, "maps")
    assert np.array_equal(found, IMAGES * np.array([1.0, -2.0], np.float32))


def test_the_middle_of_the_loss_surface_is_the_loss(nets, batch):
    model = nets.LeNet()
    steps, losses = attribution.loss_grid(model, *batch, points=3, span=0.5, seed=1)
    assert list(steps) == [-0.5, 0.0, 0.5]
    expected = tc.cross_entropy(model(batch[0]), batch[1]).item()
    assert losses[1, 1] == pytest.approx(expected, rel=1e-6)
    assert len(np.unique(losses)) == 9


def test_a_direction_has_the_norm_of_each_filter():
    w = np.random.default_rng(0).normal(size=(3, 3, 2, 5))
    d = attribution._direction(w, np.random.default_rng(1))
    norms = [np.sqrt((a.reshape(-1, 5) ** 2).sum(0)) for a in (w, d)]
    assert np.allclose(*norms)


def test_plots_leave_the_model_as_it_is(nets, batch):
    model = nets.LeNet()
    before = {k: v.copy() for k, v in model.state_dict().items()}
    plots.saliency(model, batch[0])
    plots.grad_cam(model, batch[0], "conv2")
    plots.loss_surface(model, *batch, points=3)
    assert all(np.array_equal(before[k], v) for k, v in model.state_dict().items())
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_every_plot_is_a_figure_that_saves_itself(nets, batch, tmp_path):
    model, (images, labels) = nets.LeNet(), batch
    history = {"train_loss": [2.0, 1.0], "val_loss": [2.1, 1.2], "val_accuracy": [0.3, 0.6]}
    made = [plots.filters(model.conv1), plots.filters(np.zeros((3, 3, 3, 2))),
            plots.feature_maps(model, images, "conv1"), plots.learning_curves(history, log=True),
            plots.confusion_matrix(labels, model(images)), plots.saliency(model, images),
            plots.grad_cam(model, images, "conv2"), plots.loss_surface(model, *batch, points=3)]
    for k, figure in enumerate(made):
        figure.savefig(tmp_path / f"{k}.png", dpi=30)
        assert (tmp_path / f"{k}.png").stat().st_size > 300


def test_curves_of_one_kind_share_a_panel():
    figure = plots.learning_curves({"train_loss": [1.0], "val_loss": [1.0], "val_accuracy": [0.5]})
    assert [[line.get_label() for line in axis.get_lines()] for axis in figure.axes] == [
        ["train_loss", "val_loss"], ["val_accuracy"]]


def test_rows_of_a_history_are_taken_too():
    figure = plots.learning_curves([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": None}])
    heights = figure.axes[0].get_lines()[0].get_ydata()
    assert heights[0] == 2.0
    assert np.isnan(heights[1])


def test_confusion_counts_true_by_predicted():
    table = plots._confusion([0, 0, 1, 2], np.array([[2, 1, 0], [0, 2, 1], [0, 3, 0], [0, 1, 2]]))
    assert table.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("call, message", [
    (lambda m, x, y: plots.filters(np.zeros((3, 3))), r"\(KH, KW, C, O\), got \(3, 3\)"),
    (lambda m, x, y: plots.feature_maps(m, x, "conv9"), "no layer 'conv9'; layers: conv1, conv2"),
    (lambda m, x, y: plots.feature_maps(m, x, "conv1", image=9), "image 9 is outside the batch"),
    (lambda m, x, y: plots.feature_maps(m, x, "fc"), "not \\(N, h, w, C\\)"),
    (lambda m, x, y: plots.learning_curves({}), "the history is empty"),
    (lambda m, x, y: plots.confusion_matrix([0, 1], [0]), r"got \(2,\) and \(1,\)"),
    (lambda m, x, y: plots.confusion_matrix([0, 1], [0, 1], names=["a"]), "1 names for 2 classes"),
    (lambda m, x, y: plots.confusion_matrix([-1], [0]), "whole numbers from 0"),
    (lambda m, x, y: plots.saliency(m, x[0]), r"\(N, H, W, C\), got \(12, 12, 1\)"),
    (lambda m, x, y: plots.saliency(m, x, 10), "classes from 0 to 9, got 10"),
    (lambda m, x, y: plots.grad_cam(m, x, "fc"), r"not maps \(N, h, w, C\)"),
    (lambda m, x, y: plots.loss_surface(m, x, y, points=1), "points at least 2"),
])
def test_what_cannot_be_plotted_is_refused(nets, batch, call, message):
    with pytest.raises(VizError, match=message):
        call(nets.LeNet(), *batch)


def test_without_matplotlib_a_plot_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r'pip install "tinygrad-cnn\[viz\]"'):
        plots.learning_curves({"loss": [1.0]})
