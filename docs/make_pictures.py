"""Make every picture of pictures.md, from real networks on the embedded digits.

python docs/make_pictures.py            writes docs/pictures/
python docs/make_pictures.py --check    fails if a picture there is not what the code draws now

Times are left out, and the check does not compare numbers: they differ between machines.
"""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

import tinygrad_cnn as tc
from tinygrad_cnn import data, models, nn, optim, viz
from tinygrad_cnn.viz import plots

FOLDER = Path(__file__).parent / "pictures"
BATCH = 16


class LeNet(nn.Module):
    """Two convolutions and a linear layer, for digits of 8×8 pixels."""

    def __init__(self, activation=tc.relu, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.conv1 = nn.Conv2D(1, 8, 5, padding=2, rng=rng)
        self.conv2 = nn.Conv2D(8, 16, 3, padding=1, rng=rng)
        self.fc = nn.Linear(2 * 2 * 16, 10, rng=rng)
        self._activation = activation

    def forward(self, x):                                                   # N 8 8 1
        h = tc.max_pool2d(self._activation(self.conv1(x)), kernel_size=2)   # N 4 4 8
        h = tc.max_pool2d(self._activation(self.conv2(h)), kernel_size=2)   # N 2 2 16
        return self.fc(tc.flatten(h, 1))                                       # N 10


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, width: int, rng) -> None:
        stride = 1 if before == width else 2
        self.conv1 = nn.Conv2D(before, width, 3, stride=stride, padding=1, bias=False, rng=rng)
        self.norm1 = nn.BatchNorm2D(width)
        self.conv2 = nn.Conv2D(width, width, 3, padding=1, bias=False, rng=rng)
        self.norm2 = nn.BatchNorm2D(width)
        self.short = None if stride == 1 else nn.Conv2D(before, width, 1, stride=2, bias=False,
                                                        rng=rng)

    def forward(self, x):
        h = self.norm2(self.conv2(tc.relu(self.norm1(self.conv1(x)))))
        return tc.relu(h + (x if self.short is None else self.short(x)))


class ResNet(nn.Module):
    """Three stages of nine blocks: 56 layers of weights."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.conv = nn.Conv2D(1, 16, 3, padding=1, bias=False, rng=rng)
        self.norm = nn.BatchNorm2D(16)
        widths = [16] * 10 + [32] * 9 + [64] * 9
        blocks = [Block(a, b, rng) for a, b in zip(widths, widths[1:], strict=False)]
        self.stage1, self.stage2, self.stage3 = (nn.Sequential(*blocks[k:k + 9])
                                                 for k in (0, 9, 18))
        self.fc = nn.Linear(64, 10, rng=rng)

    def forward(self, x):
        h = self.stage3(self.stage2(self.stage1(tc.relu(self.norm(self.conv(x))))))
        return self.fc(tc.global_avg_pool2d(h))


class RNN(nn.Module):
    """The rows of an image, one after another, through one cell."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.of_x, self.of_h = nn.Linear(28, 16, rng=rng), nn.Linear(16, 16, rng=rng)
        self.head = nn.Linear(16, 10, rng=rng)

    def forward(self, x):                                                   # N 28 28
        h = tc.tanh(self.of_x(x[:, 0]))
        for t in range(1, x.shape[1]):
            h = tc.tanh(self.of_x(x[:, t]) + self.of_h(h))
        return self.head(h)


