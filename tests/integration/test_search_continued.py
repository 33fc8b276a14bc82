"""Stopped trials of a search that has time left continue, also after the search was killed as one of them did."""

import optuna
import pytest
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from sweeps.engine.sweep.records import read_events
from tests.integration.running import Place, kill_tree_when

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TINY = ("--epochs", "3", "--train-size", "200", "--val-size", "40", "--test-size", "20", "--model", "small_cnn_8")
COUNT = 5


def test_with_time_left_every_stopped_trial_continues_from_its_checkpoint(tmp_path) -> None:
    place = Place(tmp_path)
    output = place.sweep("out")
    process = place.start(
        "search.py", *TINY, "--num-trials", str(COUNT), "--grace", "1", "--max-hours", "5", "--output", "out"
    )

    def continues() -> bool:
        return any(status.attempts == 2 and status.phase == "training" for status in output.statuses().values())

    kill_tree_when(process, continues)
    code, printed = place.run("search.py", "--resume", "out")
    assert code == 0, printed
    statuses = output.statuses()
    assert len(statuses) == COUNT
    assert not [name for name, status in statuses.items() if status.phase != "finished" and status.bound is None]
    assert all([epoch["epoch"] for epoch in status.epochs] == [1, 2, 3] for status in statuses.values())
    stopped = {name: _starts_after_halving(output, name) for name in statuses}
    assert any(stopped.values()), "successive halving stopped nothing: the search is too small to test it"
    assert all(at >= 1 for starts in stopped.values() for at in starts), "none began anew"

    journal = JournalStorage(JournalFileBackend(str(output.folder.path / "study.journal")))
    (name,) = optuna.get_all_study_names(journal)
    last = {one.user_attrs["trial"]: one.state for one in optuna.load_study(study_name=name, storage=journal).trials}
    states = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    assert last == {name: states[status.phase] for name, status in statuses.items()}

    client = MlflowClient(place.uri)
    experiment = client.get_experiment_by_name("search-out")
    found = client.search_runs([experiment.experiment_id])
    runs = {run.info.run_name: run for run in found}
    assert len(found) == COUNT + 1
    for name, status in statuses.items():
        assert runs[name].info.status == "FINISHED"
        assert ("bat.reason" in runs[name].data.tags) == (status.phase == "stopped")
        state = "finished" if status.phase == "finished" else "not verified: it cannot enter the front"
        assert runs[name].data.tags["bat.state"] == state
        steps = [one.step for one in client.get_metric_history(runs[name].info.run_id, "train/loss")]
        assert steps == [1, 2, 3]

    again = place.again("search.py", "--resume", "out")
    assert again[0] == 0, again[1]
    assert output.statuses() == statuses


def _starts_after_halving(output, name: str) -> list[int]:
    """The epochs from which a trial went on after successive halving had stopped it."""
    events = read_events(output.folder.path / "trials" / name)
    halved = [at for at, event in enumerate(events) if "successive halving" in event.get("reason", "")]
    return [event["from_epoch"] for event in events[halved[0] :] if event["event"] == "start"] if halved else []
