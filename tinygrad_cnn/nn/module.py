"""`Module`: parameters, buffers and parts under names, found by looking at the attributes.

A module keeps no list of its parameters.  Each attribute that is a `Parameter` is a parameter, each
`Module` a part, each array given to `register_buffer` a buffer.  So deleting, replacing, copying
and pickling a module need no bookkeeping.  The state is set up in ``__new__``: a subclass whose
``__init__`` does not call ``super().__init__()`` works as well.
"""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from operator import setitem
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

import numpy as np
from numpy.typing import DTypeLike

from tinygrad_cnn import checks
from tinygrad_cnn.contexts import block
from tinygrad_cnn.core import Parameter, Tensor, TensorLike
from tinygrad_cnn.core.graph import State, _state, _states, remember, state_after
from tinygrad_cnn.errors import (
    DeclarationError,
    DTypeError,
    GradientError,
    SettingError,
    ShapeError,
    TinygradCnnError,
)
from tinygrad_cnn.names import CURES
from tinygrad_cnn.nn import state
from tinygrad_cnn.ops.hooks import HookHandle, with_hook
from tinygrad_cnn.settings import Declared, show
from tinygrad_cnn.shapes import Shape
from tinygrad_cnn.types import Array, Function, Settings

if TYPE_CHECKING:
    from tinygrad_cnn.viz import Figure
    from tinygrad_cnn.viz.figure import Settings as Style

__all__ = ["Array", "HookHandle", "Layer", "Module", "OpLayer", "evaluating", "training"]

Hook = Function                                 # (module, inputs, output) -> None, or another
PreHook = Function                              # (module, inputs) -> None, or others
#: Path, module and shape of the output of each call that ended while the outermost module runs.
Calls = deque[tuple[tuple[str, ...], "Module", Shape]]

#: Devices that programs written for PyTorch may ask for.
_ELSEWHERE = ("cuda", "gpu", "hip", "meta", "mps", "tpu", "xla", "xpu")
#: Layers named in an error: those that ran before the one that failed.
_LAST = 12
_MARK = "\n  in the layer "


def _add_note(error: TinygradCnnError, path: tuple[str, ...], module: Module, calls: Calls) -> None:
    """Add to the message where it happened and which shapes led there, unless that is done."""
    message = str(error)
    if _MARK in message:
        return
    leaves = [call for call in calls if next(call[1].children(), None) is None][-_LAST:]
    rows = [(f"{'.'.join(where[1:]) or where[0]}: {_one_line(layer)}", str(shape))
            for where, layer, shape in leaves]
    width = max((len(name) for name, _ in rows), default=0)
    before = "".join(f"\n    {name:<{width}}  -> {shape}" for name, shape in rows)
    error.args = (f"{message}{_MARK}{'.'.join(path)}: {_one_line(module)}"
                  + (f"\n  which came after{before}" if before else ""),)


def _one_line(module: Module) -> str:
    """The module's own line of the tree, without its parts."""
    parts = next(module.children(), None) is not None
    return f"{type(module).__name__}({'...' if parts else module.extra_repr()})"




class _Call(str):
    """The name of a module in the path of an op: an object of each call, so pictures tell calls."""

    __slots__ = ()


def _of_any_signature(method: Function) -> Function:
    """For type checkers: each subclass has a ``forward`` with arguments of its own."""
    return method


