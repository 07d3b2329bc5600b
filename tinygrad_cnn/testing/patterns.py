"""The patterns by which a wrong Jacobian gives its mistake away, in the order of what they tell.

Each is a function of `Evidence` that returns a diagnosis, a key and a sentence, or None.
"""

from __future__ import annotations

from collections.abc import Callable

from tinygrad_cnn.testing.evidence import Diagnosis, Evidence
from tinygrad_cnn.testing.patterns_moved import (
    flipped,
    permuted,
    shifted,
    spread_out,
    transposed,
    wrong_place,
)
from tinygrad_cnn.testing.patterns_place import (
    border,
    border_windows,
    leftover,
    one_slice_alone,
    one_slice_for_all,
    overwritten,
    region,
)
from tinygrad_cnn.testing.patterns_scale import (
    adds_a_constant,
    constant_ratio,
    dropped,
    ignores_the_cotangent,
    nearly,
    not_linear,
    rounded,
    steady_ratio,
)
from tinygrad_cnn.testing.patterns_terms import (
    diagonal_only,
    extra,
    factor,
    missing_term,
    other_setting,
    wrong_axis,
)

__all__ = ["PATTERNS", "VAGUE", "Diagnosis", "steady_ratio"]

PATTERNS: tuple[Callable[[Evidence], Diagnosis | None], ...] = (
    ignores_the_cotangent, adds_a_constant, not_linear, dropped, rounded, constant_ratio, flipped,
    transposed, other_setting, region, one_slice_alone, border_windows, leftover, diagonal_only,
    overwritten, permuted, shifted, wrong_axis, spread_out, one_slice_for_all, wrong_place, extra,
    nearly, missing_term, border, factor,
)
"""From the most telling to the least."""

VAGUE: dict[Callable[[Evidence], Diagnosis | None], float] = {
    one_slice_for_all: 0.5, extra: 0.5, nearly: 0.5, border: 0.5, wrong_place: 0.25, factor: 0.3}
"""What a pattern counts that other mistakes often have too."""
