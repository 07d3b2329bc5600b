"""Changes to a batch: ``transform(images, rng)``, or ``transform(images, rng, targets)``.

Images are ``N H W C``.  A transform never writes to what it is given, holds no state, and draws
every random number from the generator that it is handed: the same generator gives the same images.
Each image draws its own numbers, and the whole batch is treated at once.

With targets the result is ``(images, targets)``.  What moves pixels (flip, crop, shift, rotation)
moves the masks among the targets in the same way; what mixes images (`MixUp`, `CutMix`) mixes the
labels; all else leaves the targets as they are.

Geometry first, on the raw bytes; then ``ToFloat``; then ``Normalize``: a border or a hole is filled
with 0, which is black only before ``Normalize``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, overload

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.data.dataset import Arrays, check_images, map_arrays
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.types import Array, Function

__all__ = ["ColorJitter", "Compose", "CutMix", "Cutout", "MixUp", "Normalize", "RandomErasing",
           "ToFloat", "Transform", "boxes", "channel_statistics", "fill_value", "span"]

Generator = np.random.Generator
Drawn = TypeVar("Drawn")            # the random numbers of a batch, as the transform draws them
Mixture = tuple[slice, slice, float]        # rows, columns, share of the image itself
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Transform(Generic[Drawn]):
    """The base of the transforms, and of yours where a function of (images, rng) does not do.

    A subclass gives ``change(images, drawn)``, and where it needs them ``draw(rng, shape)``, the
    random numbers of a batch, and ``follow(targets, drawn, images)``, the targets that go with the
    changed images.

    Examples
    --------
    >>> import numpy as np
    >>> class Darken(Transform):
    ...     random = True
    ...     def draw(self, rng, shape):
    ...         return rng.uniform(0.5, 1.0, (shape[0], 1, 1, 1)).astype(np.float32)
    ...     def change(self, images, drawn):
    ...         return images * drawn
    >>> images, labels = Darken()(np.ones((2, 1, 1, 1), np.float32), np.random.default_rng(0),
    ...                           np.array([3, 4]))
    >>> images.ravel(), labels
    (array([0.82, 0.63], dtype=float32), array([3, 4]))
    """

    random: ClassVar[bool] = False              # needs a generator
    needs_targets: ClassVar[bool] = False

    @overload
    def __call__(self, images: Array, rng: Generator | None = None,
                 targets: None = None) -> Array: ...

    @overload
    def __call__(self, images: Array, rng: Generator | None,
                 targets: Arrays) -> tuple[Array, Arrays]: ...

    def __call__(self, images: Array, rng: Generator | None = None,
                 targets: Arrays | None = None) -> Array | tuple[Array, Arrays]:
        """Apply to a batch N H W C, and to its targets if they are given."""
        name = type(self).__name__
        if not isinstance(images, np.ndarray) or images.ndim != 4:
            shape = getattr(images, "shape", type(images).__name__)
            raise SettingError(f"{name}: takes a batch of images with axes N H W C, got {shape}")
        if self.random and not isinstance(rng, Generator):
            raise SettingError(f"{name}: needs a generator, got {rng!r}; call it with "
                               "np.random.default_rng(seed)")
        if self.needs_targets and targets is None:
            raise SettingError(f"{name}: changes the targets too; call it with (images, rng, "
                               "targets), or give it to a DataLoader that has targets")
        drawn: Any = self.draw(rng, images.shape) if rng is not None and self.random else None
        out = self.change(images, drawn)
        return out if targets is None else (out, self.follow(targets, drawn, images))

    def draw(self, rng: Generator, shape: Shape) -> Drawn:
        """The random numbers for images of that shape."""
        raise NotImplementedError

    def change(self, images: Array, drawn: Drawn) -> Array:
        """The changed images, a new array."""
        raise NotImplementedError

    def follow(self, targets: Arrays, drawn: Drawn, images: Array) -> Arrays:
        """The targets of the changed images; ``images`` are those before."""
        return targets


@dataclass(frozen=True, init=False, repr=False)
class Compose(Transform):
    """Several transforms, one after the other, sharing the generator.

    Parameters
    ----------
    steps : sequence of transforms
        First to last: transforms, or functions of (images, rng), which leave targets alone.

    Examples
    --------
    >>> import numpy as np
    >>> prepare = Compose([ToFloat(1 / 16), Normalize(mean=0.5, std=0.25)])
    >>> prepare(np.full((1, 1, 1, 1), 12, np.uint8)).item()
    1.0
    """

    steps: tuple[Function, ...]

    def __init__(self, steps: Iterable[Callable[..., Arrays]]) -> None:
        listed = tuple(steps) if isinstance(steps, Iterable) else (steps,)
        if not isinstance(steps, Iterable) or not all(map(callable, listed)):
            wrong = next((step for step in listed if not callable(step)), steps)
            raise SettingError("Compose: steps must be a sequence of callables, got "
                               f"{wrong!r}; write Compose([a, b, c])")
        object.__setattr__(self, "steps", listed)

    def __repr__(self) -> str:
        return f"Compose([{', '.join(map(repr, self.steps))}])"

    def __call__(self, images: Array, rng: Generator | None = None,     # type: ignore[override]
                 targets: Arrays | None = None) -> Array | tuple[Array, Arrays]:
        """Apply to a batch, and to its targets if they are given."""
        for step in self.steps:
            if targets is not None and isinstance(step, Transform):
                images, targets = step(images, rng, targets)
            else:
                images = step(images, rng)
        return images if targets is None else (images, targets)


@dataclass(frozen=True)
class ToFloat(Transform[None]):
    """Bytes to float32: y = x · scale.

    Parameters
    ----------
    scale : float, default 1/255
        ``1 / dataset.peak`` gives values from 0 to 1; for the digits that is 1/16.  Floats are
        refused: they would be scaled twice.

    Examples
    --------
    >>> import numpy as np
    >>> ToFloat()(np.array([[[[0], [255]]]], np.uint8)).ravel()
    array([0., 1.], dtype=float32)
    """

    scale: float = 1 / 255

    def __post_init__(self) -> None:
        if not np.isfinite(self.scale) or self.scale == 0:
            raise SettingError(f"ToFloat: scale must be a finite number other than 0, "
                               f"got {self.scale!r}")

    def change(self, images: Array, drawn: None) -> Array:
        if images.dtype != np.uint8:
            raise SettingError(f"ToFloat: images are {images.dtype}, not uint8: they seem to be "
                               "scaled already; leave ToFloat out")
        return np.multiply(images, np.float32(self.scale), dtype=np.float32)


@dataclass(frozen=True)
class Normalize(Transform[None]):
    """Center and scale each channel: y = (x − mean) / std.

    Parameters
    ----------
    mean, std : float or sequence of C floats
        For all channels, or for each.  ``channel_statistics`` measures them on a training set.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[[[1.0, 10.0], [3.0, 30.0]]]])
    >>> Normalize(mean=(2, 20), std=(1, 10))(x)
    array([[[[-1., -1.],
             [ 1.,  1.]]]])
    """

    mean: float | Sequence[float]
    std: float | Sequence[float]

    def __post_init__(self) -> None:
        mean, std = np.asarray(self.mean, np.float64), np.asarray(self.std, np.float64)
        if mean.ndim > 1 or std.ndim > 1 or not np.isfinite(mean).all():
            raise SettingError(f"Normalize: mean and std must be a finite number, or one for each "
                               f"channel, got {self.mean!r} and {self.std!r}")
        if not (np.isfinite(std) & (std > 0)).all():
            raise SettingError(f"Normalize: std must be above 0, got {self.std!r}; a channel that "
                               "never varies has nothing to scale: give it 1")

    def change(self, images: Array, drawn: None) -> Array:
        if images.dtype.kind != "f":
            raise SettingError(f"Normalize: images are {images.dtype}; put ToFloat before it")
        dtype = images.dtype
        mean, std = np.asarray(self.mean, dtype), np.asarray(self.std, dtype)
        for setting, value in (("mean", mean), ("std", std)):
            if value.ndim and len(value) != images.shape[3]:
                raise SettingError(f"Normalize: {setting} has {len(value)} numbers for images of "
                                   f"{images.shape[3]} channels")
        out: Array = images - mean
        out /= std
        return out


def channel_statistics(images: Array, *, scale: float = 1.0) -> tuple[tuple[float, ...],
                                                                      tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels, for `Normalize`.

    Parameters
    ----------
    images : array, shape (N, H, W, C)
        Bytes or floats.
    scale : float, default 1.0
        What `ToFloat` will multiply them by.

    Returns
    -------
    (mean, std) : two tuples of C floats
        Computed in float64, std with the divisor N·H·W.

    Examples
    --------
    >>> import numpy as np
    >>> channel_statistics(np.array([[[[0], [2]]]], np.uint8), scale=0.5)
    ((0.5,), (0.5,))
    """
    images = check_images(images, where="channel_statistics")
    if not len(images):
        raise SettingError("channel_statistics: there are no images")
    total = np.zeros(images.shape[3])
    squares = np.zeros(images.shape[3])
    # A first guess at the mean keeps the squares small beside their differences.
    guess = images[0].mean((0, 1), dtype=np.float64)                       # C
    for start in range(0, len(images), 1024):                              # float64 of a block only
        block = images[start:start + 1024] - guess
        total += block.sum((0, 1, 2))
        squares += np.einsum("nhwc,nhwc->c", block, block)
    count = images.size // images.shape[3]
    offset = total / count
    std = np.sqrt(np.maximum(squares / count - offset**2, 0.0))
    return (tuple(((guess + offset) * scale).tolist()), tuple((std * abs(scale)).tolist()))


