"""Stopped trials that continue: which ones, when, and what the study and the limits make of them."""

from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from search_spaces.encoding import Encoding
from sweeps.engine.ray_backend.control import stopping
from sweeps.engine.ray_backend.rungs import FrontRung
from sweeps.engine.ray_backend.search import EpochASHA, Rungs, StudySearcher
from sweeps.engine.search.observations import TRIAL, observe
from sweeps.engine.search.options import default_halving
from sweeps.engine.search.pace import Budget, Pace
from sweeps.engine.search.plots.importance import _study
from sweeps.engine.search.run import _has_next, search_rungs
from sweeps.engine.search.snapshot import Snapshot
from sweeps.engine.search.spec import Halving
from sweeps.engine.sweep.records import Record, read_status
from tests.engine.search.trials import LINE, Lab, search_of

HALVING = Halving(grace=2, factor=3, by="front", always=1, continues=True)
RUNGS = Rungs(grace=2, factor=3, longest=10, by="front", always=1, continues=True)


def lab_of(path, **changes):
    return Lab(path, search_of(LINE, **{"sampler": "auto", "halving": HALVING, "num_trials": 4} | changes))


def begin(lab, trial, clean=0.5, pgd=0.3):
    """A trial at the rung."""
    record = Record(lab.folder.trial(trial))
    record.append("start", time=0.0)
    for epoch in (1, 2):
        record.append("epoch", epoch=epoch, seconds=1.0, val_clean_acc=clean, val_robust_acc=pgd, time=float(epoch))
    return record


def halt(lab, trial, clean=0.5, pgd=0.3):
    begin(lab, trial, clean, pgd).append("stopped", reason="successive halving", time=3.0)


def again(lab, trial, *, finish=True):
    """What a trial that continues adds to its record."""
    record = Record(lab.folder.trial(trial))
    record.append("start", time=10.0)
    for epoch in (3, 4):
        record.append("epoch", epoch=epoch, seconds=1.0, val_clean_acc=0.6, val_robust_acc=0.4, time=10.0 + epoch)
    if finish:
        record.append(
            "finished", clean_acc=0.9, robust_acc=0.5, pgd_acc=0.52, n=300, robust_n=200, suite="PGD-20+quick",
            verdict="clear", flags=[], time=20.0,
        )  # fmt: skip


def states(study, trial):
    return [one.state for one in study.study.get_trials() if one.user_attrs.get(TRIAL) == trial.id]


def test_a_stopped_trial_continues_once_the_rung_would_keep_it():
    rung = FrontRung(epoch=2, factor=3, always=1)
    assert [rung.stops(name, 2, (at, at)) for name, at in (("a", 0.9), ("b", 0.8), ("c", 0.7))] == [False, True, True]
    assert rung.next_stopped(any_rank=False) is None
    assert rung.next_stopped(any_rank=True) == "b"
    assert rung.stops("d", 2, (0.1, 0.1))
    assert rung.next_stopped(any_rank=False) == "b", "the best two of four continue"
    rung.stopped.discard("b")
    assert rung.next_stopped(any_rank=False) is None
    assert rung.next_stopped(any_rank=True) == "c"


def test_records_say_who_is_stopped(tmp_path):
    lab = lab_of(tmp_path)
    trials = [lab.propose(number) for number in range(5)]
    begin(lab, trials[0], 0.9, 0.9).append("finished", clean_acc=0.9, time=4.0)
    halt(lab, trials[1], 0.8, 0.8)
    begin(lab, trials[2], 0.7, 0.7).append("stopped", reason="bound", clean_acc=0.7, robust_bound=0.5, time=4.0)
    halt(lab, trials[3], 0.6, 0.6)
    again(lab, trials[3], finish=False)
    halt(lab, trials[4], 0.1, 0.1)
    run = SimpleNamespace(sweep=lab.sweep, folder=lab.folder)
    halving = EpochASHA(run, trials, RUNGS)
    assert halving.next_stopped(any_rank=False) == trials[1]
    assert halving.next_stopped(any_rank=False) is None, "it is handed out once"
    assert halving.next_stopped(any_rank=True) == trials[4]
    told = SimpleNamespace(config={"trial": trials[1].id})
    assert halving.on_trial_result(None, told, {"epoch": 3, "val_clean_acc": 0.0, "val_robust_acc": 0.0}) == "CONTINUE"
    old = EpochASHA(run, trials, Rungs(grace=2, factor=3, longest=10, by="front"))
    assert old.next_stopped(any_rank=True) is None, "a search from before trials continued"


class Limits:
    open = room = False
    left = 0

    def is_open(self):
        return self.open

    def proposes(self):
        return self.left > 0

    def has_room(self):
        return self.room


@pytest.fixture
def searcher(tmp_path):
    stopping.clear()
    lab = lab_of(tmp_path)
    study = lab.open()
    trials = [study.propose() for _ in range(4)]
    begin(lab, trials[0], 0.9, 0.9)
    for trial, at in zip(trials[1:], (0.8, 0.7, 0.6), strict=True):
        halt(lab, trial, at, at)
        study.settle(trial)
    run, limits = SimpleNamespace(sweep=lab.sweep, folder=lab.folder), Limits()
    made = StudySearcher(run, study, EpochASHA(run, study.trials(), RUNGS), limits)
    return SimpleNamespace(lab=lab, study=study, trials=trials, limits=limits, made=made)


