"""The tester tested: every planted mistake is found, named, and shown by a small program."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from tinygrad_cnn import OPS, GradientMismatch, Op, Sample, sum_to
from tinygrad_cnn.testing import check_op
from tinygrad_cnn.testing.cases import cases, derived
from tinygrad_cnn.testing.cli import telling_case
from tinygrad_cnn.testing.diagnose import diagnose
from tinygrad_cnn.testing.explain import headline, picture
from tinygrad_cnn.testing.mutants import CATALOGUE, mutant
from tinygrad_cnn.testing.ops import find
from tinygrad_cnn.testing.reproduce import reproducer
from tinygrad_cnn.testing.score import fails, run, score_mutants
from tinygrad_cnn.testing.shrink import shrink
from tinygrad_cnn.testing.source_mutants import source_mutants


@pytest.fixture(scope="module")
def findings():
    """What is found of each mutant on one seed."""
    return {m.name: run(m, 0) for m in CATALOGUE}


def test_the_catalogue_has_many_mutants_of_many_ops_told_apart_by_name():
    assert len(CATALOGUE) >= 80
    assert len({m.name for m in CATALOGUE}) == len(CATALOGUE)
    assert len({m.op for m in CATALOGUE}) >= 30


@pytest.mark.parametrize("planted", CATALOGUE, ids=lambda m: f"{m.name} {m.op}, {m.says}")
def test_every_mutant_is_found(planted, findings):
    assert findings[planted.name] is not None


def test_diagnoses_are_right_first_four_times_in_five(findings):
    plain = [m for m in CATALOGUE if not m.engine][1::6]
    keys = {m.name: [key for key, _ in diagnose(findings[m.name])] for m in plain}
    first = sum(keys[m.name][0] == m.diagnosis for m in plain) / len(plain)
    second = sum(m.diagnosis in keys[m.name][:2] for m in plain) / len(plain)
    assert first >= 0.8
    assert second >= 0.95


SHOWN = [m for m in CATALOGUE if not m.engine][::10]


def test_reproducers_are_short_small_and_fail(findings):
    entries = []
    for m in SHOWN:
        small = shrink(findings[m.name], seconds=1.0)
        program = reproducer(small)
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
    assert "To see it alone:" in text
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


# ---- cases that follow from a declaration

def test_derived_cases_fit_the_declaration_and_change_with_the_seed():
    op = OPS["conv2d"]
    samples = list(op.samples(np.random.default_rng(0)))
    made = [[c.id for c in derived(op, samples, np.random.default_rng(seed), 3)]
            for seed in (1, 2)]
    assert all(made)
    assert made[0] != made[1]
    for case in derived(op, samples, np.random.default_rng(3), 3):
        shapes = [None if a is None else a.shape for a in case.args]
        assert op.run(*case.args, **case.settings)[0].shape == op.shape(*shapes, **case.settings)


def test_cases_are_the_same_for_the_same_seed_and_have_names_of_their_own():
    first, again = ([c.id for c in cases(OPS["pad"], 5)] for _ in range(2))
    assert first == again
    assert len(set(first)) == len(first)


# ---- slips made from the source

def _scale_vjp_x(ct, out, x, w):
    return ct * w


def _scale_vjp_w(ct, out, x, w):
    return sum_to(ct * x, shape=w.shape)


def scale_rows(samples):
    return Op(name="scale_rows", shape=lambda x, w: x, kernels={"array": lambda x, w: x * w},
              vjp={"x": _scale_vjp_x, "w": _scale_vjp_w}, samples=samples, affine_in=("x", "w"))


def full(rng):
    yield Sample("rows", (rng.normal(size=(2, 3)), rng.normal(size=3)))


def one_row(rng):
    yield Sample("one row", (rng.normal(size=3), rng.normal(size=3)))


def test_slips_drop_factors_and_sums_and_are_all_killed_by_good_samples():
    op = scale_rows(full)
    slips = source_mutants(op)
    says = [s.says for s in slips]
    assert "ct * w  ->  ct" in says
    assert "sum_to(ct * x, shape=w.shape)  ->  ct * x" in says
    assert all(find(s.op, extra=0) is not None for s in slips)


def test_a_slip_that_weak_samples_miss_comes_with_a_case_that_tells():
    op = scale_rows(one_row)
    lost = next(s for s in source_mutants(op)
                if s.says == "sum_to(ct * x, shape=w.shape)  ->  ct * x")
    assert find(lost.op, extra=0) is None
    assert telling_case(scale_rows(full), lost) is not None


def test_lambdas_are_read_from_their_source_too():
    op = OPS["tanh"]
    assert any(s.says == "out * out  ->  out" for s in source_mutants(op))


def test_a_rule_without_source_has_no_slips():
    made = eval("lambda ct, out, x: ct * 2.0 * x")
    op = Op(name="nowhere", shape=lambda x: x, kernels={"array": lambda x: x * x},
            vjp={"x": made}, samples=full)
    assert source_mutants(op) == []


def test_the_score_counts_survivors():
    score = score_mutants([0], [m for m in CATALOGUE if m.name in ("C01", "E01")], explain=True)
    assert (score.tried, score.kill_rate, score.first) == (2, 1.0, 2)
    assert score.unconvincing == []
