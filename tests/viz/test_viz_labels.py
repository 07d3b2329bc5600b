"""Colors that can be told apart, text that is safe, numbers that are short and right."""

import unicodedata

import numpy as np
import pytest

from tinygrad_cnn.viz import labels

THEMES = {"light": labels.LIGHT, "dark": labels.DARK}
SURFACES = ("page", "card", "module", "module_inner", "input_fill", "param_fill", "loss_fill",
            "label_fill", "added_fill", "removed_fill", "changed_fill")
TEXT = (*((text, back) for text in ("ink", "muted", "grad_text", "line", "hot")
          for back in SURFACES), ("warn", "warn_fill"),
        *(("badge", back) for back in ("activation", "param", "loss", "shape")))


def luminance(color):
    """Relative luminance as in the Web Content Accessibility Guidelines 2.2."""
    parts = (int(color[i:i + 2], 16) / 255 for i in (1, 3, 5))
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("theme", THEMES)
def test_text_has_the_contrast_that_the_guidelines_ask_for(theme):
    for front, back in TEXT:
        low, high = sorted(luminance(THEMES[theme][role]) for role in (front, back))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (front, back)


@pytest.mark.parametrize("theme, sign", [("light", -1), ("dark", 1)])
def test_the_gradient_ramp_changes_luminance_strictly_one_way(theme, sign):
    ramp = [luminance(THEMES[theme][f"ramp{i}"]) for i in range(5)]
    assert all(sign * step > 0 for step in np.diff(ramp))


def test_each_role_has_a_literal_of_its_own_which_turns_dark():
    for theme in THEMES.values():
        assert len(set(theme.values())) == len(theme)
    assert labels.to_dark(" ".join(labels.LIGHT.values())) == " ".join(labels.DARK.values())
    assert '#f [fill="#1f2933"]{fill:#e6edf3}' in labels.dark_css("#f ")


@pytest.mark.parametrize("bad", ["\0", "\x1b", "\u202e", "\u2066", "\u200b", "\ud800", "\ue000"])
def test_clean_replaces_what_cannot_be_shown(bad):
    assert labels.clean(f"a{bad}b") == "a\ufffdb"


def test_clean_keeps_a_long_name_within_its_limit():
    assert labels.clean("x" * 10_000) == "x" * 71 + "…"
    assert labels.clean("x" * 72) == "x" * 72
    assert labels.clean("\0" + "x" * 10_000) == "\ufffd" + "x" * 70 + "…"


def test_escape_leaves_no_character_that_xml_or_dot_reads():
    every = "".join(map(chr, range(0x300)))
    for start in range(0, len(every), 60):
        safe = labels.escape(every[start:start + 60], 400)
        assert not set('<>"\'\\') & set(safe)
        assert not any(unicodedata.category(c) == "Cc" for c in safe)


@pytest.mark.parametrize("text, expected", [
    *((labels.number(v), t) for v, t in (
        (0.0, "0"), (1.0, "1.0"), (0.0999, "0.100"), (0.01, "0.010"), (0.0099, "9.9e-3"),
        (99.4, "99"), (123.4, "123"), (1234.0, "1.2e+3"), (-0.00123, "-1.2e-3"),
        (1e-30, "1.0e-30"), (float("inf"), "inf"))),
    *((labels.binary_size(n), t) for n, t in (
        (0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (2**20 - 1, "1024 KiB"),
        (2**20, "1.0 MiB"), (2**30, "1.0 GiB"), (3 * 2**29, "1.5 GiB"))),
    *((labels.flop_text(n), t) for n, t in (
        (999, "999 FLOP"), (1_000, "1.0 kFLOP"), (99_999, "100.0 kFLOP"), (100_000, "0.1 MFLOP"),
        (10**9, "1.0 GFLOP"), (25 * 10**11, "2.5 TFLOP"))),
    *((labels.seconds_text(s), t) for s, t in (
        (1e-6, "1 µs"), (9.99e-4, "999 µs"), (1e-3, "1.0 ms"), (0.9994, "999.4 ms"),
        (1.0, "1.0 s"))),
    (labels.count(1_234_567), "1\u00a0234\u00a0567"), (labels.count(999), "999")])
def test_figures_are_written_short_and_in_their_unit(text, expected):
    assert text == expected


def test_the_width_of_text_is_that_of_arial():
    assert labels.width("abc", 10) == pytest.approx((556 + 556 + 500) / 100)
    assert labels.width("abc", 10, bold=True) == pytest.approx(1.1 * 16.12, abs=0.01)
    assert labels.width("123", 10, bold=True) == labels.width("123", 10) == 16.68
    assert labels.width("×é日", 100) == pytest.approx(58.4 + 56 + 100)


NONE = ((0, 0), (0, 0))


@pytest.mark.parametrize("op, settings, shapes, expected", [
    ("conv2d", {"stride": (2, 1), "padding": ((1, 1), (2, 2)), "dilation": (2, 2), "groups": 2},
     [(1, 9, 9, 4), (3, 5, 2, 6), None],
     ("3×5", "stride 2×1", "pad 1×2", "dilation 2", "groups 2", "4→6 channels")),
    ("max_pool2d", {"kernel_size": (2, 3), "stride": (2, 3), "padding": NONE}, [(1, 4, 6, 1)],
     ("2×3", "stride 2×3")),
    ("avg_pool2d", {"kernel_size": (2, 2), "stride": (2, 2), "padding": ((0, 1), (0, 1))},
     [(1, 4, 4, 1)], ("2×2", "stride 2", "pad 0,1,0,1")),
    ("linear", {}, [(8, 5), (5, 3), None], ("5→3",)),
    ("mean", {"axis": (1, 2), "keepdims": False}, [(2, 3, 3, 1)], ("axis 1, 2",)),
    ("getitem", {"index": (slice(None, 3), 0)}, [(5, 5)], ("index :3, 0",)),
    ("getitem", {"index": (Ellipsis, slice(1, 9, 2))}, [(5, 5)], ("index …, 1:9:2",)),
    ("where", {"mask": np.ones((2, 3), bool), "slope": 0.1, "dtype": np.dtype("float32")}, [],
     ("mask 2×3", "slope 0.1", "dtype float32")),
    ("conv2d", {"other": 1}, [(1, 2), (3, 4)], ("other 1",)),
])
def test_settings_are_said_in_labels(op, settings, shapes, expected):
    assert labels.setting_labels(op, settings, shapes) == expected


def test_a_source_line_has_no_folder():
    code = compile("\n\nx = 1\ny = 2\n", "/home/someone/secret/net.py", "exec")
    starts = {line: start for start, _, line in code.co_lines()}
    assert labels.source_line(code, starts[3]) == "net.py:3"
    assert labels.source_line(code, starts[4]) == "net.py:4"
    assert labels.source_line(code, 10_000) == ""
