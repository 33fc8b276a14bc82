from pathlib import Path

import torch
from mlflow.tracking import MlflowClient

from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Resources, Sweep, Trial
from sweeps.engine.sweep.trial import TrialRuntime, run_trial
from sweeps.engine.tracking.finished import finished_runs
from sweeps.engine.tracking.runs import NAMES_TAG, Runs
from sweeps.engine.tracking.sync import SweepSync
from tests.databases import blank_database


def test_a_sweep_read_back_from_its_folder_has_the_settings_that_it_had(make_trial, digits, tmp_path: Path) -> None:
    """JSON's numbers come back as floats, and MLflow takes no second value for a parameter."""
    config = make_trial("TRADES", params={"eps": 40 / 255, "num_steps": 2, "weight": 6.0}, epochs=1)
    folder, uri = SweepFolder(tmp_path / "sweep"), blank_database(tmp_path / "tracking.db")
    trials = [Trial(id="trades", config=config)]
    sweep = Sweep(name="again", command="", data_dir=None, pixel=5 / 255, resources=Resources(), trials=tuple(trials))
    folder.create(sweep)
    run_trial(trials[0], digits, folder.trial(trials[0]), TrialRuntime(device=torch.device("cpu")))
    for seen in (sweep, folder.load()):
        SweepSync(seen, folder, uri=uri).sync()
    client = MlflowClient(uri)
    (experiment,) = (one for one in client.search_experiments() if one.name.startswith("again"))
    (run,) = client.search_runs([experiment.experiment_id], "tags.`bat.trial_id` = 'trades'")
    params = run.data.params
    assert (params["recipe.num_steps"], params["recipe.weight"]) == ("2", "6")
    assert params["budget"] == "40/255 (8 px)"
    (entry,) = [one for one in finished_runs(uri) if one.model == "trades"]
    assert (entry.dataset, entry.split, entry.recipe, entry.eps_pixels) == ("digits", "test", "TRADES", 8.0)
    assert entry.robust_acc == run.data.metrics["robust_acc_not_verified"]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"curves.png", "verdicts.parquet"}


def test_a_sweep_of_an_earlier_version_is_mirrored_anew_and_its_runs_are_kept(make_trial, digits, tmp_path: Path):
    folder, uri = SweepFolder(tmp_path / "old"), f"sqlite:///{tmp_path / 'tracking.db'}"
    trial = Trial(id="a", config=make_trial(epochs=1))
    sweep = Sweep(name="old", command="", data_dir=None, pixel=5 / 255, resources=Resources(), trials=(trial,))
    folder.create(sweep)
    run_trial(trial, digits, folder.trial(trial), TrialRuntime(device=torch.device("cpu")))
    SweepSync(sweep, folder, uri=uri).sync()
    client = MlflowClient(uri)
    before = client.get_experiment_by_name("old")
    client.set_experiment_tag(before.experiment_id, NAMES_TAG, "1")
    (kept,) = client.search_runs([before.experiment_id], "tags.`bat.trial_id` = 'a'")
    SweepSync(sweep, folder, uri=uri).sync()
    assert client.get_experiment(before.experiment_id).name == "old (earlier names)"
    assert client.get_run(kept.info.run_id).info.lifecycle_stage == "active"
    found = Runs(uri).find_trial(sweep.id, "a")
    assert found is not None
    assert found.info.experiment_id == client.get_experiment_by_name("old").experiment_id != before.experiment_id
