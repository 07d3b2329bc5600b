"""Plots of training, by matplotlib (extra ``viz``): filters, maps, curves, confusion, saliency.

Each function returns a ``matplotlib.figure.Figure`` that is as wide as a column or a page of a
paper.  It shows itself in a notebook as SVG, which follows the reader's light or dark theme, and
``savefig("x.svg")`` writes that; a PNG follows matplotlib's style sheet.  No window is opened and
pyplot is not touched.  Without matplotlib a MissingExtraError names the pip line.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cnn.core import Tensor, TensorLike
from tinygrad_cnn.core.graph import no_grad
from tinygrad_cnn.errors import VizError, missing_extra
from tinygrad_cnn.files import write_atomically
from tinygrad_cnn.nn import evaluating
from tinygrad_cnn.types import Array
from tinygrad_cnn.viz.attribution import (
    feature_map_arrays,
    grad_cam_arrays,
    loss_grid,
    saliency_arrays,
)
from tinygrad_cnn.viz.capture import Recording, entry_names
from tinygrad_cnn.viz.labels import DARK, LIGHT, clean, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Plot

    from tinygrad_cnn.nn import Module
    from tinygrad_cnn.train import LRCurve

__all__ = ["confusion_matrix", "feature_maps", "filters", "grad_cam", "gradient_flow",
           "layer_histograms", "learning_curves", "loss_surface", "lr_curve", "most_confused",
           "saliency", "update_ratio"]

Values = Mapping[str, float | None]         # of one epoch, by name
P = ParamSpec("P")


class _History(Protocol):
    rows: Sequence[Values]


Curves = _History | Sequence[Values] | Mapping[str, Sequence[float | None]]

_LINES = ("conv", "loss", "activation", "param", "norm", "pool", "ramp3")
_STYLES = ("-", "--", "-.", ":")
_COLUMN, _PAGE = 3.4, 7.0                   # inches: a column of a paper, and both
_CELL = 0.8                                 # of one small picture
_MOST_NAMED = 20                            # classes of a confusion matrix that have words
_LOOK = {"font.size": 8.0, "axes.titlesize": 9.0, "axes.titleweight": "bold",
         "figure.titlesize": 9.0, "figure.titleweight": "bold", "legend.frameon": False,
         "legend.fontsize": 7.0, "lines.markersize": 3.0}
# What matplotlib draws in black, and the strips of the graphs, in the dark theme.
_DARK_OF = {"#000000": DARK["ink"], "#b0b0b0": DARK["card_line"], "#808080": DARK["muted"],
            **{LIGHT[role]: DARK[role] for role in _LINES}}


def _plot(function: Callable[P, Plot]) -> Callable[P, Plot]:
    """A function that plots, in the look of this module."""
    @functools.wraps(function)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Plot:
        try:
            import matplotlib.figure
        except ImportError:
            raise missing_extra("matplotlib", extra="viz", purpose="plots") from None
        with matplotlib.rc_context(_LOOK):
            return function(*args, **kwargs)
    return drawn


def _figure(width: float, height: float) -> Plot:
    """A figure of so many inches, with a canvas but without pyplot."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Shown(Figure):
        """A figure that shows itself in a notebook which has not loaded pyplot."""

        def _repr_svg_(self) -> str:
            # A notebook on a phone is narrower than the picture.
            return re.sub(r'width="([\d.]+pt)" height="[\d.]+pt"',
                          r'style="width:100%;max-width:\1"', self._svg(), count=1)

        def _svg(self) -> str:
            out = io.StringIO()
            with rc_context({"svg.fonttype": "none", "svg.hashsalt": "plots"}):
                super().savefig(out, format="svg", transparent=True, metadata={"Date": None})
            return _themed(out.getvalue())

        def savefig(self, fname: Any, **settings: Any) -> None:
            """Save; an SVG follows the theme of its reader, other formats are matplotlib's."""
            named = isinstance(fname, (str, os.PathLike))
            form = settings.pop("format", Path(fname).suffix[1:] if named else "")
            if form:
                settings["format"] = form
            if named and form:
                with write_atomically(fname, VizError) as file:
                    self.savefig(file, **settings)
            elif form == "svg":
                text = self._svg()
                fname.write(text if isinstance(fname, io.TextIOBase) else text.encode())
            else:
                super().savefig(fname, **settings)

    figure = Shown(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _themed(text: str) -> str:
    """An SVG of matplotlib whose inks turn light where the reader asks for dark."""
    text = text[text.index("<svg"):]
    name = "p" + hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'(id="|href="#|url\(#)', rf"\1{name}-", text)     # several in one page
    text = text.replace("<svg", f'<svg id="{name}"', 1)
    rules = [f"#{name} text:not([style*='fill:']){{fill:{DARK['ink']}}}"]
    rules += [f'#{name} [style*="{key}: {light}"]{{{key}:{dark}!important}}'
              for light, dark in _DARK_OF.items() for key in ("fill", "stroke")
              if f"{key}: {light}" in text]
    style = f"<style>@media (prefers-color-scheme:dark){{{''.join(rules)}}}</style>"
    head, rest = text.split(">", 1)
    return f"{head}>{style}{rest}"


