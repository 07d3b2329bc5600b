"""Settings of layers, optimizers and schedules, declared once in the body of their class.

>>> from tinygrad_cnn.checks import number
>>> class Scale(Declared):
...     factor: float = setting(number, minimum=0)
...     offset: float = setting(number, default=0.0)
>>> made = Scale(2, offset=1)
>>> made.factor, made
(2.0, Scale(2.0, offset=1.0))

The class gets an ``__init__`` that takes, checks and keeps them; type checkers read it off the
annotations, as for a dataclass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar, dataclass_transform

import numpy as np

from tinygrad_cnn import checks
from tinygrad_cnn.names import own_names
from tinygrad_cnn.types import Function, Settings

__all__ = ["Declared", "Setting", "setting", "show"]

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """What `setting` declares; as an attribute of a class it lasts until the class is made."""

    check: Function
    default: object
    kw_only: bool
    optional: bool
    alias: str
    like: str
    shown: str
    bounds: Settings

    def checked(self, made: object, name: str, value: object) -> object:
        """The value in one form, or the refusal of ``check``."""
        if value is None and (self.optional or self.default is None):
            return None
        return self.check(type(made).__name__, name, value, **self.bounds)


def setting(check: Callable[..., T], *, default: object = inspect.Parameter.empty,
            kw_only: bool = False, optional: bool = False, alias: str = "", like: str = "",
            shown: str = "changed", **bounds: object) -> T:
    """Declare a setting: ``check(owner, name, value, **bounds)`` gives its one form, or refuses.

    None passes if it is the default, or if the setting is ``optional``; with ``like`` it stands for
    the value of another setting.  ``alias`` is the name of the argument, if the attribute has
    another.  ``shown`` in the text of what is made: "value" (without its name, as those that have
    no default are), "always", "changed" (if it is not the default) or "never".
    """
    if default is inspect.Parameter.empty and shown == "changed":
        shown = "value"
    return Setting(check, default, kw_only, optional, alias, like, shown,
                   bounds)                              # type: ignore[return-value]


@dataclass_transform(eq_default=False, field_specifiers=(setting,))
class Declared:
    """Base of classes whose settings are declared by `setting`."""

    declared: ClassVar[dict[str, Setting]] = {}

    def __init_subclass__(cls, **more: object) -> None:
        super().__init_subclass__(**more)
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Setting)}
        every = {name: s for base in reversed(cls.__mro__[1:])
                 for name, s in getattr(base, "declared", {}).items()} | own
        cls.declared = dict(sorted(every.items(), key=lambda item: item[1].kw_only))
        for name in own:
            delattr(cls, name)
        if "__init__" not in vars(cls):
            cls.__init__ = _initializer(cls)            # type: ignore[method-assign]

    def _keep(self, settings: Settings) -> None:
        for name, value in settings.items():
            like = self.declared[name].like
            setattr(self, name, settings[like] if value is None and like else value)
        self._setup()

    def _setup(self) -> None:               # what is left when the settings are kept
        pass

    def __repr__(self) -> str:
        return f"{type(self).__name__}({show(self)})"


def _initializer(cls: type[Declared]) -> Callable[..., None]:
    kinds = inspect.Parameter
    own: Settings = {}
    for base in reversed(cls.__mro__):
        own |= vars(base).get("__annotations__", {})
    signature = inspect.Signature([
        kinds("self", kinds.POSITIONAL_OR_KEYWORD),
        *(kinds(s.alias or name, kinds.KEYWORD_ONLY if s.kw_only else kinds.POSITIONAL_OR_KEYWORD,
                default=s.default, annotation=own[name]) for name, s in cls.declared.items())])

    names = tuple(signature.parameters)[1:]
    known = frozenset(names)

    def __init__(self: Declared, *args: object, **settings: object) -> None:  # noqa: N807
        if not known.issuperset(settings):
            settings = own_names(cls.__name__, names, settings, "setting")
        checks.arguments(cls, args, settings)
        bound = signature.bind(self, *args, **settings)
        bound.apply_defaults()
        self._keep({name: declared.checked(self, declared.alias or name,
                                          bound.arguments[declared.alias or name])
                   for name, declared in cls.declared.items()})

    __init__.__signature__ = signature                  # type: ignore[attr-defined]
    __init__.checks_arguments = True                    # type: ignore[attr-defined]
    __init__.__qualname__ = f"{cls.__qualname__}.__init__"
    return __init__


def show(made: Declared) -> str:
    """The settings of a layer or schedule; those that are the default only where asked for."""
    parts = []
    for name, declared in made.declared.items():
        if declared.shown == "never":
            continue
        pair = declared.check is not checks.sizes
        text = _text(getattr(made, name), pair)
        usual = (getattr(made, declared.like) if declared.like else declared.default
                 if declared.shown != "changed" else declared.checked(made, name, declared.default))
        if declared.shown == "value":
            parts.append(text)
        elif declared.shown == "always" or text != _text(usual, pair):
            parts.append(f"{declared.alias or name}={text}")
    return ", ".join(parts)


def _text(value: object, pair: bool) -> str:
    """As a person would write it: one number where a ``pair`` has twice the same."""
    if isinstance(value, tuple) and (len(value) == 1 or (pair and value[0] == value[-1])):
        return _text(value[0], pair)
    if isinstance(value, np.ndarray):
        return f"array of {value.shape}"
    return repr(str(value) if isinstance(value, np.dtype) else value)
