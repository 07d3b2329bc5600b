"""Plots: the arrays behind them against arithmetic by hand, and what they refuse."""

import re
import subprocess
import sys

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn, viz
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


def test_small_maps_are_stretched_between_pixel_centers():
    stretched = attribution._stretched(np.array([[[0.0, 1.0]]]), (1, 4))
    assert np.allclose(stretched, [[[0.0, 0.25, 0.75, 1.0]]])
    both = attribution._stretched(np.array([[[0.0, 4.0], [8.0, 12.0]]]), (3, 2))
    assert np.allclose(both, [[[0, 4], [4, 8], [8, 12]]])


def test_feature_maps_are_what_the_layer_passes_on():
    found = attribution.feature_map_arrays(Weighted(), IMAGES, "maps")
    assert np.array_equal(found, IMAGES * np.array([1.0, -2.0], np.float32))


def test_the_loss_surface_is_the_loss_at_the_moved_weights(nets, batch):
    model = nets.LeNet()
    steps, losses = attribution.loss_grid(model, *batch, points=3, span=0.5, seed=1)
    assert list(steps) == [-0.5, 0.0, 0.5]
    rng = np.random.default_rng(1)
    start = [p.data.copy() for p in model.parameters() if p.ndim > 1]
    first, second = ([attribution._direction(w, rng) for w in start] for _ in range(2))
    for i, j in np.ndindex(3, 3):
        for p, w, u, v in zip((p for p in model.parameters() if p.ndim > 1), start, first, second,
                              strict=True):
            p.data[...] = w + steps[j] * u + steps[i] * v
        expected = tc.cross_entropy(model(batch[0]), batch[1]).item()
        assert losses[i, j] == pytest.approx(expected, rel=1e-6)


def test_a_direction_has_the_norm_of_each_filter():
    w = np.random.default_rng(0).normal(size=(3, 3, 2, 5))
    d = attribution._direction(w, np.random.default_rng(1))
    norms = [np.sqrt((a.reshape(-1, 5) ** 2).sum(0)) for a in (w, d)]
    assert np.allclose(*norms)


def images_of(axis):
    return [image.get_array() for image in axis.get_images()]


def test_filters_are_drawn_as_weights_colors_or_means():
    w = np.arange(2 * 2 * 2 * 3, dtype=float).reshape(2, 2, 2, 3) - 4
    figure = plots.filters(w, most=2)
    assert figure._suptitle.get_text() == (
        "filters 2×2, 2→3 channels, mean over channels, the first 2")
    means = w.mean(axis=2)[..., :2]
    for o, axis in enumerate(figure.axes[:2]):
        image, = axis.get_images()
        assert np.array_equal(image.get_array(), means[..., o])
        assert image.get_clim() == (-abs(means).max(), abs(means).max())    # one scale for all
    assert figure.axes[2].get_ylim() == (-abs(means).max(), abs(means).max())
    colors = np.random.default_rng(0).normal(size=(2, 2, 3, 1)) * 5
    shown, = images_of(plots.filters(colors).axes[0])
    assert np.allclose(shown, (colors[..., 0] - colors.min()) / np.ptp(colors))
    assert len(plots.filters(np.ones((1, 1, 1, 10)), columns=4).axes) == 12 + 1


def test_feature_maps_show_one_image():
    figure = plots.feature_maps(Weighted(), IMAGES, "maps", image=1)
    assert [np.array_equal(images_of(axis)[0], IMAGES[1, :, :, 0] * f)
            for axis, f in zip(figure.axes, (1.0, -2.0), strict=False)] == [True, True]
    assert figure.axes[2].get_ylim() == (-62.0, 31.0)                   # of the color bar
    assert figure._suptitle.get_text() == "maps: 2 of 2 channels"
    with pytest.raises(VizError, match="image 2 is outside the batch of 2"):
        plots.feature_maps(Weighted(), IMAGES, "maps", image=2)