def test_interrupted_then_stopped_then_new_then_the_rest(searcher):
    limits, trials = searcher.limits, searcher.trials
    limits.open, limits.left = True, 1
    asked = [searcher.made.suggest(f"tune-{at}") for at in range(2)]
    assert asked == [{"trial": trials[0].id}, {"trial": trials[1].id}]
    assert states(searcher.study, trials[1]) == [TrialState.PRUNED, TrialState.RUNNING]
    assert searcher.made.suggest("tune-2") == {"trial": "trial-004"}
    limits.left = 0
    assert searcher.made.suggest("tune-3") is None, "ranks may still change"
    limits.room = True
    assert searcher.made.suggest("tune-4") == {"trial": trials[2].id}
    limits.open = False
    assert searcher.made.suggest("tune-5") == "FINISHED"


def test_it_ends_when_nothing_runs_and_nobody_may_continue(searcher):
    searcher.limits.open = True
    for at in range(2):
        searcher.made.suggest(f"tune-{at}")
    again(searcher.lab, searcher.trials[0])
    again(searcher.lab, searcher.trials[1])
    assert searcher.made.suggest("tune-2") is None
    for at in range(2):
        searcher.made.on_trial_complete(f"tune-{at}")
    assert searcher.made.suggest("tune-2") == "FINISHED"
    assert states(searcher.study, searcher.trials[1]) == [TrialState.PRUNED, TrialState.COMPLETE]


@pytest.mark.parametrize("killed", ["before its start", "on its way", "before it is told", "never"])
def test_a_kill_at_any_moment_leaves_the_study_as_the_records_are(tmp_path, killed):
    lab = lab_of(tmp_path)
    study = lab.open()
    trial = study.propose()
    halt(lab, trial)
    study.settle(trial)
    if killed != "on its way":  # then also if the journal lost it
        study.reopen(trial)
    if killed != "before its start":
        again(lab, trial, finish=killed != "on its way")
    if killed == "never":
        study.settle(trial)
    reopened = lab.open()
    done = TrialState.PRUNED if killed == "before its start" else TrialState.COMPLETE
    if killed == "on its way":
        assert reopened.unfinished() == [trial]
        assert states(reopened, trial) == [TrialState.PRUNED, TrialState.RUNNING]
        again(lab, trial)
        reopened.settle(trial)
    assert states(reopened, trial) == [TrialState.PRUNED, done]
    assert reopened.unfinished() == []
    assert lab.open().trials() == [trial]
    assert states(lab.open(), trial) == [TrialState.PRUNED, done], "opened again, nothing is added"


def test_the_last_end_of_a_trial_counts_once(tmp_path):
    lab = lab_of(tmp_path)
    study = lab.open()
    trial = study.propose()
    halt(lab, trial)
    study.settle(trial)
    study.reopen(trial)
    again(lab, trial)
    study.settle(trial)
    seen = observe(Encoding(LINE), study.study.directions, study.study.get_trials())
    assert seen.values.tolist() == [[0.9, 0.5]]
    assert len(seen.ended_x) == 1
    shown = _study(Snapshot.of(lab.sweep, lab.search, lab.folder), study.study)
    assert len(shown.trials) == 1


def test_the_limits_count_a_trial_that_continues(tmp_path):
    lab = lab_of(tmp_path, num_trials=1, max_hours=0.004)
    study = lab.open()
    trial = study.propose()
    halt(lab, trial)
    study.settle(trial)
    pace = Pace(lab.sweep, lab.folder)
    budget = Budget(lab.search, study, pace)
    assert budget.is_open()
    assert not budget.proposes()
    assert budget.has_room()
    assert pace.hours == pytest.approx(3 / 3600)
    study.reopen(trial)
    again(lab, trial)
    assert budget.is_open()
    assert pace.hours == pytest.approx(13 / 3600)
    assert (pace._front.flat, pace._front._count) == (0, 1)
    assert not Budget(search_of(LINE, num_trials=1), study, pace).has_room(), "no time was set aside"
    assert not Budget(search_of(LINE, num_trials=1, max_hours=0.003), study, Pace(lab.sweep, lab.folder)).is_open()


def test_a_search_has_something_left_while_a_stopped_trial_may_continue(tmp_path):
    lab = lab_of(tmp_path, num_trials=1)
    study = lab.open()
    trial = study.propose()
    session = SimpleNamespace(folder=lab.folder)
    halt(lab, trial)
    study.settle(trial)

    def has_next(**changes):
        search = search_of(LINE, **{"halving": HALVING, "num_trials": 1} | changes)
        return _has_next(session, search, study, Budget(search, study, Pace(lab.sweep, lab.folder)))

    assert has_next(), "the only one of the rung would be kept"
    assert not has_next(halving=None)
    assert not has_next(halving=Halving(grace=2, factor=3, by="front"))
    assert not has_next(max_hours=1e-6)
    study.reopen(trial)
    again(lab, trial)
    assert read_status(lab.folder.trial(trial)).phase == "finished"
    assert not has_next(max_hours=1.0)


def test_new_searches_continue_and_their_rungs_say_so():
    halving = default_halving("clean+robust", 10)
    assert (halving.continues, halving.always) == (True, 2)
    rungs = search_rungs(search_of(LINE, halving=halving))
    assert (rungs.continues, rungs.always, rungs.factor, rungs.by) == (True, 2, 7, "front")
    assert not default_halving("robust", 10).continues
