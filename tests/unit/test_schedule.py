import itertools
import math

import pytest

from bat_core.config import TrainConfig
from bat_core.schedule import learning_rate, update_rate


def epochs_rates(config, epochs):
    return [learning_rate(config, epoch / epochs) for epoch in range(epochs)]


def test_the_papers_schedule_falls_tenfold_after_60_and_90_of_100_epochs():
    rates = epochs_rates(TrainConfig(schedule="multi_step", lr=0.1), 100)
    assert rates == pytest.approx([0.1] * 60 + [0.01] * 30 + [0.001] * 10, rel=1e-12)


@pytest.mark.parametrize("epochs", [10, 20, 30, 50, 70, 90, 200])
def test_a_milestone_falls_on_the_epoch_it_names(epochs):
    rates = epochs_rates(TrainConfig(schedule="multi_step", lr=1, milestones=(0.3, 0.7)), epochs)
    assert [round(-math.log10(rate)) for rate in rates].count(0) == 3 * epochs // 10
    assert [round(-math.log10(rate)) for rate in rates].count(2) == 3 * epochs // 10


def test_one_cycle_rises_to_the_peak_and_falls_to_zero_in_straight_lines():
    config = TrainConfig(schedule="one_cycle", lr=0.2)
    points = {0.0: 0.0, 0.15: 0.1, 0.3: 0.2, 0.65: 0.1, 1.0: 0.0}
    for progress, rate in points.items():
        assert learning_rate(config, progress) == pytest.approx(rate, abs=1e-12)


def test_cosine_is_half_a_wave():
    config = TrainConfig(schedule="cosine", lr=0.2)
    for progress, rate in {0.0: 0.2, 1 / 3: 0.15, 0.5: 0.1, 2 / 3: 0.05, 1.0: 0.0}.items():
        assert learning_rate(config, progress) == pytest.approx(rate, abs=1e-12)


@pytest.mark.parametrize("schedule", ["one_cycle", "multi_step", "cosine"])
def test_no_rate_is_negative_or_above_the_peak(schedule):
    rates = epochs_rates(TrainConfig(schedule=schedule, lr=0.3), 997)
    assert min(rates) >= 0
    assert max(rates) <= 0.3


ALL = ["one_cycle", "multi_step", "cosine"]


@pytest.mark.parametrize("schedule", ALL)
def test_untold_nothing_has_changed(schedule):
    """The schedules as they were before anything about them could be told, written out."""
    before = {
        "one_cycle": lambda p: 0.3 * min(p / 0.3, (1 - p) / 0.7),
        "multi_step": lambda p: 0.3 * 0.1 ** ((p >= 0.6) + (p >= 0.9)),
        "cosine": lambda p: 0.3 * (1 + math.cos(math.pi * p)) / 2,
    }[schedule]
    for config in (TrainConfig(schedule=schedule, lr=0.3), TrainConfig(schedule=schedule, lr=0.3, warm_up=None)):
        for step in range(997):
            assert learning_rate(config, step / 997) == pytest.approx(before(step / 997), rel=1e-12)


@pytest.mark.parametrize("peak", [0.1, 0.25, 0.5, 0.9])
def test_one_cycle_peaks_where_it_is_told_without_a_jump(peak):
    config = TrainConfig(schedule="one_cycle", lr=0.2, warm_up=peak)
    points = {0.0: 0.0, peak / 2: 0.1, peak: 0.2, (1 + peak) / 2: 0.1, 1.0: 0.0}
    for progress, rate in points.items():
        assert learning_rate(config, progress) == pytest.approx(rate, abs=1e-12)
    rates = epochs_rates(config, 1000)
    steepest = 0.2 / min(peak, 1 - peak) / 1000
    assert max(abs(later - sooner) for sooner, later in itertools.pairwise(rates)) <= steepest * (1 + 1e-9)


