from pathlib import Path

import torch
from mlflow.tracking import MlflowClient

from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Resources, Sweep, Trial
from sweeps.engine.sweep.trial import TrialRuntime, run_trial
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
