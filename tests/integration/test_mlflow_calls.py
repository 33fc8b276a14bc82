"""How often a tracking server is asked: few requests a trial, one an epoch, and next to none if nothing is new."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bat_core.data import Dataset
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import RECORD
from sweeps.engine.sweep.spec import Report, Resources, Sweep, Trial
from sweeps.engine.sweep.trial import TrialRuntime, run_trial
from sweeps.engine.tracking import runs
from sweeps.engine.tracking.runs import TRIAL_TAG
from sweeps.engine.tracking.sync import SweepSync
from tests.integration.servers import Proxy, Server

TRIALS = 6
MOST_CALLS = 20  # of one trial
MOST_OF_SWEEP = 20  # its experiment, its own run, its report, and a candidate in the registry
PARENTS = 3  # calls of a sync that finds nothing new, besides one per page of runs: the experiment's, and the parent's


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server).running() as proxy:
        yield proxy


@pytest.fixture
def sweep(make_trial, digits: Dataset, tmp_path: Path) -> tuple[Sweep, SweepFolder]:
    """Trials that have finished, of which one was trained and the others are its copies; and a report."""
    config = make_trial(epochs=2)
    trials = tuple(Trial(id=f"t{at}", config=replace(config, seed=at)) for at in range(TRIALS))
    folder = SweepFolder(tmp_path / tmp_path.name)
    sweep = Sweep(name="calls", command="", data_dir=None, pixel=5 / 255, resources=Resources(), trials=trials)
    folder.create(sweep)
    run_trial(trials[0], digits, folder.trial(trials[0]), TrialRuntime(device=torch.device("cpu")))
    for trial in trials[1:]:
        shutil.copytree(folder.trial(trials[0]), folder.trial(trial))
    (folder.path / "figure.csv").write_text("x,y\n")
    folder.write_report(Report(files=("figure.csv",), sentence="All is well."))
    return sweep, folder


def paths(proxy: Proxy) -> list[str]:
    return [path for path, _ in proxy.calls]


def batches(proxy: Proxy) -> list[dict[str, list[dict[str, object]]]]:
    return [json.loads(body) for path, body in proxy.calls if path.endswith("runs/log-batch")]


def test_a_finished_trial_costs_few_calls_and_no_history_is_read(sweep, proxy: Proxy) -> None:
    SweepSync(*sweep, uri=proxy.uri).sync()
    assert not [path for path in paths(proxy) if "get-history" in path]
    assert len(proxy.calls) <= TRIALS * MOST_CALLS + MOST_OF_SWEEP
    assert len(batches(proxy)) == TRIALS + 1  # and the report's


@pytest.mark.parametrize("page", [1, 2, 100])
def test_another_process_that_finds_nothing_new_asks_once_for_a_page_of_runs(
    sweep, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    SweepSync(*sweep, uri=proxy.uri).sync()
    proxy.calls.clear()
    monkeypatch.setattr(runs, "PAGE", page)
    again = SweepSync(*sweep, uri=proxy.uri)
    again.sync()
    searches = [path for path in paths(proxy) if path.endswith("runs/search")]
    assert len(searches) <= (TRIALS + 1) // page + 1
    assert len(proxy.calls) - len(searches) <= PARENTS, paths(proxy)
    proxy.calls.clear()
    again.sync()
    assert len(proxy.calls) == 1  # whether the parent is still there


def test_an_epoch_is_one_batch_of_its_own_values(sweep, proxy: Proxy) -> None:
    folder = sweep[1]
    records = [folder.trial(trial) / RECORD for trial in sweep[0].trials]
    lines = records[0].read_bytes().splitlines(keepends=True)
    epochs = [at for at, line in enumerate(lines) if b'"event": "epoch"' in line]
    for record in records[1:]:
        record.unlink()
    records[0].write_bytes(b"".join(lines[: epochs[0] + 1]))
    syncing = SweepSync(*sweep, uri=proxy.uri)
    syncing.sync()
    proxy.calls.clear()
    with records[0].open("ab") as file:
        file.write(lines[epochs[1]])
    syncing.sync()
    (batch,) = batches(proxy)
    assert {metric["step"] for metric in batch["metrics"]} == {2}
    assert "params" not in batch
    assert len(proxy.calls) == 2  # the batch, and whether the parent is still there
    proxy.calls.clear()
    with records[0].open("ab") as file:
        file.write(json.dumps({"event": "attack", "time": 1e9, "done": 1, "of": 2}).encode() + b"\n")
    syncing.sync()
    assert len(batches(proxy)) <= 1  # the phase
    proxy.calls.clear()
    with records[0].open("ab") as file:
        file.write(json.dumps({"event": "attack", "time": 1e9, "done": 2, "of": 2}).encode() + b"\n")
    syncing.sync()
    assert len(proxy.calls) == 1  # how far an attack has come is not logged


def test_another_process_sends_the_epochs_that_the_first_did_not(sweep, proxy: Proxy) -> None:
    folder = sweep[1]
    home = folder.trial(sweep[0].trials[0])
    whole = (home / RECORD).read_bytes()
    lines = whole.splitlines(keepends=True)
    first = next(at for at, line in enumerate(lines) if b'"event": "epoch"' in line)
    (home / RECORD).write_bytes(b"".join(lines[: first + 1]))
    SweepSync(*sweep, uri=proxy.uri).sync()
    (home / RECORD).write_bytes(whole)
    proxy.calls.clear()
    SweepSync(*sweep, uri=proxy.uri).sync()
    names = ("train/loss", "val/clean_acc")
    trials = [batch for batch in batches(proxy) if batch.get("metrics")]
    assert {metric["step"] for batch in trials for metric in batch["metrics"] if metric["key"] in names} == {2}


def test_behind_a_slow_server_several_trials_are_mirrored_at_once(sweep, proxy: Proxy) -> None:
    proxy.spoil("slow", delay=0.2)
    syncing = SweepSync(*sweep, uri=proxy.uri)
    syncing.sync()
    assert proxy.most >= TRIALS - 1
    client = syncing.runs.client
    experiment = client.get_experiment_by_name(sweep[1].title(sweep[0]))
    found = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags[TRIAL_TAG] for run in found) == ["(parent)", *(f"t{at}" for at in range(TRIALS))]
    assert {run.info.status for run in found} == {"FINISHED"}
    assert all(len(run.outputs.model_outputs) == 1 for run in found if run.data.tags[TRIAL_TAG] != "(parent)")


def test_headline_accuracies_are_the_models_too(sweep, proxy: Proxy) -> None:
    syncing = SweepSync(*sweep, uri=proxy.uri)
    syncing.sync()
    run = syncing.runs.find_trial(sweep[0].id, "t0")
    assert run is not None
    model = syncing.runs.client.get_logged_model(run.outputs.model_outputs[0].model_id)
    headline = {metric.key: metric.value for metric in model.metrics}
    assert headline == {name: run.data.metrics[name] for name in ("clean_acc", "pgd_acc", "robust_acc_not_verified")}
