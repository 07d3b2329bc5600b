"""Draw the pictures of ``docs/notebooks.md``: padding, and what a small network sees.

    python docs/pictures/notebook_pictures.py           writes both beside this file

The network is trained anew on the digits from a fixed seed.  Each file carries a digest of the
numbers that it shows, so a test can tell whether it is current without comparing pixels.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import tinygrad_cnn as tc
from tinygrad_cnn import Tensor, stepwise
from tinygrad_cnn.data import load_digits

HERE = Path(__file__).parent
STEPS, FILTERS = 150, 4


def digest(*arrays):
    """A short text that changes with the numbers, but not with the last bits of them."""
    rounded = b"".join(np.round(np.asarray(a, dtype=np.float64), 3).tobytes() for a in arrays)
    return hashlib.sha256(rounded).hexdigest()[:16]


def trained():
    """Filters and biases of one convolution, trained together with a dense layer on the digits."""
    train, _ = load_digits()
    rng = np.random.default_rng(0)
    weights = {"W": rng.standard_normal((3, 3, 1, FILTERS)) * np.sqrt(2 / 9),
               "b": np.zeros(FILTERS),
               "V": rng.standard_normal((16 * FILTERS, 10)) * np.sqrt(2 / (16 * FILTERS)),
               "c": np.zeros(10)}
    for _ in range(STEPS):
        rows = rng.choice(len(train.images), size=64, replace=False)
        leaves = {name: Tensor(value, requires_grad=True) for name, value in weights.items()}
        a = tc.relu(tc.conv2d(Tensor(train.images[rows] / train.peak), leaves["W"], leaves["b"],
                              padding=1))
        a = tc.max_pool2d(a, kernel_size=2)
        loss = tc.cross_entropy(tc.linear(tc.flatten(a, 1), leaves["V"], leaves["c"]),
                                train.labels[rows])
        loss.backward()
        weights = {name: value - 0.5 * leaves[name].grad.data for name, value in weights.items()}
    return weights["W"], weights["b"]


def numbers():
    """What is drawn: an image, its padded version, filters, and the maps that they give."""
    train, _ = load_digits()
    X = train.images[2:3] / train.peak                                  # 1 8 8 1: a two
    W, b = trained()
    Z, _ = stepwise.conv_forward(X, W, b.reshape(1, 1, 1, -1), {"stride": 1, "pad": 1})
    A, _ = stepwise.relu_forward(Z)
    return {"X": X, "X_pad": stepwise.zero_pad(X, 1), "W": W, "A": A}


def feature_picture(shown):
    """Filters above, and below each the map that it makes of the image."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    rows = figure.subplots(2, FILTERS)
    reach, brightest = np.abs(shown["W"]).max(), shown["A"].max()
    for k in range(FILTERS):
        weights = rows[0, k].imshow(shown["W"][:, :, 0, k], cmap="RdBu", vmin=-reach, vmax=reach)
        maps = rows[1, k].imshow(shown["A"][0, :, :, k], cmap="gray", vmin=0, vmax=brightest)
        rows[0, k].set_title(f"filter {k}")
        rows[1, k].set_title(f"feature map {k}")
    for axes in rows.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    figure.colorbar(weights, ax=list(rows[0]))
    figure.colorbar(maps, ax=list(rows[1]))
    return figure


def main(folder=HERE):
    """Write both pictures into ``folder`` and return what they show."""
    shown = numbers()
    for name, figure, arrays in (
            ("notebook_padding.png", stepwise.padding_picture(shown["X"], 1),
             (shown["X"], shown["X_pad"])),
            ("notebook_features.png", feature_picture(shown), (shown["W"], shown["A"]))):
        figure.savefig(Path(folder) / name, dpi=110,
                       metadata={"Software": None, "Comment": digest(*arrays)})
    return shown


if __name__ == "__main__":
    sys.exit(main() is None)