def test_one_cycle_without_warm_up_only_falls():
    rates = epochs_rates(TrainConfig(schedule="one_cycle", lr=0.2, warm_up=0.0), 100)
    assert rates[0] == pytest.approx(0.2)
    assert rates == pytest.approx([0.2 * (1 - step / 100) for step in range(100)])


@pytest.mark.parametrize("drop", [0.05, 0.5])
def test_each_milestone_multiplies_by_the_drop(drop):
    config = TrainConfig(schedule="multi_step", lr=0.4, milestones=(0.4, 0.8), drop=drop)
    rates = epochs_rates(config, 10)
    assert rates == pytest.approx([0.4] * 4 + [0.4 * drop] * 4 + [0.4 * drop**2] * 2, rel=1e-12)


def test_cosine_ends_at_the_share_it_is_told():
    config = TrainConfig(schedule="cosine", lr=0.2, final_lr=0.1)
    for progress, rate in {0.0: 0.2, 0.5: 0.11, 1.0: 0.02}.items():
        assert learning_rate(config, progress) == pytest.approx(rate, abs=1e-12)
    rates = epochs_rates(config, 100)
    assert rates == sorted(rates, reverse=True)
    assert learning_rate(TrainConfig(schedule="cosine", lr=0.2, final_lr=1), 0.7) == pytest.approx(0.2)


@pytest.mark.parametrize("schedule", ["multi_step", "cosine"])
@pytest.mark.parametrize("warm_up", [0.05, 0.15])
def test_a_warm_up_rises_in_a_straight_line_and_then_changes_nothing(schedule, warm_up):
    cold, warm = TrainConfig(schedule=schedule, lr=0.2), TrainConfig(schedule=schedule, lr=0.2, warm_up=warm_up)
    assert learning_rate(warm, 0.0) == 0
    for step in range(1000):
        progress = step / 1000
        share = min(progress / warm_up, 1.0)
        assert learning_rate(warm, progress) == pytest.approx(share * learning_rate(cold, progress), rel=1e-12)


@pytest.mark.parametrize("schedule", ALL)
def test_what_belongs_to_another_schedule_changes_nothing(schedule):
    others = {
        "one_cycle": {"drop": 0.3, "final_lr": 0.5, "milestones": (0.2,)},
        "multi_step": {"final_lr": 0.5},
        "cosine": {"drop": 0.3, "milestones": (0.2,)},
    }[schedule]
    mine, told = TrainConfig(schedule=schedule), TrainConfig(schedule=schedule, **others)
    assert epochs_rates(mine, 50) == epochs_rates(told, 50)


@pytest.mark.parametrize("warm_up", [None, 0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("schedule", ["one_cycle", "multi_step", "cosine"])
def test_the_only_update_of_a_run_changes_the_weights(schedule, warm_up):
    config = TrainConfig(schedule=schedule, lr=0.2, warm_up=warm_up)
    assert 0 < update_rate(config, 0.0, updates=1) <= 0.2


def test_the_only_update_of_one_cycle_is_in_the_middle_and_others_start_where_they_did():
    one_cycle = TrainConfig(schedule="one_cycle", lr=0.2)
    assert update_rate(one_cycle, 0.0, updates=1) == learning_rate(one_cycle, 0.5)
    for schedule in ("multi_step", "cosine"):
        assert update_rate(TrainConfig(schedule=schedule, lr=0.2), 0.0, updates=1) == 0.2


@pytest.mark.parametrize("warm_up", [None, 0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("schedule", ["one_cycle", "multi_step", "cosine"])
@pytest.mark.parametrize("updates", [2, 3, 10])
def test_several_updates_follow_the_schedule_exactly_and_only_the_first_may_be_zero(schedule, warm_up, updates):
    config = TrainConfig(schedule=schedule, lr=0.2, warm_up=warm_up)
    rates = [update_rate(config, update / updates, updates=updates) for update in range(updates)]
    assert rates == [learning_rate(config, update / updates) for update in range(updates)]
    assert min(rates[1:]) > 0