def test_images_stand_above_or_below_what_was_found():
    figure = plots.grad_cam(Weighted(), IMAGES, "maps", 0, most=1)
    above, below = (images_of(axis) for axis in figure.axes[:2])
    assert [axis.get_title() for axis in figure.axes[:2]] == ["taken for 0\nshown for 0", ""]
    assert np.allclose(above[0], IMAGES[0, :, :, 0] / 15)           # the first image alone
    assert np.allclose(below[1], IMAGES[0, :, :, 0] / 15)
    figure = plots.saliency(Weighted(), IMAGES, [0, 1])
    assert len(figure.axes) == 4 + 1
    assert figure.axes[4].get_ylim() == (0.0, 2.0)
    titles = [axis.get_title() for axis in plots.saliency(Weighted(), IMAGES,
                                                          labels=[0, 1]).axes]
    assert titles[:2] == ["true 0\ntaken for 0", "true 1\ntaken for 0"]
    assert np.allclose(images_of(figure.axes[0])[0], IMAGES[0, :, :, 0] / 31)
    assert np.array_equal(images_of(figure.axes[3])[1], np.full((4, 4), 2.0))


def test_the_loss_surface_is_drawn_over_its_steps(nets, batch):
    model = nets.LeNet()
    axis, bar = plots.loss_surface(model, *batch, points=5, span=0.5).axes
    loss = tc.cross_entropy(model(batch[0]), batch[1]).item()
    assert axis.get_title() == f"loss {loss:.3g} at the weights (+)"
    assert (axis.get_xlim(), axis.get_ylim()) == ((-0.5, 0.5), (-0.5, 0.5))
    _, losses = attribution.loss_grid(model, *batch, points=5, span=0.5)
    low, high = bar.get_ylim()
    assert (low, high) == pytest.approx((losses.min(), losses.max()))


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


def test_losses_alone_may_have_a_logarithmic_axis():
    for log, scale in ((True, "log"), (False, "linear")):
        axes = plots.learning_curves({"loss": [1.0, 2.0], "accuracy": [0.5, 0.6]}, log=log).axes
        assert [axis.get_yscale() for axis in axes] == [scale, "linear"]


