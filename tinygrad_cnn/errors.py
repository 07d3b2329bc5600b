"""The exceptions that users meet, all under one name.

::

    TinygradCnnError
    ├── ShapeError          (ValueError)      arrays that do not fit together
    ├── SettingError        (ValueError)      a stride of zero, an unknown mode or name
    ├── CheckpointError     (ValueError)      weights that cannot be trusted or do not fit
    ├── DataError           (ValueError)      missing, truncated or hostile files, bad labels
    ├── VizError            (ValueError)      a picture that cannot be drawn or written
    ├── DTypeError          (TypeError)       a dtype that is refused
    ├── DeclarationError    (TypeError)       an op declared inconsistently; raised at import
    ├── GradientError       (RuntimeError)    a backward pass that cannot be done; a wrong rule
    │   ├── GraphFreedError                   a second backward through a graph that was freed
    │   └── AnomalyError                      NaN or infinity, inside detect_anomaly()
    ├── ParallelError       (RuntimeError)    a worker or rank that failed, or that differs
    ├── MissingExtraError   (ImportError)     an optional package is absent; names the pip line
    └── GradientMismatch    (AssertionError)  a gradient test found a wrong rule

A message is one string: it names the op, the argument and both values, shows the evidence, and says
the cure where there is one.
"""

from __future__ import annotations

__all__ = ["AnomalyError", "CheckpointError", "DTypeError", "DataError", "DeclarationError",
           "GradientError", "GradientMismatch", "GraphFreedError", "MissingExtraError",
           "ParallelError", "SettingError", "ShapeError", "TinygradCnnError", "VizError"]


class TinygradCnnError(Exception):
    """Any error that this package raises on purpose."""


class ShapeError(TinygradCnnError, ValueError):
    """The inputs of an op do not fit together."""


class SettingError(TinygradCnnError, ValueError):
    """A setting has a value that the op does not take."""


class CheckpointError(TinygradCnnError, ValueError):
    """A file of weights, or a state dict, does not fit the model or cannot be trusted."""


class DataError(TinygradCnnError, ValueError):
    """A data set is missing, damaged, or holds values that it should not."""


class VizError(TinygradCnnError, ValueError):
    """A picture cannot be drawn or written."""


class DTypeError(TinygradCnnError, TypeError):
    """An array has a dtype that the op or the tensor refuses."""


class DeclarationError(TinygradCnnError, TypeError):
    """An op was declared inconsistently; raised at import, never during training."""


class GradientError(TinygradCnnError, RuntimeError):
    """A backward pass cannot be done, or a backward rule returned what cannot be a cotangent."""


class GraphFreedError(GradientError):
    """A backward pass reached a node that an earlier backward pass has freed."""


class ParallelError(TinygradCnnError, RuntimeError):
    """A worker or rank of a parallel run has failed, or computes something else than the others."""


class AnomalyError(GradientError):
    """An op, or its backward rule, made NaN or infinity inside `detect_anomaly`."""


class MissingExtraError(TinygradCnnError, ImportError):
    """An optional package is not installed; the message has the pip line to type."""


class GradientMismatch(TinygradCnnError, AssertionError):  # noqa: N818 - it reads as a finding
    """A gradient test found a rule that disagrees with its op; ``finding`` says what was found."""

    finding: object = None


class KernelFailed(Exception):  # noqa: N818 - it is no error of the user's, who never meets it
    """An optional kernel found out, while it ran, that it cannot; ops then take another."""


def missing_extra(package: str, *, extra: str, purpose: str) -> MissingExtraError:
    """Make the error for an optional package that is absent.

    Examples
    --------
    >>> print(missing_extra("matplotlib", extra="viz", purpose="plots"))
    plots need the package matplotlib, which is not installed: pip install "tinygrad-cnn[viz]"
    """
    return MissingExtraError(f"{purpose} need the package {package}, which is not installed: "
                             f'pip install "tinygrad-cnn[{extra}]"')


# Tracebacks name the class as users import it.
for _name in __all__:
    globals()[_name].__module__ = "tinygrad_cnn"
