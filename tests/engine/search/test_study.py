"""What a study proposes, and what it is told of what became of it."""

import dataclasses
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from search_spaces.base import Point, compose, get_space
from search_spaces.narrowing import narrow
from sweeps.engine.search.results import scores
from sweeps.engine.search.study import FROM, STUDY, TRIAL
from sweeps.engine.search.trial_config import trial_config
from tests.engine.search.trials import LINE, PIXEL, SPACE, Lab, search_of

WHOLE = compose([get_space(name) for name in ("bat", "schedule", "model")]).at(PIXEL)
NARROW = narrow(SPACE, fixed=["label=adversarial", "num_steps=2"], ranges=["beta=16:64", "schedule=cosine,one_cycle"])


def lies_in(space, point: Point) -> bool:
    """Every parameter that applies is there, is admitted and has its type; no other is."""
    left = dict(point)
    for p in space.parameters:
        if not all(point.get(name) in values for name, values in p.when.items()):
            continue
        value = left.pop(p.name)
        if not p.admits(value) or (p.kind == "integer" and type(value) is not int):
            return False
    return not left


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "auto"])
@pytest.mark.parametrize("space", [SPACE, WHOLE, NARROW], ids=["bat+schedule", "whole", "narrow"])
def test_the_first_proposal_is_the_papers_point(tmp_path, space, sampler):
    study = Lab(tmp_path, search_of(space, sampler=sampler)).open()
    first = study.propose()
    assert first.point == space.default_point()
    assert study.study.trials[0].user_attrs == {FROM: "the paper", TRIAL: "trial-000"}
    assert study.propose().point != first.point


def test_a_proposal_is_on_disk_before_it_is_returned(tmp_path):
    lab = Lab(tmp_path, search_of(WHOLE, seed=7))
    study = lab.open()
    for number in range(12):
        trial = study.propose()
        assert (trial.id, trial.role) == (f"trial-{number:03d}", "search")
        assert lab.folder.find(lab.sweep, trial.id) == trial
        assert study.trials()[-1] == trial
        assert lies_in(WHOLE, trial.point)
        config = trial_config(WHOLE, trial.point, lab.search.base)
        assert trial.config == dataclasses.replace(config, seed=7000 + number)
    assert study.unfinished() == study.trials()
    assert len(study.trials()) == 12


def test_a_finalist_is_none_of_the_searchs_trials(tmp_path):
    lab = Lab(tmp_path)
    study = lab.open()
    first = study.propose()
    lab.propose(7, role="finalist")
    again = lab.open()
    assert again.trials() == [first]
    assert again.propose().id == "trial-001"
    assert len(again.study.trials) == 2


def test_what_cannot_vary_is_in_the_point_and_not_asked_of_the_sampler(tmp_path):
    study = Lab(tmp_path, search_of(NARROW)).open()
    for _ in range(5):
        point = study.propose().point
        assert lies_in(NARROW, point)
        assert (point["label"], point["num_steps"]) == ("adversarial", 2)
        asked = study.study.trials[-1].params
        assert {"label", "num_steps"} == set(point) - set(asked)
        assert all(point[name] == value for name, value in asked.items())


def test_a_seed_names_what_is_drawn(tmp_path):
    drawn = {}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        study = Lab(tmp_path / name, search_of(seed=seed)).open()
        drawn[name] = [study.propose().point for _ in range(6)]
    assert drawn["one"] == drawn["same"]
    assert drawn["one"][0] == drawn["other"][0]  # the paper's
    assert all(one != other for one, other in zip(drawn["one"][1:], drawn["other"][1:], strict=True))


def test_what_finished_is_complete_with_what_it_came_to(tmp_path):
    lab = Lab(tmp_path)
    study = lab.open()
    first, second = study.propose(), study.propose()
    lab.finish(second, 0.8, 0.3, verdict="suspect")
    study.settle(second)
    waiting, told = study.study.trials
    assert (waiting.state, told.state) == (TrialState.RUNNING, TrialState.COMPLETE)
    assert told.values == [0.8, 0.3]
    assert (told.user_attrs[TRIAL], told.user_attrs["verdict"]) == (second.id, "suspect")
    assert study.unfinished() == [first]


@pytest.mark.parametrize(
    ("objective", "values"), [("robust+hours", [0.3, 2 / 60]), ("pgd", [0.32]), ("robust-per-hour", [9.0])]
)
def test_values_are_those_of_the_objective_over_all_processes(tmp_path, objective, values):
    lab = Lab(tmp_path, search_of(objective=objective), num_workers=2)
    study = lab.open()
    trial = study.propose()
    lab.finish(trial, 0.8, 0.3, epochs=1, seconds=60.0)
    study.settle(trial)
    assert study.study.trials[0].values == pytest.approx(values)


@pytest.mark.parametrize(
    ("how", "state", "said"), [("stopped", TrialState.PRUNED, "stopped"), ("failed", TrialState.FAIL, "failed")]
)
def test_what_did_not_finish_has_no_value_and_says_why(tmp_path, how, state, said):
    lab = Lab(tmp_path)
    study = lab.open()
    trial = study.propose()
    lab.end(trial, how, "not among the best")
    study.settle(trial)
    (told,) = study.study.trials
    assert (told.state, told.values, told.user_attrs[said]) == (state, None, "not among the best")
    assert study.unfinished() == []


