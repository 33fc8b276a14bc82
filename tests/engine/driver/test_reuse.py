"""A trial that another sweep has finished is taken over whole, if it is the same."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from bat_core.user_modules import source_digests
from sweeps.engine.driver.reuse import finished_trials, reuse_finished
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import RECORD, read_status
from sweeps.engine.sweep.spec import Resources, Sweep, Trial
from sweeps.engine.sweep.trial import TrialRuntime, run_trial


def a_sweep(path, *trials) -> tuple[Sweep, SweepFolder]:
    folder = SweepFolder(path)
    sweep = Sweep(name="s", command="", data_dir=None, pixel=5 / 255, resources=Resources(), trials=tuple(trials))
    folder.create(sweep)
    return sweep, folder


@pytest.fixture
def tiny_trial(make_trial):
    return make_trial(epochs=1)


@pytest.fixture
def earlier(tmp_path, tiny_trial, digits):
    """A folder of sweeps, in which one has finished a trial."""
    place = tmp_path / "outputs"
    trial = Trial(id="first", config=tiny_trial)
    sweep, folder = a_sweep(place / "one", trial)
    run_trial(trial, digits, folder.trial(trial), TrialRuntime(device=torch.device("cpu")))
    return place, sweep


def test_the_same_trial_is_taken_over(earlier, tmp_path, tiny_trial, digits):
    place, source = earlier
    trial = Trial(id="mine", config=tiny_trial)
    sweep, folder = a_sweep(tmp_path / "two", trial)
    (taken,) = reuse_finished(sweep, folder, digits, [place])
    assert taken.trial.id == "first"
    status = read_status(folder.trial(trial))
    assert status.phase == "finished"
    assert status.reused == f"{source.id}/first"
    theirs, mine = taken.folder, folder.trial(trial)
    files = [
        path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file() and path.name not in {RECORD, ".lock"}
    ]
    assert len(files) >= 4
    assert all((mine / name).read_bytes() == (theirs / name).read_bytes() for name in files)
    assert reuse_finished(sweep, folder, digits, [place]) == []  # it is finished now


def test_another_config_is_not(earlier, tmp_path, tiny_trial, digits):
    trial = Trial(id="mine", config=replace(tiny_trial, seed=tiny_trial.seed + 1))
    sweep, folder = a_sweep(tmp_path / "two", trial)
    assert reuse_finished(sweep, folder, digits, [earlier[0]]) == []
    assert read_status(folder.trial(trial)).phase == "waiting"


def test_nor_where_the_test_images_are_others(earlier, tmp_path, tiny_trial, digits):
    sweep, folder = a_sweep(tmp_path / "two", Trial(id="mine", config=tiny_trial))
    others = replace(digits, test=replace(digits.test, rows=digits.test.rows + 1))
    assert reuse_finished(sweep, folder, others, [earlier[0]]) == []


def test_nor_where_another_version_trained_it(earlier, tmp_path, tiny_trial, digits, monkeypatch):
    sweep, folder = a_sweep(tmp_path / "two", Trial(id="mine", config=tiny_trial))
    monkeypatch.setattr("bat_core.__version__", "99")
    assert reuse_finished(sweep, folder, digits, [earlier[0]]) == []


def test_nor_a_sweep_that_is_kept_in_a_store(earlier, tmp_path, tiny_trial, digits):
    sweep, folder = a_sweep(tmp_path / "two", Trial(id="mine", config=tiny_trial))
    assert reuse_finished(sweep, replace(folder, store=object()), digits, [earlier[0]]) == []


def test_unfinished_trials_and_damaged_sweeps_are_passed_over(earlier, tmp_path, tiny_trial):
    place, _ = earlier
    a_sweep(tmp_path / "begun", Trial(id="x", config=tiny_trial))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "sweep.json").write_text(json.dumps({"no": "sweep"}))
    assert list(finished_trials([tmp_path])) == []
    assert [one.trial.id for one in finished_trials([tmp_path, place])] == ["first"]
    assert [one.trial.id for one in finished_trials([place / "one"])] == ["first"]


def test_a_trial_of_other_user_code_is_not(tmp_path, monkeypatch, make_trial, digits):
    config = make_trial(epochs=1, model="mine:net")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    source = "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    (tmp_path / "mine.py").write_text(source)
    trial = Trial(id="first", config=config)
    _, folder = a_sweep(tmp_path / "outputs" / "one", trial)
    run_trial(trial, digits, folder.trial(trial), TrialRuntime(device=torch.device("cpu")))
    folder.write_user_code(source_digests())
    second, other = a_sweep(tmp_path / "two", replace(trial, id="mine"))
    (tmp_path / "mine.py").write_text(source + "# another\n")
    assert reuse_finished(second, other, digits, [tmp_path / "outputs"]) == []
    (tmp_path / "mine.py").write_text(source)
    assert len(reuse_finished(second, other, digits, [tmp_path / "outputs"])) == 1
