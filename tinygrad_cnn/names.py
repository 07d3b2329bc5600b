"""What a name from another library is called here.

A name that does not exist answers with the one that does.  `missing` looks, in this order, into
the table of renamed things, for the name itself and for another spelling of it (``Conv2d``,
``conv_2d``) in every public module, and for close spellings.

An argument may have the name that PyTorch, NumPy or Keras give it; `own_names` brings it into ours.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, TypeVar, cast

__all__ = ["CURES", "accepting", "missing", "no_argument", "on_first_use", "own_names"]

F = TypeVar("F", bound=Callable[..., Any])

_PACKAGE = __name__.partition(".")[0]
MODULES = ("", "nn", "nn.init", "optim", "optim.lr_scheduler", "data", "train", "transforms",
           "testing", "io", "parallel", "models", "viz", "viz.plots")
"""Where names are looked for; the package itself is ``""``."""

# "names: cure" line by line.  What a cure names by tc. or x. exists; a test looks it up.
_TENSOR = """
cuda cpu xpu mps hip pin_memory share_memory_: values are in the memory of the CPU; leave it out
to type type_as float double half bfloat16 int long short bool: x.astype(np.float32)
device is_cuda layout: values are always in the memory of the CPU
contiguous is_contiguous stride strides: memory layout is not yours to care about; leave it out
grad_fn creator: x.node
is_sparse sparse_resize_ to_sparse: tensors are dense
add_ sub_ mul_ div_ pow_ clamp_ clip_: write x = x + y; a leaf under no_grad(): x += y
zero_ fill_ copy_ normal_ uniform_ fill put itemset: write x.data[...] = value
set_ resize_ resize: a tensor keeps its shape; x.reshape(shape) makes another
scatter scatter_ scatter_add index_add index_copy masked_scatter: tc.where(mask, a, b)
index_select: x.take(indices, axis=0)
masked_select compress extract: x[mask]
select narrow: x[:, start:stop]
unfold: tc.unfold(x, kernel_size=3) of images N H W C
zero_grad null_grad null_gradients: x.grad = None
clear_graph: the graph goes when no tensor refers to it
constant: x.requires_grad
storage data_ptr untyped_storage base tobytes tofile: x.numpy()
flat: x.ravel()
new_zeros new_ones new_full new_tensor new_empty: tc.Tensor(np.zeros(shape, x.dtype))
apply_ map_ apply: write it with ops; tc.custom_op makes one of a NumPy function
values: x.numpy()
assign assign_add assign_sub: under no_grad(): x -= lr * x.grad
reshape_as view_as: x.reshape(y.shape)
"""
_CORE = """
cat concat hcat: tc.concatenate
from_numpy as_tensor asarray astensor array Variable: tc.tensor
tensor_like FloatTensor DoubleTensor: tc.Tensor
inference_mode no_autodiff stop_gradient_tape: tc.no_grad
set_grad_enabled GradientTape: tc.no_grad() and tc.enable_grad(); backward() needs no tape
device cuda backends: everything is in the memory of the CPU; leave it out
float32 float64 float double int64 long bool int32: NumPy's dtype of that name, np.float32
save: tc.io.save_checkpoint
load: tc.io.load_checkpoint
jit compile function: nothing is compiled ahead; a program records its graph as it runs
utils: the loader is tc.data.DataLoader
autograd: tc.grad
functional: the functions are in tinygrad_cnn itself: tc.relu(x)
set_default_dtype set_default_device: Tensor(array) keeps the dtype of the array
seed set_random_seed random: tc.manual_seed
Module Sequential: tc.nn.Module
Model: tc.nn.Module
layers keras: tc.nn
clamp: tc.clip
negative: tc.neg
multiply: tc.mul
divide true_divide: tc.div
subtract: tc.sub
absolute fabs: tc.abs
pow float_power: tc.power
amax reduce_max: tc.max
amin reduce_min: tc.min
reduce_sum add_n: tc.sum
reduce_mean: tc.mean
unsqueeze: tc.expand_dims
view: tc.reshape
expand expand_as: tc.broadcast_to
logsoftmax: tc.log_softmax
softmax_focal_loss: tc.focal_loss
multiclass_hinge: tc.multi_margin_loss
contrastive_loss: a few lines of ops; see docs/recipes.md
gru lstm rnn: a loop over a step of ops; see docs/recipes.md
add_sequence: tc.sum(tc.stack(xs), 0)
multiply_sequence: tc.prod(tc.stack(xs), 0)
soft_sign: tc.softsign
softmax_crossentropy softmax_cross_entropy sparse_categorical_crossentropy: tc.cross_entropy
categorical_crossentropy: tc.cross_entropy
negative_log_likelihood: tc.nll_loss
binary_crossentropy bce_loss: tc.binary_cross_entropy_with_logits
mean_squared_error: tc.mse_loss
swish: tc.silu
batchnorm: tc.batch_norm
conv_nd conv: tc.conv2d
max_pool maxpool: tc.max_pool2d
conv1d conv3d: tc.conv2d
argmax argmin argsort allclose isnan isinf isfinite any all: a method of x, or NumPy's function
randint: tc.tensor(np.random.default_rng().integers(low, high, shape))
sliding_window_view im2col: tc.unfold
col2im: tc.fold
detach stop_gradient: tc.Tensor.detach
numel: tc.Tensor.size
multi_matmul mm bmm: tc.matmul
"""
_NN = """
functional F: the functions are in tinygrad_cnn itself: tc.relu(x)
utils: tc.optim.clip_grad_norm_
Dense LazyLinear: tc.nn.Linear
LazyConv2d Convolution2D Conv: tc.nn.Conv2D
Conv2DTranspose: tc.nn.ConvTranspose2D
MaxPooling2D MaxPool: tc.nn.MaxPool2D
AveragePooling2D: tc.nn.AvgPool2D
GlobalAveragePooling2D: tc.nn.GlobalAvgPool2D
GlobalMaxPooling2D: tc.nn.GlobalMaxPool2D
BatchNormalization BatchNorm: tc.nn.BatchNorm2D
LayerNormalization: tc.nn.LayerNorm
Activation: tc.nn.ReLU
MeanAbsoluteError: tc.nn.L1Loss
KLDivergence: tc.nn.KLDivLoss
TripletLoss: tc.nn.TripletMarginLoss
BinaryCrossentropy: tc.nn.BCELoss
CategoricalCrossentropy SparseCategoricalCrossentropy: tc.nn.CrossEntropyLoss
MeanSquaredError: tc.nn.MSELoss
ReflectionPad2d ReplicationPad2d ZeroPadding2D CircularPad2d: tc.nn.Pad2D
RNN LSTM GRU LSTMCell GRUCell RNNCell: write its step with ops and loop over it
MultiheadAttention Transformer: softmax(q @ k.T) @ v is written with ops
DataParallel: kernels use the threads of set_num_threads already
parameter ParameterDict: one attribute for each, or nn.ParameterList
Swish: tc.nn.SiLU
UpsamplingNearest2d UpsamplingBilinear2d UpSampling2D: tc.nn.Upsample
GroupNormalization: tc.nn.GroupNorm
InstanceNorm: tc.nn.InstanceNorm2D
Depth2Space DepthToSpace: tc.nn.PixelShuffle
Reshape: tc.nn.Unflatten
SpatialDropout2D: tc.nn.Dropout2D
StochasticDepth: tc.nn.DropPath
Model: tc.nn.Module
compile fit: tc.train.Trainer
xavier_uniform_ xavier_uniform: tc.nn.init.glorot_uniform
xavier_normal_ xavier_normal: tc.nn.init.glorot_normal
kaiming_uniform_ kaiming_uniform: tc.nn.init.he_uniform
kaiming_normal_ kaiming_normal: tc.nn.init.he_normal
trunc_normal_ dirac_ dirac constant_: tc.nn.init.normal
normal_: tc.nn.init.normal
uniform_: tc.nn.init.uniform
zeros_: tc.nn.init.zeros
ones_: tc.nn.init.ones
orthogonal_: tc.nn.init.orthogonal
"""
_MODULE = """
cuda cpu xpu ipu share_memory: parameters are in the memory of the CPU; leave it out
float: model.astype(np.float32)
double: model.astype(np.float64)
half bfloat16: parameters are float32 or float64: model.astype(np.float32)
add_module: model.register_module(name, module)
register_parameter add_weight: model.name = tc.nn.Parameter(array)
get_submodule get_parameter get_layer: attributes and indices lead to it: model.features[0].weight
weights trainable_weights trainable_variables variables: model.parameters()
get_weights: model.state_dict()
set_weights: model.load_state_dict(state)
save save_weights: tc.io.save_weights(model, path)
load load_weights: model.load_state_dict(tc.io.load_weights(path))
fit compile train_on_batch: tc.train.Trainer
evaluate: tc.train.Trainer.evaluate
predict: model(images), with tc.no_grad() and in nn.evaluating(model)
summary: tc.train.summarize(model, image_shape)
register_backward_hook: model.register_full_backward_hook(hook)
register_state_dict_pre_hook register_load_state_dict_pre_hook: change the state before it is loaded
call: def forward(self, x)
"""
_OPTIM = """
LBFGS: tc.optim.AdamW
schedules: tc.optim.lr_scheduler
ExponentialDecay: tc.optim.lr_scheduler.ExponentialLR
PiecewiseConstantDecay: tc.optim.lr_scheduler.MultiStepLR
PolynomialDecay: tc.optim.lr_scheduler.PolynomialLR
CosineDecay: tc.optim.lr_scheduler.CosineAnnealingLR
clip_grad_norm: tc.optim.clip_grad_norm_
clip_grad_value: tc.optim.clip_grad_value_
swa_utils AveragedModel ExponentialMovingAverage: tc.optim.EMA
Nadam: tc.optim.NAdam
"""
_DATA = """
TensorDataset ImageDataset: DataLoader(arrays, targets) takes arrays as they are
Subset: dataset[mask] or dataset[:100]; data.load(name) gives train and test
ConcatDataset: np.concatenate the arrays
MNIST FashionMNIST CIFAR10: data.load("fashion-mnist", path); docs/data.md tells where files go
datasets: tc.data.load
ImageFolder image_dataset_from_directory: tc.data.load_image_folder
ToTensor ToDtype Rescaling: tc.data.ToFloat
RandomHorizontalFlip: tc.data.RandomFlip
RandomVerticalFlip: RandomFlip(axis="vertical")
RandomTranslation: tc.data.RandomShift
RandomZoom ImageDataGenerator: tc.data.RandomAffine
RandomBrightness RandomContrast: tc.data.ColorJitter
Resize CenterCrop: load_image_folder(path, size=(H, W)) resizes; arrays are cropped by slices
Sampler RandomSampler SequentialSampler: DataLoader(shuffle=True, seed=0)
SubsetRandomSampler: DataLoader(dataset[indices], shuffle=True)
StratifiedKFold StratifiedShuffleSplit: k_fold and random_split take stratify=True
train_test_split: tc.data.random_split
"""
_TRAIN = """
ModelCheckpoint Checkpoint: tc.train.BestCheckpoint
LearningRateScheduler ReduceLROnPlateau: tc.optim.lr_scheduler.ReduceLROnPlateau
evaluate: tc.train.Trainer.evaluate
"""


def _table(text: str) -> dict[str, str]:
    return {name: cure.strip() for line in text.strip().splitlines()
            for names, _, cure in [line.partition(": ")] for name in names.split()}


CURES = {"Tensor": _table(_TENSOR), "": _table(_CORE), "nn": _table(_NN), "nn.init": _table(_NN),
         "Module": _table(_MODULE), "optim": _table(_OPTIM), "optim.lr_scheduler": _table(_OPTIM),
         "data": _table(_DATA), "train": _table(_TRAIN)}
"""Module, "Tensor" or "Module" -> the name that does not exist -> what to write instead."""


def plain(name: str) -> str:
    """The name without case and underscores: what two spellings of it share."""
    return name.lower().replace("_", "")


def places(where: str, name: str) -> list[str]:
    """Every public name of the package that is ``name`` in some spelling, the nearest first."""
    wanted, found = plain(name), []
    for place in MODULES:
        module = import_module(f"{_PACKAGE}.{place}".strip("."))
        found += [(own != name, place != where, own[0].isupper() != name[0].isupper(),
                   ".".join(filter(None, ("tc", place, own))))
                  for own in getattr(module, "__all__", ()) if plain(own) == wanted]
    return [path for *_, path in sorted(found)]


def missing(where: str, name: str, known: Iterable[str], obj: object) -> AttributeError:
    """The error for a name that ``where``, "Tensor" or a module, does not have.

    >>> print(missing("nn", "Dense", [], None))
    tinygrad_cnn.nn has no 'Dense'; use tc.nn.Linear
    >>> print(missing("", "Conv2d", [], None))
    tinygrad_cnn has no 'Conv2d'; it is tc.nn.Conv2d
    >>> print(missing("Tensor", "cuda", [], None))
    Tensor has no 'cuda'; values are in the memory of the CPU; leave it out
    """
    owner = where if where == "Tensor" else f"{_PACKAGE}.{where}".strip(".")
    cure = CURES.get(where, {}).get(name)
    if cure is None and where != "Tensor" and (found := places(where, name)):
        cure = f"it is {found[0]}"
    elif cure is None and where == "Tensor" and name in sys.modules[_PACKAGE].__all__:
        cure = f"it is a function: tc.{name}(x)"
    elif cure is None and (near := difflib.get_close_matches(name, known, n=1)):
        cure = f"did you mean {near[0]!r}?"
    elif cure is not None and cure.startswith(("tc.", "x.", "x[")):
        cure = f"use {cure}"
    return AttributeError(f"{owner} has no {name!r}" + (f"; {cure}" if cure else ""),
                          name=name, obj=obj)


def gathered(package: str) -> list[str]:
    """The public names of a package: those that its files list, and that it has imported.

    >>> gathered("tinygrad_cnn.optim")[:2]
    ['Adadelta', 'Adagrad']
    """
    here = vars(sys.modules[package])
    files = [vars(file) for name, file in tuple(sys.modules.items())
             if name.startswith(f"{package}.")]
    return sorted({name for file in files for name in file.get("__all__", ())
                   if name in here and here[name] is file.get(name)})


def on_first_use(module: str) -> None:
    """Let ``module`` import its parts when they are first asked for, and answer other names."""
    here = sys.modules[module]

    def __getattr__(name: str) -> Any:  # noqa: N807 - a module's own
        if not name.startswith("_"):            # names that protocols ask for are expected to fail
            try:
                return import_module(f"{module}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{module}.{name}":
                    raise
            raise missing(module.partition(".")[2], name, dir(here), here)
        raise AttributeError(f"module {module!r} has no attribute {name!r}", name=name, obj=here)

    def __dir__() -> list[str]:  # noqa: N807 - a module's own
        parts = iter_modules(getattr(here, "__path__", ()))
        return sorted({*vars(here), *(part.name for part in parts)})

    vars(here).update(__getattr__=__getattr__, __dir__=__dir__)


# ---- arguments -----------------------------------------------------------------------------------

# "names: ours" line by line; ours is the first of these that the function has.
_ARGUMENTS = """
dim dims dimension dim0: axis axes reps
keepdim keep_dims: keepdims
input self: x a y logits prediction probabilities log_probabilities scores indices labels
tensor: x a labels
tensors arrays operands: xs
other tensor2 vec2 input2 x2 divisor exponent value: b
input1 x1: a
a arr array v m: x
weight kernel: w
bias: b
target labels y_true: labels target
y_pred: logits prediction probabilities
running_mean: mean
running_var: var
size: shape kernel_size
padding: pad_width
min_value: min_val min
max_value: max_val max
end: stop
steps: num
shifts: shift
diagonal: k
dim1: axis1
dim2: axis2
p: ord
unbiased ddof: correction
equation: subscripts
index: indices
generator: rng
dataset: data
a_min: min
a_max: max
repeat: repeats
output_size: image_size
newshape: shape
filters units: out_channels out_features
rate: p
strides: stride
pool_size: kernel_size
dilation_rate: dilation
epsilon: eps
use_bias: bias
center scale: affine
alpha: negative_slope
learning_rate: lr
parameters: params
rho: alpha
beta_1 beta_2: betas
"""
# What no argument does; "function.name" goes before "name".
_ADVICE = """
inplace out device layout memory_format pin_memory: leave it out
foreach fused capturable differentiable last_epoch size_average reduce sparse: leave it out
in_order pin_memory_device num_workers persistent_workers timeout worker_init_fn: leave it out
multiprocessing_context: leave it out
prefetch_factor: prefetch= batches are made ahead by a thread
collate_fn batch_sampler: transform= treats a batch
DataLoader.generator WeightedRandomSampler.generator: give seed=
padding_idx max_norm norm_type: change the rows of the weight
bias: of a norm it comes with affine=
padding_mode: pad by a layer before, nn.Pad2D
track_running_stats: statistics are those of each image
ReduceLROnPlateau.eps: threshold= says what counts as better
decoupled_weight_decay: tc.optim.AdamW decouples it
sparse_grad stable sorted kind order scale_grad_by_freq antialias data_format verbose: leave it out
recompute_scale_factor input_spec name trainable kernel_initializer input_shape: leave it out
cycle_momentum base_momentum max_momentum: give momentum=(low, high)
anneal_strategy three_phase: each part is half a cosine; leave it out
constant: leave it out, or detach() the result
dtype: cast the tensor: x.astype(np.float64)
alpha: multiply before: a + alpha * b
rounding_mode: tc.floor(a / b) and tc.trunc(a / b) round
activation: it is a layer, or a function, of its own: tc.relu(y)
from_logits: cross_entropy takes logits, nll_loss and binary_cross_entropy the rest
pad.pad: it is pad_width=, a pair for each axis, first axis first
normalized_shape: the shape of w says it; tc.standardize(x, axis) needs none
batch_norm.momentum batch_norm.training: nn.BatchNorm2D keeps running means; give mean= and var=
instance_norm.mean instance_norm.var momentum use_input_stats: statistics are those of each image
weight: weigh the values of reduction="none"
threshold: it needs none: large values do not overflow
beta: scale x: softplus(beta * x) / beta
fill_value: by position, as in full_like(x, 2.0)
swap: give the nearer of both as positive
dim0 dim1: x.swapaxes(0, 1) swaps two axes
take_along_axis.k: it is axis=
src: it is y=, and index= stands for all axes
where.y: it is b=
split_size split_size_or_sections: sections= is the number of parts, or where to cut
fold.kernel_size: the shape of y tells it
unfold.dimension: windows are of images N H W C
step: it is stride=, of images N H W C
running_mean running_var: statistics are those of each image
upsample2d.size: tc.interpolate(x, size) takes a size
generator: it is rng=
fold.dilation: the gradient of a dilated unfold adds its windows up
rint.decimals: tc.round(x, decimals) rounds to digits
repeat.output_size as_tuple: leave it out
axis0: both axes by position, as in x.swapaxes(0, 1)
"""
_CHANGED: dict[str, Callable[[Any], Any]] = {"unbiased": int}


def no_argument(owner: str, kind: str, name: str, known: Sequence[str]) -> TypeError:
    """The error for an argument that ``owner`` does not have, with what to write instead."""
    ours = _own_name(name, known)
    near = difflib.get_close_matches(name, known, n=1)
    cure = (f"it is {ours!r}." if ours is not None else
            f"{advice}." if (advice := _ADVICES.get(f"{owner}.{name}", _ADVICES.get(name))) else
            f"did you mean {near[0]!r}?" if near else "")
    return TypeError(f"{owner}: there is no {kind} {name!r}; {cure}{'  ' * bool(cure)}"
                     f"{owner} takes {', '.join(known) or 'none'}")


def _own_name(name: str, known: Sequence[str]) -> str | None:
    return next((ours for ours in _RENAMED.get(name, ()) if ours in known), None)


def own_names(owner: str, known: Sequence[str], settings: Mapping[str, Any],
              kind: str = "argument") -> dict[str, Any]:
    """The arguments by the names that ``owner`` gives them, or a TypeError that tells which.

    >>> own_names("sum", ("x", "axis", "keepdims"), {"dim": 1, "keepdim": True})
    {'axis': 1, 'keepdims': True}
    >>> own_names("relu", ("x",), {"inplace": True})
    Traceback (most recent call last):
        ...
    TypeError: relu: there is no argument 'inplace'; leave it out.  relu takes x
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        ours = name if name in known else _own_name(name, known)
        if ours is None:
            raise no_argument(owner, kind, name, known)
        if ours in found or (ours != name and ours in settings):
            raise TypeError(f"{owner}: {name}= and {ours}= are the same argument; give one")
        found[ours] = _CHANGED.get(name, _same)(value) if ours != name else value
    return found


def _same(value: Any) -> Any:
    return value


def accepting(function: F, owner: str = "") -> F:
    """The function, which takes arguments by the names of other libraries as well."""
    @wraps(function)
    def call(*args: Any, **settings: Any) -> Any:
        try:
            return function(*args, **settings)
        except TypeError:
            known = {p.name: p.kind for p in inspect.signature(function).parameters.values()
                     if p.kind not in (p.POSITIONAL_ONLY, p.VAR_KEYWORD) and p.name != "self"}
            several = [n for n, kind in known.items() if kind == inspect.Parameter.VAR_POSITIONAL]
            if (known.keys() - several) >= settings.keys():
                raise
        given = own_names(owner or function.__name__, tuple(known), settings)
        return function(*args, *(given.pop(n) for n in several if n in given), **given)
    return cast(F, call)


_RENAMED = {name: cure.split() for name, cure in _table(_ARGUMENTS).items()}
_ADVICES = _table(_ADVICE)
