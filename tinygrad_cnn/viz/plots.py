"""Plots of training, by matplotlib (extra ``viz``): filters, maps, curves, confusion, saliency.

Each function returns a ``matplotlib.figure.Figure`` that shows itself in a notebook and has
``savefig``; no window is opened and pyplot is not touched.  Without matplotlib a MissingExtraError
names the pip line.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cnn.core import Tensor, TensorLike
from tinygrad_cnn.core.graph import no_grad
from tinygrad_cnn.errors import VizError, missing_extra
from tinygrad_cnn.nn import evaluating
from tinygrad_cnn.types import Array
from tinygrad_cnn.viz.attribution import (
    feature_map_arrays,
    grad_cam_arrays,
    loss_grid,
    saliency_arrays,
)
from tinygrad_cnn.viz.capture import Recording
from tinygrad_cnn.viz.labels import LIGHT, clean

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

    from tinygrad_cnn.nn import Module
    from tinygrad_cnn.train import LRCurve

__all__ = ["confusion_matrix", "feature_maps", "filters", "grad_cam", "gradient_flow",
           "learning_curves", "loss_surface", "lr_curve", "most_confused", "saliency"]

Values = Mapping[str, float | None]         # of one epoch, by name


class _History(Protocol):
    rows: Sequence[Values]


Curves = _History | Sequence[Values] | Mapping[str, Sequence[float | None]]

_LINES = ("conv", "loss", "activation", "param", "norm", "pool", "ramp3")
_STYLES = ("-", "--", "-.", ":")
_CELL = 0.85                                # inches of one small picture
_WIDEST, _MOST_NAMED = 9.0, 20              # of a confusion matrix: inches, and classes with words


def _figure(width: float, height: float) -> Plot:
    """A figure of so many inches, with a canvas but without pyplot."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", extra="viz", purpose="plots") from None

    class Shown(Figure):
        """A figure that shows itself in a notebook which has not loaded pyplot."""

        def _repr_png_(self) -> bytes:
            out = io.BytesIO()
            self.savefig(out, format="png", dpi=100)
            return out.getvalue()

    figure = Shown(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _array(x: TensorLike) -> Array:
    return x._data if isinstance(x, Tensor) else np.asarray(x)


def _grid(pictures: Sequence[tuple[Array, str]], columns: int, title: str, *,
          centered: bool) -> Plot:
    """Small pictures side by side on one scale with its bar; a centered one has 0 in the middle."""
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = _figure(max(3.2, _CELL * columns + 0.2), _CELL * 1.2 * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    low, high = (float(f([f(p) for p, _ in pictures])) for f in (np.min, np.max))
    if centered:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    for axis, (picture, name) in zip(axes.flat, pictures, strict=False):
        image = axis.imshow(picture, cmap="PuOr" if centered else "gray", vmin=low, vmax=high)
        axis.set_title(name, fontsize=7, pad=2)
    if pictures[0][0].ndim == 2:
        figure.colorbar(image, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
    figure.suptitle(clean(title), fontsize=10, fontweight="bold")
    return figure


def _stretched(values: Array) -> Array:
    """Values between 0 and 1."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / ((high - low) or 1.0)


def filters(weights: TensorLike | Module, *, most: int = 64, columns: int = 8) -> Plot:
    """The filters of a convolution, each a small picture, on one scale.

    Filters over one channel show weights with 0 in the middle, over three channels colors; over
    more channels the mean over the channels, which the title says.

    ``weights`` have the shape (KH, KW, C, O), or belong to a module; at most ``most`` filters are
    drawn, ``columns`` in a row.  A VizError says that there are not four axes.
    """
    w = _array(getattr(weights, "weight", weights))
    if w.ndim != 4:
        raise VizError(f"filters: weights have the shape (KH, KW, C, O), got {w.shape}")
    shown = min(most, w.shape[3])
    colors = _stretched(w) if w.shape[2] == 3 else w
    pictures = [(colors[..., o] if w.shape[2] == 3 else w[..., o].mean(axis=2), str(o))
                for o in range(shown)]
    size = f"{w.shape[0]}×{w.shape[1]}, {w.shape[2]}→{w.shape[3]} channels" \
        + ", mean over channels" * (w.shape[2] not in (1, 3))
    count = "" if shown == w.shape[3] else f", the first {shown}"
    return _grid(pictures, columns, f"filters {size}{count}", centered=True)


def feature_maps(model: Module, x: TensorLike, layer: str, *, image: int = 0, most: int = 32,
                 columns: int = 8) -> Plot:
    """The output of a layer for one image of a batch, a picture for each channel.

    For ``model``, ``x`` and ``layer`` see `attribution.feature_map_arrays`, for ``most`` and
    ``columns`` `filters`.  A VizError says that there is no such layer or image, or that the layer
    gives no maps (N, h, w, C).
    """
    found = feature_map_arrays(model, x, layer)
    if found.ndim != 4:
        raise VizError(f"feature_maps: the layer {layer!r} gave {found.shape}, not (N, h, w, C)")
    if not -len(found) <= image < len(found):
        raise VizError(f"feature_maps: image {image} is outside the batch of {len(found)}")
    shown = min(most, found.shape[3])
    pictures = [(found[image, :, :, c], str(c)) for c in range(shown)]
    return _grid(pictures, columns, f"{layer}: {shown} of {found.shape[3]} channels",
                 centered=False)


def learning_curves(history: Curves, *, log: bool = False) -> Plot:
    """Losses and scores over the epochs, a panel for each kind.

    Names that differ only in a first word, ``train_loss`` and ``val_loss``, share a panel.

    ``history`` is a `History`, or a mapping of names to one value for each epoch; a value that is
    missing leaves a gap.  ``log`` gives logarithmic axes for losses.  A VizError says that the
    history is empty.
    """
    columns = _columns(history)
    kinds: dict[str, list[str]] = {}
    for name, values in columns.items():
        if len(values) and name not in ("epoch", "seconds"):
            kinds.setdefault(name.replace(" ", "_").rpartition("_")[2], []).append(name)
    if not kinds:
        raise VizError("learning_curves: the history is empty; train at least one epoch first")
    figure = _figure(4.6 * len(kinds), 3.2)
    for axis, (kind, names) in zip(figure.subplots(1, len(kinds), squeeze=False)[0],
                                   kinds.items(), strict=True):
        for k, name in enumerate(names):
            heights = columns[name]
            axis.plot(np.arange(1, len(heights) + 1), heights, label=clean(name),
                      color=LIGHT[_LINES[k % len(_LINES)]], linestyle=_STYLES[k % len(_STYLES)],
                      marker="o" if len(heights) < 30 else "", markersize=3)
        if log and "loss" in kind:
            axis.set_yscale("log")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel("epoch")
        axis.set_ylabel(clean(kind))
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, fontsize=8)
    return figure


def lr_curve(curve: LRCurve) -> Plot:
    """The loss against the learning rate, as `Trainer.find_lr` found them, and the suggestion.

    A VizError says that no step was taken.
    """
    if not curve.rates:
        raise VizError("lr_curve: no step was taken; the first loss was not finite")
    figure = _figure(4.6, 3.2)
    axis = figure.subplots()
    axis.plot(curve.rates, curve.losses, color=LIGHT["param"], linewidth=0.8, label="loss")
    axis.plot(curve.rates, curve.smoothed, color=LIGHT["loss"], label="smoothed")
    if curve.suggestion is not None:
        axis.axvline(curve.suggestion, color="gray", linestyle="--",
                     label=f"suggested: {curve.suggestion:.2g}")
    axis.set(xscale="log", xlabel="learning rate", ylabel="loss",
             ylim=(None, 1.1 * max(curve.smoothed)))
    axis.legend(frameon=False, fontsize=8)
    return figure


def _columns(history: Curves) -> dict[str, Array]:
    """Name -> one number for each epoch; what is no number is left out."""
    if isinstance(history, Mapping):
        table = {str(name): list(values) for name, values in history.items()}
    else:
        rows = history if isinstance(history, Sequence) else history.rows
        names = dict.fromkeys(name for row in rows for name in row)
        table = {str(name): [row.get(name) for row in rows] for name in names}
    return {name: np.array([np.nan if v is None else float(v) for v in values])
            for name, values in table.items()
            if all(isinstance(v, (int, float, np.number, type(None))) for v in values)}


def confusion_matrix(labels: TensorLike, predictions: TensorLike, *,
                     names: Sequence[str] | None = None, share: bool = False) -> Plot:
    """How often each class was taken for each other: rows are true classes.

    ``predictions`` are classes (N,), or scores (N, K) of which the largest counts; ``share`` shows
    the share of each row instead of counts.
    """
    table = _confusion(labels, predictions)
    k = len(table)
    if names is not None and len(names) < k:
        raise VizError(f"confusion_matrix: {len(names)} names for {k} classes")
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = min(max(3.2, 0.45 * k + 1.4), _WIDEST)
    figure = _figure(side, side)
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1.15)
    texts = [clean(n) for n in names[:k]] if names is not None else [str(i) for i in range(k)]
    each = -(-k // _MOST_NAMED)             # so many classes are named, and few have numbers
    axis.set_xticks(range(0, k, each), texts[::each], rotation=45 if names is not None else 0)
    axis.set_yticks(range(0, k, each), texts[::each])
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    for i, j in np.ndindex(table.shape):
        if table[i, j] and k <= _MOST_NAMED:
            axis.text(j, i, f"{shares[i, j]:.2f}" if share else str(table[i, j]), ha="center",
                      va="center", fontsize=8,
                      color="#ffffff" if shares[i, j] > 0.6 else LIGHT["ink"])
    right = np.trace(table) / table.sum()
    axis.set_title(f"{right * 100:.1f}% of {table.sum()} right", fontsize=10, fontweight="bold")
    return figure


def _confusion(labels: TensorLike, predictions: TensorLike) -> Array:
    """Counts, true class by predicted class."""
    true, said = _array(labels), _array(predictions)
    if said.ndim == 2:
        said = said.argmax(axis=1)
    if true.ndim != 1 or true.shape != said.shape or not len(true):
        raise VizError(f"confusion_matrix: labels (N,) and predictions (N,) or (N, K) expected, "
                       f"got {true.shape} and {said.shape}")
    if min(true.min(), said.min()) < 0 or true.dtype.kind not in "iu":
        raise VizError("confusion_matrix: classes are whole numbers from 0")
    k = int(max(true.max(), said.max())) + 1
    table = np.zeros((k, k), int)
    np.add.at(table, (true, said.astype(int)), 1)
    return table


def saliency(model: Module, x: TensorLike, target: ArrayLike | None = None, *,
             most: int = 8) -> Plot:
    """Images above the strength with which each pixel moves the score of its class.

    See `attribution.saliency_arrays` for parameters and errors; ``most`` images are drawn.
    """
    return _over_images(x, saliency_arrays(model, x, target), most, "saliency",
                        _classes(model, x, target), overlay=False)


def grad_cam(model: Module, x: TensorLike, layer: str,
             target: ArrayLike | None = None, *, most: int = 8) -> Plot:
    """Images, and over them where a layer saw evidence for their class.

    See `attribution.grad_cam_arrays` for parameters and errors; ``most`` images are drawn.
    """
    found = grad_cam_arrays(model, x, layer, target)
    return _over_images(x, found, most, f"Grad-CAM at {layer}", _classes(model, x, target),
                        overlay=True)


def _classes(model: Module, x: TensorLike, target: ArrayLike | None) -> list[str]:
    """What each image was asked for, or else taken for."""
    if target is not None:
        return [f"class {c}" for c in np.broadcast_to(np.asarray(target), len(_array(x)))]
    with evaluating(model), no_grad():
        return [f"taken for {c}" for c in model(Tensor(_array(x)))._data.argmax(axis=1)]


def most_confused(x: TensorLike, labels: TensorLike, scores: TensorLike, *,
                  names: Sequence[str] | None = None, most: int = 10) -> Plot:
    """The images (N, H, W, C) whose class got the smallest share of the softmax of their scores.

    Above each stand the true class, and the one that it was taken for with its share.
    """
    images, true, z = (_array(v) for v in (x, labels, scores))
    shares = np.exp(z - z.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    order = np.argsort(shares[np.arange(len(true)), true])[:most]
    said = shares.argmax(axis=1)
    figure = _figure(max(3.2, 1.3 * min(5, len(order))), 1.7 * -(-len(order) // 5))
    axes = figure.subplots(-(-len(order) // 5), min(5, len(order)), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, i in zip(axes.flat, order, strict=False):
        axis.imshow(_stretched(images[i]) if images.shape[3] == 3 else images[i].mean(axis=2),
                    cmap="gray")
        a, b = (names[c] if names is not None else str(c) for c in (true[i], said[i]))
        axis.set_title(f"{clean(a)}, taken for\n{clean(b)} ({shares[i, said[i]]:.0%})", fontsize=7)
    return figure


def gradient_flow(runs: Sequence[Recording], *, ratio: bool = False) -> Plot:
    """The gradient RMS of each weight over steps, recorded by ``viz.describe(loss)``.

    ``ratio`` divides by the RMS of the weights: the learning rate times that is usually 1e-3.
    """
    lines: dict[str, list[float]] = {}
    for run in runs:
        for e in run.entries:
            if e.role == "parameter" and len(e.shape) > 1 and e.gradient is not None:
                lines.setdefault(e.path, []).append(
                    e.gradient.rms / (e.weight or np.nan) if ratio else e.gradient.rms)
    if not lines:
        raise VizError("gradient_flow: no run holds a gradient; describe a loss whose graph lives")
    figure = _figure(5.2, 3.4)
    axis = figure.subplots()
    for k, (name, values) in enumerate(lines.items()):
        axis.plot(range(1, len(values) + 1), values, label=clean(name), marker="o", markersize=3,
                  color=LIGHT[_LINES[k % len(_LINES)]], linestyle=_STYLES[k // len(_LINES) % 4])
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_ylabel("gradient over weight" if ratio else "gradient RMS")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=7)
    return figure


def _over_images(x: TensorLike, found: Array, most: int, title: str, classes: list[str], *,
                 overlay: bool) -> Plot:
    images = _stretched(_array(x)[:most].astype(float))
    n = len(images)
    figure = _figure(max(3.2, 1.3 * n), 3.1)
    axes = figure.subplots(2, n, squeeze=False)
    for k in range(n):
        picture = images[k] if images.shape[3] == 3 else images[k].mean(axis=2)
        for axis in axes[:, k]:
            axis.axis("off")
            axis.imshow(picture, cmap="gray")
        axes[0, k].set_title(classes[k], fontsize=8)
        heat = axes[1, k].imshow(found[k], cmap="inferno" if overlay else "magma", vmin=0,
                                 alpha=found[k] * 0.8 if overlay else None,
                                 vmax=1 if overlay else float(found[:n].max()) or 1.0)
    figure.colorbar(heat, ax=axes[1, :], shrink=0.9).ax.tick_params(labelsize=7)
    figure.suptitle(clean(title), fontsize=10, fontweight="bold")
    return figure


def loss_surface(model: Module, x: TensorLike, labels: ArrayLike, *, span: float = 1.0,
                 points: int = 21, seed: int = 0) -> Plot:
    """Height lines of the loss on a plane through the weights.

    See `attribution.loss_grid` for parameters and errors.
    """
    steps, losses = loss_grid(model, x, labels, span=span, points=points, seed=seed)
    shown = np.log10(np.maximum(losses, 1e-12))
    figure = _figure(4.8, 4.0)
    axis = figure.subplots()
    filled = axis.contourf(steps, steps, np.where(np.isfinite(shown), shown, np.nan), 20,
                           cmap="viridis")
    axis.plot([0], [0], marker="+", color="#ffffff", markersize=10)
    figure.colorbar(filled, label="log10 loss")
    axis.set_xlabel("first direction")
    axis.set_ylabel("second direction")
    at = losses[len(steps) // 2, len(steps) // 2]
    axis.set_title(f"loss {at:.3g} at the weights (+)", fontsize=10, fontweight="bold")
    axis.set_aspect("equal")
    return figure
