"""Colours that can be told apart, words that are safe, numbers that are short."""

import unicodedata

import pytest

from tinygrad_cnn.viz import palette, text, words

THEMES = {"light": palette.LIGHT, "dark": palette.DARK}


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("front, back", palette.TEXT_PAIRS)
def test_text_stands_out_from_its_background(theme, front, back):
    colours = THEMES[theme]
    assert palette.contrast(colours[front], colours[back]) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
def test_the_gradient_ramp_changes_luminance_strictly_one_way(theme):
    ramp = [palette.luminance(THEMES[theme][f"ramp{i}"]) for i in range(5)]
    steps = [b - a for a, b in zip(ramp, ramp[1:], strict=False)]
    assert all(step < 0 for step in steps) if theme == "light" else all(step > 0 for step in steps)


@pytest.mark.parametrize("theme", THEMES)
def test_each_role_has_a_literal_of_its_own(theme):
    assert len(set(THEMES[theme].values())) == len(THEMES[theme])


def test_the_dark_text_of_a_picture_holds_no_light_literal():
    light = " ".join(palette.LIGHT.values())
    assert palette.to_dark(light) == " ".join(palette.DARK.values())


@pytest.mark.parametrize("colour, expected", [("#ffffff", 1.0), ("#000000", 0.0),
                                              ("#808080", 0.2158605)])
def test_luminance_is_that_of_the_accessibility_guidelines(colour, expected):
    assert palette.luminance(colour) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("bad", ["\0", "\x1b", "\u202e", "\u2066", "\u200b", "\ud800", "\ue000"])
def test_clean_replaces_what_cannot_be_shown(bad):
    assert text.clean(f"a{bad}b") == "a\ufffdb"


def test_escape_leaves_no_character_that_xml_or_dot_reads():
    every = "".join(map(chr, range(0x300)))
    for start in range(0, len(every), 60):
        safe = text.escape(every[start:start + 60], 400)
        assert not set('<>"\'\\') & set(safe)
        assert not any(unicodedata.category(c) == "Cc" for c in safe)


def test_clean_keeps_a_long_name_within_its_limit():
    assert len(text.clean("x" * 10_000)) == 72
    assert text.clean("x" * 72) == "x" * 72


@pytest.mark.parametrize("value, expected", [
    (0.0, "0"), (1.0, "1.0"), (0.0999, "0.100"), (123.4, "123"), (-0.00123, "-1.2e-3"),
    (1e-30, "1.0e-30"), (float("inf"), "inf")])
def test_numbers_keep_two_digits(value, expected):
    assert text.number(value) == expected


def test_bold_letters_are_wider_but_bold_digits_are_not():
    assert text.width("abc", 10, bold=True) > text.width("abc", 10)
    assert text.width("123", 10, bold=True) == text.width("123", 10)


NONE = ((0, 0), (0, 0))


@pytest.mark.parametrize("op, settings, shapes, expected", [
    ("conv2d", {"stride": (2, 1), "padding": ((1, 1), (2, 2)), "dilation": (2, 2), "groups": 2},
     [(1, 9, 9, 4), (3, 3, 2, 6), None],
     ("3×3", "stride 2×1", "pad 1×2", "dilation 2", "groups 2", "4→6 channels")),
    ("max_pool2d", {"kernel_size": (2, 3), "stride": (2, 3), "padding": NONE}, [(1, 4, 6, 1)],
     ("2×3", "stride 2×3")),
    ("avg_pool2d", {"kernel_size": (2, 2), "stride": (2, 2), "padding": ((0, 1), (0, 1))},
     [(1, 4, 4, 1)], ("2×2", "stride 2", "pad 0,1,0,1")),
    ("linear", {}, [(8, 5), (5, 3), None], ("5→3",)),
    ("mean", {"axis": (1, 2), "keepdims": False}, [(2, 3, 3, 1)], ("axis 1, 2",)),
    ("getitem", {"index": (slice(None, 3), 0)}, [(5, 5)], ("index :3, 0",)),
    ("conv2d", {"other": 1}, [(1, 2), (3, 4)], ("other 1",)),
])
def test_settings_are_said_in_words(op, settings, shapes, expected):
    assert words.words(op, settings, shapes) == expected


def test_a_source_line_has_no_folder():
    code = compile("\n\nx = 1\n", "/home/someone/secret/net.py", "exec")
    starts = [start for start, _, line in code.co_lines() if line == 3]
    assert words.source_line((code, starts[0])) == "net.py:3"
