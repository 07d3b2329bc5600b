"""What every optimizer shares: parameter groups, settings, state, steps in place, and saving.

An optimizer is a rule over plain arrays (``update``), with its settings and state declared;
this file checks, walks the parameters, decays, prints and saves.  Large parameters are cut into
blocks that stay in the cache while the rule passes over them several times; buffers are made once.
Gradients are only read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, TypeVar, overload

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.core import Parameter, Tensor, writable
from tinygrad_cnn.errors import CheckpointError, DTypeError, GradientError, SettingError
from tinygrad_cnn.settings import Declared, setting
from tinygrad_cnn.types import Array, DType, Settings

__all__ = ["Optimizer"]

T = TypeVar("T")
Group = Settings                                  # settings by name, and "params"
State = Settings                                  # numbers and arrays by name, nested
Params = Iterable[Tensor] | Iterable[Settings]
Check = Callable[[str, str, object], float]                # owner, name, value -> value in one form

_BLOCK = 32_768                                         # entries: 128 kB of float32, a few to an L2

non_negative: Check = partial(checks.number, minimum=0)
fraction: Check = partial(checks.number, minimum=0, below=1)


def fractions(owner: str, name: str, value: object) -> tuple[float, float]:
    """Two numbers from 0 up to, not including, 1."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise SettingError(f"{owner}: {name} must be two numbers, got {value!r}")
    return fraction(owner, name, value[0]), fraction(owner, name, value[1])


def _as_given(owner: str, name: str, value: Params) -> Params:
    return value                                        # a group checks its parameters


