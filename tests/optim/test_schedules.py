"""Schedules against closed formulas and hand-written tables."""

from __future__ import annotations

import math

import pytest

import tinygrad_cnn as tc
from tinygrad_cnn import optim
from tinygrad_cnn.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LinearWarmup,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)


def sgd(lr=1.0, **settings):
    return optim.SGD([tc.Parameter([0.0])], lr, **settings)


def rates(schedule, count):
    """The rate before each of ``count`` steps."""
    found = []
    for _ in range(count):
        found.append(schedule.optimizer.lr)
        schedule.step()
    return found


# ---- tables

@pytest.mark.parametrize("make, expected", [
    (lambda o: StepLR(o, 2, gamma=0.5), [2, 2, 1, 1, 0.5, 0.5, 0.25]),
    (lambda o: MultiStepLR(o, [2, 3], gamma=0.5), [2, 2, 1, 0.5, 0.5, 0.5]),
    (lambda o: ExponentialLR(o, 0.5), [2, 1, 0.5, 0.25]),
    (lambda o: ConstantLR(o, 0.25, 3), [0.5, 0.5, 0.5, 2, 2]),
    (ConstantLR, [2 / 3] * 5 + [2]), (LinearLR, [(2 + 0.8 * t) / 3 for t in range(5)] + [2, 2]),
    (lambda o: LinearLR(o, 0.25, 0.75, 4), [0.5, 0.75, 1, 1.25, 1.5, 1.5]),
    (lambda o: PolynomialLR(o, 4, 2.0), [2, 18 / 16, 0.5, 2 / 16, 0, 0]),
    (lambda o: LambdaLR(o, lambda t: t + 1), [2, 4, 6]),
    (lambda o: CosineAnnealingWarmRestarts(o, 2, 2, 1.0),
     [2, 1.5, 2, 1.5 + 0.5 ** 1.5, 1.5, 1.5 - 0.5 ** 1.5, 2]),
    (lambda o: CosineAnnealingWarmRestarts(o, 2), [2, 1, 2, 1, 2])])
def test_rates_are_those_of_the_formula(make, expected):
    assert rates(make(sgd(2.0)), len(expected)) == pytest.approx(expected)


def test_cosine_falls_to_the_least_rate_and_stays():
    expected = [0.1 + 0.9 / 2 * (1 + math.cos(math.pi * t / 8)) for t in range(9)]
    found = rates(CosineAnnealingLR(sgd(), 8, eta_min=0.1), 12)
    assert found == pytest.approx([*expected, 0.1, 0.1, 0.1])


def test_one_cycle_rises_to_the_peak_and_falls_far_below():
    schedule = OneCycleLR(sgd(9.0), max_lr=2.0, total_steps=100)
    found = rates(schedule, 120)
    assert found[0] == pytest.approx(2 / 25)
    assert found[29] == max(found) == pytest.approx(2.0)
    assert found[99] == pytest.approx(2 / 25e4)
    assert found[119] == found[99]
    assert all(a < b for a, b in zip(found[:29], found[1:30], strict=True))
    assert all(a > b for a, b in zip(found[29:99], found[30:100], strict=True))


def test_one_cycle_moves_momentum_against_the_rate():
    optimizer = optim.AdamW([tc.Parameter([0.0])])
    schedule = OneCycleLR(optimizer, 1.0, 10, pct_start=0.5, momentum=(0.85, 0.95))
    betas = []
    for _ in range(10):
        betas.append(optimizer.param_groups[0]["betas"])
        schedule.step()
    assert betas[0] == betas[9] == (pytest.approx(0.95), 0.999)
    assert betas[4] == (pytest.approx(0.85), 0.999)
    plain = sgd(momentum=0.9)
    OneCycleLR(plain, 1.0, 10, momentum=(0.8, 0.9))
    assert plain.param_groups[0]["momentum"] == pytest.approx(0.9)


def test_warm_up_rises_in_a_straight_line_and_hands_over():
    found = rates(LinearWarmup(StepLR(sgd(), 2, gamma=0.1), 4, start_factor=0.2), 9)
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 0.1, 0.1, 0.01])


def test_warm_up_of_an_optimizer_keeps_its_rate():
    assert rates(LinearWarmup(sgd(2.0), 2, start_factor=0.0), 5) == [0, 1, 2, 2, 2]


def test_plateau_drops_after_more_than_patience_bad_steps():
    schedule = ReduceLROnPlateau(sgd(), factor=0.5, patience=2, cooldown=1, min_lr=0.2)
    losses = [5, 4, 4, 4, 4, 4, 4, 4, 4, 3, 3, 3, 3, 3]
    found = []
    for loss in losses:
        schedule.step(loss)
        found.append(schedule.optimizer.lr)
    # The third bad step in a row drops; the step after a drop does not count.
    assert found == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.2, 0.2]


