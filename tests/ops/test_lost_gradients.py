"""No gradient is lost in silence: lists of tensors, and tensors given as settings.

Every public function, layer and loss is called with each of its inputs as a list of tensors, and
with each of its settings as a tensor that requires a gradient.  It refuses by name, or the gradient
is right.  Optimizers, schedules and initializations have settings too.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import Tensor, nn, optim
from tinygrad_cnn.core.op import FUNCTIONS

rng = np.random.default_rng(0)


def array(*shape):
    return rng.uniform(0.5, 1.5, shape)


IMAGE = array(1, 4, 4, 2)
SEQUENCE = array(2, 4, 2)
FILTERS = array(3, 3, 2, 2)
MATRIX = array(2, 3)
ROW = array(3)

# Function -> its inputs by name, and settings that it cannot do without.
CALLS = {
    "add sub mul div power maximum minimum": ({"a": MATRIX, "b": MATRIX}, {}),
    "neg exp expm1 log sqrt abs relu tanh sigmoid softplus silu gelu leaky_relu elu flatten "
    "transpose permute softmax log_softmax logsumexp standardize sum mean var max min squeeze clip "
    "std norm prod cumsum cumprod sin cos tan arctan sinh cosh arcsinh exp2 log1p log2 log10 erf "
    "square reciprocal sign floor ceil trunc rint round relu6 selu celu mish hard_sigmoid "
    "hard_swish hard_tanh softsign log_sigmoid softmin flip sort median tril triu diag diagonal "
    "trace": ({"x": MATRIX}, {}),
    "diff": ({"x": MATRIX, "prepend": MATRIX, "append": MATRIX}, {}),
    "arcsin arccos arctanh": ({"x": MATRIX / 2}, {}), "arccosh": ({"x": MATRIX + 1}, {}),
    "hypot arctan2 logaddexp outer inner kron": ({"a": MATRIX, "b": MATRIX}, {}),
    "dot": ({"a": MATRIX, "b": MATRIX.T.copy()}, {}),
    "tensordot": ({"a": MATRIX, "b": MATRIX}, {"axes": 2}),
    "einsum": ({"operands": (MATRIX, MATRIX)}, {"subscripts": "ij,ij->i"}),
    "l1_loss smooth_l1_loss huber_loss": ({"prediction": MATRIX, "target": MATRIX + 1}, {}),
    "kl_div": ({"log_probabilities": MATRIX, "target": MATRIX / 2}, {}),
    "binary_cross_entropy dice_loss": ({"probabilities": MATRIX / 2}, {"labels": MATRIX / 2}),
    "focal_loss": ({"logits": MATRIX}, {"labels": MATRIX / 2}),
    "margin_ranking_loss": ({"a": MATRIX, "b": MATRIX + 1},
                            {"labels": np.where(MATRIX > 1, 1, -1)}),
    "hinge_loss": ({"scores": MATRIX}, {"labels": np.where(MATRIX > 1, 1, -1)}),
    "multi_margin_loss": ({"scores": MATRIX}, {"labels": np.array([0, 2])}),
    "cosine_similarity": ({"a": MATRIX, "b": MATRIX[::-1].copy()}, {}),
    "cosine_embedding_loss": ({"a": MATRIX, "b": MATRIX[::-1].copy()},
                              {"labels": np.array([1, -1])}),
    "triplet_margin_loss": ({"anchor": MATRIX, "positive": MATRIX + 1, "negative": MATRIX - 1}, {}),
    "interpolate": ({"x": IMAGE}, {"size": 3}), "upsample2d global_max_pool2d": ({"x": IMAGE}, {}),
    "pixel_shuffle": ({"x": array(1, 2, 2, 4)}, {"upscale_factor": 2}),
    "pixel_unshuffle": ({"x": IMAGE}, {"downscale_factor": 2}),
    "adaptive_avg_pool2d adaptive_max_pool2d": ({"x": IMAGE}, {"output_size": 3}),
    "max_unpool2d": ({"x": array(1, 2, 2, 1)},
                     {"indices": np.arange(4).reshape(1, 2, 2, 1) * 3, "kernel_size": 2}),
    "group_norm": ({"x": array(2, 4), "w": array(4), "b": array(4)}, {"num_groups": 2}),
    "instance_norm": ({"x": SEQUENCE, "w": array(2), "b": array(2)}, {}),
    "rms_norm": ({"x": MATRIX, "w": ROW}, {}), "local_response_norm": ({"x": MATRIX}, {"size": 2}),
    "glu": ({"x": array(2, 4)}, {}), "prelu": ({"x": MATRIX - 1, "w": ROW}, {}),
    "roll": ({"x": MATRIX}, {"shift": 1}), "tile": ({"x": MATRIX}, {"reps": 2}),
    "repeat": ({"x": MATRIX}, {"repeats": 2}), "split": ({"x": MATRIX}, {"sections": 2}),
    "chunk": ({"x": MATRIX}, {"chunks": 2}), "topk": ({"x": MATRIX}, {"k": 2}),
    "take": ({"x": MATRIX}, {"indices": [0, 2]}), "embedding": ({"w": MATRIX}, {"indices": [1, 1]}),
    "take_along_axis": ({"x": MATRIX}, {"indices": [[0], [1]]}),
    "gather": ({"x": MATRIX}, {"axis": 1, "index": [[0], [1]]}),
    "dropout": ({"x": MATRIX}, {"rng": np.random.default_rng(0)}),
    "where": ({"condition": MATRIX > 1, "a": MATRIX, "b": MATRIX}, {}),
    "matmul": ({"a": MATRIX, "b": MATRIX.T.copy()}, {}),
    "linear": ({"x": MATRIX, "w": array(3, 2), "b": array(2)}, {}),
    "conv2d conv_transpose2d": ({"x": IMAGE, "w": FILTERS, "b": array(2)}, {}),
    "max_pool2d avg_pool2d": ({"x": IMAGE}, {"kernel_size": 2}),
    "global_avg_pool2d": ({"x": IMAGE}, {}),
    "batch_norm layer_norm": ({"x": MATRIX, "w": ROW, "b": ROW}, {}),
    "affine": ({"x": MATRIX, "w": ROW, "b": ROW}, {}),
    "reshape": ({"x": MATRIX}, {"shape": (3, 2)}),
    "broadcast_to": ({"x": MATRIX}, {"shape": (2, 2, 3)}),
    "sum_to": ({"x": MATRIX}, {"shape": (1, 3)}),
    "expand_dims": ({"x": MATRIX}, {"axis": 0}),
    "astype": ({"x": MATRIX}, {"dtype": np.float64}),
    "pad": ({"x": MATRIX}, {"pad_width": ((1, 1), (0, 0))}),
    "getitem": ({"x": MATRIX}, {"index": 0}),
    "cross_entropy": ({"logits": MATRIX, "labels": np.array([0, 2])}, {}),
    "nll_loss": ({"log_probabilities": MATRIX, "labels": np.array([0, 2])}, {}),
    "mse_loss": ({"prediction": MATRIX, "target": MATRIX + 1}, {}),
    "binary_cross_entropy_with_logits": ({"logits": MATRIX, "labels": MATRIX / 2}, {}),
    "concatenate stack": ({"xs": (MATRIX, MATRIX)}, {}),
}
CALLS = {name: call for names, call in CALLS.items() for name in names.split()}
STATISTICS = {"mean": ROW, "var": ROW}


def exposed(name):
    """A call of a function that takes an op's inputs and settings as they are: its first sample."""
    op = tc.OPS[name]
    sample = next(iter(op.test.samples(np.random.default_rng(0))))
    names = [op.input_name(i) for i in range(len(sample.args))] if op.variadic else op.inputs
    return {n: x for n, x in zip(names, sample.args, strict=True) if x is not None}, sample.settings


