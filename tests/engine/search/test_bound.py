"""Trials that cannot enter the front are not verified, and the front is the same without their verification."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from sweeps.engine.ray_backend.search import SearchScheduler
from sweeps.engine.search.observations import END, SIGNALS
from sweeps.engine.search.options import SearchOptions
from sweeps.engine.search.pace import Pace
from sweeps.engine.search.page import story
from sweeps.engine.search.report import report_md, sentence
from sweeps.engine.search.results import front
from sweeps.engine.search.snapshot import Snapshot, flat_for
from sweeps.engine.search.study import BOUND, SearchStudy
from sweeps.engine.search.text import states
from sweeps.engine.sweep.records import read_status
from sweeps.engine.sweep.trial_evaluation import BOUND as ROBUST_BOUND
from sweeps.engine.sweep.trial_evaluation import CLEAN
from tests.engine.search.trials import Lab, score_of, search_of

SHARES = st.integers(0, 6).map(lambda count: count / 6)
TRIALS = st.lists(st.tuples(SHARES, SHARES, SHARES, st.booleans()), max_size=12)


@given(trials=TRIALS)
def test_the_front_is_what_it_is_if_every_trial_is_verified(trials):
    """Each trial has a clean accuracy, a bound, a verified accuracy of at most that, and may be masked."""
    made = [
        (score_of(clean, min(robust, bound), name=f"trial-{number}", masked=masked), bound)
        for number, (clean, bound, robust, masked) in enumerate(trials)
    ]
    study = SearchStudy.__new__(SearchStudy)
    study.search, study._front = search_of(), []
    verified = []
    for one, bound in made:
        if study.dominating(one.clean_acc, bound) is None:
            verified.append(one)
            study._enter(one)
    assert front(verified) == front([one for one, _ in made])


def test_only_a_trial_that_counts_and_is_better_in_one_keeps_another_off(tmp_path):
    lab = Lab(tmp_path)
    study = lab.open()
    masked, first = study.propose(), study.propose()
    lab.finish(masked, 0.99, 0.9, verdict="masked")
    study.settle(masked)
    assert study.dominating(0.5, 0.3) is None
    lab.finish(first, 0.9, 0.5)
    study.settle(first)
    for opened in (study, lab.open()):
        assert opened.dominating(0.9, 0.4) == opened.dominating(0.8, 0.5) == (first.id, 0.9, 0.5)
        assert opened.dominating(0.9, 0.5) is opened.dominating(0.95, 0.1) is opened.dominating(0.1, 0.6) is None
    assert lab.open(skip_dominated=False).dominating(0.1, 0.1) is None


def scheduler_of(lab, study):
    return SearchScheduler(SimpleNamespace(sweep=lab.sweep, folder=lab.folder), study, None)


def test_the_scheduler_stops_it_and_the_record_the_study_and_a_reopened_one_say_so(tmp_path):
    lab = Lab(tmp_path, search_of(sampler="auto"))
    study = lab.open()
    first, beaten, open_still = (study.propose() for _ in range(3))
    lab.finish(first, 0.9, 0.5)
    study.settle(first)
    scheduler = scheduler_of(lab, study)

    def said(trial, clean, bound):
        lab.begin(trial)
        tune = SimpleNamespace(config={"trial": trial.id})
        return scheduler.on_trial_result(None, tune, {CLEAN: clean, ROBUST_BOUND: bound})

    assert said(open_still, 0.8, 0.6) == "CONTINUE"
    assert said(beaten, 0.8, 0.45) == "STOP"
    status = read_status(lab.folder.trial(beaten))
    assert (status.phase, status.bound["clean_acc"], status.bound["robust_bound"]) == ("stopped", 0.8, 0.45)
    assert status.reason.startswith("cannot enter the front: clean 80.0% and at most 45.0% robust")
    assert first.id in status.reason
    study.settle(beaten)
    for opened in (study, lab.open()):
        told = opened.study.trials[1]
        assert (told.state, told.user_attrs[BOUND]) == (TrialState.PRUNED, [0.8, 0.45])
        assert told.user_attrs[SIGNALS][END] == [0.8, 0.45]
        assert opened.unfinished() == [open_still]


def test_without_halving_epochs_stop_nothing(tmp_path):
    lab = Lab(tmp_path)
    tune = SimpleNamespace(config={"trial": "trial-000"})
    assert scheduler_of(lab, lab.open()).on_trial_result(None, tune, {"epoch": 3}) == "CONTINUE"


@pytest.mark.parametrize(
    ("options", "skips"),
    [
        ({}, True), ({"objective": "robust+clean"}, True), ({"verify_all": True}, False), ({"sampler": "gp"}, False),
        ({"objective": "robust"}, False), ({"objective": "clean+robust+hours"}, False),
        ({"objective": "clean+pgd"}, False), ({"objective": "robust-at-clean>=0.9"}, False),
    ],
)  # fmt: skip
def test_it_is_left_out_where_the_front_or_the_sampler_needs_every_number(options, skips, digits):
    assert SearchOptions(model="small_cnn_16", **options).search(digits).skip_dominated == skips


def test_it_is_shown_as_what_it_is_and_counts_as_a_trial_that_added_nothing(tmp_path):
    lab = Lab(tmp_path)
    trials = [lab.propose(number) for number in range(4)]
    lab.finish(trials[0], 0.9, 0.5)
    lab.leave_out(trials[1], 0.8, 0.4)
    lab.leave_out(trials[2], 0.7, 0.3)
    lab.end(trials[3], "stopped", "successive halving at epoch 1: x")
    snapshot = Snapshot.of(lab.sweep, lab.search, lab.folder)
    pace = Pace(lab.sweep, lab.folder)
    pace.look(trials)
    assert flat_for(snapshot) == pace.flat == 2
    assert states(snapshot).endswith("1 finished, 1 stopped early, 2 off the front by PGD and not verified")
    report = report_md(snapshot)
    assert "2 trials were trained and not verified." in report
    assert "| trial-001 | 80.0% | 40.0% | trial-000 has more |" in report
    assert "1 trial stopped early:\n\n- successive halving at epoch 1: trial-003" in report
    assert "1 trial finished" in sentence(snapshot)
    (chart,) = story(snapshot).charts
    shown = {series.name: series for series in chart.series}["at most, not verified (2)"]
    assert shown.hollow
    assert [(mark.x, mark.y) for mark in shown.marks] == [(0.8, 0.4), (0.7, 0.3)]
