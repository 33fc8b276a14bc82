import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bat_core.stats import wilson
from sweeps.engine.search.results import front, hypervolume, largest_part, score, scores, volume
from sweeps.engine.sweep.records import read_status
from tests.engine.search.trials import Lab, score_of

shares = st.integers(0, 20).map(lambda twentieths: twentieths / 20)
clouds = st.lists(st.tuples(shares, shares), max_size=12)
quarters = st.integers(0, 4).map(lambda quarters: quarters / 4)  # so few that many are equal
graded = st.lists(st.tuples(quarters, quarters, st.booleans()), max_size=12)


def made(points):
    return [
        score_of(clean, robust, name=str(at), masked=bool(rest and rest[0]))
        for at, (clean, robust, *rest) in enumerate(points)
    ]


def beats(one, other):
    """By the definition: nowhere worse, somewhere better."""
    as_good = one.clean_acc >= other.clean_acc and one.robust_acc >= other.robust_acc
    return as_good and (one.clean_acc, one.robust_acc) != (other.clean_acc, other.robust_acc)


@given(graded)
def test_the_front_is_what_no_believed_trial_beats(points):
    everything = made(points)
    believed = [one for one in everything if not one.masked]
    unbeaten = [one for one in believed if not any(beats(other, one) for other in believed)]
    first = {(one.clean_acc, one.robust_acc): one for one in reversed(unbeaten)}
    assert front(everything) == sorted(first.values(), key=lambda one: one.robust_acc)


def test_of_those_that_are_equal_in_one_accuracy_the_better_stays():
    for points in itertools.permutations([(0.5, 0.5), (0.6, 0.5), (0.6, 0.4), (0.7, 0.1), (0.7, 0.2)]):
        assert [(one.clean_acc, one.robust_acc) for one in front(made(points))] == [(0.7, 0.2), (0.6, 0.5)]


def test_of_equals_the_first_stays():
    assert [one.id for one in front(made([(0.5, 0.5), (0.5, 0.5)]))] == ["0"]


@pytest.mark.parametrize("why", [{"masked": True}, {"masking_status": "suspect", "flags": ("one_class",)}], ids=str)
def test_a_trial_that_does_not_count_is_on_no_front_and_pushes_none_off_it(why):
    best, other = score_of(0.8, 0.4), score_of(0.9, 0.9, **why)
    assert front([other, best]) == [best]
    assert front([other]) == []
    assert volume([other, best]) == volume([best])


@given(clouds)
def test_hypervolume_is_the_count_of_a_grids_cells_that_are_dominated(points):
    cells = [(x, y) for x in range(20) for y in range(20)]
    dominated = sum(any(clean * 20 > x + 0.5 and robust * 20 > y + 0.5 for clean, robust in points) for x, y in cells)
    assert hypervolume(points) == pytest.approx(dominated / 400, abs=1e-12)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=6))
def test_hypervolume_is_inclusion_and_exclusion(points):
    expected = sum(
        (-1) ** (size + 1) * min(clean for clean, _ in part) * min(robust for _, robust in part)
        for size in range(1, len(points) + 1)
        for part in itertools.combinations(points, size)
    )
    assert hypervolume(points) == pytest.approx(expected, abs=1e-9)


@given(clouds)
def test_hypervolume_above_another_reference(points):
    moved = [(max(clean - 0.25, 0), max(robust - 0.1, 0)) for clean, robust in points]
    assert hypervolume(points, reference=(0.25, 0.1)) == pytest.approx(hypervolume(moved), abs=1e-12)


@given(graded)
def test_only_the_front_makes_the_volume(points):
    everything = made(points)
    assert volume(everything) == pytest.approx(volume(front(everything)), abs=1e-12)
    assert volume([one for one in everything if one.masked]) == 0


@given(graded, st.integers(0, 14))
def test_the_largest_part_is_greedy(points, count):
    everything = made(points)
    chosen = largest_part(everything, count)
    assert len(chosen) == min(count, len(everything)) == len({one.id for one in chosen})
    for at, one in enumerate(chosen):
        rest = [other for other in everything if other not in chosen[:at]]
        most = max(volume([*chosen[:at], other]) for other in rest)
        assert volume([*chosen[:at], one]) == most


def test_the_largest_part_begins_with_the_largest_area_and_then_complements_it():
    ends = [score_of(0.9, 0.1), score_of(0.6, 0.5), score_of(0.59, 0.51), score_of(0.1, 0.9)]
    first, second, third = largest_part(ends, 3)
    assert (first, {second.id, third.id}) == (ends[2], {"0.9-0.1", "0.1-0.9"})


def test_a_score_is_what_the_record_says(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    trial = lab.propose()
    lab.finish(
        trial, 0.9, 0.55, time=1000.0, epochs=4, seconds=90.0, pgd_acc=0.6, n=300, robust_n=180, suite="PGD-20+quick",
        verdict="suspect", flags=["more_steps_help"],
    )  # fmt: skip
    found = score(trial, read_status(lab.folder.trial(trial)), processes=2)
    assert found is not None
    assert (found.id, found.point) == ("trial-000", dict(trial.point))
    assert (found.clean_acc, found.robust_acc, found.pgd_acc, found.n, found.robust_n) == (0.9, 0.55, 0.6, 300, 180)
    assert (found.suite, found.masking_status, found.flags) == ("PGD-20+quick", "suspect", ("more_steps_help",))
    assert not found.masked
    assert found.hours == pytest.approx(2 * 4 * 90 / 3600)
    assert found.ended == 1360.0
    assert found.interval == wilson(99, 180)
    assert found.robust_per_hour == pytest.approx(0.55 / 0.2)


def test_a_trial_without_training_time_has_a_finite_rate():
    assert score_of(0.9, 0.5, hours=0.0).robust_per_hour == pytest.approx(0.5e9)


def test_an_interval_is_of_the_verified_images():
    assert score_of(0.9, 1 / 3, n=300, robust_n=3).interval == wilson(1, 3)


@pytest.mark.parametrize("how", ["stopped", "failed"])
def test_a_trial_that_did_not_finish_has_no_score(tmp_path: Path, how: str) -> None:
    lab = Lab(tmp_path)
    trial = lab.propose()
    assert score(trial, read_status(lab.folder.trial(trial)), 1) is None
    lab.begin(trial)
    assert score(trial, read_status(lab.folder.trial(trial)), 1) is None
    lab.end(trial, how)
    assert score(trial, read_status(lab.folder.trial(trial)), 1) is None


def test_scores_are_those_of_a_role_in_the_order_of_proposal(tmp_path: Path) -> None:
    lab = Lab(tmp_path, num_workers=3)
    for number in (2, 0, 1):
        lab.finish(lab.propose(number), robust=number / 10, seconds=60.0)
    lab.propose(3)
    lab.finish(lab.propose(4, role="finalist"), robust=0.9)
    assert [one.id for one in scores(lab.sweep, lab.folder)] == ["trial-000", "trial-001", "trial-002"]
    assert [one.id for one in scores(lab.sweep, lab.folder, role="finalist")] == ["trial-004"]
    assert all(one.hours == pytest.approx(3 / 60) for one in scores(lab.sweep, lab.folder))


@pytest.mark.parametrize(
    ("masking_status", "robust", "verdict"),
    [("clear", 0.0, "nothing to mask"), ("clear", 0.3, "clear"), ("suspect", 0.0, "suspect")],
)
def test_a_trial_that_stands_on_nothing_is_not_called_clear(masking_status, robust, verdict):
    (one,) = made([(0.9, robust)])
    assert replace(one, masking_status=masking_status).verdict == verdict
