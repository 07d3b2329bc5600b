"""Modules: what they hold, how they run, and what they refuse."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections import deque

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2D(4)
        self.scale = tc.Parameter([1.0])

    def forward(self, x):
        return self.norm(self.conv(x)) * self.scale


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2D(1, 2, 3, padding=1)
        self.block = Block()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 4 * 4, 3))

    def forward(self, x):
        return self.head(self.block(self.first(x)))


def images(n=2, size=4, channels=1, seed=0):
    return np.random.default_rng(seed).normal(size=(n, size, size, channels)).astype(np.float32)


# ---- what it holds

def test_parameters_are_named_by_their_path_in_order_of_assignment():
    assert [name for name, _ in Net().named_parameters()] == [
        "first.weight", "first.bias", "block.scale", "block.conv.weight", "block.conv.bias",
        "block.norm.weight", "block.norm.bias", "head.1.weight", "head.1.bias"]


def test_buffers_are_named_by_their_path():
    assert [name for name, _ in Net().named_buffers()] == [
        "block.norm.running_mean", "block.norm.running_var", "block.norm.num_batches_tracked"]
    assert all(isinstance(array, np.ndarray) for array in Net().buffers())


def test_modules_are_visited_depth_first_and_children_are_one_level():
    net = Net()
    assert [name for name, _ in net.named_modules()] == [
        "", "first", "block", "block.conv", "block.norm", "head", "head.0", "head.1"]
    assert [name for name, _ in net.named_children()] == ["first", "block", "head"]
    assert next(net.modules()) is net
    assert list(net.children()) == [net.first, net.block, net.head]


def test_a_parameter_is_called_by_its_attribute_unless_it_has_a_name():
    net = nn.Module()
    net.a, net.b = tc.Parameter([1.0]), tc.Parameter([1.0], name="own")
    assert (net.a.name, net.b.name) == ("a", "own")


def test_plain_arrays_and_numbers_are_not_parameters():
    net = nn.Module()
    net.table, net.count = np.ones(3), 5
    assert not list(net.parameters())
    assert not net.state_dict()


def test_a_shared_parameter_is_given_once_and_saved_under_each_name():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_a_shared_module_is_given_once_and_saved_under_each_name():
    layer = nn.Linear(3, 3)
    net = nn.Sequential(layer, nn.ReLU(), layer)
    assert [name for name, _ in net.named_modules()] == ["", "0", "1"]
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias"]
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_parts_can_be_replaced_and_deleted():
    net = Net()
    net.first = nn.Conv2D(1, 2, 5, padding=2)
    assert net.state_dict()["first.weight"].shape == (5, 5, 1, 2)
    net.block.norm = None
    del net.head
    assert [name for name, _ in net.named_children()] == ["first", "block"]
    with pytest.raises(AttributeError, match="Net has no attribute 'head'"):
        net.head


def test_a_deleted_buffer_is_gone():
    layer = nn.BatchNorm2D(3)
    del layer.running_mean
    assert "running_mean" not in dict(layer.named_buffers())


def test_a_buffer_that_is_not_persistent_is_not_saved():
    net = nn.Module()
    net.register_buffer("kept", np.ones(2))
    net.register_buffer("lost", np.ones(2), persistent=False)
    assert list(net.state_dict()) == ["kept"]
    assert [name for name, _ in net.named_buffers()] == ["kept", "lost"]


def test_forgetting_super_init_does_no_harm():
    class Forgetful(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(2, 1)

        def forward(self, x):
            return self.layer(x)

    model = Forgetful()
    assert model(np.ones((1, 2), np.float32)).shape == (1, 1)
    assert len(list(model.parameters())) == 2


def test_modules_are_copied_and_pickled_with_their_arrays():
    model, x = Net(), images()
    model(x)
    copied = copy.deepcopy(model)
    restored = pickle.loads(pickle.dumps(model))
    copied.first.weight.data[...] = 0
    assert model.first.weight.data.any()
    assert np.array_equal(restored.eval()(x).data, model.eval()(x).data)


def test_a_model_is_freed_by_counting():
    gc.disable()
    try:
        model = Net()
        model(images()).sum().backward()
        seen = weakref.ref(model.first)
        del model
        assert seen() is None
    finally:
        gc.enable()


# ---- how it runs

def test_ops_are_recorded_under_the_path_of_the_modules():
    model = Net()
    y = model(images())
    assert y.node.scope == ("Net", "head", "1")
    flat = y.node.inputs[0].node
    assert flat.scope == ("Net", "head", "0")
    assert flat.inputs[0].node.scope == ("Net", "block")


def test_a_module_is_called_by_its_class_until_a_parent_names_it():
    layer = nn.Linear(2, 2)
    x = np.ones((1, 2), np.float32)
    assert layer(x).node.scope == ("Linear",)
    parent = nn.Sequential({"first": layer})
    assert parent[0](x).node.scope == ("first",)
    nn.Sequential({"second": layer})
    assert layer(x).node.scope == ("first",)


def test_train_and_eval_reach_every_module_and_return_the_model():
    model = Net()
    assert model.eval() is model
    assert not any(module.training for module in model.modules())
    assert model.train() is model
    assert all(module.training for module in model.modules())
    assert not model.train(False).block.norm.training


def test_a_function_is_applied_to_every_part_from_the_inside_out():
    net, seen = Net(), []
    assert net.apply(lambda part: seen.append(type(part).__name__)) is net
    assert seen == ["Conv2D", "Conv2D", "BatchNorm2D", "Block", "Flatten", "Linear", "Sequential",
                    "Net"]


def test_zero_grad_and_requires_grad():
    model = Net()
    model(images()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    model.first.requires_grad_(False)
    model(images()).sum().backward()
    assert model.first.weight.grad is None
    assert model.head[1].weight.grad is not None
    model.requires_grad_()
    assert all(p.requires_grad for p in model.parameters())


def test_hooks_see_the_output_may_replace_it_and_can_be_removed():
    layer, seen = nn.Linear(2, 2), []
    x = np.ones((1, 2), np.float32)
    handle = layer.register_forward_hook(
        lambda module, inputs, out: seen.append((module, inputs, out.shape)))
    layer(x)
    assert seen[0][0] is layer
    assert seen[0][1][0] is x
    assert seen[0][2] == (1, 2)
    handle.remove()
    handle.remove()
    layer(x)
    assert len(seen) == 1
    with layer.register_forward_hook(lambda module, inputs, out: out * 0):
        assert not layer(x).data.any()
    assert layer(x).data.any()


def test_a_hook_that_removes_itself_does_not_disturb_the_others():
    layer, seen = nn.ReLU(), []
    handles = []
    handles.append(layer.register_forward_hook(lambda *_: handles[0].remove()))
    layer.register_forward_hook(lambda *_: seen.append(1))
    layer([1.0])
    layer([1.0])
    assert seen == [1, 1]


@pytest.mark.parametrize("remove", [nn.HookHandle.remove, nn.HookHandle.__exit__])
def test_a_handle_that_is_removed_twice_removes_no_other_hook(remove):
    layer, seen = nn.ReLU(), []
    first = layer.register_forward_hook(lambda *_: seen.append(1))
    remove(first)
    second = layer.register_forward_hook(lambda *_: seen.append(2))
    remove(first)
    layer([1.0])
    assert seen == [2]
    with first:                                 # its hook is gone: the block changes nothing
        layer([1.0])
    layer([1.0])
    assert seen == [2, 2, 2]
    remove(second)
    layer([1.0])
    assert seen == [2, 2, 2]


def test_hooks_of_a_copy_are_its_own():
    layer, seen = nn.ReLU(), []
    handle = layer.register_forward_hook(lambda *_: seen.append(1))
    copied = copy.deepcopy(layer)
    copied.register_forward_hook(lambda *_: seen.append(2))
    handle.remove()
    layer([1.0])
    assert seen == []
    copied([1.0])
    assert seen == [1, 2]


def test_a_hook_that_an_earlier_one_removes_runs_no_more_and_a_new_one_waits():
    layer, seen = nn.ReLU(), []

    def first(*_):
        second.remove()
        layer.register_forward_hook(lambda *_: seen.append("new"))

    layer.register_forward_hook(first)
    second = layer.register_forward_hook(lambda *_: seen.append("second"))
    layer.register_forward_hook(lambda *_: seen.append("third"))
    layer([1.0])
    assert seen == ["third"]
    layer([1.0])
    assert seen == ["third", "third", "new"]


def test_hooks_run_no_more_after_their_block_ends_in_an_error():
    layer, seen = nn.Linear(2, 2), []
    with pytest.raises(tc.ShapeError), \
            layer.register_forward_hook(lambda *_: seen.append(1)):
        layer(np.ones((1, 3), np.float32))
    layer(np.ones((1, 2), np.float32))
    assert seen == []


def test_a_hook_before_the_call_may_replace_the_inputs():
    layer, x = nn.ReLU(), tc.Tensor([1.0, -2.0])
    with layer.register_forward_pre_hook(lambda module, inputs: -inputs[0]):
        assert layer(x).data.tolist() == [0.0, 2.0]
    with layer.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,)), \
            layer.register_forward_pre_hook(lambda module, inputs: None):
        assert layer(x).data.tolist() == [2.0, 0.0]
    assert layer(x).data.tolist() == [1.0, 0.0]


class Both(nn.Module):
    def forward(self, a, b):
        return a * b, a + b


def test_a_backward_hook_sees_the_gradients_at_both_ends_apart_from_other_uses():
    module, seen = Both(), []
    a, b = (tc.Tensor([v], requires_grad=True) for v in (2.0, 5.0))
    handle = module.register_full_backward_hook(
        lambda m, back, sent: seen.append([m, *(g.item() for g in (*back, *sent))]))
    for _ in range(2):
        product, total = module(a, b)
        (3 * product + 7 * total + 100 * a).sum().backward(retain_graph=True)
    assert seen == [[module, 3 * 5 + 7, 3 * 2 + 7, 3, 7]] * 2
    assert (a.grad.item(), b.grad.item()) == (2 * 122, 2 * 13)
    handle.remove()
    module(a, b)[0].sum().backward()
    assert len(seen) == 2


def test_a_backward_hook_of_a_layer_with_a_plain_input_sees_what_comes_in():
    layer, seen = nn.Linear(2, 1), []
    layer.register_full_backward_hook(lambda m, back, sent: seen.append((back, sent[0].item())))
    layer(np.ones((1, 2), np.float32)).sum().backward()
    assert seen == [((None,), 1.0)]
    with tc.no_grad():
        layer(np.ones((1, 2), np.float32))
    assert len(seen) == 1


def test_a_backward_hook_may_replace_one_gradient_and_no_more():
    x = tc.Tensor([1.0, -1.0], requires_grad=True)
    layer = nn.ReLU()
    layer.register_full_backward_hook(lambda m, back, sent: (back[0] * 10,))
    layer(x).sum().backward()
    assert x.grad.data.tolist() == [10.0, 0.0]
    both = Both()
    both.register_full_backward_hook(lambda m, back, sent: back)
    with pytest.raises(tc.GradientError, match="Both: a backward hook gave 2 gradients for 2"):
        both(x, x * 2)[0].sum().backward()


def test_a_backward_hook_serves_second_order():
    x = tc.Tensor([3.0], requires_grad=True)
    layer = nn.Lambda(lambda x: x ** 3)
    layer.register_full_backward_hook(lambda m, back, sent: back[0] * 2)
    first, = tc.grad(layer(x).sum(), [x], create_graph=True)
    second, = tc.grad(first.sum(), [x])
    assert (first.item(), second.item()) == (54.0, 72.0)        # 2 · 3x²; both passes are doubled


def test_evaluating_puts_back_the_mode_of_every_part():
    model = Net()
    model.block.norm.eval()
    before = [module.training for module in model.modules()]
    for error in (None, ValueError):
        try:
            with nn.evaluating(model):
                assert not any(module.training for module in model.modules())
                if error:
                    raise error
        except ValueError:
            pass
        assert [module.training for module in model.modules()] == before


def test_astype_converts_parameters_and_float_buffers():
    model, x = Net(), images()
    model(x).sum().backward()
    assert model.astype(np.float64) is model
    assert {p.dtype for p in model.parameters()} == {np.dtype(np.float64)}
    assert all(p.grad is None for p in model.parameters())
    assert [str(array.dtype) for array in model.buffers()] == ["float64", "float64", "int64"]
    assert model(x.astype(np.float64)).dtype == np.float64
    assert "dtype='float64'" in repr(model.first)
    with pytest.raises(tc.DTypeError, match="float32 or float64, got 'int8'"):
        model.to("int8")


def test_a_waiting_layer_follows_astype():
    model = nn.Sequential(nn.Linear(None, 2)).astype(np.float64)
    model(np.ones((1, 3)))
    assert model[0].weight.dtype == np.float64


# ---- layers that learn their size from the first call

def test_a_layer_takes_its_input_size_from_the_first_call():
    model = nn.Sequential(nn.Conv2D(None, 4, 3), nn.BatchNorm2D(), nn.ConvTranspose2D(None, 2, 2),
                          nn.Flatten(), nn.Linear(None, 5), nn.LayerNorm(), nn.BatchNorm1D())
    assert repr(model[0]) == "Conv2D(None, 4, kernel_size=3)"
    assert model(images(2, 6, 3)).shape == (2, 5)
    assert model[0].weight.shape == (3, 3, 3, 4)
    assert repr(model[4]) == "Linear(50, 5)"
    assert model[2].in_channels == 4
    assert model[5].normalized_shape == (model[6].num_features,) == (5,)


@pytest.mark.parametrize("ask", [
    lambda model: list(model.parameters()), lambda model: model.state_dict(),
    lambda model: model.requires_grad_(False), lambda model: model.net[1].weight,
    lambda model: model.net[1].bias, lambda model: nn.l2_penalty(model.parameters(), 1.0)])
def test_a_waiting_layer_says_that_it_must_be_called_first(ask):
    model = nn.Sequential({"net": nn.Sequential(nn.Flatten(), nn.Linear(None, 3))})
    with pytest.raises(tc.SettingError, match=r"Linear\(None, 3\) takes its in_features from its "
                                              "first call.* call the model once"):
        ask(model)


def test_a_waiting_layer_draws_from_its_own_generator():
    layers = [nn.Linear(n, 3, rng=np.random.default_rng(7)) for n in (None, 4)]
    tc.manual_seed(3)
    layers[0](np.ones((1, 4), np.float32))
    assert np.array_equal(layers[0].weight.data, layers[1].weight.data)


LAYERS = [lambda: nn.Conv2D(3, 4, 3), lambda: nn.ConvTranspose2D(4, 2, 2, bias=False),
          lambda: nn.GroupNorm(2, 4), lambda: nn.InstanceNorm2D(3, affine=True),
          lambda: nn.RMSNorm(5), lambda: nn.PReLU(3), lambda: nn.Embedding(5, 2),
          lambda: nn.Conv1D(3, 4), lambda: nn.ConvTranspose1D(4, 2, 2),
          lambda: nn.Linear(5, 3), lambda: nn.LayerNorm(5), lambda: nn.BatchNorm1D(5),
          lambda: nn.BatchNorm2D(3, affine=False)]


def test_no_layer_with_parameters_is_left_out():
    def below(cls):
        return {cls, *(c for sub in cls.__subclasses__() for c in below(sub))}

    public = {c for c in below(nn.lazy.LazyModule) if c.__name__ in nn.__all__}
    assert {type(make()) for make in LAYERS} == public


@pytest.mark.parametrize("make", LAYERS)
def test_parameters_are_drawn_anew_in_place(make):
    tc.manual_seed(0)
    first, layer = make(), make()
    held = layer.named_parameters(), layer.named_buffers()
    held = dict(held[0]), dict(held[1])
    for array in (*held[1].values(), *(p.data for p in held[0].values())):
        array[...] = 7
    tc.manual_seed(0)
    layer.reset_parameters()
    assert dict(layer.named_parameters()) == held[0]
    for (name, array), expected in zip(layer.state_dict().items(), first.state_dict().values(),
                                       strict=True):
        assert np.array_equal(array, expected), name
    assert all(array is held[1][name] for name, array in layer.named_buffers())


def test_a_lazy_layer_has_nothing_to_draw_anew():
    with pytest.raises(tc.SettingError, match="takes its in_features from its first call"):
        nn.Linear(None, 3).reset_parameters()


def test_recurse_false_leaves_out_the_parts():
    net = nn.Sequential(nn.BatchNorm1D(3))
    net.scale = tc.Parameter([1.0])
    net.register_buffer("count", np.zeros(2))
    assert [name for name, _ in net.named_parameters(recurse=False)] == ["scale"]
    assert [name for name, _ in net.named_buffers(recurse=False)] == ["count"]
    assert [name for name, _ in net[0].named_parameters(recurse=False)] == ["weight", "bias"]
    with pytest.raises(tc.SettingError, match="call the model once"):
        list(nn.Linear(None, 3).named_parameters(recurse=False))


# ---- what it refuses

def test_forward_that_is_not_defined_is_said():
    class Empty(nn.Module):
        pass

    with pytest.raises(tc.DeclarationError, match=r"def forward\(self, x\).* in class Empty"):
        Empty()(1)


def test_an_attribute_that_is_missing_gets_a_suggestion():
    with pytest.raises(AttributeError, match=r"Net has no attribute 'frist'; did you mean 'first'\?"
                                             "; its parts are first, block, head"):
        Net().frist


@pytest.mark.parametrize("container", [
    list, tuple, set, frozenset, deque, lambda items: dict(enumerate(items)),
    lambda items: [[], list(items)], lambda items: {"a": {"b": list(items)}, "c": 0}])
def test_modules_in_a_plain_container_are_refused(container):
    net = nn.Module()
    with pytest.raises(tc.SettingError, match=r"layers is a .* neither found nor trained; use "
                                              r"nn.ModuleList"):
        net.layers = container([nn.Linear(1, 1)])
    net.sizes = container([1, 2])
    assert len(net.sizes) == 2


def test_a_trained_tensor_that_is_no_parameter_is_refused():
    net = nn.Module()
    with pytest.raises(tc.DTypeError, match="no optimizer would find; wrap it: Parameter"):
        net.w = tc.Tensor([1.0], requires_grad=True)
    net.constant = tc.Tensor([1.0])
    net.activation = tc.Parameter([1.0]) * 2.0
    assert not list(net.parameters())


@pytest.mark.parametrize("name, value, message", [
    ("first", np.ones(3), "first is a Module and cannot become a ndarray; assign a Module"),
    ("weight", np.ones(3), "weight is a Parameter and cannot become a ndarray"),
    ("mean", tc.Tensor([1.0]), "the buffer mean must be an ndarray, got Tensor"),
    ("forward", nn.ReLU(), "'forward' is a name of Module's own"),
    ("parameters", tc.Parameter([1.0]), "'parameters' is a name of Module's own"),
    ("training", nn.ReLU(), r"training must be True or False, got ReLU\(\)"),
    ("training", "x", "Module: training must be True or False, got 'x'"),
    ("training", 1, "training must be True or False, got 1"),
])
def test_an_assignment_that_would_lose_something_is_refused(name, value, message):
    net = nn.Module()
    net.first, net.weight = nn.ReLU(), tc.Parameter([1.0])
    net.register_buffer("mean", np.zeros(1))
    with pytest.raises(tc.TinygradCnnError, match=message):
        setattr(net, name, value)


def test_a_default_of_the_class_may_be_replaced_by_a_part():
    class Optional(nn.Module):
        head = None

    model = Optional()
    model.head = nn.Linear(1, 1)
    assert len(list(model.parameters())) == 2


def test_a_module_cannot_contain_itself():
    net = Net()
    with pytest.raises(tc.SettingError, match="back would contain the module that holds it"):
        net.block.conv.back = net
    with pytest.raises(tc.SettingError, match="would contain the module that holds it"):
        net.self = net


@pytest.mark.parametrize("call, message", [
    (lambda net: net.register_buffer("a.b", np.ones(1)), "without dots"),
    (lambda net: net.register_buffer("first", np.ones(1)), "'first' is an attribute already"),
    (lambda net: net.register_buffer("x", [1.0]), "the buffer x must be an ndarray, got list"),
    (lambda net: net.register_module("a.b", nn.ReLU()), "without dots"),
    (lambda net: net.register_module("x", 3), "'x' must be a Module, got 3"),
    (lambda net: net.register_forward_hook(None), "_hook: hook must be callable, got None"),
    (lambda net: net.register_forward_pre_hook(1), "register_forward_pre_hook: hook must be"),
    (lambda net: net.register_full_backward_hook(1), "full_backward_hook: hook must be callable"),
])
def test_registering_what_does_not_fit_is_refused(call, message):
    with pytest.raises(tc.TinygradCnnError, match=message):
        call(Net())


def test_an_error_names_the_layer_and_the_shapes_that_led_to_it():
    model = nn.Sequential(nn.Conv2D(1, 10, 3), nn.MaxPool2D(2), nn.Flatten(), nn.Linear(400, 10))
    with pytest.raises(tc.ShapeError) as caught:
        model(images(2, 16))
    assert str(caught.value) == (
        "Linear: x has 490 features but the layer takes 400\n"
        "  x (N I) = (2, 490)\n"
        "  cure: Linear(in_features=490, out_features=10), or Linear(None, 10), which takes the "
        "size from the first call\n"
        "  in the layer Sequential.3: Linear(400, 10)\n"
        "  which came after\n"
        "    0: Conv2D(1, 10, kernel_size=3)  -> (2, 14, 14, 10)\n"
        "    1: MaxPool2D(2)                  -> (2, 7, 7, 10)\n"
        "    2: Flatten()                     -> (2, 490)")


def test_an_error_in_an_op_of_forward_names_the_module_once():
    class Wrong(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(2, 3)

        def forward(self, x):
            return tc.matmul(self.layer(x), self.layer(x))

    with pytest.raises(tc.ShapeError) as caught:
        nn.Sequential(Wrong())(np.ones((2, 2), np.float32))
    assert str(caught.value).count("in the layer") == 1
    assert "in the layer Sequential.0: Wrong(...)" in str(caught.value)


def test_the_next_call_starts_a_new_trail():
    model = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))
    for _ in range(3):
        with pytest.raises(tc.ShapeError) as caught:
            model(np.ones((1, 3), np.float32))
        assert str(caught.value).count("ReLU()") == 1


# ---- text

def test_the_tree_shows_paths_and_settings():
    assert repr(Net()) == """Net(
  (first): Conv2D(1, 2, kernel_size=3, padding=1)
  (block): Block(
    (conv): Conv2D(2, 4, kernel_size=3, padding=1)
    (norm): BatchNorm2D(4)
  )
  (head): Sequential(
    (0): Flatten()
    (1): Linear(64, 3)
  )
)"""


def test_a_module_with_settings_and_parts_shows_both():
    class Scaled(nn.Sequential):
        def extra_repr(self):
            return "by 2"

    assert repr(Scaled(nn.ReLU())) == "Scaled(\n  by 2\n  (0): ReLU()\n)"


# ---- rows of modules

def test_sequential_runs_in_order_and_is_a_sequence():
    row = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    x = np.ones((4, 2), np.float32)
    assert np.array_equal(row(x).data, row[2](row[1](row[0](x))).data)
    assert len(row) == 3
    assert list(row)[-1] is row[-1] is row["2"]
    assert isinstance(row[:2], nn.Sequential)
    assert [name for name, _ in row[1:].named_children()] == ["1", "2"]
    assert row.append(nn.Tanh()) is row
    assert repr(row[3]) == "Tanh()"
    row[1] = nn.Sigmoid()
    assert repr(row[1]) == "Sigmoid()"


def test_sequential_takes_names():
    row = nn.Sequential({"conv": nn.Conv2D(1, 2), "act": nn.ReLU()})
    assert list(row.state_dict()) == ["conv.weight", "conv.bias"]
    assert row["conv"] is row.conv is row[0]


def test_the_same_module_twice_in_a_row_runs_twice():
    layer = nn.LeakyReLU(0.5)
    assert nn.Sequential(layer, layer)([-4.0]).data == [-1.0]
    assert len(nn.Sequential(layer, layer)) == 2


def test_append_to_a_slice_does_not_overwrite_a_name():
    part = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.Sigmoid())[1:]
    part.append(nn.ReLU())
    assert [repr(m) for m in part] == ["Tanh()", "Sigmoid()", "ReLU()"]


@pytest.mark.parametrize("make, error, message", [
    (lambda: nn.Sequential([nn.ReLU()]), tc.SettingError, r"one by one.*Sequential\(\*modules\)"),
    (lambda: nn.Sequential(nn.ReLU), tc.DTypeError, "'0' must be a Module"),
    (lambda: nn.Sequential(nn.ReLU())[1], IndexError, "index 1 of 1 modules"),
    (lambda: nn.Sequential(nn.ReLU())["no"], tc.SettingError, "no module 'no'; choose from 0"),
    (lambda: nn.Sequential({"eval": nn.ReLU()}), tc.SettingError, "'eval' is a name of Module's"),
    (lambda: nn.ModuleList([nn.ReLU()])(1), tc.DeclarationError, "forward is not defined"),
    (lambda: nn.ModuleList([1]), tc.DTypeError, "'0' must be a Module, got 1"),
])
def test_rows_refuse_what_they_cannot_hold(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_module_list_is_found_and_trained():
    class Deep(nn.Module):
        def __init__(self):
            self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    model = Deep()
    assert [name for name, _ in model.named_parameters()][::2] == [
        "layers.0.weight", "layers.1.weight", "layers.2.weight"]
    model(np.ones((1, 2), np.float32)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert len(model.layers[1:]) == 2
    assert model.layers.extend([nn.ReLU()])[-1] is model.layers[3]


def test_modules_under_names_are_found_and_trained():
    heads = nn.ModuleDict({"a": nn.Linear(2, 1)})
    heads["b"] = nn.ReLU()
    heads.update({"c": nn.Linear(2, 3)})
    assert list(heads) == list(heads.keys()) == ["a", "b", "c"]
    assert heads == heads != nn.ModuleDict(heads)
    assert heads in {heads}
    assert [repr(m) for m in heads.values()] == ["Linear(2, 1)", "ReLU()", "Linear(2, 3)"]
    assert dict(heads.items())["a"] is heads["a"] is heads.a
    del heads["b"]
    assert len(heads) == 2
    assert "b" not in heads
    assert [name for name, _ in heads.named_parameters()] == [
        "a.weight", "a.bias", "c.weight", "c.bias"]
    assert nn.ModuleDict()
    for missing in (lambda: heads["b"], lambda: heads.__delitem__("b")):
        with pytest.raises(tc.SettingError, match="ModuleDict: no module 'b'; choose from a, c"):
            missing()


def test_parameters_in_a_list_are_found_and_trained():
    scales = nn.ParameterList([tc.Parameter([1.0])]).append(tc.Parameter([2.0]))
    scales.extend([tc.Parameter([3.0])])
    scales[1] = tc.Parameter([5.0])
    assert [p.item() for p in scales] == [1.0, 5.0, 3.0]
    assert scales[-1].item() == 3.0
    assert list(nn.Sequential(scales).state_dict()) == ["0.0", "0.1", "0.2"]
    with pytest.raises(tc.DTypeError, match="'0' must be a Parameter, got 1"):
        nn.ParameterList([1])


def test_an_empty_row_is_true_and_passes_its_input_on():
    assert nn.Sequential()
    assert nn.Sequential()(3) == 3
