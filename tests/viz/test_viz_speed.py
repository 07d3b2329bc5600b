"""Limits on the time of a picture, with room for slow machines; and what importing costs."""

import subprocess
import sys
import time

import tinygrad_cnn as tc
from tinygrad_cnn import viz


def seconds(work, times=3):
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def test_the_picture_of_a_training_step_takes_a_fifth_of_a_second(nets, batch):
    model = nets.LeNet()
    loss = tc.cross_entropy(model(batch[0]), batch[1])
    assert seconds(lambda: loss.graph().svg()) < 0.2


def test_a_thousand_nodes_take_a_second(nets):
    recording = nets.resnet(24)
    assert len(recording.entries) > 900
    assert seconds(lambda: viz.Figure(recording).svg()) < 1


def test_ten_thousand_nodes_take_three_seconds(nets):
    recording = nets.resnet(250)
    assert len(recording.entries) > 9_500
    assert seconds(lambda: viz.Figure(recording).svg(), times=2) < 3


def test_importing_the_package_loads_no_picture_and_no_optional_package():
    code = ("import sys, tinygrad_cnn; "
            "print([m for m in sys.modules if m.startswith(('tinygrad_cnn.viz', 'graphviz', "
            "'matplotlib'))])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_drawing_loads_neither_graphviz_nor_matplotlib():
    code = ("import sys, tinygrad_cnn as tc; w = tc.Parameter([1.0]); (w * w).sum().graph().svg(); "
            "print([m for m in sys.modules if m in ('graphviz', 'matplotlib')])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
