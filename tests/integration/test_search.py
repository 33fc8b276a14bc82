"""A search as a person runs it: killed, gone on with, with pictures and MLflow; and what a bad trial does to it."""

import json
import socket
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple

import optuna
import psutil
import pytest
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from sweeps.engine.search.snapshot import Snapshot
from sweeps.engine.search.spec import Search
from sweeps.engine.sweep.records import TrialStatus
from tests.integration.running import Output, Place, kill_tree_when

pytestmark = pytest.mark.ray

TINY = ("--epochs", "3", "--train-size", "200", "--val-size", "40", "--test-size", "20", "--model", "small_cnn_8")
COUNT = 6
PICTURES = {"report.md", "search.html", "pareto.png", "progress.png"}


class Killed(NamedTuple):
    place: Place
    output: Output
    before: dict[str, TrialStatus]
    points: dict[str, dict]
    code: int
    printed: str

    def study(self) -> optuna.Study:
        """As anybody who has Optuna opens it."""
        storage = JournalStorage(JournalFileBackend(str(self.output.folder.path / "study.journal")))
        (name,) = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=name, storage=storage)


def points(output: Output) -> dict[str, dict]:
    return {trial.id: dict(trial.point) for trial in output.folder.trials(output.spec)}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """A search that was killed with one trial over and another under way, and gone on with."""
    place = Place(tmp_path_factory.mktemp("search"))
    output = place.sweep("out")
    process = place.start("search.py", *TINY, "--num-trials", str(COUNT), "--grace", "1", "--output", "out")

    def under_way() -> bool:
        phases = [status.phase for status in output.statuses().values()]
        return bool({"finished", "stopped"} & set(phases)) and "training" in phases

    kill_tree_when(process, under_way)
    before, known = output.statuses(), points(output)
    code, printed = place.run("search.py", "--resume", "out")
    return Killed(place, output, before, known, code, printed)


def test_a_killed_search_completes_exactly_the_trials_asked_for(killed: Killed) -> None:
    assert killed.code == 0, killed.printed
    statuses = killed.output.statuses()
    assert len(statuses) == COUNT
    assert {status.phase for status in statuses.values()} <= {"finished", "stopped"}
    over = {trial for trial, status in killed.before.items() if status.done}
    assert over
    assert {trial: statuses[trial] for trial in over} == {trial: killed.before[trial] for trial in over}
    assert any(statuses[trial].attempts == 2 for trial in set(killed.before) - over)


def test_no_point_is_proposed_twice(killed: Killed) -> None:
    now = points(killed.output)
    assert killed.points.items() <= now.items()
    assert len({json.dumps(point, sort_keys=True) for point in now.values()}) == COUNT


def test_the_study_says_what_the_records_say(killed: Killed) -> None:
    statuses = killed.output.statuses()
    states = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    told = {t.user_attrs["trial"]: t for t in killed.study().trials if "trial" in t.user_attrs}
    assert {name: trial.state for name, trial in told.items()} == {
        name: states[status.phase] for name, status in statuses.items()
    }
    assert all(trial.state.is_finished() for trial in killed.study().trials)
    for name, status in statuses.items():
        if status.result:
            assert told[name].values == [status.result["clean_acc"], status.result["robust_acc"]]


def test_what_was_stopped_is_no_finished_trial(killed: Killed) -> None:
    stopped = {name: status for name, status in killed.output.statuses().items() if status.phase == "stopped"}
    halved = {name: status for name, status in stopped.items() if status.bound is None}
    assert halved, "successive halving stopped nothing: the search is too small to test it"
    for status in halved.values():
        assert len(status.epochs) < 3
        assert status.reason.startswith(f"successive halving at epoch {len(status.epochs)}")
    for name in stopped:
        assert not (killed.output.folder.path / "trials" / name / "model").exists()
    folder, search = killed.output.folder, json.loads(killed.output.file("search.json"))
    assert search["num_trials"] == COUNT
    snapshot = Snapshot.of(killed.output.spec, Search.read(folder), folder)
    assert not {one.id for one in snapshot.finished} & set(stopped)
    assert {one.id for one in snapshot.front} <= {one.id for one in snapshot.finished}


