"""Cases derived from a declaration, and mistakes made from the source of a rule."""

from __future__ import annotations

import numpy as np

from tinygrad_cnn import OPS, Sample, sum_to
from tinygrad_cnn.core.op import make_op
from tinygrad_cnn.testing.cases import derived, samples_of
from tinygrad_cnn.testing.check import find
from tinygrad_cnn.testing.cli import telling_case
from tinygrad_cnn.testing.source_mutants import source_mutants

# ---- cases that follow from a declaration

def test_derived_cases_fit_the_declaration_and_change_with_the_seed():
    op = OPS["conv2d"]
    samples = list(op.test.samples(np.random.default_rng(0)))
    made = [[c.id for c in derived(op, samples, np.random.default_rng(seed), 3)]
            for seed in (1, 2)]
    assert all(made)
    assert made[0] != made[1]
    for case in derived(op, samples, np.random.default_rng(3), 3):
        shapes = [None if a is None else a.shape for a in case.args]
        assert op.run(*case.args, **case.settings)[0].shape == op.shape(*shapes, **case.settings)


def test_cases_are_the_same_for_the_same_seed_and_have_names_of_their_own():
    first, again = ([c.id for c in samples_of(OPS["pad"], 5)] for _ in range(2))
    assert first == again
    assert len(set(first)) == len(first)


# ---- slips made from the source

def _scale_vjp_x(ct, out, x, w):
    return ct * w


def _scale_vjp_w(ct, out, x, w):
    return sum_to(ct * x, shape=w.shape)


def scale_rows(samples):
    return make_op(name="scale_rows", shape=lambda x, w: x, kernels={"array": lambda x, w: x * w},
                   vjp={"x": _scale_vjp_x, "w": _scale_vjp_w}, samples=samples,
                   exact_in=("x", "w"))


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
    op = OPS["sqrt"]
    assert any(s.says == "ct * 0.5  ->  ct" for s in source_mutants(op))


def test_a_rule_without_source_has_no_slips():
    made = eval("lambda ct, out, x: ct * 2.0 * x")
    op = make_op(name="nowhere", shape=lambda x: x, kernels={"array": lambda x: x * x},
                 vjp={"x": made}, samples=full)
    assert source_mutants(op) == []