@pytest.mark.parametrize(
    ("objective", "believed"),
    [("clean+robust", [False, True]), ("clean+pgd", [True, False]), ("robust", [False, True])],
)
def test_a_masked_trial_is_not_feasible_unless_masks_are_asked_for(tmp_path, objective, believed):
    lab = Lab(tmp_path, search_of(objective=objective))
    study = lab.open()
    for clean, robust, masking_status in ((0.95, 0.9, "masked"), (0.9, 0.5, "clear")):
        trial = study.propose()
        lab.finish(trial, clean, robust, verdict=masking_status)
        study.settle(trial)
    masked, clear = study.study.trials
    assert (max(masked.constraints.values(), default=0) <= 0) == (objective == "clean+pgd")
    assert max(clear.constraints.values(), default=0) <= 0
    best = {trial.number for trial in study.study.best_trials}
    assert [number in best for number in (0, 1)] == believed


def test_a_trial_below_the_floor_is_not_feasible(tmp_path):
    lab = Lab(tmp_path, search_of(objective="robust-at-clean>=90%"))
    study = lab.open()
    for clean in (0.85, 0.95):
        trial = study.propose()
        lab.finish(trial, clean, 0.5)
        study.settle(trial)
    below, above = (trial.constraints["clean floor"] for trial in study.study.trials)
    assert (below, above) == (pytest.approx(0.05), pytest.approx(-0.05))


@pytest.mark.parametrize("sampler", ["tpe", "gp", "auto"])
def test_a_sampler_that_learns_goes_on_from_all_kinds_of_ends(tmp_path, sampler):
    lab = Lab(tmp_path, search_of(sampler=sampler))
    study = lab.open()
    for number in range(16):
        trial = study.propose()
        assert lies_in(SPACE, trial.point)
        if number % 4 == 2:
            lab.end(trial, "stopped" if number % 8 == 2 else "failed")
        else:
            lab.finish(trial, 0.9 - number / 50, 0.2 + number / 40, verdict="masked" if number % 5 == 3 else "clear")
        study.settle(trial)
    points = [tuple(sorted(trial.point.items(), key=str)) for trial in study.trials()]
    assert len(set(points)) == 16


def test_optuna_reads_the_file_alone(tmp_path):
    lab = Lab(tmp_path)
    study = lab.open()
    for masking_status in ("clear", "masked"):
        trial = study.propose()
        lab.finish(trial, 0.9, 0.5, verdict=masking_status)
        study.settle(trial)
    study.propose()
    read = optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(tmp_path / STUDY))))
    assert read.study_name == lab.sweep.id
    assert [direction.name for direction in read.directions] == ["MAXIMIZE", "MAXIMIZE"]
    assert [trial.state.name for trial in read.trials] == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert [trial.number for trial in read.best_trials] == [0]
    for trial, mine in zip(read.trials, study.trials(), strict=True):
        assert trial.params == {name: mine.point[name] for name in trial.params}
        assert trial.user_attrs[TRIAL] == mine.id


def teach(path: Path, space, *ends) -> list:
    """The scores of a search of its own, over a space of its own."""
    lab = Lab(path, search_of(space, seed=5))
    study = lab.open()
    for clean, robust, masking_status in ends:
        lab.finish(study.propose(), clean, robust, verdict=masking_status)
    return scores(lab.sweep, lab.folder)


def test_what_another_search_found_is_learnt_from_and_counts_for_nothing(tmp_path):
    taught = teach(tmp_path / "other", SPACE, (0.9, 0.5, "clear"), (0.9, 0.8, "masked"), (0.7, 0.6, "suspect"))
    lab = Lab(tmp_path / "mine", search_of(warm_start=("other",)))
    study = lab.open()
    assert study.sources() == set()
    study.add(taught, "other")
    assert study.sources() == lab.open().sources() == {"other"}
    known = study.study.trials
    assert [trial.state.name for trial in known] == ["COMPLETE"] * 3
    assert [trial.values for trial in known] == [[0.9, 0.5], [0.9, 0.8], [0.7, 0.6]]
    assert [max(trial.constraints.values()) > 0 for trial in known] == [False, True, False]
    assert [trial.user_attrs for trial in known] == [{FROM: "other"}] * 3
    for trial, one in zip(known, taught, strict=True):
        assert trial.params == one.point
    assert (study.trials(), study.unfinished()) == ([], [])
    first = study.propose()
    assert first.id == "trial-000"
    assert first.point not in [one.point for one in taught]
    again = lab.open()
    assert again.trials() == [first]
    assert [trial.state.name for trial in again.study.trials] == ["COMPLETE"] * 3 + ["RUNNING"]


def test_points_outside_the_space_are_passed_over(tmp_path):
    taught = teach(tmp_path / "other", LINE, *[(0.9, 0.5, "clear")] * 8)
    inside = [one for one in taught if 0.1 <= one.point["lr"] <= 0.3]
    assert 0 < len(inside) < len(taught)
    mine = narrow(LINE, ranges=["lr=0.1:0.3"])
    study = Lab(tmp_path / "mine", search_of(mine, warm_start=("other",))).open()
    study.add(taught, "other")
    assert [trial.params for trial in study.study.trials] == [one.point for one in inside]


def test_of_what_is_fixed_here_only_the_same_is_learnt_from(tmp_path):
    taught = teach(tmp_path / "other", SPACE, *[(0.9, 0.5, "clear")] * 12)
    mine = narrow(SPACE, fixed=["random_start=no"])
    same = [one for one in taught if one.point["random_start"] is False]
    assert 0 < len(same) < len(taught)
    study = Lab(tmp_path / "mine", search_of(mine, warm_start=("other",))).open()
    study.add(taught, "other")
    assert len(study.study.trials) == len(same)
    assert all("random_start" not in trial.params for trial in study.study.trials)