class _OfGroups:
    """A setting as an attribute: read from the first group, written into every group."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, made: Optimizer | None, owner: type[Optimizer]) -> object:
        if made is None:
            raise AttributeError(f"type {owner.__name__} has no {self.name}; an optimizer has")
        return made.param_groups[0][self.name]

    def __set__(self, made: Optimizer, value: object) -> None:
        checked = [{**group, self.name: value} for group in made.param_groups]
        for group in checked:
            made.check(group)
        for group, new in zip(made.param_groups, checked, strict=True):
            group[self.name] = new[self.name]


class Optimizer(Declared):
    """Base of the optimizers: parameter groups, and the state of each parameter.

    A subclass declares settings and ``state_arrays``, and defines `update`.

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        Leaves that require a gradient, such as ``model.parameters()``; or groups, each a dictionary
        with the key ``"params"`` and settings of its own, such as ``"lr"``.
    lr : float, default 1e-3
        Step size.
    maximize : bool, default False
        Go up instead of down.

    Attributes
    ----------
    param_groups : list of dict
        Each with ``"params"`` and every setting; settings may be changed between steps, which is
        what schedules do.  Every setting is an attribute too: ``optimizer.lr = 0.1`` sets it in
        every group.

    Raises
    ------
    SettingError
        If there are no parameters, one is given twice, a setting is unknown or out of its range.
    GradientError
        If a tensor is not a leaf, or does not require a gradient.  (A frozen `Parameter` is
        accepted, and not moved until it is unfrozen.)
    DTypeError
        If something is not a tensor of float32 or float64.
    """

    params: Params = setting(_as_given)
    lr: float = setting(non_negative, default=1e-3)
    maximize: bool = setting(checks.flag, default=False, kw_only=True)

    #: The arrays kept for each parameter, zeros at first -> the setting that asks for it, if any.
    state_arrays: ClassVar[dict[str, str | None]] = {}
    #: The numbers kept for each parameter -> the first value.
    state_numbers: ClassVar[dict[str, float]] = {"step": 0}
    #: Whether ``weight_decay`` shrinks the weights themselves, or is added to the gradient.
    decoupled_decay: ClassVar[bool] = False
    _names_of_settings: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **more: object) -> None:
        super().__init_subclass__(**more)
        cls._names_of_settings = tuple(name for name in cls.declared if name != "params")
        for name in cls._names_of_settings:
            setattr(cls, name, _OfGroups(name))

    def _keep(self, settings: Group) -> None:
        given = _listed(self._owner, settings.pop("params"))
        self.defaults = settings
        self.param_groups: list[Group] = []
        self._state: dict[int, Settings] = {}     # position -> arrays and numbers
        self._buffers: dict[DType, tuple[Array, Array]] = {}
        for group in given if given and isinstance(given[0], Mapping) else [{"params": given}]:
            self.add_param_group(group)

    # ---- for subclasses

    def check(self, group: Group) -> None:
        """Refuse settings that are out of their range, and bring them into one form."""
        for name in self._names_of_settings:
            group[name] = self.declared[name].checked(self, name, group[name])

    def advance(self, state: State, group: Group) -> None:
        """Bring the numbers in the state of a parameter up to date, before it is moved."""
        state["step"] += 1

    def update(self, w: Array, g: Array, state: State, s: Array, group: Group) -> None:
        """Move ``w``, a flat piece of a parameter, in place; its gradient ``g`` is only read.

        ``state`` has the pieces of the arrays, and the numbers, such as the ``"step"``, which
        counts from 1; ``s`` is a buffer of the same size.
        """
        raise NotImplementedError

    # ---- groups

    @property
    def _owner(self) -> str:
        return type(self).__name__

    @property
    def parameters(self) -> list[Tensor]:
        """Every parameter, in the order of the groups."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def add_param_group(self, group: Group) -> None:
        """Add parameters under ``"params"``, with settings of their own.

        >>> w, b = Parameter([1.0]), Parameter([1.0])
        >>> optimizer = SGD([{"params": [w], "weight_decay": 1e-4}, {"params": [b]}], 0.1)
        >>> [group["weight_decay"] for group in optimizer.param_groups]
        [0.0001, 0.0]
        """
        owner = self._owner
        if not isinstance(group, Mapping) or "params" not in group:
            hint = '; the key is "params"' if isinstance(group, Mapping) else ""
            raise SettingError(f"{owner}: a group must be a dictionary with the key \"params\", "
                               f"got {_brief(group)}{hint}")
        unknown = set(group) - set(self.declared)
        if unknown:
            raise SettingError(f"{owner}: a group has the unknown settings {sorted(unknown)}; "
                               f"choose from {', '.join(self._names_of_settings)}")
        several = _listed(owner, group["params"])
        _check_parameters(owner, several, self.parameters)
        made = {**self.defaults, **group, "params": several}
        self.check(made)
        self.param_groups.append(made)

    # ---- steps

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set ``grad`` of every parameter to None, or to zeros where there is one."""
        for parameter in self.parameters:
            parameter.grad = (None if set_to_none or parameter.grad is None
                              else Tensor(np.zeros_like(parameter.grad._data)))

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], T]) -> T: ...
    def step(self, closure: Callable[[], T] | None = None) -> T | None:
        """Move every parameter that has a gradient, in place.

        A ``closure`` is called first: it clears the gradients, computes the loss, calls its
        ``backward()`` and gives it back, and so does ``step``.

        A gradient that holds NaN or infinity is used as it is; `clip_grad_norm_` refuses one.

        A gradient of another shape or dtype than its parameter, or a parameter that has changed
        its own since the first step, is a `GradientError`, and a setting in ``param_groups`` that
        the constructor would refuse a `SettingError`; no parameter is moved then.
        """
        loss = None if closure is None else closure()
        for group in self.param_groups:
            self.check(group)
        for position, parameter, names, group in list(self._moving()):  # checked before any moves
            assert parameter.grad is not None
            state = self._state.setdefault(position, dict(self.state_numbers))
            w = writable(parameter)
            for name in names:
                if name not in state:
                    state[name] = np.zeros(w.shape, w.dtype)
            self.advance(state, group)
            numbers = {name: state[name] for name in self.state_numbers}
            buffer, changed = self._buffers_for(w.dtype)
            decay = group.get("weight_decay", 0.0)
            decoupled = group.get("decoupled_weight_decay", self.decoupled_decay)
            for w_block, g, *held in _blocks(w, parameter.grad._data, [state[k] for k in names]):
                n = w_block.size
                if group["maximize"]:
                    g = np.negative(g, out=changed[:n])
                if decay and decoupled:
                    w_block *= 1 - group["lr"] * decay
                elif decay:
                    g = np.add(np.multiply(w_block, decay, out=buffer[:n]), g, out=changed[:n])
                self.update(w_block, g, numbers | dict(zip(names, held, strict=True)), buffer[:n],
                            group)
        return loss

    def _names(self, group: Group) -> list[str]:
        """The state arrays that a parameter of this group needs."""
        return [name for name, setting in self.state_arrays.items()
                if setting is None or group[setting]]

    def _moving(self) -> Iterator[tuple[int, Tensor, list[str], Group]]:
        """Position, parameter, arrays and group of each that has a gradient, which fits."""
        position = -1
        for group in self.param_groups:
            names = self._names(group)
            for parameter in group["params"]:
                position += 1
                if parameter.grad is None or not parameter.requires_grad:
                    continue
                w, g, state = parameter._data, parameter.grad._data, self._state.get(position, {})
                if g.shape != w.shape or g.dtype != w.dtype:
                    raise GradientError(f"{self._owner}: {self._name(position)} is {w.dtype} "
                                        f"{w.shape} but its gradient {g.dtype} {g.shape}")
                for held in (state[name] for name in names if name in state):
                    if held.shape != w.shape or held.dtype != w.dtype:
                        raise GradientError(
                            f"{self._owner}: {self._name(position)} is {w.dtype} {w.shape}, but "
                            f"was {held.dtype} {held.shape} at its first step; make a new "
                            "optimizer after changing a model")
                yield position, parameter, names, group

    def _buffers_for(self, dtype: DType) -> tuple[Array, Array]:
        if dtype not in self._buffers:
            self._buffers[dtype] = np.empty(_BLOCK, dtype), np.empty(_BLOCK, dtype)
        return self._buffers[dtype]

    def _name(self, position: int) -> str:
        name = self.parameters[position].name
        return f"parameter {position}" + (f" ({name})" if name else "")

    # ---- saving

    def state_dict(self) -> State:
        """Everything needed to go on as if the run had not stopped, copied.

        ``"algorithm"``: the name of the class; ``"param_groups"``: position -> settings, with
        ``"params"`` the number of them; ``"state"``: position of a parameter -> ``"step"``, other
        numbers and arrays.  Positions are strings, as JSON and array files need.

        >>> SGD([Parameter([1.0])], 0.1).state_dict()["param_groups"]["0"]["lr"]
        0.1
        """
        groups = {str(i): {k: (len(v) if k == "params" else v) for k, v in group.items()}
                  for i, group in enumerate(self.param_groups)}
        state = {str(i): {k: (v.copy() if isinstance(v, np.ndarray) else v)
                          for k, v in self._state[i].items()} for i in sorted(self._state)}
        return {"algorithm": self._owner, "param_groups": groups, "state": state}

    def load_state_dict(self, entries: State) -> None:
        """Take over what `state_dict` of the same class gave, copied.

        If anything does not fit, there is a `CheckpointError` and nothing is changed.
        """
        owner = f"{self._owner}.load_state_dict"
        try:
            groups = self._read_groups(owner, entries)
            state = self._read_state(owner, entries, groups)
        except (KeyError, TypeError, AttributeError, SettingError) as error:
            raise CheckpointError(f"{owner}: the state is damaged or was not made by "
                                  f"{self._owner}.state_dict ({error})") from None
        for group, settings in zip(self.param_groups, groups, strict=True):
            group.update(settings)
        self._state = state

    def _read_groups(self, owner: str, entries: State) -> list[Group]:
        if entries["algorithm"] != self._owner:
            raise CheckpointError(f"{owner}: the state is of {entries['algorithm']}, not of "
                                  f"{self._owner}")
        saved = entries["param_groups"]
        counts = [int(saved[str(i)]["params"]) for i in range(len(saved))]
        own = [len(group["params"]) for group in self.param_groups]
        if counts != own:
            raise CheckpointError(f"{owner}: the state has groups of {counts} parameters, the "
                                  f"optimizer of {own}")
        settings = []
        for i, group in enumerate(self.param_groups):
            found = {k: v for k, v in saved[str(i)].items() if k != "params"}
            if set(found) != set(self._names_of_settings):
                raise CheckpointError(f"{owner}: group {i} has the settings {sorted(found)}, "
                                      f"expected {sorted(self._names_of_settings)}")
            checked = {**group, **found}
            self.check(checked)
            settings.append({k: checked[k] for k in found})
        return settings

    def _read_state(self, owner: str, entries: State, groups: list[Group]
                    ) -> dict[int, Settings]:
        parameters = self.parameters
        needed = [self._names(settings) for group, settings in
                  zip(self.param_groups, groups, strict=True) for _ in group["params"]]
        result: dict[int, Settings] = {}
        for key, saved in entries["state"].items():
            position = int(key) if str(key).isdecimal() else -1
            if not 0 <= position < len(parameters):
                raise CheckpointError(f"{owner}: the state names parameter {key!r} of "
                                      f"{len(parameters)}")
            data = parameters[position]._data
            step = checks.integer(owner, f"the step of {self._name(position)}", saved["step"],
                                  minimum=0)
            if missing := set(needed[position]) - set(saved):
                raise CheckpointError(f"{owner}: the state of {self._name(position)} lacks "
                                      f"{', '.join(sorted(missing))}")
            own: Settings = {name: checks.number(owner, name, saved[name])
                                   for name in self.state_numbers} | {"step": step}
            for name in set(saved) - set(self.state_numbers):
                array = np.asarray(saved[name])
                if array.shape != data.shape or array.dtype != data.dtype:
                    raise CheckpointError(
                        f"{owner}: {name} of {self._name(position)} is {array.dtype} "
                        f"{array.shape}, the parameter is {data.dtype} {data.shape}")
                own[name] = array.copy()
            result[position] = own
        return result

    def __repr__(self) -> str:
        lines = []
        for group in self.param_groups:
            settings = ", ".join(f"{k}={group[k]}" for k in self._names_of_settings
                                 if k == "lr" or group[k] != self.declared[k].default)
            count = len(group["params"])
            lines.append(f"{count} parameter{'s' * (count != 1)}: {settings}")
        return f"{self._owner}({lines[0]})" if len(lines) == 1 else "\n  ".join(
            [f"{self._owner}(", *lines]) + "\n)"


def _listed(owner: str, params: object) -> list[Any]:
    """The iterable as a list that is not empty."""
    if isinstance(params, Tensor) or not isinstance(params, Iterable):
        hint = (f"{owner}([tensor], ...)" if isinstance(params, Tensor)
                else f"{owner}(model.parameters(), ...)")
        raise SettingError(f"{owner}: params must be an iterable of tensors or of groups, got "
                           f"{_brief(params)}; write {hint}")
    several = list(params)
    if not several:
        raise SettingError(f"{owner}: no parameters were given; a generator such as "
                           "model.parameters() can be read once only")
    return several


def _check_parameters(owner: str, several: list[Any], known: list[Tensor]) -> None:
    seen = {id(parameter) for parameter in known}
    for i, parameter in enumerate(several):
        if not isinstance(parameter, Tensor):
            raise DTypeError(f"{owner}: parameter {i} must be a Tensor, got {_brief(parameter)}")
        name = f"parameter {i}" + (f" ({parameter.name})" if parameter.name else "")
        if id(parameter) in seen:
            raise SettingError(f"{owner}: {name} of shape {parameter.shape} is given twice; it "
                               "would be moved twice in each step")
        seen.add(id(parameter))
        if not parameter.is_leaf:
            raise GradientError(f"{owner}: {name} is the result of a computation, not a leaf; only "
                                "leaves collect gradients")
        if parameter.dtype.kind != "f":
            raise DTypeError(f"{owner}: {name} is {parameter.dtype}, which is not differentiable; "
                             "use float32 or float64")
        if not parameter.requires_grad and not isinstance(parameter, Parameter):
            raise GradientError(f"{owner}: {name} does not require a gradient, so it would never "
                                "move; make it a Parameter, or pass requires_grad=True")


def _blocks(w: Array, g: Array, state: list[Array]) -> Iterator[list[Array]]:
    """Matching pieces of the arrays: flat views that fit in the cache."""
    if not w.flags.c_contiguous:                        # a view into another array: row by row
        for i in range(len(w)):
            row: int | slice = i if w.ndim > 1 else slice(i, i + 1)
            yield from _blocks(w[row], g[row], [array[row] for array in state])
        return
    flat = [array.reshape(-1) for array in (w, g, *state)]
    for start in range(0, w.size, _BLOCK):
        yield [array[start:start + _BLOCK] for array in flat]


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 and "\n" not in text else type(value).__name__
