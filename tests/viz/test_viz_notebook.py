"""What a notebook shows for tensors and modules."""

import re

import numpy as np

import tinygrad_cnn as tc
from tinygrad_cnn import nn
from tinygrad_cnn.viz.html import module_html, tensor_html


def words(html):
    return re.sub(r"<[^>]+>", " ", html)


def test_a_tensor_shows_shape_dtype_op_gradient_and_figures():
    x = tc.Parameter([3.0, -4.0], name="x")
    y = x * 2.0
    y.sum().backward()
    assert "made by  mul" in words(tensor_html(y))
    shown = words(tensor_html(x))
    assert "Parameter x" in shown
    assert "-4.0 … 3.0, RMS 3.5" in shown
    assert "gradient  RMS 2.0" in shown


def test_few_values_are_listed_and_many_are_not():
    assert "<pre>" in tensor_html(tc.Tensor(np.ones((2, 3))))
    assert "<pre>" not in tensor_html(tc.Tensor(np.ones((20, 30))))
    assert "<pre>" not in tensor_html(tc.Tensor(np.ones((0, 3))))


def test_a_module_lists_its_parts_and_their_parameters(nets):
    shown = words(module_html(nets.LeNet()))
    assert "conv1  Conv2D(1, 4, kernel_size=3, padding=1)  weight 3×3×1×4, bias 4  40" in shown
    assert "together" in shown
    assert shown.strip().endswith("666")


def test_a_layer_that_waits_for_its_size_is_shown_without_parameters():
    assert "Linear(None, 3)" in words(module_html(nn.Sequential(nn.Linear(None, 3))))


def test_a_notebook_finds_them_by_itself(nets):
    assert tc.Tensor([1.0])._repr_html_().startswith("<table>")
    assert nets.LeNet()._repr_html_().startswith("<table>")


def test_hostile_names_are_text():
    shown = tensor_html(tc.Tensor([1.0], name="<script>alert(1)</script>"))
    assert "<script" not in shown
