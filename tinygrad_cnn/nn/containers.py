"""Modules in a row, and modules in a list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, overload

from tinygrad_cnn import checks
from tinygrad_cnn.errors import SettingError
from tinygrad_cnn.nn.module import Module

__all__ = ["ModuleList", "Sequential"]


class _Row(Module):
    """Modules by position; the attribute names are ``0``, ``1``, ... or given."""

    def _all(self) -> list[tuple[str, Module]]:
        # Unlike named_children, which gives a part with two names once.
        return [(k, v) for k, v in vars(self).items() if isinstance(v, Module)]

    def __len__(self) -> int:
        return len(self._all())

    def __bool__(self) -> bool:
        return True                                     # a row without modules is a module still

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self._all())

    def _position(self, index: Any) -> int:
        i = checks.integer(type(self).__name__, "index", index)
        if not -len(self) <= i < len(self):
            raise IndexError(f"{type(self).__name__}: index {i} of {len(self)} modules")
        return i % len(self)

    def append(self, module: Module) -> Self:
        """Add a module at the end; returns the row itself."""
        taken = vars(self)
        position = len(self)
        while str(position) in taken:
            position += 1
        self.register_module(str(position), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add several modules at the end."""
        for module in modules:
            self.append(module)
        return self

    def __setitem__(self, index: int, module: Module) -> None:
        self.register_module(self._all()[self._position(index)][0], module)


class Sequential(_Row):
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
            if index not in dict(every):
                raise SettingError(f"Sequential: no module {index!r}; "
                                   f"choose from {', '.join(k for k, _ in every)}")
            return dict(every)[index]
        return every[self._position(index)][1]

    def forward(self, x: Any) -> Any:
        """Each module in turn."""
        for module in tuple(vars(self).values()):
            if isinstance(module, Module):
                x = module(x)
        return x


class ModuleList(_Row):
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
