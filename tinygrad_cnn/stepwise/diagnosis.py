"""Recognize a known mistake by the figure that it gives.

The fingerprints are data: a list of mistakes, each with the wrong figures that it leads to in
published exercises.  A figure that is wrong in a known way then comes with its cause.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cnn.types import Named

__all__ = ["diagnose"]


# Wide enough for float32 and for figures copied from a printed page; a right figure is never so
# close to a wrong one.
RTOL, ATOL = 2e-5, 2e-8


def diagnose(case: str, what: str, value: ArrayLike,
             known_wrong: Sequence[Named]) -> str | None:
    """Name the mistake that gives ``value`` where the right figure is another.

    Parameters
    ----------
    case : str
        Id of the exercise, as ``"C4"``.
    what : str
        The figure, as ``"dW.mean()"``.
    value : number or array
        What was computed, in float64 or float32, or copied from a page.
    known_wrong : sequence of mappings
        The fingerprints.  Each mistake has a ``name``, a ``cause`` and ``figures``: mappings with
        ``case``, ``what``, the ``wrong`` value, and ``reveals``, False where the mistake leaves the
        right value untouched.

    Returns
    -------
    str or None
        The name of the mistake and its cause, or None if no fingerprint matches.

    Examples
    --------
    >>> known_wrong = [{"name": "the backward pass ignores the stride",
    ...                 "cause": "Multiply the window corner by the stride.",
    ...                 "figures": [{"case": "C4", "what": "dW.mean()",
    ...                              "wrong": 1.5572657428497354, "reveals": True}]}]
    >>> diagnose("C4", "dW.mean()", 1.557265743, known_wrong)
    'the backward pass ignores the stride: Multiply the window corner by the stride.'
    >>> diagnose("C4", "dW.mean()", 1.72699145831391, known_wrong) is None
    True
    """
    found = np.asarray(value)
    for mistake in known_wrong:
        for figure in mistake["figures"]:
            if (figure["case"], figure["what"]) != (case, what) or not figure["reveals"]:
                continue
            wrong = np.asarray(figure["wrong"])
            if found.shape == wrong.shape and np.allclose(found, wrong, rtol=RTOL, atol=ATOL):
                return f"{mistake['name']}: {mistake['cause']}"
    return None
