"""The tester tested: every planted mistake is found, named, and shown by a small program."""

from __future__ import annotations

import statistics

import pytest

from mutation import CATALOG, mutant
from mutation.score import exact_cases, fails, named, one_ulp_is_seen, run, score_mutants
from tinygrad_cnn import GradientMismatch
from tinygrad_cnn.testing import check_op
from tinygrad_cnn.testing.check import find
from tinygrad_cnn.testing.diagnose import diagnose
from tinygrad_cnn.testing.report import headline, picture
from tinygrad_cnn.testing.shrink import reproducer, shrink


@pytest.fixture(scope="module")
def findings():
    """What is found of each mutant on one seed."""
    return {m.name: run(m, 0) for m in CATALOG}


def test_the_catalog_has_many_mutants_of_many_ops_told_apart_by_name():
    assert len(CATALOG) >= 80
    assert len({m.name for m in CATALOG}) == len(CATALOG)
    assert len({m.op for m in CATALOG}) >= 30


@pytest.mark.parametrize("planted", CATALOG, ids=lambda m: f"{m.name} {m.op}, {m.says}")
def test_every_mutant_is_found(planted, findings):
    assert findings[planted.name] is not None


def test_diagnoses_are_right_first_four_times_in_five(findings):
    plain = [m for m in CATALOG if not m.engine][1::6]
    keys = {m.name: [key for key, _ in diagnose(findings[m.name])] for m in plain}
    first = sum(keys[m.name][0] == m.diagnosis for m in plain) / len(plain)
    second = sum(m.diagnosis in keys[m.name][:2] for m in plain) / len(plain)
    assert first >= 0.8
    assert second >= 0.95


SHOWN = [m for m in CATALOG if not m.engine][::10]


def test_reproducers_are_short_small_and_fail(findings):
    entries = []
    for m in SHOWN:
        small = shrink(findings[m.name], seconds=1.0)
        program = reproducer(small, named(m))
        assert len(program.splitlines()) <= 12, program
        assert fails(program), program
        entries.append(sum(a.size for a in small.context.arrays))
    assert statistics.median(entries) <= 64


def test_a_report_names_the_mistake_maps_it_and_shows_a_program():
    with pytest.raises(GradientMismatch) as caught:
        check_op(mutant("M02"))
    text = str(caught.value)
    first, *rest = text.splitlines()
    assert first.startswith("max_pool2d[overlapping] x, gradient: overwritten overlaps: ")
    assert any("shrunk from" in line for line in rest)
    assert any(set(line.split()[:3]) <= {"x", "."} for line in rest if line.strip())
    assert "ulps" in text


def test_the_map_marks_the_wrong_entries_of_the_plane_with_the_worst():
    finding = find(mutant("M02"))
    lines = picture(finding)
    assert lines[0].startswith("axis 0 at ")
    assert "x" in "".join(lines[1:])
    assert "." in "".join(lines[1:])


@pytest.mark.parametrize("name, words", [
    ("C05", "overwritten overlaps"), ("C19", "constant ratio"), ("C08", "a mean where a sum"),
    ("C26", "leftover strip"), ("C25", "border only"), ("C11", "transposed"), ("C14", "flipped"),
    ("C24", "per-sample"), ("B01", "missing un-broadcast"), ("C21", "cotangent is ignored"),
    ("C18", "float16"), ("C02", "stride"), ("C12", "dilation"), ("C04", "padding"),
    ("M01", "ties"), ("K01", "written to"), ("X14", "dtype"), ("K07", "derivative"),
    ("S01", "diagonal"), ("N01", "mean"),
])
def test_the_headline_of_each_family_uses_its_words(name, words, findings):
    assert words in headline(findings[name])


def test_the_score_counts_survivors():
    score = score_mutants([0], [m for m in CATALOG if m.name in ("C01", "E01")], explain=True)
    assert (score.tried, score.kill_rate, score.first) == (2, 1.0, 2)
    assert score.unconvincing == []


def test_an_error_of_one_ulp_in_one_entry_is_found_in_every_exact_op():
    missed = [f"{case.op.name} {case.names[k]}" for case, k in exact_cases()
              if not one_ulp_is_seen(case, k)]
    assert not missed
