import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.engine.search.results import volume
from sweeps.engine.search.snapshot import Finalist, Snapshot, flat_for, trusted_finalists
from tests.engine.search.trials import Lab, score_of, search_of, sweep_of


def view_of(*scored, intervals=((0.0, 3600.0),)):
    return Snapshot(sweep=sweep_of(), search=search_of(), rows=(), finished=scored, intervals=intervals)


def in_turn(*points):
    """Trials that ended one minute after the other."""
    return [score_of(*point[:2], masked=len(point) > 2, ended=60.0 * (at + 1)) for at, point in enumerate(points)]


def test_a_view_is_what_the_records_say(tmp_path):
    lab = Lab(tmp_path)
    lab.finish(lab.propose(0), 0.9, 0.5, time=0.0, epochs=1, seconds=1800.0)
    lab.end(lab.propose(1), "stopped", "successive halving")
    lab.end(lab.propose(2), "failed")
    lab.begin(lab.propose(3), time=7200.0, epochs=2, seconds=900.0)
    lab.propose(4)
    lab.finish(lab.propose(5, role="finalist"), 0.95, 0.9, time=90000.0)
    snapshot = Snapshot.of(lab.sweep, lab.search, lab.folder)
    assert [trial.id for trial, _ in snapshot.rows] == [f"trial-{number:03d}" for number in range(5)]
    phases = ["finished", "stopped", "failed", "training", "waiting"]
    assert [status.phase for _, status in snapshot.rows] == phases
    assert [snapshot.count(phase) for phase in (*phases, "attacking")] == [1, 1, 1, 1, 1, 0]
    assert [one.id for one in snapshot.finished] == ["trial-000"]
    assert snapshot.front == list(snapshot.finished)
    assert (snapshot.finalists, snapshot.champion) == ((), None)
    assert (snapshot.sweep, snapshot.search) == (lab.sweep, lab.search)
    assert snapshot.intervals == ((0.0, 1800.0), (7200.0, 9000.0))
    assert snapshot.hours == 1.0


def test_finalists_and_champion_are_what_the_caller_says(tmp_path):
    lab, finalist = Lab(tmp_path), Finalist(origin=score_of(0.9, 0.5), members=(score_of(0.8, 0.4),))
    snapshot = Snapshot.of(lab.sweep, lab.search, lab.folder, finalists=[finalist], champion="final-trial-000-seed0")
    assert snapshot.finalists == (finalist,)
    assert snapshot.champion == "final-trial-000-seed0"


def test_hours_are_those_at_work(tmp_path):
    assert view_of(intervals=((0.0, 3600.0), (10000.0, 11800.0))).hours == pytest.approx(1.5)
    assert view_of(intervals=()).hours == 0


def test_progress_follows_the_clock_and_the_order_in_which_trials_ended():
    first, second, third = in_turn((0.5, 0.5), (0.9, 0.2), (0.4, 0.8))
    snapshot = view_of(third, first, second, intervals=((0.0, 90.0), (150.0, 180.0)))
    expected = [(60 / 3600, 0.25), (90 / 3600, 0.25 + 0.4 * 0.2), (120 / 3600, 0.25 + 0.4 * 0.2 + 0.4 * 0.3)]
    assert [value for point in snapshot.progress() for value in point] == pytest.approx(
        [value for point in expected for value in point]
    )


shares = st.integers(0, 10).map(lambda tenths: tenths / 10)
turns = st.lists(st.tuples(shares, shares) | st.tuples(shares, shares, st.just("masked")), max_size=10)


@given(turns, st.randoms(use_true_random=False))
def test_progress_never_falls_and_ends_at_the_whole(points, rng):
    scored = in_turn(*points)
    rng.shuffle(scored)
    progress = view_of(*scored).progress()
    assert len(progress) == len(points)
    assert all(sooner <= later for sooner, later in itertools.pairwise(progress))
    assert (progress[-1][1] if progress else 0.0) == pytest.approx(volume(scored))


@pytest.mark.parametrize(
    ("points", "flat"),
    [
        ([], 0),
        ([(0.5, 0.5)], 0),
        ([(0.5, 0.5), (0.4, 0.4)], 1),
        ([(0.5, 0.5), (0.5, 0.5), (0.1, 0.1)], 2),
        ([(0.5, 0.5), (0.4, 0.4), (0.6, 0.1)], 0),
        ([(0.5, 0.5), (0.6, 0.1), (0.4, 0.4), (0.3, 0.3), (0.2, 0.2)], 3),
        ([(0.5, 0.5), (0.9, 0.9, "masked")], 1),
        ([(0.9, 0.9, "masked")], 0),
        ([(0.9, 0.9, "masked"), (0.1, 0.1)], 0),
        ([(0.5, 0.0), (0.0, 0.5)], 1),
    ],
)
def test_flat_is_how_many_of_the_last_added_nothing(points, flat):
    assert flat_for(view_of(*in_turn(*points))) == flat


def test_flat_counts_finished_trials_in_the_order_in_which_they_ended():
    late, early = score_of(0.1, 0.1, ended=200.0), score_of(0.5, 0.5, ended=100.0)
    assert flat_for(view_of(late, early)) == 1


def test_a_rise_within_the_tolerance_is_flat():
    snapshot = view_of(*in_turn((0.5, 0.5), (0.505, 0.5)))
    assert flat_for(snapshot) == 0
    assert flat_for(snapshot, tolerance=0.01) == 1


def test_a_finalist_is_the_mean_of_its_members():
    members = score_of(0.8, 0.4, hours=1.0), score_of(0.9, 0.6, hours=0.5)
    finalist = Finalist(origin=score_of(0.95, 0.7), members=members)
    assert finalist.clean_acc == pytest.approx(0.85)
    assert finalist.robust_acc == pytest.approx(0.5)
    assert finalist.robust_per_hour == pytest.approx((0.4 + 1.2) / 2)


def test_a_finalist_with_a_masked_member_is_not_believed():
    sound = Finalist(origin=score_of(0.9, 0.5), members=(score_of(0.8, 0.4), score_of(0.8, 0.5)))
    broken = Finalist(origin=score_of(0.9, 0.5), members=(score_of(0.8, 0.4), score_of(0.8, 0.5, masked=True)))
    assert not sound.masked
    assert broken.masked
    assert trusted_finalists([broken, sound]) == [sound]
