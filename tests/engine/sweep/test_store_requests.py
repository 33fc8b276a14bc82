"""How often a store is asked: few requests an epoch, a record and no more of a finished trial, nothing twice."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from bat_core.workers import Workers
from sweeps.engine.storage.object_store import Storage
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import RECORD, VERDICTS, read_status
from sweeps.engine.sweep.remote import DriverLease, hold_lease
from sweeps.engine.sweep.spec import Resources, Sweep, Trial
from sweeps.engine.sweep.trial import TrialRuntime, trial_epochs
from sweeps.engine.sweep.trial_sync import StoreTrialSync

QUIET = Console(quiet=True)
FINISHED = 20  # trials


@pytest.fixture
def requests(s3, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Method and key of every request."""
    seen: list[tuple[str, str]] = []
    server = s3._server._server
    answer = server.app

    def counting(environ, start):
        seen.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        return answer(environ, start)

    monkeypatch.setattr(server, "app", counting)
    return seen


@pytest.fixture
def store(s3, tmp_path: Path) -> Storage:
    return Storage.at(s3.uri(tmp_path.name))


@pytest.fixture
def running(store: Storage, make_trial, digits, tmp_path: Path) -> Iterator[dict[str, float]]:
    """A trial on a node, an epoch at a time."""
    driver = DriverLease()
    driver.renew(store)
    trial = Trial(id="one", config=make_trial(epochs=4))
    sync = StoreTrialSync(store, trial.id, tmp_path / "node", driver=driver.token)
    runtime = TrialRuntime(device=torch.device("cpu"), workers=Workers(), sync=sync)
    return trial_epochs(trial, digits, tmp_path / "node", runtime)


def test_an_epoch_costs_three_requests(running, requests: list[tuple[str, str]]) -> None:
    next(running), next(running)
    requests.clear()
    next(running)
    assert [method for method, _ in requests] == ["GET", "PUT", "PUT"], requests
    _, checkpoint, record = (key for _, key in requests)
    assert "/checkpoints/" in checkpoint
    assert record.endswith(RECORD)


@pytest.fixture
def swept(store: Storage, make_trial, tmp_path: Path) -> tuple[Sweep, SweepFolder]:
    """A sweep in the store, whose trials have all finished, and a folder on another disk."""
    config = make_trial()
    trials = tuple(Trial(id=f"t{at}", config=replace(config, seed=at)) for at in range(FINISHED))
    sweep = Sweep(
        name="s", command="", data_dir=None, pixel=1 / 255, resources=Resources(), trials=trials, storage=store.uri
    )
    folder = SweepFolder(tmp_path / "driver", store)
    folder.create(sweep)
    for trial in trials:
        place = f"trials/{trial.id}/attempt-0001-0123abcd"
        store.write('{"event": "start", "time": 1}\n{"event": "finished", "time": 2}\n', f"{place}/{RECORD}")
        for name in (VERDICTS, "model/model.safetensors", "model/checksums.json"):
            store.write(name, f"{place}/{name}")
    return sweep, folder


def test_resuming_asks_for_the_records_of_finished_trials_and_no_more(swept, requests: list[tuple[str, str]]) -> None:
    sweep, folder = swept
    requests.clear()
    with hold_lease(folder, QUIET):
        assert {status.phase for _, status in folder.statuses(sweep)} == {"finished"}
        of_trials = [key for _, key in requests if "/trials/" in key]
        assert len(of_trials) <= 3 * FINISHED
        assert {key.rpartition("/")[2] for key in of_trials} == {RECORD}
        assert len(requests) - len(of_trials) <= 10  # the lease, and one listing per thousand files


def test_no_model_is_fetched_twice(swept, requests: list[tuple[str, str]]) -> None:
    sweep, folder = swept
    folder.fetch_results(sweep.trials)
    assert all((folder.trial(trial) / "model" / "model.safetensors").exists() for trial in sweep.trials)
    requests.clear()
    folder.fetch_results(sweep.trials)
    assert requests == []
    for trial in sweep.trials:
        folder.refresh(trial)
    assert {key.rpartition("/")[2] for method, key in requests if "/trials/" in key} == {RECORD}
    assert read_status(folder.trial(sweep.trials[0])).phase == "finished"


def test_records_are_fetched_several_at_once(swept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits for another one that is being fetched."""
    import threading

    sweep, folder = swept
    meeting = threading.Barrier(2, timeout=60)
    pull = Storage.pull
    monkeypatch.setattr(Storage, "pull", lambda self, key, target: (meeting.wait(), pull(self, key, target)))
    with hold_lease(folder, QUIET):
        assert {status.phase for _, status in folder.statuses(sweep)} == {"finished"}
