"""Modules in a row, and modules or parameters in a list or under names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Generic, Self, TypeVar, overload

from tinygrad_cnn import checks
from tinygrad_cnn.core import Parameter, Tensor, TensorLike
from tinygrad_cnn.errors import DTypeError, SettingError
from tinygrad_cnn.nn.module import Module

__all__ = ["ModuleDict", "ModuleList", "ParameterList", "Sequential"]

T = TypeVar("T")
Held = TypeVar("Held", Module, Parameter)


class _Row(Module, Generic[Held]):
    """Modules (or parameters) by position; the attribute names are ``0``, ``1``, ... or given."""

    _holds: type[Held] = Module                         # type: ignore[assignment]

    def _all(self) -> list[tuple[str, Held]]:
        return _held(self, self._holds)

    def __len__(self) -> int:
        return len(self._all())

    def __bool__(self) -> bool:
        return True                                     # a row without modules is a module still

    def __iter__(self) -> Iterator[Held]:
        return (held for _, held in self._all())

    def _position(self, index: object) -> int:
        i = checks.integer(type(self).__name__, "index", index)
        if not -len(self) <= i < len(self):
            raise IndexError(f"{type(self).__name__}: index {i} of {len(self)} modules")
        return i % len(self)

    def append(self, module: Held) -> Self:
        """Add one at the end; returns the row itself."""
        position = len(self)
        while str(position) in vars(self):
            position += 1
        self.register_module(str(position), module)     # type: ignore[arg-type]
        return self

    def extend(self, modules: Iterable[Held]) -> Self:
        """Add several at the end."""
        for module in modules:
            self.append(module)
        return self

    def __setitem__(self, index: int, module: Held) -> None:
        name = self._all()[self._position(index)][0]
        self.register_module(name, module)              # type: ignore[arg-type]


class Sequential(_Row[Module]):
    """Modules that run one after another: each takes what the one before it gives.

    Parameters
    ----------
    *modules : Module, or one mapping of str to Module
        Without names they are called ``0``, ``1``, ...

    Examples
    --------
    >>> model = Sequential(Conv2D(1, 4, 3), ReLU(), MaxPool2D(2), Flatten(), Linear(None, 10))
    >>> model(np.zeros((2, 8, 8, 1), np.float32)).shape
    (2, 10)
    >>> model[-1]
    Linear(36, 10)
    >>> model[:2]
    Sequential(
      (0): Conv2D(1, 4, kernel_size=3)
      (1): ReLU()
    )
    >>> Sequential({"conv": Conv2D(1, 4, 3), "act": ReLU()}).conv.bias.shape
    (4,)
    """

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self.register_module(name, module)
            return
        for position, given in enumerate(modules):
            if isinstance(given, (list, tuple)):
                raise SettingError("Sequential: give the modules one by one, not in a "
                                   f"{type(given).__name__}: Sequential(*modules)")
            self.register_module(str(position), given)  # type: ignore[arg-type]

    @overload
    def __getitem__(self, index: int | str) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...

    def __getitem__(self, index: int | str | slice) -> Module:
        every = self._all()
        if isinstance(index, slice):
            return Sequential(dict(every[index]))
        if isinstance(index, str):
            return _named(self, index)
        return every[self._position(index)][1]

    def forward(self, x: TensorLike) -> Tensor:
        """Each module in turn."""
        for module in tuple(vars(self).values()):
            if isinstance(module, Module):
                x = module(x)
        return x                                        # type: ignore[return-value]


class ModuleList(_Row[Module]):
    """Modules in a list whose parameters are found; ``forward`` is up to whoever holds it.

    Parameters
    ----------
    modules : iterable of Module, optional

    Examples
    --------
    >>> blocks = ModuleList([Linear(4, 4), Linear(4, 2)])
    >>> [name for name, _ in blocks.named_parameters()]
    ['0.weight', '0.bias', '1.weight', '1.bias']
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> ModuleList: ...

    def __getitem__(self, index: int | slice) -> Module:
        every = [module for _, module in self._all()]
        if isinstance(index, slice):
            return ModuleList(every[index])
        return every[self._position(index)]


class ParameterList(_Row[Parameter]):
    """Parameters in a list, found by the module that holds it.

    Parameters
    ----------
    values : iterable of Parameter, optional

    Examples
    --------
    >>> scales = ParameterList(Parameter(np.ones(n)) for n in (2, 3))
    >>> scales[1].shape, [name for name, _ in scales.named_parameters()]
    ((3,), ['0', '1'])
    """

    _holds = Parameter

    def __init__(self, values: Iterable[Parameter] = ()) -> None:
        super().__init__()
        self.extend(values)

    def register_module(self, name: str, module: object) -> None:
        """Take in a parameter, for a list holds nothing else."""
        if not isinstance(module, Parameter):
            raise DTypeError(f"ParameterList: {name!r} must be a Parameter, got {module!r}")
        setattr(self, name, module)

    def __getitem__(self, index: int) -> Parameter:
        return self._all()[self._position(index)][1]


class ModuleDict(Module, MutableMapping[str, Module]):
    """Modules under names, found by the module that holds it; ``forward`` is up to that one.

    Parameters
    ----------
    modules : mapping of str to Module, optional

    Examples
    --------
    >>> heads = ModuleDict({"digit": Linear(4, 10)})
    >>> heads["color"] = Linear(4, 3)
    >>> {name: head.out_features for name, head in heads.items()}, "size" in heads
    ({'digit': 10, 'color': 3}, False)
    """

    __eq__, __hash__ = object.__eq__, object.__hash__   # a module is equal to itself alone

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def __getitem__(self, name: str) -> Module:
        return _named(self, name)

    def __setitem__(self, name: str, module: Module) -> None:
        self.register_module(name, module)

    def __delitem__(self, name: str) -> None:
        _named(self, name)
        delattr(self, name)

    def __contains__(self, name: object) -> bool:
        return isinstance(vars(self).get(str(name)), Module)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in _held(self, Module))

    def __len__(self) -> int:
        return len(_held(self, Module))

    def __bool__(self) -> bool:
        return True


def _held(row: Module, kind: type[T]) -> list[tuple[str, T]]:
    # Unlike named_children, which gives a part with two names once.
    return [(k, v) for k, v in vars(row).items() if isinstance(v, kind)]


def _named(held_by: Module, name: str) -> Module:
    every = dict(_held(held_by, Module))
    if name not in every:
        raise SettingError(f"{type(held_by).__name__}: no module {name!r}; choose from "
                           f"{', '.join(every) or 'none yet'}")
    return every[name]