class Module:
    """A part of a network: parameters, buffers, other modules, and the function ``forward``.

    Assign parameters and parts as attributes and define ``forward``; then call the module.  Inside
    the call, every op is recorded under the module's name: its attribute name in the module that
    first took it in, or its class name.

    Attributes
    ----------
    training : bool
        What `train` and `eval` switch; read by layers such as dropout and batch normalization.

    Raises
    ------
    DeclarationError
        When called, if the class defines no ``forward``.
    SettingError
        On assignment of a container of modules or parameters, of a module that contains this one,
        or to a name of Module's own.
    DTypeError
        On assignment of a leaf that requires a gradient and is no `Parameter`, or of another kind
        of value to a parameter, part or buffer.

    Examples
    --------
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         self.conv = nn.Conv2D(1, 4, 3)
    ...         self.head = nn.Linear(4, 10)
    ...     def forward(self, x):                          # N H W 1
    ...         x = relu(self.conv(x))                     # N H−2 W−2 4
    ...         return self.head(global_avg_pool2d(x))     # N 10
    >>> model = Net()
    >>> model(np.zeros((2, 8, 8, 1), np.float32)).shape
    (2, 10)
    >>> [name for name, _ in model.named_parameters()]
    ['conv.weight', 'conv.bias', 'head.weight', 'head.bias']
    >>> model
    Net(
      (conv): Conv2D(1, 4, kernel_size=3)
      (head): Linear(4, 10)
    )
    """

    training: bool
    _name: str | None
    _buffer_names: dict[str, bool]
    _hooks: dict[object, Hook]
    _pre_hooks: dict[object, PreHook]
    _backward_hooks: dict[object, Hook]

    #: The axes of PyTorch's weight of this layer in the order of this package, if that is another.
    pytorch_axes: ClassVar[tuple[int, ...] | None] = None
    #: The least that entries of these buffers may be; a state dict with less, or NaN, is refused.
    minima: ClassVar[Mapping[str, float]] = {}

    def __new__(cls, *args: object, **settings: object) -> Self:
        """Set up what a module needs, whatever the subclass's ``__init__`` does."""
        if (args or settings) and not hasattr(cls.__init__, "checks_arguments"):
            checks.arguments(cls, args, settings)
        self = super().__new__(cls)
        vars(self).update(training=True, _name=None, _buffer_names={}, _hooks={},
                          _pre_hooks={}, _backward_hooks={})
        return self

    # ---- calling

    @_of_any_signature
    def forward(self, *inputs: object, **settings: object) -> Tensor:
        """Compute the output; every subclass that is called defines it."""
        what = type(self).__name__
        raise DeclarationError(f"{what}: forward is not defined; write "
                               f"`def forward(self, x): ...` in class {what}")

    def __call__(self, *inputs: object, **settings: object) -> Tensor:
        """Run ``forward`` under this module's name, then the hooks."""
        before = after = _state.get()
        calls: Calls = deque(maxlen=3 * _LAST) if before.calls is None else before.calls
        path = (*before.scope, _Call(self._name or type(self).__name__))
        inside = State(before.recording, before.plain, path, before.observer, calls, before)
        if _states.get():
            remember(self, self._state_of_run, vars(self).update)
        try:                                            # as `changed` does, in three calls less
            _state.set(inside)
            try:
                if self._pre_hooks or self._backward_hooks:
                    inputs, ends = self._before(inputs)
                    out = ends.outputs(self.forward(*inputs, **settings))
                else:
                    out = self.forward(*inputs, **settings)
            except TinygradCnnError as error:
                _add_note(error, path, self, calls)
                raise
            for key, hook in tuple(self._hooks.items()):
                if key in self._hooks:                  # an earlier hook may have removed it
                    replaced = hook(self, inputs, out)
                    out = out if replaced is None else replaced
            if isinstance(out, Tensor):
                calls.append((path, self, out._data.shape))
            return out
        finally:
            try:
                if _state.get() is not inside or before.over:
                    after = state_after(inside, before, "scope", "calls")
            finally:
                _state.set(after)

    def register_forward_hook(self, hook: Hook) -> HookHandle:
        """Call ``hook(module, inputs, output)`` after each call of this module.

        What the hook returns, unless None, replaces the output.  Hooks run in the order in which
        they were registered; one that is registered during a call runs from the next call on.  The
        handle removes the hook, with ``remove()`` or as a context manager.

        >>> layer = nn.ReLU()
        >>> with layer.register_forward_hook(lambda module, inputs, out: print(out.shape)):
        ...     y = layer(np.zeros((2, 3)))
        (2, 3)
        """
        return self._registered("register_forward_hook", self._hooks, hook)

    def register_forward_pre_hook(self, hook: PreHook) -> HookHandle:
        """Call ``hook(module, inputs)`` before each call of this module.

        ``inputs`` is the tuple of what is given by position; what the hook returns, unless None,
        replaces it: a tuple, or the one input.
        """
        return self._registered("register_forward_pre_hook", self._pre_hooks, hook)

    def register_full_backward_hook(self, hook: Hook) -> HookHandle:
        """Call ``hook(module, grad_inputs, grad_outputs)`` when a backward pass has passed it.

        Both are tuples of tensors, with None for what has no gradient.  A gradient that the hook
        returns, alone or in a tuple, replaces that of the one input that has one.

        >>> layer, x = nn.ReLU(), Tensor([-1.0, 2.0], requires_grad=True)
        >>> handle = layer.register_full_backward_hook(
        ...     lambda module, back, ct: print(ct[0].data, "->", back[0].data))
        >>> (3 * layer(x)).sum().backward()
        [3. 3.] -> [0. 3.]
        """
        return self._registered("register_full_backward_hook", self._backward_hooks, hook)

    def _registered(self, name: str, hooks: dict[object, Hook], hook: Hook) -> HookHandle:
        if not callable(hook):
            raise SettingError(f"{name}: hook must be callable, got {hook!r}")
        return HookHandle(hooks, hook)

    def _state_of_run(self) -> Settings:
        """What a second run of ``forward`` would find changed, apart from the parameters."""
        return {name: vars(self)[name] for name in ("training", *self._buffer_names)}

    def _before(self, inputs: tuple[object, ...]) -> tuple[tuple[object, ...], _Ends]:
        for hook in tuple(self._pre_hooks.values()):
            replaced = hook(self, inputs)
            if replaced is not None:
                inputs = replaced if isinstance(replaced, tuple) else (replaced,)
        ends = _Ends(self, inputs)
        return ends.inputs, ends

    def graph(self, *inputs: TensorLike, **settings: Unpack[Style]) -> Figure:
        """Draw what this module computes for one batch; see `tinygrad_cnn.viz.graph_of_module`."""
        from tinygrad_cnn import viz  # the one look up: drawings know modules, not the reverse

        return viz.graph_of_module(self, inputs[0] if len(inputs) == 1 else inputs, **settings)

    def _repr_html_(self) -> str:
        from tinygrad_cnn.viz.html import module_html

        return module_html(self)

    # ---- what it holds

    def _own_parameters(self) -> Iterator[tuple[str, Parameter]]:
        return ((k, v) for k, v in tuple(vars(self).items()) if isinstance(v, Parameter))

    def _own_buffers(self) -> Iterator[tuple[str, Array]]:
        held = ((name, vars(self)[name]) for name in tuple(self._buffer_names))
        return ((name, array) for name, array in held if array is not None)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The parts that are attributes of this module; one with two names is given once."""
        seen: set[int] = set()
        for name, value in tuple(vars(self).items()):
            if isinstance(value, Module) and id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def children(self) -> Iterator[Module]:
        """The parts that are attributes of this module."""
        return (module for _, module in self.named_children())

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """Path and module: ``""`` and this one, then every part below it, once each."""
        seen: set[int] = set()
        for name, module in self.walk():
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def modules(self) -> Iterator[Module]:
        """Every module of the tree, this one first, once each."""
        return (module for _, module in self.named_modules())

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Every path in the tree of parts, depth first; a shared part has several."""
        yield prefix, self
        for name, value in tuple(vars(self).items()):
            if isinstance(value, Module):
                yield from value.walk(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self, *, recurse: bool = True) -> Iterator[tuple[str, Parameter]]:
        """Every parameter here and below with its path, such as ``features.3.bias``, once each.

        ``recurse=False`` leaves out those of the parts.  A lazy layer that has not learned its
        input size yet is refused:

        >>> [name for name, _ in nn.Sequential(nn.Linear(2, 3), nn.ReLU()).named_parameters()]
        ['0.weight', '0.bias']
        >>> list(nn.Sequential(nn.Linear(None, 3)).parameters())
        Traceback (most recent call last):
            ...
        tinygrad_cnn.SettingError: 0: Linear(None, 3) takes its in_features from its first call, so
        it has no parameters yet; call the model once, as in model(x), before asking for them
        """
        seen: set[int] = set()
        for path, module in self.named_modules() if recurse else [("", self)]:
            module.require_initialized(path)
            for name, parameter in module._own_parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield f"{path}.{name}" if path else name, parameter

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter here and below, once each; see `named_parameters`."""
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self, *, recurse: bool = True) -> Iterator[tuple[str, Array]]:
        """Every buffer here and below (``recurse=False``: here) with its path."""
        for path, module in self.named_modules() if recurse else [("", self)]:
            for name, array in module._own_buffers():
                yield f"{path}.{name}" if path else name, array

    def buffers(self) -> Iterator[Array]:
        """Every buffer here and below; see `named_buffers`."""
        return (array for _, array in self.named_buffers())

    def register_buffer(self, name: str, array: Array | None, *, persistent: bool = True) -> None:
        """Hold an array that is part of the state but not trained, such as a running mean.

        ``array`` may be None, to be assigned later; `state_dict` leaves out a buffer that is not
        ``persistent``.
        """
        self._check_name(name)
        if name in vars(self) and name not in self._buffer_names:
            raise SettingError(f"{type(self).__name__}: {name!r} is an attribute already; choose "
                               "another name for the buffer")
        self._check_buffer(name, array)
        self._buffer_names[name] = bool(persistent)
        vars(self)[name] = array

    def register_module(self, name: str, module: Module) -> None:
        """Take in a part under a name that need not be an identifier, such as ``"0"``."""
        if not isinstance(module, Module):
            raise DTypeError(f"{type(self).__name__}: {name!r} must be a Module, got {module!r}")
        self._check_name(name)
        setattr(self, name, module)

    # ---- attributes

    def __setattr__(self, name: str, value: Any) -> None:
        held = vars(self).get(name)
        if name == "training":
            value = checks.flag(type(self).__name__, name, value)
        elif isinstance(value, Parameter):
            self._check_name(name)
            value.name = value.name or name
        elif isinstance(value, Module):
            self._check_name(name)
            if any(part is self for part in value.modules()):
                raise SettingError(f"{type(self).__name__}: {name} would contain the module that "
                                   "holds it; a network is a tree")
            vars(value)["_name"] = value._name or name
        elif name in self._buffer_names:
            self._check_buffer(name, value)
        elif value is not None and isinstance(held, (Parameter, Module)):
            kind = "Parameter" if isinstance(held, Parameter) else "Module"
            raise DTypeError(f"{type(self).__name__}: {name} is a {kind} and cannot become a "
                             f"{type(value).__name__}; assign a {kind}, or None"
                             + (", or write to .data[...]" if kind == "Parameter" else ""))
        elif isinstance(value, Tensor) and value.requires_grad and value.is_leaf:
            raise DTypeError(f"{type(self).__name__}: {name} is a Tensor that requires a gradient, "
                             "which no optimizer would find; wrap it: Parameter(tensor.data)")
        elif isinstance(value, _CONTAINERS):
            self._check_container(name, value)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self._buffer_names.pop(name, None)

    def __getattr__(self, name: str) -> Any:
        what = type(self).__name__
        if name.startswith("__"):                       # protocols such as copying ask for these
            raise AttributeError(f"{what} has no attribute {name!r}")
        known = [k for k in (*vars(self), *dir(type(self))) if not k.startswith("_")]
        near = difflib.get_close_matches(name, known, n=1)
        cure = CURES["Module"].get(name) or (f"did you mean {near[0]!r}?" if near else "")
        parts = ", ".join(k for k, v in vars(self).items() if isinstance(v, (Module, Parameter)))
        raise AttributeError("; ".join(filter(None, (
            f"{what} has no attribute {name!r}", cure, parts and f"its parts are {parts}"))),
            name=name, obj=self)

    def _check_name(self, name: object) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise SettingError(f"{type(self).__name__}: the name of a part must be a string "
                               f"without dots, which separate the names in a path, got {name!r}")
        own = getattr(type(self), name, None)
        if callable(own) or isinstance(own, property) \
                or name in ("training", "declared", "pytorch_axes", "minima"):
            raise SettingError(f"{type(self).__name__}: {name!r} is a name of Module's own; choose "
                               "another for the part")

    def _check_buffer(self, name: str, value: object) -> None:
        if value is not None and not isinstance(value, np.ndarray):
            raise DTypeError(f"{type(self).__name__}: the buffer {name} must be an ndarray, "
                             f"got {type(value).__name__}")

    def _check_container(self, name: str, value: object) -> None:
        if _holds_parts(value):
            raise SettingError(
                f"{type(self).__name__}: {name} is a {type(value).__name__} of modules or "
                "parameters, which would be neither found nor trained; use nn.ModuleList(...) or "
                "nn.Sequential(...), or one attribute for each")

    # ---- switches

    def train(self, mode: bool = True) -> Self:
        """Switch this module and all its parts to training, or to evaluation."""
        mode = checks.flag(f"{type(self).__name__}.train", "mode", mode)
        for module in self.modules():
            vars(module)["training"] = mode
        return self

    def eval(self) -> Self:
        """Switch this module and all its parts to evaluation."""
        return self.train(False)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set ``grad`` of every parameter to None, or to zeros where there is one."""
        for module in self.modules():
            for _, parameter in module._own_parameters():
                parameter.grad = (None if set_to_none or parameter.grad is None
                                  else Tensor(np.zeros_like(parameter.grad._data)))

    def apply(self, function: Callable[[Module], object]) -> Self:
        """Call a function of one module for every part, and for this module last.

        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU()).apply(lambda part: print(part))
        Linear(2, 2)
        ReLU()
        Sequential(
          (0): Linear(2, 2)
          (1): ReLU()
        )
        """
        for module in self.children():
            module.apply(function)
        function(self)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze (False) or unfreeze (True) every parameter here and below."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def astype(self, dtype: DTypeLike) -> Self:
        """Convert parameters and float buffers, in place, to float32 or float64.

        Gradients are dropped.  Make the optimizer after the conversion: one that has stepped
        refuses parameters of another dtype.

        >>> nn.Linear(2, 3).astype(np.float64).weight.dtype
        dtype('float64')
        """
        chosen = state.float_dtype(f"{type(self).__name__}.astype", dtype)
        for module in self.modules():
            for _, parameter in module._own_parameters():
                parameter._data = parameter._data.astype(chosen)
                parameter.grad = None
            for name, array in module._own_buffers():
                if array.dtype.kind == "f":
                    vars(module)[name] = array.astype(chosen)
            if "dtype" in vars(module):
                vars(module)["dtype"] = chosen
        return self

    def to(self, target: DTypeLike) -> Self:
        """Convert to a dtype, as `astype`; ``"cpu"`` changes nothing, other devices are refused.

        >>> nn.Linear(2, 3).to("cpu").to(np.float64).weight.dtype
        dtype('float64')
        """
        device = target if isinstance(target, str) else getattr(target, "type", None)
        kind = device.partition(":")[0] if isinstance(device, str) else ""
        if kind in _ELSEWHERE:
            raise SettingError(f"{type(self).__name__}.to: the device {str(target)!r} is not "
                               "supported: tinygrad_cnn runs on the CPU only; leave the call out")
        return self if kind == "cpu" else self.astype(target)

    # ---- state

    def state_dict(self) -> dict[str, Array]:
        """Every parameter and persistent buffer under its path, copied.

        A parameter that is shared is listed under each of its paths.  Paths are PyTorch's.

        >>> {k: v.shape for k, v in nn.Sequential(nn.Linear(2, 3)).state_dict().items()}
        {'0.weight': (2, 3), '0.bias': (3,)}
        """
        return {name: array.copy() for name, array in state.slots(self).items()}

    def load_state_dict(self, entries: Mapping[str, TensorLike], *, strict: bool = True
                        ) -> state.LoadReport:
        """Write arrays into parameters and buffers, after checking every one of them.

        A lazy layer takes its size from the arrays.

        Parameters
        ----------
        entries : mapping of str to array
            Such as `state_dict` gives: linear weights I O, filters KH KW C O.  Values are copied.
        strict : bool, default True
            Whether every path must be present and none unknown.

        Returns
        -------
        LoadReport
            The ``missing`` and ``unexpected`` paths; both empty if strict.

        Raises
        ------
        CheckpointError
            If anything does not fit, has values that cannot be, such as a negative variance, or is
            a tensor of PyTorch, whose layouts differ; all is listed, and nothing is written.

        Examples
        --------
        >>> model = nn.Sequential(nn.Linear(2, 3))
        >>> model.load_state_dict({"0.weight": np.zeros((2, 5), np.float32), "bias": np.zeros(3)})
        Traceback (most recent call last):
            ...
        tinygrad_cnn.CheckpointError: Sequential.load_state_dict: the arrays do not fit the model,
        nothing was written
          missing: 0.bias (3,)
          unexpected: bias (3,)
          of another shape: 0.weight is (2, 5), the model needs (2, 3)
        """
        return state.load(self, entries, strict=strict)

    # ---- for layers

    def _is_lazy(self) -> bool:
        return False

    def require_initialized(self, path: str = "") -> None:
        """Raise if this layer has no parameters yet; see `lazy`."""

    def _images(self, x: TensorLike, channels: int | None = None, *, one: bool = True) -> Tensor:
        """Images N H W C, or one H W C, as a tensor; the rest is refused with the likely cure."""
        made = x if isinstance(x, Tensor) else Tensor(x)
        owner, shape = type(self).__name__, made._data.shape
        alone = len(shape) == 3 and channels in (None, shape[-1])
        if len(shape) != 4 and not (one and alone):
            cure = ""
            if alone:
                cure = "\n  cure: for a single image, x[None]"
            elif len(shape) in (2, 3) and channels == 1:
                cure = "\n  cure: for gray images without a channel axis, x[..., None]"
            raise ShapeError(f"{owner}: x must hold images (N H W C), got {len(shape)} axes: "
                             f"{shape}{cure}")
        if channels is not None and shape[-1] != channels:
            swapped = ("\n  cure: these look like N C H W; images here are N H W C: "
                       "x.transpose(0, 2, 3, 1)" if shape[1] == channels else "")
            raise ShapeError(f"{owner}: x has {shape[3]} channels but the layer takes "
                             f"{channels}\n  x (N H W C) = {shape}{swapped}")
        return made

    # ---- text

    def extra_repr(self) -> str:
        """The settings, as the line of this module in the tree shows them."""
        return ""

    def __repr__(self) -> str:
        parts = [(k, v) for k, v in vars(self).items() if isinstance(v, Module)]
        head = type(self).__name__
        if not parts:
            return f"{head}({self.extra_repr()})"
        lines = [f"({name}): {part!r}".replace("\n", "\n  ") for name, part in parts]
        inner = [self.extra_repr(), *lines] if self.extra_repr() else lines
        return "\n  ".join([f"{head}(", *inner]) + "\n)"


