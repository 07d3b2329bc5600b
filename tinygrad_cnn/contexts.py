"""Context managers for users, which also decorate functions, and refuse those they would miss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import _GeneratorContextManager
from functools import wraps
from typing import ParamSpec, TypeVar

from tinygrad_cnn.types import Function

__all__ = ["block"]

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Function)


class _Block(_GeneratorContextManager[T]):

    def __call__(self, func: F) -> F:
        # The call only makes a generator or a coroutine: its body runs after the block has ended.
        if (inspect.isgeneratorfunction(func) or inspect.iscoroutinefunction(func)
                or inspect.isasyncgenfunction(func)):
            name = self.func.__name__
            raise TypeError(f"{name}: {func.__qualname__} is a generator or coroutine, whose body "
                            f"would run outside the block; write `with {name}(...):` inside it")
        return super().__call__(func)


def block(function: Callable[P, Iterator[T]]) -> Callable[P, _Block[T]]:
    """`contextlib.contextmanager`, but refused as a decorator of generators and coroutines."""
    @wraps(function)
    def make(*args: P.args, **settings: P.kwargs) -> _Block[T]:
        return _Block(function, args, settings)         # type: ignore[arg-type]
    return make
