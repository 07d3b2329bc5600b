"""The numba backend: kernels in compiled code, kept on disk from process to process.

Each function holds no lock, and writes to nothing but what it is given.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from functools import cache, partial
from typing import Any, NoReturn

import numba
from numba.core.caching import FunctionCache
from numba.extending import overload

from tinygrad_cnn.errors import KernelFailed
from tinygrad_cnn.kernels.compiled import give_up
from tinygrad_cnn.kernels.parallel import apart
from tinygrad_cnn.types import Function

__all__ = ["compiled", "inline", "prepare"]


class _Cache(FunctionCache):  # type: ignore[misc]
    """Compiled code on disk, where a file that fails is a file that is not there."""

    def load_overload(self, sig: object, target_context: object) -> object:
        """None if there is none that can be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:                       # damaged, or not for us to read
            with suppress(Exception):
                self.flush()                    # so that what is compiled now can be kept
            return None

    def save_overload(self, sig: object, data: object) -> None:
        """Keep it, if the disk lets us."""
        with suppress(Exception):
            super().save_overload(sig, data)


def compiled(function: Function | None = None, *, cached_as: Function | None = None,
             **options: Any) -> Function:
    """Compile once, keep on disk where there is a place, and let go of the interpreter lock.

    ``cached_as``: another function, under which it is filed, by its own types of arguments.
    """
    if function is None:
        return partial(compiled, cached_as=cached_as, **options)
    if cached_as is not None:
        function.__qualname__, function.__module__ = f"{cached_as.__qualname__}_parts", __name__
    # Code from disk brings its symbols along, and of two of one name the first serves for both.  So
    # functions of one maker are named by its numbers.
    numbers = [str(cell.cell_contents) for cell in function.__closure__ or ()
               if isinstance(cell.cell_contents, int)]
    function.__qualname__ = "_".join([function.__qualname__, *numbers])
    run = numba.njit(nogil=True, error_model="numpy", **options)(function)
    try:
        run._cache = _Cache(cached_as or function)
    except Exception:                           # RuntimeError: no locator available
        _tell()
    # Half compiled, a function would leave the compiler in an unknown state: see ``apart``.
    run._compile_for_args = partial(_compile, run._compile_for_args)
    return run


def _compile(compile_for: Function, *args: object) -> object:
    try:
        return apart(partial(compile_for, *args))
    except Exception as error:
        give_up(error)
        raise KernelFailed from error


def prepare(run: Any, kinds: tuple[Any, ...]) -> None:
    """Compile for these types of arguments before it is called."""
    _compile(run.compile, kinds)


@cache
def _tell() -> None:
    warnings.warn("compiled kernels are compiled anew in every process, because numba finds no "
                  "folder to keep them in; set NUMBA_CACHE_DIR to a folder that can be written to",
                  RuntimeWarning, stacklevel=2)


def inline(choose: Function) -> Function:
    """Make a function of compiled code, of which the first arguments are constants.

    ``choose`` is called with the types of the arguments and returns what to compile.  A compiled
    function that a maker below held as its own would be found on disk by no other process: numba
    files a closure under what it holds, and tells two compiled functions apart by a random number.
    """
    def stub(*args: object) -> NoReturn:
        raise AssertionError(f"{choose.__name__} is only called from compiled code")

    overload(stub, prefer_literal=True, jit_options={"error_model": "numpy"})(choose)
    return stub
