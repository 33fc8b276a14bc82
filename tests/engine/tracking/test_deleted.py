"""Experiments and runs that somebody deleted in MLflow."""

from pathlib import Path

import pytest
import torch
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Resources, Sweep, Trial
from sweeps.engine.sweep.trial import TrialRuntime, run_trial
from sweeps.engine.tracking import location
from sweeps.engine.tracking.runs import PARENT, TRIAL_TAG, Runs
from sweeps.engine.tracking.sync import SweepSync
from tests.databases import blank_database


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(location, "restored", names)
    monkeypatch.setattr("sweeps.engine.tracking.runs.restored", names)
    return names


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return blank_database(tmp_path_factory.mktemp("database") / "tracking.db")


@pytest.fixture
def sweep(make_trial, digits, tmp_path: Path) -> tuple[Sweep, SweepFolder]:
    """A sweep of one trial that has finished training."""
    folder = SweepFolder(tmp_path / tmp_path.name)
    trials = (Trial(id="a", config=make_trial(epochs=1)),)
    sweep = Sweep(name="gone", command="", data_dir=None, pixel=5 / 255, resources=Resources(), trials=trials)
    folder.create(sweep)
    run_trial(trials[0], digits, folder.trial(trials[0]), TrialRuntime(device=torch.device("cpu")))
    return sweep, folder


def active(uri: str, sweep: Sweep) -> dict[str, str]:
    """The active runs of a sweep: trial and status."""
    client = MlflowClient(uri)
    experiments = [one.experiment_id for one in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`bat.sweep_id` = '{sweep.id}'")
    return {run.data.tags[TRIAL_TAG]: run.info.status for run in found}


@pytest.mark.parametrize("again", [False, True], ids=["while it runs", "on resume"])
def test_a_sweeps_deleted_experiment_is_restored_with_its_runs(uri, sweep, restored, again) -> None:
    syncing = SweepSync(*sweep, uri=uri)
    syncing.sync()
    before = active(uri, sweep[0])
    assert set(before) == {PARENT, "a"}
    client, title = MlflowClient(uri), sweep[1].title(sweep[0])
    client.delete_experiment(client.get_experiment_by_name(title).experiment_id)
    assert active(uri, sweep[0]) == {}
    (SweepSync(*sweep, uri=uri) if again else syncing).sync()
    assert active(uri, sweep[0]) == before
    assert restored == [title]
    assert location.restored_experiments() == f"MLflow: experiment {title!r} had been deleted there, and is restored"


def test_a_deleted_run_of_a_trial_is_made_anew(uri, sweep, restored) -> None:
    SweepSync(*sweep, uri=uri).sync()
    client = MlflowClient(uri)
    run = Runs(uri).find_trial(sweep[0].id, "a")
    assert run is not None
    client.delete_run(run.info.run_id)
    assert set(active(uri, sweep[0])) == {PARENT}
    SweepSync(*sweep, uri=uri).sync()
    assert active(uri, sweep[0]) == {PARENT: "RUNNING", "a": "FINISHED"}
    assert restored == []


def test_the_experiment_of_all_evaluations_is_restored(uri, restored) -> None:
    runs = Runs(uri)
    first = runs.find_or_make("evaluations", "a", {"bat.x": "1"}, "")
    runs.client.delete_experiment(first.info.experiment_id)
    second = runs.find_or_make("evaluations", "b", {"bat.x": "2"}, "")
    assert second.info.experiment_id == first.info.experiment_id
    assert restored == ["evaluations"]
    assert len(runs.client.search_runs([first.info.experiment_id], run_view_type=ViewType.ACTIVE_ONLY)) == 2


def test_the_deleted_run_that_a_model_belongs_to_is_restored(uri) -> None:
    runs = Runs(uri)
    run = runs.find_or_make("mine", "a", {"bat.x": "1"}, "")
    runs.client.delete_run(run.info.run_id)
    runs.restore_run(run)
    runs.log_metrics(run.info.run_id, {"robust_acc": 0.5}, at=0)
    assert runs.get(run.info.run_id).data.metrics == {"robust_acc": 0.5}


def test_a_script_with_blanks_in_its_path_is_the_source() -> None:
    from sweeps.engine.tracking.runs import MLFLOW_SOURCE_NAME, source_tags

    assert source_tags("python '/a b/sweeps/search.py' --x")[MLFLOW_SOURCE_NAME] == "/a b/sweeps/search.py"