class _Ends:
    """The gradients at both ends of one call of a module, for its backward hooks."""

    def __init__(self, module: Module, inputs: tuple[object, ...]) -> None:
        self.module, self.hooks = module, tuple(module._backward_hooks.values())
        self.back: list[Tensor | None] = [None] * len(inputs)
        self.sent: list[Tensor | None] = []
        self.waiting: set[int] = set()
        self.inputs = tuple(self._watched(x, i, self._arrived) for i, x in enumerate(inputs))
        self.wanted = {i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad}

    def _watched(self, x: object, i: int, tell: Callable[[int, Tensor], object]) -> object:
        if not self.hooks or not isinstance(x, Tensor) or not x.requires_grad:
            return x
        return with_hook(x, partial(tell, i))

    def outputs(self, out: object) -> Any:
        several = out if isinstance(out, tuple) else (out,)
        self.sent = [None] * len(several)
        watched = tuple(self._watched(x, i, self._left) for i, x in enumerate(several))
        return watched if isinstance(out, tuple) else watched[0]

    def _left(self, i: int, gradient: Tensor) -> None:
        self.sent[i], self.waiting = gradient, set(self.wanted)
        if not self.wanted:
            self._call()

    def _arrived(self, i: int, gradient: Tensor) -> Tensor | None:
        self.back[i] = gradient
        self.waiting.discard(i)
        return None if self.waiting else self._call()

    def _call(self) -> Tensor | None:
        for hook in self.hooks:
            new = hook(self.module, tuple(self.back), tuple(self.sent))
            if new is None:
                continue
            given = [g for g in (new if isinstance(new, tuple) else (new,)) if g is not None]
            if len(self.wanted) != 1 or len(given) != 1:
                raise GradientError(
                    f"{type(self.module).__name__}: a backward hook gave {len(given)} gradients "
                    f"for {len(self.wanted)} inputs that have one; it can replace one of one")
            self.back[min(self.wanted)] = given[0]
        return self.back[min(self.wanted)] if len(self.wanted) == 1 else None