def test_plateau_wants_a_real_improvement():
    schedule = ReduceLROnPlateau(sgd(), patience=0, threshold=0.1, mode="max")
    for score, rate in ((1.0, 1.0), (1.11, 1.0), (1.2, 0.1), (1.3, 0.1)):
        schedule.step(score)
        assert schedule.optimizer.lr == pytest.approx(rate)
    below_zero = ReduceLROnPlateau(sgd(), patience=0, threshold=0.1)
    for loss, rate in ((-1.0, 1.0), (-1.05, 0.1), (-1.2, 0.1)):
        below_zero.step(loss)
        assert below_zero.optimizer.lr == pytest.approx(rate)


def test_plateau_takes_a_tensor_and_only_plateau_needs_the_loss():
    schedule = ReduceLROnPlateau(sgd())
    schedule.step(tc.Tensor([2.0]))
    assert schedule.needs_loss
    assert not StepLR(sgd(), 1).needs_loss
    assert LinearWarmup(ReduceLROnPlateau(sgd()), 1).needs_loss
    assert not LinearWarmup(StepLR(sgd(), 1), 1).needs_loss


def test_warm_up_hands_the_loss_on():
    schedule = LinearWarmup(ReduceLROnPlateau(sgd(), patience=0, factor=0.5), 2, start_factor=0.5)
    found = []
    for loss in (9, 9, 3, 3, 2, 2):
        schedule.step(loss)
        found.append(schedule.optimizer.lr)
    assert found == [0.75, 1, 1, 0.5, 0.5, 0.25]


def test_every_group_follows_from_its_own_rate():
    groups = [{"params": [tc.Parameter([0.0])], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = optim.SGD(groups, 5.0)
    schedule = StepLR(optimizer, 1, gamma=0.5)
    schedule.step()
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.05]
    OneCycleLR(optimizer, [2.0, 1.0], 10)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.08, 0.04])


# ---- saving

@pytest.mark.parametrize("make", [
    lambda o: StepLR(o, 3, gamma=0.5), lambda o: CosineAnnealingLR(o, 12),
    lambda o: OneCycleLR(o, 2.0, 12),
    lambda o: LinearWarmup(StepLR(o, 2), 3),
    lambda o: LinearWarmup(ReduceLROnPlateau(o, patience=0), 7),
    lambda o: SequentialLR(o, [LinearLR(o), StepLR(o, 2), ReduceLROnPlateau(o, patience=1)],
                           [3, 7]),
    lambda o: LinearWarmup(o, 20), lambda o: ReduceLROnPlateau(o, patience=1, cooldown=1)])
def test_a_schedule_that_was_saved_goes_on_as_if_it_had_not_stopped(make):
    losses = [3, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1]
    straight, stopped, resumed = make(sgd()), make(sgd()), make(sgd(0.3))
    for loss in losses[:5]:
        straight.step(loss)
        stopped.step(loss)
    resumed.load_state_dict(stopped.state_dict())
    assert resumed.optimizer.lr == straight.optimizer.lr
    for loss in losses[5:]:
        straight.step(loss)
        resumed.step(loss)
        assert resumed.optimizer.lr == straight.optimizer.lr


@pytest.mark.parametrize("change, message", [
    (lambda s: s.update(scheduler="StepLR"), "the state is of StepLR, not of ReduceLROnPlateau"),
    (lambda s: s["first"].update({"1": 1.0}), "the state has 2 groups, the optimizer 1"),
    (lambda s: s.update(steps=-1), "damaged"), (lambda s: s.pop("first"), "damaged"),
    (lambda s: s.update(best=math.nan), "best is NaN"), (lambda s: s.update(bad="x"), "damaged")])
def test_a_damaged_state_is_refused(change, message):
    schedule = ReduceLROnPlateau(sgd())
    state = schedule.state_dict()
    change(state)
    with pytest.raises(tc.CheckpointError, match=message):
        schedule.load_state_dict(state)
    assert schedule.optimizer.lr == 1.0


def test_a_schedule_shows_its_settings_and_where_it_is():
    schedule = StepLR(sgd(), 2, gamma=0.5)
    for _ in range(3):
        schedule.step()
    assert repr(schedule) == "StepLR(2, gamma=0.5): lr 0.5 after 3 steps"
    assert repr(OneCycleLR(sgd(), 2.0, 10)) == "OneCycleLR(2.0, 10): lr 0.08 after 0 steps"