# ---- helpers of the random ones ------------------------------------------------------------------

def fill_value(dtype: np.dtype, fill: float, owner: str) -> Array | np.generic:
    """``fill`` in a dtype; a byte cannot hold a fraction or a negative number."""
    limits = None if dtype.kind in "fb" else np.iinfo(dtype)
    if np.isfinite(fill) and (limits is None or limits.min <= fill <= limits.max):
        value = np.asarray(fill).astype(dtype)[()]
        if dtype.kind == "f" or value == fill:
            return value
    raise SettingError(f"{owner}: fill {fill!r} does not fit into images of {dtype}")


def span(owner: str, name: str, value: float | tuple[float, float], *, center: float = 0.0,
         minimum: float | None = None, maximum: float | None = None) -> tuple[float, float]:
    """(lowest, highest): as given, or a distance from ``center``."""
    if not isinstance(value, (tuple, list)):
        value = checks.number(owner, name, value, minimum=0)
        value = center - value, center + value
        value = value if minimum is None else (max(value[0], minimum), value[1])
    if len(value) != 2:
        raise SettingError(f"{owner}: {name} must be a number or (lowest, highest), got {value!r}")
    low, high = (checks.number(owner, name, one, minimum=minimum, maximum=maximum) for one in value)
    if low > high:
        raise SettingError(f"{owner}: {name} must be (lowest, highest), got {value!r}")
    return low, high