class Layer(Declared, Module):
    """A module whose settings are declared; see `settings`."""

    __repr__ = Module.__repr__

    def _settings(self) -> Settings:
        """The settings as an op takes them."""
        return {s.alias or name: vars(self)[name] for name, s in self.declared.items()}

    def extra_repr(self) -> str:
        """The settings as a call writes them."""
        return show(self)


class OpLayer(Layer):
    """An op as a layer, called with the settings of the layer; it has the docstring of the op."""

    op: ClassVar[Callable[..., Tensor]]

    def __init_subclass__(cls, **more: object) -> None:
        super().__init_subclass__(**more)
        if cls.__doc__ is None and "op" in vars(cls):
            cls.__doc__ = (f"{(cls.op.__doc__ or '').partition(chr(10) * 2)[0]}\n\n"
                           f"    The settings are those of `tinygrad_cnn.{cls.op.__name__}`.\n    ")


_CONTAINERS = (list, tuple, dict, set, frozenset, deque)


def _holds_parts(value: Any) -> bool:
    """Whether a module or parameter is in a plain container, or in one inside it."""
    values = value.values() if isinstance(value, Mapping) else value
    return any(isinstance(v, (Module, Parameter))
               or (isinstance(v, _CONTAINERS) and _holds_parts(v)) for v in values)


@block
def evaluating(model: Module) -> Iterator[None]:
    """A block in which a module and all its parts are in evaluation mode.

    Afterwards each part has its own mode again, also after an error.

    >>> model = nn.Sequential(nn.BatchNorm1D(2).eval(), nn.Dropout())
    >>> with nn.evaluating(model):
    ...     [part.training for part in model]
    [False, False]
    >>> [part.training for part in model]
    [False, True]
    """
    with _modes_kept(model):
        model.eval()
        yield


@block
def training(model: Module) -> Iterator[None]:
    """A block in which a module trains; parts that are in evaluation while it trains stay so.

    A module that is in evaluation as a whole is switched to training, and back afterwards.
    """
    if model.training:
        yield
        return
    with _modes_kept(model):
        model.train()
        yield


@contextmanager
def _modes_kept(model: Module) -> Iterator[None]:
    held = [vars(module) for module in model.modules()]
    given_back = map(setitem, held, repeat("training"), [v["training"] for v in held])
    try:
        yield
    finally:
        deque(given_back, 0)                    # one call, which no interrupt divides
