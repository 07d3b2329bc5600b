"""Arrays behind the plots: saliency, Grad-CAM, feature maps, and the loss around the weights.

Every function runs a copy of the model in evaluation mode, so weights, ``grad``, running averages
and random state of the model stay as they are.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cnn.core import Tensor, TensorLike, grad, writable
from tinygrad_cnn.core.graph import no_grad
from tinygrad_cnn.core.op import FUNCTIONS
from tinygrad_cnn.errors import VizError
from tinygrad_cnn.types import Array

if TYPE_CHECKING:
    from tinygrad_cnn.nn import Module

__all__ = ["feature_map_arrays", "grad_cam_arrays", "loss_grid", "saliency_arrays"]



def _images(owner: str, x: TensorLike) -> Array:
    array = x._data if isinstance(x, Tensor) else np.asarray(x)
    if array.ndim != 4:
        raise VizError(f"{owner}: images have the shape (N, H, W, C), got {array.shape}")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _run(owner: str, model: Module, x: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """The scores of a copy of a model, and the output of one of its layers."""
    twin = copy.deepcopy(model).eval()
    parts = dict(twin.named_modules())
    if layer not in parts or not layer:
        some = ", ".join(name for name in list(parts)[:12] if name) or "none"
        raise VizError(f"{owner}: the model has no layer {layer!r}; layers: {some}")
    seen: list[Tensor] = []
    with parts[layer].register_forward_hook(lambda module, inputs, out: seen.append(out)):
        scores = twin(x)
    if not seen:
        raise VizError(f"{owner}: the layer {layer!r} was not called in forward")
    return scores, seen[-1]


def _score(owner: str, output: Tensor, target: ArrayLike | None) -> Tensor:
    """The sum of each image's score of its target class; the top class where none is given."""
    if output.ndim != 2:
        raise VizError(f"{owner}: the model should return scores (N, K), got {output.shape}")
    classes = output._data.argmax(axis=1) if target is None else np.asarray(target)
    classes = np.broadcast_to(classes, output.shape[:1])
    if classes.dtype.kind not in "iu" or classes.min() < 0 or classes.max() >= output.shape[1]:
        raise VizError(f"{owner}: target must be classes from 0 to {output.shape[1] - 1}, "
                       f"got {target!r}")
    return output[np.arange(len(classes)), classes].sum()


def feature_map_arrays(model: Module, x: TensorLike, layer: str) -> Array:
    """The output of a layer for images x (N, H, W, C).

    ``layer`` is the path of a part, ``"conv1"`` or ``"features.0"``.  A VizError says that there is
    no such layer, or that it was not called.
    """
    with no_grad():
        _, output = _run("feature_maps", model, Tensor(_images("feature_maps", x)), layer)
    return output._data


def saliency_arrays(model: Module, x: TensorLike, target: ArrayLike | None = None) -> Array:
    """How much each pixel moves the score of a class: max over c of abs(∂score / ∂x[n, h, w, c]).

    The model returns scores (N, K) for images x (N, H, W, C); the result is (N, H, W).  ``target``
    is a class, or one for each image, by default the top one.

    References
    ----------
    Simonyan, Vedaldi & Zisserman, *Deep inside convolutional networks*, arXiv:1312.6034.
    """
    twin = copy.deepcopy(model).eval()
    images = Tensor(_images("saliency", x), requires_grad=True)
    found, = grad(_score("saliency", twin(images), target), images)
    if found is None:
        raise VizError("saliency: the scores do not depend on the images")
    return np.asarray(np.abs(found._data).max(axis=3))


def grad_cam_arrays(model: Module, x: TensorLike, layer: str,
                    target: ArrayLike | None = None) -> Array:
    """Where a layer saw evidence for a class.

    cam[n, i, j] = max(0, Σ_c α[n, c] · A[n, i, j, c]) with α[n, c] the mean over i, j of
    ∂score / ∂A[n, i, j, c]; scaled to 1 at its largest and stretched to the image.

    ``layer`` is the path of a part whose output A has the shape (N, h, w, C), usually the last
    convolution; the rest is as in `saliency_arrays`.  The result (N, H, W) lies between 0 and 1.

    References
    ----------
    Selvaraju et al., *Grad-CAM*, arXiv:1610.02391.
    """
    images = _images("grad_cam", x)
    scores, maps = _run("grad_cam", model, Tensor(images, requires_grad=True), layer)
    if maps.ndim != 4:
        raise VizError(f"grad_cam: the layer {layer!r} gave {maps.shape}, not maps (N, h, w, C)")
    found, = grad(_score("grad_cam", scores, target), maps)
    if found is None:
        raise VizError(f"grad_cam: the scores do not depend on the layer {layer!r}")
    weights = found._data.mean(axis=(1, 2))                             # N C
    cam = np.maximum(np.einsum("nhwc,nc->nhw", maps._data, weights), 0)
    top = cam.max(axis=(1, 2), keepdims=True)
    return _stretched(cam / np.where(top > 0, top, 1), images.shape[1:3])


def _stretched(maps: Array, size: tuple[int, ...]) -> Array:
    """Maps (N, h, w) at another size, bilinear between pixel centers."""
    for axis, n in enumerate(size, start=1):
        m = maps.shape[axis]
        at = np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, m - 1)
        part = (at - low).reshape([-1 if k == axis else 1 for k in range(3)])
        maps = maps.take(low, axis) * (1 - part) + maps.take(high, axis) * part
    return maps


def loss_grid(model: Module, x: TensorLike, labels: ArrayLike, *, span: float = 1.0,
              points: int = 21, seed: int = 0) -> tuple[Array, Array]:
    """The loss on a plane through the weights, along two random directions: ``(steps, losses)``.

    Each direction is a normal draw whose every filter (last axis) is scaled to the norm of the
    model's own filter, so that the picture does not depend on how weights are scaled; biases and
    other vectors stay.  The loss is the cross entropy of one batch; losses[i, j] is that at step j
    along the first and i along the second direction, of ``points`` steps from -span to span.

    References
    ----------
    Li et al., *Visualizing the loss landscape of neural nets*, arXiv:1712.09913.
    """
    if points < 2 or not span > 0:
        raise VizError(f"loss_surface: span must be above 0 and points at least 2, "
                       f"got {span} and {points}")
    twin = copy.deepcopy(model).eval()
    rng = np.random.default_rng(seed)
    parameters = [p for p in twin.parameters() if p.ndim > 1]
    start = [p._data.copy() for p in parameters]
    first, second = ([_direction(w, rng) for w in start] for _ in range(2))
    steps = np.linspace(-span, span, points)
    losses = np.empty((points, points))
    batch = Tensor(np.asarray(x._data if isinstance(x, Tensor) else x))
    with no_grad(), np.errstate(over="ignore", invalid="ignore"):
        for i, b in enumerate(steps):
            for j, a in enumerate(steps):
                for p, w, u, v in zip(parameters, start, first, second, strict=True):
                    writable(p)[...] = w + a * u + b * v
                losses[i, j] = FUNCTIONS["cross_entropy"](twin(batch), labels).item()
    return steps, losses


def _direction(w: Array, rng: np.random.Generator) -> Array:
    d = rng.standard_normal(w.shape)
    axes = tuple(range(w.ndim - 1))
    norms = np.sqrt((w * w).sum(axes) / np.maximum((d * d).sum(axes), 1e-30))
    return np.asarray(d * norms, w.dtype)