def cases():
    """(id, name, inputs, settings) for each public function of tensors, so new ones are noticed."""
    for name in sorted(name for name in tc.__all__ if name in FUNCTIONS):
        raw = name in tc.OPS and name not in CALLS      # takes the settings of its op as they are
        yield name, name, *(exposed(name) if raw else CALLS[name])
        if "var" in inspect.signature(getattr(tc, name)).parameters:
            yield f"{name} in evaluation", name, CALLS[name][0], STATISTICS


FIRST_OF = ("split", "chunk", "topk")           # give several, of which the first is a tensor


def called(name, inputs, settings):
    """What the function answers: inputs by name where it has the names, or else by position."""
    function = getattr(tc, name)
    takes = inspect.signature(function).parameters
    if name == "einsum":
        return tc.einsum(settings["subscripts"], *inputs["operands"])
    by_name = name in CALLS and all(key in takes for key in inputs)
    y = function(**inputs, **settings) if by_name else function(*inputs.values(), **settings)
    return y[0] if name in FIRST_OF else y


CASES = [pytest.param(*case, id=label) for label, *case in cases()]
every_case = pytest.mark.parametrize("name, inputs, settings", CASES)


def as_leaves(values, depth, kind):
    """An array as a list (or tuple) of tensors, nested ``depth`` deep, that require a gradient."""
    if depth == 0:
        return Tensor(values, requires_grad=True)
    return kind(as_leaves(v, depth - 1, kind) for v in values)


def leaves_of(nested):
    return [nested] if isinstance(nested, Tensor) else [t for v in nested for t in leaves_of(v)]


