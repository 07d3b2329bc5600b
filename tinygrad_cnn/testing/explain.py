"""Findings in words."""

from __future__ import annotations

from tinygrad_cnn.errors import GradientMismatch
from tinygrad_cnn.testing.report import Finding

__all__ = ["explain", "mismatch"]


def explain(finding: Finding) -> str:
    """One line that says what is wrong."""
    where = f"[{finding.case}]" if finding.case else ""
    return f"{finding.subject}{where} {finding.input}, {finding.prop}: {finding.detail}"


def mismatch(finding: Finding) -> GradientMismatch:
    """The error that carries a finding to the user."""
    return GradientMismatch(explain(finding))
