"""The tester tested: every planted mistake is found, named, and shown by a small program."""

from __future__ import annotations

import functools
import statistics
import warnings

import numpy as np
import pytest

from mutation import CATALOG, mutant, peers, right_rules
from mutation.public_bugs import BUGS
from mutation.score import exact_cases, fails, named, one_ulp_is_seen, run, score_mutants
from tinygrad_cnn import GradientMismatch
from tinygrad_cnn.testing import check_op
from tinygrad_cnn.testing.check import find
from tinygrad_cnn.testing.diagnose import diagnose
from tinygrad_cnn.testing.report import headline, picture
from tinygrad_cnn.testing.shrink import reproducer, shrink

HEADLINES = [
    ("C05", "overwritten overlaps"), ("C19", "constant ratio"), ("C08", "a mean where a sum"),
    ("C26", "leftover strip"), ("C25", "border only"), ("C11", "transposed"), ("C14", "flipped"),
    ("C24", "per-sample"), ("B01", "missing un-broadcast"), ("C21", "cotangent is ignored"),
    ("C18", "float16"), ("C02", "stride"), ("C12", "dilation"), ("C04", "padding"),
    ("M01", "ties"), ("K01", "written to"), ("X14", "dtype"), ("K07", "derivative"),
    ("S01", "diagonal"), ("N01", "mean"),
]
# Each third of the mutants and of the right gradients; python tests/mutation takes all.
PLAIN = [m for m in CATALOG if not m.engine][1::4]
TRIED = [m for i, m in enumerate(CATALOG) if i % 3 == 0 or m in PLAIN or m.name in dict(HEADLINES)]


@pytest.fixture(scope="module")
def findings():
    """What is found of a mutant on one seed."""
    return functools.cache(lambda name: run(mutants[name], 0))


mutants = {m.name: m for m in CATALOG}
found_of_bug = functools.cache(lambda bug: bug.finding(0))      # which raises if nothing is found


def test_the_catalog_has_many_mutants_of_many_ops_told_apart_by_name():
    assert len(CATALOG) >= 80
    assert len({m.name for m in CATALOG}) == len(CATALOG)
    assert len({m.op for m in CATALOG}) >= 30


@pytest.mark.parametrize("planted", TRIED, ids=lambda m: f"{m.name} {m.op}, {m.says}")
def test_a_mutant_is_found(planted, findings):
    assert findings(planted.name) is not None


@pytest.mark.parametrize("bug", BUGS, ids=lambda b: b.name)
def test_mistakes_of_public_reports_are_found_with_one_modest_sample(bug):
    assert found_of_bug(bug) is not None


@pytest.mark.parametrize("right", right_rules.POPULATION[::3], ids=lambda r: r.name)
def test_no_right_gradient_is_called_wrong(right):
    outcome, = right_rules.outcomes(range(1), [right])
    assert not outcome.alarm, outcome.verdict


def test_right_gradients_are_measured_where_there_is_no_kink_and_no_loss_of_digits():
    assert len(right_rules.POPULATION) >= 60
    assert len(BUGS) >= 40
    smooth = [r for r in right_rules.POPULATION if not set(r.name.split()) & {
        "clip", "tie", "gray", "zeros", "equals", "Hilbert"}]
    assert len(smooth) > 2 / 3 * len(right_rules.POPULATION)
    quick = [r for r in smooth if "network" not in r.name][::4]
    assert all(o.verdict.startswith("right") for o in right_rules.outcomes(range(3, 4), quick))


def test_diagnoses_are_right_first_nine_times_in_ten(findings):
    bugs = BUGS[::2]
    wanted = [m.diagnosis for m in PLAIN] + [b.diagnosis for b in bugs]
    keys = [[key for key, _ in diagnose(findings(m.name))] for m in PLAIN]
    keys += [[key for key, _ in diagnose(found_of_bug(bug))] for bug in bugs]
    assert np.mean([found[0] == key for key, found in zip(wanted, keys, strict=True)]) >= 0.9


@pytest.mark.parametrize("name, words", [
    ("a millionth too much", r"every entry is 1 \+ 1e-06 times"),
    ("swapped cotangents", "array 0 gets the cotangent of array 1"),
    ("cotangent forgotten", "the cotangent is ignored"),
    ("layer norm without eps", "a constant such as eps"),
    ("corners of reflect", r"outputs at \(0, 0\), \(0, 6\), \(5, 0\), \(5, 6\) send nothing"),
    ("one entry of twenty by 1e-5", r"only \(7,\) is wrong"),
    ("float32 inside", "look like a pass through float32"),
    ("overflow far out", r"the gradient is nan at \(\d+,\)"),
])
def test_a_report_of_a_user_s_mistake_uses_its_words(name, words):
    bug = next(b for b in BUGS if b.name == name)
    with pytest.raises(GradientMismatch, match=words):
        bug.check(0)


SHOWN = [m for m in CATALOG if not m.engine][::10]


def test_reproducers_are_short_small_and_fail(findings):
    entries = []
    for m in SHOWN:
        small = shrink(findings(m.name), seconds=1.0)
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


@pytest.mark.parametrize("name, words", HEADLINES)
def test_the_headline_of_each_family_uses_its_words(name, words, findings):
    assert words in headline(findings(name))


def test_the_score_counts_survivors():
    score = score_mutants([0], [m for m in CATALOG if m.name in ("C01", "E01")], explain=True)
    assert (score.tried, score.kill_rate, score.first) == (2, 1.0, 2)
    assert score.unconvincing == []


def test_an_error_of_one_ulp_in_one_entry_is_found_in_every_exact_op():
    missed = [f"{case.op.name} {case.names[k]}" for case, k in exact_cases()
              if not one_ulp_is_seen(case, k)]
    assert not missed


def test_mistakes_that_gradcheck_passes_are_those_that_the_docs_list():
    pytest.importorskip("torch", reason="PyTorch is not installed: no second opinion")
    pairs = [bug for bug in BUGS if bug.pair is not None]
    with warnings.catch_warnings():
        missed = [b.name for b in pairs if not peers.kills(peers.of_torch, b)]
    assert len(pairs) == 51
    assert len(missed) == 10
    assert set(missed) >= {"strides of x for the cotangent", "the cotangent written in place",
                           "float64 for float32", "ravel in the order of memory",
                           "relu that also masks by ct > 0"}
