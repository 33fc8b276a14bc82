import math

import pytest

from bat_core.config import TrainConfig
from bat_core.schedule import learning_rate


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