# ---- refusals

@pytest.mark.parametrize("make, message", [
    (lambda: StepLR(sgd(), 0), "step_size must be an integer of at least 1, got 0"),
    (lambda: StepLR(sgd(), 1.5), "step_size must be an integer"),
    (lambda: StepLR(sgd(), 1, gamma=-1), "gamma must be a finite number of at least 0"),
    (lambda: StepLR([tc.Parameter([1.0])], 1), "optimizer must be an Optimizer, got"),
    (lambda: CosineAnnealingLR(sgd(), 0), "T_max"),
    (lambda: CosineAnnealingLR(sgd(), 5, eta_min=-1), "eta_min"),
    (lambda: OneCycleLR(sgd(), 1.0, 10, pct_start=1.5), "pct_start must be a number from 0 to 1"),
    (lambda: OneCycleLR(sgd(), 1.0, 10, div_factor=0.5), "div_factor must be a finite number"),
    (lambda: OneCycleLR(sgd(), [1.0, 2.0], 10), "max_lr has 2 rates for 1 groups"),
    (lambda: OneCycleLR(sgd(), -1.0, 10), "max_lr"),
    (lambda: OneCycleLR(sgd(), 1.0, 10, momentum=(0.8, 0.9)), "SGD has no momentum to cycle"),
    (lambda: OneCycleLR(sgd(momentum=0.9), 1.0, 10, momentum=(0.9, 0.8)),
     r"momentum must be \(low"),
    (lambda: OneCycleLR(sgd(momentum=0.9), 1.0, 10, momentum=0.9), r"momentum must be \(low"),
    (lambda: LinearWarmup(sgd(), 0), "warm_steps"),
    (lambda: LinearWarmup(3, 5), "LinearWarmup: optimizer must be an Optimizer, got 3"),
    (lambda: LinearWarmup(sgd(), 5, start_factor=2), "start_factor must be a number from 0 to 1"),
    (lambda: MultiStepLR(sgd(), [3, 3]), r"milestones must rise, got \[3, 3\]"),
    (lambda: LambdaLR(sgd(), 0.5), "lr_lambda must be callable, got 0.5"),
    (lambda: LambdaLR(sgd(), lambda t: -1.0), r"lr_lambda\(0\) must be a finite number"),
    (lambda: SequentialLR(sgd(), [], [1]), "0 schedulers need one milestone fewer, got 1"),
    (lambda: SequentialLR(sgd(), [StepLR(sgd(), 1)], []), "schedules of the same optimizer, got"),
    (lambda: ReduceLROnPlateau(sgd(), mode="low"), "mode must be one of min, max, got 'low'"),
    (lambda: ReduceLROnPlateau(sgd(), factor=1.0), "factor must be a number from 0 up to"),
    (lambda: ReduceLROnPlateau(sgd(), patience=-1), "patience"),
    (lambda: ReduceLROnPlateau(sgd()).step(), "step needs the loss as a number, got None"),
    (lambda: ReduceLROnPlateau(sgd()).step(math.nan), "got nan"),
])
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises((tc.SettingError, tc.DTypeError), match=message):
        make()


def test_a_schedule_that_has_stepped_cannot_be_wrapped():
    schedule = StepLR(sgd(), 1)
    schedule.step()
    with pytest.raises(tc.SettingError, match="StepLR has stepped 1 times already"):
        LinearWarmup(schedule, 3)


def test_groups_added_after_the_schedule_are_noticed():
    optimizer = sgd()
    schedule = StepLR(optimizer, 1)
    optimizer.add_param_group({"params": [tc.Parameter([1.0])]})
    with pytest.raises(tc.SettingError, match="2 groups now, 1 when the schedule was made"):
        schedule.step()


def test_a_schedule_draws_its_rates_in_a_notebook():
    for make in (lambda o: OneCycleLR(o, 2.0, epochs=4, steps_per_epoch=3), lambda o: StepLR(o, 2),
                 lambda o: LinearWarmup(CosineAnnealingLR(o, 30), 5),
                 lambda o: LambdaLR(o, lambda t: 1 / (1 + t)), ReduceLROnPlateau):
        schedule = make(sgd())
        schedule.step(1.0)
        html = schedule._repr_html_()
        assert repr(schedule).partition(":")[0].replace("<", "&lt;").replace(">", "&gt;") in html
        assert ("<polyline" in html) is not schedule.needs_loss
    assert "steps 0 to 12" in OneCycleLR(sgd(), 2.0, 12)._repr_html_()