class UNet(nn.Module):
    """Down twice and up twice, with skips across."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        for name, a, b in (("down1", 1, 8), ("down2", 8, 16), ("middle", 16, 32),
                           ("merge2", 32, 16), ("merge1", 16, 8)):
            setattr(self, name, nn.Conv2D(a, b, 3, padding=1, rng=rng))
        self.up2 = nn.ConvTranspose2D(32, 16, 2, stride=2, rng=rng)
        self.up1 = nn.ConvTranspose2D(16, 8, 2, stride=2, rng=rng)
        self.head = nn.Conv2D(8, 1, 1, rng=rng)

    def forward(self, x):                                                   # N H W 1
        a = tc.relu(self.down1(x))
        b = tc.relu(self.down2(tc.max_pool2d(a, kernel_size=2)))
        h = tc.relu(self.middle(tc.max_pool2d(b, kernel_size=2)))
        h = tc.relu(self.merge2(tc.concatenate([self.up2(h), b], axis=-1)))
        h = tc.relu(self.merge1(tc.concatenate([self.up1(h), a], axis=-1)))
        return self.head(h)


def without_times(figure: viz.Figure, **settings) -> viz.Figure:
    """The same picture without what differs from run to run."""
    entries = tuple(replace(e, seconds=None) for e in figure.recording.entries)
    return viz.Figure(replace(figure.recording, entries=entries, title=figure.diagram.title),
                      **settings)


def digits(part) -> tuple[np.ndarray, np.ndarray]:
    """Images between 0 and 1, and their classes."""
    return (part.images / 16).astype(np.float32), part.labels


def trained(train) -> tuple[LeNet, dict[str, list[float]]]:
    """A LeNet after six epochs, and its curves."""
    model, (images, labels) = LeNet(), digits(train)
    optimizer = optim.Adam(list(model.parameters()), lr=3e-3)
    history: dict[str, list[float]] = {"train_loss": [], "train_accuracy": []}
    for epoch in range(6):
        order = np.random.default_rng(epoch).permutation(len(images))
        losses, right = [], 0
        for k in range(0, len(images), 50):
            rows = order[k:k + 50]
            scores = model(images[rows])
            loss = tc.cross_entropy(scores, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            right += int((scores.data.argmax(1) == labels[rows]).sum())
        history["train_loss"].append(float(np.mean(losses)))
        history["train_accuracy"].append(right / len(images))
    return model, history


def graphs(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """The pictures of graphs."""
    x, y = images[:BATCH], labels[:BATCH]
    unhealthy = LeNet()
    unhealthy.conv2.bias.data[:3] = -50.0            # three channels that never fire
    step = viz.graph_of_module(unhealthy, x, labels=y)
    without_times(step, theme="light").save(folder / "lenet.svg")
    without_times(step, theme="dark").save(folder / "lenet_dark.svg")
    viz.animate(without_times(step), folder / "backward.svg")
    big = viz.graph_of_module(ResNet(), x, labels=y)
    without_times(big, scale="fit").save(folder / "resnet.svg")
    lenet = models.build("lenet", (28, 28, 1), 10, rng=np.random.default_rng(0))
    resnet20 = models.build("resnet20", (32, 32, 3), 10, rng=np.random.default_rng(0))
    rng = np.random.default_rng(3)
    digits28, colors, masks = (rng.normal(size=(8, *shape)).astype(np.float32) for shape in (
        (28, 28, 1), (32, 32, 3), (16, 16, 1)))
    labels = np.arange(8)
    small = viz.graph_of_module(lenet, digits28, labels=labels, title="LeNet")
    twenty = viz.graph_of_module(resnet20, colors, labels=labels, title="ResNet-20")
    without_times(small, direction="LR", level="operators").save(folder / "lenet_right.svg")
    without_times(small, for_="paper").save(folder / "lenet_paper.svg")
    without_times(small, for_="slide").save(folder / "lenet_slide.svg")
    without_times(small, style="blocks").save(folder / "lenet_blocks.svg")
    without_times(small, style="blocks", theme="dark").save(folder / "lenet_blocks_dark.svg")
    values = viz.graph_of_module(LeNet(), x, labels=y, values=True, thumbnails=True)
    without_times(values, level="operators", aspect=1.6).save(folder / "lenet_values.svg")
    without_times(small, level="operators", color="flop").save(folder / "lenet_flop.svg")
    without_times(small, level="operators", color="memory").save(folder / "lenet_memory.svg")
    without_times(twenty, for_="slide").save(folder / "resnet20_slide.svg")
    without_times(twenty, for_="slide", theme="dark").save(folder / "resnet20_dark.svg")
    without_times(twenty, level="modules", aspect=1.5, density="compact").save(
        folder / "resnet20_modules.svg")
    steps = viz.graph_of_module(RNN(), digits28[..., 0], labels=labels)
    without_times(steps, scale="fit").save(folder / "rnn.svg")
    without_times(tc.mse_loss(UNet()(masks), masks).graph(title="U-Net"),
                  for_="slide").save(folder / "unet.svg")
    unhealthy = LeNet()
    unhealthy.conv2.weight.data[..., :4] = 0.0
    unhealthy.conv2.bias.data[:4] = -1.0
    without_times(viz.graph_of_module(unhealthy, np.repeat(x, 4, axis=0), labels=np.repeat(y, 4)),
                  level="operators").save(folder / "unhealthy.svg")
    a, b, c = (tc.Tensor(v, requires_grad=True) for v in (2.0, -3.0, 10.0))
    for theme in ("light", "dark"):
        (a * b + c).graph(title="a · b + c", theme=theme).save(folder / f"expression_{theme}.svg")
    x1, x2, w1, w2, bias = (tc.Tensor(v, requires_grad=True) for v in (2.0, 0.0, -3.0, 1.0, 6.88))
    tc.tanh(x1 * w1 + x2 * w2 + bias).graph(title="one neuron").save(folder / "neuron.svg")
    old, new = (viz.graph_of_module(LeNet(f), x) for f in (tc.relu, tc.gelu))
    viz.diff(old, new).figure().save(folder / "difference.svg")
    (folder / "lenet.txt").write_text(step.canonical(batch="N"), encoding="utf-8")


def drawings(folder: Path, train, test) -> None:
    """The plots."""
    model, history = trained(train)
    images, labels = digits(test)
    scores = model(images)
    rng = np.random.default_rng(0)              # 100 classes, some taken for their neighbors
    many = rng.integers(0, 100, 4000)
    said = np.where(rng.random(4000) < 0.2, (many + rng.integers(1, 4, 4000)) % 100, many)
    fresh, runs, states = LeNet(), [], []
    optimizer = optim.Adam(list(fresh.parameters()), lr=3e-3)
    for k in range(0, 1200, 50):
        loss = tc.cross_entropy(fresh(digits(train)[0][k:k + 50]), digits(train)[1][k:k + 50])
        runs.append(viz.describe(loss, values=True))
        states.append(fresh.state_dict())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, plot in {
            "filters": plots.filters(model.conv1),
            "feature_maps": plots.feature_maps(model, images, "conv1"),
            "learning_curves": plots.learning_curves(history),
            "confusion": plots.confusion_matrix(labels, scores),
            "confusion_100": plots.confusion_matrix(many, said),
            "grad_cam": plots.grad_cam(model, images, "conv2", labels=labels),
            "saliency": plots.saliency(model, images, labels=labels),
            "most_confused": plots.most_confused(images, labels, scores),
            "gradient_flow": plots.gradient_flow(runs),
            "update_ratio": plots.update_ratio(states),
            "activations": plots.layer_histograms(runs),
            "gradients": plots.layer_histograms(runs, "gradients"),
            "loss_surface": plots.loss_surface(model, images[:64], labels[:64], points=15),
            }.items():
        plot.savefig(folder / f"{name}.svg")


def masked(text: str) -> str:
    """Text without the numbers and colors that may differ between machines."""
    text = re.sub(r"data:image/png;base64,[\w+/=]*|#[0-9a-f]{6}|#?g[0-9a-f]{8}|ag[0-9a-f]{8}\w*",
                  "C", text)
    return re.sub(r"[-+]?\d[\d.]*(e[-+]?\d+)?", "0", text)


def stale(fresh: Path, kept: Path) -> list[str]:
    """Names of pictures that are missing, or are not what is drawn now."""
    found = []
    for path in sorted(fresh.iterdir()):
        old = kept / path.name
        same = old.exists() and (path.suffix == ".png" or masked(old.read_text(encoding="utf-8"))
                                 == masked(path.read_text(encoding="utf-8")))
        if not same:
            found.append(path.name)
    return found


def main() -> int:
    """Write the pictures, or check them."""
    train, test = data.load_digits()
    check = "--check" in sys.argv
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if check else FOLDER
        folder.mkdir(exist_ok=True)
        graphs(folder, *digits(train))
        if not check:
            drawings(folder, train, test)
            return 0
        old = stale(folder, FOLDER)
    if old:
        print(f"not current: {', '.join(old)}; run python docs/make_pictures.py")
    return 1 if old else 0


if __name__ == "__main__":
    raise SystemExit(main())