def assert_differentiated(call, given, values):
    """The gradient of each tensor of a list is that of the same entries of one tensor."""
    call(given).sum().backward()
    whole = Tensor(values, requires_grad=True)
    call(whole).sum().backward()
    found = [leaf.grad for leaf in leaves_of(given)]
    assert all(g is not None for g in found), "a gradient was lost"
    np.testing.assert_allclose(np.ravel([g.data for g in found]), whole.grad.data.ravel())


def assert_refused_or_differentiated(who, call, values, depth, kind):
    if np.ndim(values) < depth:
        return
    values = np.asarray(values, np.float64)
    given = as_leaves(values, depth, kind)
    message = None
    try:
        assert_differentiated(call, given, values)
    except tc.TinygradCnnError as error:
        message = str(error)
    if message is not None:
        assert message.startswith(f"{who}: ")
        assert "stack" in message or "gradient" in message


@every_case
def test_the_calls_of_the_walk_are_right(name, inputs, settings):
    assert isinstance(called(name, inputs, settings), Tensor)


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("depth", [1, 2])
@every_case
def test_a_list_of_tensors_is_refused_or_differentiated(name, inputs, settings, depth, kind):
    for key, values in inputs.items():
        several = isinstance(values, tuple)                 # of which one is tried

        def call(x, key=key, values=values, several=several):
            return called(name, inputs | {key: (x, *values[1:]) if several else x}, settings)

        assert_refused_or_differentiated(name, call, values[0] if several else values, depth, kind)


# ---- layers

# Layer -> arguments that it cannot do without, by name.
ARGUMENTS = {"in_channels": 2, "out_channels": 2, "in_features": 3, "out_features": 2,
             "pad_width": 1, "dim": 1, "unflattened_size": (3, 1), "function": tc.relu,
             "output_size": 3, "num_embeddings": 3, "embedding_dim": 2, "num_groups": 2,
             "num_channels": 4, "size": 2,
             "kernel_size": 2, "upscale_factor": 2, "downscale_factor": 2}
# These hold modules, not settings.
CONTAINERS = (nn.Module, nn.ModuleDict, nn.ModuleList, nn.ParameterList, nn.Sequential)
LAYERS = [made for name in nn.__all__ if isinstance(made := getattr(nn, name), type)
          and issubclass(made, nn.Module) and made not in CONTAINERS and made.__name__ == name]
every_layer = pytest.mark.parametrize("made", LAYERS, ids=lambda made: made.__name__)