def test_rows_of_a_history_are_taken_too():
    figure = plots.learning_curves([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": None}])
    heights = figure.axes[0].get_lines()[0].get_ydata()
    assert heights[0] == 2.0
    assert np.isnan(heights[1])


def test_confusion_counts_true_by_predicted():
    scores = np.array([[2, 1, 0], [0, 2, 1], [0, 3, 0], [0, 1, 2]])
    assert plots._confusion([0, 0, 1, 2], scores).tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    for share, cells in ((False, ["1", "1", "1", "1"]), (True, ["0.50", "0.50", "1.00", "1.00"])):
        axis, bar = plots.confusion_matrix([0, 0, 1, 2], scores, names=["a", "b", "c"],
                                       share=share).axes
        assert [t.get_text() for t in axis.texts] == cells
        assert [t.get_position() for t in axis.texts] == [(0, 0), (1, 0), (1, 1), (2, 2)]
        assert [t.get_color() == "#fefefe" for t in axis.texts] == [False, False, True, True]
        assert axis.get_title() == "75.0% of 4 right"
        assert [t.get_text() for t in axis.get_xticklabels()] == ["a", "b", "c"]
        assert [t.get_text() for t in axis.get_yticklabels()] == ["a · 50%", "b · 100%", "c · 100%"]
        assert bar.get_ylim() == (0, 1)


def test_a_confusion_of_many_classes_stays_readable():
    classes = np.arange(100)
    figure = plots.confusion_matrix(np.r_[classes, 3, 3], np.r_[classes, 8, 8])
    axis, _ = figure.axes
    assert max(figure.get_size_inches()) < 7.5
    assert figure._supxlabel.get_text() == "most often wrong: 3 as 8 (2)"
    assert not list(axis.texts)
    assert [t.get_text() for t in axis.get_xticklabels()] == [str(k) for k in range(0, 100, 5)]


def test_the_most_confused_images_come_first_with_both_classes():
    scores = np.log([[0.4, 0.6], [0.9, 0.1]])
    figure = plots.most_confused(IMAGES, [0, 1], scores, names=["cat", "dog"])
    assert [a.get_title() for a in figure.axes] == ["true dog, taken\nfor cat (90%)",
                                                    "true cat, taken\nfor dog (60%)"]
    assert np.allclose(images_of(figure.axes[0])[0], (IMAGES[1, :, :, 0] - 16) / 15)
    assert len(plots.most_confused(IMAGES, [0, 1], scores, most=1).axes) == 1


def test_the_gradient_of_each_layer_is_drawn_over_the_steps(nets, batch):
    model = nets.LeNet()
    runs = [viz.describe(tc.cross_entropy(model(batch[0]), batch[1])) for _ in range(3)]
    for ratio in (False, True):
        axis, = plots.gradient_flow(runs, ratio=ratio).axes
        lines = {line.get_label(): line.get_ydata() for line in axis.get_lines()}
        assert list(lines) == ["conv1.weight", "conv2.weight", "fc.weight"]
        entry = next(e for e in runs[0].entries if e.path == "fc.weight")
        assert list(lines["fc.weight"]) == [entry.gradient.rms / (entry.weight if ratio else 1)] * 3
        assert axis.get_yscale() == "log"
    with pytest.raises(VizError, match="no run holds a gradient"):
        plots.gradient_flow([viz.describe(model(batch[0]))])


def test_histograms_of_layers_share_the_counts_of_each_step(nets, batch):
    model, loss = nets.LeNet(), lambda: tc.cross_entropy(model(batch[0]), batch[1])
    runs = [viz.describe(loss(), values=True) for _ in range(3)]
    for of, names in (("activations", ["relu", "relu#2"]),
                      ("weights", ["conv1.weight", "conv2.weight", "fc.weight"]),
                      ("gradients", ["conv1.weight", "conv2.weight", "fc.weight"])):
        axes = plots.layer_histograms(runs, of).axes[:-1]       # the last is the color bar
        assert [a.get_title() for a in axes if a.images] == names
    weights = model.fc.weight.data
    shown, = images_of(axes[2])
    assert shown.shape == (48, 3)
    own, edges = np.histogram(weights, 12)
    finer = np.linspace(edges[0], edges[-1], 49)        # 4 bins for each of the 12
    found = plots._shared_out((edges[0], edges[-1], tuple(own)), finer)
    assert np.allclose(found, np.repeat(own, 4) / own.max())
    assert plots._shared_out((2.0, 2.0, (5,) + (0,) * 11), np.arange(4.0)).tolist() == [0, 0, 1]
    with pytest.raises(VizError, match="no histograms of weights; record them by"):
        plots.layer_histograms([viz.describe(loss())], "weights")
    with pytest.raises(VizError, match="of='bias' is unknown"):
        plots.layer_histograms(runs, "bias")


def test_an_update_is_judged_by_the_size_of_the_weights():
    states = [{"w": np.full((2, 2), v), "b": np.zeros(2)} for v in (1.0, 1.01, 1.01 * 0.9)]
    axis, = plots.update_ratio(states).axes
    line, = axis.get_lines()
    assert line.get_label() == "w"
    assert list(line.get_ydata()) == pytest.approx([0.01, 0.1])
    for bad in (states[:1], [states[0], {"other": states[0]["w"]}]):
        with pytest.raises(VizError, match="state_dict"):
            plots.update_ratio(bad)


def test_an_svg_of_a_plot_follows_the_theme_and_fits_a_column(nets, batch, tmp_path):
    figure = plots.gradient_flow([viz.describe(tc.cross_entropy(nets.LeNet()(batch[0]), batch[1]))])
    figure.savefig(tmp_path / "flow.svg")
    text = (tmp_path / "flow.svg").read_text(encoding="utf-8")
    name = re.match(r'<svg id="(p[0-9a-f]{8})"', text)[1]
    dark = re.search(r"@media \(prefers-color-scheme:dark\)\{(.*)\}</style>", text)[1]
    for light in re.findall(r"stroke: (#\w{6})", text):
        assert f'#{name} [style*="stroke: {light}"]' in dark, light
    assert not re.search(r'fill: #ffffff', text)        # nothing white behind it
    ids = re.findall(r' id="([^"]+)"', text)
    assert all(i.startswith(name) for i in ids)         # two plots on one page do not mix
    assert figure.get_size_inches()[0] <= 7.0


def test_a_plot_shows_itself_without_pyplot():
    figure = plots.learning_curves({"loss": [2.0, 1.0], "seconds": [0.1, 0.1]})
    assert figure._repr_svg_().startswith("<svg id=")
    assert [axis.get_ylabel() for axis in figure.axes] == ["loss"]
    assert "matplotlib.pyplot" not in subprocess.run(
        [sys.executable, "-c", "import sys; from tinygrad_cnn.viz import plots; "
         "plots.learning_curves({'loss': [1.0]})._repr_svg_(); print(*sys.modules)"],
        capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("call, message", [
    (lambda m, x, y: plots.filters(np.zeros((3, 3))), r"\(KH, KW, C, O\), got \(3, 3\)"),
    (lambda m, x, y: plots.feature_maps(m, x, "conv9"), "no layer 'conv9'; layers: conv1, conv2"),
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
