"""Compiled kernels, where the extra ``fast`` is installed: lazy import of the numba backend.

Nothing here imports the compiler before a compiled kernel is first asked for.  Without it, where it
fails, or with ``set_compiled(False)``, every kernel declines and the op takes its next one.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from functools import cache, partial
from types import ModuleType, TracebackType

import numpy as np

from tinygrad_cnn.errors import SettingError, missing_extra
from tinygrad_cnn.kernels.parallel import apart
from tinygrad_cnn.types import DType

__all__ = ["get_compiled", "give_up", "load", "module", "set_compiled"]

_DTYPES = (np.float32, np.float64)


@cache
def _installed() -> bool:
    return importlib.util.find_spec("numba") is not None


class _Setting:
    """Whether compiled kernels are chosen; None is: where they are installed and work."""

    on: bool | None = None
    failed = False


def get_compiled() -> bool:
    """Whether compiled kernels are chosen.

    Examples
    --------
    >>> with set_compiled(False):
    ...     get_compiled()
    False
    """
    return _installed() and not _Setting.failed if _Setting.on is None else _Setting.on


class set_compiled:  # noqa: N801 - a function that can also be used in a with statement
    """Choose compiled kernels, or NumPy's alone, for good or for one ``with`` block.

    Parameters
    ----------
    on : bool
        The default is to choose them where the extra ``fast`` is installed and works.

    Raises
    ------
    SettingError
        If ``on`` is not a bool.
    MissingExtraError
        If they are asked for and not installed.

    Examples
    --------
    >>> with set_compiled(False):               # pure NumPy, whatever is installed
    ...     relu(Tensor([-1.0, 2.0])).data
    array([0., 2.], dtype=float32)
    """

    def __init__(self, on: bool) -> None:
        if not isinstance(on, bool):
            raise SettingError(f"set_compiled: on must be True or False, got {on!r}")
        if on and not _installed():
            raise missing_extra("numba", extra="fast", purpose="compiled kernels")
        self._before = _Setting.on
        _Setting.on = on

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        _Setting.on = self._before


def module(name: str, dtype: DType) -> ModuleType | None:
    """A file of compiled passes if they are chosen and serve the dtype, else None."""
    return load(name) if dtype in _DTYPES and _Setting.on is not False else None


def load(name: str) -> ModuleType | None:
    """A file of the folder ``jit``, imported when first asked for; None without the compiler."""
    if _Setting.failed or not _installed():
        return None
    try:
        return _imported(name)
    except Exception as error:
        give_up(error)
        return None


@cache
def _imported(name: str) -> ModuleType:
    """Signals do not come to where it is imported: half imported, numba would fail from then on."""
    return apart(partial(importlib.import_module, f"tinygrad_cnn.kernels.jit.{name}"))


def give_up(error: Exception) -> None:
    """Do without compiled kernels from here on, and say why, once."""
    if not _Setting.failed:
        _Setting.failed = True
        warnings.warn(
            f"compiled kernels are left out, because numba fails: {type(error).__name__}: {error}; "
            'NumPy\'s kernels serve instead; pip install --force-reinstall "tinygrad-cnn[fast]" '
            "may mend it, set_compiled(False) chooses them", RuntimeWarning, stacklevel=2)
