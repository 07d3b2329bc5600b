"""The work of a picture, counted in calls; and what importing costs.

Calls are counted, not seconds: they are the same on every machine.  The seconds stand in
``docs/pictures.md``.
"""

import subprocess
import sys

import tinygrad_cnn as tc
from tinygrad_cnn import viz


def test_the_picture_of_a_training_step_takes_few_calls(nets, batch, calls):
    model = nets.LeNet()
    loss = tc.cross_entropy(model(batch[0]), batch[1])
    assert calls(lambda: loss.graph().svg()) < 100_000


def test_the_calls_of_a_picture_grow_with_the_nodes_and_no_faster(nets, calls):
    thousand, ten_thousand = nets.resnet(24), nets.resnet(250)
    assert 900 < len(thousand.entries) < len(ten_thousand.entries) / 9
    few, many = (calls(viz.Figure(recording).svg) for recording in (thousand, ten_thousand))
    ratio = len(ten_thousand.entries) / len(thousand.entries)
    assert many < 1.2 * ratio * few


def test_importing_the_package_loads_no_picture_and_no_optional_package():
    code = ("import sys, tinygrad_cnn; "
            "print([m for m in sys.modules if m.startswith(('tinygrad_cnn.viz', 'graphviz', "
            "'matplotlib'))])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_drawing_loads_no_matplotlib():
    code = ("import sys, tinygrad_cnn as tc; w = tc.Parameter([1.0]); (w * w).sum().graph().svg(); "
            "print([m for m in sys.modules if m == 'matplotlib'])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