def test_trials_are_judged_on_validation_images(killed: Killed) -> None:
    for status in killed.output.statuses().values():
        if status.result:
            assert (status.result["split"], status.result["n"], status.result["robust_n"]) == ("val", 40, 40)
            doubt = ", not verified: masked" if status.result["verdict"] == "masked" else ""
            assert status.result["suite"] == "PGD-20+fast" + doubt


def test_mlflow_shows_one_run_a_trial_and_the_pictures(killed: Killed) -> None:
    client = MlflowClient(killed.place.uri)
    experiment = client.get_experiment_by_name("search-out")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(client.search_runs([experiment.experiment_id])) == COUNT + 1
    for name, status in killed.output.statuses().items():
        assert runs[name].info.status == "FINISHED"  # one that was stopped early has not failed
        assert ("bat.reason" in runs[name].data.tags) == (status.phase == "stopped")
    parent = runs["out"]
    assert parent.info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} >= PICTURES
    assert "The front has" in killed.printed.replace("\n", " ")
    assert "The front has" in parent.data.tags["mlflow.note.content"]


def test_what_was_printed_names_the_files(killed: Killed) -> None:
    for name in PICTURES:
        assert f"out/{name}" in killed.printed
        assert (killed.output.folder.path / name).stat().st_size > 0
    assert "Traceback" not in killed.printed
    assert "Warning" not in killed.printed


def test_gone_on_with_again_it_runs_nothing(killed: Killed) -> None:
    before = killed.output.statuses()
    code, printed = killed.place.again("search.py", "--resume", "out")
    assert code == 0, printed
    assert killed.output.statuses() == before


def test_optuna_dashboard_opens_the_study(killed: Killed) -> None:
    port = free_port()
    dashboard = Path(sys.executable).with_name("optuna-dashboard")
    process = psutil.Popen([dashboard, "out/study.journal", "--port", str(port)], cwd=killed.place.path)
    try:
        shown = wait_for(f"http://127.0.0.1:{port}/api/studies", process)
    finally:
        process.kill()
        process.wait()
    (study,) = json.loads(shown)["study_summaries"]
    assert study["directions"] == ["maximize", "maximize"]


def free_port() -> int:
    with socket.socket() as query:
        query.bind(("127.0.0.1", 0))
        return int(query.getsockname()[1])


def wait_for(url: str, process: psutil.Popen) -> bytes:
    """What a server answers, as soon as it does."""
    while True:
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url) as answer:
                return answer.read()
        except OSError:
            pass


@pytest.mark.slow
def test_it_may_be_given_more_trials(killed: Killed) -> None:
    code, printed = killed.place.run("search.py", "--resume", "out", "--num-trials", str(COUNT + 1))
    assert code == 0, printed
    assert len(killed.output.statuses()) == COUNT + 1


@pytest.mark.slow
def test_a_trial_that_diverges_fails_with_its_reason_and_the_search_goes_on(tmp_path) -> None:
    place = Place(tmp_path)
    lr = ("--space", "bat", "schedule", "--set", "lr=1e30", "epochs=3")
    code, printed = place.run("search.py", *TINY, *lr, "--num-trials", "2", "--output", "out")
    statuses = place.sweep("out").statuses()
    assert code == 1, printed
    assert [status.phase for status in statuses.values()] == ["failed", "failed"]
    assert all("FloatingPointError: the training loss is" in status.reason for status in statuses.values())
    states = [trial.state for trial in Killed(place, place.sweep("out"), {}, {}, 0, "").study().trials]
    assert states == [TrialState.FAIL, TrialState.FAIL]
    assert "No trial has finished" in printed
