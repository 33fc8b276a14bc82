import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.engine.search.snapshot import hours_until, work_intervals
from sweeps.engine.sweep.records import RECORD
from tests.engine.search.trials import events


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], []),
        ([[("start", 10)]], [(10, 10)]),
        ([[("start", 10), ("epoch", 40), ("finished", 70)]], [(10, 70)]),
        ([[("start", 10), ("epoch", 40)]], [(10, 40)]),  # it is under way, or was killed
        ([[("start", 10), ("epoch", 40), ("start", 100), ("finished", 130)]], [(10, 40), (100, 130)]),
        ([[("start", 10), ("failed", 20), ("start", 30), ("failed", 50)]], [(10, 20), (30, 50)]),
        ([[("start", 10), ("finished", 50)], [("start", 30), ("finished", 80)]], [(10, 80)]),  # side by side
        ([[("start", 10), ("finished", 90)], [("start", 30), ("finished", 80)]], [(10, 90)]),  # one within the other
        ([[("start", 10), ("finished", 50)], [("start", 50), ("finished", 80)]], [(10, 80)]),  # one after the other
        ([[("start", 60), ("finished", 80)], [("start", 10), ("finished", 50)]], [(10, 50), (60, 80)]),
        ([[("failed", 30)]], [(30, 30)]),  # it died before it could say that it had begun
        ([[]], []),
    ],
)
def test_work_is_when_a_trial_was_under_way(tmp_path, records, expected):
    folders = [events(tmp_path / str(at), *said) for at, said in enumerate(records)]
    assert work_intervals(folders) == expected


def test_a_restart_of_two_trials_leaves_one_gap(tmp_path):
    first = events(tmp_path / "1", ("start", 0), ("epoch", 30), ("start", 100), ("finished", 160))
    second = events(tmp_path / "2", ("start", 10), ("epoch", 50), ("start", 105), ("finished", 140))
    intervals = work_intervals([first, second])
    assert intervals == [(0, 50), (100, 160)]
    assert hours_until(1000, intervals) == pytest.approx(110 / 3600)


def test_a_trial_without_a_record_was_not_at_work(tmp_path):
    assert work_intervals([tmp_path / "nowhere", events(tmp_path / "1", ("start", 1), ("finished", 2))]) == [(1, 2)]


def test_a_line_that_was_cut_short_is_no_work(tmp_path):
    folder = events(tmp_path / "1", ("start", 1), ("epoch", 5))
    with (folder / RECORD).open("a") as file:
        file.write('{"event": "finished", "time": 99')
    assert work_intervals([folder]) == [(1, 5)]


@pytest.mark.parametrize(("moment", "seconds"), [(0, 0), (10, 0), (20, 10), (40, 30), (70, 30), (100, 30), (130, 60)])
def test_hours_are_counted_until_a_moment(moment, seconds):
    assert hours_until(moment, [(10, 40), (100, 130)]) == pytest.approx(seconds / 3600)


intervals = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10)), min_size=1, max_size=6)


@given(attempts=intervals, moment=st.integers(0, 60))
def test_work_is_the_seconds_that_some_trial_covers(tmp_path_factory, attempts, moment):
    folder = tmp_path_factory.mktemp("records")
    paths = [
        events(folder / str(at), ("start", begin), ("finished", begin + long))
        for at, (begin, long) in enumerate(attempts)
    ]
    covered = {second for begin, long in attempts for second in range(begin, begin + long)}
    found = work_intervals(paths)
    assert found == sorted(found)
    assert all(end < later for (_, end), (later, _) in itertools.pairwise(found))
    assert hours_until(moment, found) * 3600 == pytest.approx(len([s for s in covered if s < moment]))
