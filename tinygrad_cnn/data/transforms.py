"""Changes to a batch of images: ``transform(images, rng) -> images``.

Images are ``N H W C``.  A transform never writes to what it is given, holds no state, and draws
every random number from the generator that it is handed: the same generator gives the same images.
Whole batches are treated at once.  Here are those that draw nothing; `augment` has those that do.

Geometry first, on the raw bytes; then ``ToFloat``; then ``Normalize``: a border or a hole is filled
with 0, which is black only before ``Normalize``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.data.dataset import check_images
from tinygrad_cnn.errors import SettingError

__all__ = ["Compose", "Images", "Normalize", "ToFloat", "Transform", "channel_statistics",
           "check_axes", "generator_for"]

Images = NDArray[Any]


class Transform(Protocol):
    """Anything that turns images N H W C into as many images."""

    def __call__(self, images: Images, rng: np.random.Generator | None = None) -> Images:
        """Apply to a batch N H W C."""
        ...


def check_axes(images: Images, who: str) -> None:
    """Refuse what is not a batch of images."""
    if not isinstance(images, np.ndarray) or images.ndim != 4:
        shape = getattr(images, "shape", type(images).__name__)
        raise SettingError(f"{who}: takes a batch of images with axes N H W C, got {shape}")


def generator_for(rng: np.random.Generator | None, who: str) -> np.random.Generator:
    """The generator that a random transform was given, or an error that says how to make one."""
    if not isinstance(rng, np.random.Generator):
        raise SettingError(f"{who}: needs a generator, got {rng!r}; call it with "
                           "np.random.default_rng(seed)")
    return rng


@dataclass(frozen=True, init=False, repr=False)
class Compose:
    """Several transforms, one after the other, sharing the generator.

    Parameters
    ----------
    *steps : transforms
        First to last.

    Raises
    ------
    SettingError
        If a step cannot be called.

    Examples
    --------
    >>> import numpy as np
    >>> prepare = Compose(ToFloat(1 / 16), Normalize(mean=0.5, std=0.25))
    >>> prepare(np.full((1, 1, 1, 1), 12, np.uint8)).item()
    1.0
    """

    steps: tuple[Callable[..., Images], ...]

    def __init__(self, *steps: Callable[..., Images]) -> None:
        for step in steps:
            if not callable(step):
                raise SettingError(f"Compose: {step!r} cannot be called; write Compose(a, b, c)")
        object.__setattr__(self, "steps", steps)

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.steps))})"

    def __call__(self, images: Images, rng: np.random.Generator | None = None) -> Images:
        """Apply to a batch N H W C."""
        for step in self.steps:
            images = step(images, rng)
        return images


@dataclass(frozen=True)
class ToFloat:
    """Bytes to float32: y = x · scale.

    Parameters
    ----------
    scale : float, default 1/255
        ``1 / dataset.peak`` gives values from 0 to 1; for the digits that is 1/16.

    Raises
    ------
    SettingError
        If ``scale`` is not a finite number other than 0.
    DataError
        If the images are no ``N H W C``; called on floats, which would be scaled twice.

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

    def __call__(self, images: Images, rng: np.random.Generator | None = None) -> Images:
        """Apply to a batch N H W C."""
        check_axes(images, "ToFloat")
        if images.dtype != np.uint8:
            raise SettingError(f"ToFloat: images are {images.dtype}, not uint8: they seem to be "
                               "scaled already; leave ToFloat out")
        return np.multiply(images, np.float32(self.scale), dtype=np.float32)


@dataclass(frozen=True)
class Normalize:
    """Centre and scale each channel: y = (x − mean) / std.

    Parameters
    ----------
    mean, std : float or sequence of C floats
        For all channels, or for each.  ``channel_statistics`` measures them on a training set.

    Raises
    ------
    SettingError
        If a number is not finite or ``std`` not above 0; called on bytes, or on another number of
        channels.

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

    def __call__(self, images: Images, rng: np.random.Generator | None = None) -> Images:
        """Apply to a batch N H W C."""
        check_axes(images, "Normalize")
        if images.dtype.kind != "f":
            raise SettingError(f"Normalize: images are {images.dtype}; put ToFloat before it")
        dtype = images.dtype
        mean, std = np.asarray(self.mean, dtype), np.asarray(self.std, dtype)
        for setting, value in (("mean", mean), ("std", std)):
            if value.ndim and len(value) != images.shape[3]:
                raise SettingError(f"Normalize: {setting} has {len(value)} numbers for images of "
                                   f"{images.shape[3]} channels")
        out: Images = images - mean
        out /= std
        return out


def channel_statistics(images: Images, *, scale: float = 1.0) -> tuple[tuple[float, ...],
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

    Raises
    ------
    DataError
        If the images are no ``N H W C`` or hold NaN.
    SettingError
        If there are no images.

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
