"""What every optimiser shares: parameter groups, state, steps in place, and saving.

An optimiser is a rule over plain arrays (``update``); this file walks the parameters.  Large ones
are cut into blocks that stay in the cache while the rule passes over them several times; scratch
arrays are made once.  Gradients are only read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tinygrad_cnn.errors import CheckpointError, DTypeError, GradientError, SettingError
from tinygrad_cnn.tensor import Parameter, Tensor, writable

__all__ = ["Optimizer", "coefficient", "fractions"]

Array = NDArray[Any]
Group = dict[str, Any]

_BLOCK = 32_768                                         # entries: 128 kB of float32, a few to an L2


def coefficient(who: str, setting: str, value: Any) -> float:
    """A finite number of at least 0."""
    good = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if good and 0 <= value < math.inf:
        return float(value)
    raise SettingError(f"{who}: {setting} must be a finite number of at least 0, got {value!r}")


def fractions(who: str, setting: str, value: Any) -> float:
    """A number from 0 up to, not including, 1: the share of the past in a running average."""
    if coefficient(who, setting, value) < 1:
        return float(value)
    raise SettingError(f"{who}: {setting} must be from 0 up to, not including, 1, got {value!r}")


class Optimizer:
    """Base of the optimisers: parameter groups, and the state of each parameter.

    Parameters
    ----------
    parameters : iterable of Tensor, or of dict
        Leaves that require a gradient, such as ``model.parameters()``; or groups, each a dictionary
        with the key ``"parameters"`` and settings of its own, such as ``"lr"``.
    settings : dict
        For the groups that do not say otherwise.

    Attributes
    ----------
    groups : list of dict
        Each with ``"parameters"`` and every setting; settings may be changed between steps, which
        is what schedules do.

    Raises
    ------
    SettingError
        If there are no parameters, one is given twice, a setting is unknown or out of its range.
    GradientError
        If a tensor is not a leaf, or does not require a gradient.  (A `Parameter` that is frozen
        for now is taken, and left alone until it is thawed.)
    DTypeError
        If something is not a tensor of float32 or float64.
    """

    #: How many arrays `update` may write intermediate values to.
    scratch: ClassVar[int] = 1

    def __init__(self, parameters: Iterable[Any], settings: Mapping[str, Any]) -> None:
        self._settings = dict(settings)
        self.groups: list[Group] = []
        self._state: dict[int, dict[str, Any]] = {}     # position -> arrays, and the count of steps
        self._scratch: dict[np.dtype[Any], tuple[Array, ...]] = {}
        given = _listed(self._who, parameters)
        for group in given if given and isinstance(given[0], Mapping) else [{"parameters": given}]:
            self.add_group(group)

    # ---- for subclasses

    def check(self, group: Group) -> None:
        """Refuse settings that are out of their range, and bring them into one form."""
        raise NotImplementedError

    def arrays(self, group: Group) -> dict[str, float]:
        """The state arrays that a parameter of this group needs: name -> first value."""
        raise NotImplementedError

    def update(self, w: Array, g: Array, state: list[Array], scratch: tuple[Array, ...],
               group: Group, step: int) -> None:
        """Move ``w``, a flat piece of a parameter, in place; its gradient ``g`` is only read."""
        raise NotImplementedError

    # ---- groups

    @property
    def _who(self) -> str:
        return type(self).__name__

    @property
    def parameters(self) -> list[Tensor]:
        """Every parameter, in the order of the groups."""
        return [parameter for group in self.groups for parameter in group["parameters"]]

    @property
    def lr(self) -> float:
        """The learning rate of the first group."""
        return float(self.groups[0]["lr"])

    def add_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with settings of their own.

        Parameters
        ----------
        group : mapping
            ``"parameters"``, and any setting of the optimiser.

        Raises
        ------
        SettingError, GradientError, DTypeError
            As the optimiser itself.

        Examples
        --------
        >>> from tinygrad_cnn import Parameter
        >>> from tinygrad_cnn.optim import SGD
        >>> w, b = Parameter([1.0]), Parameter([1.0])
        >>> optimizer = SGD([{"parameters": [w], "weight_decay": 1e-4}, {"parameters": [b]}], 0.1)
        >>> [group["weight_decay"] for group in optimizer.groups]
        [0.0001, 0.0]
        """
        who = self._who
        if not isinstance(group, Mapping) or "parameters" not in group:
            hint = '; the key is "parameters"' if isinstance(group, Mapping) else ""
            raise SettingError(f"{who}: a group must be a dictionary with the key \"parameters\", "
                               f"got {_brief(group)}{hint}")
        unknown = set(group) - set(self._settings) - {"parameters"}
        if unknown:
            raise SettingError(f"{who}: a group has the unknown settings {sorted(unknown)}; choose "
                               f"from {', '.join(self._settings)}")
        several = _listed(who, group["parameters"])
        _check_parameters(who, several, self.parameters)
        made = {**self._settings, **group, "parameters": several}
        self.check(made)
        self.groups.append(made)

    # ---- steps

    def zero_grad(self) -> None:
        """Set ``grad`` of every parameter to None."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Move every parameter that has a gradient, in place.

        A gradient that holds NaN or infinity is used as it is; `clip_norm` before the step refuses
        one.

        Raises
        ------
        GradientError
            If a gradient has another shape or dtype than its parameter, or a parameter has changed
            its shape or dtype since the first step.
        """
        position = -1
        for group in self.groups:
            names = self.arrays(group)
            for parameter in group["parameters"]:
                position += 1
                if parameter.grad is None or not parameter.requires_grad:
                    continue
                w, g = writable(parameter), parameter.grad._data
                if g.shape != w.shape or g.dtype != w.dtype:
                    raise GradientError(f"{self._who}: {self._name(position)} is {w.dtype} "
                                        f"{w.shape} but its gradient {g.dtype} {g.shape}")
                state = self._state_of(position, w, names)
                state["step"] += 1
                held = [state[name] for name in names]
                scratch = self._scratch_for(w.dtype)
                for block in _blocks(w, g, held):
                    n = block[0].size
                    self.update(block[0], block[1], block[2:], tuple(s[:n] for s in scratch),
                                group, state["step"])

    def _state_of(self, position: int, w: Array, names: Mapping[str, float]) -> dict[str, Any]:
        state = self._state.setdefault(position, {"step": 0})
        for name, first in names.items():
            held = state.get(name)
            if held is None:
                state[name] = np.full(w.shape, first, w.dtype)
            elif held.shape != w.shape or held.dtype != w.dtype:
                raise GradientError(
                    f"{self._who}: {self._name(position)} is {w.dtype} {w.shape}, but was "
                    f"{held.dtype} {held.shape} at its first step; make a new optimiser after "
                    "changing a model")
        return state

    def _scratch_for(self, dtype: np.dtype[Any]) -> tuple[Array, ...]:
        if dtype not in self._scratch:
            self._scratch[dtype] = tuple(np.empty(_BLOCK, dtype) for _ in range(self.scratch))
        return self._scratch[dtype]

    def _name(self, position: int) -> str:
        name = self.parameters[position].name
        return f"parameter {position}" + (f" ({name})" if name else "")

    # ---- saving

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on as if the run had not stopped, copied.

        Returns
        -------
        dict
            ``"algorithm"``: the name of the class; ``"groups"``: position -> settings, with
            ``"parameters"`` the number of them; ``"state"``: position of a parameter -> ``"step"``
            and arrays.  Positions are strings, so that the whole fits into JSON and array files.

        Examples
        --------
        >>> from tinygrad_cnn import Parameter
        >>> from tinygrad_cnn.optim import SGD
        >>> SGD([Parameter([1.0])], 0.1).state_dict()["groups"]["0"]["lr"]
        0.1
        """
        groups = {str(i): {k: (len(v) if k == "parameters" else v) for k, v in group.items()}
                  for i, group in enumerate(self.groups)}
        state = {str(i): {k: (v.copy() if isinstance(v, np.ndarray) else v)
                          for k, v in self._state[i].items()} for i in sorted(self._state)}
        return {"algorithm": self._who, "groups": groups, "state": state}

    def load_state_dict(self, entries: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, after checking all of it; values are copied.

        Parameters
        ----------
        entries : mapping
            Of an optimiser of the same class, whose groups hold as many parameters.

        Raises
        ------
        CheckpointError
            If anything does not fit; nothing is changed then.
        """
        who = f"{self._who}.load_state_dict"
        try:
            groups, state = self._read_groups(who, entries), self._read_state(who, entries)
        except (KeyError, TypeError, AttributeError, SettingError) as error:
            raise CheckpointError(f"{who}: the state is damaged or was not made by "
                                  f"{self._who}.state_dict ({error})") from error
        for group, settings in zip(self.groups, groups, strict=True):
            group.update(settings)
        self._state = state

    def _read_groups(self, who: str, entries: Mapping[str, Any]) -> list[Group]:
        if entries["algorithm"] != self._who:
            raise CheckpointError(f"{who}: the state is of {entries['algorithm']}, not of "
                                  f"{self._who}")
        saved = entries["groups"]
        counts = [int(saved[str(i)]["parameters"]) for i in range(len(saved))]
        own = [len(group["parameters"]) for group in self.groups]
        if counts != own:
            raise CheckpointError(f"{who}: the state has groups of {counts} parameters, the "
                                  f"optimiser of {own}")
        settings = []
        for i, group in enumerate(self.groups):
            found = {k: v for k, v in saved[str(i)].items() if k != "parameters"}
            if set(found) != set(self._settings):
                raise CheckpointError(f"{who}: group {i} has the settings {sorted(found)}, "
                                      f"expected {sorted(self._settings)}")
            checked = {**group, **found}
            self.check(checked)
            settings.append({k: checked[k] for k in found})
        return settings

    def _read_state(self, who: str, entries: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
        parameters = self.parameters
        needed = [self.arrays({**group, **settings})
                  for group, settings in zip(self.groups, self._read_groups(who, entries),
                                             strict=True) for _ in group["parameters"]]
        result: dict[int, dict[str, Any]] = {}
        for key, saved in entries["state"].items():
            position = int(key) if str(key).isdecimal() else -1
            if not 0 <= position < len(parameters):
                raise CheckpointError(f"{who}: the state names parameter {key!r} of "
                                      f"{len(parameters)}")
            data = parameters[position]._data
            step = saved["step"]
            if isinstance(step, bool) or not isinstance(step, (int, np.integer)) or step < 0:
                raise CheckpointError(f"{who}: the step of {self._name(position)} must be an "
                                      f"integer of at least 0, got {step!r}")
            if missing := set(needed[position]) - set(saved):
                raise CheckpointError(f"{who}: the state of {self._name(position)} lacks "
                                      f"{', '.join(sorted(missing))}")
            own: dict[str, Any] = {"step": int(step)}
            for name in set(saved) - {"step"}:
                array = np.asarray(saved[name])
                if array.shape != data.shape or array.dtype != data.dtype:
                    raise CheckpointError(
                        f"{who}: {name} of {self._name(position)} is {array.dtype} {array.shape}, "
                        f"the parameter is {data.dtype} {data.shape}")
                own[name] = array.copy()
            result[position] = own
        return result

    def __repr__(self) -> str:
        lines = []
        for group in self.groups:
            settings = ", ".join(f"{k}={v}" for k, v in group.items() if k != "parameters")
            count = len(group["parameters"])
            lines.append(f"{count} parameter{'s' * (count != 1)}: {settings}")
        return f"{self._who}({lines[0]})" if len(lines) == 1 else "\n  ".join(
            [f"{self._who}(", *lines]) + "\n)"


def _listed(who: str, parameters: Any) -> list[Any]:
    """The iterable as a list that is not empty."""
    if isinstance(parameters, Tensor) or not isinstance(parameters, Iterable):
        hint = (f"{who}([tensor], ...)" if isinstance(parameters, Tensor)
                else f"{who}(model.parameters(), ...)")
        raise SettingError(f"{who}: parameters must be an iterable of tensors or of groups, got "
                           f"{_brief(parameters)}; write {hint}")
    several = list(parameters)
    if not several:
        raise SettingError(f"{who}: no parameters were given; a generator such as "
                           "model.parameters() can be read once only")
    return several


def _check_parameters(who: str, several: list[Any], known: list[Tensor]) -> None:
    seen = {id(parameter) for parameter in known}
    for i, parameter in enumerate(several):
        if not isinstance(parameter, Tensor):
            raise DTypeError(f"{who}: parameter {i} must be a Tensor, got {_brief(parameter)}")
        name = f"parameter {i}" + (f" ({parameter.name})" if parameter.name else "")
        if id(parameter) in seen:
            raise SettingError(f"{who}: {name} of shape {parameter.shape} is given twice; it would "
                               "be moved twice in each step")
        seen.add(id(parameter))
        if not parameter.is_leaf:
            raise GradientError(f"{who}: {name} is the result of a computation, not a leaf; only "
                                "leaves collect gradients")
        if parameter.dtype.kind != "f":
            raise DTypeError(f"{who}: {name} is {parameter.dtype}, which carries no gradient; use "
                             "float32 or float64")
        if not parameter.requires_grad and not isinstance(parameter, Parameter):
            raise GradientError(f"{who}: {name} does not require a gradient, so it would never "
                                "move; make it a Parameter, or pass requires_grad=True")


def _blocks(w: Array, g: Array, state: list[Array]) -> Iterator[list[Array]]:
    """Matching pieces of the arrays: flat views that fit in the cache."""
    if not w.flags.c_contiguous:                        # a view into another array: row by row
        for i in range(len(w)):
            row: Any = i if w.ndim > 1 else slice(i, i + 1)
            yield from _blocks(w[row], g[row], [array[row] for array in state])
        return
    flat = [array.reshape(-1) for array in (w, g, *state)]
    for start in range(0, w.size, _BLOCK):
        yield [array[start:start + _BLOCK] for array in flat]


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 and "\n" not in text else type(value).__name__