def needed(made):
    takes = inspect.signature(made).parameters
    return {name: ARGUMENTS[name] for name, p in takes.items() if p.default is p.empty
            and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def ready(made, **settings):
    if made is nn.Upsample and not settings:
        settings = {"scale_factor": 2}                      # one of two, neither with a default
    layer = made(**needed(made) | settings)
    return layer.astype(np.float64) if not isinstance(layer, nn.CrossEntropyLoss) else layer


SIDES, OTHER = np.array([1, -1]), MATRIX[::-1].copy()
# Layer -> its inputs, where they are not those of most.
INPUTS = {
    **dict.fromkeys((nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.KLDivLoss,
                     nn.BCEWithLogitsLoss, nn.FocalLoss), (MATRIX, MATRIX / 2)),
    **dict.fromkeys((nn.BCELoss, nn.DiceLoss), (MATRIX / 2, MATRIX / 2)),
    nn.HingeLoss: (MATRIX, np.where(MATRIX > 1, 1, -1)),
    nn.CosineSimilarity: (MATRIX, OTHER), nn.CosineEmbeddingLoss: (MATRIX, OTHER, SIDES),
    nn.TripletMarginLoss: (MATRIX, MATRIX + 1, OTHER), nn.Embedding: (np.array([0, 2]),),
    nn.GLU: (array(2, 4),), nn.GroupNorm: (array(2, 4),), nn.BatchNorm1D: (MATRIX,),
    nn.PixelShuffle: (array(1, 2, 2, 4),), nn.PixelUnshuffle: (IMAGE,),
    **dict.fromkeys((nn.Upsample, nn.LocalResponseNorm), (IMAGE,)),
    nn.MaxUnpool2D: (array(1, 2, 2, 1), np.arange(4).reshape(1, 2, 2, 1) * 3),
}


def inputs_of(made):
    """The inputs of a layer by name: images or sequences if its name says so, labels of a loss."""
    names = list(inspect.signature(made.forward).parameters)[1:]
    first = {"2D": IMAGE, "1D": SEQUENCE}.get(made.__name__[-2:], MATRIX)
    return dict(zip(names, INPUTS.get(made, (first, np.array([0, 2]))), strict=False))


@every_layer
def test_the_layers_of_the_walk_run(made):
    assert isinstance(ready(made)(*map(Tensor, inputs_of(made).values())), Tensor)


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("depth", [1, 2])
@every_layer
def test_a_layer_refuses_or_differentiates_a_list_of_tensors(made, depth, kind):
    layer, inputs = ready(made), inputs_of(made)
    for key, values in inputs.items():
        if np.ndim(values) < depth:
            continue
        given = as_leaves(np.asarray(values, np.float64), depth, kind)
        if made is nn.Identity:
            assert layer(given) is given
            continue
        with pytest.raises(tc.GradientError, match="stack"):
            layer(*(inputs | {key: given}).values())


# ---- operators

@pytest.mark.parametrize("call", [
    lambda x: Tensor([1.0, 2.0], requires_grad=True) * x, lambda x: x @ Tensor(np.eye(2)),
    lambda x: np.ones(2) / Tensor(x), tc.tensor, tc.Parameter, lambda x: np.mean(Tensor(x))])
def test_operators_and_constructors_refuse_lists_of_tensors(call):
    p, q = (Tensor(v, requires_grad=True) for v in (1.0, 2.0))
    for given in ([p, q], (p, q), [[p, q], [q, p]], [[1.0, 2.0], [q, p]], [np.float64(1), q]):
        with pytest.raises((tc.GradientError, TypeError), match=r"stack|unsupported operand"):
            call(given)


# ---- settings

def tensors_like(value):
    """Tensors that require a gradient and might be taken for this value, alone and in a tuple."""
    try:
        plain = np.asarray(value, np.float64)
    except (TypeError, ValueError):                         # None, a word, a generator
        plain = np.ones(())
    if plain.dtype.kind != "f" or not np.isfinite(plain).all():
        plain = np.ones(())
    whole = Tensor(plain, requires_grad=True)
    one = Tensor(np.ones(()), requires_grad=True)
    return [whole, one, (one, one), [one, one]]


def assert_a_tensor_as_setting_is_refused(who, setting, call, value):
    for given in tensors_like(value):
        with pytest.raises((tc.TinygradCnnError, TypeError)) as caught:
            call(given)
        message = str(caught.value)
        assert setting in message, f"{who}: {setting} is not named in: {message}"


@every_case
def test_a_tensor_as_a_setting_is_refused_by_name(name, inputs, settings):
    function = getattr(tc, name)
    takes = {n: p.default for n, p in inspect.signature(function).parameters.items()
             if n not in inputs and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    for setting, value in (takes | settings).items():
        def call(given, setting=setting):
            return called(name, inputs, settings | {setting: given})

        assert_a_tensor_as_setting_is_refused(name, setting, call, value)


@every_layer
def test_a_tensor_as_a_setting_of_a_layer_is_refused_by_name(made):
    for setting, parameter in inspect.signature(made).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue                            # of a class that has no settings

        def call(given, setting=setting):
            return ready(made, **{setting: given})(*map(Tensor, inputs_of(made).values()))

        assert_a_tensor_as_setting_is_refused(made.__name__, setting, call, parameter.default)


OTHERS = [
    *(getattr(optim, name) for name in optim.__all__ if name not in ("Optimizer", "lr_scheduler")),
    *(getattr(optim.lr_scheduler, name) for name in optim.lr_scheduler.__all__
      if name != "LRScheduler"),
    *(getattr(nn.init, name) for name in nn.init.__all__), nn.l2_penalty]
FIRST = {"params": lambda: [tc.Parameter([1.0])],
         "parameters": lambda: [tc.Parameter([1.0])], "shape": lambda: (2, 2), "lr": lambda: 0.1,
         "optimizer": lambda: optim.SGD([tc.Parameter([1.0])], 0.1), "total_steps": lambda: 5,
         "max_lr": lambda: 0.1, "max_norm": lambda: 1.0, "max_value": lambda: 1.0,
         "step_size": lambda: 2, "warm_steps": lambda: 2, "coefficient": lambda: 0.1,
         "after": lambda: optim.SGD([tc.Parameter([1.0])], 0.1), "T_0": lambda: 2,
         "T_max": lambda: 2, "gamma": lambda: 0.5, "lr_lambda": lambda: float,
         "milestones": lambda: [2]}


@pytest.mark.parametrize("function", OTHERS, ids=lambda function: function.__name__)
def test_a_tensor_as_a_setting_of_a_recipe_is_refused_by_name(function):
    takes = inspect.signature(function).parameters

    def given():
        made = {name: FIRST[name]() for name, p in takes.items()
                if (p.default is p.empty and name != "schedulers") or name == "total_steps"}
        if "schedulers" in takes:
            made["schedulers"] = [optim.lr_scheduler.ConstantLR(made["optimizer"])
                                  for _ in range(2)]
        return made

    function(**given())
    for setting, parameter in takes.items():
        if setting in ("params", "parameters", "optimizer", "after", "schedulers", "owner"):
            continue                            # tensors, or what holds them; a name

        def call(tensor, setting=setting):
            return function(**given() | {setting: tensor})

        assert_a_tensor_as_setting_is_refused(function.__name__, setting, call, parameter.default)
