"""Successive halving by clean and PGD accuracy."""

from types import SimpleNamespace

import numpy as np
import pytest

from sweeps.engine.ray_backend.rungs import ALWAYS, FrontRung, expected_whole, kept, ranked
from sweeps.engine.ray_backend.search import EpochASHA, Rungs
from sweeps.engine.search.options import default_halving
from tests.engine.search.trials import Lab


def beats(one, other):
    return one != other and one[0] >= other[0] and one[1] >= other[1]


def test_no_point_is_ranked_before_one_that_beats_it():
    rng = np.random.default_rng(0)
    points = [tuple(map(float, row)) for row in rng.integers(0, 6, (40, 2)) / 5]
    order = ranked(points)
    assert sorted(order) == list(range(40))
    for place, at in enumerate(order):
        assert not any(beats(points[later], points[at]) for later in order[place + 1 :])


def test_the_ends_of_a_front_come_first_and_the_crowded_last():
    assert ranked([(0.5, 0.5), (0.9, 0.1), (0.1, 0.9), (0.52, 0.49), (0.3, 0.7)])[:2] == [1, 2]
    assert ranked([(0.0, 1.0), (0.3, 0.7), (0.32, 0.68), (1.0, 0.0)]) == [0, 3, 2, 1]


def test_the_clean_end_survives_a_rung_that_ranks_by_pgd_alone_would_cut():
    rung = FrontRung(epoch=2, factor=7)
    stopped = [rung.stops(f"trial-{k}", 2, (0.5 - k / 100, 0.3 - k / 100)) for k in range(12)]
    assert stopped == [False] * ALWAYS + [True] * (12 - ALWAYS)
    assert not rung.stops("clean", 2, (0.95, 0.0))
    assert rung.stops("neither", 2, (0.3, 0.1))
    assert not rung.stops("later", 3, (0.0, 0.0))


@pytest.mark.parametrize(("trials", "whole"), [(1, 1), (3, 3), (10, 6)])
def test_a_short_search_keeps_whole_trials_and_says_how_many(trials, whole):
    assert expected_whole(trials, 7) == whole
    rng = np.random.default_rng(1)
    counts = []
    for _ in range(300):
        rung = FrontRung(epoch=1, factor=7)
        counts.append(sum(not rung.stops(str(v), 1, (v, v)) for v in rng.permutation(trials).tolist()))
    assert np.mean(counts) == pytest.approx(whole, abs=0.6)
    assert kept(100, 7) == 15


def test_the_scheduler_ranks_by_both_and_replays_what_was_recorded(tmp_path):
    lab = Lab(tmp_path)
    early = [(0.5 - k / 100, 0.3 - k / 100) for k in range(6)]
    for number, (clean, pgd) in enumerate(early):
        trial = lab.propose(number)
        lab.begin(trial, epochs=0).append("epoch", epoch=2, seconds=1.0, val_clean_acc=clean, val_robust_acc=pgd)
    mine = [lab.propose(number) for number in (6, 7)]
    trials = lab.folder.trials(lab.sweep)
    run = SimpleNamespace(sweep=lab.sweep, folder=lab.folder)
    scheduler = EpochASHA(run, trials, Rungs(grace=2, factor=7, longest=10, by="front"))
    said = [
        scheduler.on_trial_result(
            None,
            SimpleNamespace(config={"trial": trial.id}),
            {"epoch": 2, "val_clean_acc": clean, "val_robust_acc": pgd},
        )
        for trial, (clean, pgd) in zip(mine, [(0.9, 0.01), (0.2, 0.2)], strict=True)
    ]
    assert said == ["CONTINUE", "STOP"]


@pytest.mark.parametrize(
    ("objective", "epochs", "grace", "by"),
    [
        ("clean+robust", 10, 2, "front"), ("clean+robust", 50, 10, "front"), ("clean+robust", 4, 2, "front"),
        ("clean+robust", 2, 1, "front"), ("clean+robust", 1, 1, "front"), ("robust", 10, 3, "pgd"),
        ("robust-at-clean>=0.9", 10, 3, "pgd"), ("robust+hours", 10, 3, "pgd"),
    ],
)  # fmt: skip
def test_the_default_follows_objective_and_epochs(objective, epochs, grace, by):
    halving = default_halving(objective, epochs)
    assert (halving.grace, halving.by) == (grace, by)
