"""The pace of a search, asked before each proposal, is what a snapshot of the whole search says."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.engine.search import pace as module
from sweeps.engine.search.pace import Pace
from sweeps.engine.search.results import Staircase, hypervolume
from sweeps.engine.search.snapshot import Snapshot, WorkClock, flat_for, hours_until, merged
from tests.engine.search.trials import Lab

shares = st.integers(0, 6).map(lambda sixths: sixths / 6)


@given(st.lists(st.tuples(shares, shares)))
def test_an_area_that_grows_point_by_point_is_the_hypervolume(points: list[tuple[float, float]]) -> None:
    stairs = Staircase()
    for count, point in enumerate(points, 1):
        assert stairs.add(*point) == pytest.approx(hypervolume(points[:count]))


spans = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6)).map(lambda one: (one[0], one[0] + one[1])))


@given(spans, st.integers(0, 40))
def test_a_clock_says_the_hours_of_the_intervals(intervals: list[tuple[int, int]], moment: int) -> None:
    union = merged(intervals)
    assert WorkClock(union).hours_until(moment) == pytest.approx(hours_until(moment, union))


@given(spans, spans)
def test_a_union_that_grows_span_by_span(intervals: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    union = module._Union()
    for span in intervals:
        union.add(span)
    whole = merged(intervals)
    assert union._intervals == whole
    assert union.seconds == sum(end - begin for begin, end in whole)
    missing = sum(union.missing(span) for span in merged(others))
    assert union.seconds + missing == sum(end - begin for begin, end in merged([*intervals, *others]))


ends = st.tuples(st.sampled_from(["finish", "masked", "fail", "run", "wait"]), shares, shares, st.integers(0, 40))


@settings(max_examples=25)
@given(st.lists(ends, max_size=8), st.randoms(use_true_random=False))
def test_the_pace_is_that_of_a_snapshot(tmp_path_factory: pytest.TempPathFactory, turns, rng) -> None:
    """Trials end in another order than they were proposed in, and some of them are seen late."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    pace = Pace(lab.sweep, lab.folder)
    trials = [lab.propose(number) for number in range(len(turns))]
    waiting = list(zip(trials, turns, strict=True))
    rng.shuffle(waiting)
    while waiting:
        trial, (how, clean, robust, time) = waiting.pop()
        if how in {"finish", "masked"}:
            verdict = "masked" if how == "masked" else "clear"
            lab.finish(trial, clean, robust, time=60.0 * time, verdict=verdict)
        elif how == "fail":
            lab.end(trial, "failed")
        elif how == "run":
            lab.begin(trial, time=60.0 * time)
        if rng.random() < 0.6 or not waiting:
            pace.look(trials)
            snapshot = Snapshot.of(lab.sweep, lab.search, lab.folder)
            assert pace.hours == pytest.approx(snapshot.hours)
            assert pace.flat == flat_for(snapshot)


def test_a_trial_that_has_ended_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(tmp_path)
    over, running = lab.propose(0), lab.propose(1)
    lab.finish(over)
    lab.begin(running)
    pace = Pace(lab.sweep, lab.folder)
    pace.look([over, running])
    seen: list[str] = []
    read = module.read_status
    monkeypatch.setattr(module, "read_status", lambda home: (seen.append(home.name), read(home))[1])
    pace.look([over, running, lab.propose(2)])
    assert seen == [running.id, "trial-002"]
