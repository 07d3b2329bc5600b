"""Draw a training step in every form: picture, page, motion, words, health, difference.

python examples/draw_lenet.py [--quick] [--out FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import tinygrad_cnn as tc
from tinygrad_cnn import data, nn, viz


class LeNet(nn.Module):
    """Two convolutions and a linear layer, for digits of 8×8 pixels."""

    def __init__(self, activation=tc.relu):
        rng = np.random.default_rng(0)
        self.conv1 = nn.Conv2D(1, 8, 5, padding=2, rng=rng)
        self.conv2 = nn.Conv2D(8, 16, 3, padding=1, rng=rng)
        self.fc = nn.Linear(64, 10, rng=rng)
        self.activation = activation

    def forward(self, x):                                                   # N 8 8 1
        """Scores of ten classes, N 10."""
        h = tc.max_pool2d(self.activation(self.conv1(x)), kernel_size=2)    # N 4 4 8
        h = tc.max_pool2d(self.activation(self.conv2(h)), kernel_size=2)    # N 2 2 16
        return self.fc(tc.flatten(h, 1))                                       # N 10


def main():
    """Draw, and say what was written."""
    arguments = sys.argv[1:]
    out = Path(arguments[arguments.index("--out") + 1] if "--out" in arguments
               else tempfile.mkdtemp(prefix="tinygrad_cnn-"))
    out.mkdir(parents=True, exist_ok=True)
    train, _ = data.load_digits()
    count = 16 if "--quick" in arguments else 128
    images, labels = (train.images[:count] / 16).astype(np.float32), train.labels[:count]
    model = LeNet()

    with viz.watch() as seen:                       # gradients and times of one real step
        loss = tc.cross_entropy(model(images), labels)
        loss.backward()
    figure = viz.graph(loss, watch=seen)
    print(figure)
    for problem in figure.problems(learning_rate=0.1):
        print(problem)

    suffixes = ("svg", "html") if "--quick" in arguments else (
        "svg", "html", "dot", "mmd", "json", "txt")
    written = [figure.save(out / f"lenet.{suffix}") for suffix in suffixes]
    written.append(viz.animate(figure, out / "backward.svg"))
    difference = viz.diff(model.graph(images), LeNet(tc.gelu).graph(images))
    print(difference)
    written.append(difference.figure().save(out / "difference.svg"))
    print("wrote", *(path.name for path in written), "in", out)


if __name__ == "__main__":
    main()