def boxes(rng: Generator, shape: Shape, scale: tuple[float, float],
          ratio: tuple[float, float]) -> tuple[Array, Array, Array]:
    """Height and width of a box in each image, and whether one was found that fits.

    Its area is uniform between two shares of the image's, its width / height log-uniform; the first
    of ten draws that fits is taken, as torchvision does.
    """
    n, h, w, _ = shape
    area = h * w * rng.uniform(*scale, (10, n))
    aspect = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), (10, n)))
    heights = np.rint(np.sqrt(area / aspect)).astype(int)
    widths = np.rint(np.sqrt(area * aspect)).astype(int)
    fits = (heights > 0) & (heights <= h) & (widths > 0) & (widths <= w)
    first = fits.argmax(0), np.arange(n)
    return heights[first], widths[first], fits[first]


def _inside(first: Array, length: Array | int, size: int) -> Array:
    """Which of ``size`` places lie in the run of ``length`` that begins at ``first``: N size."""
    place = np.arange(size) - np.asarray(first).reshape(-1, 1)
    return (place >= 0) & (place < np.asarray(length).reshape(-1, 1))


def _blanked(images: Array, drawn: tuple[Array, Array], fill: float, owner: str) -> Array:
    """Images whose pixels in the rows N H and columns N W are filled."""
    rows, columns = drawn
    n, h, w, c = images.shape
    out = images.copy(order="C")
    # Moved as rows of W·C values: several times faster than a mask of pixels.
    hole = rows[:, :, None] & columns.repeat(c, axis=1)[:, None, :]
    np.copyto(out.reshape(n, h, w * c), fill_value(images.dtype, fill, owner), where=hole)
    return out