def _array(x: TensorLike) -> Array:
    return x._data if isinstance(x, Tensor) else np.asarray(x)


def _curves(axis: Axes, curves: Mapping[str, Sequence[float] | Array]) -> None:
    """Lines over 1, 2, 3 ..., told apart by color and dashes."""
    for k, (name, heights) in enumerate(curves.items()):
        axis.plot(range(1, len(heights) + 1), heights, label=clean(name),
                  color=LIGHT[_LINES[k % len(_LINES)]],
                  linestyle=_STYLES[(k // len(_LINES) if len(curves) > 4 else k) % 4],
                  marker="o" if len(heights) < 30 else "")
    axis.locator_params(axis="x", integer=True)
    axis.grid(alpha=0.25)
    if len(curves) > 2:                     # beside the axis, where it covers nothing
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        axis.legend()


def _over_steps(curves: Mapping[str, Sequence[float]], ylabel: str,
                usual: tuple[float, float] | None = None) -> Plot:
    """A figure of curves on a logarithmic axis, and the band where they usually lie."""
    figure = _figure(1.4 * _COLUMN, 2.6)
    axis = figure.subplots()
    _curves(axis, curves)
    axis.set(yscale="log", xlabel="step", ylabel=ylabel)
    if usual is not None:
        axis.axhspan(*usual, color="#808080", alpha=0.15, linewidth=0)
    return figure


def _grid(pictures: Sequence[tuple[Array, str]], columns: int, title: str, *,
          centered: bool, bar: str = "") -> Plot:
    """Small pictures side by side on one scale with its bar; a centered one has 0 in the middle."""
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = _figure(max(_COLUMN, min(_PAGE, _CELL * columns + 0.5)), _CELL * 1.2 * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    low, high = (float(f([f(p) for p, _ in pictures])) for f in (np.min, np.max))
    if centered:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    for axis, (picture, name) in zip(axes.flat, pictures, strict=False):
        image = axis.imshow(picture, cmap="PuOr" if centered else "gray", vmin=low, vmax=high)
        axis.set_title(name, fontsize=7, fontweight="normal", pad=2)
    if pictures[0][0].ndim == 2:
        figure.colorbar(image, ax=axes, shrink=0.9, label=bar)
    figure.suptitle(clean(title))
    return figure


def _stretched(values: Array) -> Array:
    """Values between 0 and 1."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / ((high - low) or 1.0)


@_plot
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
    size = f"{w.shape[0]}×{w.shape[1]}, {w.shape[2]}→{w.shape[3]} channels"
    if w.shape[2] == 3:
        size += f", {number(w.min())} (dark) to {number(w.max())}"
    elif w.shape[2] > 1:
        size += ", mean over channels"
    count = "" if shown == w.shape[3] else f", the first {shown}"
    return _grid(pictures, columns, f"filters {size}{count}", centered=True, bar="weight")


@_plot
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
                 centered=False, bar="value")


@_plot
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
    figure = _figure(min(_PAGE, _COLUMN * len(kinds)), 2.6)
    for axis, (kind, names) in zip(figure.subplots(1, len(kinds), squeeze=False)[0],
                                   kinds.items(), strict=True):
        _curves(axis, {name: columns[name] for name in names})
        axis.set(xlabel="epoch", ylabel=clean(kind),
                 yscale="log" if log and "loss" in kind else "linear")
    return figure


@_plot
def lr_curve(curve: LRCurve) -> Plot:
    """The loss against the learning rate, as `Trainer.find_lr` found them, and the suggestion.

    A VizError says that no step was taken.
    """
    if not curve.rates:
        raise VizError("lr_curve: no step was taken; the first loss was not finite")
    figure = _figure(_COLUMN, 2.6)
    axis = figure.subplots()
    axis.plot(curve.rates, curve.losses, color=LIGHT["param"], linewidth=0.8, label="loss")
    axis.plot(curve.rates, curve.smoothed, color=LIGHT["loss"], label="smoothed")
    if curve.suggestion is not None:
        axis.axvline(curve.suggestion, color="#808080", linestyle="--",
                     label=f"suggested: {curve.suggestion:.2g}")
    axis.set(xscale="log", xlabel="learning rate", ylabel="loss",
             ylim=(None, 1.1 * max(curve.smoothed)))
    axis.legend()
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


@_plot
def confusion_matrix(labels: TensorLike, predictions: TensorLike, *,
                     names: Sequence[str] | None = None, share: bool = False) -> Plot:
    """How often each class was taken for each other: rows are true classes, with their recall.

    ``predictions`` are classes (N,), or scores (N, K) of which the largest counts; ``share`` shows
    the share of each row instead of counts.  Of more than 20 classes some are named, none has
    numbers, and the most frequent mistakes stand below.
    """
    from matplotlib.colors import PowerNorm

    table = _confusion(labels, predictions)
    k = len(table)
    if names is not None and len(names) < k:
        raise VizError(f"confusion_matrix: {len(names)} names for {k} classes")
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    small = k <= _MOST_NAMED
    side = min(max(_COLUMN, 0.36 * k + 1.2), _PAGE)
    figure = _figure(side + 0.3, side if small else side + 0.3)
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", norm=PowerNorm(1 if small else 0.4, 0, 1))
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    texts = [clean(n) for n in names[:k]] if names is not None else [str(i) for i in range(k)]
    each = -(-k // _MOST_NAMED)             # so many classes are named, and few have numbers
    axis.set_xticks(range(0, k, each), texts[::each], rotation=45 if names is not None else 0)
    rows = [f"{texts[i]} · {shares[i, i]:.0%}" for i in range(k)] if small else texts
    axis.set_yticks(range(0, k, each), rows[::each])
    axis.set_xlabel("predicted")
    axis.set_ylabel("true, with recall" if small else "true")
    for i, j in np.ndindex(table.shape):
        if table[i, j] and small:
            axis.text(j, i, f"{shares[i, j]:.2f}" if share else str(table[i, j]), ha="center",
                      va="center", fontsize=7,
                      color="#fefefe" if shares[i, j] > 0.6 else LIGHT["badge"])
    right = np.trace(table) / table.sum()
    axis.set_title(f"{right * 100:.1f}% of {table.sum()} right")
    wrong = np.where(np.eye(k, dtype=bool), 0, table)
    if not small and wrong.any():
        worst = [np.unravel_index(n, table.shape) for n in np.argsort(-wrong, axis=None)[:3]]
        figure.supxlabel("most often wrong: " + ", ".join(
            f"{texts[i]} as {texts[j]} ({wrong[i, j]})" for i, j in worst if wrong[i, j]),
            fontsize=8)
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


# ---- images --------------------------------------------------------------------------------------

@_plot
def saliency(model: Module, x: TensorLike, target: ArrayLike | None = None, *,
             labels: TensorLike | None = None, most: int = 8) -> Plot:
    """Images above the strength with which each pixel moves the score of its class.

    See `attribution.saliency_arrays` for parameters and errors.  Above each image stand its true
    class, if there are ``labels`` (N,), and what the model takes it for; ``most`` are drawn.
    """
    return _over_images(x, saliency_arrays(model, x, target), most, "saliency",
                        _classes(model, x, target, labels), "abs(∂score / ∂pixel)")


@_plot
def grad_cam(model: Module, x: TensorLike, layer: str, target: ArrayLike | None = None, *,
             labels: TensorLike | None = None, most: int = 8) -> Plot:
    """Images, and over them where a layer saw evidence for their class.

    See `attribution.grad_cam_arrays` for parameters and errors, `saliency` for the rest.
    """
    found = grad_cam_arrays(model, x, layer, target)
    return _over_images(x, found, most, f"Grad-CAM at {layer}",
                        _classes(model, x, target, labels), "evidence", overlay=True)


def _classes(model: Module, x: TensorLike, target: ArrayLike | None,
             labels: TensorLike | None) -> list[str]:
    """What each image is, what it is taken for, and the class that was asked for."""
    with evaluating(model), no_grad():
        said = model(Tensor(_array(x)))._data.argmax(axis=1)
    lines = [[f"taken for {c}"] for c in said]
    for words, given in (("true", labels), ("shown for", target)):
        if given is not None:
            array = _array(given) if isinstance(given, Tensor) else np.asarray(given)
            for line, c in zip(lines, np.broadcast_to(array, said.shape), strict=True):
                line.insert(0 if words == "true" else 2, f"{words} {c}")
    return ["\n".join(line) for line in lines]


def _picture(image: Array) -> Array:
    """An image H W C with three channels as it is, else its mean over them."""
    return image if image.shape[2] == 3 else image.mean(axis=2)


def _over_images(x: TensorLike, found: Array, most: int, title: str, classes: list[str],
                 bar: str, *, overlay: bool = False) -> Plot:
    images = _stretched(_array(x)[:most].astype(float))
    n = len(images)
    figure = _figure(max(_COLUMN, min(_PAGE, 0.9 * n + 0.6)), 2.3)
    axes = figure.subplots(2, n, squeeze=False)
    for k in range(n):
        for axis in axes[:, k]:
            axis.axis("off")
            axis.imshow(_picture(images[k]), cmap="gray", vmin=0, vmax=1)
        axes[0, k].set_title(classes[k], fontsize=7, fontweight="normal")
        heat = axes[1, k].imshow(found[k], cmap="inferno" if overlay else "magma", vmin=0,
                                 alpha=np.sqrt(found[k]) * 0.85 if overlay else None,
                                 vmax=1 if overlay else float(found[:n].max()) or 1.0)
    figure.colorbar(heat, ax=axes[1, :], shrink=0.9, label=bar)
    figure.suptitle(clean(title))
    return figure


@_plot
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
    columns, rows = min(5, len(order)), -(-len(order) // 5)
    figure = _figure(max(_COLUMN, 1.2 * columns), 1.55 * rows)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, i in zip(axes.flat, order, strict=False):
        picture = _picture(_stretched(images[i].astype(float)))
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        a, b = (names[c] if names is not None else str(c) for c in (true[i], said[i]))
        axis.set_title(f"true {clean(a)}, taken\nfor {clean(b)} ({shares[i, said[i]]:.0%})",
                       fontsize=7, fontweight="normal")
    return figure


# ---- over the steps of training ------------------------------------------------------------------

@_plot
def gradient_flow(runs: Sequence[Recording], *, ratio: bool = False) -> Plot:
    """The gradient RMS of each weight over steps, recorded by ``viz.describe(loss)``.

    ``ratio`` divides by the RMS of the weights.
    """
    lines: dict[str, list[float]] = {}
    for run in runs:
        for e in run.entries:
            if e.role == "parameter" and len(e.shape) > 1 and e.gradient is not None:
                lines.setdefault(e.path, []).append(
                    e.gradient.rms / (e.weight or np.nan) if ratio else e.gradient.rms)
    if not lines:
        raise VizError("gradient_flow: no run holds a gradient; describe a loss whose graph lives")
    return _over_steps(lines, "gradient over weight" if ratio else "gradient RMS")


@_plot
def update_ratio(states: Sequence[Mapping[str, Array]]) -> Plot:
    """How much each step changes the weights: RMS of the change over RMS of the weights.

    ``states`` are what ``model.state_dict()`` gave after each step, at least two; the band from
    1e-4 to 1e-2 is usual.  A VizError says that they do not belong together.
    """
    if len(states) < 2 or any(s.keys() != states[0].keys() for s in states):
        raise VizError("update_ratio: give state_dict() of one model after each of two or more "
                       f"steps, got {len(states)}")
    lines = {name: [_rms(b[name] - a[name]) / (_rms(a[name]) or np.nan)
                    for a, b in zip(states, states[1:], strict=False)]
             for name, array in states[0].items() if array.ndim > 1}
    return _over_steps(lines, "update over weight", (1e-4, 1e-2))


def _rms(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


@_plot
def layer_histograms(runs: Sequence[Recording], of: str = "activations", *,
                     most: int = 6) -> Plot:
    """How the values of each layer are spread over the steps of training.

    ``runs`` are what ``viz.describe(loss, values=True)`` gave at each step; ``of`` is
    ``"activations"``, of the activation functions, or else of the layers; ``"weights"``; or
    ``"gradients"``, of the weights.  At most ``most`` layers are drawn, from the first to the last.
    A VizError says that ``of`` is unknown, or that the runs hold no histograms.
    """
    if of not in ("activations", "weights", "gradients"):
        raise VizError(f"layer_histograms: of={of!r} is unknown; choose from activations, weights, "
                       "gradients")
    layers: dict[str, list[tuple[float, float, tuple[int, ...]]]] = {}
    for run in runs:
        families = ("activation",) if any(e.family == "activation" for e in run.entries) \
            else ("conv", "linear")
        for name, e in zip(entry_names(run), run.entries, strict=True):
            s = e.gradient if of == "gradients" else e.value
            wanted = e.family in families if of == "activations" else (
                e.role == "parameter" and len(e.shape) > 1)
            if wanted and s is not None and s.bins:
                layers.setdefault(name, []).append((s.low, s.high, s.bins))
    if not layers:
        raise VizError(f"layer_histograms: the runs hold no histograms of {of}; record them by "
                       "viz.describe(loss, values=True)")
    names = list(layers)
    shown = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, most).astype(int))]
    figure = _figure(_PAGE if len(shown) > 1 else _COLUMN, 1.9 * -(-len(shown) // 3) + 0.3)
    axes = figure.subplots(-(-len(shown) // 3), min(3, len(shown)), squeeze=False)
    for axis in axes.flat[len(shown):]:
        axis.axis("off")
    for axis, name in zip(axes.flat, shown, strict=False):
        steps = layers[name]
        low, high = min(s[0] for s in steps), max(s[1] for s in steps)
        edges = np.linspace(low, high if high > low else low + 1, 49)
        density = np.array([_shared_out(s, edges) for s in steps]).T
        image = axis.imshow(np.sqrt(density), origin="lower", aspect="auto", cmap="viridis",
                            vmin=0, vmax=1, extent=(0.5, len(steps) + 0.5, edges[0], edges[-1]),
                            interpolation="nearest")
        axis.set_title(clean(name, 30), fontsize=8)
        axis.locator_params(axis="x", integer=True)
    figure.supxlabel("step", fontsize=8)
    bar = figure.colorbar(image, ax=axes, label="count, of the fullest of 48 bins")
    bar.set_ticks([0, 0.5, 1], labels=["0", "1/4", "1"])
    figure.suptitle(of)
    return figure


def _shared_out(found: tuple[float, float, tuple[int, ...]], edges: Array) -> Array:
    """A histogram on other bins, the counts spread evenly inside each; the fullest is 1."""
    low, high, bins = found
    own = np.linspace(low, high, len(bins) + 1)
    if high <= low:                         # all are one number
        counts = np.histogram([low], edges)[0].astype(float)
    else:
        counts = np.diff(np.interp(edges, own, np.concatenate([[0], np.cumsum(bins)])))
    return counts / (counts.max() or 1.0)


@_plot
def loss_surface(model: Module, x: TensorLike, labels: ArrayLike, *, span: float = 1.0,
                 points: int = 21, seed: int = 0) -> Plot:
    """Height lines of the loss on a plane through the weights, on a logarithmic scale.

    See `attribution.loss_grid` for parameters and errors.
    """
    from matplotlib.colors import LogNorm

    steps, losses = loss_grid(model, x, labels, span=span, points=points, seed=seed)
    shown = np.where(np.isfinite(losses), np.maximum(losses, 1e-12), np.nan)
    low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
    levels = np.geomspace(low, high if high > low * 1.001 else low * 1.001, 13)
    figure = _figure(_COLUMN + 0.6, _COLUMN)
    axis = figure.subplots()
    filled = axis.contourf(steps, steps, shown, levels, cmap="viridis", norm=LogNorm())
    lines = axis.contour(steps, steps, shown, levels[1:-1:3], colors="#fefefe", linewidths=0.6)
    axis.clabel(lines, fmt="%.2g", fontsize=7)
    axis.plot([0], [0], marker="+", color="#fefefe", markersize=10)
    figure.colorbar(filled, label="loss", format="%.2g", ticks=levels[::3])
    at = losses[len(steps) // 2, len(steps) // 2]
    axis.set(xlabel="first direction", ylabel="second direction", aspect="equal",
             title=f"loss {at:.3g} at the weights (+)")
    return figure
