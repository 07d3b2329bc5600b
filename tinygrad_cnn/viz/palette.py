"""Colours of the graph pictures: one table of roles, two themes, checked for contrast.

Each role has its own light literal, so a finished light SVG turns dark by CSS rules such as
``[fill="#1f2933"]{fill:#e6edf3}``: a presentation attribute loses to any rule.  Colour is never the
only channel; the cards also carry badges, numbers and words.  The strips take the hues of Okabe and
Ito, which people with any colour vision tell apart.
"""

from __future__ import annotations

__all__ = ["DARK", "LIGHT", "RAMP", "STRIPS", "TEXT_PAIRS", "contrast", "dark_css", "luminance",
           "to_dark"]

ROLES: dict[str, tuple[str, str]] = {       # role: (light, dark)
    "page": ("#ffffff", "#0f1720"),
    "card": ("#fefefe", "#1b2733"),         # not pure white: each role has a literal of its own
    "card_line": ("#cbd5df", "#33414f"),
    "fold_line": ("#9fb3c8", "#4f6780"),
    "module": ("#f3f6fb", "#15202b"),
    "module_line": ("#cfdae6", "#2a3948"),
    "module_inner": ("#eaf0f8", "#1a2836"),  # a module inside a module
    "ink": ("#1f2933", "#e6edf3"),
    "muted": ("#56626f", "#a3b3c2"),
    "line": ("#3e4c59", "#b8c4d0"),
    "track": ("#e9edf2", "#2c3b4b"),
    "badge": ("#0b1016", "#0b1017"),        # letter on a coloured strip, dark in both themes
    "grad_text": ("#7a1566", "#f2a7d8"),
    "hot": ("#9a3b01", "#ffb48b"),
    "warn": ("#9a3b00", "#ffb48a"),
    "warn_fill": ("#fce4d8", "#4a2412"),
    "input_fill": ("#f0faf6", "#0e211b"),
    "input_line": ("#9fd9c3", "#1f6b52"),
    "param_fill": ("#fffaef", "#241d0e"),
    "param_line": ("#ebcf94", "#7a5a14"),
    "loss_fill": ("#fff4ed", "#2a1710"),
    "loss_line": ("#edb795", "#8a4a24"),
    "label_fill": ("#f6f8fa", "#17202a"),
    "label_line": ("#cbd5de", "#33414e"),
    "added_fill": ("#e9f9ee", "#10281b"),
    "added_line": ("#2b8a4b", "#3fae66"),
    "removed_fill": ("#fdeeee", "#2d1417"),
    "removed_line": ("#c03540", "#e0626c"),
    "changed_fill": ("#fff6da", "#2b230c"),
    "changed_line": ("#b07d00", "#c99a22"),
    # strips: one per group of op families
    "conv": ("#0072b2", "#3aa0dd"),
    "activation": ("#009e73", "#22b88d"),
    "pool": ("#56b4e9", "#7cc8f2"),
    "norm": ("#4c6ea8", "#7c9bd1"),
    "shape": ("#8d99a6", "#8494a5"),
    "param": ("#e69f00", "#e9ae2b"),
    "loss": ("#d55e00", "#f07f2e"),
    # gradient ramp: luminance falls (light theme) or rises (dark theme) strictly
    "ramp0": ("#f5b7d3", "#6b3557"),
    "ramp1": ("#ea7bb4", "#97407a"),
    "ramp2": ("#d0459a", "#c2559f"),
    "ramp3": ("#9c1878", "#e58ac6"),
    "ramp4": ("#560560", "#ffd0ee"),
}

LIGHT = {role: pair[0] for role, pair in ROLES.items()}
DARK = {role: pair[1] for role, pair in ROLES.items()}
RAMP = tuple(LIGHT[f"ramp{i}"] for i in range(5))

STRIPS = {"conv": "conv", "linear": "conv", "activation": "activation", "pool": "pool",
          "norm": "norm", "elementwise": "norm", "reduction": "pool", "shape": "shape",
          "random": "shape", "input": "activation", "label": "shape", "constant": "shape",
          "parameter": "param", "loss": "loss"}

_SURFACES = ("page", "card", "module", "module_inner", "input_fill", "param_fill", "loss_fill",
             "label_fill", "added_fill", "removed_fill", "changed_fill")
TEXT_PAIRS = (*((text, back) for text in ("ink", "muted", "grad_text", "line", "hot")
                for back in _SURFACES),
              ("warn", "warn_fill"),
              *(("badge", back) for back in ("activation", "param", "loss", "shape")))


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb``, between 0 and 1.

    References
    ----------
    W3C, *Web Content Accessibility Guidelines 2.2*, definition of relative luminance.

    Examples
    --------
    >>> luminance("#ffffff")
    1.0
    """
    parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a: str, b: str) -> float:
    """Contrast of two colours, between 1 and 21; text wants at least 4.5.

    >>> contrast("#000000", "#ffffff")
    21.0
    """
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def to_dark(text: str) -> str:
    """The same DOT or SVG text with each light literal replaced by its dark one."""
    for role, light in LIGHT.items():
        text = text.replace(light, f"\0{role}\0")
    for role, dark in DARK.items():
        text = text.replace(f"\0{role}\0", dark)
    return text


def dark_css(prefix: str = "") -> str:
    """CSS rules that turn a finished light SVG dark; ``prefix`` limits them to one figure."""
    return "".join(f'{prefix}[{attribute}="{light}"]{{{attribute}:{DARK[role]}}}'
                   for role, light in LIGHT.items() for attribute in ("fill", "stroke"))
