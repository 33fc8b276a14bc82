import json
import shutil

import pytest

from bat_core.config import TrialConfig, from_dict, to_dict
from bat_core.errors import InputError
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Resources, Sweep, Trial

POINT = {"eps": 0.1, "num_steps": 3.0, "target": "mc", "random_start": True}


def sweep_of(*trials, **more):
    return Sweep(name="s", command="", data_dir=None, pixel=0.1, resources=Resources(), trials=tuple(trials), **more)


def trial(name, role="search", **more):
    return Trial(id=name, config=TrialConfig(), role=role, **more)


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path / "sweep")


def test_an_open_sweep_may_begin_with_no_trials_and_is_read_as_it_was_written(folder):
    sweep = sweep_of(open=True)
    folder.create(sweep)
    assert folder.load() == sweep
    assert folder.trials(sweep) == ()


def test_any_other_sweep_needs_trials():
    with pytest.raises(InputError, match="the sweep has no trials"):
        sweep_of()
    with pytest.raises(InputError, match="duplicate trial 'a'"):
        sweep_of(trial("a"), trial("a"), open=True)


def test_a_sweep_keeps_the_threats_that_it_is_verified_under_and_without_them_its_file_is_as_it_was(folder):
    sweep = sweep_of(open=True, threats=("union", "linf", "l2"))
    folder.create(sweep)
    assert folder.load() == sweep
    assert "threats" not in to_dict(sweep_of(open=True))
    with pytest.raises(InputError, match=r"sweep\.threats"):
        sweep_of(open=True, threats=("l1",))


def test_a_trial_is_one_of_an_open_sweeps_once_it_is_proposed(folder):
    sweep = sweep_of(trial("z", "grid"), open=True)
    folder.create(sweep)
    proposed = [trial("b", "finalist"), trial("c"), trial("a"), trial("a2", "finalist")]
    for one in proposed:
        folder.propose(one)
    assert [one.id for one in folder.trials(sweep)] == ["z", "a", "c", "a2", "b"]
    assert [one.role for one in folder.trials(sweep)] == ["grid", "search", "search", "finalist", "finalist"]
    assert all(folder.find(sweep, one.id) == one for one in (*sweep.trials, *proposed))


def test_a_point_survives_its_file(folder):
    one = trial("a", point=POINT)
    folder.propose(one)
    back = folder.find(sweep_of(open=True), "a")
    assert back == one
    assert [type(value) for value in back.point.values()] == [float, float, str, bool]
    assert hash(back) == hash(one)


def test_a_sweep_that_is_closed_knows_its_trials_alone(folder):
    sweep = sweep_of(trial("z", "grid"))
    folder.create(sweep)
    folder.propose(trial("a"))
    assert [one.id for one in folder.trials(sweep)] == ["z"]


def test_a_proposal_that_was_cut_short_is_none(folder):
    sweep = sweep_of(open=True)
    folder.create(sweep)
    folder.propose(trial("a"))
    folder.trial(trial("b")).mkdir()
    folder.trial(trial("c")).mkdir()
    (folder.trial(trial("c")) / ".trial.json.partial").write_text('{"id": "c", "con')
    assert [one.id for one in folder.trials(sweep)] == ["a"]


def test_a_description_from_before_there_were_open_sweeps_is_read(folder):
    sweep = sweep_of(trial("z", "grid"))
    old = to_dict(sweep)
    del old["open"], old["trials"][0]["point"]
    assert from_dict(Sweep, json.loads(json.dumps(old))) == sweep


def test_a_thousand_trials_stay_in_order(folder):
    sweep = sweep_of(open=True)
    folder.create(sweep)
    for name in ("trial-1000", "trial-999", "trial-002"):
        folder.propose(trial(name))
    assert [one.id for one in folder.trials(sweep)] == ["trial-002", "trial-999", "trial-1000"]


def test_a_folder_that_is_made_anew_has_its_own_trials(folder):
    for seed in (1, 2):
        sweep = sweep_of(open=True)
        folder.create(sweep)
        folder.propose(Trial(id="trial-000", config=TrialConfig(seed=seed)))
        assert [one.config.seed for one in folder.trials(sweep)] == [seed]
        assert folder.find(sweep, "trial-000").config.seed == seed
        shutil.rmtree(folder.path)