# ---- random changes of pixels --------------------------------------------------------------------

@dataclass(frozen=True)
class Cutout(Transform[tuple[Array, Array]]):
    """Blank a square at a random place of each image.

    The center is any pixel, so that near an edge part of the square lies outside and less is
    blanked (DeVries & Taylor, arXiv:1708.04552).

    Parameters
    ----------
    size : int, pixels
        Side of the square.
    fill : float, default 0.0
        What is put there.

    Examples
    --------
    >>> import numpy as np
    >>> Cutout(2)(np.ones((1, 3, 3, 1)), np.random.default_rng(0))[0, :, :, 0]
    array([[1., 1., 1.],
           [0., 0., 1.],
           [0., 0., 1.]])
    """

    random = True
    size: int
    fill: float = 0.0

    def __post_init__(self) -> None:
        checks.integer("Cutout", "size", self.size, minimum=1)

    def draw(self, rng: Generator, shape: Shape) -> tuple[Array, Array]:
        n, h, w, _ = shape
        centers = rng.integers(0, h, n), rng.integers(0, w, n)
        rows, columns = (_inside(center - self.size // 2, self.size, length)
                         for center, length in zip(centers, (h, w), strict=True))
        return rows, columns

    def change(self, images: Array, drawn: tuple[Array, Array]) -> Array:
        return _blanked(images, drawn, self.fill, "Cutout")


@dataclass(frozen=True)
class RandomErasing(Transform[tuple[Array, Array]]):
    """Blank a rectangle of each image with probability ``p``, all of it inside the image.

    Area and shape are drawn as torchvision does (Zhong et al., arXiv:1708.04896).

    Parameters
    ----------
    p : float, default 0.5
    scale : (float, float), default (0.02, 0.33)
        Smallest and largest area, as a share of the image's.
    ratio : (float, float), default (0.3, 3.3)
        Smallest and largest height / width.
    fill : float, default 0.0
        What is put there.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.ones((1, 3, 4, 1))
    >>> RandomErasing(p=1, scale=(0.3, 0.4))(x, np.random.default_rng(3))[0, :, :, 0]
    array([[1., 0., 0., 1.],
           [1., 0., 0., 1.],
           [1., 1., 1., 1.]])
    """

    random = True
    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    fill: float = 0.0

    def __post_init__(self) -> None:
        checks.number("RandomErasing", "p", self.p, minimum=0, maximum=1)
        span("RandomErasing", "scale", self.scale, minimum=0, maximum=1)
        span("RandomErasing", "ratio", self.ratio, minimum=1e-6)

    def draw(self, rng: Generator, shape: Shape) -> tuple[Array, Array]:
        n, h, w, _ = shape
        chosen = rng.random(n) < self.p
        low, high = self.ratio
        heights, widths, found = boxes(rng, shape, self.scale, (1 / high, 1 / low))
        heights = heights * (found & chosen)
        widths = np.minimum(widths, w)
        top, left = rng.integers(0, h - np.minimum(heights, h) + 1), rng.integers(0, w - widths + 1)
        return _inside(top, heights, h), _inside(left, widths, w)

    def change(self, images: Array, drawn: tuple[Array, Array]) -> Array:
        return _blanked(images, drawn, self.fill, "RandomErasing")


@dataclass(frozen=True)
class ColorJitter(Transform[list[tuple[str, Array]]]):
    """Change brightness, contrast, saturation and hue of each image, in a random order.

    The formulas are torchvision's: brightness blends with black, contrast with the image's mean
    gray, saturation with its gray (0.2989 R + 0.587 G + 0.114 B), each by a factor from 1 − x to
    1 + x; hue turns by −x to x of a full turn.  The result stays between 0 and ``peak``.

    Parameters
    ----------
    brightness, contrast, saturation : float or (float, float), default 0
        x, at least 0, or (lowest, highest) factor.
    hue : float or (float, float), default 0
        At most 0.5.
    peak : float, optional
        The brightest possible value: 255 for bytes and 1 for floats if not given.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.full((1, 1, 1, 3), (0.2, 0.4, 0.6))
    >>> ColorJitter(brightness=(0.5, 0.5))(x, np.random.default_rng(0)).ravel()
    array([0.1, 0.2, 0.3])
    >>> ColorJitter(hue=(0.5, 0.5))(x, np.random.default_rng(0)).ravel()
    array([0.6, 0.4, 0.2])
    """

    random = True
    brightness: float | tuple[float, float] = 0.0
    contrast: float | tuple[float, float] = 0.0
    saturation: float | tuple[float, float] = 0.0
    hue: float | tuple[float, float] = 0.0
    peak: float | None = None

    def __post_init__(self) -> None:
        self._spans()
        if self.peak is not None:
            checks.number("ColorJitter", "peak", self.peak, above=0)

    def _spans(self) -> dict[str, tuple[float, float]]:
        factors = {name: span("ColorJitter", name, getattr(self, name), center=1, minimum=0)
                   for name in ("brightness", "contrast", "saturation")}
        return {**factors,
                "hue": span("ColorJitter", "hue", self.hue, minimum=-0.5, maximum=0.5)}

    def draw(self, rng: Generator, shape: Shape) -> list[tuple[str, Array]]:
        spans = self._spans()
        return [(name, rng.uniform(*spans[name], (shape[0], 1, 1, 1)))
                for name in rng.permutation(list(spans))
                if spans[name] != ((0, 0) if name == "hue" else (1, 1))]

    def change(self, images: Array, drawn: list[tuple[str, Array]]) -> Array:
        if images.shape[3] not in (1, 3):
            raise SettingError(f"ColorJitter: images must have 1 or 3 channels, got "
                               f"{images.shape[3]}")
        peak = self.peak or (1.0 if images.dtype.kind == "f" else 255.0)
        dtype = np.float64 if images.dtype == np.float64 else np.float32
        out: Array = images.astype(dtype)
        for name, factor in drawn:
            factor = factor.astype(out.dtype)
            if name == "hue":
                out = _turn_hue(out / peak, factor[..., 0]) * peak if images.shape[3] == 3 else out
                continue
            gray = out @ np.array([0.2989, 0.587, 0.114], out.dtype)[:, None] \
                if images.shape[3] == 3 else out
            other = {"brightness": 0.0, "saturation": gray,
                     "contrast": gray.mean((1, 2, 3), keepdims=True)}[name]
            out = np.clip(factor * out + (1 - factor) * other, 0, peak)
        return out if images.dtype.kind == "f" else np.rint(out).astype(images.dtype)


def _turn_hue(rgb: Array, turn: Array) -> Array:
    """Colors from 0 to 1 with another hue; by way of hue, saturation and value."""
    value: Array = rgb.max(3)                                               # N H W
    chroma: Array = value - rgb.min(3)
    divisor: Array = np.where(chroma == 0, 1, chroma)
    r, g, b = np.moveaxis(rgb, 3, 0)
    hue = np.where(value == r, (g - b) / divisor,
                   np.where(value == g, 2 + (b - r) / divisor, 4 + (r - g) / divisor))
    k = (hue[..., None] + 6 * turn[..., None] + np.array([5, 3, 1], rgb.dtype)) % 6
    out: Array = value[..., None] - chroma[..., None] * np.clip(np.minimum(k, 4 - k), 0, 1)
    return out


# ---- mixtures of two images ----------------------------------------------------------------------

@dataclass(frozen=True)
class MixUp(Transform[Mixture]):
    """Blend each image with its neighbor in the batch, and their labels alike.

    x ← λ·x + (1 − λ)·x', y ← λ·y + (1 − λ)·y', with one λ ~ Beta(alpha, alpha) a batch and the
    image before as x' (Zhang et al., arXiv:1710.09412).  The loss must take soft labels, as
    ``cross_entropy`` does.

    Parameters
    ----------
    classes : int, optional
        K: class numbers (N,) become rows (N, K).  Targets of floats need none.
    alpha : float, default 1.0

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.array([0.0, 1.0]).reshape(2, 1, 1, 1), np.array([0, 1])
    >>> images, labels = MixUp(classes=2)(x, np.random.default_rng(0), y)
    >>> images.ravel(), labels[0]
    (array([0.29753205, 0.70246795]), array([0.7024679 , 0.29753208], dtype=float32))
    """

    random = needs_targets = True
    classes: int | None = None
    alpha: float = 1.0

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.classes is not None:
            checks.integer(name, "classes", self.classes, minimum=1)
        checks.number(name, "alpha", self.alpha, above=0)

    def draw(self, rng: Generator, shape: Shape) -> Mixture:
        return slice(None), slice(None), rng.beta(self.alpha, self.alpha)

    def change(self, images: Array, drawn: Mixture) -> Array:
        if images.dtype.kind == "f":
            return _blend(images, drawn[2])
        return np.rint(_blend(images.astype(np.float32), drawn[2])).astype(images.dtype)

    def follow(self, targets: Arrays, drawn: Mixture, images: Array) -> Arrays:
        return map_arrays(lambda target: self._mixed(target, drawn), targets)

    def _mixed(self, target: Array, drawn: Mixture) -> Array:
        return _blend(self._soft(target), drawn[2])

    def _soft(self, target: Array) -> Array:
        """Class numbers as rows of float32; floats as they are."""
        if target.dtype.kind == "f":
            return target
        name = type(self).__name__
        if target.ndim != 1 or target.dtype.kind not in "iu":
            raise SettingError(f"{name}: targets of {target.dtype} and shape {target.shape} cannot "
                               "be blended; it takes class numbers (N,) or floats")
        if self.classes is None:
            raise SettingError(f"{name}: class numbers are blended as rows (N, K); give classes=K")
        if target.size and not 0 <= target.min() <= target.max() < self.classes:
            raise SettingError(f"{name}: labels must be from 0 to {self.classes - 1}, got "
                               f"{target.min()} to {target.max()}")
        return np.eye(self.classes, dtype=np.float32)[target]


@dataclass(frozen=True)
class CutMix(MixUp):
    """Put a rectangle of its neighbor in the batch into each image, and blend the labels alike.

    One rectangle a batch, of the share 1 − λ of the image before it is cut off at the edges,
    λ ~ Beta(alpha, alpha); labels are blended by the area that was put in; masks get the rectangle
    of the neighbor's mask (Yun et al., arXiv:1905.04899).

    Parameters
    ----------
    classes, alpha
        As in `MixUp`.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.repeat([0, 1], 16).reshape(2, 4, 4, 1)
    >>> images, labels = CutMix(classes=2)(x, np.random.default_rng(11), np.array([0, 1]))
    >>> images[0, :, :, 0]
    array([[0, 0, 0, 0],
           [0, 1, 1, 0],
           [0, 1, 1, 0],
           [0, 0, 0, 0]])
    >>> labels[0]
    array([0.75, 0.25], dtype=float32)
    """

    def draw(self, rng: Generator, shape: Shape) -> Mixture:
        sizes, side = shape[1:3], np.sqrt(1 - super().draw(rng, shape)[2])
        where = []
        for size in sizes:
            center, half = int(rng.integers(size)), int(0.5 * side * size)
            where.append(slice(max(center - half, 0), min(center + half, size)))
        area = (where[0].stop - where[0].start) * (where[1].stop - where[1].start)
        return where[0], where[1], 1 - area / (sizes[0] * sizes[1])

    def change(self, images: Array, drawn: Mixture) -> Array:
        rows, columns, _ = drawn
        out = images.copy()
        out[:, rows, columns] = np.roll(images[:, rows, columns], 1, axis=0)
        return out

    def _mixed(self, target: Array, drawn: Mixture) -> Array:
        return self.change(target, drawn) if target.ndim > 2 else super()._mixed(target, drawn)

    def follow(self, targets: Arrays, drawn: Mixture, images: Array) -> Arrays:
        checked = map_arrays(lambda target: check_mask(target, images, "CutMix"), targets)
        return super().follow(checked, drawn, images)


def _blend(array: Array, share: float) -> Array:
    """``share`` of each entry and the rest of the one before, in the array's dtype."""
    share = array.dtype.type(share)
    out: Array = share * array + (1 - share) * np.roll(array, 1, axis=0)
    return out


def check_mask(target: Array, images: Array, owner: str) -> Array:
    """A target of three or four axes must have the pixels of the images."""
    if target.ndim > 2 and (target.ndim > 4 or target.shape[:3] != images.shape[:3]):
        raise SettingError(f"{owner}: targets of shape {target.shape} do not go with images of "
                           f"shape {images.shape}; masks must be N H W or N H W C of the same size")
    return target
