"""The exercise's figure: an image beside its padded version (extra ``viz``)."""

from __future__ import annotations

from typing import Any

from tinygrad_cnn import shapes
from tinygrad_cnn.errors import SettingError, missing_extra
from tinygrad_cnn.stepwise.checks import Array, floats
from tinygrad_cnn.stepwise.functions import zero_pad

__all__ = ["padding_picture"]


def padding_picture(X: Array, pad: int, image: int = 0, channel: int = 0) -> Any:
    """Draw one channel of one image, and beside it the same with its border of zeros.

    Both panels share one colour scale, so that equal numbers have equal colours; a frame in the
    second shows where the image lies.

    Parameters
    ----------
    X : array, shape (N, H, W, C)
        Images.
    pad : int, pixels
        Width of the border on each side; at least 0.
    image, channel : int, default 0
        Which image and which channel of it are drawn.

    Returns
    -------
    matplotlib.figure.Figure
        ``figure.savefig("padding.png")`` writes it.

    Raises
    ------
    ShapeError
        If X does not have four axes.
    SettingError
        If ``pad`` is negative, or there is no such image or channel.
    MissingExtraError
        If matplotlib is not installed.

    Examples
    --------
    >>> figure = padding_picture(np.ones((1, 3, 3, 1)), 2)
    >>> [axes.get_title() for axes in figure.axes[:2]]
    ['x', 'x_pad']
    """
    images = floats(X, op="pad", name="x", axes="N H W C")
    padded = zero_pad(images, pad)
    for name, index, size in (("image", image, images.shape[0]),
                              ("channel", channel, images.shape[3])):
        if not 0 <= shapes.integer("padding_picture", name, index) < size:
            raise SettingError(f"padding_picture: {name} must lie in 0 … {size - 1}, got {index}")
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
    except ImportError:
        raise missing_extra("matplotlib", extra="viz", purpose="pictures") from None
    panels = {"x": images[image, :, :, channel], "x_pad": padded[image, :, :, channel]}
    low = min(panel.min() for panel in panels.values())
    high = max(panel.max() for panel in panels.values())
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots(1, 2)
    for place, (title, panel) in zip(axes, panels.items(), strict=True):
        drawn = place.imshow(panel, vmin=low, vmax=high, cmap="gray")
        place.set_title(title)
    height, width = images.shape[1:3]                   # a frame where the image lies inside it
    axes[1].add_patch(Rectangle((pad - 0.5, pad - 0.5), width, height, fill=False,
                                edgecolor="tab:orange", linewidth=2))
    figure.colorbar(drawn, ax=list(axes))
    return figure
