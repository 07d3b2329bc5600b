"""Layers as blocks: sides, order and words are those of the shapes."""

import re

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import viz
from viz import zoo


def faces(figure):
    """The corners of each face, in the order of drawing: top, side, front."""
    found = [[tuple(map(float, p.split(","))) for p in points.split()] for points in re.findall(
        r'<polygon points="([^"]+)" fill="#[0-9a-f]+" fill-opacity', figure.svg())]
    return list(zip(found[::3], found[1::3], found[2::3], strict=True))


def words(figure):
    return re.findall(r">([^<]+)</text>", figure.svg())


def test_a_lenet_is_drawn_as_its_shapes():
    figure = zoo.ZOO["lenet"]().graph(style="blocks", title="LeNet")
    assert words(figure) == [
        "LeNet", "1", "16×16", "conv", "16", "16×16", "max pool", "16", "8×8", "conv", "32", "8×8",
        "max pool", "32", "4×4", "flatten", "512", "linear", "128", "linear", "10"]


def test_the_sides_are_those_of_the_tensor():
    blocks = faces(zoo.ZOO["lenet"]().graph(style="blocks"))
    assert len(blocks) == 8
    for height, (top, side, front) in zip((16, 16, 8, 8, 4), blocks, strict=False):
        (x0, y0), (x1, _), (_, y2), _ = front
        tall = 170 * (height / 16) ** 0.6
        assert y2 - y0 == pytest.approx(tall, abs=0.2)
        assert top[1][0] - top[0][0] == pytest.approx(0.35 * tall, abs=0.2)
        assert side[1] == top[2]
        assert x1 > x0
    thick = [front[1][0] - front[0][0] for _, _, front in blocks[:5]]
    assert thick == pytest.approx([5 + 6 * np.log2(c + 1) for c in (1, 16, 16, 32, 32)], abs=0.2)
    starts = [front[0][0] for _, _, front in blocks]
    ends = [side[1][0] for _, side, _ in blocks]
    assert all(a < b for a, b in zip(ends, starts[1:], strict=False))     # none over another


def test_only_tensors_with_a_batch_are_blocks_and_png_is_written(tmp_path):
    pytest.importorskip("matplotlib")
    assert zoo.ZOO["vgg"]().graph(style="blocks").save(tmp_path / "a.png").stat().st_size > 3000
    x = tc.Parameter([1.0, 2.0])
    with pytest.raises(tc.VizError, match="draws tensors with a batch axis, and there are none"):
        viz.graph((x * x).sum(), style="blocks").svg()
